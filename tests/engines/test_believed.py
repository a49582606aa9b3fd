"""What of a server is believed: an honest one is, each of many ways to answer wrongly is refused in one line."""

import math

import numpy as np
import pytest
from columns_server import serve_columns
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llama_server import WORDS, plain_pair

from cat_core.cascade import Request
from cat_core.engines.completions import in_order
from cat_core.engines.contract import Answer, EngineError, implausible
from cat_core.engines.local import TransformersEngine
from cat_core.engines.server import ServerEngine

NEW = 8
TEXTS = [" ".join(WORDS[i : i + 3]) for i in range(10)]
ASKED = [Request(f"q{i}", text) for i, text in enumerate(TEXTS)]
CHOICES = ("yes", "no", "the cat")
CHOSEN = [Request(f"q{i}", text, CHOICES) for i, text in enumerate(TEXTS[:4])]


@pytest.fixture(scope="module")
def pair():
    return plain_pair()


def answers(pair, requests, tokenizer=True, new=NEW, **server):
    with serve_columns(pair[0], pair[2], **server) as url:
        engine = ServerEngine(url, tokenizer=pair[2] if tokenizer else None, max_new_tokens=new, concurrency=2)
        return engine.answer(requests)


def exact(pair, requests, new=NEW):
    return TransformersEngine.of(pair[0], pair[2], max_new_tokens=new).answer(requests)


def columns(change):
    """A way to spoil: `change` of the columns, of whatever is asked."""

    def spoil(reply, body):
        change(reply["choices"][0]["logprobs"])
        return reply

    return spoil


def numbers(value, top=None):
    """Every log-probability replaced by `value(it)`, those of the most probable tokens by `top(it)` or left out."""

    def change(table):
        table["token_logprobs"] = [None if x is None else value(x) for x in table["token_logprobs"]]
        rows = [None if row is None else {k: top(x) for k, x in row.items()} for row in table["top_logprobs"] if top]
        table["top_logprobs"] = rows or None

    return columns(change)


# ------------------------------------------------------------------------ believed


@pytest.mark.parametrize("tokenizer", [True, False], ids=["ids", "text"])
def test_an_honest_server_is_believed(pair, tokenizer):
    requests = ASKED + CHOSEN if tokenizer else ASKED
    requests = [Request(f"{i}", r.prompt, r.options) for i, r in enumerate(requests)]
    for a, b in zip(answers(pair, requests, tokenizer), exact(pair, requests), strict=True):
        assert (a.prediction, a.n_generated, a.truncated) == (b.prediction, b.n_generated, b.truncated)
        assert a.token_logprobs == pytest.approx(b.token_logprobs, rel=0, abs=5e-5)
        assert a.option_logprobs == pytest.approx(b.option_logprobs, rel=0, abs=2e-4)
        assert a.token_margins == pytest.approx(b.token_margins, rel=0, abs=5e-5) or a.option_logprobs


def test_a_server_that_rounds_is_believed(pair):
    def coarse(x):
        return min(round(x, 2), 0.0)

    for a, b in zip(answers(pair, ASKED, spoil=numbers(coarse, coarse)), exact(pair, ASKED), strict=True):
        assert a.prediction == b.prediction and a.token_logprobs == pytest.approx(b.token_logprobs, rel=0, abs=0.0051)
    for a, b in zip(answers(pair, CHOSEN, spoil=numbers(coarse, coarse)), exact(pair, CHOSEN), strict=True):
        assert a.option_logprobs == pytest.approx(b.option_logprobs, rel=0, abs=0.03)


def test_several_choices_are_read_by_their_number(pair):
    def swapped(reply, body):
        other = dict(reply["choices"][0], index=1, text="another", finish_reason="stop", logprobs=None)
        return reply | {"choices": [other, *reply["choices"]]}

    assert answers(pair, ASKED, spoil=swapped) == answers(pair, ASKED)


def test_an_end_that_is_not_told_is_seen_or_asked_for(pair):
    def silent(reply, body):
        del reply["choices"][0]["finish_reason"]
        return reply

    found = answers(pair, ASKED, spoil=silent)  # EOS and the limit speak for themselves
    assert found == answers(pair, ASKED) and {r.truncated for r in found} == {True, False}

    def torn(reply, body):
        reply = silent(reply, body)
        choice, reply["usage"]["completion_tokens"] = reply["choices"][0], 2
        choice["text"] = "".join(choice["logprobs"]["tokens"][:2])
        for name, column in choice["logprobs"].items():
            choice["logprobs"][name] = column[:2]
        return reply

    with pytest.raises(EngineError, match="ended an answer of 2 tokens without saying .*finish_reason None, expected"):
        answers(pair, ASKED, spoil=torn)


# ------------------------------------------------------------------------- refused


def reverse(table):
    for column in table.values():
        column.reverse()


def shorten(reply, body):
    """As many tokens as it counts, but not all of the text."""
    table = reply["choices"][0]["logprobs"]
    if not body.get("echo") and len(table["tokens"]) > 2:
        for column in table.values():
            del column[-2:]
        del reply["usage"]["completion_tokens"]
    return reply


def bare(reply, body):
    reply["choices"][0]["logprobs"]["top_logprobs"] = None
    return reply


ONE_NUMBER = "the log-probability {}, so it does not compute them"
GENERATED = {
    "zero": (numbers(lambda x: 0.0, lambda x: 0.0), "probabilities that add up to 2"),
    "zero, alone": (numbers(lambda x: 0.0), ONE_NUMBER.format(0)),
    "zero, after top-k": (numbers(lambda x: 0.0, lambda x: -9999.0), ONE_NUMBER.format(0)),
    "equal": (numbers(lambda x: -0.7, lambda x: -0.7), ONE_NUMBER.format(-0.7)),
    "null": (numbers(lambda x: None), r"gives no number \(null or NaN\)"),
    "NaN": (numbers(lambda x: math.nan), r"gives no number \(null or NaN\)"),
    "infinite": (numbers(lambda x: -math.inf), "NaN or infinite log-probabilities"),
    "probabilities": (numbers(math.exp, math.exp), "above 0 .*probabilities instead of their logarithms"),
    "logits": (numbers(lambda x: x + 30, lambda x: x + 30), "above 0 .*not normalised"),
    "fewer tokens": (shorten, "tokens of the server's answer are not those of its text"),
    "another order": (columns(reverse), "tokens of the server's answer are not those of its text"),
    "no choice": (lambda reply, body: {"choices": []}, "without a completion that can be read"),
    "no reply": (lambda reply, body: None, "without a completion that can be read: None"),
}


@pytest.mark.parametrize("way", GENERATED)
def test_generated_answers_that_no_model_gives_are_refused(pair, way):
    spoil, message = GENERATED[way]
    with pytest.raises(EngineError, match=message) as caught:
        answers(pair, ASKED, spoil=spoil)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(("item 'q", "prompt '"))


def echoed(change):
    """A way to spoil what is echoed, and nothing else."""

    def spoil(reply, body):
        if body.get("echo"):
            change(reply, body["prompt"])
        return reply

    return spoil


def echo_numbers(value):
    return echoed(lambda reply, prompt: numbers(value)(reply, None))


def one_more(reply, prompt):
    for column in reply["choices"][0]["logprobs"].values():
        column.insert(0, column[0])


def shifted(reply, prompt):
    column = reply["choices"][0]["logprobs"]["token_logprobs"]
    column[1:] = [*column[4:], *column[1:4]]


def other_tokens(reply, prompt):
    table = reply["choices"][0]["logprobs"]
    table["tokens"] = table["tokens"][:1] + ["x"] * (len(table["tokens"]) - 1)


def only_top(floor):
    """Of tokens that are not the two most probable ones it has no number of its own."""

    def change(reply, prompt):
        table = reply["choices"][0]["logprobs"]
        for n, top in enumerate(table["top_logprobs"]):
            if top and table["token_logprobs"][n] < sorted(top.values())[-2]:
                table["token_logprobs"][n] = floor

    return echoed(change)


def counted(reply, body):
    reply["usage"]["prompt_tokens"] += 1
    return reply


SCORED = {
    "zero": (echo_numbers(lambda x: 0.0), "the same token at three places|read as an option"),
    "equal": (echo_numbers(lambda x: -0.7), "the same token at three places|read as an option"),
    "null": (echo_numbers(lambda x: None), r"gives no number \(null or NaN\) for some of the"),
    "probabilities": (echo_numbers(math.exp), "above 0 .*probabilities instead of their logarithms"),
    "to the base 10": (echo_numbers(lambda x: x / math.log(10)), "read as an option .*one of the two is wrong"),
    "shifted": (echoed(shifted), "read as an option .*one of the two is wrong"),
    "one token more": (echoed(one_more), "echo of .* is not what it was sent"),
    "other tokens": (echoed(other_tokens), "echo of .* is not what it was sent"),
    "top-k, -100": (only_top(-100.0), "knows the most probable tokens only"),
    "top-k, -inf": (only_top(-math.inf), "knows the most probable tokens only"),
    "counts more": (counted, "was sent .* token ids and read .*adds tokens to prompts"),
}


@pytest.mark.parametrize("way", SCORED)
def test_scored_options_that_no_model_gives_are_refused(pair, way):
    spoil, message = SCORED[way]
    with pytest.raises(EngineError, match=message) as caught:
        answers(pair, CHOSEN, spoil=spoil)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(("item 'q", "prompt '"))


@pytest.mark.parametrize("spoil", [None, bare], ids=["two most probable", "nothing beside"])
def test_a_server_that_samples_is_refused(pair, spoil):
    with pytest.raises(EngineError, match="was asked the same twice|not the most probable one"):
        answers(pair, ASKED, temperature=3.0, spoil=spoil)


def test_a_server_is_tried_once(pair):
    seen = []

    def count(reply, body):
        seen.append(body)
        return reply

    with serve_columns(pair[0], pair[2], spoil=count) as url:
        engine = ServerEngine(url, tokenizer=pair[2], max_new_tokens=NEW, concurrency=1)
        engine.generate(TEXTS[:2])
        assert len(seen) == 2 + 2 and seen[0] == seen[1]
        engine.generate(TEXTS[:2])
        assert len(seen) == 2 + 2 + 2
        engine.score(TEXTS[:2], [CHOICES] * 2)
        assert len(seen) == 6 + 1 + 1 + 2 * 3 or len(seen) == 6 + 1 + 2 + 2 * 3  # ids of its own answer, if it has any
        assert engine.generate([]) == [] == engine.score([], [])


# --------------------------------------------------------------- numbers of a model


def row(tokens, logprobs, margins=()):
    return Answer("x", 3, len(tokens), True, list(tokens), [float(x) for x in logprobs], list(margins))


def model_rows(draw, vocabulary, scale, lengths):
    """(greedy answer, options) of a model whose logits are drawn anew at every prefix, in float32 as servers have."""
    known = {}

    def table(prefix):
        if prefix not in known:
            logits = np.float32(scale) * draw.standard_normal(vocabulary).astype(np.float32)
            shifted = logits - logits.max()
            known[prefix] = shifted - np.log(np.exp(shifted).sum(dtype=np.float32))
        return known[prefix]

    def read(tokens):
        return [min(table(tuple(tokens[:n]))[token], 0.0) for n, token in enumerate(tokens)]

    greedy: list[int] = []
    while len(greedy) < 6 and (not greedy or greedy[-1]):
        greedy.append(int(table(tuple(greedy)).argmax()))
    ordered = [np.sort(table(tuple(greedy[:n])))[::-1] for n in range(len(greedy))]
    tails = {(*draw.integers(1, vocabulary, size=n).tolist(), 0) for n in lengths}
    return row(greedy, read(greedy), [float(x[0] - x[1]) for x in ordered]), [row(t, read(t)) for t in tails]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocabulary=st.integers(3, 40),
    scale=st.floats(0.05, 40),
    lengths=st.lists(st.integers(1, 4), min_size=2, max_size=6),
)
def test_what_a_model_says_is_never_refused(seed, vocabulary, scale, lengths):
    answer, options = model_rows(np.random.default_rng(seed), vocabulary, scale, lengths)
    assert implausible([answer]) is None
    # every token certain to the last bit: from a server that computes nothing this cannot be told
    assume(len({value for option in options for value in option.logprobs}) > 1)
    assert implausible(options) is None


@given(st.integers(2, 6), st.floats(-0.05, 0), st.integers(1, 3))
def test_options_that_exclude_each_other_share_one_probability(count, each, length):
    options = [row([*[k + 1] * length, 0], [each] * (length + 1)) for k in range(count)]
    assert implausible(options)
    lively = [row([*[k + 1] * length, 0], [each - 1e-6 * k] * length + [each]) for k in range(count)]
    assert "add up to" in implausible(lively)
    # an option that begins with all of another is part of its probability
    assert implausible([row([1], [-0.01]), row([1, 2], [-0.01, -0.02])]) is None


def test_one_number_near_zero_is_believed_where_it_can_be_right():
    assert implausible([row([7], [0.0])]) is None and implausible([row([7, 7, 7], [0.0] * 3)]) is None
    assert implausible([row([7, 0], [0.0, 0.0], [17.5, 30.0])]) is None  # a tuned model, in float32
    assert implausible([row([7, 0], [-1.1920929e-07] * 2, [15.9, 15.9])]) is None
    assert implausible([row([7, 0], [-0.5, -0.5])]) is None  # by chance, where a server rounds
    for wrong in (
        row([7, 0], [0.0, 0.0]),
        row([7, 0], [0.0, 0.0], [0.0, 0.0]),
        row([7, 0], [0.0, 0.0], [9999.0, 9999.0]),
        row([7, 8, 0], [-0.5] * 3, [1.0, 2.0, 3.0]),
    ):
        assert "so it does not compute them" in implausible([wrong])
    assert "above 0" in implausible([row([7, 0], [0.5, -1.0])])
    assert "NaN or infinite" in implausible([row([7, 0], [-math.inf, -1.0])])


@settings(max_examples=50)
@given(st.text(max_size=20), st.lists(st.text(max_size=4), max_size=6))
def test_letters_are_found_in_their_order(text, tokens):
    assert in_order(text, text) and in_order(text, "<0x0A>" + " ".join(text) + "</s>")
    kept = [c for c in text if c.isascii() and c.isalnum()]
    assert in_order(text, "".join(tokens)) == _subsequence(kept, "".join(tokens))


def _subsequence(letters, text):
    """By the longest common subsequence, as in the textbook."""
    best = [[0] * (len(text) + 1) for _ in range(len(letters) + 1)]
    for i, a in enumerate(letters):
        for j, b in enumerate(text):
            best[i + 1][j + 1] = best[i][j] + 1 if a == b else max(best[i][j + 1], best[i + 1][j])
    return best[-1][-1] == len(letters)
