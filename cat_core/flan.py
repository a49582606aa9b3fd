"""A mixture of many tasks: which of them were learnt at all, and its tables and figures, task by task.

The mixture itself is made by `tasks.load_suite` (`draws.mix`) or `mini_flan`; here a `Comparison` of it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cat_core import figures, forest
from cat_core.claims import MARGIN, NO_DIFFERENCE, ClaimRow
from cat_core.comparison import Comparison
from cat_core.evidence import majority, of_tasks
from cat_core.evidence_report import nothing
from cat_core.ranking import Interval
from cat_core.report import gain_unit, intervals, quality_unit
from cat_core.tables import PERCENT, Table, Undefined, Unit, show_number
from cat_core.tasks import BUILT_IN
from cat_core.training_report import Setting, name

PAIR = ("cat-dist", "dist")


def suite_of(experiment, cell=None):
    """The suite of an experiment; None for a recorded cell whose data are not built in, as they may not be there."""
    return None if cell is not None and cell.config["suite"] not in BUILT_IN else experiment.data.load()


def by_metric(c: Comparison) -> tuple[Comparison | None, Comparison | None]:
    """The comparison on the tasks scored by accuracy and on those scored by exact match; None where there are none."""
    metric = dict(zip(c.frame["task"], c.frame["metric"]))
    chosen, written = ([t for t in c.tasks if metric[t] == m] for m in ("accuracy", "exact_match"))
    return tuple(of_tasks(c, tasks) if tasks else None for tasks in (chosen, written))


# ---------------------------------------------------------------- was it learnt?


def learnt(c: Comparison, suite=None) -> dict[str, dict]:
    """By task: "n", "metric", S (first method) and L alone, "majority" and "guessing", and "small_left", "large_left".

    guessing: accuracy of choosing among the options blindly, mean over the test items; it needs the suite. left:
    whether the whole interval lies above the larger of the two; Undefined where neither is known.
    """
    found = {}
    for task in c.tasks:
        part, free = c.of_task(task), Undefined("free text")
        row = {"n": part.n, "metric": str(part.frame["metric"].iloc[0]), "majority": free, "guessing": free}
        row |= {"small": part.alone(c.methods[0]), "large": part.large_alone()}
        if row["metric"] == "accuracy":
            row |= {"majority": majority(part), "guessing": _guessing(suite, task)}
        known = [x for x in (row["majority"], row["guessing"]) if not isinstance(x, Undefined)]
        for which in ("small", "large"):
            left = bool(row[which].low > max(known)) if known else Undefined("nothing to leave")
            row[f"{which}_left"] = left
        found[task] = row
    return found


def _guessing(suite, task: str) -> float | Undefined:
    if suite is None:
        return Undefined("the options are not in the table")
    return float(np.mean([1 / len(e.options) for e in suite.split("test") if e.task == task]))


def learnt_table(c: Comparison, suite=None) -> Table:
    """Each task's majority class and blind guessing beside S and L on their own."""
    rows, points = [], Unit(100.0, 1)
    for task, r in learnt(c, suite).items():
        floor = ("–" if isinstance(r[k], Undefined) else show_number(r[k], points) for k in ("majority", "guessing"))
        cells = []
        for which in ("small", "large"):
            left = r[f"{which}_left"]
            cells += [show_number(r[which], quality_unit(c)), "–" if isinstance(left, Undefined) else _SAID[left]]
        rows.append((task, r["n"], r["metric"], *floor, *cells))
    columns = ("Task", "n", "Metric", "majority (%)", "guessing (%)", f"S, {name(c.methods[0])} (%)", "S has left both",
               "L (%)", "L has left both")  # fmt: skip
    title = "Has it been learnt? Each model beside the most frequent answer and beside guessing, test items"
    return Table(columns, rows, title, intervals(c))


_SAID = {True: "yes", False: "no"}


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


def tasks_figure(c: Comparison, setting: Setting, number: str, pair: tuple[str, str] = PAIR):
    """Difference of AUDC of a pair: one row a task, and the pooled one."""
    if not set(pair) <= set(c.methods):
        return nothing(f"{name(pair[0])} − {name(pair[1])} task by task")
    found = {task: c.of_task(task).difference(*pair) for task in c.tasks} | {"pooled": c.difference(*pair)}
    rows, said = [], []
    for task, d in found.items():
        points = (c.scale * x for x in (d.estimate, d.low, d.high))
        rows.append(forest.Row(task, *points, method=pair[0] if task == "pooled" else pair[1]))
        said.append(f"{task}: {show_number(d, gain_unit(c))}".replace("\u00a0", " "))
    fig = forest.forest_figure({"": rows}, x_label=f"{name(pair[0])} − {name(pair[1])}: AUDC, points")
    text = (
        f"{number}: difference of AUDC between {name(pair[0])} and {name(pair[1])}, task by task and pooled, with "
        f"{100 * c.level:g} % intervals ({c.resamples:,} paired resamples of {c.levels})"
    )
    return figures.show(fig, f"Forest plot. {'; '.join(said)}.", setting.caption(text, c.n, c.seeds))


# ---------------------------------------------------------------- no difference


def equivalence_figure(rows: Sequence[ClaimRow], c: Comparison | None, setting: Setting, number: str):
    """The intervals of C4's pairs with the margin of equivalence."""
    known = [r for r in rows if isinstance(r.number, Interval)]
    if not known or c is None:
        return nothing("Generative tasks: differences between all pairs of methods")
    marks, said = [], []
    for r in known:
        pair = r.measure.rpartition(", ")[2]
        points = (r.unit.scale * x for x in (r.number.estimate, r.number.low, r.number.high))
        marks.append(forest.Row(pair, *points, method="dist"))
        said.append(f"{pair}: {show_number(r.number, r.unit)}, {r.verdict}".replace("\u00a0", " "))
    fig = forest.forest_figure({"": marks}, x_label="Difference of AUDC, points of exact match")
    for ax in fig.axes:
        for side in (-MARGIN, MARGIN):
            ax.axvline(side, color="#595959", linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
    text = (
        f"{number}: generative tasks, all pairs of the four methods, with {100 * c.level:g} % intervals "
        f"({c.resamples:,} paired resamples of {c.levels}); dotted: the margin of ±{MARGIN:g} points"
    )
    return figures.show(fig, f"Forest plot. {'; '.join(said)}.", setting.caption(text, c.n, c.seeds))


def equivalence_text(rows: Sequence[ClaimRow], c: Comparison | None) -> str:
    """C4 in one sentence, with how much S gets right there: where it is nothing, all methods are alike."""
    known = [r for r in rows if isinstance(r.number, Interval)]
    if not known or c is None:
        return "there is no generative task that all four methods answered."
    within = sum(r.verdict.startswith(NO_DIFFERENCE) for r in known)
    alone = ", ".join(f"{name(m)} {show_number(c.alone(m).estimate, PERCENT)}" for m in c.methods[:4])
    return (
        f"{within} of {len(known)} pairs of methods have their interval within ±{MARGIN:g} points, where S alone gets "
        f"right: {alone}."
    )
