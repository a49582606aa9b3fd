"""Claims: what the paper says, the number of this run or cell, and what the number says, by stated rules.

The rules are fixed here and know only the interval, the direction claimed and the number of training seeds, so that no
page can word its own verdict. What several cells say together is pooled in `verdicts`, from the rows that pages and
cells leave in their metrics. The unit of a claim about the trade-off is the saving (`saving`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from scipy.stats import t

from cat_core import curves
from cat_core.analysis.comparison import CONTROL, PRIMARY, Comparison
from cat_core.analysis.estimates import Estimate
from cat_core.analysis.quantities import Undefined, Unit, show_number
from cat_core.analysis.resampling import aligned, mean_curves, percentiles
from cat_core.analysis.saving import by_task, difference_alone, primary_rule, saving
from cat_core.methods import name, rule_name
from cat_core.ranking import Interval

SUPPORTED, NO_EFFECT, OPPOSITE, INCONCLUSIVE = "supported", "no effect worth having", "opposite", "inconclusive"
NOT_TESTABLE = "not testable"
ONE_SEED = "one seed proves nothing"
NONE = "no claim"
"""In place of a claim's id, on data that no claim is about."""
NO_VERDICT = "no verdict"
DIRECTIONS = {1: "above 0", -1: "below 0", 0: "no difference"}
ROLES = ("primary", "control", "reading", "secondary")
"""What a row is for: deciding its claim, showing that the effect is that of the mask, a second reading of it with the
best rule on calibration items, or none of these."""
MARGIN = 2.0
"""Points of the metric (0 to 100) within which two methods count as not different."""
WORTH = 0.05
"""The least saving that is worth having."""
WITHIN, ABOVE = "within the bound", "above the bound"
LEAST_GAP, SURE_GAP, NEITHER = 5.0, 2.0, (0.05, 0.60)
EASY, HARD = 0.10, 0.30
"""Share of answers that neither model gets right, up to which a task is easy, and from which on it is hard."""
ELIGIBLE = (
    f"A cell is heard where, by S with Xent on calibration items, L is better than the most frequent answer and than "
    f"guessing; L is better than S by at least {LEAST_GAP:g} points, with a lower end above {SURE_GAP:g}; and of the "
    f"answers (of free text: the held-out target tokens) {100 * NEITHER[0]:.0f} to {100 * NEITHER[1]:.0f}\u00a0% are "
    "right by neither."
)
ROW_RULES = (
    f"Rules: interval above 0 as claimed, {SUPPORTED!r}; on the other side of 0, {OPPOSITE!r}; else, where the "
    f"90\u00a0% interval lies within \u00b1{100 * WORTH:.0f}\u00a0% of cost (of quality: \u00b1{MARGIN:g} points), "
    f"{NO_EFFECT!r}; else {INCONCLUSIVE!r}. Claimed to be no difference: {SUPPORTED!r} where the interval lies within "
    f"\u00b1{MARGIN:g} points, {OPPOSITE!r} where it lies wholly beyond them. Claimed to be bounded by a share: "
    f"{WITHIN!r}, or {ABOVE!r} where the whole interval lies beyond it. With fewer than two training seeds the verdict "
    f"adds that {ONE_SEED}; where a run cannot speak, {NO_VERDICT!r} with the reason."
)


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """One line of the table "direction claimed / this run".

    claim: its id in the book, such as "C1". measure: which number is looked at. direction: 1 if the claim says that it
    is above 0, -1 below, 0 if it says that there is no difference. role: one of `ROLES`. family: what is judged
    together, such as "CAT-Xent". number: of this run, with its interval, or why there is none; error, freedom: its
    standard error and degrees of freedom, where it can be pooled; share: whether it is a saving, a share of cost;
    scale: brings it to points (0 to 100), or to percent; level: coverage of the interval. n items, seeds of S,
    large_seeds: what it rests on. mass: the share of target tokens that neither model gets right, for the claim that it
    bounds the difference (C10). ineligible: why the cell is not heard on this claim, by `ELIGIBLE`. silenced: why there
    is no verdict where a guard forbids it (`guards`).
    """

    claim: str
    measure: str
    direction: int
    role: str = "secondary"
    family: str = ""
    number: Interval | Undefined
    error: float | None = None
    freedom: float | None = None
    share: bool = False
    scale: float = 1.0
    level: float = 0.95
    n: int
    seeds: int
    large_seeds: int = 1
    mass: float | None = None
    ineligible: str | None = None
    silenced: str | None = None

    also_written: ClassVar[dict[str, str]] = {"verdict": "mass"}

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}, expected one of {', '.join(ROLES)}")

    @property
    def unit(self) -> Unit:
        """How the number is shown: in points or, of a saving, in percent, with its sign."""
        return Unit(self.scale, 1, "\u00a0%", True) if self.share else Unit(self.scale, 2, "", True)

    @property
    def worth(self) -> float:
        """The least effect worth having, in the unit of the number."""
        return WORTH if self.share else MARGIN / self.scale

    @property
    def heard(self) -> bool:
        """Whether it may decide anything: an eligible number with an interval, from at least two seeds, that no guard
        forbids."""
        return isinstance(self.number, Interval) and self.seeds > 1 and not (self.silenced or self.ineligible)

    @property
    def estimate(self) -> Estimate | None:
        """The number with what it takes to pool it, in the direction claimed; None where that is not known."""
        if self.error is None or not isinstance(self.number, Interval):
            return None
        ends = [(self.direction or 1) * x for x in (self.number.estimate, self.number.low, self.number.high)]
        return Estimate(Interval(ends[0], min(ends[1:]), max(ends[1:])), self.error, self.freedom, self.level)

    @property
    def verdict(self) -> str:
        """The verdict by `ROW_RULES`."""
        if self.silenced:
            return f"{NO_VERDICT}: {self.silenced}"
        if isinstance(self.number, Undefined):
            return NOT_TESTABLE
        if self.ineligible:
            return f"{NOT_TESTABLE}: {self.ineligible}"
        if self.mass is not None:
            points, low = 100 * self.mass, max(self.number.low, -self.number.high, 0.0)
            text = WITHIN if self.scale * low <= points else ABOVE
        else:
            text = word(self.number, self.direction, self.worth, self.narrow)
        return text if self.seeds > 1 else f"{text}; {ONE_SEED}"

    @property
    def narrow(self) -> Interval:
        """The 90 % interval, symmetric."""
        middle = self.number.estimate
        if self.error is None:  # by the normal distribution, from the interval that there is
            low, high = (middle + (end - middle) * t.ppf(0.95, 1e6) / t.ppf((1 + self.level) / 2, 1e6)
                         for end in (self.number.low, self.number.high))  # fmt: skip
            return Interval(middle, low, high)
        reach = self.error * float(t.ppf(0.95, self.freedom))
        return Interval(middle, middle - reach, middle + reach)

    @property
    def shown(self) -> str:
        """The number for readers."""
        return show_number(self.number, self.unit)

    @property
    def sentence(self) -> str:
        """The row in one sentence."""
        verdict = self.verdict if self.silenced else f"verdict: {self.verdict}"
        return f"{self.measure} ({self.claim}): {self.shown}; {verdict}."


def word(number: Interval, direction: int, worth: float, narrow: Interval | None = None) -> str:
    """What `number` says of a claim that it lies above (direction 1) or below (-1) 0, or (0) that it is 0.

    An interval that touches 0 includes it. worth: the least effect worth having; narrow: the 90 % interval, for "no
    effect worth having" (default: `number`). Raises ValueError for another direction and for NaN.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}, expected 1 (above 0) or -1 (below 0), or 0 (no difference)")
    if not number.low <= number.high:
        raise ValueError(f"the interval runs from {number.low} to {number.high}, expected numbers in rising order")
    narrow = narrow or number
    if direction == 0:
        if max(abs(number.low), abs(number.high)) <= worth:
            return SUPPORTED
        return OPPOSITE if number.low > worth or number.high < -worth else INCONCLUSIVE
    if number.low > 0 or number.high < 0:
        return SUPPORTED if (number.low > 0) == (direction > 0) else OPPOSITE
    return NO_EFFECT if max(abs(narrow.low), abs(narrow.high)) <= worth else INCONCLUSIVE


def audc_measure(label: str, a: str, b: str) -> str:
    return f"AUDC ({label}), {name(a)} \u2212 {name(b)}"


def saving_measure(rule: str, a: str, b: str) -> str:
    return f"Saving ({rule_name(rule)}), {name(a)} against {name(b)}"


_TASK = re.compile(r"^S alone on (.*) \((?:easiest|hardest)\)")


def task_of(measure: str) -> str | None:
    """The task that a measure of C5 or C6 names as the easiest or hardest one."""
    match = _TASK.search(measure)
    return match[1] if match else None


def without_task(measure: str) -> str:
    return _TASK.sub("S alone", measure)


# ---------------------------------------------------------------- which cells are heard


def ineligible(c: Comparison, floor: Mapping[str, float], neither: float | None = None) -> str | None:
    """Why a comparison is not heard on a cascade, by `ELIGIBLE`, from S by Xent on calibration items; None if it is.

    floor: quality of the best constant answer or of guessing, by task, as far as it is known; neither: share of target
    tokens that neither gets right, for metrics that are no mean over items.
    """
    if "xent" not in c.methods:
        return "no Xent was run to decide by"
    gaps, tops, wrong = [], [], []
    for part in by_task(c):
        runs = [part.run("xent", seed, "calibration") for seed in part.seeds]
        once, drawn = mean_curves(*aligned({"xent": runs}, None), np.array([0.0, 1.0]), part.resamples, groups=c.groups)
        gaps.append((part.scale * (once[0, 2] - once[0, 1]), part.scale * (drawn[:, 0, 2] - drawn[:, 0, 1])))
        tops.append(once[0, 2] - max((floor.get(task, 0.0) for task in part.tasks), default=0.0))
        pairs = [part.pairing("xent", seed, "calibration") for seed in part.seeds]
        both = [(r.small_quality < part.right_at) & (r.large_quality < part.right_at) for r in pairs]
        wrong.append(np.mean(both) if neither is None else neither)
    if np.mean(tops) <= 0:
        return "L is not better than the most frequent answer or guessing"
    gap, low = np.mean([g for g, _ in gaps]), percentiles(np.mean([d for _, d in gaps], axis=0), c.level)[0]
    if gap < LEAST_GAP or low <= SURE_GAP:
        return f"L is better than S by {gap:.1f} points (lower end {low:.1f}) only"
    if not NEITHER[0] <= np.mean(wrong) <= NEITHER[1]:
        return f"neither model gets {100 * np.mean(wrong):.0f}\u00a0% right"
    return None


# ---------------------------------------------------------------- claims


def on(c: Comparison) -> dict:
    """What every row on a comparison rests on."""
    return {"n": c.n, "seeds": len(c.seeds), "large_seeds": c.large_models, "scale": c.scale, "level": c.level}


def claim_row(
    c: Comparison, claim: str, measure: str, number, direction: int = 1, role: str = "primary", **more
) -> ClaimRow:
    """A row on a comparison; number: an `Estimate`, too; more: its further fields, or in place of those of `on`."""
    if isinstance(number, Estimate):
        more |= {"error": number.error, "freedom": number.freedom}
        number = number.number
    return ClaimRow(claim=claim, measure=measure, direction=direction, number=number, role=role, **on(c) | more)


FILTERS = (("cat-dist", "large-dist"), ("cat-xent", "large-xent"))
"""CAT with the mask that asks L alone: what does as well is a filter of labels, no cascade."""
DECIDING = [(*pair, "primary") for pair in PRIMARY] + [(*pair, "control") for pair in (*CONTROL, *FILTERS)]
"""(a, b, role) of the pairs that decide a claim: a control that was not run has to be seen, too."""


def cascade_claims(
    c: Comparison, claim: str, why_not: str | None = None, rules: Sequence[str] = ()
) -> list[ClaimRow]:
    """The claim that CAT improves the cascade: savings of the primary pairs and their controls, by `primary_rule`.

    why_not: of `ineligible`. rules: those that the second reading chooses from, on calibration items (none: it is left
    out). Beside them, secondary, the difference of AUDC with Chow-Average in the metric. A claim named with
    ", secondary" (another metric of the same answers) decides nothing.
    """
    only = "secondary" if claim.endswith("secondary") else ""
    rows, rule = [], primary_rule(c)
    about = {"share": True, "scale": 100.0, "ineligible": why_not}
    for a, b, role in DECIDING:
        measure, role = saving_measure(rule, a, b), only or role
        known = recorded_row(c, claim, measure)
        rows.append(known or claim_row(c, claim, measure, saving(c, a, b), role=role, family=name(a), **about))
    for a, b in PRIMARY:
        if rules and {a, b} <= set(c.methods):
            ours, theirs = (best_rule(c, m, rules) for m in (a, b))
            mine, other = f"{name(a)} with {rule_name(ours)}", f"{name(b)} with {rule_name(theirs)}"
            measure = f"Saving (best rules), {mine} against {other}"
            number = saving(c, a, b, ours, theirs)
            rows.append(claim_row(c, claim, measure, number, role=only or "reading", family=name(a), **about))
    for a, b in PRIMARY:
        measure = audc_measure(c.label, a, b)
        rows.append(claim_row(c, claim, measure, c.difference(a, b), role="secondary", family=name(a)))
    return rows


def recorded_row(c: Comparison, claim: str, measure: str) -> ClaimRow | None:
    """The row of a recorded cell that says this of a claim: then nothing is drawn."""
    return next((r for r in getattr(c.recorded, "claims", ()) if (r.claim, r.measure) == (claim, measure)), None)


def best_rule(c: Comparison, method: str, rules: Sequence[str]) -> str:
    """The rule with the largest AUDC on calibration items, mean over seeds and tasks; of equals the first one."""
    pairs = list(product(by_task(c), c.seeds))

    def area(rule: str) -> float:
        return float(np.mean([curves.audc(part.seed_curve(method, s, "calibration", rule)) for part, s in pairs]))

    return max(rules, key=area)


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

    mass: that share, of the target tokens in training (1 - keep-rate of the mask), in [0, 1]. Of metrics that are no
    share of items it decides nothing: a share of tokens is no yardstick for BLEU.
    """
    if not 0 <= mass <= 1:
        raise ValueError(f"mass is {mass!r}, expected the share of tokens that neither model gets right, in [0, 1]")
    role = "secondary" if c.by_counts else "primary"
    return [
        claim_row(c, claim, audc_measure(c.label, a, b), c.difference(a, b), role=role, mass=float(mass))
        for a, b in PRIMARY
    ]


def easy_and_hard(c: Comparison, method: str = "xent") -> tuple[str, str] | Undefined:
    """The tasks with the least and the largest share of answers that neither S nor L gets right.

    Decided on calibration rows with S trained by `method`, so that the test rows decide nothing but the result.
    Undefined where the one is not easy (`EASY`) or the other not hard (`HARD`).
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
    least, most = ordered[0], ordered[-1]
    if shares[least] > EASY or shares[most] < HARD:
        found = f"{100 * shares[least]:.0f}\u00a0% ({least}) to {100 * shares[most]:.0f}\u00a0% ({most})"
        return Undefined(f"no easy and no hard task: of answers neither gets {found} right")
    return least, most


def alone_claims(c: Comparison) -> list[ClaimRow]:
    """C5 and C6: CAT helps S on its own on the easiest task and hurts it on the hardest one, and does so more than
    the random mask and the filter of labels."""
    chosen, rows = easy_and_hard(c), []
    for claim, direction, place in (("C5", 1, 0), ("C6", -1, 1)):
        for a, b, role in DECIDING:
            part, where = c, ""
            if not isinstance(chosen, Undefined):
                part, where = c.of_task(chosen[place]), f" on {chosen[place]} ({('easiest', 'hardest')[place]})"
            measure = f"S alone{where}, {name(a)} \u2212 {name(b)}"
            row = recorded_row(c, claim, measure)
            if row is None:
                number = chosen if isinstance(chosen, Undefined) else difference_alone(part, a, b)
                row = claim_row(part, claim, measure, number, direction, role, family=name(a))
            rows.append(row)
    return rows
