"""The FLOPs formulas against PyTorch's counter over whole runs of real models (eager attention and experts: the counter
sees nothing of CPU attention kernels, nor of grouped products)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BloomConfig,
    BloomForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    LlamaConfig,
    Qwen2Config,
    T5Config,
)
from transformers.cache_utils import LinearAttentionLayer

from cat_core.flops import (
    Costs,
    decode_bytes,
    decode_flops,
    first_layer_flops,
    option_flops,
    prefill_flops,
    request_flops,
    sequence_flops,
    shape_of,
    training_flops,
)
from cat_core.inference import generate_batch, score_batch
from cat_core.rules.features import first_layer
from cat_core.shapes.families import FAMILIES


def model_of(config):
    config._experts_implementation = "eager"
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_config(config, attn_implementation="eager").eval()


def count(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


# ---------------------------------------------------------------- one strategy of small configurations for each family

PAIRS = {"bart", "m2m_100", "marian", "mt5", "t5"}  # with an encoder
GROUPED = {"gemma", "gemma2", "gemma3_text", "gemma4_text", "granite", "llama", "mistral", "mixtral", "olmo2", "olmo3",
           "phi", "phi3", "qwen2", "qwen3", "qwen3_5_text", "qwen3_moe", "smollm3", "stablelm"}  # fmt: skip
OWN_SIZE = GROUPED - {"phi", "stablelm"}  # the size of a head is a field of its own
ALTERNATING = {"qwen2", "qwen3", "qwen3_moe", "smollm3"}  # windows are off unless asked for


@st.composite
def configurations(draw, kind):
    """Small configurations: multi-head, grouped and multi-query, with windows shorter and longer than what is read."""
    layers, vocab = draw(st.integers(1, 3)), draw(st.integers(5, 70))
    key_heads = draw(st.integers(1, 3))
    heads, size = key_heads * draw(st.integers(1, 3)), 4 * draw(st.integers(1, 2))
    size *= 2 if kind == "stablelm" else 1  # a quarter of it is rotated, an even number
    inner = draw(st.integers(1, 40))
    if kind in ("bart", "m2m_100", "marian"):
        others = draw(st.integers(1, 3))
        # generate() makes as many caches as the encoder has layers: a deeper decoder does not run
        fields = {"encoder_layers": layers, "decoder_layers": draw(st.integers(1, layers)), "vocab_size": vocab}
        fields |= {"encoder_attention_heads": heads, "decoder_attention_heads": others, "d_model": heads * others * 4}
        fields |= {"encoder_ffn_dim": inner, "decoder_ffn_dim": inner + 3, "max_position_embeddings": 32}
        fields |= {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "decoder_start_token_id": 0}
        if kind == "marian" and draw(st.booleans()):
            fields |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": draw(st.integers(5, 70))}
            fields["tie_word_embeddings"] = False
        fields |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "forced_eos_token_id": None}
        return AutoConfig.for_model(kind, **fields)
    if kind in ("t5", "mt5"):
        ends = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        gate = draw(st.sampled_from(["relu", "gated-gelu"]))
        # generate() makes as many caches as the encoder has layers: a deeper decoder does not run
        more = {"num_layers": layers, "num_decoder_layers": draw(st.integers(1, layers)), "feed_forward_proj": gate}
        return AutoConfig.for_model(
            kind, d_model=inner, d_kv=size, num_heads=heads, d_ff=inner + 3, vocab_size=vocab, **ends, **more
        )
    fields = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": vocab, "hidden_size": heads * size}
    fields |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    fields[{"falcon": "ffn_hidden_size", "gpt2": "n_inner", "opt": "ffn_dim"}.get(kind, "intermediate_size")] = inner
    if kind not in ("gpt2", "opt"):
        fields["tie_word_embeddings"] = draw(st.booleans())
    if kind in GROUPED:
        fields["num_key_value_heads"] = key_heads
    if kind in OWN_SIZE:
        fields |= {"head_dim": size, "hidden_size": heads * draw(st.integers(1, 9))}
    if kind in ("gpt2", "opt") and draw(st.booleans()):
        fields |= {"n_inner": None} if kind == "gpt2" else {"word_embed_proj_dim": draw(st.integers(1, 9))}
    if kind == "mixtral":
        experts = draw(st.integers(1, 4))
        fields |= {"num_local_experts": experts, "num_experts_per_tok": draw(st.integers(1, experts))}
    if kind == "qwen3_moe":
        experts = draw(st.integers(1, 4))
        fields |= {"num_experts": experts, "num_experts_per_tok": draw(st.integers(1, experts))}
        fields |= {"moe_intermediate_size": draw(st.integers(1, 9)), "decoder_sparse_step": draw(st.integers(1, 2))}
        fields["mlp_only_layers"] = draw(st.lists(st.integers(0, layers - 1), unique=True))
    if kind == "falcon":
        fields |= {name: draw(st.booleans()) for name in ("new_decoder_architecture", "multi_query", "parallel_attn")}
        fields |= {"alibi": draw(st.booleans()), "num_ln_in_parallel_attn": draw(st.sampled_from([None, 1, 2]))}
        if fields["new_decoder_architecture"]:
            fields |= {"num_kv_heads": key_heads, "parallel_attn": True}
        else:
            fields["num_ln_in_parallel_attn"] = None
    if kind == "gemma4_text":
        experts, kinds = draw(st.integers(1, 4)), ["sliding_attention", "full_attention"]
        fields |= {"global_head_dim": 4 * draw(st.integers(1, 3)), "layer_types": (kinds * 3)[-2 * layers :]}
        fields |= {"num_hidden_layers": 2 * layers, "num_kv_shared_layers": draw(st.integers(0, 2 * layers - 2))}
        fields |= {"hidden_size_per_layer_input": draw(st.integers(1, 9)), "vocab_size_per_layer_input": vocab}
        fields |= {"enable_moe_block": draw(st.booleans()), "num_experts": experts, "moe_intermediate_size": 5}
        fields |= {"top_k_experts": draw(st.integers(1, experts)), "use_double_wide_mlp": draw(st.booleans())}
        fields |= {"attention_k_eq_v": draw(st.booleans()), "num_global_key_value_heads": draw(st.just(1) | st.none())}
    if kind == "qwen3_5_text":
        keys = draw(st.integers(1, 2))
        fields |= {"linear_num_key_heads": keys, "linear_num_value_heads": keys * draw(st.integers(1, 2))}
        fields |= {"linear_key_head_dim": draw(st.integers(2, 6)), "linear_value_head_dim": draw(st.integers(1, 6))}
        fields |= {"linear_conv_kernel_dim": draw(st.integers(2, 5)), "head_dim": 2 * size}
        kinds = st.sampled_from(["full_attention", "linear_attention"])
        # without any full attention its cache does not run
        fields["layer_types"] = [*draw(st.lists(kinds, min_size=layers - 1, max_size=layers - 1)), "full_attention"]
    # a window of 1 token is refused by nobody, but the dynamic cache then keeps everything
    window = draw(st.integers(2, 20))
    if kind in ("gemma2", "gemma3_text"):
        fields |= {"sliding_window": window, "sliding_window_pattern": 2}
    elif kind in ("gemma4_text", "olmo3"):
        fields["sliding_window"] = window
    elif kind in ("mistral", "mixtral", "phi3"):
        fields["sliding_window"] = draw(st.sampled_from([None, window]))
    elif kind in ALTERNATING:
        fields |= {"use_sliding_window": draw(st.booleans()), "sliding_window": window}
        fields |= {"no_rope_layers": [1, 0, 1][:layers]} if kind == "smollm3" else {"max_window_layers": 1}
    return AutoConfig.for_model(kind, **fields)


CONFIGURATIONS = {
    kind: configurations(kind)
    for kind in (
        "bart", "falcon", "gemma", "gemma2", "gemma3_text", "gemma4_text", "gpt2", "gpt_neox", "granite", "llama",
        "m2m_100", "marian", "mistral", "mixtral", "mt5", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen3",
        "qwen3_5_text", "qwen3_moe", "smollm3", "stablelm", "t5",
    )
}  # fmt: skip
every_family = pytest.mark.parametrize("kind", CONFIGURATIONS)
every_decoder = pytest.mark.parametrize("kind", [kind for kind in CONFIGURATIONS if kind not in PAIRS])
every_pair = pytest.mark.parametrize("kind", sorted(PAIRS))


def test_every_listed_family_is_checked_here():
    assert list(FAMILIES) == list(CONFIGURATIONS)


def generate(model, batch, prompt, new):
    ids = torch.full((batch, prompt), 3)
    with torch.no_grad():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            num_beams=1,
        )


@every_family
@settings(max_examples=6, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 12), st.integers(1, 8))
def test_request_equals_the_counter_over_generate(kind, data, batch, prompt, new):
    config = data.draw(CONFIGURATIONS[kind])
    model = model_of(config)
    assert count(lambda: generate(model, batch, prompt, new)) == batch * request_flops(config, prompt, new)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gemma2", {"sliding_window": 4, "head_dim": 8, "num_key_value_heads": 2}),
        ("gpt2", {"n_inner": None}),
        ("mixtral", {"sliding_window": 4, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2}),
        ("opt", {"word_embed_proj_dim": 7, "ffn_dim": 9}),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [1], "num_experts": 5, "num_experts_per_tok": 2}),
        ("qwen3_moe", {"num_experts": 0}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 9}),
        (
            "gemma4_text",
            {
                "num_kv_shared_layers": 2,
                "use_double_wide_mlp": True,
                "hidden_size_per_layer_input": 5,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "sliding_window": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "global_head_dim": 12,
            },
        ),
        ("gemma4_text", {"hidden_size_per_layer_input": 0, "num_key_value_heads": 2, "sliding_window": 4}),
        ("phi3", {"num_key_value_heads": 2, "sliding_window": 4}),
        ("t5", {"num_decoder_layers": 3, "d_kv": 5, "d_ff": 9, "feed_forward_proj": "gated-gelu"}),
    ],
)
def test_corners_equal_the_counter_over_generate(kind, fields):
    """What few random configurations may miss."""
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 31}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 0}
    sizes |= {} if kind in ("falcon", "gpt2", "opt", "t5") else {"intermediate_size": 20, "moe_intermediate_size": 12}
    sizes |= {"vocab_size_per_layer_input": 31} if kind == "gemma4_text" else {}
    if kind != "qwen3_moe":
        sizes.pop("moe_intermediate_size", None)
    model = model_of(AutoConfig.for_model(kind, **sizes, **ends, **fields))
    assert count(lambda: generate(model, 2, 9, 6)) == 2 * request_flops(model.config, 9, 6)


@every_family
@settings(max_examples=5, deadline=None)
@given(st.data(), st.integers(1, 2), st.integers(0, 9), st.integers(1, 9))
def test_sequence_and_training_equal_the_counter_over_forward_and_backward(kind, data, batch, prompt, target):
    """No prompt means a logit row at every position; the forward pass is in evaluation mode, as a teacher's."""
    config = data.draw(CONFIGURATIONS[kind])
    model = model_of(config)
    if config.is_encoder_decoder:
        prompt += 1
        arguments = {"input_ids": torch.full((batch, prompt), 3), "labels": torch.full((batch, target), 3)}
    else:
        arguments = {"input_ids": torch.full((batch, prompt + target), 3), "logits_to_keep": target}
        arguments["use_cache"] = False
    with torch.no_grad():
        assert count(lambda: model(**arguments)) == batch * sequence_flops(config, prompt, target)
    model.train()
    if kind == "qwen3_5_text" and "linear_attention" in config.layer_types:
        with pytest.raises(ValueError, match="no exact FLOPs of training for model type 'qwen3_5_text': the gradient"):
            training_flops(config, prompt, target)
        return
    found = count(lambda: model(**arguments).logits.sum().backward())
    assert found == batch * training_flops(config, prompt, target)


@pytest.mark.parametrize("field", ["encoder_layerdrop", "decoder_layerdrop"])
def test_layers_left_out_at_random_have_no_cost(field):
    with pytest.raises(ValueError, match=f"{field}=0.05 leaves out layers at random while training: set it to 0"):
        training_flops(
            AutoConfig.for_model("m2m_100", **{"encoder_layerdrop": 0, "decoder_layerdrop": 0, field: 0.05}), 3, 3
        )


@pytest.mark.parametrize("kind", ["gemma4_text", "granite", "llama", "olmo3", "phi3", "qwen3_5_text", "stablelm", "t5"])
@settings(max_examples=3, deadline=None)
@given(st.data(), st.integers(1, 9))
def test_the_first_layer_equals_the_counter(kind, data, prompt):
    config = data.draw(CONFIGURATIONS[kind])
    short = first_layer(model_of(config))
    with torch.no_grad():
        found = count(lambda: short(torch.full((1, prompt), 3), use_cache=False))
    assert found == first_layer_flops(config, prompt)


def test_frozen_parts_of_a_training_step():
    config = llama_with(tie_word_embeddings=False)
    model = model_of(config).train()
    step = {"input_ids": torch.full((1, 9), 3), "logits_to_keep": 4}
    model.get_input_embeddings().weight.requires_grad_(False)
    assert count(lambda: model(**step).logits.sum().backward()) == training_flops(config, 5, 4)
    model.get_output_embeddings().weight.requires_grad_(False)
    assert count(lambda: model(**step).logits.sum().backward()) == training_flops(config, 5, 4, frozen_head=True)


def llama_with(**fields):
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20}
    return LlamaConfig(**sizes, vocab_size=31, num_hidden_layers=2, **fields)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15))
def test_attended_keys_are_those_that_the_mask_leaves(prompt, new, window):
    config = Gemma3TextConfig(
        hidden_size=8, num_attention_heads=2, num_key_value_heads=1, head_dim=4, intermediate_size=8, vocab_size=9,
        num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], sliding_window=window,
    )  # fmt: skip
    row, column = np.indices((prompt + new - 1,) * 2)
    past = column <= row
    pairs = past.sum() + (past & (row - column < window)).sum()
    sliding, full = shape_of(config).layers
    rest = (sliding.token_flops + full.token_flops) * (prompt + new - 1) + shape_of(config).head_flops * new
    assert request_flops(config, prompt, new, attended=True) == rest + pairs * 4 * 2 * 4


# ---------------------------------------------------------------- bytes


def matrices(model) -> int:
    """Weights of all matrices that one decoded token meets: experts by their active share, tables not at all."""
    config, decoder = model.config, model.get_decoder()
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    found = model.get_output_embeddings().weight.numel()
    for name, weight in decoder.named_parameters():
        crossed = (".EncDecAttention.k", ".EncDecAttention.v", ".encoder_attn.k", ".encoder_attn.v")
        if weight.ndim < 2 or id(weight) in tables or any(part in name for part in crossed) or ".conv1d." in name:
            continue
        active = getattr(config, "top_k_experts", None) or getattr(config, "num_experts_per_tok", None)
        share = (active, len(weight)) if "experts" in name else (1, 1)
        found += weight.numel() * share[0] // share[1]
    return found


def tensors(layer) -> list:
    """What a layer of a cache holds: keys and values, or the states of linear attention, or nothing."""
    if isinstance(layer, LinearAttentionLayer):
        return [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return [] if layer.keys is None else [layer.keys, layer.values]


def held(cache) -> int:
    return sum(tensor.nbytes for layer in cache.layers for tensor in tensors(layer))


@every_decoder
@settings(max_examples=5, deadline=None)
@given(st.data(), st.integers(1, 12))
def test_bytes_are_those_of_the_weights_and_of_the_cache(kind, data, cached):
    config = data.draw(CONFIGURATIONS[kind])
    model, cache = model_of(config), DynamicCache(config=config)
    with torch.no_grad():
        model(torch.full((1, cached), 3), past_key_values=cache, use_cache=True)
    growing = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    one = sum(2 * layer.keys[:, :, :1].nbytes for layer in growing)  # the new token's own keys and values
    found = decode_bytes(config, cached + 1, weights=torch.int8, cache=torch.float32)
    assert (found.weights, found.cache) == (matrices(model), held(cache) + one)
    assert decode_bytes(config, cached + 1).weights == 2 * matrices(model)
    assert decode_bytes(config, cached + 1, weights=torch.float32).cache == found.cache


@every_pair
@settings(max_examples=4, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 6))
def test_bytes_of_a_decoder_with_an_encoder(kind, data, prompt, keys):
    config = data.draw(CONFIGURATIONS[kind])
    model = model_of(config)
    with torch.no_grad():
        cache = model(torch.full((1, prompt), 3), decoder_input_ids=torch.full((1, keys), 3)).past_key_values
    found = decode_bytes(config, keys, prompt, weights=torch.float16, cache=torch.float32)
    assert found.weights == 2 * matrices(model)
    assert found.cache == held(cache.self_attention_cache) + held(cache.cross_attention_cache)


# ---------------------------------------------------------------- the cascade's own runs


@every_family
@settings(max_examples=4, deadline=None)
@given(st.data(), st.integers(1, 10), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 6))
def test_runs_of_the_engine_equal_the_counter(kind, data, prompt, lengths, new):
    config = data.draw(CONFIGURATIONS[kind])
    model, common = model_of(config), {"pad": 2, "vocab": config.vocab_size}
    options = [[3] * length for length in lengths]
    with torch.no_grad():
        scored = count(lambda: score_batch(model, [[4] * prompt], [options], batch_tokens=64, **common))
        made = count(lambda: generate_batch(model, [[4] * prompt], stop_ids={-1}, max_new_tokens=new, **common))
    assert scored == option_flops(config, prompt, lengths)
    assert made == request_flops(config, prompt, new)


# ---------------------------------------------------------------- measured, where there is no formula


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 6))
def test_measured_costs_equal_the_counter_over_generate(prompt, lengths, new):
    """A Bloom has no formula; with attention that the counter does not see, and one key for it that has a window."""
    config = BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=31)
    model = BloomForCausalLM(config)
    costs = Costs(model, "measured")
    assert Costs(model).request(prompt, new) is None is Costs(model).options(prompt, lengths)
    assert "no exact FLOPs formula for model type 'bloom'" in Costs(model).unknown
    attention, training = model.config._attn_implementation, model.training
    found = costs.request(prompt, new), costs.options(prompt, lengths)
    assert (model.config._attn_implementation, model.training) == (attention, training) == (attention, True)
    eager = model_of(config)
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        options = [[3] * length for length in lengths]
        scored = count(lambda: score_batch(eager, [[4] * prompt], [options], batch_tokens=64, pad=2, vocab=31))
        made = count(lambda: generate_batch(eager, [[4] * prompt], pad=2, vocab=31, stop_ids={-1}, max_new_tokens=new))
    assert found == (made, scored)


@pytest.mark.parametrize("kind", ["gemma3_text", "mixtral", "qwen3_5_text", "bart"])
@settings(max_examples=2, deadline=None)
@given(st.data(), st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 5))
def test_measured_costs_equal_the_formula(kind, data, prompt, lengths, new):
    """Where there is one, and it is not allowed: from attention and experts as they are by default."""
    config = data.draw(CONFIGURATIONS[kind])
    model = (AutoModelForSeq2SeqLM if kind == "bart" else AutoModelForCausalLM).from_config(config)
    model.config.never_heard_of = 1
    costs = Costs(model, "measured")
    assert costs.measured is not None
    found = costs.request(prompt, new), costs.request(prompt, 1), costs.options(prompt, lengths)
    del model.config.never_heard_of
    assert found == (
        request_flops(config, prompt, new), request_flops(config, prompt, 1), option_flops(config, prompt, lengths)
    )  # fmt: skip


def test_costs_are_by_formula_or_measured():
    with pytest.raises(ValueError, match="costs is 'guessed', expected one of formula, measured"):
        Costs(model_of(llama_with()), "guessed")
    assert Costs(model_of(llama_with()), "measured").measured is None, "there is a formula"


def test_request_is_prefill_plus_decodes():
    config = LlamaConfig()
    whole = prefill_flops(config, 100) + sum(decode_flops(config, 100 + j) for j in range(1, 20))
    assert request_flops(config, 100, 20) == whole
    assert option_flops(config, 100, [1, 1]) == prefill_flops(config, 100)
    assert option_flops(config, 100, (2,)) == prefill_flops(config, 100) + decode_flops(config, 101)
    config = Gemma3TextConfig(sliding_window=110)
    whole = prefill_flops(config, 100) + sum(decode_flops(config, 100 + j) for j in range(1, 20))
    assert request_flops(config, 100, 20) == whole


def test_an_encoder_reads_the_prompt_once():
    config = T5Config()
    whole = prefill_flops(config, 100) + sum(decode_flops(config, 1 + j, 100) for j in range(1, 20))
    assert request_flops(config, 100, 20) == whole == request_flops(config, 100, 20, attended=True)
    assert option_flops(config, 100, [1, 1]) == prefill_flops(config, 100)
    assert option_flops(config, 100, [2, 1, 2]) == prefill_flops(config, 100) + 2 * decode_flops(config, 2, 100)


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
            lambda c: request_flops(BertConfig(), 1, 1),
            ValueError,
            "'bert': supported are bart, falcon, .*, stablelm, t5",
        ),
        (lambda c: request_flops(object(), 1, 1), ValueError, "model type None"),
        (lambda c: request_flops(broken(), 1, 1), ValueError, "layers of type chunked_attention"),
        (lambda c: sequence_flops(c, -1, 1), ValueError, "prompt_tokens must be at least 0, got -1"),
        (lambda c: sequence_flops(T5Config(), 0, 1), ValueError, "prompt_tokens must be at least 1, got 0"),
        (lambda c: training_flops(c, 3, 0), ValueError, "target_tokens must be at least 1, got 0"),
        (lambda c: decode_flops(c, 3, 2), ValueError, "source_tokens is 2, expected 0, as the model has no encoder"),
        (lambda c: decode_bytes(T5Config(), 3), ValueError, "source_tokens is 0, expected the length of the encoded"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(LlamaConfig())


def broken():
    config = Qwen2Config(num_hidden_layers=1)
    config.layer_types = ["chunked_attention"]
    return config
