"""Two hundred questions, one threshold: keys, mouse and touch in a real browser against a count item by item."""

import numpy as np
import pytest
from cat_book.drawing.questions import MOST, Question, drawn, questions_explorer

HOSTILE = """</script><img src="https://example.org/x.png" onerror="window.hit=1">"&'"""


def questions(n=60, ties=True):
    rng, found = np.random.default_rng(4), []
    for i in range(n):
        small, large = bool(rng.random() < 0.5), bool(rng.random() < 0.8)
        confidence = rng.normal() + small
        answers = (f"a{i}" if right else HOSTILE for right in (small, large))
        confidence = round(confidence, 1) if ties else confidence
        found.append(Question(f"question {i}?", f"a{i}", *answers, small, large, confidence, 10 + i % 3, 100 + i % 7))
    return found


def counted(items, k):
    """(deferred, right, share of L's cost) with the highest threshold that defers at most k, by trying each."""
    best = None
    for tau in [float("-inf"), *sorted({q.confidence for q in items})]:
        sent = [q.confidence <= tau for q in items]
        if sum(sent) <= k:
            right = sum(q.large_right if s else q.small_right for q, s in zip(items, sent))
            cost = sum(q.small_flops + q.large_flops * s for q, s in zip(items, sent))
            best = sum(sent), right, round(100 * cost / sum(q.large_flops for q in items))
    return best


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "page.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    path.write_text(f"{head}<body>{questions_explorer(questions(), name='demo', title=HOSTILE)}", encoding="utf-8")
    return path


def state(page):
    """(dots in the upper lane, dots that are not pale) as drawn."""
    return page.evaluate(
        """() => {const d = [...document.querySelectorAll('circle[data-i]')];
        const y = e => +e.getAttribute('transform').match(/[\\d.]+/g)[1];
        const middle = document.querySelector('.cx-field svg').viewBox.baseVal.height / 2;
        return [d.filter(e => y(e) < middle).length, d.filter(e => !e.classList.contains('cx-wrong')).length]}"""
    )


def check(page, items, k):
    sent, right, share = counted(items, k)
    n = len(items)
    said = f"S keeps {n - sent} and asks L about {sent}. Right: {right} of {n} ({100 * right / n:.1f} %), at {share} %"
    assert page.text(".cx-said").startswith(said)
    assert page.text("output") == f"{sent} of {n}" and page.attribute("input", "aria-valuetext").startswith(said)
    assert state(page) == [sent, right]


def test_keys_and_mouse_move_dots_as_counted(browser, page_file):
    items = questions()
    with browser.open(page_file) as page:
        k = 18
        check(page, items, k)
        page.focus("input")
        for key, step in (("ArrowRight", 1), ("ArrowRight", 1), ("PageUp", 6), ("End", 60), ("PageDown", -6)):
            page.press(key)
            k = min(60, k + step)
            check(page, items, k)
        box = page.raw.locator(".cx-field svg").bounding_box()
        page.raw.mouse.move(box["x"] + 5, box["y"] + box["height"] - 4)
        page.raw.mouse.down()
        check(page, items, 0)
        page.raw.mouse.move(box["x"] + box["width"] - 1, box["y"] + 4, steps=4)
        page.raw.mouse.up()
        check(page, items, 60)
        assert page.overflow() <= 0 and page.evaluate("window.hit") is None


def test_a_dot_shows_its_question_and_who_answers_it(browser, page_file):
    items = sorted(questions(), key=lambda q: q.confidence)  # sorted as numpy's stable order
    with browser.open(page_file, width=390, height=800) as page:
        page.raw.locator("circle[data-i='41']").click()
        q = items[41]
        assert page.texts("dd")[0] == q.prompt and page.text("output", 1) == "42"
        assert page.texts("dd")[1] == f"{q.small_answer} {'✓' if q.small_right else '✗'}"
        assert page.texts("dd")[4].startswith("S answers")
        page.focus("input")
        page.press("End")
        assert page.texts("dd")[4].startswith("L answers")
        page.focus("input", 1)
        page.press("Home")
        assert page.texts("dd")[0] == items[0].prompt and page.overflow() <= 0


def test_without_script_and_with_bad_input(browser, page_file):
    with browser.open(page_file, javascript=False) as page:
        check(page, questions(), 18)
    assert questions_explorer(questions(), name="a") == questions_explorer(questions(), name="a")
    for bad in ([], questions(1) * (MOST + 1), [Question("q", "a", "a", "a", True, True, float("nan"), 1, 2)]):
        with pytest.raises(ValueError, match="expected|must be finite"):
            questions_explorer(bad, name="x")
    rows = drawn(1000, 200)
    assert len(set(rows)) == 200 and (np.diff(rows) > 0).all() and drawn(3).tolist() == [0, 1, 2]
