"""How learned rules are fitted: folds of clusters, members side by side, nothing seen that must not be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned import answers, auroc, splits

from cat_core.files import read_sealed, write_sealed
from cat_core.rules import fitting
from cat_core.rules.fitting import (
    Dense,
    FitSettings,
    LearnedRule,
    OneClassError,
    Standardise,
    cluster_folds,
    cross_entropy,
    fit,
    predict,
)
from cat_core.rules.posthoc import FITTED, Perceptron, fit_rule, learned_confidences, load_rule, rule_inputs

QUICK = FitSettings(epochs=3, batch_size=16, learning_rate=1e-2)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=80), st.integers(2, 6), st.data()
)
def test_folds_keep_clusters_whole_and_deal_them_out(rows, folds, data):
    clusters, target = [f"c{c}" for c, _ in rows], np.array([y for _, y in rows])
    names = sorted(set(clusters))
    if len(names) < folds:
        with pytest.raises(ValueError, match=f"{len(names)} clusters for {folds} folds"):
            cluster_folds(clusters, target, folds)
        return
    seed = data.draw(st.integers(0, 100))
    fold = cluster_folds(clusters, target, folds, seed)
    of = {name: {int(f) for f, c in zip(fold, clusters) if c == name} for name in names}
    assert all(len(found) == 1 for found in of.values())
    sizes = np.bincount([found.pop() for found in of.values()], minlength=folds)
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
    assert (fold == cluster_folds(clusters, target, folds, seed)).all()


def test_folds_spread_a_rare_class_and_follow_the_seed():
    target = np.zeros(100)
    target[::10] = 1
    fold = cluster_folds(range(100), target, 5, seed=3)
    assert np.bincount(fold[target == 1]).tolist() == [2] * 5
    assert (fold != cluster_folds(range(100), target, 5, seed=4)).any()


def data_of(n=60, seed=0):
    features, small, large = answers(n, seed)
    return rule_inputs(features, "post_hoc_embed"), torch.from_numpy((large > small).astype(np.float32))


def fitted(members, data, target, seed=0, chosen=QUICK):
    net = Perceptron(data[0].shape[1], len(members), torch.Generator().manual_seed(seed))
    fit(net, data, target, members, cross_entropy, chosen, seed)
    return predict(net, data)


def test_a_member_is_fitted_in_company_as_alone():
    data, target = data_of()
    rows = [np.arange(0, 45), np.arange(15, 60), np.arange(60)]  # as many batches each: 3 or 4
    chosen = FitSettings(epochs=3, batch_size=30, learning_rate=1e-2)
    together = fitted(rows, data, target, chosen=chosen)
    for m, own in enumerate(rows):
        np.testing.assert_allclose(together[m], fitted([own], data, target, chosen=chosen)[0], rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_a_member_does_not_see_other_rows():
    data, target = data_of()
    before = fitted([np.arange(40)], data, target)[0]
    changed = data[0].clone()
    changed[40:] = 1e3
    after = fitted([np.arange(40)], (changed,), 1 - target * (torch.arange(60) < 40))[0]
    flipped = target.clone()
    flipped[40:] = 1 - flipped[40:]
    after = fitted([np.arange(40)], (changed,), flipped)[0]
    assert (before[:40] == after[:40]).all()
    flipped[3] = 1 - flipped[3]
    assert (before[:40] != fitted([np.arange(40)], data, flipped)[0][:40]).any()


@pytest.mark.parametrize("rule", FITTED)
def test_calibration_rows_are_valued_without_themselves(rule, monkeypatch):
    """Turning a calibration row's outcome round leaves the values of its own fold, and only those, as they were."""
    features, small, large = answers(80)
    fold = np.arange(40) % 5
    monkeypatch.setattr(fitting, "cluster_folds", lambda *_: fold)
    arguments = {"split": splits(80), "clusters": np.arange(80), "rules": [rule], "settings": QUICK}
    before = learned_confidences(features, small, large, **arguments)[rule]
    small, large = small.copy(), large.copy()
    small[7], large[7] = (1, 0) if large[7] > small[7] else (0, 1)
    after = learned_confidences(features, small, large, **arguments)[rule]
    same = before == after
    assert same[:40][fold == 2].all() and not same[:40][fold != 2].any() and not same[40:].any()


@pytest.mark.parametrize("rule", FITTED)
def test_test_rows_are_not_read(rule):
    features, small, large = answers(80)
    arguments = {"split": splits(80), "clusters": np.arange(80), "rules": [rule], "settings": QUICK}
    before = learned_confidences(features, small, large, **arguments)[rule]
    for quality in (small, large):
        quality[40:] = np.nan
    features.quantiles[60:] = features.large_embedding[60:] = 1e3
    features.tokens[features.offsets[60] :] = -1e3
    after = learned_confidences(features, small, large, **arguments)[rule]
    assert (before[:60] == after[:60]).all() and (before[60:] != after[60:]).all()


def test_noise_looks_like_noise_on_calibration_rows():
    """The network knows its rows by heart; the cross-fitted values must not show it."""
    features, small, large = answers(200, signal=0.0)
    small, large = np.random.default_rng(5).integers(0, 2, (2, 200)).astype(float)
    split = np.where(np.arange(200) < 160, "calibration", "test")
    label, calibration = (large > small).astype(int), split == "calibration"
    chosen = FitSettings(epochs=150, batch_size=64, learning_rate=1e-2)
    rule, values = fit_rule(features, small, large, split, range(200), rule="post_hoc_embed", settings=chosen)
    by_heart = rule.confidence(rule_inputs(features, "post_hoc_embed"))
    assert auroc(-by_heart[calibration], label[calibration]) > 0.9
    assert 0.3 < auroc(-values[calibration], label[calibration]) < 0.7
    assert (values[~calibration] == by_heart[~calibration]).all()


@pytest.mark.parametrize("rule", FITTED)
def test_a_seed_decides_everything(rule):
    features, small, large = answers(60)
    rows = (features, small, large, splits(60), np.arange(60))
    one, two, other = (learned_confidences(*rows, seed, rules=[rule], settings=QUICK)[rule] for seed in (1, 1, 2))
    torch.manual_seed(99)  # the global generators have no part in it
    np.random.seed(99)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        again = learned_confidences(*rows, 1, rules=[rule], settings=QUICK)[rule]
        assert torch.get_num_threads() == (2 if threads == 1 else 1)
    finally:
        torch.set_num_threads(threads)
    assert (one == two).all() and (one == again).all() and (one != other).any()


@pytest.mark.parametrize("rule", FITTED)
def test_saved_and_loaded(rule, tmp_path):
    features, small, large = answers(60)
    rows = (features, small, large, splits(60), np.arange(60))
    made, values = fit_rule(*rows, rule=rule, settings=QUICK)
    assert isinstance(made, LearnedRule)
    features.quantiles[:, 0] = 0  # not what the rule was fitted on
    inputs = rule_inputs(features, rule)
    loaded = load_rule(made.save(tmp_path / "rule"))
    assert (loaded.confidence(inputs) == made.confidence(inputs)).all()
    assert (loaded.kind, loaded.seed, loaded.settings, loaded.sign) == (rule, 0, QUICK, made.sign)
    assert sorted(p.name for p in (tmp_path / "rule").iterdir()) == ["rule.json", "rule.safetensors"]
    path, weights = (tmp_path / "rule" / name for name in ("rule.json", "rule.safetensors"))
    meta = read_sealed(path, weights)
    write_sealed(path, meta | {"kind": "oracle"}, weights)
    with pytest.raises(ValueError, match="holds a rule 'oracle', expected one of post_hoc_quantile"):
        load_rule(tmp_path / "rule")
    write_sealed(path, meta, weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged, or do not belong together: make them again"):
        load_rule(tmp_path / "rule")


def test_standardise_uses_numpys_numbers_and_survives_constants():
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) * 4 + 7
    rows[:, 1] = 0.1
    standard = Standardise(2, 3)
    standard.fit(1, rows)
    found = standard(torch.stack([rows, rows]))
    assert (found[0] == rows).all()  # member 0 was not fitted
    expected = (rows.numpy() - rows.numpy().mean(0)) / rows.numpy().std(0)
    np.testing.assert_allclose(found[1][:, [0, 2]], expected[:, [0, 2]], rtol=1e-4, atol=1e-5)
    assert (found[1][:, 1] == 0).all()


def test_dense_is_a_linear_layer_for_each_member():
    dense = Dense(3, 4, 2, torch.Generator().manual_seed(0))
    x = torch.randn(3, 5, 4)
    with torch.no_grad():
        dense.weight[1] *= 2
        dense.bias[2] += 1
        for m in range(3):
            expected = torch.nn.functional.linear(x[m], dense.weight[m].T, dense.bias[m, 0])
            torch.testing.assert_close(dense(x)[m], expected)
    assert dense.weight.abs().max() <= 2 * 0.5 and (dense.weight[0] == dense.weight[2]).all()


GOOD = answers(60)


@pytest.mark.parametrize("rule", FITTED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": np.where(np.arange(60) < 19, "calibration", "test")}, "19 calibration rows, expected at least 20"),
        ({"split": np.full(60, "train")}, "rows of split 'train': give calibration and test rows only"),
        ({"large_quality": np.full(60, np.nan)}, "large_quality is outside .0, 1. or NaN"),
        ({"small_quality": 100 * np.ones(60)}, "small_quality is outside .0, 1. or NaN"),
        ({"small_quality": np.ones(59)}, r"small_quality has shape \(59,\), expected \(60,\)"),
        ({"clusters": np.zeros(60)}, "1 clusters for 5 folds"),
    ],
)
def test_bad_rows(rule, change, message):
    features, small, large = GOOD
    rows = {"small_quality": small, "large_quality": large, "split": splits(60), "clusters": np.arange(60)}
    with pytest.raises(ValueError, match=message) as caught:
        learned_confidences(features, **(rows | change), rules=[rule], settings=QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rule", FITTED)
def test_a_rule_with_one_class_to_learn_from_is_left_out(rule):
    features, _, large = GOOD
    rows = (features, np.ones(60), large, splits(60), np.arange(60))
    with pytest.raises(OneClassError, match="one class only: the target is [01] on all 24 calibration without fold 0"):
        fit_rule(*rows, rule=rule)
    with pytest.warns(UserWarning, match=f"rule '{rule}' is left out: one class only"):
        found = learned_confidences(*rows, rules=[rule], settings=QUICK)
    assert np.isnan(found[rule]).all() and found[rule].shape == (60,)


@pytest.mark.parametrize(
    ("rule", "name"), [("post_hoc_quantile", "quantiles"), ("post_hoc_embed", "large_embedding"), ("edge", "tokens")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers(rule, name, value):
    features, small, large = answers(60)
    getattr(features, name)[-1, 0] = value
    with pytest.raises(ValueError, match=f"feature '{name}' is NaN or infinite in 1 of 60 rows, first row 59"):
        learned_confidences(features, small, large, splits(60), np.arange(60), rules=[rule])


def test_one_class_in_a_fold_is_told(monkeypatch):
    """All rescues in one cluster: without its fold the target is constant."""
    features, small, large = answers(60)
    large[:30], small[:30] = 1, 1
    small[:2] = 0
    clusters = [0, 0, *range(1, 59)]
    with pytest.raises(ValueError, match=r"one class only: the target is 0 on all \d+ calibration without fold \d"):
        fit_rule(features, small, large, splits(60), clusters, settings=QUICK)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("epochs", True), ("batch_size", 3), ("folds", 1), ("learning_rate", -1.0), ("weight_decay", "1")],
)
def test_bad_settings(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}; expected a"):
        FitSettings(**{field: value})


def test_divergence_is_told():
    features, small, large = answers(60)
    with pytest.raises(ValueError, match="the fitted rule gives NaN or infinity: lower the learning rate"):
        fit_rule(features, small, large, splits(60), np.arange(60), settings=FitSettings(epochs=9, learning_rate=1e30))
