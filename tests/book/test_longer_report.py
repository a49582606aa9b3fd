"""Longer training: settings found by their configuration, the rule's words, and what the figure is drawn from."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cat_book.pages import longer_report
from small_cells import Made
from small_tables import rows_of

from cat_core.ranking import Interval

CONFIG = {"suite": "s", "small": "hidden 8", "large_seeds": [1, 2, 3]}


def cell(folder, name, steps, rights, methods=("xent", "cat-xent"), seeds=(1, 2, 3)):
    """A cell whose S is right on so many of 100 test items, by method."""
    draw, parts = np.random.default_rng(steps), []
    for split in ("calibration", "test"):
        for seed in seeds:
            parts.append(rows_of("large", seed, split, np.arange(100) < 80, flops=100))
            for method in methods:
                right = np.arange(100) < rights[method] + seed
                parts.append(rows_of(method, seed, split, right, draw.normal(size=100), flops=10))
    config = CONFIG | {"steps": steps, "seeds": list(seeds), "methods": list(methods)}
    made = Made("longer", name, config, folder, False, frame=pd.concat(parts, ignore_index=True), resamples=60)
    log = [{"step": s, "both": 0.4, "only_small": 0.1 + s / 1000} for s in (10, 20)]
    vars(made)["training"] = {"logs": {f"{m} {s}": {k: [row[k] for row in log] for k in log[0]}
                                       for m in methods for s in seeds}}  # fmt: skip
    return made


@pytest.fixture
def cells(tmp_path, monkeypatch):
    def comparison(self, **options):
        return longer_report.Comparison(self.frame, {s: s for s in self.seeds}, **{"resamples": 60} | options)

    monkeypatch.setattr(Made, "comparison", comparison)
    monkeypatch.setattr(Made, "kept", lambda self: {})
    monkeypatch.setattr(Made, "metrics", lambda self: SimpleNamespace(
        n=100, seeds=self.seeds, large_models=3, device="d", commit="c" * 10, study="longer"))  # fmt: skip
    base = cell(tmp_path, "base", 100, {"xent": 40, "cat-xent": 60}, seeds=(1, 2, 3, 4))
    other = cell(tmp_path, "other", 100, {"xent": 1, "cat-xent": 2})
    other = replace(other, config=other.config | {"suite": "t"})
    longer = [cell(tmp_path, f"x{k}", 100 * k, {"xent": 40 + 9 * (k - 1), "cat-xent": 60 + k}) for k in (4, 2)]
    return longer, [other, base]


def test_settings_are_found_by_what_they_have_in_common(cells):
    found = longer_report.lengths(*cells)
    assert list(found) == ["base"]
    assert [(s.times, s.steps) for s in found["base"]] == [(1, 100), (2, 200), (4, 400)]
    assert found["base"][0].c.seeds == (1, 2, 3)  # of the four that the reference was recorded with
    assert found["base"][0].difference(("cat-xent", "xent")).estimate == pytest.approx(0.2)
    steps, shares = found["base"][-1].right("xent")
    assert steps.tolist() == [10, 20] and shares == pytest.approx([0.51, 0.52])
    assert longer_report.lengths(cells[0], cells[1][:1]) == {}


@pytest.mark.parametrize(("once", "last", "expected"), [
    ((4, 2, 6), (0.5, -0.5, 1.5), "learns faster"), ((4, 2, 6), (3, 1, 5), "ends better"),
    ((4, 2, 6), (1, 0.5, 1.5), "learns faster and ends better"), ((4, -1, 9), (1, -1, 3), "open"),
    ((4, 2, 6), (2, -1, 5), "open"),
])  # fmt: skip
def test_the_rule_of_the_study(once, last, expected):
    rows = [SimpleNamespace(difference=lambda pair, x=x: Interval(*x)) for x in (once, last)]
    assert longer_report.word(rows, ("cat-xent", "xent")) == expected


def test_table_figure_and_sentence(cells):
    found = longer_report.lengths(*cells)
    shown = longer_report.longer_table(found)
    assert list(shown.columns[1:4]) == ["1× the steps", "2× the steps", "4× the steps"]
    assert len(shown.rows) == 1 and shown.rows[0][0] == "base, CAT-Xent − Xent" and "+20.00" in shown.rows[0][1]
    assert longer_report.longer_words(found).startswith("CAT-Xent − Xent on base: ")
    assert "400 steps" in longer_report.longer_figure(found, "Figure 1").alt
    assert longer_report.longer_words({}) == "nothing is recorded yet"
    assert longer_report.longer_figure({}).rows[0][0] == longer_report.longer_table({}).rows[0][0] == "none"
