"""Pieces of HTML and SVG that `explorer` puts together: escaping, numbers as text, axes, style and script.

Nothing here knows a method or a metric. Standard library only.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from .styles import MethodStyle

LEFT, TOP, WIDTH, HEIGHT = 58.0, 34.0, 490.0, 250.0  # the plot area inside the 560 x 334 view box
SHAPES = {
    "o": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",
    "s": "M-5.3-5.3h10.6v10.6h-10.6z",
    "^": "M0-7L6.6 5H-6.6z",
    "v": "M0 7L6.6-5H-6.6z",
    "D": "M0-7.4L7.4 0L0 7.4L-7.4 0z",
    "P": "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "X": "M0-2.4L4-6.4L6.4-4L2.4 0L6.4 4L4 6.4L0 2.4L-4 6.4L-6.4 4L-2.4 0L-6.4-4L-4-6.4z",
    ">": "M7 0L-5 6.6V-6.6z",
    "<": "M-7 0L5-6.6V6.6z",
    "h": "M0-7L6-3.5V3.5L0 7L-6 3.5V-3.5z",
    "p": "M0-6.6L6.3-2L3.9 5.4H-3.9L-6.3-2z",
    "*": "M0-7.6L1.8-2.5H7.2L2.9.8L4.5 6.1L0 3L-4.5 6.1L-2.9.8L-7.2-2.5H-1.8z",
}


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def true_minus(number: str) -> str:
    return number.replace("-", "\u2212")


def fixed(value: float, digits: int, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text  # neither -0.0 nor +0.0


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


HIDE = ' display="none"'

# Explicit colours everywhere: in dark mode a theme puts outputs on a light card but keeps some text light.
CSS = """
.cat-explorer{box-sizing:border-box;max-width:760px;margin:4px 0;padding:14px 16px;border:1px solid #c8ccd0;
border-radius:8px;background:#fff;color:#1a1a1a;
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
break-inside:avoid;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.cat-explorer *{box-sizing:border-box}
.cat-explorer :is(p,label,legend,li,th,td,output,small,i,sub,noscript){color:#1a1a1a}
.cat-explorer p.cx-title{margin:0 0 8px;font-size:17px;font-weight:600}
.cat-explorer .cx-choices{display:flex;flex-wrap:wrap;gap:8px 24px;align-items:center;margin:0 0 8px}
.cat-explorer .cx-choices>div{max-width:100%}
.cat-explorer select[hidden]{display:none}
.cat-explorer select{max-width:100%;margin:0;padding:4px 6px;min-height:34px;font:inherit;color:#1a1a1a;
background:#fff;border:1px solid #767676;border-radius:5px}
.cat-explorer fieldset{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:center;border:0;margin:0;
padding:0;min-width:0}
.cat-explorer fieldset legend{float:left;width:auto;margin:0;padding:0;font:inherit}
.cat-explorer fieldset label{display:inline-flex;align-items:center;gap:5px;min-height:34px;margin:0}
.cat-explorer input[type=radio]{width:17px;height:17px;margin:0;accent-color:#005b8f}
.cat-explorer ul.cx-legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;margin:0;padding:0;
font-size:14px}
.cat-explorer ul.cx-legend li{margin:0;padding:0}
.cat-explorer .cx-sample{display:inline-block;vertical-align:middle;fill:none;overflow:visible}
.cat-explorer .cx-plot{container-type:inline-size;margin:6px 0 2px}
.cat-explorer .cx-plot svg{display:block;width:100%;height:auto;overflow:visible}
.cat-explorer .cx-plot text{font-size:12.5px;fill:#333;font-variant-numeric:tabular-nums}
.cat-explorer .cx-plot text.cx-name{fill:#1a1a1a;font-weight:600}
.cat-explorer :is(.cx-curve,.cx-line){fill:none;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.cat-explorer .cx-grid{stroke:#e3e5e8;fill:none}
.cat-explorer .cx-tick{stroke:#555;fill:none}
.cat-explorer .cx-guide{stroke:#555;stroke-dasharray:3 3;fill:none}
.cat-explorer .cx-dot path{stroke:#fff;stroke-width:1.6}
@container (max-width:460px){.cat-explorer .cx-plot text{font-size:19px}
.cat-explorer .cx-dot path{transform:scale(1.4)}}
.cat-explorer .cx-slider{display:grid;grid-template-columns:1fr auto;gap:0 12px;align-items:baseline;
margin:6px 0 0}
.cat-explorer .cx-slider label{margin:0;font-weight:600}
.cat-explorer .cx-slider small{font-weight:400;font-size:13.5px}
.cat-explorer .cx-slider output{font-weight:600;font-size:17px;font-variant-numeric:tabular-nums;padding:0}
.cat-explorer input[type=range]{grid-column:1/-1;width:100%;height:28px;margin:5px 0;padding:0;
accent-color:#005b8f;background:transparent}
.cat-explorer :is(input,select,.cx-scroll):focus-visible{outline:2px solid #005b8f;outline-offset:1px;
border-radius:5px}
.cat-explorer p.cx-summary{margin:2px 0 8px}
.cat-explorer .cx-scroll{overflow-x:auto;max-width:100%}
.cat-explorer table{width:100%;margin:0;border-collapse:collapse;font-size:14px;line-height:1.3;
background:#fff;font-variant-numeric:tabular-nums}
.cat-explorer thead th{vertical-align:bottom;font-weight:600;border-bottom:1.5px solid #555}
.cat-explorer table :is(th,td){padding:5px;text-align:right;background:#fff;border-width:0 0 1px;
border-style:solid;border-color:#e3e5e8}
.cat-explorer table td{white-space:nowrap}
.cat-explorer table tr>:first-child{text-align:left;white-space:nowrap;position:sticky;left:0}
.cat-explorer tbody th{font-weight:400}
.cat-explorer table .cx-sample{width:30px}
.cat-explorer tbody tr.cx-best>*{font-weight:700;background:#eef4f8}
@media (max-width:480px){.cat-explorer{padding:12px 10px}.cat-explorer .cx-choices{gap:4px 14px}
.cat-explorer fieldset{gap:0 10px}.cat-explorer table{font-size:13px}
.cat-explorer table :is(th,td){padding:5px 4px}.cat-explorer table .cx-sample{width:26px}}
@media print{.cat-explorer .cx-scroll{overflow:visible}.cat-explorer table{font-size:11px}}
"""

# Looks rows up and moves things; computes nothing but pixels. It waits for its element because notebooks run
# scripts before the output is in the page, and starts from the controls because browsers restore them.
SCRIPT = """
(function(){"use strict";var tries=0;
function boot(){var found=document.querySelectorAll('[id="IDENT"]');
if(!found.length){if(++tries<200)setTimeout(boot,50);return}
found.forEach(function(root){if(!root.dataset.ready){root.dataset.ready="1";begin(root)}})}
function begin(root){
function all(s){return Array.from(root.querySelectorAll(s))}
function one(s){return root.querySelector(s)}
var data=JSON.parse(one(".cx-data").textContent);
var cols=data.cols.map(function(c){return c.split(" ")});
var slider=one("input[type=range]"),out=one("output"),rule=one("select"),radios=all("input[type=radio]");
var said=one(".cx-summary"),dots=all(".cx-dot"),curves=all(".cx-curve"),trs=all("tbody tr");
var guide=one('.cx-x[data-axis="rate"] .cx-guide');
var cells=trs.map(function(tr){return Array.from(tr.querySelectorAll("td"))});
function minus(t){return t.replace(/-/g,"\\u2212")}
function shown(row,k){return data.before+minus(cols[row[0]][k])+data.after}
function axis(){return radios.filter(function(r){return r.checked})[0].value}
function place(which,row,k){var v=cols[row[which==="rate"?4:3]][k];
return (data.left+data.width*v/data.span[which]).toFixed(1)+" "+(cols[row[6]][k]/10).toFixed(1)}
function move(){var k=+slider.value,which=axis(),table=data.rules[+rule.value],now=data.grid[k],heard=[];
var best=+cols[table.best][k];
table.rows.forEach(function(row,m){
for(var c=0;c<6;c++)cells[m][c].textContent=minus(cols[row[c]][k]);
trs[m].classList.toggle("cx-best",m===best);
dots[m].setAttribute("transform","translate("+place(which,row,k)+")");
heard.push(data.names[m]+" "+shown(row,k))});
guide.setAttribute("transform","translate("+(data.left+data.width*now/data.span.rate).toFixed(1)+" 0)");
out.textContent=now+" %";
slider.setAttribute("aria-valuetext","deferral rate "+now+" %, "+heard.join(", "));
said.textContent="Highest here: "+data.names[best]+" with "+shown(table.rows[best],k)+", at "+
cols[table.rows[best][2]][k]+" % of the FLOPs of L."}
function draw(){var which=axis(),table=data.rules[+rule.value];
var name=rule.options[rule.selectedIndex].dataset.rule;
table.rows.forEach(function(row,m){curves[m].setAttribute("d","M"+cols[row[6]].map(function(_,k){
return place(which,row,k)}).join("L"))});
all(".cx-x,.cx-line").forEach(function(e){var d=e.dataset;
var show=d.axis===which&&(!d.rule||d.rule===name);
if(show)e.removeAttribute("display");else e.setAttribute("display","none")});move()}
slider.addEventListener("input",move);rule.addEventListener("change",draw);
radios.forEach(function(r){r.addEventListener("change",draw)});draw()}
boot()})();
"""
