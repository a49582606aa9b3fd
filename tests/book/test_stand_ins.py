"""What a page says of its data and models is said of the run, and reads as plain text whatever the names are."""

import json

import pytest
from cat_book.pages import stand_ins
from markdown_it import MarkdownIt

from cat_core.training.experiment import Experiment

SCRATCH = {"small": "hidden 8, layers 1, heads 2", "large": "hidden 16, layers 1, heads 2"}
SCRATCH |= {"steps": None, "large_steps": None}


def test_a_pair_from_scratch_on_invented_words():
    e = Experiment.of(suite="mini-wmt", suite_options={"train": 60, "calibration": 6, "test": 6}, **SCRATCH)
    said = stand_ins.about(e, e.data.load()).data
    assert "invented language" in said and "trained from scratch" in said and "learn from" not in said


def test_a_loaded_pair_on_a_part_of_what_it_learns():
    e = Experiment.of(
        suite="almanac-questions", train_suite="almanac", large="owner/name", steps=9,
        train_options={"train": 3400, "calibration": 34, "test": 34},
        suite_options={"train": 1400, "calibration": 14, "test": 14}, small="cut 6 of large", large_steps=7,
        large_train_layers=2, healing_steps=5,
    )  # fmt: skip
    said = stand_ins.data_text(e, e.data.load())
    assert "S and L learn from almanac, 3,400 examples of 34 tasks; this page tests 14 tasks." in said
    said = stand_ins.models_text(e)
    assert "L is owner/name, pretrained, and fine-tuned here in its upper 2 layers for 7 steps." in said
    assert "S is cut out of L, has learnt from labels alone for 5 steps, and is trained by every method for 9" in said
    raw = Experiment.of(suite="mini-wmt", large="owner/name", small="owner/other", large_steps=0, steps=9)
    said = stand_ins.models_text(raw)
    assert said == "L is owner/name, as it was published. S is owner/other and is trained by every method for 9 steps."


@pytest.mark.parametrize("name", ["<script>x", "a_b_c *d* `e`", "$x$ [y](z) & # 1. ~q~ |"])
def test_names_are_plain_text(name, tmp_path):
    rows = [{"prompt": f"p {i}", "target": f"{i % 3}", "split": s} for s in ("train", "calibration", "test")
            for i in range(3)]  # fmt: skip
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    e = Experiment.of(suite=str(path), **SCRATCH)
    suite = e.data.load()
    assert suite.name == name
    (_, inline, _, *rest) = MarkdownIt("commonmark").parse(stand_ins.about(e, suite).data)
    assert "".join(token.content for token in inline.children).startswith(f"The data. {name}.")
