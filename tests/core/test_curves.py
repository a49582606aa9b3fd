"""Every curve number against the reference vector, and against a second, naive implementation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core import curves
from cat_core.curves import audc, deferral_curve

S = np.array([1, 1, 0, 1, 0, 0, 1, 0])
L = np.array([1, 1, 1, 1, 1, 0, 0, 1])
Q = np.array([0.95, 0.90, 0.35, 0.80, 0.85, 0.30, 0.50, 0.40])
CURVE = deferral_curve(S, L, Q)


@st.composite
def items(draw, max_size=12):
    """Small and large quality and confidences, with many ties."""
    n = draw(st.integers(1, max_size))
    unit = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n)
    scores = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n)
    return np.array(draw(unit)), np.array(draw(unit)), np.array(draw(scores))


def naive_quality(small, large, order, k):
    """A(k/n) by the definition: the first k items of `order` are deferred."""
    gone = set(order[:k])
    return sum(large[i] if i in gone else small[i] for i in range(len(small))) / len(small)


# ---------------------------------------------------------------- the reference vector


def test_reference_curve():
    np.testing.assert_allclose(CURVE.quality, [0.5, 0.5, 0.625, 0.75, 0.625, 0.625, 0.75, 0.75, 0.75])
    np.testing.assert_array_equal(CURVE.deferral_rate, np.arange(9) / 8)
    np.testing.assert_array_equal(CURVE.threshold, [-np.inf, 0.30, 0.35, 0.40, 0.50, 0.80, 0.85, 0.90, 0.95])
    assert CURVE.realisable.all()


def test_reference_areas():
    exact = curves.oracle_curve(S, L)
    assert audc(CURVE) == pytest.approx(0.65625)
    assert audc(curves.random_curve(CURVE)) == pytest.approx(0.625)
    assert audc(exact) == pytest.approx(0.796875)
    assert curves.normalised_audc(CURVE, exact) == pytest.approx(0.181818, abs=1e-6)


def test_reference_iso_quality_and_auroc():
    assert curves.iso_quality_threshold(CURVE) == (0.40, 0.375)
    assert curves.cascade_cost(np.full(8, 1), np.full(8, 10), Q)[3] == pytest.approx(4.75)
    assert curves.auroc(Q, S == 1) == pytest.approx(0.875)


# ---------------------------------------------------------------- curves and ties


@settings(max_examples=40, deadline=None)
@given(items(max_size=6))
def test_tied_groups_are_the_mean_over_all_orders(case):
    small, large, q = case
    orders = [p for p in itertools.permutations(range(len(q))) if all(q[a] <= q[b] for a, b in zip(p, p[1:]))]
    expected = [np.mean([naive_quality(small, large, p, k) for p in orders]) for k in range(len(q) + 1)]
    np.testing.assert_allclose(deferral_curve(small, large, q).quality, expected, atol=1e-12)


@given(items())
def test_realisable_points_are_what_a_threshold_gives(case):
    small, large, q = case
    curve = deferral_curve(small, large, q)
    for k in np.flatnonzero(curve.realisable):
        gone = q <= curve.threshold[k]
        assert curve.deferral_rate[k] == pytest.approx(gone.mean())
        assert curve.quality[k] == pytest.approx(np.where(gone, large, small).mean())
    assert curve.realisable.sum() == len(set(q)) + 1


@given(items(), st.randoms())
def test_item_order_does_not_matter_and_no_order_beats_the_oracle(case, random):
    small, large, q = case
    p = list(range(len(q)))
    random.shuffle(p)
    curve = deferral_curve(small, large, q)
    np.testing.assert_allclose(curve.quality, deferral_curve(small[p], large[p], q[p]).quality, atol=1e-12)
    best = curves.oracle_curve(small, large).quality
    assert (curve.quality <= best + 1e-12).all()


def test_all_tied_is_random():
    curve = deferral_curve(S, L, np.zeros(8))
    np.testing.assert_allclose(curve.quality, curves.random_quality(curve))
    np.testing.assert_array_equal(np.flatnonzero(curve.realisable), [0, 8])
    assert curves.random_quality(curve, 0.25) == pytest.approx(0.5625)


def test_area_over_cost():
    cost = np.array([1.0, 2.0, 11.0])
    curve = deferral_curve([0, 1], [1, 1], [0.1, 0.2])
    assert audc(curve, cost) == pytest.approx((0.75 * 1 + 1 * 9) / 11)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], [], []), "non-empty"),
        (([1], [1], [math.nan]), "1 NaN or -inf among 1"),
        (([1], [1], [-math.inf]), "NaN or -inf"),
        (([1, 0], [1], [1, 2]), "large_quality has 1 items where 2 are expected"),
        (([1.5], [1], [1]), r"small_quality\[0\] is 1.5"),
        (([0], [math.nan], [1]), r"large_quality\[0\] is nan"),
        (([[0]], [[1]], [[1]]), "one-dimensional"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        deferral_curve(*arguments)


def test_more_bad_input():
    with pytest.raises(ValueError, match="must not fall"):
        audc(CURVE, np.arange(9)[::-1])
    with pytest.raises(ValueError, match="cost has 3 items where 9"):
        curves.quality_at_budget(CURVE, [1, 2, 3], 10)
    with pytest.raises(ValueError, match="must be boolean"):
        curves.ledger([0.5, 1], [1, 1])


# ---------------------------------------------------------------- numbers that may be undefined


def test_no_room_is_never_a_percentage():
    assert math.isnan(curves.normalised_audc(deferral_curve([1], [1], [0]), curves.oracle_curve([1], [1])))


def test_normalised_audc_is_not_clipped():
    assert curves.normalised_audc(deferral_curve(S, L, L - S), curves.oracle_curve(S, L)) == pytest.approx(-1)


# ---------------------------------------------------------------- cost


@given(items(), st.randoms())
def test_cascade_cost_item_by_item(case, random):
    small, large, q = case
    c_small = np.array([random.randint(1, 9) for _ in q])
    c_large = np.array([random.randint(10, 99) for _ in q])
    curve, cost = deferral_curve(small, large, q), curves.cascade_cost(c_small, c_large, q)
    for k in np.flatnonzero(curve.realisable):
        gone = q <= curve.threshold[k]
        assert cost[k] == pytest.approx(c_small.mean() + np.where(gone, c_large, 0).mean())
    router = curves.router_cost(c_small, c_large, [0, 0.5, 1])
    first, last = c_small.mean(), c_large.mean()
    np.testing.assert_allclose(router, [first, (first + last) / 2, last])


def test_quality_at_budget():
    cost = curves.cascade_cost(np.ones(8), np.full(8, 10), Q)  # 1 + 10 r
    found = curves.quality_at_budget(CURVE, cost, 10, (0.05, 0.10, 0.25, 0.475, 0.50, 2))
    # r = none, 0, .15, .375, .4, 1
    expected = [math.nan, 0.5, 0.5 + 0.125 * 0.2, 0.75, 0.75 - 0.125 * 0.2, 0.75]
    np.testing.assert_allclose(found, expected)


@given(items(), st.sampled_from([None, 0.0, 0.5, 0.9]))
def test_iso_quality_is_the_first_threshold_that_reaches_it(case, target):
    small, large, q = case
    wanted = large.mean() if target is None else target
    achieved = [(t, np.where(q <= t, large, small).mean()) for t in (-math.inf, *sorted(set(q))[:-1], math.inf)]
    reached = [t for t, quality in achieved if quality >= wanted - 1e-12]
    curve = deferral_curve(small, large, q)
    if reached:
        assert curves.iso_quality_threshold(curve, target) == (reached[0], (q <= reached[0]).mean())
    else:
        with pytest.raises(ValueError, match="no threshold reaches quality"):
            curves.iso_quality_threshold(curve, target)


# ---------------------------------------------------------------- confidence


@given(items())
def test_auroc_counts_pairs(case):
    right, _, q = case
    right = right > 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in q[right] for b in q[~right]]
    found = curves.auroc(q, right)
    assert found == pytest.approx(np.mean(pairs)) if pairs else math.isnan(found)


def test_expected_calibration_error():
    assert curves.expected_calibration_error([0.05, 0.95, 0.95, 0.95], [0, 1, 1, 0], bins=10) == pytest.approx(
        (0.05 + 3 * abs(2 / 3 - 0.95)) / 4
    )
    assert curves.expected_calibration_error([1.0, 0.0], [1, 0]) == 0
    with pytest.raises(ValueError, match="probability"):
        curves.expected_calibration_error([-0.2], [1])


def test_ledger():
    found = curves.ledger(S, L == 1)
    assert (found.both, found.only_small, found.only_large, found.neither) == (3, 1, 3, 1)
    assert found.n == 8 and found.shares == (0.375, 0.125, 0.375, 0.125)
