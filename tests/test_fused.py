"""The fused loss against the dense reference: values, gradients, counts, over masks, options and chunk sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core import fused
from cat_core.fused import fused_linear_cat_loss
from cat_core.loss import MASKS, cascade_aware_loss


def case(seed, n=23, hidden=5, wide=7, vocab=11, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(n, hidden, generator=g, dtype=dtype), torch.randn(vocab, hidden, generator=g, dtype=dtype)
    tx, tw = torch.randn(n, wide, generator=g, dtype=dtype), torch.randn(vocab + 3, wide, generator=g, dtype=dtype)
    y = torch.randint(vocab, (n,), generator=g)
    y[torch.rand(n, generator=g) < 0.3] = -100
    y[0] = 3
    bias = torch.randn(vocab, generator=g, dtype=dtype)
    return x.requires_grad_(), w.requires_grad_(), bias.requires_grad_(), tx, tw, y


def both(seed, chunk, reduction="mean", dtype=torch.float64, skip="auto", **options):
    """(fused, dense): each (loss, stats, gradients of x, w and b)."""
    x, w, b, tx, tw, y = case(seed, dtype=dtype)
    vocab = w.shape[0]
    upstream = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.5
    results = []
    for which in ("fused", "dense"):
        g = torch.Generator().manual_seed(5)
        common = {"reduction": reduction, "generator": g, "return_stats": True, **options}
        if which == "fused":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fused, "MIN_ROWS", chunk)
                loss, stats = fused_linear_cat_loss(
                    x, w, y, linear_bias=b, teacher_input=tx, teacher_linear_weight=tw, chunk_bytes=0,
                    skip_rows=skip, **common,
                )  # fmt: skip
        else:
            logits = torch.nn.functional.linear(x, w, b)
            loss, stats = cascade_aware_loss(logits, y, (tx @ tw.T)[:, :vocab], **common)
        total = (loss * upstream).sum() if reduction == "none" else 1.7 * loss
        results.append((loss.detach(), stats, torch.autograd.grad(total, (x, w, b))))
    return results


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99), st.sampled_from([1, 4, 100]), st.sampled_from(MASKS), st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1.0, 2.5]), st.sampled_from(["tokens", "kept"]), st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from(["auto", True, False]),
)  # fmt: skip
def test_equal_to_the_dense_reference(seed, chunk, mask, weight, temperature, normalize, reduction, skip):
    ours, dense = both(
        seed, chunk, reduction, skip=skip, mask=mask, label_weight=weight, temperature=temperature, normalize=normalize
    )
    torch.testing.assert_close(ours[0], dense[0], rtol=1e-10, atol=1e-12)
    assert [int(v) for v in vars(ours[1]).values()] == [int(v) for v in vars(dense[1]).values()]
    for a, b in zip(ours[2], dense[2]):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
