"""What the benchmarks share: clocks, memory, the machine, the command line, tables, and the file of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cat_book.build.manifest import now
from torch.profiler import ProfilerActivity, profile

from cat_core.files import write_text
from cat_core.training.provenance import git_state, versions

PACKAGES = ("torch", "transformers", "liger-kernel", "cut-cross-entropy")
ROOT = Path(__file__).resolve().parents[1]


def timed(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds of one call: CPU time of the process, and wall time."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.process_time(), time.perf_counter()
    kept = run()  # freed when the clocks have been read
    if device == "cuda":
        torch.cuda.synchronize()
    end = time.process_time(), time.perf_counter()
    del kept
    return end[0] - start[0], end[1] - start[1]


def clock(device: str) -> int:
    """Which of the two times counts: CPU time on a CPU with one thread, else wall time."""
    return 0 if device == "cpu" and torch.get_num_threads() == 1 else 1


def in_turns(ways: dict[str, Callable], rounds: int, device: str) -> dict[str, np.ndarray]:
    """[rounds, 2] times of each way: CPU time and wall time. Every way has run once before."""
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(timed(way, device))
    return {name: np.array(values) for name, values in found.items()}


def speedup(times: np.ndarray, plain: np.ndarray) -> dict:
    """How many times as fast as the plain way one is, round by round [rounds]: median and range."""
    ratios = plain / times
    found = {"seconds": [round(value, 4) for value in times.tolist()], "speedup": statistics.median(ratios)}
    return found | {"speedup_range": [ratios.min(), ratios.max()]}


def check_gradients(name: str, found: list, plain: str, expected: list, dtype: torch.dtype) -> None:
    """ValueError for a way with another gradient than the plain one's, beyond rounding; both lists of tensors."""
    error = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(found, expected))
    if not error < (1e-4 if dtype == torch.float32 else 0.05):
        raise ValueError(f"{name} has another gradient than {plain}: relative difference {error:.1e}")


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Most bytes allocated at once during one call, beyond those that were before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    live = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak


def manifest(given: argparse.Namespace) -> dict:
    """On what the rows are measured."""
    if given.device == "cuda":
        processor = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
        processor = names[0].partition(": ")[2] if names else platform.processor()
    return {
        "git": git_state(ROOT),
        "versions": {"python": platform.python_version(), **versions(*PACKAGES)},
        "platform": platform.platform(),
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "dtype": str(given.dtype).removeprefix("torch."),
        "clock": ("CPU time of the process", "wall time")[clock(given.device)],
        "note": given.note,
    }


def command(benchmark: str, description: str, repeats: int, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a benchmark, with `size`, `dtype` and the file `out` (None: nothing is written); threads are set.

    repeats: how often each way runs unless it is given; with --quick twice.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=description)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--quick", action="store_true", help="small sizes, to see that it works; written only with --out")
    add("--dtype", choices=("float32", "bfloat16"), help="default float32 on a CPU, bfloat16 elsewhere")
    add("--cases", default="", help="only those whose text this regular expression finds, such as tokens=1024")
    add("--repeats", type=int, help=f"default {repeats}, with --quick 2")
    add("--threads", type=int, default=1, help="of the CPU (default 1)")
    add("--note", default="", help="kept with the results, such as what else the machine was doing")
    add("--out", type=Path, help="file of the results")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.size = "quick" if given.quick else given.device
    usual = "float32" if given.device == "cpu" else "bfloat16"
    name = f"{benchmark}-{given.device}" + (f"-{given.dtype}" if given.dtype not in (None, usual) else "")
    given.dtype = getattr(torch, given.dtype or usual)
    given.repeats = given.repeats or (2 if given.quick else repeats)
    if given.out is None and not given.quick:
        given.out = ROOT / "benchmarks" / "results" / f"{name}.json"
    return given


def write(out: Path | None, about: dict, started: str, results: dict) -> None:
    """Write the results of one run with what they were measured on, whole or not at all."""
    if out is not None:
        write_text(out, json.dumps({**about, "started": started, "finished": now(), **results}, indent=1) + "\n")


def run(benchmark: str, description: str, repeats: int, arguments: list[str] | None, cases, compare, table: str):
    """A benchmark from its command line on: measure, print the table, write `results`; returns the rows.

    cases: from "cpu", "cuda" or "quick" to cases; compare: from case, device, dtype and repeats to rows.
    """
    given = command(benchmark, description, repeats, arguments)
    start, about, rows = now(), manifest(given), []
    for case in (case for case in cases(given.size) if re.search(given.cases, str(case))):
        rows += compare(case, given.device, given.dtype, given.repeats)
        write(given.out, about, start, {"rows": rows})  # after each case: a later one may be stopped
        say(case)
    print(markdown(table, rows))
    return rows


def say(what: object) -> None:
    """A line of progress."""
    print(f"{now()} {what}", file=sys.stderr, flush=True)


class Cells(string.Formatter):
    """Formats the fields of a row: None is an empty cell, and `!m` turns bytes into MiB."""

    def convert_field(self, value, conversion):
        return value and value / 2**20 if conversion == "m" else super().convert_field(value, conversion)

    def format_field(self, value, form):
        return "" if value is None else super().format_field(value, form)


def markdown(table: str, rows: list[dict]) -> str:
    """Rows as Markdown; table: a line of heads, one of alignments, and one with the cells of a row for `Cells`."""
    *head, cells = table.strip().split("\n")
    return "\n".join([*head, *(Cells().format(cells, **row) for row in rows)])
