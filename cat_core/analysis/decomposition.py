"""Where a difference between two training methods comes from: a better small model, a better complement, or better
ranking.

The area under a deferral curve is, exactly,

    AUDC = (A_S + A_L) / 2 + R,    R = room x share,    room = AUDC of the oracle - (A_S + A_L) / 2,

with share the normalised AUDC (`curves.normalised_audc`, oracle with exactly the deferral rate r). The first term is
random deferral; room is what a perfect order of deferral would add to it, share how much of that the confidence gets.
For two methods a and b, with d for "a less b" and m for the mean of both, d(room share) = m(share) d room + m(room) d
share without remainder, so that

    d AUDC = d A_S / 2  +  m(share) d room  +  m(room) d share  (+ d A_L / 2, which is 0 with the same large model).

- d A_S / 2, "a better small model alone": what random deferral would show of it.
- m(share) d room, "a better complement": S's errors lie more where L is right, so there is more to gain by deferring,
  at an equal quality of ranking.
- m(room) d share, "better ranking": the confidence orders the queries better, with as much to gain.

The parts are descriptive: they add up by definition, and a cause that moves A_S moves room, too (a perfect S leaves
none). They are computed for each seed, averaged over seeds, and recomputed on every resample, the oracle included. For
BLEU and chrF the oracle is the greedy one (`corpus.CorpusRun.gain_confidence`), which is no upper bound. Where a
method has no room (L gains equally much on every item, or the greedy oracle does no better than random), its share
does not exist; the other method's share then stands in for it, so that the difference counts as complement, and
`Decomposition.without_room` says how many seeds that concerns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cat_core.analysis.comparison import Comparison, with_confidence
from cat_core.analysis.resampling import Scratch, aligned, combined, draw_blocks, intervals
from cat_core.curves import ROUNDING, audc
from cat_core.ranking import Interval

ENDS = np.array([0.0, 1.0])
PARTS = {
    "small_alone": "a better small model alone",
    "complement": "a better complement (more to gain by deferring)",
    "ranking": "better ranking (more of it gained)",
    "large_alone": "another large model",
}
"""The parts of a difference by name, in words."""


@dataclass(frozen=True)
class Decomposition:
    """The difference of AUDC between `method` and `baseline` (the first less the second) and its parts.

    whole = small_alone + complement + ranking + large_alone, also on every resample; each in the unit of the quality.
    oracle: "exact", or "greedy" for corpus metrics. without_room: seeds of the two methods, of 2 x seeds, whose share
    does not exist. n items, seeds, large_models: what it rests on.
    """

    method: str
    baseline: str
    rule: str
    whole: Interval
    small_alone: Interval
    complement: Interval
    ranking: Interval
    large_alone: Interval
    oracle: str
    without_room: int
    n: int
    seeds: int
    large_models: int


def split_difference(a: tuple, b: tuple) -> dict[str, np.ndarray]:
    """The parts of AUDC_a - AUDC_b, elementwise: "whole" and the names of `PARTS`, arrays of one shape.

    a, b: (AUDC, AUDC of the oracle, A_S, A_L) of the two methods, arrays of one shape in the unit of the quality. The
    parts add up to the whole but for rounding. Raises ValueError where they do not (NaN).
    """
    (area_a, oracle_a, small_a, large_a), (area_b, oracle_b, small_b, large_b) = (
        tuple(np.asarray(x, dtype=np.float64) for x in method) for method in (a, b)
    )
    room_a, share_a, over_a = _room_and_share(area_a, oracle_a, small_a, large_a)
    room_b, share_b, over_b = _room_and_share(area_b, oracle_b, small_b, large_b)
    # no room: nothing to rank, so no difference in ranking; 0 where neither has any
    share_a, share_b = np.where(np.isnan(share_a), share_b, share_a), np.where(np.isnan(share_b), share_a, share_b)
    share_a, share_b = np.nan_to_num(share_a), np.nan_to_num(share_b)
    parts = {
        "whole": area_a - area_b,
        "small_alone": (small_a - small_b) / 2,
        "complement": (share_a + share_b) / 2 * (room_a - room_b),
        "ranking": (room_a + room_b) / 2 * (share_a - share_b),
        "large_alone": (large_a - large_b) / 2,
    }
    # a greedy oracle can leave no room and yet the rule gains: what no share can express is ranking
    parts["ranking"] = parts["ranking"] + (over_a - room_a * share_a) - (over_b - room_b * share_b)
    left = parts["whole"] - sum(parts[part] for part in PARTS)
    # where the room is small the share is large: what cancels is rounded in its own size
    scale = 1 + np.abs([area_a, area_b]).max(axis=0)
    scale = scale + (np.abs(share_a) + np.abs(share_b)) * (np.abs(room_a) + np.abs(room_b))
    if not (np.abs(left) <= ROUNDING * scale).all():
        raise ValueError(f"the parts miss the whole by {np.abs(left).max()}: areas must be finite numbers")
    return parts


def _room_and_share(area, oracle, small, large):
    """room, share (NaN where there is no room) and AUDC - random."""
    random = (small + large) / 2
    room, over = oracle - random, area - random
    with np.errstate(divide="ignore", invalid="ignore"):
        return room, np.where(room > ROUNDING, over / room, np.nan), over


def decompose(c: Comparison, method: str, baseline: str, rule: str = "chow_average") -> Decomposition:
    """The difference of AUDC between two methods of a comparison on its test items, in parts with intervals.

    rule: the confidence of both. The intervals come from the draws of `paired_bootstrap` (large models, seeds, items),
    the same for both methods and all parts. Raises ValueError (OutcomeError) where the comparison lacks a method or
    the rule.
    """
    runs = {}
    for m in (method, baseline):
        if m not in c.methods:
            raise ValueError(f"no method {m!r} to decompose: the comparison holds {', '.join(c.methods)}")
        runs[m, "rule"] = c.runs(m, rule)
        runs[m, "oracle"] = [with_confidence(run, run.gain_confidence()) for run in runs[m, "rule"]]
    ready, labels = aligned(runs, None)
    k, n, scratch = len(c.seeds), len(labels), Scratch()

    def measured(counts) -> list[tuple]:
        """For both methods AUDC, AUDC of the oracle, A_S and A_L, each [b, k]."""
        measures = []
        for m in (method, baseline):
            rows = [run.resample(counts, ENDS, scratch) for run in ready[m, "rule"]]
            best = [run.resample(counts, None, scratch)[0] for run in ready[m, "oracle"]]
            ends = np.stack([values for _, values in rows], axis=1)
            areas = np.stack([area for area, _ in rows], axis=1)
            measures.append((areas, np.stack(best, axis=1), ends[:, :, 0], ends[:, :, 1]))
        return measures

    once, draws = measured(np.ones((1, n), dtype=np.int32)), []
    parts = split_difference(*once)
    estimates = {part: values.mean() for part, values in parts.items()}
    of_seeds = np.concatenate(list(parts.values())).T  # [k, parts]
    for _, counts, weight in draw_blocks(labels, k, c.resamples, groups=c.groups):
        drawn = np.stack(list(split_difference(*measured(counts)).values()), axis=2)
        draws.append(combined(drawn, of_seeds, weight))
    without = sum(int(np.isnan(_room_and_share(*row)[1]).sum()) for row in once)
    measures = dict(zip(estimates, intervals(estimates.values(), np.concatenate(draws), c.level)))
    return Decomposition(
        method, baseline, rule, **measures, oracle="greedy" if c.by_counts else "exact", without_room=without, n=n,
        seeds=k, large_models=c.large_models,
    )  # fmt: skip


# ---------------------------------------------------------------- every method with every rule


@dataclass(frozen=True)
class RuleGrid:
    """Deferral rules compared on every training method; numbers in the unit of the quality.

    resamples: of the intervals. best_on_calibration: the rule with the largest AUDC on the *calibration* items, by
    method. over_random: AUDC less that of random deferral, by method and rule. regret: AUDC of the best rule on
    calibration less that of the rule, both on test items, by method and rule: what was lost by not choosing; 0 for the
    chosen one, negative where the choice does not carry over.
    """

    rules: tuple[str, ...] = ()
    resamples: int = 0
    best_on_calibration: dict[str, str] = field(default_factory=dict)
    over_random: dict[str, dict[str, Interval]] = field(default_factory=dict)
    regret: dict[str, dict[str, Interval]] = field(default_factory=dict)


def rule_grid(c: Comparison, rules: Sequence[str] = (), *, resamples: int = 0) -> RuleGrid:
    """Every method of `c` with every deferral rule (default `c.rules`), paired: one draw for all.

    resamples: default the comparison's; corpus metrics take about a second per method, seed, rule and 2,000 resamples
    of 1,000 items. Choosing the best rule on the test items would make it look better than it is, so it is chosen on
    the calibration items, by the mean over seeds; of equals the first one.
    """
    rules = tuple(rules) or c.rules
    random = {m: f"{m}: at random" for m in c.methods}
    runs, best, pairs = {}, {}, []
    for m in c.methods:
        areas = {r: np.mean([audc(c.seed_curve(m, seed, "calibration", r)) for seed in c.seeds]) for r in rules}
        best[m] = max(rules, key=areas.get)
        runs |= {f"{m}: {r}": c.runs(m, r) for r in rules}
        runs[random[m]] = [with_confidence(run, np.zeros(c.n)) for run in runs[f"{m}: {rules[0]}"]]
        pairs += [(f"{m}: {r}", random[m]) for r in rules] + [(f"{m}: {best[m]}", f"{m}: {r}") for r in rules]
    boot = c.bootstrap(runs, pairs, None, resamples)

    def table(pair) -> dict[str, dict[str, Interval]]:
        return {m: {r: boot.difference[pair(m, r)] for r in rules} for m in c.methods}

    over_random = table(lambda m, r: (f"{m}: {r}", random[m]))
    return RuleGrid(rules, boot.resamples, best, over_random, table(lambda m, r: (f"{m}: {best[m]}", f"{m}: {r}")))
