"""The calculator in a real browser against the conditions in closed form (`limits.Couple`)."""

import pytest
from cat_book.drawing.calculator import START, calculator

from cat_core.analysis.limits import Couple

HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'


def expected(v):
    couple, rate = Couple(v["small"], v["large"], v["ratio"] / 100), v["rate"] / 100
    quality = min(100.0, float(couple.random(rate)) + 4 * v["gain"] * rate * (1 - rate))
    return quality, v["ratio"] + v["rate"], 100 * couple.break_even_rate, quality - float(couple.coin(rate))


def test_keys_give_what_the_formulas_give(browser, tmp_path):
    (tmp_path / "page.html").write_text(HEAD + "<body>" + calculator(), encoding="utf-8")
    values = dict(START)
    steps = {"ratio": 5, "rate": 5, "small": 3, "large": -30, "gain": -8, "price": -7}
    with browser.open(tmp_path / "page.html", width=390, height=800) as page:
        for key in (None, *steps):
            if key:
                page.focus(f"input[data-key={key}]")
                page.press(*["ArrowRight" if steps[key] > 0 else "ArrowLeft"] * abs(steps[key]))
                values[key] += steps[key] * (0.5 if key == "gain" else 1)
            quality, cost, even, over = expected(values)
            said = page.text(".cx-said")
            assert f"right on {quality:.1f} % at {cost:.0f} % of the cost of L" in said
            assert f"{values['price'] * cost / 100:.0f} $" in said and f"deferral rate of {even:.0f} %" in said
            assert f"same cost: {'−' if over < 0 else '+'}{abs(over):.1f} points" in said
            assert ("not worth its price" in said) == (over <= 0.05)
        assert page.overflow() <= 0
        marks = page.evaluate("[...document.querySelectorAll('.cx-field path')].map(e => e.getAttribute('d'))")
        assert not any("NaN" in d for d in marks)


def test_what_is_on_no_slider_is_refused():
    assert calculator() == calculator() and calculator(price=5) != calculator()
    for bad in ({"ratio": 0}, {"rate": 101}, {"nothing": 1}):
        with pytest.raises(ValueError, match="expected one of ratio, rate"):
            calculator(**bad)
