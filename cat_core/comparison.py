"""Compare training methods from an outcome table: every number that a page on a suite reports.

One `Comparison` is a suite (or one task of it), a metric, the methods and the training seeds of S, each seed
with the large model that it defers to. Quality of accuracy tasks is the mean over items, in [0, 1]; of
translation it is the corpus BLEU or chrF of the mixed output, 0 to 100 (`corpus.CorpusRun`). A curve or
number of a method is the mean over its seeds. Intervals come from the paired bootstrap: large models first (where
there are several), then the seeds of S that each of them taught, then items (clusters), the same draws for all
methods. A number that does not exist is `tables.Undefined`, with the reason.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cat_core import curves, router
from cat_core.corpus import METRICS as CORPUS
from cat_core.corpus import CorpusRun, exact_scores, fast_scores
from cat_core.outcomes import OutcomeError, Pairing, paired, validate
from cat_core.ranking import DeferralCurve, Interval, rank
from cat_core.resampling import Bootstrap, cluster_numbers, draw_blocks, paired_bootstrap
from cat_core.results import publish
from cat_core.saving import iso_thresholds
from cat_core.tables import Undefined

__all__ = ["PAIRS", "RULES", "Comparison", "OperatingPoint", "publish", "with_confidence"]

METRIC_LABELS = {"accuracy": "Accuracy", "exact_match": "Exact match", "bleu": "BLEU", "chrf": "chrF"}
RULES = ("chow_average", "chow_quantile_0", "option_probability")
PAIRS = (
    ("cat-dist", "dist"),
    ("cat-xent", "xent"),
    ("cat-dist", "random-dist"),
    ("cat-xent", "random-xent"),
)
"""What is compared where both methods are there: CAT with the same loss unmasked, and with the random
mask.
"""
BUDGETS = (0.10, 0.25, 0.50)
CALIBRATION = 1  # seed of the draws of calibration rows; those of test rows have 0
RANDOM = "random deferral: "  # prefix of the name of a method's S and L under random deferral


@dataclass(frozen=True)
class OperatingPoint:
    """What thresholds, one per seed, gave on test rows; each an Interval, averaged over seeds.

    taus: by seed. deferral_rate, quality (in the metric's unit), gap: quality - that of L alone, saving: 1 -
    C / C_L. promised_rate: the mean deferral rate on the calibration rows.
    """

    taus: dict[int, float]
    promised_rate: float
    deferral_rate: Interval
    quality: Interval
    gap: Interval
    saving: Interval


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods compared on the rows of one suite.

    frame: an outcome table (`outcomes.SCHEMA`) with one suite. large_seed: the seed of the large model that
    goes with a seed of the small one, as a function (`Experiment.large_seed`) or a mapping; not needed when
    there is one large model. methods, seeds: default all, in order of appearance. task: keep the rows of one
    task. metric: default that of the rows; "bleu" or "chrf" may be asked for where answers are free text.
    right_at: an answer counts as right in the ledger and in AUROC when its quality is at least this (default
    1 for shares, 0.5 for sentence-level BLEU or chrF; the latter is our choice). resamples, level: of the
    bootstrap. kept: what was drawn before for the same seeds and items (`archive.kept`), read instead of drawn anew.

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
    kept: Mapping[tuple, object] = field(default_factory=dict, repr=False)
    _cache: dict = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self):
        frame = validate(self.frame)
        suites = sorted(frame["suite"].unique())
        if len(suites) > 1:
            raise OutcomeError(f"the table holds the suites {', '.join(suites)}: compare one at a time")
        if self.task is not None:
            if self.task not in set(frame["task"]):
                raise OutcomeError(f"no task {self.task!r}: the table holds {', '.join(sorted(set(frame['task'])))}")
            frame = frame[frame["task"] == self.task]
        small = frame[frame["model"] == "small"]
        found = {m: set(rows["seed"]) for m, rows in small.groupby("method", sort=False)}
        methods = tuple(self.methods) or tuple(found)
        for method in methods:
            if method not in found:
                raise OutcomeError(f"no rows of method {method!r}: the table holds {', '.join(found) or 'none'}")
        if not methods:
            raise OutcomeError("the table holds no small model: nothing to compare")
        seeds = tuple(self.seeds) or tuple(sorted(found[methods[0]]))
        lacking = [m for m in methods if not set(seeds) <= found[m] or (not self.seeds and set(seeds) != found[m])]
        if lacking:
            raise OutcomeError(
                f"methods {', '.join(lacking)} lack some of the seeds {sorted(seeds)} or have others: "
                "run the same seeds for all"
            )
        metric = self.metric or _metric_of(small)
        if metric not in METRIC_LABELS:
            raise OutcomeError(f"unknown metric {metric!r}: expected one of {', '.join(METRIC_LABELS)}")
        if metric in CORPUS and not (_has_texts(frame) or _has_counts(frame, metric)):
            raise OutcomeError(
                f"{metric} needs the texts or their counts, but the table was written without some: write it again "
                "with cat_core.outcomes.drop_text, which keeps the counts"
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
    def label(self) -> str:
        """The metric's name for readers."""
        return METRIC_LABELS[self.metric]

    @property
    def scale(self) -> float:
        """What brings quality to 0..100: 100 for shares, 1 for BLEU and chrF."""
        return 1.0 if self.is_corpus else 100.0

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in order of appearance."""
        return self._once("tasks", lambda: tuple(self.frame["task"].unique()))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """`PAIRS` of which both methods are there."""
        return tuple(pair for pair in PAIRS if set(pair) <= set(self.methods))

    @property
    def rules(self) -> tuple[str, ...]:
        """Confidence rules among `RULES` that are defined for every row of S; Chow-Average first."""
        small = self.frame[self.frame["model"] == "small"]
        return tuple(r for r in RULES if not small[f"confidence_{r}"].isna().any())

    @property
    def n(self) -> int:
        """Number of test items."""
        return len(self.pairing(self.methods[0], self.seeds[0]))

    @property
    def groups(self) -> tuple[int, ...] | None:
        """The seed of the large model of each seed in `seeds`; None where one large model taught all."""
        found = None if self.large_seed is None else tuple(map(self._large, self.seeds))
        return found if found is not None and len(set(found)) > 1 else None

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
            metric = self.metric if self.is_corpus else ""  # a mixture of shares is one metric, each task has its own
            return replace(self, frame=rows if len(rows) else self.frame, task=task, metric=metric)

        return self._once(("task", task), chosen)

    def with_metric(self, metric: str) -> Comparison:
        """The same comparison by another metric."""
        return replace(self, metric=metric, right_at=None)

    # ---------------------------------------------------------------- runs and curves

    def pairing(self, method: str, seed: int, split: str = "test", rule: str = "chow_average") -> Pairing:
        """S's rows of one method and seed with those of the large model it defers to."""
        large = self._large(seed)
        return self._once(("pairing", method, seed, split, rule), lambda: paired(
            self._rows(method, seed, large, split), method, seed, split, rule, large_seed=large))  # fmt: skip

    def _rows(self, method: str, seed: int, large: int | None, split: str) -> pd.DataFrame:
        """The rows of one small model and of its large one: `paired` searches these faster than the whole table.

        The whole table where some are not there, so that the error can say what it holds.
        """
        parts = self._once("parts", lambda: dict(iter(self.frame.groupby(["method", "seed", "split"], sort=False))))
        wanted = [key for key in parts if key[0] == "large" and large in (None, key[1]) and key[2] == split]
        wanted.insert(0, (method, seed, split))
        found = all(key in parts for key in wanted) and len(wanted) > 1
        return pd.concat([parts[key] for key in wanted]) if found else self.frame

    def run(self, method: str, seed: int, split: str = "test", rule: str = "chow_average") -> Pairing | CorpusRun:
        """One method and seed, ready for curves and the bootstrap in this metric."""
        rows = self.pairing(method, seed, split, rule)
        if not self.is_corpus:
            return rows

        def counted():
            where = {"item_ids": rows.item_ids, "cluster_ids": rows.cluster_ids, "seed": seed}
            if _has_texts(self.frame):
                texts = (rows.small_predictions, rows.large_predictions, rows.targets)
                return CorpusRun(*texts, rows.confidence, self.metric, **where)
            counts = (rows.small_counts[self.metric], rows.large_counts[self.metric])
            where["signature"] = rows.signatures[self.metric]
            return CorpusRun.from_counts(*counts, rows.confidence, self.metric, **where)

        return with_confidence(self._once(("counts", method, seed, split), counted), rows.confidence)

    def seed_curve(self, method: str, seed: int, split: str = "test", rule: str = "chow_average") -> DeferralCurve:
        """The deferral curve of one seed, [n+1] points."""
        run = self.run(method, seed, split, rule)
        if self.is_corpus:
            return run.curve()
        return curves.deferral_curve(run.small_quality, run.large_quality, run.confidence)

    def curve(self, method: str, rule: str = "chow_average") -> DeferralCurve:
        """Mean test curve over the seeds at equal deferral rate, [n+1] points.

        threshold: the median over the seeds of the tau that defers this many (each seed has its own).
        realisable: where some threshold of every seed stops; elsewhere the curve is an expectation over
        ties.
        """

        def mean():
            parts = [self.seed_curve(method, seed, rule=rule) for seed in self.seeds]
            return DeferralCurve(
                parts[0].deferral_rate,
                np.mean([c.quality for c in parts], axis=0),
                np.quantile([c.threshold for c in parts], 0.5, axis=0, method="lower"),
                np.all([c.realisable for c in parts], axis=0),
                parts[0].signature,
            )

        return self._once(("curve", method, rule), mean)

    def cost(self, method: str, rule: str = "chow_average") -> np.ndarray:
        """[n+1] mean FLOPs per query of the cascade along `curve`, S included, averaged over the seeds."""
        rows = [self.pairing(method, seed, rule=rule) for seed in self.seeds]
        return np.mean([curves.cascade_cost(r.small_flops, r.large_flops, r.confidence) for r in rows], axis=0)

    @property
    def large_flops(self) -> float:
        """C_L: mean FLOPs per test query of L alone, averaged over the seeds."""
        return float(np.mean([self.pairing(self.methods[0], seed).large_flops.mean() for seed in self.seeds]))

    def oracle(self, method: str) -> DeferralCurve:
        """Mean over seeds of the oracle with exactly the deferral rate r; for corpus metrics the greedy
        one.
        """

        def of_seed(seed: int) -> DeferralCurve:
            run = self.run(method, seed)
            return run.greedy_oracle() if self.is_corpus else curves.oracle_curve(run.small_quality, run.large_quality)

        def mean():
            parts = [of_seed(seed) for seed in self.seeds]
            never = np.append(-np.inf, np.full(len(parts[0].quality) - 1, np.nan))
            quality = np.mean([c.quality for c in parts], axis=0)
            return DeferralCurve(parts[0].deferral_rate, quality, never, parts[0].realisable, parts[0].signature)

        return self._once(("oracle", method), mean)

    # ---------------------------------------------------------------- intervals

    def bootstrap(self, rule: str = "chow_average", whole: bool = False) -> Bootstrap:
        """Paired bootstrap of all methods, of random deferral for each, and of `pairs` and (method,
        random deferral).

        One that was `kept` may hold no more of a curve than its two ends. whole: the differences of `pairs` are asked
        for along all deferral rates, and drawn if need be.
        """

        def draw():
            runs = {m: [self.run(m, seed, rule=rule) for seed in self.seeds] for m in self.methods}
            even = {RANDOM + m: [with_confidence(run, np.zeros(self.n)) for run in runs[m]] for m in self.methods}
            pairs = [*self.pairs, *((m, RANDOM + m) for m in self.methods)]
            how = {"groups": self.groups, "resamples": self.resamples, "level": self.level}
            return paired_bootstrap(runs | even, pairs=pairs, **how)

        found = self.read("bootstrap", rule)
        known = found is not None and set(self.methods) <= set(found.curve)
        if known and whole:
            known = all(len(found.difference_curve[pair].deferral_rate) > 2 for pair in self.pairs)
        return found if known else self._once(("bootstrap", rule), draw)

    def audc(self, method: str, rule: str = "chow_average") -> Interval:
        """Area under the deferral curve over the deferral rate, with its interval."""
        return self.bootstrap(rule).area[method]

    def random_audc(self, method: str, rule: str = "chow_average") -> Interval:
        """The same area when the deferred queries are drawn at random: (A_S + A_L) / 2."""
        return self.bootstrap(rule).area[RANDOM + method]

    def over_random(self, method: str, rule: str = "chow_average") -> Interval:
        """AUDC less that of random deferral between the same two models."""
        return self.bootstrap(rule).difference[method, RANDOM + method]

    def difference(self, method: str, baseline: str, rule: str = "chow_average") -> Interval | Undefined:
        """AUDC of `method` less that of `baseline`, paired; Undefined if this run lacks one of the two."""
        return self._pair(method, baseline, lambda boot: boot.difference[method, baseline], rule)

    def alone_difference(self, method: str, baseline: str) -> Interval | Undefined:
        """Quality of S on its own: `method` less `baseline`, paired."""
        return self._pair(method, baseline, lambda boot: _ends(boot.difference_curve[method, baseline])[0])

    def alone(self, method: str) -> Interval:
        """Quality of S on its own (always-S)."""
        return _ends(self.bootstrap().curve[method])[0]

    def large_alone(self) -> Interval:
        """Quality of L on its own (always-L)."""
        return _ends(self.bootstrap().curve[self.methods[0]])[1]

    def read(self, kind: str, rule: str, *more):
        """What `kept` holds of that kind for these items, metric, rule and draws; None if it was not drawn before."""
        drawn = (len(self.seeds), self.resamples, self.level)
        return self.kept.get((kind, self.metric, tuple(sorted(self.tasks)), rule, *drawn, *more)) if self.kept else None

    def _pair(self, method, baseline, read, rule="chow_average"):
        missing = [m for m in (method, baseline) if m not in self.methods]
        if missing:
            return Undefined(f"this run has no {' and no '.join(missing)}")
        if (method, baseline) not in self.pairs:
            raise ValueError(f"({method}, {baseline}) is not among the pairs compared: {self.pairs}")
        return read(self.bootstrap(rule))

    # ---------------------------------------------------------------- single numbers

    def normalised_audc(self, method: str, rule: str = "chow_average") -> float | Undefined:
        """(AUDC - random) / (oracle - random) of the mean curves: 0 is random deferral, 1 the oracle."""
        value = curves.normalised_audc(self.curve(method, rule), self.oracle(method))
        return value if math.isfinite(value) else Undefined("the oracle is no better than random deferral")

    def quality_at_budgets(self, method: str, rule: str = "chow_average") -> list[float | Undefined]:
        """Quality at mean costs of 10, 25 and 50 % of C_L (`BUDGETS`), S included; mean over seeds."""
        rows = []
        for seed in self.seeds:
            p = self.pairing(method, seed, rule=rule)
            cost = curves.cascade_cost(p.small_flops, p.large_flops, p.confidence)
            curve = self.seed_curve(method, seed, rule=rule)
            rows.append(curves.quality_at_budget(curve, cost, float(p.large_flops.mean()), BUDGETS))
        means = np.mean(rows, axis=0)
        return [Undefined("S alone costs more") if np.isnan(m) else float(m) for m in means]

    def auroc(self, method: str, rule: str = "chow_average") -> float | Undefined:
        """AUROC(confidence; S right), mean over seeds."""
        rows = [self.pairing(method, seed, rule=rule) for seed in self.seeds]
        value = float(np.mean([curves.auroc(r.confidence, r.small_quality >= self.right_at) for r in rows]))
        return value if math.isfinite(value) else Undefined("S is right on all items or on none")

    def sequence_ledger(self, method: str) -> curves.Ledger:
        """How many answers both models get right, only S, only L, neither; summed over the seeds."""
        total = np.zeros(4, dtype=int)
        for seed in self.seeds:
            rows = self.pairing(method, seed)
            part = curves.ledger(rows.small_quality >= self.right_at, rows.large_quality >= self.right_at)
            total += (part.both, part.only_small, part.only_large, part.neither)
        return curves.Ledger(*map(int, total))

    def headroom(self, method: str) -> Interval:
        """Quality of L alone less that of S alone by `method`, paired."""
        if (found := self.read("headroom", "chow_average", method)) is not None:
            return found
        gap = self.at_thresholds(method, dict.fromkeys(self.seeds, -math.inf), "chow_average", 0.0).gap
        return Interval(-gap.estimate, -gap.high, -gap.low)

    def iso_quality(self, method: str, rule: str = "chow_average") -> OperatingPoint:
        """FLOPs saved at the quality of L: each seed's least deferral rate that reaches L's quality on
        the calibration rows (as `curves.iso_quality_saving`), its threshold then applied to the test
        rows. Intervals: calibration rows are drawn anew as well, and with them the thresholds.
        """
        if (found := self.read("iso_quality", rule, method)) is not None:
            return found
        taus, rates = self._iso_taus(method, rule)
        return OperatingPoint(taus, float(np.mean(rates)), *self._intervals(*self._iso_draws(method, rule)))

    def _iso_taus(self, method: str, rule: str) -> tuple[dict[int, float], list[float]]:
        """Each seed's threshold for L's quality on the calibration rows, and the deferral rates there."""
        taus, rates = {}, []
        for seed in self.seeds:
            curve = self.seed_curve(method, seed, "calibration", rule)
            reached = curve.realisable & (curve.quality >= curve.quality[-1] - curves.ROUNDING)
            k = int(np.flatnonzero(reached)[0])  # always there: deferring everything gives L's quality
            taus[seed] = float(curve.threshold[k]) if k + 1 < len(curve.quality) else math.inf
            rates.append(curve.deferral_rate[k])
        return taus, rates

    def _iso_draws(self, method: str, rule: str) -> tuple[np.ndarray, np.ndarray]:
        """`_threshold_draws` of the iso-quality thresholds, which are chosen anew on every resample."""
        parts = {seed: self._parts(method, seed, "calibration", rule) for seed in self.seeds}
        labels = cluster_numbers(self.pairing(method, self.seeds[0], "calibration", rule).cluster_ids)
        chosen = {seed: [] for seed in self.seeds}
        for _, counts, _ in draw_blocks(labels, len(self.seeds), self.resamples, CALIBRATION):
            for seed, (confidence, small, large) in parts.items():
                chosen[seed].append(iso_thresholds(confidence, small, large, counts, self._mean_score(method, seed)))
        drawn = {seed: np.concatenate(taus) for seed, taus in chosen.items()}
        return self._threshold_draws(method, self._iso_taus(method, rule)[0], rule, drawn)

    def calibrated(self, method: str, budget: float, rule: str = "chow_average") -> OperatingPoint | Undefined:
        """Each seed's threshold for a deferral-rate budget (`router.calibrate` on calibration rows),
        applied to test.
        """
        if (found := self.read("calibrated", rule, method, budget)) is not None:
            return found
        try:
            chosen = {
                seed: router.calibrate(self.pairing(method, seed, "calibration", rule), budget=budget)
                for seed in self.seeds
            }
        except ValueError as error:
            if not 0 <= budget <= 1:
                raise
            return Undefined(str(error))
        rate = float(np.mean([threshold.deferral_rate for threshold in chosen.values()]))
        return self.at_thresholds(method, {s: t.tau for s, t in chosen.items()}, rule, rate)

    def at_thresholds(self, method: str, taus: Mapping[int, float], rule: str, promised_rate: float) -> OperatingPoint:
        """What thresholds, one per seed, give on the test rows.

        Intervals: the draws of `paired_bootstrap`; with one seed and a mean metric
        `router.evaluate` (exact for shares of independent items) gives those of the deferral rate and the
        quality.
        """
        once, draws = self._threshold_draws(method, taus, rule)
        found = self._intervals(once, draws)
        if len(self.seeds) == 1 and not self.is_corpus:
            rows = self.pairing(method, self.seeds[0], "test", rule)
            exact = router.evaluate(taus[self.seeds[0]], rows, level=self.level, resamples=self.resamples)
            found[:2] = [exact.deferral_rate, exact.quality]
        return OperatingPoint(dict(taus), promised_rate, *found)

    def saving_difference(self, method: str, baseline: str, rule: str = "chow_average") -> Interval:
        """Iso-quality saving (see `iso_quality`) of `method` less that of `baseline`, on the same draws."""
        parts = [self._iso_draws(m, rule) for m in (method, baseline)]
        return self._intervals(parts[0][0] - parts[1][0], parts[0][1] - parts[1][1])[3]

    def _threshold_draws(
        self, method: str, taus: Mapping[int, float], rule: str, drawn: Mapping[int, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """[4] rate, quality, gap and saving on the test rows, and the same on every resample [b, 4].

        drawn: [b] thresholds of each seed, one for every resample, where they are not the same for all.
        """
        kept = {seed: self._columns(method, seed, rule) for seed in self.seeds}
        fixed = {seed: base + router.route(rows.confidence, taus[seed])[:, None] * more
                 for seed, (rows, base, more) in kept.items()}  # fmt: skip
        first, draws = self.pairing(self.methods[0], self.seeds[0]), []
        for seed, (rows, _, _) in kept.items():
            if not np.array_equal(rows.item_ids, first.item_ids):
                raise OutcomeError(
                    f"{method} of seed {seed} has other test items than {self.methods[0]} of seed {self.seeds[0]}: "
                    "let all answer the same"
                )
        labels = cluster_numbers(first.cluster_ids)
        for block, counts, w in draw_blocks(labels, len(self.seeds), self.resamples, groups=self.groups):
            counts, parts = counts.astype(np.float64), []
            for seed, (rows, base, more) in kept.items():
                if drawn is None:
                    sums = counts @ fixed[seed]
                else:
                    sums = counts @ base + (counts * (rows.confidence <= drawn[seed][block, None])) @ more
                parts.append(self._summary(sums, counts.sum(axis=1), method, seed, fast_scores))
            draws.append(np.einsum("bs,sbq->bq", w, np.stack(parts)))
        once = [self._summary(c.sum(axis=0)[None], np.array([len(c)]), method, seed, exact_scores)[0]
                for seed, c in fixed.items()]  # fmt: skip
        return np.mean(once, axis=0), np.concatenate(draws)

    def _intervals(self, once: np.ndarray, draws: np.ndarray) -> list[Interval]:
        """An `Interval` for each column of estimates [q] and draws [b, q]."""
        ends = np.quantile(draws, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        return [Interval(*map(float, triple)) for triple in zip(once, *ends)]

    def _parts(self, method, seed, split, rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Confidence [n], and what is summed to score S's and L's answers [n, q]: quality, or counts."""
        rows = self.pairing(method, seed, split, rule)
        if self.is_corpus:
            run = self.run(method, seed, split, rule)
            return rows.confidence, run.small.astype(np.float64), run.large.astype(np.float64)
        return rows.confidence, rows.small_quality[:, None], rows.large_quality[:, None]

    def _columns(self, method, seed, rule) -> tuple[Pairing, np.ndarray, np.ndarray]:
        """The test rows; [n, q] if S answers: deferred, cost, cost of L, quality (or counts) of the cascade, then of L;
        and what deferring a row adds to that."""
        rows, (_, small, large) = self.pairing(method, seed, "test", rule), self._parts(method, seed, "test", rule)
        none = np.zeros(len(rows))
        base = [none, rows.small_flops, rows.large_flops, small, large]
        more = [none + 1, rows.large_flops, none, large - small, np.zeros_like(large)]
        return rows, *(np.column_stack(part).astype(np.float64) for part in (base, more))

    def _mean_score(self, method, seed) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Quality [b, k] of summed `_parts` [b, k, q] of n [b, 1] rows."""
        if not self.is_corpus:
            return lambda sums, n: sums[..., 0] / n
        metric = self.run(method, seed).metric
        return lambda sums, n: fast_scores(metric, np.rint(sums))

    def _summary(self, sums, n, method, seed, score) -> np.ndarray:
        """[b, 4] deferral rate, quality, gap to L, saving, from summed columns [b, q] of n [b] items."""
        width = (sums.shape[1] - 3) // 2
        mixed, large = sums[:, 3 : 3 + width], sums[:, 3 + width :]
        if self.is_corpus:
            metric = self.run(method, seed).metric
            quality, best = (score(metric, np.rint(part).astype(np.int64)) for part in (mixed, large))
        else:
            quality, best = mixed[:, 0] / n, large[:, 0] / n
        return np.stack([sums[:, 0] / n, quality, quality - best, 1 - sums[:, 1] / sums[:, 2]], axis=1)

    def _once(self, key, make):
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


def _has_texts(frame: pd.DataFrame) -> bool:
    return not frame[["prediction", "target"]].isna().any().any()


def _has_counts(frame: pd.DataFrame, metric: str) -> bool:
    return f"{metric}_counts" in frame and not frame[f"{metric}_counts"].isna().any()


def _metric_of(small: pd.DataFrame) -> str:
    """The metric of the rows; shares mix with each other, corpus metrics with nothing."""
    metrics = sorted(small["metric"].unique())
    if len(metrics) == 1:
        return metrics[0]
    if set(metrics) <= {"accuracy", "exact_match"}:
        return "accuracy"
    raise OutcomeError(f"the rows have the metrics {', '.join(metrics)}, which have no common mean: choose one task")


def _ends(band) -> tuple[Interval, Interval]:
    """A band's intervals at deferral rates 0 and 1."""
    return tuple(Interval(*(float(part[i]) for part in (band.estimate, band.low, band.high))) for i in (0, -1))
