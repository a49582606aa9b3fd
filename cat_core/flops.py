"""What a query costs: floating-point operations of decoder models, exact integers from the configuration.

Convention: one multiply-add = 2 FLOPs; only matrix products count (projections, attention scores and values,
output head), as `torch.utils.flop_counter.FlopCounterMode` counts them with eager attention. Norms,
activations, biases, rotary embeddings and softmax are left out; they are of lower order. A query is charged
for itself alone: padding that a batch adds around it is an accident of batching and is not counted.

H = hidden size, I = intermediate size, n_q, n_kv = query and key-value heads, d = head size, V = vocabulary:
    per layer and token   2 [H n_q d + 2 H n_kv d + n_q d H + 3 H I]
    attention             4 n_q d x keys, per layer and query token (a prefill multiplies the full square)
    head                  2 H V per logit row
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes that decide a decoder's cost; all counts are per query token."""

    layers: int
    layer_flops: int  # projections and feed-forward, one layer, one token
    key_flops: int  # attention scores and values, one layer, one token against one key
    head_flops: int  # one logit row


def _gated_decoder(config) -> Shape:
    """Llama-type decoder: grouped-query attention and a gated feed-forward of three matrices."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    projections = hidden * heads * size + 2 * hidden * key_heads * size + heads * size * hidden
    layer = 2 * (projections + 3 * hidden * config.intermediate_size)
    return Shape(config.num_hidden_layers, layer, 4 * heads * size, 2 * hidden * config.vocab_size)


FAMILIES: dict[str, Callable[[object], Shape]] = {
    "llama": _gated_decoder,
    "mistral": _gated_decoder,
    "qwen2": _gated_decoder,
    "qwen3": _gated_decoder,
}
"""`config.model_type` -> the sizes of that family. An entry goes in with its test against the counter."""


def shape_of(config) -> Shape:
    """The cost-deciding sizes of a transformers configuration; ValueError for what was never checked."""
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise ValueError(f"no exact FLOPs formula for model type {kind!r}: supported are {', '.join(sorted(FAMILIES))}")
    if getattr(config, "sliding_window", None) is not None:
        raise ValueError(
            f"no exact FLOPs formula for sliding-window attention (window {config.sliding_window}): "
            "set sliding_window to None if the context is shorter than the window"
        )
    return FAMILIES[kind](config)


def _positive(name: str, value) -> int:
    """`value` as a Python int >= 1; bool, float and anything smaller are refused by name."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    value = value.__index__()
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def _extend(shape: Shape, cached: int, tokens: int, head_rows: int) -> int:
    """One forward pass of `tokens` tokens on top of `cached` ones, with `head_rows` logit rows."""
    attention = shape.key_flops * tokens * (cached + tokens)
    return shape.layers * (shape.layer_flops * tokens + attention) + shape.head_flops * head_rows


def prefill_flops(config, prompt_tokens: int) -> int:
    """FLOPs of reading a prompt of `prompt_tokens` tokens, with the output head at its last position only."""
    return _extend(shape_of(config), 0, _positive("prompt_tokens", prompt_tokens), 1)


def decode_flops(config, keys: int) -> int:
    """FLOPs of feeding one token that attends to `keys` positions, itself included."""
    return _extend(shape_of(config), _positive("keys", keys) - 1, 1, 1)


def request_flops(config, prompt_tokens: int, new_tokens: int) -> int:
    """FLOPs of one `generate()` call with a key-value cache: `new_tokens` tokens (end-of-sequence included)
    generated from a prompt of `prompt_tokens` tokens (beginning-of-sequence included).

    prefill(P) + sum over j = 1 .. M-1 of decode(P + j): the last token is produced, never fed back. Raises
    ValueError for unknown model types and for counts below 1.
    """
    shape = shape_of(config)
    prompt, new = _positive("prompt_tokens", prompt_tokens), _positive("new_tokens", new_tokens)
    steps = new - 1
    keys = steps * prompt + steps * (steps + 1) // 2
    decoding = shape.layers * (shape.layer_flops * steps + shape.key_flops * keys) + shape.head_flops * steps
    return _extend(shape, 0, prompt, 1) + decoding


def option_flops(config, prefix_tokens: int, option_tokens: Sequence[int]) -> int:
    """FLOPs of scoring answer options on one prompt, as `cascade.CascadeRunner` does it.

    prefix_tokens: length of the prompt, read once, head at its last position (that row scores the first token
    of every option). option_tokens: length of each option *with* its end-of-sequence token; of an option of n
    tokens the first n - 1 are fed in one pass on top of the prompt, with one logit row each. Options are
    charged by their own length, as the runner pads none of them. Raises ValueError for unknown model types,
    counts below 1 and an empty sequence.
    """
    shape = shape_of(config)
    prefix = _positive("prefix_tokens", prefix_tokens)
    lengths = [_positive("option_tokens", n) for n in option_tokens]
    if not lengths:
        raise ValueError("option_tokens is empty: give the token count of every option")
    return _extend(shape, 0, prefix, 1) + sum(_extend(shape, prefix, n - 1, n - 1) for n in lengths)


def training_flops(config, tokens: int) -> int:
    """FLOPs of one training step on one sequence of `tokens` tokens: forward with a logit row at every
    position, and a backward of twice that (every parameter trained, nothing recomputed)."""
    tokens = _positive("tokens", tokens)
    return 3 * _extend(shape_of(config), 0, tokens, tokens)
