"""EdgeInference trained together with S (method edge-joint), laid beside the cells that it is paired with.

Its cells are recorded in a study of their own (`study.Cell.beside`); a cell without one beside it is said to be not
recorded. All numbers are those of the metrics (`cell_metrics.joint_contrasts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cat_book.drawing import figures
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import NOT_RUN, caption, filled, forest_row, forest_shown, numbers, tally
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import Quantity, Undefined, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

JOINT, ROUTER = "edge-joint", "joint_router"
CONTRASTS = {
    "whole": "CAT-Dist, Chow-Average \u2212 joint, its router (C7)",
    "training": "training, both Chow-Average",
    "rule": "rule, both joint: Chow-Average \u2212 its router",
    "post hoc": "joint, its router \u2212 Xent, EdgeInference",
}


def beside(cells: Sequence[Cell], others: Sequence[Cell]) -> dict[str, Cell]:
    """{name of a cell: the recorded cell of `others` that stands beside it}; cells without one are left out."""
    by_place = {other.beside: other for other in others}
    return {cell.name: by_place[cell.place] for cell in cells if cell.place in by_place}


def with_joint(cell: Cell, joint_cells: Mapping[str, Cell]) -> CellMetrics:
    """The metrics of a cell with edge-joint as one more training method; joint_cells: `beside`.

    As they are where nothing stands beside it, or on other tasks.
    """
    m, other = cell.metrics(), joint_cells.get(cell.name)
    if other is None or list((theirs := other.metrics()).tasks) != list(m.tasks):
        return m
    ours, joint = m.rule_grid, theirs.rule_grid
    lacking = dict.fromkeys(set(joint.rules) - set(ours.rules), Undefined("it has no such router"))
    grid = replace(
        ours,
        rules=tuple(dict.fromkeys((*ours.rules, *joint.rules))),
        best_on_calibration=ours.best_on_calibration | joint.best_on_calibration,
        over_random={k: v | lacking for k, v in ours.over_random.items()} | joint.over_random,
        regret=ours.regret | joint.regret,
    )
    return replace(m, methods=m.methods | {JOINT: theirs.methods[JOINT]}, rule_grid=grid)


def _parts(cell: Cell, joint_cells: Mapping[str, Cell]) -> dict[str, Quantity]:
    """What the cell that stands beside `cell` says of C7 and its parts, by `CONTRASTS`."""
    joint = joint_cells[cell.name].metrics().joint or {}
    return {words: joint.get(key, NOT_RUN) for key, words in CONTRASTS.items()}


def joint_table(cells: Sequence[Cell], joint_cells: Mapping[str, Cell]) -> Table:
    """A row a cell with one beside it: C7 against the joint router, its parts, and the joint router against one fitted
    afterwards."""
    rows = []
    for cell in (cell for cell in cells if cell.name in joint_cells):
        rows.append((cell.name, *(show_number(x, cell.metrics().gain) for x in _parts(cell, joint_cells).values())))
    note = (
        "AUDC on test items, points of the metric, paired over seeds and items across the two cells. The column of C7 "
        "is the sum of the next two, exactly. Last column: is a router that is trained with S better than one that is "
        "fitted to Xent's S afterwards? [ ]: 95 % intervals."
    )
    title = f"C7 against {name(JOINT)}: the router trained together with S"
    return filled(("Cell", *CONTRASTS.values()), rows, title, caption(note, numbers(joint_cells.values())))


def joint_figure(cells: Sequence[Cell], joint_cells: Mapping[str, Cell], number: str = "") -> figures.Shown | Table:
    """The table's intervals as marks, one panel a cell that has a recorded one beside it."""
    panels, notes = {}, []
    for cell in (c for c in cells if c.name in joint_cells):
        m, known = cell.metrics(), {k: x for k, x in _parts(cell, joint_cells).items() if isinstance(x, Interval)}
        if known:
            panels[cell.name] = [forest_row(words, x, m.scale, JOINT) for words, x in known.items()]
            notes.append(f"{cell.name}: " + "; ".join(f"{w} {show_number(x, m.gain)}" for w, x in known.items()))
    text = (
        f"CAT-Dist against {name(JOINT)}, and what the training and the rule have of it; 95 % intervals, paired across "
        "the cells"
    )
    text = caption(text, numbers(joint_cells.values()), number=number)
    what, label = f"CAT-Dist against {name(JOINT)}", "Difference of AUDC (points)"
    return forest_shown(what, panels, [". ".join(notes)], label, text)


def joint_words(cells: Sequence[Cell], joint_cells: Mapping[str, Cell]) -> str:
    """In how many cells CAT-Dist beats the joint router, in one sentence."""
    better, worse, known = tally((other.metrics().joint or {}).get("whole") for other in joint_cells.values())
    if not known:
        return f"{name(JOINT)}: not recorded beside any of {len(cells)} cells"
    return (
        f"{name(JOINT)}, recorded beside {known} of {len(cells)} cells: CAT-Dist with Chow-Average is better in "
        f"{better} of them and worse in {worse}, by intervals that exclude 0"
    )
