"""What a run will train, how long it takes, and what memory and disk it needs: said, and checked, before it begins.

Memory is counted: weights, gradients, AdamW's two moments and, of one batch, what autograd saves in a pass over a few
real examples, scaled by tokens. Disk is counted, too. Time is measured: steps on a batch of the real size. Estimates
hold for one process that trains one model.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from cat_core.architectures import MODEL_INPUTS, target_outputs
from cat_core.training import artifacts
from cat_core.training.configs import TrainConfig, resolve_device
from cat_core.training.frozen import needed_bytes
from cat_core.training.models import has_plain_head
from cat_core.training.obtain import give_back, name_of, tokenizer_of, training_set_of, untrained
from cat_core.training.train import training_loss
from cat_core.training.training_set import IGNORE, TrainingSet, collate, group_tokens, length_groups
from cat_core.training.tuning import frozen_layers, partly_trained, trained_parameters

PROBE_ROWS = 4  # examples of the smaller of the two passes that memory is estimated from
TRANSIENT = 0.4  # of what is saved: gradients of states, and products, that live while a step runs (measured)
PROBE_SECONDS = 2.0  # a step that takes longer is timed once
KEPT_CHECKPOINTS = 3  # two, and the one that is being written


@dataclass(frozen=True)
class Stage:
    """One model to be trained. seconds: None where nobody asked; memory, disk: bytes; left: disk that stays taken."""

    name: str
    steps: int
    memory: int
    disk: int
    left: int
    seconds: float | None = None

    def __str__(self) -> str:
        duration = "" if self.seconds is None else f", about {_duration(self.seconds)}"
        return f"{self.name}: {self.steps:,} steps{duration}, {_size(self.memory)} of memory"


def stages(configs: Sequence[TrainConfig], timed: bool = False) -> list[Stage]:
    """What has to be trained for these models: those that are not among the artifacts yet, each alone.

    timed: also measure how long a step takes. Models of one shape and schedule are probed once.
    """
    known: dict[tuple, Stage] = {}
    found = []
    for config in configs:
        if artifacts.find("model", config.identity(), config.modules) is not None or not config.settings.steps:
            continue
        s = config.settings
        key = (config.model, config.context, s.batch_size, s.precision, s.train_layers, s.lora_rank, s.length_groups)
        if key not in known:
            known[key] = _probe(config, timed)
        probe = known[key]
        seconds = None if probe.seconds is None else probe.seconds * s.steps
        found.append(Stage(name_of(config), s.steps, probe.memory, probe.disk, probe.left, seconds))
    return found


def check(found: Sequence[Stage], memory: int | None = None, disk: int | None = None) -> None:
    """Raise ValueError where the memory or disk that is free (bytes; None: asked of the system) cannot hold a run."""
    if not found:
        return
    root = artifacts.root()
    root.mkdir(parents=True, exist_ok=True)
    memory = psutil.virtual_memory().available if memory is None else memory
    disk = shutil.disk_usage(root).free if disk is None else disk
    largest = max(found, key=lambda stage: stage.memory)
    if largest.memory > memory:
        raise ValueError(
            f"{largest.name} needs about {_size(largest.memory)} of memory to train and {_size(memory)} are free: take "
            "a smaller batch_size, gradient_checkpointing, train_layers or lora_rank, or a smaller model"
        )
    needed = sum(stage.left for stage in found) + max(stage.disk for stage in found)
    if needed > disk:
        raise ValueError(
            f"this run writes about {_size(needed)} (models and the checkpoints of one) and {root} has {_size(disk)} "
            "free: make room, or set CAT_ARTIFACTS to a folder elsewhere"
        )


def announce(configs: Sequence[TrainConfig], progress: Callable[[str], None] | None) -> list[Stage]:
    """Check, and say line by line what will be trained; nothing is said where there is nothing to train."""
    found = stages(configs, timed=progress is not None)
    if any(not config.from_scratch for config in configs):
        give_back()  # what was loaded to see what it takes
    check(found)
    if progress is not None and found:
        for stage in found:
            progress(f"to train: {stage}")
        total = sum(stage.seconds for stage in found)
        left = sum(stage.left for stage in found)
        progress(f"{len(found)} models to train, about {_duration(total)} in all, {_size(left)} of disk")
    return found


def _probe(config: TrainConfig, timed: bool) -> Stage:
    """A `Stage` of one model whose seconds are those of one step."""
    settings, device = config.settings, resolve_device(config.device)
    tokenizer = tokenizer_of(config)
    examples = training_set_of(config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = untrained(config.begins, tokenizer).to(device)  # a later stage: as the first one begins
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        trained = 4 * trained_parameters(model, settings)
        frozen = 0
        if frozen_layers(model, settings.train_layers):
            tokens = sum(len(p) + len(t) for p, t in examples.pairs)
            frozen = needed_bytes(tokens, model.get_input_embeddings().weight.shape[1], settings.precision)
        with partly_trained(model, settings, examples.pairs[0][1][-1]) as tuned:
            memory = step_bytes(tuned, examples, settings)
            seconds = None
            if timed and memory < psutil.virtual_memory().available:
                seconds = _seconds(tuned, examples, settings) * settings.gradient_accumulation
    checkpoint = (trained if settings.lora_rank else weights) + 2 * trained
    return Stage("", settings.steps, memory, KEPT_CHECKPOINTS * checkpoint + frozen, weights, seconds)


def step_bytes(model, examples: TrainingSet, settings) -> int:
    """Memory of a step on the longest examples: weights, gradients, AdamW's moments, and what autograd saves.

    The last grows with tokens, beside a constant (the head's gradient, copies of the weights in bf16): both follow from
    passes over few and over fewer examples.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    lengths = [len(p) + len(t) for p, t in examples.pairs]
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)
    batch = max(1, settings.batch_size // settings.gradient_accumulation)
    model.train()
    (less, few), (more, many) = (
        saved_bytes(model, collate([examples[i] for i in longest[-rows:]], examples.pad), settings)
        for rows in (PROBE_ROWS, 3 * PROBE_ROWS)
    )
    slope = max(0.0, (more - less) / max(1, many - few))
    tokens = sum(lengths[i] for i in longest[-batch:]) if batch > len(longest) else batch * lengths[longest[-1]]
    if settings.gradient_checkpointing:  # one layer at a time is computed again; measured: half is left
        slope /= 2
    return int(weights + 3 * trained + max(0.0, less - slope * few) + (1 + TRANSIENT) * slope * tokens)


def saved_bytes(model, batch: dict, settings) -> tuple[int, int]:
    """(bytes of what autograd saves of a batch beside the weights, its tokens with padding)."""
    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = _loss(model, batch, settings)
    del loss
    return sum(saved.values()), batch["input_ids"].numel()


def _loss(model, batch: dict, settings):
    """The loss of labels alone, in the precision of the training."""
    device = next(model.parameters()).device
    inputs = {name: batch[name].to(device) for name in MODEL_INPUTS}
    start = batch["target_start"]
    labels = batch["labels"][:, start:].to(device)
    plain, wanted = has_plain_head(model), labels != IGNORE
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        outputs = target_outputs(model, inputs, start, states=plain, logits=not plain)
        states, head = (outputs.states, model.get_output_embeddings()) if plain else (outputs.logits, None)
        return training_loss(states[wanted], head, labels[wanted], replace(settings, method="xent"), None, None)[0]


def _seconds(model, examples: TrainingSet, settings) -> float:
    """Of one micro-batch: forward, backward and AdamW, on examples spread over the training set; less by what length
    groups leave out."""
    count = max(1, settings.batch_size // settings.gradient_accumulation)
    every = [examples[int(i)] for i in torch.linspace(0, len(examples) - 1, count)]
    batch, device = collate(every, examples.pad), next(model.parameters()).device
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    mask = batch["attention_mask"].to(device)
    groups = length_groups(mask, settings.length_groups)
    computed = sum(rows.numel() * (columns.stop - columns.start) for rows, columns in groups)
    share = (computed + (len(groups) - 1) * group_tokens(device)) / mask.numel()  # never above 1: one group would do
    best = float("inf")
    for _ in range(3):  # the first one warms up
        start = time.perf_counter()
        _loss(model, batch, settings).backward()
        middle = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        end = time.perf_counter()
        best = min(best, share * (middle - start) + end - middle)
        if end - start > PROBE_SECONDS:
            break
    return best


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
