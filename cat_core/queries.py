"""Queries and answers: what goes into a cascade, what each model gives back, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

PREDICTIONS = ("sum", "average")
"""How an option is chosen: by its summed log-probability, or by the mean a token."""


@dataclass(frozen=True)
class Request:
    """One query: a unique `item_id`, the text given to the model, answer options (none = free generation)."""

    item_id: str
    prompt: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Response:
    """One model's answer to one query. Token counts include BOS in the prompt and EOS in the answer.

    prediction: generated text without special tokens and outer white space, or the chosen option as given;
    tokens, token_logprobs: the answer's ids and natural-log probabilities;
    truncated: generation reached max_new_tokens without EOS; prompt_truncated: the prompt was cut left;
    flops: cost of this answer, the item taken alone (None where an engine's shape is not known: see `engines`);
    confidences: by rule name, high = keep;
    option_logprobs: summed log-probability of every option, in the order given;
    token_margins, token_entropies: log p(top1) - log p(top2) and entropy, in nats, of the distribution at each
    position of the answer; unfinished: early exit stopped the answer, so all of this is of the part that was
    generated, and confidences has the rules of `early_exit.EXACT_RULES` alone, each an upper bound.
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
        paid = [[each.flops for each in pair if each is not None] for pair in zip(self.small, self.large)]
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
        if len(options) == 1:
            raise ValueError(f"item {name!r} has one option: give two or more, or none for free generation")
        if not all(option.strip() for option in options):
            raise ValueError(f"item {name!r} has an empty option")
        if len({" ".join(option.split()) for option in options}) < len(options):
            raise ValueError(f"item {name!r} has the same option twice (white space is no difference)")
    return requests


def best_option(sums: Sequence[float], lengths: Iterable[int], prediction: str) -> int:
    """Index of the option of greatest log-probability: summed, or the mean a token for prediction "average"."""
    values = [total / n for total, n in zip(sums, lengths)] if prediction == "average" else list(sums)
    return values.index(max(values))


def progress_line(progress, what: str, total: int) -> tuple[Callable[[int], None], Callable[[], None]]:
    """(show, close) of a progress report: nothing, the caller's function, or a bar."""
    if progress is None or progress is False:
        return (lambda done: None), (lambda: None)
    if callable(progress):
        return (lambda done: progress(done, total)), (lambda: None)
    from tqdm.auto import tqdm

    bar = tqdm(total=total, desc=what, unit="item")
    return (lambda done: bar.update(done - bar.n)), bar.close
