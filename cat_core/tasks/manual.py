"""Suite `python-manual`: running text that every machine has, the documentation inside Python's own installation.

For training on plain text, as in pre-training: an example is a passage of some sentences, its prompt the name of what
it describes. Two sources: the chapters that `help()` shows of the language's reference (`pydoc_data.topics`), and the
docstrings of the standard library, read out of its files (nothing of them is run). The text is that of the Python that
runs, so another version gives other passages.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pydoc_data.topics import topics

from cat_core.tasks.draws import draw_order
from cat_core.tasks.example import Example

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
MOST = 8
"""Passages of one module or chapter that are tested on at most: more of them say little more."""
WIDE = 8
"""Characters a word, of the longest passage: a longer one is a table, or a list of names."""
_BREAK = re.compile(r"(?<=[.!?:])\s+|\n\s*\n")


@dataclass(frozen=True)
class Manual:
    """How many passages each split has, of how many words at most; seed: of the draw. A module or chapter is in one
    split alone."""

    train: int = 6_000
    calibration: int = 200
    test: int = 400
    words: int = 40
    seed: int = 0

    def __post_init__(self):
        for name in ("train", "calibration", "test", "words"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number >= 1")


def manual(config: Manual = Manual()) -> tuple[Example, ...]:
    """The examples of all splits. Raises ValueError where this Python's documentation has too few passages."""
    passages: dict[str, list[tuple[str, str]]] = {}
    for source, name, text in documents():
        passages.setdefault(source, []).extend((name, part) for part in cut(text, config.words))
    order = draw_order(passages, config.seed)
    wanted, examples = {"test": config.test, "calibration": config.calibration, "train": config.train}, []
    for split, count in wanted.items():
        taken = 0
        while taken < count and order:
            source = order.pop()
            chosen = passages[source][: count - taken if split == "train" else min(MOST, count - taken)]
            for number, (name, text) in enumerate(chosen):
                about = {"metric": "exact_match", "cluster_id": source}
                examples.append(Example(f"{split}-{source}-{number:04d}", "manual", split, f"{name}:", text, **about))
            taken += len(chosen)
        if taken < count:
            raise ValueError(f"{split} is {count}, and this Python's documentation has {taken} passages left for it")
    return tuple(examples)


@lru_cache(maxsize=1)
def documents() -> tuple[tuple[str, str, str], ...]:
    """(chapter or module, name of what is described, its text), in order of the names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = (p for p in sorted(library.rglob("*.py")) if not LEFT_OUT & set(p.relative_to(library).parts[:-1]))
    found = [(f"topic-{name}", name, text) for name, text in sorted(topics.items())]
    for path in files:
        module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):  # files that are broken on purpose
            continue
        found += [(module, name, text) for name, text in docstrings(tree, module)]
    return tuple(found)


def docstrings(tree: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of a module, class or function, and of all in it."""
    if text := ast.get_docstring(tree):
        yield name, text
    for part in tree.body:
        if isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from docstrings(part, f"{name}.{part.name}")


def cut(text: str, words: int) -> Iterator[str]:
    """Passages of at most so many words and at least three, of whole sentences but for longer ones; prose alone."""
    return (passage for passage in _cut(text, words) if len(passage) <= WIDE * words)


def _cut(text: str, words: int) -> Iterator[str]:
    passage: list[str] = []
    sentences = (sentence.split() for sentence in _BREAK.split(text))
    for found in (s[k : k + words] for s in sentences for k in range(0, len(s), words)):
        if passage and len(passage) + len(found) > words:
            yield " ".join(passage)
            passage = []
        passage += found
    if len(passage) > 2:
        yield " ".join(passage)
