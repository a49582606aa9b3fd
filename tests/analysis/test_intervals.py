"""What metrics keep of a bootstrap is shown as what was drawn; what they do not keep is drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cat_book.pages import suite_report
from cat_book.pages.results import Provenance
from small_tables import table, text_table

from cat_core.analysis import claims, limits, operating_points, resampling
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.metrics import CellMetrics, read_metrics, suite_metrics
from cat_core.analysis.publish import publish
from cat_core.analysis.resampling import paired_bootstrap
from cat_core.ranking import Interval
from cat_core.studies import cell_metrics

DEAL = {0: 3, 1: 7, 2: 3}
SETTING = Provenance("test", "CPU", 1, "abc", {})
SHOWN = {
    "alone": suite_report.alone_table,
    "areas": lambda c: suite_report.areas_table(suite_metrics(c, (), 0.3)),
    "budgets": suite_report.budgets_table,
    "differences": suite_report.differences_table,
    "threshold": lambda c: suite_report.threshold_table(c, 0.3),
    "figure": lambda c: suite_report.difference_figure(c, SETTING, "Figure 1"),
    "easy and hard": lambda c: claims.alone_claims(c),
    "metrics": lambda c: suite_metrics(c, claims.cascade_claims(c, "C1"), 0.3),
}


def pair(folder, frame, **options):
    """The comparison, and the same one reading what was kept of it through a file."""
    drawn = Comparison(frame, resamples=40, **options)
    tasks = [drawn.of_task(task) for task in drawn.tasks] if len(drawn.tasks) > 1 else []
    content = CellMetrics(
        **vars(suite_metrics(drawn, claims.cascade_claims(drawn, "C1"), 0.3)) | {"tasks": {}},
        study="s", cell="c", commit="abc", device="CPU", resamples=40, over_coin=cell_metrics.coins(drawn),
        bootstraps=(
            *(drawn.intervals(rule).to_keep(bands=rule == drawn.rules[0]) for rule in drawn.rules),
            *(part.intervals().to_keep() for part in tasks),
        ),
    )  # fmt: skip
    path = publish(folder, "cell", None, content)["metrics"]
    kept = read_metrics(json.loads(path.read_text())["metrics"])
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

    for module in (resampling, operating_points):
        monkeypatch.setattr(module, "draw_blocks", draw)


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_kept_is_shown_as_it_was_drawn(both, what, no_draws):
    shown, _, kept = both
    assert plain(SHOWN[what](kept)) == shown[what]


def test_the_coin_is_read_at_its_rates(both, no_draws):
    _, drawn, kept = both
    found = limits.over_coin(kept, "cat-dist", np.array([cell_metrics.BUDGET]))
    couple = limits.couple_of(drawn, "cat-dist")
    once = np.interp(0.3, drawn.curve("cat-dist").deferral_rate, drawn.curve("cat-dist").quality)
    assert found.estimate[0] == pytest.approx(once - float(couple.coin(0.3)), abs=1e-5)
    assert found.low[0] <= found.estimate[0] <= found.high[0]
    assert len(limits.over_coin(kept, "dist", limits.coin_rates(limits.couple_of(kept, "dist"))).low) == 41
    with pytest.raises(AssertionError, match="drawn anew"):
        limits.over_coin(kept, "dist", np.array([0.123]))


def test_what_is_not_kept_is_drawn(both, no_draws):
    _, _, kept = both
    other = kept.with_metric("chrf") if kept.is_corpus else cell_metrics.of_tasks(kept, ["u"])
    for ask in (
        lambda: other.audc("dist", "chow_sum"),
        lambda: operating_points.calibrated(kept, "dist", 0.4),
        lambda: operating_points.iso_quality(kept, "dist", "chow_quantile_0"),
        lambda: (
            kept.with_metric("chrf").audc("dist") if kept.is_corpus else operating_points.iso_quality(other, "dist")
        ),
    ):
        with pytest.raises(AssertionError, match="drawn anew"):
            ask()
    older = replace(kept, kept=replace(kept.kept, bootstraps=()))  # metrics from before bootstraps were kept
    assert older.recorded is None
    with pytest.raises(AssertionError, match="drawn anew"):
        older.audc("dist")


def test_a_method_that_was_not_kept_is_drawn(tmp_path):
    frame = table(n=20)
    _, kept = pair(tmp_path, frame, methods=("xent", "dist"))
    more = Comparison(frame, methods=("xent", "dist", "cat-dist"), resamples=40, kept=kept.kept)
    assert more.audc("cat-dist") == Comparison(frame, resamples=40).audc("cat-dist")


def test_intervals_are_those_of_the_bootstrap():
    c = Comparison(table(seeds=(0, 1)), resamples=40)
    runs = {m: [c.run(m, seed) for seed in c.seeds] for m in c.methods}
    boot, found = paired_bootstrap(runs, pairs=c.pairs, resamples=40), c.intervals()
    assert (found.n_items, found.n_seeds, found.n_groups, found.tasks) == (c.n, 2, 1, c.tasks)
    for a, b in c.pairs:
        assert found.difference[f"{a} - {b}"] == boot.difference[a, b] == c.difference(a, b)
        band, kept = boot.difference_curve[a, b], found.to_keep(bands=True).bands[f"{a} - {b}"]
        assert found.difference_ends[f"{a} - {b}"][1] == Interval(band.estimate[-1], band.low[-1], band.high[-1])
        np.testing.assert_allclose(kept.low, band.low, rtol=1e-5)
        assert kept.low.tolist() == [float(f"{x:.6g}") for x in band.low]
    assert found.to_keep().bands == {}
