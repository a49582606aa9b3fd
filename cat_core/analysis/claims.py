"""Verdicts by stated rules: a claim of the paper, the number of this run, and what the number says.

The rules are fixed here and know only the interval, the direction claimed and the number of training seeds,
so that no page can word its own verdict. What several pages and editions say together is decided in `verdicts`, from
the rows that pages leave in their metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cat_core.analysis.comparison import CONTROL, PRIMARY, Comparison
from cat_core.analysis.quantities import Undefined, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval

SAME, UNDECIDED, OPPOSITE = "same direction, interval excludes 0", "undecided", "opposite"
ONE_SEED = "one seed proves nothing"
NONE = "no claim"
"""In place of a claim's id, on data that no claim is about."""
UNTESTED, NO_VERDICT = "not testable here", "no verdict"
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
ROW_RULES = (
    f"Rules: interval above or below 0 as claimed, {SAME!r}; interval includes 0, {UNDECIDED!r}; interval on "
    f"the other side of 0, {OPPOSITE!r}; claimed to be no difference: {NO_DIFFERENCE!r}, else {DIFFERENCE!r} where it "
    f"excludes 0, else {UNDECIDED!r}; claimed to be bounded by a share: {WITHIN!r}, or {ABOVE!r} where the whole "
    f"interval lies beyond it; with fewer than two training seeds the verdict adds that {ONE_SEED}; where a run "
    f"cannot speak, {NO_VERDICT!r} with the reason."
)


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One line of the table "direction claimed / this run".

    claim: its id in the book, such as "C1". measure: which number is looked at. direction: 1 if the claim says that it
    is above 0, -1 below, 0 if it says that there is no difference. role: one of `ROLES`. number: of this run, with its
    interval, or why there is none; scale: brings it to points (0 to 100); level: coverage of the interval. n items,
    seeds of S, large_seeds: what it rests on. mass: the share of target tokens that neither model gets right, for the
    claim that it bounds the difference (C10). headroom: quality of L alone less that of S alone, in points, where the
    number is a saving at the quality of L (C8). silenced: why there is no verdict where a guard forbids it (`guards`).
    """

    claim: str
    measure: str
    direction: int
    role: str = "secondary"
    number: Interval | Undefined
    scale: float = 1.0
    level: float = 0.95
    n: int
    seeds: int
    large_seeds: int = 1
    mass: float | None = None
    headroom: Interval | None = None
    silenced: str | None = None

    also_written: ClassVar[dict[str, str]] = {"verdict": "mass"}

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")

    @property
    def unit(self) -> Unit:
        """How the number is shown: in points, with its sign."""
        return Unit(self.scale, 2, "", True)

    @property
    def heard(self) -> bool:
        """Whether it may decide anything: a number with an interval, from at least two seeds, that no guard forbids."""
        return isinstance(self.number, Interval) and self.seeds > 1 and not self.silenced

    @property
    def side(self) -> int:
        """1: the interval lies on the claimed side of 0; -1: on the other one; 0: it includes 0."""
        sign = (self.number.low > 0) - (self.number.high < 0)
        return sign * (self.direction or 1)

    @property
    def verdict(self) -> str:
        """The verdict by `ROW_RULES`."""
        if self.silenced:
            return f"{NO_VERDICT}: {self.silenced}"
        if self.mass is not None and isinstance(self.number, Interval):
            points, low = 100 * self.mass, max(self.number.low, -self.number.high, 0.0)
            text = WITHIN if self.scale * low <= points else ABOVE
            return text if self.seeds > 1 else f"{text}; {ONE_SEED}"
        return verdict(self.number, self.direction, self.seeds, MARGIN / self.scale)

    @property
    def shown(self) -> str:
        """The number for readers, with the mark of `CAVEAT_RULE` where that applies."""
        return show_number(self.number, self.unit) + caveat_mark(self.headroom)

    @property
    def sentence(self) -> str:
        """The row in one sentence."""
        verdict = self.verdict if self.silenced else f"verdict: {self.verdict}"
        return f"{self.measure} ({self.claim}): {self.shown}; {verdict}."


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


def audc_measure(label: str, a: str, b: str) -> str:
    return f"AUDC ({label}), {name(a)} \u2212 {name(b)}"


_TASK = re.compile(r"^S alone on (.*) \((?:easiest|hardest)\)")


def task_of(measure: str) -> str | None:
    """The task that a measure of C5 or C6 names as the easiest or hardest one."""
    match = _TASK.search(measure)
    return match[1] if match else None


def without_task(measure: str) -> str:
    return _TASK.sub("S alone", measure)


# ---------------------------------------------------------------- claims


def on(c: Comparison) -> dict:
    """What every row on a comparison rests on."""
    return {"n": c.n, "seeds": len(c.seeds), "large_seeds": c.large_models, "scale": c.scale, "level": c.level}


def claim_row(
    c: Comparison, claim: str, measure: str, number, direction: int = 1, role: str = "primary", **more
) -> ClaimRow:
    """A row on a comparison; more: its further fields, or in place of those of `on`."""
    return ClaimRow(claim=claim, measure=measure, direction=direction, number=number, role=role, **on(c) | more)


DECIDING = [(*pair, "primary") for pair in PRIMARY] + [(*pair, "control") for pair in CONTROL]
"""(a, b, role) of the pairs that decide a claim: a control that was not run has to be seen, too."""


def cascade_claims(c: Comparison, claim: str) -> list[ClaimRow]:
    """The claim that CAT improves the cascade: AUDC of the primary pairs and their controls, Chow-Average, test items.

    A claim named with ", secondary" (another metric of the same answers) decides nothing.
    """
    only = "secondary" if claim.endswith("secondary") else ""
    return [
        claim_row(c, claim, audc_measure(c.label, a, b), c.difference(a, b), role=only or role)
        for a, b, role in DECIDING
    ]


def no_difference_claims(c: Comparison, claim: str = "C4", methods: Sequence[str] = ()) -> list[ClaimRow]:
    """C4: no two of the four methods (default) differ clearly in AUDC, Chow-Average; all pairs, one paired draw."""
    methods = tuple(methods) or ("xent", "dist", "cat-xent", "cat-dist")
    pairs = [(a, b) for i, b in enumerate(methods) for a in methods[i + 1 :]]
    missing = [m for m in methods if m not in c.methods]
    if missing:
        differences = dict.fromkeys(pairs, Undefined(f"this run has no {' and no '.join(missing)}"))
    else:
        differences = c.bootstrap({m: c.runs(m) for m in methods}, pairs, None).difference
    return [claim_row(c, claim, audc_measure(c.label, a, b), differences[a, b], 0) for a, b in pairs]


def bound_claims(c: Comparison, mass: float, claim: str = "C10") -> list[ClaimRow]:
    """C10: the difference that the mask makes is bounded by the share of tokens that neither model gets right.

    mass: that share, of the target tokens in training (1 - keep-rate of the mask), in [0, 1].
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"mass is {mass!r}, expected the share of tokens that neither model gets right, in [0, 1]")
    return [claim_row(c, claim, audc_measure(c.label, a, b), c.difference(a, b), mass=float(mass)) for a, b in PRIMARY]


def easy_and_hard(c: Comparison, method: str = "xent") -> tuple[str, str] | Undefined:
    """The tasks with the least and the largest share of answers that neither S nor L gets right.

    Decided on calibration rows with S trained by `method`, so that the test rows decide nothing but the result.
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
        for a, b, role in DECIDING:
            part, where, number = c, "", chosen
            if not isinstance(chosen, Undefined):
                part, where = c.of_task(chosen[place]), f" on {chosen[place]} ({('easiest', 'hardest')[place]})"
                number = part.alone_difference(a, b)
            rows.append(claim_row(part, claim, f"S alone{where}, {name(a)} − {name(b)}", number, direction, role))
    return rows
