"""What a run will train, and what it needs: said and checked before it begins, and near what it then takes."""

import itertools
import json
import textwrap
from dataclasses import replace

import pytest
import warm
from small_models import sentences

from cat_core.training import artifacts, plan, training_set
from cat_core.training.experiment import Experiment
from cat_core.training.models import ModelSize, build_model
from cat_core.training.plan import Stage, announce, check, stages
from cat_core.training.train import TrainSettings

TINY = {
    "suite": "mini-superglue", "suite_options": {"train": 60, "calibration": 6, "test": 6}, "vocab_size": 400,
    "small": "hidden 8, layers 1, heads 2", "large": "hidden 16, layers 1, heads 2", "steps": 3, "large_steps": 2,
    "batch_size": 8, "large_batch_size": 8, "device": "cpu", "methods": ["xent", "cat-xent"], "seeds": [0],
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))


def test_every_model_is_announced_by_name_and_steps_before_it_is_trained():
    lines = []
    chosen = Experiment.of(**TINY)
    chosen.train(lines.append)
    announced = [line.partition(", about")[0] for line in lines if line.startswith("to train: ")]
    assert announced == [
        "to train: large model, seed 0: 2 steps",
        "to train: small model, xent, seed 0: 3 steps",
        "to train: small model, cat-xent, seed 0: 3 steps",
    ]
    total = next(i for i, line in enumerate(lines) if line.startswith("3 models to train, about "))
    first = next(i for i, line in enumerate(lines) if "step 1 of" in line)
    assert total < first and "MiB of disk" in lines[total]
    assert any(line.startswith("large model, seed 0: step") for line in lines)
    again = []
    chosen.train(again.append)
    assert again == []  # all are there


def test_a_shape_is_probed_once_and_what_it_leaves_is_what_is_written():
    chosen = Experiment.of(**TINY | {"seeds": [0, 1]})
    found = stages(list(chosen.configs().values()), timed=True)
    assert [stage.steps for stage in found] == [2, 3, 3, 3, 3] and len({stage.memory for stage in found[1:]}) == 1
    assert all(stage.seconds > 0 for stage in found)
    chosen.train()
    for stage, config in zip(found, chosen.configs().values()):
        folder = artifacts.find("model", config.identity(), config.modules)
        assert (folder / "model.safetensors").stat().st_size == pytest.approx(stage.left, rel=0.1)


def test_what_cannot_fit_is_refused_in_one_line(monkeypatch):
    found = [Stage("large model, seed 0", 9, 3 * 2**30, 2**30, 2**28), Stage("small model", 9, 5, 5, 5)]
    check(found, memory=4 * 2**30, disk=2 * 2**30)
    with pytest.raises(ValueError, match=r"^large model, seed 0 needs about 3.0 GiB of memory .* 2.0 GiB are") as error:
        check(found, memory=2 * 2**30, disk=2**40)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^this run writes about 1.3 GiB .* has 1.0 GiB free") as error:
        check(found, memory=2**40, disk=2**30)
    assert "\n" not in str(error.value)
    memory = type("memory", (), {"available": 2**16})
    monkeypatch.setattr(plan.psutil, "virtual_memory", lambda: memory)
    chosen = Experiment.of(**TINY)
    with pytest.raises(ValueError, match="memory to train and 0.1 MiB are free"):
        chosen.train(print)
    assert not list(artifacts.root().glob("model-*")) and announce([], print) == []


def test_the_time_of_a_step_is_less_by_the_padding_that_length_groups_leave_out(monkeypatch):
    tokenizer, examples = sentences(60, 400)
    model, pairs = build_model(ModelSize(hidden=16, layers=1, heads=2, context=96), tokenizer, 1), examples.pairs
    examples.pairs = [(prompt[:n], target[:2]) for n, (prompt, target) in zip((2, 4, 4, 7), pairs)]
    monkeypatch.setitem(training_set.GROUP_TOKENS, "cpu", 0)
    ticks = itertools.count()
    monkeypatch.setattr(plan.time, "perf_counter", lambda: next(ticks))
    columns, settings = 7 + 2, TrainSettings(batch_size=4)
    assert plan._seconds(model, examples, settings) == 2  # the pass, and AdamW, which length groups do not spare
    parted = plan._seconds(model, examples, replace(settings, length_groups=3))
    assert parted == pytest.approx((4 + 6 + 6 + columns) / (4 * columns) + 1)
    monkeypatch.setitem(training_set.GROUP_TOKENS, "cpu", 1)  # a group costs that much, and three are still best
    parted = plan._seconds(model, examples, replace(settings, length_groups=3))
    assert parted == pytest.approx((4 + 6 + 6 + columns + 2) / (4 * columns) + 1)


MEASURED = textwrap.dedent("""
    import json, sys
    from pathlib import Path
    import psutil, torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from cat_core.training.plan import step_bytes
    from cat_core.training.train import TrainSettings, train
    from cat_core.training.training_set import TrainingSet
    shape, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    class Rows(TrainingSet):
        def __init__(self):
            draw = lambda n: torch.randint(1, shape["vocab"], (n,)).tolist()
            self.pad, self.encoder, self.pairs = 0, False, [(draw(56), draw(8)) for _ in range(64)]
    def model(hidden, layers):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=shape["vocab"], hidden_size=hidden, num_hidden_layers=layers, intermediate_size=4 * hidden,
            num_attention_heads=hidden // 64, tie_word_embeddings=True, pad_token_id=0))
    def settings(**how):
        return TrainSettings(method="xent", precision=shape["precision"], **how)
    # the second step is the first one that begins with AdamW's moments: no later one needs more
    rows, real = Rows(), settings(steps=2, batch_size=shape["batch"])
    train(model(64, 1), rows, settings(steps=1, batch_size=2), folder / "a", use_cpu=True)
    before = psutil.Process().memory_info().rss
    train(model(shape["hidden"], shape["layers"]), rows, real, folder / "b", use_cpu=True)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the peak of who started this
    measured = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before
    print(json.dumps([step_bytes(model(shape["hidden"], shape["layers"]), rows, real), measured]))
""")


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        {"hidden": 256, "layers": 4, "vocab": 8000, "batch": 32, "precision": "fp32"},
        {"hidden": 256, "layers": 4, "vocab": 8000, "batch": 16, "precision": "bf16"},
        {"hidden": 512, "layers": 2, "vocab": 2000, "batch": 8, "precision": "fp32"},
        {"hidden": 128, "layers": 6, "vocab": 2000, "batch": 64, "precision": "fp32"},
    ],
    ids=lambda shape: "-".join(map(str, shape.values())),
)
def test_the_memory_of_a_training_is_near_the_estimate(tmp_path, shape):
    """Growth of the peak in a process of its own, over a training of a tiny model that has loaded all code: 20 %."""
    code, said = warm.run(MEASURED, json.dumps(shape), tmp_path, output=tmp_path / "log")
    assert code == 0, said[-2000:]
    estimate, measured = json.loads(said.splitlines()[-1])
    print(f"estimate {estimate / 2**20:.1f} MiB, measured {measured / 2**20:.1f} MiB")
    assert estimate == pytest.approx(measured, rel=0.2)
    assert not list(tmp_path.glob("checkpoint-*"))
