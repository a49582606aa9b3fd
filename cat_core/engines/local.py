"""Engines on this machine, transformers and vLLM, and the cascade over any two engines.

The engine of transformers is the reference: exact log-probabilities near 1, margins, entropies, costs. Those of others
come from a log-softmax in float32 or less, so that answers that are nearly certain may tie.
"""

import json
from collections.abc import Sequence

from cat_core.cascade import CascadeRunner
from cat_core.engines.contract import Answer, Engine, EngineError, known_config, scored
from cat_core.engines.stops import Stops
from cat_core.queries import Request, check_settings
from cat_core.text import TextFormat
from cat_core.training.models import load_tokenizer


class TransformersEngine(Engine):
    """One of the two models of a `CascadeRunner`, or with `of` a model alone: the exact engine, and the default."""

    def __init__(self, runner: CascadeRunner, which: str = "small"):
        self.runner, self.which = runner, which
        self.config, self.prediction = runner.models[which].config, runner.prediction
        self.unknown_costs = runner.costs[which].unknown

    @classmethod
    def of(cls, model, tokenizer, **options) -> "TransformersEngine":
        """The engine of one model; options as for `CascadeRunner`."""
        return cls(CascadeRunner(model, model, tokenizer, **options))

    def describe(self):
        """See `Engine.describe`; the weights go by their sha256, or by the name that the runner was given."""
        return {"engine": "transformers"} | self.runner.describe(self.which)

    def generate(self, prompts):
        """See `Engine.generate`."""
        answers = []
        for r in self.runner.answer([Request(str(i), prompt) for i, prompt in enumerate(prompts)], self.which):
            numbers = r.tokens, r.token_logprobs, r.token_margins, r.token_entropies
            answers.append(Answer(r.prediction, r.n_prompt, r.n_generated, not r.truncated, *numbers))
        return answers

    def score(self, prompts, options):
        """See `Engine.score`."""
        requests = [Request(str(i), prompt, tuple(o)) for i, (prompt, o) in enumerate(zip(prompts, options))]
        items = self.runner.items(requests)
        scores = self.runner.scores(requests, self.which)
        return [scored(item.prompt, item.texts, item.options, rows) for item, rows in zip(items, scores)]

    def answer(self, requests, progress=None, store=None, early_exit=None):
        """`CascadeRunner.answer` itself, with its batches of like length and its store."""
        return self.runner.answer(requests, self.which, progress, store, early_exit)


class VllmEngine(Engine):
    """A model in vLLM on this machine's GPUs (offline, without a server). vLLM is imported here and only here.

    name: folder or Hub name of a model with its tokenizer; max_new_tokens, prediction: as in `CascadeRunner`;
    template, shots: as in `text.TextFormat`;
    stop, stop_ids: strings and token ids that end an answer besides the model's own end (see `stops`);
    options: of `vllm.LLM`, such as tensor_parallel_size or dtype. Prompts go in as token ids. Margins come from
    the two most probable tokens, entropies are not given. Raises EngineError where vLLM is not installed.
    """

    batch_items = 2048

    def __init__(
        self, name: str, *, max_new_tokens: int = 64, prediction: str = "sum", template: str = "plain", shots=None,
        stop: Sequence[str] = (), stop_ids: frozenset[int] = frozenset(), **options,
    ):  # fmt: skip
        check_settings(max_new_tokens, prediction)
        try:
            import vllm
        except ImportError as error:
            raise EngineError(f"vLLM cannot be imported ({error}): pip install vllm, or name a server of it") from None

        self.name, self.max_new_tokens, self.prediction, self.options = name, max_new_tokens, prediction, options
        self.text = TextFormat(load_tokenizer(name), template=template, stop=stop, shots=shots)
        self.stops = Stops.of(self.text, stop_ids)
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
            "text": self.text.describe(),
        } | self.stops.describe(self.text.eos)

    def generate(self, prompts):
        """See `Engine.generate`."""
        ids = self.text.prompts(prompts)
        params = self.params(temperature=0.0, max_tokens=self.max_new_tokens, logprobs=2, **vllm_stops(self.stops))
        results = (result.outputs[0] for result in self._run(ids, params))
        return [vllm_answer(self.text.tokenizer, self.stops, prompt, made) for prompt, made in zip(ids, results)]

    def score(self, prompts, options):
        """See `Engine.score`. Each option is read with its prompt as one sequence."""
        ids = self.text.prompts(prompts)
        tails = [self.text.targets([prompt] * len(row), row) for prompt, row in zip(prompts, options)]
        sequences = [prompt + tail for prompt, row in zip(ids, tails) for tail in row]
        results = iter(self._run(sequences, self.params(temperature=0.0, max_tokens=1, prompt_logprobs=2)))
        answers = []
        for prompt, texts, row in zip(ids, options, tails):
            numbers = [vllm_numbers(tail, next(results).prompt_logprobs[len(prompt) :]) for tail in row]
            answers.append(scored(prompt, texts, row, numbers))
        return answers

    def _run(self, sequences: list[list[int]], params) -> list:
        return self.llm.generate([{"prompt_token_ids": ids} for ids in sequences], params, use_tqdm=False)


def vllm_stops(stops: Stops) -> dict:
    """The fields of `vllm.SamplingParams` for what ends an answer."""
    return {
        "stop": list(stops.strings),
        "stop_token_ids": sorted(stops.ids),
        "include_stop_str_in_output": True,  # nothing is to be left out: it is cut here, as for every engine
    }


def vllm_answer(tokenizer, stops: Stops, prompt: list[int], made) -> Answer:
    """The answer of a `vllm.CompletionOutput`, up to its end."""
    tokens = list(made.token_ids)

    def text(count):
        return tokenizer.decode(tokens[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    end = stops.length(tokens, text)
    count = len(tokens) if end is None else end
    # a token that ends an answer by its id has no text in it
    shown = stops.before(text(count - bool(end and tokens[end - 1] in stops.ids)))
    numbers = vllm_numbers(tokens[:count], made.logprobs[:count])
    ended = end is not None or made.finish_reason == "stop"
    return Answer(shown.strip(), len(prompt), count, ended, tokens[:count], *numbers)


def vllm_numbers(tokens: Sequence[int], table: Sequence) -> tuple[list[float], list[float]]:
    """(log-probabilities, margins) of `tokens` from vLLM's table: of each position, token id -> entry with `logprob`.

    A position holds its two most probable tokens, and the one that stands there besides.
    """
    logprobs = [float(row[token].logprob) for token, row in zip(tokens, table, strict=True)]
    tops = [sorted((float(entry.logprob) for entry in row.values()), reverse=True) for row in table]
    return logprobs, [top[0] - top[1] for top in tops]


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
        responses = engine.answer(requests, progress, store, **more)
        for response in responses if which == "small" else ():
            if not response.confidences:
                raise EngineError(
                    f"item {response.item_id!r}: the small engine gave no log-probability for some of the "
                    f"{response.n_generated} tokens of its answer, so the answer has no confidence; take an engine "
                    "that gives one for every token, or leave the item out"
                )
        return responses
