"""What training costs, against PyTorch's counter, and after how many queries it is earned back."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM

from cat_core.analysis.quantities import Undefined
from cat_core.flops import sequence_flops
from cat_core.loss import cascade_aware_loss
from cat_core.methods import METHODS
from cat_core.studies import costs


def llama(hidden=8, heads=2, layers=2, vocab=40):
    return LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=4 * hidden, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        attn_implementation="eager",
    )  # fmt: skip


def one_step(config, prompt, target, rows=3):
    """FLOPs that the counter sees in one real step on sequences of one length (no padding, all tokens kept)."""
    model = LlamaForCausalLM(config).train()
    ids = torch.randint(3, config.vocab_size, (rows, prompt + target))
    positions = torch.arange(prompt - 1, prompt + target - 1)  # the rows of logits that predict target tokens
    with FlopCounterMode(display=False) as counter:
        logits = model(ids, use_cache=False, logits_to_keep=positions).logits
        cascade_aware_loss(logits, ids[:, prompt:], mask="none", label_weight=1.0).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("prompt", "target"), [(5, 3), (1, 1), (9, 4)])
def test_a_step_is_three_forward_passes(prompt, target):
    config = llama()
    assert one_step(config, prompt, target) == 3 * 3 * sequence_flops(config, prompt, target)


def test_training_cost_adds_up_step_by_step():
    small, large, lengths = llama(8), llama(16, 4), [(5, 3), (9, 4), (5, 3)]
    how = {"steps": 7, "batch_size": 3, "large_steps": 5, "large_batch_size": 6, "examples": 30}
    found = {m: costs.training_cost(small, large, lengths, method=m, **how) for m in METHODS}
    steps = one_step(small, 5, 3, 2) + one_step(small, 9, 4, 1)  # a batch of three: one of each length in turn
    assert found["xent"].small == pytest.approx(7 * steps)
    assert found["xent"].teacher == found["small-dist"].teacher * 0 == found["gatekeeper"].teacher == 0
    assert found["gatekeeper"].small == pytest.approx(8 * steps)  # 7 // 4 = 1 more step
    forward = [one_step(large, *pair, 1) / 3 for pair in lengths]
    assert found["xent"].large == pytest.approx(3 * 5 * 6 * np.mean(forward))
    assert found["cat-xent"].teacher == pytest.approx(30 * np.mean(forward))  # one pass over the training set
    heads = 7 * 3 * np.mean([3, 4, 3]) * 2 * 16 * 40  # L's head on the target tokens of every step
    for method in ("dist", "cat-dist", "random-dist", "small-dist"):
        assert found[method].teacher == pytest.approx(30 * np.mean(forward) + heads)
    cost = found["cat-dist"]
    assert cost.total(False) - cost.total() == cost.large and cost.total() == cost.small + cost.teacher


def test_training_cost_refuses():
    how = {"steps": 1, "batch_size": 1, "large_steps": 1, "large_batch_size": 1, "examples": 1}
    with pytest.raises(ValueError, match="unknown method 'x'"):
        costs.training_cost(llama(), llama(), [(1, 1)], method="x", **how)
    with pytest.raises(ValueError, match="lengths is empty"):
        costs.training_cost(llama(), llama(), [], method="dist", **how)
    with pytest.raises(ValueError, match="bert"):
        costs.training_cost(BertConfig(), llama(), [(1, 1)], method="dist", **how)
    with pytest.raises(ValueError, match="target_tokens must be at least 1"):
        sequence_flops(llama(), 3, 0)


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_payback_counts_queries(extra, saved):
    queries = math.ceil(costs.payback(extra, saved))
    assert queries * saved >= extra > (queries - 1) * saved


def test_payback_never_and_at_once():
    assert isinstance(costs.payback(5.0, 0.0), Undefined) and isinstance(costs.payback(5.0, -1.0), Undefined)
    assert costs.payback(0.0, 1.0) == costs.payback(-3.0, 1.0) == 0
    with pytest.raises(ValueError, match="finite"):
        costs.payback(float("inf"), 1.0)
