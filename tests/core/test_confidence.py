"""Confidence rules against numpy, row by row; log-probabilities of nearly certain tokens against float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core.confidence import (
    OPTION_RULES,
    answer_confidence,
    chosen_logprob,
    chow_average,
    chow_quantile,
    chow_sum,
    confidence_rules,
    margin_and_entropy,
    option_confidence,
    quantile_rules,
    token_entropy,
    token_margin,
)


@st.composite
def padded(draw):
    """Ragged rows of log-probabilities; the padding between holds anything, NaN included."""
    rows = draw(st.lists(st.lists(st.floats(-50, 0), min_size=1, max_size=7), min_size=1, max_size=5))
    width = max(map(len, rows)) + draw(st.integers(0, 2))
    junk = draw(st.sampled_from([0.0, float("nan"), float("inf"), 99.0]))
    logprobs = torch.full((len(rows), width), junk, dtype=torch.float64)
    mask = torch.zeros(logprobs.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        places = sorted(draw(st.permutations(range(width)))[: len(row)])  # padding on either side, or inside
        logprobs[i, places] = torch.tensor(row, dtype=torch.float64)
        mask[i, places] = True
    return rows, logprobs, mask


@settings(max_examples=100, deadline=None)
@given(padded(), st.floats(0, 1))
def test_rules_equal_numpy_on_each_row_alone(case, q):
    rows, logprobs, mask = case
    np.testing.assert_allclose(chow_sum(logprobs, mask), [np.sum(row) for row in rows], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(chow_average(logprobs, mask), [np.mean(row) for row in rows], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        chow_quantile(logprobs, mask, q), [np.quantile(row, q) for row in rows], rtol=1e-12, atol=1e-12
    )
    assert chow_quantile(logprobs, mask, 0).tolist() == [min(row) for row in rows]
    assert chow_quantile(logprobs, mask, 1).tolist() == [max(row) for row in rows]


def test_end_of_sequence_counts_like_any_token():
    with_end = torch.tensor([[-1.0, -2.0, -6.0]])
    assert chow_average(with_end, torch.ones(1, 3, dtype=torch.bool)).item() == -3.0
    assert chow_average(with_end, torch.tensor([[True, True, False]])).item() == -1.5


def test_named_rules_and_types():
    logprobs, mask = torch.tensor([[-1.0, -3.0]]), torch.tensor([[True, True]])
    found = {name: rule(logprobs, mask) for name, rule in confidence_rules.items()}
    assert {name: value.item() for name, value in found.items()} == {
        "chow_sum": -4.0,
        "chow_average": -2.0,
        "chow_quantile_0": -3.0,
    }
    assert all(value.dtype == torch.float32 for value in found.values())
    more = {
        name: rule(torch.tensor([[-5.0, -1.0, -2.0]]), torch.ones(1, 3, dtype=torch.bool)).item()
        for name, rule in quantile_rules.items()
    }
    assert more == {
        "chow_quantile_25": -3.5,
        "chow_quantile_50": -2.0,
        "chow_quantile_75": -1.5,
        "chow_quantile_100": -1,
    }


@settings(max_examples=50, deadline=None)
@given(padded(), st.integers(0, 1000))
def test_answer_confidence_holds_every_rule(case, seed):
    rows, logprobs, mask = case
    draw = np.random.default_rng(seed)
    margins, entropies = (torch.full(logprobs.shape, math.nan, dtype=torch.float64) for _ in "me")
    ragged = [[draw.exponential(size=len(row)) for row in rows] for _ in "me"]
    for table, values in zip((margins, entropies), ragged):
        for i, row in enumerate(values):
            table[i, mask[i]] = torch.from_numpy(row)
    found = answer_confidence(logprobs, margins, entropies, mask)
    assert set(found) == {*confidence_rules, *quantile_rules, "token_margin", "token_entropy"}
    np.testing.assert_allclose(found["token_margin"], [row.mean() for row in ragged[0]], rtol=1e-12)
    np.testing.assert_allclose(found["token_entropy"], [-row.mean() for row in ragged[1]], rtol=1e-12)
    np.testing.assert_allclose(
        found["chow_quantile_75"], [np.quantile(row, 0.75) for row in rows], rtol=1e-12, atol=1e-12
    )


def test_margins_may_be_infinite_entropies_may_not():
    values, mask = torch.tensor([[1.0, math.inf]]), torch.ones(1, 2, dtype=torch.bool)
    assert token_margin(values, mask).item() == math.inf
    with pytest.raises(ValueError, match="row 0 of entropies holds NaN or"):
        token_entropy(values, mask)
    with pytest.raises(ValueError, match="row 0 of margins holds NaN:"):
        token_margin(values * math.nan, mask)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 3.0, 40.0]))
def test_margin_and_entropy_equal_their_definitions(rows, vocab, seed, scale):
    logits = torch.randn(rows, 2, vocab, generator=torch.Generator().manual_seed(seed)) * scale
    # by their definitions, in extended precision where the platform has it; relative to each distribution's maximum,
    # because log p of a nearly certain token is lost in a log-softmax
    wide = logits.double().numpy().astype(np.longdouble)
    gaps = np.sort(wide.max(-1, keepdims=True) - wide, -1)
    rest = np.exp(-gaps[..., 1:]).sum(-1)
    share = np.exp(-gaps) / (1 + rest)[..., None]
    entropies = (share * (gaps + np.log1p(rest)[..., None])).sum(-1)
    for found, rtol in ((margin_and_entropy(logits), 1e-5), (margin_and_entropy(logits.double()), 1e-12)):
        tiny = np.finfo(found[1].numpy().dtype).tiny
        np.testing.assert_allclose(found[0], gaps[..., 1].astype(float), rtol=rtol, atol=tiny)
        np.testing.assert_allclose(found[1], entropies.astype(float), rtol=rtol, atol=tiny)
    assert found[0].shape == found[1].shape == (rows, 2) and margin_and_entropy(logits)[0].dtype == torch.float32


def test_entropy_of_nearly_certain_distributions():
    gaps = torch.tensor([17.0, 20.0, 25.0, 40.0, 60.0])
    logits = torch.zeros(5, 3)
    logits[:, 1] = gaps
    expected = 2 * torch.exp(-gaps.double()) * (1 + gaps.double())
    table = logits.log_softmax(-1)
    usual = -(table.exp() * table).sum(-1).double()
    assert ((usual / expected - 1).abs() > 0.01).all()  # the trap: log p of the top token is rounded to 0
    margin, entropy = margin_and_entropy(logits)
    assert margin.tolist() == gaps.tolist()
    torch.testing.assert_close(entropy.double(), expected, rtol=1e-5, atol=0)


def test_margin_and_entropy_at_the_edges():
    inf, nan = math.inf, math.nan
    rows = torch.tensor([[0.0, 0.0, -inf], [3.0, -inf, -inf], [nan, 0.0, 1.0], [-inf, -inf, -inf], [900.0, 0.0, 0.0]])
    margin, entropy = margin_and_entropy(rows)
    torch.testing.assert_close(margin, torch.tensor([0.0, inf, nan, nan, 900.0]), equal_nan=True)
    torch.testing.assert_close(entropy, torch.tensor([math.log(2), 0.0, nan, nan, 0.0]), equal_nan=True)
    half = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert [value.dtype for value in margin_and_entropy(half)] == [torch.float32] * 2
    given_logits = torch.tensor([[1.0, 2.0]])
    margin_and_entropy(given_logits)
    assert given_logits.tolist() == [[1.0, 2.0]]  # the caller's tensor is left as it was


def test_impossible_token_stays_minus_infinity():
    logprobs, mask = torch.tensor([[-math.inf, -1.0, -2.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert chow_quantile(logprobs, mask, 0.25).item() == -math.inf
    assert chow_quantile(logprobs, mask, 0.5).item() == -2.0
    assert chow_sum(logprobs, mask).item() == -math.inf


@pytest.mark.parametrize(
    ("logprobs", "mask", "error", "text"),
    [
        (torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool), ValueError, r"mask has shape \(2, 2\)"),
        (torch.zeros(3), torch.ones(3, dtype=torch.bool), ValueError, "two dimensions"),
        (torch.zeros(2, 3), torch.ones(2, 3), TypeError, "must be boolean"),
        (
            torch.zeros(2, 3, dtype=torch.long),
            torch.ones(2, 3, dtype=torch.bool),
            TypeError,
            "floating point",
        ),
        (torch.zeros(2, 3), torch.tensor([[True] * 3, [False] * 3]), ValueError, "row 1 .* no entry"),
        (torch.zeros(2, 0), torch.ones(2, 0, dtype=torch.bool), ValueError, "row 0 .* no entry"),
        (torch.tensor([[0.0], [math.nan]]), torch.ones(2, 1, dtype=torch.bool), ValueError, "row 1 .* NaN"),
    ],
)
@pytest.mark.parametrize("rule", [chow_sum, chow_average, lambda x, m: chow_quantile(x, m, 0.5)])
def test_bad_input_is_named(rule, logprobs, mask, error, text):
    with pytest.raises(error, match=text):
        rule(logprobs, mask)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_quantile_outside_zero_and_one(q):
    with pytest.raises(ValueError, match=r"q must lie in \[0, 1\]"):
        chow_quantile(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), q)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0.1, 3.0, 40.0]))
def test_chosen_logprob_equals_float64_log_softmax(rows, vocab, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 2, vocab, generator=generator) * scale
    token = torch.randint(vocab, (rows, 2), generator=generator)
    log_softmax = logits.double().log_softmax(-1).gather(-1, token[..., None]).squeeze(-1)
    found, exact = chosen_logprob(logits, token), chosen_logprob(logits.double(), token)
    assert found.dtype == torch.float32 and found.shape == token.shape
    torch.testing.assert_close(exact, log_softmax, rtol=1e-12, atol=1e-14)
    # in relative terms float64's own log-softmax is no oracle where p = 1 - 1e-17: the sum over the others is
    others = [
        [np.exp(np.delete(row, k) - row[k]).sum() for row, k in zip(*pair)]
        for pair in zip(logits.double().numpy(), token.numpy())
    ]
    # below the smallest normal number of its type nothing is exact in relative terms
    np.testing.assert_allclose(exact, -np.log1p(others), rtol=1e-12, atol=np.finfo(np.float64).tiny)
    np.testing.assert_allclose(found, -np.log1p(others), rtol=1e-5, atol=np.finfo(np.float32).tiny)


def test_nearly_certain_tokens_keep_distinct_values():
    gaps = torch.tensor([17.0, 20.0, 25.0, 40.0, 60.0])
    logits = torch.zeros(5, 3)
    logits[:, 1] = gaps
    token = torch.ones(5, dtype=torch.long)
    assert (logits.log_softmax(-1)[:, 1] == 0).sum() >= 4  # the trap: they tie
    found = chosen_logprob(logits, token)
    expected = -torch.log1p(2 * torch.exp(-gaps.double()))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert (found.diff() > 0).all() and (found < 0).all()


def test_chosen_logprob_at_the_edges():
    inf, nan = math.inf, math.nan
    rows = torch.tensor([[0.0, -inf, 0.0], [-inf, 0.0, 1.0], [nan, 0.0, 0.0], [inf, 0.0, 0.0], [0.0, -inf, nan]])
    found = chosen_logprob(rows, torch.tensor([0, 0, 1, 0, 1]))
    expected = torch.tensor([math.log(0.5), -inf, nan, nan, nan])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert chosen_logprob(torch.tensor([[7.0]]), torch.tensor([0])).item() == 0
    half = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert chosen_logprob(half, torch.zeros(4, dtype=torch.long)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        chosen_logprob(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-60, 0), min_size=2, max_size=6), min_size=1, max_size=4), st.data())
def test_option_confidence_equals_numpy(rows, data):
    width = max(map(len, rows))
    logprobs = torch.full((len(rows), width), math.nan, dtype=torch.float64)
    mask = torch.zeros(logprobs.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        logprobs[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        mask[i, : len(row)] = True
    found = option_confidence(logprobs, mask)
    assert tuple(found) == OPTION_RULES
    picks = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    forced = option_confidence(logprobs, mask, torch.tensor(picks))
    for i, row in enumerate(rows):
        best = int(np.argmax(row))
        log_softmax = np.array(row) - np.logaddexp.reduce(row)
        assert found["option_probability"][i].item() == pytest.approx(log_softmax[best], rel=1e-9, abs=1e-12)
        assert found["option_margin"][i].item() == row[best] - max(np.delete(row, best))
        assert forced["option_probability"][i].item() == pytest.approx(log_softmax[picks[i]], rel=1e-9, abs=1e-12)
        assert forced["option_margin"][i].item() == row[picks[i]] - max(np.delete(row, picks[i]))


@pytest.mark.parametrize(
    ("logprobs", "mask", "chosen", "text"),
    [
        ([[-1.0]], None, None, "row 0 .* one option"),
        ([[-1.0, -2.0], [-1.0, -2.0]], [[True, True], [True, False]], None, "row 1 .* one option"),
        ([[-1.0, math.nan]], None, None, "row 0 .* NaN"),
        ([[-1.0, -2.0]], None, [2], r"chosen\[0\] = 2"),
        ([[-1.0, -2.0]], None, [-1], r"chosen\[0\] = -1"),
        ([[-1.0, -2.0, 0.0]], [[True, True, False]], [2], r"chosen\[0\] = 2"),
        ([[-1.0, -2.0]], None, [0, 1], "chosen must have shape"),
    ],
)
def test_option_errors(logprobs, mask, chosen, text):
    with pytest.raises(ValueError, match=text):
        option_confidence(
            torch.tensor(logprobs),
            None if mask is None else torch.tensor(mask),
            None if chosen is None else torch.tensor(chosen),
        )
