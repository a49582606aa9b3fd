"""Registry of tasks: `data/tasks/<name>.yaml` says how rows of a data set on the Hub become examples.

The keys are documented in data/README.md. Templates name fields of a row and nothing else: `{question}`,
`{translation.de}`; `{options}` is the block "OPTIONS:" with one "- " line a choice.
"""

import hashlib
import math
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from cat_core.files import PROJECT
from cat_core.tasks.draws import carve_calibration
from cat_core.tasks.example import BUILT_IN, METRICS, SPLITS, Example, options_block
from cat_core.tasks.schema import FileModel, brief, matching, nearest, read_file
from cat_core.tasks.scoring import CORPUS, TOKENIZERS
from cat_core.tasks.sources import hub_rows

# Beside the package in a checkout; an installed package comes without it.
FOLDER = PROJECT / "data" / "tasks"

_FIELD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
Text = matching(r"(?s).+", "a text (in quotes)")
Template = Annotated[Text, AfterValidator(lambda text: _template(text) and text)]
PlainName = matching(r"(?!\.)[\w.-]+", "a plain name (in quotes)")
FieldName = matching(_FIELD, "the plain name of a field")
HubId = matching(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", "a hub_id such as owner/name")


class HubSplit(FileModel):
    """A split on the Hub: its name, or a mapping that names another data set, too."""

    split: PlainName
    hub_id: HubId = ""
    config: PlainName = ""
    revision: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        if isinstance(given, str):
            return {"split": given}
        if not isinstance(given, dict):
            raise ValueError(f"expected the name of a Hub split, or a mapping of {', '.join(cls.model_fields)}")
        return given


Splits = dict[Literal[SPLITS], HubSplit]


class TaskSpec(FileModel):
    """One task of the registry, as written in its YAML file (data/README.md has the meaning of every key)."""

    hub_id: HubId
    splits: Splits
    prompt: Template
    metric: Literal[METRICS]
    licence: Text
    url: Text
    config: PlainName = ""
    revision: Text = ""
    options: list[Template] = []
    options_field: FieldName = ""
    label: FieldName = ""
    label_names_field: FieldName = ""
    skip_labels: list = []
    target: Template = ""
    references_field: FieldName = ""
    tokenize: Literal[TOKENIZERS] = ""
    cluster: FieldName = ""
    citation: str = ""
    note: str = ""
    variants: dict[str, Splits] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: dict) -> dict:
        return {key: value for key, value in given.items() if value is not None or key not in cls.model_fields}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.metric == "accuracy":
            given = self.target or self.references_field
            if bool(self.options) == bool(self.options_field) or not self.label or given:
                raise ValueError("metric 'accuracy' needs label, and one of options and options_field; no target")
        elif not (self.target or self.references_field) or self.options or self.options_field or self.label:
            raise ValueError(
                f"metric {self.metric!r} needs target or references_field; no options, options_field or label"
            )
        if self.tokenize and self.metric not in CORPUS:
            raise ValueError(f"tokenize is BLEU's: metric {self.metric!r} has none")
        if not {"train", "test"} <= self.splits.keys():
            raise ValueError("splits must name train and test; calibration comes out of train if it is left out")
        return self


def load_task(source: str, *, data_root: str | Path = "", seed: int = 0) -> list[Example]:
    """Examples of a registry name (or of a `.yaml` file), in the order of the data."""
    name, spec = find_task(source)
    examples = [e for split in SPLITS if split in spec.splits for e in _examples(name, spec, split, data_root)]
    return carve_calibration(examples, seed)


def task_names() -> list[str]:
    """All names of the registry, variants included; empty if there is no registry folder."""
    names = []
    for path in sorted(FOLDER.glob("*.yaml")):
        names += [path.stem, *(f"{path.stem}-{variant}" for variant in read_spec(path).variants)]
    return sorted(names)


def find_task(source: str) -> tuple[str, TaskSpec]:
    """Name and specification behind a registry name or the path of a `.yaml` file."""
    if source.endswith((".yaml", ".yml")):
        return Path(source).stem, read_spec(Path(source))
    if re.fullmatch(r"[\w.-]+", source) and (FOLDER / f"{source}.yaml").is_file():
        return source, read_spec(FOLDER / f"{source}.yaml")
    for path in sorted(FOLDER.glob("*.yaml")):
        if source.startswith(f"{path.stem}-"):
            spec = read_spec(path)
            if (variant := source.removeprefix(f"{path.stem}-")) in spec.variants:
                return source, spec.model_copy(update={"splits": spec.splits | spec.variants[variant]})
    if not FOLDER.is_dir():
        raise ValueError(
            f"unknown suite {source!r}: the registry data/tasks is not beside the installed package; work in a "
            f"checkout, give the path of a .yaml, .jsonl or .jsonl.gz file, or use {' or '.join(BUILT_IN)}"
        )
    raise ValueError(
        f"unknown suite {source!r}{nearest(source, [*BUILT_IN, *task_names()])}; "
        "for your own data give the path of a .jsonl or .jsonl.gz file (schema: data/README.md)"
    )


def read_spec(path: Path) -> TaskSpec:
    """Read and check one YAML file. Raises ValueError naming file and key."""
    try:
        return read_file(TaskSpec, path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})") from None


def _examples(name: str, spec: TaskSpec, split: str, data_root: str | Path) -> list[Example]:
    place = spec.splits[split]
    own = place if place.hub_id else spec  # a split of another data set has nothing of this one's
    revision = place.revision or own.revision
    rows = hub_rows(own.hub_id, place.config or own.config, place.split, revision=revision, data_root=data_root)
    prompt, target, *options = map(_template, (spec.prompt, spec.target, *spec.options))
    result = []
    for index, row in enumerate(rows):
        where = f"task {name!r}, {place.split} row {index} (counting from 0)"
        references = _references(spec, row, where)
        if spec.label:
            label = _look_up(row, spec.label, where)
            if label in spec.skip_labels:
                continue
            choices = _choices(spec, options, row, where)
            answer = _answer(spec, label, choices, row, where)
            block = options_block(choices)
        else:
            choices, block = (), None
            answer = _fill(target, row, where) if spec.target else references[0]
        cluster = _text(_look_up(row, spec.cluster, where), spec.cluster, where) if spec.cluster else ""
        # A passage is named by its digest, so that no text travels with the outcome table.
        cluster_id = hashlib.sha256(cluster.encode("utf-8", "surrogatepass")).hexdigest()[:16] if cluster else ""
        item_id, asked = f"{place.split}-{index:06d}", _fill(prompt, row, where, block)
        further = tuple(text for text in dict.fromkeys(references) if text != answer)
        fields = (item_id, name, split, asked, answer, choices, spec.metric, cluster_id, further, spec.tokenize)
        result.append(Example(*fields))
    return result


def _references(spec: TaskSpec, row: Mapping, where: str) -> list[str]:
    """All right answers that the row lists; none where the task has no such field."""
    if not spec.references_field:
        return []
    values = _look_up(row, spec.references_field, where)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where}: field {spec.references_field!r} must be a list of texts, got {brief(values)}")
    return [_text(value, spec.references_field, where) for value in values]


def _choices(spec: TaskSpec, options: list, row: Mapping, where: str) -> tuple[str, ...]:
    if not spec.options_field:
        return tuple(_fill(option, row, where) for option in options)
    values = _look_up(row, spec.options_field, where)
    if not isinstance(values, list):
        raise ValueError(f"{where}: field {spec.options_field!r} must be a list of options, got {brief(values)}")
    return tuple(_text(value, spec.options_field, where) for value in values)


def _answer(spec: TaskSpec, label: object, choices: tuple[str, ...], row: Mapping, where: str) -> str:
    if spec.label_names_field:
        names = _look_up(row, spec.label_names_field, where)
        if not isinstance(names, list) or len(names) != len(choices) or label not in names:
            raise ValueError(
                f"{where}: label {brief(label)} is not in field {spec.label_names_field!r}, "
                f"which must name {len(choices)} options: {brief(names)}"
            )
        label = names.index(label)
    if isinstance(label, str) and label in choices:
        return label
    if isinstance(label, int) and 0 <= label < len(choices):
        return choices[label]
    raise ValueError(
        f"{where}: label {brief(label)} is outside the options 0 to {len(choices) - 1} {brief(list(choices))}; "
        "correct the row, or list the label under skip_labels"
    )


def _template(template: str) -> list[tuple[str, str]]:
    """Pieces (text, field after it or ""). Only plain names may stand in braces: no attributes or formats."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a template ({error}); write {{{{ and }}}} for braces") from None
    for _, name, spec, conversion in pieces:
        if name is not None and (spec or conversion or not _FIELD.fullmatch(name)):
            raise ValueError(f"{brief(name)} must be the plain name of a field such as {{translation.de}}")
    return [(text, name or "") for text, name, _, _ in pieces]


def _fill(template: list[tuple[str, str]], row: Mapping, where: str, block: str | None = None) -> str:
    """The template with the row's fields; with a `block`, `{options}` stands for it."""

    def value(name: str) -> str:
        return block if name == "options" and block is not None else _text(_look_up(row, name, where), name, where)

    return "".join(text + (value(name) if name else "") for text, name in template)


def _look_up(row: Mapping, name: str, where: str) -> object:
    value: object = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{where}: no field {name!r}; the row has {brief(', '.join(map(str, row)))}")
        value = value[part]
    return value


def _text(value: object, name: str, where: str) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf  # and no NaN
    if not number and not isinstance(value, str):
        raise ValueError(f"{where}: field {name!r} must be text or a number, got {brief(value)}")
    return str(value).strip()
