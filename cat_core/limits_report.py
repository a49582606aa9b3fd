"""What the page on limits shows: tables and figures of recorded cells, from `limits` and the cells' metrics.

Cells are `study.Cell`s whose metrics are there; `comparisons` opens their outcome tables once. Where no cell can show
something, a table says so in one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cat_core import figures, forest, limits
from cat_core.claims import MARGIN, caveat_mark, caveat_note, task_of, verdict
from cat_core.comparison import CORPUS, Comparison
from cat_core.evidence import deciding
from cat_core.evidence_report import caption, gain, labels, nothing, numbers, pair_name, scale, value
from cat_core.ledger import spearman
from cat_core.limits import TrainingCost
from cat_core.markup import si_prefix
from cat_core.ranking import Interval
from cat_core.study import Cell
from cat_core.tables import PERCENT, PLAIN, Table, Undefined, Unit, show_number
from cat_core.training_report import name

PAIRS = (("cat-dist", "dist"), ("cat-xent", "xent"))
SAVINGS = (0.0, 0.10, 0.25, 0.50)


def comparisons(cells: Sequence[Cell], methods: Sequence[str]) -> dict[str, Comparison]:
    """The outcome tables of cells by label, all their tasks, with those of `methods` that they hold; cells that hold
    none are left out. Intervals are read where the metrics have them, and drawn as often where they have not."""
    found = {}
    for label, cell in zip(labels(numbers(cells)), cells):
        held = tuple(m for m in methods if m in cell.config["methods"])
        if held:
            found[label] = cell.comparison(methods=held, **cell.kept())
    return found


def decisive(cells: Sequence[Cell], found: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same comparisons on the tasks that decide each cell's claim, as its recorded numbers are."""
    by_label = dict(zip(labels(numbers(cells)), cells))
    return {label: deciding(by_label[label], c) for label, c in found.items()}


# ---------------------------------------------------------------- recorded claims


def claims_of(cells: Sequence[Cell], claims: Sequence[str]) -> Table:
    """The recorded rows of some claims, cell by cell, with the verdict of each by the rules of `claims`."""
    title, rows = f"Recorded cells: {', '.join(claims)}", []
    found = numbers(cells)
    for label, m in zip(labels(found), found):
        for row in (r for r in m["claims"] if r["claim"] in claims):
            number, unit = value(row["number"]), Unit(row["scale"], 2, "", True)
            word = verdict(number, row["direction"], row["seeds"], MARGIN / row["scale"])
            rests = f"{row['n']:,}; {row['seeds']} over {row['large_seeds']}"
            rows.append((label, row["claim"], row["role"], row["measure"], show_number(number, unit), rests, word))
    if not rows:
        return nothing(title)
    columns = ("Cell", "Claim", "Role", "Measure", "Number", "n; seeds of S over L", "Verdict")
    return Table(columns, rows, title, caption("In points of the metric.", found))


# ---------------------------------------------------------------- easy and hard tasks


def task_points(cells: Sequence[Cell]) -> list[dict]:
    """S alone, CAT less its unmasked counterpart, for every task of every cell with several: in points, with `share`
    of the test answers that neither S (Xent) nor L gets right. Translations are left out: what counts as a right one is
    a convention."""
    rows, found = [], numbers(cells)
    for label, m in zip(labels(found), found):
        for task, t in (pair for pair in m["tasks"].items() if pair[1]["metric"] not in CORPUS):
            for a, b in PAIRS:
                d = value(t["alone"].get(f"{a} - {b}"))
                if isinstance(d, Interval):
                    points = Interval(*(scale(t) * x for x in (d.estimate, d.low, d.high)))
                    rows.append({"cell": label, "task": task, "pair": (a, b), "n": t["n"], "share": t["answers"][3],
                                 "difference": points})  # fmt: skip
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
    said, found = [], numbers(cells)
    for label, m in zip(labels(found), found):
        shares = {task: 100 * t["answers"][3] for task, t in m["tasks"].items()}
        chosen = [next((t for r in m["claims"] if r["claim"] == c and (t := task_of(r["measure"]))), None)
                  for c in ("C5", "C6")]  # fmt: skip
        if all(task in shares for task in chosen):
            parts = (f"{what} {task} with {shares[task]:.1f} %" for what, task in zip(("easiest", "hardest"), chosen))
            said.append(f"{label}: {', '.join(parts)}, of {min(shares.values()):.1f} to {max(shares.values()):.1f} %")
    if not said:
        return "No recorded cell has several tasks yet."
    return f"Answers out of reach on test items, of the tasks chosen: {'; '.join(said)}."


def easy_hard_figure(cells: Sequence[Cell], number: str = "") -> figures.Shown | Table:
    """C5 and C6: what the mask does to S on its own, task by task, against the share of answers out of reach."""
    points = task_points(cells)
    if not points:
        return nothing("S alone, task by task: cells of several tasks")
    marks, said = [], []
    for p in points:
        d, aside = p["difference"], 0.2 * (1 - 2 * PAIRS.index(p["pair"]))  # so that intervals do not hide each other
        marks.append(forest.Point(p["pair"][0], 100 * p["share"] + aside, d.estimate, d.low, d.high))
        told = show_number(d, Unit(1, 2, "", True)).replace("\u00a0", " ")
        said.append(f"{p['cell']} {p['task']}, {pair_name(*p['pair'])}: share {100 * p['share']:.1f} %, {told}")
    names = {p["pair"][0]: pair_name(*p["pair"]) for p in points}
    fig = forest.points_figure(
        {"S alone, difference\n(points)": marks}, x_label="Answers that neither S nor L gets right (%)", labels=names
    )
    used = [m for m in numbers(cells) if m["tasks"]]
    text = (
        f"{number}: what the mask does to S on its own, one point a task and pair, with its interval, against the "
        "share of test answers that neither S (by Xent) nor L gets right. Easy tasks on the left; the two pairs "
        "of a task are drawn a little apart"
    )
    return figures.show(fig, f"Points with intervals. {'; '.join(said)}.", caption(text, used))


# ---------------------------------------------------------------- when not to cascade


def policies_table(found: Mapping[str, Comparison], rate: float) -> Table:
    """The constant policies, the coin, the assumed mid-size model, the cascade and its oracle at one deferral rate."""
    title, rows = f"Policies at the cost of a cascade that defers {100 * rate:g} %: quality", []
    for label, c in found.items():
        for m in c.methods:
            couple, unit, curve = limits.couple_of(c, m), Unit(c.scale, 1), c.curve(m)
            if isinstance(couple, Undefined):
                rows.append((label, name(m), f"never: {couple.reason}", *["–"] * 8))
                continue
            at = [float(np.interp(rate, x.deferral_rate, x.quality)) for x in (curve, c.oracle(m))]
            shown = [couple.small, couple.large, couple.random(rate), couple.coin(rate), couple.mid_size(rate), *at]
            cost = show_number(couple.cost_ratio + rate, PERCENT)
            ends = (show_number(couple.break_even_rate, PERCENT), cost)
            rows.append((label, name(m), *ends, *(show_number(float(x), unit) for x in shown)))
    if not rows:
        return nothing(title)
    columns = ("Cell", "S by", "cheaper than L up to a rate of", "cost here (of L)", "always S", "always L",
               "random, after S", "coin, before S", "mid-size, assumed", "cascade", "oracle")  # fmt: skip
    note = (
        "Coin: sends as many queries to L as the same FLOPs pay for, before any model has answered. Mid-size: one "
        "model of that cost, if quality grew with the logarithm of cost from S to L (an assumption, nothing measured). "
        "Oracle: of the same cascade. Test items, mean over seeds; costs as if all queries were equally long."
    )
    return Table(columns, rows, title, note)


def coin_figure(cells: Sequence[Cell], found: Mapping[str, Comparison], number: str = "") -> figures.Shown | Table:
    """Quality of each cascade less that of the coin at the same cost, one panel a cell, up to the cost of L."""
    panels, said = {}, []
    for label, c in found.items():
        drawn = []
        for m in c.methods:
            known = limits.couple_of(c, m)
            if isinstance(known, Undefined):
                continue
            couple, rates = known, limits.coin_rates(known)
            band = limits.over_coin(c, m, rates)
            parts = (c.scale * x for x in (band.estimate, band.low, band.high))
            drawn.append(figures.Curve(m, couple.cost_ratio + rates, *parts))
            best = int(np.argmax(band.estimate))
            said.append(f"{label}, {name(m)}: at most {c.scale * band.estimate[best]:+.2f} at "
                        f"{100 * (couple.cost_ratio + rates[best]):.0f} % of L's cost")  # fmt: skip
        if drawn:  # of the last method that is drawn
            y = c.scale * (couple.mid_size(rates) - couple.coin(rates))
            drawn.append(figures.Curve("random-deferral", couple.cost_ratio + rates, y, label="Mid-size (assumed)"))
            panels[label] = drawn
    if not panels:
        return nothing("Cascade less coin")
    fig = figures.difference_figure(
        panels, baseline="the coin", axis_label="Mean cost of a query (% of L's)", quality_label="points",
        quality_scale=1,
    )  # fmt: skip
    first = next(iter(found.values()))
    text = (
        f"{number}: quality of the cascade less that of a coin between S and L with the same cost, from S alone to the "
        f"cost of L alone, with pointwise {100 * first.level:g} % bands ({first.resamples:,} paired resamples of large "
        "models, seeds and items). Below 0 the cascade is not worth having. Grey: a model of the same cost, if quality "
        f"grew with the logarithm of cost (assumed for S by {name(first.methods[-1])})"
    )
    alt = f"Line chart, difference to the coin against cost. {'; '.join(said)}."
    used = [m for m, label in zip(numbers(cells), labels(numbers(cells))) if label in found]
    return figures.show(fig, alt, caption(text, used))


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
    room = ideal - float(couple.random(rate))
    share = (curve - float(couple.random(rate))) / room if room > 1e-12 else Undefined("nothing to gain by ranking")
    return {
        "rate": rate, "auroc": c.auroc(method), "needed_auroc": needed, "share": share,
        "needed_share": limits.needed_share(couple, ideal, rate, couple.large), "gap": curve - couple.large,
    }  # fmt: skip


def ranking_table(found: Mapping[str, Comparison], savings: Sequence[float] = SAVINGS) -> Table:
    """Needed against found: AUROC and share of the oracle, for target savings at L's quality."""
    title, rows = "How well the confidence must rank to be as good as L, and how well it does", []
    for label, c in found.items():
        m = c.methods[-1]
        for saving in savings:
            r = ranking_needed(c, m, saving)
            units = {"rate": PERCENT, "needed_auroc": PLAIN, "auroc": PLAIN, "needed_share": PLAIN, "share": PLAIN,
                     "gap": Unit(c.scale, 2, "", True)}  # fmt: skip
            shown = (show_number(r[key], unit) for key, unit in units.items())
            rows.append((f"{label}, {name(m)}", f"{100 * saving:g} %", *shown))
    if not rows:
        return nothing(title)
    columns = ("Cell, S by", "saving", "deferral rate", "AUROC needed", "AUROC", "share of oracle needed",
               "share of oracle", "quality there less L's")  # fmt: skip
    note = (
        "AUROC of the confidence for S being right; the needed one assumes normal scores of one variance and an L that "
        "repairs sure errors as often as unsure ones. The share of the oracle's gain over random deferral assumes "
        "nothing; above 1 even the oracle would not do. The last column is read off the test curve at that rate."
    )
    return Table(columns, rows, title, note)


# ---------------------------------------------------------------- when training has paid


def shape_config(model: str, context: int, vocab_size: int):
    """The configuration that `models.build_model` would give a size, for counting; ValueError for a named model."""
    from transformers import LlamaConfig

    from cat_core.configs import describes_size, parse_size

    if not describes_size(model):
        raise ValueError(f"{model!r} is a named model: its shape is not in the record")
    size = parse_size(model, context)
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=size.hidden, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads or size.heads, intermediate_size=size.intermediate or 4 * size.hidden,
        head_dim=size.hidden // size.heads,
    )  # fmt: skip


def training_examples(cell: Cell) -> int:
    """How many training examples a cell has: exactly for a built-in suite, else at most, as many as were drawn."""
    from cat_core import mini_flan, synthetic

    config = cell.config
    kinds = {"mini-superglue": synthetic.MiniSuperGlue, "mini-wmt": synthetic.MiniWmt, "mini-flan": mini_flan.MiniFlan}
    kind = kinds.get(config["suite"])
    if kind is None:
        return config["steps"] * config.get("batch_size", 128)
    if config.get("train_limit") or config.get("mixing_cap"):  # mixing and limits have to be done to be counted
        return len(cell.experiment.data.load().split("train"))
    return kind(**config.get("suite_options", {})).train


def item_lengths(cell: Cell, c: Comparison) -> list[tuple[int, int]]:
    """Prompt and target tokens of the test items. Prompts as recorded; targets so that each task's sum is that of its
    recorded token ledger, as the single ones are not recorded."""
    tokens = cell.token_ledger_by_task(cell.config["methods"][0])
    rows, found = c.frame[(c.frame["model"] == "large") & (c.frame["split"] == "test")].drop_duplicates("item_id"), []
    for task, part in rows.groupby("task", sort=False):
        mean = tokens[task].n / len(cell.seeds) / len(part)
        upto = np.round(mean * np.arange(len(part) + 1)).astype(int)  # whole numbers with that mean
        found += zip(part["n_prompt"].tolist(), np.maximum(np.diff(upto), 1).tolist())
    return found


def cell_cost(cell: Cell, c: Comparison, method: str) -> TrainingCost | Undefined:
    """`limits.training_cost` of a cell: steps, batches and sizes by its configuration, lengths by its recorded tables.

    An estimate: the lengths are those of the test items (`item_lengths`), in place of training sequences.
    """
    config = cell.config
    context, vocabulary = config.get("context", 64), config.get("vocab_size", 1_400)
    try:
        small, large = (shape_config(config[which], context, vocabulary) for which in ("small", "large"))
    except ValueError as error:
        return Undefined(str(error))
    return limits.training_cost(
        small, large, item_lengths(cell, c), method=method, steps=config["steps"],
        batch_size=config.get("batch_size", 128), large_steps=config["large_steps"],
        large_batch_size=config.get("large_batch_size", 128), examples=training_examples(cell),
    )  # fmt: skip


def _flops(x: float) -> str:
    prefix, divisor = si_prefix(abs(x))
    return f"{x / divisor:.3g} {prefix}"


def _range(extra: float, saved: Interval) -> str:
    """Queries at the estimate, and at both ends of the interval of the saving."""
    at = [limits.payback(extra, x) for x in (saved.estimate, saved.high, saved.low)]
    if all(isinstance(x, Undefined) for x in at):
        return "never"
    middle, soon, late = ("never" if isinstance(x, Undefined) else f"{x:,.0f}" for x in at)
    return f"{middle} [{soon}, {late}]"


def paybacks(cells: Sequence[Cell], found: Mapping[str, Comparison]) -> list[dict]:
    """Per cell and method: "cost" (`TrainingCost`), "saving" (share of L's cost at its quality), "gap" (distance to
    that quality), "per_query" (FLOPs saved), and how many queries pay for it: "queries" with L there anyway,
    "queries_all" with L trained for this. Undefined where there is no number."""
    rows = []
    for label, cell in zip(labels(numbers(cells)), cells):
        m = cell.metrics()
        for method in (k for k in found[label].methods if k in m["methods"]) if label in found else ():
            cost, iso = cell_cost(cell, found[label], method), m["methods"][method]["iso_quality"]
            saving, queries = value(iso.get("saving")), {}
            row = {"cell": label, "method": method, "cost": cost, "saving": saving, "gap": value(iso.get("gap")),
                   "headroom": value(m["methods"][method].get("headroom")), "unit": gain(m)}  # fmt: skip
            why = next((x for x in (cost, saving) if isinstance(x, Undefined)), None)
            row["per_query"] = why or Interval(*(x * m["large_flops"] for x in vars(saving).values()))
            for key, sunk in (("queries", True), ("queries_all", False)):
                queries[key] = why or limits.payback(cost.total(sunk), row["per_query"].estimate)
            rows.append(row | queries)
    return rows


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
    if not rows:
        return nothing(title)
    columns = ("Cell", "S by", "FLOPs: S", "FLOPs: L as teacher", "FLOPs: L itself", "saved per query (of L)",
               "its distance to L's quality", "queries, L there anyway", "queries, L trained for this")  # fmt: skip
    note = (
        "Estimates: a training step is three forward passes of its sequences, whose lengths are taken from the test "
        "items. Exact: steps, batches, sizes, and FLOPs per query. Teacher: one pass of L over the training set, and "
        "its output head in every step of distillation. Saving: iso-quality, threshold chosen on "
        "calibration items. [ ]: at the ends of the saving's interval; the estimate of the training FLOPs has none."
        f"{caveat_note(rows)}"
    )
    return Table(columns, rows, title, note)


def extra_table(cells: Sequence[Cell], found: Mapping[str, Comparison]) -> Table:
    """CAT against its unmasked counterpart: extra training FLOPs, saving gained, queries until it has paid."""
    title, rows = "What the mask costs and saves: queries until it has paid, against the same loss unmasked", []
    for label, cell in zip(labels(numbers(cells)), cells):
        m = cell.metrics()
        for a, b in PAIRS:
            end = pair_name(a, b)
            row = next((r for r in m["claims"] if r["claim"] == "C8" and r["measure"].endswith(end)), None)
            gained = value(row["number"]) if row else Undefined("not in the recorded metrics")
            costs = [cell_cost(cell, found[label], k) if label in found else Undefined("no table") for k in (a, b)]
            if isinstance(gained, Undefined) or any(isinstance(x, Undefined) for x in costs):
                continue
            extra = costs[0].total() - costs[1].total()
            saved = Interval(*(x * m["large_flops"] for x in (gained.estimate, gained.low, gained.high)))
            shown = show_number(gained, Unit(100, 2, "", True)) + caveat_mark(value(row.get("headroom")))
            rows.append((label, end, _flops(extra) if extra else "0", shown, _range(extra, saved)))
    if not rows:
        return nothing(title)
    columns = ("Cell", "Pair", "extra training FLOPs", "saving gained (points of L's cost)", "queries")
    note = (
        "Against L that is there anyway. CAT-Dist needs the same pass of L as Dist, so it costs nothing more: it has "
        "paid at once (0) or never does. CAT-Xent needs a pass that Xent does not. [ ]: at the ends of the interval."
        f"{caveat_note(rows)}"
    )
    return Table(columns, rows, title, note)


# ---------------------------------------------------------------- what the prose and the metrics say


def headline(
    points: Sequence[Mapping], found: Mapping[str, Comparison], paid: Sequence[Mapping], rate: float
) -> dict[str, str]:
    """What the prose quotes, one sentence each, of `task_points`, `decisive` tables and `paybacks`."""
    trends = []
    for pair in PAIRS:
        found_trend = trend(points, pair)
        if not isinstance(found_trend, Undefined):
            rho, p, tasks = found_trend
            trends.append(f"for {pair_name(*pair)} Spearman's correlation of loss and difficulty over {tasks} tasks is "
                          f"{show_number(rho, Unit(1, 2, '', True))} (one-sided permutation p = {p:.3f})")  # fmt: skip
    sides, best = [], []
    for c in found.values():
        best.append(name(c.methods[-1]))
        if isinstance(limits.couple_of(c, c.methods[-1]), Undefined):
            sides.append(-1)  # dearer than L
            continue
        band = limits.over_coin(c, c.methods[-1], np.array([rate]))
        sides.append(int(band.low[0] > 0) - int(band.high[0] < 0))
    counted = [r for r in paid if not isinstance(r["queries"], Undefined)]
    after, unsure = [r["queries"] for r in counted], sum(bool(caveat_mark(r["headroom"])) for r in counted)
    return {
        "trend_text": f"In the recorded cells, {'; '.join(trends)}." if trends else "No recorded cell shows it yet.",
        "worth_text": (
            f"At a deferral rate of {100 * rate:g} % the cascade of S by {best[0]} is better than the coin in "
            f"{sides.count(1)} of {len(sides)} recorded cells, worse in {sides.count(-1)}, and undecided in the others."
            if sides
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
    points: Sequence[Mapping], found: Mapping[str, Comparison], paid: Sequence[Mapping], rate: float
) -> dict:
    """Every number of the page but those of shifts, for `results.publish`."""
    couples = {}
    for label, c in found.items():
        couples[label] = {}
        for m in c.methods:
            couple = limits.couple_of(c, m)
            if isinstance(couple, Undefined):
                couples[label][m] = couple
                continue
            band = limits.over_coin(c, m, np.array([rate]))
            couples[label][m] = {
                **vars(couple), "break_even_rate": couple.break_even_rate,
                "over_coin": Interval(*(float(x[0]) for x in (band.estimate, band.low, band.high))),
                "ranking": {str(s): ranking_needed(c, m, s) for s in SAVINGS},
            }  # fmt: skip
    return {
        "cells": list(found),
        "trends": {pair_name(*pair): trend(points, pair) for pair in PAIRS},
        "tasks": [p | {"pair": list(p["pair"])} for p in points], "couples": couples,
        "payback": [
            {k: vars(v) if isinstance(v, TrainingCost) else v for k, v in row.items() if k != "unit"}
            for row in paid
        ],
    }  # fmt: skip
