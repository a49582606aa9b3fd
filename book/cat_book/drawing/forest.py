"""Estimates with intervals as figures: forest plots, and points against a share.

Drawn like `figures`, without pyplot and with nothing global changed; `figures.show` gives them alt text and caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from cat_book.drawing.figures import LOOK, check_panels, legend, plain, stack
from cat_book.drawing.styles import method_style


def _check(who: str, low: float, high: float, *others: float) -> None:
    if not np.isfinite((low, high, *others)).all() or low > high:
        values = (*others, low, high)
        raise ValueError(f"{who} holds {values}, expected finite numbers and low at most high")


@dataclass(frozen=True)
class Row:
    """One line of `forest_figure`: an estimate with its interval, and single values (of seeds) beside it.

    label: what the axis says; method: decides the look. Raises ValueError for NaN, infinity, or low above high.
    """

    label: str
    estimate: float
    low: float
    high: float
    dots: tuple[float, ...] = ()
    method: str = "cat-dist"

    def __post_init__(self) -> None:
        _check(f"row {self.label!r}", self.low, self.high, self.estimate, *self.dots)


def forest_figure(panels: Mapping[str, Sequence[Row]], *, x_label: str) -> Figure:
    """Estimates with intervals as marks on horizontal bars, single values as hollow dots, and a line at zero.

    panels: title -> rows, one panel below the other with one axis for all.
    """
    check_panels(panels, "row")
    heights = [len(rows) + 0.6 for rows in panels.values()]
    with matplotlib.rc_context(LOOK):
        height = 0.9 + 0.36 * sum(heights) + 0.25 * len(heights)
        fig, axes = stack(len(panels), height, sharex=True, gridspec_kw={"height_ratios": heights})
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            ax.axvline(0.0, color="#1a1a1a", linewidth=1.2, zorder=1)
            for place, row in enumerate(rows):
                style = method_style(row.method)
                above = place - 0.34 + 0.12 * np.resize([-1, 0, 1], len(row.dots))  # clear of the bar and of each other
                ax.plot(row.dots, above, "o", color="#333333", markersize=4, markerfacecolor="none",
                        markeredgewidth=0.9, zorder=2)  # fmt: skip
                ax.plot([row.low, row.high], [place, place], color=style.colour, linewidth=3, solid_capstyle="butt")
                ax.plot([row.estimate], [place], style.marker or "D", color=style.colour, markersize=7,
                        markeredgecolor="white", markeredgewidth=0.8, zorder=4)  # fmt: skip
            labels = [plain(row.label) for row in rows]
            ax.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.7))
            ax.grid(visible=False, axis="y")
            ax.tick_params(axis="y", length=0)
            ax.set_title(plain(title), loc="left")
            sns.despine(ax=ax, left=True)
        axes[-1].set_xlabel(plain(x_label))
    return fig


@dataclass(frozen=True)
class Point:
    """One point of `points_figure` with a vertical interval; hollow ones count as of another kind."""

    method: str
    x: float
    y: float
    low: float
    high: float
    hollow: bool = False

    def __post_init__(self) -> None:
        _check(f"a point of {self.method!r}", self.low, self.high, self.x, self.y)


def points_figure(
    panels: Mapping[str, Sequence[Point]], *, x_label: str, labels: Mapping[str, str], bound: str = ""
) -> Figure:
    """Points with intervals, one panel per key (its name on the vertical axis), all over one horizontal axis.

    labels: of the methods, for the legend; each is drawn a little to the right of the one before. bound: the panel that
    gets the line y = x, as far as the frame goes.
    """
    check_panels(panels, "point")
    most = max(point.x for group in panels.values() for point in group)
    shift = {method: 0.007 * most * i for i, method in enumerate(labels)}
    with matplotlib.rc_context(LOOK):
        fig, axes = stack(len(panels), 0.9 + 2.3 * len(panels), sharex=True)
        for ax, (title, group) in zip(axes, panels.items(), strict=True):
            ax.axhline(0.0, color="#1a1a1a", linewidth=1.2, zorder=1)
            for point in group:
                style = method_style(point.method)
                ends = [[point.y - point.low], [point.high - point.y]]
                ax.errorbar([point.x + shift[point.method]], [point.y], yerr=np.maximum(ends, 0), color=style.colour,
                            fmt=style.marker or "o", markersize=6, elinewidth=1.3,
                            markerfacecolor="white" if point.hollow else None,
                            label=plain(labels[point.method] + (", one task" if point.hollow else "")))  # fmt: skip
            ax.set_ylabel(plain(title))
            ax.set_xlim(0, 1.08 * most or 1)
            if title == bound:
                top = ax.get_ylim()[1]
                ax.plot([0, top], [0, top], color="#595959", linestyle=(0, (4, 2)), label="bound: difference = share")
                ax.set_ylim(top=top)
            sns.despine(ax=ax)
        axes[-1].set_xlabel(plain(x_label))
        legend(fig, axes)
    return fig
