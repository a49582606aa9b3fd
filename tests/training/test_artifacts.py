import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from cat_core.training import artifacts


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))


def obtain(config, text="hello", calls=None):
    def make(folder: Path):
        if calls is not None:
            calls.append(folder)
        (folder / "text").write_text(text)
        return {"length": len(text)}

    return artifacts.obtain("note", config, ("cat_core.loss",), make)


def test_made_once_and_found_again():
    calls = []
    first, second = obtain({"a": 1}, calls=calls), obtain({"a": 1}, calls=calls)
    assert first == second and len(calls) == 1
    assert (first / "text").read_text() == "hello"
    assert artifacts.result(first) == {"length": 5}
    assert obtain({"a": 2}, calls=calls) != first and len(calls) == 2


def test_digest_covers_configuration_and_source_of_the_named_modules_alone():
    loss, both = ("cat_core.loss",), ("cat_core.loss", "cat_core.training.train")
    assert artifacts.digest({"a": 1, "b": 2}, loss) == artifacts.digest({"b": 2, "a": 1}, loss)
    assert artifacts.digest({"a": 1}, loss) != artifacts.digest({"a": 1}, both)


def test_a_configuration_that_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="cannot be part of a configuration"):
        artifacts.digest({"a": object()}, ())
    with pytest.raises(ValueError):
        artifacts.digest({"a": float("nan")}, ())


@pytest.mark.parametrize("damage", ["changed", "missing", "record"])
def test_a_damaged_artifact_is_named_and_made_again(damage):
    calls = []
    folder = obtain({"a": 1}, calls=calls)
    if damage == "changed":
        (folder / "text").write_text("hellO")
    elif damage == "missing":
        (folder / "text").unlink()
    else:
        record = (folder / artifacts.RECORD).read_text()
        (folder / artifacts.RECORD).write_text(record[: len(record) // 2])
    with pytest.warns(UserWarning, match="is damaged .* made again"):
        assert obtain({"a": 1}, calls=calls) == folder
    assert len(calls) == 2 and (folder / "text").read_text() == "hello"


def test_a_failed_attempt_is_continued_and_never_taken_for_whole():
    def fail(folder):
        (folder / "half").write_text("kept")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        artifacts.obtain("note", {"a": 1}, (), fail)
    seen = []
    folder = artifacts.obtain("note", {"a": 1}, (), lambda partial: seen.append((partial / "half").read_text()))
    assert seen == ["kept"]
    assert json.loads((folder / artifacts.RECORD).read_text())["files"].keys() == {"half"}


def _slowly(place, log):
    os.environ["CAT_ARTIFACTS"] = place

    def make(folder):
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(0.5)
        (folder / "text").write_text("x")

    artifacts.obtain("note", {"a": 1}, (), make)


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    pair = [context.Process(target=_slowly, args=(str(tmp_path / "shared"), str(log))) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(60)
    assert [process.exitcode for process in pair] == [0, 0]
    assert log.read_text() == "made\n"


def test_processes_that_train_together_do_not_wait_for_one_another(monkeypatch, tmp_path):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"one of 2 processes that were launched together.*call `train.train`"):
        artifacts.obtain("thing", {"a": 1}, ("cat_core.loss",), lambda folder: None)
