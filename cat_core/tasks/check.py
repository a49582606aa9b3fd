"""Checking: do the files of a folder in Hub layout hold what the entries of the registry say?"""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cat_core.tasks.entries import TaskSpec
from cat_core.tasks.example import Example, find_problem
from cat_core.tasks.registry import find_task, place_of, task_names
from cat_core.tasks.rendering import Renderer
from cat_core.tasks.sources import ROW_ENDINGS, has_rows, hub_rows

TRIED = 100  # rows of a split that every template is tried on


@dataclass
class Findings:
    """Of one task: what its splits hold, in words; what is wrong with them; splits that are not there."""

    name: str
    splits: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        return f"{self.name}: {'; '.join(self.splits)}" + f"; not there: {', '.join(self.missing)}" * bool(self.missing)


def checked(root: str | Path, names: Iterable[str] = ()) -> Iterator[Findings]:
    """The findings of each task (none named: of all of the registry), one after the other; nothing is raised for data.

    Rows, fields and labels are held against the entry: every row is rendered, the first hundred with every template;
    a file must have the checksum that a manifest names, and no more rows than the data set. A split that several
    tasks read alike is checked with the first.
    """
    given, seen = list(names), set()
    for name in given or task_names():
        task, spec = find_task(name)
        found = Findings(task)
        for split in spec.splits:
            place = place_of(spec, split)
            of_no_matter = {"splits": {}, "sizes": {}, "note": "", "variants": {}}
            alike = (place, spec.model_copy(update=of_no_matter).model_dump_json())
            if not has_rows(place, root):
                found.missing.append(split)
            elif alike not in seen:
                seen.add(alike)
                _check_split(found, spec, split, root)
        if given and found.missing:
            found.faults.append(f"{task}: {', '.join(found.missing)} not in {root}")
        yield found


def _check_split(found: Findings, spec: TaskSpec, split: str, root: str | Path) -> None:
    where = f"{found.name}, {split}"
    try:
        rows = hub_rows(**vars(replace(place_of(spec, split), first=None)), data_root=root)
        examples = Renderer(found.name, spec).examples(split, rows)
        for number in range(1, len(spec.patterns)):
            pattern = spec.patterns[number]
            own = {"templates": [], "prompt": pattern.prompt, "target": pattern.target or spec.target}
            one = spec.model_copy(update=own)
            Renderer(found.name, one).examples(split, rows[:TRIED])
    except (ValueError, OSError) as error:
        found.faults.append(f"{where}: {error}")
        return
    official = spec.sizes.get(split)
    if not examples:
        found.faults.append(f"{where}: no example comes of {len(rows):,} rows")
        return
    if official and len(rows) > official and not spec.splits[split].first:
        found.faults.append(f"{where}: {len(rows):,} rows, but the entry says {official:,}: not this data set, or not "
                            "this split")  # fmt: skip
    if problem := next(((e, p) for e in examples if (p := find_problem(e))), None):
        found.faults.append(f"{where}, item {problem[0].item_id!r}: {problem[1][1]}")
    found.splits.append(_said(spec, split, len(rows), examples))


def _said(spec: TaskSpec, split: str, rows: int, examples: list[Example]) -> str:
    official = spec.sizes.get(split)
    count = f"{rows:,}" + (f" of {official:,}" if official and rows < official else "") + " rows"
    if len(examples) != rows:
        count += f", {len(examples):,} items"
    lengths = [len(e.prompt) for e in examples]
    texts = f"prompts of {statistics.median_low(lengths):,} characters (at most {max(lengths):,})"
    one = split == "train" and spec.metric == "accuracy" and len({e.target for e in examples}) == 1
    return f"{split} {count}, {texts}" + ", one class alone" * one


def strangers(root: str | Path) -> list[str]:
    """Files of rows in a folder that no task of the registry reads, by their path in it."""
    places = set()
    for name in task_names():
        _, spec = find_task(name)
        for split in spec.splits:
            place = place_of(spec, split)
            places.add((Path(place.hub_id, place.config).as_posix(), place.split))
    found = []
    for path in sorted(Path(root).rglob("*")):
        ending = next((e for e in ROW_ENDINGS if path.name.endswith(e)), None)
        if ending is None or not path.is_file():
            continue
        folder = path.parent.relative_to(root)
        folder = folder.parent if folder.name == "data" else folder
        split = path.name.removesuffix(ending).split("-0")[0]
        if (folder.as_posix(), split) not in places:
            found.append(path.relative_to(root).as_posix())
    return found
