"""Would you have published it? Seeds drawn one by one, each with the headline that it alone would have made.

One HTML fragment that needs no kernel, no network and no library. Python computes, formats and shuffles; the script
shows what comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_core.analysis.quantities import fixed, true_minus
from cat_core.ranking import Interval

LEFT, WIDTH = 40.0, 480.0  # of the axis, in units of the view box


@dataclass(frozen=True)
class Runs:
    """What single seeds would have shown, and what all of them show; one unit. what: such as "CAT-Xent - Xent"."""

    label: str
    what: str
    seeds: Sequence[int]
    values: Sequence[float]
    together: Interval


def headlines_explorer(cells: Sequence[Runs], *, name: str, title: str, unit: str = "points", seed: int = 0) -> str:
    """The fragment: a chooser of cells, a button that draws the next seed, one that shows all and the interval.

    The order of the seeds is shuffled by `seed`. Raises ValueError in one line without cells, or for a cell without
    seeds or with another number of values.
    """
    if not cells or any(not len(c.seeds) or len(c.seeds) != len(c.values) for c in cells):
        raise ValueError("expected at least one cell, each with as many values as seeds, at least one")
    rng = np.random.default_rng(seed)
    panels = [_panel(c, rng.permutation(len(c.seeds)), unit) for c in cells]
    payload = markup.script_data(panels)
    ident = markup.ident(name, payload + title)
    options = "".join(f'<option value="{i}">{escape(c.label)}: {escape(c.what)}</option>' for i, c in enumerate(cells))
    first = panels[0]
    return Template(markup.asset("headlines.html")).substitute(
        ident=ident, css=markup.sheets("widget", "headlines"), title=escape(title), options=options, data=payload,
        all=escape(first["all"]), script=markup.script("headlines", ident),
    )  # fmt: skip


def _panel(c: Runs, order: np.ndarray, unit: str) -> Mapping:
    """Texts and places of one cell: its ticks, its seeds in the order in which they are drawn, and the whole."""
    t = c.together
    ticks, low, high = markup.round_ticks(min(0.0, t.low, *c.values), max(0.0, t.high, *c.values))

    def x(value: float) -> float:
        return round(LEFT + WIDTH * (value - low) / (high - low), 1)

    def said(value: float) -> str:
        return f"{true_minus(fixed(value, 2, sign=True))} {unit}"

    drawn = []
    for i in order:
        value, word = float(c.values[i]), "gains" if c.values[i] > 0 else "loses"
        headline = f"\u201cCascade-aware training {word} {fixed(abs(value), 2)} {unit}.\u201d"
        drawn.append({"x": x(value), "text": f"Seed {c.seeds[i]}: {said(value)}. {headline}"})
    above = sum(v > 0 for v in c.values)
    clear = "above 0" if t.low > 0 else "below 0" if t.high < 0 else "on both sides of 0"
    whole = (
        f"All {len(c.values)} seeds: {above} above 0, {len(c.values) - above} not. Together {said(t.estimate)}, 95 % "
        f"interval {said(t.low)} to {said(t.high)}: it lies {clear}."
    )
    return {
        "ticks": [[x(v), true_minus(f"{v:g}")] for v in ticks], "zero": x(0.0), "seeds": drawn, "all": whole,
        "bar": [x(t.low), x(t.estimate), x(t.high)], "what": c.what,
    }  # fmt: skip
