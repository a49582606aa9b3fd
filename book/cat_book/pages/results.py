"""Results as a page reads them: of an experiment that is run now, or of a recorded cell. A page need not know which."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cat_book.drawing import figures
from cat_book.drawing.tables import Table
from cat_core.analysis.claims import ClaimRow
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.further import common_metric
from cat_core.analysis.guards import Guard, blind, guards
from cat_core.curves import Ledger, ledger
from cat_core.studies.cell_claims import deciding
from cat_core.studies.costs import training_examples
from cat_core.studies.record import experiment_of
from cat_core.studies.study import Cell, open_cell
from cat_core.tasks.example import BUILT_IN
from cat_core.tasks.suite import Suite
from cat_core.training.configs import resolve_device
from cat_core.training.experiment import Experiment
from cat_core.training.provenance import git_state, versions


@dataclass(frozen=True)
class Provenance:
    """On what the models were trained, as captions state it: edition (or study and cell), device, threads, commit."""

    edition: str
    device: str
    threads: int
    commit: str
    versions: dict[str, str]

    @classmethod
    def here(cls, edition: str = "", device: str = "auto") -> Provenance:
        """That of this process; `device` as `configs.resolve_device` takes it."""
        resolved = resolve_device(device)
        name = torch.cuda.get_device_name(resolved) if resolved.type == "cuda" else f"CPU ({platform.machine()})"
        software = {"python": platform.python_version(), **versions("torch", "transformers")}
        return cls(
            edition or "none (run by hand)", name, torch.get_num_threads(), _commit(git_state(Path.cwd())), software
        )

    @classmethod
    def of(cls, cell: Cell) -> Provenance:
        """That of a recorded cell."""
        record = cell.record
        if record is None:
            cell.metrics()  # raises, and says what to run
        software = {key: record["versions"][key] for key in ("python", "torch", "transformers")}
        where = f"study {cell.study}, cell {cell.name}"
        return cls(where, record["device"], record["threads"], _commit(record["git"]), software)

    def table(self) -> Table:
        """The provenance as a table."""
        rows = [(name, number) for name, number in self.versions.items()]
        rows += [("device", self.device), ("threads", str(self.threads)), ("cores", str(os.cpu_count()))]
        rows += [("commit", self.commit or "not known"), ("edition", self.edition)]
        note = "A + after the commit: files were changed after it." if self.commit.endswith("+") else ""
        return Table(("", "this run"), rows, "Versions and machine", note)

    def caption(self, text: str, n: int, seeds: Sequence[int], unit: str = "test items") -> str:
        """`text` followed by n, seeds, device, commit and edition."""
        return figures.caption(
            text, n=n, seeds=seeds, device=self.device, commit=self.commit, edition=self.edition, unit=unit
        )


def _commit(state: Mapping) -> str:
    """The first ten characters of a commit, with + where files were changed after it."""
    return (state["commit"] or "")[:10] + "+" * bool(state["commit"] and state.get("dirty"))


@dataclass(frozen=True)
class Results:
    """An experiment and what came of it. cell: the recorded cell; None where it is run now, in `edition`."""

    experiment: Experiment
    provenance: Provenance
    cell: Cell | None = None
    edition: str = ""

    @classmethod
    def of(cls, parameters: Mapping, origin: Provenance) -> Results:
        """By a page's parameters: the cell that `recorded` names, else an experiment of the other ones, run here."""
        if parameters["recorded"]:
            cell = open_cell(parameters["recorded"])
            return cls(experiment_of(cell), Provenance.of(cell), cell)
        return cls(Experiment.from_parameters(parameters), origin, edition=parameters["edition"])

    @cached_property
    def suite(self) -> Suite | None:
        """The data; None for a recorded cell whose data are not built in, as they may not be there."""
        known = self.cell is None or self.cell.config["suite"] in BUILT_IN
        return self.experiment.data.load() if known else None

    @property
    def n_train(self) -> int:
        """Training examples; of a recorded cell without its data at most, as many as were drawn."""
        return len(self.experiment.training_data.load().split("train")) if self.suite else training_examples(self.cell)

    @cached_property
    def frame(self):
        """The outcome table (pandas); what is not trained is trained first, and says how far it is.

        Before that, OutcomeError for tasks whose metrics have nothing in common that methods could be compared by.
        """
        if self.cell:
            return self.cell.outcomes()
        common_metric(*zip(*((e.metric, e.tokenize) for e in self.suite.examples if e.split != "train")))
        return self.experiment.outcomes(self.edition, print)

    def comparison(self, methods: Sequence[str], resamples: int, decisive: bool = False) -> Comparison:
        """Of those of `methods` that there are; a recorded cell has its intervals already.

        decisive: of a recorded cell only the tasks that its claim is decided by, of which all intervals are recorded.
        """
        chosen = tuple(m for m in methods if m in self.experiment.methods)
        drawn = self.cell.kept() if self.cell else {"resamples": resamples}
        c = Comparison(self.frame, self.experiment.large_seed, methods=chosen, **drawn)
        return deciding(self.cell, c) if decisive and self.cell else c

    def logs(self, methods: Sequence[str]) -> dict[tuple[str, int], list[dict]]:
        """Training logs of S by (method, seed)."""
        logs = self.cell.logs() if self.cell else self.experiment.logs()
        return {key: log for key, log in logs.items() if key[0] in methods}

    def guards(self, c: Comparison) -> tuple[Guard, ...]:
        """What keeps a comparison of these results from saying anything."""
        guessing = blind(self.suite) if self.suite else None
        begun = self.experiment.healing_steps > 0
        return guards(c, self.logs(c.methods), self.experiment.normalize, guessing, begun)

    def token_ledger(self, method: str) -> Ledger:
        """The 2x2 ledger over held-out target tokens (teacher forcing), summed over the seeds of S."""
        if self.cell:
            return self.cell.token_ledger(method)
        total, e = np.zeros(4, dtype=int), self.experiment
        for seed in e.seeds:
            configs = e.small_config(method, seed), e.large_config(e.large_seed(seed))
            part = ledger(*(e.token_signals(config).right for config in configs))
            total += (part.both, part.only_small, part.only_large, part.neither)
        return Ledger(*map(int, total))

    def claims(self, claim: str) -> list[ClaimRow]:
        """Recorded rows of a claim; none of an experiment that is run now."""
        return [row for row in self.cell.metrics().claims if row.claim == claim] if self.cell else []

    @property
    def to_publish(self):
        """The outcome table that a page leaves behind: that of now; a recorded one is there already."""
        return None if self.cell else self.frame
