"""Tables escape what they show, show numbers in their unit, and never a number that is none."""

import re

import pytest
from cat_book.drawing.markup import asset
from cat_book.drawing.tables import Table

from cat_core.analysis.quantities import PERCENT, PLAIN, POINTS, Undefined, Unit, show_number
from cat_core.ranking import Interval


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.6123, PERCENT, "61.2\u00a0%"),
        (-0.004, POINTS, "\u22120.40"),
        (0.0, POINTS, "0.00"),
        (-1e-9, POINTS, "0.00"),
        (Interval(0.5, 0.25, 0.75), PERCENT, "50.0\u00a0% [25.0,\u00a075.0]"),
        (Interval(0.01, -0.02, 0.03), POINTS, "+1.00 [\u22122.00,\u00a0+3.00]"),
        (Undefined("no such row"), PLAIN, "\u2013 (no such row)"),
        (1234.5, Unit(1, 0), "1234"),
    ],
)
def test_numbers(value, unit, text):
    assert show_number(value, unit) == text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "1", True, Interval(0.1, float("nan"), 1)])
def test_no_number_is_refused(bad):
    with pytest.raises(ValueError, match=r"not a finite number: give Undefined\(reason\)"):
        show_number(bad)


def test_table_is_escaped_and_whole():
    nasty = "<script>alert('x')</script> & \"$y$\""
    table = Table((nasty, "n"), [(nasty, 1500), ("a", 0.25), ("b", Interval(1, 0, 2))], nasty, nasty)
    html = table._repr_html_()
    assert "<script>" not in html and html.count("&lt;script&gt;") == 5
    assert re.findall(r"<td>(.*?)</td>", html) == ["1,500", "0.25", "1.00 [0.00,\u00a02.00]"]
    assert html.count('scope="row"') == 3 and html.count('scope="col"') == 2 and "<caption>" in html
    for name in ("div", "table", "tr", "th", "td", "p", "caption"):
        assert len(re.findall(f"<{name}[ >]", html)) == html.count(f"</{name}>")
    assert repr(table).splitlines()[1] == f"{nasty} | n"


def test_a_wide_table_names_each_number_for_narrow_screens_and_stays_a_table():
    columns, rows = ("row", "a & b", "c", "d", "e"), [("x", 1, 2, 3, 4), ("y", 5, "", 7, 8)]
    html = Table(columns, rows, "caption")._repr_html_()
    assert re.findall(r'data-head="(.*?)">(.*?)</td>', html)[:5] == [
        ("a &amp; b", "1"), ("c", "2"), ("d", "3"), ("e", "4"), ("a &amp; b", "5"),
    ]  # fmt: skip
    counts = {"table": 1, "rowgroup": 2, "row": 3, "columnheader": 5, "rowheader": 2, "cell": 8}
    for role, count in counts.items():  # CSS that lays a table out as blocks takes its elements' own roles away
        assert html.count(f'role="{role}"') == count, role
    narrow = Table(columns[:3], [row[:3] for row in rows], "caption")._repr_html_()
    assert "cat-dense" not in html.replace(asset("table.css"), "")
    assert 'cat-wide cat-dense"' in Table(list("abcdefg"), [], "caption")._repr_html_()
    assert "data-head=" not in narrow and 'class="cat-card cat-table"' in narrow and 'role="cell"' not in narrow


def test_bad_tables():
    with pytest.raises(ValueError, match="row 1 has 1 cells, expected 2"):
        Table(("a", "b"), [("x", 1), ("y",)], "caption")
    with pytest.raises(ValueError, match="needs columns and a caption"):
        Table((), [], "caption")
    with pytest.raises(ValueError, match="needs columns and a caption"):
        Table(("a",), [], " ")
    with pytest.raises(ValueError, match="needs a reason in words"):
        Undefined("")
