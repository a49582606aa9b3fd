"""GGUF files (llama.cpp's) as models: dequantised by transformers, with the tokenizer that the file describes.

What transformers gets wrong is set right: how a byte-level tokenizer cuts a text before it merges, and a token that it
adds of its own. Needs the small package `gguf`.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from functools import lru_cache
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from cat_core.training.tokenizer_files import within

try:  # the cuts that this version of transformers knows
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS as KNOWN_CUTS
except ImportError:
    KNOWN_CUTS = {}

SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Values of `tokenizer.ggml.pre`: every digit stands alone, else GPT-2's cuts (llama.cpp, src/llama-vocab.cpp)."""
GPT2_CUTS = ("gpt-2", "gpt2")
TOKENIZER = "tokenizer.ggml."


def gguf_path(name: str | Path) -> Path | None:
    """The GGUF file that a name means: a file, or a folder with one such file and no config.json; else None.

    Raises FileNotFoundError where the file is missing, ValueError where a folder holds several.
    """
    path = Path(name)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} to load a model from; check the path")
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"{path} holds {len(files)} GGUF files ({files[0].name}, {files[1].name}, ..): name the one to load, "
            "such as folder/model.gguf (a model split over several files cannot be read)"
        )
    return files[0] if files else None


def gguf_config(path: Path) -> PreTrainedConfig:
    """The configuration of a GGUF file, as that of a model that is not quantised."""
    stat = path.stat()
    return copy.deepcopy(_config(path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=8)
def _config(path: Path, _size: int, _time: int) -> PreTrainedConfig:
    # seconds a file, as transformers reads the whole vocabulary for it
    return _plain_config(_read(path, "configuration", AutoConfig.from_pretrained))


def gguf_model(kind: type, path: Path, dtype: torch.dtype):
    """(model, loading report): the weights of a GGUF file, dequantised to `dtype`, as a model that can be saved.

    kind: the Auto class to load with.
    """
    options = {"dtype": dtype, "output_loading_info": True}
    if hasattr(transformers, "GgufConfig"):  # or some machines would keep the blocks packed, and train nothing
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    packed, report = _read(path, "model", kind.from_pretrained, **options)
    config, weights = _plain_config(packed.config), packed.state_dict()
    return type(packed).from_pretrained(None, config=config, state_dict=weights, dtype=dtype), report


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file; a warning where it cuts texts in a way that is not known here."""
    tokenizer = _read(path, "tokenizer", AutoTokenizer.from_pretrained)
    about = metadata(path)
    if about.get(f"{TOKENIZER}model") == "gpt2":
        cuts = about.get(f"{TOKENIZER}pre")
        if cuts in SINGLE_DIGITS and cuts not in KNOWN_CUTS:
            digits = pre_tokenizers.Digits(individual_digits=True)
            words = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
        elif cuts not in KNOWN_CUTS and cuts not in GPT2_CUTS:
            warnings.warn(
                f"{path.name} cuts texts as {cuts!r}, which is not known here: its tokenizer may give other tokens "
                "than the model was trained on; take the original model's safetensors folder",
                stacklevel=2,
            )
    rows = about.get(f"{TOKENIZER}tokens", 0)
    with warnings.catch_warnings():  # transformers adds an unknown token of its own where the file names none
        warnings.simplefilter("ignore")
        tokenizer = within(tokenizer, rows, path.name) if rows else tokenizer
    return tokenizer


def metadata(path: Path) -> dict:
    """The keys and values of a GGUF file, of a list its length. Raises ValueError in one line."""
    stat = path.stat()
    return _metadata(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _metadata(path: str, _size: int, _time: int) -> dict:
    check_gguf_package()
    import gguf

    try:
        fields = gguf.GGUFReader(path).fields.items()
        return {key: field.contents() if len(field.data) <= 1 else len(field.data) for key, field in fields}
    except Exception as error:  # numpy's and its own, of many kinds
        raise ValueError(f"{path} is no GGUF file that can be read ({str(error)[:200]}); get it again") from None


def check_gguf_package() -> None:
    """Raise ValueError where the package `gguf` is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("reading a GGUF file needs the package gguf: pip install gguf")


def _read(path: Path, what: str, load, **options):
    about = metadata(path)
    try:
        return load(str(path.parent), gguf_file=path.name, trust_remote_code=False, **options)
    except Exception as error:  # of many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"cannot read the {what} in {path} (architecture {about.get('general.architecture')!r}): {reason[:300]}; "
            "transformers does not read every GGUF: take the safetensors folder of the model instead"
        ) from None


def _plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    return config
