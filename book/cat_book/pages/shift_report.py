"""A threshold on other queries than it was chosen on, as tables and figures of recorded cells (see `limits.shift`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from cat_book.drawing import figures
from cat_book.drawing.strips import Axis, Slider, Strip, Strips
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import by_label, caption, nothing, numbers, shown
from cat_core.analysis import limits
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.limits import Shift
from cat_core.analysis.quantities import PERCENT, Undefined, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

SIZES = (10, 20, 40, 70, 100, 150, 200, 300)
"""Unlabelled queries from which a threshold is chosen anew."""
WINDOWS = (5, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500)
"""Queries whose deferral rate is looked at, to see whether they have changed."""
LIKELY = 0.5


def shifts(cells: Sequence[Cell], comparisons: Mapping[str, Comparison], method: str, budget: float) -> list[Shift]:
    """Every shift that the cells can show: each task with a threshold of the other tasks of its cell, and each cell
    with that of another cell of the same study and suite (another S, too: the worst practice)."""
    rows, by_name = [], dict(zip(by_label(cells), cells))
    comparisons = {label: limits.of_method(c, method) for label, c in comparisons.items() if method in c.methods}
    for label, c in comparisons.items():
        for task in c.tasks if len(c.tasks) > 1 else ():
            source = limits.without_task(c, task)
            if (source.frame["split"] == "calibration").any() and (c.of_task(task).frame["split"] == "test").any():
                rows.append(limits.shift(source, c.of_task(task), (f"{label}: other tasks", task), method, budget))
    kind = {label: (by_name[label].study, by_name[label].config["suite"], c.seeds) for label, c in comparisons.items()}
    for label, other in permutations(comparisons, 2):
        if kind[label] == kind[other]:
            rows.append(limits.shift(comparisons[label], comparisons[other], (label, other), method, budget))
    return [row for row in rows if isinstance(row, Shift)]


def shift_table(rows: Sequence[Shift]) -> Table:
    """Promised and achieved deferral rate and quality, and what choosing the threshold anew gives."""
    title, lines = "A threshold on other queries: promised and achieved", []
    if not rows:
        return nothing(f"{title}: cells of several tasks, or two cells of one suite")
    for s in rows:

        def both(rate, quality, scale=s.scale):
            return show_number(rate, PERCENT), show_number(quality, Unit(scale, 1))

        own = ("–", "–") if isinstance(s.again, Undefined) else both(s.again.deferral_rate, s.again.quality)
        rate, there = both(s.there.deferral_rate, s.there.quality)
        rates = "; ".join(both(s.promised_rate, s.promised_quality)), show_number(s.here.deferral_rate, PERCENT), rate
        lines.append((f"{s.source} → {s.target}", *rates, f"{s.inside} of {s.seeds}", there, *own))
    columns = ("From → to", "promised rate; quality", "rate on its own test", "rate on the others",
               "seeds in the expected range", "quality there", "rate, chosen anew", "quality, chosen anew")  # fmt: skip
    first = rows[0]
    note = (
        f"S by {name(first.method)}, thresholds for a deferral rate of {100 * first.budget:g} %, one a seed, from "
        "calibration rows. Expected range: where the rate of exchangeable queries lies in 95 % of cases. Chosen anew: "
        "on the calibration rows of the target, without labels. [ ]: intervals over large models, seeds and items."
    )
    return Table(columns, lines, title, note)


def alarm_figure(cells: Sequence[Cell], rows: Sequence[Shift], number: str = "") -> Strips | Table:
    """When a look at the deferral rate of the first queries would have told that they are others: a slider over how
    many are looked at, and how far the rate lands from its budget, with a threshold from elsewhere and one chosen anew.
    """
    title = "When would an alarm have rung?"
    if not rows:
        return nothing(title)
    groups, rings = {}, []
    for s in rows:
        source, elsewhere = s.source, not s.source.endswith("other tasks")
        looks = [s.alarm(window) for window in WINDOWS]
        rings.append([(others, own) for _, others, own in looks])
        rate = s.there.deferral_rate
        strip = Strip(
            f"{source} \u2192 {s.target}" if elsewhere else s.target,
            [f"defers {100 * rate.estimate:.0f} %; rings in {100 * others:.0f} % (own queries: {100 * own:.0f} %)"
             for _, others, own in looks],
            [int(others >= LIKELY) for _, others, _ in looks], [Interval(*(100 * v for v in vars(rate).values()))],
            [(100 * law.low, 100 * law.high) for law, _, _ in looks],
            [] if isinstance(s.again, Undefined) else [[100 * s.again.deferral_rate.estimate]],
        )  # fmt: skip
        groups.setdefault("the threshold of another cell" if elsewhere else source, []).append(strip)
    said = []
    for window, looks in zip(WINDOWS, zip(*rings)):
        others, own = sum(x >= LIKELY for x, _ in looks), np.mean([x for _, x in looks])
        said.append(f"After {window} queries an alarm has rung, more likely than not, in {others} of {len(rows)} "
                    f"shifts; on queries of the same kind it rings in {100 * own:.0f} % of cases.")  # fmt: skip
    budget, ticks = 100 * rows[0].budget, [(v, f"{v} %") for v in (0, 25, 50, 75, 100)]
    axis = Axis("deferral rate; the line is the budget", 0, 100, ticks, zero=budget)
    slider = Slider("Queries looked at", [f"{window}" for window in WINDOWS], said, WINDOWS.index(50))
    legend = [("band", "expected of so many queries"), ("k1", "others: an alarm, more likely than not"),
              ("k0", "others: no alarm"), ("dot", "with a threshold chosen anew")]  # fmt: skip
    text = (
        f"deferral rate on test items with a threshold for {budget:g} % from the items named, S by "
        f"{name(rows[0].method)}. The grey range holds the rate of so many queries in 95 % of cases if nothing has "
        "changed; an alarm rings where the rate seen lies outside. Look at more queries and the range shrinks, so that "
        "marks fall outside. In percent: of draws of so many test items, over all seeds (where there are fewer, "
        "all), also for test items of the threshold's own kind. Hollow: chosen anew, from unlabelled items of the same "
        "kind"
    )
    return Strips(
        groups, axis, slider, name="alarm", title=title, caption=caption(text, numbers(cells), number=number),
        what="Threshold from", legend=legend,
    )  # fmt: skip


def recalibration_figure(
    cells: Sequence[Cell], comparisons: Mapping[str, Comparison], method: str, budget: float, number: str = ""
) -> figures.Shown | Table:
    """Deferral rate on test items of thresholds from n unlabelled queries: found, and by the beta-binomial formula."""
    panels, notes = {}, []
    for label, c in ((k, v) for k, v in comparisons.items() if method in v.methods):
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
        notes.append(f"{label}: with {sizes[-1]} queries from {seen[1][-1]:+.1f} to {seen[2][-1]:+.1f} points, by the "
                     f"formula from {told[1][-1]:+.1f} to {told[2][-1]:+.1f}")  # fmt: skip
    if not panels:
        return nothing("Choosing a threshold anew")
    fig = figures.difference_figure(
        panels, baseline="the budget", axis_label="Unlabelled queries", axis_scale=1, quality_label="points",
        quality_scale=1,
    )  # fmt: skip
    text = (
        f"deferral rate on test items less the budget of {100 * budget:g} %, for thresholds from n "
        f"unlabelled calibration items, S by {name(method)}: 200 draws of n for every seed, and what the beta-binomial "
        "formula says of exchangeable queries, whatever the model and the confidence"
    )
    used = [m for label, m in by_label(cells).items() if label in panels]
    return shown(fig, "Line chart", notes, caption(text, used, number=number))


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
    """The shifts as `publish.publish` writes them."""
    plain = ("source", "target", "method", "budget", "promised_rate", "promised_quality", "inside", "seeds",
             "n_calibration", "n_test", "scale", "rates", "own_rates", "n_own")  # fmt: skip
    points = ("deferral_rate", "quality", "gap")

    def point(p):
        return p if isinstance(p, Undefined) else {k: getattr(p, k) for k in points}

    places = ("here", "there", "again")
    return [{k: getattr(s, k) for k in plain} | {k: point(getattr(s, k)) for k in places} for s in rows]
