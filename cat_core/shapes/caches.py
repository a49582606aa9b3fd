"""Padding, and caches whose rows can be chosen whatever their layers keep: keys, or states of linear attention."""

import copy

from torch import Tensor, arange
from transformers import DynamicCache

BANNED = -1e4
"""Logit of a token that must not be written: its probability is 0 in every number type, and 0 log 0 stays a number."""


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
