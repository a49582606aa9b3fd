"""Seeded draws of examples: limits, calibration rows out of train, the splits of a file that has none, mixing.

A draw goes by the order of a SHA-256 of the seed and the name of the item (or of its cluster): the same on
every machine and version, and a larger draw holds the smaller one.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from cat_core.tasks.example import Example

# Where a data set has no calibration rows: this share of train's clusters, at most so many rows.
CARVED_SHARE, CARVED_ROWS = 0.1, 1_000


def draw_order(keys: Iterable[str], seed: int) -> list[str]:
    """The distinct keys in an order that only they and the seed decide (a SHA-256 of each)."""
    return sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest())


def draw_key(example: Example) -> str:
    """What must stay on one side of a drawn split: the cluster; for an item without one, its prompt."""
    return f"cluster {example.cluster_id}" if example.cluster_id else f"prompt {example.prompt}"


def carve_calibration(examples: list[Example], seed: int) -> list[Example]:
    """The same examples, some of train's clusters made calibration if there is no calibration item yet."""
    sizes = Counter(draw_key(e) for e in examples if e.split == "train")
    if len(sizes) < 2 or any(e.split == "calibration" for e in examples):
        return examples
    taken, rows = set(), 0
    for key in draw_order(sizes, seed)[: max(1, int(CARVED_SHARE * len(sizes)))]:
        if taken and rows + sizes[key] > CARVED_ROWS:
            break
        taken.add(key)
        rows += sizes[key]
    return [
        dataclasses.replace(e, split="calibration") if e.split == "train" and draw_key(e) in taken else e
        for e in examples
    ]


def draw_splits(examples: list[Example], seed: int) -> list[Example]:
    """80 % train, 10 % calibration, 10 % test of the clusters, for a file that names no splits."""
    keys = draw_order((draw_key(e) for e in examples), seed)
    tenth = max(1, round(len(keys) / 10))
    split_of = dict.fromkeys(keys[:tenth], "test") | dict.fromkeys(keys[tenth : 2 * tenth], "calibration")
    return [dataclasses.replace(e, split=split_of.get(draw_key(e), "train")) for e in examples]


def limit(examples: list[Example], limits: Mapping[str, int], seed: int) -> list[Example]:
    """At most `limits[split]` examples of every task's split (no limit: all), in the order given.

    The answers to one question (`group_id`) are taken together or not at all. Raises ValueError where nothing of a task
    fits under its limit.
    """
    sizes: dict[tuple[str, str], Counter] = {}
    for example in examples:
        if example.split in limits:
            sizes.setdefault((example.task, example.split), Counter())[_limit_key(example)] += 1
    kept: dict[tuple[str, str], set[str]] = {}
    for place, count in sizes.items():
        kept[place], room = set(), limits[place[1]]
        for key in draw_order(count, seed):
            if (room := room - count[key]) < 0:
                break
            kept[place].add(key)
        if not kept[place]:
            task, split = place
            raise ValueError(
                f"limits: {split} is {limits[split]}, but task {task!r} has questions with more answers, which are "
                f"taken whole; raise it to {max(count.values())}, or leave the task out"
            )
    return [e for e in examples if e.split not in limits or _limit_key(e) in kept[e.task, e.split]]


def _limit_key(example: Example) -> str:
    return f"group {example.group_id}" if example.group_id else example.item_id


def draw_shots(examples: list[Example], count: int, seed: int) -> dict[str, list[Example]]:
    """Task -> `count` of its training examples (all, if there are fewer), to stand before every prompt.

    Drawn so that every target comes up equally often, as far as there are examples, prompts that repeat left out.
    """
    shots: dict[str, list[Example]] = {}
    for task in dict.fromkeys(e.task for e in examples):
        by_prompt = {e.prompt: e for e in reversed(examples) if e.task == task and e.split == "train"}
        left = [by_prompt[prompt] for prompt in draw_order(by_prompt, seed)]
        chosen: list[Example] = []
        while left and len(chosen) < count:
            used = Counter(e.target for e in chosen)
            chosen.append(left.pop(min(range(len(left)), key=lambda i: (used[left[i].target], i))))
        shots[task] = chosen
    return shots


def mix(examples: list[Example], cap: int, rounds: int, seed: int) -> list[Example]:
    """The examples with train mixed as FLAN does: in every round, each task gives its next min(n, cap) of n examples.

    Source: Wei et al. 2022, arXiv 2109.01652, sec. 2.1: examples-proportional mixing with a rate maximum of 3,000, the
    number of examples beyond which a data set has no more weight (data sets themselves are cut at 30,000 before, by
    `limit`). A task goes through a permutation of its own, drawn from the seed, again and again: of a large task every
    round has other examples until all were there, a small one repeats. The k-th copy of an example has the item_id
    "<item_id>#k", and the cluster of the first. Train comes first, round by round; calibration and test are as they
    were. After ceil(n / cap) rounds every example of a task of n was there.
    """
    queues: dict[str, dict[str, Example]] = {}
    for example in examples:
        if example.split == "train":
            queues.setdefault(example.task, {})[example.item_id] = example
    orders = {task: draw_order(queue, seed) for task, queue in queues.items()}
    mixed = []
    for number in range(rounds):
        for task, order in orders.items():
            share = min(len(order), cap)
            for place in range(number * share, (number + 1) * share):
                example = queues[task][order[place % len(order)]]
                mixed.append(_copy(example, place // len(order) + 1))
    return mixed + [e for e in examples if e.split != "train"]


def _copy(example: Example, number: int) -> Example:
    if number == 1:
        return example
    cluster = example.cluster_id or example.item_id
    return dataclasses.replace(example, item_id=f"{example.item_id}#{number}", cluster_id=cluster)
