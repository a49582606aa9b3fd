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
    suite, configs, parts = experiment.data.load(), experiment.configs(), []
    first = next(iter(configs.values()))  # all read the same tokens
    tokenizer, costs = tokenizer_of(first), {}
    for split in EVALUATED:
        held_out, kept = held_out_of(first, tokenizer, split, experiment.data)
        examples = suite.split(split)
        owner = [examples[e] for e, (_, target) in zip(kept.tolist(), held_out.pairs) for _ in target]
        place = np.concatenate([np.arange(len(target)) for _, target in held_out.pairs])
        read = place + np.repeat([len(prompt) for prompt, _ in held_out.pairs], [len(t) for _, t in held_out.pairs])
        same = {
            "edition": edition, "suite": suite.name, "task": [e.task for e in owner], "metric": "accuracy",
            "split": split, "item_id": [f"{e.item_id}:{k:04d}" for e, k in zip(owner, place.tolist())],
            "cluster_id": [e.cluster_id or e.item_id for e in owner],
            "prediction": None, "target": None, "n_prompt": read, "n_generated": 1, "truncated": False,
            "confidence_option_probability": np.nan, "confidence_option_margin": np.nan,
        }  # fmt: skip
        for (method, seed), config in configs.items():
            model = "large" if method == "large" else "small"
            signals = experiment.token_signals(config, split, progress)
            shape = load_config(str(train_or_load(config, progress)))
            cost = costs.setdefault(model, {})
            cost |= {n: decode_flops(shape, n) for n in set(read.tolist()) - cost.keys()}
            confidence = np.log(np.maximum(signals.top_probability, np.finfo(np.float32).tiny)).astype(np.float64)
            own = {"method": method, "seed": seed, "model": model, "quality": signals.right.astype(np.float64)}
            own |= {f"confidence_{rule}": confidence for rule in TOKEN_RULES}
            parts.append(pd.DataFrame(same | own | {"flops": [cost[n] for n in read.tolist()]}))
    return validate(pd.concat(parts, ignore_index=True))
