"""The fast paired bootstrap against a loop that copies the drawn items and scores them anew."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cat_core.analysis.resampling import (
    GRID,
    MeanRun,
    Scratch,
    cluster_numbers,
    coverage,
    holm,
    item_counts,
    paired_bootstrap,
    seed_weights,
)
from cat_core.curves import audc, deferral_curve


def run(rng, n, ties=False, whole=True, **more):
    """One method's answers: random quality and confidence."""
    small, large = rng.random((2, n))
    if whole:
        small, large = (small < 0.5) * 1.0, (large < 0.7) * 1.0
    return SimpleNamespace(
        small_quality=small,
        large_quality=large,
        confidence=rng.integers(0, 6, n) * 0.5 if ties else rng.normal(size=n),
        **more,
    )


def copied(found, counts):
    """The deferral curve of a resample whose drawn items are really copied."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return deferral_curve(found.small_quality[rows], found.large_quality[rows], found.confidence[rows])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_areas_and_curves_equal_copying(n, ties, whole, seed):
    rng = np.random.default_rng(seed)
    found = run(rng, n, ties, whole)
    counts = item_counts(rng, 5, cluster_numbers(rng.integers(0, 4, n)) if n > 8 else np.arange(n))
    area, values = MeanRun(found.small_quality, found.large_quality, found.confidence).resample(counts, GRID, Scratch())
    for b, drawn in enumerate(counts):
        curve = copied(found, drawn)
        assert area[b] == pytest.approx(audc(curve), abs=1e-12)
        np.testing.assert_allclose(values[b], np.interp(GRID, curve.deferral_rate, curve.quality), atol=1e-9)


def test_bootstrap_equals_a_naive_loop_over_seeds_and_items():
    rng = np.random.default_rng(3)
    n, k, resamples = 30, 3, 50
    clusters = np.repeat(np.arange(10), 3)
    methods = {name: [run(rng, n) for _ in range(k)] for name in "ab"}
    found = paired_bootstrap(methods, pairs=[("a", "b")], clusters=clusters, resamples=resamples, level=0.9, seed=5)

    item_stream, seed_stream = (np.random.default_rng(s) for s in np.random.SeedSequence(5).spawn(2))
    draws = {name: [] for name in methods}
    weights = seed_weights(seed_stream, resamples, k)  # which has tests of its own
    for weight in weights:
        counts = item_counts(item_stream, 1, clusters)[0]
        for name, runs in methods.items():
            areas = [audc(copied(one, counts)) for one in runs]
            once = [audc(copied(one, np.ones(n, dtype=int))) for one in runs]
            draws[name].append(np.mean(areas) + (weight - 1 / k) @ once)
    for name, runs in methods.items():
        estimate = np.mean([audc(copied(one, np.ones(n, dtype=int))) for one in runs])
        low, high = np.quantile(draws[name], [0.05, 0.95])
        assert found.area[name].estimate == pytest.approx(estimate)
        assert (found.area[name].low, found.area[name].high) == (pytest.approx(low), pytest.approx(high))
    difference = np.subtract(draws["a"], draws["b"])
    assert found.difference["a", "b"].low == pytest.approx(np.quantile(difference, 0.05))
    assert (found.n_items, found.n_clusters, found.n_seeds, found.resamples) == (n, 10, k, resamples)


def test_blocks_do_not_change_the_draws(monkeypatch):
    rng = np.random.default_rng(0)
    methods = {"a": [run(rng, 20), run(rng, 20)]}
    once = paired_bootstrap(methods, resamples=37)
    monkeypatch.setattr("cat_core.analysis.resampling.BLOCK", 100)
    again = paired_bootstrap(methods, resamples=37)
    assert once.area == again.area
    np.testing.assert_array_equal(once.curve["a"].low, again.curve["a"].low)


def test_a_method_does_not_differ_from_itself_and_bands_hold_the_curve():
    one = run(np.random.default_rng(1), 200)
    found = paired_bootstrap({"a": one, "b": one}, pairs=[("a", "b")], resamples=200)
    assert tuple(vars(found.difference["a", "b"]).values()) == (0, 0, 0)
    assert not found.difference_curve["a", "b"].high.any()
    band, curve = found.curve["a"], deferral_curve(one.small_quality, one.large_quality, one.confidence)
    np.testing.assert_allclose(band.estimate, np.interp(GRID, curve.deferral_rate, curve.quality))
    assert (band.low <= band.estimate).all() and (band.estimate <= band.high).all()
    assert found.area["a"].low < found.area["a"].estimate < found.area["a"].high
    without = paired_bootstrap({"a": one}, resamples=20, grid=None)
    assert without.curve == {} and without.difference_curve == {}


def test_intervals_cover():
    """The 80 % interval of the area covers the truth of a known population about 80 times in 100."""
    rng, hits = np.random.default_rng(7), 0
    # s ~ Bernoulli(q), l = 1, q uniform: A(r) = 1/2 + r - r^2/2, area 1/2 + 1/2 - 1/6
    for _ in range(200):
        q = rng.random(150)
        right = (rng.random(150) < q) * 1.0
        data = SimpleNamespace(small_quality=right, large_quality=np.ones(150), confidence=q)
        area = paired_bootstrap({"m": data}, resamples=200, level=0.8, grid=None).area["m"]
        hits += area.low <= 5 / 6 <= area.high
    assert 140 <= hits <= 178


# ---------------------------------------------------------------- large models above seeds


LAYOUTS = {
    "10 over 3": (4, 3, 3), "5 over 3": (2, 2, 1), "2 each": (2, 2, 2), "one each": (1,) * 6, "three": (1,) * 3,
    "two": (1, 1), "3 over 2": (2, 1),
}  # fmt: skip


@pytest.mark.parametrize("sizes", [(1,) * 2, (1,) * 3, (1,) * 10, (2, 2, 2), (3, 3)])
def test_seed_weights_give_the_t_interval(sizes):
    rng, groups = np.random.default_rng(4), np.repeat(np.arange(len(sizes)), sizes)
    values = rng.normal(size=(len(groups), 2)) + [3.0, 0.0]  # two numbers a seed: weighted alike
    drawn = seed_weights(rng, 200_000, len(groups), groups if max(sizes) > 1 else None) @ values
    means = np.stack([values[groups == g].mean(axis=0) for g in range(len(sizes))])
    error = means.std(axis=0, ddof=1) / len(sizes) ** 0.5
    for column, (mean, se) in enumerate(zip(means.mean(axis=0), error)):
        for level in (0.8, 0.95):
            low, high = stats.t.interval(level, len(sizes) - 1, mean, se)
            found = np.quantile(drawn[:, column], [(1 - level) / 2, (1 + level) / 2])
            assert found == pytest.approx((low, high), abs=0.03 * (high - low))


def test_seed_weights_of_unequal_groups_have_the_stated_spread():
    rng, groups, share = np.random.default_rng(5), np.array([0, 1, 0, 2, 0]), np.array([0.6, 0.2, 0.2])
    values = rng.normal(size=5)
    weights = seed_weights(rng, 100_000, 5, groups.tolist())
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights[:, 0], weights[:, 2])
    means = np.array([values[groups == g].mean() for g in range(3)])
    squares = share**2 / (1 - share) * (means - share @ means) ** 2
    drawn = (weights @ values - values.mean()) / squares.sum() ** 0.5
    quartiles = stats.t(2).ppf([0.025, 0.25, 0.5, 0.75, 0.975])
    np.testing.assert_allclose(np.quantile(drawn, [0.025, 0.25, 0.5, 0.75, 0.975]), quartiles, atol=0.08)


@pytest.mark.parametrize("sizes", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_intervals_cover_whatever_large_models_do(sizes, ratio):
    assert coverage(sizes, ratio) >= 0.93


def test_drawing_few_seeds_with_replacement_does_not_cover():
    def plain(rng, resamples, seeds, groups):
        return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds

    assert coverage((2, 2, 1), 1, weights=plain) < 0.85


def test_one_group_is_no_level():
    plain, grouped = (seed_weights(np.random.default_rng(2), 50, 4, g) for g in (None, ["L"] * 4))
    np.testing.assert_array_equal(plain, grouped)
    one = {"a": [run(np.random.default_rng(i), 9) for i in range(3)]}
    assert paired_bootstrap(one, resamples=40, groups=[7] * 3).area == paired_bootstrap(one, resamples=40).area
    with pytest.raises(ValueError, match="groups has 2 labels for 3 training seeds"):
        paired_bootstrap(one, resamples=4, groups=[0, 1])


def test_bootstrap_equals_plain_loops_and_scipy():
    """Items drawn one by one by another generator, seeds by their t distribution: the same quantiles but for noise."""
    rng, n, resamples = np.random.default_rng(11), 12, 4000
    groups, clusters = [0, 1, 2, 0, 1, 2], np.repeat(np.arange(6), 2)
    methods = {}
    for name, gain in (("a", 0.9), ("b", 0.5)):
        methods[name] = [run(rng, n, ties=True) for _ in groups]
        for found, g in zip(methods[name], groups):  # large models that differ much
            found.large_quality = (rng.random(n) < (gain, 0.5, 0.1)[g]) * 1.0
    fast = paired_bootstrap(methods, pairs=[("a", "b")], clusters=clusters, groups=groups, resamples=resamples)
    flat = paired_bootstrap(methods, pairs=[("a", "b")], clusters=clusters, resamples=resamples)

    def of_groups(counts):
        areas = [[audc(copied(methods[name][i], counts)) for name in "ab"] for i in range(6)]
        return [np.mean([areas[i][0] - areas[i][1] for i in (g, g + 3)]) for g in range(3)]

    draws, error = [], np.std(of_groups(np.ones(n, dtype=int)), ddof=1) / 3**0.5
    for _ in range(resamples):
        counts = np.zeros(n, dtype=int)
        for c in rng.integers(0, 6, 6):
            counts[clusters == c] += 1
        means = of_groups(counts)
        draws.append(np.mean(means) + rng.standard_t(2) * error)
    wanted, width = np.quantile(draws, [0.025, 0.975]), np.ptp(np.quantile(draws, [0.025, 0.975]))
    found = fast.difference["a", "b"]
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.1 * width)
    assert (fast.n_groups, flat.n_groups) == (3, 1)


def test_item_counts():
    clusters = np.array([0, 0, 1, 2, 2, 2])
    counts = item_counts(np.random.default_rng(0), 3000, clusters)
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.06)
    np.testing.assert_array_equal(cluster_numbers(["b", "a", "b", "c"]), [0, 1, 0, 2])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.clear(), "methods is empty"),
        (lambda m: m.update(a=[m["a"]] * 2), "same training seeds"),
        (lambda m: m.update(a=[]), "same training seeds"),
        (lambda m: (setattr(m["a"], "seed", 1), setattr(m["b"], "seed", 2)), "same training seeds"),
        (lambda m: [setattr(found, "item_ids", [name] * 9) for name, found in m.items()], "other items"),
        (lambda m: m.update(a=run(np.random.default_rng(0), 8)), "same items"),
    ],
)
def test_runs_that_do_not_match(change, message):
    methods = {name: run(np.random.default_rng(i), 9) for i, name in enumerate("ab")}
    change(methods)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(methods, resamples=5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pairs": [("a", "z")]}, "two of the methods a"),
        ({"resamples": 0}, "resamples must be"),
        ({"level": 1}, "level in"),
        ({"grid": [2.0]}, "grid must be"),
        ({"clusters": [1]}, "clusters has 1 labels for 9 items"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap({"a": run(np.random.default_rng(0), 9)}, **options)


def test_holm():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    with pytest.raises(ValueError, match="p-value of 'x'"):
        holm({"x": 2})
