"""Features of answers against the models' own full outputs, item by item and in float64 where it matters."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from cat_core.cascade import CascadeRunner, Request
from cat_core.files import read_sealed, write_sealed
from cat_core.flops import first_layer_flops
from cat_core.rules.features import LEVELS, TOKEN_FEATURES, AnswerFeatures, answer_features, first_layer, token_features

TEXTS = ["the cat", "a dog runs after the cat", "is the sky blue", "zebra", "a red house is on the mat the cat sat on"]
REQUESTS = [Request(f"q{i}", text) for i, text in enumerate(TEXTS)] + [
    Request(f"c{i}", text, ("yes", "a red house", "no")) for i, text in enumerate(TEXTS)
]


@pytest.fixture(scope="module")
def runner(tiny_pair):
    return CascadeRunner(*tiny_pair, max_new_tokens=9, batch_tokens=60)


@pytest.fixture(scope="module")
def responses(runner):
    return runner.answer(REQUESTS)


@pytest.fixture(scope="module")
def features(runner, responses):
    return answer_features(runner, REQUESTS, [r.tokens for r in responses])


def test_features_equal_the_models_own_outputs(tiny_pair, responses, features):
    small, large, _ = tiny_pair
    items = CascadeRunner(*tiny_pair, max_new_tokens=9).items(REQUESTS)
    assert features.item_ids == tuple(r.item_id for r in REQUESTS) and len(features) == len(REQUESTS)
    assert features.tokens.shape == (sum(r.n_generated for r in responses), 11) and len(TOKEN_FEATURES) == 11
    after = {}
    hook = large.model.layers[0].register_forward_hook(lambda module, inputs, output: after.update(out=output))
    for i, (item, response) in enumerate(zip(items, responses)):
        ids = torch.tensor([item.prompt + response.tokens])
        places = range(len(item.prompt) - 1, ids.shape[1] - 1)
        with torch.no_grad():
            output = small(ids, output_hidden_states=True)
            large(torch.tensor([item.prompt]))
        state = output.hidden_states[-1][0, list(places)].double().mean(0)
        np.testing.assert_allclose(features.small_state[i], state, rtol=0, atol=1e-5)
        embedding = (after["out"][0] if isinstance(after["out"], tuple) else after["out"]).double().squeeze(0).mean(0)
        np.testing.assert_allclose(features.large_embedding[i], embedding, rtol=0, atol=1e-5)
        table = output.logits[0, list(places)].double().log_softmax(-1).numpy()
        rows = []
        for line, token in zip(table, response.tokens):
            ordered = sorted(line, reverse=True)
            entropy = -math.fsum(math.exp(v) * v for v in line)
            rows.append([entropy, *(ordered[0] - ordered[k] for k in range(1, 10)), line[token]])
        found = features.tokens[features.offsets[i] : features.offsets[i + 1]]
        np.testing.assert_allclose(found, rows, rtol=0, atol=2e-5)
        # what the runner wrote down while it answered
        np.testing.assert_allclose(found[:, -1], response.token_logprobs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[:, 0], response.token_entropies, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[:, 1], response.token_margins, rtol=0, atol=1e-5)
        expected = [np.quantile(response.token_logprobs, level) for level in LEVELS]
        np.testing.assert_allclose(features.quantiles[i], expected, rtol=0, atol=1e-5)
    hook.remove()


def test_batched_equals_alone(tiny_pair, responses, features):
    alone = CascadeRunner(*tiny_pair, max_new_tokens=9, batch_tokens=1)
    seen = []
    other = answer_features(
        alone, REQUESTS, [r.tokens for r in responses], lambda done, total: seen.append((done, total))
    )
    assert seen == [(k, len(REQUESTS)) for k in range(1, len(REQUESTS) + 1)]
    for name in ("quantiles", "small_state", "large_embedding", "tokens"):
        np.testing.assert_allclose(getattr(features, name), getattr(other, name), rtol=0, atol=1e-5)


def test_vocabulary_beyond_the_common_one_is_cut_off(tiny_pair, responses, features):
    small, large, tokenizer = copy.deepcopy(tiny_pair[0]), *tiny_pair[1:]
    size = len(tokenizer)
    small.resize_token_embeddings(size + 9, mean_resizing=False)
    with torch.no_grad():
        small.lm_head.weight[size:] = 3 * small.lm_head.weight[:9]
    found = answer_features(
        CascadeRunner(small, large, tokenizer, max_new_tokens=9), REQUESTS, [r.tokens for r in responses]
    )
    np.testing.assert_allclose(found.tokens, features.tokens, rtol=0, atol=1e-5)


def test_first_layer_runs_no_other_layer_and_costs_what_is_charged(tiny_pair):
    config = copy.deepcopy(tiny_pair[1].config)
    config._attn_implementation = "eager"  # the counter sees nothing of other CPU kernels
    large = type(tiny_pair[1])(config).eval()
    for layer in large.model.layers[1:]:
        layer.register_forward_hook(lambda *_: pytest.fail("a later layer ran"))
    large.model.norm.register_forward_hook(lambda *_: pytest.fail("the final norm ran"))
    large.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    short = first_layer(large)
    for prompt in (1, 7, 12):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            short(torch.full((1, prompt), 5), use_cache=False)
        assert counter.get_total_flops() == first_layer_flops(config, prompt) > 0
    assert len(large.model.layers) == config.num_hidden_layers  # the model itself is whole
    with pytest.raises(ValueError, match="prompt_tokens must be at least 1, got 0"):
        first_layer_flops(config, 0)
    other = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    with pytest.raises(ValueError, match="GPT2Model is not built like Llama's decoder"):
        first_layer(other)


def test_charged_for_the_prompt_the_model_reads(tiny_pair, runner, features):
    lengths = [len(item.prompt) for item in runner.items(REQUESTS)]
    assert features.large_flops.tolist() == [first_layer_flops(tiny_pair[1].config, n) for n in lengths]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 1000), st.sampled_from([0.1, 3.0, 30.0]))
def test_token_features_equal_their_definitions(vocab, rows, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab, generator=generator) * scale).requires_grad_()
    tokens = torch.randint(vocab, (rows,), generator=generator)
    found = token_features(logits, tokens)
    assert found.shape == (rows, 11) and not found.requires_grad
    table = logits.detach().double().log_softmax(-1)
    for line, token, row in zip(table.tolist(), tokens.tolist(), found.tolist()):
        ordered = sorted(line, reverse=True)
        margins = [ordered[0] - ordered[min(k, vocab - 1)] for k in range(1, 10)]
        expected = [-math.fsum(math.exp(v) * v for v in line), *margins, line[token]]
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_saved_and_loaded(features, tmp_path):
    loaded = AnswerFeatures.load(features.save(tmp_path / "f"))
    assert loaded.item_ids == features.item_ids
    for name in ("quantiles", "small_state", "large_embedding", "tokens", "offsets", "large_flops"):
        one, other = getattr(loaded, name), getattr(features, name)
        assert one.dtype == other.dtype and np.array_equal(one, other)
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["features.json", "features.safetensors"]
    path, arrays = (tmp_path / "f" / name for name in ("features.json", "features.safetensors"))
    meta = read_sealed(path, arrays)
    write_sealed(path, meta | {"columns": ["entropy"]}, arrays)
    with pytest.raises(ValueError, match="features of another version: delete it"):
        AnswerFeatures.load(tmp_path / "f")


def test_padded_tokens(features):
    padded, mask = features.padded_tokens()
    assert mask.sum(1).tolist() == np.diff(features.offsets).tolist() and not padded[~mask].any()
    assert np.array_equal(padded[mask], features.tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answers: answers[:-1], "got 9 answers to 10 requests"),
        (lambda answers: [[], *answers[1:]], "item 'q0': its answer needs one or more ids"),
        (lambda answers: [[10_000], *answers[1:]], "item 'q0': its answer needs one or more ids"),
        (lambda answers: [*answers[:-1], [5, 6]], "item 'c4': its answer is none of its options"),
    ],
)
def test_answers_that_cannot_be(runner, responses, change, message):
    with pytest.raises(ValueError, match=message):
        answer_features(runner, REQUESTS, change([r.tokens for r in responses]))


def test_damaged_weights_are_named(tiny_pair, responses):
    for which in (0, 1):
        pair = [copy.deepcopy(model) for model in tiny_pair[:2]]
        token = tiny_pair[2]("zebra", add_special_tokens=False).input_ids[-1]
        with torch.no_grad():
            pair[which].get_input_embeddings().weight[token] = math.nan
        where = "small model's answer" if which == 0 else "prompt"
        with pytest.raises(ValueError, match=f"item 'q3': NaN in the {where}"):
            answer_features(
                CascadeRunner(*pair, tiny_pair[2], max_new_tokens=9), REQUESTS, [r.tokens for r in responses]
            )
