"""The same prompts give the same tokens through transformers and a real llama.cpp server on the same weights.

In float32 they must, all of them, with log-probabilities that differ by what float32 sums do. With 4-bit weights
llama.cpp multiplies by activations that it rounds to 8 bits, so that answers part where two tokens are close.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from agreement import CHOICES, QUESTIONS, compare, option_sums
from llama_server import dequantise, plain_pair, serve, write_gguf

from cat_core.engines.contract import Answer
from cat_core.engines.local import TransformersEngine
from cat_core.engines.server import ServerEngine
from cat_core.training.models import load_model, load_tokenizer

NEW = 24


def test_answers_are_compared_up_to_where_they_part():
    def answer(tokens, logprobs, margins=()):
        return Answer("", 1, len(tokens), True, tokens, logprobs, list(margins))

    first = [answer([1, 2, 3], [-1.0, -2.0, -3.0], [0.5, 0.25, 2.0]), answer([4, 0], [-1.0, -1.0], [1.0, 1.0])]
    second = [answer([1, 5, 3], [-1.25, -9.0, -9.0]), answer([4, 0], [-1.5, -1.0])]
    found = compare(["a", "b"], first, second)
    assert found.equal == 0.5 and found.partings == [("a", 1, 0.25)]
    np.testing.assert_allclose(found.gaps, [0.25, 0.5, 0.0])
    assert compare(["b"], first[1:], first[1:]).equal == 1


def test_float32_weights_give_the_same_tokens(tmp_path):
    pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
    _, model, tokenizer = plain_pair()
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    server = serve(tmp_path / "model.gguf")
    engine = ServerEngine(server.listening_address + "/v1", tokenizer=tokenizer, max_new_tokens=NEW)
    exact = TransformersEngine.of(model, tokenizer, max_new_tokens=NEW)
    found = compare(QUESTIONS, exact.generate(QUESTIONS), engine.generate(QUESTIONS))
    assert found.equal == 1 and len(found.gaps) > 100 and found.gaps.max() < 5e-5, str(found)
    a, b = (option_sums(e, QUESTIONS, CHOICES) for e in (exact, engine))
    assert max(abs(x - y).max() for x, y in zip(a, b)) < 5e-4  # options have up to 20 tokens here
    assert [x.argmax() for x in a] == [y.argmax() for y in b]


# --------------------------------------------------------------------- a real model

PROMPTS = [f"{question} Answer:" for question in QUESTIONS]


@pytest.fixture(scope="module")
def real():
    """(engine of transformers, its answers, its option sums, the quantised file); skips without the model."""
    pytest.importorskip("gguf", reason="the server's model needs gguf, of the extra `test`")
    models = Path(os.environ.get("CAT_MODELS", "none"))
    folder, files = models / "HuggingFaceTB--SmolLM2-135M-Instruct", sorted(models.rglob("SmolLM2-135M-Instruct*.gguf"))
    if not folder.is_dir() or not files:
        pytest.skip("CAT_MODELS names no folder with SmolLM2-135M-Instruct and its GGUF")
    engine = TransformersEngine.of(load_model(str(folder)), load_tokenizer(str(folder)), max_new_tokens=NEW)
    return engine, engine.generate(PROMPTS), option_sums(engine, PROMPTS, CHOICES), files[0]


def measured(real, path):
    """(agreement of the server's answers, differences of all option sums, share of equal choices, its address)."""
    exact, answers, sums, _ = real
    server = serve(path)
    engine = ServerEngine(server.listening_address + "/v1", tokenizer=exact.runner.tokenizer, max_new_tokens=NEW)
    found, others = compare(PROMPTS, answers, engine.generate(PROMPTS)), option_sums(engine, PROMPTS, CHOICES)
    gaps = np.concatenate([abs(a - b) for a, b in zip(sums, others)])
    same = np.mean([a.argmax() == b.argmax() for a, b in zip(sums, others)])
    print(
        f"{path.name}: {found}; option sums differ by {gaps.mean():.2g} on average, {gaps.max():.2g} at most, ", end=""
    )
    print(f"{same:.1%} of choices equal; partings {found.partings}")
    return found, gaps, same, server


@pytest.mark.slow
def test_a_real_model_in_float32_gives_the_same_tokens(real, tmp_path):
    exact, answers, _, file = real
    dequantise(file, tmp_path / "float32.gguf")
    found, gaps, same, server = measured(real, tmp_path / "float32.gguf")
    # llama.cpp adds the softmax's 49,152 terms up in float32: all log-probabilities are off by one small amount
    assert found.equal == 1 and same == 1 and found.gaps.max() < 1e-3 and gaps.max() < 4e-3
    tokenizer, stop = exact.runner.tokenizer, (".", "\n")
    url = server.listening_address + "/v1"
    stopped = ServerEngine(url, tokenizer=tokenizer, max_new_tokens=NEW, stop=stop).generate(PROMPTS[::4])
    for a, b in zip(answers[::4], stopped, strict=True):
        texts = [tokenizer.decode(a.tokens[:n]) for n in range(1, len(a.tokens) + 1)]
        end = next((n for n, text in enumerate(texts, 1) if any(s in text for s in stop)), len(a.tokens))
        assert b.tokens == a.tokens[:end]
        np.testing.assert_allclose(b.logprobs, a.logprobs[:end], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_real_model_in_4_bits_parts_where_tokens_are_close(real):
    found, gaps, same, _ = measured(real, real[3])
    assert found.equal > 0.5 and max(margin for *_, margin in found.partings) < 0.75
    assert found.gaps.mean() < 0.15 and found.gaps.max() < 1.5
    assert same > 0.8 and gaps.mean() < 0.8
