"""Comparisons of methods: numbers against known answers and against a naive second computation."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from small_tables import rows_of, table, text_table

from cat_core import curves, router
from cat_core.analysis import limits
from cat_core.analysis.comparison import PAIRS, Comparison, with_confidence
from cat_core.analysis.metrics import SuiteMetrics, suite_metrics
from cat_core.analysis.operating_points import (
    at_thresholds,
    calibrated,
    iso_quality,
    quality_at_budgets,
)
from cat_core.analysis.outcomes import OutcomeError, drop_text, paired, read_outcomes, write_outcomes
from cat_core.analysis.quantities import Undefined, plain, read
from cat_core.analysis.resampling import paired_bootstrap
from cat_core.ranking import Interval


def naive_area(small, large, q):
    """AUDC as the mean over both ways of counting the next item, ties resolved by averaging random orders."""
    rng, areas = np.random.default_rng(0), []
    for _ in range(400):
        order = np.lexsort((rng.random(len(q)), q))
        points = [small.mean()]
        for k in range(1, len(q) + 1):
            deferred = np.zeros(len(q), bool)
            deferred[order[:k]] = True
            points.append(np.where(deferred, large, small).mean())
        areas.append((np.sum(points) - (points[0] + points[-1]) / 2) / len(q))
    return float(np.mean(areas))


def test_reference_vector():
    """Eight items with known answers: AUDC .65625, random .625, oracle .796875, AUROC .875."""
    small, large = [1, 1, 0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0, 0, 1]
    q = [0.95, 0.90, 0.35, 0.80, 0.85, 0.30, 0.50, 0.40]
    parts = []
    for split in ("calibration", "test"):
        parts += [rows_of("large", 0, split, large, flops=10), rows_of("xent", 0, split, small, q, flops=1)]
    c = Comparison(pd.concat(parts, ignore_index=True), resamples=50)
    assert (c.methods, c.seeds, c.metric, c.scale, c.n, c.large_flops) == (
        ("xent",),
        (0,),
        "accuracy",
        100,
        8,
        10,
    )
    assert c.audc("xent").estimate == pytest.approx(0.65625)
    assert c.random_audc("xent").estimate == pytest.approx(0.625)
    assert c.over_random("xent").estimate == pytest.approx(0.03125)
    assert curves.audc(c.oracle("xent")) == pytest.approx(0.796875)
    assert c.normalised_audc("xent") == pytest.approx(0.181818, abs=1e-6)
    assert c.auroc("xent") == pytest.approx(0.875)
    assert c.alone("xent").estimate == 0.5 and c.large_alone().estimate == 0.75
    ledger = c.sequence_ledger("xent")
    assert (ledger.both, ledger.only_small, ledger.only_large, ledger.neither) == (3, 1, 3, 1)
    # cost 1 + 10 r and C_L = 10: 10 % pays for S alone, 25 % for r = .15, 50 % for r = .4
    assert quality_at_budgets(c, "xent") == pytest.approx([0.5, 0.525, 0.725])
    point = iso_quality(c, "xent")
    assert point.saving.estimate == pytest.approx(0.525) and point.deferral_rate.estimate == 0.375
    assert point.gap.estimate == 0 and point.quality.estimate == 0.75
    assert isinstance(c.difference("cat-dist", "dist"), Undefined)


def test_means_over_seeds_match_a_naive_computation():
    frame = table(large_seeds=(3, 7), seeds=(0, 1))
    c = Comparison(frame, {0: 3, 1: 7}, resamples=200)
    assert c.pairs == PAIRS[:3]
    for method in ("dist", "cat-dist"):
        runs = [paired(frame, method, s, "test", large_seed=g) for s, g in ((0, 3), (1, 7))]
        areas = [naive_area(r.small_quality, r.large_quality, r.confidence) for r in runs]
        assert c.audc(method).estimate == pytest.approx(np.mean(areas), abs=4e-3)
        assert curves.audc(c.curve(method)) == pytest.approx(c.audc(method).estimate)
        k = 20  # threshold by hand: the cost is summed item by item
        for run, seed in zip(runs, (0, 1)):
            tau = np.sort(run.confidence)[k]
            deferred = run.confidence <= tau
            curve = c.seed_curve(method, seed)
            mixed = np.where(deferred, run.large_quality, run.small_quality).mean()
            assert curve.quality[deferred.sum()] == pytest.approx(mixed)
        ends = np.mean([[r.small_flops.mean(), r.small_flops.mean() + r.large_flops.mean()] for r in runs], axis=0)
        assert c.cost(method)[[0, -1]] == pytest.approx(ends)
    found = c.difference("cat-dist", "dist")
    assert found.estimate == pytest.approx(c.audc("cat-dist").estimate - c.audc("dist").estimate)
    assert found.low < found.estimate < found.high
    assert c.alone_difference("cat-dist", "dist").estimate == pytest.approx(
        c.alone("cat-dist").estimate - c.alone("dist").estimate
    )


def test_large_models_are_the_level_above_seeds():
    """Two large models, one good and one bad: of the quality of L alone nothing is known but that it is a share."""
    deal = {seed: (3, 7)[seed % 2] for seed in range(8)}
    frame = table(large_seeds=(3, 7), seeds=tuple(deal), methods=("dist", "cat-dist"))
    bad = (frame["method"] == "large") & (frame["seed"] == 7)
    frame.loc[bad, "quality"] = 0.0
    frame.loc[(frame["method"] == "large") & ~bad, "quality"] = 1.0
    c = Comparison(frame, deal, resamples=400)
    assert c.groups == (3, 7) * 4 and c.large_models == 2
    assert c.levels == "2 large models, their training seeds, then items"
    assert c.intervals().n_groups == 2
    alone = c.large_alone()
    assert (alone.low, alone.estimate, alone.high) == (0, 0.5, 1)
    point = at_thresholds(c, "dist", dict.fromkeys(deal, np.inf), "chow_average", 1.0)
    assert (point.quality.low, point.quality.high) == (0, 1)
    one = Comparison(frame, dict.fromkeys(deal, 3), resamples=400)
    assert one.groups is None and one.levels == "training seeds, then items" and one.large_models == 1
    assert one.large_alone() == Interval(1, 1, 1)
    flat = paired_bootstrap({"dist": [c.run("dist", seed) for seed in deal]}, resamples=400).curve["dist"]
    assert 0 < flat.low[-1] < 0.5 < flat.high[-1] < 1  # as one level, eight seeds would hide it
    assert Comparison(frame, {0: 3}, seeds=(0,)).levels == "items (one training seed)"


def test_threshold_of_a_mean_curve_is_the_lower_median():
    c = Comparison(table(seeds=(0, 1, 2, 3)), resamples=10)
    every = np.sort([c.seed_curve("dist", s).threshold for s in range(4)], axis=0)
    assert np.array_equal(c.curve("dist").threshold, every[1])
    assert c.curve("dist").threshold[0] == -np.inf and (np.diff(c.curve("dist").threshold[1:]) >= 0).all()


def test_identical_methods_differ_by_exactly_nothing():
    frame = table(methods=("dist",))
    twin = frame[frame["method"] == "dist"].assign(method="cat-dist")
    c = Comparison(pd.concat([frame, twin], ignore_index=True), resamples=100)
    assert c.difference("cat-dist", "dist") == Interval(0, 0, 0)
    assert c.alone_difference("cat-dist", "dist") == Interval(0, 0, 0)


def test_a_method_better_on_every_item_has_an_interval_above_zero():
    frame = table(methods=("dist", "cat-dist"), n=100, seeds=range(4))
    better = (frame["method"] == "cat-dist").to_numpy()
    frame.loc[better, "quality"] = 1.0
    number = Comparison(frame, resamples=300).difference("cat-dist", "dist")
    assert 0 < number.low < number.estimate < number.high


def test_clusters_widen_the_interval():
    frame = table(methods=("xent",), n=60)
    frame.loc[frame["method"] == "xent", "quality"] = np.tile(np.repeat([0.0, 1.0], 15), 8)
    tied = frame.assign(
        cluster_id=frame["item_id"].str[:-3] + (frame["item_id"].str[-3:].astype(int) // 15).astype(str)
    )
    width = [np.ptp([i.low, i.high]) for i in (Comparison(f, resamples=500).alone("xent") for f in (frame, tied))]
    assert width[1] > 1.5 * width[0]
    points = [at_thresholds(Comparison(f, resamples=500), "xent", {0: -9.0, 1: -9.0}, "chow_average", 0.0)
              for f in (frame, tied)]  # fmt: skip
    width = [np.ptp([p.quality.low, p.quality.high]) for p in points]
    assert width[1] > 1.5 * width[0]


def test_what_was_drawn_is_not_shared_with_a_changed_comparison():
    a = Comparison(table(seeds=(0, 1)), resamples=20)
    both, one = a.audc("xent"), replace(a, seeds=(1,)).audc("xent")
    assert one.estimate == pytest.approx(np.mean(a.seed_curve("xent", 1).quality), abs=0.02) and one != both


def test_bleu_is_the_corpus_score_of_the_mixed_texts():
    frame = text_table()
    c = Comparison(frame, resamples=60)
    assert (c.metric, c.scale, c.rules) == ("bleu", 1, ("chow_average", "chow_quantile_0"))
    for seed in (0, 1):
        run = paired(frame, "dist", seed, "test")
        for k in (0, 7, len(run)):
            deferred = np.zeros(len(run), bool)
            deferred[np.argsort(run.confidence)[:k]] = True
            mixed = list(np.where(deferred, run.large_predictions, run.small_predictions))
            wanted = sacrebleu.corpus_bleu(mixed, [[answers[0] for answers in run.right_answers]]).score
            assert c.seed_curve("dist", seed).quality[k] == pytest.approx(wanted, abs=1e-9)
            assert c.with_metric("chrf").seed_curve("dist", seed).quality[k] == pytest.approx(
                sacrebleu.corpus_chrf(mixed, [[answers[0] for answers in run.right_answers]]).score, abs=1e-9
            )
    assert c.large_alone().estimate == pytest.approx(c.curve("dist").quality[-1])
    assert c.random_audc("dist").estimate == pytest.approx(c.curve("dist").quality[[0, -1]].mean())
    assert c.right_at == 0.5 and c.sequence_ledger("dist").n == 60
    # the greedy oracle of both metrics lies above random deferral, where L is better
    assert curves.audc(c.oracle("dist")) > c.random_audc("dist").estimate


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_table_without_texts_gives_the_same_bleu(tmp_path, metric):
    """All but the digits of the confidences survives; with those kept, every number is equal bit for bit."""
    frame = text_table()
    frame["confidence_chow_average"] = frame["confidence_chow_average"].astype(np.float32).round(2)
    stored = read_outcomes(write_outcomes(tmp_path / "o", drop_text(frame)))
    one, two = (Comparison(f, metric=metric, resamples=30) for f in (frame, stored))
    assert stored["prediction"].isna().all()
    assert np.array_equal(one.curve("dist").quality, two.curve("dist").quality)
    assert np.array_equal(one.oracle("cat-dist").quality, two.oracle("cat-dist").quality)
    assert one.difference("cat-dist", "dist") == two.difference("cat-dist", "dist")
    assert calibrated(one, "dist", 0.5) == calibrated(two, "dist", 0.5)
    assert one.curve("dist").signature == two.curve("dist").signature != ""
    compactly = Comparison(
        read_outcomes(write_outcomes(tmp_path / "c", drop_text(frame), compactly=True)), metric=metric
    )
    assert curves.audc(compactly.curve("dist")) == pytest.approx(curves.audc(one.curve("dist")), abs=0.5)
    with pytest.raises(OutcomeError, match="needs the texts or their counts.*drop_text, which keeps the counts"):
        Comparison(stored.drop(columns=[f"{metric}_counts", f"{metric}_signature"]), metric=metric)


def test_undefined_numbers_say_why():
    frame = table(methods=("xent",), seeds=(0,))
    frame.loc[frame["method"] == "xent", "quality"] = 1.0
    frame.loc[frame["method"] == "large", "quality"] = 1.0
    frame.loc[frame["model"] == "small", "flops"] = 60
    c = Comparison(frame, resamples=10)
    assert "no better than random" in c.normalised_audc("xent").reason
    assert "S alone costs more" in quality_at_budgets(c, "xent")[0].reason
    assert "all items" in c.auroc("xent").reason
    assert c.difference("cat-dist", "xent").reason == "this run has no cat-dist"
    assert c.difference("cat-dist", "dist").reason == "this run has no cat-dist and no dist"


def test_tasks_and_mixed_metrics():
    frame = table(tasks=("a", "b"), seeds=(0,))
    c = Comparison(frame, resamples=20)
    assert c.tasks == ("a", "b") and c.n == 120 and c.of_task("b").n == 60
    assert c.alone("dist").estimate == pytest.approx(np.mean([c.of_task(t).alone("dist").estimate for t in "ab"]))
    mixed = frame.assign(metric=np.where(frame["task"] == "a", "bleu", "accuracy"))
    with pytest.raises(OutcomeError, match="no common mean: choose one task"):
        Comparison(mixed)
    assert Comparison(mixed, task="b").metric == "accuracy"
    shares = frame.assign(metric=np.where(frame["task"] == "a", "exact_match", "accuracy"))
    assert Comparison(shares).metric == "accuracy"
    assert [Comparison(shares).of_task(t).metric for t in "ab"] == ["exact_match", "accuracy"]
    free = Comparison(text_table(), resamples=20).with_metric("chrf")
    assert free.of_task(free.tasks[0]).metric == "chrf"


def test_only_rules_defined_for_all_rows_are_offered():
    frame = table(methods=("xent",), seeds=(0,))
    assert Comparison(frame).rules == ("chow_average", "chow_quantile_0", "option_probability")
    frame.loc[(frame["model"] == "small").idxmax(), "confidence_option_probability"] = np.nan
    assert Comparison(frame).rules == ("chow_average", "chow_quantile_0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: pd.concat([f, f.assign(suite="other")]), "suites other, s: compare one at a time"),
        (lambda f: f[f["model"] == "large"], "no small model"),
        (lambda f: f[(f["method"] != "dist") | (f["seed"] == 0)], "methods dist lack some of the seeds"),
        (lambda f: f.assign(metric="bleu", prediction=None), "bleu needs the texts"),
        (lambda f: f.assign(metric="rouge"), "unknown metric 'rouge'"),
    ],
)
def test_tables_that_do_not_fit(change, message):
    with pytest.raises(OutcomeError, match=message):
        Comparison(change(table()).reset_index(drop=True))


def test_names_that_are_not_there():
    with pytest.raises(OutcomeError, match="no rows of method 'gatekeeper': the table holds xent, dist"):
        Comparison(table(), methods=("gatekeeper",))
    with pytest.raises(OutcomeError, match="no task 'x': the table holds t"):
        Comparison(table(), task="x")
    with pytest.raises(OutcomeError, match="give large_seed"):
        Comparison(table(large_seeds=(0, 1))).audc("xent")
    with pytest.raises(ValueError, match="not among the pairs compared"):
        Comparison(table(), resamples=10).difference("cat-dist", "xent")


def test_with_confidence_leaves_the_original_alone():
    c = Comparison(text_table(), resamples=10)
    run = c.run("dist", 0)
    even = with_confidence(run, np.zeros(run.n))
    assert even.ranking.tied and not run.ranking.tied and even.small is run.small


def without_costs(frame, model):
    return frame.assign(flops=frame["flops"].astype("Int64").mask(frame["model"] == model))


@pytest.mark.parametrize("model, name", [("small", "S"), ("large", "L")])
def test_what_rests_on_unknown_costs_is_undefined_and_nothing_else(model, name):
    frame = table(n=40)
    known, c = Comparison(frame, resamples=100), Comparison(without_costs(frame, model), resamples=100)
    why = Undefined(f"the FLOPs of {name} are unknown")
    assert known.unknown_costs is None and c.unknown_costs == why
    assert c.cost("dist") == c.large_flops == why and limits.couple_of(c, "dist") == why
    assert quality_at_budgets(c, "dist") == [why] * 3
    for point, other in ((iso_quality(c, "dist"), iso_quality(known, "dist")),
                         (calibrated(c, "dist", 0.3), calibrated(known, "dist", 0.3))):  # fmt: skip
        assert point.saving == why
        assert replace(point, saving=other.saving) == other
    assert c.audc("dist") == known.audc("dist") and c.difference("cat-dist", "dist") == known.difference(
        "cat-dist", "dist"
    )
    np.testing.assert_array_equal(c.curve("dist").quality, known.curve("dist").quality)
    written = plain(suite_metrics(c, [], 0.3))
    assert written["large_flops"] == {"value": None, "reason": why.reason}
    assert read(SuiteMetrics, json.loads(json.dumps(written))).large_flops == why
    assert written["methods"]["dist"]["iso_quality"]["saving"] == {"value": None, "reason": why.reason}


def test_thresholds_without_costs():
    rows = paired(without_costs(table(n=40), "large"), "dist", 0, "calibration")
    chosen = router.calibrate(rows, budget=0.3)
    assert chosen.tau == router.calibrate(paired(table(n=40), "dist", 0, "calibration"), budget=0.3).tau
    assert np.isnan(chosen.flops)
    with pytest.raises(ValueError, match="the FLOPs of these rows are unknown: give a budget of the deferral rate"):
        router.calibrate(rows, budget=50, budget_kind="flops")
    achieved = router.evaluate(chosen, replace(rows, split="test"))
    assert np.isnan(achieved.flops.estimate) and np.isfinite(achieved.quality.low)
