"""Intervals of a comparison from one paired bootstrap: areas, both ends of the curves, and paired differences.

Drawn now from an outcome table, or read from the metrics of a recorded cell; whoever shows them need not know which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cat_core.analysis.corpus import scale_of
from cat_core.analysis.resampling import Bootstrap, CurveBand
from cat_core.ranking import Interval

Ends = tuple[Interval, Interval]
"""At the deferral rates 0 (S alone) and 1 (L alone)."""
RANDOM = "random deferral: "  # prefix of the name of a method's S and L under random deferral


@dataclass(frozen=True)
class Intervals:
    """What one draw of large models, seeds and items says of all methods under one rule, in the unit of the quality.

    metric, tasks, rule: of what; level, resamples, n_items, n_clusters, n_seeds, n_groups (large models): how drawn.
    area: AUDC by method, and of random deferral between its S and L under `RANDOM` + method. difference, by "a - b": of
    areas. ends, difference_ends: of the curves and their differences. bands: of the differences along all deferral
    rates, pointwise; empty where they were not kept.
    """

    metric: str
    tasks: tuple[str, ...]
    rule: str
    level: float
    resamples: int
    n_items: int
    n_clusters: int
    n_seeds: int
    n_groups: int
    area: dict[str, Interval]
    difference: dict[str, Interval]
    ends: dict[str, Ends]
    difference_ends: dict[str, Ends]
    bands: dict[str, CurveBand]

    @classmethod
    def of(
        cls, boot: Bootstrap, methods: Sequence[str], pairs: Sequence[tuple[str, str]], *, metric: str,
        tasks: Sequence[str], rule: str,
    ) -> Intervals:  # fmt: skip
        """Of what `resampling.paired_bootstrap` gave."""
        return cls(
            metric, tuple(tasks), rule, boot.level, boot.resamples, boot.n_items, boot.n_clusters, boot.n_seeds,
            boot.n_groups, {name: possible(x, metric) for name, x in boot.area.items()},
            {f"{a} - {b}": x for (a, b), x in boot.difference.items()},
            {m: tuple(possible(x, metric) for x in band_ends(boot.curve[m])) for m in methods},
            {f"{a} - {b}": band_ends(boot.difference_curve[a, b]) for a, b in pairs},
            {f"{a} - {b}": boot.difference_curve[a, b] for a, b in pairs},
        )  # fmt: skip

    def drawn_as(self, metric: str, tasks: Sequence[str], rule: str, seeds: int, resamples: int, level: float) -> bool:
        """Whether this is what these rows would give, drawn now."""
        mine = (self.metric, set(self.tasks), self.rule, self.n_seeds, self.resamples, self.level)
        return mine == (metric, set(tasks), rule, seeds, resamples, level)

    def to_keep(self, bands: bool = False) -> Intervals:
        """As it is written down: bands with six digits, or none."""
        return replace(self, bands={pair: rounded(band) for pair, band in self.bands.items()} if bands else {})


def possible(x: Interval, metric: str) -> Interval:
    """An interval of a quality, cut to what the metric can be: few models make it wide beyond all bounds."""
    top = 100 / scale_of(metric)
    low, high = np.clip([x.low, x.high], -top if metric == "matthews" else 0.0, top)
    return Interval(x.estimate, float(low), float(high))


def rounded(band: CurveBand) -> CurveBand:
    """A band with six digits."""
    return CurveBand(*(np.array([float(f"{x:.6g}") for x in part]) for part in vars(band).values()))


def band_ends(band: CurveBand) -> Ends:
    """Both ends of a band."""
    return tuple(Interval(*(float(part[i]) for part in (band.estimate, band.low, band.high))) for i in (0, -1))
