"""What a pass of tokens through a shape costs; the conventions are those of `cat_core.flops`."""

from cat_core.shapes.layers import Shape


def keys_of(cached: int, tokens: int, window: int | None) -> int:
    """Keys that each of `tokens` tokens multiplies in one pass on top of `cached` ones, masked ones included."""
    return tokens + (cached if window is None else min(cached, window - 1))


def attended_pairs(cached: int, tokens: int, window: int | None) -> int:
    """Query-key pairs that causal attention keeps: the sum of min(cached + i, window) over i = 1 .. tokens."""
    growing = tokens if window is None else min(max(window - cached, 0), tokens)
    return growing * cached + growing * (growing + 1) // 2 + (tokens - growing) * (window or 0)


def extend(
    shape: Shape, cached: int, tokens: int, rows: int, source: int = 0, *, attended=False, single=False, kept=True
) -> int:
    """Feeding `tokens` tokens on top of `cached` ones, with `rows` logit rows and `source` encoded tokens.

    attended: for the keys that tokens may attend to; single: one token at a time, where nothing masked is multiplied;
    kept: with a cache.
    """
    total = (shape.embedding_flops + shape.closing_flops) * tokens + shape.head_flops * rows
    for layer in shape.layers:
        read = rows if layer.lean else tokens
        if attended or single:
            keys = attended_pairs(cached + tokens - read, read, layer.window)
        else:
            keys = read * keys_of(cached, tokens, layer.window)
        total += layer.token_flops * read + layer.key_flops * (keys + read * source)
        if layer.state is not None and tokens:
            steps, each = (tokens, 1) if single else (1, tokens)
            total += steps * layer.state.flops(cached, each, kept)
    return total


def prompt_pass(shape: Shape, prompt: int, attended: bool = False) -> tuple[int, int, int]:
    """(FLOPs up to the first logit row, tokens then in the decoder's cache, tokens in the encoder's)."""
    if shape.encoder is None:
        return extend(shape, 0, prompt, 1, attended=attended), prompt, 0
    return extend(shape.encoder, 0, prompt, prompt) + extend(shape, 0, 1, 1, prompt), 1, prompt


def whole(name: str, value, least: int = 1) -> int:
    """`value` as a Python int >= least; bool, float and anything smaller are refused by name."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    value = value.__index__()
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def source_of(shape: Shape, tokens) -> int:
    """Encoded tokens, checked: at least one where there is an encoder, none where there is not."""
    tokens = whole("source_tokens", tokens, 0)
    if (tokens > 0) != (shape.encoder is not None):
        expected = "0, as the model has no encoder" if shape.encoder is None else "the length of the encoded prompt"
        raise ValueError(f"source_tokens is {tokens}, expected {expected}")
    return tokens
