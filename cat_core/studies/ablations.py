"""Ablations: cells that differ from a reference cell in one setting, paired with it.

The same seed of S starts from the same weights, sees the same batches, defers to the same large model and answers the
same items in both cells, so differences across cells are paired like differences within one (`contrasts`). Nothing is
trained. A study names the reference of a cell by the key `differs_from`; then the change is drawn when the cell's
metrics are made, and read from them (`recorded_change`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from cat_core.analysis.contrasts import CAT, UNMASKED, Arm, contrasts
from cat_core.analysis.metrics import SettingChange
from cat_core.analysis.quantities import Undefined
from cat_core.curves import audc
from cat_core.ranking import Interval
from cat_core.studies.study import SPEED, Cell
from cat_core.training.experiment import Experiment

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
    """The cell's configuration with the defaults of `Experiment`, without methods, seeds, and what is mere speed."""
    default = {f.name: f.default for f in fields(Experiment) if isinstance(f.default, str | int | float)}
    values = {k: v for k, v in (default | cell.config).items() if k not in (*OWN, *SPEED)}
    kept = {"hidden": "all", "topk": f"{values.pop('teacher_k')} tokens and a tail", "argmax": "nothing"}
    return values | {"teacher": kept[values["teacher"]]}  # mode and k are one setting


def changed(cell: Cell, reference: Cell) -> dict[str, tuple]:
    """{setting: (value of the reference, value of the cell)} of all that differ; None where one lacks it."""
    ours, theirs = settings(cell), settings(reference)
    return {k: (theirs.get(k), ours.get(k)) for k in (*theirs, *ours) if theirs.get(k) != ours.get(k)}


def ablations(cells: Iterable[Cell], references: Iterable[Cell]) -> list[Ablation]:
    """Every cell with the one reference from which it differs in one setting.

    Cells whose reference is not among `references` (not recorded yet) are left out. Raises ValueError for a cell that
    has several, or whose seeds are not the first ones of its reference (only these have the same large models).
    """
    pairs, references = [], list(references)
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
            pairs.append(Ablation(cell, reference, setting, old, new))
    return pairs


def change(a: Ablation, resamples: int = 0) -> SettingChange:
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
    effects = contrasts(arms, wanted)
    gap = Undefined("CAT-Dist or Dist was not run")
    alone = {m: tuple(float(c.curve(m).quality[0]) for c in sides.values()) for m in a.methods}
    large = [[c.pairing(a.methods[0], s).large_quality for s in a.cell.seeds] for c in sides.values()]
    return SettingChange(
        {m: effects[m] for m in a.methods}, *(effects.get(k, gap) for k in ("before", "after", "change")), dots, alone,
        float(np.mean(np.not_equal(*large))), sides["new"].n,
    )  # fmt: skip


def reference_of(cell: Cell) -> Ablation | Undefined:
    """The ablation of a cell whose study names its reference; Undefined while the reference is not recorded.

    Raises ValueError where the two do not differ in one setting.
    """
    reference = cell.named(cell.differs_from)
    if reference.record is None:
        return Undefined(f"{cell.differs_from} is not recorded")
    matches = ablations([cell], [reference])
    if not matches:
        differing = ", ".join(changed(cell, reference)) or "nothing"
        problem = f"cell {cell.name!r} is to differ from {cell.differs_from!r} in one setting"
        raise ValueError(f"{problem}, but differs in {differing}")
    return matches[0]


def change_of(cell: Cell, resamples: int) -> SettingChange | Undefined:
    """`change` of a cell from the reference that its study names, for the cell's metrics."""
    ablation = reference_of(cell)
    return ablation if isinstance(ablation, Undefined) else change(ablation, resamples)


def recorded_change(a: Ablation) -> SettingChange:
    """The change in the metrics of the cell; drawn now where they hold none, or that from another reference."""
    metrics = a.cell.metrics()
    known = isinstance(metrics.shift, SettingChange) and a.cell.differs_from == a.reference.place
    return metrics.shift if known else change(a, metrics.resamples)


def shifts_words(shifts: Mapping[str, SettingChange]) -> str:
    """In how many ablations the effect of the mask changes beyond its interval, in one sentence."""
    known = [s.change for s in shifts.values() if isinstance(s.change, Interval)]
    if not known:
        return "no ablation is recorded yet"
    more, less = sum(x.low > 0 for x in known), sum(x.high < 0 for x in known)
    return (
        f"of {len(known)} changed settings, {more} make CAT-Dist − Dist larger and {less} make it smaller by an "
        f"interval that excludes 0; {len(known) - more - less} are undecided"
    )
