"""Rows of data: parts of a split, limits of what a file may unfold into, fields of examples with several answers."""

import dataclasses
import gzip
import json
import time
import tracemalloc
import warnings

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from cat_core.tasks import sources
from cat_core.tasks.example import SPLITS
from cat_core.tasks.sources import hub_rows, json_lines, read_examples
from cat_core.tasks.suite import Suite, load_suite


def parts(folder, count, split="train", total=None, ending=".parquet", suffix=""):
    """A split of ten rows a part, its first row 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rows = [{"text": f"row {i}", "label": i % 2} for i in range(10 * number, 10 * number + 10)]
        path = folder / f"{split}-{number:05d}-of-{total or count:05d}{suffix}{ending}"
        if ending == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("place", [".", "data"])
@pytest.mark.parametrize("config", ["", "small"])
@pytest.mark.parametrize(("ending", "suffix"), [(".parquet", ""), (".jsonl", ""), (".parquet", "-a09b74b3ef9c3b56")])
def test_parts_of_a_split_in_order(tmp_path, place, config, ending, suffix):
    parts(tmp_path / "own/set" / config / place, 12, ending=ending, suffix=suffix)
    parts(tmp_path / "own/set" / config / place, 1, split="train-extra")
    rows = hub_rows("own/set", config, "train", data_root=tmp_path)
    assert [row["text"] for row in rows] == [f"row {i}" for i in range(120)]


def test_an_incomplete_or_doubled_set_of_parts_is_refused(tmp_path):
    folder = tmp_path / "own/set/data"
    parts(folder, 2, total=3)
    with pytest.raises(
        ValueError, match="data: split 'train' should have the parts 0 to 2 .* there are 'train-00000-of-00003"
    ):
        hub_rows("own/set", "", "train", data_root=tmp_path)
    parts(folder, 2)
    with pytest.raises(ValueError, match="of one set, each once; there are 'train-00000-of-00002"):
        hub_rows("own/set", "", "train", data_root=tmp_path)
    for path in folder.iterdir():
        path.unlink()
    parts(folder, 2)
    parts(folder, 2, suffix="-b")
    parts(folder, 1, split="many", total=10**15)  # no list of so many
    with pytest.raises(ValueError, match="the parts 0 to 999999999999999 of one set"):
        hub_rows("own/set", "", "many", data_root=tmp_path)
    with pytest.raises(ValueError, match="the parts 0 to 1 of one set, each once"):
        hub_rows("own/set", "", "train", data_root=tmp_path)
    with pytest.raises(
        FileNotFoundError, match="test: no file .*test-00000-of-00001.* the folder has .*train-00000-of-00002"
    ):
        hub_rows("own/set", "", "test", data_root=tmp_path)


def test_the_first_rows_alone(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    parts(tmp_path / "own/set", 2)
    assert [row["text"] for row in hub_rows("own/set", "", "train", first=12, data_root=tmp_path)][-1] == "row 11"
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **fields: asked.append(fields["split"]) or
                        datasets.Dataset.from_list([]))  # fmt: skip
    monkeypatch.delenv("CAT_DATA_ROOT", raising=False)
    hub_rows("own/set", "", "train", first=12), hub_rows("own/set", "", "train")
    assert asked == ["train[:12]", "train"]


def test_a_whole_file_comes_before_parts(tmp_path):
    parts(tmp_path / "own/set", 2)
    (tmp_path / "own/set/train.jsonl").write_text('{"text": "whole"}\n')
    assert hub_rows("own/set", "", "train", data_root=tmp_path) == [{"text": "whole"}]


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(2**24 + 2), "line 1: longer than 16,777,216 bytes"),
        (b"\n" * 2**24, r"line \d+: unpacks to more than 100 times its size"),
        (b'{"prompt": "a", "target": "b"}\n' * 2**19, r"line \d+: unpacks to more than 100 times its size"),
    ],
    ids=["one line", "blank lines", "rows"],
)
def test_a_small_file_that_unpacks_to_a_large_one_is_refused_at_once(tmp_path, content, message):
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(content, 9))
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        for _ in json_lines(path):
            pass
    assert "\n" not in str(caught.value) and time.process_time() - began < 15


def test_of_a_line_that_is_too_long_only_the_beginning_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    with open(path, "wb") as file:
        file.truncate(2**28)
    tracemalloc.start()
    with pytest.raises(ValueError, match="line 1: longer than 16,777,216 bytes"):
        next(json_lines(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27


def test_rows_that_repeat_within_reason_are_read(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    text = "".join(json.dumps({"prompt": f"{i} {i * 7919 % 1000003}", "target": "yes"}) + "\n" for i in range(150_000))
    path.write_bytes(gzip.compress(text.encode()))
    assert len(text) > sources.FREE and sum(1 for _ in json_lines(path)) == 150_000


ONE = pyarrow.array(["x" * 500_000])


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (pyarrow.array(["x" * 30_000_000]), {"use_dictionary": False}),
        (pyarrow.nulls(20_000_000), {}),
        (pyarrow.ListArray.from_arrays([0, 20_000_000], pyarrow.nulls(20_000_000, "int8")), {}),
        (pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 20_000, "int32"), ONE), {"store_schema": False}),
    ],
    ids=["one text", "rows", "one list", "one text again and again"],
)
def test_a_small_parquet_file_that_unpacks_to_a_large_one_is_refused_at_once(tmp_path, column, options):
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path, compression="zstd", **options)
    began = time.process_time()
    with pytest.raises(ValueError, match="train.parquet: unpacks to more than 100 times .*JSONL") as caught:
        hub_rows("", "", "train", data_root=tmp_path)
    assert "\n" not in str(caught.value) and time.process_time() - began < 5


def test_a_large_parquet_file_is_read_whole(tmp_path):
    path, rows = tmp_path / "train.parquet", [{"text": f"{i} {i * 7919 % 1000003}", "label": 0} for i in range(70_000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=30_000)
    assert pyarrow.parquet.read_table(path).nbytes > sources.FREE
    assert hub_rows("", "", "train", data_root=tmp_path) == rows


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pyarrow.array([b"row 0"]), "row 0 .*: field 'text' must be text or a number, got b'row 0'$"),
        (pyarrow.array([float("nan")]), "row 0 .*: field 'text' must be text or a number, got nan$"),
        (pyarrow.array([["row 0"]]), r"row 0 .*: field 'text' must be text or a number, got \['row 0'\]$"),
        (pyarrow.array([20_000], "date32"), r"row 0 .*: field 'text' must be text or a number, got datetime.date"),
        (pyarrow.array([2**62], pyarrow.timestamp("us")), "train.parquet: not a readable Parquet file .date value"),
        (pyarrow.array([2**31 - 1], "date32"), "train.parquet: not a readable Parquet file .days="),
    ],
)
def test_a_column_of_parquet_that_holds_no_text_is_refused_in_one_line(tmp_path, column, message):
    (tmp_path / "own/set").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "own/set/train.parquet")
    changes = {"prompt": "{text}", "target": "a", "references_field": None}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({k: v for k, v in (SPEC | changes).items() if v}))
    with pytest.raises(ValueError, match=message) as caught:
        load_suite(tmp_path / "t.yaml", data_root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_column_of_parquet_given_twice_is_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table([[1], [2]], names=["text", "text"]), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="train.parquet: column 'text' is given twice; keep one"):
        hub_rows("", "", "train", data_root=tmp_path)


def test_a_field_given_twice_among_many_is_found_at_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{" + "".join(f'"k{i}": 0, ' for i in range(100_000)) + '"k99999": 1}\n')
    began = time.process_time()
    with pytest.raises(ValueError, match="line 1: field 'k99999' is given twice"):
        list(json_lines(path))
    assert time.process_time() - began < 5


# ---------------------------------------------------------------- what a row may say


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_options_that_are_empty_at_first_and_lists_of_texts_later(tmp_path):
    """datasets#7222: a reader that takes the type from the first rows finds no texts in them."""
    free = [{"prompt": f"free {i}", "target": "x", "options": [], "task": "free"} for i in range(500)]
    chosen = [{"prompt": f"chosen {i}", "target": ("no", "yes")[i % 2], "options": ["no", "yes"], "task": "chosen"}
              for i in range(100)]  # fmt: skip
    suite = load_suite(write(tmp_path / "rows.jsonl", free + chosen))
    assert {(e.task, e.options, e.metric) for e in suite.examples} == {
        ("free", (), "exact_match"), ("chosen", ("no", "yes"), "accuracy")}  # fmt: skip
    same = [row | {"task": "one"} for row in free + chosen]
    with pytest.raises(
        ValueError, match="item 'line-000501': metric 'accuracy', but task 'one' began with 'exact_match'"
    ):
        load_suite(write(tmp_path / "rows.jsonl", same))


def test_references_and_tokenizer_of_json_lines(tmp_path):
    rows = [{"prompt": f"p {i}", "target": "a", "references": ["b", "a"], "metric": "bleu", "tokenize": "zh"}
            for i in range(20)]  # fmt: skip
    found = read_examples(write(tmp_path / "rows.jsonl", rows))
    assert {(e.references, e.tokenize, e.right_answers) for e in found} == {(("b", "a"), "zh", ("a", "b"))}
    for change, message in (
        ({"references": "b"}, "line 1, field 'references': must be a list of texts, not 'b'"),
        ({"references": [""]}, "line 1, field 'references': references: one of them must not be empty"),
        ({"tokenize": "zn"}, "line 1, field 'tokenize': unknown tokenize 'zn'; known: 13a, intl, zh"),
    ):
        with pytest.raises(ValueError, match=message):
            read_examples(write(tmp_path / "rows.jsonl", [rows[0] | change, *rows[1:]]))


def test_fame_and_what_is_held_out_of_json_lines(tmp_path):
    rows = [{"prompt": f"p {split} {i}", "target": "a", "split": split, "cluster_id": f"fact {i}", "fame": i / 20,
             "held_out": "wording" if split == "test" else None} for split in SPLITS for i in range(20)]  # fmt: skip
    found = read_examples(write(tmp_path / "rows.jsonl", rows))
    assert [(e.fame, e.held_out) for e in found] == [(row["fame"], row["held_out"] or "") for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # facts are shared on purpose
        suite = load_suite(tmp_path / "rows.jsonl")
    plain = [{name: value for name, value in row.items() if name not in ("fame", "held_out")} for row in rows]
    with pytest.warns(UserWarning, match="20 of 20 test items share a cluster"):
        other = load_suite(write(tmp_path / "plain.jsonl", plain))
    stems = {dataclasses.replace(e, task="t", fame=0.0, held_out="") for e in suite.examples}
    assert stems == {dataclasses.replace(e, task="t") for e in other.examples}
    changes = ({}, {"fame": 0.0}, {"held_out": "fact"}, {"fame": 0.0, "held_out": "fact"})
    others = ([dataclasses.replace(e, cluster_id="", **change) for e in suite.examples] for change in changes)
    assert len({Suite("s", tuple(examples)).fingerprint for examples in others}) == 4
    for change, message in (
        ({"held_out": "words"}, "line 1, field 'held_out': unknown held_out 'words'"),
        ({"fame": 2}, "line 1, field 'fame': fame must be a number from 0 to 1, got 2"),
        ({"fame": True}, "field 'fame': fame must be a number from 0 to 1, got True"),
        ({"fame": "0.5"}, "field 'fame': fame must be a number from 0 to 1, got '0.5'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_examples(write(tmp_path / "rows.jsonl", [rows[0] | change, *rows[1:]]))


def test_a_target_is_an_option_however_its_accents_are_written(tmp_path):
    rows = [{"prompt": f"p {i}", "target": ("cafe\u0301", "th\u00e9")[i % 2], "options": ["caf\u00e9", "th\u00e9"]}
            for i in range(20)]  # fmt: skip
    assert {e.target for e in read_examples(write(tmp_path / "rows.jsonl", rows))} == {"caf\u00e9", "th\u00e9"}


SPEC = {
    "hub_id": "own/set", "splits": {"train": "train", "test": "test"}, "prompt": "{question}", "licence": "own",
    "url": "own", "metric": "f1", "references_field": "answers.text",
}  # fmt: skip


def test_references_of_a_task_file(tmp_path):
    for split in ("train", "test"):
        rows = [{"question": f"{split} {i}", "answers": {"text": [" one ", "two", "one"]}} for i in range(30)]
        (tmp_path / "own/set").mkdir(parents=True, exist_ok=True)
        write(tmp_path / f"own/set/{split}.jsonl", rows)

    def examples(**changes):
        path = tmp_path / "squad.yaml"
        path.write_text(yaml.safe_dump(SPEC | changes))
        return load_suite(path, data_root=tmp_path).examples

    assert {(e.target, e.references, e.metric, e.tokenize) for e in examples()} == {("one", ("two",), "f1", "")}
    chinese = examples(metric="bleu", tokenize="zh", target="{question}")
    assert {(e.target, e.references, e.tokenize) for e in chinese[:1]} == {("train 0", ("one", "two"), "zh")}
    for changes, message in (
        ({"tokenize": "zh"}, "tokenize is BLEU's: metric 'f1' has none"),
        ({"tokenize": "zn", "metric": "bleu"}, "'tokenize' is 'zn'; known: 13a, intl, zh"),
        ({"references_field": "question"}, "field 'question' must be a list of texts, got 'train 0'"),
        ({"metric": "accuracy", "options": ["a", "b"], "label": "x"}, "metric 'accuracy' needs label, and one of"),
    ):
        with pytest.raises(ValueError, match=message):
            examples(**changes)
