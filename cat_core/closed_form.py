"""Loss of rows of logits and its gradient, in closed form and in place: what `fused` does with one chunk.

With S's logits s, p_S = softmax(s), temperature T, and L's distribution p_L (losses in `loss`, arXiv 2406.00060):

    dloss / ds = w (p_S - e_y) + (1 - w) T (p_S^(1/T) - p_L^(1/T))

Where L is known by its k most probable tokens and a tail (`loss.TopK`), the tail is spread over all other tokens as S
spreads its own: p_L(v) = tail p_S(v) / p_S(others), taken as a constant.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

import torch

from cat_core.loss import TopK, require_finite_soft_term


def loss_and_gradient(
    tiles: Iterable[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]],
    size: int,
    labels: torch.Tensor,
    highest: torch.Tensor,
    at_label: torch.Tensor,
    *,
    label_weight: float,
    temperature: float,
    softcap: float | None,
) -> torch.Tensor:
    """Loss of each row [c], from tiles of `size` rows (the last may have fewer), one after another.

    A tile is (S's logits, L's or None where w = 1, memory to spare), [t, V] each: the first becomes the gradient with
    respect to the head's output, the others are used up. highest, at_label: of each row of S's logits, [c]; softcap: c
    of S's logits, which are capped already. ValueError where the soft term is not finite. Every pass over a tile
    counts, and on a CPU every call: one exponential a distribution; one number a row waits for the last tile.
    """
    w, t = label_weight, temperature
    minus = highest.new_full((size, 1), -w)
    sums = []  # [t, 1] each: of exp(s - max s), the same at T, the cross term times L's sum, and L's sum
    # tiles come first: zip asks them for one more, and so says that it is done with the last
    for (p, large, spare), index, top in zip(tiles, *(v.unsqueeze(-1).split(size) for v in (labels, highest))):
        chain = _chain(p, softcap)  # before the logits are overwritten
        p.sub_(top)
        soft_total = cross = large_total = None
        if w < 1:
            # large: exp((L's logits - their highest) / T); p_L^(1/T) is that over its sum
            large = large if t == 1 else large.div_(t)
            large_total = large.sub_(large.amax(-1, keepdim=True)).exp_().sum(-1, keepdim=True)
            shifted = p if t == 1 else p / t  # (s - max s) / T, in memory of its own unless T = 1
            cross = torch.mul(large, shifted, out=spare).sum(-1, keepdim=True)
            if not isfinite(cross.sum()):
                # A token masked out of the vocabulary has p = 0 and log p = -inf; its product is 0, not NaN.
                cross = spare.masked_fill_(large == 0, 0.0).sum(-1, keepdim=True)
            soft_total = None if t == 1 else shifted.exp_().sum(-1, keepdim=True)
        total = p.exp_().sum(-1, keepdim=True)
        sums.append((total, total if soft_total is None else soft_total, cross, large_total))
        # p: w p_S + (1 - w) T p_S^(1/T), one product where T = 1, then - (1 - w) T p_L^(1/T), then - w e_y
        p.mul_(total.reciprocal() if w == 1 or t == 1 else w / total)
        if w < 1 and t != 1:
            torch.addcmul(p, shifted, soft_total.reciprocal(), value=(1 - w) * t, out=p)
        if w < 1:
            torch.addcmul(p, large, large_total.reciprocal(), value=(w - 1) * t, out=p)
        p.scatter_add_(-1, index, minus[: len(index)])
        if chain is not None:
            p.mul_(chain)  # from the gradient by the capped logits to that by the head's output
    total, soft_total, cross, large_total = (None if v[0] is None else torch.cat(v).squeeze(-1) for v in zip(*sums))
    loss = total.log() + highest - at_label
    if w < 1:  # the soft term: log sum exp(shifted) - the sum of p_L shifted
        soft = (soft_total.log() - cross / large_total) * t**2
        require_finite_soft_term(soft, t)
        loss = w * loss + (1 - w) * soft
    return loss


def top_loss_and_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    at_label: torch.Tensor,
    teacher: TopK,
    spare: torch.Tensor,
    *,
    label_weight: float,
    temperature: float,
    softcap: float | None,
) -> torch.Tensor:
    """As `loss_and_gradient` of one tile, with L's distribution as k tokens and a tail: [c, k], [c, k], [c].

    The k tokens are taken out of the row and put back at the end, so that the sum over all others is exact, however
    little they have.
    """
    w, t = label_weight, temperature
    # ids, q [c, k]: L's most probable tokens and their probabilities; tail [c, 1]: what L gives to all others
    ids, q, tail = teacher.ids.long(), teacher.probabilities.to(logits.dtype), teacher.tail.to(logits.dtype)
    tail = tail.unsqueeze(-1)
    chain = _chain(logits, softcap)  # before the logits are overwritten
    at_top = logits.gather(-1, ids)  # [c, k] S's logits of the k tokens, out of the way
    rest_top = logits.scatter_(-1, ids, float("-inf")).amax(-1, keepdim=True)  # [c, 1] highest of the others
    empty = torch.isinf(rest_top)  # the k tokens are the whole vocabulary
    rest_top.masked_fill_(empty, 0.0)
    # Two names for [c, V] memory: `rest` is `logits`, to the end; `soft_rest` is `spare`, or `rest` where T = 1.
    rest = logits.sub_(rest_top)  # s - rest_top, -inf at the k tokens
    soft_rest = rest if t == 1 else torch.div(rest, t, out=spare).exp_()  # exp((s - rest_top) / T)
    rest.exp_()  # exp(s - rest_top); both are 0 at the k tokens

    def softmax(rest, rest_top, at_top):
        """Softmax of a whole row, from its two parts; nothing is overwritten.

        (count: sum of `rest` [c, 1]; factor [c, 1]: `rest` times it are the probabilities of the others; those of the
        k tokens [c, k]; log of the sum of exp of all logits [c, 1]).
        """
        count = rest.sum(-1, keepdim=True)
        highest = torch.maximum(at_top.amax(-1, keepdim=True), rest_top.masked_fill(empty, float("-inf")))
        scale = (rest_top - highest).exp().masked_fill(empty, 0.0)  # from the others' highest to that of the row
        p_top = (at_top - highest).exp()
        total = scale * count + p_top.sum(-1, keepdim=True)
        return count, scale / total, p_top / total, highest + total.log()

    # the hard term, at T = 1
    count, factor, p_top, log_total = hard = softmax(rest, rest_top, at_top)
    loss = log_total.squeeze(-1) - at_label
    # the soft term, at T: cross entropy of k + 1 events, the last of which has the summed probability of the others
    soft_top, soft_rest_top = at_top / t, rest_top / t
    count, soft_factor, soft_p_top, log_total = hard if t == 1 else softmax(soft_rest, soft_rest_top, soft_top)
    # Where L gives nothing, -inf of S costs nothing: the product is 0, not NaN.
    cross = (q * (soft_top - log_total).masked_fill(q == 0, 0.0)).sum(-1, keepdim=True)
    cross += tail * (soft_rest_top + count.log() - log_total).masked_fill(tail == 0, 0.0)
    soft = -cross.squeeze(-1) * t**2
    require_finite_soft_term(soft, t)
    mass = q.sum(-1, keepdim=True) + tail  # 1, but for rounding
    weight = (1 - w) * t
    # the gradient at the others, w p_S + (1 - w) T (mass p_S^(1/T) - tail p_S^(1/T) / p_S^(1/T)(others)), where p_S is
    # factor rest, p_S^(1/T) soft_factor soft_rest, and the last quotient soft_rest / count
    of_rest = weight * (soft_factor * mass - (tail / count).masked_fill(tail == 0, 0.0))  # [c, 1]
    if t == 1:
        rest.mul_(of_rest + w * factor)
    else:
        rest.mul_(w * factor).add_(soft_rest.mul_(of_rest))  # soft_rest is used up
    # rest is 0 at the k tokens still: they are put back, then - w e_y
    rest.scatter_(-1, ids, w * p_top + weight * (soft_p_top * mass - q))
    index = labels.unsqueeze(-1)
    rest.scatter_add_(-1, index, rest.new_full(index.shape, -w))
    if chain is not None:
        rest.mul_(chain)
    return w * loss + (1 - w) * soft


def _chain(logits: torch.Tensor, softcap: float | None) -> torch.Tensor | None:
    """Derivative of c tanh(x / c) by x, from its values, in memory of its own."""
    return None if softcap is None else 1 - (logits / softcap) ** 2
