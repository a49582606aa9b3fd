"""An example: one query with its answer; what makes it fit, and how a prediction is scored."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cat_core.tasks.schema import brief, nearest

SPLITS = ("train", "calibration", "test")
METRICS = ("accuracy", "exact_match", "bleu", "chrf")
BUILT_IN = ("mini-superglue", "mini-wmt", "mini-flan")
FILE_ENDINGS = (".jsonl", ".jsonl.gz")
_ENDINGS = (*FILE_ENDINGS, ".yaml", ".yml")


@dataclass(frozen=True)
class Example:
    """One query with its answer.

    `options` is empty for free generation; else the prediction is the option with the best log-probability and `target`
    is one of them. Items that share a passage share a `cluster_id`, and are resampled together; "" means that the item
    stands alone (a `Suite` fills in the item_id).
    """

    item_id: str
    task: str
    split: str
    prompt: str
    target: str
    options: tuple[str, ...] = ()
    metric: str = "accuracy"
    cluster_id: str = ""


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
            return ("options", "metric 'accuracy' needs options; give two or more, or use exact_match, bleu or chrf")
        return None
    if example.metric != "accuracy":
        return ("metric", f"metric {example.metric!r} with options; items with options are scored by 'accuracy'")
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


def options_block(options: Iterable[str]) -> str:
    """The choices as FLAN's prompts list them: "OPTIONS:", and one "- " line each."""
    return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options)


def score(example: Example, prediction: str) -> float:
    """Quality of one prediction in [0, 1].

    `accuracy`, `exact_match`: 1 if prediction and target are equal once runs of white space are one space, case
    counting. `bleu`, `chrf`: sacrebleu's sentence score / 100 (BLEU with effective order, so that short sentences are
    not zero; tokenizer 13a). The corpus scores of a whole cascade are in `curves`, and are no mean of these.
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


def file_stem(source: str | Path) -> str:
    """The name of a file without folder and known ending; a registry name as it is; "@test" and the like stay."""
    name, split = _chosen_split(str(source))
    name = Path(name).name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return f"{name}@{split}" if split else name


def _chosen_split(part: str) -> tuple[str, str]:
    """A part of a suite's name as (name or file, the one split asked for; "" for all)."""
    base, mark, split = part.rpartition("@")
    # An "@" may also stand in the name of a file or folder.
    if not mark or part.endswith(_ENDINGS) or Path(part).is_file():
        return part, ""
    if split not in SPLITS:
        raise ValueError(f"{part!r}: unknown split {split!r} after '@'{nearest(split, SPLITS)}")
    return base, split
