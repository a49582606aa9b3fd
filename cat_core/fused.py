"""The loss of `loss.cascade_aware_loss` straight from hidden states: the [N, V] logits are never kept.

The gradient of a row's loss by its logits s = W x is known in closed form (`closed_form`); alpha times it is that of
the masked loss. So each chunk of rows is read once in forward: logits, alpha, then gradient, dX and dW, and the chunk
is dropped. Rows with alpha = 0 need no softmax, no dX and no dW; ignored rows go before the first matrix product.
Matrix products: N V (2 H + 4 rho H + 2 H_t) FLOPs, rho the share of kept rows. Memory: dX, dW, one chunk.

Right is decided on the logits as the head gives them, and a tie of the highest counts as right, for S and L alike. In
bfloat16, whose numbers have eight bits, ties are common: more tokens are right, and kept, than by the same head in
float32. `loss.cascade_aware_loss` of the same logits decides alike.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from cat_core.closed_form import loss_and_gradient, top_loss_and_gradient
from cat_core.loss import (
    TopK,
    check_flags,
    check_options,
    check_top,
    highest_and_label,
    keep_mask,
    stats_of,
    target_rows,
)


class TargetCache(Protocol):
    """What L said of the target tokens of a training set, kept: `training.teacher.TeacherCache`."""

    correct: torch.Tensor  # [tokens] bool: L's most probable token is the label

    def rows(self, examples: torch.Tensor) -> torch.Tensor:
        """[n] numbers of the target tokens of examples [B], in their order."""

    def distribution(self, rows: torch.Tensor, temperature: float, device: torch.device) -> dict:
        """L's distributions at these tokens, as arguments of `fused_linear_cat_loss`."""


# Memory for a chunk's logits and gradients, and the rows it has at least. Each chunk reads W and writes dW once: a GPU
# needs many rows to hide that, while on a CPU few rows do, and small chunks stay in or near the caches.
CHUNK_BYTES = {"cpu": 64 * 2**20, "else": 512 * 2**20}
MIN_ROWS = {"cpu": 128, "else": 1024}
SKIP_BELOW = 0.9  # skipping pays while at most this share of the rows is kept: it copies the rows that stay
SKIP_ROWS = ("auto", True, False)


class _Given(NamedTuple):
    """What one call needs besides S: L's part, the mask and the options. Rows of the tensors are target tokens.

    dtype: of S's matrix products; kind: of all else; wanted: which gradients (rows, weight, bias).
    """

    teacher_input: torch.Tensor | None
    teacher_weight: torch.Tensor | None
    teacher_bias: torch.Tensor | None
    teacher_logits: torch.Tensor | None
    teacher_top: TopK | None
    large_right: torch.Tensor | None
    mask: str | torch.Tensor
    generator: torch.Generator | None
    label_weight: float
    temperature: float
    softcap: float | None
    chunk_rows: int
    skip: bool | str
    dtype: torch.dtype
    wanted: tuple[bool, bool, bool]

    @property
    def kind(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def compares(self) -> bool:
        """Whether anything is known of L."""
        return any(part is not None for part in (self.teacher_input, self.teacher_logits, self.large_right))

    @property
    def reads_teacher(self) -> bool:
        """Whether L's logits are needed and given."""
        needed = (self.label_weight < 1 and self.teacher_top is None) or self.large_right is None
        return needed and (self.teacher_input is not None or self.teacher_logits is not None)

    def teacher(self, chunk: slice, out: torch.Tensor) -> torch.Tensor:
        """L's logits of some rows, in `out` [rows, V]."""
        columns = out.shape[1]
        if self.teacher_logits is not None:
            return out.copy_(self.teacher_logits[chunk, :columns])
        bias = None if self.teacher_bias is None else self.teacher_bias[:columns]
        return _linear(self.teacher_input[chunk], self.teacher_weight[:columns], bias, out)


def fused_linear_cat_loss(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    teacher_input: torch.Tensor | None = None,
    teacher_linear_weight: torch.Tensor | None = None,
    teacher_linear_bias: torch.Tensor | None = None,
    teacher_logits: torch.Tensor | None = None,
    teacher_top: TopK | None = None,
    teacher_correct: torch.Tensor | None = None,
    teacher_cache: TargetCache | None = None,
    examples: torch.Tensor | None = None,
    token_mask: torch.Tensor | None = None,
    label_weight: float = 0.5,
    temperature: float = 1.0,
    mask: str = "either",
    normalize: str = "tokens",
    ignore_index: int = -100,
    logit_softcap: float | None = None,
    chunk_bytes: int | None = None,
    skip_rows: bool | str = "auto",
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    return_stats: bool = False,
):
    """`loss.cascade_aware_loss` of the logits `input` @ `linear_weight`.T (+ bias), without holding them.

    Args:
        input: hidden states of S that its head reads [..., H]; row i predicts target[i] (aligned, nothing is shifted).
        linear_weight, linear_bias: head of S [V, H], [V].
        target: int64 [...]; `ignore_index` marks prompt and padding.
        teacher_input, teacher_linear_weight, teacher_linear_bias: the same of L: [..., H_t], [V', H_t], [V'], with
            V' >= V where L's vocabulary is longer by padding (its further columns are cut off).
        teacher_logits: L's logits [..., V'] in their place.
        teacher_top: L's distribution as its k most probable tokens and a tail, [..., k] and [...], in their place; the
            soft term is the cross entropy of k + 1 events. Give `teacher_correct` for the mask.
        teacher_correct: bool [...], whether L is right on each token; enough where w = 1.
        teacher_cache, examples: a `training.teacher.TeacherCache` that says all of this, of any mode, and int64 [B],
            numbers of the examples in its training set whose target tokens are those of `target`, one after another.
        token_mask: bool [...], alpha given from outside, in place of `mask`.
        logit_softcap: c of c tanh(logits / c) (Gemma 2), for S; L's logits are taken as they come.
        chunk_bytes: memory for one chunk's logits and gradients, by default 64 MiB on a CPU and 512 MiB elsewhere; a
            chunk has at least 128 rows on a CPU and 1,024 elsewhere.
        skip_rows: compute the gradient of kept rows alone: True, False, or "auto" (while at most 90 % are kept).
        label_weight, temperature, mask, normalize, reduction, generator, return_stats: as in `cascade_aware_loss`.

    Returns the loss (with `return_stats` the pair of loss and `LossStats`). Matrix products are in autocast's dtype
    where it is on, else in the wider of the two factors'; all else, the loss and the sum of dW over chunks among it,
    in float32 or wider. Gradients have the dtype of what they belong to, and reach `input`, `linear_weight` and
    `linear_bias`, never the teacher; what needs none, as a frozen head, is not computed. `reduction` "none" goes
    through the chunks again in backward, mask "random" with several chunks once more before. `retain_graph` is right.

    Raises ValueError as `cascade_aware_loss`, and for shapes that do not fit; RuntimeError in backward with
    `create_graph`.
    """
    teacher_head = (teacher_input, teacher_linear_weight, teacher_linear_bias)
    _check_shapes(input, linear_weight, linear_bias, target, *teacher_head, teacher_logits)
    if logit_softcap is not None and not 0 < logit_softcap < float("inf"):
        raise ValueError(f"logit_softcap is {logit_softcap!r}; expected None or a finite number > 0")
    if isinstance(mask, torch.Tensor):
        if token_mask is not None:
            raise ValueError("mask is a tensor and token_mask was given as well: give one of them")
        token_mask = mask
    has_logits = teacher_logits is not None or teacher_input is not None
    check_top(teacher_top, target, linear_weight.shape[0], has_logits)
    if teacher_cache is not None and (has_logits or teacher_top is not None or teacher_correct is not None):
        raise ValueError("teacher_cache says all of L: give no other teacher_... beside it")
    has_soft = has_logits or teacher_top is not None or (teacher_cache is not None and teacher_cache.mode != "argmax")
    check_options(label_weight, temperature, mask if token_mask is None else token_mask, normalize, reduction, has_soft)
    if skip_rows not in SKIP_ROWS:
        raise ValueError(f"skip_rows is {skip_rows!r}; expected True, False or 'auto'")
    is_target, labels = target_rows(target, ignore_index, linear_weight.shape[0])

    def rows(tensor):
        if tensor is None or len(labels) < target.numel():
            return None if tensor is None else tensor[is_target]
        return tensor.reshape(len(labels), -1)  # no copy: teacher_logits are large

    def flags(name, tensor):
        return None if tensor is None else check_flags(name, tensor, target).to(input.device)[is_target]

    device = "cpu" if input.device.type == "cpu" else "else"
    memory = CHUNK_BYTES[device] if chunk_bytes is None else chunk_bytes
    given_mask = flags("token_mask", token_mask)
    student = (input, linear_weight, linear_bias)
    teacher = (rows(teacher_input), teacher_linear_weight, teacher_linear_bias)
    teacher_logits, large_right = rows(teacher_logits), flags("teacher_correct", teacher_correct)
    teacher_top = None if teacher_top is None else teacher_top.rows(is_target)
    if teacher_cache is not None:
        large_right, known = _cached(teacher_cache, examples, labels, label_weight, temperature)
        teacher = tuple(known.get(name) for name in ("teacher_input", "teacher_linear_weight", "teacher_linear_bias"))
        teacher_logits, teacher_top = known.get("teacher_logits"), known.get("teacher_top")
        _check_columns(linear_weight, teacher[1], teacher_logits)
        check_top(teacher_top, labels, linear_weight.shape[0], False)
    if teacher[0] is not None:
        dtype = _product_dtype(*teacher)
        teacher = (None if t is None else t.to(dtype) for t in teacher)
    given = _Given(
        *teacher,
        teacher_logits=teacher_logits,
        teacher_top=teacher_top,
        large_right=large_right,
        mask=mask if given_mask is None else given_mask,
        generator=generator,
        label_weight=float(label_weight),
        temperature=float(temperature),
        softcap=logit_softcap,
        chunk_rows=max(MIN_ROWS[device], int(memory // (12 * linear_weight.shape[0]))),
        skip=skip_rows,
        dtype=_product_dtype(*student),
        wanted=tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in student),
    )
    function = _PerToken if reduction == "none" else _Summed
    token_loss, keep, small_right, large_right = function.apply(
        input[is_target], linear_weight, linear_bias, labels, given
    )
    kept = keep.sum()
    if reduction == "none":
        loss = torch.zeros(target.shape, dtype=token_loss.dtype, device=token_loss.device)
        loss = loss.masked_scatter(is_target, token_loss)
    else:
        divisor = 1 if reduction == "sum" else labels.numel() if normalize == "tokens" else kept.clamp(min=1)
        loss = token_loss / divisor
    if not return_stats:
        return loss
    return loss, stats_of(kept, labels.numel(), small_right, large_right if given.compares else None)


class _Summed(torch.autograd.Function):
    """Sum of the token losses; the gradients are made in forward and scaled in backward."""

    @staticmethod
    def forward(ctx, rows, weight, bias, labels, given):
        outputs, grads = _run(rows, weight, bias, labels, given, given.wanted)
        loss, *flags = outputs
        ctx.save_for_backward(*grads)  # dX [N, H], dW [V, H], db [V] of the sum: no logits, no inputs
        ctx.dtypes = [None if t is None else t.dtype for t in (rows, weight, bias)]
        ctx.mark_non_differentiable(*flags)
        return loss.sum(), *flags

    @staticmethod
    def backward(ctx, grad, *_):
        _refuse_create_graph()
        # Not in place: what is saved serves again under retain_graph. In the loss's dtype: 1 / N rounded to bfloat16
        # would be one error in every gradient.
        scaled = (None if g is None else g.to(grad.dtype) * grad for g in ctx.saved_tensors)
        return *(None if g is None else g.to(dtype) for g, dtype in zip(scaled, ctx.dtypes)), None, None


class _PerToken(torch.autograd.Function):
    """Loss of each row: its gradient needs the weight of each row, so backward goes through the chunks again."""

    @staticmethod
    def forward(ctx, rows, weight, bias, labels, given):
        outputs, _ = _run(rows, weight, bias, labels, given, (False, False, False))
        loss, *flags = outputs
        ctx.save_for_backward(rows, weight, bias, labels)
        ctx.given = given._replace(mask=flags[0], generator=None)  # the mask as it was drawn
        ctx.mark_non_differentiable(*flags)
        return loss, *flags

    @staticmethod
    def backward(ctx, grad, *_):
        _refuse_create_graph()
        rows, weight, bias, labels = ctx.saved_tensors
        _, grads = _run(rows, weight, bias, labels, ctx.given, ctx.needs_input_grad[:3], grad)
        dtypes = (None if t is None else t.dtype for t in (rows, weight, bias))
        return *(None if g is None else g.to(dtype) for g, dtype in zip(grads, dtypes)), None, None


def _run(rows, weight, bias, labels, given: _Given, wanted, row_weight=None):
    """((loss [N], keep [N], small_right [N], large_right [N]), (d rows, d weight, d bias)), chunk after chunk.

    wanted: which of the three gradients; row_weight: [N] factor of each row's loss in the gradient, else 1.
    """
    count, kind = len(labels), given.kind
    # What outlives a chunk: four numbers a row, and the gradients. Rows that are not kept stay 0.
    loss = torch.zeros(count, dtype=kind, device=rows.device)
    keep, small, large = (torch.zeros(count, dtype=torch.bool, device=rows.device) for _ in range(3))
    d_rows = torch.zeros_like(rows) if wanted[0] else None
    d_weight = torch.zeros_like(weight, dtype=kind) if wanted[1] else None
    d_bias = torch.zeros_like(bias, dtype=kind) if wanted[2] else None
    rows, weight, bias = (None if t is None else t.to(given.dtype) for t in (rows, weight, bias))
    chunks = [slice(first, min(first + given.chunk_rows, count)) for first in range(0, count, given.chunk_rows)]
    # [c, V] each: S's logits, which become their gradient; L's, where they are read; one to spare. Once for all chunks:
    # memory that is asked for anew for every chunk costs more on a CPU than a pass over it.
    shape = (3 if given.reads_teacher else 2, min(count, given.chunk_rows), weight.shape[0])
    buffers = torch.empty(shape, dtype=kind, device=rows.device)
    mask = given.mask
    with torch.autocast(rows.device.type, enabled=False):  # it would round the sums that are kept in float32
        if mask == "random" and len(chunks) > 1:  # how many tokens of the whole batch are kept must be known first
            rights = [_rights(rows, weight, bias, labels, given, chunk, buffers)[4:] for chunk in chunks]
            mask = keep_mask("random", *map(torch.cat, zip(*rights)), given.generator)
        for chunk in chunks:
            # logits [c, V] in buffer 0, teacher [c, V] or None in buffer 1
            logits, teacher, top, at_label, small[chunk], large[chunk] = _rights(
                rows, weight, bias, labels, given, chunk, buffers
            )
            known = large[chunk] if given.compares else None
            keep[chunk] = alpha = (
                mask[chunk] if isinstance(mask, torch.Tensor) else keep_mask(mask, small[chunk], known, given.generator)
            )
            x, y = rows[chunk], labels[chunk]
            kept = alpha.nonzero().squeeze(-1)
            skip = given.skip is True or (given.skip == "auto" and len(kept) <= SKIP_BELOW * len(y))
            where = kept + chunk.start if skip else chunk  # the rows of this chunk among all N
            if skip:  # from here on c is the number of kept rows
                x, y, top, at_label = x[kept], y[kept], top[kept], at_label[kept]
                # S's kept rows go from buffer 0 to the last one, then L's from 1 to 0: what is left is the spare one
                free, spare = buffers[0, : len(kept)], buffers[-1, : len(kept)]
                logits, spare = torch.index_select(logits, 0, kept, out=spare), free
                if given.label_weight < 1 and teacher is not None:
                    spare = buffers[1, : len(kept)]
                    teacher = torch.index_select(teacher, 0, kept, out=free)
            else:
                spare = buffers[-1, : len(y)]
            options = {"label_weight": given.label_weight, "temperature": given.temperature, "softcap": given.softcap}
            if given.label_weight < 1 and given.teacher_top is not None:
                events = given.teacher_top.rows(where)
                token_loss = top_loss_and_gradient(logits, y, at_label, events, spare, **options)
            else:
                token_loss = loss_and_gradient(logits, y, top, at_label, teacher, spare, **options)
            # logits [c, V] are the gradient now, teacher and spare are used up
            if not skip and len(kept) < len(y):
                token_loss.masked_fill_(~alpha, 0.0)
                logits.masked_fill_(~alpha.unsqueeze(-1), 0.0)
            loss[where] = token_loss
            if not any(wanted):
                continue
            if row_weight is not None:
                logits *= row_weight[where].unsqueeze(-1)
            gradient = logits.to(given.dtype)  # a copy only under autocast, or where the factors are half precision
            if d_rows is not None:
                d_rows[where] = (gradient @ weight).to(d_rows.dtype)
            if d_weight is not None and d_weight.dtype == gradient.dtype:
                torch.addmm(d_weight, gradient.T, x, out=d_weight)
            elif d_weight is not None:
                d_weight += gradient.T @ x
            if d_bias is not None:
                d_bias += logits.sum(0)
    return (loss, keep, small, large), (d_rows, d_weight, d_bias)


def _linear(x, weight, bias, out):
    """x W^T + b in `out`, whose dtype may be another."""
    if out.dtype != x.dtype:
        return out.copy_(F.linear(x, weight, bias))
    return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


def _rights(rows, weight, bias, labels, given: _Given, chunk: slice, buffers):
    """Logits of S and L [c, V] (L's may be None), S's highest logit and that of the label [c], who is right [c], [c].

    The logits lie in the first two buffers. Non-finite ones are refused.
    """
    y = labels[chunk]
    logits = _linear(rows[chunk], weight, bias, buffers[0, : len(y)])
    if given.softcap is not None:
        logits.div_(given.softcap).tanh_().mul_(given.softcap)
    top, at_label = highest_and_label(logits, y, "logits")
    teacher = None
    large = given.large_right[chunk] if given.large_right is not None else torch.zeros_like(y, dtype=torch.bool)
    if given.reads_teacher:
        teacher = given.teacher(chunk, buffers[1, : len(y)])
        if given.large_right is None:
            best, labelled = highest_and_label(teacher, y, "teacher_logits")
            large = labelled >= best
    return logits, teacher, top, at_label, at_label >= top, large


def _product_dtype(*factors) -> torch.dtype:
    """The dtype F.linear would compute in: autocast's where it is on, which leaves float64 alone; else the widest."""
    dtype = reduce(torch.promote_types, (t.dtype for t in factors if t is not None))
    device = factors[0].device.type
    return torch.get_autocast_dtype(device) if dtype != torch.float64 and torch.is_autocast_enabled(device) else dtype


def _refuse_create_graph():
    if torch.is_grad_enabled():
        raise RuntimeError(
            "fused_linear_cat_loss has no second derivative, which create_graph=True asks for: use "
            "cascade_aware_loss on the logits"
        )


def _check_shapes(input, weight, bias, target, teacher_input, teacher_weight, teacher_bias, teacher_logits):
    _check_head("", input, weight, bias, target)
    if (teacher_input is None) != (teacher_weight is None):
        raise ValueError("teacher_input and teacher_linear_weight belong together: give both or neither")
    if teacher_input is not None:
        _check_head("teacher_", teacher_input, teacher_weight, teacher_bias, target)
    if teacher_input is not None and teacher_logits is not None:
        raise ValueError("teacher_logits and teacher_input were both given: one of them says what L's logits are")
    if teacher_logits is not None and teacher_logits.shape[:-1] != target.shape:
        raise ValueError(f"teacher_logits {tuple(teacher_logits.shape)} do not fit target {tuple(target.shape)}")
    _check_columns(weight, teacher_weight, teacher_logits)


def _check_head(whose: str, input, weight, bias, target):
    """ValueError unless hidden states fit the target, and weight and bias of the head the hidden states."""
    if not input.is_floating_point() or input.shape[:-1] != target.shape:
        raise ValueError(
            f"{whose}input {tuple(input.shape)} ({input.dtype}) does not fit target {tuple(target.shape)}: expected "
            "floating point [..., H] and [...], aligned so that row i predicts target[i]"
        )
    shape = tuple(weight.shape)
    if weight.dim() != 2 or shape[1] != input.shape[-1]:
        raise ValueError(f"{whose}linear_weight {shape} does not fit {whose}input {tuple(input.shape)}: it is [V, H]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{whose}linear_bias {tuple(bias.shape)} does not fit {whose}linear_weight {shape}")


def _check_columns(weight, teacher_weight, teacher_logits):
    """ValueError where L has fewer output columns than S."""
    columns = None if teacher_weight is None else teacher_weight.shape[0]
    columns = columns if teacher_logits is None else teacher_logits.shape[-1]
    if columns is not None and columns < weight.shape[0]:
        raise ValueError(
            f"L has {columns} output columns and S {weight.shape[0]}: S and L must share one vocabulary; cut the "
            "padded columns of S off before the call"
        )


def _cached(cache: TargetCache, examples, labels: torch.Tensor, label_weight: float, temperature: float):
    """(whether L is right on each target token, what else the cache says of them: `TeacherCache.distribution`)."""
    if not isinstance(examples, torch.Tensor) or examples.dtype != torch.int64 or examples.dim() != 1:
        raise ValueError("teacher_cache needs examples: int64 [B], the examples whose target tokens these are")
    rows = cache.rows(examples.cpu())
    if len(rows) != len(labels):
        raise ValueError(
            f"the teacher cache has {len(rows)} target tokens for these {len(examples)} examples and the batch "
            f"{len(labels)}: it is of another training set, or the batch was cut after it was made"
        )
    right = cache.correct[rows].to(labels.device)
    return right, cache.distribution(rows, temperature, labels.device) if label_weight < 1 else {}
