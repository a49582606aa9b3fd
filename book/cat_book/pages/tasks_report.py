"""Recorded cells task by task, and by every metric: what was learnt at all, and the claimed differences.

No torch is needed to read a recorded cell.
"""

from __future__ import annotations

from collections.abc import Iterable

from cat_book.drawing.tables import Table
from cat_book.pages.pieces import CLAIMED, by_label, filled, note_on, numbers, pair_name
from cat_core.analysis.comparison import METRIC_LABELS
from cat_core.analysis.quantities import NOT_THERE, PERCENT, Undefined, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

FREQUENT = 0.15  # six fixed options, the most of any task here, make the most frequent answer at least one in six


def tasks_table(cells) -> Table:
    """Recorded cells of several tasks, task by task: majority class, S and L alone, and the claimed differences."""
    title, rows, metrics = "Recorded cells, task by task", [], by_label(m for m in numbers(cells) if m.tasks)
    for label, m in metrics.items():
        for task, t in ((task, t) for task, own in m.tasks.items() for t in (own, *(own.further or {}).values())):
            unit = Unit(t.scale, 1)
            best = "–" if isinstance(t.majority, Undefined) else show_number(t.majority, unit)
            alone = (show_number(x, unit) for x in (t.small_alone, t.large_alone))
            gains = (show_number(t.differences.get(" - ".join(pair), NOT_THERE), t.gain) for pair in CLAIMED)
            cell = f"{label}: {task}, {METRIC_LABELS[t.metric]}, n\u00a0=\u00a0{t.n:,}"
            wrong = "–" if isinstance(t.answers, Undefined) else show_number(t.answers[3], PERCENT)
            rows.append((cell, best, *alone, wrong, *gains))
    columns = ("Cell: task", "majority", "S, Xent", "L", "neither right",
               *(f"AUDC, {pair_name(*pair)}" for pair in CLAIMED))  # fmt: skip
    what = "Quality and differences in points of the task's metric."
    return filled(columns, rows, title, note_on(metrics.values(), what, "test items of all tasks that decide"))


def majority_text(cells) -> str:
    """In words: on how many tasks of each cell S and L are better than the most frequent answer, by their intervals.

    Tasks with options of their own in every row, where no answer is frequent (`FREQUENT`), are named and left out.
    """
    sentences = []
    for label, m in by_label(cells).items():
        known = {task: t for task, t in m.tasks.items() if not isinstance(t.majority, Undefined)}
        tasks = {task: t for task, t in known.items() if t.majority >= FREQUENT}
        small = {task for task, t in tasks.items() if t.small_alone.low > t.majority}
        large = {task for task, t in tasks.items() if t.large_alone.low > t.majority}
        if tasks:
            stuck = [task for task in tasks if task not in small | large]
            rare = [task for task in known if task not in tasks]
            sentences.append(
                f"{label}: S is better than always giving the most frequent answer on {len(small)} of {len(tasks)} "
                f"tasks, L on {len(large)}"
                + (f"; neither of them on {', '.join(stuck)}" if stuck else "")
                + (f" (left out, as no answer is frequent: {', '.join(rare)})" if rare else "")
            )
    return "; ".join(sentences) + "." if sentences else "no recorded cell has several tasks with options."


def headroom_text(cells) -> str:
    """In words: by how much L alone is better than S alone in every cell, and where that is not shown."""
    metrics = by_label(cells)
    room = {label: next(iter(m.methods.values())).headroom for label, m in metrics.items()}
    text = ", ".join(f"{label} {show_number(x, metrics[label].gain)}" for label, x in room.items())
    none = [label for label, x in room.items() if not (isinstance(x, Interval) and x.low > 0)]
    if not metrics:
        return "L alone less S alone: nothing is recorded yet."
    shown = "In all of them L is better." if not none else (
        f"In {', '.join(none)} L is not shown to be better than S, so whoever had these two models would not build a "
        "cascade of them: what is measured there is how well two models of one quality complement each other."
    )  # fmt: skip
    first = next(iter(next(iter(metrics.values())).methods))
    return f"L alone less S alone (by {name(first)}), points: {text}. {shown}"


def corpus_table(cells: Iterable[Cell]) -> Table:
    """Recorded translations by every corpus metric, with sacrebleu's signatures: S and L alone, differences of AUDC."""
    title, rows, cell_metrics, signatures = "Translations by every metric, in points", [], [], {}
    for label, cell in zip(by_label(cells), cells):
        whole = cell.metrics()
        for m in (whole, *whole.other_metrics.values()) if whole.other_metrics else ():
            first, unit = next(iter(m.methods)), Unit(m.scale, 1)
            if (metric := METRIC_LABELS[m.metric]) not in signatures:  # asked of one cell: a table is slow to open
                c = cell.comparison(methods=(first,))
                by_it = c if c.metric == m.metric else c.with_metric(m.metric)
                signatures[metric] = by_it.run(first, by_it.seeds[0]).signature
            alone = [show_number(v, unit) for v in (m.methods[first].small_alone, m.large_alone)]
            gains = (show_number(m.difference(*pair), m.gain) for pair in CLAIMED)
            rows.append((label, metric, *alone, *gains))
            cell_metrics.append(whole)
    columns = ("Cell", "Metric", "S alone", "L alone", *(f"AUDC, {pair_name(*pair)}" for pair in CLAIMED))
    text = ". ".join(f"{metric}: {signature}" for metric, signature in signatures.items() if signature)
    return filled(columns, rows, title, note_on(cell_metrics, f"BLEU decides; chrF is secondary. {text}."))
