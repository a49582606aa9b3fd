"""Claims and verdicts as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cat_book.drawing.banner import Banner
from cat_book.drawing.chooser import Folded
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import nothing, pair_name
from cat_book.pages.results import Results
from cat_core.analysis import claims
from cat_core.analysis.claims import ClaimRow
from cat_core.analysis.comparison import METRIC_LABELS, PRIMARY, Comparison
from cat_core.analysis.estimates import ENOUGH
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import NOT_THERE, PERCENT, PLAIN, Undefined, Unit, show_number
from cat_core.analysis.saving import SIZES
from cat_core.analysis.verdicts import CLAIMS, HEARD, VERDICT_RULES, Entry, by_claim, verdict_of
from cat_core.methods import name
from cat_core.studies.cell_metrics import BUDGET
from cat_core.tasks.example import BUILT_IN
from cat_core.tasks.registry import mixtures, task_names

SUPERGLUE = ("mini-superglue", "almanac-questions", "superglue", "boolq", "cb", "copa", "multirc", "multirc-questions",
             "record", "rte", "wic", "wsc")  # fmt: skip


def claim_on(results: Results, claim: str, of: str) -> tuple[str, list[Banner]]:
    """(`claim`, nothing) if the results' data are such as a page's claim is about, else ("", what is to be said).

    A recorded cell says what it was made for. Own files never are; of a page on SuperGLUE only its tasks are; else the
    built-in suites and those of the registry. of: what the page is about, in words.
    """
    if results.cell is not None:
        name, fits = results.cell.place, results.cell.claim == claim
    else:
        name, known = results.suite.name, SUPERGLUE if claim == "C1" else (*BUILT_IN, *mixtures(), *task_names())
        fits = all(part.partition("@")[0].strip() in known for part in results.experiment.suite.split("+"))
    if fits:
        return claim, []
    text = (
        f"The text of this page speaks of {of}; all numbers of this run are of {name}. No claim of the paper is about "
        "these data: the verdicts are on this run alone, and no recorded cell stands beside them"
    )
    return "", [Banner("Other data than this page was written for.", [(name, f"{text}.")])]


def title(of: str, claim: str, c: Comparison) -> str:
    """Of the table of claims: what a page is about, or the data where no claim is about these."""
    name = str(c.frame["suite"].iloc[0])
    what = "this run; no claim of the paper is about these data"
    return f"{of}: direction claimed, this run, reference" if claim else f"{name}: {what}"


def claims_table(rows: Sequence[ClaimRow], caption: str, reference: Sequence[CellMetrics] | None = None) -> Table:
    """The rows as a table, with the rules below it.

    reference: metrics of recorded cells (`study.Cell.metrics`), whose numbers of the same measures get a column.
    """
    columns = ["Claim", "Measure", "Direction claimed", "This run", "n, seeds", "Verdict"]
    shown = []
    for r in rows:
        basis = f"{r.n:,}, {r.seeds}" + f" (over {r.large_seeds} L)" * (r.large_seeds > 1)
        shown.append([r.claim, r.measure, claims.DIRECTIONS[r.direction], r.shown, basis, r.verdict])
    note = claims.ROW_RULES
    if reference is not None:
        columns.insert(4, "Reference")
        for row, r in zip(shown, rows):
            row.insert(4, reference_text(r, reference))
        cells = [f"{m.study}/{m.cell}: n = {m.n:,}, {len(m.seeds)} seeds" for m in reference]
        note += f" Reference: {'; '.join(cells) or 'nothing is recorded yet'}. The verdict is that of this run alone."
    return Table(columns, shown, caption, note)


def claims_shown(rows: Sequence[ClaimRow], caption: str, reference: Sequence[CellMetrics]) -> list[Table | Folded]:
    """The rows that decide as a table (`claims_table`), and all rows behind one closed line."""
    if not rows:
        return [nothing(caption)]
    primary = [row for row in rows if row.role == "primary"]
    whole = claims_table(rows, caption, reference)
    if len(primary) in (0, len(rows)):
        return [whole]
    line = f"All {len(rows)} rows, with controls and second readings"
    return [claims_table(primary, caption, reference), Folded(line, whole)]


def reference_text(row: ClaimRow, reference: Sequence[CellMetrics]) -> str:
    """The numbers that recorded cells have for a row of a page: the same claim, measure and pair of methods.

    For claims on the easiest or hardest task, the cell's own one, which is named where it is another.
    """
    matches = []
    for m in reference:
        for r in (*m.claims, *(r for other in m.other_metrics.values() for r in other.claims if r.share)):
            if (r.claim, claims.without_task(r.measure)) == (row.claim, claims.without_task(row.measure)):
                text = show_number(r.number, r.unit)
                task = claims.task_of(r.measure) if r.measure != row.measure else None
                matches.append(f"{m.cell}{f' ({task})' if task else ''}: {text}")
        for metric, other in m.other_metrics.items() if row.role == "secondary" else ():
            for pair, number in other.differences["chow_average"].items():
                if row.measure == claims.audc_measure(METRIC_LABELS[metric], *pair.split(" - ")):
                    matches.append(f"{m.cell}: {show_number(number, other.gain)}")
    return "; ".join(matches) or "\u2013 (not recorded)"


def rules_text() -> str:
    """All rules with the claims that they decide, in one paragraph."""
    kinds = {kind: [claim for claim, (_, rule) in CLAIMS.items() if rule == kind] for kind in VERDICT_RULES}
    rules = " ".join(f"{', '.join(kinds[kind])}: {text}" for kind, text in VERDICT_RULES.items())
    return f"{rules} {HEARD}"


def verdict_rows(entries: Sequence[Entry]) -> Iterator[tuple[str, str, str, str]]:
    """(claim, family, word, reason) of every family of every claim; exploratory ones say so."""
    for claim in CLAIMS:
        verdict = verdict_of(claim, entries)
        note = f" ({verdict.exploratory})" if verdict.exploratory else ""
        for family, found in verdict.findings.items():
            yield claim, family, found.word + note, found.reason


def summary(entries: Iterable[Entry]) -> Table:
    """One row a claim and family: what it says, the verdict and its reason."""
    rows = [(claim, CLAIMS[claim][0], family or "\u2013", word, reason)
            for claim, family, word, reason in verdict_rows(list(entries))]  # fmt: skip
    columns = ("Claim", "In short", "Family", "Verdict", "Reason")
    return Table(columns, rows, "What came of the claims", rules_text())


def markdown(entries: Iterable[Entry]) -> str:
    """The verdicts, one row a claim and family, for README.md."""
    lines = [f"| {claim} | {CLAIMS[claim][0]} | {family or '–'} | {word} | {reason} |"
             for claim, family, word, reason in verdict_rows(list(entries))]  # fmt: skip
    return "\n".join(["| claim | in short | family | verdict | reason |", "|---|---|---|---|---|", *lines])


def claims_ledger(entries: Iterable[Entry]) -> Table:
    """One row a primary or control entry: claim, cell or page, measure, number with interval, power, what it rests on.

    Savings are in percent of cost, other numbers in points of the metric.
    """
    rows, entries = [], list(entries)
    for claim, mine in by_claim(entries).items():
        verdict = verdict_of(claim, entries)
        shown = [e for role in ("primary", "control", "reading") for e in mine if e.role == role]
        heads = [f"{claim}: {verdict.word}", *[claim] * len(shown)]
        for e, head in zip(shown, heads):
            mass = "" if e.mass is None else f" (share {show_number(e.mass, PERCENT)})"
            what = "" if e.role == "primary" else f"{ROLES[e.role]}: "
            heard = "yes" if e.heard else e.ineligible or e.silenced or "no number, or one seed"
            rows.append((head, f"{e.edition}/{e.page}", what + e.measure, show_number(e.number, e.unit) + mass,
                         *power_text(e), f"{e.n:,}; {e.seeds}/{e.large_seeds}", heard))  # fmt: skip
        if not shown:
            blank = ("\u2013",) * 5
            rows.append((f"{claim}: {verdict.word}", "\u2013", CLAIMS[claim][0], *blank))
    columns = ("Claim", "Cell", "Measure", "Number", "Power", "Visible", "n; seeds", "Heard")
    others = sum(e.role == "secondary" for e in entries)
    note = (
        "Claim: its verdict in its first row. Cell: study and cell, or edition and page. All rows are primary but "
        "those that say otherwise. Number: savings in percent of cost, others in points of the metric; share: of "
        "training tokens that neither model gets right. Power: probability to see a saving of 13\u00a0%; visible: the "
        f"least effect that is seen with probability {ENOUGH:g}. n: test items; seeds: of S/of L. "
        f"{others} secondary entries decide nothing and are left out."
    )
    return Table(columns, rows, "The claims ledger", note)


def price_table(cells: Sequence[CellMetrics]) -> Table:
    """What a gain costs, cell by cell: calibration and likelihood of S, and how often deferral harms an answer."""
    rows = []
    for m in cells:
        savings = {r.family: r for r in m.claims if r.role == "primary" and r.share}
        for a, b in PRIMARY:
            if {a, b} <= set(m.methods) and (row := savings.get(name(a))):
                signals = [[getattr(m.tokens[k], what, NOT_THERE) if k in m.tokens else NOT_THERE for k in (b, a)]
                           for what in ("ece", "nll")]  # fmt: skip
                harms = [m.methods[k].harm for k in (b, a)]
                shown = [_to(pair, unit) for pair, unit in zip((*signals, harms), (Unit(1, 3), PLAIN, PERCENT))]
                rows.append((f"{m.study}/{m.cell}", pair_name(a, b), row.shown, *shown))
    columns = ("Cell", "Pair", "Saving", "ECE of S", "NLL of S, nats", "Harm")
    note = (
        "Unmasked \u2192 CAT. ECE, NLL: of S on held-out target tokens, means over seeds. Harm: of the test items that "
        f"a threshold for {100 * BUDGET:.0f}\u00a0% deferral sends to L, the share that S had answered better."
    )
    return Table(columns, rows or [("none", *["\u2013"] * 5)], "The price beside the gain", note)


def _to(pair: Sequence, unit: Unit) -> str:
    """Two numbers as "before \u2192 after"; a dash for what is not there."""
    return " \u2192 ".join("\u2013" if isinstance(x, Undefined) else show_number(x, unit) for x in pair)


ROLES = {"control": "control", "reading": "second reading"}


def power_text(row: ClaimRow) -> tuple[str, str]:
    """Power for the paper's 13 % (savings alone), and the smallest effect that is visible, of one row."""
    if (estimate := row.estimate) is None:
        return "\u2013", "\u2013"
    power = f"{estimate.power(SIZES[0]):.2f}" if row.share else "\u2013"
    return power, f"{row.scale * estimate.visible:.1f}{row.unit.suffix}"
