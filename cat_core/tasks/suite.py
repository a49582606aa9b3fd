"""Tasks behind one small interface: built-in suites, a reader's JSONL, and data sets in Hub layout.

    suite = load_suite("mini-superglue")                             # generated, no download
    suite = load_suite("trec", data_root="mirror")                   # data/tasks/trec.yaml, from a folder
    suite = load_suite("my_questions.jsonl")                         # the schema is in data/README.md
    suite = load_suite("rte+cb+copa", limits={"train": 3000})        # a mixture, at most 3,000 of each
    suite = load_suite("tatoeba-de-en+tatoeba-de-en-wmt22@test")     # of the second part its test split only
    suite = load_suite("superglue", mixing_cap=3000, task_templates=3)  # a named mixture, in 3 templates

Rows under a limit, calibration rows, the splits of a file without any and a mixing in rounds are drawn as `draws` says.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cat_core.tasks.almanac import Almanac, almanac
from cat_core.tasks.draws import limit, mix
from cat_core.tasks.example import BUILT_IN, FILE_ENDINGS, SPLITS, Example, _chosen_split, file_stem, find_problem
from cat_core.tasks.manual import Manual, manual
from cat_core.tasks.mini_flan import MiniFlan, mini_flan
from cat_core.tasks.registry import check_there, load_task, mixtures, text_task
from cat_core.tasks.schema import brief, nearest
from cat_core.tasks.scoring import check_tokenizer, check_usable, has_no_blanks
from cat_core.tasks.sources import read_examples
from cat_core.tasks.synthetic import MiniSuperGlue, MiniWmt, mini_superglue, mini_wmt

LATER = ("references", "tokenize", "fame", "held_out")
"""Fields of an example that came after the first studies were recorded."""
NOT_LEARNT = ("also", "group_id")
"""Fields of an example that change nothing but what is reported of the answers."""

KINDS = {
    "mini-superglue": (MiniSuperGlue, mini_superglue),
    "mini-wmt": (MiniWmt, mini_wmt),
    "mini-flan": (MiniFlan, mini_flan),
    "python-manual": (Manual, manual),
    "almanac": (Almanac, almanac),
    "almanac-questions": (partial(Almanac, tasks="questions", train=11_200, calibration=560, test=1_120), almanac),
    "almanac-translation": (partial(Almanac, tasks="translation", train=16_000, calibration=800, test=1_600), almanac),
}
"""Built-in suite -> (its configuration, what makes its examples)."""


@dataclass(frozen=True)
class Suite:
    """Checked examples of one or more tasks. An empty `cluster_id` becomes the item_id.

    Raises ValueError on an empty split, a repeated item_id, text that is empty or not Unicode, an unknown split or
    metric, options and metric that do not fit each other, a target outside the options, a task with two metrics,
    tokenizers or lists of further metrics, a question whose answers are in two splits or clusters, and an option task
    whose training targets are all the same; ImportError where a metric needs a package that is not there. Warns when
    prompts of test also occur in train, and when BLEU's tokenizer does not fit the script.
    """

    name: str
    examples: tuple[Example, ...]

    def __post_init__(self):
        examples = tuple(e if e.cluster_id else dataclasses.replace(e, cluster_id=e.item_id) for e in self.examples)
        object.__setattr__(self, "examples", examples)
        if not examples:
            raise ValueError(f"suite {self.name!r} is empty: at least one example in each of {', '.join(SPLITS)}")
        seen: set[str] = set()
        metric_of: dict[str, str] = {}
        tokenizer_of: dict[str, str] = {}
        further_of: dict[str, tuple[str, ...]] = {}
        place_of: dict[tuple[str, str], tuple[str, str]] = {}
        for example in examples:
            where = f"suite {self.name!r}, item {example.item_id!r}"
            if problem := find_problem(example):
                raise ValueError(f"{where}: {problem[1]}")
            if example.item_id in seen:
                raise ValueError(f"{where}: this item_id occurs more than once; give every item its own, in all splits")
            seen.add(example.item_id)
            if metric_of.setdefault(example.task, example.metric) != example.metric:
                raise ValueError(
                    f"{where}: metric {example.metric!r}, but task {example.task!r} began with "
                    f"{metric_of[example.task]!r}; a task has one metric, so give these items a task of their own"
                )
            if tokenizer_of.setdefault(example.task, example.tokenize) != example.tokenize:
                raise ValueError(f"{where}: tokenize {example.tokenize!r}, but task {example.task!r} began with "
                                 f"{tokenizer_of[example.task]!r}; a task has one")  # fmt: skip
            if further_of.setdefault(example.task, example.also) != example.also:
                raise ValueError(f"{where}: also {list(example.also)}, but task {example.task!r} began with "
                                 f"{list(further_of[example.task])}; a task has one list")  # fmt: skip
            place = example.split, example.cluster_id
            if example.group_id and place_of.setdefault((example.task, example.group_id), place) != place:
                raise ValueError(
                    f"{where}: group_id {brief(example.group_id)} is also in split and cluster "
                    f"{' and '.join(place_of[example.task, example.group_id])}; a group has one of each"
                )
        for metric in dict.fromkeys((*metric_of.values(), *(name for names in further_of.values() for name in names))):
            check_usable(metric)
        for tokenizer in tokenizer_of.values():
            if tokenizer:
                check_tokenizer(tokenizer)
        for split in SPLITS:
            if not self.split(split):
                raise ValueError(f"suite {self.name!r} has no {split} items; it needs some of {', '.join(SPLITS)}")
        for task, metric in metric_of.items():
            answers = {e.target for e in examples if e.task == task and e.split == "train"}
            if metric == "accuracy" and len(answers) == 1:
                raise ValueError(
                    f"suite {self.name!r}, task {task!r}: every training target is {answers.pop()!r}; "
                    "one class teaches nothing, so add rows with other answers (or raise the train limit)"
                )
        self._warn()

    def _warn(self) -> None:
        tested, trained = self.split("test"), {e.prompt for e in self.examples if e.split == "train"}
        elsewhere = {(e.task, e.cluster_id) for e in self.examples if e.split != "test"}
        leaked = sum(e.prompt in trained for e in tested)
        # An item that says that only its wording is new shares its fact on purpose.
        shared = sum((e.task, e.cluster_id) in elsewhere for e in tested if e.held_out != "wording")
        for count, what in (
            (leaked, "test prompts also occur in train"),
            (shared, "test items share a cluster (such as a passage) with items of train or calibration"),
        ):
            if count:  # level 5: load_suite's caller (this method, __post_init__, the generated __init__, load_suite)
                warnings.warn(f"suite {self.name!r}: {count} of {len(tested)} {what}", stacklevel=5)
        cut = [e for e in tested if e.metric == "bleu" and e.tokenize in ("", "13a")]
        for task in dict.fromkeys(e.task for e in cut if any(map(has_no_blanks, e.right_answers))):
            warnings.warn(
                f"suite {self.name!r}, task {task!r}: BLEU's tokenizer 13a does not part Chinese, Japanese or Korean "
                "text into words, so that BLEU says little; give the task tokenize: zh, ja-mecab, ko-mecab or char",
                stacklevel=5,
            )

    def split(self, name: str) -> list[Example]:
        """The examples of "train", "calibration" or "test", in the suite's order."""
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; known: {', '.join(SPLITS)}")
        return [e for e in self.examples if e.split == name]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, by first appearance."""
        return tuple(dict.fromkeys(e.task for e in self.examples))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over every field of every example, in order; the suite's name is not part of it.

        Fields of `LATER` count where they are given, so that suites from before keep their fingerprint; those of
        `NOT_LEARNT` do not, so that models and answers are found again when more is reported of them.
        """
        digest = hashlib.sha256()
        for example in self.examples:
            later = {name: value for name in LATER if (value := getattr(example, name))}
            fields = [value for name, value in vars(example).items() if name not in (*LATER, *NOT_LEARNT)]
            digest.update(json.dumps(fields + [later] * bool(later)).encode() + b"\n")
        return digest.hexdigest()


def load_suite(
    source: str | Path,
    *,
    data_root: str | Path = "",
    limits: Mapping[str, int] | None = None,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    mixing_cap: int = 0,
    mixing_rounds: int = 1,
    task_templates: int = 1,
) -> Suite:
    """Load a suite by name or file.

    source: a built-in suite (`KINDS`); a name of the registry (`data/tasks/<name>.yaml`) or the path of such a `.yaml`
        file; a mixture ("superglue", "flan2021", "wmt22"); the path of a `.jsonl` or `.jsonl.gz` file (schema:
        data/README.md); a task of any text and the text ("true_case:own.txt"); or several of these joined by "+", whose
        item ids are then prefixed by their task. Of a part that ends in "@train", "@calibration" or "@test" only that
        split is taken, such as it is in the whole part.
    data_root: folder in Hub layout, or empty: see `sources.hub_rows`.
    limits: at most so many rows of a split, for each task, e.g. {"train": 5000, "test": 1000}; a seeded sample, in the
        order of the data.
    options: fields to override of a built-in suite's configuration, such as `synthetic.MiniWmt`.
    seed: of every draw; for a built-in suite also of its generation, unless `options` has a seed.
    mixing_cap, mixing_rounds: train as FLAN mixes it (`draws.mix`): in each round every task gives its next
        min(its examples under the limit, mixing_cap) training examples. A cap of 0: every example once.
    task_templates: each item of a task of the registry gets one of the first so many templates of its task (of all,
        where it has fewer), drawn by the seed; 1: its `prompt`.

    A data set without calibration split gets one out of train by clusters (a tenth of them, at most 1,000 rows), never
    out of test. Where a limit, a mixing or "@" leaves the fact of a "wording" item out of train, its `held_out` becomes
    "", as it would no longer be true. Raises ValueError, TypeError or FileNotFoundError in one line.
    """
    limits = dict(limits or {})
    for split, count in limits.items():
        if split not in SPLITS:
            raise ValueError(f"limits: unknown split {split!r}{nearest(split, SPLITS)}")
        _check_whole(f"limits: {split}", count, 1, "; leave it out for all rows")
    _check_whole("mixing_cap", mixing_cap, 0)
    _check_whole("mixing_rounds", mixing_rounds, 1)
    if mixing_rounds > 1 and not mixing_cap:
        raise ValueError(
            f"mixing_rounds is {mixing_rounds}, but nothing is mixed without mixing_cap; give it, such as 3000"
        )
    _check_whole("seed", seed, 0)
    _check_whole("task_templates", task_templates, 1)
    name = str(source)
    # os.path: a mixture may be longer than the name of a file, which Path takes for an error.
    named = [name] if "+" not in name or os.path.isfile(name) else [part.strip() for part in name.split("+")]
    parts = [part for given in named for part in _expanded(given, data_root)]
    if options and (len(parts) > 1 or parts[0] not in BUILT_IN):
        raise ValueError(f"options are for a built-in suite alone ({', '.join(BUILT_IN)}), not for {name!r}; drop them")
    chosen = [_chosen_split(part) for part in parts]
    if task_templates > 1 and not any(_of_registry(base) for base, _ in chosen):
        raise ValueError(f"task_templates is {task_templates}, but {name!r} has no task of the registry: others have "
                         "no templates, drop it")  # fmt: skip
    if all(split for _, split in chosen):
        _check_splits(name, {split for _, split in chosen})  # before anything is read
    examples: list[Example] = []
    taken: dict[tuple[str, str], str] = {}
    facts: set[tuple[str, str]] = set()  # of training, before any of it is left out
    joined = _prefixed if len(parts) > 1 else list
    for part, (base, split) in zip(parts, chosen):
        loaded = _load_part(base, data_root, options or {}, seed, split, task_templates)
        if any(e.held_out == "wording" for e in loaded):
            facts |= _trained(joined(loaded))
        if split and not (loaded := [e for e in loaded if e.split == split]):
            raise ValueError(f"{name!r}: {base!r} has no {split} items; drop {part!r}, or take another split of it")
        loaded = limit(loaded, limits, seed)
        if len(parts) > 1:
            for key in dict.fromkeys((e.task, e.split) for e in loaded):
                if key in taken:
                    raise ValueError(f"{name!r}: task {key[0]!r} is in {taken[key]!r} and again in {part!r}; keep one")
                taken[key] = part
        examples += joined(loaded)
    if any(split for _, split in chosen):
        _check_splits(name, {e.split for e in examples})
    if mixing_cap:
        examples = mix(examples, mixing_cap, mixing_rounds, seed)
    if gone := facts - _trained(examples):
        examples = [dataclasses.replace(e, held_out="") if e.held_out == "wording" and _fact(e) in gone else e
                    for e in examples]  # fmt: skip
    return Suite("+".join(file_stem(part) for part in named), tuple(examples))


def _prefixed(examples: list[Example]) -> list[Example]:
    """The examples of one of several parts, under names that no other part has."""
    return [
        dataclasses.replace(e, item_id=f"{e.task}/{e.item_id}", cluster_id=f"{e.task}/{e.cluster_id or e.item_id}")
        for e in examples
    ]


def _fact(example: Example) -> tuple[str, str]:
    return example.task, example.cluster_id or example.item_id


def _trained(examples: list[Example]) -> set[tuple[str, str]]:
    """The facts that training shows, task by task: its clusters."""
    return {_fact(e) for e in examples if e.split == "train"}


def _expanded(part: str, data_root: str | Path) -> list[str]:
    """The tasks of a mixture, with the split asked for; any other part as it is."""
    base, split = _chosen_split(part)
    if (tasks := mixtures().get(base)) is None:
        return [part]
    chosen = [(task, split or own) for task, own in map(_chosen_split, tasks) if own in ("", split or own)]
    check_there(base, chosen, data_root)
    return [f"{task}@{split}" if split else task for task, split in chosen]


def _check_splits(name: str, splits: set[str]) -> None:
    """Refuse parts that leave the suite without one of its splits."""
    for needed in SPLITS:
        if needed not in splits:
            raise ValueError(
                f"{name!r}: no {needed} items in the parts taken; a suite needs some of {', '.join(SPLITS)}, so take "
                f"a part whole (without '@'), or add one with '@{needed}'"
            )


def _check_whole(name: str, value: object, least: int, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}{hint}")


def _load_part(
    part: str, data_root: str | Path, options: Mapping[str, object], seed: int, split: str, templates: int
) -> list[Example]:
    """The examples of a part; of a split that was asked for at least these."""
    if part in BUILT_IN:
        return _built_in(part, options, seed)
    if not _of_registry(part):
        return read_examples(part, seed=seed)
    return load_task(part, data_root=data_root, seed=seed, split=split, templates=templates)


def _of_registry(part: str) -> bool:
    """Whether a part is, or may be, a name of the registry: neither built in nor a reader's own file."""
    return part not in BUILT_IN and (not part.endswith(FILE_ENDINGS) or text_task(part) is not None)


def _built_in(name: str, options: Mapping[str, object], seed: int) -> list[Example]:
    kind, make = KINDS[name]
    defaults = vars(kind())
    for field, value in options.items():
        if field not in defaults:
            raise ValueError(f"{name}: unknown option {field!r}{nearest(field, defaults)}")
        if isinstance(defaults[field], str):
            if not isinstance(value, str):
                raise TypeError(f"{name}: option {field} must be text, got {value!r}")
            continue
        whole = isinstance(defaults[field], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            raise TypeError(
                f"{name}: option {field} must be a {'whole ' if whole else ''}number, got {value!r}"
                + ("; YAML reads 1e-3 as text, write 1.0e-3" if isinstance(value, str) else "")
            )
        least = 1 if whole and field != "seed" and defaults[field] >= 1 else 0
        if value < least:
            raise ValueError(f"{name}: option {field} must be at least {least}, got {value!r}")
    try:
        return make(kind(**{"seed": seed, **options}))
    except ValueError as error:
        raise ValueError(
            f"{name}: cannot be generated with {brief(dict(options))} ({error}); correct the options"
        ) from None
