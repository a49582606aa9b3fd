"""The engine of a server: any that has OpenAI's completions endpoint, such as vLLM's, llama.cpp's or SGLang's.

`POST <url>/completions` with temperature 0 and `logprobs`. Several requests are under way at once, as servers
batch by themselves; one that fails for a passing reason (429, 5xx, a broken connection, no answer in time) is sent
again after a growing pause. Nothing is contacted but the address given (through the environment's proxy, if it names
one); an API key comes from the environment.

Servers differ in what they return, and what is missing is found out, not assumed. Seen: transformers' own server
gives no log-probabilities; llama.cpp gives none for the tokens of a character that takes several, and does not
`echo` a prompt, and leaves out the tokens of a string that stops; vLLM does. Before its first answer, and before the
first options, a server is tried with the first prompt (`_probe`, `_probe_options`); what cannot be believed is refused
with the prompt's name, here, in `completions`, or in `contract.implausible`.
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
from functools import partial

from cat_core.engines.completions import Completion, check_greedy, of_prompt, read_completion, token_ids
from cat_core.engines.contract import EXCESS, Answer, Engine, EngineError, known_config, scored
from cat_core.engines.stops import Stops
from cat_core.queries import check_settings
from cat_core.tasks.schema import brief
from cat_core.text import TextFormat, check_text_settings

KEY_VARIABLE = "CAT_API_KEY"
PASSING = (408, 425, 429, 500, 502, 503, 504)
LONGEST_PAUSE = 60.0
FORCED = 100
"""The greatest logit bias of the OpenAI protocol: a token with it is the one that is produced."""
OWN_FIELDS = {"llamacpp": {"cache_prompt": False}}
"""Fields beyond the protocol, of servers that name themselves. llama.cpp reads a prompt whose beginning it remembers in
another way than a new one: with 4-bit weights, the answer then depends on what was asked before."""
PROBED = 8
"""Tokens of the answers by which a server is tried before the first question."""
CLOSE = 0.5
"""Nats by which log-probabilities may differ from one time to the next: those of the same tokens, on average of two or
more, and those of two tokens of which now one and now the other is the most probable. Rounding with 4-bit weights
makes a tenth, and on single tokens half a nat."""


class ServerEngine(Engine):
    """One model of a server.

    url: up to and with /v1, as http://127.0.0.1:8000/v1; model: its name there (default: the only one served);
    tokenizer: that of the model: prompts then go as token ids, by the conventions of `queries`, and options can be
    scored; without it they go as text, which the server reads by its own settings, with a BOS or without;
    config: the model's transformers configuration, for its FLOPs; max_new_tokens, prediction: as in `CascadeRunner`;
    template, shots: as in `text.TextFormat`, for which the tokenizer is needed;
    stop, stop_ids: strings and token ids that end an answer besides the model's own end (see `stops`);
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
        template: str = "plain",
        shots=None,
        config=None,
        max_new_tokens: int = 64,
        prediction: str = "sum",
        stop: Sequence[str] = (),
        stop_ids: frozenset[int] = frozenset(),
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
        check_text_settings(template, stop)
        if tokenizer is None and (template == "chat" or shots):
            raise ValueError(
                "a chat template and shots need the tokenizer of the server's model: name a folder that has it"
            )
        self.text = None if tokenizer is None else TextFormat(tokenizer, template=template, stop=stop, shots=shots)
        self.tokenizer = tokenizer
        self.url, self.config = url.rstrip("/"), known_config(config)
        self.max_new_tokens, self.prediction = max_new_tokens, prediction
        self.concurrency, self.timeout, self.attempts = concurrency, timeout, attempts
        self.batch_items = 16 * concurrency
        self.opener = urllib.request.build_opener(_NoRedirect)
        self.echoes: bool | None = None  # whether the server echoes prompts; not known before the first option
        self.tried: set[str] = set()  # what the server was tried at: "generate", "score"
        self.stops = Stops.of(self.text, stop_ids) if self.text else Stops(frozenset(stop_ids), tuple(stop))
        shown = () if tokenizer is None else ((tokenizer.decode([i]), i) for i in self.stops.ids)
        self.stop_texts = {text: i for text, i in shown if text}  # of servers that give texts of tokens for ids
        self.model, owner = self._served(model)
        self.own = OWN_FIELDS.get(owner, {})
        self.stopping = {"stop": list(self.stops.strings)} if self.stops.strings else {}
        if owner == "vllm" and self.stops.ids:
            self.stopping["stop_token_ids"] = sorted(self.stops.ids)

    def describe(self):
        """See `Engine.describe`; the weights go by the server's address and the model's name."""
        return {
            "engine": "server",
            "model": f"{self.model} at {self.url}",
            "max_new_tokens": self.max_new_tokens,
            "text": "as it is" if self.text is None else self.text.describe(),
        } | self.stops.describe(self.text and self.text.eos)

    def generate(self, prompts):
        """See `Engine.generate`. Raises EngineError for servers that give no log-probabilities or do not answer
        greedily."""
        sent = list(prompts) if self.text is None else self.text.prompts(prompts)
        if prompts and "generate" not in self.tried:
            self._all(lambda i: self._probe(sent[i]), prompts[:1])
            self.tried.add("generate")
        return self._all(lambda i: self._generated(sent[i]), prompts)

    def score(self, prompts, options):
        """See `Engine.score`. Needs the tokenizer.

        By `echo` where the server has it: each option is read with its prompt in one request. Elsewhere token by
        token: the bias of a logit makes the server produce the option's next token, and tell how probable it was
        before the bias. That this is what it tells is checked: alternatives must not add up to more than 1 + EXCESS.
        """
        if self.text is None:
            raise EngineError(
                f"options cannot be scored by the server {self.url} without its model's tokenizer: name a folder "
                "or Hub name that has it"
            )
        heads = self.text.prompts(prompts)
        tails = [self.text.targets([prompt] * len(row), row) for prompt, row in zip(prompts, options)]
        if prompts and "score" not in self.tried:
            self._all(lambda i: self._probe_options(heads[i], tails[i][0]), prompts[:1])
            self.tried.add("score")
        return self._all(lambda i: self._scored(heads[i], options[i], tails[i]), prompts)

    # ------------------------------------------------------------ answers

    def _generated(self, prompt) -> Answer:
        made = self._complete(prompt, max_tokens=self.max_new_tokens, **self.own, **self.stopping)
        if self.stops.strings and made.reason == "stop" and not made.whole:
            # llama.cpp leaves out as many tokens as the stop has when it is cut anew. Asked for the same number without
            # a stop it tells them all; should rounding lead it elsewhere then, it goes on to its own end.
            for limit in (made.n_generated, self.max_new_tokens):
                again = self._made(prompt, limit)
                if self._end(again) is not None or again.reason == "stop" or limit == self.max_new_tokens:
                    made = again
                    break
        check_greedy(made)
        return self._answer(prompt, made)

    def _made(self, prompt, limit: int) -> Completion:
        """What comes of a prompt without a stop, at most `limit` tokens, with numbers of greedy decoding."""
        made = self._complete(prompt, max_tokens=limit, **self.own)
        check_greedy(made)
        return made

    def _end(self, made: Completion) -> int | None:
        """How many tokens of a completion count; None where none ends it, or some are not told."""
        if not made.whole:
            return None
        tokens = [self.stop_texts.get(position.text, position.token) for position in made.positions]
        return self.stops.length(tokens, partial(self._written, made))

    def _written(self, made: Completion, count: int) -> str:
        """The text of the first tokens: by the tokenizer where they are ids, else as the server gives it."""
        tokens = [position.token for position in made.positions[:count]]
        if self.tokenizer is None or not all(isinstance(token, int) for token in tokens):
            return made.written(count)
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _answer(self, prompt, made: Completion) -> Answer:
        """The answer up to its end, with its numbers where there is one for every token."""
        end, text = self._end(made), made.text
        if end is not None:
            last = made.positions[end - 1]
            by_id = self.stop_texts.get(last.text, last.token) in self.stops.ids
            if end < len(made.positions) or made.reason != "stop" or by_id and text == self._written(made, end):
                text = self._written(made, end - by_id)  # a token that ends an answer by its id has no text in it
        before = self.stops.before(text)
        ended = end is not None or made.reason == "stop" or before != text
        if not ended and made.reason != "length" and made.n_generated < self.max_new_tokens:
            raise EngineError(
                f"the server ended an answer of {made.n_generated} tokens without saying that it is whole or was cut "
                f"(finish_reason {made.reason!r}, expected 'stop' or 'length'); take another server or version"
            )
        n_prompt = made.n_prompt if isinstance(prompt, str) else len(prompt)
        if not made.whole:
            # of a text that was cut here it is not known how many tokens it has
            known = made.n_generated if text[len(before) :] in ("", *self.stops.strings) else 0
            return Answer(before.strip(), n_prompt, known, ended)
        kept = made.positions[:end]
        tokens, logprobs = [position.token for position in kept], [position.logprob for position in kept]
        margins = [position.top[0] - position.top[1] for position in kept if len(position.top) > 1]
        margins = margins if len(margins) == len(kept) else []
        return Answer(before.strip(), n_prompt, len(kept), ended, tokens, logprobs, margins)

    def _scored(self, head: list[int], texts: Sequence[str], tails: list[list[int]]) -> list[Answer]:
        return scored(head, texts, tails, [[row] for row in self._numbers(head, tails)])

    def _numbers(self, head: list[int], tails: list[list[int]]) -> list[list[float]]:
        """Log-probabilities of every tail after `head`, by whichever way the server has."""
        rows = None
        if self.echoes is not False:
            rows = [self._echoed(head, tail) for tail in tails]
            self.echoes = None not in rows
        return rows if self.echoes else self._forced(head, tails)

    def _echoed(self, head: list[int], tail: list[int]) -> list[float] | None:
        """Log-probabilities of `tail` after `head`, None from a server that does not echo."""
        ids = head + tail
        try:
            reply = self._ask(ids, max_tokens=1, echo=True)
        except EngineError:
            if self.echoes is None:  # one that refuses the field would refuse every request
                return None
            raise
        made = self._read(ids, reply)
        if len(made.positions) < len(ids):
            return None
        texts = [self.tokenizer.decode([token]) for token in ids]
        if len(made.positions) > len(ids) + 1 or not of_prompt(made.positions, ids, texts):
            raise EngineError(
                f"the server's echo of {len(ids)} tokens is not what it was sent, but "
                f"{brief([position.text for position in made.positions])}: it adds or changes tokens; take another "
                "server or version, or leave the options out"
            )
        row = [position.logprob for position in made.positions[len(head) : len(ids)]]
        if any(map(math.isnan, row)):
            raise EngineError(
                f"the server gives no number (null or NaN) for some of the {len(tail)} tokens of an option; take "
                "another server or version, or leave the options out"
            )
        return row

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
                made = self._complete([*head, *path[:-1]], max_tokens=1, logit_bias=bias)
                text = [self.tokenizer.decode([path[-1]])]
                if len(made.positions) != 1 or not of_prompt(made.positions, path[-1:], text):
                    raise EngineError(
                        "the server can score no options: it neither echoes prompts with log-probabilities nor "
                        "tells that of a token that was forced by logit_bias; take one that does (vLLM, llama.cpp)"
                    )
                known[path] = made.positions[0].logprob
                sums[path[:-1]] = sums.get(path[:-1], 0.0) + math.exp(known[path])
        if max(sums.values()) > 1 + EXCESS:
            raise EngineError(
                "the server can score no options: it does not echo prompts, and the log-probabilities of forced "
                "tokens are those after the bias; take one that does (vLLM, llama.cpp)"
            )
        return [[known[tuple(tail[:end])] for end in range(1, len(tail) + 1)] for tail in tails]

    def _complete(self, prompt, **fields) -> Completion:
        """The completion of one prompt."""
        return self._read(prompt, self._ask(prompt, **fields))

    def _ask(self, prompt, **fields):
        """The reply to one prompt; the two most probable tokens of each position are asked for."""
        return self._send(
            "/completions", {"model": self.model, "prompt": prompt, "temperature": 0, "logprobs": 2} | fields
        )

    def _read(self, prompt, reply) -> Completion:
        made = read_completion(reply)
        if not isinstance(prompt, str) and made.n_prompt not in (0, len(prompt)):
            raise EngineError(
                f"the server was sent {len(prompt)} token ids and read {made.n_prompt}: it adds tokens to prompts, or "
                "cuts them to its context; set it right, or take another server"
            )
        return made

    # ----------------------------------------------------- before the first

    def _probe(self, prompt) -> None:
        """One prompt asked twice; raises EngineError for a server whose answers change.

        Under greedy decoding the same tokens come again with nearly the same numbers. Where rounding changes from one
        time to the next (a cache, other prompts in the batch), it takes another token only where two are close.
        """
        first, second = (self._made(prompt, min(PROBED, self.max_new_tokens)) for _ in range(2))
        gaps, last = [], 0.0
        for a, b in zip(first.positions, second.positions):
            if a.token != b.token:
                last = abs(a.logprob - b.logprob)
                break
            gaps.append(abs(a.logprob - b.logprob))
        if last > CLOSE or sum(gaps) > CLOSE * max(len(gaps), 2):
            raise EngineError(
                f"the server was asked the same twice at temperature 0, and gave {brief(first.text)} with "
                f"log-probabilities {_rounded(first)}, then {brief(second.text)} with {_rounded(second)}: it does not "
                "decode greedily, or its numbers are none; switch off its samplers, or take another server"
            )

    def _probe_options(self, head: list[int], tail: list[int]) -> None:
        """What the server says of its own answer when that is scored as an option, and of one token said three times.

        Raises EngineError where the first is not what it said when it produced the answer, or where the second has one
        number: it stands for whatever is not among the most probable tokens, or nothing is computed.
        """
        made = self._made(head, PROBED)
        ids = token_ids(self.tokenizer, made.positions)
        *again, thrice = self._numbers(head, [*([ids] if ids else []), tail[:1] * 3])
        told = [position.logprob for position in made.positions[: len(ids)]]
        for row in again:
            if sum(abs(a - b) for a, b in zip(row, told)) > CLOSE * max(len(row), 2):
                raise EngineError(
                    f"the server gave its answer {brief(made.text)} the log-probabilities {_brief(told)}, and the same "
                    f"tokens read as an option {_brief(row)}: one of the two is wrong; take another server or version, "
                    "or leave the options out"
                )
        if len(set(thrice)) == 1 or not all(map(math.isfinite, thrice)):
            raise EngineError(
                f"the server gives the same token at three places the log-probabilities {_brief(thrice)}: it does not "
                "compute them, or knows the most probable tokens only; take another server or version, or leave the "
                "options out"
            )

    # ----------------------------------------------------------- transport

    def _served(self, model: str | None) -> tuple[str, str]:
        """The model's name, checked against the server's list where it has one, and who made the server."""
        reply = self._send("/models", None)
        data = reply.get("data") if isinstance(reply, dict) else None
        entries = data if isinstance(data, list) else []
        owners = {
            e["id"]: str(e.get("owned_by")) for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)
        }
        names = list(owners)
        if model is None and len(names) != 1:
            raise EngineError(f"the server {self.url} has {len(names)} models ({', '.join(names)}): name one of them")
        if model is not None and names and model not in names:
            raise EngineError(f"the server {self.url} has no model {model!r}: it has {', '.join(names)}")
        name = names[0] if model is None else model
        return name, owners.get(name, "")

    def _send(self, path: str, body: dict | None) -> dict:
        """The JSON that the server answers, after as many attempts as it takes."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, self.attempts + 1):
            request = urllib.request.Request(self.url + path, data, headers)
            asked, text = None, b""
            try:
                with self.opener.open(request, timeout=self.timeout) as reply:
                    text = reply.read()
                return json.loads(text)
            except urllib.error.HTTPError as error:
                reason, asked = f"{error.code} {_message(error)}", error.headers.get("Retry-After")
                if error.code not in PASSING:
                    hint = f"; its key is read from {KEY_VARIABLE}" if error.code in (401, 403) else ""
                    raise EngineError(f"the server {self.url} refuses: {reason}{hint}") from None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, RecursionError) as error:
                if not text.lstrip().startswith(b"{"):
                    raise EngineError(
                        f"{self.url}{path} did not answer JSON ({error}): is it a completions API?"
                    ) from None
                reason = f"its JSON is damaged or cut off ({error})"
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


def pause(attempt: int, asked: str | None = None) -> float:
    """Seconds to wait after failed attempt 1, 2, ...: what the server asked for, else 1, 2, 4, ... with some chance."""
    if asked is not None and asked.strip().isdigit():
        return min(float(asked), LONGEST_PAUSE)
    return min(2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _brief(logprobs: Sequence[float]) -> str:
    return brief([float(f"{value:.4g}") for value in logprobs])


def _rounded(made: Completion) -> str:
    return _brief([position.logprob for position in made.positions])


def _message(error: urllib.error.HTTPError) -> str:
    """The first line of what a server says of its refusal."""
    try:
        text = error.read(10_000).decode(errors="replace").strip()
    except (http.client.HTTPException, OSError):  # it broke off in the middle of its excuse
        return str(error.reason)
    try:
        body = json.loads(text)
        body = body.get("error", body)
        text = body.get("message", text) if isinstance(body, dict) else str(body)
    except (ValueError, AttributeError):
        pass
    return str(text).splitlines()[0][:300] if str(text).strip() else "without a reason"
