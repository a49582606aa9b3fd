"""The outcome table: one row per item, model, method and seed; every figure is drawn from it alone.

A Parquet file (zstd) with the columns of `SCHEMA` in that order, followed by any further confidence_*
columns. Rows of the large model have method "large". Quality is a number in [0, 1]: 0/1 for accuracy and
exact match, sacrebleu's sentence-level score / 100 for bleu and chrf (corpus-level scores come from the
texts, see `corpus`). Token counts and FLOPs are measured. Files are written whole or not at all, and checked
on the way out as on the way in.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "calibration", "test")
MODELS = ("small", "large")
KEY = ["suite", "task", "split", "item_id", "method", "seed", "model"]
TEXT = ["prediction", "target"]  # may be null: the texts of some data must not be passed on

_TYPES = {
    "edition": pa.string(),
    "suite": pa.string(),
    "task": pa.string(),
    "metric": pa.string(),
    "split": pa.string(),
    "item_id": pa.string(),
    "cluster_id": pa.string(),
    "method": pa.string(),
    "seed": pa.int64(),
    "model": pa.string(),
    "quality": pa.float64(),
    "prediction": pa.string(),
    "target": pa.string(),
    "n_prompt": pa.int64(),
    "n_generated": pa.int64(),
    "truncated": pa.bool_(),
    "flops": pa.int64(),
}
_CONFIDENCES = ("chow_sum", "chow_average", "chow_quantile_0", "option_probability", "option_margin")

SCHEMA = pa.schema([*_TYPES.items(), *((f"confidence_{rule}", pa.float64()) for rule in _CONFIDENCES)])
"""Columns and types of the table. The confidence_* columns are null where a rule is undefined for a row."""


class OutcomeError(ValueError):
    """The table does not hold what it must; the message is one line that says what to do."""


# ---------------------------------------------------------------- reading and writing


def write_outcomes(path, table) -> Path:
    """Check `table` and write it to `path` as Parquet; returns the path.

    table: a pandas DataFrame, a pyarrow Table or a list of row dicts, with the columns of SCHEMA in any order
    (and further confidence_* columns if wanted). The file appears under its name only once it is complete.
    Raises OutcomeError as `validate`.
    """
    frame = validate(_frame(table), source="the table to write")
    schema = _schema(frame.columns)
    arrow = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_outcomes(path) -> pd.DataFrame:
    """The table at `path` as a checked DataFrame, columns as in SCHEMA, undefined confidences as NaN.

    Raises FileNotFoundError, or OutcomeError for a file that is not whole Parquet and as `validate`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no outcome table at {path}: run the edition that writes it, or correct the path")
    try:
        arrow = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise OutcomeError(f"{path} is not a complete Parquet file: delete it and write it again") from error
    return validate(arrow, source=str(path))


def drop_text(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy without predictions and targets (null), for data whose texts may not be redistributed."""
    nothing = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    return frame.assign(prediction=nothing, target=nothing)


# ---------------------------------------------------------------- checking


def validate(table, source: str = "the outcome table") -> pd.DataFrame:
    """`table` (DataFrame or pyarrow Table) as a DataFrame in SCHEMA's order, or a one-line OutcomeError.

    Refused: an empty table; missing, unknown or wrongly typed columns; null where only texts and confidences
    may be; quality that is not in [0, 1]; negative counts; unknown splits and models; method "large" on a
    small model or the other way round; the same (suite, task, split, item_id, method, seed, model) twice; an
    item in two splits.
    """
    frame = table.to_pandas() if isinstance(table, pa.Table) else table

    def require(fine, problem, advice):
        if not fine:
            raise OutcomeError(f"{source}: {problem}: {advice}")

    names = [str(name) for name in frame.columns]
    missing = [name for name in SCHEMA.names if name not in names]
    extra = [name for name in names if name not in SCHEMA.names and not name.startswith("confidence_")]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [
        f"{what} columns {', '.join(found)}"
        for what, found in (("missing", missing), ("unknown", extra), ("repeated", twice))
        if found
    ]
    require(not problems, "; ".join(problems), "give the columns of cat_core.outcomes.SCHEMA")
    require(len(frame), "no rows", "a table needs at least one")

    schema = _schema(names)
    wrong = [
        f"{name} (expected {kind})"
        for name, kind in zip(schema.names, schema.types)
        if not _has_type(frame[name], kind, name)
    ]
    require(not wrong, f"wrongly typed columns {', '.join(wrong)}", "convert them before writing")
    frame = frame[schema.names].reset_index(drop=True)
    confidences = [name for name in schema.names if name.startswith("confidence_")]
    frame = frame.astype(dict.fromkeys([*confidences, "quality"], "float64"))

    for name in _TYPES:
        if name not in TEXT:
            bad = frame[name].isna()
            require(not bad.any(), f"{name} is null or NaN in {_rows(frame, bad)}", "every row needs it")
    for name in ("suite", "task", "split", "item_id", "method", "model"):
        bad = frame[name] == ""
        require(not bad.any(), f"{name} is empty in {_rows(frame, bad)}", "every row needs it")
    bad = ~frame["quality"].between(0, 1)
    require(not bad.any(), f"quality is outside [0, 1] in {_rows(frame, bad)}", "divide percentages by 100")
    for name in ("n_prompt", "n_generated", "flops"):
        bad = frame[name] < 0
        require(not bad.any(), f"{name} is negative in {_rows(frame, bad)}", "counts start at 0")
    for name in confidences:
        bad = frame[name] == -np.inf
        require(not bad.any(), f"{name} is -inf in {_rows(frame, bad)}", "write null where undefined")
    for name, allowed in (("split", SPLITS), ("model", MODELS)):
        bad = ~frame[name].isin(allowed)
        require(
            not bad.any(),
            f"{name} is {frame[name][bad.argmax()]!r} in {_rows(frame, bad)}",
            f"expected one of {', '.join(allowed)}",
        )
    bad = (frame["method"] == "large") != (frame["model"] == "large")
    require(
        not bad.any(),
        f"method and model disagree about the large model in {_rows(frame, bad)}",
        "rows of the large model, and only they, have method 'large'",
    )

    bad = frame.duplicated(KEY)
    if bad.any():
        row = frame.loc[bad.argmax()]
        key = ", ".join(f"{name}={row[name]}" for name in KEY)
        require(False, f"{int(bad.sum())} rows repeat an earlier one, first ({key})", "keep one row each")
    splits = frame[["suite", "item_id", "split"]].drop_duplicates()
    bad = splits.duplicated(["suite", "item_id"])
    if bad.any():
        row = splits[bad].iloc[0]
        same = (splits["suite"] == row.suite) & (splits["item_id"] == row.item_id)
        both = sorted(splits.loc[same, "split"])
        require(
            False,
            f"{int(bad.sum())} items are in two splits, first {row.item_id!r} of suite "
            f"{row.suite!r} in {' and '.join(both)}",
            "splits must not share items",
        )
    return frame


def _frame(table):
    """`table` as a DataFrame or pyarrow Table; a list of dicts keeps rows that lack a field as null."""
    if isinstance(table, pd.DataFrame | pa.Table):
        return table
    if isinstance(table, list | tuple) and all(isinstance(row, dict) for row in table):
        return pd.DataFrame(list(table))
    raise TypeError(f"table must be a DataFrame, a pyarrow Table or a list of dicts, got {type(table).__name__}")


def _schema(names) -> pa.Schema:
    """SCHEMA followed by the further confidence_* columns among `names`, sorted."""
    more = sorted(name for name in names if name.startswith("confidence_") and name not in SCHEMA.names)
    return pa.schema([*SCHEMA, *(pa.field(name, pa.float64()) for name in more)])


def _has_type(column: pd.Series, kind: pa.DataType, name: str) -> bool:
    """Whether `column` holds `kind`; nulls are let through here, and are looked for by name afterwards."""
    if pa.types.is_boolean(kind):
        return pd.api.types.is_bool_dtype(column)
    if pa.types.is_integer(kind):
        return pd.api.types.is_integer_dtype(column)
    if pa.types.is_floating(kind):
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        return numeric or (name.startswith("confidence_") and bool(column.isna().all()))
    values = column.dropna()
    return all(isinstance(value, str) for value in values)


def _rows(frame, bad) -> str:
    """How many rows are `bad`, and which item is the first."""
    return f"{int(bad.sum())} of {len(frame)} rows (first: item {frame['item_id'][bad.argmax()]!r})"


# ---------------------------------------------------------------- pairing S with L


@dataclass(frozen=True)
class Pairing:
    """The answers of S (one method and seed) and of L to the same items; arrays [n], sorted by item_id.

    quality in [0, 1], flops per item, confidence of S (high = keep). split, method, seed, rule: where they
    come from.
    """

    item_ids: np.ndarray
    cluster_ids: np.ndarray
    small_quality: np.ndarray
    large_quality: np.ndarray
    confidence: np.ndarray
    small_flops: np.ndarray
    large_flops: np.ndarray
    split: str = ""
    method: str = ""
    seed: int | None = None
    rule: str = ""
    small_predictions: np.ndarray | None = field(default=None, repr=False)
    large_predictions: np.ndarray | None = field(default=None, repr=False)
    targets: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.item_ids)


def paired(
    frame: pd.DataFrame,
    method: str,
    seed: int,
    split: str,
    confidence: str = "chow_average",
    *,
    suite: str | None = None,
    task: str | None = None,
    large_seed: int | None = None,
) -> Pairing:
    """The rows of small model (`method`, `seed`) in `split`, each with L's row of the same item.

    confidence: name of the rule, a column confidence_<name> of S's rows. suite, task: keep these rows only;
    suite must be given when the frame holds several. large_seed: which large model, when the frame holds
    several. Large rows without a small one are left out. Raises OutcomeError, naming what the frame holds,
    when nothing fits, when the confidence is undefined for a row, or when L lacks an item that S answered.
    """
    if split not in SPLITS:
        raise OutcomeError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    column = f"confidence_{confidence}"
    if column not in frame.columns:
        known = ", ".join(
            str(name).removeprefix("confidence_") for name in frame.columns if str(name).startswith("confidence_")
        )
        raise OutcomeError(f"confidence {confidence!r} is not in the table: expected one of {known}")
    frame = _one_suite(frame, suite)
    if task is not None:
        frame = _only(frame, "task", task)
    of_method = _only(frame[frame["model"] == "small"], "method", method)
    small = _only(_only(of_method, "seed", seed), "split", split)
    large = frame[(frame["model"] == "large") & (frame["split"] == split)]
    seeds = sorted(large["seed"].unique().tolist())
    if large_seed is not None:
        large = _only(large, "seed", large_seed)
    elif len(seeds) > 1:
        raise OutcomeError(f"the table holds large models of seeds {seeds}: give large_seed")
    for rows, model in ((small, "small"), (large, "large")):
        if rows["item_id"].duplicated().any():
            item = rows["item_id"][rows["item_id"].duplicated()].iloc[0]
            raise OutcomeError(f"item {item!r} has several rows of the {model} model: select one task or edition first")
    small = small.sort_values("item_id", kind="stable")
    lacking = ~small["item_id"].isin(large["item_id"])
    if lacking.any():
        raise OutcomeError(
            f"the large model lacks {int(lacking.sum())} of {len(small)} {split} items that "
            f"{method!r} (seed {seed}) answered, first {small['item_id'][lacking].iloc[0]!r}: "
            "run it on them"
        )
    large = large.set_index("item_id").loc[small["item_id"]]
    score = small[column].to_numpy(dtype=np.float64)
    if np.isnan(score).any():
        raise OutcomeError(
            f"{column} is undefined for {int(np.isnan(score).sum())} of {len(small)} rows of "
            f"{method!r}: choose another confidence or one task"
        )
    ids = small["item_id"].to_numpy(dtype=object)
    clusters = small["cluster_id"].to_numpy(dtype=object)
    return Pairing(
        item_ids=ids,
        cluster_ids=np.where(clusters == "", ids, clusters),
        small_quality=small["quality"].to_numpy(np.float64),
        large_quality=large["quality"].to_numpy(np.float64),
        confidence=score,
        small_flops=small["flops"].to_numpy(np.int64),
        large_flops=large["flops"].to_numpy(np.int64),
        split=split,
        method=method,
        seed=int(seed),
        rule=confidence,
        small_predictions=small["prediction"].to_numpy(dtype=object),
        large_predictions=large["prediction"].to_numpy(dtype=object),
        targets=small["target"].to_numpy(dtype=object),
    )


def _only(frame, name, value):
    """The rows whose column `name` is `value`, or an error that lists what there is."""
    rows = frame[frame[name] == value]
    if not len(rows):
        there = ", ".join(map(str, sorted(frame[name].unique()))) or "nothing"
        raise OutcomeError(f"no rows with {name} {value!r}: the table holds {there}")
    return rows


def _one_suite(frame, suite):
    if suite is not None:
        return _only(frame, "suite", suite)
    suites = sorted(frame["suite"].unique())
    if len(suites) > 1:
        raise OutcomeError(f"the table holds the suites {', '.join(suites)}: give suite")
    return frame
