"""Tokenizers as their files describe them, whatever the class makes of it that reads them."""

from __future__ import annotations

import json
import warnings

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

PARTS = ("normalizer", "pre_tokenizer", "decoder")
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def is_as_written(tokenizer: PreTrainedTokenizerBase, name: str) -> bool:
    """Whether a tokenizer of a folder or Hub name follows its tokenizer.json (or has none).

    AutoTokenizer takes the class that tokenizer_config.json names, and some classes put rules of their own in the place
    of those in the file: GPT2Tokenizer drops the splitting of digits of SmolLM2, OLMo 2 and others
    (huggingface/transformers#45920, #44463).
    """
    quiet = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")
    file = cached_file(name, "tokenizer.json", **dict.fromkeys(quiet, False))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or file is None:
        return True
    written = Tokenizer.from_file(file)
    return all(_state(getattr(written, part)) == _state(getattr(backend, part)) for part in PARTS)


def within(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer without the tokens that were added beyond a model's `rows` embeddings, named in a warning.

    Gemma 3 has one for images, which its text models have no row for; files of llama.cpp get one from transformers.
    Tokens of the vocabulary itself are left: that is another model's tokenizer (`models.check_vocabulary`).
    """
    beyond = sorted(token for token, number in tokenizer.get_added_vocab().items() if number >= rows)
    if not beyond:
        return tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if any(number >= rows for number in tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values()):
        return tokenizer
    warnings.warn(
        f"{name}: the tokens {', '.join(beyond)} are left out, as the model has no embeddings for them", stacklevel=2
    )
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
    kept = {key: getattr(tokenizer, key) for key in (*SPECIAL, "chat_template", "model_max_length")}
    kept = {key: value for key, value in kept.items() if value is not None and value not in beyond}
    kept |= {key: getattr(tokenizer, key) for key in ("clean_up_tokenization_spaces", "padding_side")}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **kept)


def _state(part) -> bytes | None:
    return part and part.__getstate__()
