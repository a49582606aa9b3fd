"""A training step of S with L beside it against one that reads L's word from a cache: `python -m benchmarks.teacher`.

All ways of a case take the same step in turns, repeat after repeat: forward, loss, backward, AdamW. Compared are the
time of a step, the most memory that it allocates, what of L has to be in memory all the while, the bytes a target token
takes on disk, and the time of the one pass that makes the cache. Clock and memory are those of `benchmarks.measure`.
Targets are L's own greedy answers with their last quarter replaced at random: about three of four tokens are kept.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import command, manifest, peak_bytes, seconds, write
from cat_core.architectures import MODEL_INPUTS
from cat_core.inference import answering, generate_batch
from cat_core.manifest import now
from cat_core.models import parameter_count
from cat_core.teacher import TeacherCache, run_teacher
from cat_core.train import TrainSettings, training_loss
from cat_core.training_set import TrainingSet, collate


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison: V, the width and depth of S and of L, sequences of a batch, and of the training set."""

    vocabulary: int
    hidden: int
    layers: int
    teacher_hidden: int
    teacher_layers: int
    batch: int
    examples: int


CASES = {
    "cpu": [Case(8_000, 64, 2, 256, 4, 32, 256), Case(32_000, 64, 2, 256, 4, 32, 256)],
    "cuda": [Case(32_000, 512, 4, 2048, 16, 64, 1024), Case(128_000, 512, 4, 2048, 16, 64, 1024)],
    "quick": [Case(500, 16, 1, 32, 2, 8, 24)],
}
PROMPT, TARGET = (8, 48), (4, 24)  # tokens of a sequence, drawn evenly
DISTIL, LABELS = "cat-dist", "cat-xent"
WAYS = {
    "online": (DISTIL, None, 0),
    "hidden": (DISTIL, "hidden", 0),
    "topk 50": (DISTIL, "topk", 50),
    "topk 8": (DISTIL, "topk", 8),
    "online, CAT-Xent": (LABELS, None, 0),
    "argmax, CAT-Xent": (LABELS, "argmax", 0),
}
"""Method, mode of the cache (None: L runs in every step), k. What follows an online way is compared with it."""


class Sequences(TrainingSet):
    """Random prompts and L's answers to them, in the layout of a training set."""

    def __init__(self, case: Case, large: LlamaForCausalLM):
        g = torch.Generator().manual_seed(0)

        def draw(length):
            return torch.randint(1, case.vocabulary, (length,), generator=g).tolist()

        def length(low, high):
            return int(torch.randint(low, high + 1, (), generator=g))

        prompts = [draw(length(*PROMPT)) for _ in range(case.examples)]
        how = {"eos": -1, "pad": 0, "vocab": case.vocabulary, "max_new_tokens": TARGET[1]}  # no token ends an answer
        with answering(large):
            answers = generate_batch(large, prompts, **how)
        self.pad, self.encoder, self.pairs = 0, False, []
        for prompt, (answer, *_) in zip(prompts, answers):
            count = length(*TARGET)
            last = count // 4
            self.pairs.append((prompt, answer[: count - last] + draw(last)))


def llama(vocabulary: int, hidden: int, layers: int, seed: int) -> LlamaForCausalLM:
    """A model of the real class with random weights, whose logits are of size 1."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=4 * hidden, tie_word_embeddings=True, pad_token_id=0,
        max_position_embeddings=sum(high for _, high in (PROMPT, TARGET)), initializer_range=hidden**-0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def target_states(model, batch: dict):
    """Hidden states that predict the target tokens of a batch, [tokens, H]."""
    start = batch["target_start"]
    states = model.model(**{name: batch[name].to(model.device) for name in MODEL_INPUTS}, use_cache=False)
    wanted = (batch["labels"][:, start:] != -100).to(model.device)
    return states.last_hidden_state[:, start - 1 : -1][wanted]


class Online:
    """L in memory, asked in every step: what `training_loss` wants to know of a cache."""

    def __init__(self, large: LlamaForCausalLM, batch: dict, labels: torch.Tensor, distil: bool):
        with torch.no_grad():
            self.states, self.head = target_states(large, batch), large.lm_head.weight.detach()
            self.correct = torch.cat([self._right(*part) for part in zip(self.states.split(256), labels.split(256))])
        self.distil = distil

    def _right(self, states, labels):
        logits = states @ self.head.T
        return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) >= logits.amax(-1)

    def distribution(self, rows, temperature, device, whole=False):
        return {"teacher_input": self.states, "teacher_linear_weight": self.head}


def compare(case: Case, device: str, repeats: int) -> list[dict]:
    """One row for each way; ValueError where a way that keeps all of L has another gradient than with L beside it."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    large = llama(case.vocabulary, case.teacher_hidden, case.teacher_layers, 2).to(device, dtype).eval()
    data = Sequences(case, large)
    batch = collate([data[i] for i in range(case.batch)], data.pad)
    labels = batch["labels"][batch["labels"] != -100].to(device)
    rows, times, found = [], {name: [] for name in WAYS}, {}
    with tempfile.TemporaryDirectory() as folder:
        steps = {}
        for number, (name, (method, mode, k)) in enumerate(WAYS.items()):
            cache, begun = None, time.process_time() if device == "cpu" else time.perf_counter()
            if mode is not None:
                cache = run_teacher(large, data, Path(folder) / str(number), mode=mode, k=max(k, 1))
            passed = (time.process_time() if device == "cpu" else time.perf_counter()) - begun
            steps[name], model, stats = step_of(case, method, mode, cache, large, batch, labels, device, dtype)
            memory = peak_bytes(steps[name], device)
            gradient = torch.cat([p.grad.float().flatten() for p in model.parameters()])
            head = cache.head.nbytes if mode == "hidden" else 0
            found[name] = gradient
            rows.append(
                asdict(case)
                | {
                    "way": name,
                    "method": method,
                    "memory": memory,
                    "resident": parameter_count(large) * dtype.itemsize if mode is None else head,
                    "bytes_per_token": None if cache is None else cache.bytes_per_token,
                    "pass_seconds": None if cache is None else round(passed, 4),
                    "pass_tokens": None if cache is None else len(cache.correct),
                    "step_tokens": len(labels),
                    "keep_rate": float(stats["keep_rate"]),
                }
            )
        for exact, online in (("hidden", "online"), ("argmax, CAT-Xent", "online, CAT-Xent")):
            error = float((found[exact] - found[online]).norm() / found[online].norm())
            if not error < (1e-4 if dtype == torch.float32 else 0.05):
                raise ValueError(f"{exact} has another gradient than {online}: relative difference {error:.1e}")
        for _ in range(repeats):
            for name, step in steps.items():
                times[name].append(seconds(step, device))
    for row in rows:
        plain = "online" if row["method"] == DISTIL else "online, CAT-Xent"
        ratios = [a / b for a, b in zip(times[plain], times[row["way"]])]
        row["seconds"] = [round(value, 4) for value in times[row["way"]]]
        row["speedup"], row["speedup_range"] = statistics.median(ratios), [min(ratios), max(ratios)]
        if row["pass_seconds"] is not None:  # how many passes over the data pay for the one of L
            saved = (statistics.median(times[plain]) - statistics.median(row["seconds"])) / row["step_tokens"]
            row["epochs_to_pay"] = row["pass_seconds"] / row["pass_tokens"] / saved if saved > 0 else None
    return rows


def step_of(
    case: Case,
    method: str,
    mode: str | None,
    cache: TeacherCache | None,
    large,
    batch: dict,
    labels,
    device: str,
    dtype,
) -> tuple[Callable[[], None], LlamaForCausalLM, dict]:
    """(one training step of a new S by one way, that S, the keep-rate of its last step)."""
    settings = TrainSettings(method=method, **({} if mode is None else {"teacher": mode}))
    model = llama(case.vocabulary, case.hidden, case.layers, 1).to(device, dtype)
    # A rate of 0: every repeat then takes the same step.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step():
        optimizer.zero_grad()
        states = target_states(model, batch)
        told = Online(large, batch, labels, method == DISTIL) if cache is None else cache
        which = torch.arange(len(labels)) if cache is None else cache.rows(batch["examples"])
        loss, counts = training_loss(states, model.lm_head, labels, settings, told, which)
        loss.backward()
        optimizer.step()
        seen["keep_rate"] = counts.keep_rate

    seen: dict[str, torch.Tensor] = {}
    return step, model, seen


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| V | S | L | way | steps in the time of one with L beside it (range) | MiB of a step | MiB of L in memory "
        "| bytes a token | passes over the data that pay for the cache |",
        "|--:|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high = row["speedup_range"]
        kept = "" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:,.0f}"
        pays = row.get("epochs_to_pay")
        lines.append(
            f"| {row['vocabulary']:,} | {row['hidden']} x {row['layers']} | {row['teacher_hidden']} x "
            f"{row['teacher_layers']} | {row['way']} | {row['speedup']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['memory'] / 2**20:,.0f} | {row['resident'] / 2**20:,.1f} | {kept} "
            f"| {'' if pays is None else f'{pays:.2f}'} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print the table, and write `benchmarks/results/teacher-<device>.json` unless `--quick`."""
    given = command("teacher", __doc__.splitlines()[0], 5, arguments)
    start, about, rows = now(), manifest(given.device, given.dtype, given.note), []
    for case in CASES["quick" if given.quick else given.device]:
        rows += compare(case, given.device, given.repeats)
        print(f"{now()} {case}", file=sys.stderr, flush=True)
    print(table(rows))
    write(given.out, about, start, {"rows": rows})
    return rows


if __name__ == "__main__":
    main()
