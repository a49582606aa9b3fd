"""Studies: experiments fixed in a file beforehand, run once, committed as tables, and read back without training.

A study is `data/studies/<name>.yaml`: methods, seeds and its *cells*, each one experiment (the arguments of
`Experiment.of`, and the keys of `CellFile`). What a cell gave lies in `papermill_runs/studies/<name>/`:

    outcomes/<cell>.parquet   the outcome table, written compactly; without texts where `texts` is false
    training/<cell>.json      training logs and held-out token signals of every model
    metrics/<cell>.json       every number that the book says of it (`cell_metrics`), from these two files
    study.json                per cell: configuration, commit, versions, machine, time, sha256 of the first two

    python -m cat_core.study run reference [--cell NAME ...] [--jobs N]     trains what is missing
    python -m cat_core.study metrics reference [--cell NAME ...]
    python -m cat_core.study list
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Strict

from cat_core.analysis.checksums import read_json
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.metrics import CellMetrics, read_metrics
from cat_core.analysis.outcomes import read_outcomes
from cat_core.curves import Ledger
from cat_core.files import file_sha256, seal
from cat_core.tasks.schema import NAME, FileModel, brief, matching, nearest, read_file
from cat_core.training.provenance import find_root

FOLDER = Path("data") / "studies"
RUNS = Path("papermill_runs") / "studies"
SPEED = ("length_groups",)  # keys of a cell on which its time depends, and of its numbers the rounding alone
JOINED_KEYS = ("claim", "claim_tasks", "generative", "differs_from")  # of a cell that joins others
Names = Annotated[tuple[str, ...], Strict(False)]  # a list, in YAML


class CellFile(FileModel, extra="allow"):
    """A cell as written: what is named here, and the arguments of `Experiment.of`, which are checked there."""

    methods: list = []
    seeds: list = []
    large_seeds: list = []
    claim: str = ""
    claim_tasks: Names = ()
    generative: Names = ()
    beside: str = ""
    differs_from: str = ""
    joins: Names = ()
    queries: Literal["answers", "tokens"] = "answers"


class StudyFile(FileModel):
    """A study as written (data/README.md has the meaning of every key)."""

    study: object
    description: str = ""
    primary: str = ""
    large_seeds: list = [0]
    methods: list
    seeds: list
    texts: bool = False
    learned_rules: Names = ()
    cells: dict[matching(NAME, "letters, digits, '_', '-' and '.' only"), CellFile]  # files are named after them


@dataclass(frozen=True)
class Cell:
    """One experiment of a study; what it gave is read from the study's folder.

    name: such as "mini-wmt-high"; config: the arguments of `Experiment.of`; folder: `papermill_runs/studies/<study>`;
    claim: the claim that the cell was made for, such as "C1"; claim_tasks: the tasks that decide it (default: all that
    are not generative); generative: tasks that C4 speaks of; beside: the cell "study/cell" of the same setting, whose
    methods those of this one are compared with; differs_from: the cell "study/cell" of which this one changes one
    setting; learned_rules: methods whose S gets the learned deferral rules, too; part_of: the cell that joins this one
    to others, which alone has metrics; queries: what is asked, "answers", or "tokens" (`training.next_token`).
    """

    study: object
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
    part_of: str = ""
    queries: str = "answers"

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

    @cached_property
    def record(self) -> dict | None:
        """What study.json says of a recorded run of this configuration; None if there is none.

        Raises ValueError when the cell was recorded with another configuration, or a file has changed since.
        """
        entry = read_record(self.folder)["cells"].get(self.name)
        if entry is None:
            return None
        files = {self.outcomes_path, self.training_path}
        whole = isinstance(entry, dict) and all(isinstance(entry.get(key), dict) for key in ("config", "files"))
        where = self.folder / "study.json"
        if not (whole and files <= {self.folder / name for name in entry["files"]}):
            raise ValueError(f"{where}: the entry of {self.name!r} is damaged: restore it from git")
        rest = {key: value for key, value in entry.items() if key != "seal"}
        if "seal" in entry and entry["seal"] != seal(rest):  # those of older runs have none
            raise ValueError(f"{where}: the entry of {self.name!r} has changed since: restore it from git")
        if changed := _differing(self.config, entry["config"], SPEED):
            raise ValueError(
                f"cell {self.name!r} of study {self.study!r} was recorded with another {changed}; "
                "give the new configuration a new name, or remove its files and its entry in study.json"
            )
        for name, digest in entry["files"].items():
            path = self.folder / name
            if not path.is_file() or file_sha256(path) != digest:
                raise ValueError(f"{path} is missing or has changed since it was recorded: restore it from git")
        return entry

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
        self._required()
        return read_outcomes(self.outcomes_path)

    @property
    def metrics_path(self) -> Path:
        """The cell's numbers."""
        return self.folder / "metrics" / f"{self.name}.json"

    def metrics(self) -> CellMetrics:
        """The recorded numbers.

        Raises ValueError where they were computed from other tables, its own or a partner's, than are recorded now.
        """
        self._required()
        again = f"make it with python -m cat_core.study metrics {self.study} --cell {self.name}"
        try:
            metrics = _read_metrics(self.metrics_path, self.metrics_path.stat().st_mtime_ns)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.metrics_path} cannot be read ({brief(error)}): {again}") from None
        whose = (metrics.study, metrics.cell, metrics.tables.get(self.place))
        if whose != (self.study, self.name, self.tables[self.place]):
            raise ValueError(f"{self.metrics_path} holds no numbers of the recorded table of {self.place}: {again}")
        for place, digest in metrics.tables.items():
            if digest != self.tables.get(place, digest):
                raise ValueError(f"{self.metrics_path} was made from another table of {place} than recorded: {again}")
        return metrics

    @cached_property
    def tables(self) -> dict[str, str]:
        """sha256 of the recorded outcome tables that the metrics rest on: the cell's own, and those of its partners."""
        cells = [self, *(self.named(place) for place in (self.beside, self.differs_from) if place)]
        return {c.place: c.record["files"][f"outcomes/{c.name}.parquet"] for c in cells if c.record is not None}

    def named(self, place: str) -> Cell:
        """Another cell of the same project by "study/cell", recorded or not."""
        return open_cell(place, self.folder.parents[len(RUNS.parts)])

    def partner(self, but: Sequence[str] = ()) -> Cell:
        """The recorded cell that this one stands beside. ValueError where it is not recorded, or differs in settings
        other than the methods, and those named."""
        other = self.named(self.beside)
        if differing := _differing(self.config, other.config, ("methods", *but)):
            raise ValueError(f"cell {self.name!r} is to stand beside {self.beside!r}, but differs in {differing}")
        other._required()
        return other

    def kept(self) -> dict:
        """Fields of a `Comparison` of the recorded table that let it read the intervals in the metrics."""
        metrics = self.metrics()
        return {"resamples": metrics.resamples, "kept": metrics}

    def comparison(self, **options):
        """`Comparison` of the recorded table; options: its further fields."""
        return Comparison(self.outcomes(), self.large_seed, **options)

    @cached_property
    def training(self) -> dict:
        """The recorded training file."""
        self._required()
        return json.loads(self.training_path.read_text(encoding="utf-8"))

    def logs(self) -> dict[tuple[str, int], list[dict]]:
        """Training logs of the small models by (method, seed), as `Experiment.logs`."""
        rows = {}
        for key, table in self.training["logs"].items():
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
            problem = f"cell {self.name!r} of study {self.study!r} is not recorded in {self.folder}"
            raise ValueError(f"{problem}: run python -m cat_core.study run {self.study} --cell {self.name}")


@dataclass(frozen=True)
class JoinedCell(Cell):
    """Cells of a study that differ in their seeds alone, read as one: what would take too long is run in parts.

    parts: these cells, each recorded by itself.
    """

    parts: tuple[Cell, ...] = ()

    @property
    def record(self) -> dict | None:
        """The record of the first part, where all are recorded."""
        records = [part.record for part in self.parts]
        return None if None in records else records[0]

    def outcomes(self):
        """The outcome tables of all parts, one below the other."""
        self._required()
        return pd.concat([part.outcomes() for part in self.parts], ignore_index=True)

    def large_seed(self, seed: int) -> int:
        """The seed of the large model that goes with a seed of the small one, as in its part."""
        whose = [part for part in self.parts if seed in part.seeds]
        return whose[0].large_seed(seed) if whose else super().large_seed(seed)

    @cached_property
    def tables(self) -> dict[str, str]:
        """sha256 of the tables of the parts, and for the cell itself of these."""
        found = {part.place: part.tables[part.place] for part in self.parts}
        return {self.place: seal(found), **found}

    @cached_property
    def training(self) -> dict:
        """The training files of all parts as one."""
        files = [part.training for part in self.parts]
        return files[0] | {key: {k: v for file in files for k, v in file[key].items()} for key in ("logs", "tokens")}


def _joined(name: str, given: CellFile, cells: dict[str, Cell]) -> JoinedCell:
    """The cell that joins others. Raises ValueError for ones that are not there, or differ in more than seeds, and for
    keys that belong to these."""
    if strange := given.model_fields_set - {"joins", *JOINED_KEYS}:
        problem = f"cell {name!r} joins others and has {', '.join(sorted(strange))} of its own"
        raise ValueError(f"{problem}: expected {', '.join(JOINED_KEYS)} alone")
    if unknown := [part for part in given.joins if part not in cells]:
        raise ValueError(f"cell {name!r} joins {', '.join(unknown)}: expected cells that stand before it in the file")
    parts = [cells[part] for part in given.joins]
    first = parts[0]
    for part in parts[1:]:
        differing = _differing(first.config, part.config, ("seeds", "large_seeds"))
        if differing := differing or "queries" * (first.queries != part.queries):
            raise ValueError(f"cell {name!r} joins {first.name} and {part.name}, which differ in {differing}")
    seeds, large = ([s for part in parts for s in part.config[key]] for key in ("seeds", "large_seeds"))
    if len(set(seeds)) < len(seeds) or len(set(large)) < len(large):
        raise ValueError(f"cell {name!r} joins cells with a seed in common: {seeds}, of L {large}")
    about = given.model_dump(include=set(JOINED_KEYS))
    config = first.config | {"seeds": seeds, "large_seeds": large}
    return JoinedCell(
        first.study, name, config, first.folder, first.texts, **about, learned_rules=first.learned_rules,
        queries=first.queries, parts=tuple(parts),
    )  # fmt: skip


def _differing(one: dict, other: dict, free: Iterable[str]) -> str:
    """The keys, but for some, in which two configurations differ."""
    return ", ".join(sorted(k for k in (one.keys() | other.keys()).difference(free) if one.get(k) != other.get(k)))


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
            raise ValueError(f"study {self.name!r} has no cell {name!r}{nearest(name, self.cells)}")
        return self.cells[name]

    @property
    def recorded(self) -> dict[str, Cell]:
        """The cells whose results are there; not the parts of others."""
        return {name: cell for name, cell in self.whole.items() if cell.record is not None}

    @property
    def whole(self) -> dict[str, Cell]:
        """The cells that are no parts of others."""
        return {name: cell for name, cell in self.cells.items() if not cell.part_of}


def study_names(root: Path | None = None) -> list[str]:
    """Names of all study files."""
    return sorted(path.stem for path in ((root or find_root()) / FOLDER).glob("*.yaml"))


def load_study(name: str, root: Path | None = None) -> Study:
    """Read and check `data/studies/<name>.yaml`. Raises ValueError that names file, key and what was expected."""
    root = root or find_root()
    path = root / FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown study {name!r}{nearest(name, study_names(root))}")
    content = read_file(StudyFile, path)
    if content.study != name:
        raise ValueError(f"{path.name}: 'study' is {brief(content.study)}, expected {name!r} as in the file's name")
    shared = content.model_dump(include={"methods", "seeds", "large_seeds"})
    about = CellFile.model_fields.keys() - shared - {"joins"}
    cells, part_of = {}, {part: name for name, given in content.cells.items() for part in given.joins}
    for cell, given in content.cells.items():
        if given.joins:
            cells[cell] = _joined(cell, given, cells)
            continue
        config = shared | given.model_dump(exclude={*about, "joins"}, exclude_unset=True)
        try:
            config = json.loads(json.dumps(config, allow_nan=False))
        except (TypeError, ValueError) as error:  # YAML has dates, sets and NaN
            raise ValueError(f"{path.name}: cell {cell!r} cannot be recorded as JSON: {error}") from None
        rest = {"learned_rules": content.learned_rules} | given.model_dump(include=about)
        rest |= {"part_of": part_of.get(cell, "")}
        cells[cell] = Cell(name, cell, config, root / RUNS / name, content.texts, **rest)
    return Study(name, content.description, content.primary, cells)


def open_cell(place: str, root: Path | None = None) -> Cell:
    """The cell named by "study/cell", such as "reference/mini-wmt-high"."""
    study, slash, cell = place.partition("/")
    if not slash:
        raise ValueError(f"{place!r} names no cell: expected <study>/<cell>, such as reference/mini-wmt-high")
    return load_study(study, root).cell(cell)


@lru_cache(maxsize=64)
def _read_metrics(path: Path, _written: int) -> CellMetrics:
    return read_metrics(read_json(path)["metrics"])


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
