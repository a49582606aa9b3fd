"""What is not shown at once: of several figures or tables the one that was picked (on paper, all), from a list or on a
picture; and tables behind one line, where a figure has said what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template

from cat_book.drawing import markup
from cat_book.drawing.banner import folded
from cat_book.drawing.markup import escape


class Chooser:
    """Several objects that a notebook shows, one at a time.

    parts: what can be chosen, by its name for readers, the first shown at first: an object with `_repr_html_`, or
    several that belong together. what: the label of the chooser; name: makes the ids. With one part there is nothing to
    choose, and it stands alone. picture: one above, on whose marks the parts are picked as well (`plane.plane`), with
    its caption. ValueError without parts.
    """

    def __init__(
        self, parts: Mapping[str, object | Sequence[object]], what: str, *, name: str, picture: str = "",
        caption: str = "",
    ):  # fmt: skip
        if not parts:
            raise ValueError(f"nothing to choose a {what.lower()} from, expected at least one part")
        self.parts = {key: part if isinstance(part, list | tuple) else [part] for key, part in parts.items()}
        self.what, self.name, self.picture, self.caption = what, name, picture, caption

    def _repr_html_(self) -> str:
        panels = ["".join(one._repr_html_() for one in part) for part in self.parts.values()]
        if len(panels) == 1 and not self.picture:
            return panels[0]
        options = "".join(f'<option value="{i}">{escape(key)}</option>' for i, key in enumerate(self.parts))
        shown = "".join(f'<div role="group" aria-label="{escape(k)}">{p}</div>' for k, p in zip(self.parts, panels))
        ident, card = markup.ident(self.name, self.what + shown), "cat-card cat-widget"
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return Template(markup.asset("chooser.html")).substitute(
            ident=ident, css=markup.sheets("widget", "chooser"), what=escape(self.what), options=options, panels=shown,
            around=f" {card} cat-figure" if self.picture else "", tag="figure" if self.picture else "div",
            keys="" if self.picture else f"{card} ", picture=self.picture, caption=caption,
            script=markup.script("chooser", ident),
        )  # fmt: skip

    def __repr__(self) -> str:
        lines = [f"{key}: {one!r}" for key, part in self.parts.items() for one in part]
        return "\n".join([*lines, self.caption] if self.caption else lines)


class Facts:
    """A few short facts, each a (head, text), that a notebook shows as a list of definitions."""

    def __init__(self, facts: Sequence[tuple[str, str]]):
        self.facts = list(facts)

    def _repr_html_(self) -> str:
        rows = "".join(f"<div><dt>{escape(head)}</dt><dd>{escape(text)}</dd></div>" for head, text in self.facts)
        return f'<dl class="cx-facts">{rows}</dl>'

    def __repr__(self) -> str:
        return "; ".join(f"{head}: {text}" for head, text in self.facts)


class Folded:
    """An object that a notebook shows, behind one closed `line`; elsewhere it stands open."""

    def __init__(self, line: str, part: object):
        self.line, self.part = line, part

    def _repr_html_(self) -> str:
        return folded(self.line, self.part._repr_html_())

    def __repr__(self) -> str:
        return repr(self.part)
