"""EdgeInference: the router, its loss and the joint loss against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned import answers, splits

from cat_core.rules.edge import Router, joint_loss, proxy_label, router_inputs, router_loss
from cat_core.rules.features import token_features
from cat_core.rules.posthoc import fit_rule


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy(logit, label):
    return -math.log(sigmoid(logit) if label else 1 - sigmoid(logit))


def naive_router(router, rows, member=0):
    """The logit of one answer [T][inputs], by loops over numpy arrays."""
    parts = {name: tensor[member].double().numpy() for name, tensor in router.state_dict().items()}

    def dense(name, x):
        return x @ parts[f"{name}.weight"] + parts[f"{name}.bias"][0]

    hidden = []
    for row in np.asarray(rows, dtype=np.float64):
        x = (np.arcsinh(row) - parts["standard.mean"][0]) / parts["standard.scale"][0]
        hidden.append(np.maximum(dense("second", np.maximum(dense("first", x), 0)), 0))
    pooled = np.concatenate([np.mean(hidden, axis=0), np.min(hidden, axis=0)])
    return dense("head", pooled).item()


def random_router(inputs=11, members=1, seed=0):
    """A float64 router whose members differ."""
    router = Router(inputs, members, torch.Generator().manual_seed(seed)).double()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        router.standard.mean += torch.randn(router.standard.mean.shape, generator=generator)
        router.standard.scale *= 1.7
    return router


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 1000))
def test_router_equals_a_loop_over_tokens(lengths, members, seed):
    router = random_router(members=members, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randn(members, *mask.shape, 11, generator=generator, dtype=torch.float64) * 5
    tokens[:, ~mask] = 1e6  # padding is never looked at
    with torch.no_grad():
        found = router(tokens, mask.expand(members, *mask.shape))
    for m in range(members):
        for b, length in enumerate(lengths):
            assert found[m, b].item() == pytest.approx(
                naive_router(router, tokens[m, b, :length], m), rel=1e-9, abs=1e-9
            )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-8, 8), st.booleans(), st.booleans()), min_size=1, max_size=9),
    st.floats(0, 1),
    st.floats(0, 3),
)
def test_router_loss_by_definition(rows, coverage, weight):
    rows = [(0.5, True, True), *rows]  # one row at least is there
    logits, proxy, there = (torch.tensor([column], dtype=torch.float64) for column in zip(*rows))
    found = router_loss(logits, proxy, there, coverage=coverage, coverage_weight=weight)
    real = [(z, o) for z, o, here in rows if here]
    kept = sum(sigmoid(z) for z, _ in real) / len(real)
    expected = sum(cross_entropy(z, o) for z, o in real) / len(real) + weight * max(0, coverage - kept)
    assert found.tolist() == pytest.approx([expected], rel=1e-9)


def test_proxy_label():
    assert proxy_label([0, 0, 1, 1], [0, 1, 0, 1]).tolist() == [1, 0, 1, 1]  # L wrong or S right
    assert proxy_label([0.3, 0.3], [0.2, 0.4]).tolist() == [1, 0]


def test_fitted_on_the_standardised_tokens_of_its_rows():
    features, small, large = answers(60)
    rule, _ = fit_rule(features, small, large, splits(60), np.arange(60), rule="edge")
    tokens = np.arcsinh(features.tokens[: features.offsets[30]].astype(np.float64))
    np.testing.assert_allclose(rule.net.standard.mean[0, 0], tokens.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rule.net.standard.scale[0, 0], tokens.std(0), rtol=1e-4)
    values = rule.confidence(router_inputs(features))
    last = features.tokens[features.offsets[59] :]
    assert values[59] == pytest.approx(naive_router(rule.net, last), rel=1e-4, abs=1e-4)


def test_the_hinge_lifts_the_coverage():
    features, small, large = answers(200)
    large[:], small[:] = 1, 0  # L repairs nearly everything: without the hinge, next to nothing is kept
    small[::8] = 1
    rows = (features, small, large, splits(200), np.arange(200))
    kept = [
        (1 / (1 + np.exp(-fit_rule(*rows, rule="edge", coverage=0.6, coverage_weight=weight)[1]))).mean()
        for weight in (0.0, 20.0)
    ]
    assert kept[0] < 0.35 < 0.5 < kept[1]


# ---------------------------------------------------------------- together with S


@st.composite
def batches(draw):
    """Ragged sequences: (losses, features, lengths, small right, large right) and a router, in float64."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    count = sum(lengths)
    token_loss = torch.rand(count, generator=generator, dtype=torch.float64) * 4
    features = torch.randn(count, 11, generator=generator, dtype=torch.float64) * 3
    small, large = (torch.rand(count, generator=generator) < draw(st.sampled_from([0.5, 0.8, 0.95])) for _ in "sl")
    return token_loss, features, torch.tensor(lengths), small, large


def naive_joint(token_loss, features, lengths, small, large, router):
    """Per sequence: (keep logit, o, summed loss, S right, L right)."""
    rows, start = [], 0
    for length in lengths.tolist():
        part = slice(start, start + length)
        s, t = all(small[part].tolist()), all(large[part].tolist())
        rows.append((naive_router(router, features[part]), (not t) or s, sum(token_loss[part].tolist()), s, t))
        start += length
    return rows


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(0, 1), st.floats(0, 3), st.floats(0, 3), st.sampled_from(["tokens", "kept"]))
def test_joint_loss_equals_its_formula(batch, coverage, coverage_weight, router_weight, normalize):
    router = random_router(seed=5)
    loss, seen = joint_loss(
        *batch,
        router,
        coverage=coverage,
        coverage_weight=coverage_weight,
        router_weight=router_weight,
        normalize=normalize,
    )
    rows, lengths = naive_joint(*batch, router), batch[2].tolist()
    keep = [sigmoid(z) for z, *_ in rows]
    divisor = sum(lengths) if normalize == "tokens" else sum(k * n for k, n in zip(keep, lengths))
    label = sum(k * total for k, (_, _, total, _, _) in zip(keep, rows)) / divisor
    entropy = sum(cross_entropy(z, o) for z, o, *_ in rows) / len(rows)
    hinge = max(0.0, coverage - sum(keep) / len(keep))
    assert loss.item() == pytest.approx(label + router_weight * entropy + coverage_weight * hinge, rel=1e-9)
    assert seen["keep"].item() == pytest.approx(sum(keep) / len(keep), rel=1e-9)
    assert seen["right"].item() == pytest.approx(sum((z >= 0) == o for z, o, *_ in rows) / len(rows), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(batches())
def test_gradients_go_where_they_should(batch):
    token_loss, features, lengths, small, large = batch
    token_loss.requires_grad_()
    features.requires_grad_()
    router = random_router(seed=6)
    loss, seen = joint_loss(token_loss, features, lengths, small, large, router, coverage=0.9, coverage_weight=2.0)
    loss.backward()
    assert features.grad is None and not any(value.requires_grad for value in seen.values())
    with torch.no_grad():
        keep = [sigmoid(z) for z, *_ in naive_joint(token_loss, features, lengths, small, large, router)]
    expected = [k / len(token_loss) for k, n in zip(keep, lengths.tolist()) for _ in range(n)]
    assert token_loss.grad.tolist() == pytest.approx(expected, rel=1e-9)
    # the router's gradient: of cross entropy and hinge alone, by finite differences of the naive formula
    bias = router.head.bias

    def router_part(shift):
        with torch.no_grad():
            bias.add_(shift)
            rows = naive_joint(token_loss.detach(), features.detach(), lengths, small, large, router)
            bias.sub_(shift)
        kept = sum(sigmoid(z) for z, *_ in rows) / len(rows)
        return sum(cross_entropy(z, o) for z, o, *_ in rows) / len(rows) + 2 * max(0.0, 0.9 - kept)

    slope = (router_part(1e-6) - router_part(-1e-6)) / 2e-6
    if abs(0.9 - sum(keep) / len(keep)) > 1e-4:
        assert bias.grad.item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_micro_batches_sum_to_the_whole():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 4, 2])
    token_loss, features = torch.rand(10, generator=generator), torch.randn(10, 11, generator=generator)
    small, large = torch.rand(10, generator=generator) < 0.8, torch.rand(10, generator=generator) < 0.8
    router = Router()
    whole = joint_loss(token_loss, features, lengths, small, large, router, coverage=0)[0]
    parts = [
        joint_loss(
            token_loss[t], features[t], lengths[s], small[t], large[t], router,
            coverage=0, token_divisor=10, sequence_divisor=4,
        )[0]
        for t, s in ((slice(0, 4), slice(0, 2)), (slice(4, 10), slice(2, 4)))
    ]  # fmt: skip
    torch.testing.assert_close(sum(parts), whole)


def test_small_model_and_router_learn_together():
    """S is a table of logits; half of its inputs are noise that L alone knows: the router must tell them apart."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.arange(64)
    labels = torch.randint(8, (64,), generator=generator)
    table = torch.zeros(64, 8, requires_grad=True)
    noisy = inputs >= 32
    router = Router()
    optimizer = torch.optim.Adam([{"params": [table], "lr": 0.1}, {"params": router.parameters(), "lr": 3e-3}])
    for _ in range(150):
        drawn = torch.where(noisy, torch.randint(8, (64,), generator=generator), labels)
        token_loss = torch.nn.functional.cross_entropy(table, drawn, reduction="none")
        right = table.detach().gather(1, drawn[:, None]).squeeze(1) >= table.detach().amax(1)
        loss, seen = joint_loss(
            token_loss,
            token_features(table, drawn),
            torch.ones(64, dtype=torch.long),
            right,
            torch.ones(64).bool(),
            router,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        answer = table.argmax(-1)
        logits = router(token_features(table, answer)[None, :, None], torch.ones(1, 64, 1).bool())[0]
    assert seen["right"] > 0.9 and (answer[:32] == labels[:32]).all()
    assert logits[:32].min() > logits[32:].max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": torch.tensor([2, 2])}, r"lengths \[2, 2\] must each be >= 1 and sum to the 3 tokens given"),
        ({"lengths": torch.tensor([3, 0])}, r"lengths \[3, 0\] must each be >= 1"),
        ({"small_right": torch.ones(2).bool()}, r"small_right has shape \(2,\), expected \(3,\)"),
        ({"features": torch.ones(2, 11)}, r"features has shape \(2, 11\), expected \(3, 11\)"),
        ({"coverage": 1.5}, "coverage is 1.5; expected a share"),
        ({"coverage_weight": -1}, "coverage_weight is -1; expected a number >= 0"),
        ({"normalize": "all"}, "unknown normalize 'all': choose tokens or kept"),
    ],
)
def test_bad_arguments(change, message):
    right = torch.ones(3).bool()
    good = {
        "token_loss": torch.ones(3), "features": torch.ones(3, 11), "lengths": torch.tensor([1, 2]),
        "small_right": right, "large_right": right, "router": Router(),
    }  # fmt: skip
    joint_loss(**good)
    with pytest.raises(ValueError, match=message):
        joint_loss(**(good | change))
