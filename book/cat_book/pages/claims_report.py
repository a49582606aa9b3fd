"""Claims and verdicts as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cat_book.drawing.banner import Banner
from cat_book.drawing.tables import Table
from cat_book.pages.results import Results
from cat_core.analysis import claims
from cat_core.analysis.claims import ClaimRow, caveat_mark, caveat_note
from cat_core.analysis.comparison import METRIC_LABELS, Comparison
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import Unit, show_number
from cat_core.analysis.verdicts import CLAIMS, VERDICT_RULES, Entry, Verdict, by_claim, verdict_of
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
    note = claims.ROW_RULES + caveat_note(shown)
    if reference is not None:
        columns.insert(4, "Reference")
        for row, r in zip(shown, rows):
            row.insert(4, reference_text(r, reference))
        cells = [f"{m.study}/{m.cell}: n = {m.n:,}, {len(m.seeds)} seeds" for m in reference]
        note += f" Reference: {'; '.join(cells) or 'nothing is recorded yet'}. The verdict is that of this run alone."
    return Table(columns, shown, caption, note)


def reference_text(row: ClaimRow, reference: Sequence[CellMetrics]) -> str:
    """The numbers that recorded cells have for a row of a page: the same claim, measure and pair of methods.

    For claims on the easiest or hardest task, the cell's own one, which is named where it is another.
    """
    matches = []
    for m in reference:
        for r in m.claims:
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
    return f"{rules} Not testable here: no primary number from two or more training seeds of S."


def summary(entries: Iterable[Entry]) -> Table:
    """One row a claim: what it says, where it was looked at, the verdict and its reason."""
    rows = []
    for claim, mine in by_claim(entries).items():
        verdict, heard = verdict_of(mine), [e for e in mine if e.role == "primary" and e.heard]
        pages = ", ".join(dict.fromkeys(e.page for e in heard)) or "\u2013"
        rows.append((claim, CLAIMS[claim][0], pages, verdict.word, verdict.reason))
    return Table(("Claim", "In short", "Where", "Verdict", "Reason"), rows, "What came of the claims", rules_text())


def markdown(entries: Iterable[Entry]) -> str:
    """The verdicts, one row a claim, for README.md."""
    rows = [(claim, CLAIMS[claim][0], verdict_of(mine)) for claim, mine in by_claim(entries).items()]
    lines = [f"| {claim} | {text} | {verdict.word} | {verdict.reason} |" for claim, text, verdict in rows]
    return "\n".join(["| claim | in short | verdict | reason |", "|---|---|---|---|", *lines])


def adjusted(entries: Iterable[Entry], verdict: Verdict) -> Iterator[str]:
    """The p-value of each entry after Holm, as text; empty where it is not heard. verdict: on the entries."""
    p = iter(verdict.p)
    return (f"{next(p):.3f}" if e.role == "primary" and e.heard else "" for e in entries)


def claims_ledger(entries: Iterable[Entry]) -> Table:
    """One row a primary or control entry: claim, cell or page, measure, number with interval, what it rests on, p.

    The verdict stands in the first row of its claim, its reason in `summary`. Numbers are in points of the metric; a
    saving where L is not shown to be better than S has the mark of `claims.CAVEAT_RULE`.
    """
    rows, entries = [], list(entries)
    for claim, mine in by_claim(entries).items():
        verdict = verdict_of(mine)
        shown = [e for role in ("primary", "control") for e in mine if e.role == role]
        heads = [f"{claim}: {verdict.word}", *[claim] * len(shown)]
        for e, head, p in zip(shown, heads, adjusted(shown, verdict)):
            mass = "" if e.mass is None else f" (share {100 * e.mass:.1f}\u00a0%)"
            basis = f"{e.n:,}; {e.seeds}/{e.large_seeds}"
            number = show_number(e.number, Unit(e.scale, 2, "", True)) + caveat_mark(e.headroom) + mass
            control = "control: " * (e.role == "control")
            rows.append((head, f"{e.edition}/{e.page}", control + e.measure, number, basis, p))
        if not shown:
            rows.append((f"{claim}: {verdict.word}", "\u2013", CLAIMS[claim][0], "\u2013", "\u2013", ""))
    columns = ("Claim", "Cell", "Measure", "Number", "n; seeds", "p")
    others = sum(e.role == "secondary" for e in entries)
    note = (
        "Claim: its verdict in its first row. Cell: study and cell, or edition and page. All rows are primary but "
        "those marked as control. Number: points of the metric; share: of training tokens that neither model gets "
        "right. n: test items; seeds: of S/of L. p: adjusted after Holm. "
        f"{others} secondary entries decide nothing and are left out.{caveat_note(rows)}"
    )
    return Table(columns, rows, "The claims ledger", note)
