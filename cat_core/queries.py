"""Queries and answers: what goes into a cascade, what each model gives back, what comes out; and as token ids.

Texts become ids as `text.TextFormat` says: a prompt that a causal model goes on from, with BOS where the tokenizer adds
it, and an answer that follows it and ends with EOS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

PREDICTIONS = ("sum", "average", "characters", "bytes", "pmi")
"""How an option is chosen: by its summed log-probability; by the mean a token, a character or a byte (UTF-8) of it; or
by what the prompt adds to it, log p(option | prompt) - log p(option | `UNCONDITIONAL`) (PMI_DC, Holtzman et al. 2021,
arXiv 2104.08315). lm-evaluation-harness 0.4.13 has acc (sum), acc_norm (characters), acc_bytes and acc_mutual_info."""
UNCONDITIONAL = "Answer:"
"""In place of the prompt for "pmi": the domain alone. It is read for every item, and its FLOPs are counted."""


@dataclass(frozen=True)
class Request:
    """One query: a unique `item_id`, the text given to the model, answer options (none = free generation)."""

    item_id: str
    prompt: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Response:
    """One model's answer to one query. Token counts include BOS in the prompt and what ends the answer.

    prediction: generated text without special tokens, outer white space and the string that stopped it, or the chosen
    option as given;
    tokens, token_logprobs: the answer's ids and natural-log probabilities, to the end (`text.TextFormat`);
    truncated: generation reached max_new_tokens without an end; prompt_truncated: the prompt was cut left;
    flops: cost of this answer, the item taken alone (None where an engine's shape is not known: see `engines`);
    confidences: by rule name, high = keep;
    option_logprobs: summed log-probability of every option, in the order given;
    token_margins, token_entropies: log p(top1) - log p(top2) and entropy, in nats, of the distribution at each
    position of the answer; unfinished: early exit stopped the answer, so all of this is of the part that was
    generated, and confidences has the rules of `inference.EXACT_RULES` alone, each an upper bound.
    """

    item_id: str
    prediction: str
    n_prompt: int
    n_generated: int
    truncated: bool
    token_logprobs: list[float]
    flops: int | None
    confidences: dict[str, float]
    tokens: list[int] = field(default_factory=list)
    option_logprobs: list[float] = field(default_factory=list)
    prompt_truncated: bool = False
    token_margins: list[float] = field(default_factory=list)
    token_entropies: list[float] = field(default_factory=list)
    unfinished: bool = False

    @property
    def empty(self) -> bool:
        """Whether the model ended the answer before it had said anything."""
        return not self.prediction.strip()


@dataclass(frozen=True)
class CascadeResult:
    """A cascade run: S on all, L on the deferred. All sequences are in request order.

    confidence [n] float64 and deferred [n] bool as routed by `rule` at threshold `tau`; small: S's answers,
    after an early exit some of them unfinished; large: L's answer where deferred, else None.
    """

    tau: float
    rule: str
    confidence: np.ndarray
    deferred: np.ndarray
    small: list[Response]
    large: list[Response | None]

    @property
    def responses(self) -> list[Response]:
        """The cascade's answers: L's where the query was deferred, S's elsewhere."""
        return [small if large is None else large for small, large in zip(self.small, self.large)]

    @property
    def flops(self) -> list[int | None]:
        """FLOPs an item: S is paid for every query, L on top for the deferred. None where either is not known."""
        paid = [[response.flops for response in pair if response is not None] for pair in zip(self.small, self.large)]
        return [None if None in costs else sum(costs) for costs in paid]


@dataclass(frozen=True)
class Item:
    """A request in token ids: BOS and what truncation left of the prompt; options with their EOS."""

    item_id: str
    prompt: list[int]
    options: list[list[int]]
    texts: tuple[str, ...]
    shortened: bool


def check_requests(requests: Sequence) -> list:
    """The requests as a list; a one-line ValueError that names the item where ids, prompts or options are unfit."""
    requests = list(requests)
    if not requests:
        raise ValueError("the request list is empty: give at least one query")
    seen = set()
    for request in requests:
        name, options = request.item_id, tuple(request.options)
        if name in seen:
            raise ValueError(f"item id {name!r} occurs twice: ids must be unique")
        seen.add(name)
        if not isinstance(request.prompt, str) or not all(isinstance(option, str) for option in options):
            raise ValueError(f"item {name!r}: prompt and options must be text")
        if any(re.search("[\ud800-\udfff]", text) for text in (request.prompt, *options)):
            raise ValueError(f"item {name!r}: half a surrogate pair, which is no Unicode text, in prompt or options")
        if len(options) == 1:
            raise ValueError(f"item {name!r} has one option: give two or more, or none for free generation")
        if not all(option.strip() for option in options):
            raise ValueError(f"item {name!r} has an empty option")
        if len({" ".join(option.split()) for option in options}) < len(options):
            raise ValueError(f"item {name!r} has the same option twice (white space is no difference)")
    return requests


def best_option(sums: Sequence[float], texts: Sequence[str], tokens: Iterable[int], prediction: str) -> int:
    """Index of the best of k options by one of `PREDICTIONS`; the first of equals.

    sums: their log-probabilities, for "pmi" those after `UNCONDITIONAL` behind them; tokens: how many each has.
    """
    sizes = {"average": tokens, "characters": map(len, texts), "bytes": (len(text.encode()) for text in texts)}
    values = [total / n for total, n in zip(sums, sizes.get(prediction, [1] * len(texts)))]
    if prediction == "pmi":
        values = [total - alone for total, alone in zip(sums, sums[len(texts) :])]
    return values.index(max(values))


# ---------------------------------------------------------------- token ids and batches


def aligned(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Token ids and mask, int64 [B, T], of rows whose prompts end, and whose targets begin, at one column; that column.

    Prompts are padded on the left and targets on the right.
    """
    before, after = max(map(len, prompts)), max(map(len, targets))
    ids = np.full((len(prompts), before + after), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, (prompt, target) in enumerate(zip(prompts, targets)):
        first, last = before - len(prompt), before + len(target)
        ids[row, first:before], ids[row, before:last] = prompt, target
        mask[row, first:last] = 1
    return ids, mask, before


def plan_batches(lengths: Sequence[tuple[int, int, int]], batch_tokens: int) -> list[list[int]]:
    """Indices of the items of each batch; a pure function of its arguments.

    lengths: per item (prompt tokens, tokens that follow, rows: 1, or the number of options). Longest prompts
    first, so that little is padded and memory runs out in the first minute or never; ties keep their order.
    Rows x (longest prompt + longest rest) stays within `batch_tokens`; a larger item is a batch by itself.
    """
    batches: list[list[int]] = []
    width = rest = rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i][0], i)):
        prompt, more, count = lengths[index]
        if batches and (rows + count) * (width + max(rest, more)) <= batch_tokens:
            batches[-1].append(index)
            rest, rows = max(rest, more), rows + count
        else:
            batches.append([index])
            width, rest, rows = prompt, more, count
    return batches


def run_batches(items: Sequence, batches, compute, read, store=None, progress=None, what: str = "") -> list:
    """What `read(members, compute(members))` gives of the items of each batch of indices, in the order of the items.

    store: a `files.Store`, whose finished batches are not computed again; progress: None, a function of (items done,
    items in all), or True for a bar named `what`.
    """
    bar, results = nullcontext(), {}
    if progress and not callable(progress):
        from tqdm.auto import tqdm

        bar = tqdm(total=len(items), desc=what, unit="item")
    with bar:
        for number, batch in enumerate(batches):
            members = [items[i] for i in batch]
            records = store.load(number) if store else None
            if records is None:
                records = compute(members)
                if store:
                    store.save(number, records)
            results.update(zip(batch, read(members, records)))
            if callable(progress):
                progress(len(results), len(items))
            elif progress:
                bar.update(len(batch))
    return [results[i] for i in range(len(items))]


def check_settings(max_new_tokens: int, prediction: str, batch_tokens: int = 1) -> None:
    """A one-line ValueError for a setting that `CascadeRunner` would refuse."""
    for name, value in (("batch_tokens", batch_tokens), ("max_new_tokens", max_new_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction rule {prediction!r}: choose {' or '.join(PREDICTIONS)}")
