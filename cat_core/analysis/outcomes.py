"""The outcome table: one row per item, model, method and seed; every figure is drawn from it alone.

A Parquet file (zstd) with the columns of `SCHEMA` in that order, followed by those of `MORE` and `COUNTS` that there
are and any further confidence_* columns. Rows of the large model have method "large". Quality is a number in [0, 1]:
0/1 for accuracy and exact match, a share for F1, sacrebleu's sentence-level score / 100 for bleu and chrf
(corpus-level scores come from the texts, or from the counts of each sentence where texts may not be passed on, see
`corpus`). Token counts and FLOPs are measured. Files are written whole or not at all, and checked on the way out as on
the way in. Tables that are committed are written compactly (`compact`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cat_core.analysis.checksums import check_parquet, seal_parquet
from cat_core.analysis.corpus import METRICS, counted_rows, joined_signature, right_answers, tokenizers, with_counts
from cat_core.analysis.quantities import significant
from cat_core.curves import deferral_curve
from cat_core.files import whole_file
from cat_core.ranking import DeferralCurve
from cat_core.tasks.schema import brief

SPLITS = ("train", "calibration", "test")
MODELS = ("small", "large")
KEY = ["suite", "task", "split", "item_id", "method", "seed", "model"]
TEXT = ["prediction", "target"]  # may be null: the texts of some data must not be passed on
COST = "flops"  # may be null in all rows of a model whose costs are unknown

_STRING, _INTEGER, _FLOAT = pa.string(), pa.int64(), pa.float64()
_TYPES = {
    "edition": _STRING, "suite": _STRING, "task": _STRING, "metric": _STRING, "split": _STRING, "item_id": _STRING,
    "cluster_id": _STRING, "method": _STRING, "seed": _INTEGER, "model": _STRING, "quality": _FLOAT,
    "prediction": _STRING, "target": _STRING, "n_prompt": _INTEGER, "n_generated": _INTEGER, "truncated": pa.bool_(),
    "flops": _INTEGER,
}  # fmt: skip
_CONFIDENCES = ("chow_sum", "chow_average", "chow_quantile_0", "option_probability", "option_margin")

COUNTS = {f"{metric}_{what}": kind for metric in METRICS
          for what, kind in (("counts", pa.binary()), ("signature", _STRING))}  # fmt: skip
"""Optional columns: the sentence counts of `corpus.with_counts` and sacrebleu's signature; null in other rows."""

CHOSEN = ("option", "right_option")
_TEXTS = ("references", "tokenize", "also", "group_id", "held_out")
MORE = dict.fromkeys(_TEXTS, _STRING) | dict.fromkeys((*CHOSEN, "prompt_flops"), _INTEGER) | {"fame": _FLOAT}
"""Optional columns: further right answers beside the target, a JSON list; BLEU's tokenizer where it is not 13a; metrics
that the task reports beside its own, with blanks between; what they need (`further`): the question that an item is one
answer of, the numbers of the chosen and of the right option (-1: none); what of an item training has not seen
(`example.HELD_OUT`); fame, in [0, 1]; FLOPs of S's reading of the prompt (0: none). Null: not said."""
QUALITY = "quality_"  # begins the columns of quality by a further metric that a single answer has

SCHEMA = pa.schema([*_TYPES.items(), *((f"confidence_{rule}", _FLOAT) for rule in _CONFIDENCES)])
"""Columns and types. Null: confidence_* where a rule is undefined for a row, flops where costs are unknown."""


class OutcomeError(ValueError):
    """The table does not hold what it must; the message is one line that says what to do."""


# ---------------------------------------------------------------- reading and writing


def write_outcomes(path, table, *, compactly: bool = False) -> Path:
    """Check `table` and write it to `path` as Parquet; returns the path.

    table: a pandas DataFrame, a pyarrow Table or a list of row dicts, with the columns of SCHEMA in any order
    (and those of COUNTS and further confidence_* columns if wanted). compactly: write `compact(table)`, in the
    encodings that were measured to be smallest. The file appears under its name only once it is complete. Raises
    OutcomeError as `validate`.
    """
    frame = _frame(table)
    frame = compact(frame) if compactly else validate(frame, source="the table to write")
    schema, options = _stored(frame, compactly)
    arrow = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    path = Path(path)
    with whole_file(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd", **options)
        seal_parquet(temporary)
    return path


def _stored(frame: pd.DataFrame, compactly: bool) -> tuple[pa.Schema, dict]:
    """The types that `frame` is stored in, and options for Parquet.

    Floats and counts are split into streams of their bytes (exponents and high bytes hardly change from row to row);
    everything else takes few values and goes into a dictionary.
    """
    schema, fields = _schema(frame.columns), []
    for name, kind in zip(schema.names, schema.types):
        if compactly and name.startswith("confidence_"):
            kind = pa.float32()
        elif pa.types.is_binary(kind) and frame[name].notna().any():
            kind = pa.binary(len(frame[name].dropna().iloc[0]))
        fields.append((name, kind))
    split = [name for name, kind in fields if kind == pa.float32() or pa.types.is_fixed_size_binary(kind)]
    options = {
        "use_dictionary": [name for name, _ in fields if name not in split],
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        "compression_level": 19,
    }
    return pa.schema(fields), options if compactly else {}


def read_outcomes(path) -> pd.DataFrame:
    """The table at `path` as a checked DataFrame, columns as in SCHEMA, undefined confidences as NaN.

    Raises FileNotFoundError, or OutcomeError for a file that is not whole Parquet, or not as it was written
    (`checksums`), and as `validate`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no outcome table at {path}: run the edition that writes it, or correct the path")
    try:
        check_parquet(content := path.read_bytes())
    except ValueError as error:
        raise OutcomeError(f"{path}: {error}: restore it, or write it again") from None
    try:
        arrow = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise OutcomeError(f"{path} is not a complete Parquet file: delete it and write it again") from error
    return validate(arrow, source=str(path))


def drop_text(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy without predictions and targets (null), for data whose texts may not be redistributed.

    Rows scored by a corpus metric get their sentence counts first (`corpus.with_counts`), where all their texts are
    there, so that their curves can still be drawn.
    """
    counted = counted_rows(frame)
    if counted.any() and not frame.loc[counted, TEXT].isna().any().any():
        frame = with_counts(frame)
    nothing = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    return frame.drop(columns="references", errors="ignore").assign(prediction=nothing, target=nothing)


def compact(table, bits: int = 10) -> pd.DataFrame:
    """The checked `table` with what a committed file stores: fewer digits, and rows in an order that compresses well.

    Confidences keep `bits` significant binary digits (2..24), rounded to nearest: a relative change of at most
    2 ** -bits. Rounding never swaps two items; it can tie them, and a curve is a straight line inside a tied group.
    Quality of corpus metrics, which no curve reads, keeps as many, rounded down (so it reaches 0.5 or 1 only where it
    did). All other quality is exact. Rows are sorted by suite, task, split and item, each in order of appearance, and
    stay in their order within an item. Compute the numbers to publish from this table, not from the one before: then
    they can be computed again from the file. Doing it twice changes nothing.
    """
    if not 2 <= bits <= 24:
        raise ValueError(f"bits is {bits}, expected 2 to 24 significant binary digits")
    frame = validate(_frame(table), source="the table to write")
    confidences = [name for name in frame.columns if name.startswith("confidence_")]
    frame = frame.assign(**{name: significant(frame[name].to_numpy(), bits) for name in confidences})
    quality = frame["quality"].to_numpy()
    rounded = np.where(frame["metric"].isin(METRICS), significant(quality, bits, np.floor), quality)
    keys = [pd.factorize(frame[name])[0] for name in ("item_id", "split", "task", "suite")]
    return frame.assign(quality=rounded).iloc[np.lexsort(keys)].reset_index(drop=True)


# ---------------------------------------------------------------- checking


def validate(table, source: str = "the outcome table") -> pd.DataFrame:
    """`table` (DataFrame or pyarrow Table) as a DataFrame in SCHEMA's order, or a one-line OutcomeError.

    Refused: an empty table; missing, unknown or wrongly typed columns; null where only texts, confidences and the FLOPs
    of all rows of a model may be; sentence counts without signature, or of several lengths; quality that is not in
    [0, 1]; negative counts; unknown splits and models; method "large" on a small model or the other way round; the same
    (suite, task, split, item_id, method, seed, model) twice; an item in two splits.
    """
    frame = _to_pandas(table) if isinstance(table, pa.Table) else table

    def require(fine, problem, advice):
        if not fine:
            raise OutcomeError(f"{source}: {problem}: {advice}")

    names = [str(name) for name in frame.columns]
    missing = [name for name in SCHEMA.names if name not in names]
    known = {*SCHEMA.names, *MORE, *COUNTS}
    extra = [name for name in names if name not in known and not name.startswith(("confidence_", QUALITY))]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = {"missing": missing, "unknown": extra, "repeated": twice}
    problems = [f"{what} columns {', '.join(columns)}" for what, columns in problems.items() if columns]
    require(not problems, "; ".join(problems), "give the columns of cat_core.analysis.outcomes.SCHEMA")
    require(len(frame), "no rows", "a table needs at least one")

    schema = _schema(names)
    kinds = zip(schema.names, schema.types)
    wrong = [f"{name} (expected {kind})" for name, kind in kinds if not _has_type(frame[name], kind, name)]
    require(not wrong, f"wrongly typed columns {', '.join(wrong)}", "convert them before writing")
    frame = frame[schema.names].reset_index(drop=True)
    frame[COST] = _costs(frame[COST])
    for name in (name for name in schema.names if name in COUNTS and name.endswith("_counts")):
        partner = name.replace("_counts", "_signature")
        complete = partner in names and (frame[name].isna() == frame[partner].isna()).all()
        require(complete, f"{name} and {partner} are not there in the same rows", "write both or neither")
        lengths = sorted({len(cell) for cell in frame[name].dropna()})
        require(len(lengths) < 2, f"{name} has cells of {lengths} bytes", "count all texts with the same settings")
    confidences = [name for name in schema.names if name.startswith("confidence_")]
    further = [name for name in schema.names if name.startswith(QUALITY)]
    frame = frame.astype(dict.fromkeys([*confidences, *further, "quality"], "float64"))

    for bad, problem, advice in _faults(frame, confidences):
        if bad.any():
            first = brief(frame["item_id"][bad.argmax()])
            require(False, f"{problem} in {int(bad.sum())} of {len(frame)} rows (first: item {first})", advice)

    bad = frame.duplicated(KEY)
    if bad.any():
        row = frame.loc[bad.argmax()]
        key = ", ".join(f"{name}={str(row[name])[:60]}" for name in KEY)
        require(False, f"{int(bad.sum())} rows repeat an earlier one, first ({key})", "keep one row each")
    splits = frame[["suite", "item_id", "split"]].drop_duplicates()
    bad = splits.duplicated(["suite", "item_id"])
    if bad.any():
        row = splits[bad].iloc[0]
        same = (splits["suite"] == row.suite) & (splits["item_id"] == row.item_id)
        both = sorted(splits.loc[same, "split"])
        where = f"{brief(row.item_id)} of suite {brief(row.suite)} in {' and '.join(both)}"
        require(False, f"{int(bad.sum())} items are in two splits, first {where}", "splits must not share items")
    return frame


def _faults(frame: pd.DataFrame, confidences: Sequence[str]) -> Iterator[tuple[pd.Series, str, str]]:
    """What a row may not hold: in which rows it does, what is wrong with these, and what to do."""
    unknown = frame[COST].isna()
    some = unknown & frame["model"].isin(frame["model"][~unknown].unique())
    yield some, f"{COST} is null or NaN for a model that has them elsewhere", "measure all rows of a model, or none"
    for name in _TYPES:
        if name not in (*TEXT, COST):
            yield frame[name].isna(), f"{name} is null or NaN", "every row needs it"
    for name in ("suite", "task", "split", "item_id", "method", "model"):
        yield frame[name] == "", f"{name} is empty", "every row needs it"
    for name in (name for name in frame if name == "quality" or name.startswith(QUALITY)):
        outside = ~frame[name].between(0, 1) & (frame[name].notna() | (name == "quality"))
        yield outside, f"{name} is outside [0, 1]", "divide percentages by 100"
    for name in ("n_prompt", "n_generated", COST):
        yield (frame[name] < 0).fillna(False).astype(bool), f"{name} is negative", "counts start at 0"
    for name in confidences:
        yield frame[name] == -np.inf, f"{name} is -inf", "write null where undefined"
    for name, allowed in (("split", SPLITS), ("model", MODELS)):
        bad = ~frame[name].isin(allowed)
        yield bad, f"{name} is {brief(frame[name][bad.argmax()])}", f"expected one of {', '.join(allowed)}"
    if "references" in frame:
        bad = frame["references"].map(lambda cell: isinstance(cell, str) and not _is_list_of_texts(cell)).astype(bool)
        yield bad, "references is no list of texts", 'write JSON such as ["one", "two"], or null'
    if "fame" in frame:
        yield frame["fame"].notna() & ~frame["fame"].between(0, 1), "fame is outside [0, 1]", "write null where unknown"
    bad = (frame["method"] == "large") != (frame["model"] == "large")
    only = "rows of the large model, and only they, have method 'large'"
    yield bad, "method and model disagree about the large model", only


def _is_list_of_texts(cell: str) -> bool:
    try:
        texts = json.loads(cell)
    except ValueError:
        return False
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)


def _frame(table):
    """`table` as a DataFrame or pyarrow Table; a list of dicts keeps rows that lack a field as null."""
    if isinstance(table, pd.DataFrame | pa.Table):
        return table
    if isinstance(table, list | tuple) and all(isinstance(row, dict) for row in table):
        frame = pd.DataFrame(list(table))
        if COST in frame:  # beside a null, pandas would make floats of integers, and lose digits
            frame[COST] = pd.Series([row.get(COST) for row in table], dtype=object)
        return frame
    raise TypeError(f"table must be a DataFrame, a pyarrow Table or a list of dicts, got {type(table).__name__}")


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table with FLOPs as whole numbers, also where some are null."""
    frame = table.to_pandas()
    if COST in frame and pa.types.is_integer(table.schema.field(COST).type) and table[COST].null_count:
        frame[COST] = pd.array(table[COST].to_pylist(), dtype="Int64")
    return frame


def _costs(column: pd.Series) -> pd.Series:
    """FLOPs as int64, or as pandas' integers with gaps where some are unknown."""
    return column.astype("Int64" if column.isna().any() else "int64")


def _schema(names) -> pa.Schema:
    """SCHEMA, and of `names` the columns of MORE and COUNTS, the quality_* and further confidence_* ones, sorted."""
    optional = [(name, kind) for name, kind in (MORE | COUNTS).items() if name in set(names)]
    optional += [(name, _FLOAT) for name in sorted(names) if name.startswith(QUALITY)]
    more = sorted(name for name in names if name.startswith("confidence_") and name not in SCHEMA.names)
    return pa.schema([*SCHEMA, *optional, *(pa.field(name, pa.float64()) for name in more)])


def _has_type(column: pd.Series, kind: pa.DataType, name: str) -> bool:
    """Whether `column` holds `kind`; nulls are let through here, and are looked for by name afterwards."""
    if pa.types.is_boolean(kind):
        return pd.api.types.is_bool_dtype(column)
    if name == COST and (column.dtype == object or column.isna().all()):
        return all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in column.dropna())
    if pa.types.is_integer(kind):
        return pd.api.types.is_integer_dtype(column)
    if pa.types.is_floating(kind):
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        return numeric or (name.startswith(("confidence_", QUALITY)) and bool(column.isna().all()))
    expected = bytes if pa.types.is_binary(kind) else str
    if isinstance(column.dtype, pd.StringDtype):  # holds nothing else; a look at every value would take seconds
        return expected is str
    return all(isinstance(value, expected) for value in column.dropna())


# ---------------------------------------------------------------- pairing S with L


@dataclass(frozen=True)
class Pairing:
    """The answers of S (one method and seed) and of L to the same items; arrays [n], sorted by item_id.

    quality in [0, 1], flops per item (all NaN where a model's costs are unknown), confidence of S (high = keep). split,
    method, seed, rule: where they come from. right_answers: the target and the further references of each item, as
    tuples; tokenizers: of BLEU, of all items. counts, signatures: for each corpus metric whose sentence counts all rows
    have, the cells of `corpus.with_counts` [n] and sacrebleu's signature of them. more: the options chosen ("small",
    "large"), the "right" one, and the question ("group"), as far as the table has them.
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
    right_answers: list[tuple[str, ...]] | None = field(default=None, repr=False)
    tokenizers: list[str] = field(default_factory=lambda: [""], repr=False)
    small_counts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    large_counts: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    signatures: dict[str, str] = field(default_factory=dict, repr=False)
    more: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def targets(self) -> np.ndarray:
        """[n] the target of each item."""
        return np.array([answers[0] for answers in self.right_answers], dtype=object)

    def curve(self) -> DeferralCurve:
        """Mean quality at all deferral rates."""
        return deferral_curve(self.small_quality, self.large_quality, self.confidence)

    def gain_confidence(self) -> np.ndarray:
        """[n] the oracle as a confidence: low where L gains most over S."""
        return self.small_quality - self.large_quality


def paired(
    frame: pd.DataFrame, method: str, seed: int, split: str, confidence: str = "chow_average", *,
    suite: str | None = None, task: str | None = None, large_seed: int | None = None,
) -> Pairing:  # fmt: skip
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
        columns = (str(name) for name in frame.columns if str(name).startswith("confidence_"))
        known = ", ".join(name.removeprefix("confidence_") for name in columns)
        raise OutcomeError(f"confidence {confidence!r} is not in the table: expected one of {known}")
    if suite is not None:
        frame = _only(frame, "suite", suite)
    elif len(suites := sorted(frame["suite"].unique())) > 1:
        raise OutcomeError(f"the table holds the suites {', '.join(suites)}: give suite")
    frame = frame[[name for name in frame.columns if name == column or not name.startswith("confidence_")]]
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
    return join(small, large, method, seed, split, confidence)


def join(small, large, method: str, seed: int, split: str, confidence: str) -> Pairing:
    """The rows of one small model and of one large model in a split as `paired` gives them; errors as there."""
    column = f"confidence_{confidence}"
    for rows, model in ((small, "small"), (large, "large")):
        if rows["item_id"].duplicated().any():
            item = rows["item_id"][rows["item_id"].duplicated()].iloc[0]
            raise OutcomeError(f"item {item!r} has several rows of the {model} model: select one task or edition first")
    small = small.sort_values("item_id", kind="stable")
    where = pd.Index(large["item_id"]).get_indexer(small["item_id"])
    lacking = where < 0
    if lacking.any():
        raise OutcomeError(
            f"the large model lacks {int(lacking.sum())} of {len(small)} {split} items that {method!r} (seed {seed}) "
            f"answered, first {small['item_id'][lacking].iloc[0]!r}: run it on them"
        )
    large = large.iloc[where]
    score = small[column].to_numpy(dtype=np.float64)
    if np.isnan(score).any():
        problem = f"{column} is undefined for {int(np.isnan(score).sum())} of {len(small)} rows of {method!r}"
        raise OutcomeError(f"{problem}: choose another confidence or one task")
    ids, clusters = (small[name].to_numpy(dtype=object) for name in ("item_id", "cluster_id"))
    quality, texts = (
        [rows[name].to_numpy(kind) for rows in (small, large)]
        for name, kind in (("quality", np.float64), ("prediction", object))
    )
    costs = [rows[COST] for rows in (small, large)]
    flops = [np.full(len(c), np.nan) if c.isna().any() else c.to_numpy(np.int64) for c in costs]
    ids_or_clusters = np.where(clusters == "", ids, clusters)
    columns = zip(("small", "large", "right", "group"), (small, large, small, small), (CHOSEN[0], *CHOSEN, "group_id"))
    more = {name: rows[column].to_numpy() for name, rows, column in columns if column in rows}
    return Pairing(
        ids, ids_or_clusters, *quality, score, *flops, split, method, int(seed), confidence, *texts,
        right_answers(small), tokenizers(small), **_counted(small, large), more=more,
    )  # fmt: skip


def _counted(small, large) -> dict[str, dict]:
    """The sentence counts of the rows by metric, where every row has them and all were made with one setting."""
    counts = {"small_counts": {}, "large_counts": {}, "signatures": {}}
    for metric in METRICS if len(tokenizers(small)) < 2 else ("chrf",):  # which has no tokenizer
        column, signature = f"{metric}_counts", f"{metric}_signature"
        if column not in small or small[column].isna().any() or large[column].isna().any():
            continue
        try:
            counts["signatures"][metric] = joined_signature((*small[signature].unique(), *large[signature].unique()))
        except ValueError as error:
            raise OutcomeError(f"{metric} was {error}") from None
        counts["small_counts"][metric] = small[column].to_numpy(dtype=object)
        counts["large_counts"][metric] = large[column].to_numpy(dtype=object)
    return counts


def _only(frame, name, value):
    """The rows whose column `name` is `value`, or an error that lists what there is."""
    rows = frame[frame[name] == value]
    if not len(rows):
        there = ", ".join(map(str, sorted(frame[name].unique()))) or "nothing"
        raise OutcomeError(f"no rows with {name} {value!r}: the table holds {there}")
    return rows
