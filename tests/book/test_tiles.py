"""Verdict tiles: places of the intervals, text against the verdicts, and both in a real browser."""

import re

import pytest
from browser import browser_session
from cat_book.drawing.tiles import PAD, WIDTH, Answer, Tile, tiles
from cat_book.pages import covers

from cat_core.analysis import verdicts
from cat_core.ranking import Interval

HOSTILE = """<img src=x onerror="window.hit=1">"""


def test_intervals_stand_where_they_belong_and_end_in_arrows_beyond_the_axis():
    beyond = Answer("x", "c", Interval(60.0, -70.0, 90.0))
    bars = [Answer("?", "a", Interval(10.0, -20.0, 30.0), "cat-dist"), Answer("-", "b"), beyond]
    html = tiles([Tile("C1", "q", bars, 50.0, " %", 13.0)], title="t", rules="r")
    place = lambda v: PAD + (WIDTH - 2 * PAD) * (v + 50) / 100  # noqa: E731
    first, second = re.findall(r"<g stroke=.*?</g>", html)
    numbers = [float(x) for x in re.findall(r"M([\d.]+) 8\.5H([\d.]+)M([\d.]+) 4\.5v8M([\d.]+) 4\.5v8", first)[0]]
    assert numbers == pytest.approx([place(v) for v in (-20, 30, -20, 30)], abs=0.06)
    assert float(re.search(r'cx="([\d.]+)"', first)[1]) == pytest.approx(place(10), abs=0.06)
    assert "l5-4v8z" in second and "l-5-4v8z" in second and "circle" not in second
    assert float(re.search(r'cx-mark" d="M([\d.]+)', html)[1]) == pytest.approx(place(13), abs=0.06)
    assert re.findall(r"<text[^>]*>(.*?)</text>", html) == ["\u221250 %", "0", "+50 %"]
    assert "<svg" not in tiles([Tile("C1", "q", [bars[1]])], title="t", rules="r")
    for bad in ([], [Tile("C1", "q", [])]):
        with pytest.raises(ValueError, match="at least one"):
            tiles(bad, title="t", rules="r")


def entry(claim, family, estimate, error=0.02, **more):
    where = {"page": "page", "edition": "edition", "suite": "suite", "measure": "measure", "role": "primary"}
    number = Interval(estimate, estimate - 2 * error, estimate + 2 * error)
    row = {"direction": 1, "share": True, "scale": 100.0, "n": 1000, "seeds": 6} | more
    return verdicts.Entry(claim=claim, number=number, error=error, freedom=30.0, family=family, **where, **row)


def test_each_claim_has_a_tile_that_says_what_the_verdict_says():
    entries = [entry("C1", "CAT-Xent", 0.25), entry("C1", "CAT-Dist", -0.30), entry("C2", "CAT-Xent", 0.0, 0.01),
               entry("C6", "CAT-Xent", -0.05, share=False, direction=-1)]  # fmt: skip
    shown = covers.verdict_tiles(entries)
    said = dict(zip(covers.QUESTIONS, repr(shown).partition(". ")[2].split("; C")))
    assert set(covers.QUESTIONS) == set(verdicts.CLAIMS) and set(covers.ANSWERS) >= {
        found.word for claim in verdicts.CLAIMS for found in verdicts.verdict_of(claim, entries).findings.values()
    }
    text = said["C1"].replace("\u00a0", " ")
    assert "CAT-Xent: yes, and as much as the paper says may be, +25.0 % [+21.0, +29.0]." in text
    assert "CAT-Dist: no, rather the contrary, \u221230.0 % [\u221234.0, \u221226.0]." in text
    assert "no effect worth having" in said["C2"] and "yes, +5.00" in said["C6"] and "turned round" in said["C6"]
    assert "Could not be tested (nothing that was run measures it)" in said["C9"]


def test_tiles_in_a_browser(tmp_path):
    tile = Tile(HOSTILE, HOSTILE, [Answer("?", HOSTILE, Interval(0.1, 0.0, 0.2))], note=HOSTILE)
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    shown = tiles([tile] * 5, title=HOSTILE, rules=HOSTILE)
    (tmp_path / "page.html").write_text(f"{head}<body>{shown}", encoding="utf-8")
    with browser_session() as browser:
        for width in (390, 1280):
            with browser.open(tmp_path / "page.html", width=width) as page:
                assert page.count("li") == 5 and page.overflow() <= 0 and page.count("img") == 0
                assert not page.raw.locator("details p").is_visible()
                page.raw.locator("summary").click()
                assert page.text("details p") == HOSTILE and page.evaluate("window.hit === undefined")
