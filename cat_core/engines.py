"""Engines: whatever answers queries and says how probable each token was. Transformers here, vLLM, or a server.

An engine gives two things: greedy answers with the log-probability of every token (`generate`), and the
log-probabilities of given options (`score`). `Engine.answer` makes of them what the cascade needs, finished
batches kept on disk, and `EngineCascade` runs any two engines as small and large model. A server is in `server`.

The engine of transformers is the reference: exact log-probabilities near 1, margins, entropies, costs. Others
give what they give, and nothing is guessed: rules whose numbers an engine lacks are left out of the confidences,
FLOPs are counted where the model's configuration is at hand, and are None elsewhere. Their log-probabilities come
from a log-softmax in float32 or less, so that answers that are nearly certain may tie.

Token conventions are those of `tokens`, where the engine takes token ids.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch

from cat_core.cascade import CascadeRunner
from cat_core.confidence import answer_confidence, option_confidence
from cat_core.flops import option_flops, request_flops, shape_of
from cat_core.queries import PREDICTIONS, Request, Response, best_option, check_requests, progress_line
from cat_core.store import Store
from cat_core.tokens import encode_prompts, encode_targets

RECORDS = "1: answers of engines"
"""What the stored batches hold, as in `cascade.RECORDS`."""


class EngineError(RuntimeError):
    """An engine cannot do what is asked of it, or does not answer. The message is one line."""


@dataclass(frozen=True)
class Answer:
    """What an engine produced for one prompt, or its reading of one option.

    text: without special tokens and outer white space, or the option as given; n_prompt, n_generated: token
    counts, BOS and EOS included as far as the engine counts them, 0 = not known; ended: EOS was reached;
    tokens: ids, or texts where the engine knows no ids; logprobs: natural-log probability of each token. Both are
    empty where the engine did not give one for every token. margins, entropies: as in `queries.Response`, empty
    where the engine does not give them.
    """

    text: str
    n_prompt: int
    n_generated: int
    ended: bool
    tokens: list[int] | list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


class Engine:
    """The protocol: `generate`, `score` and `describe` are an engine's own, `answer` is common to all.

    batch_items: queries of one stored batch; prediction: "sum" or "average", as in `CascadeRunner`;
    config: the model's transformers configuration, or None where it is not known.
    """

    batch_items = 128
    prediction = "sum"
    config = None

    def generate(self, prompts: Sequence[str]) -> list[Answer]:
        """Greedy answers, in the order of the prompts."""
        raise NotImplementedError

    def score(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[list[Answer]]:
        """The given options of each prompt, every one with its log-probabilities, EOS included."""
        raise NotImplementedError

    def describe(self) -> dict:
        """All that the numbers of this engine depend on, as plain JSON: a store of another engine is refused."""
        raise NotImplementedError

    def answer(self, requests: Sequence, progress=None, store=None) -> list[Response]:
        """Answers to requests, in their order; arguments and errors as in `CascadeRunner.answer`."""
        requests = check_requests(requests)
        digest = hashlib.sha256(json.dumps([[r.item_id, r.prompt, list(r.options)] for r in requests]).encode())
        plan = {"records": RECORDS, "items": f"{len(requests)} {digest.hexdigest()}", "batch_items": self.batch_items}
        kept = None if store is None else Store(store, plan | self.describe())
        show, close = progress_line(progress, "engine", len(requests))
        responses: list = [None] * len(requests)
        finished = 0
        try:
            for number, batch in enumerate(self._plan(requests)):
                members = [requests[i] for i in batch]
                records = kept.load(number) if kept else None
                if records is None:
                    records = [[asdict(answer) for answer in answers] for answers in self._compute(members)]
                    if kept:
                        kept.save(number, records)
                for i, request, answers in zip(batch, members, records):
                    responses[i] = self._response(request, [Answer(**answer) for answer in answers])
                finished += len(batch)
                show(finished)
        finally:
            close()
        return responses

    def _plan(self, requests: list) -> list[list[int]]:
        """Batches of places: those that generate, then those with options; long prompts first, as they may not fit."""
        plan = []
        for scored in (False, True):
            places = [i for i, request in enumerate(requests) if bool(request.options) == scored]
            places.sort(key=lambda i: -len(requests[i].prompt))
            plan += [places[i : i + self.batch_items] for i in range(0, len(places), self.batch_items)]
        return plan

    def _compute(self, requests: list) -> list[list[Answer]]:
        prompts = [request.prompt for request in requests]
        if requests[0].options:
            found = self.score(prompts, [request.options for request in requests])
        else:
            found = [[answer] for answer in self.generate(prompts)]
        for request, answers in zip(requests, found, strict=True):
            if not all(math.isfinite(value) for answer in answers for value in answer.logprobs):
                raise EngineError(
                    f"item {request.item_id!r}: the engine gives NaN or infinite log-probabilities: its weights are "
                    "damaged, or its number type overflows"
                )
        return found

    def _response(self, request, answers: list[Answer]) -> Response:
        """The response with the confidences and costs that the numbers at hand define."""
        table: dict[str, float] = {}
        sums, best = [], 0
        if request.options:
            sums = [math.fsum(answer.logprobs) for answer in answers]
            best = best_option(sums, [len(answer.logprobs) for answer in answers], self.prediction)
            table |= _values(option_confidence(torch.tensor([sums], dtype=torch.float64), chosen=torch.tensor([best])))
        answer = answers[best]
        if answer.logprobs:
            rows = (answer.logprobs, answer.margins or None, answer.entropies or None)
            logprobs, margins, entropies = (
                None if row is None else torch.tensor([row], dtype=torch.float64) for row in rows
            )
            mask = torch.ones(logprobs.shape, dtype=torch.bool)
            table = _values(answer_confidence(logprobs, margins, entropies, mask)) | table
        flops = None
        if self.config is not None and answer.n_prompt and request.options:
            flops = option_flops(self.config, answer.n_prompt, [each.n_generated for each in answers])
        elif self.config is not None and answer.n_prompt and answer.n_generated:
            flops = request_flops(self.config, answer.n_prompt, answer.n_generated)
        return Response(
            item_id=request.item_id,
            prediction=answer.text,
            n_prompt=answer.n_prompt,
            n_generated=answer.n_generated,
            truncated=not answer.ended,
            token_logprobs=answer.logprobs,
            flops=flops,
            confidences=table,
            tokens=answer.tokens,
            option_logprobs=sums,
            token_margins=answer.margins,
            token_entropies=answer.entropies,
        )


def _values(rules: dict) -> dict[str, float]:
    return {name: value.item() for name, value in rules.items()}


class TransformersEngine(Engine):
    """One of the two models of a `CascadeRunner`, or with `of` a model alone: the exact engine, and the default."""

    def __init__(self, runner: CascadeRunner, which: str = "small"):
        self.runner, self.which = runner, which
        self.config, self.prediction = runner.models[which].config, runner.prediction

    @classmethod
    def of(cls, model, tokenizer, **options) -> "TransformersEngine":
        """The engine of one model; options as for `CascadeRunner`."""
        return cls(CascadeRunner(model, model, tokenizer, **options))

    def generate(self, prompts):
        """See `Engine.generate`."""
        found = self.runner.answer([Request(str(i), prompt) for i, prompt in enumerate(prompts)], self.which)
        return [
            Answer(
                r.prediction,
                r.n_prompt,
                r.n_generated,
                not r.truncated,
                r.tokens,
                r.token_logprobs,
                r.token_margins,
                r.token_entropies,
            )
            for r in found
        ]

    def score(self, prompts, options):
        """See `Engine.score`."""
        requests = [Request(str(i), prompt, tuple(o)) for i, (prompt, o) in enumerate(zip(prompts, options))]
        items = self.runner.items(requests)
        return [
            [
                Answer(text, len(item.prompt), len(ids), True, ids, *row)
                for text, ids, row in zip(item.texts, item.options, rows)
            ]
            for item, rows in zip(items, self.runner.scores(requests, self.which))
        ]

    def answer(self, requests, progress=None, store=None, early_exit=None):
        """`CascadeRunner.answer` itself, with its batches of like length and its store."""
        return self.runner.answer(requests, self.which, progress, store, early_exit)


class VllmEngine(Engine):
    """A model in vLLM on this machine's GPUs (offline, without a server). vLLM is imported here and only here.

    name: folder or Hub name of a model with its tokenizer; max_new_tokens, prediction: as in `CascadeRunner`;
    options: of `vllm.LLM`, such as tensor_parallel_size or dtype. Prompts go in as token ids. Margins come from
    the two most probable tokens, entropies are not given. Raises EngineError where vLLM is not installed.
    """

    batch_items = 2048

    def __init__(self, name: str, *, max_new_tokens: int = 64, prediction: str = "sum", **options):
        check_settings(max_new_tokens, prediction)
        try:
            import vllm
        except ImportError as error:
            raise EngineError(f"vLLM cannot be imported ({error}): pip install vllm, or name a server of it") from None
        from cat_core.models import load_tokenizer

        self.name, self.max_new_tokens, self.prediction, self.options = name, max_new_tokens, prediction, options
        self.tokenizer = load_tokenizer(name)
        # "vllm": sampling settings of the model's generation_config.json would change greedy answers
        fixed = {"generation_config": "vllm", "trust_remote_code": False}
        self.llm = vllm.LLM(model=name, **(fixed | options))
        self.params, self.version = vllm.SamplingParams, vllm.__version__
        self.config = known_config(self.llm.llm_engine.model_config.hf_text_config)

    def describe(self):
        """See `Engine.describe`; the weights go by their name."""
        return {
            "engine": f"vllm {self.version}",
            "model": self.name,
            "options": json.loads(json.dumps(self.options, default=str)),
            "max_new_tokens": self.max_new_tokens,
        }

    def generate(self, prompts):
        """See `Engine.generate`."""
        ids = encode_prompts(self.tokenizer, prompts)
        params = self.params(temperature=0.0, max_tokens=self.max_new_tokens, logprobs=2)
        answers = []
        for prompt, result in zip(ids, self._run(ids, params)):
            made = result.outputs[0]
            tokens = list(made.token_ids)
            text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ended, numbers = made.finish_reason == "stop", vllm_numbers(tokens, made.logprobs)
            answers.append(Answer(text.strip(), len(prompt), len(tokens), ended, tokens, *numbers))
        return answers

    def score(self, prompts, options):
        """See `Engine.score`. Each option is read with its prompt as one sequence."""
        ids = encode_prompts(self.tokenizer, prompts)
        tails = [encode_targets(self.tokenizer, row) for row in options]
        sequences = [prompt + tail for prompt, row in zip(ids, tails) for tail in row]
        results = iter(self._run(sequences, self.params(temperature=0.0, max_tokens=1, prompt_logprobs=2)))
        return [
            [
                Answer(
                    text,
                    len(prompt),
                    len(tail),
                    True,
                    tail,
                    *vllm_numbers(tail, next(results).prompt_logprobs[len(prompt) :]),
                )
                for text, tail in zip(row, row_ids)
            ]
            for prompt, row, row_ids in zip(ids, options, tails)
        ]

    def _run(self, sequences: list[list[int]], params) -> list:
        return self.llm.generate([{"prompt_token_ids": ids} for ids in sequences], params, use_tqdm=False)


def vllm_numbers(tokens: Sequence[int], table: Sequence) -> tuple[list[float], list[float]]:
    """(log-probabilities, margins) of `tokens` from vLLM's table: of each position, token id -> entry with `logprob`.

    A position holds its two most probable tokens, and the one that stands there besides.
    """
    logprobs = [float(row[token].logprob) for token, row in zip(tokens, table, strict=True)]
    tops = [sorted((float(entry.logprob) for entry in row.values()), reverse=True) for row in table]
    return logprobs, [top[0] - top[1] for top in tops]


def check_settings(max_new_tokens: int, prediction: str) -> None:
    """A one-line ValueError for a setting that `CascadeRunner` would refuse."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be a whole number >= 1, got {max_new_tokens!r}")
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction rule {prediction!r}: choose {' or '.join(PREDICTIONS)}")


def known_config(config):
    """The configuration where its FLOPs can be counted exactly, else None: a cost is never guessed."""
    try:
        return None if config is None or shape_of(config).encoder is not None else config
    except ValueError:
        return None


class EngineCascade(CascadeRunner):
    """The cascade over two engines, of one kind or of two: `answer` and `run` are those of `CascadeRunner`.

    The engines tokenise by themselves, so that their tokenizers may differ.
    """

    def __init__(self, small: Engine, large: Engine):
        self.engines = {"small": small, "large": large}

    def answer(self, requests, which="small", progress=None, store=None, early_exit=None):
        """Answers of one engine ("small" or "large"); see `CascadeRunner.answer`. Early exit: of transformers alone."""
        if which not in self.engines:
            raise ValueError(f"unknown model {which!r}: choose 'small' or 'large'")
        engine, more = self.engines[which], {}
        if early_exit is not None:
            if not isinstance(engine, TransformersEngine):
                raise ValueError(f"early exit needs the engine of transformers, got {type(engine).__name__}")
            more["early_exit"] = early_exit
        found = engine.answer(requests, progress, store, **more)
        for response in found if which == "small" else ():
            if not response.confidences:
                raise EngineError(
                    f"item {response.item_id!r}: the small engine gave no log-probability for some of the "
                    f"{response.n_generated} tokens of its answer, so the answer has no confidence; take an engine "
                    "that gives one for every token, or leave the item out"
                )
        return found
