"""Areas over budgets against curves that can be drawn by hand, and against plain loops over items."""

import numpy as np
import pytest
from small_tables import table, text_table

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.rivals import SHARES, Policy, _threshold, at_cost_of, compared, policies
from cat_core.ranking import Interval

RULE = "option_probability"


def routed(n=200, seeds=(0, 1, 2, 3, 4), tasks=("t",), rng=0, **more):
    """A table whose small models have the routers' columns, without ties."""
    frame = table(methods=("xent", "cat-xent"), n=n, seeds=seeds, tasks=tasks, rng=rng, **more)
    draw, small = np.random.default_rng(rng + 1), frame["model"] == "small"
    for column in (RULE, "route_ngrams", "route_probe"):
        noise = draw.normal(size=len(frame))
        frame[f"confidence_{column}"] = np.where(small, frame["confidence_chow_average"] + noise, np.nan)
    frame["prompt_flops"] = np.where(small, 3, 0)
    return frame


def by_hand(c, policy, seed):
    """(area, room) of one seed: items deferred one by one, costs and quality added up, the budget axis walked in small
    steps. Quality and cost lie on straight lines between 101 rates, as in the module."""
    p = c.pairing(policy.method, seed, rule=policy.rule)
    n, small, large = len(p.confidence), p.small_flops, p.large_flops
    order, paid_small = np.argsort(p.confidence), np.ones(n, bool)
    if policy.rule.startswith("route"):
        paid_small[:] = False
    if policy.share:
        before = c.pairing(policy.method, seed, rule=policy.router).confidence
        known = np.sort(c.pairing(policy.method, seed, "calibration", policy.router).confidence)
        sent = before <= known[int(round(policy.share * len(known))) - 1]
        order = np.concatenate([[i for i in np.argsort(before) if sent[i]], [i for i in order if not sent[i]]])
        paid_small = ~sent
    reading = 3.0 if "route_probe" in (policy.rule, policy.router) else 0.0
    quality, cost = [p.small_quality.sum()], [small.sum()]
    for i in order.astype(int):
        quality.append(quality[-1] + p.large_quality[i] - p.small_quality[i])
        cost.append(cost[-1] + large[i] + (0.0 if paid_small[i] else reading - small[i]))
    rates = np.arange(n + 1) / n
    quality, cost = (np.interp(np.linspace(0, 1, 101), rates, np.array(x) / n) for x in (quality, cost))
    low, high = small.mean(), large.mean()
    budgets = np.linspace(low, high, 101)
    area = np.trapezoid(np.interp(budgets, cost, quality), budgets) / (high - low)
    return area, (high * quality[-1] - low * quality[0]) / (high - low) - area


@pytest.mark.parametrize("policy", [
    Policy("xent", RULE), Policy("xent", "route_ngrams"), Policy("cat-xent", "route_probe"),
    Policy("cat-xent", RULE, "route_ngrams", 0.2), Policy("xent", RULE, "route_probe", 0.1),
])  # fmt: skip
def test_areas_and_savings_by_hand(policy):
    c = Comparison(routed(), resamples=200)
    reference = Policy("cat-xent", "route_ngrams")
    found = compared(c, [policy], reference)[policy.key]
    ours, theirs = ([by_hand(c, p, seed) for seed in c.seeds] for p in (policy, reference))
    assert found.area.estimate == pytest.approx(np.mean([a for a, _ in ours]))
    gain = np.mean([a for a, _ in ours]) - np.mean([a for a, _ in theirs])
    assert found.saving.estimate == pytest.approx(gain / np.mean([room for _, room in theirs]))
    assert found.area.low < found.area.estimate < found.area.high and 0 < found.power <= 1


def test_a_coin_before_s_answers_is_the_straight_line():
    """Deferral at random, S not paid: from (C_S, A_S) to (C_L, A_L); a cascade at random costs more, and has less."""
    frame = routed()
    frame.loc[frame["model"] == "small", ["confidence_route_ngrams", f"confidence_{RULE}"]] = 0.5
    c = Comparison(frame, resamples=50)
    coin, cascade = Policy("xent", "route_ngrams"), Policy("xent", RULE)
    found = compared(c, [coin, cascade], coin)
    small, large = c.alone("xent").estimate, c.large_alone().estimate
    assert found[coin.key].area.estimate == pytest.approx((small + large) / 2)
    low, high = np.mean([c.pairing("xent", s).small_flops.mean() for s in c.seeds]), c.large_flops
    lost = (high - low) * (large - small) / high / 2  # its line ends at C_S + C_L: at C_L it is C_S / C_L short of A_L
    assert found[cascade.key].area.estimate == pytest.approx(small + lost, abs=1e-4)
    assert isinstance(found[cascade.key].saving, Interval) and found[coin.key].power is None  # it is the reference


def test_several_tasks_are_averaged():
    frame = routed(tasks=("a", "b"), n=80)
    c = Comparison(frame[~((frame["task"] == "b") & frame["item_id"].str.endswith(("5", "6", "7")))], resamples=50)
    policy = Policy("xent", RULE)
    found = compared(c, [policy], policy)[policy.key].area.estimate
    assert found == pytest.approx(np.mean([by_hand(c.of_task(t), policy, s)[0] for t in c.tasks for s in c.seeds]))


def test_the_share_is_chosen_on_calibration_items():
    """On calibration the router knows everything, on test nothing: a share above 0 is chosen all the same."""
    frame = routed(n=200)
    small = frame["model"] == "small"
    large = frame[~small].set_index(["split", "item_id"])["quality"]
    gain = large.loc[list(zip(frame["split"], frame["item_id"]))].to_numpy() - frame["quality"]
    known = small & (frame["split"] == "calibration")
    frame.loc[known, "confidence_route_ngrams"] = -gain[known] + frame.loc[known, "confidence_route_ngrams"] / 100
    c = Comparison(frame, resamples=20)
    chosen = {p.router: p.share for p in policies(c) if p.method == "xent" and p.router}
    assert chosen["route_ngrams"] > 0 and set(chosen.values()) <= set(SHARES)
    assert [p.key for p in policies(c) if p.method == "xent"] == [
        f"xent {RULE}", "xent route_ngrams", "xent route_probe",
        f"xent {RULE} route_ngrams", f"xent {RULE} route_probe",
    ]  # fmt: skip
    never = Policy("xent", RULE, "route_ngrams", 0.0)
    found = compared(c, [never, Policy("xent", RULE)], Policy("xent", RULE))
    assert found[never.key].area == found[f"xent {RULE}"].area


def test_a_share_that_ties_would_exceed_sends_fewer():
    known = np.array([1.0, 1.0, 2.0, 3.0, 3.0])
    wanted = {0.0: -np.inf, 0.2: -np.inf, 0.4: 1.0, 0.59: 1.0, 0.6: 2.0, 0.99: 2.0, 1.0: 3.0}
    assert {share: _threshold(known, share) for share in wanted} == wanted


def test_translations_and_what_cannot_be_said():
    frame = text_table()
    small = frame["model"] == "small"
    frame["confidence_route_ngrams"] = np.where(small, np.random.default_rng(0).normal(size=len(frame)), np.nan)
    frame["prompt_flops"] = np.where(small, 3, 0)
    c = Comparison(frame, resamples=20)
    wanted = policies(c)
    assert [p.key for p in wanted[:3]] == ["dist chow_average", "dist route_ngrams", "dist chow_average route_ngrams"]
    found = compared(c, wanted, wanted[0])
    ends = c.alone("dist").estimate, c.large_alone().estimate
    assert all(min(ends) - 3 < rival.area.estimate < max(ends) + 3 for rival in found.values())  # BLEU, 0 to 100
    frame = routed()
    frame["flops"] = frame["flops"].where(frame["model"] == "large", 200)
    dear = Comparison(frame, resamples=20)
    assert compared(dear, policies(dear), Policy("xent", RULE)) == Undefined("S costs no less than L")
    frame["flops"] = frame["flops"].astype("Int64").where(frame["model"] == "large")
    assert "unknown" in str(compared(Comparison(frame), [], Policy("xent", RULE)))


def test_one_model_in_between_against_the_cascade_at_its_cost():
    """By hand: the cascade of each seed, item by item, until it has cost as much as the other model."""
    frame, other = routed(), routed(rng=0)
    small = other["model"] == "small"
    other.loc[small, "flops"] = 40  # S of the cascade costs less, L more
    other.loc[small, "quality"] = (np.random.default_rng(5).random(small.sum()) < 0.6).astype(float)
    c, one = Comparison(frame, resamples=300), Comparison(other, resamples=300)
    found = at_cost_of(one, "xent", c, Policy("cat-xent", RULE))
    cascade, alone = [], []
    for seed in c.seeds:
        p, q = (x.pairing(m, seed, rule=RULE) for x, m in ((c, "cat-xent"), (one, "xent")))
        order, n = np.argsort(p.confidence), len(p.confidence)
        quality = (p.small_quality.sum() + np.r_[0, np.cumsum((p.large_quality - p.small_quality)[order])]) / n
        cost = (p.small_flops.sum() + np.r_[0, np.cumsum(p.large_flops[order])]) / n
        at = np.linspace(0, 1, 101)
        quality, cost = (np.interp(at, np.arange(n + 1) / n, x) for x in (quality, cost))
        cascade.append(np.interp(40, cost, quality))
        alone.append(q.small_quality.mean())
    assert found.cost == pytest.approx(40 / c.large_flops)
    assert found.cascade.estimate == pytest.approx(np.mean(cascade))
    assert found.alone.estimate == pytest.approx(np.mean(alone))
    assert found.difference.estimate == pytest.approx(np.mean(cascade) - np.mean(alone))
    assert found.difference.low < found.difference.estimate < found.difference.high
    for cost, wanted in ((1, "S of the cascade"), (10**6, "as much as L")):
        other.loc[small, "flops"] = cost
        assert wanted in at_cost_of(Comparison(other), "xent", c, Policy("cat-xent", RULE)).reason
