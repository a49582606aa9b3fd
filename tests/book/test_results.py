"""A run of now and a recorded cell are the same thing to a page."""

from types import SimpleNamespace

import numpy as np
import pytest
from cat_book.pages import training_report
from cat_book.pages.results import Provenance, Results

from cat_core.analysis.comparison import Comparison
from cat_core.analysis.guards import guards
from cat_core.analysis.outcomes import OutcomeError
from cat_core.curves import ledger
from cat_core.training.experiment import Experiment

ORIGIN = Provenance("test", "CPU", 1, "0123456789", {})


def test_token_ledger_sums_over_seeds_with_their_own_large_model():
    right = {
        ("dist", 0): [1, 1, 0, 0],
        ("dist", 1): [0, 0, 0, 1],
        ("L", 5): [1, 0, 1, 0],
        ("L", 6): [1, 1, 1, 1],
    }
    fake = SimpleNamespace(
        seeds=(0, 1), large_seed={0: 5, 1: 6}.get, small_config=lambda m, s: (m, s),
        large_config=lambda s: ("L", s),
        token_signals=lambda key: SimpleNamespace(right=np.array(right[key], bool)),
    )  # fmt: skip
    found = Results(fake, ORIGIN).token_ledger("dist")
    parts = [ledger(np.array(right["dist", s], bool), np.array(right["L", g], bool)) for s, g in ((0, 5), (1, 6))]
    assert (found.both, found.only_small, found.only_large, found.neither) == (2, 1, 4, 1)
    assert found.n == sum(p.n for p in parts)
    shown = training_report.ledger_figure({"t": found}, ORIGIN, "Figure 3: tokens", found.n, (0, 1), "target tokens")
    assert "n = 8 target tokens" in shown.caption and "both right 25%" in shown.alt


def test_data_of_a_recorded_real_cell_are_not_asked_for():
    cell = SimpleNamespace(config={"suite": "trec+sst2", "steps": 30, "batch_size": 8})
    results = Results(SimpleNamespace(), ORIGIN, cell)
    assert results.suite is None and results.n_train == 240


def test_of_a_recorded_cell_the_tasks_that_decide_are_read_and_nothing_is_drawn(monkeypatch):
    results = Results.of({"recorded": "real/translation"}, ORIGIN)
    assert results.suite is None, "its data are not asked for"
    c = results.comparison(results.experiment.methods[:2], 10, decisive=True)
    assert c.tasks == tuple(results.cell.claim_tasks) != results.comparison(c.methods, 10).tasks
    monkeypatch.setattr(Comparison, "bootstrap", lambda *_, **__: pytest.fail("drawn anew"))
    chrf = c.with_metric("chrf")
    recorded = results.cell.metrics()
    assert c.alone("xent") == recorded.methods["xent"].small_alone
    assert chrf.alone("xent") == recorded.other_metrics["chrf"].methods["xent"].small_alone
    assert results.guards(c) == guards(c, results.logs(c.methods))


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("almanac", "the metrics accuracy, chrf, exact_match, exact_match_normalized, which have no common mean"),
        ("mini-wmt+almanac-questions", "the metrics accuracy, bleu, exact_match, .* no common mean: choose one task"),
    ],
)
def test_tasks_that_have_no_metric_in_common_are_refused_before_anything_is_trained(suite, message, monkeypatch):
    pytest.importorskip("babel")
    size = "hidden 8, layers 1, heads 2"
    trained = Experiment(suite=suite, small=size, large=size, steps=1, large_steps=1)
    monkeypatch.setattr(Experiment, "outcomes", lambda *_: pytest.fail("trained"))
    with pytest.raises(OutcomeError, match=message):
        _ = Results(trained, ORIGIN).frame
