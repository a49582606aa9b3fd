"""Cells of a study whose tables are made, not recorded, and the metrics that the pages read of them."""

import json
from dataclasses import dataclass

import numpy as np

from cat_core.analysis import contrasts
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.decomposition import rule_grid
from cat_core.analysis.metrics import CellMetrics, read_metrics, suite_metrics
from cat_core.analysis.publish import publish
from cat_core.studies import cell_claims, cell_metrics
from cat_core.studies.study import Cell

DEAL = {0: 3, 1: 7, 2: 3}
RULES = ("chow_average", "chow_quantile_0", "token_entropy", "post_hoc_quantile", "edge")


@dataclass(frozen=True)
class Made(Cell):
    """A cell whose table is made, not recorded."""

    frame: object = None
    resamples: int = 40

    def comparison(self, **options):
        options = {"resamples": self.resamples} | options
        return Comparison(self.frame, None if "bleu" in self.name else DEAL, **options)

    def metrics(self) -> CellMetrics:
        return read_metrics(json.loads(self.metrics_path.read_text())["metrics"])


def made(folder, name, frame, **more) -> Made:
    """A cell with its metrics written, by the functions that `cell_metrics.cell_metrics` uses; more: of its metrics."""
    rng = np.random.default_rng(3)
    for rule in ("token_entropy", "post_hoc_quantile", "edge"):
        noise = np.round(rng.normal(size=len(frame)), 2)
        small = frame["model"] == "small"
        frame[f"confidence_{rule}"] = np.where(small, frame["confidence_chow_average"] + noise, np.nan)
    cell = Made("made", name, {"methods": []}, folder, True, frame=frame)
    c = cell.comparison()
    learned = [r for r in RULES if r in cell_metrics.LEARNED]
    publish(folder, name, None, CellMetrics(
        **vars(suite_metrics(c, cell_claims.baseline_claims(c, None), 0.3, ("chow_average",))) | {"tasks": {}},
        study="made", cell=name, commit="0123456789ab", device="a machine", resamples=40,
        rule_grid=rule_grid(c, RULES, resamples=40),
        contrasts=contrasts.rule_contrasts(c, ["chow_quantile_0", *learned]),
        factors=contrasts.rule_effects(c, c.methods, RULES), **more,
    ))  # fmt: skip
    return cell
