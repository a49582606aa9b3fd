"""Compare training methods from an outcome table: every number that a page on a suite reports.

One `Comparison` is a suite (or one task of it), a metric, the methods and the training seeds of S, each seed
with the large model that it defers to. Quality of accuracy tasks is the mean over items, in [0, 1]; of
translation it is the corpus BLEU or chrF of the mixed output, 0 to 100 (`corpus.CorpusRun`); other metrics that are
no mean are in `classes`. A curve or number of a method is the mean over its seeds. Intervals come from the paired
bootstrap: large models first (where there are several), then the seeds of S that each of them taught, then items
(clusters), the same draws for all methods. A number that does not exist is `quantities.Undefined`, with the reason.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cat_core import curves
from cat_core.analysis.classes import ClassRun, GroupRun
from cat_core.analysis.corpus import METRICS as CORPUS
from cat_core.analysis.corpus import CorpusRun, scale_of, tokenizer_of, tokenizer_options, tokenizers
from cat_core.analysis.further import (
    by_metric,
    check_tokenizers,
    common_metric,
    further_of,
    has_counts,
    has_texts,
)
from cat_core.analysis.intervals import RANDOM, Intervals
from cat_core.analysis.outcomes import COST, OutcomeError, Pairing, join, paired, validate
from cat_core.analysis.quantities import Undefined, Unit
from cat_core.analysis.resampling import GRID, Bootstrap, area_draws, paired_bootstrap
from cat_core.ranking import DeferralCurve, Interval, rank
from cat_core.tasks.scoring import CLASSES, GROUPS, TABLE

METRIC_LABELS = {name: metric.label for name, metric in TABLE.items()} | {"quality": "Mean quality"}
"""Metrics as readers know them; "quality" is the mean over tasks whose metrics are different shares."""
PAGE_RULES = ("chow_average", "chow_quantile_0", "option_probability")
PRIMARY = (("cat-dist", "dist"), ("cat-xent", "xent"))
CONTROL = (("cat-dist", "random-dist"), ("cat-xent", "random-xent"))
"""The random mask keeps as many tokens as CAT does: what it does as well is not the effect of *which* are kept."""
PAIRS = PRIMARY + CONTROL
"""What is compared where both methods are there: CAT with the same loss unmasked, and with the random mask."""


class InPoints:
    """What has a `metric`, and shows its quality in points, 0 to 100."""

    @property
    def scale(self) -> float:
        """What brings quality to points: 100 for shares, 1 for BLEU and chrF."""
        return scale_of(self.metric)

    @property
    def gain(self) -> Unit:
        """Differences of quality or of AUDC, in points, with sign."""
        return Unit(self.scale, 2, "", True)


@dataclass(frozen=True, eq=False)
class Comparison(InPoints):
    """Methods compared on the rows of one suite.

    frame: an outcome table (`outcomes.SCHEMA`) with one suite. large_seed: the seed of the large model that
    goes with a seed of the small one, as a function (`Experiment.large_seed`) or a mapping; not needed when
    there is one large model. methods, seeds: default all, in order of appearance. task: keep the rows of one
    task. metric: default that of the rows; "bleu" or "chrf" may be asked for where answers are free text, and
    `with_metric` takes what the rows report beside their own.
    right_at: an answer counts as right in the ledger and in AUROC when its quality is at least this (default
    1 for shares, 0.5 for sentence-level BLEU or chrF; the latter is our choice). resamples, level: of the
    bootstrap. kept: metrics of a recorded cell (`metrics.CellMetrics`): what they have is read, not drawn.

    Raises ValueError (OutcomeError) in one line on tables that do not fit: several suites, metrics that
    cannot be averaged, methods with different seeds, missing texts.
    """

    frame: pd.DataFrame
    large_seed: Callable[[int], int] | Mapping[int, int] | None = None
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    task: str | None = None
    metric: str = ""
    right_at: float | None = None
    resamples: int = 2_000
    level: float = 0.95
    kept: object | None = field(default=None, repr=False)
    _cache: dict = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self):
        frame = validate(self.frame)
        suites = sorted(frame["suite"].unique())
        if len(suites) > 1:
            raise OutcomeError(f"the table holds the suites {', '.join(suites)}: compare one at a time")
        if self.task is not None:
            if not (frame["task"] == self.task).any():
                raise OutcomeError(f"no task {self.task!r}: the table holds {', '.join(sorted(set(frame['task'])))}")
            frame = frame[frame["task"] == self.task]
        small = frame[frame["model"] == "small"]
        runs = {m: set(rows["seed"]) for m, rows in small.groupby("method", sort=False)}
        methods = tuple(self.methods) or tuple(runs)
        for method in methods:
            if method not in runs:
                raise OutcomeError(f"no rows of method {method!r}: the table holds {', '.join(runs) or 'none'}")
        if not methods:
            raise OutcomeError("the table holds no small model: nothing to compare")
        seeds = tuple(self.seeds) or tuple(sorted(runs[methods[0]]))
        lacking = [m for m in methods if not set(seeds) <= runs[m] or (not self.seeds and set(seeds) != runs[m])]
        if lacking:
            problem = f"methods {', '.join(lacking)} lack some of the seeds {sorted(seeds)} or have others"
            raise OutcomeError(f"{problem}: run the same seeds for all")
        metric = self.metric or common_metric(small["metric"].unique(), ())
        if metric not in METRIC_LABELS:
            raise OutcomeError(f"unknown metric {metric!r}: expected one of {', '.join(METRIC_LABELS)}")
        if metric in CORPUS and not (has_texts(frame) or has_counts(frame, metric)):
            raise OutcomeError(
                f"{metric} needs the texts or their counts, but the table was written without some: write it again "
                "with cat_core.analysis.outcomes.drop_text, which keeps the counts"
            )
        right_at = self.right_at if self.right_at is not None else (0.5 if metric in CORPUS else 1.0)
        for name, value in (("frame", frame), ("methods", methods), ("seeds", tuple(map(int, seeds))),
                            ("metric", metric), ("right_at", right_at)):  # fmt: skip
            object.__setattr__(self, name, value)

    # ---------------------------------------------------------------- what it is about

    @property
    def is_corpus(self) -> bool:
        """Whether quality is a corpus metric on 0..100 instead of a mean in [0, 1]."""
        return self.metric in CORPUS

    @property
    def by_counts(self) -> bool:
        """Whether the metric is no mean over items: a corpus metric, or one of classes or of questions."""
        return self.is_corpus or self.metric in (*CLASSES, *GROUPS)

    @property
    def further(self) -> tuple[str, ...]:
        """What the one task reports beside its metric; nothing where there are several tasks."""
        names = further_of(self.frame) if len(self.tasks) == 1 else ()
        return tuple(name for name in names if name != self.metric)

    @property
    def label(self) -> str:
        """The metric's name for readers."""
        return METRIC_LABELS[self.metric]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in order of appearance."""
        return self.once("tasks", lambda: tuple(self.frame["task"].unique()))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """`PAIRS` of which both methods are there."""
        return tuple(pair for pair in PAIRS if set(pair) <= set(self.methods))

    @property
    def rules(self) -> tuple[str, ...]:
        """Confidence rules among `PAGE_RULES` that are defined for every row of S; Chow-Average first."""
        small = self.frame[self.frame["model"] == "small"]
        return tuple(r for r in PAGE_RULES if not small[f"confidence_{r}"].isna().any())

    @property
    def n(self) -> int:
        """Number of test items."""
        return len(self.pairing(self.methods[0], self.seeds[0]))

    @property
    def groups(self) -> tuple[int, ...] | None:
        """The seed of the large model of each seed in `seeds`; None where one large model taught all."""
        large_seeds = None if self.large_seed is None else tuple(map(self._large, self.seeds))
        return large_seeds if large_seeds is not None and len(set(large_seeds)) > 1 else None

    @property
    def large_models(self) -> int:
        """How many large models the seeds were dealt over."""
        return len(set(self.groups or (0,)))

    @property
    def levels(self) -> str:
        """What intervals resample, in words and in that order."""
        items = "items" if len(self.seeds) > 1 else "items (one training seed)"
        seeds = "training seeds, then " if len(self.seeds) > 1 else ""
        return f"{self.large_models} large models, their {seeds}{items}" if self.groups else f"{seeds}{items}"

    def _large(self, seed: int) -> int | None:
        return self.large_seed(seed) if callable(self.large_seed) else (self.large_seed or {}).get(seed)

    def of_task(self, task: str) -> Comparison:
        """The same comparison on one task."""

        def chosen():
            rows = self.frame[self.frame["task"] == task]  # checking the other rows again takes longer than all else
            metric = self.metric if self.by_counts else ""  # a mixture of shares is one metric, each task has its own
            return replace(self, frame=rows if len(rows) else self.frame, task=task, metric=metric)

        return self.once(("task", task), chosen)

    def with_metric(self, metric: str) -> Comparison:
        """The same comparison by another metric: another corpus metric, or one that all rows report beside their own.

        Raises OutcomeError in one line where the rows do not have it.
        """
        if other := self.is_corpus and metric in CORPUS:
            check_tokenizers(metric, tokenizers(self.frame))
        return replace(self, frame=self.frame if other else by_metric(self.frame, metric), metric=metric, right_at=None)

    def by_further(self, metrics: Iterable[str] | None = None) -> list[Comparison]:
        """By each of these metrics but its own (default: `further`), as far as the table holds what they need."""
        found = []
        for metric in dict.fromkeys(self.further if metrics is None else metrics):
            with contextlib.suppress(OutcomeError):
                found += [self.with_metric(metric)] if metric != self.metric else []
        return found

    # ---------------------------------------------------------------- runs and curves

    def pairing(self, method: str, seed: int, split: str = "test", rule: str = "chow_average") -> Pairing:
        """S's rows of one method and seed with those of the large model it defers to."""
        large, column = self._large(seed), f"confidence_{rule}"

        def joined():
            if rule != "chow_average" and column in self.frame:  # all but the confidence is known then
                known = self.pairing(method, seed, split)
                values = self.small_rows(known)[column].to_numpy(float)
                if not np.isnan(values).any():
                    return replace(known, confidence=values, rule=rule)
            parts = self._parts
            of_large = [key for key in parts if key[0] == "large" and large in (None, key[1]) and key[2] == split]
            if (method, seed, split) in parts and len(of_large) == 1 and column in self.frame:
                return join(parts[method, seed, split], parts[of_large[0]], method, seed, split, rule)
            return paired(self.frame, method, seed, split, rule, large_seed=large)  # which says what is missing

        return self.once(("pairing", method, seed, split, rule), joined)

    def small_rows(self, known: Pairing) -> pd.DataFrame:
        """The rows of S of a pairing, in its order."""
        key = (known.method, known.seed, known.split)
        return self.once(("small", *key), lambda: self._parts[key].set_index("item_id").loc[known.item_ids])

    @property
    def _parts(self) -> dict[tuple, pd.DataFrame]:  # by method, seed and split
        return self.once("parts", lambda: dict(iter(self.frame.groupby(["method", "seed", "split"], sort=False))))

    def run(self, method: str, seed: int, split: str = "test", rule: str = "chow_average") -> Pairing | CorpusRun:
        """One method and seed, ready for curves and the bootstrap in this metric."""
        rows = self.pairing(method, seed, split, rule)
        if not self.by_counts:
            return rows

        def counted():
            where = {"item_ids": rows.item_ids, "cluster_ids": rows.cluster_ids, "seed": seed}
            if self.metric in CLASSES:
                options = (rows.more[name] for name in ("small", "large", "right"))
                return ClassRun(*options, rows.confidence, self.metric, **where)
            if self.metric in GROUPS:
                return GroupRun(rows.small_quality, rows.large_quality, rows.more["group"], rows.confidence, **where)
            check_tokenizers(self.metric, rows.tokenizers)
            if has_texts(self.frame):
                where |= tokenizer_options(self.metric, rows.tokenizers[0])
                texts = (rows.small_predictions, rows.large_predictions, rows.right_answers)
                return CorpusRun(*texts, rows.confidence, self.metric, **where)
            counts = (rows.small_counts[self.metric], rows.large_counts[self.metric])
            where["signature"] = signature = rows.signatures[self.metric]
            where |= tokenizer_options(self.metric, tokenizer_of(signature))
            return CorpusRun.from_counts(*counts, rows.confidence, self.metric, **where)

        return with_confidence(self.once(("counts", method, seed, split), counted), rows.confidence)

    def runs(self, method: str, rule: str = "chow_average") -> list[Pairing | CorpusRun]:
        """The test runs of a method, one a seed."""
        return [self.run(method, seed, rule=rule) for seed in self.seeds]

    def seed_curve(self, method: str, seed: int, split: str = "test", rule: str = "chow_average") -> DeferralCurve:
        """The deferral curve of one seed, [n+1] points."""
        return self.once(("seed curve", method, seed, split, rule), self.run(method, seed, split, rule).curve)

    def curve(self, method: str, rule: str = "chow_average") -> DeferralCurve:
        """Mean test curve over the seeds at equal deferral rate, [n+1] points.

        threshold: the median over the seeds of the tau that defers this many (each seed has its own).
        realisable: where some threshold of every seed stops; elsewhere the curve is an expectation over ties.
        """

        def mean():
            parts = [self.seed_curve(method, seed, rule=rule) for seed in self.seeds]
            threshold = np.quantile([c.threshold for c in parts], 0.5, axis=0, method="lower")
            return _mean_curve(parts, threshold, np.all([c.realisable for c in parts], axis=0))

        return self.once(("curve", method, rule), mean)

    @property
    def unknown_costs(self) -> Undefined | None:
        """Why nothing can be said of costs, where the FLOPs of a model are unknown; None where all are known."""

        def find():
            models = sorted(self.frame["model"][self.frame[COST].isna()].unique(), reverse=True)
            names = " and ".join({"small": "S", "large": "L"}[model] for model in models)
            return Undefined(f"the FLOPs of {names} are unknown") if models else None

        return self.once("unknown costs", find)

    def cost(self, method: str, rule: str = "chow_average") -> np.ndarray | Undefined:
        """[n+1] mean FLOPs per query of the cascade along `curve`, S included, averaged over the seeds."""
        if (why := self.unknown_costs) is not None:
            return why
        rows = [self.pairing(method, seed, rule=rule) for seed in self.seeds]
        return np.mean([curves.cascade_cost(r.small_flops, r.large_flops, r.confidence) for r in rows], axis=0)

    @property
    def large_flops(self) -> float | Undefined:
        """C_L: mean FLOPs per test query of L alone, averaged over the seeds."""
        if (why := self.unknown_costs) is not None:
            return why
        return float(np.mean([self.pairing(self.methods[0], seed).large_flops.mean() for seed in self.seeds]))

    def oracle(self, method: str) -> DeferralCurve:
        """Mean over seeds of the oracle with exactly the deferral rate r; the greedy one for what is no mean."""

        def mean():
            parts = [
                run.greedy_oracle() if self.by_counts else curves.oracle_curve(run.small_quality, run.large_quality)
                for run in self.runs(method)
            ]
            never = np.append(-np.inf, np.full(len(parts[0].quality) - 1, np.nan))
            return _mean_curve(parts, never, parts[0].realisable)

        return self.once(("oracle", method), mean)

    # ---------------------------------------------------------------- intervals

    @property
    def recorded(self) -> object | None:
        """What `kept` says of just these rows, by this metric and these draws (`metrics.SuiteMetrics`); else None."""

        def find():
            whole = self.kept.bootstraps[:1] if self.kept is not None else ()
            if not whole or not whole[0].drawn_as(whole[0].metric, self.tasks, "chow_average", *self._draws):
                return None
            return self.kept if self.kept.metric == self.metric else self.kept.other_metrics.get(self.metric)

        return self.once("recorded", find)

    @property
    def _draws(self) -> tuple[int, int, float]:
        return len(self.seeds), self.resamples, self.level

    def intervals(self, rule: str = "chow_average", bands: bool = False) -> Intervals:
        """Of all methods, of random deferral for each, and of `pairs` and (method, random deferral), from one draw.

        Read from `kept` where it has them, else drawn. bands: those of `pairs` are asked for, too.
        """
        for known in self.kept.bootstraps if self.kept is not None else ():
            fits = known.drawn_as(self.metric, self.tasks, rule, *self._draws) and set(self.methods) <= set(known.ends)
            if fits and not (bands and {f"{a} - {b}" for a, b in self.pairs} - set(known.bands)):
                return known

        def draw():
            runs = {m: self.runs(m, rule) for m in self.methods}
            even = {RANDOM + m: [with_confidence(run, np.zeros(self.n)) for run in runs[m]] for m in self.methods}
            pairs = [*self.pairs, *((m, RANDOM + m) for m in self.methods)]
            boot = self.bootstrap(runs | even, pairs)
            return Intervals.of(boot, self.methods, self.pairs, metric=self.metric, tasks=self.tasks, rule=rule)

        return self.once(("intervals", rule), draw)

    def bootstrap(self, runs, pairs, grid=GRID, resamples: int = 0) -> Bootstrap:
        """`resampling.paired_bootstrap` of such runs by name, drawn as the comparison says."""
        options = {"groups": self.groups, "resamples": resamples or self.resamples, "level": self.level, "grid": grid}
        return paired_bootstrap(runs, pairs=pairs, **options)

    def area_draws(self, method: str, rule: str = "chow_average") -> tuple[np.ndarray, np.ndarray]:
        """`resampling.area_draws` of a method: what single seeds give, before they are weighted."""
        key = ("area draws", method, rule)
        return self.once(key, lambda: area_draws(self.runs(method, rule), self.resamples, self.groups))

    def audc(self, method: str, rule: str = "chow_average") -> Interval:
        """Area under the deferral curve over the deferral rate, with its interval."""
        return self.intervals(rule).area[method]

    def random_audc(self, method: str, rule: str = "chow_average") -> Interval:
        """The same area when the deferred queries are drawn at random: (A_S + A_L) / 2."""
        return self.intervals(rule).area[RANDOM + method]

    def over_random(self, method: str, rule: str = "chow_average") -> Interval:
        """AUDC less that of random deferral between the same two models."""
        return self.intervals(rule).difference[f"{method} - {RANDOM}{method}"]

    def difference(self, method: str, baseline: str, rule: str = "chow_average") -> Interval | Undefined:
        """AUDC of `method` less that of `baseline`, paired; Undefined if this run lacks one of the two."""
        return self._pair(method, baseline, lambda bootstrap, pair: bootstrap.difference[pair], rule)

    def alone_difference(self, method: str, baseline: str) -> Interval | Undefined:
        """Quality of S on its own: `method` less `baseline`, paired."""
        return self._pair(method, baseline, lambda bootstrap, pair: bootstrap.difference_ends[pair][0])

    def alone(self, method: str) -> Interval:
        """Quality of S on its own (always-S)."""
        return self.intervals().ends[method][0]

    def large_alone(self) -> Interval:
        """Quality of L on its own (always-L)."""
        return self.intervals().ends[self.methods[0]][1]

    def _pair(self, method, baseline, read, rule="chow_average"):
        missing = [m for m in (method, baseline) if m not in self.methods]
        if missing:
            return Undefined(f"this run has no {' and no '.join(missing)}")
        if (method, baseline) not in self.pairs:
            raise ValueError(f"({method}, {baseline}) is not among the pairs compared: {self.pairs}")
        return read(self.intervals(rule), f"{method} - {baseline}")

    # ---------------------------------------------------------------- single numbers

    def normalised_audc(self, method: str, rule: str = "chow_average") -> float | Undefined:
        """(AUDC - random) / (oracle - random) of the mean curves: 0 is random deferral, 1 the oracle."""
        value = curves.normalised_audc(self.curve(method, rule), self.oracle(method))
        return value if math.isfinite(value) else Undefined("the oracle is no better than random deferral")

    def auroc(self, method: str, rule: str = "chow_average") -> float | Undefined:
        """AUROC(confidence; S right), mean over seeds."""
        rows = [self.pairing(method, seed, rule=rule) for seed in self.seeds]
        value = float(np.mean([curves.auroc(r.confidence, r.small_quality >= self.right_at) for r in rows]))
        return value if math.isfinite(value) else Undefined("S is right on all items or on none")

    def sequence_ledger(self, method: str) -> curves.Ledger:
        """How many answers both models get right, only S, only L, neither; summed over the seeds."""
        rows = [self.pairing(method, seed) for seed in self.seeds]
        small, large = (np.concatenate([getattr(r, f"{m}_quality") for r in rows]) for m in ("small", "large"))
        return curves.ledger(small >= self.right_at, large >= self.right_at)

    def once(self, key, make):
        """What `make` gives, made once."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def with_confidence(run: Pairing | CorpusRun, confidence) -> Pairing | CorpusRun:
    """The same answers with other confidences [n]; constant ones make deferral random."""
    if isinstance(run, Pairing):
        return replace(run, confidence=np.asarray(confidence, dtype=np.float64))
    other = copy.copy(run)  # the counts are shared, they are never changed
    other.confidence, other.ranking = np.asarray(confidence, dtype=np.float64), rank(confidence)
    return other


def _mean_curve(parts, threshold, realisable) -> DeferralCurve:
    """The mean of curves at equal deferral rates."""
    quality = np.mean([c.quality for c in parts], axis=0)
    return DeferralCurve(parts[0].deferral_rate, quality, threshold, realisable, parts[0].signature)
