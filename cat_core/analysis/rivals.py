"""Rivals of a cascade on one axis: the mean quality over budgets, whoever is asked first.

Areas over the deferral rate do not charge for S, so they cannot compare a cascade, which pays S for every query, with a
router, which decides by the prompt and pays S only where S answers. Here a policy is its quality A(B) at the mean cost
B per query, and its area

    area = 1 / (C_L - C_S)  integral of A(B) dB  from C_S to C_L,

between S alone and L alone: what lies beyond costs more than L. A cascade costs C_S + r C_L at the deferral rate r, a
router (1 - r) C_S + r C_L with the costs of the very queries, and the reading of all prompts by S where it looks at S's
state. A policy that reaches every quality at the share 1 - s of its cost moves the area, to first order, by

    s room,    room = (C_L A_L - C_S A_S) / (C_L - C_S) - area,

the saving of `saving` on this axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cat_core.analysis.comparison import Comparison, with_confidence
from cat_core.analysis.estimates import Estimate
from cat_core.analysis.quantities import NOT_THERE, Quantity, Undefined
from cat_core.analysis.resampling import GRID, MeanRun, Scratch, aligned, combined, draw_blocks, intervals, percentiles
from cat_core.analysis.saving import SIZES, by_task, primary_rule, ratio
from cat_core.methods import RULES
from cat_core.ranking import Interval

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the calibration queries that `Policy.router` may send to L beforehand; the best one there is taken."""
BEFORE = tuple(name for name, rule in RULES.items() if rule.before)
READS = ("route_probe",)  # rules for which S reads every prompt


@dataclass(frozen=True)
class Policy:
    """S of one `method`; `rule` orders what is deferred, after S's answer or, where it is of `BEFORE`, before it.

    router: a rule of `BEFORE` that first sends `share` of the queries to L, as seen on calibration; the rest is a
    cascade by `rule` (route, then cascade).
    """

    method: str
    rule: str
    router: str = ""
    share: float = 0.0

    @property
    def key(self) -> str:
        """The policy in a file: method and rules, with blanks between."""
        return " ".join(part for part in (self.method, self.rule, self.router) if part)


@dataclass(frozen=True)
class Rival:
    """A `Policy` on test items. area: mean quality over budgets; saving: against the reference of `compared`; power: to
    see a saving of 13 %."""

    method: str
    rule: str
    router: str
    share: float
    area: Interval
    saving: Quantity = NOT_THERE
    power: float | None = None


@dataclass(frozen=True)
class AtCost:
    """`at_cost_of`: the mean cost as a share of L's; quality of one model, of the cascade there, and the cascade's less
    the model's, paired."""

    cost: float
    alone: Interval
    cascade: Interval
    difference: Interval


def policies(c: Comparison) -> list[Policy]:
    """What a comparison can set side by side: each method's cascade by the primary rule; routers by the prompt, and
    these before the cascade; S that was taught a deferral token by that token. Shares are chosen on calibration."""
    rule, found = primary_rule(c), []
    small = c.frame[c.frame["model"] == "small"]
    known = {m: set(rows.columns[~rows.isna().any()]) for m, rows in small.groupby("method", sort=False)}
    for method in c.methods:
        there = {r for r in RULES if f"confidence_{r}" in known[method]}
        found.append(Policy(method, rule))
        if "call_token" in there:
            found.append(Policy(method, "call_token"))
        found += [Policy(method, before) for before in BEFORE if before in there]
        found += [_chosen(c, Policy(method, rule, before)) for before in BEFORE if before in there]
    return found


def _chosen(c: Comparison, policy: Policy) -> Policy:
    """The policy with the share of `SHARES` whose area is largest on calibration items."""
    tried = [Policy(policy.method, policy.rule, policy.router, share) for share in SHARES]
    areas = []
    for one in tried:
        parts = [_measured(_Part(part, one, "calibration"), None) for part in by_task(c)]
        areas.append(float(np.mean([part[..., 0].mean() for part in parts])))
    return tried[int(np.argmax(areas))]


class _Part:
    """A policy on one split of a comparison: for each seed the answers and the costs, both in its order of deferral."""

    def __init__(self, c: Comparison, policy: Policy, split: str = "test"):
        self.runs, self.costs, self.alone = [], [], []
        for seed in c.seeds:
            rows = c.pairing(policy.method, seed, split, policy.rule)
            confidence, small, large = rows.confidence, rows.small_flops, rows.large_flops
            reads = {policy.rule, policy.router} & {*READS}
            beforehand = large + (c.small_rows(rows)["prompt_flops"].to_numpy(float) if reads else 0.0)
            deferred = beforehand if policy.rule in BEFORE else small + large
            if policy.router and policy.share:
                both = (c.pairing(policy.method, seed, s, policy.router) for s in (split, "calibration"))
                seen, known = (pairing.confidence for pairing in both)
                sent = seen <= _threshold(known, policy.share)
                deferred = np.where(sent, beforehand, deferred)
                # those that are sent come before all others, in the router's order
                confidence = np.where(sent, _ranks(seen) - len(sent), _ranks(confidence))
            scale = float(deferred.max())
            self.runs.append(with_confidence(c.run(policy.method, seed, split), confidence))
            self.costs.append((MeanRun(small / scale, deferred / scale, confidence), scale))
            self.alone.append((small, large))


def _threshold(known: np.ndarray, share: float) -> float:
    """The highest threshold that sends at most the share of the `known` queries; -inf where it would send none."""
    values, counts = np.unique(known, return_counts=True)
    last = np.searchsorted(counts.cumsum(), share * len(known) * (1 + 1e-9), side="right") - 1
    return float(values[last]) if last >= 0 else -np.inf


def _ranks(confidence: np.ndarray) -> np.ndarray:
    """[n] float64 numbers from 0 in the order of the confidences, equal where these are."""
    return np.unique(confidence, return_inverse=True)[1].astype(np.float64)


def _priced(part: _Part, counts: np.ndarray):
    """Of each seed, on items drawn `counts` [b, n] times: quality and mean cost [b, g] at the rates of `GRID`."""
    ready, scratch = aligned({"runs": part.runs}, None)[0], Scratch()
    for run, (cost, scale) in zip(ready["runs"], part.costs):
        yield run.resample(counts, GRID, scratch)[1], cost.resample(counts, GRID, scratch)[1] * scale


def _measured(part: _Part, counts: np.ndarray | None) -> np.ndarray:
    """Area and room of each seed [b, k, 2] on items drawn `counts` [b, n] times (None: each once)."""
    found = []
    if counts is None:
        counts = np.ones((1, len(part.alone[0][0])), dtype=np.int32)
    for (quality, paid), (small, large) in zip(_priced(part, counts), part.alone):
        total = counts.sum(axis=1)
        low, high = counts @ small / total, counts @ large / total
        budgets = low[:, None] + (high - low)[:, None] * GRID
        levels = np.stack([np.interp(*row) for row in zip(budgets, paid, quality)])
        area = (levels[:, 1:] + levels[:, :-1]).mean(axis=1) / 2
        room = (high * quality[:, -1] - low * quality[:, 0]) / (high - low) - area
        found.append(np.stack([area, room], axis=-1))
    return np.stack(found, axis=1)


def compared(c: Comparison, wanted: Sequence[Policy], reference: Policy) -> dict[str, Rival] | Undefined:
    """Every policy's area, and what it saves against `reference` (paired; one draw for all), by `Policy.key`.

    Of several tasks whose quality is a mean over items, the mean over tasks of their areas is taken. Undefined where
    costs are unknown, or where S does not cost less than L.
    """
    if (why := c.unknown_costs) is not None:
        return why
    tasks = by_task(c)
    for part in tasks:
        if part.cost(reference.method)[0] >= part.large_flops:
            return Undefined("S costs no less than L")
    numbers = {policy: [_drawn(part, policy) for part in tasks] for policy in dict.fromkeys((reference, *wanted))}
    clusters = sum(found[2] for found in numbers[reference])
    rows = {}
    for policy in wanted:
        (once, drawn), weights = _mean(numbers[policy]), numbers[policy][0][1]
        area = once[:, 0].mean()
        low, high = percentiles(combined(drawn[..., 0], once[:, 0], weights), c.level)
        saved = NOT_THERE
        if policy != reference:
            base, base_drawn = _mean(numbers[reference])
            both = ((once, base), (drawn, base_drawn))
            pairs = [np.stack([a[..., 0] - b[..., 0], b[..., 1]], axis=-1) for a, b in both]
            saved = ratio(*pairs, weights, c.groups, clusters, c.level)
        known = isinstance(saved, Estimate)
        rows[policy.key] = Rival(
            *vars(policy).values(), Interval(float(area), float(low), float(high)), saved.number if known else saved,
            saved.power(SIZES[0]) if known else None,
        )  # fmt: skip
    return rows


def at_cost_of(one: Comparison, method: str, c: Comparison, policy: Policy) -> AtCost | Undefined:
    """A cascade against one model that answers everything by itself, the S of `one` by `method`, at its mean cost.

    Both on the same items, with the same L for each seed; means over tasks where quality is one over items. On
    resampled items the cascade is read off at the cost of the model there. Undefined where the model costs less than
    S of the cascade or more than L.
    """
    if (why := one.unknown_costs or c.unknown_costs) is not None:
        return why
    numbers, shares = [], []
    for alone, part in zip(by_task(one), by_task(c), strict=True):
        low, own, high = part.cost(policy.method)[0], alone.cost(method)[0], part.large_flops
        if not low <= own <= high:
            costs = f"it costs {own / high:.2f} times as much as L, S of the cascade {low / high:.2f} times"
            return Undefined(costs)
        single, cascade = _Part(alone, Policy(method, policy.rule)), _Part(part, policy)
        _, labels = aligned({"one": single.runs, "cascade": cascade.runs}, None)

        def both(counts, single=single, cascade=cascade):
            """[b, k, 2] quality of the model and of the cascade at its cost."""
            rows = []
            for (alone, paid), (quality, cost) in zip(_priced(single, counts), _priced(cascade, counts)):
                there = [np.interp(*row) for row in zip(paid[:, 0], cost, quality)]
                rows.append(np.stack([alone[:, 0], there], axis=-1))
            return np.stack(rows, axis=1)

        parts, weights = [both(np.ones((1, len(labels)), dtype=np.int32))], []
        for _, counts, weight in draw_blocks(labels, len(c.seeds), c.resamples, groups=c.groups):
            parts.append(both(counts))
            weights.append(weight)
        numbers.append(np.concatenate(parts))
        shares.append(float(own / high))
    mean = np.mean(numbers, axis=0)
    mean = np.concatenate([mean, mean[..., 1:] - mean[..., :1]], axis=-1)
    draws = combined(mean[1:], mean[0], np.concatenate(weights))
    return AtCost(float(np.mean(shares)), *intervals(mean[0].mean(axis=0), draws, c.level))


def _drawn(c: Comparison, policy: Policy):
    """Area and room, as measured and on resampled items [1 + b, k, 2]; seed weights [b, k]; clusters."""
    part = _Part(c, policy)
    _, labels = aligned({"runs": part.runs}, None)
    parts, weights = [_measured(part, None)], []
    for _, counts, weight in draw_blocks(labels, len(c.seeds), c.resamples, groups=c.groups):
        parts.append(_measured(part, counts))
        weights.append(weight)
    return np.concatenate(parts), np.concatenate(weights), int(labels.max()) + 1


def _mean(parts) -> tuple[np.ndarray, np.ndarray]:
    """Mean over tasks: as measured [k, 2], and drawn [b, k, 2]."""
    mean = np.mean([found[0] for found in parts], axis=0)
    return mean[0], mean[1:]
