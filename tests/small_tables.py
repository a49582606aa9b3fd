"""Outcome tables with random answers: of accuracy, of translations scored by BLEU, and of options with more metrics."""

import numpy as np
import pandas as pd
import sacrebleu

from cat_core.analysis.further import further_columns
from cat_core.tasks.example import Example

WORDS = "the cat a dog sat ran on by mat house blue red old new tree river".split()


def rows_of(method, seed, split, quality, confidence=None, *, flops=1, task="t", metric="accuracy",
            predictions=None, targets=None, clusters=None, suite="s"):  # fmt: skip
    """Rows of one model; `confidence` None for L."""
    n = len(quality)
    frame = pd.DataFrame({
        "edition": "e", "suite": suite, "task": task, "metric": metric, "split": split,
        "item_id": [f"{task}-{split}-{i:03d}" for i in range(n)],
        "cluster_id": clusters or [f"{task}-{split}-{i:03d}" for i in range(n)],
        "method": method, "seed": seed, "model": "large" if method == "large" else "small",
        "quality": np.asarray(quality, dtype=float), "prediction": predictions or ["p"] * n,
        "target": targets or ["p"] * n, "n_prompt": 5, "n_generated": 2, "truncated": False,
        "flops": np.broadcast_to(np.asarray(flops, dtype=np.int64), n),
    })  # fmt: skip
    for rule in ("chow_sum", "chow_average", "chow_quantile_0", "option_probability", "option_margin"):
        frame[f"confidence_{rule}"] = np.nan if confidence is None else np.asarray(confidence, dtype=float)
    if confidence is not None:  # so that a rule in another one's place is noticed
        frame["confidence_chow_quantile_0"] = frame["confidence_chow_average"].to_numpy()[::-1] - 1.0
    return frame


def table(methods=("xent", "dist", "cat-xent", "cat-dist", "random-dist"), seeds=(0, 1), large_seeds=(0,),
          n=60, tasks=("t",), rng=0):  # fmt: skip
    """An accuracy table with random answers; flops differ from item to item."""
    rng, parts = np.random.default_rng(rng), []
    for task in tasks:
        for split in ("calibration", "test"):
            hard = rng.random(n)
            for seed in large_seeds:
                parts.append(rows_of("large", seed, split, hard < 0.8, flops=rng.integers(80, 120, n), task=task))
            for seed in seeds:
                for method in methods:
                    right = hard + 0.2 * rng.normal(size=n) < 0.6
                    confidence = np.round(-hard + 0.3 * rng.normal(size=n), 1)  # rounded: ties
                    flops = rng.integers(8, 12, n)
                    parts.append(rows_of(method, seed, split, right, confidence, flops=flops, task=task))
    return pd.concat(parts, ignore_index=True)


def text_table(seeds=(0, 1), n=30):
    """A table of translations scored by BLEU."""
    rng, parts = np.random.default_rng(1), []

    def spoil(text, share):
        return " ".join(w if rng.random() > share else str(rng.choice(WORDS)) for w in text.split())

    def scored(predictions, targets):
        found = [sacrebleu.sentence_bleu(p, [t]).score / 100 for p, t in zip(predictions, targets)]
        return np.clip(found, 0, 1)

    for split in ("calibration", "test"):
        targets = [" ".join(rng.choice(WORDS, size=rng.integers(5, 12))) for _ in range(n)]
        for method, seed, share in [
            ("large", 0, 0.1),
            *((m, s, 0.4) for m in ("dist", "cat-dist") for s in seeds),
        ]:
            texts = [spoil(t, share) for t in targets]
            confidence = None if method == "large" else rng.normal(size=n)
            flops = 100 if method == "large" else 10
            parts.append(rows_of(method, seed, split, scored(texts, targets), confidence, flops=flops,
                                 metric="bleu", predictions=texts, targets=targets))  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    frame[["confidence_option_probability", "confidence_option_margin"]] = np.nan
    return frame


def option_table(n=36, seeds=(0, 1), also=("macro_f1", "matthews", "question_em", "f1")):
    """Outcome rows of a task whose items come three to a question and six to a passage."""
    rng, parts, options = np.random.default_rng(11), [], ("no", "yes", "maybe")
    for split in ("calibration", "test"):
        examples = [
            Example(f"t-{split}-{i:03d}", "t", split, "p", options[rng.integers(len(options))], options,
                    cluster_id=f"{split} {i // 6}", also=also, group_id=f"{split} {i // 3}")
            for i in range(n)
        ]  # fmt: skip
        for method, seed, skill in [("large", 0, 0.8), *((m, s, 0.5) for m in ("dist", "cat-dist") for s in seeds)]:
            guesses = rng.integers(len(options), size=n)
            given_answers = [e.target if rng.random() < skill else options[k] for e, k in zip(examples, guesses)]
            rows = rows_of(
                method, seed, split, [e.target == a for e, a in zip(examples, given_answers)],
                None if method == "large" else np.round(rng.normal(size=n), 1), flops=100 if method == "large" else 10,
                predictions=given_answers, targets=[e.target for e in examples],
                clusters=[e.cluster_id for e in examples],
            )  # fmt: skip
            more = pd.DataFrame([further_columns(e, a) for e, a in zip(examples, given_answers)])
            parts.append(pd.concat([rows, more], axis=1))
    return pd.concat(parts, ignore_index=True)
