"""New processes that need not import torch, transformers and the library again, which takes seconds of each.

They are forked from a server (`multiprocessing`'s) that has imported these and done nothing else: it has drawn no
random number, run no gradient and touched no GPU, so a script in one of its children begins as it does in a fresh
Python. What is shared is the seed of string hashes: where a test is about two starts of Python, it starts Python.
"""

import multiprocessing
import os
import sys
import traceback
from pathlib import Path

HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if HAS_SERVER else "spawn")
if HAS_SERVER:
    CONTEXT.set_forkserver_preload(
        ["cat_core.studies.command", "cat_core.training.fetch", "cat_core.training.side_by_side"]
    )


def _script(source: str, arguments: list[str], environment: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["script.py", *arguments]
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    try:
        exec(compile(source, "script.py", "exec"), {"__name__": "__main__"})
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def start(source: str, *arguments, output: Path, **environment):
    """A running process (with `pid`, `join`, `exitcode`) of the script; what it prints and complains of is in `output`.

    environment: variables beside those of this process. The working directory is that of this process.
    """
    given = (source, [str(each) for each in arguments], os.environ | environment, str(output))
    process = CONTEXT.Process(target=_script, args=given)
    process.start()
    return process


def run(source: str, *arguments, output: Path, **environment) -> tuple[int, str]:
    """(exit status, negative for a signal; what the script printed)"""
    process = start(source, *arguments, output=output, **environment)
    process.join(300)
    if process.exitcode is None:
        process.kill()
    return process.exitcode, output.read_text() if output.exists() else ""
