"""What a model says of held-out target tokens, fed with the true tokens before them (teacher forcing)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cat_core.architectures import MODEL_INPUTS, check_prompts, target_outputs
from cat_core.confidence import chosen_logprob
from cat_core.curves import expected_calibration_error
from cat_core.loss import is_right
from cat_core.queries import plan_batches
from cat_core.training.models import has_plain_head
from cat_core.training.training_set import IGNORE, collate

ECE_BINS = 15
CHUNK = 2**24  # logits that are looked at together: real vocabularies times all tokens of a batch would fill gigabytes


@dataclass(frozen=True)
class TokenSignals:
    """Target tokens of a split, example after example; arrays [tokens].

    right: bool, the label has the highest logit; label_logprob: natural log of its probability; entropy: of the whole
    distribution, in nats; top_probability: of the most probable token; example: int, index of the token's example.
    """

    right: np.ndarray
    label_logprob: np.ndarray
    entropy: np.ndarray
    top_probability: np.ndarray
    example: np.ndarray

    def save(self, folder: Path) -> None:
        """Write into a folder as safetensors."""
        save_file({k: torch.from_numpy(v) for k, v in vars(self).items()}, folder / "signals.safetensors")

    @classmethod
    def load(cls, folder: Path) -> TokenSignals:
        """Read what `save` wrote."""
        return cls(**{k: v.numpy() for k, v in load_file(folder / "signals.safetensors").items()})


@torch.no_grad()
def token_signals(model, examples, batch_tokens: int = 4_096) -> TokenSignals:
    """`TokenSignals` of a model on a `training_set.TrainingSet` of any split, in batches of at most so many tokens."""
    check_prompts(model, examples)
    model.eval()
    head, plain = model.get_output_embeddings(), has_plain_head(model)
    rows = max(1, CHUNK // head.weight.shape[0])
    parts: list[list[torch.Tensor]] = [[] for _ in range(len(examples))]
    for members in plan_batches([(len(p), len(t), 1) for p, t in examples.pairs], batch_tokens):
        batch = collate([examples[i] for i in members], examples.pad)
        inputs = {k: batch[k].to(model.device) for k in MODEL_INPUTS}
        labels = batch["labels"][:, batch["target_start"] :]
        is_target = labels != IGNORE
        found = target_outputs(model, inputs, batch["target_start"], states=plain, logits=not plain)
        kept = (found.states if plain else found.logits)[is_target.to(model.device)]
        target = labels[is_target].to(kept.device)
        chunks = zip(kept.split(rows), target.split(rows))
        measures = torch.cat([_measures(head(x) if plain else x, y) for x, y in chunks], dim=1)
        for member, columns in zip(members, measures.cpu().split(is_target.sum(1).tolist(), dim=1)):
            parts[member] = columns
    right, label_logprob, entropy, top = torch.cat(parts, dim=1).numpy()
    example = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    return TokenSignals(right.astype(bool), label_logprob, entropy, top, example)


def _measures(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[4, tokens] right, log-probability of the label, entropy and highest probability, of logits [tokens, V]."""
    logits = logits.float()
    right, p = is_right(logits, target).float(), logits.softmax(-1)
    return torch.stack([right, chosen_logprob(logits, target), torch.special.entr(p).sum(-1), p.amax(-1)])


def summary(small: TokenSignals, large: TokenSignals) -> dict:
    """S against its L on the same tokens, as plain numbers.

    tokens; ledger: counts [both, only S, only L, neither]; share_right, entropy (nats), confidence (mean probability of
    the most probable token), nll (nats a token), ece (of the most probable token, Guo et al. 2017, in [0, 1]) of S;
    large_right; and of the same S by cell of the ledger: entropy_by_cell, confidence_by_cell (None where a cell is
    empty).
    """
    if not np.array_equal(small.example, large.example):
        raise ValueError(f"S has {len(small.example)} tokens and L {len(large.example)}: not those of one split")
    cell = 2 * ~small.right + ~large.right  # both, only S, only L, neither
    counts = np.bincount(cell, minlength=4)

    def by_cell(values):
        sums = np.bincount(cell, weights=values, minlength=4)
        return [float(s / n) if n else None for s, n in zip(sums, counts)]

    return {
        "tokens": len(cell),
        "ledger": counts.tolist(),
        "share_right": float(small.right.mean()),
        "large_right": float(large.right.mean()),
        "entropy": float(small.entropy.mean()),
        "confidence": float(small.top_probability.mean()),
        "nll": float(-small.label_logprob.mean()),
        "ece": expected_calibration_error(small.top_probability, small.right, ECE_BINS),
        "entropy_by_cell": by_cell(small.entropy),
        "confidence_by_cell": by_cell(small.top_probability),
    }
