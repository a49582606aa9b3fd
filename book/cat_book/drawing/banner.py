"""Banners, what a reader must know before the numbers, in words, framed; and what need not be read: one folded line.

Nothing in them is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from cat_book.drawing.markup import escape, sheets
from cat_core.analysis.guards import Guard


class Banner:
    """A framed heading with a list below it, which a notebook shows as HTML and elsewhere as plain text.

    heading: one line; lines: (name, sentence), at least one. Every text is escaped.
    """

    def __init__(self, heading: str, lines: Sequence[tuple[str, str]]):
        if not heading.strip() or not lines:
            raise ValueError(f"a banner needs a heading and lines, got {heading!r} and {list(lines)}")
        self.heading, self.lines = heading, list(lines)

    def _repr_html_(self) -> str:
        items = "".join(f"<li><strong>{escape(name)}.</strong> {escape(text)}</li>" for name, text in self.lines)
        heading = escape(self.heading)
        return (
            f'<div class="cat-card cat-banner" role="note" aria-label="{heading}">{sheets("banner")}'
            f"<p>{heading}</p><ul>{items}</ul></div>"
        )

    def __repr__(self) -> str:
        return "\n".join([self.heading, *(f"- {name}. {text}" for name, text in self.lines)])


def banners(guards: Sequence[Guard], of: str = "this run") -> list[Banner]:
    """One banner of the guards that were raised, or none: `display(*banners(...))`. of: whose numbers they are."""
    if not guards:
        return []
    forbidden = sum(guard.forbids for guard in guards)
    heading = f"No verdict: {of} cannot say which method is better." if forbidden else f"Read {of} with care."
    lines = [(guard.name[0].upper() + guard.name[1:] + " (no verdict)" * guard.forbids, guard.text) for guard in guards]
    return [Banner(heading, lines)]


def folded(line: str, body: str) -> str:
    """HTML `body` behind one closed `line`, which is escaped; on paper the line alone."""
    return f'<details class="cat-card cat-closing">{sheets("closing")}<summary>{escape(line)}</summary>{body}</details>'
