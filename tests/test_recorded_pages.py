"""The pages that read recorded cells, on a small study: they go through, and say what the cells' metrics say."""

import json

import nbformat
import papermill
import pytest
from small_book import ROOT
from small_study import STUDY, project
from test_trace import untraced

from cat_core.evidence import cell_metrics
from cat_core.recording import run_cell
from cat_core.results import publish
from cat_core.study import load_study

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
PAGES = {
    "04_superglue": ("superglue", {"reference": "tiny"}),
    "05_wmt22": ("wmt", {"reference": "tiny"}),
    "06_flan2021": ("flan", {"references": ["tiny"]}),
}
READERS = {
    "07_baselines": {"reference": "tiny"},
    "09_limits": {"studies": ["tiny"]},
    "10_claims": {"studies": ["tiny"]},
    "11_systems": {},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    methods = "methods: [xent, dist, cat-xent, cat-dist, random-dist, gatekeeper]"
    text = STUDY.replace("methods: [xent, cat-dist, gatekeeper]", methods).split("  other:")[0] + CELLS
    text = text.replace("  wmt: &wmt\n", "  wmt: &wmt\n    claim: C2\n")
    root = project(tmp_path_factory.mktemp("project"), texts="true", text=text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.chdir(root)
        for cell in load_study("tiny", root).cells.values():
            run_cell(cell)
            publish(cell.folder, cell.name, None, cell_metrics(cell, resamples=50))
        yield root


def executed(root, page, parameters) -> dict:
    """The metrics of a page that was run on the study; all that it glues is in them."""
    source, out = ROOT / "book" / f"{page}.ipynb", root / f"{page}.ipynb"
    parameters = parameters | {"output_dir": str(root / "out")}
    papermill.execute_notebook(source, out, parameters, cwd=root, kernel_name="python3", progress_bar=False)
    metrics = json.loads((root / "out" / "metrics" / f"{page}.json").read_text())["metrics"]
    assert untraced(nbformat.read(out, as_version=4), metrics) == []
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("page", READERS)
def test_page_on_all_cells_says_what_its_metrics_say(root, page):
    assert executed(root, page, READERS[page])["headline"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_reads_a_recorded_cell(root, page):
    name, parameters = PAGES[page]
    metrics = executed(root, page, parameters | {"recorded": f"tiny/{name}"})
    recorded = load_study("tiny", root).cell(name).metrics()
    assert set(metrics["methods"]) < set(recorded["methods"])
    for method, row in metrics["methods"].items():
        assert row == recorded["methods"][method], method
    said = {(r["claim"], r["measure"]): r["number"] for r in metrics["claims"]}
    known = {(r["claim"], r["measure"]): r["number"] for r in recorded["claims"]}
    assert {key: known[key] for key in said if key in known} == {key: said[key] for key in said if key in known}
    assert len(said.keys() & known.keys()) >= 3
    assert not (root / "out" / "outcomes").exists()  # the cell's table is there already
