"""Suites, the reader's JSONL, the registry and the Hub layout."""

import collections
import dataclasses
import gzip
import json
import os
import string
import warnings
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cat_core.tasks import draws, registry, sources, synthetic
from cat_core.tasks.example import METRICS, SPLITS, Example, score
from cat_core.tasks.suite import Suite, load_suite

ROOT = Path(__file__).resolve().parents[2]
MIRROR = Path(os.environ.get("CAT_DATA_ROOT") or ROOT.parent / "shared" / "data")
needs_mirror = pytest.mark.skipif(
    not (MIRROR / "bentrevett").is_dir(),
    reason="no mirror of real data: set CAT_DATA_ROOT to a folder in Hub layout",
)
SMALL = {"train": 60, "calibration": 12, "test": 24}


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch):
    monkeypatch.delenv("CAT_DATA_ROOT", raising=False)


def item(number=0, split="train", **fields):
    plain = {
        "item_id": f"{split}-{number}",
        "task": "t",
        "split": split,
        "prompt": f"{split} prompt {number}",
        "target": ("no", "yes")[number % 2],
        "options": ("no", "yes"),
    }
    return Example(**(plain | fields))


def items(**fields):
    return [item(n, split, **fields) for split in SPLITS for n in range(4)]


def suite_of(*changed):
    """A good suite with these examples added."""
    return Suite("s", (*items(), *changed))


# Suite


def test_suite_gives_splits_tasks_and_default_clusters():
    suite = Suite("s", tuple(items()) + (item(9, task="u", cluster_id="c"), item(8, task="u")))
    assert suite.tasks == ("t", "u")
    assert [e.item_id for e in suite.split("test")] == ["test-0", "test-1", "test-2", "test-3"]
    assert suite.examples[0].cluster_id == "train-0"
    assert suite.examples[-2].cluster_id == "c"
    with pytest.raises(ValueError, match="unknown split 'dev'; known: train, calibration, test"):
        suite.split("dev")
    with pytest.raises(dataclasses.FrozenInstanceError):
        suite.name = "x"


def test_fingerprint_depends_on_every_field_and_the_order_but_not_on_the_name():
    base = Suite("s", tuple(items()))
    assert base.fingerprint == Suite("other", tuple(items())).fingerprint
    assert base.fingerprint == Suite("s", base.examples).fingerprint  # default clusters are filled in already
    assert len(base.fingerprint) == 64 and int(base.fingerprint, 16)
    changes = {
        "item_id": "x",
        "prompt": "x",
        "target": "yes",
        "options": ("no", "yes", "x"),
        "cluster_id": "x",
        "split": "calibration",
    }
    prints = {base.fingerprint}
    for field, value in changes.items():
        prints.add(Suite("s", (dataclasses.replace(items()[0], **{field: value}), *items()[1:])).fingerprint)
    prints.add(Suite("s", tuple(items(task="x"))).fingerprint)
    prints.add(Suite("s", tuple(items(options=(), metric="bleu"))).fingerprint)
    prints.add(Suite("s", tuple(items(options=(), metric="chrf"))).fingerprint)
    prints.add(Suite("s", tuple(reversed(items()))).fingerprint)
    assert len(prints) == len(changes) + 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (item(0), "item 'train-0': this item_id occurs more than once"),
        (item(0, "test", item_id="train-0"), "item 'train-0': this item_id occurs more than once"),
        (item(9, prompt=" \n"), "prompt must not be empty"),
        (item(9, prompt=3), r"prompt must be text, not 3 \(int\)"),
        (item(9, target=""), "target must not be empty"),
        (item(9, task=""), "task must not be empty"),
        (item(9, prompt="a\ud800"), "half a surrogate pair"),
        (item(9, cluster_id=4), "cluster_id must be text"),
        (item(9, split="trian"), "unknown split 'trian'; did you mean 'train'"),
        (item(9, metric="acuracy"), "unknown metric 'acuracy'; did you mean 'accuracy'"),
        (item(9, target="maybe"), r"target 'maybe' is not one of the options \['no', 'yes'\]"),
        (item(9, options=("yes",)), "two or more different texts"),
        (item(9, options=("yes", "yes")), "two or more different texts"),
        (item(9, options=("yes", "")), "options: one of them must not be empty"),
        (item(9, options=["no", "yes"]), "options must be a tuple"),
        (item(9, options=()), "metric 'accuracy' needs options"),
        (item(9, metric="bleu"), "metric 'bleu' with options"),
        (item(9, metric="bleu", options=()), "a task has one metric"),
    ],
)
def test_suite_refuses(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        suite_of(bad)
    assert "\n" not in str(error.value)


def test_suite_refuses_missing_splits_and_no_examples():
    for split in SPLITS:
        with pytest.raises(ValueError, match=f"has no {split} items"):
            Suite("s", tuple(e for e in items() if e.split != split))
    with pytest.raises(ValueError, match="suite 's' is empty"):
        Suite("s", ())


def test_one_class_in_train_is_refused_also_when_test_has_both():
    examples = [e for e in items() if e.split != "train" or e.target == "yes"]
    with pytest.raises(ValueError, match="every training target is 'yes'; one class teaches nothing"):
        Suite("s", tuple(examples))
    free = [dataclasses.replace(e, options=(), metric="exact_match") for e in examples]
    assert Suite("s", tuple(free))  # for generation, one answer is no class


def test_test_prompts_in_train_are_counted_in_a_warning(tmp_path):
    leaked = [item(n, "test", prompt="train prompt 1") for n in (7, 8)]
    with pytest.warns(UserWarning, match="2 of 6 test prompts also occur in train"):
        suite_of(*leaked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        suite_of(item(9, "train", prompt="train prompt 1"), item(9, "calibration", prompt="calibration prompt 1"))
    write(tmp_path / "own.jsonl", [dataclasses.asdict(e) for e in suite_of().examples + tuple(leaked)])
    with pytest.warns(UserWarning, match="2 of 6") as record:
        load_suite(tmp_path / "own.jsonl")
    assert record[0].filename == __file__  # the warning points at the caller of load_suite


def test_test_items_of_a_cluster_that_is_elsewhere_too_are_counted_in_a_warning():
    passage = {"cluster_id": "passage"}
    with pytest.warns(UserWarning, match="2 of 6 test items share a cluster .* with items of train or calibration"):
        suite_of(*(item(n, "test", **passage) for n in (7, 8)), item(9, "calibration", **passage))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        suite_of(*(item(n, "test", **passage) for n in (7, 8)), item(9, "train", cluster_id="another"))


# score


@pytest.mark.parametrize(
    ("metric", "target", "prediction", "expected"),
    [
        ("accuracy", "yes", "yes", 1.0),
        ("accuracy", "yes", "Yes", 0.0),
        ("exact_match", "a  b", " a\nb ", 1.0),
        ("exact_match", "a b", "ab", 0.0),
        ("exact_match", "a", "", 0.0),
        ("bleu", "the cat sat on the mat .", "the cat sat on the mat .", 1.0),
        ("bleu", "the cat", "the cat", 1.0),  # effective order: no 4-gram, still 1
        ("bleu", "the cat", "a dog", 0.0),
        ("chrf", "the cat", "the cat", 1.0),
        ("chrf", "the cat", "", 0.0),
    ],
)
def test_score(metric, target, prediction, expected):
    query = item(metric=metric, target=target, options=())
    assert score(query, prediction) == pytest.approx(expected, abs=1e-9)
    assert 0 <= score(query, prediction) <= 1


def test_score_bleu_by_hand():
    """Three of four words right in a row: precisions 3/4, 2/3, 1/2, and 1/(2*1) by exponential smoothing."""
    query = item(metric="bleu", target="a b c d", options=())
    assert score(query, "a b c e") == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_score_refuses():
    with pytest.raises(TypeError, match="item 'train-0': prediction must be text, not NoneType"):
        score(item(), None)
    with pytest.raises(ValueError, match="unknown metric 'rouge'"):
        score(item(metric="rouge"), "x")


# built-in suites through load_suite


@pytest.mark.parametrize("name", ["mini-superglue", "mini-wmt", "mini-flan"])
def test_built_in(name):
    sizes = SMALL | {"train": 400}  # of mini-flan's ten tasks, the smallest gets 4 % of train
    suite = load_suite(name, options=sizes)
    assert suite.name == name
    assert {split: len(suite.split(split)) for split in SPLITS} == sizes
    assert (
        load_suite(name, options=sizes, seed=5).fingerprint
        == load_suite(name, options={**sizes, "seed": 5}).fingerprint
    )
    assert load_suite(name, options={**sizes, "seed": 5}).fingerprint != suite.fingerprint


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"trian": 3}, ValueError, "mini-wmt: unknown option 'trian'; did you mean 'train'"),
        ({"train": "1e3"}, TypeError, "option train must be a whole number, got '1e3'; YAML reads"),
        ({"train": 10.0}, TypeError, "option train must be a whole number, got 10.0"),
        ({"train": True}, TypeError, "option train must be a whole number, got True"),
        ({"train": 0}, ValueError, "option train must be at least 1, got 0"),
        ({"test": -1}, ValueError, "option test must be at least 1, got -1"),
        ({"seed": -1}, ValueError, "option seed must be at least 0, got -1"),
        ({"train": None}, TypeError, "option train must be a whole number, got None"),
    ],
)
def test_built_in_refuses_options(options, kind, message):
    with pytest.raises(kind, match=message):
        load_suite("mini-wmt", options=options)


# limits


def test_limits_hold_for_each_task_and_split_and_larger_ones_only_add():
    whole = load_suite("mini-superglue", options=SMALL)
    few, more = (load_suite("mini-superglue", options=SMALL, limits={"train": n, "test": 3}) for n in (8, 12))
    counts = collections.Counter((e.task, e.split) for e in few.examples)
    for task in whole.tasks:
        assert counts[task, "train"] == 8 and counts[task, "test"] == 3
    assert len(few.split("calibration")) == SMALL["calibration"]
    assert set(few.examples) < set(more.examples) < set(whole.examples)
    assert [e for e in whole.examples if e in set(few.examples)] == list(few.examples)  # the order of the data
    limits = {"train": 8, "test": 3}
    other = load_suite("mini-superglue", options={**SMALL, "seed": 0}, limits=limits, seed=1)
    assert set(other.examples) < set(whole.examples) and other.fingerprint != few.fingerprint


def test_limit_is_a_fair_sample_of_the_split():
    """Not the first rows: the mean position of 50 of 1,000 is near the middle (s.d. of the mean 41)."""
    examples = [item(n) for n in range(1_000)]
    means = [sum(int(e.item_id[6:]) for e in draws.limit(examples, {"train": 50}, seed)) / 50 for seed in range(20)]
    assert abs(sum(means) / 20 - 499.5) < 4 * 41 / 20**0.5
    assert len(set(means)) > 15


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"train": 0}, "limits: train must be a whole number >= 1, got 0"),
        ({"test": -5}, "limits: test must be a whole number >= 1, got -5"),
        ({"test": 2.0}, "limits: test must be a whole number >= 1, got 2.0"),
        ({"test": True}, "limits: test must be a whole number >= 1, got True"),
        ({"tests": 5}, "limits: unknown split 'tests'; did you mean 'test'"),
    ],
)
def test_limits_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        load_suite("mini-wmt", limits=limits)


@pytest.mark.parametrize("seed", [-1, 1.0, True, "0"])
def test_seed_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number >= 0"):
        load_suite("mini-wmt", seed=seed)


# names and mixtures


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match=r"unknown suite 'mini-superglu'; did you mean 'mini-superglue'\?.*\.jsonl"):
        load_suite("mini-superglu")
    with pytest.raises(ValueError, match="did you mean 'multi30k-de-en-2017'"):
        load_suite("multi30k-de-en-217")
    with pytest.raises(ValueError, match="unknown suite '../../no/such'"):
        load_suite("../../no/such")
    with pytest.raises(ValueError, match="unknown suite ''"):
        load_suite("")


def test_installed_without_the_registry_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "FOLDER", tmp_path / "none")
    with pytest.raises(ValueError, match="unknown suite 'trec': the registry data/tasks is not beside the installed"):
        load_suite("trec")


def test_mixture_prefixes_ids_by_task(tmp_path):
    limits = {"train": 3, "calibration": 3, "test": 3}
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl.gz"
    write(own, [dataclasses.asdict(e) for e in items(cluster_id="", task="own")])
    write(other, [dataclasses.asdict(e) for e in items(cluster_id="c", task="other")])
    suite = load_suite(f"{own} + {other}", limits=limits)
    assert suite.name == "own+other"
    assert suite.tasks == ("own", "other")
    assert collections.Counter((e.task, e.split) for e in suite.examples) == {
        (task, split): 3 for task in suite.tasks for split in SPLITS
    }
    for part, task in ((own, "own"), (other, "other")):
        alone = load_suite(part, limits=limits)
        mixed = [e for e in suite.examples if e.task == task]
        assert [e.item_id for e in mixed] == [f"{task}/{e.item_id}" for e in alone.examples]
        assert [e.cluster_id for e in mixed] == [f"{task}/{e.cluster_id}" for e in alone.examples]


def test_mixture_refuses_a_task_twice_and_options(tmp_path):
    own, other = (
        write(tmp_path / name, [dataclasses.asdict(e) for e in items(task="x")]) for name in ("a.jsonl", "b.jsonl")
    )
    with pytest.raises(ValueError, match="task 'x' is in .*a.jsonl' and again in .*b.jsonl'; keep one"):
        load_suite(f"{own}+{other}")
    for source in ("mini-wmt+mini-superglue", "trec", own):
        with pytest.raises(ValueError, match="options are for a built-in suite alone"):
            load_suite(source, options={"train": 3})


def test_mixture_of_the_built_in_suites(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Tiny(synthetic.MiniWmt):
        train: int = 60
        calibration: int = 12
        test: int = 24

    @dataclasses.dataclass(frozen=True)
    class TinyGlue(synthetic.MiniSuperGlue):
        train: int = 120
        calibration: int = 12
        test: int = 24

    monkeypatch.setattr(synthetic, "MiniWmt", Tiny)
    monkeypatch.setattr(synthetic, "MiniSuperGlue", TinyGlue)
    suite = load_suite("mini-superglue+mini-wmt", limits={"train": 30, "test": 5})
    assert "translation" in suite.tasks and len(suite.tasks) > 1
    assert len(suite.split("train")) == 30 * len(suite.tasks)


def test_a_plus_in_a_file_name_is_no_mixture(tmp_path):
    write(tmp_path / "a+b.jsonl", [dataclasses.asdict(e) for e in items()])
    assert load_suite(tmp_path / "a+b.jsonl").name == "a+b"


def counts_of(suite):
    return collections.Counter((e.task, e.split) for e in suite.examples)


def three_files(folder):
    """Files whose items name their task and splits, four of each split; paths by name."""
    return {name: write(folder / f"{name}.jsonl", [dataclasses.asdict(e) for e in items(task=name)]) for name in "abc"}


def test_one_split_of_a_part(tmp_path):
    files = three_files(tmp_path)
    whole = load_suite(f"{files['a']}+{files['b']}")
    suite = load_suite(f"{files['a']} + {files['b']}@test + {files['c']}@calibration")
    assert suite.name == "a+b@test+c@calibration"
    assert counts_of(suite) == {("a", s): 4 for s in SPLITS} | {("b", "test"): 4, ("c", "calibration"): 4}
    assert suite.split("test") == whole.split("test")
    assert suite.fingerprint not in (whole.fingerprint, load_suite(files["a"]).fingerprint)
    limited = load_suite(f"{files['a']}+{files['b']}@test", limits={"test": 2})
    assert counts_of(limited)["b", "test"] == 2
    parts = load_suite("+".join(f"{files['a']}@{split}" for split in SPLITS))  # one task, no split twice
    assert [e.prompt for e in parts.examples] == [e.prompt for e in load_suite(files["a"]).examples]


def test_one_split_is_that_of_the_whole_part(tmp_path):
    """Rows that become calibration when a file is read whole are not train when only train is taken."""
    rows = [question(n, split="train") for n in range(100)] + [question(n, split="test") for n in range(200, 220)]
    own = write(tmp_path / "own.jsonl", rows)
    other = three_files(tmp_path)["a"]
    whole = load_suite(own)
    for split in SPLITS:
        taken = [e for e in load_suite(f"{other}+{own}@{split}").examples if e.task == "own"]
        assert [e.prompt for e in taken] == [e.prompt for e in whole.split(split)]


def test_one_split_of_registry_and_built_in(task, hub, monkeypatch, tmp_path):
    write(hub / "other/test.jsonl", [hub_row(n) for n in range(300, 305)])
    path = task(variants={"other": {"test": {"hub_id": "other", "split": "test"}}})
    monkeypatch.setattr(registry, "FOLDER", path.parent)
    suite = load_suite("mine+mine-other@test", data_root=hub)
    assert suite.name == "mine+mine-other@test"
    assert {split for name, split in counts_of(suite) if name == "mine-other"} == {"test"}
    assert len(suite.split("train")) == len(load_suite("mine", data_root=hub).split("train"))
    assert counts_of(load_suite(f"{path}@train+{path}@calibration+mine-other@test", data_root=hub)).keys() == {
        ("mine", "train"),
        ("mine", "calibration"),
        ("mine-other", "test"),
    }
    limits = dict.fromkeys(SPLITS, 20)
    mixed = load_suite("mini-wmt@test+mine", data_root=hub, limits=limits)
    assert {s for t, s in counts_of(mixed) if t == "translation"} == {"test"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{a}+{b}@tset", "b.jsonl@tset': unknown split 'tset' after '@'; did you mean 'test'"),
        ("{a}+{b}@", "unknown split '' after '@'; known: train, calibration, test"),
        ("trec@dev", "'trec@dev': unknown split 'dev' after '@'"),
        ("{a}@test", "no train items in the parts taken; .* take a part whole .without '@'., or add one with '@train'"),
        ("trec@test+rte@test", "'trec@test.rte@test': no train items in the parts taken"),  # before anything is read
        ("mini-wmt@train+{a}@calibration", "no test items in the parts taken"),
        ("{a}@train+{b}@test", "no calibration items in the parts taken"),
        ("{a}+{a}@test", "task 'a' is in .*a.jsonl' and again in .*a.jsonl@test'; keep one"),
        ("{a}+nothing@test", "unknown suite 'nothing'"),
    ],
)
def test_one_split_refused(tmp_path, source, message):
    files = three_files(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_suite(source.format(**files))
    assert "\n" not in str(error.value)


def test_a_part_without_the_split_asked_for(tmp_path):
    files = three_files(tmp_path)
    rows = [dataclasses.asdict(e) for e in items(task="d") if e.split in ("train", "test")][:5]
    short = write(tmp_path / "d.jsonl", [row for row in rows if row["split"] == "train"])
    with pytest.raises(ValueError, match="d.jsonl' has no test items; drop .*d.jsonl@test', or take another split"):
        load_suite(f"{files['a']}+{short}@test")
    with pytest.raises(ValueError, match="no test items in the parts taken"):
        load_suite(f"{files['a']}@train+{short}")


def test_an_at_in_a_file_name_is_no_split(tmp_path):
    rows = [dataclasses.asdict(e) for e in items()]
    assert load_suite(write(tmp_path / "a@b.jsonl", rows)).name == "a@b"
    assert load_suite(write(tmp_path / "c@train/own.jsonl", rows)).name == "own"
    other = three_files(tmp_path)["b"]
    suite = load_suite(f"{tmp_path / 'a@b.jsonl'}@train+{other}")
    assert suite.name == "a@b@train+b" and ("t", "test") not in counts_of(suite)


def test_mixing_changes_train_alone(tmp_path):
    files = three_files(tmp_path)
    source = f"{files['a']}+{files['b']}"
    once, mixed = load_suite(source), load_suite(source, mixing_cap=3, mixing_rounds=4)
    assert counts_of(mixed) == counts_of(once) | {("a", "train"): 12, ("b", "train"): 12}
    for split in ("calibration", "test"):
        assert mixed.split(split) == once.split(split)
    assert {e.item_id for e in mixed.split("train")} == {
        f"{task}/train-{n}{copy}" for task in "ab" for n in range(4) for copy in ("", "#2", "#3")
    }
    assert {e.cluster_id for e in mixed.split("train")} == {e.cluster_id for e in once.split("train")}
    assert load_suite(source, mixing_cap=0).fingerprint == once.fingerprint
    prints = {
        load_suite(source, mixing_cap=cap, mixing_rounds=rounds, seed=seed).fingerprint
        for cap, rounds, seed in ((3, 4, 0), (3, 4, 1), (3, 5, 0), (2, 4, 0), (4, 4, 0))
    }
    assert len(prints) == 5 and load_suite(source, mixing_cap=3, mixing_rounds=4).fingerprint in prints


def test_mixing_comes_after_the_limits():
    fields = {"options": SMALL | {"train": 400}, "limits": {"train": 40}}
    suite, alone = load_suite("mini-flan", **fields, mixing_cap=16, mixing_rounds=5), load_suite("mini-flan", **fields)
    counts, alone = counts_of(suite), counts_of(alone)
    for name in suite.tasks:
        assert counts[name, "train"] == 5 * min(16, alone[name, "train"])
    first = [e.item_id for e in suite.split("train") if "#" not in e.item_id]
    assert len(first) == sum(alone[name, "train"] for name in suite.tasks)  # 5 x 16 > 40: all were there


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixing_cap": -1}, "mixing_cap must be a whole number >= 0, got -1"),
        ({"mixing_cap": 2.5}, "mixing_cap must be a whole number >= 0, got 2.5"),
        ({"mixing_cap": True}, "mixing_cap must be a whole number >= 0, got True"),
        ({"mixing_cap": 5, "mixing_rounds": 0}, "mixing_rounds must be a whole number >= 1, got 0"),
        ({"mixing_rounds": 3}, "mixing_rounds is 3, but nothing is mixed without mixing_cap"),
    ],
)
def test_mixing_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        load_suite("mini-wmt", **fields)


# a reader's JSONL


def write(path, rows):
    """Rows (objects, or bytes as they are) as a file, gzip by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as stream:
        stream.write(b"\n".join(lines))
    return path


def question(number=0, **fields):
    row = {"prompt": f"Is {number} odd?", "target": ("no", "yes")[number % 2], "options": ["no", "yes"]}
    return row | fields


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_jsonl_defaults(tmp_path, ending):
    suite = load_suite(write(tmp_path / f"own{ending}", [question(n) for n in range(40)]))
    assert suite.name == "own" and suite.tasks == ("own",)
    assert {s: len(suite.split(s)) for s in SPLITS} == {"train": 32, "calibration": 4, "test": 4}
    assert suite.examples[16].item_id == suite.examples[16].cluster_id == "line-000017"
    assert {e.metric for e in suite.examples} == {"accuracy"}
    free = load_suite(write(tmp_path / "free.jsonl", [{"prompt": str(n), "target": "x"} for n in range(10)]))
    assert {e.metric for e in free.examples} == {"exact_match"}
    assert {s: len(free.split(s)) for s in SPLITS} == {"train": 8, "calibration": 1, "test": 1}


def test_jsonl_every_field_is_kept(tmp_path):
    rows = [dataclasses.asdict(item(n, s, task="x", cluster_id=f"c{n}")) for s in SPLITS for n in range(3)]
    suite = load_suite(write(tmp_path / "own.jsonl", rows))
    assert [dataclasses.asdict(e) | {"options": list(e.options)} for e in suite.examples] == [
        row | {"options": list(row["options"])} for row in rows
    ]


def test_jsonl_blank_lines_null_and_byte_order_mark(tmp_path):
    rows = [question(n, split=None, cluster_id=None) for n in range(12)]
    lines = [b"\xef\xbb\xbf" + json.dumps(rows[0]).encode(), b"", b"  \r", *rows[1:], b"", b""]
    suite = load_suite(write(tmp_path / "own.jsonl", lines))
    assert len(suite.examples) == 12 and suite.examples[1].item_id == "line-000004"


def test_jsonl_drawn_splits_keep_clusters_and_equal_prompts_together(tmp_path):
    rows = [question(n, cluster_id=f"c{n % 15}") for n in range(90)] + [question(n % 5 + 100) for n in range(40)]
    path = write(tmp_path / "own.jsonl", rows)
    suite = load_suite(path)
    for key in ("cluster_id", "prompt"):
        split_of = collections.defaultdict(set)
        for e in suite.examples:
            if key == "prompt" or not e.cluster_id.startswith("line"):
                split_of[getattr(e, key)].add(e.split)
        assert all(len(splits) == 1 for splits in split_of.values())
    assert load_suite(path).fingerprint == suite.fingerprint
    assert len({load_suite(path, seed=seed).fingerprint for seed in range(4)}) == 4


def test_jsonl_calibration_comes_out_of_train_never_out_of_test(tmp_path):
    rows = [question(n, split="train", cluster_id=f"c{n // 2}") for n in range(100)]
    rows += [question(n, split="test") for n in range(200, 220)]
    suite = load_suite(write(tmp_path / "own.jsonl", rows))
    assert [e.item_id for e in suite.split("test")] == [f"line-{n:06d}" for n in range(101, 121)]
    assert {s: len(suite.split(s)) for s in SPLITS} == {"train": 90, "calibration": 10, "test": 20}
    clusters = {s: {e.cluster_id for e in suite.split(s)} for s in SPLITS}
    assert not clusters["train"] & clusters["calibration"]
    with pytest.raises(ValueError, match="suite 'own' has no test items"):
        load_suite(write(tmp_path / "own.jsonl", rows[:100]))


def test_carving_stops_at_its_largest_number_of_rows():
    examples = [item(n) for n in range(20_000)]
    carved = draws.carve_calibration(examples, 0)
    assert sum(e.split == "calibration" for e in carved) == draws.CARVED_ROWS
    assert [e.item_id for e in carved] == [e.item_id for e in examples]


GOOD = [question(n) for n in range(12)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"{prompt: 3}", r"line 3: not JSON \(.* at column 2\)"),
        (b"[1, 2]", r"line 3: must be an object such as .* got \[1, 2\]"),
        (b'"text"', "line 3: must be an object such as"),
        (b'{"prompt": "caf\xe9"}', "line 3: not UTF-8 at byte 16; save the file as UTF-8"),
        (b'{"prompt": NaN}', "line 3: NaN is not a JSON value"),
        (b'{"prompt": -Infinity}', "line 3: -Infinity is not a JSON value"),
        (b'{"prompt": "a", "prompt": "b"}', "line 3: field 'prompt' is given twice"),
        (b"[" * 100_000, "line 3: (nested too deeply|not JSON)"),
        (b"9" * 5_000, "line 3: .*(limit|object)"),
        ({"target": "yes"}, "line 3, field 'prompt': missing"),
        ({"prompt": "a", "target": None}, "line 3, field 'target': missing"),
        (question(prompt=""), "line 3, field 'prompt': prompt must not be empty"),
        (question(prompt=7), r"line 3, field 'prompt': prompt must be text, not 7 \(int\)"),
        (question(target=1), r"line 3, field 'target': target must be text, not 1 \(int\)"),
        (question(target="maybe"), r"line 3, field 'target': target 'maybe' is not one of the options"),
        (question(options="yes"), "line 3, field 'options': must be a list of texts such as"),
        (question(options=["no", 1]), r"line 3, field 'options': options: one of them must be text, not 1"),
        (question(options=["no"]), "line 3, field 'options': options must be two or more different texts"),
        (
            question(options=["no", "no"]),
            "line 3, field 'options': options must be two or more different texts",
        ),
        (question(promt="x"), "line 3, field 'promt': unknown field; did you mean 'prompt'"),
        (
            question(split="dev"),
            "line 3, field 'split': unknown split 'dev'; known: train, calibration, test",
        ),
        (question(split=""), "line 3, field 'split': unknown split ''"),
        (question(split="test"), "line 3, field 'split': given, but the rows before it have none"),
        (question(metric="f2"), "line 3, field 'metric': unknown metric 'f2'; known: accuracy"),
        (question(metric=["bleu"]), "line 3, field 'metric': unknown metric"),
        (question(metric="bleu"), "line 3, field 'metric': metric 'bleu' with options"),
        ({"prompt": "a", "target": "b", "metric": "accuracy"}, "line 3, field 'options': .* needs options"),
        (question(item_id=""), "line 3, field 'item_id': item_id must not be empty"),
        (
            question(item_id="line-000002"),
            "line 3, field 'item_id': 'line-000002' is also the item_id of line 2",
        ),
        (question(task=4), "line 3, field 'task': task must be text, not 4"),
        (question(cluster_id=4), "line 3, field 'cluster_id': cluster_id must be text, not 4"),
        (question(prompt="\ud800"), "line 3, field 'prompt': .*half a surrogate pair"),
    ],
)
def test_jsonl_first_bad_row_is_named_by_file_line_and_field(tmp_path, bad, message):
    rows = [*GOOD[:2], bad, *GOOD[3:], b"worse"]
    path = write(tmp_path / "own.jsonl", rows)
    with pytest.raises(ValueError, match=message) as error:
        load_suite(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


def test_jsonl_row_without_split_after_rows_with_one(tmp_path):
    path = write(tmp_path / "own.jsonl", [question(0, split="train"), question(1)])
    with pytest.raises(ValueError, match="line 2, field 'split': missing, but the rows before it have one"):
        load_suite(path)


def test_jsonl_file_faults(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.jsonl: no such file \(looked from "):
        load_suite(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"own.jsonl: no rows; it needs one JSON object a line"):
        load_suite(write(tmp_path / "own.jsonl", [b"", b" "]))
    with pytest.raises(ValueError, match=r"too few rows to draw splits from \(20 rows, 9 different clusters or pro"):
        load_suite(write(tmp_path / "own.jsonl", [question(n % 9) for n in range(20)]))
    with pytest.raises(ValueError, match="folder.jsonl, after line 0: cannot be read on"):
        (tmp_path / "folder.jsonl").mkdir()
        load_suite(tmp_path / "folder.jsonl")
    with pytest.raises(ValueError, match="every training target is 'yes'"):
        load_suite(write(tmp_path / "own.jsonl", [question(2 * n + 1) for n in range(20)]))


def test_jsonl_damaged_gzip_is_one_line(tmp_path):
    whole = write(tmp_path / "own.jsonl.gz", [question(n, item_id=os.urandom(99).hex()) for n in range(400)])
    data = bytearray(whole.read_bytes())
    whole.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ValueError, match=r"own.jsonl.gz, after line \d+: cannot be read on .*; fetch or write"
    ) as error:
        load_suite(whole)
    assert "\n" not in str(error.value)
    whole.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="own.jsonl.gz, after line 0: cannot be read on"):
        load_suite(whole)
    data[len(data) // 2] ^= 0xFF
    whole.write_bytes(data)
    with pytest.raises(ValueError, match="own.jsonl.gz"):
        load_suite(whole)


def _loads_or_value_error(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            suite = load_suite(path)
        except ValueError as error:
            assert type(error) is ValueError and str(path) in str(error) or "suite 'fuzz'" in str(error)
            assert "\n" not in str(error)
        else:
            assert all(suite.split(split) for split in SPLITS)


fuzz = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
rows_like_ours = st.fixed_dictionaries(
    {"prompt": st.text(max_size=6) | json_values, "target": st.sampled_from(["yes", "no"]) | json_values},
    optional={
        "options": st.just(["yes", "no"]) | json_values,
        "metric": st.sampled_from(METRICS) | json_values,
        "split": st.sampled_from(SPLITS) | json_values,
        "task": st.text(max_size=3) | json_values,
        "item_id": st.text(max_size=3) | json_values,
        "cluster_id": st.text(max_size=2) | json_values,
    },
)


@fuzz
@given(st.binary(max_size=200), st.sampled_from(["fuzz.jsonl", "fuzz.jsonl.gz"]))
@example(b"\x1f\x8b\x08" + b"\0" * 20, "fuzz.jsonl.gz")
@example(b"\xff\xfe{\x00", "fuzz.jsonl")
def test_random_bytes_never_escape_as_anything_but_value_error(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    _loads_or_value_error(tmp_path / name)


@fuzz
@given(st.lists(rows_like_ours | json_values, max_size=20))
def test_random_json_never_escapes_as_anything_but_value_error(tmp_path, rows):
    _loads_or_value_error(write(tmp_path / "fuzz.jsonl", rows))


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
good_rows = st.lists(st.fixed_dictionaries({"prompt": texts, "target": texts}), min_size=10, max_size=40)


@fuzz
@given(good_rows, st.integers(0, 9))
def test_good_rows_come_back_whole(tmp_path, rows, seed):
    path = write(tmp_path / "fuzz.jsonl", rows)
    if len({row["prompt"] for row in rows}) < 10:
        return _loads_or_value_error(path)
    suite = load_suite(path, seed=seed)
    assert [{"prompt": e.prompt, "target": e.target} for e in suite.examples] == rows
    assert len({(e.prompt, e.split) for e in suite.examples}) == len({e.prompt for e in suite.examples})


# the registry and data in Hub layout

SPEC = {
    "hub_id": "own/set",
    "config": "small",
    "splits": {"train": "train", "test": "test"},
    "prompt": "{text} {meta.kind} ?",
    "options": ["no", "yes"],
    "label": "label",
    "metric": "accuracy",
    "licence": "own",
    "url": "own",
}
GENERATION = {key: value for key, value in SPEC.items() if key not in ("options", "label")} | {
    "metric": "bleu",
    "target": "{meta.kind}!",
}


@pytest.fixture
def task(tmp_path):
    """Writes a task's YAML (SPEC with changes; None drops a key) and returns its path."""

    def make(base=SPEC, **changes):
        spec = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(spec), encoding="utf-8")
        return path

    return make


def hub_row(number, **fields):
    return {"text": f" Is {number} odd ", "meta": {"kind": "number"}, "label": number % 2} | fields


@pytest.fixture
def hub(tmp_path):
    root = tmp_path / "hub"
    write(root / "own/set/small/train.jsonl.gz", [hub_row(n) for n in range(40)])
    write(root / "own/set/small/test.jsonl", [hub_row(n) for n in range(100, 110)])
    return root


def test_hub_layout(task, hub, monkeypatch):
    suite = load_suite(task(), data_root=hub)
    assert suite.tasks == ("mine",) and suite.name == "mine"
    assert {s: len(suite.split(s)) for s in SPLITS} == {"train": 36, "calibration": 4, "test": 10}
    assert suite.split("test")[1] == Example(
        "test-000001", "mine", "test", "Is 101 odd number ?", "yes", ("no", "yes"), "accuracy", "test-000001"
    )
    monkeypatch.setenv("CAT_DATA_ROOT", str(hub))
    assert load_suite(task()).fingerprint == suite.fingerprint


def test_every_ending_gives_the_same_suite(task, hub):
    import pyarrow
    import pyarrow.parquet

    expected = load_suite(task(), data_root=hub).fingerprint
    for name, rows in (("train", range(40)), ("test", range(100, 110))):
        for old in (hub / "own/set/small").glob(f"{name}.*"):
            old.unlink()
        table = pyarrow.Table.from_pylist([hub_row(n) for n in rows])
        pyarrow.parquet.write_table(table, hub / f"own/set/small/{name}.parquet")
    assert load_suite(task(), data_root=hub).fingerprint == expected
    (hub / "own/set/small/test.parquet").unlink()
    write(hub / "own/set/small/test.json.gz", [hub_row(n) for n in range(100, 110)])
    assert load_suite(task(), data_root=hub).fingerprint == expected
    (hub / "own/set/small/train.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="train.parquet: not a readable Parquet file"):
        load_suite(task(), data_root=hub)


def test_generation_task_clusters_and_nested_fields(task, hub):
    suite = load_suite(task(GENERATION), data_root=hub)
    assert {(e.target, e.options, e.metric) for e in suite.examples} == {("number!", (), "bleu")}
    write(hub / "own/set/small/train.jsonl.gz", [hub_row(n, passage=f"p{n // 4}") for n in range(80)])
    write(hub / "own/set/small/test.jsonl", [hub_row(n, passage=f"q{n}") for n in range(100, 110)])
    suite = load_suite(task(cluster="passage"), data_root=hub)
    train, calibration = ({e.cluster_id for e in suite.split(s)} for s in ("train", "calibration"))
    assert (len(train), len(calibration)) == (18, 2) and not train & calibration
    assert all(len(c) == 16 and set(c) <= set(string.hexdigits) for c in train)


def test_options_by_row_block_and_names(task, hub):
    rows = [
        {
            "q": f"q{n}",
            "choices": {"text": [f"a{n}", f"b{n}", f"c{n}"], "label": ["A", "B", "C"]},
            "key": "ABC"[n % 3],
        }
        for n in range(30)
    ]
    for name in ("train.jsonl.gz", "test.jsonl"):
        write(hub / "own/set/small" / name, [row | {"q": name + row["q"]} for row in rows])
    changes = {
        "prompt": "{q}\n{options}\nAnswer {{now}}:",
        "options": None,
        "options_field": "choices.text",
        "label": "key",
        "label_names_field": "choices.label",
    }
    suite = load_suite(task(**changes), data_root=hub)
    last = suite.split("test")[4]
    assert last.prompt == "test.jsonlq4\nOPTIONS:\n- a4\n- b4\n- c4\nAnswer {now}:"
    assert (last.target, last.options) == ("b4", ("a4", "b4", "c4"))
    rows[3]["key"] = "E"
    write(hub / "own/set/small/train.jsonl.gz", rows)
    with pytest.raises(ValueError, match=r"train row 3 \(counting from 0\): label 'E' is not in field 'choices.label'"):
        load_suite(task(**changes), data_root=hub)


def test_variants_and_splits_of_other_data_sets(task, hub, monkeypatch):
    write(hub / "other/test.jsonl", [hub_row(n) for n in range(300, 305)])
    path = task(variants={"other": {"test": {"hub_id": "other", "split": "test"}}})
    monkeypatch.setattr(registry, "FOLDER", path.parent)
    assert registry.task_names() == ["mine", "mine-other"]
    suite = load_suite("mine-other", data_root=hub)
    assert suite.tasks == ("mine-other",) and [e.prompt[:6] for e in suite.split("test")][0] == "Is 300"
    assert load_suite("mine", data_root=hub).split("train")[0].prompt == suite.split("train")[0].prompt


def test_skipped_and_text_labels(task, hub):
    rows = [hub_row(n, label=-1 if n == 2 else ["no", "yes"][n % 2]) for n in range(20)]
    write(hub / "own/set/small/train.jsonl.gz", rows)
    suite = load_suite(task(skip_labels=[-1]), data_root=hub)
    assert len(suite.split("train")) + len(suite.split("calibration")) == 19
    assert "train-000002" not in {e.item_id for e in suite.examples}
    with pytest.raises(ValueError, match=r"train row 2 .*label -1 is outside the options 0 to 1 .*skip_labels"):
        load_suite(task(), data_root=hub)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "a", "label": 1},
            "task 'mine', train row 1 .*: no field 'meta.kind'; the row has 'text, label'",
        ),
        (
            hub_row(0, meta={"kind": None}),
            "train row 1 .*: field 'meta.kind' must be text or a number, got None",
        ),
        (
            json.dumps(hub_row(0, meta={"kind": 7})).replace("7", "1e999").encode(),
            "train row 1 .*: field 'meta.kind' must be text or a number, got inf",
        ),
        (hub_row(0, meta={"kind": ["x"]}), "train row 1 .*: field 'meta.kind' must be text or a number"),
        (hub_row(0, label=2), "train row 1 .*: label 2 is outside the options 0 to 1"),
        (hub_row(0, label=0.0), "train row 1 .*: label 0.0 is outside the options 0 to 1"),
        (hub_row(0, label=None), "train row 1 .*: label None is outside the options"),
        (b"{", "train.jsonl.gz, line 2: not JSON"),
    ],
)
def test_bad_hub_rows(task, hub, row, message):
    write(hub / "own/set/small/train.jsonl.gz", [hub_row(0), row])
    with pytest.raises(ValueError, match=message) as error:
        load_suite(task(), data_root=hub)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (SPEC, {"hub": "x"}, "unknown key 'hub'; did you mean 'hub_id'"),
        (SPEC, {"name": "x"}, "unknown key 'name'"),
        (SPEC, {"licence": None}, "mine.yaml: 'licence' is missing"),
        (
            SPEC,
            {"options": [False, True]},
            r"mine.yaml: options: item 1 is False, expected a text \(in quotes\)",
        ),
        (SPEC, {"options": None}, "needs label, and one of options and options_field"),
        (SPEC, {"options_field": "x"}, "needs label, and one of options and options_field"),
        (SPEC, {"target": "{x}"}, "one of options and options_field; no target"),
        (SPEC, {"metric": "meteor"}, "'metric' is 'meteor'; known: accuracy, exact_match"),
        (SPEC, {"metric": "bleu"}, "metric 'bleu' needs target or references_field; no options"),
        (SPEC, {"config": 3}, r"mine.yaml: 'config' is 3, expected a plain name \(in quotes\)"),
        (SPEC, {"config": "../up"}, "'config' is '../up', expected a plain name"),
        (SPEC, {"hub_id": "../../etc"}, "hub_id such as owner/name"),
        (SPEC, {"hub_id": "/etc"}, "hub_id such as owner/name"),
        (SPEC, {"splits": {"train": "train"}}, "splits must name train and test"),
        (SPEC, {"splits": {"train": "a", "dev": "b"}}, "splits: a key is 'dev'; known: train, calibration, test"),
        (SPEC, {"splits": ["train"]}, r"'splits' is \['train'\], expected a mapping"),
        (SPEC, {"splits": {"train": "a/b", "test": "c"}}, "splits: train: 'split' is 'a/b', expected a plain name"),
        (SPEC, {"splits": {"train": {"path": "a"}, "test": "c"}}, "train: unknown key 'path'; known: split"),
        (SPEC, {"variants": {"x": {"test": 3}}}, "variants: x: 'test' is 3, expected the name of a Hub split, or"),
        (SPEC, {"variants": ["x"]}, "'variants' is .*, expected a mapping"),
        (SPEC, {"prompt": "{text.__class__!r}"}, "'text.__class__' must be the plain name of a field"),
        (SPEC, {"prompt": "{text:>99999999}"}, "must be the plain name of a field"),
        (SPEC, {"prompt": "{text[0]}"}, r"'text\[0\]' must be the plain name of a field"),
        (SPEC, {"prompt": "{}"}, "'' must be the plain name of a field"),
        (SPEC, {"prompt": "{text"}, "mine.yaml: prompt: not a template"),
        (SPEC, {"options": ["{a", "b"]}, "mine.yaml: options: item 1: not a template"),
        (SPEC, {"label": "a b"}, "'label' is 'a b', expected the plain name of a field"),
        (GENERATION, {"target": None}, "metric 'bleu' needs target"),
    ],
)
def test_registry_refuses(task, base, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        load_suite(task(base, **changes))
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_dunder_fields_of_a_template_are_mere_keys(task, hub):
    """`{text.__class__}` asks for a key "__class__" inside "text": no attribute of anything is read."""
    with pytest.raises(ValueError, match="no field 'text.__class__'"):
        load_suite(task(prompt="{text.__class__}"), data_root=hub)


def test_registry_file_faults(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml: no such file"):
        load_suite(tmp_path / "none.yaml")
    for text, message in (
        ("a: [", "not valid YAML"),
        ("- a", "expected a mapping of keys to values"),
        ("", "expected a mapping of keys to values"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"bad.yaml(, line 1)?: {message}") as error:
            load_suite(tmp_path / "bad.yaml")
        assert "\n" not in str(error.value)
    (tmp_path / "bad.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="bad.yaml, line 1: not valid YAML: could not determine a constructor"):
        load_suite(tmp_path / "bad.yaml")


def test_data_root_faults(task, hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="data_root .*nowhere' is not a folder"):
        load_suite(task(), data_root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no such folder; correct data_root"):
        load_suite(task(config="large"), data_root=hub)
    with pytest.raises(FileNotFoundError, match="dev: no file with .*; the folder has test.jsonl, train.jsonl.gz"):
        load_suite(task(splits={"train": "train", "test": "dev"}), data_root=hub)


def test_the_real_datasets_library_gives_the_same_suite(task, hub, tmp_path, monkeypatch):
    """`datasets` takes a folder of that name for the data set: its builders run, no network is needed."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for name, rows in (("train", range(40)), ("test", range(100, 110))):
        write(tmp_path / f"own/set/{name}.jsonl", [hub_row(n) for n in rows])
    expected = load_suite(task(), data_root=hub)
    assert load_suite(task(config=None)).fingerprint == expected.fingerprint


def test_an_unreachable_hub_is_one_clear_line(task, monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        raise ConnectionError("no route\nto host")

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError) as error:
        load_suite(task(revision="refs/convert/parquet"))
    assert str(error.value) == (
        "split 'train' of own/set (small) at refs/convert/parquet cannot be loaded from the Hub "
        "(ConnectionError: no route); check the network, or give data_root (or CAT_DATA_ROOT), "
        "a folder in Hub layout"
    )
    assert calls == [(("own/set", "small"), {"split": "train", "revision": "refs/convert/parquet"})]


def test_without_datasets_installed(task, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="split 'train' of own/set .*needs the package datasets .*or give data_root"):
        load_suite(task())


def test_the_registry_of_this_project_is_sound():
    names = registry.task_names()
    wanted = "trec sst2 ag_news snli cola mrpc boolq cb copa rte wic wsc multirc".split()
    assert {
        *wanted,
        "multi30k-de-en",
        "tatoeba-de-en",
        "arc-easy",
        "arc-challenge",
        "multi30k-de-en-2017",
    } <= set(names)
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for path in sorted(registry.FOLDER.iterdir()):
        assert path.suffix == ".yaml", f"{path}: the registry holds YAML only, no data"
        spec = registry.read_spec(path)
        assert path.stem in readme, f"{path.stem} is missing in the table of licences"
        assert spec.prompt == spec.prompt.rstrip(), f"{path}: a prompt ends without a blank"
    for key in registry.TaskSpec.model_fields:
        assert f"`{key}`" in readme, f"key {key} is not documented"
    for field in sources.FIELDS:
        assert f"| `{field}` |" in readme, f"field {field} is not documented"


# the mirror of real data, if there is one

ROWS = {  # train + calibration, test: as its README counts them
    "trec": (5452, 500),
    "cb": (250, 56),
    "copa": (400, 100),
    "rte": (2490, 277),
    "wic": (5428, 638),
    "arc-challenge": (1418, 1172),
    "arc-easy": (2251, 2376),
    "mrpc": (4076, 1725),
    "multi30k-de-en-2017-mscoco": (30014, 461),
}


@needs_mirror
@pytest.mark.filterwarnings("ignore:.*test prompts also occur in train")
@pytest.mark.parametrize("name", ROWS)
def test_mirror_counts(name):
    suite = load_suite(name, data_root=MIRROR)
    assert (len(suite.split("train")) + len(suite.split("calibration")), len(suite.split("test"))) == ROWS[name]


@needs_mirror
@pytest.mark.filterwarnings("ignore:.*test prompts also occur in train")
@pytest.mark.parametrize(
    ("name", "prompt", "target"),
    [
        ("trec", "How far is it from Denver to Aspen ?", "a number"),
        ("rte", "No Weapons of Mass Destruction Found in Iraq Yet.", "no"),
        ("copa", "My body cast a shadow over the grass.\nWhat was the cause?", "The sun was rising."),
        ("cb", "the language was peeled down", "yes"),
        ("ag_news", "Fears for T N pension", "business"),
        ("sst2", "a charming and often affecting journey", "positive"),
        ("snli", "People are getting married", "yes"),
        ("cola", "The sailors rode the breeze clear of the rocks.", "yes"),
        ("mrpc", "Referring to him as only", "yes"),
        ("boolq", "do iran and afghanistan speak the same language", "yes"),
        ("wic", "A political system with no place for the less prominent groups.\nDoes", "no"),
        ("multirc", "He welcomes him with open arm", "no"),
        ("arc-challenge", "George wants to warm his hands quickly", "dry palms"),
        (
            "multi30k-de-en",
            "Ein Mann mit einem orangefarbenen Hut",
            "A man in an orange hat starring at something.",
        ),
    ],
)
def test_mirror_labels_mean_what_the_options_say(name, prompt, target):
    found = [e for e in load_suite(name, data_root=MIRROR).examples if prompt in e.prompt]
    assert {e.target for e in found} == {target}


@needs_mirror
def test_mirror_of_one_class_is_refused():
    with pytest.raises(ValueError, match="suite 'wsc', task 'wsc': every training target is 'yes'"):
        load_suite("wsc", data_root=MIRROR)


@needs_mirror
def test_mirror_mixture_under_limits():
    suite = load_suite("rte+cb+copa", data_root=MIRROR, limits={"train": 100, "test": 50})
    counts = collections.Counter((e.task, e.split) for e in suite.examples)
    assert {counts[task, "train"] for task in suite.tasks} == {100}
    assert {counts[task, "test"] for task in suite.tasks} == {50}


@needs_mirror
@pytest.mark.filterwarnings("ignore:.*test prompts also occur in train")
def test_mirror_tests_of_variants_without_their_training_rows():
    source = "multi30k-de-en+multi30k-de-en-2017@test+multi30k-de-en-2018@test"
    suite = load_suite(source, data_root=MIRROR, limits={"train": 2_000})
    assert suite.name == source
    assert counts_of(suite) == {
        ("multi30k-de-en", "train"): 2_000,
        ("multi30k-de-en", "calibration"): 1_014,
        ("multi30k-de-en", "test"): 1_000,
        ("multi30k-de-en-2017", "test"): 1_000,
        ("multi30k-de-en-2018", "test"): 1_071,
    }


@needs_mirror
@pytest.mark.filterwarnings("ignore:.*test prompts also occur in train")
def test_mirror_mixed_as_in_flan():
    suite = load_suite("rte+cb+copa", data_root=MIRROR, limits={"train": 500}, mixing_cap=300, mixing_rounds=3)
    counts = counts_of(suite)
    assert [counts[name, "train"] for name in suite.tasks] == [900, 3 * 225, 900]
    assert len({e.prompt for e in suite.split("train") if e.task == "rte"}) == 500


def test_options_that_differ_in_white_space_alone_are_refused():
    with pytest.raises(ValueError, match="two or more different texts .white space is no difference."):
        suite_of(item(9, "train", options=("a b", "a  b"), target="a b"))
