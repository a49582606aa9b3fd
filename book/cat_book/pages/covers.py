"""What pages begin and end with: something to move, an answer in short, and one closed box on how the page was made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cat_book.drawing.banner import folded
from cat_book.drawing.calculator import calculator as cost_calculator
from cat_book.drawing.headlines import Runs, headlines_explorer
from cat_book.drawing.markup import escape, threshold_text
from cat_book.drawing.questions import Question, drawn, questions_explorer, short
from cat_book.drawing.tables import Table
from cat_book.drawing.tiles import Answer, Tile, tiles
from cat_book.pages.claims_report import rules_text
from cat_book.pages.parameters import declared
from cat_book.pages.pieces import by_label, in_points, nothing, pair_name
from cat_book.pages.results import Provenance
from cat_core.analysis.claims import INCONCLUSIVE, NO_EFFECT, NOT_TESTABLE, OPPOSITE, SUPPORTED
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.operating_points import OperatingPoint
from cat_core.analysis.outcomes import Pairing
from cat_core.analysis.quantities import Undefined, show_number, true_minus
from cat_core.analysis.saving import SIZES, primary_rule
from cat_core.analysis.verdicts import AT_SIZE, CLAIMS, Entry, verdict_of
from cat_core.methods import METHODS, name, rule_name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell
from cat_core.tasks.suite import Suite

QUESTIONS = {
    "C1": "Does CAT save cost at equal quality on questions (SuperGLUE)?",
    "C2": "Does it on translation (WMT22)?",
    "C3": "Does it on a mixture of tasks (FLAN2021)?",
    "C8": "And over these three together?",
    "C4": "Are the methods alike on generative tasks?",
    "C5": "Is S by CAT better by itself on easy tasks?",
    "C6": "Is it worse by itself on hard tasks?",
    "C7": "Does CAT's cascade beat other rules of deferral?",
    "C9": "Does CAT help in pre-training on running text?",
    "C10": "Does the effect grow with the share of tokens that the mask drops (ours)?",
}
"""The claims as questions, to which "supported" is yes."""
ANSWERS = {
    AT_SIZE: ("\u2713", "yes, and as much as the paper says may be"), SUPPORTED: ("\u2713", "yes"),
    OPPOSITE: ("\u2717", "no, rather the contrary"), NO_EFFECT: ("\u2248", "no effect worth having"),
    INCONCLUSIVE: ("?", "cannot be told"), NOT_TESTABLE: ("\u2013", "could not be tested"),
}  # fmt: skip
SPACE = "\u00a0"
RIGHT = {True: "\u2713", False: "\u2717"}
HELP = re.compile(r"^(\w+): \w+ = .*?  # (.*)$", re.MULTILINE)
BY_HAND = "run by hand"


class Fragment:
    """HTML of our own, that a notebook shows; elsewhere `text`."""

    def __init__(self, markup: str, text: str):
        self.markup, self.text = markup, text

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def questions(c: Comparison, suite: Suite, page: str, start: float = 0.3) -> Fragment | Table:
    """Some two hundred test items as dots with a line to move (`questions_explorer`); S by the first method, seed."""
    method, seed = c.methods[0], c.seeds[0]
    rows = c.pairing(method, seed, rule=primary_rule(c))
    prompts = {e.item_id: e.prompt for e in suite.split("test")}
    if rows.small_predictions is None or (rows.small_flops != rows.small_flops).any() or None in rows.targets:
        return nothing("Questions, one threshold", "The texts of the items, or the costs of the models, are not known.")
    items = [
        Question(
            prompts[rows.item_ids[i]], rows.targets[i], rows.small_predictions[i], rows.large_predictions[i],
            bool(rows.small_quality[i] >= c.right_at), bool(rows.large_quality[i] >= c.right_at),
            float(rows.confidence[i]), float(rows.small_flops[i]), float(rows.large_flops[i]),
        )
        for i in drawn(len(rows))
    ]  # fmt: skip
    text = f"{len(items)} questions, one threshold"
    fragment = questions_explorer(items, name=f"questions-{page}", title=text, start=start)
    told = f"{text}: test items of {suite.name}, S by {name(method)}, seed {seed}, {rule_name(rows.rule).lower()}"
    return Fragment(fragment, told)


def least_sure(rows: Pairing, suite: Suite, tau: float, most: int = 10) -> Table:
    """The test items that S is least sure of, with the answers of both models; tau: at or below it L answers."""
    prompts = {e.item_id: e.prompt for e in suite.split("test")}
    shown = []
    for i in np.argsort(rows.confidence, kind="stable")[:most]:
        both = ((rows.small_predictions[i], rows.small_quality[i]), (rows.large_predictions[i], rows.large_quality[i]))
        answers = (f"{short(text) or '(nothing)'} {RIGHT[bool(quality >= 0.5)]}" for text, quality in both)
        who = "L" if rows.confidence[i] <= tau else "S"
        texts = (short(prompts[rows.item_ids[i]]), *answers, short(" / ".join(rows.right_answers[i])))
        shown.append((true_minus(threshold_text(float(rows.confidence[i]))), *texts, who))
    columns = ("Confidence", "Query", "S says", "L says", "Right", "answers")
    return Table(columns, shown, f"The {len(shown)} test items that S is least sure of")


def own_in_short(c: Comparison, point: OperatingPoint, rule: str, calibrated_on: int) -> dict[str, float | str]:
    """What one threshold gave, in two sentences ("in_short"), and the numbers in them, quality on 0 to 100."""
    small, large = (c.scale * x.estimate for x in (c.alone(c.methods[0]), c.large_alone()))
    found = {"s_alone": small, "l_alone": large, "together": c.scale * point.quality.estimate,
             "deferred": 100 * point.deferral_rate.estimate}  # fmt: skip
    spent = ""
    if not isinstance(point.saving, Undefined):
        found["saved"] = 100 * point.saving.estimate
        way = "below" if found["saved"] >= 0 else "above"
        spent = f", at a cost that is {abs(found['saved']):.1f}{SPACE}% {way} L's"
    text = (
        f"With a threshold chosen on {calibrated_on:,} items by {rule_name(rule).lower()}, the cascade sends "
        f"{found['deferred']:.1f}{SPACE}% of {c.n:,} other items to L and reaches {found['together']:.1f} ({c.label}), "
        f"where S alone has {small:.1f} and L alone {large:.1f}{spent}."
    )
    return {"in_short": text} | {key: float(x) for key, x in found.items()}


def headlines(cells: Sequence[Cell], page: str) -> Fragment | Table:
    """Seeds of recorded cells to be drawn one by one (`headlines_explorer`): AUDC, CAT less the same loss unmasked."""
    runs, title = [], "Would you have published it?"
    for (label, m), cell in zip(by_label(cells).items(), cells, strict=True):
        for a, b in (("cat-xent", "xent"), ("cat-dist", "dist")):
            if {a, b} <= set(m.audc_by_seed) and isinstance(mean := m.difference(a, b), Interval):
                single = m.scale * np.subtract(m.audc_by_seed[a], m.audc_by_seed[b])
                one = Runs(label, pair_name(a, b), cell.seeds, single, in_points(mean, m.scale))
                runs += [one] if len(single) > 1 else []
    if not runs:
        return nothing(title)
    fragment = headlines_explorer(runs, name=f"headlines-{page}", title=title)
    return Fragment(fragment, f"{title} {len(runs)} cells and pairs to draw from")


def verdict_tiles(entries: Sequence[Entry]) -> Fragment:
    """The verdicts on all claims as tiles: question, intervals, one sentence a family; the rules folded."""
    shown = []
    for claim, question in QUESTIONS.items():
        verdict, turned = verdict_of(claim, entries), any(e.claim == claim and e.direction < 0 for e in entries)
        answers, saved = [], CLAIMS[claim][1] in ("saving", "size")
        for family, found in verdict.findings.items():
            sign, said = ANSWERS[found.word]
            if found.pooled is None:
                number, said = None, f"{said} ({found.reason.split('; ')[0]})"
            else:
                number = in_points(found.pooled.number, found.unit.scale)
                said += f", {show_number(found.pooled.number, found.unit)}" + ", turned round" * turned
                if (new := found.afterwards) is not None:
                    said += f"; recorded after the rules: {show_number(new.number, found.unit)}"
            method = next((key for key in METHODS if name(key) == family), "")
            text = f"{family}: {said}." if family else f"{said[0].upper()}{said[1:]}."
            answers.append(Answer(sign, text, number, method))
        which = {"exploratory": "its", "partly exploratory": "some of its"}.get(verdict.exploratory)
        note = f"{verdict.exploratory}: {which} cells were recorded before the rules" if which else ""
        reach, mark = (50.0, 100 * SIZES[0]) if saved else (10.0, None)
        shown.append(Tile(claim, question, answers, reach, f"{SPACE}%" if saved else "", mark, note=note))
    title = "What came of the claims"
    words = "; ".join(f"{tile.name}: {' '.join(a.text for a in tile.answers)}" for tile in shown)
    return Fragment(tiles(shown, title=title, rules=f"{READ} {rules_text()}"), f"{title}. {words}")


READ = (
    f"Line: the pooled effect with its 95{SPACE}% interval, savings in percent of a cascade's cost, others in points; "
    f"dotted: the paper's {100 * SIZES[0]:.0f}{SPACE}%, second hand."
)


def calculator() -> Fragment:
    """What a cascade costs, and when it pays, with sliders (`drawing.calculator`)."""
    return Fragment(cost_calculator(), "What a cascade costs, and when it pays: sliders in the built page")


def trade_off(c: Comparison, rate: float = 0.3) -> dict[str, float | str]:
    """What S, L and a cascade that asks L about the share `rate` give on the test items; S by the first method, mean
    over seeds. "in_short": two sentences; and the numbers in them, quality on 0 to 100."""
    method, rule, unit = c.methods[0], primary_rule(c), "\u00a0%" if c.scale == 100 else ""
    quality, cost = c.scale * c.curve(method, rule).quality, c.cost(method, rule)
    n = len(quality) - 1
    at = round(rate * n)
    chance = quality[0] + at / n * (quality[-1] - quality[0])
    found = {"s_alone": quality[0], "l_alone": quality[-1], "together": quality[at], "at_random": chance}
    small, large, got, drawn = (f"{x:.1f}{unit}" for x in found.values())
    spent = "" if isinstance(cost, Undefined) else f", for {100 * cost[at] / c.large_flops:.0f}\u00a0% of the cost of L"
    text = (
        f"On {c.n:,} test items S alone reaches {small}, L alone {large}. Where L is asked about the "
        f"{100 * rate:.0f}\u00a0% that S is least sure of, the two together reach {got}{spent}; asked about as many at "
        f"random, {drawn}."
    )
    return {"in_short": text} | {key: float(x) for key, x in found.items()}


def closing(namespace: Mapping[str, object], page: str, seconds: float, origin: Provenance) -> Fragment:
    """One closed line: of which edition, seeds and minutes the page is; in it every parameter, and how to change it.

    namespace: the page's `globals()`, in which IPython keeps the source of its cells; seconds: what the run took.
    """
    sources = [str(source) for source in namespace.get("In", ())]
    kinds, told = declared(sources), {k: v for source in sources for k, v in HELP.findall(source)}
    rows = [(key, repr(namespace[key]), told.get(key, "")) for key in kinds if key in namespace]
    seeds = namespace.get("seeds", [])
    parts = [f"edition {namespace['edition']}" if namespace.get("edition") else BY_HAND]
    parts += [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"] if seeds else []
    parts += [f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"]
    line = f"This page: {', '.join(parts)}. How it was made, and how to change it"
    example = next((f"{key} {value}" for key, value in (("steps", 200), ("resamples", 500)) if key in kinds), "")
    example = example or f"output_dir papermill_runs/{page}"
    command = f"papermill book/{page}.ipynb out.ipynb -p {example}"
    table = Table(("Parameter", "here", "meaning"), rows, "Parameters of this page")
    body = (
        f"<p>Every value below can be changed, for example by <code>{escape(command)}</code> from the project's "
        "folder; <code>python -m cat_core.runs run</code> runs pages of a whole edition. No GPU is needed.</p>"
        f"{table._repr_html_()}{origin.table()._repr_html_()}"
    )
    return Fragment(folded(line, body), f"{line}: {command}")
