"""When to defer: the threshold rule, and how to choose the threshold on calibration data.

A query is deferred to the large model iff its confidence <= tau: tau = -inf never, +inf always, 0 is as good
a threshold as any. (arXiv 2406.00060 writes r(x) >= tau with r = -confidence.) Thresholds are chosen on
calibration rows and their achievement is reported on test rows; either kind of row is refused in the other's
place.

Numpy only. Outcomes are anything with small_quality, large_quality, confidence, small_flops, large_flops [n], such as
`analysis.outcomes.paired` gives of an outcome table. FLOPs that are unknown are NaN throughout, and so is what rests on
them.
"""

import math
from dataclasses import dataclass

import numpy as np

from cat_core.ranking import Interval, check_confidence, check_values, rank

BUDGETS = ("deferral_rate", "flops")
BOUNDS = ("auto", "binomial", "hoeffding_bentkus", "betting")


@dataclass(frozen=True)
class Threshold:
    """A calibrated threshold: defer iff confidence <= tau.

    kind: "deferral_rate", "flops" or "quality", and `requested` its budget or target. deferral_rate, quality,
    flops (mean per query) are what the calibration rows gave, hence expectations for new queries, not
    guarantees; only kind "quality" guarantees, with probability 1 - delta over calibration sets, an expected
    quality of at least `requested`, by the test named in `bound`. n: calibration items; units: independent
    ones (clusters).
    """

    tau: float
    kind: str
    requested: float
    deferral_rate: float
    quality: float
    flops: float
    n: int
    units: int
    delta: float | None = None
    bound: str | None = None


@dataclass(frozen=True)
class Achieved:
    """What a threshold gave on test rows: each quantity with its interval; flops are means per query.

    small_quality and large_quality are those of always-S and always-L on the same rows.
    """

    tau: float
    n: int
    deferral_rate: Interval
    quality: Interval
    flops: Interval
    small_quality: float
    large_quality: float
    level: float


def route(confidence, tau: float) -> np.ndarray:
    """[n] boolean, True = defer: confidence <= tau. NaN (in either) and -inf confidences are refused."""
    tau = float(tau)
    if math.isnan(tau):
        raise ValueError("tau is NaN, expected a number (-inf = never defer, +inf = always)")
    return check_confidence(confidence) <= tau


def rate_threshold(confidence, rate: float) -> float:
    """The highest tau that defers at most the share `rate` of these very queries: confidence [n], high = keep.

    Queries that share a confidence are deferred together. ValueError for a rate outside [0, 1], for one that
    defers none, and for confidences as in `route`.
    """
    ranking = rank(confidence)
    taus = np.concatenate(([-np.inf], ranking.threshold[:-1], [np.inf]))
    rates = np.concatenate(([0], ranking.ends)) / len(ranking.order)
    return float(taus[_within(rate, "deferral_rate", rates, rates, len(ranking.order))])


# ---------------------------------------------------------------- calibration


def calibrate(
    outcomes,
    *,
    budget: float | None = None,
    budget_kind: str = "deferral_rate",
    quality: float | None = None,
    delta: float = 0.1,
    bound: str = "auto",
) -> Threshold:
    """Choose tau on calibration rows, for a budget or for a quality target (give exactly one).

    outcomes: calibration rows as described at the top of this module.
    budget: the highest threshold that stays within it on the calibration rows; budget_kind "deferral_rate"
    (share of queries in [0, 1]) or "flops" (mean FLOPs per query of the cascade, S included). No guarantee
    beyond the average. quality: the lowest threshold at which the cascade's expected quality is >= `quality`
    with probability 1 - delta over calibration sets: Learn then Test (Angelopoulos et al., arXiv 2110.01052)
    with fixed-sequence testing from "always defer" downwards, stopping at the first threshold that cannot be
    certified. The p-value of "quality < target" is the exact binomial tail for 0/1 quality (bound "binomial":
    the sequence stops where the one-sided Clopper-Pearson limit falls below the target) or Hoeffding-Bentkus
    for quality in [0, 1] (Bates et al., arXiv 2101.02703); "auto" chooses. Between two observed confidences
    nothing changes, so testing at the observed ones tests all. Where items share clusters, the clusters are the
    independent units, and the promise is still about the mean over items: a cluster's excess, the sum over its items
    of loss - (1 - target), is divided by the size of the largest cluster, which keeps it in an interval of length 1
    (all clusters of one size: its mean loss). As small clusters then hardly vary, clusters of several sizes get
    "betting" (`betting_p`). This supposes clusters drawn alike and independently, none larger than the largest here.

    Raises ValueError in one line for empty input, NaN, rows of another split, equal confidences throughout,
    and budgets or targets that cannot be met or that defer nothing.
    """
    rows = _rows(outcomes, "calibration")
    n = len(rows.confidence)
    if (budget is None) == (quality is None):
        raise ValueError(f"give either budget= or quality=, got budget={budget} and quality={quality}")
    ranking = rank(rows.confidence)
    if len(ranking.ends) == 1:
        raise ValueError(
            f"all {n} calibration confidences equal {ranking.threshold[0]:g}: no threshold can "
            "tell queries apart; choose another confidence"
        )
    # possible thresholds: never, then after each group of equal confidences; all of them means always
    taus = np.concatenate(([-np.inf], ranking.threshold[:-1], [np.inf]))
    rates = np.concatenate(([0], ranking.ends)) / n
    kept, gone = _sums(rows.small_quality, ranking), _sums(rows.large_quality, ranking)
    qualities = (kept[-1] - kept + gone) / n
    costs = (rows.small_flops.sum() + _sums(rows.large_flops, ranking)) / n

    if budget is not None:
        choice, units, delta, bound = _within(budget, budget_kind, rates, costs, n), n, None, None
        kind, requested = budget_kind, budget
    else:
        choice, units, bound = _certified(quality, delta, bound, rows, taus)
        kind, requested = "quality", quality
    given = (float(x[choice]) for x in (rates, qualities, costs))
    return Threshold(float(taus[choice]), kind, float(requested), *given, n, units, delta, bound)


def _within(budget, kind, rates, costs, n) -> int:
    """Index of the highest threshold within the budget."""
    if kind not in BUDGETS:
        raise ValueError(f"budget_kind must be one of {', '.join(BUDGETS)}, got {kind!r}")
    if kind == "deferral_rate":
        if not 0 <= budget <= 1:
            raise ValueError(f"a deferral-rate budget is a share in [0, 1], got {budget}")
        spent, unit = rates, "deferral rate"
        if budget == 0:
            return 0
    else:
        spent, unit = costs, "mean FLOPs per query"
        if np.isnan(costs).any():
            raise ValueError("the FLOPs of these rows are unknown: give a budget of the deferral rate, or measure them")
        if not costs[0] <= budget:
            raise ValueError(
                f"a budget of {budget:g} FLOPs per query does not pay for the small model alone "
                f"({costs[0]:g}): raise it"
            )
    # 1e-9: a share such as 0.3 is not exactly the 3/10 it stands for
    choice = int(np.searchsorted(spent, budget * (1 + 1e-9), side="right")) - 1
    if choice == 0:
        raise ValueError(
            f"a budget of {budget:g} {unit} defers none of {n} items: the first "
            f"threshold that defers any spends {spent[1]:g}; raise the budget (or use tau=-inf "
            "to never defer)"
        )
    return choice


def _certified(target, delta, bound, rows, taus) -> tuple[int, int, str]:
    """Index of the lowest threshold certified for `target`, the number of units, and the bound used."""
    if not 0 < target < 1:
        raise ValueError(f"a quality target must lie strictly between 0 and 1, got {target}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}")
    if bound not in BOUNDS:
        raise ValueError(f"bound must be one of {', '.join(BOUNDS)}, got {bound!r}")
    labels = _labels(rows)
    units = int(labels.max()) + 1
    sizes = np.bincount(labels)
    binary = units == len(labels) and bool(np.isin((rows.small_quality, rows.large_quality), (0, 1)).all())
    if bound == "binomial" and not binary:
        raise ValueError("bound 'binomial' needs 0/1 quality and items that share no clusters: use 'hoeffding_bentkus'")
    if bound == "auto":
        bound = "binomial" if binary else "hoeffding_bentkus" if sizes.min() == sizes.max() else "betting"

    # from "always defer" downwards: each step hands one group of items back to S
    largest, alpha = sizes.max(), 1 - target
    change = rows.large_quality - rows.small_quality
    back = rank(rows.confidence)
    if bound == "betting":
        excess, p = np.bincount(labels, weights=target - rows.large_quality), []
        for group in [[], *np.split(back.order, back.starts[1:])[::-1]]:
            np.add.at(excess, labels[group], change[group])
            p.append(betting_p(excess / largest, alpha, delta))
            if p[-1] > delta:
                break
    else:
        lost = np.concatenate(([0.0], np.cumsum(np.add.reduceat(change[back.order], back.starts)[::-1])))
        excess = ((target - rows.large_quality).sum() + lost) / largest
        p = p_values(np.clip(units * alpha + excess, 0, units), units, alpha, bound)
    p = np.array(p)
    refused = np.flatnonzero(p > delta)
    certified = int(refused[0]) if len(refused) else len(p)
    if not certified:
        raise ValueError(
            f"quality {target:g} cannot be certified with probability {1 - delta:g}: even "
            f"always deferring gives {rows.large_quality.mean():.4g} on {units} calibration units (p = {p[0]:.3g}, "
            f"needs <= {delta:g}); lower "
            "the target, raise delta or calibrate on more items"
        )
    return len(taus) - certified, units, bound


def p_values(losses, n: int, alpha: float, bound: str = "hoeffding_bentkus") -> np.ndarray:
    """p-values of "expected loss > alpha" for summed `losses` (0 .. n) of n independent units.

    "binomial": P(Bin(n, alpha) <= losses), exact for 0/1 losses. "hoeffding_bentkus": the smaller of
    exp(-n KL(min(mean, alpha), alpha)) and e P(Bin(n, alpha) <= ceil(losses)) (arXiv 2101.02703).
    """
    losses = np.asarray(losses, dtype=np.float64)
    cdf = _binomial_cdf(n, alpha)
    # sums of 0/1 losses are integers up to rounding
    tail = cdf[np.ceil(losses - 1e-9).astype(int).clip(0, n)]
    if bound == "binomial":
        return tail
    mean = np.minimum(losses / n, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(mean > 0, mean * np.log(mean / alpha), 0.0)
        divergence += np.where(mean < 1, (1 - mean) * np.log((1 - mean) / (1 - alpha)), 0.0)
    return np.minimum(1.0, np.minimum(np.exp(-n * divergence), math.e * tail))


def betting_p(excess: np.ndarray, alpha: float, delta: float) -> float:
    """p-value of "expected loss > alpha" from excess losses [n] of independent units, each in [-alpha, 1 - alpha].

    A gambler who bets against it on one unit after the other (in an order drawn beforehand) wins b-fold with a
    probability of at most 1 / b, if it is true (Waudby-Smith and Ramdas, arXiv 2010.09686, Ville's inequality); each
    stake is by the squares of the excesses before, so units that hardly vary cost little. Sharpest at p = delta.
    """
    excess = excess[np.random.default_rng(0).permutation(len(excess))]
    seen = alpha * (1 - alpha) + np.concatenate(([0.0], np.cumsum(excess[:-1] ** 2)))
    stake = np.sqrt(2 * math.log(1 / delta) * np.arange(1, len(excess) + 1) / (len(excess) * seen))
    fortune = np.cumsum(np.log1p(-np.minimum(stake, 0.75 / (1 - alpha)) * excess))
    return float(np.exp(-max(fortune.max(), 0.0)))


# ---------------------------------------------------------------- evaluation


def evaluate(threshold, outcomes, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Achieved:
    """What `threshold` (a Threshold or a number) achieves on test rows, with intervals of coverage `level`.

    outcomes: as `calibrate`, but test rows. Shares of independent items (the deferral rate; 0/1
    quality) get exact Clopper-Pearson intervals; bounded quality, FLOPs and clustered items the percentile
    bootstrap over clusters. Raises ValueError for rows of another split.
    """
    rows = _rows(outcomes, "test")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    tau = float(getattr(threshold, "tau", threshold))
    deferred = route(rows.confidence, tau)
    quality = np.where(deferred, rows.large_quality, rows.small_quality)
    flops = rows.small_flops + np.where(deferred, rows.large_flops, 0)
    labels = _labels(rows)
    columns = np.stack([np.ones(len(deferred)), deferred, quality, flops], axis=1)
    sums = np.stack([np.bincount(labels, weights=column) for column in columns.T], axis=1)  # [clusters, 4]
    rng, units = np.random.default_rng(seed), len(sums)
    draws = np.stack([sums[rng.integers(0, units, units)].sum(axis=0) for _ in range(resamples)])
    ends = np.quantile(draws[:, 1:] / draws[:, :1], [(1 - level) / 2, (1 + level) / 2], axis=0)

    def interval(values, column):
        mean = float(values.mean())
        if units == len(values) and np.isin(values, (0, 1)).all():
            return Interval(mean, *clopper_pearson(int(values.sum()), len(values), level))
        return Interval(mean, float(ends[0, column]), float(ends[1, column]))

    intervals = (interval(values, i) for i, values in enumerate((deferred.astype(float), quality, flops)))
    alone = (float(values.mean()) for values in (rows.small_quality, rows.large_quality))
    return Achieved(tau, len(deferred), *intervals, *alone, level)


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a share, each end leaving (1 - level)/2 in its tail (Clopper 1934)."""
    if not (0 <= successes <= n and n > 0 and 0 < level < 1):
        raise ValueError(f"need 0 <= successes <= n, n > 0 and level in (0, 1), got {successes}, {n}, {level}")
    tail = (1 - level) / 2

    def solve(k, wanted):
        """The share p with P(Bin(n, p) <= k) = wanted, which falls in p."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if _binomial_cdf(n, middle)[k] > wanted:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    return (
        0.0 if successes == 0 else solve(successes - 1, 1 - tail),
        1.0 if successes == n else solve(successes, tail),
    )


# ---------------------------------------------------------------- helpers


@dataclass(frozen=True)
class _Rows:
    """Checked arrays [n] of one split."""

    confidence: np.ndarray
    small_quality: np.ndarray
    large_quality: np.ndarray
    small_flops: np.ndarray
    large_flops: np.ndarray
    cluster_ids: np.ndarray


def _rows(outcomes, split) -> _Rows:
    """The arrays of `outcomes`, refused unless they are of `split`."""
    if not hasattr(outcomes, "confidence"):
        raise TypeError(
            f"got {type(outcomes).__name__}, expected the paired rows of one small model: of an outcome table, "
            f'analysis.outcomes.paired(table, method, seed, "{split}")'
        )
    given = getattr(outcomes, "split", "") or split
    if given != split:
        purpose = "calibrate on" if split == "calibration" else "evaluate on"
        raise ValueError(
            f"got {len(outcomes.confidence)} rows of split {given!r}, expected split {split!r}: "
            f"{purpose} {split} rows only"
        )
    confidence = check_confidence(outcomes.confidence)
    n = len(confidence)
    quality = [check_values(name, getattr(outcomes, name), n) for name in ("small_quality", "large_quality")]
    costs = [_costs(outcomes, name, n) for name in ("small_flops", "large_flops")]
    clusters = getattr(outcomes, "cluster_ids", None)
    clusters = np.arange(n) if clusters is None else np.asarray(clusters)
    if len(clusters) != n:
        raise ValueError(f"cluster_ids has {len(clusters)} items where {n} are expected: align all arrays item by item")
    return _Rows(confidence, *quality, *costs, clusters)


def _costs(outcomes, name: str, n: int) -> np.ndarray:
    """FLOPs [n], or NaN throughout where they are unknown."""
    values = np.asarray(getattr(outcomes, name), dtype=np.float64)
    return values if values.shape == (n,) and np.isnan(values).all() else check_values(name, values, n, unit=False)


def _labels(rows) -> np.ndarray:
    """[n] cluster number of each row, 0 .. c-1."""
    return np.unique(rows.cluster_ids.astype(str), return_inverse=True)[1].reshape(-1)


def _sums(values, ranking) -> np.ndarray:
    """[g+1] sum of `values` over the items deferred at each possible threshold."""
    return np.concatenate(([0.0], np.cumsum(values[ranking.order])[ranking.ends - 1]))


def _binomial_cdf(n: int, p: float) -> np.ndarray:
    """[n+1] P(Bin(n, p) <= k) for k = 0 .. n, computed in logarithms."""
    if p <= 0 or p >= 1:
        return np.ones(n + 1) if p <= 0 else np.append(np.zeros(n), 1.0)
    factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    log_mass = factorial[n] - factorial[k] - factorial[n - k] + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.minimum(1.0, np.cumsum(np.exp(log_mass)))
