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
from pathlib import Path

from filelock import FileLock

RECORD = "artifact.json"


def root() -> Path:
    """Where artifacts live: `CAT_ARTIFACTS`, else `papermill_runs/artifacts` of the project (or working folder)."""
    if os.environ.get("CAT_ARTIFACTS"):
        return Path(os.environ["CAT_ARTIFACTS"]).expanduser().resolve()
    project = Path(__file__).resolve().parents[1]
    base = project if (project / "pyproject.toml").is_file() else Path.cwd()
    return base / "papermill_runs" / "artifacts"


def digest(config: dict, modules: tuple[str, ...]) -> str:
    """sha256 (16 hex digits) of a JSON-able configuration and of the source of the named `cat_core` modules."""
    sources = {name: file_sha256(Path(__file__).with_name(f"{name}.py")) for name in modules}
    text = json.dumps({"config": config, "modules": sources}, sort_keys=True, default=_plain, allow_nan=False)
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
        write_text(partial / RECORD, json.dumps(record | {"seal": _seal(record)}, indent=1))
        os.replace(partial, folder)
    return folder


def find(kind: str, config: dict, modules: tuple[str, ...]) -> Path | None:
    """The folder of a finished artifact, None if it is not there (its bytes are checked when it is obtained)."""
    folder = root() / f"{kind}-{digest(config, modules)}"
    return folder if folder.is_dir() else None


def result(folder: Path) -> dict:
    """What `make` returned when the artifact was made."""
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))["result"]


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_sealed(path: Path, content: dict, *files: Path) -> None:
    """Write `content` as JSON with a digest over itself and over the bytes of `files` beside it; last of all."""
    content = json.loads(json.dumps(content))
    write_text(path, json.dumps(content | {"seal": _seal(content, *files)}))


def read_sealed(path: Path, *files: Path) -> dict:
    """What `write_sealed` wrote. ValueError where it, or one of the files, was changed, cut, or is of another run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("seal") == _seal(content, *files):
            return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    names = ", ".join(p.name for p in (path, *files))
    raise ValueError(f"{path.parent}: {names} are missing, damaged, or do not belong together: make them again")


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(folder: Path) -> str | None:
    """What is wrong with a finished artifact, or None; every byte is checked, as a model is cheap to read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record.pop("seal") != _seal(record):
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


def _seal(content: dict, *files: Path) -> str:
    text = json.dumps([content, [file_sha256(path) for path in files]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value):
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration; expected JSON values or dataclasses")
