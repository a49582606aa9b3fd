"""The command line of studies: `python -m cat_core.study`."""

from __future__ import annotations

import argparse
import sys
import time

from cat_core.analysis.verdicts import CLAIMS
from cat_core.methods import METHODS
from cat_core.studies import jobs
from cat_core.studies.record import experiment_of, write_metrics
from cat_core.studies.study import Cell, load_study, study_names


def _say(cell: str, line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {cell}: {line}", flush=True)


def _check(cell: Cell) -> None:
    """A one-line ValueError for data that are not there, and for keys that name what does not exist."""
    tasks = experiment_of(cell).data.load().tasks
    named = {
        "claim_tasks": (cell.claim_tasks, tasks), "generative": (cell.generative, tasks),
        "learned_rules": (cell.learned_rules, METHODS), "claim": ([cell.claim] if cell.claim else [], CLAIMS),
    }  # fmt: skip
    for key, (values, known) in named.items():
        if unknown := [str(value) for value in values if value not in known]:
            problem = f"{key} names {', '.join(unknown)}"
            raise ValueError(f"cell {cell.place}: {problem}; expected some of {', '.join(known)}")
    for key in ("beside", "differs_from"):
        if (place := getattr(cell, key)) and cell.named(place).place == cell.place:
            raise ValueError(f"cell {cell.place}: {key} names the cell itself; expected another one")


def _state(cell: Cell) -> str:
    """Whether a cell is recorded, and what it took, where all its parts were timed."""
    if cell.record is None:
        return "not recorded"
    took = cell.record.get("work") or {}
    timed = took and took["timed"] == took["parts"]
    return f"recorded; {took['cpu_seconds'] / 3600:.2f} core-hours" if timed else "recorded"


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

    try:
        if options.command == "list":
            for name in study_names():
                study = load_study(name)
                print(f"{name}: {study.description}")
                for cell in study.cells.values():
                    print(f"  {cell.name:<28} {_state(cell)}")
            return 0
        study = load_study(options.study)
        cells = [study.cell(name) for name in options.cell] or list(study.whole.values())
        if options.command == "metrics":
            for cell in cells:
                if cell.part_of:
                    raise ValueError(f"cell {cell.place} is a part of {cell.part_of}, which has the metrics of both")
                if cell.record is not None or options.cell:
                    print(write_metrics(cell))
            return 0
        for cell in cells:
            _check(cell)  # what is wrong is refused before hours are spent
        jobs.run(cells, options.jobs, _say)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0
