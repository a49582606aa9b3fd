"""A part of a model is trained: upper layers, with and without what is frozen computed before, or low-rank changes."""

import shutil
from collections import namedtuple

import pytest
import torch
from small_models import sentences, t5_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from cat_core.training import frozen, tuning
from cat_core.training.experiment import Experiment
from cat_core.training.models import load_model, save_model
from cat_core.training.obtain import train_or_load
from cat_core.training.train import CascadeAwareTrainer, TrainSettings, train
from cat_core.training.tuning import decoder_layers, freeze, partly_trained, trained_parameters

SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "head_dim": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    return sentences(60, 400)


def build(tokenizer, kind=(LlamaConfig, LlamaForCausalLM), tied=True, dropout=0.0):
    torch.manual_seed(1)
    config = kind[0](
        vocab_size=len(tokenizer), tie_word_embeddings=tied, attention_dropout=dropout, pad_token_id=0, **SHAPE
    )
    return kind[1](config)


def settings(**changes):
    return TrainSettings(**{"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "train_layers": 2} | changes)


class Noting(CascadeAwareTrainer):
    """Keeps the gradient of the first step, as it is before it is limited."""

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        if self.state.global_step == 0:
            Noting.seen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return loss


def run(model, training_set, folder, plan, known=None, kind=CascadeAwareTrainer):
    log = train(model, training_set, plan, folder, frozen=known, use_cpu=True, kind=kind)
    return [(row["loss"], row["grad_norm"]) for row in log]


@pytest.mark.usefixtures("every_group")
@pytest.mark.parametrize("kind", [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)])
@pytest.mark.parametrize("changes", [{"length_groups": 2}, {"gradient_checkpointing": True}])
def test_known_states_of_frozen_layers_give_the_training_that_running_them_gives(setting, tmp_path, kind, changes):
    tokenizer, training_set = setting
    plain, short = (build(tokenizer, kind, tied=kind[0] is LlamaConfig, dropout=0.1) for _ in range(2))
    for model in (plain, short):
        for layer in decoder_layers(model)[2:]:
            layer.self_attn.attention_dropout = 0.0  # that of the frozen ones is off in either case
    first = {name: value.clone() for name, value in plain.state_dict().items()}
    cache = frozen.run_frozen(short, training_set, tmp_path / "states", 2, "fp32", batch_tokens=200)
    found = run(plain, training_set, tmp_path / "a", settings(**changes), kind=Noting)
    gradient = Noting.seen
    log = run(short, training_set, tmp_path / "b", settings(**changes), cache, kind=Noting)
    assert log == [pytest.approx(row, rel=1e-5) for row in found]
    assert Noting.seen.keys() == gradient.keys() and not any(".layers.1." in name for name in gradient)
    for name, value in gradient.items():
        torch.testing.assert_close(Noting.seen[name], value, atol=1e-6, rtol=1e-5)
    after, other = plain.state_dict(), short.state_dict()
    for name, value in after.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-4)
        lower = name.startswith(("model.layers.0.", "model.layers.1.", "model.embed_tokens"))
        tied = name == "lm_head.weight" and kind[0] is LlamaConfig
        assert torch.equal(value, first[name]) == (lower or tied), name
    assert all(p.requires_grad for p in short.parameters()) and len(decoder_layers(short)) == 4


def test_all_layers_with_checkpoints_are_trained_as_without(setting, tmp_path):
    tokenizer, training_set = setting
    logs = [
        run(build(tokenizer), training_set, tmp_path / str(flag), settings(train_layers=0, gradient_checkpointing=flag))
        for flag in (False, True)
    ]
    assert logs[0] == [pytest.approx(row, rel=1e-6) for row in logs[1]]


def test_states_are_kept_in_the_precision_of_the_training_and_a_stopped_pass_goes_on(setting, tmp_path, monkeypatch):
    tokenizer, training_set = setting
    model = build(tokenizer)
    whole = frozen.run_frozen(model, training_set, tmp_path / "whole", 3, "bf16", batch_tokens=200)
    assert whole.states.dtype == torch.bfloat16
    exact = frozen.run_frozen(model, training_set, tmp_path / "exact", 3, "fp32", batch_tokens=200)
    assert 0 < (whole.states.float() - exact.states).abs().max() < 0.1
    prompt, target = training_set.pairs[5]
    with torch.no_grad():
        ids = torch.tensor([prompt + target])
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[3]
    torch.testing.assert_close(exact.batch(torch.tensor([5]), torch.ones_like(ids)), hidden, atol=1e-5, rtol=1e-5)
    states, calls = frozen.lower_states, []

    def fails(*args):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return states(*args)

    monkeypatch.setattr(frozen, "lower_states", fails)
    with pytest.raises(KeyboardInterrupt):
        frozen.run_frozen(model, training_set, tmp_path / "cut", 3, "bf16", batch_tokens=200)
    before, needed = len(calls), len(list((tmp_path / "whole").rglob("*.json")))
    again = frozen.run_frozen(model, training_set, tmp_path / "cut", 3, "bf16", batch_tokens=200)
    assert torch.equal(again.states, whole.states) and len(calls) > before and needed
    monkeypatch.setattr(frozen, "lower_states", lambda *a: pytest.fail("ran a batch again"))


def test_a_disk_without_room_is_refused_before_the_pass(setting, tmp_path, monkeypatch):
    tokenizer, training_set = setting
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1000))
    with pytest.raises(
        ValueError, match=r"states of 2 frozen layers on [\d,]+ tokens take .* GiB and .* free"
    ) as error:
        frozen.run_frozen(build(tokenizer), training_set, tmp_path, 2, "fp32")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_all_linear_layers_and_the_row_of_the_end_and_leaves_plain_weights(setting, tmp_path, tied):
    tokenizer, training_set = setting
    model = build(tokenizer, tied=tied)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    plan = settings(train_layers=0, lora_rank=3, steps=25, learning_rate=2e-2)
    expected = trained_parameters(model, plan)
    with partly_trained(model, plan, tokenizer.eos_token_id) as wrapped:
        assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == expected
    log = run(model, training_set, tmp_path / "run", plan)
    assert log[-1][0] < log[0][0]
    after = model.state_dict()
    assert after.keys() == first.keys() and type(model) is LlamaForCausalLM
    end = tokenizer.eos_token_id
    for name, value in after.items():
        change = value - first[name]
        if ".layers." in name and "proj" in name:
            assert 1 <= torch.linalg.matrix_rank(change, atol=1e-6) <= 3, name
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            # the input's row has a gradient where EOS is read; untied, it never is: answers end with it
            rows = change.abs().sum(1).nonzero().flatten().tolist()
            assert rows == [end] or (not tied and name == "model.embed_tokens.weight" and rows == []), name
        else:
            assert not change.any(), name
    save_model(model, tokenizer, tmp_path / "saved")
    assert "peft_config" not in (tmp_path / "saved" / "config.json").read_text()
    again = load_model(str(tmp_path / "saved"))
    ids = torch.tensor([training_set.pairs[0][0]])
    assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)
    assert all(p.requires_grad for p in model.parameters())


def test_lora_goes_on_after_a_stop_as_without_one(setting, tmp_path, monkeypatch):
    tokenizer, training_set = setting
    plan = settings(train_layers=0, lora_rank=2, steps=9)
    whole, cut = build(tokenizer), build(tokenizer)
    train(whole, training_set, plan, tmp_path / "whole", use_cpu=True)
    step = CascadeAwareTrainer.training_step

    def stops(self, *args, **kwargs):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CascadeAwareTrainer, "training_step", stops)
        train(cut, training_set, plan, tmp_path / "cut", use_cpu=True, checkpoint_every=4)
    cut = build(tokenizer)
    train(cut, training_set, plan, tmp_path / "cut", use_cpu=True, checkpoint_every=4)
    assert all(torch.equal(value, cut.state_dict()[name]) for name, value in whole.state_dict().items())


def test_what_does_not_go_together_is_refused(setting, tmp_path, monkeypatch):
    tokenizer, training_set = setting
    with pytest.raises(ValueError, match="lora_rank is 2 and train_layers 1: choose one"):
        TrainSettings(lora_rank=2, train_layers=1)
    with pytest.raises(ValueError, match="lora_rank is 2 and method 'edge-joint'"):
        TrainSettings(lora_rank=2, method="edge-joint")
    with pytest.raises(ValueError, match="train_layers is 5, and the model has 4 layers"):
        freeze(build(tokenizer), 5)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is not one stack of decoder layers"):
        freeze(t5_model(tokenizer, 1), 1)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match=r"^LoRA needs the package peft: pip install peft, or set lora_rank 0$"):
        train(build(tokenizer), training_set, settings(train_layers=0, lora_rank=2), tmp_path, use_cpu=True)


def test_an_experiment_trains_the_upper_layers_from_one_cache(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    tokenizer, _ = setting
    for name in ("small", "large"):
        save_model(build(tokenizer), tokenizer, tmp_path / name)
    given = {
        "suite": "mini-wmt", "suite_options": {"train": 40, "calibration": 4, "test": 4}, "device": "cpu",
        "small": str(tmp_path / "small"), "large": str(tmp_path / "large"), "steps": 2, "large_steps": 2,
        "batch_size": 8, "large_batch_size": 8, "seeds": [0, 1],
    }  # fmt: skip
    chosen = Experiment.of(**given, methods=["xent", "cat-xent", "gatekeeper"], train_layers=1, large_lora_rank=2)
    assert chosen.large_learning_rate == 3e-4
    chosen.train()
    kinds = [p.name.partition("-")[0] for p in (tmp_path / "artifacts").iterdir() if p.is_dir()]
    assert kinds.count("frozen") == 0 and kinds.count("model") == 7  # less than an epoch: nothing is read twice
    Experiment.of(**given | {"steps": 6}, methods=["xent", "cat-xent", "gatekeeper"], train_layers=1).train()
    assert [p.name.partition("-")[0] for p in (tmp_path / "artifacts").iterdir() if p.is_dir()].count("frozen") == 1
    before = load_model(given["small"]).state_dict()
    after = load_model(str(train_or_load(chosen.small_config("gatekeeper", 1)))).state_dict()
    changed = {name.split(".")[2] for name in before if "layers" in name and not torch.equal(before[name], after[name])}
    assert changed == {"3"}
    with pytest.raises(ValueError, match="lora_rank is 4: for loaded models only"):
        sizes = {"small": "hidden 8, layers 1, heads 2", "large": "hidden 8, layers 1, heads 2"}
        Experiment.of(**given | sizes, lora_rank=4)
    assert tuning.ALPHA == 2
