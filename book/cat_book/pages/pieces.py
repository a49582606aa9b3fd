"""Pieces of which reports on recorded cells are made: labels, captions, forest plots, and what is said of nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from cat_book.drawing import figures, forest
from cat_book.drawing.chooser import Chooser, Folded
from cat_book.drawing.styles import TOKEN_STYLE
from cat_book.drawing.tables import Table
from cat_core.analysis.claims import PRIMARY as CLAIMED
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import Quantity, Undefined, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import Cell

PRIMARY = CLAIMED[0]
NOT_RUN = Undefined("not recorded")


def numbers(cells) -> list[CellMetrics]:
    """The metrics of cells, of one cell, or of metrics already read."""
    cells = [cells] if isinstance(cells, Cell | CellMetrics) else list(cells)
    return [cell if isinstance(cell, CellMetrics) else cell.metrics() for cell in cells]


def by_label(cells) -> dict[str, CellMetrics]:
    """The metrics by the cells' names; with the study's where there are several studies."""
    metrics = numbers(cells)
    several = len({m.study for m in metrics}) > 1
    return {f"{m.study}/{m.cell}" if several else m.cell: m for m in metrics}


def pair_name(a: str, b: str) -> str:
    """A pair for readers."""
    return f"{name(a)} − {name(b)}"


def in_points(x: Interval, scale: float) -> Interval:
    """An interval in another unit: times `scale`."""
    return Interval(scale * x.estimate, scale * x.low, scale * x.high)


def tally(quantities: Iterable[Quantity | None]) -> tuple[int, int, int]:
    """How many intervals lie above 0, how many below, and how many intervals there are at all."""
    known = [x for x in quantities if isinstance(x, Interval)]
    return sum(x.low > 0 for x in known), sum(x.high < 0 for x in known), len(known)


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def basis(n: int, seeds: int, large: int) -> str:
    """What a number rests on, in a cell under "n; seeds of S over L"."""
    return f"{n:,}; {seeds} over {large}"


def caption(text: str, metrics: Collection[CellMetrics], unit: str = "test items", number: str = "") -> str:
    """`text` with what it rests on, from the metrics; values that differ between cells in the order of the cells.

    number: of the figure, such as "Figure 1"."""
    text = f"{number}: {text}" if number else text.strip()[:1].upper() + text.strip()[1:]
    stop = "" if text.endswith((".", "?", "!")) else "."
    n = _each(f"{m.n:,}" for m in metrics)
    seeds = _each(f"{len(m.seeds)} seed{'s' * (len(m.seeds) > 1)} of S over {m.large_models} of L" for m in metrics)
    device, commit = _each(m.device for m in metrics), _each(m.commit[:10] for m in metrics)
    study = _each(m.study for m in metrics)
    return f"{text}{stop} n = {n} {unit}; {seeds}; device: {device}; commit {commit}; study {study}."


def note_on(
    metrics: Collection[CellMetrics], more: str = "", unit: str = "test items", resamples: Iterable[int] = ()
) -> str:
    """`caption` of a table with intervals: what [ ] means, with the resamples drawn, before what it rests on."""
    level = _each(f"{100 * row.level:g} %" for m in metrics for row in m.claims[:1]) or "95 %"
    drawn = _each(f"{k:,}" for k in resamples or (m.resamples for m in metrics))
    legend = f"[ ]: {level} intervals, {drawn} paired resamples of large models, seeds of S, and items."
    return caption(f"{more} {legend}", metrics, unit)


def ledger_words(shares: Iterable[float]) -> str:
    """A 2x2 ledger in words, for alt texts."""
    return ", ".join(f"{style.label} {share:.0%}" for style, share in zip(TOKEN_STYLE.values(), shares))


def nothing(what: str, note: str = "") -> Table:
    """In place of a table or figure for which no cell is recorded."""
    return Table(("Cell", ""), [("none", "nothing is recorded yet")], what, note)


def one_of(what: str, parts: Mapping[str, object], name: str) -> Chooser | Table:
    """A `Chooser` of what recorded cells have to show, one at a time; `nothing` where there is none."""
    return Chooser(parts, what, name=name) if parts else nothing(what)


def in_numbers(part: Table | Chooser) -> Folded:
    """A table that says in numbers what a figure has shown, or several of them, behind one closed line."""
    of = part.caption if isinstance(part, Table) else f"by {part.what.lower()}"
    return Folded(f"In numbers: {of[:1].lower() + of[1:] if of[1:2].islower() else of}", part)


def filled(columns: Sequence[str], rows: Sequence[Sequence], title: str, note: str = "") -> Table:
    """The table; without a row, `nothing`."""
    return Table(columns, rows, title, note) if rows else nothing(title)


def forest_row(label: str, x: Interval, scale: float, method: str, dots: Iterable[float] = ()) -> forest.Row:
    """A line of a forest plot, in points; dots: single values (of seeds), in the unit of `x`."""
    return forest.Row(label, *vars(in_points(x, scale)).values(), tuple(scale * float(d) for d in dots), method)


def forest_shown(
    what: str, panels: Mapping[str, Sequence[forest.Row]], notes: Iterable[str], x_label: str, text: str,
    alt: str = "Forest plot", margin: float = 0.0,
) -> figures.Shown | Table:  # fmt: skip
    """A forest plot with its caption, or `nothing` of `what`, if there is no panel.

    notes: what its alt text says of the rows, after what it is (`alt`). margin: dotted on both sides of 0.
    """
    if not panels:
        return nothing(what)
    fig = forest.forest_figure(panels, x_label=x_label)
    for ax in fig.axes if margin else ():
        for side in (-margin, margin):
            ax.axvline(side, color="#595959", linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
    return shown(fig, alt, notes, text)


def points_shown(
    points: Sequence[Mapping], panels: Mapping[str, Sequence[forest.Point]], share: str, x_label: str, text: str,
    bound: str = "",
) -> figures.Shown:  # fmt: skip
    """Differences of pairs against a share, drawn in `panels`; points: as those of `mass_points`, share: its key."""
    names = {p["pair"][0]: pair_name(*p["pair"]) for p in points}
    fig = forest.points_figure(panels, x_label=x_label, labels=names, bound=bound)
    notes = [
        f"{p['cell']} {p['task']}".strip() + f", {pair_name(*p['pair'])}: share {100 * p[share]:.1f} %, "
        f"{show_number(p['difference'], Unit(1, 2, '', True))}"
        for p in points
    ]
    return shown(fig, "Points with intervals", notes, text)


def shown(fig, what: str, notes: Iterable[str], text: str) -> figures.Shown:
    """A figure with its caption; alt text: what it is, and what it says, in the numbers of tables."""
    return figures.show(fig, f"{what}. {'; '.join(notes)}.".replace("\u00a0", " "), text)
