"""EdgeInference trained together with S: the Trainer's loss against plain loops, resuming, and the way into a table."""

import numpy as np
import pytest
import torch
from small_models import large_model, sentences

from cat_core.rules.edge import Router
from cat_core.training.experiment import Experiment
from cat_core.training.joint import FILE, JointTrainer, load_router, save_router, train_jointly
from cat_core.training.models import ModelSize, build_model
from cat_core.training.side_by_side import train_side_by_side
from cat_core.training.teacher import run_teacher
from cat_core.training.train import TrainSettings, train
from cat_core.training.training_set import collate

SIZE = ModelSize(hidden=16, layers=1, heads=2, context=48)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A training set, its tokenizer, and the outputs of an L that has learnt something."""
    tokenizer, training_set = sentences(120, 400)
    large = large_model(tokenizer, training_set, tmp_path_factory.mktemp("large"), steps=60, rate=1e-2)
    return tokenizer, training_set, run_teacher(large, training_set, tmp_path_factory.mktemp("teacher"))


def weights(*modules):
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def trained(setting, folder, **changes):
    tokenizer, training_set, outputs = setting
    double = changes.pop("double", False)
    given = {"method": "edge-joint", "steps": 6, "batch_size": 8, "learning_rate": 1e-2, "seed": 3} | changes
    model = build_model(SIZE, tokenizer, 1)
    model = model.double() if double else model
    log, router = train_jointly(model, training_set, TrainSettings(**given), folder, outputs, use_cpu=True)
    return log, model, router


def trainer_of(setting, folder, **changes):
    from transformers import TrainingArguments

    tokenizer, training_set, outputs = setting
    model = build_model(SIZE, tokenizer, 1)
    model.cascade_router = Router(generator=torch.Generator().manual_seed(5))
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=1, use_cpu=True, report_to=[], remove_unused_columns=False,
        disable_tqdm=True, per_device_train_batch_size=8,
    )  # fmt: skip
    return JointTrainer(
        model=model, args=arguments, train_dataset=training_set, teacher=outputs,
        settings=TrainSettings(method="edge-joint", batch_size=8, **changes),
        data_collator=lambda items: collate(items, training_set.pad),
    )  # fmt: skip


@pytest.mark.parametrize("normalize", ["tokens", "kept"])
def test_loss_and_gradients_are_those_of_loops_over_sequences(setting, tmp_path, normalize):
    _, training_set, outputs = setting
    trainer = trainer_of(setting, tmp_path, normalize=normalize)
    model, router = trainer.model.train(), trainer.model.cascade_router
    batch = collate([training_set[i] for i in range(8)], training_set.pad)
    loss = trainer.training_step(model, batch)
    got = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    label, entropy, keeps, counts, large_right = [], [], [], [], []
    for i in range(8):
        prompt, target = training_set.pairs[i]
        logits = model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        logp = logits.log_softmax(-1)
        chosen = logp[range(len(target)), target]
        fixed = logp.detach()
        top = fixed.topk(10, dim=-1).values
        rows = torch.cat(
            [-(fixed.exp() * fixed).sum(-1, keepdim=True), top[:, :1] - top[:, 1:], chosen.detach()[:, None]], dim=1
        )
        logit = router(rows[None, None], torch.ones(1, 1, len(target), dtype=torch.bool))[0, 0]
        small = bool((logits.argmax(-1) == torch.tensor(target)).all())
        large = bool(outputs.correct[outputs.rows(torch.tensor([i]))].all())
        proxy = torch.tensor(float(small or not large))
        entropy.append(torch.nn.functional.binary_cross_entropy(logit.sigmoid(), proxy))
        label.append(-chosen.sum() * logit.sigmoid().item())
        keeps.append(logit.sigmoid())
        counts.append(len(target))
        large_right.append(large)
    assert any(large_right)  # else the proxy label is 1 everywhere
    divisor = sum(counts) if normalize == "tokens" else sum(k.item() * n for k, n in zip(keeps, counts))
    expected = sum(label) / divisor + sum(entropy) / 8 + (0.5 - torch.stack(keeps).mean()).clamp_min(0)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_the_log_has_the_ledger_and_the_router(setting, tmp_path):
    log, model, _ = trained(setting, tmp_path, steps=40, batch_size=32)
    for row in log:
        assert row["keep_rate"] == 1.0
        assert sum(row[cell] for cell in ("both", "only_small", "only_large", "neither")) == pytest.approx(1)
        assert 0 < row["router_keep"] < 1 and 0 <= row["router_right"] <= 1
    right = [row["both"] + row["only_small"] for row in log]  # the loss itself may rise: it grows with what is kept
    assert np.mean(right[-5:]) > np.mean(right[:5]) + 0.05 and not hasattr(model, "cascade_router")


@pytest.mark.parametrize(("normalize", "coverage"), [("tokens", 0.44), ("tokens", 0.9), ("kept", 0.44)])
def test_micro_batches_give_the_step_of_the_whole(setting, tmp_path, monkeypatch, normalize, coverage):
    """In float64; the router's own mean keep is 0.44 at the start, so that the hinge of some micro-batches is 0."""
    monkeypatch.setattr("cat_core.training.joint.COVERAGE", coverage)
    monkeypatch.setattr("cat_core.training.joint.Router", lambda **k: Router(**k).double())
    runs = []
    for parts in (1, 2, 4):
        given = {"gradient_accumulation": parts, "normalize": normalize}
        runs.append(trained(setting, tmp_path / str(parts), double=True, **given))
    one = runs[0]
    for other in runs[1:]:
        assert [row["loss"] for row in one[0]] == pytest.approx([row["loss"] for row in other[0]], rel=1e-5)
        for a, b in zip(weights(*one[1:]), weights(*other[1:])):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    other = trained(setting, tmp_path / "other", double=True, seed=4)
    assert max((a - b).abs().max() for a, b in zip(weights(*one[1:]), weights(*other[1:]))) > 1e-2


def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(setting, tmp_path, monkeypatch):
    tokenizer, training_set, outputs = setting
    whole = trained(setting, tmp_path / "whole", steps=40)
    step = JointTrainer.training_step

    def stops(self, *args, **kwargs):
        if self.state.global_step == 25:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    settings = TrainSettings(method="edge-joint", steps=40, batch_size=8, learning_rate=1e-2, seed=3)
    given = (training_set, settings, tmp_path / "cut", outputs)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(JointTrainer, "training_step", stops)
        train_jointly(build_model(SIZE, tokenizer, 1), *given, checkpoint_every=10, use_cpu=True)
    assert (tmp_path / "cut" / "checkpoint-20").is_dir()
    model = build_model(SIZE, tokenizer, 1)
    _, router = train_jointly(model, *given, checkpoint_every=10, use_cpu=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(*whole[1:]), weights(model, router)))


def test_no_other_trainer_takes_the_method(setting, tmp_path):
    tokenizer, training_set, outputs = setting
    settings, models = TrainSettings(method="edge-joint", steps=1, batch_size=4), [build_model(SIZE, tokenizer, 1)] * 2
    with pytest.raises(ValueError, match="trains a router with S: use `joint.train_jointly`"):
        train(models[0], training_set, settings, tmp_path, outputs, use_cpu=True)
    with pytest.raises(ValueError, match="trains a router with S: train it alone"):
        train_side_by_side(models, training_set, [settings] * 2, tmp_path, [outputs] * 2, use_cpu=True)


def test_a_router_is_saved_beside_its_model(setting, tmp_path):
    _, _, router = trained(setting, tmp_path / "run")
    save_router(router, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(weights(load_router(tmp_path)), weights(router)))
    (tmp_path / FILE).unlink()
    with pytest.raises(ValueError, match="holds no router.safetensors: only a model of method 'edge-joint'"):
        load_router(tmp_path)


@pytest.mark.filterwarnings("ignore:rule .* is left out")
def test_its_confidence_is_a_column_of_the_outcome_table(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path))
    options = {"train": 200, "calibration": 40, "test": 20}
    chosen = Experiment.of(
        suite="mini-wmt", suite_options=options, small="hidden 8, layers 1, heads 2", vocab_size=400, device="cpu",
        large="hidden 16, layers 1, heads 2", steps=10, large_steps=60, batch_size=16, large_batch_size=16,
        learning_rate=0.01, large_learning_rate=0.01, methods=["xent", "edge-joint"],
    )  # fmt: skip
    with pytest.warns(UserWarning, match="'post_hoc_quantile' is left out: one class only"):  # S is right on nothing
        frame = chosen.outcomes(learned_rules=("edge-joint",))
    small = frame[frame["model"] == "small"]
    column = small.loc[small["method"] == "edge-joint", "confidence_joint_router"].to_numpy()
    assert np.isfinite(column).all() and len(set(column)) > 10
    assert small["confidence_post_hoc_quantile"].isna().all()
    assert small.loc[small["method"] == "xent", "confidence_joint_router"].isna().all()
