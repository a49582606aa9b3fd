"""Studies: experiments fixed in a file beforehand, run once, committed as tables, and read back without training.

A study is `data/studies/<name>.yaml`: methods, seeds and its *cells*, each one experiment (the arguments of
`Experiment.of`, and the keys of `_CELL_KEYS`). What a cell gave lies in `papermill_runs/studies/<name>/`:

    outcomes/<cell>.parquet   the outcome table, written compactly; without texts where `texts` is false
    training/<cell>.json      training logs and held-out token signals of every model
    metrics/<cell>.json       every number that the book says of it (`evidence.cell_metrics`), from these two files
    study.json                per cell: configuration, commit, versions, machine, time, sha256 of the first two

    python -m cat_core.study run reference [--cell NAME ...] [--jobs N]     trains what is missing
    python -m cat_core.study metrics reference [--cell NAME ...]
    python -m cat_core.study list
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cat_core.artifacts import file_sha256
from cat_core.curves import Ledger
from cat_core.editions import NAME, EditionError, find_root, read_yaml, suggest
from cat_core.tasks import brief

FOLDER = Path("data") / "studies"
RUNS = Path("papermill_runs") / "studies"
SPEED = ("length_groups",)  # keys of a cell on which its time depends, and of its numbers the rounding alone
_KEYS = ("study", "description", "primary", "methods", "seeds", "large_seeds", "texts", "learned_rules", "cells")
_CELL_KEYS = ("claim", "claim_tasks", "generative", "beside", "differs_from")
_KEY_TYPES = {
    "description": str, "primary": str, "methods": list, "seeds": list, "large_seeds": list, "texts": bool,
    "learned_rules": list, "cells": dict, "claim": str, "beside": str, "differs_from": str, "claim_tasks": list,
    "generative": list,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One experiment of a study; what it gave is read from the study's folder.

    name: such as "mini-wmt-high"; config: the arguments of `Experiment.of`; folder: `papermill_runs/studies/<study>`;
    claim: the claim that the cell was made for, such as "C1"; claim_tasks: the tasks that decide it (default: all that
    are not generative); generative: tasks that C4 speaks of; beside: the cell "study/cell" of the same setting, whose
    methods those of this one are compared with; differs_from: the cell "study/cell" of which this one changes one
    setting; learned_rules: methods whose S gets the learned deferral rules, too.
    """

    study: str
    name: str
    config: dict
    folder: Path
    texts: bool
    claim: str = ""
    claim_tasks: tuple[str, ...] = ()
    generative: tuple[str, ...] = ()
    beside: str = ""
    differs_from: str = ""
    learned_rules: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The cell as others name it, "study/cell"."""
        return f"{self.study}/{self.name}"

    @property
    def outcomes_path(self) -> Path:
        """The outcome table."""
        return self.folder / "outcomes" / f"{self.name}.parquet"

    @property
    def training_path(self) -> Path:
        """Training logs and token signals."""
        return self.folder / "training" / f"{self.name}.json"

    @property
    def record(self) -> dict | None:
        """What study.json says of a recorded run of this configuration; None if there is none.

        Raises ValueError when the cell was recorded with another configuration, or a file has changed since.
        """
        return self._record

    @cached_property
    def _record(self) -> dict | None:
        found = read_record(self.folder)["cells"].get(self.name)
        if found is None:
            return None
        files = {self.outcomes_path, self.training_path}
        if not (
            isinstance(found, dict)
            and all(isinstance(found.get(key), dict) for key in ("config", "files"))
            and files <= {self.folder / name for name in found["files"]}
        ):
            raise ValueError(
                f"{self.folder / 'study.json'}: the entry of {self.name!r} is damaged: restore it from git"
            )
        keys = self.config.keys() | found["config"].keys()
        changed = sorted(k for k in keys.difference(SPEED) if self.config.get(k) != found["config"].get(k))
        if changed:
            raise ValueError(
                f"cell {self.name!r} of study {self.study!r} was recorded with another {', '.join(changed)}; "
                "give the new configuration a new name, or remove its files and its entry in study.json"
            )
        for name, digest in found["files"].items():
            path = self.folder / name
            if not path.is_file() or file_sha256(path) != digest:
                raise ValueError(f"{path} is missing or has changed since it was recorded: restore it from git")
        return found

    @cached_property
    def experiment(self):
        """The cell as an `Experiment` (imports torch). Raises ValueError that names cell and key."""
        from cat_core.experiment import Experiment

        signature = inspect.signature(Experiment.of).parameters.values()
        missing = [p.name for p in signature if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
        missing = [name for name in missing if name not in self.config]
        try:
            if missing:
                raise ValueError(f"{', '.join(map(repr, missing))} missing")
            return Experiment.of(**self.config)
        except ValueError as error:
            raise ValueError(f"study {self.study!r}, cell {self.name!r}: {error}") from None

    def large_seed(self, seed: int) -> int:
        """The seed of the large model that goes with a seed of the small one, as `Experiment.large_seed`."""
        seeds, large = self.config["seeds"], self.config["large_seeds"]
        if seed not in seeds:
            raise ValueError(f"seed {seed} is not one of the cell's seeds {list(seeds)}")
        return large[list(seeds).index(seed) % len(large)]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds of S."""
        return tuple(self.config["seeds"])

    def outcomes(self):
        """The recorded outcome table (pandas)."""
        from cat_core.outcomes import read_outcomes

        self._required()
        return read_outcomes(self.outcomes_path)

    @property
    def metrics_path(self) -> Path:
        """The cell's numbers."""
        return self.folder / "metrics" / f"{self.name}.json"

    def metrics(self) -> dict:
        """The recorded numbers (`evidence.cell_metrics`, as JSON).

        Raises ValueError where they were computed from other tables, its own or a partner's, than are recorded now.
        """
        self._required()
        again = f"make it with python -m cat_core.study metrics {self.study} --cell {self.name}"
        try:
            found = json.loads(self.metrics_path.read_text(encoding="utf-8"))["metrics"]
            tables = dict(found.get("tables", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.metrics_path} cannot be read ({type(error).__name__}): {again}") from None
        whose = (found.get("study"), found.get("cell"), tables.get(self.place))
        if whose != (self.study, self.name, self.tables[self.place]):
            raise ValueError(f"{self.metrics_path} holds no numbers of the recorded table of {self.place}: {again}")
        for place, digest in tables.items():
            if digest != self.tables.get(place, digest):
                raise ValueError(f"{self.metrics_path} was made from another table of {place} than recorded: {again}")
        return found

    @cached_property
    def tables(self) -> dict[str, str]:
        """sha256 of the recorded outcome tables that the metrics rest on: the cell's own, and those of its partners."""
        cells = [self, *(self.named(place) for place in (self.beside, self.differs_from) if place)]
        return {c.place: c.record["files"][f"outcomes/{c.name}.parquet"] for c in cells if c.record is not None}

    def named(self, place: str) -> Cell:
        """Another cell of the same project by "study/cell", recorded or not."""
        return open_cell(place, self.folder.parents[len(RUNS.parts)])

    def partner(self) -> Cell:
        """The recorded cell that this one stands beside. ValueError where it is not recorded, or differs in setting."""
        other = self.named(self.beside)
        free = ("methods",)
        differing = sorted(
            key for key in (self.config.keys() | other.config.keys()) - set(free)
            if self.config.get(key) != other.config.get(key)
        )  # fmt: skip
        if differing:
            raise ValueError(
                f"cell {self.name!r} is to stand beside {self.beside!r}, but differs in {', '.join(differing)}"
            )
        other._required()
        return other

    def kept(self) -> dict:
        """Fields of a `Comparison` of the recorded table that let it read the intervals in the metrics."""
        from cat_core.archive import kept

        metrics = self.metrics()
        return {"resamples": metrics["resamples"], "kept": kept(metrics)}

    def comparison(self, **options):
        """`Comparison` of the recorded table; options: its further fields."""
        from cat_core.comparison import Comparison

        return Comparison(self.outcomes(), self.large_seed, **options)

    @cached_property
    def training(self) -> dict:
        """The recorded training file."""
        self._required()
        return json.loads(self.training_path.read_text(encoding="utf-8"))

    def logs(self) -> dict[tuple[str, int], list[dict]]:
        """Training logs of the small models by (method, seed), as `Experiment.logs`."""
        columns = self.training["logs"]
        rows = {}
        for key, table in columns.items():
            method, _, seed = key.rpartition(" ")
            rows[method, int(seed)] = [dict(zip(table, values)) for values in zip(*table.values())]
        return rows

    def token_signals(self, method: str, seed: int) -> dict:
        """`signals.summary` of S of one method and seed against its L on the held-out target tokens (test split)."""
        return self.training["tokens"][f"{method} {seed}"]

    def token_ledger(self, method: str) -> Ledger:
        """The 2x2 ledger over held-out target tokens, summed over the seeds."""
        counts = np.sum([self.token_signals(method, seed)["ledger"] for seed in self.seeds], axis=0)
        return Ledger(*map(int, counts))

    def token_ledger_by_task(self, method: str) -> dict[str, Ledger]:
        """The same for each task of the cell."""
        total: dict[str, np.ndarray] = {}
        for seed in self.seeds:
            for task, counts in self.token_signals(method, seed)["ledger_by_task"].items():
                total[task] = total.get(task, 0) + np.array(counts)
        return {task: Ledger(*map(int, counts)) for task, counts in total.items()}

    def keep_rate(self, method: str) -> float:
        """Share of the target tokens kept over the whole training, mean over seeds."""
        logs = self.logs()
        return float(np.mean([np.mean([row["keep_rate"] for row in logs[method, s]]) for s in self.seeds]))

    def _required(self):
        if self.record is None:
            raise ValueError(
                f"cell {self.name!r} of study {self.study!r} is not recorded in {self.folder}: "
                f"run python -m cat_core.study run {self.study} --cell {self.name}"
            )


@dataclass(frozen=True)
class Study:
    """A study file. primary: its primary outcome in words; cells by name."""

    name: str
    description: str
    primary: str
    cells: dict[str, Cell]

    def cell(self, name: str) -> Cell:
        """One cell by its name."""
        if name not in self.cells:
            raise ValueError(f"study {self.name!r} has no cell {name!r}{suggest(name, self.cells)}")
        return self.cells[name]

    @property
    def recorded(self) -> dict[str, Cell]:
        """The cells whose results are there."""
        return {name: cell for name, cell in self.cells.items() if cell.record is not None}


def study_names(root: Path | None = None) -> list[str]:
    """Names of all study files."""
    return sorted(path.stem for path in ((root or find_root()) / FOLDER).glob("*.yaml"))


def load_study(name: str, root: Path | None = None) -> Study:
    """Read and check `data/studies/<name>.yaml`. Raises ValueError that names file, key and what was expected."""
    root = root or find_root()
    path = root / FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown study {name!r}{suggest(name, study_names(root))}")
    content = read_yaml(path)
    problems = [f"unknown key {brief(key)}{suggest(key, _KEYS)}" for key in content if key not in _KEYS]
    problems += [f"{key!r} is missing" for key in ("study", "methods", "seeds", "cells") if key not in content]
    if content.get("study", name) != name:
        problems.append(f"'study' is {brief(content['study'])}, expected {name!r} as in the file's name")
    problems += _wrong_types(content, _KEY_TYPES)
    if isinstance(content.get("cells", {}), dict):
        for cell, given in content.get("cells", {}).items():
            if not isinstance(cell, str) or not NAME.fullmatch(cell):  # files are named after it
                problems.append(f"cell {brief(cell)}: a name has letters, digits, '_', '-' and '.' only")
            if not isinstance(given, dict):
                problems.append(f"cell {brief(cell)} is {brief(given)}, expected keys and values")
            else:
                problems += [f"cell {brief(cell)}: {problem}" for problem in _wrong_types(given, _KEY_TYPES)]
    if problems:
        raise ValueError("; ".join(f"{path.name}: {problem}" for problem in problems[:5]))
    shared = {"large_seeds": [0]} | {k: list(content[k]) for k in ("methods", "seeds", "large_seeds") if k in content}
    folder, texts = root / RUNS / name, bool(content.get("texts", False))
    learned = tuple(content.get("learned_rules", ()))
    cells = {}
    for cell, given in content["cells"].items():
        config = shared | {k: v for k, v in given.items() if k not in _CELL_KEYS}
        try:
            config = json.loads(json.dumps(config, allow_nan=False))
        except (TypeError, ValueError) as error:  # YAML has dates, sets and NaN
            raise ValueError(f"{path.name}: cell {cell!r} cannot be recorded as JSON: {error}") from None
        speaks = {key: tuple(given.get(key, ())) for key in ("claim_tasks", "generative")}
        speaks |= {key: given.get(key, "") for key in ("claim", "beside", "differs_from")}
        cells[cell] = Cell(name, cell, config, folder, texts, **speaks, learned_rules=learned)
    return Study(name, content.get("description", ""), content.get("primary", ""), cells)


def _wrong_types(content: Mapping, types: Mapping[str, type]) -> list[str]:
    """What is wrong with the values of those keys that are there."""
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false"}
    return [
        f"{key!r} is {brief(content[key])}, expected {names[kind]}"
        for key, kind in types.items()
        if key in content and not isinstance(content[key], kind)
    ]


def open_cell(place: str, root: Path | None = None) -> Cell:
    """The cell named by "study/cell", such as "reference/mini-wmt-high"."""
    study, slash, cell = place.partition("/")
    if not slash:
        raise ValueError(f"{place!r} names no cell: expected <study>/<cell>, such as reference/mini-wmt-high")
    return load_study(study, root).cell(cell)


def read_record(folder: Path) -> dict:
    """study.json of a folder, or an empty one."""
    path = folder / "study.json"
    if not path.is_file():
        return {"study": folder.name, "cells": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content["cells"], dict):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} cannot be read: restore it from git, or remove it to record the study anew")


# ---------------------------------------------------------------- command line


def _say(cell: str, line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {cell}: {line}", flush=True)


def _check(cell: Cell) -> None:
    """A one-line ValueError for data that are not there, and for keys that name what does not exist."""
    from cat_core.ledger import CLAIMS
    from cat_core.loss import METHODS

    tasks = cell.experiment.data.load().tasks
    named = {
        "claim_tasks": (cell.claim_tasks, tasks), "generative": (cell.generative, tasks),
        "learned_rules": (cell.learned_rules, METHODS), "claim": ([cell.claim] if cell.claim else [], CLAIMS),
    }  # fmt: skip
    for key, (values, known) in named.items():
        if unknown := [str(value) for value in values if value not in known]:
            raise ValueError(
                f"cell {cell.place}: {key} names {', '.join(unknown)}; expected some of {', '.join(known)}"
            )
    for key in ("beside", "differs_from"):
        if (place := getattr(cell, key)) and cell.named(place).place == cell.place:
            raise ValueError(f"cell {cell.place}: {key} names the cell itself; expected another one")


def _state(cell: Cell) -> str:
    """Whether a cell is recorded, and what it took, where all its parts were timed."""
    if cell.record is None:
        return "not recorded"
    work = cell.record.get("work") or {}
    timed = work and work["timed"] == work["parts"]
    return f"recorded; {work['cpu_seconds'] / 3600:.2f} core-hours" if timed else "recorded"


def main(arguments=None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cat_core.study", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and record what is not recorded yet; an interrupted run goes on")
    numbers = commands.add_parser("metrics", help="compute the numbers of recorded cells from their tables anew")
    for command in (run, numbers):
        command.add_argument("study", help="name of a file in data/studies")
        command.add_argument("--cell", action="append", default=[], help="only this cell; may be given several times")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the work; default 1")
    commands.add_parser("list", help="all studies, their cells, and which are recorded")
    options = parser.parse_args(arguments)
    from cat_core.recording import write_metrics  # it imports this module

    try:
        if options.command == "list":
            for name in study_names():
                study = load_study(name)
                print(f"{name}: {study.description}")
                for cell in study.cells.values():
                    print(f"  {cell.name:<28} {_state(cell)}")
            return 0
        study = load_study(options.study)
        cells = [study.cell(name) for name in options.cell] or list(study.cells.values())
        if options.command == "metrics":
            for cell in cells:
                if cell.record is not None or options.cell:
                    print(write_metrics(cell))
            return 0
        for cell in cells:
            _check(cell)  # what is wrong is refused before hours are spent
        from cat_core import work  # imports torch, which `list` and `metrics` need not wait for

        work.run(cells, options.jobs, _say)
    except (ValueError, OSError, EditionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
