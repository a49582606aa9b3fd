"""Limits of a cascade: when it is cheaper than L, when it is worth having, and what a threshold keeps of its promise on
other queries than it was chosen on.

Conditions for a small model S and a large one L with mean quality A_S and A_L = A_S + g and mean cost c_S and c_L of a
query, c = c_S / c_L, where all queries cost the same (`Couple`). A cascade that defers the share r costs (c + r) c_L.

- It is cheaper than L iff r < 1 - c.
- It is worth more than tossing a coin between S and L beforehand, which reaches A_S + g r / (1 - c) at the same cost,
  iff its gain over random deferral, A(r) - A_S - r g, exceeds g r c / (1 - c): S is paid on deferred queries, too.
  (Where L is no better, g <= 0, the coin never falls on L, and is always-S.)
- It saves the share s of L's cost at L's quality iff at r = 1 - c - s that gain is at least (1 - r) g.

The gain that is needed, as a share of the oracle's (`needed_share`) or as an AUROC of the confidence (`needed_auroc`),
says how well the confidence must rank. A threshold for a deferral rate b, chosen on n queries as good as drawn from
those that come, defers about b of them by a known distribution (`rate_interval`); on other queries nothing is promised.
What training costs, and when it has paid, is in `studies.costs`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

import numpy as np
from scipy.stats import betabinom, hypergeom

from cat_core import router
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.operating_points import OperatingPoint, at_thresholds, calibrated
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.resampling import CurveBand, aligned, mean_curves, percentiles
from cat_core.curves import ROUNDING
from cat_core.ranking import Interval

_NORMAL = NormalDist()


# ---------------------------------------------------------------- conditions in closed form


@dataclass(frozen=True)
class Couple:
    """What a cascade is made of, if all queries cost the same.

    small, large: mean quality of S and of L alone, in one unit; cost_ratio: c = c_S / c_L, in (0, 1). Rates are
    deferral rates in [0, 1], numbers or arrays. Raises ValueError for another cost ratio or quality that is not finite.
    """

    small: float
    large: float
    cost_ratio: float

    def __post_init__(self):
        if not 0 < self.cost_ratio < 1:
            raise ValueError(f"cost_ratio is {self.cost_ratio}, expected c_S / c_L, strictly between 0 and 1")
        if not (math.isfinite(self.small) and math.isfinite(self.large)):
            raise ValueError(f"quality of S and L is {self.small} and {self.large}, expected finite numbers")

    @property
    def gap(self) -> float:
        """g = A_L - A_S."""
        return self.large - self.small

    @property
    def break_even_rate(self) -> float:
        """Deferral rate below which the cascade is cheaper than L alone: 1 - c."""
        return 1 - self.cost_ratio

    def rate_of_saving(self, saving):
        """Deferral rate at which the cascade costs 1 - `saving` of L: 1 - c - saving; below 0 there is none."""
        return self.break_even_rate - saving

    def random(self, rate):
        """Quality where the deferred queries are drawn by lot, after S has answered: A_S + r g."""
        return self.small + np.asarray(rate) * self.gap

    def coin(self, rate):
        """Quality of the coin at the cost of a cascade that defers `rate`: A_S + g r / (1 - c), at most A_L.

        The coin sends the share x of the queries to L and the rest to S, before any has answered: (1 - x) c_S + x c_L.
        Where g <= 0 it sends none.
        """
        return self.small + np.minimum(np.asarray(rate) / self.break_even_rate, 1) * max(self.gap, 0)

    def mid_size(self, rate):
        """Quality of one model in between at that cost, if quality grew by the logarithm of the cost from S to L.

        A_S + g log(1 + r / c) / log(1 / c), at most A_L. An assumption (ours), and a demanding one: concave in cost.
        Where g <= 0 it is S.
        """
        share = np.log1p(np.asarray(rate) / self.cost_ratio) / -math.log(self.cost_ratio)
        return self.small + np.minimum(share, 1) * max(self.gap, 0)


def needed_share(couple: Couple, oracle: float, rate: float, wanted: float) -> float | Undefined:
    """Share of the oracle's gain over random deferral that reaches quality `wanted` at the deferral rate `rate`.

    oracle: quality of the oracle that defers exactly that share. Below 0 random deferral does better than asked.
    """
    room, needed = oracle - float(couple.random(rate)), wanted - float(couple.random(rate))
    if needed > room + ROUNDING:
        return Undefined("no order of deferral reaches it")
    return needed / room if room > ROUNDING else Undefined("there is nothing to gain by ranking")


def needed_auroc(shares: Sequence[float], rate: float, wanted: float) -> float | Undefined:
    """AUROC(q; S right) that the confidence needs for quality `wanted` at the deferral rate `rate`, both in [0, 1].

    shares: of the queries (both right, only S, only L, neither). Two assumptions: whether L is right depends on the
    confidence only through whether S is (L repairs sure errors of S as often as unsure ones); and the confidences of
    right and wrong answers are normal with one variance (binormal, as in Green and Swets 1966), after any monotone
    change of scale. Then, with a = A_S, w = P(L right | S wrong), k = P(L right | S right), of the deferred r the share
    W = (wanted - a + r (1 - k)) / (w + 1 - k) must be errors of S, and the AUROC is Phi(d / sqrt 2) with
    d = Phi^-1(W / (1 - a)) - Phi^-1((r - W) / a).
    """
    right, repaired, spared = _rates(shares)
    if not 0 < rate < 1:
        return Undefined(f"the deferral rate would be {rate:.2f}")
    if repaired + 1 - spared <= 0:
        return Undefined("L is wrong wherever S is and right wherever S is")
    errors = (wanted - right + rate * (1 - spared)) / (repaired + 1 - spared)
    if errors > min(rate, 1 - right) + ROUNDING:
        return Undefined("not even a confidence that knows S's errors reaches it")
    if errors <= max(0.0, rate - right) + ROUNDING:
        return 0.0
    if errors >= min(rate, 1 - right) - ROUNDING:
        return 1.0
    separation = _NORMAL.inv_cdf(errors / (1 - right)) - _NORMAL.inv_cdf((rate - errors) / right)
    return _NORMAL.cdf(separation / math.sqrt(2))


def _rates(shares) -> tuple[float, float, float]:
    """P(S right), P(L right | S wrong), P(L right | S right) from the 2x2 ledger."""
    both, only_small, only_large, neither = (float(s) for s in shares)
    right = both + only_small
    if min(both, only_small, only_large, neither) < 0 or abs(right + only_large + neither - 1) > 1e-6:
        raise ValueError(f"shares are {tuple(shares)}, expected four numbers >= 0 that add up to 1")
    if not 0 < right < 1:
        raise ValueError("S is right on all queries or on none: there is nothing to rank")
    return right, only_large / (1 - right), both / right


def couple_of(c: Comparison, method: str) -> Couple | Undefined:
    """The couple of a comparison's S by `method` and L: mean test quality and cost, over seeds.

    Undefined where costs are unknown, and where S costs as much as L or more: then there is nothing to save (S may be
    as large, or ramble).
    """
    if (why := c.unknown_costs) is not None:
        return why
    curve, ratio = c.curve(method), float(c.cost(method)[0]) / c.large_flops
    if ratio >= 1:
        return Undefined(f"an answer of S costs {ratio:.2f} times one of L")
    return Couple(float(curve.quality[0]), float(curve.quality[-1]), ratio)


def coin_rates(couple: Couple, *more: float) -> np.ndarray:
    """Deferral rates [g] of a drawn curve, from S alone to the cost of L alone; and `more`, at its end."""
    return np.concatenate([couple.break_even_rate * np.linspace(0, 1, 41), more])


def over_coin(c: Comparison, method: str, rates: np.ndarray, rule: str = "chow_average") -> CurveBand:
    """Quality of the cascade less that of the coin at the same cost, at deferral rates [g], with pointwise intervals.

    The draws are those of `paired_bootstrap`; the cost ratio, and whether L is better than S, are taken as measured.
    Costs as in `Couple`. Raises ValueError where S costs as much as L.
    """
    rates, couple = np.asarray(rates, dtype=np.float64), couple_of(c, method)
    if isinstance(couple, Undefined):
        raise ValueError(f"no coin is dearer than L: {couple.reason}")
    known = c.kept.over_coin if c.kept is not None and c.recorded is c.kept and rule == "chow_average" else {}
    if (band := known.get(method)) is not None:
        at = np.abs(band.deferral_rate - rates[:, None]).argmin(axis=1)
        if np.abs(band.deferral_rate[at] - rates).max() < 1e-5:
            return CurveBand(rates, band.estimate[at], band.low[at], band.high[at])
    sent, grid = np.minimum(rates / couple.break_even_rate, 1) * (couple.gap > 0), np.concatenate([rates, [0.0, 1.0]])

    def over(curves):
        small, large = curves[..., -2:-1], curves[..., -1:]
        return curves[..., 1:-2] - small - sent * (large - small)

    once, draws = mean_curves(*aligned({method: c.runs(method, rule)}, None), grid, c.resamples, groups=c.groups)
    return CurveBand(rates, over(once[0]), *percentiles(over(draws[:, 0]), c.level))


# ---------------------------------------------------------------- the price of a mistake


@dataclass(frozen=True)
class Spent:
    """What a query costs where a wrong answer has a price: means over test items and seeds, in costs of an answer of L.

    price: of a wrong answer. small, large: S alone, L alone; cascade: with the threshold of each seed that costs least
    on its calibration items, tau in the median; rate: of deferral. cheaper: seeds, of `seeds`, in which the cascade
    costs less than both.
    """

    price: float
    small: float
    large: float
    cascade: float
    rate: float
    tau: float
    cheaper: int
    seeds: int

    @property
    def saved(self) -> float:
        """What the cascade saves against the better of S alone and L alone, as a share of that."""
        return 1 - self.cascade / min(self.small, self.large)


def spending(
    c: Comparison, method: str, prices: Sequence[float], rule: str = "chow_average"
) -> list[Spent] | Undefined:
    """The cascade of `method` at each price of a wrong answer, which is 1 less the quality of an answer.

    Undefined where costs are unknown, where quality is no mean over answers, and without calibration rows. ValueError
    for a price below 0.
    """
    if min(prices) < 0:
        raise ValueError(f"prices go down to {min(prices)}, expected none below 0")
    if (why := c.unknown_costs) is not None:
        return why
    if c.by_counts:
        return Undefined("its quality is no mean over answers, so that a wrong one has no price")
    if not (c.frame["split"] == "calibration").any():
        return Undefined("no calibration rows")
    found = np.array([_spent(c, method, seed, prices, rule) for seed in c.seeds])  # [seeds, prices, 5]
    cheaper = (found[..., 2] < found[..., :2].min(axis=-1) - ROUNDING).sum(axis=0)
    means, taus = found[..., :4].mean(axis=0), np.quantile(found[..., 4], 0.5, axis=0, method="lower")
    return [
        Spent(float(price), *map(float, row), float(tau), int(n), len(c.seeds))
        for price, row, tau, n in zip(prices, means, taus, cheaper)
    ]


def _spent(c: Comparison, method: str, seed: int, prices: Sequence[float], rule: str) -> list[tuple[float, ...]]:
    """(S alone, L alone, cascade, deferral rate, tau) of one seed at each price."""
    rows = c.pairing(method, seed, "calibration", rule)
    order, cost = np.argsort(rows.confidence, kind="stable"), rows.large_flops.mean()
    ranked = rows.confidence[order]
    stops = np.flatnonzero(np.append(ranked[1:] > ranked[:-1], True)) + 1  # as many as a threshold defers, but none
    more, better = (
        np.concatenate([[0.0], np.cumsum(x[order])[stops - 1]]) / len(ranked)
        for x in (rows.large_flops / cost, rows.large_quality - rows.small_quality)
    )
    taus, test = np.concatenate([[-np.inf], ranked[stops - 1]]), c.pairing(method, seed, "test", rule)
    cost, found = test.large_flops.mean(), []
    own, small, large = test.small_flops.mean() / cost, 1 - test.small_quality.mean(), 1 - test.large_quality.mean()
    for price in prices:
        tau = taus[np.argmin(more - price * better)]
        sent = router.route(test.confidence, tau)
        wrong = 1 - np.where(sent, test.large_quality, test.small_quality).mean()
        spent = own + (sent * test.large_flops).mean() / cost + price * wrong
        found.append((own + price * small, 1 + price * large, spent, sent.mean(), tau))
    return found


# ---------------------------------------------------------------- a threshold on other queries


@dataclass(frozen=True)
class Shift:
    """A threshold chosen on one kind of queries and used on another; numbers are means over seeds.

    source, target: what they are. promised_rate, promised_quality: on the source's calibration rows. here: on the
    source's own test rows; there: on the target's; again: on the target's, with a threshold chosen anew on the target's
    calibration rows (no labels needed), where there are any. inside: seeds of `there` whose deferral rate lies in the
    `rate_interval` of exchangeable queries, of `seeds`. n_calibration, n_test: source's and target's. rates, own_rates:
    deferral rate of each seed on the target's test rows, of n_test, and on the source's, of n_own.
    """

    source: str
    target: str
    method: str
    budget: float
    promised_rate: float
    promised_quality: float
    here: OperatingPoint
    there: OperatingPoint
    again: OperatingPoint | Undefined
    inside: int
    seeds: int
    n_calibration: int
    n_test: int
    scale: float
    rates: tuple[float, ...]
    own_rates: tuple[float, ...]
    n_own: int

    def alarm(self, window: int, level: float = 0.95) -> tuple[Interval, float, float]:
        """After the first `window` queries: the range in which their deferral rate should lie (`rate_interval`), and
        how often it does not, so that an alarm rings: on the target's queries and on the source's own.

        The queries are drawn from the test rows without replacement; a mean over seeds. Where there are fewer rows, all
        are looked at.
        """
        rings = []
        for n, rates in ((self.n_own, self.own_rates), (self.n_test, self.rates)):
            size = min(window, n)
            law = rate_interval(self.n_calibration, self.budget, size, level)
            low, high = (round(x * size) for x in (law.low, law.high))
            deferred = hypergeom(n, np.rint(n * np.array(rates)), size)
            rings.append(float(np.mean(deferred.cdf(low - 1) + deferred.sf(high))))
        return law, rings[1], rings[0]


def shift(
    source: Comparison, target: Comparison, names: tuple[str, str], method: str, budget: float,
    rule: str = "chow_average",
) -> Shift | Undefined:  # fmt: skip
    """Thresholds for the deferral rate `budget` (one per seed) from the calibration rows of `source`, on test rows of
    `target`. Undefined where the calibration rows allow none. Raises ValueError for different seeds."""
    if source.seeds != target.seeds:
        raise ValueError(f"source has the seeds {source.seeds} and target {target.seeds}: compare equal ones")
    here = calibrated(source, method, budget, rule)
    if isinstance(here, Undefined):
        return here
    there = at_thresholds(target, method, here.taus, rule, here.promised_rate)
    has_own = bool((target.frame["split"] == "calibration").any())
    again = calibrated(target, method, budget, rule) if has_own else Undefined("no calibration rows")
    qualities, inside, rates, own = [], 0, [], []
    for seed, tau in here.taus.items():
        curve = source.seed_curve(method, seed, "calibration", rule)
        rate = float(router.route(source.pairing(method, seed, "calibration", rule).confidence, tau).mean())
        n = len(curve.quality) - 1
        qualities.append(float(curve.quality[round(rate * n)]))
        interval = rate_interval(n, budget, target.n, source.level)
        achieved = float(router.route(target.pairing(method, seed, "test", rule).confidence, tau).mean())
        inside += interval.low <= achieved <= interval.high
        rates.append(achieved)
        own.append(float(router.route(source.pairing(method, seed, "test", rule).confidence, tau).mean()))
    return Shift(
        *names, method, budget, here.promised_rate, float(np.mean(qualities)), here, there, again, inside,
        len(source.seeds), n, target.n, target.scale, tuple(rates), tuple(own), source.n,
    )  # fmt: skip


def of_method(c: Comparison, method: str) -> Comparison:
    """The same comparison of one method: a smaller table where the tasks of one method are looked at one by one."""
    rows = c.frame[(c.frame["model"] == "large") | (c.frame["method"] == method)]
    return replace(c, frame=rows, methods=(method,))


def without_task(c: Comparison, task: str) -> Comparison:
    """The same comparison on all tasks but one."""
    return replace(c, frame=c.frame[c.frame["task"] != task], task=None)


@cache
def rate_interval(n: int, budget: float, test: int, level: float = 0.95) -> Interval:
    """Deferral rate on `test` new queries of a threshold that defers floor(n budget) of n, if all are exchangeable.

    With k = floor(n budget) and no ties the share of all queries that the k-th lowest of n confidences defers is
    Beta(k, n + 1 - k) distributed, whatever the confidence is (an order statistic of uniform numbers), and the number
    among `test` new ones beta-binomial. estimate: its mean k / (n + 1); low, high: the central interval. No labels are
    needed for it. With k = 0 nothing is deferred, with k = n everything, as `router.calibrate` does it.
    """
    if not (n >= 1 and test >= 1 and 0 <= budget <= 1 and 0 < level < 1):
        got = f"{n}, {test}, {budget}, {level}"
        raise ValueError(f"need n and test >= 1, budget in [0, 1] and level in (0, 1), got {got}")
    k = int(n * budget * (1 + 1e-9))
    if k in (0, n):
        return Interval(*[float(k == n)] * 3)
    low, high = betabinom(test, k, n + 1 - k).ppf([(1 - level) / 2, (1 + level) / 2])
    return Interval(k / (n + 1), float(low) / test, float(high) / test)


def recalibrated_rates(
    c: Comparison, method: str, budget: float, sizes: Sequence[int], draws: int = 200, rule: str = "chow_average",
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """[sizes, seeds x draws] deferral rates on test rows of thresholds from n calibration rows drawn without labels.

    The threshold is that of `router.calibrate`: the highest one within the budget. Each n of `sizes` rows is drawn
    `draws` times without replacement for every training seed. Raises ValueError for sizes beyond the calibration rows.
    """
    rng, seed_rates = np.random.default_rng(seed), []
    for trained in c.seeds:
        pool = c.pairing(method, trained, "calibration", rule).confidence
        test = np.sort(c.pairing(method, trained, "test", rule).confidence)
        if max(sizes) > len(pool):
            raise ValueError(f"sizes go up to {max(sizes)}, but there are {len(pool)} calibration rows")
        orders = rng.permuted(np.broadcast_to(pool, (draws, len(pool))), axis=1)
        rates = []
        for n in sizes:
            k, low = int(n * budget * (1 + 1e-9)), np.full((draws, 1), -np.inf)
            ordered = np.hstack([low, np.sort(orders[:, :n], axis=1), -low])
            # deferring up to the k-th lowest, unless the next one is tied with it: then up to the value below
            below = np.where(ordered < ordered[:, k + 1 : k + 2], ordered, -np.inf).max(axis=1)
            taus = np.full(draws, np.inf) if k == n else below
            rates.append(np.searchsorted(test, taus, side="right") / len(test))
        seed_rates.append(rates)
    return np.concatenate(seed_rates, axis=1)
