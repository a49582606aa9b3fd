"""A completion as servers send it, read into one form, and what of it cannot be believed.

Servers with OpenAI's completions endpoint have two forms of log-probabilities, leave fields out, and some return
numbers that are none: `Completion` is the common form, `read_completion` refuses in words what no model can have said.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from cat_core.engines.contract import EXCESS, EngineError
from cat_core.tasks.schema import brief

ROUNDING = 1e-3
"""By how many nats the token that was produced may be less probable than the most probable one."""


class Position(NamedTuple):
    """One token of a completion: its id, or its text where the server gives no ids; log-probability (NaN: null);
    those of the most probable tokens there, best first; its text."""

    token: int | str
    logprob: float
    top: list[float]
    text: str


@dataclass(frozen=True)
class Completion:
    """text: as sent; reason: `finish_reason`; positions: tokens with log-probabilities, those of an echoed prompt in
    front; n_prompt, n_generated: what the server counted (0 = not known; without a count the positions are counted)."""

    text: str
    reason: str | None
    positions: list[Position]
    n_prompt: int
    n_generated: int

    @property
    def whole(self) -> bool:
        """Whether there is a position for every token that was generated (without an echoed prompt)."""
        return len(self.positions) == self.n_generated

    def written(self, count: int) -> str:
        """The text of the first tokens, as the server gives it."""
        return "".join(position.text for position in self.positions[:count])


def read_completion(reply) -> Completion:
    """The completion of one prompt. Raises EngineError where the reply is none, or log-probabilities are none."""
    try:
        # several are answers to the same prompt: the first by number, in whatever order they stand
        choice = min(reply["choices"], key=lambda choice: choice.get("index") or 0)
        usage = {key: n for key, n in (reply.get("usage") or {}).items() if n is not None}
        positions = read_positions(choice)
        made = Completion(
            choice["text"] or "",
            choice.get("finish_reason"),
            positions,
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", len(positions)),
        )
        fits = isinstance(made.text, str) and isinstance(made.reason, str | None)
        fits &= all(isinstance(n, int) and n >= 0 for n in (made.n_prompt, made.n_generated))
        fits &= all(isinstance(p.token, int | str) and isinstance(p.text, str) for p in positions)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise EngineError(f"the server answered without a completion that can be read: {brief(reply)}")
    for position in positions:
        if positive := [x for x in (position.logprob, *position.top) if x > 0]:
            kind = "probabilities instead of their logarithms, perhaps" if max(positive) <= 1 else "not normalised"
            raise EngineError(
                f"the server gives the token {position.text!r} a log-probability above 0 ({positive[0]:.6g}: {kind}); "
                "take another server or version"
            )
        if (total := sum(map(math.exp, position.top))) > 1 + EXCESS:
            raise EngineError(
                f"the server gives the most probable tokens beside {position.text!r} probabilities that add up to "
                f"{total:.4g} (log-probabilities {brief(position.top)}); take another server or version"
            )
    return made


def read_positions(choice: dict) -> list[Position]:
    """The positions of a completion, from either form.

    Reads OpenAI's columns (`tokens`, `token_logprobs`, `top_logprobs`) and the rows of `content` that llama.cpp
    returns. Of the first position of an echoed prompt, which nothing precedes, the log-probability is NaN.
    """
    table = choice.get("logprobs") or {}
    if "content" in table:
        return [
            Position(
                row.get("id", row["token"]),
                _number(row["logprob"]),
                _descending(t["logprob"] for t in row["top_logprobs"]),
                row["token"],
            )
            for row in table["content"] or []
        ]
    tokens, logprobs = table.get("tokens") or [], table.get("token_logprobs") or []
    tops = table.get("top_logprobs") or [None] * len(tokens)
    ids = choice.get("token_ids")
    names = ids if ids and len(ids) == len(tokens) else tokens
    return [
        Position(name, _number(logprob), _descending((top or {}).values()), text)
        for name, logprob, top, text in zip(names, logprobs, tops, tokens)
    ]


def check_greedy(made: Completion) -> None:
    """Raise EngineError where a generated token has no number, was not the most probable, or is not of the text."""
    if not made.positions and made.text and made.text.isascii():
        # of characters of several bytes a server may leave out the tokens, so only plain text tells
        raise EngineError("the server returns no log-probabilities ('logprobs'), which confidence is made of")
    if gaps := [position.text for position in made.positions if math.isnan(position.logprob)]:
        raise EngineError(
            f"the server gives no number (null or NaN) for {len(gaps)} of {len(made.positions)} tokens, "
            f"first {gaps[0]!r}; take another server or version"
        )
    if any(top and top[0] > logprob + ROUNDING for _, logprob, top, _ in made.positions):
        raise EngineError(
            "the server produced a token that was not the most probable one: switch off its penalties and "
            "samplers (vLLM: --generation-config vllm)"
        )
    if made.whole and not in_order(made.text, made.written(len(made.positions))):
        raise EngineError(
            f"the tokens of the server's answer are not those of its text, or in another order: "
            f"{brief([position.text for position in made.positions])} for {brief(made.text)}"
        )


def in_order(text: str, written: str) -> bool:
    """Whether the ASCII letters and digits of `text` are among those of `written`, in their order.

    Blanks, special tokens and parts of characters are shown in many ways, letters and digits in one.
    """
    rest: Iterator[str] = iter(written)
    return all(letter in rest for letter in text if letter.isascii() and letter.isalnum())


def of_prompt(positions: Sequence[Position], ids: Sequence[int], texts: Sequence[str]) -> bool:
    """Whether an echo begins with the tokens sent, one position each: by id, or by letters and digits of their text."""
    return len(positions) >= len(ids) and all(
        position.token == token if isinstance(position.token, int) else in_order(text, position.text)
        for position, token, text in zip(positions, ids, texts)
    )


def token_ids(tokenizer, positions: Sequence[Position]) -> list[int]:
    """The ids of the first tokens; where the server gives texts, up to the first that several ids have, or none."""
    if all(isinstance(position.token, int) for position in positions):
        return [position.token for position in positions]
    wanted: dict[str, list[int]] = {position.text: [] for position in positions}
    for i, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer))])):
        if text in wanted:
            wanted[text].append(i)
    ids = [wanted[position.text] for position in positions]
    return [i for i, *_ in takewhile(lambda found: len(found) == 1, ids)]


def _number(logprob) -> float:
    return math.nan if logprob is None else float(logprob)


def _descending(values) -> list[float]:
    return sorted((float(value) for value in values if value is not None), reverse=True)
