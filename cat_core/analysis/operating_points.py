"""Operating points: what thresholds that were chosen on calibration rows give on test rows, with intervals.

Functions of a `comparison.Comparison`, one threshold a training seed. Intervals come from the draws of
`resampling.paired_bootstrap` (large models, seeds, items); where the threshold itself was chosen for L's quality,
calibration rows are drawn anew as well, and with them the threshold. What a recorded cell knows is read, not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cat_core import curves, router
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.corpus import exact_scores, fast_scores
from cat_core.analysis.intervals import possible
from cat_core.analysis.outcomes import OutcomeError, Pairing
from cat_core.analysis.quantities import NOT_THERE, Undefined
from cat_core.analysis.resampling import cluster_numbers, combined, draw_blocks, intervals, iso_thresholds
from cat_core.ranking import Interval
from cat_core.tasks.scoring import GROUPS

BUDGETS = (0.10, 0.25, 0.50)
"""Shares of L's cost at which quality is read off."""
NO_SUM = Undefined("a question counts as a whole, so that its answers do not add up; see the curve")
CAVEAT = "\u2020"
CAVEAT_RULE = (
    f"{CAVEAT} The interval of L alone less S alone reaches 0: L is not shown to be better than S, so its quality is "
    "had without deferring, and the saving says nothing of the cascade."
)
"""The mark beside a saving at the quality of L, and the rule by which it is set (`caveat_mark`)."""
CALIBRATION = 1  # seed of the draws of calibration rows; those of test rows have 0


def caveat_mark(headroom: Interval | Undefined | None) -> str:
    """ " \u2020" where the interval of L alone less S alone reaches 0, else ""; headroom: that, in any unit."""
    return f"\u00a0{CAVEAT}" if isinstance(headroom, Interval) and headroom.low <= 0 else ""


def caveat_note(rows: Iterable[Sequence[str]]) -> str:
    """The rule of the caveat, for the note of a table in which it is marked; else ""."""
    return f" {CAVEAT_RULE}" if any(CAVEAT in text for row in rows for text in row) else ""


@dataclass(frozen=True)
class OperatingPoint:
    """What thresholds, one per seed, gave on test rows; each an Interval, averaged over seeds.

    taus: by seed. deferral_rate, quality (in the metric's unit), gap: quality - that of L alone, saving: 1 -
    C / C_L, Undefined where costs are unknown. promised_rate: the mean deferral rate on the calibration rows.
    """

    taus: dict[int, float]
    promised_rate: float
    deferral_rate: Interval
    quality: Interval
    gap: Interval
    saving: Interval | Undefined


def quality_at_budgets(c: Comparison, method: str, rule: str = "chow_average") -> list[float | Undefined]:
    """Quality at mean costs of 10, 25 and 50 % of C_L (`BUDGETS`), S included; mean over seeds."""
    if (why := c.unknown_costs) is not None:
        return [why] * len(BUDGETS)
    rows = []
    for seed in c.seeds:
        p = c.pairing(method, seed, rule=rule)
        cost = curves.cascade_cost(p.small_flops, p.large_flops, p.confidence)
        curve = c.seed_curve(method, seed, rule=rule)
        rows.append(curves.quality_at_budget(curve, cost, float(p.large_flops.mean()), BUDGETS))
    means = np.mean(rows, axis=0)
    return [Undefined("S alone costs more") if np.isnan(m) else float(m) for m in means]


def headroom(c: Comparison, method: str) -> Interval | Undefined:
    """Quality of L alone less that of S alone by `method`, paired."""
    if c.metric in GROUPS:
        return NO_SUM
    if (interval := _recorded(c, method).headroom) != NOT_THERE:
        return interval
    gap = at_thresholds(c, method, dict.fromkeys(c.seeds, -math.inf), "chow_average", 0.0).gap
    return Interval(-gap.estimate, -gap.high, -gap.low)


def iso_quality(c: Comparison, method: str, rule: str = "chow_average") -> OperatingPoint | Undefined:
    """FLOPs saved at the quality of L: each seed's least deferral rate that reaches L's quality on
    the calibration rows (as `curves.iso_quality_threshold`), its threshold then applied to the test
    rows. Intervals: calibration rows are drawn anew as well, and with them the thresholds."""
    if c.metric in GROUPS:
        return NO_SUM
    if (point := _recorded(c, method, rule).iso_quality) != NOT_THERE:
        return point
    taus, rates = _iso_taus(c, method, rule)
    return _point(c, taus, float(np.mean(rates)), intervals(*_iso_draws(c, method, rule), c.level))


class _Unknown:
    """A method of which nothing is recorded."""

    headroom = iso_quality = calibrated = NOT_THERE


def _recorded(c: Comparison, method: str, rule: str = "chow_average"):
    """What the metrics of these rows say of a method (`metrics.MethodMetrics`), or `NOT_THERE` of everything."""
    known = c.recorded is not None and rule == "chow_average"
    return c.recorded.methods.get(method, _Unknown) if known else _Unknown


def _iso_taus(c: Comparison, method: str, rule: str) -> tuple[dict[int, float], list[float]]:
    """Each seed's threshold for L's quality on the calibration rows, and the deferral rates there."""
    pairs = [curves.iso_quality_threshold(c.seed_curve(method, seed, "calibration", rule)) for seed in c.seeds]
    return dict(zip(c.seeds, (tau for tau, _ in pairs))), [rate for _, rate in pairs]


def _iso_draws(c: Comparison, method: str, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """`_threshold_draws` of the iso-quality thresholds, which are chosen anew on every resample."""
    parts = {seed: _parts(c, method, seed, "calibration", rule) for seed in c.seeds}
    labels = cluster_numbers(c.pairing(method, c.seeds[0], "calibration", rule).cluster_ids)
    chosen = {seed: [] for seed in c.seeds}
    for _, counts, _ in draw_blocks(labels, len(c.seeds), c.resamples, CALIBRATION):
        for seed, (confidence, small, large) in parts.items():
            chosen[seed].append(iso_thresholds(confidence, small, large, counts, _mean_score(c, method, seed)))
    drawn = {seed: np.concatenate(taus) for seed, taus in chosen.items()}
    return _threshold_draws(c, method, _iso_taus(c, method, rule)[0], rule, drawn)


def calibrated(c: Comparison, method: str, budget: float, rule: str = "chow_average") -> OperatingPoint | Undefined:
    """Each seed's threshold for a deferral-rate budget (`router.calibrate` on calibration rows), applied to test."""
    return c.once(("calibrated", method, budget, rule), lambda: _calibrate(c, method, budget, rule))


def _calibrate(c: Comparison, method: str, budget: float, rule: str) -> OperatingPoint | Undefined:
    if c.metric in GROUPS:
        return NO_SUM
    if c.recorded and c.recorded.budget == budget and (point := _recorded(c, method, rule).calibrated) != NOT_THERE:
        return point
    try:
        rows = {seed: c.pairing(method, seed, "calibration", rule) for seed in c.seeds}
        chosen = {seed: router.calibrate(seed_rows, budget=budget) for seed, seed_rows in rows.items()}
    except ValueError as error:
        if not 0 <= budget <= 1:
            raise
        return Undefined(str(error))
    rate = float(np.mean([threshold.deferral_rate for threshold in chosen.values()]))
    return at_thresholds(c, method, {s: t.tau for s, t in chosen.items()}, rule, rate)


def harm(c: Comparison, method: str, budget: float, rule: str = "chow_average") -> float | Undefined:
    """Share of the deferred test items that deferral makes worse (S's answer has the higher quality), mean over seeds.

    Each seed's threshold is that of `calibrated`. Quality of single items, also where the metric is no mean over them.
    """
    point = calibrated(c, method, budget, rule)
    if isinstance(point, Undefined):
        return point
    shares = []
    for seed, tau in point.taus.items():
        rows = c.pairing(method, seed, "test", rule)
        if (deferred := router.route(rows.confidence, tau)).any():
            shares.append(float((rows.small_quality > rows.large_quality)[deferred].mean()))
    return float(np.mean(shares)) if shares else Undefined("nothing is deferred")


def at_thresholds(
    c: Comparison, method: str, taus: Mapping[int, float], rule: str, promised_rate: float
) -> OperatingPoint:
    """What thresholds, one per seed, give on the test rows.

    Intervals: the draws of `paired_bootstrap`; with one seed and a mean metric `router.evaluate` (exact for shares of
    independent items) gives those of the deferral rate and the quality.
    """
    measures = intervals(*_threshold_draws(c, method, taus, rule), c.level)
    if len(c.seeds) == 1 and not c.by_counts:
        rows = c.pairing(method, c.seeds[0], "test", rule)
        exact = router.evaluate(taus[c.seeds[0]], rows, level=c.level, resamples=c.resamples)
        measures[:2] = [exact.deferral_rate, exact.quality]
    return _point(c, dict(taus), promised_rate, measures)


def _point(c: Comparison, taus: dict[int, float], promised_rate: float, measures) -> OperatingPoint:
    rate, quality, gap, saving = measures
    rate = Interval(rate.estimate, max(0.0, rate.low), min(1.0, rate.high))
    return OperatingPoint(taus, promised_rate, rate, possible(quality, c.metric), gap, c.unknown_costs or saving)


def _threshold_draws(
    c: Comparison, method: str, taus: Mapping[int, float], rule: str, drawn: Mapping[int, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """[4] rate, quality, gap and saving on the test rows, and the same on every resample [b, 4].

    drawn: [b] thresholds of each seed, one for every resample, where they are not the same for all.
    """
    kept = {seed: _columns(c, method, seed, rule) for seed in c.seeds}
    fixed = {seed: base + router.route(rows.confidence, taus[seed])[:, None] * more
             for seed, (rows, base, more) in kept.items()}  # fmt: skip
    first, draws = c.pairing(c.methods[0], c.seeds[0]), []
    for seed, (rows, _, _) in kept.items():
        if not np.array_equal(rows.item_ids, first.item_ids):
            problem = f"{method} of seed {seed} has other test items than {c.methods[0]} of seed {c.seeds[0]}"
            raise OutcomeError(f"{problem}: let all answer the same")
    labels = cluster_numbers(first.cluster_ids)
    once = np.stack([_summary(columns.sum(axis=0)[None], len(columns), _mean_score(c, method, seed, exact_scores))[0]
                     for seed, columns in fixed.items()])  # fmt: skip
    for block, counts, w in draw_blocks(labels, len(c.seeds), c.resamples, groups=c.groups):
        counts, parts = counts.astype(np.float64), []
        for seed, (rows, base, more) in kept.items():
            if drawn is None:
                sums = counts @ fixed[seed]
            else:
                sums = counts @ base + (counts * (rows.confidence <= drawn[seed][block, None])) @ more
            parts.append(_summary(sums, counts.sum(axis=1), _mean_score(c, method, seed)))
        draws.append(combined(np.stack(parts, axis=1), once, w))
    return once.mean(axis=0), np.concatenate(draws)


def _parts(c: Comparison, method, seed, split, rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence [n], and what is summed to score S's and L's answers [n, q]: quality, or counts."""
    rows = c.pairing(method, seed, split, rule)
    if c.by_counts:
        run = c.run(method, seed, split, rule)
        return rows.confidence, run.small.astype(np.float64), run.large.astype(np.float64)
    return rows.confidence, rows.small_quality[:, None], rows.large_quality[:, None]


def _columns(c: Comparison, method, seed, rule) -> tuple[Pairing, np.ndarray, np.ndarray]:
    """The test rows; [n, q] if S answers: deferred, cost, cost of L, quality (or counts) of the cascade, then of L;
    and what deferring a row adds to that."""
    rows, (_, small, large) = c.pairing(method, seed, "test", rule), _parts(c, method, seed, "test", rule)
    none = np.zeros(len(rows))
    base = [none, rows.small_flops, rows.large_flops, small, large]
    more = [none + 1, rows.large_flops, none, large - small, np.zeros_like(large)]
    return rows, *(np.column_stack(part).astype(np.float64) for part in (base, more))


def _mean_score(c: Comparison, method, seed, scores=fast_scores) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Quality [...] of summed `_parts` [..., q] of n rows."""
    if not c.by_counts:
        return lambda sums, n: sums[..., 0] / n
    metric = c.run(method, seed).metric
    return lambda sums, n: scores(metric, np.rint(sums).astype(np.int64))


def _summary(sums, n, score) -> np.ndarray:
    """[b, 4] deferral rate, quality, gap to L, saving, from summed columns [b, q] of n [b] items."""
    quality, best = (score(part, n) for part in np.split(sums[:, 3:], 2, axis=1))
    return np.stack([sums[:, 0] / n, quality, quality - best, 1 - sums[:, 1] / sums[:, 2]], axis=1)
