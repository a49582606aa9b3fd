"""The token microscope: a target under training, token by token: first guesses of S and L, the mask, the gradient.

One HTML fragment that needs no kernel, no network and no library. Python computes and formats every number; the script
looks them up. Every text is escaped, because it comes from data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template

import torch

from cat_book.drawing import markup
from cat_book.drawing.markup import escape
from cat_book.drawing.styles import TOKEN_STYLE, token_kind
from cat_core.analysis.quantities import fixed, true_minus
from cat_core.loss import is_right

KINDS = tuple(TOKEN_STYLE)
WORDS, HALF = 4, 60.0  # tokens of the vocabulary that are shown; longest bar, in units of its view box
LONGEST = 300  # characters of a prompt that are shown


@dataclass(frozen=True)
class Sentence:
    """A target and what both models make of it.

    labels: int64 [T]; large: log-probabilities [T, V] of L; small: the same of S, by training step, in rising order.
    """

    prompt: str
    labels: torch.Tensor
    large: torch.Tensor
    small: Mapping[int, torch.Tensor]


def push(small: torch.Tensor, large: torch.Tensor, labels: torch.Tensor, label_weight: float = 1.0) -> torch.Tensor:
    """Where a step of gradient descent pushes S's logits: minus the gradient of CAT's loss, token by token.

    small, large: log-probabilities [T, V]; labels: int64 [T]. Returns [T, V]: alpha (w e_y + (1 - w) p_L - p_S), with
    w = label_weight and alpha 0 where neither model is right. Derived on the book's page `02_cat_loss`.
    """
    target = label_weight * torch.nn.functional.one_hot(labels, small.shape[1]) + (1 - label_weight) * large.exp()
    kept = is_right(small, labels) | is_right(large, labels)
    return kept[:, None] * (target - small.exp())


def microscope(
    sentences: Sequence[Sentence], word: Callable[[int], str], *, name: str, title: str, label_weight: float = 1.0,
) -> str:  # fmt: skip
    """The fragment. word: text of a token of the vocabulary; name: makes the ids; label_weight: w of the loss.

    Shown of each token: the label, the first guesses of S and L, and what else the loss pushes most, `WORDS` in all.
    Raises ValueError in one line without sentences, or where steps or shapes do not go together.
    """
    steps = list(sentences[0].small) if sentences else []
    if not steps or steps != sorted(steps) or any(list(s.small) != steps for s in sentences):
        raise ValueError("expected at least one sentence, and the same training steps of each in rising order")
    for s in sentences:
        shapes = {tuple(one.shape) for one in (s.large, *s.small.values())}
        if len(shapes) > 1 or not len(s.labels) or len(s.labels) != len(s.large):
            raise ValueError(f"{len(s.labels)} labels do not go with log-probabilities of shapes {sorted(shapes)}")
    vocabulary: dict[str, int] = {}

    def number(token: int) -> int:
        return vocabulary.setdefault(markup.visible(word(int(token))), len(vocabulary))

    panels = [_panel(s, number, label_weight) for s in sentences]
    texts = list(vocabulary)
    data = {
        "texts": texts, "panels": panels, "half": HALF, "steps": steps,
        "kinds": [[style.colour, style.symbol, reason] for style, reason in zip(TOKEN_STYLE.values(), REASONS)],
    }  # fmt: skip
    payload = markup.script_data(data)
    ident = markup.ident(name, payload + title)
    first, at = panels[0], panels[0]["steps"][0]
    options = "".join(f'<option value="{i}">{i + 1} of {len(panels)}</option>' for i in range(len(panels)))
    legend = "".join(
        f'<li><span style="background:{style.colour}">{style.symbol}</span> {style.label}</li>'
        for style in TOKEN_STYLE.values()
    )
    seen = enumerate(zip(first["words"], at["tokens"]))
    tokens = "".join(_token(texts[token], kind, i) for i, (token, (kind, *_)) in seen)
    kind, guess, rows = at["tokens"][0]
    chosen = [texts[first["words"][0]], *(texts[i] for i in guess), REASONS[kind]]
    return Template(markup.asset("microscope.html")).substitute(
        ident=ident, css=markup.sheets("widget", "microscope"), title=escape(title), options=options, legend=legend,
        prompt=escape(first["prompt"]), step=f"{steps[0]} of {steps[-1]}", last=len(steps) - 1, tokens=tokens,
        said=escape(at["said"]), rows="".join(_row(texts, row) for row in rows), data=payload,
        chosen="".join(f'<dt>{head}</dt><dd class="cx-c{i}">{escape(text)}</dd>'
                       for i, (head, text) in enumerate(zip(HEADS, chosen))),
        script=markup.script("microscope", ident),
    )  # fmt: skip


HEADS = ("Right", "S would say", "L would say", "The mask")
REASONS = (
    "keeps it: both models are right", "keeps it: S is right", "keeps it: L is right",
    "drops it: neither model is right, so that its gradient is 0",
)  # fmt: skip
"""What the mask does, in the order of `TOKEN_STYLE`."""


def _panel(s: Sentence, number: Callable[[int], int], label_weight: float) -> dict:
    """Texts and places of one sentence at all its steps."""
    prompt = s.prompt if len(s.prompt) <= LONGEST else "\u2026 " + s.prompt[-LONGEST:]
    looks = [_look(s, small, number, label_weight) for small in s.small.values()]
    return {"prompt": prompt, "words": [number(label) for label in s.labels.tolist()], "steps": looks}


def _look(s: Sentence, small: torch.Tensor, number: Callable[[int], int], label_weight: float) -> dict:
    right = [is_right(logits, s.labels).tolist() for logits in (small, s.large)]
    kinds = [KINDS.index(token_kind(*both)) for both in zip(*right)]
    pushes = push(small, s.large, s.labels, label_weight)
    tokens = []
    for i, (kind, label) in enumerate(zip(kinds, s.labels.tolist())):
        guesses = [int(logits[i].argmax()) for logits in (small, s.large)]
        by_force = (pushes[i].abs() + small[i].exp() * 1e-6).argsort(descending=True).tolist()[: WORDS + 3]
        shown = list(dict.fromkeys([label, *guesses, *by_force]))[:WORDS]
        tokens.append([kind, [number(v) for v in guesses], [
            [number(v), *(fixed(100 * float(logits[i, v].exp()), 0) for logits in (small, s.large)),
             *_force(float(pushes[i, v]))]
            for v in shown
        ]])  # fmt: skip
    n, dropped = len(kinds), kinds.count(KINDS.index("neither"))
    said = f"S is right on {sum(right[0])} of {n} tokens, L on {sum(right[1])}. The mask drops {dropped}."
    return {"said": said, "tokens": tokens}


def _force(value: float) -> tuple[float, str]:
    """A push as a number for the bar and as text; 0 without a sign."""
    value = round(value, 2) + 0.0
    return value, true_minus(fixed(value, 2, sign=True)) if value else "0"


def _token(text: str, kind: int, i: int) -> str:
    style = TOKEN_STYLE[KINDS[kind]]
    pressed = "true" if i == 0 else "false"
    return (
        f'<button type="button" class="cx-token" data-i="{i}" aria-pressed="{pressed}" '
        f'style="background:{style.colour}">{escape(text)}<sub>{style.symbol}</sub></button>'
    )


def _row(texts: Sequence[str], row: Sequence) -> str:
    word, small, large, force, said = row
    width = HALF * abs(force)
    way, x = ("cx-up", HALF) if force > 0 else ("cx-down", HALF - width)
    bar = f'<rect class="{way}" x="{x:.1f}" y="2" width="{width:.1f}" height="10"/>'
    middle = f'<path class="cx-tick" d="M{HALF:g} 0V14"/>'
    return (
        f'<tr><th scope="row">{escape(texts[word])}</th><td>{small} %</td><td>{large} %</td>'
        f'<td><svg viewBox="0 0 {2 * HALF:g} 14" aria-hidden="true">{bar}{middle}</svg><span>{said}</span></td></tr>'
    )
