"""The benchmarks run, measure what they say, and refuse to compare ways that do not compute the same."""

import json

import pytest
import torch

from benchmarks import loss, teacher


@pytest.mark.slow
def test_the_table_has_every_way_of_every_case(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(loss.SIZES, "quick", [(300, 90, 8, 16)])
    out = tmp_path / "new" / "loss.json"
    rows = loss.main(["--quick", "--repeats", "2", "--out", str(out), "--note", "a test"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == len(rows) + 2 and all(line.count("|") == lines[0].count("|") == 10 for line in lines)
    kept = {(row["rho"], row["way"]) for row in rows}
    assert kept > {(rho, way) for rho in (1.0, 0.6, 0.3) for way in ("naive", "fused")} | {(1.0, "checkpointed")}
    for row in rows:
        low, high = row["speedup_range"]
        assert 0 < low <= row["speedup"] <= high and len(row["seconds"]) == 2 and row["floor_share"] > 0
        if row["way"].startswith("naive"):
            assert low == high == row["memory_share"] == 1
    stored = json.loads(out.read_text())
    assert stored["rows"] == rows and stored["note"] == "a test" and stored["threads"] == 1
    assert {"git", "versions", "platform", "processor", "load", "clock", "started", "finished"} <= stored.keys()


def test_the_peak_is_what_lives_at_one_time():
    def two_of_three():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second * 2

    assert 8000 <= loss.peak_bytes(two_of_three, "cpu") < 8100  # and the two scalars


def test_a_way_to_another_gradient_is_refused(monkeypatch):
    monkeypatch.setattr(loss, "ways", lambda *_: [{"naive": loss.naive, "other": loss.naive_xent}])
    with pytest.raises(ValueError, match="other has another gradient than naive: relative difference"):
        loss.compare(loss.Case(30, 20, 4, 4, 1.0), "cpu", torch.float32, 1)


def test_every_way_with_the_labels_alone_or_the_teacher_is_compared_with_its_like():
    case = loss.Case(30, 20, 4, 4, 1.0)
    first, second = loss.ways(case, "cpu")
    assert list(first) == ["naive", "checkpointed", "fused"]
    assert next(iter(second)) == "naive, Xent" and "fused, Xent" in second
    assert list(loss.ways(loss.Case(30, 20, 4, 4, 0.6), "cpu")[0]) == ["naive", "fused", "fused, no row skipped"]
    inputs = loss.Inputs(loss.Case(30, 20, 4, 4, 0.6), "cpu", torch.float32)
    assert int(inputs.keep.sum()) == 18


@pytest.mark.slow
def test_every_way_to_teach_a_step_is_compared(tmp_path, capsys):
    out = tmp_path / "teacher.json"
    rows = teacher.main(["--quick", "--repeats", "2", "--out", str(out)])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == len(rows) + 2 and all(line.count("|") == lines[0].count("|") == 10 for line in lines)
    found = {row["way"]: row for row in rows}
    assert list(found) == list(teacher.WAYS)
    # 32 states in float32, 50 or 8 of a narrow id and a half, the tail, and whether L is right
    assert [found[way]["bytes_per_token"] for way in list(teacher.WAYS)[1:4]] == [129, 50 * 4 + 5, 8 * 4 + 5]
    assert found["argmax, CAT-Xent"]["bytes_per_token"] == 1 and found["online"]["bytes_per_token"] is None
    large = 500 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 128 + 2 * 32) + 32
    assert found["online"]["resident"] == 4 * large and found["hidden"]["resident"] == 4 * 500 * 32
    assert found["topk 8"]["resident"] == found["argmax, CAT-Xent"]["resident"] == 0
    for row in rows:
        assert 0.5 < row["keep_rate"] < 1 and row["memory"] > 0  # a quarter of each target is drawn at random
        assert len(row["seconds"]) == 2 and row["speedup_range"][0] <= row["speedup"] <= row["speedup_range"][1]
    assert json.loads(out.read_text())["rows"] == rows


def test_a_cache_that_changes_the_gradient_is_refused(monkeypatch):
    monkeypatch.setitem(teacher.WAYS, "hidden", (teacher.DISTIL, "topk", 3))
    with pytest.raises(ValueError, match="hidden has another gradient than online: relative difference"):
        teacher.compare(teacher.CASES["quick"][0], "cpu", 1)
