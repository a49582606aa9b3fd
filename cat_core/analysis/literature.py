"""Numbers that other papers report of a deferral curve, each with its formula and source, to compare with theirs.

No page shows them: what the book claims rests on those of `curves`. NaN or None where a number does not exist.
"""

from __future__ import annotations

import numpy as np

from cat_core.curves import ROUNDING, auroc, check_right, checked_cost, deferral_curve, normalised_audc, oracle_curve
from cat_core.ranking import DeferralCurve


def oracle_at_most(small_quality, large_quality) -> DeferralCurve:
    """The oracle that may leave budget unspent: the running maximum of `curves.oracle_curve`."""
    exact = oracle_curve(small_quality, large_quality)
    best = np.maximum.accumulate(exact.quality)
    return DeferralCurve(exact.deferral_rate, best, exact.threshold, exact.realisable)


def gatekeeper_ideal(curve: DeferralCurve) -> DeferralCurve:
    """Gatekeeper's ideal (arXiv 2502.19335): A_S + r (A_L - A_S) / (1 - A_S), up to A_L.

    It defers all of S's errors first and takes L to be as good on them as anywhere, so it is not an upper
    bound: the oracle can lie above it. Needs A_S < A_L and quality in [0, 1]; ValueError where it is undefined.
    """
    small, large = curve.quality[0], curve.quality[-1]
    if not small < large <= 1 + ROUNDING:
        raise ValueError(f"Gatekeeper's ideal needs A_S < A_L in [0, 1], got A_S = {small:g} and A_L = {large:g}")
    r = np.array([0.0, 1 - small, 1.0])
    ends = np.array([-np.inf, np.nan, np.inf])
    return DeferralCurve(r, np.array([small, large, large]), ends, np.array([True, False, True]))


def gatekeeper_sd(curve: DeferralCurve) -> float:
    """s_d of Gatekeeper: area(A - random) / area(ideal - random). May exceed 1. NaN unless A_S < A_L."""
    if not curve.quality[0] < curve.quality[-1]:
        return float("nan")
    return normalised_audc(curve, gatekeeper_ideal(curve))


def pgr(curve: DeferralCurve) -> np.ndarray:
    """Performance gap recovered at every point, (A - A_S) / (A_L - A_S) (RouteLLM, arXiv 2406.18665).

    NaN everywhere unless A_L > A_S: there is no gap to recover.
    """
    small, large = curve.quality[0], curve.quality[-1]
    if large - small <= ROUNDING:
        return np.full_like(curve.quality, np.nan)
    return (curve.quality - small) / (large - small)


def apgr(curve: DeferralCurve) -> float:
    """Average PGR over r in [0, 1] (RouteLLM, arXiv 2406.18665): .5 is random. NaN unless A_L > A_S."""
    return _area(curve.deferral_rate, pgr(curve))


def cpt(curve: DeferralCurve, share: float) -> float | None:
    """Call-performance threshold CPT(share): least r with PGR >= share, on the line between points.

    RouteLLM (arXiv 2406.18665). None means "not reached" (or no gap to recover, A_L <= A_S); print it
    so, and never as 100 %.
    """
    return _first_reach(curve.deferral_rate, pgr(curve), share)


def qnc(curve: DeferralCurve, cost, large_cost: float) -> float:
    """Quality-neutral cost (UniRoute, arXiv 2502.08773): least cost matching the best model / its cost.

    cost: [n+1] along the curve, whose first entry is S alone; large_cost: mean cost of L alone. Of two equally good
    models the cheaper one is the best. Infinite if never matched; above 1 where only deferring everything does.
    """
    cost = checked_cost(curve, cost)
    small, large = curve.quality[0], curve.quality[-1]
    best, its_cost = (large, large_cost) if large > small + ROUNDING else (max(small, large), cost[0])
    least_cost = _first_reach(cost, curve.quality, best)
    return float("inf") if least_cost is None else least_cost / its_cost


def aiq(curve: DeferralCurve, cost) -> float:
    """AIQ of RouterBench (arXiv 2403.12031), for comparison only: area under the non-decreasing upper hull of
    quality over cost, divided by c_max - c_min. The hull is drawn on the rows it is scored on, which flatters
    noise. NaN where all costs are equal."""
    cost = checked_cost(curve, cost)
    if cost[-1] <= cost[0]:
        return float("nan")
    hull: list[tuple[float, float]] = []
    for x, y in zip(cost, np.maximum.accumulate(curve.quality)):
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    x, y = np.array(hull).T
    return float(_area(x, y) / (cost[-1] - cost[0]))


def ibc(quality: float, cost: float, small_quality: float, small_cost: float) -> float:
    """Incremental benefit per cost (AutoMix, arXiv 2310.12963), to compare: (P_M - P_S) / (C_M - C_S).

    Compare it with the same ratio for L in place of the cascade. NaN where the costs are equal.
    """
    return (quality - small_quality) / (cost - small_cost) if cost != small_cost else float("nan")


def rescue_auroc(confidence, small_right, large_right) -> float:
    """AUROC(q; L right | S wrong): among S's errors, do higher confidences belong to those that L repairs?

    Deferral wants it *below* .5: repairable errors should be deferred first. NaN where L repairs all or none.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    wrong = ~check_right("small_right", small_right, len(confidence))
    large_right = check_right("large_right", large_right, len(confidence))
    return auroc(confidence[wrong], large_right[wrong]) if wrong.any() else float("nan")


def prr(confidence, small_quality) -> float:
    """Prediction-rejection ratio (Malinin and Gales, arXiv 2002.07650): normalised AUDC with a perfect L.

    Rejected answers count as repaired. (LM-Polygraph's PRR averages the kept answers only: another number.)
    NaN where S makes no errors.
    """
    perfect = np.ones(len(np.asarray(small_quality)))
    return normalised_audc(deferral_curve(small_quality, perfect, confidence), oracle_curve(small_quality, perfect))


def _first_reach(x, y, level: float) -> float | None:
    """Least x at which the line through the points (x, y) reaches `level`; None if never (or y is NaN)."""
    reached = np.flatnonzero(y >= level - ROUNDING)
    if not len(reached):
        return None
    k = int(reached[0])
    if k == 0 or y[k] <= level:
        return float(x[k])
    return float(x[k - 1] + (x[k] - x[k - 1]) * (level - y[k - 1]) / (y[k] - y[k - 1]))


def _turns_left(a, b, c) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) >= (c[0] - a[0]) * (b[1] - a[1])


def _area(x, y) -> float:
    """Area of the trapezoids under the points (x, y)."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
