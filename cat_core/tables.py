"""Small tables for pages: escaped HTML with a caption, readable in print, on a phone and in dark mode.

Cells are shown as they are given: `Interval`s and numbers in the unit and with the digits that the caller
asks for, `Undefined` as a dash with its reason. Every text is escaped, as labels and answers may come from
data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

from cat_core.markup import escape, fixed, true_minus
from cat_core.ranking import Interval


@dataclass(frozen=True)
class Undefined:
    """In place of a number that does not exist, with the reason in words; never 0, never NaN."""

    reason: str

    def __post_init__(self):
        if not isinstance(self.reason, str) or not self.reason.strip():
            raise ValueError(f"an undefined number needs a reason in words, got {self.reason!r}")


@dataclass(frozen=True)
class Unit:
    """How numbers are shown: multiplied by `scale`, with `decimals` digits, then `suffix`; `sign` shows a
    plus.
    """

    scale: float = 1.0
    decimals: int = 1
    suffix: str = ""
    sign: bool = False


PERCENT = Unit(100.0, 1, "\u00a0%")
POINTS = Unit(100.0, 2, "", True)
PLAIN = Unit(1.0, 2)


def show_number(value, unit: Unit = PLAIN) -> str:
    """`value` (a number, an Interval or Undefined) as text: "61.2 %", "+0.4 [−0.1, +0.9]", "– (the reason)"

    Raises ValueError for NaN and infinity: what does not exist is `Undefined`, with a reason.
    """
    if isinstance(value, Undefined):
        return f"\u2013 ({value.reason})"
    if isinstance(value, Interval):
        middle, low, high = (_finite(part, unit) for part in (value.estimate, value.low, value.high))
        return f"{middle}{unit.suffix} [{low},\u00a0{high}]"  # a narrow cell breaks before the bracket
    return f"{_finite(value, unit)}{unit.suffix}"


def _finite(value, unit: Unit) -> str:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number: give Undefined(reason) where there is none")
    return true_minus(fixed(unit.scale * float(value), unit.decimals, sign=unit.sign))


# Explicit colours: in dark mode a theme puts outputs on a light card but keeps some text light.
CSS = """
.cat-table{color-scheme:light;box-sizing:border-box;max-width:760px;margin:4px 0;padding:10px 12px;
border:1px solid #c8ccd0;border-radius:8px;background:#fff;overflow-x:auto;font:14px/1.4 system-ui,sans-serif}
.cat-table :is(caption,th,td,p){color:#1a1a1a;background:#fff;text-align:left}
.cat-table table{width:100%;margin:0;border-collapse:collapse;font-variant-numeric:tabular-nums}
.cat-table caption{caption-side:top;padding:0 0 6px;font-weight:600}
.cat-table :is(th,td){padding:5px 7px;vertical-align:top;border:0;border-bottom:1px solid #e3e5e8}
.cat-table thead th{border-color:#555}
.cat-table p{margin:8px 0 0;font-size:13px;overflow-wrap:anywhere}
.cat-wide{font-size:13px}.cat-dense{font-size:12px}.cat-dense :is(th,td){padding:5px 4px}
@media screen and (max-width:640px){.cat-wide{font-size:14px}.cat-wide :is(table,caption,tbody,tr,th,td){display:block}
.cat-wide thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cat-wide tr{padding:6px 0;border-bottom:1px solid #9aa0a6}.cat-wide tbody :is(th,td){padding:1px 0;border:0}
.cat-wide td[data-head]:not(:empty)::before{content:attr(data-head) ": ";color:#555}}
@media print{.cat-table{overflow:visible;max-width:none;padding:6px 0;border:0;font-size:12px}
.cat-table :is(th,td){padding:3px 5px}.cat-table tr{break-inside:avoid}.cat-table p{font-size:11px}}
"""
STACKED, DENSE = 3, 6
"""A table of more columns than the first is laid out row by row on a narrow screen, each number with the head of its
column; one of more than the second is set smaller, to fit into the column of text of a book."""


ROLES = {"table": "table", "body": "rowgroup", "tr": "row", "col": "columnheader", "row": "rowheader", "td": "cell"}


class Table:
    """A table that a notebook shows as HTML, and elsewhere as plain text.

    columns: the head of each column. rows: as many cells each; texts, whole numbers, or what `show_number`
    takes (in PLAIN; format other units beforehand). caption: above the table; note: small print below it.
    The first column names the row. Raises ValueError in one line for no columns, an empty caption, or a row
    of another length.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence], caption: str, note: str = ""):
        self.columns, self.caption, self.note = [str(c) for c in columns], caption, note
        self.rows = [[_text(cell) for cell in row] for row in rows]
        if not self.columns or not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"a table needs columns and a caption, got {self.columns} and {caption!r}")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {caption[:40]!r}: row {number} has {len(row)} cells, expected {len(self.columns)}"
                )

    def _repr_html_(self) -> str:
        wide = len(self.columns) > STACKED
        head = [f' data-head="{escape(c)}"' if wide else "" for c in self.columns]
        role = {tag: f' role="{name}"' if wide else "" for tag, name in ROLES.items()}  # a stacked table stays one
        heads = "".join(f'<th scope="col"{role["col"]}>{escape(c)}</th>' for c in self.columns)
        body = "".join(
            f'<tr{role["tr"]}><th scope="row"{role["row"]}>{escape(row[0])}</th>'
            + "".join(f"<td{role['td']}{label}>{escape(text)}</td>" for label, text in zip(head[1:], row[1:]))
            + "</tr>"
            for row in self.rows
        )
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        kind = "cat-table" + " cat-wide" * wide + " cat-dense" * (len(self.columns) > DENSE)
        return (
            f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(self.caption)}">'
            f"<style>{CSS}</style><table{role['table']}><caption>{escape(self.caption)}</caption>"
            f"<thead{role['body']}><tr{role['tr']}>{heads}</tr></thead><tbody{role['body']}>{body}</tbody></table>"
            f"{note}</div>"
        )

    def __repr__(self) -> str:
        lines = [self.caption, " | ".join(self.columns), *(" | ".join(row) for row in self.rows)]
        return "\n".join([*lines, self.note] if self.note else lines)


def _text(cell) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Integral) and not isinstance(cell, bool):
        return f"{int(cell):,}"
    return show_number(cell)
