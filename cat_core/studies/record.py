"""Recording a cell of a study: its models are trained and answer, and what they gave is written for `study.Cell`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from filelock import FileLock

from cat_core.analysis.outcomes import drop_text, write_outcomes
from cat_core.analysis.publish import publish
from cat_core.files import file_sha256, seal, write_text
from cat_core.studies.cell_metrics import cell_metrics
from cat_core.studies.study import Cell, read_record
from cat_core.tasks.bag_of_words import bag_of_words
from cat_core.training.artifacts import root
from cat_core.training.configs import resolve_device
from cat_core.training.experiment import Experiment
from cat_core.training.next_token import token_outcomes
from cat_core.training.provenance import device, find_root, git_state, versions
from cat_core.training.signals import summary

EVERY_RULE = ("chow_average", "chow_sum", "chow_quantile_0", "option_probability")
LOGGED = ("step", "loss", "keep_rate", "both", "only_small", "only_large", "neither")


def experiment_of(cell: Cell) -> Experiment:
    """A cell as an `Experiment`. Raises ValueError that names cell and key."""
    try:
        return Experiment.of(**cell.config)
    except ValueError as error:
        raise ValueError(f"study {cell.study!r}, cell {cell.name!r}: {error}") from None


def run_cell(cell: Cell, progress=None, costs: Callable[[Cell], dict] | None = None) -> dict:
    """Train, let all models answer, and record; what is recorded already is left as it is. Returns its record.

    costs: what the work of the cell took (`jobs.costs`), where that is known.
    """
    if (entry := cell.record) is not None:
        return entry
    began, experiment = time.time(), experiment_of(cell)
    if cell.queries == "tokens":
        frame = token_outcomes(experiment, cell.study, progress)
    else:
        frame = experiment.outcomes(cell.study, progress, cell.learned_rules)
    training = {"logs": _logs(experiment), "tokens": _tokens(experiment, progress)}
    suite, learnt = experiment.data.load(), experiment.training_data.load()
    training["majority"] = _majority(suite.split("test"))
    training["bag_of_words"] = _rounded(bag_of_words(learnt.split("train"), suite.split("test")))
    frame = slim(frame if cell.texts else drop_text(frame), cell.learned_rules)
    write_outcomes(cell.outcomes_path, frame, compactly=True)
    write_text(cell.training_path, json.dumps(training, separators=(",", ":")) + "\n")
    files = (cell.outcomes_path, cell.training_path)
    record = {
        "config": cell.config,
        "data": experiment.data.load().fingerprint,
        "models": {f"{method} {seed}": config.digest() for (method, seed), config in experiment.configs().items()},
        "files": {path.relative_to(cell.folder).as_posix(): file_sha256(path) for path in files},
        "git": git_state(find_root()),
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, **versions("numpy", "sacrebleu", "babel")},
        "device": device() if resolve_device(experiment.device).type == "cuda" else f"CPU ({platform.machine()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "last_wall_seconds": round(time.time() - began, 1),
        "work": costs(cell) if costs is not None else None,
    }  # fmt: skip
    record["seal"] = seal(record)
    with FileLock(root() / f"{cell.study}.lock"):  # another process may record another cell
        whole = read_record(cell.folder)
        whole["study"] = cell.study
        whole["cells"][cell.name] = record
        write_text(cell.folder / "study.json", json.dumps(whole, indent=1) + "\n")
    vars(cell).pop("record", None)
    return record


def slim(frame, methods: Sequence[str]):
    """The outcome table to commit: the rules of `EVERY_RULE` for all rows, all others for S of `methods` alone.

    Confidences are nearly all of a table's bytes, and the grid of rules asks a few training methods only.
    """
    kept = [f"confidence_{rule}" for rule in EVERY_RULE]
    others = [column for column in frame.columns if column.startswith("confidence_") and column not in kept]
    rest = ~frame["method"].isin(list(methods))
    return frame.assign(**{column: frame[column].mask(rest) for column in others})


def write_metrics(cell: Cell) -> Path:
    """Compute and write the cell's numbers from its recorded files."""
    return publish(cell.folder, cell.name, None, cell_metrics(cell))["metrics"]


def _logs(experiment) -> dict:
    """Logs by "method seed" as columns, numbers with five digits."""
    return {
        f"{method} {seed}": {
            name: [row[name] if name == "step" else float(f"{row[name]:.5g}") for row in log]
            for name in LOGGED
            if all(name in row for row in log)
        }
        for (method, seed), log in experiment.logs().items()
    }


def _tokens(experiment, progress) -> dict:
    """`signals.summary` by "method seed", with the ledger of each task."""
    tasks = np.array([e.task for e in experiment.data.load().split("test")])
    measures = {}
    for (method, seed), config in experiment.configs().items():
        if method == "large":
            continue
        small = experiment.token_signals(config, progress=progress)
        large = experiment.token_signals(experiment.large_config(experiment.large_seed(seed)), progress=progress)
        cell, task = 2 * ~small.right + ~large.right, tasks[small.example]
        by_task = {str(t): np.bincount(cell[task == t], minlength=4).tolist() for t in dict.fromkeys(tasks)}
        measures[f"{method} {seed}"] = _rounded(summary(small, large)) | {"ledger_by_task": by_task}
    return measures


def _majority(examples) -> dict[str, float]:
    """Share of the most frequent target among the test items of each task with options."""
    targets: dict[str, Counter] = {}
    for example in examples:
        if example.options:
            targets.setdefault(example.task, Counter())[example.target] += 1
    return {task: max(counts.values()) / sum(counts.values()) for task, counts in targets.items()}


def _rounded(value):
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
