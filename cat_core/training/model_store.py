"""Fetched models: a folder `<owner>--<name>` for each Hub name, whole or not there (`fetch` makes them).

Whoever names a model looks here first, so that one name works with the Hub and without.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cat_core.training import artifacts

ORIGIN = "origin.json"
"""In the folder of a fetched model: where its files came from; no part of what the model is."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def root() -> Path:
    """Where fetched models live: `CAT_MODELS`, else `models` beside the artifacts (`papermill_runs/models`)."""
    if os.environ.get("CAT_MODELS"):
        return Path(os.environ["CAT_MODELS"]).expanduser().resolve()
    return artifacts.root().parent / "models"


def folder_of(name: str) -> Path:
    """Where a model of the Hub lies once it is fetched. Raises ValueError for what is no Hub name."""
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a model on the Hub; expected such as owner/name")
    return root() / name.replace("/", "--")


def local(name: str | Path) -> str:
    """The folder of a fetched model, or `name` as it is: a folder, a file, or what only the Hub may know."""
    name = str(name)
    if Path(name).exists() or not HUB_NAME.fullmatch(name):
        return name
    folder = folder_of(name)
    return str(folder) if (folder / ORIGIN).is_file() else name


def fetch_command(name: str) -> str:
    """The command that fetches a model."""
    return f"python -m cat_core.pairs fetch {name}"
