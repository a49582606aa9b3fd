"""Small models trained side by side: one step of the optimiser for all of them, each with its own data, mask and seed.

A small model alone leaves a processor idle: most of a step is the overhead of launching tiny operations. Members of one
architecture are stacked, [K, ...] a parameter, and go through the body together (`torch.func.vmap`); each has its own
batch, its own loss, its own gradient norm, and AdamW is elementwise. So every member is trained as `train.train` would
train it alone, but for rounding.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.data import Dataset, SequentialSampler
from transformers import AttentionInterface, PreTrainedModel, Trainer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cat_core.architectures import MODEL_INPUTS, has_encoder
from cat_core.methods import METHODS
from cat_core.training.deferral import deferral_of
from cat_core.training.models import has_plain_head
from cat_core.training.teacher import TeacherCache
from cat_core.training.train import TrainSettings, add, ledger, mask_generator, run_trainer, shares, training_loss
from cat_core.training.training_set import IGNORE, DataOrder, TrainingSet, collate, joined, length_groups


class StackedModels(torch.nn.Module):
    """K causal models of one architecture as one module, whose parameters are [K, ...].

    Only models whose logits are a linear layer of the last hidden states (`models.has_plain_head`).
    """

    def __init__(self, models: Sequence[PreTrainedModel]):
        super().__init__()
        for model in models:
            if has_encoder(model):
                raise ValueError(
                    f"{type(model).__name__} is an encoder-decoder model, and side by side takes causal ones: train it "
                    "alone (`train.train`)"
                )
            if not has_plain_head(model):
                raise ValueError(f"{type(model).__name__} has no plain linear head: train it alone, not side by side")
        parameters, buffers = stack_module_state(list(models))
        self.members = len(models)
        self.names = {self._key(name): name for name in parameters}
        for name, value in parameters.items():
            self.register_parameter(self._key(name), torch.nn.Parameter(value.detach().clone()))
        template = copy.deepcopy(models[0])
        if template.config._attn_implementation == "sdpa":
            template.set_attn_implementation(_ATTENTION)
        object.__setattr__(self, "template", template)  # no submodule: its own weights are never used
        object.__setattr__(self, "buffers_", buffers)
        head = template.get_output_embeddings()
        names_by_id = {id(parameter): name for name, parameter in template.named_parameters()}
        self.head_weight = self._key(names_by_id[id(head.weight)])
        self.head_bias = None if head.bias is None else self._key(names_by_id[id(head.bias)])

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")  # a parameter's name may hold no dot

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, input_ids, attention_mask, position_ids):
        """Last hidden states [K, B, T, H] of ids, mask and positions [K, B, T]."""
        self.template.train(self.training)
        # Under autocast the body runs in its dtype outright: vmap passes over autocast's rules for attention.
        kind, dtype = input_ids.device.type, next(self.parameters()).dtype
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
        mask = _attention_bias(attention_mask.flatten(0, 1), dtype).unflatten(0, attention_mask.shape[:2])
        stacked = {name: self.get_parameter(key).to(dtype) for key, name in self.names.items()}
        buffers = {name: value.to(input_ids.device) for name, value in self.buffers_.items()}
        none = torch.empty(0, dtype=torch.long, device=input_ids.device)

        def one(parameters, buffers, ids, mask, positions):
            read = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
            given = read | {"use_cache": False, "output_hidden_states": True, "logits_to_keep": none}
            return functional_call(self.template, (parameters, buffers), kwargs=given).hidden_states[-1]

        with torch.autocast(kind, enabled=False), warnings.catch_warnings():
            # attention on a CPU is called once a member: still the fastest way here
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return vmap(one, randomness="different")(stacked, buffers, input_ids, mask, position_ids)

    def head(self, member: int) -> torch.nn.Linear:
        """A view of one member's head, for `training_loss`: an object with weight [V, H] and bias."""
        bias = None if self.head_bias is None else self.get_parameter(self.head_bias)[member]
        return _Head(self.get_parameter(self.head_weight)[member], bias)

    def member_state(self, member: int) -> dict[str, torch.Tensor]:
        """One member's parameters under their own names."""
        return {name: self.get_parameter(key)[member].detach().cpu().clone() for key, name in self.names.items()}


class _Head(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, states):
        return torch.nn.functional.linear(states, self.weight, self.bias)


def _attend(module, query, key, value, attention_mask, **options):
    """Attention by `sdpa` in one dtype: inside `vmap`, autocast does not see the call and gives it none."""
    kind = value.dtype
    return sdpa_attention_forward(module, query.to(kind), key.to(kind), value, attention_mask.to(kind), **options)


_ATTENTION = "sdpa_in_one_dtype"
AttentionInterface.register(_ATTENTION, _attend)


def _attention_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Causal attention over the real positions of `mask` [B, T], as a bias [B, 1, T, T]; padding sees itself."""
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    seen = causal & mask.bool()[:, None, :] | torch.eye(length, dtype=torch.bool, device=mask.device)
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype).unsqueeze(1)


class _Slots(Dataset):
    """Item j holds the j-th example of every member, in that member's own order."""

    def __init__(self, training_set: TrainingSet, orders: Sequence[Sequence[int]]):
        self.training_set, self.orders = training_set, orders

    def __len__(self) -> int:
        return len(self.orders[0])

    def __getitem__(self, slot: int) -> list[dict]:
        return [self.training_set[order[slot]] for order in self.orders]


class SideBySideTrainer(Trainer):
    """`Trainer` of `StackedModels`; settings and teachers by member. Logs hold one row a member under "members"."""

    def __init__(self, *args, settings: Sequence[TrainSettings], teachers: Sequence[TeacherCache | None], **kwargs):
        super().__init__(*args, **kwargs)
        if self.accelerator.num_processes > 1:
            raise ValueError("models are trained side by side in one process: start one process for each group of them")
        self.settings, self.teachers = settings, teachers
        given = getattr(self.train_dataset, "training_set", self.train_dataset)  # of `_Slots`
        self.deferral = [deferral_of(METHODS[s.method], given) for s in settings]
        self._sums: list[dict] = [{} for _ in settings]

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)

    def get_decay_parameter_names(self, model):
        template = super().get_decay_parameter_names(model.template)
        return [StackedModels._key(name) for name in template]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        members = len(self.settings)
        start = inputs["target_start"]
        labels = inputs["labels"].unflatten(0, (members, -1))
        shaped = {name: inputs[name].unflatten(0, (members, -1)) for name in MODEL_INPUTS}
        examples = inputs["examples"].cpu().unflatten(0, (members, -1))
        groups = length_groups(shaped["attention_mask"], self.settings[0].length_groups)
        parts = []
        for rows, columns in groups:
            taken = {n: x[:, :, columns].take_along_dim(rows.unsqueeze(-1), dim=1) for n, x in shaped.items()}
            parts.append(model(**taken)[:, :, start - 1 - columns.start : -1])
        states = joined(parts, [rows for rows, _ in groups], labels.shape[-1] - start)
        labels = labels[:, :, start:]
        losses, shared = [], {}
        for k, (settings, teacher) in enumerate(zip(self.settings, self.teachers)):
            is_target = labels[k] != IGNORE
            random = METHODS[settings.method].mask == "random"
            rows = None if teacher is None else teacher.rows(examples[k])
            same = (settings.seed, id(teacher))  # members of one seed read the same examples: L's word serves all
            with self.accelerator.autocast():  # as in `CascadeAwareTrainer`
                if METHODS[settings.method].distil and same not in shared:
                    shared[same] = teacher.distribution(rows, settings.temperature, states.device, whole=True)
                loss, stats = training_loss(
                    states[k][is_target], model.head(k), labels[k][is_target], settings, teacher,
                    rows, mask_generator(settings.seed, self.state.global_step) if random else None,
                    distribution=shared.get(same), deferral=self.deferral[k],
                )  # fmt: skip
            losses.append(loss)
            if model.training:
                add(self._sums[k], ledger(stats) | {"loss": loss.detach(), "steps": 1})
        total = torch.stack(losses).sum()
        return (total, states) if return_outputs else total

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        limit = self.settings[0].max_grad_norm
        if limit:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]  # [K, ...] each
            # [K]: the norm of each member's whole gradient, as it would be alone
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
            factor = (limit / (norms + 1e-6)).clamp(max=1.0)
            for g in gradients:  # each member's slice of every gradient, in place
                g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))
        return loss

    def log(self, logs, *args, **kwargs):
        if self._sums[0]:
            logs["members"] = [{"loss": float(s["loss"]) / s["steps"], **shares(s)} for s in self._sums]
            self._sums = [{} for _ in self.settings]
        super().log(logs, *args, **kwargs)


def train_side_by_side(
    models: Sequence[PreTrainedModel], training_set: TrainingSet, settings: Sequence[TrainSettings], folder: Path,
    teachers: Sequence[TeacherCache | None], **options,
) -> list[list[dict]]:  # fmt: skip
    """Train all `models` in place, each by its own settings and teacher; the log of each, as `train.train`.

    Settings may differ in method, seed and w only. An interrupted run continues from its checkpoint in `folder`.
    options: progress, checkpoint_every and use_cpu of `train.run_trainer`.
    """
    first = settings[0]
    for other in settings:
        if first != replace(other, method=first.method, seed=first.seed, label_weight=first.label_weight):
            raise ValueError(f"side by side only method, seed and label_weight may differ, got {first} and {other}")
    if first.gradient_accumulation != 1 or first.loss != "fused":
        raise ValueError("side by side takes gradient_accumulation 1 and loss 'fused'; train the models alone")
    if first.train_layers or first.lora_rank or first.gradient_checkpointing:
        raise ValueError("side by side trains all of the models: train_layers, lora_rank and gradient_checkpointing 0")
    if not len(models) == len(settings) == len(teachers):
        raise ValueError(f"{len(models)} models, {len(settings)} settings, {len(teachers)} teachers: give one each")
    for plan, teacher in zip(settings, teachers):
        if METHODS[plan.method].router:
            raise ValueError(f"method {plan.method!r} trains a router with S: train it alone (`joint.train_jointly`)")
        if teacher is None and METHODS[plan.method].compares:
            raise ValueError(f"method {plan.method!r} compares S with L: give the teacher's outputs")
    total = first.steps * first.batch_size
    orders = {s.seed: list(DataOrder(len(training_set), total, s.seed)) for s in settings}
    stacked = StackedModels(models)
    trainer = run_trainer(
        SideBySideTrainer, stacked, _Slots(training_set, [orders[s.seed] for s in settings]),
        lambda items: collate([item[k] for k in range(len(settings)) for item in items], training_set.pad),
        replace(first, max_grad_norm=0.0),  # each member's own norm is limited in training_step
        folder, what=f"{len(settings)} small models", settings=list(settings), teachers=list(teachers), **options,
    )  # fmt: skip
    for k, model in enumerate(models):
        model.load_state_dict(stacked.member_state(k), strict=False)
    rows = [entry for entry in trainer.state.log_history if "members" in entry]
    shared = [{k: v for k, v in entry.items() if k not in ("members", "loss", "grad_norm")} for entry in rows]
    return [[s | entry["members"][k] for s, entry in zip(shared, rows)] for k in range(len(models))]
