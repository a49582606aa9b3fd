"""Models and tokenizers: built from scratch, saved and loaded, and every folder that must be refused."""

import json
import random
import shutil
import tempfile
from functools import cache

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast

from cat_core.training.configs import DataConfig, TrainConfig
from cat_core.training.models import (
    ModelSize,
    build_model,
    check_same_tokenizer,
    check_vocabulary,
    llama_config,
    load_model,
    load_pair,
    load_tokenizer,
    parameter_count,
    save_model,
    train_tokenizer,
)

TEXTS = ["the cat sat on the mat, the small model asks the large one"] * 3 + ["naïve café: être, Straße, 東京"] * 3
TINY = ModelSize(hidden=16, layers=2, heads=2, kv_heads=1, intermediate=24, context=32)
SMALLER = ModelSize(hidden=8, layers=1, heads=1, context=32)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A name that is no folder must fail here at once, not after retries."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tokenizer():
    return shared_tokenizer()


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A folder with a tiny Llama and its tokenizer; copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(build_model(TINY, tokenizer, seed=0), tokenizer, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def one_line(caught, limit=600):
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < limit
    error = caught.value
    assert error.__suppress_context__ or error.__context__ is None, "the depths show in the traceback"
    return text


@cache
def shared_tokenizer():
    return train_tokenizer(TEXTS, 320)


@cache
def reloaded_tokenizer():
    """Through a whole model folder: config.json takes part in choosing the tokenizer's class."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(build_model(SMALLER, shared_tokenizer(), 0), shared_tokenizer(), folder)
        return load_tokenizer(folder)


# ---------------------------------------------------------------- tokenizer


@given(st.text())
@example("")
@example(" leading")
@example("  two leading")
@example("\n\ttabs \r\n and \x00 control \u2028 \u200d")
@example("\ufeff e\u0301 é ﬁ 𝕏 👩‍👩‍👧 東京 \U0010ffff")
@example("trailing   ")
@example("<s> a question</s><pad>")  # what looks like a special token in a text is text
@settings(max_examples=150, deadline=None)
def test_decoding_gives_the_text_back_after_its_prefix_space(text):
    tokenizer = shared_tokenizer()
    expected = text if text.startswith(" ") or not text else " " + text
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == expected
    assert all(i > 2 for i in ids), "no BOS, EOS or padding among them"
    assert len(ids) <= len(expected.encode())


@given(st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_reloaded_tokenizer_is_the_same(text):
    fresh, reloaded = shared_tokenizer(), reloaded_tokenizer()
    ids = fresh(text)["input_ids"]
    assert reloaded(text)["input_ids"] == ids and reloaded.decode(ids) == fresh.decode(ids)


def test_tokenizer_properties(tokenizer):
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert 259 < len(tokenizer) <= 320
    # A word is one token, the same at the start of a target and inside a prompt.
    assert tokenizer("the")["input_ids"] == [tokenizer.bos_token_id, tokenizer("cat the")["input_ids"][-1]]
    assert tokenizer.get_vocab() == train_tokenizer(iter(TEXTS), 320).get_vocab(), "training is deterministic"
    text = "the small cat: Straße"
    assert tokenizer(text)["input_ids"] == train_tokenizer(TEXTS, 320)(text)["input_ids"]


def test_the_smallest_tokenizer_is_the_bytes():
    tokenizer = train_tokenizer(TEXTS, 259)
    assert len(tokenizer) == 259
    assert len(tokenizer("é")["input_ids"]) == 4  # BOS, the space and two bytes
    with pytest.raises(ValueError, match=r"vocab_size is 258; expected >= 259 \(256 bytes and 3 special"):
        train_tokenizer(TEXTS, 258)


def test_mismatched_tokenizers_are_named_with_what_to_do(tokenizer):
    check_same_tokenizer(tokenizer, train_tokenizer(TEXTS, 320))
    other = train_tokenizer(["zebra zebra quagga quagga"] * 5, 320)
    with pytest.raises(ValueError, match=r"of S \(here, \d+ tokens\) and L \(there, \d+ tokens\) differ") as caught:
        check_same_tokenizer(tokenizer, other, "here", "there")
    text = one_line(caught)
    assert "one family" in text and "train both from scratch" in text
    a, b = tokenizer.get_vocab(), other.get_vocab()
    count = sum(a.get(token) != b.get(token) for token in a.keys() | b.keys())
    assert f"in {count} tokens" in text


def test_the_same_tokens_with_other_ids_are_a_mismatch(tokenizer):
    class Swapped:
        def get_vocab(self):
            vocab = tokenizer.get_vocab()
            vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
            return vocab

    a, b = (tokenizer.get_vocab()[x] for x in "ab")
    with pytest.raises(ValueError, match=f"differ in 2 tokens, first 'a': id {a} against {b};"):
        check_same_tokenizer(tokenizer, Swapped())


def test_a_vocabulary_larger_than_the_model_is_refused(tokenizer):
    model = build_model(SMALLER, train_tokenizer(TEXTS, 259), seed=0)
    expected = f"model tiny has 259 output columns but its tokenizer has {len(tokenizer)} tokens; use the tokenizer"
    with pytest.raises(ValueError, match=expected) as caught:
        check_vocabulary(model, tokenizer, "tiny")
    one_line(caught)
    check_vocabulary(build_model(SMALLER, tokenizer, seed=0), train_tokenizer(TEXTS, 259), "padded")  # wider is fine


# ---------------------------------------------------------------- models from scratch


def test_build_model_has_the_size_asked_for(tokenizer):
    model = build_model(TINY, tokenizer, seed=3)
    assert type(model) is LlamaForCausalLM
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert (config.num_key_value_heads, config.intermediate_size, config.max_position_embeddings) == (
        1,
        24,
        32,
    )
    assert config.vocab_size == len(tokenizer)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    attention = 16 * 16 + 2 * 16 * 8 + 16 * 16
    per_layer = attention + 3 * 16 * 24 + 2 * 16
    assert parameter_count(model) == len(tokenizer) * 16 + 2 * per_layer + 16
    default = build_model(SMALLER, tokenizer, seed=3).config
    assert (default.num_key_value_heads, default.intermediate_size) == (1, 32)
    logits = model(input_ids=torch.tensor([tokenizer("the cat")["input_ids"]])).logits
    assert logits.shape[-1] == len(tokenizer) and torch.isfinite(logits).all()


def test_a_seed_decides_the_weights_and_nothing_else_moves(tokenizer):
    torch.manual_seed(99), np.random.seed(99), random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = build_model(TINY, tokenizer, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]
    torch.manual_seed(7)
    again, other = (build_model(TINY, tokenizer, seed=s).state_dict() for s in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    key = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[key], other[key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_building_leaves_the_gpu_generator_alone(tokenizer):
    before = torch.cuda.get_rng_state()
    build_model(TINY, tokenizer, seed=1)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_building_seeds_the_cpu_generator_alone(tokenizer, monkeypatch):
    def seeds_every_device(*_):
        raise AssertionError("torch.manual_seed reseeds all GPUs, and nothing puts them back")

    monkeypatch.setattr(torch, "manual_seed", seeds_every_device)
    build_model(SMALLER, tokenizer, seed=1)


@pytest.mark.parametrize("name", ["hidden", "layers", "heads", "kv_heads", "intermediate", "context"])
@pytest.mark.parametrize("value", [0, -2, 1.5, "16", True])
def test_sizes_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"model size: {name} is {value!r}; expected a whole number >= 1") as caught:
        ModelSize(**({"hidden": 16, "layers": 1, "heads": 2} | {name: value}))
    one_line(caught)


@pytest.mark.parametrize("name", ["hidden", "layers", "heads", "context"])
def test_only_two_sizes_may_be_left_out(name):
    with pytest.raises(ValueError, match=f"{name} is None"):
        ModelSize(**({"hidden": 16, "layers": 1, "heads": 2} | {name: None}))


def test_sizes_fit_each_other():
    with pytest.raises(ValueError, match=r"hidden 18 must be a multiple of 2 x heads \(4\).*rotary"):
        ModelSize(hidden=18, layers=1, heads=4)
    with pytest.raises(ValueError, match=r"hidden 12 must be a multiple of 2 x heads \(4\)"):
        ModelSize(hidden=12, layers=1, heads=4)  # a head of 3 coordinates cannot be paired
    with pytest.raises(ValueError, match="heads 4 must be a multiple of kv_heads 3"):
        ModelSize(hidden=16, layers=1, heads=4, kv_heads=3)


# ---------------------------------------------------------------- save and load


def test_round_trip_is_bitwise(tokenizer, saved):
    assert (saved / "model.safetensors").is_file()
    assert not list(saved.glob("*.bin")) and not list(saved.glob("*.pt")) and not list(saved.glob("*.py"))
    model, loaded = build_model(TINY, tokenizer, seed=0), load_model(str(saved))
    assert type(loaded) is LlamaForCausalLM and not loaded.training
    assert next(loaded.parameters()).dtype == torch.float32
    a, b = model.state_dict(), loaded.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    ids = torch.tensor([load_tokenizer(str(saved))("the small model")["input_ids"]])
    assert torch.equal(model.eval()(ids).logits, loaded(ids).logits)


def test_dtype_is_a_choice(saved):
    assert next(load_model(saved, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_only_safetensors_are_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot load the model .*no file named model.safetensors") as caught:
        load_model(str(folder))
    assert "with safetensors weights" in one_line(caught)


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_half_written_weights_are_one_line(folder, keep):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match="cannot load the model .*copy.*deserializing header") as caught:
        load_model(str(folder))
    one_line(caught)


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    weights = load_file(folder / "model.safetensors")
    gone = [name for name in weights if name.startswith("model.layers.1.mlp")]
    save_file({k: v for k, v in weights.items() if k not in gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lack 3 tensors.*first model.layers.1.mlp.down_proj") as caught:
        load_model(str(folder))
    one_line(caught)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 25}))
    with pytest.raises(ValueError, match="cannot load the model") as caught:
        load_model(str(folder))
    one_line(caught)


@pytest.mark.parametrize("text", ['{"model_type": "llama", "hid', "", "\x80\xff"])
def test_a_damaged_configuration_is_named(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.json is not readable JSON .*damaged") as caught:
        load_model(str(folder))
    one_line(caught)


def test_a_damaged_tokenizer_is_one_line(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    with pytest.raises(ValueError, match="cannot load the tokenizer") as caught:
        load_tokenizer(str(folder))
    one_line(caught)


def test_a_folder_without_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json; expected a folder written by") as caught:
        load_model(str(tmp_path))
    one_line(caught)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_missing_folder_is_not_taken_for_a_hub_name(load, tmp_path):
    for missing in (
        str(tmp_path / "nowhere"),
        tmp_path / "nowhere",
        "./nowhere",
        "../nowhere",
        "a/b/nowhere",
        "~/no",
    ):
        with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere|~/no") as caught:
            load(missing)
        one_line(caught)


@pytest.mark.parametrize("load, what", [(load_model, "model"), (load_tokenizer, "tokenizer")])
def test_an_unreachable_hub_name_is_one_line(load, what):
    with pytest.raises(ValueError, match=f"cannot load the {what} 'no-such/pair': ") as caught:
        load("no-such/pair")
    assert "or a Hub name reachable from here" in one_line(caught)


def test_a_tokenizer_without_eos_is_refused_and_without_padding_uses_eos(folder):
    settings_file = folder / "tokenizer_config.json"
    full = json.loads(settings_file.read_text())
    settings_file.write_text(json.dumps({k: v for k, v in full.items() if k != "pad_token"}))
    assert load_tokenizer(str(folder)).pad_token == "</s>"
    settings_file.write_text(json.dumps({k: v for k, v in full.items() if k != "eos_token"}))
    with pytest.raises(ValueError, match="has no EOS token; set eos_token") as caught:
        load_tokenizer(str(folder))
    one_line(caught)


# ---------------------------------------------------------------- code that comes with a model is never run


def plant_code(folder):
    """A module in the model's folder that leaves a file behind when it is imported or asked for anything."""
    witness = folder / "executed"
    (folder / "planted.py").write_text(
        f"open({str(witness)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class C(LlamaConfig): model_type = 'planted'\n"
        "class M(LlamaForCausalLM): config_class = C\n"
        "class T(PreTrainedTokenizerFast): pass\n"
    )
    return witness


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


AUTO_MAP = {
    "AutoConfig": "planted.C",
    "AutoModelForCausalLM": "planted.M",
    "AutoTokenizer": ["planted.T", "planted.T"],
}


@pytest.mark.parametrize("model_type", ["llama", "planted"])
@pytest.mark.parametrize("answer", ["yes", ""])
def test_remote_code_is_never_run(folder, model_type, answer, monkeypatch, saved):
    witness = plant_code(folder)
    rewrite(folder / "config.json", auto_map=AUTO_MAP, model_type=model_type, architectures=["M"])
    rewrite(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="T")
    # Not even when somebody would say yes to a question.
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    for load in (load_model, load_tokenizer, lambda f: load_pair(f, f), lambda f: load_pair(str(saved), f)):
        try:
            load(str(folder))
        except ValueError as error:
            assert "\n" not in str(error)
        assert not witness.exists(), "code from the folder was executed"
    if model_type == "llama":  # a known type has a class of its own, so the planted one is not needed
        assert type(load_model(str(folder))) is LlamaForCausalLM
    else:
        with pytest.raises(ValueError, match="cannot load the model.*needs no remote code"):
            load_model(str(folder))


def test_the_planted_code_would_leave_its_mark(folder):
    """The test above can fail: told to trust, transformers does run the code."""
    from transformers import AutoConfig

    witness = plant_code(folder)
    rewrite(folder / "config.json", auto_map=AUTO_MAP, model_type="planted")
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert witness.exists()


# ---------------------------------------------------------------- pairs


def test_load_pair(saved, tokenizer, tmp_path):
    save_model(build_model(SMALLER, tokenizer, seed=5), tokenizer, tmp_path / "small")
    small, large, common = load_pair(str(tmp_path / "small"), str(saved))
    assert (small.config.hidden_size, large.config.hidden_size) == (8, 16)
    assert common.get_vocab() == tokenizer.get_vocab()


def test_a_gpt2_pair_by_folder(tokenizer, tmp_path):
    for name, width in (("small", 8), ("large", 16)):
        # As published models do: more columns than tokens.
        config = GPT2Config(vocab_size=len(tokenizer) + 5, n_embd=width, n_layer=1, n_head=2, n_positions=32)
        save_model(GPT2LMHeadModel(config), tokenizer, tmp_path / name)
    small, large, common = load_pair(str(tmp_path / "small"), str(tmp_path / "large"))
    assert isinstance(small, GPT2LMHeadModel) and isinstance(large, GPT2LMHeadModel)
    ids = common("the cat", return_tensors="pt")["input_ids"]
    assert small(ids).logits.shape == large(ids).logits.shape == (1, ids.shape[1], len(tokenizer) + 5)


def test_a_pair_with_two_tokenizers_is_refused_before_weights_are_read(saved, folder):
    train_tokenizer(["zebra zebra quagga"] * 5, 320).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="differ in .* one family") as caught:
        load_pair(str(saved), str(folder))
    assert f"S ({saved}," in one_line(caught, limit=900) and f"L ({folder}," in str(caught.value)


def test_a_pair_whose_tokenizer_is_too_large_is_refused(saved, tmp_path):
    tokenizer = load_tokenizer(str(saved))
    save_model(build_model(SMALLER, train_tokenizer(TEXTS, 259), seed=0), tokenizer, tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"narrow has 259 output columns but its tokenizer has") as caught:
        load_pair(str(tmp_path / "narrow"), str(saved))
    one_line(caught)


def test_tokenizers_with_other_ends_or_other_cuts_are_a_mismatch():
    a, b = train_tokenizer(TEXTS, 320), train_tokenizer(TEXTS, 320)
    b.eos_token = a.pad_token or a.convert_ids_to_tokens(0)
    assert a.get_vocab() == b.get_vocab()
    with pytest.raises(ValueError, match="end answers with other tokens: .*would never stop") as caught:
        check_same_tokenizer(a, b)
    one_line(caught)
    b = train_tokenizer(TEXTS, 320)
    b.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    with pytest.raises(ValueError, match="have the same tokens and cut a text into others") as caught:
        check_same_tokenizer(a, b)
    one_line(caught)


# ---------------------------------------------------------------- tokenizers of the Hub


def digits_tokenizer():
    """As SmolLM2's: single digits, then GPT-2's cuts."""
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, words])
    raw.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(["a  1", "in 2024  and  1999", "\n\n2"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
def test_tokenizer_json_is_read_as_it_stands(named, tmp_path):
    """Repositories name GPT2Tokenizer in tokenizer_config.json, which puts rules of its own in the place of these."""
    written = digits_tokenizer()
    save_model(build_model(SMALLER, written, 0), written, tmp_path)
    rewrite(tmp_path / "tokenizer_config.json", tokenizer_class=named)
    loaded = load_tokenizer(str(tmp_path))
    for text in ("a  12", "\n\n1. b", "in 2024  and 1999", "<|endoftext|>"):
        assert loaded(text).input_ids == written(text).input_ids, text
    assert len(written("a  12").input_ids) == 4, "both blanks are one token: GPT-2's cuts would give five"
    assert (loaded.eos_token, loaded.bos_token) == ("<|endoftext|>", "<|endoftext|>")
    check_same_tokenizer(loaded, written)


def test_padded_matrices_and_tokens_without_a_row(tokenizer, tmp_path):
    """Columns beyond the tokenizer are padding (Qwen2.5); a token beyond the rows is left out (Gemma 3's of images)."""
    wide = llama_config(SMALLER, len(tokenizer) + 7, eos_token_id=2)
    save_model(LlamaForCausalLM(wide), tokenizer, tmp_path / "wide")
    model = load_model(str(tmp_path / "wide"))
    check_vocabulary(model, load_tokenizer(str(tmp_path / "wide")), "wide")
    save_model(model, load_tokenizer(str(tmp_path / "wide")), tmp_path / "again")
    assert load_model(str(tmp_path / "again")).get_output_embeddings().weight.shape[0] == len(tokenizer) + 7
    more = reload(tokenizer, tmp_path)
    more.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    more.chat_template = "{{ messages[0]['content'] }}"
    assert len(more) == len(tokenizer) + 1
    save_model(build_model(SMALLER, tokenizer, 0), more, tmp_path / "image")
    with pytest.warns(UserWarning, match="tokens <image_soft_token> are left out, as the model has no embeddings"):
        loaded = load_tokenizer(str(tmp_path / "image"))
    check_vocabulary(load_model(str(tmp_path / "image")), loaded, "image")
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.chat_template == more.chat_template
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<s>", "</s>", "<pad>")
    for text in ("the small <image_soft_token> cat", "the small</s>"):
        ids = loaded(text, add_special_tokens=False).input_ids
        assert max(ids) < len(tokenizer) and loaded.decode(ids).strip() == text


def test_ids_with_gaps_are_counted_by_the_highest(tokenizer):
    class Gaps:
        def get_vocab(self):
            return {"a": 0, "b": 900}

    with pytest.raises(ValueError, match="model tiny has .* output columns but its tokenizer has 901 tokens"):
        check_vocabulary(build_model(SMALLER, tokenizer, seed=0), Gaps(), "tiny")


def reload(tokenizer, folder):
    tokenizer.save_pretrained(folder / "tokenizer")
    return load_tokenizer(str(folder / "tokenizer"))


# ---------------------------------------------------------------- fetched models


def test_a_hub_name_is_looked_for_among_the_fetched_models_first(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_MODELS", str(tmp_path))
    with pytest.raises(ValueError, match="to fetch it once: python -m cat_core.pairs fetch owner/tiny") as caught:
        load_model("owner/tiny")
    one_line(caught)
    folder = shutil.copytree(saved, tmp_path / "owner--tiny")
    with pytest.raises(ValueError, match="cannot load the model 'owner/tiny'"):
        load_model("owner/tiny")  # without its origin it is no fetched model
    (folder / "origin.json").write_text("{}")
    small, large, _ = load_pair("cut 1 of owner/tiny", "owner/tiny")
    assert [model.config.num_hidden_layers for model in (small, large)] == [1, 2]

    def identity(name):
        return TrainConfig(DataConfig("mini-wmt", {"train": 4, "test": 4}), name).identity()["model"]

    assert identity("owner/tiny") == identity(str(saved)), "by content, without its origin"
    assert identity("owner/other") == {"name": "owner/other"}
