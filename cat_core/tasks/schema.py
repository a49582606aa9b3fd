"""Files that people write: read (YAML), checked (pydantic), and complained of in one clear line for each problem."""

import difflib
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError
from yaml import MarkedYAMLError

LARGEST, MOST_ENTRIES, DEEPEST, LONGEST_NUMBER = 200_000, 10_000, 40, 1_000
"""Of a YAML file: bytes, values with every alias written out, brackets in one another, characters of a number. Our
largest file has 4 KB."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_EXPECTED = {  # by the first word of what pydantic calls a fault; all numbers in our files are amounts
    "string": "a text (in quotes)", "invalid": "a text (in quotes)", "list": "a list", "tuple": "a list",
    "bool": "true or false", "dict": "a mapping of keys to values", "model": "a mapping of keys to values",
    "float": "a number >= 0", "greater": "a number >= 0",
}  # fmt: skip


class SchemaError(ValueError):
    """A file that cannot be taken as it stands; one line for each problem."""


class FileModel(BaseModel):
    """Base of the models of files: unknown keys are refused, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def matching(pattern: str | re.Pattern, expected: str) -> Any:
    """Annotation of a text that the pattern matches whole; where it does not, the error says what was `expected`."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"expected {expected}")
        return value

    return Annotated[str, PlainValidator(check)]


def nearest(given: object, known: Iterable[object]) -> str:
    """End of an error message: "; did you mean 'x'?", or else "; known: x, y"."""
    known = list(map(str, known))
    if close := difflib.get_close_matches(str(given), known, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; there are none"


def brief(value: object) -> str:
    """The value as an error message shows it: one line, at most 120 characters."""
    text = ""
    for piece in _pieces(value):  # of a value that is huge written out, no more than is shown
        text += piece
        if len(text) > 120:
            return f"{text[:117]}..."
    return text


def _pieces(value: object) -> Iterator[str]:
    """`repr` of plain data, piece by piece."""
    if isinstance(value, str | bytes):
        yield repr(value[:121])[: None if len(value) <= 121 else -1]
    elif type(value) is dict:
        for number, (key, entry) in enumerate(value.items()):
            yield ", " if number else "{"
            yield from _pieces(key)
            yield ": "
            yield from _pieces(entry)
        yield "}" if value else "{}"
    elif type(value) in (list, tuple):
        yield "(["[type(value) is list]
        for number, entry in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(entry)
        yield "]" if type(value) is list else ",)" if len(value) == 1 else ")"
    else:
        yield repr(value)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, as YAML would silently keep the last one, and what unfolds into too much."""

    composed = 0

    def fetch_flow_collection_start(self, kind):
        if self.flow_level == DEEPEST:
            raise MarkedYAMLError(problem=f"brackets more than {DEEPEST} deep", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent, index):
        self.composed += 1
        if self.composed > MOST_ENTRIES:
            raise MarkedYAMLError(problem=f"more than {MOST_ENTRIES:,} values", problem_mark=self.get_mark())
        return super().compose_node(parent, index)

    def get_single_node(self):
        root = super().get_single_node()
        if root is not None and _entries(root, {}) > MOST_ENTRIES:
            raise MarkedYAMLError(problem=f"more than {MOST_ENTRIES:,} values once every alias (*) is written out")
        return root

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:merge":  # <<: *anchor, whose keys may be given again
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, Hashable):
                    raise MarkedYAMLError(problem=f"{brief(key)} is no key", problem_mark=key_node.start_mark)
                if key in seen:
                    raise MarkedYAMLError(problem=f"{brief(key)} is given twice", problem_mark=key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.Node) -> int | float:
    """A number of YAML, which may be written with the base 60: 1:30:00."""
    if len(node.value) > LONGEST_NUMBER:
        problem = f"a number of more than {LONGEST_NUMBER:,} characters"
        raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return getattr(loader, f"construct_yaml_{node.tag.rpartition(':')[2]}")(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def _entries(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds with every alias written out; `known`: by node, so each is looked at once."""
    if id(node) not in known:
        known[id(node)] = MOST_ENTRIES + 1  # until it is known: a node inside itself has no end
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        known[id(node)] = 1 + sum(_entries(part, known) for part in parts)
    return known[id(node)]


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file of at most `LARGEST` bytes, and `MOST_ENTRIES` values once aliases are written out.

    Raises SchemaError that names the file, and the line if there is one.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise SchemaError(f"{path.name}: {path.stat().st_size:,} bytes, expected at most {LARGEST:,}: split it")
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except SchemaError:
        raise
    except UnicodeDecodeError:
        raise SchemaError(f"{path.name}: not UTF-8: save it as UTF-8") from None
    except RecursionError:
        raise SchemaError(f"{path.name}: nested too deeply: write it flatter") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())[:160]
        raise SchemaError(f"{path.name}{where}: not valid YAML: {problem}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # the 13th month
        raise SchemaError(f"{path.name}: a value cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise SchemaError(f"{path.name}: expected a mapping of keys to values, got {brief(content)}")
    return content


def read_file(model: type[FileModel], path: Path) -> Any:
    """The YAML file as a checked `model`. Raises SchemaError with up to five problems in its one line."""
    content = check(model, read_yaml(path), [path.name], problems := [])
    if problems:
        raise SchemaError("; ".join(problems[:5]))
    return content


def check(model: type[FileModel], content: object, where: list[str], problems: list[str]) -> Any:
    """The content of a file, or of a place in it, as a `model`; where: the file, and the keys that lead to the place.

    Every fault adds a line to `problems`. What comes back then holds the sound keys, just as they were given, and is
    good for finding further problems only.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    problems += [_line(model, fault, where) for fault in faults]
    given = content if isinstance(content, dict) else {}
    sound = model.model_fields.keys() - {fault["loc"][0] for fault in faults if fault["loc"]}
    return model.model_construct(**{key: given[key] for key in sound if key in given})


def _line(model: Any, fault: dict, where: list[str]) -> str:
    """A fault that pydantic found as a line: where it is, what was given, what was expected."""
    kind, loc, given = fault["type"], [*fault["loc"]], fault["input"]
    is_key = kind == "invalid_key" or "[key]" in loc[-1:]
    loc = loc[:-1] if "[key]" in loc[-1:] else loc
    path = [f"item {part + 1}" if isinstance(part, int) else " ".join(str(part).split())[:60] for part in where + loc]
    place, name = ": ".join(path[:-1]), path[-1] if path[-1].startswith("item ") else repr(path[-1])
    if kind == "missing":
        return f"{place}: {name} is missing"
    if kind == "extra_forbidden":
        for part in loc[:-1]:  # to the model that has the key
            model = model.model_fields[part].annotation if hasattr(model, "model_fields") else get_args(model)[-1]
        return f"{place}: unknown key {brief(loc[-1])}{nearest(loc[-1], model.model_fields)}"
    note = f", expected {_EXPECTED.get(kind.partition('_')[0], fault['msg'])}"
    if kind == "literal_error":
        note = nearest(given, re.findall(r"'(.*?)'", fault["ctx"]["expected"]))
    elif kind == "value_error":
        note = f", {fault['ctx']['error']}"
        if not note.startswith(", expected "):  # a sentence of its own
            return f"{': '.join(path)}: {note[2:]}"
    return f"{place}: {'a key' if is_key else name} is {brief(given)}{note}"
