"""The teacher cache: what the frozen large model says about the target tokens of a training set, computed once.

S then trains without L in memory, and all methods, seeds and processes read the same files (mapped, not copied). Which
token L gets right, and with it the mask and the ledger, is exact in every mode; they differ in what is kept of L's
distribution, for distillation:

    hidden    the hidden states that L's head reads, in L's own precision, and the head: exact
    topk      the k most probable tokens and the probability of all others together (`loss.TopK`)
    argmax    nothing: for methods that learn from the label alone

A cache is a folder `teacher` of `.npy` files, one a tensor, with `about.json`; while it is filled it is named
`teacher.partial`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from cat_core.architectures import MODEL_INPUTS, check_prompts, target_outputs
from cat_core.files import Store, file_sha256, read_sealed, whole_file, write_sealed
from cat_core.inference import model_fingerprint
from cat_core.loss import TopK, is_right
from cat_core.queries import plan_batches
from cat_core.training.models import has_plain_head
from cat_core.training.training_set import collate

MODES = ("hidden", "topk", "argmax")
FOLDER, RECORD = "teacher", "about.json"
BLOCK = 2**24  # bytes written at once
BATCH_TOKENS = {"cpu": 4_096, "else": 16_384}  # a CPU is busy with fewer, and its memory is what pages share
STORED = {"bfloat16": "uint16"}
"""Number types that numpy lacks, and those that hold their bits."""


@dataclass(frozen=True)
class TeacherCache:
    """L's outputs on the target tokens of a training set, token after token, example after example.

    correct: bool [tokens], whether the label has L's highest logit; offsets: int64 [examples + 1], where each example's
    tokens start. Mode hidden: states [tokens, H] that L's `head` [V, H] (and `bias` [V]) reads, or its logits
    [tokens, V] where the head is not plain linear and `head` is None. Mode topk: ids [tokens, k], log_probabilities
    float16 [tokens, k] and tail float32 [tokens], of the softmax at `temperature`. about: what it was made of and how.
    """

    correct: torch.Tensor
    offsets: torch.Tensor
    states: torch.Tensor | None = None
    head: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    log_probabilities: torch.Tensor | None = None
    tail: torch.Tensor | None = None
    about: dict[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """One of `MODES`."""
        return "hidden" if self.states is not None else "topk" if self.ids is not None else "argmax"

    @property
    def temperature(self) -> float:
        """Of the stored distributions (mode topk)."""
        return float(self.about.get("temperature", 1.0))

    @property
    def bytes_per_token(self) -> float:
        """Size of what is kept for each target token; the head and the offsets are not counted."""
        parts = (self.correct, self.states, self.ids, self.log_probabilities, self.tail)
        return sum(p.nbytes for p in parts if p is not None) / len(self.correct)

    def rows(self, examples: torch.Tensor) -> torch.Tensor:
        """Token rows of the given examples (int64 [B]), in their order: int64 [their target tokens]."""
        starts, ends = self.offsets[examples], self.offsets[examples + 1]
        lengths = ends - starts
        shift = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths)
        return torch.arange(int(lengths.sum())) + shift

    def logits(self, rows: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """L's logits of those token rows: [rows, V] on `device`. ValueError where only a part of them is kept."""
        if self.states is None:
            raise ValueError(f"a teacher cache of mode {self.mode!r} holds no logits: make one of mode 'hidden'")
        states = self.states[rows].to(device)
        if self.head is None:
            return states
        bias = None if self.bias is None else self.bias.to(device)
        return torch.nn.functional.linear(states, self.head.to(device), bias)

    def predicted(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """L's most probable token at those rows, int64 [rows] on the device of their `labels`; of several, the label.

        Raises ValueError in mode argmax, which keeps no words.
        """
        if self.mode == "argmax":
            raise ValueError("a teacher cache of mode 'argmax' holds no tokens: make one of mode hidden or topk")
        device = labels.device
        highest = self.ids[rows, 0].to(device).long() if self.mode == "topk" else self.logits(rows, device).argmax(-1)
        return torch.where(self.correct[rows].to(device), labels, highest)

    def top(self, rows: torch.Tensor, device: torch.device | str = "cpu") -> TopK:
        """The k most probable tokens of those rows and the tail, in float32; each row sums to 1."""
        probabilities, tail = self.log_probabilities[rows].to(device).float().exp(), self.tail[rows].to(device)
        # float16 rounds the logarithms; their sum is known exactly
        probabilities *= ((1 - tail) / probabilities.sum(-1)).unsqueeze(-1)
        return TopK(self.ids[rows].to(device).long(), probabilities, tail)

    def of(self, examples, labels: torch.Tensor, label_weight: float, temperature: float) -> tuple[torch.Tensor, dict]:
        """What `fused.TargetCache` says: who is right on target tokens with these labels [n], and `distribution`."""
        if not isinstance(examples, torch.Tensor) or examples.dtype != torch.int64 or examples.dim() != 1:
            raise ValueError("teacher_cache needs examples: int64 [B], the examples whose target tokens these are")
        rows = self.rows(examples.cpu())
        if len(rows) != len(labels):
            raise ValueError(
                f"the teacher cache has {len(rows)} target tokens for these {len(examples)} examples and the batch "
                f"{len(labels)}: it is of another training set, or the batch was cut after it was made"
            )
        right = self.correct[rows].to(labels.device)
        return right, self.distribution(rows, temperature, labels.device) if label_weight < 1 else {}

    def distribution(self, rows: torch.Tensor, temperature: float, device, whole: bool = False) -> dict:
        """L's distribution for `fused.fused_linear_cat_loss`, as keyword arguments; whole: as logits, not as states.

        Raises ValueError in mode argmax, and where the cache was made for another temperature.
        """
        if self.mode == "argmax":
            raise ValueError("a teacher cache of mode 'argmax' holds no distribution: make one of mode hidden or topk")
        if self.mode == "topk":
            if temperature != self.temperature:
                raise ValueError(
                    f"the teacher cache holds probabilities at temperature {self.temperature:g}, the loss has "
                    f"{temperature:g}: make the cache for it"
                )
            return {"teacher_top": self.top(rows, device)}
        if whole or self.head is None:
            return {"teacher_logits": self.logits(rows, device)}
        return {
            "teacher_input": self.states[rows].to(device),
            "teacher_linear_weight": self.head.to(device),
            "teacher_linear_bias": None if self.bias is None else self.bias.to(device),
        }

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = True, **expected: str) -> TeacherCache:
        """The cache in a folder, mapped into memory; expected: entries of `about` that it must have.

        verify: read every byte once and compare with the checksums that were written last. Raises FileNotFoundError,
        and ValueError that names what is of another teacher, data set or setting, or which file is damaged.
        """
        place = Path(folder) / FOLDER
        if not place.is_dir():
            raise FileNotFoundError(f"no teacher cache at {place}: run `teacher.run_teacher` first")
        record = read_sealed(place / RECORD)
        about, tensors = record["about"], {}
        differing = [f"{k} ({about.get(k, 'none')[:12]}, expected {v[:12]})" for k, v in expected.items()
                     if about.get(k) != v]  # fmt: skip
        if differing:
            raise ValueError(f"{place} is the cache of another run: {', '.join(differing)}; make it again")
        for name, (kind, digest) in record["tensors"].items():
            path = place / f"{name}.npy"
            try:
                if verify and file_sha256(path) != digest:
                    raise ValueError("its bytes have changed")
                tensors[name] = as_tensor(open_memmap(path, mode="r"), kind)
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} cannot be read ({error}): delete {place} and run the teacher again") from None
        return cls(**tensors, about=about)


class CacheWriter:
    """The tensors of a cache while they are filled in place, row by row, and which batches of them are done.

    folder: where the cache will be; tensors: name -> (dtype, shape), zero at first, larger than memory if need be;
    about: texts that say what the cache is of. `tensors[name]` writes through to the file; a crash costs the batch in
    work. All room on the disk is taken at once. Raises ValueError where there is an unfinished cache of something else,
    OSError where the disk has no room.
    """

    def __init__(
        self, folder: str | Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], about: Mapping[str, str]
    ):
        self.place, self.about = Path(folder) / FOLDER, dict(about)
        self.partial = self.place.with_name(f"{FOLDER}.partial")
        self.kinds = {name: str(dtype).removeprefix("torch.") for name, (dtype, _) in tensors.items()}
        self.paths = {name: self.partial / f"{name}.npy" for name in tensors}
        plan = self.about | {"tensors": {n: [self.kinds[n], list(shape)] for n, (_, shape) in tensors.items()}}
        self.marks = Store(self.partial, plan)
        if not all(path.is_file() for path in self.paths.values()):
            shutil.rmtree(self.partial)  # no batch is done before all files are there
            self.marks = Store(self.partial, plan)
            try:
                for name, kind in self.kinds.items():
                    with whole_file(self.paths[name]) as temporary:
                        open_memmap(temporary, "w+", STORED.get(kind, kind), tensors[name][1])
                        _reserve(temporary)
            except OSError as error:
                shutil.rmtree(self.partial, ignore_errors=True)
                needed = sum(math.prod(shape) * dtype.itemsize for dtype, shape in tensors.values())
                free = shutil.disk_usage(self.place.parent).free
                raise OSError(
                    error.errno,
                    f"{error.strerror}: the teacher cache needs {needed:,} bytes, {free:,} are free: make room, or "
                    "choose a teacher mode that keeps less",
                    str(self.place),
                ) from None
        self.maps = {name: open_memmap(path, "r+") for name, path in self.paths.items()}
        self.tensors = {name: as_tensor(array, self.kinds[name]) for name, array in self.maps.items()}

    def done(self, batch: int) -> bool:
        """Whether the rows of this batch were written before."""
        return self.marks.load(batch) is not None

    def finished(self, batch: int) -> None:
        """The rows of this batch are written: from now on it is not asked for again."""
        for array in self.maps.values():
            array.flush()
        self.marks.save(batch, [])

    def close(self) -> Path:
        """All batches are there: the cache gets its name. Returns its folder."""
        for array in self.maps.values():
            array.flush()
        self.maps, self.tensors = {}, {}
        digests = {name: [kind, file_sha256(self.paths[name])] for name, kind in self.kinds.items()}
        write_sealed(self.partial / RECORD, {"about": self.about, "tensors": digests})
        shutil.rmtree(self.place, ignore_errors=True)  # of an earlier run
        os.replace(self.partial, self.place)
        kept = {self.place / RECORD, *(self.place / path.name for path in self.paths.values())}
        for path in set(self.place.iterdir()) - kept:
            path.unlink()
        return self.place


def _reserve(path: Path) -> None:
    """Give every byte of a file its place on the disk. OSError where there is no room.

    `open_memmap` makes a file of holes. A write through the map into a hole that a full disk cannot fill ends the
    process (SIGBUS), and no handler of Python's can stop that.
    """
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except (AttributeError, OSError) as error:  # no such call here, or not for this file system
            if getattr(error, "errno", errno.EOPNOTSUPP) not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            while block := file.read(BLOCK):  # zeros, and the header
                file.seek(-len(block), os.SEEK_CUR)
                file.write(block)


def as_tensor(array: np.ndarray, kind: str) -> torch.Tensor:
    """An array as a tensor of that number type, on the same memory."""
    with warnings.catch_warnings():  # a finished cache may only be read, and torch warns that it has no such tensors
        warnings.simplefilter("ignore")
        return torch.from_numpy(array).view(getattr(torch, kind))


def fingerprint(model, tokenizer, training_set) -> dict[str, str]:
    """What a cache depends on: sha256 of L's weights, of the vocabulary, and of the token ids (data and template)."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "teacher": model_fingerprint(model),
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "data": training_set.fingerprint,
    }


@torch.no_grad()
def run_teacher(
    model, training_set, folder: str | Path, *, mode: str = "hidden", k: int = 50, temperature: float = 1.0,
    about: dict[str, str] | None = None, batch_tokens: int | None = None,
    progress: Callable[[str], None] | None = None, precision: str = "fp32", examples: Sequence[int] | None = None,
) -> TeacherCache:  # fmt: skip
    """One pass of L over the training set, resumable: batches that are done are not run again.

    model: a language model; training_set: `training_set.TrainingSet`; mode: of `MODES`; k, temperature: of mode topk;
    about: what the cache is of, such as `fingerprint`, to be checked when it is loaded; batch_tokens: padded tokens
    of a batch (None: `BATCH_TOKENS`); examples: those that L is asked about (None: all), others have no tokens in it;
    precision: "fp32", or "bf16" for the body of a model whose head is plain linear (the head, which decides
    what is right, stays in its own precision). Raises ValueError for unknown modes, and for a folder with the
    unfinished cache of another run.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r} of a teacher cache; expected one of {', '.join(MODES)}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}; expected a whole number >= 1")
    check_prompts(model, training_set)
    batch_tokens = batch_tokens or BATCH_TOKENS["cpu" if model.device.type == "cpu" else "else"]
    model.eval()
    head = model.get_output_embeddings()
    asked = torch.arange(len(training_set)) if examples is None else torch.tensor(sorted(set(examples)))
    lengths = [(len(p), len(t), 1) for p, t in (training_set.pairs[i] for i in asked)]
    plan = [asked[members].tolist() for members in plan_batches(lengths, batch_tokens)]
    counts = torch.zeros(len(training_set), dtype=torch.int64)
    counts[asked] = torch.tensor([t for _, t, _ in lengths])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total, columns = int(offsets[-1]), head.weight.shape[0]
    k = min(k, columns)
    parts = {"correct": (torch.bool, (total,)), "offsets": (torch.int64, tuple(offsets.shape))}
    plain = has_plain_head(model)
    linear = mode == "hidden" and plain
    fast = precision == "bf16" and plain  # elsewhere logits would be rounded, and ties count as right
    kind = next(model.parameters()).dtype
    if linear:
        parts |= {"states": (kind, (total, head.weight.shape[1])), "head": (kind, tuple(head.weight.shape))}
        if head.bias is not None:
            parts["bias"] = (kind, tuple(head.bias.shape))
    elif mode == "hidden":
        parts["states"] = (kind, (total, columns))
    elif mode == "topk":
        narrow = torch.int16 if columns <= 2**15 else torch.int32
        parts |= {"ids": (narrow, (total, k)), "log_probabilities": (torch.float16, (total, k))}
        parts["tail"] = (torch.float32, (total,))
    about = dict(about or {}) | {"mode": mode, "temperature": f"{temperature!r}", "batch_tokens": str(batch_tokens)}
    about |= {"precision": "bf16"} if fast else {}
    cache = CacheWriter(folder, parts, about)
    table = cache.tensors
    table["offsets"].copy_(offsets)
    for name, values in (("head", head.weight), ("bias", head.bias)):
        if name in table:
            table[name].copy_(values.detach())
    for number, members in enumerate(plan):
        if not cache.done(number):
            batch = collate([training_set[i] for i in members], training_set.pad)
            outputs = _outputs(model, batch, linear, mode, k, temperature, fast)
            chosen = torch.tensor(members)
            rows = torch.cat([torch.arange(int(s), int(s) + int(n)) for s, n in zip(offsets[chosen], counts[chosen])])
            for name, values in outputs.items():
                table[name][rows] = values.cpu().to(table[name].dtype)
            cache.finished(number)
        if progress is not None:
            progress(f"large model on the training set: batch {number + 1} of {len(plan)}")
    del table
    cache.close()
    return TeacherCache.load(folder, verify=False)


def _outputs(
    model, batch: dict, linear: bool, mode: str, k: int, temperature: float, fast: bool = False
) -> dict[str, torch.Tensor]:
    """What a cache keeps of the target tokens of a batch, by the names of `TeacherCache`; fast: the body in bf16."""
    is_target = batch["labels"] != -100
    inputs = {name: batch[name].to(model.device) for name in MODEL_INPUTS}
    start = batch["target_start"]
    wanted = is_target[:, start:].to(model.device)
    if fast:
        with torch.autocast(model.device.type, torch.bfloat16):
            _, states, _ = target_outputs(model, inputs, start, states=True, logits=False)
        head = model.get_output_embeddings()
        states = states.to(head.weight.dtype)
        logits = head(states[wanted])
    else:
        _, states, logits = target_outputs(model, inputs, start, states=linear)
        logits = logits[wanted]
    outputs = {"correct": is_right(logits, batch["labels"][is_target].to(logits.device))}
    if mode == "hidden":
        outputs["states"] = states[wanted] if linear else logits
    elif mode == "topk":
        log_p = (logits.float() / temperature).log_softmax(-1)
        outputs["log_probabilities"], outputs["ids"] = log_p.topk(k, dim=-1)
        # summed over what is left, as 1 less the k largest would lose a small tail to rounding
        outputs["tail"] = log_p.scatter_(-1, outputs["ids"], float("-inf")).exp().sum(-1)
    return outputs
