"""One page in a process of its own: papermill with progress reports, for `cat_book.build.runs`.

The driver starts `python -m cat_book.build.page`, writes one line of JSON to its standard input (the job) and
keeps that pipe open as long as it lives. When the pipe closes, however the driver ended, this process kills
its kernel and ends: nothing is left running. Reports go to standard output, one JSON object a line:

    {"cell": 3, "cells": 20}   {"line": "last line printed"}   {"kernel": [pid, ...]}
    {"done": true}  or  {"failed": "cell In [3]: ValueError: ..."}  as the last one
"""

import contextlib
import json
import logging
import os
import re
import signal
import sys
import threading
import time

import psutil
from nbclient.exceptions import DeadKernelError
from papermill import execute_notebook
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def end_processes(pids):
    """Kill processes and everything below them; those that are gone already do not matter."""
    for pid in pids:
        family = []
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            family = [*process.children(recursive=True), process]
        # A kernel leads a process group, which outlives it while anything that it has started still runs.
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()


def _children():
    return [child.pid for child in psutil.Process().children()]


def _end_with_driver():
    """Wait for the driver's end of standard input to close, then take the kernel along."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    end_processes(_children())
    os._exit(1)


def last_line(text):
    """The last line of printed text that says something, without terminal escapes; "" if there is none."""
    lines = [ESCAPES.sub("", line).strip() for line in re.split(r"[\r\n]+", text)]
    shown = ["".join(letter for letter in line if letter.isprintable()) for line in lines if line]
    return shown[-1][:200] if shown else ""


class Reports:
    """Where papermill writes what the notebook prints: passes the last line on, at most twice a second."""

    def __init__(self, stream):
        self._stream = stream
        self._next = 0.0
        self.kernels = []

    def send(self, **report):
        self._stream.write(json.dumps(report) + "\n")
        self._stream.flush()

    def write(self, text):
        line = last_line(text)
        if line and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.5
            self.send(line=line)

    def flush(self):
        self._stream.flush()


def run_page(job, reports):
    """Execute one notebook; None if it ran through, else one line on what went wrong.

    job: `input` and `output` (paths), `parameters`, `cwd`.
    """

    class Engine(NBClientEngine):
        """papermill's own engine, which also says which cell it is at and what its kernel's process is."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            start = nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                if cell_index == 0:
                    reports.kernels = _children()
                    reports.send(kernel=reports.kernels)
                reports.send(cell=cell_index + 1, cells=len(nb_man.nb.cells))
                return start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("cat_core", Engine)
    logging.getLogger("papermill").setLevel(logging.ERROR)

    def execute():
        execute_notebook(
            job["input"], job["output"], job["parameters"], cwd=job["cwd"],
            engine_name="cat_core", kernel_name="python3", language="python", progress_bar=False,
            stdout_file=reports, stderr_file=reports, start_timeout=300, iopub_timeout=120,
        )  # fmt: skip

    try:
        try:
            execute()
        except RuntimeError:
            if reports.kernels:
                raise
            execute()  # the kernel did not start: another one may have taken the port that was meant for it
    except PapermillExecutionError as error:
        message = " ".join(ESCAPES.sub("", str(error.evalue)).split())
        return f"cell In [{error.exec_count}]: {error.ename}: {message[:400]}"
    except DeadKernelError:
        return "the kernel died (out of memory, or killed from outside)"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return None


def main():
    """Read the job, run the page, report."""
    line = b""
    while not line.endswith(b"\n"):  # not beyond the line: what comes after it is read by a thread
        if not (letter := os.read(0, 1)):
            return
        line += letter
    reports = Reports(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # the kernel inherits the log as its output, not the pipe of reports
    threading.Thread(target=_end_with_driver, daemon=True).start()
    failure = run_page(json.loads(line), reports)
    reports.send(**({"failed": failure} if failure else {"done": True}))
    sys.stderr.flush()
    end_processes({*reports.kernels, *_children()})
    os._exit(1 if failure else 0)  # without waiting for the thread that still reads standard input


if __name__ == "__main__":
    main()
