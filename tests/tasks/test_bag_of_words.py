"""The bag of words on tasks whose answer is in the words, and on one where it is not."""

import numpy as np
import pytest

from cat_core.tasks.bag_of_words import bag_of_words
from cat_core.tasks.example import Example


def examples(split, n, seed, kind):
    draw, found = np.random.default_rng(seed), []
    for i in range(n):
        sign = int(draw.integers(2))
        filler = " ".join(draw.choice(["the", "a", "of", "some", "more"], 4))
        if kind == "words":
            prompt, options, target = f"{filler} {('poor', 'fine')[sign]}", ("bad", "good"), ("bad", "good")[sign]
        elif kind == "noise":
            prompt, options, target = filler, ("bad", "good"), ("bad", "good")[sign]
        else:  # other options at each item; the right one is a fruit
            fruit, other = draw.choice(["apple", "pear", "plum"]), draw.choice(["stone", "iron", "sand"])
            options = (str(fruit), str(other)) if sign else (str(other), str(fruit))
            prompt, target = filler, str(fruit)
        found.append(Example(f"{kind}-{split}-{i}", kind, split, prompt, target, options))
    return found


def test_it_learns_what_words_can_tell_and_nothing_else():
    kinds = ("words", "noise", "choice")
    splits = (("train", 200, 0), ("test", 300, 1))
    train, test = ([e for k in kinds for e in examples(s, n, seed, k)] for s, n, seed in splits)
    found = bag_of_words(train, test)
    assert found["words"] == found["choice"] == 1.0 and found["noise"] == pytest.approx(0.5, abs=0.1)


def test_tasks_without_options_or_without_training_are_left_out():
    free = [Example(f"free-{s}", "free", s, "p", "t", metric="exact_match") for s in ("train", "test")]
    train = [*examples("train", 20, 0, "words"), free[0]]
    test = [*examples("test", 9, 1, "words"), *examples("test", 9, 1, "noise"), free[1]]
    assert list(bag_of_words(train, test)) == ["words"]
    assert bag_of_words([], []) == {}
