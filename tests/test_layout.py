"""Where things live, and which way imports run: read from the syntax trees, nothing is imported."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from cat_core.training.code import code_digests, imported_modules

ROOT = Path(__file__).resolve().parents[1]
CORE = "core"
ROOMS = {
    "shapes": (),
    "core": ("shapes",),
    "tasks": ("core",),
    "analysis": ("core", "tasks"),
    "rules": ("core",),
    "training": ("shapes", "core", "tasks", "analysis", "rules"),
    "engines": ("core", "tasks", "training"),
    "studies": ("core", "tasks", "analysis", "rules", "training"),
    "drawing": ("core", "analysis"),
    "pages": ("core", "tasks", "analysis", "rules", "training", "studies", "drawing"),
    "build": ("core", "tasks", "training"),
}
"""Each room, from the ground up, and those that it may import besides itself."""
DOORS = ("cat_core.study", "cat_core.runs", "cat_core.bootstrap", "cat_core.pairs", "cat_core.cascade")
"""Modules that start a command line from the room that holds it, under `if __name__ == "__main__"`."""
OPTIONAL = {"vllm", "peft", "gguf", "datasets", "pyarrow", "sacrebleu", "tqdm", "tomllib", "rouge_score", "scipy",
            "babel", "sklearn"}  # fmt: skip
"""Packages that may be imported inside a function, as one can do without them (tomllib: where Python is too old)."""
LONGEST = 460


def sources() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for top in (ROOT / "cat_core", ROOT / "book" / "cat_book"):
        for path in sorted(top.rglob("*.py")):
            name = ".".join(path.relative_to(top.parent).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


SOURCES = sources()
CORE_MODULES = [name for name in SOURCES if name.count(".") == 1 and name.startswith("cat_core") and
                SOURCES[name].name != "__init__.py" and name not in DOORS[:4]]  # fmt: skip


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if SOURCES[name].parent.name != "cat_core" and len(parts) > 1 else CORE


def arrows() -> dict[str, set[str]]:
    """Module -> the modules that it imports; packages, which hold a docstring alone, are left out."""
    found = {}
    for name, path in SOURCES.items():
        if path.name == "__init__.py":
            statements = ast.parse(path.read_text(encoding="utf-8")).body
            plain = all(isinstance(s, ast.Expr | ast.Assign) for s in statements)
            assert plain, f"{path}: a package holds its docstring alone"
            continue
        package = name.rpartition(".")[0]
        targets = imported_modules(path.read_text(encoding="utf-8"), package)
        found[name] = {t for t in targets if SOURCES[t].name != "__init__.py"}
    return found


def test_no_arrow_runs_up():
    wrong = [
        f"{name} ({room_of(name)}) imports {target} ({room_of(target)})"
        for name, targets in arrows().items()
        for target in sorted(targets)
        if room_of(target) not in (room_of(name), *ROOMS[room_of(name)])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_no_import_inside_a_function():
    wrong = []
    for name, path in SOURCES.items():
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                        if (module or "").split(".")[0] not in OPTIONAL:
                            wrong.append(f"{name}, line {node.lineno}: import {module}")
    assert not wrong, "\n".join(wrong)


def test_every_room_says_what_it_is():
    for name, path in SOURCES.items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert text and len(text.splitlines()) >= 4, name
            if name.count(".") == 1 or name.startswith("cat_book."):
                modules = [n.rpartition(".")[2] for n in SOURCES if n.rpartition(".")[0] == name]
                missing = [m for m in modules if f"`{m}`" not in text and not text.startswith("Pages")]
                assert "May import:" in text and not missing, f"{name} does not name {missing}"


def test_tests_follow_the_rooms():
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == {*ROOMS, "book"} - {"drawing", "pages", "build"}


def test_no_test_imports_from_a_test():
    """What several tests use is a module beside their folders, or a fixture of conftest."""
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                modules.append(node.module or "")
            if any(part.startswith("test_") for module in modules for part in module.split(".")):
                wrong.append(f"{path.relative_to(ROOT)}, line {node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_modules_are_small():
    long = {n: k for n, p in SOURCES.items() if (k := len(p.read_text(encoding="utf-8").splitlines())) > LONGEST}
    assert not long, f"longer than {LONGEST} lines: {long}"
    core = sum(len(SOURCES[n].read_text(encoding="utf-8").splitlines()) for n in CORE_MODULES)
    assert core <= 3_650, f"the core has {core} lines"


def bare_site(folder: Path) -> None:
    """Links to the installed files of torch, transformers, numpy and what these bring, and to nothing else."""
    found, left = set(), ["torch", "transformers", "numpy"]
    while left:
        name = left.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        if package.name in found:
            continue
        found.add(package.name)
        left += [re.match(r"[\w.-]+", line)[0] for line in package.requires or () if "extra ==" not in line]
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(package.locate_file(top))


def test_the_core_needs_torch_transformers_and_numpy_alone(tmp_path):
    bare_site(tmp_path)
    code = (
        f"import importlib, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        f"for name in {CORE_MODULES}: importlib.import_module(name)\n"
        f"below = {[name for name in SOURCES if room_of(name) == 'shapes']}\n"
        f"rooms = [m for m in sys.modules if m.startswith('cat_core.') and m not in [*{CORE_MODULES}, *below]]\n"
        "try: import pandas\n"
        "except ImportError: print('bare', rooms)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "bare []", done.stdout + done.stderr[-2000:]


def test_digests_follow_a_module_that_moves(tmp_path):
    package = tmp_path / "cat_core"
    (package / "room").mkdir(parents=True)
    for place in (package, package / "room"):
        (place / "__init__.py").write_text('"""Here."""\n')
    (package / "low.py").write_text("x = 1\n")
    (package / "high.py").write_text("def f():\n    from .low import x\n    return x\n")
    first = code_digests(["cat_core.high"], tmp_path)
    assert list(first) == ["cat_core", "cat_core.high", "cat_core.low"]
    (package / "other.py").write_text("y = 1\n")  # nothing imports it
    assert code_digests(["cat_core.high"], tmp_path) == first
    (package / "low.py").write_text("x = 2\n")
    changed = code_digests(["cat_core.high"], tmp_path)
    assert changed["cat_core.low"] != first["cat_core.low"] and changed["cat_core.high"] == first["cat_core.high"]
    (package / "low.py").rename(package / "room" / "low.py")
    (package / "high.py").write_text("from cat_core.room import low\n")
    moved = code_digests(["cat_core.high"], tmp_path)
    assert list(moved) == ["cat_core", "cat_core.high", "cat_core.room", "cat_core.room.low"]
    (package / "room" / "low.py").write_text("x = 3\n")
    assert code_digests(["cat_core.high"], tmp_path)["cat_core.room.low"] != moved["cat_core.room.low"]
    (package / "high.py").write_text('if __name__ == "__main__":\n    from cat_core.other import y\n')
    assert list(code_digests(["cat_core.high"], tmp_path)) == ["cat_core", "cat_core.high"]
    with pytest.raises(ValueError, match="no module cat_core.gone"):
        code_digests(["cat_core.gone"], tmp_path)
