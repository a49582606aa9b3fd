"""Training: one `transformers.Trainer` whose loss is `cascade_aware_loss`; everything else is inherited."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from cat_core.architectures import MODEL_INPUTS, check_prompts, has_encoder, target_outputs
from cat_core.files import file_sha256, write_text
from cat_core.fused import fused_linear_cat_loss
from cat_core.loss import NORMALIZE, cascade_aware_loss, gatekeeper_loss
from cat_core.methods import METHODS
from cat_core.tasks.schema import brief
from cat_core.training.deferral import deferral_of, deferral_targets
from cat_core.training.frozen import FrozenStates, Shortcut, eval_lower
from cat_core.training.models import has_plain_head, quiet
from cat_core.training.teacher import MODES, TeacherCache
from cat_core.training.training_set import IGNORE, DataOrder, TrainingSet, collate, joined, length_groups
from cat_core.training.tuning import EAGER, eager_attention, frozen_layers, partly_trained

LEDGER = ("tokens", "kept", "both", "only_small", "only_large", "neither")
Progress = Callable[[str], None] | None
_NAMES = ("activation_checkpointing", "gradient_checkpointing")  # of one option, in newer and older transformers
_CHECKPOINTING = next(name for name in _NAMES if name in TrainingArguments.__dataclass_fields__)
_COMPLETE = "complete.json"  # written after all else of a checkpoint, so a half-written one is never resumed


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained. Steps are optimiser steps of `batch_size` examples (0: the model stays as it is); the
    schedule is a cosine to 0.

    method: a key of `methods.METHODS`; label_weight: w of Dist and CAT-Dist; seed: order of the data and random mask;
    gatekeeper_weight: a of `loss.gatekeeper_loss`; loss: "fused" (from hidden states, where the head is plain linear,
    else dense), or "dense" (from logits): equal but for rounding. teacher, teacher_k: mode and k of the
    `teacher.TeacherCache` that L's word comes from. length_groups: into how many groups of rows of like length, at
    most, a batch is cut on its way through the model, so that less padding is computed; the loss and its gradient are
    those of the whole batch. train_layers: the upper layers that are trained, the others and the embeddings stay (0:
    all is trained); lora_rank: rank of the changes that are trained in place of the weights (0: the weights
    themselves); gradient_checkpointing: states inside layers are computed again in backward, which is slower and takes
    less memory.
    """

    method: str = "xent"
    steps: int = 400
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_weight: float = 0.5
    temperature: float = 1.0
    normalize: str = "tokens"
    gradient_accumulation: int = 1
    precision: str = "fp32"
    seed: int = 0
    gatekeeper_weight: float = 0.5
    loss: str = "fused"
    teacher: str = "hidden"
    teacher_k: int = 50
    length_groups: int = 1
    train_layers: int = 0
    lora_rank: int = 0
    gradient_checkpointing: bool = False

    def __post_init__(self):
        for name, choices in (("method", METHODS), ("normalize", NORMALIZE), ("teacher", MODES)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"unknown {name} {brief(value)}; expected one of {', '.join(choices)}")
        for name, choices in (("precision", ("fp32", "bf16")), ("loss", ("fused", "dense"))):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"unknown {name} {brief(value)}; expected {' or '.join(choices)}")
        if self.teacher == "argmax" and (METHODS[self.method].distil or METHODS[self.method].relabel):
            raise ValueError(f"method {self.method!r} learns from L's own words: set teacher to hidden or topk")
        least = {"steps": 0, "batch_size": 1, "gradient_accumulation": 1, "teacher_k": 1, "length_groups": 1}
        least |= {"train_layers": 0, "lora_rank": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name} is {brief(value)}; expected a whole number >= {lowest}")
        for name in ("learning_rate", "warmup", "weight_decay", "max_grad_norm", "label_weight", "temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name} is {brief(value)}; expected a number >= 0 (in YAML write 1.0e-3, as 1e-3 is text)"
                )
        if self.label_weight > 1 or self.temperature == 0:
            raise ValueError(
                f"label_weight is {self.label_weight} and temperature {self.temperature}; expected a weight in [0, 1] "
                "and a temperature above 0"
            )
        if self.lora_rank and (self.train_layers or METHODS[self.method].router):
            other = f"train_layers {self.train_layers}" if self.train_layers else f"method {self.method!r}"
            raise ValueError(f"lora_rank is {self.lora_rank} and {other}: choose one of them")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of gradient_accumulation {self.gradient_accumulation}"
            )


class CascadeAwareTrainer(Trainer):
    """`Trainer` whose loss is the one of `settings.method`; `teacher` holds L's outputs on the training set.

    All else is as in transformers. Logged beside the loss: keep_rate, and the token `LEDGER` as shares since the last.
    """

    def __init__(
        self, *args, settings: TrainSettings, teacher: TeacherCache | None = None, shortcut: Shortcut | None = None,
        **kwargs,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        self.settings, self.teacher, self.shortcut = settings, teacher, shortcut
        self.frozen = 0 if shortcut else frozen_layers(self.model, settings.train_layers)
        self.method = METHODS[settings.method]
        if teacher is None and self.method.compares:
            raise ValueError(f"method {settings.method!r} compares S with L: give the teacher's outputs")
        check_prompts(self.model, self.train_dataset)
        self.deferral = deferral_of(self.method, self.train_dataset)
        self.fused = settings.loss == "fused" and has_plain_head(self.model)
        self._ledger: dict[str, torch.Tensor] = {}
        self._calls = (-1, 0)
        # How many tokens a step keeps is known at its end: until then its gradient is that of a sum.
        self.deferred = settings.normalize == "kept"
        self.loss_is_scaled_for_ga = True if self.deferred else self.loss_is_scaled_for_ga
        self._step: dict[str, torch.Tensor] = {}

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        total = self.settings.steps * self.settings.batch_size
        return DataOrder(len(self.train_dataset), total, self.settings.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        exact = not self.deferred and num_items_in_batch is not None
        generator = self._generator() if self.method.mask == "random" else None
        rows = None if self.teacher is None else self.teacher.rows(inputs["examples"].cpu())
        # accelerate wraps the model's forward alone; the fused loss holds a head, and groups share what is cast
        with self.accelerator.autocast():
            outputs, states, head, labels = self.predictions(model, inputs)
            is_target = labels != IGNORE
            loss, stats = training_loss(
                states[is_target], head, labels[is_target], self.settings, self.teacher, rows, generator,
                reduction="sum" if self.deferred and model.training else "mean",
                divisor=num_items_in_batch if exact else None, deferral=self.deferral,
            )  # fmt: skip
        if self.deferred and model.training:
            divisor = stats.tokens if self.method.second_stage else stats.kept
            add(self._step, {"loss": loss.detach(), "divisor": divisor})
        else:
            loss = self.share(loss, exact, num_items_in_batch)
        if model.training:
            add(self._ledger, ledger(stats))
        return (loss, outputs) if return_outputs else loss

    def predictions(self, model, inputs):
        """(outputs, states, head, labels) of the target columns of a batch.

        states [B, T, H] that `head` reads, or logits [B, T, V] where head is None; labels int64 [B, T]. outputs: those
        of the model, a list of them where the batch is cut into length groups.
        """
        labels, start = inputs["labels"], inputs["target_start"]
        bare = self.accelerator.unwrap_model(model)
        if self.frozen:
            eval_lower(bare, self.frozen)
        groups, parts = length_groups(inputs["attention_mask"], self.settings.length_groups), []
        embeddings, embedded = bare.get_input_embeddings(), None
        trained = any(p.requires_grad for p in embeddings.parameters())
        if len(groups) > 1 and trained and self.accelerator.num_processes == 1 and not has_encoder(bare):
            embedded = embeddings.forward(inputs["input_ids"])  # its hooks see each group
        for rows, columns in groups:
            taken = {name: inputs[name][rows, columns] for name in MODEL_INPUTS}
            options = {"states": self.fused, "logits": not self.fused}
            known = self.shortcut and self.shortcut.states_of(inputs["examples"][rows], taken["attention_mask"])
            looked_up = nullcontext() if embedded is None else _giving(embeddings, embedded[rows, columns])
            with known or nullcontext(), looked_up:
                parts.append(target_outputs(model, taken, start - columns.start, **options))
        states = [part.states if self.fused else part.logits for part in parts]
        states = joined(states, [rows for rows, _ in groups], labels.shape[1] - start)
        outputs = parts[0].outputs if len(parts) == 1 else [part.outputs for part in parts]
        head = bare.get_output_embeddings() if self.fused else None
        return outputs, states, head, labels[:, start:]

    def share(self, loss, exact: bool, num_items_in_batch):
        """The loss of one micro-batch as `Trainer` adds it up; exact: it has the divisor of the whole step already."""
        if exact:  # processes are averaged, so undo the mean
            return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss
        if self.model.training and num_items_in_batch is not None:
            return loss / self.current_gradient_accumulation_steps
        return loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch; after the last of a step, gradients of sums become those of the step's mean, exactly."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.deferred:
            return loss
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        parts = {name: self.over_processes(value) for name, value in self._step.items()}
        self._step = {}
        return self.finish_step(self.accelerator.unwrap_model(model), parts).to(loss)

    def over_processes(self, value) -> torch.Tensor:
        """The sum of a number, or of a tensor, over all processes."""
        return self.accelerator.reduce(torch.as_tensor(value, device=self.args.device).double(), "sum")

    def finish_step(self, model, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Divide the gradients by what the whole step has kept; its loss. parts: sums over the step, all processes."""
        divisor = parts["divisor"].clamp(min=1)
        scale(model.parameters(), self.accelerator.num_processes / divisor)  # gradients are means over processes
        return parts["loss"] / divisor

    def log(self, logs, *args, **kwargs):
        if self._ledger:
            sums = torch.stack([torch.as_tensor(value).double() for value in self._ledger.values()])  # of this process
            logs |= shares(dict(zip(self._ledger, self.accelerator.reduce(sums, "sum"))))
            self._ledger = {}
        super().log(logs, *args, **kwargs)

    def _generator(self) -> torch.Generator:
        """The random mask's generator: a function of (seed, step, micro-batch, process), so a resumed run agrees."""
        step = self.state.global_step
        self._calls = (step, self._calls[1] + 1 if self._calls[0] == step else 0)
        return mask_generator(self.settings.seed, step, self._calls[1], self.args.process_index)


@contextmanager
def _giving(embeddings: torch.nn.Module, values: torch.Tensor):
    """Within, the embeddings give `values`, looked up for all length groups at once: the gradient of each look-up is as
    large as the embeddings are."""
    own = vars(embeddings).get("forward")  # where somebody has wrapped it

    def given(ids):
        if ids.shape != values.shape[:-1]:
            raise RuntimeError(f"the model looks up {tuple(ids.shape)} tokens, expected {tuple(values.shape[:-1])}")
        return values

    embeddings.forward = given
    try:
        yield
    finally:
        del embeddings.forward
        if own is not None:
            embeddings.forward = own


def scale(parameters: Iterable[torch.nn.Parameter], factor: torch.Tensor) -> None:
    """Multiply the gradients of parameters, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad))


def ledger(stats) -> dict:
    """Counts of target tokens, of the `LossStats` of a call, by name (0-dim tensors; None: not known)."""
    return {name: getattr(stats, name) for name in LEDGER}


def add(sums: dict, values: dict) -> None:
    """Add what a call has counted to the sums since the last log; None, for what is not known, adds nothing."""
    for name, value in values.items():
        if value is not None:
            sums[name] = sums.get(name, 0) + value


def shares(sums: dict) -> dict[str, float]:
    """Sums as they are logged: those of the `ledger` as shares of all target tokens, a router's as means a sequence."""
    means = {name: float(value / sums["sequences"]) for name, value in sums.items() if name.startswith("router_")}
    counts = {name: int(sums[name]) for name in LEDGER if name in sums}
    tokens = counts.pop("tokens")
    return means | {("keep_rate" if name == "kept" else name): count / tokens for name, count in counts.items()}


def mask_generator(seed: int, step: int, micro_batch: int = 0, process: int = 0) -> torch.Generator:
    """The generator of the random mask at one step of training."""
    state = np.random.SeedSequence([seed, step, micro_batch, process]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def training_loss(
    states: torch.Tensor, head: torch.nn.Linear | None, target: torch.Tensor, settings: TrainSettings,
    teacher: TeacherCache | None, rows: torch.Tensor | None, generator: torch.Generator | None = None,
    reduction: str = "mean", distribution: dict | None = None, divisor: torch.Tensor | None = None,
    deferral: int | None = None,
):  # fmt: skip
    """The loss of `settings.method` on target tokens, and its `LossStats`.

    states: [tokens, H] hidden states that `head` reads, or [tokens, V] logits where `head` is None; target: int64
    [tokens]; teacher, rows: L's outputs and the rows of these tokens in them; generator: of the random mask;
    distribution: `teacher.distribution` of these tokens where the caller has it already; divisor: of a mean, where it
    is not the number of these tokens; deferral: the token that says "ask L".
    """
    method, device = METHODS[settings.method], states.device
    if method.router:
        raise ValueError(f"method {settings.method!r} trains a router with S: use `joint.train_jointly`")
    correct = None if teacher is None else teacher.correct[rows].to(device)
    if method.relabel:  # who is right about the label is not counted where there is another one
        target, correct = teacher.predicted(rows, target), None
    common = {
        "label_weight": method.label_weight(settings.label_weight), "temperature": settings.temperature,
        "mask": method.mask, "normalize": settings.normalize, "reduction": reduction, "generator": generator,
        "teacher_correct": correct, "return_stats": True,
    }  # fmt: skip
    given = {}
    if method.distil:
        given = distribution or teacher.distribution(rows, settings.temperature, device, whole=head is None)
    if head is not None and not method.second_stage:
        return fused_linear_cat_loss(
            states, head.weight, target, linear_bias=head.bias, divisor=divisor, **given, **common
        )
    logits = states if head is None else head(states)
    if divisor is not None:
        common["reduction"] = "sum"
    if method.second_stage:
        with torch.no_grad():
            _, stats = cascade_aware_loss(logits, target, **common | {"label_weight": 1.0})
        if method.calls:
            target = deferral_targets(logits, target, correct, deferral)
            loss = cascade_aware_loss(logits, target, label_weight=1.0, mask="none", reduction=common["reduction"])
        else:
            loss = gatekeeper_loss(logits, target, weight=settings.gatekeeper_weight, reduction=common["reduction"])
    else:
        if "teacher_logits" in given:
            given = {"teacher_logits": given["teacher_logits"][:, : logits.shape[-1]]}
        loss, stats = cascade_aware_loss(logits, target, **given, **common)
    return loss if divisor is None else loss / divisor, stats


def train(
    model: PreTrainedModel, training_set: TrainingSet, settings: TrainSettings, folder: Path,
    teacher: TeacherCache | None = None, progress: Progress = None, checkpoint_every: int = 200, use_cpu: bool = False,
    kind: type[CascadeAwareTrainer] = CascadeAwareTrainer, what: str = "", frozen: FrozenStates | None = None,
) -> list[dict]:  # fmt: skip
    """Train `model` in place and return the log (one dict a logging step); an interrupted run continues.

    what: the name of the model in progress lines (default: method and seed); frozen: what the layers below
    `settings.train_layers` give, computed before (`frozen.run_frozen`), so that they need not run.

    Checkpoints of transformers lie in `folder` until the training is done; a half-written or damaged one is deleted
    and the one before is used, so the result is that of an uninterrupted run.
    """
    if settings.steps == 0:
        return []
    if frozen is not None and frozen.layers != frozen_layers(model, settings.train_layers):
        raise ValueError(f"states of {frozen.layers} frozen layers do not go with train_layers {settings.train_layers}")
    end = training_set.pairs[0][1][-1]
    slow = use_cpu and settings.precision == "bf16" and training_set.longest <= EAGER
    with (
        eager_attention(model, slow),
        partly_trained(model, settings, end) as trained,
        Shortcut(model, frozen) as shortcut,
    ):
        trainer = run_trainer(
            kind, trained, training_set, lambda items: collate(items, training_set.pad), settings, folder,
            progress=progress, what=what or f"{settings.method}, seed {settings.seed}", settings=settings,
            checkpoint_every=checkpoint_every, use_cpu=use_cpu, teacher=teacher, shortcut=shortcut if frozen else None,
        )  # fmt: skip
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def run_trainer(
    kind: type[Trainer], model: torch.nn.Module, dataset: Dataset, collator: Callable, schedule: TrainSettings,
    folder: Path, *, what: str, progress: Progress = None, checkpoint_every: int = 200, use_cpu: bool = False,
    **arguments,
) -> Trainer:  # fmt: skip
    """Build a trainer of class `kind`, run it by `schedule`, from the last whole checkpoint in `folder`, if any.

    Under `accelerate launch` every process calls this; `batch_size` stays the size of a step, shared out among them.
    what: the name of the run in its progress lines; arguments: further ones of `kind`.
    """
    logging_steps = max(1, schedule.steps // 20)
    training = TrainingArguments(
        output_dir=str(folder), use_cpu=use_cpu, seed=schedule.seed, data_seed=schedule.seed,
        max_steps=schedule.steps, gradient_accumulation_steps=schedule.gradient_accumulation,
        learning_rate=schedule.learning_rate, lr_scheduler_type="cosine",
        warmup_steps=round(schedule.warmup * schedule.steps), weight_decay=schedule.weight_decay, adam_beta2=0.99,
        max_grad_norm=schedule.max_grad_norm, bf16=schedule.precision == "bf16",
        logging_steps=logging_steps, logging_nan_inf_filter=False, report_to=[], disable_tqdm=True,
        # Saved right after a log: the sums since the last log are not part of a checkpoint.
        save_steps=-(-checkpoint_every // logging_steps) * logging_steps, save_total_limit=2,
        remove_unused_columns=False, label_names=["labels"],
        dataloader_pin_memory=not use_cpu and torch.cuda.is_available(),
        **({_CHECKPOINTING: True} if schedule.gradient_checkpointing else {}),
    )  # fmt: skip
    training._n_gpu = min(1, training.n_gpu)  # of a process: Trainer would deal batches out to threads, one a GPU
    shares = schedule.gradient_accumulation * training.world_size
    if schedule.batch_size % shares:
        raise ValueError(
            f"batch_size {schedule.batch_size} cannot be shared out evenly among {training.world_size} processes with "
            f"gradient_accumulation {schedule.gradient_accumulation}: choose a multiple of {shares}"
        )
    training.per_device_train_batch_size = schedule.batch_size // shares
    trainer = kind(
        model=model, args=training, train_dataset=dataset, data_collator=collator,
        callbacks=[_Seal(), _ProgressLine(progress, what)], **arguments,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    with trainer.accelerator.main_process_first():  # it alone deletes what is not whole
        start = _resume_point(folder)
    with quiet():
        trainer.train(resume_from_checkpoint=start)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return trainer


class _Seal(TrainerCallback):
    """Marks a checkpoint as whole once all its files are there."""

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes its random state
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            files = {p.name: file_sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}
            write_text(folder / _COMPLETE, json.dumps(files))


class _ProgressLine(TrainerCallback):
    """One line every few seconds, as a notebook or a terminal shows it."""

    def __init__(self, report: Progress, what: str):
        self.report, self.what, self.next, self.first = report, what, 0.0, None

    def on_step_end(self, args, state, control, **kwargs):
        now, step = time.monotonic(), state.global_step
        self.first = self.first or (now, step)
        if self.report is not None and now >= self.next:
            self.next = now + 5
            begin, done = self.first
            left = (now - begin) / (step - done) * (state.max_steps - step) if step > done else 0.0
            more = f", about {left / 60:.0f} min left" if left >= 60 else ""
            self.report(f"{self.what}: step {step} of {state.max_steps}{more}")


def _resume_point(folder: Path) -> str | None:
    """The newest whole checkpoint; those that are not whole are deleted with a warning."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for checkpoint in checkpoints:
        try:
            files = json.loads((checkpoint / _COMPLETE).read_text(encoding="utf-8"))
            whole = all(file_sha256(checkpoint / name) == digest for name, digest in files.items())
        except (OSError, ValueError, AttributeError):
            whole = False
        if whole:
            return str(checkpoint)
        warnings.warn(f"checkpoint {checkpoint} is not whole; continuing from the one before, if any", stacklevel=3)
        shutil.rmtree(checkpoint)
    return None
