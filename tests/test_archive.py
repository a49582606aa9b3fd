"""What metrics keep of a bootstrap is shown as what was drawn; what they do not keep is drawn."""

import json

import numpy as np
import pytest
from test_comparison import table, text_table

from cat_core import archive, claims, comparison, evidence, limits, report
from cat_core.comparison import Comparison
from cat_core.report import page_metrics
from cat_core.results import publish
from cat_core.training_report import Setting

DEAL = {0: 3, 1: 7, 2: 3}
SETTING = Setting("test", "CPU", 1, "abc", {})
SHOWN = {
    "alone": report.alone_table,
    "areas": report.areas_table,
    "budgets": report.budgets_table,
    "differences": report.differences_table,
    "threshold": lambda c: report.threshold_table(c, 0.3),
    "figure": lambda c: report.difference_figure(c, SETTING, "Figure 1"),
    "easy and hard": lambda c: claims.as_metrics(claims.alone_claims(c)),
    "metrics": lambda c: page_metrics(c, claims.cascade_claims(c, "C1"), 0.3),
}


def pair(folder, frame, **options):
    """The comparison, and the same one reading what was kept of it through a file."""
    drawn = Comparison(frame, resamples=40, **options)
    tasks = [drawn.of_task(task) for task in drawn.tasks] if len(drawn.tasks) > 1 else []
    bootstraps = [archive.as_metrics(drawn, rule, bands=not i) for i, rule in enumerate(drawn.rules)]
    content = page_metrics(drawn, (), 0.3) | {
        "bootstraps": [*bootstraps, *map(archive.as_metrics, tasks)],
        "over_coin": evidence.coins(drawn),
        "other_metrics": {},
        "tasks": {},
    }
    path = publish(folder, "cell", None, content)["metrics"]
    kept = archive.kept(json.loads(path.read_text())["metrics"])
    return drawn, Comparison(frame, resamples=40, kept=kept, **options)


def plain(shown):
    return (shown.rows, shown.note) if hasattr(shown, "rows") else getattr(shown, "alt", shown)


@pytest.fixture(scope="module", params=["accuracy", "bleu"])
def both(request, tmp_path_factory):
    """What is shown of the drawn comparison, that comparison, and the one that reads."""
    if request.param == "bleu":
        frame, options = text_table(), {}
    else:
        frame = table(tasks=("t", "u"), seeds=(0, 1, 2), large_seeds=(3, 7), n=40)
        options = {"large_seed": DEAL}
    drawn, kept = pair(tmp_path_factory.mktemp("kept"), frame, **options)
    return {what: plain(show(drawn)) for what, show in SHOWN.items()}, drawn, kept


@pytest.fixture
def no_draws(monkeypatch):
    def draw(*_, **__):
        raise AssertionError("drawn anew")

    for module in (comparison, limits):
        monkeypatch.setattr(module, "draw_blocks", draw)
    monkeypatch.setattr(comparison, "paired_bootstrap", draw)


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_kept_is_shown_as_it_was_drawn(both, what, no_draws):
    shown, _, kept = both
    assert plain(SHOWN[what](kept)) == shown[what]


def test_the_coin_is_read_at_its_rates(both, no_draws):
    _, drawn, kept = both
    found = limits.over_coin(kept, "cat-dist", np.array([evidence.BUDGET]))
    couple = limits.couple_of(drawn, "cat-dist")
    once = np.interp(0.3, drawn.curve("cat-dist").deferral_rate, drawn.curve("cat-dist").quality)
    assert found.estimate[0] == pytest.approx(once - float(couple.coin(0.3)), abs=1e-5)
    assert found.low[0] <= found.estimate[0] <= found.high[0]
    assert len(limits.over_coin(kept, "dist", limits.coin_rates(limits.couple_of(kept, "dist"))).low) == 41
    with pytest.raises(AssertionError, match="drawn anew"):
        limits.over_coin(kept, "dist", np.array([0.123]))


def test_what_is_not_kept_is_drawn(both, no_draws):
    _, _, kept = both
    other = kept.with_metric("chrf") if kept.is_corpus else evidence.of_tasks(kept, ["u"])
    for ask in (
        lambda: other.audc("dist", "chow_sum"),
        lambda: kept.calibrated("dist", 0.4),
        lambda: kept.iso_quality("dist", "chow_quantile_0"),
        lambda: kept.with_metric("chrf").audc("dist") if kept.is_corpus else other.iso_quality("dist"),
    ):
        with pytest.raises(AssertionError, match="drawn anew"):
            ask()
    assert archive.kept({"methods": {}}) == {}  # metrics from before there was an archive


def test_a_method_that_was_not_kept_is_drawn(tmp_path):
    frame = table(n=20)
    _, kept = pair(tmp_path, frame, methods=("xent", "dist"))
    more = Comparison(frame, methods=("xent", "dist", "cat-dist"), resamples=40, kept=kept.kept)
    assert more.audc("cat-dist") == Comparison(frame, resamples=40).audc("cat-dist")
