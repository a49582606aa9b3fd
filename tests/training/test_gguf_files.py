"""GGUF files as models: the weights, what llama.cpp's own tokenizer says of the same file, and what is refused."""

import json
import random
import shutil
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from llama_server import plain_pair, serve, write_gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cat_core.training.configs import DataConfig, TrainConfig
from cat_core.training.gguf_files import KNOWN_CUTS, SINGLE_DIGITS
from cat_core.training.models import load_config, load_model, load_pair, load_tokenizer, save_model

gguf = pytest.importorskip("gguf")
ALPHABET = "ab12  \n\t.,'sé漢²٣ \u00a0Ω"


@pytest.fixture(scope="module")
def pair():
    return plain_pair()


@pytest.fixture(scope="module")
def file(pair, tmp_path_factory):
    """(the GGUF file of S, S itself, its tokenizer)"""
    small, _, tokenizer = pair
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(small, tokenizer, path)
    return path, small, tokenizer


def one_line(caught):
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


def test_the_weights_are_those_of_the_file_and_can_be_saved(file, tmp_path):
    path, small, tokenizer = file
    for name in (str(path), str(path.parent)):  # the file, or a folder with one
        model = load_model(name)
        assert type(model) is LlamaForCausalLM and not model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        expected, got = small.state_dict(), model.state_dict()
        assert expected.keys() == got.keys()
        for key in expected:
            torch.testing.assert_close(got[key], expected[key], rtol=0, atol=1e-6)
    assert load_config(path).num_hidden_layers == 2 and not hasattr(load_config(path), "quantization_config")
    assert load_tokenizer(path).get_vocab() == tokenizer.get_vocab()
    save_model(model, load_tokenizer(path), tmp_path / "saved")
    assert "quantization" not in (tmp_path / "saved" / "config.json").read_text()
    again = load_model(str(tmp_path / "saved"))
    ids = torch.tensor([[1, 5, 9, 30]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    loss = model.train()(ids, labels=ids).loss  # it can be trained
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    small, large, _ = load_pair("cut 1 of large", str(path))
    assert len(small.model.layers) == 1 and small.config.num_hidden_layers == 1


def test_quantised_blocks_are_read_as_llama_cpp_writes_them(pair, tmp_path):
    """Q8_0: 32 numbers share a scale; the package's own dequantisation is the oracle."""
    small, _, tokenizer = pair
    write_gguf(small, tokenizer, tmp_path / "full.gguf")
    reader = gguf.GGUFReader(str(tmp_path / "full.gguf"))
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    blocks = gguf.quantize(np.array(tensor.data), gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    original = gguf.GGUFWriter.add_tensor

    def quantised(self, name, array, **more):
        if name == tensor.name:
            return original(self, name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        return original(self, name, array, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", quantised)
        write_gguf(small, tokenizer, tmp_path / "packed.gguf")
    weight = load_model(str(tmp_path / "packed.gguf")).model.layers[1].mlp.up_proj.weight
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=1e-6)
    assert not torch.equal(weight, small.model.layers[1].mlp.up_proj.weight)


def spaced_tokenizer():
    """Byte-level BPE without a prefix space, with merges of blanks: where the cuts before merging show."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(["a  b", "ab   ba\n\nb", " a\n\n\nb", "ab  \n"] * 20, trainer)
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


@pytest.mark.parametrize("pre, begins", [*((pre, False) for pre in SINGLE_DIGITS), ("smollm", True), ("gpt-2", True)])
def test_texts_are_cut_as_llama_cpp_cuts_them(pre, begins, pair, tmp_path):
    """Also after a save: the rules are in tokenizer.json, and BOS is added where the file says so."""
    model, tokenizer = pair[0], spaced_tokenizer()
    model = LlamaForCausalLM(type(model.config)(**model.config.to_dict() | {"vocab_size": len(tokenizer)}))
    path = tmp_path / "tiny.gguf"
    write_gguf(model, tokenizer, path, pre, begins)
    server = serve(path)
    draw = random.Random(0)
    texts = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 20))) for _ in range(60)] + ["a  12", "\n\n1. b"]
    loaded = load_tokenizer(path)
    save_model(model, loaded, tmp_path / "saved")
    for read in (loaded, load_tokenizer(str(tmp_path / "saved"))):
        for text in texts:
            body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
            request = urllib.request.Request(f"{server.listening_address}/tokenize", body)
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=30) as reply:
                assert read(text).input_ids == json.loads(reply.read())["tokens"], repr(text)


def test_cuts_that_are_not_known_are_said(pair, tmp_path):
    small, _, tokenizer = pair
    write_gguf(small, tokenizer, tmp_path / "odd.gguf", pre="viking")
    assert "viking" not in KNOWN_CUTS
    with pytest.warns(UserWarning, match="odd.gguf cuts texts as 'viking', which is not known here"):
        load_tokenizer(tmp_path / "odd.gguf")
    write_gguf(small, tokenizer, tmp_path / "known.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(tmp_path / "known.gguf")


def test_a_model_is_known_by_the_content_of_its_file(file, tmp_path):
    def identity(path):
        data = DataConfig("mini-wmt", {"train": 4, "test": 4})
        return TrainConfig(data, str(path)).identity()["model"]

    path, large = file[0], tmp_path / "copy.gguf"
    shutil.copy(path, large)
    assert identity(path) == identity(large) == identity(tmp_path)
    assert identity(path)["weights"] == "dequantised to float32"
    large.write_bytes(large.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    assert identity(large) != identity(path)


def test_what_cannot_be_read_is_refused_in_one_line(file, pair, tmp_path, monkeypatch):
    small, _, tokenizer = pair
    for architecture in ("gptneox", "granite", "smollm3", "olmo2"):
        write_gguf(small, tokenizer, tmp_path / f"{architecture}.gguf", architecture=architecture)
        for load in (load_config, load_model, load_tokenizer):
            with pytest.raises(ValueError, match=f"architecture '{architecture}'.*take the safetensors") as caught:
                load(tmp_path / f"{architecture}.gguf")
            one_line(caught)
    with pytest.raises(ValueError, match="holds 4 GGUF files .*name the one to load") as caught:
        load_model(str(tmp_path))
    one_line(caught)
    with pytest.raises(FileNotFoundError, match="there is no file .*gone.gguf") as caught:
        load_model(str(tmp_path / "gone.gguf"))
    one_line(caught)
    for content in (b"", b"GGUF", b"no model at all" * 9, file[0].read_bytes()[:2000]):
        (tmp_path / "broken.gguf").write_bytes(content)
        with pytest.raises(ValueError, match="is no GGUF file that can be read|cannot read the") as caught:
            load_model(str(tmp_path / "broken.gguf"))
        one_line(caught)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "other").mkdir()
    shutil.copy(file[0], tmp_path / "other" / "a.gguf")
    with pytest.raises(ValueError, match="needs the package gguf: pip install gguf") as caught:
        load_model(str(tmp_path / "other"))
    one_line(caught)
