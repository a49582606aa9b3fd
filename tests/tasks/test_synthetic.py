"""Built-in suites: what must hold at any size, whatever the configuration's other fields are tuned to."""

import dataclasses
import os
import subprocess
import sys
import warnings
from collections import Counter

import pytest

from cat_core.tasks.example import SPLITS, text_problem
from cat_core.tasks.mini_flan import MiniFlan, mini_flan
from cat_core.tasks.suite import Suite, load_suite
from cat_core.tasks.synthetic import MiniSuperGlue, MiniWmt, _in_proportion, mini_superglue, mini_wmt

SUITES = {
    "mini-wmt": (MiniWmt, mini_wmt),
    "mini-superglue": (MiniSuperGlue, mini_superglue),
    "mini-flan": (MiniFlan, mini_flan),
}
SMALL = {"train": 240, "calibration": 60, "test": 90}
every = pytest.mark.parametrize("name", SUITES)


def _make(name, **fields):
    kind, make = SUITES[name]
    return make(kind(**{**SMALL, **fields}))


@every
def test_sizes_are_those_asked_for_and_the_suite_is_sound(name):
    examples = _make(name)
    assert Counter(e.split for e in examples) == SMALL
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no prompt of test occurs in train
        Suite(name, tuple(examples))
    assert all(text_problem(text) is None for e in examples for text in (e.prompt, e.target, *e.options))


@every
def test_same_seed_same_examples_other_seed_others(name):
    assert _make(name, seed=3) == _make(name, seed=3)
    first = {e.prompt for e in _make(name, seed=3)}
    second = {e.prompt for e in _make(name, seed=4)}
    assert len(first & second) < len(first) / 10


@every
def test_another_process_makes_the_same_suite(name):
    """Python's hash seed differs between processes: no set or dict order may leak into the data."""
    code = f"from cat_core.tasks.suite import load_suite; print(load_suite({name!r}, options={SMALL!r}).fingerprint)"
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert prints == {load_suite(name, options=SMALL).fingerprint}


@every
def test_growing_train_leaves_everything_else_as_it_is(name):
    small, large = _make(name), _make(name, train=2 * SMALL["train"])
    for split in SPLITS:
        few, many = ([e for e in examples if e.split == split] for examples in (small, large))
        assert many[: len(few)] == few


@every
def test_held_out_prompts_occur_once_and_nowhere_else(name):
    examples = _make(name)
    count = Counter(e.prompt for e in examples)
    assert all(count[e.prompt] == 1 for e in examples if e.split != "train")


@every
def test_every_task_occurs_in_every_split(name):
    examples = _make(name)
    tasks = {e.task for e in examples}
    for split in SPLITS:
        assert {e.task for e in examples if e.split == split} == tasks


def test_mini_wmt_is_generation_scored_by_bleu():
    assert {(e.options, e.metric) for e in _make("mini-wmt")} == {((), "bleu")}


def test_mini_wmt_source_and_target_have_as_many_words_and_share_none():
    for e in _make("mini-wmt"):
        source = [word for word in e.prompt.split() if word.isalpha()]
        target = e.target.split()
        assert len(source) == len(target)
        assert not set(source) & set(target)


def test_mini_superglue_every_answer_is_used_and_none_wins_everywhere():
    examples = _make("mini-superglue", train=1_500)
    for task in {e.task for e in examples}:
        items = [e for e in examples if e.task == task]
        positions = Counter(e.options.index(e.target) for e in items)
        assert set(positions) == set(range(len(items[0].options)))
        assert max(positions.values()) < 0.75 * len(items)


@every
def test_configuration_is_frozen(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        SUITES[name][0]().seed = 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mini-wmt", "f63a1135d5b7784add331b6f8d736f6262823f24b89f822567cea6fb0c01c754"),
        ("mini-superglue", "5f33e85eff144b15faf27168bf0d75575f5529742c30b088f2678795d2af273a"),
        ("mini-flan", "8306fe3f3b24ec3cb5cd889d98a50b294ed42f930e6273a27b92042d12beab4d"),
    ],
)
def test_suites_of_published_results_never_change(name, expected):
    """Outcome tables name items by number: what an item says must stay what it was."""
    assert load_suite(name, options=SMALL).fingerprint == expected


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0), (4.0, 2.0, 1.0), (1.0, 0.3, 0.31, 0.02)])
def test_tasks_get_their_share_of_any_beginning(weights):
    dealt = _in_proportion(weights, 500)
    assert dealt[:120] == _in_proportion(weights, 120)
    for length in (1, 7, 60, 500):
        for index, weight in enumerate(weights):
            share = length * weight / sum(weights)
            assert abs(dealt[:length].count(index) - share) <= 1 + 1e-9
    if len(set(weights)) == 1:
        assert dealt == [number % len(weights) for number in range(500)]  # in turn
