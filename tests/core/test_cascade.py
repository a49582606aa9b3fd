"""The cascade runner against transformers' generate(), against naive scoring, and against itself: batched and
alone, resumed after kill -9 and uninterrupted."""

import copy
import json
import math
import random
import signal

import numpy as np
import pytest
import torch
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import cat_core.inference
import cat_core.shapes.caches
from cat_core.cascade import CascadeRunner, Request, plan_batches
from cat_core.confidence import confidence_rules, quantile_rules
from cat_core.flops import option_flops, request_flops
from cat_core.queries import PREDICTIONS, UNCONDITIONAL, best_option
from cat_core.text import TextFormat

WORDS = "the cat sat on mat a dog runs after is sky blue house red zebra".split()
NEW = 12


def prompts(count, seed=0, longest=14):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def questions(count, seed=0):
    return [Request(f"q{i}", text) for i, text in enumerate(prompts(count, seed))]


def choices(count, seed=0):
    """Requests with two to four options of different lengths."""
    draw = random.Random(seed + 1)
    pool = ["yes", "no", "the cat", "a red house", "zebra", "is the sky blue"]
    return [
        Request(f"c{i}", text, tuple(draw.sample(pool, draw.randint(2, 4))))
        for i, text in enumerate(prompts(count, seed))
    ]


@pytest.fixture(autouse=True)
def runs_of_like_length(monkeypatch):
    """Prompts of other length are read in a pass of their own, however little padding that saves."""
    monkeypatch.setitem(cat_core.shapes.caches.PASS_TOKENS, "cpu", 0)


@pytest.fixture
def runner(tiny_pair):
    return CascadeRunner(*tiny_pair, max_new_tokens=NEW, batch_tokens=400)


def assert_same(one, other, tolerance=1e-5):
    """Two lists of responses: equal answers, numbers within the tolerance."""
    assert [r.item_id for r in one] == [r.item_id for r in other]
    for a, b in zip(one, other):
        assert (a.tokens, a.prediction, a.flops, a.truncated) == (
            b.tokens,
            b.prediction,
            b.flops,
            b.truncated,
        )
        for name in ("token_logprobs", "token_margins", "token_entropies", "option_logprobs"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance, err_msg=name)
        assert a.confidences.keys() == b.confidences.keys()
        for name in ("token_margin", "token_entropy", "chow_quantile_25", "chow_quantile_50", "chow_average"):
            assert a.confidences[name] == pytest.approx(b.confidences[name], rel=0, abs=tolerance)


def spread(table):
    """Margins and entropies of log-probability rows [n, V] in float64, each by its definition."""
    ordered = np.sort(table.numpy(), axis=-1)
    with np.errstate(invalid="raise"):
        return ordered[:, -1] - ordered[:, -2], [-math.fsum(np.exp(row) * row) for row in ordered]


def rules_of_tokens(logprobs, margins, entropies):
    """The rules that need nothing but an answer's own tokens, by numpy."""
    rules = {f"chow_quantile_{q}": np.quantile(logprobs, q / 100) for q in (0, 25, 50, 75, 100)}
    rules |= {"chow_sum": sum(logprobs), "chow_average": np.mean(logprobs)}
    return rules | {"token_margin": np.mean(margins), "token_entropy": -np.mean(entropies)}


# ------------------------------------------------------------------ generation


SHORT = {"sliding_window": 4}  # shorter than what is read
SOME = SHORT | {"use_sliding_window": True, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gemma2", SHORT | {"head_dim": 8}),
        ("falcon", {"alibi": True, "multi_query": False}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("gemma3_text", SHORT | {"head_dim": 8, "sliding_window_pattern": 2}),
        (
            "gemma4_text",
            SHORT
            | {
                "head_dim": 8,
                "global_head_dim": 12,
                "hidden_size_per_layer_input": 6,
                "vocab_size_per_layer_input": 31,
                "num_kv_shared_layers": 1,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            },
        ),
        ("granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7}),
        ("gpt2", {}),
        ("mistral", SHORT),
        ("olmo3", SHORT),
        ("phi3", SHORT),
        (
            "qwen3_5_text",
            {
                "head_dim": 8,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 6,
                "linear_value_head_dim": 5,
                "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            },
        ),
        ("stablelm", {}),
        ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.25}),
        ("qwen2", SOME),
        ("qwen3_moe", SOME | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 8}),
        ("smollm3", SOME | {"no_rope_layers": [1, 0, 1]}),
    ],
)
def test_other_families_are_read_in_batches_as_whole_sequences_alone(kind, fields):
    """Caches with windows, states, shared keys, and positions that are learned, of left-padded prompts: against passes
    without a cache. Rows leave the batch, and those of a memory are repeated for options."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 31}
    more = {} if kind in ("falcon", "gpt2", "opt") else {"num_key_value_heads": 2, "intermediate_size": 24}
    more |= {} if kind == "opt" else {"initializer_range": 0.25}  # wide, so that a wrong key would be seen
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more, **special, **fields))
    draw = random.Random(0)
    texts = [draw.choices(range(3, 31), k=k) for k in (2, 9, 5, 6)]
    options = [[draw.choices(range(3, 31), k=k) for k in (1, 3, 6)] for _ in texts]
    with torch.no_grad():
        model.eval()
        made = cat_core.inference.generate_batch(model, texts, stop_ids={1}, pad=2, vocab=31, max_new_tokens=8)
        scores = cat_core.inference.score_batch(model, texts, options, pad=2, vocab=31, batch_tokens=40)
        for text, (answer, logprobs, *_), choices, rows in zip(texts, made, options, scores):
            for tail, found in [(answer, logprobs), *zip(choices, (row[0] for row in rows))]:
                table = model(torch.tensor([text + tail]), use_cache=False).logits[0].log_softmax(-1)
                expected = table[range(len(text) - 1, len(text + tail) - 1), tail]
                tolerance = 1e-4 if kind == "qwen3_5_text" else 1e-5  # it solves triangular systems
                np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def bloom(vocab):
    """A model without a formula, whose attention falls off with distance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": vocab}
        return BloomForCausalLM(BloomConfig(**sizes, initializer_range=0.25)).eval()


def test_costs_without_a_formula_are_unknown_or_measured(tiny_pair):
    _, large, tokenizer = tiny_pair
    small, options = bloom(len(tokenizer)), {"max_new_tokens": NEW, "batch_tokens": 400}
    with pytest.warns(UserWarning, match="FLOPs of the small model are unknown: .* model type 'bloom'") as caught:
        plain = CascadeRunner(small, large, tokenizer, **options)
    assert len(caught) == 1
    measured = CascadeRunner(small, large, tokenizer, **options, costs="measured")
    requests = questions(12) + choices(6)
    unknown, known = plain.run(requests, -3.0), measured.run(requests, -3.0)
    assert 0 < unknown.deferred.sum() < len(requests)
    assert {r.flops for r in unknown.small} == {None} and set(unknown.flops) == {None}
    assert all(r.flops > 0 for r in unknown.large if r is not None)
    assert [r.tokens for r in unknown.responses] == [r.tokens for r in known.responses]
    eager = BloomForCausalLM._from_config(small.config, attn_implementation="eager").eval()
    eager.load_state_dict(small.state_dict())
    for item, response in zip(measured.items(requests), known.small):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if item.options:
                cat_core.inference.score_batch(
                    eager, [item.prompt], [item.options], pad=0, vocab=measured.vocab, batch_tokens=4000
                )
            else:
                length = {"max_new_tokens": len(response.tokens)}
                length |= {"stop_ids": {-1}, "pad": 0, "vocab": measured.vocab}
                cat_core.inference.generate_batch(eager, [item.prompt], **length)
        assert response.flops == counter.get_total_flops()


def test_a_family_that_answers_otherwise_in_a_batch_is_refused(tiny_pair):
    """Here one that does not look at its mask: padding is read as text."""
    _, large, tokenizer = tiny_pair
    model = bloom(len(tokenizer))
    forward = model.transformer.forward
    model.transformer.forward = lambda *a, attention_mask=None, **more: forward(*a, attention_mask=None, **more)
    with pytest.raises(ValueError, match="BloomForCausalLM says something else of a prompt in a padded batch than"):
        CascadeRunner(model, large, tokenizer)


@pytest.mark.parametrize("which", ["small", "large"])
def test_generation_equals_transformers_generate(runner, tiny_pair, which):
    tokenizer, model = tiny_pair[2], runner.models[which]
    requests = questions(60)
    found = runner.answer(requests, which)
    for request, response in zip(requests, found):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(request.prompt, add_special_tokens=False).input_ids]])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        tokens = made.sequences[0, ids.shape[1] :].tolist()
        table = torch.cat(made.scores).double().log_softmax(-1)
        logprobs, (margins, entropies) = table[range(len(tokens)), tokens].tolist(), spread(table)
        assert response.tokens == tokens
        np.testing.assert_allclose(response.token_logprobs, logprobs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(response.token_margins, margins, rtol=0, atol=1e-5)
        np.testing.assert_allclose(response.token_entropies, entropies, rtol=0, atol=1e-5)
        assert response.prediction == tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert response.n_prompt == ids.shape[1] and response.n_generated == len(tokens)
        assert response.truncated == (tokens[-1] != tokenizer.eos_token_id)
        assert response.flops == request_flops(model.config, ids.shape[1], len(tokens))
        values = torch.tensor([response.token_logprobs], dtype=torch.float64)
        mask = torch.ones_like(values, dtype=torch.bool)
        for name, rule in (confidence_rules | quantile_rules).items():
            assert response.confidences[name] == rule(values, mask).item()
        assert response.confidences == pytest.approx(rules_of_tokens(logprobs, margins, entropies), rel=0, abs=2e-5)
    lengths = {response.n_generated for response in found}
    assert {True, False} == {r.truncated for r in found} and len(lengths) > 5  # rows did leave the batch early


@pytest.mark.parametrize("requests", [questions(40), choices(40)], ids=["generated", "options"])
def test_batched_equals_alone(tiny_pair, requests):
    batched = CascadeRunner(*tiny_pair, max_new_tokens=NEW)
    alone = CascadeRunner(*tiny_pair, max_new_tokens=NEW, batch_tokens=1)
    for which in ("small", "large"):
        assert_same(batched.answer(requests, which), alone.answer(requests, which))
    order = list(reversed(requests))
    assert_same(batched.answer(order)[::-1], batched.answer(requests))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_truncated_prompts_batched_and_alone(tiny_pair, attention):
    pair = [copy.deepcopy(model) for model in tiny_pair[:2]]
    for model in pair:
        model.set_attn_implementation(attention)
    tokenizer = tiny_pair[2]
    texts = prompts(12, seed=3, longest=60)
    requests = [Request(str(i), text) for i, text in enumerate(texts)]
    options = {"max_new_tokens": NEW, "truncate_prompts": True}
    found = CascadeRunner(*pair, tokenizer, **options).answer(requests)
    assert_same(found, CascadeRunner(*pair, tokenizer, batch_tokens=1, **options).answer(requests))
    assert any(r.prompt_truncated for r in found) and not all(r.prompt_truncated for r in found)
    room = 64 - NEW
    for response, text in zip(found, texts):
        ids = TextFormat(tokenizer).prompt(text)
        assert response.prompt_truncated == (len(ids) > room) and response.n_prompt == min(len(ids), room)
    # the same as giving the cut prompt, BOS kept, by hand
    cut = {}
    for text in texts:
        ids = TextFormat(tokenizer).prompt(text)
        cut[text] = ids if len(ids) <= room else ids[:1] + ids[len(ids) - room + 1 :]
    by_hand = CascadeRunner(*pair, tokenizer, max_new_tokens=NEW)
    by_hand.text.prompts = lambda texts, _: [cut[text] for text in texts]
    assert_same(found, by_hand.answer(requests))


def test_without_bos(tiny_pair):
    tokenizer = copy.deepcopy(tiny_pair[2])
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    assert TextFormat(tokenizer).prompt("the cat") == tokenizer("the cat", add_special_tokens=False).input_ids
    batched, alone = (
        CascadeRunner(*tiny_pair[:2], tokenizer, max_new_tokens=NEW, batch_tokens=n).answer(questions(20))
        for n in (4096, 1)
    )
    assert_same(batched, alone)
    assert batched[0].n_prompt == len(TextFormat(tiny_pair[2]).prompt(questions(20)[0].prompt)) - 1
    with pytest.raises(ValueError, match="item 'e' has an empty prompt, and the tokenizer has no BOS"):
        CascadeRunner(*tiny_pair[:2], tokenizer).answer([Request("e", "")])


def test_padding_token_may_be_eos_or_missing(tiny_pair):
    tokenizer = copy.deepcopy(tiny_pair[2])
    tokenizer.pad_token = None
    without = CascadeRunner(*tiny_pair[:2], tokenizer, max_new_tokens=NEW).answer(questions(20))
    assert_same(without, CascadeRunner(*tiny_pair, max_new_tokens=NEW).answer(questions(20)))


def test_never_holds_steps_times_vocabulary(tiny_pair, monkeypatch):
    """Every log-probability, margin and entropy is taken from one step's logits."""

    def watched(name):
        shapes, original = [], getattr(cat_core.inference, name)
        see = lambda logits, *more: shapes.append(tuple(logits.shape)) or original(logits, *more)  # noqa: E731
        monkeypatch.setattr(cat_core.inference, name, see)
        return shapes

    shapes, others = watched("chosen_logprob"), watched("margin_and_entropy")
    CascadeRunner(*tiny_pair, max_new_tokens=NEW).answer(questions(30))
    rows = [shape[0] for shape in shapes]
    assert shapes == others
    assert len(rows) == NEW and {len(shape) for shape in shapes} == {2}  # one batch, one [B, V] a step
    assert rows[0] == 30 and rows[-1] < 15 and rows == sorted(rows, reverse=True)  # finished rows left it


@pytest.mark.parametrize("limit", ["LOGIT_BUDGET", "PIECE"])
def test_passes_and_logits_in_small_parts_give_the_same(runner, monkeypatch, limit):
    def answers():
        return runner.answer([*choices(20), *questions(20)])

    whole = answers()
    monkeypatch.setattr(cat_core.inference, limit, 1)
    assert_same(answers(), whole)


def test_prompts_in_one_pass_or_in_runs_give_the_same(runner, monkeypatch):
    widths = []
    forward = runner.models["small"].forward
    monkeypatch.setattr(
        runner.models["small"], "forward",
        lambda *_, input_ids, **more: widths.append(input_ids.shape) or forward(input_ids=input_ids, **more),
    )  # fmt: skip
    runner.batch_tokens = 4000  # one batch
    apart = runner.answer([*choices(20), *questions(20)])
    passes, widths[:] = len(widths), []
    monkeypatch.setitem(cat_core.shapes.caches.PASS_TOKENS, "cpu", 10**6)
    assert_same(runner.answer([*choices(20), *questions(20)]), apart)
    assert len(widths) < passes - 10


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(0, 60))
def test_runs_leave_the_least_to_compute(lengths, overhead):
    """Against every way to cut the rows."""
    ways = [[]]
    for row in range(len(lengths)):  # each row begins a run, or goes on with the last one
        ways = [way + [[row]] for way in ways] + [[*way[:-1], way[-1] + [row]] for way in ways if way]
    costs = [sum(len(run) * max(lengths[row] for row in run) + overhead for run in way) for way in ways]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cat_core.shapes.caches.PASS_TOKENS, "cpu", overhead)
        found = cat_core.shapes.caches.runs(lengths, torch.device("cpu"))
    assert [row for rows in found for row in range(len(lengths))[rows]] == list(range(len(lengths)))
    assert sum(len(lengths[rows]) * max(lengths[rows]) + overhead for rows in found) == min(costs)


# --------------------------------------------------------------------- options


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_options_equal_naive_scoring_of_whole_sequences(tiny_pair, prediction):
    small, large, tokenizer = tiny_pair
    requests = choices(40)
    found = CascadeRunner(*tiny_pair, prediction=prediction, batch_tokens=500).answer(requests, "large")
    differs = 0
    bare = [tokenizer.bos_token_id, *tokenizer(UNCONDITIONAL, add_special_tokens=False).input_ids]
    for request, response in zip(requests, found):
        head = [tokenizer.bos_token_id, *tokenizer(request.prompt, add_special_tokens=False).input_ids]
        logprobs, spreads, alone = [], [], []
        for option in request.options:
            tail = [*tokenizer(option, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            with torch.no_grad():
                table = large(torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
                without = large(torch.tensor([bare + tail])).logits[0].double().log_softmax(-1)
            alone.append(sum(without[len(bare) - 1 + i, token].item() for i, token in enumerate(tail)))
            logprobs.append([table[len(head) - 1 + i, token].item() for i, token in enumerate(tail)])
            spreads.append(spread(table[len(head) - 1 : -1]))
        sums, options = np.array([sum(row) for row in logprobs]), request.options
        scores = {
            "sum": sums, "average": sums / [len(row) for row in logprobs], "pmi": sums - alone,
            "characters": sums / [len(o) for o in options], "bytes": sums / [len(bytes(o, "utf-8")) for o in options],
        }  # fmt: skip
        best = int(np.argmax(scores[prediction]))
        differs += np.argmax(sums) != best
        assert response.prediction == request.options[best]
        np.testing.assert_allclose(response.option_logprobs, sums, rtol=0, atol=1e-5)
        np.testing.assert_allclose(response.token_logprobs, logprobs[best], rtol=0, atol=1e-5)
        assert response.tokens == TextFormat(tokenizer).target(request.options[best])
        assert response.n_generated == len(logprobs[best]) and not response.truncated
        read = (head, bare) if prediction == "pmi" else (head,)
        sizes = [len(row) for row in logprobs]
        assert response.flops == sum(option_flops(large.config, len(ids), sizes) for ids in read)
        margins, entropies = spreads[best]
        np.testing.assert_allclose(response.token_margins, margins, rtol=0, atol=1e-5)
        np.testing.assert_allclose(response.token_entropies, entropies, rtol=0, atol=1e-5)
        expected = rules_of_tokens(logprobs[best], margins, entropies) | {
            "option_probability": sums[best] - np.logaddexp.reduce(sums),
            "option_margin": sums[best] - max(np.delete(sums, best)),
        }
        assert response.confidences == pytest.approx(expected, abs=2e-5)
    assert bool(differs) == (prediction != "sum")  # the prediction rules are told apart by these items


def test_the_best_option_by_every_size():
    sums, texts, tokens = [-6.0, -8.0, -9.5], ["ab", "\u00e4\u00e4\u00e4", "abcd"], [2, 4, 2]
    found = {p: best_option([*sums, -1.0, -4.0, -9.0], texts, iter(tokens), p) for p in PREDICTIONS}
    assert found == {"sum": 0, "average": 1, "characters": 2, "bytes": 1, "pmi": 2}
    assert best_option([-2.0, -2.0], ["a", "b"], [1, 1], "bytes") == 0  # the first of equals


def test_pmi_reads_the_bare_prompt_once_more_and_keeps_apart_what_it_stored(tiny_pair, tmp_path):
    by_pmi, plain = (CascadeRunner(*tiny_pair, prediction=p, max_new_tokens=4) for p in ("pmi", "sum"))
    requests = [*choices(6), *questions(3)]
    found = by_pmi.answer(requests, store=tmp_path)
    assert found == by_pmi.answer(requests, store=tmp_path)
    assert found[6:] == plain.answer(requests)[6:]  # generated answers have no options to weigh
    with pytest.raises(ValueError, match="holds another run .different: unconditional"):
        plain.answer(requests, store=tmp_path)
    by_pmi.context = 8
    with pytest.raises(ValueError, match="of 5 tokens does not fit behind 'Answer:' in a context of 8"):
        by_pmi.answer([Request("long", "the", ("is the sky blue", "no"))])


def test_kinds_may_be_mixed_in_one_list(runner):
    mixed = [request for pair in zip(questions(15), choices(15)) for request in pair]
    found = runner.answer(mixed)
    assert [r.item_id for r in found] == [r.item_id for r in mixed]
    assert_same(found[::2], runner.answer(mixed[::2]))
    assert_same(found[1::2], runner.answer(mixed[1::2]))


# ---------------------------------------------------------------------- batches


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9), st.integers(1, 4)), max_size=40),
    st.integers(1, 300),
)
def test_plan_holds_every_item_once_within_the_budget(lengths, budget):
    plan = plan_batches(lengths, budget)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    order = [lengths[i][0] for batch in plan for i in batch]
    assert order == sorted(order, reverse=True)
    for batch in plan:
        rows = [lengths[i] for i in batch]
        size = sum(r[2] for r in rows) * (max(r[0] for r in rows) + max(r[1] for r in rows))
        assert len(batch) == 1 or size <= budget
    assert plan == plan_batches(list(lengths), budget)


def test_encoding_convention(tiny_pair):
    tokenizer = tiny_pair[2]
    bare = tokenizer("the cat", add_special_tokens=False).input_ids
    text = TextFormat(tokenizer)
    assert text.prompt("the cat") == [tokenizer.bos_token_id, *bare]
    assert text.target("the cat") == [*bare, tokenizer.eos_token_id]
    assert text.prompts(["the cat", "a"]) == [text.prompt(t) for t in ("the cat", "a")]
    assert text.targets([], []) == [] == text.prompts(())


def test_models_keep_their_mode_and_get_no_gradient(runner):
    model = runner.models["small"]
    model.train()
    try:
        first = runner.answer(questions(3))
        assert model.training and all(p.grad is None for p in model.parameters())
    finally:
        model.eval()
    assert first == runner.answer(questions(3))


def test_progress_counts_items(runner, capsys):
    seen = []
    runner.answer(questions(30), progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 1 and seen == sorted(seen) and seen[-1] == (30, 30)
    runner.answer(questions(3), progress=True)
    assert "3/3" in capsys.readouterr().err


# ------------------------------------------------------------------ the cascade


@pytest.mark.parametrize(("requests", "rule"), [(questions(30), "chow_average"), (choices(30), "option_probability")])
def test_cascade_defers_whole_queries_and_pays_for_both(runner, requests, rule):
    small, large = runner.answer(requests), runner.answer(requests, "large")
    confidence = np.array([r.confidences[rule] for r in small])
    tau = float(np.sort(confidence)[9])
    result = runner.run(requests, tau, rule)
    assert (result.deferred == (confidence <= tau)).all() and result.deferred.sum() == 10
    assert (result.confidence == confidence).all() and result.small == small
    for i, deferred in enumerate(result.deferred):
        assert_same([result.responses[i]], [large[i] if deferred else small[i]])
        assert (result.large[i] is not None) == deferred
        assert result.flops[i] == small[i].flops + deferred * large[i].flops
    assert runner.run(requests, -math.inf, rule).flops == [r.flops for r in small]
    always = runner.run(requests, math.inf, rule)
    assert always.deferred.all() and always.responses == large


def test_cascade_refuses_unknown_rules(runner):
    with pytest.raises(ValueError, match="item 'q0' has no confidence 'option_probability': it has chow_sum"):
        runner.run(questions(3), 0.0, "option_probability")
    with pytest.raises(ValueError, match="tau is NaN"):
        runner.run(questions(3), math.nan)


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ([], "request list is empty"),
        ([Request("a", "x"), Request("a", "y")], "item id 'a' occurs twice"),
        ([Request("a", "x", ("yes", "no", "yes"))], "item 'a' has the same option twice"),
        ([Request("a", "x", ("yes", " yes"))], "item 'a' has the same option twice .white space is no difference"),
        ([Request("a", "x", ("yes", " "))], "item 'a' has an empty option"),
        ([Request("a", "x", ("yes",))], "item 'a' has one option"),
        ([Request("a", None)], "item 'a': prompt and options must be text"),
        ([Request("a", "x\ud83d")], "item 'a': half a surrogate pair, which is no Unicode text"),
        ([Request("a", "x", ("yes", "\udc00"))], "item 'a': half a surrogate pair, which is no Unicode text"),
        ([Request("a", "x"), Request("b", "cat " * 70)], r"item 'b' has a prompt of \d+ tokens but 52 fit"),
        ([Request("b", "cat " * 70, ("yes", "no"))], r"item 'b' has a prompt of \d+ tokens but \d+ fit"),
        ([Request("b", "cat", ("yes " * 70, "no"))], "item 'b': an answer of up to .* leaves no room"),
    ],
)
def test_bad_requests_are_named(runner, requests, text):
    with pytest.raises(ValueError, match=text):
        runner.answer(requests)


def test_bad_settings(tiny_pair):
    small, large, tokenizer = tiny_pair
    with pytest.raises(ValueError, match="unknown prediction rule 'best': choose sum or average or char"):
        CascadeRunner(*tiny_pair, prediction="best")
    for name in ("batch_tokens", "max_new_tokens"):
        for value in (0, 2.5, True):
            with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1"):
                CascadeRunner(*tiny_pair, **{name: value})
    with pytest.raises(ValueError, match="unknown model 'medium'"):
        CascadeRunner(*tiny_pair).answer(questions(1), "medium")
    with pytest.raises(ValueError, match="costs is 'guessed', expected one of formula, measured"):
        CascadeRunner(*tiny_pair, costs="guessed")
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    with pytest.raises(ValueError, match=r"S \(small\) is causal and L \(large\) encoder-decoder"):
        CascadeRunner(small, T5ForConditionalGeneration(T5Config(**sizes, vocab_size=len(tokenizer))), tokenizer)
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        CascadeRunner(small, large, endless)
    with pytest.raises(ValueError, match="no eos_token"):
        TextFormat(endless)
    with pytest.raises(ValueError, match="item 'q0' has token ids outside the vocabulary"):
        runner = CascadeRunner(*tiny_pair)
        runner.text.prompts = lambda texts, tasks: [[1, 10_000] for _ in texts]
        runner.answer(questions(1))


def test_vocabularies(tiny_pair):
    small, large, tokenizer = tiny_pair
    size = len(tokenizer)
    shrunk = copy.deepcopy(large)
    shrunk.resize_token_embeddings(size - 5)
    with pytest.raises(ValueError, match=f"the large model has {size - 5} output columns but the tokenizer {size}"):
        CascadeRunner(small, shrunk, tokenizer)
    grown = copy.deepcopy(large)
    grown.resize_token_embeddings(size + 9)
    with torch.no_grad():
        grown.lm_head.weight[size:] = 3 * grown.lm_head.weight[:9]  # would win if they were not cut off
    expected = CascadeRunner(*tiny_pair, max_new_tokens=NEW).answer(questions(20), "large")
    found = CascadeRunner(small, grown, tokenizer, max_new_tokens=NEW).answer(questions(20), "large")
    assert [(r.tokens, r.token_logprobs) for r in found] == [(r.tokens, r.token_logprobs) for r in expected]


@pytest.mark.parametrize("requests", [questions(5), choices(5)], ids=["generated", "options"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_logits_name_the_item_and_are_not_stored(tiny_pair, tmp_path, requests, value):
    broken = copy.deepcopy(tiny_pair[0])
    special = tiny_pair[2]("zebra", add_special_tokens=False).input_ids[-1]
    with torch.no_grad():
        broken.model.embed_tokens.weight[special] = value
    requests = [Request(r.item_id, r.prompt.replace("zebra", "cat"), r.options) for r in requests]
    requests = [Request(r.item_id, r.prompt, tuple(o.replace("zebra", "mat") for o in r.options)) for r in requests]
    requests[3] = Request("bad", "is the zebra", requests[3].options)
    runner = CascadeRunner(broken, *tiny_pair[1:], max_new_tokens=1)
    with pytest.raises(ValueError, match="small model gives NaN or infinite logits on item 'bad'"):
        runner.answer(requests, store=tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["plan.json"]


# -------------------------------------------------------------------- resuming


def test_resumes_whole_batches_only(runner, tmp_path, monkeypatch):
    requests = questions(25) + choices(25)
    whole = runner.answer(requests)
    assert runner.answer(requests, store=tmp_path) == whole
    files = sorted(tmp_path.glob("batch_*.json"))
    assert len(files) > 5 and len(list(tmp_path.iterdir())) == len(files) + 1
    calls = []
    original = CascadeRunner._compute
    monkeypatch.setattr(CascadeRunner, "_compute", lambda *a, **k: calls.append(1) or original(*a, **k))
    assert runner.answer(requests, store=tmp_path) == whole and not calls
    files[1].unlink()
    assert runner.answer(requests, store=tmp_path) == whole and len(calls) == 1
    files[0].write_text(files[0].read_text()[:40])
    with pytest.warns(UserWarning, match="batch_000000.json is computed again: it is unreadable"):
        assert runner.answer(requests, store=tmp_path) == whole
    content = json.loads(files[2].read_text())
    content["records"][0][1][0] -= 1
    files[2].write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="batch_000002.json is computed again: its checksum"):
        assert runner.answer(requests, store=tmp_path) == whole
    files[3].write_bytes(files[4].read_bytes())  # a whole file, of another batch
    with pytest.warns(UserWarning, match="batch_000003.json is computed again: its checksum"):
        assert runner.answer(requests, store=tmp_path) == whole
    assert len(calls) == 4


def test_other_rules_reuse_what_is_stored(tiny_pair, tmp_path, monkeypatch):
    requests = choices(20)
    CascadeRunner(*tiny_pair).answer(requests, "large", store=tmp_path)
    expected = CascadeRunner(*tiny_pair, prediction="average").answer(requests, "large")
    monkeypatch.setattr(CascadeRunner, "_compute", pytest.fail)
    assert CascadeRunner(*tiny_pair, prediction="average").answer(requests, "large", store=tmp_path) == expected


def test_another_run_in_the_same_folder_is_refused(tiny_pair, tmp_path):
    requests = choices(6)
    CascadeRunner(*tiny_pair).answer(requests, store=tmp_path)
    folder = r"holds another run \(different: "
    with pytest.raises(ValueError, match=folder + "max_new_tokens"):
        CascadeRunner(*tiny_pair, max_new_tokens=3).answer(requests, store=tmp_path)
    with pytest.raises(ValueError, match=folder + "batch_tokens"):
        CascadeRunner(*tiny_pair, batch_tokens=3).answer(requests, store=tmp_path)
    with pytest.raises(ValueError, match=folder + "items"):
        CascadeRunner(*tiny_pair).answer(requests[::-1], store=tmp_path)
    with pytest.raises(ValueError, match=folder + "model"):
        CascadeRunner(*tiny_pair).answer(requests, "large", store=tmp_path)
    with pytest.raises(ValueError, match=folder + "model"):
        CascadeRunner(*tiny_pair, fingerprint={"small": "step 7"}).answer(requests, store=tmp_path)
    path = tmp_path / "plan.json"
    plan = json.loads(path.read_text())
    del plan["plan"]["records"]  # a folder of the first version: log-probabilities alone
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=folder + "records"):
        CascadeRunner(*tiny_pair).answer(requests, store=tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="plan.json is damaged .* delete"):
        CascadeRunner(*tiny_pair).answer(requests, store=tmp_path)


def test_cascade_store_serves_other_thresholds(runner, tmp_path, monkeypatch):
    requests = questions(20)
    values = sorted(r.confidences["chow_sum"] for r in runner.answer(requests))
    first = runner.run(requests, values[4], "chow_sum", store=tmp_path)
    second = runner.run(requests, values[9], "chow_sum", store=tmp_path)
    assert first.deferred.sum() == 5 and second.deferred.sum() == 10
    assert sorted(p.name[:5] for p in tmp_path.iterdir()) == ["large", "large", "small"]
    monkeypatch.setattr(CascadeRunner, "_compute", pytest.fail)
    again = runner.run(requests, values[4], "chow_sum", store=tmp_path)
    assert (again.responses, again.flops) == (first.responses, first.flops)


KILLED = """
import os, signal, sys
import torch
from tokenizers import processors
from transformers import AutoTokenizer, LlamaForCausalLM
from cat_core.cascade import CascadeRunner, Request
import json
folder, store = sys.argv[1:3]
torch.set_num_threads(int(sys.argv[3]))
requests = [Request(i, p, tuple(o)) for i, p, o in json.load(open(folder + "/requests.json"))]
pair = [LlamaForCausalLM.from_pretrained(folder + "/" + name) for name in ("small", "large")]
tokenizer = AutoTokenizer.from_pretrained(folder + "/small")
runner = CascadeRunner(*pair, tokenizer, max_new_tokens=12, batch_tokens=400)
def progress(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
runner.answer(requests, "large", progress=progress, store=store)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_kill_and_resume_gives_the_same_bits(tiny_pair, runner, tmp_path, monkeypatch):
    monkeypatch.undo()  # the other process reads runs as they are
    requests = questions(30, seed=5) + choices(30, seed=5)
    for name, model in zip(("small", "large"), tiny_pair):
        model.save_pretrained(tmp_path / name)
        tiny_pair[2].save_pretrained(tmp_path / name)
    (tmp_path / "requests.json").write_text(json.dumps([[r.item_id, r.prompt, r.options] for r in requests]))
    code, said = warm.run(KILLED, tmp_path, tmp_path / "run", torch.get_num_threads(), output=tmp_path / "log")
    assert code == -signal.SIGKILL, said
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("batch_*.json")}
    uninterrupted = runner.answer(requests, "large", store=tmp_path / "whole")
    batches = len(list((tmp_path / "whole").glob("batch_*.json")))
    assert 0 < len(kept) < batches
    (tmp_path / "run" / "batch_000099.json.1.tmp").write_text("{")  # what a kill in mid-write leaves
    resumed = runner.answer(requests, "large", store=tmp_path / "run")
    assert resumed == uninterrupted  # floats compared exactly
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished batches were not computed again
    for path in (tmp_path / "whole").glob("batch_*.json"):
        assert (tmp_path / "run" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("requests", [questions(40), choices(40)], ids=["generated", "options"])
def test_cuda_equals_cpu(tiny_pair, requests):
    pair = [copy.deepcopy(model) for model in tiny_pair[:2]]
    expected = CascadeRunner(*tiny_pair, max_new_tokens=NEW).answer(requests)
    found = CascadeRunner(*pair, tiny_pair[2], max_new_tokens=NEW, device="cuda").answer(requests)
    assert_same(found, expected, tolerance=1e-4)
