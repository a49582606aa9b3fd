"""Pre-generation rules: who answers is decided by the prompt, before S has said anything.

A cascade pays for S's answer to every query; a router that looks at the prompt pays for S only where S answers. That is
the strongest objection to a cascade of language models ("Is Escalation Worth It?", arXiv 2605.06350). Two routers:

    route_ngrams    words and pairs of words of the prompt, hashed, weighted by tf-idf: costs nothing that is counted
    route_probe     S's state at the last token of the prompt: S reads every prompt, and goes on where it answers

Each is a linear model on calibration rows, whose target is that of the post-hoc rules (`posthoc.target_of`): logistic
regression for `rescue`, ridge regression for `gain`. The strength of its penalty is the one of `STRENGTHS` that
predicts best the calibration rows it was not fitted on; calibration rows keep these cross-fitted values. Ours, but for
the idea.

Needs scikit-learn (extra `book`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from cat_core.rules import fitting
from cat_core.rules.features import AnswerFeatures
from cat_core.rules.fitting import FitSettings
from cat_core.rules.posthoc import target_of

BEFORE = ("route_ngrams", "route_probe")
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
COLUMNS = 2**16  # of hashed n-grams
WORDS = r"\w+|[^\w\s]"


def linear_model(rule: str, target: str, strength: float):
    """An untrained model of scikit-learn for a rule of `BEFORE`; strength: the inverse of the weight of its penalty."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = LogisticRegression(C=strength, max_iter=1_000) if target == "rescue" else Ridge(alpha=1 / strength)
    if rule == "route_probe":
        return make_pipeline(StandardScaler(), head)
    hashed = HashingVectorizer(ngram_range=(1, 2), token_pattern=WORDS, n_features=COLUMNS, norm=None,
                               alternate_sign=False)  # fmt: skip
    return make_pipeline(hashed, TfidfTransformer(sublinear_tf=True), head)


def _gain(model, target: str, rows) -> np.ndarray:
    """What a fitted model expects of deferral, [n] float64: log odds of a rescue, or L's quality less S's."""
    return np.asarray(model.decision_function(rows) if target == "rescue" else model.predict(rows), dtype=np.float64)


def _loss(values: np.ndarray, truth: np.ndarray, target: str) -> float:
    """Mean loss of expected gains [n]: the cross entropy of log odds, or the squared error."""
    if target == "rescue":
        return float((np.logaddexp(0.0, values) - truth * values).mean())
    return float(((values - truth) ** 2).mean())


def prompt_confidences(
    prompts: Sequence[str], features: AnswerFeatures, small_quality, large_quality, split, clusters, seed: int = 0,
    folds: int = FitSettings.folds,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Confidence by each rule of `BEFORE`: {rule: float64 [n], high = S answers}.

    prompts: [n] texts; features: of S on the same items (`prompt_state` is read); the other arguments, and errors, as
    `posthoc.learned_confidences`. The quality of test rows is not read.
    """
    small, large, fitted, clusters = fitting.check_rows(small_quality, large_quality, split, clusters, len(features))
    if len(prompts) != len(features):
        raise ValueError(f"{len(prompts)} prompts for {len(features)} answers: give the prompt of each")
    rows = np.flatnonzero(fitted)
    target, truth = target_of(small[rows], large[rows])
    fold = fitting.cluster_folds(clusters[rows], truth, folds, seed)
    if alone := [k for k in range(folds) if len(np.unique(truth[fold != k])) < 2]:
        why = f"the target is the same on all {len(rows)} calibration rows but for those of fold {alone[0]}"
        warnings.warn(f"rules {', '.join(BEFORE)} are left out: one class only: {why}: give more rows", stacklevel=2)
        return {rule: np.full(len(features), np.nan) for rule in BEFORE}
    states = fitting.check_finite("prompt_state", features.prompt_state).numpy().astype(np.float64)
    read = {"route_ngrams": np.asarray(prompts, dtype=object), "route_probe": states}
    return {rule: -_expected(rule, target, inputs, truth, rows, fold) for rule, inputs in read.items()}


def _expected(rule: str, target: str, inputs: np.ndarray, truth: np.ndarray, rows, fold) -> np.ndarray:
    """Expected gain of every row of `inputs` [n]: cross-fitted on the calibration `rows`, of the model of all of them
    elsewhere. truth, fold: [rows]."""
    found = {}
    for strength in STRENGTHS:
        values = np.empty(len(rows))
        for k in range(fold.max() + 1):
            held = fold == k
            known = linear_model(rule, target, strength).fit(inputs[rows[~held]], truth[~held])
            values[held] = _gain(known, target, inputs[rows[held]])
        found[strength] = values
    best = min(found, key=lambda strength: _loss(found[strength], truth, target))
    expected = _gain(linear_model(rule, target, best).fit(inputs[rows], truth), target, inputs)
    expected[rows] = found[best]
    return expected
