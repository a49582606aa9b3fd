"""The contract of an engine: whatever answers queries and says how probable each token was.

An engine gives two things: greedy answers with the log-probability of every token (`generate`), and the
log-probabilities of given options (`score`). `Engine.answer` makes of them what a cascade needs, finished batches kept
on disk.

Nothing is guessed: rules whose numbers an engine lacks are left out of the confidences, FLOPs are counted where the
model's configuration is at hand, and are None elsewhere. Token conventions are those of `queries`, where the engine
takes token ids.

Numbers are not believed blindly: what no model can have said (`implausible`) is refused, with the item's name.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch

from cat_core.confidence import answer_confidence, option_confidence
from cat_core.files import Store
from cat_core.flops import option_flops, request_flops, shape_of
from cat_core.queries import UNCONDITIONAL, Response, best_option, check_requests, run_batches

RECORDS = "1: answers of engines"
"""What the stored batches hold: a store with another kind of records is refused."""


class EngineError(RuntimeError):
    """An engine cannot do what is asked of it, or does not answer. The message is one line."""


@dataclass(frozen=True)
class Answer:
    """What an engine produced for one prompt, or its reading of one option.

    text: without special tokens and outer white space, or the option as given; n_prompt, n_generated: token
    counts, BOS and EOS included as far as the engine counts them, 0 = not known; ended: EOS or a stop was reached;
    tokens: ids, or texts where the engine knows no ids; logprobs: natural-log probability of each token. Both are
    empty where the engine did not give one for every token. margins, entropies: as in `queries.Response`, empty
    where the engine does not give them.
    """

    text: str
    n_prompt: int
    n_generated: int
    ended: bool
    tokens: list[int] | list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


class Engine(ABC):
    """The protocol: `generate`, `score` and `describe` are an engine's own, `answer` is common to all.

    batch_items: queries of one stored batch; prediction: how an option is chosen, of `queries.PREDICTIONS`;
    config: the model's transformers configuration, or None where it is not known;
    unknown_costs: why responses have no FLOPs, where an engine can say it.
    """

    batch_items = 128
    prediction = "sum"
    config = None
    unknown_costs = ""

    @abstractmethod
    def generate(self, prompts: Sequence[str]) -> list[Answer]:
        """Greedy answers, in the order of the prompts."""

    @abstractmethod
    def score(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[list[Answer]]:
        """The given options of each prompt, every one with its log-probabilities, EOS included."""

    @abstractmethod
    def describe(self) -> dict:
        """All that the numbers of this engine depend on, as plain JSON: a store of another engine is refused."""

    def answer(self, requests: Sequence, progress=None, store=None) -> list[Response]:
        """Answers to requests, in their order.

        requests: `Request`s or anything with item_id, prompt and options; progress: True for a bar, or a function of
        (items done, items in all); store: folder of finished batches, from which a killed run goes on. Raises one-line
        ValueErrors and EngineErrors that name the item.
        """
        requests = check_requests(requests)
        items = f"{len(requests)} {requests_digest(requests)}"
        plan = {"records": RECORDS, "items": items, "batch_items": self.batch_items}
        plan |= {"unconditional": UNCONDITIONAL} if self.prediction == "pmi" else {}
        kept = None if store is None else Store(store, plan | self.describe())
        return run_batches(requests, self._plan(requests), self._compute, self._responses, kept, progress, "engine")

    def _plan(self, requests: list) -> list[list[int]]:
        """Batches of places: those that generate, then those with options; long prompts first, as they may not fit."""
        plan = []
        for scored in (False, True):
            places = [i for i, request in enumerate(requests) if bool(request.options) == scored]
            places.sort(key=lambda i: -len(requests[i].prompt))
            plan += [places[i : i + self.batch_items] for i in range(0, len(places), self.batch_items)]
        return plan

    def _compute(self, requests: list) -> list[list[dict]]:
        prompts = [request.prompt for request in requests]
        if requests[0].options:
            asked = [prompts] + [[UNCONDITIONAL] * len(prompts)] * (self.prediction == "pmi")
            parts = [self.score(read, [request.options for request in requests]) for read in asked]
        else:
            parts = [[[answer] for answer in self.generate(prompts)]]
        for results in parts:
            for request, answers in zip(requests, results, strict=True):
                if problem := implausible(answers):
                    raise EngineError(f"item {request.item_id!r}: the engine gives {problem}")
        return [[asdict(answer) for answers in results for answer in answers] for results in zip(*parts)]

    def _responses(self, requests: list, records: list[list[dict]]) -> list[Response]:
        rows = ([Answer(**answer) for answer in answers] for answers in records)
        return [self._response(request, answers) for request, answers in zip(requests, rows)]

    def _response(self, request, answers: list[Answer]) -> Response:
        """The response with the confidences and costs that the numbers at hand define."""
        table: dict[str, float] = {}
        sums, best = [], 0
        if request.options:
            sums = [math.fsum(answer.logprobs) for answer in answers]
            best = best_option(sums, request.options, [len(answer.logprobs) for answer in answers], self.prediction)
            sums = sums[: len(request.options)]
            table |= _values(option_confidence(torch.tensor([sums], dtype=torch.float64), chosen=torch.tensor([best])))
        answer = answers[best]
        if answer.logprobs:
            rows = (answer.logprobs, answer.margins, answer.entropies)
            columns = [torch.tensor([row], dtype=torch.float64) if row else None for row in rows]
            table = _values(answer_confidence(*columns, torch.ones_like(columns[0], dtype=torch.bool))) | table
        flops = None
        if self.config is not None and answer.n_prompt and request.options:
            k = len(request.options)  # for "pmi", the options follow again, after another prompt
            parts = [answers[i : i + k] for i in range(0, len(answers), k)]
            flops = sum(option_flops(self.config, part[0].n_prompt, [a.n_generated for a in part]) for part in parts)
        elif self.config is not None and answer.n_prompt and answer.n_generated:
            flops = request_flops(self.config, answer.n_prompt, answer.n_generated)
        return Response(
            item_id=request.item_id,
            prediction=answer.text,
            n_prompt=answer.n_prompt,
            n_generated=answer.n_generated,
            truncated=not answer.ended,
            token_logprobs=answer.logprobs,
            flops=flops,
            confidences=table,
            tokens=answer.tokens,
            option_logprobs=sums,
            token_margins=answer.margins,
            token_entropies=answer.entropies,
        )


def _values(rules: dict) -> dict[str, float]:
    return {name: value.item() for name, value in rules.items()}


NEAR_ZERO = -1e-3
"""A log-probability above this is that of a token which is nearly certain: float32 rounds many to one number."""
CERTAIN = (5.0, 1000.0)
"""The margins, in nats, of tokens that are nearly certain. More stand for a runner-up whose probability was cut off."""
EXCESS = 0.25
"""By how much probabilities that exclude each other may add up to more than 1: options, each read in a pass of its own
and rounded there, as with 4-bit weights, and tokens whose log-probabilities a server rounds."""


def implausible(answers: Sequence[Answer]) -> str | None:
    """What in an answer, or in the options of one prompt, no model can have said, in words; None where all is well.

    NaN and infinities; numbers above 0; probabilities of options that exclude each other and add up to more than
    1 (+ `EXCESS`); and one number for everything: three log-probabilities or more of different tokens, or two near 0.
    A token may well have probability 1 in float32. So numbers near 0 that are all one are believed of a single token,
    however often it stands there, and where the margins, which must be in `CERTAIN`, say the same.
    """
    numbers = [value for answer in answers for value in answer.logprobs]
    if not all(map(math.isfinite, numbers)):
        return (
            "NaN or infinite log-probabilities: its weights are damaged, its number type overflows, or a server knows "
            "the most probable tokens only"
        )
    advice = "take another engine, server or version of it"
    if positive := [value for value in numbers if value > 0]:
        return f"a log-probability above 0 ({positive[0]:.6g}): {advice}"
    several = len({token for answer in answers for token in answer.tokens}) > 1
    if several and len(set(numbers)) == 1 and not _certain(numbers, answers):
        return (
            f"each of {len(numbers)} tokens the log-probability {numbers[0]:.6g}, so it does not compute them: {advice}"
            + (", or leave the options out" if len(answers) > 1 else "")
        )
    sums = {tuple(answer.tokens): math.fsum(answer.logprobs) for answer in answers if answer.logprobs}
    begun = {tokens for tokens in sums if any(tokens[:n] in sums for n in range(1, len(tokens)))}
    if (total := math.fsum(math.exp(sums[tokens]) for tokens in sums.keys() - begun)) > 1 + EXCESS:
        return (
            f"its {len(answers)} options probabilities that add up to {total:.4g}: {advice}, or leave the options out"
        )
    return None


def _certain(numbers: list[float], answers: Sequence[Answer]) -> bool:
    """Whether numbers that are all one may be right: too few to tell, or near 0 with margins that say so."""
    if numbers[0] < NEAR_ZERO:
        return len(numbers) < 3
    margins = [margin for answer in answers for margin in answer.margins]
    return len(numbers) < 2 or len(margins) == len(numbers) and all(CERTAIN[0] <= x <= CERTAIN[1] for x in margins)


def requests_digest(requests: Sequence) -> str:
    """sha256, in hex digits, of all that is asked."""
    return hashlib.sha256(json.dumps([[r.item_id, r.prompt, list(r.options)] for r in requests]).encode()).hexdigest()


def scored(prompt: list[int], texts: Sequence[str], options: Sequence[list[int]], numbers) -> list[Answer]:
    """The answers of `Engine.score` for one prompt, from ids and, of each option, [logprobs, margins, ...]."""
    return [Answer(text, len(prompt), len(ids), True, ids, *row) for text, ids, row in zip(texts, options, numbers)]


def known_config(config):
    """The configuration where its FLOPs can be counted exactly, else None: a cost is never guessed."""
    try:
        return None if config is None or shape_of(config).encoder is not None else config
    except ValueError:
        return None
