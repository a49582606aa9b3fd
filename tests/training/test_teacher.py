"""The teacher cache: in every mode exact about who is right, resumable, refused where it belongs to something else."""

import contextlib
import copy
import dataclasses
import errno
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import large_model, sentences

from cat_core.files import write_sealed
from cat_core.fused import fused_linear_cat_loss
from cat_core.loss import TopK, cascade_aware_loss
from cat_core.training import teacher
from cat_core.training.models import ModelSize, build_model
from cat_core.training.side_by_side import train_side_by_side
from cat_core.training.teacher import FOLDER, MODES, RECORD, CacheWriter, TeacherCache, fingerprint, run_teacher
from cat_core.training.train import TrainSettings, train, training_loss
from cat_core.training.training_set import TrainingSet, collate


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A tokenizer, a training set, and an L that has learnt something."""
    tokenizer, training_set = sentences()
    return tokenizer, training_set, large_model(tokenizer, training_set, tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def caches(setting, tmp_path_factory):
    """One cache of each mode."""
    _, training_set, large = setting
    found = {}
    for mode in MODES:
        folder = tmp_path_factory.mktemp(mode)
        found[mode] = run_teacher(large, training_set, folder, mode=mode, k=7, batch_tokens=600)
    return found


def alone(model, training_set, index):
    """Logits and labels of one example, all positions, shifted by hand."""
    prompt, target = training_set.pairs[index]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + target])).logits[0]
    return logits[len(prompt) - 1 : -1], torch.tensor(target)


def test_who_is_right_is_exact_in_every_mode(setting, caches):
    _, training_set, large = setting
    some = torch.tensor([5, 0, 5, 199])
    expected = [alone(large, training_set, int(i)) for i in some]
    right = torch.cat([logits.argmax(1) == labels for logits, labels in expected])
    assert 0 < right.float().mean() < 1
    for mode, cache in caches.items():
        assert cache.mode == mode and cache.about["mode"] == mode
        assert torch.equal(cache.correct[cache.rows(some)], right)
        assert torch.equal(cache.correct, caches["hidden"].correct) and torch.equal(
            cache.offsets, caches["hidden"].offsets
        )


def test_hidden_gives_the_logits_of_each_example_alone(setting, caches):
    _, training_set, large = setting
    cache, some = caches["hidden"], torch.tensor([5, 0, 5])
    expected = torch.cat([alone(large, training_set, int(i))[0] for i in some])
    torch.testing.assert_close(cache.logits(cache.rows(some)), expected, atol=1e-4, rtol=1e-4)


def test_top_tokens_and_tail_are_those_of_the_distribution(setting, caches):
    _, training_set, large = setting
    cache, some = caches["topk"], torch.tensor([3, 17])
    p = torch.cat([alone(large, training_set, int(i))[0] for i in some]).double().softmax(-1)
    top = cache.top(cache.rows(some))
    best, ids = p.topk(7, dim=-1)
    assert torch.equal(top.ids, ids)
    torch.testing.assert_close(top.probabilities.double(), best, rtol=5e-3, atol=1e-6)
    torch.testing.assert_close(top.tail.double(), 1 - best.sum(-1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(top.probabilities.sum(-1) + top.tail, torch.ones(len(ids)))


def test_a_softened_distribution_is_softened_before_it_is_cut(setting, tmp_path):
    _, training_set, large = setting
    cache = run_teacher(large, training_set, tmp_path, mode="topk", k=3, temperature=2.5)
    p = (alone(large, training_set, 4)[0] / 2.5).softmax(-1)
    top = cache.top(cache.rows(torch.tensor([4])))
    torch.testing.assert_close(top.tail, 1 - p.topk(3, dim=-1).values.sum(-1), rtol=1e-3, atol=1e-6)
    with pytest.raises(
        ValueError, match="holds probabilities at temperature 2.5, the loss has 1: make the cache for it"
    ):
        cache.distribution(torch.arange(3), 1.0, "cpu")


@pytest.mark.parametrize("mode", ["hidden", "topk"])
def test_the_most_probable_token_is_that_of_l_and_the_label_among_equals(setting, caches, mode):
    _, training_set, large = setting
    parts = [alone(large, training_set, i) for i in range(6)]
    logits, labels = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    cache = caches[mode]
    rows = cache.rows(torch.arange(6))
    assert torch.equal(cache.predicted(rows, labels), logits.argmax(-1))
    tied = dataclasses.replace(cache, correct=torch.ones_like(cache.correct))  # as if the label were as probable
    assert torch.equal(tied.predicted(rows, labels), labels)


def test_size_of_a_token(setting, caches, tmp_path):
    large = copy.deepcopy(setting[2]).bfloat16()
    assert caches["hidden"].bytes_per_token == 32 * 4 + 1
    assert caches["topk"].bytes_per_token == 7 * (2 + 2) + 4 + 1
    assert caches["argmax"].bytes_per_token == 1
    half = run_teacher(large, setting[1], tmp_path, batch_tokens=600)
    assert half.bytes_per_token == 32 * 2 + 1 and half.states.dtype == torch.bfloat16


def test_a_head_that_is_not_plain_linear_stores_logits(setting, tmp_path):
    tokenizer, training_set, _ = setting
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=48, final_logit_softcapping=0.05,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    outputs = run_teacher(model, training_set, tmp_path)
    assert outputs.head is None and set(outputs.distribution(torch.arange(2), 1.0, "cpu")) == {"teacher_logits"}
    expected = alone(model, training_set, 3)[0]
    torch.testing.assert_close(outputs.logits(outputs.rows(torch.tensor([3]))), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_pass_runs_no_batch_twice(setting, caches, tmp_path, mode):
    _, training_set, large = setting
    calls, forward = [], large.forward

    def counted(*args, **inputs):
        if "attention_mask" in inputs:  # not the look at the head
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
        return forward(*args, **inputs)

    how = {"mode": mode, "k": 7, "batch_tokens": 600}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "forward", counted)
        stop = 3
        with pytest.raises(KeyboardInterrupt):
            run_teacher(large, training_set, tmp_path, **how)
        assert not (tmp_path / FOLDER).exists() and len(calls) == 3
        with pytest.raises(ValueError, match=r"partial holds another run \(different: batch_tokens\)"):
            run_teacher(large, training_set, tmp_path, **how | {"batch_tokens": 500})
        stop, before = 0, len(calls)
        again = run_teacher(large, training_set, tmp_path, **how)
    total = len(calls) - before + 2
    assert total > 4
    for name in ("correct", "states", "ids", "log_probabilities", "tail"):
        a, b = getattr(again, name), getattr(caches[mode], name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == [FOLDER]
    names = {p.name for p in (tmp_path / FOLDER).iterdir()}
    assert RECORD in names and all(name == RECORD or name.endswith(".npy") for name in names)


def test_a_cache_of_something_else_is_refused(setting, tmp_path):
    tokenizer, training_set, large = setting
    about = fingerprint(large, tokenizer, training_set)
    run_teacher(large, training_set, tmp_path, mode="argmax", about=about)
    assert TeacherCache.load(tmp_path, **about).mode == "argmax"
    other = build_model(ModelSize(hidden=32, layers=2, heads=2, context=48), tokenizer, 8)
    fewer = TrainingSet.__new__(TrainingSet)
    fewer.pad, fewer.pairs = training_set.pad, training_set.pairs[:50]
    for changed, name in ((fingerprint(other, tokenizer, training_set), "teacher"),
                          (fingerprint(large, tokenizer, fewer), "data"), ({"mode": "topk"}, "mode")):  # fmt: skip
        with pytest.raises(ValueError, match=f"is the cache of another run: {name} .*make it again"):
            TeacherCache.load(tmp_path, **changed)
    with pytest.raises(FileNotFoundError, match="run `teacher.run_teacher` first"):
        TeacherCache.load(tmp_path / "elsewhere")
    place = tmp_path / FOLDER
    correct = place / "correct.npy"
    right = correct.read_bytes()
    correct.write_bytes(right[:-1] + bytes([1 - right[-1]]))
    with pytest.raises(ValueError, match=r"correct.npy cannot be read \(its bytes have changed\): delete .*run the t"):
        TeacherCache.load(tmp_path)
    assert TeacherCache.load(tmp_path, verify=False).correct[-1] == 1 - right[-1]  # not asked to read them all
    for content in (b"", b"not an array", right[:-1]):
        correct.write_bytes(content)
        with pytest.raises(ValueError, match="correct.npy cannot be read .*: delete .* and run the teacher again"):
            TeacherCache.load(tmp_path, verify=False)
    (place / RECORD).write_text((place / RECORD).read_text().replace("argmax", "hidden"))
    with pytest.raises(ValueError, match="are missing, damaged, or do not belong together: make them again"):
        TeacherCache.load(tmp_path, verify=False)
    run_teacher(large, training_set, tmp_path, mode="argmax", about=about)  # in the place of the damaged one
    assert TeacherCache.load(tmp_path, **about).mode == "argmax"
    with pytest.raises(ValueError, match="unknown mode 'top'"):
        run_teacher(large, training_set, tmp_path, mode="top")
    with pytest.raises(ValueError, match="k is 0; expected a whole number >= 1"):
        run_teacher(large, training_set, tmp_path, mode="topk", k=0)


def test_what_a_mode_does_not_hold_is_said(caches):
    with pytest.raises(ValueError, match="mode 'topk' holds no logits"):
        caches["topk"].logits(torch.arange(2))
    with pytest.raises(ValueError, match="mode 'argmax' holds no distribution"):
        caches["argmax"].distribution(torch.arange(2), 1.0, "cpu")
    with pytest.raises(ValueError, match="mode 'argmax' holds no tokens: make one of mode hidden or topk"):
        caches["argmax"].predicted(torch.arange(2), torch.arange(2))
    for method in ("cat-dist", "large-labels"):
        told = f"method '{method}' learns from L's own words: set teacher to hidden or topk"
        with pytest.raises(ValueError, match=told):
            TrainSettings(method=method, teacher="argmax")
    with pytest.raises(ValueError, match="unknown teacher 'top'"):
        TrainSettings(teacher="top")


def test_processes_share_one_file(setting, tmp_path):
    """The tensors are a map of the file: a second process sees them without a copy of its own."""
    _, training_set, large = setting
    run_teacher(large, training_set, tmp_path)
    script = """
        import sys
        from cat_core.training.teacher import TeacherCache
        cache = TeacherCache.load(sys.argv[1])
        assert sys.argv[1] in open("/proc/self/maps").read(), "not mapped"
        print(int(cache.correct.sum()))
    """
    code, said = warm.run(textwrap.dedent(script), tmp_path, output=tmp_path / "log")
    assert code == 0, said
    assert int(said) == int(TeacherCache.load(tmp_path).correct.sum())


# ---------------------------------------------------------------- filled in place

ARRAYS = {
    "flags": (torch.bool, (5,)), "x": (torch.float32, (5, 3)), "empty": (torch.int64, (0, 2)),
    "y": (torch.bfloat16, (5, 2)), "scalar": (torch.int64, ()),
}  # fmt: skip
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64, torch.int32, torch.int16]


def stored(folder) -> dict[str, torch.Tensor]:
    """The tensors of a finished cache, by plain numpy and the types that its record names."""
    record = json.loads((folder / RECORD).read_text())
    kinds = {name: getattr(torch, kind) for name, (kind, _) in record["tensors"].items()}
    return {n: torch.from_numpy(np.load(folder / f"{n}.npy")).view(kind) for n, kind in kinds.items()}


def test_what_is_written_reads_back_and_no_more_is_left(tmp_path):
    writer = CacheWriter(tmp_path, ARRAYS, {"of": "test"})
    values = {
        name: torch.randint(0, 2, shape).to(dtype) if dtype == torch.bool else torch.randn(shape).to(dtype)
        for name, (dtype, shape) in ARRAYS.items()
    }
    for name, tensor in values.items():
        writer.tensors[name].copy_(tensor)
    writer.finished(0)
    assert not (tmp_path / FOLDER).exists()
    assert writer.close() == tmp_path / FOLDER
    found = stored(tmp_path / FOLDER)
    assert found.keys() == values.keys()
    for name, tensor in values.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert json.loads((tmp_path / FOLDER / RECORD).read_text())["about"] == {"of": "test"}
    assert {p.name for p in (tmp_path / FOLDER).iterdir()} == {RECORD, *(f"{name}.npy" for name in ARRAYS)}
    assert [p.name for p in tmp_path.iterdir()] == [FOLDER]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3),
                       st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3))))  # fmt: skip
def test_any_shapes(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("shapes")
    writer = CacheWriter(folder, {name: (dtype, tuple(shape)) for name, (dtype, shape) in parts.items()}, {})
    for tensor in writer.tensors.values():
        tensor.fill_(1)
    found = stored(writer.close())
    assert found.keys() == parts.keys()
    for name, (dtype, shape) in parts.items():
        assert found[name].dtype == dtype and torch.equal(found[name], torch.ones(shape, dtype=dtype))


def test_it_goes_on_where_it_was(tmp_path):
    first = CacheWriter(tmp_path, ARRAYS, {})
    first.tensors["x"][:2] = 7.0
    for batch in (3, 12, 4):
        first.finished(batch)
    mark = first.partial / "batch_000004.json"
    mark.write_text(mark.read_text()[:-9])  # cut by a power failure
    (first.partial / ".batch_000005.json.7.tmp").write_text("{")  # was being written
    again = CacheWriter(tmp_path, ARRAYS, {})
    with pytest.warns(UserWarning, match="batch_000004.json is computed again: it is unreadable"):
        assert [batch for batch in range(20) if again.done(batch)] == [3, 12]
    assert (again.tensors["x"][:2] == 7).all() and (again.tensors["x"][2:] == 0).all()
    again.finished(4)
    last = CacheWriter(tmp_path, ARRAYS, {})
    assert [batch for batch in range(20) if last.done(batch)] == [3, 4, 12]
    assert len(list(last.close().iterdir())) == len(ARRAYS) + 1


@pytest.mark.parametrize("change", [{"flags": (torch.bool, (6,))}, {"x": (torch.float16, (5, 3))}])
def test_an_unfinished_cache_of_something_else_is_refused(tmp_path, change):
    CacheWriter(tmp_path, ARRAYS, {"of": "one"}).finished(0)
    for parts, about, name in ((ARRAYS | change, {"of": "one"}, "tensors"), (ARRAYS, {"of": "two"}, "of")):
        with pytest.raises(ValueError, match=rf"partial holds another run \(different: {name}\): .*delete this one"):
            CacheWriter(tmp_path, parts, about)
    assert CacheWriter(tmp_path, ARRAYS, {"of": "one"}).done(0)


def test_marks_without_their_file_are_not_believed(tmp_path):
    writer = CacheWriter(tmp_path, ARRAYS, {})
    writer.tensors["x"][:] = 7.0
    writer.finished(1)
    (writer.partial / "flags.npy").unlink()
    again = CacheWriter(tmp_path, ARRAYS, {})
    assert not again.done(1) and not again.tensors["x"].any()


def test_kill_9_keeps_what_was_finished(tmp_path):
    script = """
        import sys, torch
        from cat_core.training.teacher import CacheWriter
        writer = CacheWriter(sys.argv[1], {"x": (torch.float32, (100, 8))}, {})
        for batch in range(100):
            writer.tensors["x"][batch] = batch
            writer.finished(batch)
            print(batch, flush=True)
    """
    log = tmp_path / "log"
    log.touch()
    run = warm.start(textwrap.dedent(script), tmp_path, output=log)
    while "\n20\n" not in log.read_text():
        assert run.is_alive() or "\n20\n" in log.read_text(), log.read_text()
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    assert not (tmp_path / FOLDER).exists()
    writer = CacheWriter(tmp_path, {"x": (torch.float32, (100, 8))}, {})
    done = {batch for batch in range(100) if writer.done(batch)}
    assert {*range(21)} <= done
    for batch in done:
        assert (writer.tensors["x"][batch] == batch).all()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's count of a process's memory")
def test_tensors_may_be_larger_than_memory(tmp_path):
    """Four times what the process may still have: filled, and mapped by a reader."""
    rows = 2**27 // 4096
    parts = {"correct": (torch.bool, (1,)), "offsets": (torch.int64, (2,)), "states": (torch.bfloat16, (rows, 2048))}
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + 2**25, limits[1]))
    try:
        with pytest.raises(RuntimeError, match="memory"):
            torch.ones(rows, 2048, dtype=torch.bfloat16)
        writer = CacheWriter(tmp_path, parts, {})
        writer.tensors["states"][rows - 1] = 1.5
        writer.finished(0)
        writer.tensors, writer.maps = {}, {}
        record = {"about": {}, "tensors": {n: [str(kind)[6:], ""] for n, (kind, _) in parts.items()}}
        write_sealed(writer.partial.rename(tmp_path / FOLDER) / RECORD, record)  # `close` would read it all
        states = TeacherCache.load(tmp_path, verify=False).states
        assert states.dtype == torch.bfloat16 and (states[-1] == 1.5).all() and not states[0].any()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


FILLED = """
    import sys, torch
    from cat_core.training.teacher import CacheWriter
    for rows in map(int, sys.argv[2:]):
        try:
            writer = CacheWriter(sys.argv[1], {"x": (torch.float32, (rows, 256)), "y": (torch.bool, (9,))}, {})
            writer.tensors["x"].fill_(1.0)
            writer.finished(0)
            writer.close()
        except OSError as error:
            print(type(error).__name__, error)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of 200 KB can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_not_the_end_of_the_process(small_disk, tmp_path):
    code, said = warm.run(textwrap.dedent(FILLED), small_disk, 400, 100, output=tmp_path / "log")
    assert code == 0, (code, said)  # a bus error would be -7
    (line,) = said.splitlines()
    assert "No space left on device: the teacher cache needs 409,609 bytes, " in line and str(small_disk) in line
    assert [p.name for p in small_disk.iterdir()] == [FOLDER]  # the second one fits: the first has left nothing
    assert (stored(small_disk / FOLDER)["x"] == 1).all()


def test_a_disk_that_fills_up_later_names_the_file_and_costs_no_batch(small_disk):
    writer = CacheWriter(small_disk, {"x": (torch.float32, (10, 8))}, {})
    writer.finished(0)
    with contextlib.suppress(OSError):
        (small_disk / "other").write_bytes(bytes(2**20))
    with pytest.raises(OSError, match="No space left on device: '.*batch_000001.json'"):
        writer.finished(1)
    assert not list(writer.partial.glob(".*.tmp")) and not writer.done(1) and writer.done(0)
    (small_disk / "other").unlink()
    writer.finished(1)
    assert CacheWriter(small_disk, {"x": (torch.float32, (10, 8))}, {}).done(1)


@pytest.mark.parametrize("missing", ["call", "support"])
def test_room_is_taken_where_the_system_has_no_call_for_it(tmp_path, monkeypatch, missing):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if missing == "call":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    monkeypatch.setattr(teacher, "BLOCK", 1000)
    writer = CacheWriter(tmp_path, {"x": (torch.float32, (100, 256))}, {})
    facts = writer.paths["x"].stat()
    assert facts.st_blocks * 512 >= facts.st_size > 100 * 256 * 4 and not writer.tensors["x"].any()


# ---------------------------------------------------------------- the loss on a cut distribution


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(3, 12), st.integers(1, 12), st.floats(0, 0.9), st.sampled_from([1.0, 2.0]),
       st.integers(0, 1000))  # fmt: skip
def test_the_soft_term_is_the_cross_entropy_of_k_and_one_events(n, vocabulary, k, weight, temperature, seed):
    g = torch.Generator().manual_seed(seed)
    k = min(k, vocabulary)
    small, large = (3 * torch.randn(n, vocabulary, generator=g, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(vocabulary, (n,), generator=g)
    p = (large / temperature).softmax(-1)
    best, ids = p.topk(k, dim=-1)
    top = TopK(ids, best, (1 - best.sum(-1)).clamp_min(0) if k < vocabulary else torch.zeros(n, dtype=p.dtype))
    how = {"label_weight": weight, "temperature": temperature, "mask": "none", "reduction": "none"}
    small.requires_grad_()
    found = cascade_aware_loss(small, labels, teacher_top=top, **how)
    for i in range(n):
        hard = -small[i].log_softmax(-1)[labels[i]].item()
        s = (small[i] / temperature).softmax(-1).tolist()
        chosen = ids[i].tolist()
        soft = -sum(best[i, j].item() * math.log(s[v]) for j, v in enumerate(chosen))
        rest = sum(s[v] for v in range(vocabulary) if v not in chosen)
        if top.tail[i] > 0:
            soft -= top.tail[i].item() * math.log(rest)
        assert found[i].item() == pytest.approx(weight * hard + (1 - weight) * temperature**2 * soft, rel=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), small, retain_graph=True)
    assert torch.isfinite(gradient).all()
    if k == vocabulary:
        whole = cascade_aware_loss(small, labels, large, **how)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(gradient, torch.autograd.grad(whole.sum(), small)[0])


def test_a_tail_that_is_dropped_would_make_s_too_sure():
    """At the optimum S has L's probabilities on the k tokens; without the tail, these divided by their sum."""
    large = torch.linspace(0, -5, 30, dtype=torch.float64)
    p = large.softmax(-1)
    best, ids = p.topk(5)
    none = torch.zeros((), dtype=torch.float64)
    for q, tail, expected in ((best, 1 - best.sum(), best), (best / best.sum(), none, best / best.sum())):
        small = torch.zeros(1, 30, dtype=torch.float64, requires_grad=True)
        top = TopK(ids[None], q[None], tail[None])
        for _ in range(3_000):
            loss = cascade_aware_loss(small, ids[:1], teacher_top=top, label_weight=0.0, mask="none")
            (gradient,) = torch.autograd.grad(loss, small)
            small.data -= 3.0 * gradient
        torch.testing.assert_close(small.detach().softmax(-1)[0, ids], expected, rtol=1e-2, atol=1e-3)


TWO = torch.tensor([[0, 1], [1, 4]])


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (TopK(torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(2)), r"has ids \(2, 3\), probabilities \(2, 2\)"),
        (TopK(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3)), r"for labels \(2,\)"),
        (TopK(torch.full((2, 1), 5), torch.ones(2, 1), torch.zeros(2)), r"token ids in \[5, 5\], but S has 5 output"),
        (TopK(torch.tensor([[0, 1], [3, 3]]), torch.full((2, 2), 0.5), torch.zeros(2)), "has an id twice at 1 of 2"),
        (TopK(TWO, torch.tensor([[0.9, 0.9], [0.5, 0.5]]), torch.tensor([-0.8, 0.0])), "negative .* at 1 of 2 target"),
        (TopK(TWO, torch.tensor([[1.2, -0.2], [0.5, 0.5]]), torch.zeros(2)), "negative or do not sum to 1 at 1 of 2"),
        (TopK(TWO, torch.full((2, 2), 0.3), torch.full((2,), 0.3)), "do not sum to 1 at 2 of 2 target tokens"),
        (TopK(TWO, torch.full((2, 2), math.nan), torch.zeros(2)), "do not sum to 1 at 2 of 2 target tokens"),
    ],
)
def test_a_cut_distribution_that_does_not_fit_is_refused(top, message):
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        cascade_aware_loss(torch.randn(2, 5), labels, teacher_top=top, mask="none")
    with pytest.raises(ValueError, match=message):
        fused_linear_cat_loss(torch.randn(2, 4), torch.randn(5, 4), labels, teacher_top=top, mask="none")
    good = TopK(torch.tensor([[0], [1]]), torch.ones(2, 1), torch.zeros(2))
    with pytest.raises(ValueError, match="were both given"):
        cascade_aware_loss(torch.randn(2, 5), labels, torch.randn(2, 5), teacher_top=good, mask="none")


def test_a_cut_distribution_counts_at_target_tokens_alone_and_may_be_rounded():
    """What stands beside padding is nobody's distribution; half precision does not sum to 1 exactly."""
    p = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).softmax(-1)
    best, ids = p.topk(12, dim=-1)
    top = TopK(ids, best.bfloat16(), (1 - best.sum(-1)).bfloat16())
    for part in top:
        part[4:] = 0
    labels = torch.tensor([1, 2, 3, 4, -1, -1])
    for loss in (
        cascade_aware_loss(torch.randn(6, 40), labels, teacher_top=top, mask="none", ignore_index=-1),
        fused_linear_cat_loss(torch.randn(6, 4), torch.randn(40, 4), labels, teacher_top=top, mask="none",
                              ignore_index=-1),
    ):  # fmt: skip
        assert loss.isfinite()


@pytest.mark.parametrize("mode", MODES)
def test_the_fused_loss_reads_a_cache_of_any_mode(setting, caches, mode):
    """The cache and the numbers of the examples say what the arguments about L would."""
    _, training_set, _ = setting
    cache, some = caches[mode], torch.tensor([5, 0, 9])
    batch = collate([training_set[i] for i in some.tolist()], training_set.pad)
    labels = batch["labels"][:, batch["target_start"] :]
    g = torch.Generator().manual_seed(3)
    columns = caches["hidden"].head.shape[0]
    x, w = torch.randn(*labels.shape, 6, generator=g), torch.randn(columns, 6, generator=g)
    weight = 1.0 if mode == "argmax" else 0.3
    loss, stats = fused_linear_cat_loss(
        x, w, labels, teacher_cache=cache, examples=some, label_weight=weight, return_stats=True
    )
    rows, is_target = cache.rows(some), labels != -100
    known = {} if mode == "argmax" else cache.distribution(rows, 1.0, "cpu", whole=True)
    expected = cascade_aware_loss(
        x[is_target] @ w.T, labels[is_target], teacher_correct=cache.correct[rows], label_weight=weight, **known
    )
    torch.testing.assert_close(loss, expected)
    assert 0 < int(stats.kept) < int(stats.tokens) == len(rows)


@pytest.mark.parametrize("method", ["cat-xent", "random-xent"])
def test_labels_alone_are_taught_the_same_by_every_mode(setting, caches, tmp_path, method):
    """Of L only the flag counts, and the flag is exact: the weights are bit for bit the same."""
    tokenizer, training_set, _ = setting
    weights = []
    for mode in MODES:
        model = build_model(ModelSize(hidden=8, layers=1, heads=2), tokenizer, 1)
        how = TrainSettings(method=method, steps=3, batch_size=8, learning_rate=0.01, teacher=mode)
        train(model, training_set, how, tmp_path / mode, teacher=caches[mode], use_cpu=True)
        weights.append(model.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


def test_a_cache_that_does_not_fit_the_batch_is_refused(caches):
    x, w, labels = torch.randn(4, 6), torch.randn(9, 6), torch.zeros(4, dtype=torch.int64)
    for cache, options, message in (
        ("hidden", {}, "teacher_cache needs examples"),
        ("hidden", {"examples": torch.tensor([0])}, "target tokens for these 1 examples and the batch 4"),
        ("hidden", {"teacher_correct": labels == 0}, "give no other teacher_"),
        ("argmax", {"examples": torch.tensor([0])}, "uses L's distribution"),
    ):
        with pytest.raises(ValueError, match=message):
            fused_linear_cat_loss(x, w, labels, teacher_cache=caches[cache], **options)


def trained_with(setting, cache, folder, **changes):
    tokenizer, training_set, _ = setting
    how = {"method": "cat-dist", "steps": 4, "batch_size": 16, "learning_rate": 5e-3} | changes
    model = build_model(ModelSize(hidden=16, layers=1, heads=2, context=48), tokenizer, 1)
    log = train(model, training_set, TrainSettings(**how), folder, cache, use_cpu=True)
    return torch.cat([p.flatten() for p in model.state_dict().values()]), log


@pytest.mark.parametrize("loss", ["fused", "dense"])
def test_all_tokens_in_the_top_train_as_the_whole_distribution(setting, caches, tmp_path, loss):
    _, training_set, large = setting
    columns = large.get_output_embeddings().weight.shape[0]
    every = run_teacher(large, training_set, tmp_path / "every", mode="topk", k=10 * columns)
    assert every.ids.shape[1] == columns and not every.tail.any()
    for method in ("cat-dist", "dist"):
        a, _ = trained_with(setting, caches["hidden"], tmp_path / "a", loss=loss, method=method)
        b, _ = trained_with(setting, every, tmp_path / "b", loss=loss, method=method, teacher="topk")
        c, _ = trained_with(setting, caches["topk"], tmp_path / "c", loss=loss, method=method, teacher="topk")
        rounded, other = (a - b).abs().mean(), (a - c).abs().mean()  # float16 rounds; seven tokens are another target
        assert rounded < 0.02 * other


def test_methods_of_the_label_alone_train_the_same_from_every_mode(setting, caches, tmp_path):
    found = [trained_with(setting, cache, tmp_path / mode, method="cat-xent", teacher=mode)
             for mode, cache in caches.items()]  # fmt: skip
    for values, log in found[1:]:
        assert torch.equal(values, found[0][0])
        assert [row["keep_rate"] for row in log] == [row["keep_rate"] for row in found[0][1]]


def test_side_by_side_reads_the_same_cache(setting, caches, tmp_path):
    tokenizer, training_set, _ = setting
    plan = [
        TrainSettings(method=m, steps=4, batch_size=16, learning_rate=5e-3, teacher="topk")
        for m in ("dist", "cat-dist")
    ]
    models = [build_model(ModelSize(hidden=16, layers=1, heads=2, context=48), tokenizer, 1) for _ in plan]
    train_side_by_side(models, training_set, plan, tmp_path / "stack", [caches["topk"]] * 2, use_cpu=True)
    for model, each in zip(models, plan):
        together = torch.cat([p.flatten() for p in model.state_dict().values()])
        alone_, _ = trained_with(setting, caches["topk"], tmp_path / each.method, method=each.method, teacher="topk")
        torch.testing.assert_close(together, alone_, rtol=2e-3, atol=2e-4)


def test_a_pass_in_bf16_keeps_the_head_in_full_precision(setting, caches, tmp_path):
    """Other states than in fp32, near them; what is right is decided by the cached states and the head in fp32."""
    _, training_set, large = setting
    fast = run_teacher(large, training_set, tmp_path, precision="bf16")
    slow, rows = caches["hidden"], torch.arange(len(caches["hidden"].correct))
    assert fast.states.dtype == torch.float32 and fast.about["precision"] == "bf16"
    assert not torch.equal(fast.states, slow.states)
    torch.testing.assert_close(fast.states, slow.states, atol=0.1, rtol=0.1)
    labels = torch.tensor([t for _, target in training_set.pairs for t in target])
    logits = fast.logits(rows)
    assert torch.equal(fast.correct, logits.gather(1, labels[:, None])[:, 0] >= logits.amax(1))
    assert (fast.correct == slow.correct).float().mean() > 0.97
    again = run_teacher(large, training_set, tmp_path / "again", precision="bf16")
    assert torch.equal(again.states, fast.states)
    topk = run_teacher(large, training_set, tmp_path / "topk", mode="topk", precision="bf16")
    assert torch.equal(topk.correct, fast.correct)


def test_the_loss_in_bf16_is_summed_in_fp32(setting, caches):
    """Products of rounded factors, everything after them in fp32: against float64 on the rounded products."""
    tokenizer, training_set, _ = setting
    cache = caches["hidden"]
    rows = cache.rows(torch.arange(60))
    labels = torch.tensor([t for _, target in training_set.pairs[:60] for t in target])
    g = torch.Generator().manual_seed(0)
    states = torch.randn(len(rows), 16, generator=g).requires_grad_()
    head = torch.nn.Linear(16, len(tokenizer), bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = training_loss(states, head, labels, TrainSettings(method="xent"), None, None, reduction="sum")
    loss.backward()
    assert loss.dtype == states.grad.dtype == head.weight.grad.dtype == torch.float32
    logits = (states.detach().bfloat16() @ head.weight.detach().bfloat16().T).double()
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # a sum in bf16 would be wrong in the third digit
