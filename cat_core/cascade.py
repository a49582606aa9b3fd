"""The cascade: a small model answers every query, a large one again, whole, those the small one is unsure of.

Two transformers language models of one kind, causal or encoder-decoder, that share a tokenizer. Queries are
answered by greedy generation, those with answer options by scoring the options. `inference` does either for one
batch; this module checks the queries, plans the batches, keeps finished ones (`files.Store`), and turns raw
log-probabilities into answers with their confidences and costs.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from cat_core.architectures import check_one_kind, go_on, has_encoder, read_prompts, selected, start_token
from cat_core.confidence import answer_confidence, option_confidence
from cat_core.files import Store
from cat_core.flops import Costs
from cat_core.inference import EXACT_RULES, EarlyExit, answering, generate_batch, model_fingerprint, score_batch
from cat_core.queries import (
    UNCONDITIONAL,
    CascadeResult,
    Item,
    Response,
    best_option,
    check_requests,
    check_settings,
    plan_batches,
    run_batches,
)
from cat_core.queries import Request as Request
from cat_core.router import route
from cat_core.shapes.trial import check_padding
from cat_core.text import TextFormat

LOWEST = -float(np.finfo(np.float32).max)
"""The confidence of an answer that is to be deferred at every threshold but -inf, which defers nothing."""

RECORDS = "2: log-probability, margin and entropy of each token"
"""What the stored batches hold. Folders of another version are refused, so change it with the records."""


class CascadeRunner:
    """Runs queries through a small and a large model that share a tokenizer.

    small, large: language models of transformers, both causal or both encoder-decoder;
    tokenizer: the common one (EOS needed, BOS not);
    text: how it is used (default: plain prompts, no stop strings);
    batch_tokens: rows x (prompt + answer) tokens of one batch; an item with options takes a row an option;
    device: where both models are moved (default: they stay where they are);
    max_new_tokens: longest generated answer, EOS included;
    prediction: how an option is chosen, of `queries.PREDICTIONS`;
    truncate_prompts: cut plain prompts beyond the context on the left, keeping BOS, instead of refusing them;
    fingerprint: {"small": ..., "large": ...}, names of the weights for `store` (default: their sha256);
    costs: "formula", and None with a warning where a model has none, or "measured" there (`flops.Costs`).

    Logits beyond the smaller of the two vocabularies (padding of the output matrix) are cut off. Raises ValueError
    where a vocabulary is smaller than the tokenizer's, the models are of two kinds, or one of a type without a formula
    answers otherwise in a batch than alone (`shapes.trial`).
    """

    def __init__(
        self,
        small,
        large,
        tokenizer,
        *,
        batch_tokens: int = 16384,
        device=None,
        max_new_tokens: int = 64,
        prediction: str = "sum",
        truncate_prompts: bool = False,
        text: TextFormat | None = None,
        fingerprint: Mapping[str, str] | None = None,
        costs: str = "formula",
    ):
        check_settings(max_new_tokens, prediction, batch_tokens)
        self.models = {"small": small, "large": large}
        self.vocab = min(model.get_output_embeddings().weight.shape[0] for model in self.models.values())
        check_one_kind(small, large)
        self.encoder = has_encoder(small)
        self.costs = {which: Costs(model, costs) for which, model in self.models.items()}
        for which, model in self.models.items():
            columns = model.get_output_embeddings().weight.shape[0]
            if columns < len(tokenizer):
                raise ValueError(
                    f"the {which} model has {columns} output columns but the tokenizer {len(tokenizer)} "
                    "tokens: use the tokenizer both models were trained with"
                )
            if device is not None:
                model.to(device)
            start = start_token(model) if self.encoder else None
            if self.costs[which].measured or self.costs[which].unknown:
                check_padding(model, read_prompts, go_on, selected, start)
        if unknown := {which: cost.unknown for which, cost in self.costs.items() if cost.unknown}:
            who, why = " and the ".join(unknown), next(iter(unknown.values()))
            warnings.warn(f"FLOPs of the {who} model are unknown: {why}", stacklevel=2)
        contexts = [getattr(model.config, "max_position_embeddings", None) for model in self.models.values()]
        self.context = min((context for context in contexts if context), default=None)
        self.tokenizer = tokenizer
        self.batch_tokens, self.max_new_tokens = batch_tokens, max_new_tokens
        self.prediction, self.truncate_prompts = prediction, truncate_prompts
        self.fingerprint = dict(fingerprint or {})
        self.text = TextFormat(tokenizer, encoder=self.encoder) if text is None else text
        if self.text.encoder != self.encoder:
            raise ValueError(f"these models need a TextFormat with encoder={self.encoder}")
        self.text.check_cut(truncate_prompts)
        self.bare = self.text.prompts([UNCONDITIONAL]) if prediction == "pmi" else []  # read beside each prompt
        self.stop_ids = {which: self.text.stop_ids(model) for which, model in self.models.items()}
        self.pad = self.text.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def answer(
        self, requests: Sequence, which: str = "small", progress=None, store=None, early_exit: EarlyExit | None = None
    ) -> list[Response]:
        """Answers of one model ("small" or "large") to every request, in request order.

        requests: `Request`s or anything with item_id, prompt and options, such as `tasks.example.Example`;
        progress: True for a bar, or a function of (items done, items in all);
        store: folder of finished batches; a killed run goes on from there and ends with the same bits;
        early_exit: leave generated answers unfinished where it is certain; never in a folder of whole ones.
        Raises one-line ValueErrors that name the item, before anything is computed where that is possible.
        """
        if which not in self.models:
            raise ValueError(f"unknown model {which!r}: choose 'small' or 'large'")
        items, model = self.items(requests), self.models[which]
        kept = None if store is None else Store(store, self._description(items, which, early_exit))
        read = partial(self._responses, which)
        compute = partial(self._compute, model, which=which, early_exit=early_exit)
        with answering(model):
            return run_batches(items, self._plan(items), compute, read, kept, progress, f"{which} model")

    def run(
        self, requests: Sequence, tau: float, rule: str = "chow_average", progress=None, store=None,
        early_exit: bool = False, defer_empty: bool = False,
    ) -> CascadeResult:  # fmt: skip
        """The whole cascade: S on all requests, then L on those with confidence <= tau (see `router.route`).

        rule: a key of `Response.confidences`. store: folder as in `answer`, in it one for S and one for each
        deferred set of L, so that another threshold finds S's answers again.
        early_exit: stop S's answer as soon as its deferral is certain (`inference.EarlyExit`: rules "chow_sum" and
        "chow_quantile_0"). Decisions and final answers stay the same, as far as a batch of other rows rounds alike (see
        `inference`), and `flops` holds what was spent. Queries with options are scored whole. In the store S then has a
        folder for each rule and tau.
        defer_empty: as in `confidence_of`.
        """
        requests = list(requests)
        exits = EarlyExit(rule, tau) if early_exit else None
        # whole answers of S in one folder, unfinished ones by rule and threshold
        name = "small" if exits is None else f"small-{hashlib.sha256(repr(exits).encode()).hexdigest()[:16]}"
        folder = None if store is None else Path(store) / name
        small = self.answer(requests, "small", progress, folder, exits)
        confidence = confidence_of(small, rule, defer_empty)
        deferred = np.asarray(route(confidence, tau), dtype=bool)
        large: list[Response | None] = [None] * len(requests)
        chosen = np.flatnonzero(deferred).tolist()
        if chosen:
            deferred_ids = json.dumps([small[i].item_id for i in chosen]).encode()
            name = f"large-{hashlib.sha256(deferred_ids).hexdigest()[:16]}"
            folder = None if store is None else Path(store) / name
            answers = self.answer([requests[i] for i in chosen], "large", progress, folder)
            for i, response in zip(chosen, answers):
                large[i] = response
        return CascadeResult(float(tau), rule, confidence, deferred, small, large)

    def scores(self, requests: Sequence, which: str = "small") -> list[list[list[list[float]]]]:
        """Of every option of every request: [log-probabilities, margins, entropies], one of each a token."""
        items, model = self.items(requests), self.models[which]
        compute = partial(self._compute, model, which=which)
        with answering(model):
            return run_batches(items, self._plan(items), compute, lambda _, rows: rows)

    def items(self, requests: Sequence) -> list[Item]:
        """Requests as token ids, as the models read them, after every check that needs no model."""
        requests = check_requests(requests)
        tasks = [getattr(request, "task", "") for request in requests]
        prompts = self.text.prompts([request.prompt for request in requests], tasks)
        pairs = [(request.prompt, option) for request in requests for option in request.options]
        options = iter(self.text.targets(*zip(*pairs)) if pairs else ())
        return [
            self._item(request, prompt, [next(options) for _ in request.options])
            for request, prompt in zip(requests, prompts)
        ]

    def _item(self, request, prompt: list[int], options: list[list[int]]) -> Item:
        """One request in ids, fitted to the context of both models."""
        name = request.item_id
        if not prompt:
            raise ValueError(f"item {name!r} has an empty prompt, and the tokenizer has no BOS to start from")
        for ids in (prompt, *options):
            if not 0 <= min(ids) <= max(ids) < self.vocab:
                raise ValueError(f"item {name!r} has token ids outside the vocabulary 0 .. {self.vocab - 1}")
        if len({tuple(option) for option in options}) < len(options):
            raise ValueError(f"item {name!r} has two options with the same tokens: they cannot be told apart")
        answer = max(map(len, options)) if options else self.max_new_tokens
        shortened = self.context is not None and len(prompt) + answer > self.context
        if shortened:
            room, head = self.context - answer, self.text.head
            if room <= len(head):
                raise ValueError(
                    f"item {name!r}: an answer of up to {answer} tokens leaves no room for a prompt in a "
                    f"context of {self.context}: lower max_new_tokens or shorten the options"
                )
            if not self.truncate_prompts:
                raise ValueError(
                    f"item {name!r} has a prompt of {len(prompt)} tokens but {room} fit beside an answer of "
                    f"{answer} in a context of {self.context}: shorten it, or set truncate_prompts=True"
                )
            prompt = head + prompt[len(prompt) - room + len(head) :]
        if options and self.context is not None and any(len(bare) + answer > self.context for bare in self.bare):
            raise ValueError(f"item {name!r}: an option of {answer} tokens does not fit behind {UNCONDITIONAL!r} in a "
                             f"context of {self.context}: shorten it, or choose another prediction")  # fmt: skip
        return Item(name, prompt, options, tuple(request.options), shortened)

    def _plan(self, items: list[Item]) -> list[list[int]]:
        """Batches of item indices: those that generate, then those with options; no batch mixes them."""
        plan = []
        for scored in (False, True):
            places = [i for i, item in enumerate(items) if bool(item.options) == scored]
            lengths = [
                (len(item.prompt), max(map(len, item.options), default=self.max_new_tokens), max(1, len(item.options)))
                for item in (items[i] for i in places)
            ]
            plan += [[places[j] for j in batch] for batch in plan_batches(lengths, self.batch_tokens)]
        return plan

    def _description(self, items: list[Item], which: str, early_exit: EarlyExit | None) -> dict:
        """All that the stored numbers depend on; not the rules, which are applied to what is stored."""
        digest = hashlib.sha256()
        for item in items:
            digest.update(json.dumps([item.item_id, item.prompt, item.options]).encode())
        plan = {"records": RECORDS, "items": f"{len(items)} {digest.hexdigest()}"} | self.describe(which)
        plan |= {"unconditional": self.bare} if self.bare else {}
        return plan | ({} if early_exit is None else {"early exit": repr(early_exit)})

    def describe(self, which: str = "small") -> dict:
        """All that the numbers of one model depend on, besides what is asked, as plain JSON."""
        model = self.models[which]
        return {
            "model": self.fingerprint.get(which) or model_fingerprint(model),
            "max_new_tokens": self.max_new_tokens,
            "batch_tokens": self.batch_tokens,
            "vocabulary": self.vocab,
            "text": self.text.describe() | {"pad": self.pad, "stop ids": sorted(self.stop_ids[which])},
            "dtype": str(model.dtype),
            "device": model.device.type,
            "attention": str(getattr(model.config, "_attn_implementation", None)),
            "versions": [torch.__version__, transformers.__version__],
        }

    def _compute(self, model, items: list[Item], which: str, early_exit: EarlyExit | None = None) -> list[list[list]]:
        """Raw numbers of one batch, as `inference.generate_batch` or `inference.score_batch` gives them."""
        prompts = [item.prompt for item in items]
        common = {"pad": self.pad, "vocab": self.vocab}
        if items[0].options:
            options = [item.options for item in items]
            asked = [prompts, *([bare] * len(items) for bare in self.bare)]
            parts = [score_batch(model, read, options, batch_tokens=self.batch_tokens, **common) for read in asked]
            records = [sum(rows, []) for rows in zip(*parts)]
            totals = [sum(sum(logprobs) for logprobs, *_ in rows) for rows in records]
        else:
            common |= {"stop_ids": self.stop_ids[which], "stopped": self.text.stopped if self.text.stop else None}
            common |= {"max_new_tokens": self.max_new_tokens, "early_exit": early_exit}
            made = generate_batch(model, prompts, **common)
            records = [list(record) for record in made]
            totals = [sum(logprobs) for _, logprobs, *_ in records]
        for item, total in zip(items, totals):
            if not math.isfinite(total):
                raise ValueError(
                    f"the {which} model gives NaN or infinite logits on item {item.item_id!r}: its weights "
                    "are damaged, or its number type overflows (try float32)"
                )
        return records

    def _responses(self, which: str, items: list[Item], records: list[list[list]]) -> list[Response]:
        """Answers, confidences and costs from the raw numbers of one batch."""
        read = self._chosen if items[0].options else self._generated
        texts, answers, costs, sums, table = read(which, items, records)
        columns = [_right_padded(rows) for rows in list(zip(*answers))[1:]]
        rules = answer_confidence(*(padded for padded, _ in columns), columns[0][1])
        table = {name: values.tolist() for name, values in rules.items()} | table
        responses = []
        for i, (item, (tokens, logprobs, margins, entropies)) in enumerate(zip(items, answers)):
            text, ended = texts[i]
            unfinished = not ended and len(tokens) < self.max_new_tokens
            known = EXACT_RULES if unfinished else table
            answer = {"prediction": text, "tokens": tokens, "n_prompt": len(item.prompt), "n_generated": len(tokens)}
            answer |= {"token_logprobs": logprobs, "token_margins": margins, "token_entropies": entropies}
            answer |= {"option_logprobs": sums[i], "confidences": {name: table[name][i] for name in known}}
            answer |= {"truncated": not ended and not unfinished, "unfinished": unfinished, "flops": costs[i]}
            responses.append(Response(item.item_id, prompt_truncated=item.shortened, **answer))
        return responses

    def _generated(self, which: str, items: list[Item], records: list[list[list]]):
        """(text, ended), records, costs, no option sums and no option rules of generated answers."""
        texts = self.text.read([tokens for tokens, *_ in records], self.stop_ids[which])
        cost = self.costs[which]
        costs = [cost.request(len(item.prompt), len(ids)) for item, (ids, *_) in zip(items, records)]
        return texts, records, costs, [[] for _ in items], {}

    def _chosen(self, which: str, items: list[Item], records: list[list[list]]):
        """(text, ended), records, costs, option sums and option rules of answers chosen among options."""
        sums = [[math.fsum(logprobs) for logprobs, *_ in rows] for rows in records]
        best = [best_option(row, item.texts, map(len, item.options), self.prediction) for item, row in zip(items, sums)]
        sums = [row[: len(item.texts)] for item, row in zip(items, sums)]
        rules = option_confidence(*_right_padded(sums), torch.tensor(best))
        texts = [(item.texts[k], True) for item, k in zip(items, best)]
        answers = [(item.options[k], *rows[k]) for item, k, rows in zip(items, best, records)]
        cost = self.costs[which]
        read = [(len(item.prompt), *map(len, self.bare)) for item in items]
        paid = [[cost.options(n, list(map(len, item.options))) for n in row] for item, row in zip(items, read)]
        costs = [None if None in parts else sum(parts) for parts in paid]
        return texts, answers, costs, sums, {name: value.tolist() for name, value in rules.items()}


def confidence_of(responses: Sequence[Response], rule: str, defer_empty: bool = False) -> np.ndarray:
    """Confidence of answers by a key of `Response.confidences`, float64 [n]. Raises ValueError where one lacks it.

    defer_empty: LOWEST where the answer is empty, so that every finite threshold defers it first. A model that says
    nothing is often very sure of it.
    """
    for response in responses:
        if rule not in response.confidences:
            raise ValueError(
                f"item {response.item_id!r} has no confidence {rule!r}: it has {', '.join(response.confidences)}"
            )
    values = [LOWEST if defer_empty and r.empty else r.confidences[rule] for r in responses]
    return np.array(values, dtype=np.float64)


def _right_padded(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Ragged rows as float64 [B, T] with their boolean mask."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.zeros(mask.shape, dtype=torch.float64)
    padded[mask] = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    return padded, mask


if __name__ == "__main__":
    import runpy  # a door: the command line is in a room above, which nothing here may import

    runpy.run_module("cat_core.engines.command", run_name="__main__")
