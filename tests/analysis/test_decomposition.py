"""The parts of a difference: exact sums, cases where only one part can be there, and a naive second computation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import rows_of, table, text_table

from cat_core import curves
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.corpus import CorpusRun
from cat_core.analysis.decomposition import PARTS, decompose, rule_grid, split_difference
from cat_core.analysis.resampling import cluster_numbers, draw_blocks
from cat_core.ranking import Interval

DEAL = {0: 3, 1: 7, 2: 3}


def accuracy(**more):
    return Comparison(table(large_seeds=(3, 7), seeds=(0, 1, 2), n=40, **more), DEAL, resamples=60)


def measured(small, large, q):
    """(AUDC, oracle's AUDC, A_S, A_L) by the functions of `curves`."""
    curve = curves.deferral_curve(small, large, q)
    return curves.audc(curve), curves.audc(curves.oracle_curve(small, large)), np.mean(small), np.mean(large)


def naive(a, b):
    """The parts by the formulas of the module's text, for methods with room."""
    (area_a, oracle_a, small_a, large_a), (area_b, oracle_b, small_b, large_b) = a, b
    room_a, room_b = oracle_a - (small_a + large_a) / 2, oracle_b - (small_b + large_b) / 2
    share_a, share_b = (area_a - (small_a + large_a) / 2) / room_a, (area_b - (small_b + large_b) / 2) / room_b
    return {
        "whole": area_a - area_b,
        "small_alone": (small_a - small_b) / 2,
        "complement": (share_a + share_b) / 2 * (room_a - room_b),
        "ranking": (room_a + room_b) / 2 * (share_a - share_b),
        "large_alone": (large_a - large_b) / 2,
    }


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 25), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_parts_add_up_and_follow_the_formulas(n, ties, same_large, seed):
    rng = np.random.default_rng(seed)
    large = rng.integers(0, 2, n) * 1.0
    runs = []
    for _ in "ab":
        q = rng.integers(0, 4, n) if ties else rng.normal(size=n)
        runs.append(measured(rng.integers(0, 3, n) / 2, large if same_large else rng.random(n), q))
    found = split_difference(*runs)
    assert sum(found[part] for part in PARTS) == pytest.approx(found["whole"], abs=1e-12)
    assert found["whole"] == pytest.approx(runs[0][0] - runs[1][0], abs=1e-15)
    if same_large:
        assert found["large_alone"] == 0
    if all(oracle - (small + large) / 2 > 1e-9 for _, oracle, small, large in runs):
        for part, value in naive(*runs).items():
            assert found[part] == pytest.approx(value, abs=1e-12)


def test_each_part_alone():
    large, zeros = np.array([1, 1, 1, 0, 0, 0.0, 1, 0]), np.zeros(8)
    small = np.array([0, 0, 1, 1, 0, 1.0, 0, 1])
    perfect, blind = small - large, zeros
    parts = split_difference(measured(small, large, perfect), measured(small, large, blind))
    assert parts["ranking"] == pytest.approx(parts["whole"]) and parts["whole"] > 0.1
    assert parts["small_alone"] == parts["complement"] == 0
    # as many right, but where L is wrong: with a perfect order there is more to gain
    other = np.array([0, 0, 0, 1, 1, 1.0, 0, 1])
    parts = split_difference(measured(other, large, other - large), measured(small, large, perfect))
    assert parts["complement"] == pytest.approx(parts["whole"]) and parts["whole"] > 0.01
    assert parts["small_alone"] == 0 and parts["ranking"] == pytest.approx(0, abs=1e-15)
    # as many repairable and damageable answers on more right ones, deferral at random
    better = np.array([1, 0, 1, 1, 0, 1.0, 0, 0])  # against small: item 0 gained, item 7 lost
    parts = split_difference(measured(better, large, blind), measured(small, large, blind))
    assert parts["whole"] == parts["small_alone"] == 0 and parts["complement"] == parts["ranking"] == 0
    best = np.where(large == 1, 1.0, small)  # right wherever L is: A_S grows
    parts = split_difference(measured(best, large, blind), measured(small, large, blind))
    assert parts["small_alone"] == pytest.approx(parts["whole"]) and parts["whole"] == 2 / 16 + 1 / 16
    assert parts["complement"] == parts["ranking"] == 0


def test_no_room_counts_as_complement_and_never_as_ranking():
    large = np.array([1, 0, 1, 0.0])
    with_room = measured(np.array([0, 1, 1, 0.0]), large, np.array([0, 3, 2, 1.0]))
    without = measured(large, large, np.array([0, 3, 2, 1.0]))
    for a, b, sign in ((without, with_room, -1), (with_room, without, 1)):
        parts = split_difference(a, b)
        over = with_room[0] - (with_room[2] + with_room[3]) / 2
        assert parts["complement"] == pytest.approx(sign * over) and over > 0
        assert parts["ranking"] == 0
        assert sum(parts[part] for part in PARTS) == pytest.approx(parts["whole"], abs=1e-15)
    assert set(map(float, split_difference(without, without).values())) == {0.0}
    # a greedy oracle may be worse than random, and the rule better: that is ranking
    parts = split_difference((40.0, 29.0, 20.0, 40.0), (31.0, 32.0, 20.0, 40.0))
    assert parts["complement"] == pytest.approx(0.5 * (-1 - 2)) and sum(parts[p] for p in PARTS) == pytest.approx(9)
    with pytest.raises(ValueError, match="the parts miss the whole"):
        split_difference((np.nan, 1, 0, 1), (0.5, 1, 0, 1))


def test_intervals_equal_a_loop_that_copies_items():
    c = accuracy()
    large = c.frame["method"] == "large"  # right or wrong whatever S is, so that no resample is without room
    c.frame.loc[large, "quality"] = np.random.default_rng(0).integers(0, 2, large.sum()) * 1.0
    clusters = cluster_numbers(np.arange(40) // 2)
    c.frame["cluster_id"] = [f"{i[:-3]}{int(i[-3:]) // 2}" for i in c.frame["item_id"]]
    found = decompose(c, "cat-dist", "dist")
    runs = {m: [c.pairing(m, s) for s in c.seeds] for m in ("cat-dist", "dist")}
    once = [
        naive(*(measured(r.small_quality, r.large_quality, r.confidence) for r in pair)) for pair in zip(*runs.values())
    ]
    draws = []
    for _, counts, weights in draw_blocks(clusters, 3, 60, groups=(3, 7, 3)):
        for drawn, weight in zip(counts, weights):
            rows = np.repeat(np.arange(40), drawn)
            parts = []
            for pair in zip(*runs.values()):
                copied = (measured(r.small_quality[rows], r.large_quality[rows], r.confidence[rows]) for r in pair)
                parts.append(naive(*copied))
            apart = {p: sum((w - 1 / 3) * x[p] for w, x in zip(weight, once)) for p in parts[0]}
            draws.append({p: np.mean([x[p] for x in parts]) + apart[p] for p in parts[0]})
    for part in ("whole", *PARTS):
        interval = getattr(found, part)
        assert interval.estimate == pytest.approx(np.mean([x[part] for x in once]), abs=1e-12)
        low, high = np.quantile([x[part] for x in draws], [0.025, 0.975])
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert (found.oracle, found.n, found.seeds, found.large_models, found.without_room) == ("exact", 40, 3, 2, 0)


def test_the_whole_is_the_difference_that_the_comparison_states():
    c = accuracy()
    for a, b in c.pairs:
        whole, stated = decompose(c, a, b).whole, c.difference(a, b)
        assert vars(whole) == pytest.approx(vars(stated), abs=1e-12)
        assert decompose(c, a, b).large_alone == Interval(0, 0, 0)
    swapped, straight = decompose(c, "dist", "cat-dist"), decompose(c, "cat-dist", "dist")
    assert swapped.ranking.low == pytest.approx(-straight.ranking.high, abs=1e-12)


def test_bleu_is_split_with_the_greedy_oracle():
    c = Comparison(text_table(), resamples=40)
    found = decompose(c, "cat-dist", "dist")
    assert found.oracle == "greedy" and vars(found.whole) == pytest.approx(vars(c.difference("cat-dist", "dist")))
    once = []
    for seed in c.seeds:
        parts = []
        for m in ("cat-dist", "dist"):
            p = c.pairing(m, seed)
            run = CorpusRun(p.small_predictions, p.large_predictions, p.targets, p.confidence)
            curve, best = run.curve(), run.greedy_oracle()
            parts.append((curves.audc(curve), curves.audc(best), curve.quality[0], curve.quality[-1]))
        once.append(naive(*parts))
    for part in PARTS:
        assert getattr(found, part).estimate == pytest.approx(np.mean([x[part] for x in once]), abs=1e-9)


def test_what_has_no_room_and_refusals():
    frame = table(methods=("dist", "cat-dist"), seeds=(0,))
    frame.loc[frame["method"] == "dist", "quality"] = 1.0
    frame.loc[frame["method"] == "large", "quality"] = 1.0
    c = Comparison(frame, resamples=20)
    found = decompose(c, "cat-dist", "dist")
    assert found.without_room == 1 and found.ranking == Interval(0, 0, 0)
    with pytest.raises(ValueError, match="no method 'gatekeeper' to decompose: the comparison holds dist, cat-dist"):
        decompose(c, "gatekeeper", "dist")


def test_rule_grid_states_areas_and_what_choosing_would_have_gained():
    c = accuracy(methods=("dist", "cat-dist"))
    rules = ("chow_average", "chow_quantile_0")  # the second is the first one's values in another order: no use
    found = rule_grid(c, rules)
    assert (tuple(found.over_random), found.rules, found.resamples) == (("dist", "cat-dist"), rules, c.resamples)
    for m in c.methods:
        for rule in rules:
            assert vars(found.over_random[m][rule]) == pytest.approx(vars(c.over_random(m, rule)), abs=1e-12)
        calibration = [np.mean([curves.audc(c.seed_curve(m, s, "calibration", r)) for s in c.seeds]) for r in rules]
        assert found.best_on_calibration[m] == rules[int(np.argmax(calibration))] == "chow_average"
        assert found.regret[m]["chow_average"] == Interval(0, 0, 0)
        lost = found.regret[m]["chow_quantile_0"]
        assert lost.estimate == pytest.approx(c.audc(m).estimate - c.audc(m, "chow_quantile_0").estimate)
        assert lost.low < lost.estimate < lost.high
    assert rule_grid(c).rules == c.rules


def test_the_best_rule_is_chosen_on_calibration_items():
    """A rule that is perfect on test items and useless on calibration items is not chosen: regret is negative."""
    rng, parts = np.random.default_rng(0), []
    for split in ("calibration", "test"):
        right = rng.random(50) < 0.5
        parts.append(rows_of("large", 0, split, np.ones(50)))
        rows = rows_of("dist", 0, split, right, right * 1.0)
        lucky = right if split == "test" else ~right
        rows["confidence_option_probability"] = lucky * 1.0
        rows["confidence_chow_average"] = right + 0.5 * rng.normal(size=50)
        parts.append(rows)
    found = rule_grid(
        Comparison(pd.concat(parts, ignore_index=True), resamples=50), ("chow_average", "option_probability")
    )
    assert found.best_on_calibration == {"dist": "chow_average"}
    assert found.regret["dist"]["option_probability"].high < 0


def test_a_room_near_nothing_is_no_error():
    """BLEU areas whose greedy oracle leaves hardly any room: the shares are huge and cancel."""
    rng = np.random.default_rng(0)
    small, large = rng.uniform(0, 3, (2, 200))
    area = (small + large) / 2 + rng.normal(0, 0.3, 200)
    oracle = (small + large) / 2 + 10.0 ** rng.uniform(-11, -2, 200)
    other = (area + 0.1, oracle + 0.2, small, large)
    found = split_difference((area, oracle, small, large), other)
    assert np.isfinite(sum(found.values())).all()
    with pytest.raises(ValueError, match="the parts miss the whole"):
        split_difference((area * np.nan, oracle, small, large), other)
