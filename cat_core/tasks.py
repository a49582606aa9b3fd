"""Tasks behind one small interface: built-in suites, a reader's JSONL, and data sets in Hub layout.

    suite = load_suite("mini-superglue")                             # generated, no download
    suite = load_suite("trec", data_root="mirror")                   # data/tasks/trec.yaml, from a folder
    suite = load_suite("my_questions.jsonl")                         # the schema is in data/README.md
    suite = load_suite("rte+cb+copa", limits={"train": 3000})        # a mixture, at most 3,000 of each
    suite = load_suite("tatoeba-de-en+tatoeba-de-en-wmt22@test")     # of the second part its test split only

Rows under a limit, calibration rows, the splits of a file without any and a mixing in rounds are drawn as `draws` says.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "calibration", "test")
METRICS = ("accuracy", "exact_match", "bleu", "chrf")
BUILT_IN = ("mini-superglue", "mini-wmt", "mini-flan")
FILE_ENDINGS = (".jsonl", ".jsonl.gz")
_ENDINGS = (*FILE_ENDINGS, ".yaml", ".yml")


@dataclass(frozen=True)
class Example:
    """One query with its answer.

    `options` is empty for free generation; else the prediction is the option with the best log-probability
    and `target` is one of them. Items that share a passage share a `cluster_id`, and are resampled together;
    "" means that the item stands alone (a `Suite` fills in the item_id).
    """

    item_id: str
    task: str
    split: str
    prompt: str
    target: str
    options: tuple[str, ...] = ()
    metric: str = "accuracy"
    cluster_id: str = ""


@dataclass(frozen=True)
class Suite:
    """Checked examples of one or more tasks. An empty `cluster_id` becomes the item_id.

    Raises ValueError on an empty split, a repeated item_id, text that is empty or not Unicode, an unknown
    split or metric, options and metric that do not fit each other, a target outside the options, a task with
    two metrics, and an option task whose training targets are all the same. Warns when prompts of test also
    occur in train.
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
                    f"{metric_of[example.task]!r}; a task has one metric, so give these items a task of "
                    f"their own"
                )
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
        self._warn_of_leak()

    def _warn_of_leak(self) -> None:
        trained = {e.prompt for e in self.examples if e.split == "train"}
        tested = [e.prompt for e in self.examples if e.split == "test"]
        if leaked := sum(prompt in trained for prompt in tested):
            # level 5: load_suite's caller (this method, __post_init__, the generated __init__, load_suite)
            warnings.warn(
                f"suite {self.name!r}: {leaked} of {len(tested)} test prompts also occur in train",
                stacklevel=5,
            )
        elsewhere = {(e.task, e.cluster_id) for e in self.examples if e.split != "test" and e.cluster_id}
        shared = sum((e.task, e.cluster_id) in elsewhere for e in self.examples if e.split == "test")
        if shared:
            warnings.warn(
                f"suite {self.name!r}: {shared} of {len(tested)} test items share a cluster (such as a passage) with "
                "items of train or calibration",
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
        """SHA-256 (hex) over every field of every example, in order; the suite's name is not part of it."""
        digest = hashlib.sha256()
        fields = [f.name for f in dataclasses.fields(Example)]
        for example in self.examples:
            digest.update(json.dumps([getattr(example, name) for name in fields]).encode() + b"\n")
        return digest.hexdigest()


def find_problem(example: Example) -> tuple[str, str] | None:
    """The first fault of an example as (field, what is wrong and what to do), None if there is none."""
    for field in ("item_id", "task", "prompt", "target"):
        if problem := text_problem(getattr(example, field)):
            return field, f"{field} {problem}"
    if example.cluster_id != "" and (problem := text_problem(example.cluster_id)):
        return "cluster_id", f"cluster_id {problem}"
    for field, known in (("split", SPLITS), ("metric", METRICS)):
        if (value := getattr(example, field)) not in known:
            return field, f"unknown {field} {brief(value)}{nearest(value, known)}"
    options = example.options
    if not isinstance(options, tuple):
        return "options", f"options must be a tuple of texts, not {type(options).__name__}"
    if not options:
        if example.metric == "accuracy":
            return (
                "options",
                "metric 'accuracy' needs options; give two or more, or use exact_match, bleu or chrf",
            )
        return None
    if example.metric != "accuracy":
        return (
            "metric",
            f"metric {example.metric!r} with options; items with options are scored by 'accuracy'",
        )
    for option in options:
        if problem := text_problem(option):
            return "options", f"options: one of them {problem}"
    if len(options) < 2 or len({" ".join(o.split()) for o in options}) < len(options):
        return "options", (
            f"options must be two or more different texts (white space is no difference), got {brief(list(options))}"
        )
    if example.target not in options:
        return "target", f"target {brief(example.target)} is not one of the options {brief(list(options))}"
    return None


def text_problem(value: object) -> str | None:
    """What keeps `value` from being a text with something in it, None if nothing does."""
    if not isinstance(value, str):
        return f"must be text, not {brief(value)} ({type(value).__name__})"
    if not value.strip():
        return "must not be empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"holds half a surrogate pair, which is not Unicode text: {brief(value)}"
    return None


def score(example: Example, prediction: str) -> float:
    """Quality of one prediction in [0, 1].

    `accuracy`, `exact_match`: 1 if prediction and target are equal once runs of white space are one space,
    case counting. `bleu`, `chrf`: sacrebleu's sentence score / 100 (BLEU with effective order, so that short
    sentences are not zero; tokenizer 13a). The corpus scores of a whole cascade are in `curves`, and are no
    mean of these.
    """
    if not isinstance(prediction, str):
        raise TypeError(f"item {example.item_id!r}: prediction must be text, not {type(prediction).__name__}")
    if example.metric in ("accuracy", "exact_match"):
        return float(prediction.split() == example.target.split())
    value = _sentence_metric(example.metric).sentence_score(prediction, [example.target]).score
    return min(max(value / 100, 0.0), 1.0)  # sacrebleu's 100 may be 100.00000000000004


@functools.cache
def _sentence_metric(name: str):
    if name not in ("bleu", "chrf"):
        raise ValueError(f"unknown metric {name!r}{nearest(name, METRICS)}")
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=True) if name == "bleu" else CHRF()


def load_suite(
    source: str | Path,
    *,
    data_root: str | Path = "",
    limits: Mapping[str, int] | None = None,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    mixing_cap: int = 0,
    mixing_rounds: int = 1,
) -> Suite:
    """Load a suite by name or file.

    source: "mini-superglue", "mini-wmt" or "mini-flan"; a name of the registry (`data/tasks/<name>.yaml`) or the
        path of such a `.yaml` file; the path of a `.jsonl` or `.jsonl.gz` file (schema: data/README.md); or
        several of these joined by "+", whose item ids are then prefixed by their task. Of a part that ends in
        "@train", "@calibration" or "@test" only that split is taken, such as it is in the whole part.
    data_root: folder in Hub layout, `<hub id>/<config>/<split>.jsonl.gz` (or .jsonl, .json.gz, .parquet).
        Empty: the environment variable CAT_DATA_ROOT; without that, the Hub itself through `datasets`.
    limits: at most so many rows of a split, for each task, e.g. {"train": 5000, "test": 1000}; a seeded
        sample, in the order of the data.
    options: fields of the built-in suite's configuration to override (`synthetic.MiniWmt`, `MiniSuperGlue`,
        `mini_flan.MiniFlan`).
    seed: of every draw; for a built-in suite also of its generation, unless `options` has a seed.
    mixing_cap, mixing_rounds: train as FLAN mixes it (`draws.mix`): in each round every task gives its next
        min(its examples under the limit, mixing_cap) training examples. A cap of 0: every example once.

    A data set without calibration split gets one out of train by clusters (a tenth of them, at most 1,000
    rows), never out of test. Raises ValueError, TypeError or FileNotFoundError in one line.
    """
    from cat_core.draws import limit, mix  # here, as it imports Example from this module

    limits = _checked_limits(limits)
    _check_mixing(mixing_cap, mixing_rounds)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
    name = str(source)
    parts = [name] if "+" not in name or Path(name).is_file() else [part.strip() for part in name.split("+")]
    if options and (len(parts) > 1 or parts[0] not in BUILT_IN):
        raise ValueError(f"options are for a built-in suite alone ({', '.join(BUILT_IN)}), not for {name!r}; drop them")
    chosen = [_chosen_split(part) for part in parts]
    if all(split for _, split in chosen):
        _check_splits(name, {split for _, split in chosen})  # before anything is read
    examples: list[Example] = []
    taken: dict[tuple[str, str], str] = {}
    for part, (base, split) in zip(parts, chosen):
        loaded = _load_part(base, data_root, options or {}, seed)
        if split and not (loaded := [e for e in loaded if e.split == split]):
            raise ValueError(f"{name!r}: {base!r} has no {split} items; drop {part!r}, or take another split of it")
        loaded = limit(loaded, limits, seed)
        if len(parts) > 1:
            for key in dict.fromkeys((e.task, e.split) for e in loaded):
                if key in taken:
                    raise ValueError(f"{name!r}: task {key[0]!r} is in {taken[key]!r} and again in {part!r}; keep one")
                taken[key] = part
            loaded = [_prefixed(e) for e in loaded]
        examples += loaded
    if any(split for _, split in chosen):
        _check_splits(name, {e.split for e in examples})
    if mixing_cap:
        examples = mix(examples, mixing_cap, mixing_rounds, seed)
    return Suite("+".join(file_stem(part) for part in parts), tuple(examples))


def file_stem(source: str | Path) -> str:
    """The name of a file without folder and known ending; a registry name as it is; "@test" and the like stay."""
    name, split = _chosen_split(str(source))
    name = Path(name).name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return f"{name}@{split}" if split else name


def nearest(given: object, known: Iterable[str]) -> str:
    """ "; did you mean 'x'? known: x, y" for an error message."""
    known = list(known)
    close = difflib.get_close_matches(str(given), known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" known: {', '.join(known)}"


def brief(value: object) -> str:
    """The value as an error message shows it: one line, at most 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _chosen_split(part: str) -> tuple[str, str]:
    """A part of a suite's name as (name or file, the one split asked for; "" for all)."""
    base, mark, split = part.rpartition("@")
    # An "@" may also stand in the name of a file or folder.
    if not mark or part.endswith(_ENDINGS) or Path(part).is_file():
        return part, ""
    if split not in SPLITS:
        raise ValueError(f"{part!r}: unknown split {split!r} after '@'{nearest(split, SPLITS)}")
    return base, split


def _check_splits(name: str, splits: set[str]) -> None:
    """Refuse parts that leave the suite without one of its splits."""
    for needed in SPLITS:
        if needed not in splits:
            raise ValueError(
                f"{name!r}: no {needed} items in the parts taken; a suite needs some of {', '.join(SPLITS)}, so take "
                f"a part whole (without '@'), or add one with '@{needed}'"
            )


def _check_mixing(cap: int, rounds: int) -> None:
    for field, value, least in (("mixing_cap", cap, 0), ("mixing_rounds", rounds, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{field} must be a whole number >= {least}, got {value!r}")
    if rounds > 1 and not cap:
        raise ValueError(f"mixing_rounds is {rounds}, but nothing is mixed without mixing_cap; give it, such as 3000")


def _load_part(part: str, data_root: str | Path, options: Mapping[str, object], seed: int) -> list[Example]:
    # Imported here: these modules import Example from this one.
    if part in BUILT_IN:
        return _built_in(part, options, seed)
    if part.endswith(FILE_ENDINGS):
        from cat_core.sources import read_examples

        return read_examples(part, seed=seed)
    from cat_core.registry import load_task

    return load_task(part, data_root=data_root, seed=seed)


def _built_in(name: str, options: Mapping[str, object], seed: int) -> list[Example]:
    from cat_core import mini_flan, synthetic

    kind, make = {
        "mini-superglue": (synthetic.MiniSuperGlue, synthetic.mini_superglue),
        "mini-wmt": (synthetic.MiniWmt, synthetic.mini_wmt),
        "mini-flan": (mini_flan.MiniFlan, mini_flan.mini_flan),
    }[name]
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}
    for field, value in options.items():
        if field not in defaults:
            raise ValueError(f"{name}: unknown option {field!r}{nearest(field, defaults)}")
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


def _checked_limits(limits: Mapping[str, int] | None) -> dict[str, int]:
    for split, count in (limits or {}).items():
        if split not in SPLITS:
            raise ValueError(f"limits: unknown split {split!r}{nearest(split, SPLITS)}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"limits: {split} must be a whole number >= 1, got {count!r}; leave it out for all rows")
    return dict(limits or {})


def _prefixed(example: Example) -> Example:
    return dataclasses.replace(
        example,
        item_id=f"{example.task}/{example.item_id}",
        cluster_id=f"{example.task}/{example.cluster_id or example.item_id}",
    )
