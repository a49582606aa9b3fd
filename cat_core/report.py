"""What a page on a suite shows: tables, figures and the slider of a `comparison.Comparison`, with their
captions.

The numbers come from `comparison`, the look from `figures`, `explorer` and `tables`; here they are put
together, so that the pages on SuperGLUE and on translation say the same things in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cat_core import explorer, figures
from cat_core.claims import ClaimRow, as_metrics, caveat_mark, caveat_note, gain_unit
from cat_core.comparison import BUDGETS, Comparison
from cat_core.curves import audc
from cat_core.resampling import GRID
from cat_core.tables import PERCENT, PLAIN, Table, Undefined, Unit, show_number
from cat_core.training_report import Setting, name


def quality_unit(c: Comparison) -> Unit:
    """Quality on 0..100, with one digit."""
    return Unit(c.scale, 1, "")


def measured_in(c: Comparison) -> str:
    """The metric with its unit, for captions."""
    return f"{c.label} (corpus, 0 to 100)" if c.is_corpus else f"{c.label} (%)"


def intervals(c: Comparison) -> str:
    """How the intervals were made, for notes below tables."""
    return f"[ ]: {100 * c.level:g} % intervals, {c.resamples:,} paired resamples of {c.levels}."


def alone_table(c: Comparison) -> Table:
    """S on its own by method, and L on its own: each task and all together."""
    parts = [(task, c.of_task(task)) for task in c.tasks] if len(c.tasks) > 1 else []
    unit = quality_unit(c)
    rows = [
        (
            label,
            part.n,
            *(show_number(part.alone(m), unit) for m in c.methods),
            show_number(part.large_alone(), unit),
        )
        for label, part in [*parts, ("all", c)]
    ]
    columns = ("Task", "n", *(f"S, {name(m)}" for m in c.methods), "L")
    signature = c.curve(c.methods[0]).signature
    note = f"{intervals(c)} sacrebleu's signature: {signature}" if signature else intervals(c)
    return Table(columns, rows, f"Each model on its own: {measured_in(c)}, test items", note)


def areas_table(c: Comparison, rule: str = "chow_average") -> Table:
    """The constant policies, random deferral, the rule and the oracle, by method, as areas under the
    curve.
    """
    unit, rows = quality_unit(c), []
    for m in c.methods:
        found = (c.alone(m), c.random_audc(m, rule), c.audc(m, rule))
        gain = show_number(c.over_random(m, rule), gain_unit(c))
        oracle, share = show_number(audc(c.oracle(m)), unit), show_number(c.normalised_audc(m, rule), PLAIN)
        rows.append((name(m), *(show_number(f, unit) for f in found), gain, oracle, share))
    columns = (
        "Method",
        "always S",
        "random deferral",
        "this rule (AUDC)",
        "rule − random",
        "oracle",
        "normalised",
    )
    greedy = " The oracle is greedy by sentence-level gain." if c.is_corpus else ""
    note = (
        f"Always L: {show_number(c.large_alone(), unit)}, the same for all. Normalised: (rule − random) / "
        f"(oracle − random).{greedy} {intervals(c)}"
    )
    return Table(columns, rows, f"AUDC over the deferral rate, {measured_in(c)}, {label(rule)}", note)


def budgets_table(c: Comparison, rule: str = "chow_average") -> Table:
    """Quality at fixed shares of the cost of L, the saving at L's quality, and AUROC, by method."""
    unit, rows = quality_unit(c), []
    for m in c.methods:
        point = c.iso_quality(m, rule)
        at = [show_number(q, unit) for q in c.quality_at_budgets(m, rule)]
        saved = show_number(point.saving, PERCENT) + caveat_mark(c.headroom(m))
        gap = show_number(point.gap, gain_unit(c))
        rows.append((name(m), *at, saved, gap, show_number(c.auroc(m, rule), PLAIN)))
    budgets = [f"at {100 * b:g} % of L's FLOPs" for b in BUDGETS]
    columns = ("Method", *budgets, "iso-quality saving", "and its distance to L", "AUROC(q; S right)")
    right = f" Right: sentence-level score of at least {100 * c.right_at:g} (our choice)." if c.is_corpus else ""
    note = (
        "Iso-quality saving: the threshold that reaches L's quality on calibration items, used on test "
        "items, which need not reach it: hence the distance. For its interval calibration items are drawn anew, too."
        f"{right} {intervals(c)}{caveat_note(rows)}"
    )
    return Table(columns, rows, f"Quality at a budget of FLOPs, {measured_in(c)}, {label(rule)}", note)


def threshold_table(c: Comparison, budget: float, rule: str = "chow_average") -> Table:
    """Thresholds calibrated for a deferral rate, and what they gave on test items."""
    rows = []
    for m in c.methods:
        point = c.calibrated(m, budget, rule)
        if isinstance(point, Undefined):
            rows.append((name(m), f"none: {point.reason}", "", "", "", ""))
            continue
        ends = {-np.inf: "never defer", np.inf: "always defer"}
        taus = ", ".join(ends.get(t) or show_number(t, Unit(1, 3)) for t in point.taus.values())
        shown = (point.promised_rate, point.deferral_rate)
        rates = [show_number(v, PERCENT) for v in shown]
        quality, saved = show_number(point.quality, quality_unit(c)), show_number(point.saving, PERCENT)
        rows.append((name(m), taus, *rates, quality, saved))
    columns = (
        "Method",
        "threshold (by seed)",
        "calibration: deferral rate",
        "test: deferral rate",
        c.label,
        "saving",
    )
    caption = f"A threshold for deferring {100 * budget:g} % of the queries, {label(rule)}"
    return Table(columns, rows, caption, f"Saving: 1 − C / C_L on test items. {intervals(c)}")


def differences_table(c: Comparison, rules: Sequence[str] = ()) -> Table:
    """Paired differences of AUDC for every rule."""
    unit = gain_unit(c)
    rows = [
        (f"{name(a)} − {name(b)}", label(rule), show_number(c.difference(a, b, rule), unit))
        for rule in rules or c.rules
        for a, b in c.pairs
    ]
    title = f"Paired differences of AUDC, points of {c.label}"
    return Table(("Pair", "Confidence", "Difference"), rows, title, intervals(c))


def label(rule: str) -> str:
    """A confidence rule for readers."""
    return explorer.RULE_LABELS.get(rule, rule)


def _references(c: Comparison, method: str) -> list[explorer.Series]:
    """The oracle and random deferral between S of `method` and L; FLOPs follow the mean cost of deferral."""
    curve, ideal = c.curve(method), c.oracle(method)
    cost = c.cost(method)
    straight = np.linspace(cost[0], cost[-1], len(cost))
    line = np.linspace(curve.quality[0], curve.quality[-1], len(cost))
    return [
        explorer.Series("oracle", "", ideal.deferral_rate, None, ideal.quality, straight),
        explorer.Series("random-deferral", "", curve.deferral_rate, None, line, straight),
    ]


def quality_figure(c: Comparison, setting: Setting, number: str, axis: str = "flops", rule="chow_average"):
    """Quality against FLOPs (or the deferral rate) for every method, with oracle and random deferral of
    the first.
    """
    lines = []
    for m in c.methods:
        curve = c.curve(m, rule)
        x = c.cost(m, rule) if axis == "flops" else curve.deferral_rate
        lines.append(figures.Curve(m, *(np.interp(GRID, curve.deferral_rate, v) for v in (x, curve.quality))))
    for line in _references(c, c.methods[0]):
        x = line.flops if axis == "flops" else line.deferral_rate
        at = (np.interp(GRID, line.deferral_rate, v) for v in (x, line.quality))
        lines.append(figures.Curve(line.method, *at))
    fig = figures.quality_flops_figure(
        lines, axis=axis, large_flops=c.large_flops, quality_label=measured_in(c), quality_scale=c.scale
    )
    against = "mean FLOPs per query" if axis == "flops" else "deferral rate"
    alt = figures.alt_text("Line chart", lines, x_label=against, y_label=measured_in(c), y_scale=c.scale)
    text = (
        f"{number}: {c.label} of the cascade against the {against}, {label(rule)}, mean over seeds; oracle "
        f"and random deferral with S trained by {name(c.methods[0])}"
    )
    return figures.show(fig, alt, setting.caption(text, c.n, c.seeds))


def difference_figure(
    c: Comparison, setting: Setting, number: str, rule: str = "chow_average"
) -> figures.Shown | Table:
    """The primary difference curves with their bands, one panel for each pair; without a pair, a table that says so."""
    if not c.pairs:
        title = f"{number}: difference between two training methods"
        return Table(("Pair", "Difference"), [("none", "this run has no CAT method with its counterpart")], title)
    boot, panels = c.bootstrap(rule, whole=True), {}
    for a, b in c.pairs:
        band = boot.difference_curve[a, b]
        line = figures.Curve(a, band.deferral_rate, band.estimate, band.low, band.high)
        panels[f"{name(a)} − {name(b)}"] = [line]
    fig = figures.difference_figure(
        panels, baseline=c.pairs[0][1], quality_label=f"points of {c.label}", quality_scale=c.scale
    )
    for ax in fig.axes:  # each panel has a baseline of its own, named in its title
        ax.set_ylabel(f"Difference,\npoints of {c.label}")
    alt = figures.alt_text("Line chart", panels, x_label="deferral rate", y_label="difference", y_scale=c.scale)
    text = (
        f"{number}: difference between two training methods along the deferral rate, points of {c.label}, "
        f"with pointwise {100 * c.level:g} % bands ({c.resamples:,} paired resamples), {label(rule)}"
    )
    return figures.show(fig, alt, setting.caption(text, c.n, c.seeds))


def slider(c: Comparison, page: str, start: float = 0.3, rules: Sequence[str] = (), grid: int = 41) -> str:
    """The threshold explorer for all methods and rules, as HTML.

    With several seeds a row is the mean over the seeds at an equal deferral rate, and its threshold their
    median (the lower one of two): each seed has its own threshold for that rate. start: first position, a
    deferral rate; grid: number of positions.
    """
    series = []
    for rule in rules or c.rules:
        for m in c.methods:
            curve = c.curve(m, rule)
            points = (curve.deferral_rate, curve.threshold, curve.quality, c.cost(m, rule))
            series.append(explorer.Series(m, rule, *points))
    seeds = "" if len(c.seeds) == 1 else f", mean of {len(c.seeds)} seeds (threshold: their median)"
    return explorer.threshold_explorer(
        series, name=f"p{page.replace('_', '-')}-{c.metric.replace('_', '-')}", large_flops=c.large_flops,
        title=f"{c.label} on {c.n:,} test items{seeds}", quality_label=c.label, quality_scale=c.scale,
        quality_unit="" if c.is_corpus else "%", references=_references(c, c.methods[0]), start=start,
        grid=grid,
    )  # fmt: skip


def headline(c: Comparison, claims: Sequence[ClaimRow]) -> dict[str, float | str]:
    """What the prose quotes, as plain numbers and texts (for `myst_nb.glue`); quality on 0 to 100.

    The first method stands for S; the first claim is the primary one.
    """
    first = c.methods[0]
    small, large = (c.scale * q.estimate for q in (c.alone(first), c.large_alone()))
    return {
        "n_test": float(c.n),
        "n_seeds": float(len(c.seeds)),
        "n_tasks": float(len(c.tasks)),
        "small_method": name(first),
        "small_alone": small,
        "large_alone": large,
        "gap": large - small,
        "cost_ratio": c.large_flops / float(c.cost(first)[0]),
        "metric": c.label,
        "primary": claims[0].sentence,
        "control": next((r.sentence for r in claims if r.measure.endswith(name("random-dist"))), "not run"),
    }


def page_metrics(c: Comparison, claims: Sequence[ClaimRow], budget: float, rules: Sequence[str] = ()) -> dict:
    """Every number of a page on a suite, for `comparison.publish`; differences for `rules` (default all)."""
    methods = {}
    for m in c.methods:
        point, iso = c.calibrated(m, budget), c.iso_quality(m)
        methods[m] = {
            "small_alone": c.alone(m), "audc": c.audc(m), "random_audc": c.random_audc(m),
            "audc_over_random": c.over_random(m), "oracle_audc": audc(c.oracle(m)),
            "normalised_audc": c.normalised_audc(m),
            "quality_at_budget": dict(zip(map(str, BUDGETS), c.quality_at_budgets(m))),
            "auroc": c.auroc(m), "sequence_ledger": c.sequence_ledger(m).shares,
            "iso_quality": _point(iso), "headroom": c.headroom(m), "calibrated": _point(point),
        }  # fmt: skip
    differences = {rule: {f"{a} - {b}": c.difference(a, b, rule) for a, b in c.pairs} for rule in rules or c.rules}
    return {
        "suite": c.frame["suite"].iloc[0], "large_models": c.large_models,
        "metric": c.metric, "n": c.n, "seeds": c.seeds, "tasks": c.tasks, "large_alone": c.large_alone(),
        "large_flops": c.large_flops, "budget": budget, "methods": methods, "differences": differences,
        "claims": as_metrics(claims),
    }  # fmt: skip


def _point(point):
    """An operating point as plain values; an infinite threshold as text."""
    if isinstance(point, Undefined):
        return point
    taus = {seed: tau if np.isfinite(tau) else str(tau) for seed, tau in point.taus.items()}
    return {**vars(point), "taus": taus}
