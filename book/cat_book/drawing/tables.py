"""Small tables for pages: escaped HTML with a caption, readable in print, on a phone and in dark mode.

Cells are shown as they are given: `Interval`s and numbers in the unit and with the digits that the caller
asks for, `Undefined` as a dash with its reason. Every text is escaped, as labels and answers may come from
data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

from cat_book.drawing.markup import escape, sheets
from cat_core.analysis.quantities import show_number

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
        kind = "cat-card cat-table" + " cat-wide" * wide + " cat-dense" * (len(self.columns) > DENSE)
        return (
            f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(self.caption)}">'
            f"{sheets('table')}<table{role['table']}><caption>{escape(self.caption)}</caption>"
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
