"""Time and memory of the fused loss against other ways to the same gradient: `python -m benchmarks.loss`.

What all are compared with is `plain`, the formula as one would write it without this library: two `F.linear`, `argmax`
for the mask, `log_softmax`, `gather`, a product with L's `softmax`, and autograd for the rest. Ways of a case run in
turns, repeat after repeat, and each time is compared with that of the plain way in the same repeat. On a CPU with one
thread, times are the process's own CPU time, so that other work on the machine disturbs them less; otherwise wall time.
Memory is the most that was allocated at once beyond the inputs, gradients included.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.measure import check_gradients, clock, in_turns, peak_bytes, run, speedup
from cat_core.fused import fused_linear_cat_loss
from cat_core.loss import cascade_aware_loss, is_right

PLAIN = "plain"  # the way that all are compared with
PART = 256  # rows of a part of the checkpointed loss


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison: N tokens, V, H of S, H_t of L, and rho, the share of tokens that are kept."""

    tokens: int
    vocabulary: int
    hidden: int
    teacher_hidden: int
    rho: float


HEADS = [(8_000, 256, 512), (32_000, 256, 512), (128_000, 128, 256)]
SIZES = {
    "cpu": [(tokens, *head) for head in HEADS for tokens in (1024, 2048, 4096)],
    "cuda": [(8192, 8_000, 2048, 4096), (8192, 32_000, 2048, 4096), (8192, 128_000, 2048, 4096)],
    "quick": [(512, 2_000, 64, 128), (256, 8_000, 64, 128)],
}
RHOS = (1.0, 0.6, 0.3)


class Inputs:
    """Tensors of a case, the same for every way; logits are of size 1, so no distribution is degenerate.

    The labels are what L says on a share rho of the tokens, and what neither model says on the others: every way finds
    out by itself which tokens count.
    """

    def __init__(self, case: Case, device: str, dtype: torch.dtype):
        g = torch.Generator().manual_seed(0)

        def normal(rows, columns, scale):
            return (torch.randn(rows, columns, generator=g) * scale).to(device, dtype)

        self.x = normal(case.tokens, case.hidden, 1.0).requires_grad_()
        self.w = normal(case.vocabulary, case.hidden, case.hidden**-0.5).requires_grad_()
        self.tx = normal(case.tokens, case.teacher_hidden, 1.0)
        self.tw = normal(case.vocabulary, case.teacher_hidden, case.teacher_hidden**-0.5)
        small, large = _said(self.x.detach(), self.w.detach()), _said(self.tx, self.tw)
        wrong = torch.randint(case.vocabulary, (case.tokens,), generator=g).to(device)
        for _ in range(2):  # a step away from each of the two models' tokens
            wrong = torch.where((wrong == small) | (wrong == large), (wrong + 1) % case.vocabulary, wrong)
        self.keep = (torch.randperm(case.tokens, generator=g) < round(case.rho * case.tokens)).to(device)
        self.y = torch.where(self.keep, large, wrong)


def _said(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The token with the highest logit of each row [N], a part of the rows at a time."""
    return torch.cat([F.linear(part, w).argmax(-1) for part in x.split(PART)])


def plain(i: Inputs, right=lambda logits, labels: logits.argmax(-1) == labels):
    """The formula in plain PyTorch; `float` does nothing but where the head is in half precision."""
    logits, teacher = F.linear(i.x, i.w).float(), F.linear(i.tx, i.tw).float()
    keep = right(logits, i.y) | right(teacher, i.y)
    log_p = F.log_softmax(logits, -1)
    hard = -log_p.gather(-1, i.y.unsqueeze(-1)).squeeze(-1)
    soft = -(F.softmax(teacher, -1) * log_p).sum(-1)
    return (keep * (0.5 * hard + 0.5 * soft)).sum() / len(i.y)


def plain_amax(i: Inputs):
    """The same with the label's logit against `amax`, which a CPU finds sooner than `argmax`."""
    return plain(i, is_right)


def dense(i: Inputs):
    """The library's dense loss on all logits, which also checks that they are finite."""
    return cascade_aware_loss(F.linear(i.x, i.w), i.y, F.linear(i.tx, i.tw))


def checkpointed(i: Inputs):
    """Parts of the rows, whose logits are computed again in backward."""

    def part(x, y, tx):
        return cascade_aware_loss(F.linear(x, i.w), y, F.linear(tx, i.tw), reduction="sum")

    parts = zip(*(tensor.split(PART) for tensor in (i.x, i.y, i.tx)))
    return torch.stack([checkpoint(part, *each, use_reentrant=False) for each in parts]).sum() / len(i.y)


def fused(i: Inputs, **options):
    """The library's loss from hidden states."""
    return fused_linear_cat_loss(i.x, i.w, i.y, teacher_input=i.tx, teacher_linear_weight=i.tw, **options)


def liger_jsd(i: Inputs):
    """Liger-Kernel's chunked distillation with beta 0, forward KL: the same gradient where all tokens are kept."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.5, weight_soft_loss=0.5, beta=0.0)
    return loss(i.x, i.w, i.tx, i.tw, i.y)


def plain_xent(i: Inputs):
    """Cross entropy with the labels alone, on all logits."""
    return F.cross_entropy(F.linear(i.x, i.w), i.y)


def torch_xent(i: Inputs):
    """PyTorch's own chunked cross entropy."""
    return F.linear_cross_entropy(i.x, i.w, i.y, options=torch.nn.LinearCrossEntropyOptions())


def fused_xent(i: Inputs):
    """The library's loss with the labels alone."""
    return fused_linear_cat_loss(i.x, i.w, i.y, mask="none", label_weight=1.0)


def liger_xent(i: Inputs):
    """Liger-Kernel's fused cross entropy."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(i.w, i.x, i.y)


def cut_xent(i: Inputs):
    """Apple's cut cross entropy."""
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(i.x, i.w, i.y)


def ways(case: Case, device: str) -> list[dict[str, Callable]]:
    """What is compared in a case, in groups of one gradient each; the first of a group is the plain way."""
    group = {PLAIN: plain, "plain, amax": plain_amax, "fused": fused}
    if case.rho < 1:
        return [group | {"fused, no row skipped": partial(fused, skip_rows=False)}]
    groups = [group | {"dense, with checks": dense, "checkpointed": checkpointed}, {"plain, Xent": plain_xent}]
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        groups[1]["torch, Xent"] = torch_xent
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        groups[0]["Liger chunked JSD"] = liger_jsd
        groups[1]["Liger, Xent"] = liger_xent
    if device == "cuda" and importlib.util.find_spec("cut_cross_entropy"):
        groups[1]["cut-cross-entropy, Xent"] = cut_xent
    groups[1]["fused, Xent"] = fused_xent
    return groups


def floor(inputs: Inputs, teacher: bool) -> Callable[[], None]:
    """The matrix products alone that no exact way can do without, in memory made before."""
    x, w = inputs.x.detach(), inputs.w.detach()
    logits = torch.empty(len(x), len(w), dtype=x.dtype, device=x.device)
    kept = x[inputs.keep]

    def run():
        if teacher:
            torch.mm(inputs.tx, inputs.tw.T, out=logits)
        torch.mm(x, w.T, out=logits)
        part = logits[: len(kept)]
        torch.mm(part, w)
        torch.mm(part.T, kept)

    return run


def compare(case: Case, device: str, dtype: torch.dtype, repeats: int) -> list[dict]:
    """One row for each way of the case; ValueError for one whose gradient is another."""
    inputs, rows = Inputs(case, device, dtype), []

    def gradients(way):
        way(inputs).backward()
        found = [inputs.x.grad, inputs.w.grad]
        inputs.x.grad = inputs.w.grad = None
        return found

    for number, group in enumerate(ways(case, device)):
        plain, memory, found = next(iter(group)), {}, {}
        steps = {name: partial(gradients, way) for name, way in group.items()}
        for name, step in steps.items():  # the first call of each, whose time is not counted
            memory[name] = peak_bytes(lambda: found.update({name: step()}), device)  # noqa: B023 - called here
            check_gradients(name, found[name], plain, found[plain], dtype)
        found.clear()
        bare = floor(inputs, teacher=number == 0)
        bare()
        turns = in_turns({"floor": bare, **steps}, repeats, device)
        times = {name: both[:, clock(device)] for name, both in turns.items()}
        for name in group:
            rows.append(
                {**asdict(case), "way": name}
                | speedup(times[name], times[plain])
                | {"floor_share": statistics.median(times["floor"] / times[name]), "memory": memory[name]}
                | {"memory_share": memory[name] / memory[plain]}
            )
    return rows


TABLE = """
| V | N | H, H_t | rho | way | times as fast as plain (range) | MiB | MiB of plain's | floor's time of its |
|--:|--:|--:|--:|---|--:|--:|--:|--:|
| {vocabulary:,} | {tokens:,} | {hidden}, {teacher_hidden} | {rho} | {way} \
| {speedup:.2f} ({speedup_range[0]:.2f} to {speedup_range[1]:.2f}) \
| {memory!m:,.0f} | {memory_share:.3f} | {floor_share:.0%} |
"""


def cases(size: str) -> list[Case]:
    """Every size with every rho."""
    return [Case(*sizes, rho) for sizes in SIZES[size] for rho in RHOS]


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print the table, and write `benchmarks/results/loss-<device>.json` unless `--quick`."""
    return run("loss", __doc__.splitlines()[0], 3, arguments, cases, compare, TABLE)


if __name__ == "__main__":
    main()
