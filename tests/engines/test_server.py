"""The engine of a server against a real one (llama.cpp), and against one that fails on the way."""

import json
import math
import threading

import pytest
from llama_server import WORDS, faults, plain_pair, serve, write_gguf

import cat_core.engines.server
from cat_core.cascade import Request
from cat_core.engines.completions import read_positions
from cat_core.engines.contract import EngineError
from cat_core.engines.local import TransformersEngine
from cat_core.engines.server import KEY_VARIABLE, ServerEngine, pause

NEW = 8
PROMPTS = [" ".join(WORDS[i : i + 4]) for i in range(8)]


@pytest.fixture(scope="module")
def pair():
    return plain_pair()


@pytest.fixture(scope="module")
def file(pair, tmp_path_factory):
    pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(pair[0], pair[2], path)
    return path


@pytest.fixture(scope="module")
def server(file):
    return serve(file)


@pytest.fixture
def url(server):
    return server.listening_address + "/v1"


@pytest.fixture
def patient(monkeypatch):
    """No time is spent between attempts; what the pauses were called with."""
    seen = []
    monkeypatch.setattr(cat_core.engines.server, "pause", lambda *given: seen.append(given) or 0)
    return seen


def test_text_and_ids_are_answered_alike(url, pair):
    texts = [f" {text}" for text in PROMPTS]  # llama.cpp sets no blank before the first word, as the tokenizer does
    by_text = ServerEngine(url, max_new_tokens=NEW).generate(texts)
    by_ids = ServerEngine(url, tokenizer=pair[2], max_new_tokens=NEW, concurrency=1).generate(texts)
    exact = TransformersEngine.of(pair[0], pair[2], max_new_tokens=NEW).generate(texts)
    for a, b, c in zip(by_text, by_ids, exact, strict=True):
        assert (a.tokens, a.text, a.n_prompt) == (b.tokens, b.text, b.n_prompt) == (c.tokens, c.text, c.n_prompt)
        assert a.logprobs == pytest.approx(c.logprobs, rel=0, abs=5e-5)


def test_an_answer_does_not_hang_on_what_was_asked_before(file, pair):
    """llama.cpp reads prompts whose beginning it remembers in another way; asked to forget, it gives the same bits."""
    server = serve(file)
    engine = ServerEngine(server.listening_address + "/v1", tokenizer=pair[2], max_new_tokens=NEW, concurrency=1)
    longer = [f"{text} {text}" for text in PROMPTS]
    first = engine.generate(longer)
    engine.generate(PROMPTS)
    assert engine.generate(longer[::-1])[::-1] == first


def test_without_configuration_no_cost_and_without_tokenizer_no_options(url):
    engine = ServerEngine(url, max_new_tokens=NEW)
    assert engine.answer([Request("a", "the cat")])[0].flops is None
    with pytest.raises(EngineError, match="options cannot be scored by the server .* without its model's tokenizer"):
        engine.answer([Request("a", "the cat", ("yes", "no"))])


def test_tokens_that_are_parts_of_a_character_leave_no_confidence(tiny_pair, tmp_path):
    pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
    small, _, tokenizer = tiny_pair  # it writes bytes at random, most of which are no characters
    write_gguf(small, tokenizer, tmp_path / "bytes.gguf")
    server = serve(tmp_path / "bytes.gguf")
    engine = ServerEngine(server.listening_address + "/v1", tokenizer=tokenizer, max_new_tokens=NEW)
    found = engine.generate(PROMPTS)
    expected = TransformersEngine.of(small, tokenizer, max_new_tokens=NEW).generate(PROMPTS)
    assert [a.n_generated for a in found] == [a.n_generated for a in expected]
    whole = [a for a in found if a.logprobs]
    assert len(whole) < len(found) and all(len(a.logprobs) == a.n_generated for a in whole)


# ------------------------------------------------------------------------ faults


def test_passing_faults_are_sent_again(server, patient):
    expected = ServerEngine(server.listening_address + "/v1", max_new_tokens=NEW).generate(PROMPTS)
    kinds = [429, 500, 503, "cut", "half", "excuse", "dropped"]

    def fail(number, handler, body):
        if number >= 2 * len(kinds):
            return body
        kind = kinds[number % len(kinds)]
        if kind == "cut":  # a reply that ends too soon
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices"')
        elif kind == "half":  # whole for HTTP, and half of what it should be
            handler.send_response(200)
            handler.send_header("Content-Length", "26")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [{"text": "the')
        elif kind == "excuse":  # an error whose reason breaks off
            handler.send_response(500)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"50\r\nout of mem")
        elif kind != "dropped":
            handler.answer(kind, {"error": {"message": "later"}}, **({"Retry_After": 3} if kind == 429 else {}))
        handler.close_connection = True
        return None

    with faults(server.listening_address, before=fail) as address:
        found = ServerEngine(address + "/v1", max_new_tokens=NEW, attempts=20).generate(PROMPTS)
    for a, b in zip(found, expected, strict=True):  # not to the bit: the server reuses what it has read
        assert a.tokens == b.tokens and a.logprobs == pytest.approx(b.logprobs, rel=0, abs=5e-5)
    assert len(patient) == 2 * len(kinds) and [asked for _, asked in patient].count("3") == 2


def test_lasting_faults_end_with_one_line(server, patient):
    def refuse(code, message):
        return lambda number, handler, body: handler.answer(code, {"error": {"message": message}})

    for code, message, times in (
        (503, "no answer from the server .* in 3 attempts: 503 too\\b", 2),
        (400, "400 too", 0),
    ):
        patient.clear()
        with faults(server.listening_address, before=refuse(code, "too much\nand more")) as address:
            engine = ServerEngine(address + "/v1", attempts=3, concurrency=1)
            with pytest.raises(EngineError, match=message) as caught:
                engine.generate(PROMPTS[:1])
        assert len(patient) == times and "prompt 'the cat sat on'" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="no answer from the server http://127.0.0.1:9/v1 in 2 attempts: .*refused"):
        ServerEngine("http://127.0.0.1:9/v1", attempts=2)


def test_what_is_finished_stays_when_a_server_dies(server, patient, tmp_path):
    requests = [Request(f"q{i}", text) for i, text in enumerate(PROMPTS * 5)]
    asked, life = [], [21]  # completions that it answers until it is dead

    def die(number, handler, body):
        if not life[0]:
            handler.close_connection = True
            return None
        life[0] -= 1
        asked.append(body["prompt"])
        return body

    with faults(server.listening_address, before=die) as address:

        def answers(store):
            engine = ServerEngine(address + "/v1", max_new_tokens=NEW, concurrency=1, attempts=2)
            return engine.answer(requests, store=store)

        with pytest.raises(EngineError, match="prompt '.*': no answer from the server .* in 2 attempts") as caught:
            answers(tmp_path)
        assert "\n" not in str(caught.value) and len(asked) == 21  # 2 to try it, a batch of 16, and 3 of the next
        life[0] = 10**9
        found = answers(tmp_path)
        assert len(asked) == 21 + 2 + len(requests) - 16
        assert [(r.item_id, r.tokens) for r in found] == [(r.item_id, r.tokens) for r in answers(None)]


def test_what_is_no_json_is_said_at_once(server, patient):
    def page(number, handler, body):
        handler.send_response(200)
        handler.send_header("Content-Length", "6")
        handler.end_headers()
        handler.wfile.write(b"<html>")

    with faults(server.listening_address, before=page) as address:
        with pytest.raises(EngineError, match="did not answer JSON .*is it a completions API"):
            ServerEngine(address + "/v1").generate(PROMPTS[:1])
    assert not patient


def test_a_server_that_hangs_is_given_up(server, patient):
    free = threading.Event()
    with faults(server.listening_address, before=lambda *_: free.wait(20) and None) as address:
        engine = ServerEngine(address + "/v1", attempts=2, timeout=0.2)
        with pytest.raises(EngineError, match="no answer from the server .* in 2 attempts: timed out"):
            engine.generate(PROMPTS[:1])
        free.set()


def test_the_first_failure_ends_the_work(server, patient):
    seen = []

    def refuse(number, handler, body):
        seen.append(number)
        handler.answer(400, {"error": "no"})

    with faults(server.listening_address, before=refuse) as address, pytest.raises(EngineError, match="400 no"):
        ServerEngine(address + "/v1", concurrency=2).generate(PROMPTS * 5)
    assert len(seen) <= 4


def test_redirects_are_not_followed_and_keys_stay(server, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    keys = []

    def other(number, handler, body):
        keys.append(("other", handler.headers["Authorization"]))
        return body

    with faults(server.listening_address, before=other) as elsewhere:

        def away(number, handler, body):
            keys.append(("first", handler.headers["Authorization"]))
            handler.answer(307, {}, Location=elsewhere + "/v1/completions")

        with faults(server.listening_address, before=away) as address:
            engine = ServerEngine(address + "/v1")
            with pytest.raises(EngineError, match="refuses: 307") as caught:
                engine.generate(PROMPTS[:1])
    assert keys == [("first", "Bearer secret")]
    assert "secret" not in str(caught.value) + json.dumps(engine.describe())


def test_key_comes_from_the_environment(file, monkeypatch):
    server = serve(file, key="open sesame")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    url = server.listening_address + "/v1"
    with pytest.raises(EngineError, match=f"refuses: 401 .*; its key is read from {KEY_VARIABLE}"):
        ServerEngine(url).generate(PROMPTS[:1])
    monkeypatch.setenv(KEY_VARIABLE, "open sesame")
    assert ServerEngine(url, max_new_tokens=NEW).generate(PROMPTS[:1])[0].logprobs


def test_servers_that_tell_too_little_or_answer_otherwise(server, pair):
    def without(reply):
        reply["choices"][0]["logprobs"] = None
        return reply

    with faults(server.listening_address, after=without) as address:
        with pytest.raises(EngineError, match="the server returns no log-probabilities"):
            ServerEngine(address + "/v1", max_new_tokens=NEW).generate(PROMPTS)
        with pytest.raises(EngineError, match="neither echoes prompts .* nor tells that of a token that was forced"):
            ServerEngine(address + "/v1", tokenizer=pair[2]).score(["the"], [("yes", "no")])

    def after_the_bias(reply):
        for row in reply["choices"][0]["logprobs"]["content"]:
            row["logprob"] = -1e-5
        return reply

    with faults(server.listening_address, after=after_the_bias) as address:
        with pytest.raises(EngineError, match="log-probabilities of forced tokens are those after the bias"):
            ServerEngine(address + "/v1", tokenizer=pair[2]).score(["the"], [("yes", "no")])

    def hot(number, handler, body):
        return body | {"temperature": 5.0, "seed": 0}

    with faults(server.listening_address, before=hot) as address:
        with pytest.raises(EngineError, match="a token that was not the most probable one"):
            ServerEngine(address + "/v1", max_new_tokens=NEW).generate(PROMPTS)
    with faults(server.listening_address, after=lambda reply: {"choices": []}) as address:
        with pytest.raises(EngineError, match="answered without a completion that can be read: {'choices': \\[\\]}"):
            ServerEngine(address + "/v1").generate(PROMPTS[:1])


def test_models_and_settings(url):
    name = ServerEngine(url).model
    assert name.endswith("small.gguf") and ServerEngine(url, name).model == name
    with pytest.raises(EngineError, match="has no model 'other': it has .*small.gguf"):
        ServerEngine(url, "other")
    with pytest.raises(ValueError, match="a server's address begins with http:// or https://, got 'localhost:80'"):
        ServerEngine("localhost:80")
    with pytest.raises(ValueError, match="must be positive, and the timeout at most .* got 0"):
        ServerEngine(url, concurrency=0)
    with pytest.raises(ValueError, match="max_new_tokens must be a whole number"):
        ServerEngine(url, max_new_tokens=True)


# ------------------------------------------------------------------------- parts


def test_columns_and_rows_of_logprobs_are_read_alike():
    columns = {
        "tokens": ["the", " cat"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {" cat": -0.5, " dog": -1.25}],
    }
    first, second = read_positions({"logprobs": columns})
    assert first.token == "the" and math.isnan(first.logprob) and first.top == []
    assert second == (" cat", -0.5, [-0.5, -1.25], " cat")
    assert read_positions({"logprobs": columns, "token_ids": [4, 7]})[1] == (7, -0.5, [-0.5, -1.25], " cat")
    row = {"id": 7, "token": " cat", "logprob": -0.5, "top_logprobs": [{"logprob": -1.25}, {"logprob": -0.5}]}
    assert read_positions({"logprobs": {"content": [row]}}) == [(7, -0.5, [-0.5, -1.25], " cat")]
    assert read_positions({"logprobs": None}) == [] == read_positions({})


def test_pauses_grow_and_heed_the_server():
    for attempt, most in ((1, 1), (2, 2), (5, 16), (40, 60)):
        assert all(most / 2 <= pause(attempt) <= most for _ in range(20))
    assert pause(1, "7") == 7 and pause(1, "100000") == 60
    assert pause(2, "Wed, 21 Oct 2026 07:28:00 GMT") <= 2  # a date is not waited for


def test_a_key_with_a_line_end_is_refused_and_not_shown(server, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret\r")
    with pytest.raises(ValueError, match=f"{KEY_VARIABLE} holds a character that no key has") as caught:
        ServerEngine(server.listening_address + "/v1")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ValueError, match="the timeout at most"):
        ServerEngine(server.listening_address + "/v1", timeout=float("inf"))
