"""The fast paired bootstrap against a loop that copies the drawn items and scores them anew."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cat_core.analysis.resampling import (
    GRID,
    MeanRun,
    Scratch,
    cluster_numbers,
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
    weights = seed_stream.multinomial(k, [1 / k] * k, size=resamples)
    for weight in weights:
        counts = item_counts(item_stream, 1, clusters)[0]
        for name, runs in methods.items():
            areas = [audc(copied(one, counts)) for one in runs]
            draws[name].append(sum(w * a for w, a in zip(weight, areas)) / k)
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


def enumerated(groups):
    """Every way to draw groups, then seeds within each, with its probability: the distribution of seed weights."""
    members = {g: [i for i, label in enumerate(groups) if label == g] for g in dict.fromkeys(groups)}
    found = Counter()
    for drawn in itertools.product(members, repeat=len(members)):
        inside = [list(itertools.product(members[g], repeat=len(members[g]))) for g in drawn]
        ways = list(itertools.product(*inside))
        for way in ways:
            seeds = [s for part in way for s in part]
            weight = tuple(round(seeds.count(s) / len(seeds), 9) for s in range(len(groups)))
            found[weight] += len(members) ** -len(members) / len(ways)
    return found


@pytest.mark.parametrize("groups", [(5, 5, 9), (0, 1, 0), (1, 0, 0, 1), (0, 1, 2)])
def test_seed_weights_have_the_distribution_of_the_nested_draw(groups):
    wanted, draws = enumerated(groups), 40_000
    assert sum(wanted.values()) == pytest.approx(1)
    weights = seed_weights(np.random.default_rng(0), draws, len(groups), groups)
    found = Counter(map(tuple, np.round(weights, 9).tolist()))
    assert set(found) == set(wanted)
    for weight, p in wanted.items():
        assert found[weight] / draws == pytest.approx(p, abs=5 * (p / draws) ** 0.5)


def test_one_group_is_no_level():
    plain, grouped = (seed_weights(np.random.default_rng(2), 50, 4, g) for g in (None, ["L"] * 4))
    np.testing.assert_array_equal(plain, grouped)
    one = {"a": [run(np.random.default_rng(i), 9) for i in range(3)]}
    assert paired_bootstrap(one, resamples=40, groups=[7] * 3).area == paired_bootstrap(one, resamples=40).area
    with pytest.raises(ValueError, match="groups has 2 labels for 3 training seeds"):
        paired_bootstrap(one, resamples=4, groups=[0, 1])


def test_nested_bootstrap_equals_plain_loops():
    """Everything drawn one by one, with another generator: the same quantiles, up to the noise of resampling."""
    rng, n, resamples = np.random.default_rng(11), 12, 1500
    groups, clusters = [0, 1, 2, 0, 1, 0], np.repeat(np.arange(6), 2)
    methods = {}
    for name, gain in (("a", 0.9), ("b", 0.5)):
        methods[name] = [run(rng, n, ties=True) for _ in groups]
        for found, g in zip(methods[name], groups):  # large models that differ much
            found.large_quality = (rng.random(n) < (gain, 0.5, 0.1)[g]) * 1.0
    fast = paired_bootstrap(methods, pairs=[("a", "b")], clusters=clusters, groups=groups, resamples=resamples)
    flat = paired_bootstrap(methods, pairs=[("a", "b")], clusters=clusters, resamples=resamples)
    draws = []
    for _ in range(resamples):
        seeds = []
        for g in rng.choice([0, 1, 2], 3):
            mine = [i for i, label in enumerate(groups) if label == g]
            seeds += [mine[rng.integers(len(mine))] for _ in mine]
        counts = np.zeros(n, dtype=int)
        for c in rng.integers(0, 6, 6):
            counts[clusters == c] += 1
        areas = {i: [audc(copied(methods[name][i], counts)) for name in "ab"] for i in set(seeds)}
        draws.append(np.mean([areas[i][0] - areas[i][1] for i in seeds]))
    width = np.ptp(np.quantile(draws, [0.025, 0.975]))
    found = fast.difference["a", "b"]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.1 * width)
    assert (fast.n_groups, flat.n_groups) == (3, 1)
    other = flat.difference["a", "b"]
    assert found.high - found.low > 1.1 * (other.high - other.low)


def test_intervals_cover_over_large_models():
    """8 large models of 3 seeds each, as different as two seeds are: nested intervals cover, others do not."""
    rng, hits, groups = np.random.default_rng(3), Counter(), np.repeat(np.arange(8), 3)
    for _ in range(300):
        area = rng.normal(size=8)[groups] + rng.normal(size=24)  # of each seed; the truth is 0
        for name, given_groups in (("nested", groups), ("one level", None)):
            low, high = np.quantile(seed_weights(rng, 300, 24, given_groups) @ area, [0.1, 0.9])
            hits[name] += low <= 0 <= high
    assert 215 <= hits["nested"] <= 265 and hits["one level"] < 200


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
