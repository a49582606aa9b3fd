"""Padding, and caches whose rows can be chosen whatever their layers keep: keys, or states of linear attention."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, arange, cat, device
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

BANNED = -1e4
"""Logit of a token that must not be written: its probability is 0 in every number type, and 0 log 0 stays a number."""

PASS_TOKENS = {"cpu": 32, "else": 2048}
"""What reading the weights once more costs, as so many tokens of padding would; a GPU needs many to be busy."""
MOST_RUNS = 16
MAX_CUTS = 128  # places where rows may be cut: the search takes their number squared


def runs(lengths: Sequence[int], place: device) -> list[slice]:
    """Consecutive left-padded rows to read in one pass: what leaves the least to compute, passes counted."""
    last = np.full(len(lengths), max(lengths))
    overhead = PASS_TOKENS["cpu" if place.type == "cpu" else "else"]
    return [slice(*ends) for ends in pairwise(cheapest_cuts(last - lengths, last, MOST_RUNS, overhead))]


def cheapest_cuts(first: np.ndarray, last: np.ndarray, groups: int, overhead: int) -> list[int]:
    """Where to cut rows, which fill columns [first, last), into at most `groups` runs of rows: 0, ..., their number.

    A run costs its rows times the columns that it fills, and `overhead`.
    """
    edges = np.append(np.arange(0, len(first), -(-len(first) // MAX_CUTS)), len(first))  # where a cut may lie
    first, last = np.minimum.reduceat(first, edges[:-1]), np.maximum.reduceat(last, edges[:-1])
    size = len(first)
    starts, ends = np.ogrid[:size, :size]
    inside = starts <= ends
    left = np.minimum.accumulate(np.where(inside, first, last.max()), axis=1)
    right = np.maximum.accumulate(np.where(inside, last, 0), axis=1)
    rows = edges[ends + 1] - edges[starts]
    cost = np.where(inside, (right - left) * rows + overhead, np.inf)  # [i, j]: of the run i, ..., j
    best, froms = [np.array([0.0, *[np.inf] * size])], []  # best[k][n]: of the first n rows in k runs
    for _ in range(min(groups, size)):
        of_last = best[-1][:-1, None] + cost
        froms.append(of_last.argmin(0))
        best.append(np.array([np.inf, *of_last.min(0)]))
    count = int(np.argmin([found[-1] for found in best]))
    cuts = [size]
    for k in range(count, 0, -1):
        cuts.append(int(froms[k - 1][cuts[-1] - 1]))
    return edges[cuts[::-1]].tolist()


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
