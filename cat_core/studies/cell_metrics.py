"""All numbers of a recorded cell: its claims, parts and grids, as one file of metrics computed from its table alone.

    python -m cat_core.study metrics reference      writes papermill_runs/studies/reference/metrics/<cell>.json

What decides a claim is fixed in `analysis.claims`; all else is secondary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cat_core.analysis import limits
from cat_core.analysis.claims import ClaimRow, cascade_claims
from cat_core.analysis.comparison import PAIRS, Comparison
from cat_core.analysis.contrasts import rule_contrasts, rule_effects
from cat_core.analysis.corpus import METRICS
from cat_core.analysis.decomposition import decompose, rule_grid
from cat_core.analysis.intervals import Intervals, band_ends, rounded
from cat_core.analysis.metrics import CellMetrics, MaskDifferences, RuleFlops, TaskMetrics, TokenMetrics, suite_metrics
from cat_core.analysis.quantities import Quantity, Undefined
from cat_core.analysis.resampling import CurveBand
from cat_core.analysis.rivals import AtCost, Policy, Rival, at_cost_of, compared, policies
from cat_core.analysis.saving import primary_rule, saving
from cat_core.curves import audc
from cat_core.flops import first_layer_flops
from cat_core.methods import RULES
from cat_core.studies import ablations
from cat_core.studies.cell_claims import (
    BASELINE_RULES,
    GRID_METHODS,
    cell_claims,
    claims_beside,
    deciding,
    majority,
    of_tasks,
    pair_beside,
    usable_rules,
)
from cat_core.studies.study import Cell
from cat_core.training.configs import shape_config

BUDGET = 0.3
SAVED = (*PAIRS, ("cat-xent", "large-xent"), ("cat-dist", "large-dist"), ("large-xent", "xent"), ("large-dist", "dist"))
MAIN = ("xent", "dist", "cat-xent", "cat-dist", "random-xent", "random-dist")
MASKS = ("cat-dist", "large-dist", "small-dist", "both-dist", "neither-dist", "random-dist")
COIN_METHODS = ("dist", "cat-dist")
EMBED = "post_hoc_embed"
LEARNED = tuple(name for name, rule in RULES.items() if rule.learned)
CURIOUS = tuple(name for name, rule in RULES.items() if rule.family)
"""Rules of the grid that nobody proposes by themselves: they show the family, and would inflate the spread of rules."""
GRID_RESAMPLES = 1_000


def mask_differences(c: Comparison) -> MaskDifferences:
    """Dist with every mask less Dist and less the random mask, and Gatekeeper less Xent and CAT-Xent, paired, one draw.

    Of the pairs of methods that the table holds; AUDC with Chow-Average, and quality of S on its own.
    """
    pairs = [(mask, base) for base in ("dist", "random-dist") for mask in MASKS if mask != base]
    pairs += [("gatekeeper", "xent"), ("gatekeeper", "cat-xent")]
    pairs = [pair for pair in pairs if set(pair) <= set(c.methods)]
    if not pairs:
        return MaskDifferences()
    runs = {m: c.runs(m) for m in dict.fromkeys(m for pair in pairs for m in pair)}
    intervals = c.bootstrap(runs, pairs, np.zeros(1))
    alone = {pair: band_ends(band)[0] for pair, band in intervals.difference_curve.items()}
    return MaskDifferences(*({f"{a} - {b}": v[a, b] for a, b in pairs} for v in (intervals.difference, alone)))


def of_methods(c: Comparison, methods: Sequence[str] = MAIN) -> Comparison:
    """The same comparison of those of `methods` that it holds."""
    return replace(c, methods=tuple(m for m in methods if m in c.methods))


def by_other_metrics(c: Comparison) -> list[Comparison]:
    """Translations compared by the other corpus metrics, and one task by what it reports beside its metric, as far as
    the table holds what they need."""
    return c.by_further((*(METRICS if c.is_corpus else ()), *c.further))


def claims_by(other: Comparison, claim: str) -> list[ClaimRow]:
    """The claim of a cell of translations by another corpus metric, which decides nothing; of other cells no rows."""
    return cascade_claims(other, f"{claim}, secondary") if claim and other.is_corpus else []


def bootstraps(cell: Cell, whole: Comparison, c: Comparison, parts: Sequence[Comparison]) -> list[Intervals]:
    """What pages show of a cell beyond the differences, drawn once: the tasks that decide (`c`) by every rule, all
    tasks, the generative ones, and `parts`, those of the tasks and of the other metrics."""
    few = of_methods(c)
    draws = [c.intervals(bands=True).to_keep(bands=True), *(few.intervals(rule).to_keep() for rule in c.rules[1:])]
    groups = [tasks for tasks in {whole.tasks, cell.generative} - {c.tasks} if len(tasks) > 1]
    mixed = [of_methods(of_tasks(whole, tasks)) for tasks in sorted(groups)]
    return draws + [part.intervals().to_keep() for part in (*mixed, *parts)]


def coins(c: Comparison, methods: Sequence[str] = COIN_METHODS) -> dict[str, CurveBand]:
    """`limits.over_coin` by method, at the rates of a drawn curve and at `BUDGET`; without those dearer than L."""
    known = {m: limits.couple_of(c, m) for m in methods if m in c.methods}
    return {
        m: rounded(limits.over_coin(c, m, limits.coin_rates(couple, BUDGET)))
        for m, couple in known.items()
        if not isinstance(couple, Undefined)
    }


def rule_flops(cell: Cell, c: Comparison, rules: Sequence[str]) -> dict[str, RuleFlops | Undefined]:
    """What rules cost beyond S's answer, mean FLOPs per test query: "per_query", and as shares of S and L alone.

    Post-Hoc-Embed has L's first layer read every prompt (`features.first_layer_flops`). The small networks of the
    learned rules are not counted (`posthoc`).
    """
    if EMBED not in rules:
        return {}
    if (why := c.unknown_costs) is not None:
        return {EMBED: why}
    try:
        large = shape_config(cell.config["large"], cell.config.get("context", 64), cell.config.get("vocab_size", 1_400))
    except ValueError as error:
        return {EMBED: Undefined(str(error))}
    rows = c.frame[(c.frame["model"] == "small") & (c.frame["split"] == "test")]
    rows = rows[(rows["method"] == c.methods[0]) & (rows["seed"] == c.seeds[0])]  # prompts are the same for all
    cost = {n: first_layer_flops(large, n) for n in rows["n_prompt"].unique().tolist()}
    mean = float(np.mean([cost[n] for n in rows["n_prompt"].tolist()]))
    small = float(c.cost(c.methods[0])[0])
    return {EMBED: RuleFlops(mean, mean / small, mean / c.large_flops)}


def savings_of(c: Comparison) -> dict[str, Quantity]:
    """What CAT saves against the same loss unmasked and its controls, by the primary rule, of the pairs there are."""
    numbers = {f"{a} - {b}": saving(c, a, b) for a, b in SAVED if {a, b} <= set(c.methods)}
    return {pair: x if isinstance(x, Undefined) else x.number for pair, x in numbers.items()}


def rivals_of(c: Comparison) -> dict[str, Rival] | Undefined | None:
    """Cascades and routers on one axis, against Xent's cascade; None where nothing was routed by the prompt."""
    reference = Policy(plain_method(c), primary_rule(c))
    return compared(c, policies(c), reference) if "prompt_flops" in c.frame else None


def between_of(cell: Cell, c: Comparison) -> dict[str, AtCost | Undefined] | None:
    """The cascades of the cell beside at the cost of this cell's S alone, where that is another S; else None."""
    if not cell.beside or cell.config["small"] == cell.named(cell.beside).config["small"]:
        return None
    ours, theirs = pair_beside(cell, c, ("small", "learning_rate"))
    rule, one = primary_rule(theirs), plain_method(ours)
    return {m: at_cost_of(ours, one, theirs, Policy(m, rule)) for m in theirs.methods}


def task_metrics(cell: Cell, parts: Sequence[Comparison]) -> dict[str, TaskMetrics]:
    """The numbers of each task; S by Xent, else by the first method."""
    metrics = {}
    for part in parts:
        task = part.tasks[0]
        answers, tokens = part.sequence_ledger(plain_method(part)), cell.token_ledger_by_task(plain_method(part))[task]
        further = {other.metric: alone_and_differences(other) for other in part.by_further()}
        metrics[task] = replace(
            alone_and_differences(part), answers=answers.shares, tokens=tokens.shares,
            majority=cell.training.get("majority", {}).get(task, majority(part)), further=further or None,
            bag_of_words=cell.training.get("bag_of_words", {}).get(task),
        )  # fmt: skip
    return metrics


def plain_method(c: Comparison) -> str:
    """Xent where it is there, else the first method."""
    return "xent" if "xent" in c.methods else c.methods[0]


def alone_and_differences(part: Comparison) -> TaskMetrics:
    """What every metric of a task has: S and L alone, and the paired differences."""
    pairs = ({f"{a} - {b}": of(a, b) for a, b in part.pairs} for of in (part.difference, part.alone_difference))
    differences, alone = pairs
    about = part.n, part.metric, part.alone(plain_method(part)), part.large_alone()
    return TaskMetrics(*about, differences=differences, alone=alone)


def token_metrics(cell: Cell) -> dict[str, TokenMetrics]:
    """By method, mean over seeds: signals of S on held-out tokens, and the keep-rate."""
    metrics = {}
    for method in cell.config["methods"]:
        rows = [cell.token_signals(method, seed) for seed in cell.seeds]
        signals = {n: [r[n] for r in rows] for n in ("share_right", "entropy", "confidence", "nll", "ece")}
        spread = {f"{n}_sd": float(np.std(x, ddof=1)) for n, x in signals.items() if len(rows) > 1}
        by_cell = {}
        for part in ("entropy_by_cell", "confidence_by_cell"):
            values = np.array([[np.nan if v is None else v for v in r[part]] for r in rows], dtype=float)
            means = [float(np.nanmean(column)) if not np.isnan(column).all() else None for column in values.T]
            by_cell[part] = tuple(Undefined("no such token") if m is None else m for m in means)
        means = {n: float(np.mean(x)) for n, x in signals.items()}
        kept, ledger = cell.keep_rate(method), cell.token_ledger(method).shares
        metrics[method] = TokenMetrics(**means, **spread, keep_rate=kept, ledger=ledger, **by_cell)
    return metrics


def cell_metrics(cell: Cell, resamples: int = 2_000) -> CellMetrics:
    """Every number that the pages say of a cell, by the schema of `analysis.metrics`."""
    whole = cell.comparison(resamples=resamples)
    c = deciding(cell, whole)
    tasks = [of_methods(whole.of_task(task)) for task in whole.tasks] if len(whole.tasks) > 1 else []
    others = by_other_metrics(of_methods(c))
    further = [other for part in tasks for other in part.by_further()]
    gridded, fewer = of_methods(c, GRID_METHODS), min(resamples, GRID_RESAMPLES)
    rules = usable_rules(c, gridded.methods)
    special = [r for r in dict.fromkeys((*BASELINE_RULES, *LEARNED)) if r in rules]
    more, joint = claims_beside(cell, c)
    record, rows = cell.record, cell_claims(cell, whole) + more
    return CellMetrics(
        **vars(suite_metrics(c, rows, BUDGET, ("chow_average",))) | {"tasks": task_metrics(cell, tasks)},
        joint=joint,
        savings=savings_of(c),
        rivals=rivals_of(c),
        between=between_of(cell, c),
        shift=ablations.change_of(cell, resamples) if cell.differs_from else None,
        tables=cell.tables,
        study=cell.study,
        cell=cell.name,
        commit=record["git"]["commit"] or "not known",
        device=record["device"],
        resamples=resamples,
        audc_by_seed={m: tuple(audc(c.seed_curve(m, seed)) for seed in c.seeds) for m in c.methods},
        decomposition={f"{a} - {b}": decompose(c, a, b) for a, b in c.pairs},
        masks=mask_differences(c),
        rule_grid=rule_grid(gridded, rules, resamples=fewer),
        rule_flops=rule_flops(cell, c, rules),
        contrasts=rule_contrasts(c, special, fewer),
        factors=rule_effects(c, gridded.methods, [r for r in rules if r not in CURIOUS]),
        tokens=token_metrics(cell),
        over_coin=coins(c),
        other_metrics={
            o.metric: suite_metrics(o, claims_by(o, cell.claim), BUDGET, ("chow_average",)) for o in others
        },
        bootstraps=tuple(bootstraps(cell, whole, c, [*tasks, *others, *further])),
    )
