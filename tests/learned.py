"""Synthetic features of answers, for the tests of learned deferral rules."""

import numpy as np

from cat_core.rules.features import AnswerFeatures


def auroc(score, label):
    """P(score of a 1 > score of a 0), ties half."""
    ones, zeros = score[label == 1], score[label == 0]
    return ((ones[:, None] > zeros).mean() + (ones[:, None] == zeros).mean() / 2).item()


def answers(n, seed=0, longest=5, signal=1.0):
    """(features, small quality, large quality): how hard a query is for S shows in its tokens and state, how hard for
    L in L's embedding only; `signal` 0 makes all features noise."""
    draw = np.random.default_rng(seed)
    small_ease, large_ease = draw.normal(size=(2, n))
    lengths = draw.integers(1, longest + 1, n)
    tokens, quantiles = [], []
    for ease, length in zip(small_ease, lengths):
        logprob = -np.exp(draw.normal(-1 - signal * 2 * ease, 0.5, length))
        margins = np.sort(draw.exponential(1, (length, 9)), axis=1)
        tokens.append(np.column_stack([draw.exponential(1, length) - logprob, margins, logprob]))
        quantiles.append(np.quantile(logprob, np.linspace(0, 1, 11)))
    features = AnswerFeatures(
        item_ids=tuple(f"i{k}" for k in range(n)),
        deferral=np.zeros(n, np.float32),
        quantiles=np.array(quantiles, np.float32),
        small_state=(signal * np.outer(small_ease, [1, -1, 2]) + draw.normal(size=(n, 3))).astype(np.float32),
        prompt_state=np.outer(small_ease, [0, 0]).astype(np.float32),
        large_embedding=(signal * np.outer(large_ease, [2, 1, 0, 1]) + 0.3 * draw.normal(size=(n, 4))).astype(
            np.float32
        ),
        tokens=np.concatenate(tokens).astype(np.float32),
        offsets=np.cumsum([0, *lengths]),
        large_flops=np.full(n, 7),
        prompt_flops=np.full(n, 3),
    )
    small = (draw.random(n) < 1 / (1 + np.exp(-3 * small_ease))).astype(float)
    large = (draw.random(n) < 1 / (1 + np.exp(-3 * large_ease - 1))).astype(float)
    features.prompt_state[:] = signal * np.outer(small_ease, [2, 1]) + draw.normal(size=(n, 2))
    return features, small, large


def splits(n):
    """First half calibration, second half test."""
    return np.where(np.arange(n) < n // 2, "calibration", "test")
