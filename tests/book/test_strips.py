"""Strips in a real browser: a slider moves all marks, a list shows one group, on paper and without script all stand."""

import pytest
from browser import HEAD
from cat_book.build.slides import cut
from cat_book.drawing.strips import Axis, Slider, Strip, Strips

from cat_core.ranking import Interval

AXIS = Axis("points <b>", -1, 3, [(-1, "-1"), (0, "0"), (3, "3")])
SLIDER = Slider("Cost", ["none", "all"], ["At none.", "At all."])
BARS, BANDS = [Interval(0, -1, 1), Interval(2, 1, 9)], [(-1, 3), (0, 1)]
MOVES = Strip("a <i>", ["low", "high"], [0, 1], BARS, BANDS, [[0.0, 1.0], [1.0, 2.0]])
STAYS = Strip("b", ["same"], [2], [Interval(1, 1, 1)], parts=[(-1, 0, 0), (0, 3, 1)])
GROUPS = {"one": [MOVES, STAYS], "two": [STAYS]}


def strips(groups=GROUPS, slider=SLIDER, **more):
    return Strips(groups, AXIS, slider, name="demo", title="Strips", caption="Figure 1: what to see.", **more)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("strips") / "page.html"
    made = strips(legend=[("k1", "better"), ("band", "range")], notes={"one": "A note."})
    path.write_text(HEAD + made._repr_html_(), encoding="utf-8")
    return path


def places(page, strip=0):
    ask = "(e => [e.className, ...['.cx-bar x1', '.cx-bar x2', '.cx-at cx', '.cx-band x', '.cx-band width'].map(s =>"
    ask += " e.querySelector(s.split(' ')[0]).getAttribute(s.split(' ')[1]))])(document.querySelectorAll('li.cx-strip')"
    return page.evaluate(f"{ask}[{strip}])")


def test_the_slider_moves_every_mark_and_says_where_it_is(browser, page_file):
    with browser.open(page_file, width=390, height=700) as page:
        assert places(page) == ["cx-strip cx-k0", "2%", "50%", "26%", "2%", "96%"]
        page.focus("input")
        page.press("ArrowRight")
        assert places(page) == ["cx-strip cx-k1", "50%", "98%", "74%", "26%", "24%"], "beyond the axis: at its end"
        dots = "[...document.querySelectorAll('.cx-dot')].map(e => e.getAttribute('cx'))"
        assert page.evaluate(dots) == ["50%", "74%"]
        assert page.text("output") == "all" == page.attribute("input", "aria-valuetext")
        assert page.text(".cx-said") == "At all." and page.texts(".cx-now") == ["high", "same", "same"]
        page.press("Home")
        assert page.text(".cx-now") == "low" and page.texts(".cx-of")[0] == "a <i>"
        assert page.count("rect.cx-part") == 4 and page.overflow() <= 0


def test_one_group_is_looked_at_and_all_stand_on_paper(browser, page_file):
    seen = "[...document.querySelectorAll('.cx-of')].filter(e => e.offsetParent).length"
    with browser.open(page_file, width=768) as page:
        assert page.evaluate(seen) == 2
        page.focus("select")
        page.press("ArrowDown")
        assert page.evaluate(seen) == 1
        page.raw.emulate_media(media="print")
        assert page.evaluate(seen) == 3 and page.raw.locator(".cx-head").first.is_visible()
        assert not page.raw.locator("input").is_visible()
    with browser.open(page_file, javascript=False) as page:
        assert page.evaluate(seen) == 3


def test_without_slider_or_groups_there_is_nothing_to_move(browser, tmp_path):
    made = strips({"one": [STAYS]}, None)
    (tmp_path / "page.html").write_text(HEAD + made._repr_html_(), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        assert page.count("input, select") == 0 and page.texts(".cx-now") == ["same"]
    assert repr(made) == "Strips\none: b: same\nFigure 1: what to see."


def test_a_group_may_have_an_axis_of_its_own():
    axes = {"one": AXIS, "two": Axis("far", 0, 100, [(100, "100")])}
    html = Strips(GROUPS, axes, SLIDER, name="demo", title="Strips", caption="c")._repr_html_()
    assert [html.count(f'class="cx-at" cx="{x}%"') for x in (50, 3)] == [1, 1] and ">far</span>" in html


def test_slides_find_it_by_its_number():
    element = cut(f"<p>a</p>{strips()._repr_html_()}<p>b</p>", "Figure 1")
    assert element.startswith("<figure") and element.endswith("</figure>") and "function begin" in element


def test_what_does_not_fit_is_refused():
    for groups in ({}, {"one": []}):
        with pytest.raises(ValueError, match="no strip to draw"):
            strips(groups)
    for more in ({"texts": ["x"] * 3}, {"texts": []}, {"texts": ["x"], "bars": [Interval(0, 0, 0)] * 3}):
        with pytest.raises(ValueError, match="strip 'c': (texts|bars) are not one"):
            strips({"one": [Strip("c", **more)]})
