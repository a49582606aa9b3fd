"""A bag of words as a yardstick: how far logistic regression on word counts comes on a task with options.

A small model that is no better has not read. Words and pairs of words of the prompt, weighted by tf-idf. Where all
items of a task have the same options, one class an option; else a model of right and wrong over the words of the prompt
beside each option's, and the most probable option is the answer. Needs scikit-learn (extra `book`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cat_core.tasks.example import Example

STRENGTH = 10.0  # inverse weight of the penalty; the options of scikit-learn otherwise


def bag_of_words(train: Iterable[Example], test: Iterable[Example]) -> dict[str, float]:
    """Mean quality on the test items of each task with options that the training examples have, too, by task."""
    known, asked = _by_task(train), _by_task(test)
    return {task: _quality(known[task], items) for task, items in asked.items() if task in known}


def _by_task(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Examples with options, by task; a task with an item that has none is left out."""
    found: dict[str, list[Example]] = {}
    for example in examples:
        found.setdefault(example.task, []).append(example)
    return {task: items for task, items in found.items() if all(e.options for e in items)}


def _quality(train: Sequence[Example], test: Sequence[Example]) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=STRENGTH, max_iter=1_000))
    if len({e.options for e in (*train, *test)}) == 1:
        given = model.fit([e.prompt for e in train], [e.target for e in train]).predict([e.prompt for e in test])
        return float(np.mean([e.quality(str(a), e.metric) for e, a in zip(test, given)]))
    pairs = [(f"{e.prompt} {option}", option in e.right_answers) for e in train for option in e.options]
    model.fit(*map(list, zip(*pairs)))
    values = []
    for e in test:
        chances = model.predict_proba([f"{e.prompt} {option}" for option in e.options])[:, 1]
        values.append(e.quality(e.options[int(chances.argmax())], e.metric))
    return float(np.mean(values))
