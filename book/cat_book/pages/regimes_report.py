"""Where CAT helps: the grid of study `regimes`, and all recorded cells on one map.

All numbers are those of the metrics: the saving of CAT-Xent against Xent, the share of answers that neither model gets
right (with S by Xent), and how far L is ahead of S.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cat_book.drawing import figures
from cat_book.drawing.chooser import Chooser, Facts
from cat_book.drawing.markup import SHAPES
from cat_book.drawing.plane import Mark, plane
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import by_label, caption, nothing, shown
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import NOT_THERE, PERCENT, Quantity, Undefined, Unit, show_number
from cat_core.ranking import Interval
from cat_core.studies.study import Cell
from cat_core.training.configs import parse_size

SAVED = Unit(100, 0, "\u00a0%", True)
PAIR = ("cat-xent", "xent")
COLOURS = "PuOr"
FAR = 40.0  # percent: where colours end


@dataclass(frozen=True)
class Place:
    """A cell on the map. neither: share of test answers that neither model gets right; ahead: L less S, in points;
    saving: of CAT-Xent against Xent; grid: noise, width of S and steps, of a cell of the grid; dropped: share of the
    target tokens that CAT-Xent dropped in training."""

    label: str
    neither: float
    ahead: float
    saving: Interval
    grid: tuple[float, int, int] | None = None
    dropped: float | Undefined = NOT_THERE

    @property
    def sign(self) -> int:
        """1 where the interval lies above 0, -1 below, else 0."""
        return int(self.saving.low > 0) - int(self.saving.high < 0)


def saving_of(m: CellMetrics, pair: tuple[str, str] = PAIR) -> Quantity:
    """What the first method saves against the second by the primary rule: as computed for pairs, else as claimed."""
    if (known := (m.savings or {}).get(" - ".join(pair), NOT_THERE)) != NOT_THERE:
        return known
    rows = [r for r in m.claims if r.role == "primary" and r.family == "CAT-Xent" and r.share and r.claim != "C8"]
    return rows[0].number if rows and pair == PAIR else NOT_THERE


def places(cells: Sequence[Cell]) -> list[Place]:
    """Every cell that says what CAT-Xent saves."""
    found, labels = [], dict(zip(by_label(cells), cells, strict=True))
    for label, cell in labels.items():
        m, config = cell.metrics(), cell.config
        saving = saving_of(m)
        if not isinstance(saving, Interval):
            continue
        plain, grid = m.methods["xent"], None
        if cell.study == "regimes":
            width = parse_size(config["small"], config["context"]).hidden
            grid = (config["suite_options"]["noise"], width, config["steps"])
        ahead = m.scale * (m.large_alone.estimate - plain.small_alone.estimate)
        kept = m.tokens[PAIR[0]].keep_rate if PAIR[0] in m.tokens else NOT_THERE
        dropped = kept if isinstance(kept, Undefined) else 1 - getattr(kept, "estimate", kept)
        found.append(Place(label, plain.sequence_ledger[3], ahead, saving, grid, dropped))
    return found


def grid_figure(found: Iterable[Place], cells: Sequence[Cell], number: str = "") -> figures.Shown | Table:
    """The grid: a panel a length of training, in it noise by width of S; printed in bold where the sign is clear."""
    table = {place.grid: place for place in found if place.grid is not None}
    if not table:
        return nothing("Where CAT-Xent saves: a grid")
    noises, widths, lengths = (sorted({key[i] for key in table}) for i in range(3))
    with matplotlib.rc_context(figures.LOOK):
        fig = Figure(figsize=(figures.WIDTH, 1.4 + 0.62 * len(noises)), layout="constrained")
        axes = np.atleast_1d(fig.subplots(1, len(lengths), sharey=True))
        for ax, steps in zip(axes, lengths):
            values = np.full((len(noises), len(widths)), np.nan)
            for i, noise in enumerate(noises):
                for j, width in enumerate(widths):
                    place = table.get((noise, width, steps))
                    if place is None:
                        continue
                    values[i, j] = percent = 100 * place.saving.estimate
                    ax.text(
                        j, i, f"{percent:+.0f}", ha="center", va="center", fontsize=9,
                        color="white" if abs(percent) > 0.7 * FAR else "#1a1a1a",
                        fontweight="bold" if place.sign else "normal",
                    )  # fmt: skip
            ax.imshow(values, cmap=COLOURS, vmin=-FAR, vmax=FAR, aspect="auto")
            ax.set(xticks=range(len(widths)), yticks=range(len(noises)), title=f"{steps:,} steps", xlabel="width of S")
            ax.set_xticklabels(widths)
            ax.set_yticklabels([f"{100 * noise:.0f} %" for noise in noises])
            ax.grid(visible=False)
        axes[0].set_ylabel("labels drawn at random")
    text = (
        "what CAT-Xent saves against Xent (%, FLOPs-equivalent) by noise of the labels, width of S and length of "
        "training; bold: the 95 % interval excludes 0"
    )
    notes = [f"{p.label} {show_number(p.saving, SAVED)}" for p in table.values()]
    metrics = [cell.metrics() for cell in cells if cell.study == "regimes"]
    return shown(fig, "Three grids of numbers", notes, caption(text, metrics, number=number))


def map_figure(found: Sequence[Place], cells: Sequence[Cell], number: str = "") -> Chooser | Table:
    """All cells by what both models leave unsolved and how far L is ahead; the marks say what CAT-Xent saves, and a
    mark that is picked says the numbers of its cell."""
    if not found:
        return nothing("Where CAT-Xent saves: all recorded cells")
    kinds, colour = {1: ("^", "saves"), 0: ("o", "not clear"), -1: ("v", "costs")}, matplotlib.colormaps[COLOURS]
    places, names = label_places([p for p in found if p.grid is None], found), short_names(found)
    marks = [
        Mark(
            100 * p.neither, p.ahead, kinds[p.sign][0], to_hex(colour(0.5 + 50 * p.saving.estimate / FAR)),
            names[p] if p in places else "", *places.get(p, ()),
        )
        for p in found
    ]  # fmt: skip
    legend = "".join(
        f'<li><svg viewBox="-8 -8 16 16" width="14" height="14" aria-hidden="true"><path d="{SHAPES[shape]}" '
        f'fill="#fff"/></svg> {said}</li>'
        for shape, said in kinds.values()
    )
    stops = ",".join(to_hex(colour(i / 4)) for i in range(5))
    legend += (
        f'<li>costs {FAR:g}\u00a0% <span class="cx-bar" style="background:linear-gradient(to right,{stops})"></span> '
        f"saves {FAR:g}\u00a0% or more</li>"
    )
    picture = plane(
        marks, x_name="answers that neither model gets right (%)", y_name="L less S by Xent (points)",
        what=f"A map of {len(found)} cells; choose one below to read its numbers",
        legend=f'<ul class="cx-legend">{legend}</ul>',
    )  # fmt: skip
    text = (
        "all recorded cells that have a saving: what is left unsolved, how far L is ahead, and what CAT-Xent saves. "
        "Point at a mark, or choose its cell by name. Where L is hardly ahead, near 0 or below, a saving is large and "
        "its interval wide, as there is little room. Large marks with a name are suites of other studies, small ones "
        "the grid"
    )
    parts = {p.label: facts(p, kinds[p.sign][1]) for p in found}
    held = set(by_label(cells)) & {p.label for p in found}
    used = [m for label, m in by_label(cells).items() if label in held]
    return Chooser(parts, "Cell", name="map", picture=picture, caption=caption(text, used, number=number))


def facts(p: Place, said: str) -> Facts:
    """The numbers of one cell."""
    return Facts([
        ("Cell", p.label), (f"CAT-Xent against Xent: {said}", show_number(p.saving, SAVED)),
        ("training tokens that the mask drops", show_number(p.dropped, PERCENT)),
        ("answers that neither model gets right", show_number(p.neither, PERCENT)),
        ("L less S by Xent, points", show_number(p.ahead, Unit(1, 1, "", True))),
    ])  # fmt: skip


def short_names(found: Sequence[Place]) -> dict[Place, str]:
    """The names of cells without their study, where that says which is meant."""
    names = {p: p.label.rpartition("/")[2] for p in found}
    return {p: name if list(names.values()).count(name) == 1 else p.label for p, name in names.items()}


def label_places(named: Sequence[Place], found: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """Where the label of each place goes: 1 to its right, -1 to its left, which keeps it in the frame; and how many
    points up, below the place where another label is near already."""
    spread = [max(values) - min(values) or 1.0 for values in zip(*((p.neither, p.ahead) for p in found))]
    middle = min(p.neither for p in found) + 0.5 * spread[0]
    taken: dict[Place, tuple[int, int]] = {}
    for place in sorted(named, key=lambda p: (p.neither, p.ahead)):
        near = [p for p in taken if abs(p.neither - place.neither) < 0.4 * spread[0]
                and abs(p.ahead - place.ahead) < 0.06 * spread[1]]  # fmt: skip
        taken[place] = (1 if place.neither < middle else -1, (4, -11, 14, -21)[len(near) % 4])
    return taken


def tally_words(found: Sequence[Place]) -> str:
    """In how many cells CAT-Xent saves, and on which side of the map, in one sentence."""
    if not found:
        return "nothing is recorded yet"
    clear = {sign: [p for p in found if p.sign == sign] for sign in (1, -1)}
    text = f"CAT-Xent saves in {len(clear[1])} and costs in {len(clear[-1])} of {len(found)} cells, by intervals"
    if len(clear[1]) > 1:
        low, high = (100 * q for q in np.quantile([p.neither for p in clear[1]], [0.1, 0.9]))
        text += f"; where it saves, neither model is right on {low:.0f} to {high:.0f} % of the answers (middle 80 %)"
    return text


def numbers(found: Iterable[Place]) -> list[dict]:
    """The map as plain numbers, to be written; a cell that is not of the grid has no place in it."""
    return [{key: value for key, value in asdict(place).items() if value is not None} for place in found]
