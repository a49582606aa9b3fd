"""What the pages show says what the comparison says: figures, tables, slider, training, ledgers."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from cat_book.pages import suite_report, training_report
from cat_book.pages.results import Provenance
from small_tables import option_table, table, text_table

from cat_core.analysis import metrics, operating_points
from cat_core.analysis.claims import cascade_claims
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined, show_number
from cat_core.tasks.example import Example
from cat_core.tasks.suite import Suite

SETTING = Provenance("quick", "cpu", 1, "0123456789+", {"python": "3.11", "torch": "2.13"})


@pytest.fixture(scope="module")
def accuracy():
    return Comparison(table(tasks=("<b>a</b>", "$b$")), resamples=60)


@pytest.fixture(scope="module")
def bleu():
    return Comparison(text_table(), resamples=40)


@pytest.mark.parametrize("which", ["accuracy", "bleu"])
def test_every_table_and_figure_of_a_page(which, request):
    c = request.getfixturevalue(which)
    tables = [
        suite_report.alone_table(c), suite_report.areas_table(metrics.suite_metrics(c, (), 0.3)),
        suite_report.budgets_table(c),
        suite_report.threshold_table(c, 0.3), suite_report.differences_table(c),
        training_report.ledger_table({m: c.sequence_ledger(m) for m in c.methods}, "ledger"),
    ]  # fmt: skip
    for shown in tables:
        html = shown._repr_html_()
        assert "<b>" not in html and "nan" not in repr(shown).lower()
    for figure in (
        suite_report.quality_figure(c, SETTING, "Figure 4"),
        suite_report.quality_figure(c, SETTING, "Figure 4", axis="deferral_rate"),
        suite_report.difference_figure(c, SETTING, "Figure 5"),
    ):
        assert f"n = {c.n} test items; 2 seeds (0, 1); device: cpu; commit 0123456789" in figure.caption
    assert "BLEU" in repr(tables[0]) if c.is_corpus else "Accuracy (%)" in repr(tables[0])


def test_tables_hold_the_numbers_of_the_comparison(accuracy):
    c, unit = accuracy, suite_report.quality_unit(accuracy)
    rows = {row[0]: row for row in suite_report.alone_table(c).rows}
    assert set(rows) == {"<b>a</b>", "$b$", "all"} and rows["all"][1] == "120"
    assert rows["all"][2] == show_number(c.alone("xent"), unit) and rows["all"][-1] == show_number(
        c.large_alone(), unit
    )
    assert rows["$b$"][3] == show_number(c.of_task("$b$").alone("dist"), unit)
    areas = {row[0]: row for row in suite_report.areas_table(metrics.suite_metrics(c, (), 0.3)).rows}
    assert areas["CAT-Dist"][3] == show_number(c.audc("cat-dist"), unit)
    assert areas["Random mask"][2] == show_number(c.random_audc("random-dist"), unit)
    point = operating_points.calibrated(c, "dist", 0.3)
    threshold = {row[0]: row for row in suite_report.threshold_table(c, 0.3).rows}["Dist"]
    assert threshold[1].count(",") == 1 and threshold[4] == show_number(point.quality, unit)
    assert len(suite_report.differences_table(c).rows) == 3 * len(c.rules)


def test_what_a_task_reports_besides_is_shown():
    c = Comparison(option_table(also=("macro_f1", "question_em")), resamples=20)
    rows = {row[0]: row for row in suite_report.alone_table(c).rows}
    assert set(rows) >= {"all", "all: Macro-F1", "all: EM over questions"}
    unit = suite_report.quality_unit(c)
    assert rows["all: Macro-F1"][-1] == show_number(c.with_metric("macro_f1").large_alone(), unit)
    gains = {row[0]: row[2] for row in suite_report.differences_table(c, ["chow_average"]).rows}
    (pair,) = (name for name in gains if name.startswith("EM over questions: "))
    assert gains[pair] == show_number(c.with_metric("question_em").difference("cat-dist", "dist"), c.gain)
    two = pd.concat([c.frame, c.frame.assign(task="u", item_id="u" + c.frame["item_id"])], ignore_index=True)
    both = Comparison(two, resamples=20)
    assert {"t: Macro-F1", "u: EM over questions"} <= {row[0] for row in suite_report.alone_table(both).rows}
    assert any(row[0].startswith("u, Macro-F1: ") for row in suite_report.differences_table(both).rows)


def test_a_threshold_that_cannot_be_had_is_a_row_with_its_reason():
    frame = table(methods=("xent",), seeds=(0,))
    frame.loc[frame["model"] == "small", "confidence_chow_average"] = -1.0
    (row,) = suite_report.threshold_table(Comparison(frame, resamples=10), 0.3).rows
    assert row[1].startswith("none: all 60 calibration confidences equal")


def test_slider_shows_means_over_seeds(accuracy):
    c = accuracy
    html = suite_report.slider(c, "04_superglue", start=0.3, grid=11)
    assert html == suite_report.slider(c, "04_superglue", start=0.3, grid=11)
    data = json.loads(re.search(r'class="cx-data">(.*?)</script>', html, re.S).group(1))
    assert data["names"] == ["Xent", "Dist", "CAT-Xent", "CAT-Dist", "Random mask"] and len(data["rules"]) == 3
    row = data["rules"][0]["rows"][3]
    rates, shown = (np.array(data["cols"][row[i]].split(" "), float) for i in (4, 0))
    curve = c.curve("cat-dist")
    assert shown == pytest.approx(100 * np.interp(rates / 100, curve.deferral_rate, curve.quality), abs=0.2)
    row = data["rules"][1]["rows"][1]
    rates, shares = (np.array(data["cols"][row[i]].split(" "), float) for i in (4, 2))
    cost = np.interp(rates / 100, curve.deferral_rate, c.cost("dist", "chow_quantile_0"))
    assert shares == pytest.approx(100 * cost / c.large_flops, abs=0.2)
    assert np.abs(cost - np.interp(rates / 100, curve.deferral_rate, c.cost("dist"))).max() > 0.002 * c.large_flops
    assert "mean of 2 seeds (threshold: their median; bands: worst to best seed)" in html
    assert "mean of" not in suite_report.slider(Comparison(table(seeds=(0,))), "p")


def test_numbers_of_the_page_can_be_published(accuracy, bleu, tmp_path):
    for c in (accuracy, bleu):
        rows = cascade_claims(c, "C1")
        found = publish(
            tmp_path, "p", c.frame, vars(metrics.suite_metrics(c, rows, 0.3)) | {"head": suite_report.headline(c, rows)}
        )
        written = json.loads(found["metrics"].read_text())["metrics"]
        assert set(written["methods"]) == set(c.methods) and written["n"] == c.n
        assert written["methods"]["dist"]["audc"]["estimate"] == c.audc("dist").estimate
        assert [r["verdict"] for r in written["claims"]] == [r.verdict for r in rows]
        head = suite_report.headline(c, rows)
        assert {type(v) for v in head.values()} == {float, str}, "glue needs plain numbers"
        assert head["gap"] == pytest.approx(head["large_alone"] - head["small_alone"])
        assert head["cost_ratio"] == pytest.approx(10, rel=0.05)
    control = suite_report.headline(bleu, cascade_claims(bleu, "C2"))["control"]
    assert control.startswith("Saving (Chow-Average), CAT-Dist against")


def log(losses, **more):
    return [{"step": 10 * (i + 1), "loss": float(x), **more} for i, x in enumerate(losses)]


def test_training_curves_are_means_with_the_range_of_the_seeds():
    logs = {
        ("dist", 0): log([3, 2, 1]),
        ("dist", 1): log([5, 2, 3]),
        ("random-dist", 0): log([1, 1, 1], keep_rate=0.5),
    }
    first, second = training_report.training_curves(logs, "loss")
    assert (first.method, second.method) == ("dist", "random-dist") and list(first.x) == [10, 20, 30]
    assert list(first.y) == [4, 2, 2] and list(first.low) == [3, 2, 1] and list(first.high) == [5, 2, 3]
    assert second.low is None
    (kept,) = training_report.training_curves(logs, "keep_rate")
    assert kept.method == "random-dist" and set(kept.y) == {0.5}
    with pytest.raises(ValueError, match="no training log holds 'entropy'"):
        training_report.training_curves(logs, "entropy")
    shown = training_report.training_figure(logs, "loss", SETTING, "Figure 1", 48_000)
    assert shown.caption.startswith("Figure 1: Training loss") and "n = 48,000 training examples" in shown.caption


def test_plateau_rule():
    flat = [5, 3, 2, 1.5, 1.2, 1.1, 1.05, 1.02, 1.01, 1.0, 1.0, 1.0]
    assert training_report.last_quarter_share(log(flat)) == pytest.approx((1.01 - 1.0) / (5 - 1.0))
    assert training_report.last_quarter_share(log(range(12, 0, -1))) == pytest.approx(3 / 11)
    assert isinstance(training_report.last_quarter_share(log([1, 2, 3, 4])), Undefined)
    assert isinstance(training_report.last_quarter_share(log([2, 1])), Undefined)
    logs = {("xent", 0): log(flat), ("dist", 0): log(range(12, 0, -1)), ("cat-xent", 0): log([1, 2, 3, 4])}
    answers = [row[-1] for row in training_report.plateau_table(logs).rows]
    assert answers == ["yes", "no: more steps may change the result", "cannot be said"]


def test_suite_tables_escape_and_cut():
    examples = [
        Example(f"{s}-{i}", "<i>t</i>", s, f"<script>{s:11}" + "x" * 300, ("no", "yes")[i % 2], ("yes", "no"))
        for s in ("train", "calibration", "test")
        for i in range(4)
    ]
    suite = Suite("my suite", tuple(examples))
    html = training_report.examples_table(suite, each=2)._repr_html_()
    assert "<script>" not in html and "(319 characters)" in html and html.count("yes | no") == 2
    assert training_report.suite_table(suite).rows == [["<i>t</i>", "4", "4", "4", "2", "accuracy"]]


def test_setting_states_where_a_run_was_made():
    here = Provenance.here("", "cpu")
    assert here.edition == "none (run by hand)" and here.threads >= 1 and set(here.versions) >= {"python", "torch"}
    text = repr(Provenance("quick", "cpu", 1, "0123456789+", {"torch": "2.13"}).table())
    assert "commit | 0123456789+" in text and "files were changed after it" in text


def test_a_run_without_a_pair_has_no_difference_figure_and_says_so():
    c = Comparison(table(methods=("xent", "cat-dist")), resamples=10)
    assert "no CAT method with its counterpart" in repr(suite_report.difference_figure(c, SETTING, "Figure 5"))
