"""Post-hoc rules against torch's own layers, and on rows where the answer is known."""

import numpy as np
import pytest
import torch
from learned import answers, auroc, splits
from torch import nn

from cat_core.rules.fitting import FitSettings, cross_entropy, fit, predict
from cat_core.rules.posthoc import (
    FITTED,
    Perceptron,
    fit_rule,
    learned_confidences,
    rule_inputs,
    squared_error,
    target_of,
)


@pytest.mark.parametrize("kind", ["rescue", "gain"])
def test_fitting_equals_torchs_own_layers(kind):
    """Five linear layers with BatchNorm1d, trained by a plain loop on the same batches."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.normal(3, 2, (50, 6)).astype(np.float32))
    y = torch.from_numpy(draw.integers(0, 2, 50).astype(np.float32)) - (0 if kind == "rescue" else 0.4)
    rows, chosen = np.arange(5, 42), FitSettings(epochs=4, batch_size=16, learning_rate=1e-2, weight_decay=0.1)
    net = Perceptron(6, 1, torch.Generator().manual_seed(7))
    sizes = [6, 32, 32, 32, 32]
    plain = nn.Sequential()
    for a, b in zip(sizes, sizes[1:]):
        plain.extend([nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()])
    plain.append(nn.Linear(32, 1))
    assert sum(isinstance(part, nn.Linear) for part in plain) == 5
    with torch.no_grad():
        for own, dense in zip([p for p in plain if isinstance(p, nn.Linear)], [*net.layers, net.head]):
            own.weight.copy_(dense.weight[0].T)
            own.bias.copy_(dense.bias[0, 0])
    fit(net, (x,), y, [rows], cross_entropy if kind == "rescue" else squared_error, chosen, seed=3)

    mean, spread = x[rows].mean(0), x[rows].std(0, unbiased=False)
    scaled = (x - mean) / spread
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1)
    loss = nn.BCEWithLogitsLoss() if kind == "rescue" else nn.MSELoss()
    order = np.random.default_rng(3)
    for _ in range(4):
        for part in np.array_split(order.permutation(rows), 3):
            optimizer.zero_grad()
            loss(plain(scaled[part]).squeeze(-1), y[part]).backward()
            optimizer.step()
    with torch.no_grad():  # batch statistics of all rows that were fitted on
        h = scaled
        for linear, norm in zip(
            [p for p in plain if isinstance(p, nn.Linear)], [p for p in plain if isinstance(p, nn.BatchNorm1d)]
        ):
            h = linear(h)
            h = (h - h[rows].mean(0)) / (h[rows].var(0, unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
            h = h.relu()
        expected = plain[-1](h).squeeze(-1)
    np.testing.assert_allclose(predict(net, (x,))[0], expected.double(), rtol=0, atol=2e-3)


def test_targets():
    small, large = np.array([0, 0, 1, 1.0]), np.array([0, 1, 0, 1.0])
    assert target_of(small, large)[0] == "rescue" and target_of(small, large)[1].tolist() == [0, 1, 0, 0]
    assert target_of(small, large, "gain")[1].tolist() == [0, 1, -1, 0]
    name, values = target_of(small, np.array([0.5, 0.2, 0.1, 1.0]))
    assert name == "gain" and values == pytest.approx([0.5, 0.2, -0.9, 0])
    with pytest.raises(ValueError, match="unknown target 'x': choose rescue or gain"):
        target_of(small, large, "x")


def test_losses_by_definition():
    generator = torch.Generator().manual_seed(0)
    outputs, target = torch.randn(2, 5, generator=generator), torch.rand(2, 5, generator=generator).round()
    weights = torch.tensor([[1.0, 1, 0, 1, 1], [1, 0, 0, 0, 1]])
    for m in range(2):
        rows = [i for i in range(5) if weights[m, i]]
        p = 1 / (1 + np.exp(-outputs[m].double().numpy()))
        entropy = [-np.log(p[i] if target[m, i] else 1 - p[i]) for i in rows]
        assert cross_entropy(outputs, target, weights)[m].item() == pytest.approx(np.mean(entropy), rel=1e-5)
        squares = [(outputs[m, i].item() - target[m, i].item()) ** 2 for i in rows]
        assert squared_error(outputs, target, weights)[m].item() == pytest.approx(np.mean(squares), rel=1e-5)


@pytest.mark.slow
def test_rules_learn_what_there_is_to_learn():
    features, small, large = answers(800, seed=4)
    label, split = (large > small).astype(int), splits(800)
    found = learned_confidences(features, small, large, split, np.arange(800))
    assert tuple(found) == FITTED
    quality = {}
    for part in ("calibration", "test"):
        rows = split == part
        quality[part] = {rule: auroc(-values[rows], label[rows]) for rule, values in found.items()}
        # only the one with embeddings sees how hard a query is for L
        assert quality[part]["post_hoc_embed"] > quality[part]["post_hoc_quantile"] + 0.05
        assert min(quality[part].values()) > 0.65
    # honest: what calibration rows promise is what test rows give
    assert quality["calibration"] == pytest.approx(quality["test"], abs=0.08)


def test_graded_quality_is_regressed():
    features, small, large = answers(200, seed=3)
    draw = np.random.default_rng(0)
    small, large = (0.3 * q + 0.5 + 0.1 * draw.random(200) for q in (small, large))
    rule, values = fit_rule(
        features, small, large, splits(200), np.arange(200), rule="post_hoc_embed",
        settings=FitSettings(epochs=60, batch_size=32, learning_rate=2e-3),
    )  # fmt: skip
    test = splits(200) == "test"
    assert np.corrcoef(-values[test], (large - small)[test])[0, 1] > 0.4
    assert abs((-values[test]).mean() - (large - small)[test].mean()) < 0.15  # in units of quality


def test_inputs():
    features = answers(20)[0]
    assert [tuple(t.shape) for t in rule_inputs(features, "post_hoc_quantile")] == [(20, 11)]
    joined = rule_inputs(features, "post_hoc_embed")[0].numpy()
    assert (joined == np.hstack([features.quantiles, features.small_state, features.large_embedding])).all()
    with pytest.raises(ValueError, match="unknown learned rule 'x': choose post_hoc_quantile, post_hoc_embed, edge"):
        rule_inputs(features, "x")
    with pytest.raises(ValueError, match="unknown learned rule 'x'"):
        fit_rule(*answers(60), splits(60), np.arange(60), rule="x")
