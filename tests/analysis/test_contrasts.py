"""Contrasts against `paired_bootstrap`, also across comparisons; effects against numbers that were put in."""

from dataclasses import replace

import numpy as np
import pytest
from small_tables import table, text_table

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.contrasts import AT_RANDOM, Arm, contrasts, effects, seed_areas
from cat_core.analysis.resampling import paired_bootstrap
from cat_core.curves import audc

DEAL = {0: 3, 1: 7, 2: 3}


@pytest.fixture(scope="module")
def accuracy():
    return Comparison(table(large_seeds=(3, 7), seeds=(0, 1, 2), n=40), DEAL, resamples=60)


@pytest.fixture(scope="module")
def bleu():
    return Comparison(text_table(), resamples=30)


@pytest.mark.parametrize("which", ["accuracy", "bleu"])
def test_a_contrast_of_two_is_their_paired_difference(which, request):
    c = request.getfixturevalue(which)
    arms = {"a": Arm(c, "cat-dist"), "b": Arm(c, "dist"), "r": Arm(c, "dist", AT_RANDOM)}
    found = contrasts(arms, {"gain": {"a": 1, "b": -1}, "rule": {"b": 1, "r": -1}, "one": {"a": 1}})
    assert vars(found["gain"]) == pytest.approx(vars(c.difference("cat-dist", "dist")), abs=1e-9)
    assert vars(found["rule"]) == pytest.approx(vars(c.over_random("dist")), abs=1e-9)
    one = {end: min(x, 100 / c.scale) for end, x in vars(found["one"]).items()}  # a quality is cut to what it can be
    assert one == pytest.approx(vars(c.audc("cat-dist")), abs=1e-9)


def test_across_comparisons_it_is_the_paired_bootstrap_of_all_runs(accuracy):
    """Another cell with the same items and large models: a difference of differences, by hand from one draw."""
    other = Comparison(_retrained(accuracy.frame), DEAL, resamples=60)
    arms = {f"{m} {i}": Arm(c, m) for i, c in enumerate((accuracy, other)) for m in ("dist", "cat-dist")}
    change = {"cat-dist 1": 1, "dist 1": -1, "cat-dist 0": -1, "dist 0": 1}
    found = contrasts(arms, {"change": change, "dist": {"dist 1": 1, "dist 0": -1}})
    runs = {name: arm.runs() for name, arm in arms.items()}
    how = {"groups": accuracy.groups, "resamples": 60, "grid": None}
    expected = paired_bootstrap(runs, pairs=[("dist 1", "dist 0")], **how).difference["dist 1", "dist 0"]
    assert vars(found["dist"]) == pytest.approx(vars(expected), abs=1e-12)
    by_hand = np.mean([sum(w * audc(arms[name].comparison.seed_curve(arms[name].method, seed)) for name, w in
                           change.items()) for seed in accuracy.seeds])  # fmt: skip
    assert found["change"].estimate == pytest.approx(by_hand, abs=1e-12)
    assert found["change"].low < found["change"].estimate < found["change"].high
    same = contrasts({"x": Arm(accuracy, "dist"), "y": Arm(replace(accuracy), "dist")},
                     {"nothing": {"x": 1, "y": -1}})  # fmt: skip
    assert set(vars(same["nothing"]).values()) == {0.0}


def _retrained(frame):
    """The same items and large models with other small models."""
    frame, rng = frame.copy(), np.random.default_rng(5)
    small = (frame["model"] == "small").to_numpy()
    frame.loc[small, "quality"] = (rng.random(small.sum()) < 0.6).astype(float)
    frame.loc[small, "confidence_chow_average"] = rng.normal(size=small.sum())
    return frame


def test_what_cannot_be_paired_is_refused(accuracy):
    arm = Arm(accuracy, "dist")
    fewer = Arm(replace(accuracy, seeds=(0, 1)), "dist")
    with pytest.raises(ValueError, match=r"arm 'b' has seeds \(0, 1\), the first one \(0, 1, 2\)"):
        contrasts({"a": arm, "b": fewer}, {"d": {"a": 1, "b": -1}})
    with pytest.raises(ValueError, match="contrast 'd' is made of"):
        contrasts({"a": arm}, {"d": {"a": 1, "c": -1}})
    items = accuracy.frame.assign(item_id="x" + accuracy.frame["item_id"])
    with pytest.raises(ValueError, match="same items"):
        contrasts({"a": arm, "b": Arm(Comparison(items, DEAL), "dist")}, {"d": {"a": 1, "b": -1}}, resamples=5)
    with pytest.raises(ValueError, match="arms is empty"):
        contrasts({}, {})


def test_seed_areas_are_those_of_the_curves(accuracy, bleu):
    for c in (accuracy, bleu):
        rules = ("chow_average", "chow_quantile_0")
        areas, random = seed_areas(c, ("dist", "cat-dist"), rules)
        for i, m in enumerate(("dist", "cat-dist")):
            for j, r in enumerate(rules):
                assert areas[i, j].mean() == pytest.approx(c.audc(m, r).estimate, abs=1e-9)
                over = (areas[i, j] - random[i]).mean()
                assert over == pytest.approx(c.over_random(m, r).estimate, abs=1e-9)


def test_effects_are_the_numbers_put_in():
    method, rule, seed = np.array([0.0, 3.0, 6.0]), np.array([1.0, -1.0]), np.array([5.0, 0.0, -5.0, 2.0])
    areas = method[:, None, None] + rule[:, None] + seed
    of_method, of_rule, both = effects(areas, ("a", "b", "c"), ("r", "s"))
    assert (of_method.spread, of_method.span) == pytest.approx((3.0, 6.0))
    assert (of_method.best, of_method.worst) == ("c", "a")
    assert (of_rule.spread, of_rule.best) == (pytest.approx(np.sqrt(2)), "r")
    for effect in (of_method, of_rule, both):
        assert effect.luck == pytest.approx(0, abs=1e-12)
    assert both.spread == pytest.approx(0, abs=1e-12)
    crossed = areas + np.array([[1, -1], [-1, 1], [0, 0]])[..., None]
    assert effects(crossed, ("a", "b", "c"), ("r", "s"))[2].spread == pytest.approx(np.sqrt(4 / 2))


def test_luck_is_the_spread_of_a_factor_that_does_nothing():
    rng, found = np.random.default_rng(0), []
    for _ in range(4000):
        areas = rng.normal(size=(1, 1, 6)) + rng.normal(size=(4, 3, 6))  # what a seed shares is no luck of a factor
        found.append([(e.spread**2, e.luck**2) for e in effects(areas, "abcd", "rst")])
    spread, luck = np.mean(found, axis=0).T
    np.testing.assert_allclose(spread, luck, rtol=0.08)  # equal in expectation
    # method means over 3 rules and 6 seeds of unit noise
    assert luck[0] == pytest.approx(1 / 18, rel=0.05) and luck[1] == pytest.approx(1 / 24, rel=0.05)
    assert luck[2] == pytest.approx(1 / 6, rel=0.05)


def test_effects_need_two_of_everything():
    with pytest.raises(ValueError, match="at least 2 of each"):
        effects(np.zeros((2, 2, 1)), "ab", "rs")
    with pytest.raises(ValueError, match=r"has shape \(2, 3, 4\)"):
        effects(np.zeros((2, 3, 4)), "ab", "rs")
