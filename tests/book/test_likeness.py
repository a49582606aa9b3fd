"""Built-in suites among real sets: the rows are the recorded numbers, and the nearest set is the nearest."""

import itertools
import json

import numpy as np
import pytest
from cat_book.drawing.figures import Shown
from cat_book.pages import likeness
from small_study import STUDY, recorded_cells

from cat_core.analysis.quantities import Undefined
from cat_core.studies.record import experiment_of
from cat_core.tasks.synthetic import MiniSuperGlue, mini_superglue

OWN = """
  own:
    <<: *wmt
    suite: SET
    suite_options: {{}}
    steps: 80
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A built-in suite, and the same kind of data from a file, as a real set would come."""
    folder = tmp_path_factory.mktemp("project")
    path = folder / "set.jsonl"
    examples = mini_superglue(MiniSuperGlue(train=240, calibration=30, test=60, noise=0.5))
    fields = ("task", "metric", "split", "item_id", "prompt", "target", "options")
    rows = [{field: getattr(e, field) for field in fields} for e in examples if e.task == "choice"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        "[xent, cat-dist, gatekeeper]": "[xent]", "seeds: [1, 2, 3]": "seeds: [1, 2]",
        "large_seeds: [1, 2]": "large_seeds: [1]", "  wmt: &wmt": "  mini: &wmt",
        "suite: mini-wmt": "suite: mini-superglue",
        "calibration: 20, test: 30": "calibration: 30, test: 45", "steps: 12": "steps: 40",
        "large_steps: 20": "large_steps: 40",
    }  # fmt: skip
    text = STUDY.split("  other:")[0]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    with recorded_cells(folder, text + OWN.replace("SET", str(path)), resamples=20) as found:
        yield found


def test_rows_are_the_recorded_numbers(cells):
    rows = {row.label: row for row in likeness.suite_rows(cells)}
    assert list(rows) == sorted(rows, key=lambda label: rows[label].neither)
    mini, own = rows["mini"], rows["own"]
    assert mini.built_in and not own.built_in
    frame = cells[1].outcomes()
    test = frame[frame["split"] == "test"]
    for model, got in (("small", own.small), ("large", own.large)):
        assert got == pytest.approx(100 * test.loc[test["model"] == model, "quality"].mean())
    targets = [e.target for e in experiment_of(cells[1]).data.load().split("test")]
    assert own.majority == pytest.approx(100 * max(map(targets.count, targets)) / len(targets))
    assert mini.majority == Undefined("several tasks")
    counts = cells[0].token_ledger("xent")
    assert mini.ledger == pytest.approx(counts.shares) and sum(mini.ledger) == pytest.approx(1)
    logs = cells[0].logs()
    for place in (0, -1):
        expected = np.mean([1 - logs["xent", seed][place]["neither"] for seed in (1, 2)])
        assert mini.kept[place] == pytest.approx(expected)


def setting(label, built_in, *ledger):
    return likeness.SuiteRow(label, built_in, ledger, 50.0, 60.0, Undefined("no options"))


def test_the_nearest_real_set_is_the_one_with_fewest_tokens_to_move():
    ours = setting("ours", True, 0.5, 0.1, 0.1, 0.3)
    others = [
        setting("a", False, 0.7, 0.1, 0.1, 0.1), setting("b", False, 0.4, 0.1, 0.15, 0.35),
        setting("suite", True, 0.5, 0.1, 0.1, 0.3),
    ]  # fmt: skip
    found, far = likeness.nearest(ours, others)
    assert found.label == "b" and far == pytest.approx(0.1) and likeness.distance(ours, others[0]) == pytest.approx(0.2)
    assert likeness.nearest(ours, [others[2]]) == Undefined("no real set is recorded")
    for a, b in itertools.combinations(others, 2):
        assert likeness.distance(a, b) == likeness.distance(b, a) and likeness.distance(a, a) == 0


def test_figure_table_and_sentence_say_the_same(cells, monkeypatch):
    far = likeness.distance(*likeness.suite_rows(cells))
    row = next(r for r in likeness.likeness_table(cells).rows if r[0] == "mini")
    for limit, word in ((0.0, " (far)"), (1.1, "")):
        monkeypatch.setattr(likeness, "FAR", limit)
        row = next(r for r in likeness.likeness_table(cells).rows if r[0] == "mini")
        assert row[-1] == f"own, {100 * far:.0f} %{word}"
        named = "Farther: mini" if word else f"Within {100 * limit:.0f} % of a real set: mini"
        assert f"{named} ({100 * far:.0f} %, own)" in likeness.headline(cells)["likeness_text"]
    shown = likeness.likeness_figure(cells, "Figure 4")
    assert isinstance(shown, Shown) and "mini (built in): both right" in shown._repr_html_()
    metrics = {row["label"]: row for row in likeness.page_metrics(cells)}
    assert metrics["mini"]["distance"] == pytest.approx(far) and "distance" not in metrics["own"]


def test_nothing_recorded_is_said():
    assert "nothing is recorded yet" in str(likeness.likeness_table([])) + str(likeness.likeness_figure([]))
    assert likeness.headline([])["likeness_text"].startswith("No real set is recorded yet")
    assert likeness.page_metrics([]) == []
