"""Fingerprints: what a page's run depends on, as digests, so that an unchanged page need not run again."""

import hashlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path

from cat_core.editions import RUNS, read_notebook, tags


def sha256(data):
    """Hexadecimal SHA-256 of bytes, or of the file at a path."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(data).hexdigest()


def versions(*packages):
    """Package -> installed version, without importing anything; packages that are not there are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def library_digests(root):
    """Path -> SHA-256 of what all pages rest on: the library, the files under data/, and the records of studies."""
    library = root / "cat_core" if (root / "cat_core").is_dir() else Path(__file__).resolve().parent
    files = {f"cat_core/{path.name}": path for path in sorted(library.glob("*.py"))}
    for path in sorted((root / "data").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(root).as_posix()] = path
    for path in sorted((root / RUNS).glob("studies/*/study.json")):  # holds the SHA-256 of the study's tables
        files[path.relative_to(root).as_posix()] = path
    return {name: sha256(path) for name, path in files.items()}


def data_fingerprints(root, parameters):
    """Value -> fingerprint for parameters (and CAT_DATA_ROOT) that name a file or a folder.

    Of a file it is the contents, of a folder the names, sizes and times of its files. What lies in
    papermill_runs or _build is the book's own product and left out.
    """
    found = {}
    texts = [value for value in parameters.values() if isinstance(value, str)]
    texts += [
        each for value in parameters.values() if isinstance(value, list) for each in value if isinstance(each, str)
    ]
    texts.append(os.environ.get("CAT_DATA_ROOT", ""))
    for text in filter(None, texts):
        try:
            path = (root / Path(text).expanduser()).resolve()
            products = any(path.is_relative_to(root / own) for own in (RUNS, "_build"))
            if products or root.is_relative_to(path) or not path.exists():
                continue
            if path.is_file():
                found[text] = sha256(path)
            else:
                files = sorted(each for each in path.rglob("*") if each.is_file())
                facts = [
                    (each.relative_to(path).as_posix(), each.stat().st_size, each.stat().st_mtime_ns) for each in files
                ]
                found[text] = sha256(repr(facts).encode())
        except (OSError, ValueError, RuntimeError):
            continue  # a text that is no path on this system
    return found


def page_digest(root, page, shared):
    """SHA-256 over all that decides what a page's run gives.

    Cells of the notebook (type, source, tags), effective parameters, fingerprints of data they name, `shared`
    (from `library_digests`), and the versions of torch, transformers and Python (minor).
    """
    cells = [[cell["cell_type"], cell["source"], sorted(tags(cell))] for cell in read_notebook(page.path)["cells"]]
    parts = {
        "cells": cells,
        "parameters": page.effective,
        "data": data_fingerprints(root, page.effective),
        "shared": shared,
        "versions": {"python": list(sys.version_info[:2]), **versions("torch", "transformers")},
    }
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode())
