"""Metrics that a task reports beside its own: what an outcome table holds of them, and the table scored by one.

A metric of a single answer has a column quality_<metric>; one of classes is made of the numbers of the chosen and the
right option, one of questions of group_id, so that none of them needs texts (`outcomes.MORE`). BLEU and chrF take texts
or sentence counts, as for a task of their own (`corpus.with_counts`).
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from cat_core.analysis.outcomes import CHOSEN, QUALITY, OutcomeError
from cat_core.tasks.example import Example
from cat_core.tasks.scoring import CLASSES, CORPUS, GROUPS, SHARES

AGAIN = "write the table again"


def further_columns(example: Example, prediction: str) -> dict:
    """The columns that the further metrics of an example need, of one answer to it (see `outcomes.MORE`)."""
    places = [example.options.index(text) if text in example.options else -1 for text in (prediction, example.target)]
    named = {f"{QUALITY}{name}": example.quality(prediction, name) for name in example.also if name in SHARES}
    about = {"also": " ".join(example.also) or None, "group_id": example.group_id or None}
    return about | dict(zip(CHOSEN, places)) | named


def further_of(frame: pd.DataFrame) -> tuple[str, ...]:
    """The metrics that every row reports beside its own."""
    cells = frame["also"].unique() if "also" in frame else ()
    named = [cell.split() if isinstance(cell, str) else [] for cell in cells]
    return tuple(name for name in named[0] if all(name in names for names in named)) if named else ()


def by_metric(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`frame` scored by a further metric of all its rows: its quality in the place of their own, if an answer has one.

    Raises OutcomeError where some rows do not have the metric, or not what it needs.
    """

    def lacking(*columns) -> bool:
        return any(name not in frame or frame[name].isna().any() for name in columns)

    further, tasks = further_of(frame), frame["task"].unique()
    if metric not in further:
        known = ", ".join(further) or "none"
        raise OutcomeError(f"metric {metric!r} is not among the further ones of these rows ({known}): name it in also")
    if metric in SHARES:
        if lacking(column := f"{QUALITY}{metric}"):
            raise OutcomeError(f"metric {metric!r} needs the column {column} in every row: {AGAIN}")
        return frame.assign(quality=frame[column], metric=metric)
    if metric not in CORPUS and len(tasks) > 1:
        raise OutcomeError(f"metric {metric!r} is one number of one task: choose one of {', '.join(tasks)}")
    if metric in CLASSES and (lacking(*CHOSEN) or (frame["right_option"] < 0).any()):
        raise OutcomeError(f"metric {metric!r} needs the columns {' and '.join(CHOSEN)} in every row: {AGAIN}")
    if metric in GROUPS and lacking("group_id"):
        raise OutcomeError(f"metric {metric!r} needs the column group_id in every row: {AGAIN}")
    return frame


def check_tokenizers(metric: str, names: list[str]) -> None:
    if metric == "bleu" and len(names) > 1:  # chrF has none
        raise OutcomeError("the tasks have different tokenizers, so no BLEU in common: choose one task")


def common_metric(metrics: Iterable[str], tokenize: Iterable[str]) -> str:
    """The metric of rows with these: shares mix with each other, corpus metrics and BLEU's tokenizers with nothing."""
    metrics = sorted(set(metrics))
    if len(metrics) == 1:
        check_tokenizers(metrics[0], sorted(set(tokenize)))
        return metrics[0]
    if set(metrics) <= {"accuracy", "exact_match", "exact_match_normalized"}:
        return "accuracy"
    if set(metrics) <= set(SHARES):
        return "quality"
    raise OutcomeError(f"the rows have the metrics {', '.join(metrics)}, which have no common mean: choose one task")


def has_texts(frame: pd.DataFrame) -> bool:
    return not frame[["prediction", "target"]].isna().any().any()


def has_counts(frame: pd.DataFrame, metric: str) -> bool:
    return f"{metric}_counts" in frame and not frame[f"{metric}_counts"].isna().any()
