"""The FLOPs formulas against PyTorch's counter over whole runs of real models (eager attention: the counter
sees nothing of CPU attention kernels)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from cat_core.engine import generate_batch, score_batch
from cat_core.flops import (
    FAMILIES,
    decode_flops,
    option_flops,
    prefill_flops,
    request_flops,
    training_flops,
)


def model_of(config):
    config._attn_implementation = "eager"
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def count(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@st.composite
def llamas(draw):
    """Small Llama configurations: multi-head, grouped and multi-query; tied or not; with biases or not."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    size = 2 * draw(st.integers(1, 3))
    explicit = draw(st.booleans())
    return LlamaConfig(
        hidden_size=heads * (size + 2 if explicit else size),
        head_dim=size if explicit else None,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=draw(st.integers(1, 40)),
        num_hidden_layers=draw(st.integers(1, 3)),
        vocab_size=draw(st.integers(5, 70)),
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def generate(model, batch, prompt, new):
    ids = torch.full((batch, prompt), 3)
    with torch.no_grad():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )


@settings(max_examples=25, deadline=None)
@given(llamas(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 6))
def test_request_equals_the_counter_over_generate(config, batch, prompt, new):
    model = model_of(config)
    assert count(lambda: generate(model, batch, prompt, new)) == batch * request_flops(config, prompt, new)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=20,
            vocab_size=31,
            num_hidden_layers=2,
            sliding_window=None,
            head_dim=8,
        ),
        Qwen2Config(
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=20,
            vocab_size=31,
            num_hidden_layers=2,
        ),
        Qwen3Config(
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=1,
            intermediate_size=20,
            vocab_size=31,
            num_hidden_layers=2,
            head_dim=10,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_other_families_equal_the_counter(config):
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    model = model_of(config)
    assert count(lambda: generate(model, 2, 9, 5)) == 2 * request_flops(config, 9, 5)


def test_every_listed_family_is_checked_here():
    assert set(FAMILIES) == {"llama", "mistral", "qwen2", "qwen3"}


@settings(max_examples=15, deadline=None)
@given(llamas(), st.integers(1, 10), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_options_equal_the_counter_over_the_runners_own_scoring(config, prefix, lengths):
    model = model_of(config)
    options = [[3] * length for length in lengths]
    with torch.no_grad():
        found = count(
            lambda: score_batch(model, [[4] * prefix], [options], pad=2, vocab=config.vocab_size, batch_tokens=64)
        )
    assert found == option_flops(config, prefix, lengths)


def test_the_runners_own_generation_costs_what_generate_does(tiny_pair):
    config = tiny_pair[1].config.__class__.from_dict(tiny_pair[1].config.to_dict())
    model = model_of(config)
    with torch.no_grad():
        found = count(
            lambda: generate_batch(model, [[1, 7, 9, 11]], eos=-1, pad=0, vocab=config.vocab_size, max_new_tokens=6)
        )
    assert found == request_flops(config, 4, 6)


@settings(max_examples=10, deadline=None)
@given(llamas(), st.integers(1, 9))
def test_training_equals_the_counter_over_forward_and_backward(config, tokens):
    model = model_of(config).train()
    assert count(lambda: model(torch.full((1, tokens), 3)).logits.sum().backward()) == training_flops(config, tokens)


def test_request_is_prefill_plus_decodes():
    config = LlamaConfig()
    whole = prefill_flops(config, 100) + sum(decode_flops(config, 100 + j) for j in range(1, 20))
    assert request_flops(config, 100, 20) == whole
    assert option_flops(config, 100, [1, 1]) == prefill_flops(config, 100)
    assert option_flops(config, 100, (2,)) == prefill_flops(config, 100) + decode_flops(config, 101)


def test_exact_integers_of_any_size():
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=126,
        num_attention_heads=128,
        num_key_value_heads=8,
    )
    found = request_flops(config, 10**7, 10**6)
    assert type(found) is int and found > 2**63
    assert request_flops(config, np.int32(8), np.int64(3)) == request_flops(config, 8, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda c: request_flops(c, 0, 1), ValueError, "prompt_tokens must be at least 1, got 0"),
        (lambda c: request_flops(c, 1, 0), ValueError, "new_tokens must be at least 1, got 0"),
        (lambda c: request_flops(c, 1.5, 1), TypeError, "prompt_tokens must be an integer"),
        (lambda c: request_flops(c, 1, True), TypeError, "new_tokens must be an integer"),
        (lambda c: option_flops(c, 1, []), ValueError, "option_tokens is empty"),
        (lambda c: option_flops(c, 1, [2, 0]), ValueError, "option_tokens must be at least 1"),
        (
            lambda c: request_flops(GPT2Config(), 1, 1),
            ValueError,
            "'gpt2': supported are llama, mistral, qwen2, qwen3",
        ),
        (lambda c: request_flops(object(), 1, 1), ValueError, "model type None"),
        (
            lambda c: request_flops(MistralConfig(), 1, 1),
            ValueError,
            r"sliding-window attention \(window 4096\)",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(LlamaConfig())
