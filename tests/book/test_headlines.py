"""Would you have published it: every seed once, in a real browser, by mouse and by key; texts against the numbers."""

import re

import pytest
from browser import HEAD
from cat_book.drawing.headlines import Runs, headlines_explorer

from cat_core.ranking import Interval

CELLS = [
    Runs("one <b>", "A − B", (1, 2, 3), (0.5, -0.25, 1.0), Interval(0.42, -0.3, 1.1)),
    Runs("two", "C − D", (4, 5), (2.0, 3.0), Interval(2.5, 1.5, 3.5)),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("headlines") / "page.html"
    path.write_text(HEAD + headlines_explorer(CELLS, name="demo", title="Would you?"), encoding="utf-8")
    return path


def test_every_seed_is_drawn_once_and_then_all_are_shown(browser, page_file):
    with browser.open(page_file, width=390, height=700) as page:
        said = []
        page.focus(".cx-draw")
        for n in range(3):
            page.press("Enter")
            said.append(page.text(".cx-said"))
            assert page.count(".cx-dots circle") == n + 1 and page.count("circle[data-last]") == 1
        assert page.evaluate("document.querySelector('.cx-draw').disabled")
        assert sorted(re.match(r"Seed (\d)", text)[1] for text in said) == ["1", "2", "3"]
        assert "Seed 2: −0.25 points. “Cascade-aware training loses 0.25 points.”" in said
        page.raw.locator(".cx-whole").click()
        assert page.text(".cx-said") == (
            "All 3 seeds: 2 above 0, 1 not. Together +0.42 points, 95 % interval −0.30 points to +1.10 points: "
            "it lies on both sides of 0."
        )
        bar = [float(x) for x in re.findall(r"M([\d.]+) 7[02]V", page.attribute(".cx-bar", "d"))]
        dots = page.evaluate("[...document.querySelectorAll('.cx-dots circle')].map(e => +e.getAttribute('cx'))")
        per = (bar[1] - bar[0]) / 1.4  # pixels a point: from -0.3 to 1.1
        assert sorted(dots) == pytest.approx([bar[0] + per * (v + 0.3) for v in (-0.25, 0.5, 1.0)], abs=0.2)
        assert page.overflow() <= 0


def test_another_cell_starts_anew(browser, page_file):
    with browser.open(page_file) as page:
        page.raw.locator(".cx-whole").click()
        page.raw.locator("select").select_option("1")
        assert page.count(".cx-dots circle") == 0 and not page.attribute(".cx-bar", "d")
        assert page.text(".cx-what") == "C − D" and page.texts("option")[0] == "one <b>: A − B"
        page.raw.locator(".cx-whole").click()
        assert page.text(".cx-said").endswith("it lies above 0.") and page.count(".cx-dots circle") == 2
    with browser.open(page_file, javascript=False) as page:
        assert "All 3 seeds" in page.text("noscript")


def test_what_cannot_be_drawn_is_refused():
    for cells in ([], [Runs("x", "y", (1, 2), (0.0,), Interval(0, 0, 0))]):
        with pytest.raises(ValueError, match="at least one cell, each with as many values as seeds"):
            headlines_explorer(cells, name="x", title="t")
