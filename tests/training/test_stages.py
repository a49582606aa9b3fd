"""What a training begins with and learns from: healing before the methods, another suite, L's word on what is read."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_study import STUDY, project

from cat_core.methods import METHODS
from cat_core.studies import jobs
from cat_core.studies.study import load_study
from cat_core.training import artifacts, obtain
from cat_core.training.experiment import Experiment
from cat_core.training.models import load_model
from cat_core.training.obtain import train_or_load
from cat_core.training.plan import stages
from cat_core.training.training_set import DataOrder

PAIR = {
    "small": "hidden 8, layers 1, heads 2",
    "large": "hidden 16, layers 1, heads 2",
    "large_steps": 3,
    "steps": 3,
    "batch_size": 8,
    "vocab_size": 400,
    "device": "cpu",
}
TINY = PAIR | {"suite": "mini-superglue", "suite_options": {"train": 60, "calibration": 6, "test": 6}}


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))


def weights(config):
    return load_model(str(train_or_load(config))).state_dict()


def test_every_method_and_seed_begins_with_the_healed_s():
    e = Experiment.of(**TINY, healing_steps=5, methods=["xent", "cat-dist", "gatekeeper"], seeds=[3, 4])
    assert e.healed.settings.method == "xent" and e.healed.settings.steps == 5 and e.healed.teacher is None
    configs = {key: config for key, config in e.configs().items() if key[0] != "large"}
    for (method, _), config in configs.items():
        assert config.begins == e.healed
        assert (config.initial == e.healed) != METHODS[method].second_stage
    assert e.healed.settings.learning_rate == e.learning_rate
    assert replace(e, healing_rate=0.5).healed.settings.learning_rate == 0.5
    assert e.healed.settings.seed not in (3, 4)  # the order in which it reads is another one
    plain = Experiment.of(**TINY, methods=["xent"], seeds=[3, 4])
    assert plain.healed is None and plain.small_config("xent", 3) == replace(configs["xent", 3], initial=None)
    assert obtain.name_of(e.healed) == "small model, before its methods"
    said = [stage.name for stage in stages([e.healed, configs["gatekeeper", 3]])]  # nothing is trained to say so
    assert said == ["small model, before its methods", "small model, gatekeeper, seed 3"]
    assert not list(artifacts.root().glob("model-*"))


def test_training_goes_on_from_the_healed_weights():
    """With a rate of almost 0 a method ends with the weights that it began with."""
    e = Experiment.of(**TINY, healing_steps=5, methods=["xent"])
    config = e.small_config("xent", 0)
    still = replace(config, settings=replace(config.settings, learning_rate=1e-12))
    healed, ended, alone = weights(e.healed), weights(still), weights(replace(still, initial=None))
    for name in healed:
        torch.testing.assert_close(ended[name], healed[name], rtol=0, atol=1e-9)
    assert any(not torch.allclose(healed[name], alone[name], atol=1e-4) for name in healed)


def test_l_is_asked_about_the_examples_that_are_read_and_no_others(monkeypatch):
    e = Experiment.of(**TINY | {"batch_size": 4}, methods=["cat-dist"], seeds=[5])
    config = e.small_config("cat-dist", 5)
    training_set = obtain.training_set_of(config)
    read = set(DataOrder(len(training_set), 12, 5))
    assert len(read) == 12 < len(training_set)
    some = obtain.teacher_of(config, training_set, None)
    every = obtain.teacher_cache(config.teacher, training_set)
    for i in range(len(training_set)):
        rows = some.rows(torch.tensor([i]))
        assert len(rows) == (len(training_set.pairs[i][1]) if i in read else 0)
        if i in read:
            full = every.rows(torch.tensor([i]))
            assert torch.equal(some.correct[rows], every.correct[full])
            torch.testing.assert_close(some.states[rows], every.states[full])
    found = weights(config)
    monkeypatch.setattr(obtain, "seen_of", lambda *_: None)
    monkeypatch.setenv("CAT_ARTIFACTS", str(artifacts.root().with_name("again")))
    expected = weights(config)
    for name in found:
        torch.testing.assert_close(found[name], expected[name])


def test_l_is_asked_about_all_where_a_quarter_or_more_is_read():
    """So that further seeds, which read others, find them."""
    config = Experiment.of(**TINY | {"batch_size": 1}, methods=["cat-dist"]).small_config("cat-dist", 0)
    training_set = obtain.training_set_of(config)
    for steps, some in ((len(training_set) // 4, True), (len(training_set) // 4 + 1, False)):
        seen = obtain.seen_of(replace(config, settings=replace(config.settings, steps=steps)), training_set)
        assert (seen is not None) == some


def test_parts_of_a_suite_share_the_models_that_learnt_all_of_it():
    common = PAIR | {"methods": ["xent"], "train_suite": "almanac", "train_limit": 8, "test_limit": 2, "context": 128}
    parts = [Experiment.of(**common, suite=f"almanac-{part}") for part in ("questions", "translation")]
    first, second = (part.configs() for part in parts)
    assert first == second
    tasks = [{e.task for e in part._evaluated()} for part in parts]
    assert tasks[0].isdisjoint(tasks[1])
    learnt = {e.task for e in parts[0].training_data.load().split("train")}
    assert tasks[0] | tasks[1] <= learnt
    frames = [part.outcomes() for part in parts]
    assert len(list(artifacts.root().glob("model-*/"))) == 2
    for frame, names in zip(frames, tasks):
        assert set(frame["task"]) == names
    alone = Experiment.of(**common | {"train_suite": ""}, suite="almanac-questions")
    assert alone.configs() != first
    signals = parts[1].token_signals(second["xent", 0])
    assert set(signals.example.tolist()) <= set(range(len(parts[1].data.load().split("test"))))


def test_what_is_tested_is_not_learnt(tmp_path):
    learnt = [{"prompt": f"what is {i}", "target": f"{i}", "split": "train", "task": "same"} for i in range(8)]
    tested = [row | {"prompt": f"{s} {row['prompt']}", "split": s} for s in ("calibration", "test") for row in learnt]
    leaked = [row | {"split": "train"} for row in tested[6:10]]
    for name, rows in (("a", learnt + tested), ("b", learnt + leaked + tested[:2] + tested[-2:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    e = Experiment.of(**PAIR, methods=["xent"], suite=str(tmp_path / "a.jsonl"), train_suite=str(tmp_path / "b.jsonl"))
    with pytest.raises(ValueError, match="holds 4 of the 16 items of .* that are tested, such as"):
        e.outcomes()
    e = Experiment.of(**PAIR, methods=["xent"], suite="mini-wmt", train_suite="mini-superglue", shots=1)
    with pytest.raises(ValueError, match="shots is 1 and train_suite 'mini-superglue' has no examples of"):
        e.outcomes()


def test_healing_is_a_part_of_a_study_by_itself(tmp_path, monkeypatch):
    text = STUDY.replace("    steps: 12", "    healing_steps: 4\n    steps: 12")
    root = project(tmp_path / "project", text=text)
    monkeypatch.chdir(root)
    parts = jobs.parts(load_study("tiny", root).cell("wmt"))
    (heal,) = [part for part in parts if part.action == "heal"]
    assert not heal.needs
    for part in parts:
        if part.action == "small":
            assert heal.name in part.needs


HELD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(300)
"""


def test_what_another_process_is_making_comes_last():
    e = Experiment.of(**TINY, methods=["xent", "cat-xent", "dist"])
    configs = [e.small_config(method, 0) for method in e.methods]
    assert list(obtain.shared_out(configs)) == configs
    lock = artifacts.root() / f"model-{configs[0].digest()}.lock"
    other = subprocess.Popen([sys.executable, "-c", HELD, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        said = []
        assert list(obtain.shared_out(configs, said.append)) == [configs[1], configs[2], configs[0]]
        assert said == ["small model, xent, seed 0: another process is training it"]
    finally:
        other.kill()
        other.wait()
    assert list(obtain.shared_out(configs)) == configs
