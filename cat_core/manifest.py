"""The manifest of an edition, papermill_runs/<edition>/manifest.json: what was run, how, and on what.

`pages` holds the last complete run of each page, `unfinished` what has been started or has failed since. The
file is replaced as a whole after every event, so it can be read at any moment.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime

from cat_core.editions import RUNS, EditionError
from cat_core.fingerprints import data_fingerprints, sha256, versions

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "numpy",
    "pandas",
    "pyarrow",
    "sacrebleu",
    "matplotlib",
    "papermill",
    "nbclient",
    "ipykernel",
    "jupyter-book",
)
TABLES = (".parquet", ".csv", ".json", ".jsonl")


def now():
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def read_manifest(root, name):
    """The manifest of edition `name`; an empty one if there is none yet."""
    path = root / RUNS / name / "manifest.json"
    if not path.exists():
        return {"edition": name, "pages": {}, "unfinished": {}}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest["pages"], dict) and isinstance(manifest["unfinished"], dict):
            return manifest
    except (ValueError, KeyError, TypeError):
        pass
    raise EditionError(f"{path.relative_to(root).as_posix()} cannot be read: remove it to run its pages anew")


def write_manifest(root, name, manifest):
    """Replace the manifest of edition `name` as a whole."""
    folder = root / RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "manifest.json")


def git_state(root):
    """{"commit": ..., "dirty": ...}; both None outside a repository. Results of runs do not make it dirty."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        status = _git(root, "status", "--porcelain", "--", ".", f":(exclude){RUNS}")
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(status.strip())}


def tracked_files(root):
    """Resolved paths of all files under papermill_runs that git tracks; none outside a repository."""
    try:
        names = _git(root, "ls-files", "-z", "--", RUNS).split("\0")
    except (OSError, subprocess.SubprocessError):
        return set()
    return {(root / name).resolve() for name in names if name}


def _git(root, *arguments):
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def device():
    """Names of the CUDA devices that torch sees, or "cpu".

    Asked in another process and only where there is an NVIDIA driver, because importing torch takes seconds.
    """
    if not shutil.which("nvidia-smi"):
        return "cpu"
    code = "import torch; c = torch.cuda; print(', '.join(map(c.get_device_name, range(c.device_count()))))"
    try:
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return answer.stdout.strip() or "cpu"


def machine(root, cores):
    """What all pages of one run have in common: commit, versions, machine."""
    return {
        "git": git_state(root),
        "versions": {"python": platform.python_version(), **versions(*PACKAGES)},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "device": device(),
        "cores": cores,
    }


def tables(root, folder, page):
    """Path -> SHA-256 of the tables that a page has left in papermill_runs/<folder>.

    They are data files with the page's name, number or not, at the start of their own or a folder's name.
    """
    output, found = root / RUNS / folder, {}
    names = (page, page.partition("_")[2] if page[:1].isdigit() else page)
    for path in sorted(output.rglob("*")):
        parts = path.relative_to(output).parts
        if path.suffix in TABLES and path.is_file() and any(part.startswith(names) for part in parts):
            found["/".join(parts)] = sha256(path)
    return found


def finished_entry(root, edition, page, *, digest, copy, common, threads, started, wall_seconds):
    """What the manifest says of a page that has run through."""
    parameters = page.effective
    return {
        "digest": digest,
        "copy_sha256": sha256(copy),
        "parameters": parameters,
        "seeds": {name: value for name, value in parameters.items() if name in ("seed", "seeds")},
        **common,
        "threads": threads,
        "started": started,
        "finished": now(),
        "wall_seconds": round(wall_seconds, 1),
        "data": data_fingerprints(root, parameters),
        "tables": tables(root, edition.name, page.name),
    }


def has_run(root, name, manifest, page):
    """True if the executed copy of a page is there and is the one the manifest speaks of."""
    entry = manifest["pages"].get(page)
    copy = root / RUNS / name / f"{page}.ipynb"
    return bool(entry) and copy.is_file() and sha256(copy) == entry.get("copy_sha256")


def page_state(root, name, manifest, page, digest):
    """One of up to date, out of date, not run, interrupted, "failed: why"; `digest` is that of now."""
    unfinished = manifest["unfinished"].get(page)
    if has_run(root, name, manifest, page) and manifest["pages"][page].get("digest") == digest:
        return "up to date"
    if unfinished and unfinished.get("digest") == digest:
        return f"failed: {unfinished['error']}" if unfinished.get("error") else "interrupted"
    return "out of date" if has_run(root, name, manifest, page) else "not run"
