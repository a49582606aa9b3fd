"""Fingerprints: what a page's run depends on, as digests, so that an unchanged page need not run again."""

import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
from pathlib import Path

from cat_book.build.editions import read_notebook, tags
from cat_core.files import file_sha256
from cat_core.training.code import code_digests, imported_modules
from cat_core.training.provenance import RUNS, versions

MAGIC = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)  # what IPython reads and Python does not


def sha256(data):
    """Hexadecimal SHA-256 of bytes, or of the file at a path."""
    return file_sha256(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()


def shared_digests(root):
    """Path -> SHA-256 of the files that all pages may read: data/, assets of drawings, and the records of studies."""
    folders = (root / "data", root / "book" / "cat_book" / "drawing" / "assets")
    files = [path for base in folders for path in base.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += (root / RUNS).glob("studies/*/study.json")  # holds the SHA-256 of the study's tables
    return {path.relative_to(root).as_posix(): sha256(path) for path in sorted(files)}


def data_fingerprints(root, parameters):
    """Value -> fingerprint for parameters (and CAT_DATA_ROOT) that name a file or a folder.

    Of a file it is the contents, of a folder the names, sizes and times of its files. What lies in
    papermill_runs or _build is the book's own product and left out.
    """
    digests, listed = {}, [value if isinstance(value, list) else [value] for value in parameters.values()]
    values = [*itertools.chain(*listed), os.environ.get("CAT_DATA_ROOT")]
    for text in (value for value in values if value and isinstance(value, str)):
        try:
            path = (root / Path(text).expanduser()).resolve()
            products = any(path.is_relative_to(root / own) for own in (RUNS, "_build"))
            if products or root.is_relative_to(path) or not path.exists():
                continue
            if path.is_file():
                digests[text] = sha256(path)
            else:
                files = [(file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
                facts = [(file.relative_to(path).as_posix(), stat.st_size, stat.st_mtime_ns) for file, stat in files]
                digests[text] = sha256(repr(facts).encode())
        except (OSError, ValueError, RuntimeError):
            continue  # a text that is no path on this system
    return digests


def page_digest(root, page, shared):
    """SHA-256 over all that decides what a page's run gives.

    Cells of the notebook (type, source, tags), the code of all that they import from this project, however far away
    (`code.code_digests`), effective parameters, fingerprints of data they name, `shared` (from `shared_digests`), and
    the versions of torch, transformers and Python (minor).
    """
    cells = [[cell["cell_type"], cell["source"], sorted(tags(cell))] for cell in read_notebook(page.path)["cells"]]
    modules = {"cat_book.build.page"}
    for kind, source, _ in cells:
        if kind == "code":
            with contextlib.suppress(SyntaxError):  # no Python, or a mistake that the run will name
                modules |= set(imported_modules(MAGIC.sub(r"\1pass", source), root=root))
    parts = {
        "cells": cells,
        "code": code_digests(sorted(modules), root),
        "parameters": page.effective,
        "data": data_fingerprints(root, page.effective),
        "shared": shared,
        "versions": {"python": list(sys.version_info[:2]), **versions("torch", "transformers")},
    }
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode())
