"""The chooser in a real browser: one panel at a time, widgets in it work, paper and readers without script see all."""

import pytest
from browser import browser_session
from cat_book.drawing.chooser import Chooser
from cat_book.drawing.headlines import Runs, headlines_explorer
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import in_numbers

from cat_core.ranking import Interval


class Raw:
    def __init__(self, html):
        self.html = html

    def _repr_html_(self):
        return self.html


TABLES = {f"cell <{i}>": Table(("a",), [(f"value {i}",)], f"Table {i}") for i in range(3)}
CELL = Runs("c", "CAT - Xent", [1, 2], [0.1, -0.2], Interval(0.0, -0.2, 0.2))
RUNS = headlines_explorer([CELL], name="h", title="t")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("chooser") / "page.html"
    parts = TABLES | {"both": [Table(("a",), [("more",)], "More"), Raw(RUNS)]}
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    path.write_text(f"{head}<body>{Chooser(parts, 'Cell', name='demo')._repr_html_()}", encoding="utf-8")
    return path


def shown(page):
    seen = "[...document.querySelectorAll('caption')].filter(e => e.offsetParent)"
    return page.evaluate(f"{seen}.map(e => e.textContent)")


def test_one_at_a_time_and_all_on_paper(page_file):
    with browser_session() as browser:
        with browser.open(page_file, width=390, height=800) as page:
            assert shown(page) == ["Table 0"] and page.texts("option")[:2] == ["cell <0>", "cell <1>"]
            page.focus("select")
            page.press("ArrowDown", "ArrowDown")
            assert shown(page) == ["Table 2"] and page.overflow() <= 0
            page.raw.locator("select").first.select_option("3")
            assert shown(page) == ["More"]
            page.raw.locator(".cx-draw").click()
            assert page.text(".cx-said").startswith("Seed "), "a widget inside a panel works"
            page.raw.emulate_media(media="print")
            assert shown(page) == ["Table 0", "Table 1", "Table 2", "More"]
        with browser.open(page_file, javascript=False) as page:
            assert shown(page) == ["Table 0", "Table 1", "Table 2", "More"]


def test_one_part_stands_alone_and_none_is_refused():
    one = Chooser({"a": TABLES["cell <0>"]}, "Cell", name="x")._repr_html_()
    assert one == TABLES["cell <0>"]._repr_html_()
    text = repr(Chooser(TABLES, "Cell", name="x"))
    assert "Table 1" in text and "cell <1>:" in text
    with pytest.raises(ValueError, match="nothing to choose a cell from"):
        Chooser({}, "Cell", name="x")


def test_what_is_folded_is_behind_its_line_and_open_in_plain_text(tmp_path):
    part = in_numbers(TABLES["cell <1>"])
    assert repr(part) == repr(TABLES["cell <1>"])
    assert "In numbers: by cell" in in_numbers(Chooser(TABLES, "Cell", name="x"))._repr_html_()
    (tmp_path / "page.html").write_text(f"<!doctype html>{part._repr_html_()}", encoding="utf-8")
    with browser_session() as browser, browser.open(tmp_path / "page.html") as page:
        assert page.text("summary") == "In numbers: table 1" and not page.raw.locator("table").is_visible()
        page.focus("summary")
        page.press("Enter")
        assert page.raw.locator("table").is_visible()
