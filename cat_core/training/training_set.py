"""Training examples as token ids: their order, their batches, and batches cut by length.

Nothing here knows of a model or a loss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from cat_core.queries import aligned
from cat_core.shapes.caches import cheapest_cuts
from cat_core.text import TextFormat
from cat_core.training.deferral import deferral_token

IGNORE = -100  # the label of what is no target, as in transformers
# What one more pass for a length group is taken to cost, as so many tokens of padding would: the weights are read and
# their gradients added once more, and a GPU needs many tokens to be busy.
GROUP_TOKENS = {"cpu": 48, "else": 2048}


class TrainingSet(Dataset):
    """Examples as token ids of prompt and target, as `text.TextFormat` makes them; only the target is learnt.

    text: the format, or a tokenizer, for plain text of causal models. An example longer than `context` tokens, prompt
    and target together, is refused by name, or its prompt is cut from the left (BOS kept) with `truncate_prompts`.
    """

    def __init__(self, examples: Sequence, text: TextFormat, context: int, truncate_prompts: bool = False):
        if not examples:
            raise ValueError("no training examples; expected at least one in split 'train'")
        text = text if isinstance(text, TextFormat) else TextFormat(text)
        text.check_cut(truncate_prompts)
        asked = [e.prompt for e in examples]
        prompts = text.prompts(asked, [getattr(e, "task", "") for e in examples])
        targets = text.targets(asked, [e.target for e in examples])
        self.pad, self.encoder = text.tokenizer.pad_token_id, text.encoder
        self.deferral = deferral_token(text)
        self.pairs = []
        for example, prompt, target in zip(examples, prompts, targets, strict=True):
            excess = len(prompt) + len(target) - context
            kept = len(text.head)
            has_eos = text.encoder and prompt[-1:] == [text.eos]
            if excess > 0 and not (truncate_prompts and excess < len(prompt) - kept - has_eos):
                raise ValueError(
                    f"item {example.item_id!r}: prompt of {len(prompt)} and target of {len(target)} tokens exceed the "
                    f"context of {context}; shorten it, raise the context, or set truncate_prompts"
                )
            if excess > 0:
                prompt = prompt[:kept] + prompt[kept + excess :]
            if not prompt:
                raise ValueError(f"item {example.item_id!r}: the prompt has no token; expected at least one")
            self.pairs.append((prompt, target))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def longest(self) -> int:
        """Tokens of the longest batch that may come: the longest prompt and the longest target, aligned."""
        return max(len(prompt) for prompt, _ in self.pairs) + max(len(target) for _, target in self.pairs)

    @property
    def fingerprint(self) -> str:
        """sha256 of all token ids."""
        return hashlib.sha256(json.dumps(self.pairs).encode()).hexdigest()

    def __getitem__(self, index: int) -> dict:
        prompt, target = self.pairs[index]
        return {"prompt": prompt, "target": target, "index": index}


def collate(items: list[dict], pad: int) -> dict:
    """A batch whose prompts end, and whose targets begin, at one column: `target_start`.

    So the head runs on the last columns alone, never on prompts. input_ids, attention_mask, position_ids and labels are
    int64 [B, T]; labels are those of transformers (unshifted, -100 outside targets).
    """
    ids, mask, before = aligned([item["prompt"] for item in items], [item["target"] for item in items], pad)
    labels = np.full_like(ids, IGNORE)
    labels[:, before:] = np.where(mask[:, before:] == 1, ids[:, before:], IGNORE)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "position_ids": torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0)),
        "labels": torch.from_numpy(labels),
        "target_start": before,
        "examples": torch.tensor([item["index"] for item in items]),
    }


def length_groups(mask: torch.Tensor, groups: int) -> list[tuple[torch.Tensor, slice]]:
    """Cut batches into at most so many groups of rows of like length, shortest first: rows and columns of each.

    mask: int64 [..., B, T], 1 where a token is, as `collate` lays it out; rows: int64 [..., rows of a group]. The cuts
    are those that leave the least to compute: padding, and `GROUP_TOKENS` for each group. Where there are leading
    dimensions (batches side by side), each has rows of its own and the columns serve all.
    """
    size, columns = mask.shape[-2:]
    rows, cuts = mask.sum(-1).argsort(dim=-1, stable=True), (0, size)
    if groups > 1:
        filled = mask.take_along_dim(rows.unsqueeze(-1), dim=-2).bool().view(-1, size, columns).any(0).cpu().numpy()
        first, last = filled.argmax(-1), columns - filled[:, ::-1].argmax(-1)
        cuts = cheapest_cuts(first, last, groups, group_tokens(mask.device))
    if len(cuts) == 2:  # all rows, in their own order
        return [(torch.arange(size, device=mask.device).expand(mask.shape[:-1]), slice(0, columns))]
    return [(rows[..., a:b], slice(int(first[a:b].min()), int(last[a:b].max()))) for a, b in pairwise(cuts)]


def group_tokens(device: torch.device) -> int:
    """`GROUP_TOKENS` of a device."""
    return GROUP_TOKENS["cpu" if device.type == "cpu" else "else"]


def joined(parts: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """What was computed by length group as one batch again: [..., B, columns, H], of parts [..., b, <= columns, H]."""
    if len(parts) == 1:
        return parts[0]
    wide = [torch.nn.functional.pad(part, (0, 0, 0, columns - part.shape[-2])) for part in parts]
    back = torch.cat(list(rows), dim=-1).argsort(dim=-1)
    return torch.cat(wide, dim=-3).take_along_dim(back[..., None, None], dim=-3)


class DataOrder(Sampler):
    """Indices of `total` training examples: one random permutation of all of them after another, by (seed, epoch)."""

    def __init__(self, examples: int, total: int, seed: int):
        self.examples, self.total, self.seed = examples, total, seed

    def __len__(self) -> int:
        return self.total

    def __iter__(self):
        for epoch in range(-(-self.total // self.examples)):
            seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1)
            order = torch.randperm(self.examples, generator=torch.Generator().manual_seed(int(seed)))
            yield from order[: self.total - epoch * self.examples].tolist()
