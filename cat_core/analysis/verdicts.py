"""The claims ledger: what the committed numbers of all cells say of each claim, by stated rules.

The entries are read from the metrics that pages and cells leave (`publish`, rows of `claims`), so the ledger trains
nothing and can be checked by hand. A claim has one kind of rule (`VERDICT_RULES`). It is decided family by family (such
as CAT-Xent against Xent, and CAT-Dist against Dist); a family's entries are pooled (`pooling`), and where a claim has
several families the p-values are adjusted after Holm (1979). The rules were fixed before any study was run that names
them; on the studies that were recorded before they are exploratory (`BEFORE`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from cat_core.analysis.checksums import read_json
from cat_core.analysis.claims import (
    DIRECTIONS,
    ELIGIBLE,
    INCONCLUSIVE,
    MARGIN,
    NOT_TESTABLE,
    OPPOSITE,
    SUPPORTED,
    WORTH,
    ClaimRow,
    word,
)
from cat_core.analysis.corpus import scale_of
from cat_core.analysis.pooling import FEW, Pooled, pool
from cat_core.analysis.quantities import Undefined, Unit, read, show_number
from cat_core.analysis.resampling import holm
from cat_core.analysis.saving import SIZES
from cat_core.tasks.schema import brief

AT_SIZE = "supported, at the paper's size"
CELLS = 5
"""Fewest cells for the rule on a bound: of 4, no order is rarer than 1 in 24."""
ALPHA = 0.05
BEFORE = ("reference", "ablations", "edge", "real", "headroom", "ledger")
"""Studies recorded before the rules were fixed: what they decide is exploratory."""

CLAIMS = {
    "C1": ("CAT improves the trade-off of quality and FLOPs on SuperGLUE", "saving"),
    "C2": ("CAT improves it on WMT22 translation (BLEU)", "saving"),
    "C3": ("CAT improves it on the FLAN2021 tasks scored by accuracy", "saving"),
    "C4": ("No clear difference among the four methods on seven generative FLAN tasks", "equivalence"),
    "C5": ("CAT improves S on its own on easy tasks", "direction"),
    "C6": ("CAT hurts S on its own on hard tasks", "direction"),
    "C7": ("CAT's cascade beats the adaptations of EdgeInference and ChowQuantile-0", "saving"),
    "C8": ("CAT saves FLOPs at equal quality (13 % or 50 %, both second hand)", "size"),
    "C9": ("CAT can be applied to pre-training (an outlook)", "saving"),
    "C10": ("What the mask changes is bounded by the share of tokens that neither model gets right (ours)", "bound"),
}
"""Each claim in short, and the kind of rule that decides it."""
SIZED = ("C1", "C2", "C3")
"""Claims whose savings C8 pools."""
_SIZE = SIZES[0]

_POOLED = (
    f"the eligible primary entries are pooled by their mean: from {FEW} cells on as a sample of cells (random effects, "
    "Student's t over cells), else by their own errors, which speaks of these cells alone"
)
VERDICT_RULES = {
    "saving": (
        f"Family by family {_POOLED}. Supported: the pooled saving lies above 0, p at most {ALPHA:g} after Holm's "
        f"adjustment for the families; at the paper's size: and the interval reaches {100 * _SIZE:.0f}\u00a0% or more. "
        "Opposite: below 0, p likewise. No effect worth having: the 90\u00a0% interval lies within "
        f"\u00b1{100 * WORTH:.0f}\u00a0%. Inconclusive: anything else. Pooled alike, in a second line: CAT against the "
        "random mask and against the L-right mask, which say whether it is due to which tokens are dropped, and to the "
        "cascade."
    ),
    "size": f"As above, over the cells of {', '.join(SIZED)} together.",
    "direction": (
        f"As above with quality of S alone, in points; no effect worth having: within \u00b1{MARGIN:g} points. Cells "
        "are heard that have an easy and a hard task."
    ),
    "equivalence": (
        f"Supported: every primary interval lies within \u00b1{MARGIN:g} points of the metric. Opposite: one lies "
        "wholly beyond them. Inconclusive: anything else (too wide to say)."
    ),
    "bound": (
        "A point is a recorded cell whose metric is a share: the mean size of its primary differences, and its share "
        "of training tokens that neither model gets right, in points. Opposite: an interval lies wholly beyond its "
        f"share (for a share of 0: excludes 0). Supported: else, over at least {CELLS} points the difference grows "
        "with the share (Spearman's correlation above 0, one-sided permutation p at most "
        f"{ALPHA:g}). Inconclusive: anything else. Beware: with few items differences are larger by chance."
    ),
}
"""The rules by kind, as the book prints them."""
HEARD = (
    f"{ELIGIBLE} Two or more training seeds are needed, too. Not testable: no entry of the claim is heard; its premise "
    "was not met, which says nothing against it."
)
PERCENT = Unit(100.0, 1, "\u00a0%", True)


@dataclass(frozen=True, kw_only=True)
class Entry(ClaimRow):
    """One row of a page's claims, and where it was measured: page, edition (or study), suite."""

    page: str
    edition: str
    suite: str


@dataclass(frozen=True)
class Finding:
    """What is found of one family: one of the words, the pooled effect (None: nothing to pool) with its unit, the
    p-value after Holm, the controls pooled alike (by what CAT is compared with), and the reason in one line.

    afterwards: where cells of studies in `BEFORE` are among those pooled, the others pooled by themselves.
    """

    word: str
    reason: str
    pooled: Pooled | None = None
    unit: Unit = PERCENT
    p: float | None = None
    controls: tuple[tuple[str, Pooled], ...] = ()
    afterwards: Pooled | None = None


@dataclass(frozen=True)
class Verdict:
    """What is found of a claim, family by family ("" where there is one).

    exploratory: how far it rests on the studies of `BEFORE`: "exploratory" alone, "partly exploratory" also, "" not.
    """

    findings: dict[str, Finding]
    exploratory: str = ""

    @property
    def word(self) -> str:
        """The words of all families, one where they agree."""
        return _one_or_each({family: f.word for family, f in self.findings.items()})

    @property
    def reason(self) -> str:
        """The reasons of all families in one line."""
        return _one_or_each({family: f.reason for family, f in self.findings.items()})


def _one_or_each(texts: Mapping[str, str]) -> str:
    """The text of all families where they agree, else that of each."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{family}: {text}" for family, text in texts.items())


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


def verdict_of(claim: str, entries: Iterable[Entry]) -> Verdict:
    """The verdict on a claim of `CLAIMS` from all entries, also those of other claims, by the rule of its kind."""
    if claim not in CLAIMS:
        raise ValueError(f"unknown claim {claim!r}: expected one of {', '.join(CLAIMS)}")
    kind = CLAIMS[claim][1]
    mine = [e for e in entries if e.claim == claim or (kind == "size" and e.claim in SIZED)]
    primary = [e for e in mine if e.role == "primary"]
    heard = [e for e in primary if e.heard]
    old = sum(e.edition in BEFORE for e in heard)
    exploratory = "" if not old else "exploratory" if old == len(heard) else "partly exploratory"
    if kind in ("equivalence", "bound"):
        if not heard:
            return Verdict({"": Finding(NOT_TESTABLE, _silent(primary))})
        found = (_equivalence if kind == "equivalence" else _bound)(heard)
        return Verdict({"": replace(found, reason=found.reason + _left(primary, heard))}, exploratory)
    if not primary:
        return Verdict({"": Finding(NOT_TESTABLE, _silent(primary))})
    families = {f: [e for e in mine if e.family == f] for f in dict.fromkeys(e.family for e in primary)}
    found = {family: _family(rows, kind) for family, rows in families.items()}
    known = {family: f.pooled.p_value for family, f in found.items() if f.pooled}
    adjusted = holm(known)
    found = {f: _judged(x, adjusted[f], families[f], len(known)) if f in known else x for f, x in found.items()}
    return Verdict(found, exploratory)


def pooled(entries: Sequence[Entry]) -> Pooled | None:
    """The entries that are heard and can be pooled, pooled in the direction claimed; None where there is none."""
    known = [x for e in entries if e.heard and (x := e.estimate) is not None]
    if not known:
        return None
    found = pool([x.number.estimate for x in known], [x.error for x in known], [x.freedom for x in known])
    # One cell keeps its own interval: of a single small number of models Welch's holds the truth in 92 to 95 % only.
    return replace(found, number=known[0].number) if len(known) == 1 else found


def _family(rows: Sequence[Entry], kind: str) -> Finding:
    """A family before its p-value is adjusted: what is pooled, and its controls."""
    primary = [e for e in rows if e.role == "primary"]
    both = pooled(primary)
    if both is None:
        return Finding(NOT_TESTABLE, _silent(primary))
    others = dict.fromkeys(_other(e) for e in rows if e.role == "control")
    controls = {other: pooled([e for e in rows if e.role == "control" and _other(e) == other]) for other in others}
    unit = next(e.unit for e in primary if e.heard)
    if not all(e.scale == unit.scale for e in primary if e.heard):
        raise ValueError(f"{primary[0].claim}: entries in different units cannot be pooled")
    new = [e for e in primary if e.edition not in BEFORE]
    afterwards = pooled(new) if any(e.heard for e in primary if e.edition in BEFORE) else None
    return Finding("", "", both, unit, None, tuple((k, v) for k, v in controls.items() if v), afterwards)


def _other(e: Entry) -> str:
    """What a control compares with: "Random mask" of "Saving (...), CAT-Dist against Random mask"."""
    return re.split(r" against | \u2212 ", e.measure)[-1]


def _judged(found: Finding, p: float, rows: Sequence[Entry], families: int) -> Finding:
    """The word of a family whose p-value, adjusted, is p; and its reason."""
    primary, heard = ([e for e in rows if e.role == "primary" and (e.heard or not only)] for only in (False, True))
    effect, unit, worth = found.pooled, found.unit, heard[0].worth
    said = word(effect.number, 1, worth, effect.narrow)
    if said in (SUPPORTED, OPPOSITE) and p > ALPHA:
        said = INCONCLUSIVE
    if said == SUPPORTED and heard[0].share and effect.number.high >= _SIZE:
        said = AT_SIZE
    way = "" if heard[0].direction >= 0 else ", turned round,"
    parts = [f"{show_number(effect.number, unit)}{way} over {_cells(effect)}"]
    if (new := found.afterwards) is not None:
        parts.append(f"recorded after the rules: {show_number(new.number, unit)} over {_cells(new)}")
    if effect.prediction is not None:
        parts.append(f"another cell: {_ends(effect.prediction, unit)}")
    parts.append(_p(p) + " after Holm" * (families > 1))
    if heard[0].share and effect.error:
        x = heard[0].estimate
        many = replace(x, error=effect.error, freedom=effect.freedom)
        parts.append(f"power for {100 * _SIZE:.0f}\u00a0%: {many.power(_SIZE):.2f}")
        parts.append(f"visible: {100 * many.visible:.0f}\u00a0%")
    parts += [f"against {other}: {show_number(x.number, unit)}" for other, x in found.controls]
    return replace(found, word=said, reason="; ".join(parts) + _left(primary, heard), p=p)


def _cells(effect: Pooled) -> str:
    """How many cells, on which side, and whether they agree."""
    if effect.cells == 1:
        return "one cell"
    unlike = "" if effect.heterogeneity is None else f" (heterogeneity: {_p(effect.heterogeneity)})"
    return f"{effect.cells} cells, {effect.positive} of them above 0{unlike}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _ends(x, unit: Unit) -> str:
    """Both ends of an interval, as `show_number` has them."""
    text = show_number(x, unit)
    return text[text.index("[") :]


def _left(primary: Sequence[Entry], heard: Sequence[Entry]) -> str:
    left = len(primary) - len(heard)
    return f" ({left} more not heard)" if left else ""


def _silent(asked: Sequence[Entry]) -> str:
    """Why no entry of these is heard, in one line."""
    if not asked:
        return "nothing that was run measures it"
    alone = "one training seed proves nothing"

    def why(e: Entry) -> str:
        return e.number.reason if isinstance(e.number, Undefined) else e.silenced or e.ineligible or alone

    return "; ".join(dict.fromkeys(map(why, asked)))


def _equivalence(heard: Sequence[Entry]) -> Finding:
    words = [word(e.number, 0, e.worth) for e in heard]
    tally = f"{words.count(SUPPORTED)} of {len(words)} intervals within \u00b1{MARGIN:g} points"
    if OPPOSITE in words:
        return Finding(OPPOSITE, f"{tally}; {words.count(OPPOSITE)} wholly beyond")
    if INCONCLUSIVE in words:
        return Finding(INCONCLUSIVE, f"{tally}; the others are too wide to say")
    return Finding(SUPPORTED, tally)


def _bound(heard: Sequence[Entry]) -> Finding:
    if any(e.mass is None for e in heard):
        what = "the share of tokens that neither model gets right"
        raise ValueError(f"{heard[0].claim}: every primary entry needs {what}")
    beyond = [e for e in heard if e.scale * max(e.number.low, -e.number.high) > 100 * e.mass]
    if beyond:
        what = f"{beyond[0].measure}, {beyond[0].suite or beyond[0].page}"
        return Finding(OPPOSITE, f"{len(beyond)} of {len(heard)} intervals lie beyond their share, first: {what}")
    cells: dict[tuple, list[Entry]] = {}
    for e in heard:  # the pairs of a cell share models and items: they are one point
        cells.setdefault((e.edition, e.page, e.suite), []).append(e)
    if len(cells) < CELLS:
        few = f"{len(cells)} cells are too few to see growth ({CELLS} needed)"
        return Finding(INCONCLUSIVE, f"within the bound, but {few}")
    size = [np.mean([e.scale * abs(e.number.estimate) for e in cell]) for cell in cells.values()]
    rho, p = spearman([np.mean([e.mass for e in cell]) for cell in cells.values()], size)
    tally = f"within the bound; Spearman's correlation {rho:+.2f} over {len(cells)} cells (p = {p:.3f})"
    return Finding(SUPPORTED if rho > 0 and p <= ALPHA else INCONCLUSIVE, tally)


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
