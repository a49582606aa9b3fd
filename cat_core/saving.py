"""The threshold of the iso-quality saving on resampled calibration rows.

The saving (`curves.iso_quality_saving`) is read off test rows at a threshold that was chosen on calibration rows. Both
are samples, so its interval draws both anew; the calibration rows matter as much as the test rows do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cat_core.curves import ROUNDING


def iso_thresholds(
    confidence: np.ndarray, small: np.ndarray, large: np.ndarray, counts: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """[b] thresholds tau at which a cascade first has L's quality, one for each resample of its rows.

    confidence: [n]. small, large: [n, q] what is summed over the rows to score S's answers and L's. counts: [b, n] how
    often each row is drawn. score: summed columns [b, k, q] and rows drawn [b, 1] -> quality [b, k]. -inf: S alone is
    as good; inf: only deferring everything is. Rows of one confidence are deferred together.
    """
    order = np.argsort(confidence, kind="stable")
    ranked, counts = confidence[order], counts[:, order].astype(np.float64)
    ends = np.flatnonzero(np.append(ranked[1:] > ranked[:-1], True))
    moved = np.cumsum(counts[:, :, None] * (large - small)[order], axis=1)[:, ends]  # [b, groups, q]
    start = (counts @ small[order])[:, None]
    quality = score(np.concatenate([start, start + moved], axis=1), counts.sum(axis=1, keepdims=True))
    reached = quality >= quality[:, -1:] - ROUNDING
    return np.concatenate([[-np.inf], ranked[ends[:-1]], [np.inf]])[reached.argmax(axis=1)]
