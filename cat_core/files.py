"""Files: written whole or not at all, digests of their bytes, and finished batches of a long run."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- whole files


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` (its folder is made) to write to: it takes its place if all goes well.

    Until then `path` is what it was; after an error the temporary is gone, and an OSError names `path`: a full disk
    does not say which file was too much. What a kill leaves matches `.*.tmp`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.chmod(0o644)  # some writers make files that their owner alone may read
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_sealed(path: Path, content: dict, *files: Path) -> None:
    """Write `content` as JSON with a digest over itself and over the bytes of `files` beside it; last of all."""
    content = json.loads(json.dumps(content))
    write_text(path, json.dumps(content | {"seal": seal(content, *files)}))


def read_sealed(path: Path, *files: Path) -> dict:
    """What `write_sealed` wrote. ValueError where it, or one of the files, was changed, cut, or is of another run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("seal") == seal(content, *files):
            return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    names = ", ".join(p.name for p in (path, *files))
    raise ValueError(f"{path.parent}: {names} are missing, damaged, or do not belong together: make them again")


def seal(content: dict, *files: Path) -> str:
    """sha256 of a JSON-able content and of the bytes of files that belong to it."""
    text = json.dumps([content, [file_sha256(path) for path in files]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A folder of finished batches. `plan.json` says which run they belong to; each file is whole or absent.

    folder: made if missing; plan: what every stored number depends on, plain JSON. Raises ValueError when the
    folder belongs to another plan.
    """

    def __init__(self, folder: str | Path, plan: dict):
        self.folder = Path(folder)
        self.digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        if path.exists():
            try:
                old_plan = json.loads(path.read_text(encoding="utf-8"))["plan"]
                differing = [key for key in sorted({*old_plan, *plan}) if old_plan.get(key) != plan.get(key)]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error}): delete {self.folder} and run again") from None
            if differing:
                raise ValueError(
                    f"{self.folder} holds another run (different: {', '.join(differing)}): "
                    "give a new folder, or delete this one"
                )
        else:
            write_text(path, json.dumps({"plan": plan}))

    def _path(self, number: int) -> Path:
        return self.folder / f"batch_{number:06d}.json"

    def _seal(self, number: int, records: list) -> str:
        return hashlib.sha256(json.dumps([self.digest, number, records]).encode()).hexdigest()

    def load(self, number: int) -> list | None:
        """The records of a finished batch, or None when it has to be computed."""
        path = self._path(number)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["sha256"] == self._seal(number, content["records"]):
                return content["records"]
            reason = "its checksum does not match"
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"it is unreadable ({error})"
        warnings.warn(f"{path} is computed again: {reason}", stacklevel=2)
        return None

    def save(self, number: int, records: list) -> None:
        """Write one finished batch, whole."""
        write_text(self._path(number), json.dumps({"records": records, "sha256": self._seal(number, records)}))
