"""Every field of every configuration class changed, and keys that are no fields: the model that comes of it costs what
the formula says, or the formula refuses."""

import copy
import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig

from cat_core.flops import request_flops
from cat_core.shapes.families import FAMILIES, shape_of
from cat_core.shapes.fields import HARMLESS

PROMPT, NEW = 7, 2
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
BASE = ENDS | {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 31}
BART = ENDS | {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 13, "decoder_ffn_dim": 17, "vocab_size": 31,
    "max_position_embeddings": 64, "decoder_start_token_id": 0, "forced_eos_token_id": None,
}  # fmt: skip
T5 = {
    "d_model": 24, "d_kv": 5, "num_heads": 3, "d_ff": 9, "num_layers": 3, "num_decoder_layers": 2, "vocab_size": 31,
    "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
KINDS = ["sliding_attention", "full_attention"] * 2
OWN = {
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4},
    "gemma4_text": {
        "head_dim": 8, "global_head_dim": 12, "sliding_window": 4, "hidden_size_per_layer_input": 5,
        "vocab_size_per_layer_input": 31, "num_kv_shared_layers": 2, "layer_types": KINDS, "num_experts": 3,
        "top_k_experts": 2, "moe_intermediate_size": 7,
    },
    "mistral": {"head_dim": 8, "sliding_window": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "olmo3": {"sliding_window": 4},
    "opt": {"ffn_dim": 20},
    "qwen3": {"head_dim": 8},
    "qwen3_5_text": {
        "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6,
        "linear_value_head_dim": 5,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
}  # fmt: skip
EXTRAS = {
    "num_key_value_heads": 2, "head_dim": 12, "attention_chunk_size": 5, "sliding_window": 3,
    "layer_types": ["sliding_attention"] * 4, "per_layer_config": {1: {"intermediate_size": 10}}, "num_kv_heads": 2,
    "multi_query": True, "num_experts": 3, "is_gated_act": True, "global_head_dim": 20, "use_sliding_window": True,
    "sliding_window_pattern": 2,
}  # fmt: skip
METADATA = {"label2id", "id2label", "dtype", "architectures", "transformers_version", "problem_type", "rope_parameters"}


def small(kind) -> dict:
    """Fields of a model of that family that is quick to run."""
    if kind in ("bart", "m2m_100", "marian"):
        more = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
        return {k: v for k, v in (BART | more).items() if k != "forced_eos_token_id" or kind != "m2m_100"}
    if kind in ("t5", "mt5"):
        return dict(T5)
    known = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    more = {"intermediate_size": 20, "num_key_value_heads": 2}
    return BASE | {name: value for name, value in more.items() if name in known} | OWN.get(kind, {})


def counted(config) -> int:
    """The counter over `generate()`, of a new model with attention and experts that the counter sees."""
    config = copy.deepcopy(config)
    config._experts_implementation = "eager"
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager").eval()
    ids, lengths = torch.full((1, PROMPT), 3), {"max_new_tokens": NEW, "min_new_tokens": NEW}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, use_cache=True, **lengths
        )
    return counter.get_total_flops()


def verdict(kind, fields) -> str:
    """What comes of such a configuration: "none" (no such model runs), "equal", "refused", or both numbers."""
    try:
        config = AutoConfig.for_model(kind, **fields)
        found = counted(config)
    except Exception:  # whatever transformers raises for what it cannot build or run
        return "none"
    try:
        expected = request_flops(config, PROMPT, NEW)
    except ValueError as error:
        assert "no exact FLOPs formula" in str(error) or "needs" in str(error) or "no multiple" in str(error)
        return "refused"
    return "equal" if found == expected else f"counted {found}, by the formula {expected}"


def others(value, default) -> list:
    """Another value of a field: of its type, or where it is None some that may be what it takes."""
    value = default if value is None else value
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2 or 1]
    if isinstance(value, str):
        return ["relu", "gated-gelu"]
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [value[::-1], [value[0]] * len(value)]
    return [[0]] if isinstance(value, list) else [2, True, "all"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_field_changed_costs_what_the_formula_says_or_is_refused(kind):
    given, config = small(kind), AutoConfig.for_model(kind, **small(kind))
    assert verdict(kind, given) == "equal"
    found = {}
    for field in dataclasses.fields(config):
        if field.name in METADATA:
            continue
        value = config.layer_types if field.name == "layer_types" else given.get(field.name, field.default)
        for other in others(value, field.default):
            found[field.name, repr(other)] = verdict(kind, given | {field.name: other})
    wrong = {key: text for key, text in found.items() if text.startswith("counted")}
    assert not wrong
    assert sum(text == "equal" for text in found.values()) >= 12
    blamed = {name for (name, _), text in found.items() if text == "refused"} & HARMLESS
    assert not blamed, "a harmless field was refused"


@pytest.mark.parametrize("kind", FAMILIES)
def test_keys_that_are_no_fields_cost_what_the_formula_says_or_are_refused(kind):
    """num_key_value_heads of a GPT-NeoX and attention_chunk_size of a Llama once gave other numbers, in silence."""
    given = small(kind)
    found = {name: verdict(kind, given | {name: value}) for name, value in EXTRAS.items() if name not in given}
    assert {text for text in found.values() if text.startswith("counted")} == set()
    assert "refused" in found.values()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("gpt_neox", "num_key_value_heads", 2),
        ("llama", "attention_chunk_size", 5),
        ("llama", "never_heard_of", 1),
        ("gemma", "use_bidirectional_attention", True),
        ("gemma4_text", "use_bidirectional_attention", "vision"),
        ("mixtral", "output_router_logits", True),
        ("t5", "is_encoder_decoder", False),
    ],
)
def test_what_is_refused_is_named(kind, name, value):
    config = AutoConfig.for_model(kind, **small(kind) | {name: value})
    with pytest.raises(ValueError, match=f"no exact FLOPs formula for model type '{kind}' with {name}="):
        shape_of(config)


def test_layers_of_their_own_are_refused_but_where_they_are_read():
    own = {1: {"intermediate_size": 10}}
    with pytest.raises(ValueError, match="with a per_layer_config that sets intermediate_size"):
        shape_of(LlamaConfig(**small("llama"), per_layer_config=own))
    with pytest.raises(ValueError, match="with a per_layer_config that sets skip"):
        shape_of(LlamaConfig(**small("llama"), per_layer_config={1: {"skip": ["mlp"]}}))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_published_configuration_is_read_as_it_was_written(kind, tmp_path):
    """A file holds keys that no class has as fields, such as its model type; and every class has its defaults."""
    config = AutoConfig.for_model(kind, **small(kind))
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert shape_of(again) == shape_of(config)
    for name, value in (("unk_token_id", 0), ("tokenizer_class", "T"), ("transformers.js_config", {"a": 1})):
        setattr(again, name, value)
    assert shape_of(again) == shape_of(config)
    assert shape_of(AutoConfig.for_model(kind)).layers
