"""Learned deferral rules: small networks fitted on calibration rows, cross-fitted there, saved and loaded.

A rule is fitted once on all calibration rows, for queries that it has not seen; and K times with one fold of clusters
left out, so that calibration rows get values from a network that was fitted without them: a threshold chosen on those
is as honest as one on a rule that is not learned. The K + 1 networks ("members", the last of all rows) have the same
first weights and are fitted side by side: weights are [members, in, out]. A seed decides everything.

`posthoc` and `edge` say what is learned; here is only how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cat_core.files import read_sealed, whole_file, write_sealed

FEWEST = 20  # calibration rows: below that, five folds of a network with batch statistics mean nothing


@dataclass(frozen=True)
class FitSettings:
    """How a rule is fitted: AdamW with a constant learning rate, batches of rows.

    Gupta et al. state the 200 epochs. The rest is ours; the learning rate is one at which 200 epochs on some hundred
    synthetic rows neither fail to learn nor learn the rows by heart.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    folds: int = 5

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 4), ("folds", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; expected a number >= 0")


class OneClassError(ValueError):
    """The rows that a rule is fitted on all have the same target: nothing can be learned from them."""


class Dense(nn.Module):
    """A linear layer for every member: [M, B, in] -> [M, B, out]; first weights as `torch.nn.Linear`, all the same."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__()
        bound = inputs**-0.5
        weight, bias = (
            torch.empty(shape).uniform_(-bound, bound, generator=generator)
            for shape in ((1, inputs, outputs), (1, 1, outputs))
        )
        self.weight = nn.Parameter(weight.repeat(members, 1, 1))
        self.bias = nn.Parameter(bias.repeat(members, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Standardise(nn.Module):
    """(x - mean) / standard deviation of each column, by the rows that the member is fitted on; 0 where constant."""

    def __init__(self, members: int, inputs: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(members, 1, inputs))
        self.register_buffer("scale", torch.ones(members, 1, inputs))

    def fit(self, member: int, rows: Tensor) -> None:
        """Take mean and scale of `rows` [n, inputs]."""
        rows = rows.double()
        spread = rows.std(0, unbiased=False)
        constant = spread <= 1e-6 * rows.abs().amax(0).clamp_min(1e-6)
        self.mean[member, 0] = rows.mean(0).float()
        self.scale[member, 0] = torch.where(constant, math.inf, spread).float()

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def check_rows(small_quality, large_quality, split, clusters, n: int) -> tuple[np.ndarray, ...]:
    """(small quality, large quality, calibration mask, clusters), each [n]; one-line ValueErrors for what cannot be.

    Quality in [0, 1] on calibration rows (that of other rows is never looked at); split: "calibration" or "test".
    """
    arrays = {
        "small_quality": np.asarray(small_quality, dtype=np.float64),
        "large_quality": np.asarray(large_quality, dtype=np.float64),
        "split": np.asarray(split).astype(str),
        "clusters": np.asarray(clusters).astype(str),
    }
    for name, array in arrays.items():
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape}, expected ({n},): align all arrays with the features")
    small, large, split, clusters = arrays.values()
    other = sorted({*split.tolist()} - {"calibration", "test"})
    if other:
        raise ValueError(f"rows of split {', '.join(map(repr, other))}: give calibration and test rows only")
    fitted = split == "calibration"
    if fitted.sum() < FEWEST:
        raise ValueError(f"{int(fitted.sum())} calibration rows, expected at least {FEWEST} to fit a rule on")
    for name, array in (("small_quality", small), ("large_quality", large)):
        if not ((array[fitted] >= 0) & (array[fitted] <= 1)).all():
            raise ValueError(f"{name} is outside [0, 1] or NaN on calibration rows: divide percentages by 100")
    return small, large, fitted, clusters


def check_finite(name: str, values: np.ndarray) -> Tensor:
    """`values` as a float32 tensor, or a ValueError that counts the rows with NaN or infinity."""
    values = np.asarray(values, dtype=np.float32)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if bad.any():
        raise ValueError(
            f"feature {name!r} is NaN or infinite in {int(bad.sum())} of {len(values)} rows, first row "
            f"{int(bad.argmax())}: look at the model behind it"
        )
    return torch.from_numpy(values)


def cross_entropy(outputs: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """[M] mean over rows of weight 1 of the binary cross entropy of logits; all arguments [M, B]."""
    losses = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    return (losses * weights).sum(1) / weights.sum(1)


def cluster_folds(clusters: Sequence, target, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Fold number 0 .. folds - 1 of every row, int64 [n]; rows of a cluster share theirs.

    Clusters are shuffled by the seed, ordered by their mean `target` and dealt out in turn, so that a rare class
    is spread over the folds. Raises ValueError for fewer clusters than folds.
    """
    names, numbers = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"{len(names)} clusters for {folds} folds: give more independent calibration items")
    numbers = numbers.reshape(-1)
    means = np.bincount(numbers, weights=np.asarray(target, dtype=np.float64)) / np.bincount(numbers)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(means[shuffled], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    return fold[numbers]


@contextmanager
def one_thread():
    """One thread for torch, and as many as before afterwards.

    Matrices this small gain nothing from threads, lose much where other processes hold the cores, and sum in an order
    that would depend on their number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def fit(
    net: nn.Module, data: tuple[Tensor, ...], target: Tensor, members: Sequence[np.ndarray],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], settings: FitSettings, seed: int,
) -> None:  # fmt: skip
    """Fit `net` in place; member m sees the rows `members[m]` and no others.

    data: tensors [n, ...], what the net reads; target: float32 [n]. The net has `standardise(member, *rows of data)`,
    `forward(*data [M, B, ...], weights [M, B]) -> [M, B]`, weights 0 for rows that only fill up a batch, and
    `settle(*data [n, ...], weights [M, n])`, called last of training. loss(outputs [M, B], target [M, B], weights
    [M, B]) -> [M]. A member's batches depend on the seed and on its own rows alone, as long as all have the same
    number of batches.
    """
    for m, rows in enumerate(members):
        net.standardise(m, *(t[torch.from_numpy(rows)] for t in data))
    steps = max(math.ceil(len(rows) / settings.batch_size) for rows in members)
    width = max(math.ceil(len(rows) / steps) for rows in members)
    draws = [np.random.default_rng(seed) for _ in members]
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    net.train()
    for _ in range(settings.epochs):
        parts = [np.array_split(draw.permutation(rows), steps) for draw, rows in zip(draws, members)]
        for step in range(steps):
            index = torch.zeros(len(members), width, dtype=torch.long)
            weights = torch.zeros(len(members), width)
            for m, part in enumerate(parts):
                index[m, : len(part[step])] = torch.from_numpy(part[step])
                weights[m, : len(part[step])] = 1.0
            outputs = net(*(t[index] for t in data), weights)
            optimizer.zero_grad()
            loss(outputs, target[index], weights).sum().backward()
            optimizer.step()
    weights = torch.zeros(len(members), len(target))
    for m, rows in enumerate(members):
        weights[m, torch.from_numpy(rows)] = 1.0
    with torch.no_grad():
        net.settle(*data, weights)
    net.eval()


def cross_fitted(
    make: Callable[[int, torch.Generator], nn.Module], data: tuple[Tensor, ...], target: np.ndarray, fitted: np.ndarray,
    clusters: np.ndarray, loss: Callable[[Tensor, Tensor, Tensor], Tensor], settings: FitSettings, seed: int,
) -> tuple[nn.Module, np.ndarray]:  # fmt: skip
    """(the net of all calibration rows, its outputs on all rows: float64 [n]), cross-fitted on calibration rows.

    make: (members, generator) -> net, see `fit`; data: tensors [n, ...]; target: [n], read where `fitted` [n] is
    True; clusters: [n]. Test rows get the outputs of the net of all calibration rows.
    """
    rows = np.flatnonzero(fitted)
    fold = cluster_folds(clusters[rows], target[rows], settings.folds, seed)
    members = [*(rows[fold != k] for k in range(settings.folds)), rows]
    for name, own in zip([*(f"without fold {k}" for k in range(settings.folds)), "rows"], members):
        if len(np.unique(target[own])) < 2:
            raise OneClassError(
                f"one class only: the target is {target[own][0]:g} on all {len(own)} calibration {name} "
                f"({len(rows)} in all): give more rows, or keep to a rule that is not learned"
            )
    generator = torch.Generator().manual_seed(seed)
    net = make(len(members), generator)
    fit(net, data, torch.from_numpy(target.astype(np.float32)), members, loss, settings, seed)
    rule = make(1, torch.Generator())
    rule.load_state_dict({name: tensor[-1:] for name, tensor in net.state_dict().items()})
    values = predict(rule, data)[0]
    values[rows] = predict(net, tuple(t[rows] for t in data))[fold, np.arange(len(rows))]
    return rule.eval(), values


@one_thread()
def predict(net: nn.Module, data: tuple[Tensor, ...], batch: int = 4096) -> np.ndarray:
    """Outputs of every member on every row: float64 [M, n]; NaN and infinity are refused."""
    members = next(net.parameters()).shape[0]
    net.eval()
    with torch.no_grad():
        parts = [
            net(*(t[None].expand(members, *t.shape) for t in part), torch.ones(members, len(part[0])))
            for part in zip(*(t.split(batch) for t in data))
        ]
    outputs = torch.cat(parts, dim=1).double().numpy()
    if not np.isfinite(outputs).all():
        raise ValueError("the fitted rule gives NaN or infinity: lower the learning rate, or look at the features")
    return outputs


@dataclass(frozen=True)
class LearnedRule:
    """A rule fitted on calibration rows: `net` (one member) reads what `kind` says; `sign` makes high mean keep."""

    kind: str
    net: nn.Module
    sign: float
    inputs: int
    settings: FitSettings
    seed: int

    def confidence(self, data: tuple[Tensor, ...]) -> np.ndarray:
        """Confidence of new queries, float64 [n]: not for the calibration rows the rule was fitted on."""
        return self.sign * predict(self.net, data)[0]

    def save(self, folder: str | Path) -> Path:
        """Write rule.safetensors and rule.json into `folder`, each whole or not at all; returns the folder."""
        folder = Path(folder)
        path = folder / "rule.safetensors"
        with whole_file(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.net.state_dict().items()}, temporary)
        fields = {name: getattr(self, name) for name in ("kind", "sign", "inputs", "seed")}
        write_sealed(folder / "rule.json", fields | {"settings": asdict(self.settings)}, path)
        return folder

    @classmethod
    def load(cls, folder: str | Path, makers: dict[str, Callable[[int], nn.Module]]) -> LearnedRule:
        """Read what `save` wrote; makers: kind -> (inputs -> net of one member)."""
        folder = Path(folder)
        meta = read_sealed(folder / "rule.json", folder / "rule.safetensors")
        if meta["kind"] not in makers:
            raise ValueError(f"{folder} holds a rule {meta['kind']!r}, expected one of {', '.join(makers)}")
        net = makers[meta["kind"]](meta["inputs"])
        net.load_state_dict(load_file(folder / "rule.safetensors"))
        return cls(net=net.eval(), **(meta | {"settings": FitSettings(**meta["settings"])}))
