"""Tables and figures of recorded studies, drawn from the metrics of their cells alone: in a second, without a model.

Every function takes cells (`study.Cell`, or their metrics as `study.Cell.metrics` reads them) and shows numbers that
`evidence.cell_metrics` computed; no interval is made here. A number that the metrics lack is shown as a dash with the
reason, and where no cell is given the table says so. Captions state n, seeds, device and commit of the recorded run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cat_core import figures, forest
from cat_core.comparison import METRIC_LABELS
from cat_core.editions import find_root
from cat_core.ranking import Interval
from cat_core.study import FOLDER, Cell, load_study
from cat_core.tables import PERCENT, PLAIN, Table, Undefined, Unit, show_number
from cat_core.training_report import Setting, name

PRIMARY = ("cat-dist", "dist")
PARTS = {
    "whole": "difference",
    "small_alone": "S alone",
    "complement": "complement",
    "ranking": "ranking",
}
NOT_THERE = Undefined("not in the recorded metrics")


class Recorded(NamedTuple):
    """Cells whose numbers are there, and one line that names what is missing."""

    cells: tuple[Cell, ...]
    missing: str


def recorded(studies: str | Iterable[str], claim: str = "", root: Path | None = None) -> Recorded:
    """The recorded cells of studies, in order; claim: only those made for it, such as "C1".

    A study without a file and a cell without metrics are named in `missing`. Raises ValueError for a cell whose files
    do not fit its configuration.
    """
    root, found, lacking = root or find_root(), [], []
    studies = [studies] if isinstance(studies, str) else list(studies)
    for study in studies:
        if not (root / FOLDER / f"{study}.yaml").is_file():
            lacking.append(f"study {study} (there is no {(FOLDER / study).as_posix()}.yaml)")
            continue
        for cell in load_study(study, root).cells.values():
            if claim in ("", cell.claim):
                ready = cell.record is not None and cell.metrics_path.is_file()
                found += [cell] * ready
                lacking += [f"{study}/{cell.name}"] * (not ready)
    what = f"Recorded cells of {', '.join(studies)}" + (f" for {claim}" if claim else "")
    rest = f"not recorded yet: {', '.join(lacking)}" if lacking else "none is missing"
    return Recorded(tuple(found), f"{what}: {len(found)}; {rest}.")


def setting(cell: Cell) -> Setting:
    """Where a recorded cell was run, as a page states it in place of where it runs itself."""
    record = cell.record
    if record is None:
        cell.metrics()  # raises, and says what to run
    commit = (record["git"]["commit"] or "")[:10] + ("+" if record["git"].get("dirty") else "")
    versions = {key: record["versions"][key] for key in ("python", "torch", "transformers")}
    return Setting(f"study {cell.study}, cell {cell.name}", record["device"], record["threads"], commit, versions)


# ---------------------------------------------------------------- reading metrics


def numbers(cells) -> list[dict]:
    """The metrics of cells, of one cell, or of metrics already read."""
    cells = [cells] if isinstance(cells, Cell | Mapping) else list(cells)
    return [cell if isinstance(cell, Mapping) else cell.metrics() for cell in cells]


def value(found) -> Interval | Undefined | float:
    """A number as metrics hold it: an interval, the reason why there is none, or a plain one."""
    if not isinstance(found, Mapping):
        return NOT_THERE if found is None else found
    if "estimate" in found:
        return Interval(found["estimate"], found["low"], found["high"])
    return Undefined(found.get("reason", NOT_THERE.reason))


def difference(m: Mapping, a: str, b: str, which: str = "audc") -> Interval | Undefined:
    """Of method `a` less `b` on all test items: AUDC with Chow-Average, or S "alone"."""
    key = f"{a} - {b}"
    if which == "audc" and key in m["differences"]["chow_average"]:
        return value(m["differences"]["chow_average"][key])
    return value(m.get("masks", {}).get(which, {}).get(key))


def scale(m: Mapping) -> float:
    """What brings quality to points, 0 to 100; m: metrics of a cell or of one of its tasks."""
    return 1.0 if m["metric"] in ("bleu", "chrf") else 100.0


def gain(m: Mapping) -> Unit:
    """Differences in points, with sign."""
    return Unit(scale(m), 2, "", True)


def pair_name(a: str, b: str) -> str:
    """A pair for readers."""
    return f"{name(a)} − {name(b)}"


def labels(found: Sequence[Mapping]) -> list[str]:
    """The cells' names; with the study's where there are several studies."""
    several = len({m["study"] for m in found}) > 1
    return [f"{m['study']}/{m['cell']}" if several else m["cell"] for m in found]


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def caption(text: str, found: Sequence[Mapping], unit: str = "test items") -> str:
    """`text` with what it rests on, from the metrics; values that differ between cells in the order of the cells."""
    text = text.strip()
    n, seeds, device, commit, study = (
        _each(part(m) for m in found)
        for part in (
            lambda m: f"{m['n']:,}",
            lambda m: f"{len(m['seeds'])} seed{'s' * (len(m['seeds']) > 1)} of S over {m['large_models']} of L",
            lambda m: m["device"],
            lambda m: m["commit"][:10],
            lambda m: m["study"],
        )
    )
    stop = "" if text.endswith((".", "?", "!")) else "."
    return f"{text}{stop} n = {n} {unit}; {seeds}; device: {device}; commit {commit}; study {study}."


def note_on(found: Sequence[Mapping], more: str = "", unit: str = "test items") -> str:
    """`caption` of a table with intervals: what [ ] means comes before what it rests on."""
    level = _each(f"{100 * row['level']:g} %" for m in found for row in m["claims"][:1]) or "95 %"
    drawn = _each(f"{m['resamples']:,}" for m in found)
    how = f"[ ]: {level} intervals, {drawn} paired resamples of large models, seeds of S, and items."
    return caption(f"{more} {how}", found, unit)


def nothing(what: str) -> Table:
    """In place of a table or figure for which no cell is recorded."""
    return Table(("Cell", ""), [("none", "nothing is recorded yet")], what)


def _titled(number: str, text: str) -> str:
    return f"{number}: {text}" if number else text[0].upper() + text[1:]


# ---------------------------------------------------------------- tables


def cells_table(cells, missing: str = "") -> Table:
    """What each cell is: S and L on their own, and how much neither of them gets right; missing: of `recorded`."""
    title, rows, found, trained = "The recorded cells", [], numbers(cells), {}
    if not found:
        return Table(("Cell", ""), [("none", "nothing is recorded yet")], title, missing)
    for label, m in zip(labels(found), found):
        first, unit = next(iter(m["methods"])), Unit(scale(m), 1)
        trained.setdefault(name(first), []).append(label)
        alone = [show_number(value(v), unit) for v in (m["methods"][first]["small_alone"], m["large_alone"])]
        tokens, answers = m["tokens"][first]["ledger"][3], m["methods"][first]["sequence_ledger"][3]
        kept = m["tokens"].get("cat-dist", {}).get("keep_rate")
        shares = [show_number(value(v), PERCENT) for v in (tokens, answers)]
        keep = "\u2013" if kept is None else show_number(kept, PERCENT)
        rows.append((f"{label}: {METRIC_LABELS[m['metric']]}, n\u00a0=\u00a0{m['n']:,}", *alone, *shares, keep))
    columns = ("Cell", "S alone", "L alone", "tokens, neither", "answers, neither", "kept")
    by = [how if len(trained) == 1 else f"{how} in {', '.join(where)}" for how, where in trained.items()]
    note = note_on(found, (
        f"S trained by {'; by '.join(by)}. Neither: held-out target tokens and answers that neither model gets right. "
        "Kept: keep-rate of CAT-Dist in training."
    ))  # fmt: skip
    return Table(columns, rows, title, f"{missing} {note}".strip())


def primary_table(cells) -> Table:
    """Cell by pair: the difference of AUDC with its interval, what it rests on, and where it was run."""
    title, rows, found = "The primary outcome: differences of AUDC, in points of the metric", [], numbers(cells)
    if not found:
        return nothing(title)
    for label, m in zip(labels(found), found):
        for key in m["differences"]["chow_average"]:
            a, b = key.split(" - ")
            rests = f"{m['n']:,}; {len(m['seeds'])} over {m['large_models']}"
            where = f"{m['device']}, {m['commit'][:10]}"
            rows.append((label, pair_name(a, b), show_number(difference(m, a, b), gain(m)), rests, where))
    columns = ("Cell", "Pair", "Difference", "n; seeds of S over L", "device, commit")
    return Table(columns, rows, title, note_on(found, "Confidence: Chow-Average."))


def primary_text(cells, pair: tuple[str, str] = PRIMARY) -> str:
    """The pair's difference of AUDC in every cell, in one sentence for prose."""
    found = numbers(cells)
    said = [f"{label} {show_number(difference(m, *pair), gain(m))}" for label, m in zip(labels(found), found)]
    return f"{pair_name(*pair)} in AUDC, points: {', '.join(said) or 'nothing is recorded yet'}."


def ranking_text(cells) -> str:
    """In words: in how many cells and methods Chow-Average is better than random deferral, and where it is worse."""
    found, better, said, count = numbers(cells), 0, {}, 0
    for label, m in zip(labels(found), found):
        for method, rules in m["rule_grid"]["over_random"].items():
            x = value(rules["chow_average"])
            count, better = count + 1, better + (x.low > 0)
            if x.high < 0:
                said.setdefault(label, []).append(f"{name(method)} {show_number(x, gain(m))}")
    if not count:
        return "No recorded cell says whether the confidence ranks better than chance."
    worse = "; ".join(f"in {label} after {', '.join(mine)}" for label, mine in said.items())
    return (
        f"In {better} of {count} recorded cells and training methods Chow-Average is better than random deferral, by "
        f"an interval that excludes 0. It is worse {worse or 'in none'}."
    )


def decomposition_table(cells) -> Table:
    """Cell by pair: the difference of AUDC and its parts (`decomposition`), in points."""
    title, rows, found = "Where the differences of AUDC come from, in points of the metric", [], numbers(cells)
    if not found:
        return nothing(title)
    for label, m in zip(labels(found), found):
        for key, parts in m["decomposition"].items():
            shown = [show_number(value(parts[part]), gain(m)) for part in PARTS]
            rows.append((label, pair_name(*key.split(" - ")), *shown))
    note = (
        "Difference = S alone (half the difference of the small models) + complement (more to gain by deferring) + "
        "ranking (more of it gained); the parts add up by definition."
    )
    return Table(("Cell", "Pair", *(part.capitalize() if part[0] != "S" else part for part in PARTS.values())), rows,
                 title, note_on(found, note))  # fmt: skip


def tokens_table(cell) -> Table:
    """One cell: what S of each method says of held-out target tokens, fed with the true ones before them."""
    (m,), rows = numbers(cell), []
    for method, row in m["tokens"].items():

        def spread(key, unit, row=row):
            sd = f" ±{show_number(row[f'{key}_sd'], unit)}" if f"{key}_sd" in row else ""
            return show_number(row[key], unit) + sd

        units = {"share_right": PERCENT, "confidence": PERCENT, "ece": Unit(1, 3), "entropy": PLAIN, "nll": PLAIN}
        shown = [spread(key, unit) for key, unit in units.items()]
        hard = [show_number(value(row[f"{part}_by_cell"][3]), PLAIN) for part in ("entropy", "confidence")]
        rows.append((name(method), show_number(row["keep_rate"], PERCENT), *shown, *hard))
    columns = ("Method", "keep-rate in training", "right", "mean confidence", "ECE", "entropy (nats)", "NLL (nats)",
               "entropy, neither right", "confidence, neither right")  # fmt: skip
    note = (
        "Confidence: probability of the most probable token; ECE: expected calibration error; ±: standard deviation "
        "over seeds. Mode seeking would show as more confidence and less entropy than without the mask, and a higher "
        "ECE."
    )
    return Table(columns, rows, f"What S says of held-out target tokens: {m['cell']}", caption(note, [m]))


def masks_table(cell) -> Table:
    """One cell: Dist with every mask, less Dist and less the random mask: AUDC and S alone, in points."""
    (m,), rows = numbers(cell), []
    for method in (k for k in m["methods"] if k.endswith("dist")):
        shown = [
            show_number(difference(m, method, base, which), gain(m)) if method not in ("dist", base) else "–"
            for which in ("audc", "alone")
            for base in ("dist", "random-dist")
        ]
        kept = show_number(value(m["tokens"].get(method, {}).get("keep_rate")), PERCENT)
        rows.append((name(method), kept, show_number(value(m["methods"][method]["audc"]), Unit(scale(m), 1)), *shown))
    columns = ("Mask", "keep-rate", "AUDC", "AUDC − Dist", "AUDC − random mask", "S alone − Dist",
               "S alone − random mask")  # fmt: skip
    title = f"Which tokens to keep: Dist with every mask, in points: {m['cell']}"
    return Table(columns, rows, title, note_on([m])) if rows else nothing(title)


# ---------------------------------------------------------------- figures


def _said(interval: Interval, unit: Unit) -> str:
    return show_number(interval, unit).replace("\u00a0", " ")


def seeds_figure(cells, pair: tuple[str, str] = PRIMARY, number: str = "") -> figures.Shown | Table:
    """Forest plot: each seed's difference of AUDC as a dot, the mean with its interval as a bar, one row a cell."""
    a, b = pair
    found = [m for m in numbers(cells) if {a, b} <= set(m["audc_by_seed"])]
    found = [m for m in found if isinstance(difference(m, a, b), Interval)]
    if not found:
        return nothing(f"{pair_name(a, b)}, seed by seed")
    rows, said, against, every = [], [], 0, 0
    for label, m in zip(labels(found), found):
        dots = scale(m) * np.subtract(m["audc_by_seed"][a], m["audc_by_seed"][b])
        mean, k = difference(m, a, b), scale(m)
        rows.append(forest.Row(label, k * mean.estimate, k * mean.low, k * mean.high, tuple(map(float, dots)), a))
        other = int((dots * mean.estimate < 0).sum())
        against, every = against + other, every + len(dots)
        ends = [show_number(float(x), Unit(1, 2, "", True)) for x in (dots.min(), dots.max())]
        said.append(
            f"{label}: mean {_said(mean, gain(m))}, single seeds from {ends[0]} to {ends[1]}, {other} of {len(dots)} "
            "on the other side of 0 than their mean"
        )
    fig = forest.forest_figure({pair_name(a, b): rows}, x_label="Difference of AUDC, points of the metric")
    text = _titled(number, (
        f"{pair_name(a, b)}, what one run would have shown. Hollow dots: each seed of S by itself; mark and bar: their "
        f"mean with its interval. {against} of {every} single seeds lie on the other side of 0 than their cell's mean"
    ))  # fmt: skip
    return figures.show(fig, f"Forest plot, {pair_name(a, b)}. {'; '.join(said)}.", caption(text, found))


def decomposition_figure(cells, pair: tuple[str, str] = PRIMARY, number: str = "") -> figures.Shown | Table:
    """The parts of one pair's difference of AUDC with their intervals, one panel a cell."""
    key = " - ".join(pair)
    found = [m for m in numbers(cells) if key in m["decomposition"]]
    if not found:
        return nothing(f"Where {pair_name(*pair)} comes from")
    panels, said = {}, []
    for label, m in zip(labels(found), found):
        values = {part: value(m["decomposition"][key][part]) for part in PARTS}
        panels[label] = [
            forest.Row(words, *(scale(m) * x for x in (v.estimate, v.low, v.high)), method=pair[0])
            for part, words in PARTS.items()
            for v in [values[part]]
        ]
        said.append(f"{label}: " + ", ".join(f"{PARTS[p]} {_said(v, gain(m))}" for p, v in values.items()))
    fig = forest.forest_figure(panels, x_label=f"{pair_name(*pair)}: AUDC, points of the metric")
    text = _titled(number, f"where the difference {pair_name(*pair)} in AUDC comes from; the three parts add up to it")
    return figures.show(fig, f"Forest plot. {'; '.join(said)}.", caption(text, found))


def mass_points(cells) -> list[dict]:
    """The primary differences against the share of tokens that neither model gets right, for `mass_figure`.

    One dict a pair of a cell, and of each of its tasks where it has several: "cell", "task" ("" for the whole cell),
    "pair", "mass" (of a cell in training, 1 - keep-rate; of a task, held-out tokens), "difference" in points.
    """
    rows, found = [], numbers(cells)
    for label, m in zip(labels(found), found):
        mass = {row["measure"]: row["mass"] for row in m["claims"] if row["claim"] == "C10"}
        for a, b in (PRIMARY, ("cat-xent", "xent")):
            share = next((v for k, v in mass.items() if k.endswith(pair_name(a, b))), None)
            places = [("", share, difference(m, a, b), scale(m))]
            for task, t in m["tasks"].items():
                places.append((task, t["tokens"][3], value(t["differences"].get(f"{a} - {b}")), scale(t)))
            for task, x, d, k in places:
                if isinstance(d, Interval) and x is not None:
                    points = Interval(k * d.estimate, k * d.low, k * d.high)
                    rows.append({"cell": label, "task": task, "pair": (a, b), "mass": x, "difference": points})
    return rows


def mass_figure(cells, number: str = "") -> figures.Shown | Table:
    """C10: size and sign of the primary differences against the share of tokens that neither model gets right."""
    found, points = numbers(cells), mass_points(cells)
    if not points:
        return nothing("Differences against the share of tokens that neither model gets right")
    size, sign, said = [], [], []
    for p in points:
        d, place = p["difference"], (p["pair"][0], 100 * p["mass"])
        low, high = max(0.0, d.low, -d.high), max(abs(d.low), abs(d.high))
        size.append(forest.Point(*place, abs(d.estimate), low, high, bool(p["task"])))
        sign.append(forest.Point(*place, d.estimate, d.low, d.high, bool(p["task"])))
        where = f"{p['cell']} {p['task']}".strip()
        share = f"share {100 * p['mass']:.1f} %"
        said.append(f"{where}, {pair_name(*p['pair'])}: {share}, {_said(d, Unit(1, 2, '', True))}")
    panels = {"|Difference| of AUDC\n(points)": size, "Difference of AUDC\n(points)": sign}
    names = {p["pair"][0]: pair_name(*p["pair"]) for p in points}
    fig = forest.points_figure(
        panels, x_label="Target tokens that neither model gets right (%)", labels=names, bound=next(iter(panels))
    )
    text = _titled(number, (
        "size (above) and sign (below) of the difference that the mask makes, against the share of tokens that neither "
        "model gets right: of a cell in training (1 − keep-rate of CAT-Dist; filled), of a single task among held-out "
        "tokens (hollow). Dashed: the bound of C10. Pairs with the same share are drawn side by side"
    ))  # fmt: skip
    return figures.show(fig, f"Points with intervals. {'; '.join(said)}.", caption(text, found))
