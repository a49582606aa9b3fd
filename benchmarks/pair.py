"""A pretrained pair's work against its matrix products alone and plain transformers: `python -m benchmarks.pair`.

S and L have the shape of SmolLM2-135M, cut to 6 layers and whole, with random weights; texts are those of a built-in
suite. All ways of a case run in turns, round after round, and each is compared with the plain one in the same round.

- training: one step on one batch, labels alone: forward, loss, backward, limit of the norm, AdamW. Plain is the loop as
  users of transformers write it: padded batch, the model's own loss of all logits. In bf16 it is under autocast.
- scoring: the log-probabilities of every option of some questions. Plain: a pass an option, softmax of all logits.
- writing: a fixed number of tokens a question, greedily, with their log-probabilities. Plain: `generate`, one by one.

The floor is the products with the model's linear layers alone, forward (and backward), as `torch.mm` of the tokens that
are needed: no padding, the prompt of a question once, the head where its logits are asked for. Tokens a second count
these tokens. Memory is the most that a call allocates beside weights, gradients and moments; together they are a share
of these and what a call must keep: what autograd saves of the batch where all layers are trained (the loss from hidden
states), or keys, values and states of all tokens.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from benchmarks.measure import check_gradients, clock, in_turns, peak_bytes, run, speedup
from benchmarks.runner import generate, left_padded
from cat_core.cascade import CascadeRunner, Request
from cat_core.tasks.synthetic import MiniSuperGlue, mini_superglue
from cat_core.text import TextFormat
from cat_core.training.frozen import Shortcut, run_frozen
from cat_core.training.models import train_tokenizer
from cat_core.training.plan import saved_bytes
from cat_core.training.side_by_side import SideBySideTrainer, StackedModels
from cat_core.training.starts import LOADED
from cat_core.training.train import CascadeAwareTrainer, TrainSettings
from cat_core.training.training_set import TrainingSet, collate
from cat_core.training.tuning import freeze

PLAIN = {"training": "plain loop", "scoring": "plain, one by one", "writing": "generate, one by one"}
VOCABULARY = 262  # of the tokenizer, few, so that questions are as long as those of public data sets
MEMBERS = 2  # small models that are trained side by side


@dataclass(frozen=True)
class Case:
    """Shape of a model, sequences of a training batch, questions, and tokens that are written for each."""

    model: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int
    questions: int
    new_tokens: int


SMALL = Case("S", 6, 576, 1536, 9, 3, 49_152, 32, 64, 16)
LARGE = replace(SMALL, model="L", layers=30)
TINY = Case("S", 2, 64, 128, 2, 1, 500, 8, 6, 4)
CASES = {"cpu": [SMALL, LARGE], "cuda": [SMALL, LARGE], "quick": [TINY, replace(TINY, model="L", layers=3)]}


class Texts:
    """Questions of a built-in suite, their tokenizer, and a training batch."""

    def __init__(self, case: Case):
        examples = mini_superglue(MiniSuperGlue(train=max(case.batch, 300), calibration=6, test=case.questions))
        learnt = [e for e in examples if e.split == "train"]
        self.tokenizer = train_tokenizer([text for e in learnt for text in (e.prompt, e.target)], VOCABULARY)
        self.data = TrainingSet(learnt[: case.batch], TextFormat(self.tokenizer), 256)
        self.batch = collate([self.data[i] for i in range(case.batch)], self.data.pad)
        asked = [e for e in examples if e.split == "test"][: case.questions]
        self.questions = [Request(e.item_id, e.prompt, e.options) for e in asked]
        self.open_questions = [replace(question, options=()) for question in self.questions]


def model_of(case: Case, device: str, seed: int = 0) -> LlamaForCausalLM:
    """The real class with random weights, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=case.intermediate, pad_token_id=0,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.kv_heads,
        tie_word_embeddings=True, max_position_embeddings=512, initializer_range=case.hidden**-0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(device)


def products(case: Case, groups: Iterable[tuple[int, int]], device: str, dtype: torch.dtype, backward: bool):
    """A function that multiplies what cannot be left out. groups: (rows through the layers, rows through the head) of
    each pass; backward: by the input and by itself, too, of each weight."""
    kv = case.kv_heads * case.hidden // case.heads
    shapes = [(case.hidden, case.hidden)] * 2 + [(case.hidden, kv)] * 2
    shapes += [(case.hidden, case.intermediate)] * 2 + [(case.intermediate, case.hidden)]
    wanted = []
    for rows, outputs in groups:
        wanted += [(rows, *shape) for shape in shapes] * case.layers + [(outputs, case.hidden, case.vocabulary)]

    def some(*shape):
        return torch.randn(*shape, device=device).to(dtype)

    # A weight matrix for each layer, as in the model: one that all share would stay in the caches.
    weights = {shape: [some(*shape) for _ in range(case.layers)] for shape in set(shapes)}
    weights[case.hidden, case.vocabulary] = [some(case.hidden, case.vocabulary)]
    factors = {(rows, width): some(rows, width) for rows, *both in set(wanted) for width in both}

    def step():
        for number, (rows, *shape) in enumerate(wanted):
            held = weights[tuple(shape)]
            x, w = factors[rows, shape[0]], held[number // len(shapes) % len(held)]
            torch.mm(x, w)
            if backward:
                y = factors[rows, shape[1]]
                torch.mm(y, w.T)
                torch.mm(x.T, y)

    return step


# -------------------------------------------------------------------- training


def plain_loop(case: Case, texts: Texts, device: str, dtype: torch.dtype, _: Path):
    """The loop of a user of transformers: (step, model)."""
    model = model_of(case, device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    inputs = {name: texts.batch[name].to(device) for name in ("input_ids", "attention_mask", "labels")}

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()

    return step, model


def settings_of(dtype: torch.dtype, **changes) -> TrainSettings:
    """Of every trainer: a rate of 0, so that all steps are alike."""
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    return TrainSettings(method="xent", precision=precision, learning_rate=0.0, weight_decay=0.0, **changes)


def arguments_of(folder: Path, device: str, dtype: torch.dtype) -> TrainingArguments:
    """What `train.run_trainer` gives to Trainer, as far as a step depends on it."""
    return TrainingArguments(
        output_dir=str(folder), use_cpu=device == "cpu", bf16=dtype == torch.bfloat16, report_to=[],
        remove_unused_columns=False, learning_rate=0.0, label_names=["labels"],
    )  # fmt: skip


def trainer(groups: int = 1, share: float = 1.0, known: bool = False) -> Callable:
    """A way by `CascadeAwareTrainer`; share: of the layers that is trained; known: what is frozen was computed."""

    def make(case: Case, texts: Texts, device: str, dtype: torch.dtype, folder: Path):
        model = model_of(case, device).train()
        train_layers = 0 if share == 1 else max(1, round(share * case.layers))
        settings = settings_of(dtype, length_groups=groups, train_layers=train_layers)
        frozen = freeze(model, train_layers)
        cache = run_frozen(model, texts.data, folder / "frozen", frozen, settings.precision) if known else None
        shortcut = Shortcut(model, cache).__enter__() if known else None
        tuned = CascadeAwareTrainer(
            model=model, args=arguments_of(folder, device, dtype), train_dataset=texts.data, settings=settings,
            shortcut=shortcut,
        )  # fmt: skip
        optimizer, prepared = tuned.create_optimizer(), tuned.accelerator.prepare(model)
        tokens = (texts.batch["labels"] != -100).sum()

        def step():
            optimizer.zero_grad()
            tuned.training_step(prepared, dict(texts.batch), tokens)
            tuned.accelerator.clip_grad_norm_(prepared.parameters(), 1e9)
            optimizer.step()

        return step, model

    return make


def side_by_side(case: Case, texts: Texts, device: str, dtype: torch.dtype, folder: Path):
    """Several small models on the same batch; the first of them is that of the other ways."""
    stacked = StackedModels([model_of(case, device, seed) for seed in range(MEMBERS)]).to(device).train()
    plans = [replace(settings_of(dtype, max_grad_norm=1e9), seed=seed) for seed in range(MEMBERS)]
    tuned = SideBySideTrainer(
        model=stacked, args=arguments_of(folder, device, dtype), train_dataset=texts.data, settings=plans,
        teachers=[None] * MEMBERS,
    )  # fmt: skip
    tuned.current_gradient_accumulation_steps = 1
    optimizer, prepared = tuned.create_optimizer(), tuned.accelerator.prepare(stacked)
    batch = collate([texts.data[i] for _ in range(MEMBERS) for i in range(case.batch)], texts.data.pad)

    def step():
        optimizer.zero_grad()
        tuned.training_step(prepared, dict(batch))
        optimizer.step()

    return step, stacked


SIDE_BY_SIDE = f"{MEMBERS} models side by side"
TRAINING = {
    PLAIN["training"]: plain_loop,
    "Trainer": trainer(),
    "Trainer, in length groups": trainer(groups=LOADED.length_groups),
    SIDE_BY_SIDE: side_by_side,
    "Trainer, upper half": trainer(share=0.5),
    "Trainer, upper half, frozen states known": trainer(share=0.5, known=True),
}
OF_LARGE = tuple(TRAINING)[:3]  # ways of L: all are in memory at once
ALL_TRAINED = ("Trainer", "Trainer, in length groups", SIDE_BY_SIDE)


def gradients_of(model) -> list[Tensor]:
    """Of the model, or of the first of several, in order of the parameters' names."""
    stacked = isinstance(model, StackedModels)
    pairs = [(name.replace("/", "."), p.grad) for name, p in model.named_parameters() if p.grad is not None]
    return [gradient[0] if stacked else gradient for _, gradient in sorted(pairs, key=lambda pair: pair[0])]


def training_rows(case: Case, texts: Texts, device: str, dtype: torch.dtype, rounds: int) -> list[dict]:
    """One row for each way; ValueError where one that trains all layers has another gradient than the plain loop."""
    plain, rows, steps, expected = PLAIN["training"], {}, {}, None
    mask, targets = texts.batch["attention_mask"], int((texts.batch["labels"] != -100).sum())
    kept, _ = saved_bytes(model_of(case, device).train(), texts.batch, settings_of(dtype))
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(TRAINING if case.model == "S" else OF_LARGE):
            place = Path(folder) / str(number)
            place.mkdir()
            step, model = TRAINING[name](case, texts, device, dtype, place)
            step()  # moments are made
            found = gradients_of(model)
            expected = expected or found
            if name in ALL_TRAINED:
                check_gradients(name, found, plain, expected, dtype)
            trained = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
            resident = sum(p.nbytes for p in model.parameters()) + 3 * trained
            models = MEMBERS if name == SIDE_BY_SIDE else 1
            memory, steps[name] = peak_bytes(step, device), step
            share = (memory + resident) / (resident + models * kept)
            rows[name] = {"models": models, "tokens": models * int(mask.sum()), "memory": memory, "memory_share": share}
        steps["floor"] = products(case, [(int(mask.sum()), targets)], device, dtype, backward=True)
        return compared("training", case, rows, steps, rounds, device)


# ------------------------------------------------------------------- answering


@torch.no_grad()
def scored_alone(model, prompt: list[int], option: list[int]) -> list[float]:
    """Log-probabilities of an option, in a pass of its own."""
    logits = model(torch.tensor([prompt + option], device=model.device), use_cache=False).logits
    return logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)[range(len(option)), option].tolist()


@torch.no_grad()
def scored_in_batch(model, rows: list[tuple[list[int], list[int]]]) -> list[list[float]]:
    """Log-probabilities of options, all in one padded batch of prompts with options."""
    ids = pad_sequence([torch.tensor(prompt + option) for prompt, option in rows], batch_first=True).to(model.device)
    lengths = torch.tensor([len(prompt) + len(option) for prompt, option in rows], device=model.device)
    mask = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()
    logits = model(ids, attention_mask=mask, use_cache=False).logits
    logprobs = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).tolist()
    return [row[len(p) - 1 : len(p) + len(o) - 1] for row, (p, o) in zip(logprobs, rows, strict=True)]


def runner_of(case: Case, texts: Texts, device: str, dtype: torch.dtype) -> CascadeRunner:
    """The cascade's runner, with one model as S and L."""
    model = model_of(case, device).to(dtype).eval()
    return CascadeRunner(model, model, texts.tokenizer, max_new_tokens=case.new_tokens)


def scoring_rows(case: Case, texts: Texts, device: str, dtype: torch.dtype, rounds: int) -> list[dict]:
    """One row for each way to the log-probabilities of all options; ValueError where they differ."""
    runner = runner_of(case, texts, device, dtype)
    model, items = runner.models["small"], runner.items(texts.questions)
    pairs = [(item.prompt, option) for item in items for option in item.options]
    steps = {
        PLAIN["scoring"]: lambda: [scored_alone(model, *pair) for pair in pairs],
        "plain, batches of 8": lambda: [
            s for i in range(0, len(pairs), 8) for s in scored_in_batch(model, pairs[i : i + 8])
        ],
        "runner": lambda: [option[0] for item in runner.scores(texts.questions) for option in item],
    }
    expected, limit = steps[PLAIN["scoring"]](), 1e-3 if dtype == torch.float32 else 0.5
    for name, step in steps.items():
        if (off := max(np.abs(np.subtract(a, b)).max() for a, b in zip(step(), expected, strict=True))) > limit:
            raise ValueError(f"{name} has other log-probabilities than {PLAIN['scoring']}: {off:.1e} nats apart")
    fed = sum(len(item.prompt) for item in items) + sum(len(option) - 1 for _, option in pairs)
    asked = len(items) + sum(len(option) - 1 for _, option in pairs)
    longest = max(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    seen = steps | {PLAIN["scoring"]: lambda: scored_alone(model, *longest)}  # one by one, the longest has the peak
    rows = {name: {"models": 1, "tokens": fed} | memory_of(seen[name], model, fed, case, device) for name in steps}
    steps["floor"] = products(case, [(fed, asked)], device, dtype, backward=False)
    return compared("scoring", case, rows, steps, rounds, device)


def writing_rows(case: Case, texts: Texts, device: str, dtype: torch.dtype, rounds: int) -> list[dict]:
    """One row for each way to write; ValueError where tokens differ in more than rounding explains."""
    runner = runner_of(case, texts, device, dtype)
    model, never = runner.models["small"], case.vocabulary - 1
    runner.stop_ids = dict.fromkeys(runner.stop_ids, frozenset({never}))  # random weights end by chance alone
    prompts = [item.prompt for item in runner.items(texts.open_questions)]
    queries = [left_padded([row], runner.pad, device) for row in prompts]
    longest = left_padded([max(prompts, key=len)], runner.pad, device)
    batch = left_padded(prompts, runner.pad, device)
    steps = {
        PLAIN["writing"]: lambda: [generate(model, query, never, runner.pad, case.new_tokens)[0] for query in queries],
        "generate, one batch": lambda: generate(model, batch, never, runner.pad, case.new_tokens),
        "runner": lambda: [(r.tokens, r.token_logprobs) for r in runner.answer(texts.open_questions)],
    }
    expected, rows = [tokens for tokens, _ in steps[PLAIN["writing"]]()], {}
    fed = sum(len(row) for row in prompts) + len(prompts) * (case.new_tokens - 1)
    for name, step in steps.items():
        alike = sum(tokens == wanted for (tokens, _), wanted in zip(step(), expected, strict=True))
        if alike < (0.9 if dtype == torch.float32 else 0.3) * len(prompts):
            raise ValueError(f"{name} has {alike} of {len(prompts)} answers in common with {PLAIN['writing']}")
        if name == PLAIN["writing"]:  # one by one, the longest has the peak
            step = partial(generate, model, longest, never, runner.pad, case.new_tokens)
        rows[name] = {"models": 1, "tokens": fed, "alike": alike} | memory_of(step, model, fed, case, device)
    groups = [(sum(map(len, prompts)), len(prompts))] + [(len(prompts), len(prompts))] * (case.new_tokens - 1)
    steps["floor"] = products(case, groups, device, dtype, backward=False)
    return compared("writing", case, rows, steps, rounds, device)


def memory_of(step: Callable, model, tokens: int, case: Case, device: str) -> dict:
    """Peak of a call, and with the weights as a share of the weights and keys, values and states of all tokens."""
    memory, weights = peak_bytes(step, device), sum(p.nbytes for p in model.parameters())
    kept = 2 * case.kv_heads * case.hidden // case.heads * case.layers + case.hidden
    return {"memory": memory, "memory_share": (memory + weights) / (weights + tokens * kept * model.dtype.itemsize)}


# --------------------------------------------------------------------- results


def compared(job: str, case: Case, rows: dict[str, dict], steps: dict, rounds: int, device: str) -> list[dict]:
    """The rows with their times against the plain way's and the floor's; times of several models are those of one."""
    steps["floor"]()
    times = {name: both[:, clock(device)] for name, both in in_turns(steps, rounds, device).items()}
    found = []
    for name, row in rows.items():
        each = times[name] / row["models"]
        row = asdict(case) | {"job": job, "way": name} | row | speedup(each, times[PLAIN[job]])
        row |= {"floor_share": statistics.median(times["floor"] / each)}
        found.append(row | {"tokens_per_second": row["tokens"] / statistics.median(times[name])})
    return found


def compare(case: Case, device: str, dtype: torch.dtype, repeats: int) -> list[dict]:
    """One row for each way of each job."""
    texts = Texts(case)
    jobs = (training_rows, scoring_rows, writing_rows)
    return [row for rows in jobs for row in rows(case, texts, device, dtype, repeats)]


TABLE = """
| job | model | way | tokens / s | times as fast as plain (range) | floor's time of its | MiB \
| with what is held, of what must be |
|---|---|---|--:|--:|--:|--:|--:|
| {job} | {model} | {way} | {tokens_per_second:,.0f} | {speedup:.2f} ({speedup_range[0]:.2f} to \
{speedup_range[1]:.2f}) | {floor_share:.0%} | {memory!m:,.0f} | {memory_share:.2f} |
"""


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print the table, and write `benchmarks/results/pair-<device>.json` unless `--quick`."""
    return run("pair", __doc__.splitlines()[0], 3, arguments, CASES.get, compare, TABLE)


if __name__ == "__main__":
    main()
