"""Estimates with what it takes to pool them and to say what they could have seen: standard error, degrees of freedom.

An effect is measured on each training seed and on the items that all seeds have in common. Its standard error has two
parts: how much models differ (the highest level that there are several of, as in `resampling.seed_weights`), and how
much items do; its degrees of freedom are those of Welch and Satterthwaite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from cat_core.analysis.resampling import combined, levels, percentiles
from cat_core.ranking import Interval

ENOUGH = 0.80
"""Power that a study should have."""


@dataclass(frozen=True)
class Estimate:
    """number: with its interval of coverage `level`; error: standard error; freedom: degrees of freedom."""

    number: Interval
    error: float
    freedom: float
    level: float

    @classmethod
    def of(cls, values: np.ndarray, draws: np.ndarray, weights: np.ndarray, groups, clusters: int, level: float):
        """The mean over seeds of `values` [k]; the same on resampled items `draws` [b, k], seeds weighted [b, k].

        groups: [k] the large model of each seed, or None; clusters: how many the items are drawn in. The draws must
        be linear in the seeds; a ratio is so to first order.
        """
        low, high = percentiles(combined(draws, values, weights), level)
        items = float(draws.mean(axis=1).var(ddof=1))
        models, freedom = model_variance(values, groups)
        total = items + models
        parts = (models**2 / freedom if models else 0.0) + items**2 / max(1, clusters - 1)
        freedom = total**2 / parts if parts else freedom
        number = Interval(float(values.mean()), float(low), float(high))
        return cls(number, total**0.5, freedom, level)

    def power(self, effect: float) -> float:
        """Probability that the interval lies wholly above 0 if the truth is `effect`."""
        return power(effect, self.error, self.freedom, self.level)

    @property
    def visible(self) -> float:
        """The smallest effect that is seen with probability `ENOUGH`."""
        return visible(self.error, self.freedom, self.level)


def model_variance(values: np.ndarray, groups: Sequence | None) -> tuple[float, float]:
    """Variance of the mean of `values` [k] that is due to models, and its degrees of freedom; (0, 1) of a single
    one."""
    labels = levels(len(values), groups)
    size = np.bincount(labels)
    if len(size) == 1:
        return 0.0, 1.0
    share, mean = size / size.sum(), np.bincount(labels, values) / size
    return float((share**2 / (1 - share) * (mean - share @ mean) ** 2).sum()), len(size) - 1.0


def power(effect: float, error: float, freedom: float, level: float = 0.95) -> float:
    """Probability that a t interval lies wholly above 0 if the truth is `effect` and its standard error `error`."""
    if not error:
        return float(effect > 0)
    return float(nct.sf(t.ppf((1 + level) / 2, freedom), freedom, effect / error))


def visible(error: float, freedom: float, level: float = 0.95, enough: float = ENOUGH) -> float:
    """The smallest effect whose `power` is `enough`."""
    far = 2 * float(t.ppf((1 + level) / 2, freedom)) + 10  # in standard errors
    return error * brentq(lambda effect: power(effect, 1.0, freedom, level) - enough, 0.0, far)
