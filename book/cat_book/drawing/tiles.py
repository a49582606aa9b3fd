"""Verdict tiles: a question, an answer in a sentence, and the interval on one axis. Needs neither kernel nor script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_book.drawing.styles import method_style
from cat_core.analysis.quantities import true_minus
from cat_core.ranking import Interval

WIDTH, LINE, PAD = 260.0, 17.0, 8.0  # of a glyph, in units of its view box; height of a line of it


@dataclass(frozen=True)
class Answer:
    """One answer to a tile's question. sign: a short mark, never alone; text: a sentence; number: its interval, or None
    where there is none, drawn in the look of `method`."""

    sign: str
    text: str
    number: Interval | None = None
    method: str = ""


@dataclass(frozen=True)
class Tile:
    """A question with its answers. reach: the axis goes from -reach to +reach, in `unit`; mark: a place on it worth a
    line of its own; note: a remark in small type."""

    name: str
    question: str
    answers: Sequence[Answer]
    reach: float = 1.0
    unit: str = ""
    mark: float | None = None
    note: str = field(default="", kw_only=True)


def tiles(shown: Sequence[Tile], *, title: str, rules: str) -> str:
    """The tiles side by side, and behind one closed line the rules. Raises ValueError without tiles or answers."""
    if not shown or any(not tile.answers for tile in shown):
        raise ValueError("expected at least one tile, each with at least one answer")
    items = "".join(f"<li>{_tile(tile)}</li>" for tile in shown)
    return (
        f'<div class="cat-card cat-tiles" role="group" aria-label="{escape(title)}">{markup.sheets("tiles")}'
        f'<p class="cx-title">{escape(title)}</p><ul>{items}</ul>'
        f"<details><summary>How a verdict is found</summary><p>{escape(rules)}</p></details></div>"
    )


def _tile(tile: Tile) -> str:
    lines = "".join(
        f'<p><b class="cx-sign" aria-hidden="true">{escape(a.sign)}</b> {escape(a.text)}</p>' for a in tile.answers
    )
    note = f"<p><small>{escape(tile.note)}</small></p>" if tile.note else ""
    head = f"<p><b>{escape(tile.name)}</b> {escape(tile.question)}</p>"
    return head + _glyph(tile) + lines + note


def _glyph(tile: Tile) -> str:
    """The intervals of a tile, one a line; beyond the axis they end in an arrow. Nothing where there is none."""
    known = [a for a in tile.answers if a.number is not None]
    if not known:
        return ""
    bottom = LINE * len(known)

    def x(value: float) -> float:
        return PAD + (WIDTH - 2 * PAD) * (min(max(value, -tile.reach), tile.reach) + tile.reach) / (2 * tile.reach)

    marks = f'<path class="cx-zero" d="M{x(0):.1f} 0V{bottom:g}"/>'
    ends = [(-tile.reach, "start"), (0.0, "middle"), (tile.reach, "end")]
    words = [f"{value:+g}{tile.unit}" if value else "0" for value, _ in ends]
    if tile.mark is not None:
        marks += f'<path class="cx-mark" d="M{x(tile.mark):.1f} 0V{bottom:g}"/>'
    labels = "".join(
        f'<text x="{PAD if way == "start" else WIDTH - PAD if way == "end" else x(0):.1f}" y="{bottom + 13:g}" '
        f'text-anchor="{way}">{true_minus(word)}</text>'
        for (_, way), word in zip(ends, words)
    )
    bars = "".join(_bar(a, x, tile.reach, LINE * (i + 0.5)) for i, a in enumerate(known))
    return f'<svg viewBox="0 0 {WIDTH:g} {bottom + 16:g}" aria-hidden="true">{marks}{bars}{labels}</svg>'


def _bar(a: Answer, x, reach: float, y: float) -> str:
    n, colour = a.number, method_style(a.method).colour if a.method else "#1a1a1a"
    low, high = x(n.low), x(n.high)
    ends = f"M{low:.1f} {y:g}l5-4v8z" if n.low < -reach else f"M{low:.1f} {y - 4:g}v8"
    ends += f"M{high:.1f} {y:g}l-5-4v8z" if n.high > reach else f"M{high:.1f} {y - 4:g}v8"
    line = f'<path d="M{low:.1f} {y:g}H{high:.1f}{ends}"/>'
    middle = f'<circle cx="{x(n.estimate):.1f}" cy="{y:g}" r="4.4"/>' if abs(n.estimate) <= reach else ""
    return f'<g stroke="{colour}" fill="{colour}" stroke-width="2">{line}{middle}</g>'
