"""A mixture of tasks read task by task: what is learnt, and claims of no difference."""

import numpy as np
import pandas as pd
import pytest
from cat_book.drawing import figures
from cat_book.drawing.tables import Table
from cat_book.pages import mixture_report
from cat_book.pages.results import Provenance
from small_tables import rows_of

from cat_core.analysis import claims
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import Undefined
from cat_core.tasks.example import Example
from cat_core.tasks.suite import Suite

SETTING = Provenance("test", "CPU", 1, "0123456789", {})
METHODS = ("xent", "dist", "cat-xent", "cat-dist")
N = 60


def mixture():
    """`easy`: S is right on .9, majority .5; `lazy`: S always says the majority answer, .7; `free`: exact match."""
    rng, parts = np.random.default_rng(0), []
    targets = {"easy": ["a", "b"] * (N // 2), "lazy": ["a"] * 42 + ["b"] * 18, "free": [f"t{i}" for i in range(N)]}
    right = {"easy": np.arange(N) < 54, "lazy": np.arange(N) < 42, "free": np.arange(N) % 2 == 0}
    for task, answers in targets.items():
        metric = "exact_match" if task == "free" else "accuracy"
        for split in ("calibration", "test"):
            how = {"task": task, "metric": metric, "targets": answers, "predictions": answers}
            parts.append(rows_of("large", 0, split, np.ones(N), **how))
            for method in METHODS:
                for seed in (0, 1):
                    parts.append(rows_of(method, seed, split, right[task], rng.normal(size=N), **how))
    return Comparison(pd.concat(parts, ignore_index=True), resamples=100)


def suite():
    """Options for the two tasks that have them: two for `easy`, ten for `lazy`."""
    examples = []
    for split in ("train", "calibration", "test"):
        for i in range(4):
            for task, options in (("easy", ("a", "b")), ("lazy", tuple("abcdefghij"))):
                examples.append(
                    Example(f"{task}-{split}-{i}", task, split, f"{task} {i} {split}", "ab"[i % 2], options)
                )
            examples.append(Example(f"free-{split}-{i}", "free", split, f"f {i} {split}", "t", metric="exact_match"))
    return Suite("mixture", tuple(examples))


@pytest.fixture(scope="module")
def c():
    return mixture()


def test_tasks_are_split_by_metric(c):
    chosen, written = mixture_report.by_metric(c)
    assert chosen.tasks == ("easy", "lazy") and chosen.metric == "accuracy" and chosen.n == 2 * N
    assert written.tasks == ("free",) and written.metric == "exact_match"
    assert mixture_report.by_metric(chosen)[1] is None and mixture_report.by_metric(written)[0] is None


def test_a_model_at_the_majority_class_has_not_learnt(c):
    found = mixture_report.learnt(c)
    assert found["easy"]["majority"] == 0.5 and found["easy"]["small_left"] is True
    assert found["lazy"]["majority"] == pytest.approx(0.7) and found["lazy"]["small"].estimate == pytest.approx(0.7)
    assert found["lazy"]["small_left"] is False and found["lazy"]["large_left"] is True
    assert isinstance(found["free"]["majority"], Undefined) and isinstance(found["free"]["small_left"], Undefined)
    assert isinstance(found["easy"]["guessing"], Undefined)
    assert "2 tasks with options" in mixture_report.learnt_text(c) and "on 1, and L on 2" in mixture_report.learnt_text(
        c
    )


def test_guessing_counts_where_it_is_better_than_the_majority(c):
    found = mixture_report.learnt(c, suite())
    assert found["easy"]["guessing"] == 0.5 and found["lazy"]["guessing"] == pytest.approx(0.1)
    rows = {row[0]: row for row in mixture_report.learnt_table(c, suite()).rows}
    assert rows["lazy"][3:5] == ["70.0", "10.0"] and rows["free"][3:5] == ["–", "–"]
    assert rows["easy"][6] == "yes" and rows["lazy"][6] == "no" and rows["free"][6] == "–"


def test_without_texts_there_is_no_majority(c):
    frame = c.frame.assign(target=None, prediction=None)
    part = Comparison(frame[frame["task"] == "easy"], resamples=20)
    assert isinstance(mixture_report.learnt(part)["easy"]["small_left"], Undefined)
    assert mixture_report.learnt_text(part).startswith("Of no task")


def test_figure_has_every_task_and_the_pool(c):
    chosen, _ = mixture_report.by_metric(c)
    shown = mixture_report.tasks_figure(chosen, SETTING, "Figure 1")
    assert isinstance(shown, figures.Shown)
    assert all(f"{task}: " in shown.alt for task in ("easy", "lazy", "pooled"))
    assert isinstance(mixture_report.tasks_figure(chosen, SETTING, "Figure 1", ("gatekeeper", "xent")), Table)


def test_equivalence_says_how_much_is_right_there(c):
    _, written = mixture_report.by_metric(c)
    rows = claims.no_difference_claims(written)
    shown = mixture_report.equivalence_figure(rows, written, SETTING, "Figure 2")
    assert isinstance(shown, figures.Shown) and shown.alt.count("CAT-Xent") == 3
    text = mixture_report.equivalence_text(rows, written)
    assert "of 6 pairs" in text and text.count("50.0") == 4
    assert isinstance(mixture_report.equivalence_figure([], None, SETTING, "Figure 2"), Table)
    assert mixture_report.equivalence_text([], None).startswith("there is no generative task")
