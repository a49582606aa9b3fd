"""What ends an answer, alike in every engine: nothing behind it counts, and the token that completes it does."""

import random
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from columns_server import serve_columns
from hypothesis import given
from hypothesis import strategies as st
from llama_server import WORDS, plain_pair, serve, write_gguf

from cat_core.cascade import Request
from cat_core.engines.local import TransformersEngine, vllm_answer, vllm_stops
from cat_core.engines.server import ServerEngine
from cat_core.engines.stops import Stops
from cat_core.flops import request_flops
from cat_core.text import TextFormat

NEW = 12
DRAW = random.Random(0)
TEXTS = [" " + " ".join(DRAW.choices(WORDS, k=DRAW.randint(1, 8))) for _ in range(14)]


@pytest.fixture(scope="module")
def model():
    """A model that writes long answers, and its tokenizer."""
    return plain_pair()[1:]


@pytest.fixture(scope="module")
def whole(model):
    """The answers of the model itself, of which nothing is cut but behind EOS."""
    return TransformersEngine.of(model[0], model[1], max_new_tokens=NEW).generate(TEXTS)


@pytest.fixture(scope="module", params=["rows", "columns", "columns without stops"])
def url(request, model, tmp_path_factory):
    """Three servers: llama.cpp, which leaves out what stops; one that tells it; one that does not know of stops."""
    if request.param == "rows":
        pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
        path = tmp_path_factory.mktemp("gguf") / "large.gguf"
        write_gguf(model[0], model[1], path)
        server = serve(path)
        yield server.listening_address + "/v1"
        return
    ignored = ("stop", "stop_token_ids") if request.param != "columns" else ()
    with serve_columns(model[0], model[1], ignored=ignored, owner="vllm") as address:
        yield address


@dataclass
class Cut:
    """An answer cut by hand: the shortest beginning that has the string in its text, or ends with the id."""

    tokens: list
    text: str
    ended: bool

    @classmethod
    def of(cls, tokenizer, tokens, strings=(), ids=()):
        ids = {tokenizer.eos_token_id, *ids}
        for n in range(1, len(tokens) + 1):
            text = tokenizer.decode(tokens[:n], skip_special_tokens=True)
            met = [text.index(string) for string in strings if string in text]
            if tokens[n - 1] in ids:
                text = tokenizer.decode(tokens[: n - 1], skip_special_tokens=True)
            if met or tokens[n - 1] in ids:
                return cls(tokens[:n], text[: min(met, default=len(text))].strip(), True)
        return cls(tokens, tokenizer.decode(tokens, skip_special_tokens=True).strip(), False)


def strings(tokenizer, whole):
    """Stops that are met in some of the answers: one token, two letters of two tokens, many at once."""
    texts = [[tokenizer.decode([i]) for i in a.tokens if i != tokenizer.eos_token_id] for a in whole]
    long = [row for row in texts if len(row) > 5]
    assert len(long) >= 3
    return [(long[0][2],), (long[1][1][-1] + long[1][2][0],), (long[2][4], long[0][3], "never met")]


@pytest.mark.parametrize("tokenizer", [True, False], ids=["ids", "text"])
def test_strings_end_answers_alike_at_every_server(url, model, whole, tokenizer):
    for stop in strings(model[1], whole):
        engine = ServerEngine(url, tokenizer=model[1] if tokenizer else None, max_new_tokens=NEW, stop=stop)
        cuts = [Cut.of(model[1], a.tokens, stop) for a in whole]
        assert any(len(cut.tokens) < len(a.tokens) for cut, a in zip(cuts, whole))
        for cut, a, found in zip(cuts, whole, engine.generate(TEXTS), strict=True):
            count = len(cut.tokens)
            if isinstance(found.tokens[0], int):
                assert found.tokens == cut.tokens
            assert (found.text, found.ended, found.n_generated) == (cut.text, cut.ended, count)
            np.testing.assert_allclose(found.logprobs, a.logprobs[:count], rtol=0, atol=5e-5)
            np.testing.assert_allclose(found.margins, a.margins[:count], rtol=0, atol=1e-4)


def test_ids_end_answers_alike_at_every_server(url, model, whole):
    middle = {a.tokens[2] for a in whole if len(a.tokens) > 4}
    engine = ServerEngine(
        url, tokenizer=model[1], config=model[0].config, max_new_tokens=NEW, stop_ids=frozenset(middle)
    )
    found = engine.answer([Request(str(i), text) for i, text in enumerate(TEXTS)])
    cuts = [Cut.of(model[1], a.tokens, ids=middle) for a in whole]
    assert any(len(cut.tokens) < len(a.tokens) for cut, a in zip(cuts, whole))
    for cut, a, response in zip(cuts, whole, found, strict=True):
        count = len(cut.tokens)
        assert (response.prediction, response.truncated, response.n_generated) == (cut.text, not cut.ended, count)
        assert response.flops == request_flops(model[0].config, a.n_prompt, count)
        np.testing.assert_allclose(response.confidences["chow_sum"], sum(a.logprobs[:count]), rtol=0, atol=6e-4)


def test_stops_are_part_of_what_an_engine_is(url, model):
    plain = ServerEngine(url, tokenizer=model[1]).describe()
    eos = ServerEngine(url, tokenizer=model[1], stop_ids=frozenset({model[1].eos_token_id})).describe()
    other = ServerEngine(url, tokenizer=model[1], stop=["\n"], stop_ids=frozenset({7})).describe()
    del plain["text"], eos["text"], other["text"]  # which names the strings, too
    assert "stop" not in plain and eos == plain and other == plain | {"stop": [[7], ["\n"]]}


def test_a_string_that_is_a_token_of_its_own_ends_by_its_id(model):
    stops = Stops.of(TextFormat(model[1], stop=["</s>", "\n", "<pad>"]), {7})
    assert stops.ids == {model[1].eos_token_id, model[1].pad_token_id, 7} and "</s>" in stops.strings


def test_unfit_stops_are_refused():
    for stop, ids, message in (
        ("\n", (), "stop must be a list of texts, none of them empty, got '\\\\n'"),
        ([""], (), "stop must be a list of texts"),
        ([], {-1}, "stop_ids must be token ids"),
        ([], {True}, "stop_ids must be token ids"),
    ):
        with pytest.raises(ValueError, match=message):
            Stops(frozenset(ids), stop if isinstance(stop, str) else tuple(stop))


@given(
    st.lists(st.text("ab\n.", min_size=1, max_size=3), max_size=8), st.lists(st.text("ab\n.", min_size=1), max_size=3)
)
def test_the_first_end_counts(pieces, stops):
    """Tokens with texts of several letters, any of which may be where a string begins, and ids at any place."""
    tokens = list(range(len(pieces)))
    for ids in (frozenset(), frozenset(tokens[3:4])):
        expected = next(
            (n for n in range(1, len(tokens) + 1) if n - 1 in ids or any(s in "".join(pieces[:n]) for s in stops)), None
        )
        rule = Stops(ids, tuple(stops))
        assert rule.length(tokens, lambda n: "".join(pieces[:n])) == expected
    text = "".join(pieces)
    before = Stops(strings=tuple(stops)).before(text)
    assert text.startswith(before) and not any(s in before for s in stops)
    assert before == text or any(text[len(before) :].startswith(s) for s in stops)


# ------------------------------------------------------------------------------ vLLM


def test_vllm_is_told_of_every_end_and_cut_where_it_went_on(model, whole):
    """`vllm_answer` reads a CompletionOutput: token ids, a table of log-probabilities, and a reason."""
    stop = strings(model[1], whole)[1]
    assert vllm_stops(Stops.of(TextFormat(model[1], stop=stop))) == {
        "stop": list(stop),
        "stop_token_ids": [model[1].eos_token_id],
        "include_stop_str_in_output": True,
    }
    for a in whole:
        table = [
            {t: SimpleNamespace(logprob=x), -1: SimpleNamespace(logprob=x - 1)} for t, x in zip(a.tokens, a.logprobs)
        ]
        made = SimpleNamespace(token_ids=a.tokens, logprobs=table, finish_reason="stop" if a.ended else "length")
        cut = Cut.of(model[1], a.tokens, stop)
        found = vllm_answer(model[1], Stops.of(TextFormat(model[1], stop=stop)), [1, 2, 3], made)
        assert (found.tokens, found.text, found.ended, found.n_prompt) == (cut.tokens, cut.text, cut.ended, 3)
        assert found.n_generated == len(cut.tokens) == len(found.logprobs) == len(found.margins)
        assert found.logprobs == a.logprobs[: len(cut.tokens)]
        plain = vllm_answer(model[1], Stops.of(TextFormat(model[1])), [1, 2, 3], made)
        assert (plain.tokens, plain.text, plain.ended) == (a.tokens, a.text, a.ended)
