"""Routing and calibration: budgets, certified quality, what is refused, the guarantee by simulation."""

import math
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cat_core.analysis.outcomes import paired
from cat_core.router import betting_p, calibrate, clopper_pearson, evaluate, p_values, route


def rows(small, large, confidence, split="calibration", small_flops=1, large_flops=10, **more):
    n = len(confidence)
    return SimpleNamespace(
        small_quality=np.array(small, float),
        large_quality=np.array(large, float),
        confidence=np.array(confidence, float),
        small_flops=np.full(n, small_flops),
        large_flops=np.full(n, large_flops),
        split=split,
        **more,
    )


TEN = rows([0] * 5 + [1] * 5, [1] * 10, range(10))


def binomial_cdf(k, n, p):
    """P(Bin(n, p) <= k) in exact arithmetic."""
    p = Fraction(p)
    return float(sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1)))


# ---------------------------------------------------------------- the rule


def test_route():
    q = [-1.0, 0.0, 2.0, math.inf]
    assert route(q, 0).tolist() == [True, True, False, False]
    assert not route(q, -math.inf).any() and route(q, math.inf).all()
    with pytest.raises(ValueError, match="tau is NaN"):
        route(q, math.nan)
    for bad in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=r"1 NaN or -inf among 2 values \(first at position 1\)"):
            route([0, bad], 0)
    with pytest.raises(ValueError, match="non-empty"):
        route([], 0)


def test_needs_numpy_only():
    code = (
        "import sys, cat_core.router; "
        "print([m for m in ('pandas', 'pyarrow', 'torch', 'sacrebleu', 'datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---------------------------------------------------------------- budgets


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30).filter(lambda q: len(set(q)) > 1), st.floats(0, 1))
def test_deferral_rate_budget_is_the_highest_that_fits(q, budget):
    data = rows([0] * len(q), [1] * len(q), q)
    rates = {tau: np.mean(np.array(q) <= tau) for tau in [-math.inf, *q]}
    fitting = [rate for rate in rates.values() if rate <= budget + 1e-12]
    if max(fitting) == 0 and budget > 0:
        with pytest.raises(ValueError, match="defers none"):
            calibrate(data, budget=budget)
        return
    found = calibrate(data, budget=budget)
    assert found.deferral_rate == pytest.approx(max(fitting)) == route(q, found.tau).mean()
    assert found.quality == pytest.approx(found.deferral_rate) and found.n == len(q)
    assert found.flops == pytest.approx(1 + 10 * found.deferral_rate)


def test_budget_edges():
    assert calibrate(TEN, budget=0).tau == -math.inf
    assert calibrate(TEN, budget=1).tau == math.inf
    assert calibrate(TEN, budget=0.3).tau == 2 and calibrate(TEN, budget=0.3).deferral_rate == 0.3
    assert calibrate(rows([0, 1], [1, 1], [0, 1]), budget=0.5).tau == 0  # zero is a threshold like any other


def test_flops_budget_counts_item_by_item():
    data = rows([0, 0, 1], [1, 1, 1], [3, 1, 2])
    data.large_flops = np.array([5, 60, 7])
    found = calibrate(data, budget=24, budget_kind="flops")
    assert found.tau == 2 and found.flops == pytest.approx(1 + 67 / 3) and found.kind == "flops"
    assert calibrate(data, budget=1e9, budget_kind="flops").tau == math.inf


@pytest.mark.parametrize(
    "data, options, message",
    [
        (TEN, {}, "give either budget= or quality="),
        (TEN, {"budget": 0.5, "quality": 0.5}, "give either budget= or quality="),
        (TEN, {"budget": 1.5}, r"share in \[0, 1\], got 1.5"),
        (TEN, {"budget": math.nan}, r"share in \[0, 1\], got nan"),
        (TEN, {"budget": 0.05}, "0.05 deferral rate defers none of 10 items: .* spends 0.1"),
        (TEN, {"budget": 0.5, "budget_kind": "flops"}, r"0.5 FLOPs per query does not pay .* model alone \(1\)"),
        (TEN, {"budget": 1.5, "budget_kind": "flops"}, "1.5 mean FLOPs per query defers none"),
        (TEN, {"budget": math.nan, "budget_kind": "flops"}, "nan FLOPs"),
        (TEN, {"budget": 0.5, "budget_kind": "time"}, "budget_kind must be one of .* got 'time'"),
        (TEN, {"quality": 1}, "strictly between 0 and 1, got 1"),
        (TEN, {"quality": 0.5, "delta": 0}, "delta must lie strictly"),
        (TEN, {"quality": 0.5, "bound": "normal"}, "bound must be one of auto, binomial"),
        (TEN, {"quality": 0.9}, "quality 0.9 cannot be certified .* even always deferring gives 1 on 10"),
        (rows([0.5, 1], [1, 1], [0, 1]), {"quality": 0.2, "bound": "binomial"}, "needs 0/1 quality"),
        (rows([1, 1], [1, 1], [3, 3]), {"budget": 0.5}, "all 2 calibration confidences equal 3"),
        (rows([1, 1], [1, 1], [3, math.nan]), {"budget": 0.5}, "1 NaN or -inf"),
        (rows([], [], []), {"budget": 0.5}, "non-empty"),
        (rows([math.nan, 1], [1, 1], [3, 4]), {"budget": 0.5}, r"small_quality\[0\] is nan"),
        (rows([0, 1], [1, 1], [3, 4], "test"), {"budget": 0.5}, "2 rows of split 'test', expected split 'calib"),
        (rows([0, 1], [1, 1], [3, 4], cluster_ids=["a"]), {"budget": 0.5}, "cluster_ids has 1 items"),
    ],
)
def test_calibrate_refuses(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        calibrate(data, **options)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- certified quality


def naive_certified(data, target, delta):
    """Fixed-sequence testing by the definition, for 0/1 quality: from always defer downwards."""
    best = None
    for tau in [math.inf, *sorted(set(data.confidence))[-2::-1], -math.inf]:
        quality = np.where(data.confidence <= tau, data.large_quality, data.small_quality)
        if binomial_cdf(int((1 - quality).sum()), len(quality), 1 - Fraction(target)) > delta:
            break
        best = tau
    return best


@given(st.integers(2, 60), st.sampled_from([0.25, 0.5, 0.75]), st.sampled_from([0.05, 0.3]), st.integers(0, 10**6))
def test_fixed_sequence_testing(n, target, delta, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 8, n) * 1.0
    q[0], q[1] = 0, 7
    data = rows(rng.random(n) < 0.2 + 0.08 * q, rng.random(n) < 0.9, q)
    expected = naive_certified(data, target, delta)
    if expected is None:
        with pytest.raises(ValueError, match="cannot be certified"):
            calibrate(data, quality=target, delta=delta)
    else:
        found = calibrate(data, quality=target, delta=delta)
        assert found.tau == expected and found.bound == "binomial" and found.delta == delta
        assert found.deferral_rate == route(q, expected).mean()


@pytest.mark.parametrize("binary", [True, False])
def test_the_guarantee_holds(binary):
    """The true quality falls short of the target in at most a share delta of many calibration sets."""
    rng, delta, target, n = np.random.default_rng(0), 0.2, 0.8, 200
    short = chosen = 0
    for _ in range(300):
        q = rng.random(n)  # true quality at tau: P(q <= tau) * .9 + integral of q above tau
        right = rng.random((2, n)) < np.stack([q, np.full(n, 0.9)])
        noise = 0.2 * rng.random((2, n))
        small, large = right if binary else np.where(right, 1 - noise, noise)
        found = calibrate(rows(small, large, q), quality=target - 0.1 * (not binary), delta=delta)
        tau = min(max(found.tau, 0), 1)
        truth = 0.9 * tau + (1 - tau**2) / 2
        truth = truth if binary else 0.1 + 0.8 * truth
        short += truth < target - 0.1 * (not binary)
        chosen += found.tau < math.inf
    assert short <= 300 * delta and chosen > 250
    assert short > 0 or not binary  # the exact bound is not vacuous


def test_clusters_are_the_units():
    clusters = np.repeat(np.arange(20), 5)
    data = rows(np.zeros(100), np.ones(100), np.arange(100), cluster_ids=clusters)
    found = calibrate(data, quality=0.6)
    assert found.units == 20 and found.bound == "hoeffding_bentkus" and found.n == 100
    alone = calibrate(rows(data.small_quality, data.large_quality, data.confidence), quality=0.6)
    assert alone.units == 100 and alone.deferral_rate < found.deferral_rate
    # five copies of everything say no more than one
    single = calibrate(rows(np.zeros(20), np.ones(20), np.arange(20)), quality=0.6, bound="hoeffding_bentkus")
    copies = rows(np.zeros(100), np.ones(100), clusters, cluster_ids=clusters)
    assert calibrate(copies, quality=0.6).tau == single.tau


LEVELS = np.linspace(0.025, 0.975, 20)  # confidences, all as frequent
SIZED = {  # sizes of clusters, their shares, quality of S and of L, whether a cluster's items go together, target
    "the fault's, out of reach": ([1, 10], [0.5, 0.5], lambda q, n: (n == 1) + (n > 1) * 0.5 + 0 * q,
                                  lambda n: (n == 1) + (n > 1) * 0.6, False, 0.68),
    "the fault's, within reach": ([1, 10], [0.5, 0.5], lambda q, n: (n == 1) + (n > 1) * 0.5 + 0 * q,
                                  lambda n: (n == 1) + (n > 1) * 0.6, False, 0.56),
    "large ones are bad": ([1, 2, 3, 4, 6, 9, 14], [0.3, 0.2, 0.15, 0.1, 0.1, 0.1, 0.05],
                           lambda q, n: (0.4 + 0.6 * q) / (1 + n / 20), lambda n: 0.95 / (1 + n / 20), True, 0.54),
    "large ones are good": ([1, 2, 3, 4, 6, 9, 14], [0.3, 0.2, 0.15, 0.1, 0.1, 0.1, 0.05],
                            lambda q, n: q * (0.5 + n / 28), lambda n: 0.6 + n / 40, True, 0.62),
    "few large ones": ([2, 40], [0.95, 0.05], lambda q, n: (n == 2) * 0.9 + (n > 2) * 0.3 * q,
                       lambda n: (n == 2) * 0.95 + (n > 2) * 0.4, True, 0.6),
    "one size": ([5], [1.0], lambda q, n: 0.5 * q + 0 * n, lambda n: 0.7 + 0 * n, True, 0.42),
}  # fmt: skip


@pytest.mark.parametrize("layout", SIZED)
def test_the_guarantee_is_about_items_whatever_the_sizes_of_clusters(layout):
    """The true quality, as it is reported (mean over items), falls short in at most a share delta of redraws."""
    sizes, shares, small, large, alike, target = SIZED[layout]
    sizes, shares, rng, delta, redraws = np.array(sizes), np.array(shares), np.random.default_rng(0), 0.1, 200
    weight = sizes * shares / (sizes * shares).sum()  # of a size among items

    def truth(tau):
        kept = [np.where(LEVELS <= tau, large(n), small(LEVELS, n)).mean() for n in sizes]
        return float(weight @ kept)

    certified = short = 0
    for _ in range(redraws):
        each = (
            rng.permutation(np.repeat(sizes, 50))
            if layout.startswith("the fault")
            else rng.choice(sizes, 100, p=shares)
        )
        clusters = np.repeat(np.arange(len(each)), each)
        n, q = each[clusters], rng.choice(LEVELS, len(clusters))
        luck = rng.random((2, len(each)))[:, clusters] if alike else rng.random((2, len(clusters)))
        data = rows(luck[0] < small(q, n), luck[1] < large(n), q, cluster_ids=clusters)
        try:
            found = calibrate(data, quality=target, delta=delta)
        except ValueError as error:
            assert "cannot be certified" in str(error)
            continue
        assert found.bound == ("betting" if len(set(each)) > 1 else "hoeffding_bentkus")
        assert found.quality >= target and found.units == len(each)
        certified += 1
        short += truth(found.tau) < target
    assert short <= delta * redraws, (short, certified)
    assert certified > redraws / 4 or layout in ("the fault's, out of reach", "few large ones"), certified


@given(st.lists(st.floats(-0.3, 0.7), min_size=1, max_size=30), st.sampled_from([0.01, 0.1, 0.5]))
def test_the_gamblers_fortune_step_by_step(excess, delta):
    alpha, best, fortune, squares = 0.3, 1.0, 1.0, 0.3 * 0.7
    order = np.random.default_rng(0).permutation(len(excess))
    for step, place in enumerate(order, start=1):
        stake = min(math.sqrt(2 * math.log(1 / delta) * step / (len(excess) * squares)), 0.75 / 0.7)
        fortune *= 1 - stake * excess[place]
        best = max(best, fortune)
        squares += excess[place] ** 2
    assert betting_p(np.array(excess), alpha, delta) == pytest.approx(1 / best, rel=1e-9)


@pytest.mark.parametrize("kind", ["two-valued", "flat", "rare", "nearly constant"])
def test_a_true_hypothesis_is_rarely_rejected_by_betting(kind):
    """Expected loss exactly alpha, where the hypothesis "not below it" is hardest to keep."""
    rng, alpha, delta, n, tries = np.random.default_rng(1), 0.3, 0.1, 60, 3000
    draw = {
        "two-valued": lambda: (rng.random(n) < alpha) - alpha,
        "flat": lambda: rng.random(n) * 0.6 - alpha,
        "rare": lambda: np.where(rng.random(n) < 0.02, 0.7, -0.7 * 0.02 / 0.98),
        "nearly constant": lambda: 0.02 * (rng.random(n) - 0.5),
    }[kind]
    rejected = sum(betting_p(draw(), alpha, delta) <= delta for _ in range(tries))
    assert rejected <= tries * delta and (rejected > 0 or kind in ("rare", "nearly constant"))


def test_p_values():
    for losses, n, alpha in [(0, 10, 0.1), (3, 10, 0.5), (10, 10, 0.3), (2, 400, 0.02)]:
        exact = binomial_cdf(losses, n, alpha)
        assert p_values([losses], n, alpha, "binomial")[0] == pytest.approx(exact)
        assert p_values([losses], n, alpha)[0] >= exact * (1 - 1e-12)
    assert p_values([5.0], 100, 0.1)[0] == pytest.approx(
        min(math.exp(-100 * (0.05 * math.log(0.5) + 0.95 * math.log(0.95 / 0.9))), math.e * binomial_cdf(5, 100, 0.1))
    )
    assert p_values([20.0], 100, 0.1)[0] == 1
    np.testing.assert_array_less(np.diff(-p_values(np.linspace(0, 9, 50), 100, 0.1)), 1e-12)


# ---------------------------------------------------------------- evaluation


def test_clopper_pearson():
    low, high = clopper_pearson(7, 20)
    assert binomial_cdf(7, 20, high) == pytest.approx(0.025)
    assert binomial_cdf(6, 20, low) == pytest.approx(0.975)
    assert clopper_pearson(0, 10)[0] == 0 and clopper_pearson(10, 10)[1] == 1
    assert clopper_pearson(0, 10)[1] == pytest.approx(1 - 0.025**0.1)
    with pytest.raises(ValueError, match="successes"):
        clopper_pearson(5, 4)


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.5, 0.999))
def test_tails_and_intervals_are_those_of_scipy(n, share, alpha, level):
    k = round(share * n)
    np.testing.assert_allclose(p_values([k], n, alpha, "binomial")[0], stats.binom.cdf(k, n, alpha), 1e-9, 1e-30)
    wanted = stats.binomtest(k, n).proportion_ci(level, method="exact")
    np.testing.assert_allclose(clopper_pearson(k, n, level), wanted, 1e-9, 1e-9)


def test_evaluate_reports_test_rows():
    data = rows([0] * 5 + [1] * 5, [1] * 10, range(10), "test")
    found = evaluate(calibrate(TEN, budget=0.3), data)
    assert (found.deferral_rate.estimate, found.quality.estimate, found.flops.estimate) == (0.3, 0.8, 4)
    assert (found.quality.low, found.quality.high) == clopper_pearson(8, 10)
    assert (found.deferral_rate.low, found.deferral_rate.high) == clopper_pearson(3, 10)
    assert 1 <= found.flops.low < 4 < found.flops.high <= 11
    assert (found.small_quality, found.large_quality, found.n) == (0.5, 1, 10)
    assert evaluate(-math.inf, data).quality.estimate == 0.5
    with pytest.raises(ValueError, match="split 'calibration', expected split 'test': evaluate on test rows"):
        evaluate(0.0, TEN)
    with pytest.raises(ValueError, match="level"):
        evaluate(0.0, data, level=95)


def test_evaluate_bounded_quality_by_bootstrap_over_clusters():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random(40), 10)
    data = rows(values, values, rng.random(400), "test")
    alone = evaluate(0.5, data).quality
    data.cluster_ids = np.repeat(np.arange(40), 10)
    together = evaluate(0.5, data).quality
    assert alone.estimate == together.estimate == pytest.approx(values.mean())
    deviation = values[::10].std() / math.sqrt(40)  # of a mean of 40 cluster values
    assert together.high - together.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * deviation / math.sqrt(10), rel=0.1)


# ---------------------------------------------------------------- outcome tables


def table():
    made = []
    for split, low in (("calibration", 0), ("test", 100)):
        for i in range(low, low + 10):
            common = {
                "suite": "mini",
                "task": "t",
                "split": split,
                "item_id": str(i),
                "cluster_id": "",
                "prediction": "",
                "target": "",
                "confidence_chow_average": float(i % 10),
            }
            made += [
                {**common, "model": "small", "method": "cat-dist", "seed": 0, "quality": float(i % 10 > 4), "flops": 1},
                {**common, "model": "large", "method": "large", "seed": 0, "quality": 1.0, "flops": 10},
            ]
    return pd.DataFrame(made)


def test_rows_of_a_table_are_paired_first():
    rows = paired(table(), "cat-dist", 0, "calibration")
    found = calibrate(rows, budget=0.5)
    assert found.tau == 4 and found.n == 10 and found.quality == 1
    assert evaluate(found, paired(table(), "cat-dist", 0, "test")).quality.estimate == 1
    with pytest.raises(ValueError, match="split 'calibration', expected split 'test'"):
        evaluate(found, rows)
    with pytest.raises(TypeError, match=r"expected the paired rows .*outcomes.paired\(table"):
        calibrate(table(), budget=0.5)
