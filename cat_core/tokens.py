"""Token conventions, the same in training and inference, and the plan of batches.

A prompt is [BOS] + its tokens (BOS where the tokenizer has one), an answer is its tokens + [EOS]; the two are
tokenised separately and joined. A prompt for an encoder has the special tokens that the tokenizer's own template gives
a text: T5's ends with EOS, as in its training. A prompt that a causal model goes on from never does.
"""

from collections.abc import Sequence

import numpy as np


def _token_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts without special tokens."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def encode_prompts(tokenizer, texts: Sequence[str], encoder: bool = False) -> list[list[int]]:
    """Token ids of prompts: [BOS] + tokens, with BOS only where the tokenizer defines one.

    encoder: they are read by the encoder of an encoder-decoder model, and follow the tokenizer's own template.
    """
    if encoder:
        return tokenizer(list(texts))["input_ids"] if texts else []
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [head + ids for ids in _token_ids(tokenizer, texts)]


def encode_targets(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of answers: tokens + [EOS]. Raises ValueError when the tokenizer has no EOS."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token: set one, as every answer ends with it")
    tail = [tokenizer.eos_token_id]
    return [ids + tail for ids in _token_ids(tokenizer, texts)]


def encode_prompt(tokenizer, text: str, encoder: bool = False) -> list[int]:
    """Token ids of one prompt; see `encode_prompts`."""
    return encode_prompts(tokenizer, [text], encoder)[0]


def encode_target(tokenizer, text: str) -> list[int]:
    """Token ids of one answer, EOS included; see `encode_targets`."""
    return encode_targets(tokenizer, [text])[0]


def aligned(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], pad: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Token ids and mask, int64 [B, T], of rows whose prompts end, and whose targets begin, at one column; that column.

    Prompts are padded on the left and targets on the right.
    """
    before, after = max(map(len, prompts)), max(map(len, targets))
    ids = np.full((len(prompts), before + after), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, (prompt, target) in enumerate(zip(prompts, targets)):
        first, last = before - len(prompt), before + len(target)
        ids[row, first:before], ids[row, before:last] = prompt, target
        mask[row, first:last] = 1
    return ids, mask, before


def plan_batches(lengths: Sequence[tuple[int, int, int]], batch_tokens: int) -> list[list[int]]:
    """Indices of the items of each batch; a pure function of its arguments.

    lengths: per item (prompt tokens, tokens that follow, rows: 1, or the number of options). Longest prompts
    first, so that little is padded and memory runs out in the first minute or never; ties keep their order.
    Rows x (longest prompt + longest rest) stays within `batch_tokens`; a larger item is a batch by itself.
    """
    batches: list[list[int]] = []
    width = rest = rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i][0], i)):
        prompt, more, count = lengths[index]
        if batches and (rows + count) * (width + max(rest, more)) <= batch_tokens:
            batches[-1].append(index)
            rest, rows = max(rest, more), rows + count
        else:
            batches.append([index])
            width, rest, rows = prompt, more, count
    return batches
