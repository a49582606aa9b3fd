"""What learned deferral rules look at: S's state after the prompt, its answers, and L's first layer on the prompt.

Of an encoder-decoder model that is the first layer of its encoder.

One pass of S over prompts and the answers it gave (teacher forcing, hence the distributions it answered from) and one
pass of L's first layer over the prompts; nothing here runs unless it is asked for. In a deployed cascade S's numbers
fall out of answering, and cost nothing more; L's first layer does cost (`first_layer_flops`, `large_flops`).

Imports nothing but torch, transformers (through `cascade`), numpy, safetensors and what these bring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from cat_core.architectures import has_encoder, target_outputs
from cat_core.cascade import CascadeRunner
from cat_core.confidence import chosen_logprob, margin_and_entropy
from cat_core.files import read_sealed, whole_file, write_sealed
from cat_core.flops import first_layer_flops, prefill_flops
from cat_core.inference import LOGIT_BUDGET, answering
from cat_core.queries import aligned, plan_batches

LEVELS = tuple(k / 10 for k in range(11))
"""The quantiles of the token log-probabilities that make up `AnswerFeatures.quantiles`: minimum to maximum."""

TOP = 10
TOKEN_FEATURES = ("entropy", *(f"margin_{k}" for k in range(2, TOP + 1)), "logprob")
"""Columns of the numbers of one token, see `token_features`."""


def token_features(logits: Tensor, tokens: Tensor) -> Tensor:
    """Numbers of each token's distribution, as `TOKEN_FEATURES`: [..., V] and ids [...] -> [..., 11] float32.

    Entropy in nats; margin_k = log p(top 1) - log p(top k), k = 2 .. 10; log p of `tokens`, the answer's own (or the
    label, when training). Margins of log-probabilities, not of probabilities as in Kag et al. (ICLR 2023): those of
    nearly certain tokens would all be 1 in float32. A vocabulary of fewer than ten tokens repeats its last margin.
    Detached: a rule that learns from these numbers does not teach the model to look confident.
    """
    logits = logits.detach()
    top = logits.topk(min(TOP, logits.shape[-1]), dim=-1).values.float()
    margins = top[..., :1] - top[..., 1:]
    missing = TOP - 1 - margins.shape[-1]
    if missing:
        margins = torch.cat([margins, margins[..., -1:].expand(*margins.shape[:-1], missing)], dim=-1)
    entropy = margin_and_entropy(logits)[1].float()
    logprob = chosen_logprob(logits, tokens).float()
    return torch.cat([entropy.unsqueeze(-1), margins, logprob.unsqueeze(-1)], dim=-1)


def first_layer(model) -> torch.nn.Module:
    """The part of a model that reads prompts, cut off after its first layer: its decoder, or its encoder.

    Shares the weights, has neither final norm nor head.
    """
    kind, like, part, layers, norm = "decoder", "Llama", model.get_decoder(), "layers", "norm"
    if has_encoder(model):
        kind, like, part, layers, norm = "encoder", "T5", model.get_encoder(), "block", "final_layer_norm"
    if not (hasattr(part, layers) and hasattr(part, norm)):
        raise ValueError(
            f"{type(part).__name__} is not built like {like}'s {kind}: expected parts {layers!r} and {norm!r}"
        )
    if len(getattr(part, layers)) < 1:
        raise ValueError(f"the model has no {kind} layer: expected at least one")
    short = copy.copy(part)
    # a module's copy shares the dictionary of its parts: without its own, the cut would go through the model itself
    short._modules = dict(part._modules)
    short._modules[layers] = torch.nn.ModuleList([getattr(part, layers)[0]])
    short._modules[norm] = torch.nn.Identity()
    return short


@dataclass(frozen=True)
class AnswerFeatures:
    """Features of n answers of S, item after item in the order of the requests; arrays in float32.

    deferral: [n] the largest log-probability that any position gives to the deferral token (0 where there is none);
    quantiles: [n, 11] of the token log-probabilities, at `LEVELS`, interpolated as `numpy.quantile`; small_state:
    [n, H_S] S's last hidden state (after the final norm: what the head reads), the mean over the positions that the
    answer's tokens were chosen at, so EOS counts and the prompt does not; prompt_state: [n, H_S] the first of these,
    which S has when it has read the prompt and said nothing; large_embedding: [n, H_L] output of L's first layer
    (`first_layer`), the mean over the prompt's tokens; tokens: [all answer tokens, 11] (`token_features`); offsets:
    int64 [n + 1], where each answer's tokens start; large_flops, prompt_flops: int64 [n], what `large_embedding` costs,
    and what `prompt_state`, S's reading of the prompt.

    A rule that reads `large_embedding` pays `large_flops` for every query, on top of S; when one is deferred, L starts
    anew.
    """

    item_ids: tuple[str, ...]
    deferral: np.ndarray
    quantiles: np.ndarray
    small_state: np.ndarray
    prompt_state: np.ndarray
    large_embedding: np.ndarray
    tokens: np.ndarray
    offsets: np.ndarray
    large_flops: np.ndarray
    prompt_flops: np.ndarray

    def __len__(self) -> int:
        return len(self.item_ids)

    def padded_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """`tokens` as [n, T, 11], zeros after each answer's end, and the boolean mask [n, T] of real tokens."""
        lengths = np.diff(self.offsets)
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.zeros((*mask.shape, self.tokens.shape[1]), dtype=self.tokens.dtype)
        padded[mask] = self.tokens
        return padded, mask

    def save(self, folder: str | Path) -> Path:
        """Write features.safetensors and features.json into `folder`, each whole or not at all; returns the folder."""
        folder = Path(folder)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        with whole_file(folder / "features.safetensors") as temporary:
            save_file(arrays, temporary)
        meta = {"item_ids": list(self.item_ids), "columns": list(TOKEN_FEATURES), "levels": list(LEVELS)}
        write_sealed(folder / "features.json", meta, folder / "features.safetensors")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> AnswerFeatures:
        """Read what `save` wrote; ValueError for another version's columns, and for files that were changed or cut."""
        folder = Path(folder)
        meta = read_sealed(folder / "features.json", folder / "features.safetensors")
        arrays = load_file(folder / "features.safetensors")
        if (meta["columns"], meta["levels"]) != (list(TOKEN_FEATURES), list(LEVELS)) or arrays.keys() != {*_ARRAYS}:
            raise ValueError(f"{folder} holds the features of another version: delete it and compute them again")
        return cls(tuple(meta["item_ids"]), **arrays)


_ARRAYS = (
    "deferral", "quantiles", "small_state", "prompt_state", "large_embedding", "tokens", "offsets", "large_flops",
    "prompt_flops",
)  # fmt: skip


def answer_features(
    runner: CascadeRunner,
    requests: Sequence,
    answers: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] | None = None,
    deferral: int | None = None,
) -> AnswerFeatures:
    """Features of S's answers to `requests`.

    runner: the pair of models, with the settings S answered under; answers: token ids of each answer, in request
    order (`queries.Response.tokens`); progress: function of (items done, items in all); deferral: the token by which S
    was taught to say "ask L". An item gets the same numbers in a batch as alone (1e-5). Raises ValueError, naming the
    item, for answers that cannot be S's.
    """
    items = runner.items(requests)
    answers = [list(answer) for answer in answers]
    if len(answers) != len(items):
        raise ValueError(f"got {len(answers)} answers to {len(items)} requests: give one answer each, in their order")
    for item, answer in zip(items, answers):
        if not answer or not 0 <= min(answer) <= max(answer) < runner.vocab:
            raise ValueError(f"item {item.item_id!r}: its answer needs one or more ids in 0 .. {runner.vocab - 1}")
        if item.options and answer not in item.options:
            raise ValueError(f"item {item.item_id!r}: its answer is none of its options: give the chosen one's ids")
    small, large = runner.models["small"], runner.models["large"]
    rows: list[tuple | None] = [None] * len(items)
    done = 0
    with answering(small), answering(large):
        start = first_layer(large)
        for batch in plan_batches([(len(i.prompt), len(a), 1) for i, a in zip(items, answers)], runner.batch_tokens):
            prompts, given = [items[i].prompt for i in batch], [answers[i] for i in batch]
            told = _answer_numbers(small, prompts, given, runner.pad, runner.vocab, deferral)
            embeddings = _masked_mean(*_right_padded(start, prompts, runner.pad))
            for row in zip(batch, *told, embeddings):
                rows[row[0]] = row[1:]
            done += len(batch)
            if progress is not None:
                progress(done, len(items))
    for item, row in zip(items, rows):
        for what, array in zip((*["small model's answer"] * 4, "prompt"), row):
            if np.isnan(array).any():
                raise ValueError(f"item {item.item_id!r}: NaN in the {what}: the weights are damaged, or overflow")
    states, before, deferral, numbers, embeddings = zip(*rows)
    lengths = [len(item.prompt) for item in items]
    return AnswerFeatures(
        item_ids=tuple(item.item_id for item in items),
        deferral=np.array(deferral, dtype=np.float32),
        quantiles=np.stack([np.quantile(n[:, -1], LEVELS) for n in numbers]).astype(np.float32),
        small_state=np.stack(states),
        prompt_state=np.stack(before),
        large_embedding=np.stack(embeddings),
        tokens=np.concatenate(numbers),
        offsets=np.cumsum([0, *map(len, answers)]),
        large_flops=np.array([first_layer_flops(large.config, n) for n in lengths]),
        prompt_flops=np.array([prefill_flops(small.config, n) for n in lengths]),
    )


def _right_padded(decoder, rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Hidden states [B, T, H] of ragged rows, padded on the right where attention never looks; mask [B, T]."""
    device = next(decoder.parameters()).device
    ids, mask = (torch.from_numpy(array).to(device) for array in aligned([()] * len(rows), rows, pad)[:2])
    return decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, mask.bool()


def _masked_mean(values: Tensor, mask: Tensor) -> np.ndarray:
    """[B, H] float32 mean of [B, T, H] over the positions of the mask."""
    total = values.float().masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    return (total / mask.sum(1, keepdim=True)).cpu().numpy()


def _answer_states(model, prompts, answers, pad: int) -> tuple[Tensor, Tensor]:
    """States [B, T, H] that the head reads, and the mask [B, T] of those that the answers' tokens are chosen at."""
    if has_encoder(model):
        ids, mask, start = aligned(prompts, answers, pad)
        ids, mask = (torch.from_numpy(array).to(model.device) for array in (ids, mask))
        rows = {"input_ids": ids, "attention_mask": mask}
        return target_outputs(model, rows, start, states=True, logits=False).states, mask[:, start:].bool()
    joined = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers)]
    hidden, mask = _right_padded(model.get_decoder(), joined, pad)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=mask.device)
    # position t predicts token t + 1, so the answer begins where the prompt's last token is read
    return hidden, mask & (torch.arange(mask.shape[1], device=mask.device) >= starts[:, None] - 1)


def _answer_numbers(model, prompts, answers, pad: int, vocab: int, deferral: int | None) -> tuple:
    """Of each answer: the mean last hidden state [B, H], the first one [B, H], the largest log-probability of the
    deferral token [B], and its `token_features`, a list of [its tokens, 11]."""
    hidden, chosen = _answer_states(model, prompts, answers, pad)
    states = hidden[chosen]
    tokens = torch.tensor([token for answer in answers for token in answer], device=chosen.device)
    head, step = model.get_output_embeddings(), max(1, LOGIT_BUDGET // vocab)
    parts = zip(states.split(step), tokens.split(step))
    numbers, called = [], []
    for some, their in parts:
        logits = head(some)[..., :vocab]
        numbers.append(token_features(logits, their))
        called.append(logits.new_zeros(len(some)) if deferral is None else logits.log_softmax(-1)[:, deferral])
    counts = [len(answer) for answer in answers]
    called = [float(part.max()) for part in torch.cat(called).split(counts)]
    first = hidden[torch.arange(len(hidden)), chosen.int().argmax(1)].float().cpu().numpy()
    numbers = [part.cpu().numpy() for part in torch.cat(numbers).split(counts)]
    return _masked_mean(hidden, chosen), first, called, numbers
