"""A deferral token: S learns to say "ask L" in place of a token that L gets right and S does not.

A second stage of training, from S by Xent: from random weights S would be wrong everywhere, and would learn to hand
over all that L knows. The token is a control token that no answer holds, so no vocabulary grows; how probable S finds
it says whether to defer (`methods.RULES`, call_token). Ours, by the mask of the tokens that a cascade can save.
"""

from __future__ import annotations

import torch

from cat_core.methods import Method
from cat_core.text import TextFormat


def deferral_token(text: TextFormat) -> int | None:
    """A control token that no answer holds: BOS, else padding; None where both are what ends an answer."""
    given = (text.tokenizer.bos_token_id, text.tokenizer.pad_token_id)
    return next((token for token in given if token is not None and token not in (text.eos, text.end)), None)


def deferral_of(method: Method, training_set) -> int | None:
    """The deferral token of a training set, None for a method that has no use for it.

    Raises ValueError where there is none, and where a target holds it.
    """
    if not method.calls:
        return None
    token = training_set.deferral
    if token is None:
        raise ValueError(f"method {method.label!r} needs a BOS or padding token that ends no answer, and there is none")
    if any(token in target for _, target in training_set.pairs):
        raise ValueError(f"method {method.label!r} needs a token that no answer holds, and token {token} is in some")
    return token


def deferral_targets(
    logits: torch.Tensor, labels: torch.Tensor, large_right: torch.Tensor, token: int
) -> torch.Tensor:  # fmt: skip
    """Labels in which `token` takes the place of those that L gets right and S does not.

    logits: [n, V] of S; labels: int64 [n]; large_right: bool [n]. S is right where no token but the deferral token is
    more probable than the label: what it has learnt to hand over, it is not held to be wrong for.
    """
    rows = logits.detach().clone()
    rows[:, token] = float("-inf")
    wrong = rows.gather(-1, labels.unsqueeze(-1)).squeeze(-1) < rows.amax(-1)
    return torch.where(wrong & large_right.to(wrong.device), token, labels)
