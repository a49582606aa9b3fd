"""EdgeInference trained with S is laid beside the cells it is paired with, and is said to be missing where it is."""

from dataclasses import replace

import pytest
from cat_book.pages import joint_report, rules_report
from small_cells import Made, made
from small_tables import table

from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined, show_number
from cat_core.ranking import Interval

JOINT = {"whole": (0.03, 0.01, 0.05), "training": (0.02, 0.0, 0.04), "rule": (0.01, -0.01, 0.03)}
METHODS = ("xent", "dist", "cat-xent", "cat-dist")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "made"
    frames = [table(METHODS, large_seeds=(3, 7), seeds=(0, 1, 2), n=40) for _ in range(2)]
    return [made(folder, name, frame) for name, frame in zip(("one", "two"), frames)]


@pytest.fixture(scope="module")
def joint(cells, tmp_path_factory) -> Made:
    """A cell beside the first one."""
    frame = table(("edge-joint", "dist"), large_seeds=(3, 7), seeds=(0, 1, 2), n=40)
    cell = made(tmp_path_factory.mktemp("runs") / "edge", "first", frame)
    m = cell.metrics()
    for part in ("over_random", "regret", "best_on_calibration"):
        del getattr(m.rule_grid, part)["dist"]
    m.rule_grid.over_random["edge-joint"]["joint_router"] = Interval(0.04, 0.02, 0.06)
    grid = replace(m.rule_grid, rules=(*m.rule_grid.rules, "joint_router"))
    found = {k: Interval(*x) for k, x in JOINT.items()} | {"post hoc": Undefined("no rule edge")}
    publish(cell.folder, "first", None, replace(m, joint=found, study="edge", claims=(), rule_grid=grid))
    return replace(cell, study="edge", beside="made/one")


def test_it_stands_beside_the_cell_that_it_names(cells, joint):
    assert joint_report.beside(cells, [joint]) == {"one": joint}
    assert joint_report.beside(cells, []) == joint_report.beside(cells, [replace(joint, beside="made/three")]) == {}


def test_the_table_has_a_row_a_cell_that_one_stands_beside(cells, joint):
    (first,) = joint_report.joint_table(cells, {"one": joint}).rows
    unit = cells[0].metrics().gain
    assert first[:4] == ["one", *(show_number(Interval(*x), unit) for x in JOINT.values())]
    assert "no rule edge" in first[4]
    assert "study edge" in joint_report.joint_table(cells, {"one": joint}).note
    assert joint_report.joint_table(cells, {}).rows[0][0] == joint_report.joint_table([], {}).rows[0][0] == "none"


def test_figure_and_words(cells, joint):
    shown = joint_report.joint_figure(cells, {"one": joint}, "Figure 9")
    assert shown.png[:4] == b"\x89PNG" and "+3.00 [+1.00, +5.00]" in shown.alt and "two" not in shown.alt
    assert shown.caption.startswith("Figure 9: ")
    assert joint_report.joint_figure(cells, {}).rows == [["none", "nothing is recorded yet"]]
    assert "better in 1 of them and worse in 0" in joint_report.joint_words(cells, {"one": joint})
    assert "not recorded beside any of 2 cells" in joint_report.joint_words(cells, {})


def test_the_grid_has_it_as_one_more_training_method(cells, joint):
    merged = joint_report.with_joint(cells[0], {"one": joint})
    shown = rules_report.grid_table(merged)
    assert shown.columns[-1] == "EdgeInference, joint" and len(shown.columns) == 6
    row = next(row for row in shown.rows if row[0] == "EdgeInference, joint")
    assert row[-1].startswith("+4.00 [+2.00") and all("no such router" in text for text in row[1:-1])
    rest = {row[0]: row[1:-1] for row in shown.rows if row[0] != "EdgeInference, joint"}
    alone = rules_report.grid_table(cells[0])
    assert rest == {row[0]: row[1:] for row in alone.rows}  # nothing else has changed
    assert "EdgeInference, joint: " in rules_report.grid_figure(merged, "Figure 1").alt
    assert joint_report.with_joint(cells[1], {"one": joint}) == cells[1].metrics()
    assert len(rules_report.choice_table([merged]).rows) == 5
