"""Encoder-decoder models through training, teaching, measuring and answering, against the model called one example at a
time in its ordinary way, and against transformers' own generate()."""

import copy
import random

import numpy as np
import pytest
import torch
from small_models import CONTEXT, t5_model, t5_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    TrainingArguments,
)

from cat_core.architectures import go_on, has_encoder, read_prompts, selected, start_token, target_outputs
from cat_core.cascade import CascadeRunner, Request
from cat_core.flops import first_layer_flops, option_flops, request_flops, sequence_flops, shape_of
from cat_core.inference import generate_batch, score_batch
from cat_core.loss import cascade_aware_loss, gatekeeper_loss
from cat_core.methods import METHODS
from cat_core.queries import aligned
from cat_core.rules.features import answer_features, first_layer
from cat_core.tasks.synthetic import MiniWmt, mini_wmt
from cat_core.text import TextFormat
from cat_core.training import artifacts
from cat_core.training.experiment import Experiment
from cat_core.training.joint import train_jointly
from cat_core.training.models import (
    ModelSize,
    build_model,
    has_plain_head,
    load_model,
    load_pair,
    load_tokenizer,
    save_model,
    train_tokenizer,
)
from cat_core.training.obtain import train_or_load
from cat_core.training.side_by_side import train_side_by_side
from cat_core.training.signals import token_signals
from cat_core.training.teacher import MODES, run_teacher
from cat_core.training.train import CascadeAwareTrainer, TrainSettings, _ProgressLine, train
from cat_core.training.training_set import TrainingSet, collate

EXAMPLES = [e for e in mini_wmt(MiniWmt(train=60, calibration=5, test=5)) if e.split == "train"]
NEW = 8
layouts = pytest.mark.parametrize("flan", [True, False], ids=["v1.1", "v1.0"])


@pytest.fixture(scope="module")
def tokenizer():
    return t5_tokenizer([text for e in EXAMPLES for text in (e.prompt, e.target)])


@pytest.fixture(scope="module")
def training_set(tokenizer):
    return TrainingSet(EXAMPLES, TextFormat(tokenizer, encoder=True), CONTEXT)


@pytest.fixture(scope="module")
def teacher(tokenizer, training_set, tmp_path_factory):
    """What an L that has learnt something says of the training set."""
    large = t5_model(tokenizer, 7, hidden=24)
    train(large, training_set, TrainSettings(steps=20, batch_size=16, learning_rate=1e-2),
          tmp_path_factory.mktemp("large"), use_cpu=True)  # fmt: skip
    return run_teacher(large, training_set, tmp_path_factory.mktemp("teacher"))


def alone(model, training_set, index):
    """Logits of one example's target tokens, by the ordinary call with labels, which makes the decoder's input."""
    prompt, target = training_set.pairs[index]
    return model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).logits[0]


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------- tokens


def test_prompts_of_an_encoder_end_as_the_tokenizer_ends_them(tokenizer):
    text = EXAMPLES[0].prompt
    ids = TextFormat(tokenizer, encoder=True).prompt(text)
    assert ids == tokenizer(text)["input_ids"] and ids[-1] == tokenizer.eos_token_id
    assert TextFormat(tokenizer).prompt(text) == ids[:-1], "a causal model goes on from its prompt"
    assert TextFormat(tokenizer).target(text) == ids
    assert TextFormat(tokenizer, encoder=True).prompts([]) == []
    byte_level = train_tokenizer([text], 300)
    assert TextFormat(byte_level, encoder=True).prompt(text) == TextFormat(byte_level).prompt(text)


def test_a_cut_prompt_keeps_its_end(tokenizer, training_set):
    context = max(len(p) + len(t) for p, t in training_set.pairs) - 2
    cut = TrainingSet(EXAMPLES, TextFormat(tokenizer, encoder=True), context, truncate_prompts=True)
    for (prompt, target), (shorter, same) in zip(training_set.pairs, cut.pairs):
        assert same == target and shorter == prompt[max(0, len(prompt) + len(target) - context) :]
    assert cut.pairs != training_set.pairs
    longest = max(len(t) for _, t in training_set.pairs)
    with pytest.raises(ValueError, match="exceed the context"):  # EOS alone is no prompt
        TrainingSet(EXAMPLES, TextFormat(tokenizer, encoder=True), longest + 1, truncate_prompts=True)


# ------------------------------------------------------------------- targets that are known


@layouts
def test_target_outputs_are_those_of_each_example_alone(tokenizer, training_set, flan):
    model = t5_model(tokenizer, 1, flan=flan)
    assert has_encoder(model) and has_encoder(model.config) and has_plain_head(model)
    batch = collate([training_set[i] for i in range(6)], training_set.pad)
    start = batch["target_start"]
    with torch.no_grad():
        _, states, logits = target_outputs(model, batch, start, states=True)
        bare, states_alone, none = target_outputs(model, batch, start, states=True, logits=False)
        for i in range(6):
            expected = alone(model, training_set, i)
            torch.testing.assert_close(logits[i, : len(expected)], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.lm_head(states), logits)
    assert torch.equal(states, states_alone) and none is None and bare.logits.shape[1] == 0, "the head did not run"
    assert not model.lm_head._forward_pre_hooks


def test_a_wrapped_model_has_the_same_gradient(tokenizer, training_set, tmp_path):
    """As in a process of several: outputs go through the wrapper, states are taken inside it."""
    model = t5_model(tokenizer, 1)
    batch = collate([training_set[i] for i in range(4)], training_set.pad)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        found = []
        for called in (model, torch.nn.parallel.DistributedDataParallel(model)):
            model.zero_grad()
            _, states, _ = target_outputs(called, batch, batch["target_start"], states=True, logits=False)
            model.lm_head(states).logsumexp(-1).sum().backward()
            found.append([p.grad.clone() for p in model.parameters()])
    finally:
        torch.distributed.destroy_process_group()
    for one, other in zip(*found):
        assert one.any() and torch.equal(one, other)


def test_passes_cost_what_is_charged(tokenizer):
    config = t5_model(tokenizer, 1).config
    config._attn_implementation = "eager"  # the counter sees nothing of other CPU kernels
    model = type(t5_model(tokenizer, 1))(config).eval()
    batch = collate([{"prompt": [5] * 7, "target": [6] * 4, "index": 0}], 0)
    for logits, rows in ((True, 4), (False, 0)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            target_outputs(model, batch, 7, states=True, logits=logits)
        saved = shape_of(config).head_flops * (4 - rows)
        assert counter.get_total_flops() == sequence_flops(config, 7, 4) - saved
    for layer in model.encoder.block[1:]:
        layer.register_forward_hook(lambda *_: pytest.fail("a later layer ran"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        first_layer(model)(torch.full((1, 9), 5), use_cache=False)
    assert counter.get_total_flops() == first_layer_flops(config, 9) > 0
    assert len(model.encoder.block) == config.num_layers


def test_a_bias_behind_the_head_is_seen(tokenizer, training_set, tmp_path):
    """BART adds one to its logits; then a cache holds logits, and training is from logits."""
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=0, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    assert has_plain_head(model)
    model.final_logits_bias[0, ::2] = 3.0
    assert not has_plain_head(model)
    cache = run_teacher(model, training_set, tmp_path)
    assert cache.head is None and cache.states.shape[1] == len(tokenizer)


# ------------------------------------------------------------------- training


@pytest.mark.usefixtures("every_group")
@layouts
@pytest.mark.parametrize("method", ["xent", "cat-xent", "cat-dist", "random-dist", "gatekeeper"])
@pytest.mark.parametrize(
    "normalize, loss, groups", [("tokens", "fused", 1), ("kept", "fused", 3), ("tokens", "dense", 11)]
)
def test_trainer_loss_and_gradient_are_those_of_the_plain_formula(
    tokenizer, training_set, teacher, tmp_path, flan, method, normalize, loss, groups
):
    settings = TrainSettings(
        method=method, steps=1, batch_size=8, normalize=normalize, label_weight=0.3, temperature=1.5, loss=loss,
        length_groups=groups,
    )  # fmt: skip
    model = t5_model(tokenizer, 1, flan=flan)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], remove_unused_columns=False,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = CascadeAwareTrainer(
        model=model, args=arguments, train_dataset=training_set, settings=settings, teacher=teacher,
        data_collator=lambda items: collate(items, training_set.pad),
    )  # fmt: skip
    assert trainer.fused == (loss == "fused")
    model.train()
    batch = collate([training_set[i] for i in range(8)], training_set.pad)
    tokens = (batch["labels"] != -100).sum() if normalize == "tokens" else None
    found = trainer.training_step(model, batch, tokens)
    got = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    logits = torch.cat([alone(model, training_set, i) for i in range(8)])
    labels = torch.cat([torch.tensor(training_set.pairs[i][1]) for i in range(8)])
    chosen = METHODS[method]
    if chosen.second_stage:
        expected = gatekeeper_loss(logits, labels)
    else:
        trainer._calls = (-1, 0)
        expected = cascade_aware_loss(
            logits, labels, teacher.logits(teacher.rows(torch.arange(8))), label_weight=chosen.label_weight(0.3),
            temperature=1.5, mask=chosen.mask, normalize=normalize,
            generator=trainer._generator() if chosen.mask == "random" else None,
        )  # fmt: skip
    if method == "xent":  # and the model's own loss
        parts = [
            model(input_ids=torch.tensor([p]), labels=torch.tensor([t])).loss * len(t) / len(labels)
            for p, t in training_set.pairs[:8]
        ]
        torch.testing.assert_close(torch.stack(parts).sum(), found)
    torch.testing.assert_close(found, expected)
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=2e-6, rtol=1e-4)


def test_gradient_accumulation_gives_the_same_step(tokenizer, training_set, teacher, tmp_path):
    found = []
    for parts in (1, 4):
        settings = TrainSettings(method="cat-dist", steps=3, batch_size=16, gradient_accumulation=parts)
        model = t5_model(tokenizer, 1)
        log = train(model, training_set, settings, tmp_path / str(parts), teacher, use_cpu=True)
        found.append((weights(model), [entry["loss"] for entry in log]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
    for name in found[0][0]:
        torch.testing.assert_close(found[0][0][name], found[1][0][name], atol=1e-4, rtol=1e-3)


@layouts
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(
    tokenizer, training_set, teacher, tmp_path, flan
):
    """With dropout, as T5 has it, and with a head of its own that a checkpoint must not tie again."""
    settings = TrainSettings(method="cat-dist", steps=6, batch_size=8)

    class Stop(Exception):
        pass

    def run(folder):
        model = t5_model(tokenizer, 1, flan=flan, dropout=0.1)
        train(model, training_set, settings, folder, teacher, checkpoint_every=2, use_cpu=True)
        return weights(model)

    def stop(self, args, state, control, **_):
        if state.global_step == 5:
            raise Stop

    expected = run(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ProgressLine, "on_step_end", stop)
        with pytest.raises(Stop):
            run(tmp_path / "broken")
    assert (tmp_path / "broken" / "checkpoint-4").is_dir()
    found = run(tmp_path / "broken")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(found["lm_head.weight"], found["shared.weight"]) != flan


@pytest.mark.parametrize("method", ["xent", "cat-dist"])
def test_bf16_trains_alike_with_both_losses(tokenizer, training_set, teacher, tmp_path, method):
    found = []
    for loss in ("fused", "dense"):
        settings = TrainSettings(method=method, steps=4, batch_size=16, loss=loss, precision="bf16")
        log = train(t5_model(tokenizer, 1), training_set, settings, tmp_path / loss, teacher, use_cpu=True)
        found.append(torch.tensor([[row["loss"], row["keep_rate"]] for row in log]))
    torch.testing.assert_close(*found, rtol=0.005, atol=0.005)


def test_a_router_is_trained_with_it(tokenizer, training_set, teacher, tmp_path):
    model = t5_model(tokenizer, 1)
    before = weights(model)
    log, router = train_jointly(
        model, training_set, TrainSettings(method="edge-joint", steps=2, batch_size=8), tmp_path, teacher, use_cpu=True
    )
    assert 0 < log[-1]["router_keep"] < 1 and not torch.equal(before["shared.weight"], model.shared.weight)
    assert all(torch.isfinite(p).all() for p in router.parameters())


# ------------------------------------------------------------------- the teacher, and signals


@layouts
def test_teacher_caches_of_every_mode(tokenizer, training_set, tmp_path, flan):
    model = t5_model(tokenizer, 3, flan=flan)
    caches = {
        mode: run_teacher(model, training_set, tmp_path / mode, mode=mode, k=5, batch_tokens=300) for mode in MODES
    }
    with torch.no_grad():
        tables = [alone(model, training_set, i) for i in range(len(training_set))]
    logits, labels = torch.cat(tables), torch.tensor([t for _, target in training_set.pairs for t in target])
    right = logits.gather(1, labels[:, None]).squeeze(1) >= logits.max(1).values
    rows = caches["hidden"].rows(torch.arange(len(training_set)))
    for cache in caches.values():
        assert torch.equal(cache.correct, right)
    hidden = caches["hidden"]
    assert hidden.states.shape[1] == 16 and torch.equal(hidden.head, model.lm_head.weight)  # states, not logits
    torch.testing.assert_close(hidden.logits(rows), logits, atol=1e-4, rtol=1e-4)
    top, best = caches["topk"].top(rows), logits.softmax(-1).topk(5)
    torch.testing.assert_close(top.probabilities, best.values, rtol=5e-3, atol=1e-6)
    torch.testing.assert_close(top.tail, 1 - best.values.sum(-1), rtol=1e-2, atol=1e-5)

    signals = token_signals(model, training_set, batch_tokens=300)
    log_p = logits.double().log_softmax(-1)
    np.testing.assert_array_equal(signals.right, right)
    expected = log_p.gather(1, labels[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(1), log_p.max(1).values.exp()
    for values, wanted in zip((signals.label_logprob, signals.entropy, signals.top_probability), expected):
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)
    assert signals.example.tolist() == [i for i, (_, t) in enumerate(training_set.pairs) for _ in t]


# ------------------------------------------------------------------- answers


@pytest.fixture(scope="module", params=[True, False], ids=["v1.1", "v1.0"])
def pair(request, tokenizer):
    """(small, large, tokenizer), with heads that make answers end at different lengths."""
    models = []
    for seed, hidden in ((1, 16), (2, 24)):
        model = t5_model(tokenizer, seed, flan=request.param, hidden=hidden)
        with torch.no_grad():
            if request.param:
                model.lm_head.weight *= 2
            model.lm_head.weight[tokenizer.eos_token_id] *= 2.5
        models.append(model)
    return *models, tokenizer


QUESTIONS = [Request(f"q{i}", e.prompt) for i, e in enumerate(EXAMPLES[:30])]
CHOICES = [
    Request(f"c{i}", e.prompt, tuple(dict.fromkeys((e.target, EXAMPLES[i + 1].target, e.target.split()[0], "zu zu"))))
    for i, e in enumerate(EXAMPLES[:20])
]


def test_generation_equals_transformers_generate(pair):
    *models, tokenizer = pair
    runner = CascadeRunner(*pair, max_new_tokens=NEW, batch_tokens=300)
    single = CascadeRunner(*pair, max_new_tokens=NEW, batch_tokens=1)
    lengths = set()
    for which, model in zip(("small", "large"), models):
        found, by_itself = runner.answer(QUESTIONS, which), single.answer(QUESTIONS, which)
        for request, response, other in zip(QUESTIONS, found, by_itself):
            ids = tokenizer(request.prompt, return_tensors="pt").input_ids
            # without a cache, as generate() makes none for a decoder that is deeper than its encoder
            made = model.generate(ids, max_new_tokens=NEW, do_sample=False, use_cache=False)[0, 1:].tolist()
            assert response.tokens == other.tokens == made
            with torch.no_grad():
                table = model(input_ids=ids, labels=torch.tensor([made])).logits[0].double().log_softmax(-1)
            expected = table[range(len(made)), made]
            ordered, entropy = table.sort(dim=-1).values, -(table.exp() * table).sum(-1)
            for each in (response, other):
                np.testing.assert_allclose(each.token_logprobs, expected, rtol=0, atol=1e-5)
                np.testing.assert_allclose(each.token_margins, ordered[:, -1] - ordered[:, -2], rtol=0, atol=1e-5)
                np.testing.assert_allclose(each.token_entropies, entropy, rtol=0, atol=1e-5)
            assert response.n_prompt == ids.shape[1] and response.truncated == (made[-1] != tokenizer.eos_token_id)
            assert response.flops == request_flops(model.config, ids.shape[1], len(made))
            assert response.prediction == tokenizer.decode(
                [t for t in made if t < len(tokenizer)], skip_special_tokens=True
            )
            lengths.add(len(made))
    # rows did leave the batch early; random models with a tied head repeat one token, or end at once
    assert len(lengths) > (1 if models[0].config.scale_decoder_outputs else 3)


def test_options_equal_naive_scoring_of_each_option(pair):
    small, _, tokenizer = pair
    found = CascadeRunner(*pair, batch_tokens=200).answer(CHOICES)
    single = CascadeRunner(*pair, batch_tokens=1).answer(CHOICES)
    for request, response, other in zip(CHOICES, found, single):
        ids = tokenizer(request.prompt, return_tensors="pt").input_ids
        logprobs = []
        for option in request.options:
            tail = tokenizer(option, return_tensors="pt").input_ids
            with torch.no_grad():
                table = small(input_ids=ids, labels=tail).logits[0].double().log_softmax(-1)
            logprobs.append(table.gather(1, tail.T).squeeze(1).numpy())
        sums = [row.sum() for row in logprobs]
        best = int(np.argmax(sums))
        for each in (response, other):
            np.testing.assert_allclose(each.option_logprobs, sums, rtol=0, atol=3e-5)
            np.testing.assert_allclose(each.token_logprobs, logprobs[best], rtol=0, atol=1e-5)
            assert each.prediction == request.options[best]
            assert each.flops == option_flops(small.config, ids.shape[1], [len(row) for row in logprobs])


BART = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 13, "decoder_ffn_dim": 17, "vocab_size": 31, "max_position_embeddings": 40, "init_std": 0.4,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("bart", {"decoder_start_token_id": 1, "scale_embedding": True}),
        ("m2m_100", {"decoder_start_token_id": 1}),
        ("marian", {"decoder_start_token_id": 2}),
        ("mt5", {"d_model": 24, "d_kv": 5, "num_heads": 3, "d_ff": 9, "num_layers": 2, "initializer_factor": 2.0}),
    ],
)
def test_encoders_of_other_families_read_padded_prompts_as_each_alone(kind, fields):
    """Learned and sinusoidal positions that count columns, or tokens other than padding; a bias behind the head, and
    a token that generate() never writes: against generate() and the model's ordinary call, one prompt at a time."""
    sizes = {"vocab_size": 31, "eos_token_id": 1, "pad_token_id": 2} if kind == "mt5" else BART
    if kind in ("bart", "marian"):
        sizes = sizes | {"forced_eos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **sizes, **fields)).eval()
        for parameter in model.lm_head.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        if kind in ("bart", "marian"):
            model.final_logits_bias.normal_()
    with torch.no_grad():
        model.lm_head.weight[1] *= 1.5
    if kind == "marian":
        model.generation_config.bad_words_ids = [[2], [7]]
    draw = random.Random(0)
    prompts = [draw.choices(range(3, 31), k=k) for k in (2, 9, 5, 1, 6, 12, 20, 3)]
    options = [[draw.choices([i for i in range(3, 31) if i != 7], k=k) for k in (1, 3, 6)] for _ in prompts]
    common, start = {"pad": 0, "vocab": 31}, start_token(model)
    with torch.no_grad():
        made = generate_batch(model, prompts, stop_ids={1}, max_new_tokens=8, **common)
        scores = score_batch(model, prompts, options, batch_tokens=400, **common)
        for prompt, (answer, logprobs, *_), choices, rows in zip(prompts, made, options, scores):
            ids = torch.tensor([prompt])
            alone = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, num_beams=1
            )
            assert answer == alone[0, 1:].tolist()
            for tail, found in [(answer, logprobs), *zip(choices, (row[0] for row in rows))]:
                table = model(input_ids=ids, decoder_input_ids=torch.tensor([[start, *tail[:-1]]])).logits[0]
                if kind == "marian":
                    table[:, [2, 7]] = -torch.inf
                expected = table.log_softmax(-1)[range(len(tail)), tail]
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    assert len({tuple(answer) for answer, *_ in made}) > 4
    batch = collate([{"prompt": p, "target": o[2], "index": 0} for p, o in zip(prompts, options)], 0)
    with torch.no_grad():
        logits = target_outputs(model, batch, batch["target_start"]).logits
        for row, prompt, choices in zip(logits, prompts, options):
            wanted = model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *choices[2][:-1]]])
            )
            torch.testing.assert_close(row, wanted.logits[0], atol=5e-5, rtol=1e-5)


def test_what_generate_would_force_is_refused_in_a_line(tokenizer):
    model = t5_model(tokenizer, 1)
    model.generation_config.forced_bos_token_id = 5
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has forced_bos_token_id 5 in its generation_conf"):
        CascadeRunner(model, model, tokenizer)
    model.generation_config.forced_bos_token_id = None
    model.generation_config.bad_words_ids = [[5, 6]]
    with pytest.raises(ValueError, match="has bad_words_ids of several tokens"):
        CascadeRunner(model, model, tokenizer).answer(QUESTIONS[:1])


def test_rows_of_a_memory_are_chosen_without_a_change_to_it(pair):
    model, _, tokenizer = pair
    ids, mask, _ = aligned(TextFormat(tokenizer, encoder=True).prompts([r.prompt for r in QUESTIONS[:4]]), [[]] * 4, 0)
    ids, mask, more = torch.from_numpy(ids), torch.from_numpy(mask), torch.full((4, 3), 7)
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        memory, first = read_prompts(model, ids, mask, None)
        chosen = selected(memory, rows)
        found = [go_on(model, chosen, more[rows], mask[rows], None)]
        whole = go_on(model, memory, more, mask, None)
        memory.batch_select_indices(rows)
        found.append(go_on(model, memory, more[rows], mask[rows], None))
        fed = torch.cat([torch.zeros(4, 1, dtype=torch.long), more, more], dim=1)
        expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=fed).logits
    for each in (chosen, memory):
        assert len(each.states) == 3 and {len(layer.keys) for layer in each.cache.cross_attention_cache.layers} == {3}
    for logits, wanted in ((first, expected[:, 0]), (whole, expected[:, 1:4]), (found[0], expected[rows, 1:4]),
                           (found[1], expected[rows, 4:])):  # fmt: skip
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)


def test_features_equal_the_models_own_outputs(pair):
    small, large, tokenizer = pair
    runner = CascadeRunner(*pair, max_new_tokens=NEW, batch_tokens=200)
    requests = QUESTIONS[:6] + CHOICES[:4]
    answers = [response.tokens for response in runner.answer(requests)]
    features = answer_features(runner, requests, answers)
    for i, (request, answer) in enumerate(zip(requests, answers)):
        ids = tokenizer(request.prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            output = small(input_ids=ids, labels=torch.tensor([answer]), output_hidden_states=True)
            state = output.decoder_hidden_states[-1][0].mean(0)
            if small.config.scale_decoder_outputs:
                state = state * small.config.d_model**-0.5
            layer = large.encoder(ids, output_hidden_states=True).hidden_states[1][0].mean(0)
        np.testing.assert_allclose(features.small_state[i], state, rtol=0, atol=1e-5)
        np.testing.assert_allclose(features.large_embedding[i], layer, rtol=0, atol=1e-4)
        table = output.logits[0].double().log_softmax(-1)
        found = features.tokens[features.offsets[i] : features.offsets[i + 1]]
        np.testing.assert_allclose(found[:, -1], table[range(len(answer)), answer], rtol=0, atol=1e-5)
        assert features.large_flops[i] == first_layer_flops(large.config, ids.shape[1])


# ------------------------------------------------------------------- folders, experiments, refusals


@layouts
def test_a_saved_model_is_the_same_again(tokenizer, training_set, tmp_path, flan):
    model = t5_model(tokenizer, 1, flan=flan)
    save_model(model, tokenizer, tmp_path)
    again, read = load_model(str(tmp_path)).eval(), load_tokenizer(str(tmp_path))
    assert type(again) is type(model) and start_token(again) == 0
    with torch.no_grad():
        assert torch.equal(alone(again, training_set, 0), alone(model, training_set, 0))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert read(EXAMPLES[0].prompt).input_ids == tokenizer(EXAMPLES[0].prompt).input_ids


@pytest.mark.usefixtures("every_group")
def test_an_experiment_on_folders_and_its_cascade(tokenizer, tmp_path, monkeypatch):
    """From random weights to a cascade: L by its labels, S by CAT-Dist, both answering, and the pair as one cascade."""
    monkeypatch.setenv("CAT_ARTIFACTS", str(tmp_path / "artifacts"))
    for name, seed, hidden in (("small", 1, 16), ("large", 2, 32)):
        save_model(t5_model(tokenizer, seed, hidden=hidden, dropout=0.1), tokenizer, tmp_path / name)
    options = {"suite": "mini-wmt", "suite_options": {"train": 60, "calibration": 20, "test": 8}, "device": "cpu"}
    chosen = Experiment.of(
        **options, small=str(tmp_path / "small"), large=str(tmp_path / "large"), steps=6, large_steps=30,
        learning_rate=1e-3, large_learning_rate=1e-3, batch_size=16, large_batch_size=16, length_groups=2,
        methods=["cat-dist"], max_new_tokens=NEW,
    )  # fmt: skip
    frame = chosen.outcomes(learned_rules=["cat-dist"])
    assert len(frame) == 28 * 2 and (frame["flops"] > 0).all()
    assert frame.filter(like="confidence_posthoc")[frame["model"] == "small"].notna().all(axis=None)
    log = chosen.logs()[("cat-dist", 0)]
    rates = [row["keep_rate"] for row in log]  # of a step, where neither may be right on anything
    assert min(rates) >= 0 and 0 < max(rates) <= 1
    large_log = artifacts.result(train_or_load(chosen.large_config(0)))["log"]
    assert large_log[-1]["loss"] < large_log[0]["loss"]
    signals = chosen.token_signals(chosen.small_config("cat-dist", 0))
    assert np.isfinite(signals.label_logprob).all() and len(set(signals.example)) == 8

    folders = [str(train_or_load(c)) for c in (chosen.small_config("cat-dist", 0), chosen.large_config(0))]
    runner = CascadeRunner(*load_pair(*folders), max_new_tokens=NEW)
    requests = [Request(e.item_id, e.prompt, e.options) for e in chosen.data.load().split("test")]
    confidence = np.array([r.confidences["chow_average"] for r in runner.answer(requests)])
    result = runner.run(requests, float(np.sort(confidence)[3]))
    assert result.deferred.sum() == 4
    rows = frame[frame["split"] == "test"].set_index(["model", "item_id"])
    for response, deferred, flops in zip(result.responses, result.deferred, result.flops):
        small, large = (rows.loc[(model, response.item_id)] for model in ("small", "large"))
        assert response.prediction == (large if deferred else small)["prediction"]
        assert flops == small["flops"] + deferred * large["flops"]


def test_mixed_pairs_and_what_does_not_fit_are_refused(tokenizer, training_set, teacher, tmp_path):
    seq2seq = t5_model(tokenizer, 1)
    causal = build_model(ModelSize(hidden=8, layers=1, heads=2), tokenizer, 1)
    with pytest.raises(ValueError, match=r"S \(small\) is causal and L \(large\) encoder-decoder") as e:
        CascadeRunner(causal, seq2seq, tokenizer)
    assert "\n" not in str(e.value)
    for name, model in (("s", seq2seq), ("l", causal)):
        save_model(model, tokenizer, tmp_path / name)
    places = str(tmp_path / "s"), str(tmp_path / "l")
    with pytest.raises(ValueError, match="prompts are tokenised once for both: choose two models of one kind"):
        load_pair(*places)
    options = {"suite": "mini-wmt", "suite_options": {"train": 20, "calibration": 2, "test": 2}, "device": "cpu"}
    chosen = Experiment.of(**options, small=places[0], large=places[1], steps=1, large_steps=1, learning_rate=1e-3,
                           large_learning_rate=1e-3)  # fmt: skip
    with pytest.raises(ValueError, match="is encoder-decoder and L .* causal"):
        chosen.outcomes()
    with pytest.raises(ValueError, match="is an encoder-decoder model, and side by side takes causal ones"):
        train_side_by_side([seq2seq] * 2, training_set, [TrainSettings()] * 2, tmp_path, [teacher] * 2)
    for_causal = TrainingSet(EXAMPLES, tokenizer, CONTEXT)
    for call in (
        lambda: train(seq2seq, for_causal, TrainSettings(), tmp_path / "t", use_cpu=True),
        lambda: run_teacher(seq2seq, for_causal, tmp_path / "c"),
        lambda: token_signals(seq2seq, for_causal),
    ):
        with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder model, .*encoder=True"):
            call()
    with pytest.raises(ValueError, match="LlamaForCausalLM is a causal model, .*encoder=False"):
        token_signals(causal, training_set)
    endless = copy.deepcopy(seq2seq)
    endless.config.decoder_start_token_id = endless.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="has no decoder_start_token_id: set it in its config.json"):
        has_plain_head(endless)
