"""Next tokens as queries: an outcome table for models that were trained on text, as in pre-training.

A query is the next token of a held-out target, after all true tokens before it; a model's answer is its most probable
token, right or wrong, and its confidence the log-probability of that. So a cascade may ask L for single tokens. A query
costs what feeding one token costs with all before it in the cache. Prompts are read, and are no queries.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cat_core.analysis.outcomes import validate
from cat_core.flops import decode_flops
from cat_core.training.experiment import EVALUATED, Experiment
from cat_core.training.models import load_config
from cat_core.training.obtain import Progress, held_out_of, tokenizer_of, train_or_load

TOKEN_RULES = ("chow_average", "chow_sum", "chow_quantile_0")
"""Of one token they are the same number."""


def token_outcomes(experiment: Experiment, edition: str = "", progress: Progress = None) -> pd.DataFrame:
    """Train what is not trained, and let every model say each next token of the calibration and test targets.

    The table is as `experiment.outcomes`: an item is a token, its cluster that of its example. Predictions and targets
    are null: who is right is known from the logits, and texts would repeat the data once a model.
    """
    experiment.train(progress)
    suite, parts, costs = experiment.data.load(), [], {}
    for split in EVALUATED:
        examples = suite.split(split)
        for (method, seed), config in experiment.configs().items():
            signals = experiment.token_signals(config, split, progress)
            tokenizer = tokenizer_of(config)
            held_out, kept = held_out_of(config, tokenizer, split, experiment.data)
            prompts = dict(zip(kept.tolist(), (len(prompt) for prompt, _ in held_out.pairs)))
            starts = np.flatnonzero(np.diff(signals.example, prepend=-1))
            place = np.arange(len(signals.example)) - np.repeat(starts, np.diff([*starts, len(signals.example)]))
            read = place + np.array([prompts[e] for e in signals.example.tolist()])
            model = load_config(str(train_or_load(config, progress)))
            cost = costs.setdefault(method == "large", {})
            cost |= {n: decode_flops(model, n) for n in set(read.tolist()) - cost.keys()}
            owner = [examples[e] for e in signals.example.tolist()]
            confidence = np.log(np.maximum(signals.top_probability, np.finfo(np.float32).tiny)).astype(np.float64)
            parts.append(pd.DataFrame({
                "edition": edition, "suite": suite.name, "task": [e.task for e in owner], "metric": "accuracy",
                "split": split, "item_id": [f"{e.item_id}:{k:04d}" for e, k in zip(owner, place.tolist())],
                "cluster_id": [e.cluster_id or e.item_id for e in owner], "method": method, "seed": seed,
                "model": "large" if method == "large" else "small", "quality": signals.right.astype(np.float64),
                "prediction": None, "target": None, "n_prompt": read, "n_generated": 1, "truncated": False,
                "flops": [cost[n] for n in read.tolist()],
                **{f"confidence_{rule}": confidence for rule in TOKEN_RULES},
                "confidence_option_probability": np.nan, "confidence_option_margin": np.nan,
            }))  # fmt: skip
    return validate(pd.concat(parts, ignore_index=True))
