"""Verdicts by stated rules: a claim of the paper, the number of this run, and what the number says.

The rules are fixed here and know only the interval, the direction claimed and the number of training seeds,
so that no page can word its own verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cat_core.comparison import Comparison
from cat_core.ranking import Interval
from cat_core.tables import PLAIN, Table, Undefined, Unit, show_number
from cat_core.training_report import name

SAME, UNDECIDED, OPPOSITE = "same direction, interval excludes 0", "undecided", "opposite"
ONE_SEED = "one seed proves nothing"
UNTESTED = "not testable here"
DIRECTIONS = {1: "above 0", -1: "below 0"}
RULES = (
    f"Rules: interval above or below 0 as claimed, {SAME!r}; interval includes 0, {UNDECIDED!r}; interval on "
    f"the other side of 0, {OPPOSITE!r}; with fewer than two training seeds the verdict adds that {ONE_SEED}."
)


@dataclass(frozen=True)
class ClaimRow:
    """One line of the table "direction claimed / this run".

    claim: its id in the book, such as "C1". measure: which number is looked at. direction: 1 if the claim
    says that it is above 0, -1 below. number: of this run, with its interval, or why there is none. n items,
    seeds: what it rests on. unit: how the number is shown.
    """

    claim: str
    measure: str
    direction: int
    number: Interval | Undefined
    n: int
    seeds: int
    unit: Unit = PLAIN

    @property
    def verdict(self) -> str:
        """The verdict by `RULES`."""
        return verdict(self.number, self.direction, self.seeds)

    @property
    def sentence(self) -> str:
        """The row in one sentence."""
        return f"{self.measure} ({self.claim}): {show_number(self.number, self.unit)}; verdict: {self.verdict}."


def verdict(number: Interval | Undefined, direction: int, seeds: int) -> str:
    """What `number` says of a claim that it lies above (direction 1) or below (-1) 0.

    An interval that touches 0 includes it. Raises ValueError for another direction, NaN, or fewer than one
    seed.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, expected 1 (above 0) or -1 (below 0)")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}, expected how many training seeds there are, at least 1")
    if isinstance(number, Undefined):
        return UNTESTED
    if not number.low <= number.high:
        raise ValueError(f"the interval runs from {number.low} to {number.high}, expected numbers in rising order")
    if number.low > 0 or number.high < 0:
        text = SAME if (number.low > 0) == (direction > 0) else OPPOSITE
    else:
        text = UNDECIDED
    return text if seeds > 1 else f"{text}; {ONE_SEED}"


def claims_table(rows: Sequence[ClaimRow], caption: str) -> Table:
    """The rows as a table, with the rules below it."""
    columns = ("Claim", "Measure", "Direction claimed", "This run", "n, seeds", "Verdict")
    shown = [
        (
            r.claim,
            r.measure,
            DIRECTIONS[r.direction],
            show_number(r.number, r.unit),
            f"{r.n:,}, {r.seeds}",
            r.verdict,
        )
        for r in rows
    ]
    return Table(columns, shown, caption, RULES)


# ---------------------------------------------------------------- claims


def gain_unit(c: Comparison) -> Unit:
    """Differences of quality or of AUDC, in points, with sign."""
    return Unit(c.scale, 2, "", True)


def cascade_claims(c: Comparison, claim: str) -> list[ClaimRow]:
    """The claim that CAT improves the cascade: AUDC of the primary pairs, Chow-Average, test items."""
    where = {"direction": 1, "n": c.n, "seeds": len(c.seeds), "unit": gain_unit(c)}
    pairs = [("cat-dist", "dist"), ("cat-xent", "xent"), ("cat-dist", "random-dist")]
    return [
        ClaimRow(claim, f"AUDC ({c.label}), {name(a)} − {name(b)}", number=c.difference(a, b), **where)
        for a, b in pairs
    ]


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
    """C5 and C6: CAT helps S on its own on the easiest task and hurts it on the hardest one."""
    chosen, rows = easy_and_hard(c), []
    for claim, direction, place in (("C5", 1, 0), ("C6", -1, 1)):
        for a, b in (("cat-dist", "dist"), ("cat-xent", "xent")):
            if isinstance(chosen, Undefined):
                measure, number, n = f"S alone, {name(a)} − {name(b)}", chosen, c.n
            else:
                part = c.of_task(chosen[place])
                measure = f"S alone on {chosen[place]} ({('easiest', 'hardest')[place]}), {name(a)} − {name(b)}"
                number, n = part.alone_difference(a, b), part.n
            rows.append(ClaimRow(claim, measure, direction, number, n, len(c.seeds), gain_unit(c)))
    return rows
