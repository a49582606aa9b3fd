"""A model as the sizes that decide its cost. What is counted, and what not, is said in `cat_core.flops`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """Linear attention: a state that does not grow, in the place of keys (see `linear`).

    channels, kernel: of the short convolution before it; chunk_flops: products of `chunk` tokens with one another and
    with the state; numbers: those of the state and of what the convolution keeps.
    """

    channels: int
    kernel: int
    chunk_flops: int
    numbers: int
    chunk: int = 64

    def flops(self, cached: int, tokens: int, kept: bool) -> int:
        """One pass of `tokens` tokens on top of `cached` ones; kept: whether there is a cache to keep the state in."""
        if cached and tokens == 1:  # changed element by element: the convolution alone is counted, at two places
            return 2 * self.channels * self.kernel * 2
        width = tokens + self.kernel if cached else max(tokens, self.kernel) if kept else tokens
        convolution = 2 * self.channels * self.kernel * (width + self.kernel - 1)
        return convolution + -(-tokens // self.chunk) * self.chunk_flops


@dataclass(frozen=True)
class Layer:
    """What decides the cost of one layer.

    token_flops: projections and feed-forward of one token; key_flops: scores and values of one token against one key;
    key_numbers: numbers that the cache keeps of a token; window: keys that a token sees at most, itself included.
    lean: the layer reads the keys and values of another one, so it runs for those tokens alone that get a logit row.
    """

    token_flops: int
    key_flops: int
    key_numbers: int
    window: int | None = None
    lean: bool = False
    state: State | None = None


@dataclass(frozen=True)
class Shape:
    """What decides the cost of a model; of an encoder-decoder model this is the decoder.

    head_flops: one logit row; embedding_flops, closing_flops: projections of a token before and after all layers;
    encoder: its "head" makes the keys and values that all decoder layers use.
    untrained: why a training step has no exact count, "" where it has one.
    """

    layers: tuple[Layer, ...]
    head_flops: int
    embedding_flops: int = 0
    closing_flops: int = 0
    encoder: "Shape | None" = None
    untrained: str = ""
