"""Verdicts of the ledger: each rule in cases that differ by one thing, and from files."""

import itertools
import json

import numpy as np
import pytest
from cat_book.pages.claims_report import claims_ledger, price_table, rules_text, summary
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import spearmanr
from small_metrics import metrics
from small_tables import table, text_table

from cat_core.analysis.claims import ClaimRow, bound_claims, cascade_claims
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.metrics import MethodMetrics, TokenMetrics
from cat_core.analysis.pooling import pool
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined, show_number
from cat_core.analysis.saving import saving
from cat_core.analysis.verdicts import CLAIMS, PERCENT, VERDICT_RULES, Entry, read_entries, spearman, verdict_of
from cat_core.ranking import Interval


def entry(estimate=0.1, error=0.02, role="primary", claim="C1", direction=1, seeds=10, freedom=20.0, **more):
    """A saving with the t interval of its error; "estimate" may be an `Undefined`."""
    number = estimate
    if not isinstance(estimate, Undefined):
        number = Interval(estimate, *stats.t.interval(0.95, freedom, estimate, error))
    fields = {"page": "04_superglue", "edition": "smol", "suite": "superglue", "n": 1500, "family": "CAT-Xent"}
    fields |= {"measure": "Saving (Chow-Average), CAT-Xent against Xent", "share": True, "scale": 100.0}
    known = {"number": number, "error": error, "freedom": freedom, "role": role, "claim": claim}
    return Entry(**fields | known | {"direction": direction, "seeds": seeds} | more)


def points(ends, claim="C4", scale=100.0, **more):
    """A difference in points of the metric with the interval `ends`."""
    number = Interval((ends[0] + ends[1]) / 2, *ends)
    about = {"page": "p", "edition": "smol", "suite": "s", "n": 1500, "seeds": 5, "role": "primary", "measure": "m"}
    direction = 0 if claim == "C4" else 1
    return Entry(**about | {"claim": claim, "direction": direction, "number": number, "scale": scale} | more)


CONTROL = {"role": "control", "measure": "Saving (Chow-Average), CAT-Xent against Random mask, Xent"}


@pytest.mark.parametrize(
    ("effects", "word"),
    [
        ([0.08, 0.09], "supported"),
        ([0.10, 0.12], "supported, at the paper's size"),
        ([-0.08, -0.1], "opposite"),
        ([0.01, -0.01], "no effect worth having"),
        ([0.05, -0.05], "no effect worth having"),
        ([0.04, 0.015], "inconclusive"),
        ([0.02, 0.02, 0.02, 0.02, 0.02, 0.03], "supported"),
    ],
)
def test_savings_are_pooled_and_judged(effects, word):
    found = verdict_of("C1", [entry(x, 0.02) for x in effects])
    assert found.word == word and list(found.findings) == ["CAT-Xent"]
    both = pool(effects, [0.02] * len(effects), [20.0] * len(effects))
    assert found.findings["CAT-Xent"].pooled == both
    assert show_number(both.number, PERCENT) in found.reason and f"over {len(effects)} cells" in found.reason
    assert ("another cell: [" in found.reason) == (len(effects) >= 5) and "power for 13" in found.reason


def test_families_are_judged_apart_and_adjusted_after_holm():
    weak = [entry(0.045, 0.02), entry(0.045, 0.02, family="CAT-Dist")]
    alone = verdict_of("C1", weak[:1])
    p = alone.findings["CAT-Xent"].p
    assert 0.025 < p < 0.05 and alone.word == "supported"
    both = verdict_of("C1", weak)
    assert both.word == "inconclusive" and [f.p for f in both.findings.values()] == pytest.approx([2 * p] * 2)
    mixed = verdict_of("C1", [entry(0.1), entry(-0.2, family="CAT-Dist")])
    assert mixed.word == "CAT-Xent: supported, at the paper's size; CAT-Dist: opposite"
    assert mixed.reason.startswith("CAT-Xent: +10.0") and "; CAT-Dist: \u221220.0" in mixed.reason


def test_controls_are_pooled_alike_and_decide_nothing():
    rows = [entry(0.1), entry(0.2), entry(0.02, **CONTROL), entry(0.04, **CONTROL)]
    filtered = CONTROL | {"measure": "Saving (Chow-Average), CAT-Xent against L-right mask, Xent"}
    found = verdict_of("C1", [*rows, entry(-0.3, **filtered), entry(Undefined("x"), **filtered)])
    controls = dict(found.findings["CAT-Xent"].controls)
    assert list(controls) == ["Random mask, Xent", "L-right mask, Xent"]
    assert controls["Random mask, Xent"] == pool([0.02, 0.04], [0.02] * 2, [20.0] * 2)
    assert controls["L-right mask, Xent"].number.estimate == -0.3
    assert found.word == verdict_of("C1", rows[:2]).word == "supported, at the paper's size"


def test_what_is_heard():
    one_seed = entry(-1.0, seeds=1)
    assert verdict_of("C1", []).word == "not testable" and "nothing that was run" in verdict_of("C1", []).reason
    assert verdict_of("C1", [entry(role="secondary")]).word == "not testable"
    assert verdict_of("C1", [one_seed]).reason == "one training seed proves nothing"
    assert verdict_of("C1", [entry(Undefined("no GPU")), entry(Undefined("no GPU"))]).reason == "no GPU"
    small = entry(-1.0, ineligible="L is better than S by 3.1 points only")
    assert verdict_of("C1", [small]).word == "not testable"
    found = verdict_of("C1", [entry(), one_seed, entry(Undefined("x")), small, entry(-1.0, role="secondary")])
    assert found.word.startswith("supported")
    assert found.reason.endswith("(3 more not heard)")
    lopsided = Interval(0.1, -0.5, 0.2)
    assert verdict_of("C1", [entry(number=lopsided)]).findings["CAT-Xent"].pooled.number == lopsided
    with pytest.raises(ValueError, match="unknown claim 'C99'"):
        verdict_of("C99", [])


def test_what_was_recorded_before_the_rules_is_exploratory():
    old, new = entry(edition="reference"), entry(edition="smol")
    assert verdict_of("C1", [old]).exploratory == "exploratory"
    assert verdict_of("C1", [new]).exploratory == verdict_of("C1", []).exploratory == ""
    other = entry(0.5, edition="smol")
    both = verdict_of("C1", [old, new, other])
    assert both.exploratory == "partly exploratory"
    found = both.findings["CAT-Xent"]
    assert found.afterwards.number.estimate == pytest.approx((new.number.estimate + 0.5) / 2)
    assert "recorded after the rules: " in found.reason and found.afterwards.cells == 2
    assert verdict_of("C1", [new, other]).findings["CAT-Xent"].afterwards is None
    assert verdict_of("C1", [old]).findings["CAT-Xent"].afterwards is None


def test_a_size_is_that_of_all_cells_together():
    rows = [entry(0.1), entry(0.12, claim="C2"), entry(0.2, claim="C9"), entry(0.05, claim="C3", family="CAT-Dist")]
    found = verdict_of("C8", rows)
    assert found.findings["CAT-Xent"].pooled.number.estimate == pytest.approx(0.11)
    assert found.findings["CAT-Dist"].pooled.cells == 1


def test_claims_below_zero_are_turned_round():
    about = {"claim": "C6", "share": False, "measure": "S alone on x (hardest), CAT-Xent \u2212 Xent", "direction": -1}
    assert verdict_of("C6", [entry(-0.1, **about)]).word == "supported"
    assert verdict_of("C6", [entry(0.1, **about)]).word == "opposite"
    assert verdict_of("C6", [entry(0.0, 0.005, **about)]).word == "no effect worth having"  # within 2 points


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ([(-0.01, 0.01), (0.005, 0.019)], "supported"),  # excludes 0, but within the margin: no clear difference
        ([(-0.01, 0.01), (-0.01, 0.03)], "inconclusive"),
        ([(-0.01, 0.01), (0.005, 0.03)], "inconclusive"),  # overlaps the margin: not shown to lie beyond
        ([(-0.05, 0.05), (-0.03, -0.021)], "opposite"),
        ([(-0.02, 0.02)], "supported"),
    ],
)
def test_claims_of_no_difference(ends, word):
    assert verdict_of("C4", [points(e) for e in ends]).word == word
    assert verdict_of("C4", [points((100 * a, 100 * b), scale=1.0) for a, b in ends]).word == word


def cells(pairs, width=0.001, scale=100.0):
    """Entries of C10: one suite each, (share, difference)."""
    return [
        points((100 / scale * (d - width), 100 / scale * (d + width)), "C10", scale, mass=m, suite=f"s{i}")
        for i, (m, d) in enumerate(pairs)
    ]


def test_the_bound():
    growing = [(0.0, 0.0), (0.1, 0.01), (0.2, -0.02), (0.3, 0.03), (0.4, 0.05)]
    found = verdict_of("C10", cells(growing))
    assert found.word == "supported" and "correlation +1.00 over 5 cells" in found.reason
    few = verdict_of("C10", cells(growing[:4]))
    assert few.word == "inconclusive" and "4 cells are too few" in few.reason
    loose = [(0.0, 0.0), (0.1, 0.03), (0.2, 0.01), (0.3, 0.02), (0.4, 0.04)]
    assert verdict_of("C10", cells(loose)).word == "inconclusive"
    over = verdict_of("C10", cells([*growing, (0.05, -0.07)]))
    assert over.word == "opposite" and "1 of 6 intervals lie beyond their share, first: m, s5" in over.reason
    assert verdict_of("C10", cells([*growing, (0.0, 0.002)])).word == "opposite"  # no hard token, and yet a difference
    twice = cells(growing[:3]) + cells(growing[:3])  # two pairs of three suites are three cells
    assert "3 cells" in verdict_of("C10", twice).reason
    with pytest.raises(ValueError, match="C10: every primary entry needs the share"):
        verdict_of("C10", [points((0, 1), "C10")])


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
    deal = {seed: (3, 7, 8, 9)[seed % 4] for seed in range(8)}
    c = Comparison(table(large_seeds=(3, 7, 8, 9), seeds=tuple(deal), n=200), deal, resamples=40)
    rows = cascade_claims(c, "C1") + bound_claims(c, 0.9)
    publish(tmp_path / name, "04_superglue", None, {"metric": "accuracy", "suite": "mini", "claims": rows})
    bleu = Comparison(text_table(seeds=range(5)), resamples=40)
    rows = cascade_claims(bleu, "C2") + cascade_claims(bleu.with_metric("chrf"), "C2, secondary")
    page = {"metric": "bleu", "claims": rows}
    publish(tmp_path / name, "05_wmt22", None, {"numbers": {"x": [1, page]}, "note": "a<b"})
    return tmp_path / name, c, bleu


def test_entries_are_the_rows_that_pages_published(tmp_path):
    folder, c, bleu = edition(tmp_path)
    entries = read_entries(folder)
    assert entries == read_entries(folder / "metrics")
    first, wanted = entries[0], saving(c, "cat-dist", "dist")
    assert (first.claim, first.page, first.edition, first.suite) == ("C1", "04_superglue", "reference", "mini")
    assert (first.number, first.error, first.freedom) == (wanted.number, wanted.error, wanted.freedom)
    assert (first.role, first.family, first.n, first.share) == ("primary", "CAT-Dist", 200, True)
    assert (first.seeds, first.large_seeds, first.scale, first.level) == (8, 4, 100, 0.95)
    assert [e.mass for e in entries if e.claim == "C10"] == [0.9, 0.9]
    second = [e for e in entries if e.claim == "C2"]
    roles = ["primary"] * 2 + ["control"] * 4 + ["secondary"] * 2
    assert [e.role for e in second] == roles + ["secondary"] * len(roles)
    assert second[6].number == bleu.difference("cat-dist", "dist") and second[6].scale == 1
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


def test_tables_show_every_claim_with_its_verdict(tmp_path):
    folder, c, _ = edition(tmp_path)
    entries = read_entries(folder)
    short = summary(entries)
    assert list(dict.fromkeys(row[0] for row in short.rows)) == list(CLAIMS)
    assert [row[2] for row in short.rows if row[0] == "C1"] == ["CAT-Dist", "CAT-Xent"]
    assert [row[3] for row in short.rows if row[0] == "C9"] == ["not testable"]
    for text in VERDICT_RULES.values():
        assert text in rules_text() and text in repr(short)
    full = claims_ledger(entries)
    mine = [row for row in full.rows if row[0].partition(":")[0] == "C1"]
    assert len(mine) == 6 and mine[0][0] == f"C1: {verdict_of('C1', entries).word}"
    assert mine[1][0] == "C1" and mine[0][1] == "reference/04_superglue" and mine[0][6] == "200; 8/4"
    wanted = saving(c, "cat-dist", "dist")
    assert mine[0][3] == show_number(wanted.number, PERCENT) and mine[0][4] == f"{wanted.power(0.13):.2f}"
    assert mine[0][5] == f"{100 * wanted.visible:.1f}\u00a0%" and mine[0][7] == "yes"
    assert mine[2][2].startswith("control: ")
    assert "share 90.0\u00a0%" in next(row for row in full.rows if row[0].startswith("C10"))[3]
    assert [row[0] for row in full.rows if row[0].startswith("C9")] == ["C9: not testable"]
    assert "12 secondary entries decide nothing" in full.note
    with pytest.raises(ValueError, match="page 04_superglue of edition smol has claim 'C77': add it"):
        claims_ledger([entry(claim="C77")])


def test_the_price_stands_beside_the_gain():
    saved = ClaimRow(claim="C1", measure="m", direction=1, role="primary", family="CAT-Dist", share=True, scale=100.0,
                     number=Interval(0.1, 0.05, 0.15), n=9, seeds=3)  # fmt: skip
    tokens = {"dist": TokenMetrics(0.5, 1.0, 0.7, 1.25, 0.02), "cat-dist": TokenMetrics(0.5, 1.0, 0.7, 3.5, 0.2)}
    methods = {"dist": MethodMetrics(harm=0.125), "cat-dist": MethodMetrics()}
    (row,) = price_table([metrics("low", study="reference", claims=[saved], methods=methods, tokens=tokens)]).rows
    assert row[:3] == ["reference/low", "CAT-Dist \u2212 Dist", "+10.0\u00a0% [+5.0,\u00a0+15.0]"]
    assert row[3:] == ["0.020 \u2192 0.200", "1.25 \u2192 3.50", "12.5\u00a0% \u2192 \u2013"]
    assert price_table([]).rows[0][0] == "none"
