"""Operating points: thresholds of calibration rows on test rows, against a naive second computation."""

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from small_tables import table, text_table

from cat_core import router
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.corpus import exact_scores
from cat_core.analysis.operating_points import calibrated, harm, iso_quality
from cat_core.analysis.outcomes import OutcomeError, paired
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.resampling import cluster_numbers, draw_blocks


def achieved(rows, tau):
    """Deferral rate, quality, quality less that of L, and FLOPs saved against L, of one threshold."""
    deferred = rows.confidence <= tau
    quality = np.where(deferred, rows.large_quality, rows.small_quality).mean()
    spent = rows.small_flops.mean() + np.where(deferred, rows.large_flops, 0).mean()
    return deferred.mean(), quality, quality - rows.large_quality.mean(), 1 - spent / rows.large_flops.mean()


def test_iso_quality_is_the_first_threshold_with_the_quality_of_L_for_one_seed():
    frame = table(seeds=(4,))
    c = Comparison(frame, resamples=50)
    for method in c.methods:
        point = iso_quality(c, method)
        chosen, rows = (paired(frame, method, 4, split) for split in ("calibration", "test"))
        taus = (-np.inf, *sorted(set(chosen.confidence))[:-1], np.inf)
        tau = next(t for t in taus if achieved(chosen, t)[2] >= -1e-12)
        assert point.taus == {4: tau} and point.promised_rate == achieved(chosen, tau)[0]
        found = (
            point.deferral_rate.estimate,
            point.quality.estimate,
            point.gap.estimate,
            point.saving.estimate,
        )
        assert found == pytest.approx(achieved(rows, tau))


def test_only_deferring_everything_is_an_infinite_threshold():
    frame = table(methods=("xent",), seeds=(0,))
    wrong = (frame["method"] == "xent").to_numpy()
    frame.loc[:, "quality"] = np.where(wrong, 0.0, 1.0)  # every row has to be deferred for L's quality
    point = iso_quality(Comparison(frame, resamples=20), "xent")
    assert point.taus == {0: np.inf} and point.deferral_rate.estimate == point.quality.estimate == 1


def shares() -> Comparison:
    deal = {seed: (3, 7)[seed % 2] for seed in range(4)}
    return Comparison(table(methods=("dist", "cat-dist"), large_seeds=(3, 7), seeds=tuple(deal)), deal, resamples=12)


@pytest.mark.parametrize("made", [shares, lambda: Comparison(text_table(), resamples=12)])
def test_the_interval_of_a_saving_draws_calibration_items_as_well(made):
    c = made()
    a = c.methods[0]
    labels = cluster_numbers(c.pairing(a, c.seeds[0], "calibration").cluster_ids)
    calibration = np.concatenate([x for _, x, _ in draw_blocks(labels, len(c.seeds), 12, seed=1)])
    tests = list(draw_blocks(cluster_numbers(c.pairing(a, c.seeds[0]).cluster_ids), len(c.seeds), 12, groups=c.groups))

    def quality(method, seed, split, counts, tau):
        rows = c.pairing(method, seed, split)
        deferred = rows.confidence <= tau
        if not c.is_corpus:
            return np.average(np.where(deferred, rows.large_quality, rows.small_quality), weights=counts)
        run = c.run(method, seed, split)
        return exact_scores(run.metric, (counts @ np.where(deferred[:, None], run.large, run.small))[None])[0]

    def saving(method, seed, counts, weights):
        rows = c.pairing(method, seed, "calibration")
        taus = [-np.inf, *np.unique(rows.confidence)[:-1], np.inf]
        goal = quality(method, seed, "calibration", weights, np.inf) - 1e-9
        tau = next(t for t in taus if quality(method, seed, "calibration", weights, t) >= goal)
        test = c.pairing(method, seed)
        spent = test.small_flops + np.where(test.confidence <= tau, test.large_flops, 0)
        return 1 - (counts @ spent) / (counts @ test.large_flops)

    counts, seeds = (np.concatenate([draw[i] for draw in tests]) for i in (1, 2))
    whole = [np.ones(len(x[0]), dtype=int) for x in (counts, calibration)]
    once = [saving(a, s, *whole) for s in c.seeds]
    drawn = [np.mean([saving(a, s, k, m) for s in c.seeds]) + (ws - 1 / len(c.seeds)) @ once
             for k, ws, m in zip(counts, seeds, calibration)]  # fmt: skip
    found = iso_quality(c, a).saving
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-9)
    assert found.estimate == pytest.approx(np.mean(once))


def test_savings_of_other_items_are_not_paired():
    frame = table(methods=("dist", "cat-dist"), seeds=(0,))
    other = frame["method"] == "cat-dist"
    frame.loc[other, "item_id"] = frame["item_id"][other] + "b"
    twice = frame[frame["method"] == "large"].assign(item_id=lambda f: f["item_id"] + "b")
    c = Comparison(pd.concat([frame, twice], ignore_index=True), resamples=10)
    with pytest.raises(OutcomeError, match="cat-dist of seed 0 has other test items than dist of seed 0"):
        iso_quality(c, "cat-dist")


def test_harm_is_the_share_of_deferred_items_that_were_better_left():
    frame = table(seeds=(0, 1))
    large = frame["model"] == "large"
    frame.loc[large, "quality"] = np.random.default_rng(2).integers(0, 2, large.sum()) * 1.0
    c = Comparison(frame, resamples=20)
    taus, shares = calibrated(c, "dist", 0.3).taus, []
    for seed in c.seeds:
        rows = c.pairing("dist", seed)
        triples = zip(rows.small_quality, rows.large_quality, rows.confidence)
        mine = [small > large for small, large, sure in triples if sure <= taus[seed]]
        shares.append(sum(mine) / len(mine))
    assert harm(c, "dist", 0.3) == pytest.approx(np.mean(shares)) and 0 < np.mean(shares) < 1
    assert harm(c, "dist", 0.0) == Undefined("nothing is deferred")


def test_calibrated_threshold_is_that_of_the_router():
    frame = table(seeds=(0,))
    c = Comparison(frame, resamples=400)
    point = calibrated(c, "dist", 0.3)
    calibration, test = (paired(frame, "dist", 0, split) for split in ("calibration", "test"))
    tau = router.calibrate(calibration, budget=0.3)
    achieved = router.evaluate(tau, test, resamples=400)
    assert point.taus == {0: tau.tau} and point.promised_rate == tau.deferral_rate <= 0.3
    assert (point.deferral_rate, point.quality) == (achieved.deferral_rate, achieved.quality)
    calibration, test = (paired(frame, "dist", 0, split, "chow_quantile_0") for split in ("calibration", "test"))
    other = router.calibrate(calibration, budget=0.3)
    point = calibrated(c, "dist", 0.3, "chow_quantile_0")
    achieved = router.evaluate(other, test, resamples=400)
    assert point.taus == {0: other.tau} and point.quality == achieved.quality
    assert iso_quality(c, "dist").taus != iso_quality(c, "dist", "chow_quantile_0").taus
    two = calibrated(Comparison(table(seeds=(0, 1)), resamples=400), "dist", 0.3)
    assert set(two.taus) == {0, 1} and two.deferral_rate.low < two.deferral_rate.estimate < two.deferral_rate.high
    assert two.saving.estimate == pytest.approx(1 - (10 / 100 + two.deferral_rate.estimate), abs=0.02)


def test_a_budget_that_no_threshold_meets_is_undefined_with_the_routers_reason():
    frame = table(methods=("dist",), seeds=(0,))
    frame.loc[frame["method"] == "dist", "confidence_chow_average"] = -1.0
    found = calibrated(Comparison(frame, resamples=10), "dist", 0.3)
    assert isinstance(found, Undefined) and "confidences equal" in found.reason
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        calibrated(Comparison(table(seeds=(0,)), resamples=10), "dist", 3)


def test_operating_point_of_bleu():
    frame = text_table()
    c = Comparison(frame, resamples=200)
    point = calibrated(c, "dist", 0.5)
    scores = []
    for seed in (0, 1):
        run = paired(frame, "dist", seed, "test")
        deferred = run.confidence <= point.taus[seed]
        mixed = list(np.where(deferred, run.large_predictions, run.small_predictions))
        scores.append(sacrebleu.corpus_bleu(mixed, [list(run.targets)]).score)
    assert point.quality.estimate == pytest.approx(np.mean(scores), abs=1e-9)
    assert point.quality.low < point.quality.estimate < point.quality.high
    assert point.gap.estimate == pytest.approx(np.mean(scores) - c.large_alone().estimate)
    assert point.saving.estimate == pytest.approx(1 - 0.1 - point.deferral_rate.estimate)
