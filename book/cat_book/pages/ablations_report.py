"""Tables and figures of masks and changed settings, from recorded cells and their shifts (`ablations`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cat_book.drawing import figures
from cat_book.drawing.markup import round_ticks
from cat_book.drawing.strips import Axis, Strip, Strips
from cat_book.drawing.styles import TOKEN_STYLE
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import (
    by_label,
    caption,
    filled,
    forest_row,
    forest_shown,
    in_points,
    nothing,
    numbers,
    pair_name,
    tally,
)
from cat_core.analysis.contrasts import CAT, UNMASKED
from cat_core.analysis.metrics import SettingChange
from cat_core.analysis.quantities import PERCENT, Undefined, Unit, show_number
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies.ablations import Ablation
from cat_core.studies.study import Cell

KEPT = {
    **dict.fromkeys(("cat-xent", "cat-dist", "random-xent", "random-dist"), ("both", "only_small", "only_large")),
    "large-dist": ("both", "only_large"), "small-dist": ("both", "only_small"), "both-dist": ("both",),
    "neither-dist": ("neither",),
}  # fmt: skip
"""The cells of the token ledger that each mask keeps; of random masks, as many tokens as these hold."""
PARTS = ("both", "only_small", "only_large", "neither")
WHOLE = Unit(100, 0, "\u00a0%")


def _note(text: str, pairs: Sequence[Ablation], shifts: Mapping[str, SettingChange]) -> str:
    if other := max((shifts[a.cell.name].other_large for a in pairs), default=0):
        text += f" Beware: the L of two cells score differently on up to {100 * other:.1f} % of the items."
    return caption(f"{text} [ ]: 95 % intervals, paired across the cells.", [a.cell.metrics() for a in pairs])


def shifts_table(pairs: Sequence[Ablation], shifts: Mapping[str, SettingChange]) -> Table:
    """What each changed setting does to CAT-Dist − Dist; shifts: by the cell's name."""
    title, rows = "What a setting does to the effect of the mask, points of AUDC", []
    for a in pairs:
        unit, s = a.cell.metrics().gain, shifts[a.cell.name]
        parts = [show_number(x, unit) for x in (s.before, s.after, s.change)]
        rows.append((f"{a.reference.name}: {a.label}", "no" if a.old is False else str(a.old), *parts))
    columns = ("Cell: changed setting", "reference", "CAT-Dist − Dist, reference", "CAT-Dist − Dist, changed", "change")
    return filled(columns, rows, title, _note("The reference has the same seeds as the changed cell.", pairs, shifts))


def methods_table(pairs: Sequence[Ablation], shifts: Mapping[str, SettingChange]) -> Table:
    """What each changed setting does to each method by itself."""
    title, rows = "What a setting does to each method by itself, points of the metric", []
    for a in pairs:
        m, s = a.cell.metrics(), shifts[a.cell.name]
        for method, moved in s.by_method.items():
            alone = [show_number(x, Unit(m.scale, 1)) for x in s.small_alone[method]]
            rows.append((f"{a.reference.name}: {a.label}", name(method), show_number(moved, m.gain), *alone))
    columns = ("Cell: changed setting", "Method", "AUDC: changed − reference", "S alone, reference", "S alone, changed")
    return filled(columns, rows, title, _note("", pairs, shifts))


def signals_table(pairs: Sequence[Ablation]) -> Table:
    """What each changed setting does to what S says of held-out target tokens: calibration above all."""
    title, rows = "What a setting does to the calibration of S: held-out target tokens", []
    units = {"ece": Unit(1, 3), "entropy": Unit(1, 3), "nll": Unit(1, 3), "share_right": Unit(100, 1, "\u00a0%")}
    for a in pairs:
        for method in a.methods:
            old, new = ([cell.token_signals(method, seed) for seed in a.cell.seeds] for cell in (a.reference, a.cell))
            ends = [show_number(float(np.mean([row["ece"] for row in side])), Unit(1, 3)) for side in (old, new)]
            moved = {key: np.array([y[key] - x[key] for x, y in zip(old, new)]) for key in units}
            shown = [_moved(moved[key], unit) for key, unit in units.items()]
            rows.append((f"{a.reference.name}: {a.label}", name(method), *ends, *shown))
    columns = ("Cell: changed setting", "Method", "ECE, reference", "ECE, changed", "change of ECE",
               "of entropy (nats)", "of NLL (nats)", "of tokens right")  # fmt: skip
    note = "ECE: of the most probable token. Changes: means of the seeds' own, \u00b1 their standard deviation."
    return filled(columns, rows, title, caption(note, [a.cell.metrics() for a in pairs]))


def _moved(changes: np.ndarray, unit: Unit) -> str:
    """The mean of the seeds' changes, and their standard deviation where there are two seeds or more."""
    mean = show_number(float(changes.mean()), replace(unit, sign=True))
    return f"{mean} \u00b1{show_number(float(changes.std(ddof=1)), unit)}" if len(changes) > 1 else mean


def shifts_figure(
    pairs: Sequence[Ablation], shifts: Mapping[str, SettingChange], number: str = ""
) -> figures.Shown | Table:
    """CAT-Dist − Dist at the reference and at every changed setting, one panel a reference cell."""
    panels, notes = {}, []
    for a in pairs:
        m, s = a.cell.metrics(), shifts[a.cell.name]
        if isinstance(s.after, Undefined):
            continue
        if a.reference.name not in panels:
            panels[a.reference.name] = [forest_row("reference", s.before, m.scale, UNMASKED, s.dots[0])]
            notes.append(f"{a.reference.name}, reference: {show_number(s.before, m.gain)}")
        panels[a.reference.name].append(forest_row(a.label, s.after, m.scale, CAT, s.dots[1]))
        notes.append(f"{a.label}: {show_number(s.after, m.gain)}")
    text = (
        "the effect of the mask with one setting changed at a time, against the reference setting with the same seeds; "
        "95 % intervals, hollow dots: single seeds"
    )
    text = caption(text, [a.cell.metrics() for a in pairs], number=number)
    what, label = "CAT-Dist − Dist at every changed setting", "CAT-Dist − Dist: AUDC (points)"
    return forest_shown(what, panels, notes, label, text)


# ---------------------------------------------------------------- masks


def masks_figure(cells, number: str = "") -> Strips | Table:
    """A mask to choose, and what it does to Dist in each cell: AUDC less that without a mask and less the random mask,
    and the keep-rate."""
    groups, axes, notes, used, title = {}, {}, {}, {}, "Choose a mask"
    for method in (x for x in KEPT if x.endswith("-dist")):
        strips = []
        for label, m in by_label(cells).items():
            effect = m.difference(method, UNMASKED) if method in m.methods else None
            if not isinstance(effect, Interval):
                continue
            text = f"{show_number(effect, m.gain)}; kept {show_number(m.tokens[method].keep_rate, WHOLE)}"
            if isinstance(control := m.difference(method, "random-dist"), Interval):
                text += f"; less the random mask {show_number(control, m.gain)}"
            dots = m.scale * np.subtract(m.audc_by_seed[method], m.audc_by_seed[UNMASKED])
            bar, kind = in_points(effect, m.scale), 1 if effect.low > 0 else 2 if effect.high < 0 else 0
            strips.append(Strip(label, [text], [kind], [bar], dots=[dots.tolist()]))
            used[label] = m
        if strips:
            ends = [v for s in strips for v in (*vars(s.bars[0]).values(), *s.dots[0])]
            ticks, low, high = round_ticks(min(0.0, *ends), max(0.0, *ends))
            axes[name(method)] = Axis("AUDC less that of Dist (points)", low, high, [(v, f"{v:g}") for v in ticks])
            groups[name(method)], notes[name(method)] = strips, kept_words(method)
    if not groups:
        return nothing("Dist with every mask less Dist")
    text = (
        "what each mask does to Dist: to the right of the line it is better than no mask. Bars: mean over seeds with "
        "95 % intervals, hollow dots: single seeds; kept: share of the target tokens in training. Each mask has an "
        "axis of its own, so mind its numbers"
    )
    legend = [("k1", "better than Dist"), ("k0", "not told apart"), ("k2", "worse"), ("dot", "a seed")]
    return Strips(
        groups, axes, name="masks", title=title, caption=caption(text, used.values(), number=number), what="Mask",
        legend=legend, notes=notes,
    )  # fmt: skip


def kept_words(method: str) -> str:
    """Which tokens a mask keeps and drops, by who is right on them, in a sentence."""
    if method.startswith("random"):
        return "Keeps as many tokens as CAT would, whichever."
    words = dict(zip(PARTS, (style.label for style in TOKEN_STYLE.values())))
    kept, dropped = ([word for part, word in words.items() if (part in KEPT[method]) == side] for side in (True, False))
    return f"Keeps the tokens with {', '.join(kept)}; drops {', '.join(dropped)}."


def gatekeeper_table(cells) -> Table:
    """Gatekeeper less its own first stage, Xent, and less CAT-Xent: AUDC and S alone."""
    title, rows, metrics = "Gatekeeper, a second stage after Xent, points of the metric", [], by_label(cells)
    for label, m in metrics.items():
        if "gatekeeper" in m.methods:
            shown = [show_number(m.difference("gatekeeper", base, which), m.gain)
                     for base in ("xent", "cat-xent") for which in ("audc", "alone")]  # fmt: skip
            rows.append((label, *shown))
    pairs = [pair_name("gatekeeper", base) for base in ("xent", "cat-xent")]
    columns = ("Cell", *(f"{pair}, {what}" for pair in pairs for what in ("AUDC", "S alone")))
    note = "Gatekeeper has had a quarter more steps than Xent and CAT-Xent. [ ]: 95 % intervals."
    return filled(columns, rows, title, caption(note, metrics.values()))


def gatekeeper_text(cells) -> str:
    """In how many cells Gatekeeper's second stage makes the cascade better or worse than its first, in one sentence."""
    better, worse, all_ = tally(m.difference("gatekeeper", "xent") for m in numbers(cells) if "gatekeeper" in m.methods)
    if not all_:
        return "No recorded cell has Gatekeeper yet."
    return (
        f"In AUDC its second stage is better than its first in {better} and worse in {worse} of {all_} recorded "
        "cells, by intervals that exclude 0."
    )


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
        if ends:
            seen = np.array([[[row["both"], row["only_large"], row["only_small"]] for row in end] for end in ends])
            both, large, small = seen.mean(axis=(0, 1))
            held = [cell.token_signals(method, seed) for seed in cell.seeds]
            new = [float(np.mean([h[k] for h in held])) for k in ("large_right", "share_right")]
            shown = (both + large, new[0], both + large - new[0], both + small, new[1])
            rows.append((cell.name, *(show_number(float(x), PERCENT) for x in shown)))
    columns = ("Cell", "L, training", "L, held-out", "L, difference", "S, training", "S, held-out")
    note = f"S by {name(method)}; training: the last tenth of the logged steps; held-out: test examples."
    return filled(columns, rows, title, caption(note, numbers(cells)))
