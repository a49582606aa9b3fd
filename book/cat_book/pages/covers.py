"""What pages begin and end with: something to move, an answer in short, and one closed box on how the page was made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cat_book.drawing.banner import folded
from cat_book.drawing.calculator import calculator as cost_calculator
from cat_book.drawing.headlines import Runs, headlines_explorer
from cat_book.drawing.markup import escape
from cat_book.drawing.questions import Question, drawn, questions_explorer
from cat_book.drawing.tables import Table
from cat_book.pages.parameters import declared
from cat_book.pages.pieces import by_label, in_points, nothing, pair_name
from cat_book.pages.results import Provenance
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.saving import primary_rule
from cat_core.methods import name, rule_name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell
from cat_core.tasks.suite import Suite

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
