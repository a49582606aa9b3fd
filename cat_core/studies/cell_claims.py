"""What a recorded cell says of the claims: rows of `analysis.claims`, its own, and of the cell it stands beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from cat_core.analysis import claims
from cat_core.analysis.claims import ClaimRow
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.contrasts import Arm, contrasts
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.saving import arms, primary_rule, saving, saving_of
from cat_core.methods import RULES, name, rule_name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

GRID_METHODS = ("xent", "dist", "cat-xent", "cat-dist", "edge-joint")
BASELINE_RULES = ("edge", "chow_quantile_0")
"""Deferral rules of the paper's baselines."""


def usable_rules(c: Comparison, methods: Sequence[str], rules: Iterable[str] = RULES) -> tuple[str, ...]:
    """Those of `rules` that the table has for every row of S of these methods."""
    small = c.frame[c.frame["method"].isin(methods)]
    columns = {rule: f"confidence_{rule}" for rule in rules}
    return tuple(r for r, column in columns.items() if column in small and not small[column].isna().any())


PAPERS = "chow_average"
"""The rule by which the paper's own cascade defers."""


def baseline_claims(c: Comparison, reason: str | None, claim: str = "C7") -> list[ClaimRow]:
    """C7: CAT-Dist with Chow-Average saves against Dist with the rules of the paper's baselines.

    A rule that orders the items of every S as Chow-Average does (answers of one token) is left out: it would say what
    the claim on the cascade says.
    """
    rows = []
    for rule in BASELINE_RULES:
        if "cat-dist" not in c.methods or "dist" not in c.methods or rule not in usable_rules(c, ("dist",), (rule,)):
            number = Undefined(f"this table has no rule {rule} for Dist, or no CAT-Dist")
        elif same_order(c, "dist", rule):
            number = Undefined(f"{rule_name(rule)} orders all answers as Chow-Average does")
        else:
            number = saving(c, "cat-dist", "dist", PAPERS, rule)
        measure = f"Saving, {name('cat-dist')} with Chow-Average against {name('dist')} with {rule_name(rule)}"
        rows.append(saving_row(c, claim, measure, number, rule_name(rule), reason))
    return rows


def same_order(c: Comparison, method: str, rule: str) -> bool:
    """Whether a rule defers the test items of every seed in the order of Chow-Average."""
    pairs = ((c.pairing(method, seed, rule=r) for r in (PAPERS, rule)) for seed in c.seeds)
    ranked = (tuple(rankdata(rows.confidence, "dense") for rows in pair) for pair in pairs)
    return all(np.array_equal(a, b) for a, b in ranked)


def saving_row(c: Comparison, claim: str, measure: str, number, family: str, reason: str | None, role="primary"):
    """A row whose number is a saving."""
    about = {"share": True, "scale": 100.0, "ineligible": reason}
    return claims.claim_row(c, claim, measure, number, role=role, family=family, **about)


def pair_beside(cell: Cell, c: Comparison, but: Sequence[str] = ()) -> tuple[Comparison, Comparison]:
    """`c` of a cell and the comparison of the cell that it stands beside, both on the tasks that decide the latter;
    but: settings in which they may differ, besides the methods.

    Raises ValueError where their large models answer differently: trained on another kind of processor, an L of the
    same configuration is another L, and S of the two cells cannot be paired.
    """
    partner = cell.partner(but)
    other = deciding(partner, partner.comparison(resamples=c.resamples))
    if not np.array_equal(*(_large_quality(x.frame, other.tasks) for x in (c, other))):
        problem = f"L of cell {cell.place!r} answers otherwise than that of {cell.beside!r}, beside which it stands"
        raise ValueError(f"{problem}: run both on one machine, or all methods in one cell")
    return c if set(c.tasks) == set(other.tasks) else of_tasks(c, other.tasks), other


def _large_quality(frame, tasks: Sequence[str]) -> np.ndarray:
    """Quality of L's test answers on some tasks, by seed and item."""
    rows = frame[(frame["model"] == "large") & (frame["split"] == "test") & frame["task"].isin(list(tasks))]
    return rows.sort_values(["seed", "task", "item_id"])["quality"].to_numpy()


def joint_contrasts(c: Comparison, other: Comparison) -> dict[str, Interval | Undefined]:
    """EdgeInference as it was trained together with S (`c`) against the methods of the cell beside it: AUDC, paired.

    "whole", CAT-Dist with Chow-Average less the joint S with its router, is the sum of "training", both with
    Chow-Average, and "rule", Chow-Average less its router, both after the joint training. "post hoc": the joint S with
    its router less Xent's S with the router fitted to it afterwards.
    """
    joint = Arm(c, "edge-joint", "joint_router")
    compared = {"cat": Arm(other, "cat-dist"), "plain": Arm(c, "edge-joint"), "joint": joint}
    wanted = {"whole": {"cat": 1, "joint": -1}, "training": {"cat": 1, "plain": -1}, "rule": {"plain": 1, "joint": -1}}
    if "edge" in usable_rules(other, ("xent",), ("edge",)):
        compared["post hoc"] = Arm(other, "xent", "edge")
        wanted["post hoc"] = {"joint": 1, "post hoc": -1}
    return {"post hoc": Undefined("the cell beside has no rule edge for Xent")} | contrasts(compared, wanted)


def joint_claims(c: Comparison, other: Comparison, reason: str | None, claim: str = "C7") -> list[ClaimRow]:
    """C7 against EdgeInference as it was trained together with S (`c`); other: the comparison of the cell beside it.

    Secondary: whether training the router with S beats fitting it to Xent's S afterwards.
    """
    label = name("edge-joint")
    joint = arms(c, "edge-joint", "joint_router")
    measure = f"Saving, {name('cat-dist')} with Chow-Average against {label} with its router"
    rows = [saving_row(c, claim, measure, saving_of(arms(other, "cat-dist", PAPERS), joint), label, reason)]
    measure = f"Saving, {label} with its router against {name('xent')} with EdgeInference"
    known = "edge" in usable_rules(other, ("xent",), ("edge",))
    lacking = Undefined("the cell beside has no rule edge for Xent")
    number = saving_of(joint, arms(other, "xent", "edge")) if known else lacking
    return [*rows, saving_row(c, claim, measure, number, label, reason, "secondary")]


LABEL_FILTERS = {"large-xent": ("cat-xent", "control"), "large-labels": ("cat-xent", "secondary")}
"""Methods that filter labels by L, with the CAT method that they are compared with, and the role of the row."""


def filter_claims(c: Comparison, claim: str, reason: str | None) -> list[ClaimRow]:
    """CAT against what filters labels by L without a cascade, and that against Xent."""
    rows, rule = [], primary_rule(c)
    for method, (cat, role) in LABEL_FILTERS.items():
        if {method, cat, "xent"} <= set(c.methods):
            for a, b, kind in ((cat, method, role), (method, "xent", "secondary")):
                number = saving(c, a, b, rule)
                rows.append(saving_row(c, claim, claims.saving_measure(rule, a, b), number, name(cat), reason, kind))
    return rows


def floor_of(cell: Cell, c: Comparison) -> dict[str, float]:
    """By task, quality of the answer that is most frequent among the test items, as far as it is recorded or there."""
    known = cell.training.get("majority", {})
    found = {task: known.get(task, majority(c.of_task(task))) for task in c.tasks}
    return {task: share for task, share in found.items() if not isinstance(share, Undefined)}


def why_not(cell: Cell, c: Comparison) -> str | None:
    """Why a cell is not heard on its claim (`claims.ineligible`); c: its comparison on the tasks that decide."""
    neither = cell.token_ledger("xent").shares[3] if c.by_counts and "xent" in c.methods else None
    return claims.ineligible(c, floor_of(cell, c), neither)


def cell_claims(cell: Cell, c: Comparison) -> list[ClaimRow]:
    """Every claim that the methods of a cell speak to; the one that it was made for first."""
    rows, part = [], deciding(cell, c)
    reason = why_not(cell, part)
    if cell.claim:
        rules = usable_rules(part, [m for m in GRID_METHODS if m in part.methods])
        rows += claims.cascade_claims(part, cell.claim, reason, rules)
        rows += claims.alone_claims(part) if len(part.tasks) > 1 else []
    if cell.generative:
        rows += claims.no_difference_claims(of_tasks(c, cell.generative))
    if "cat-dist" not in c.methods:
        return rows
    mass = 1 - cell.keep_rate("cat-dist")
    return rows + baseline_claims(part, reason) + claims.bound_claims(part, mass)


def claims_beside(cell: Cell, c: Comparison) -> tuple[list[ClaimRow], dict | None]:
    """What a cell says together with the one that it stands beside: rows, and the contrasts of a joint training."""
    if not cell.beside or not {"edge-joint", *LABEL_FILTERS} & set(c.methods):
        return [], None
    if "edge-joint" not in c.methods:  # all that is compared is in the cell; the one beside has the claim
        return filter_claims(c, cell.named(cell.beside).claim, why_not(cell, c)), None
    ours, theirs = pair_beside(cell, c)
    reason = why_not(cell.partner(), theirs)
    return joint_claims(ours, theirs, reason), joint_contrasts(ours, theirs)


def deciding(cell: Cell, c: Comparison) -> Comparison:
    """The comparison on the tasks that decide the cell's claim."""
    tasks = cell.claim_tasks or [t for t in c.tasks if t not in cell.generative]
    unknown = [t for t in tasks if t not in c.tasks]
    if unknown:
        raise ValueError(f"cell {cell.name!r}: claim_tasks names {', '.join(unknown)}; its tasks: {', '.join(c.tasks)}")
    return c if set(tasks) == set(c.tasks) else of_tasks(c, tasks)


def of_tasks(c: Comparison, tasks: Sequence[str]) -> Comparison:
    """The same comparison on some of its tasks."""
    return replace(c, frame=c.frame[c.frame["task"].isin(list(tasks))], right_at=None, metric="")


def majority(c: Comparison) -> float | Undefined:
    """Accuracy of always giving the test answer that is most frequent there; free text has none."""
    targets = c.frame.loc[(c.frame["model"] == "large") & (c.frame["split"] == "test"), ["item_id", "target"]]
    targets = targets.drop_duplicates("item_id")["target"]
    if c.metric != "accuracy":
        return Undefined("free text has no majority class")
    if targets.isna().any():
        return Undefined("the table was written without texts")
    return float(targets.value_counts(normalize=True).iloc[0])
