"""The benchmarks run, measure what they say, and refuse to compare ways that do not compute the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loss, measure, pair, runner, teacher
from cat_core import inference


@pytest.mark.slow
def test_the_table_has_every_way_of_every_case(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(loss.SIZES, "quick", [(300, 90, 8, 16)])
    out = tmp_path / "new" / "loss.json"
    rows = loss.main(["--quick", "--repeats", "2", "--out", str(out), "--note", "a test"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == len(rows) + 2 and all(line.count("|") == lines[0].count("|") == 10 for line in lines)
    kept = {(row["rho"], row["way"]) for row in rows}
    assert kept > {(rho, way) for rho in (1.0, 0.6, 0.3) for way in ("plain", "plain, amax", "fused")} | {
        (1.0, "dense, with checks"), (1.0, "checkpointed")
    }  # fmt: skip
    for row in rows:
        low, high = row["speedup_range"]
        assert 0 < low <= row["speedup"] <= high and len(row["seconds"]) == 2 and row["floor_share"] > 0
        if row["way"] in ("plain", "plain, Xent"):
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

    assert 8000 <= measure.peak_bytes(two_of_three, "cpu") < 8100  # and the two scalars


def test_a_way_to_another_gradient_is_refused(monkeypatch):
    monkeypatch.setattr(loss, "ways", lambda *_: [{"plain": loss.plain, "other": loss.plain_xent}])
    with pytest.raises(ValueError, match="other has another gradient than plain: relative difference"):
        loss.compare(loss.Case(30, 20, 4, 4, 1.0), "cpu", torch.float32, 1)


def test_every_way_with_the_labels_alone_or_the_teacher_is_compared_with_its_like():
    case = loss.Case(30, 20, 4, 4, 1.0)
    first, second = loss.ways(case, "cpu")
    assert list(first) == ["plain", "plain, amax", "fused", "dense, with checks", "checkpointed"]
    assert next(iter(second)) == "plain, Xent" and "fused, Xent" in second
    some = ["plain", "plain, amax", "fused", "fused, no row skipped"]
    assert list(loss.ways(loss.Case(30, 20, 4, 4, 0.6), "cpu")[0]) == some


@pytest.mark.parametrize("rho", [1.0, 0.6, 0.3])
def test_every_way_finds_the_same_tokens_loss_and_gradients_by_itself(rho):
    """Against the formula in float64 with a loop over tokens: nobody tells a way which tokens count."""
    inputs = loss.Inputs(loss.Case(30, 20, 4, 6, rho), "cpu", torch.float64)
    logits, teacher = inputs.x @ inputs.w.T, inputs.tx @ inputs.tw.T
    right = [y in (int(s.argmax()), int(t.argmax())) for s, t, y in zip(logits, teacher, inputs.y.tolist())]
    assert right == inputs.keep.tolist() and sum(right) == round(30 * rho)
    total = 0
    for s, t, y in zip(logits[inputs.keep], teacher[inputs.keep], inputs.y[inputs.keep]):
        q = 0.5 * torch.softmax(t, 0) + 0.5 * torch.eye(20, dtype=s.dtype)[y]
        total = total - (q * (s - s.logsumexp(0))).sum()
    expected = (total / 30, *torch.autograd.grad(total / 30, (inputs.x, inputs.w)))
    for name, way in loss.ways(loss.Case(30, 20, 4, 6, rho), "cpu")[0].items():
        found = way(inputs)
        for a, b in zip((found, *torch.autograd.grad(found, (inputs.x, inputs.w))), expected):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name, check_dtype=False)


# ----------------------------------------------------------------- the teacher


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
        teacher.compare(teacher.CASES["quick"][0], "cpu", torch.float32, 1)


# ------------------------------------------------------------------ the runner


@pytest.fixture(scope="module")
def quick():
    """Models of the quick run, after fewer steps."""
    sizes = replace(runner.SIZES["quick"], items=24, steps=10, vocabularies=(500,))
    return runner.Inputs(sizes, "cpu", torch.float32)


@pytest.mark.slow
def test_the_runner_is_compared_in_every_part(monkeypatch, quick, tmp_path, capsys):
    monkeypatch.setitem(runner.SIZES, "quick", quick.sizes)
    monkeypatch.setattr(runner, "Inputs", lambda *_: quick)
    out = tmp_path / "new" / "runner.json"
    results = runner.main(["--quick", "--repeats", "2", "--out", str(out), "--note", "a test"])
    columns = [len(part.splitlines()) - 2 for part in capsys.readouterr().out.strip().split("\n\n")]
    parts = ("cascade", "early_exit", "batch", "memory")
    assert columns == [len(results[part]) for part in parts] == [6, 6, 10, 6]
    for row in results["cascade"] + results["early_exit"] + results["batch"]:
        low, high = row["ratio_range"]
        assert 0 < low <= row["ratio"] <= high and 0 < row["wall_ratio"]
        assert len(row["cpu_seconds"]) == len(row["wall_seconds"]) == 2
    for row in results["batch"]:
        assert row["same_answers"] == row["queries"] == 8 and row["error"] < 1e-4
        assert 1 <= row["mean_tokens"] <= row["longest"] <= 16
        assert (row["way"] == "runner") == (row["ratio_range"] == [1, 1])
        assert (row["memory"] is None) == row["way"].endswith("one by one")
    for row in results["early_exit"]:
        assert row["other_decisions"] == 0 and 0 <= row["flops_saved"] <= row["tokens_saved"] < 1
        assert row["unfinished"] <= 24 * row["deferral_rate"] + 1e-9
    assert any(row["flops_saved"] > 0 for row in results["early_exit"])
    stored = json.loads(out.read_text())
    assert {part: stored[part] for part in parts} == {part: results[part] for part in parts}
    assert stored["note"] == "a test" and stored["rounds"] == 2 and stored["sizes"]["batch"] == 8
    assert {"git", "versions", "processor", "load", "clock", "started", "finished"} <= stored.keys()
    assert {"torch", "transformers"} <= stored["versions"].keys()


def test_the_floor_is_the_time_of_s_and_the_deferred_share_of_that_of_l(monkeypatch, quick):
    """Clocks that say 2 for S, 10 for L and 4 for a cascade."""
    monkeypatch.setattr(
        runner,
        "in_turns",
        lambda ways, rounds, device: {
            name: np.full((rounds, 2), {"S": 2.0, "L": 10.0}.get(name, 4.0)) for name in ways
        },
    )
    rows, saved = runner.cascade_rows(quick, 500, "generated", 3)
    assert [round(24 * row["deferral_rate"]) for row in rows] == [2, 7, 14]
    for row in rows:
        assert row["ratio"] == pytest.approx(4 / (2 + row["deferral_rate"] * 10)) and row["large_against_small"] == 5
        assert row["ratio_by_flops"] == pytest.approx(4 / (2 + row["large_flops_share"] * 10))
    result = quick.runner(500).answer(quick.requests["generated"], "large")
    late = np.argsort([r.confidences["chow_average"] for r in quick.runner(500).answer(quick.requests["generated"])])
    work = [result[i].flops for i in late]
    assert [row["large_flops_share"] for row in rows] == pytest.approx([sum(work[:n]) / sum(work) for n in (2, 7, 14)])
    assert {(row["rule"], row["ratio"]) for row in saved} == {("chow_sum", 2), ("chow_quantile_0", 2)}


def test_memory_of_generate_grows_with_steps_and_vocabulary_and_the_runners_does_not(quick):
    peaks = {
        (row["way"], vocabulary, row["steps"]): row["memory"]
        for vocabulary in (1_000, 4_000)
        for row in runner.memory_rows(quick, vocabulary)
    }
    batch, hidden = quick.sizes.batch, quick.sizes.small.hidden
    cached = 12 * batch * 2 * hidden * 4  # bytes of 12 steps' keys and values, in one layer
    for vocabulary in (1_000, 4_000):
        step = batch * vocabulary * 4  # bytes of one step's logits
        own, other = ([peaks[way, vocabulary, steps] for steps in (4, 8, 16)] for way in ("runner", "generate"))
        assert 0 <= own[2] - own[0] < 2 * cached < 12 * step  # twice while they are copied
        assert other[2] - other[0] >= 12 * step and step < own[0] < 10 * step


def test_without_compaction_every_row_stays(monkeypatch, quick):
    rows, original = [], inference.chosen_logprob
    monkeypatch.setattr(
        inference, "chosen_logprob", lambda logits, token: rows.append(len(logits)) or original(logits, token)
    )
    cascade = quick.runner(500)
    share = inference.BUSY_SHARE
    ways = runner.batch_ways(cascade, "small", quick.requests["generated"][:8], "cpu")
    with runner.finished_rows_kept():
        assert inference.BUSY_SHARE < 0
    assert inference.BUSY_SHARE == share
    expected = ways["runner"]()
    rows.clear()
    assert [tokens for tokens, _ in ways["runner, finished rows kept"]()] == [tokens for tokens, _ in expected]
    assert rows == [8] * max(len(tokens) for tokens, _ in expected)


# ----------------------------------------------------------------- a pretrained pair


@pytest.mark.slow
def test_every_job_of_a_pair_is_compared_with_plain_transformers_and_the_products(tmp_path, capsys):
    out = tmp_path / "pair.json"
    rows = pair.main(["--quick", "--repeats", "2", "--out", str(out)])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == len(rows) + 2 and all(line.count("|") == lines[0].count("|") == 9 for line in lines)
    trained = [(row["model"], row["way"]) for row in rows if row["job"] == "training"]
    assert trained == [("S", way) for way in pair.TRAINING] + [("L", way) for way in pair.OF_LARGE]
    for row in rows:
        assert row["speedup_range"][0] <= row["speedup"] <= row["speedup_range"][1] and len(row["seconds"]) == 2
        assert row["memory"] > 0 and row["floor_share"] > 0 and row["tokens_per_second"] > 0
        if row["way"] == pair.PLAIN[row["job"]]:
            assert row["speedup_range"] == [1, 1]
        if row["way"] == "runner":  # of the questions, and of what is written, nothing is left out
            assert row["tokens"] == next(r["tokens"] for r in rows if r["job"] == row["job"]) > 0
    assert json.loads(out.read_text())["rows"] == rows


def test_the_floor_multiplies_what_a_step_cannot_leave_out():
    """2 m n k a product, thrice in training; the counter sees no more than the formula of the model's shape."""
    case = pair.TINY
    layer = 2 * case.hidden**2 + 2 * case.hidden * case.hidden // 2 + 3 * case.hidden * case.intermediate
    with FlopCounterMode(display=False) as counter:
        pair.products(case, [(11, 5), (3, 3)], "cpu", torch.float32, backward=False)()
    assert counter.get_total_flops() == 2 * (14 * layer * case.layers + 8 * case.hidden * case.vocabulary)
    with FlopCounterMode(display=False) as counter:
        pair.products(case, [(11, 5)], "cpu", torch.float32, backward=True)()
    assert counter.get_total_flops() == 6 * (11 * layer * case.layers + 5 * case.hidden * case.vocabulary)


def test_a_way_of_a_pair_with_other_numbers_is_refused(monkeypatch):
    texts, given = pair.Texts(pair.TINY), (pair.TINY, "cpu", torch.float32)

    def wrong(*given):
        step, model = pair.trainer()(*given)

        def other():
            step()
            next(model.parameters()).grad.mul_(2)

        return other, model

    monkeypatch.setattr(pair, "TRAINING", {"plain loop": pair.plain_loop, "Trainer": wrong})
    with pytest.raises(ValueError, match="Trainer has another gradient than plain loop"):
        pair.training_rows(given[0], texts, *given[1:], 1)
    alone = pair.scored_alone
    monkeypatch.setattr(pair, "scored_alone", lambda *given: [value - 0.01 for value in alone(*given)])
    with pytest.raises(ValueError, match="has other log-probabilities than plain, one by one: 1.0e-02 nats apart"):
        pair.scoring_rows(given[0], texts, *given[1:], 1)
    monkeypatch.setattr(pair, "generate", lambda *given: [([1, 2], [0.0, 0.0])] * len(texts.questions))
    with pytest.raises(ValueError, match="runner has 0 of 6 answers in common with generate, one by one"):
        pair.writing_rows(given[0], texts, *given[1:], 1)
