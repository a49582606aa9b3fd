"""Verdicts of the ledger: each rule in cases that differ by one thing, against a second wording, and from files."""

import itertools
import json
import re
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from cat_book.pages.claims_report import claims_ledger, rules_text, summary
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from small_tables import table, text_table

from cat_core.analysis.claims import CAVEAT_RULE, bound_claims, cascade_claims
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined
from cat_core.analysis.verdicts import CLAIMS, VERDICT_RULES, VERDICTS, Entry, read_entries, spearman, verdict_of
from cat_core.ranking import Interval

UP, ABOUT, DOWN = (0.01, 0.03), (-0.01, 0.03), (-0.03, -0.01)


def entry(ends=UP, role="primary", claim="C1", direction=1, seeds=10, **more):
    number = ends if isinstance(ends, Undefined) else Interval((ends[0] + ends[1]) / 2, *ends)
    fields = {"page": "04_superglue", "edition": "reference", "suite": "superglue", "measure": "m", "n": 1500, **more}
    return Entry(claim=claim, direction=direction, number=number, seeds=seeds, role=role, **{"scale": 100.0} | fields)


@pytest.mark.parametrize(
    ("primary", "control", "word", "reason"),
    [
        ([UP, UP], [UP], "reproduced", "2 of 2 primary intervals on the claimed side of 0, 0 on the other; 1 of 1 "),
        ([UP, UP], [UP, ABOUT], "direction only", "1 of 2 intervals against the random mask as well: not shown"),
        ([UP, UP], [DOWN], "direction only", "0 of 1 intervals against the random mask"),
        ([UP, UP], [], "direction only", "no random mask was run"),
        ([UP, ABOUT], [UP], "direction only", "1 of 2 primary intervals .*; all estimates as claimed"),
        (
            [ABOUT, ABOUT],
            [UP],
            "direction only",
            "only the signs are as claimed, which chance alone gives in up to half",
        ),
        ([UP, (-0.03, 0.01)], [UP], "not reproduced", "the estimates differ in sign"),
        ([ABOUT, (-0.03, 0.01)], [], "not reproduced", "the estimates differ in sign"),
        ([UP, DOWN], [UP], "not reproduced", "the suites disagree"),
        ([ABOUT, DOWN], [UP], "contradicted", "0 of 2 primary intervals on the claimed side of 0, 1 on the other"),
        ([DOWN, DOWN], [UP], "contradicted", "2 on the other"),
        ([(0.0, 0.02)], [UP], "direction only", "0 of 1"),  # touches 0: includes it
        ([(0.0, 0.0)], [], "not reproduced", "0 of 1"),
    ],
)
@pytest.mark.parametrize("direction", [1, -1])
def test_claims_with_a_direction(primary, control, word, reason, direction):
    def turned(ends):
        return ends if direction > 0 else (-ends[1], -ends[0])

    entries = [entry(turned(e), direction=direction) for e in primary]
    entries += [entry(turned(e), "control", direction=direction) for e in control]
    found = verdict_of(entries)
    assert found.word == word
    assert re.search(reason, found.reason) and "\n" not in found.reason
    alone = verdict_of([entry(e, claim="C7") for e in primary])  # a claim without controls
    assert (alone.word == "reproduced") == (primary == [UP, UP])


sides = st.tuples(st.floats(-1, 1), st.floats(0, 1)).map(lambda t: (t[0], t[0] + t[1]))


@settings(max_examples=300, deadline=None)
@given(st.lists(sides, min_size=1, max_size=4), st.lists(sides, max_size=3))
def test_a_second_wording_of_the_rule(primary, control):
    found = verdict_of([entry(e) for e in primary] + [entry(e, "control") for e in control]).word
    above = [low > 0 for low, _ in primary]
    below = [high < 0 for _, high in primary]
    middle = [(low + high) / 2 > 0 for low, high in primary]
    if found == "reproduced":
        assert min(low for low, _ in primary + control) > 0 and control
    elif found == "contradicted":
        assert any(below) and not any(above)
    elif found == "direction only":
        assert all(middle) and not (all(above) and control and all(low > 0 for low, _ in control))
    else:
        assert found == "not reproduced" and not all(middle) and (any(above) or not any(below))


def test_what_is_heard():
    one_seed = entry(DOWN, seeds=1)
    assert verdict_of([]).word == "not testable here" and "no page that was run" in verdict_of([]).reason
    assert verdict_of([entry(UP, "secondary")]).word == "not testable here"
    assert verdict_of([one_seed]).reason == "one training seed proves nothing"
    assert verdict_of([entry(Undefined("no GPU")), entry(Undefined("no GPU"))]).reason == "no GPU"
    found = verdict_of([entry(UP), entry(UP, "control"), one_seed, entry(Undefined("x")), entry(DOWN, "secondary")])
    assert found.word == "reproduced" and found.reason.endswith("(2 more could not be tested)")
    assert verdict_of([entry(UP), entry(DOWN, "control", seeds=1)]).reason.count("no random mask was run") == 1
    silent = [entry(Undefined("not run"), "control"), entry(UP, "control", seeds=1)]
    for other in silent:  # a control that was not run, or with one seed, does not bear the claim out
        found = verdict_of([entry(UP), entry(UP, "control"), other])
        assert found.word == "direction only" and "1 of 2 intervals against the random mask" in found.reason
    with pytest.raises(ValueError, match="entries of C1, C2: give those of one claim"):
        verdict_of([entry(), entry(claim="C2")])
    with pytest.raises(ValueError, match="entries of C99"):
        verdict_of([entry(claim="C99")])


def test_p_values_belong_to_their_intervals_and_are_adjusted():
    for ends in (UP, ABOUT, DOWN, (0.0, 0.02)):
        assert (entry(ends).p_value < 0.05 - 1e-9) == (entry(ends).side != 0)
    z = 0.02 / (0.01 / NormalDist().inv_cdf(0.975))
    assert entry(UP).p_value == pytest.approx(2 * (1 - NormalDist().cdf(z)))
    assert entry((0.0, 0.02)).p_value == pytest.approx(0.05) and entry((0.0, 0.02), level=0.8).p_value == pytest.approx(
        0.2
    )
    lopsided = replace(entry(), number=Interval(0.02, 0.0, 0.9))
    assert lopsided.p_value == pytest.approx(0.05)
    assert entry((0.0, 0.0)).p_value == 1 and entry((0.1, 0.1)).p_value == 0
    found = verdict_of([entry(UP), entry(ABOUT), entry(UP, "control")])
    small, large = entry(UP).p_value, entry(ABOUT).p_value
    assert found.p == pytest.approx((2 * small, large))
    assert verdict_of([entry(ABOUT), entry(UP)]).p == pytest.approx((large, 2 * small))


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ([(-0.01, 0.01), (0.005, 0.019)], "reproduced"),  # excludes 0, but within the margin: no clear difference
        ([(-0.01, 0.01), (-0.01, 0.03)], "not reproduced"),
        ([(-0.01, 0.01), (0.005, 0.03)], "contradicted"),
        ([(-0.05, 0.05), (-0.03, -0.005)], "contradicted"),
        ([(-0.02, 0.02)], "reproduced"),
    ],
)
def test_claims_of_no_difference(ends, word):
    assert verdict_of([entry(e, claim="C4", direction=0) for e in ends]).word == word
    in_points = [entry((100 * a, 100 * b), claim="C4", direction=0, scale=1.0) for a, b in ends]
    assert verdict_of(in_points).word == word


def cells(pairs, width=0.001, scale=100.0):
    """Entries of C10: one suite each, (share, difference)."""
    return [
        entry((100 / scale * (d - width), 100 / scale * (d + width)), claim="C10", mass=m, suite=f"s{i}", scale=scale)
        for i, (m, d) in enumerate(pairs)
    ]


def test_the_bound():
    growing = [(0.0, 0.0), (0.1, 0.01), (0.2, -0.02), (0.3, 0.03), (0.4, 0.05)]
    found = verdict_of(cells(growing))
    assert found.word == "reproduced" and "correlation +1.00 over 5 cells" in found.reason
    assert verdict_of(cells(growing, scale=1.0)).word == "reproduced"
    assert verdict_of(cells(growing[:4])).word == "not reproduced"
    assert "4 cells are too few" in verdict_of(cells(growing[:4])).reason
    loose = [(0.0, 0.0), (0.1, 0.03), (0.2, 0.01), (0.3, 0.02), (0.4, 0.04)]
    assert verdict_of(cells(loose)).word == "direction only"
    assert verdict_of(cells([(0.4 - m, d) for m, d in growing if m <= 0.2] + growing[:2])).word == "not reproduced"
    over = verdict_of(cells([*growing, (0.05, -0.07)]))
    assert over.word == "contradicted" and "1 of 6 intervals lie beyond their share, first: m, s5" in over.reason
    assert verdict_of(cells([*growing, (0.0, 0.002)])).word == "contradicted"  # no hard token, and yet a difference
    twice = cells(growing[:3]) + cells(growing[:3])  # two pairs of three suites are three cells
    assert "3 cells" in verdict_of(twice).reason
    with pytest.raises(ValueError, match="C10: every primary entry needs the share"):
        verdict_of([entry(claim="C10")])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=6))
def test_spearman_equals_full_enumeration(pairs):
    x, y = map(list, zip(*pairs))

    def ranks(values):
        ordered = sorted(values)
        return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]

    def correlation(order):
        if len(set(x)) < 2 or len(set(y)) < 2:
            return 0.0
        return np.corrcoef(ranks(x), ranks([y[i] for i in order]))[0, 1]

    every = [correlation(order) for order in itertools.permutations(range(len(x)))]
    rho, p = spearman(x, y)
    assert rho == pytest.approx(every[0], abs=1e-12)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert p == pytest.approx(np.mean(np.array(every) >= every[0] - 1e-9), abs=0.025)


def test_spearman_refuses():
    with pytest.raises(ValueError, match="expected the same number of values"):
        spearman([1, 2], [1])


# ---------------------------------------------------------------- files and tables


def edition(tmp_path, name="reference"):
    """Metrics of two pages: accuracy with large models, and BLEU with chrF inside."""
    c = Comparison(table(large_seeds=(3, 7)), {0: 3, 1: 7}, resamples=40)
    rows = cascade_claims(c, "C1") + bound_claims(c, 0.9)
    publish(tmp_path / name, "04_superglue", None, {"metric": "accuracy", "suite": "mini", "claims": rows})
    bleu = Comparison(text_table(), resamples=40)
    rows = cascade_claims(bleu, "C2") + cascade_claims(bleu.with_metric("chrf"), "C2, secondary")
    page = {"metric": "bleu", "claims": rows}
    publish(tmp_path / name, "05_wmt22", None, {"numbers": {"x": [1, page]}, "note": "a<b"})
    return tmp_path / name, c, bleu


def test_entries_are_the_rows_that_pages_published(tmp_path):
    folder, c, bleu = edition(tmp_path)
    entries = read_entries(folder)
    assert entries == read_entries(folder / "metrics")
    first = entries[0]
    assert (first.claim, first.page, first.edition, first.suite) == ("C1", "04_superglue", "reference", "mini")
    assert (first.number, first.role, first.n) == (c.difference("cat-dist", "dist"), "primary", 60)
    assert (first.seeds, first.large_seeds, first.scale, first.level) == (2, 2, 100, 0.95)
    assert [e.mass for e in entries if e.claim == "C10"] == [0.9, 0.9]
    second = [e for e in entries if e.claim == "C2"]
    assert [e.role for e in second] == ["primary", "primary", "control", "control"] + ["secondary"] * 4
    assert second[0].number == bleu.difference("cat-dist", "dist") and second[0].scale == 1
    assert isinstance(second[1].number, Undefined) and "cat-xent" in second[1].number.reason
    both = read_entries(folder, edition(tmp_path, "other")[0])
    assert [e.edition for e in both] == ["reference"] * len(entries) + ["other"] * len(entries)


def test_rows_without_roles_are_secondary_and_scales_follow_the_metric(tmp_path):
    number = {"estimate": 1.0, "low": 0.5, "high": 2.0}
    row = {"claim": "C2", "measure": "AUDC", "direction": 1, "number": number, "n": 9, "seeds": 3, "verdict": "old"}
    nested = {"metric": "bleu", "claims": [row], "chrf": {"metric": "chrf", "claims": [row]}}
    publish(tmp_path, "05", None, nested)
    assert read_entries(tmp_path) == [
        Entry(
            claim="C2", page="05", edition=tmp_path.name, suite="", measure="AUDC", direction=1,
            number=Interval(1.0, 0.5, 2.0), n=9, seeds=3, role="secondary", scale=1.0,
        )
    ]  # fmt: skip
    publish(tmp_path, "05", None, nested | {"metric": "accuracy"})
    assert read_entries(tmp_path)[0].scale == 100


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"page": "p"}',
        json.dumps({"page": "p", "metrics": {"claims": [{"claim": "C1"}]}}),
        json.dumps({"page": "p", "metrics": {"claims": [{"claim": "one", "direction": 1, "number": {}}]}}),
    ],
)
def test_files_that_are_no_metrics(tmp_path, content):
    path = tmp_path / "metrics" / "p.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match="p.json does not hold a page's metrics .*: run the page again") as caught:
        read_entries(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no metrics in .*nowhere"):
        read_entries(tmp_path / "nowhere")


def test_a_saving_where_l_is_not_shown_to_be_better_has_a_caveat_and_keeps_its_verdict():
    def saving(*room, **more):
        return entry(claim="C8", headroom=Interval(*room) if room else None, **more)

    plain = [saving(1.0, 0.1, 2.0), saving(), entry(ABOUT, claim="C8")]
    marked = [saving(0.5, 0.0, 1.0), saving(0.5, -0.5, 1.5, seeds=1), plain[2]]
    assert "\u2020" not in repr(claims_ledger(plain)) and "not shown to be better" not in verdict_of(plain).reason
    full = claims_ledger(marked)
    rows = [row for row in full.rows if row[0].partition(":")[0] == "C8"]
    assert [row[3].endswith("\u2020") for row in rows] == [True, True, False] and CAVEAT_RULE in full.note
    found = verdict_of(marked)
    assert found.reason.endswith("(1 where L alone is not shown to be better than S alone)")  # one seed is not heard
    assert found.word == verdict_of([replace(e, headroom=None) for e in marked]).word


def test_tables_show_every_claim_with_its_verdict(tmp_path):
    folder, c, _ = edition(tmp_path)
    entries = read_entries(folder)
    short = summary(entries)
    assert [row[0] for row in short.rows] == list(CLAIMS) and {row[3] for row in short.rows} <= set(VERDICTS)
    assert short.rows[0][2] == "04_superglue" and short.rows[8][2:4] == ["\u2013", "not testable here"]
    for text in VERDICT_RULES.values():
        assert text in rules_text() and text in repr(short)
    full = claims_ledger(entries)
    mine = [row for row in full.rows if row[0].partition(":")[0] == "C1"]
    assert len(mine) == 4 and mine[0][0] == f"C1: {verdict_of(e for e in entries if e.claim == 'C1').word}"
    assert mine[1][0] == "C1" and mine[0][1] == "reference/04_superglue" and mine[0][4] == "60; 2/2"
    wanted = 100 * c.difference("cat-dist", "dist").estimate
    assert mine[0][3].startswith(f"{wanted:+.2f}".replace("-", "\u2212"))
    assert mine[0][5] and mine[2][5] == "" and mine[2][2].startswith("control: ")
    assert "share 90.0\u00a0%" in next(row for row in full.rows if row[0].startswith("C10"))[3]
    assert [row[0] for row in full.rows if row[0].startswith("C9")] == ["C9: not testable here"]
    assert "4 secondary entries decide nothing" in full.note
    with pytest.raises(ValueError, match="page 04_superglue of edition reference has claim 'C77': add it"):
        summary([entry(claim="C77")])
