"""Registry of tasks: `data/tasks/<name>.yaml` says how rows of a data set on the Hub become examples.

The keys are documented in data/README.md. Templates name fields of a row and nothing else: `{question}`,
`{translation.de}`; `{options}` is the block "OPTIONS:" with one "- " line a choice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cat_core.draws import carve_calibration
from cat_core.sources import hub_rows
from cat_core.tasks import BUILT_IN, METRICS, SPLITS, Example, brief, nearest

# Beside the package in a checkout; an installed package comes without it.
FOLDER = Path(__file__).resolve().parent.parent / "data" / "tasks"

_FIELD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SPLIT_KEYS = ("hub_id", "config", "revision", "split")


@dataclass(frozen=True)
class TaskSpec:
    """One task of the registry, as written in its YAML file (data/README.md has the meaning of every key)."""

    name: str
    hub_id: str
    splits: Mapping[str, object]
    prompt: str
    metric: str
    licence: str
    url: str
    config: str = ""
    revision: str = ""
    options: tuple[str, ...] = ()
    options_field: str = ""
    label: str = ""
    label_names_field: str = ""
    skip_labels: tuple = ()
    target: str = ""
    cluster: str = ""
    citation: str = ""
    note: str = ""
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def load_task(source: str, *, data_root: str | Path = "", seed: int = 0) -> list[Example]:
    """Examples of a registry name (or of a `.yaml` file), in the order of the data."""
    spec = find_task(source)
    examples = [e for split in SPLITS if split in spec.splits for e in _examples(spec, split, data_root)]
    return carve_calibration(examples, seed)


def task_names() -> list[str]:
    """All names of the registry, variants included; empty if there is no registry folder."""
    names = []
    for path in sorted(FOLDER.glob("*.yaml")):
        names += [path.stem, *(f"{path.stem}-{variant}" for variant in read_spec(path).variants)]
    return sorted(names)


def find_task(source: str) -> TaskSpec:
    """The specification behind a registry name or the path of a `.yaml` file."""
    if source.endswith((".yaml", ".yml")):
        return read_spec(Path(source))
    if re.fullmatch(r"[\w.-]+", source) and (FOLDER / f"{source}.yaml").is_file():
        return read_spec(FOLDER / f"{source}.yaml")
    for path in sorted(FOLDER.glob("*.yaml")):
        if source.startswith(f"{path.stem}-"):
            spec = read_spec(path)
            if (variant := source.removeprefix(f"{path.stem}-")) in spec.variants:
                return dataclasses.replace(spec, name=source, splits={**spec.splits, **spec.variants[variant]})
    if not FOLDER.is_dir():
        raise ValueError(
            f"unknown suite {source!r}: the registry data/tasks is not beside the installed package; work "
            f"in a checkout, "
            f"give the path of a .yaml, .jsonl or .jsonl.gz file, or use {' or '.join(BUILT_IN)}"
        )
    raise ValueError(
        f"unknown suite {source!r}{nearest(source, [*BUILT_IN, *task_names()])}; "
        "for your own data give the path of a .jsonl or .jsonl.gz file (schema: data/README.md)"
    )


def read_spec(path: Path) -> TaskSpec:
    """Read and check one YAML file. Raises ValueError naming file and key."""
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: must be a mapping of keys such as hub_id and prompt, got {brief(raw)}")
    known = [f.name for f in dataclasses.fields(TaskSpec) if f.name != "name"]
    for key in raw:
        if key not in known:
            raise ValueError(f"{path}: unknown key {brief(key)}{nearest(key, known)}")
    for key in ("hub_id", "splits", "prompt", "metric", "licence", "url"):
        if not raw.get(key):
            raise ValueError(f"{path}: key {key!r} is missing; every task needs it")
    given = {"name": path.stem} | {key: value for key, value in raw.items() if value is not None}
    for key, value in given.items():
        if key in ("options", "skip_labels"):
            if not isinstance(value, list) or key == "options" and not all(isinstance(o, str) for o in value):
                raise ValueError(f"{path}: {key} must be a list, of texts in quotes for options, got {brief(value)}")
            given[key] = tuple(value)
        elif key not in ("splits", "variants") and not isinstance(value, str):
            raise ValueError(f"{path}: {key} must be text (in quotes), got {brief(value)}")
    spec = TaskSpec(**given)
    _check_spec(spec, str(path))
    return spec


def _check_spec(spec: TaskSpec, path: str) -> None:
    if spec.metric not in METRICS:
        raise ValueError(f"{path}: unknown metric {brief(spec.metric)}{nearest(spec.metric, METRICS)}")
    if spec.metric == "accuracy":
        if bool(spec.options) == bool(spec.options_field) or not spec.label or spec.target:
            raise ValueError(f"{path}: metric 'accuracy' needs label, and one of options and options_field; no target")
    elif not spec.target or spec.options or spec.options_field or spec.label:
        raise ValueError(f"{path}: metric {brief(spec.metric)} needs target; no options, options_field or label")
    if not isinstance(spec.variants, dict):
        raise ValueError(f"{path}: variants must be a mapping of suffix to splits, got {brief(spec.variants)}")
    for owner, splits in (
        ("splits", spec.splits),
        *((f"variant {brief(name)}", s) for name, s in spec.variants.items()),
    ):
        if not isinstance(splits, dict) or not set(splits) <= set(SPLITS):
            raise ValueError(f"{path}: {owner} must map some of {', '.join(SPLITS)} to Hub splits, got {brief(splits)}")
        for value in splits.values():
            inner = value if isinstance(value, dict) else {"split": value}
            if not set(inner) <= set(_SPLIT_KEYS) or not all(isinstance(v, str) and v for v in inner.values()):
                raise ValueError(
                    f"{path}: {owner}: a Hub split is its name, or a mapping of {', '.join(_SPLIT_KEYS)}, "
                    f"got {brief(value)}"
                )
            place = {"hub_id": spec.hub_id, "config": spec.config, "split": ""} | inner
            for key in ("config", "split"):
                if not re.fullmatch(r"[\w.-]*", place[key]) or place[key].startswith("."):
                    raise ValueError(f"{path}: {key} {brief(place[key])} must be a plain name")
            if not place["split"] or not _HUB_ID.fullmatch(place["hub_id"]):
                raise ValueError(f"{path}: {owner}: needs a split and a hub_id such as owner/name, got {brief(place)}")
    if not {"train", "test"} <= set(spec.splits):
        raise ValueError(f"{path}: splits must name train and test; calibration comes out of train if it is left out")
    for key in ("prompt", "target"):
        _template(getattr(spec, key), f"{path}: {key}")
    for option in spec.options:
        _template(option, f"{path}: options")
    for key in ("label", "label_names_field", "options_field", "cluster"):
        if (name := getattr(spec, key)) and not _FIELD.fullmatch(name):
            raise ValueError(f"{path}: {key} {brief(name)} must be the plain name of a field")


def _examples(spec: TaskSpec, split: str, data_root: str | Path) -> list[Example]:
    place = spec.splits[split]
    place = place if isinstance(place, dict) else {"split": place}
    hub_split = place["split"]
    rows = hub_rows(
        place.get("hub_id", spec.hub_id),
        place.get("config", "" if "hub_id" in place else spec.config),
        hub_split,
        revision=place.get("revision", "" if "hub_id" in place else spec.revision),
        data_root=data_root,
    )
    prompt, target = _template(spec.prompt, spec.name), _template(spec.target, spec.name)
    options = [_template(option, spec.name) for option in spec.options]
    result = []
    for index, row in enumerate(rows):
        where = f"task {spec.name!r}, {hub_split} row {index} (counting from 0)"
        if spec.label:
            label = _look_up(row, spec.label, where)
            if label in spec.skip_labels:
                continue
            choices = _choices(spec, options, row, where)
            answer = _answer(spec, label, choices, row, where)
            block = "OPTIONS:\n" + "\n".join(f"- {choice}" for choice in choices)
        else:
            choices, answer, block = (), _fill(target, row, where), None
        cluster = _text(_look_up(row, spec.cluster, where), spec.cluster, where) if spec.cluster else ""
        result.append(
            Example(
                item_id=f"{hub_split}-{index:06d}",
                task=spec.name,
                split=split,
                prompt=_fill(prompt, row, where, block),
                target=answer,
                options=choices,
                metric=spec.metric,
                # A passage is named by its digest, so that no text travels with the outcome table.
                cluster_id=_digest(cluster) if cluster else "",
            )
        )
    return result


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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
        return choices[names.index(label)]
    if isinstance(label, str) and label in choices:
        return label
    if isinstance(label, int) and 0 <= label < len(choices):
        return choices[label]
    raise ValueError(
        f"{where}: label {brief(label)} is outside the options 0 to {len(choices) - 1} "
        f"{brief(list(choices))}; "
        "correct the row, or list the label under skip_labels"
    )


def _template(template: str, where: str) -> list[tuple[str, str]]:
    """Pieces (text, field after it or ""). Only plain names may stand in braces: no attributes or formats."""
    try:
        pieces = [(text, name, spec, conversion) for text, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"{where}: not a template ({error}); write {{{{ and }}}} for braces") from None
    for _, name, spec, conversion in pieces:
        if name is not None and (spec or conversion or not _FIELD.fullmatch(name)):
            raise ValueError(f"{where}: {brief(name)} must be the plain name of a field such as {{translation.de}}")
    return [(text, name or "") for text, name, _, _ in pieces]


def _fill(template: list[tuple[str, str]], row: Mapping, where: str, block: str | None = None) -> str:
    """The template with the row's fields; with a `block`, `{options}` stands for it."""
    pieces = []
    for text, name in template:
        pieces.append(text)
        if name == "options" and block is not None:
            pieces.append(block)
        elif name:
            pieces.append(_text(_look_up(row, name, where), name, where))
    return "".join(pieces)


def _look_up(row: Mapping, name: str, where: str) -> object:
    value: object = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{where}: no field {name!r}; the row has {brief(', '.join(map(str, row)))}")
        value = value[part]
    return value


def _text(value: object, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{where}: field {name!r} must be text or a number, got {brief(value)}")
    return str(value).strip()
