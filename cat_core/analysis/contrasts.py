"""Contrasts of AUDC over arms: sums with coefficients, on one draw for all arms, also across comparisons.

An arm is a training method under a deferral rule in a `Comparison`. Arms may come from several comparisons (cells of
studies), as long as these hold the same test items, training seeds and large models: then "the same method, another
setting" is paired as closely as two methods of one cell, and a difference of differences gets an interval of its own,
which is narrower than two intervals laid side by side suggest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cat_core.analysis.comparison import Comparison, with_confidence
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.resampling import aligned, intervals, mean_curves
from cat_core.curves import audc
from cat_core.ranking import Interval

AT_RANDOM = "at random"
"""The rule of an arm that defers at random: its area is (A_S + A_L) / 2."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One training method under one deferral rule, in one comparison."""

    comparison: Comparison
    method: str
    rule: str = "chow_average"

    def runs(self) -> list:
        """Its test runs, one a seed."""
        random = self.rule == AT_RANDOM
        runs = self.comparison.runs(self.method, "chow_average" if random else self.rule)
        return [with_confidence(run, np.zeros(self.comparison.n)) for run in runs] if random else runs


def contrasts(
    arms: Mapping[str, Arm], wanted: Mapping[str, Mapping[str, float]], *, resamples: int = 0
) -> dict[str, Interval]:
    """{name of the contrast: sum over arms of coefficient x AUDC}, in the unit of the quality, with intervals.

    wanted: name -> {name of an arm: coefficient}, such as {"gain": {"a": 1, "b": -1}}. resamples: default those of the
    first arm's comparison. The draws are those of `paired_bootstrap` (large models, seeds, items), so a contrast of two
    arms of one comparison is its paired difference. Raises ValueError for unknown arms, and for comparisons with
    other seeds, large models, metrics or test items.
    """
    if not arms:
        raise ValueError("arms is empty: give at least one")
    first = next(iter(arms.values())).comparison
    for name, arm in arms.items():
        for what in ("seeds", "groups", "metric", "level"):
            ours, theirs = getattr(first, what), getattr(arm.comparison, what)
            if ours != theirs:
                raise ValueError(f"arm {name!r} has {what} {theirs}, the first one {ours}: they cannot be paired")
    for name, weights in wanted.items():
        if not weights or not set(weights) <= set(arms):
            raise ValueError(f"contrast {name!r} is made of {list(weights)}, expected some of {', '.join(arms)}")
    ready, labels = aligned({name: arm.runs() for name, arm in arms.items()}, None)
    areas = mean_curves(ready, labels, None, resamples or first.resamples, groups=first.groups)
    once, drawn = (dict(zip(arms, np.moveaxis(part[..., 0], -1, 0))) for part in areas)

    def summed(table):
        return np.stack([sum(c * table[arm] for arm, c in weights.items()) for weights in wanted.values()], axis=-1)

    return dict(zip(wanted, intervals(summed(once), summed(drawn), first.level))) if wanted else {}


CAT, UNMASKED = "cat-dist", "dist"


def rule_contrasts(c: Comparison, rules: Sequence[str], resamples: int = 0) -> dict[str, Interval]:
    """CAT-Dist and Dist, each with Chow-Average and with each of `rules`, taken apart, from one draw; {} without them.

    By rule: "whole", CAT-Dist with Chow-Average less Dist with the rule, is the sum of "training", CAT-Dist less Dist,
    both with Chow-Average, and "rule", Chow-Average less the rule, both after Dist. "same": CAT-Dist less Dist, both
    with the rule. The method followed by the rule: the rule less Chow-Average. "change": that after CAT-Dist less that
    after Dist.
    """
    if not rules or not {CAT, UNMASKED} <= set(c.methods):
        return {}
    arms = {(m, r): Arm(c, m, r) for m in (CAT, UNMASKED) for r in ("chow_average", *rules)}
    cat, plain, wanted = (CAT, "chow_average"), (UNMASKED, "chow_average"), {}
    for rule in rules:
        ours, theirs = (CAT, rule), (UNMASKED, rule)
        wanted |= {
            f"whole {rule}": {cat: 1, theirs: -1},
            f"training {rule}": {cat: 1, plain: -1},
            f"rule {rule}": {plain: 1, theirs: -1},
            f"same {rule}": {ours: 1, theirs: -1},
            f"{CAT} {rule}": {ours: 1, cat: -1},
            f"{UNMASKED} {rule}": {theirs: 1, plain: -1},
            f"change {rule}": {ours: 1, cat: -1, theirs: -1, plain: 1},
        }
    return contrasts(arms, wanted, resamples=resamples)


# ---------------------------------------------------------------- which factor is the larger one


@dataclass(frozen=True)
class Effect:
    """How far a factor moves a mean over seeds, in the unit of the quality.

    spread: standard deviation of the factor's levels (of interaction: of what the two main effects leave). luck: what
    `spread` would be, in expectation, if the factor did nothing and only the training seeds differed. largest less
    least: `span`, with the levels that have them.
    """

    name: str
    spread: float
    luck: float
    span: float = 0.0
    best: str = ""
    worst: str = ""


def seed_areas(c: Comparison, methods: Sequence[str], rules: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """AUDC of test curves [methods, rules, seeds], and (A_S + A_L) / 2, that of random deferral [methods, seeds]."""
    areas = np.empty((len(methods), len(rules), len(c.seeds)))
    random = np.empty((len(methods), len(c.seeds)))
    tests = c.frame[(c.frame["split"] == "test") & (c.frame["model"] == "small")]
    for (i, method), (k, seed) in product(enumerate(methods), enumerate(c.seeds)):
        items = c.pairing(method, seed).item_ids
        mine = tests[(tests["method"] == method) & (tests["seed"] == seed)].set_index("item_id").loc[items]
        for j, rule in enumerate(rules):
            curve = with_confidence(c.run(method, seed), mine[f"confidence_{rule}"].to_numpy()).curve()
            areas[i, j, k], random[i, k] = audc(curve), (curve.quality[0] + curve.quality[-1]) / 2
    return areas, random


def effects(areas: np.ndarray, methods: Sequence[str], rules: Sequence[str]) -> list[Effect]:
    """Training method, rule, and their interaction, from `areas` [methods, rules, seeds]; all at least 2.

    A two-way layout with the seeds as blocks: luck of a factor is sqrt(MS / seeds), MS the mean square of its
    interaction with the seeds, so what every method of a seed shares (its large model, its first weights) does not
    count as luck. Test items are the same for all levels and are not resampled here.
    """
    areas = np.asarray(areas, dtype=np.float64)
    shape = (len(methods), len(rules))
    if areas.ndim != 3 or areas.shape[:2] != shape or min(areas.shape) < 2:
        raise ValueError(f"areas has shape {areas.shape}, expected {shape} and the seeds, at least 2 of each")
    terms = []
    for name, levels, values in (
        ("training method", methods, areas.mean(axis=1)),
        ("deferral rule", rules, areas.mean(axis=0)),
    ):
        means = values.mean(axis=1)
        rest = values - means[:, None] - values.mean(axis=0) + values.mean()
        terms.append(Effect(name, float(means.std(ddof=1)), _luck(rest, len(levels) - 1), float(np.ptp(means)),
                            levels[int(means.argmax())], levels[int(means.argmin())]))  # fmt: skip
    freedom = (shape[0] - 1) * (shape[1] - 1)
    means = areas.mean(axis=2)
    both = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    rest = areas - areas.mean(axis=0) - areas.mean(axis=1)[:, None] - areas.mean(axis=2)[..., None]
    rest = rest + areas.mean(axis=(0, 1)) + areas.mean(axis=(0, 2))[:, None] + areas.mean(axis=(1, 2))[:, None, None]
    rest = rest - areas.mean()
    terms.append(Effect("interaction", float(np.sqrt((both**2).sum() / freedom)), _luck(rest, freedom)))
    return terms


def rule_effects(c: Comparison, methods: Sequence[str], rules: Sequence[str]) -> dict[str, Effect] | Undefined:
    """`effects` on AUDC as "training", "rule" and "interaction", and one more: "training, over random", that of the
    training method on AUDC less random deferral (rule and interaction are the same)."""
    if min(len(methods), len(rules), len(c.seeds)) < 2:
        return Undefined("needs two methods, two rules and two seeds")
    areas, random = seed_areas(c, methods, rules)
    terms = dict(zip(("training", "rule", "interaction"), effects(areas, methods, rules)))
    return terms | {"training, over random": effects(areas - random[:, None], methods, rules)[0]}


def _luck(rest: np.ndarray, freedom: int) -> float:
    """sqrt(mean square / seeds) of residuals [..., seeds] with freedom x (seeds - 1) degrees of freedom."""
    seeds = rest.shape[-1]
    return float(np.sqrt((rest**2).sum() / (freedom * (seeds - 1) * seeds)))
