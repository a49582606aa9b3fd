"""Numbers of the literature against the reference vector and by hand."""

import math

import numpy as np
import pytest

from cat_core import curves
from cat_core.analysis import literature
from cat_core.curves import audc, deferral_curve

S = np.array([1, 1, 0, 1, 0, 0, 1, 0])
L = np.array([1, 1, 1, 1, 1, 0, 0, 1])
Q = np.array([0.95, 0.90, 0.35, 0.80, 0.85, 0.30, 0.50, 0.40])
CURVE = deferral_curve(S, L, Q)


def test_reference_ideals():
    exact, at_most = curves.oracle_curve(S, L), literature.oracle_at_most(S, L)
    ideal = literature.gatekeeper_ideal(CURVE)
    assert audc(CURVE) == pytest.approx(0.65625)
    assert audc(curves.random_curve(CURVE)) == pytest.approx(0.625)
    assert audc(exact) == pytest.approx(0.796875)
    assert audc(at_most) == pytest.approx(0.8046875)
    assert audc(ideal) == pytest.approx(0.6875)
    assert curves.normalised_audc(CURVE, exact) == pytest.approx(0.181818, abs=1e-6)
    assert curves.normalised_audc(CURVE, at_most) == pytest.approx(0.173913, abs=1e-6)
    assert curves.normalised_audc(CURVE, ideal) == pytest.approx(0.5)
    assert literature.gatekeeper_sd(CURVE) == pytest.approx(0.5)
    assert literature.gatekeeper_sd(exact) == pytest.approx(2.75)


def test_reference_gap_recovered():
    assert literature.apgr(CURVE) == pytest.approx(0.625)
    assert literature.apgr(curves.random_curve(CURVE)) == pytest.approx(0.5)
    assert literature.apgr(curves.oracle_curve(S, L)) == pytest.approx(1.1875)
    assert literature.cpt(CURVE, 0.5) == pytest.approx(0.25)
    assert literature.cpt(CURVE, 0.8) == pytest.approx(0.325)


def test_large_no_better_is_never_a_percentage():
    curve = deferral_curve([1, 0], [0, 0], [0.1, 0.2])
    assert math.isnan(literature.apgr(curve)) and math.isnan(literature.gatekeeper_sd(curve))
    assert literature.cpt(curve, 0.5) is None
    assert literature.cpt(CURVE, 1.2) is None and literature.cpt(CURVE, 1.0) == pytest.approx(0.375)
    assert math.isnan(curves.normalised_audc(deferral_curve([1], [1], [0]), curves.oracle_curve([1], [1])))


def test_qnc():
    good_small = deferral_curve([1, 1], [0, 1], [0.1, 0.2])
    assert literature.qnc(good_small, [1, 6, 11], 10) == 1.0  # S is the best single model
    hard = deferral_curve([0, 0], [1, 1], [0.1, 0.2])
    assert literature.qnc(hard, [1, 6, 11], 10) == pytest.approx(1.1)  # only deferring everything matches L


def test_comparison_metrics():
    curve = deferral_curve([0, 0, 0], [1, 0, 1], [0.1, 0.2, 0.3])  # 0, 1/3, 1/3, 2/3: the hull skips the third
    assert literature.aiq(curve, [1, 2, 3, 4]) == pytest.approx(7 / 18)
    assert literature.aiq(deferral_curve([0, 0], [1, 0], [0.1, 0.2]), [0, 1, 2]) == pytest.approx(0.375)
    assert math.isnan(literature.aiq(deferral_curve([0], [1], [0]), [2, 2]))
    assert literature.ibc(0.8, 5, 0.5, 2) == pytest.approx(0.1) and math.isnan(literature.ibc(1, 1, 0, 1))


def test_rescue_auroc_looks_at_small_errors_only():
    wrong = S == 0
    assert literature.rescue_auroc(Q, S, L) == pytest.approx(curves.auroc(Q[wrong], L[wrong] == 1))
    assert literature.rescue_auroc(Q, S, L) == 1.0  # the one error that L repeats has the lowest confidence
    assert math.isnan(literature.rescue_auroc([1, 2], [1, 1], [1, 0]))


def test_prr():
    assert literature.prr([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]) == pytest.approx(1)
    assert literature.prr([0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1]) == pytest.approx(-1)
    assert math.isnan(literature.prr([1, 2], [1, 1]))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match="A_S < A_L"):
        literature.gatekeeper_ideal(deferral_curve([1], [0], [0]))
    with pytest.raises(ValueError, match="cost"):
        literature.qnc(CURVE, [1, 2, 3], 10)
