"""Tables and figures of recorded cells show the numbers of the metrics, name what is missing, and make up nothing."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from cat_book.drawing.figures import Shown
from cat_book.pages import study_report as shown
from cat_book.pages.results import Provenance
from small_metrics import COMMIT, interval, metrics
from small_study import STUDY, project

from cat_core.analysis.decomposition import RuleGrid
from cat_core.analysis.metrics import MaskDifferences
from cat_core.analysis.quantities import Undefined, plain
from cat_core.files import file_sha256
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import load_study

TWO = [metrics(), metrics("mini-wmt", "bleu", n=1000)]
RESTS = "3 seeds of S over 2 of L; device: H100; commit 0123456789; study tiny."


def rows(table):
    return {tuple(row[:2]): row for row in table.rows}


def test_primary_table_is_in_points_and_says_what_it_rests_on():
    table = shown.primary_table(TWO)
    found = rows(table)
    assert len(found) == 6
    assert found["mini-low", "CAT-Dist − Dist"][2:] == [
        "+2.00 [+1.50,\u00a0+2.50]", "1,500; 3 over 2", "H100, 0123456789",
    ]  # fmt: skip
    assert found["mini-wmt", "CAT-Xent − Xent"][2] == "−2.00 [−2.50,\u00a0−1.50]"
    assert "95 % intervals, 1,234 paired resamples" in table.note and table.note.endswith(
        f"n = 1,500 / 1,000 test items; {RESTS}"
    )
    two_studies = shown.primary_table([metrics(), metrics(study="real")])
    assert {row[0] for row in two_studies.rows} == {"tiny/mini-low", "real/mini-low"}


def test_primary_text():
    text = shown.primary_text(TWO)
    assert text.startswith("CAT-Dist − Dist in AUDC, points: mini-low +2.00 [+1.50,\u00a0+2.50], mini-wmt +2.00")
    assert shown.primary_text([]) == "CAT-Dist − Dist in AUDC, points: nothing is recorded yet."


def test_decomposition():
    found = rows(shown.decomposition_table(TWO))
    shown_parts = [text.split(" ")[0] for text in found["mini-wmt", "CAT-Dist − Dist"][2:]]
    assert shown_parts == ["+3.00", "−1.00", "+2.50", "+1.50"]
    figure = shown.decomposition_figure(TWO, number="Figure 9")
    assert figure.caption.startswith("Figure 9: where the difference CAT-Dist − Dist")
    assert "mini-low: difference +3.00 [+2.90, +3.10], S alone −1.00" in figure.alt


def test_seeds_figure_shows_every_seed(monkeypatch):
    drawn = {}
    monkeypatch.setattr(shown.forest, "forest_figure", lambda panels, **k: drawn.update(panels) or Figure())
    monkeypatch.setattr(shown.figures, "show", lambda fig, alt, text: (alt, text))
    from matplotlib.figure import Figure

    one = metrics(audc_by_seed={"cat-dist": [0.5, 0.6, 0.7], "dist": [0.52, 0.57, 0.62]})
    alt, text = shown.seeds_figure([one, TWO[1]])
    ((title, found),) = drawn.items()
    assert title == "CAT-Dist − Dist" and [row.label for row in found] == ["mini-low", "mini-wmt"]
    assert found[0].dots == pytest.approx((-2, 3, 8))
    assert (found[0].estimate, found[0].low, found[0].high) == pytest.approx((2, 1.5, 2.5))
    assert "single seeds from −2.00 to +8.00, 1 of 3 on the other side of 0 than their mean" in alt
    assert "1 of 6 single seeds lie on the other side of 0" in text and text.endswith(RESTS)


def test_tokens_and_masks():
    row = shown.tokens_table(TWO[0]).rows[0]
    assert row[:4] == ["Xent", "70.0\u00a0%", "61.0\u00a0%", "55.0\u00a0%"]
    assert row[4:] == ["0.032 ±0.004", "1.50", "1.25", "2.50", "2.50"]
    found = {row[0]: row for row in shown.masks_table(TWO[0]).rows}
    assert set(found) == {"Dist", "CAT-Dist", "Random mask", "L-right mask"}
    assert found["L-right mask"][2] == "60.0 [59.0,\u00a061.0]"
    assert found["L-right mask"][3].startswith("+7.00") and found["CAT-Dist"][3].startswith("+2.00")
    assert found["CAT-Dist"][4].startswith("−1.00") and found["CAT-Dist"][5].startswith("−3.00")
    assert found["Dist"][3] == found["Random mask"][4] == "–"
    assert found["L-right mask"][4] == "– (not in the recorded metrics)", "no interval is made up"
    old = replace(TWO[0], masks=MaskDifferences())
    assert "not in the recorded metrics" in repr(shown.masks_table(old))


def test_where_the_confidence_ranks_better_or_worse_than_chance():
    good, bad, open_ = interval(0.02), interval(-0.02), interval(0.001, 0.01)
    grids = [{"xent": good, "dist": bad}, {"xent": open_, "dist": good}]
    two = [replace(m, rule_grid=RuleGrid(over_random={k: {"chow_average": x} for k, x in grid.items()}))
           for m, grid in zip(TWO, grids)]  # fmt: skip
    said = shown.ranking_text(two)
    assert said.startswith("In 2 of 4 recorded cells and training methods")
    assert "It is worse in mini-low after Dist −2.00 [" in said
    assert shown.ranking_text(two[1:]).endswith("It is worse in none.")
    assert shown.ranking_text([]).startswith("No recorded cell")


def test_cells():
    low, wmt = shown.cells_table(TWO).rows
    assert (low[0], wmt[0]) == ("mini-low: Accuracy, n\u00a0=\u00a01,500", "mini-wmt: BLEU, n\u00a0=\u00a01,000")
    assert low[1] == "50.0 [49.0,\u00a051.0]" and wmt[2] == "90.0 [89.0,\u00a091.0]"
    assert low[3:] == ["30.0\u00a0%", "30.0\u00a0%", "70.0\u00a0%"]
    assert shown.cells_table(TWO, "One is missing.").note.startswith("One is missing. S trained by Xent")
    assert shown.cells_table([], "All are missing.").note == "All are missing."
    other = replace(TWO[1], methods=dict(reversed(TWO[1].methods.items())))  # a cell that begins with another method
    last = list(other.methods)[0]
    said = f"S trained by Xent in mini-low; by {name(last)} in mini-wmt. "
    assert said in shown.cells_table([TWO[0], other]).note


def test_mass_points_hold_cells_and_tasks():
    points = shown.mass_points([metrics(tasks=("a", "b")), TWO[1]])
    assert [(p["cell"], p["task"]) for p in points if p["pair"] == ("cat-dist", "dist")] == [
        ("mini-low", ""), ("mini-low", "a"), ("mini-low", "b"), ("mini-wmt", ""),
    ]  # fmt: skip
    whole, task = points[0], points[1]
    assert whole["mass"] == 0.3 and task["mass"] == 0.1
    assert whole["difference"].estimate == pytest.approx(2) and task["difference"].high == pytest.approx(6)
    figure = shown.mass_figure([metrics(tasks=("a", "b")), TWO[1]], "Figure 2")
    assert figure.caption.startswith("Figure 2: size (above)")
    assert "mini-low a, CAT-Xent − Xent: share 10.0 %" in figure.alt


@pytest.mark.parametrize("function", [
    shown.primary_table, shown.seeds_figure, shown.decomposition_table, shown.decomposition_figure, shown.cells_table,
    shown.mass_figure,
])  # fmt: skip
def test_nothing_recorded_is_said(function):
    assert "nothing is recorded yet" in repr(function([]))
    got = function(TWO)
    assert RESTS in (got.caption if isinstance(got, Shown) else got.note)
    assert "nan" not in got._repr_html_().split("base64")[0].lower()


def test_numbers_of_metrics_are_read_as_they_are():
    for number in (Interval(1.0, 0.5, 2.0), Undefined("no S"), 0.25):
        assert metrics(large_alone=number).large_alone == number
    assert isinstance(metrics().methods["xent"].headroom, Undefined), "what is not recorded has a reason"


# ---------------------------------------------------------------- studies on disk


def record(cell, found):
    """Write a cell's files as if it had been trained."""
    for path, content in ((cell.outcomes_path, "table"), (cell.training_path, "{}")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    path = cell.folder / "study.json"
    whole = json.loads(path.read_text()) if path.is_file() else {"study": cell.study, "cells": {}}
    files = {p.relative_to(cell.folder).as_posix(): file_sha256(p) for p in (cell.outcomes_path, cell.training_path)}
    whole["cells"][cell.name] = {
        "config": cell.config, "files": files, "git": {"commit": COMMIT, "dirty": True}, "device": "H100", "threads": 8,
        "versions": {"python": "3.12", "torch": "2.13", "transformers": "5.17", "numpy": "2"},
    }  # fmt: skip
    path.write_text(json.dumps(whole))
    if found:
        cell.metrics_path.parent.mkdir(exist_ok=True)
        found = replace(found, tables={cell.place: file_sha256(cell.outcomes_path)})
        cell.metrics_path.write_text(json.dumps({"page": cell.name, "metrics": plain(found)}))


def test_many_missing_cells_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(shown, "FEW", 1)
    found = shown.recorded("tiny", root=project(tmp_path))
    assert found.missing == "Recorded cells of tiny: 0; not recorded yet: 2 of 2 cells of study tiny."


def test_recorded_names_what_is_missing(tmp_path):
    root = project(tmp_path, text=STUDY.replace("suite: mini-wmt", "claim: C2\n    suite: mini-wmt", 1))
    assert shown.recorded("tiny", root=root) == (
        (), "Recorded cells of tiny: 0; not recorded yet: tiny/wmt, tiny/other.",
    )  # fmt: skip
    record(load_study("tiny", root).cell("wmt"), metrics("wmt"))
    record(load_study("tiny", root).cell("other"), None)
    cells, missing = shown.recorded(["tiny", "real"], "C2", root)
    assert [cell.name for cell in cells] == ["wmt"]
    assert missing == (
        "Recorded cells of tiny, real for C2: 1; not recorded yet: tiny/other, study real (there is no "
        "data/studies/real.yaml)."
    )
    assert shown.recorded(["tiny"], "C1", root) == ((), "Recorded cells of tiny for C1: 0; none is missing.")
    assert shown.primary_table(cells).rows == shown.primary_table([metrics("wmt")]).rows
    assert shown.primary_table(cells[0]).rows == shown.primary_table(cells).rows


def test_setting_is_that_of_the_recorded_run(tmp_path):
    cell = load_study("tiny", project(tmp_path)).cell("wmt")
    with pytest.raises(ValueError, match="cell 'wmt' of study 'tiny' is not recorded"):
        Provenance.of(cell)
    record(cell, None)
    found = Provenance.of(load_study("tiny", tmp_path).cell("wmt"))
    assert (found.device, found.threads, found.commit) == ("H100", 8, "0123456789+")
    assert found.versions == {"python": "3.12", "torch": "2.13", "transformers": "5.17"}
    text = found.caption("Why?", 9, [1, 2])
    assert re.search(r"device: H100; commit 0123456789\+?; study tiny, cell wmt\.$", text) and "edition" not in text


@pytest.mark.slow
def test_needs_no_torch():
    code = "import sys, cat_book.pages.study_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
