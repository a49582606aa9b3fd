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

How a configuration is read, family by family, is in `cat_core.shapes`; linear attention is in `shapes.linear`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from cat_core.architectures import go_on, read_prompts, selected
from cat_core.shapes.families import shape_of as shape_of
from cat_core.shapes.measured import Measured
from cat_core.shapes.passes import extend, prompt_pass, source_of, whole

# ---------------------------------------------------------------- what is charged


def prefill_flops(config, prompt_tokens: int) -> int:
    """FLOPs of reading a prompt of `prompt_tokens` tokens, with the output head at its last position only; of an
    encoder-decoder model: of encoding it and feeding the decoder its first token."""
    return prompt_pass(shape_of(config), whole("prompt_tokens", prompt_tokens))[0]


def decode_flops(config, keys: int, source_tokens: int = 0) -> int:
    """FLOPs of feeding one token to a decoder that has then read `keys` tokens, itself included.

    A layer with a sliding window multiplies no more keys than that. source_tokens: length of the prompt in the encoder,
    where there is one. Raises ValueError for a source without encoder, and the other way round.
    """
    shape = shape_of(config)
    return extend(shape, whole("keys", keys) - 1, 1, 1, source_of(shape, source_tokens))


def request_flops(config, prompt_tokens: int, new_tokens: int, *, attended: bool = False) -> int:
    """FLOPs of one `generate()` call with a key-value cache: `new_tokens` tokens (end-of-sequence included)
    generated from a prompt of `prompt_tokens` tokens (beginning-of-sequence included).

    prefill(P) + sum over j = 1 .. M-1 of decode(P + j): the last token is produced, never fed back. attended: charge
    the prompt only for keys its tokens may attend to, not for the whole square. Raises ValueError for unknown model
    types and for counts below 1.
    """
    shape = shape_of(config)
    prompt, steps = whole("prompt_tokens", prompt_tokens), whole("new_tokens", new_tokens) - 1
    total, cached, source = prompt_pass(shape, prompt, attended)
    return total + extend(shape, cached, steps, steps, source, single=True)


def option_flops(config, prefix_tokens: int, option_tokens: Sequence[int]) -> int:
    """FLOPs of scoring answer options on one prompt, as `cascade.CascadeRunner` does it.

    prefix_tokens: length of the prompt, read once, head at its last position (that row scores the first token
    of every option). option_tokens: length of each option *with* its end-of-sequence token; of an option of n
    tokens the first n - 1 are fed in one pass on top of the prompt, with one logit row each. Options are
    charged by their own length, as the runner pads none of them. Raises ValueError for unknown model types,
    counts below 1 and an empty sequence.
    """
    shape = shape_of(config)
    total, cached, source = prompt_pass(shape, whole("prefix_tokens", prefix_tokens))
    lengths = [whole("option_tokens", n) for n in option_tokens]
    if not lengths:
        raise ValueError("option_tokens is empty: give the token count of every option")
    return total + sum(extend(shape, cached, n - 1, n - 1, source) for n in lengths)


def sequence_flops(config, prompt_tokens: int, target_tokens: int) -> int:
    """FLOPs of one forward pass of a training sequence, with a logit row for each target token: what a teacher costs.

    A decoder reads prompt and target in one pass; the prompt may be empty, which gives a row at every position. An
    encoder reads the prompt, the decoder the target. Raises ValueError for unknown model types and for lower counts.
    """
    shape = shape_of(config)
    prompt = whole("prompt_tokens", prompt_tokens, 0 if shape.encoder is None else 1)
    target = whole("target_tokens", target_tokens)
    if shape.encoder is None:
        return extend(shape, 0, prompt + target, target, kept=False)
    return extend(shape.encoder, 0, prompt, prompt) + extend(shape, 0, target, target, prompt)


def training_flops(config, prompt_tokens: int, target_tokens: int, *, frozen_head: bool = False) -> int:
    """FLOPs of one training step on one sequence (as in `sequence_flops`): a forward and a backward of twice that,
    for the gradients of inputs and of weights, nothing recomputed.

    frozen_head: the output matrix is not trained, and its gradient not computed. Frozen input embeddings cost the same
    where a trained norm comes first; looking them up costs nothing. Errors are those of `sequence_flops`.
    """
    total, shape = 3 * sequence_flops(config, prompt_tokens, target_tokens), shape_of(config)
    if shape.untrained:
        raise ValueError(f"no exact FLOPs of training for model type {config.model_type!r}: {shape.untrained}")
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        if share := getattr(config, name, 0):
            raise ValueError(f"{name}={share} leaves out layers at random while training: set it to 0 to have a cost")
    return total - frozen_head * shape.head_flops * target_tokens


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
    multiply-add, so there are half as many as FLOPs; norms, biases, short convolutions and embedding rows are left out.
    Its own key and value are among the `keys`; those that several layers share are moved once, and so is the state of
    linear attention. Errors are those of `decode_flops`.
    """
    shape = shape_of(config)
    keys, source = whole("keys", keys), source_of(shape, source_tokens)
    around = shape.embedding_flops + shape.closing_flops + shape.head_flops
    matrices = (sum(layer.token_flops for layer in shape.layers) + around) // 2
    kept = sum(layer.key_numbers * (min(keys, layer.window or keys) + source) for layer in shape.layers)
    kept += sum(layer.state.numbers for layer in shape.layers if layer.state is not None)
    return Traffic(matrices * weights.itemsize, kept * (cache or weights).itemsize)


def first_layer_flops(config, prompt_tokens: int) -> int:
    """FLOPs of the first layer that reads a prompt, and of what comes before: no other layer and no head runs."""
    shape, prompt = shape_of(config), whole("prompt_tokens", prompt_tokens)
    shape = shape.encoder or shape
    return extend(replace(shape, layers=shape.layers[:1], closing_flops=0), 0, prompt, 0, kept=False)


COSTS = ("formula", "measured")


class Costs:
    """What queries to a model cost: by the formulas, where its configuration has one.

    how: of `COSTS`. Elsewhere costs are None by "formula", and `unknown` says why ("" where they are known); "measured"
    counts them there (`shapes.measured`). Raises ValueError for another `how`.
    """

    def __init__(self, model, how: str = "formula"):
        if how not in COSTS:
            raise ValueError(f"costs is {how!r}, expected one of {', '.join(COSTS)}")
        self.config, self.unknown, self.measured = model.config, "", None
        try:
            shape_of(model.config)
        except ValueError as error:
            self.measured = Measured(model, read_prompts, go_on, selected) if how == "measured" else None
            self.unknown = "" if self.measured else str(error)

    def request(self, prompt_tokens: int, new_tokens: int) -> int | None:
        """As `request_flops`; None where costs are unknown."""
        if self.measured is not None:
            return self.measured.request(prompt_tokens, new_tokens)
        return None if self.unknown else request_flops(self.config, prompt_tokens, new_tokens)

    def options(self, prefix_tokens: int, option_tokens: Sequence[int]) -> int | None:
        """As `option_flops`; None where costs are unknown."""
        if self.measured is not None:
            return self.measured.options(prefix_tokens, option_tokens)
        return None if self.unknown else option_flops(self.config, prefix_tokens, option_tokens)
