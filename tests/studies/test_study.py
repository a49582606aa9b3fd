"""A study is run once, recorded, read back without training, and refused when it does not fit."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from small_study import STUDY, project

from cat_core.studies import command
from cat_core.studies import record as recording
from cat_core.studies import study as studies
from cat_core.studies.record import EVERY_RULE, experiment_of, run_cell, slim
from cat_core.studies.study import load_study, open_cell, study_names


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, common_artifacts):
    """A recorded study without texts, and the frame and the models it was made from."""
    root = project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAT_ARTIFACTS", str(common_artifacts))
        patch.chdir(root)
        cell = load_study("tiny", root).cell("wmt")
        run_cell(cell)
        yield root, experiment_of(cell).outcomes("tiny"), experiment_of(cell)


@pytest.fixture
def few_resamples(monkeypatch):
    """Numbers of a cell whose intervals are drawn in a fraction of the time; who computes them does not matter here."""
    monkeypatch.setattr(recording, "cell_metrics", partial(recording.cell_metrics, resamples=50))


def test_what_was_recorded_is_what_was_computed(recorded):
    root, frame, experiment = recorded
    cell = open_cell("tiny/wmt", root)
    table = cell.outcomes()
    assert table["prediction"].isna().all() and len(table) == len(frame)
    assert cell.seeds == (1, 2, 3) and [cell.large_seed(s) for s in cell.seeds] == [1, 2, 1]
    from cat_core.analysis.comparison import Comparison

    ours = cell.comparison(resamples=50)
    theirs = Comparison(frame, experiment.large_seed, resamples=50)
    for method in ("xent", "cat-dist", "gatekeeper"):
        assert ours.alone(method).estimate == pytest.approx(theirs.alone(method).estimate, abs=1e-9)
    assert set(cell.logs()) == {(m, s) for m in ("xent", "cat-dist", "gatekeeper") for s in (1, 2, 3)}
    assert cell.logs()["cat-dist", 2][-1]["step"] == 12
    assert cell.logs()["gatekeeper", 2][-1]["step"] == 3  # a quarter of the steps
    assert 0 < cell.keep_rate("cat-dist") < 1 == cell.keep_rate("xent")


def test_token_signals_are_those_of_the_models(recorded):
    root, _, experiment = recorded
    cell = open_cell("tiny/wmt", root)
    total = np.zeros(4, int)
    for seed in cell.seeds:
        small = experiment.token_signals(experiment.small_config("cat-dist", seed))
        large = experiment.token_signals(experiment.large_config(cell.large_seed(seed)))
        counts = np.bincount(2 * ~small.right + ~large.right, minlength=4)
        assert cell.token_signals("cat-dist", seed)["ledger"] == counts.tolist()
        total += counts
    found = cell.token_ledger("cat-dist")
    assert [found.both, found.only_small, found.only_large, found.neither] == total.tolist()
    assert cell.token_ledger_by_task("cat-dist") == {"translation": found}


def test_majority_is_the_share_of_the_most_frequent_answer():
    from cat_core.tasks.example import Example

    rows = [("a", "yes"), ("a", "yes"), ("a", "no"), ("b", "no")]
    examples = [Example(f"i{i}", t, "test", f"p{i}", y, ("yes", "no")) for i, (t, y) in enumerate(rows)]
    free = Example("free", "c", "test", "p", "anything")
    assert recording._majority([*examples, free]) == {"a": 2 / 3, "b": 1.0}


def test_reading_back_neither_trains_nor_imports_torch(recorded):
    root, *_ = recorded
    code = (
        "import sys; from cat_core.studies.study import open_cell; c = open_cell('tiny/wmt'); "
        "c.comparison(resamples=20).audc('xent'); c.token_ledger('xent'); print('torch' in sys.modules)"
    )
    environment = {"PATH": "/usr/bin:/bin", "CAT_ARTIFACTS": str(root / "none"), "PYTHONPATH": str(Path.cwd())}
    repository = str(Path(studies.__file__).resolve().parents[2])
    environment["PYTHONPATH"] = repository
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    assert not (root / "none").exists()


def test_a_recorded_cell_is_not_run_again(recorded, monkeypatch):
    root, *_ = recorded
    cell = open_cell("tiny/wmt", root)
    monkeypatch.setenv("CAT_ARTIFACTS", str(root / "empty"))
    assert run_cell(cell)["config"] == cell.config
    assert not (root / "empty").exists()


def test_a_changed_configuration_or_file_is_refused(recorded, tmp_path):
    root, *_ = recorded
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("artifacts"))
    path = copy / "data" / "studies" / "tiny.yaml"
    path.write_text(path.read_text().replace("steps: 12", "steps: 14"))
    with pytest.raises(ValueError, match="was recorded with another steps; give the new configuration a new name"):
        _ = open_cell("tiny/wmt", copy).record
    path.write_text(path.read_text().replace("steps: 14", "steps: 12\n    length_groups: 4"))
    assert open_cell("tiny/wmt", copy).record is not None  # that changes the time and the rounding, not the experiment
    table = copy / "papermill_runs" / "studies" / "tiny" / "outcomes" / "wmt.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has changed since it was recorded: restore it from git"):
        open_cell("tiny/wmt", copy).outcomes()
    with pytest.raises(ValueError, match="cell 'other' of study 'tiny' is not recorded"):
        open_cell("tiny/other", copy).outcomes()
    record = copy / "papermill_runs" / "studies" / "tiny" / "study.json"
    record.write_text(record.read_text()[:-20])
    with pytest.raises(ValueError, match="study.json cannot be read"):
        _ = open_cell("tiny/wmt", copy).record


@pytest.mark.parametrize(
    "change, message",
    [
        (("methods:", "method:"), "unknown key 'method'; did you mean 'methods'"),
        (("study: tiny", "study: big"), "'study' is 'big', expected 'tiny'"),
        (("seeds: [1, 2, 3]", "seeds: [1, 2, 3"), "not valid YAML"),
        (("steps: 13", "steps: 13\n    steps: 14"), "'steps' is given twice"),
    ],
)
def test_files_that_cannot_be_read_say_so_in_one_line(tmp_path, change, message):
    root = project(tmp_path, text=STUDY.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        load_study("tiny", root)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there(tmp_path):
    root = project(tmp_path)
    with pytest.raises(ValueError, match="unknown study 'tinny'; did you mean 'tiny'"):
        load_study("tinny", root)
    with pytest.raises(ValueError, match="has no cell 'wnt'; did you mean 'wmt'"):
        open_cell("tiny/wnt", root)
    with pytest.raises(ValueError, match="expected <study>/<cell>"):
        open_cell("tiny", root)


def test_every_study_of_the_project_can_be_read():
    root = Path(studies.__file__).resolve().parents[2]
    for name in studies.study_names(root):
        study = load_study(name, root)
        assert study.cells and study.description
        for cell in study.cells.values():
            assert experiment_of(cell).methods and json.dumps(cell.config)


def test_the_real_words_that_studies_ask_for_are_there():
    """Almanac questions once asked for more items than there are scripts, which showed after the study was written."""
    root = Path(studies.__file__).resolve().parents[2]
    cells = [cell for name in study_names(root) for cell in load_study(name, root).cells.values()]
    every = [experiment_of(cell).data for cell in cells]
    wanted = {repr(data): data for data in every if data.suite.startswith("almanac")}
    assert len(wanted) > 1
    for data in wanted.values():
        assert data.load().split("test"), data


def test_every_key_of_a_study_and_every_study_is_explained():
    from cat_core.studies.study import CellFile, StudyFile, study_names
    from cat_core.training.experiment import Experiment

    root = Path(__file__).parents[2]
    text = (root / "data" / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Study files") : text.index("## Licences")]
    explained = set(re.findall(r"`([a-z_-]+)`", section))
    known = {f.name for f in fields(Experiment)}
    used = {key for name in study_names(root) for cell in load_study(name, root).cells.values() for key in cell.config}
    assert {*StudyFile.model_fields, *CellFile.model_fields, *known} <= explained
    assert used <= known and set(study_names(root)) <= explained


def test_rules_that_few_methods_are_asked_for_are_kept_for_these_alone(recorded):
    _, frame, experiment = recorded
    found = slim(frame, ["cat-dist"])
    kept = found["method"] == "cat-dist"
    for column in (c for c in frame.columns if not c.startswith("confidence_")):
        assert found[column].equals(frame[column])
    for rule in EVERY_RULE:
        assert found[f"confidence_{rule}"].equals(frame[f"confidence_{rule}"])
    for rule in ("token_entropy", "chow_quantile_25"):
        assert found.loc[kept, f"confidence_{rule}"].equals(frame.loc[kept, f"confidence_{rule}"])
        assert (
            found.loc[~kept, f"confidence_{rule}"].isna().all() and found.loc[kept, f"confidence_{rule}"].notna().all()
        )


def test_the_list_says_what_a_cell_took_where_all_of_it_was_timed(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert command.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert {line.split(":")[0] for line in printed.splitlines() if not line.startswith(" ")} == set(study_names())
    took = load_study("real").cell("flan").record["work"]
    assert f"flan                         recorded; {took['cpu_seconds'] / 3600:.2f} core-hours\n" in printed
    untimed = [cell.name for cell in load_study("reference").cells.values() if "work" not in cell.record]
    assert untimed and all(f"  {name:<28} recorded\n" in printed for name in untimed)


@pytest.mark.usefixtures("few_resamples")
def test_metrics_of_another_cell_are_refused(recorded):
    root, _, _ = recorded
    cell = open_cell("tiny/wmt", root)
    recording.write_metrics(cell)
    right = cell.metrics_path.read_text()
    content = json.loads(right)
    del content["sha256"]  # what is written below is whole, but of something else
    tables = content["metrics"]["tables"]
    try:
        for change in ({"cell": "other"}, {"study": "real"}, {"tables": {}}, {"tables": tables | {"tiny/wmt": "0"}}):
            cell.metrics_path.write_text(json.dumps(content | {"metrics": content["metrics"] | change}))
            with pytest.raises(ValueError, match="study metrics tiny --cell wmt"):
                cell.metrics()
    finally:
        cell.metrics_path.write_text(right)
    assert cell.metrics().cell == "wmt"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("claim_tasks: [nope]", "claim_tasks names nope; expected some of"),
        ("generative: [nope]", "generative names nope; expected some of"),
        ("claim: C99", "claim names C99; expected some of C1"),
        ("learned_rules: [cat-dst]", "learned_rules names cat-dst; expected some of xent"),
        ("beside: nope/b", "unknown study 'nope'"),
        ("beside: tiny/wmt", "beside names the cell itself"),
    ],
)
def test_keys_that_name_nothing_are_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys, line, message):
    text = STUDY.replace("  wmt: &wmt\n", f"  wmt: &wmt\n    {line}\n") if "learned" not in line else f"{line}\n{STUDY}"
    root = project(tmp_path, text=text)
    monkeypatch.chdir(root)
    monkeypatch.setenv("CAT_ARTIFACTS", str(root / "artifacts"))
    assert command.main(["run", "tiny", "--cell", "wmt"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (root / "artifacts").exists()


@pytest.mark.usefixtures("few_resamples")
def test_a_damaged_entry_is_refused_and_lost_numbers_are_computed_again(recorded, monkeypatch):
    root, _, _ = recorded
    monkeypatch.chdir(root)
    cell = open_cell("tiny/wmt", root)
    recording.write_metrics(cell)
    right = cell.metrics_path.read_bytes()
    cell.metrics_path.unlink()
    assert command.main(["run", "tiny", "--cell", "wmt"]) == 0 and cell.metrics_path.read_bytes() == right
    path = cell.folder / "study.json"
    record = path.read_text()
    try:
        for key in ("config", "files"):
            content = json.loads(record)
            content["cells"]["wmt"][key] = {} if key == "files" else None
            path.write_text(json.dumps(content))
            with pytest.raises(ValueError, match="the entry of 'wmt' is damaged: restore it from git"):
                _ = open_cell("tiny/wmt", root).record
        content = json.loads(record)
        content["cells"]["wmt"]["threads"] += 1  # such as by a flipped bit
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="the entry of 'wmt' has changed since: restore it from git"):
            _ = open_cell("tiny/wmt", root).record
        del content["cells"]["wmt"]["seal"]  # as older runs were recorded
        path.write_text(json.dumps(content))
        assert open_cell("tiny/wmt", root).record is not None
    finally:
        path.write_text(record)
