"""The work of a study, cut into parts that several processes of one machine do at the same time.

A part makes artifacts (see `artifacts`), so what comes out does not depend on who did which part, in which order, or
how often it was interrupted. What each part took is kept beside the artifacts, and the sum in the record of the cell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from cat_core.methods import METHODS
from cat_core.studies.record import experiment_of, run_cell, write_metrics
from cat_core.studies.study import Cell, JoinedCell, open_cell
from cat_core.training import artifacts
from cat_core.training.experiment import EVALUATED
from cat_core.training.obtain import teacher_of, train_or_load, training_set_of

COSTS = "work.jsonl"
Say = Callable[[str, str], None]  # the name of a cell, and a line about it


@dataclass(frozen=True)
class Part:
    """A part of a cell's work.

    name: of what it makes, by content: what two cells share is done once; place: "study/cell"; action: a key of
    `ACTIONS`; arguments: of the action, after the cell; needs: names of the parts that come before.
    """

    name: str
    place: str
    action: str
    arguments: tuple
    needs: tuple[str, ...]


def parts(cell: Cell) -> list[Part]:
    """The parts of a cell, each after those that it needs; the last one records the cell."""
    experiment, plan = experiment_of(cell), []
    data = experiment.data.load().fingerprint

    def add(action: str, arguments: tuple, needs: Iterable[str], *content) -> str:
        text = json.dumps([action, data, *content])
        name = f"{action} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        plan.append(Part(name, f"{cell.study}/{cell.name}", action, arguments, tuple(dict.fromkeys(needs))))
        return name

    configs = experiment.configs()
    digests = {key: config.digest() for key, config in configs.items()}
    large = {s: add("large", (s, None), (), digests["large", s]) for s in experiment.large_seeds}
    teachers = {s: (name,) for s, name in large.items()}
    if experiment.out_of_fold:
        teachers = {s: [add("large", (s, half), (), digests["large", s], half) for half in (0, 1)] for s in large}
    healed = [add("heal", (), (), experiment.healed.digest())] if experiment.healed else []
    asked, small = {}, {}
    for group in experiment.groups():
        first = [("xent", seed) for method, seed in group if METHODS[method].second_stage]
        # where Xent is not asked for, the part trains it
        before = healed + [small[model] for model in first if model in small]
        for method, seed in group:
            if METHODS[method].compares and (teacher := experiment.large_seed(seed)) not in asked:
                config, kept = configs[method, seed], configs[method, seed].settings
                options = [kept.teacher, kept.teacher_k, kept.temperature, config.out_of_fold]
                asked[teacher] = add("teacher", (method, seed), teachers[teacher], digests["large", teacher], options)
            if METHODS[method].compares:
                before.append(asked[experiment.large_seed(seed)])
        name = add("small", (tuple(group),), before, [digests[model] for model in group])
        small |= dict.fromkeys(group, name)
    answered = {s: add("answers", ("large", s), [large[s]], digests["large", s]) for s in large}
    for method, seed in small:
        its_large = experiment.large_seed(seed)
        needs, pair = (small[method, seed], answered[its_large]), (digests[method, seed], digests["large", its_large])
        answered[method, seed] = add("answers", (method, seed), needs, *pair, method in cell.learned_rules)
    add("record", (), answered.values(), cell.study, cell.name)
    return plan


def run(cells: Sequence[Cell], jobs: int = 1, say: Say | None = None) -> None:
    """Do the work of all cells that are not recorded, in `jobs` processes; what was interrupted goes on.

    Raises ValueError with the reason where a part fails; what other parts have made stays.
    """
    if jobs < 1:
        raise ValueError(f"{jobs} jobs: expected 1 or more")
    # As in the book's driver: batches of ever new lengths fill a larger one.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    todo: dict[str, Part] = {}
    joined = [cell for cell in cells if isinstance(cell, JoinedCell)]
    single = {part.place: part for cell in cells for part in (cell.parts if cell in joined else (cell,))}
    for cell in single.values():
        if cell.record is None:
            todo |= {part.name: part for part in parts(cell) if part.name not in todo}
        elif not (cell.part_of or cell.metrics_path.is_file()):  # it was stopped between its record and its numbers
            write_metrics(cell)
        elif say is not None:
            say(cell.name, f"is recorded in {cell.folder}")
    root = cells[0].folder.parents[2] if cells else None
    _share_out(todo, root, jobs, say)
    for cell in joined:
        write_metrics(open_cell(cell.place, root))


def _share_out(todo: dict[str, Part], root: Path | None, jobs: int, say: Say | None) -> None:
    """Do these parts, each after those that it needs, in `jobs` processes."""
    if jobs == 1:
        for part in todo.values():
            _do(part, root, say)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (threads,))
    try:
        running, done = {}, set()
        while todo or running:
            ready = [part for part in todo.values() if done.issuperset(part.needs)]
            with _ctrl_c_later():  # the first of these starts the workers
                for part in ready[: jobs - len(running)]:
                    running[pool.submit(_do, todo.pop(part.name), root, say)] = part.name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                done.add(running.pop(future))
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            why = f"a process was killed, perhaps for memory: start again with fewer than {jobs} jobs"
            raise ValueError(why) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def costs(cell: Cell) -> dict:
    """What the work of a cell took so far: parts, how many of them were timed, their wall and CPU seconds together.

    Attempts that ended are counted; what an interrupted one took is not, nor are artifacts made by other means.
    """
    names, path, entries = {part.name for part in parts(cell)[:-1]}, artifacts.root() / COSTS, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):  # a line that was cut is a part that is not timed
            entries.append(json.loads(line))
    entries = [entry for entry in entries if entry["part"] in names]
    total = {key: round(sum(entry[key] for entry in entries), 1) for key in ("wall_seconds", "cpu_seconds")}
    return {"parts": len(names), "timed": len({entry["part"] for entry in entries}), **total}


# ---------------------------------------------------------------- actions


def _train_large(cell: Cell, progress, seed: int, half: int | None) -> None:
    config = experiment_of(cell).large_config(seed)
    train_or_load(config if half is None else replace(config, data=replace(config.data, without_half=half)), progress)


def _heal(cell: Cell, progress) -> None:
    train_or_load(experiment_of(cell).healed, progress)


def _ask_teacher(cell: Cell, progress, method: str, seed: int) -> None:
    config = experiment_of(cell).small_config(method, seed)
    teacher_of(config, training_set_of(config), progress)


def _train_small(cell: Cell, progress, group: Sequence[tuple[str, int]]) -> None:
    experiment_of(cell).train_group(group, progress)


def _answer(cell: Cell, progress, method: str, seed: int) -> None:
    experiment = experiment_of(cell)
    config = experiment.configs()[method, seed]
    if cell.queries == "tokens":
        for split in EVALUATED:
            experiment.token_signals(config, split, progress)
        return
    experiment.answers(config, progress)
    experiment.token_signals(config, progress=progress)
    if method in cell.learned_rules:
        experiment.learned_confidences(method, seed, progress)


def _record(cell: Cell, progress) -> None:
    record = run_cell(cell, progress, costs)
    if not cell.part_of:
        write_metrics(cell)
    if progress is not None:
        progress(f"recorded in {cell.folder}; {record['work']['cpu_seconds'] / 3600:.2f} core-hours")


ACTIONS = {
    **{"large": _train_large, "heal": _heal, "teacher": _ask_teacher, "small": _train_small, "answers": _answer},
    "record": _record,
}


# ---------------------------------------------------------------- processes


def _do(part: Part, root: Path, say: Say | None) -> None:
    cell = _cell(part.place, root)
    wall, cpu = time.perf_counter(), time.process_time()
    ACTIONS[part.action](cell, None if say is None else lambda line: say(cell.name, line), *part.arguments)
    took = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    with open(artifacts.root() / COSTS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part.name, **{k: round(v, 2) for k, v in took.items()}}) + "\n")


_cell = lru_cache(open_cell)


@contextlib.contextmanager
def _ctrl_c_later():
    """Ctrl-C waits for the end of the block, and processes that it starts never see one, not even as Python begins."""
    mask = getattr(signal, "pthread_sigmask", None)  # Windows has none
    before = mask(signal.SIG_BLOCK, {signal.SIGINT}) if mask else None
    try:
        yield
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)


def _begin(threads: int) -> None:
    """A worker takes its share of the cores, and ends when the process that started it does, however that ends."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one that started them ends the others

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
