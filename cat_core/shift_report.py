"""A threshold on other queries than it was chosen on, as tables and figures of recorded cells (see `limits.shift`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cat_core import figures, forest, limits
from cat_core.comparison import Comparison
from cat_core.evidence_report import caption, labels, nothing, numbers
from cat_core.limits import Shift
from cat_core.study import Cell
from cat_core.tables import PERCENT, Table, Undefined, Unit, show_number
from cat_core.training_report import name

SIZES = (10, 20, 40, 70, 100, 150, 200, 300)
"""Unlabelled queries from which a threshold is chosen anew."""


def shifts(cells: Sequence[Cell], found: Mapping[str, Comparison], method: str, budget: float) -> list[Shift]:
    """Every shift that the cells can show: each task with a threshold of the other tasks of its cell, and each cell
    with that of another cell of the same study and suite (another S, too: the worst practice)."""
    rows, by_label = [], dict(zip(labels(numbers(cells)), cells))
    found = {label: limits.of_method(c, method) for label, c in found.items() if method in c.methods}
    for label, c in found.items():
        for task in c.tasks if len(c.tasks) > 1 else ():
            source = limits.without_task(c, task)
            if (source.frame["split"] == "calibration").any() and "test" in set(c.of_task(task).frame["split"]):
                rows.append(limits.shift(source, c.of_task(task), (f"{label}: other tasks", task), method, budget))
    for label, c in found.items():
        for other, target in found.items():
            here, there = by_label[label], by_label[other]
            same = (here.study, here.config["suite"], c.seeds) == (there.study, there.config["suite"], target.seeds)
            if label != other and same:
                rows.append(limits.shift(c, target, (label, other), method, budget))
    return [row for row in rows if isinstance(row, Shift)]


def shift_table(rows: Sequence[Shift]) -> Table:
    """Promised and achieved deferral rate and quality, and what choosing the threshold anew gives."""
    title, shown = "A threshold on other queries: promised and achieved", []
    for s in rows:
        unit, again = Unit(s.scale, 1), s.again
        own = ["–", "–"]
        if not isinstance(again, Undefined):
            own = [show_number(again.deferral_rate, PERCENT), show_number(again.quality, unit)]
        promised = f"{show_number(s.promised_rate, PERCENT)}; {show_number(s.promised_quality, unit)}"
        rates = (show_number(x, PERCENT) for x in (s.here.deferral_rate, s.there.deferral_rate))
        there = show_number(s.there.quality, unit)
        shown.append((f"{s.source} → {s.target}", promised, *rates, f"{s.inside} of {s.seeds}", there, *own))
    if not shown:
        return nothing(f"{title}: cells of several tasks, or two cells of one suite")
    columns = ("From → to", "promised rate; quality", "rate on its own test", "rate on the others",
               "seeds in the expected range", "quality there", "rate, chosen anew", "quality, chosen anew")  # fmt: skip
    first = rows[0]
    note = (
        f"S by {name(first.method)}, thresholds for a deferral rate of {100 * first.budget:g} %, one a seed, from "
        "calibration rows. Expected range: where the rate of exchangeable queries lies in 95 % of cases. Chosen anew: "
        "on the calibration rows of the target, without labels. [ ]: intervals over large models, seeds and items."
    )
    return Table(columns, shown, title, note)


def shift_figure(cells: Sequence[Cell], rows: Sequence[Shift], number: str = "") -> figures.Shown | Table:
    """How far the deferral rate lands from the budget: with a threshold from elsewhere, and with one chosen anew."""
    if not rows:
        return nothing("How far the deferral rate lands from its budget")
    panels, said = {}, []
    for s in rows:
        title = s.source if s.source.endswith("other tasks") else f"{s.source}: its threshold elsewhere"
        x = [100 * (v - s.budget) for v in vars(s.there.deferral_rate).values()]
        anew = () if isinstance(s.again, Undefined) else (100 * (s.again.deferral_rate.estimate - s.budget),)
        panels.setdefault(title, []).append(forest.Row(s.target, *x, anew, s.method))
        said.append(f"{title}, {s.target}: {x[0]:+.1f} points" + "".join(f", anew {a:+.1f}" for a in anew))
    fig = forest.forest_figure(panels, x_label="Deferral rate less its budget (points)")
    text = (
        f"{number}: deferral rate achieved on test items less the budget of {100 * rows[0].budget:g} %, S by "
        f"{name(rows[0].method)}; marks with intervals: threshold from the calibration items named above each panel; "
        "hollow dots: chosen anew, from unlabelled calibration items of the same kind as the test items"
    )
    return figures.show(fig, f"Forest plot. {'; '.join(said)}.", caption(text, numbers(cells)))


def recalibration_figure(
    cells: Sequence[Cell], found: Mapping[str, Comparison], method: str, budget: float, number: str = ""
) -> figures.Shown | Table:
    """Deferral rate on test items of thresholds from n unlabelled queries: found, and by the beta-binomial formula."""
    panels, said = {}, []
    for label, c in ((k, v) for k, v in found.items() if method in v.methods):
        n = len(c.pairing(method, c.seeds[0], "calibration"))
        sizes = [k for k in SIZES if k <= n // 2]  # the pool is finite
        if not sizes:
            continue
        rates = limits.recalibrated_rates(c, method, budget, sizes)
        low, high = np.quantile(rates, [0.025, 0.975], axis=1)
        law = [limits.rate_interval(k, budget, c.n) for k in sizes]
        seen = [100 * (x - budget) for x in (rates.mean(axis=1), low, high)]
        told = [[100 * (getattr(x, part) - budget) for x in law] for part in ("estimate", "low", "high")]
        panels[label] = [
            figures.Curve(method, sizes, *seen, label="found, mean and central 95 %"),
            figures.Curve("oracle", sizes, *told, label="by the formula"),
        ]
        said.append(f"{label}: with {sizes[-1]} queries from {seen[1][-1]:+.1f} to {seen[2][-1]:+.1f} points, by the "
                    f"formula from {told[1][-1]:+.1f} to {told[2][-1]:+.1f}")  # fmt: skip
    if not panels:
        return nothing("Choosing a threshold anew")
    fig = figures.difference_figure(
        panels, baseline="the budget", axis_label="Unlabelled queries", axis_scale=1, quality_label="points",
        quality_scale=1,
    )  # fmt: skip
    text = (
        f"{number}: deferral rate on test items less the budget of {100 * budget:g} %, for thresholds from n "
        f"unlabelled calibration items, S by {name(method)}: 200 draws of n for every seed, and what the beta-binomial "
        "formula says of exchangeable queries, whatever the model and the confidence"
    )
    used = [m for m, label in zip(numbers(cells), labels(numbers(cells))) if label in panels]
    return figures.show(fig, f"Line chart. {'; '.join(said)}.", caption(text, used))


def headline(rows: Sequence[Shift]) -> dict[str, str]:
    """What the prose quotes of the shifts, one sentence."""
    if not rows:
        return {"shift_text": "No recorded cell shows a shift yet."}
    low, high = (pick(rows, key=lambda s: s.there.deferral_rate.estimate) for pick in (min, max))
    ends = [f"{100 * s.there.deferral_rate.estimate:.1f} % ({s.source} → {s.target})" for s in (low, high)]
    outside = sum(s.inside == 0 for s in rows)
    return {
        "shift_text": (
            f"For a budget of {100 * rows[0].budget:g} % the mean rate over the seeds runs from {ends[0]} to {ends[1]} "
            f"over {len(rows)} shifts, and in {outside} of them not one seed is in the expected range."
        )
    }


def as_metrics(rows: Sequence[Shift]) -> list[dict]:
    """The shifts as `results.publish` writes them."""
    plain = ("source", "target", "method", "budget", "promised_rate", "promised_quality", "inside", "seeds",
             "n_calibration", "n_test", "scale")  # fmt: skip
    found = []
    for s in rows:
        points = {"here": s.here, "there": s.there, "again": s.again}
        shown = {
            k: p if isinstance(p, Undefined) else {"deferral_rate": p.deferral_rate, "quality": p.quality, "gap": p.gap}
            for k, p in points.items()
        }
        found.append({k: getattr(s, k) for k in plain} | shown)
    return found
