"""Small models by depth: which layers are kept, and that the cut is the large model without the others."""

import copy
from fractions import Fraction

import pytest
import torch
from tiny_families import TEXTS, tiny_model, tokenizer_for
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from cat_core.flops import request_flops, shape_of
from cat_core.training.configs import DataConfig, TrainConfig, describes_size, shape_config
from cat_core.training.depth import (
    cut_config,
    cut_layers,
    cut_model,
    cut_sentence,
    kept_layers,
    named_cut,
    parse_cut,
)
from cat_core.training.models import load_config, load_model, load_pair, load_tokenizer, save_model
from cat_core.training.pairs import read_pairs

FACTS = {facts.config["model_type"]: facts.config for facts in read_pairs().models.values()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_first_last_and_evenly_between():
    for total in range(1, 41):
        for keep in range(1, total + 1):
            kept = cut_layers(total, keep)
            exact = [Fraction(i * (total - 1), max(keep - 1, 1)) for i in range(keep)]
            assert kept == [int(place + Fraction(1, 2)) for place in exact]
            assert kept[0] == 0 and (keep == 1 or kept[-1] == total - 1)
            steps = {after - before for before, after in zip(kept, kept[1:])}
            assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)
        assert cut_layers(total, total) == list(range(total))
    assert cut_layers(30, 6) == [0, 6, 12, 17, 23, 29]
    for keep in (0, -1, 31):
        with pytest.raises(ValueError, match="of 30 layers cannot be cut to .*; expected 1 to 30"):
            cut_layers(30, keep)


def test_names_of_cuts():
    assert parse_cut("hidden 8, layers 1, heads 1") is None and parse_cut("owner/cut") is None
    assert (parse_cut("cut 6 of a b/c").keep, parse_cut(" cut 6  of a b/c ").of) == (6, "a b/c")
    assert not describes_size("cut 6 of large")
    assert named_cut("cut 6 of large", "owner/name") == "cut 6 of owner/name"
    assert named_cut("owner/small", "owner/name") == "owner/small"
    for text in ("cut six of x", "cut 6 x", "cut 0 of x", "cut 6 of", "cut", "cut 2 of cut 3 of x"):
        with pytest.raises(ValueError, match="expected 'cut N of NAME'") as caught:
            parse_cut(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="large is 'cut 3 of x', itself cut"):
        named_cut("cut 2 of large", "cut 3 of x")
    with pytest.raises(ValueError, match="no L here that large could mean"):
        load_config("cut 2 of large")
    with pytest.raises(ValueError, match="is a named model: its shape is not in the record"):
        shape_config("cut 2 of large", 64, 300)


def by_hand(model, kept):
    """The whole model with its list of layers shortened in place: another way to the same thing."""
    model = copy.deepcopy(model)
    decoder = model.get_decoder()
    name = "h" if hasattr(decoder, "h") else "layers"
    layers = [getattr(decoder, name)[i] for i in kept]
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
    setattr(decoder, name, torch.nn.ModuleList(layers))
    for key in ("layer_types", "no_rope_layers"):
        if getattr(model.config, key, None):
            setattr(model.config, key, [getattr(model.config, key)[i] for i in kept])
    model.config.num_hidden_layers = len(kept)
    return model


def others(tokenizer):
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    given = {"vocab_size": len(tokenizer)} | special
    smollm3 = SmolLM3Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, no_rope_layers=[1, 0, 1, 0, 0], initializer_range=0.2, **given,
    )  # fmt: skip
    gpt2 = GPT2Config(n_embd=16, n_layer=5, n_head=2, n_positions=64, initializer_range=0.2, **given)
    opt = OPTConfig(
        hidden_size=16, ffn_dim=24, num_hidden_layers=5, num_attention_heads=2, word_embed_proj_dim=16, init_std=0.2,
        max_position_embeddings=64, **given,
    )  # fmt: skip
    return {"smollm3": SmolLM3ForCausalLM(smollm3), "gpt2": GPT2LMHeadModel(gpt2), "opt": OPTForCausalLM(opt)}


@pytest.mark.parametrize("kind", [*(kind for kind in FACTS if kind != "t5"), "smollm3", "gpt2", "opt"])
def test_a_cut_is_the_large_model_without_the_other_layers(kind, tmp_path):
    tokenizer = tokenizer_for({"model_type": kind})
    if kind in FACTS:
        kinds = ["sliding_attention", "sliding_attention", "full_attention", "full_attention", "sliding_attention"]
        more = {"layer_types": kinds} if kind == "gemma3_text" else {}
        large = tiny_model(FACTS[kind], tokenizer, layers=5, **more)
    else:
        large = others(tokenizer)[kind].eval()
    before = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    small, kept = cut_model(large, 3), [0, 2, 4]
    assert all(torch.equal(before[name], tensor) for name, tensor in large.state_dict().items())
    assert type(small) is type(large) and small.config.num_hidden_layers == 3 and not small.training
    ids = torch.tensor([tokenizer(" ".join(TEXTS[:3])).input_ids[:20]])
    assert ids.shape[1] > 12  # longer than the sliding window
    expected = by_hand(large, kept)(ids, use_cache=False).logits
    torch.testing.assert_close(small(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
    given = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    cached, plain = (small.generate(ids, use_cache=use, **given) for use in (True, False))
    assert torch.equal(cached, plain)
    assert shape_of(small.config).layers == tuple(shape_of(large.config).layers[i] for i in kept)
    assert request_flops(cut_config(large.config, 3), 9, 4) == request_flops(small.config, 9, 4)
    save_model(small, tokenizer, tmp_path)
    again = load_model(str(tmp_path))
    torch.testing.assert_close(again(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def test_both_halves_of_an_encoder_decoder_model_are_cut():
    tokenizer = tokenizer_for(FACTS["t5"])
    large = tiny_model(FACTS["t5"], tokenizer, layers=4)
    small = cut_model(large, 2)
    assert kept_layers(large.config, 2) == {"num_layers": [0, 3], "num_decoder_layers": [0, 3]}
    assert cut_sentence(large.config, 2) == (
        "S keeps layers 0 and 3 of the encoder (of 0 to 3) and layers 0 and 3 of the decoder (of 0 to 3)."
    )
    whole = copy.deepcopy(large)
    for half in (whole.encoder, whole.decoder):
        half.block = torch.nn.ModuleList([half.block[0], half.block[3]])
        for number, block in enumerate(half.block):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = number
    ids = torch.tensor([tokenizer("the cat sat on the mat").input_ids])
    given = {"input_ids": ids, "decoder_input_ids": torch.tensor([[0, 5, 7, 9]])}
    torch.testing.assert_close(small(**given).logits, whole(**given, use_cache=False).logits, rtol=1e-4, atol=1e-4)
    shapes = shape_of(small.config), shape_of(large.config)
    assert len(shapes[0].layers) == len(shapes[0].encoder.layers) == 2 and shapes[0].layers == shapes[1].layers[:2]
    given = {"input_ids": ids, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    assert torch.equal(small.generate(**given), small.generate(**given, use_cache=False))


def test_bart_is_cut_in_both_halves():
    config = BartConfig(
        vocab_size=50, d_model=16, encoder_layers=3, decoder_layers=4, encoder_attention_heads=2, init_std=0.2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
    )  # fmt: skip
    large = BartForConditionalGeneration(config).eval()
    small = cut_model(large, 2)
    assert (small.config.encoder_layers, small.config.decoder_layers) == (2, 2)
    layers = small.get_decoder().layers
    assert torch.equal(layers[1].fc1.weight, large.get_decoder().layers[3].fc1.weight)


def test_what_cannot_be_cut_is_refused_in_one_line():
    tokenizer = tokenizer_for({"model_type": "gpt2"})
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=4, n_head=2, n_positions=32, initializer_range=0.5,
        scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot be cut to 2 layers: its layers depend on their") as it:
        cut_model(GPT2LMHeadModel(config), 2)
    assert "\n" not in str(it.value)
    with pytest.raises(ValueError, match="a model of 4 layers cannot be cut to 5"):
        cut_config(config, 5)
    with pytest.raises(ValueError, match="'gemma3' has parts beside its text model"):
        cut_config(Gemma3Config(), 2)


def test_names_of_cuts_go_where_names_of_models_go(tmp_path, monkeypatch):
    tokenizer = tokenizer_for({"model_type": "llama"})
    large = tiny_model(FACTS["llama"], tokenizer, layers=4)
    save_model(large, tokenizer, tmp_path / "large")
    name = f"cut 2 of {tmp_path / 'large'}"
    assert load_config(name).num_hidden_layers == 2 and load_tokenizer(name).get_vocab() == tokenizer.get_vocab()
    small, again, _ = load_pair("cut 2 of large", str(tmp_path / "large"))
    assert [len(model.model.layers) for model in (small, again)] == [2, 4]
    assert torch.equal(small.model.layers[1].mlp.up_proj.weight, large.model.layers[3].mlp.up_proj.weight)
    assert next(load_model(name, torch.bfloat16).parameters()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="a model of 4 layers cannot be cut to 9"):
        load_model(f"cut 9 of {tmp_path / 'large'}")

    def identity(model):
        return TrainConfig(DataConfig("mini-wmt", {"train": 4, "test": 4}), model).identity()["model"]

    first = identity(name)
    assert first["layers"] == {"num_hidden_layers": [0, 3]} and first["of"] == identity(str(tmp_path / "large"))
    (tmp_path / "large").rename(tmp_path / "moved")
    assert identity(f"cut 2 of {tmp_path / 'moved'}") == first, "by content, not by place"
    assert identity(f"cut 3 of {tmp_path / 'moved'}") != first
    save_model(tiny_model(FACTS["llama"], tokenizer, layers=4, seed=1), tokenizer, tmp_path / "moved")
    assert identity(f"cut 2 of {tmp_path / 'moved'}") != first
