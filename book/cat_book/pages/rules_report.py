"""Tables and figures of the grid training method x deferral rule, from recorded cells of studies.

All numbers are those of the metrics (`studies.cell_metrics`). Captions and units are those of `pieces`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from cat_book.drawing import figures
from cat_book.drawing.styles import method_style
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import NOT_RUN, basis, by_label, caption, filled, in_points, note_on, numbers, shown, tally
from cat_core.analysis.contrasts import CAT, UNMASKED, Effect
from cat_core.analysis.metrics import CellMetrics
from cat_core.analysis.quantities import NOT_THERE, PERCENT, Quantity, Undefined, Unit, show_number
from cat_core.analysis.verdicts import read_entries, verdict_of
from cat_core.methods import RULES, name, rule_name
from cat_core.ranking import Interval
from cat_core.studies.cell_claims import BASELINE_RULES
from cat_core.studies.cell_metrics import CURIOUS, EMBED, LEARNED
from cat_core.studies.study import Cell

TIMES = "\u00a0×"
DEARER = "\u2021"
"""The mark of a rule that costs FLOPs beyond S's answer."""


def _over(m: CellMetrics, method: str) -> list[Quantity]:
    """What each rule of the grid adds to random deferral after training by `method`."""
    return [m.rule_grid.over_random[method].get(rule, NOT_THERE) for rule in m.rule_grid.rules]


def _rule_cost(m: CellMetrics, rule: str = EMBED) -> str:
    """FLOPs that a rule costs beyond S's answer, as shares of L's and S's; or why they are not known."""
    flops = m.rule_flops.get(rule, NOT_THERE)
    if isinstance(flops, Undefined):
        return show_number(flops)
    return f"{show_number(flops.of_large, PERCENT)} of L's, {show_number(flops.of_small, Unit(1, 1, TIMES))} S's"


# ---------------------------------------------------------------- the grid


def grid_table(cell) -> Table:
    """Constant policies, every rule and the oracle, by training method; areas in points of the metric."""
    (m,) = numbers(cell)
    grid, points = m.rule_grid, Unit(m.scale, 1)
    methods = list(grid.over_random)
    small, blind = ([show_number(getattr(m.methods[k], part), points) for k in methods]
                    for part in ("small_alone", "random_audc"))  # fmt: skip
    large = [show_number(m.large_alone, points)] * len(methods)
    rows = [("always S (quality)", *small), ("always L (quality)", *large), ("random deferral (AUDC)", *blind)]
    for rule, values in zip(grid.rules, zip(*(_over(m, k) for k in methods))):
        chosen = ["\u00a0*" * (grid.best_on_calibration[k] == rule) for k in methods]
        cells = [show_number(x, m.gain) + star for x, star in zip(values, chosen)]
        rows.append((rule_name(rule) + f" {DEARER}" * (rule == EMBED), *cells))
    best = [m.methods[k].oracle_audc - m.methods[k].random_audc.estimate for k in methods]
    rows.append(("oracle", *(show_number(b, m.gain) for b in best)))
    greedy = " (greedy, by sentence-level gain)" if m.scale == 1 else ""
    note = (
        "First three rows: quality, and the area under the curve of random deferral. All others: AUDC less that of "
        f"random deferral. * has the largest AUDC of its column on calibration items. The oracle{greedy} sees both "
        "models' quality on the test items."
    )
    if EMBED in grid.rules:
        note += f" {DEARER} L's first layer reads every prompt, too; its FLOPs, {_rule_cost(m)}, are not charged."
    title = f"Deferral rules by training method, points of the metric: {m.cell}"
    return Table(("Rule", *map(name, methods)), rows, title, note_on([m], note, resamples=[grid.resamples]))


def dots_figure(
    rows: Sequence[str], series: Mapping[str, Sequence[Interval | None]], *, x_label: str, marked: Mapping = ()
) -> Figure:
    """One row a name, in it one mark with its interval for each method: colour, marker and place differ.

    series: method -> as many intervals as rows, None where there is none. marked: (row, method) that get a ring.
    """
    if not rows or not series or any(len(values) != len(rows) for values in series.values()):
        given = [len(values) for values in series.values()]
        raise ValueError(f"{len(rows)} rows and {given} values: give every method one a row")
    places = np.linspace(-0.3, 0.3, len(series)) if len(series) > 1 else [0.0]
    with matplotlib.rc_context(figures.LOOK):
        fig = Figure(figsize=(figures.WIDTH, 1.5 + 0.11 * len(rows) * (len(series) + 1)), layout="constrained")
        ax = fig.subplots()
        for i in range(0, len(rows), 2):
            ax.axhspan(i - 0.5, i + 0.5, color="#f2f3f4", linewidth=0, zorder=0)
        ax.axvline(0.0, color="#1a1a1a", linewidth=1.2, zorder=1)
        for (method, values), place in zip(series.items(), places):
            style, there = method_style(method), [i for i, v in enumerate(values) if v is not None]
            x, low, high = (np.array([getattr(values[i], k) for i in there]) for k in ("estimate", "low", "high"))
            y = np.array(there) + place
            ax.hlines(y, low, high, color=style.colour, linewidth=1.6, zorder=3)
            ax.plot(x, y, style.marker or "o", color=style.colour, markersize=5.5, markeredgecolor="white",
                    markeredgewidth=0.5, label=style.label, zorder=4)  # fmt: skip
            ring = [j for j, i in enumerate(there) if (rows[i], method) in marked]
            ax.plot(x[ring], y[ring], "o", color="#1a1a1a", markersize=10.5, markerfacecolor="none", zorder=5)
        ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlabel=x_label)
        ax.set_yticklabels([figures.plain(row) for row in rows])
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
        sns.despine(ax=ax, left=True)
        figures.legend(fig, [ax])
    return fig


def grid_figure(cell, number: str = "") -> figures.Shown:
    """The grid as marks with intervals: a row a rule, a mark a training method."""
    (m,) = numbers(cell)
    rules = [rule_name(rule) for rule in m.rule_grid.rules]
    gains = {method: _over(m, method) for method in m.rule_grid.over_random}
    series = {
        method: [in_points(x, m.scale) if isinstance(x, Interval) else None for x in values]
        for method, values in gains.items()
    }
    marked = {(rule_name(rule), method) for method, rule in m.rule_grid.best_on_calibration.items()}
    fig = dots_figure(rules, series, x_label="AUDC less that of random deferral (points)", marked=marked)
    notes = [
        f"{name(method)}: " + ", ".join(f"{rule} {show_number(x, m.gain)}" for rule, x in zip(rules, values))
        for method, values in gains.items()
    ]
    text = (
        f"what each deferral rule adds to random deferral, by the training method of S; {m.cell}, points of the "
        "metric, 95 % intervals. Ringed: the rule that calibration items choose for the method"
    )
    return shown(fig, "Marks with intervals", notes, caption(text, [m], number=number))


def choice_table(cells) -> Table:
    """What choosing the rule on calibration items gives on test items, less Chow-Average, and less the best on test."""
    title, rows, metrics = "What choosing the rule on calibration items costs", [], by_label(cells)
    for label, m in metrics.items():
        grid = m.rule_grid
        for method, best in grid.best_on_calibration.items():
            regret = grid.regret[method]
            after = min(regret, key=lambda rule: regret[rule].estimate)  # the best on test: least to lose against it
            lost = "it is the best" if after == best else f"{show_number(regret[after], m.gain)} ({rule_name(after)})"
            against = show_number(regret.get("chow_average", NOT_THERE), m.gain)
            rows.append((f"{label}, {name(method)}", rule_name(best), against, lost))
    columns = ("Cell, training method", "chosen on calibration", "chosen − Chow-Average", "chosen − best on test")
    drawn = " / ".join(dict.fromkeys(f"{m.rule_grid.resamples:,}" for m in metrics.values()))
    note = (
        "AUDC on test items, points of the metric. The last column is what the choice cost. It overstates: the best of "
        "several rules on the test items is so partly by luck, and its interval does not know that it was picked. "
        f"[ ]: 95 % intervals, {drawn} paired resamples."
    )
    return filled(columns, rows, title, caption(note, metrics.values()))


# ---------------------------------------------------------------- C7


def claim_table(cells: Sequence[Cell], claim: str = "C7") -> tuple[Table, str]:
    """The rows of a claim in these cells, with the ledger's verdict on all of them; and the verdict in one sentence."""
    entries = []
    for folder in dict.fromkeys(cell.folder for cell in cells):
        pages = {cell.name for cell in cells if cell.folder == folder}
        entries += [e for e in read_entries(folder) if e.claim == claim and e.page in pages]
    verdict = verdict_of(claim, entries)
    sentence = f"{claim}, {verdict.word}"
    rows = [
        (e.page, e.measure, show_number(e.number, e.unit), basis(e.n, e.seeds, e.large_seeds), e.verdict)
        for e in entries
    ]
    columns = ("Cell", "Measure", "Saving at equal quality", "n; seeds of S over L", "This row alone")
    note = f"Verdict over these cells: {sentence}. {verdict.reason}."
    return filled(columns, rows, f"{claim} by the ledger's rule", note), sentence


def apart_table(cells: Sequence[Cell], contrasts: Mapping[str, Mapping[str, Interval]]) -> Table:
    """C7's differences taken apart; contrasts: the cells' contrasts by name (`CellMetrics.contrasts`)."""
    title, rows = "C7 taken apart: the part of the training, and the part of the rule", []
    for cell in cells:
        unit = cell.metrics().gain
        for rule in BASELINE_RULES:
            parts = [contrasts[cell.name].get(f"{k} {rule}", NOT_RUN) for k in ("whole", "training", "rule", "same")]
            rows.append((f"{cell.name}, {rule_name(rule)}", *(show_number(x, unit) for x in parts)))
    columns = ("Cell, baseline's rule", "CAT-Dist, Chow-Average − Dist, its rule (C7)", "training, both Chow-Average",
               "rule, both Dist: Chow-Average − its", "training, both its rule")  # fmt: skip
    note = (
        "AUDC on test items, points of the metric. Training: CAT-Dist − Dist. The column of C7 is the sum of the next "
        "two, exactly."
    )
    return filled(columns, rows, title, caption(note, numbers(cells)))


def learned_table(cells: Sequence[Cell], contrasts: Mapping[str, Mapping[str, Interval]]) -> Table:
    """What each learned rule gains over Chow-Average after Dist and after CAT-Dist, and the difference of the two."""
    title, rows = "Does a learned rule help, and does it help less after CAT?", []
    for cell in cells:
        unit = cell.metrics().gain
        for rule in (r for r in LEARNED if f"change {r}" in contrasts[cell.name]):
            parts = [show_number(contrasts[cell.name][f"{part} {rule}"], unit) for part in (UNMASKED, CAT, "change")]
            cost = _rule_cost(cell.metrics()) if rule == EMBED else "none"
            rows.append((f"{cell.name}, {rule_name(rule)}", *parts, cost))
    if not rows:
        return Table(("Cell", ""), [("none", "no recorded cell holds a learned rule yet")], title)
    columns = ("Cell, rule", "rule − Chow-Average, Dist", "rule − Chow-Average, CAT-Dist", "the second − the first",
               "FLOPs of L's first layer")  # fmt: skip
    note = (
        "AUDC over the deferral rate on test items, points of the metric. FLOPs: Post-Hoc-Embed has L's first layer "
        "read the prompt of every query, deferred or not; mean over test items, as a share of L's and of S's whole "
        "answer. AUDC does not charge them, nor the small networks of the rules."
    )
    return filled(columns, rows, title, caption(note, numbers(cells)))


# ---------------------------------------------------------------- which is the larger effect


def factors_table(cells: Sequence[Cell], effects: Mapping[str, dict[str, Effect] | Undefined]) -> Table:
    """How far training method and rule move AUDC; effects: the cells' factors by name (`CellMetrics.factors`)."""
    title, rows = "Training method or deferral rule: which moves the area more?", []
    for cell in cells:
        unit, factors = Unit(cell.metrics().scale, 2), effects[cell.name]
        if isinstance(factors, Undefined):
            rows.append((f"{cell.name} {show_number(factors)}", "", "", ""))
            continue
        for what, e in factors.items():
            span = f"{show_number(e.span, unit)}: {_level(e.best)} over {_level(e.worst)}" if e.best else ""
            rows.append((f"{cell.name}, {what}", *(show_number(x, unit) for x in (e.spread, e.luck)), span))
    columns = ("Cell, factor", "standard deviation", "by the luck of seeds", "largest − least")
    note = (
        "AUDC in points of the metric; means over seeds and over the other factor. By the luck of seeds: what to "
        "expect if the factor did nothing. Over random: AUDC less that of random deferral, which the rule cannot move. "
        f"Test items are the same for all, and not resampled. Left out: {', '.join(map(rule_name, CURIOUS))}, which "
        "would inflate the part of the rules."
    )
    return filled(columns, rows, title, caption(note, numbers(cells)))


def _level(key: str) -> str:
    return rule_name(key) if key in RULES else name(key)


def larger_factor(factors: Mapping[str, dict[str, Effect] | Undefined]) -> str:
    """In how many cells the rule moves AUDC more than the training method, in one sentence."""
    known = [f for f in factors.values() if not isinstance(f, Undefined)]
    if not known:
        return "no recorded cell can say"
    rule = sum(f["rule"].spread > f["training"].spread for f in known)
    lucky = sum(f["training"].spread <= f["training"].luck for f in known)
    return (
        f"the deferral rule moves AUDC more than the training method in {rule} of {len(known)} cells, and the training "
        f"methods differ no more than by the luck of their seeds in {lucky} of {len(known)}"
    )


def best_rules(cells) -> str:
    """Which rules calibration items choose, and how often, in words."""
    chosen = [rule_name(r) for m in numbers(cells) for r in m.rule_grid.best_on_calibration.values()]
    counts = sorted({r: chosen.count(r) for r in chosen}.items(), key=lambda pair: (-pair[1], pair[0]))
    if not counts:
        return "none, as nothing is recorded"
    better, worse, _ = tally(x.get("chow_average") for m in numbers(cells) for x in m.rule_grid.regret.values())
    return ", ".join(f"{rule} ({count} of {len(chosen)})" for rule, count in counts) + (
        f". By intervals that exclude 0, what was chosen is better than Chow-Average in {better} and worse in {worse} "
        f"of {len(chosen)} cases"
    )


def learned_help(contrasts: Mapping[str, Mapping[str, Interval]]) -> str:
    """How often a learned rule is better than Chow-Average, by its interval, after each of the two methods."""
    sentences = []
    for method in (UNMASKED, CAT):
        keys = {f"{method} {rule}" for rule in LEARNED}
        better, worse, all_ = tally(x for parts in contrasts.values() for k, x in parts.items() if k in keys)
        sentences.append(f"after {name(method)} better than Chow-Average in {better}, worse in {worse} of {all_} cases")
    return "; ".join(sentences) if all_ else "no recorded cell holds a learned rule"
