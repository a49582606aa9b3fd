"""Members trained side by side are the models that `train` makes alone."""

from dataclasses import replace

import pytest
import torch
from small_models import large_model, sentences

from cat_core.methods import METHODS
from cat_core.training.models import ModelSize, build_model
from cat_core.training.side_by_side import StackedModels, train_side_by_side
from cat_core.training.teacher import run_teacher
from cat_core.training.train import TrainSettings, train
from cat_core.training.training_set import collate

SIZE = ModelSize(hidden=16, layers=2, heads=2, context=48)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    tokenizer, training_set = sentences(200, 400)
    teachers = []
    for seed in (7, 8):
        large = large_model(tokenizer, training_set, tmp_path_factory.mktemp("large"), layers=1, seed=seed)
        teachers.append(run_teacher(large, training_set, tmp_path_factory.mktemp("teacher")))
    return tokenizer, training_set, teachers


def settings(method, seed):
    return TrainSettings(method=method, steps=12, batch_size=16, learning_rate=4e-3, seed=seed, max_grad_norm=0.5)


def test_stacked_hidden_states_are_those_of_each_model(setting):
    tokenizer, training_set, _ = setting
    models = [build_model(SIZE, tokenizer, seed) for seed in (1, 2, 3)]
    batch = collate([training_set[i] for i in range(6)], training_set.pad)
    shaped = {k: batch[k].view(3, 2, -1) for k in ("input_ids", "attention_mask", "position_ids")}
    states = StackedModels(models)(**shaped)
    for k, model in enumerate(models):
        alone = model(**{n: v[k] for n, v in shaped.items()}, output_hidden_states=True).hidden_states[-1]
        real = shaped["attention_mask"][k].bool()
        torch.testing.assert_close(states[k][real], alone[real], rtol=1e-5, atol=1e-5)


def test_every_member_is_the_model_trained_alone(setting, tmp_path):
    """All methods in one stack, seeds and teachers of their own: weights and logs as from `train`."""
    tokenizer, training_set, teachers = setting
    plan = [(name, 1) for name, method in METHODS.items() if not method.router]
    plan += [(name, 2) for name in ("xent", "random-dist", "cat-dist")]
    models = [build_model(SIZE, tokenizer, seed) for _, seed in plan]
    given = [teachers[seed - 1] for _, seed in plan]
    logs = train_side_by_side(
        models, training_set, [settings(*p) for p in plan], tmp_path / "stack", given, use_cpu=True
    )
    for k, (method, seed) in enumerate(plan):
        alone = build_model(SIZE, tokenizer, seed)
        log = train(alone, training_set, settings(method, seed), tmp_path / f"{k}", teacher=given[k], use_cpu=True)
        for (name, a), b in zip(models[k].state_dict().items(), alone.state_dict().values()):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4, msg=f"{method} seed {seed}: {name}")
        assert [row["step"] for row in log] == [row["step"] for row in logs[k]]
        for a, b in zip(logs[k], log):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
            known = ("both", "only_small", "only_large", "neither") if not METHODS[method].relabel else ()
            assert {"both", "neither"} & b.keys() == {"both", "neither"} & set(known)
            for cell in ("keep_rate", *known):
                assert a[cell] == pytest.approx(b[cell], abs=0.02)
    weights = [torch.cat([p.flatten() for p in m.state_dict().values()]) for m in models]
    trained = {method: weights[k] for k, (method, seed) in enumerate(plan) if seed == 1}
    assert (trained["cat-dist"] - trained["dist"]).abs().max() > 1e-2  # the comparison above could have failed


@pytest.mark.usefixtures("every_group")
def test_length_groups_change_rounding_alone(setting, tmp_path):
    """Members of several seeds read batches of several lengths: each is cut by its own lengths."""
    tokenizer, training_set, teachers = setting
    found = []
    for groups in (1, 3):
        plan = [replace(settings("cat-dist", seed), length_groups=groups) for seed in (1, 2)]
        models = [build_model(SIZE, tokenizer, each.seed) for each in plan]
        logs = train_side_by_side(models, training_set, plan, tmp_path / f"{groups}", teachers, use_cpu=True)
        found.append((models, [row["loss"] for log in logs for row in log]))
    (whole, whole_loss), (cut, cut_loss) = found
    assert whole_loss == pytest.approx(cut_loss, rel=1e-4)
    for a, b in zip(whole, cut):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
            torch.testing.assert_close(x, y, rtol=2e-3, atol=2e-4, msg=name)


def test_bf16_side_by_side_is_bf16_alone(setting, tmp_path):
    """The two round at different places, so losses agree to the precision of bfloat16, not weights."""
    tokenizer, training_set, teachers = setting
    plan = [replace(settings(method, 1), precision="bf16") for method in ("xent", "cat-dist", "random-dist")]
    models = [build_model(SIZE, tokenizer, 1) for _ in plan]
    logs = train_side_by_side(models, training_set, plan, tmp_path / "stack", teachers[:1] * 3, use_cpu=True)
    for k, each in enumerate(plan):
        log = train(build_model(SIZE, tokenizer, 1), training_set, each, tmp_path / f"{k}", teachers[0], use_cpu=True)
        for a, b in zip(logs[k], log, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=0.01)
            assert a["keep_rate"] == pytest.approx(b["keep_rate"], abs=0.05)
        assert log[-1]["loss"] < log[0]["loss"] - 0.1
