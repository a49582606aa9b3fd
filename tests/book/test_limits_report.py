"""Tables and figures of the page on limits from a small study: its numbers are those of its table and metrics."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cat_book.drawing import figures
from cat_book.drawing.strips import Strips
from cat_book.drawing.tables import Table
from cat_book.pages import limits_report, mistakes_report, shift_report
from small_study import STUDY, recorded_cells

from cat_core.analysis import claims, limits, operating_points, publish
from cat_core.analysis.claims import task_of
from cat_core.analysis.quantities import Undefined
from cat_core.flops import request_flops, sequence_flops
from cat_core.ranking import Interval
from cat_core.studies import costs
from cat_core.studies.costs import cell_cost
from cat_core.studies.record import experiment_of
from cat_core.studies.study import load_study
from cat_core.tasks.suite import load_suite
from cat_core.training.configs import parse_size, shape_config
from cat_core.training.models import build_model, train_tokenizer
from cat_core.training.obtain import tokenizer_of, training_set_of

ROOT = Path(__file__).resolve().parents[2]
METHODS = "methods: [xent, dist, cat-xent, cat-dist]"
CELLS = """
  low: &superglue
    <<: *wmt
    claim: C1
    suite: mini-superglue
    suite_options: {{train: 300, calibration: 60, test: 60}}
  high:
    <<: *superglue
    suite_options: {{train: 300, calibration: 60, test: 60, noise: 0.3}}
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory, common_artifacts):
    text = STUDY.replace("methods: [xent, cat-dist, gatekeeper]", METHODS).split("  other:")[0] + CELLS
    text = text.replace("seeds: [1, 2, 3]", "seeds: [1, 2]")  # one of each large model
    with pytest.MonkeyPatch.context() as patch:  # untrained models have neither an easy nor a hard task, nor any room
        patch.setattr(claims, "EASY", 1.0)
        patch.setattr(claims, "HARD", 0.0)
        with recorded_cells(tmp_path_factory.mktemp("project"), text, 30, common_artifacts) as found:
            yield found


@pytest.fixture(scope="module")
def tables(cells):
    return limits_report.comparisons(cells, ["dist", "cat-dist", "absent"])


def test_comparisons_hold_the_methods_that_are_there(cells, tables):
    assert list(tables) == ["wmt", "low", "high"]
    assert all(c.methods == ("dist", "cat-dist") and c.resamples == 30 for c in tables.values())
    assert limits_report.comparisons(cells, ["absent"]) == {}
    assert limits_report.decisive(cells, tables) == tables  # no cell names tasks of its claim


def test_task_points_are_the_recorded_numbers_in_points(cells):
    points = limits_report.task_points(cells)
    assert {p["cell"] for p in points} == {"low", "high"} and len(points) == 2 * 3 * 2
    first = points[0]
    t = cells[1].metrics().tasks[first["task"]]
    assert first["share"] == t.answers[3]
    assert first["difference"].low == pytest.approx(100 * t.alone["cat-dist - dist"].low)
    rho, p, tasks = limits_report.trend(points, ("cat-dist", "dist"))
    assert -1 <= rho <= 1 and 0 < p <= 1 and tasks == 6
    assert isinstance(limits_report.trend(points[:2], ("cat-dist", "dist")), Undefined)


def test_translations_are_no_points(cells):
    m = cells[1].metrics()
    tasks = {task: replace(t, metric="bleu") for task, t in m.tasks.items()}
    assert len(tasks) > 1 and limits_report.task_points([replace(m, tasks=tasks)]) == []


def test_chosen_tasks_are_shown_with_their_shares_on_test_items(cells):
    said, m = limits_report.chosen_text(cells), cells[1].metrics()
    easy, hard = (next(task_of(r.measure) for r in m.claims if r.claim == c) for c in ("C5", "C6"))
    shares = {task: 100 * t.answers[3] for task, t in m.tasks.items()}
    assert f"low: easiest {easy} with {shares[easy]:.1f} %, hardest {hard} with {shares[hard]:.1f} %, of " in said
    assert f"{min(shares.values()):.1f} to {max(shares.values()):.1f} %" in said and "wmt" not in said
    assert limits_report.chosen_text([]).startswith("No recorded cell")


def test_trend_is_above_0_where_the_claims_hold():
    shares = [0.1, 0.2, 0.3, 0.4, 0.5]
    points = [{"pair": ("a", "b"), "share": s, "difference": Interval(2 - 10 * s, 0, 0)} for s in shares]
    assert limits_report.trend(points, ("a", "b"))[0] == pytest.approx(1)


def test_ranking_needed_is_read_off_the_curves(tables):
    c = tables["low"]
    found = limits_report.ranking_needed(c, "dist", 0.25)
    couple = limits.couple_of(c, "dist")
    assert found["rate"] == pytest.approx(0.75 - couple.cost_ratio)
    curve = c.curve("dist")
    k = round(found["rate"] * c.n)
    assert found["gap"] == pytest.approx(curve.quality[k] - couple.large, abs=0.03)
    assert isinstance(limits_report.ranking_needed(c, "dist", 0.999)["share"], Undefined)


def test_a_small_model_that_rambles_costs_more_than_the_large_one(cells, tables):
    c = tables["wmt"]  # untrained models do not stop
    costs = [np.mean([getattr(c.pairing("dist", s), f"{w}_flops").mean() for s in c.seeds]) for w in ("small", "large")]
    couple = limits.couple_of(c, "dist")
    if costs[0] >= costs[1]:
        assert isinstance(couple, Undefined) and "times one of L" in couple.reason
        assert isinstance(limits_report.ranking_needed(c, "dist", 0.1)["rate"], Undefined)
        with pytest.raises(ValueError, match="no coin is dearer than L"):
            limits.over_coin(c, "dist", np.array([0.3]))
    else:
        assert couple.cost_ratio == pytest.approx(costs[0] / costs[1])
        assert "right and wrong" in limits_report.ranking_needed(c, "dist", 0.1)["needed_auroc"].reason


def test_shapes_are_those_of_the_models():
    size = "hidden 16, layers 2, heads 2, kv_heads 1, intermediate 24"
    model = build_model(parse_size(size, 32), train_tokenizer(["a b"], 300), 0)
    config = shape_config(size, 32, model.config.vocab_size)
    assert sequence_flops(config, 5, 3) == sequence_flops(model.config, 5, 3)
    with pytest.raises(ValueError, match="named model"):
        shape_config("some/model", 32, 300)


def test_cost_of_a_cell_is_near_that_of_its_training_set(cells, tables):
    """The lengths of test items stand in for those of training sequences."""
    for cell in cells[:2]:  # free text, and options
        c = tables[cell.name]
        config = experiment_of(cell).small_config("xent", 1)
        tokenizer = tokenizer_of(config)
        shape = shape_config(cell.config["small"], 64, len(tokenizer))
        tested, trained = (
            [(len(p), len(t)) for p, t in training_set_of(config, tokenizer, split).pairs]
            for split in ("test", "train")
        )
        assert np.sum(costs.item_lengths(cell, c), axis=0).tolist() == np.sum(tested, axis=0).tolist()
        exact = 3 * 12 * 16 * np.mean([sequence_flops(shape, *pair) for pair in trained])
        assert cell_cost(cell, c, "xent").small == pytest.approx(exact, rel=0.1)
    c, cell = tables["wmt"], cells[0]
    row = c.frame[c.frame["model"] == "large"].iloc[0]  # the shape is the recorded one: FLOPs of an answer agree
    large = shape_config(cell.config["large"], 64, len(tokenizer))
    assert request_flops(large, int(row.n_prompt), int(row.n_generated)) == row.flops


def test_training_examples_are_known_for_built_in_suites(cells):
    assert costs.training_examples(cells[0]) == 300
    mixed = load_study("reference", ROOT).cell("mini-flan")
    by_task = Counter(e.task for e in load_suite("mini-flan").split("train"))
    rounds, cap = mixed.config["mixing_rounds"], mixed.config["mixing_cap"]
    assert costs.training_examples(mixed) == rounds * sum(min(n, cap) for n in by_task.values())
    real = type("Cell", (), {"config": cells[0].config | {"suite": "trec"}})()
    assert costs.training_examples(real) == 12 * 16  # at most
    rates = {"learning_rate": 1e-4, "large_learning_rate": 1e-4}
    named = cells[0].config | rates | {"small": "some/model", "large": "some/model"}
    other = type("Cell", (), {"config": named})()
    assert isinstance(cell_cost(other, None, "dist"), Undefined)


def test_paybacks_follow_from_cost_and_saving(cells, tables):
    rows = limits_report.paybacks(cells, tables)
    assert [(r["cell"], r["method"]) for r in rows[:2]] == [("wmt", "dist"), ("wmt", "cat-dist")] and len(rows) == 6
    for row in rows:
        saved = row["per_query"].estimate
        if saved <= 0:
            assert isinstance(row["queries"], Undefined)
        else:
            assert row["queries"] == pytest.approx(row["cost"].total() / saved)
            assert row["queries_all"] > row["queries"]


def test_shifts_are_tasks_and_sister_cells(cells, tables):
    rows = shift_report.shifts(cells, tables, "dist", 0.3)
    found = {(s.source, s.target) for s in rows}
    assert ("low", "high") in found and ("high", "low") in found
    assert not any("wmt" in s.source or "wmt" in s.target for s in rows)  # one task, and no sister
    assert {t for s, t in found if s == "low: other tasks"} <= {"reading", "entailment", "choice"}
    assert shift_report.shifts(cells, tables, "absent", 0.3) == []
    rate = [s for s in rows if s.source == "low" and s.target == "high"][0].there.deferral_rate
    taus = operating_points.calibrated(tables["low"], "dist", 0.3).taus
    assert rate == operating_points.at_thresholds(tables["high"], "dist", taus, "chow_average", 0.3).deferral_rate


def test_everything_is_shown_and_published(cells, tables, tmp_path):
    points, rows = limits_report.task_points(cells), shift_report.shifts(cells, tables, "dist", 0.3)
    paid = limits_report.paybacks(cells, tables)
    shown = [
        limits_report.easy_hard_figure(cells, "Figure 1"),
        shift_report.recalibration_figure(cells, tables, "dist", 0.3, "Figure 4"),
    ]
    assert all(isinstance(each, figures.Shown) and each.alt and "n = " in each.caption for each in shown)
    spent = mistakes_report.found(tables)
    moving = [
        limits_report.coin_figure(cells, tables, "Figure 2"),
        mistakes_report.mistakes_figure(spent, cells, "cat-dist", "Figure 3"),
        shift_report.alarm_figure(cells, rows, "Figure 3"),
    ]
    assert all(isinstance(each, Strips) and "n = " in each.caption and each._repr_html_() for each in moving)
    for each in (
        limits_report.claims_of(cells, ["C5", "C6"]), limits_report.policies_table(tables, 0.3),
        limits_report.ranking_table(tables), limits_report.payback_table(paid),
        shift_report.shift_table(rows),
    ):  # fmt: skip
        assert isinstance(each, Table) and len(each.rows) > 1 and each._repr_html_()
    metrics = limits_report.page_metrics(points, tables, paid, 0.3) | {"shifts": shift_report.as_metrics(rows)}
    metrics |= {"mistakes": mistakes_report.as_metrics(spent)}
    said = limits_report.headline(points, tables, paid, 0.3) | shift_report.headline(rows)
    said |= mistakes_report.headline(spent)
    assert all(text.endswith(".") for text in said.values())
    publish.publish(tmp_path, "limits", None, metrics | said)


def test_the_strips_say_what_the_analysis_says(cells, tables):
    (coin,) = limits_report.coin_figure(cells, tables).groups.values()
    label, c = next((k, c) for k, c in tables.items() if not isinstance(limits.couple_of(c, "cat-dist"), Undefined))
    strip = next(s for s in coin if s.label.startswith(label))
    rates = limits.coin_rates(limits.couple_of(c, "cat-dist"))
    band = limits.over_coin(c, "cat-dist", rates)
    assert [b.high for b in strip.bars] == pytest.approx(c.scale * band.high)
    signs = [1 if low > 0 else 2 if high < 0 else 0 for low, high in zip(band.low, band.high)]
    assert list(strip.kinds) == signs and strip.texts[0].endswith("defers 0 %")
    rows = shift_report.shifts(cells, tables, "dist", 0.3)
    drawn = shift_report.alarm_figure(cells, rows)
    assert sum(map(len, drawn.groups.values())) == len(rows)
    strip = next(s for s in drawn.groups["the threshold of another cell"] if s.label == "low \u2192 high")
    shift = next(s for s in rows if (s.source, s.target) == ("low", "high"))
    at = shift_report.WINDOWS.index(50)
    law, others, own = shift.alarm(50)
    assert strip.bands[at] == (100 * law.low, 100 * law.high) and strip.kinds[at] == int(others >= 0.5)
    assert strip.texts[at].endswith(f"rings in {100 * others:.0f} % (own queries: {100 * own:.0f} %)")
    loud = sum(s.alarm(50)[1] >= 0.5 for s in rows)
    assert f"an alarm has rung, more likely than not, in {loud} of {len(rows)}" in drawn.slider.said[at]


def test_a_price_is_said_in_words_and_drawn_in_parts(cells):
    assert "wmt" not in mistakes_report.found({"wmt": cells[0].comparison(methods=("dist",))})
    spends = {1: (2.0, 0.9, 3), 3: (2.0, 0.9, 2), 0: (0.5, 0.6, 0), 2: (2.0, 1.1, 0)}  # S alone, cascade, seeds
    rows = [limits.Spent(p, 2.0, 1.0, 1.0, 0, -np.inf, 0, 3) for p in mistakes_report.PRICES]
    for i, (kind, (small, cascade, cheaper)) in enumerate(spends.items()):
        rows[i] = limits.Spent(mistakes_report.PRICES[i], small, 1.0, cascade, 0.25, -0.5, cheaper, 3)
        assert mistakes_report.kind(rows[i]) == kind
    told = "cascade, 10.0 % cheaper, in 3 of 3 seeds; defers 25.0 %, \u03c4 = \u22120.5"
    assert mistakes_report.said(rows[0]) == told
    assert mistakes_report.said(rows[2]) == "S alone; the cascade defers 25.0 % and is 20.0 % dearer"
    assert mistakes_report.said(rows[4]) == "L alone; the cascade defers nothing and is no dearer"
    drawn = mistakes_report.mistakes_figure({"low": rows}, cells, "dist", "Figure 1")
    (strip,) = drawn.groups["cells"]
    assert strip.parts == [(0, 0.5, 1), (0.5, 1.5, 3), (1.5, 2.5, 0), (2.5, 30, 2)] and strip.kinds[:3] == [1, 1, 0]
    assert drawn.slider.said[1].endswith("of 1 cells is: S alone in 0, cascade in 1, L alone in 0.")
    said = mistakes_report.headline({"low": rows, "high": rows[2:]})["mistakes_text"]
    assert "in low from 1 to 1.2 answers of L; in high at no price." in said


def test_the_mask_has_paid_when_its_saving_is_worth_its_training(cells, tables, monkeypatch):
    assert "nothing is recorded" in limits_report.extra_table(cells, tables).rows[0][1]  # without room, no saving
    cell, m, c = cells[1], cells[1].metrics(), tables["low"]
    saved = Interval(0.2, -0.1, 0.5)
    rows = [replace(r, number=saved) if r.role == "primary" and r.share else r for r in m.claims]
    monkeypatch.setattr(type(cell), "metrics", lambda self: replace(m, claims=tuple(rows), cell=self.name))
    (found, *_) = limits_report.extra_table([cell], {"low": c}).rows
    assert found[:3] == ["low", "CAT-Dist \u2212 Dist", "0"] and found[3] == "+20.0\u00a0% [\u221210.0,\u00a0+50.0]"
    assert found[4] == "0 [0, never]"
    cost = c.cost("dist").mean()
    after = f"{costs.payback(1e9, 0.2 * cost):,.0f} ["
    assert limits_report._range(1e9, limits_report.in_points(saved, cost)).startswith(after)


def test_nothing_recorded_is_one_clear_line():
    for each in (
        limits_report.easy_hard_figure((), "Figure 1"), limits_report.coin_figure((), {}),
        limits_report.policies_table({}, 0.3), limits_report.ranking_table({}), limits_report.payback_table([]),
        limits_report.extra_table((), {}), limits_report.claims_of((), ["C5"]), shift_report.shift_table([]),
        shift_report.alarm_figure((), []), mistakes_report.mistakes_figure({}, (), "dist"),
        shift_report.recalibration_figure((), {}, "dist", 0.3),
    ):  # fmt: skip
        assert isinstance(each, Table) and len(each.rows) == 1 and "nothing is recorded" in each.rows[0][1]
    said = limits_report.headline([], {}, [], 0.3) | shift_report.headline([]) | mistakes_report.headline({})
    assert all("o recorded cell" in text for text in said.values())
