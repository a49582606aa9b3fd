"""Recorded cells task by task, and by every metric: what was learnt at all, and the claimed differences.

No torch is needed to read a recorded cell.
"""

from __future__ import annotations

from collections.abc import Iterable

from cat_core.comparison import METRIC_LABELS
from cat_core.evidence_report import (
    PRIMARY,
    difference,
    gain,
    labels,
    note_on,
    nothing,
    numbers,
    pair_name,
    scale,
    value,
)
from cat_core.ranking import Interval
from cat_core.study import Cell
from cat_core.tables import PERCENT, Table, Undefined, Unit, show_number
from cat_core.training_report import name

CLAIMED = (PRIMARY, ("cat-xent", "xent"))
FREQUENT = 0.15  # six fixed options, the most of any task here, make the most frequent answer at least one in six


def tasks_table(cells) -> Table:
    """Recorded cells of several tasks, task by task: majority class, S and L alone, and the claimed differences."""
    title, rows, found = "Recorded cells, task by task", [], [m for m in numbers(cells) if m["tasks"]]
    for label, m in zip(labels(found), found):
        for task, t in m["tasks"].items():
            unit = Unit(scale(t), 1)
            alone = (show_number(value(t[which]), unit) for which in ("small_alone", "large_alone"))
            best, neither = value(t["majority"]), show_number(t["answers"][3], PERCENT)
            best = "–" if isinstance(best, Undefined) else show_number(best, unit)
            gains = (show_number(value(t["differences"].get(" - ".join(pair))), gain(t)) for pair in CLAIMED)
            cell = f"{label}: {task}, {METRIC_LABELS[t['metric']]}, n\u00a0=\u00a0{t['n']:,}"
            rows.append((cell, best, *alone, neither, *gains))
    if not rows:
        return nothing(title)
    columns = ("Cell: task", "majority", "S, Xent", "L", "neither right",
               *(f"AUDC, {pair_name(*pair)}" for pair in CLAIMED))  # fmt: skip
    what = "Quality and differences in points of the task's metric."
    return Table(columns, rows, title, note_on(found, what, "test items of all tasks that decide"))


def majority_text(cells) -> str:
    """In words: on how many tasks of each cell S and L are better than the most frequent answer, by their intervals.

    Tasks with options of their own in every row, where no answer is frequent (`FREQUENT`), are named and left out.
    """
    said, found = [], numbers(cells)
    for label, m in zip(labels(found), found):
        known = {task: t for task, t in m["tasks"].items() if not isinstance(value(t["majority"]), Undefined)}
        tasks = {task: t for task, t in known.items() if t["majority"] >= FREQUENT}
        left = {
            which: {task for task, t in tasks.items() if t[f"{which}_alone"]["low"] > t["majority"]}
            for which in ("small", "large")
        }
        if tasks:
            stuck = [task for task in tasks if task not in left["small"] | left["large"]]
            rare = [task for task in known if task not in tasks]
            said.append(
                f"{label}: S is better than always giving the most frequent answer on {len(left['small'])} of "
                f"{len(tasks)} tasks, L on {len(left['large'])}"
                + (f"; neither of them on {', '.join(stuck)}" if stuck else "")
                + (f" (left out, as no answer is frequent: {', '.join(rare)})" if rare else "")
            )
    return "; ".join(said) + "." if said else "no recorded cell has several tasks with options."


def headroom_text(cells) -> str:
    """In words: by how much L alone is better than S alone in every cell, and where that is not shown."""
    said, none, found = [], [], numbers(cells)
    for label, m in zip(labels(found), found):
        room = value(next(iter(m["methods"].values())).get("headroom"))
        said.append(f"{label} {show_number(room, gain(m))}")
        if not (isinstance(room, Interval) and room.low > 0):
            none.append(label)
    if not said:
        return "L alone less S alone: nothing is recorded yet."
    shown = "In all of them L is better." if not none else (
        f"In {', '.join(none)} L is not shown to be better than S, so whoever had these two models would not build a "
        "cascade of them: what is measured there is how well two models of one quality complement each other."
    )  # fmt: skip
    return f"L alone less S alone (by {name(next(iter(found[0]['methods'])))}), points: {', '.join(said)}. {shown}"


def corpus_table(cells: Iterable[Cell]) -> Table:
    """Recorded translations by every corpus metric, with sacrebleu's signatures: S and L alone, differences of AUDC."""
    title, rows, found, signatures = "Translations by every metric, in points", [], [], {}
    for label, cell in zip(labels(numbers(cells)), cells):
        whole = cell.metrics()
        for m in (whole, *whole["other_metrics"].values()) if whole["other_metrics"] else ():
            first, unit = next(iter(m["methods"])), Unit(scale(m), 1)
            c = cell.comparison()
            metric = METRIC_LABELS[m["metric"]]
            by_it = c if c.metric == m["metric"] else c.with_metric(m["metric"])
            signatures[metric] = by_it.seed_curve(first, by_it.seeds[0]).signature
            alone = [show_number(value(v), unit) for v in (m["methods"][first]["small_alone"], m["large_alone"])]
            gains = (show_number(difference(m, *pair), gain(m)) for pair in CLAIMED)
            rows.append((label, metric, *alone, *gains))
            found.append(whole)
    if not rows:
        return nothing(title)
    columns = ("Cell", "Metric", "S alone", "L alone", *(f"AUDC, {pair_name(*pair)}" for pair in CLAIMED))
    said = ". ".join(f"{metric}: {signature}" for metric, signature in signatures.items())
    return Table(columns, rows, title, note_on(found, f"BLEU decides; chrF is secondary. {said}."))
