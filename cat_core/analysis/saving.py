"""The FLOPs-equivalent saving: one unit for a difference between two training methods, whatever the metric.

Let the baseline's cascade have quality A(r) at the deferral rate r, at the cost (c + r) C_L, with c = C_S / C_L. A
method that reaches every quality at the share 1 - s of that cost has, to first order in s, the quality A + s (c + r)
dA/dr at the rate r. Over all rates, by parts,

    dAUDC = s room,    room = A_L - AUDC + c (A_L - A_S),

AUDC, A_S (S alone) and A_L (L alone) of the baseline. So s = dAUDC / room is the saving at equal quality that would
move the curve as far as it has moved: for accuracy and for BLEU, on all tasks. It is not the saving at one threshold,
which compares curves at different qualities, and it does not exist where L is not better: then nothing is to be saved.
Ours; exact to first order in s alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.contrasts import Arm
from cat_core.analysis.estimates import Estimate
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.resampling import aligned, combined, percentiles

SIZES = (0.13, 0.50)
"""Savings that are quoted for the paper, both second hand: 13 % by a note of low confidence, 50 % by somebody who says
to have read it again ("CAT-Xent reduces 50% FLOPs given fixed 86% accuracy requests")."""


def primary_rule(c: Comparison) -> str:
    """The deferral rule that decides: the option probability where every row of S has it, else Chow-Average."""
    return "option_probability" if "option_probability" in c.rules else "chow_average"


def by_task(c: Comparison) -> list[Comparison]:
    """The comparison task by task where its quality is a mean over items, else as it is."""
    return [c] if c.by_counts or len(c.tasks) == 1 else [c.of_task(task) for task in c.tasks]


def arms(c: Comparison, method: str, rule: str) -> list[Arm]:
    """A method under a rule, task by task as a saving takes them."""
    return [Arm(part, method, rule) for part in by_task(c)]


def saving(c: Comparison, method: str, baseline: str, rule: str = "", other_rule: str = "") -> Estimate | Undefined:
    """What `method` saves against `baseline` on the test items, both deferring by `rule` (default `primary_rule`).

    other_rule: of the baseline, where it is another. Of several tasks whose metric is a mean over items, areas are
    those of each task by itself, and their mean over tasks is taken: a large task does not outvote the others.
    Undefined where one of the methods was not run, where costs are unknown, and where room is not shown to be above 0.
    """
    if missing := [m for m in (method, baseline) if m not in c.methods]:
        return Undefined(f"this run has no {' and no '.join(missing)}")
    rule = rule or primary_rule(c)
    return saving_of(arms(c, method, rule), arms(c, baseline, other_rule or rule))


def saving_of(ours: Sequence[Arm], theirs: Sequence[Arm]) -> Estimate | Undefined:
    """What the cascades `ours` save against `theirs`, part by part (tasks) on the same items; see `saving`.

    They may come from two comparisons of the same seeds and items: a cell, and the one beside it.
    """
    first = theirs[0].comparison
    for arm in (*ours, *theirs):
        if (why := arm.comparison.unknown_costs) is not None:
            return why
    costs = float(np.mean([arm.comparison.cost(arm.method)[0] / arm.comparison.large_flops for arm in theirs]))
    parts = [_areas(a, b, costs) for a, b in zip(ours, theirs, strict=True)]
    once = np.mean([found[0] for found in parts], axis=0)  # [k, 2] dAUDC and room of each seed
    drawn = np.mean([found[1] for found in parts], axis=0)  # [b, k, 2] the same of items drawn anew
    weights = parts[0][2]  # of seeds, the same for all tasks: they have the models in common
    clusters = sum(int(found[3].max()) + 1 for found in parts)
    return ratio(once, drawn, weights, first.groups, clusters, first.level)


def ratio(once: np.ndarray, drawn: np.ndarray, weights, groups, clusters: int, level: float) -> Estimate | Undefined:
    """The saving dAUDC / room, of both by seed [k, 2] and on items drawn anew [b, k, 2]; the rest as `Estimate.of`.

    Undefined where room is not shown to be above 0.
    """
    room, low = once[:, 1].mean(), percentiles(combined(drawn[..., 1], once[:, 1], weights), level)[0]
    if low <= 0:
        return Undefined("L is not shown to be better than the cascade: there is nothing to save")
    estimate = once[:, 0].mean() / room
    # What a seed or an item adds to the ratio, to first order: linear, so that a small room in some draw does no harm.
    values, draws = (estimate + (x[..., 0] - estimate * x[..., 1]) / room for x in (once, drawn))
    return Estimate.of(values, draws, weights, groups, clusters, level)


def _areas(ours: Arm, theirs: Arm, costs: float):
    """dAUDC and room of each seed [k, 2]; the same on resampled items [b, k, 2]; seed weights [b, k]; clusters [n]."""
    _, labels = aligned({"a": ours.runs(), "b": theirs.runs()}, None)
    (mine, _), (base, weights) = (arm.comparison.area_draws(arm.method, arm.rule) for arm in (ours, theirs))

    def both(mine, base):
        area, small, large = np.moveaxis(base, -1, 0)
        return np.stack([mine[..., 0] - area, large - area + costs * (large - small)], axis=-1)

    return both(mine[0], base[0]), both(mine[1:], base[1:]), weights, labels


def difference_alone(c: Comparison, method: str, baseline: str) -> Estimate | Undefined:
    """Quality of S alone by `method` less that by `baseline`, in the unit of the quality, on all test items."""
    if missing := [m for m in (method, baseline) if m not in c.methods]:
        return Undefined(f"this run has no {' and no '.join(missing)}")
    _, labels = aligned({m: c.runs(m) for m in (method, baseline)}, None)
    (mine, weights), (base, _) = (c.area_draws(m) for m in (method, baseline))
    alone = mine[..., 1] - base[..., 1]
    return Estimate.of(alone[0], alone[1:], weights, c.groups, int(labels.max()) + 1, c.level)
