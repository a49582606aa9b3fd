"""What a page on a suite shows: tables, figures and the slider of a `comparison.Comparison`, with their captions.

The numbers come from `comparison`, the look from `figures`, `explorer` and `tables`; here they are put together, so
that the pages on SuperGLUE and on translation say the same things in the same way. The confidence is Chow-Average.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from cat_book.drawing import explorer, figures
from cat_book.drawing.chooser import Chooser
from cat_book.drawing.markup import threshold_text
from cat_book.drawing.tables import Table
from cat_book.pages.covers import Fragment
from cat_book.pages.pieces import note_on, pair_name
from cat_book.pages.results import Provenance
from cat_core.analysis.claims import ClaimRow
from cat_core.analysis.comparison import METRIC_LABELS, Comparison
from cat_core.analysis.guards import answers
from cat_core.analysis.metrics import CellMetrics, SuiteMetrics
from cat_core.analysis.operating_points import (
    BUDGETS,
    OperatingPoint,
    calibrated,
    caveat_mark,
    caveat_note,
    headroom,
    iso_quality,
    quality_at_budgets,
)
from cat_core.analysis.quantities import PERCENT, PLAIN, Undefined, Unit, show_number, true_minus
from cat_core.analysis.resampling import GRID
from cat_core.methods import RULES, name
from cat_core.ranking import Interval
from cat_core.studies.cell_claims import deciding
from cat_core.studies.study import Cell


def quality_unit(of: Comparison | SuiteMetrics) -> Unit:
    """Quality on 0..100, with one digit."""
    return Unit(of.scale, 1, "")


def measured_in(of: Comparison | SuiteMetrics) -> str:
    """The metric with its unit, for captions."""
    return METRIC_LABELS[of.metric] + (" (corpus, 0 to 100)" if of.scale == 1 else " (%)")


def intervals(c: Comparison) -> str:
    """How the intervals were made, for notes below tables."""
    return f"[ ]: {100 * c.level:g} % intervals, {c.resamples:,} paired resamples of {c.levels}."


def alone_table(c: Comparison) -> Table:
    """S on its own by method, and L on its own: each task and all together, and what tasks report besides."""
    rows = []
    for label, part in (*_tasks(c).items(), ("all", c)):
        for by_it in (part, *part.by_further()):
            alone = (_alone(x, quality_unit(by_it)) for x in (*map(by_it.alone, c.methods), by_it.large_alone()))
            rows.append((label if by_it is part else f"{label}: {by_it.label}", part.n, *alone))
    columns = ("Task", "n", *(f"S, {name(m)}" for m in c.methods), "L")
    spoilt, said = _spoilt(c)
    signature = c.curve(c.methods[0]).signature
    note = (f"{intervals(c)} sacrebleu's signature: {signature}" if signature else intervals(c)) + said
    rows += spoilt
    return Table(columns, rows, f"Each model on its own: {measured_in(c)}, test items", note)


def _tasks(c: Comparison) -> dict[str, Comparison]:
    """The comparison on each of several tasks."""
    return {task: c.of_task(task) for task in c.tasks} if len(c.tasks) > 1 else {}


def _alone(x, unit: Unit) -> str:
    """A quality with its interval, but for one without width: there all items agree, which is no certainty."""
    return f"{show_number(x.estimate, unit)} (no interval)" if x.low == x.high else show_number(x, unit)


def _spoilt(c: Comparison) -> tuple[list[tuple], str]:
    """How many test answers of each model are empty, and how many were cut off, as rows; or that none is, in words."""
    counted, rows, none = answers(c), [], []
    for column, words in (("empty", "empty answers"), ("truncated", "answers cut off")):
        counts = [row[column] for _, _, row in counted]
        if None in counts:
            none.append(f"{words}: not known, as texts were not kept")
        elif any(counts):
            shares = (f"{k:,} of {n:,}" for k, (_, n, _) in zip(counts, counted))
            rows.append((words, c.n, *shares))
        else:
            none.append(f"{words}: none")
    return rows, f" {'; '.join(none).capitalize()}." if none else ""


def areas_table(m: SuiteMetrics, basis: str = "") -> Table:
    """The constant policies, random deferral, the rule and the oracle, by method, as areas under the curve.

    basis: how the intervals were made; those of recorded cells are said to be as recorded.
    """
    rows, unit = [], quality_unit(m)
    for method, row in m.methods.items():
        areas = (show_number(x, unit) for x in (row.small_alone, row.random_audc, row.audc))
        more = show_number(row.audc_over_random, m.gain), show_number(row.oracle_audc, unit)
        rows.append((name(method), *areas, *more, show_number(row.normalised_audc, PLAIN)))
    columns = ("Method", "always S", "random deferral", "this rule (AUDC)", "rule − random", "oracle", "normalised")
    greedy = " The oracle is greedy by sentence-level gain." if m.scale == 1 else ""
    note = (
        f"Always L: {show_number(m.large_alone, unit)}, the same for all. Normalised: (rule − random) / "
        f"(oracle − random).{greedy}"
    )
    title, recorded = f"AUDC over the deferral rate, {measured_in(m)}, {WORDS}", isinstance(m, CellMetrics)
    note = note_on([m], note) if recorded else f"{note} {basis}"
    return Table(columns, rows, f"{title}: {m.cell}" if recorded else title, note)


def budgets_table(c: Comparison) -> Table:
    """Quality at fixed shares of the cost of L, the saving at L's quality, and AUROC, by method."""
    rows = []
    for m in c.methods:
        point = iso_quality(c, m)
        at = [show_number(q, quality_unit(c)) for q in quality_at_budgets(c, m)]
        saved = show_number(point.saving, PERCENT) + caveat_mark(headroom(c, m))
        rows.append((name(m), *at, saved, show_number(point.gap, c.gain), show_number(c.auroc(m), PLAIN)))
    budgets = [f"at {100 * b:g} % of L's FLOPs" for b in BUDGETS]
    columns = ("Method", *budgets, "iso-quality saving", "and its distance to L", "AUROC(q; S right)")
    right = f" Right: sentence-level score of at least {100 * c.right_at:g} (our choice)." if c.is_corpus else ""
    note = (
        "Iso-quality saving: the threshold that reaches L's quality on calibration items, used on test "
        "items, which need not reach it: hence the distance. For its interval calibration items are drawn anew, too."
        f"{right} {intervals(c)}{caveat_note(rows)}"
    )
    return Table(columns, rows, f"Quality at a budget of FLOPs, {measured_in(c)}, {WORDS}", note)


def threshold_table(c: Comparison, budget: float) -> Table:
    """Thresholds calibrated for a deferral rate, and what they gave on test items."""
    rows, ends = [], {-np.inf: "never defer", np.inf: "always defer"}
    for m in c.methods:
        point = calibrated(c, m, budget)
        if isinstance(point, Undefined):
            rows.append((name(m), f"none: {point.reason}", "", "", "", ""))
            continue
        taus = ", ".join(ends.get(t) or show_number(t, Unit(1, 3)) for t in point.taus.values())
        rates = [show_number(v, PERCENT) for v in (point.promised_rate, point.deferral_rate)]
        rows.append((name(m), taus, *rates, show_number(point.quality, quality_unit(c)),
                     show_number(point.saving, PERCENT)))  # fmt: skip
    columns = ("Method", "threshold (by seed)", "calibration: deferral rate", "test: deferral rate", c.label, "saving")
    caption = f"A threshold for deferring {100 * budget:g} % of the queries, {WORDS}"
    return Table(columns, rows, caption, f"Saving: 1 − C / C_L on test items. {intervals(c)}")


def point_table(c: Comparison, point: OperatingPoint, calibrated_on: int) -> Table:
    """What one threshold gave on test items, between the two models alone; calibrated_on: items it was chosen on."""
    unit, method = quality_unit(c), c.methods[0]
    rows = [("S alone", "", show_number(c.alone(method), unit), ""),
            ("the cascade", show_number(point.deferral_rate, PERCENT), show_number(point.quality, unit),
             show_number(point.saving, PERCENT)),
            ("L alone", "", show_number(c.large_alone(), unit), "")]  # fmt: skip
    (tau,) = point.taus.values()
    note = (
        f"Threshold {true_minus(threshold_text(tau))}, chosen on {calibrated_on:,} calibration items, of which it "
        f"defers {show_number(point.promised_rate, PERCENT)}; judged on {c.n:,} test items. {intervals(c)}"
    )
    return Table(("", "queries to L", c.label, "saved of the cost of L"), rows, "What the threshold gives", note)


def differences_table(c: Comparison, rules: Sequence[str] = ()) -> Table:
    """Paired differences of AUDC for every rule; by what tasks report beside their metric with the first rule."""
    rules = tuple(rules or c.rules)
    rows = [
        (pair_name(a, b), label(rule), show_number(c.difference(a, b, rule), c.gain))
        for rule in rules
        for a, b in c.pairs
    ]
    for task, part in (*_tasks(c).items(), ("", c)):
        for by_it in part.by_further():
            where = f"{task}, {by_it.label}: " if task else f"{by_it.label}: "
            gains = (show_number(by_it.difference(*pair, rules[0]), by_it.gain) for pair in c.pairs)
            rows += [(where + pair_name(*pair), label(rules[0]), gain) for pair, gain in zip(c.pairs, gains)]
    title = f"Paired differences of AUDC, points of {c.label}"
    return Table(("Pair", "Confidence", "Difference"), rows, title, intervals(c))


def label(rule: str) -> str:
    """A confidence rule for readers."""
    return (RULES[rule].words if rule in RULES else "") or rule


WORDS = label("chow_average")


def _references(c: Comparison, method: str) -> list[explorer.Series]:
    """The oracle and random deferral between S of `method` and L; FLOPs follow the mean cost of deferral."""
    curve, ideal, cost = c.curve(method), c.oracle(method), c.cost(method)
    straight = None if isinstance(cost, Undefined) else np.linspace(cost[0], cost[-1], len(cost))
    line = np.linspace(curve.quality[0], curve.quality[-1], len(curve.quality))
    return [
        explorer.Series("oracle", "", ideal.deferral_rate, None, ideal.quality, straight),
        explorer.Series("random-deferral", "", curve.deferral_rate, None, line, straight),
    ]


def _series(c: Comparison, method: str, rule: str = "chow_average") -> explorer.Series:
    curve, cost = c.curve(method, rule), c.cost(method, rule)
    cost = None if isinstance(cost, Undefined) else cost
    seeds = [c.seed_curve(method, seed, rule=rule).quality for seed in c.seeds]
    band = {"low": np.min(seeds, 0), "high": np.max(seeds, 0)} if len(seeds) > 1 else {}
    return explorer.Series(method, rule, curve.deferral_rate, curve.threshold, curve.quality, cost, **band)


def quality_figure(c: Comparison, origin: Provenance, number: str, axis: str = "flops"):
    """Quality against FLOPs (or the deferral rate) for every method, with oracle and random deferral of the first.

    Against the deferral rate, too, where costs are unknown."""
    lines, axis = [], "deferral_rate" if c.unknown_costs else axis
    for line in (*(_series(c, m) for m in c.methods), *_references(c, c.methods[0])):
        x = line.flops if axis == "flops" else line.deferral_rate
        at = (np.interp(GRID, line.deferral_rate, v) for v in (x, line.quality))
        lines.append(figures.Curve(line.method, *at))
    fig = figures.quality_flops_figure(
        lines,
        axis=axis,
        large_flops=None if c.unknown_costs else c.large_flops,
        quality_label=measured_in(c),
        quality_scale=c.scale,
    )
    against = "mean FLOPs per query" if axis == "flops" else "deferral rate"
    alt = figures.alt_text("Line chart", lines, x_label=against, y_label=measured_in(c), y_scale=c.scale)
    text = (
        f"{number}: {c.label} of the cascade against the {against}, {WORDS}, mean over seeds; oracle "
        f"and random deferral with S trained by {name(c.methods[0])}"
    )
    return figures.show(fig, alt, origin.caption(text, c.n, c.seeds))


def difference_figure(c: Comparison, origin: Provenance, number: str) -> figures.Shown | Table:
    """The primary difference curves with their bands, one panel for each pair; without a pair, a table that says so."""
    if not c.pairs:
        title = f"{number}: difference between two training methods"
        return Table(("Pair", "Difference"), [("none", "this run has no CAT method with its counterpart")], title)
    bands, panels = c.intervals("chow_average", bands=True).bands, {}
    for a, b in c.pairs:
        band = bands[f"{a} - {b}"]
        panels[pair_name(a, b)] = [figures.Curve(a, band.deferral_rate, band.estimate, band.low, band.high)]
    fig = figures.difference_figure(
        panels, baseline=c.pairs[0][1], quality_label=f"points of {c.label}", quality_scale=c.scale
    )
    for ax in fig.axes:  # each panel has a baseline of its own, named in its title
        ax.set_ylabel(f"Difference,\npoints of {c.label}")
    alt = figures.alt_text("Line chart", panels, x_label="deferral rate", y_label="difference", y_scale=c.scale)
    text = (
        f"{number}: difference between two training methods along the deferral rate, points of {c.label}, "
        f"with pointwise {100 * c.level:g} % bands ({c.resamples:,} paired resamples), {WORDS}"
    )
    return figures.show(fig, alt, origin.caption(text, c.n, c.seeds))


def slider(c: Comparison, page: str, start: float = 0.3, grid: int = 41) -> str:
    """The threshold explorer for all methods and rules, as HTML.

    With several seeds a row is the mean over the seeds at an equal deferral rate, and its threshold their
    median (the lower one of two): each seed has its own threshold for that rate. start: first position, a
    deferral rate; grid: number of positions. Where costs are unknown there is a line that says so, and no slider.
    """
    if (why := c.unknown_costs) is not None:
        return f"<p>No slider: {escape(why.reason)}.</p>"
    of_seeds = f", mean of {len(c.seeds)} seeds (threshold: their median; bands: worst to best seed)"
    seeds = of_seeds if len(c.seeds) > 1 else ""
    return explorer.threshold_explorer(
        [_series(c, m, rule) for rule in c.rules for m in c.methods],
        name=f"p{page.replace('_', '-')}-{c.metric.replace('_', '-')}", large_flops=c.large_flops,
        title=f"{c.label} on {c.n:,} test items{seeds}", quality_label=c.label, quality_scale=c.scale,
        quality_unit="" if c.is_corpus else "%", references=_references(c, c.methods[0]), start=start, grid=grid,
    )  # fmt: skip


def sliders(c: Comparison, cells: Sequence[Cell], page: str, start: float = 0.3) -> Chooser:
    """The sliders of the recorded cell where there is most to trade, and of this run, one at a time."""

    def room(cell: Cell) -> float:
        known = [m.headroom for m in cell.metrics().methods.values() if isinstance(m.headroom, Interval)]
        return cell.metrics().scale * max((x.low for x in known), default=-np.inf)

    parts = {}
    for cell in sorted(cells, key=room, reverse=True)[:1]:
        shown = tuple(m for m in cell.config["methods"] if m in c.methods)
        parts[f"recorded: {cell.place}, {len(cell.seeds)} seeds"] = deciding(cell, cell.comparison(methods=shown))
    parts["this run"] = c
    drawn = {key: Fragment(slider(one, page, start), f"Slider: {key}") for key, one in parts.items()}
    return Chooser(drawn, "Curves", name=f"sliders-{page.replace('_', '-')}")


def headline(c: Comparison, claims: Sequence[ClaimRow]) -> dict[str, float | str]:
    """What the prose quotes, as plain numbers and texts (for `myst_nb.glue`); quality on 0 to 100.

    The first method stands for S; the first claim is the primary one.
    """
    first, why = c.methods[0], c.unknown_costs
    small, large = (c.scale * q.estimate for q in (c.alone(first), c.large_alone()))
    return {
        "n_test": float(c.n), "n_seeds": float(len(c.seeds)), "n_tasks": float(len(c.tasks)),
        "small_method": name(first), "small_alone": small, "large_alone": large, "gap": large - small,
        "cost_ratio": show_number(why) if why else c.large_flops / float(c.cost(first)[0]),
        "metric": c.label, "primary": claims[0].sentence,
        "control": next((r.sentence for r in claims if r.measure.endswith(name("random-dist"))), "not run"),
    }  # fmt: skip
