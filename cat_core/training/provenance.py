"""Provenance: on what a run was made, as manifests, records and captions state it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from cat_core.files import PROJECT

RUNS = "papermill_runs"


def find_root(start=None):
    """The nearest folder with book/_toc.yml, at `start` (default: the current folder) or above it."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents, PROJECT):
        if (folder / "book" / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(f"no book/_toc.yml in {start} or above: run this from the project's folder")


def versions(*packages):
    """Package -> installed version, without importing anything; packages that are not there are left out."""
    releases = {}
    for package in packages:
        try:
            releases[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return releases


def git_state(root):
    """{"commit": ..., "dirty": ...}; both None outside a repository. Results of runs do not make it dirty."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--", ".", f":(exclude){RUNS}")
    if commit is None or status is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


def tracked_files(root):
    """Resolved paths of all files under papermill_runs that git tracks; none outside a repository."""
    names = _git(root, "ls-files", "-z", "--", RUNS) or ""
    return {(root / name).resolve() for name in names.split("\0") if name}


def _git(root, *arguments):
    return _printed(["git", "-C", str(root), *arguments], 60)


def _printed(command, seconds):
    """What a command prints; None where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def device():
    """Names of the CUDA devices that torch sees, or "cpu".

    Asked in another process and only where there is an NVIDIA driver, because importing torch takes seconds.
    """
    if not shutil.which("nvidia-smi"):
        return "cpu"
    code = "import torch; c = torch.cuda; print(', '.join(map(c.get_device_name, range(c.device_count()))))"
    return (_printed([sys.executable, "-c", code], 120) or "").strip() or "cpu"
