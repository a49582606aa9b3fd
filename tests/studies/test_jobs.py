"""The work of a study shared by processes: the parts and their order, a kill -9, errors, and what the record says."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import warm
from cat_book.pages import study_report
from small_study import STUDY, project

from cat_core.studies import jobs, record
from cat_core.studies.command import main
from cat_core.studies.record import experiment_of
from cat_core.studies.study import load_study, open_cell
from cat_core.training import artifacts

PROJECT = Path(__file__).resolve().parents[2]
TWO_CELLS = STUDY.replace("methods: [xent, cat-dist, gatekeeper]", "methods: [xent, cat-dist, gatekeeper, edge-joint]")
TWO_CELLS += "    out_of_fold: true\n    methods: [dist, cat-dist]\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with two cells, of the same large models, the second of which asks them out of fold."""
    found = project(tmp_path / "project", text=TWO_CELLS)
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(found)
    return found


def by_action(parts):
    found = {}
    for part in parts:
        found.setdefault(part.action, []).append(part)
    return found


def test_every_model_is_made_by_one_part_and_each_part_waits_for_what_it_reads(root):
    cell = load_study("tiny", root).cell("wmt")
    parts = jobs.parts(cell)
    found, names = by_action(parts), [part.name for part in parts]
    assert len(set(names)) == len(names)
    for number, part in enumerate(parts):
        assert set(part.needs) <= set(names[:number])
    made = sorted(each for part in found["small"] for each in part.arguments[0])
    assert made == sorted(key for key in experiment_of(cell).configs() if key[0] != "large")
    first = {seed: part for part in found["small"] for method, seed in part.arguments[0] if method == "xent"}
    teacher = {cell.large_seed(part.arguments[1]): part for part in found["teacher"]}
    large = {part.arguments[0]: part for part in found["large"]}
    assert set(large) == {1, 2} == set(teacher)
    assert first[3].needs == (teacher[1].name,) and teacher[1].needs == (large[1].name,)
    (second,) = [part for part in found["small"] if ("gatekeeper", 1) in part.arguments[0]]
    assert set(second.needs) == {part.name for part in first.values()}
    assert len(found["answers"]) == 2 + 12 and set(parts[-1].needs) == {part.name for part in found["answers"]}
    other = by_action(jobs.parts(load_study("tiny", root).cell("other")))
    assert {part.arguments for part in other["large"]} == {(s, half) for s in (1, 2) for half in (None, 0, 1)}
    assert {p.name for p in large.values()} < {p.name for p in other["large"]}  # what both cells need is done once
    assert {large[1].name, large[2].name}.isdisjoint(name for part in other["teacher"] for name in part.needs)


def command(*more, **options):
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "cat_core.study", "run", "tiny", "--jobs", "2", *more]
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, env=environment, **kept, **options)


# The command with workers that are forked, not spawned: each of these would import torch for seconds; and with fewer
# resamples behind each interval.
FORKED = """
import functools, multiprocessing, sys
from cat_core.studies import command, jobs, record
record.cell_metrics = functools.partial(record.cell_metrics, resamples=50)
context = multiprocessing.get_context("fork")
jobs.multiprocessing.get_context = lambda method: context
sys.exit(command.main(sys.argv[1:]))
"""


def forked(tmp_path, *more):
    return warm.start(FORKED, "run", "tiny", "--jobs", "2", *more, output=tmp_path / "said")


def ended(process, tmp_path):
    """(exit status, what was printed)"""
    process.join(300)
    return process.exitcode, (tmp_path / "said").read_text()


def workers_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def check_gone(workers):
    for _ in range(200):
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            return
        time.sleep(0.05)
    pytest.fail(f"processes {workers} outlive the one that started them")


@pytest.mark.slow
def test_two_processes_share_the_work_and_go_on_after_a_kill(root, capsys, tmp_path):
    path = root / "data" / "studies" / "tiny.yaml"
    text = path.read_text().replace("methods: [xent, cat-dist, gatekeeper, edge-joint]", "methods: [xent, gatekeeper]")
    path.write_text(text.replace("seeds: [1, 2, 3]\nlarge_seeds: [1, 2]", "seeds: [1, 2]\nlarge_seeds: [1]"))
    process = command()
    while not list(artifacts.root().glob("model-*/")) and process.poll() is None:
        time.sleep(0.05)
    workers = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    check_gone(workers)

    code, said = ended(forked(tmp_path), tmp_path)
    assert code == 0, said
    assert said.count("recorded in") == 2
    cell = open_cell("tiny/wmt", root)
    assert {m: c.digest() for m, c in experiment_of(cell).configs().items()} == {
        (m.split()[0], int(m.split()[1])): digest for m, digest in cell.record["models"].items()
    }
    took = cell.record["work"]
    assert 0 < took["timed"] <= took["parts"] == len(jobs.parts(cell)) - 1 and took["cpu_seconds"] > 0
    assert jobs.costs(open_cell("tiny/other", root))["timed"] > 0
    before = sorted(p.stat().st_mtime_ns for p in root.rglob("*.parquet"))
    assert main(["run", "tiny", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.count("is recorded in") == 2
    assert before == sorted(p.stat().st_mtime_ns for p in root.rglob("*.parquet"))


@pytest.mark.slow
def test_a_part_that_fails_ends_the_run_with_its_reason(root, tmp_path):
    path = root / "data" / "studies" / "tiny.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.01", "learning_rate: 1.0e+30", 1))
    code, said = ended(forked(tmp_path, "--cell", "wmt"), tmp_path)
    assert code == 1
    assert "error: " in said.splitlines()[-1] and "Traceback" not in said, said


@pytest.mark.slow
def test_a_killed_worker_is_named_as_such(root, tmp_path):
    process = forked(tmp_path, "--cell", "wmt")
    while not list(artifacts.root().glob("model-*/")) and process.is_alive():
        time.sleep(0.05)
    os.kill(int(workers_of(process.pid)[0]), signal.SIGKILL)
    code, said = ended(process, tmp_path)
    assert code == 1 and "start again with fewer than 2 jobs" in said.splitlines()[-1], said


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_with_one_line(root):
    """As the workers begin, which takes seconds of imports: Python itself reports an interrupt there."""
    process = command("--cell", "wmt", start_new_session=True)
    while len(workers := workers_of(process.pid)) < 3 and process.poll() is None:  # with multiprocessing's tracker
        time.sleep(0.01)
    time.sleep(0.2)
    for worker in workers:  # of all that Ctrl-C reaches these are the first to see it
        os.kill(int(worker), signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 130 and said.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert "Traceback" not in said, said
    check_gone(workers)


def test_jobs_are_counted(root, capsys):
    assert main(["run", "tiny", "--jobs", "0"]) == 1
    assert "0 jobs: expected 1 or more" in capsys.readouterr().err


def test_costs_are_of_the_parts_of_the_cell(root):
    cell = load_study("tiny", root).cell("wmt")
    assert jobs.costs(cell) == {"parts": 25, "timed": 0, "wall_seconds": 0, "cpu_seconds": 0}
    artifacts.root().mkdir()
    lines = [
        {"part": jobs.parts(cell)[0].name, "wall_seconds": 2.5, "cpu_seconds": 4.0},
        {"part": jobs.parts(cell)[0].name, "wall_seconds": 1.0, "cpu_seconds": 1.0},
        {"part": jobs.parts(cell)[-1].name, "wall_seconds": 9.0, "cpu_seconds": 9.0},
        {"part": "large of another study", "wall_seconds": 7.0, "cpu_seconds": 7.0},
    ]
    cut = '{"part": "small 01'
    (artifacts.root() / jobs.COSTS).write_text("".join(json.dumps(line) + "\n" for line in lines) + cut)
    assert jobs.costs(cell) == {"parts": 25, "timed": 1, "wall_seconds": 3.5, "cpu_seconds": 5.0}


def test_a_second_stage_whose_first_is_not_asked_for_is_run(tmp_path, monkeypatch):
    text = STUDY.replace("[xent, cat-dist, gatekeeper]", "[gatekeeper]").split("  other:")[0]
    root = project(tmp_path / "project", text=text.replace("seeds: [1, 2, 3]", "seeds: [1, 2]"))
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(root)
    monkeypatch.setattr(record, "cell_metrics", partial(record.cell_metrics, resamples=50))  # 2,000 take seconds
    jobs.run([open_cell("tiny/wmt", root)])
    table = open_cell("tiny/wmt", root).outcomes()
    assert set(table["method"]) == {"gatekeeper", "large"} and open_cell("tiny/wmt", root).metrics()


JOINED = STUDY.split("  other:")[0].replace("seeds: [1, 2, 3]\nlarge_seeds: [1, 2]", "seeds: [1]\nlarge_seeds: [1]")
JOINED = JOINED.replace("[xent, cat-dist, gatekeeper]", "[xent, cat-xent]") + """
  more:
    <<: *wmt
    seeds: [2]
    large_seeds: [2]
  both:
    joins: [wmt, more]
    claim: C2
"""


def test_cells_that_are_joined_are_run_apart_and_read_as_one(tmp_path, monkeypatch, capsys):
    text = JOINED + "  at-once:\n    <<: *wmt\n    claim: C2\n    seeds: [1, 2]\n    large_seeds: [1, 2]\n"
    found = project(tmp_path / "project", text=text)
    monkeypatch.setattr(record, "cell_metrics", partial(record.cell_metrics, resamples=50))
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(found)
    assert main(["run", "tiny", "--cell", "more"]) == 0
    assert not open_cell("tiny/more").metrics_path.exists() and open_cell("tiny/both").record is None
    assert main(["run", "tiny"]) == 0
    both, whole = open_cell("tiny/both"), open_cell("tiny/at-once")
    assert both.seeds == (1, 2) and [both.large_seed(s) for s in both.seeds] == [1, 2]
    keys = ["method", "seed", "split", "item_id"]
    tables = [cell.outcomes().sort_values(keys).reset_index(drop=True) for cell in (both, whole)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert both.logs() == whole.logs() and both.token_signals("xent", 2) == whole.token_signals("xent", 2)
    ours, theirs = both.metrics(), whole.metrics()
    assert ours.claims == theirs.claims and ours.methods == theirs.methods and len(ours.claims) > 5
    assert set(ours.tables) == {"tiny/both", "tiny/wmt", "tiny/more"}
    assert list(load_study("tiny").recorded) == ["both", "at-once"]
    assert [cell.name for cell in study_report.recorded("tiny").cells] == ["both", "at-once"]
    capsys.readouterr()
    assert main(["metrics", "tiny", "--cell", "more"]) == 1
    assert "cell tiny/more is a part of both, which has the metrics of both" in capsys.readouterr().err
    changed = both.folder / "outcomes" / "more.parquet"
    changed.write_bytes(changed.read_bytes()[:-1])
    with pytest.raises(ValueError, match="more.parquet is missing or has changed"):
        open_cell("tiny/both").metrics()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("joins: [wmt, less]", "cell 'both' joins less: expected cells that stand before it in the file"),
        ("joins: [wmt, wmt]", "cell 'both' joins cells with a seed in common"),
        ("joins: [wmt, longer]", "cell 'both' joins wmt and longer, which differ in steps"),
        ("joins: [wmt, more]\n    steps: 3", "cell 'both' joins others and has steps of its own: expected claim, "),
    ],
)
def test_cells_that_cannot_be_joined_are_named(tmp_path, line, message):
    longer = "  longer:\n    <<: *wmt\n    seeds: [3]\n    large_seeds: [3]\n    steps: 99\n  both:"
    text = JOINED.replace("  both:", longer).replace("joins: [wmt, more]", line)
    with pytest.raises(ValueError, match=message):
        load_study("tiny", project(tmp_path, text=text))
