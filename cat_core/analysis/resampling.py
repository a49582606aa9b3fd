"""How sure a difference between curves is: paired bootstrap over items and seeds, tests at one point.

The items (or the clusters of items that share a passage) are drawn once per resample, and the whole curve of
every method is recomputed on that draw, so that differences between methods are paired. Training seeds are a
second level, or the large models that taught them, where these are several: of such few they are weighted so that the
interval is Student's t (`seed_weights`). 10,000 items x 6 methods x 2,000 resamples of the curve areas take about one
second on one core.

How it is fast: an item drawn w times is a tied group of w equal items, hence a straight piece of the curve
that is w items wide. With the items sorted once per method, the area of one resample is a weighted sum over
running sums of the multiplicities, no sorting and no copying of drawn items:

    area = S/N + (1/N^2) sum_i w_i g_i (N - M_i),     g_i = l_i - s_i,  S = sum_i w_i s_i,  N = sum_i w_i,

M_i the running sum of w up to the middle of i's group of tied confidences: item i's gain counts in full from
the point where its group is deferred, and on average half while it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import PlainValidator
from scipy.stats import chi2

from cat_core.curves import ROUNDING
from cat_core.ranking import Interval, Ranking, check_values, rank

GRID = np.linspace(0.0, 1.0, 101)
"""Deferral rates at which curves are resampled."""

Row = Annotated[np.ndarray, PlainValidator(lambda values: np.asarray(values, dtype=np.float64))]
"""A vector, read from a list where it comes from a file."""
BLOCK = 2**16  # item multiplicities held at a time: one block of resamples stays in the processor's cache


@dataclass(frozen=True)
class CurveBand:
    """A curve with its pointwise (not simultaneous) interval; all [g]."""

    deferral_rate: Row
    estimate: Row
    low: Row
    high: Row


@dataclass(frozen=True)
class Bootstrap:
    """What `paired_bootstrap` found: areas and curves by method, differences a - b by pair (a, b).

    n_groups: large models that were drawn, 1 where seeds are one level.
    """

    area: dict[str, Interval]
    difference: dict[tuple[str, str], Interval]
    curve: dict[str, CurveBand]
    difference_curve: dict[tuple[str, str], CurveBand]
    n_items: int
    n_clusters: int
    n_seeds: int
    resamples: int
    level: float
    n_groups: int = 1


class MeanRun:
    """The deferral curve of one method and seed, ready to be recomputed on resampled items (mean quality)."""

    def __init__(self, small_quality, large_quality, confidence):
        self.ranking: Ranking = rank(confidence)
        self.n = len(self.ranking.order)
        small = check_values("small_quality", small_quality, self.n)
        large = check_values("large_quality", large_quality, self.n)
        self.small = small[self.ranking.order]
        self.gain = (large - small)[self.ranking.order]
        self.whole = bool((self.gain == np.rint(self.gain)).all())  # 0/1 quality: integer running sums

    def resample(
        self, counts: np.ndarray, grid: np.ndarray | None, scratch: "Scratch"
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Areas [b] and values at the deferral rates `grid` [b, g] (None without one) for `counts` [b, n].

        counts: how often each item (in input order) is drawn in each of b resamples, int32. scratch: reused memory.
        """
        b, n = counts.shape
        groups = len(self.ranking.ends)
        # weight [b, n]: w_i in order of deferral (mode="clip" only spares a copy: numpy buffers `out` otherwise)
        weight = np.take(counts, self.ranking.order, axis=1, out=scratch("w", (b, n), np.int32), mode="clip")
        small_sum = np.matmul(weight, self.small)  # [b] S
        gains = np.multiply(weight, self.gain, out=scratch("g", (b, n), np.float64))  # w_i g_i
        if self.ranking.tied:  # from here on one column a group of ties: [b, groups], in fresh memory
            weight = np.add.reduceat(weight, self.ranking.starts, axis=1)
            gains = np.add.reduceat(gains, self.ranking.starts, axis=1)
        deferred = scratch("d", (b, groups + 1), np.int32)  # items deferred before each group, and in all
        deferred[:, 0] = 0
        np.cumsum(weight, axis=1, out=deferred[:, 1:])
        total = deferred[:, -1].astype(np.float64)  # [b] N
        # [b, groups] 2 M_i, the sum of both ends of a group
        middle = scratch("m", (b, groups), np.float64)
        twice_middle = np.add(deferred[:, 1:], deferred[:, :-1], dtype=np.float64, out=middle)
        late = 0.5 * (gains[:, None, :] @ twice_middle[:, :, None]).ravel()  # gain that comes too late
        area = (small_sum + gains.sum(axis=1) - late / total) / total
        if grid is None:
            return area, None
        # quality [b, groups + 1]: gain of the items deferred so far; for 0/1 quality these sums are integers, and
        # integer ones are several times faster
        kind = np.int32 if self.whole else np.float64
        quality = scratch("q", (b, groups + 1), kind)
        quality[:, 0] = 0
        if self.whole:  # `gains` is not needed as it was
            gains = np.rint(gains, out=scratch("r", gains.shape, np.int32), casting="unsafe")
        np.cumsum(gains, axis=1, out=quality[:, 1:])
        values = _between(grid * total[:, None], deferred, quality)
        return area, (values + small_sum[:, None]) / total[:, None]


class Scratch:
    """Memory handed out again block after block: fresh arrays cost more than the arithmetic on them."""

    def __init__(self):
        self.buffers = {}

    def __call__(self, name: str, shape: tuple[int, int], dtype) -> np.ndarray:
        """An array with arbitrary content, valid until the same name is asked for again."""
        size, buffer = shape[0] * shape[1], self.buffers.get((name, dtype))
        if buffer is None or buffer.size < size:
            buffer = self.buffers[name, dtype] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)


def _between(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[b, g] `values` [b, k] at integer `knots` [b, k], interpolated at `x` [b, g], row by row."""
    whole = np.floor(x).astype(knots.dtype)  # comparing integers: no conversion of all the knots
    right = np.stack([row.searchsorted(w, side="right") for row, w in zip(knots, whole)])
    right = np.minimum(right, knots.shape[1] - 1)
    left = right - 1
    x0, x1 = (np.take_along_axis(knots, at, axis=1) for at in (left, right))
    y0, y1 = (np.take_along_axis(values, at, axis=1) for at in (left, right))
    return y0 + (x - x0) / np.maximum(x1 - x0, 1) * (y1 - y0)


def item_counts(rng: np.random.Generator, resamples: int, clusters: np.ndarray) -> np.ndarray:
    """[resamples, n] how often each item is drawn, drawing as many clusters as there are with replacement.

    clusters: [n] cluster number of each item, 0 .. c-1; every item of a drawn cluster is drawn with it.
    """
    c = int(clusters.max()) + 1
    drawn = rng.integers(0, c, size=(resamples, c))
    drawn += np.arange(resamples)[:, None] * c
    counts = np.bincount(drawn.ravel(), minlength=resamples * c).reshape(resamples, c).astype(np.int32)
    return counts if c == len(clusters) and (clusters == np.arange(c)).all() else counts[:, clusters]


def cluster_numbers(cluster_ids) -> np.ndarray:
    """[n] integers 0 .. c-1, equal where `cluster_ids` are, numbered in order of first appearance."""
    return pd.factorize(np.asarray(cluster_ids), use_na_sentinel=False)[0]


def levels(seeds: int, groups: Sequence | None) -> np.ndarray:
    """[seeds] number of what each seed belongs to on the highest level that there are several of: its large model, or
    itself where there is but one or none is named. Raises ValueError for another number of groups than seeds."""
    labels = np.arange(seeds) if groups is None else cluster_numbers(groups)
    if len(labels) != seeds:
        raise ValueError(f"groups has {len(labels)} labels for {seeds} training seeds: give the large model of each")
    return labels if labels.any() else np.arange(seeds)


def seed_weights(rng: np.random.Generator, resamples: int, seeds: int, groups=None) -> np.ndarray:
    """[resamples, seeds] weight of each training seed in each resample; rows sum to 1, weights may be negative.

    groups: [seeds] the large model that taught each seed. Without them, or with one, the seeds are the highest level;
    else the large models are. With g of that level, w_j the share of the seeds that belongs to j, and z_j their mean,
    the weighted sum of any numbers of the seeds is distributed over the resamples as

        sum_j w_j z_j + T se,    se^2 = sum_j w_j^2 (z_j - sum_k w_k z_k)^2 / (1 - w_j),    T Student's t, g - 1 df,

    so that its quantiles are the ends of the t interval, for all numbers at once, paired. The weight of j is w_j + (a_j
    e_j - w_j sum_k a_k e_k) / sqrt(Q / (g - 1)), with e_j normal, Q chi-squared by its g - 1 degrees of freedom, and
    a_j = w_j / sqrt(1 - w_j) (Bell and McCaffrey 2002; exact where all w_j are equal). Seeds drawn with replacement, as
    in a plain bootstrap, are too alike where they are few: `coverage` compares them. Errors are those of `levels`.
    """
    labels = levels(seeds, groups)
    size = np.bincount(labels)
    share, count = size / seeds, len(size)
    if count == 1:
        return np.ones((resamples, 1))
    # the quantiles of Q in random order in place of draws: with few levels its tail is what the interval's ends are
    scale = np.sqrt((count - 1) / chi2.ppf((rng.permutation(resamples) + 0.5) / resamples, count - 1))
    away = share / np.sqrt(1 - share) * rng.normal(size=(resamples, count)) * scale[:, None]
    weight = share + away - share * away.sum(axis=1, keepdims=True)
    return (weight / size)[:, labels]


def coverage(sizes: Sequence[int], ratio: float, *, studies: int = 4000, resamples: int = 1000, level: float = 0.95,
             weights: Callable = seed_weights, seed: int = 0) -> float:  # fmt: skip
    """Share of simulated studies whose interval holds the truth.

    sizes: training seeds of each large model; ratio: variance between large models over that between their seeds, both
    normal. Items, which would add what both have in common, are left out: it is the hardest case. weights: a function
    as `seed_weights`.
    """
    rng, groups = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    values = rng.normal(size=(studies, len(groups)))
    values += np.sqrt(ratio) * rng.normal(size=(studies, len(sizes)))[:, groups]
    low, high = percentiles((values @ weights(rng, resamples, len(groups), groups).T).T, level)
    return float(((low <= 0) & (0 <= high)).mean())


def draw_blocks(labels: np.ndarray, seeds: int, resamples: int, seed: int = 0, groups=None):
    """The draws of `paired_bootstrap`, block after block: slice of resamples, item counts [b, n], seed weights [b, k].

    labels: [n] cluster number of each item. Whoever resamples with the same arguments sees the same draws.
    """
    item_stream, seed_stream = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    weight = seed_weights(seed_stream, resamples, seeds, groups)
    step = max(1, BLOCK // len(labels))
    for begin in range(0, resamples, step):
        block = slice(begin, min(begin + step, resamples))
        yield block, item_counts(item_stream, block.stop - begin, labels), weight[block]


def paired_bootstrap(
    methods: Mapping[str, object],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    clusters=None,
    groups=None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    grid: np.ndarray | None = GRID,
) -> Bootstrap:
    """Percentile intervals of every method's curve and area, and of the paired differences between methods.

    methods: name -> one run, or a sequence of runs, one per training seed, in the same order of seeds for
    all. A run has small_quality, large_quality, confidence [n] (such as `outcomes.Pairing`), or is a
    `corpus.CorpusRun`. Where runs carry item_ids or a seed, these must agree.
    pairs: names (a, b) whose difference a - b is wanted. clusters: [n] labels of items to be drawn together
    (default: the first run's cluster_ids, else every item by itself). groups: the large model of each seed, in the
    order of the runs, where there are several (default: the seeds are one level). level: coverage of the
    intervals. grid: deferral rates of the curves; None leaves the curves out, which is faster.

    Each resample draws the clusters with replacement (the same for all seeds and methods), and weights the seeds (the
    same for all methods) by `seed_weights` (`combined`), so that with `groups` the interval speaks of other large
    models, too, and without of other seeds. By simulation (`coverage`) 95 % intervals hold the truth in 94 to 96 % of
    studies, with 2 to 10 seeds over as many or fewer large models, equally many seeds each or not, whether large models
    differ not at all, as much as seeds, or three times as much (as variances); they are wide where there are few. With
    one seed the intervals speak of that trained model only. Raises ValueError when runs do not match each other.
    """
    runs, labels = aligned(methods, clusters)
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(runs):
            raise ValueError(f"pairs holds {tuple(pair)!r}, expected two of the methods {', '.join(runs)}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be >= 1 and level in (0, 1), got {resamples} and {level}")
    if grid is not None:
        grid = np.asarray(grid, dtype=np.float64)
        if grid.ndim != 1 or not grid.size or not ((grid >= 0) & (grid <= 1)).all():
            raise ValueError("grid must be a non-empty list of deferral rates in [0, 1]")
    once, draws = mean_curves(runs, labels, grid, resamples, groups=groups, seed=seed)

    def both(wanted):
        """Areas and bands of methods and of pairs of them, from columns of `once` and `draws`."""
        areas, bands = {}, {}
        for key, (estimate, drawn) in wanted.items():
            low, high = percentiles(drawn, level)
            areas[key] = Interval(float(estimate[0]), float(low[0]), float(high[0]))
            if grid is not None:
                bands[key] = CurveBand(grid, estimate[1:], low[1:], high[1:])
        return areas, bands

    column = {name: (once[i], draws[:, i]) for i, name in enumerate(runs)}
    area, curve = both(column)
    difference, difference_curve = both(
        {(a, b): tuple(x - y for x, y in zip(column[a], column[b])) for a, b in map(tuple, pairs)}
    )
    sizes = (len(labels), int(labels.max()) + 1, len(next(iter(runs.values()))))
    n_groups = 1 if groups is None else len(set(groups))
    return Bootstrap(area, difference, curve, difference_curve, *sizes, resamples, level, n_groups)


def combined(drawn: np.ndarray, once: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[b, ...] draws of a mean over seeds: of items drawn anew, and of seeds weighted as `draw_blocks` has them.

    drawn: [b, k, ...] numbers of each seed on resampled items; once: [k, ...] the same on the items as they are;
    weight: [b, k]. The weights vary what was measured, not what was drawn: the latter scatters by the items again.
    """
    return drawn.mean(axis=1) + apart(once, weight)


def apart(once: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[b, ...] what other seeds would add to the mean of `once` [k, ...], by `weight` [b, k]; 0 of equal ones."""
    return np.tensordot(weight, once - once.mean(axis=0), axes=1)


def mean_curves(runs, labels, grid, resamples: int, *, groups=None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Area and values at `grid` [g], mean over seeds, of `aligned` runs: as measured [m, 1 + g], drawn [b, m, 1 + g].

    The draws are those of `paired_bootstrap`; m methods in the order of `runs`; without a grid the areas alone.
    """
    k, scratch = len(next(iter(runs.values()))), Scratch()

    def measured(counts):
        """[b, 1 + g] area and values of each run, method by method."""
        for seeds in runs.values():
            results = (run.resample(counts, grid, scratch) for run in seeds)
            yield [np.column_stack(found if grid is not None else found[:1]) for found in results]

    once = np.stack([np.concatenate(row) for row in measured(np.ones((1, len(labels)), dtype=np.int32))], axis=1)
    draws = []
    for _, counts, weight in draw_blocks(labels, k, resamples, seed, groups):
        mean = np.stack([sum(row) / k for row in measured(counts)], axis=1)  # one seed after the other: no [b, k, ...]
        draws.append(mean + apart(once, weight))
    return once.mean(axis=0), np.concatenate(draws)


def area_draws(runs, resamples: int, groups=None) -> tuple[np.ndarray, np.ndarray]:
    """[1 + b, k, 3] area and quality at both ends of each run of one method, as measured and on b resamples of items;
    and the weights [b, k] of its seeds: those of `paired_bootstrap`."""
    ready, labels = aligned({"runs": runs}, None)
    ends, scratch = np.array([0.0, 1.0]), Scratch()

    def measured(counts):
        return np.stack([np.column_stack(run.resample(counts, ends, scratch)) for run in ready["runs"]], axis=1)

    parts, weights = [measured(np.ones((1, len(labels)), dtype=np.int32))], []
    for _, counts, weight in draw_blocks(labels, len(runs), resamples, groups=groups):
        parts.append(measured(counts))
        weights.append(weight)
    return np.concatenate(parts), np.concatenate(weights)


def percentiles(draws, level: float) -> np.ndarray:
    """[2, ...] ends of the central interval that holds the share `level` of `draws` [b, ...]."""
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)


def intervals(estimates, draws, level: float) -> list[Interval]:
    """The `Interval` of each of q estimates [q] from its draws [b, q]."""
    return [Interval(*map(float, part)) for part in zip(estimates, *percentiles(draws, level))]


SAME_SEEDS = "every method needs the same training seeds in the same order"


def aligned(methods, clusters):
    """The runs by method as lists, and each item's cluster number [n]; checked to match."""
    if not methods:
        raise ValueError("methods is empty: give at least one method with its runs")
    given = {name: list(runs) if isinstance(runs, list | tuple) else [runs] for name, runs in methods.items()}
    lengths = {name: len(runs) for name, runs in given.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"{SAME_SEEDS}, got numbers of seeds {lengths}")
    seeds = {name: [getattr(run, "seed", None) for run in runs] for name, runs in given.items()}
    known = [entries for entries in seeds.values() if None not in entries]
    if any(entries != known[0] for entries in known):
        raise ValueError(f"{SAME_SEEDS}, got {seeds}")
    every = [(name, run) for name, entries in given.items() for run in entries]
    ids = [(name, run.item_ids) for name, run in every if getattr(run, "item_ids", None) is not None]
    for name, entries in ids[1:]:
        if not np.array_equal(entries, ids[0][1]):
            problem = f"method {name!r} holds other items than {ids[0][0]!r} (or another order)"
            raise ValueError(f"{problem}: a paired comparison needs the same items for all")

    def ready(run):
        return run if hasattr(run, "resample") else MeanRun(run.small_quality, run.large_quality, run.confidence)

    runs = {name: [ready(run) for run in entries] for name, entries in given.items()}
    sizes = {name: [run.n for run in entries] for name, entries in runs.items()}
    n = next(iter(sizes.values()))[0]
    if any(size != n for entries in sizes.values() for size in entries):
        raise ValueError(f"all runs must hold the same items, got numbers of items {sizes}")
    if clusters is None:
        clusters = next((run.cluster_ids for _, run in every if getattr(run, "cluster_ids", None) is not None), None)
    labels = np.arange(n) if clusters is None else cluster_numbers(clusters)
    if len(labels) != n:
        raise ValueError(f"clusters has {len(labels)} labels for {n} items: give one an item")
    return runs, labels


def iso_thresholds(
    confidence: np.ndarray, small: np.ndarray, large: np.ndarray, counts: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:  # fmt: skip
    """[b] thresholds tau at which a cascade first has L's quality, one for each resample of its rows.

    The saving at equal quality is read off test rows at a threshold that was chosen on calibration rows
    (`curves.iso_quality_threshold`). Both are samples, so its interval draws both anew; the calibration rows matter as
    much as the test rows do.

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


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for testing several tasks (Holm 1979): reject where the value is <= level."""
    ordered = sorted(p_values.items(), key=lambda pair: pair[1])
    adjusted, highest = {}, 0.0
    for done, (name, p) in enumerate(ordered):
        if not 0 <= p <= 1:
            raise ValueError(f"p-value of {name!r} is {p}, expected a number in [0, 1]")
        highest = max(highest, min(1.0, (len(ordered) - done) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
