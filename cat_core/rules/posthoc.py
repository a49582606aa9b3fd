"""Post-hoc deferral rules: networks that learn, on calibration rows, where L would do better than S.

Source: Gupta et al., "Language Model Cascades: Token-Level Uncertainty and Beyond" (arXiv 2404.10136): a multilayer
perceptron with 5 layers of 32 hidden units and batch normalisation, 200 epochs, on the vector of quantiles of S's token
log-probabilities (Post-Hoc-Quantile), and on that with S's last hidden state and L's first-layer embedding appended
(Post-Hoc-Embed; every query pays for the latter, see `features.AnswerFeatures.large_flops`).

Ours, because the description leaves it open: the target (`TARGETS`), the optimiser, that "5 layers" means five linear
ones (four hidden, the fifth the output), and that batch normalisation is applied with the statistics of all rows the
network was fitted on. The matrix products of the network itself, 2 (32 d + 3,104) FLOPs a query for d inputs, are not
counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cat_core.rules import edge, fitting
from cat_core.rules.features import AnswerFeatures
from cat_core.rules.fitting import Dense, FitSettings, LearnedRule, OneClassError, Standardise

TARGETS = ("rescue", "gain")
"""rescue: whether L is right and S is wrong, l > s (cross entropy); gain: l - s (squared error). Where both can be
wrong, `gain` is what deferral should be ordered by, as it also sees where L spoils an answer; 0/1 quality has few such
rows and a rare class, for which cross entropy is the usual loss."""

LAYERS, WIDTH = 5, 32
POST_HOC = ("post_hoc_quantile", "post_hoc_embed")
FITTED = (*POST_HOC, "edge")


class Perceptron(nn.Module):
    """[M, B, inputs] -> [M, B]: `LAYERS` linear layers with batch normalisation and ReLU between them."""

    def __init__(self, inputs: int, members: int, generator: torch.Generator):
        super().__init__()
        self.standard = Standardise(members, inputs)
        sizes = [inputs, *[WIDTH] * (LAYERS - 1)]
        self.layers = nn.ModuleList([Dense(members, a, b, generator) for a, b in zip(sizes, sizes[1:])])
        self.norms = nn.ModuleList([BatchNorm(members, WIDTH) for _ in self.layers])
        self.head = Dense(members, WIDTH, 1, generator)

    def standardise(self, member: int, rows: Tensor) -> None:
        """Take the statistics of the rows [n, inputs] that the member is fitted on."""
        self.standard.fit(member, rows)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        x = self.standard(x)
        for layer, norm in zip(self.layers, self.norms):
            x = norm(layer(x), weights).relu()
        return self.head(x).squeeze(-1)

    def settle(self, rows: Tensor, weights: Tensor) -> None:
        """Fix each normalisation to the statistics of the member's rows: all [n, inputs], weights [M, n] 0 or 1."""
        self(rows[None].expand(len(weights), *rows.shape), weights)


class BatchNorm(nn.Module):
    """Batch normalisation of [M, B, width] over rows of weight 1; in evaluation by those of the last training call."""

    def __init__(self, members: int, width: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = nn.Parameter(torch.ones(members, 1, width))
        self.beta = nn.Parameter(torch.zeros(members, 1, width))
        self.register_buffer("mean", torch.zeros(members, 1, width))
        self.register_buffer("variance", torch.ones(members, 1, width))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        if self.training:
            share = (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)
            mean = (share * x).sum(1, keepdim=True)
            variance = (share * (x - mean) ** 2).sum(1, keepdim=True)  # the biased one
            self.mean.copy_(mean.detach())
            self.variance.copy_(variance.detach())
        return (x - mean) * (variance + self.epsilon).rsqrt() * self.gamma + self.beta


def rule_inputs(features: AnswerFeatures, rule: str) -> tuple[Tensor, ...]:
    """What a rule of `FITTED` reads, [n, ...] each. ValueError for NaN and infinity, naming the feature."""
    if rule == "edge":
        return edge.router_inputs(features)
    if rule not in POST_HOC:
        raise ValueError(f"unknown learned rule {rule!r}: choose {', '.join(FITTED)}")
    names = ("quantiles",) if rule == "post_hoc_quantile" else ("quantiles", "small_state", "large_embedding")
    return (torch.cat([fitting.check_finite(name, getattr(features, name)) for name in names], dim=1),)


def target_of(
    small_quality: np.ndarray, large_quality: np.ndarray, target: str | None = None
) -> tuple[str, np.ndarray]:
    """(name, values [n]) of the target; by default `rescue` where all quality is 0 or 1, else `gain`."""
    if target is None:
        binary = np.isin(small_quality, (0, 1)).all() and np.isin(large_quality, (0, 1)).all()
        target = "rescue" if binary else "gain"
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}: choose {' or '.join(TARGETS)}")
    gain = large_quality - small_quality
    return target, (gain > 0).astype(np.float64) if target == "rescue" else gain


def squared_error(outputs: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """[M] mean over rows of weight 1 of the squared error; all arguments [M, B]."""
    return ((outputs - target) ** 2 * weights).sum(1) / weights.sum(1)


def network(rule: str, inputs: int, members: int = 1, generator: torch.Generator | None = None) -> nn.Module:
    """`members` networks of a rule of `FITTED`, side by side (see `fitting`), that read `inputs` numbers."""
    kind = edge.Router if rule == "edge" else Perceptron
    return kind(inputs, members, generator or torch.Generator())


def fit_rule(
    features: AnswerFeatures, small_quality, large_quality, split, clusters, seed: int = 0, *,
    rule: str = "post_hoc_quantile", target: str | None = None, coverage: float = 0.5, coverage_weight: float = 1.0,
    settings: FitSettings | None = None,
) -> tuple[LearnedRule, np.ndarray]:  # fmt: skip
    """(rule, its confidence on every row: float64 [n], high = keep), fitted on calibration rows only.

    features: of n answers of one small model; small_quality, large_quality in [0, 1], split ("calibration" or
    "test"), clusters: [n], in the order of the features. Calibration rows get cross-fitted values, test rows those of
    the rule itself; the quality of test rows is not read. rule: of `FITTED`; target: of `TARGETS` (default:
    `target_of`), for `POST_HOC`; coverage and its weight: as `edge.router_loss`, for "edge". Raises one-line
    ValueErrors: one class only, NaN, too few rows or clusters, arrays out of step.
    """
    edge.check_coverage(coverage, coverage_weight)
    small, large, fitted, clusters = fitting.check_rows(small_quality, large_quality, split, clusters, len(features))
    data = rule_inputs(features, rule)
    values, inputs = np.zeros(len(features)), data[0].shape[-1]
    if rule == "edge":
        values[fitted] = edge.proxy_label(small[fitted], large[fitted])
        loss = partial(edge.router_loss, coverage=coverage, coverage_weight=coverage_weight)
        settings, sign = settings or edge.FIT, 1.0
    else:
        target, values[fitted] = target_of(small[fitted], large[fitted], target)
        loss = fitting.cross_entropy if target == "rescue" else squared_error
        settings, sign = settings or FitSettings(), -1.0
    make = partial(network, rule, inputs)
    net, outputs = fitting.cross_fitted(make, data, values, fitted, clusters, loss, settings, seed)
    return LearnedRule(rule, net, sign, inputs, settings, seed), sign * outputs


def load_rule(folder: str | Path) -> LearnedRule:
    """A saved rule of any of the kinds `FITTED`; apply it with `rule.confidence(rule_inputs(features, rule.kind))`."""
    return LearnedRule.load(folder, {rule: partial(network, rule) for rule in FITTED})


def learned_confidences(
    features: AnswerFeatures, small_quality, large_quality, split, clusters, seed: int = 0, *,
    rules: Sequence[str] = FITTED, settings: FitSettings | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Columns of the outcome table, without "confidence_": {rule: float64 [n]} for one small model and its L.

    Arguments and errors as `fit_rule`. Fitted on the calibration rows, cross-fitted on them; settings: for all
    rules, instead of each one's own. A rule that has one class only to learn from is NaN, with a warning: the models'
    answers are not lost for it.
    """
    columns = {}
    for rule in rules:
        rows = (features, small_quality, large_quality, split, clusters, seed)
        try:
            columns[rule] = fit_rule(*rows, rule=rule, settings=settings)[1]
        except OneClassError as error:
            warnings.warn(f"rule {rule!r} is left out: {error}", stacklevel=2)
            columns[rule] = np.full(len(features), np.nan)
    return columns
