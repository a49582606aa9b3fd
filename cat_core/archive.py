"""What bootstraps of a comparison gave, as metrics keep it: drawn once, when a cell is recorded, and read by the pages.

`as_metrics` writes one bootstrap, `kept` reads all of a cell's metrics into the mapping that `Comparison.kept` looks
things up in. What is not there is drawn anew, so metrics of an older kind make a page slow, not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cat_core.comparison import Comparison, OperatingPoint
from cat_core.ranking import Interval
from cat_core.resampling import Bootstrap, CurveBand
from cat_core.tables import Undefined

_BAND = ("deferral_rate", "estimate", "low", "high")
_POINT = ("deferral_rate", "quality", "gap", "saving")


def as_metrics(c: Comparison, rule: str = "chow_average", *, bands: bool = False) -> dict:
    """`c.bootstrap(rule)` for `results.publish`: areas, both ends of the curves, and the paired differences.

    bands: keep the differences along all deferral rates, with six digits, not only at 0 and 1.
    """
    boot = c.bootstrap(rule)

    return {
        "metric": c.metric, "tasks": c.tasks, "rule": rule, "level": boot.level, "resamples": boot.resamples,
        "n_items": boot.n_items, "n_clusters": boot.n_clusters, "n_seeds": boot.n_seeds, "n_groups": boot.n_groups,
        "area": boot.area,
        "difference": {f"{a} - {b}": v for (a, b), v in boot.difference.items()},
        "ends": {m: _ends(boot.curve[m]) for m in c.methods},
        "difference_ends": {f"{a} - {b}": _ends(boot.difference_curve[a, b]) for a, b in c.pairs},
        "bands": {f"{a} - {b}": as_columns(boot.difference_curve[a, b]) for a, b in c.pairs} if bands else {},
    }  # fmt: skip


def as_columns(band: CurveBand) -> dict[str, list[float]]:
    """A band as lists, with six digits."""
    return {part: [float(f"{x:.6g}") for x in getattr(band, part)] for part in _BAND}


def kept(metrics: Mapping) -> dict[tuple, Bootstrap | OperatingPoint | Undefined]:
    """The bootstraps and operating points in a cell's metrics by `Comparison.kept`'s keys; {} if there are none.

    The first bootstrap is that of the tasks which decide, as are the operating points and the differences to the coin.
    """
    bootstraps = metrics.get("bootstraps", ())
    found: dict[tuple, Bootstrap | OperatingPoint | Undefined] = {}
    for b in bootstraps:  # of one key, the first is that of the tasks which decide, with its bands
        found.setdefault(_key("bootstrap", b), _bootstrap(b))
    if not found:
        return {}
    for method, band in metrics["over_coin"].items():
        found[*_key("over_coin", bootstraps[0]), method] = _band(band)
    for part in (metrics, *metrics["other_metrics"].values()):
        where = bootstraps[0] | {"metric": part["metric"]}
        for method, row in part["methods"].items():
            found[*_key("iso_quality", where), method] = _point(row["iso_quality"])
            if "headroom" in row:
                found[*_key("headroom", where), method] = Interval(**row["headroom"])
            found[*_key("calibrated", where), method, part["budget"]] = _point(row["calibrated"])
    return found


def _key(kind: str, where: Mapping) -> tuple:
    drawn = (where["n_seeds"], where["resamples"], where["level"])
    return kind, where["metric"], tuple(sorted(where["tasks"])), where["rule"], *drawn


def _ends(band: CurveBand) -> list[Interval]:
    return [Interval(*(float(getattr(band, part)[i]) for part in _BAND[1:])) for i in (0, -1)]


def _band(columns: Mapping) -> CurveBand:
    return CurveBand(*(np.array(columns[part]) for part in _BAND))


def _pair(key: str) -> tuple[str, str]:
    a, _, b = key.partition(" - ")
    return a, b


def _bootstrap(b: Mapping) -> Bootstrap:
    def between(ends) -> CurveBand:
        return CurveBand(np.array([0.0, 1.0]), *(np.array([end[part] for end in ends]) for part in _BAND[1:]))

    curves = {_pair(k): between(ends) for k, ends in b["difference_ends"].items()}
    curves |= {_pair(k): _band(band) for k, band in b["bands"].items()}
    return Bootstrap(
        {m: Interval(**v) for m, v in b["area"].items()},
        {_pair(k): Interval(**v) for k, v in b["difference"].items()},
        {m: between(ends) for m, ends in b["ends"].items()},
        curves,
        *(b[k] for k in ("n_items", "n_clusters", "n_seeds", "resamples", "level", "n_groups")),
    )


def _point(row: Mapping) -> OperatingPoint | Undefined:
    if "taus" not in row:
        return Undefined(row["reason"])
    taus = {int(seed): float(tau) for seed, tau in row["taus"].items()}
    return OperatingPoint(taus, row["promised_rate"], *(Interval(**row[part]) for part in _POINT))
