"""What it costs to train the models of a recorded cell, and after how many queries that is earned back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import Undefined
from cat_core.flops import sequence_flops, shape_of, training_flops
from cat_core.methods import METHODS
from cat_core.studies.record import experiment_of
from cat_core.studies.study import Cell
from cat_core.tasks.suite import KINDS
from cat_core.training.configs import shape_config
from cat_core.training.obtain import are_few


@dataclass(frozen=True)
class TrainingCost:
    """FLOPs spent before the first query. small: training of S; teacher: what L is run for while S is trained (one
    pass over the training set; where its own words are needed, its output head in every step); large: training of L
    itself."""

    small: float
    teacher: float
    large: float

    def total(self, large_is_sunk: bool = True) -> float:
        """Their sum; a large model that is there anyway is left out."""
        return self.small + self.teacher + (0.0 if large_is_sunk else self.large)


def training_cost(
    small, large, lengths, *, method: str, steps: int, batch_size: int, large_steps: int, large_batch_size: int,
    examples: int,
) -> TrainingCost:  # fmt: skip
    """What it costs to train S by `method`, from configurations of S and L and the lengths of the sequences.

    lengths: [m, 2] prompt and target tokens of training sequences, or of others like them: only the mean cost of a
    sequence is used. A step is three forward passes of each of its sequences (`flops.training_flops`: the backward
    counts two), without padding. A method that compares S with L needs one pass of L over the `examples` of the
    training set, kept for all steps; one that needs L's own words also its output head on the target tokens of every
    step. A
    second stage goes on from Xent for a quarter of the steps. An upper bound where a mask drops tokens, whose gradient
    at the head the fused loss skips. Raises ValueError for unknown methods and model types, and for empty lengths.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    pairs, counts = np.unique(np.asarray(lengths, dtype=np.int64).reshape(-1, 2), axis=0, return_counts=True)
    if not len(pairs):
        raise ValueError("lengths is empty: give prompt and target tokens of at least one sequence")

    def mean(config, passes: int = 1) -> float:
        shape = shape_of(config)  # once: it looks at every field
        return float(np.average([passes * sequence_flops(shape, p, t) for p, t in pairs.tolist()], weights=counts))

    for config in (small, large):
        training_flops(config, *pairs[0].tolist())  # refuses what it has no exact count for

    kind = METHODS[method]
    sequences = batch_size * (steps + (max(1, steps // 4) if kind.second_stage else 0))
    teacher = examples * mean(large) if kind.compares else 0.0
    if kind.distil or kind.relabel:
        teacher += sequences * float(np.average(pairs[:, 1], weights=counts)) * shape_of(large).head_flops
    own = large_steps * large_batch_size * mean(large, 3)
    return TrainingCost(sequences * mean(small, 3), teacher, own)


def payback(extra: float, saved: float) -> float | Undefined:
    """Queries after which `extra` FLOPs, spent once, are earned back at `saved` FLOPs a query; 0 if none were spent."""
    if not (math.isfinite(extra) and math.isfinite(saved)):
        raise ValueError(f"extra and saved are {extra} and {saved}, expected finite numbers of FLOPs")
    if saved <= 0:
        return Undefined("never: it saves nothing per query")
    return max(0.0, extra) / saved


def training_examples(cell: Cell) -> int:
    """How many examples L is asked about in training: exactly of a built-in suite, else at most, as were drawn."""
    config = cell.config
    if not {"steps", "batch_size"} <= config.keys():
        config = vars(experiment_of(cell))  # what the cell leaves open follows the start of its models
    read = config["steps"] * config["batch_size"]
    if config["suite"] not in KINDS:
        return read
    if any(config.get(name) for name in ("train_suite", "train_limit", "mixing_cap")):  # to be done to be counted
        count = len(experiment_of(cell).training_data.load().split("train"))
    else:
        count = KINDS[config["suite"]][0](**config.get("suite_options") or {}).train
    return read if are_few(read, count) else count


def item_lengths(cell: Cell, c: Comparison) -> list[tuple[int, int]]:
    """Prompt and target tokens of the test items. Prompts as recorded; targets so that each task's sum is that of its
    recorded token ledger, as the single ones are not recorded."""
    tokens = cell.token_ledger_by_task(cell.config["methods"][0])
    rows, lengths = c.frame[(c.frame["model"] == "large") & (c.frame["split"] == "test")].drop_duplicates("item_id"), []
    for task, part in rows.groupby("task", sort=False):
        mean = tokens[task].n / len(cell.seeds) / len(part)
        upto = np.round(mean * np.arange(len(part) + 1)).astype(int)  # whole numbers with that mean
        lengths += zip(part["n_prompt"].tolist(), np.maximum(np.diff(upto), 1).tolist())
    return lengths


def cell_cost(cell: Cell, c: Comparison, method: str) -> TrainingCost | Undefined:
    """`training_cost` of a cell: steps, batches and sizes by its configuration, lengths by its recorded tables.

    An estimate: the lengths are those of the test items (`item_lengths`), in place of training sequences.
    """
    e = experiment_of(cell)
    try:
        small, large = (shape_config(model, e.context, e.vocab_size) for model in (e.small, e.large))
    except ValueError as error:
        return Undefined(str(error))
    return training_cost(
        small, large, item_lengths(cell, c), method=method, steps=e.steps, batch_size=e.batch_size,
        large_steps=e.large_steps, large_batch_size=e.large_batch_size, examples=training_examples(cell),
    )  # fmt: skip
