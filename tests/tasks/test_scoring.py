"""How right an answer is: SQuAD's rules written anew, sacrebleu itself, one or several right answers."""

import json
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from cat_core.tasks import scoring
from cat_core.tasks.example import SPLITS, Example, find_problem, score
from cat_core.tasks.scoring import TOKENIZERS, exact_match_normalized, squad_words, token_f1
from cat_core.tasks.suite import Suite, load_suite

ROOT = Path(__file__).resolve().parents[2]
WORDS = st.sampled_from(
    ["a", "An", "the", "The", "cat", "cat's", "Cat,", "(dog)", "dog", "...", "theory", "22", "é", ""]
)
PHRASES = st.lists(WORDS, max_size=6).map(" ".join) | st.text("aAnthe .,'!\n", max_size=12)


def by_the_rules(text):
    """SQuAD's normalization, character by character."""
    lowered = [
        c for c in unicodedata.normalize("NFC", text).lower() if c not in r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"""
    ]
    words, word = [], ""
    for c in [*lowered, " "]:
        if c.isalnum() or c == "_":
            word += c
        else:
            words += [word] if word not in ("a", "an", "the") else [" "]
            words += [c]
            word = ""
    return "".join(words).split()


def f1_by_the_rules(prediction, target):
    given, wanted = by_the_rules(prediction), by_the_rules(target)
    if not given or not wanted:
        return float(given == wanted)
    left, common = list(wanted), 0
    for word in given:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


@given(PHRASES, PHRASES)
def test_squads_rules(prediction, target):
    assert squad_words(prediction) == by_the_rules(prediction)
    assert exact_match_normalized(prediction, target) == (by_the_rules(prediction) == by_the_rules(target))
    assert token_f1(prediction, target) == pytest.approx(f1_by_the_rules(prediction, target), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "target", "exact", "f1"),
    [
        ("The  cat.", "cat", 1, 1),
        ("a big cat", "the cat", 0, 2 / 3),
        ("cat cat", "cat", 0, 2 / 3),
        ("", "cat", 0, 0),
        ("the", "!", 1, 1),  # nothing is left of both
        ("the", "cat", 0, 0),
        ("cafe\u0301", "CAF\u00c9", 1, 1),
        ("theory", "ory", 0, 0),
    ],
)
def test_normalized_match_and_f1_by_hand(prediction, target, exact, f1):
    assert exact_match_normalized(prediction, target) == exact and token_f1(prediction, target) == pytest.approx(f1)


def free(target, *references, metric="exact_match", tokenize="", **fields):
    plain = {"item_id": "i", "task": "t", "split": "test", "prompt": "p", "references": references}
    return Example(**plain | fields, target=target, metric=metric, tokenize=tokenize)


def test_the_best_of_several_right_answers_counts():
    for metric in ("exact_match", "exact_match_normalized", "f1"):
        assert score(free("one", "two", metric=metric), "two") == 1 and score(free("one", metric=metric), "two") == 0
    assert score(free("one", "The big two", metric="f1"), "two") == pytest.approx(2 / 3)
    assert free("one", "two", "one").right_answers == ("one", "two")


@pytest.mark.parametrize("metric", ["exact_match", "exact_match_normalized", "f1", "bleu", "chrf"])
def test_an_accent_is_one_character_or_two(metric):
    two, one = "un cafe\u0301 noir s'il vous plai\u0302t", "un caf\u00e9 noir s'il vous pla\u00eet"
    assert score(free(two, metric=metric), one) == score(free(one, metric=metric), two) == 1
    options = ("caf\u00e9", "th\u00e9")
    assert score(Example("i", "t", "test", "p", "caf\u00e9", options), "cafe\u0301") == 1
    same = find_problem(Example("i", "t", "test", "p", "caf\u00e9", ("caf\u00e9", "cafe\u0301")))
    assert same and "two or more different texts" in same[1]


TEXTS = st.lists(st.sampled_from("the cat sat on a mat , big red house .".split()), min_size=1, max_size=9).map(
    " ".join
)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_sentence_scores_against_several_references_are_sacrebleus(prediction, references):
    for metric, own in (("bleu", BLEU(effective_order=True)), ("chrf", CHRF())):
        expected = min(own.sentence_score(prediction, list(dict.fromkeys(references))).score / 100, 1)
        assert score(free(references[0], *references[1:], metric=metric), prediction) == pytest.approx(expected)


def test_chinese_needs_its_tokenizer():
    target, prediction = "很抱歉，您点的餐可能会晚到一会。", "很抱歉，您点的餐可能会晚一点到。"
    plain, cut = (score(free(target, metric="bleu", tokenize=t), prediction) for t in ("", "zh"))
    assert cut == pytest.approx(
        BLEU(effective_order=True, tokenize="zh").sentence_score(prediction, [target]).score / 100
    )
    assert plain < 0.1 < 0.5 < cut


def test_tokenizers_are_sacrebleus():
    assert set(TOKENIZERS) <= set(BLEU.TOKENIZERS)


@pytest.mark.parametrize(
    ("example", "field", "message"),
    [
        (free("a", metric="bleu", tokenize="chinese"), "tokenize", "unknown tokenize 'chinese'; known: 13a"),
        (free("a", tokenize="zh"), "tokenize", "tokenize 'zh' with metric 'exact_match'; it is BLEU's"),
        (free("a", "", metric="bleu"), "references", "references: one of them must not be empty"),
        (free("a", 3), "references", "references: one of them must be text, not 3"),
        (free("a", "x\ud800"), "references", "half a surrogate pair"),
        (free("The", metric="f1"), "target", "nothing is left of 'The' for metric 'f1', .* use exact_match"),
        (free("one", "?!", metric="exact_match_normalized"), "references", "nothing is left of '\\?!'"),
        (
            Example("i", "t", "test", "p", "a", ("a", "b"), references=("c",)),
            "references",
            "references 'c' is not one of the options",
        ),
        (Example("i", "t", "test", "p", "a", ("a", "b"), tokenize="zh"), "tokenize", "with options; leave it out"),
        (Example("i", "t", "test", "p", "a", metric="f1", references=["b"]), "references", "must be a tuple of texts"),
    ],
)
def test_what_does_not_fit_is_refused(example, field, message):
    found = find_problem(example)
    assert found and found[0] == field
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[1])


def suite_of(**fields):
    return Suite(
        "s", tuple(free("a", split=s, item_id=s, prompt=s, **fields) for s in ("train", "calibration", "test"))
    )


def test_the_fingerprint_is_as_it_was_where_nothing_new_is_used():
    """What studies recorded, before there were references and tokenizers."""
    record = json.loads((ROOT / "papermill_runs/studies/edge/study.json").read_text())
    for cell, name in (("superglue-high", "mini-superglue"), ("wmt-high", "mini-wmt")):
        config = record["cells"][cell]["config"]
        suite = load_suite(name, options=config["suite_options"])
        assert suite.fingerprint == record["cells"][cell]["data"]
    fields = ({}, {"tokenize": "zh"}, {"references": ("b",)}, {"references": ("c",)})
    prints = {suite_of(metric="bleu", **given).fingerprint for given in fields}
    assert len(prints) == 4


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_task_has_one_tokenizer_and_it_must_be_there(monkeypatch, kind):
    with pytest.raises(ValueError, match="tokenize 'zh', but task 't' began with ''; a task has one"):
        Suite("s", tuple(free("a", split=s, item_id=s, metric="bleu", tokenize="zh" * (s == "test")) for s in SPLITS))

    def missing(*_):
        raise kind("Please install:\n pip install sacrebleu[ja]")

    monkeypatch.setattr(scoring, "_sentence_metric", missing)
    with pytest.raises(
        ValueError, match="tokenize 'ja-mecab' cannot be used here .*install what it asks for"
    ) as caught:
        suite_of(metric="bleu", tokenize="ja-mecab")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "warned"),
    [(text, True) for text in ("很抱歉", "すみません", "미안합니다", "\u3402", "\uf900")] + [("Grüße", False)],
)
def test_a_script_without_words_meets_13a(text, warned):
    for fields, expected in (
        ({}, warned), ({"tokenize": "13a"}, warned), ({"tokenize": "char"}, False), ({"metric": "chrf"}, False),
        ({"metric": "exact_match"}, False), ({"references": ("a", text)}, warned),
    ):  # fmt: skip
        given = {"metric": "bleu"} | fields
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            target = "a" if "references" in fields else text
            Suite("s", tuple(free(target, split=s, item_id=s, prompt=s, **given) for s in SPLITS))
        found = [str(w.message) for w in caught if "tokenize: zh" in str(w.message)]
        assert len(found) == expected and all("task 't'" in line for line in found)
