"""The fused loss against the dense reference: values, gradients, counts, over masks, options and chunk sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import peak_bytes
from cat_core import fused
from cat_core.fused import fused_linear_cat_loss
from cat_core.loss import MASKS, TopK, cascade_aware_loss, is_right


def case(seed, n=23, hidden=5, wide=7, vocab=11, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(n, hidden, generator=g, dtype=dtype), torch.randn(vocab, hidden, generator=g, dtype=dtype)
    tx, tw = torch.randn(n, wide, generator=g, dtype=dtype), torch.randn(vocab + 3, wide, generator=g, dtype=dtype)
    y = torch.randint(vocab, (n,), generator=g)
    y[torch.rand(n, generator=g) < 0.3] = -100
    y[0] = 3
    bias = torch.randn(vocab, generator=g, dtype=dtype)
    return x.requires_grad_(), w.requires_grad_(), bias.requires_grad_(), tx, tw, y


def tile_bytes(seed, vocab):
    """Of tiles of one row, of three, or of a whole chunk."""
    return (0, 3, 100)[seed % 3] * vocab * 8


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
                patch.setitem(fused.MIN_ROWS, "cpu", chunk)
                patch.setitem(fused.TILE_BYTES, "cpu", tile_bytes(seed, vocab))
                loss, stats = fused_linear_cat_loss(
                    x, w, y, linear_bias=b, teacher_input=tx, teacher_linear_weight=tw, chunk_bytes=0,
                    skip_rows=skip, **common,
                )  # fmt: skip
        else:
            logits = F.linear(x, w, b)
            loss, stats = cascade_aware_loss(logits, y, (tx @ tw.T)[:, :vocab], **common)
        total = (loss * upstream).sum() if reduction == "none" else 1.7 * loss
        results.append((loss.detach(), stats, torch.autograd.grad(total, (x, w, b))))
    return results


@pytest.mark.slow
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


def top_of(logits, k, temperature):
    """L's distribution by its k most probable tokens and the tail."""
    p = (logits / temperature).softmax(-1)
    best, ids = p.topk(k, dim=-1)
    return TopK(ids, best, p.scatter(-1, ids, 0.0).sum(-1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99), st.sampled_from([1, 4, 100]), st.sampled_from(MASKS), st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([1.0, 2.5]), st.sampled_from([1, 4, 11]), st.sampled_from(["mean", "none"]),
    st.sampled_from(["auto", True, False]), st.booleans(),
)  # fmt: skip
def test_top_k_of_l_is_that_of_the_dense_reference(seed, chunk, mask, weight, temperature, k, reduction, skip, capped):
    x, w, b, tx, tw, y = case(seed)
    teacher = (tx @ tw.T)[:, : len(w)]
    top, right = top_of(teacher, k, temperature), is_right(teacher, y.clamp(min=0))
    upstream = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) + 0.5
    common = {"teacher_top": top, "teacher_correct": right, "mask": mask, "label_weight": weight,
              "temperature": temperature, "reduction": reduction, "return_stats": True}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fused.MIN_ROWS, "cpu", chunk)
        patch.setitem(fused.TILE_BYTES, "cpu", tile_bytes(seed, len(w)))
        ours, stats = fused_linear_cat_loss(
            x, w, y, linear_bias=b, chunk_bytes=0, skip_rows=skip, logit_softcap=2.0 if capped else None,
            generator=torch.Generator().manual_seed(5), **common,
        )  # fmt: skip
    logits = F.linear(x, w, b)
    logits = 2 * torch.tanh(logits / 2) if capped else logits
    dense, expected = cascade_aware_loss(logits, y, generator=torch.Generator().manual_seed(5), **common)
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-12)
    assert [int(v) for v in vars(stats).values()] == [int(v) for v in vars(expected).values()]
    found = (torch.autograd.grad((loss * upstream).sum() if reduction == "none" else loss, (x, w, b))
             for loss in (ours, dense))  # fmt: skip
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_tail_is_exact_where_s_gives_it_almost_nothing():
    """exp(-200) is 0 in float32, its logarithm is not."""
    w = torch.tensor([[200.0], [0.0], [-1.0], [-1.0]], requires_grad=True)
    x, y = torch.ones(1, 1), torch.tensor([1])
    top = TopK(torch.tensor([[0]]), torch.tensor([[0.7]]), torch.tensor([0.3]))
    common = {"teacher_top": top, "mask": "none", "label_weight": 0.0}
    ours, dense = fused_linear_cat_loss(x, w, y, **common), cascade_aware_loss(x @ w.T, y, **common)
    torch.testing.assert_close(ours, dense)
    assert ours > 50
    for a, b in zip(torch.autograd.grad(ours, w), torch.autograd.grad(dense, w)):
        torch.testing.assert_close(a, b)


def in_chunks(rows, monkeypatch):
    monkeypatch.setitem(fused.MIN_ROWS, "cpu", rows)
    return {"chunk_bytes": 0}


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(monkeypatch, reduction, temperature, softcap):
    x, w, b, tx, tw, y = case(1, n=6, hidden=3, wide=4, vocab=5)
    chunks = in_chunks(4, monkeypatch)

    def loss(x, w, b):
        return fused_linear_cat_loss(
            x, w, y, linear_bias=b, teacher_input=tx, teacher_linear_weight=tw, label_weight=0.3,
            temperature=temperature, logit_softcap=softcap, reduction=reduction, **chunks,
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (x, w, b))


def test_softcap_bias_of_the_teacher_and_given_flags_are_those_of_the_dense_loss():
    x, w, b, tx, tw, y = case(2)
    capped = 2 * torch.tanh(F.linear(x, w, b) / 2)
    teacher_bias = torch.linspace(-3, 3, len(tw), dtype=torch.float64)
    teacher_logits = F.linear(tx, tw, teacher_bias)
    flags = torch.arange(len(y)) % 3 == 0
    head = {"linear_bias": b, "logit_softcap": 2.0}
    ours = fused_linear_cat_loss(
        x, w, y, teacher_input=tx, teacher_linear_weight=tw, teacher_linear_bias=teacher_bias, **head
    )
    dense = cascade_aware_loss(capped, y, teacher_logits[:, : len(w)])
    torch.testing.assert_close(ours, dense)
    before = teacher_logits.clone()
    torch.testing.assert_close(fused_linear_cat_loss(x, w, y, teacher_logits=teacher_logits, **head), dense)
    assert torch.equal(teacher_logits, before)
    chosen = fused_linear_cat_loss(x, w, y, teacher_logits=teacher_logits, token_mask=flags, **head)
    torch.testing.assert_close(chosen, cascade_aware_loss(capped, y, teacher_logits[:, : len(w)], mask=flags))
    known = fused_linear_cat_loss(x, w, y, teacher_correct=flags, label_weight=1.0, **head)
    torch.testing.assert_close(known, cascade_aware_loss(capped, y, teacher_correct=flags, label_weight=1.0))
    assert len({round(v.item(), 9) for v in (dense, chosen, known)}) == 3


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backward_twice_is_right_and_a_second_derivative_is_refused(reduction):
    x, w, b, tx, tw, y = case(3)
    loss = fused_linear_cat_loss(
        x, w, y, linear_bias=b, teacher_input=tx, teacher_linear_weight=tw, mask="none", reduction=reduction
    ).sum()
    with pytest.raises(RuntimeError, match="create_graph=True.*cascade_aware_loss"):
        torch.autograd.grad(loss, (x, w, b), create_graph=True)
    once = torch.autograd.grad(loss, (x, w, b), retain_graph=True)
    twice = torch.autograd.grad(3 * loss, (x, w, b))
    for a, c in zip(once, twice):
        assert a.abs().max() > 0
        torch.testing.assert_close(3 * a, c)


@pytest.mark.parametrize("normalize", ["tokens", "kept"])
@pytest.mark.parametrize("divisor", [3, torch.tensor(3)])
def test_a_divisor_takes_the_place_of_the_number_of_tokens(normalize, divisor):
    x, w, b, tx, tw, y = case(5, n=20, hidden=3, wide=4, vocab=9)
    teacher = {"teacher_input": tx, "teacher_linear_weight": tw}
    found = fused_linear_cat_loss(x, w, y, linear_bias=b, divisor=divisor, normalize=normalize, **teacher)
    expected = cascade_aware_loss(F.linear(x, w, b), y, (tx @ tw.T)[:, :9], reduction="sum") / 3
    torch.testing.assert_close(found, expected)
    for a, c in zip(torch.autograd.grad(found, (x, w, b)), torch.autograd.grad(expected, (x, w, b))):
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("divisor, reduction", [(0, "mean"), (torch.tensor(0), "mean"), (math.nan, "mean"), (2, "sum")])
def test_a_divisor_that_divides_nothing_is_refused(divisor, reduction):
    x, w, _, _, _, y = case(5, n=20, hidden=3, wide=4, vocab=9)
    given = {"divisor": divisor, "reduction": reduction}
    with pytest.raises(ValueError, match="divisor is (0|nan|2).* with reduction '(mean|sum)'; expected a number"):
        fused_linear_cat_loss(x, w, y, mask="none", label_weight=1.0, **given)


def test_backward_from_the_loss_itself_copies_no_gradient_and_leaves_what_is_saved():
    x, w, _, tx, tw, y = case(5, n=20, hidden=30, wide=4, vocab=400)

    def loss():
        return fused_linear_cat_loss(x, w, y, teacher_input=tx, teacher_linear_weight=tw)

    assert peak_bytes(loss().backward, "cpu") < w.nbytes < peak_bytes((2 * loss()).backward, "cpu")
    (expected,) = torch.autograd.grad(loss(), w)
    kept, w.grad = loss(), None
    kept.backward(retain_graph=True)
    kept.backward(retain_graph=True)
    w.grad.mul_(7)  # as an optimiser may
    torch.testing.assert_close(w.grad, 14 * expected)
    (mine,) = torch.autograd.grad(kept, w, retain_graph=True)
    torch.testing.assert_close(mine, expected)


def matrix_flops(run):
    """FLOPs of the matrix products of one call, as PyTorch's counter sees them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(2, 30), st.floats(0, 1),
    st.sampled_from([1, 7, 64]), st.integers(0, 9), st.booleans(),
)  # fmt: skip
def test_matrix_products_are_those_of_the_formula(n, hidden, wide, vocab, rate, chunk, ignored, has_bias):
    """N V (2 H + 4 rho H + 2 H_t) with rows skipped, rho = 0 among them; without, as if rho were 1."""
    g = torch.Generator().manual_seed(n)
    x, w = torch.randn(n, hidden, generator=g, requires_grad=True), torch.randn(vocab, hidden, requires_grad=True)
    tx, tw, y = torch.randn(n, wide), torch.randn(vocab, wide), torch.randint(vocab, (n,), generator=g)
    keep = torch.rand(n, generator=g) < rate
    pad = torch.full((ignored,), -100)
    bias = torch.zeros(vocab) if has_bias else None

    def run(skip, x=x, w=w, token_mask=keep):
        loss = fused_linear_cat_loss(
            torch.cat([x, x.new_ones(ignored, hidden)]), w, torch.cat([y, pad]), linear_bias=bias,
            teacher_input=torch.cat([tx, tx.new_ones(ignored, wide)]), teacher_linear_weight=tw,
            token_mask=torch.cat([token_mask, pad == 0]), chunk_bytes=0, skip_rows=skip,
        )  # fmt: skip
        if loss.requires_grad:
            loss.backward()

    with pytest.MonkeyPatch.context() as patch:
        in_chunks(chunk, patch)
        kept = int(keep.sum())
        forward = n * vocab * (2 * hidden + 2 * wide)
        assert matrix_flops(lambda: run(True)) == forward + 4 * kept * vocab * hidden
        assert matrix_flops(lambda: run(True, token_mask=torch.zeros_like(keep))) == forward
        assert matrix_flops(lambda: run(False)) == forward + 4 * n * vocab * hidden
        top = TopK(torch.zeros(n, 1, dtype=torch.int64), torch.full((n, 1), 0.6), torch.full((n,), 0.4))
        cut = {"teacher_top": top, "token_mask": keep, "skip_rows": True, "chunk_bytes": 0}  # L is not multiplied
        one = matrix_flops(lambda: fused_linear_cat_loss(x, w, y, **cut).backward())
        assert one == 2 * n * vocab * hidden + 4 * kept * vocab * hidden
        known = {"teacher_input": tx, "teacher_linear_weight": tw, "teacher_correct": keep, "mask": "large"}
        one = matrix_flops(lambda: fused_linear_cat_loss(x, w, y, **known, skip_rows=True, chunk_bytes=0).backward())
        assert one == 2 * n * vocab * hidden + kept * vocab * (4 * hidden + 2 * wide)  # L's of kept rows alone
        assert matrix_flops(lambda: run(True, w=w.detach())) == forward + 2 * kept * vocab * hidden  # a frozen head
        assert matrix_flops(lambda: run(True, x=x.detach())) == forward + 2 * kept * vocab * hidden
        assert matrix_flops(torch.no_grad()(lambda: run(True))) == forward


def test_a_batch_without_a_target_is_refused_before_anything_is_multiplied():
    x, w, _, tx, tw, y = case(4)

    def run():
        with pytest.raises(ValueError, match="every one of the 23 labels is ignore_index"):
            fused_linear_cat_loss(x, w, torch.full_like(y, -100), teacher_input=tx, teacher_linear_weight=tw)

    assert matrix_flops(run) == 0


class Largest(TorchDispatchMode):
    """The most bytes in any one tensor that was made, but for views."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_tensor_grows_with_tokens_times_vocabulary(monkeypatch, skip, reduction):
    chunks = in_chunks(16, monkeypatch)
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", 5 * 500 * 8 // torch.get_num_threads())
    found = []
    for n in (40, 160):
        x, w, b, tx, tw, y = case(5, n=n, hidden=2, wide=2, vocab=500)
        with Largest() as largest:
            fused_linear_cat_loss(
                x, w, y, linear_bias=b, teacher_input=tx, teacher_linear_weight=tw, skip_rows=skip,
                reduction=reduction, **chunks,
            ).sum().backward()  # fmt: skip
        found.append(largest.bytes)
    assert found == [16 * 500 * 8] * 2  # a chunk of logits in float64; of each model there is one
    with Largest() as largest:
        cascade_aware_loss(F.linear(x, w), y, (tx @ tw.T)[:, :500]).backward()
    assert largest.bytes == 160 * 503 * 8


HALF = [
    pytest.param(torch.bfloat16, torch.bfloat16, False, id="both in bf16"),
    pytest.param(torch.bfloat16, torch.float32, False, id="hidden states in bf16"),
    pytest.param(torch.float32, torch.bfloat16, False, id="head in bf16"),
    pytest.param(torch.float32, torch.float32, True, id="autocast"),
    pytest.param(torch.bfloat16, torch.float32, True, id="autocast of hidden states in bf16"),
]


@pytest.mark.parametrize("of_rows, of_head, autocast", HALF)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_bf16_is_near_the_oracle_in_float64(monkeypatch, of_rows, of_head, autocast, reduction, temperature):
    *tensors, y = case(6, n=200, hidden=16, wide=24, vocab=60)
    x, w, b, tx, tw = (
        (t.detach() / 4).to(kind) for t, kind in zip(tensors, (of_rows, of_head, of_head, of_rows, of_head))
    )
    keep = torch.arange(len(y)) % 3 > 0  # given, so that no rounding decides what is kept
    options = {"temperature": temperature, "label_weight": 0.3, "reduction": reduction}
    ours = [t.clone().requires_grad_() for t in (x, w, b)]
    chunks = in_chunks(32, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = fused_linear_cat_loss(
            ours[0], ours[1], y, linear_bias=ours[2], teacher_input=tx, teacher_linear_weight=tw, token_mask=keep,
            **chunks, **options,
        )  # fmt: skip
        loss.sum().backward()  # inside, too: what backward recomputes must not be rounded once more
    assert loss.dtype == torch.float32
    exact = [t.double().requires_grad_() for t in (x, w, b)]
    teacher = (tx.double() @ tw.double().T)[:, : len(w)]
    oracle = cascade_aware_loss(F.linear(*exact), y, teacher, mask=keep, **options)
    oracle.sum().backward()
    torch.testing.assert_close(loss.double(), oracle, rtol=0.02, atol=0.02)
    for a, c in zip(ours, exact):
        assert a.grad.dtype == a.dtype
        error = (a.grad.double() - c.grad).norm() / c.grad.norm()
        assert error < 0.01
        mixed = not autocast and of_rows != of_head  # the wider of the two: products in float32
        assert error > 1e-5 or (mixed and a.dtype == torch.float32)


def test_bf16_sums_the_head_gradient_in_float32(monkeypatch):
    """600 summands of -0.75 in the label's row: a sum in bfloat16 would stop at -256."""
    x, w = torch.ones(600, 1, dtype=torch.bfloat16), torch.zeros(4, 1, dtype=torch.bfloat16, requires_grad=True)
    y = torch.zeros(600, dtype=torch.int64)
    fused_linear_cat_loss(
        x, w, y, mask="none", label_weight=1.0, reduction="sum", **in_chunks(1, monkeypatch)
    ).backward()
    assert w.grad.flatten().tolist() == pytest.approx([-450, 150, 150, 150], rel=0.004)


def test_a_mean_over_many_tokens_is_not_rounded_to_bf16():
    """3/320 in bfloat16 is off by 0.1 %, which would be one error in every gradient; here nothing else is inexact."""
    x, w = torch.ones(320, 1, dtype=torch.bfloat16), torch.zeros(2, 1, requires_grad=True)
    y = torch.zeros(320, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        (3 * fused_linear_cat_loss(x, w, y, mask="none", label_weight=1.0)).backward()
    torch.testing.assert_close(w.grad.flatten(), torch.tensor([-1.5, 1.5]), rtol=1e-5, atol=0)


def test_ties_in_bf16_count_as_right_as_in_the_dense_loss():
    *tensors, y = case(7, n=4000, hidden=8, vocab=100, dtype=torch.float32)
    x, w, _, tx, tw = (t.detach().bfloat16() for t in tensors)
    logits, teacher_logits = F.linear(x, w), F.linear(tx, tw)[:, : len(w)]
    targets = y != -100
    highest = logits.topk(2).values
    tied = (highest[:, 0] == highest[:, 1]) & targets
    second = logits.float().scatter(1, logits.argmax(1, keepdim=True), -torch.inf).argmax(1)
    y[tied] = second[tied]  # right by the tie alone
    _, ours = fused_linear_cat_loss(x, w, y, teacher_input=tx, teacher_linear_weight=tw, return_stats=True)
    _, dense = cascade_aware_loss(logits, y, teacher_logits, return_stats=True)
    assert vars(ours) == vars(dense)
    strict = (logits.argmax(1) == y).sum()
    assert int(ours.both + ours.only_small) == int(strict + tied.sum()) > int(strict)


def test_errors_name_what_was_given():
    x, w, b, tx, tw, y = case(8)
    teacher = {"teacher_input": tx, "teacher_linear_weight": tw}
    for message, call in (
        (r"input \(22, 5\).*does not fit target \(23,\)", lambda: fused_linear_cat_loss(x[1:], w, y, **teacher)),
        (r"linear_weight \(11, 4\) does not fit", lambda: fused_linear_cat_loss(x, w[:, 1:], y, **teacher)),
        (r"linear_bias \(10,\) does not fit", lambda: fused_linear_cat_loss(x, w, y, linear_bias=b[1:], **teacher)),
        ("belong together", lambda: fused_linear_cat_loss(x, w, y, teacher_input=tx)),
        ("both given", lambda: fused_linear_cat_loss(x, w, y, teacher_logits=tx, **teacher)),
        ("L has 10 output columns and S 11", lambda: fused_linear_cat_loss(x, w, y, **teacher | {
            "teacher_linear_weight": tw[:10]})),
        ("skip_rows is 'on'", lambda: fused_linear_cat_loss(x, w, y, skip_rows="on", **teacher)),
        ("label_weight 0.5 < 1 uses L's", lambda: fused_linear_cat_loss(x, w, y)),
        ("logits are NaN or infinite at 1 of", lambda: fused_linear_cat_loss(
            x.detach().index_fill(0, torch.tensor([0]), torch.inf), w, y, **teacher)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("skip", [True, False])
def test_columns_that_both_models_rule_out_cost_nothing(monkeypatch, temperature, skip):
    """-inf where L has probability 0: the product is 0, in whichever tile; where L has some, the loss is infinite."""
    x, w, b, tx, tw, y = case(9)
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", 2 * len(w) * 8)
    out = torch.zeros(len(tw), dtype=x.dtype)
    out[[1, 5]] = -torch.inf
    y[(y == 1) | (y == 5)] = 3
    bias, options = b.detach() + out[: len(w)], {"temperature": temperature, "label_weight": 0.3}
    head = {"linear_bias": bias, "teacher_input": tx, "teacher_linear_weight": tw, "skip_rows": skip}
    ours = fused_linear_cat_loss(x, w, y, teacher_linear_bias=out, **head, **options)
    dense = cascade_aware_loss(F.linear(x, w, bias), y, F.linear(tx, tw, out)[:, : len(w)], **options)
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=0)
    for a, c in zip(torch.autograd.grad(ours, (x, w)), torch.autograd.grad(dense, (x, w))):
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="the soft term is infinite or NaN at"):
        fused_linear_cat_loss(x, w, y, **head, **options)


def test_a_mask_given_as_a_tensor_is_the_token_mask():
    x, w = torch.randn(2, 3, 4), torch.randn(7, 4)
    target = torch.tensor([[-100, 1, 2], [-100, 4, 5]])
    keep = torch.tensor([[False, True, False], [False, True, False]])
    given = {"label_weight": 1.0, "return_stats": True}
    loss, stats = fused_linear_cat_loss(x, w, target, mask=keep, **given)
    wanted, _ = cascade_aware_loss(x @ w.T, target, mask=keep, **given)
    assert int(stats.kept) == 2 and torch.allclose(loss, wanted)
    with pytest.raises(ValueError, match="mask is a tensor and token_mask was given as well"):
        fused_linear_cat_loss(x, w, target, mask=keep, token_mask=keep, **given)
    with pytest.raises(ValueError, match="expected torch.bool"):
        fused_linear_cat_loss(x, w, target, mask=keep.long(), **given)


def test_the_teacher_has_to_fit_row_by_row():
    x, w, target = torch.randn(3, 5, 4), torch.randn(7, 4), torch.randint(7, (3, 5))
    states, head = torch.randn(3, 5, 6), torch.randn(7, 6)
    for wrong, message in (
        ({"teacher_input": states.transpose(0, 1)}, "teacher_input .* does not fit target"),
        ({"teacher_linear_weight": torch.randn(7, 5)}, "teacher_linear_weight .* does not fit teacher_input"),
        ({"teacher_linear_bias": torch.randn(1)}, "teacher_linear_bias .* does not fit teacher_linear_weight"),
        ({"logit_softcap": 0.0}, "logit_softcap is 0.0; expected None or a finite number > 0"),
        ({"logit_softcap": -3.0}, "logit_softcap is -3.0"),
    ):
        with pytest.raises(ValueError, match=message):
            fused_linear_cat_loss(x, w, target, **{"teacher_input": states, "teacher_linear_weight": head} | wrong)
