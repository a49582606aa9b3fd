"""A training step of S with L beside it against one that reads L's word from a cache: `python -m benchmarks.teacher`.

All ways of a case take the same step in turns, repeat after repeat: forward, loss, backward, AdamW. Compared are the
time of a step, the most memory that it allocates, what of L has to be in memory all the while, the bytes a target token
takes on disk, and the time of the one pass that makes the cache. Clock and memory are those of `benchmarks.measure`.
Targets are L's own greedy answers with their last quarter replaced at random: about three of four tokens are kept.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import check_gradients, clock, in_turns, peak_bytes, run, speedup, timed
from cat_core.architectures import MODEL_INPUTS
from cat_core.inference import answering, generate_batch
from cat_core.training.models import parameter_count
from cat_core.training.teacher import TeacherCache, run_teacher
from cat_core.training.train import TrainSettings, training_loss
from cat_core.training.training_set import TrainingSet, collate


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
        how = {"pad": 0, "vocab": case.vocabulary, "max_new_tokens": TARGET[1]}
        how["stop_ids"] = {-1}  # no token ends an answer
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


def compare(case: Case, device: str, dtype: torch.dtype, repeats: int) -> list[dict]:
    """One row for each way; ValueError where a way that keeps all of L has another gradient than with L beside it."""
    large = llama(case.vocabulary, case.teacher_hidden, case.teacher_layers, 2).to(device, dtype).eval()
    data = Sequences(case, large)
    batch = collate([data[i] for i in range(case.batch)], data.pad)
    labels = batch["labels"][batch["labels"] != -100].to(device)
    rows, steps, found = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (method, mode, k) in WAYS.items():
            cache, made, rates = None, [], []
            if mode is not None:
                fill = partial(run_teacher, large, data, Path(folder) / str(len(rows)), mode=mode, k=max(k, 1))
                passed = timed(lambda: made.append(fill()), device)[clock(device)]  # noqa: B023 - called here
                (cache,) = made
            steps[name], model = step_of(case, method, mode, cache, large, batch, labels)
            memory = peak_bytes(lambda: rates.append(steps[name]()), device)  # noqa: B023 - called here
            found[name] = torch.cat([p.grad.float().flatten() for p in model.parameters()])
            head = cache.head.nbytes if mode == "hidden" else 0
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
                    "keep_rate": float(rates[0]),
                }
            )
        for exact, online in (("hidden", "online"), ("argmax, CAT-Xent", "online, CAT-Xent")):
            check_gradients(exact, [found[exact]], online, [found[online]], dtype)
        times = {name: both[:, clock(device)] for name, both in in_turns(steps, repeats, device).items()}
    for row in rows:
        plain = times["online" if row["method"] == DISTIL else "online, CAT-Xent"]
        row |= speedup(times[row["way"]], plain) | {"epochs_to_pay": None}
        if row["pass_seconds"] is not None:  # how many passes over the data pay for the one of L
            saved = (statistics.median(plain) - statistics.median(row["seconds"])) / row["step_tokens"]
            row["epochs_to_pay"] = row["pass_seconds"] / row["pass_tokens"] / saved if saved > 0 else None
    return rows


def step_of(
    case: Case, method: str, mode: str | None, cache: TeacherCache | None, large, batch: dict, labels
) -> tuple[Callable[[], torch.Tensor], LlamaForCausalLM]:
    """(one training step of a new S by one way, which returns the keep-rate; that S)."""
    settings = TrainSettings(method=method, **({} if mode is None else {"teacher": mode}))
    model = llama(case.vocabulary, case.hidden, case.layers, 1).to(large.device, large.dtype)
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
        return counts.keep_rate

    return step, model


TABLE = """
| V | S | L | way | steps in the time of one with L beside it (range) | MiB of a step | MiB of L in memory \
| bytes a token | passes over the data that pay for the cache |
|--:|---|---|---|--:|--:|--:|--:|--:|
| {vocabulary:,} | {hidden} x {layers} | {teacher_hidden} x {teacher_layers} | {way} \
| {speedup:.2f} ({speedup_range[0]:.2f} to {speedup_range[1]:.2f}) | {memory!m:,.0f} | {resident!m:,.1f} \
| {bytes_per_token:,.0f} | {epochs_to_pay:.2f} |
"""


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print the table, and write `benchmarks/results/teacher-<device>.json` unless `--quick`."""
    return run("teacher", __doc__.splitlines()[0], 5, arguments, CASES.get, compare, TABLE)


if __name__ == "__main__":
    main()
