"""EdgeInference trained together with S (method edge-joint), laid beside the cells that it is paired with.

Its cells are recorded in a study of their own (`study.Cell.beside`); a cell without one beside it is said to be not
recorded. All numbers are those of the metrics (`evidence.joint_contrasts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cat_core import figures, forest
from cat_core.evidence_report import caption, gain, nothing, numbers, scale, value
from cat_core.ranking import Interval
from cat_core.rules_report import NOT_RUN
from cat_core.study import Cell
from cat_core.tables import Table, show_number
from cat_core.training_report import name

JOINT, ROUTER = "edge-joint", "joint_router"
PARTS = {
    "whole": "CAT-Dist, Chow-Average \u2212 joint, its router (C7)",
    "training": "training, both Chow-Average",
    "rule": "rule, both joint: Chow-Average \u2212 its router",
    "post hoc": "joint, its router \u2212 Xent, EdgeInference",
}


def beside(cells: Sequence[Cell], others: Sequence[Cell]) -> dict[str, Cell]:
    """{name of a cell: the recorded cell of `others` that stands beside it}; cells without one are left out."""
    by_place = {other.beside: other for other in others}
    return {cell.name: by_place[cell.place] for cell in cells if cell.place in by_place}


def with_joint(cell: Cell, found: Mapping[str, Cell]) -> dict:
    """The metrics of a cell with edge-joint as one more training method; found: `beside`.

    As they are where nothing stands beside it, or on other tasks.
    """
    m, other = cell.metrics(), found.get(cell.name)
    if other is None or list((theirs := other.metrics())["tasks"]) != list(m["tasks"]):
        return m
    grid, joint = m["rule_grid"], theirs["rule_grid"]
    lacking = dict.fromkeys(set(joint["rules"]) - set(grid["rules"]), {"reason": "it has no such router"})
    return m | {
        "methods": m["methods"] | {JOINT: theirs["methods"][JOINT]},
        "rule_grid": grid | {
            "rules": [*grid["rules"], *(rule for rule in joint["rules"] if rule not in grid["rules"])],
            "over_random": {k: v | lacking for k, v in grid["over_random"].items()} | joint["over_random"],
            **{part: grid[part] | joint[part] for part in ("best_on_calibration", "regret")},
        },
    }  # fmt: skip


def joint_table(cells: Sequence[Cell], found: Mapping[str, Cell]) -> Table:
    """A row a cell with one beside it: C7 against the joint router, its parts, and the joint router against one fitted
    afterwards."""
    title, rows = f"C7 against {name(JOINT)}: the router trained together with S", []
    for cell in (cell for cell in cells if cell.name in found):
        joint = found[cell.name].metrics().get("joint", {})
        shown = [show_number(value(joint[k]) if k in joint else NOT_RUN, gain(cell.metrics())) for k in PARTS]
        rows.append((cell.name, *shown))
    if not rows:
        return nothing(title)
    note = (
        "AUDC on test items, points of the metric, paired over seeds and items across the two cells. The column of C7 "
        "is the sum of the next two, exactly. Last column: is a router that is trained with S better than one that is "
        "fitted to Xent's S afterwards? [ ]: 95 % intervals."
    )
    return Table(("Cell", *PARTS.values()), rows, title, caption(note, numbers(found.values())))


def joint_figure(cells: Sequence[Cell], found: Mapping[str, Cell], number: str = "") -> figures.Shown | Table:
    """The table's intervals as marks, one panel a cell that has a recorded one beside it."""
    panels, said = {}, []
    for cell in (c for c in cells if c.name in found):
        m, joint = cell.metrics(), found[cell.name].metrics().get("joint", {})
        parts = {words: value(joint.get(k)) for k, words in PARTS.items()}
        known = {words: x for words, x in parts.items() if isinstance(x, Interval)}
        if known:
            panels[cell.name] = [
                forest.Row(words, *(scale(m) * end for end in (x.estimate, x.low, x.high)), method=JOINT)
                for words, x in known.items()
            ]
            said.append(f"{cell.name}: " + "; ".join(f"{w} {show_number(x, gain(m))}" for w, x in known.items()))
    if not panels:
        return Table(("Cell", ""), [("none", "not recorded")], f"CAT-Dist against {name(JOINT)}")
    fig = forest.forest_figure(panels, x_label="Difference of AUDC (points)")
    text = (
        f"{number}: CAT-Dist against {name(JOINT)}, and what the training and the rule have of it; 95 % intervals, "
        "paired across the cells"
    ).removeprefix(": ")
    alt = f"Forest plot. {'. '.join(said)}.".replace("\u00a0", " ")
    return figures.show(fig, alt, caption(text, numbers(found.values())))


def joint_words(cells: Sequence[Cell], found: Mapping[str, Cell]) -> str:
    """In how many cells CAT-Dist beats the joint router, in one sentence."""
    wholes = [value(other.metrics().get("joint", {}).get("whole")) for other in found.values()]
    known = [x for x in wholes if isinstance(x, Interval)]
    if not known:
        return f"{name(JOINT)}: not recorded beside any of {len(cells)} cells"
    better, worse = sum(x.low > 0 for x in known), sum(x.high < 0 for x in known)
    return (
        f"{name(JOINT)}, recorded beside {len(known)} of {len(cells)} cells: CAT-Dist with Chow-Average is better in "
        f"{better} of them and worse in {worse}, by intervals that exclude 0"
    )
