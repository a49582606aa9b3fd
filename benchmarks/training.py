"""A step of fine-tuning against its matrix products alone, and a plain loop: `python -m benchmarks.training`.

All ways take the same step on the same batch in turns, repeat after repeat: forward, loss, backward, limit of the norm,
AdamW; labels alone (Xent), bf16. Compared with the plain loop as users of transformers write it (autocast, padded
batch, the model's own loss of all logits, AdamW). The floor is the linear layers' products, forward and backward, as
`torch.mm` in bf16 on the tokens of the padded batch, and the head's on the target tokens. Memory is the most that a
step allocates beside weights, gradients and moments, and its share of these and a batch of states.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from benchmarks.measure import check_gradients, clock, in_turns, peak_bytes, run, speedup
from cat_core.training.frozen import Shortcut, run_frozen
from cat_core.training.train import CascadeAwareTrainer, TrainSettings
from cat_core.training.training_set import TrainingSet, collate
from cat_core.training.tuning import freeze


@dataclass(frozen=True)
class Case:
    """Shape of a model (SmolLM2-135M's, of some layers) and sequences of a batch."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int


SMOL = Case(6, 576, 1536, 9, 3, 49_152, 32)
CASES = {
    "cpu": [SMOL, replace(SMOL, layers=30)],
    "cuda": [SMOL, replace(SMOL, layers=30), replace(SMOL, layers=30, batch=128)],
    "quick": [Case(2, 64, 128, 2, 1, 500, 8)],
}
PROMPT, TARGET = (8, 48), (2, 8)  # tokens of a sequence, drawn evenly
SETTINGS = TrainSettings(method="xent", precision="bf16", learning_rate=0.0, weight_decay=0.0)


class Sequences(TrainingSet):
    """Random prompts and targets, in the layout of a training set."""

    def __init__(self, case: Case):
        g = torch.Generator().manual_seed(0)

        def draw(low, high):
            length = int(torch.randint(low, high + 1, (), generator=g))
            return torch.randint(1, case.vocabulary, (length,), generator=g).tolist()

        self.pad, self.encoder = 0, False
        self.pairs = [(draw(*PROMPT), draw(*TARGET)) for _ in range(case.batch)]


def model_of(case: Case, device: str) -> LlamaForCausalLM:
    """The real class with random weights, in float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=case.intermediate, pad_token_id=0,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.kv_heads,
        tie_word_embeddings=True, max_position_embeddings=PROMPT[1] + TARGET[1], initializer_range=case.hidden**-0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(device).train()


def plain(model, batch: dict, _: Sequences, __: Path) -> Callable:
    """The loop of a user of transformers: (step, after which `p.grad` is that of the step)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels")}

    def step():
        optimizer.zero_grad()
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()

    return step


def trainer(groups: int = 1, share: float = 1.0, known: bool = False, precision: str = "bf16") -> Callable:
    """A way by `CascadeAwareTrainer`; share: of the layers that is trained; known: what is frozen was computed."""

    def make(model, batch: dict, data: Sequences, folder: Path) -> Callable:
        count = len(model.model.layers)
        train_layers = 0 if share == 1 else max(1, round(share * count))
        settings = replace(SETTINGS, length_groups=groups, train_layers=train_layers, precision=precision)
        frozen = freeze(model, train_layers)
        cache = run_frozen(model, data, folder / "frozen", frozen, "bf16") if known else None
        shortcut = Shortcut(model, cache).__enter__()
        arguments = TrainingArguments(
            output_dir=str(folder), use_cpu=model.device.type == "cpu", bf16=precision == "bf16", report_to=[],
            remove_unused_columns=False, learning_rate=0.0, label_names=["labels"],
        )  # fmt: skip
        tuned = CascadeAwareTrainer(
            model=model, args=arguments, train_dataset=data, settings=settings, shortcut=shortcut if known else None
        )
        optimizer, prepared = tuned.create_optimizer(), tuned.accelerator.prepare(model)
        tokens = (batch["labels"] != -100).sum()

        def step():
            optimizer.zero_grad()
            tuned.training_step(prepared, dict(batch), tokens)
            tuned.accelerator.clip_grad_norm_(prepared.parameters(), 1e9)
            optimizer.step()

        return step

    return make


def floor(case: Case, batch: dict, device: str) -> Callable:
    """The products of a step of all layers: for each weight, forward, by its input and by itself."""
    width = case.hidden // case.heads
    kv = case.kv_heads * width
    shapes = [(case.hidden, case.hidden)] * 2 + [(case.hidden, kv)] * 2
    shapes += [(case.hidden, case.intermediate)] * 2 + [(case.intermediate, case.hidden)]
    rows, targets = batch["input_ids"].numel(), int((batch["labels"] != -100).sum())
    products = [(rows, *shape) for shape in shapes] * case.layers + [(targets, case.hidden, case.vocabulary)]

    def some(*shape):
        return torch.randn(*shape, device=device).bfloat16()

    factors = {p: (some(p[0], p[1]), some(p[1], p[2]), some(p[0], p[2])) for p in set(products)}

    def step():
        for product in products:
            x, w, y = factors[product]
            torch.mm(x, w)
            torch.mm(y, w.T)
            torch.mm(x.T, y)

    return step


WAYS = {
    "plain loop": plain,
    "Trainer": trainer(),
    "Trainer, 4 length groups": trainer(groups=4),
    "Trainer, upper half": trainer(share=0.5),
    "Trainer, upper half, frozen states known": trainer(share=0.5, known=True),
    "Trainer, fp32": trainer(precision="fp32"),
}
DEEP = ("plain loop", "Trainer", "Trainer, 4 length groups")  # ways of models with many layers: all are in memory
ALL_TRAINED = ("Trainer", "Trainer, 4 length groups", "Trainer, fp32")


def compare(case: Case, device: str, dtype: torch.dtype, repeats: int) -> list[dict]:
    """One row for each way; ValueError where one that trains all layers has another gradient than the plain loop."""
    data = Sequences(case)
    batch = collate([data[i] for i in range(case.batch)], data.pad)
    steps, rows, gradients = {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        ways = {name: make for name, make in WAYS.items() if case.layers <= 12 or name in DEEP}
        for number, (name, make) in enumerate(ways.items()):
            model = model_of(case, device)
            place = Path(folder) / str(number)
            place.mkdir()
            step = make(model, batch, data, place)
            step()  # moments are made
            gradients[name] = [p.grad for p in model.parameters() if p.grad is not None]
            if name in ALL_TRAINED:
                check_gradients(name, gradients[name], "plain loop", gradients["plain loop"], torch.bfloat16)
            resident = sum(p.nbytes for p in model.parameters()) + 3 * sum(g.nbytes for g in gradients[name])
            memory = peak_bytes(step, device)
            steps[name] = step
            states = batch["input_ids"].numel() * case.hidden * 4 * case.layers
            rows.append(
                asdict(case)
                | {
                    "way": name,
                    "tokens": int(batch["attention_mask"].sum()),
                    "memory": memory,
                    "resident": resident,
                    "memory_share": (memory + resident) / (resident + states),
                }
            )
        steps["floor"] = floor(case, batch, device)
        steps["floor"]()
        times = {name: both[:, clock(device)] for name, both in in_turns(steps, repeats, device).items()}
    least = statistics.median(times["floor"])
    for row in rows:
        row |= speedup(times[row["way"]], times["plain loop"])
        row |= {"floor_seconds": least, "floor_share": least / statistics.median(times[row["way"]])}
        row |= {"tokens_per_second": row["tokens"] / statistics.median(times[row["way"]])}
    return rows


TABLE = """
| layers | batch | way | tokens / s | times as fast as the plain loop (range) | share of the floor's speed \
| MiB of a step | of weights, moments and a batch of states |
|--:|--:|---|--:|--:|--:|--:|--:|
| {layers} | {batch} | {way} | {tokens_per_second:,.0f} | {speedup:.2f} ({speedup_range[0]:.2f} to \
{speedup_range[1]:.2f}) | {floor_share:.2f} | {memory!m:,.0f} | {memory_share:.2f} |
"""


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print the table, and write `benchmarks/results/training-<device>.json` unless `--quick`."""
    return run("training", __doc__.splitlines()[0], 5, arguments, CASES.get, compare, TABLE)


if __name__ == "__main__":
    main()
