"""The engine of a server: any that has OpenAI's completions endpoint, such as vLLM's, llama.cpp's or SGLang's.

`POST <url>/completions` with temperature 0 and `logprobs`. Several requests are under way at once, as servers
batch by themselves; one that fails for a passing reason (429, 5xx, a broken connection, no answer in time) is sent
again after a growing pause. Nothing is contacted but the address given (through the environment's proxy, if it names
one); an API key comes from the environment.

Servers differ in what they return, and what is missing is found out, not assumed. Seen: transformers' own server
gives no log-probabilities; llama.cpp gives none for the tokens of a character that takes several, and does not
`echo` a prompt; vLLM does.
"""

import http.client
import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cat_core.engines.contract import Answer, Engine, EngineError, known_config, scored
from cat_core.queries import check_settings, encode_prompts, encode_targets
from cat_core.tasks.schema import brief

KEY_VARIABLE = "CAT_API_KEY"
PASSING = (408, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 60.0
FORCED = 100
"""The greatest logit bias of the OpenAI protocol: a token with it is the one that is produced."""


class ServerEngine(Engine):
    """One model of a server.

    url: up to and with /v1, as http://127.0.0.1:8000/v1; model: its name there (default: the only one served);
    tokenizer: that of the model: prompts then go as token ids, by the conventions of `queries`, and options can be
    scored; without it they go as text, which the server reads by its own settings, with a BOS or without;
    config: the model's transformers configuration, for its FLOPs; max_new_tokens, prediction: as in `CascadeRunner`;
    concurrency: requests under way at once; timeout: seconds to wait for one; attempts: how often a request is sent
    before giving up. The key, if the environment variable CAT_API_KEY has one, goes as a bearer token. Raises
    EngineError where no server answers or it lacks the model.

    vLLM must be started with `--generation-config vllm`, or it may apply a repetition penalty of the model's own.
    Margins come from the two most probable tokens of each produced one; entropies are not given.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        tokenizer=None,
        config=None,
        max_new_tokens: int = 64,
        prediction: str = "sum",
        concurrency: int = 8,
        timeout: float = 600.0,
        attempts: int = 6,
    ):
        check_settings(max_new_tokens, prediction)
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"a server's address begins with http:// or https://, got {url!r}")
        if concurrency < 1 or attempts < 1 or not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ValueError(
                "concurrency, attempts and timeout must be positive, and the timeout at most "
                f"{threading.TIMEOUT_MAX:g} seconds, got {concurrency}, {attempts}, {timeout}"
            )
        key = os.environ.get(KEY_VARIABLE, "")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{KEY_VARIABLE} holds a character that no key has (a line end, perhaps): set it again")
        self.url, self.tokenizer, self.config = url.rstrip("/"), tokenizer, known_config(config)
        self.max_new_tokens, self.prediction = max_new_tokens, prediction
        self.concurrency, self.timeout, self.attempts = concurrency, timeout, attempts
        self.batch_items = 16 * concurrency
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.echoes: bool | None = None  # whether the server echoes prompts; not known before the first option
        self.model = self._served(model)

    def describe(self):
        """See `Engine.describe`; the weights go by the server's address and the model's name."""
        return {
            "engine": "server",
            "model": f"{self.model} at {self.url}",
            "max_new_tokens": self.max_new_tokens,
            "prompts": "text" if self.tokenizer is None else "token ids",
        }

    def generate(self, prompts):
        """See `Engine.generate`. Raises EngineError for servers that give no log-probabilities or do not answer
        greedily."""
        sent = list(prompts) if self.tokenizer is None else encode_prompts(self.tokenizer, prompts)
        return self._all(lambda i: self._generated(sent[i]), prompts)

    def score(self, prompts, options):
        """See `Engine.score`. Needs the tokenizer.

        By `echo` where the server has it: each option is read with its prompt in one request. Elsewhere token by
        token: the bias of a logit makes the server produce the option's next token, and tell how probable it was
        before the bias. That this is what it tells is checked: alternatives must not add up to more than 1.
        """
        if self.tokenizer is None:
            raise EngineError(
                f"options cannot be scored by the server {self.url} without its model's tokenizer: name a folder "
                "or Hub name that has it"
            )
        heads = encode_prompts(self.tokenizer, prompts)
        tails = [encode_targets(self.tokenizer, row) for row in options]
        return self._all(lambda i: self._scored(heads[i], options[i], tails[i]), prompts)

    # ------------------------------------------------------------ answers

    def _generated(self, prompt) -> Answer:
        choice, usage = self._complete(prompt, max_tokens=self.max_new_tokens)
        entries = token_entries(choice)
        count = usage.get("completion_tokens", len(entries))
        n_prompt = usage.get("prompt_tokens", 0) if isinstance(prompt, str) else len(prompt)
        # of characters of several bytes a server may leave out the tokens, so only plain text tells
        if not entries and choice["text"] and choice["text"].isascii():
            raise EngineError("the server returns no log-probabilities ('logprobs'), which confidence is made of")
        text, ended = choice["text"].strip(), choice.get("finish_reason") == "stop"
        if len(entries) != count:
            return Answer(text, n_prompt, count, ended)
        if any(top and top[0] > logprob + 1e-3 for _, logprob, top in entries):
            raise EngineError(
                "the server produced a token that was not the most probable one: switch off its penalties and "
                "samplers (vLLM: --generation-config vllm)"
            )
        margins = [top[0] - top[1] for _, _, top in entries if len(top) > 1]
        tokens, logprobs = [token for token, *_ in entries], [logprob for _, logprob, _ in entries]
        return Answer(text, n_prompt, count, ended, tokens, logprobs, margins if len(margins) == count else [])

    def _scored(self, head: list[int], texts: Sequence[str], tails: list[list[int]]) -> list[Answer]:
        rows = None
        if self.echoes is not False:
            rows = [self._echoed(head, tail) for tail in tails]
            self.echoes = None not in rows
        if not self.echoes:
            rows = self._forced(head, tails)
        return scored(head, texts, tails, [[row] for row in rows])

    def _echoed(self, head: list[int], tail: list[int]) -> list[float] | None:
        """Log-probabilities of `tail` after `head`, None from a server that does not echo."""
        try:
            choice, _ = self._complete(head + tail, max_tokens=1, echo=True)
        except EngineError:
            if self.echoes is None:  # one that refuses the field would refuse every request
                return None
            raise
        entries = token_entries(choice)
        if len(entries) < len(head) + len(tail):
            return None
        return [logprob for _, logprob, _ in entries[len(head) : len(head) + len(tail)]]

    def _forced(self, head: list[int], tails: list[list[int]]) -> list[list[float]]:
        """Log-probabilities of every tail after `head`, each distinct beginning asked for once."""
        known: dict[tuple[int, ...], float] = {}
        sums: dict[tuple[int, ...], float] = {}
        for tail in tails:
            for end in range(1, len(tail) + 1):
                path = tuple(tail[:end])
                if path in known:
                    continue
                bias = {str(path[-1]): FORCED}
                choice, _ = self._complete([*head, *path[:-1]], max_tokens=1, logit_bias=bias)
                entries = token_entries(choice)
                # where tokens are texts, which one was produced is not known: its probability has to do
                if len(entries) != 1 or isinstance(entries[0][0], int) and entries[0][0] != path[-1]:
                    raise EngineError(
                        "the server can score no options: it neither echoes prompts with log-probabilities nor "
                        "tells that of a token that was forced by logit_bias; take one that does (vLLM, llama.cpp)"
                    )
                known[path] = entries[0][1]
                sums[path[:-1]] = sums.get(path[:-1], 0.0) + math.exp(entries[0][1])
        if max(sums.values()) > 1.001:
            raise EngineError(
                "the server can score no options: it does not echo prompts, and the log-probabilities of forced "
                "tokens are those after the bias; take one that does (vLLM, llama.cpp)"
            )
        return [[known[tuple(tail[:end])] for end in range(1, len(tail) + 1)] for tail in tails]

    def _complete(self, prompt, **fields) -> tuple[dict, dict]:
        """(the one choice, usage) of a completion; the two most probable tokens of each position are asked for."""
        body = {"model": self.model, "prompt": prompt, "temperature": 0, "logprobs": 2} | fields
        reply = self._send("/completions", body)
        try:
            choice = reply["choices"][0] | {"text": reply["choices"][0]["text"] or ""}
            usage = {key: n for key, n in (reply.get("usage") or {}).items() if n is not None}
            counts = [usage.get(name, 0) for name in ("completion_tokens", "prompt_tokens")]
            fits = isinstance(choice["text"], str) and all(isinstance(n, int) and n >= 0 for n in counts)
            for token, logprob, top in token_entries(choice):
                fits &= isinstance(token, int | str) and not any(x > 0 for x in (logprob, *top))
            if fits:
                return choice, usage
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError):
            pass
        raise EngineError(f"the server {self.url} answered without a completion that can be read: {brief(reply)}")

    # ----------------------------------------------------------- transport

    def _served(self, model: str | None) -> str:
        """The model's name, checked against the server's list where it has one."""
        reply = self._send("/models", None)
        data = reply.get("data") if isinstance(reply, dict) else None
        entries = data if isinstance(data, list) else []
        names = [e["id"] for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]
        if model is None and len(names) != 1:
            raise EngineError(f"the server {self.url} has {len(names)} models ({', '.join(names)}): name one of them")
        if model is not None and names and model not in names:
            raise EngineError(f"the server {self.url} has no model {model!r}: it has {', '.join(names)}")
        return names[0] if model is None else model

    def _send(self, path: str, body: dict | None) -> dict:
        """The JSON that the server answers, after as many attempts as it takes."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, self.attempts + 1):
            request = urllib.request.Request(self.url + path, data, headers)
            asked = None
            try:
                with self.opener.open(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                reason, asked = f"{error.code} {_message(error)}", error.headers.get("Retry-After")
                if error.code not in PASSING:
                    hint = f"; its key is read from {KEY_VARIABLE}" if error.code in (401, 403) else ""
                    raise EngineError(f"the server {self.url} refuses: {reason}{hint}") from None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, RecursionError) as error:
                raise EngineError(f"{self.url}{path} did not answer JSON ({error}): is it a completions API?") from None
            if attempt < self.attempts:
                time.sleep(pause(attempt, asked))
        raise EngineError(f"no answer from the server {self.url} in {self.attempts} attempts: {reason}")

    def _all(self, work: Callable[[int], object], prompts: Sequence[str]) -> list:
        """`work` for the number of every prompt, some at a time; the first failure ends all, and names its prompt."""
        failed = threading.Event()

        def one(i):
            if failed.is_set():
                return None
            try:
                return work(i)
            except EngineError as error:
                failed.set()
                raise EngineError(f"prompt {brief(prompts[i])}: {error}") from None

        with ThreadPoolExecutor(self.concurrency) as pool:
            jobs = [pool.submit(one, i) for i in range(len(prompts))]
            try:
                errors = [error for job in jobs if (error := job.exception())]
            except BaseException:  # an interrupt: what has not begun is not begun any more
                failed.set()
                raise
        if errors:
            raise errors[0]
        return [job.result() for job in jobs]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that sends elsewhere is refused: the key and the prompts were meant for the address given."""

    def redirect_request(self, *_):
        return None


def token_entries(choice: dict) -> list[tuple[int | str, float, list[float]]]:
    """(token, log-probability, those of the most probable tokens, best first) of each position of a completion.

    Reads OpenAI's columns (`tokens`, `token_logprobs`, `top_logprobs`) and the rows of `content` that llama.cpp
    returns. Tokens are ids where the server gives them. Of the first position of an echoed prompt, which nothing
    precedes, the log-probability is NaN.
    """
    table = choice.get("logprobs") or {}
    if "content" in table:
        return [
            (row.get("id", row["token"]), float(row["logprob"]), _descending(t["logprob"] for t in row["top_logprobs"]))
            for row in table["content"] or []
        ]
    tokens, logprobs = table.get("tokens") or [], table.get("token_logprobs") or []
    tops = table.get("top_logprobs") or [None] * len(tokens)
    ids = choice.get("token_ids")
    names = ids if ids and len(ids) == len(tokens) else tokens
    return [
        (name, math.nan if logprob is None else float(logprob), _descending((top or {}).values()))
        for name, logprob, top in zip(names, logprobs, tops)
    ]


def pause(attempt: int, asked: str | None = None) -> float:
    """Seconds to wait after failed attempt 1, 2, ...: what the server asked for, else 1, 2, 4, ... with some chance."""
    if asked is not None and asked.strip().isdigit():
        return min(float(asked), LONGEST_PAUSE)
    return min(2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _descending(values) -> list[float]:
    return sorted(map(float, values), reverse=True)


def _message(error: urllib.error.HTTPError) -> str:
    """The first line of what a server says of its refusal."""
    text = error.read(10_000).decode(errors="replace").strip()
    try:
        body = json.loads(text)
        body = body.get("error", body)
        text = body.get("message", text) if isinstance(body, dict) else str(body)
    except (ValueError, AttributeError):
        pass
    return str(text).splitlines()[0][:300] if str(text).strip() else "without a reason"
