"""What a query costs: floating-point operations and bytes of language models, exact integers from the configuration.

Convention: one multiply-add = 2 FLOPs; only matrix products count (projections, attention scores and values,
experts and their router, output head), as `torch.utils.flop_counter.FlopCounterMode` counts them with eager attention,
eager experts and a dynamic cache. Norms, activations, biases, rotary embeddings and softmax are left out; they are of
lower order. A query is charged for itself alone: padding that a batch adds around it is an accident of batching and is
not counted.

H = hidden size, I = intermediate size, n_q, n_kv = query and key-value heads, d = head size, V = vocabulary,
E = experts, k of them active:
    attention projections   2 [H n_q d + 2 H n_kv d + n_q d H], per layer and token
    feed-forward            2 [3 H I] where it is gated, else 2 [2 H I]; experts 2 [H E + k 3 H I]
    attention               4 n_q d x keys, per layer and query token
    head                    2 H V per logit row

Keys are those that are *multiplied*. A pass of n tokens on top of c cached ones multiplies n + c keys for each of them,
and masks what lies ahead afterwards; of a sliding window of w tokens the cache keeps w - 1, so n + min(c, w - 1). Keys
that a token may *attend* to are fewer, min(position, w): a kernel that skips masked blocks gets down to them at best.
One at a time, as in decoding, both are the same.

An encoder-decoder model reads the prompt in its encoder; the decoder starts from one token, computes keys and values of
the encoder's output once, and every token it is fed multiplies all of them in every layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layer:
    """What decides the cost of one layer.

    token_flops: projections and feed-forward of one token; key_flops: scores and values of one token against one key;
    key_numbers: numbers that the cache keeps of a token; window: keys that a token sees at most, itself included.
    """

    token_flops: int
    key_flops: int
    key_numbers: int
    window: int | None = None


@dataclass(frozen=True)
class Shape:
    """What decides the cost of a model; of an encoder-decoder model this is the decoder.

    head_flops: one logit row; embedding_flops: projections of a token before and after all layers;
    encoder: its "head" makes the keys and values that all decoder layers use.
    """

    layers: tuple[Layer, ...]
    head_flops: int
    embedding_flops: int = 0
    encoder: "Shape | None" = None


# ---------------------------------------------------------------- families


def _windows(config) -> list[int | None]:
    """Sliding window of every layer, None for full attention: the rule by which transformers chooses the caches."""
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * config.num_hidden_layers
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"no exact FLOPs formula for layers of type {', '.join(sorted(unknown))}")
    return [window if kinds[i] == "sliding_attention" else None for i in range(config.num_hidden_layers)]


def _decoder(config, feed_forward: int | Sequence[int]) -> Shape:
    """Decoder with grouped-query attention; feed_forward: weights that a token meets there, perhaps layer by layer."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    projections = 2 * hidden * size * (heads + key_heads)
    windows = _windows(config)
    inner = [feed_forward] * len(windows) if isinstance(feed_forward, int) else feed_forward
    layers = [
        Layer(2 * (projections + weights), 4 * heads * size, 2 * key_heads * size, window)
        for weights, window in zip(inner, windows, strict=True)
    ]
    return Shape(tuple(layers), 2 * hidden * config.vocab_size)


def _gated(config) -> Shape:
    return _decoder(config, 3 * config.hidden_size * config.intermediate_size)


def _plain(config) -> Shape:
    return _decoder(config, 2 * config.hidden_size * config.intermediate_size)


def _gpt2(config) -> Shape:
    return _decoder(config, 2 * config.n_embd * (config.n_inner or 4 * config.n_embd))


def _opt(config) -> Shape:
    """Embeddings and head may have a width of their own (OPT-350m), with a projection from and one to it."""
    hidden, width = config.hidden_size, config.word_embed_proj_dim
    projections = 0 if width == hidden else 2 * 2 * hidden * width
    layers = _decoder(config, 2 * hidden * config.ffn_dim).layers
    return Shape(layers, 2 * width * config.vocab_size, projections)


def _mixtral(config) -> Shape:
    expert = 3 * config.hidden_size * config.intermediate_size
    return _decoder(config, config.hidden_size * config.num_local_experts + config.num_experts_per_tok * expert)


def _qwen3_moe(config) -> Shape:
    """Some layers may have no experts, but one gated feed-forward."""
    hidden, step = config.hidden_size, config.decoder_sparse_step
    dense = 3 * hidden * config.intermediate_size
    sparse = hidden * config.num_experts + config.num_experts_per_tok * 3 * hidden * config.moe_intermediate_size
    without = set(config.mlp_only_layers) if config.num_experts else set(range(config.num_hidden_layers))
    return _decoder(
        config, [dense if i in without or (i + 1) % step else sparse for i in range(config.num_hidden_layers)]
    )


def _t5(config) -> Shape:
    hidden, inner = config.d_model, config.num_heads * config.d_kv
    feed_forward = (3 if config.is_gated_act else 2) * hidden * config.d_ff
    keys = 4 * inner, 2 * inner
    reading = Layer(2 * (4 * hidden * inner + feed_forward), *keys)
    writing = Layer(2 * (6 * hidden * inner + feed_forward), *keys)  # cross-attention: queries and outputs on top
    encoder = Shape((reading,) * config.num_layers, config.num_decoder_layers * 2 * 2 * hidden * inner)
    return Shape((writing,) * config.num_decoder_layers, 2 * hidden * config.vocab_size, encoder=encoder)


FAMILIES: dict[str, Callable[[object], Shape]] = {
    "gemma": _gated,
    "gemma2": _gated,
    "gemma3_text": _gated,
    "gpt2": _gpt2,
    "gpt_neox": _plain,
    "llama": _gated,
    "mistral": _gated,
    "mixtral": _mixtral,
    "olmo2": _gated,
    "opt": _opt,
    "phi": _plain,
    "qwen2": _gated,
    "qwen3": _gated,
    "qwen3_moe": _qwen3_moe,
    "smollm3": _gated,
    "t5": _t5,
}
"""`config.model_type` -> the sizes of that family. An entry goes in with its test against the counter."""


def shape_of(config) -> Shape:
    """The cost-deciding sizes of a transformers configuration; ValueError for what was never checked."""
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise ValueError(f"no exact FLOPs formula for model type {kind!r}: supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[kind](config)


# ---------------------------------------------------------------- passes


def _whole(name: str, value, least: int = 1) -> int:
    """`value` as a Python int >= least; bool, float and anything smaller are refused by name."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    value = value.__index__()
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def _multiplied(cached: int, tokens: int, window: int | None) -> int:
    """Query-key pairs of one pass of `tokens` tokens on top of `cached` ones, masked ones included."""
    return tokens * (tokens + (cached if window is None else min(cached, window - 1)))


def _attended(cached: int, tokens: int, window: int | None) -> int:
    """Query-key pairs that causal attention keeps: the sum of min(cached + i, window) over i = 1 .. tokens."""
    growing = tokens if window is None else min(max(window - cached, 0), tokens)
    return growing * cached + growing * (growing + 1) // 2 + (tokens - growing) * (window or 0)


def _extend(shape: Shape, cached: int, tokens: int, rows: int, source: int = 0, pairs=_multiplied) -> int:
    """Feeding `tokens` tokens on top of `cached` ones, with `rows` logit rows and `source` encoded tokens.

    With pairs=_attended also the cost of feeding them one at a time, where nothing masked is multiplied.
    """
    total = shape.embedding_flops * tokens + shape.head_flops * rows
    for layer in shape.layers:
        keys = pairs(cached, tokens, layer.window) + tokens * source
        total += layer.token_flops * tokens + layer.key_flops * keys
    return total


def _prompt(shape: Shape, prompt: int, pairs=_multiplied) -> tuple[int, int, int]:
    """(FLOPs up to the first logit row, tokens then in the decoder's cache, tokens in the encoder's)."""
    if shape.encoder is None:
        return _extend(shape, 0, prompt, 1, pairs=pairs), prompt, 0
    return _extend(shape.encoder, 0, prompt, prompt) + _extend(shape, 0, 1, 1, prompt), 1, prompt


def _source(shape: Shape, tokens) -> int:
    """Encoded tokens, checked: at least one where there is an encoder, none where there is not."""
    tokens = _whole("source_tokens", tokens, 0)
    if (tokens > 0) != (shape.encoder is not None):
        expected = "0, as the model has no encoder" if shape.encoder is None else "the length of the encoded prompt"
        raise ValueError(f"source_tokens is {tokens}, expected {expected}")
    return tokens


# ---------------------------------------------------------------- what is charged


def prefill_flops(config, prompt_tokens: int) -> int:
    """FLOPs of reading a prompt of `prompt_tokens` tokens, with the output head at its last position only; of an
    encoder-decoder model: of encoding it and feeding the decoder its first token."""
    return _prompt(shape_of(config), _whole("prompt_tokens", prompt_tokens))[0]


def decode_flops(config, keys: int, source_tokens: int = 0) -> int:
    """FLOPs of feeding one token to a decoder that has then read `keys` tokens, itself included.

    A layer with a sliding window multiplies no more keys than that. source_tokens: length of the prompt in the encoder,
    where there is one. Raises ValueError for a source without encoder, and the other way round.
    """
    shape = shape_of(config)
    return _extend(shape, _whole("keys", keys) - 1, 1, 1, _source(shape, source_tokens))


def request_flops(config, prompt_tokens: int, new_tokens: int, *, attended: bool = False) -> int:
    """FLOPs of one `generate()` call with a key-value cache: `new_tokens` tokens (end-of-sequence included)
    generated from a prompt of `prompt_tokens` tokens (beginning-of-sequence included).

    prefill(P) + sum over j = 1 .. M-1 of decode(P + j): the last token is produced, never fed back. attended: charge
    the prompt only for keys its tokens may attend to, not for the whole square. Raises ValueError for unknown model
    types and for counts below 1.
    """
    shape = shape_of(config)
    prompt, steps = _whole("prompt_tokens", prompt_tokens), _whole("new_tokens", new_tokens) - 1
    total, cached, source = _prompt(shape, prompt, _attended if attended else _multiplied)
    return total + _extend(shape, cached, steps, steps, source, _attended)


def option_flops(config, prefix_tokens: int, option_tokens: Sequence[int]) -> int:
    """FLOPs of scoring answer options on one prompt, as `cascade.CascadeRunner` does it.

    prefix_tokens: length of the prompt, read once, head at its last position (that row scores the first token
    of every option). option_tokens: length of each option *with* its end-of-sequence token; of an option of n
    tokens the first n - 1 are fed in one pass on top of the prompt, with one logit row each. Options are
    charged by their own length, as the runner pads none of them. Raises ValueError for unknown model types,
    counts below 1 and an empty sequence.
    """
    shape = shape_of(config)
    total, cached, source = _prompt(shape, _whole("prefix_tokens", prefix_tokens))
    lengths = [_whole("option_tokens", n) for n in option_tokens]
    if not lengths:
        raise ValueError("option_tokens is empty: give the token count of every option")
    return total + sum(_extend(shape, cached, n - 1, n - 1, source) for n in lengths)


def sequence_flops(config, prompt_tokens: int, target_tokens: int) -> int:
    """FLOPs of one forward pass of a training sequence, with a logit row for each target token: what a teacher costs.

    A decoder reads prompt and target in one pass; the prompt may be empty, which gives a row at every position. An
    encoder reads the prompt, the decoder the target. Raises ValueError for unknown model types and for lower counts.
    """
    shape = shape_of(config)
    prompt = _whole("prompt_tokens", prompt_tokens, 0 if shape.encoder is None else 1)
    target = _whole("target_tokens", target_tokens)
    if shape.encoder is None:
        return _extend(shape, 0, prompt + target, target)
    return _extend(shape.encoder, 0, prompt, prompt) + _extend(shape, 0, target, target, prompt)


def training_flops(config, prompt_tokens: int, target_tokens: int, *, frozen_head: bool = False) -> int:
    """FLOPs of one training step on one sequence (as in `sequence_flops`): a forward and a backward of twice that,
    for the gradients of inputs and of weights, nothing recomputed.

    frozen_head: the output matrix is not trained, and its gradient not computed. Frozen input embeddings cost the same
    where a trained norm comes first; looking them up costs nothing. Errors are those of `sequence_flops`.
    """
    whole = 3 * sequence_flops(config, prompt_tokens, target_tokens)
    return whole - frozen_head * shape_of(config).head_flops * target_tokens


@dataclass(frozen=True)
class Traffic:
    """Bytes that one decoded token moves: weights are read once for a whole batch (but for experts, which differ from
    query to query), keys and values for each of its queries."""

    weights: int
    cache: int


def decode_bytes(
    config,
    keys: int,
    source_tokens: int = 0,
    *,
    weights: torch.dtype = torch.bfloat16,
    cache: torch.dtype | None = None,
) -> Traffic:
    """Bytes that `decode_flops` with the same arguments has to move: matrices it multiplies and cached numbers.

    weights, cache: number types (default of the cache: that of the weights). Every weight of a matrix is one
    multiply-add, so there are half as many as FLOPs; norms, biases and embedding rows are left out. Its own key and
    value are among the `keys`. Errors are those of `decode_flops`.
    """
    shape = shape_of(config)
    keys, source = _whole("keys", keys), _source(shape, source_tokens)
    matrices = (sum(layer.token_flops for layer in shape.layers) + shape.embedding_flops + shape.head_flops) // 2
    kept = sum(layer.key_numbers * (min(keys, layer.window or keys) + source) for layer in shape.layers)
    return Traffic(matrices * weights.itemsize, kept * (cache or weights).itemsize)


def first_layer_flops(config, prompt_tokens: int) -> int:
    """FLOPs of the first layer that reads a prompt: no other layer and no output head runs. Counted as in `flops`."""
    shape, prompt = shape_of(config), _whole("prompt_tokens", prompt_tokens)
    layer = (shape.encoder or shape).layers[0]
    return layer.token_flops * prompt + layer.key_flops * prompt**2
