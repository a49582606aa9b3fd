"""A tensor file filled in place is an ordinary safetensors file, whole or absent, and knows what is done."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from cat_core.tensor_file import DTYPES, TensorFile

PARTS = {
    "flags": (torch.bool, (5,)), "x": (torch.float32, (5, 3)), "empty": (torch.int64, (0, 2)),
    "y": (torch.bfloat16, (5, 2)), "scalar": (torch.int64, ()),
}  # fmt: skip


def test_it_reads_back_as_safetensors(tmp_path):
    file = TensorFile(tmp_path / "a.safetensors", PARTS, {"of": "test"})
    values = {
        name: torch.randint(0, 2, shape).to(dtype) if dtype == torch.bool else torch.randn(shape).to(dtype)
        for name, (dtype, shape) in PARTS.items()
    }
    for name, tensor in values.items():
        file.tensors[name].copy_(tensor)
    assert not (tmp_path / "a.safetensors").exists()
    assert file.close() == tmp_path / "a.safetensors"
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == values.keys()
    for name, tensor in values.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert opened.metadata() == {"of": "test"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3),
                       st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 4), max_size=3))))  # fmt: skip
def test_any_shapes(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("shapes") / "t.safetensors"
    file = TensorFile(path, {name: (dtype, tuple(shape)) for name, (dtype, shape) in parts.items()}, {})
    for tensor in file.tensors.values():
        tensor.fill_(1)
    file.close()
    found = load_file(path)
    for name, (dtype, shape) in parts.items():
        assert torch.equal(found[name], torch.ones(shape, dtype=dtype))


def test_it_goes_on_where_it_was(tmp_path):
    path = tmp_path / "a.safetensors"
    first = TensorFile(path, PARTS, {})
    first.tensors["x"][:2] = 7.0
    first.finished(3)
    first.finished(12)
    (tmp_path / "a.safetensors.done").open("a").write("4")  # a line that was being written
    again = TensorFile(path, PARTS, {})
    assert again.done == {3, 12} and (again.tensors["x"][:2] == 7).all() and (again.tensors["x"][2:] == 0).all()
    again.finished(4)
    assert TensorFile(path, PARTS, {}).done == {3, 12, 4}


@pytest.mark.parametrize("change", [{"flags": (torch.bool, (6,))}, {"x": (torch.float16, (5, 3))}])
def test_an_unfinished_file_of_something_else_is_refused(tmp_path, change):
    TensorFile(tmp_path / "a.safetensors", PARTS, {"of": "one"})
    for parts, about in ((PARTS | change, {"of": "one"}), (PARTS, {"of": "two"})):
        with pytest.raises(ValueError, match="is the unfinished file of another run: delete it"):
            TensorFile(tmp_path / "a.safetensors", parts, about)


def test_a_list_without_its_file_is_not_believed(tmp_path):
    path = tmp_path / "a.safetensors"
    TensorFile(path, PARTS, {}).finished(1)
    (tmp_path / "a.safetensors.partial").unlink()
    assert TensorFile(path, PARTS, {}).done == set()


def test_kill_9_keeps_what_was_finished(tmp_path):
    script = """
        import os, sys, torch
        from cat_core.tensor_file import TensorFile
        file = TensorFile(sys.argv[1], {"x": (torch.float32, (100, 8))}, {})
        for part in range(100):
            file.tensors["x"][part] = part
            file.finished(part)
            print(part, flush=True)
    """
    path = tmp_path / "t.safetensors"
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE, text=True
    )
    for line in run.stdout:
        if int(line) == 20:
            os.kill(run.pid, signal.SIGKILL)
            break
    run.wait()
    assert not path.exists()
    file = TensorFile(path, {"x": (torch.float32, (100, 8))}, {})
    assert {*range(21)} <= file.done
    for part in file.done:
        assert (file.tensors["x"][part] == part).all()


def test_the_header_says_what_safetensors_expects(tmp_path):
    path = TensorFile(tmp_path / "a.safetensors", PARTS, {}).close()
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    ends = sorted(v["data_offsets"] for k, v in header.items() if k != "__metadata__")
    assert ends[0][0] == 0 and ends[-1][1] == path.stat().st_size - 8 - size and size % 8 == 0
