"""The schema of metrics: every number that a page or a recorded cell keeps, declared once.

A page of now computes them from its outcome table (`suite_metrics`), a recorded cell has them in a file
(`studies.cell_metrics`, `studies.study.Cell.metrics`); to tables, figures and sliders they are the same thing. All
numbers are quantities (`quantities`): an interval, a number, or the reason why there is none. Quality is in the unit of
the metric; `SuiteMetrics.scale` brings it to points, 0 to 100. What an older recording lacks is `NOT_THERE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cat_core.analysis.claims import ClaimRow
from cat_core.analysis.comparison import Comparison, InPoints
from cat_core.analysis.contrasts import Effect
from cat_core.analysis.decomposition import Decomposition, RuleGrid
from cat_core.analysis.guards import Guard
from cat_core.analysis.intervals import Intervals
from cat_core.analysis.operating_points import (
    BUDGETS,
    OperatingPoint,
    calibrated,
    harm,
    headroom,
    iso_quality,
    quality_at_budgets,
)
from cat_core.analysis.quantities import NOT_THERE, Quantity, Undefined, read
from cat_core.analysis.resampling import CurveBand
from cat_core.analysis.rivals import AtCost, Rival
from cat_core.curves import audc
from cat_core.ranking import Interval

Pairs = dict[str, Quantity]
"""Differences by pair of methods, as "a - b": `a` less `b`."""
Shares = tuple[float, float, float, float]
"""Of the 2x2 ledger: both right, only S, only L, neither."""


@dataclass(frozen=True)
class MethodMetrics:
    """One training method, Chow-Average, test items.

    audc and its parts: area under the deferral curve, of random deferral, their difference, of the oracle, normalised;
    quality_at_budget: by share of L's cost; sequence_ledger: of answers; iso_quality, calibrated: operating points;
    harm: share of the items deferred at `calibrated` that deferral makes worse.
    """

    small_alone: Quantity = NOT_THERE
    audc: Quantity = NOT_THERE
    random_audc: Quantity = NOT_THERE
    audc_over_random: Quantity = NOT_THERE
    oracle_audc: Quantity = NOT_THERE
    normalised_audc: Quantity = NOT_THERE
    quality_at_budget: dict[str, Quantity] = field(default_factory=dict)
    auroc: Quantity = NOT_THERE
    sequence_ledger: Shares | Undefined = NOT_THERE
    iso_quality: OperatingPoint | Undefined = NOT_THERE
    headroom: Quantity = NOT_THERE
    calibrated: OperatingPoint | Undefined = NOT_THERE
    harm: Quantity = NOT_THERE


@dataclass(frozen=True)
class TaskMetrics(InPoints):
    """One task of several: S by Xent (else the first method) and L alone, who is right, and the differences.

    further: the same by the metrics that the task reports beside its own, as far as they have it; bag_of_words: quality
    of `tasks.bag_of_words`, trained on the same examples.
    """

    n: int
    metric: str
    small_alone: Quantity = NOT_THERE
    large_alone: Quantity = NOT_THERE
    answers: Shares | Undefined = NOT_THERE
    tokens: Shares | Undefined = NOT_THERE
    majority: Quantity = NOT_THERE
    differences: Pairs = field(default_factory=dict)
    alone: Pairs = field(default_factory=dict)
    further: dict[str, TaskMetrics] | None = None
    bag_of_words: float | None = None


@dataclass(frozen=True)
class SuiteMetrics(InPoints):
    """A comparison of methods on one suite, by one metric. tasks: their names; or, of a cell, their metrics by name.

    guards: what keeps it from saying anything; None where nobody asked (all recorded cells).
    """

    suite: str
    large_models: int
    metric: str
    n: int
    seeds: tuple[int, ...]
    tasks: dict[str, TaskMetrics] | tuple[str, ...]
    large_alone: Quantity
    large_flops: float | Undefined
    budget: float
    methods: dict[str, MethodMetrics]
    differences: dict[str, Pairs]
    claims: tuple[ClaimRow, ...]
    guards: tuple[Guard, ...] | None = None

    def difference(self, a: str, b: str) -> Quantity:
        """AUDC of method `a` less that of `b`, Chow-Average, test items."""
        return self.differences["chow_average"].get(f"{a} - {b}", NOT_THERE)


@dataclass(frozen=True)
class TokenMetrics:
    """What S of one method says of held-out target tokens, mean over seeds, standard deviations beside it (nats)."""

    share_right: float
    entropy: float
    confidence: float
    nll: float
    ece: float
    share_right_sd: float | None = None
    entropy_sd: float | None = None
    confidence_sd: float | None = None
    nll_sd: float | None = None
    ece_sd: float | None = None
    keep_rate: Quantity = NOT_THERE
    ledger: Shares | Undefined = NOT_THERE
    entropy_by_cell: tuple[Quantity, ...] = ()
    confidence_by_cell: tuple[Quantity, ...] = ()


@dataclass(frozen=True)
class MaskDifferences:
    """Dist with every mask less Dist and less the random mask, Gatekeeper less Xent and CAT-Xent: AUDC, S alone."""

    audc: Pairs = field(default_factory=dict)
    alone: Pairs = field(default_factory=dict)


@dataclass(frozen=True)
class RuleFlops:
    """What a rule costs beyond S's answer: mean FLOPs per test query, and as shares of S and of L alone."""

    per_query: float
    of_small: float
    of_large: float


@dataclass(frozen=True)
class SettingChange:
    """What a changed setting does, AUDC with Chow-Average on test items, paired over seeds and items.

    by_method: changed setting less reference, by method. before, after: CAT-Dist − Dist at the reference and at the
    changed setting; change: after less before. dots: before and after by seed, [2][seeds]. small_alone: quality of S
    alone (reference, changed) by method. other_large: share of test items on which the L of the two cells score
    differently (0 where they are one model). All in the unit of the quality.
    """

    by_method: dict[str, Interval]
    before: Interval | Undefined
    after: Interval | Undefined
    change: Interval | Undefined
    dots: tuple[tuple[float, ...], tuple[float, ...]]
    small_alone: dict[str, tuple[float, float]]
    other_large: float
    n: int


@dataclass(frozen=True, kw_only=True)
class CellMetrics(SuiteMetrics):
    """Every number that the pages say of a recorded cell.

    joint: contrasts with the cell that it stands beside; savings: of pairs of methods, by the primary
    rule; rivals: policies on one axis, by `rivals.Policy.key`, each against Xent's cascade; between: the cascades of
    the cell beside, by method, at the cost of this cell's S alone; shift: what its one changed setting does; tables:
    sha256 of the outcome tables that all of this rests on; audc_by_seed: what a single run would have shown; over_coin:
    cascade less a coin of the same cost; other_metrics: by the other corpus metrics, and by what the one task reports
    beside its own; bootstraps: intervals, drawn once, of the tasks that decide (first), all tasks, and each.
    """

    joint: Pairs | None = None
    savings: Pairs | None = None
    rivals: dict[str, Rival] | Undefined | None = None
    between: dict[str, AtCost | Undefined] | None = None
    shift: SettingChange | Undefined | None = None
    tables: dict[str, str] = field(default_factory=dict)
    study: str
    cell: str
    commit: str
    device: str
    resamples: int
    audc_by_seed: dict[str, tuple[float, ...]] = field(default_factory=dict)
    decomposition: dict[str, Decomposition] = field(default_factory=dict)
    masks: MaskDifferences = field(default_factory=MaskDifferences)
    rule_grid: RuleGrid = field(default_factory=RuleGrid)
    rule_flops: dict[str, RuleFlops | Undefined] = field(default_factory=dict)
    contrasts: dict[str, Interval] = field(default_factory=dict)
    factors: dict[str, Effect] | Undefined = NOT_THERE
    tokens: dict[str, TokenMetrics] = field(default_factory=dict)
    over_coin: dict[str, CurveBand] = field(default_factory=dict)
    other_metrics: dict[str, SuiteMetrics] = field(default_factory=dict)
    bootstraps: tuple[Intervals, ...] = ()

    def difference(self, a: str, b: str, which: str = "audc") -> Quantity:
        """Of method `a` less `b` on all test items: AUDC with Chow-Average, or S "alone"; of masks, too."""
        if which == "audc" and f"{a} - {b}" in self.differences["chow_average"]:
            return super().difference(a, b)
        return getattr(self.masks, which).get(f"{a} - {b}", NOT_THERE)


def read_metrics(content: Mapping) -> CellMetrics:
    """The metrics of a recorded cell. Raises ValueError that names the place of what does not fit the schema."""
    return read(CellMetrics, content)


def suite_metrics(
    c: Comparison, claims: Sequence[ClaimRow], budget: float, rules: Sequence[str] = (),
    guards: tuple[Guard, ...] | None = None,
) -> SuiteMetrics:  # fmt: skip
    """Every number of a comparison, Chow-Average; differences for `rules` (default all), thresholds for `budget`."""
    methods = {}
    for m in c.methods:
        methods[m] = MethodMetrics(
            c.alone(m), c.audc(m), c.random_audc(m), c.over_random(m), audc(c.oracle(m)), c.normalised_audc(m),
            dict(zip(map(str, BUDGETS), quality_at_budgets(c, m))), c.auroc(m), c.sequence_ledger(m).shares,
            iso_quality(c, m), headroom(c, m), calibrated(c, m, budget), harm(c, m, budget),
        )  # fmt: skip
    differences = {rule: {f"{a} - {b}": c.difference(a, b, rule) for a, b in c.pairs} for rule in rules or c.rules}
    return SuiteMetrics(
        c.frame["suite"].iloc[0], c.large_models, c.metric, c.n, c.seeds, c.tasks, c.large_alone(), c.large_flops,
        budget, methods, differences, tuple(claims), guards,
    )  # fmt: skip
