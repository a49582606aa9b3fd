"""The FLOPs-equivalent saving against curves whose saving is known and plain loops; estimates against scipy."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_tables import rows_of, table, text_table

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.contrasts import Arm
from cat_core.analysis.estimates import Estimate, model_variance, power, visible
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.saving import by_task, difference_alone, primary_rule, saving, saving_of
from cat_core.curves import audc, deferral_curve


def test_the_formula_gives_the_saving_of_a_curve_whose_cost_is_scaled():
    """A(r) = a + b r - d r^2 at 1 - s of the cost: at cost k it is the quality of the baseline at k / (1 - s)."""
    ratio, s, rates = 0.2, 1e-4, np.linspace(0, 1, 200_001)
    a, b, d = 0.5, 0.4, 0.15
    area = np.trapezoid(a + b * rates - d * rates**2, rates)
    moved = (ratio + rates) / (1 - s) - ratio  # beyond 1 at the end: the polynomial goes on there
    gained = np.trapezoid(a + b * moved - d * moved**2, rates) - area
    large, small = a + b - d, a
    assert gained / (large - area + ratio * (large - small)) == pytest.approx(s, rel=2e-3)


def brute(c, method, baseline, rule="option_probability"):
    """The saving by plain loops, task by task."""
    parts, gains, rooms = [c.of_task(task) for task in c.tasks], [], []
    ratio = np.mean([part.cost(baseline)[0] / part.large_flops for part in parts])
    for part in parts:
        for seed in c.seeds:
            curves = []
            for m in (method, baseline):
                p = part.pairing(m, seed, rule=rule)
                curves.append((audc(deferral_curve(p.small_quality, p.large_quality, p.confidence)), p))
            (ours, _), (theirs, p) = curves
            small, large = p.small_quality.mean(), p.large_quality.mean()
            gains.append(ours - theirs)
            rooms.append(large - theirs + ratio * (large - small))
    return np.mean(gains) / np.mean(rooms), np.array(gains), np.array(rooms)


def test_saving_equals_plain_loops_task_by_task():
    frame = table(tasks=("a", "b"), seeds=range(5), n=80)
    c = Comparison(frame[~((frame["task"] == "b") & frame["item_id"].str.endswith(("5", "6", "7")))], resamples=400)
    found = saving(c, "cat-dist", "dist")
    wanted, _, _ = brute(c, "cat-dist", "dist")
    assert primary_rule(c) == "option_probability" and len(by_task(c)) == 2
    assert found.number.estimate == pytest.approx(wanted)
    assert found.number.low < wanted < found.number.high
    other = saving(c, "cat-dist", "dist", "chow_quantile_0")
    assert other.number.estimate == pytest.approx(brute(c, "cat-dist", "dist", "chow_quantile_0")[0])
    nothing = saving(c, "dist", "dist")
    assert nothing.number.estimate == nothing.number.low == nothing.number.high == nothing.error == 0
    crossed = saving(c, "dist", "dist", "option_probability", "chow_quantile_0")
    assert crossed.number.estimate != 0


def test_the_error_has_a_part_of_models_and_a_part_of_items():
    c = Comparison(table(seeds=range(6), n=400), resamples=4000)
    found = saving(c, "cat-dist", "dist")
    ratio, gains, rooms = brute(c, "cat-dist", "dist")
    change = (gains - ratio * rooms) / rooms.mean()
    models = change.var(ddof=1) / 6
    assert found.error**2 > models  # the items' own part on top
    rng, items = np.random.default_rng(0), []
    pairs = {m: [c.pairing(m, s, rule="option_probability") for s in c.seeds] for m in ("cat-dist", "dist")}
    for _ in range(400):
        drawn = rng.integers(0, c.n, c.n)
        areas = {
            m: np.array([audc(deferral_curve(*(x[drawn] for x in (p.small_quality, p.large_quality, p.confidence))))
                         for p in rows])
            for m, rows in pairs.items()
        }  # fmt: skip
        ends = [(p.small_quality[drawn].mean(), p.large_quality[drawn].mean()) for p in pairs["dist"]]
        cost = c.cost("dist")[0] / c.large_flops
        room = np.mean([large - a + cost * (large - small) for a, (small, large) in zip(areas["dist"], ends)])
        items.append((areas["cat-dist"] - areas["dist"]).mean() / room)
    assert found.error**2 == pytest.approx(models + np.var(items), rel=0.15)
    low, high = stats.t.interval(0.95, found.freedom, found.number.estimate, found.error)
    assert (found.number.low, found.number.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_where_there_is_no_saving():
    c = Comparison(table(), resamples=40)
    assert saving(c, "cat-xent", "large-xent") == Undefined("this run has no large-xent")
    assert difference_alone(c, "gatekeeper", "xent") == Undefined("this run has no gatekeeper")
    rng, parts = np.random.default_rng(1), []
    for split in ("calibration", "test"):
        parts.append(rows_of("large", 0, split, rng.random(50) < 0.4, flops=9))
        for m in ("xent", "cat-xent"):
            parts += [rows_of(m, s, split, rng.random(50) < 0.6, rng.normal(size=50), flops=1) for s in (0, 1)]
    worse = Comparison(pd.concat(parts, ignore_index=True), resamples=40)
    assert "L is not shown to be better" in saving(worse, "cat-xent", "xent").reason
    free = c.frame.assign(flops=pd.array(c.frame["flops"], dtype="Int64"))
    free.loc[free["model"] == "large", "flops"] = pd.NA
    assert "FLOPs of L are unknown" in saving(Comparison(free, resamples=40), "cat-xent", "xent").reason


def test_corpus_metrics_are_one_part_and_two_comparisons_may_meet():
    c = Comparison(text_table(seeds=range(5)), resamples=60)
    assert by_task(c) == [c] and primary_rule(c) == "chow_average"
    found = saving(c, "cat-dist", "dist")
    curve = [np.mean([audc(run.curve()) for run in c.runs(m)]) for m in ("cat-dist", "dist")]
    ends = c.curve("dist").quality[[0, -1]]
    room = ends[1] - curve[1] + c.cost("dist")[0] / c.large_flops * (ends[1] - ends[0])
    assert found.number.estimate == pytest.approx((curve[0] - curve[1]) / room)
    one, two = (Comparison(c.frame[c.frame["method"].isin(["large", m])], resamples=60) for m in ("cat-dist", "dist"))
    apart = saving_of([Arm(one, "cat-dist")], [Arm(two, "dist")])
    assert vars(apart.number) == pytest.approx(vars(found.number)) and apart.error == pytest.approx(found.error)


def test_s_alone():
    c = Comparison(table(seeds=(0, 1, 2)), resamples=500)
    found = difference_alone(c, "cat-dist", "dist")
    assert vars(found.number) == pytest.approx(vars(c.alone_difference("cat-dist", "dist")), abs=1e-12)


def test_variance_between_models():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    assert model_variance(values, None) == (pytest.approx(values.var(ddof=1) / 4), 3)
    assert model_variance(values, (5, 5, 5, 5)) == model_variance(values, None)
    assert model_variance(values, (0, 1, 0, 1)) == (pytest.approx(np.var([2.5, 4.5], ddof=1) / 2), 1)
    assert model_variance(values[:1], None) == (0.0, 1.0)


@pytest.mark.parametrize("freedom", [2, 5, 30])
def test_power_by_simulation(freedom):
    rng, effect, error = np.random.default_rng(3), 0.13, 0.05
    estimate = rng.normal(effect, error, 200_000)
    spread = error * np.sqrt(rng.chisquare(freedom, 200_000) / freedom)
    seen = (estimate - stats.t.ppf(0.975, freedom) * spread > 0).mean()
    assert power(effect, error, freedom) == pytest.approx(seen, abs=0.005)
    assert power(visible(error, freedom), error, freedom) == pytest.approx(0.8, abs=1e-6)
    assert power(0.0, error, freedom) == pytest.approx(0.025, abs=1e-6)
    assert power(0.1, 0.0, freedom) == 1 and power(0.0, 0.0, freedom) == 0


def test_an_estimate_of_one_model_knows_items_alone():
    rng = np.random.default_rng(0)
    draws = 1 + 0.1 * rng.normal(size=(4000, 1))
    found = Estimate.of(np.ones(1), draws, np.ones((4000, 1)), None, 51, 0.95)
    assert found.error == pytest.approx(0.1, rel=0.05) and found.freedom == pytest.approx(50)
    assert found.visible == pytest.approx(visible(found.error, 50)) and isinstance(found.power(0.3), float)
    assert SimpleNamespace(**vars(found)).level == 0.95
