"""Pooling against formulas written out, scipy, and simulation."""

import numpy as np
import pytest
from scipy import stats

from cat_core.analysis.pooling import pool


def test_few_cells_are_taken_as_they_are():
    found = pool([0.1, 0.3, -0.1], [0.05, 0.1, 0.02], [2, 2, 9])
    v = np.array([0.05, 0.1, 0.02]) ** 2
    error, df = v.sum() ** 0.5 / 3, v.sum() ** 2 / (v**2 / [2, 2, 9]).sum()
    assert (found.number.estimate, found.error, found.freedom) == pytest.approx((0.1, error, df))
    assert (found.number.low, found.number.high) == pytest.approx(stats.t.interval(0.95, df, 0.1, error))
    assert (found.narrow.low, found.narrow.high) == pytest.approx(stats.t.interval(0.90, df, 0.1, error))
    assert (found.cells, found.positive, found.between, found.prediction) == (3, 2, 0.0, None)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.1 / error, df))
    one = pool([0.2], [0.1], [4])
    assert one.number.low == pytest.approx(0.2 - stats.t.ppf(0.975, 4) * 0.1)


def test_many_cells_are_a_sample_of_cells():
    y, se = np.array([0.10, 0.32, -0.05, 0.20, 0.41, 0.02]), np.array([0.08, 0.1, 0.05, 0.12, 0.09, 0.07])
    found = pool(y, se, np.full(6, 5))
    plain = stats.ttest_1samp(y, 0.0)
    assert found.p_value == pytest.approx(plain.pvalue) and found.number.estimate == pytest.approx(y.mean())
    wanted = plain.confidence_interval(0.95)
    assert (found.number.low, found.number.high) == pytest.approx((wanted.low, wanted.high))
    between = y.var(ddof=1) - (se**2).mean()
    assert found.between == pytest.approx(between**0.5) and between > 0
    reach = stats.t.ppf(0.975, 5) * (between + y.var(ddof=1) / 6) ** 0.5
    assert found.prediction.high - found.prediction.estimate == pytest.approx(reach)
    assert pool(y, se + 1, np.full(6, 5)).between == 0


@pytest.mark.parametrize(("cells", "between"), [(8, 0.0), (8, 1.0), (5, 3.0), (5, 0.0), (3, 0.0), (1, 0.0)])
def test_intervals_of_pooled_effects_cover(cells, between):
    """Cells of 3 large models each: a standard error from 2 degrees of freedom, unequal sizes."""
    rng, hits, studies = np.random.default_rng(2), 0, 1500
    size = np.linspace(0.5, 1.5, cells)
    for _ in range(studies):
        effects = size * rng.normal(size=cells) + between**0.5 * rng.normal(size=cells)
        errors = size * np.sqrt(rng.chisquare(2, cells) / 2)
        found = pool(effects, errors, np.full(cells, 2)).number
        hits += found.low <= 0 <= found.high
    assert hits / studies >= 0.93


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_two_cells_cover_whatever_share_of_the_error_is_of_models(share):
    """Three large models and many items each: degrees of freedom after Welch and Satterthwaite."""
    rng, hits = np.random.default_rng(4), 0
    for _ in range(1500):
        models = share * rng.chisquare(2, 2) / 2
        total = models + 1 - share
        found = pool(rng.normal(size=2), np.sqrt(total), total**2 / (models**2 / 2)).number
        hits += found.low <= 0 <= found.high
    assert hits / 1500 >= 0.93


def test_heterogeneity_is_welchs_test():
    rng = np.random.default_rng(5)
    samples = [rng.normal(m, s, n) for m, s, n in ((0, 1, 5), (0.4, 2, 9), (1.5, 0.5, 4))]
    errors = [x.std(ddof=1) / len(x) ** 0.5 for x in samples]
    for chosen in (slice(0, 2), slice(0, 3)):
        part = samples[chosen]
        found = pool([x.mean() for x in part], errors[chosen], [len(x) - 1 for x in part])
        assert found.heterogeneity == pytest.approx(stats.f_oneway(*part, equal_var=False).pvalue)
    assert pool([0.1], [0.1], [3]).heterogeneity is None
    assert pool([0.1, 0.2], [0.1, 0.0], [3, 3]).heterogeneity is None


def test_refused():
    for given in (([], [], []), ([1], [1, 2], [1]), ([np.nan], [1], [1]), ([1], [-1], [1]), ([1], [1], [0])):
        with pytest.raises(ValueError, match="give one each|must be finite"):
            pool(*given)
    assert pool([0.0], [0.0], [1]).p_value == 1 and pool([1.0], [0.0], [1]).p_value == 0
