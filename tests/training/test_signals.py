"""Signals on held-out tokens against each example alone in float64, and their summary by hand."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from cat_core.tasks.synthetic import MiniWmt, mini_wmt
from cat_core.training import signals as signals_module
from cat_core.training.models import ModelSize, build_model, train_tokenizer
from cat_core.training.signals import TokenSignals, summary, token_signals
from cat_core.training.training_set import TrainingSet


def llama(tokenizer):
    return build_model(ModelSize(hidden=16, layers=1, heads=2, context=48), tokenizer, 3)


def capped(tokenizer):
    """Its logits are no linear layer of its states: they are capped."""
    torch.manual_seed(3)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    size |= {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.5}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=len(tokenizer), **size, **ids))


@pytest.mark.parametrize("build", [llama, capped])
@pytest.mark.parametrize("chunk", [1, 5_000, signals_module.CHUNK])
def test_signals_are_those_of_each_example_alone(build, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(signals_module, "CHUNK", chunk)
    examples = [e for e in mini_wmt(MiniWmt(train=40, calibration=5, test=5)) if e.split == "train"]
    tokenizer = train_tokenizer([t for e in examples for t in (e.prompt, e.target)], 400)
    held_out = TrainingSet(examples, tokenizer, 48)
    model = build(tokenizer).eval()
    found = token_signals(model, held_out, batch_tokens=300)
    expected = []
    for index, (prompt, target) in enumerate(held_out.pairs):
        with torch.no_grad():
            rows = model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].double()
        for row, label in zip(rows.softmax(-1).tolist(), target):
            entropy = -sum(p * np.log(p) for p in row)
            expected.append((row[label] >= max(row), np.log(row[label]), entropy, max(row), index))
    for name, values in zip(("right", "label_logprob", "entropy", "top_probability", "example"), zip(*expected)):
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-4, atol=1e-5)
    found.save(tmp_path)
    again = TokenSignals.load(tmp_path)
    assert all(np.array_equal(getattr(again, n), v) for n, v in vars(found).items())


def signals(right, top=None, entropy=None):
    n = len(right)
    entropy, top = np.array(entropy or [1.0] * n), np.array(top or [0.5] * n)
    return TokenSignals(np.array(right, bool), np.full(n, -1.0), entropy, top, np.arange(n))


def test_summary_counts_and_means_by_cell():
    small = signals([1, 1, 0, 0, 0], top=[0.9, 0.8, 0.7, 0.6, 0.5], entropy=[0.0, 1.0, 2.0, 3.0, 5.0])
    found = summary(small, signals([1, 0, 1, 0, 0]))
    assert found["ledger"] == [1, 1, 1, 2] and found["tokens"] == 5
    assert found["entropy_by_cell"] == [0.0, 1.0, 2.0, 4.0]
    assert found["confidence_by_cell"] == pytest.approx([0.9, 0.8, 0.7, 0.55])
    assert (found["share_right"], found["large_right"], found["nll"]) == pytest.approx((0.4, 0.4, 1.0))
    assert summary(signals([1]), signals([1]))["entropy_by_cell"][1:] == [None] * 3
    with pytest.raises(ValueError, match="not those of one split"):
        summary(small, signals([1]))


def test_calibration_error_by_hand():
    """Two bins of 15 are met: .9 (one right of two) and .5 (both right)."""
    small = signals([1, 0, 1, 1], top=[0.9, 0.9, 0.5, 0.5])
    assert summary(small, small)["ece"] == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1 - 0.5))
