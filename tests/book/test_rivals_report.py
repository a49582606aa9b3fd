"""Routers and cascades on one axis: what the figure, the table and the sentence say of made cells."""

import re

import numpy as np
import pytest
from cat_book.pages import rivals_report
from small_cells import DEAL, made
from small_tables import table

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import Undefined, show_number
from cat_core.analysis.rivals import AtCost, Policy, Rival, compared, policies
from cat_core.ranking import Interval


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    frame = table(methods=("xent", "cat-xent"), seeds=(0, 1, 2), large_seeds=(3, 7))
    small = frame["model"] == "small"
    frame["confidence_route_ngrams"] = np.where(small, np.random.default_rng(0).normal(size=len(frame)), np.nan)
    frame["prompt_flops"] = np.where(small, 3, 0)
    c = Comparison(frame, DEAL, resamples=40)
    rivals = compared(c, policies(c), Policy("xent", "option_probability"))
    folder = tmp_path_factory.mktemp("rivals")
    plain = table(seeds=(0, 1, 2), large_seeds=(3, 7))
    return [made(folder, "routed", frame, rivals=rivals), made(folder, "plain", plain)]


def test_every_policy_has_a_row(cells):
    shown = rivals_report.rivals_table(cells)
    assert len(shown.rows) == 6 and all(row[0].startswith("routed, ") for row in shown.rows)
    assert [row[2] for row in shown.rows].count("reference") == 1
    first = [row[0].removeprefix("routed, ") for row in shown.rows[:3]]
    assert first == [
        "Xent: cascade by option probability", "Xent: router on n-grams", "Xent: router on n-grams, then cascade",
    ]  # fmt: skip
    assert all(re.fullmatch(r"\d+ %", row[4]) for row in shown.rows if "then cascade" in row[0])


def test_the_figure_says_what_it_shows(cells):
    shown = rivals_report.rivals_figure(cells, "Figure 1")
    saved = cells[0].metrics().rivals["cat-xent option_probability"].saving
    assert shown.png[:4] == b"\x89PNG" and shown.caption.startswith("Figure 1: ")
    wanted = f"CAT-Xent: cascade by option probability {show_number(saved, rivals_report.SAVED)}"
    assert wanted.replace("\u00a0", " ") in shown.alt
    assert rivals_report.rivals_figure(cells[1:]).rows[0][0] == "none"


def test_the_sentence_counts_clear_signs(cells, tmp_path):
    def rival(method, rule, low, high, router=""):
        return Rival(method, rule, router, 0.1, Interval(0.5, 0.4, 0.6), Interval((low + high) / 2, low, high), 0.5)

    rivals = {
        "a": Rival("xent", "option_probability", "", 0.0, Interval(0.5, 0.4, 0.6), Undefined("x")),
        "b": rival("xent", "route_ngrams", 0.1, 0.3),
        "c": rival("xent", "route_probe", -0.3, -0.1),
        "d": rival("xent", "option_probability", -0.1, 0.1, "route_ngrams"),
        "e": rival("cat-xent", "option_probability", 0.1, 0.2),
    }
    cell = made(tmp_path, "counted", table(seeds=(0, 1, 2), large_seeds=(3, 7)), rivals=rivals)
    assert rivals_report.rivals_words([cell]) == (
        "against the cascade of Xent, by intervals that exclude 0, routers by the prompt save in 1 and cost in 1 of 2 "
        "cases; routers before a cascade save in 0 and cost in 0 of 1 cases; cascades of S trained by a CAT method "
        "save in 1 and cost in 0 of 1 cases"
    )
    assert rivals_report.rivals_words(cells[1:]) == "no recorded cell has routers yet"
    assert rivals_report.rivals_table(cells[1:]).rows[0][0] == "none"


def test_one_model_in_between(tmp_path):
    def at(low, high):
        return AtCost(0.4, Interval(0.5, 0.4, 0.6), Interval(0.6, 0.5, 0.7), Interval((low + high) / 2, low, high))

    known = {"cat-xent": at(0.1, 0.3), "xent": at(-0.2, 0.1), "dist": Undefined("it costs too much")}
    cell = made(tmp_path, "middle", table(seeds=(0, 1, 2), large_seeds=(3, 7)), between=known)
    rows = rivals_report.between_table([cell]).rows
    assert [row[0] for row in rows] == [f"middle, cascade of S by {m}" for m in ("Xent", "Dist", "CAT-Xent")]
    assert rows[2][1] == "40 %" and rows[2][4].startswith("+20.00") and "it costs too much" in rows[1][1]
    assert rivals_report.between_words([cell]) == (
        "by intervals that exclude 0, the cascade of Xent beats one model in between at its cost in 0 and loses to it "
        "in 0 of 1 cells; the cascade of CAT-Xent beats one model in between at its cost in 1 and loses to it in 0 of "
        "1 cells"
    )
    other = made(tmp_path, "plain", table(seeds=(0, 1, 2), large_seeds=(3, 7)))
    assert rivals_report.between_words([other]) == "no recorded cell has a model in between yet"
    assert rivals_report.between_table([other]).rows[0][0] == "none"
