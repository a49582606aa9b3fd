"""The registry: every entry on rows in the Hub's shape, names of mixtures, tasks of any text, the command line."""

import collections
import gzip
import io
import json
import re
import tarfile
from importlib.util import find_spec

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hub_shapes import SHAPES, pair, shape_of

from cat_core.files import file_sha256
from cat_core.tasks import mirror as mirroring
from cat_core.tasks import newstests, registry
from cat_core.tasks.check import checked, strangers
from cat_core.tasks.command import main
from cat_core.tasks.entries import pieces
from cat_core.tasks.example import SPLITS, find_problem
from cat_core.tasks.registry import find_task, load_task, mixtures, place_of, task_names
from cat_core.tasks.suite import load_suite

NAMES = task_names()
FIRST = {"train": 0, "calibration": 60, "test": 100}  # the number of a split's first row
COUNT = 40


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch):
    monkeypatch.delenv("CAT_DATA_ROOT", raising=False)


def write(path, rows):
    """Rows as JSON lines, gzip, or Parquet, by the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_task(root, name, parquet=False):
    """All splits of a task, in one file each, or in two parts of Parquet in `data`."""
    _, spec = find_task(name)
    shape = shape_of(name, spec)
    for split in spec.splits:
        place = place_of(spec, split)
        folder = root / place.hub_id / place.config
        rows = [shape(n) for n in range(FIRST[split], FIRST[split] + COUNT)]
        if parquet:
            for part in (0, 1):
                half = rows[: COUNT // 2] if part == 0 else rows[COUNT // 2 :]
                write(folder / "data" / f"{place.split}-{part:05d}-of-00002.parquet", half)
        else:
            write(folder / f"{place.split}.jsonl.gz", rows)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder with all tasks; those that two tasks share are written by both, alike."""
    root = tmp_path_factory.mktemp("hub")
    in_parts = ("boolq", "coqa", "drop", "hellaswag", "record", "squad_v1", "trivia_qa")
    for name in NAMES:
        write_task(root, name, parquet=name in in_parts)
    return root


# ---------------------------------------------------------------- every entry


def test_the_paper_has_a_name_for_each_of_its_tasks():
    assert len(NAMES) > 60 and len(set(NAMES)) == len(NAMES)
    sizes = {name: len(tasks) for name, tasks in mixtures().items()}
    assert sizes == {"superglue": 8, "flan2021": 39, "flan2021-accuracy": 32, "flan2021-generative": 7, "wmt22": 21}
    assert {task for tasks in mixtures().values() for task in tasks} <= set(NAMES)
    parts = mixtures()["flan2021-accuracy"] + mixtures()["flan2021-generative"]
    assert sorted(mixtures()["flan2021"]) == sorted(parts)
    for name in mixtures()["flan2021-accuracy"]:
        assert find_task(name)[1].metric == ("exact_match" if name == "math" else "accuracy"), name


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete(name):
    _, spec = find_task(name)
    assert spec.citation and spec.licence and spec.url
    assert "/" in spec.hub_id, "a name without its owner is refused by the Hub"
    assert "test" in spec.sizes and ("train" in spec.sizes or name.startswith("wmt22-"))
    assert len(spec.patterns) >= 3 and len({p.prompt for p in spec.patterns}) == len(spec.patterns)
    used = [{field for _, field in pieces(p.prompt) if field} for p in spec.patterns]
    for pattern, fields in zip(spec.patterns, used):
        assert pattern.prompt == pattern.prompt.rstrip()
        assert used[0] - {"options", "source_language", "activity_label"} <= fields | {"choice1", "choice2"}, (
            f"{pattern.prompt!r} leaves out what the first template shows"
        )
        if spec.options_field or any("{" in option for option in spec.options):
            assert "options" in fields or {"choice1", "choice2"} <= fields
    if spec.metric == "bleu":
        to = name.removeprefix("wmt22-").split("-")[-1] if name.startswith("wmt22-") else "en"
        assert spec.tokenize == {"zh": "zh", "ja": "ja-mecab"}.get(to, "")
    for split in spec.splits:
        assert not (place_of(spec, split).revision.startswith("refs/convert") and place_of(spec, split).config)


@pytest.mark.filterwarnings("ignore:.*share a cluster")
@pytest.mark.parametrize("name", NAMES)
def test_rows_in_the_shape_of_the_hub_become_examples_in_every_template(hub, name):
    _, spec = find_task(name)
    first = load_task(name, data_root=hub)
    counts = collections.Counter(e.split for e in first)
    assert set(counts) >= set(spec.splits) and all(find_problem(e) is None for e in first)
    for number in range(2, len(spec.patterns) + 1):
        examples = load_task(name, data_root=hub, templates=number)
        assert [(e.item_id, e.target, e.options, e.references) for e in examples] == [
            (e.item_id, e.target, e.options, e.references) for e in first
        ]
        assert sum(a.prompt == b.prompt for a, b in zip(first, examples)) < len(first)
    starts = {re.sub(r"\d+", "#", e.prompt)[:9] + re.sub(r"\d+", "#", e.prompt)[-9:] for e in examples}
    assert len(starts) >= 3  # all templates came up
    assert not any("{" in e.prompt or "<br" in e.prompt or "[header]" in e.prompt for e in examples)


RIGHT = {  # what label 0, 1, ... means, by the facts of the data sets: our word for it
    "ag_news": "world sports business technology", "boolq": "no yes", "cb": "yes no maybe", "cola": "no yes",
    "imdb": "negative positive", "mnli": "yes maybe no", "mnli-mismatched": "yes maybe no", "mrpc": "no yes",
    "multirc": "no yes", "multirc-questions": "no yes", "paws": "no yes", "qnli": "yes no", "qqp": "no yes",
    "rte": "yes no", "snli": "yes maybe no", "sst2": "negative positive", "wic": "no yes", "wsc": "no yes",
    "yelp_polarity": "negative positive",
    "anli-r1": "yes maybe no", "anli-r2": "yes maybe no", "anli-r3": "yes maybe no",
    "sentiment140": "negative positive",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NAMES if find_task(n)[1].metric == "accuracy" and n != "record"])
def test_labels_mean_what_the_options_say(hub, name):
    for example in load_task(name, data_root=hub):
        number = int(example.item_id.rpartition("-")[2]) + FIRST["test" if example.split == "test" else "train"]
        if example.split == "calibration" and "calibration" in find_task(name)[1].splits:
            number += FIRST["calibration"]
        if name == "trec":
            assert example.target == ("an abbreviation", "an entity", "a description", "a person", "a place",
                                      "a number")[number % 6]  # fmt: skip
        elif name in RIGHT:
            words = RIGHT[name].split()
            assert example.target == words[number % len(words)]
        else:
            assert example.target == f"right {number}" and example.options.count(example.target) == 1


@pytest.mark.parametrize(
    ("name", "item", "prompt", "right"),
    [
        ("coqa", "validation-000000-1", "A story of 100.\nQ: Who is 100?\nA: Somebody 100\nQ: And why?\nA:",
         ("because", "because 0", "because 1", "because 2")),
        ("drop", "validation-000000", "Passage 100.\nQuestion: How many are 100?\nAnswer:",
         ("1 May 1920", "other 100")),
        ("drop", "validation-000001", None, ("span 101 | another", "other 101")),
        ("drop", "validation-000002", None, ("102", "other 102")),
        ("natural_questions", "validation-000000", "Question: who made 100?\nAnswer:",
         ("Somebody 100", "Some Body 100")),
        ("squad_v1", "validation-000001", None, ("answer 507", )),
        ("squad_v2", "validation-000004", None, ("unanswerable",)),
        ("squad_v2", "validation-000000", None, ("answer 100", "Answer, 100")),
        ("trivia_qa", "validation-000000", "Question: Where is 100?\nAnswer:", ("place 100", "the place 100")),
        ("samsum", "test-000000", "Ann: See 100\nBob:  ok\nSummary:", ("Ann sees 100.",)),
        ("math", "test-000000", "Solve 2*x = 200 for x.\nAnswer:", ("100",)),
        ("imdb", "test-000000", "Review: Film 100.\nSo it was.\nThe review is", ("negative",)),
        ("yelp_polarity", "test-000000", 'Review: Soup 100\n\nwas "hot".\nThe review is', ("negative",)),
        ("hellaswag", "validation-000000", "Making tea 100. Boil\nHow does it go on?\nOPTIONS:\n- right 100\n"
         "- wrong 1 of 100\n- wrong 2 of 100\n- wrong 3 of 100\nAnswer:", ("right 100",)),
        ("wmt22-de-en", "test-000000", "German: source 100\nEnglish:", ("Der Hund schläft. 100",)),
        ("true_case", "test-000000", "story 100. it rained.\nThe same with capital letters where they belong:",
         ("Story 100. It Rained.",)),
        ("fix_punct", "test-000000", "Story 100 It Rained\nThe same with its punctuation:", ("Story 100. It Rained.",)),
        ("word_segment", "test-000000", "Story100.ItRained.\nThe same with blanks between the words:",
         ("Story 100. It Rained.",)),
    ],
)  # fmt: skip
def test_shapes_of_their_own(hub, name, item, prompt, right):
    found = next(e for e in load_task(name, data_root=hub) if e.item_id == item)
    assert found.right_answers == right and (prompt is None or found.prompt == prompt)


def test_record_has_distinct_entities_of_which_several_may_be_right(hub):
    one, two, *_ = (e for e in load_task("record", data_root=hub) if e.split == "test")
    assert one.options == ("Ann 100", "Bob 100", "Bob Lee 100") and one.right_answers == ("Ann 100",)
    assert two.target == "Bob 101" and two.right_answers == ("Bob 101", "Bob Lee 101")
    assert "@highlight" not in two.prompt and "\n- They met\n- One left\n" in two.prompt


def test_coqa_goes_on_with_the_first_answer_and_stays_in_its_story(hub):
    examples = load_task("coqa", data_root=hub)
    assert len({e.cluster_id for e in examples if e.item_id.startswith("validation-000000")}) == 1
    assert len({e.item_id for e in examples}) == len(examples) == 2 * 2 * COUNT
    assert {len(e.right_answers) for e in examples if e.split != "test"} == {1}  # others answered in validation only


# ---------------------------------------------------------------- the keys of an entry

SPEC = {"hub_id": "own/set", "splits": {"train": "train", "test": "test"}, "prompt": "{text} ?", "licence": "own",
        "options": ["no", "yes"], "label": "label", "metric": "accuracy", "url": "own"}  # fmt: skip
FREE = {key: value for key, value in SPEC.items() if key not in ("options", "label")} | {
    "metric": "f1", "references_field": "answers.text"}  # fmt: skip


@pytest.fixture
def own(tmp_path):
    """Writes an entry and its rows; returns its examples by item id, or the error's text."""

    def make(spec, rows, **fields):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
        for split in spec.get("splits", ()):
            write(tmp_path / "hub/own/set" / f"{split}.jsonl", rows)
        try:
            found = load_task(str(tmp_path / "mine.yaml"), data_root=tmp_path / "hub", **fields)
        except (ValueError, FileNotFoundError) as error:
            assert "\n" not in str(error)
            return str(error)
        return {e.item_id: e for e in found}

    return make


def test_a_task_is_added_by_yaml_alone(own):
    """Every key that an entry may have, together."""
    rows = [{"text": f"a <br/> {n}", "who": f"w{n}", "gold": "LR"[n % 2] if n else "none"} for n in range(12)]
    spec = SPEC | {
        "label": "gold", "label_values": ["L", "R"], "skip_labels": ["none"], "preprocess": ["html_breaks"],
        "values": {"place": "here"}, "templates": ["{place}: {text}", {"prompt": "{text}\n{options}\nSo"}],
        "also": ["macro_f1"], "sizes": {"train": 12, "test": 12}, "cluster": "who",
    }  # fmt: skip
    found = own(spec, rows)
    assert "train-000000" not in found and len(found) == 22
    assert (found["train-000001"].prompt, found["train-000001"].target) == ("a\n1 ?", "yes")
    drawn = own(spec, rows, templates=3)
    assert {e.prompt for e in drawn.values()} <= {
        made.format(n) for n in range(12) for made in ("a\n{} ?", "here: a\n{}", "a\n{}\nOPTIONS:\n- no\n- yes\nSo")
    }
    assert len({re.sub(r"\d+", "", e.prompt) for e in drawn.values()}) == 3
    assert own(spec, rows, templates=3, seed=1) != drawn == own(spec, rows, templates=3)
    assert own(spec, rows, templates=9) == drawn  # all, where there are fewer
    same = collections.defaultdict(set)
    for e in drawn.values():
        same[e.item_id[-6:]].add(e.prompt)  # train and test have the same rows here
    assert all(len(prompts) == 1 for prompts in same.values())


def test_a_template_may_have_a_target_of_its_own(own):
    rows = [{"text": f"t {n}", "answers": {"text": [f"a {n}"]}} for n in range(30)]
    found = own(FREE | {"target": "{text}!", "templates": [{"prompt": "{text} ??", "target": "So: {text}"}]}, rows,
                templates=2)  # fmt: skip
    assert {(e.prompt[-2:], e.target[:2]) for e in found.values()} == {(" ?", "t "), ("??", "So")}


def test_golds_that_the_metric_leaves_nothing_of(own):
    rows = [{"text": f"t {n}", "answers": {"text": [["The", "?"], ["A", "band"], []][n % 3]}} for n in range(12)]
    found = own(FREE | {"unanswerable": "nothing"}, rows)
    assert {e.right_answers for e in found.values()} == {("band",), ("nothing",)} and len(found) == 16
    assert "row 2 (counting from 0): field 'answers.text' must be a list of texts, got []" in own(FREE, rows)


def test_right_options_that_a_further_metric_leaves_nothing_of(own):
    """ReCoRD's F1 knows no articles: a row whose only answer is the entity "The" is left out."""
    spec = {k: v for k, v in FREE.items() if k != "metric"} | {
        "metric": "accuracy", "options_field": "names", "also": ["exact_match_normalized", "f1"]}  # fmt: skip
    golds = (["The"], ["The", "Bob"], ["Bob"])
    rows = [{"text": f"t {n}", "names": ["The", "Bob"], "answers": {"text": golds[n % 3]}} for n in range(12)]
    found = own(spec, rows)
    assert {e.right_answers for e in found.values()} == {("Bob",)} and len(found) == 16


def test_a_template_with_a_target_of_its_own_is_checked(own, tmp_path):
    own(FREE | {"target": "{text}", "templates": [{"prompt": "{text} ??", "target": "{txet}"}]},
        [{"text": f"t {n}", "answers": {"text": [f"a {n}"]}} for n in range(30)])  # fmt: skip
    (found,) = checked(tmp_path / "hub", [str(tmp_path / "mine.yaml")])
    assert len(found.faults) == 2 and "no field 'txet'" in found.faults[0]


def test_rows_whose_own_options_are_alike_are_left_out(own):
    rows = [{"text": f"t {n}", "a": "x", "b": ("y", "x ")[n == 3], "label": n % 2} for n in range(12)]
    found = own(SPEC | {"options": ["{a}", "{b}"]}, rows)
    assert len(found) == 22 and "train-000003" not in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": ["{text!r}"]}, "templates: item 1: prompt: 'text' must be|must be the plain name"),
        ({"templates": [3]}, "'templates'|item 1 is 3, expected a template, or a mapping of prompt, target"),
        ({"templates": [{"prompt": "{text}", "target": "x"}]}, "a target is for generation"),
        ({"preprocess": ["html_brakes"]}, "item 1 is 'html_brakes'; did you mean 'html_breaks'"),
        ({"also": ["mathews"]}, "item 1 is 'mathews'; did you mean 'matthews'"),
        ({"label_values": ["a"]}, "label_values must name one value for each of 2 options"),
        ({"label_values": ["a", "b"]}, r"train row 0 .*: label 0 is not one of label_values \['a', 'b'\]"),
        ({"references_field": "x"}, "needs label, and one of options"),
        ({"unanswerable": "none"}, "unanswerable is what an empty list in references_field means"),
        ({"sizes": {"train": 0}}, "'train' is 0"),
        ({"splits": {"train": {"split": "train", "loader": "web"}, "test": "test"}}, "'loader' is 'web'"),
        ({"preprocess": ["entities"]}, "train row 0 .*: no field 'entities'; the row has"),
        ({"preprocess": ["direction"], "values": {"from": "de", "to": "en"}}, "no field 'translation.de'"),
        ({"preprocess": ["dialogue_turns"]}, "no field 'questions'"),
        ({"preprocess": ["direction"]}, "train row 0 .*: no field 'from'"),
        ({"preprocess": ["drop_answers"], "values": {"validated_answers": "x"}}, "step 'drop_answers' cannot take"),
        ({"preprocess": ["four_choices"]}, "no field 'choices.text'"),
        ({"splits": {}}, "splits must name train and test"),
    ],
)
def test_faults_of_an_entry_are_one_line(own, changes, message):
    found = own(SPEC | changes, [{"text": f"t {n}", "label": n % 2} for n in range(12)])
    assert isinstance(found, str) and re.search(message, found), found


@pytest.mark.parametrize("rows", [[{"questions": 3, "answers": 4, "text": "t"}], [{"questions": ["a"], "answers": {
    "input_text": ["x", "y"]}, "text": "t"}], [{"questions": ["a"], "answers": None, "text": "t"}]])  # fmt: skip
def test_dialogues_that_do_not_fit_are_one_line(own, rows):
    assert "row 0 (counting from 0): fields 'questions' and 'answers' must be equally long lists" in own(
        SPEC | {"preprocess": ["dialogue_turns"]}, rows
    )


# ---------------------------------------------------------------- names


def test_unknown_names_and_families():
    for name, message in (
        ("superglu", "did you mean 'superglue'"),
        ("squad_v3", "did you mean 'squad_v"),
        ("wmt22-en-dee", "did you mean 'wmt22-en-de'"),
        ("anli", "'anli' is the name of several tasks: take one of anli-r1, anli-r2, anli-r3"),
        ("zzz", "unknown suite 'zzz'; built in: mini-superglue, .*; python -m cat_core.tasks lists more"),
        (__file__, "is a file of another kind than a suite is read from: give a .jsonl"),
    ):
        with pytest.raises(ValueError, match=message):
            load_suite(name)
    with pytest.raises(ValueError, match="templates is 3, but 'mini-wmt' has no task of the registry"):
        load_suite("mini-wmt", task_templates=3)
    with pytest.raises(ValueError, match="templates must be a whole number >= 1, got 0"):
        load_suite("rte", task_templates=0)


@pytest.mark.filterwarnings("ignore:.*share a cluster")
def test_mixtures_by_name(hub):
    suite = load_suite("superglue", data_root=hub, mixing_cap=10, mixing_rounds=2, task_templates=3)
    assert suite.name == "superglue" and suite.tasks == tuple(mixtures()["superglue"])
    assert {sum(e.task == t for e in suite.split("train")) for t in suite.tasks} == {20}
    flan = load_suite("flan2021", data_root=hub, limits={"train": 8, "test": 4})
    assert flan.tasks == tuple(mixtures()["flan2021"])
    tested = load_suite("superglue@test+superglue@calibration+rte@train", data_root=hub)
    assert {e.task for e in tested.split("train")} == {"rte"} and len(tested.tasks) == 8


def test_a_mixture_says_which_tasks_are_missing(tmp_path):
    for name in ("boolq", "cb"):
        write_task(tmp_path, name)
    (tmp_path / "aps/super_glue/cb/validation.jsonl.gz").unlink()
    said = r"'superglue': 7 of its 8 tasks are not whole in .*: cb \(test\); copa; multirc-questions;.*tasks mirror"
    with pytest.raises(FileNotFoundError, match=said) as error:
        load_suite("superglue", data_root=tmp_path)
    assert "\n" not in str(error.value)


def test_only_the_split_asked_for_is_read(hub, tmp_path):
    write_task(tmp_path, "rte")
    write(tmp_path / "wmt/wmt22/de-en/test.jsonl.gz", [pair("de", "en")(n) for n in range(20)])
    suite = load_suite("rte+wmt22-de-en@test", data_root=tmp_path)  # no training rows of it are there
    assert {e.split for e in suite.examples if e.task == "wmt22-de-en"} == {"test"}
    whole = load_task("openbookqa", data_root=hub)
    for split in SPLITS:
        assert load_task("openbookqa", data_root=hub, split=split) == [e for e in whole if e.split == split]
        assert load_task("rte", data_root=hub, split=split) == [
            e for e in load_task("rte", data_root=hub) if e.split == split
        ]
    tests = "+".join(f"{name}@test" for name in mixtures()["wmt22"] if name != "wmt22-en-ja")  # needs MeCab
    news = load_suite(f"tatoeba-de-en@train+wmt22-de-en@calibration+{tests}", data_root=hub)
    assert len(news.tasks) == 21 and {e.item_id[:24] for e in news.split("calibration")} == {"wmt22-de-en/calibration-"}
    if find_spec("MeCab") is None:
        with pytest.raises(ValueError, match="tokenize 'ja-mecab' cannot be used here"):
            load_suite("tatoeba-de-en@train+wmt22-de-en@calibration+wmt22@test", data_root=hub)
    with pytest.raises(ValueError, match="'wmt22-cs-uk' has no train items"):
        load_suite("rte+wmt22-cs-uk@train", data_root=hub)


# ---------------------------------------------------------------- tasks of any text


def test_tasks_of_any_text(hub, tmp_path):
    texts = [f"The Cat {n} sat, as Ever." for n in range(30)] + ["nothing here to restore"]
    (tmp_path / "own.txt").write_text("\n\n".join(texts), encoding="utf-8")
    write(tmp_path / "own.jsonl", [{"prompt": text} for text in texts])
    suite = load_suite(f"true_case:{tmp_path / 'own.txt'}", task_templates=3)
    assert suite.tasks == ("true_case-own",) and len(suite.examples) == 30
    assert {e.target for e in suite.examples} == set(texts[:30])
    assert {e.metric for e in suite.examples} == {"chrf"}
    for source in (f"fix_punct:{tmp_path / 'own.jsonl'}:prompt", "word_segment:sst2", "fix_punct:rte:premise"):
        found = load_suite(source, data_root=hub)
        assert all(found.split(split) for split in SPLITS), source
    both = load_suite(f"true_case:{tmp_path / 'own.txt'}@train+true_case:{tmp_path / 'own.txt'}@calibration+"
                      "true_case@test", data_root=hub)  # fmt: skip
    assert both.tasks == ("true_case-own", "true_case")
    for source, message in (
        (f"true_case:{tmp_path / 'own.jsonl'}", "own.jsonl, line 1: no text in field 'text'"),
        (f"true_case:{tmp_path / 'none.txt'}", "none.txt: cannot be read"),
        ("true_case:rte", "task 'rte' has several texts: name one, such as rte:premise"),
        ("true_case:rte:premise", "task 'rte': true_case finds nothing to restore in its field 'premise'"),
        ("true_case:nonesuch", "unknown suite 'nonesuch'"),
        ("true_case:almanac", "'almanac' is a suite, not a task of the registry"),
        ("true_case:superglue", "'superglue' is a suite, not a task of the registry"),
        ("rte:own.txt", "'rte' is not a task of any text"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            load_suite(source, data_root=hub)
    place = tmp_path / "me@home.net"
    write(place / "own.jsonl", [{"prompt": text} for text in texts])
    (place / "a@b.txt").write_text("\n".join(texts))
    for made in ("true_case", "fix_punct"):
        for text in ("own.jsonl:prompt", "a@b.txt"):
            assert load_suite(f"{made}:{place / text}").name == f"{made}:{text}"
    (tmp_path / "hindi.txt").write_text("\n".join(f"यह हिन्दी है, संख्या {n}।" for n in range(12)))
    prompts = {e.prompt for e in load_suite(f"fix_punct:{tmp_path / 'hindi.txt'}").examples}
    assert all(prompt.startswith("यह हिन्दी है संख्या ") for prompt in prompts)  # vowel signs are no punctuation
    (tmp_path / "few.txt").write_text("One Text.\nAnother Text.")
    with pytest.raises(ValueError, match="too few texts to draw splits from .2 of use for true_case, at least 10"):
        load_suite(f"true_case:{tmp_path / 'few.txt'}")


# ---------------------------------------------------------------- WMT through sacrebleu


@pytest.fixture
def newstest(tmp_path, monkeypatch):
    """sacrebleu's own loader for a test set of ours, in a cache of ours; returns (folder, the archive's md5)."""
    dataset = pytest.importorskip("sacrebleu.dataset.wmt_xml")
    segments = "".join(f'<seg id="{n}">{{0}} {n} &amp;  so</seg>' for n in range(1, 4))
    refs = "".join(f'<ref lang="en" translator="{who}"><p>{segments.format(who)}</p></ref>' for who in "CAB")
    doc = f'<doc id="d" origlang="de"><src lang="de"><p>{segments.format("Quelle")}</p></src>{refs}</doc>'
    test_suite = doc.replace('id="d"', 'id="e" testsuite="x"')
    xml = f'<dataset id="t">{doc}{test_suite}</dataset>'.encode()
    archive = tmp_path / "tiny.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        about = tarfile.TarInfo("tiny/t.xml")
        about.size = len(xml)
        tar.addfile(about, io.BytesIO(xml))
    from sacrebleu.dataset import DATASETS
    from sacrebleu.utils import get_md5sum

    def make(md5=None):
        data = dataset.WMTXMLDataset("tiny", data=[archive.as_uri()], md5=[md5 or get_md5sum(str(archive))],
                                     langpairs={"de-en": ["tiny/t.xml"]}, refs=["B"])  # fmt: skip
        data._outdir = str(tmp_path / "cache")
        data._rawdir = str(tmp_path / "cache" / "raw")
        monkeypatch.setitem(DATASETS, "tiny", data)
        return data

    return make


def test_rows_of_sacrebleu_are_those_of_the_folder(newstest, tmp_path):
    newstest()
    rows = newstests.newstest_rows("tiny", "de-en")
    assert rows[0] == {"id": "0", "translation": {"de": "Quelle 1 & so", "en": "B 1 & so"},
                       "references": ["B 1 & so", "A 1 & so", "C 1 & so"]}  # fmt: skip
    assert len(rows) == 3 and newstests.newstest_rows("tiny", "de-en") == rows  # from the cache
    spec = yaml.safe_load((registry.FOLDER / "wmt22.yaml").read_text())
    spec |= {"hub_id": "wmt/tiny", "config": "de-en", "splits": {"test": {"split": "test", "loader": "sacrebleu"}}}
    spec |= {"values": spec.pop("variants")["de-en"]["values"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(spec))
    write(tmp_path / "mirror/wmt/tiny/de-en/test.jsonl.gz", rows)
    through, folder = (load_task(str(tmp_path / "tiny.yaml"), data_root=root) for root in ("", tmp_path / "mirror"))
    assert through == folder and folder[0].prompt == "German: Quelle 1 & so\nEnglish:"


def test_faults_of_sacrebleu_are_one_line(newstest, tmp_path):
    newstest("0" * 32)
    with pytest.raises(FileNotFoundError, match="tiny de-en cannot be loaded by sacrebleu .*the network") as error:
        newstests.newstest_rows("tiny", "de-en")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="tiny.tar.gz: its md5 is not 0{32}, .*: it was changed or cut; delete it"):
        newstests.newstest_rows("tiny", "de-en")  # sacrebleu itself would go on with it now
    for given, message in ((("wmt222", "de-en"), "no test set 'wmt222' for 'de-en'; did you mean 'wmt22'"),
                           (("wmt22", "de-eo"), "no test set 'wmt22' for 'de-eo'; did you mean 'de-")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            newstests.newstest_rows(*given)


def test_every_direction_is_one_of_sacrebleus():
    from sacrebleu.utils import get_langpairs_for_testset

    assert sorted(get_langpairs_for_testset("wmt22")) == [n.removeprefix("wmt22-") for n in mixtures()["wmt22"]]
    for name in mixtures()["wmt22"]:
        _, spec = find_task(name)
        place = place_of(spec, "test")
        assert (place.hub_id, f"wmt22-{place.config}", place.loader) == ("wmt/wmt22", name, "sacrebleu")
        assert f"{spec.values['from']}-{spec.values['to']}" == place.config
        if "train" in spec.splits:
            assert set(place_of(spec, "train").config.split("-")) == {spec.values["from"], spec.values["to"]}
        if "calibration" in spec.splits:
            assert place.config in get_langpairs_for_testset("wmt21")


# ---------------------------------------------------------------- check


def faults_of(root, *names):
    return [fault for found in checked(root, names) for fault in found.faults]


def test_check_passes_what_fits_and_names_strangers(hub, tmp_path, capsys):
    assert faults_of(hub) == []
    write_task(tmp_path, "rte")
    write(tmp_path / "other/set/train.jsonl", [{"a": 1}])
    write(tmp_path / "aps/super_glue/rte/dev-00000-of-00001.parquet", [{"a": 1}])
    assert strangers(tmp_path) == ["aps/super_glue/rte/dev-00000-of-00001.parquet", "other/set/train.jsonl"]
    assert main(["check", "--data-root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^rte: train 40 of 2,490 rows, prompts of \d+ characters \(at most \d+\); test 40 of 277", said)
    assert "no task reads other/set/train.jsonl\n" in said and said.endswith("1 tasks, 0 faults\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [row | {"label": 2} for row in rows], "rte, train: task 'rte', train row 0 .*: label 2 is out"),
        (lambda rows: [{"premise": "a", "label": 0}], "no field 'hypothesis'; the row has 'premise, label'"),
        (lambda rows: rows * 70, "rte, train: 2,800 rows, but the entry says 2,490"),
        (lambda rows: [row | {"premise": None} for row in rows], "field 'premise' must be text or a number, got None"),
        (lambda rows: [], "no example comes of 0 rows"),
    ],
)
def test_check_names_a_fault_in_one_line(tmp_path, capsys, spoil, message):
    write_task(tmp_path, "rte")
    write(tmp_path / "aps/super_glue/rte/train.jsonl.gz", spoil([SHAPES["rte"](n) for n in range(40)]))
    assert main(["check", "--data-root", str(tmp_path), "rte"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAULT")]
    assert len(lines) == 1 and re.search(message, lines[0])


def test_strangers_beside_the_folders_of_a_root_called_data(tmp_path):
    write(tmp_path / "data/own.jsonl", [{"text": "a"}])
    write(tmp_path / "data/data/own.jsonl", [{"text": "a"}])
    assert strangers(tmp_path / "data") == ["data/own.jsonl", "own.jsonl"]


def test_check_finds_missing_parts_splits_and_files(tmp_path, capsys):
    write_task(tmp_path, "boolq", parquet=True)
    (tmp_path / "aps/super_glue/boolq/data/train-00001-of-00002.parquet").unlink()
    (tmp_path / "aps/super_glue/boolq/data/validation-00000-of-00002.parquet").write_bytes(b"cut")
    first, second = faults_of(tmp_path, "boolq")
    assert "should have the parts 0 to 1 of one set" in first and "not a readable Parquet file" in second
    assert faults_of(tmp_path, "rte") == [f"rte: train, test not in {tmp_path}"]
    assert main(["check"]) == 2 and main(["check", "--data-root", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "no folder to check: give --data-root" in said and "is not a folder" in said


# ---------------------------------------------------------------- mirror


def test_a_mirror_of_a_folder_gives_the_same_examples(hub, tmp_path, capsys):
    to = tmp_path / "new"
    assert main(["mirror", "superglue", "squad_v2", "--to", str(to), "--data-root", str(hub)]) == 0
    names = [*mixtures()["superglue"], "squad_v2"]
    for name in names:
        assert load_task(name, data_root=to) == load_task(name, data_root=hub)
    files = json.loads((to / "mirror.json").read_text())["files"]
    assert set(files) == {p.relative_to(to).as_posix() for p in to.rglob("*.jsonl.gz")}
    assert all(about["sha256"] == file_sha256(to / path) and about["rows"] == COUNT for path, about in files.items())
    before = {path: (to / path).stat().st_mtime_ns for path in files}
    capsys.readouterr()
    assert main(["mirror", "superglue", "--to", str(to), "--data-root", str(hub)]) == 0
    assert capsys.readouterr().out.count("there already") == 16
    assert before == {path: (to / path).stat().st_mtime_ns for path in files}
    assert main(["mirror", "rte", "--to", str(hub), "--data-root", str(hub)]) == 2


def test_a_mirror_of_a_task_file_and_of_rows_that_have_nan(own, tmp_path, capsys):
    """Its folder has an "@" in its name; NaN is no JSON, so that the mirror could not be read."""
    place = tmp_path / "me@home"
    place.mkdir()
    own(SPEC, [{"text": f"t {n}", "label": n % 2, "more": {"list": [float("nan"), 1.5]}} for n in range(20)])
    for split in SPEC["splits"]:
        path = tmp_path / "hub/own/set" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        write(path.with_suffix(".parquet"), rows)
    (tmp_path / "mine.yaml").rename(place / "mine.yaml")
    given = [str(place / "mine.yaml"), "--data-root"]
    assert main(["mirror", *given, str(tmp_path / "hub"), "--to", str(tmp_path / "to")]) == 0
    assert main(["check", *given, str(tmp_path / "to")]) == 0
    assert "1 tasks, 0 faults" in capsys.readouterr().out
    assert '"list": [null, 1.5]' in gzip.decompress((tmp_path / "to/own/set/test.jsonl.gz").read_bytes()).decode()
    assert main(["mirror", "rte@tset", "--to", str(tmp_path / "to")]) == 2
    assert "unknown split 'tset' after '@'" in capsys.readouterr().err


def test_a_mirror_goes_on_and_a_changed_file_is_refused_before_anything_is_trained(hub, tmp_path):
    mirroring.mirror(["rte"], tmp_path, data_root=hub, say=lambda line: None)
    path = tmp_path / "aps/super_glue/rte/train.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole).replace(b"premise 1 ", b"premise 7 ")))
    with pytest.raises(ValueError, match="gz: its sha256 is .*: it was changed or cut; mirror it again") as error:
        load_suite("rte", data_root=tmp_path)
    assert "\n" not in str(error.value)
    assert "mirror it again" in faults_of(tmp_path, "rte")[0]
    mirroring.mirror(["rte"], tmp_path, data_root=hub, say=lambda line: None)
    assert path.read_bytes() == whole
    (tmp_path / "mirror.json").write_text("{}")
    with pytest.raises(ValueError, match="mirror.json: not a manifest"):
        load_suite("rte", data_root=tmp_path)


def test_a_mirror_of_the_hub_is_of_one_commit_and_whole_or_not_there(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    class Info:
        sha = "a" * 40

    def dataset_info(self, name, revision=None):
        calls.append((name, revision))
        return Info

    def load_dataset(name, config, *, split, revision):
        calls.append((name, config, split, revision))
        if split == "test" and len(calls) < 9:
            raise ConnectionError("gone")
        return datasets.Dataset.from_list([SHAPES["trec"](n) for n in range(COUNT)])

    monkeypatch.setattr(mirroring.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match="split 'test' of CogComp/trec at a{40} cannot be loaded .*gone"):
        mirroring.mirror(["trec"], tmp_path, say=lambda line: None)
    assert [p.name for p in tmp_path.rglob("*.gz")] == ["train.jsonl.gz"]
    calls += [()] * 5
    mirroring.mirror(["trec"], tmp_path, say=lambda line: None)
    assert calls[:2] == [("CogComp/trec", "refs/convert/parquet"), ("CogComp/trec", None, "train", "a" * 40)]
    assert sum(call[2:3] == ("train",) for call in calls) == 1
    files = json.loads((tmp_path / "mirror.json").read_text())["files"]
    assert {about["revision"] for about in files.values()} == {"a" * 40}
    assert len(load_suite("trec", data_root=tmp_path).split("test")) == COUNT


def test_an_unreachable_hub_is_one_line(tmp_path, monkeypatch, capsys):
    def dataset_info(self, name, revision=None):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(mirroring.HfApi, "dataset_info", dataset_info)
    assert main(["mirror", "trec", "--to", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the Hub does not say which commit that is (ConnectionError: no route)" in said
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_of_other_data_than_the_entrys_is_refused(tmp_path, capsys):
    write(tmp_path / "from/CogComp/trec/train.jsonl", [{"text": "a", "label": 1}])
    write(tmp_path / "from/CogComp/trec/test.jsonl", [{"text": "a", "label": 1}])
    given = ["mirror", "trec", "--to", str(tmp_path / "to"), "--data-root", str(tmp_path / "from")]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert re.match("error: mirrored, but trec, train: .*no field 'coarse_label'.* .and 1 more: .* check.\n$", said)


# ---------------------------------------------------------------- list and show


def test_list_names_every_task_and_what_is_there(tmp_path, capsys):
    write_task(tmp_path, "rte")
    write(tmp_path / "wmt/wmt22/de-en/test.jsonl.gz", [pair("de", "en")(n) for n in range(20)])
    assert main(["list", "--data-root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(NAMES) + 1]] == NAMES
    assert re.match(r"rte +choice +accuracy +2,490 +277 +yes +none stated", next(x for x in lines if x[:4] == "rte "))
    assert re.match(r"wmt22-de-en +translation +bleu +\? +1,984 +test ", next(x for x in lines if "-de-en  " in x and
                    x.startswith("wmt22")))  # fmt: skip
    assert lines[-5:][0] == "superglue: 8 tasks" and main([]) == 0


def test_show_prints_a_card_and_two_rendered_examples(hub, capsys):
    for name in NAMES:
        assert main(["show", name, "--data-root", str(hub)]) == 0
        said = capsys.readouterr().out
        assert said.count("\n--- ") == 4 and "template 2" in said and max(map(len, said.splitlines())) <= 400
    assert main(["show", "record"]) == 0
    said = capsys.readouterr().out
    assert "in          superglue\n" in said and "No examples: no folder given" in said
    assert main(["show", "recrod"]) == 2
    assert "did you mean 'record'" in capsys.readouterr().err
