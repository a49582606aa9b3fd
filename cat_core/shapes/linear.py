"""Families in which some layers have linear attention: a state of one size, instead of keys that grow.

Counted are the matrix products of the reference in PyTorch that transformers runs where no kernels are installed, as
its counter counts them: a row is read in chunks of 64 tokens, the last one padded, and each chunk has the products
inside it and those with the state; the triangular systems are solved, not multiplied, and a single token on top of
others changes the state element by element, which is no product. The short convolution is counted too.
"""

from cat_core.shapes.layers import Layer, Shape, State

CHUNK = 64


def qwen3_5(config) -> Shape:
    """Text of Qwen3.5: gated delta nets, between them layers of full attention with a gate as wide as the queries."""
    hidden, feed_forward = config.hidden_size, 3 * config.hidden_size * config.intermediate_size
    heads, keys, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    full = Layer(2 * (hidden * size * (3 * heads + 2 * keys) + feed_forward), 4 * heads * size, 2 * keys * size)
    values, key, value = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
    channels, kernel = 2 * config.linear_num_key_heads * key + values * value, config.linear_conv_kernel_dim
    # keys with keys, queries with keys, scores with values; both with the old state, keys with values for the new one
    chunk = 2 * values * (CHUNK * CHUNK * (2 * key + value) + 3 * CHUNK * key * value)
    state = State(channels, kernel, chunk, channels * kernel + values * key * value, CHUNK)
    projections = hidden * (channels + 2 * values * value + 2 * values)
    delta = Layer(2 * (projections + feed_forward), 0, 0, state=state)
    table = {"full_attention": full, "linear_attention": delta}
    kinds = config.layer_types[: config.num_hidden_layers]
    if unknown := set(kinds) - set(table):
        raise ValueError(f"no exact FLOPs formula for layers of type {', '.join(sorted(unknown))}")
    layers = tuple(table[kind] for kind in kinds)
    untrained = "the gradient of linear attention solves and multiplies in ways that have no formula here"
    return Shape(layers, 2 * hidden * config.vocab_size, untrained=untrained if delta in layers else "")
