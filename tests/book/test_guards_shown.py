"""Guards on pages: the banner, tables that count spoilt answers, and claims that follow the data."""

from types import SimpleNamespace

import pandas as pd
import pytest
from cat_book.drawing.banner import Banner, banners
from cat_book.pages import claims_report, study_report, suite_report
from cat_book.pages.results import Provenance, Results
from small_tables import rows_of, table

from cat_core.analysis import claims, guards
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.guards import Guard
from cat_core.ranking import Interval
from cat_core.studies.study import open_cell

LOSS, FEW = Guard("the <b>loss</b> rises", "It rose: <script>1</script> & more.", True), Guard("few test items", "90.")


def test_a_banner_says_it_in_words_and_escapes_them():
    (both,) = banners([LOSS, FEW])
    html = both._repr_html_()
    assert "<p>No verdict: this run cannot say which method is better.</p>" in html and 'role="note"' in html
    assert "The &lt;b&gt;loss&lt;/b&gt; rises (no verdict)." in html
    assert "&lt;script&gt;1&lt;/script&gt; &amp; more." in html
    assert "<script>" not in html and "<strong>Few test items.</strong> 90." in html
    assert repr(both).splitlines()[0] == both.heading and repr(both).count("\n- ") == 2
    (care,) = banners([FEW], "this cell")
    assert care.heading == "Read this cell with care." and banners([]) == [] == banners(())
    with pytest.raises(ValueError, match="a banner needs a heading and lines"):
        Banner("Mind", [])


def test_the_table_of_models_counts_empty_and_cut_answers():
    frame = table(seeds=(0,), methods=("xent", "dist"))
    test = (frame["split"] == "test").to_numpy()
    first = test & ((frame["method"] == "xent") & (frame.groupby("method").cumcount() % 10 == 0)).to_numpy()
    sound = suite_report.alone_table(Comparison(frame, resamples=20))
    assert "Empty answers: none; answers cut off: none." in sound.note
    frame.loc[first, "prediction"] = "  "
    frame.loc[first, "truncated"] = True
    found = suite_report.alone_table(Comparison(frame, resamples=20))
    k = int(first.sum())
    assert found.rows[-2:] == [["empty answers", "60", f"{k} of 60", "0 of 60", "0 of 60"],
                               ["answers cut off", "60", f"{k} of 60", "0 of 60", "0 of 60"]]  # fmt: skip
    bare = suite_report.alone_table(Comparison(frame.assign(prediction=None), resamples=20))
    assert [row[0] for row in bare.rows] == ["all", "answers cut off"] and "texts were not kept" in bare.note


def test_four_items_that_agree_have_no_interval():
    rows = [rows_of("large", 0, s, [1] * 4) for s in ("calibration", "test")]
    rows += [rows_of("xent", 0, s, [q] * 4, [-1, -2, -3, -4]) for s in ("calibration", "test") for q in (0,)]
    (row,) = suite_report.alone_table(Comparison(pd.concat(rows, ignore_index=True), resamples=20)).rows
    assert row == ["all", "4", "0.0 (no interval)", "100.0 (no interval)"]


def run_on(suite, cell=None):
    names = SimpleNamespace(name=suite.rpartition("/")[2].removesuffix(".jsonl"))
    return SimpleNamespace(cell=cell, suite=names, experiment=SimpleNamespace(suite=suite))


@pytest.mark.parametrize(
    ("claim", "suite", "fits"),
    [
        ("C1", "mini-superglue", True), ("C1", "boolq+cb@test + wsc", True), ("C1", "trec", False),
        ("C1", "boolq+trec", False), ("C1", "my/animals.jsonl", False), ("C2", "mini-wmt", True),
        ("C2", "multi30k-de-en", True), ("C2", "pairs.jsonl", False), ("C3", "trec+sst2+cola", True),
        ("C3", "trec+own.yaml", False), ("C3", "mini-flan", True),
    ],
)  # fmt: skip
def test_a_claim_is_about_the_data_that_it_names(claim, suite, fits):
    found, other = claims_report.claim_on(run_on(suite), claim, "SuperGLUE")
    assert found == (claim if fits else "") and len(other) == (not fits)
    assert fits or f"all numbers of this run are of {run_on(suite).suite.name}." in repr(other[0])


def test_a_recorded_cell_says_what_it_was_made_for():
    cell = open_cell("reference/mini-superglue-high")
    assert claims_report.claim_on(run_on("", cell), "C1", "SuperGLUE") == ("C1", [])
    found, (other,) = claims_report.claim_on(run_on("", cell), "C2", "WMT22")
    assert found == "" and "reference/mini-superglue-high" in repr(other)


def test_titles_and_references_follow_the_data():
    c = Comparison(table(seeds=(0,)), resamples=20)
    assert claims_report.title("SuperGLUE", "C1", c) == "SuperGLUE: direction claimed, this run, reference"
    assert claims_report.title("SuperGLUE", "", c) == "s: this run; no claim of the paper is about these data"
    assert study_report.recorded((), claim="C1") == ((), "No recorded cell is of these data.")
    rows = guards.silenced(claims.cascade_claims(c, claims.NONE), [LOSS])
    shown = claims_report.claims_table(rows, "t", []).rows
    assert shown[0][0] == "no claim" and shown[0][-1] == "no verdict: the <b>loss</b> rises"
    assert suite_report.headline(c, rows)["primary"].endswith("; no verdict: the <b>loss</b> rises.")


@pytest.mark.slow
def test_exploding_rates_give_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    size = "hidden 8, layers 1, heads 2"
    given = {"suite": "mini-superglue", "suite_options": {"train": 300, "calibration": 60, "test": 150}, "recorded": "",
             "small": size, "large": size, "steps": 20, "large_steps": 20, "learning_rate": 5.0, "vocab_size": 400,
             "large_learning_rate": 5.0, "batch_size": 32, "seeds": [0, 1], "edition": "", "device": "cpu",
             "methods": ["xent", "dist", "cat-xent", "cat-dist"]}  # fmt: skip
    results = Results.of(given, Provenance.here("", "cpu"))
    c = results.comparison(results.experiment.methods, 200)
    raised = results.guards(c)
    rows = guards.silenced(claims.cascade_claims(c, "C1") + claims.alone_claims(c), raised)
    assert "not above majority or guessing" in {g.name for g in raised if g.forbids}
    assert {"the loss rises", "one answer for everything"} & {g.name for g in raised if g.forbids}
    measured = [r for r in rows if isinstance(r.number, Interval)]
    assert len(measured) >= 2 and all(r.verdict.startswith("no verdict: ") and not r.heard for r in measured)
