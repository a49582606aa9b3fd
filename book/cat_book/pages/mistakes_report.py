"""What a mistake may cost: where a cascade is cheaper than S alone and than L alone, by the price of a wrong answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from cat_book.drawing.markup import threshold_text
from cat_book.drawing.strips import Axis, Slider, Strip, Strips
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import by_label, caption, nothing
from cat_core.analysis import limits
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.limits import Spent
from cat_core.analysis.quantities import Undefined, true_minus
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

DECADE = (1, 1.2, 1.6, 2, 2.5, 3, 4, 5, 6, 8)
PRICES = (*(k * x for k in (1, 10, 100) for x in DECADE), 1000)
"""Of a wrong answer, in answers of L."""
SAME = 5e-4  # of the cost: as good as the same
BEST = {0: "S alone", 1: "cascade", 3: "cascade", 2: "L alone"}


def found(tables: Mapping[str, Comparison]) -> dict[str, list[Spent]]:
    """What each cell spends at every price (`limits.spending`), S by its last method; without cells that have none."""
    spent = {label: limits.spending(c, c.methods[-1], PRICES) for label, c in tables.items()}
    return {label: rows for label, rows in spent.items() if not isinstance(rows, Undefined)}


def kind(s: Spent) -> int:
    """Which is cheapest: 1, the cascade, in each seed; 3, the cascade, on the mean; 0, S alone; 2, L alone."""
    if s.saved > SAME:
        return 1 if s.cheaper == s.seeds else 3
    return 0 if s.small <= s.large else 2


def said(s: Spent) -> str:
    """One cell at one price, in words."""
    if kind(s) in (1, 3):
        tau = true_minus(threshold_text(s.tau))
        return (
            f"cascade, {100 * s.saved:.1f} % cheaper, in {s.cheaper} of {s.seeds} seeds; defers {100 * s.rate:.1f} %, "
            f"\u03c4 = {tau}"
        )
    more = "no dearer" if -s.saved < SAME else f"{-100 * s.saved:.1f} % dearer"
    rate = f"{100 * s.rate:.1f} %" if s.rate else "nothing"
    return f"{BEST[kind(s)]}; the cascade defers {rate} and is {more}"


def mistakes_figure(
    spent: Mapping[str, Sequence[Spent]], cells: Sequence[Cell], method: str, number: str = "", start: float = 10
) -> Strips | Table:
    """Every cell parted by what is cheapest at which price, with a slider over the price."""
    title = "What may a mistake cost?"
    if not spent:
        return nothing(title)
    strips = []
    for label, rows in spent.items():
        kinds, parts, at = [kind(s) for s in rows], [], 0
        for k, run in groupby(kinds):
            end = at + len(list(run))
            parts.append((max(at - 0.5, 0), min(end - 0.5, len(rows) - 1), k))
            at = end
        here = [Interval(i, i, i) for i in range(len(rows))]
        strips.append(Strip(label, [said(s) for s in rows], [int(k in (1, 3)) for k in kinds], here, parts=parts))
    stops = [f"{price:g} answers of L" for price in PRICES]
    sentences = []
    for i, stop in enumerate(stops):
        counts = [BEST[kind(rows[i])] for rows in spent.values()]
        cheapest = ", ".join(f"{what} in {counts.count(what)}" for what in dict.fromkeys(BEST.values()))
        sentences.append(f"If a wrong answer costs {stop}, the cheapest of {len(counts)} cells is: {cheapest}.")
    ticks = [(i, f"{price:g}") for i, price in enumerate(PRICES) if price in (1, 10, 100, 1000)]
    axis = Axis("price of a wrong answer, in answers of L", 0, len(PRICES) - 1, ticks, zero=None)
    text = (
        "what is cheapest, where a wrong answer has a price: cost of computing and of mistakes on test items, mean "
        f"over seeds, S by {name(method)}; each seed's threshold \u03c4 is the one that costs least on its calibration "
        "items, in the text the median. Where mistakes are cheap, S alone will do; where they are dear, L answers "
        "nearly all, and a cascade pays only if S is right where L is not. Translations are left out, as what counts "
        "as a wrong one is a convention"
    )
    used = [m for label, m in by_label(cells).items() if label in spent]
    legend = [("p0", "S alone"), ("p1", "cascade, in each seed"), ("p3", "cascade, on the mean"), ("p2", "L alone")]
    slider = Slider("A wrong answer costs", stops, sentences, PRICES.index(start))
    return Strips(
        {"cells": strips}, axis, slider, name="mistakes", title=title, caption=caption(text, used, number=number),
        legend=legend,
    )  # fmt: skip


def as_metrics(spent: Mapping[str, Sequence[Spent]]) -> dict:
    """The same as plain numbers, to be written; a threshold of -inf is none."""
    none = Undefined("nothing is deferred")
    return {
        label: [vars(s) | {"tau": s.tau if math.isfinite(s.tau) else none, "saved": s.saved} for s in rows]
        for label, rows in spent.items()
    }


def headline(spent: Mapping[str, Sequence[Spent]]) -> dict[str, str]:
    """What the prose quotes: between which prices each cell's cascade is the cheapest."""
    parts = []
    for label, rows in spent.items():
        runs = [list(run) for pays, run in groupby(rows, lambda s: kind(s) in (1, 3)) if pays]
        where = [f"from {run[0].price:g} to {run[-1].price:g}" for run in runs]
        parts.append(f"in {label} {' and '.join(where)} answers of L" if where else f"in {label} at no price")
    said = f"On the mean over seeds the cascade is the cheapest {'; '.join(parts)}."
    return {"mistakes_text": said if parts else "No recorded cell says yet what a mistake may cost."}
