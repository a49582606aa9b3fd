"""An exercise whose answer can be checked: in a notebook by calling it, in the built page by a field and a button.

One HTML fragment that needs no kernel, no network and no library. What counts as right is computed by the page and
stands in the fragment once, encoded so that nobody reads it by accident; Python and the script judge by the same data.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from string import Template

from cat_book.drawing import markup
from cat_book.drawing.markup import escape

RIGHT, NOT_YET = "Right.", "Not yet."


@dataclass(frozen=True)
class Check:
    """What an exercise asks for, and what is right.

    name: the exercise's label; asks: what goes into the field, one line. answer: a number, right to `within` on either
    side; a pair, the least and the largest number that are right; one of `options`; or a set of them (several may be
    ticked). unit: stands behind the field; hint: follows a wrong answer. ValueError in one line for a number that is
    not finite and for an answer that is not among the options.
    """

    name: str
    asks: str
    answer: float | tuple[float, float] | str | Collection[str]
    options: Sequence[str] = ()
    within: float = 0.0
    unit: str = ""
    hint: str = ""
    given: float | str | Collection[str] | None = None

    def __post_init__(self):
        if self.options and not self._names(self.answer) <= set(self.options):
            raise ValueError(f"{self.name}: the answer {self.answer!r} is not among {list(self.options)}")
        if not self.options and not all(map(math.isfinite, self._range())):
            raise ValueError(f"{self.name}: expected a finite number, got {self.answer!r}")

    def __call__(self, given: float | str | Collection[str] | None) -> Check:
        """The same check with an answer filled in, to be shown; None leaves it open."""
        return replace(self, given=given)

    def right(self, given: float | str | Collection[str]) -> bool:
        data = self.data()
        if self.options:
            return [i for i, option in enumerate(self.options) if option in self._names(given)] == data["right"]
        return data["low"] <= float(given) <= data["high"]

    def data(self) -> dict:
        """What decides, for Python and the script alike: `low` and `high`, or the places of the `right` options."""
        if self.options:
            names = self._names(self.answer)
            found = {"right": [i for i, option in enumerate(self.options) if option in names]}
        else:
            found = dict(zip(("low", "high"), self._range()))
        return found | {"yes": RIGHT, "no": f"{NOT_YET} {self.hint}".strip()}

    def said(self) -> str:
        """The verdict on the answer that was given; "" without one."""
        return "" if self.given is None else self.data()["yes" if self.right(self.given) else "no"]

    def _range(self) -> tuple[float, float]:
        if isinstance(self.answer, tuple):
            return float(self.answer[0]), float(self.answer[1])
        return float(self.answer) - self.within, float(self.answer) + self.within

    @staticmethod
    def _names(given: str | Collection[str]) -> set[str]:
        return {given} if isinstance(given, str) else set(given)

    def _repr_html_(self) -> str:
        data = base64.b64encode(json.dumps(self.data()).encode()).decode()
        ident = markup.ident(f"check-{self.name}", data + self.asks)
        if self.options:
            kind = "radio" if isinstance(self.answer, str) else "checkbox"
            chosen = self._names(self.given or ())
            boxes = "".join(
                f'<label><input type="{kind}" name="{ident}"{" checked" * (option in chosen)}> {escape(option)}</label>'
                for option in self.options
            )
            field = f"<fieldset><legend>{escape(self.asks)}</legend>{boxes}</fieldset>"
        else:
            value = "" if self.given is None else f' value="{self.given:g}"'
            field = (
                f'<label for="{ident}-field">{escape(self.asks)}</label> <span class="cx-answer"><input type="text" '
                f'inputmode="decimal" id="{ident}-field" autocomplete="off"{value}> {escape(self.unit)}</span>'
            )
        return Template(markup.asset("check.html")).substitute(
            ident=ident, css=markup.sheets("widget", "check"), data=data, field=field, said=escape(self.said()),
            script=markup.script("check", ident),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.asks}: {self.said() or '(no answer yet)'}"
