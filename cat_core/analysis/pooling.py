"""Pooling: what several cells say together of one effect, and how far they agree (a meta-analysis).

From `FEW` cells on their effects are taken as drawn from a population of cells (random effects): the mean, each cell
with equal weight, and Student's t with one degree of freedom fewer than cells. Equal weights, as the errors of single
cells rest on two degrees of freedom often: weights made of them would pull towards cells that look sure by chance (by
simulation of 5 to 12 cells with three large models each, the interval of Hartung and Knapp with such weights holds the
truth in 89 to 94 % of studies, this one in 95 to 96). Fewer cells cannot say how much cells differ: their mean speaks
of these cells alone, by their own errors and the degrees of freedom of Welch and Satterthwaite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f, t

from cat_core.ranking import Interval

FEW = 5


@dataclass(frozen=True)
class Pooled:
    """number: the effect with its interval; narrow: the 90 % interval, for tests of equivalence; error, freedom: of t.

    cells: how many; positive: of these with an estimate above 0. between: standard deviation of the true effects
    between cells (what the estimates scatter beyond their errors), 0 where cells are too few to say; prediction: 95 %
    interval of a further cell's true effect, from `FEW` cells on. heterogeneity: p-value of all cells having one
    true effect (the F test of Welch 1951, for unequal errors); None of one cell, or where an error is 0.
    """

    number: Interval
    narrow: Interval
    error: float
    freedom: float
    cells: int
    positive: int
    between: float = 0.0
    prediction: Interval | None = None
    heterogeneity: float | None = None

    @property
    def p_value(self) -> float:
        """Two-sided, of no effect."""
        if not self.error:
            return float(self.number.estimate == 0)
        return float(2 * t.sf(abs(self.number.estimate) / self.error, self.freedom))


def pool(effects: Sequence[float], errors: Sequence[float], freedoms: Sequence[float], level: float = 0.95) -> Pooled:
    """Effects of independent cells with their standard errors and degrees of freedom, pooled.

    Raises ValueError for no cell, and for numbers that are not finite or errors below 0.
    """
    y, se, df = (np.asarray(x, dtype=np.float64) for x in (effects, errors, freedoms))
    if not len(y) or not len(y) == len(se) == len(df):
        raise ValueError(f"{len(y)} effects, {len(se)} errors, {len(df)} degrees of freedom: give one each, at least 1")
    if not (np.isfinite(y).all() and np.isfinite(se).all() and (se >= 0).all() and (df > 0).all()):
        raise ValueError("effects and errors must be finite numbers, errors not below 0, degrees of freedom above 0")
    k, v = len(y), se**2
    mean, between, prediction = float(y.mean()), 0.0, None
    if k < FEW:
        error = float(np.sqrt(v.sum())) / k
        freedom = float(v.sum() ** 2 / (v**2 / df).sum()) if v.any() else float(df.sum())
    else:
        error, freedom = float(y.std(ddof=1)) / k**0.5, k - 1.0
        between = max(0.0, float(y.var(ddof=1) - v.mean())) ** 0.5
        reach = float(t.ppf((1 + level) / 2, freedom)) * math.hypot(between, error)
        prediction = Interval(mean, mean - reach, mean + reach)

    def interval(level: float) -> Interval:
        reach = float(t.ppf((1 + level) / 2, freedom)) * error
        return Interval(mean, mean - reach, mean + reach)

    unlike, positive = _heterogeneity(y, v, df), int((y > 0).sum())
    return Pooled(interval(level), interval(0.90), error, freedom, k, positive, between, prediction, unlike)


def _heterogeneity(y: np.ndarray, v: np.ndarray, df: np.ndarray) -> float | None:
    """Welch's p-value that effects y with error variances v, of df degrees of freedom, are all the same."""
    k = len(y)
    if k < 2 or not v.all():
        return None
    weights = 1 / v
    share = weights / weights.sum()
    lost = float(((1 - share) ** 2 / df).sum())  # what not knowing the variances costs
    ratio = float((weights * (y - share @ y) ** 2).sum()) / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * lost)
    return float(f.sf(ratio, k - 1, (k**2 - 1) / (3 * lost)))
