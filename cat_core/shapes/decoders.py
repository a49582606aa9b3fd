"""Families whose decoder reads prompt and answer in one row: attention with grouped queries, windows, experts."""

from collections.abc import Sequence

from cat_core.shapes.layers import Layer, Shape


def windows(config) -> list[int | None]:
    """Sliding window of every layer, None for full attention: the rule by which transformers chooses the caches."""
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * config.num_hidden_layers
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"no exact FLOPs formula for layers of type {', '.join(sorted(unknown))}")
    return [window if kinds[i] == "sliding_attention" else None for i in range(config.num_hidden_layers)]


def decoder(config, feed_forward: int | Sequence[int]) -> Shape:
    """Decoder with grouped-query attention; feed_forward: weights that a token meets there, perhaps layer by layer."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = getattr(config, "head_dim", None) or hidden // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    projections = 2 * hidden * size * (heads + key_heads)
    spans = windows(config)
    inner = [feed_forward] * len(spans) if isinstance(feed_forward, int) else feed_forward
    layers = [
        Layer(2 * (projections + weights), 4 * heads * size, 2 * key_heads * size, window)
        for weights, window in zip(inner, spans, strict=True)
    ]
    return Shape(tuple(layers), 2 * hidden * config.vocab_size)


def gated(config) -> Shape:
    return decoder(config, 3 * config.hidden_size * config.intermediate_size)


def plain(config) -> Shape:
    return decoder(config, 2 * config.hidden_size * config.intermediate_size)


def stablelm(config) -> Shape:
    """Rotary positions of one number a head would be made two, which widens queries and keys."""
    size = config.hidden_size // config.num_attention_heads
    factor = (config.rope_parameters or {}).get("partial_rotary_factor", 1.0)
    if (rotary := int(size * factor)) % 2:
        raise ValueError(f"no exact FLOPs formula for rotary positions of {rotary} of {size} numbers a head: it is odd")
    return gated(config)


def gpt2(config) -> Shape:
    return decoder(config, 2 * config.n_embd * (config.n_inner or 4 * config.n_embd))


def opt(config) -> Shape:
    """Embeddings and head may have a width of their own (OPT-350m), with a projection from and one to it."""
    hidden, width = config.hidden_size, config.word_embed_proj_dim
    projection = 0 if width == hidden else 2 * hidden * width
    layers = decoder(config, 2 * hidden * config.ffn_dim).layers
    return Shape(layers, 2 * width * config.vocab_size, projection, projection)


def falcon(config) -> Shape:
    """One key head (Falcon-7B), as many as queries (Falcon-RW), or groups (`new_decoder_architecture`: 40B, 180B),
    whose keys and values the cache keeps once for every query head."""
    hidden, heads, groups = config.hidden_size, config.num_attention_heads, config.num_kv_heads
    size = hidden // heads
    grouped, single = config.new_decoder_architecture, config.multi_query
    if not grouped and not single and groups != heads:
        raise ValueError(f"a falcon model with num_kv_heads={groups} of {heads} needs new_decoder_architecture")
    keys = groups if grouped else 1 if single else heads
    weights = 2 * hidden * size * (heads + keys) + 2 * hidden * config.ffn_hidden_size
    layer = Layer(2 * weights, 4 * hidden, 2 * (heads if grouped else keys) * size)
    return Shape((layer,) * config.num_hidden_layers, 2 * hidden * config.vocab_size)


def mixtral(config) -> Shape:
    expert = 3 * config.hidden_size * config.intermediate_size
    return decoder(config, config.hidden_size * config.num_local_experts + config.num_experts_per_tok * expert)


def qwen3_moe(config) -> Shape:
    """Some layers may have no experts, but one gated feed-forward."""
    hidden, step = config.hidden_size, config.decoder_sparse_step
    dense = 3 * hidden * config.intermediate_size
    sparse = hidden * config.num_experts + config.num_experts_per_tok * 3 * hidden * config.moe_intermediate_size
    without = set(config.mlp_only_layers)
    without = without if config.num_experts else set(range(config.num_hidden_layers))
    return decoder(
        config, [dense if i in without or (i + 1) % step else sparse for i in range(config.num_hidden_layers)]
    )


def gemma4(config) -> Shape:
    """Text of Gemma 4: full layers with heads of their own, keys that last layers take from earlier ones, a vector
    for each layer and token, experts beside the dense feed-forward."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    width, count = config.hidden_size_per_layer_input, config.num_hidden_layers
    sizes = [config.num_experts or 0, config.top_k_experts or 0, config.moe_intermediate_size or 0]
    number, active, inner = sizes if config.enable_moe_block else (0, 0, 0)
    experts = hidden * number + active * 3 * hidden * inner
    double, alike = config.use_double_wide_mlp, config.attention_k_eq_v  # read even where no layer asks for them
    layers = []
    for number, window in enumerate(windows(config)):
        own = config.per_layer(number)
        size, keys = own.head_dim, own.num_key_value_heads
        lean = number >= count - config.num_kv_shared_layers
        values = 0 if lean else 1 if alike and window is None else 2
        wide = 2 if lean and double else 1
        weights = hidden * size * (2 * heads + values * keys) + 3 * hidden * wide * config.intermediate_size
        weights += experts + 2 * hidden * width
        layers.append(Layer(2 * weights, 4 * heads * size, 0 if lean else 2 * keys * size, window, lean))
    return Shape(tuple(layers), 2 * hidden * config.vocab_size, 2 * hidden * count * width)
