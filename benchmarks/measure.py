"""What the benchmarks share: clock, memory, on what was measured, the command line, and the file of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from cat_core.artifacts import write_text
from cat_core.fingerprints import versions
from cat_core.manifest import git_state, now

ROOT = Path(__file__).resolve().parents[1]


def seconds(run: Callable[[], object], device: str) -> float:
    """Time of one call: CPU time of the process on a CPU with one thread, else wall time."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


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


def manifest(device: str, dtype: torch.dtype, note: str) -> dict:
    """On what the rows were measured."""
    if device == "cuda":
        processor = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
        processor = names[0].partition(": ")[2] if names else platform.processor()
    one_thread = device == "cpu" and torch.get_num_threads() == 1
    return {
        "git": git_state(ROOT),
        "versions": {"python": platform.python_version(), **versions("torch", "liger-kernel", "cut-cross-entropy")},
        "platform": platform.platform(),
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "dtype": str(dtype).removeprefix("torch."),
        "clock": "CPU time of the process" if one_thread else "wall time",
        "note": note,
    }


def command(benchmark: str, description: str, repeats: int, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a benchmark, with `dtype` and the file `out` (None: nothing is written); threads are set.

    repeats: how often each way runs unless it is given; with --quick twice.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=description)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; written only with --out"
    )
    parser.add_argument("--repeats", type=int, help=f"default {repeats}, with --quick 2")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    parser.add_argument("--note", default="", help="kept with the results, such as what else the machine was doing")
    parser.add_argument("--out", type=Path, help="file of the results")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.dtype = torch.float32 if given.device == "cpu" else torch.bfloat16
    given.repeats = given.repeats or (2 if given.quick else repeats)
    if given.out is None and not given.quick:
        given.out = ROOT / "benchmarks" / "results" / f"{benchmark}-{given.device}.json"
    return given


def write(out: Path | None, about: dict, started: str, results: dict) -> None:
    """Write the results of one run with what they were measured on, whole or not at all."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps({**about, "started": started, "finished": now(), **results}, indent=1) + "\n")
