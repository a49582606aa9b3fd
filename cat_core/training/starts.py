"""Starts: how a model is trained where nobody says, by where its weights come from: random, or loaded.

A small model from random weights wants peak rates a hundred times those that fine-tuning can bear: weights that were
learnt elsewhere are gone after a few steps of them. So what an `experiment.Experiment` is not told follows the start.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from cat_core.tasks.schema import brief

PRECISIONS = ("auto", "fp32", "bf16")
LOADED_LIMIT = 1e-3  # peak rate of AdamW beyond which loaded weights are not fine-tuned but lost; low ranks bear more


@dataclass(frozen=True)
class Start:
    """Values of the fields of `Experiment` by the same names."""

    context: int
    steps: int
    large_steps: int
    batch_size: int
    large_batch_size: int
    learning_rate: float
    large_learning_rate: float
    length_groups: int = 1


FIELDS = tuple(field.name for field in fields(Start))
SCRATCH = {
    "mini-superglue": Start(64, 3000, 1500, 64, 128, 0.02, 0.002),
    "mini-wmt": Start(64, 2400, 1500, 64, 64, 0.015, 0.003),
    "mini-flan": Start(96, 1500, 1200, 64, 64, 0.015, 0.003),
}
"""From random weights, as tried with the sizes of the book's pages, by suite; another suite gets those of mini-wmt."""
LOADED = Start(512, 400, 200, 32, 32, 2e-4, 3e-5, length_groups=3)
"""Fine-tuning: S, as a rule cut out of a larger model, has much to learn again; L has little, and forgets."""

LORA_RATE = 3e-4  # of low-rank changes, which start at nothing


def start_of(suite: str, loaded: bool, lora_rank: int = 0, large_lora_rank: int = 0) -> Start:
    """What an experiment on this suite is trained with where it does not say."""
    if not loaded:
        return SCRATCH.get(suite, SCRATCH["mini-wmt"])
    low = {"learning_rate": lora_rank, "large_learning_rate": large_lora_rank}
    return replace(LOADED, **{name: LORA_RATE for name, rank in low.items() if rank})


def check_rate(name: str, rate: float, loaded: bool, lora_rank: int = 0) -> None:
    """Raise ValueError for a peak rate that would destroy loaded weights; name: of the parameter, for the message."""
    if loaded and not lora_rank and rate > LOADED_LIMIT:
        usual = getattr(LOADED, name, LOADED.learning_rate)
        raise ValueError(
            f"{name} is {rate:g}: above {LOADED_LIMIT:g} loaded weights are destroyed, not fine-tuned; leave it out "
            f"({usual:g} is the default for a loaded model), or train from scratch"
        )


def resolve_precision(precision: str, loaded: bool, device: torch.device) -> str:
    """ "fp32" or "bf16": auto is bf16 for loaded models where the hardware multiplies it fast, else fp32."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {brief(precision)}; expected {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bf16" if loaded and fast_bf16(device) else "fp32"


def fast_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a device has instructions for matrix products in bfloat16 (a CPU: AMX, AVX-512 BF16, or those of ARM)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})
