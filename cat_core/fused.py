"""The loss of `loss.cascade_aware_loss` straight from hidden states: the [N, V] logits are never kept.

The gradient of a row's loss by its logits s = W x is known in closed form (`closed_form`); alpha times it is that of
the masked loss. So each chunk of rows is read once in forward: logits, alpha, then gradient, dX and dW, and the chunk
is dropped. Rows with alpha = 0 need no softmax, no dX and no dW; ignored rows go before the first matrix product.
Matrix products: N V (2 H + 4 rho H + 2 H_t) FLOPs, rho the share of kept rows; 2 rho H_t where it was given on which
tokens L is right. Memory: dX, dW, one chunk, through which all else than the products goes in tiles that fit a cache.

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

    def of(self, examples: torch.Tensor, labels: torch.Tensor, label_weight: float, temperature: float):
        """Whether L is right on the target tokens of examples [B], whose labels these are, bool [n], and, where
        label_weight < 1, its distributions as arguments of `fused_linear_cat_loss`."""


# Memory for a chunk's logits of S and L; at least so many chunks of a batch, and rows of a chunk. Each chunk reads W
# and writes dW once: a GPU needs many rows to hide that, a CPU few.
CHUNK_BYTES = {"cpu": 64 * 2**20, "else": 512 * 2**20}
CHUNKS = {"cpu": 8, "else": 1}
MIN_ROWS = {"cpu": 256, "else": 1024}
# For each of the three parts of a tile: together within a core's second-level cache; enough to keep a GPU busy.
TILE_BYTES = {"cpu": 512 * 2**10, "else": 64 * 2**20}
SKIP_BELOW = 0.95  # skipping pays while at most this share of the rows is kept: it copies the rows that stay


class _Given(NamedTuple):
    """What one call needs besides S: L's part, the mask and the options. Rows of the tensors are target tokens.

    divisor: of the summed loss, None for the number of kept rows; dtype: of S's matrix products; kind: of all else;
    wanted: which gradients (rows, weight, bias).
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
    tile_bytes: int
    skip: bool | str
    divisor: float | None
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

    def teacher(self, rows, out: torch.Tensor) -> torch.Tensor:
        """L's logits of some rows, in `out` [at least as many, V]."""
        part = (self.teacher_input if self.teacher_logits is None else self.teacher_logits)[rows]
        out, columns = out[: len(part)], out.shape[1]
        if self.teacher_logits is not None:
            return out.copy_(part[:, :columns])
        return _linear(part, self.teacher_weight[:columns], self.teacher_bias, out)


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
    divisor: float | torch.Tensor | None = None,
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
        chunk_bytes: memory for one chunk's logits of S and L, by default 512 MiB, on a CPU 64 MiB and at most those of
            an eighth of the tokens; a chunk has at least 256 rows on a CPU and 1,024 elsewhere.
        skip_rows: compute the gradient of kept rows alone: True, False, or "auto" (while at most 95 % are kept).
        divisor: what a "mean" divides by in place of what `normalize` names, such as the tokens of all micro-batches: a
            number > 0 or a tensor of one. On a CPU, dividing the loss afterwards would cost a copy of dW.
        label_weight, temperature, mask, normalize, reduction, generator, return_stats: as in `cascade_aware_loss`.

    Returns the loss (with `return_stats` the pair of loss and `LossStats`). Matrix products are in autocast's dtype
    where it is on, else in the wider of the two factors'; all else, the loss and the sum of dW over chunks among it,
    in float32 or wider. Gradients have the dtype of what they belong to, and reach `input`, `linear_weight` and
    `linear_bias`, never the teacher; what needs none, as a frozen head, is not computed. `reduction` "none" goes
    through the chunks again in backward, mask "random" with several chunks once more before. `retain_graph` is right;
    whoever changes in place what `torch.autograd.grad` gave cannot go backward again, as PyTorch then says.

    Raises ValueError as `cascade_aware_loss`, and for shapes that do not fit; RuntimeError in backward with
    `create_graph`.
    """
    teacher = (teacher_input, teacher_linear_weight, teacher_linear_bias)
    _check_shapes(input, linear_weight, linear_bias, target, *teacher, teacher_logits)
    if logit_softcap is not None and not 0 < logit_softcap < float("inf"):
        raise ValueError(f"logit_softcap is {logit_softcap!r}; expected None or a finite number > 0")
    if isinstance(mask, torch.Tensor):
        if token_mask is not None:
            raise ValueError("mask is a tensor and token_mask was given as well: give one of them")
        token_mask = mask
    has_logits = teacher_logits is not None or teacher_input is not None
    check_top(teacher_top, target, linear_weight.shape[0], has_logits, ignore_index)
    if teacher_cache is not None and (has_logits or teacher_top is not None or teacher_correct is not None):
        raise ValueError("teacher_cache says all of L: give no other teacher_... beside it")
    has_soft = has_logits or teacher_top is not None or (teacher_cache is not None and teacher_cache.mode != "argmax")
    check_options(label_weight, temperature, mask if token_mask is None else token_mask, normalize, reduction, has_soft)
    if divisor is not None and (reduction != "mean" or not 0 < (divisor := float(divisor)) < float("inf")):
        raise ValueError(f"divisor is {divisor} with reduction {reduction!r}; expected a number > 0 and a mean")
    if skip_rows not in ("auto", True, False):
        raise ValueError(f"skip_rows is {skip_rows!r}; expected True, False or 'auto'")
    is_target, labels = target_rows(target, ignore_index, linear_weight.shape[0])

    def rows(tensor):  # no copy where none is needed: teacher_logits are large
        whole = len(labels) == target.numel()
        return None if tensor is None else tensor.reshape(len(labels), -1) if whole else tensor[is_target]

    def flags(name, tensor):
        return None if tensor is None else check_flags(name, tensor, target).to(input.device)[is_target]

    device = "cpu" if input.device.type == "cpu" else "else"
    given_mask, student = flags("token_mask", token_mask), (input, linear_weight, linear_bias)
    teacher = (rows(teacher_input), teacher_linear_weight, teacher_linear_bias)
    teacher_logits, large_right = rows(teacher_logits), flags("teacher_correct", teacher_correct)
    teacher_top = None if teacher_top is None else teacher_top.rows(is_target)
    if teacher_cache is not None:
        large_right, known = teacher_cache.of(examples, labels, label_weight, temperature)
        teacher = tuple(known.get(name) for name in ("teacher_input", "teacher_linear_weight", "teacher_linear_bias"))
        teacher_logits, teacher_top = known.get("teacher_logits"), known.get("teacher_top")
        _check_columns(linear_weight, teacher[1], teacher_logits)
        check_top(teacher_top, labels, linear_weight.shape[0], False, ignore_index)
    if teacher[0] is not None:
        dtype = _product_dtype(*teacher)
        teacher = [None if t is None else t.to(dtype) for t in teacher]
        teacher[2] = None if teacher[2] is None else teacher[2][: linear_weight.shape[0]]
    dtype, threads = _product_dtype(*student), torch.get_num_threads() if device == "cpu" else 1  # a cache each
    row_bytes = 2 * dtype.itemsize * linear_weight.shape[0]
    usual = min(CHUNK_BYTES[device], row_bytes * -(-len(labels) // CHUNKS[device]))
    chunk_rows = int((usual if chunk_bytes is None else chunk_bytes) // row_bytes)
    if divisor is None:
        divisor = 1 if reduction != "mean" else len(labels) if normalize == "tokens" else None
    given = _Given(
        *(*teacher, teacher_logits, teacher_top, large_right, mask if given_mask is None else given_mask, generator),
        *(float(label_weight), float(temperature), logit_softcap),
        *(max(MIN_ROWS[device], chunk_rows), TILE_BYTES[device] * threads, skip_rows, divisor, dtype),
        wanted=tuple(torch.is_grad_enabled() and t is not None and t.requires_grad for t in student),
    )
    function = _PerToken if reduction == "none" else _Summed
    loss, keep, small_right, large_right = function.apply(input[is_target], linear_weight, linear_bias, labels, given)
    if reduction == "none":
        loss = loss.new_zeros(target.shape).masked_scatter(is_target, loss)
    if not return_stats:
        return loss
    return loss, stats_of(keep.sum(), labels.numel(), small_right, large_right if given.compares else None)


class _Summed(torch.autograd.Function):
    """Sum of the token losses over the divisor; the gradients are made in forward, and in backward only scaled."""

    @staticmethod
    def forward(ctx, rows, weight, bias, labels, given):
        (loss, keep, *flags), grads = _run(rows, weight, bias, labels, given, given.wanted)
        divisor = max(1, int(keep.sum())) if given.divisor is None else given.divisor  # numbers, exact in any dtype
        grads = [g if g is None or divisor == 1 else g.div_(divisor) for g in grads]  # nobody has seen them yet
        ctx.save_for_backward(*grads)  # dX [N, H], dW [V, H], db [V]: no logits, no inputs
        ctx.dtypes = [None if t is None else t.dtype for t in (rows, weight, bias)]
        ctx.mark_non_differentiable(keep, *flags)
        return loss.sum() / divisor, keep, *flags

    @staticmethod
    def backward(ctx, grad, *_):
        _refuse_create_graph()
        grads = ctx.saved_tensors
        # By 1, as a rule: then no copy of dW is made (a GPU would have to be waited for to know). Not in place: what is
        # saved serves again under retain_graph. In the loss's dtype: a factor in bfloat16 would be off everywhere.
        if grad.device.type != "cpu" or grad != 1:
            grads = (None if g is None else g.to(grad.dtype) * grad for g in grads)
        return *(None if g is None else g.to(dtype) for g, dtype in zip(grads, ctx.dtypes)), None, None


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
        return *(None if g is None else g.to(t.dtype) for g, t in zip(grads, (rows, weight, bias))), None, None


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
    # Once for all chunks, as memory that is asked for anew for each costs more on a CPU than a pass over it. buffers: 2
    # [c, V], S's logits, which become their gradient, and L's; memory: 3 [t, V] for tiles.
    shape = (min(count, given.chunk_rows), weight.shape[0])
    alike = given.teacher_input is not None and given.teacher_input.dtype == given.dtype
    sizes = ((shape[0], given.dtype), (shape[0] * given.reads_teacher, given.dtype if alike else kind))
    buffers = [torch.empty((high, shape[1]), dtype=dtype, device=rows.device) for high, dtype in sizes]
    size = min(shape[0], max(1, given.tile_bytes // (shape[1] * kind.itemsize)))
    memory = torch.empty((3, size, shape[1]), dtype=kind, device=rows.device)
    soft, mask = given.label_weight < 1, given.mask
    options = {"label_weight": given.label_weight, "temperature": given.temperature, "softcap": given.softcap}
    with torch.autocast(rows.device.type, enabled=False):  # it would round the sums that are kept in float32
        if mask == "random" and len(chunks) > 1:  # how many tokens of the whole batch are kept must be known first
            rights = [_rights(rows, weight, bias, labels, given, chunk, buffers)[4:] for chunk in chunks]
            mask = keep_mask("random", *map(torch.cat, zip(*rights)), given.generator)
        for chunk in chunks:
            # logits [c, V] and teacher [c, V] (None where nothing of L is needed yet) in the two buffers
            found = _rights(rows, weight, bias, labels, given, chunk, buffers)
            logits, teacher, top, at_label, small[chunk], large[chunk] = found
            known = large[chunk] if given.compares else None
            alpha = mask[chunk] if torch.is_tensor(mask) else keep_mask(mask, small[chunk], known, given.generator)
            keep[chunk], kept = alpha, alpha.nonzero().squeeze(-1)
            skip = given.skip is True or (given.skip == "auto" and len(kept) <= SKIP_BELOW * len(alpha))
            if skip and len(kept) == 0:
                continue
            where = kept + chunk.start if skip else chunk  # the rows of this chunk among all N whose gradient is made
            x, y, factor = rows[where], labels[where], None if row_weight is None else row_weight[where]
            if skip:
                top, at_label = top[kept], at_label[kept]
            elif len(kept) < len(alpha):
                factor = alpha.to(kind) if factor is None else factor * alpha
            chosen = [kept if skip else None] * 2  # the rows of S's logits and of L's; None: all, in their order
            if soft and given.reads_teacher and teacher is None:
                teacher, chosen[1] = given.teacher(where, buffers[1]), None
            tiles = _tiles(logits, teacher if soft else None, chosen, memory, len(y), factor, d_bias, given.softcap)
            if soft and given.teacher_top is not None:
                parts = (v.split(size) for v in (y, at_label, *given.teacher_top.rows(where)))
                token_loss = torch.cat([
                    top_loss_and_gradient(s, labelled, score, TopK(*events), spare, **options)
                    for (s, _, spare), labelled, score, *events in zip(tiles, *parts)
                ])  # fmt: skip
            else:
                token_loss = loss_and_gradient(tiles, size, y, top, at_label, **options)
            loss[where] = token_loss if skip else token_loss.masked_fill_(~alpha, 0.0)
            gradient = logits[: len(y)]
            if d_rows is not None:
                d_rows[where] = (gradient @ weight).to(d_rows.dtype)
            if d_weight is not None and d_weight.dtype == gradient.dtype:
                torch.addmm(d_weight, gradient.T, x, out=d_weight)
            elif d_weight is not None:
                d_weight += gradient.T @ x
    return (loss, keep, small, large), (d_rows, d_weight, d_bias)


def _tiles(logits, teacher, chosen, memory, count: int, factor, d_bias, softcap):
    """(S's logits, L's or None, memory to spare), [t, V] each, of the chosen rows of a chunk, `count` in all.

    Who asks for the next has made the first the gradient: times `factor` [count], it is added to d_bias, and put where
    the gradient of the chunk lies, at the front of `logits`, over rows that were read already."""
    for first in range(0, count, memory.shape[1]):
        part = slice(first, min(first + memory.shape[1], count))
        of_small, of_large = (part if numbers is None else numbers[part] for numbers in chosen)
        s = _tile(logits, of_small, memory[0])
        if softcap is not None:
            s.div_(softcap).tanh_().mul_(softcap)
        large = None if teacher is None else _tile(teacher, of_large, memory[1])
        yield s, large, memory[2, : part.stop - first]
        if factor is not None:
            s.mul_(factor[part].unsqueeze(-1))
        if d_bias is not None:
            d_bias += s.sum(0)
        if s.data_ptr() != logits[first].data_ptr():
            logits[part] = s


def _tile(buffer: torch.Tensor, rows, out: torch.Tensor) -> torch.Tensor:
    """Rows (a slice or numbers) of a chunk's buffer to compute in: themselves where possible, else copied to `out`."""
    if isinstance(rows, slice):
        part = buffer[rows]
        return part if part.dtype == out.dtype else out[: len(part)].copy_(part)
    out = out[: len(rows)]
    return torch.index_select(buffer, 0, rows, out=out) if buffer.dtype == out.dtype else out.copy_(buffer[rows])


def _linear(x, weight, bias, out):
    """x W^T + b in `out`, whose dtype may be another."""
    if out.dtype != x.dtype:
        return out.copy_(F.linear(x, weight, bias))
    return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


def _rights(rows, weight, bias, labels, given: _Given, chunk: slice, buffers):
    """Logits of S, not capped yet, and of L (None unless they say whether L is right) [c, V], S's highest and that of
    the label, capped [c], who is right [c], [c]. Non-finite ones are refused."""
    y = labels[chunk]
    logits = _linear(rows[chunk], weight, bias, buffers[0][: len(y)])
    top, at_label = (each.to(given.kind) for each in highest_and_label(logits, y, "logits"))
    if given.softcap is not None:
        top, at_label = torch.stack([top, at_label]).div_(given.softcap).tanh_().mul_(given.softcap)
    teacher, large = None, torch.zeros_like(y, dtype=torch.bool)
    if given.large_right is not None:
        large = given.large_right[chunk]
    elif given.reads_teacher:
        teacher = given.teacher(chunk, buffers[1])
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
        raise RuntimeError("create_graph=True: no second derivative is here, use cascade_aware_loss on the logits")


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
