"""The claims ledger: what the committed numbers of all pages and editions say of each claim, by stated rules.

The entries are read from the metrics that pages leave (`publish`, rows of `claims`), so the ledger trains
nothing and can be checked by hand. Every claim has one kind of rule (`VERDICT_RULES`), fixed before the results and
printed beside the verdicts; only entries marked primary or control, with at least two training seeds of S, are heard.

Why no correction for several tests is needed for "reproduced": it takes *every* primary interval (an intersection-union
test). Where one interval of several is pointed at, the p-values adjusted after Holm (1979) are beside it. They belong
to the intervals: the two-sided p of a normal distribution with the half-width on the side of 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata

from cat_core.analysis.checksums import read_json
from cat_core.analysis.claims import DIRECTIONS, MARGIN, ClaimRow, caveat_mark
from cat_core.analysis.corpus import scale_of
from cat_core.analysis.quantities import Undefined, read
from cat_core.analysis.resampling import holm
from cat_core.tasks.schema import brief

REPRODUCED, DIRECTION_ONLY, NOT_REPRODUCED, CONTRADICTED, NOT_TESTABLE = VERDICTS = (
    "reproduced",
    "direction only",
    "not reproduced",
    "contradicted",
    "not testable here",
)
CELLS = 5
"""Fewest cells for the rule on a bound: of 4, no order is rarer than 1 in 24."""
ALPHA = 0.05

CLAIMS = {
    "C1": ("CAT improves the trade-off of quality and FLOPs on SuperGLUE", "control"),
    "C2": ("CAT improves it on WMT22 translation (BLEU)", "control"),
    "C3": ("CAT improves it on the FLAN2021 tasks scored by accuracy", "control"),
    "C4": ("No clear difference among the four methods on seven generative FLAN tasks", "equivalence"),
    "C5": ("CAT improves S on its own on easy tasks", "control"),
    "C6": ("CAT hurts S on its own on hard tasks", "control"),
    "C7": ("CAT's cascade beats the adaptations of EdgeInference and ChowQuantile-0", "direction"),
    "C8": ("CAT saves FLOPs at equal quality", "direction"),
    "C9": ("CAT can be applied to pre-training (an outlook)", "control"),
    "C10": ("What the mask changes is bounded by the share of tokens that neither model gets right (ours)", "bound"),
}
"""Each claim in short, and the kind of rule that decides it."""

VERDICT_RULES = {
    "control": (
        "Reproduced: every primary interval lies on the claimed side of 0, and every control interval (CAT less the "
        "random mask) as well. Direction only: all primary estimates lie on the claimed side, but an interval includes "
        "0, or a control interval does not lie there or was not run (then the effect is not shown to be that of this "
        "mask). Contradicted: a primary interval lies on the other side of 0, and none on the claimed one. Not "
        "reproduced: anything else."
    ),
    "direction": "As above, without controls.",
    "equivalence": (
        f"Reproduced: every primary interval lies within \u00b1{MARGIN:g} points of the metric. Contradicted: an "
        "interval excludes 0 and reaches beyond them. Not reproduced: anything else (too wide to say)."
    ),
    "bound": (
        "A point is a recorded cell, or a suite on a page that was run: the mean size of its primary differences, and "
        "its share of training tokens that neither model gets right, in points. Contradicted: an interval lies wholly "
        f"beyond its share (for a share of 0: excludes 0). Reproduced: else, over at least {CELLS} points the "
        "difference grows with the share (Spearman's correlation above 0, one-sided permutation p at most "
        f"{ALPHA:g}). Direction only: correlation above 0, p larger. Not reproduced: anything else. Beware: with few "
        "items differences are larger by chance."
    ),
}
"""The rules by kind, as the book prints them. "Not testable here": no primary number with two or more seeds."""


@dataclass(frozen=True, kw_only=True)
class Entry(ClaimRow):
    """One row of a page's claims, and where it was measured: page, edition (or study), suite."""

    page: str
    edition: str
    suite: str

    @property
    def p_value(self) -> float:
        """Two-sided p-value for "the number is 0" that belongs to the interval (see the module's text)."""
        number = self.number
        near = number.estimate - number.low if number.estimate > 0 else number.high - number.estimate
        if number.estimate == 0 or near <= 0:
            return 1.0 if number.estimate == 0 else 0.0
        z = NormalDist().inv_cdf((1 + self.level) / 2) * abs(number.estimate) / near
        return math.erfc(z / math.sqrt(2))  # 2 (1 - Phi(z)), exact also for large z


@dataclass(frozen=True)
class Verdict:
    """word: one of `VERDICTS`. reason: one line. p: of the primary entries, adjusted after Holm, in their order."""

    word: str
    reason: str
    p: tuple[float, ...] = ()


# ---------------------------------------------------------------- reading


def read_entries(*folders) -> list[Entry]:
    """The entries in the metrics of editions, in order of folder and page.

    folders: of an edition (papermill_runs/<edition>) or its metrics folder. A mapping with a list "claims" is read
    wherever it lies in a page's metrics, the outermost first. Claims such as "C2, secondary" are C2's, and secondary;
    rows written before roles were are secondary. Raises FileNotFoundError, or ValueError that names the file.
    """
    entries = []
    for folder in map(Path, folders):
        metrics = folder / "metrics" if (folder / "metrics").is_dir() else folder
        files = sorted(metrics.glob("*.json")) if metrics.name == "metrics" else []
        if not files:
            raise FileNotFoundError(f"no metrics in {folder}: give an edition's folder that holds metrics/*.json")
        for path in files:
            try:
                content = read_json(path)
                page, page_metrics = content["page"], content["metrics"]
                entries += [_entry(row, page, path.parent.parent.name, holder) for row, holder in _rows(page_metrics)]
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                problem = brief(error)
                raise ValueError(f"{path} does not hold a page's metrics ({problem}): run the page again") from error
    return entries


def _rows(node):
    """(row, the mapping that holds it) of every outermost list "claims"."""
    if isinstance(node, Mapping) and isinstance(node.get("claims"), list):
        for row in node["claims"]:
            yield row, node
    elif isinstance(node, Mapping | list):
        for part in node.values() if isinstance(node, Mapping) else node:
            yield from _rows(part)


def _entry(row: Mapping, page: str, edition: str, holder: Mapping) -> Entry:
    claim = re.match(r"C\d+", row["claim"])
    if claim is None or row["direction"] not in DIRECTIONS:
        raise ValueError(f"claim {row['claim']!r} with direction {row['direction']!r}")
    role = row.get("role", "secondary") if claim[0] == row["claim"] else "secondary"
    scale = row.get("scale", scale_of(holder.get("metric")))
    place = {"page": page, "edition": edition, "suite": str(row.get("suite", holder.get("suite", "")))}
    return read(Entry, {**row, **place, "claim": claim[0], "role": role, "scale": scale})


# ---------------------------------------------------------------- verdicts


def verdict_of(entries: Iterable[Entry]) -> Verdict:
    """The verdict on one claim from its entries, by the rule of its kind in `VERDICT_RULES`.

    Raises ValueError for entries of several claims or of a claim that `CLAIMS` does not hold.
    """
    entries = list(entries)
    names = sorted({e.claim for e in entries})
    if len(names) > 1 or (names and names[0] not in CLAIMS):
        raise ValueError(f"entries of {', '.join(names)}: give those of one claim of {', '.join(CLAIMS)}")
    asked = [e for e in entries if e.role == "primary"]
    primary = [e for e in asked if e.heard]
    control = [e for e in entries if e.role == "control"]
    if not primary:
        return Verdict(NOT_TESTABLE, _silent(asked))
    kind = CLAIMS[names[0]][1]
    word, reason = {"equivalence": _equivalence, "bound": _bound}.get(kind, _direction)(primary, control, kind)
    left = len(asked) - len(primary)
    more = f" ({left} more could not be tested)" if left else ""
    if doubtful := sum(bool(caveat_mark(e.headroom)) for e in primary):
        more += f" ({doubtful} where L alone is not shown to be better than S alone)"
    adjusted = holm({str(i): e.p_value for i, e in enumerate(primary)})
    return Verdict(word, reason + more, tuple(adjusted.values()))


def _silent(asked: Sequence[Entry]) -> str:
    """Why no primary entry is heard."""
    if not asked:
        return "no page that was run measures it"
    alone = "one training seed proves nothing"
    reasons = [e.number.reason if isinstance(e.number, Undefined) else e.silenced or alone for e in asked]
    return "; ".join(dict.fromkeys(reasons))


def _direction(primary, control, kind) -> tuple[str, str]:
    sides, k = [e.side for e in primary], len(primary)
    for_it, against = sides.count(1), sides.count(-1)
    tally = f"{for_it} of {k} primary intervals on the claimed side of 0, {against} on the other"
    signs = all(e.number.estimate * e.direction > 0 for e in primary)
    if for_it < k:
        if against and not for_it:
            return CONTRADICTED, tally
        if signs and for_it:
            return DIRECTION_ONLY, f"{tally}; all estimates as claimed"
        if signs:
            chance = "which chance alone gives in up to half of all cases"
            return DIRECTION_ONLY, f"{tally}; only the signs are as claimed, {chance}"
        return NOT_REPRODUCED, f"{tally}; " + ("the suites disagree" if against else "the estimates differ in sign")
    if kind == "direction":
        return REPRODUCED, tally
    if not any(e.heard for e in control):
        return DIRECTION_ONLY, f"{tally}, but no random mask was run: the effect may be that of any mask"
    right = sum(e.heard and e.side == 1 for e in control)
    against_random = f"{right} of {len(control)} intervals against the random mask as well"
    if right < len(control):
        return DIRECTION_ONLY, f"{tally}; {against_random}: not shown to be the effect of this mask"
    return REPRODUCED, f"{tally}; {against_random}"


def _equivalence(primary, _control, _kind) -> tuple[str, str]:
    ends = [(e.scale * e.number.low, e.scale * e.number.high) for e in primary]
    within = [max(abs(low), abs(high)) <= MARGIN for low, high in ends]
    different = sum(not small and (low > 0 or high < 0) for small, (low, high) in zip(within, ends))
    tally = f"{sum(within)} of {len(ends)} intervals within \u00b1{MARGIN:g} points"
    if all(within):
        return REPRODUCED, tally
    if different:
        return CONTRADICTED, f"{tally}; {different} reach beyond and exclude 0"
    return NOT_REPRODUCED, f"{tally}; the others are too wide to say"


def _bound(primary, _control, _kind) -> tuple[str, str]:
    if any(e.mass is None for e in primary):
        what = "the share of tokens that neither model gets right"
        raise ValueError(f"{primary[0].claim}: every primary entry needs {what}")
    beyond = [e for e in primary if e.scale * max(e.number.low, -e.number.high) > 100 * e.mass]
    if beyond:
        what = f"{beyond[0].measure}, {beyond[0].suite or beyond[0].page}"
        return CONTRADICTED, f"{len(beyond)} of {len(primary)} intervals lie beyond their share, first: {what}"
    cells: dict[tuple, list[Entry]] = {}
    for e in primary:  # the pairs of a cell share models and items: they are one point
        cells.setdefault((e.edition, e.page, e.suite), []).append(e)
    if len(cells) < CELLS:
        return NOT_REPRODUCED, f"within the bound, but {len(cells)} cells are too few to see growth ({CELLS} needed)"
    size = [np.mean([e.scale * abs(e.number.estimate) for e in cell]) for cell in cells.values()]
    rho, p = spearman([np.mean([e.mass for e in cell]) for cell in cells.values()], size)
    tally = f"within the bound; Spearman's correlation {rho:+.2f} over {len(cells)} cells (p = {p:.3f})"
    if rho > 0:
        return (REPRODUCED if p <= ALPHA else DIRECTION_ONLY), tally
    return NOT_REPRODUCED, tally


def spearman(x, y, permutations: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Spearman's rank correlation of x and y [m], ties by mean rank, and its one-sided permutation p-value.

    p: share of the orders of y with a correlation at least as large, the observed one counted as a draw (Phipson and
    Smyth 2010). Where one of them is constant the correlation is 0 and p is 1.
    """
    x, y = (np.asarray(v, dtype=np.float64) for v in (x, y))
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"x and y have shapes {x.shape} and {y.shape}, expected the same number of values, at least 2")
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))  # ranks less their mean, exactly: halves at most
    norm = math.sqrt((a @ a) * (b @ b))
    if norm == 0:
        return 0.0, 1.0
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.broadcast_to(b, (permutations, len(b))), axis=1) @ a
    return float(a @ b / norm), float(((drawn >= a @ b - 1e-9).sum() + 1) / (permutations + 1))


def by_claim(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    groups = {claim: [] for claim in CLAIMS}
    for e in entries:
        if e.claim not in groups:
            where = f"page {e.page} of edition {e.edition}"
            raise ValueError(f"{where} has claim {e.claim!r}: add it to CLAIMS or correct it")
        groups[e.claim].append(e)
    return groups
