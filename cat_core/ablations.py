"""Ablations: cells that differ from a reference cell in one setting, paired with it; and the masks of a cell.

The same seed of S starts from the same weights, sees the same batches, defers to the same large model and answers the
same items in both cells, so differences across cells are paired like differences within one (`contrasts`). Nothing is
trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cat_core import figures, forest
from cat_core.contrasts import Arm, contrasts
from cat_core.curves import audc
from cat_core.evidence_report import caption, difference, gain, labels, numbers, pair_name, scale, value
from cat_core.ranking import Interval
from cat_core.rules_report import nothing
from cat_core.study import Cell
from cat_core.tables import PERCENT, PLAIN, Table, Undefined, Unit, show_number
from cat_core.training_report import name

SETTING_NAMES = {
    "label_weight": "w",
    "temperature": "T",
    "normalize": "divided by",
    "out_of_fold": "mask out of fold",
}
OWN = ("methods", "seeds", "large_seeds")  # what an ablation may have fewer of
CAT, UNMASKED = "cat-dist", "dist"
KEPT = {
    "cat-xent": ("both", "only_small", "only_large"),
    "cat-dist": ("both", "only_small", "only_large"),
    "random-xent": ("both", "only_small", "only_large"),
    "random-dist": ("both", "only_small", "only_large"),
    "large-dist": ("both", "only_large"),
    "small-dist": ("both", "only_small"),
    "both-dist": ("both",),
    "neither-dist": ("neither",),
}
"""The cells of the token ledger that each mask keeps; of random masks, as many tokens as these hold."""


@dataclass(frozen=True)
class Ablation:
    """A recorded cell and the reference cell that it differs from in one setting."""

    cell: Cell
    reference: Cell
    setting: str
    old: object
    new: object

    @property
    def label(self) -> str:
        """The setting for readers, such as "w = 0.25"; its name alone where it was switched on."""
        named = SETTING_NAMES.get(self.setting, self.setting)
        return named if self.new is True else f"{named} = {self.new}"

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that both cells trained, in the order of the ablation."""
        return tuple(m for m in self.cell.config["methods"] if m in self.reference.config["methods"])


def settings(cell: Cell) -> dict:
    """The cell's configuration with the defaults of `Experiment.of` filled in, without methods and seeds."""
    import inspect

    from cat_core.experiment import Experiment

    known = [*inspect.signature(Experiment.of).parameters.values(), *inspect.signature(Experiment).parameters.values()]
    default = {p.name: p.default for p in known if isinstance(p.default, str | int | float)}
    return {k: v for k, v in (default | cell.config).items() if k not in OWN}


def changed(cell: Cell, reference: Cell) -> dict[str, tuple]:
    """{setting: (value of the reference, value of the cell)} of all that differ; None where one lacks it."""
    ours, theirs = settings(cell), settings(reference)
    return {k: (theirs.get(k), ours.get(k)) for k in (*theirs, *ours) if theirs.get(k) != ours.get(k)}


def ablations(cells: Iterable[Cell], references: Iterable[Cell]) -> list[Ablation]:
    """Every cell with the one reference from which it differs in one setting.

    Cells whose reference is not among `references` (not recorded yet) are left out. Raises ValueError for a cell that
    has several, or whose seeds are not the first ones of its reference (only these have the same large models).
    """
    found, references = [], list(references)
    for cell in cells:
        near = [(ref, change) for ref in references if len(change := changed(cell, ref)) == 1]
        if len(near) > 1:
            raise ValueError(f"cell {cell.name!r} is an ablation of {' and '.join(r.name for r, _ in near)}: give one")
        for reference, change in near:
            if any(s not in reference.seeds or cell.large_seed(s) != reference.large_seed(s) for s in cell.seeds):
                raise ValueError(
                    f"cell {cell.name!r} has seeds {list(cell.seeds)} over {cell.config['large_seeds']}, which "
                    f"{reference.name!r} does not have with the same large models: they cannot be paired"
                )
            ((setting, (old, new)),) = change.items()
            found.append(Ablation(cell, reference, setting, old, new))
    return found


@dataclass(frozen=True)
class Shift:
    """What a changed setting does, AUDC with Chow-Average on test items, paired over seeds and items.

    by_method: changed setting less reference, by method. before, after: CAT-Dist − Dist at the reference and at the
    changed setting; change: after less before. dots: before and after by seed, [2][seeds]. small_alone: quality of S
    alone (reference, changed) by method. other_large: share of test items on which the L of the two cells score
    differently (0 where they are one model). All in the unit of the quality.
    """

    by_method: dict[str, Interval]
    before: Interval | Undefined
    after: Interval | Undefined
    change: Interval | Undefined
    dots: tuple[tuple[float, ...], tuple[float, ...]]
    small_alone: dict[str, tuple[float, float]]
    other_large: float
    n: int


def shift(a: Ablation, resamples: int = 0) -> Shift:
    """Measure an ablation from the two recorded tables, restricted to the seeds of the ablation."""
    options = {"resamples": resamples} if resamples else {}
    sides = {
        "old": a.reference.comparison(seeds=a.cell.seeds, methods=a.methods, **options),
        "new": a.cell.comparison(methods=a.methods, **options),
    }
    arms = {(m, side): Arm(c, m) for m in a.methods for side, c in sides.items()}
    wanted = {m: {(m, "new"): 1, (m, "old"): -1} for m in a.methods}
    dots = ((), ())
    if {CAT, UNMASKED} <= set(a.methods):
        wanted["before"] = {(CAT, "old"): 1, (UNMASKED, "old"): -1}
        wanted["after"] = {(CAT, "new"): 1, (UNMASKED, "new"): -1}
        wanted["change"] = wanted["after"] | {arm: -x for arm, x in wanted["before"].items()}
        areas = [[[audc(c.seed_curve(m, seed)) for seed in a.cell.seeds] for c in sides.values()]
                 for m in (CAT, UNMASKED)]  # fmt: skip
        dots = tuple(tuple(map(float, row)) for row in np.subtract(*areas))
    found = contrasts(arms, wanted)
    gap = Undefined("CAT-Dist or Dist was not run")
    alone = {m: tuple(float(c.curve(m).quality[0]) for c in sides.values()) for m in a.methods}
    large = [[c.pairing(a.methods[0], s).large_quality for s in a.cell.seeds] for c in sides.values()]
    return Shift(
        {m: found[m] for m in a.methods}, *(found.get(k, gap) for k in ("before", "after", "change")), dots, alone,
        float(np.mean(np.not_equal(*large))), sides["new"].n,
    )  # fmt: skip


def _note(text: str, found: Sequence[Ablation], shifts: Mapping[str, Shift]) -> str:
    other = max(shifts[a.cell.name].other_large for a in found)
    if other:
        text += f" Beware: the L of two cells score differently on up to {100 * other:.1f} % of the items."
    return caption(f"{text} [ ]: 95 % intervals, paired across the cells.", [a.cell.metrics() for a in found])


def shifts_table(found: Sequence[Ablation], shifts: Mapping[str, Shift]) -> Table:
    """What each changed setting does to CAT-Dist − Dist; shifts: by the cell's name."""
    title, rows = "What a setting does to the effect of the mask, points of AUDC", []
    for a in found:
        unit, s = gain(a.cell.metrics()), shifts[a.cell.name]
        parts = [show_number(x, unit) for x in (s.before, s.after, s.change)]
        rows.append((f"{a.reference.name}: {a.label}", str(a.old), *parts))
    if not rows:
        return nothing(title)
    columns = ("Cell: changed setting", "reference", "CAT-Dist − Dist, reference", "CAT-Dist − Dist, changed", "change")
    return Table(columns, rows, title, _note("The reference has the same seeds as the changed cell.", found, shifts))


def methods_table(found: Sequence[Ablation], shifts: Mapping[str, Shift]) -> Table:
    """What each changed setting does to each method by itself."""
    title, rows = "What a setting does to each method by itself, points of the metric", []
    for a in found:
        m, s = a.cell.metrics(), shifts[a.cell.name]
        for method, moved in s.by_method.items():
            alone = [show_number(x, Unit(scale(m), 1)) for x in s.small_alone[method]]
            rows.append((f"{a.reference.name}: {a.label}", name(method), show_number(moved, gain(m)), *alone))
    if not rows:
        return nothing(title)
    columns = ("Cell: changed setting", "Method", "AUDC: changed − reference", "S alone, reference", "S alone, changed")
    return Table(columns, rows, title, _note("", found, shifts))


def shifts_figure(found: Sequence[Ablation], shifts: Mapping[str, Shift], number: str = "") -> figures.Shown | Table:
    """CAT-Dist − Dist at the reference and at every changed setting, one panel a reference cell."""
    panels, said = {}, []
    for a in found:
        m, s = a.cell.metrics(), shifts[a.cell.name]
        k = scale(m)
        if isinstance(s.after, Undefined):
            continue
        if a.reference.name not in panels:
            panels[a.reference.name] = [_row("reference", s.before, k, s.dots[0], UNMASKED)]
            said.append(f"{a.reference.name}, reference: {show_number(s.before, gain(m))}")
        panels[a.reference.name].append(_row(a.label, s.after, k, s.dots[1], CAT))
        said.append(f"{a.label}: {show_number(s.after, gain(m))}")
    if not panels:
        return nothing("CAT-Dist − Dist at every changed setting")
    fig = forest.forest_figure(panels, x_label="CAT-Dist − Dist: AUDC (points)")
    text = (
        f"{number}: the effect of the mask with one setting changed at a time, against the reference setting with the "
        "same seeds; 95 % intervals, hollow dots: single seeds"
    ).removeprefix(": ")
    alt = f"Forest plot. {'; '.join(said)}.".replace("\u00a0", " ")
    return figures.show(fig, alt, caption(text, [a.cell.metrics() for a in found]))


def _row(label: str, x: Interval, k: float, dots: Sequence[float], method: str) -> forest.Row:
    return forest.Row(label, k * x.estimate, k * x.low, k * x.high, tuple(k * d for d in dots), method)


def shifts_words(shifts: Mapping[str, Shift]) -> str:
    """In how many ablations the effect of the mask changes beyond its interval, in one sentence."""
    known = [s.change for s in shifts.values() if isinstance(s.change, Interval)]
    if not known:
        return "no ablation is recorded yet"
    more, less = sum(x.low > 0 for x in known), sum(x.high < 0 for x in known)
    return (
        f"of {len(known)} changed settings, {more} make CAT-Dist − Dist larger and {less} make it smaller by an "
        f"interval that excludes 0; {len(known) - more - less} are undecided"
    )


# ---------------------------------------------------------------- masks


def policies_table(cell) -> Table:
    """Every training method of a cell: constant policies, random deferral, Chow-Average and the oracle."""
    (m,) = numbers(cell)
    points, rows = Unit(scale(m), 1), []
    for method, row in m["methods"].items():
        shown = [show_number(value(row[k]), points) for k in ("small_alone", "random_audc", "audc")]
        more = show_number(value(row["audc_over_random"]), gain(m)), show_number(row["oracle_audc"], points)
        rows.append((name(method), *shown, *more, show_number(value(row["normalised_audc"]), PLAIN)))
    greedy = " The oracle is greedy, by sentence-level gain." if scale(m) == 1 else ""
    large = show_number(value(m["large_alone"]), points)
    columns = ("Method", "always S", "random deferral", "Chow-Average (AUDC)", "rule − random", "oracle", "normalised")
    note = f"Always L: {large}, the same for all.{greedy} [ ]: 95 % intervals, {m['resamples']:,} paired resamples."
    return Table(columns, rows, f"All training methods, points of the metric: {m['cell']}", caption(note, [m]))


def masks_figure(cells, number: str = "") -> figures.Shown | Table:
    """AUDC of Dist with every mask less that of Dist without one, one panel a cell, with the keep-rates."""
    panels, said, used = {}, [], []
    for m, label in zip(numbers(cells), labels(numbers(cells))):
        rows = []
        for method in (x for x in KEPT if x.endswith("-dist") and x in m["methods"]):
            found = difference(m, method, UNMASKED)
            if isinstance(found, Interval):
                kept = show_number(m["tokens"][method]["keep_rate"], Unit(100, 0, "\u00a0%"))
                dots = np.subtract(m["audc_by_seed"][method], m["audc_by_seed"][UNMASKED])
                rows.append(_row(f"{name(method)} ({kept})", found, scale(m), dots, method))
                said.append(f"{label}, {name(method)}, keep-rate {kept}: {show_number(found, gain(m))}")
        if rows:
            panels[label] = rows
            used.append(m)
    if not panels:
        return nothing("Dist with every mask less Dist")
    fig = forest.forest_figure(panels, x_label="AUDC less that of Dist (points)")
    text = (
        f"{number}: what each mask does to Dist, with the share of target tokens that it kept in training; marks and "
        "bars: mean over seeds with 95 % intervals, hollow dots: single seeds"
    ).removeprefix(": ")
    return figures.show(fig, f"Forest plot. {'; '.join(said)}.".replace("\u00a0", " "), caption(text, used))


def gatekeeper_table(cells) -> Table:
    """Gatekeeper less its own first stage, Xent, and less CAT-Xent: AUDC and S alone."""
    title, rows, found = "Gatekeeper, a second stage after Xent, points of the metric", [], numbers(cells)
    for m, label in zip(found, labels(found)):
        if "gatekeeper" in m["methods"]:
            shown = [show_number(difference(m, "gatekeeper", base, which), gain(m))
                     for base in ("xent", "cat-xent") for which in ("audc", "alone")]  # fmt: skip
            rows.append((label, *shown))
    if not rows:
        return nothing(title)
    pairs = [pair_name("gatekeeper", base) for base in ("xent", "cat-xent")]
    columns = ("Cell", *(f"{pair}, {what}" for pair in pairs for what in ("AUDC", "S alone")))
    note = "Gatekeeper has had a quarter more steps than Xent and CAT-Xent. [ ]: 95 % intervals."
    return Table(columns, rows, title, caption(note, found))


def kept_by_ledger(cell: Cell, method: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(logged keep-rate, share of tokens in the ledger's cells that the mask keeps) at every logged step."""
    log = cell.logs()[method, seed]
    parts = np.array([sum(row[part] for part in KEPT[method]) for row in log])
    return np.array([row["keep_rate"] for row in log]), parts


def memory_table(cells: Sequence[Cell], method: str = "xent") -> Table:
    """How often L is right on the target tokens it was trained on, and on held-out ones; and S beside it."""
    title, rows = "The mask sees L on its own training examples: tokens it gets right", []
    for cell in cells:
        ends = [log[-max(1, len(log) // 10) :] for (m, _), log in cell.logs().items() if m == method]
        seen = np.array([[[row["both"], row["only_large"], row["only_small"]] for row in end] for end in ends])
        both, large, small = seen.mean(axis=(0, 1)) if len(seen) else [np.nan] * 3
        held = [cell.token_signals(method, seed) for seed in cell.seeds] if len(seen) else []
        new = [float(np.mean([h[k] for h in held])) for k in ("large_right", "share_right")] if held else []
        if held:
            shown = (both + large, new[0], both + large - new[0], both + small, new[1])
            rows.append((cell.name, *(show_number(float(x), PERCENT) for x in shown)))
    if not rows:
        return nothing(title)
    columns = ("Cell", "L, training", "L, held-out", "L, difference", "S, training", "S, held-out")
    note = f"S by {name(method)}; training: the last tenth of the logged steps; held-out: test examples."
    return Table(columns, rows, title, caption(note, numbers(cells)))
