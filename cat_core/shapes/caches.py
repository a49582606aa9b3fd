"""Padding, and caches whose rows can be chosen whatever their layers keep: keys, or states of linear attention."""

import copy
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, arange, cat, device
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

BANNED = -1e4
"""Logit of a token that must not be written: its probability is 0 in every number type, and 0 log 0 stays a number."""

PASS_TOKENS = {"cpu": 32, "else": 2048}
"""What reading the weights once more costs, as so many tokens of padding would; a GPU needs many to be busy."""


def runs(lengths: Sequence[int], place: device) -> list[slice]:
    """Consecutive rows to read in one pass: others begin where padding would cost more than another pass."""
    spare = PASS_TOKENS["cpu" if place.type == "cpu" else "else"]
    starts, width, tokens = [0], 0, 0
    for row, length in enumerate(lengths):
        width, tokens = max(width, length), tokens + length
        if width * (row + 1 - starts[-1]) - tokens > spare:
            starts, width, tokens = [*starts, row], length, length
    return [slice(*edges) for edges in pairwise([*starts, len(lengths)])]


def right_padded(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Left-padded rows and their mask [B, P] with the padding on the right."""
    width = mask.shape[1]
    columns = (arange(width, device=mask.device) - mask.sum(-1, keepdim=True)) % width
    return ids.gather(1, columns), mask.gather(1, columns)


class Kept(DynamicCache):
    """A cache whose rows can be chosen whatever its layers keep: keys, or the states of linear attention."""

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows [b] alone, repeats allowed."""
        for layer in self.layers:
            layer.reorder_cache(rows)


def copied(layer):
    """A cache layer whose rows can be chosen without a change to `layer`.

    Tensors are shared until then: choosing rows makes new ones, and only these are written into afterwards. The tables
    of states that linear attention has are its own.
    """
    other = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(other, name, dict(value))
    return other


def keeps_every_token(config) -> bool:
    """Whether a model of this configuration keeps keys and values of all tokens: no window, no state."""
    return all(type(layer) is DynamicLayer for layer in Kept(config=config).layers)


def joined(parts: Sequence[Kept], width: int) -> Kept:
    """The rows of caches that keep every token, one after another, all `width` columns wide; empties `parts`.

    Zeros are put on the left, where masks hide padding.
    """
    if len(parts) == 1:
        return parts[0]
    whole = copy.copy(parts[0])
    whole.layers = [copied(layer) for layer in whole.layers]
    for layer, *those in zip(whole.layers, *(part.layers for part in parts)):
        for name in ("keys", "values"):
            wide = [pad(x, (0, 0, width - x.shape[-2], 0)) for x in (getattr(that, name) for that in those)]
            setattr(layer, name, cat(wide))
            for that in those:  # not all layers twice in memory
                setattr(that, name, None)
    return whole
