"""Answers to exercises: Python and the script in a real browser judge alike, and the fragment does not tell them."""

import math
import re

import pytest
from browser import browser_session
from cat_book.drawing.check import Check

AREA = Check("area", "Area <of> it", 11 / 18, within=1e-3, hint="Three trapezoids.")
SHARE = Check("share", "Share", (1200.0, 1300.0), unit="FLOPs")
ONE = Check("one", "Which?", "b & c", options=("a", "b & c", "d"), hint="Not the first.")
SOME = Check("some", "Which ones?", {"a", "d"}, options=("a", "b", "d"))
NOT_YET = "Not yet."


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("check") / "page.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    body = "".join(check._repr_html_() for check in (AREA, SHARE, ONE, SOME, AREA(0.5)))
    path.write_text(f"{head}<title>t</title><body>{body}", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "check, given, right",
    [(AREA, 0.611, True), (AREA, 0.62, False), (SHARE, 1200, True), (SHARE, 1199.9, False), (ONE, "b & c", True),
     (ONE, "a", False), (SOME, {"a", "d"}, True), (SOME, ["d", "a"], True), (SOME, {"a"}, False), (SOME, "d", False)],
)  # fmt: skip
def test_what_is_right(check, given, right):
    assert check.right(given) is right
    assert check(given).said().startswith("Right." if right else NOT_YET)
    assert check(None).said() == "" and "(no answer yet)" in repr(check)


def test_an_answer_that_is_none_is_refused():
    for bad in (math.nan, math.inf, (0.0, math.inf)):
        with pytest.raises(ValueError, match="x: expected a finite number"):
            Check("x", "?", bad)
    with pytest.raises(ValueError, match="x: the answer 'c' is not among"):
        Check("x", "?", "c", options=("a", "b"))


def test_the_answer_cannot_be_read_off_the_fragment():
    shown = AREA._repr_html_()
    assert "0.61" not in shown and "trapezoids" not in shown and "Area &lt;of&gt; it" in shown
    assert not re.search(r"checked|Right", re.sub(r"<script>.*?</script>", "", SOME._repr_html_(), flags=re.DOTALL))
    assert SOME({"a"})._repr_html_().count(" checked") == 1


def test_by_keyboard_by_touch_and_on_paper(page_file):
    with browser_session() as browser:
        with browser.open(page_file, width=390, height=800) as page:
            said = lambda n: page.text(".cx-said", n)  # noqa: E731
            fields = page.raw.locator("input[type=text]")
            tries = {"0.611": True, "11/18": True, "0,611": True, "\u22120.611": False, "1": False}
            for typed, right in tries.items():
                fields.nth(0).fill(typed)
                assert said(0) == ""
                page.press("Enter")
                assert said(0) == ("Right." if right else f"{NOT_YET} Three trapezoids."), typed
            fields.nth(0).fill("half")
            page.press("Tab", "Enter")  # to the button
            assert said(0) == "A number, please."
            fields.nth(1).fill("1,234.5")
            page.press("Enter")
            assert said(1) == "Right."
            page.raw.get_by_label("b & c").check()
            page.raw.locator(".cat-check").nth(2).get_by_role("button").click()
            assert said(2) == "Right."
            page.raw.locator(".cat-check").nth(3).get_by_label("a", exact=True).check()
            page.press("Enter")
            assert said(3) == NOT_YET
            page.raw.locator(".cat-check").nth(3).get_by_label("d", exact=True).check()
            page.press("Enter")
            assert said(3) == "Right."
            assert said(4) == f"{NOT_YET} Three trapezoids.", "given in the notebook"
            assert page.overflow() <= 0
            small = "[...document.querySelectorAll('button, label:has(input), input[type=text]')]"
            assert page.evaluate(f"{small}.every(e => e.getBoundingClientRect().height >= 32)"), "large enough to touch"
            page.raw.emulate_media(media="print")
            assert not page.raw.locator("button").first.is_visible() and fields.first.is_visible()
            assert page.evaluate("getComputedStyle(document.querySelector('input')).color") == "rgba(0, 0, 0, 0)"
        with browser.open(page_file, javascript=False) as page:
            assert page.raw.locator("noscript").first.is_visible()
        assert browser.foreign_requests == []
