"""Code: digests of modules and of all of this project that they import, so that what they made is known by them."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from cat_core.files import PROJECT

PACKAGES = {"cat_core": "cat_core", "cat_book": "book/cat_book"}
"""The packages of this project, and where they lie in it. What is imported from elsewhere is told apart by version."""


def code_digests(modules: Iterable[str], root: Path = PROJECT) -> dict[str, str]:
    """sha256 of the source of modules, by name, and of all of this project that they import, however far away.

    modules: dotted names such as "cat_core.training.train"; root: the project's folder. Imports are read from the
    syntax trees, those inside functions included, and nothing is imported; a package counts with its `__init__`. So a
    module that was moved, or is new, cannot be forgotten. Raises ValueError for a module that is not there.
    """
    digests, left = {}, [module for name in modules for module in _packages(name)]
    while left:
        name = left.pop()
        if name not in digests:
            path = _source(name, root)
            if path is None:
                raise ValueError(f"no module {name} in {root}: was it moved?")
            text = path.read_bytes()
            digests[name] = hashlib.sha256(text).hexdigest()
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            left += _imported(text.decode(), package, root)
    return dict(sorted(digests.items()))


def imported_modules(source: str, package: str = "", root: Path = PROJECT) -> list[str]:
    """Modules of this project that a Python source imports, and the packages that they lie in.

    package: that of the source itself, for relative imports; root: the project's folder.
    """
    return list(_imported(source, package, root))


@lru_cache(maxsize=1024)
def _imported(source: str, package: str, root: Path) -> tuple[str, ...]:
    names = []
    statements = [entry for entry in ast.parse(source).body if not _is_door(entry)]
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]  # a name may be a module
    modules = (entry for name in names for entry in _packages(name) if _source(entry, root) is not None)
    return tuple(dict.fromkeys(modules))


def _packages(name: str) -> list[str]:
    """A module and the packages that it lies in, outermost first: importing it imports them."""
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _is_door(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`, which importing a module does not run."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"


def _source(name: str, root: Path) -> Path | None:
    """The file of a module or package of this project; None for anything else."""
    top, *rest = name.split(".")
    if top not in PACKAGES:
        return None
    base = (root / PACKAGES[top]).joinpath(*rest)
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file():
            return path
    return None
