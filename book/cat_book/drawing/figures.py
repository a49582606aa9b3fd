"""Static figures for pages and print: matplotlib and seaborn, one look, nothing global changed.

Each function returns a matplotlib `Figure` made without pyplot, so nothing is left open and nothing is shown
twice. `show` gives it alt text and a caption for a rendered notebook. Figures are 4.8 inches wide with text
of 9 points and more: on a phone, where the page shrinks them to its width, they still read. Methods differ in
colour, dash pattern and marker (`styles.METHOD_STYLE`, the same as in the sliders).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cat_book.drawing.markup import escape, number_row, sheets, si_prefix
from cat_book.drawing.styles import TOKEN_STYLE, method_style

WIDTH = 4.8  # inches
LOOK = {  # matplotlib's settings for every figure of the book
    **sns.axes_style("ticks"),
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 10, "axes.labelsize": 10,
    "axes.titlesize": 10.5, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "text.color": "#1a1a1a", "axes.labelcolor": "#1a1a1a", "axes.edgecolor": "#555555", "axes.grid": True,
    "grid.color": "#e3e5e8", "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 1.8,
    "legend.frameon": False, "legend.handlelength": 3.2, "hatch.color": "#555555", "hatch.linewidth": 0.6,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Curve:
    """One line: `x` [m], `y` [m], and a band from `low` [m] to `high` [m] if both are given.

    method: key of `styles.METHOD_STYLE` (or a name of one's own), decides the look. label: what the legend
    says, by default the method's label. Raises ValueError in one line on unequal lengths, NaN, infinity or
    half a band.
    """

    method: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    label: str = ""

    def __post_init__(self) -> None:
        look = method_style(self.method)
        if not self.label:
            object.__setattr__(self, "label", look.label)
        if (self.low is None) != (self.high is None):
            raise ValueError(f"curve {self.label!r}: a band needs both low and high")
        for field in ("x", "y", "low", "high"):
            if (value := getattr(self, field)) is not None:
                row = number_row(f"curve {self.label!r}: {field}", value)
                object.__setattr__(self, field, row)
                if row.size != self.x.size:
                    raise ValueError(f"curve {self.label!r}: {field} has shape {row.shape}, not one row like x")
        if self.low is not None and (self.low > self.high).any():
            raise ValueError(f"curve {self.label!r}: the band's low is above its high somewhere")


def quality_flops_figure(
    curves: Sequence[Curve] | Mapping[str, Sequence[Curve]],
    *,
    axis: str = "flops",
    large_flops: float | None = None,
    quality_label: str = "Accuracy (%)",
    quality_scale: float = 100.0,
) -> Figure:
    """Quality against mean FLOPs per query (axis="flops") or the deferral rate (axis="deferral_rate").

    curves: x in FLOPs or as a share in [0, 1], y in the unit of the metric (times `quality_scale` in the
    figure); reference lines are curves of methods "oracle" and "random-deferral". A mapping draws one panel
    per key, one below the other. large_flops: C_L; draws a vertical line "L alone" on the FLOPs axis.
    """
    if axis not in ("flops", "deferral_rate"):
        raise ValueError(f"axis is {axis!r}, expected 'flops' or 'deferral_rate'")
    if axis == "deferral_rate":
        return _lines(curves, 3.3, "Deferral rate (%)", quality_label, 0.01, quality_scale)
    most = max(float(c.x.max()) for group in _panels(curves).values() for c in group)
    prefix, divisor = si_prefix(max(most, large_flops or 0.0))
    large = large_flops / divisor if large_flops else None
    return _lines(curves, 3.3, f"Mean {prefix}FLOPs per query", quality_label, divisor, quality_scale, large=large)


def difference_figure(
    curves: Sequence[Curve] | Mapping[str, Sequence[Curve]],
    *,
    baseline: str = "xent",
    axis_label: str = "Deferral rate (%)",
    axis_scale: float = 100.0,
    quality_label: str = "accuracy (points)",
    quality_scale: float = 100.0,
) -> Figure:
    """Difference in quality to `baseline` with its band and a line at zero.

    curves: y is (method - baseline), low and high its interval. A mapping draws one panel per key.
    """
    y_label = f"Difference to {method_style(baseline).label},\n{quality_label}"
    return _lines(curves, 3.0, axis_label, y_label, 1 / axis_scale, quality_scale, zero=True)


def ledger_figure(ledger: Mapping[str, Sequence[float]], *, axis_label: str = "Share of target tokens (%)") -> Figure:
    """Stacked bars of who is right, one per task: (both, only S, only L, neither) as counts or shares.

    Each bar is drawn to 100 %; a part of at least 6 % carries its number.
    """
    if not ledger:
        raise ValueError("the ledger is empty, expected {task: (both, only S, only L, neither)}")
    shares = {}
    for task, counts in ledger.items():
        row = np.asarray(counts, dtype=np.float64)
        if row.shape != (4,) or not np.isfinite(row).all() or (row < 0).any() or not row.sum():
            raise ValueError(f"ledger of {task!r} is {counts!r}, expected four numbers >= 0, not all 0")
        shares[str(task)] = 100 * row / row.sum()
    with matplotlib.rc_context(LOOK | {"axes.grid": False}):
        fig, (ax,) = stack(1, 1.25 + 0.45 * len(shares))
        ledger_bars(fig, ax, shares, least=6)
        ax.set_xlabel(axis_label)
        sns.despine(ax=ax, left=True)
    return fig


def ledger_bars(fig: Figure, ax: Axes, shares: Mapping[str, Sequence[float]], *, least: float = 101) -> None:
    """Draw ledgers, in percent, as stacked bars with their legend; parts of at least `least` percent are numbered."""
    for place, row in enumerate(shares.values()):
        left = 0.0
        for share, style in zip(row, TOKEN_STYLE.values(), strict=True):
            ax.barh(place, share, left=left, height=0.66, color=style.colour, hatch=style.hatch,
                    edgecolor="#555555", linewidth=0.7)  # fmt: skip
            if share >= least:
                ax.text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=9,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})  # fmt: skip
            left += share
    ax.set(xlim=(0, 100), yticks=range(len(shares)), yticklabels=map(plain, shares), ylim=(len(shares) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    patches = [
        Patch(facecolor=s.colour, hatch=s.hatch, edgecolor="#555555", label=f"{s.label} ({s.symbol})")
        for s in TOKEN_STYLE.values()
    ]
    fig.legend(handles=patches, loc="outside upper center", ncols=2)


def training_figure(
    curves: Sequence[Curve] | Mapping[str, Sequence[Curve]], *, y_label: str = "Loss (nats per token)"
) -> Figure:
    """A quantity of training (loss, keep-rate) against the optimizer step; bands span the seeds."""
    return _lines(curves, 3.0, "Training step", y_label)


def caption(
    text: str, *, n: int, seeds: int | Sequence[int], device: str, commit: str, edition: str,
    unit: str = "test items",
) -> str:  # fmt: skip
    """`text` followed by what every figure must state: n, seeds, device, commit and edition.

    seeds: the seeds, or how many of them. commit: its first 10 characters are shown; "" says it is not known. edition:
    a name, or a whole phrase that starts with "study ".
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n is {n!r}, expected how many {unit} the figure rests on")
    listed = None if isinstance(seeds, (int, np.integer)) else [int(s) for s in seeds]
    count = int(seeds) if listed is None else len(listed)
    if count < 1:
        raise ValueError(f"seeds is {seeds!r}, expected at least one seed")
    for what, value in (("text", text), ("device", device), ("edition", edition)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{what} of the caption is {value!r}, expected some text")
    names = f" ({', '.join(map(str, listed))})" if listed else ""
    where = edition if edition.startswith("study ") else f"edition {edition}"
    text = text.strip()
    return (
        f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} n = {int(n):,} {unit}; "
        f"{count} seed{'' if count == 1 else 's'}{names}; device: {device}; "
        f"commit {str(commit)[:10] if commit else 'not known'}; {where}."
    )


def alt_text(
    chart: str, curves: Sequence[Curve] | Mapping[str, Sequence[Curve]], *,
    x_label: str, y_label: str, x_scale: float = 1.0, y_scale: float = 1.0,
) -> str:  # fmt: skip
    """What a figure shows, in words: its kind, its axes, and where each curve starts, peaks and ends."""
    parts = [f"{chart}: {y_label} against {x_label}."]
    for title, group in _panels(curves).items():
        if title:
            parts.append(f"Panel {title}.")
        for curve in group:
            top = int(curve.y.argmax())
            at = [f"{y_scale * curve.y[i]:.4g} at {x_scale * curve.x[i]:.4g}" for i in (0, top, -1)]
            parts.append(f"{curve.label} runs from {at[0]} to {at[2]}, highest {at[1]}.")
    return " ".join(parts)


class Shown:
    """A figure with alt text and caption as a notebook shows it: HTML with a PNG in it, PNG, plain text."""

    def __init__(self, png: bytes, alt: str, text: str, size: tuple[int, int]):
        self.png, self.alt, self.caption, self.size = png, alt, text, size

    def _repr_html_(self) -> str:
        image = base64.b64encode(self.png).decode("ascii")
        width, height = self.size
        return (
            f'<figure class="cat-card cat-figure">{sheets("figure")}'
            f'<img class="dark-light" alt="{escape(self.alt)}" width="{width}" height="{height}" '
            f'src="data:image/png;base64,{image}">'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        """HTML for pages; the PNG alone for printed books and viewers that show no HTML."""
        return {
            "text/html": self._repr_html_(),
            "image/png": base64.b64encode(self.png).decode("ascii"),
            "text/plain": repr(self),
        }

    def __repr__(self) -> str:
        return f"Figure: {self.alt}\n{self.caption}"


def show(fig: Figure, alt: str, caption: str, *, dpi: int = 200) -> Shown:
    """`fig` with its alt text and caption, for the last line of a cell. Same figure, same bytes."""
    if not isinstance(fig, Figure):
        raise TypeError(f"show got a {type(fig).__name__}, expected a matplotlib Figure")
    for what, value in (("alt text", alt), ("caption", caption)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"the {what} is {value!r}; every figure needs some text there")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    width, height = (round(128 * side) for side in fig.get_size_inches())  # CSS pixels, 4/3 of 96
    return Shown(buffer.getvalue(), alt, caption, (width, height))


def plain(text: object) -> str:
    """Text from data as it is: a dollar sign must not start matplotlib's mathematics."""
    return str(text).replace("$", r"\$")


def check_panels(panels: Mapping[str, Sequence], what: str) -> None:
    if not panels or not all(panels.values()):
        raise ValueError(f"no {what} to draw, expected at least one in every panel")


def stack(panels: int, height: float, **options) -> tuple[Figure, list[Axes]]:
    """A figure of `height` inches with its panels, one below the other; options of `Figure.subplots`."""
    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    return fig, list(fig.subplots(panels, 1, squeeze=False, **options)[:, 0])


def _panels(curves) -> dict[str, list[Curve]]:
    groups = curves.items() if isinstance(curves, Mapping) else [("", curves)]
    panels = {str(title): list(group) for title, group in groups}
    check_panels(panels, "curve")
    for curve in (curve for group in panels.values() for curve in group):
        if not isinstance(curve, Curve):
            raise TypeError(f"curves hold a {type(curve).__name__}, expected figures.Curve")
    return panels


def _lines(
    curves, height: float, x_label: str, y_label: str, divisor: float = 1.0, scale: float = 1.0, *,
    zero: bool = False, large: float | None = None,
) -> Figure:  # fmt: skip
    """Curves, x over `divisor` and y times `scale`, with a line at zero or one at the cost of L."""
    panels = _panels(curves)
    with matplotlib.rc_context(LOOK):
        fig, axes = stack(len(panels), height if len(panels) == 1 else 2.5 * len(panels) + 0.6)
        for ax, (title, group) in zip(axes, panels.items(), strict=True):
            if zero:
                ax.axhline(0.0, color="#1a1a1a", linewidth=1.2, zorder=2)
            for curve in group:
                _draw(ax, curve, divisor, scale)
            if large:
                ax.axvline(large, color="#555555", linewidth=1, linestyle=(0, (3, 3)))
                ax.annotate("L alone", (large, 0.03), xycoords=("data", "axes fraction"), xytext=(-4, 0),
                            textcoords="offset points", ha="right", fontsize=9)  # fmt: skip
            ax.set(xlabel=plain(x_label), ylabel=plain(y_label))
            ax.set_title(plain(title), loc="left")
            ax.margins(x=0.02)
            sns.despine(ax=ax)
        legend(fig, axes)
    return fig


def _draw(ax: Axes, curve: Curve, divisor: float, scale: float) -> None:
    style = method_style(curve.method)
    x, y = curve.x / divisor, scale * curve.y
    if curve.low is not None:
        ax.fill_between(x, scale * curve.low, scale * curve.high, color=style.colour, alpha=0.16, linewidth=0)
    marked = np.unique(np.linspace(0, x.size - 1, min(x.size, 6)).round().astype(int))
    ax.plot(
        x, y, label=plain(curve.label), color=style.colour, linestyle=(0, style.dash) if style.dash else "-",
        linewidth=1.8 if style.marker else 1.3, marker=style.marker or None, markevery=list(marked),
        markersize=5, markeredgecolor="white", markeredgewidth=0.6,
    )  # fmt: skip


def legend(fig: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, above them, each label once."""
    known = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    longest = max(map(len, known))
    columns = min(len(known), 3 if longest <= 16 else 2 if longest <= 26 else 1)
    fig.legend(known.values(), known.keys(), loc="outside upper center", ncols=columns)
