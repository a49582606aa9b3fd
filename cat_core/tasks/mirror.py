"""Mirroring: the splits that tasks read, from the Hub, sacrebleu or a folder, into a folder in Hub layout.

Every file is written whole or not at all, and named in `mirror.json` with its rows, revision and sha256; what is there
already with the right checksum is not fetched again.
"""

import gzip
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi

from cat_core.files import file_sha256, whole_file, write_text
from cat_core.tasks.check import checked
from cat_core.tasks.registry import find_task, place_of
from cat_core.tasks.sources import MANIFEST, Place, folder_of, hub_rows, read_manifest


def mirror(names: Iterable[str], folder: str | Path, *, data_root: str | Path = "", say: Callable = print) -> None:
    """Mirror the splits of tasks into `folder`, and check what lies there then. data_root: as in `load_suite`.

    Raises ValueError or FileNotFoundError, in one line, for what cannot be read or does not fit its entry; the same
    call goes on from there.
    """
    names, root, folder = list(names), folder_of(data_root), Path(folder)
    specs = [find_task(name)[1] for name in names]
    if root and folder.resolve() == Path(root).resolve():
        raise ValueError(f"{folder} is the folder that is read from; name another one to mirror to")
    for place in dict.fromkeys(place_of(spec, split) for spec in specs for split in spec.splits):
        path = Path(folder, place.hub_id, place.config, f"{place.split}.jsonl.gz")
        key, files = path.relative_to(folder).as_posix(), read_manifest(folder)
        if key in files and path.is_file() and file_sha256(path) == files[key]["sha256"]:
            say(f"{key}: there already")
            continue
        revision = _revision(place, root)
        rows = hub_rows(**vars(replace(place, revision=place.revision if root or place.loader else revision)),
                        data_root=root)  # fmt: skip
        _write(path, rows)
        about = {"rows": len(rows), "revision": revision, "sha256": file_sha256(path)}
        about |= {"first": place.first} if place.first else {}
        write_text(folder / MANIFEST, json.dumps({"files": {**read_manifest(folder), key: about}}, indent=1) + "\n")
        say(f"{key}: {len(rows):,} rows" + f", revision {revision}" * bool(revision))
    faults = [fault for found in checked(folder, names) for fault in found.faults]
    if faults:
        more = f" (and {len(faults) - 1} more: python -m cat_core.tasks check)" if len(faults) > 1 else ""
        raise ValueError(f"mirrored, but {faults[0]}{more}")


def _revision(place: Place, root: str) -> str:
    """What the rows are a state of: a commit of the Hub, a version of sacrebleu, or what a folder's manifest says."""
    if root:
        files = read_manifest(root)
        return files.get(f"{Path(place.hub_id, place.config, place.split).as_posix()}.jsonl.gz", {}).get("revision", "")
    if place.loader:
        return f"sacrebleu {version('sacrebleu')}"
    try:
        return HfApi().dataset_info(place.hub_id, revision=place.revision or None).sha
    except Exception as error:  # the Hub and the network each have errors of their own
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise FileNotFoundError(
            f"{place}: the Hub does not say which commit that is ({type(error).__name__}: {reason}); check the "
            "network, or give --data-root, a folder in Hub layout to copy from"
        ) from None


def _write(path: Path, rows: list[dict]) -> None:
    # Without name and time in it, so that the same rows have the same checksum.
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as stream:
            for row in rows:
                stream.write(json.dumps(_json_able(row), ensure_ascii=False, default=str).encode() + b"\n")


def _json_able(value: object) -> object:
    """The value with null for what JSON has no number for: NaN, which a table has where nothing is, and infinity."""
    if isinstance(value, dict):
        return {key: _json_able(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_json_able(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
