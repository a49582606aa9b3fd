"""Strips: one line a cell, on one axis, with a slider over something that changes them all; no kernel, no network.

Python computes and formats every number; the script moves marks and looks texts up. On paper, and without the script,
every strip of every group stands at its first place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_core.analysis.quantities import true_minus
from cat_core.ranking import Interval

INSET = 2.0  # percent of the width on both sides of the axis


@dataclass(frozen=True)
class Strip:
    """One line: what it shows at every stop of the slider, or once where it stays the same.

    label: of the line. texts: in words; kinds: 0 grey, 1 orange, 2 blue. Places in the unit of the axis: bars, an
    estimate with its interval; bands, a grey range behind it; dots, hollow, as many at each stop. parts: (low, high,
    kind) of a strip that is parted once and for all; kind 3 is a paler 1.
    """

    label: str
    texts: Sequence[str]
    kinds: Sequence[int] = (0,)
    bars: Sequence[Interval] = ()
    bands: Sequence[tuple[float, float]] = ()
    dots: Sequence[Sequence[float]] = ()
    parts: Sequence[tuple[float, float, int]] = ()


@dataclass(frozen=True)
class Axis:
    """low, high: its ends; ticks: (place, text); zero: a line across all strips, or None."""

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    zero: float | None = 0.0

    def at(self, value: float) -> float:
        """The place of a value in percent of the width; beyond the ends, at the end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(INSET + (100 - 2 * INSET) * share, 1)


@dataclass(frozen=True)
class Slider:
    """label: what is moved; stops: its texts; said: a sentence for each; start: the number of the first one shown."""

    label: str
    stops: Sequence[str]
    said: Sequence[str]
    start: int = 0


class Strips:
    """What a notebook shows. groups: strips by the name of their group, of which one is looked at (`what` they are),
    with a note, and maybe an axis, of its own; slider: or None, if nothing moves; legend: (look, text), such as "k1"
    for bars of kind 1, "p1" for parts, "band", "dot". Raises ValueError without strips, or where texts or marks are not
    one a stop.
    """

    def __init__(
        self, groups: Mapping[str, Sequence[Strip]], axis: Axis | Mapping[str, Axis], slider: Slider | None = None, *,
        name: str, title: str, caption: str, what: str = "Cell", legend: Sequence[tuple[str, str]] = (),
        notes: Mapping[str, str] | None = None,
    ):  # fmt: skip
        stops = len(slider.stops) if slider else 1
        if not groups or not all(groups.values()):
            raise ValueError("no strip to draw, expected at least one in every group")
        for strip in (strip for group in groups.values() for strip in group):
            for field in ("texts", "kinds", "bars", "bands", "dots"):
                if len(getattr(strip, field)) not in (1, stops, *[0] * (field not in ("texts", "kinds"))):
                    raise ValueError(f"strip {strip.label!r}: {field} are not one, nor one for each of {stops} stops")
        self.groups, self.slider, self.name, self.title = groups, slider, name, title
        self.axes = dict.fromkeys(groups, axis) if isinstance(axis, Axis) else axis
        self.caption, self.what, self.legend, self.notes = caption, what, legend, notes or {}

    def _repr_html_(self) -> str:
        rows = [_moving(strip, self.axes[key].at) for key, group in self.groups.items() for strip in group]
        data = {"rows": rows} | ({"stops": self.slider.stops, "said": self.slider.said} if self.slider else {})
        payload = markup.script_data(data)
        ident = markup.ident(self.name, payload + self.title)
        several = len(self.groups) > 1
        options = "".join(f'<option value="{i}">{escape(key)}</option>' for i, key in enumerate(self.groups))
        which = (
            f'<p class="cx-keys"><label for="{ident}-which">{escape(self.what)}</label>&nbsp;'
            f'<select id="{ident}-which" autocomplete="off">{options}</select></p>'
        )
        groups = "".join(
            f'<div class="cx-group"><p class="cx-head">{escape(key) if several else ""}</p>'
            + (f"<p>{escape(self.notes[key])}</p>" if key in self.notes else "")
            + f'<ul aria-label="{escape(key)}">{"".join(self._line(strip, self.axes[key]) for strip in group)}</ul>'
            + f"{_foot(self.axes[key])}</div>"
            for key, group in self.groups.items()
        )
        keys = (f'<li><span class="cx-key cx-{look}"></span> {escape(text)}</li>' for look, text in self.legend)
        legend = "".join(keys)
        return Template(markup.asset("strips.html")).substitute(
            ident=ident, css=markup.sheets("widget", "strips"), title=escape(self.title), which=which * several,
            slide=self._slide(ident), groups=groups, legend=f'<ul class="cx-legend">{legend}</ul>' if legend else "",
            caption=escape(self.caption), data=payload, script=markup.script("strips", ident),
        )  # fmt: skip

    def __repr__(self) -> str:
        at = self.slider.start if self.slider else 0
        lines = [f"{key}: {s.label}: {_pick(s.texts, at)}" for key, group in self.groups.items() for s in group]
        return "\n".join([self.title, *lines, self.caption])

    def _slide(self, ident: str) -> str:
        if self.slider is None:
            return ""
        s = self.slider
        return (
            f'<div class="cx-slide"><label for="{ident}-at">{escape(s.label)}</label>'
            f'<output for="{ident}-at">{escape(s.stops[s.start])}</output>'
            f'<input id="{ident}-at" type="range" min="0" max="{len(s.stops) - 1}" step="1" value="{s.start}" '
            f'autocomplete="off" data-lm-suppress-shortcuts="true" aria-valuetext="{escape(s.stops[s.start])}"></div>'
            f'<p class="cx-said" role="status" aria-live="polite">{escape(s.said[s.start])}</p>'
        )

    def _line(self, strip: Strip, axis: Axis) -> str:
        at, stop, drawn = axis.at, self.slider.start if self.slider else 0, ""
        for low, high, kind in strip.parts:
            drawn += (f'<rect class="cx-part cx-p{kind}" x="{at(low):g}%" width="{at(high) - at(low):.4g}%" y="3" '
                      'height="14"/>')  # fmt: skip
        if strip.bands:
            low, high = _pick(strip.bands, stop)
            drawn += f'<rect class="cx-band" x="{at(low):g}%" width="{at(high) - at(low):.4g}%" y="1" height="18"/>'
        if axis.zero is not None:
            zero = at(axis.zero)
            drawn += f'<line class="cx-zero" x1="{zero:g}%" x2="{zero:g}%" y1="0" y2="20"/>'
        for value in _pick(strip.dots, stop) or ():
            drawn += f'<circle class="cx-dot" cx="{at(value):g}%" cy="10" r="3"/>'
        if strip.bars:
            bar = _pick(strip.bars, stop)
            drawn += f'<line class="cx-bar" x1="{at(bar.low):g}%" x2="{at(bar.high):g}%" y1="10" y2="10"/>'
            drawn += f'<circle class="cx-at" cx="{at(bar.estimate):g}%" cy="10" r="5"/>'
        return (
            f'<li class="cx-strip cx-k{_pick(strip.kinds, stop)}"><span class="cx-of">{escape(strip.label)}</span>'
            f'<svg height="20" aria-hidden="true">{drawn}</svg>'
            f'<span class="cx-now">{escape(_pick(strip.texts, stop))}</span></li>'
        )


def _moving(strip: Strip, at: Callable[[float], float]) -> Mapping:
    """Texts and places (`at`, percent of the width) of a strip at its stops; only what moves."""
    return {
        "t": list(strip.texts), "k": list(strip.kinds),
        "i": [[at(v) for v in (b.low, b.estimate, b.high)] for b in strip.bars if len(strip.bars) > 1],
        "b": [[at(low), round(at(high) - at(low), 1)] for low, high in strip.bands if len(strip.bands) > 1],
        "d": [[at(v) for v in dots] for dots in strip.dots if len(strip.dots) > 1],
    }  # fmt: skip


def _foot(axis: Axis) -> str:
    """The axis below a group."""
    ticks = "".join(
        f'<line class="cx-tick" x1="{axis.at(v):g}%" x2="{axis.at(v):g}%" y1="0" y2="4"/>'
        f'<text x="{axis.at(v):g}%" y="17" text-anchor="middle">{true_minus(text)}</text>'
        for v, text in axis.ticks
    )
    return (
        f'<div class="cx-strip cx-foot" aria-hidden="true"><svg height="20">{ticks}</svg>'
        f'<span class="cx-name">{escape(axis.name)}</span></div>'
    )


def _pick(values: Sequence, stop: int):
    """What holds at a stop; None where there is nothing."""
    return values[stop if len(values) > 1 else 0] if values else None
