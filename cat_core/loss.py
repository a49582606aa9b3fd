"""The training losses of Cascade-Aware Training, as one dense reference function.

Source: Wang et al., *Cascade-Aware Training of Language Models*, arXiv 2406.00060. For target token i with
label y_i, student S and frozen teacher L (the large model):

    loss_i = -alpha_i [ w log p_S(y_i) + (1 - w) sum_v p_L(v) log p_S(v) ]

with alpha_i = 1 for Xent and Dist, and alpha_i = 1[S is right on i OR L is right on i] for CAT. Everything
the paper leaves open (w, temperature, what the sum is divided by) is an argument here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cat_core.methods import METHODS as METHODS
from cat_core.methods import Method as Method

MASKS = ("none", "either", "small", "large", "both", "neither", "random")
NORMALIZE = ("tokens", "kept")
REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class LossStats:
    """Counts over the target tokens of one call: 0-dim int64 tensors on the logits' device.

    The four cells of the 2x2 ledger are None when nothing is known about the teacher.
    """

    tokens: torch.Tensor
    kept: torch.Tensor
    both: torch.Tensor | None = None
    only_small: torch.Tensor | None = None
    only_large: torch.Tensor | None = None
    neither: torch.Tensor | None = None

    @property
    def keep_rate(self) -> torch.Tensor:
        """Share of target tokens that keep their gradient, in [0, 1]."""
        return self.kept / self.tokens


class TopK(NamedTuple):
    """L's distribution over the next token by its k most probable tokens; all other tokens are one event, the tail.

    ids: integer [..., k], all different in a row; probabilities: [..., k], of the whole vocabulary's softmax at the
    temperature of the loss; tail: [...], what is left: each row sums to 1 with it. Dropping the tail, or normalising
    without it, would teach S to be surer than L is by the factor 1 / (1 - tail).
    """

    ids: torch.Tensor
    probabilities: torch.Tensor
    tail: torch.Tensor

    def rows(self, chosen) -> TopK:
        """The rows that an index or a bool mask over [...] selects."""
        return TopK(*(part[chosen] for part in self))


def is_right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether the label has the highest logit, ties counted as right: [..., V], [...] -> bool [...]."""
    label_logit = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return label_logit >= logits.amax(-1)


def cascade_aware_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor | None = None,
    *,
    teacher_top: TopK | None = None,
    teacher_correct: torch.Tensor | None = None,
    label_weight: float = 0.5,
    temperature: float = 1.0,
    mask: str | torch.Tensor = "either",
    normalize: str = "tokens",
    ignore_index: int = -100,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    return_stats: bool = False,
):
    """Loss of the small model on target tokens: Xent, Dist, CAT-Xent and CAT-Dist alike (arXiv 2406.00060).

    Args:
        logits: small model's logits [..., V]; row i predicts labels[i] (already aligned, nothing is shifted).
        labels: int64 [...]; `ignore_index` marks prompt and padding.
        teacher_logits: large model's logits [..., V]; needed when `label_weight` < 1, and for the masks that
            ask whether L is right, unless `teacher_correct` is given.
        teacher_top: L's distribution as `TopK`, in place of `teacher_logits`; its soft term is the cross entropy of
            k + 1 events, the last of which is "any other token". Give `teacher_correct` for the mask.
        teacher_correct: bool [...], whether L is right on each token; saves `teacher_logits` when w = 1.
        label_weight: w in [0, 1], weight of the label against L's distribution. Xent and CAT-Xent: 1.
        temperature: T > 0 of the soft term, T^2 CE(p_L^(1/T), p_S^(1/T)) (Hinton et al. 2015); the hard term
            has none.
        mask: the tokens that count: "none" (all), "either" (CAT: S or L right), "small", "large", "both", "neither",
            "random" (as many tokens of this batch as "either" would keep, drawn uniformly), or a bool tensor
            [...]. Right means logits[y] >= max(logits): ties count. The mask carries no gradient.
        normalize: divide the sum by the number of target "tokens" or of "kept" tokens (reduction "mean").
        reduction: "mean", "sum" (the paper's formula), or "none" (loss per token [...], 0 where ignored or
            dropped).
        generator: source of the "random" mask; drawn on the generator's device, so CPU and CUDA agree.
        return_stats: also return `LossStats`.

    Returns:
        The loss (0-dim, or [...] for "none"), in float32 or the wider dtype of `logits`; with `return_stats`
        the pair (loss, `LossStats`).
        When the mask keeps no token the loss is 0 with a zero gradient.

    Raises:
        ValueError: shapes, options or devices that do not fit; no target token; NaN or infinite logits at a
            target; -inf logits where L gives probability.
    """
    _check_tensors(logits, labels, teacher_logits, teacher_correct, mask)
    check_top(teacher_top, labels, logits.shape[-1], teacher_logits is not None, ignore_index)
    has_soft = teacher_logits is not None or teacher_top is not None
    check_options(label_weight, temperature, mask, normalize, reduction, has_soft)
    is_target, target = target_rows(labels, ignore_index, logits.shape[-1])
    compute_dtype = torch.promote_types(logits.dtype, torch.float32)
    student = logits[is_target].to(compute_dtype)
    with torch.no_grad():
        highest, at_label = highest_and_label(student, target, "logits")
        small_right, large_right, teacher = at_label >= highest, None, None
        if teacher_logits is not None:
            teacher = teacher_logits[is_target].to(compute_dtype)
            highest, at_label = highest_and_label(teacher, target, "teacher_logits")
            large_right = at_label >= highest
        if teacher_correct is not None:
            large_right = teacher_correct.to(student.device)[is_target]
        if isinstance(mask, torch.Tensor):
            keep = mask.to(is_target.device)[is_target]
        else:
            keep = keep_mask(mask, small_right, large_right, generator)

    log_p = F.log_softmax(student, dim=-1)
    token_loss = -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    if label_weight < 1:
        soft_log_p = log_p if temperature == 1 else F.log_softmax(student / temperature, dim=-1)
        if teacher_top is None:
            teacher_p = F.softmax(teacher / temperature, dim=-1)
        else:
            teacher_p, soft_log_p = _events(teacher_top.rows(is_target), soft_log_p)
        # A token masked out of the vocabulary has p = 0 and log p = -inf; its product is 0, not NaN.
        soft = -(teacher_p * soft_log_p.masked_fill(teacher_p == 0, 0.0)).sum(-1) * temperature**2
        require_finite_soft_term(soft.detach(), temperature)
        token_loss = label_weight * token_loss + (1 - label_weight) * soft
    token_loss = torch.where(keep, token_loss, torch.zeros_like(token_loss))

    kept = keep.sum()
    if reduction == "none":
        loss = torch.zeros(labels.shape, dtype=compute_dtype, device=logits.device)
        loss = loss.masked_scatter(is_target, token_loss)
    elif reduction == "sum":
        loss = token_loss.sum()
    else:
        loss = token_loss.sum() / (target.numel() if normalize == "tokens" else kept.clamp(min=1))
    if not return_stats:
        return loss
    return loss, stats_of(kept, target.numel(), small_right, large_right)


def _events(top: TopK, log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L's probabilities and S's log-probabilities of the k tokens and of the tail: [n, k + 1] each."""
    ids = top.ids.long()
    rest = log_p.scatter(-1, ids, float("-inf"))
    # Where the k tokens are the whole vocabulary there is no tail; logsumexp of nothing has no gradient.
    empty = torch.isinf(rest).all(-1, keepdim=True)
    tail = rest.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True).masked_fill(empty, float("-inf"))
    log_probs = torch.cat([log_p.gather(-1, ids), tail], dim=-1)
    return torch.cat([top.probabilities, top.tail.unsqueeze(-1)], dim=-1).to(log_p.dtype), log_probs


def keep_mask(mask: str, small_right, large_right, generator=None) -> torch.Tensor:
    """alpha of target tokens by the name of the mask (see `cascade_aware_loss`): bool [number of target tokens].

    small_right, large_right: bool, of the same shape; large_right may be None for masks that do not ask for it.
    """
    if mask == "none":
        return torch.ones_like(small_right)
    if mask == "small":
        return small_right
    if large_right is None:
        raise ValueError(f"mask {mask!r} asks whether L is right: give teacher_logits or teacher_correct")
    if mask == "large":
        return large_right
    if mask == "both":
        return small_right & large_right
    either = small_right | large_right
    if mask == "either":
        return either
    if mask == "neither":
        return ~either
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"mask 'random' got generator {generator!r}: give a torch.Generator seeded by (seed, step), "
            "or no run can be repeated"
        )
    draws = torch.rand(either.numel(), generator=generator, device=generator.device)
    rank = draws.argsort(stable=True).argsort(stable=True).to(either.device)
    return rank < either.sum()


def gatekeeper_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    weight: float = 0.5,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> torch.Tensor:
    """Gatekeeper's loss over target tokens (Rabanser et al., arXiv 2502.19335), for the second stage of training S.

    a mean_i 1[S right on i] CE_i + (1 - a) mean_i 1[S wrong on i] KL(p_S || Uniform), both means over all N target
    tokens: confident where right, undecided where wrong.

    logits: [..., V]; labels: int64 [...], `ignore_index` elsewhere; weight: a in [0, 1]; reduction: "mean" or "sum".
    """
    if not _is_number(weight) or not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight!r}; expected a number in [0, 1]")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduction!r}; expected mean or sum")
    _check_tensors(logits, labels, None, None, "none")
    is_target, target = target_rows(labels, ignore_index, logits.shape[-1])
    rows = logits[is_target].to(torch.promote_types(logits.dtype, torch.float32))
    highest, at_label = highest_and_label(rows.detach(), target, "logits")
    right = at_label >= highest
    log_p = F.log_softmax(rows, -1)
    hard = -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    probability = log_p.exp()
    to_uniform = (probability * log_p.masked_fill(probability == 0, 0.0)).sum(-1) + math.log(logits.shape[-1])
    total = torch.where(right, weight * hard, (1 - weight) * to_uniform).sum()
    return total if reduction == "sum" else total / target.numel()


def target_rows(labels: torch.Tensor, ignore_index: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which labels are targets, bool [...], and those labels, int64 [number of target tokens]; ValueError if unfit."""
    if labels.dtype != torch.int64:
        raise ValueError(f"labels have dtype {labels.dtype}; expected torch.int64")
    is_target = labels != ignore_index
    target = labels[is_target]
    if target.numel() == 0:
        raise ValueError(
            f"every one of the {labels.numel()} labels is ignore_index ({ignore_index}): "
            "there is no target token to learn; check truncation and the prompt/target boundary"
        )
    if int(target.min()) < 0 or int(target.max()) >= vocabulary:
        raise ValueError(
            f"labels lie in [{int(target.min())}, {int(target.max())}] but the logits have {vocabulary} "
            f"columns; labels must be token ids or ignore_index ({ignore_index})"
        )
    return is_target, target


def stats_of(kept, tokens: int, small_right, large_right) -> LossStats:
    """The counts of one call; large_right: None where nothing is known about L."""
    count = torch.tensor(tokens, device=kept.device)
    if large_right is None:
        return LossStats(count, kept)
    both = (small_right & large_right).sum()
    only_small = (small_right & ~large_right).sum()
    only_large = (large_right & ~small_right).sum()
    return LossStats(count, kept, both, only_small, only_large, count - both - only_small - only_large)


def highest_and_label(rows: torch.Tensor, target: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest logit and that of the label of each row of [n, V]: [n], [n].

    -inf is legal for a token masked out of the vocabulary; ValueError for NaN, +inf, and -inf at the label.
    """
    top = rows.amax(-1)
    at_label = rows.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    broken = ~(torch.isfinite(top) & torch.isfinite(at_label))
    if broken.any():
        raise ValueError(
            f"{name} are NaN or infinite at {int(broken.sum())} of {broken.numel()} target tokens (first: "
            f"number {int(broken.nonzero()[0])}); lower the learning rate, clip the gradient, or "
            "check the inputs"
        )
    return top, at_label


def require_finite_soft_term(soft: torch.Tensor, temperature: float) -> None:
    """A token that S cannot give (-inf) but L can has infinite loss; a tiny temperature overflows."""
    broken = ~torch.isfinite(soft)
    if broken.any():
        raise ValueError(
            f"the soft term is infinite or NaN at {int(broken.sum())} of {broken.numel()} target tokens: "
            "logits are -inf where L gives probability (mask the same columns of both models), or "
            f"temperature {temperature} is too small"
        )


def _check_tensors(logits, labels, teacher_logits, teacher_correct, mask):
    if not logits.is_floating_point():
        raise ValueError(f"logits have dtype {logits.dtype}; expected a floating-point dtype")
    if logits.dim() < 1 or logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}: expected [..., V] and "
            "[...], aligned so that row i predicts labels[i]"
        )
    if teacher_logits is not None and teacher_logits.shape != logits.shape:
        raise ValueError(
            f"teacher_logits {tuple(teacher_logits.shape)} differ from logits {tuple(logits.shape)}: S and L "
            "must share one vocabulary; cut padded columns off before the call"
        )
    for name, tensor in (("labels", labels), ("teacher_logits", teacher_logits)):
        if tensor is not None and tensor.device != logits.device:
            raise ValueError(f"{name} are on {tensor.device} but logits on {logits.device}; move them to one device")
    for name, tensor in (("teacher_correct", teacher_correct), ("mask", mask)):
        if tensor is not None and not (name == "mask" and isinstance(tensor, str)):
            check_flags(name, tensor, labels)


def check_flags(name: str, tensor, labels: torch.Tensor) -> torch.Tensor:
    """`tensor` if it is a bool tensor of the shape of `labels`; else ValueError."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; expected a torch.bool tensor")
    if tensor.dtype != torch.bool or tensor.shape != labels.shape:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}; expected torch.bool {tuple(labels.shape)}")
    return tensor


def check_top(top: TopK | None, labels: torch.Tensor, vocabulary: int, has_logits: bool, ignore_index=-100) -> None:
    """ValueError unless the parts of a `TopK` fit the labels, each other and the vocabulary, and are distributions."""
    if top is None:
        return
    if has_logits:
        raise ValueError("teacher_top and L's logits were both given: one of them says what L's distribution is")
    ids, probabilities, tail = top
    if ids.shape != probabilities.shape or ids.shape[:-1] != labels.shape or tail.shape != labels.shape:
        raise ValueError(
            f"teacher_top has ids {tuple(ids.shape)}, probabilities {tuple(probabilities.shape)} and tail "
            f"{tuple(tail.shape)} for labels {tuple(labels.shape)}: expected [..., k], [..., k] and [...]"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(
            f"teacher_top has token ids in [{int(ids.min())}, {int(ids.max())}], but S has {vocabulary} output "
            "columns: S and L must share one vocabulary"
        )
    in_order, is_target = ids.sort(-1).values, labels != ignore_index
    twice = (in_order[..., 1:] == in_order[..., :-1]).any(-1) & is_target
    off = (probabilities.float().sum(-1) + tail.float() - 1).abs()
    # half-precision probabilities do not sum to 1 exactly, and a tail of 1 - sum may lie below 0 by rounding
    wrong = ~((probabilities >= 0).all(-1) & (tail >= -1e-3) & (off <= 0.01)) & is_target
    if (twice | wrong).any():
        fault = "an id twice" if twice.any() else "probabilities and a tail that are negative or do not sum to 1"
        count = int((twice if twice.any() else wrong).sum())
        raise ValueError(f"teacher_top has {fault} at {count} of {int(is_target.sum())} target tokens: see `loss.TopK`")


def check_options(label_weight, temperature, mask, normalize, reduction, has_teacher_logits):
    if not _is_number(label_weight) or not 0 <= label_weight <= 1:
        raise ValueError(f"label_weight is {label_weight!r}; expected a number in [0, 1]")
    if label_weight < 1 and not has_teacher_logits:
        raise ValueError(
            f"label_weight {label_weight} < 1 uses L's distribution: give teacher_logits or teacher_top, or set it to 1"
        )
    if not _is_number(temperature) or not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}; expected a finite number > 0")
    if not isinstance(mask, torch.Tensor) and not (isinstance(mask, str) and mask in MASKS):
        raise ValueError(f"unknown mask {mask!r}; expected one of {', '.join(MASKS)}, or a bool tensor")
    if normalize not in NORMALIZE:
        raise ValueError(f"unknown normalize {normalize!r}; expected one of {', '.join(NORMALIZE)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")


def _is_number(value) -> bool:
    """YAML reads 1e-3 as text, and text cannot be compared with a number."""
    return isinstance(value, Real) and not isinstance(value, bool)
