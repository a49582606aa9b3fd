"""EdgeInference: a router that learns whether S suffices, after training or together with S.

Source: Kag et al., "Efficient Edge Inference by Selective Query" (ICLR 2023), written from its description: the router
is trained on the proxy label o = 1[L is wrong OR S is right] (1 = keep on S) by binary cross entropy, plus a hinge that
keeps a share of the queries, the coverage, on S. Its input is the entropy and the margins of the ten most probable
classes. Wang et al. (arXiv 2406.00060) adapt it to language models by giving the router every output token; how tokens
are pooled is not known. Ours: `features.token_features` of each token -> two layers -> mean and minimum over the
answer's tokens -> one logit; o per sequence.

Graded quality: o = 1[S >= L], which is the same where quality is 0 or 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cat_core.rules.features import TOKEN_FEATURES, AnswerFeatures
from cat_core.rules.fitting import Dense, FitSettings, Standardise, check_finite, cross_entropy

WIDTH = 32
COVERAGE, COVERAGE_WEIGHT, ROUTER_WEIGHT = 0.5, 1.0, 1.0  # of `joint_loss`
FIT = FitSettings(epochs=60, learning_rate=5e-4)
"""How the rule is fitted by default: on synthetic rows like 200 epochs at `FitSettings`' learning rate, but sooner."""
NORMALIZE = ("tokens", "kept")


class Router(nn.Module):
    """Numbers of an answer's tokens -> the logit that S suffices; `members` of them side by side (see `fitting`).

    inputs: numbers a token. asinh tames their long tails (log-probabilities reach -20, margins 60 nats) without
    looking at data, as a router trained together with S cannot: its standardisation stays the identity.
    """

    def __init__(self, inputs: int = len(TOKEN_FEATURES), members: int = 1, generator: torch.Generator | None = None):
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        self.standard = Standardise(members, inputs)
        self.first = Dense(members, inputs, WIDTH, generator)
        self.second = Dense(members, WIDTH, WIDTH, generator)
        self.head = Dense(members, 2 * WIDTH, 1, generator)

    def standardise(self, member: int, tokens: Tensor, mask: Tensor) -> None:
        """Take the statistics of the rows [n, T, inputs] that the member is fitted on, over real tokens."""
        self.standard.fit(member, tokens[mask].asinh())

    def forward(self, tokens: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
        """tokens [M, B, T, inputs], mask bool [M, B, T] with a token a row; `weights` are not looked at -> [M, B]."""
        members, batch, length, inputs = tokens.shape
        x = self.standard(tokens.reshape(members, batch * length, inputs).asinh())
        x = self.second(self.first(x).relu()).relu().view(members, batch, length, WIDTH)
        absent = ~mask.unsqueeze(-1)
        mean = x.masked_fill(absent, 0.0).sum(2) / mask.sum(2).unsqueeze(-1)
        lowest = x.masked_fill(absent, float("inf")).amin(2)
        return self.head(torch.cat([mean, lowest], dim=-1)).squeeze(-1)

    def settle(self, *_) -> None:
        """Nothing is left to fix after fitting."""


def proxy_label(small_quality: np.ndarray, large_quality: np.ndarray) -> np.ndarray:
    """[n] float64: 1 where S suffices (L wrong or S right; in general S >= L), else 0."""
    return (np.asarray(small_quality) >= np.asarray(large_quality)).astype(np.float64)


def router_loss(
    logits: Tensor, proxy: Tensor, weights: Tensor, *, coverage: float = 0.5, coverage_weight: float = 1.0
) -> Tensor:
    """[M] binary cross entropy of `proxy`, plus coverage_weight max(0, coverage - mean keep probability).

    logits, proxy (0 or 1), weights (1, or 0 for rows that are not there): [M, B]; means over rows of weight 1.
    """
    kept = (logits.sigmoid() * weights).sum(1) / weights.sum(1)
    return cross_entropy(logits, proxy, weights) + coverage_weight * (coverage - kept).clamp_min(0.0)


def router_inputs(features: AnswerFeatures) -> tuple[Tensor, Tensor]:
    """(tokens [n, T, 11] float32, mask [n, T]) of every answer. ValueError for NaN and infinity."""
    tokens, mask = features.padded_tokens()
    return check_finite("tokens", tokens), torch.from_numpy(mask)


def check_coverage(coverage: float, coverage_weight: float) -> None:
    """ValueError unless the coverage is a share and its weight a number >= 0."""
    if not 0 <= coverage <= 1:
        raise ValueError(f"coverage is {coverage!r}; expected a share in [0, 1]")
    if not 0 <= coverage_weight < float("inf"):
        raise ValueError(f"coverage_weight is {coverage_weight!r}; expected a number >= 0")


# ---------------------------------------------------------------- together with S


def joint_loss(
    token_loss: Tensor, features: Tensor, lengths: Tensor, small_right: Tensor, large_right: Tensor, router: Router, *,
    coverage: float = COVERAGE, coverage_weight: float = COVERAGE_WEIGHT, router_weight: float = ROUTER_WEIGHT,
    normalize: str = "tokens", token_divisor: float | Tensor | None = None,
    sequence_divisor: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """S and its router in one loss, over the target tokens of B sequences: a scalar, and what was seen.

    token_loss: [N] -log p_S(label) with S's gradient, sequence after sequence; features: [N, 11]
    `features.token_features` of S's logits and the labels (treated as constants); lengths: int64 [B] tokens of each
    sequence, all >= 1; small_right, large_right: bool [N] whether the label is the argmax of S (`loss.is_right`) and
    of L (`teacher.TeacherCache.correct`). A sequence is right where all its tokens are (teacher forcing).

    With keep_b = sigmoid(router(features of b)) and o_b = 1[L is wrong on b OR S is right on b]:

        label_loss  = sum_b detach(keep_b) sum_{i in b} token_loss_i / token_divisor
        router_loss = sum_b BCE(keep_b, o_b) / sequence_divisor
        hinge       = max(0, coverage - mean_b keep_b)                             (a share B / sequence_divisor of it)
        loss        = label_loss + router_weight router_loss + coverage_weight hinge

    normalize: token_divisor is N by default ("tokens"), or sum_b keep_b lengths_b ("kept"); sequence_divisor is B.
    When one optimiser step sums several calls, give both for the whole step; the hinge is then of each call's own mean
    (`joint_parts` has what a step needs for the hinge of its whole). The router gets its gradient from the
    last two terms only, S from the first only. Without the hinge S starves at the start: as long as it is wrong where
    L is right, o_b = 0, keep_b falls, and with it the weight of the very sequences S would have to learn.

    Seen, 0-dim and detached: keep, the mean of keep_b; right, the share of sequences whose decision (keep_b >= 1/2) is
    o_b.
    """
    check_coverage(coverage, coverage_weight)
    if normalize not in NORMALIZE:
        raise ValueError(f"unknown normalize {normalize!r}: choose {' or '.join(NORMALIZE)}")
    parts = joint_parts(token_loss, features, lengths, small_right, large_right, router)
    batch, keep = len(parts.keep), parts.keep
    if token_divisor is None:
        token_divisor = len(token_loss) if normalize == "tokens" else parts.kept
    if sequence_divisor is None:
        sequence_divisor = batch
    hinge = (coverage - keep.mean()).clamp_min(0.0) * (batch / sequence_divisor)
    loss = parts.label / token_divisor + router_weight * parts.entropy / sequence_divisor + coverage_weight * hinge
    return loss, {"keep": keep.mean().detach(), "right": parts.right.mean()}


class JointParts(NamedTuple):
    """Sums of `joint_loss` before any division: label and entropy, 0-dim with gradient; keep: [B] with the router's
    gradient; kept: sum_b keep_b lengths_b, 0-dim; right: [B] 1 where the decision (keep_b >= 1/2) is o_b."""

    label: Tensor
    entropy: Tensor
    keep: Tensor
    kept: Tensor
    right: Tensor


def joint_parts(token_loss, features, lengths, small_right, large_right, router: Router) -> JointParts:
    """The sums of `joint_loss`, with its first six arguments: those of a step are the sums over its micro-batches."""
    count, batch = len(token_loss), len(lengths)
    for name, tensor, shape in (
        ("token_loss", token_loss, (count,)),
        ("features", features, (count, features.shape[-1])),
        ("lengths", lengths, (batch,)),
        ("small_right", small_right, (count,)),
        ("large_right", large_right, (count,)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if batch == 0 or int(lengths.min()) < 1 or int(lengths.sum()) != count:
        raise ValueError(f"lengths {lengths.tolist()} must each be >= 1 and sum to the {count} tokens given")
    lengths = lengths.to(token_loss.device)
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    padded = features.new_zeros(*mask.shape, features.shape[-1])
    padded[mask] = features.detach()
    logits = router(padded[None], mask[None])[0]
    keep = logits.sigmoid()

    def per_sequence(values):
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    small, large = ((per_sequence(right) | ~mask).all(1) for right in (small_right, large_right))
    proxy = (~large | small).to(logits.dtype)
    weights = keep.detach().to(token_loss.dtype)
    label = (weights * per_sequence(token_loss).sum(1)).sum()
    entropy = F.binary_cross_entropy_with_logits(logits, proxy, reduction="sum")
    right = ((logits >= 0) == proxy.bool()).to(logits.dtype)
    return JointParts(label, entropy, keep, (weights * lengths).sum(), right)
