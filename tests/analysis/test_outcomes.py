"""The outcome table: round trip, every refusal in one line, and the pairing of S with L."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from cat_core.analysis.corpus import with_counts
from cat_core.analysis.outcomes import (
    COUNTS,
    SCHEMA,
    OutcomeError,
    compact,
    drop_text,
    paired,
    read_outcomes,
    validate,
    write_outcomes,
)
from cat_core.analysis.quantities import significant
from cat_core.curves import audc, deferral_curve


def row(item="i1", model="small", method="cat-dist", split="test", seed=0, **more):
    made = {
        "edition": "quick",
        "suite": "mini",
        "task": "reading",
        "metric": "accuracy",
        "split": split,
        "item_id": item,
        "cluster_id": "",
        "method": "large" if model == "large" else method,
        "seed": seed,
        "model": model,
        "quality": 1.0,
        "prediction": "yes",
        "target": "no",
        "n_prompt": 7,
        "n_generated": 2,
        "truncated": False,
        "flops": 10**12,
        "confidence_chow_sum": -2.0,
        "confidence_chow_average": -1.0,
        "confidence_chow_quantile_0": -1.5,
        "confidence_option_probability": None,
        "confidence_option_margin": None,
    }
    return {**made, **more}


def frame(*rows):
    return pd.DataFrame(list(rows) or [row(), row("i2", quality=0.0), row(model="large"), row("i2", model="large")])


# ---------------------------------------------------------------- reading and writing


@pytest.mark.parametrize("kind", ["frame", "arrow", "rows"])
def test_round_trip(tmp_path, kind):
    table = frame()
    given = {
        "frame": table,
        "arrow": pa.Table.from_pandas(table[table.columns[::-1]]),
        "rows": table.to_dict("records"),
    }[kind]
    path = write_outcomes(tmp_path / "new" / "outcomes.parquet", given)
    stored = pq.read_table(path)
    assert stored.schema.equals(SCHEMA)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert stored["confidence_option_margin"].null_count == 4
    again = read_outcomes(path)
    assert list(again.columns) == SCHEMA.names and again["flops"].tolist() == [10**12] * 4
    pd.testing.assert_frame_equal(again, validate(table), check_dtype=False)
    assert [p.name for p in path.parent.iterdir()] == ["outcomes.parquet"]


def test_same_rows_same_bytes_and_further_confidences(tmp_path):
    table = frame().assign(confidence_chow_quantile_50=-1.0)
    one, two = (write_outcomes(tmp_path / name, table).read_bytes() for name in "ab")
    assert one == two
    assert read_outcomes(tmp_path / "a").columns[-1] == "confidence_chow_quantile_50"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_outcomes(tmp_path / "o.parquet", frame())
    before = path.read_bytes()

    def half(table, where, **_):
        with open(where, "wb") as file:
            file.write(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        write_outcomes(path, frame(row("other")))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no outcome table at .*missing"):
        read_outcomes(tmp_path / "missing")
    path = write_outcomes(tmp_path / "o.parquet", frame())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OutcomeError, match="not a complete Parquet file"):
        read_outcomes(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(OutcomeError, match="o.parquet: missing columns edition, .*; unknown columns x:"):
        read_outcomes(path)
    with pytest.raises(TypeError, match="got str"):
        write_outcomes(tmp_path / "x", "rows")


def test_texts_can_be_left_out(tmp_path):
    table = frame()
    without = read_outcomes(write_outcomes(tmp_path / "o", drop_text(table)))
    assert without["prediction"].isna().all() and without["target"].isna().all()
    assert table["target"].notna().all()
    pd.testing.assert_series_equal(without["quality"], table["quality"])


def translated(n=6, **more):
    """Rows scored by BLEU, of S and L."""
    texts = ["the cat sat on a mat", "a dog", "", "the red house is near the old river", "x", "one two three four five"]
    made = [
        row(f"i{i}", metric="bleu", model=model, prediction=texts[(i + shift) % 6], target=texts[i % 6], **more)
        for model, shift in (("small", 1), ("large", 0))
        for i in range(n)
    ]
    return frame(*made)


def test_counts_stay_when_the_texts_go(tmp_path):
    table = frame(*translated().to_dict("records"), row("acc"), row("acc", model="large"))
    for compactly in (False, True):
        again = read_outcomes(write_outcomes(tmp_path / "o", drop_text(table), compactly=compactly))
        assert again["prediction"].isna().all() and list(again.columns) == [*SCHEMA.names, *COUNTS]
        scored = again["metric"] == "bleu"
        assert (
            again.loc[scored, list(COUNTS)].notna().all().all() and again.loc[~scored, list(COUNTS)].isna().all().all()
        )
        assert set(again.loc[scored, "bleu_signature"]) == {_signature(BLEU)}
        assert set(again.loc[scored, "chrf_signature"]) == {_signature(CHRF)}
        pair = paired(again[scored], "cat-dist", 0, "test")
        assert set(pair.small_counts) == set(pair.large_counts) == set(pair.signatures) == {"bleu", "chrf"}
        assert paired(again[~scored], "cat-dist", 0, "test").small_counts == {}
    stored, wanted = (t.drop(columns=["prediction", "target"]) for t in (again, compact(drop_text(table))))
    blank = {"bleu_signature": "", "chrf_signature": ""}  # None or NaN, as the file's types have it
    pd.testing.assert_frame_equal(stored.fillna(blank), wanted.fillna(blank), check_dtype=False)
    assert not set(COUNTS) & set(drop_text(frame()).columns)
    gone = table.assign(prediction=None)  # nothing to count from: what is left is written as it is
    assert "bleu_counts" not in drop_text(gone)


def _signature(metric):
    scorer = metric()
    scorer.corpus_score(["a"], [["a"]])
    return str(scorer.get_signature())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.drop(columns="bleu_signature"), "bleu_counts and bleu_signature are not there in the same rows"),
        (lambda f: f.assign(chrf_signature=None), "chrf_counts and chrf_signature are not there in the same rows"),
        (lambda f: f.assign(bleu_counts=[b"1", b"22"] * 6), r"bleu_counts has cells of \[1, 2\] bytes"),
        (lambda f: f.assign(bleu_counts="text"), r"wrongly typed columns bleu_counts \(expected binary\)"),
    ],
)
def test_counts_that_do_not_fit(change, message):
    with pytest.raises(OutcomeError, match=message):
        validate(change(with_counts(translated())))


def test_counts_of_two_settings_are_not_paired():
    table = with_counts(translated())
    other = table.assign(bleu_signature=np.where(table["model"] == "large", "nrefs:1|case:lc", table["bleu_signature"]))
    with pytest.raises(
        OutcomeError, match="bleu was counted as nrefs:1.case:lc and as nrefs:1.*: count all texts alike"
    ):
        paired(other, "cat-dist", 0, "test")


# ---------------------------------------------------------------- compact tables


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=2), st.integers(2, 24))
def test_rounding_keeps_the_order_and_the_digits(values, bits):
    values = np.sort(values)
    found = significant(values, bits)
    assert (np.diff(found) >= 0).all() and np.array_equal(found, significant(found, bits))
    assert np.array_equal(found, found.astype(np.float32))
    normal = np.abs(values) > 2e-38
    assert (np.abs(found - values)[normal] <= 2.0**-bits * np.abs(values)[normal]).all()
    down = significant(values, bits, np.floor)[normal]
    assert (down <= values[normal]).all() and (
        values[normal] - down <= 2.0 ** (1 - bits) * np.abs(values[normal])
    ).all()


def test_rounding_by_an_independent_way():
    # ten binary digits of pi: 1100100100.00... / 256; of -1/3: 0.01010101010(1...) rounds up to ...1011
    assert significant([np.pi, -1 / 3, 0.0, 1.0, np.inf], 10).tolist() == [
        0b1100100100 / 2**8,
        -0b1010101011 / 2**11,
        0,
        1,
        np.inf,
    ]
    assert np.isnan(significant([np.nan], 10)).all()
    assert significant([0.4999999, 0.5, 0.9999999, 1.0], 10, np.floor).tolist() == [
        1023 / 2048,
        0.5,
        1023 / 1024,
        1,
    ]


def large_table(items=150, models=12, seed=0):
    """Answers of S (and of one L) with confidences that have all of float32's digits, rows model by model."""
    rng, rows = np.random.default_rng(seed), []
    for m in range(models):
        for i in range(items):
            model = "large" if m == 0 else "small"
            score = float(np.float32(-rng.exponential()))
            rules = {f"confidence_{r}": score for r in ("chow_sum", "chow_average", "chow_quantile_0")}
            rows.append(
                row(
                    f"item-{(37 * i) % items:04d}", model=model, method=("xent", "dist", "cat-dist")[m % 3], seed=m,
                    task=f"task {i % 3}", quality=float(rng.random() < 0.7), **rules,
                )
            )  # fmt: skip
    return validate(frame(*rows))


def test_a_compact_table_is_the_same_table_but_for_digits_and_order(tmp_path):
    table = large_table()
    plain, path = (write_outcomes(tmp_path / str(c), table, compactly=c) for c in (False, True))
    assert path.stat().st_size < 0.5 * plain.stat().st_size
    assert pq.read_schema(path).field("confidence_chow_sum").type == pa.float32()
    again = read_outcomes(path)
    pd.testing.assert_frame_equal(again, compact(table), check_dtype=False)
    pd.testing.assert_frame_equal(compact(again), compact(table), check_dtype=False)
    assert again["task"].drop_duplicates(keep="last").index.tolist() == [599, 1199, 1799]  # each task in one piece
    assert (again["item_id"].to_numpy().reshape(150, 12) == again["item_id"].to_numpy()[::12, None]).all()
    for name in ("task", "method", "seed"):
        assert list(again[name].unique()) == list(table[name].unique())
    key = ["item_id", "method", "seed"]
    one, two = (t.sort_values(key).reset_index(drop=True) for t in (table, again))
    confidences = [c for c in one.columns if c.startswith("confidence_")]
    pd.testing.assert_frame_equal(one.drop(columns=confidences), two.drop(columns=confidences), check_dtype=False)
    np.testing.assert_allclose(one[confidences], two[confidences], rtol=2**-10)
    assert not np.array_equal(one["confidence_chow_sum"], two["confidence_chow_sum"])
    write_outcomes(tmp_path / "twice", again, compactly=True)
    assert (tmp_path / "twice").read_bytes() == path.read_bytes()


def test_rounding_hardly_moves_an_area():
    table = large_table(items=1_000, models=2)
    rounded = compact(table)
    areas = []
    for t in (table, rounded):
        pair = paired(t, "dist", 1, "test", large_seed=0)
        areas.append(audc(deferral_curve(pair.small_quality, pair.large_quality, pair.confidence)))
    assert 0 < abs(areas[0] - areas[1]) < 1e-4
    assert (
        abs(areas[0] - audc(deferral_curve(pair.small_quality, pair.large_quality, significant(pair.confidence, 2))))
        > 1e-4
    )


def test_quality_of_corpus_metrics_is_rounded_down_and_no_other():
    table = frame(*(row(f"i{k}", metric=m, quality=q) for k, (m, q) in enumerate(
        [("bleu", 0.4999999), ("bleu", 0.5), ("exact_match", 1 / 3), ("chrf", 0.9999999), ("chrf", 1.0)])))  # fmt: skip
    found = compact(table)["quality"].tolist()
    assert found[0] < 0.5 and found[1:3] == [0.5, 1 / 3] and found[3] < 1 and found[4] == 1
    assert found[0] == pytest.approx(0.5, rel=2**-9)
    with pytest.raises(ValueError, match="bits is 1, expected 2 to 24"):
        compact(table, 1)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "table, message",
    [
        (frame().drop(columns=["flops", "task"]), "missing columns task, flops"),
        (frame().assign(bleu=1), "unknown columns bleu"),
        (frame().iloc[:0], "no rows"),
        (frame().assign(seed="0"), r"wrongly typed columns seed \(expected int64\)"),
        (frame().assign(flops=1.5, truncated=0), r"truncated \(expected bool\), flops \(expected int64\)"),
        (frame().assign(item_id=range(4)), r"item_id \(expected string\)"),
        (frame().assign(confidence_chow_sum="high"), r"confidence_chow_sum \(expected double\)"),
        (frame(row(quality=float("nan"))), r"quality is null or NaN in 1 of 1 rows \(first: item 'i1'\)"),
        (frame(row(), row("i2", quality=float("inf"))), r"quality is outside \[0, 1\] in 1 of 2 rows .*'i2'"),
        (frame(row(quality=-0.1)), "quality is outside"),
        (frame(row(quality=37.2)), "divide percentages by 100"),
        (frame(row(n_prompt=-1)), "n_prompt is negative"),
        (frame(row(flops=-1)), "flops is negative"),
        (frame(row(confidence_chow_sum=float("-inf"))), "confidence_chow_sum is -inf"),
        (frame(row(suite=None), row("i2")), "suite is null"),
        (frame(row(item_id="")), "item_id is empty"),
        (frame(row(split="dev")), "split is 'dev' .* expected one of train, calibration, test"),
        (frame(row(model="medium")), "model is 'medium'"),
        (frame(row(method="large")), "disagree about the large model"),
        (
            frame(row(), row(quality=0.0)),
            r"1 rows repeat an earlier one, first \(suite=mini, task=reading, "
            r"split=test, item_id=i1, method=cat-dist, seed=0, model=small\)",
        ),
        (
            frame(row(), row(split="calibration")),
            "1 items are in two splits, first 'i1' of suite 'mini' in calibration and test",
        ),
        (pd.concat([frame(), frame()[["flops"]]], axis=1), "repeated columns flops"),
    ],
)
def test_refusals_are_one_line(tmp_path, table, message):
    with pytest.raises(OutcomeError, match=message) as caught:
        write_outcomes(tmp_path / "o", table)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_row_labels_of_the_frame_do_not_matter():
    table = frame(row("i1"), row("i2", quality=2.0))
    table.index = [7, 7]
    with pytest.raises(OutcomeError, match="'i2'"):
        validate(table)


# ---------------------------------------------------------------- pairing


def test_paired_aligns_by_item():
    table = validate(
        frame(
            row("b", quality=0.25, flops=1, confidence_chow_average=-0.5, cluster_id="p"),
            row("a", quality=0.5, flops=2, confidence_chow_average=-0.1),
            row("a", model="large", quality=1.0, flops=20, prediction="L"),
            row("c", model="large"),
            row("b", model="large", quality=0.75, flops=10),
            row("z", split="calibration"),
            row("a", seed=1),
            row("a", method="xent"),
        )
    )
    found = paired(table, "cat-dist", 0, "test")
    assert found.item_ids.tolist() == ["a", "b"] and found.cluster_ids.tolist() == ["a", "p"]
    assert found.small_quality.tolist() == [0.5, 0.25] and found.large_quality.tolist() == [1.0, 0.75]
    assert found.confidence.tolist() == [-0.1, -0.5]
    assert found.small_flops.tolist() == [2, 1] and found.large_flops.tolist() == [20, 10]
    assert found.large_predictions.tolist() == ["L", "yes"]
    assert (found.split, found.method, found.seed, found.rule) == ("test", "cat-dist", 0, "chow_average")
    assert len(found) == 2
    assert paired(table, "cat-dist", 0, "test", "chow_sum").confidence.tolist() == [-2, -2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cat-dist", 0, "dev"), "split must be one of train, calibration, test, got 'dev'"),
        (("cat-dist", 0, "test", "entropy"), "'entropy' is not in the table: expected one of chow_sum, chow_av"),
        (("dist", 0, "test"), "no rows with method 'dist': the table holds cat-dist"),
        (("cat-dist", 5, "test"), "no rows with seed 5: the table holds 0, 1"),
        (("cat-dist", 0, "train"), "no rows with split 'train': the table holds test"),
        (("cat-dist", 0, "test", "option_margin"), "confidence_option_margin is undefined for 2 of 2 rows"),
        (("cat-dist", 1, "test"), r"lacks 1 of 1 test items that 'cat-dist' \(seed 1\) answered, first 'i9'"),
    ],
)
def test_paired_refuses(arguments, message):
    table = validate(frame(*frame().to_dict("records"), row("i9", seed=1)))
    with pytest.raises(OutcomeError, match=message):
        paired(table, *arguments)


def test_paired_asks_which_suite_task_and_large_model():
    table = validate(frame(row(), row(model="large"), row(model="large", seed=1, quality=0.0)))
    with pytest.raises(OutcomeError, match=r"large models of seeds \[0, 1\]: give large_seed"):
        paired(table, "cat-dist", 0, "test")
    assert paired(table, "cat-dist", 0, "test", large_seed=1).large_quality.tolist() == [0]
    table = validate(
        frame(
            row(),
            row(model="large"),
            row(suite="other"),
            row(suite="other", model="large"),
            row(task="wic"),
            row(task="wic", model="large"),
        )
    )
    with pytest.raises(OutcomeError, match="the suites mini, other: give suite"):
        paired(table, "cat-dist", 0, "test")
    with pytest.raises(OutcomeError, match="item 'i1' has several rows of the small model"):
        paired(table, "cat-dist", 0, "test", suite="mini")
    assert np.array_equal(paired(table, "cat-dist", 0, "test", suite="mini", task="wic").item_ids, ["i1"])


# ---------------------------------------------------------------- costs that are unknown


@pytest.mark.parametrize("kind", ["frame", "arrow", "rows"])
def test_flops_of_a_model_may_be_unknown_and_no_digit_of_the_others_is_lost(tmp_path, kind):
    large = 2**53 + 1  # a float would round it
    rows = [row(flops=None), row("i2", flops=None), row(model="large", flops=large), row("i2", model="large", flops=3)]
    table = pd.DataFrame(rows).assign(flops=pd.array([r["flops"] for r in rows], dtype="Int64"))
    given = {"frame": table, "arrow": pa.Table.from_pandas(table), "rows": rows}[kind]
    again = read_outcomes(write_outcomes(tmp_path / "o.parquet", given))
    assert again["flops"].isna().tolist() == [True, True, False, False]
    assert again["flops"].tolist()[2:] == [large, 3]
    rows = paired(again, "cat-dist", 0, "test")
    assert np.isnan(rows.small_flops).all() and rows.large_flops.tolist() == [large, 3]
    assert rows.large_flops.dtype == np.int64
    assert read_outcomes(write_outcomes(tmp_path / "p", frame()))["flops"].dtype == np.int64


def test_flops_are_known_of_all_rows_of_a_model_or_of_none():
    rows = [row(flops=None), row("i2"), row(model="large"), row("i2", model="large")]
    with pytest.raises(OutcomeError, match="flops is null or NaN for a model that has them elsewhere in 1 of 4 rows"):
        validate(pd.DataFrame(rows).assign(flops=pd.array([r["flops"] for r in rows], dtype="Int64")))
    with pytest.raises(OutcomeError, match="flops .expected int64."):
        validate(pd.DataFrame(rows).assign(flops=[None, "many", 1, 2]))
