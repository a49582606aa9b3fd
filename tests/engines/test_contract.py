"""One contract for all engines: greedy tokens, log-probabilities and scores are those of the model itself.

The oracle is a pass of the model over each whole sequence, and transformers' generate(). Engines: transformers, a
real server (llama.cpp on a file made here), and vLLM where it is installed.
"""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_server import WORDS, plain_pair, serve, write_gguf

import cat_core.engines.contract
from cat_core.cascade import CascadeRunner, Request
from cat_core.engines.contract import Answer, Engine, EngineError, known_config
from cat_core.engines.local import EngineCascade, TransformersEngine, VllmEngine, vllm_numbers
from cat_core.engines.server import ServerEngine
from cat_core.flops import option_flops, request_flops
from cat_core.queries import PREDICTIONS
from cat_core.text import TextFormat
from cat_core.training.code import imported_modules

NEW = 12
TOLERANCE = 5e-5  # float32 sums in another order, and a log-softmax in float32


def prompts(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(count)]


def options(count, seed=0):
    """Two to four options of each prompt, some the beginning of others."""
    draw = random.Random(seed + 1)
    pool = ["yes", "no", "the cat", "the", "a red house", "zebra", "is the sky blue"]
    return [tuple(draw.sample(pool, draw.randint(2, 4))) for _ in range(count)]


@pytest.fixture(scope="module")
def pair():
    return plain_pair()


@pytest.fixture(scope="module")
def server(pair, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "large.gguf"
    pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
    write_gguf(pair[1], pair[2], path)
    return serve(path)


@pytest.fixture(scope="module", params=["transformers", "server", "vllm"])
def engine(request, pair):
    """An engine of the pair's large model."""
    _, large, tokenizer = pair
    if request.param == "transformers":
        return TransformersEngine.of(large, tokenizer, max_new_tokens=NEW, batch_tokens=400)
    if request.param == "server":
        url = request.getfixturevalue("server").listening_address
        return ServerEngine(url + "/v1", tokenizer=tokenizer, config=large.config, max_new_tokens=NEW, concurrency=3)
    pytest.importorskip("vllm", reason="vLLM is not installed")
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    folder = request.getfixturevalue("tmp_path_factory").mktemp("vllm")
    large.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return VllmEngine(str(folder), max_new_tokens=NEW, dtype="float32", enforce_eager=True, max_model_len=64)


def table(model, head, tail):
    """float64 log-probabilities [T, V] at the places of `tail` after `head`, by one pass over both."""
    with torch.no_grad():
        logits = model(torch.tensor([head + tail]), use_cache=False).logits[0].double()
    return logits.log_softmax(-1)[len(head) - 1 : -1].numpy()


# ---------------------------------------------------------------- the contract


def test_generates_the_greedy_answer_with_its_logprobs(engine, pair):
    _, large, tokenizer = pair
    texts = prompts(40)
    found = engine.generate(texts)
    for text, answer in zip(texts, found, strict=True):
        head = TextFormat(tokenizer).prompt(text)
        ids = torch.tensor([head])
        made = large.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        tokens = made[0, len(head) :].tolist()
        assert answer.tokens == tokens
        rows = table(large, head, tokens)
        np.testing.assert_allclose(answer.logprobs, rows[range(len(tokens)), tokens], rtol=0, atol=TOLERANCE)
        ordered = np.sort(rows, axis=-1)
        np.testing.assert_allclose(answer.margins, ordered[:, -1] - ordered[:, -2], rtol=0, atol=TOLERANCE)
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert (answer.n_prompt, answer.n_generated) == (len(head), len(tokens))
        assert answer.ended == (tokens[-1] == tokenizer.eos_token_id)
        if answer.entropies:
            np.testing.assert_allclose(answer.entropies, -(np.exp(rows) * rows).sum(-1), rtol=0, atol=TOLERANCE)
    assert {answer.ended for answer in found} == {True, False}  # both are met
    assert bool(found[0].entropies) == isinstance(engine, TransformersEngine)


def test_scores_every_option_with_its_end(engine, pair):
    _, large, tokenizer = pair
    texts, choices = prompts(15), options(15)
    for text, row, answers in zip(texts, choices, engine.score(texts, choices), strict=True):
        head = TextFormat(tokenizer).prompt(text)
        for option, answer in zip(row, answers, strict=True):
            tail = TextFormat(tokenizer).target(option)
            expected = table(large, head, tail)[range(len(tail)), tail]
            np.testing.assert_allclose(answer.logprobs, expected, rtol=0, atol=TOLERANCE)
            assert (answer.text, answer.tokens) == (option, tail)
            assert (answer.n_prompt, answer.n_generated) == (len(head), len(tail))


def test_responses_have_the_confidences_and_costs_that_are_known(engine, pair, tmp_path):
    _, large, tokenizer = pair
    texts, choices = prompts(20, seed=3), options(20, seed=3)
    requests = [Request(f"q{i}", text, row if i % 2 else ()) for i, (text, row) in enumerate(zip(texts, choices))]
    found = engine.answer(requests, store=tmp_path)
    assert [r.item_id for r in found] == [r.item_id for r in requests]
    for request, response in zip(requests, found):
        head, logprobs = TextFormat(tokenizer).prompt(request.prompt), response.token_logprobs
        expected = {f"chow_quantile_{q}": np.quantile(logprobs, q / 100) for q in (0, 25, 50, 75, 100)}
        expected |= {"chow_sum": np.sum(logprobs), "chow_average": np.mean(logprobs)}
        tails = [TextFormat(tokenizer).target(option) for option in request.options]
        if tails:
            sums = [table(large, head, tail)[range(len(tail)), tail].sum() for tail in tails]
            best = int(np.argmax(sums))
            assert (response.prediction, response.tokens) == (request.options[best], tails[best])
            assert response.flops == option_flops(large.config, len(head), [len(tail) for tail in tails])
            expected["option_probability"] = sums[best] - np.logaddexp.reduce(sums)
            expected["option_margin"] = sums[best] - max(np.delete(sums, best))
            np.testing.assert_allclose(response.option_logprobs, sums, rtol=0, atol=6 * TOLERANCE)
        else:
            assert response.flops == request_flops(large.config, len(head), len(response.tokens))
            expected["token_margin"] = np.mean(response.token_margins)
        for name in response.confidences.keys() - expected:  # an engine may know more, of the two that are left
            assert name in ("token_margin", "token_entropy")
        known = {name: response.confidences[name] for name in expected}
        assert known == pytest.approx(expected, rel=0, abs=6 * TOLERANCE)
    assert ("token_entropy" in found[0].confidences) == isinstance(engine, TransformersEngine)
    assert engine.answer(requests, store=tmp_path) == found


def test_another_engine_is_refused_by_the_store(engine, pair, tmp_path):
    engine.answer([Request("a", "the cat")], store=tmp_path)
    other = TransformersEngine.of(pair[0], pair[2], max_new_tokens=NEW)
    with pytest.raises(ValueError, match=r"holds another run \(different: .*model"):
        other.answer([Request("a", "the cat")], store=tmp_path)


def test_an_engine_says_what_its_numbers_depend_on(engine):
    described = engine.describe()
    assert json.loads(json.dumps(described)) == described and {"engine", "model"} <= set(described)


def test_half_an_engine_is_none():
    half = type("Half", (Engine,), {"generate": TransformersEngine.generate, "score": TransformersEngine.score})
    with pytest.raises(TypeError, match="describe"):
        half()


def test_the_contract_stands_first_and_alone():
    """It is built on the core, on no engine and not on the runner that is one of them."""
    targets = set(imported_modules(Path(cat_core.engines.contract.__file__).read_text(), "cat_core.engines"))
    assert "cat_core.queries" in targets and "cat_core.cascade" not in targets
    assert {target.rpartition(".")[0] for target in targets} <= {"", "cat_core"}


# ------------------------------------------------------------------ the common part


class Table(Engine):
    """An engine that looks its numbers up in those of another one, and counts what it is asked."""

    def __init__(self, engine, batch_items=4):
        self.engine, self.batch_items, self.asked = engine, batch_items, []

    def describe(self):
        return {"engine": "table"}

    def generate(self, prompts):
        self.asked += prompts
        return self.engine.generate(prompts)

    def score(self, prompts, options):
        self.asked += prompts
        return self.engine.score(prompts, options)


@pytest.fixture
def exact(pair):
    return TransformersEngine.of(pair[1], pair[2], max_new_tokens=NEW)


def test_common_part_makes_the_runners_responses(pair):
    """Batches, confidences and costs of `Engine.answer` are those of `CascadeRunner.answer`."""
    requests = [
        Request(f"q{i}", text, row if i % 2 else ()) for i, (text, row) in enumerate(zip(prompts(30), options(30)))
    ]
    for prediction in PREDICTIONS:
        exact = TransformersEngine.of(pair[1], pair[2], max_new_tokens=NEW, prediction=prediction)
        general = Table(exact)
        general.config, general.prediction = pair[1].config, prediction
        for a, b in zip(general.answer(requests), exact.answer(requests), strict=True):
            assert (a.item_id, a.prediction, a.tokens, a.flops) == (b.item_id, b.prediction, b.tokens, b.flops)
            assert a.confidences == pytest.approx(b.confidences, rel=0, abs=TOLERANCE)
            assert (a.n_prompt, a.n_generated, a.truncated) == (b.n_prompt, b.n_generated, b.truncated)


def test_nothing_is_asked_twice(exact, tmp_path):
    requests = [Request(f"q{i}", text) for i, text in enumerate(prompts(10))]
    engine = Table(exact)

    def stop(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.answer(requests, progress=stop, store=tmp_path)
    assert len(engine.asked) == 8
    found = engine.answer(requests, store=tmp_path)
    assert sorted(engine.asked) == sorted(r.prompt for r in requests)
    assert [r.item_id for r in found] == [r.item_id for r in requests] and found == Table(exact).answer(requests)


def test_cascade_of_two_engines_is_that_of_the_runner(pair, tmp_path):
    runner = CascadeRunner(*pair, max_new_tokens=NEW)
    requests = [Request(f"q{i}", text) for i, text in enumerate(prompts(20))]
    tau = sorted(r.confidences["chow_sum"] for r in runner.answer(requests))[6]
    expected = runner.run(requests, tau, "chow_sum")
    both = EngineCascade(TransformersEngine(runner, "small"), TransformersEngine(runner, "large"))
    found = both.run(requests, tau, "chow_sum", store=tmp_path)
    assert found.deferred.sum() == 7 and found.responses == expected.responses and found.flops == expected.flops
    mixed = EngineCascade(TransformersEngine(runner, "small"), Table(TransformersEngine(runner, "large")))
    found = mixed.run(requests, tau, "chow_sum")
    assert [r.tokens for r in found.responses] == [r.tokens for r in expected.responses]
    # the other engine's shape is not known: no cost where it was asked
    assert [flops is None for flops in found.flops] == found.deferred.tolist()
    stopped = both.run(requests, tau, "chow_sum", early_exit=True)
    assert stopped.responses == expected.responses and sum(stopped.flops) < sum(expected.flops)
    with pytest.raises(ValueError, match="early exit needs the engine of transformers, got Table"):
        EngineCascade(Table(TransformersEngine(runner, "small")), both.engines["large"]).run(
            requests, tau, "chow_sum", early_exit=True
        )
    with pytest.raises(ValueError, match="unknown model 'medium'"):
        both.answer(requests, "medium")


def test_an_answer_without_whole_logprobs_has_no_confidence(exact):
    class Gaps(Table):
        def generate(self, prompts):
            return [Answer(a.text, a.n_prompt, a.n_generated, a.ended) for a in super().generate(prompts)]

    requests = [Request("a", "the cat")]
    gaps = Gaps(exact)
    assert gaps.answer(requests)[0].confidences == {}
    assert EngineCascade(exact, gaps).run(requests, np.inf).large[0].token_logprobs == []  # of L none is needed
    with pytest.raises(EngineError, match="item 'a': the small engine gave no log-probability for some of the"):
        EngineCascade(gaps, exact).run(requests, 0.0)


def test_infinite_logprobs_name_the_item(exact):
    class Broken(Table):
        def generate(self, prompts):
            return [Answer("x", 1, 1, True, [5], [float("nan")]) for _ in prompts]

    with pytest.raises(EngineError, match="item 'a': the engine gives NaN or infinite log-probabilities"):
        Broken(exact).answer([Request("a", "the cat")])


# --------------------------------------------------------------------------- vLLM


def test_vllm_numbers_look_up_the_token_among_the_most_probable():
    class Entry:  # vllm.logprobs.Logprob has this field
        def __init__(self, logprob):
            self.logprob = logprob

    rows = [{7: Entry(-0.5), 3: Entry(-1.5)}, {7: Entry(-0.25), 3: Entry(-2.0), 9: Entry(-8.0)}]
    logprobs, margins = vllm_numbers([7, 9], rows)
    assert logprobs == [-0.5, -8.0] and margins == [1.0, 1.75]


def test_without_vllm_one_line_says_so():
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(EngineError, match="vLLM cannot be imported .*: pip install vllm, or name a server"):
            VllmEngine("anything")
    with pytest.raises(ValueError, match="max_new_tokens must be a whole number >= 1, got 0"):
        VllmEngine("anything", max_new_tokens=0)
    with pytest.raises(ValueError, match="unknown prediction rule 'best'"):
        VllmEngine("anything", prediction="best")


def test_costs_are_counted_for_known_shapes_only(pair):
    from transformers import BloomConfig, T5Config

    assert known_config(pair[0].config) is pair[0].config
    assert known_config(None) is None and known_config(BloomConfig()) is None and known_config(T5Config()) is None
