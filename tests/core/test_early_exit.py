"""Early exit against whole answers: the same decisions and final answers, prefixes as short as they may be, and the
FLOPs that a counter sees."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import cat_core.inference
from cat_core.cascade import CascadeRunner, Request
from cat_core.confidence import OPTION_RULES, confidence_rules, quantile_rules
from cat_core.flops import request_flops
from cat_core.inference import EXACT_RULES, EarlyExit

WORDS = "the cat sat on mat a dog runs after is sky blue house red zebra".split()
NEW = 12
SOFAR = {"chow_sum": np.cumsum, "chow_quantile_0": np.minimum.accumulate}


def questions(count, seed=0):
    """Requests that generate, every fourth with options instead."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(count)]
    return [Request(f"q{i}", text, ("yes", "a red house") if i % 4 == 3 else ()) for i, text in enumerate(texts)]


REQUESTS = questions(32)


@pytest.fixture(scope="module")
def whole(tiny_pair):
    """Both models' whole answers."""
    runner = CascadeRunner(*tiny_pair, max_new_tokens=NEW)
    return {which: runner.answer(REQUESTS, which) for which in ("small", "large")}


def between(values, count):
    """A threshold that defers `count` of these confidences, no nearer to any than rounding can reach."""
    ordered = np.sort(values)
    gaps = [k for k in range(1, len(ordered)) if ordered[k] - ordered[k - 1] > 1e-3]
    k = min(gaps, key=lambda k: abs(k - count))
    return float(ordered[k - 1] + ordered[k]) / 2


# ------------------------------------------------------------------- the rule


LOGPROBS = st.lists(
    st.one_of(*(st.floats(low, 0, width=32, allow_subnormal=False) for low in (-64, -(2**-20)))),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(LOGPROBS, st.sampled_from(EXACT_RULES), st.data())
def test_what_is_certain_stays_and_what_has_fallen_is_seen(values, rule, data):
    row = torch.tensor([values], dtype=torch.float32)
    orders = [torch.tensor([order], dtype=torch.float64) for order in (values, values[::-1])]
    found = [float(confidence_rules[rule](order, torch.ones_like(order, dtype=torch.bool))) for order in orders]
    near = st.sampled_from(
        [*found, *(v * s for v in found for s in (1 + 1e-15, 1 - 1e-15, 1 + 5e-8, 1 + 3e-6, 1 - 3e-6))]
    )
    tau = data.draw(st.one_of(near, st.floats(-60, 0), st.sampled_from([-math.inf, 0.0, math.inf])))
    decided = [bool(EarlyExit(rule, tau).certain(row[:, :n])) for n in range(1, len(values) + 1)]
    assert decided == sorted(decided)  # once certain, always
    if decided[-1]:
        assert all(value <= tau for value in found)
    if max(found) < tau * (1 + 2e-6) or (rule == "chow_quantile_0" and found[0] <= tau):
        assert decided[-1]


@pytest.mark.parametrize(
    "rule", sorted({*confidence_rules, *quantile_rules, "token_margin", "token_entropy", *OPTION_RULES})
)
def test_only_rules_that_cannot_rise_are_taken(tiny_pair, rule):
    if rule in EXACT_RULES:
        assert EarlyExit(rule, np.float32(-1.5)) == EarlyExit(rule, -1.5)
        return
    with pytest.raises(ValueError, match=f"early exit is not exact for the rule '{rule}'.*choose chow_sum or chow"):
        CascadeRunner(*tiny_pair).run([], -1.0, rule, early_exit=True)  # before anything else is looked at


@pytest.mark.parametrize("tau", [0.3, 1e-9, math.nan, None, "30 %"])
def test_a_rate_is_no_threshold(tau):
    with pytest.raises(ValueError, match="early exit needs a fixed threshold tau <= 0 .* a deferral rate is none"):
        EarlyExit("chow_sum", tau)


# ----------------------------------------------------------------- the cascade


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(EXACT_RULES), st.integers(0, 32), st.sampled_from([40, 300, 16384]))
def test_decisions_and_answers_are_those_of_whole_answers(tiny_pair, whole, rule, count, batch_tokens):
    confidence = np.array([r.confidences[rule] for r in whole["small"]])
    tau = {0: -math.inf, 32: math.inf}.get(count, between(confidence, count))
    runner = CascadeRunner(*tiny_pair, max_new_tokens=NEW, batch_tokens=batch_tokens)
    found = runner.run(REQUESTS, tau, rule, early_exit=True)
    deferred = confidence <= tau
    assert (found.deferred == deferred).all()
    final = [whole["large" if late else "small"][i] for i, late in enumerate(deferred)]
    assert [(r.tokens, r.prediction, r.flops) for r in found.responses] == [
        (r.tokens, r.prediction, r.flops) for r in final
    ]
    np.testing.assert_allclose(
        found.confidence[~deferred], confidence[~deferred], rtol=0, atol=1e-4, err_msg="of what S answers itself"
    )
    config = tiny_pair[0].config
    for request, response, full, late in zip(REQUESTS, found.small, whole["small"], deferred):
        low = SOFAR[rule](np.array(full.token_logprobs)) <= tau
        least = len(low) if request.options or not low.any() else int(low.argmax()) + 1
        assert response.tokens == full.tokens[:least] and response.n_generated == least
        np.testing.assert_allclose(response.token_logprobs, full.token_logprobs[:least], rtol=0, atol=1e-5)
        assert response.unfinished == (least < full.n_generated) and (late or not response.unfinished)
        assert response.truncated == (full.truncated and not response.unfinished)
        if response.unfinished:
            assert response.flops == request_flops(config, full.n_prompt, least) < full.flops
            assert response.confidences.keys() == set(EXACT_RULES)
            assert response.confidences[rule] >= full.confidences[rule] - 1e-4
        else:
            assert response.flops == full.flops and response.confidences.keys() == full.confidences.keys()


@pytest.mark.parametrize("rule", EXACT_RULES)
def test_flops_are_those_that_a_counter_sees(tiny_pair, whole, rule):
    small = copy.deepcopy(tiny_pair[0])
    small.set_attn_implementation("eager")
    requests = [request for request in REQUESTS if not request.options][:12]
    runner = CascadeRunner(small, *tiny_pair[1:], max_new_tokens=NEW, batch_tokens=1)
    exits = EarlyExit(rule, between([r.confidences[rule] for r in whole["small"]], 24))
    with FlopCounterMode(display=False) as counter:
        found = runner.answer(requests, early_exit=exits)
    assert sum(r.unfinished for r in found) > 3
    assert counter.get_total_flops() == sum(r.flops for r in found)


def test_rows_leave_the_batch(tiny_pair, monkeypatch):
    rows, original = [], cat_core.inference.chosen_logprob
    monkeypatch.setattr(
        cat_core.inference, "chosen_logprob", lambda logits, token: rows.append(len(logits)) or original(logits, token)
    )
    requests = [request for request in REQUESTS if not request.options]
    runner = CascadeRunner(*tiny_pair, max_new_tokens=NEW)
    full = runner.answer(requests)
    kept, rows[:] = list(rows), []
    tau = between([r.confidences["chow_sum"] for r in full], 20)
    runner.answer(requests, early_exit=EarlyExit("chow_sum", tau))
    assert rows[0] == kept[0] == 24 and sum(rows) < 0.8 * sum(kept)
    rows.clear()
    assert all(r.n_generated == 1 for r in runner.answer(requests, early_exit=EarlyExit("chow_sum", math.inf)))
    assert rows == [24]


# ------------------------------------------------------------------- the store


def test_unfinished_answers_are_never_stored_as_whole_ones(tiny_pair, whole, tmp_path, monkeypatch):
    runner = CascadeRunner(*tiny_pair, max_new_tokens=NEW)
    values = [r.confidences["chow_sum"] for r in whole["small"]]
    taus = [between(values, count) for count in (10, 20)]
    early = [runner.run(REQUESTS, tau, "chow_sum", store=tmp_path, early_exit=True) for tau in taus]
    assert not (tmp_path / "small").exists() and len(list(tmp_path.glob("small-*"))) == 2
    full = runner.run(REQUESTS, taus[0], "chow_sum", store=tmp_path)
    assert full.small == whole["small"] and (full.deferred == early[0].deferred).all()
    assert full.large == early[0].large and len(list(tmp_path.glob("large-*"))) == 2
    folder = next(tmp_path.glob("small-*"))
    for store, exits in ((tmp_path / "small", EarlyExit("chow_sum", taus[0])), (folder, None)):
        with pytest.raises(ValueError, match=r"holds another run \(different: early exit\)"):
            runner.answer(REQUESTS, store=store, early_exit=exits)
    with monkeypatch.context() as patched:
        patched.setattr(CascadeRunner, "_compute", pytest.fail)
        for tau, expected in zip(taus, early):
            again = runner.run(REQUESTS, np.float64(tau), "chow_sum", store=tmp_path, early_exit=True)
            assert (again.small, again.large) == (expected.small, expected.large)
