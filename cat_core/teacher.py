"""The teacher: what the frozen large model says about the target tokens of a training set, computed once.

Stored are the hidden states that L's head reads, not its logits: exact, and smaller by V / H. The small model then
trains without L in memory, and every method and seed uses the same outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cat_core.artifacts import write_text
from cat_core.loss import is_right
from cat_core.tokens import plan_batches


@dataclass(frozen=True)
class TeacherOutputs:
    """L's outputs on the target tokens of a training set, token after token, example after example.

    states: [tokens, H] hidden states before L's head, or [tokens, V] logits when `head` is None (a head that is not
    a plain linear layer); correct: bool [tokens]; offsets: int64 [examples + 1], where each example's tokens start;
    head: [V, H]; bias: [V] or None.
    """

    states: torch.Tensor
    correct: torch.Tensor
    offsets: torch.Tensor
    head: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def rows(self, examples: torch.Tensor) -> torch.Tensor:
        """Token rows of the given examples (int64 [B]), in their order: int64 [their target tokens]."""
        starts, ends = self.offsets[examples], self.offsets[examples + 1]
        lengths = ends - starts
        shift = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths)
        return torch.arange(int(lengths.sum())) + shift

    def logits(self, rows: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """L's logits of those token rows: [rows, V] float32 on `device`."""
        states = self.states[rows].to(device)
        if self.head is None:
            return states
        bias = None if self.bias is None else self.bias.to(device)
        return torch.nn.functional.linear(states, self.head.to(device), bias)

    def save(self, folder: Path) -> None:
        """Write into a folder as safetensors."""
        tensors = {name: getattr(self, name) for name in ("states", "correct", "offsets", "head", "bias")}
        save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, folder / "teacher.safetensors")

    @classmethod
    def load(cls, folder: Path) -> TeacherOutputs:
        """Read what `save` wrote."""
        return cls(**load_file(folder / "teacher.safetensors"))


@torch.no_grad()
def run_teacher(
    model,
    training_set,
    folder: Path,
    batch_tokens: int = 16_384,
    progress: Callable[[str], None] | None = None,
) -> TeacherOutputs:
    """One pass of L over the training set, resumable: finished batches lie in `folder` and are not run again.

    model: causal LM in eval mode; training_set: `train.TrainingSet`; batch_tokens: padded tokens of a batch.
    """
    from cat_core.train import collate  # train imports this module

    model.eval()
    head = model.get_output_embeddings()
    lengths = [(len(p), len(t), 1) for p, t in training_set.pairs]
    plan = plan_batches(lengths, batch_tokens)
    counts = torch.tensor([t for _, t, _ in lengths])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    linear = None
    states = correct = None
    for number, members in enumerate(plan):
        batch = collate([training_set[i] for i in members], training_set.pad)
        part = folder / f"batch_{number:06d}.safetensors"
        if not part.is_file():
            is_target = batch["labels"] != -100
            inputs = {k: batch[k].to(model.device) for k in ("input_ids", "attention_mask", "position_ids")}
            keep = batch["labels"].shape[1] - batch["target_start"] + 1
            output = model(**inputs, logits_to_keep=keep, output_hidden_states=True)
            wanted = is_target[:, -(keep - 1) :]
            hidden = output.hidden_states[-1][:, -keep:-1][wanted].float()
            logits = output.logits[:, :-1][wanted].float()
            if linear is None:
                linear = isinstance(head, torch.nn.Linear) and torch.allclose(
                    head(hidden.to(head.weight.dtype)).float(), logits, atol=1e-4
                )
            found = {"correct": is_right(logits, batch["labels"][is_target].to(logits.device)).cpu()}
            found["states"] = (hidden if linear else logits).cpu()
            temporary = part.with_suffix(".tmp")
            save_file({k: v.contiguous() for k, v in found.items()}, temporary)
            temporary.replace(part)
        found = load_file(part)
        if states is None:
            states = torch.empty(int(offsets[-1]), found["states"].shape[1])
            correct = torch.empty(int(offsets[-1]), dtype=torch.bool)
            linear = found["states"].shape[1] == getattr(head, "in_features", None)
        starts = offsets[torch.tensor(members)]
        sizes = counts[torch.tensor(members)]
        rows = torch.cat([torch.arange(s, s + n) for s, n in zip(starts.tolist(), sizes.tolist(), strict=True)])
        states[rows], correct[rows] = found["states"], found["correct"]
        if progress is not None:
            progress(f"large model on the training set: batch {number + 1} of {len(plan)}")
    weight = head.weight.detach().float().cpu().clone() if linear else None
    bias = getattr(head, "bias", None)
    bias = bias.detach().float().cpu().clone() if linear and bias is not None else None
    outputs = TeacherOutputs(states, correct, offsets, weight, bias)
    outputs.save(folder)
    for part in folder.glob("batch_*.safetensors"):
        part.unlink()
    write_text(
        folder / "teacher.json", json.dumps({"tokens": int(offsets[-1]), "right": float(correct.float().mean())})
    )
    return outputs
