"""Deferral curves and every number read off them; each is defined once, here, with its formula and source.

Items i = 1..n have quality s_i (small model S) and l_i (large model L) in [0, 1] and a confidence q_i (low =
defer). Deferring the k least confident, at deferral rate r = k/n, the cascade's quality is

    A(r) = (1/n) (sum over kept items of s_i + sum over deferred items of l_i),    A_S = A(0),  A_L = A(1).

All n + 1 points are kept, none is dropped for looking bad. Inside a group of tied confidences the curve is a
straight line. A *cascade* pays for S on every item, C(r) = mean c_S + (1/n) sum over deferred items of c_L,i;
a *router* chooses beforehand and pays for one model, (1 - r) c_S + r c_L. Functions that need a cost axis
take it as an array beside the curve, so that the two are never mixed up silently.

Corpus metrics (`bleu_curve`, `chrf_curve`) and the paired bootstrap live in modules of their own and are
offered here.
"""

import math
from dataclasses import dataclass

import numpy as np

from cat_core.corpus import CorpusRun, bleu_curve, chrf_curve
from cat_core.ranking import DeferralCurve, along, check_confidence, check_values, rank
from cat_core.resampling import Bootstrap, CurveBand, Interval, holm, paired_bootstrap, sign_flip_test

__all__ = [
    "Bootstrap",
    "CorpusRun",
    "CurveBand",
    "DeferralCurve",
    "Interval",
    "IsoQuality",
    "Ledger",
    "aiq",
    "apgr",
    "audc",
    "auroc",
    "bleu_curve",
    "cascade_cost",
    "chrf_curve",
    "cpt",
    "deferral_curve",
    "expected_calibration_error",
    "gatekeeper_ideal",
    "gatekeeper_sd",
    "holm",
    "ibc",
    "iso_quality_saving",
    "ledger",
    "normalised_audc",
    "oracle_curve",
    "paired_bootstrap",
    "pgr",
    "prr",
    "qnc",
    "quality_at_budget",
    "random_curve",
    "random_quality",
    "rescue_auroc",
    "router_cost",
    "sign_flip_test",
]

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
    return _area(_axis(curve, cost), curve.quality)


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


def oracle_curve(small_quality, large_quality, kind: str = "exact") -> DeferralCurve:
    """The best that any order of deferral can do: defer by l_i - s_i, largest gain first.

    kind "exact": exactly the share r is deferred, so the curve falls at its end where S beats L; "at_most":
    its running maximum, for a rule that may leave budget unspent.
    """
    small = check_values("small_quality", small_quality)
    large = check_values("large_quality", large_quality, len(small))
    exact = deferral_curve(small, large, small - large)
    if kind == "exact":
        return exact
    if kind == "at_most":
        return DeferralCurve(
            exact.deferral_rate, np.maximum.accumulate(exact.quality), exact.threshold, exact.realisable
        )
    raise ValueError(f"kind must be 'exact' or 'at_most', got {kind!r}")


def normalised_audc(curve: DeferralCurve, ideal: DeferralCurve) -> float:
    """(AUDC - random) / (AUDC of `ideal` - random): 0 is random, 1 the ideal; negative values stay.

    ideal: which one must be said, as the number depends on it: `oracle_curve` (exact or at most) is ours,
    `gatekeeper_ideal` gives s_d. NaN where the ideal is no better than random.
    """
    random = audc(random_curve(curve))
    room = audc(ideal) - random
    return (audc(curve) - random) / room if room > ROUNDING else float("nan")


def gatekeeper_ideal(curve: DeferralCurve) -> DeferralCurve:
    """Gatekeeper's ideal (arXiv 2502.19335): A_S + r (A_L - A_S) / (1 - A_S), up to A_L.

    It defers all of S's errors first and takes L to be as good on them as anywhere, so it is not an upper
    bound: the oracle can lie above it. Needs A_S < A_L and quality in [0, 1]; ValueError where it is
    undefined.
    """
    small, large = curve.quality[0], curve.quality[-1]
    if not small < large <= 1 + ROUNDING:
        raise ValueError(f"Gatekeeper's ideal needs A_S < A_L in [0, 1], got A_S = {small:g} and A_L = {large:g}")
    r = np.array([0.0, 1 - small, 1.0])
    return DeferralCurve(
        r, np.array([small, large, large]), np.array([-np.inf, np.nan, np.inf]), np.array([True, False, True])
    )


def gatekeeper_sd(curve: DeferralCurve) -> float:
    """s_d of Gatekeeper: area(A - random) / area(ideal - random). May exceed 1. NaN unless A_S < A_L."""
    if not curve.quality[0] < curve.quality[-1]:
        return float("nan")
    return normalised_audc(curve, gatekeeper_ideal(curve))


# ---------------------------------------------------------------- gap recovered (RouteLLM)


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
    cost, wanted = _checked_cost(curve, cost), np.asarray(budgets, dtype=np.float64) * large_cost
    found = np.interp(wanted, cost, curve.quality)
    return np.where(wanted < cost[0], np.nan, found)


def qnc(curve: DeferralCurve, cost, large_cost: float) -> float:
    """Quality-neutral cost (UniRoute, arXiv 2502.08773): least cost matching the best model / its cost.

    cost: [n+1] along the curve, whose first entry is S alone; large_cost: mean cost of L alone. Of two
    equally good models the cheaper one is the best. Infinite if never matched; above 1 where only deferring
    everything does.
    """
    cost = _checked_cost(curve, cost)
    small, large = curve.quality[0], curve.quality[-1]
    best, its_cost = (large, large_cost) if large > small + ROUNDING else (max(small, large), cost[0])
    found = _first_reach(cost, curve.quality, best)
    return float("inf") if found is None else found / its_cost


@dataclass(frozen=True)
class IsoQuality:
    """What deferring at a threshold chosen on calibration data saves against L alone.

    tau: the threshold; calibration_* what the calibration rows promised; the rest is what the test rows gave.
    saving: 1 - C / C_L, negative where the cascade costs more than L alone; quality_gap: A - A_L (chosen on
    one split and reported on another, it need not be >= 0).
    """

    tau: float
    calibration_deferral_rate: float
    calibration_saving: float
    deferral_rate: float
    quality: float
    quality_gap: float
    saving: float


def iso_quality_saving(calibration, test, target: float | None = None) -> IsoQuality:
    """Cost saved at equal quality, 1 - C(r*) / C_L, with r* chosen on `calibration` and reported on `test`.

    calibration, test: runs with small_quality, large_quality, confidence, small_flops, large_flops [n] (such
    as `outcomes.Pairing`). r* is the least deferral rate that a threshold can realise on the calibration rows
    with A >= target (default: A_L there); its threshold is then used on the test rows. Chosen on the test
    rows, the saving would be optimistic. Raises ValueError for a target that no threshold reaches.
    """
    curve = deferral_curve(calibration.small_quality, calibration.large_quality, calibration.confidence)
    cost = cascade_cost(calibration.small_flops, calibration.large_flops, calibration.confidence)
    wanted = curve.quality[-1] if target is None else target
    reached = np.flatnonzero(curve.realisable & (curve.quality >= wanted - ROUNDING))
    if not len(reached):
        raise ValueError(
            f"no threshold reaches quality {wanted:g} on the calibration rows (best: "
            f"{curve.quality.max():g}): lower the target"
        )
    k = int(reached[0])
    last = k + 1 == len(curve.quality)  # then everything is deferred, as `router.calibrate` has it
    tau = math.inf if last else float(curve.threshold[k])

    deferred = check_confidence(test.confidence) <= tau
    n = len(deferred)
    small, large = (check_values(name, getattr(test, name), n) for name in ("small_quality", "large_quality"))
    quality = float(np.where(deferred, large, small).mean())
    small_flops, large_flops = (
        check_values(name, getattr(test, name), n, unit=False) for name in ("small_flops", "large_flops")
    )
    large_cost = float(large_flops.mean())
    spent = float(small_flops.mean() + np.where(deferred, large_flops, 0).mean())
    expected_saving = float(1 - cost[k] / np.mean(calibration.large_flops))
    return IsoQuality(
        tau,
        float(curve.deferral_rate[k]),
        expected_saving,
        float(deferred.mean()),
        quality,
        quality - float(large.mean()),
        1 - spent / large_cost,
    )


def aiq(curve: DeferralCurve, cost) -> float:
    """AIQ of RouterBench (arXiv 2403.12031), for comparison only: area under the non-decreasing upper hull of
    quality over cost, divided by c_max - c_min. The hull is drawn on the rows it is scored on, which flatters
    noise. NaN where all costs are equal.
    """
    cost = _checked_cost(curve, cost)
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


# ---------------------------------------------------------------- confidence


def auroc(score, positive) -> float:
    """Probability that a positive item scores above a negative one, ties counting one half (Mann-Whitney).

    score: [n] (NaN and -inf refused); positive: [n] boolean. auroc(q, S right) is the error-AUROC, which can
    be high while deferral gains nothing (see `rescue_auroc`). NaN where only one class is present.
    """
    ranking = rank(score)
    positive = _right("positive", positive, len(ranking.order))
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return float("nan")
    ranks = np.empty(len(positive))
    ranks[ranking.order] = np.repeat((ranking.starts + ranking.ends + 1) / 2, ranking.sizes)
    return float((ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2) / pairs)


def rescue_auroc(confidence, small_right, large_right) -> float:
    """AUROC(q; L right | S wrong): among S's errors, do higher confidences belong to those that L repairs?

    Deferral wants it *below* .5: repairable errors should be deferred first. NaN where L repairs all or none.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    wrong = ~_right("small_right", small_right, len(confidence))
    large_right = _right("large_right", large_right, len(confidence))
    return auroc(confidence[wrong], large_right[wrong]) if wrong.any() else float("nan")


def expected_calibration_error(probability, right, bins: int = 15) -> float:
    """ECE (Guo et al. 2017): sum over equal-width bins of share * |accuracy - mean probability|.

    probability: [n] in [0, 1], such as exp(option_probability); right: [n] boolean. The value depends on
    `bins`.
    """
    probability = check_values("probability", probability)
    right = _right("right", right, len(probability))
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gap = np.bincount(which, weights=right - probability, minlength=bins)
    return float(np.abs(gap).sum() / len(probability))


def prr(confidence, small_quality) -> float:
    """Prediction-rejection ratio (Malinin and Gales, arXiv 2002.07650): normalised AUDC with a perfect L.

    Rejected answers count as repaired. (LM-Polygraph's PRR averages the kept answers only: another number.)
    NaN where S makes no errors.
    """
    perfect = np.ones(len(np.asarray(small_quality)))
    return normalised_audc(deferral_curve(small_quality, perfect, confidence), oracle_curve(small_quality, perfect))


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
    small_right = _right("small_right", small_right, None)
    large_right = _right("large_right", large_right, len(small_right))
    counts = np.bincount(2 * ~small_right + ~large_right, minlength=4)
    return Ledger(*map(int, counts))


# ---------------------------------------------------------------- helpers


def _area(x, y) -> float:
    """Area of the trapezoids under the points (x, y)."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def _axis(curve, cost):
    return curve.deferral_rate if cost is None else _checked_cost(curve, cost) / np.max(cost)


def _checked_cost(curve, cost):
    """`cost` as an array that fits the curve: as many points, none falling, the last one positive."""
    cost = check_values("cost", cost, len(curve.quality), unit=False)
    if (np.diff(cost) < 0).any() or cost[-1] == 0:
        raise ValueError("cost must not fall along the curve and must end above 0: use cascade_cost or router_cost")
    return cost


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


def _right(name, values, n):
    """`values` as a boolean array [n]; 0/1 numbers are taken, others refused."""
    values = np.asarray(values)
    if values.ndim != 1 or values.size == 0 or (n is not None and values.size != n):
        raise ValueError(f"{name} has shape {values.shape}, expected {'a non-empty list' if n is None else (n,)}")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must be boolean (right or wrong): compare bounded quality with a threshold first")
    return values.astype(bool)
