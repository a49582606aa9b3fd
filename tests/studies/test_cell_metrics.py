"""The numbers of a cell come from its table alone, and the claims' entries can be read by the ledger."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cat_book.pages import mixture_report, suite_report
from small_study import STUDY, project
from small_tables import table

from cat_core.analysis import claims, metrics, operating_points, resampling
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.decomposition import PARTS
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.saving import arms, saving, saving_of
from cat_core.analysis.verdicts import read_entries
from cat_core.files import file_sha256
from cat_core.methods import name
from cat_core.studies import cell_claims, cell_metrics
from cat_core.studies.command import main
from cat_core.studies.record import experiment_of, run_cell
from cat_core.studies.study import load_study

METHODS = "methods: [xent, dist, cat-xent, cat-dist, random-dist]"
SUPERGLUE = """
  superglue:
    <<: *wmt
    claim: C1
    generative: [choice]
    suite: mini-superglue
    suite_options: {{train: 300, calibration: 30, test: 45}}
"""


@pytest.fixture(scope="module")
def cell(tmp_path_factory, common_artifacts):
    text = STUDY.replace("methods: [xent, cat-dist, gatekeeper]", METHODS).split("  other:")[0] + SUPERGLUE
    root = project(tmp_path_factory.mktemp("project"), text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(common_artifacts))
        patch.chdir(root)
        cell = load_study("tiny", root).cell("superglue")
        run_cell(cell)
        assert main(["metrics", "tiny", "--cell", "superglue"]) == 0
        yield load_study("tiny", root).cell("superglue")


def test_metrics_are_numbers_of_the_table(cell):
    found, c = cell.metrics(), cell_metrics.deciding(cell, cell.comparison(resamples=20))
    assert c.tasks == ("reading", "entailment")
    assert found.methods["cat-dist"].audc.estimate == pytest.approx(c.audc("cat-dist").estimate, abs=1e-12)
    whole = found.decomposition["cat-dist - dist"]
    parts = [getattr(whole, part).estimate for part in PARTS]
    assert sum(parts) == pytest.approx(whole.whole.estimate, abs=1e-9)
    assert np.mean(found.audc_by_seed["dist"]) == pytest.approx(c.audc("dist").estimate, abs=1e-9)
    assert found.tokens["xent"].keep_rate == 1 > found.tokens["cat-dist"].keep_rate
    assert sum(found.tokens["xent"].ledger) == pytest.approx(1)
    task = found.tasks["reading"]
    gained = task.differences["cat-dist - dist"]
    assert task.n == 15 and gained.low <= gained.high
    assert {"chow_average", "chow_quantile_0", "option_probability"} <= set(found.rule_grid.rules)
    assert json.loads(cell.metrics_path.read_text())["page"] == "superglue"


def test_claims_of_a_cell_reach_the_ledger(cell):
    entries = [e for e in read_entries(cell.folder) if e.page == "superglue"]
    by_claim = {claim: [e for e in entries if e.claim == claim] for claim in {e.claim for e in entries}}
    assert set(by_claim) == {"C1", "C4", "C5", "C6", "C7", "C10"}
    roles = ["primary"] * 2 + ["control"] * 4 + ["reading"] * 2 + ["secondary"] * 2
    assert [e.role for e in by_claim["C1"]] == roles
    assert by_claim["C1"][0].n == 30  # the generative task is C4's
    assert len(by_claim["C4"]) == 6 and all(e.n == 15 for e in by_claim["C4"])
    assert all(e.seeds == 3 and e.large_seeds == 2 for e in entries)


def test_pages_draw_nothing_of_a_recorded_cell(cell, monkeypatch):
    def draw(*_, **__):
        raise AssertionError("drawn anew")

    c = cell.comparison(**cell.kept())
    for module in (resampling, operating_points):
        monkeypatch.setattr(module, "draw_blocks", draw)
    assert c.resamples == 2_000
    assert [row[0] for row in suite_report.alone_table(c).rows] == ["reading", "entailment", "choice", "all"]
    assert set(mixture_report.learnt(c)) == set(c.tasks)
    for part in (cell_metrics.deciding(cell, c), cell_metrics.of_tasks(c, cell.generative)):
        assert part.large_alone().low <= part.large_alone().estimate
        for m in part.methods:
            assert part.audc(m) and part.random_audc(m) and part.over_random(m) and part.normalised_audc(m)
        suite_report.differences_table(part, ["chow_average"])
    rows = cell.metrics().claims
    page_metrics = metrics.suite_metrics(cell_metrics.deciding(cell, c), rows, cell_metrics.BUDGET)
    recorded = cell.metrics()
    assert page_metrics.methods == recorded.methods and page_metrics.methods.keys() == set(c.methods)
    suite_report.budgets_table(cell_metrics.deciding(cell, c))
    assert suite_report.areas_table(page_metrics).rows == suite_report.areas_table(recorded).rows
    assert len([r for r in recorded.claims if r.claim == "C4"]) == 6


def test_mask_differences_are_those_of_the_areas():
    c = Comparison(table(methods=("xent", "dist", "cat-dist", "random-dist", "large-dist")), resamples=40)
    found = cell_metrics.mask_differences(c)
    assert set(found.audc) == set(found.alone) == {
        "cat-dist - dist", "large-dist - dist", "random-dist - dist", "cat-dist - random-dist",
        "large-dist - random-dist",
    }  # fmt: skip
    areas = {m: c.audc(m).estimate for m in c.methods}
    assert found.audc["large-dist - dist"].estimate == pytest.approx(areas["large-dist"] - areas["dist"], abs=1e-12)
    assert found.audc["cat-dist - dist"] == pytest.approx(c.difference("cat-dist", "dist"))
    assert found.alone["cat-dist - dist"] == pytest.approx(c.alone_difference("cat-dist", "dist"))
    none = cell_metrics.mask_differences(Comparison(table(methods=("xent",)), resamples=2))
    assert none == metrics.MaskDifferences({}, {})


def test_headroom_is_what_l_alone_has_over_s_alone(cell):
    c = cell.comparison(resamples=200)
    found = operating_points.headroom(c, "cat-dist")
    ends = [np.mean([c.seed_curve("cat-dist", seed).quality[i] for seed in c.seeds]) for i in (0, -1)]
    assert found.estimate == pytest.approx(ends[1] - ends[0], abs=1e-12)
    assert found.low <= found.estimate <= found.high
    part, recorded = cell_metrics.deciding(cell, cell.comparison(**cell.kept())), cell.metrics()
    for m in part.methods:
        assert operating_points.headroom(part, m) == recorded.methods[m].headroom


def test_first_layer_of_l_is_counted_where_a_rule_reads_it(tmp_path, monkeypatch):
    from cat_core.rules.features import answer_features

    text = STUDY.replace("methods: [xent, cat-dist, gatekeeper]", "methods: [dist]\nlearned_rules: [dist]")
    root = project(tmp_path, text=text.split("  other:")[0])
    monkeypatch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
    monkeypatch.chdir(root)
    cell = load_study("tiny", root).cell("wmt")
    run_cell(cell)
    c, experiment = cell.comparison(resamples=5), experiment_of(cell)
    small, large = experiment.small_config("dist", 1), experiment.large_config(1)
    answers = [a["tokens"] for a in experiment.answers(small)]
    features = answer_features(experiment._runner(small, large, None), experiment._evaluated(), answers)
    test = np.array([e.split == "test" for e in experiment._evaluated()])
    found = cell_metrics.rule_flops(cell, c, ("chow_average", "post_hoc_embed"))["post_hoc_embed"]
    assert found.per_query == pytest.approx(features.large_flops[test].mean())
    assert found.of_large == pytest.approx(found.per_query / c.large_flops)
    assert 0 < found.of_large < 1
    assert cell_metrics.rule_flops(cell, c, ("chow_average",)) == {}


def test_baselines_that_order_as_chow_average_does_say_nothing_of_their_own():
    frame = table(methods=("xent", "dist", "cat-dist"), seeds=range(5), n=150)
    c = Comparison(frame, resamples=50)
    edge, minimum = cell_claims.baseline_claims(c, None)
    assert edge.number.reason.startswith("this table has no rule edge")
    wanted = saving(c, "cat-dist", "dist", "chow_average", "chow_quantile_0")
    assert (minimum.number, minimum.error, minimum.family) == (wanted.number, wanted.error, "Chow-Quantile-0")
    assert minimum.share and minimum.claim == "C7" and minimum.ineligible is None
    alike = frame.assign(confidence_chow_quantile_0=2 * frame["confidence_chow_average"] - 1)
    _, same = cell_claims.baseline_claims(Comparison(alike, resamples=50), "too small")
    assert same.number == Undefined("Chow-Quantile-0 orders all answers as Chow-Average does")
    assert same.ineligible == "too small"


def test_a_cell_is_heard_or_not_by_its_own_xent(cell):
    part = cell_metrics.deciding(cell, cell.comparison(resamples=50))
    assert cell_claims.floor_of(cell, part) == {
        task: share for task, share in cell.training["majority"].items() if task in part.tasks
    }
    reason = cell_claims.why_not(cell, part)
    assert reason == claims.ineligible(part, cell_claims.floor_of(cell, part))
    rows = cell_claims.cell_claims(cell, cell.comparison(resamples=50))
    assert {r.ineligible for r in rows if r.share} == {reason}


EDGE = """
study: edge
methods: [edge-joint]
seeds: [1, 2, 3]
large_seeds: [1, 2]
learned_rules: [edge-joint]
cells:
  beside: &cell
    beside: tiny/superglue
"""


def edge_study(cell, name, change, method="edge-joint"):
    """A study of edge-joint (or another method) beside the tiny cell, in the same project."""
    root = cell.folder.parents[2]
    setting = {k: v for k, v in cell.config.items() if k not in ("methods", "seeds", "large_seeds")} | change
    lines = [f"    {key}: {json.dumps(value)}" for key, value in setting.items()]
    text = EDGE.replace("study: edge", f"study: {name}").replace("edge-joint", method) + "\n".join(lines) + "\n"
    (root / "data" / "studies" / f"{name}.yaml").write_text(text)
    return load_study(name, root).cell("beside")


def test_a_router_trained_with_s_is_paired_with_the_cell_beside_it(cell, monkeypatch):
    root = cell.folder.parents[2]
    monkeypatch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
    monkeypatch.chdir(root)
    edge = edge_study(cell, "edge", {})
    run_cell(edge)
    theirs = cell_metrics.deciding(cell, cell.comparison(resamples=20))
    part, other = cell_claims.pair_beside(edge, edge.comparison(resamples=20))
    assert part.tasks == other.tasks == theirs.tasks
    found = cell_claims.joint_contrasts(part, other)
    primary, secondary = cell_claims.joint_claims(part, other, None)
    routed, plain = (part.audc("edge-joint", rule).estimate for rule in ("joint_router", "chow_average"))
    expected = theirs.audc("cat-dist").estimate - routed
    wanted = saving_of(arms(other, "cat-dist", "chow_average"), arms(part, "edge-joint", "joint_router"))
    assert primary.number == getattr(wanted, "number", wanted)
    assert found["whole"].estimate == pytest.approx(expected, abs=1e-9)
    assert found["rule"].estimate == pytest.approx(plain - routed, abs=1e-9)
    assert found["training"].estimate + found["rule"].estimate == pytest.approx(expected, abs=1e-9)
    assert primary.role == "primary" and secondary.role == "secondary" and primary.claim == "C7"
    whole = cell_metrics.cell_metrics(edge, resamples=20)
    assert [row.role for row in whole.claims if row.claim == "C7"] == ["primary", "secondary"]
    assert whole.joint["whole"] == found["whole"] and primary.n == other.n
    assert whole.tables == {c.place: file_sha256(c.outcomes_path) for c in (edge, cell)}
    assert set(whole.rule_grid.over_random) == {"edge-joint"} and "joint_router" in whole.rule_grid.rules
    changed = edge.comparison(resamples=20)
    mine = (changed.frame["model"] == "large") & (changed.frame["split"] == "test")
    changed.frame.loc[mine, "quality"] = 1 - changed.frame.loc[mine, "quality"]
    with pytest.raises(ValueError, match="L of cell 'edge/beside' answers otherwise than that of 'tiny/superglue'"):
        cell_claims.pair_beside(edge, changed)
    with pytest.raises(ValueError, match="is to stand beside 'tiny/superglue', but differs in steps"):
        edge_study(cell, "other", {"steps": 5}).partner()


def test_an_s_in_between_stands_against_the_cascades_of_the_cell_beside_it(cell, monkeypatch):
    root = cell.folder.parents[2]
    monkeypatch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
    monkeypatch.chdir(root)
    middle = edge_study(cell, "middle", {"small": "hidden 12, layers 1, heads 2", "learning_rate": 0.008}, "xent")
    run_cell(middle)
    found = cell_metrics.between_of(middle, middle.comparison(resamples=20))
    theirs = cell_metrics.deciding(cell, cell.comparison(resamples=20))
    ours = cell_metrics.of_tasks(middle.comparison(resamples=20), theirs.tasks)
    assert set(found) == set(theirs.methods) and cell_metrics.between_of(cell, cell.comparison()) is None
    own = [ours.of_task(t).alone("xent").estimate for t in ours.tasks]
    assert found["cat-dist"].alone.estimate == pytest.approx(np.mean(own))
    assert 0 < found["xent"].cost < 1
    with pytest.raises(ValueError, match="is to stand beside 'tiny/superglue', but differs in learning_rate, small"):
        middle.partner()


def test_what_filters_labels_is_a_control_of_the_cell_beside():
    c = Comparison(table(("xent", "cat-xent", "large-xent", "large-labels"), seeds=range(4), n=200), resamples=60)
    rows = cell_claims.filter_claims(c, "C2", "too easy")
    assert [(r.role, r.family, r.claim, r.ineligible) for r in rows] == [
        ("control", "CAT-Xent", "C2", "too easy"), *[("secondary", "CAT-Xent", "C2", "too easy")] * 3,
    ]  # fmt: skip
    pairs = (("cat-xent", "large-xent"), ("large-xent", "xent"), ("cat-xent", "large-labels"), ("large-labels", "xent"))
    for row, (a, b) in zip(rows, pairs, strict=True):
        number = saving(c, a, b)
        assert row.number == getattr(number, "number", number) and row.measure.endswith(f"{name(a)} against {name(b)}")
    assert cell_claims.filter_claims(replace(c, methods=("xent", "cat-xent")), "C2", None) == []
