"""Guards: what keeps a result from saying anything, found in its outcome table and training logs by stated rules.

A guard is a name, a sentence with the numbers, and whether it forbids a verdict. All thresholds are ours, and are the
same for every page. What is not known (texts that were not kept, logs that are not there) raises no guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cat_core.analysis.claims import ClaimRow
from cat_core.analysis.comparison import Comparison
from cat_core.analysis.operating_points import headroom
from cat_core.analysis.quantities import Undefined, Unit, show_number
from cat_core.methods import METHODS, name
from cat_core.ranking import Interval

FEW, TOO_FEW = 100, 30
"""Test items below which intervals are rough, and below which there is no verdict."""
ONE_ANSWER = 0.99
"""Share of the test items from which on a model's most frequent answer counts as its only one."""
SPOILT = 0.05
"""Share of a model's test answers that may be empty, or cut off, without a word."""
ENDS = 10
"""A training log is judged by the means of its first and last such part."""
SLACK = 1.05
"""By so much the loss of an S that begins trained (a second stage, a healed S) may have risen, and twice its error."""

Logs = Mapping[tuple[str, int], Sequence[Mapping]]
"""Training logs of S by (method, seed): dicts with step, loss and perhaps keep_rate."""


@dataclass(frozen=True)
class Guard:
    """One thing that a reader must know before the numbers. forbids: whether there is no verdict on this account."""

    name: str
    text: str
    forbids: bool = False


def guards(
    c: Comparison, logs: Logs | None = None, normalize: str = "tokens", guessing: Mapping[str, float] | None = None,
    begun: bool = False,
) -> tuple[Guard, ...]:
    """Every guard that a comparison and the logs of its small models raise; those that forbid a verdict first.

    normalize: what the losses are divided by (`train.TrainSettings`). guessing: by task, the accuracy of choosing
    blindly among the options (`blind`), where the suite is there to tell. begun: every method goes on from one S that
    was trained before.
    """
    raised = [
        loss_rises(logs or {}, normalize, begun), one_answer(c), not_learnt(c, guessing or {}), no_headroom(c),
        few_items(c), no_width(c), spoilt(c, "empty answers", "empty"), spoilt(c, "cut answers", "truncated"),
    ]  # fmt: skip
    return tuple(sorted((g for g in raised if g), key=lambda g: not g.forbids))


def silenced(rows: Iterable[ClaimRow], raised: Sequence[Guard]) -> list[ClaimRow]:
    """The rows of claims, those with an interval without a verdict where a guard forbids it."""
    reasons = "; ".join(g.name for g in raised if g.forbids)
    return [replace(r, silenced=reasons) if reasons and isinstance(r.number, Interval) else r for r in rows]


# ---------------------------------------------------------------- from training logs


def loss_rises(logs: Logs, normalize: str = "tokens", begun: bool = False) -> Guard | None:
    """A small model's loss ends where it began or above: it has learnt nothing, or forgotten what it knew.

    Each end is the mean of a tenth of the log; at least 2 logged steps. A masked loss that is divided by all target
    tokens grows as the mask lets more of them in, so it has to have risen for each kept token as well; and as those
    that come in are hard ones, S must not be right on more tokens than it was. What begins trained (`begun`) need not
    fall: it may rise by `SLACK`, and by twice the standard error of the difference between the halves of the log.
    """
    risen = []
    for (method, seed), log in logs.items():
        losses = np.array([row["loss"] for row in log if "loss" in row], dtype=float)
        kept = np.array([row.get("keep_rate", 1.0) for row in log if "loss" in row], dtype=float)
        if len(losses) < 2:
            continue
        masked = METHODS[method].mask != "none" and normalize == "tokens"
        first, last = _ends(losses)
        rose = not last < first  # what is no number has not fallen
        if begun or METHODS[method].second_stage:
            rose = not last < first * SLACK and not _within_error(losses)
        if masked and (kept > 0).all():
            begin, end = _ends(losses / kept)
            right = [row["both"] + row["only_small"] for row in log if "loss" in row and "both" in row]
            first_right, last_right = _ends(np.array(right or [0.0]))
            rose = rose and not end < begin and not last_right > first_right
        if rose:
            risen.append(f"{name(method)} seed {seed} ({first:.3g} to {last:.3g})")
    if not risen:
        return None
    text = f"The training loss did not fall: {_listed(risen)}. Such a model has not learnt; a smaller learning rate may"
    return Guard("the loss rises", f"{text} help.", True)


def _within_error(losses: np.ndarray) -> bool:
    """Whether the second half of a log lies above the first by no more than twice the standard error of that."""
    halves = np.array_split(losses, 2)
    error = sum(half.var(ddof=1) / len(half) if len(half) > 1 else 0.0 for half in halves) ** 0.5
    return bool(halves[1].mean() - halves[0].mean() <= 2 * error)


def _ends(values: np.ndarray) -> tuple[float, float]:
    width = max(1, len(values) // ENDS)
    return float(np.mean(values[:width])), float(np.mean(values[-width:]))


# ---------------------------------------------------------------- from the outcome table


def one_answer(c: Comparison) -> Guard | None:
    """A model gives (nearly) one and the same answer to all test items of every task, and the targets are no such."""
    constant = []
    for label, rows in _test_rows(c):
        if rows["prediction"].isna().any() or len(rows) < 2:
            continue
        parts = [part for _, part in rows.groupby("task", sort=False)]
        shares = [_largest_share(part["prediction"]) for part in parts]
        targets = [1.0 if part["target"].isna().any() else _largest_share(part["target"]) for part in parts]
        if all(s >= ONE_ANSWER > t for s, t in zip(shares, targets)):
            most = rows["prediction"].value_counts()
            constant.append(f"{label} ({most.index[0][:30]!r} to {most.iloc[0]:,} of {len(rows):,})")
    if not constant:
        return None
    return Guard("one answer for everything", f"One answer is given to everything by {_listed(constant)}.", True)


def not_learnt(c: Comparison, guessing: Mapping[str, float]) -> Guard | None:
    """The interval of a model on its own is not wholly above what the best constant answer, or guessing, gets.

    No verdict where L, or every S, is not above; a single S below it is said.
    """
    floor = constant_quality(c, guessing)
    if isinstance(floor, Undefined):
        return None
    low = {m: c.alone(m) for m in c.methods if c.alone(m).low <= floor}
    large = c.large_alone()
    below = [f"S by {name(m)} {_shown(c, x)}" for m, x in low.items()]
    below += [f"L {_shown(c, large)}"] * (large.low <= floor)
    if not below:
        return None
    forbids = large.low <= floor or len(low) == len(c.methods)
    unit = Unit(c.scale, 1)
    what = f"Not shown to be above {show_number(floor, unit)}, what one constant answer or guessing gets"
    return Guard("not above majority or guessing", f"{what}: {_listed(below)}.", forbids)


def no_headroom(c: Comparison) -> Guard | None:
    """L is not shown to be better than S: the interval of their difference reaches 0.

    No verdict where L is no better than any S, by the estimates.
    """
    gaps = {m: headroom(c, m) for m in c.methods}
    none = [f"{show_number(x, c.gain)} ({name(m)})" for m, x in gaps.items() if x.low <= 0]
    if not none:
        return None
    text = (
        f"L alone is not shown to be better than S alone: L less S is {_listed(none)} points. There is little or "
        "nothing to gain by deferring."
    )
    return Guard("L not better than S", text, all(x.estimate <= 0 for x in gaps.values()))


def few_items(c: Comparison) -> Guard | None:
    """Fewer test items than `FEW`; below `TOO_FEW` there is no verdict."""
    if c.n >= FEW:
        return None
    text = f"There are {c.n:,} test items; with fewer than {FEW} intervals are rough"
    return Guard("few test items", f"{text}, and with fewer than {TOO_FEW} there is no verdict.", c.n < TOO_FEW)


def no_width(c: Comparison) -> Guard | None:
    """An interval of a model on its own, or of a difference between methods, has no width.

    All items (and seeds) agree, so that drawing them anew shows nothing. No verdict where a difference has none.
    """
    alone = {f"S by {name(m)}": c.alone(m) for m in c.methods} | {"L": c.large_alone()}
    pairs = {f"{name(a)} less {name(b)}": c.difference(a, b) for a, b in c.pairs}
    flat = [label for label, x in (alone | pairs).items() if isinstance(x, Interval) and x.low == x.high]
    if not flat:
        return None
    text = f"No interval: on {c.n:,} test items drawing items anew changes nothing for {_listed(flat)}"
    return Guard("intervals of width 0", f"{text}. That is no certainty.", any(label in pairs for label in flat))


def spoilt(c: Comparison, what: str, column: str) -> Guard | None:
    """More than `SPOILT` of a model's test answers are empty, or were cut off before they ended."""
    many = [(label, k, n) for label, n, counts in answers(c) if (k := counts[column]) is not None and k > SPOILT * n]
    if not many:
        return None
    listed = _listed([f"{k:,} of {n:,} by {label}" for label, k, n in many])
    hint = "raise max_new_tokens" if column == "truncated" else "an empty answer may have the highest confidence of all"
    return Guard(what, f"{what.capitalize()}: {listed}; {hint}.")


def answers(c: Comparison) -> list[tuple[str, int, dict[str, int | None]]]:
    """(model, number of test answers, how many of them are "empty" and "truncated"), over the seeds.

    empty: None where texts were not kept.
    """
    rows = []
    for label, part in _test_rows(c):
        known = not part["prediction"].isna().any()
        empty = int((part["prediction"].str.strip() == "").sum()) if known else None
        rows.append((label, len(part), {"empty": empty, "truncated": int(part["truncated"].sum())}))
    return rows


def constant_quality(c: Comparison, guessing: Mapping[str, float]) -> float | Undefined:
    """Quality of the best constant answer of each task, or of guessing where that is better, pooled over test items.

    0 for metrics that are no mean. Undefined where texts were not kept and the recorded metrics do not say it either.
    """
    if c.by_counts:
        return 0.0
    rows = c.frame[(c.frame["model"] == "large") & (c.frame["split"] == "test")].drop_duplicates("item_id")
    kept, total = getattr(c.kept, "tasks", None), 0.0
    for task, part in rows.groupby("task", sort=False):
        share = _largest_share(part["target"]) if not part["target"].isna().any() else None
        if share is None and isinstance(kept, Mapping) and task in kept:
            share = kept[task].majority
        if not isinstance(share, float):
            return Undefined("the targets were not kept")
        total += len(part) * max(share, guessing.get(task, 0.0))
    return total / len(rows)


def blind(suite) -> dict[str, float]:
    """By task of a suite, the accuracy of choosing blindly among the options of its test items, where all have some."""
    shares: dict[str, list[float]] = {}
    for e in suite.split("test"):
        shares.setdefault(e.task, []).append(1 / len(e.options) if e.options else 0.0)
    return {task: float(np.mean(values)) for task, values in shares.items() if all(values)}


def _test_rows(c: Comparison):
    """(model for readers, its test rows over the seeds) of every method, then of L."""
    test = c.frame[c.frame["split"] == "test"]
    small = test[(test["model"] == "small") & test["seed"].isin(c.seeds)]
    for m in c.methods:
        yield f"S by {name(m)}", small[small["method"] == m]
    yield "L", test[test["model"] == "large"]


def _largest_share(texts) -> float:
    return float(texts.value_counts(normalize=True).iloc[0])


def _shown(c: Comparison, x: Interval) -> str:
    return show_number(x, Unit(c.scale, 1))


def _listed(parts: Sequence[str], most: int = 4) -> str:
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
