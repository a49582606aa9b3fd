"""Metrics of a recorded cell, with numbers that can be told apart."""

from cat_core.analysis.metrics import CellMetrics, read_metrics
from cat_core.analysis.quantities import plain
from cat_core.ranking import Interval

METHODS = ("xent", "dist", "cat-xent", "cat-dist", "random-dist", "large-dist")
COMMIT = "0123456789abcdef"


def interval(middle, half=0.01) -> Interval:
    return Interval(middle, middle - half, middle + half)


def metrics(cell="mini-low", metric="accuracy", seeds=(1, 2, 3), tasks=(), **more) -> CellMetrics:
    """Metrics as `cell_metrics.cell_metrics` leaves them, read from their JSON form; more: fields in that form."""
    k = 1.0 if metric == "accuracy" else 100.0
    audc = {m: [k * (0.5 + 0.01 * i + 0.02 * (s % 2)) for s in seeds] for i, m in enumerate(METHODS)}
    token = {"share_right": 0.61, "entropy": 1.5, "confidence": 0.55, "nll": 1.25, "ece": 0.0321, "ece_sd": 0.004}
    token |= {"keep_rate": 0.7, "ledger": [0.4, 0.1, 0.2, 0.3]}
    token |= {f"{part}_by_cell": [0.1, 0.2, 0.3, 2.5] for part in ("entropy", "confidence")}
    parts = {"whole": 0.03, "small_alone": -0.01, "complement": 0.025, "ranking": 0.015, "large_alone": 0.0}
    basis = {"n": 1500, "seeds": len(seeds)}
    rests = basis | {"rule": "chow_average", "oracle": "exact", "without_room": 0, "large_models": 2}
    pairs = {"cat-dist - dist": 0.02, "cat-xent - xent": -0.02, "cat-dist - random-dist": -0.01}
    differences = {p: interval(k * d, k * 0.005) for p, d in pairs.items()}
    claims = [
        {"claim": "C10", "measure": f"AUDC (x), {a} − {b}", "direction": 1, "number": differences[pair], "mass": 0.3}
        | basis
        for a, b, pair in (("CAT-Dist", "Dist", "cat-dist - dist"), ("CAT-Xent", "Xent", "cat-xent - xent"))
    ]
    task = {
        "n": 5, "metric": metric, "tokens": [0.5, 0.1, 0.3, 0.1],
        "differences": {p: interval(k * 0.05, k * 0.01) for p in pairs},
    }  # fmt: skip
    content = {
        "study": "tiny", "cell": cell, "commit": COMMIT, "device": "H100", "resamples": 1234, "suite": "mini",
        "metric": metric, "n": 1500, "seeds": list(seeds), "large_models": 2, "tasks": dict.fromkeys(tasks, task),
        "large_alone": interval(k * 0.9, k * 0.01), "large_flops": 1e6, "budget": 0.3, "claims": claims,
        "audc_by_seed": audc,
        "methods": {m: {"small_alone": interval(k * 0.5, k * 0.01), "audc": interval(k * 0.6, k * 0.01),
                        "sequence_ledger": [0.4, 0.1, 0.2, 0.3]} for m in METHODS},
        "differences": {"chow_average": differences},
        "decomposition": {
            p: dict(zip(("method", "baseline"), p.split(" - "))) | rests
            | {part: interval(k * x, k * 0.001) for part, x in parts.items()}
            for p in pairs
        },
        "tokens": dict.fromkeys(METHODS, token),
        "masks": {"audc": {"large-dist - dist": interval(k * 0.07, k * 0.01)},
                  "alone": {"cat-dist - dist": interval(-k * 0.03, k * 0.01)}},
    } | more  # fmt: skip
    return read_metrics(plain(content))
