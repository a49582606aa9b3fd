"""The live cascade of page 01: its callbacks are driven as by a click, on a tiny pair and on the real one."""

import os
import re
import time
from pathlib import Path

import pytest
from cat_book.pages.live import QUESTION, Live, cost_text
from small_tables import table

from cat_core.analysis.comparison import Comparison
from cat_core.cascade import CascadeRunner, Request
from cat_core.training.models import load_model, load_tokenizer


def calibration():
    c = Comparison(table(("xent",), (0,)))
    return {rule: c.pairing("xent", 0, "calibration", rule) for rule in ("option_probability", "chow_average")}


@pytest.fixture
def live(tiny_pair):
    return Live(CascadeRunner(*tiny_pair, max_new_tokens=4), calibration())


def ask(panel, question, options="", rate=0.3):
    """What a click shows."""
    asked, choices, share, button, answer = panel.children
    asked.value, choices.value, share.value = question, options, rate
    button.click()
    assert not button.disabled
    return answer.value


def text(html):
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_click_asks_the_cascade_and_shows_who_answered_and_what_it_cost(live, rate):
    who = "L" if rate else "S"
    said = ask(live.panel("a", ("b", "c"), 0.3), "the cat sat", rate=rate)
    small, large = (live.runner.answer([Request("q", "the cat sat")], which)[0] for which in ("small", "large"))
    own = large if rate else small
    spent = small.flops + bool(rate) * large.flops
    assert f"{who} answers: {own.prediction or '(nothing)'}" in text(said)
    assert cost_text(spent, large.flops) in text(said) and ("L, not asked" in said) == (not rate)
    assert ("everything is deferred" in text(said)) == bool(rate) != ("nothing is deferred" in text(said))
    assert said.count("<sub>") == small.n_generated + bool(rate) * large.n_generated
    said = ask(live.panel(), "the cat sat", "on mat, a dog", rate)
    chosen = live.runner.answer([Request("q", "the cat sat", ("on mat", "a dog"))], "large" if rate else "small")[0]
    assert f"{who} answers: {chosen.prediction}" in text(said) and "probability among the options" in text(said)


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (" \n", "", "Type a question first."),
        ("the cat " * 3000, "", "^Your question has a prompt of .* tokens but .* fit"),
        ("the cat", "only one", "option"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(live, question, options, message):
    said = ask(live.panel(), question, options)
    assert re.search(message, text(said)) and said.startswith('<p role="status">') and "\n" not in said


def test_what_is_typed_and_what_is_said_is_escaped(live, monkeypatch):
    sign = "<img src=x onerror=alert(1)>"
    monkeypatch.setattr(live.runner.tokenizer, "decode", lambda ids, **_: sign * len(ids))
    for rate in (0.0, 1.0):
        said = ask(live.panel(), sign, f"{sign}a, {sign}b", rate)
        assert "<img" not in said and said.count("&lt;img") >= 4


def test_cards_stand_in_a_page_without_a_kernel(live):
    shown = live.cards([Request("1", "the cat sat"), Request("2", "a dog", ("runs", "sat"))])._repr_html_()
    assert shown.count("cat-tokens\" role=\"group\"") == 2 and f'aria-label="{QUESTION}"' in shown
    assert "<script" not in shown and "<button" not in shown


def test_costs_that_nobody_knows_are_no_number():
    assert "not known" in cost_text(None, None) and cost_text(1500, 3000) == "Cost: 1.5 kFLOPs, 50 % of L alone"


def test_the_real_pair_answers_a_question_in_english():
    folder = Path(os.environ.get("CAT_MODELS", "none")) / "HuggingFaceTB--SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.skip("CAT_MODELS names no folder with SmolLM2-135M-Instruct")
    models = [load_model(f"cut 6 of {folder}"), load_model(str(folder))]
    live = Live(CascadeRunner(*models, load_tokenizer(str(folder)), max_new_tokens=16), calibration())
    for rate in (0.0, 1.0):
        began = time.process_time()
        said = ask(live.panel(), "Question: What is the capital of France? Answer:", rate=rate)
        print(f"rate {rate}: {time.process_time() - began:.1f} s of processor time; {text(said)}")
        assert ("Paris" in text(said)) and "of L alone" in said
