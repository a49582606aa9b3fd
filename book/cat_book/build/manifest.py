"""The manifest of an edition, papermill_runs/<edition>/manifest.json: what was run, how, and on what.

`pages` holds the last complete run of each page, `unfinished` what has been started or has failed since. The
file is replaced as a whole after every event, so it can be read at any moment.
"""

import json
import platform
from datetime import UTC, datetime

from cat_book.build.editions import EditionError
from cat_book.build.fingerprints import data_fingerprints, sha256
from cat_core.files import write_text
from cat_core.training.provenance import RUNS, device, git_state, versions

PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy", "pandas", "pyarrow", "sacrebleu", "babel",
    "matplotlib", "papermill", "nbclient", "ipykernel", "jupyter-book",
)  # fmt: skip
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
    write_text(root / RUNS / name / "manifest.json", json.dumps(manifest, indent=1, default=str) + "\n")


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
    output, digests = root / RUNS / folder, {}
    names = (page, page.partition("_")[2] if page[:1].isdigit() else page)
    for path in sorted(output.rglob("*")):
        parts = path.relative_to(output).parts
        if path.suffix in TABLES and path.is_file() and any(part.startswith(names) for part in parts):
            digests["/".join(parts)] = sha256(path)
    return digests


def finished_entry(root, name, page, copy, begun, common, wall_seconds):
    """What the manifest of edition `name` says of a page that has run through.

    copy: path of the executed notebook; begun: digest, threads and time of the start; common: from `machine`.
    """
    parameters = page.effective
    return {
        "digest": begun["digest"],
        "copy_sha256": sha256(copy),
        "parameters": parameters,
        "seeds": {name: value for name, value in parameters.items() if name in ("seed", "seeds")},
        **common,
        "threads": begun["threads"],
        "started": begun["started"],
        "finished": now(),
        "wall_seconds": round(wall_seconds, 1),
        "data": data_fingerprints(root, parameters),
        "tables": tables(root, name, page.name),
    }


def has_run(root, name, manifest, page):
    """True if the executed copy of a page is there and is the one the manifest speaks of."""
    entry = manifest["pages"].get(page)
    copy = root / RUNS / name / f"{page}.ipynb"
    return bool(entry) and copy.is_file() and sha256(copy) == entry.get("copy_sha256")


def page_state(root, name, manifest, page, digest):
    """One of up to date, out of date, not run, interrupted, "failed: why"; `digest` is that of now."""
    unfinished, complete = manifest["unfinished"].get(page), has_run(root, name, manifest, page)
    if complete and manifest["pages"][page].get("digest") == digest:
        return "up to date"
    if unfinished and unfinished.get("digest") == digest:
        return f"failed: {unfinished['error']}" if unfinished.get("error") else "interrupted"
    return "out of date" if complete else "not run"
