"""How sure a model is of its own answer: one number a query, from the distributions of its tokens.

High means keep the small model's answer, low means defer to the large one. Every rule reads padded token
log-probabilities `logprobs` [B, T] (natural logarithm) with a boolean `mask` [B, T]: True for a generated
token, the end-of-sequence token included, False for padding, whose values are never looked at. The rules
`token_margin` and `token_entropy` read that number of each token's whole distribution in its place.

The chow names are those of Gupta et al., "Language Model Cascades: Token-Level Uncertainty and Beyond"
(arXiv 2404.10136). `chow_average` is the rule of cascade-aware training (arXiv 2406.00060), sign turned.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor


def chosen_logprob(logits: Tensor, token: Tensor) -> Tensor:
    """Log-probability of `token` under softmax(`logits`), exact even where the token is nearly certain.

    logits: [..., V] unnormalised scores, any float type; token: [...] integer ids. Returns [...] in float32
    (float64 for float64 logits). Computed as -log1p(sum over the other tokens of exp(s_v - s_token)): the
    usual log-softmax is exactly 0 in float32 once p > 1 - 6e-8, so that all confident answers would tie. NaN
    logits (and +inf at the token) give NaN, for the caller to report.
    """
    if logits.shape[:-1] != token.shape:
        raise ValueError(
            f"token must have the shape {tuple(logits.shape[:-1])} of logits without its last "
            f"dimension, got {tuple(token.shape)}"
        )
    scores = logits if logits.dtype == torch.float64 else logits.float()
    index = token.unsqueeze(-1)
    own = scores.gather(-1, index)  # [..., 1]
    # an impossible token (-inf) would give inf - inf: the lowest finite number stands in for it
    others = scores - own.clamp_min(torch.finfo(scores.dtype).min)
    # others [..., V]: s_v - s_token, then -inf at the token, in place; then [...], their log sum of exp
    others = others.scatter_(-1, index, float("-inf")).logsumexp(-1)
    own = own.squeeze(-1)
    logprob = -torch.logaddexp(others, torch.zeros_like(others))
    logprob = torch.where((own == float("-inf")) & ~logprob.isnan(), own, logprob)
    return torch.where(own < float("inf"), logprob, float("nan"))


def margin_and_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """How far softmax(`logits`) is from undecided: (log p(top1) - log p(top2), entropy in nats), each [...].

    logits: [..., V] unnormalised scores, any float type. Returns float32 (float64 for float64 logits). With
    g_v = log p(top1) - log p(v) over all v but the first most probable one, and s = sum_v exp(-g_v), the
    margin is min_v g_v and the entropy log(1 + s) + sum_v g_v exp(-g_v) / (1 + s): no term is negative, so
    nothing cancels, and distributions that are nearly certain keep distinct values. The margin is 0 for a tie
    and +inf where no other token is possible; NaN logits give NaN.
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    # Two [..., V] of its own, written over in place: gaps and weights. `scores` may be the caller's and is only read.
    top, index = scores.max(-1, keepdim=True)  # [..., 1] each
    gaps = (top - scores).scatter_(-1, index, float("inf"))  # g_v; inf takes the most probable token out
    margin = gaps.amin(-1)
    gaps.clamp_max_(800.0)  # exp(-800) is 0 even in float64, while inf * 0 would be NaN
    weights = gaps.neg().exp_()  # exp(-g_v), 0 at the most probable token
    rest = weights.sum(-1)  # s
    entropy = rest.log1p() + gaps.mul_(weights).sum(-1) / (1 + rest)  # gaps: g_v exp(-g_v)
    broken = top.squeeze(-1).isnan()
    return margin.masked_fill(broken, float("nan")), entropy.masked_fill(broken, float("nan"))


def _checked(logprobs: Tensor, mask: Tensor, what: str = "logprobs", unbounded: bool = False) -> tuple[Tensor, Tensor]:
    """`logprobs` and `mask` as tensors after every check a rule needs: shapes, empty rows, NaN, +inf if bounded."""
    logprobs, mask = torch.as_tensor(logprobs), torch.as_tensor(mask)
    if logprobs.dim() != 2:
        raise ValueError(f"{what} must have two dimensions, got shape {tuple(logprobs.shape)}")
    if not logprobs.is_floating_point():
        raise TypeError(f"{what} must be floating point, got {logprobs.dtype}")
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask of {what} must be boolean (True = a real entry), got {mask.dtype}")
    if mask.shape != logprobs.shape:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)} but {what} has {tuple(logprobs.shape)}: give one flag an entry"
        )
    empty = (~mask.any(-1)).nonzero().flatten()
    if len(empty):
        raise ValueError(
            f"row {int(empty[0])} of {what} has no entry (mask all False): every answer has at least "
            "its end-of-sequence token"
        )
    broken = logprobs.isnan() if unbounded else logprobs.isnan() | (logprobs == float("inf"))
    bad = (broken & mask).any(-1).nonzero().flatten()
    if len(bad):
        fault = "NaN" if unbounded else "NaN or +inf"
        raise ValueError(f"row {int(bad[0])} of {what} holds {fault}: look at the logits of the model behind it")
    return logprobs, mask


def chow_sum(logprobs: Tensor, mask: Tensor) -> Tensor:
    """[B] sum of the token log-probabilities, log p(answer): Chow-Sum. ValueError on empty rows and NaN."""
    logprobs, mask = _checked(logprobs, mask)
    return logprobs.masked_fill(~mask, 0.0).sum(-1, dtype=torch.float64).to(logprobs.dtype)


def chow_average(logprobs: Tensor, mask: Tensor) -> Tensor:
    """[B] mean of the token log-probabilities: Chow-Average, -r(x) of arXiv 2406.00060. Errors as above."""
    logprobs, mask = _checked(logprobs, mask)
    total = logprobs.masked_fill(~mask, 0.0).sum(-1, dtype=torch.float64)
    return (total / mask.sum(-1)).to(logprobs.dtype)


def chow_quantile(logprobs: Tensor, mask: Tensor, q: float) -> Tensor:
    """[B] q-quantile of the token log-probabilities: Chow-Quantile of arXiv 2404.10136.

    q = 0 is the least certain token, q = 1 the most certain; between order statistics linear interpolation,
    as `numpy.quantile`. Raises ValueError for q outside [0, 1], else as `chow_sum`.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must lie in [0, 1] (0 = minimum, 1 = maximum), got {q!r}")
    logprobs, mask = _checked(logprobs, mask)
    ordered = logprobs.double().masked_fill(~mask, float("inf")).sort(-1).values
    place = q * (mask.sum(-1, keepdim=True) - 1).double()
    below, above = place.floor().long(), place.ceil().long()
    low, high = ordered.gather(-1, below), ordered.gather(-1, above)
    between = torch.lerp(low, high, place - below)
    # a log-probability of -inf stays -inf under interpolation instead of turning into NaN
    between = torch.where((below == above) | (low == float("-inf")), low, between)
    return between.squeeze(-1).to(logprobs.dtype)


confidence_rules: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "chow_sum": chow_sum,
    "chow_average": chow_average,
    "chow_quantile_0": partial(chow_quantile, q=0.0),
}
"""Token-level rules by the names used in tables; each maps (logprobs [B, T], mask [B, T]) to [B]."""

quantile_rules: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f"chow_quantile_{percent}": partial(chow_quantile, q=percent / 100) for percent in (25, 50, 75, 100)
}
"""The rest of the Chow-Quantile family, by name and used as `confidence_rules`; 100 is the maximum."""


def token_margin(margins: Tensor, mask: Tensor) -> Tensor:
    """[B] mean over the answer's tokens of log p(top1) - log p(top2), in nats: large where S never hesitates.

    margins, mask: [B, T], margins as `margin_and_entropy`. Errors as `chow_sum`, but +inf is a margin.
    """
    margins, mask = _checked(margins, mask, "margins", unbounded=True)
    return (margins.masked_fill(~mask, 0.0).sum(-1, dtype=torch.float64) / mask.sum(-1)).to(margins.dtype)


def token_entropy(entropies: Tensor, mask: Tensor) -> Tensor:
    """[B] minus the mean over the answer's tokens of their distributions' entropy, in nats (0 = certain).

    entropies, mask: [B, T], entropies as `margin_and_entropy`. Errors as `chow_sum`.
    """
    entropies, mask = _checked(entropies, mask, "entropies")
    return -(entropies.masked_fill(~mask, 0.0).sum(-1, dtype=torch.float64) / mask.sum(-1)).to(entropies.dtype)


def answer_confidence(
    logprobs: Tensor, margins: Tensor | None, entropies: Tensor | None, mask: Tensor
) -> dict[str, Tensor]:
    """Every rule that an answer's own tokens define, by name, each [B]; arguments [B, T], as in the single rules.

    margins, entropies: None where only the log-probabilities are known; their rules are then left out.
    """
    rules = confidence_rules | quantile_rules
    values = {name: rule(logprobs, mask) for name, rule in rules.items()}
    if margins is not None:
        values["token_margin"] = token_margin(margins, mask)
    if entropies is not None:
        values["token_entropy"] = token_entropy(entropies, mask)
    return values


OPTION_RULES = ("option_probability", "option_margin")
"""Names of the rules of `option_confidence`, defined for queries that come with answer options only."""


def option_confidence(
    option_logprobs: Tensor, option_mask: Tensor | None = None, chosen: Tensor | None = None
) -> dict[str, Tensor]:
    """Confidence in one option among several.

    option_logprobs: [B, K] log-probability of each whole option (sum over its tokens); option_mask: [B, K]
    True for a real option (default all); chosen: [B] index of the predicted option (default the most probable
    one, the first of equals). Returns, each [B] and in the type of option_logprobs:
    option_probability: log of the softmax over the options, at the chosen one;
    option_margin: log-probability of the chosen option minus that of the best other one (>= 0 unless another
    prediction rule chose against it).
    Raises ValueError for rows with fewer than two options, NaN, or a chosen index that is not an option.
    """
    option_logprobs = torch.as_tensor(option_logprobs)
    if option_mask is None:
        option_mask = torch.ones(option_logprobs.shape, dtype=torch.bool, device=option_logprobs.device)
    option_logprobs, option_mask = _checked(option_logprobs, option_mask, "option_logprobs")
    few = (option_mask.sum(-1) < 2).nonzero().flatten()
    if len(few):
        raise ValueError(f"row {int(few[0])} of option_logprobs has one option: a choice needs at least two")
    scores = option_logprobs.double().masked_fill(~option_mask, float("-inf"))
    if chosen is None:
        # the mask decides among rows whose real options are all -inf
        chosen = torch.where(option_mask, scores.clamp_min(-torch.finfo(scores.dtype).max), float("-inf")).argmax(-1)
    chosen = torch.as_tensor(chosen).long()
    if chosen.shape != scores.shape[:1]:
        raise ValueError(f"chosen must have shape ({scores.shape[0]},), got {tuple(chosen.shape)}")
    inside = (chosen >= 0) & (chosen < scores.shape[1])
    inside &= option_mask.gather(-1, chosen.clamp(0, scores.shape[1] - 1).unsqueeze(-1)).squeeze(-1)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(f"chosen[{row}] = {int(chosen[row])} is not one of the options of row {row}")
    index = chosen.unsqueeze(-1)
    rest = scores.scatter(-1, index, float("-inf")).amax(-1)
    margin = scores.gather(-1, index).squeeze(-1) - rest
    values = {"option_probability": chosen_logprob(scores, chosen), "option_margin": margin}
    return {name: value.to(option_logprobs.dtype) for name, value in values.items()}
