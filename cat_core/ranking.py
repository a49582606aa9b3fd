"""The order of deferral: which items a cascade defers first, and what happens where confidences tie.

Everything that walks along a deferral curve (curves, resampling, corpus metrics, the router) takes the order
and the tie rule from here, so that they cannot drift apart.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval, all in the unit of the quantity itself."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """Items sorted by confidence, least confident first.

    order: [n] item indices, the first to be deferred first (stable: equal confidences keep their input
    order). ends: [g] for each group of equal confidences, how many items are deferred once the whole group
    is; increasing, the last one is n. A threshold can realise exactly the counts 0 and `ends`. threshold: [g]
    the confidence of each group: deferring q <= threshold[j] defers ends[j] items.
    """

    order: np.ndarray
    ends: np.ndarray
    threshold: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """[g] where each group begins in `order`."""
        return np.concatenate(([0], self.ends[:-1]))

    @property
    def sizes(self) -> np.ndarray:
        """[g] number of items in each group."""
        return np.diff(self.ends, prepend=0)

    @property
    def tied(self) -> bool:
        """Whether any two items share a confidence."""
        return len(self.ends) < len(self.order)


@dataclass(frozen=True)
class DeferralCurve:
    """Quality of a cascade at every deferral rate.

    deferral_rate, quality: [n+1], from S alone (0) to L alone (1). threshold: [n+1] the tau of the router
    that defers up to this item and its ties (-inf at 0). realisable: [n+1] False inside a tied group, where
    no threshold can stop. signature: sacrebleu's, for corpus metrics.
    """

    deferral_rate: np.ndarray
    quality: np.ndarray
    threshold: np.ndarray
    realisable: np.ndarray
    signature: str = ""

    @classmethod
    def from_ranking(cls, quality: np.ndarray, ranking: Ranking, signature: str = "") -> "DeferralCurve":
        """The curve through `quality` [n+1], point k being the first k items of `ranking` deferred."""
        n = len(ranking.order)
        realisable = np.zeros(n + 1, dtype=bool)
        realisable[0] = realisable[ranking.ends] = True
        threshold = np.concatenate(([-np.inf], np.repeat(ranking.threshold, ranking.sizes)))
        return cls(np.arange(n + 1) / n, quality, threshold, realisable, signature)


def check_confidence(confidence) -> np.ndarray:
    """`confidence` as a float64 array [n], or a ValueError for empty input, NaN or -inf.

    -inf is refused because the threshold -inf means "never defer", yet -inf <= -inf.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    if confidence.ndim != 1 or confidence.size == 0:
        raise ValueError(f"confidence must be a non-empty one-dimensional array, got shape {confidence.shape}")
    bad = np.isnan(confidence) | (confidence == -np.inf)
    if bad.any():
        raise ValueError(
            f"confidence holds {int(bad.sum())} NaN or -inf among {confidence.size} values "
            f"(first at position {int(bad.argmax())}): drop those items or repair the scores "
            "that made them"
        )
    return confidence


def check_values(name: str, values, n: int | None = None, *, unit: bool = True) -> np.ndarray:
    """`values` as a float64 array [n], or a ValueError that names it.

    n: the expected length (None: any but 0). unit: quality in [0, 1] is expected, else only finite and >= 0
    (costs).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a non-empty one-dimensional array, got shape {values.shape}")
    if n is not None and values.size != n:
        raise ValueError(f"{name} has {values.size} items where {n} are expected: align all arrays item by item")
    high = 1.0 if unit else np.inf
    bad = ~(np.isfinite(values) & (values >= 0) & (values <= high))
    if bad.any():
        first = int(bad.argmax())
        allowed = "[0, 1]" if unit else "[0, inf)"
        raise ValueError(f"{name}[{first}] is {values[first]}, expected finite numbers in {allowed}")
    return values


def rank(confidence) -> Ranking:
    """Order of deferral for `confidence` [n] (low = defer first) with its groups of ties."""
    confidence = check_confidence(confidence)
    order = np.argsort(confidence, kind="stable")
    ordered = confidence[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
    return Ranking(order, ends, ordered[ends - 1])


def along(values, ranking: Ranking) -> np.ndarray:
    """[n+1] running sum of `values` [n] over the deferred items, a straight line inside each tied group.

    For a sum (hence for a mean) the straight line is its expectation over all orders of the tied items.
    """
    sums = np.concatenate(([0.0], np.cumsum(np.asarray(values, dtype=np.float64)[ranking.order])))
    return straighten(sums, ranking)


def straighten(values: np.ndarray, ranking: Ranking) -> np.ndarray:
    """[n+1] `values` [n+1] with points inside a tied group moved onto the line between its ends."""
    if not ranking.tied:
        return values
    knots = np.concatenate(([0], ranking.ends))
    return np.interp(np.arange(len(values)), knots, values[knots])
