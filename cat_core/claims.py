"""Verdicts by stated rules: a claim of the paper, the number of this run, and what the number says.

The rules are fixed here and know only the interval, the direction claimed and the number of training seeds,
so that no page can word its own verdict. What several pages and editions say together is decided in `ledger`, from
the rows that `as_metrics` leaves in the metrics of a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cat_core.comparison import METRIC_LABELS, Comparison
from cat_core.ranking import Interval
from cat_core.resampling import paired_bootstrap
from cat_core.tables import PLAIN, Table, Undefined, Unit, show_number
from cat_core.training_report import name

SAME, UNDECIDED, OPPOSITE = "same direction, interval excludes 0", "undecided", "opposite"
ONE_SEED = "one seed proves nothing"
UNTESTED = "not testable here"
DIRECTIONS = {1: "above 0", -1: "below 0", 0: "no difference"}
ROLES = ("primary", "control", "secondary")
"""What a row is for: deciding its claim, showing that the effect is that of the mask, or neither."""
MARGIN = 2.0
"""Points of the metric (0 to 100) within which two methods count as not different; fixed before any result."""
NO_DIFFERENCE, DIFFERENCE = f"interval within \u00b1{MARGIN:g} points", "a difference"
WITHIN, ABOVE = "within the bound", "above the bound"
CAVEAT = "\u2020"
CAVEAT_RULE = (
    f"{CAVEAT} The interval of L alone less S alone reaches 0: L is not shown to be better than S, so its quality is "
    "had without deferring, and the saving says nothing of the cascade."
)
"""The mark beside a saving at the quality of L, and the rule by which it is set (`caveat_mark`)."""
RULES = (
    f"Rules: interval above or below 0 as claimed, {SAME!r}; interval includes 0, {UNDECIDED!r}; interval on "
    f"the other side of 0, {OPPOSITE!r}; claimed to be no difference: {NO_DIFFERENCE!r}, else {DIFFERENCE!r} where it "
    f"excludes 0, else {UNDECIDED!r}; claimed to be bounded by a share: {WITHIN!r}, or {ABOVE!r} where the whole "
    f"interval lies beyond it; with fewer than two training seeds the verdict adds that {ONE_SEED}."
)


@dataclass(frozen=True)
class ClaimRow:
    """One line of the table "direction claimed / this run".

    claim: its id in the book, such as "C1". measure: which number is looked at. direction: 1 if the claim
    says that it is above 0, -1 below, 0 if it says that there is no difference. number: of this run, with its
    interval, or why there is none. n items, seeds, large_seeds: what it rests on. unit: how the number is shown; its
    scale brings the number to points (0 to 100). role: one of `ROLES`. mass: the share of target tokens that neither
    model gets right, for the claim that it bounds the difference (C10). headroom: quality of L alone less that of S
    alone, in points, where the number is a saving at the quality of L (C8). level: coverage of the interval.
    """

    claim: str
    measure: str
    direction: int
    number: Interval | Undefined
    n: int
    seeds: int
    unit: Unit = PLAIN
    role: str = "secondary"
    large_seeds: int = 1
    mass: float | None = None
    headroom: Interval | None = None
    level: float = 0.95

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")

    @property
    def verdict(self) -> str:
        """The verdict by `RULES`."""
        if self.mass is not None and isinstance(self.number, Interval):
            points, low = 100 * self.mass, max(self.number.low, -self.number.high, 0.0)
            text = WITHIN if self.unit.scale * low <= points else ABOVE
            return text if self.seeds > 1 else f"{text}; {ONE_SEED}"
        return verdict(self.number, self.direction, self.seeds, MARGIN / self.unit.scale)

    @property
    def shown(self) -> str:
        """The number for readers, with the mark of `CAVEAT_RULE` where that applies."""
        return show_number(self.number, self.unit) + caveat_mark(self.headroom)

    @property
    def sentence(self) -> str:
        """The row in one sentence."""
        return f"{self.measure} ({self.claim}): {self.shown}; verdict: {self.verdict}."


def caveat_mark(headroom: Interval | Undefined | None) -> str:
    """ " \u2020" where the interval of L alone less S alone reaches 0, else ""; headroom: that, in any unit."""
    return f"\u00a0{CAVEAT}" if isinstance(headroom, Interval) and headroom.low <= 0 else ""


def caveat_note(rows: Iterable[Sequence[str]]) -> str:
    """The rule of the caveat, for the note of a table in which it is marked; else ""."""
    return f" {CAVEAT_RULE}" if any(CAVEAT in text for row in rows for text in row) else ""


def verdict(number: Interval | Undefined, direction: int, seeds: int, margin: float = 0.0) -> str:
    """What `number` says of a claim that it lies above (direction 1) or below (-1) 0, or (0) that it is 0.

    An interval that touches 0 includes it. margin: in the unit of `number`, what still counts as 0. Raises
    ValueError for another direction, NaN, or fewer than one seed.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, expected 1 (above 0) or -1 (below 0), or 0 (no difference)")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}, expected how many training seeds there are, at least 1")
    if isinstance(number, Undefined):
        return UNTESTED
    if not number.low <= number.high:
        raise ValueError(f"the interval runs from {number.low} to {number.high}, expected numbers in rising order")
    if direction == 0 and max(abs(number.low), abs(number.high)) <= margin:
        text = NO_DIFFERENCE
    elif direction == 0:
        text = DIFFERENCE if number.low > 0 or number.high < 0 else UNDECIDED
    elif number.low > 0 or number.high < 0:
        text = SAME if (number.low > 0) == (direction > 0) else OPPOSITE
    else:
        text = UNDECIDED
    return text if seeds > 1 else f"{text}; {ONE_SEED}"


def claims_table(rows: Sequence[ClaimRow], caption: str, reference: Sequence[Mapping] | None = None) -> Table:
    """The rows as a table, with the rules below it.

    reference: metrics of recorded cells (`study.Cell.metrics`), whose numbers of the same measures get a column.
    """
    columns = ["Claim", "Measure", "Direction claimed", "This run", "n, seeds", "Verdict"]
    shown = [
        [
            r.claim,
            r.measure,
            DIRECTIONS[r.direction],
            r.shown,
            f"{r.n:,}, {r.seeds}" + (f" (over {r.large_seeds} L)" if r.large_seeds > 1 else ""),
            r.verdict,
        ]
        for r in rows
    ]
    note = RULES + caveat_note(shown)
    if reference is not None:
        columns.insert(4, "Reference")
        for row, r in zip(shown, rows):
            row.insert(4, reference_text(r, reference))
        cells = [f"{m['study']}/{m['cell']}: n = {m['n']:,}, {len(m['seeds'])} seeds" for m in reference]
        note += f" Reference: {'; '.join(cells) or 'nothing is recorded yet'}. The verdict is that of this run alone."
    return Table(columns, shown, caption, note)


def reference_text(row: ClaimRow, reference: Sequence[Mapping]) -> str:
    """The numbers that recorded cells have for a row of a page: the same claim, measure and pair of methods.

    For claims on the easiest or hardest task, the cell's own one, which is named where it is another.
    """
    found = []
    for m in reference:
        for r in m["claims"]:
            if (r["claim"], _without_task(r["measure"])) == (row.claim, _without_task(row.measure)):
                text = show_number(_number(r["number"]), Unit(r["scale"], 2, "", True))
                task = task_of(r["measure"]) if r["measure"] != row.measure else None
                found.append(f"{m['cell']}{f' ({task})' if task else ''}: {text}")
        for metric, other in (m.get("other_metrics") or {}).items() if row.role == "secondary" else ():
            for pair, number in other["differences"]["chow_average"].items():
                if row.measure == _audc_measure(METRIC_LABELS[metric], *pair.split(" - ")):
                    found.append(f"{m['cell']}: {show_number(_number(number), Unit(1, 2, '', True))}")
    return "; ".join(found) or "\u2013 (not recorded)"


def _audc_measure(label: str, a: str, b: str) -> str:
    return f"AUDC ({label}), {name(a)} \u2212 {name(b)}"


_TASK = re.compile(r"^S alone on (.*) \((?:easiest|hardest)\)")


def task_of(measure: str) -> str | None:
    """The task that a measure of C5 or C6 names as the easiest or hardest one."""
    found = _TASK.search(measure)
    return found[1] if found else None


def _without_task(measure: str) -> str:
    return _TASK.sub("S alone", measure)


# ---------------------------------------------------------------- claims


def gain_unit(c: Comparison) -> Unit:
    """Differences of quality or of AUDC, in points, with sign."""
    return Unit(c.scale, 2, "", True)


def as_metrics(rows: Sequence[ClaimRow]) -> list[dict]:
    """The rows as `results.publish` writes them and `ledger.read_entries` reads them again."""
    return [
        {
            "claim": r.claim, "measure": r.measure, "direction": r.direction, "role": r.role, "number": r.number,
            "scale": r.unit.scale, "level": r.level, "n": r.n, "seeds": r.seeds, "large_seeds": r.large_seeds,
            "verdict": r.verdict,
        } | {key: getattr(r, key) for key in ("mass", "headroom") if getattr(r, key) is not None}
        for r in rows
    ]  # fmt: skip


def recorded_rows(metrics: Mapping, claim: str) -> list[ClaimRow]:
    """The rows of a claim in the metrics of a recorded cell, as `as_metrics` left them; units in points, with sign."""
    plain = ("claim", "measure", "direction", "n", "seeds", "role", "large_seeds", "level")
    return [
        ClaimRow(
            number=_number(r["number"]), unit=Unit(r["scale"], 2, "", True), mass=r.get("mass"),
            headroom=Interval(**r["headroom"]) if "headroom" in r else None,
            **{key: r[key] for key in plain},
        )
        for r in metrics["claims"]
        if r["claim"] == claim
    ]  # fmt: skip


def _number(found: Mapping) -> Interval | Undefined:
    return Interval(**found) if "estimate" in found else Undefined(found["reason"])


def on(c: Comparison) -> dict:
    """What every row on a comparison rests on."""
    return {"n": c.n, "seeds": len(c.seeds), "large_seeds": c.large_models, "unit": gain_unit(c), "level": c.level}


PRIMARY = (("cat-dist", "dist"), ("cat-xent", "xent"))
CONTROL = (("cat-dist", "random-dist"), ("cat-xent", "random-xent"))
"""The random mask keeps as many tokens as CAT does: what it does as well is not the effect of *which* are kept."""


def _pairs() -> list[tuple[str, str, str]]:
    """(a, b, role) of the pairs that decide a claim: a control that was not run has to be seen, too."""
    return [(*pair, "primary") for pair in PRIMARY] + [(*pair, "control") for pair in CONTROL]


def cascade_claims(c: Comparison, claim: str) -> list[ClaimRow]:
    """The claim that CAT improves the cascade: AUDC of the primary pairs and their controls, Chow-Average, test items.

    A claim named with ", secondary" (another metric of the same answers) decides nothing.
    """
    decides = not claim.endswith("secondary")
    return [
        ClaimRow(
            claim, _audc_measure(c.label, a, b), 1, c.difference(a, b),
            role=role if decides else "secondary", **on(c),
        )
        for a, b, role in _pairs()
    ]  # fmt: skip


def no_difference_claims(c: Comparison, claim: str = "C4", methods: Sequence[str] = ()) -> list[ClaimRow]:
    """C4: no two of the four methods (default) differ clearly in AUDC, Chow-Average; all pairs, one paired draw."""
    methods = tuple(methods) or ("xent", "dist", "cat-xent", "cat-dist")
    pairs = [(a, b) for i, b in enumerate(methods) for a in methods[i + 1 :]]
    missing = [m for m in methods if m not in c.methods]
    if missing:
        found = dict.fromkeys(pairs, Undefined(f"this run has no {' and no '.join(missing)}"))
    else:
        runs = {m: [c.run(m, seed) for seed in c.seeds] for m in methods}
        how = {"groups": c.groups, "resamples": c.resamples, "level": c.level, "grid": None}
        found = paired_bootstrap(runs, pairs=pairs, **how).difference
    return [
        ClaimRow(claim, f"AUDC ({c.label}), {name(a)} − {name(b)}", 0, found[a, b], role="primary", **on(c))
        for a, b in pairs
    ]


def bound_claims(c: Comparison, mass: float, claim: str = "C10") -> list[ClaimRow]:
    """C10: the difference that the mask makes is bounded by the share of tokens that neither model gets right.

    mass: that share, of the target tokens in training (1 - keep-rate of the mask), in [0, 1].
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"mass is {mass!r}, expected the share of tokens that neither model gets right, in [0, 1]")
    return [
        ClaimRow(
            claim, f"AUDC ({c.label}), {name(a)} − {name(b)}", 1, c.difference(a, b), role="primary",
            mass=float(mass), **on(c),
        )
        for a, b in PRIMARY
    ]  # fmt: skip


def easy_and_hard(c: Comparison, method: str = "xent") -> tuple[str, str] | Undefined:
    """The tasks with the least and the largest share of answers that neither S nor L gets right.

    Decided on calibration rows with S trained by `method`, so that the test rows decide nothing but the
    result.
    """
    if len(c.tasks) < 2 or method not in c.methods:
        return Undefined("needs at least two tasks" if method in c.methods else f"needs method {method}")
    shares = {}
    for task in c.tasks:
        part = c.of_task(task)
        rows = [part.pairing(method, seed, "calibration") for seed in c.seeds]
        wrong = [(r.small_quality < c.right_at) & (r.large_quality < c.right_at) for r in rows]
        shares[task] = float(np.mean(wrong))
    ordered = sorted(shares, key=lambda task: (shares[task], task))
    return ordered[0], ordered[-1]


def alone_claims(c: Comparison) -> list[ClaimRow]:
    """C5 and C6: CAT helps S on its own on the easiest task and hurts it on the hardest one, and does so more than
    the random mask."""
    chosen, rows = easy_and_hard(c), []
    for claim, direction, place in (("C5", 1, 0), ("C6", -1, 1)):
        for a, b, role in _pairs():
            if isinstance(chosen, Undefined):
                where, measure, number = on(c), f"S alone, {name(a)} − {name(b)}", chosen
            else:
                part = c.of_task(chosen[place])
                measure = f"S alone on {chosen[place]} ({('easiest', 'hardest')[place]}), {name(a)} − {name(b)}"
                where, number = on(part), part.alone_difference(a, b)
            rows.append(ClaimRow(claim, measure, direction, number, role=role, **where))
    return rows
