"""What the page on limits shows: tables and figures of recorded cells, from `limits` and the cells' metrics.

Cells are `study.Cell`s whose metrics are there; `comparisons` opens their outcome tables once. Where no cell can show
something, a table says so in one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cat_book.drawing import figures, forest
from cat_book.drawing.markup import round_ticks, si_prefix
from cat_book.drawing.strips import Axis, Slider, Strip, Strips
from cat_book.drawing.tables import Table
from cat_book.pages import pieces
from cat_book.pages.pieces import CLAIMED, basis, by_label, caption, filled, in_points, nothing, pair_name
from cat_core.analysis import limits
from cat_core.analysis.claims import task_of
from cat_core.analysis.comparison import CORPUS, Comparison
from cat_core.analysis.operating_points import caveat_mark, caveat_note
from cat_core.analysis.quantities import PERCENT, PLAIN, Undefined, Unit, show_number
from cat_core.analysis.verdicts import spearman
from cat_core.methods import name
from cat_core.ranking import Interval
from cat_core.studies import costs
from cat_core.studies.cell_claims import deciding
from cat_core.studies.costs import cell_cost
from cat_core.studies.study import Cell

SAVINGS = (0.0, 0.10, 0.25, 0.50)
COIN = Unit(1, 1, "", True)


def comparisons(cells: Sequence[Cell], methods: Sequence[str]) -> dict[str, Comparison]:
    """The outcome tables of cells by label, all their tasks, with those of `methods` that they hold; cells that hold
    none are left out. Intervals are read where the metrics have them, and drawn as often where they have not."""
    tables = {}
    for label, cell in zip(by_label(cells), cells):
        held = tuple(m for m in methods if m in cell.config["methods"])
        if held:
            tables[label] = cell.comparison(methods=held, **cell.kept())
    return tables


def decisive(cells: Sequence[Cell], tables: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same comparisons on the tasks that decide each cell's claim, as its recorded numbers are."""
    by_name = dict(zip(by_label(cells), cells))
    return {label: deciding(by_name[label], c) for label, c in tables.items()}


# ---------------------------------------------------------------- recorded claims


def claims_of(cells: Sequence[Cell], claims: Sequence[str]) -> Table:
    """The recorded rows of some claims, cell by cell, with the verdict of each by the rules of `claims`."""
    metrics = by_label(cells)
    rows = []
    for label, r in ((label, r) for label, m in metrics.items() for r in m.claims if r.claim in claims):
        number = show_number(r.number, r.unit), basis(r.n, r.seeds, r.large_seeds)
        rows.append((label, r.claim, r.role, r.measure, *number, r.verdict))
    columns = ("Cell", "Claim", "Role", "Measure", "Number", "n; seeds of S over L", "Verdict")
    title = f"Recorded cells: {', '.join(claims)}"
    note = caption("In points of the metric; savings in percent of cost.", metrics.values())
    return filled(columns, rows, title, note)


# ---------------------------------------------------------------- easy and hard tasks


def task_points(cells: Sequence[Cell]) -> list[dict]:
    """S alone, CAT less its unmasked counterpart, for every task of every cell with several: in points, with `share`
    of the test answers that neither S (Xent) nor L gets right. Translations are left out: what counts as a right one is
    a convention."""
    rows = []
    for label, m in by_label(cells).items():
        for task, t in (pair for pair in m.tasks.items() if pair[1].metric not in CORPUS):
            for a, b in CLAIMED:
                d = t.alone.get(f"{a} - {b}")
                if isinstance(d, Interval):
                    rows.append({"cell": label, "task": task, "pair": (a, b), "n": t.n, "share": t.answers[3],
                                 "difference": in_points(d, t.scale)})  # fmt: skip
    return rows


def trend(points: Sequence[Mapping], pair: tuple[str, str]) -> tuple[float, float, int] | Undefined:
    """Spearman's correlation of share and *loss* of S alone (so C5 and C6 say: above 0), its p, and the tasks."""
    mine = [p for p in points if p["pair"] == pair]
    if len(mine) < 3:
        return Undefined(f"{len(mine)} tasks have no trend")
    rho, p = spearman([r["share"] for r in mine], [-r["difference"].estimate for r in mine])
    return rho, p, len(mine)


def chosen_text(cells: Sequence[Cell]) -> str:
    """In words: which tasks were chosen as the easiest and the hardest, and how hard they are on test items."""
    notes = []
    for label, m in by_label(cells).items():
        shares = {task: 100 * t.answers[3] for task, t in m.tasks.items()}
        chosen = [next((t for r in m.claims if r.claim == c and (t := task_of(r.measure))), None)
                  for c in ("C5", "C6")]  # fmt: skip
        if all(task in shares for task in chosen):
            parts = (f"{what} {task} with {shares[task]:.1f} %" for what, task in zip(("easiest", "hardest"), chosen))
            notes.append(f"{label}: {', '.join(parts)}, of {min(shares.values()):.1f} to {max(shares.values()):.1f} %")
    if not notes:
        return "No recorded cell has several tasks yet."
    return f"Answers out of reach on test items, of the tasks chosen: {'; '.join(notes)}."


def easy_hard_figure(cells: Sequence[Cell], number: str = "") -> figures.Shown | Table:
    """C5 and C6: what the mask does to S on its own, task by task, against the share of answers out of reach."""
    points = task_points(cells)
    if not points:
        return nothing("S alone, task by task: cells of several tasks")
    marks = []
    for p in points:
        aside = 0.2 * (1 - 2 * CLAIMED.index(p["pair"]))  # so that intervals do not hide each other
        marks.append(forest.Point(p["pair"][0], 100 * p["share"] + aside, *vars(p["difference"]).values()))
    text = (
        "what the mask does to S on its own, one point a task and pair, with its interval, against the share of "
        "test answers that neither S (by Xent) nor L gets right. Easy tasks on the left; the two pairs of a task are "
        "drawn a little apart"
    )
    text = caption(text, [m for m in pieces.numbers(cells) if m.tasks], number=number)
    panels, label = {"S alone, difference\n(points)": marks}, "Answers that neither S nor L gets right (%)"
    return pieces.points_shown(points, panels, "share", label, text)


# ---------------------------------------------------------------- when not to cascade


def _couples(tables: Mapping[str, Comparison]) -> Iterator[tuple[str, Comparison, str, limits.Couple | Undefined]]:
    """(label, comparison, method, S of that method with L) of every cascade."""
    return ((label, c, m, limits.couple_of(c, m)) for label, c in tables.items() for m in c.methods)


def policies_table(tables: Mapping[str, Comparison], rate: float) -> Table:
    """The constant policies, the coin, the assumed mid-size model, the cascade and its oracle at one deferral rate."""
    title, rows = f"Policies at the cost of a cascade that defers {100 * rate:g} %: quality", []
    for label, c, m, couple in _couples(tables):
        if isinstance(couple, Undefined):
            rows.append((label, name(m), f"never: {couple.reason}", *["–"] * 8))
            continue
        at = [float(np.interp(rate, x.deferral_rate, x.quality)) for x in (c.curve(m), c.oracle(m))]
        points = [couple.small, couple.large, couple.random(rate), couple.coin(rate), couple.mid_size(rate), *at]
        ends = (show_number(x, PERCENT) for x in (couple.break_even_rate, couple.cost_ratio + rate))
        rows.append((label, name(m), *ends, *(show_number(float(x), Unit(c.scale, 1)) for x in points)))
    columns = ("Cell", "S by", "cheaper than L up to a rate of", "cost here (of L)", "always S", "always L",
               "random, after S", "coin, before S", "mid-size, assumed", "cascade", "oracle")  # fmt: skip
    note = (
        "Coin: sends as many queries to L as the same FLOPs pay for, before any model has answered. Mid-size: one "
        "model of that cost, if quality grew with the logarithm of cost from S to L (an assumption, nothing measured). "
        "Oracle: of the same cascade. Test items, mean over seeds; costs as if all queries were equally long."
    )
    return filled(columns, rows, title, note)


def coin_figure(cells: Sequence[Cell], tables: Mapping[str, Comparison], number: str = "") -> Strips | Table:
    """Quality of each cascade less that of the coin at the same cost, with a slider over the cost, up to that of L."""
    lines = {}
    for label, c, m, couple in _couples(tables):
        if isinstance(couple, Undefined):
            continue
        rates = limits.coin_rates(couple)
        band = limits.over_coin(c, m, rates)
        points = [in_points(Interval(*map(float, x)), c.scale) for x in zip(band.estimate, band.low, band.high)]
        mid_size = c.scale * (couple.mid_size(rates) - couple.coin(rates))
        lines[label] = Strip(  # in place of the line of the method before: of the last one only
            f"{label}, {name(m)}", [f"{show_number(x, COIN)}; defers {100 * r:.0f} %" for x, r in zip(points, rates)],
            [1 if x.low > 0 else 2 if x.high < 0 else 0 for x in points], points, dots=[[float(y)] for y in mid_size],
        )  # fmt: skip
    if not lines:
        return nothing("Cascade less coin")
    shares = np.linspace(0, 1, len(next(iter(lines.values())).texts))
    said = []
    for i, share in enumerate(shares):
        kinds = [strip.kinds[i] for strip in lines.values()]
        tally = f"better in {kinds.count(1)} of {len(kinds)} cells, worse in {kinds.count(2)}, undecided in the others."
        said.append(f"Beside a coin that sends {100 * share:g} % to L, the cascade of the same cost is {tally}")
    ends = [value for strip in lines.values() for bar in strip.bars for value in vars(bar).values()]
    ticks, low, high = round_ticks(min(ends), max(ends))
    axis = Axis("cascade less coin (points)", low, high, [(v, f"{v:g}") for v in ticks])
    slider = Slider("The coin sends to L", [f"{100 * share:g} %" for share in shares], said, len(shares) * 3 // 10)
    legend = [("k1", "better than the coin"), ("k0", "undecided"), ("k2", "worse"), ("dot", "mid-size, assumed")]
    first = next(iter(tables.values()))
    text = (
        "quality of the cascade less that of a coin between S and L with the same cost, from S alone (0 %) to the cost "
        f"of L alone (100 %), with {100 * first.level:g} % intervals at each ({first.resamples:,} paired resamples of "
        "large models, seeds and items). Left of the line the cascade is not worth having; move the slider to see "
        "where it is. Hollow: a model of the same cost, if quality grew with the logarithm of cost (assumed)"
    )
    text = caption(text, [m for label, m in by_label(cells).items() if label in tables], number=number)
    return Strips({"cells": list(lines.values())}, axis, slider, name="coin", title="Is S's answer worth its price?",
                  caption=text, legend=legend)  # fmt: skip


def over_coin_at(c: Comparison, method: str, rate: float) -> Interval:
    """Quality of the cascade less that of the coin of the same cost, at one deferral rate."""
    band = limits.over_coin(c, method, np.array([rate]))
    return Interval(*(float(x[0]) for x in (band.estimate, band.low, band.high)))


def ranking_needed(c: Comparison, method: str, saving: float) -> dict:
    """What saving a share of L's cost at L's quality asks of the ranking, and what the cascade has.

    "rate", and "auroc", "share" each with "needed_": numbers or Undefined; "gap": quality there less that of L.
    """
    couple = limits.couple_of(c, method)
    rate = -1.0 if isinstance(couple, Undefined) else float(couple.rate_of_saving(saving))
    if rate < 0:
        why = Undefined("S alone costs more")
        return dict.fromkeys(("rate", "auroc", "needed_auroc", "share", "needed_share", "gap"), why)
    curve, ideal = (float(np.interp(rate, x.deferral_rate, x.quality)) for x in (c.curve(method), c.oracle(method)))
    if c.is_corpus:
        needed = Undefined("for right and wrong answers only")
    else:
        try:
            needed = limits.needed_auroc(c.sequence_ledger(method).shares, rate, couple.large)
        except ValueError as error:
            needed = Undefined(str(error))
    blind = float(couple.random(rate))
    share = (curve - blind) / (ideal - blind) if ideal - blind > 1e-12 else Undefined("nothing to gain by ranking")
    return {
        "rate": rate, "auroc": c.auroc(method), "needed_auroc": needed, "share": share,
        "needed_share": limits.needed_share(couple, ideal, rate, couple.large), "gap": curve - couple.large,
    }  # fmt: skip


def ranking_table(tables: Mapping[str, Comparison]) -> Table:
    """Needed against found: AUROC and share of the oracle, for target savings at L's quality."""
    title, rows = "How well the confidence must rank to be as good as L, and how well it does", []
    for label, c in tables.items():
        units = {"rate": PERCENT, **dict.fromkeys(("needed_auroc", "auroc", "needed_share", "share"), PLAIN),
                 "gap": c.gain}  # fmt: skip
        for saving in SAVINGS:
            r = ranking_needed(c, c.methods[-1], saving)
            cells = (show_number(r[key], unit) for key, unit in units.items())
            rows.append((f"{label}, {name(c.methods[-1])}", f"{100 * saving:g} %", *cells))
    columns = ("Cell, S by", "saving", "deferral rate", "AUROC needed", "AUROC", "share of oracle needed",
               "share of oracle", "quality there less L's")  # fmt: skip
    note = (
        "AUROC of the confidence for S being right; the needed one assumes normal scores of one variance and an L that "
        "repairs sure errors as often as unsure ones. The share of the oracle's gain over random deferral assumes "
        "nothing; above 1 even the oracle would not do. The last column is read off the test curve at that rate."
    )
    return filled(columns, rows, title, note)


# ---------------------------------------------------------------- when training has paid


def _flops(x: float) -> str:
    prefix, divisor = si_prefix(abs(x))
    return f"{x / divisor:.3g} {prefix}"


def _range(extra: float, saved: Interval) -> str:
    """Queries at the estimate, and at both ends of the interval of the saving."""
    at = [costs.payback(extra, x) for x in (saved.estimate, saved.high, saved.low)]
    if all(isinstance(x, Undefined) for x in at):
        return "never"
    middle, soon, late = ("never" if isinstance(x, Undefined) else f"{x:,.0f}" for x in at)
    return f"{middle} [{soon}, {late}]"


def payback_table(paid: Sequence[Mapping]) -> Table:
    """What training costs, what a query saves against L alone, and after how many queries it has paid (`paybacks`)."""
    title, rows = "Training against saving: queries until the cascade has paid, against L alone", []
    for row in paid:
        saved = show_number(row["saving"], PERCENT) + caveat_mark(row["headroom"])
        cost, ends = row["cost"], (saved, show_number(row["gap"], row["unit"]))
        if isinstance(row["per_query"], Undefined):
            rows.append((row["cell"], name(row["method"]), "–", "–", "–", *ends, row["per_query"].reason, "–"))
            continue
        shown = (_flops(x) for x in (cost.small, cost.teacher, cost.large))
        after = (_range(cost.total(sunk), row["per_query"]) for sunk in (True, False))
        rows.append((row["cell"], name(row["method"]), *shown, *ends, *after))
    columns = ("Cell", "S by", "FLOPs: S", "FLOPs: L as teacher", "FLOPs: L itself", "saved per query (of L)",
               "its distance to L's quality", "queries, L there anyway", "queries, L trained for this")  # fmt: skip
    note = (
        "Estimates: a training step is three forward passes of its sequences, whose lengths are taken from the test "
        "items. Exact: steps, batches, sizes, and FLOPs per query. Teacher: one pass of L over the training set, and "
        "its output head in every step of distillation. Saving: iso-quality, threshold chosen on "
        "calibration items. [ ]: at the ends of the saving's interval; the estimate of the training FLOPs has none."
        f"{caveat_note(rows)}"
    )
    return filled(columns, rows, title, note)


def extra_table(cells: Sequence[Cell], tables: Mapping[str, Comparison]) -> Table:
    """CAT against its unmasked counterpart: extra training FLOPs, saving gained, queries until it has paid."""
    title, rows = "What the mask costs and saves: queries until it has paid, against the same loss unmasked", []
    for label, cell in ((k, cell) for k, cell in zip(by_label(cells), cells) if k in tables):
        m = cell.metrics()
        for pair in CLAIMED:
            end, trained = pair_name(*pair), [cell_cost(cell, tables[label], method) for method in pair]
            row = next((r for r in m.claims if r.role == "primary" and r.share and r.family == name(pair[0])), None)
            if row is None or any(isinstance(x, Undefined) for x in (row.number, *trained)):
                continue
            extra = trained[0].total() - trained[1].total()
            cost = float(np.mean(tables[label].cost(pair[1])))  # of a query, over all deferral rates alike
            rows.append((label, end, _flops(extra) if extra else "0", show_number(row.number, row.unit),
                         _range(extra, in_points(row.number, cost))))  # fmt: skip
    columns = ("Cell", "Pair", "extra training FLOPs", "saving at equal quality", "queries")
    note = (
        "Against L that is there anyway. CAT-Dist needs the same pass of L as Dist, so it costs nothing more: it "
        "has paid at once (0) or never does. CAT-Xent needs a pass that Xent does not. Saving: FLOPs-equivalent, of "
        "the cost of a query averaged over all deferral rates. [ ]: at the ends of the interval."
    )
    return filled(columns, rows, title, note)


# ---------------------------------------------------------------- what the prose and the metrics say


def headline(
    points: Sequence[Mapping], tables: Mapping[str, Comparison], paid: Sequence[Mapping], rate: float
) -> dict[str, str]:
    """What the prose quotes, one sentence each, of `task_points`, `decisive` tables and `paybacks`."""
    trends = []
    for pair in CLAIMED:
        if not isinstance(of_pair := trend(points, pair), Undefined):
            rho, p, tasks = of_pair
            trends.append(f"for {pair_name(*pair)} Spearman's correlation of loss and difficulty over {tasks} tasks is "
                          f"{show_number(rho, Unit(1, 2, '', True))} (one-sided permutation p = {p:.3f})")  # fmt: skip
    last = [(c, c.methods[-1]) for c in tables.values()]
    at = [over_coin_at(c, m, rate) for c, m in last if not isinstance(limits.couple_of(c, m), Undefined)]
    better, worse, _ = pieces.tally(at)
    worse += len(last) - len(at)  # dearer than L
    counted = [r for r in paid if not isinstance(r["queries"], Undefined)]
    after, unsure = [r["queries"] for r in counted], sum(bool(caveat_mark(r["headroom"])) for r in counted)
    return {
        "trend_text": f"In the recorded cells, {'; '.join(trends)}." if trends else "No recorded cell shows it yet.",
        "worth_text": (
            f"At a deferral rate of {100 * rate:g} % the cascade of S by {name(last[0][1])} is better than the coin in "
            f"{better} of {len(last)} recorded cells, worse in {worse}, and undecided in the others."
            if last
            else "No recorded cell says yet whether a cascade beats the coin."
        ),
        "paid_text": (
            f"With L there anyway, training S has paid against L alone after {min(after):,.0f} to {max(after):,.0f} "
            f"queries, at the estimates of the saving, in {len(after)} of {len(paid)} recorded cells and methods"
            f"{f' ({unsure} of them where L alone is not shown to be better than S alone)' if unsure else ''}."
            if after
            else "In no recorded cell is there a number of queries yet."
        ),
    }


def page_metrics(
    points: Sequence[Mapping], tables: Mapping[str, Comparison], paid: Sequence[Mapping], rate: float
) -> dict:
    """Every number of the page but those of shifts, for `publish.publish`."""
    couples = {label: {} for label in tables}
    for label, c, m, couple in _couples(tables):
        couples[label][m] = couple if isinstance(couple, Undefined) else {
            **vars(couple), "break_even_rate": couple.break_even_rate, "over_coin": over_coin_at(c, m, rate),
            "ranking": {str(s): ranking_needed(c, m, s) for s in SAVINGS},
        }  # fmt: skip
    return {
        "cells": list(tables),
        "trends": {pair_name(*pair): trend(points, pair) for pair in CLAIMED},
        "tasks": [p | {"pair": list(p["pair"])} for p in points], "couples": couples,
        "payback": [{k: v for k, v in row.items() if k != "unit"} for row in paid],
    }  # fmt: skip


def paybacks(cells: Sequence[Cell], tables: Mapping[str, Comparison]) -> list[dict]:
    """Per cell and method: "cost" (`TrainingCost`), "saving" (share of L's cost at its quality), "gap" (distance to
    that quality), "per_query" (FLOPs saved), and how many queries pay for it: "queries" with L there anyway,
    "queries_all" with L trained for this. Undefined where there is no number."""
    rows = []
    for label, cell in ((k, cell) for k, cell in zip(by_label(cells), cells) if k in tables):
        m = cell.metrics()
        for method in (k for k in tables[label].methods if k in m.methods):
            cost, iso = cell_cost(cell, tables[label], method), m.methods[method].iso_quality
            saving, gap = (iso, iso) if isinstance(iso, Undefined) else (iso.saving, iso.gap)
            why = next((x for x in (cost, saving) if isinstance(x, Undefined)), None)
            per_query = why or in_points(saving, m.large_flops)
            queries, everything = (why or costs.payback(cost.total(k), per_query.estimate) for k in (True, False))
            rows.append({"cell": label, "method": method, "cost": cost, "saving": saving, "gap": gap,
                         "headroom": m.methods[method].headroom, "unit": m.gain, "per_query": per_query,
                         "queries": queries, "queries_all": everything})  # fmt: skip
    return rows
