"""Loaded models and tokenizers that are not what they seem, found on the task's own texts."""

import json
import warnings

import pytest
import torch
from small_models import large_model, sentences, t5_model, t5_tokenizer

from cat_core.tasks.synthetic import MiniWmt, mini_wmt
from cat_core.text import TextFormat
from cat_core.training.checks import check_models, check_texts, surprise, text_problems
from cat_core.training.experiment import Experiment
from cat_core.training.models import load_model, load_tokenizer, save_model

OPTIONS = {"suite": "mini-wmt", "suite_options": {"train": 200, "calibration": 20, "test": 8}, "device": "cpu"}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Folder of a model that has learnt sentences of mini-wmt, with its tokenizer."""
    folder = tmp_path_factory.mktemp("learnt")
    tokenizer, training_set = sentences()
    save_model(large_model(tokenizer, training_set, folder / "checkpoints"), tokenizer, folder / "model")
    return folder / "model"


@pytest.fixture(autouse=True)
def artifacts_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))


def pair_of(small, large, **options):
    """Configurations of S and L of an experiment on two folders."""
    experiment = Experiment.of(
        **OPTIONS | options, small=str(small), large=str(large), steps=1, large_steps=1, learning_rate=1e-4,
        large_learning_rate=1e-4,
    )  # fmt: skip
    return experiment.small_config("xent", 0), experiment.large_config(0)


def test_a_sound_pair_is_not_complained_of(learnt):
    pair = pair_of(learnt, learnt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_texts(*pair)
        check_models(*pair)
    found = surprise(pair[0])
    assert 0 < found["nats"] < found["uniform"]
    assert surprise(pair_of("hidden 8, layers 1, heads 2", "hidden 8, layers 1, heads 2")[0]) is None


def test_a_tokenizer_that_agrees_and_is_not_the_models_own_is_found(learnt, tmp_path):
    """Both have the same tokenizer and PROBE passes, but it is not the one that the weights were trained with."""
    model, tokenizer = load_model(str(learnt)), load_tokenizer(str(learnt))
    with torch.no_grad():
        order = torch.randperm(len(tokenizer), generator=torch.Generator().manual_seed(0))
        model.get_input_embeddings().weight[:] = model.get_input_embeddings().weight[order]
        model.get_input_embeddings().weight *= 3  # sure of itself, as a trained model is
    save_model(model, tokenizer, tmp_path / "shuffled")
    pair = pair_of(learnt, tmp_path / "shuffled")
    with pytest.warns(UserWarning, match=r"L \(.*shuffled\), as it was loaded, gives the targets .* nats") as seen:
        check_models(*pair)
    assert len(seen) == 1, "S is sound"


def test_texts_that_a_tokenizer_loses_are_reported():
    """FLAN-T5's vocabulary has no braces and no line ends; no model with it can write them."""
    tokenizer = t5_tokenizer(["Question: is the sky blue? yes no", "the answer {}".replace("{}", "is red")])
    text = TextFormat(tokenizer, encoder=True)
    problems = text_problems(text, ["is the sky\nblue?", "is the sky blue?"], ["yes", "{yes}"])
    assert len(problems) == 2 and problems[0].startswith("1 of 2 targets are not given back (first '{yes}'")
    assert "1 of 2 prompts are not given back" in problems[1]
    assert text_problems(text, ["is the sky blue?"], ["yes"]) == []


def test_every_text_of_a_suite_comes_back_from_a_tokenizer_trained_on_it(learnt):
    examples = mini_wmt(MiniWmt(train=200, calibration=20, test=30))
    prompts, targets = [e.prompt for e in examples], [e.target for e in examples]
    assert text_problems(TextFormat(load_tokenizer(str(learnt))), prompts, targets) == []


def test_tokenizers_that_cut_the_tasks_texts_apart_are_refused(learnt, tmp_path):
    """Same vocabulary, same cut of the probe; one of them has lost a merge that the task needs."""
    save_model(load_model(str(learnt)), load_tokenizer(str(learnt)), tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-40]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cut the texts of item '.*' into other tokens"):
        check_texts(*pair_of(learnt, tmp_path / "other"))


def test_a_readers_file_is_looked_through(tmp_path):
    tokenizer = t5_tokenizer(["the answer is yes or no"])
    save_model(t5_model(tokenizer, 1), tokenizer, tmp_path / "t5")
    rows = [{"prompt": f"the answer is {i}", "target": "{yes}", "metric": "exact_match"} for i in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"suite": str(tmp_path / "own.jsonl"), "suite_options": None}
    with pytest.warns(UserWarning, match="4 of 4 targets are not given back"):
        check_texts(*pair_of(tmp_path / "t5", tmp_path / "t5", **own))


def test_shots_are_kept_out_of_training(learnt):
    plain, shown = (pair_of(learnt, learnt, shots=n, context=128)[0] for n in (0, 3))
    pairs = [pair for drawn in shown.data.shown().values() for pair in drawn]
    trained = {(e.prompt, e.target) for e in shown.data.load().split("train")}
    assert len(pairs) == 3 * len(shown.data.load().tasks) and not trained.intersection(pairs)
    assert len(plain.data.load().split("train")) > len(shown.data.load().split("train"))
    assert plain.digest() != shown.digest() and "shots" not in plain.identity()
    chat = pair_of(learnt, learnt, template="rendered")[0]
    assert chat.identity()["template"] == "rendered" and chat.digest() != plain.digest()
