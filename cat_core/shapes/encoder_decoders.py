"""Families that read the prompt in an encoder and write the answer with a decoder, which looks back at it."""

from cat_core.shapes.layers import Layer, Shape


def _pair(hidden: int, inner: int, reading: int, writing: int, encoders: int, decoders: int, vocab: int) -> Shape:
    """hidden: width of a token; inner: of all heads together; reading, writing: feed-forward weights of a layer."""
    keys = 4 * inner, 2 * inner
    reader = Layer(2 * (4 * hidden * inner + reading), *keys)
    writer = Layer(2 * (6 * hidden * inner + writing), *keys)  # cross-attention: queries and outputs on top
    encoder = Shape((reader,) * encoders, decoders * 2 * 2 * hidden * inner)
    return Shape((writer,) * decoders, 2 * hidden * vocab, encoder=encoder)


def t5(config) -> Shape:
    hidden = config.d_model
    feed_forward = (3 if config.is_gated_act else 2) * hidden * config.d_ff
    layers = config.num_layers, config.num_decoder_layers
    return _pair(hidden, config.num_heads * config.d_kv, feed_forward, feed_forward, *layers, config.vocab_size)


def bart(config) -> Shape:
    """BART, and M2M-100 with NLLB, which differ from it in norms and positions."""
    hidden, heads = config.d_model, (config.encoder_attention_heads, config.decoder_attention_heads)
    if any(hidden % n for n in heads):
        raise ValueError(f"d_model {hidden} is no multiple of the attention heads {heads[0]} and {heads[1]}")
    inner = 2 * hidden * config.encoder_ffn_dim, 2 * hidden * config.decoder_ffn_dim
    return _pair(hidden, hidden, *inner, config.encoder_layers, config.decoder_layers, config.vocab_size)


def marian(config) -> Shape:
    """As BART; source and target may have vocabularies of their own."""
    sizes, shape = (config.decoder_vocab_size, config.vocab_size), bart(config)
    head = 2 * config.d_model * sizes[config.share_encoder_decoder_embeddings]
    return Shape(shape.layers, head, encoder=shape.encoder)
