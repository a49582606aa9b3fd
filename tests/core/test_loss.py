"""The loss against two independent oracles, its masks and statistics, and every complaint it can make."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core.loss import MASKS, NORMALIZE, REDUCTIONS, LossStats, cascade_aware_loss, gatekeeper_loss, is_right
from cat_core.methods import METHODS, Method

IGNORE = -100
TENSOR_MASKS = ("none", "either", "small", "large", "both", "neither")  # those whose tokens are known without a draw


def batch(shape, vocabulary=7, seed=0, dtype=torch.float64, ignored=0.25, skill=2.0):
    """Logits of S and L that are right now and then, and labels some of which are ignored (never all)."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(vocabulary, shape, generator=g)
    small = torch.randn(*shape, vocabulary, generator=g, dtype=torch.float64)
    large = torch.randn(*shape, vocabulary, generator=g, dtype=torch.float64)
    small += skill * torch.rand(*shape, 1, generator=g) * F.one_hot(labels, vocabulary)
    large += skill * torch.rand(*shape, 1, generator=g) * F.one_hot(labels, vocabulary)
    ignore = torch.rand(shape, generator=g) < ignored
    ignore.reshape(-1)[:1] = False
    return small.to(dtype), labels.masked_fill(ignore, IGNORE), large.to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle_alpha(small, labels, large, mask):
    """1[...] of the paper, from argmax with ties resolved in favour of the label; 0 where ignored."""
    target = labels != IGNORE
    safe = labels.clamp(min=0).unsqueeze(-1)
    small_right = (small > small.gather(-1, safe)).sum(-1) == 0
    large_right = (large > large.gather(-1, safe)).sum(-1) == 0
    keep = {
        "none": torch.ones_like(small_right),
        "either": small_right | large_right,
        "small": small_right,
        "large": large_right,
        "both": small_right & large_right,
        "neither": ~small_right & ~large_right,
    }[mask]
    return keep & target


def oracle_loss(small, labels, large, keep, weight, temperature=1.0):
    """alpha * CE(s, w e_y + (1 - w) p_L) per token, in float64; the soft term apart when T is not 1."""
    small, large = small.double(), large.double()
    vocabulary = small.shape[-1]
    flat_labels = labels.clamp(min=0).reshape(-1)
    s, t = small.reshape(-1, vocabulary), large.reshape(-1, vocabulary)
    one_hot = F.one_hot(flat_labels, vocabulary).double()
    if temperature == 1:
        loss = F.cross_entropy(s, weight * one_hot + (1 - weight) * t.softmax(-1), reduction="none")
    else:
        hard = F.cross_entropy(s, one_hot, reduction="none")
        soft = F.cross_entropy(s / temperature, (t / temperature).softmax(-1), reduction="none")
        loss = weight * hard + (1 - weight) * temperature**2 * soft
    return (keep.reshape(-1).double() * loss).reshape(labels.shape)


def reduce(per_token, labels, keep, normalize, reduction):
    if reduction == "none":
        return per_token
    if reduction == "sum":
        return per_token.sum()
    return per_token.sum() / ((labels != IGNORE).sum() if normalize == "tokens" else max(int(keep.sum()), 1))


def naive_token_loss(small, label, large, weight, temperature, mask):
    """One token of the paper's formula with math.exp and math.log alone; lists of floats in, float out."""

    def softmax(row, t):
        top = max(row)
        e = [math.exp((x - top) / t) for x in row]
        return [x / sum(e) for x in e]

    small_right = all(x <= small[label] for x in small)
    large_right = all(x <= large[label] for x in large)
    alpha = {
        "none": True,
        "either": small_right or large_right,
        "small": small_right,
        "large": large_right,
        "both": small_right and large_right,
        "neither": not small_right and not large_right,
    }[mask]
    if not alpha:
        return 0.0
    hard = -math.log(softmax(small, 1.0)[label])
    p_small, p_large = softmax(small, temperature), softmax(large, temperature)
    soft = -sum(pl * math.log(ps) for ps, pl in zip(p_small, p_large))
    return weight * hard + (1 - weight) * temperature**2 * soft


# ---------------------------------------------------------------- value and gradient against the oracles


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("mask", TENSOR_MASKS)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradient_equal_the_float64_oracle(reduction, normalize, mask, weight, temperature):
    small, labels, large = batch((4, 9), seed=1)
    ours, theirs = small.clone().requires_grad_(), small.clone().requires_grad_()
    options = {"label_weight": weight, "temperature": temperature, "mask": mask}
    loss = cascade_aware_loss(ours, labels, large, normalize=normalize, reduction=reduction, **options)
    keep = oracle_alpha(small, labels, large, mask)
    assert 0 < keep.sum() and (mask == "none" or keep.sum() < (labels != IGNORE).sum()), "an idle example"
    per_token = oracle_loss(theirs, labels, large, keep, weight, temperature)
    expected = reduce(per_token, labels, keep, normalize, reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    upstream = torch.linspace(0.5, 2.0, loss.numel(), dtype=torch.float64).reshape(loss.shape)
    (loss * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-13)


@given(
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    vocabulary=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    mask=st.sampled_from(TENSOR_MASKS),
    weight=st.floats(0, 1),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    normalize=st.sampled_from(NORMALIZE),
    reduction=st.sampled_from(REDUCTIONS),
)
@settings(max_examples=120, deadline=None)
def test_any_shape_equals_the_naive_loop(shape, vocabulary, seed, mask, weight, temperature, normalize, reduction):
    small, labels, large = batch(shape, vocabulary, seed)
    loss, stats = cascade_aware_loss(
        small, labels, large, mask=mask, label_weight=weight, temperature=temperature,
        normalize=normalize, reduction=reduction, return_stats=True,
    )  # fmt: skip
    per_token = torch.zeros(labels.numel(), dtype=torch.float64)
    rows = zip(small.reshape(-1, vocabulary).tolist(), large.reshape(-1, vocabulary).tolist())
    for i, ((s, t), label) in enumerate(zip(rows, labels.reshape(-1).tolist())):
        if label != IGNORE:
            per_token[i] = naive_token_loss(s, label, t, weight, temperature, mask)
    per_token = per_token.reshape(labels.shape)
    keep = oracle_alpha(small, labels, large, mask)
    torch.testing.assert_close(loss, reduce(per_token, labels, keep, normalize, reduction), rtol=1e-10, atol=1e-12)
    assert loss.shape == (labels.shape if reduction == "none" else ())
    assert stats.kept == keep.sum() and stats.tokens == (labels != IGNORE).sum()


def test_gradient_is_softmax_minus_q_on_kept_rows():
    small, labels, large = batch((30,), ignored=0.0, seed=2)
    small.requires_grad_()
    cascade_aware_loss(small, labels, large, label_weight=0.4, reduction="sum").backward()
    q = 0.4 * F.one_hot(labels, 7) + 0.6 * large.softmax(-1)
    alpha = oracle_alpha(small.detach(), labels, large, "either").unsqueeze(-1)
    torch.testing.assert_close(small.grad, alpha * (small.detach().softmax(-1) - q))


@pytest.mark.parametrize("mask", TENSOR_MASKS)
@pytest.mark.parametrize("weight, temperature", [(1.0, 1.0), (0.4, 1.0), (0.4, 2.0)])
def test_gradcheck(mask, weight, temperature):
    small, labels, large = batch((2, 3), 5, seed=3)

    def loss(s):
        return cascade_aware_loss(
            s, labels, large, mask=mask, label_weight=weight, temperature=temperature, reduction="none"
        )

    assert torch.autograd.gradcheck(loss, (small.requires_grad_(),))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_inputs_are_computed_in_float32(dtype, tolerance):
    small, labels, large = batch((8, 16), 50, seed=4, dtype=dtype)
    ours, theirs = small.clone().requires_grad_(), small.double().requires_grad_()
    loss = cascade_aware_loss(ours, labels, large)
    assert loss.dtype == torch.float32
    keep = oracle_alpha(small, labels, large, "either")
    expected = oracle_loss(theirs, labels, large, keep, 0.5).sum() / (labels != IGNORE).sum()
    # Only the inputs are rounded: the loss itself has float32's accuracy whatever they are.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (loss * 1000).backward()  # lifts fp16 gradients out of the subnormal range
    (expected * 1000).backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=tolerance, atol=1e-6)


def test_large_logits_do_not_overflow():
    small, labels, large = batch((40,), seed=5, dtype=torch.float32)
    small, large = (small * 3e4).requires_grad_(), large * 3e4
    loss = cascade_aware_loss(small, labels, large, mask="none")
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(small.grad).all()


def test_float64_stays_float64():
    small, labels, large = batch((3,))
    assert cascade_aware_loss(small, labels, large).dtype == torch.float64


def test_non_contiguous_input():
    small, labels, large = batch((6, 5))
    for reduction in REDUCTIONS:
        plain = cascade_aware_loss(small, labels, large, reduction=reduction)
        turned = cascade_aware_loss(
            small.transpose(0, 1).contiguous().transpose(0, 1),
            labels.T.contiguous().T,
            large,
            reduction=reduction,
        )
        assert torch.equal(plain, turned)


def test_batch_layout_does_not_matter():
    small, labels, large = batch((4, 6))
    flat = cascade_aware_loss(small.reshape(-1, 7), labels.reshape(-1), large.reshape(-1, 7), reduction="none")
    assert torch.equal(cascade_aware_loss(small, labels, large, reduction="none").reshape(-1), flat)
    for i in range(4):
        for j in range(6):
            if labels[i, j] != IGNORE:
                one = cascade_aware_loss(small[i, j], labels[i, j], large[i, j], reduction="none")
                assert one.shape == () and one == flat[6 * i + j]


# ---------------------------------------------------------------- alpha: what is right, what is kept


def test_ties_count_as_right():
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 2, 2])
    assert is_right(logits, labels).tolist() == [True, True, False, True]
    wrong = torch.tensor([[0.0, 0.0, 0.0]]).repeat(4, 1).scatter_(1, ((labels + 1) % 3).unsqueeze(1), 1.0)
    _, stats = cascade_aware_loss(logits, labels, wrong, return_stats=True)
    assert (stats.kept, stats.only_small, stats.neither) == (3, 3, 1)
    _, stats = cascade_aware_loss(wrong, labels, logits, return_stats=True)
    assert (stats.kept, stats.only_large, stats.neither) == (3, 3, 1)


def test_a_near_tie_is_not_a_tie_unless_the_dtype_makes_it_one():
    # bf16 makes two logits equal that float32 tells apart: the tie is the model's own output, so it counts.
    fine = torch.tensor([[1.0, 1.0 + 2**-23]])
    labels = torch.tensor([0])
    assert not is_right(fine, labels)
    _, stats = cascade_aware_loss(fine.bfloat16(), labels, fine.bfloat16(), return_stats=True)
    assert stats.both == 1


def test_alpha_carries_no_gradient():
    """The gradient equals that of the same loss with alpha as constant numbers; L gets none at all."""
    small, labels, large = batch((5, 6), seed=6)
    small.requires_grad_(), large.requires_grad_()
    cascade_aware_loss(small, labels, large, reduction="sum").backward()
    assert large.grad is None
    constant = small.detach().clone().requires_grad_()
    keep = oracle_alpha(small.detach(), labels, large.detach(), "either")
    oracle_loss(constant, labels, large.detach(), keep, 0.5).sum().backward()
    torch.testing.assert_close(small.grad, constant.grad)


@pytest.mark.parametrize("mask", [*TENSOR_MASKS, "random"])
def test_dropped_and_ignored_rows_get_exactly_zero_gradient(mask):
    small, labels, large = batch((10, 10), seed=7)
    small.requires_grad_()
    per_token = cascade_aware_loss(small, labels, large, mask=mask, reduction="none", generator=generator())
    per_token.sum().backward()
    dropped = per_token == 0
    assert 0 < dropped.sum() < 100
    assert torch.count_nonzero(small.grad[dropped]) == 0
    assert (small.grad[~dropped].abs().sum(-1) > 0).all()


def test_ignored_rows_may_hold_anything():
    small, labels, large = batch((6, 6), seed=8)
    clean = small.clone().requires_grad_()
    expected = cascade_aware_loss(clean, labels, large)
    expected.backward()
    small[labels == IGNORE], large[labels == IGNORE] = math.nan, math.inf
    small.requires_grad_()
    loss = cascade_aware_loss(small, labels, large)
    loss.backward()
    assert loss == expected and torch.equal(small.grad, clean.grad)


def test_another_ignore_index():
    small, labels, large = batch((40,), seed=9)
    moved = labels.masked_fill(labels == IGNORE, 3)
    expected = cascade_aware_loss(small, labels.masked_fill(labels == 3, IGNORE), large)
    assert cascade_aware_loss(small, moved, large, ignore_index=3) == expected


def test_a_mask_tensor_equals_the_named_mask_and_asks_for_no_teacher():
    small, labels, large = batch((5, 7), seed=10)
    keep = oracle_alpha(small, labels, large, "either")
    named = cascade_aware_loss(small, labels, large, reduction="none", normalize="kept")
    assert torch.equal(named, cascade_aware_loss(small, labels, large, mask=keep, reduction="none"))
    # True at an ignored position means nothing.
    everywhere = keep | (labels == IGNORE)
    _, stats = cascade_aware_loss(small, labels, mask=everywhere, label_weight=1, return_stats=True)
    assert stats.kept == keep.sum() and stats.both is None


def test_a_mask_that_keeps_nothing_gives_zero_and_zero_gradient():
    small, labels, large = batch((4, 4))
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    for reduction in REDUCTIONS:
        for normalize in NORMALIZE:
            logits = small.clone().requires_grad_()
            loss, stats = cascade_aware_loss(
                logits,
                labels,
                large,
                mask=nothing,
                normalize=normalize,
                reduction=reduction,
                return_stats=True,
            )
            loss.sum().backward()
            assert torch.count_nonzero(loss) == 0 and torch.count_nonzero(logits.grad) == 0
            assert stats.kept == 0 and stats.keep_rate == 0


def test_teacher_correct_replaces_the_teacher_when_only_labels_count():
    small, labels, large = batch((6, 6), seed=11)
    right = is_right(large, labels.clamp(min=0))
    for mask in ("either", "large", "both", "random"):
        full = cascade_aware_loss(
            small, labels, large, mask=mask, label_weight=1, generator=generator(), return_stats=True
        )
        short = cascade_aware_loss(
            small, labels, teacher_correct=right, mask=mask, label_weight=1, generator=generator(),
            return_stats=True,
        )  # fmt: skip
        assert full == short
    # Given both, the teacher's distribution comes from the logits and "right" from the bits.
    _, stats = cascade_aware_loss(small, labels, large, teacher_correct=~right, mask="large", return_stats=True)
    assert stats.kept == (~right & (labels != IGNORE)).sum()


# ---------------------------------------------------------------- the random mask


@given(seed=st.integers(0, 10_000), shape=st.tuples(st.integers(1, 6), st.integers(1, 6)))
@settings(max_examples=50, deadline=None)
def test_random_keeps_as_many_target_tokens_as_either(seed, shape):
    small, labels, large = batch(shape, 4, seed)
    per_token, stats = cascade_aware_loss(
        small, labels, large, mask="random", reduction="none", generator=generator(seed), return_stats=True
    )
    expected = oracle_alpha(small, labels, large, "either").sum()
    assert stats.kept == expected and (per_token != 0).sum() == expected
    assert not per_token[labels == IGNORE].any()


def test_random_is_uniform_over_the_target_tokens():
    small, labels, large = batch((5, 8), 6, seed=12)
    target = labels != IGNORE
    n, k = int(target.sum()), int(oracle_alpha(small, labels, large, "either").sum())
    assert 0 < k < n
    g, draws = generator(0), 3000
    kept = torch.zeros(labels.shape)
    pairs = torch.zeros(n, n)
    for _ in range(draws):
        keep = cascade_aware_loss(small, labels, large, mask="random", reduction="none", generator=g) != 0
        kept += keep
        pairs += torch.outer(keep[target].float(), keep[target].float())
    p = k / n
    # Five standard errors: one comparison in 1.7 million would fail by chance, and the seed is fixed.
    assert (kept[target] / draws - p).abs().max() < 5 * math.sqrt(p * (1 - p) / draws)
    q = p * (k - 1) / (n - 1)  # two tokens together: a draw without replacement, not n coins or one block
    off = ~torch.eye(n, dtype=torch.bool)
    assert (pairs[off] / draws - q).abs().max() < 5 * math.sqrt(q * (1 - q) / draws)


def test_random_repeats_with_the_seed_and_leaves_the_global_generator_alone():
    small, labels, large = batch((10, 20), 5, seed=13)

    def kept(seed):
        return cascade_aware_loss(
            small, labels, large, mask="random", reduction="none", generator=generator(seed)
        ) != 0  # fmt: skip

    before = torch.get_rng_state()
    first = kept(1)
    assert torch.equal(first, kept(1))
    assert not torch.equal(first, kept(2))
    torch.rand(17)
    assert torch.equal(first, kept(1)), "the draw depends on the global generator"
    torch.set_rng_state(before)
    kept(1)
    assert torch.equal(torch.get_rng_state(), before)
    g = generator(1)
    again = [cascade_aware_loss(small, labels, large, mask="random", reduction="none", generator=g) for _ in range(2)]
    assert not torch.equal(*again), "one generator gives a new mask at every step"


def test_other_masks_draw_nothing():
    small, labels, large = batch((3, 4))
    g = generator(5)
    before = g.get_state(), torch.get_rng_state()
    for mask in TENSOR_MASKS:
        cascade_aware_loss(small, labels, large, mask=mask, generator=g)
    assert torch.equal(g.get_state(), before[0]) and torch.equal(torch.get_rng_state(), before[1])


# ---------------------------------------------------------------- statistics


@given(seed=st.integers(0, 10_000), mask=st.sampled_from(MASKS))
@settings(max_examples=60, deadline=None)
def test_the_four_cells_sum_up(seed, mask):
    small, labels, large = batch((3, 5), 3, seed)
    _, stats = cascade_aware_loss(small, labels, large, mask=mask, generator=generator(), return_stats=True)
    s, t = (oracle_alpha(small, labels, large, m) for m in ("small", "large"))
    target = labels != IGNORE
    assert stats.both == (s & t).sum()
    assert stats.only_small == (s & ~t).sum()
    assert stats.only_large == (~s & t).sum()
    assert stats.neither == (target & ~s & ~t).sum()
    assert stats.both + stats.only_small + stats.only_large + stats.neither == stats.tokens == target.sum()
    kept = {
        "none": stats.tokens,
        "either": stats.tokens - stats.neither,
        "random": stats.tokens - stats.neither,
        "small": stats.both + stats.only_small,
        "large": stats.both + stats.only_large,
        "both": stats.both,
        "neither": stats.neither,
    }[mask]
    assert stats.kept == kept
    assert stats.keep_rate.item() == pytest.approx(int(kept) / int(target.sum()))


def test_statistics_without_a_teacher():
    small, labels, _ = batch((3, 5))
    loss, stats = cascade_aware_loss(small, labels, mask="small", label_weight=1, return_stats=True)
    assert isinstance(stats, LossStats) and loss.shape == ()
    assert (stats.both, stats.only_small, stats.only_large, stats.neither) == (None,) * 4
    assert stats.kept == oracle_alpha(small, labels, small, "small").sum()


# ---------------------------------------------------------------- the methods of the paper


def by_method(name, small, labels, large, weight=0.3, **options):
    method = METHODS[name]
    return cascade_aware_loss(
        small, labels, large, mask=method.mask, label_weight=method.label_weight(weight), **options
    )


def test_methods_are_the_four_formulas_and_their_controls():
    masked = {f"{mask}-dist" for mask in ("large", "small", "both", "neither")}
    controls = {"random-xent", "random-dist", "large-xent", "large-labels", "gatekeeper", "call-token", "edge-joint"}
    assert set(METHODS) == {"xent", "dist", "cat-xent", "cat-dist"} | controls | masked
    assert all(METHODS[name] == Method(METHODS[name].label, name.removesuffix("-dist"), True) for name in masked)
    small, labels, large = batch((6, 7), seed=14)
    flat = small.reshape(-1, 7), labels.reshape(-1), large.reshape(-1, 7)
    hard = F.cross_entropy(flat[0], flat[1], reduction="none", ignore_index=IGNORE)
    soft = F.cross_entropy(flat[0], flat[2].softmax(-1), reduction="none") * (flat[1] != IGNORE)
    alpha = oracle_alpha(*flat, "either").double()
    tokens = (labels != IGNORE).sum()

    assert 0 < alpha.sum() < tokens
    expected = {
        "xent": F.cross_entropy(flat[0], flat[1], ignore_index=IGNORE),
        "dist": (0.3 * hard + 0.7 * soft).sum() / tokens,
        "cat-xent": (alpha * hard).sum() / tokens,
        "cat-dist": (alpha * (0.3 * hard + 0.7 * soft)).sum() / tokens,
    }
    for name, value in expected.items():
        torch.testing.assert_close(by_method(name, small, labels, large), value, rtol=1e-12, atol=0)
    for name, plain in (("random-xent", hard), ("random-dist", 0.3 * hard + 0.7 * soft)):
        per_token = by_method(name, *flat, reduction="none", generator=generator(3))
        keep = per_token != 0
        assert keep.sum() == alpha.sum()
        torch.testing.assert_close(per_token, plain * keep, rtol=1e-12, atol=0)


@pytest.mark.parametrize("plain, cat", [("xent", "cat-xent"), ("dist", "cat-dist")])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_gradient_of_cat_is_that_of_the_plain_loss_on_the_kept_tokens(plain, cat, normalize):
    """The toy's weights serve all tokens: a leak from a dropped one would show in every gradient."""
    torch.manual_seed(0)
    words, vocabulary = torch.randint(11, (6, 12)), 11
    student = torch.nn.Sequential(torch.nn.Embedding(11, 8), torch.nn.Tanh(), torch.nn.Linear(8, vocabulary))
    teacher = torch.nn.Sequential(torch.nn.Embedding(11, 16), torch.nn.Linear(16, vocabulary)).double()
    labels = (words * 3 + 1) % vocabulary
    labels[:, :3] = IGNORE
    small, large = student.double()(words), teacher(words)
    # A few tokens that L gets right, so that both kinds of kept token occur.
    bonus = torch.zeros_like(large).scatter_(-1, labels.clamp(min=0).unsqueeze(-1), 50.0)
    large = torch.where((torch.rand(labels.shape) < 0.4).unsqueeze(-1), large + bonus, large)
    keep = oracle_alpha(small.detach(), labels, large.detach(), "either")
    tokens = int((labels != IGNORE).sum())
    assert 0 < keep.sum() < tokens

    by_method(cat, small, labels, large, normalize=normalize).backward()
    ours = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    only_kept = labels.masked_fill(~keep, IGNORE)
    loss = by_method(plain, student(words), only_kept, large)  # a mean over the kept tokens alone
    (loss * (int(keep.sum()) / tokens if normalize == "tokens" else 1.0)).backward()
    for got, parameter in zip(ours, student.parameters()):
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(got, parameter.grad, rtol=1e-10, atol=1e-14)


# ---------------------------------------------------------------- masked columns


def test_columns_masked_in_both_models_equal_a_smaller_vocabulary():
    small, labels, large = batch((5, 6), 9, seed=15)
    cut = small[..., :7].clone().requires_grad_()
    labels = labels.masked_fill(labels >= 7, 0)
    with_inf = [x.clone() for x in (small, large)]
    for x in with_inf:
        x[..., 7:] = -math.inf
    padded = with_inf[0].requires_grad_()
    for temperature in (1.0, 2.0):
        padded.grad = cut.grad = None
        loss = cascade_aware_loss(padded, labels, with_inf[1], temperature=temperature)
        expected = cascade_aware_loss(cut, labels, large[..., :7], temperature=temperature)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        loss.backward(), expected.backward()
        torch.testing.assert_close(padded.grad[..., :7], cut.grad)
        assert torch.count_nonzero(padded.grad[..., 7:]) == 0
    # L may forbid more than S.
    assert torch.isfinite(cascade_aware_loss(small, labels, with_inf[1]))


# ---------------------------------------------------------------- complaints: one line that says what to do

S, Y, L = batch((2, 3), 5, seed=16, dtype=torch.float32, ignored=0.0)
NAN_AT = S.clone()
NAN_AT[1, 0, 2] = math.nan
INF_AT = S.clone()
INF_AT[0, 1, 3] = math.inf
LABEL_FORBIDDEN = S.scatter(-1, Y.unsqueeze(-1), -math.inf)
FORBIDDEN = S.clone()
FORBIDDEN[..., 4] = -math.inf
YES = torch.ones(2, 3, dtype=torch.bool)

COMPLAINTS = {
    "integer logits": (
        {"logits": S.long()},
        "logits have dtype torch.int64; expected a floating-point dtype",
    ),
    "int32 labels": ({"labels": Y.int()}, "labels have dtype torch.int32; expected torch.int64"),
    "shapes": (
        {"labels": Y[:, :2]},
        r"logits \(2, 3, 5\) do not fit labels \(2, 2\).*row i predicts labels\[i\]",
    ),
    "a scalar": ({"logits": S.sum(), "labels": Y.sum()}, r"logits \(\) do not fit labels \(\)"),
    "one row too many": ({"labels": Y[0]}, r"logits \(2, 3, 5\) do not fit labels \(3,\)"),
    "vocabularies": (
        {"teacher_logits": torch.zeros(2, 3, 8)},
        r"teacher_logits \(2, 3, 8\) differ from logits \(2, 3, 5\).*cut padded columns off",
    ),
    "devices": ({"teacher_logits": L.to("meta")}, "teacher_logits are on meta but logits on cpu; move them"),
    "label device": ({"labels": Y.to("meta")}, "labels are on meta but logits on cpu; move them"),
    "teacher_correct shape": (
        {"teacher_correct": YES[0]},
        r"teacher_correct is torch.bool \(3,\); expected torch.bool \(2, 3\)",
    ),
    "teacher_correct dtype": (
        {"teacher_correct": YES.long()},
        "teacher_correct is torch.int64.*expected torch.bool",
    ),
    "teacher_correct list": (
        {"teacher_correct": [True]},
        "teacher_correct is a list; expected a torch.bool tensor",
    ),
    "mask shape": ({"mask": YES[:, :1]}, r"mask is torch.bool \(2, 1\); expected torch.bool \(2, 3\)"),
    "mask dtype": ({"mask": YES.float()}, "mask is torch.float32.*expected torch.bool"),
    "mask array": ({"mask": np.ones((2, 3), bool)}, "mask is a ndarray; expected a torch.bool tensor"),
    "mask name": (
        {"mask": "or"},
        "unknown mask 'or'; expected one of none, either, small, large, both, neither, random",
    ),
    "mask None": ({"mask": None}, "unknown mask None"),
    "weight above": ({"label_weight": 1.1}, r"label_weight is 1.1; expected a number in \[0, 1\]"),
    "weight below": ({"label_weight": -0.1}, "label_weight is -0.1"),
    "weight NaN": ({"label_weight": math.nan}, "label_weight is nan"),
    "weight text": ({"label_weight": "0.5"}, "label_weight is '0.5'; expected a number"),
    "weight bool": ({"label_weight": True}, "label_weight is True; expected a number"),
    "temperature zero": ({"temperature": 0.0}, "temperature is 0.0; expected a finite number > 0"),
    "temperature infinite": ({"temperature": math.inf}, "temperature is inf"),
    "temperature NaN": ({"temperature": math.nan}, "temperature is nan"),
    "temperature text": ({"temperature": "1e-3"}, "temperature is '1e-3'; expected a finite number"),
    "temperature tiny": (
        {"temperature": 1e-44},
        "soft term is infinite or NaN.*temperature 1e-44 is too small",
    ),
    "normalize": ({"normalize": "sum"}, "unknown normalize 'sum'; expected one of tokens, kept"),
    "reduction": ({"reduction": "avg"}, "unknown reduction 'avg'; expected one of mean, sum, none"),
    "no teacher for the soft term": (
        {"teacher_logits": None},
        "label_weight 0.5 < 1 uses L's distribution: give teacher_logits or teacher_top, or set it to 1",
    ),
    "bits are no distribution": (
        {"teacher_logits": None, "teacher_correct": YES},
        "label_weight 0.5 < 1 uses L's distribution",
    ),
    **{
        f"no teacher for mask {mask}": (
            {"teacher_logits": None, "label_weight": 1.0, "mask": mask, "generator": generator()},
            f"mask '{mask}' asks whether L is right: give teacher_logits or teacher_correct",
        )
        for mask in ("either", "large", "both", "random")
    },
    "random without generator": (
        {"mask": "random"},
        r"'random' got generator None: give a torch.Generator seeded",
    ),
    "random with a seed": ({"mask": "random", "generator": 7}, "got generator 7: give a torch.Generator"),
    "all ignored": (
        {"labels": torch.full((2, 3), IGNORE)},
        r"every one of the 6 labels is ignore_index \(-100\).*truncation",
    ),
    "nothing at all": (
        {"logits": S[:0], "labels": Y[:0], "teacher_logits": L[:0]},
        "every one of the 0 labels is ignore_index",
    ),
    "label above": (
        {"labels": Y.masked_fill(Y == Y[0, 0], 5)},
        r"labels lie in \[\d, 5\] but the logits have 5 columns",
    ),
    "label below": (
        {"labels": Y.masked_fill(Y == Y[0, 0], -1)},
        r"labels lie in \[-1, \d\] but the logits have 5",
    ),
    "no vocabulary": ({"logits": S[..., :0], "teacher_logits": L[..., :0]}, "the logits have 0 columns"),
    "NaN": (
        {"logits": NAN_AT},
        r"^logits are NaN or infinite at 1 of 6 target tokens \(first: number 3\).*learning rate",
    ),
    "infinite": (
        {"logits": INF_AT},
        r"^logits are NaN or infinite at 1 of 6 target tokens \(first: number 1\)",
    ),
    "label forbidden": ({"logits": LABEL_FORBIDDEN}, "^logits are NaN or infinite at 6 of 6"),
    "NaN teacher": ({"teacher_logits": NAN_AT}, "^teacher_logits are NaN or infinite at 1 of 6"),
    "label forbidden by L": (
        {"teacher_logits": LABEL_FORBIDDEN},
        "^teacher_logits are NaN or infinite at 6 of 6",
    ),
    "S forbids what L gives": (
        {"logits": FORBIDDEN, "labels": Y.clamp(max=3)},
        "soft term is infinite or NaN at 6 of 6.*mask the same columns of both models",
    ),
}


@pytest.mark.parametrize("given_, message", COMPLAINTS.values(), ids=COMPLAINTS)
def test_every_complaint_is_one_line(given_, message):
    arguments = {"logits": S, "labels": Y, "teacher_logits": L} | given_
    with pytest.raises(ValueError, match=message) as caught:
        cascade_aware_loss(**arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), (2, 0, 5)])
def test_empty_batches_complain_whatever_their_shape(shape):
    for reduction in REDUCTIONS:
        with pytest.raises(ValueError, match="every one of the 0 labels"):
            cascade_aware_loss(
                torch.zeros(*shape, 5), torch.zeros(shape, dtype=torch.int64), torch.zeros(*shape, 5),
                reduction=reduction,
            )  # fmt: skip


def test_numpy_numbers_are_numbers():
    expected = cascade_aware_loss(S, Y, L, label_weight=0.25, temperature=2.0)
    assert cascade_aware_loss(S, Y, L, label_weight=np.float64(0.25), temperature=np.float32(2)) == expected
    assert cascade_aware_loss(S, Y, L, label_weight=1) == cascade_aware_loss(S, Y, L, label_weight=1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("mask", MASKS)
def test_cuda_equals_cpu(mask):
    small, labels, large = batch((4, 9), seed=17)
    right = is_right(large, labels.clamp(min=0))
    results = []
    for device in ("cpu", "cuda"):
        s = small.to(device).requires_grad_()
        # The bits and the generator stay on the CPU: where they live changes nothing.
        loss, stats = cascade_aware_loss(
            s, labels.to(device), large.to(device), teacher_correct=right, mask=mask, generator=generator(4),
            return_stats=True,
        )  # fmt: skip
        loss.backward()
        assert stats.kept.device.type == device
        results.append((loss.cpu(), s.grad.cpu(), stats.kept.cpu()))
    torch.testing.assert_close(*results)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), weight=st.sampled_from([0.0, 0.3, 1.0]))
def test_gatekeeper_is_its_formula_token_by_token(seed, weight):
    """a mean 1[right] CE + (1 - a) mean 1[wrong] KL(p || Uniform), with math alone."""
    logits, labels, _ = batch((4, 3), 5, seed)
    total, count = 0.0, 0
    for row, label in zip(logits.reshape(-1, 5).tolist(), labels.reshape(-1).tolist()):
        if label == IGNORE:
            continue
        e = [math.exp(x - max(row)) for x in row]
        p = [x / sum(e) for x in e]
        count += 1
        if row[label] >= max(row):
            total += weight * -math.log(p[label])
        else:
            total += (1 - weight) * sum(x * math.log(5 * x) for x in p)
    found = gatekeeper_loss(logits, labels, weight=weight)
    assert float(found) == pytest.approx(total / count, rel=1e-9, abs=1e-12)
    summed = gatekeeper_loss(logits, labels, weight=weight, reduction="sum")
    assert float(summed) == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_gatekeeper_gradient_and_refusals():
    logits, labels, _ = batch((2, 3), 5, 1)
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gatekeeper_loss(x, labels, weight=0.4), (leaf,))
    with pytest.raises(ValueError, match="weight is 1.5; expected a number in"):
        gatekeeper_loss(logits, labels, weight=1.5)
    with pytest.raises(ValueError, match="unknown reduction 'none'"):
        gatekeeper_loss(logits, labels, reduction="none")
