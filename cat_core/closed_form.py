"""Loss of rows of logits and its gradient, in closed form and in place: what `fused` does with one chunk.

With S's logits s, p_S = softmax(s), temperature T, and L's distribution p_L (losses in `loss`, arXiv 2406.00060):

    dloss / ds = w (p_S - e_y) + (1 - w) T (p_S^(1/T) - p_L^(1/T))

Where L is known by its k most probable tokens and a tail (`loss.TopK`), the tail is spread over all other tokens as S
spreads its own: p_L(v) = tail p_S(v) / p_S(others), taken as a constant.
"""

from __future__ import annotations

import torch

from cat_core.loss import TopK, require_finite_soft_term


def loss_and_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    highest: torch.Tensor,
    at_label: torch.Tensor,
    teacher: torch.Tensor | None,
    spare: torch.Tensor,
    *,
    label_weight: float,
    temperature: float,
    softcap: float | None,
) -> torch.Tensor:
    """Loss of each row [c]; `logits` [c, V] is overwritten by its gradient with respect to the head's output.

    Every pass over [c, V] counts: one exponential a distribution, in place. `teacher` (L's logits, None where w = 1)
    and `spare` [c, V] are used up; highest, at_label: of each row of `logits`, [c]; softcap: c of `logits`, which are
    capped already. ValueError where the soft term is not finite.
    """
    w, t = label_weight, temperature
    index, highest = labels.unsqueeze(-1), highest.unsqueeze(-1)  # [c, 1] each
    chain = _chain(logits, softcap)  # before the logits are overwritten
    soft = p_soft = None
    if w < 1:
        # spare: p_L^(1/T). L's logits are used up, `teacher` is free
        p_large = torch.softmax(teacher if t == 1 else teacher.div_(t), -1, out=spare)
        # shifted [c, V]: (s - max s) / T; for T = 1 in `logits` itself, else in memory of its own
        shifted = logits.sub_(highest) if t == 1 else (logits - highest).div_(t)
        # teacher: p_L shifted. cross [c]: its sum; the soft term is log sum exp(shifted) - cross
        cross = torch.mul(p_large, shifted, out=teacher).sum(-1)
        if not bool(torch.isfinite(cross).all()):
            # A token masked out of the vocabulary has p = 0 and log p = -inf; its product is 0, not NaN.
            cross = teacher.masked_fill_(p_large == 0, 0.0).sum(-1)
        if t != 1:
            p_soft = shifted.exp_()  # shifted: exp((s - max s) / T)
            total = p_soft.sum(-1, keepdim=True)
            soft = total.squeeze(-1).log() - cross  # [c]
            p_soft.div_(total).sub_(p_large)  # shifted: p_S^(1/T) - p_L^(1/T)
            logits.sub_(highest)
    else:
        logits.sub_(highest)
    # logits [c, V]: s - max s on every path; from here on the same memory is called p
    p = logits.exp_()
    total = p.sum(-1, keepdim=True)
    log_total = total.squeeze(-1).log()  # [c]
    loss = log_total + highest.squeeze(-1) - at_label
    p.div_(total)  # p: p_S
    if w < 1:
        soft = (log_total - cross if t == 1 else soft) * t**2
        require_finite_soft_term(soft, t)
        loss = w * loss + (1 - w) * soft
        if t == 1:  # both terms share p_S: w p_S + (1 - w) (p_S - p_L)
            p.sub_(p_large, alpha=1 - w)
        else:  # w p_S + (1 - w) T (p_S^(1/T) - p_L^(1/T))
            p.mul_(w).add_(p_soft, alpha=(1 - w) * t)
    p.scatter_add_(-1, index, p.new_full(index.shape, -w))  # ... - w e_y: the gradient by the capped logits
    if chain is not None:
        p.mul_(chain)
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
    """As `loss_and_gradient`, with L's distribution as k tokens and a tail: [c, k], [c, k], [c].

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
