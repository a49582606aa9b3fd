"""The teacher cache: what the frozen large model says about the target tokens of a training set, computed once.

S then trains without L in memory, and all methods, seeds and processes read the same file (mapped, not copied). Which
token L gets right, and with it the mask and the ledger, is exact in every mode; they differ in what is kept of L's
distribution, for distillation:

    hidden    the hidden states that L's head reads, in L's own precision, and the head: exact
    topk      the k most probable tokens and the probability of all others together (`loss.TopK`)
    argmax    nothing: for methods that learn from the label alone
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cat_core.architectures import MODEL_INPUTS, check_prompts, target_outputs
from cat_core.artifacts import read_sealed, write_sealed
from cat_core.loss import TopK, is_right
from cat_core.models import has_plain_head
from cat_core.store import model_fingerprint
from cat_core.tensor_file import TensorFile
from cat_core.tokens import plan_batches
from cat_core.training_set import collate

MODES = ("hidden", "topk", "argmax")
FILE = "teacher.safetensors"


@dataclass(frozen=True)
class TeacherCache:
    """L's outputs on the target tokens of a training set, token after token, example after example.

    correct: bool [tokens], whether the label has L's highest logit; offsets: int64 [examples + 1], where each example's
    tokens start. Mode hidden: states [tokens, H] that L's `head` [V, H] (and `bias` [V]) reads, or its logits
    [tokens, V] where the head is not plain linear and `head` is None. Mode topk: ids [tokens, k], log_probabilities
    float16 [tokens, k] and tail float32 [tokens], of the softmax at `temperature`. about: the metadata of its file.
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

    def top(self, rows: torch.Tensor, device: torch.device | str = "cpu") -> TopK:
        """The k most probable tokens of those rows and the tail, in float32; each row sums to 1."""
        probabilities, tail = self.log_probabilities[rows].to(device).float().exp(), self.tail[rows].to(device)
        # float16 rounds the logarithms; their sum is known exactly
        probabilities *= ((1 - tail) / probabilities.sum(-1)).unsqueeze(-1)
        return TopK(self.ids[rows].to(device).long(), probabilities, tail)

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

        verify: read every byte once and compare with the checksum that was written last. Raises FileNotFoundError, and
        ValueError that names what is of another teacher, data set or setting, or says that the file is damaged.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no teacher cache at {path}: run `teacher.run_teacher` first")
        if verify:
            read_sealed(path.with_suffix(".json"), path)
        try:
            with safe_open(path, "pt") as file:
                about = dict(file.metadata() or {})
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own kind for a file that is cut or is none
            raise ValueError(f"{path} cannot be read ({error}): delete it and run the teacher again") from None
        differing = [f"{k} ({about.get(k, 'none')[:12]}, expected {v[:12]})" for k, v in expected.items()
                     if about.get(k) != v]  # fmt: skip
        if differing:
            raise ValueError(f"{path} is the cache of another run: {', '.join(differing)}; make it again")
        return cls(**tensors, about=about)


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
    model,
    training_set,
    folder: str | Path,
    *,
    mode: str = "hidden",
    k: int = 50,
    temperature: float = 1.0,
    about: dict[str, str] | None = None,
    batch_tokens: int = 16_384,
    progress: Callable[[str], None] | None = None,
) -> TeacherCache:
    """One pass of L over the training set, resumable: batches that are done are not run again.

    model: a language model; training_set: `training_set.TrainingSet`; mode: of `MODES`; k, temperature: of mode topk;
    about: what the file is of, such as `fingerprint`, to be checked when it is loaded; batch_tokens: padded tokens of a
    batch. Raises ValueError for unknown modes, and for a folder with the unfinished cache of another run.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r} of a teacher cache; expected one of {', '.join(MODES)}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}; expected a whole number >= 1")
    check_prompts(model, training_set)
    model.eval()
    head = model.get_output_embeddings()
    lengths = [(len(p), len(t), 1) for p, t in training_set.pairs]
    plan = plan_batches(lengths, batch_tokens)
    counts = torch.tensor([t for _, t, _ in lengths])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total, columns = int(offsets[-1]), head.weight.shape[0]
    k = min(k, columns)
    parts = {"correct": (torch.bool, (total,)), "offsets": (torch.int64, tuple(offsets.shape))}
    linear = mode == "hidden" and has_plain_head(model)
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
    file = TensorFile(Path(folder) / FILE, parts, about)
    table = file.tensors
    table["offsets"].copy_(offsets)
    if linear:
        table["head"].copy_(head.weight.detach())
        if head.bias is not None:
            table["bias"].copy_(head.bias.detach())
    for number, members in enumerate(plan):
        if number not in file.done:
            batch = collate([training_set[i] for i in members], training_set.pad)
            found = _outputs(model, batch, linear, mode, k, temperature)
            chosen = torch.tensor(members)
            rows = torch.cat([torch.arange(int(s), int(s) + int(n)) for s, n in zip(offsets[chosen], counts[chosen])])
            for name, values in found.items():
                table[name][rows] = values.cpu().to(table[name].dtype)
            file.finished(number)
        if progress is not None:
            progress(f"large model on the training set: batch {number + 1} of {len(plan)}")
    del table
    path = file.close()
    write_sealed(path.with_suffix(".json"), about, path)
    return TeacherCache.load(folder, verify=False)


def _outputs(model, batch: dict, linear: bool, mode: str, k: int, temperature: float) -> dict[str, torch.Tensor]:
    """What a cache keeps of the target tokens of a batch, by the names of `TeacherCache`."""
    is_target = batch["labels"] != -100
    inputs = {name: batch[name].to(model.device) for name in MODEL_INPUTS}
    start = batch["target_start"]
    _, states, logits = target_outputs(model, inputs, start, states=linear)
    wanted = is_target[:, start:].to(model.device)
    logits = logits[wanted]
    found = {"correct": is_right(logits, batch["labels"][is_target].to(logits.device))}
    if mode == "hidden":
        found["states"] = states[wanted] if linear else logits
    elif mode == "topk":
        log_p = (logits.float() / temperature).log_softmax(-1)
        found["log_probabilities"], found["ids"] = log_p.topk(k, dim=-1)
        # summed over what is left, as 1 less the k largest would lose a small tail to rounding
        found["tail"] = log_p.scatter_(-1, found["ids"], float("-inf")).exp().sum(-1)
    return found
