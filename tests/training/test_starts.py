"""What an experiment is trained with where it does not say: by the start of its models."""

import pytest
import torch
from cat_book.build.editions import declared_parameters, notebook_paths
from small_book import ROOT
from small_models import sentences

from cat_core.studies.study import load_study, study_names
from cat_core.training import artifacts, starts
from cat_core.training.experiment import Experiment
from cat_core.training.models import ModelSize, build_model, load_model, save_model
from cat_core.training.obtain import train_or_load

SIZES = {"small": "hidden 8, layers 1, heads 2", "large": "hidden 16, layers 1, heads 2"}
DATA = {"suite": "mini-wmt", "suite_options": {"train": 40, "calibration": 4, "test": 6}, "device": "cpu"}
OPEN = {"steps": None, "large_steps": None}


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Folders of a loaded pair, as fields of an experiment."""
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    tokenizer, _ = sentences(60, 400)
    for name, seed in (("small", 1), ("large", 2)):
        model = build_model(ModelSize(hidden=8 * seed, layers=1, heads=2, context=96), tokenizer, seed)
        save_model(model, tokenizer, tmp_path / name)
    return {name: str(tmp_path / name) for name in ("small", "large")}


@pytest.mark.parametrize(
    "page, expected",
    [
        ("01_cascades", (64, 3000, 1500, 64, 128, 0.02, 0.002)),
        ("02_cat_loss", (64, 2400, 1500, 64, 64, 0.015, 0.003)),
        ("04_superglue", (64, 3000, 1500, 64, 128, 0.02, 0.002)),
        ("05_wmt22", (64, 2400, 1500, 64, 64, 0.015, 0.003)),
        ("06_flan2021", (96, 1500, 1200, 64, 64, 0.015, 0.003)),
    ],
)
def test_pages_train_from_scratch_as_they_did_and_a_named_pair_at_rates_it_can_bear(page, expected, pair):
    """From scratch: the values that stood in the pages when their models were tuned."""
    values = {name: p.default for name, p in declared_parameters(notebook_paths(ROOT)[page]).items()}
    found = Experiment.from_parameters(values)
    assert tuple(getattr(found, name) for name in starts.FIELDS) == (*expected, 1)  # one length group
    assert found.training_precision == "fp32"
    tuned = Experiment.from_parameters(values | pair)
    assert tuned.learning_rate <= 3e-4 and tuned.large_learning_rate <= 5e-5 and tuned.context >= 512
    assert tuned.small_settings.length_groups == tuned.large_settings.length_groups > 1
    assert tuned.small_config("gatekeeper", 0).settings.learning_rate == pytest.approx(tuned.learning_rate / 10)
    assert Experiment.from_parameters(values | pair | {"learning_rate": 1e-5}).learning_rate == 1e-5


def test_recorded_cells_are_trained_with_the_values_they_were_recorded_with():
    before = {"context": 64, "batch_size": 128, "large_batch_size": 128, "precision": "fp32"}
    for name in study_names():
        for cell in load_study(name).cells.values():
            chosen = Experiment.of(**cell.config)
            for field, value in (before | cell.config).items():
                if field in (*starts.FIELDS, "precision"):
                    found = chosen.training_precision if field == "precision" else getattr(chosen, field)
                    assert found == value, (name, cell.name, field)


@pytest.mark.parametrize("name, default", [("learning_rate", "0.0002"), ("large_learning_rate", "3e-05")])
def test_rates_that_destroy_loaded_weights_are_refused_by_name(pair, name, default):
    with pytest.raises(ValueError, match=rf"^{name} is 0.02: above 0.001 loaded .*\({default} is") as caught:
        Experiment.of(**DATA, **OPEN, **pair, **{name: 0.02})
    assert "\n" not in str(caught.value)
    Experiment.of(**DATA, **OPEN, **pair, **{name: 1e-3})
    Experiment.of(**DATA, **OPEN, **SIZES, **{name: 0.02})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"large_steps": 0}, "^large_steps is 0: a model built from scratch has to be trained"),
        ({"steps": 0}, "^steps is 0: a model built from scratch has to be trained"),
        ({"steps": -1}, "^steps is -1; expected a number >= 0"),
        ({"large_batch_size": 0}, "^large_batch_size is 0; expected a whole number >= 1"),
        ({"large_learning_rate": float("nan")}, "^large_learning_rate is nan; expected a number >= 0"),
        ({"learning_rate": float("inf")}, "^learning_rate is inf; expected a number >= 0"),
        ({"precision": "fp16"}, "^unknown precision 'fp16'; expected auto, fp32, bf16"),
        ({"answer_precision": "auto"}, "^unknown answer_precision 'auto'; expected fp32 or bf16"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_own_name(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        Experiment.of(**DATA, **SIZES, **OPEN | change)
    assert "\n" not in str(caught.value)


def test_no_steps_take_a_loaded_model_as_it_is(pair):
    chosen = Experiment.of(**DATA, **pair, steps=2, large_steps=0, batch_size=4, methods=["cat-dist"], large_seeds=[3])
    frame = chosen.outcomes()
    assert set(frame["model"]) == {"small", "large"}
    folder = train_or_load(chosen.large_config(3))
    before, after = load_model(pair["large"]).state_dict(), load_model(str(folder)).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert artifacts.result(folder)["log"] == []
    other = Experiment.of(**DATA, **pair, steps=2, large_steps=0, large_batch_size=7, large_learning_rate=1e-4)
    assert other.large_config(3).digest() == chosen.large_config(3).digest()
    alone = Experiment.of(**DATA, **pair, steps=0, large_steps=0, methods=["xent"])
    assert set(alone.outcomes()["model"]) == {"small", "large"}
    with pytest.raises(ValueError, match=r"large_steps is 0 and large_seeds \[0, 1\]: .* no training seed; give one"):
        Experiment.of(**DATA, **pair, steps=2, large_steps=0, large_seeds=[0, 1])
    with pytest.raises(ValueError, match=r"steps is 0 and methods \['xent', 'dist'\]: .* same by every method"):
        Experiment.of(**DATA, **pair, steps=0, large_steps=0, methods=["xent", "dist"])


def test_auto_is_bf16_for_loaded_models_where_the_processor_has_it(tmp_path, monkeypatch, pair):
    cpu, info = torch.device("cpu"), tmp_path / "cpuinfo"
    for text, fast in (
        ("processor : 0\nflags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags : avx512f avx512_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags : fpu avx2 avx512f\nmodel name : amx_bf16\n", False),
    ):
        info.write_text(text)
        assert starts.fast_bf16(cpu, info) is fast
    assert not starts.fast_bf16(cpu, tmp_path / "none")
    for fast in (True, False):
        monkeypatch.setattr(starts, "fast_bf16", lambda device, fast=fast: fast)
        assert Experiment.of(**DATA, **pair, **OPEN).large_settings.precision == ("bf16" if fast else "fp32")
        assert Experiment.of(**DATA, **SIZES, **OPEN).small_settings.precision == "fp32"
        assert Experiment.of(**DATA, **SIZES, **OPEN, precision="bf16").small_settings.precision == "bf16"
        assert Experiment.of(**DATA, **pair, **OPEN, precision="fp32").small_settings.precision == "fp32"


def test_answers_are_in_fp32_unless_bf16_is_asked_for(pair):
    given = DATA | pair | {"steps": 0, "large_steps": 0, "methods": ["xent"]}
    plain, fast = Experiment.of(**given), Experiment.of(**given, answer_precision="bf16")
    config = plain.small_config("xent", 0)
    folder = str(train_or_load(config))
    assert plain._answering_model(folder).dtype == torch.float32
    assert fast._answering_model(folder).dtype == torch.bfloat16
    one, two = (e.answers(config) for e in (plain, fast))
    scores = [[a["confidences"]["chow_sum"] for a in answers] for answers in (one, two)]
    assert scores[0] != scores[1] and scores[0] == pytest.approx(scores[1], rel=0.2)
    right, rough = (e.token_signals(config).label_logprob for e in (plain, fast))
    assert right.tolist() != rough.tolist() and right == pytest.approx(rough, rel=0.2)


def test_a_run_is_announced_by_the_name_of_its_model(pair):
    lines = []
    chosen = Experiment.of(**DATA, **SIZES, steps=1, large_steps=1, vocab_size=300, methods=["cat-xent"], seeds=[4])
    train_or_load(chosen.small_config("cat-xent", 4), lines.append)
    steps = [line for line in lines if "step 1 of 1" in line]
    assert steps == ["large model, seed 0: step 1 of 1", "small model, cat-xent, seed 4: step 1 of 1"]
