"""What pages begin and end with: the answer in short against a curve, the questions of a table, the closed box."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from cat_book.drawing.tables import Table
from cat_book.pages import covers
from cat_book.pages.results import Provenance
from small_tables import option_table, table, text_table

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.operating_points import at_thresholds
from cat_core.analysis.saving import primary_rule


def suite(frame):
    ids = frame.loc[frame["split"] == "test", "item_id"].unique()
    items = [SimpleNamespace(item_id=i, prompt=f"{i}? <b>&") for i in ids]
    return SimpleNamespace(name="made", split=lambda name: items if name == "test" else [])


def test_the_answer_in_short_is_read_off_the_curve():
    c = Comparison(table(n=50, seeds=(0, 1)))
    found, rule = covers.trade_off(c, 0.4), primary_rule(c)
    runs = [c.pairing(c.methods[0], seed, rule=rule) for seed in c.seeds]
    both = []
    for rows in runs:
        sent = np.argsort(rows.confidence, kind="stable")[:20]
        quality = rows.small_quality.copy()
        quality[sent] = rows.large_quality[sent]
        both.append(100 * quality.mean())
    small, large = (100 * np.mean([getattr(r, f"{m}_quality").mean() for r in runs]) for m in ("small", "large"))
    assert found["s_alone"] == pytest.approx(small) and found["l_alone"] == pytest.approx(large)
    assert found["at_random"] == pytest.approx(0.6 * small + 0.4 * large)
    assert found["together"] == pytest.approx(np.mean(both), abs=100 / 50)  # ties share a straight piece
    said = found["in_short"].replace("\u00a0", " ")
    assert f"S alone reaches {small:.1f} %, L alone {large:.1f} %. Where L is asked about the 40 %" in said
    cost = c.cost(c.methods[0], rule)[20] / c.large_flops
    assert f"reach {found['together']:.1f} %, for {100 * cost:.0f} % of the cost of L" in said
    assert "% " not in covers.trade_off(Comparison(text_table(n=12)))["in_short"].split("reaches")[1].split(",")[0]


def test_questions_are_those_of_the_table():
    frame = option_table()
    c = Comparison(frame, metric="accuracy")
    shown = covers.questions(c, suite(frame), "01")._repr_html_()
    rows = c.pairing(c.methods[0], c.seeds[0], rule=primary_rule(c))
    assert len(re.findall("data-i=", shown)) == len(rows) == 36
    kinds = np.where(rows.small_quality == 1, np.where(rows.large_quality == 1, 0, 1), 2 + (rows.large_quality < 1))
    dots = re.findall(r'class="cx-k(\d)[^>]*data-i="(\d+)"', shown)
    order = np.argsort(rows.confidence, kind="stable")
    assert [int(kind) for kind, _ in dots] == kinds[order].tolist()
    assert "? &lt;b&gt;&amp;" in shown and "<b>&" not in shown
    without = frame.assign(prediction=None, target=None)
    assert isinstance(covers.questions(Comparison(without, metric="accuracy"), suite(frame), "01"), Table)


def test_the_closed_box_has_every_parameter_and_a_command_that_works():
    source = "edition: str = ''  # name of the edition\nsteps: int = 5  # of it <b>\nseeds: list = [0]  # of S"
    given = {"In": ["", source, "other = 3"], "edition": "quick", "steps": 7, "seeds": [3, 4], "other": 3}
    box = covers.closing(given, "04_superglue", 90.0, Provenance.here("quick", "cpu"))
    shown = box._repr_html_()
    assert "<summary>This page: edition quick, seeds 3, 4, 1.5 min. How it was made" in shown
    rows = re.findall(r'<th scope="row">(\w+)</th><td>([^<]*)</td><td>([^<]*)</td>', shown)
    assert rows[:3] == [
        ("edition", "&#x27;quick&#x27;", "name of the edition"), ("steps", "7", "of it &lt;b&gt;"),
        ("seeds", "[3, 4]", "of S"),
    ]  # fmt: skip
    assert "papermill book/04_superglue.ipynb out.ipynb -p steps 200" in shown and "torch" in shown
    by_hand = covers.closing({"In": [], "edition": ""}, "07_baselines", 12.0, Provenance.here("", "cpu"))
    assert repr(by_hand).startswith("This page: run by hand, 12 s.") and "-p output_dir" in repr(by_hand)


def test_least_sure_items_and_what_a_threshold_gives():
    frame = option_table()
    c = Comparison(frame, metric="accuracy", resamples=50)
    c = Comparison(frame, methods=c.methods[:1], seeds=c.seeds[:1], metric="accuracy", resamples=50)
    method, seed, rule = c.methods[0], c.seeds[0], primary_rule(c)
    rows = c.pairing(method, seed, rule=rule)
    tau = float(np.median(rows.confidence))
    shown = covers.least_sure(rows, suite(frame), tau, most=30)
    order = np.argsort(rows.confidence, kind="stable")
    assert [row[-1] for row in shown.rows] == ["L" if rows.confidence[i] <= tau else "S" for i in order[:30]]
    for row, i in zip(shown.rows, order):
        assert row[1] == f"{rows.item_ids[i]}? <b>&" and row[4] == rows.targets[i]
        assert row[2] == f"{rows.small_predictions[i]} {'✓' if rows.small_quality[i] else '✗'}"
        assert row[3] == f"{rows.large_predictions[i]} {'✓' if rows.large_quality[i] else '✗'}"
    point = at_thresholds(c, method, {seed: tau}, rule, 0.5)
    found = covers.own_in_short(c, point, rule, 40)
    sent = rows.confidence <= tau
    together = 100 * np.where(sent, rows.large_quality, rows.small_quality).mean()
    assert found["together"] == pytest.approx(together) and found["deferred"] == pytest.approx(100 * sent.mean())
    text = found["in_short"].replace("\u00a0", " ")
    assert f"chosen on 40 items by option probability, the cascade sends {100 * sent.mean():.1f} % of 36 other" in text
    assert f"reaches {together:.1f} (Accuracy), where S alone has {found['s_alone']:.1f}" in text
