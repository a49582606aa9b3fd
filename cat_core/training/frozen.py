"""What the frozen lower layers of a model say of a training set, computed once: the upper layers train from it.

Dropout of the frozen part is off, here as in training without a cache. A cache is a folder as `teacher.CacheWriter`
writes it: resumable, sealed, its space checked beforehand.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy.lib.format import open_memmap

from cat_core.architectures import MODEL_INPUTS, check_prompts, target_outputs
from cat_core.files import read_sealed
from cat_core.queries import plan_batches
from cat_core.training.teacher import FOLDER, RECORD, CacheWriter, as_tensor
from cat_core.training.training_set import TrainingSet, collate
from cat_core.training.tuning import decoder_layers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROOM = 1.05  # files beside the states: offsets, marks


@dataclass(frozen=True)
class FrozenStates:
    """States after the frozen layers, token after token, example after example.

    states: [tokens, H] of prompts and targets; offsets: int64 [examples + 1]; layers: how many are frozen.
    """

    states: torch.Tensor
    offsets: torch.Tensor
    layers: int

    def batch(self, examples: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 [B, T, H] of these examples (int64 [B]) where `mask` [B, T] has their tokens, zero elsewhere."""
        starts, ends = self.offsets[examples], self.offsets[examples + 1]
        rows = torch.cat([torch.arange(int(a), int(b)) for a, b in zip(starts, ends)])
        values = torch.zeros(*mask.shape, self.states.shape[-1])
        values[mask.bool().cpu()] = self.states[rows].float()
        return values.to(mask.device)

    @classmethod
    def load(cls, folder: str | Path, layers: int) -> FrozenStates:
        """The cache in a folder, mapped into memory. Raises ValueError where it is damaged."""
        place = Path(folder) / FOLDER
        kinds = read_sealed(place / RECORD)["tensors"]
        return cls(**{n: as_tensor(open_memmap(place / f"{n}.npy", mode="r"), k) for n, (k, _) in kinds.items()},
                   layers=layers)  # fmt: skip


def needed_bytes(tokens: int, hidden: int, precision: str) -> int:
    """Disk that a cache takes."""
    return int(ROOM * tokens * hidden * DTYPES[precision].itemsize)


@torch.no_grad()
def run_frozen(
    model, training_set: TrainingSet, folder: str | Path, layers: int, precision: str,
    about: Mapping[str, str] | None = None, batch_tokens: int = 16_384,
    progress: Callable[[str], None] | None = None,
) -> FrozenStates:  # fmt: skip
    """One pass of the lower `layers` of a causal model over the training set; batches that are done are not run again.

    precision: of the pass and of what is kept, "fp32" or "bf16". Raises ValueError where the disk has no room.
    """
    check_prompts(model, training_set)
    lengths = [(len(p), len(t), 1) for p, t in training_set.pairs]
    counts = torch.tensor([p + t for p, t, _ in lengths])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total, hidden = int(offsets[-1]), model.get_input_embeddings().weight.shape[1]
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    needed, free = needed_bytes(total, hidden, precision), shutil.disk_usage(place).free
    if needed > free and not (place / f"{FOLDER}.partial").is_dir():
        raise ValueError(
            f"the states of {layers} frozen layers on {total:,} tokens take {needed / 2**30:,.1f} GiB and {place} has "
            f"{free / 2**30:,.1f} GiB free: make room, train fewer examples, or freeze nothing (train_layers 0)"
        )
    shapes = {"states": (DTYPES[precision], (total, hidden)), "offsets": (torch.int64, tuple(offsets.shape))}
    about = dict(about or {}) | {"layers": str(layers), "precision": precision, "data": training_set.fingerprint}
    cache, plan = CacheWriter(folder, shapes, about), plan_batches(lengths, batch_tokens)
    cache.tensors["offsets"].copy_(offsets)
    was = model.training
    model.eval()
    for number, members in enumerate(plan):
        if not cache.done(number):
            batch = collate([training_set[i] for i in members], training_set.pad)
            mask = batch["attention_mask"].bool()
            states = lower_states(model, batch, layers, precision)[mask].cpu()
            rows = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in members])
            cache.tensors["states"][rows] = states.to(DTYPES[precision])
            cache.finished(number)
        if progress is not None:
            progress(f"frozen layers on the training set: batch {number + 1} of {len(plan)}")
    model.train(was)
    cache.close()
    return FrozenStates.load(folder, layers)


class _Found(Exception):
    """The states that enter the first trained layer: the layers above need not run."""


def lower_states(model, batch: dict, layers: int, precision: str) -> torch.Tensor:
    """[B, T, H] that enter layer number `layers` of a model in evaluation mode."""

    def stop(module, given, named):
        raise _Found(named["hidden_states"] if "hidden_states" in named else given[0])

    hook = decoder_layers(model)[layers].register_forward_pre_hook(stop, with_kwargs=True)
    inputs = {name: batch[name].to(model.device) for name in MODEL_INPUTS}
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
            target_outputs(model, inputs, batch["target_start"], logits=False)
    except _Found as found:
        return found.args[0]
    finally:
        hook.remove()
    raise ValueError(f"{type(model).__name__} does not run its layer {layers}: train all of it (train_layers 0)")


class _Skipped(torch.nn.Module):
    """In the place of a frozen layer, with its attributes: hands on what it is given, the last what is known.

    Where nothing is known of what the model reads, the layer runs.
    """

    def __init__(self, layer: torch.nn.Module, shortcut: Shortcut, last: bool):
        super().__init__()
        object.__setattr__(self, "layer", layer)  # no submodule: its weights are not asked for
        object.__setattr__(self, "shortcut", shortcut)
        self.last = last

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "layer"), name)

    def forward(self, hidden_states, *given, **named):
        known = self.shortcut.given
        if known is None:
            return self.layer(hidden_states, *given, **named)
        return known if self.last else hidden_states


class Shortcut:
    """A model whose frozen layers are skipped: `given` is what enters the trained ones. Weights are those of the model.

    Only models whose layers take hidden states and return a tensor. Used as a context: afterwards the layers are back.
    Without a cache nothing is skipped.
    """

    def __init__(self, model, cache: FrozenStates | None):
        self.cache, self.given = cache, None
        self.stack = decoder_layers(model) if cache is not None else ()

    def __enter__(self) -> Shortcut:
        self.lower = [] if self.cache is None else list(self.stack[: self.cache.layers])
        for k, layer in enumerate(self.lower):
            self.stack[k] = _Skipped(layer, self, last=k + 1 == len(self.lower))
        return self

    def __exit__(self, *_):
        for k, layer in enumerate(self.lower):
            self.stack[k] = layer

    @contextmanager
    def states_of(self, examples: torch.Tensor, mask: torch.Tensor):
        """Within, the model reads these examples where `mask` has their tokens."""
        self.given = self.cache.batch(examples.cpu(), mask)
        yield
        self.given = None


def eval_lower(model, layers: int) -> None:
    """Turn off the dropout of frozen layers, as a cache has none."""
    for layer in decoder_layers(model)[:layers]:
        layer.eval()
