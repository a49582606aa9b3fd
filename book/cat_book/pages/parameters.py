"""The parameters that a page was given: checked all together in its first cell of code, before anything is computed.

papermill warns of a name that a page does not have, and runs it all the same; and a value out of range would be found
out by what reads it, after minutes. Here every parameter is looked at by its own name, and one error lists all faults.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path

from cat_core.methods import METHODS
from cat_core.studies.study import open_cell
from cat_core.tasks.schema import brief, nearest
from cat_core.training.configs import parse_size
from cat_core.training.experiment import Experiment

KINDS = {"str": str, "bool": bool, "int": int, "float": (int, float), "list": (list, tuple), "dict": dict}
WORDS = {"str": "a text", "bool": "True or False", "int": "a whole number", "float": "a number", "list": "a list",
         "dict": "a mapping"}  # fmt: skip
INJECTED = "# Parameters"
"""The first line of the cell in which papermill gives its values."""
BASE = {"suite": "mini-superglue", "small": "hidden 8, layers 1, heads 2", "large": "hidden 8, layers 1, heads 2"}
BASE |= {"steps": 1, "large_steps": 1, "learning_rate": 1e-3, "large_learning_rate": 1e-3}
"""A sound experiment, in which each given field is tried by itself; what is not here has a default."""

TOGETHER = (("small", "large", "context", "large_train_layers"), ("train_suite", "train_options"))
"""Fields that are judged with one another."""

POSITIVE = (lambda x: x >= 1, "a whole number >= 1")
SHARE = (lambda x: 0 < x <= 1, "a share above 0 and at most 1")
RATE = (lambda x: 0 < x <= 1, "a learning rate above 0 and at most 1")
METHOD = f"a training method: {', '.join(METHODS)}"
RANGES: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("budget", "keep_rate"), SHARE),
    **dict.fromkeys(("learning_rate", "large_learning_rate", "healing_rate"), RATE),
    **dict.fromkeys(
        ("resamples", "brief_steps", "sentences", "batch", "prompt_tokens", "new_tokens", "long_prompt", "long_answer",
         "queries", "tokens", "hidden", "teacher_hidden", "vocab_size", "context"), POSITIVE,
    ),
    **dict.fromkeys(
        ("references", "studies", "changes", "compared", "like"),
        (lambda x: all(isinstance(name, str) for name in x), "a list of names of studies"),
    ),
    "vocabulary": (lambda x: x >= 8, "a whole number >= 8, as many as are kept of L"),
    "seed": (lambda x: 0 <= x < 2**32, "a whole number from 0 to 2**32 - 1"),
    "methods": (lambda x: x and all(isinstance(m, str) and m in METHODS for m in x), f"a list of {METHOD}"),
    "shift_method": (lambda x: x in METHODS, METHOD),
    "output_dir": (lambda x: x.strip(), "a folder"),
}  # fmt: skip
"""What a parameter of its name may be on every page, and in words; fields of `Experiment` have its rules, too."""


class ParameterError(ValueError):
    """What is wrong with a page's parameters, one line for each; a notebook shows these lines and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"error: {line}" for line in str(self).splitlines()]


def check(namespace: Mapping[str, object], page: str) -> None:
    """Raise `ParameterError` with every fault of a page's parameters; say what an earlier run by hand has left.

    namespace: the page's `globals()`, in which IPython keeps the source of the cells that have run (`In`); page: its
    name, such as "04_superglue".
    """
    sources = [str(source) for source in namespace.get("In", ())]
    kinds = declared(sources)
    problems = list(_unknown(sources, kinds))
    left_out = {name for name, value in _values(sources) if value is None}
    for name, kind in kinds.items():
        if namespace[name] is not None or name not in left_out:  # None where it may be
            problems += _problem(name, kind, namespace[name])
    named = {problem.partition(" ")[0] for problem in problems}
    if "suite" in kinds and "methods" in kinds:  # the page makes an experiment
        problems += _of_experiment({name: namespace[name] for name in kinds}, named)
    elif not named & {"small", "large", "context"}:
        problems += [p for side in ("small", "large") if side in kinds for p in _size(namespace, side)]
    if recorded := namespace.get("recorded") if "recorded" in kinds and "recorded" not in named else "":
        problems += _recorded(recorded)
    if problems:
        raise ParameterError("\n".join(problems))
    if not namespace.get("edition"):
        _say_what_is_there(Path(str(namespace["output_dir"])), page)


def declared(sources: list[str]) -> dict[str, str]:
    """Name -> annotation of what cells declare as `name: type = value`; the cell of papermill's values does not."""
    found = {}
    for statement in (s for source in sources for s in _statements(source)):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            kind = ast.unparse(statement.annotation)
            if kind in KINDS:
                found[statement.target.id] = kind
    return found


def _values(sources: list[str]) -> Iterator[tuple[str, object]]:
    """(name, value) of what cells declare with a constant."""
    for statement in (s for source in sources for s in _statements(source)):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Constant):
            yield ast.unparse(statement.target), statement.value.value


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell that failed
        return []


def _unknown(sources: list[str], kinds: Mapping[str, str]) -> Iterator[str]:
    """Names among papermill's values that the page does not declare."""
    injected = [source for source in sources if source.startswith(INJECTED)]
    for statement in _statements(injected[-1]) if injected else ():
        for target in getattr(statement, "targets", ()):
            if isinstance(target, ast.Name) and target.id not in kinds:
                yield f"{target.id} is no parameter of this page{nearest(target.id, kinds)}"


def _problem(name: str, kind: str, value: object) -> list[str]:
    """What is wrong with the type of a value, or with its size where `RANGES` knows the name."""
    fits = isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not fits:
        return [f"{name} is {brief(value)}; expected {WORDS[kind]}{_by_papermill(name, kind, value)}"]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{name} is {value}; expected a finite number"]
    within, words = RANGES.get(name, (lambda x: True, ""))
    return [] if within(value) else [f"{name} is {brief(value)}; expected {words}"]


def _by_papermill(name: str, kind: str, value: object) -> str:
    """How papermill is given such a value, where its `-p` gave another one."""
    text = " ".join(str(value).split())
    text = text if len(text) <= 40 else "..."
    if kind == "list":
        return f': with papermill write -y "{name}: [{text}]"'
    if kind == "dict":
        return f': with papermill write -y "{name}: {{key: value}}"'
    return f": with papermill write -r {name} {text}" if kind == "str" and isinstance(value, int | float) else ""


def _of_experiment(given: Mapping[str, object], named: set[str]) -> list[str]:
    """What `Experiment` refuses: of each field by itself, else of all together. named: fields complained of already."""
    names = [f.name for f in fields(Experiment) if f.metadata["page"] and f.name in given]
    judged = {name for group in TOGETHER for name in group}
    groups = [*TOGETHER, *((name,) for name in names if name not in judged)]
    problems = []
    for group in groups:
        if not named & set(group):
            problems += _refused(BASE | {name: given[name] for name in group if name in names})
    if problems or named:
        return problems
    return _refused({name: given[name] for name in names})


def _refused(experiment: Mapping[str, object]) -> list[str]:
    try:
        Experiment.of(**experiment)
    except ValueError as error:
        return [" ".join(str(error).split())]
    return []


def _size(namespace: Mapping[str, object], side: str) -> list[str]:
    try:
        parse_size(namespace[side], namespace["context"])
    except ValueError as error:
        return [f"{side}: {error}"]
    return []


def _recorded(place: str) -> list[str]:
    """What keeps a recorded cell from being read."""
    try:
        if (cell := open_cell(place)).record is not None:
            return []
        cell.metrics()  # raises, and says what to run
    except ValueError as error:
        return [f"recorded is {brief(place)}: {error}"]
    return []


def _say_what_is_there(folder: Path, page: str) -> None:
    """Print that the numbers of an earlier run are about to be replaced."""
    earlier = folder / "metrics" / f"{page}.json"
    if earlier.is_file():
        when = datetime.fromtimestamp(earlier.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        print(
            f"Note: {folder.as_posix()} holds what this page gave at {when}, which will be replaced at the end. "
            "To keep both, give this run another folder: -p output_dir papermill_runs/NAME"
        )
