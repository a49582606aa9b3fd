"""How like real data are the built-in suites? Their token ledgers, keep-rates and gaps among those of real sets.

Everything is read from recorded cells: S by Xent, so that no method of the book has had a say in it. The distance of
two ledgers is their total variation: the share of tokens that would have to change their cell of the 2x2 ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from cat_book.drawing import figures
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import by_label, caption, filled, ledger_words, nothing, numbers, shown
from cat_core.analysis.metrics import TaskMetrics
from cat_core.analysis.quantities import PERCENT, PLAIN, Undefined, Unit, show_number
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

METHOD = "xent"
FAR = 0.15
"""A built-in suite is far from real data where every real set is at least this far away (total variation)."""


@dataclass(frozen=True)
class SuiteRow:
    """One row: a cell, or one of its tasks where it has several.

    ledger: shares of held-out target tokens (both, only S, only L, neither). small, large: quality alone, in points;
    majority: of the most frequent answer, in points, where there are options. kept: what the mask would have kept of
    the training tokens by S of that step, one number a log entry (of the whole cell; empty for a task).
    """

    label: str
    built_in: bool
    ledger: tuple[float, ...]
    small: float
    large: float
    majority: float | Undefined
    kept: tuple[float, ...] = ()

    @property
    def neither(self) -> float:
        """Share of held-out tokens that neither model gets right."""
        return self.ledger[3]


def suite_rows(cells: Sequence[Cell]) -> list[SuiteRow]:
    """Rows of all cells that have S by Xent, those with fewest tokens that neither gets right first."""
    cells = [cell for cell in cells if METHOD in cell.config["methods"]]
    rows = []
    metrics = numbers(cells)
    names = [m.cell for m in metrics]
    for cell, label, m in zip(cells, names if len(set(names)) == len(names) else by_label(metrics), metrics):
        built_in = cell.config["suite"].startswith("mini-")
        logs = [[1 - row["neither"] for row in log] for (method, _), log in cell.logs().items() if method == METHOD]
        if m.tasks:
            majority = Undefined("several tasks")
        else:  # one task: recorded where it has options
            majority = next(iter(cell.training.get("majority", {}).values()), Undefined("no options"))
        alone = m.methods[METHOD].small_alone, m.large_alone
        whole = TaskMetrics(m.n, m.metric, *alone, tokens=m.tokens[METHOD].ledger, majority=majority)
        rows.append(_row(label, built_in, whole, tuple(np.mean(logs, axis=0))))
        if not built_in:
            rows += [_row(f"{label}: {task}", False, t) for task, t in m.tasks.items()]
    return sorted(rows, key=lambda row: (row.neither, row.label))


def _row(label: str, built_in: bool, m: TaskMetrics, kept: tuple[float, ...] = ()) -> SuiteRow:
    def points(quality) -> float:
        return m.scale * (quality.estimate if isinstance(quality, Interval) else quality)

    majority = m.majority
    return SuiteRow(
        label, built_in, m.tokens, points(m.small_alone), points(m.large_alone),
        majority if isinstance(majority, Undefined) else 100 * majority, kept,
    )  # fmt: skip


def distance(a: SuiteRow, b: SuiteRow) -> float:
    """Total variation between two ledgers, in [0, 1]."""
    return 0.5 * float(np.abs(np.subtract(a.ledger, b.ledger)).sum())


def nearest(row: SuiteRow, rows: Sequence[SuiteRow]) -> tuple[SuiteRow, float] | Undefined:
    """The real set whose ledger is nearest to that of `row`, and how far it is."""
    real = [other for other in rows if not other.built_in]
    if not real:
        return Undefined("no real set is recorded")
    best = min(real, key=lambda other: distance(row, other))
    return best, distance(row, best)


def likeness_table(cells: Sequence[Cell]) -> Table:
    """Every row with its gap and keep-rate; for a built-in suite, the nearest real set and whether that is far."""
    rows, lines = suite_rows(cells), []
    for row in rows:
        match = nearest(row, rows) if row.built_in else None
        if isinstance(match, tuple):
            where = f"{match[0].label}, {100 * match[1]:.0f} %" + (" (far)" if match[1] >= FAR else "")
        else:
            where = "" if match is None else show_number(match, PLAIN)
        kept = [show_number(x, PERCENT) for x in (row.kept[0], row.kept[-1])] if row.kept else ["", ""]
        points = [f"{x:.1f}" for x in (row.small, row.large)]
        gap = show_number(row.large - row.small, Unit(1, 1, "", True))
        most, neither = show_number(row.majority, Unit(1, 1, "")), f"{100 * row.neither:.1f}"
        lines.append((row.label, *points, gap, most, neither, *kept, where))
    columns = ("Set", "S alone", "L alone", "gap", "majority class", "neither right (%)", "kept at first",
               "kept at last", "nearest real set, distance")  # fmt: skip
    note = (
        "S by Xent. Quality in points of its metric; gap: L less S. Neither right: of held-out target tokens. Kept: of "
        "the training tokens, by the OR mask and S of the first and of the last part of training. Distance: total "
        f"variation between ledgers of held-out tokens; far: {100 * FAR:.0f} % or more."
    )
    return filled(columns, lines, "Built-in suites among real sets", caption(note, numbers(cells)))


def likeness_figure(cells: Sequence[Cell], number: str = "") -> figures.Shown | Table:
    """One row a set, three panels: the ledger of held-out tokens, the keep-rate over training, and the gap."""
    rows = suite_rows(cells)
    if not rows:
        return nothing("Built-in suites among real sets")
    with matplotlib.rc_context(figures.LOOK | {"axes.grid": False}):
        fig = Figure(figsize=(figures.WIDTH, 1.7 + 0.27 * len(rows)), layout="constrained")
        bars, kept, gap = fig.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [5, 2.4, 2.4]})
        figures.ledger_bars(fig, bars, {row.label: 100 * np.array(row.ledger) for row in rows})
        for place, row in enumerate(rows):
            if row.built_in:
                for ax in (bars, kept, gap):
                    ax.axhspan(place - 0.5, place + 0.5, color="#f0f1f3", linewidth=0, zorder=0)
            if row.kept:
                percent = 100 * np.array(row.kept)
                _from_to(kept, place, percent[0], percent[-1], percent)
            _from_to(gap, place, row.small, row.large)
            if not isinstance(row.majority, Undefined):
                gap.plot([row.majority], [place], "|", color="#D55E00", markersize=9, markeredgewidth=1.8)
        bars.set_xlabel("Held-out tokens (%)")
        kept.set(xlim=(-4, 104), xticks=[0, 50, 100], xlabel="Kept (%)")
        gap.set(xlim=(-4, 104), xticks=[0, 50, 100], xlabel="Quality")
        for ax in (bars, kept, gap):
            ax.tick_params(axis="y", length=0)
            sns.despine(ax=ax, left=True)
    notes = [
        f"{row.label}{' (built in)' if row.built_in else ''}: {ledger_words(row.ledger)}"
        + (f", kept {row.kept[0]:.0%} at first and {row.kept[-1]:.0%} at last" if row.kept else "")
        + f", S {row.small:.1f}, L {row.large:.1f}"
        for row in rows
    ]
    text = (
        "built-in suites (grey rows) among real sets, S by Xent, fewest tokens that neither model gets "
        "right first. Left: held-out target tokens by who gets them right. Middle: share of training tokens that the "
        "OR mask would keep, from the first (hollow) to the last (filled) part of training, with the range in between. "
        "Right: quality of S (hollow) and L (filled) alone, in points; dash: the majority class"
    )
    return shown(fig, "One row a set", notes, caption(text, numbers(cells), number=number))


def _from_to(ax, place: float, start: float, end: float, between=()) -> None:
    """A hollow mark, a filled one, and a bar over them and all that lies between."""
    values = [start, end, *between]
    ax.plot([min(values), max(values)], [place] * 2, color="#8a8f98", linewidth=2.4)
    for quality, fill in ((start, "white"), (end, "#1a1a1a")):
        ax.plot([quality], [place], "o", color="#1a1a1a", markersize=4.5, markerfacecolor=fill)


def headline(cells: Sequence[Cell]) -> dict[str, str]:
    """Sentences for prose: which built-in suites are far from every real set, and what the mask keeps on real sets."""
    rows = suite_rows(cells)
    far, near = [], []
    for row in rows:
        if row.built_in and isinstance(match := nearest(row, rows), tuple):
            (far if match[1] >= FAR else near).append(f"{row.label} ({100 * match[1]:.0f} %, {match[0].label})")
    if not far and not near:
        return {"likeness_text": "No real set is recorded yet, so nothing can be said of how like them the suites are."}
    limit = f"{100 * FAR:.0f} %"
    sentences = [f"Within {limit} of a real set: {', '.join(near) or 'none'}.", f"Farther: {', '.join(far) or 'none'}."]
    last = {row.label: row.kept[-1] for row in rows if not row.built_in and row.kept}
    if last:
        low, high = min(last, key=last.get), max(last, key=last.get)
        sentences.append(
            f"At the end of training the mask would keep {100 * last[low]:.0f} % ({low}) to {100 * last[high]:.0f} % "
            f"({high}) of the training tokens of the real sets."
        )
    return {"likeness_text": " ".join(sentences)}


def page_metrics(cells: Sequence[Cell]) -> list[dict]:
    """The rows as numbers."""
    rows = suite_rows(cells)
    near = [nearest(row, rows) if row.built_in else None for row in rows]
    matches = [{"nearest": n[0].label, "distance": n[1]} if isinstance(n, tuple) else {} for n in near]
    return [vars(row) | more for row, more in zip(rows, matches)]
