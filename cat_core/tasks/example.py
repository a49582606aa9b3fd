"""An example: one query with its answer; what makes it fit, and how a prediction is scored."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cat_core.tasks.schema import brief, nearest
from cat_core.tasks.scoring import (
    CLASSES,
    CORPUS,
    FURTHER,
    GROUPS,
    METRICS,
    REPEATED,
    TOKENIZERS,
    composed,
    nothing_left,
    quality_of,
)

SPLITS = ("train", "calibration", "test")
BUILT_IN = (
    "mini-superglue", "mini-wmt", "mini-flan", "almanac", "almanac-questions", "almanac-translation", "python-manual",
)  # fmt: skip
HELD_OUT = ("wording", "fact")
"""What training has not seen of an item: the words of the question, though it has the fact; or the fact itself."""
FILE_ENDINGS = (".jsonl", ".jsonl.gz")
_ENDINGS = (*FILE_ENDINGS, ".yaml", ".yml")


@dataclass(frozen=True)
class Example:
    """One query with its answer.

    `options` is empty for free generation; else the prediction is the option with the best log-probability and `target`
    is one of them. Items that share a passage share a `cluster_id`, and are resampled together; "" means that the item
    stands alone (a `Suite` fills in the item_id). There may be further right answers, the `references` (with options,
    some of these): `target` is what is learnt, and the best of all counts. `tokenize` is that of BLEU
    (`scoring.TOKENIZERS`; "": 13a). `also` names metrics that are reported beside `metric` (`scoring.FURTHER`), and
    `group_id` the question that an item is one answer of: nothing is learnt from these two. `held_out` says what of a
    test item training has not seen (`HELD_OUT`; "": nothing is said), `fame` how well known what it asks is, in [0, 1]
    (0: unknown): columns of the outcome table, by which items can be told apart.
    """

    item_id: str
    task: str
    split: str
    prompt: str
    target: str
    options: tuple[str, ...] = ()
    metric: str = "accuracy"
    cluster_id: str = ""
    references: tuple[str, ...] = ()
    tokenize: str = ""
    also: tuple[str, ...] = ()
    group_id: str = ""
    fame: float = 0.0
    held_out: str = ""

    @property
    def right_answers(self) -> tuple[str, ...]:
        """The target and the further references, each once."""
        return tuple(dict.fromkeys((self.target, *self.references)))

    def quality(self, prediction: str, metric: str) -> float:
        """Quality in [0, 1] of a prediction by one of `scoring.METRICS`, whether the item names it or not."""
        answers = (self.target, *self.references) if metric in REPEATED else self.right_answers
        return quality_of(prediction, answers, metric, self.tokenize)


def find_problem(example: Example) -> tuple[str, str] | None:
    """The first fault of an example as (field, what is wrong and what to do), None if there is none."""
    for field in ("item_id", "task", "prompt", "target"):
        if problem := text_problem(getattr(example, field)):
            return field, f"{field} {problem}"
    for field in ("cluster_id", "group_id"):
        if getattr(example, field) != "" and (problem := text_problem(getattr(example, field))):
            return field, f"{field} {problem}"
    for field, known in (("split", SPLITS), ("metric", METRICS)):
        if (value := getattr(example, field)) not in known:
            return field, f"unknown {field} {brief(value)}{nearest(value, known)}"
    for field in ("options", "references", "also"):
        if not isinstance(getattr(example, field), tuple):
            return field, f"{field} must be a tuple of texts, not {type(getattr(example, field)).__name__}"
        for text in getattr(example, field):
            if problem := text_problem(text):
                return field, f"{field}: one of them {problem}"
    if example.held_out and example.held_out not in HELD_OUT:
        return "held_out", f"unknown held_out {brief(example.held_out)}{nearest(example.held_out, HELD_OUT)}"
    fame = example.fame
    if isinstance(fame, bool) or not isinstance(fame, int | float) or not 0 <= fame <= 1:
        return "fame", f"fame must be a number from 0 to 1, got {brief(fame)}"
    found = _options_problem(example) if example.options else _free_text_problem(example)
    return found or _further_problem(example) or _references_problem(example)


def _options_problem(example: Example) -> tuple[str, str] | None:
    """The first fault of an example with options, as `find_problem`."""
    options = example.options
    if example.metric in CORPUS:
        return "metric", f"metric {example.metric!r} with options; it is for free text, use accuracy"
    if example.tokenize:
        return "tokenize", f"tokenize {brief(example.tokenize)} with options; leave it out"
    if len(options) < 2 or len({" ".join(composed(o).split()) for o in options}) < len(options):
        return "options", (
            f"options must be two or more different texts (white space is no difference), got {brief(list(options))}"
        )
    for field, texts in (("target", (example.target,)), ("references", example.references)):
        for text in texts:
            if text not in options:
                return field, f"{field} {brief(text)} is not one of the options {brief(list(options))}"
    return None


def _free_text_problem(example: Example) -> tuple[str, str] | None:
    """The first fault of an example without options, as `find_problem`."""
    if example.metric == "accuracy":
        others = ", ".join(name for name in METRICS if name != "accuracy")
        return "options", f"metric 'accuracy' needs options; give two or more, or use one of {others}"
    if example.tokenize and not {example.metric, *example.also} & set(CORPUS):
        return "tokenize", f"tokenize {brief(example.tokenize)} with metric {example.metric!r}; it is BLEU's, drop it"
    if example.tokenize and example.tokenize not in TOKENIZERS:
        return "tokenize", f"unknown tokenize {brief(example.tokenize)}{nearest(example.tokenize, TOKENIZERS)}"
    return None


def _further_problem(example: Example) -> tuple[str, str] | None:
    """The first of the further metrics that the example cannot have, as `find_problem`."""
    classes = bool(example.options) and not example.references
    for name in example.also:
        if name not in FURTHER:
            return "also", f"also: unknown metric {brief(name)}{nearest(name, FURTHER)}"
        if name == example.metric or example.also.count(name) > 1:
            return "also", f"also: {name!r} is named twice, or is the metric itself; name it once"
        needs = None
        if name in CORPUS and example.options:
            needs = "free text, not options"
        elif name in ("accuracy", *CLASSES) and not classes:
            needs = "options, of which one is right"
        elif name in ("binary_f1", "f1a") and len(example.options) != 2:
            needs = f"two options, of which the second is the positive class; there are {len(example.options)}"
        elif name in GROUPS and not (example.group_id and example.cluster_id):
            needs = "a group_id, the question that an answer belongs to, and a cluster_id"
        if needs:
            return "also", f"also: metric {name!r} needs {needs}"
    return None


def _references_problem(example: Example) -> tuple[str, str] | None:
    """A right answer of which a metric leaves nothing, as `find_problem`."""
    for metric in (example.metric, *example.also):
        for text in example.right_answers:
            if problem := nothing_left(text, metric):
                return "target" if text == example.target else "references", problem
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


def options_block(options: Iterable[str]) -> str:
    """The choices as FLAN's prompts list them: "OPTIONS:", and one "- " line each."""
    return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options)


def score(example: Example, prediction: str) -> float:
    """Quality of one prediction in [0, 1].

    `accuracy`, `exact_match`: 1 if prediction and a right answer are equal once runs of white space are one space, case
    counting; others: see `scoring.quality_of`. The corpus scores of a whole cascade are no mean of these.
    """
    if not isinstance(prediction, str):
        raise TypeError(f"item {example.item_id!r}: prediction must be text, not {type(prediction).__name__}")
    return example.quality(prediction, example.metric)


def file_stem(source: str | Path) -> str:
    """The name of a file without folder and known ending; a registry name as it is; "@test" and the like stay.

    So does the task that is made of a text: "true_case:texts/own.txt" is "true_case:own.txt".
    """
    name, split = _chosen_split(str(source))
    made, _, text = name.partition(":")
    task = f"{made}:" if text and re.fullmatch(r"[\w.-]+", made) and not Path(name).is_file() else ""
    name = task + Path(name.removeprefix(task)).name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return f"{name}@{split}" if split else name


def _chosen_split(part: str) -> tuple[str, str]:
    """A part of a suite's name as (name or file, the one split asked for; "" for all)."""
    base, mark, split = part.rpartition("@")
    # An "@" may also stand in the name of a file or folder.
    if not mark or part.endswith(_ENDINGS) or Path(part).is_file() or re.search(r"[/\\.]", split):
        return part, ""
    if split not in SPLITS:
        raise ValueError(f"{part!r}: unknown split {split!r} after '@'{nearest(split, SPLITS)}")
    return base, split
