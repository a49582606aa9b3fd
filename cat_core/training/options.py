"""The fields of an experiment: their help, their types, and which values do not go together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import MISSING, field
from functools import lru_cache
from typing import get_args, get_type_hints

from cat_core.tasks.schema import brief
from cat_core.training.configs import describes_size
from cat_core.training.depth import is_cut, parse_cut
from cat_core.training.starts import PRECISIONS, check_rate

MOST_SEEN = 0.01  # of tested items that may be learnt, too: public data sets hold some twice


def option(help: str, default=MISSING, page: bool = True):
    """A field of `Experiment`, explained once: pages, the command line and `data/README.md` are checked against it.

    page: whether pages may have it as a parameter; the others are set in the files of studies alone.
    """
    return field(default=default, metadata={"help": help, "page": page})


def check_values(experiment) -> None:
    """ValueError for values out of range, by their own names where `TrainSettings` has those of S alone."""
    if experiment.answer_precision not in PRECISIONS[1:]:
        raise ValueError(f"unknown answer_precision {brief(experiment.answer_precision)}; expected fp32 or bf16")
    for name in ("context", "batch_size", "large_batch_size"):
        if getattr(experiment, name) < 1:
            raise ValueError(f"{name} is {brief(getattr(experiment, name))}; expected a whole number >= 1")
    for name in ("train_layers", "large_train_layers", "lora_rank", "large_lora_rank", "gradient_checkpointing"):
        if getattr(experiment, name) and not experiment.loaded:
            raise ValueError(
                f"{name} is {getattr(experiment, name)}: for loaded models only, and these start from scratch"
            )
    if experiment.train_options and not experiment.train_suite:
        raise ValueError("train_options are those of train_suite, which is not given: the suite has suite_options")
    if experiment.apart and experiment.out_of_fold:
        raise ValueError("apart and out_of_fold are two ways to one end: choose one of them")
    check_rate("learning_rate", experiment.learning_rate, experiment.loaded, experiment.lora_rank)
    check_rate("healing_rate", experiment.healing_rate or 0, experiment.loaded, experiment.lora_rank)
    check_rate("large_learning_rate", experiment.large_learning_rate, experiment.loaded, experiment.large_lora_rank)


def check_untrained(experiment) -> None:
    """ValueError where steps of 0 leave nothing to compare, or weights at random."""
    for name, seeds in (("steps", "seeds"), ("large_steps", "large_seeds")):
        if getattr(experiment, name):
            continue
        if not experiment.loaded:
            raise ValueError(f"{name} is 0: a model built from scratch has to be trained; expected at least 1")
        if len(getattr(experiment, seeds)) > 1:
            raise ValueError(
                f"{name} is 0 and {seeds} {list(getattr(experiment, seeds))}: a model as it was loaded has no training "
                "seed; give one"
            )
    if not experiment.steps and experiment.methods != ("xent",):
        raise ValueError(
            f"steps is 0 and methods {list(experiment.methods)}: S as it was loaded is the same by every method; give "
            "methods ['xent']"
        )


def check_models_named(small: str, large: str) -> None:
    """ValueError for a cut that cannot be read or has nothing to be cut from, and for one model named and one built."""
    parse_cut(small)
    if is_cut(large):
        raise ValueError(f"large {brief(large)}: only S can be cut; give L by the name or folder of a model")
    if is_cut(small) and describes_size(large):
        raise ValueError(f"small {brief(small)}: large {brief(large)} is built from scratch and cannot be cut; name it")
    if describes_size(small) != describes_size(large):
        raise ValueError(
            f"small {brief(small)} and large {brief(large)}: build both from scratch or name both, as they must share "
            "one tokenizer"
        )


def check_apart(experiment, evaluated: Sequence) -> None:
    """ValueError where a `train_suite` does not go with the examples that are evaluated."""
    if not experiment.train_suite:
        return
    data, given = experiment.training_data, f"train_suite {brief(experiment.train_suite)}"
    learnt = {(e.task, e.prompt) for e in data.load().split("train")}
    if seen := [e.item_id for e in evaluated if (e.task, e.prompt) in learnt]:
        said = f"{given} holds {len(seen)} of the {len(evaluated)} items of {brief(experiment.suite)} that are tested"
        if len(seen) > MOST_SEEN * len(evaluated):
            raise ValueError(f"{said}, such as {brief(seen[0])}: take another, or the suite itself")
        warnings.warn(said, stacklevel=3)
    if experiment.shots and (without := {e.task for e in evaluated} - data.shown().keys()):
        raise ValueError(
            f"shots is {experiment.shots} and {given} has no examples of {min(without)!r} to stand before its prompts: "
            "set shots to 0, or train on the suite itself"
        )


type_hints = lru_cache(get_type_hints)  # evaluated anew, they are most of what making an experiment takes


def check_type(name: str, value: object, hint: type) -> None:
    """ValueError unless a value has the type of its field (a list will do for a tuple), and a number is >= 0."""
    types = {float: (int, float), tuple[str, ...]: (list, tuple), tuple[int, ...]: (list, tuple)}.get(hint)
    types = types or get_args(hint) or (hint,)
    types = (int, *types) if float in types and int not in types else types
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        hint = " (in YAML write 1.0e-3, as 1e-3 is text)" if float in types and isinstance(value, str) else ""
        raise ValueError(f"{name} is {brief(value)}; expected {wanted}{hint}")
    if int in types and value is not None and not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {brief(value)}; expected a number >= 0")
