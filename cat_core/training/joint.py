"""A router trained together with the small model: EdgeInference in its joint form, by the Trainer of `train`.

Source: Kag et al. (ICLR 2023), adapted as `edge` says. The router is a part of S while it is trained, so that the
optimiser, checkpoints and processes have both; afterwards the two are apart, and S is a model like any other.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from cat_core.loss import is_right, stats_of
from cat_core.rules.edge import (
    COVERAGE,
    COVERAGE_WEIGHT,
    ROUTER_WEIGHT,
    Router,
    joint_loss,
    joint_parts,
    router_inputs,
)
from cat_core.rules.features import AnswerFeatures, token_features
from cat_core.rules.fitting import predict
from cat_core.training.teacher import TeacherCache
from cat_core.training.train import CascadeAwareTrainer, TrainSettings, add, ledger, scale, train
from cat_core.training.training_set import IGNORE, TrainingSet

MODULES = ("cat_core.training.joint",)
FILE = "router.safetensors"


class JointTrainer(CascadeAwareTrainer):
    """Trains `model` and `model.cascade_router`. Logged beside the ledger: router_keep, the mean probability with which
    the router keeps a sequence on S, and router_right, the share of sequences where its decision is the proxy label."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fused = False  # the router reads the whole distribution of every token
        self.deferred = self.loss_is_scaled_for_ga = True  # the hinge is of all sequences of a step
        self._lift: list[torch.Tensor] = []  # gradient of the sum of keep over the step, by the router's parameters

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs, logits, _, labels = self.predictions(model, inputs)
        is_target = labels != IGNORE
        target, logits = labels[is_target], logits[is_target].float()
        small = is_right(logits.detach(), target)
        large = self.teacher.correct[self.teacher.rows(inputs["examples"].cpu())].to(small.device)
        token_loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        told = (token_loss, token_features(logits, target), is_target.sum(1), small, large)
        router = self.accelerator.unwrap_model(model).cascade_router
        if not model.training:
            loss, _ = joint_loss(*told, router, normalize=self.settings.normalize)
            return (loss, outputs) if return_outputs else loss
        parts = joint_parts(*told, router)
        lift = torch.autograd.grad(parts.keep.sum(), list(router.parameters()), retain_graph=True)
        self._lift = [a + b for a, b in zip(self._lift, lift)] if self._lift else list(lift)
        kept = parts.kept if self.settings.normalize == "kept" else torch.tensor(len(target))
        sums = {"label": parts.label, "entropy": parts.entropy, "keep": parts.keep.sum(), "divisor": kept}
        add(self._step, {name: value.detach() for name, value in sums.items()} | {"sequences": len(labels)})
        counts = stats_of(is_target.sum(), len(target), small, large)  # no token is dropped
        seen = {"sequences": len(labels), "router_keep": parts.keep.sum(), "router_right": parts.right.sum()}
        add(self._ledger, ledger(counts) | {name: torch.as_tensor(value).detach() for name, value in seen.items()})
        loss = parts.label + ROUTER_WEIGHT * parts.entropy
        return (loss, outputs) if return_outputs else loss

    def finish_step(self, model, parts):
        """As of S alone, and the router's gradient: a mean over sequences, and the hinge of the mean of all of them."""
        router = model.cascade_router
        own, sequences = {id(p) for p in router.parameters()}, parts["sequences"]
        divisor, processes = parts["divisor"].clamp(min=1e-9), self.accelerator.num_processes
        scale((p for p in model.parameters() if id(p) not in own), processes / divisor)
        scale(router.parameters(), processes / sequences)
        hinge = (COVERAGE - parts["keep"] / sequences).clamp_min(0.0)
        lift, self._lift = [self.over_processes(value) for value in self._lift], []
        if hinge > 0:
            for parameter, value in zip(router.parameters(), lift):
                parameter.grad.sub_(COVERAGE_WEIGHT * value / sequences)
        return parts["label"] / divisor + ROUTER_WEIGHT * parts["entropy"] / sequences + COVERAGE_WEIGHT * hinge


def train_jointly(
    model: PreTrainedModel, training_set: TrainingSet, settings: TrainSettings, folder: Path, teacher: TeacherCache,
    *arguments, **more,
) -> tuple[list[dict], Router]:  # fmt: skip
    """Train `model` in place together with a new router: the log, as `train.train` returns it, and the router.

    The router's first weights are drawn by the seed of the settings; it has their learning rate and schedule. Further
    arguments are those of `train.train`.
    """
    model.cascade_router = Router(generator=torch.Generator().manual_seed(settings.seed))
    log = train(model, training_set, settings, folder, teacher, *arguments, **more, kind=JointTrainer)
    router = model.cascade_router.cpu().eval()
    del model.cascade_router
    return log, router


def save_router(router: Router, folder: str | Path) -> None:
    """Write the router beside the model that it was trained with."""
    save_file({name: tensor.contiguous() for name, tensor in router.state_dict().items()}, Path(folder) / FILE)


def load_router(folder: str | Path) -> Router:
    """The router in the folder of a model of method edge-joint. Raises ValueError where there is none."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {FILE}: only a model of method 'edge-joint' has a router")
    router = Router()
    router.load_state_dict(load_file(path))
    return router.eval()


def router_confidence(router: Router, features: AnswerFeatures):
    """The router's logit that S suffices, for every answer: float64 [n], high = keep. Nothing is fitted."""
    return predict(router, router_inputs(features))[0]
