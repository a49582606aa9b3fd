"""Registry of tasks: `data/tasks/<name>.yaml` says how rows of a data set on the Hub become examples.

The keys are documented in data/README.md. Templates name fields of a row and nothing else: `{question}`,
`{translation.de}`; `{options}` is the block "OPTIONS:" with one "- " line a choice. `data/mixtures.yaml` names lists of
tasks; a task of any text is made of another text by "<task>:<text>" (`text_examples`).
"""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from cat_core.files import PROJECT
from cat_core.tasks.draws import carve_calibration, draw_splits
from cat_core.tasks.entries import HubSplit, TaskSpec, Text, pieces
from cat_core.tasks.example import BUILT_IN, FILE_ENDINGS, SPLITS, Example, file_stem
from cat_core.tasks.preprocessing import look_up, preprocessed
from cat_core.tasks.rendering import Renderer
from cat_core.tasks.schema import FileModel, nearest, read_file
from cat_core.tasks.sources import FEWEST_CLUSTERS, Place, folder_of, has_rows, hub_rows, text_rows

# Beside the package in a checkout; an installed package comes without it.
FOLDER = PROJECT / "data" / "tasks"
MIXTURES = PROJECT / "data" / "mixtures.yaml"


class Mixture(FileModel):
    """A name for a list of tasks; a task that ends in "@test" and the like gives that split only."""

    tasks: list[Text]
    note: str = ""


class Mixtures(FileModel):
    """The file of mixtures."""

    mixtures: dict[str, Mixture]


def load_task(
    source: str,
    *,
    data_root: str | Path = "",
    seed: int = 0,
    split: str = "",
    templates: int = 1,
) -> list[Example]:
    """Examples of a registry name (or of a `.yaml` file), in the order of the data.

    split: only that one, and no rows are read that it does not need; templates: of so many of the task's templates
    each item gets one, drawn by the seed.
    """
    if ":" in source and (made := text_task(source)):
        examples = text_examples(*made, data_root=data_root, seed=seed, templates=templates)
        return [e for e in examples if split in ("", e.split)]
    name, spec = find_task(source)
    renderer = Renderer(name, spec, templates=templates, seed=seed)
    examples = []
    for part in needed_splits(spec, split):
        examples += renderer.examples(part, hub_rows(**vars(place_of(spec, part)), data_root=data_root))
    if not split or "calibration" not in spec.splits:
        examples = carve_calibration(examples, seed)
    return [e for e in examples if split in ("", e.split)]


def needed_splits(spec: TaskSpec, split: str = "") -> list[str]:
    """Splits to read for one of them ("": all): without a calibration split of its own, that one comes out of train."""
    carved = split in ("train", "calibration") and "calibration" not in spec.splits
    wanted = SPLITS if not split else ("train",) if carved else (split,)
    return [s for s in SPLITS if s in spec.splits and s in wanted]


def place_of(spec: TaskSpec, split: str) -> Place:
    """Where the rows of a split are."""
    place = spec.splits[split]
    own = place if place.hub_id else spec  # a split of another data set has nothing of this one's
    config, revision = place.config or own.config, place.revision or own.revision
    return Place(own.hub_id, config, place.split, revision, place.loader, place.first)


# ---------------------------------------------------------------- names


def task_names() -> list[str]:
    """All names of the registry, variants included; empty if there is no registry folder."""
    return sorted(name for path in sorted(FOLDER.glob("*.yaml")) for name in _names_in(path.stem, read_spec(path)))


def _names_in(stem: str, spec: TaskSpec) -> list[str]:
    """The tasks of one file; a file without splits of its own has its variants alone."""
    return [stem] * bool(spec.splits) + [f"{stem}-{variant}" for variant in spec.variants]


def find_task(source: str) -> tuple[str, TaskSpec]:
    """Name and specification behind a registry name or the path of a `.yaml` file."""
    if source.endswith((".yaml", ".yml")):
        name, spec = Path(source).stem, read_spec(Path(source))
        return name, _with_splits(name, spec)
    if re.fullmatch(r"[\w.-]+", source) and (FOLDER / f"{source}.yaml").is_file():
        return source, _with_splits(source, read_spec(FOLDER / f"{source}.yaml"))
    for path in sorted(FOLDER.glob("*.yaml")):
        if source.startswith(f"{path.stem}-"):
            spec = read_spec(path)
            if (variant := source.removeprefix(f"{path.stem}-")) in spec.variants:
                return source, spec.variant(variant)
    if not FOLDER.is_dir():
        raise ValueError(
            f"unknown suite {source!r}: the registry data/tasks is not beside the installed package; work in a "
            f"checkout, give the path of a .yaml, .jsonl or .jsonl.gz file, or use {' or '.join(BUILT_IN)}"
        )
    if os.path.isfile(source):
        raise ValueError(f"{source!r} is a file of another kind than a suite is read from: give a .jsonl or .jsonl.gz "
                         "file (schema: data/README.md), or the .yaml file of a task")  # fmt: skip
    if source in (several := [*BUILT_IN, *mixtures()]):
        raise ValueError(f"{source!r} is a suite, not a task of the registry (python -m cat_core.tasks lists them)")
    hint = nearest(source, [*several, *task_names()])
    hint = hint if "did you mean" in hint else f"; built in: {', '.join(BUILT_IN)}; python -m cat_core.tasks lists more"
    raise ValueError(
        f"unknown suite {source!r}{hint}; for your own data give the path of a .jsonl or .jsonl.gz file (schema: "
        "data/README.md)"
    )


def _with_splits(name: str, spec: TaskSpec) -> TaskSpec:
    if not spec.splits:
        raise ValueError(f"{name!r} is the name of several tasks: take one of {', '.join(_names_in(name, spec))}")
    return spec


def read_spec(path: Path) -> TaskSpec:
    """Read and check one YAML file. Raises ValueError naming file and key."""
    try:
        return _read_once(TaskSpec, path, *_state(path)) if path.parent == FOLDER else read_file(TaskSpec, path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})") from None


@lru_cache(maxsize=256)
def _read_once(model: type[FileModel], path: Path, *state: int) -> FileModel:
    """A file of the registry, which one command may ask for a hundred times; read anew where its `state` is another."""
    return read_file(model, path)


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def mixtures() -> dict[str, list[str]]:
    """The named lists of tasks; none where the registry is not beside the package."""
    if not MIXTURES.is_file():
        return {}
    return {n: m.tasks for n, m in _read_once(Mixtures, MIXTURES, *_state(MIXTURES)).mixtures.items()}


def check_there(mixture: str, parts: Iterable[tuple[str, str]], data_root: str | Path) -> None:
    """FileNotFoundError, in one line, where a folder lacks splits of a mixture's parts (task, split or "")."""
    if not (root := folder_of(data_root)):
        return
    parts, missing = list(parts), []
    for task, split in parts:
        _, spec = find_task(task)
        needed = needed_splits(spec, split)
        lacking = [s for s in needed if not has_rows(place_of(spec, s), root)]
        missing += [task + f" ({', '.join(lacking)})" * (lacking != needed)] if lacking else []
    if missing:
        raise FileNotFoundError(
            f"{mixture!r}: {len(missing)} of its {len(parts)} tasks are not whole in {root}: {'; '.join(missing)}; "
            "fetch them (python -m cat_core.tasks mirror), or name those that are there, joined by '+'"
        )


# ---------------------------------------------------------------- tasks of any text


def text_task(source: str) -> tuple[str, TaskSpec, str, str] | None:
    """Of "<task>:<text>" or "<task>:<text>:<field>" the task, its entry, text and field; None for anything else.

    text: a name of the registry, or the path of a .txt (a text a line), .jsonl or .jsonl.gz file.
    """
    base, _, text = source.partition(":")
    if not re.fullmatch(r"[\w.-]+", base) or not (FOLDER / f"{base}.yaml").is_file():
        return None
    spec = read_spec(FOLDER / f"{base}.yaml")
    if not spec.of_any_text:
        raise ValueError(f"{source!r}: {base!r} is not a task of any text; drop {text!r}")
    place, mark, field = text.rpartition(":")
    return (base, spec, place, field) if mark and not os.path.isfile(text) else (base, spec, text, "")


def text_examples(
    base: str, spec: TaskSpec, text: str, field: str, *, data_root: str | Path, seed: int, templates: int
) -> list[Example]:
    """Examples of a task of any text, made of this one: in the splits of its task, or drawn for a file."""
    name = f"{base}-{file_stem(text).removesuffix('.txt')}"
    if text.endswith((".txt", *FILE_ENDINGS)):
        lines = {"train": HubSplit.model_validate("line")}
        renderer = Renderer(name, spec.model_copy(update={"splits": lines}), templates=templates, seed=seed)
        examples = renderer.examples("train", text_rows(text, field or "text"))
        if len(examples) < FEWEST_CLUSTERS:
            raise ValueError(f"{text}: too few texts to draw splits from ({len(examples)} of use for {base}, at least "
                             f"{FEWEST_CLUSTERS}); add some")  # fmt: skip
        return draw_splits(examples, seed)
    _, other = find_task(text)
    field = field or _only_field(text, other)
    renderer = Renderer(name, spec.model_copy(update={"splits": other.splits}), templates=templates, seed=seed)
    examples = []
    for split in needed_splits(other):
        rows = hub_rows(**vars(place_of(other, split)), data_root=data_root)
        found = (made for row in rows for made in preprocessed({**row, **other.values}, other.preprocess))
        examples += renderer.examples(split, ({"text": look_up(row, field)} for row in found))
    if not examples:
        raise ValueError(f"task {text!r}: {base} finds nothing to restore in its field {field!r}; take another text")
    return carve_calibration(examples, seed)


def _only_field(task: str, spec: TaskSpec) -> str:
    fields = [name for _, name in pieces(spec.prompt) if name and name != "options"]
    if len(set(fields)) != 1:
        raise ValueError(f"task {task!r} has several texts: name one, such as {task}:{fields[0] if fields else 'text'} "
                         f"({', '.join(dict.fromkeys(fields))})")  # fmt: skip
    return fields[0]
