"""Tables and figures of recorded studies, drawn from the metrics of their cells alone: in a second, without a model.

Every function takes cells (`study.Cell`, or their metrics as `study.Cell.metrics` reads them) and shows numbers that
`studies.cell_metrics` computed; no interval is made here. A number that the metrics lack is shown as a dash with the
reason, and where no cell is given the table says so. Captions state n, seeds, device and commit of the recorded run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cat_book.drawing import figures, forest
from cat_book.drawing.tables import Table
from cat_book.pages import pieces
from cat_book.pages.pieces import basis, by_label, caption, filled, forest_row, note_on, nothing, numbers, pair_name
from cat_core.analysis.comparison import METRIC_LABELS
from cat_core.analysis.quantities import NOT_THERE, PERCENT, PLAIN, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.study import FOLDER, Cell, load_study
from cat_core.training.provenance import find_root

FEW = 3  # cells of a study that are named one by one where they are not recorded
PART_LABELS = {"whole": "difference", "small_alone": "S alone", "complement": "complement", "ranking": "ranking"}


class Recorded(NamedTuple):
    """Cells whose numbers are there, and one line that names what is missing."""

    cells: tuple[Cell, ...]
    missing: str


def recorded(studies: str | Iterable[str], claim: str = "", root: Path | None = None) -> Recorded:
    """The recorded cells of studies, in order; claim: only those made for it, such as "C1".

    A study without a file and a cell without metrics are named in `missing`. Raises ValueError for a cell whose files
    do not fit its configuration.
    """
    root, cells, lacking = root or find_root(), [], []
    studies = [studies] if isinstance(studies, str) else list(studies)
    for study in studies:
        if not (root / FOLDER / f"{study}.yaml").is_file():
            lacking.append(f"study {study} (there is no {(FOLDER / study).as_posix()}.yaml)")
            continue
        wanted = [cell for cell in load_study(study, root).whole.values() if claim in ("", cell.claim)]
        ready = [cell for cell in wanted if cell.record is not None and cell.metrics_path.is_file()]
        absent = [f"{study}/{cell.name}" for cell in wanted if cell not in ready]
        cells += ready
        lacking += absent if len(absent) <= FEW else [f"{len(absent)} of {len(wanted)} cells of study {study}"]
    if not studies:
        return Recorded((), "No recorded cell is of these data.")
    what = f"Recorded cells of {', '.join(studies)}" + (f" for {claim}" if claim else "")
    rest = f"not recorded yet: {', '.join(lacking)}" if lacking else "none is missing"
    return Recorded(tuple(cells), f"{what}: {len(cells)}; {rest}.")


# ---------------------------------------------------------------- tables


def cells_table(cells, missing: str = "") -> Table:
    """What each cell is: S and L on their own, and how much neither of them gets right; missing: of `recorded`."""
    title, rows, metrics, trained = "The recorded cells", [], by_label(cells), {}
    if not metrics:
        return nothing(title, missing)
    for label, m in metrics.items():
        first, unit = next(iter(m.methods)), Unit(m.scale, 1)
        trained.setdefault(name(first), []).append(label)
        alone = [show_number(v, unit) for v in (m.methods[first].small_alone, m.large_alone)]
        tokens, answers = m.tokens[first].ledger[3], m.methods[first].sequence_ledger[3]
        kept = m.tokens["cat-dist"].keep_rate if "cat-dist" in m.tokens else None
        shares = [show_number(v, PERCENT) for v in (tokens, answers)]
        keep = "\u2013" if kept is None else show_number(kept, PERCENT)
        rows.append((f"{label}: {METRIC_LABELS[m.metric]}, n\u00a0=\u00a0{m.n:,}", *alone, *shares, keep))
    columns = ("Cell", "S alone", "L alone", "tokens, neither", "answers, neither", "kept")
    by = [method if len(trained) == 1 else f"{method} in {', '.join(where)}" for method, where in trained.items()]
    note = note_on(metrics.values(), (
        f"S trained by {'; by '.join(by)}. Neither: held-out target tokens and answers that neither model gets right. "
        "Kept: keep-rate of CAT-Dist in training."
    ))  # fmt: skip
    return Table(columns, rows, title, f"{missing} {note}".strip())


def primary_table(cells) -> Table:
    """Cell by pair: the difference of AUDC with its interval, what it rests on, and where it was run."""
    title, rows, metrics = "The primary outcome: differences of AUDC, in points of the metric", [], by_label(cells)
    for label, m in metrics.items():
        where = basis(m.n, len(m.seeds), m.large_models), f"{m.device}, {m.commit[:10]}"
        for key, difference in m.differences["chow_average"].items():
            rows.append((label, pair_name(*key.split(" - ")), show_number(difference, m.gain), *where))
    columns = ("Cell", "Pair", "Difference", "n; seeds of S over L", "device, commit")
    return filled(columns, rows, title, note_on(metrics.values(), "Confidence: Chow-Average."))


def primary_text(cells, pair: tuple[str, str] = pieces.PRIMARY) -> str:
    """The pair's difference of AUDC in every cell, in one sentence for prose."""
    differences = [f"{label} {show_number(m.difference(*pair), m.gain)}" for label, m in by_label(cells).items()]
    return f"{pair_name(*pair)} in AUDC, points: {', '.join(differences) or 'nothing is recorded yet'}."


def ranking_text(cells) -> str:
    """In words: in how many cells and methods Chow-Average is better than random deferral, and where it is worse."""
    every, notes = [], []
    for label, m in by_label(cells).items():
        gains = {method: rules["chow_average"] for method, rules in m.rule_grid.over_random.items()}
        every += gains.values()
        if mine := [f"{name(method)} {show_number(x, m.gain)}" for method, x in gains.items() if x.high < 0]:
            notes.append(f"in {label} after {', '.join(mine)}")
    if not every:
        return "No recorded cell says whether the confidence ranks better than chance."
    better, worse = pieces.tally(every)[0], "; ".join(notes)
    return (
        f"In {better} of {len(every)} recorded cells and training methods Chow-Average is better than random deferral, "
        f"by an interval that excludes 0. It is worse {worse or 'in none'}."
    )


def decomposition_table(cells) -> Table:
    """Cell by pair: the difference of AUDC and its parts (`decomposition`), in points."""
    title, rows, metrics = "Where the differences of AUDC come from, in points of the metric", [], by_label(cells)
    for label, m in metrics.items():
        for key, parts in m.decomposition.items():
            shown = [show_number(getattr(parts, part), m.gain) for part in PART_LABELS]
            rows.append((label, pair_name(*key.split(" - ")), *shown))
    note = (
        "Difference = S alone (half the difference of the small models) + complement (more to gain by deferring) + "
        "ranking (more of it gained); the parts add up by definition."
    )
    columns = ("Cell", "Pair", *(part[0].upper() + part[1:] for part in PART_LABELS.values()))
    return filled(columns, rows, title, note_on(metrics.values(), note))


def tokens_table(cell) -> Table:
    """One cell: what S of each method says of held-out target tokens, fed with the true ones before them."""
    (m,), rows = numbers(cell), []
    units = {"share_right": PERCENT, "confidence": PERCENT, "ece": Unit(1, 3), "entropy": PLAIN, "nll": PLAIN}
    for method, row in m.tokens.items():
        shown = []
        for key, unit in units.items():
            sd = getattr(row, f"{key}_sd")
            spread = "" if sd is None else f" ±{show_number(sd, unit)}"
            shown.append(show_number(getattr(row, key), unit) + spread)
        hard = [show_number(part[3], PLAIN) for part in (row.entropy_by_cell, row.confidence_by_cell)]
        rows.append((name(method), show_number(row.keep_rate, PERCENT), *shown, *hard))
    columns = ("Method", "keep-rate in training", "right", "mean confidence", "ECE", "entropy (nats)", "NLL (nats)",
               "entropy, neither right", "confidence, neither right")  # fmt: skip
    note = (
        "Confidence: probability of the most probable token; ECE: expected calibration error; ±: standard deviation "
        "over seeds. Mode seeking would show as more confidence and less entropy than without the mask, and a higher "
        "ECE."
    )
    return Table(columns, rows, f"What S says of held-out target tokens: {m.cell}", caption(note, [m]))


def masks_table(cell) -> Table:
    """One cell: Dist with every mask, less Dist and less the random mask: AUDC and S alone, in points."""
    (m,), rows = numbers(cell), []
    for method in (k for k in m.methods if k.endswith("dist")):
        shown = [
            show_number(m.difference(method, base, which), m.gain) if method not in ("dist", base) else "–"
            for which in ("audc", "alone")
            for base in ("dist", "random-dist")
        ]
        kept = show_number(m.tokens[method].keep_rate if method in m.tokens else NOT_THERE, PERCENT)
        rows.append((name(method), kept, show_number(m.methods[method].audc, Unit(m.scale, 1)), *shown))
    columns = ("Mask", "keep-rate", "AUDC", "AUDC − Dist", "AUDC − random mask", "S alone − Dist",
               "S alone − random mask")  # fmt: skip
    title = f"Which tokens to keep: Dist with every mask, in points: {m.cell}"
    return filled(columns, rows, title, note_on([m]))


# ---------------------------------------------------------------- figures


def seeds_figure(cells, pair: tuple[str, str] = pieces.PRIMARY, number: str = "") -> figures.Shown | Table:
    """Forest plot: each seed's difference of AUDC as a dot, the mean with its interval as a bar, one row a cell."""
    a, b = pair
    metrics = [m for m in numbers(cells) if {a, b} <= set(m.audc_by_seed) and isinstance(m.difference(a, b), Interval)]
    rows, notes, against, every = [], [], 0, 0
    for label, m in by_label(metrics).items():
        dots, mean = np.subtract(m.audc_by_seed[a], m.audc_by_seed[b]), m.difference(a, b)
        rows.append(forest_row(label, mean, m.scale, a, dots))
        other = int((dots * mean.estimate < 0).sum())
        against, every = against + other, every + len(dots)
        middle, *ends = (show_number(x, m.gain) for x in (mean, float(dots.min()), float(dots.max())))
        notes.append(f"{label}: mean {middle}, single seeds from {ends[0]} to {ends[1]}, {other} of {len(dots)} on the "
                     "other side of 0 than their mean")  # fmt: skip
    text = (
        f"{pair_name(a, b)}, what one run would have shown. Hollow dots: each seed of S by itself; mark and bar: their "
        f"mean with its interval. {against} of {every} single seeds lie on the other side of 0 than their cell's mean"
    )
    panels, label = {pair_name(a, b): rows} if rows else {}, "Difference of AUDC, points of the metric"
    text, alt = caption(text, metrics, number=number), f"Forest plot, {pair_name(a, b)}"
    return pieces.forest_shown(f"{pair_name(a, b)}, seed by seed", panels, notes, label, text, alt)


def decomposition_figure(cells, pair: tuple[str, str] = pieces.PRIMARY, number: str = "") -> figures.Shown | Table:
    """The parts of one pair's difference of AUDC with their intervals, one panel a cell."""
    key = " - ".join(pair)
    metrics = [m for m in numbers(cells) if key in m.decomposition]
    panels, notes = {}, []
    for label, m in by_label(metrics).items():
        values = {words: getattr(m.decomposition[key], part) for part, words in PART_LABELS.items()}
        panels[label] = [forest_row(words, x, m.scale, pair[0]) for words, x in values.items()]
        notes.append(f"{label}: " + ", ".join(f"{words} {show_number(x, m.gain)}" for words, x in values.items()))
    text = f"where the difference {pair_name(*pair)} in AUDC comes from; the three parts add up to it"
    what, label = f"Where {pair_name(*pair)} comes from", f"{pair_name(*pair)}: AUDC, points of the metric"
    return pieces.forest_shown(what, panels, notes, label, caption(text, metrics, number=number))


def mass_points(cells) -> list[dict]:
    """The primary differences against the share of tokens that neither model gets right, for `mass_figure`.

    One dict a pair of a cell, and of each of its tasks where it has several: "cell", "task" ("" for the whole cell),
    "pair", "mass" (of a cell in training, 1 - keep-rate; of a task, held-out tokens), "difference" in points.
    """
    rows = []
    for label, m in by_label(cells).items():
        mass = {row.measure: row.mass for row in m.claims if row.claim == "C10"}
        for a, b in pieces.CLAIMED:
            share = next((v for k, v in mass.items() if k.endswith(pair_name(a, b))), None)
            places = [("", share, m.difference(a, b), m.scale)]
            for task, t in m.tasks.items():
                places.append((task, t.tokens[3], t.differences.get(f"{a} - {b}", NOT_THERE), t.scale))
            for task, x, d, k in places:
                if isinstance(d, Interval) and x is not None:
                    points = pieces.in_points(d, k)
                    rows.append({"cell": label, "task": task, "pair": (a, b), "mass": x, "difference": points})
    return rows


def mass_figure(cells, number: str = "") -> figures.Shown | Table:
    """C10: size and sign of the primary differences against the share of tokens that neither model gets right."""
    points = mass_points(cells)
    if not points:
        return nothing("Differences against the share of tokens that neither model gets right")
    size, sign = [], []
    for p in points:
        d, place = p["difference"], (p["pair"][0], 100 * p["mass"])
        low, high = max(0.0, d.low, -d.high), max(abs(d.low), abs(d.high))
        size.append(forest.Point(*place, abs(d.estimate), low, high, bool(p["task"])))
        sign.append(forest.Point(*place, *vars(d).values(), bool(p["task"])))
    panels = {"|Difference| of AUDC\n(points)": size, "Difference of AUDC\n(points)": sign}
    text = (
        "size (above) and sign (below) of the difference that the mask makes, against the share of tokens that neither "
        "model gets right: of a cell in training (1 − keep-rate of CAT-Dist; filled), of a single task among held-out "
        "tokens (hollow). Dashed: the bound of C10. Pairs with the same share are drawn side by side"
    )
    label, bound = "Target tokens that neither model gets right (%)", next(iter(panels))
    return pieces.points_shown(points, panels, "mass", label, caption(text, numbers(cells), number=number), bound)
