"""Rows of data: JSON lines of a reader, files of a folder in Hub layout, or the Hub itself.

Whatever a file holds, the error is one ValueError (FileNotFoundError for what is not there) that names file and line.
"""

import dataclasses
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cat_core.files import file_sha256
from cat_core.tasks.draws import carve_calibration, draw_key, draw_splits
from cat_core.tasks.example import Example, file_stem, find_problem
from cat_core.tasks.newstests import newstest_rows
from cat_core.tasks.schema import SchemaError, brief, nearest
from cat_core.tasks.scoring import composed

FIELDS = tuple(field.name for field in dataclasses.fields(Example))
ROW_ENDINGS = (".jsonl.gz", ".jsonl", ".json.gz", ".parquet")
MANIFEST = "mirror.json"
LONGEST_LINE, FREE, MOST_UNPACKED = 2**24, 2**20, 100
FEWEST_CLUSTERS = 10  # below, a tenth for calibration and a tenth for test cannot be drawn


def read_examples(path: str | Path, *, seed: int = 0) -> list[Example]:
    """Examples of a reader's `.jsonl` or `.jsonl.gz` file; the schema is in data/README.md.

    Without splits in the file they are drawn 80/10/10 by cluster; without calibration rows these come out of train.
    Raises ValueError on the first bad row, by file, line and field.
    """
    path = Path(path)
    examples: list[Example] = []
    line_of: dict[str, int] = {}
    for number, where, row in example_rows(path, "prompt", "target"):
        example = _example(row, where, number, file_stem(path))
        if (first := line_of.setdefault(example.item_id, number)) != number:
            raise ValueError(
                f"{where}, field 'item_id': {brief(example.item_id)} is also the item_id of line {first}; "
                "give every row its own"
            )
        examples.append(example)
        has_splits = bool(examples[0].split)
        if has_splits != bool(example.split):
            raise ValueError(
                f"{where}, field 'split': {'missing' if has_splits else 'given'}, but the rows before it "
                f"have {'one' if has_splits else 'none'}; name the split in every row or in none"
            )
    if has_splits:
        return carve_calibration(examples, seed)
    clusters = len({draw_key(e) for e in examples})
    if clusters < FEWEST_CLUSTERS:
        raise ValueError(
            f"{path}: too few rows to draw splits from ({len(examples)} rows, {clusters} different "
            f"clusters or prompts, at least {FEWEST_CLUSTERS}); add rows, or give every row a split"
        )
    return draw_splits(examples, seed)


def _example(row: dict, where: str, number: int, stem: str) -> Example:
    options = row.get("options", [])
    if not isinstance(options, list):
        raise ValueError(
            f'{where}, field \'options\': must be a list of texts such as ["yes", "no"], not {brief(options)}'
        )
    lists = {field: row.get(field, []) for field in ("references", "also")}
    for field, texts in lists.items():
        if not isinstance(texts, list):
            raise ValueError(f"{where}, field {field!r}: must be a list of texts, not {brief(texts)}")
    target, *references = (_as_option(text, options) for text in (row["target"], *lists["references"]))
    metric = "accuracy" if options else "exact_match"
    defaults = {"item_id": f"line-{number:06d}", "task": stem, "split": "train", "metric": metric}
    fields = {"options": tuple(options), "references": tuple(references), "target": target}
    fields["also"] = tuple(lists["also"])
    example = Example(**(defaults | row | fields))
    if problem := find_problem(example):
        raise ValueError(f"{where}, field {problem[0]!r}: {problem[1]}")
    return example if "split" in row else dataclasses.replace(example, split="")


def _as_option(text: object, options: list) -> object:
    """The option of the same letters, an accent being one character or two; the text itself if there is none."""
    if not isinstance(text, str) or text in options:
        return text
    return next((o for o in options if isinstance(o, str) and composed(o) == composed(text)), text)


def example_rows(path: str | Path, *needed: str) -> Iterator[tuple[int, str, dict]]:
    """(line number, "<file>, line <number>", its fields that are not null) of every row of a reader's file.

    Raises ValueError for a field that is not one of FIELDS, a `needed` one that is missing, and a file without rows.
    """
    where = ""
    for number, row in json_lines(Path(path)):
        where = f"{path}, line {number}"
        for field in row:
            if field not in FIELDS:
                raise ValueError(f"{where}, field {brief(field)}: unknown field{nearest(field, FIELDS)}")
        for field in needed:
            if row.get(field) is None:
                raise ValueError(f"{where}, field {field!r}: missing; every row needs a {' and a '.join(needed)}")
        yield number, where, {field: value for field, value in row.items() if value is not None}
    if not where:
        raise ValueError(f"{path}: no rows; it needs one JSON object a line (schema: data/README.md)")


def json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line of a file, gzip or not; blank lines are skipped.

    ValueError for what is not JSON, lines longer than LONGEST_LINE bytes, and gzip that unpacks to more than FREE bytes
    and MOST_UNPACKED times what was read of it.
    """
    number = unpacked = 0
    try:
        with open(path, "rb") as file:
            stream = gzip.open(file) if path.name.endswith(".gz") else file
            while raw := stream.readline(LONGEST_LINE + 1):
                number, unpacked = number + 1, unpacked + len(raw)
                if len(raw) > LONGEST_LINE:
                    raise ValueError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; write one row a line")
                if unpacked > FREE and unpacked > MOST_UNPACKED * file.tell():
                    raise ValueError(
                        f"{path}, line {number}: unpacks to more than {MOST_UNPACKED} times its size, as no text does; "
                        "if it is yours, unpack it"
                    )
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write
                if raw.strip():
                    yield number, _parse(raw, f"{path}, line {number}")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file (looked from {Path.cwd()})") from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: cannot be read on ({error}); fetch or write it again") from None


def _parse(raw: bytes, where: str) -> dict:
    try:
        row = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno}); write one object a line") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply; a row is one flat object") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f'{where}: must be an object such as {{"prompt": "...", "target": "..."}}, got {brief(row)}')
    return row


def _no_constant(name: str):
    raise ValueError(f"{name} is not a JSON value; leave the field out or write null")


def _object(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"field {brief(twice)} is given twice in one object; keep one")
    return row


# Built once: json.loads would build one a line.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the rows of one split are; the fields are arguments of `hub_rows`."""

    hub_id: str
    config: str
    split: str
    revision: str = ""
    loader: str = ""
    first: int | None = None

    def __str__(self):
        config, revision = f" ({self.config})" if self.config else "", f" at {self.revision}" if self.revision else ""
        return f"split {self.split!r} of {self.hub_id}{config}{revision}"


def folder_of(data_root: str | Path) -> str:
    """`data_root`, or else the environment variable CAT_DATA_ROOT; "": the Hub. FileNotFoundError for no folder."""
    root = str(data_root) or os.environ.get("CAT_DATA_ROOT", "")
    if root and not Path(root).is_dir():
        raise FileNotFoundError(f"data_root {root!r} is not a folder; give one in Hub layout (data/README.md)")
    return root


def has_rows(place: Place, root: str | Path) -> bool:
    """Whether a folder in Hub layout holds a split, or parts of it."""
    try:
        return bool(_files_of(Path(root, place.hub_id, place.config), place.split))
    except ValueError:  # parts are missing: reading says which
        return True


def hub_rows(
    hub_id: str,
    config: str,
    split: str,
    revision: str = "",
    loader: str = "",
    first: int | None = None,
    *,
    data_root: str | Path = "",
) -> list[dict]:
    """All rows of one split, from `<data_root>/<hub_id>/<config>/<split>` with the first of ROW_ENDINGS that is there.

    The files may lie in a folder `data` of that folder, and come in parts `<split>-00000-of-00003`, all of them; those
    that `<data_root>/mirror.json` names must have its sha256. `data_root` empty: the environment variable
    CAT_DATA_ROOT; without that, the Hub through `datasets.load_dataset`, which runs no code of the data set, or, with
    loader "sacrebleu", the test set and language pair of that name (`newstests`). first: of so many rows. Labels are
    the Hub's integers, nested features are dictionaries.
    """
    place = Place(hub_id, config, split, revision, loader, first)
    if not (root := folder_of(data_root)):
        return newstest_rows(hub_id.rpartition("/")[2], config) if loader else _from_hub(place)
    folder = Path(root, hub_id, config)
    if files := _files_of(folder, split):
        digests = read_manifest(root)
        for path in files:
            check_digest(path, digests.get(path.relative_to(root).as_posix(), {}))
        return [row for path in files for row in _rows_of(path)][:first]
    there = sorted(p.name for place in (folder, folder / "data") if place.is_dir() for p in place.iterdir())
    raise FileNotFoundError(
        f"{folder / split}: no file with one of the endings {' '.join(ROW_ENDINGS)}, nor parts of one "
        f"({split}-00000-of-00001 and so on), here or in data; "
        + (f"the folder has {', '.join(there)}" if there else "there is no such folder")
        + "; correct data_root (or CAT_DATA_ROOT), or leave it empty to load from the Hub"
    )


def read_manifest(root: str | Path) -> dict[str, dict]:
    """What `mirror.json` in a folder says of its files, by their path in it; nothing where there is none."""
    path = Path(root, MANIFEST)
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if isinstance(files, dict) and all(isinstance(f, dict) and "sha256" in f for f in files.values()):
            return files
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path}: not a manifest of `python -m cat_core.tasks mirror`; remove it, or mirror again")


def check_digest(path: Path, about: dict) -> None:
    """ValueError where a file has not the sha256 that the manifest has of it (`about`, empty: it has none)."""
    if about and (found := file_sha256(path)) != about["sha256"]:
        raise ValueError(f"{path}: its sha256 is {found[:12]}..., in {MANIFEST} {str(about['sha256'])[:12]}...: it "
                         "was changed or cut; mirror it again")  # fmt: skip


def text_rows(path: str | Path, field: str) -> Iterator[dict]:
    """{"text": ...} of every line of a .txt file that is not blank, or of every row of a .jsonl or .jsonl.gz file."""
    path = Path(path)
    if path.name.endswith(".txt"):
        try:
            with open(path, encoding="utf-8-sig") as file:
                yield from ({"text": line} for line in file if line.strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
        except OSError as error:
            raise type(error)(f"{path}: cannot be read ({error.strerror}; looked from {Path.cwd()})") from None
        return
    for number, row in json_lines(path):
        if not isinstance(row.get(field), str):
            raise ValueError(f"{path}, line {number}: no text in field {field!r}{nearest(field, row)}; name the field "
                             "after the file, such as own.jsonl:prompt")  # fmt: skip
        yield {"text": row[field]}


def _files_of(folder: Path, split: str) -> list[Path]:
    """The file of a split, or its parts in order; none where there is nothing. ValueError where parts are missing."""
    for place in (folder, folder / "data"):
        for ending in ROW_ENDINGS:
            if (path := place / (split + ending)).is_file():
                return [path]
            pattern = re.compile(rf"{re.escape(split)}-(\d+)-of-(\d+)(-\w+)?{re.escape(ending)}")
            names = sorted(p.name for p in place.iterdir()) if place.is_dir() else []
            parts = {m[0]: (int(m[1]), int(m[2])) for m in map(pattern.fullmatch, names) if m}
            if not parts:
                continue
            count = max(count for _, count in parts.values())
            if sorted(parts.values()) != [(number, count) for number in range(min(count, len(parts) + 1))]:
                raise ValueError(
                    f"{place}: split {split!r} should have the parts 0 to {count - 1} of one set, each once; "
                    f"there are {brief(', '.join(parts))}: fetch it again into an empty folder"
                )
            return [place / name for name in sorted(parts, key=parts.get)]
    return []


def _rows_of(path: Path) -> list[dict]:
    return _from_parquet(path) if path.suffix == ".parquet" else [row for _, row in json_lines(path)]


def _from_parquet(path: Path) -> list[dict]:
    """SchemaError where a file unpacks to what `json_lines` refuses, told by its footer or while it is read."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    most = max(FREE, MOST_UNPACKED * path.stat().st_size)
    too_much = SchemaError(
        f"{path}: unpacks to more than {MOST_UNPACKED} times its size, as no text does; if it is yours, write JSONL"
    )
    rows: list[dict] = []
    try:
        with ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            columns = [group.column(number) for group in groups for number in range(group.num_columns)]
            if most < max(sum(group.total_byte_size for group in groups), sum(column.num_values for column in columns)):
                raise too_much
            name, count = Counter(file.schema_arrow.names).most_common(1)[0] if columns else ("", 1)
            if count > 1:
                raise SchemaError(f"{path}: column {brief(name)} is given twice; keep one")
            for batch in file.iter_batches(64):  # a value is stored once, however often it occurs
                most -= batch.nbytes
                if most < 0:
                    raise too_much
                rows += batch.to_pylist()
    except SchemaError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({_first_line(error)}); fetch it again") from None
    return rows


def _from_hub(place: Place) -> list[dict]:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"{place}: loading from the Hub needs the package datasets (extra 'book'); install it or give data_root"
        ) from None
    split = f"{place.split}[:{place.first}]" if place.first else place.split
    config, revision = place.config or None, place.revision or None
    try:
        return datasets.load_dataset(place.hub_id, config, split=split, revision=revision).to_list()
    except Exception as error:  # the Hub, the network, the cache and the builders each have errors of their own
        raise FileNotFoundError(
            f"{place} cannot be loaded from the Hub ({type(error).__name__}: {_first_line(error)}); check the network, "
            "or give data_root (or CAT_DATA_ROOT), a folder in Hub layout"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
