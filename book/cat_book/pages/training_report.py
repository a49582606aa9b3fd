"""What a page shows before the cascade: the suite, how training went, which tokens who gets right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cat_book.drawing import figures
from cat_book.drawing.tables import Table
from cat_book.pages.pieces import ledger_words
from cat_book.pages.results import Provenance
from cat_core.analysis.quantities import PERCENT, Undefined, show_number
from cat_core.curves import Ledger
from cat_core.methods import name

PLATEAU = 0.05  # at its plateau: the last quarter of the steps brought at most this share of the fall in loss


# ---------------------------------------------------------------- suite and training


def suite_table(suite) -> Table:
    """How many examples each task has in each split, and how it is scored."""
    rows = []
    for task in suite.tasks:
        splits = [[e for e in suite.split(s) if e.task == task] for s in ("train", "calibration", "test")]
        example = next(e for part in splits for e in part)
        options = {len(e.options) for part in splits for e in part}
        shown = "free text" if options == {0} else " to ".join(map(str, sorted({min(options), max(options)})))
        rows.append((task, *map(len, splits), shown, example.metric))
    columns = ("Task", "train", "calibration", "test", "options", "metric")
    return Table(columns, rows, f"Suite {suite.name}: examples by split")


def examples_table(suite, each: int = 2, longest: int = 240) -> Table:
    """The first training examples of every task, as text; longer ones are cut, and say so."""

    def cut(text):
        return text if len(text) <= longest else f"{text[:longest]} ... ({len(text)} characters)"

    rows = []
    for task in suite.tasks:
        for e in [e for e in suite.split("train") if e.task == task][:each]:
            rows.append((task, cut(e.prompt), cut(" | ".join(e.options)) or "(free text)", cut(e.target)))
    return Table(("Task", "Prompt", "Options", "Target"), rows, f"Training examples of {suite.name}")


def training_curves(logs: Mapping[tuple[str, int], list[dict]], quantity: str) -> list[figures.Curve]:
    """`quantity` ("loss", "keep_rate") against the step by method: mean over seeds, band from least to most.

    logs: of `Experiment.logs`. Steps at which a seed lacks the quantity are left out. Raises ValueError if no
    method has it.
    """
    curves = []
    for method in dict.fromkeys(method for method, _ in logs):
        seeds = [{row["step"]: row[quantity] for row in log if quantity in row and "step" in row}
                 for (m, _), log in logs.items() if m == method]  # fmt: skip
        steps = sorted(set.intersection(*map(set, seeds)))
        if steps:
            values = np.array([[seed[step] for step in steps] for seed in seeds], dtype=float)
            band = (values.min(axis=0), values.max(axis=0)) if len(seeds) > 1 else (None, None)
            curves.append(figures.Curve(method, steps, values.mean(axis=0), *band))
    if not curves:
        raise ValueError(f"no training log holds {quantity!r}")
    return curves


def training_figure(logs, quantity: str, origin: Provenance, number: str, n: int) -> figures.Shown:
    """`training_curves` as a figure. number: such as "Figure 1"; n: training examples."""
    curves = training_curves(logs, quantity)
    texts = {
        "loss": ("Loss (nats per target token)", "Training loss of S by method. The methods minimise different "
                 "quantities: compare each line with itself, not with the others."),
        "keep_rate": ("Keep-rate", "Share of target tokens that keep their loss, over training; 1 where there is no "
                      "mask."),
    }  # fmt: skip
    label, text = texts[quantity]
    fig = figures.training_figure(curves, y_label=label)
    alt = figures.alt_text("Line chart", curves, x_label="training step", y_label=label)
    seeds = sorted({seed for _, seed in logs})
    return figures.show(fig, alt, origin.caption(f"{number}: {text}", n, seeds, "training examples"))


def last_quarter_share(log: Sequence[Mapping]) -> float | Undefined:
    """Share of the whole fall in loss that came in the last quarter of the logged steps (negative: it rose).

    Each end is the mean of a tenth of the log, so that one noisy batch does not decide.
    """
    losses = [row["loss"] for row in log if "loss" in row]
    width = max(1, len(losses) // 10)
    if len(losses) < 4:
        return Undefined("fewer than 4 steps were logged")
    first, last = np.mean(losses[:width]), np.mean(losses[-width:])
    begin = 3 * len(losses) // 4
    before = np.mean(losses[max(0, begin - width) : begin])
    return float((before - last) / (first - last)) if first > last else Undefined("the loss did not fall")


def plateau_table(logs: Mapping[tuple[str, int], list[dict]]) -> Table:
    """Whether S was at its plateau at the end, by a stated rule; one row a method."""
    rows = []
    for method in dict.fromkeys(method for method, _ in logs):
        mine = [log for (m, _), log in logs.items() if m == method]
        shares = [last_quarter_share(log) for log in mine]
        gaps = [s.reason for s in shares if isinstance(s, Undefined)]
        mean = Undefined(gaps[0]) if gaps else float(np.mean(shares))
        no = "no: more steps may change the result"
        verdict = "cannot be said" if gaps else "yes" if abs(mean) <= PLATEAU else no
        losses = [[row["loss"] for row in log if "loss" in row] for log in mine]
        ends = [float(np.mean([part[i] for part in losses])) for i in (0, -1)]
        rows.append((name(method), *ends, show_number(mean, PERCENT), verdict))
    columns = ("Method", "first loss", "last loss", "share of the fall in the last quarter", "at its plateau")
    note = (
        "Rule (ours): at its plateau if the loss moved by at most "
        f"{100 * PLATEAU:g} % of its whole fall in the last quarter of the steps."
    )
    return Table(columns, rows, "Was the small model trained long enough?", note)


def ledger_figure(ledgers: Mapping[str, Ledger], origin: Provenance, text: str, n: int, seeds, unit: str):
    """Stacked bars of 2x2 ledgers, one a name."""
    fig = figures.ledger_figure({k: v.shares for k, v in ledgers.items()}, axis_label=f"Share of {unit} (%)")
    notes = [f"{k}: {ledger_words(v.shares)}" for k, v in ledgers.items()]
    return figures.show(fig, f"Stacked bars. {'; '.join(notes)}.", origin.caption(text, n, seeds, unit))


def ledger_table(ledgers: Mapping[str, Ledger], caption: str, note: str = "") -> Table:
    """The same ledgers as numbers."""
    rows = [(k, *(show_number(s, PERCENT) for s in v.shares), v.n) for k, v in ledgers.items()]
    return Table(("", "both right", "only S", "only L", "neither", "n"), rows, caption, note)
