"""The script for a GPU: parts that are run once, pieces that come out as they went in, one line for what is wrong."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import project

from benchmarks import gpu

TOY = """
study: smol-gpu
methods: [xent, cat-xent]
seeds: [1]
large_seeds: [1]
cells:
  smol-1: &smol
    suite: mini-superglue
    suite_options: {train: 120, calibration: 20, test: 30}
    small: hidden 8, layers 1, heads 2
    large: hidden 16, layers 1, heads 2
    vocab_size: 500
    context: 64
    steps: 4
    large_steps: 4
    batch_size: 8
    large_batch_size: 8
    device: cpu
  smol-2: {<<: *smol, seeds: [2], large_seeds: [2]}
  smol: {joins: [smol-1, smol-2]}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    project(tmp_path)
    (tmp_path / "data" / "studies" / "smol-gpu.yaml").write_text(TOY)
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_parts_are_those_of_the_study_and_the_benchmarks():
    found = gpu.parts(gpu.find_root())
    assert list(found) == ["loss", "runner", "teacher", "smol-1-to-smol-5", "smol-6-to-smol-10", "page"]
    assert found["loss"].arguments[:3] == ("benchmarks.loss", "--device", "cuda")
    assert found["smol-1-to-smol-5"].arguments[3:5] == ("--jobs", "5") and len(found["smol-1-to-smol-5"].results) == 10


@pytest.mark.slow
def test_a_part_is_run_once_and_says_what_it_ran_on(root, capsys):
    name = "smol-1-to-smol-2"
    assert gpu.run(root, [name], toy=True) == 0
    assert (root / "papermill_runs" / "studies" / "smol-gpu" / "outcomes" / "smol-2.parquet").is_file()
    entry = json.loads((root / gpu.OUT / gpu.MANIFEST).read_text())[name]
    assert entry["minutes"] > 0 and len(entry["sha256"]) == len(entry["results"]) == 4 and entry["versions"]["torch"]
    assert gpu.run(root, [name], toy=True) == 0 and "done before" in capsys.readouterr().out
    (root / entry["results"][0]).write_bytes(b"other")
    assert not gpu.done(root, gpu.parts(root, toy=True)[name])
    assert gpu.main(["list"]) == 0 and f"to do  {name}" in capsys.readouterr().out


def test_a_part_that_fails_is_one_line_and_the_next_is_run(root, capsys, monkeypatch):
    good = gpu.Part("good", ("json.tool", "-h"), (root / "book" / "_toc.yml",))
    bad = gpu.Part("bad", ("json.tool", "no-such-file"), (root / "none",))
    monkeypatch.setattr(gpu, "parts", lambda *a: {"bad": bad, "good": good})
    assert gpu.run(root, [], toy=True) == 1
    first, second = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("bad: failed after 0.0 min: ") and "no-such-file" in first and second == "good: 0.0 min"


def test_a_toy_does_not_stand_for_the_part(root, monkeypatch):
    def found(root, toy=False):
        return {"one": gpu.Part("one", ("json.tool", "-h") if toy else ("json.tool",), (root / "book" / "_toc.yml",))}

    monkeypatch.setattr(gpu, "parts", found)
    assert gpu.run(root, [], toy=True) == 0
    assert gpu.done(root, found(root, toy=True)["one"]) and not gpu.done(root, found(root)["one"])


def test_an_unknown_part_is_named(root, capsys):
    assert gpu.main(["run", "smol-1-to-smol-3"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown part 'smol-1-to-smol-3'; did you mean 'smol-1-to-smol-2'?")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 200))
def test_pieces_come_out_as_they_went_in(tmp_path_factory, contents, most):
    folder = tmp_path_factory.mktemp("pack")
    files = []
    for k, content in enumerate(contents):
        (folder / f"f{k}").write_bytes(content)
        files.append((folder / f"f{k}", f"deep/{k}.bin"))
    pieces = gpu.pack(files, folder / "to", most)
    assert all(piece.stat().st_size <= most for piece in pieces)
    assert sum(piece.stat().st_size for piece in pieces) == sum(map(len, contents))
    assert [path.read_bytes() for path in gpu.unpack(folder / "to", folder / "out")] == contents


def test_what_was_not_packed_here_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"12345678")
    gpu.pack([(tmp_path / "a", "a")], tmp_path / "to", 5)
    with pytest.raises(ValueError, match="holds no pieces.json: give the folder"):
        gpu.unpack(tmp_path, tmp_path / "out")
    (tmp_path / "to" / "piece-01.bin").write_bytes(b"9")
    with pytest.raises(ValueError, match="a is damaged: its sha256"):
        gpu.unpack(tmp_path / "to", tmp_path / "out")
    (tmp_path / "to" / "piece-01.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks piece-01.bin: carry it, too"):
        gpu.unpack(tmp_path / "to", tmp_path / "out")
    table = json.loads((tmp_path / "to" / "pieces.json").read_text())
    (tmp_path / "to" / "pieces.json").write_text(json.dumps({"../../x": table["a"]}))
    with pytest.raises(ValueError, match="outside"):
        gpu.unpack(tmp_path / "to", tmp_path / "out")


def test_it_is_a_command():
    command = [sys.executable, "-m", "benchmarks.gpu", "list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=gpu.find_root())
    assert done.returncode == 0 and "smol-6-to-smol-10" in done.stdout
