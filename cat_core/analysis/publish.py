"""What a page leaves behind: its outcome table and every number of its prose, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cat_core.analysis.checksums import seal_json
from cat_core.analysis.outcomes import drop_text, write_outcomes
from cat_core.analysis.quantities import plain
from cat_core.files import write_text


def publish(output_dir, page: str, outcomes, metrics, *, texts: bool = True) -> dict[str, Path]:
    """Write <output_dir>/outcomes/<page>.parquet and <output_dir>/metrics/<page>.json, each whole or not at all.

    outcomes: the page's outcome table, None if it has none; texts=False leaves predictions and targets out,
    where they may not be passed on. metrics: every number that the page's prose uses: names -> number, text,
    bool, Interval (estimate, low, high), Undefined (value null and the reason), or lists and mappings of
    these; or a schema of `metrics`. None, which is what was not asked for, is left out. Returns the paths by "outcomes"
    and "metrics". NaN and infinity are refused with their name: ValueError; so is a page that is no plain name.
    """
    if not isinstance(page, str) or not page.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"page is {page!r}, expected the notebook's name without ending, such as '04_superglue'")
    given = metrics if isinstance(metrics, Mapping) else vars(metrics)
    content = {"page": page, "metrics": {str(k): plain(v, str(k)) for k, v in given.items() if v is not None}}
    text = json.dumps(seal_json(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    written = {}
    if outcomes is not None:
        table = outcomes if texts else drop_text(outcomes)
        written["outcomes"] = write_outcomes(Path(output_dir) / "outcomes" / f"{page}.parquet", table)
    path = Path(output_dir) / "metrics" / f"{page}.json"
    write_text(path, text)
    return written | {"metrics": path}
