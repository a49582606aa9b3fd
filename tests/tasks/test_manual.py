"""The suite of running text: real passages, in splits that share no module, read and never run."""

import ast
import re

import pytest

from cat_core.tasks.manual import MOST, Manual, cut, docstrings, documents, manual
from cat_core.tasks.suite import load_suite

SMALL = {"train": 300, "calibration": 20, "test": 40}


def test_passages_are_real_text_of_modules_that_no_other_split_has():
    suite = load_suite("python-manual", options=SMALL)
    parts = {split: suite.split(split) for split in SMALL}
    assert {split: len(part) for split, part in parts.items()} == SMALL
    modules = {split: {e.cluster_id for e in part} for split, part in parts.items()}
    assert not (modules["train"] & modules["test"] | modules["train"] & modules["calibration"])
    assert max(sum(e.cluster_id == m for e in parts["test"]) for m in modules["test"]) <= MOST
    whole = {name: " ".join(text.split()) for _, name, text in documents()}
    for e in parts["train"][:50]:
        assert e.target in whole[e.prompt.removesuffix(":")] and len(e.target.split()) > 2
    assert load_suite("python-manual", options=SMALL).fingerprint == suite.fingerprint
    assert load_suite("python-manual", options=SMALL, seed=1).fingerprint != suite.fingerprint


def test_docstrings_are_those_of_all_that_is_defined():
    source = 'class A:\n    "Of A."\n    def f(self):\n        "Of f."\ndef g(): pass\n'
    source = '"M."\n' + source
    assert list(docstrings(ast.parse(source), "m")) == [("m", "M."), ("m.A", "Of A."), ("m.A.f", "Of f.")]
    names = {name for _, name, _ in documents()}
    assert {"json.dumps", "argparse.ArgumentParser", "lambda"} <= names
    assert not any(re.match("test|idlelib|lib2to3", name) for name in names)


def test_passages_end_with_sentences():
    text = "One two three. Four five six seven. Eight! Nine ten eleven twelve thirteen fourteen."
    first, second = cut(text, 7)
    assert (first, second) == ("One two three. Four five six seven.", text.removeprefix(first).strip())
    assert list(cut("Two words.", 7)) == [] and list(cut("a b c d e f g h i j", 3)) == ["a b c", "d e f", "g h i"]
    table = "+-------" * 9 + "+ | A | B |"
    assert list(cut(f"One two three four five six. {table}", 6)) == ["One two three four five six."]


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="train is 9000000, and this Python's documentation has [0-9]+ passages left"):
        manual(Manual(train=9_000_000))
    with pytest.raises(ValueError, match="words is 0; expected a whole number >= 1"):
        Manual(words=0)
