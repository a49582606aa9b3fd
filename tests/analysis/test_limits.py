"""Conditions against simulated cascades, training FLOPs against PyTorch's counter, thresholds against naive ones."""

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import rows_of, table, text_table

from cat_core import curves, router
from cat_core.analysis import limits
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.limits import Couple
from cat_core.analysis.operating_points import calibrated
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.resampling import cluster_numbers, draw_blocks

SHARES = st.tuples(*[st.floats(0.05, 1)] * 4).map(lambda x: tuple(np.array(x) / sum(x)))


def accuracy(**more):
    return Comparison(table(n=40, **more), resamples=60)


# ---------------------------------------------------------------- conditions


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.9), st.floats(0, 1))
def test_the_coin_costs_as_much_as_the_cascade(small, large, ratio, share):
    couple = Couple(small, large, ratio)
    rate = share * couple.break_even_rate
    cost = ratio + rate  # c_S + r c_L
    assert cost <= 1 + 1e-12
    sent = (cost - ratio) / (1 - ratio)
    assert curves.router_cost([ratio], [1.0], [sent])[0] == pytest.approx(cost)
    assert float(couple.coin(rate)) == pytest.approx(max(small, (1 - sent) * small + sent * large))
    debt = couple.gap * rate * ratio / (1 - ratio)
    if large >= small:
        assert float(couple.coin(rate) - couple.random(rate)) == pytest.approx(debt, abs=1e-12)
    assert couple.rate_of_saving(1 - cost) == pytest.approx(rate, abs=1e-12)
    assert float(couple.coin(1.0)) == pytest.approx(max(small, large))


def test_mid_size_lies_on_the_logarithm_of_the_cost():
    couple = Couple(60, 70, 0.1)
    costs = np.array([0.1, math.sqrt(0.1), 1.0])  # in the middle of the logarithm, half of the gap
    assert couple.mid_size(costs - 0.1) == pytest.approx([60, 65, 70])
    rates = np.linspace(0, 0.9, 50)
    assert (couple.mid_size(rates) >= couple.coin(rates) - 1e-12).all()
    assert couple.mid_size(0.95) == 70


@pytest.mark.parametrize("ratio", [0, 1, -1, 2, float("nan")])
def test_couples_that_cannot_be(ratio):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        Couple(0.5, 0.6, ratio)
    with pytest.raises(ValueError, match="finite"):
        Couple(float("nan"), 0.6, 0.5)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_needed_share_is_what_reaches_the_quality(n, seed):
    rng = np.random.default_rng(seed)
    small, large = rng.integers(0, 2, (2, n)) * 1.0
    curve, oracle = curves.deferral_curve(small, large, rng.normal(size=n)), curves.oracle_curve(small, large)
    couple, k = Couple(small.mean(), large.mean(), 0.2), n // 2
    rate, room = k / n, oracle.quality[k] - float(couple.random(k / n))
    found = limits.needed_share(couple, oracle.quality[k], rate, curve.quality[k])
    if room < 1e-9:
        assert isinstance(found, Undefined)
    else:  # the share of this curve is what its own quality needs
        assert float(couple.random(rate)) + found * room == pytest.approx(curve.quality[k])
        assert found <= 1 + 1e-9
    better = limits.needed_share(couple, oracle.quality[k], rate, oracle.quality[k] + 0.01)
    assert isinstance(better, Undefined)


def binormal_curve(shares, auroc, points=201):
    """Deferral rates and quality [points] of a confidence with that AUROC under the assumptions of `needed_auroc`."""
    right, only_large = shares[0] + shares[1], shares[2]
    spared, repaired = shares[0] / right, only_large / (1 - right)
    cdf, separation = NormalDist().cdf, math.sqrt(2) * NormalDist().inv_cdf(auroc)
    taus = np.linspace(min(0, separation) - 4, max(0, separation) + 4, points - 2)
    errors = (1 - right) * np.array([0.0, *map(cdf, taus), 1.0])  # deferred with each threshold
    spent = right * np.array([0.0, *map(cdf, taus - separation), 1.0])
    return errors + spent, right + repaired * errors - (1 - spared) * spent


def simulated(shares, auroc, n=200_000):
    """Quality of S and of L, and normal confidences with that AUROC; L's answers depend on S's being right alone."""
    rng = np.random.default_rng(5)
    both, only_small, only_large, _ = shares
    right = rng.random(n) < both + only_small
    repaired, spared = only_large / (1 - both - only_small), both / (both + only_small)
    large = rng.random(n) < np.where(right, spared, repaired)
    shift = math.sqrt(2) * limits._NORMAL.inv_cdf(auroc)
    return right * 1.0, large * 1.0, rng.normal(size=n) + shift * right


@pytest.mark.parametrize(
    ("shares", "auroc"), [((0.45, 0.1, 0.3, 0.15), 0.8), ((0.3, 0.02, 0.4, 0.28), 0.6), ((0.6, 0.1, 0.2, 0.1), 0.95)]
)
def test_binormal_quality_and_needed_auroc_against_a_simulation(shares, auroc):
    small, large, q = simulated(shares, auroc)
    assert curves.auroc(q, small == 1) == pytest.approx(auroc, abs=0.005)
    curve = curves.deferral_curve(small, large, q)
    rates, quality = binormal_curve(shares, auroc)
    seen = np.interp(rates, curve.deferral_rate, curve.quality)
    assert np.abs(seen - quality).max() < 0.006
    for rate in (0.2, 0.5, 0.8):
        reached = float(np.interp(rate, curve.deferral_rate, curve.quality))
        assert limits.needed_auroc(shares, rate, reached) == pytest.approx(auroc, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(SHARES, st.floats(0.55, 0.97), st.floats(0.05, 0.95))
def test_needed_auroc_undoes_the_binormal_curve(shares, auroc, rate):
    rates, quality = binormal_curve(shares, auroc, 4_001)
    assert (np.diff(rates) >= 0).all() and rates[0] == 0 and rates[-1] == pytest.approx(1)
    assert quality[0] == pytest.approx(shares[0] + shares[1]) and quality[-1] == pytest.approx(shares[0] + shares[2])
    wanted = float(np.interp(rate, rates, quality))
    assert limits.needed_auroc(shares, rate, wanted) == pytest.approx(auroc, abs=1e-3)
    line = (1 - rate) * quality[0] + rate * quality[-1]
    assert limits.needed_auroc(shares, rate, line) == pytest.approx(0.5, abs=1e-6)  # random deferral is a chance AUROC


def test_needed_auroc_at_its_ends():
    shares = (0.4, 0.1, 0.3, 0.2)  # S right .5; L repairs .6 of its errors and keeps .8 of what is right
    perfect = 0.5 + 0.3 * 0.6  # deferring .3, all of them errors
    assert limits.needed_auroc(shares, 0.3, perfect) == 1
    assert isinstance(limits.needed_auroc(shares, 0.3, perfect + 0.01), Undefined)
    assert limits.needed_auroc(shares, 0.3, 0.5 - 0.3 * 0.2) == 0  # deferring right answers alone
    assert isinstance(limits.needed_auroc(shares, 0.0, 0.5), Undefined)
    assert isinstance(limits.needed_auroc((0.5, 0, 0, 0.5), 0.3, 0.5), Undefined)  # L is right just where S is
    for wrong in ((0.5, 0.5, 0.5, -0.5), (0.1, 0.1, 0.1, 0.1), (0, 0, 0.5, 0.5)):
        with pytest.raises(ValueError, match="add up to 1|nothing to rank"):
            limits.needed_auroc(wrong, 0.3, 0.5)


def test_couple_of_reads_means_of_the_test_rows():
    c = accuracy()
    rows = [c.pairing("dist", seed) for seed in c.seeds]
    couple = limits.couple_of(c, "dist")
    assert couple.small == pytest.approx(np.mean([r.small_quality.mean() for r in rows]))
    assert couple.large == pytest.approx(np.mean([r.large_quality.mean() for r in rows]))
    costs = [np.mean([getattr(r, f"{which}_flops").mean() for r in rows]) for which in ("small", "large")]
    assert couple.cost_ratio == pytest.approx(costs[0] / costs[1])


@pytest.mark.parametrize("better", [True, False])
def test_over_coin_against_a_second_bootstrap(better):
    frame = table(large_seeds=(3, 7), seeds=(0, 1, 2), n=30)
    if not better:  # L gets nothing right: the opponent is S alone
        frame["quality"] = frame["quality"].where(frame["model"] == "small", 0.0)
    c = Comparison(frame, {0: 3, 1: 7, 2: 3}, resamples=40)
    rates, couple = np.array([0.0, 0.3, 0.7]), limits.couple_of(c, "dist")
    found = limits.over_coin(c, "dist", rates)
    rows = [c.pairing("dist", seed) for seed in c.seeds]

    def naive(counts):
        values = []
        for row in rows:
            drawn = np.repeat(np.arange(len(row)), counts)
            curve = curves.deferral_curve(row.small_quality[drawn], row.large_quality[drawn], row.confidence[drawn])
            at = np.interp(rates, curve.deferral_rate, curve.quality)
            small, large = curve.quality[[0, -1]]
            coin = np.minimum(rates / (1 - couple.cost_ratio), 1) * (large - small) if better else 0
            values.append(at - small - coin)
        return np.array(values)

    labels = cluster_numbers(rows[0].cluster_ids)
    once = naive(np.ones(30, int))
    blocks = draw_blocks(labels, 3, 40, groups=c.groups)
    draws = [naive(n).mean(axis=0) + (w - 1 / 3) @ once
             for _, counts, weight in blocks for n, w in zip(counts, weight)]  # fmt: skip
    assert found.estimate == pytest.approx(once.mean(axis=0))
    assert np.array([found.low, found.high]) == pytest.approx(np.quantile(draws, [0.025, 0.975], axis=0))
    assert found.estimate[0] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(limits.over_coin(Comparison(text_table(n=12), resamples=10), "dist", rates).low).all()


# ---------------------------------------------------------------- thresholds on other queries


@pytest.mark.parametrize(("n", "budget", "test"), [(20, 0.3, 50), (7, 0.5, 400), (100, 0.1, 30)])
def test_rate_interval_against_uniform_numbers(n, budget, test):
    rng, k = np.random.default_rng(0), int(n * budget + 1e-9)
    rates = np.array([
        np.mean(rng.random(test) <= np.sort(rng.random(n))[k - 1]) for _ in range(20_000)
    ])  # fmt: skip
    found = limits.rate_interval(n, budget, test)
    assert found.estimate == pytest.approx(rates.mean(), abs=0.005)
    assert np.mean((rates >= found.low) & (rates <= found.high)) > 0.945
    for end, tail in ((found.low, rates < found.low), (found.high, rates > found.high)):
        assert tail.mean() < 0.03, end
    assert abs(found.low - np.quantile(rates, 0.025)) <= 1.01 / test + 0.005
    assert abs(found.high - np.quantile(rates, 0.975)) <= 1.01 / test + 0.005


@given(st.integers(2, 300), st.floats(0.02, 0.98), st.integers(1, 400), st.floats(0.5, 0.99))
def test_rate_interval_against_sums_of_its_masses(n, budget, test, level):
    k, found = int(n * budget * (1 + 1e-9)), limits.rate_interval(n, budget, test, level)
    if k:
        x, log = np.arange(test + 1), np.vectorize(math.lgamma)
        mass = log(test + 1) - log(x + 1) - log(test - x + 1) + log(k + x) + log(n + 1 - k + test - x)
        share = np.exp(mass - log(n + 1 + test) + log(n + 1) - log(k) - log(n + 1 - k)).cumsum()
        assert share[-1] == pytest.approx(1, abs=1e-9)
        ends = [np.searchsorted(share, q) for q in ((1 - level) / 2, (1 + level) / 2)]
        assert [round(e * test) for e in (found.low, found.high)] == ends


def test_rate_interval_at_its_ends():
    assert limits.rate_interval(9, 0.1, 50) == limits.Interval(0.0, 0.0, 0.0)  # floor(0.9) = 0: nothing is deferred
    assert limits.rate_interval(9, 1.0, 50) == limits.Interval(1.0, 1.0, 1.0)
    assert limits.rate_interval(10, 0.3, 50).estimate == pytest.approx(3 / 11)  # 0.3 is not quite 3/10
    for wrong in ((0, 0.3, 5), (5, 1.3, 5), (5, 0.3, 0), (5, float("nan"), 5)):
        with pytest.raises(ValueError, match="need n and test"):
            limits.rate_interval(*wrong)


def other_queries():
    """Two tasks with equal answers, but the confidences of the second one lie lower by 10."""
    frame = table(methods=("dist",), tasks=("one", "two"), n=50)
    lower = (frame["task"] == "two") & (frame["model"] == "small")
    frame.loc[lower, "confidence_chow_average"] -= 10
    return Comparison(frame, resamples=40)


def test_shift_against_a_naive_computation():
    c = other_queries()
    one, two = c.of_task("one"), c.of_task("two")
    found = limits.shift(one, two, ("one", "two"), "dist", 0.3)
    rates, qualities, promised = [], [], []
    for seed in c.seeds:
        calibration, test = one.pairing("dist", seed, "calibration"), two.pairing("dist", seed, "test")
        tau = router.calibrate(calibration, budget=0.3).tau
        deferred = test.confidence <= tau
        rates.append(deferred.mean())
        qualities.append(np.where(deferred, test.large_quality, test.small_quality).mean())
        kept = calibration.confidence > tau
        promised.append(np.where(kept, calibration.small_quality, calibration.large_quality).mean())
    assert found.there.deferral_rate.estimate == pytest.approx(np.mean(rates)) == pytest.approx(1.0)
    assert found.there.quality.estimate == pytest.approx(np.mean(qualities))
    assert found.promised_quality == pytest.approx(np.mean(promised))
    assert 0.15 < found.promised_rate <= 0.3 and found.inside == 0 and found.seeds == 2
    assert (found.n_calibration, found.n_test) == (50, 50)
    assert found.again.deferral_rate == calibrated(two, "dist", 0.3).deferral_rate
    back = limits.shift(two, one, ("two", "one"), "dist", 0.3)
    assert back.there.deferral_rate.estimate == 0 and back.inside == 0
    same = limits.shift(one, one, ("one", "one"), "dist", 0.3)
    assert same.there == same.here == same.again and same.inside == 2


def test_an_alarm_rings_as_often_as_draws_of_the_test_rows_leave_the_range():
    c = other_queries()
    one, two = c.of_task("one"), c.of_task("two")
    shift = limits.shift(one, two, ("one", "two"), "dist", 0.3)
    assert shift.rates == (1.0, 1.0) and len(shift.own_rates) == shift.seeds == 2 and shift.n_own == one.n
    rng, window = np.random.default_rng(0), 12
    law, others, own = shift.alarm(window)
    assert law == limits.rate_interval(50, 0.3, window) and law.high < 1 and others == 1.0
    outside = []
    for seed, tau in shift.here.taus.items():
        deferred = router.route(one.pairing("dist", seed).confidence, tau)
        seen = np.array([rng.permutation(deferred)[:window].mean() for _ in range(4_000)])
        outside.append(np.mean((seen < law.low - 1e-9) | (seen > law.high + 1e-9)))
    assert own == pytest.approx(np.mean(outside), abs=0.02)
    assert shift.alarm(10_000) == shift.alarm(50), "no more queries than there are"


# ---------------------------------------------------------------- the price of a mistake


def test_spending_against_all_thresholds_tried_one_by_one():
    c, prices = accuracy(methods=("dist",)), (0.0, 1.0, 3.0, 10.0, 1000.0)
    found = limits.spending(c, "dist", prices)
    for price, s in zip(prices, found):
        rows = []
        for seed in c.seeds:
            calibration, test = c.pairing("dist", seed, "calibration"), c.pairing("dist", seed)

            def spent(p, tau, price=price):
                sent = p.confidence <= tau
                wrong = 1 - np.where(sent, p.large_quality, p.small_quality).mean()
                return (p.small_flops + sent * p.large_flops).mean() / p.large_flops.mean() + price * wrong

            tau = min([-np.inf, *np.unique(calibration.confidence)], key=lambda tau: spent(calibration, tau))
            alone = 1 + price * (1 - test.large_quality.mean())
            rows.append((spent(test, -np.inf), alone, spent(test, tau), np.mean(test.confidence <= tau)))
        assert (s.small, s.large, s.cascade, s.rate) == pytest.approx(np.mean(rows, axis=0))
        assert s.cheaper == sum(r[2] < min(r[:2]) - 1e-9 for r in rows) and s.seeds == 2
        assert s.saved == pytest.approx(1 - s.cascade / min(s.small, s.large))
    assert found[0].rate == 0 and found[0].tau == -np.inf and found[0].saved == 0, "free mistakes need no L"
    assert [s.rate for s in found] == sorted(s.rate for s in found), "the dearer a mistake, the more goes to L"


def test_spending_is_undefined_where_a_mistake_has_no_price():
    assert "no mean over answers" in limits.spending(Comparison(text_table()), "dist", (1.0,)).reason
    c = accuracy()
    rows = c.frame[c.frame["split"] == "test"]
    assert "calibration" in limits.spending(Comparison(rows), "dist", (1.0,)).reason
    with pytest.raises(ValueError, match="prices go down to -1"):
        limits.spending(c, "dist", (1.0, -1.0))


def test_shift_without_a_threshold_or_calibration_rows():
    c = other_queries()
    flat = c.frame.assign(confidence_chow_average=np.where(c.frame["model"] == "small", 1.0, np.nan))
    constant = Comparison(flat, resamples=10)
    assert isinstance(limits.shift(constant, constant, ("a", "b"), "dist", 0.3), Undefined)
    two = c.of_task("two").frame
    tested = Comparison(two[two["split"] == "test"], resamples=10)
    found = limits.shift(c.of_task("one"), tested, ("one", "two"), "dist", 0.3)
    assert isinstance(found.again, Undefined) and found.there.deferral_rate.estimate == 1
    with pytest.raises(ValueError, match="seeds"):
        limits.shift(c, accuracy(seeds=(0, 1, 2)), ("a", "b"), "dist", 0.3)


def test_of_method_keeps_its_rows_and_its_numbers():
    c = accuracy(methods=("xent", "dist"))
    one = limits.of_method(c, "dist")
    assert one.methods == ("dist",) and len(one.frame) < len(c.frame)
    assert calibrated(one, "dist", 0.3) == calibrated(c, "dist", 0.3)
    with pytest.raises(ValueError, match="dist"):
        one.pairing("xent", 0)


def test_without_task_leaves_it_out():
    c = other_queries()
    assert limits.without_task(c, "one").tasks == ("two",) and c.tasks == ("one", "two")


def test_recalibrated_rates_are_those_of_the_router_without_labels():
    c = accuracy(methods=("dist",))  # with ties
    n = len(c.pairing("dist", 0, "calibration"))
    for budget in (0.3, 0.5, 1.0):
        found = limits.recalibrated_rates(c, "dist", budget, [1, 10, n], draws=30)
        assert found.shape == (3, 60)
        for rates, seed in zip(np.split(found[2], 2), c.seeds):  # of all rows: one threshold a seed
            tau = router.calibrate(c.pairing("dist", seed, "calibration"), budget=budget).tau
            assert (rates == np.mean(c.pairing("dist", seed).confidence <= tau)).all()
        assert (found[0] == (budget == 1)).all()  # of one row: none or all
        other = Comparison(c.frame.assign(quality=1.0 - c.frame["quality"]), resamples=10)
        assert (limits.recalibrated_rates(other, "dist", budget, [1, 10, n], draws=30) == found).all()
    with pytest.raises(ValueError, match="sizes go up to 99"):
        limits.recalibrated_rates(c, "dist", 0.3, [99])


def test_recalibrated_rates_follow_the_formula():
    rng, parts = np.random.default_rng(3), []
    for split, n in (("calibration", 400), ("test", 800)):
        parts.append(rows_of("large", 0, split, np.ones(n)))
        parts.append(rows_of("dist", 0, split, rng.integers(0, 2, n), rng.normal(size=n)))
    c = Comparison(pd.concat(parts, ignore_index=True), resamples=10)
    rates = limits.recalibrated_rates(c, "dist", 0.3, [20], draws=2_000)[0]
    law = limits.rate_interval(20, 0.3, 800)
    assert np.quantile(rates, [0.025, 0.975]) == pytest.approx([law.low, law.high], abs=0.05)
    assert rates.mean() == pytest.approx(law.estimate, abs=0.03)


def test_couple_of_a_dear_small_model_is_undefined():
    c = accuracy(methods=("dist",))
    dear = c.frame.assign(flops=np.where(c.frame["model"] == "small", 500, 100))
    found = limits.couple_of(Comparison(dear, resamples=10), "dist")
    assert isinstance(found, Undefined) and "5.00 times" in found.reason
    with pytest.raises(ValueError, match="no coin is dearer than L"):
        limits.over_coin(Comparison(dear, resamples=10), "dist", np.array([0.3]))
