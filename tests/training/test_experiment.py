import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.outcomes import paired
from cat_core.tasks.example import score
from cat_core.text import TextFormat
from cat_core.training import artifacts, configs, obtain
from cat_core.training.configs import DataConfig, TrainConfig, parse_size, resolve_device
from cat_core.training.experiment import Experiment
from cat_core.training.models import load_model, load_pair, load_tokenizer
from cat_core.training.obtain import train_or_load
from cat_core.training.teacher import TeacherCache
from cat_core.training.train import TrainSettings

TINY = {
    "suite": "mini-superglue",
    "suite_options": {"train": 120, "calibration": 12, "test": 18},
    "small": "hidden 8, layers 1, heads 2",
    "large": "hidden 16, layers 1, heads 2",
    "steps": 4,
    "large_steps": 6,
    "learning_rate": 5e-3,
    "large_learning_rate": 2e-3,
    "batch_size": 16,
    "vocab_size": 400,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))


def made(root, kind):
    return sorted(p.name for p in Path(root).glob(f"{kind}-*") if p.is_dir())


@pytest.mark.slow
def test_the_table_holds_what_a_task_reports_besides(tmp_path):
    """Of a task with further metrics beside one without, with PMI, whose second reading is paid for."""
    rows = []
    for split, questions in (("train", 20), ("calibration", 4), ("test", 4)):
        for q in range(questions):
            group = f"{split} {q}"
            for k in range(3):
                rows.append({"prompt": f"{group} {k}", "target": ["no", "yes"][(q + k) % 2], "options": ["no", "yes"],
                             "split": split, "task": "answers", "also": ["f1a", "question_em", "f1"],
                             "group_id": group, "cluster_id": group})  # fmt: skip
            rows.append({"prompt": f"say {group}", "target": f"{q}", "split": split, "task": "free"})
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = TINY | {"suite": str(path), "suite_options": None, "steps": 2, "large_steps": 2}
    by_pmi, by_sum = (Experiment.of(**own, methods=["xent"], prediction=p).outcomes() for p in ("pmi", "sum"))
    c = Comparison(by_pmi, resamples=5)
    assert c.of_task("answers").further == ("f1a", "question_em", "f1") and c.of_task("free").further == ()
    assert [other.metric for other in c.of_task("answers").by_further()] == ["f1a", "question_em", "f1"]
    free = by_pmi["task"] == "free"
    assert (by_pmi["option"] < 0).equals(free) and by_pmi["quality_f1"].isna().equals(free)
    assert (by_pmi["option"] == by_pmi["right_option"])[~free].equals(by_pmi["quality"][~free] == 1)
    more = by_pmi["flops"] > by_sum["flops"]
    assert more[~free].all() and not more[free].any()


def test_outcome_table_of_an_experiment(tmp_path):
    chosen = Experiment.of(**TINY, methods=["xent", "cat-dist"], seeds=[0, 1, 2], large_seeds=[5, 6])
    frame = chosen.outcomes(edition="e")
    # 12 calibration and 18 test items; 2 large models and 2 methods x 3 seeds of the small one
    assert len(frame) == 30 * (2 + 6)
    assert set(frame["edition"]) == {"e"} and set(frame["suite"]) == {"mini-superglue"}
    assert [chosen.large_seed(seed) for seed in (0, 1, 2)] == [5, 6, 5]
    pair = paired(frame, "cat-dist", 1, "test", large_seed=6)
    assert len(pair) == 18 and (pair.small_flops > 0).all() and (pair.large_flops > pair.small_flops).all()
    assert (frame["flops"] > 0).all() and (frame["n_generated"] == 2).all()
    assert len(made(tmp_path / "artifacts", "model")) == 8
    assert len(made(tmp_path / "artifacts", "teacher")) == 2, "one pass of each L, shared by methods and seeds"
    assert len(made(tmp_path / "artifacts", "tokenizer")) == 1
    again = chosen.outcomes(edition="e")
    assert again.equals(frame)


def test_a_model_trained_once_is_loaded_by_whoever_asks(monkeypatch):
    chosen = Experiment.of(**TINY, seeds=[0])
    folder = train_or_load(chosen.small_config("cat-dist", 0))
    monkeypatch.setattr(obtain, "train", lambda *a, **k: pytest.fail("trained twice"))
    other = Experiment.of(**TINY, methods=["cat-dist", "xent"], seeds=[0, 7])
    assert train_or_load(other.small_config("cat-dist", 0)) == folder
    small, large, _ = load_pair(str(folder), str(train_or_load(chosen.large_config(0))))
    assert small.config.hidden_size == 8 and large.config.hidden_size == 16
    assert [path.suffix for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")] == []


def test_identity_follows_content_not_place(tmp_path):
    rows = [
        {"prompt": f"{a} and {b}", "target": ("yes", "no")[(a + b) % 2], "options": ["yes", "no"], "split": split}
        for split, numbers in (("train", range(8)), ("calibration", range(8, 11)), ("test", range(11, 15)))
        for a in numbers
        for b in numbers
    ]
    places = [tmp_path / "a" / "own.jsonl", tmp_path / "b" / "own.jsonl"]
    digests = []
    for place in places:
        place.parent.mkdir()
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
        digests.append(TrainConfig(DataConfig(str(place)), TINY["small"], vocab_size=300).digest())
    assert digests[0] == digests[1]
    rows[0]["target"] = "no" if rows[0]["target"] == "yes" else "yes"
    places[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs._load_suite.cache_clear()
    assert TrainConfig(DataConfig(str(places[0])), TINY["small"], vocab_size=300).digest() != digests[0]


def test_each_setting_of_training_is_part_of_the_identity():
    base = Experiment.of(**TINY, seeds=[0, 1])
    digest = base.small_config("cat-dist", 0).digest()
    changed = [
        Experiment.of(**{**TINY, "steps": 5}).small_config("cat-dist", 0),
        Experiment.of(**{**TINY, "large_steps": 5}).small_config("cat-dist", 0),
        Experiment.of(**{**TINY, "small": "hidden 12, layers 1, heads 2"}).small_config("cat-dist", 0),
        Experiment.of(**TINY, label_weight=0.3).small_config("cat-dist", 0),
        Experiment.of(**TINY, normalize="kept").small_config("cat-dist", 0),
        Experiment.of(**TINY, context=80).small_config("cat-dist", 0),
        base.small_config("cat-dist", 1),
        base.small_config("dist", 0),
    ]
    digests = [config.digest() for config in changed]
    assert len({digest, *digests}) == len(digests) + 1
    assert Experiment.of(**TINY, methods=["dist"], seeds=[3, 0]).small_config("cat-dist", 0).digest() == digest


def test_pretrained_pair_by_folder_is_fine_tuned(tmp_path):
    base = Experiment.of(**TINY)
    small, large = (str(train_or_load(c)) for c in (base.small_config("xent", 0), base.large_config(0)))
    rates = {"learning_rate": 1e-3, "large_learning_rate": 1e-3}
    tuned = Experiment.of(**TINY | rates | {"small": small, "large": large}, methods=["cat-xent"])
    frame = tuned.outcomes()
    assert set(frame["method"]) == {"large", "cat-xent"}
    before, after = load_model(small), load_model(str(train_or_load(tuned.small_config("cat-xent", 0))))
    assert not torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)


def test_s_is_cut_out_of_l_as_it_was_before_its_training(tmp_path):
    whole = str(train_or_load(Experiment.of(**{**TINY, "large": "hidden 16, layers 3, heads 2"}).large_config(0)))
    rates = {"learning_rate": 1e-3, "large_learning_rate": 1e-3}
    chosen = Experiment.of(**TINY | rates | {"small": "cut 2 of large", "large": whole}, methods=["cat-xent"])
    assert chosen.small_config("cat-xent", 0).model == f"cut 2 of {whole}"
    frame = chosen.outcomes()
    assert set(frame["method"]) == {"large", "cat-xent"}
    configs = chosen.small_config("cat-xent", 0), chosen.large_config(0)
    small, large = (load_model(str(train_or_load(config))) for config in configs)
    assert (small.config.num_hidden_layers, large.config.num_hidden_layers) == (2, 3)
    costs = frame.groupby("model")["flops"].mean()
    assert costs["small"] < costs["large"]
    start = load_model(f"cut 2 of {whole}").state_dict()
    assert torch.equal(start["model.layers.1.mlp.up_proj.weight"], load_model(whole).model.layers[2].mlp.up_proj.weight)
    moved = (start["model.layers.1.mlp.up_proj.weight"] - small.model.layers[1].mlp.up_proj.weight).abs().max()
    assert 0 < moved < 0.1, "trained from there"


def test_token_rightness_and_logs(tmp_path):
    chosen = Experiment.of(**TINY, methods=["xent", "cat-xent"])
    right = chosen.token_signals(chosen.large_config(0)).right
    assert right.dtype == np.bool_ and right.shape == (18 * 2,)
    logs = chosen.logs()
    assert set(logs) == {("xent", 0), ("cat-xent", 0)}
    assert all("keep_rate" in entry and "neither" in entry for log in logs.values() for entry in log)
    assert [entry["keep_rate"] for entry in logs["xent", 0]] == [1.0] * 4


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": ["cat"]}, "unknown method 'cat'; expected one of xent"),
        ({"methods": []}, "methods is .*at least one value"),
        ({"seeds": [0, 0]}, "no value twice"),
        ({"seeds": [-1]}, "seed -1 is not a whole number"),
        ({"seeds": [True]}, "seed True is not a whole number"),
        ({"small": "hidden 8, layers one, heads 2"}, "cannot read 'layers one'"),
        ({"small": "hidden 8, heads 2"}, "layers missing"),
        ({"small": "hidden 12 layers 2, heads 2"}, "a comma is missing before 'layers'"),
        ({"small": "hidden 12 layers 2 heads 2"}, "a comma is missing before 'layers'; expected such as"),
        ({"small": "cut 6 of large"}, "large 'hidden 16, layers 1, heads 2' is built from scratch and cannot be cut"),
        ({"small": "cut six of large", "large": "owner/name"}, "expected 'cut N of NAME'"),
        ({"small": "cut 2 of large", "large": "cut 4 of owner/name"}, "only S can be cut; give L by the name or"),
        ({"small": "hidden 9, layers 1, heads 2"}, "multiple of 2 x heads"),
        ({"small": "gpt2"}, "build both from scratch or name both"),
        ({"learning_rate": "1e-3"}, "write 1.0e-3"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"device": "meta"}, "unknown device 'meta'; expected auto, cpu, cuda"),
        ({"seeds": [2**32]}, "^seeds: seed 4294967296 is not a whole number from 0 to"),
        ({"large_seeds": [-1]}, "^large_seeds: seed -1 is not a whole number from 0 to"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number >= 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens is 0; expected a whole number >= 1"),
        ({"prediction": "avg"}, "unknown prediction rule 'avg'"),
        ({"label_weight": 2.0}, "label_weight is 2.0 and temperature .*; expected a weight in"),
        ({"temperature": 0}, "temperature 0; expected a weight in .* and a temperature above 0"),
        ({"normalize": "batch"}, "unknown normalize"),
        ({"precision": "fp8"}, "unknown precision"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_computed(change, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        Experiment.of(**{**TINY, **change})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "artifacts").exists()


def test_small_helpers():
    assert parse_size("hidden 16, layers 2, heads 4, kv_heads 2", 32).kv_heads == 2
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="compares S with L"):
        train_or_load(TrainConfig(DataConfig(), TINY["small"], TrainSettings(method="cat-xent")))


def test_mismatched_vocabularies_are_refused_before_training(tmp_path):
    base = Experiment.of(**TINY)
    other = Experiment.of(**{**TINY, "vocab_size": 350})
    small, large = str(train_or_load(base.small_config("xent", 0))), str(train_or_load(other.large_config(0)))
    rates = {"learning_rate": 1e-3, "large_learning_rate": 1e-3}
    mixed = Experiment.of(**TINY | rates | {"small": small, "large": large}, methods=["dist"])
    before = len(made(artifacts.root(), "model"))
    with pytest.raises(ValueError, match="tokenizers of S .* and L .* differ"):
        mixed.outcomes()
    assert len(made(artifacts.root(), "model")) == before


def test_learned_rules_become_confidences_fitted_on_calibration_items(tmp_path):
    changed = TINY | {"suite_options": {"train": 400, "calibration": 60, "test": 30}}
    chosen = Experiment.of(**changed, methods=["xent", "dist"])
    frame = chosen.outcomes(learned_rules=("xent",))
    small = frame[frame["model"] == "small"]
    for rule in ("post_hoc_quantile", "post_hoc_embed", "edge"):
        column = small[f"confidence_{rule}"]
        assert column[small["method"] == "xent"].notna().all() and column[small["method"] != "xent"].isna().all()
    found = chosen.learned_confidences("xent", chosen.seeds[0])
    rows = small[(small["method"] == "xent") & (small["seed"] == chosen.seeds[0])]
    assert rows["confidence_edge"].tolist() == found["edge"]


def test_an_out_of_fold_teacher_has_not_seen_the_example(tmp_path):
    chosen = Experiment.of(**TINY, methods=["cat-dist"], seeds=[0], out_of_fold=True)
    config = chosen.small_config("cat-dist", 0)
    examples = config.data.load().split("train")
    training_set = obtain.training_set_of(config)
    found = obtain.teacher_of(config, training_set, None)
    half = configs.halves(examples)
    assert 0.4 < np.mean(half) < 0.6
    for which in (0, 1):
        large = replace(config.teacher, data=replace(config.data, without_half=which))
        kept = {e.item_id for e in large.data.load().split("train")}
        assert kept == {e.item_id for e, h in zip(examples, half) if h != which}
        assert [e for e in large.data.load().examples if e.split == "test"] == config.data.load().split("test")
        alone = obtain.teacher_cache(large, training_set)
        members = torch.tensor([i for i, h in enumerate(half) if h == which])
        rows = found.rows(members)
        torch.testing.assert_close(found.logits(rows), alone.logits(rows))
        assert torch.equal(found.correct[rows], alone.correct[rows])
    plain = Experiment.of(**TINY, methods=["cat-dist"], seeds=[0])
    assert train_or_load(config).name != train_or_load(plain.small_config("cat-dist", 0)).name
    assert chosen.large_config(0) == plain.large_config(0)


def test_apart_no_model_learns_what_the_other_has_seen():
    chosen = Experiment.of(**TINY, methods=["cat-dist"], seeds=[0], apart=True)
    small, large = chosen.small_config("cat-dist", 0), chosen.large_config(0)
    learnt = [{e.item_id for e in config.data.load().split("train")} for config in (small, large)]
    everything = {e.item_id for e in chosen.data.load().split("train")}
    assert not learnt[0] & learnt[1] and learnt[0] | learnt[1] == everything
    assert 0.4 * len(everything) < len(learnt[0]) < 0.6 * len(everything)
    assert small.teacher == large and len(chosen.data.load().split("train")) == len(everything)
    teacher = obtain.teacher_of(small, obtain.training_set_of(small), None)
    assert len(teacher.offsets) == len(learnt[0]) + 1
    with pytest.raises(ValueError, match="apart and out_of_fold are two ways to one end"):
        Experiment.of(**TINY, apart=True, out_of_fold=True)


def test_stitched_teachers_with_a_bias_keep_their_logits():
    g = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, 2, 3, 6])
    parts = [
        TeacherCache(torch.rand(6, generator=g) < 0.5, offsets, states=torch.randn(6, h, generator=g),
                     head=torch.randn(5, h, generator=g), bias=torch.randn(5, generator=g))
        for h in (3, 4)
    ]  # fmt: skip
    found = obtain.stitched(parts, torch.tensor([1, 0, 1]))
    chosen = [parts[1], parts[1], parts[0], parts[1], parts[1], parts[1]]
    for row, part in enumerate(chosen):
        at = torch.tensor([row])
        torch.testing.assert_close(found.logits(at), part.logits(at))
        assert found.correct[row] == part.correct[row]


@pytest.mark.parametrize("mode", ["topk", "argmax"])
def test_stitched_teachers_of_other_modes_take_each_example_from_its_part(mode):
    g = torch.Generator().manual_seed(0)
    offsets, which = torch.tensor([0, 2, 3, 6]), torch.tensor([1, 0, 1])
    parts = [
        TeacherCache(
            torch.rand(6, generator=g) < 0.5, offsets, about={"temperature": "2.0"},
            **({"ids": torch.randint(9, (6, 2), generator=g), "log_probabilities": torch.rand(6, 2, generator=g).log(),
                "tail": torch.rand(6, generator=g)} if mode == "topk" else {}),
        )
        for _ in range(2)
    ]  # fmt: skip
    found = obtain.stitched(parts, which)
    assert found.mode == mode and found.temperature == 2.0
    for row, part in enumerate([1, 1, 0, 1, 1, 1]):
        for name in ("correct", "ids", "log_probabilities", "tail"):
            if (values := getattr(found, name)) is not None:
                assert torch.equal(values[row], getattr(parts[part], name)[row])


def test_a_mixture_is_trained_on_as_flan_mixes_it(tmp_path):
    chosen = Experiment.of(**TINY, mixing_cap=10, mixing_rounds=3)
    obtain = chosen.data.load().split("train")
    counts = [sum(e.task == task for e in obtain) for task in chosen.data.load().tasks]
    assert counts == [30, 30, 30]  # 40 a task before
    assert chosen.small_config("xent", 0).digest() != Experiment.of(**TINY).small_config("xent", 0).digest()


def test_a_held_out_target_that_no_context_holds_is_left_out_of_the_signals(tmp_path):
    splits = ["train"] * 20 + ["calibration"] * 4 + ["test"] * 4
    rows = [{"prompt": f"say {i}", "target": "well said", "split": s, "item_id": f"q{i}"} for i, s in enumerate(splits)]
    rows[-3]["target"] = " ".join(["endless"] * 40)  # the second test item
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    changed = {"suite": str(path), "suite_options": {}, "context": 24, "truncate_prompts": True, "max_new_tokens": 4}
    chosen = Experiment.of(**TINY | changed, methods=["xent"])
    config = chosen.small_config("xent", 0)
    found = chosen.token_signals(config)
    assert sorted(set(found.example)) == [0, 2, 3]
    tokenizer = load_tokenizer(str(train_or_load(config)))
    lengths = [len(TextFormat(tokenizer).target(row["target"], row["prompt"])) for row in rows[-4:]]
    assert np.bincount(found.example).tolist() == [n if n + 3 <= 24 else 0 for n in lengths]
    short = replace(config, context=3)
    with pytest.raises(ValueError, match="no target of split 'test' fits the context of 3 tokens: raise it"):
        obtain.held_out_of(short, tokenizer, "test")


def test_several_right_answers_and_a_tokenizer_reach_the_table(tmp_path):
    rows = [{"prompt": f"say {i} =", "target": f"w{i % 3}", "metric": "bleu", "tokenize": "char", "split": split,
             "references": [f"w{i % 3} w", "x"] if i % 2 else None, "fame": i / 100,
             "held_out": "fact" if i % 2 else None}
            for split, count in (("train", 24), ("calibration", 4), ("test", 6)) for i in range(count)]  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = Experiment.of(**TINY | {"suite": str(path), "suite_options": {}}, methods=["xent"], seeds=[0])
    frame = chosen.outcomes()
    examples = {e.item_id: e for e in chosen.data.load().examples}
    assert set(frame["tokenize"]) == {"char"} and frame["references"].notna().sum() == 2 * (2 + 3)
    assert set(frame["held_out"].dropna()) == {"fact"} and frame["held_out"].notna().sum() == 2 * (2 + 3)
    for row in frame.itertuples():
        example = examples[row.item_id]
        assert example.fame == (0 if pd.isna(row.fame) else row.fame)
        assert json.loads(row.references) == list(example.references) if example.references else pd.isna(row.references)
        assert row.quality == score(example, row.prediction)
    signature = Comparison(frame).seed_curve("xent", 0).signature
    assert "nrefs:var" in signature and "tok:char" in signature
