"""Verdicts follow their stated rules, whatever the numbers; claims pick the right rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_comparison import rows_of, table

from cat_core import claims
from cat_core.claims import ClaimRow, alone_claims, cascade_claims, claims_table, easy_and_hard, verdict
from cat_core.comparison import Comparison
from cat_core.ranking import Interval
from cat_core.tables import POINTS, Undefined


@pytest.mark.parametrize(
    ("ends", "direction", "expected"),
    [
        ((0.1, 0.3), 1, "same direction, interval excludes 0"),
        ((-0.3, -0.1), -1, "same direction, interval excludes 0"),
        ((-0.1, 0.3), 1, "undecided"),
        ((0.0, 0.3), 1, "undecided"),
        ((-0.3, 0.0), 1, "undecided"),
        ((0.0, 0.0), -1, "undecided"),
        ((-0.3, -0.1), 1, "opposite"),
        ((0.1, 0.3), -1, "opposite"),
    ],
)
def test_verdicts(ends, direction, expected):
    number = Interval(sum(ends) / 2, *ends)
    assert verdict(number, direction, 5) == expected
    assert verdict(number, direction, 1) == f"{expected}; one seed proves nothing"


@given(st.floats(-1, 1), st.floats(0, 1), st.sampled_from([1, -1]), st.integers(2, 20))
def test_verdicts_mirror_each_other(low, width, direction, seeds):
    number, mirrored = Interval(low, low, low + width), Interval(-low, -low - width, -low)
    found = verdict(number, direction, seeds)
    assert found == verdict(mirrored, -direction, seeds)
    contains_zero = number.low <= 0 <= number.high
    assert (found == "undecided") == contains_zero


def test_what_cannot_be_tested_and_what_is_refused():
    assert verdict(Undefined("no second task"), 1, 1) == "not testable here"
    with pytest.raises(ValueError, match=r"direction is 0, expected 1 \(above 0\) or -1"):
        verdict(Interval(0, 0, 0), 0, 2)
    with pytest.raises(ValueError, match="at least 1"):
        verdict(Interval(0, 0, 0), 1, 0)
    with pytest.raises(ValueError, match="rising order"):
        verdict(Interval(0, float("nan"), 1), 1, 2)


def test_table_states_rules_numbers_and_verdicts():
    rows = [
        ClaimRow("C1", "AUDC", 1, Interval(0.012, 0.004, 0.02), 1500, 3, POINTS),
        ClaimRow("C6", "S alone", -1, Undefined("one task"), 10, 3),
    ]
    text = repr(claims_table(rows, "Claims"))
    assert "C1 | AUDC | above 0 | +1.20 [+0.40,\u00a0+2.00] | 1,500, 3 | same direction" in text
    assert "C6 | S alone | below 0 | \u2013 (one task) | 10, 3 | not testable here" in text
    assert text.endswith(claims.RULES)
    assert rows[0].sentence == ("AUDC (C1): +1.20 [+0.40,\u00a0+2.00]; verdict: same direction, interval excludes 0.")


def two_tasks():
    """On calibration rows "b" is the harder task for both models; on test rows it is "a"."""
    rng, parts = np.random.default_rng(0), []
    for task in ("b", "a"):
        for split in ("calibration", "test"):
            hard = (task == "b") == (split == "calibration")
            parts.append(rows_of("large", 0, split, rng.random(40) < (0.4 if hard else 0.9), task=task))
            for method in ("xent", "cat-xent"):
                better = method == "cat-xent" and task == "a"
                right = np.ones(40) if better else rng.random(40) < (0.2 if hard else 0.6)
                parts += [rows_of(method, s, split, right, rng.normal(size=40), task=task) for s in (0, 1)]
    return pd.concat(parts, ignore_index=True)


def test_easy_and_hard_are_found_on_calibration_rows():
    c = Comparison(two_tasks(), resamples=300)
    assert easy_and_hard(c) == ("a", "b")
    rows = alone_claims(c)
    assert [(r.claim, r.direction) for r in rows] == [("C5", 1), ("C5", 1), ("C6", -1), ("C6", -1)]
    assert rows[0].number.reason == "this run has no cat-dist and no dist"
    assert "on a (easiest)" in rows[1].measure and rows[1].n == 40
    part = c.of_task("a")
    assert rows[1].number == part.alone_difference("cat-xent", "xent")
    assert rows[1].verdict == "same direction, interval excludes 0"
    assert "on b (hardest)" in rows[3].measure


def test_one_task_has_no_easiest():
    c = Comparison(table(seeds=(0,)), resamples=20)
    assert easy_and_hard(c).reason == "needs at least two tasks"
    assert {r.verdict for r in alone_claims(c)} == {"not testable here"}
    rows = cascade_claims(c, "C1")
    assert [r.number for r in rows] == [c.difference(a, b) for a, b in c.pairs]
    assert all(r.verdict.endswith("one seed proves nothing") and r.claim == "C1" for r in rows)
    assert easy_and_hard(Comparison(table(methods=("dist",), tasks=("a", "b")))).reason == "needs method xent"
