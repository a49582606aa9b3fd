"""Time and memory of the cascade runner against its floor and against other ways: `python -m benchmarks.runner`.

Two Llamas trained for some steps on mini-wmt and mini-superglue together, so that answers end, at different lengths,
and some are surer than others; their output matrices are then widened to V rows. All ways of a case run in turns, round
after round, and each time is compared with that of another way in the same round. Both clocks are kept; the ratios are
those of CPU time on a CPU with one thread, which other work on the machine disturbs less, otherwise of wall time.
Memory is the most that was allocated at once beyond models and prompts.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cat_book.build.manifest import now
from torch.nn.utils.rnn import pad_sequence

from benchmarks.measure import clock, command, in_turns, manifest, markdown, peak_bytes, say, write
from cat_core import inference
from cat_core.cascade import CascadeRunner, Request
from cat_core.inference import EXACT_RULES, EarlyExit
from cat_core.router import route
from cat_core.tasks.synthetic import MiniSuperGlue, MiniWmt, mini_superglue, mini_wmt
from cat_core.training.models import ModelSize, build_model, train_tokenizer
from cat_core.training.train import TrainSettings, train
from cat_core.training.training_set import TrainingSet

RATES = (0.1, 0.3, 0.6)
TOKENS = 360  # of the tokenizer: few, so that a translation takes many of them
RULES = {"generated": ("chow_average", *EXACT_RULES), "options": ("option_probability",)}  # the first of them routes
CLOCKS = ("cpu_seconds", "wall_seconds")


@dataclass(frozen=True)
class Sizes:
    """Of one run: both models, training steps, values of V, queries of each kind, rows of a batch, longest answer."""

    small: ModelSize
    large: ModelSize
    steps: int
    vocabularies: tuple[int, ...]
    items: int
    batch: int
    new_tokens: int


SIZES = {
    "cpu": Sizes(ModelSize(64, 2, 2), ModelSize(256, 4, 4), 100, (8_000, 32_000), 256, 64, 32),
    "cuda": Sizes(ModelSize(512, 8, 8), ModelSize(2048, 16, 16), 100, (8_000, 32_000, 128_000), 1024, 64, 32),
    "quick": Sizes(ModelSize(16, 1, 1), ModelSize(32, 2, 2), 20, (500, 1_000), 24, 8, 16),
}


class Inputs:
    """Trained models, their tokenizer, and queries of both kinds."""

    def __init__(self, sizes: Sizes, device: str, dtype: torch.dtype):
        self.sizes, self.device, self.dtype = sizes, device, dtype
        few = {"train": 4_000, "calibration": 6, "test": sizes.items}
        words = MiniWmt(nouns=40, verbs=20, adjectives=16, adverbs=8, **few)
        suites = {"generated": mini_wmt(words), "options": mini_superglue(MiniSuperGlue(**few))}
        learnt = [e for examples in suites.values() for e in examples if e.split == "train"]
        self.tokenizer = train_tokenizer([text for e in learnt for text in (e.prompt, e.target)], TOKENS)
        self.requests = {
            kind: [Request(e.item_id, e.prompt, e.options) for e in examples if e.split == "test"]
            for kind, examples in suites.items()
        }
        settings = TrainSettings(steps=sizes.steps, batch_size=32, learning_rate=4e-3 if device == "cpu" else 1e-3)
        self.models = {}
        for seed, which in enumerate(("small", "large")):
            self.models[which] = build_model(getattr(sizes, which), self.tokenizer, seed)
            rows = TrainingSet(learnt, self.tokenizer, getattr(sizes, which).context)
            with tempfile.TemporaryDirectory() as folder:
                train(self.models[which], rows, settings, Path(folder), use_cpu=device == "cpu")

    def runner(self, vocabulary: int) -> CascadeRunner:
        """The cascade with output matrices of `vocabulary` rows, those beyond the tokenizer's like that of padding."""
        pair = [copy.deepcopy(model) for model in self.models.values()]
        for model in pair:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
            weight = model.get_output_embeddings().weight.data
            weight[len(self.tokenizer) :] = weight[self.tokenizer.pad_token_id]
            model.to(self.dtype).eval()
        longest = self.sizes.new_tokens
        runner = CascadeRunner(*pair, self.tokenizer, max_new_tokens=longest, device=self.device)
        width = max(len(item.prompt) for item in runner.items(self.requests["generated"]))
        runner.batch_tokens = self.sizes.batch * (width + longest)
        return runner


def ratio(times: np.ndarray, base: np.ndarray, device: str) -> dict:
    """How long one way takes against another, round by round: median and range by the clock that counts."""
    values = times / base
    counted = values[:, clock(device)]
    return {
        "ratio": statistics.median(counted),
        "ratio_range": [counted.min(), counted.max()],
        "wall_ratio": statistics.median(values[:, 1]),
        **{name: [round(value, 4) for value in column] for name, column in zip(CLOCKS, times.T.tolist())},
    }


# ----------------------------------------------------------------- the cascade


def threshold(confidence: np.ndarray, rate: float) -> float:
    """The middle between the two confidences that a deferral of this share of the queries parts."""
    ordered, count = np.sort(confidence), max(1, round(rate * len(confidence)))
    return float(ordered[count - 1] + ordered[count]) / 2


def cascade_rows(inputs: Inputs, vocabulary: int, kind: str, rounds: int) -> tuple[list[dict], list[dict]]:
    """(rows of the cascade's time, rows of what early exit saves) for one V and one kind of query."""
    runner, requests, device = inputs.runner(vocabulary), inputs.requests[kind], inputs.device
    answers = runner.answer(requests)
    large = [r.flops for r in runner.answer(requests, "large")]
    rules = RULES[kind]
    confidence = {rule: np.array([r.confidences[rule] for r in answers]) for rule in rules}
    taus = {(rule, rate): threshold(confidence[rule], rate) for rule in rules for rate in RATES}
    ways = {"S": lambda: runner.answer(requests), "L": lambda: runner.answer(requests, "large")}
    deferred, exits = {}, {}
    for rate in RATES:
        ways[rate] = partial(runner.run, requests, taus[rules[0], rate], rules[0])
        deferred[rate] = ways[rate]().deferred
    saving = kind == "generated" and vocabulary == inputs.sizes.vocabularies[0]  # much the same at every V
    for rule, rate in [key for key in taus if saving and key[0] in EXACT_RULES]:
        ways[rule, rate] = partial(runner.answer, requests, early_exit=EarlyExit(rule, taus[rule, rate]))
        exits[rule, rate] = ways[rule, rate]()
    times = in_turns(ways, rounds, device)
    common = {"vocabulary": vocabulary, "kind": kind, "queries": len(requests)}
    cascade = []
    for rate in RATES:
        share, work = float(deferred[rate].mean()), float(np.dot(deferred[rate], large)) / sum(large)
        row = {
            "rule": rules[0],
            "deferral_rate": share,
            "large_flops_share": work,  # above d where the queries that are deferred have long answers
            "large_against_small": float(np.median((times["L"] / times["S"])[:, clock(device)])),
            "ratio_by_flops": ratio(times[rate], times["S"] + work * times["L"], device)["ratio"],
        }
        cascade.append(common | row | ratio(times[rate], times["S"] + share * times["L"], device))
    saved = []
    for (rule, rate), found in exits.items():
        late = route([r.confidences[rule] for r in found], taus[rule, rate])
        tokens, flops = (
            [sum(getattr(r, name) for r in some) for some in (answers, found)] for name in ("n_generated", "flops")
        )
        row = {
            "rule": rule,
            "deferral_rate": float(late.mean()),
            "other_decisions": int((late != (confidence[rule] <= taus[rule, rate])).sum()),
            "unfinished": sum(r.unfinished for r in found),
            "tokens_saved": 1 - tokens[1] / tokens[0],
            "flops_saved": 1 - flops[1] / flops[0],
        }
        saved.append(common | row | ratio(times[rule, rate], times["S"], device))
    return cascade, saved


# ------------------------------------------------------------------- one batch


def left_padded(rows: list[list[int]], pad: int, device: str) -> dict[str, torch.Tensor]:
    """Prompts as transformers' generate() takes them."""
    join = partial(pad_sequence, batch_first=True, padding_side="left")
    ids = join([torch.tensor(row) for row in rows], padding_value=pad).to(device)
    mask = join([torch.ones(len(row), dtype=torch.int64) for row in rows]).to(device)
    return {"input_ids": ids, "attention_mask": mask}


def generate(model, inputs: dict, eos: int, pad: int, steps: int) -> list[tuple[list[int], list[float]]]:
    """transformers' generate() with scores, then compute_transition_scores: tokens and log-probabilities of a batch."""
    special = {"eos_token_id": eos, "pad_token_id": pad}
    made = model.generate(
        **inputs, **special, max_new_tokens=steps, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    logprobs = model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)
    tokens = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    counts = [row.index(eos) + 1 if eos in row else len(row) for row in tokens]
    return [(row[:n], values[:n]) for row, values, n in zip(tokens, logprobs.tolist(), counts)]


@contextmanager
def finished_rows_kept() -> Iterator[None]:
    """Inference without compaction."""
    share, inference.BUSY_SHARE = inference.BUSY_SHARE, -1.0
    try:
        yield
    finally:
        inference.BUSY_SHARE = share


def batch_ways(runner: CascadeRunner, which: str, requests: list[Request], device: str) -> dict[str, Callable]:
    """Ways to the tokens and log-probabilities of one batch; the runner's own first, whose text and rules come free."""
    model, (eos, pad), steps = runner.models[which], (runner.text.eos, runner.pad), runner.max_new_tokens
    single = copy.copy(runner)
    single.batch_tokens = 1
    prompts = [item.prompt for item in runner.items(requests)]
    batch, queries = left_padded(prompts, pad, device), [left_padded([row], pad, device) for row in prompts]

    def own(runner):
        return [(r.tokens, r.token_logprobs) for r in runner.answer(requests, which)]

    def kept():
        with finished_rows_kept():
            return own(runner)

    return {
        "runner": lambda: own(runner),
        "runner, finished rows kept": kept,
        "runner, one by one": lambda: own(single),
        "generate": lambda: generate(model, batch, eos, pad, steps),
        "generate, one by one": lambda: [generate(model, query, eos, pad, steps)[0] for query in queries],
    }


@torch.no_grad()
def reference(model, prompt: list[int], tokens: list[int]) -> list[float]:
    """Log-probabilities of an answer, read alone and without a cache; softmax in float64."""
    logits = model(torch.tensor([prompt + tokens], device=model.device), use_cache=False).logits[
        0, len(prompt) - 1 : -1
    ]
    return logits.double().log_softmax(-1)[range(len(tokens)), tokens].tolist()


def batch_rows(inputs: Inputs, vocabulary: int, which: str, rounds: int) -> list[dict]:
    """One row for each way to answer one batch by one model.

    same_answers: how many have the runner's tokens; error: the most by which a log-probability of these is off.
    """
    runner, requests = inputs.runner(vocabulary), inputs.requests["generated"][: inputs.sizes.batch]
    ways, rows = batch_ways(runner, which, requests, inputs.device), {}
    expected = ways["runner"]()
    lengths = [len(tokens) for tokens, _ in expected]
    common = {"vocabulary": vocabulary, "model": which, "queries": len(requests)}
    common |= {"mean_tokens": statistics.mean(lengths), "longest": max(lengths)}
    prompts = [item.prompt for item in runner.items(requests)]
    right = [reference(runner.models[which], prompt, tokens) for prompt, (tokens, _) in zip(prompts, expected)]
    for name, way in ways.items():
        alike = [(b, c) for (a, b), (tokens, _), c in zip(way(), expected, right, strict=True) if a == tokens]
        error = max((np.abs(np.subtract(b, c)).max() for b, c in alike), default=None)
        memory = None if name.endswith("one by one") else peak_bytes(way, inputs.device)
        rows[name] = common | {"way": name, "same_answers": len(alike), "error": error, "memory": memory}
    times = in_turns(ways, rounds, inputs.device)
    return [row | ratio(times[name], times["runner"], inputs.device) for name, row in rows.items()]


def memory_rows(inputs: Inputs, vocabulary: int) -> list[dict]:
    """Peak of S on one batch, none of whose rows ever ends, at several lengths of the answers."""
    runner, steps = inputs.runner(vocabulary), inputs.sizes.new_tokens
    model, pad, batch = runner.models["small"], runner.pad, inputs.sizes.batch
    prompts = [item.prompt for item in runner.items(inputs.requests["generated"][:batch])]
    padded, never = left_padded(prompts, pad, inputs.device), vocabulary  # an id that is not there

    def own(count):
        with inference.answering(model):
            given = {"stop_ids": {never}, "pad": pad, "vocab": vocabulary, "max_new_tokens": count}
            return inference.generate_batch(model, prompts, **given)

    ways, rows = {"runner": own, "generate": partial(generate, model, padded, never, pad)}, []
    for count in (steps // 4, steps // 2, steps):
        for name, way in ways.items():
            way(count)
            peak = peak_bytes(partial(way, count), inputs.device)
            row = {"vocabulary": vocabulary, "rows": batch, "steps": count, "way": name, "memory": peak}
            rows.append(row | {"of_one_step": peak / (batch * vocabulary * inputs.dtype.itemsize)})
    return rows


# --------------------------------------------------------------------- results


RATIO = "{ratio:.2f} ({ratio_range[0]:.2f} to {ratio_range[1]:.2f})"
TABLES = {
    "cascade": f"""
| V | queries | d | L's FLOPs | T_L / T_S | time / (T_S + d T_L) (range) | by L's FLOPs |
|--:|---|--:|--:|--:|--:|--:|
| {{vocabulary:,}} | {{queries}} {{kind}} | {{deferral_rate:.2f}} | {{large_flops_share:.2f}} \
| {{large_against_small:.1f}} | {RATIO} | {{ratio_by_flops:.2f}} |
""",
    "early_exit": f"""
| V | early exit by | d | S's tokens saved | S's FLOPs saved | time / S's without (range) |
|--:|---|--:|--:|--:|--:|
| {{vocabulary:,}} | {{rule}} | {{deferral_rate:.2f}} | {{tokens_saved:.0%}} | {{flops_saved:.0%}} | {RATIO} |
""",
    "batch": f"""
| V | model | one batch by | same answers | error | time / runner's (range) | MiB |
|--:|---|---|--:|--:|--:|--:|
| {{vocabulary:,}} | {{model}} | {{way}} | {{same_answers}} of {{queries}} | {{error:.0e}} | {RATIO} \
| {{memory!m:,.1f}} |
""",
    "memory": """
| V | steps | way | MiB | of one step's logits |
|--:|--:|---|--:|--:|
| {vocabulary:,} | {steps} | {way} | {memory!m:,.1f} | {of_one_step:.1f} |
""",
}


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print the tables, and write `benchmarks/results/runner-<device>.json` unless `--quick`."""
    given = command("runner", __doc__.splitlines()[0], 3, arguments)
    sizes, rounds = SIZES[given.size], given.repeats
    start, about = now(), manifest(given)
    inputs = Inputs(sizes, given.device, given.dtype)
    say("trained")
    results = {part: [] for part in TABLES}
    for vocabulary in sizes.vocabularies:
        results["memory"] += memory_rows(inputs, vocabulary)
        say(f"memory, V {vocabulary:,}")
        # L one by one at a large V would take most of the time
        for which in ("small", "large") if vocabulary == sizes.vocabularies[0] else ("small",):
            results["batch"] += batch_rows(inputs, vocabulary, which, rounds)
            say(f"one batch, {which}, V {vocabulary:,}")
        for kind in RULES:
            rows, saved = cascade_rows(inputs, vocabulary, kind, rounds)
            results["cascade"] += rows
            results["early_exit"] += saved
            say(f"cascade, {kind}, V {vocabulary:,}")
    print("\n\n".join(markdown(table, results[part]) for part, table in TABLES.items()))
    write(given.out, about, start, {"rounds": rounds, "sizes": asdict(sizes), **results})
    return results


if __name__ == "__main__":
    main()
