"""Causal and encoder-decoder language models behind one interface: what they say of targets, and how they go on.

A causal model reads prompt and target in one row, and position t predicts token t + 1. An encoder-decoder model reads
the prompt in its encoder; its decoder reads the start token and the target without its last token, and position t
predicts token t of the target. Either way `target_outputs` gives one row for each target token, aligned with the labels
of `training_set.collate`, and all training, teaching and measuring goes through it; `read_prompts` and `go_on` do the
same for generation and for the scoring of options.

Prompts come padded on the left. A causal model is told the positions; an encoder, which may count its positions by
column (BART, Marian), gets them padded on the right. Families that no test has looked at are tried before they answer
(`shapes.trial`).
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from cat_core.shapes.caches import BANNED, Kept, copied, right_padded

MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


def has_encoder(model) -> bool:
    """Whether a model, or a configuration, is encoder-decoder."""
    return bool(getattr(getattr(model, "config", model), "is_encoder_decoder", False))


def check_one_kind(small, large, small_name: str = "small", large_name: str = "large") -> None:
    """Raise ValueError unless both models, or configurations, are causal or both encoder-decoder.

    The loss would not mind, but prompts are tokenised once for both: those of an encoder end as its tokenizer ends
    them, those of a causal model go on.
    """
    if has_encoder(small) != has_encoder(large):
        kinds = ["encoder-decoder" if has_encoder(model) else "causal" for model in (small, large)]
        raise ValueError(
            f"S ({small_name}) is {kinds[0]} and L ({large_name}) {kinds[1]}, and prompts are tokenised once for both: "
            "choose two models of one kind"
        )


def check_prompts(model, examples) -> None:
    """Raise ValueError where a `training_set.TrainingSet` holds prompts made for the other kind of model."""
    made_for = getattr(examples, "encoder", None)
    if made_for is not None and made_for != has_encoder(model):
        kind, needed = ("a causal", "False") if made_for else ("an encoder-decoder", "True")
        raise ValueError(
            f"{type(model).__name__} is {kind} model, but the prompts were tokenised for the other kind: make the "
            f"TrainingSet with encoder={needed}"
        )


def start_token(model) -> int:
    """The id that an encoder-decoder model's decoder starts from.

    Raises ValueError where none is configured, and where `generate()` would force another token behind it.
    """
    generation = getattr(model, "generation_config", None)
    if (forced := getattr(generation, "forced_bos_token_id", None)) is not None:
        raise ValueError(
            f"{type(model).__name__} has forced_bos_token_id {forced} in its generation_config.json, and here no first "
            "token is forced: set it to null, and the model chooses it by itself"
        )
    for config in (model.config, generation):
        if (token_id := getattr(config, "decoder_start_token_id", None)) is not None:
            return token_id
    raise ValueError(
        f"{type(model).__name__} has no decoder_start_token_id: set it in its config.json (T5 starts from its padding "
        "token)"
    )


# ---------------------------------------------------------------- targets that are known


class TargetOutputs(NamedTuple):
    """outputs: as the model returned them; states [B, T, H] that its head reads and logits [B, T, V] of the T target
    columns, None where they were not asked for."""

    outputs: object
    states: Tensor | None
    logits: Tensor | None


def target_outputs(model, inputs: dict, start: int, *, states: bool = False, logits: bool = True) -> TargetOutputs:
    """What a model says of the target columns of a batch laid out as by `training_set.collate`.

    inputs: `MODEL_INPUTS`, int64 [B, start + T], on the model's device (position_ids: for a causal model alone);
    targets begin at column `start`. Without
    logits the head does not run. The states of a causal model are its last hidden states, which its head reads unless
    it is no plain one (`models.has_plain_head`); those of an encoder-decoder model are taken where they enter the head,
    so that a scale in front of it (T5 v1.0: d_model^-0.5) is in them.
    """
    bare = model
    while not hasattr(bare, "config"):  # wrapped for several processes
        bare = bare.module
    if has_encoder(bare):
        return _decoder_outputs(model, bare, inputs, start, states, logits)
    taken = {name: inputs[name] for name in MODEL_INPUTS}
    positions = taken["input_ids"].shape[1] - start + 1  # the last prompt token predicts the first of the target
    # An empty choice of positions leaves the head out.
    keep = positions if logits else torch.empty(0, dtype=torch.long, device=taken["input_ids"].device)
    outputs = model(**taken, use_cache=False, output_hidden_states=states, logits_to_keep=keep)
    return TargetOutputs(
        outputs,
        outputs.hidden_states[-1][:, -positions:-1] if states else None,
        outputs.logits[:, :-1] if logits else None,
    )


def _decoder_outputs(model, bare, inputs: dict, start: int, states: bool, logits: bool) -> TargetOutputs:
    ids = inputs["input_ids"]
    first = ids.new_full((len(ids), 1), start_token(bare))
    prompts, mask = right_padded(ids[:, :start], inputs["attention_mask"][:, :start])
    with _head_inputs(bare.get_output_embeddings(), run=logits) as seen:
        outputs = model(
            input_ids=prompts,
            attention_mask=mask,
            decoder_input_ids=torch.cat([first, ids[:, start:-1]], dim=1),
            use_cache=False,
        )
    if len(seen) != 1:
        raise RuntimeError(
            f"the output head ran {len(seen)} times in one pass, expected once: an encoder-decoder model on several "
            "GPUs needs a process for each (torchrun or accelerate launch)"
        )
    return TargetOutputs(outputs, seen[0] if states else None, outputs.logits if logits else None)


@contextmanager
def _head_inputs(head: torch.nn.Module, run: bool):
    """A list that what enters the head is added to; run: whether the head multiplies it, or an empty choice of it."""
    seen: list[Tensor] = []

    def note(_, given):
        seen.append(given[0])
        return None if run else (given[0][..., :0, :],)

    hook = head.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


# ---------------------------------------------------------------- targets that are made


@dataclass
class Encoded:
    """Prompts that an encoder has read, in the place of a causal model's cache.

    states: [B, P, H] of the encoder, mask: [B, P] of its tokens; cache: keys and values of the decoder's own tokens,
    and those of `states`, which are computed once.
    """

    states: Tensor
    mask: Tensor
    cache: EncoderDecoderCache

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows alone."""
        self.states, self.mask = self.states[rows], self.mask[rows]
        self.cache.batch_select_indices(rows)


Memory = Kept | Encoded
"""What a model keeps of the prompts it has read."""


def _without_banned(model, logits: Tensor) -> Tensor:
    """Logits [..., V] in which tokens that a model must never write are as good as impossible.

    Marian's generation_config.json bans its padding token, which it starts from. Raises ValueError for bans of more
    than one token in a row.
    """
    generation = getattr(model, "generation_config", None)
    words = getattr(generation, "bad_words_ids", None) or []
    if any(len(word) > 1 for word in words):
        raise ValueError(
            f"{type(model).__name__} has bad_words_ids of several tokens in its generation_config.json, and here only "
            "single tokens can be banned: leave those alone"
        )
    banned = [word[0] for word in words] + list(getattr(generation, "suppress_tokens", None) or [])
    return logits.index_fill(-1, torch.tensor(banned, device=logits.device), BANNED) if banned else logits


def read_prompts(model, ids: Tensor, mask: Tensor, positions: Tensor) -> tuple[Memory, Tensor]:
    """The memory of left-padded prompts (ids, mask, positions int64 [B, P]), and the logits [B, V] that follow them."""
    if not has_encoder(model):
        cache = Kept(config=model.config)
        return cache, go_on(model, cache, ids, mask, positions, keep=1)[:, -1]
    # without a configuration, which would give it as many layers as the encoder has
    cache = EncoderDecoderCache(Kept(), Kept())
    first, (ids, mask) = ids.new_full((len(ids), 1), start_token(model)), right_padded(ids, mask)
    output = model(input_ids=ids, attention_mask=mask, decoder_input_ids=first, past_key_values=cache, use_cache=True)
    memory = Encoded(output.encoder_last_hidden_state, mask, cache)
    return memory, _without_banned(model, output.logits[:, -1])


def go_on(model, memory: Memory, ids: Tensor, mask: Tensor, positions: Tensor, keep: int = 0) -> Tensor:
    """Logits [B, n, V] after feeding n further tokens on top of `memory`, which takes them in.

    ids: int64 [B, n]; mask: [B, prompt + all tokens so far], the first columns those of the prompts; positions: of the
    new tokens, for a causal model; keep: rows of logits wanted, 0 for all (an encoder-decoder model gives all).
    """
    if isinstance(memory, Encoded):
        logits = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory.states),
            attention_mask=memory.mask,
            decoder_input_ids=ids,
            past_key_values=memory.cache,
            use_cache=True,
        ).logits
    else:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=memory,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
    return _without_banned(model, logits)


def selected(memory: Memory, rows: Tensor) -> Memory:
    """A new memory of the given rows, repeats allowed; `memory` itself stays as it is."""
    if isinstance(memory, Encoded):
        both = memory.cache.self_attention_cache, memory.cache.cross_attention_cache
        cache = EncoderDecoderCache(*(selected(cache, rows) for cache in both))
        return Encoded(memory.states[rows], memory.mask[rows], cache)
    chosen = copy.copy(memory)
    chosen.layers = [copied(layer) for layer in memory.layers]
    chosen.batch_select_indices(rows)
    return chosen
