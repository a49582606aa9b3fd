"""Recorded cells task by task and by every metric show the numbers of the metrics, and say what was not learnt."""

from dataclasses import replace

from cat_book.pages import tasks_report
from small_metrics import interval, metrics

from cat_core.analysis.metrics import read_metrics
from cat_core.analysis.quantities import Undefined, plain
from cat_core.studies.study import load_study


def test_tasks_are_shown_with_their_floor_and_in_their_own_metric():
    whole = metrics(tasks=("trec", "news"), metric="bleu")
    known = {"n": 5, "small_alone": interval(0.5), "large_alone": interval(0.8), "answers": (0.5, 0.1, 0.2, 0.2)}
    trec, news = (replace(task, **known) for task in whole.tasks.values())
    trec = replace(trec, majority=Undefined("free text has no majority class"))
    whole = replace(whole, tasks={"trec": trec, "news": replace(news, metric="accuracy", majority=0.625)})
    found = tasks_report.tasks_table([metrics(), whole])
    trec, news = found.rows
    assert trec[:2] == ["mini-low: trec, BLEU, n\u00a0=\u00a05", "–"]
    assert news[:2] == ["mini-low: news, Accuracy, n\u00a0=\u00a05", "62.5"]
    assert trec[2].startswith("0.5") and news[2].startswith("50.0") and news[4].startswith("20")
    assert trec[5].startswith("+5.00") and "accuracy" not in found.note


def test_a_task_is_shown_by_what_it_reports_besides():
    whole = metrics(tasks=("cb",))
    more = {"n": 5, "small_alone": interval(0.4), "large_alone": interval(0.7)}
    macro = replace(whole.tasks["cb"], **more, metric="macro_f1", differences={"cat-dist - dist": interval(0.03)})
    cb = replace(whole.tasks["cb"], **more, answers=(0.5, 0.1, 0.2, 0.2), majority=0.5, further={"macro_f1": macro})
    again = read_metrics(plain(replace(whole, tasks={"cb": cb})))  # through the file
    own, further = tasks_report.tasks_table([again]).rows
    assert own[0].startswith("mini-low: cb, Accuracy") and further[0].startswith("mini-low: cb, Macro-F1")
    assert further[1] == further[4] == "–" and further[2].startswith("40.0") and further[5].startswith("+3.00")


def test_tasks_whose_majority_class_was_not_left_are_named():
    whole, tasks = metrics(tasks=("trec", "news", "cola", "copa", "free")), {}
    for task, (small, large, most) in {
        "trec": (0.6, 0.8, 0.3), "news": (0.3, 0.8, 0.3), "cola": (0.705, 0.7, 0.7), "copa": (0.5, 0.6, 0.01),
        "free": (0.5, 0.8, None),
    }.items():  # fmt: skip
        alone = {"small_alone": interval(small), "large_alone": interval(large)}
        tasks[task] = replace(whole.tasks[task], **alone, majority=most or Undefined("free text"))
    assert tasks_report.majority_text([metrics(), replace(whole, tasks=tasks)]) == (
        "mini-low: S is better than always giving the most frequent answer on 1 of 3 tasks, L on 2; neither of them on "
        "cola (left out, as no answer is frequent: copa)."
    )
    assert tasks_report.majority_text([metrics()]) == "no recorded cell has several tasks with options."


def test_cells_where_l_is_no_better_are_named():
    better, equal, unknown = metrics("a"), metrics("b"), metrics("c")
    better, equal = (
        replace(m, methods=m.methods | {"xent": replace(m.methods["xent"], headroom=interval(middle))})
        for m, middle in ((better, 0.05), (equal, 0.005))
    )
    text = tasks_report.headroom_text([better, equal, unknown])
    assert text.startswith("L alone less S alone (by Xent), points: a +5.00") and "b +0.50" in text
    assert "In b, c L is not shown to be better" in text
    assert tasks_report.headroom_text([better]).endswith("In all of them L is better.")
    assert tasks_report.headroom_text([]).endswith("nothing is recorded yet.")


def test_translations_are_shown_by_both_metrics_with_signatures():
    cell = load_study("reference").cell("mini-wmt-high")
    found = tasks_report.corpus_table([load_study("reference").cell("mini-superglue-high"), cell])
    assert [row[1] for row in found.rows] == ["BLEU", "chrF"]
    assert found.note.count("nrefs:1") == 2 == found.note.count("|version:")
    kept = cell.metrics().other_metrics["chrf"].difference("cat-dist", "dist")
    assert found.rows[1][4].startswith(f"{kept.estimate:+.2f}".replace("-", "−"))
