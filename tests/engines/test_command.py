"""The cascade's command line: its answers are the runner's, and it goes on where it was killed."""

import gzip
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import COMMON, NEW, read, write_prompts
from llama_server import serve, write_gguf

from cat_core.cascade import CascadeRunner
from cat_core.engines.command import main, read_requests, remarks
from cat_core.queries import CascadeResult, Response


@pytest.mark.parametrize(
    ("options", "rule"), [(False, "chow_average"), (True, "option_probability")], ids=["generated", "options"]
)
def test_answers_are_those_of_the_runner(folders, tmp_path, capsys, options, rule):
    prompts = write_prompts(tmp_path / "prompts.jsonl", options=options)
    output = str(tmp_path / "answers.jsonl")
    arguments = [prompts, "--small", folders[0], "--large", folders[1], "--rule", rule, "--output", output, *COMMON]
    assert main([*arguments, "--deferral-rate", "0.25"]) == 0
    said = capsys.readouterr().out
    assert "24 answers, 6 of them by the large model" in said and "\nS: 24 answers, " in said
    runner, requests = CascadeRunner(*folders[2], max_new_tokens=NEW), read_requests(prompts)
    confidence = [r.confidences[rule] for r in runner.answer(requests)]
    tau = sorted(confidence)[5]
    expected = runner.run(requests, tau, rule)
    for i, (row, response) in enumerate(zip(read(output), expected.responses, strict=True)):
        assert row == {
            "item_id": f"q{i}" if i % 3 else f"line-{i + 1:06d}",
            "prediction": response.prediction,
            "model": "large" if confidence[i] <= tau else "small",
            "confidence": confidence[i],
            "n_prompt": response.n_prompt,
            "n_generated": response.n_generated,
            "truncated": response.truncated,
            "tokens": response.tokens,
            "token_logprobs": response.token_logprobs,
            "flops": expected.flops[i],
        }


def test_large_model_at_a_server(folders, tmp_path):
    pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
    write_gguf(folders[2][1], folders[2][2], tmp_path / "large.gguf")
    server = serve(tmp_path / "large.gguf")
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    local, remote = str(tmp_path / "local.jsonl"), str(tmp_path / "remote.jsonl")
    common = [prompts, "--small", folders[0], "--tau", "-2.5", *COMMON]
    url = server.listening_address + "/v1"
    assert main([*common, "--large", folders[1], "--output", local]) == 0
    assert main([*common, "--large", url, "--large-tokenizer", folders[1], "--output", remote]) == 0
    assert 0 < sum(row["model"] == "large" for row in read(local)) < 24
    for a, b in zip(read(local), read(remote), strict=True):
        np.testing.assert_allclose(a.pop("token_logprobs"), b.pop("token_logprobs"), rtol=0, atol=5e-5)
        assert a == b
    # without the model's configuration no cost is stated where the server answered
    assert main([*common, "--large", url, "--output", str(tmp_path / "text.jsonl")]) == 0
    assert all(("flops" in row) == (row["model"] == "small") for row in read(tmp_path / "text.jsonl"))


def test_same_command_again_gives_the_same_file_and_another_is_refused(folders, tmp_path, capsys, monkeypatch):
    prompts, output = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "answers.jsonl"
    arguments = [prompts, "--small", folders[0], "--large", folders[1], "--output", str(output), *COMMON]
    assert main([*arguments, "--tau", "-2.5"]) == 0
    first = output.read_bytes()
    monkeypatch.setattr(CascadeRunner, "_compute", pytest.fail)  # nothing is computed any more
    output.unlink()
    assert main([*arguments, "--tau", "-2.5"]) == 0 and output.read_bytes() == first
    capsys.readouterr()
    for change in (["--tau", "-2"], ["--tau", "-2.5", "--rule", "chow_sum"], ["--deferral-rate", "0.5"]):
        assert main([*arguments, *change]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: {output} belongs to another configuration") and line.count("\n") == 1
        assert change[-2].strip("-").replace("-", "_") in line
    write_prompts(tmp_path / "prompts.jsonl", seed=1)
    assert main([*arguments, "--tau", "-2.5"]) == 2 and "different: queries" in capsys.readouterr().err
    assert output.read_bytes() == first


def test_files_of_others_are_left_alone(folders, tmp_path, capsys):
    prompts, output = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "notes.txt"
    output.write_text("mine")
    arguments = [prompts, "--small", folders[0], "--large", folders[1], "--tau", "0", *COMMON]
    assert main([*arguments, "--output", str(output)]) == 2
    assert "was not written by this command" in capsys.readouterr().err and output.read_text() == "mine"
    assert main([*arguments, "--output", str(tmp_path / "missing" / "a.jsonl")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "prompts.jsonl"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows; it needs one JSON object a line"),
        ('{"prompt": "a"}\n{"target": "b"}\n', "line 2, field 'prompt': missing; every row needs a prompt"),
        ('{"prompt": "a", "option": ["b", "c"]}\n', "line 1, field 'option': unknown field; did you mean 'options'"),
        ('{"prompt": 3}\n', r"line 1, field 'prompt': must be text, not 3 \(int\)"),
        ('{"prompt": "a", "options": "yes"}\n', "line 1, field 'options': must be a list of texts, not 'yes'"),
        ('{"prompt": "a", "options": ["yes", 1]}\n', "line 1, field 'options': must be text, not 1"),
        ('{"prompt": "a", "item_id": ""}\n', "line 1, field 'item_id': must not be empty"),
        ('{"prompt"\n', "line 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_requests(path)


def test_rows_may_be_compressed_and_leave_fields_empty(tmp_path):
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.write('{"prompt": "a", "options": null, "split": "test"}\n\n{"prompt": "b", "item_id": "x"}\n')
    requests = read_requests(tmp_path / "p.jsonl.gz")
    assert [(r.item_id, r.prompt, r.options) for r in requests] == [("line-000001", "a", ()), ("x", "b", ())]


def test_bad_arguments_are_one_line(folders, tmp_path, capsys):
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    base = [prompts, "--small", folders[0], "--output", str(tmp_path / "a.jsonl"), *COMMON]
    for more, message in (
        (["--large", str(tmp_path), "--tau", "0"], "cannot load the tokenizer"),
        (["--large", folders[1], "--tau", "0", "--rule", "chow"], "unknown --rule 'chow'; did you mean 'chow_sum'"),
        (["--large", folders[1], "--tau", "nan"], "--tau is not a number"),
        (["--large", folders[1], "--deferral-rate", "2"], "--deferral-rate 2: expected 0, or a share up to 1"),
        (["--large", "vllm:" + folders[1], "--tau", "0"], "vLLM cannot be imported"),
    ):
        assert main([*base[:3], *more, "--output", str(tmp_path / f"{len(message)}.jsonl"), *COMMON]) == 2
        error = capsys.readouterr().err
        assert message.replace("\\", "") in error and error.count("\n") == 1
        assert not list(tmp_path.glob("[0-9]*.jsonl"))
    with pytest.raises(SystemExit):
        main([*base, "--large", folders[1]])  # neither tau nor rate


@pytest.mark.slow
def test_killed_and_started_again(folders, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", count=150)
    root = Path(__file__).resolve().parents[2]

    def arguments(output):
        models = ["--small", folders[0], "--large", folders[1], "--deferral-rate", "0.4", "--batch-tokens", "1"]
        return [prompts, *models, "--output", str(output), *COMMON]

    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number of them, other last bits
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    whole, output = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert main(arguments(whole)) == 0
    command = [sys.executable, "-m", "cat_core.cascade", *arguments(output)]
    kept = {}
    for side in ("small", "large-*"):  # killed while S answers, then while L does
        process = subprocess.Popen(command, env=environment, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while len(found := list(output.with_name("answers.jsonl.run").glob(f"{side}/batch_*.json"))) < 5:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL and not output.exists()
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        kept |= {path: path.stat().st_mtime_ns for path in found}
    assert len(list(output.with_name("answers.jsonl.run").glob("large-*/batch_*.json"))) < 60
    assert main(arguments(output)) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished batches were not computed again
    assert not list(tmp_path.glob(".answers*"))


def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(folders, tmp_path, capsys):
    """A limit on the size of a file, as a full disk: met by a batch, and by the output."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", count=40)
    given = [prompts, "--small", folders[0], "--large", folders[1], "--tau=-inf", "--batch-tokens", "256", *COMMON]
    whole, output = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    assert main([*given, "--output", str(whole)]) == 0
    batch = max(path.stat().st_size for path in tmp_path.rglob("batch_*.json"))
    assert batch < whole.stat().st_size - 1
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, name in ((batch - 1, "batch_0000"), (whole.stat().st_size - 1, "answers.jsonl'")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            assert main([*given, "--output", str(output)]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "File too large" in line and name in line
        assert not output.exists() and not list(tmp_path.rglob("*.tmp"))
    assert main([*given, "--output", str(output)]) == 0 and output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--deferral-rate", "30"], "--deferral-rate 30: expected 0, or a share up to 1"),
        (["--deferral-rate", "0.001"], "defers at least one of 24 queries"),
        (["--tau", "nan"], "--tau is not a number"),
        (["--tau", "-1", "--rule", "chow_avrage"], "unknown --rule 'chow_avrage'; did you mean 'chow_average'"),
        (["--tau", "-1", "--device", "mps"], "unknown device 'mps'"),
        (["--tau", "-1", "--small", "nowhere/at/all"], "nowhere/at/all"),
        (["--tau", "-1", "--small", "cut 1 of large"], "a cut model says nothing before it is trained"),
    ],
)
def test_a_refused_command_answers_nothing_and_leaves_the_output_free(folders, tmp_path, capsys, change, message):
    prompts, output = write_prompts(tmp_path / "prompts.jsonl"), tmp_path / "answers.jsonl"
    arguments = [prompts, "--small", folders[0], "--large", folders[1], "--output", str(output), *COMMON]
    assert main([*arguments, *change]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and message in line and line.count("\n") == 1
    assert not list(tmp_path.rglob("plan.json")) and not output.exists()
    assert main([*arguments, "--tau", "-2.5"]) == 0


def test_options_that_are_no_list_are_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    for options in ("false", "0", "{}", '""'):
        path.write_text(f'{{"prompt": "a", "options": {options}}}\n')
        with pytest.raises(ValueError, match="line 1, field 'options': must be a list of texts"):
            read_requests(path)
    path.write_text('{"prompt": "a", "options": null}\n')
    assert read_requests(path)[0].options == ()


def answer(prediction, **more):
    return Response("i", prediction, 3, 2, more.pop("truncated", False), [-0.1], 1, {"chow_average": -0.1}, **more)


def result_of(small, large):
    deferred = np.array([r is not None for r in large])
    return CascadeResult(-1.0, "chow_average", np.full(len(small), -0.5), deferred, small, large)


def test_the_summary_counts_what_is_no_answer():
    small = [answer(""), answer(" \n"), answer("yes", truncated=True), answer("no", unfinished=True)]
    small += [answer("a")] * 96
    large = [answer("yes", prompt_truncated=True), answer("no"), *[None] * 98]
    assert remarks(result_of(small, large)) == [
        "S: 100 answers, 2 empty, 1 cut off at --max-new-tokens, 1 unfinished",
        "L: 2 answers, 0 empty, 1 to prompts that were cut",
    ]


def test_the_summary_warns_of_one_answer_and_of_few_queries():
    assert remarks(result_of([answer("yes")] * 99, [None] * 99)) == [
        "S: 99 answers, 0 empty",
        "warning: S gives one answer to everything: 'yes'",
        "L: 0 answers, 0 empty",
        "warning: fewer than 100 queries; a deferral rate or quality on so few says little of others",
    ]
    assert "warning: L gives one answer" in "\n".join(remarks(result_of([answer("a"), answer("b")], [answer("c")] * 2)))
