"""Marks on a plane with two axes, as SVG, to be pointed at: `Chooser` shows what belongs to the one that was picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cat_book.drawing.markup import HEIGHT, LEFT, SHAPES, TOP, WIDTH, escape, round_ticks
from cat_core.analysis.quantities import true_minus

BOTTOM = TOP + HEIGHT


@dataclass(frozen=True)
class Mark:
    """One mark: its place in the units of the axes, a key of `SHAPES`, a colour. label: beside a large mark, on its
    right (side 1) or left (-1), so many units up."""

    x: float
    y: float
    shape: str
    fill: str
    label: str = ""
    side: int = 1
    up: int = 4


def plane(marks: Sequence[Mark], *, x_name: str, y_name: str, what: str, legend: str = "") -> str:
    """The picture; mark i picks part i of the chooser. what: for those who do not see it; legend: HTML above.

    The line y = 0 is always on it. ValueError without marks.
    """
    if not marks:
        raise ValueError("no mark to draw, expected at least one")
    x_ticks, x_low, x_high = round_ticks(min(m.x for m in marks), max(m.x for m in marks))
    y_ticks, y_low, y_high = round_ticks(min(0.0, *(m.y for m in marks)), max(0.0, *(m.y for m in marks)))

    def x(value: float) -> float:
        return LEFT + WIDTH * (value - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return BOTTOM - HEIGHT * (value - y_low) / (y_high - y_low)

    lines = "".join(
        f'<path class="{"cx-tick" if value == 0 else "cx-grid"}" d="M{LEFT} {y(value):.1f}h{WIDTH}"/>'
        f'<text x="{LEFT - 8}" y="{y(value):.1f}" dy=".35em" text-anchor="end">{true_minus(f"{value:g}")}</text>'
        for value in y_ticks
    )
    lines += "".join(
        f'<path class="cx-tick" d="M{x(value):.1f} {BOTTOM}v5"/>'
        f'<text x="{x(value):.1f}" y="{BOTTOM + 22}" text-anchor="middle">{value:g}</text>'
        for value in x_ticks
    )
    lines += f'<text x="4" y="17">{escape(y_name)}</text>'
    lines += f'<text x="{LEFT + WIDTH / 2}" y="334" text-anchor="middle">{escape(x_name)}</text>'
    drawn = "".join(_drawn(i, m, x(m.x), y(m.y)) for i, m in enumerate(marks))
    return (
        f'{legend}<div class="cx-field cx-plane"><svg viewBox="0 0 560 340" role="img" aria-label="{escape(what)}">'
        f'<path class="cx-tick" d="M{LEFT} {TOP}V{BOTTOM}h{WIDTH}"/>{lines}{drawn}</svg></div>'
    )


def _drawn(i: int, m: Mark, x: float, y: float) -> str:
    size, label = 1.25 if m.label else 0.9, ""
    if m.label:
        label = (
            f'<text class="cx-label" x="{13 * m.side}" y="{-m.up}" text-anchor="{"start" if m.side > 0 else "end"}">'
            f"{escape(m.label)}</text>"
        )
    return (
        f'<g data-i="{i}" transform="translate({x:.1f} {y:.1f})"><path d="{SHAPES[m.shape]}" fill="{m.fill}" '
        f'transform="scale({size})"/><circle class="cx-ring" r="13"/>{label}</g>'
    )
