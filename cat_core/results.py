"""What a page leaves behind: its outcome table and every number of its prose, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cat_core.outcomes import drop_text, write_outcomes
from cat_core.ranking import Interval
from cat_core.tables import Undefined


def publish(output_dir, page: str, outcomes, metrics: Mapping, *, texts: bool = True) -> dict[str, Path]:
    """Write <output_dir>/outcomes/<page>.parquet and <output_dir>/metrics/<page>.json, each whole or not
    at all.

    outcomes: the page's outcome table, None if it has none; texts=False leaves predictions and targets out,
    where they may not be passed on. metrics: every number that the page's prose uses: names -> number, text,
    bool, Interval (estimate, low, high), Undefined (value null and the reason), or lists and mappings of
    these. Returns the paths by "outcomes" and "metrics". NaN and infinity are refused with their name:
    ValueError; so is a page that is no plain name.
    """
    if not isinstance(page, str) or not page.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"page is {page!r}, expected the notebook's name without ending, such as '04_superglue'")
    content = {"page": page, "metrics": {str(k): _plain(v, str(k)) for k, v in metrics.items()}}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    written = {}
    if outcomes is not None:
        table = outcomes if texts else drop_text(outcomes)
        written["outcomes"] = write_outcomes(Path(output_dir) / "outcomes" / f"{page}.parquet", table)
    path = Path(output_dir) / "metrics" / f"{page}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return written | {"metrics": path}


def _plain(value, name: str):
    """`value` as JSON values; ValueError or TypeError that names what cannot be written."""
    if isinstance(value, Undefined):
        return {"value": None, "reason": value.reason}
    if isinstance(value, Interval):
        parts = {"estimate": value.estimate, "low": value.low, "high": value.high}
        return {part: _plain(number, f"{name}.{part}") for part, number in parts.items()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), name)
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} is {value}: give Undefined(reason) in place of a number that is none")
        return value
    raise TypeError(f"metric {name!r} is a {type(value).__name__}, expected numbers, texts, intervals or Undefined")
