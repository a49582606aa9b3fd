"""Whether loaded models and their tokenizer are what they seem, on the task's own texts and before anything is trained.

Two tokenizers that agree may both be broken, and so may two models: each is compared with what it must be able to do.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

from cat_core.tasks.schema import brief
from cat_core.text import TextFormat
from cat_core.training import artifacts
from cat_core.training.configs import TrainConfig, resolve_device
from cat_core.training.depth import is_cut
from cat_core.training.models import load_model
from cat_core.training.obtain import held_out_of, text_of, tokenizer_of
from cat_core.training.signals import token_signals

SAMPLED = 64
"""Items that models are tried on, and texts that tokenizers are."""
MODULES = ("cat_core.training.checks",)


def check_texts(small: TrainConfig, large: TrainConfig) -> None:
    """Raise ValueError where S and L cut the task's texts into other tokens; warn of what `text_problems` finds."""
    examples = small.data.load().split("calibration")[:SAMPLED]
    prompts, targets = [e.prompt for e in examples], [e.target for e in examples]
    tasks = [e.task for e in examples]
    formats = [text_of(config) for config in (small, large)]
    ids = [[text.prompts(prompts, tasks), text.targets(prompts, targets)] for text in formats]
    if ids[0] != ids[1]:
        name = next(e.item_id for i, e in enumerate(examples) if any(a[i] != b[i] for a, b in zip(*ids)))
        raise ValueError(
            f"S ({small.model}) and L ({large.model}) cut the texts of item {name!r} into other tokens: give both "
            "models one tokenizer"
        )
    for problem in text_problems(formats[0], prompts, targets):
        warnings.warn(f"tokenizer of {small.model}: {problem}", stacklevel=3)


def text_problems(text: TextFormat, prompts: list[str], targets: list[str]) -> list[str]:
    """What the tokenizer does not give back of these texts, and how many pairs have a seam that no model has seen."""
    problems = []
    for what, texts, ids in (
        ("targets", targets, [row[:-1] for row in text.targets(prompts, targets)]),
        ("prompts", prompts, TextFormat(text.tokenizer, encoder=text.encoder).prompts(prompts)),
    ):
        back = [said for said, _ in text.read(ids, frozenset())]
        lost = [(t, b) for t, b in zip(texts, back) if t.strip() != b]
        if lost:
            first = f"first {brief(lost[0][0])}: {brief(lost[0][1])}"
            advice = "models cannot answer them right" if what == "targets" else "models do not see them as they are"
            problems.append(
                f"{len(lost)} of {len(texts)} {what} are not given back ({first}), so {advice}; take another model, or "
                "other texts"
            )
    if count := text.split_rows(prompts, targets):
        problems.append(
            f"in {count} of {len(prompts)} pairs prompt and target together have other tokens than one after the "
            "other, so models read a seam there that they have not seen; end prompts with a word or a line"
        )
    return problems


def check_models(small: TrainConfig, large: TrainConfig) -> None:
    """Warn, in one line each, of a loaded model to which the task's own targets are no likelier than any tokens."""
    for side, config in (("S", small), ("L", large)):
        found = surprise(config)
        if found and not found["nats"] < found["uniform"]:
            warnings.warn(
                f"{side} ({config.model}), as it was loaded, gives the targets {found['nats']:.2f} nats a token, and "
                f"any token out of {math.exp(found['uniform']):,.0f} has {found['uniform']:.2f}: its weights or its "
                "tokenizer are not what they should be, or the template is not its own",
                stacklevel=3,
            )


def surprise(config: TrainConfig) -> dict | None:
    """Mean nats a target token of a loaded model before training, on calibration items, and those of a uniform guess.

    None for models from scratch and those cut by depth, of which nothing is expected. Computed once a model and data.
    """
    if config.from_scratch or is_cut(config.model):
        return None
    before = replace(config, teacher=None, initial=None, out_of_fold=False)

    def make(_) -> dict:
        tokenizer = tokenizer_of(before)
        held_out, _ = held_out_of(before, tokenizer, "calibration", first=SAMPLED)
        model = load_model(before.model).to(resolve_device(before.device))
        signals = token_signals(model, held_out)
        return {"nats": -float(signals.label_logprob.mean()), "uniform": math.log(len(tokenizer))}

    return artifacts.result(artifacts.obtain("surprise", before.identity(), MODULES, make))
