"""Each guard is raised by a small table, or a log, that cannot speak, and by no sound one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_tables import rows_of, table, text_table

from cat_core.analysis import guards
from cat_core.analysis.claims import NOT_TESTABLE, claim_row
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.guards import Guard
from cat_core.analysis.metrics import TaskMetrics, suite_metrics
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import NOT_THERE, Undefined
from cat_core.analysis.verdicts import read_entries, verdict_of
from cat_core.ranking import Interval
from cat_core.tasks.example import Example
from cat_core.tasks.suite import Suite


def log(losses, kept=None):
    return [{"step": i, "loss": float(x), "keep_rate": k} for i, (x, k) in enumerate(zip(losses, kept or [1.0] * 99))]


def answered(small, large, targets, methods=("dist", "cat-dist"), **more):
    """A comparison in which S answers `small` and L `large` where `targets` are right, on both splits."""
    parts = []
    for split in ("calibration", "test"):
        for method, given in (("large", large), *((m, small) for m in methods)):
            right = np.array(given) == np.array(targets)
            confidence = None if method == "large" else np.linspace(-1, 0, len(targets))
            texts = {"predictions": list(given), "targets": list(targets)}
            parts.append(rows_of(method, 0, split, right, confidence, **texts, **more))
    return Comparison(pd.concat(parts, ignore_index=True), resamples=200)


def alternating(n, wrong=0):
    """n targets that are yes and no in turn, and answers of which the first `wrong` are wrong."""
    targets = ["yes", "no"] * (n // 2)
    return targets, [{"yes": "no", "no": "yes"}[t] if i < wrong else t for i, t in enumerate(targets)]


def flipped(targets, *places):
    return [{"yes": "no", "no": "yes"}[t] if i in places else t for i, t in enumerate(targets)]


def names(raised):
    return [g.name for g in raised]


def test_a_sound_run_raises_nothing():
    targets, small = alternating(200, 40)
    c = answered(small, alternating(200, 5)[1], targets)
    logs = {("dist", 0): log([3, 2, 1]), ("cat-dist", 0): log([3, 2, 1])}
    assert names(guards.guards(c, logs)) == ["intervals of width 0"], "two methods with the same answers"
    other = c.frame.copy()
    mine = (other["method"] == "cat-dist").to_numpy()
    other.loc[mine, "prediction"] = alternating(200, 30)[1] * 2
    other.loc[mine, "quality"] = (other.loc[mine, "prediction"] == other.loc[mine, "target"]).astype(float)
    assert guards.guards(replace(c, frame=other), logs) == ()


def test_a_loss_that_does_not_fall():
    assert guards.loss_rises({("xent", 0): log([11, 12, 14, 16])}).forbids
    raised = guards.loss_rises({("xent", 0): log([2, 1]), ("dist", 3): log([11, 9, 16])})
    assert raised.text.startswith("The training loss did not fall: Dist seed 3 (11 to 16). ")
    assert guards.loss_rises({("xent", 0): log([2, 2])}) and guards.loss_rises({("xent", 0): log([2, float("nan")])})
    assert guards.loss_rises({("xent", 0): log([2, 3, 1])}) is None and guards.loss_rises({}) is None
    assert guards.loss_rises({("xent", 0): log([2])}) is None, "one entry has no direction"
    noisy = [5.0] * 10 + [9.0] + [4.0] * 9
    assert guards.loss_rises({("xent", 0): log(noisy)}) is None, "ends are means of a tenth"


def test_a_masked_loss_may_rise_with_its_keep_rate():
    grows = log([1.0, 1.1, 1.2], [0.2, 0.5, 0.9])  # 5.0, 2.2, 1.33 for a kept token
    assert guards.loss_rises({("cat-dist", 0): grows}) is None
    assert guards.loss_rises({("cat-dist", 0): grows}, normalize="kept").forbids, "that one is by kept token already"
    assert guards.loss_rises({("dist", 0): grows}).forbids, "without a mask all tokens are kept"
    assert guards.loss_rises({("cat-dist", 0): log([1.0, 3.0], [0.5, 0.9])}).forbids
    assert guards.loss_rises({("cat-dist", 0): log([0.0, 0.1], [0.0, 0.9])}).forbids
    for method, right, raised in (("cat-dist", 0.7, False), ("cat-dist", 0.5, True), ("dist", 0.7, True)):
        rows = log([1.0, 3.0], [0.5, 0.9])  # as the mask lets hard tokens in; S learns, or it does not
        for row, share in zip(rows, (0.5, right)):
            row |= {"both": share - 0.1, "only_small": 0.1}
        assert bool(guards.loss_rises({(method, 0): rows})) == raised


def test_a_second_stage_begins_at_the_end_of_the_first():
    assert guards.loss_rises({("gatekeeper", 0): log([1.0, 1.04])}) is None
    assert guards.loss_rises({("gatekeeper", 0): log([1.0, 1.06])}).forbids


def test_a_healed_s_may_scatter_but_not_rise():
    draw = np.random.default_rng(0)
    flat = (1.9 + 0.2 * draw.normal(size=20)).tolist()
    flat[:2], flat[-2:] = [1.7, 1.8], [2.1, 2.1]  # the ends by chance
    assert guards.loss_rises({("xent", 0): log(flat)}).forbids, "from scratch it has learnt nothing"
    assert guards.loss_rises({("xent", 0): log(flat)}, begun=True) is None
    rising = [x + 0.05 * i for i, x in enumerate(flat)]
    assert guards.loss_rises({("xent", 0): log(rising)}, begun=True).forbids
    broken = [*flat[:-1], float("nan")]
    assert guards.loss_rises({("xent", 0): log(broken)}, begun=True).forbids


def test_one_answer_for_everything():
    targets, large = alternating(200, 5)
    raised = guards.one_answer(answered(["yes"] * 200, large, targets))
    assert raised.forbids and "S by Dist ('yes' to 200 of 200)" in raised.text and " L " not in raised.text
    assert "L ('no' to 200 of 200)" in guards.one_answer(answered(alternating(200, 40)[1], ["no"] * 200, targets)).text
    assert guards.one_answer(answered(["yes"] * 199 + ["no"], large, targets)), "nearly is enough"
    assert guards.one_answer(answered(["yes"] * 190 + ["no"] * 10, large, targets)) is None
    assert guards.one_answer(answered(["yes"] * 200, ["yes"] * 200, ["yes"] * 199 + ["no"])) is None, "so are targets"
    c = answered(["yes"] * 200, large, targets)
    frame = c.frame.assign(prediction=None, target=None)
    assert guards.one_answer(replace(c, frame=frame)) is None, "texts were not kept"


def test_one_answer_in_one_of_two_tasks_is_no_such_guard():
    targets, large = alternating(100, 5)
    frames = [answered(small, large, targets, task=task).frame
              for task, small in (("a", ["yes"] * 100), ("b", alternating(100, 20)[1]))]  # fmt: skip
    assert guards.one_answer(Comparison(pd.concat(frames, ignore_index=True), resamples=50)) is None


def test_not_above_the_best_constant_answer():
    targets = ["yes"] * 140 + ["no"] * 60  # a constant answer is right on 70 %
    below = ["yes", "no"] * 100
    raised = guards.not_learnt(answered(below, targets, targets), {})
    assert raised.forbids and raised.text.startswith("Not shown to be above 70.0, what one constant answer")
    assert "S by Dist 50.0 [" in raised.text and "L 100.0" not in raised.text
    assert guards.not_learnt(answered(targets, below, targets), {}).forbids, "L is none either"
    assert guards.not_learnt(answered(targets, targets, targets), {}) is None


def test_a_single_method_below_the_constant_answer_is_said_and_no_more():
    targets, good = alternating(200, 20)
    c = answered(good, targets, targets)
    frame = c.frame.copy()
    mine = (frame["method"] == "dist").to_numpy()
    frame.loc[mine, "quality"] = 0.0
    raised = guards.not_learnt(replace(c, frame=frame), {})
    assert not raised.forbids and "S by Dist 0.0" in raised.text and "CAT-Dist" not in raised.text


def test_guessing_counts_where_options_differ_from_row_to_row():
    targets = [f"answer {i}" for i in range(120)]
    small = [t if i % 2 else "?" for i, t in enumerate(targets)]  # right on half
    c = answered(small, targets, targets)
    assert guards.constant_quality(c, {}) == pytest.approx(1 / 120) and guards.not_learnt(c, {}) is None
    assert guards.not_learnt(c, {"t": 0.5}).forbids
    examples = [Example(f"{s}-{i}", "t", s, f"{s} {i}", "ab"[i % 2], ("a", "b", "c", "d")[: 2 + i % 2 * 2])
                for s in ("train", "calibration", "test") for i in range(4)]  # fmt: skip
    assert guards.blind(Suite("s", tuple(examples))) == {"t": pytest.approx((1 / 2 + 1 / 4) / 2)}


def test_what_recorded_metrics_know_of_targets_that_were_not_kept():
    c = Comparison(table(seeds=(0,)), resamples=50)
    bare = replace(c, frame=c.frame.assign(prediction=None, target=None))
    assert isinstance(guards.constant_quality(bare, {}), Undefined) and guards.not_learnt(bare, {}) is None

    class Kept:
        tasks = {"t": TaskMetrics(60, "accuracy", majority=0.55)}
        bootstraps = ()

    assert guards.constant_quality(replace(bare, kept=Kept), {}) == pytest.approx(0.55)
    Kept.tasks = {"t": TaskMetrics(60, "accuracy", majority=NOT_THERE)}
    assert isinstance(guards.constant_quality(replace(bare, kept=Kept), {}), Undefined)
    assert guards.constant_quality(Comparison(text_table(), resamples=20), {}) == 0.0


def test_the_large_model_no_better_than_the_small_one():
    targets, good = alternating(200, 10)
    worse = alternating(200, 60)[1]
    raised = guards.no_headroom(answered(good, worse, targets))
    assert raised.forbids and "L less S is −25.00 [" in raised.text
    assert guards.no_headroom(answered(worse, good, targets)) is None
    slight = guards.no_headroom(answered(flipped(targets, 3, 7, 9, 11), flipped(targets, 0, 50, 100), targets))
    assert not slight.forbids and "L less S is +0.50 [" in slight.text, "4 wrong against 3"


@pytest.mark.parametrize(
    ("n", "there", "forbids"), [(100, False, False), (98, True, False), (30, True, False), (28, True, True)]
)
def test_few_items(n, there, forbids):
    targets, small = alternating(n, n // 5)
    raised = guards.few_items(answered(small, targets, targets))
    assert (raised is not None) is there and (raised is not None and raised.forbids) is forbids
    assert raised is None or raised.text.startswith(f"There are {n} test items")


def test_intervals_without_width():
    raised = guards.no_width(answered(["yes"] * 4, ["yes"] * 4, ["yes"] * 4))
    assert raised.forbids and "on 4 test items" in raised.text
    assert "S by Dist" in raised.text and "CAT-Dist less Dist" in raised.text
    single = guards.no_width(answered(["yes"] * 4, ["yes"] * 4, ["yes"] * 4, methods=("dist",)))
    assert not single.forbids, "there is no difference to judge"


def test_empty_and_cut_answers_are_counted():
    targets, small = alternating(200, 20)
    c = answered([" " if i < 11 else t for i, t in enumerate(small)], targets, targets)
    frame = c.frame.copy()
    large = ((frame["model"] == "large") & (frame["split"] == "test")).to_numpy()
    frame.loc[np.flatnonzero(large)[:12], "truncated"] = True
    c = replace(c, frame=frame)
    assert guards.answers(c) == [
        ("S by Dist", 200, {"empty": 11, "truncated": 0}), ("S by CAT-Dist", 200, {"empty": 11, "truncated": 0}),
        ("L", 200, {"empty": 0, "truncated": 12}),
    ]  # fmt: skip
    empty, cut = guards.spoilt(c, "empty answers", "empty"), guards.spoilt(c, "cut answers", "truncated")
    assert empty.text.startswith("Empty answers: 11 of 200 by S by Dist, 11 of 200 by S by CAT-Dist;")
    assert cut.text == "Cut answers: 12 of 200 by L; raise max_new_tokens." and not cut.forbids
    frame.loc[large, "truncated"] = False
    assert guards.spoilt(replace(c, frame=frame), "cut answers", "truncated") is None
    bare = replace(c, frame=frame.assign(prediction=None))
    assert guards.answers(bare)[0][2]["empty"] is None and guards.spoilt(bare, "empty answers", "empty") is None


def test_a_guard_that_forbids_takes_the_verdict_and_the_voice(tmp_path):
    c = Comparison(table(), resamples=30)
    row = claim_row(c, "C1", "AUDC", Interval(0.1, 0.05, 0.2))
    without = claim_row(c, "C1", "AUDC", Undefined("this run has no dist"))
    care, loss = Guard("few test items", "There are 90."), Guard("the loss rises", "It rose.", True)
    assert guards.silenced([row], [care]) == [row] and row.verdict == "supported"
    silent, untested = guards.silenced([row, without], [care, loss])
    assert silent.verdict == "no verdict: the loss rises" and not silent.heard and row.heard
    assert silent.sentence.endswith("; no verdict: the loss rises.") and untested.verdict == NOT_TESTABLE
    found = publish(tmp_path, "04_superglue", None, suite_metrics(c, [silent], 0.3, guards=(loss, care)))
    assert '"guards": [\n   {\n    "name": "the loss rises"' in found["metrics"].read_text()
    (entry,) = read_entries(tmp_path / "metrics")
    assert (entry.verdict, entry.heard) == (silent.verdict, False)
    assert verdict_of("C1", [entry]).reason == "the loss rises"
    assert '"guards"' not in publish(tmp_path, "p", None, suite_metrics(c, [row], 0.3))["metrics"].read_text()
