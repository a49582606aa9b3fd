"""Pre-generation rules on rows where the answer is known, and against the penalised regressions written out."""

import numpy as np
import pytest
from learned import answers, auroc, splits
from scipy.optimize import minimize

from cat_core.rules import prompts
from cat_core.rules.fitting import cluster_folds
from cat_core.rules.prompts import BEFORE, prompt_confidences


def rows(n=400, seed=0, signal=1.0):
    """(prompts, features, small, large quality, split, clusters): S is wrong where the prompt has the word hard."""
    draw = np.random.default_rng(seed)
    features, small, large = answers(n, seed=seed, signal=signal)
    hard = small < large
    hints = np.where(draw.random(n) < 0.9, hard, ~hard) if signal else draw.random(n) < 0.5
    texts = [f"what is {'a hard' if h else 'an easy'} {draw.integers(50)} ?" for h in hints]
    return texts, features, small, large, splits(n), np.arange(n)


def test_both_learn_where_to_ask_the_large_model():
    texts, features, small, large, split, clusters = rows()
    found = prompt_confidences(texts, features, small, large, split, clusters)
    assert list(found) == list(BEFORE)
    for name, least in (("route_ngrams", 0.8), ("route_probe", 0.65)):
        for part in ("calibration", "test"):
            mine = split == part
            assert auroc(-found[name][mine], (large > small)[mine]) > least


def test_calibration_rows_are_not_learnt_by_heart():
    """Noise with more columns than rows: fitted values would be perfect, cross-fitted ones are chance."""
    texts, features, small, large, split, clusters = rows(signal=0.0)
    draw = np.random.default_rng(5)
    features = type(features)(**vars(features) | {"prompt_state": draw.normal(size=(400, 300)).astype(np.float32)})
    found = prompt_confidences(texts, features, small, large, split, clusters)
    mine = split == "calibration"
    for values in found.values():
        assert 0.35 < auroc(-values[mine], (large > small)[mine]) < 0.65


def test_quality_of_test_rows_is_not_read():
    texts, features, small, large, split, clusters = rows(120)
    once = prompt_confidences(texts, features, small, large, split, clusters)
    unknown = [np.where(split == "test", np.nan, x) for x in (small, large)]
    again = prompt_confidences(texts, features, *unknown, split, clusters)
    for name in BEFORE:
        np.testing.assert_array_equal(once[name], again[name])


@pytest.mark.parametrize("graded", [False, True])
def test_the_probe_is_the_penalised_regression_written_out(graded, monkeypatch):
    """Logistic regression with weight 1 / (2 C) on the squares, ridge with 1 / C, on standardised columns."""
    monkeypatch.setattr(prompts, "STRENGTHS", (0.3,))
    texts, features, small, large, split, clusters = rows(160)
    if graded:
        large = np.clip(0.8 * large + 0.1 * features.prompt_state[:, 0] / 9 + 0.1, 0, 1)
    found = prompt_confidences(texts, features, small, large, split, clusters)["route_probe"]
    fitted = split == "calibration"
    truth = (large - small)[fitted] if graded else (large > small)[fitted].astype(float)
    states = features.prompt_state.astype(float)

    def expected(chosen):
        x, y = states[fitted][chosen], truth[chosen]
        mean, spread = x.mean(0), x.std(0)
        x = (x - mean) / spread

        def loss(w):
            values = x @ w[:-1] + w[-1]
            if graded:
                return ((values - y) ** 2).sum() + w[:-1] @ w[:-1] / 0.3
            return 0.3 * (np.logaddexp(0, values) - y * values).sum() + w[:-1] @ w[:-1] / 2

        w = minimize(loss, np.zeros(x.shape[1] + 1), options={"gtol": 1e-9}).x
        return (states - mean) / spread @ w[:-1] + w[-1]

    whole = expected(np.ones(fitted.sum(), bool))
    np.testing.assert_allclose(-found[~fitted], whole[~fitted], atol=2e-3)
    fold = cluster_folds(clusters[fitted], truth, 5, 0)
    for k in range(5):
        own = np.flatnonzero(fitted)[fold == k]
        np.testing.assert_allclose(-found[own], expected(fold != k)[own], atol=2e-3)


def test_the_strength_is_that_which_predicts_best(monkeypatch):
    texts, features, small, large, split, clusters = rows(200, signal=0.0)
    found = prompt_confidences(texts, features, small, large, split, clusters)["route_probe"]
    alone = {}
    for strength in prompts.STRENGTHS:
        monkeypatch.setattr(prompts, "STRENGTHS", (strength,))
        alone[strength] = prompt_confidences(texts, features, small, large, split, clusters)["route_probe"]
    mine, truth = split == "calibration", (large > small).astype(float)
    loss = {s: (np.logaddexp(0, -v) + truth * v)[mine].mean() for s, v in alone.items()}
    np.testing.assert_array_equal(found, alone[min(loss, key=loss.get)])


def test_what_cannot_be_learnt_from_is_said():
    texts, features, small, large, split, clusters = rows(100)
    with pytest.warns(UserWarning, match="route_ngrams, route_probe are left out: one class only"):
        found = prompt_confidences(texts, features, large, large, split, clusters)
    assert all(np.isnan(values).all() for values in found.values())
    with pytest.raises(ValueError, match="99 prompts for 100 answers"):
        prompt_confidences(texts[1:], features, small, large, split, clusters)
