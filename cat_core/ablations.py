"""Ablations: cells that differ from a reference cell in one setting, paired with it.

The same seed of S starts from the same weights, sees the same batches, defers to the same large model and answers the
same items in both cells, so differences across cells are paired like differences within one (`contrasts`). Nothing is
trained. A study names the reference of a cell by the key `differs_from`; then the shift is drawn when the cell's
metrics are made, and read from them (`recorded_shift`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cat_core.contrasts import CAT, UNMASKED, Arm, contrasts
from cat_core.curves import audc
from cat_core.evidence_report import value
from cat_core.ranking import Interval
from cat_core.study import SPEED, Cell
from cat_core.tables import Undefined

SETTING_NAMES = {
    "label_weight": "w",
    "temperature": "T",
    "normalize": "divided by",
    "out_of_fold": "mask out of fold",
    "teacher": "kept of L",
}
OWN = ("methods", "seeds", "large_seeds")  # what an ablation may have fewer of


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
    """The cell's configuration with the defaults of `Experiment.of`, without methods, seeds, and what is mere speed."""
    import inspect

    from cat_core.experiment import Experiment

    known = [*inspect.signature(Experiment.of).parameters.values(), *inspect.signature(Experiment).parameters.values()]
    default = {p.name: p.default for p in known if isinstance(p.default, str | int | float)}
    found = {k: v for k, v in (default | cell.config).items() if k not in (*OWN, *SPEED)}
    kept = {"hidden": "all", "topk": f"{found.pop('teacher_k')} tokens and a tail", "argmax": "nothing"}
    return found | {"teacher": kept[found["teacher"]]}  # mode and k are one setting


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


def reference_of(cell: Cell) -> Ablation | Undefined:
    """The ablation of a cell whose study names its reference; Undefined while the reference is not recorded.

    Raises ValueError where the two do not differ in one setting.
    """
    reference = cell.named(cell.differs_from)
    if reference.record is None:
        return Undefined(f"{cell.differs_from} is not recorded")
    found = ablations([cell], [reference])
    if not found:
        differing = ", ".join(changed(cell, reference)) or "nothing"
        raise ValueError(
            f"cell {cell.name!r} is to differ from {cell.differs_from!r} in one setting, but differs in {differing}"
        )
    return found[0]


def shift_metrics(cell: Cell, resamples: int) -> dict | Undefined:
    """`shift` of a cell from the reference that its study names, for `results.publish`."""
    found = reference_of(cell)
    return found if isinstance(found, Undefined) else vars(shift(found, resamples))


def recorded_shift(a: Ablation) -> Shift:
    """The shift in the metrics of the cell; drawn now where they hold none, or that from another reference."""
    metrics = a.cell.metrics()
    found = metrics.get("shift", {})
    if "n" not in found or a.cell.differs_from != a.reference.place:
        return shift(a, metrics["resamples"])
    intervals = {k: value(found[k]) for k in ("before", "after", "change")}
    return Shift(
        {m: Interval(**moved) for m, moved in found["by_method"].items()}, **intervals,
        dots=tuple(map(tuple, found["dots"])),
        small_alone={m: tuple(ends) for m, ends in found["small_alone"].items()},
        other_large=found["other_large"], n=found["n"],
    )  # fmt: skip


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
