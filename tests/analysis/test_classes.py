"""Metrics of classes and of questions along the curve: scikit-learn, and counting by hand, at every threshold."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef
from small_tables import option_table

from cat_core.analysis.classes import ClassMetric, ClassRun, GroupRun
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.further import further_columns
from cat_core.analysis.metrics import suite_metrics
from cat_core.analysis.outcomes import CHOSEN, OutcomeError, drop_text, read_outcomes, write_outcomes
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.resampling import paired_bootstrap
from cat_core.curves import audc
from cat_core.studies import cell_metrics
from cat_core.tasks.example import Example
from cat_core.tasks.scoring import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn, where it is meant


def oracle(metric, right, chosen):
    if metric == "matthews":
        return matthews_corrcoef(right, chosen)
    average = "macro" if metric == "macro_f1" else "binary"
    return f1_score(right, chosen, average=average, zero_division=0)


def question_em(groups, right):
    """Share of groups whose answers are all right, group by group."""
    return np.mean([all(r for g, r in zip(groups, right) if g == group) for group in dict.fromkeys(groups)])


def answers(seed, n=30, classes=3, ties=False, present=None):
    """(options of S, of L, right ones, confidence); right ones are of the first `present` options."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, present or classes, n)
    small, large = (np.where(rng.random(n) < s, right, rng.integers(0, classes, n)) for s in (0.4, 0.7))
    confidence = rng.integers(0, 5, n) * 1.0 if ties else rng.normal(size=n)
    return small, large, right, confidence


def mixed(small, large, confidence, tau):
    return np.where(confidence <= tau, large, small)


@pytest.mark.parametrize("present", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", CLASSES)
def test_every_threshold_is_scikit_learns(metric, ties, present):
    classes = 2 if metric in ("binary_f1", "f1a") else 3
    small, large, right, confidence = answers(0, classes=classes, ties=ties, present=min(present, classes))
    curve = ClassRun(small, large, right, confidence, metric).curve()
    knots = np.flatnonzero(curve.realisable)
    assert len(knots) == len(set(confidence)) + 1
    expected = [oracle(metric, right, mixed(small, large, confidence, curve.threshold[k])) for k in knots]
    np.testing.assert_allclose(curve.quality[knots], expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(curve.quality, np.interp(np.arange(31), knots, curve.quality[knots]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12), st.integers(1, 4))
def test_summed_counts_give_scikit_learns_score(pairs, classes):
    right, chosen = (np.minimum(x, classes - 1) for x in np.array(pairs).T)
    for name in ("macro_f1", "matthews", *(("binary_f1",) if classes <= 2 else ())):
        metric = ClassMetric(name, classes)
        found = metric.scores(metric.counts(chosen, right).sum(axis=0))
        assert found == pytest.approx(oracle(name, right, chosen), abs=1e-12)


def test_an_answer_that_is_no_option_is_wrong():
    right, chosen = np.array([0, 1, 1, 0]), np.array([0, 1, -1, -1])
    for name in ("macro_f1", "binary_f1", "matthews"):
        metric = ClassMetric(name, 2)
        found = metric.scores(metric.counts(chosen, right).sum(axis=0))
        labels = {"labels": [0, 1], "average": "macro"} if name == "macro_f1" else {"labels": [1], "average": "macro"}
        expected = matthews_corrcoef(right, chosen) if name == "matthews" else f1_score(right, chosen, **labels)
        assert found == pytest.approx(expected, abs=1e-12)


def questions(seed, n=40, ties=False):
    rng = np.random.default_rng(seed)
    groups = [f"q{i}" for i in rng.integers(0, n // 3, n)]
    small, large = rng.random(n) < 0.6, rng.random(n) < 0.8
    return small, large, groups, rng.integers(0, 6, n) * 1.0 if ties else rng.normal(size=n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_threshold_of_em_over_questions(seed, ties):
    small, large, groups, confidence = questions(seed, ties=ties)
    curve = GroupRun(small, large, groups, confidence).curve()
    for k in np.flatnonzero(curve.realisable):
        right = mixed(small, large, confidence, curve.threshold[k])
        assert curve.quality[k] == pytest.approx(question_em(groups, right), abs=1e-12)
    knots = np.flatnonzero(curve.realisable)
    np.testing.assert_allclose(curve.quality, np.interp(np.arange(41), knots, curve.quality[knots]))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", ["macro_f1", "matthews", "question_em"])
def test_resampling_is_scoring_copied_answers(name, ties):
    """Items are drawn with their question, and each copy of a question is one of its own."""
    if name == "question_em":
        small, large, groups, confidence = questions(7, n=24, ties=ties)
        drawn = np.random.default_rng(0).integers(0, 3, size=(6, 8))[:, [int(g[1:]) for g in groups]]
        run = GroupRun(small, large, groups, confidence)
    else:
        small, large, right, confidence = answers(7, n=24, ties=ties)
        drawn = np.random.default_rng(0).integers(0, 3, size=(6, 24))
        run = ClassRun(small, large, right, confidence, name)
    grid = np.linspace(0, 1, 7)
    areas, values = run.resample(drawn, grid)
    for counts, area, value in zip(drawn, areas, values):
        rows = np.concatenate([np.flatnonzero(counts > copy) for copy in range(3)])
        copies = np.concatenate([np.full((counts > copy).sum(), copy) for copy in range(3)])
        if name == "question_em":
            again = [f"{groups[i]} {copy}" for i, copy in zip(rows, copies)]
            curve = GroupRun(small[rows], large[rows], again, confidence[rows]).curve()
        else:
            curve = ClassRun(small[rows], large[rows], right[rows], confidence[rows], name).curve()
        assert area == pytest.approx(audc(curve), rel=1e-12)
        np.testing.assert_allclose(value, np.interp(grid, curve.deferral_rate, curve.quality), rtol=1e-9, atol=1e-12)


def test_the_oracle_defers_where_l_alone_is_right():
    small, large, right, confidence = answers(3, n=60)
    run = ClassRun(small, large, right, confidence)
    gain = (large == right).astype(float) - (small == right)
    expected = ClassRun(small, large, right, -gain).curve().quality
    np.testing.assert_array_equal(run.greedy_oracle().quality, expected)
    assert audc(run.greedy_oracle()) > audc(run.curve())
    by_question = GroupRun(small == right, large == right, np.arange(60) // 3, confidence)
    assert audc(by_question.greedy_oracle()) > audc(by_question.curve())


def test_bootstrap_takes_them():
    small, large, right, confidence = answers(5, n=60)
    clusters = np.arange(60) // 6
    for make in (
        lambda q: ClassRun(small, large, right, q, cluster_ids=clusters),
        lambda q: GroupRun(small == right, large == right, np.arange(60) // 3, q, cluster_ids=clusters),
    ):
        runs = {"a": make(confidence), "b": make(-confidence)}
        found = paired_bootstrap(runs, pairs=[("a", "b")], resamples=60)
        assert found.n_clusters == 10 and found.area["a"].estimate == pytest.approx(audc(runs["a"].curve()))
        assert found.area["a"].low < found.area["a"].estimate < found.area["a"].high
        assert found.difference_curve["a", "b"].high[[0, -1]] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassRun([0], [0], [-1], [1.0]), r"right_options\[0\] is below 0"),
        (lambda: ClassRun([0], [0, 1], [0], [1.0]), "1, 2, 1 options of S, of L and right ones"),
        (lambda: ClassRun([0], [0], [np.nan], [1.0]), r"right_options\[0\] is nan, expected the number of an option"),
        (lambda: ClassRun([], [], [], []), "small_options must be a non-empty"),
        (lambda: ClassRun([0], [0], [0], [np.nan]), "NaN"),
        (lambda: ClassRun([2], [0], [0], [1.0], "f1a"), "f1a is of two options, got 3"),
        (lambda: ClassRun([0], [0], [0], [1.0], "f1"), "must be one of macro_f1"),
        (lambda: GroupRun([1], [1], ["a", "b"], [1.0]), "1, 1, 2, 1 answers of S, of L, groups and confidences"),
        (lambda: GroupRun([1, 1], [1, 1], ["a", "a"], [1.0, 2], cluster_ids="xy"), "'a' is in two clusters, 'x' and"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- from the table


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("compactly", [True, False])
def test_from_the_table_with_or_without_texts(tmp_path, texts, compactly):
    frame = option_table()
    frame = frame if texts else drop_text(frame)
    again = read_outcomes(write_outcomes(tmp_path / "o.parquet", frame, compactly=compactly))
    c = Comparison(again, resamples=20)
    assert c.further == ("macro_f1", "matthews", "question_em", "f1")
    rows = c.pairing("dist", 1)
    for metric in ("macro_f1", "matthews"):
        by_it = c.with_metric(metric)
        curve = by_it.seed_curve("dist", 1)
        for k in np.flatnonzero(curve.realisable):
            chosen = mixed(rows.more["small"], rows.more["large"], rows.confidence, curve.threshold[k])
            assert curve.quality[k] == pytest.approx(oracle(metric, rows.more["right"], chosen), abs=1e-12)
        assert by_it.scale == 100 and by_it.alone("dist").low <= by_it.alone("dist").estimate
    by_question = c.with_metric("question_em")
    curve = by_question.seed_curve("dist", 1)
    right = mixed(rows.small_quality, rows.large_quality, rows.confidence, curve.threshold[20]) == 1
    k = np.flatnonzero(curve.threshold == curve.threshold[20])[-1]
    assert curve.quality[k] == pytest.approx(question_em(rows.more["group"], right))
    assert by_question.difference("cat-dist", "dist").low < by_question.difference("cat-dist", "dist").high
    by_f1 = c.with_metric("f1")
    assert by_f1.label == "Token F1" and by_f1.curve("dist").quality == pytest.approx(c.curve("dist").quality)


def test_all_numbers_of_a_suite_by_a_further_metric():
    c = Comparison(option_table(), resamples=20)
    for other in cell_metrics.by_other_metrics(c):
        m = suite_metrics(other, (), 0.3, ("chow_average",))
        one = m.methods["dist"]
        assert m.metric == other.metric and one.audc.low <= one.audc.estimate <= one.audc.high
        whole = other.metric == "question_em"  # its answers do not add up
        assert isinstance(one.iso_quality, Undefined) == isinstance(one.headroom, Undefined) == whole
        if not whole:
            gap = other.large_alone().estimate - other.alone("dist").estimate
            assert one.headroom.estimate == pytest.approx(gap, abs=1e-9)
    numbers = cell_metrics.alone_and_differences(c.with_metric("macro_f1"))
    assert numbers.metric == "macro_f1" and set(numbers.differences) == {"cat-dist - dist"}


def test_bleu_beside_another_metric():
    """Counts are kept where texts are dropped, also of rows that are scored by something else."""
    frame = option_table(also=("chrf",)).assign(metric="exact_match").drop(columns=[*CHOSEN, "group_id"])
    c, without = (Comparison(x, resamples=5).with_metric("chrf") for x in (frame, drop_text(frame)))
    np.testing.assert_array_equal(c.curve("dist").quality, without.curve("dist").quality)
    assert c.scale == 1 and "nrefs:1" in c.curve("dist").signature


def test_what_the_rows_lack_is_one_line():
    c = Comparison(option_table(), resamples=5)
    for metric, change, message in (
        ("drop_f1", {}, r"metric 'drop_f1' is not among the further ones of these rows \(macro_f1, matthews"),
        ("macro_f1", {"right_option": -1}, "needs the columns option and right_option in every row"),
        ("question_em", {"group_id": None}, "needs the column group_id in every row"),
        ("f1", {"quality_f1": np.nan}, "needs the column quality_f1 in every row"),
    ):
        with pytest.raises(OutcomeError, match=message) as caught:
            Comparison(c.frame.assign(**change), resamples=5).with_metric(metric)
        assert "\n" not in str(caught.value)
    two = pd.concat([c.frame, c.frame.assign(task="u", item_id="u" + c.frame["item_id"])], ignore_index=True)
    both = Comparison(two, resamples=5)
    assert both.further == ()
    with pytest.raises(OutcomeError, match="'macro_f1' is one number of one task: choose one of t, u"):
        both.with_metric("macro_f1")
    assert both.of_task("u").with_metric("macro_f1").tasks == ("u",)
    with pytest.raises(OutcomeError, match=r"quality_f1 is outside \[0, 1\]"):
        Comparison(c.frame.assign(quality_f1=2.0))
    assert json.dumps(sorted(further_columns(Example("i", "t", "test", "p", "a"), "b")))  # plain values
