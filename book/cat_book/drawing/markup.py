"""Pieces that drawings share: assets, escaping, rows of numbers, numbers as text, axes and marks in SVG.

Nothing here knows a method or a metric. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from cat_book.drawing.styles import MethodStyle
from cat_core.analysis.quantities import true_minus

LEFT, TOP, WIDTH, HEIGHT = 58.0, 34.0, 490.0, 250.0  # the plot area inside the 560 x 334 view box
SHAPES = {
    "o": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",
    "s": "M-5.3-5.3h10.6v10.6h-10.6z",
    "^": "M0-7L6.6 5H-6.6z",
    "v": "M0 7L6.6-5H-6.6z",
    "D": "M0-7.4L7.4 0L0 7.4L-7.4 0z",
    "P": "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "H": "M-7 0L-3.5-6H3.5L7 0L3.5 6H-3.5z",
    "X": "M0-2.4L4-6.4L6.4-4L2.4 0L6.4 4L4 6.4L0 2.4L-4 6.4L-6.4 4L-2.4 0L-6.4-4L-4-6.4z",
    ">": "M7 0L-5 6.6V-6.6z",
    "<": "M-7 0L5-6.6V6.6z",
    "h": "M0-7L6-3.5V3.5L0 7L-6 3.5V-3.5z",
    "p": "M0-6.6L6.3-2L3.9 5.4H-3.9L-6.3-2z",
    "d": "M0-7.6L4.6 0L0 7.6L-4.6 0z",
    "8": "M-2.8-6.8H2.8L6.8-2.8V2.8L2.8 6.8H-2.8L-6.8 2.8V-2.8z",
    "*": "M0-7.6L1.8-2.5H7.2L2.9.8L4.5 6.1L0 3L-4.5 6.1L-2.9.8L-7.2-2.5H-1.8z",
}
HIDE = ' display="none"'
_SPACE = {"css": r" ?([{};,>]) ?|(?<=:) ", "js": r" ?([^\w\s]) ?"}  # a blank that says nothing, beside what it stands


@cache
def asset(name: str) -> str:
    """A file of `assets`: HTML as it is; style sheets and scripts without comments and needless white space.

    They stand in a page once for each table, so that bytes count. Keeps strings, which have to end on their line; a
    script needs `/* */` for comments and a semicolon after each statement.
    """
    text = files(__package__).joinpath("assets", name).read_text(encoding="utf-8").strip()
    needless = _SPACE.get(name.rpartition(".")[2])
    if needless is None:
        return text
    parts = re.split(r"""("[^"\n]*"|'[^'\n]*')""", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    for i in range(0, len(parts), 2):  # the others are the strings
        parts[i] = re.sub(needless, r"\1", re.sub(r"\s+", " ", parts[i])).replace(";}", "}")
    return "".join(parts).strip()


def sheets(*names: str) -> str:
    """A style element: the card that everything drawn stands on, and the style sheets of these names."""
    return f"<style>{''.join(asset(f'{name}.css') for name in ('card', *names))}</style>"


def script(name: str, ident: str) -> str:
    """The script of a widget, `assets/<name>.js`, started on the elements of that id by `boot.js`."""
    return asset("boot.js").replace("BEGIN", asset(f"{name}.js")).replace("IDENT", ident)


def script_data(data: object) -> str:
    """JSON for a script element: no text in it, wherever it comes from, can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def number_row(who: str, value: object, *, infinite: bool = False) -> np.ndarray:
    """`value` as a read-only row [m] of float64, m >= 1; raises ValueError in one line on anything else, NaN, or
    (unless `infinite`) infinity.
    """
    try:
        row = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{who} is not an array of numbers") from None
    if row.ndim != 1 or not row.size:
        raise ValueError(f"{who} has shape {row.shape}, expected one row of at least one number")
    if np.isnan(row).any() or (not infinite and np.isinf(row).any()):
        raise ValueError(f"{who} holds NaN or infinity; drop or repair those rows first")
    row.setflags(write=False)
    return row


def ident(name: str, content: str) -> str:
    """The id of a fragment: the same for the same content."""
    return f"cx-{name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def visible(token: str) -> str:
    """A token's text with blanks and line ends that can be seen."""
    return token.translate(str.maketrans({" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"})) or "\u00a0"


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def threshold_text(value: float) -> str:
    return f"{'+' if value > 0 else '-'}\u221e" if math.isinf(value) else f"{value + 0.0:.4g}"


def si_prefix(most: float) -> tuple[str, float]:
    """SI prefix and divisor that bring `most` FLOPs into [1, 1000)."""
    power = min(max(int(math.log10(most) // 3), 0), 5) if most > 0 else 0
    return ("", "k", "M", "G", "T", "P")[power], 1000.0**power


def round_ticks(low: float, high: float) -> tuple[list[float], float, float]:
    """About five round numbers in [low, high] and the widened limits; a lower limit of 0 stays 0."""
    pad = 0.06 * (high - low) or max(0.05 * abs(high), 1e-3)
    low, high = (low if low == 0 else low - pad), high + pad
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = min((s * unit for s in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)], low, high


def path(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def corners(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points without those that lie, within .05 pixel, on the straight line from the last one kept."""
    kept = [0]
    for i in range(1, len(xs) - 1):
        x, y, dx, dy = xs[kept[-1]], ys[kept[-1]], xs[i + 1] - xs[kept[-1]], ys[i + 1] - ys[kept[-1]]
        span = math.hypot(dx, dy)
        if any(abs((xs[j] - x) * dy - (ys[j] - y) * dx) > 0.05 * span for j in range(kept[-1] + 1, i + 1)):
            kept.append(i)
    kept += [len(xs) - 1] * (len(xs) > 1)
    return [xs[i] for i in kept], [ys[i] for i in kept]


def dot(style: MethodStyle, x: float, y: float) -> str:
    """The marker of one method at its place; the script moves the outer group."""
    shape = SHAPES.get(style.marker, SHAPES["o"])
    place = f"translate({x:.1f} {y:.1f})"
    return f'<g class="cx-dot" transform="{place}"><path fill="{style.colour}" d="{shape}"/></g>'


def stroke(style: MethodStyle, width: float) -> str:
    dash = " ".join(f"{d * width:.1f}" for d in style.dash)
    return f'stroke="{style.colour}" stroke-width="{width}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def sample(style: MethodStyle) -> str:
    """A short piece of the line with its marker, for the legend and the table."""
    mark = SHAPES.get(style.marker)
    dot = f'<path fill="{style.colour}" transform="translate(19 7) scale(.8)" d="{mark}"/>' if mark else ""
    return (
        f'<svg class="cx-sample" viewBox="0 0 38 14" width="38" height="14" aria-hidden="true">'
        f'<path {stroke(style, 2.4)} d="M0 7H38"/>{dot}</svg>'
    )


def y_axis(name: str, ticks: Sequence[tuple[float, str]]) -> str:
    marks = "".join(
        f'<path class="cx-grid" d="M{LEFT} {y:.1f}H{LEFT + WIDTH}"/>'
        f'<text x="{LEFT - 8}" y="{y:.1f}" dy=".35em" text-anchor="end">{true_minus(text)}</text>'
        for y, text in ticks
    )
    return f'<g>{marks}<text class="cx-name" x="4" y="17">{escape(name)}</text></g>'


def x_axis(which: str, name: str, ticks: Sequence[tuple[float, str]], mark: float, note: str, hide: bool) -> str:
    """Ticks and title of one horizontal axis, with a vertical line: the slider's place or the cost of L."""
    bottom = TOP + HEIGHT
    marks = "".join(
        f'<path class="cx-tick" d="M{x:.1f} {bottom}v5"/>'
        f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{text}</text>'
        for x, text in ticks
    )
    label = f'<text x="{mark - 5:.1f}" y="{bottom - 7}" text-anchor="end">{note}</text>' if note else ""
    return (
        f'<g class="cx-x" data-axis="{which}"{HIDE if hide else ""}>'
        f'<path class="cx-tick" d="M{LEFT} {bottom}H{LEFT + WIDTH}"/>{marks}'
        f'<path class="cx-guide" d="M0 {TOP}V{bottom}" transform="translate({mark:.1f} 0)"/>{label}'
        f'<text class="cx-name" x="{LEFT + WIDTH / 2}" y="329" text-anchor="middle">{name}</text></g>'
    )
