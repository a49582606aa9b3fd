"""Several right answers and BLEU's tokenizer, from the table to the curve; sacrebleu's corpus score is the oracle."""

import json

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import BLEU, CHRF
from small_tables import rows_of

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.corpus import CorpusRun, joined_signature, sentence_counts
from cat_core.analysis.outcomes import OutcomeError, drop_text, paired, read_outcomes, validate, write_outcomes

CHARACTERS = "很抱歉您点的餐可能会晚到一会宋订单了我们今天，。"
COUNTS_OF = {"one": (1,), "two": (2,), "any": (1, 2, 3)}


def texts_of(n, rng, counts):
    """(answers of S, of L, right answers) in Chinese, each item with some of `counts` right answers."""

    def text(length):
        return "".join(rng.choice(list(CHARACTERS), size=length))

    def spoil(given, share):
        return "".join(c if rng.random() > share else str(rng.choice(list(CHARACTERS))) for c in given)

    right = [tuple(dict.fromkeys(text(rng.integers(5, 12)) for _ in range(rng.choice(counts)))) for _ in range(n)]
    small, large = ([spoil(answers[-1], share) for answers in right] for share in (0.5, 0.2))
    return small, large, right


def streams_of(right):
    """The right answers as sacrebleu takes them: one list for each place, None where an item has no more."""
    return [[answers[k] if k < len(answers) else None for answers in right] for k in range(max(map(len, right)))]


def oracle(metric, small, large, confidence, right, deferred):
    """sacrebleu's corpus score of the mixed output when the `deferred` least confident go to L."""
    to_large = set(np.argsort(confidence, kind="stable")[:deferred])
    mixed = [large[i] if i in to_large else small[i] for i in range(len(small))]
    return metric.corpus_score(mixed, streams_of(right)).score


@pytest.mark.parametrize("counts", COUNTS_OF)
@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_curve_with_several_references_is_sacrebleus_at_every_rate(metric, counts):
    rng = np.random.default_rng(0)
    small, large, right = texts_of(20, rng, COUNTS_OF[counts])
    confidence = rng.permutation(20) * 1.0
    options = {"tokenize": "zh"} if metric == "bleu" else {}
    own = BLEU(tokenize="zh") if metric == "bleu" else CHRF()
    run = CorpusRun(small, large, right, confidence, metric, **options)
    expected = [oracle(own, small, large, confidence, right, k) for k in range(21)]
    assert run.curve().quality.tolist() == expected and expected[0] < expected[-1]
    assert run.signature == str(own.get_signature())
    assert {"one": "nrefs:1", "two": "nrefs:2", "any": "nrefs:var"}[counts] in run.signature
    assert ("tok:zh" in run.signature) == (metric == "bleu")


def test_accents_of_two_characters_count_as_one():
    for metric in (BLEU(), CHRF()):
        two, one = ("un cafe\u0301 noir", "un caf\u00e9 noir")
        assert (sentence_counts(metric, [two], [one]) == sentence_counts(metric, [one], [[two]])).all()


def table(n=24, counts=(1, 2, 3), tokenize="zh", metric="bleu", task="t", seed=0):
    rng, frames = np.random.default_rng(seed), []
    for split in ("calibration", "test"):
        small, large, right = texts_of(n, rng, counts)
        for method, answers, confidence in (("large", large, None), ("xent", small, rng.permutation(n))):
            frame = rows_of(method, 0, split, np.zeros(n), confidence, task=task, metric=metric, predictions=answers,
                            targets=[answers[0] for answers in right])  # fmt: skip
            more = [json.dumps(answers[1:], ensure_ascii=False) if answers[1:] else None for answers in right]
            frames.append(frame.assign(references=pd.Series(more, dtype=object), tokenize=tokenize))
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("counts", COUNTS_OF)
@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_table_without_texts_gives_the_same_scores(tmp_path, metric, counts):
    frame = read_outcomes(write_outcomes(tmp_path / "whole.parquet", table(counts=COUNTS_OF[counts])))
    bare = read_outcomes(write_outcomes(tmp_path / "bare.parquet", drop_text(frame), compactly=True))
    assert "references" not in bare and bare["target"].isna().all()
    pair = paired(frame, "xent", 0, "test")
    own = BLEU(tokenize="zh") if metric == "bleu" else CHRF()
    texts = (pair.small_predictions, pair.large_predictions)
    expected = oracle(own, *texts, pair.confidence, pair.right_answers, 12)
    curves = [Comparison(f, metric=metric).seed_curve("xent", 0) for f in (frame, bare)]
    for curve in curves:
        assert curve.quality[12] == expected and curve.signature == str(own.get_signature())
    assert np.array_equal(*(curve.quality for curve in curves))


def test_tasks_with_other_tokenizers_have_no_bleu_in_common():
    mixed = pd.concat([table(), table(tokenize=None, task="u", seed=1)], ignore_index=True)
    for frame in (mixed, drop_text(mixed)):
        with pytest.raises(OutcomeError, match="choose one task") as caught:
            Comparison(frame).seed_curve("xent", 0)
        assert "\n" not in str(caught.value)
        for task, tokenizer in (("t", "tok:zh"), ("u", "tok:13a")):
            assert tokenizer in Comparison(frame, task=task).seed_curve("xent", 0).signature
        assert Comparison(frame).by_further(["bleu", "chrf"])[0].metric == "chrf"


def test_tasks_with_other_tokenizers_have_chrf_in_common():
    mixed = pd.concat([table(metric="chrf"), table(tokenize=None, task="u", seed=1, metric="chrf")], ignore_index=True)
    pair = paired(mixed, "xent", 0, "test")
    texts = (pair.small_predictions, pair.large_predictions)
    expected = oracle(CHRF(), *texts, pair.confidence, pair.right_answers, len(pair))
    for frame in (mixed, drop_text(mixed)):
        c = Comparison(frame)
        assert c.metric == "chrf" and c.seed_curve("xent", 0).quality[-1] == expected
        assert c.by_further(["bleu", "chrf"]) == []  # of BLEU there is none in common
        assert [other.metric for other in c.of_task("t").by_further(["bleu"])] == ["bleu"]


def test_tasks_with_other_numbers_of_references_are_counted_alike():
    mixed = pd.concat([table(counts=(2,)), table(counts=(1,), task="u", seed=1)], ignore_index=True)
    whole, bare = (Comparison(frame).seed_curve("xent", 0) for frame in (mixed, drop_text(mixed)))
    assert whole.signature == bare.signature and "nrefs:var" in whole.signature
    assert np.array_equal(whole.quality, bare.quality)
    one, two = "nrefs:1|tok:13a|version:2", "nrefs:2|tok:13a|version:2"
    assert joined_signature([one, two]) == joined_signature([two, one]) == "nrefs:var|tok:13a|version:2"
    with pytest.raises(ValueError, match="counted as .*tok:13a.* and as .*tok:zh"):
        joined_signature([one, two.replace("13a", "zh")])


@pytest.mark.parametrize("cell", ["[1]", '"a"', "[", ""])
def test_references_are_a_list_of_texts(cell):
    frame = table()
    frame.loc[3, "references"] = cell
    with pytest.raises(OutcomeError, match="references is no list of texts in 1 of 96 rows"):
        validate(frame)


def test_fame_and_what_is_held_out_are_columns(tmp_path):
    frame = table().assign(fame=[None, 0.5] * 48, held_out=["fact", None, "wording"] * 32)
    read = read_outcomes(write_outcomes(tmp_path / "t.parquet", frame, compactly=True))
    assert read["fame"].sum() == 24 and set(read["held_out"].dropna()) == {"fact", "wording"}
    assert drop_text(read)["held_out"].equals(read["held_out"])  # they are no texts
    with pytest.raises(OutcomeError, match=r"fame is outside \[0, 1\] in 1 of 96 rows"):
        validate(frame.assign(fame=[1.5, *[0.5] * 95]))


def test_shares_of_several_kinds_have_a_mean_and_a_name():
    rng = np.random.default_rng(0)
    frames = [
        rows_of(
            method, 0, split, rng.random(12), None if method == "large" else rng.random(12), task=metric, metric=metric
        )
        for metric in ("accuracy", "f1", "exact_match_normalized")
        for split in ("calibration", "test")
        for method in ("large", "xent")
    ]
    c = Comparison(pd.concat(frames, ignore_index=True))
    assert (c.metric, c.label, c.scale) == ("quality", "Mean quality", 100.0)
    assert (c.of_task("f1").label, c.of_task("f1").metric) == ("Token F1", "f1")
    assert Comparison(pd.concat([*frames[:4], *frames[8:]], ignore_index=True)).metric == "accuracy"
