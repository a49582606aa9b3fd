"""A calculator of what a cascade costs and when it pays: six sliders, one picture, without a kernel or a network.

All queries cost the same here, as in `analysis.limits.Couple`: the script computes what `Couple` does, and a test holds
the two together.
"""

from __future__ import annotations

from string import Template

from cat_book.drawing import markup
from cat_book.drawing.markup import escape

SLIDERS = (
    ("ratio", "Cost of an answer of S, of L's", 1, 100, 1, "%"),
    ("rate", "Queries that go to L", 0, 100, 1, "%"),
    ("small", "S alone is right on", 0, 100, 1, "%"),
    ("large", "L alone is right on", 0, 100, 1, "%"),
    ("gain", "Beyond random deferral, with half deferred", 0, 20, 0.5, "points"),
    ("price", "Price of a million answers of L", 1, 1000, 1, "$"),
)
"""Key, label, least, most, step and unit."""
START = {"ratio": 20, "rate": 30, "small": 60, "large": 80, "gain": 4, "price": 100}


def calculator(name: str = "calculator", **start: float) -> str:
    """The fragment; start: values of the sliders other than `START`. ValueError for one that is not on its slider."""
    values = START | start
    limits = {key: (low, high) for key, _, low, high, _, _ in SLIDERS}
    for key, value in values.items():
        if key not in limits or not limits[key][0] <= value <= limits[key][1]:
            raise ValueError(f"{key} is {value!r}, expected one of {', '.join(limits)} within its slider")
    ident = markup.ident(name, repr(sorted(values.items())))
    rows = "".join(
        f'<div><label for="{ident}-{key}">{escape(label)}</label>'
        f'<output for="{ident}-{key}">{values[key]:g} {unit}</output>'
        f'<input id="{ident}-{key}" type="range" min="{low}" max="{high}" step="{step}" value="{values[key]:g}" '
        f'autocomplete="off" data-key="{key}" data-unit="{unit}" data-lm-suppress-shortcuts="true"></div>'
        for key, label, low, high, step, unit in SLIDERS
    )
    return Template(markup.asset("calculator.html")).substitute(
        ident=ident, css=markup.sheets("widget", "calculator"), rows=rows,
        script=markup.script("calculator", ident),
    )  # fmt: skip
