"""Small and large model: built from scratch, or any pair of one kind by name; one tokenizer for both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from cat_core.architectures import check_one_kind, has_encoder, target_outputs
from cat_core.training import model_store
from cat_core.training.depth import LARGE, cut_config, cut_model, named_cut, parse_cut
from cat_core.training.gguf_files import gguf_config, gguf_model, gguf_path, gguf_tokenizer
from cat_core.training.tokenizer_files import is_as_written, within

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


@dataclass(frozen=True)
class ModelSize:
    """Shape of a Llama-type decoder built from scratch: counts; `context` in tokens (prompt plus output)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int | None = None
    intermediate: int | None = None
    context: int = 256

    def __post_init__(self):
        for name in ("hidden", "layers", "heads", "kv_heads", "intermediate", "context"):
            value = getattr(self, name)
            if value is None and name in ("kv_heads", "intermediate"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"model size: {name} is {value!r}; expected a whole number >= 1")
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"model size: hidden {self.hidden} must be a multiple of 2 x heads ({self.heads}), "
                "as rotary embeddings pair the coordinates of a head"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"model size: heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocab_size` entries (never an unknown character), trained on `texts`."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    floor = len(alphabet) + 3
    if vocab_size < floor:
        raise ValueError(f"vocab_size is {vocab_size}; expected >= {floor} (256 bytes and 3 special tokens)")
    tokenizer = Tokenizer(models.BPE())
    # A prefix space makes a word the same token at the start of a target and inside a prompt.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], initial_alphabet=sorted(alphabet), min_frequency=2,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # "</s>" in a text is four characters, not the end of an answer
    )  # fmt: skip


def llama_config(size: ModelSize, vocab_size: int, **more) -> LlamaConfig:
    """The configuration of a model of that size."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=size.hidden, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads or size.heads, intermediate_size=size.intermediate or 4 * size.hidden,
        max_position_embeddings=size.context, tie_word_embeddings=True,
        # The usual 0.02 is 1 / sqrt(hidden) of a model 2,500 wide; a narrow one would hardly start to learn with it.
        initializer_range=size.hidden**-0.5, **more,
    )  # fmt: skip


def build_model(size: ModelSize, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama of that size, the same for the same seed, in float32 on the CPU."""
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = llama_config(size, len(tokenizer), **special)
    # Building a model must not change the caller's random numbers. torch.manual_seed would reseed every GPU
    # as well, and this fork_rng puts back the CPU alone.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LlamaForCausalLM(config)


# ---------------------------------------------------------------- models that have a name
# A name is a folder, a GGUF file (or a folder that holds one), a Hub name (looked for among the fetched models first),
# or "cut N of" one of these.


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that goes with a name, never running code that comes with it; tokenizer.json as it stands.

    Tokens that were added beyond the embeddings of the model are left out, with a warning.
    """
    name = _whole(name_or_path)
    if (file := gguf_path(name)) is not None:
        tokenizer = gguf_tokenizer(file)
    else:
        tokenizer = _load(AutoTokenizer, name, "tokenizer")
        if not is_as_written(tokenizer, name):
            tokenizer = _load(PreTrainedTokenizerFast, name, "tokenizer")
        if tokenizer.get_added_vocab() and (not Path(name).is_dir() or (Path(name) / "config.json").is_file()):
            rows = getattr(load_config(name).get_text_config(), "vocab_size", None)
            tokenizer = within(tokenizer, rows, name) if rows else tokenizer
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name_or_path!r} has no EOS token; set eos_token, as answers end with it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name_or_path: str | Path) -> PreTrainedConfig:
    """The configuration of the model of a name, never running code that comes with it."""
    if (cut := parse_cut(name_or_path)) is not None:
        return cut_config(load_config(_whole(name_or_path)), cut.keep)
    name = _whole(name_or_path)
    file = gguf_path(name)
    return _load(AutoConfig, name, "model") if file is None else gguf_config(file)


def end_ids(name_or_path: str | Path) -> frozenset[int]:
    """The ids that end an answer by a model's generation_config.json; none where there is no such file."""
    try:
        ends = GenerationConfig.from_pretrained(_whole(name_or_path)).eos_token_id
    except OSError:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends or [])


def load_model(name_or_path: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The causal or encoder-decoder language model of a name, as its configuration says.

    safetensors or GGUF (dequantised), never running code from there; float32 unless another `dtype` is asked for.
    """
    if (cut := parse_cut(name_or_path)) is not None:
        whole = load_model(_whole(name_or_path), dtype)
        with quiet():
            return cut_model(whole, cut.keep)
    name, dtype = _whole(name_or_path), dtype or torch.float32
    kind = AutoModelForSeq2SeqLM if has_encoder(load_config(name)) else AutoModelForCausalLM
    if (file := gguf_path(name)) is not None:
        with quiet():
            model, report = gguf_model(kind, file, dtype)
    else:
        options = {"use_safetensors": True, "dtype": dtype, "output_loading_info": True}
        model, report = _load(kind, name, "model", **options)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would only warn, and go on with random weights
        raise ValueError(
            f"the weights of {str(name_or_path)!r} lack {len(missing)} tensors that its config.json asks for "
            f"(first {missing[0]}); the folder is damaged or config.json was changed: get or train it again"
        )
    return model


def load_pair(small: str, large: str) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Both models by name or folder with their common tokenizer, compared before any weights are read.

    small: "cut N of large" is cut out of L. Raises ValueError where the tokenizers differ, or one model is causal and
    the other encoder-decoder.
    """
    small = named_cut(small, large)
    small_tokenizer, large_tokenizer = load_tokenizer(small), load_tokenizer(large)
    check_same_tokenizer(small_tokenizer, large_tokenizer, small, large)
    check_one_kind(load_config(small), load_config(large), small, large)
    pair = load_model(small), load_model(large)
    for model, name in zip(pair, (small, large), strict=True):
        check_vocabulary(model, small_tokenizer, name)
    return *pair, small_tokenizer


def _whole(name_or_path: str | Path) -> str:
    """The model that a name starts from: that which is cut, and its folder where it was fetched."""
    cut = parse_cut(name_or_path)
    if cut is not None and cut.of == LARGE:
        raise ValueError(f"{str(name_or_path)!r}: there is no L here that large could mean; give its name or folder")
    return model_store.local(name_or_path if cut is None else cut.of)


PROBE = "The answer, in 2 words: hello world.\nÄpfel & naïve 漢字\t  (don't)"


def check_same_tokenizer(small, large, small_name: str = "small", large_name: str = "large") -> None:
    """Raise ValueError unless both tokenizers give every token the same id, end answers with the same one, and cut a
    probe into the same tokens: the loss compares id by id, and both models read one row of ids."""
    a, b = small.get_vocab(), large.get_vocab()
    if a == b:
        if small.eos_token_id != large.eos_token_id:
            raise ValueError(
                f"the tokenizers of S ({small_name}) and L ({large_name}) end answers with other tokens: "
                f"{small.eos_token!r} against {large.eos_token!r}; set eos_token alike in both, as one of the models "
                "would never stop"
            )
        if small(PROBE).input_ids != large(PROBE).input_ids:
            raise ValueError(
                f"the tokenizers of S ({small_name}) and L ({large_name}) have the same tokens and cut a text into "
                "others (merges, normalizer, or tokens at the beginning); give both models one tokenizer"
            )
        return
    differing = [t for t in a.keys() | b.keys() if a.get(t) != b.get(t)]
    token = min(differing, key=lambda t: (a.get(t, -1), t))
    raise ValueError(
        f"the tokenizers of S ({small_name}, {len(a)} tokens) and L ({large_name}, {len(b)} tokens) differ "
        f"in {len(differing)} tokens, first {token!r}: id {a.get(token)} against {b.get(token)}; the loss "
        "compares both models token by token, so choose two models of one family, or train both from scratch "
        "with one tokenizer"
    )


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ValueError when a token's id is beyond the model's embeddings, or beyond its output columns.

    More columns than tokens are padding (Qwen2.5: 151,936 or 152,064 columns for 151,665 tokens) and mean nothing.
    """
    needed = 1 + max(tokenizer.get_vocab().values())  # ids may have gaps
    for what, rows in (("output columns", model.get_output_embeddings()), ("embeddings", model.get_input_embeddings())):
        if (columns := rows.weight.shape[0]) < needed:
            raise ValueError(
                f"model {name} has {columns} {what} but its tokenizer has {needed} tokens; "
                "use the tokenizer the model was trained with, or resize the embeddings and train it"
            )


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are a linear layer of the states (`architectures.target_outputs`) and nothing more.

    No capping, no scaling: but for a scale in front of an encoder-decoder model's head, which its states have in them.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return False
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    training = model.training
    model.eval()
    if has_encoder(model):
        one = {"input_ids": ids.repeat(1, 2), "attention_mask": ids.new_ones(1, 8)}
        _, hidden, logits = target_outputs(model, one, 4, states=True)
    else:
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        hidden, logits = output.hidden_states[-1], output.logits
    model.train(training)
    alike = {"rtol": 1e-3, "atol": 1e-4}
    return hidden.shape[-1] == head.in_features and torch.allclose(head(hidden).float(), logits.float(), **alike)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Weights as safetensors, configuration and tokenizer, in the layout that `load_model` reads."""
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def parameter_count(model: PreTrainedModel) -> int:
    """Number of parameters, tied weights counted once."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def quiet():
    """No progress bar while one file is read or written: in a notebook each would be a line of output."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _load(auto_class, name_or_path: str, what: str, **options):
    folder = Path(name_or_path)
    if folder.is_dir():
        config = folder / "config.json"
        if what == "model" and not config.is_file():
            raise FileNotFoundError(f"{folder} has no config.json; expected a folder written by save_pretrained()")
        if what == "model":
            try:
                json.loads(config.read_text(encoding="utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise ValueError(f"{config} is not readable JSON ({error}); the folder is damaged: delete it") from None
    elif folder.is_absolute() or len(folder.parts) > 2 or str(name_or_path).startswith((".", "~")):
        raise FileNotFoundError(f"there is no folder {folder} to load the {what} from; check the path")
    try:
        with quiet():
            return auto_class.from_pretrained(name_or_path, trust_remote_code=False, **options)
    except Exception as error:  # the Hub, the file system and safetensors raise many kinds; we need one line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "" if folder.is_dir() else f"; to fetch it once: {model_store.fetch_command(name_or_path)}"
        raise ValueError(
            f"cannot load the {what} {str(name_or_path)!r}: {reason[:300]}; expected a folder written by "
            "save_pretrained() with safetensors weights, or a Hub name reachable from here that needs no "
            f"remote code{hint}"
        ) from None
