"""Metrics that are no mean over answers (macro-F1, binary F1, Matthews' correlation, EM over questions), exactly, at
every threshold.

As for BLEU (`corpus`), each is a function of counts summed over the answers: how often an option is right, how often it
is chosen, and how often both. The counts of the cascade's mixed answers at deferral rate k/n are a prefix sum. EM over
questions is one, too, once each answer's place in the order of deferral is known: deferring it changes whether all
answers to its question are right, or it does not. Inside a tied group the curve is a straight line between its ends,
by convention. Scores are shares (Matthews: -1 to 1).
"""

from __future__ import annotations

import numpy as np

from cat_core.analysis.corpus import CorpusRun
from cat_core.ranking import Ranking, check_confidence
from cat_core.tasks.scoring import CLASSES


class ClassMetric:
    """A metric of `scoring.CLASSES` as a function of counts [..., 3 c]: c options right, c chosen, c both."""

    def __init__(self, name: str, classes: int):
        if name not in CLASSES:
            raise ValueError(f"metric of classes must be one of {', '.join(CLASSES)}, got {name!r}")
        if name in ("binary_f1", "f1a") and classes > 2:
            raise ValueError(f"{name} is of two options, got {classes}: use macro_f1")
        self.name, self.classes = name, max(classes, 2)

    def counts(self, options, right) -> np.ndarray:
        """[n, 3 c] counts of each answer, from the numbers of the chosen option (-1: none of them) and the right."""
        options, right = (np.asarray(x, dtype=np.int64)[:, None] for x in (options, right))
        numbers = np.arange(self.classes)
        is_right, chosen = right == numbers, options == numbers
        return np.concatenate([is_right, chosen, is_right & chosen], axis=1).astype(np.int64)

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """[...] scores of summed `counts` [..., 3 c].

        F1 of an option is 2 both / (right + chosen); macro-F1 is its mean over the options that are right or chosen
        anywhere, binary F1 that of option 1, 0 where it is neither. Matthews' correlation of c options (Gorodkin 2004)
        is (s b - sum r_k p_k) / sqrt((s^2 - sum r_k^2)(s^2 - sum p_k^2)), s answers, b of them right, and 0
        where all right answers, or all chosen ones, are one option. All as scikit-learn with zero_division=0.
        """
        right, chosen, both = np.split(np.asarray(counts, dtype=np.float64), 3, axis=-1)
        if self.name == "matthews":
            n, agreed = right.sum(axis=-1), both.sum(axis=-1)
            unmatched = n - chosen.sum(axis=-1)  # answers that are no option are a class of their own
            spread = (n**2 - (right**2).sum(axis=-1)) * (n**2 - (chosen**2).sum(axis=-1) - unmatched**2)
            covariance = n * agreed - (right * chosen).sum(axis=-1)
            return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)
        seen = right + chosen > 0
        f1 = np.where(seen, 2 * both / np.where(seen, right + chosen, 1), 0.0)
        if self.name == "macro_f1":
            return f1.sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1)
        return f1[..., 1]


class ClassRun(CorpusRun):
    """A metric of classes of one method and seed along its deferral curve; may be passed to `paired_bootstrap`.

    small_options, large_options, right_options: [n] numbers of options, from 0 (-1: an answer that is none of them);
    confidence: [n]; metric: of `scoring.CLASSES`; item_ids, cluster_ids, seed: as in `outcomes.Pairing`.
    """

    signature = ""

    def __init__(
        self, small_options, large_options, right_options, confidence, metric: str = "macro_f1", *,
        item_ids=None, cluster_ids=None, seed=None,
    ):  # fmt: skip
        answers = [check_options(name, values) for name, values in
                   (("small_options", small_options), ("large_options", large_options),
                    ("right_options", right_options))]  # fmt: skip
        small, large, right = answers
        if (right < 0).any():
            raise ValueError(f"right_options[{int((right < 0).argmax())}] is below 0: every item needs a right option")
        sizes = [len(x) for x in answers]
        if len(set(sizes)) > 1:
            raise ValueError(f"got {', '.join(map(str, sizes))} options of S, of L and right ones: give one an item")
        self.metric = ClassMetric(metric, 1 + int(max(x.max() for x in answers)))
        self.gain = (large == right).astype(float) - (small == right)
        counts = (self.metric.counts(x, right) for x in (small, large))
        self._start(*counts, confidence, item_ids, cluster_ids, seed)

    def gain_confidence(self) -> np.ndarray:
        """[n] confidence of the greedy oracle: whether S is right less whether L is."""
        return -self.gain


class _Share:
    """Counts [..., 2], how many are right and of how many, as their quotient."""

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """[...] shares of `counts` [..., 2]."""
        counts = np.asarray(counts, dtype=np.float64)
        return counts[..., 0] / counts[..., 1]


class GroupRun(CorpusRun):
    """Exact match over questions (MultiRC): the share of groups of answers that are all right, along the curve.

    small_quality, large_quality: [n] in [0, 1], right if 1; groups: [n] the question of each item; confidence: [n].
    A group is resampled whole, so cluster_ids (default: the groups) may not cut one.
    """

    signature = ""

    def __init__(
        self, small_quality, large_quality, groups, confidence, *, item_ids=None, cluster_ids=None, seed=None
    ):  # fmt: skip
        groups = np.asarray(groups, dtype=object)
        confidence = check_confidence(confidence)
        wrong = [np.asarray(quality, dtype=np.float64) < 1 for quality in (small_quality, large_quality)]
        sizes = [len(x) for x in (*wrong, groups, confidence)]
        if len(set(sizes)) > 1:
            raise ValueError(f"got {', '.join(map(str, sizes))} answers of S, of L, groups and confidences: align them")
        cluster_ids = groups if cluster_ids is None else cluster_ids
        of_group: dict[object, object] = {}
        for group, cluster in zip(groups, cluster_ids):
            if of_group.setdefault(group, cluster) != cluster:
                raise ValueError(f"group {group!r} is in two clusters, {of_group[group]!r} and {cluster!r}: it is "
                                 "drawn whole, so give its items one")  # fmt: skip
        self.metric = _Share()
        _, first, self.group = np.unique(groups.astype(str), return_index=True, return_inverse=True)
        self.wrong = [x.astype(np.int64) for x in wrong]
        counts = []
        for x in self.wrong:  # all that is right of a group is counted at its first item
            right = np.zeros((len(x), 2), dtype=np.int64)
            right[first] = np.column_stack([np.bincount(self.group, weights=x) == 0, np.ones(len(first))])
            counts.append(right)
        self._start(*counts, confidence, item_ids, cluster_ids, seed)

    def _gained(self, ranking: Ranking) -> np.ndarray:
        small, large = self.wrong
        place = np.empty(self.n, dtype=np.int64)
        place[ranking.order] = np.arange(self.n)
        by_group = np.lexsort((place, self.group))  # group by group, each in the order of deferral
        group = self.group[by_group]
        start = np.append(True, group[1:] != group[:-1])
        # wrong answers of the group after each deferral, and before it
        running = np.cumsum((large - small)[by_group])
        before_group = np.append(0, running[:-1])[start][np.cumsum(start) - 1]
        after = np.bincount(self.group, weights=small).astype(np.int64)[group] + running - before_group
        before = after - (large - small)[by_group]
        gained = np.zeros((self.n, 2), dtype=np.int64)
        gained[place[by_group], 0] = (after == 0).astype(np.int64) - (before == 0)
        return gained

    def gain_confidence(self) -> np.ndarray:
        """[n] confidence of the greedy oracle: whether S's answer is right less whether L's is."""
        small, large = self.wrong
        return (large - small).astype(float)


def check_options(name: str, values) -> np.ndarray:
    """`values` as whole numbers [n] from -1 on, or a one-line ValueError that names them."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be a non-empty one-dimensional array, got shape {values.shape}")
    bad = ~(np.isfinite(values) & (values >= -1) & (values == np.rint(values)))
    if bad.any():
        raise ValueError(f"{name}[{int(bad.argmax())}] is {values[bad.argmax()]}, expected the number of an option")
    return values.astype(np.int64)
