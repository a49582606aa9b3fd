"""Ablations are found by their one changed setting, paired with the reference, and measured as by hand."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from cat_book.pages import ablations_report, suite_report
from small_cells import Made
from small_tables import table, text_table

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.metrics import CellMetrics, TokenMetrics, suite_metrics
from cat_core.analysis.outcomes import drop_text
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import true_minus
from cat_core.curves import audc
from cat_core.ranking import Interval
from cat_core.studies import ablations, cell_metrics
from cat_core.studies.study import load_study

METHODS = ("xent", "dist", "cat-dist", "random-dist", "large-dist", "gatekeeper")
BASE = {"suite": "mini-wmt", "steps": 10, "methods": list(METHODS), "seeds": [0, 1, 2], "large_seeds": [3, 7]}
LEDGER = {"both": 0.4, "only_small": 0.1, "only_large": 0.3, "neither": 0.2}


@dataclass(frozen=True)
class Logged(Made):
    """A made cell with training logs and token signals."""

    ledger: dict = field(default_factory=lambda: LEDGER)

    def logs(self):
        def row(method, step):
            kept = sum(self.ledger[part] for part in ablations_report.KEPT.get(method, self.ledger))
            return {"step": step, "keep_rate": kept, **self.ledger}

        return {(m, s): [row(m, step) for step in range(20)] for m in self.config["methods"] for s in self.seeds}

    def token_signals(self, method, seed):
        shift = 0.01 * seed if "label_weight" in self.config else 0.0
        return {"large_right": 0.6, "share_right": 0.45, "ece": 0.03 - shift, "entropy": 1.5 + shift, "nll": 2.0}


def made(folder, name, config, frame):
    """A cell with the metrics that the tables read."""
    cell = Logged("made", name, config, folder, True, frame=frame)
    c = cell.comparison()
    token = TokenMetrics(share_right=0.45, entropy=1.5, confidence=0.5, nll=2.0, ece=0.03, keep_rate=0.75)
    publish(folder, name, None, CellMetrics(
        **vars(suite_metrics(c, [], 0.3, ("chow_average",))) | {"tasks": {}},
        study="made", cell=name, commit="0123456789ab", device="a machine", resamples=40,
        masks=cell_metrics.mask_differences(c), tokens=dict.fromkeys(c.methods, token),
        audc_by_seed={m: tuple(audc(c.seed_curve(m, s)) for s in c.seeds) for m in c.methods},
    ))  # fmt: skip
    return cell


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    frame = table(METHODS, large_seeds=(3, 7), seeds=(0, 1, 2), n=40)
    return made(tmp_path_factory.mktemp("runs") / "reference", "wmt", BASE, frame)


@pytest.fixture(scope="module")
def half(reference, tmp_path_factory):
    """The reference with w = 0.25: other small models with the same large ones, and only two of the seeds."""
    frame, rng = reference.frame.copy(), np.random.default_rng(5)
    small = (frame["model"] == "small").to_numpy()
    frame.loc[small, "quality"] = (rng.random(small.sum()) < 0.6).astype(float)
    frame.loc[small, "confidence_chow_average"] = rng.normal(size=small.sum())
    frame = frame[~small | (frame["method"].isin(["dist", "cat-dist"]) & (frame["seed"] < 2))].reset_index(drop=True)
    config = BASE | {"label_weight": 0.25, "methods": ["dist", "cat-dist"], "seeds": [0, 1]}
    return made(tmp_path_factory.mktemp("runs") / "made", "wmt-weight-25", config, frame)


def test_the_study_changes_one_setting_a_cell_and_nothing_else():
    cells, references = load_study("ablations").cells, load_study("reference").cells
    found = ablations.ablations(cells.values(), references.values())
    assert [a.cell.name for a in found] == list(cells)
    for a in found:
        part = a.cell.name.split("-")[0]
        assert a.reference.name == f"mini-{part}-high" and a.reference.place == a.cell.differs_from
        assert {"dist", "cat-dist"} <= set(a.methods) == set(a.cell.config["methods"])
        assert [a.cell.large_seed(s) for s in a.cell.seeds] == [a.reference.large_seed(s) for s in a.cell.seeds]
    expected = {("label_weight", 0.5, 0.25), ("label_weight", 0.5, 0.75), ("temperature", 1.0, 2.0),
                ("normalize", "tokens", "kept"), ("out_of_fold", False, True),
                ("teacher", "all", "8 tokens and a tail")}  # fmt: skip
    for part in ("superglue", "wmt"):
        mine = [a for a in found if a.cell.name.startswith(part)]
        assert {(a.setting, a.old, a.new) for a in mine} == expected
        labels = ["w = 0.25", "w = 0.75", "T = 2.0", "divided by = kept", "mask out of fold"]
        assert [a.label for a in mine] == [*labels, "kept of L = 8 tokens and a tail"]


def test_partners(reference, half):
    assert ablations.changed(half, reference) == {"label_weight": (0.5, 0.25)}
    two = replace(reference, name="two", config=BASE | {"label_weight": 0.25, "steps": 11})
    assert ablations.ablations([two], [reference]) == []
    assert ablations.ablations([half], []) == []
    with pytest.raises(ValueError, match="ablation of wmt and again"):
        ablations.ablations([half], [reference, replace(reference, name="again")])
    other = replace(half, config=half.config | {"seeds": [1, 0]})
    with pytest.raises(ValueError, match="they cannot be paired"):
        ablations.ablations([other], [reference])


def test_a_change_is_that_of_the_seed_areas(reference, half):
    (a,) = ablations.ablations([half], [reference])
    s = ablations.change(a)
    deal = {0: 3, 1: 7}
    sides = Comparison(reference.frame, deal, seeds=(0, 1), methods=("dist", "cat-dist")), half.comparison()
    area = {(m, i): np.array([audc(c.seed_curve(m, seed)) for seed in (0, 1)]) for m in ("dist", "cat-dist")
            for i, c in enumerate(sides)}  # fmt: skip
    before, after = (area["cat-dist", i] - area["dist", i] for i in (0, 1))
    np.testing.assert_allclose(s.dots, [before, after], atol=1e-12)
    assert s.before.estimate == pytest.approx(before.mean(), abs=1e-12)
    assert s.change.estimate == pytest.approx((after - before).mean(), abs=1e-12)
    assert s.by_method["dist"].estimate == pytest.approx((area["dist", 1] - area["dist", 0]).mean(), abs=1e-12)
    assert s.before.low <= s.before.estimate <= s.before.high and s.change.low < s.change.high
    assert s.small_alone["dist"][1] == pytest.approx(half.comparison().alone("dist").estimate, abs=1e-12)
    assert (s.other_large, s.n) == (0, 40)


def test_by_heart_differs_from_the_cell_that_it_names():
    (cell,) = load_study("by-heart").cells.values()
    assert ablations.changed(cell, cell.named(cell.differs_from)) == {"out_of_fold": (False, True)}


def test_the_reference_against_itself_is_zero_and_another_large_model_is_told(reference):
    same = replace(reference, name="same", config=BASE | {"normalize": "kept"})
    (a,) = ablations.ablations([same], [reference])
    s = ablations.change(a, 20)
    assert set(s.by_method) == set(METHODS) and s.change == Interval(0, 0, 0)
    assert all(moved == Interval(0, 0, 0) for moved in s.by_method.values())
    frame = reference.frame.copy()
    first = (frame["model"] == "large") & (frame["item_id"] == "t-test-000")
    frame.loc[first, "quality"] = 1 - frame.loc[first, "quality"]
    s = ablations.change(replace(a, cell=replace(same, frame=frame)), 20)
    assert s.other_large == pytest.approx(1 / 40)
    publish(reference.folder, "same", None, replace(reference.metrics(), cell="same"))
    assert "up to 2.5 % of the items" in ablations_report.shifts_table([a], {"same": s}).note


def test_a_table_with_texts_is_paired_with_one_without(tmp_path):
    config = BASE | {"methods": ["dist", "cat-dist"], "seeds": [0, 1], "large_seeds": [0]}
    old = Made("made", "bleu", config, tmp_path, True, frame=text_table())
    new = replace(old, config=config | {"temperature": 2.0}, frame=drop_text(old.frame))
    s = ablations.change(*ablations.ablations([new], [old]), 20)
    assert s.change == s.by_method["dist"] == Interval(0, 0, 0) and s.other_large == 0
    c = old.comparison()
    assert s.before.estimate == pytest.approx(c.difference("cat-dist", "dist").estimate, abs=1e-9)
    assert s.small_alone["dist"] == pytest.approx((c.alone("dist").estimate,) * 2, abs=1e-9)


def test_tables_and_figures(reference, half):
    found = ablations.ablations([half], [reference])
    shifts = {a.cell.name: ablations.change(a, 20) for a in found}
    row = ablations_report.shifts_table(found, shifts).rows[0]
    assert row[:2] == ["wmt: w = 0.25", "0.5"] and len(row) == 5
    assert [r[1] for r in ablations_report.methods_table(found, shifts).rows] == ["Dist", "CAT-Dist"]
    shown = ablations_report.shifts_figure(found, shifts, "Figure 2")
    assert shown.png[:4] == b"\x89PNG" and "reference: " in shown.alt and "w = 0.25: " in shown.alt
    assert "n = 40 test items; 2 seeds of S over 2 of L; device: a machine; commit 0123456789; study made" in (
        shown.caption
    )
    assert "of 1 changed settings" in ablations.shifts_words(shifts)


def test_masks_and_gatekeeper_are_read_from_the_metrics(reference):
    m, c = reference.metrics(), reference.comparison()
    shown = ablations_report.masks_figure([reference], "Figure 1")
    gain = m.masks.audc["large-dist - dist"].estimate
    (strip,) = shown.groups[ablations_report.name("large-dist")]
    assert strip.texts[0].startswith(f"{true_minus(f'{100 * gain:+.2f}')} [") and "; kept 75\u00a0%" in strip.texts[0]
    assert strip.bars[0].estimate == pytest.approx(100 * gain) and len(strip.dots[0]) == len(reference.seeds)
    assert shown.caption.startswith("Figure 1: what each mask does to Dist") and shown._repr_html_()
    said = ablations_report.kept_words("cat-dist"), ablations_report.kept_words("both-dist")
    assert said[0] == "Keeps the tokens with both right, only S right, only L right; drops neither right."
    assert said[1].endswith("drops only S right, only L right, neither right.")
    assert "whichever" in ablations_report.kept_words("random-dist")
    assert gain == pytest.approx(c.audc("large-dist").estimate - c.audc("dist").estimate, abs=1e-12)
    (row,) = ablations_report.gatekeeper_table([reference]).rows
    assert row[0] == "wmt" and row[3].startswith("\u2013")  # CAT-Xent was not run
    x = m.difference("gatekeeper", "xent")
    counts = f"is better than its first in {int(x.low > 0)} and worse in {int(x.high < 0)} of 1 recorded cells"
    assert counts in ablations_report.gatekeeper_text([reference])
    policies = suite_report.areas_table(reference.metrics())
    assert [r[0] for r in policies.rows] == [ablations_report.name(k) for k in METHODS] and "Always L" in policies.note


def test_changes_of_the_signals_are_paired_by_seed(reference, half):
    (a,) = ablations.ablations([half], [reference])
    rows = ablations_report.signals_table([a]).rows
    assert [row[1] for row in rows] == ["Dist", "CAT-Dist"]
    assert rows[0][2:6] == ["0.030", "0.025", "\u22120.005 ±0.007", "+0.005 ±0.007"]  # seeds 0 and 1: 0 and .01
    assert rows[0][6:] == ["0.000 ±0.000", "0.0\u00a0% ±0.0\u00a0%"]


def test_keep_rates_and_memory(reference):
    for method in ("cat-dist", "random-dist", "large-dist"):
        logged, parts = ablations_report.kept_by_ledger(reference, method, 1)
        np.testing.assert_allclose(logged, parts)
    assert parts[0] == pytest.approx(0.7)  # both and only L
    (row,) = ablations_report.memory_table([reference]).rows
    assert row == ["wmt", "70.0\u00a0%", "60.0\u00a0%", "10.0\u00a0%", "50.0\u00a0%", "45.0\u00a0%"]


def test_nothing_recorded_is_said():
    for shown in (
        ablations_report.shifts_table([], {}), ablations_report.methods_table([], {}),
        ablations_report.shifts_figure([], {}), ablations_report.masks_figure(()),
        ablations_report.gatekeeper_table(()), ablations_report.memory_table(()),
    ):  # fmt: skip
        assert shown.rows[0][0] == "none"
    assert ablations.shifts_words({}) == "no ablation is recorded yet"
    assert ablations_report.gatekeeper_text(()) == "No recorded cell has Gatekeeper yet."
