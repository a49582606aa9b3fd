"""Longer training: does CAT only learn faster, or does it end better? Cells of study `longer` beside those of once the
steps. Quality of S alone from the metrics, and the share of training tokens that S gets right from the logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from cat_book.drawing import figures
from cat_book.drawing.styles import method_style
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import caption, filled, nothing, pair_name, shown
from cat_core.analysis.comparison import PRIMARY, Comparison
from cat_core.analysis.quantities import show_number
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

RESAMPLES = 1_000  # of the cells of once the steps, which are read with fewer seeds than they were recorded with
FREE = ("steps", "methods", "seeds", "large_seeds")


@dataclass(frozen=True)
class Length:
    """A setting trained for `steps`: times what the reference is trained; c: its comparison, of the same seeds."""

    cell: Cell
    times: int
    steps: int
    c: Comparison

    def alone(self, method: str) -> Interval:
        """Quality of S by itself, test items."""
        return self.c.alone(method)

    def difference(self, pair: tuple[str, str]) -> Interval:
        """Quality of S by itself: the first method less the second, paired."""
        return self.c.alone_difference(*pair)

    def right(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps, and the share of training tokens that S gets right between two logs, mean over seeds."""
        logs = self.cell.logs()
        rows = [logs[method, seed] for seed in self.c.seeds]
        shares = np.mean([[row["both"] + row["only_small"] for row in log] for log in rows], axis=0)
        return np.array([row["step"] for row in rows[0]]), shares


def lengths(cells: Sequence[Cell], references: Sequence[Cell]) -> dict[str, list[Length]]:
    """Settings by the name of their cell of once the steps, shortest first; without cells that have none."""
    found: dict[str, list[Length]] = {}
    for cell in cells:
        same = [r for r in references if _setting(r) == _setting(cell)]
        if not same:
            continue
        base = same[0]
        if base.name not in found:
            methods = tuple(m for m in cell.config["methods"] if m in base.config["methods"])
            c = base.comparison(seeds=cell.seeds, methods=methods, resamples=RESAMPLES)
            found[base.name] = [Length(base, 1, base.config["steps"], c)]
        c = cell.comparison(**cell.kept())
        times = round(cell.config["steps"] / base.config["steps"])
        found[base.name].append(Length(cell, times, cell.config["steps"], c))
    return {name: sorted(rows, key=lambda row: row.steps) for name, rows in found.items()}


def _setting(cell: Cell) -> dict:
    return {key: value for key, value in cell.config.items() if key not in FREE}


def word(rows: Sequence[Length], pair: tuple[str, str]) -> str:
    """What the study's rule says, fixed before it was run: "learns faster", "ends better", "both" or "open"."""
    once, last = rows[0].difference(pair), rows[-1].difference(pair)
    words = []
    if once.low > 0 and last.high < once.estimate / 2:
        words.append("learns faster")
    if last.low > 0:
        words.append("ends better")
    return " and ".join(words) or "open"


def longer_table(found: dict[str, list[Length]]) -> Table:
    """CAT less the same loss unmasked, S alone, at each length; and the word of the rule."""
    rows = []
    for name, settings in found.items():
        for pair in PRIMARY:
            if all(set(pair) <= set(s.c.methods) for s in settings):
                values = [show_number(s.difference(pair), s.c.gain) for s in settings]
                rows.append((f"{name}, {pair_name(*pair)}", *values, word(settings, pair)))
    first = next(iter(found.values()), [])
    columns = ("Cell, pair", *(f"{s.times}\u00d7 the steps" for s in first), "by the rule")
    note = (
        "Quality of S by itself on test items, points of the metric, paired over seeds, large models and items; [ ]: "
        "95 % intervals. Every length has a schedule of its own that ends at a rate of 0. Learns faster: above 0 at "
        "once the steps, and at the most the interval below half of that; ends better: above 0 at the most."
    )
    return filled(columns, rows, "Faster, or better in the end?", note)


def longer_figure(found: dict[str, list[Length]], number: str = "") -> figures.Shown | Table:
    """Above, quality of S against the length of training; below, how the longest training went."""
    if not found:
        return nothing("Quality over training")
    with matplotlib.rc_context(figures.LOOK):
        fig = Figure(figsize=(figures.WIDTH, 6.0), layout="constrained")
        axes = fig.subplots(2, len(found), squeeze=False)
        for (name, settings), (above, below) in zip(found.items(), axes.T):
            x = np.array([s.steps for s in settings])
            for method in settings[-1].c.methods:
                style, there = method_style(method), [s for s in settings if method in s.c.methods]
                values = [s.alone(method) for s in there]
                scale, steps = there[0].c.scale, np.array([s.steps for s in there])
                low, mean, high = scale * np.array([(v.low, v.estimate, v.high) for v in values]).T
                look = {"color": style.colour, "linewidth": 1.6}
                above.plot(steps, mean, style.marker, linestyle="-", label=style.label, markersize=6, **look)
                above.vlines(steps, low, high, color=style.colour, linewidth=1.0, alpha=0.6)
                logged, shares = settings[-1].right(method)
                below.plot(logged, 100 * shares, **look)
            above.set(title=figures.plain(name), xscale="log", xticks=x, ylabel=f"S alone ({settings[0].c.label})")
            above.set_xticklabels([f"{n:,}" for n in x])
            above.minorticks_off()
            below.set(xlabel="steps", ylabel="training tokens right (%)")
        sns.despine(fig=fig)
        figures.legend(fig, [axes[0, 0]])
    metrics = [s.cell.metrics() for settings in found.values() for s in settings[1:]]
    text = (
        "quality of S by itself against the length of training (test items, 95 % intervals), and below the share of "
        "training tokens that S gets right on the way, in the longest training"
    )
    notes = [
        f"{name}, {method}: " + ", ".join(f"{s.steps:,} steps {show_number(s.alone(method), s.c.gain)}"
                                          for s in settings if method in s.c.methods)
        for name, settings in found.items()
        for method in settings[-1].c.methods
    ]  # fmt: skip
    return shown(fig, "Curves with intervals", notes, caption(text, metrics, number=number))


def longer_words(found: dict[str, list[Length]]) -> str:
    """The words of the rule, setting by setting, in one sentence."""
    if not found:
        return "nothing is recorded yet"
    parts = [
        f"{pair_name(*pair)} on {name}: {word(settings, pair)}"
        for name, settings in found.items()
        for pair in PRIMARY
        if set(pair) <= set(settings[-1].c.methods)
    ]
    return "; ".join(parts)
