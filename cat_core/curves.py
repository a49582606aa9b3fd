"""Deferral curves and every number read off them; each is defined once, here, with its formula and source.

Items i = 1..n have quality s_i (small model S) and l_i (large model L) in [0, 1] and a confidence q_i (low =
defer). Deferring the k least confident, at deferral rate r = k/n, the cascade's quality is

    A(r) = (1/n) (sum over kept items of s_i + sum over deferred items of l_i),    A_S = A(0),  A_L = A(1).

All n + 1 points are kept, none is dropped for looking bad. Inside a group of tied confidences the curve is a
straight line. A *cascade* pays for S on every item, C(r) = mean c_S + (1/n) sum over deferred items of c_L,i;
a *router* chooses beforehand and pays for one model, (1 - r) c_S + r c_L. Functions that need a cost axis
take it as an array beside the curve, so that the two are never mixed up silently.

Curves of corpus metrics are in `analysis.corpus`, intervals and tests in `analysis.resampling`.
"""

import math
from dataclasses import dataclass

import numpy as np

from cat_core.ranking import DeferralCurve, along, check_values, rank

ROUNDING = 1e-12  # two means of the same numbers in another order may differ by this much


# ---------------------------------------------------------------- curves and their areas


def deferral_curve(small_quality, large_quality, confidence) -> DeferralCurve:
    """A(r) at all n + 1 deferral rates, deferring low `confidence` first.

    small_quality, large_quality: [n] in [0, 1]; confidence: [n], NaN and -inf refused. The straight line
    inside a tied group is the expectation of A over all orders of the tied items. Raises ValueError for empty
    input, arrays that do not match, and values out of range.
    """
    ranking = rank(confidence)
    n = len(ranking.order)
    small = check_values("small_quality", small_quality, n)
    large = check_values("large_quality", large_quality, n)
    return DeferralCurve.from_ranking(small.mean() + along(large - small, ranking) / n, ranking)


def audc(curve: DeferralCurve, cost=None) -> float:
    """Area under the deferral curve (AUDC, AUC-DF in arXiv 2404.10136): trapezoids of A(r) over r in [0, 1].

    cost: [n+1] costs along the curve (`cascade_cost` or `router_cost`); then the area of A over C / C_max,
    C_max the largest cost, from C(0)/C_max to 1: it is not divided by that width, so it is comparable only on
    the same axis.
    """
    x = curve.deferral_rate if cost is None else checked_cost(curve, cost) / np.max(cost)
    return float(np.sum(np.diff(x) * (curve.quality[1:] + curve.quality[:-1])) / 2)


def random_quality(curve: DeferralCurve, deferral_rate=None):
    """Quality of deferring at random, (1 - r) A_S + r A_L, in expectation; at the curve's own r by default.

    For corpus metrics the expectation over random mixtures is not exactly a line; the line is our convention.
    """
    r = curve.deferral_rate if deferral_rate is None else np.asarray(deferral_rate, dtype=np.float64)
    return (1 - r) * curve.quality[0] + r * curve.quality[-1]


def random_curve(curve: DeferralCurve) -> DeferralCurve:
    """The curve of deferring at random between the same two models; its area over r is (A_S + A_L) / 2.

    On a cascade's cost axis it is the straight line from c_S to c_S + c_L.
    """
    ends = curve.quality[[0, -1]]
    return DeferralCurve(np.array([0.0, 1.0]), ends, np.array([-np.inf, np.inf]), np.array([True, True]))


def oracle_curve(small_quality, large_quality) -> DeferralCurve:
    """The best that any order of deferral can do: defer by l_i - s_i, largest gain first.

    Exactly the share r is deferred, so the curve falls at its end where S beats L.
    """
    small = check_values("small_quality", small_quality)
    large = check_values("large_quality", large_quality, len(small))
    return deferral_curve(small, large, small - large)


def normalised_audc(curve: DeferralCurve, ideal: DeferralCurve) -> float:
    """(AUDC - random) / (AUDC of `ideal` - random): 0 is random, 1 the ideal; negative values stay.

    ideal: which one must be said, as the number depends on it, such as `oracle_curve`. NaN where it is no better than
    random.
    """
    random = audc(random_curve(curve))
    room = audc(ideal) - random
    return (audc(curve) - random) / room if room > ROUNDING else float("nan")


# ---------------------------------------------------------------- cost


def cascade_cost(small_flops, large_flops, confidence) -> np.ndarray:
    """[n+1] cost per query of a cascade along its curve: mean c_S + (1/n) sum over deferred of c_L,i.

    small_flops, large_flops: [n] FLOPs of each item, measured, not averaged: deferred items are often longer.
    S is paid on every item. A straight line inside tied groups.
    """
    ranking = rank(confidence)
    n = len(ranking.order)
    small = check_values("small_flops", small_flops, n, unit=False)
    large = check_values("large_flops", large_flops, n, unit=False)
    return small.mean() + along(large, ranking) / n


def router_cost(small_flops, large_flops, deferral_rate) -> np.ndarray:
    """Cost per query of a router, (1 - r) c_S + r c_L with mean costs: it pays for one model only.

    Not the cost of a cascade, which pays for S on every query (see `cascade_cost`).
    """
    small = check_values("small_flops", np.atleast_1d(small_flops), unit=False).mean()
    large = check_values("large_flops", np.atleast_1d(large_flops), unit=False).mean()
    r = np.asarray(deferral_rate, dtype=np.float64)
    return (1 - r) * small + r * large


def quality_at_budget(curve: DeferralCurve, cost, large_cost: float, budgets=(0.1, 0.25, 0.5)) -> np.ndarray:
    """[b] quality at mean costs per query of `budgets` times `large_cost` (C_L, L alone), interpolated.

    cost: [n+1] costs along the curve. NaN where the budget does not pay for C(0); A(1) where it pays for
    everything.
    """
    cost, wanted = checked_cost(curve, cost), np.asarray(budgets, dtype=np.float64) * large_cost
    quality = np.interp(wanted, cost, curve.quality)
    return np.where(wanted < cost[0], np.nan, quality)


def iso_quality_threshold(curve: DeferralCurve, target: float | None = None) -> tuple[float, float]:
    """(tau, deferral rate) of the least deferral that a threshold can realise with A >= `target` (default: A_L).

    For the saving at equal quality, 1 - C / C_L: tau is chosen on calibration rows and used on test rows
    (`router.evaluate`); chosen on the rows it is reported on, the saving would be optimistic. tau is inf where
    everything is deferred. Raises ValueError for a target that no threshold reaches.
    """
    wanted = curve.quality[-1] if target is None else target
    reached = np.flatnonzero(curve.realisable & (curve.quality >= wanted - ROUNDING))
    if not len(reached):
        raise ValueError(f"no threshold reaches quality {wanted:g} (best: {curve.quality.max():g}): lower the target")
    k = int(reached[0])
    last = k + 1 == len(curve.quality)  # then everything is deferred, as `router.calibrate` has it
    return math.inf if last else float(curve.threshold[k]), float(curve.deferral_rate[k])


# ---------------------------------------------------------------- confidence


def auroc(score, positive) -> float:
    """Probability that a positive item scores above a negative one, ties counting one half (Mann-Whitney).

    score: [n] (NaN and -inf refused); positive: [n] boolean. auroc(q, S right) is the error-AUROC, which can
    be high while deferral gains nothing: L may be wrong on the same items. NaN where only one class is present.
    """
    ranking = rank(score)
    positive = check_right("positive", positive, len(ranking.order))
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return float("nan")
    ranks = np.empty(len(positive))
    ranks[ranking.order] = np.repeat((ranking.starts + ranking.ends + 1) / 2, ranking.sizes)
    return float((ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2) / pairs)


def expected_calibration_error(probability, right, bins: int = 15) -> float:
    """ECE (Guo et al. 2017): sum over equal-width bins of share * |accuracy - mean probability|.

    probability: [n] in [0, 1], such as exp(option_probability); right: [n] boolean. The value depends on
    `bins`.
    """
    probability = check_values("probability", probability)
    right = check_right("right", right, len(probability))
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gap = np.bincount(which, weights=right - probability, minlength=bins)
    return float(np.abs(gap).sum() / len(probability))


@dataclass(frozen=True)
class Ledger:
    """How many answers both models get right, only S, only L, neither."""

    both: int
    only_small: int
    only_large: int
    neither: int

    @property
    def n(self) -> int:
        """Number of answers."""
        return self.both + self.only_small + self.only_large + self.neither

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Shares of (both, only S, only L, neither)."""
        return (self.both / self.n, self.only_small / self.n, self.only_large / self.n, self.neither / self.n)


def ledger(small_right, large_right) -> Ledger:
    """The 2x2 ledger over sequences. small_right, large_right: [n] boolean (for bounded: quality >= x)."""
    small_right = check_right("small_right", small_right, None)
    large_right = check_right("large_right", large_right, len(small_right))
    counts = np.bincount(2 * ~small_right + ~large_right, minlength=4)
    return Ledger(*map(int, counts))


# ---------------------------------------------------------------- helpers


def checked_cost(curve, cost):
    """`cost` as an array that fits the curve: as many points, none falling, the last one positive."""
    cost = check_values("cost", cost, len(curve.quality), unit=False)
    if (np.diff(cost) < 0).any() or cost[-1] == 0:
        raise ValueError("cost must not fall along the curve and must end above 0: use cascade_cost or router_cost")
    return cost


def check_right(name, values, n):
    """`values` as a boolean array [n]; 0/1 numbers are taken, others refused."""
    values = np.asarray(values)
    if values.ndim != 1 or values.size == 0 or (n is not None and values.size != n):
        raise ValueError(f"{name} has shape {values.shape}, expected {'a non-empty list' if n is None else (n,)}")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must be boolean (right or wrong): compare bounded quality with a threshold first")
    return values.astype(bool)
