"""Tables and figures of committed benchmark results, `benchmarks/results/<benchmark>-<device>.json`.

Nothing is measured here: `python -m benchmarks.<benchmark>` does it, and its file says on what. A device without a file
is left out and named. Ratios compare ways that ran in turns in one process, so they mean more than seconds do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cat_book.drawing import figures
from cat_book.drawing.tables import Table
from cat_core.training.provenance import find_root

FOLDER = Path("benchmarks/results")
DEVICES = ("cpu", "cuda")
RESULT_PARTS = {
    "loss": ("rows",),
    "teacher": ("rows",),
    "runner": ("cascade", "early_exit", "batch", "memory"),
    "pair": ("rows",),
}
"""The benchmarks, and the lists of rows in their files."""
PAIR_WAYS = ("Trainer, in length groups", "runner")  # of a pretrained pair's: what an experiment takes by itself
MIB = 2**20
RIVAL = (
    "Plain: the formula as one would write it without this library, two F.linear, argmax for the mask, log_softmax, "
    "gather, a product with L's softmax, and autograd for the rest. "
)


def results(benchmark: str, root: Path | None = None) -> dict[str, dict]:
    """{device: what the file of a benchmark holds}, for the devices that have one.

    Raises ValueError for a file that is not one of results.
    """
    runs = {}
    for device in DEVICES:
        path = (root or find_root()) / FOLDER / f"{benchmark}-{device}.json"
        if not path.is_file():
            continue
        try:
            runs[device] = json.loads(path.read_text(encoding="utf-8"))
            rows = [runs[device][part] for part in RESULT_PARTS[benchmark]]
            fits = all(rows) and runs[device]["git"]["commit"] and runs[device]["versions"]["torch"]
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise ValueError(f"{path} is not a file of results: run `python -m benchmarks.{benchmark}` again")
    return runs


def setting(runs: Mapping[str, Mapping], benchmark: str) -> str:
    """One sentence a device: machine, versions, commit, clock; and which device has no results."""
    sentences = []
    for device, run in runs.items():
        threads = f", {run['threads']} thread{'s' * (run['threads'] > 1)}" if device == "cpu" else ""
        commit = run["git"]["commit"][:10] + "+" * bool(run["git"].get("dirty"))  # as on every page: files were changed
        sentences.append(
            f"{device.upper()}: {run['processor']} ({run['instructions']}{threads}), {run['dtype']}, torch "
            f"{run['versions']['torch']}, commit {commit}, {run['clock']}."
        )
    lacking = [device.upper() for device in DEVICES if device not in runs]
    if lacking:
        sentences.append(f"Not measured yet: {', '.join(lacking)} (python -m benchmarks.{benchmark} --device cuda).")
    return " ".join(sentences)


def _nothing(benchmark: str, title: str) -> Table:
    row = (f"python -m benchmarks.{benchmark} writes them to {FOLDER.as_posix()}",)
    return Table(("no results are there",), [row], title)


def _table(
    runs: Mapping[str, Mapping], benchmark: str, part: str, title: str, cells: Mapping[str, Callable], note: str = ""
) -> Table:
    """Every row of a part of the results; cells: head of a column -> text of a row in it, the first after the device's
    name."""
    if not runs:
        return _nothing(benchmark, title)
    rows = []
    for device, row in ((device, row) for device, run in runs.items() for row in run[part]):
        first, *others = (text(row) for text in cells.values())
        rows.append((device.upper() + first, *others))
    return Table(tuple(cells), rows, title, note + setting(runs, benchmark))


def _size(row: Mapping) -> str:
    return f", V = {row['vocabulary']:,}"


def loss_rows(runs: Mapping[str, Mapping]) -> list[tuple[str, int, int, dict[float, dict]]]:
    """(device, V, N, {rho: the row of the fused loss}) for every size that was measured."""
    rows = []
    for device, run in runs.items():
        for size in dict.fromkeys((row["vocabulary"], row["tokens"]) for row in run["rows"]):
            ours = [r for r in run["rows"] if (r["vocabulary"], r["tokens"]) == size and r["way"] == "fused"]
            rows.append((device, *size, {row["rho"]: row for row in ours}))
    return rows


def loss_table(runs: Mapping[str, Mapping]) -> Table:
    """The fused loss against the plain way: times as fast by rho, memory, and its distance from the floor."""
    title = "The fused loss against plain PyTorch on all logits"
    if not runs:
        return _nothing("loss", title)
    rhos = sorted({row["rho"] for run in runs.values() for row in run["rows"]}, reverse=True)
    rows = []
    for device, vocabulary, tokens, ours in loss_rows(runs):
        memory, floor = ([f"{100 * ours[rho][key]:.0f} %" for rho in rhos if rho in ours]
                         for key in ("memory_share", "floor_share"))  # fmt: skip
        speed = [f"{ours[rho]['speedup']:.2f}" if rho in ours else "" for rho in rhos]
        size = f"{device.upper()}, V = {vocabulary:,}, N = {tokens:,}"
        rows.append((size, *speed, " / ".join(memory), " / ".join(floor)))
    by_rho = " / ".join(f"{rho:g}" for rho in rhos)
    columns = ("Device, V, tokens N", *(f"times as fast, ρ = {rho:g}" for rho in rhos), f"memory, ρ = {by_rho}",
               f"matrix products of its time, ρ = {by_rho}")  # fmt: skip
    note = (
        "ρ: share of kept tokens. Times as fast and memory (of the plain way's): medians over repeats in one run. "
        "Matrix products: the time of those that no exact way can do without, over ours. "
        f"{RIVAL}{setting(runs, 'loss')}"
    )
    return Table(columns, rows, title, note)


def rivals_table(runs: Mapping[str, Mapping]) -> Table:
    """All ways at rho = 1: time and memory against the plain way of the same gradient."""
    cells = {
        "Way": lambda row: f"{_size(row)}, N = {row['tokens']:,}: {row['way']}",
        "times as fast as the plain one": lambda row: f"{row['speedup']:.2f}",
        "MiB": lambda row: f"{row['memory'] / MIB:,.0f}",
        "matrix products of its time": lambda row: f"{100 * row['floor_share']:.0f} %",
    }
    kept = {device: {**run, "rows": [row for row in run["rows"] if row["rho"] == 1]} for device, run in runs.items()}
    note = RIVAL + "Ways marked Xent learn from the labels alone and are compared with their like. "
    return _table(kept, "loss", "rows", "Other ways to the same gradient, every token kept", cells, note)


def loss_figure(runs: Mapping[str, Mapping], number: str = "") -> figures.Shown | Table:
    """Time of the plain way, of ours and of the bare matrix products, by rho, a panel a vocabulary, at most tokens."""
    if not runs:
        return _nothing("loss", "Time by keep-rate")
    rows = list({row[:2]: row for row in sorted(loss_rows(runs), key=lambda row: row[:3])}.values())
    with matplotlib.rc_context(figures.LOOK):
        fig = Figure(figsize=(figures.WIDTH, 1.1 + 1.7 * len(rows)), layout="constrained")
        axes = np.atleast_1d(fig.subplots(len(rows), 1, sharex=True))
        for ax, (device, vocabulary, tokens, ours) in zip(axes, rows):
            rhos = sorted(ours)
            share = [1 / ours[rho]["speedup"] for rho in rhos]
            floor = [ours[rho]["floor_share"] / ours[rho]["speedup"] for rho in rhos]
            ax.axhline(1.0, color="#1a1a1a", linewidth=1.2, label="plain PyTorch")
            ax.plot(rhos, share, "o-", color="#0072B2", label="fused")
            ax.plot(rhos, floor, "s--", color="#8a8f98", label="matrix products alone")
            ax.set(ylim=(0, 1.1), title=f"{device.upper()}, V = {vocabulary:,}, N = {tokens:,}", ylabel="time / plain")
        figures.legend(fig, axes)
        axes[-1].set(xlabel="Keep-rate ρ", xlim=(0.25, 1.05))
    notes = [
        f"{device.upper()}, V = {vocabulary:,}, N = {tokens:,}: fused takes "
        + ", ".join(f"{1 / ours[rho]['speedup']:.0%} at rho {rho:g}" for rho in sorted(ours))
        for device, vocabulary, tokens, ours in rows
    ]
    text = f"{number}: time of a forward and backward pass, as a share of the plain way's. {setting(runs, 'loss')}"
    return figures.show(fig, f"Time of the fused loss by keep-rate. {'; '.join(notes)}.", text.removeprefix(": "))


def teacher_table(runs: Mapping[str, Mapping]) -> Table:
    """A training step that reads a cache against one with L beside it."""
    cells = {
        "Way": lambda row: f"{_size(row)}: {row['way']}",
        "steps in the time of one online": lambda row: f"{row['speedup']:.2f}",
        "MiB a step": lambda row: f"{row['memory'] / MIB:,.0f}",
        "MiB of L held": lambda row: f"{row['resident'] / MIB:,.1f}",
        "bytes a token": lambda row: _if_there(row["bytes_per_token"], ",.0f"),
        "passes to pay": lambda row: _if_there(row.get("epochs_to_pay"), ".1f"),
    }
    first = next(iter(runs.values()))["rows"][0] if runs else None
    note = first and (
        f"S {first['hidden']} x {first['layers']}, L {first['teacher_hidden']} x {first['teacher_layers']}. CAT-Dist, "
        "unless CAT-Xent is named. Passes to pay: after so many passes over the training data the one pass of L that "
        "makes the cache has paid for itself. "
    )
    return _table(runs, "teacher", "rows", "A training step of S: L beside it, or its word from a cache", cells, note)


def pair_table(runs: Mapping[str, Mapping]) -> Table:
    """Training, scoring and writing with models of a pretrained pair's shape."""
    cells = {
        "Device, job, model: way": lambda row: f", {row['job']}, {row['model']}: {row['way']}",
        "tokens / s": lambda row: f"{row['tokens_per_second']:,.0f}",
        "times as fast as plain": lambda row: f"{row['speedup']:.2f}",
        "matrix products of its time": lambda row: f"{100 * row['floor_share']:.0f} %",
        "memory": lambda row: f"{row['memory_share']:.2f}",
    }
    shape = next(iter(runs.values()))["rows"][0] if runs else None
    layers = {row["model"]: row["layers"] for run in runs.values() for row in run["rows"]}
    note = shape and (
        f"L: {layers['L']} layers of width {shape['hidden']}, V = {shape['vocabulary']:,}, as SmolLM2-135M; S: "
        f"{layers['S']} of them. Plain, the first way of each: transformers as one would use it. Tokens: those that "
        "are needed, without padding, a prompt once for all of its options. Memory: the peak over that of weights, "
        "moments and what autograd saves of a batch. More than 100 %: ways that leave a part of the products out. "
    )
    return _table(runs, "pair", "rows", "A pretrained pair: training, scoring, writing", cells, note)


def _if_there(number: float | None, spec: str) -> str:
    return "" if number is None else format(number, spec)


def _ratio(row: Mapping) -> str:
    low, high = row["ratio_range"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def runner_table(runs: Mapping[str, Mapping]) -> Table:
    """The cascade's time against that of its two models in the same round."""
    cells = {
        "Device, V, queries": lambda row: f"{_size(row)}: {row['queries']:,} {row['kind']}",
        "d": lambda row: f"{row['deferral_rate']:.2f}",
        "T_L / T_S": lambda row: f"{row['large_against_small']:.1f}",
        "time / (T_S + d T_L)": _ratio,
        "by FLOPs": lambda row: f"{row['ratio_by_flops']:.2f}",
    }
    note = (
        "Median over rounds, and their range. T_S, T_L: all queries by S alone, by L alone. By FLOPs: d weighted by "
        "what the deferred queries cost L, as they may be longer than the others. "
    )
    return _table(runs, "runner", "cascade", "The time of a cascade over T_S + d T_L", cells, note)


def batch_table(runs: Mapping[str, Mapping]) -> Table:
    """One batch by other ways: time against the runner's, and memory."""
    cells = {
        "Device, V, model: way": lambda row: f"{_size(row)}, {'S' if row['model'] == 'small' else 'L'}: {row['way']}",
        "time / the runner's": _ratio,
        "MiB": lambda row: "" if row["memory"] is None else f"{row['memory'] / MIB:,.1f}",
        "same answers": lambda row: f"{row['same_answers']} of {row['queries']}",
        "error": lambda row: _if_there(row.get("error"), ".0e"),
    }
    title = "One batch of generated answers with the log-probabilities of their tokens"
    note = (
        "generate: that of transformers with output_scores, then compute_transition_scores. Same: answers with "
        "the runner's tokens. Error: the most by which one of their log-probabilities is off, against float64. "
    )
    return _table(runs, "runner", "batch", title, cells, note)


def early_exit_table(runs: Mapping[str, Mapping]) -> Table:
    """What exact early exit saves of the small model's work under a fixed threshold."""
    rules = {"chow_sum": "sum", "chow_quantile_0": "minimum"}
    cells = {
        "Device: rule, deferral rate": lambda row: f": {rules[row['rule']]}, d = {row['deferral_rate']:.2f}",
        "S's tokens saved": lambda row: f"{100 * row['tokens_saved']:.0f} %",
        "S's FLOPs saved": lambda row: f"{100 * row['flops_saved']:.0f} %",
        "S's time / without": _ratio,
        "other decisions": lambda row: row["other_decisions"],
    }
    title = "Exact early exit: what the small model need not write"
    return _table(runs, "runner", "early_exit", title, cells)


def markdown(runs: Mapping[str, Mapping]) -> str:
    """The ratios of the fused loss, and on what they were measured, for README.md."""
    rhos = sorted({row["rho"] for run in runs.values() for row in run["rows"]}, reverse=True)
    heads = ["device, vocabulary, tokens", *(f"ρ = {rho:g}" for rho in rhos)]
    heads += ["memory, ρ = 1", "distance from the floor, ρ = 1"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    for device, vocabulary, tokens, ours in loss_rows(runs):
        speed = [f"{ours[rho]['speedup']:.2f}x" for rho in rhos]
        last = [f"1/{1 / ours[1.0]['memory_share']:.0f}", f"{1 / ours[1.0]['floor_share']:.2f}x"]
        lines.append("| " + " | ".join([f"{device.upper()}, {vocabulary:,}, {tokens:,}", *speed, *last]) + " |")
    return "\n".join([*lines, "", setting(runs, "loss")])


def words(loss: Mapping, teacher: Mapping, runner: Mapping, pair: Mapping) -> dict[str, str]:
    """One sentence for each benchmark, for prose."""
    absent = "No results of this benchmark are there yet."
    texts = dict.fromkeys(("loss_text", "teacher_text", "runner_text", "pair_text"), absent)
    if ours := [r for run in loss.values() for r in run["rows"] if r["way"] == "fused"]:
        speed, memory = [r["speedup"] for r in ours], [r["memory_share"] for r in ours]
        texts["loss_text"] = (
            f"Over these sizes the fused loss is {min(speed):.2f} to {max(speed):.2f} times as fast as plain "
            f"PyTorch, and takes {100 * min(memory):.0f} to {100 * max(memory):.0f} % of its memory."
        )
    if cached := [r for run in teacher.values() for r in run["rows"] if r["bytes_per_token"] is not None]:
        speed, pays = [r["speedup"] for r in cached], [r["epochs_to_pay"] for r in cached if r["epochs_to_pay"]]
        texts["teacher_text"] = (
            f"With a cache, S takes {min(speed):.1f} to {max(speed):.1f} steps in the time of one with L beside it. "
            f"The pass that makes the cache has paid for itself after {min(pays):.1f} to {max(pays):.1f} passes over "
            "the data."
        )
    if runner:
        over = [r["ratio"] for run in runner.values() for r in run["cascade"]]
        alone = [r["ratio"] for run in runner.values() for r in run["batch"] if r["way"] == "runner, one by one"]
        texts["runner_text"] = (
            f"The cascade takes {min(over):.2f} to {max(over):.2f} times T_S + d T_L. One query at a time, the same "
            f"runner would take {min(alone):.1f} to {max(alone):.1f} times as long as in batches."
        )
    if pair:
        best = {job: [] for job in ("training", "scoring", "writing")}
        for row in (row for run in pair.values() for row in run["rows"]):
            if row["way"] in PAIR_WAYS:
                best[row["job"]].append(row)
        sentences = []
        for job, rows in best.items():
            speed, floor = [r["speedup"] for r in rows], [100 * r["floor_share"] for r in rows]
            sentences.append(
                f"For {job}, the library is {min(speed):.1f} to {max(speed):.1f} times as fast as plain "
                f"transformers, and bare matrix products would take {min(floor):.0f} to {max(floor):.0f} % of its time."
            )
        texts["pair_text"] = " ".join(sentences)
    return texts


def numbers(runs: Mapping[str, Mapping]) -> dict[str, list]:
    """{device/part: rows} of a benchmark, for a page's metrics; what a row has no number for is left out."""
    return {
        f"{device}/{part}": [{k: v for k, v in row.items() if v is not None} for row in run[part]]
        for device, run in runs.items()
        for part in dict.fromkeys(part for parts in RESULT_PARTS.values() for part in parts)
        if part in run
    }
