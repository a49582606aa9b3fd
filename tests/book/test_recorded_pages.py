"""The pages that read recorded cells, on a small study: they go through, and say what the cells' metrics say."""

import json
import os
from dataclasses import replace

import nbformat
import papermill
import pytest
from cat_book.pages import joint_report, study_report
from glued_numbers import untraced
from small_book import ROOT
from small_study import STUDY, project

from cat_core.analysis.outcomes import write_outcomes
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined, Unit, plain, show_number
from cat_core.files import file_sha256
from cat_core.studies import ablations
from cat_core.studies.cell_metrics import cell_metrics
from cat_core.studies.record import run_cell
from cat_core.studies.study import load_study

CELLS = """
  superglue:
    <<: *wmt
    claim: C1
    suite: mini-superglue
    suite_options: {{train: 300, calibration: 30, test: 45}}
  flan:
    <<: *wmt
    claim: C3
    generative: [span, summary, fact, count]
    suite: mini-flan
    suite_options: {{train: 300, calibration: 60, test: 80}}
    vocab_size: 1200
    context: 96
    mixing_cap: 40
"""
PARTNERS = """
study: {name}
methods: {methods}
seeds: [1, 2, 3]
large_seeds: [1, 2]
learned_rules: [edge-joint]
cells:
  one:
    {key}: {place}
"""
PAGES = {
    "04_superglue": ("superglue", {"references": ["tiny"]}),
    "05_wmt22": ("wmt", {"references": ["tiny"]}),
    "06_flan2021": ("flan", {"references": ["tiny"]}),
}
READERS = {
    "07_baselines": {"reference": ["tiny"], "joint": "joint"},
    "08_ablations": {"reference": "tiny", "changes": ["changed"], "compared": ["tiny"]},
    "09_limits": {"studies": ["tiny"]},
    "10_claims": {"studies": ["tiny"]},
}


def partner(root, name, methods, key, cell, change):
    """A study of one cell that has the setting of `cell` but for `change`, and names it by `key`; recorded."""
    setting = {k: v for k, v in cell.config.items() if k not in ("methods", "seeds", "large_seeds")} | change
    text = PARTNERS.format(name=name, methods=methods, key=key, place=cell.place)
    text += "".join(f"    {k}: {json.dumps(v)}\n" for k, v in setting.items())
    (root / "data" / "studies" / f"{name}.yaml").write_text(text)
    found = load_study(name, root).cell("one")
    run_cell(found)
    publish(found.folder, found.name, None, cell_metrics(found, resamples=50))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory, common_artifacts):
    methods = "methods: [xent, dist, cat-xent, cat-dist, random-dist, gatekeeper]"
    text = STUDY.replace("methods: [xent, cat-dist, gatekeeper]", methods).split("  other:")[0] + CELLS
    text = text.replace("  wmt: &wmt\n", "  wmt: &wmt\n    claim: C2\n")
    root = project(tmp_path_factory.mktemp("project"), texts="true", text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(common_artifacts))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "book"))))
        patch.chdir(root)
        for cell in load_study("tiny", root).cells.values():
            run_cell(cell)
            publish(cell.folder, cell.name, None, cell_metrics(cell, resamples=50))
        tiny = load_study("tiny", root)
        partner(root, "joint", "[edge-joint]", "beside", tiny.cell("superglue"), {})
        partner(root, "changed", "[dist, cat-dist]", "differs_from", tiny.cell("wmt"), {"label_weight": 0.25})
        yield root


def test_a_recorded_change_is_the_one_drawn_anew(root, monkeypatch):
    cell, reference = load_study("changed", root).cell("one"), load_study("tiny", root).cell("wmt")
    (a,) = ablations.ablations([cell], [reference])
    anew = ablations.change(a, 50)

    def draw(*_, **__):
        raise AssertionError("drawn anew")

    monkeypatch.setattr(ablations, "contrasts", draw)
    assert ablations.recorded_change(a) == anew and anew.change.low < anew.change.high
    with pytest.raises(AssertionError, match="drawn anew"):  # it is kept for the reference that the study names
        ablations.recorded_change(replace(a, reference=replace(reference, study="another")))


def test_metrics_made_from_another_table_are_refused(root, monkeypatch):
    reference, changed = load_study("tiny", root).cell("wmt"), load_study("changed", root).cell("one")
    assert changed.metrics().tables == changed.tables == {
        c.place: file_sha256(c.outcomes_path) for c in (changed, reference)
    }  # fmt: skip
    path = reference.folder / "study.json"
    before, table = path.read_bytes(), reference.outcomes_path.read_bytes()
    try:  # the reference is recorded again, with another table
        write_outcomes(reference.outcomes_path, reference.outcomes().assign(flops=7), compactly=True)
        record = json.loads(before)
        record["cells"]["wmt"]["files"]["outcomes/wmt.parquet"] = file_sha256(reference.outcomes_path)
        record["cells"]["wmt"].pop("seal")
        path.write_text(json.dumps(record))
        with pytest.raises(ValueError, match="another table of tiny/wmt than recorded: .* metrics changed --cell one"):
            load_study("changed", root).cell("one").metrics()
        with pytest.raises(ValueError, match="numbers of the recorded table of tiny/wmt: .* metrics tiny --cell wmt"):
            load_study("tiny", root).cell("wmt").metrics()
    finally:
        path.write_bytes(before)
        reference.outcomes_path.write_bytes(table)
    assert load_study("changed", root).cell("one").metrics()


def test_a_reference_that_is_not_recorded_or_differs_in_more_is_said(root):
    cell = load_study("changed", root).cell("one")
    place = root / "data" / "studies" / "unrun.yaml"
    place.write_text((root / "data" / "studies" / "changed.yaml").read_text().replace("study: changed", "study: unrun"))
    missing = ablations.change_of(replace(cell, differs_from="unrun/one"), 50)
    assert missing == Undefined("unrun/one is not recorded")
    with pytest.raises(ValueError, match="to differ from 'tiny/flan' in one setting, but differs in .*suite"):
        ablations.reference_of(replace(cell, differs_from="tiny/flan"))


def executed(root, page, parameters) -> dict:
    """The metrics of a page that was run on the study; all that it glues is in them."""
    source, out = ROOT / "book" / f"{page}.ipynb", root / f"{page}.ipynb"
    parameters = parameters | {"output_dir": str(root / "out")}
    papermill.execute_notebook(source, out, parameters, cwd=root, kernel_name="python3", progress_bar=False)
    metrics = json.loads((root / "out" / "metrics" / f"{page}.json").read_text())["metrics"]
    assert untraced(nbformat.read(out, as_version=4), metrics) == []
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in READERS if page != "07_baselines"])  # which has a test of its own
def test_page_on_all_cells_says_what_its_metrics_say(root, page):
    assert executed(root, page, READERS[page])["headline"]


@pytest.mark.slow
def test_page_07_shows_the_joint_router_beside_its_cell_and_says_where_there_is_none(root):
    metrics = executed(root, "07_baselines", READERS["07_baselines"])
    joint = load_study("joint", root).cell("one").metrics().joint["whole"]
    assert "recorded beside 1 of 3 cells" in metrics["headline"]["joint"]
    text = (root / "07_baselines.ipynb").read_text()
    shown = show_number(joint, Unit(100, 2, "", True))
    assert shown.replace("\u00a0", "\\u00a0") in text or shown in text
    assert "\u2013 (not recorded)" in text
    cells = study_report.recorded("tiny", root=root).cells
    assert "not recorded beside any of 3 cells" in joint_report.joint_words(cells, joint_report.beside(cells, ()))
    assert "study nowhere" in study_report.recorded("nowhere", root=root).missing


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_reads_a_recorded_cell(root, page):
    name, parameters = PAGES[page]
    metrics = executed(root, page, parameters | {"recorded": f"tiny/{name}"})
    recorded = plain(load_study("tiny", root).cell(name).metrics())
    assert set(metrics["methods"]) < set(recorded["methods"])
    for method, row in metrics["methods"].items():
        assert row == recorded["methods"][method], method
    said = {(r["claim"], r["measure"]): r["number"] for r in metrics["claims"]}
    known = {(r["claim"], r["measure"]): r["number"] for r in recorded["claims"]}
    assert {key: known[key] for key in said if key in known} == {key: said[key] for key in said if key in known}
    assert len(said.keys() & known.keys()) >= 3
    assert not (root / "out" / "outcomes").exists()  # the cell's table is there already


@pytest.mark.slow
def test_page_05_reads_a_cell_of_real_pairs_without_data_or_network(tmp_path, monkeypatch):
    monkeypatch.delenv("CAT_DATA_ROOT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "book"))))
    out = tmp_path / "out.ipynb"
    parameters = {"recorded": "real/translation", "references": ["real"], "output_dir": str(tmp_path)}
    source = ROOT / "book" / "05_wmt22.ipynb"
    papermill.execute_notebook(source, out, parameters, cwd=ROOT, kernel_name="python3", progress_bar=False)
    metrics = json.loads((tmp_path / "metrics" / "05_wmt22.json").read_text())["metrics"]
    recorded = plain(load_study("real", ROOT).cell("translation").metrics())
    known = {(r["claim"], r["measure"]): r for r in recorded["claims"]}
    primary = [r for r in metrics["claims"] if (r["claim"], r["role"]) == ("C2", "primary")]
    assert primary and all(known["C2", r["measure"]]["number"] == r["number"] for r in primary)
    assert all(known["C2", r["measure"]]["verdict"] == r["verdict"] for r in primary), "no guard takes them away"
    assert not (tmp_path / "hub").exists()
