"""One look for every figure and every slider: colour, dash pattern, marker and label per method.

Colours are those of Okabe and Ito (2008), which stay apart under the common kinds of colour blindness; the
methods take the ones with a contrast of at least 3:1 on white, the sixth a brown of its own, and the controls
dark ones that stay apart from these and from each other under simulated colour blindness. Colour is never the
only sign: each method has its own dash pattern and marker, each class of token its own symbol and hatching.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from cat_core.methods import name


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn. `dash` alternates line and gap in units of the line width, () is solid."""

    label: str
    colour: str
    dash: tuple[float, ...]
    marker: str  # matplotlib's letter, of `markup.SHAPES`, or "" for a reference line without a marker


@dataclass(frozen=True)
class TokenStyle:
    """How one cell of the two-by-two ledger is drawn: which of the two models gets a target token right."""

    label: str
    symbol: str
    colour: str
    hatch: str


# The masks are those of Dist: each keeps the target tokens that L, S, both or neither gets right.
METHOD_STYLE: dict[str, MethodStyle] = {
    "xent": MethodStyle(name("xent"), "#000000", (3.5, 1.5), "o"),
    "dist": MethodStyle(name("dist"), "#0072B2", (1.2, 1.2), "s"),
    "cat-xent": MethodStyle(name("cat-xent"), "#009E73", (4.5, 1.4, 1.0, 1.4), "^"),
    "cat-dist": MethodStyle(name("cat-dist"), "#D55E00", (), "D"),
    "random-xent": MethodStyle(name("random-xent"), "#A6761D", (2.2, 1.2, 0.8, 1.2), "P"),
    "random-dist": MethodStyle(name("random-dist"), "#CC79A7", (7.0, 1.6), "v"),
    "large-xent": MethodStyle(name("large-xent"), "#802070", (4.0, 1.2, 2.0, 1.2), "d"),
    "large-labels": MethodStyle(name("large-labels"), "#A05030", (1.8, 1.0, 5.0, 1.0), "8"),
    "large-dist": MethodStyle(name("large-dist"), "#8000E0", (5.5, 1.2, 1.0, 1.2, 1.0, 1.2), ">"),
    "small-dist": MethodStyle(name("small-dist"), "#602000", (2.8, 1.8), "<"),
    "both-dist": MethodStyle(name("both-dist"), "#002080", (8.0, 1.4, 1.0, 1.4), "X"),
    "neither-dist": MethodStyle(name("neither-dist"), "#604040", (0.9, 1.6), "*"),
    "gatekeeper": MethodStyle(name("gatekeeper"), "#400040", (5.0, 2.6), "p"),
    "call-token": MethodStyle(name("call-token"), "#6040C0", (2.0, 1.6, 5.0, 1.6), "H"),
    "edge-joint": MethodStyle(name("edge-joint"), "#9F70FF", (3.0, 1.0, 3.0, 2.2), "h"),
    "random-deferral": MethodStyle("Random deferral", "#767676", (1.0, 2.2), ""),
    "oracle": MethodStyle("Oracle", "#595959", (6.0, 1.8, 1.0, 1.8, 1.0, 1.8), ""),
}

TOKEN_STYLE: dict[str, TokenStyle] = {
    "both": TokenStyle("both right", "SL", "#BFE5D8", ""),
    "small": TokenStyle("only S right", "S", "#BBDDF5", "//"),
    "large": TokenStyle("only L right", "L", "#FBD9A0", ".."),
    "neither": TokenStyle("neither right", "\u2013", "#DDDDDD", "xx"),
}

_SPARE = (("#E69F00", (2.5, 1.0)), ("#56B4E9", (5.0, 1.0, 1.0, 1.0)), ("#0072B2", (1.6, 2.4)))


def token_kind(small_right: bool, large_right: bool) -> str:
    """The key of `TOKEN_STYLE` for a token, or an answer, by who gets it right."""
    return {(1, 1): "both", (1, 0): "small", (0, 1): "large", (0, 0): "neither"}[small_right, large_right]


def method_style(method: str) -> MethodStyle:
    """The style of `method`; a name of one's own gets a spare colour that depends on the name alone."""
    if not isinstance(method, str) or not method:
        raise ValueError(f"method is {method!r}, expected a non-empty text such as 'cat-dist'")
    if method in METHOD_STYLE:
        return METHOD_STYLE[method]
    colour, dash = _SPARE[sum(method.encode()) % len(_SPARE)]
    return MethodStyle(method, colour, dash, "o")
