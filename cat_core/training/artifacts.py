"""Content-addressed artifacts: made once, found again by what they were made from, whole or not there.

An artifact is a folder `<kind>-<digest>` under `papermill_runs/artifacts`; the digest covers the configuration (with
the digests of whatever it builds on) and the source of the modules that make it, so a changed plot retrains nothing
and a changed loss does. One process makes it, others wait for the lock; a crash leaves `<kind>-<digest>.partial`, which
the next attempt continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from cat_core.files import PROJECT, file_sha256, seal, write_text
from cat_core.training.code import code_digests

RECORD = "artifact.json"
_code = lru_cache(code_digests)  # once a process: what it has loaded decides, not what is written to files meanwhile


def root() -> Path:
    """Where artifacts live: `CAT_ARTIFACTS`, else `papermill_runs/artifacts` of the project (or working folder)."""
    if os.environ.get("CAT_ARTIFACTS"):
        return Path(os.environ["CAT_ARTIFACTS"]).expanduser().resolve()
    base = PROJECT if (PROJECT / "pyproject.toml").is_file() else Path.cwd()
    return base / "papermill_runs" / "artifacts"


def digest(config: dict, modules: tuple[str, ...]) -> str:
    """sha256 (16 hex digits) of a JSON-able configuration and of the code of modules (`code.code_digests`)."""
    text = json.dumps({"config": config, "modules": _code(modules)}, sort_keys=True, default=_plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def obtain(kind: str, config: dict, modules: tuple[str, ...], make: Callable[[Path], dict | None]) -> Path:
    """The folder of the artifact, made by `make(partial folder)` when it is not there yet.

    `make` may find the folder of an interrupted attempt and continue it; what it returns is kept as "result" in
    `artifact.json` beside the configuration. A damaged artifact is named in a warning and made again. ValueError in one
    of several processes that train together, as they would wait for one another for ever.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError(
            f"artifact {kind!r}: this is one of {os.environ['WORLD_SIZE']} processes that were launched together, and "
            "artifacts are made by one; call `train.train` in a script of your own, or start each process by itself"
        )
    name = f"{kind}-{digest(config, modules)}"
    folder = root() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        if folder.exists():
            fault = _fault(folder)
            if fault is None:
                return folder
            warnings.warn(f"artifact {folder} is damaged ({fault}); it is made again", stacklevel=2)
            shutil.rmtree(folder)
        partial = folder.with_name(f"{name}.partial")
        partial.mkdir(exist_ok=True)
        result = make(partial)
        files = {p.relative_to(partial).as_posix(): file_sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()}
        record = {"kind": kind, "config": config, "result": result, "files": files}
        record = json.loads(json.dumps(record, default=_plain))
        write_text(partial / RECORD, json.dumps(record | {"seal": seal(record)}, indent=1))
        os.replace(partial, folder)
    return folder


def find(kind: str, config: dict, modules: tuple[str, ...]) -> Path | None:
    """The folder of a finished artifact, None if it is not there (its bytes are checked when it is obtained)."""
    folder = root() / f"{kind}-{digest(config, modules)}"
    return folder if folder.is_dir() else None


def is_being_made(kind: str, config: dict, modules: tuple[str, ...]) -> bool:
    """Whether another process is at work on it just now."""
    root().mkdir(parents=True, exist_ok=True)
    try:
        FileLock(root() / f"{kind}-{digest(config, modules)}.lock").acquire(timeout=0).lock.release()
    except Timeout:
        return True
    return False


def result(folder: Path) -> dict:
    """What `make` returned when the artifact was made."""
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))["result"]


def _fault(folder: Path) -> str | None:
    """What is wrong with a finished artifact, or None; every byte is checked, as a model is cheap to read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record.pop("seal") != seal(record):
            return f"{RECORD} has changed"
        files = record["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{RECORD} is unreadable: {error}"
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_sha256(folder / name) != expected:
            return f"{name} has changed"
    return None


def _plain(value):
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration; expected JSON values or dataclasses")
