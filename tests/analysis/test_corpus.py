"""Corpus BLEU and chrF along the curve: difference 0 from sacrebleu on the mixed texts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from cat_core.analysis.corpus import (
    CorpusRun,
    corpus_metric,
    exact_scores,
    fast_scores,
    pack_counts,
    sentence_counts,
    unpack_counts,
    with_counts,
)
from cat_core.analysis.resampling import paired_bootstrap
from cat_core.curves import audc

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
    "metric, options",
    [
        (BLEU, {}),
        (BLEU, {"tokenize": "char", "lowercase": True, "smooth_method": "floor"}),
        (BLEU, {"smooth_method": "add-k"}),
        (CHRF, {}),
        (CHRF, {"word_order": 2, "eps_smoothing": True}),
    ],
)
def test_every_threshold_equals_corpus_score_exactly(metric, options, ties):
    small, large, references, confidence = corpus(0, ties=ties)
    curve = CorpusRun(small, large, references, confidence, metric.__name__.lower(), **options).curve()
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


# ---------------------------------------------------------------- counts in place of texts

SETTINGS = [("bleu", {}), ("bleu", {"max_ngram_order": 2}), ("chrf", {}), ("chrf", {"word_order": 2, "char_order": 3})]


@pytest.mark.parametrize("name, options", SETTINGS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=8))
def test_counts_come_back_from_their_cells(name, options, pairs):
    metric = corpus_metric(name, **options)
    counts = sentence_counts(metric, *zip(*pairs))
    cells = pack_counts(metric, counts)
    assert len({len(cell) for cell in cells}) == 1 and len(cells[0]) == 2 * counts.shape[1]
    np.testing.assert_array_equal(unpack_counts(metric, cells), counts)


@pytest.mark.parametrize("name, options", SETTINGS)
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_counts_come_back(name, options, seed):
    """Also those that no text has: the coding must not lean on what texts are like."""
    metric = corpus_metric(name, **options)
    width = sentence_counts(metric, ["a"], ["a"]).shape[1]
    counts = np.random.default_rng(seed).integers(0, 10_000, (5, width))
    np.testing.assert_array_equal(unpack_counts(metric, pack_counts(metric, counts)), counts)


@pytest.mark.parametrize("name, kept", [("bleu", [0, 1, 2, 3, 4, 5]), ("chrf", [0, 1, 2, 5, 8, 11, 14, 17])])
def test_totals_follow_from_lengths_and_leave_zeros_in_cells(name, kept):
    """What is left: both lengths, and the matches of each order."""
    references = texts(np.random.default_rng(0), 50, low=7, high=12)
    metric = corpus_metric(name)
    counts = sentence_counts(metric, near(np.random.default_rng(1), references, 0.4), references)
    cells = np.frombuffer(b"".join(pack_counts(metric, counts)), "<i2").reshape(50, -1)
    assert not np.delete(cells, kept, axis=1).any() and cells[:, kept].any(axis=0).all()


def outcome(predictions, targets, metric="bleu"):
    return pd.DataFrame({"metric": metric, "prediction": predictions, "target": targets})


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name, scorer", [("bleu", BLEU), ("chrf", CHRF)])
def test_curves_from_counts_equal_those_from_texts_bit_for_bit(name, scorer, ties):
    small, large, references, confidence = corpus(6, ties=ties)
    small[3] = small[4] = large[3]
    parts = [with_counts(outcome(texts, references)) for texts in (small, large)]
    cells, signature = [part[f"{name}_counts"] for part in parts], parts[0][f"{name}_signature"][0]
    run = CorpusRun.from_counts(*cells, confidence, name, signature=signature)
    whole = CorpusRun(small, large, references, confidence, name)
    for found, wanted in ((run.curve(), whole.curve()), (run.greedy_oracle(), whole.greedy_oracle())):
        np.testing.assert_array_equal(found.quality, wanted.quality)
        np.testing.assert_array_equal(found.threshold, wanted.threshold)
    assert run.signature == whole.signature == run.curve().signature
    draws = np.random.default_rng(0).multinomial(40, [1 / 40] * 40, size=3)
    np.testing.assert_array_equal(run.resample(draws, None)[0], whole.resample(draws, None)[0])
    curve = run.curve()
    for k in np.flatnonzero(curve.realisable):
        sentences = mixed(small, large, confidence, curve.threshold[k])
        assert curve.quality[k] == scorer().corpus_score(sentences, [references]).score


def test_counts_are_made_for_corpus_metrics_only_and_once(monkeypatch):
    table = pd.concat([outcome(["a b", "a b", "c"], ["a", "a", "c"]), outcome(["yes"], ["no"], "accuracy")])
    table.index = [4, 4, 1, 0]
    found = with_counts(table)
    assert list(found.index) == [4, 4, 1, 0] and "bleu_counts" not in table
    assert found["bleu_counts"].isna().tolist() == found["chrf_signature"].isna().tolist() == [False] * 3 + [True]
    for name in ("bleu", "chrf"):
        metric = corpus_metric(name)
        expected = sentence_counts(metric, ["a b", "a b", "c"], ["a", "a", "c"])
        np.testing.assert_array_equal(unpack_counts(metric, found[f"{name}_counts"][:3]), expected)
    again = with_counts(found.assign(prediction=None, target=None))  # what is counted needs no text
    pd.testing.assert_series_equal(again["chrf_counts"], found["chrf_counts"])
    assert with_counts(table.iloc[3:]) is not None and "bleu_counts" not in with_counts(table.iloc[3:])
    assert list(with_counts(table, ("chrf",)).columns[3:]) == ["chrf_counts", "chrf_signature"]
    with pytest.raises(ValueError, match=r"predictions\[0\] is .*, expected text"):
        with_counts(table.assign(prediction=None))


def test_counts_of_another_kind_are_refused():
    metric = corpus_metric("bleu")
    cells = pack_counts(metric, sentence_counts(metric, ["a"], ["a"]))
    with pytest.raises(ValueError, match=r"counts\[0\] is b.*, expected 18 numbers"):
        CorpusRun.from_counts(cells, cells, [1.0], "chrf")
    with pytest.raises(ValueError, match="counts.0. is None, expected 10 numbers"):
        CorpusRun.from_counts([None], cells, [1.0])
    with pytest.raises(ValueError, match="1 small predictions, 1 large ones and 2 confidences"):
        CorpusRun.from_counts(cells, cells, [1.0, 2.0])
    with pytest.raises(
        ValueError, match="the stored counts are those of 'nrefs:1.case:lc.*expected 'nrefs:1.case:mixed"
    ):
        CorpusRun.from_counts(cells, cells, [1.0], signature="nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:2.6.0")
    old = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.4.0"
    assert CorpusRun.from_counts(cells, cells, [1.0], signature=old).signature == old
    with pytest.raises(ValueError, match="counts up to 70000 n-grams, expected at most 32767"):
        pack_counts(metric, np.full((1, 10), 70_000))


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_what_was_counted_is_remembered_by_settings_and_answers(name, monkeypatch):
    texts, right = ["the cat sat", "a dog", "the cat sat"], [["the cat sat on"], ["a dog", "one dog"], ["a cat"]]
    first = corpus_metric(name)
    counts = sentence_counts(first, texts, right)
    monkeypatch.setattr("cat_core.analysis.corpus.MOST", 1)  # forgets, and counts again
    assert (sentence_counts(corpus_metric(name), texts, right) == counts).all()
    monkeypatch.undo()
    again = corpus_metric(name)
    monkeypatch.setattr(again, "_extract_corpus_statistics", lambda *_: pytest.fail("counted again"))
    assert (sentence_counts(again, texts[::-1], right[::-1]) == counts[::-1]).all()
    assert str(again.get_signature()) == str(first.get_signature()) and "nrefs:var" in str(again.get_signature())
    other = corpus_metric(name, lowercase=True)
    assert (sentence_counts(other, ["The Cat"], ["the cat"]) != sentence_counts(first, ["The Cat"], ["the cat"])).any()
