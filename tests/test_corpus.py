"""Corpus BLEU and chrF along the curve: difference 0 from sacrebleu on the mixed texts."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from cat_core.corpus import (
    CorpusRun,
    bleu_curve,
    chrf_curve,
    corpus_metric,
    exact_scores,
    fast_scores,
    sentence_counts,
)
from cat_core.curves import audc, paired_bootstrap

WORDS = "the a small large model answers every question, slowly and surely . Straße 12 is near".split()


def texts(rng, n, low=1, high=12):
    """n sentences of random words; a few are empty when low is 0."""
    return [" ".join(rng.choice(WORDS, rng.integers(low, high))) for _ in range(n)]


def near(rng, references, share):
    """The references with a share of their words replaced."""
    return [" ".join(w if rng.random() > share else rng.choice(WORDS) for w in r.split()) for r in references]


def corpus(seed, n=40, ties=False):
    rng = np.random.default_rng(seed)
    references = texts(rng, n)
    small, large = near(rng, references, 0.6), near(rng, references, 0.2)
    small[0] = ""
    confidence = rng.integers(0, 5, n) * 1.0 if ties else rng.normal(size=n)
    return small, large, references, confidence


def mixed(small, large, confidence, tau):
    return [b if q <= tau else a for a, b, q in zip(small, large, confidence)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "curve_of, metric, options",
    [
        (bleu_curve, BLEU, {}),
        (bleu_curve, BLEU, {"tokenize": "char", "lowercase": True, "smooth_method": "floor"}),
        (bleu_curve, BLEU, {"smooth_method": "add-k"}),
        (chrf_curve, CHRF, {}),
        (chrf_curve, CHRF, {"word_order": 2, "eps_smoothing": True}),
    ],
)
def test_every_threshold_equals_corpus_score_exactly(curve_of, metric, options, ties):
    small, large, references, confidence = corpus(0, ties=ties)
    curve = curve_of(small, large, references, confidence, **options)
    assert curve.realisable.sum() == len(set(confidence)) + 1
    for k in np.flatnonzero(curve.realisable):
        sentences = mixed(small, large, confidence, curve.threshold[k])
        assert curve.quality[k] == metric(**options).corpus_score(sentences, [references]).score
    knots = np.flatnonzero(curve.realisable)
    np.testing.assert_allclose(curve.quality, np.interp(np.arange(41), knots, curve.quality[knots]))
    scorer = metric(**options)
    scorer.corpus_score(small, [references])
    assert curve.signature == str(scorer.get_signature())


@pytest.mark.parametrize(
    "name, options",
    [
        ("bleu", {}),
        ("bleu", {"smooth_method": "none"}),
        ("bleu", {"smooth_method": "floor"}),
        ("bleu", {"smooth_method": "floor", "smooth_value": 0.3, "max_ngram_order": 2}),
        ("chrf", {}),
        ("chrf", {"word_order": 2, "beta": 3}),
    ],
)
def test_fast_scores_equal_sacrebleu(name, options):
    rng = np.random.default_rng(1)
    references = texts(rng, 300, low=0, high=7)
    hypotheses = near(rng, references, 0.7)
    metric = corpus_metric(name, **options)
    counts = sentence_counts(metric, hypotheses, references)  # single short sentences: every special case
    assert (counts.sum(axis=0) > 0).all() and (counts == 0).all(axis=1).any()
    for summed in (counts, counts[:150] + counts[150:]):
        np.testing.assert_allclose(fast_scores(metric, summed), exact_scores(metric, summed), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("ties", [False, True])
def test_resampling_equals_scoring_copied_texts(name, ties):
    small, large, references, confidence = corpus(2, n=15, ties=ties)
    run = CorpusRun(small, large, references, confidence, name)
    counts = np.random.default_rng(0).multinomial(15, [1 / 15] * 15, size=4)
    grid = np.linspace(0, 1, 7)
    areas, values = run.resample(counts, grid)
    for drawn, area, value in zip(counts, areas, values):
        rows = np.repeat(np.arange(15), drawn)
        copied = [[column[i] for i in rows] for column in (small, large, references)]
        curve = CorpusRun(*copied, confidence[rows], name).curve()
        assert area == pytest.approx(audc(curve), rel=1e-12)
        np.testing.assert_allclose(value, np.interp(grid, curve.deferral_rate, curve.quality), rtol=1e-9)
    assert run.resample(counts, None)[1] is None


def test_bootstrap_takes_corpus_runs():
    small, large, references, confidence = corpus(3)
    runs = {"a": CorpusRun(small, large, references, confidence), "b": CorpusRun(small, large, references, -confidence)}
    found = paired_bootstrap(runs, pairs=[("a", "b")], resamples=100)
    assert found.area["a"].estimate == pytest.approx(audc(runs["a"].curve()))
    difference = found.difference["a", "b"]
    assert difference.low < difference.estimate < difference.high
    both_ends = found.difference_curve["a", "b"]
    assert both_ends.high[[0, -1]] == pytest.approx(0, abs=1e-9)  # the same two models at both ends
    assert both_ends.high.max() > 0


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_greedy_oracle_orders_by_sentence_gain(name):
    small, large, references, confidence = corpus(4)
    run = CorpusRun(small, large, references, confidence, name)
    scorer = BLEU(effective_order=True) if name == "bleu" else CHRF()
    gain = [
        scorer.sentence_score(b, [r]).score - scorer.sentence_score(a, [r]).score
        for a, b, r in zip(small, large, references)
    ]
    expected = CorpusRun(small, large, references, -np.array(gain), name).curve()
    np.testing.assert_array_equal(run.greedy_oracle().quality, expected.quality)
    assert audc(run.greedy_oracle()) > audc(run.curve())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["a"], ["a"], ["a", "b"], [1]), "1 predictions for 2 references"),
        (([], [], [], []), "at least one"),
        ((["a"], [None], ["a"], [1]), r"predictions\[0\] is None, expected text"),
        ((["a"], ["a"], ["a"], [1, 2]), "1 small predictions, 1 large ones and 2 confidences"),
        ((["a"], ["a"], ["a"], [float("nan")]), "NaN"),
        ((["a"], ["a"], ["a"], [1], "meteor"), "'bleu' or 'chrf', got 'meteor'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        CorpusRun(*arguments)


@pytest.mark.parametrize(
    "name, options",
    [
        ("bleu", {"smooth_method": "add-k"}),
        ("bleu", {"effective_order": True}),
        ("chrf", {"eps_smoothing": True}),
    ],
)
def test_resampling_refuses_settings_it_does_not_know(name, options):
    small, large, references, confidence = corpus(5, n=5)
    run = CorpusRun(small, large, references, confidence, name, **options)
    with pytest.raises(ValueError, match="resampling .* supports"):
        paired_bootstrap({"a": run}, resamples=2)
