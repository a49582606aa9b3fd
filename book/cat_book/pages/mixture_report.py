"""A mixture of many tasks: which of them were learnt at all, and its tables and figures, task by task.

The mixture itself is made by `suite.load_suite` (`draws.mix`) or `mini_flan`; here a `Comparison` of it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cat_book.drawing.tables import Table
from cat_book.pages.pieces import PRIMARY, forest_row, forest_shown, nothing, pair_name
from cat_book.pages.results import Provenance
from cat_book.pages.suite_report import intervals, quality_unit
from cat_core.analysis.claims import MARGIN, SUPPORTED, ClaimRow
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import PERCENT, Undefined, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.cell_claims import majority, of_tasks


def by_metric(c: Comparison) -> tuple[Comparison | None, Comparison | None]:
    """The comparison on the tasks scored by accuracy and on the others; None where there are none."""
    metric = dict(zip(c.frame["task"], c.frame["metric"]))
    chosen, written = ([t for t in c.tasks if (metric[t] == "accuracy") == yes] for yes in (True, False))
    return tuple(of_tasks(c, tasks) if tasks else None for tasks in (chosen, written))


# ---------------------------------------------------------------- was it learnt?


def learnt(c: Comparison, suite=None) -> dict[str, dict]:
    """By task: "n", "metric", S (first method) and L alone, "majority" and "guessing", and "small_left", "large_left".

    guessing: accuracy of choosing among the options blindly, mean over the test items; it needs the suite. left:
    whether the whole interval lies above the larger of the two; Undefined where neither is known.
    """
    rows = {}
    for task in c.tasks:
        part, free = c.of_task(task), Undefined("free text")
        row = {"n": part.n, "metric": str(part.frame["metric"].iloc[0]), "majority": free, "guessing": free}
        row |= {"small": part.alone(c.methods[0]), "large": part.large_alone()}
        if row["metric"] == "accuracy":
            row |= {"majority": majority(part), "guessing": Undefined("the options are not in the table")}
            if suite is not None:
                blind = [1 / len(e.options) for e in suite.split("test") if e.task == task]
                row["guessing"] = float(np.mean(blind))
        known = [x for x in (row["majority"], row["guessing"]) if not isinstance(x, Undefined)]
        for which in ("small", "large"):
            left = bool(row[which].low > max(known)) if known else Undefined("nothing to leave")
            row[f"{which}_left"] = left
        rows[task] = row
    return rows


def learnt_table(c: Comparison, suite=None) -> Table:
    """Each task's majority class and blind guessing beside S and L on their own."""
    rows, points = [], Unit(100.0, 1)
    for task, r in learnt(c, suite).items():
        floor = ("–" if isinstance(r[k], Undefined) else show_number(r[k], points) for k in ("majority", "guessing"))
        left = ({True: "yes", False: "no"}.get(r[k], "–") for k in ("small_left", "large_left"))
        small, large = (show_number(r[k], quality_unit(c)) for k in ("small", "large"))
        rows.append((task, r["n"], r["metric"], *floor, small, next(left), large, next(left)))
    columns = ("Task", "n", "Metric", "majority (%)", "guessing (%)", f"S, {name(c.methods[0])} (%)", "S has left both",
               "L (%)", "L has left both")  # fmt: skip
    title = "Has it been learnt? Each model beside the most frequent answer and beside guessing, test items"
    return Table(columns, rows, title, intervals(c))


def learnt_text(c: Comparison, suite=None) -> str:
    """The same in one sentence."""
    rows = [r for r in learnt(c, suite).values() if not isinstance(r["small_left"], Undefined)]
    if not rows:
        return "Of no task here is it known what can be had without learning."
    small, large = (sum(r[f"{which}_left"] for r in rows) for which in ("small", "large"))
    first = name(c.methods[0])
    return (
        f"Of {len(rows)} tasks with options, S by {first} is better than the most frequent answer and than guessing on "
        f"{small}, and L on {large}."
    )


# ---------------------------------------------------------------- task by task


def tasks_figure(c: Comparison, origin: Provenance, number: str, pair: tuple[str, str] = PRIMARY):
    """Difference of AUDC of a pair: one row a task, and the pooled one."""
    if not set(pair) <= set(c.methods):
        return nothing(f"{pair_name(*pair)} task by task")
    differences = {task: c.of_task(task).difference(*pair) for task in c.tasks} | {"pooled": c.difference(*pair)}
    rows = [forest_row(task, d, c.scale, pair[task != "pooled"]) for task, d in differences.items()]
    notes = [f"{task}: {show_number(d, c.gain)}" for task, d in differences.items()]
    text = (
        f"{number}: difference of AUDC between {name(pair[0])} and {name(pair[1])}, task by task and pooled, with "
        f"{_drawn(c)}"
    )
    return forest_shown("", {"": rows}, notes, f"{pair_name(*pair)}: AUDC, points", origin.caption(text, c.n, c.seeds))


def _drawn(c: Comparison) -> str:
    return f"{100 * c.level:g} % intervals ({c.resamples:,} paired resamples of {c.levels})"


# ---------------------------------------------------------------- no difference


def equivalence_figure(rows: Sequence[ClaimRow], c: Comparison | None, origin: Provenance, number: str):
    """The intervals of C4's pairs with the margin of equivalence."""
    known = {r.measure.rpartition(", ")[2]: r for r in rows if isinstance(r.number, Interval)}
    if not known or c is None:
        return nothing("Generative tasks: differences between all pairs of methods")
    marks = [forest_row(pair, r.number, r.scale, "dist") for pair, r in known.items()]
    notes = [f"{pair}: {show_number(r.number, r.unit)}, {r.verdict}" for pair, r in known.items()]
    text = (
        f"{number}: generative tasks, all pairs of the four methods, with {_drawn(c)}; dotted: the margin of "
        f"±{MARGIN:g} points"
    )
    label, text = "Difference of AUDC, points of exact match", origin.caption(text, c.n, c.seeds)
    return forest_shown("", {"": marks}, notes, label, text, margin=MARGIN)


def equivalence_text(rows: Sequence[ClaimRow], c: Comparison | None) -> str:
    """C4 in one sentence, with how much S gets right there: where it is nothing, all methods are alike."""
    known = [r for r in rows if isinstance(r.number, Interval)]
    if not known or c is None:
        return "there is no generative task that all four methods answered."
    within = sum(r.verdict.startswith(SUPPORTED) for r in known)
    alone = ", ".join(f"{name(m)} {show_number(c.alone(m).estimate, PERCENT)}" for m in c.methods[:4])
    return (
        f"{within} of {len(known)} pairs of methods have their interval within ±{MARGIN:g} points, where S alone gets "
        f"right: {alone}."
    )
