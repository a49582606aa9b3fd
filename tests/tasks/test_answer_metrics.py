"""Metrics of one answer, each against a second implementation: by hand, or rouge-score; and what a task may report."""

import itertools
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from cat_core.tasks import scoring
from cat_core.tasks.draws import limit
from cat_core.tasks.drop import SPANS, drop_em, drop_f1, drop_words
from cat_core.tasks.example import Example, find_problem, score
from cat_core.tasks.scoring import CORPUS, FURTHER, METRICS, SHARES, TABLE, nothing_left, quality_of, trivia_words
from cat_core.tasks.sources import read_examples
from cat_core.tasks.suite import Suite

WORDS = st.sampled_from("a the The cat cat's Cat, dog ... 22 22.0 3 1,000 $5 -7 well-known U.S. ‘cat’ _x_ nan".split())
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
GOLDS = st.lists(TEXTS.filter(lambda text: not any(nothing_left(text, m) for m in SHARES)), min_size=1, max_size=4)


def naive_f1(given_words, wanted_words):
    left, common = list(wanted_words), 0
    for word in given_words:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return float(not given_words and not wanted_words)
    precision, recall = common / len(given_words), common / len(wanted_words)
    return 2 * precision * recall / (precision + recall)


def naive_trivia(text):
    """TriviaQA's normalisation, character by character."""
    blanked = "".join(" " if c in string.punctuation + "‘’´`" else c for c in text.lower())
    return [word for word in blanked.split() if word not in ("a", "an", "the")]


@given(TEXTS, GOLDS)
def test_trivia(prediction, golds):
    assert trivia_words(prediction) == naive_trivia(prediction)
    wanted = [naive_trivia(gold) for gold in golds]
    assert quality_of(prediction, golds, "trivia_em") == (naive_trivia(prediction) in wanted)
    best = max(naive_f1(naive_trivia(prediction), words) for words in wanted)
    assert quality_of(prediction, golds, "trivia_f1") == pytest.approx(best, abs=1e-12)


@given(TEXTS, GOLDS)
def test_coqa_leaves_each_right_answer_out_in_turn(prediction, golds):
    """Reddy et al. 2019: the best of the other n - 1, averaged; and an answer that several people gave counts again."""

    def one(gold):
        return quality_of(prediction, [gold], "f1")

    turns = [max(map(one, golds[:i] + golds[i + 1 :] or golds)) for i in range(len(golds))]
    expected = sum(turns) / len(turns)
    assert quality_of(prediction, golds, "coqa_f1") == pytest.approx(expected, abs=1e-12)
    example = Example("i", "t", "test", "p", golds[0], metric="coqa_f1", references=tuple(golds[1:]))
    assert score(example, prediction) == pytest.approx(expected, abs=1e-12)


def naive_drop_f1(prediction, gold):
    """All ways to give each right span a span of the answer, or none."""

    def number(word):
        try:
            return float(word) or True
        except ValueError:
            return False

    given_bags, wanted_bags = ([set(drop_words(s)) for s in text.split(SPANS)] for text in (prediction, gold))
    size = max(len(given_bags), len(wanted_bags))
    best = 0.0
    for order in itertools.permutations([*given_bags, *[None] * (size - len(given_bags))], len(wanted_bags)):
        total = 0.0
        for have, want in zip(order, wanted_bags):
            numbers = {word for word in want if number(word)}
            if have is not None and (not numbers or numbers & have):
                total += naive_f1(sorted(have), sorted(want))
        best = max(best, total / size)
    return best


@given(st.lists(TEXTS, min_size=1, max_size=3).map(SPANS.join), st.lists(TEXTS, min_size=1, max_size=3).map(SPANS.join))
def test_drop(prediction, gold):
    assert abs(drop_f1(prediction, gold) - naive_drop_f1(prediction, gold)) <= 0.005 + 1e-9  # rounded to two decimals
    spans = [sorted(" ".join(drop_words(s)) for s in text.split(SPANS)) for text in (prediction, gold)]
    assert drop_em(prediction, gold) == (set(spans[0]) == set(spans[1]) and len(spans[0]) == len(spans[1]))


def test_drop_by_its_rules():
    assert drop_words("The 1,000 well-known Cats") == ["1000.0", "well", "known", "cats"]
    assert drop_em("3", "3.0") == drop_em("Lions | Bears", "the Bears | lions") == 1
    assert drop_em("Bears", "Bears | Lions") == 0 and drop_f1("Bears", "Bears | Lions") == 0.5
    assert drop_f1("4 yards", "3 yards") == 0 and drop_f1("yards", "touchdown yards") == pytest.approx(0.67)
    assert drop_f1("", "3") == drop_em("", "3") == 0


@given(TEXTS, GOLDS)
def test_rouge_is_the_packages(prediction, golds):
    found = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False).score_multi(golds, prediction)
    for metric, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert quality_of(prediction, golds, metric) == found[kind].fmeasure


def test_rouge_l_is_a_longest_common_subsequence():
    assert quality_of("the cat sat", ["the big cat sat down"], "rouge_l") == pytest.approx(2 * 3 / (3 + 5))
    assert quality_of("cats", ["cat"], "rouge_l") == 0  # no stemmer
    assert quality_of("", ["cat"], "rouge_1") == 0


def test_rouge_without_its_package_is_one_line(monkeypatch):
    scoring._rouge_scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    examples = tuple(Example(s, "t", s, s, "word", also=("rouge_l",), metric="f1") for s in
                     ("train", "calibration", "test"))  # fmt: skip
    with pytest.raises(ImportError, match="ROUGE needs the package rouge-score .*pip install rouge-score"):
        Suite("s", examples)
    monkeypatch.undo()
    scoring._rouge_scorer.cache_clear()


def test_every_metric_is_in_the_table():
    assert set(METRICS) == {*SHARES, *CORPUS} and set(FURTHER) == set(TABLE)
    for name in set(FURTHER) - set(METRICS):
        with pytest.raises(ValueError, match=f"metric '{name}' is of many answers together"):
            quality_of("a", ["a"], name)


@pytest.mark.parametrize("metric", sorted(SHARES))
def test_an_empty_answer_is_worth_nothing(metric):
    assert quality_of("", ["two words"], metric) == quality_of(" \n", ["two words"], metric) == 0
    assert quality_of("two words", ["two words"], metric) == 1


# ---------------------------------------------------------------- several right options (ReCoRD)


def record(*references, metric="f1", **fields):
    options = ("Barack Obama", "Obama", "Joe Biden", "Biden")
    return Example("i", "t", "test", "p", "Obama", options, metric, references=references, **fields)


def test_several_options_may_be_right():
    several = record("Barack Obama")
    assert find_problem(several) is None
    assert score(several, "Barack Obama") == 1 and score(record(), "Barack Obama") == pytest.approx(2 / 3)
    assert score(several, "Joe Biden") == 0
    assert several.quality("Barack Obama", "exact_match_normalized") == 1
    assert score(record("Barack Obama", metric="accuracy"), "Barack Obama") == 1
    field, problem = find_problem(record("Kamala Harris"))
    assert field == "references" and "'Kamala Harris' is not one of the options" in problem


# ---------------------------------------------------------------- further metrics of a task

TWO = {"prompt": "p", "target": "yes", "options": ("no", "yes")}


def chosen(*also, **fields):
    return Example(**({"item_id": "i", "task": "t", "split": "test"} | TWO | {"also": also} | fields))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (chosen("macro_f2"), "unknown metric 'macro_f2'.*macro_f1"),
        (chosen("f1", "f1"), "'f1' is named twice"),
        (chosen("accuracy"), "'accuracy' is named twice, or is the metric itself"),
        (chosen("bleu"), "metric 'bleu' needs free text, not options"),
        (chosen("f1a", options=("no", "yes", "maybe")), "metric 'f1a' needs two options, .* there are 3"),
        (chosen("question_em"), "metric 'question_em' needs a group_id"),
        (chosen("macro_f1", options=(), metric="f1"), "metric 'macro_f1' needs options, of which one is right"),
        (chosen("matthews", references=("no",), metric="f1"), "metric 'matthews' needs options, of which one is right"),
        (chosen("accuracy", options=(), metric="f1"), "metric 'accuracy' needs options"),
        (chosen(3), "also: one of them must be text, not 3"),
        (chosen(group_id=4), "group_id must be text"),
    ],
)
def test_a_metric_that_a_task_cannot_have_is_one_line(example, message):
    _, problem = find_problem(example)
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)
    assert "\n" not in problem


@pytest.mark.parametrize(("metric", "target"), [("rouge_l", "很抱歉"), ("drop_em", "The | a"), ("trivia_f1", "?!")])
def test_a_right_answer_of_which_nothing_is_left_is_refused(metric, target):
    for fields in ({"metric": metric}, {"metric": "exact_match", "also": (metric,)}):
        field, problem = find_problem(Example("i", "t", "test", "p", target, **fields))
        assert field == "target" and f"nothing is left of '{target}' for metric '{metric}'" in problem


def answers(questions=12, **fields):
    """Three answers to each question, in all splits."""
    splits = ("train", "train", "calibration", "test")
    return [
        chosen("f1a", "question_em", item_id=f"q{q}-{k}", prompt=f"{q} {k}", split=splits[q % 4], group_id=f"q{q}",
               cluster_id=f"passage {q}", target=("no", "yes")[(q + k) % 2], **fields)
        for q in range(questions) for k in range(3)
    ]  # fmt: skip


def test_further_metrics_change_nothing_that_is_learnt():
    plain = [Example(**vars(e) | {"also": (), "group_id": ""}) for e in answers()]
    assert Suite("s", tuple(answers())).fingerprint == Suite("s", tuple(plain)).fingerprint


def test_a_question_stays_whole():
    kept = limit(answers(), {"test": 7, "train": 3}, seed=0)
    test = [e.group_id for e in kept if e.split == "test"]
    assert len(test) == 6 and all(test.count(group) == 3 for group in test)
    assert len([e for e in kept if e.split == "train"]) == 3
    larger = limit(answers(), {"test": 9}, seed=0)
    assert {e.item_id for e in kept if e.split == "test"} < {e.item_id for e in larger}
    torn = [e if e.item_id != "q3-0" else Example(**vars(e) | {"cluster_id": "elsewhere"}) for e in answers()]
    with pytest.raises(ValueError, match="group_id 'q3' is also in split and cluster test and elsewhere"):
        Suite("s", tuple(torn))


def test_a_task_has_one_list():
    mixed = [e if e.item_id != "q5-1" else Example(**vars(e) | {"also": ("f1a",)}) for e in answers()]
    with pytest.raises(ValueError, match="also .'f1a'., but task 't' began with .'f1a', 'question_em'.; a"):
        Suite("s", tuple(mixed))


def test_a_file_names_them(tmp_path):
    path = tmp_path / "own.jsonl"
    row = '{{"prompt": "p{0}", "target": "caf\\u00e9", "options": ["cafe\\u0301", "Caf\\u00e9 X", "tea"], '
    row += '"metric": "f1", "references": ["Cafe\\u0301 X"], "also": ["exact_match"], '
    row += '"group_id": "g{0}", "cluster_id": "c{0}"}}\n'
    path.write_text("".join(row.format(i) for i in range(12)))
    example = read_examples(path)[0]
    assert example.also == ("exact_match",) and example.group_id == "g0"
    assert example.target == example.options[0] and example.references == (example.options[1],)
    path.write_text('{"prompt": "p", "target": "a", "also": "f1"}\n')
    with pytest.raises(ValueError, match="line 1, field 'also': must be a list of texts, not 'f1'"):
        read_examples(path)
