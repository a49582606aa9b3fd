"""Rivals of the cascade on one axis: routers that look at the prompt, alone and before a cascade, S that was taught to
ask, and one model in between. All numbers are those of the metrics (`analysis.rivals`)."""

from __future__ import annotations

from collections.abc import Sequence

from cat_book.drawing import figures, forest
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import by_label, caption, filled, forest_shown, note_on, nothing
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import Undefined, Unit, show_number
from cat_core.analysis.rivals import Rival
from cat_core.methods import RULES, name, rule_name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

SAVED = Unit(100, 1, "\u00a0%", True)


def words(rival: Rival) -> str:
    """What a policy does, for readers."""
    if RULES[rival.rule].before:
        return f"{name(rival.method)}: {rule_name(rival.rule).lower()}"
    if rival.router:
        return f"{name(rival.method)}: {rule_name(rival.router).lower()}, then cascade"
    return f"{name(rival.method)}: cascade by {rule_name(rival.rule).lower()}"


def known(cells: Sequence[Cell]) -> dict[str, CellMetrics]:
    """The metrics of cells in which something was routed by the prompt."""
    return {label: m for label, m in by_label(cells).items() if isinstance(m.rivals, dict)}


def rivals_figure(cells: Sequence[Cell], number: str = "") -> figures.Shown | Table:
    """What every policy saves against Xent's cascade, a panel a cell."""
    panels, notes = {}, []
    for label, m in known(cells).items():
        rows = {words(r): (r.method, r.saving) for r in m.rivals.values() if isinstance(r.saving, Interval)}
        if rows:
            panels[label] = [forest.Row(w, *(100 * x for x in vars(s).values()), (), k) for w, (k, s) in rows.items()]
            notes += [f"{label}: " + "; ".join(f"{w} {show_number(s, SAVED)}" for w, (_, s) in rows.items())]
    what = "Routers and cascades on one axis"
    if not panels:
        return nothing(what)
    text = (
        "what a policy saves at equal quality against the cascade of Xent, on budgets from S alone to L alone; test "
        "items, 95 % intervals. A router pays S only where S answers"
    )
    text = caption(text, known(cells).values(), number=number)
    return forest_shown(what, panels, notes, "FLOPs-equivalent saving (%)", text)


def rivals_table(cells: Sequence[Cell]) -> Table:
    """Every policy's area over budgets, its saving and the power to see one of 13 %; a row a policy and cell."""
    rows, metrics = [], known(cells)
    for label, m in metrics.items():
        for rival in m.rivals.values():
            share = f"{100 * rival.share:g} %" if rival.router else ""
            power = "" if rival.power is None else f"{rival.power:.2f}"
            saving = "reference" if isinstance(rival.saving, Undefined) else show_number(rival.saving, SAVED)
            rows.append((f"{label}, {words(rival)}", show_number(rival.area, Unit(m.scale, 2)), saving, power, share))
    columns = ("Cell, policy", "mean quality over budgets", "saving against Xent's cascade", "power for 13 %",
               "sent first")  # fmt: skip
    note = (
        "Points of the metric, means over budgets from S alone to L alone. Sent first: share of the queries that a "
        "router sends to L before S answers, chosen on calibration items. Routers on n-grams cost nothing here; for "
        "those on S's state S reads every prompt."
    )
    title = "Who is asked first: cascades, routers, and both"
    return filled(columns, rows, title, note_on(list(metrics.values()), note) if metrics else "")


def rivals_words(cells: Sequence[Cell]) -> str:
    """How often a router beats Xent's cascade, and how often CAT's does, in one sentence."""
    found = [r for m in known(cells).values() for r in m.rivals.values() if isinstance(r.saving, Interval)]
    if not found:
        return "no recorded cell has routers yet"
    kinds = {
        "routers by the prompt": [r for r in found if RULES[r.rule].before],
        "routers before a cascade": [r for r in found if r.router],
        "cascades of S trained by a CAT method": [
            r for r in found if r.method.startswith("cat-") and not r.router and not RULES[r.rule].before
        ],
    }
    parts = [
        f"{kind} save in {sum(r.saving.low > 0 for r in rows)} and cost in {sum(r.saving.high < 0 for r in rows)} of "
        f"{len(rows)} cases"
        for kind, rows in kinds.items()
        if rows
    ]
    return f"against the cascade of Xent, by intervals that exclude 0, {'; '.join(parts)}"


BETWEEN = ("xent", "dist", "cat-xent", "cat-dist")


def between(cells: Sequence[Cell]) -> dict[str, CellMetrics]:
    """The metrics of cells whose S stands between S and L of the cell beside."""
    return {label: m for label, m in by_label(cells).items() if m.between}


def between_table(cells: Sequence[Cell]) -> Table:
    """One model that answers everything by itself, and cascades at its cost; a row a cascade and cell."""
    rows, metrics = [], between(cells)
    for label, m in metrics.items():
        for method, at in ((k, m.between[k]) for k in BETWEEN if k in m.between):
            where = f"{label}, cascade of S by {name(method)}"
            if isinstance(at, Undefined):
                rows.append((where, show_number(at, Unit(m.scale, 2)), "", "", ""))
                continue
            own, there = (show_number(x, Unit(m.scale, 2)) for x in (at.alone, at.cascade))
            better = show_number(at.difference, Unit(m.scale, 2, "", True))
            rows.append((where, f"{100 * at.cost:.0f} %", own, there, better))
    columns = ("Cell, cascade", "cost of one query, of L's", "one model in between", "cascade at that cost",
               "cascade less model")  # fmt: skip
    note = "Points of the metric, means over tasks. The model in between learns from labels alone, by Xent."
    return filled(columns, rows, "One model in between", note_on(list(metrics.values()), note) if metrics else "")


def between_words(cells: Sequence[Cell]) -> str:
    """How often a cascade beats one model in between, in one sentence."""
    found = {m: [] for m in BETWEEN}
    for metrics in between(cells).values():
        for method, at in metrics.between.items():
            if not isinstance(at, Undefined):
                found[method].append(at.difference)
    parts = [
        f"the cascade of {name(method)} beats one model in between at its cost in {sum(x.low > 0 for x in rows)} and "
        f"loses to it in {sum(x.high < 0 for x in rows)} of {len(rows)} cells"
        for method, rows in found.items()
        if rows
    ]
    if not parts:
        return "no recorded cell has a model in between yet"
    return f"by intervals that exclude 0, {'; '.join(parts)}"
