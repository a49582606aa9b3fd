"""Sliders for a static page: one HTML fragment that needs no kernel, no network and no library.

`threshold_explorer` draws quality against deferral rate (or FLOPs) with one slider for all methods. Python
computes and formats every number here; the script in the fragment only looks rows up. `coloured_tokens` shows
which target tokens which model gets right. Every text that comes from outside is escaped, because labels may
come from data. Needs numpy only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_book.drawing.styles import TOKEN_STYLE, TokenStyle, method_style
from cat_core.analysis.quantities import fixed, true_minus
from cat_core.methods import RULES

_SLACK = 1e-9  # rates such as 3/10 and 0.3 differ in the last bit
_QUALITY, _DIFFERENCE, _SHARE, _FLOPS, _RATE, _TAU, _HEIGHT, _LOW, _HIGH = range(9)  # columns of one table row


@dataclass(frozen=True, eq=False)
class Series:
    """The operating points of one method under one confidence rule, from deferring nothing to everything.

    method: key of `styles.METHOD_STYLE` or a name of one's own. rule: confidence rule, e.g. "chow_average".
    deferral_rate [m]: share of queries sent to L, from 0 to 1, never falling.
    threshold [m]: tau of each point (defer iff confidence <= tau), -inf at rate 0, never falling; None for a
    line that has no threshold, such as the oracle. Points inside a group of tied confidences share their tau;
    only the last of them can be had, so `threshold_explorer` shows only that one.
    quality [m]: in the unit of the metric (accuracy in [0, 1], BLEU in 0..100).
    flops [m]: mean FLOPs per query of the whole cascade; None where unknown, then there is no slider.
    low, high [m]: ends of a band around quality, such as the worst and the best seed; None: no band. Raises ValueError
    in one line on anything else.
    """

    method: str
    rule: str
    deferral_rate: np.ndarray
    threshold: np.ndarray | None
    quality: np.ndarray
    flops: np.ndarray | None
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not self.method or not isinstance(self.rule, str):
            raise ValueError(f"Series needs a method and a rule as text, got {self.method!r} and {self.rule!r}")
        who = f"series {self.method!r} under {self.rule!r}"
        rows = {
            field: markup.number_row(f"{who}: {field}", value, infinite=field == "threshold")
            for field in ("deferral_rate", "threshold", "quality", "flops", "low", "high")
            if (value := getattr(self, field)) is not None or field in ("deferral_rate", "quality")
        }
        sizes = {field: row.size for field, row in rows.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"{who}: arrays of unequal length {sizes}")
        for field, row in rows.items():
            object.__setattr__(self, field, row)
        rate = self.deferral_rate
        if (np.diff(rate) < 0).any():
            raise ValueError(f"{who}: deferral_rate falls somewhere; sort the rows by rising threshold")
        if abs(rate[0]) > _SLACK or abs(rate[-1] - 1) > _SLACK:
            raise ValueError(f"{who}: deferral_rate runs from {rate[0]:g} to {rate[-1]:g}, expected from 0 to 1")
        if self.threshold is not None and (self.threshold[1:] < self.threshold[:-1]).any():
            raise ValueError(f"{who}: threshold falls while the deferral rate rises; defer iff confidence <= tau")
        if (self.low is None) != (self.high is None) or self.low is not None and (self.low > self.high).any():
            raise ValueError(f"{who}: low and high go together, and low is at most high")
        if self.flops is not None and (self.flops < 0).any():
            raise ValueError(f"{who}: flops holds a negative number")

    def operating_points(self) -> np.ndarray:
        """Row numbers that some threshold really produces: the last row of every group with one threshold."""
        if self.threshold is None:
            return np.arange(self.deferral_rate.size)
        return np.flatnonzero(np.append(self.threshold[1:] != self.threshold[:-1], True))

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """For each wanted rate [p] the row that defers the most queries without deferring more than that."""
        points = self.operating_points()
        wanted = np.asarray(positions) + _SLACK
        indices = np.searchsorted(self.deferral_rate[points], wanted, side="right") - 1
        if (indices < 0).any():  # the first threshold already defers a group of equal confidences
            raise ValueError(f"series {self.method!r} under {self.rule!r}: no row that defers nothing (tau = -inf)")
        return points[indices]


def threshold_explorer(
    series: Sequence[Series],
    *,
    name: str,
    large_flops: float,
    title: str = "",
    quality_label: str = "Accuracy",
    quality_scale: float = 100.0,
    quality_unit: str = "%",
    decimals: int = 1,
    references: Sequence[Series] = (),
    rule_labels: Mapping[str, str] | None = None,
    grid: int = 101,
    start: float = 0.3,
    x_axis: str = "deferral_rate",
) -> str:
    """One self-contained HTML fragment with a threshold slider shared by all methods.

    series: one `Series` for each pair of method and rule; others are compared with the first one's method,
    and its rule is shown first. name: makes the ids, a letter followed by letters, digits, - and _; explorers
    on one page get different names. large_flops: C_L, mean FLOPs per query of L alone.
    quality_scale, quality_unit: how quality is shown (100 and "%" for shares; 1 and "" for BLEU on 0..100),
    with `decimals` digits. references: lines without numbers, such as methods "oracle" and "random-deferral";
    one with rule "" is shown under every rule. grid: number of slider positions, evenly from 0 to 1; at
    each the row shown has the largest deferral rate not above it. start: first position, in [0, 1].
    x_axis: "deferral_rate" or "flops". rule_labels: names of rules for readers, else their words in `methods.RULES`.
    Same arguments, same text, to the byte. Raises ValueError or TypeError in one line on bad input.
    """
    references = list(references)
    methods, rules, table = _arrange(series)
    _check(name, large_flops, grid, start, x_axis, quality_scale, decimals, references)
    positions = np.linspace(0.0, 1.0, int(grid))
    at = {key: one.rows_at(positions) for key, one in table.items()}

    shown = [line.quality for line in references]
    for key, rows in at.items():
        one = table[key]
        shown += [values[rows] for values in (one.quality, one.low, one.high) if values is not None]
    most = max(float(large_flops), *(float(one.flops.max()) for one in (*table.values(), *references)))
    scale = _Scale(quality_scale * np.concatenate(shown), most)
    columns: dict[str, int] = {}  # each column of every table as text; one that occurs twice is kept once

    def column(values: Sequence[str]) -> int:
        return columns.setdefault(" ".join(values), len(columns))

    tables = []
    for rule in rules:
        qualities = quality_scale * np.stack([table[m, rule].quality[at[m, rule]] for m in methods])
        rows = []
        for method, quality in zip(methods, qualities, strict=True):
            one, chosen = table[method, rule], at[method, rule]
            texts = {
                _QUALITY: [fixed(q, decimals) for q in quality],
                _DIFFERENCE: [fixed(d, decimals, sign=True) for d in quality - qualities[0]],
                _SHARE: [fixed(100 * f / large_flops, 1) for f in one.flops[chosen]],
                _FLOPS: [fixed(f / scale.divisor, scale.digits) for f in one.flops[chosen]],
                _RATE: [fixed(100 * r, 1) for r in one.deferral_rate[chosen]],
                _TAU: [markup.threshold_text(t) for t in one.threshold[chosen]],
                _HEIGHT: [str(round(10 * scale.y(q))) for q in quality],
            }
            for c, ends in ((_LOW, one.low), (_HIGH, one.high)) if one.low is not None else ():
                texts[c] = [str(round(10 * scale.y(quality_scale * q))) for q in ends[chosen]]
            rows.append([column(text) for text in texts.values()])
        tables.append({"best": column([str(b) for b in qualities.argmax(axis=0)]), "rows": rows})

    styles = [method_style(m) for m in methods]
    data = {
        "grid": [f"{100 * p:.4g}" for p in positions],
        "cols": list(columns),
        "rules": tables,
        "names": [style.label for style in styles],
        "before": "" if quality_unit else f"{quality_label} ",
        "after": f" {quality_unit}" if quality_unit else "",
        "left": markup.LEFT,
        "width": markup.WIDTH,
        "span": {"rate": 100.0, "flops": scale.x_high},
    }
    step, axis = int(round(start * (grid - 1))), "rate" if x_axis == "deferral_rate" else "flops"
    y_name = f"{quality_label} ({quality_unit})" if quality_unit else quality_label

    # What is seen before the script runs, without it and in print: the script's own look-up, done once here.
    split = [text.split(" ") for text in columns]
    now, best = data["grid"][step], int(split[tables[0]["best"]][step])
    bands, curves, dots, body, spoken = [], [], [], [], []
    for m, (style, row) in enumerate(zip(styles, tables[0]["rows"], strict=True)):
        xs = [scale.x(axis, float(v)) for v in split[row[_RATE if axis == "rate" else _FLOPS]]]
        ys = [int(v) / 10 for v in split[row[_HEIGHT]]]
        curves.append(f'<path class="cx-curve" {markup.stroke(style, 2.4)} d="{markup.path(xs, ys)}"/>')
        dots.append(markup.dot(style, xs[step], ys[step]))
        if len(row) > _HIGH:
            ends = [[int(v) / 10 for v in split[row[c]]] for c in (_LOW, _HIGH)]
            around = markup.path([*xs, *xs[::-1]], [*ends[0], *ends[1][::-1]])
            lit = " cx-lit" * (m in (0, best))
            bands.append(f'<path class="cx-band{lit}" data-m="{m}" fill="{style.colour}" d="{around}z"/>')
        values = [true_minus(split[c][step]) for c in row[:_HEIGHT]]
        cells = "".join(f"<td>{value}</td>" for value in values)
        mark = ' class="cx-best"' if m == best else ""
        head = f"{markup.sample(style)} {escape(style.label)}"
        body.append(f'<tr{mark}><th scope="row">{head}</th>{cells}</tr>')
        spoken.append(f"{style.label} {data['before']}{values[_QUALITY]}{data['after']}")
    value, share = (split[tables[0]["rows"][best][c]][step] for c in (_QUALITY, _SHARE))
    summary = (
        f"Highest here: {styles[best].label} with {data['before']}{true_minus(value)}{data['after']}, "
        f"at {share} % of the FLOPs of L."
    )
    lines = [_reference(line, scale, quality_scale, axis, rules[0]) for line in references]
    axes = markup.y_axis(y_name, [(scale.y(t), f"{t:g}") for t in scale.y_ticks])
    axes += markup.x_axis(
        "rate", "Deferral rate (%)", [(scale.x("rate", t), str(t)) for t in range(0, 101, 20)],
        scale.x("rate", float(now)), "", hide=axis != "rate",
    )  # fmt: skip
    axes += markup.x_axis(
        "flops", f"Mean {scale.prefix}FLOPs per query",
        [(scale.x("flops", t), f"{t:g}") for t in scale.x_ticks],
        scale.x("flops", large_flops / scale.divisor), "L alone", hide=axis != "flops",
    )  # fmt: skip
    drawing = f"{axes}<g>{''.join(bands)}</g><g>{''.join(lines + curves)}</g><g>{''.join(dots)}</g>"

    def named(style):
        return f"{markup.sample(style)} {escape(style.label)}"

    switch = '<li><button type="button" class="cx-switch" data-m="{}" aria-pressed="true">{}</button></li>'
    others = dict.fromkeys(line.method for line in references if line.method not in methods)
    alone = len(styles) == 1  # nothing to switch off
    legend = "".join(switch.format(m, named(style)) for m, style in enumerate(styles) if not alone)
    legend += "".join(f"<li>{named(style)}</li>" for style in [*styles * alone, *map(method_style, others)])
    labels = {name: rule.words for name, rule in RULES.items() if rule.words} | (rule_labels or {})
    options = "".join(
        f'<option value="{i}" data-rule="{escape(rule)}">{escape(labels.get(rule, rule))}</option>'
        for i, rule in enumerate(rules)
    )
    heads = [
        "Method", escape(y_name), f"Difference to {escape(styles[0].label)}",
        "Share of <i>C</i><sub>L</sub> (%)", f"Mean {scale.prefix}FLOPs", "Deferral rate (%)",
        "Threshold \u03c4",
    ]  # fmt: skip
    payload = markup.script_data(data)
    ident = markup.ident(name, "\n".join((payload, drawing, options, title)))
    radios = "".join(
        f'<label><input type="radio" name="{ident}-axis" value="{key}" autocomplete="off"'
        f"{' checked' if key == axis else ''}> {text}</label>"
        for key, text in (("rate", "deferral rate"), ("flops", "FLOPs"))
    )
    chart = f"{y_name} against deferral rate or FLOPs, one curve per method; the table below has the numbers"
    choice = f'<label for="{ident}-rule">Confidence</label>'
    if len(rules) == 1:  # nothing to choose: say what it is
        choice = f"Confidence: {escape(labels.get(rules[0], rules[0]))}"
    return Template(markup.asset("explorer.html")).substitute(
        ident=ident, label=escape(title or chart), css=markup.sheets("widget", "explorer"),
        title=f'<p class="cx-title">{escape(title)}</p>' if title else "",
        choice=choice, hidden="" if len(rules) > 1 else " hidden", options=options, radios=radios,
        legend=legend, chart=escape(chart), drawing=drawing,
        now=now, last=grid - 1, step=step, spoken=escape(f"deferral rate {now} %, {', '.join(spoken)}"),
        summary=escape(summary), heads="".join(f'<th scope="col">{head}</th>' for head in heads), rows="".join(body),
        data=payload, script=markup.script("explorer", ident),
    )  # fmt: skip


class _Scale:
    """From numbers to pixels of the view box: one for all rules, so that a change of rule moves curves, not the axis.

    FLOPs are shown in units of `divisor`, named by `prefix`, with `digits` after the point.
    """

    def __init__(self, quality: np.ndarray, most_flops: float):
        self.y_ticks, self.y_low, self.y_high = markup.round_ticks(float(quality.min()), float(quality.max()))
        self.prefix, self.divisor = markup.si_prefix(most_flops)
        self.x_ticks, _, self.x_high = markup.round_ticks(0.0, most_flops / self.divisor)
        self.digits = max(0, 3 - math.floor(math.log10(most_flops / self.divisor)))

    def x(self, axis: str, value: float) -> float:
        return markup.LEFT + markup.WIDTH * value / (100.0 if axis == "rate" else self.x_high)

    def y(self, value: float) -> float:
        return markup.TOP + markup.HEIGHT * (self.y_high - value) / (self.y_high - self.y_low)


def _reference(line: Series, scale: _Scale, quality_scale: float, axis: str, rule: str) -> str:
    """A line without dot and numbers, once for each horizontal axis."""
    rows = np.unique(np.linspace(0, line.quality.size - 1, min(line.quality.size, 101)).round().astype(int))
    ys = [scale.y(quality_scale * q) for q in line.quality[rows]]
    text = ""
    for which, values in (("rate", 100 * line.deferral_rate[rows]), ("flops", line.flops[rows] / scale.divisor)):
        points = markup.path(*markup.corners([scale.x(which, float(v)) for v in values], ys))
        hide = which != axis or line.rule not in ("", rule)
        text += (
            f'<path class="cx-line" data-axis="{which}" data-rule="{escape(line.rule)}"'
            f'{markup.HIDE if hide else ""} {markup.stroke(method_style(line.method), 1.6)} d="{points}"/>'
        )
    return text


def coloured_tokens(tokens: Sequence[str], classes: Sequence[str], *, title: str = "") -> str:
    """Target tokens in order, coloured by which model gets them right, with a symbol each and a legend.

    tokens [T]: text of each token, shown as it is (blanks and line ends made visible). classes [T]: keys of
    `styles.TOKEN_STYLE`: "both", "small", "large", "neither". Returns escaped HTML; raises ValueError in one
    line on unequal lengths, no tokens, or an unknown class.
    """
    tokens, classes = list(tokens), list(classes)
    if len(tokens) != len(classes) or not tokens:
        raise ValueError(f"got {len(tokens)} tokens and {len(classes)} classes, expected as many of each, at least one")
    for i, (token, kind) in enumerate(zip(tokens, classes, strict=True)):
        if not isinstance(token, str):
            raise ValueError(f"token {i} is {token!r}, expected text")
        if kind not in TOKEN_STYLE:
            raise ValueError(f"class {i} is {kind!r}, expected one of {', '.join(TOKEN_STYLE)}")

    def box(style: TokenStyle, text: str) -> str:
        return f'<span title="{escape(style.label)}" style="background:{style.colour}">{text}</span>'

    spans = "".join(
        box(TOKEN_STYLE[k], f"{escape(markup.visible(t))}<sub>{TOKEN_STYLE[k].symbol}</sub>")
        for t, k in zip(tokens, classes, strict=True)
    )
    legend = "".join(
        f"<li>{box(style, f'<b>{style.symbol}</b>')} {style.label}: {classes.count(k)} of {len(classes)}</li>"
        for k, style in TOKEN_STYLE.items()
    )
    head = f"<p>{escape(title)}</p>" if title else ""
    return (
        f'<div class="cat-card cat-tokens" role="group" aria-label="{escape(title or "Tokens by who is right")}">'
        f"{markup.sheets('tokens')}{head}<div>{spans}</div><ul>{legend}</ul></div>"
    )


def _arrange(series: Sequence[Series]) -> tuple[list[str], list[str], dict[tuple[str, str], Series]]:
    """Methods and rules in order of appearance and the series by (method, rule), each pair exactly once."""
    series = list(series)
    if not series:
        raise ValueError("no series given, expected at least one method to draw")
    table: dict[tuple[str, str], Series] = {}
    for one in series:
        if not isinstance(one, Series):
            raise TypeError(f"series holds a {type(one).__name__}, expected explorer.Series")
        if one.flops is None:
            raise ValueError(f"series {one.method!r} has no FLOPs, which the slider shows")
        if one.threshold is None:
            raise ValueError(f"series {one.method!r} has no thresholds; lines without them go into references=")
        if (one.method, one.rule) in table:
            raise ValueError(f"method {one.method!r} under rule {one.rule!r} is given twice")
        table[one.method, one.rule] = one
    methods = list(dict.fromkeys(one.method for one in series))
    rules = list(dict.fromkeys(one.rule for one in series))
    missing = [f"{m} under {r}" for m in methods for r in rules if (m, r) not in table]
    if missing:
        raise ValueError(f"every method needs every rule; missing: {', '.join(missing)}")
    return methods, rules, table


def _check(name, large_flops, grid, start, x_axis, quality_scale, decimals, references) -> None:
    number = (int, float, np.integer, np.floating)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(f"name is {name!r}, expected a letter followed by letters, digits, - or _")
    if not isinstance(large_flops, number) or not 0 < large_flops < math.inf:
        raise ValueError(f"large_flops is {large_flops!r}, expected the mean FLOPs of L alone, above 0")
    if isinstance(grid, bool) or not isinstance(grid, (int, np.integer)) or not 2 <= grid <= 1001:
        raise ValueError(f"grid is {grid!r}, expected a whole number of slider positions from 2 to 1001")
    if not isinstance(start, number) or not 0 <= start <= 1:
        raise ValueError(f"start is {start!r}, expected a deferral rate from 0 to 1")
    if x_axis not in ("deferral_rate", "flops"):
        raise ValueError(f"x_axis is {x_axis!r}, expected 'deferral_rate' or 'flops'")
    if not isinstance(quality_scale, number) or not 0 < quality_scale < math.inf:
        raise ValueError(f"quality_scale is {quality_scale!r}, expected a number above 0")
    if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= 6:
        raise ValueError(f"decimals is {decimals!r}, expected a whole number from 0 to 6")
    for line in references:
        if not isinstance(line, Series):
            raise TypeError(f"references holds a {type(line).__name__}, expected explorer.Series")
        if line.flops is None:
            raise ValueError(f"reference {line.method!r} has no FLOPs, which the slider shows")
