"""Verdicts follow their stated rules, whatever the numbers; claims pick the right rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cat_book.pages import claims_report
from cat_book.pages.claims_report import claims_table
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small_metrics import metrics
from small_tables import rows_of, table

from cat_core.analysis import claims
from cat_core.analysis.claims import (
    ClaimRow,
    alone_claims,
    best_rule,
    bound_claims,
    cascade_claims,
    easy_and_hard,
    ineligible,
    no_difference_claims,
    word,
)
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.quantities import Undefined, plain, read
from cat_core.analysis.saving import saving
from cat_core.methods import rule_name
from cat_core.ranking import Interval


def row(claim, measure, direction, number, n=9, seeds=3, scale=100.0, **more) -> ClaimRow:
    return ClaimRow(
        claim=claim, measure=measure, direction=direction, number=number, n=n, seeds=seeds, scale=scale, **more
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "direction", "expected"),
    [
        ((0.1, 0.3), 1, "supported"),
        ((-0.3, -0.1), -1, "supported"),
        ((-0.1, 0.3), 1, "inconclusive"),
        ((0.0, 0.3), 1, "inconclusive"),
        ((-0.3, 0.0), 1, "inconclusive"),
        ((0.0, 0.0), -1, "no effect worth having"),
        ((-0.05, 0.01), 1, "no effect worth having"),
        ((-0.3, -0.1), 1, "opposite"),
        ((0.1, 0.3), -1, "opposite"),
    ],
)
def test_words(ends, direction, expected):
    number = Interval(sum(ends) / 2, *ends)
    assert word(number, direction, 0.05) == expected
    r = row("C1", "m", direction, number, scale=40.0)  # the margin of 2 points is .05 of this scale
    assert r.narrow.low >= number.low and r.narrow.high <= number.high
    assert r.verdict == ("no effect worth having" if word(r.narrow, direction, 0.05) == "no effect worth having"
                         and expected == "inconclusive" else expected)  # fmt: skip
    assert replace(r, seeds=1).verdict == f"{r.verdict}; one seed proves nothing"


@given(st.floats(-1, 1), st.floats(0, 1), st.sampled_from([1, -1]))
def test_words_mirror_each_other(low, width, direction):
    number, mirrored = Interval(low, low, low + width), Interval(-low, -low - width, -low)
    found = word(number, direction, 0.1)
    assert found == word(mirrored, -direction, 0.1)
    contains_zero = number.low <= 0 <= number.high
    assert (found in ("inconclusive", "no effect worth having")) == contains_zero


def test_the_narrow_interval_is_that_of_the_error():
    r = row("C1", "m", 1, Interval(0.02, -0.01, 0.05), error=0.015, freedom=7.0, share=True)
    reach = 0.015 * stats.t.ppf(0.95, 7)
    assert (r.narrow.low, r.narrow.high) == pytest.approx((0.02 - reach, 0.02 + reach))
    assert r.verdict == "no effect worth having" and replace(r, error=0.03).verdict == "inconclusive"
    assert r.shown == "+2.0\u00a0% [\u22121.0,\u00a0+5.0]" and r.estimate.error == 0.015
    turned = replace(r, direction=-1).estimate.number
    assert (turned.estimate, turned.low, turned.high) == (-0.02, -0.05, 0.01)


def test_what_cannot_be_tested_and_what_is_refused():
    r = row("C1", "m", 1, Undefined("no second task"))
    assert r.verdict == "not testable" and not r.heard
    small = row("C1", "m", 1, Interval(0.2, 0.1, 0.3), ineligible="L is better than S by 3 points only")
    assert small.verdict == "not testable: L is better than S by 3 points only" and not small.heard
    assert replace(small, ineligible=None).heard
    with pytest.raises(ValueError, match=r"direction is 2, expected 1 \(above 0\) or -1"):
        word(Interval(0, 0, 0), 2, 2)
    with pytest.raises(ValueError, match="rising order"):
        word(Interval(0, float("nan"), 1), 1, 2)


def heard_table(large=0.9, small=0.6, neither=0.08, n=600, tasks=("t",)):
    """Calibration items (and the same as test items) of which S, L, or neither gets a share right."""
    rng, parts = np.random.default_rng(5), []
    for task in tasks:
        for split in ("calibration", "test"):
            hard = rng.permutation(n) / n
            parts.append(rows_of("large", 0, split, hard < large, task=task, flops=10))
            for seed in (0, 1, 2):
                right = (hard < small) | ((hard >= large) & (hard < 1 - neither))
                right = right ^ (rng.random(n) < 0.01)
                parts.append(rows_of("xent", seed, split, right, rng.normal(size=n), task=task))
    return Comparison(pd.concat(parts, ignore_index=True), resamples=400)


def test_cells_are_heard_by_xent_on_calibration_items():
    assert ineligible(heard_table(), {"t": 0.5}) is None
    assert ineligible(heard_table(), {"t": 0.95}) == "L is not better than the most frequent answer or guessing"
    close = ineligible(heard_table(small=0.88, neither=0.1), {})
    assert close.startswith("L is better than S by ") and "lower end" in close
    assert ineligible(heard_table(large=0.99, small=0.8, neither=0.01), {}).startswith("neither model gets ")
    assert ineligible(heard_table(), {}, neither=0.7) == "neither model gets 70\u00a0% right"
    two = heard_table(tasks=("a", "b"))
    assert ineligible(two, {"a": 0.99, "b": 0.2}) is None  # on the mean over tasks
    other = Comparison(table(methods=("dist",)), resamples=20)
    assert ineligible(other, {}) == "no Xent was run to decide by"


def test_table_with_the_numbers_of_recorded_cells():
    rows = [
        row("C1", "AUDC (Accuracy), CAT-Dist − Dist", 1, Interval(0.012, 0.004, 0.02), 1500),
        row("C5", "S alone on reading (easiest), CAT-Dist − Dist", 1, Interval(0, -0.1, 0.1)),
        row("C6", "S alone on choice (hardest), CAT-Dist − Dist", -1, Interval(0, -0.1, 0.1)),
        row("C1, secondary", "AUDC (Accuracy), CAT-Dist − Dist", 1, Interval(0, -0.1, 0.1)),
    ]
    number = Interval(0.03, -0.01, 0.05)
    found = [
        row("C1", rows[0].measure, 1, number), row("C1", "AUDC (Accuracy), CAT-Xent − Xent", 1, Interval(9, 8, 9.5)),
        row("C5", "S alone on sense (easiest), CAT-Dist − Dist", 1, number),
        row("C6", rows[2].measure, -1, Undefined("no")),
    ]  # fmt: skip
    cell = metrics("low", study="reference", claims=found)
    table = claims_table(rows, "Claims", [cell, replace(cell, cell="high")])
    assert table.columns[3:5] == ["This run", "Reference"]
    shown = "+3.00 [−1.00,\u00a0+5.00]"
    assert [row[4] for row in table.rows] == [
        f"low: {shown}; high: {shown}", f"low (sense): {shown}; high (sense): {shown}", "low: – (no); high: – (no)",
        "– (not recorded)",
    ]  # fmt: skip
    assert "Reference: reference/low: n = 1,500, 3 seeds; reference/high" in table.note
    pairs = {"cat-dist - dist": Interval(-0.2, -1.0, 0.5)}
    free = replace(cell, other_metrics={"chrf": metrics(metric="chrf", differences={"chow_average": pairs})})
    chrf = row("C2, secondary", "AUDC (chrF), CAT-Dist − Dist", 1, rows[0].number, role="secondary")
    assert claims_report.reference_text(chrf, [cell, free]) == "low: −0.20 [−1.00,\u00a0+0.50]"
    saved = row("C2, secondary", "Saving, CAT-Dist against Dist", 1, number, role="secondary", share=True, scale=100.0)
    free = replace(cell, other_metrics={"chrf": metrics(metric="chrf", claims=[saved])})
    assert claims_report.reference_text(saved, [cell, free]) == "low: +3.0\u00a0% [−1.0,\u00a0+5.0]"
    none = claims_table(rows, "Claims", [])
    assert {row[4] for row in none.rows} == {"– (not recorded)"} and "nothing is recorded yet" in none.note
    plain = claims_table(rows, "Claims")
    assert "Reference" not in plain.columns and plain.note == claims.ROW_RULES


def test_table_states_rules_numbers_and_verdicts():
    rows = [
        row("C1", "AUDC", 1, Interval(0.012, 0.004, 0.02), 1500),
        row("C6", "S alone", -1, Undefined("one task"), 10),
    ]
    text = repr(claims_table(rows, "Claims"))
    assert "C1 | AUDC | above 0 | +1.20 [+0.40,\u00a0+2.00] | 1,500, 3 | supported" in text
    assert "C6 | S alone | below 0 | \u2013 (one task) | 10, 3 | not testable" in text
    assert text.endswith(claims.ROW_RULES)
    assert rows[0].sentence == ("AUDC (C1): +1.20 [+0.40,\u00a0+2.00]; verdict: supported.")


@pytest.mark.parametrize(
    ("ends", "margin", "expected"),
    [
        ((-0.01, 0.01), 0.02, "supported"),
        ((0.001, 0.02), 0.02, "supported"),  # a difference, but a negligible one
        ((0.001, 0.03), 0.02, "inconclusive"),
        ((-0.03, -0.021), 0.02, "opposite"),
        ((-0.001, 0.03), 0.02, "inconclusive"),
        ((-0.5, 1.9), 2.0, "supported"),
    ],
)
def test_claims_of_no_difference(ends, margin, expected):
    assert word(Interval(sum(ends) / 2, *ends), 0, margin) == expected
    scale = 1.0 if margin == 2 else 100.0
    assert row("C4", "AUDC", 0, Interval(sum(ends) / 2, *ends), scale=scale).verdict == expected


def test_rows_with_a_share_say_whether_they_keep_to_it():
    r = row("C10", "AUDC", 1, Interval(0.05, 0.02, 0.08), role="primary", mass=0.03)
    assert r.verdict == "within the bound"  # it may be 2 points
    assert replace(r, mass=0.01).verdict == "above the bound"
    assert replace(r, mass=0.01, number=Interval(-0.05, -0.08, -0.02)).verdict == "above the bound"
    assert replace(r, mass=0.0, number=Interval(0.01, -0.01, 0.05)).verdict == "within the bound"
    assert replace(r, mass=0.0, number=Undefined("none")).verdict == "not testable"


def test_a_row_is_written_with_its_verdict_and_read_again():
    about = {"role": "primary", "family": "CAT-Dist", "error": 0.05, "freedom": 4.0, "share": True, "large_seeds": 2}
    r = row("C1", "m", 1, Interval(0.2, 0.1, 0.3), **about)
    assert list(plain(r)) == [
        "claim", "measure", "direction", "role", "family", "number", "error", "freedom", "share", "scale", "level", "n",
        "seeds", "large_seeds", "verdict",
    ]  # fmt: skip
    assert plain(r)["verdict"] == r.verdict == "supported"
    missing = replace(r, number=Undefined("none"), error=None, freedom=None, ineligible="too little")
    assert read(ClaimRow, plain(r)) == r and read(ClaimRow, plain(missing)) == missing


def test_roles_are_those_of_the_ledger():
    with pytest.raises(ValueError, match="role is 'main', expected one of primary, control, reading, secondary"):
        row("C1", "m", 1, Interval(0, 0, 0), role="main")
    assert row("C1", "m", 1, Interval(0, 0, 0)).role == "secondary"
    c = Comparison(table(large_seeds=(3, 7)), {0: 3, 1: 7}, resamples=30)
    rows = cascade_claims(c, "C1")
    assert [r.role for r in rows] == ["primary"] * 2 + ["control"] * 4 + ["secondary"] * 2
    assert [r.family for r in rows] == ["CAT-Dist", "CAT-Xent"] * 4
    assert rows[3].number.reason == "this run has no random-xent"
    assert {r.role for r in cascade_claims(c, "C2, secondary")} == {"secondary"}
    assert (rows[0].large_seeds, rows[0].level, rows[0].share, rows[6].share) == (2, 0.95, True, False)
    assert "60, 2 (over 2 L)" in repr(claims_table(rows, "Claims"))
    methods = ("xent", "dist", "cat-xent", "cat-dist", "random-dist", "random-xent", "large-xent")
    more = table(methods=methods, seeds=range(5), n=150)
    c = Comparison(more, resamples=30)
    rows = cascade_claims(c, "C1", "too small", ("chow_average", "chow_quantile_0"))
    assert [r.role for r in rows] == ["primary"] * 2 + ["control"] * 4 + ["reading"] * 2 + ["secondary"] * 2
    assert rows[3].measure == "Saving (Option probability), CAT-Xent against Random mask, Xent"
    assert rows[5].measure.endswith("CAT-Xent against L-right mask, Xent") and rows[5].number.low < rows[5].number.high
    assert {r.ineligible for r in rows if r.share} == {"too small"} and not any(r.heard for r in rows if r.share)
    best = [best_rule(c, m, ("chow_average", "chow_quantile_0")) for m in ("cat-dist", "dist")]
    labels = [rule_name(rule) for rule in best]
    assert rows[6].measure == f"Saving (best rules), CAT-Dist with {labels[0]} against Dist with {labels[1]}"
    assert rows[6].number == saving(c, "cat-dist", "dist", *best).number
    two = Comparison(table(tasks=("a", "b")), resamples=30)
    assert [(r.claim, r.role) for r in alone_claims(two)] == [
        (claim, role) for claim in ("C5", "C6") for role in ["primary"] * 2 + ["control"] * 4
    ]


def test_no_difference_claims_hold_all_pairs_in_one_draw():
    c = Comparison(table(), resamples=100)
    rows = no_difference_claims(c)
    assert len(rows) == 6 and {(r.claim, r.role, r.direction) for r in rows} == {("C4", "primary", 0)}
    by_measure = {r.measure: r.number for r in rows}
    same = by_measure["AUDC (Accuracy), CAT-Dist − Dist"]
    assert vars(same) == pytest.approx(vars(c.difference("cat-dist", "dist")), abs=1e-12)
    other = by_measure["AUDC (Accuracy), CAT-Dist − Xent"]
    assert other.estimate == pytest.approx(c.audc("cat-dist").estimate - c.audc("xent").estimate)
    lacking = no_difference_claims(Comparison(table(methods=("dist", "xent")), resamples=9))
    assert {r.number.reason for r in lacking} == {"this run has no cat-xent and no cat-dist"}


def test_bound_claims():
    c = Comparison(table(), resamples=30)
    rows = bound_claims(c, 0.25)
    assert [(r.claim, r.role, r.mass) for r in rows] == [("C10", "primary", 0.25)] * 2
    assert rows[0].number == c.difference("cat-dist", "dist")
    with pytest.raises(ValueError, match="mass is 25, expected the share"):
        bound_claims(c, 25)


def two_tasks(easy=0.97, hard=0.3):
    """On calibration rows "b" is the harder task for both models; on test rows it is "a"."""
    rng, parts = np.random.default_rng(0), []
    for task in ("b", "a"):
        for split in ("calibration", "test"):
            difficult = (task == "b") == (split == "calibration")
            parts.append(rows_of("large", 0, split, rng.random(40) < (0.4 if difficult else easy), task=task))
            for method in ("xent", "cat-xent"):
                better = method == "cat-xent" and task == "a"
                right = np.ones(40) if better else rng.random(40) < (hard if difficult else 0.6)
                parts += [rows_of(method, s, split, right, rng.normal(size=40), task=task) for s in (0, 1)]
    return pd.concat(parts, ignore_index=True)


def test_easy_and_hard_are_found_on_calibration_rows():
    c = Comparison(two_tasks(), resamples=300)
    assert easy_and_hard(c) == ("a", "b")
    rows = alone_claims(c)
    assert [(r.claim, r.direction) for r in rows] == [("C5", 1)] * 6 + [("C6", -1)] * 6
    assert rows[0].number.reason == "this run has no cat-dist and no dist"
    assert "on a (easiest)" in rows[1].measure and rows[1].n == 40
    part = c.of_task("a")
    assert vars(rows[1].number) == pytest.approx(vars(part.alone_difference("cat-xent", "xent")), abs=1e-12)
    assert rows[1].verdict == "supported"
    assert "on b (hardest)" in rows[7].measure


def test_without_an_easy_and_a_hard_task_there_is_nothing_to_say():
    for shares in ({"easy": 0.5}, {"hard": 0.95}):
        found = easy_and_hard(Comparison(two_tasks(**shares), resamples=20))
        assert found.reason.startswith("no easy and no hard task: of answers neither gets ")


def test_one_task_has_no_easiest():
    c = Comparison(table(seeds=(0,)), resamples=20)
    assert easy_and_hard(c).reason == "needs at least two tasks"
    assert {r.verdict for r in alone_claims(c)} == {"not testable"}
    rows = cascade_claims(c, "C1")
    assert [r.number for r in rows[-2:]] == [c.difference(a, b) for a, b in c.pairs[:2]]
    assert all(r.verdict.endswith("one seed proves nothing") and r.claim == "C1" for r in rows[:3])
    assert easy_and_hard(Comparison(table(methods=("dist",), tasks=("a", "b")))).reason == "needs method xent"
