"""Confidences of a trained S by the learned deferral rules: `rules`, and what was trained together with S."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cat_core.cascade import CascadeRunner
from cat_core.methods import METHODS
from cat_core.rules.features import answer_features
from cat_core.rules.posthoc import learned_confidences
from cat_core.rules.prompts import prompt_confidences
from cat_core.tasks.example import score
from cat_core.training import joint
from cat_core.training.deferral import deferral_token

MODULES = ("cat_core.training.learned", "cat_core.training.models")


def confidences(
    runner: CascadeRunner, examples: Sequence, answers: Sequence[Sequence[dict]], method: str, folder: Path, seed: int
) -> dict[str, np.ndarray]:
    """Columns of the outcome table without "confidence_", [n] each, and "prompt_flops": what S's reading of prompts
    costs.

    examples: calibration and test items; answers: S's and L's to them, fields of `queries.Response`; method, folder: of
    S. Rules are fitted on the calibration items alone, with the training `seed` of S; "joint_router" and "call_token",
    which S of methods edge-joint and call-token has, were trained with it.
    """
    token = deferral_token(runner.text) if METHODS[method].calls else None
    features = answer_features(runner, examples, [a["tokens"] for a in answers[0]], deferral=token)
    quality = [[score(e, a["prediction"]) for e, a in zip(examples, given)] for given in answers]
    rows = (*quality, [e.split for e in examples], [e.cluster_id or e.item_id for e in examples], seed)
    columns = learned_confidences(features, *rows)
    columns |= prompt_confidences([e.prompt for e in examples], features, *rows)
    if METHODS[method].router:
        columns["joint_router"] = joint.router_confidence(joint.load_router(folder), features)
    if METHODS[method].calls:
        columns["call_token"] = -features.deferral.astype(np.float64)
    return columns | {"prompt_flops": features.prompt_flops}
