"""A little of `tests/fuzz.py` in every run of the suite; the long run is `python -m tests.fuzz`."""

import random

import pytest

from tests import fuzz


def test_no_door_gives_way(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    found = fuzz.fuzz(1_500, seed=7)
    made_again = ("stored answers", "artifact", "artifact, record")
    assert len(found) == 23 and {name: r["findings"] for name, r in found.items() if r["findings"]} == {}
    assert all(result["refused"] for name, result in found.items() if name not in made_again)


def test_a_door_that_gives_way_is_found(tmp_path):
    """The check itself: a reader that fails in the depths, one that reads half a file, one with an endless message."""

    def depths(data):
        return {}["x"] if data != b"good" else 0

    def endless(data):
        raise ValueError("x" * 2_000)

    def silent(data):
        raise ValueError("first\nsecond")

    assert "KeyError from the depths" in fuzz.complaint(pytest.raises(KeyError, depths, b"bad").value)
    assert fuzz.complaint(pytest.raises(ValueError, endless, b"").value) == "a line of 2000 characters"
    assert fuzz.complaint(pytest.raises(ValueError, silent, b"").value).startswith("2 lines")
    assert fuzz.complaint(ValueError("what to do")) == ""


def test_breaking_breaks():
    rng = random.Random(0)
    value = {"a": [1, {"b": "c"}], "d": 2.0}
    assert sum(fuzz.broken_value(rng, value) != value for _ in range(100)) > 90
    assert value == {"a": [1, {"b": "c"}], "d": 2.0}
    assert sum(fuzz.broken_bytes(rng, b"some bytes") != b"some bytes" for _ in range(100)) > 70
