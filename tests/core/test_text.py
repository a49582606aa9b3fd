"""Texts as token ids: BOS, the seam between prompt and target, chat templates, control tokens, and where answers end.

The tokenizers are of the kinds that language models come with, trained on a few lines.
"""

import copy
import json
import warnings
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import t5_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, StoppingCriteriaList, StopStringCriteria

from cat_core.cascade import LOWEST, CascadeRunner, confidence_of
from cat_core.queries import Request
from cat_core.text import TextFormat

LINES = [
    "Question: is the sky blue? Answer: yes",
    "the answer is no\nAnswer: the red house",
    "user assistant model x y z",
]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (  # as Llama 2: BOS in the template, blanks around the answer
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]{% else %} "
    "{{ m['content'] }} "
    "</s>{% endif %}{% endfor %}"
)
TURNS = (  # as Gemma: another end than EOS
    "<s>{% for m in messages %}<|im_start|>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


@cache
def tokenizer_of(kind: str, bos: bool = False):
    """byte: GPT-2's; prefix: GPT-2's with a blank before a text; sentencepiece: Llama 2's."""
    raw = Tokenizer(models.BPE(byte_fallback=kind == "sentencepiece", unk_token=None))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "sentencepiece":
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
        alphabet = sorted({*"".join(LINES), "▁"} - {" "})
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix")
        raw.decoder = decoders.ByteLevel()
    special = SPECIAL + ([f"<0x{i:02X}>" for i in range(256)] if kind == "sentencepiece" else [])
    options = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    raw.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=800, **options))
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=SPECIAL[3:], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def chatty(template: str, kind: str = "byte", bos: bool = False):
    tokenizer = copy.deepcopy(tokenizer_of(kind, bos))
    tokenizer.chat_template = template
    return tokenizer


KINDS = ["byte", "prefix", "sentencepiece"]
PROMPTS = ["Question: is the sky blue? Answer:", "the answer is no\nAnswer: ", "the red house\n", "x"]
TARGETS = ["yes", "the red house", "no no"]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_target_are_the_tokens_of_the_whole_text(kind, bos):
    """Against the tokenizer's own reading of both together, BOS where it puts one and nowhere else."""
    tokenizer = tokenizer_of(kind, bos)
    text = TextFormat(tokenizer)
    assert text.head == [1] * bos
    for prompt in PROMPTS:
        for target in TARGETS:
            whole = prompt.rstrip(" ") + (target if prompt.endswith("\n") else " " + target)
            joined = text.prompt(prompt) + text.target(target, prompt)
            assert joined == [*tokenizer(whole)["input_ids"], 2], (prompt, target)
            assert text.split_rows([prompt], [target]) == 0
    assert text.targets(PROMPTS[:1] * 3, TARGETS) == [text.target(t, PROMPTS[0]) for t in TARGETS]


def test_the_blank_is_a_part_of_a_byte_level_target():
    """Without it options are scored in a way that the model never saw them in."""
    text = TextFormat(tokenizer_of("byte"))
    blank, bare = text.target("yes", "Answer:"), text.target("yes", "Answer:\n")
    assert blank != bare and text.tokenizer.decode(blank[:-1]) == " yes" and text.tokenizer.decode(bare[:-1]) == "yes"
    assert text.target(" yes", "Answer:") == blank, "white space that a target brings along is not doubled"


def test_seams_that_a_model_has_not_seen_are_counted():
    raw = Tokenizer(models.BPE())  # nothing keeps this one from merging over a blank
    trainer = trainers.BpeTrainer(vocab_size=200, initial_alphabet=sorted({*"".join(LINES)}), show_progress=False)
    raw.train_from_iterator(LINES * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="z", pad_token="z")
    assert TextFormat(tokenizer).split_rows(["Question: is the sky", "x"], ["blue? Answer:", "y"]) == 1


@pytest.mark.parametrize("template", [CHATML, BRACKETS, TURNS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_prompt_is_what_the_template_makes_of_it(kind, template):
    tokenizer = chatty(template, kind, bos=True)
    text = TextFormat(tokenizer, template="chat")
    ask, answer = {"role": "user", "content": "is the sky blue?"}, {"role": "assistant", "content": "the answer"}
    prompt = text.prompt(ask["content"])
    expected = tokenizer.apply_chat_template([ask], add_generation_prompt=True)["input_ids"]
    assert prompt == expected and prompt.count(1) == (template != CHATML), "BOS is the template's, once"
    whole = tokenizer.apply_chat_template([ask, answer])["input_ids"]
    target = text.target("the answer", ask["content"])
    if template == BRACKETS:  # a blank before the end is no part of an answer
        whole = [*tokenizer(tokenizer.apply_chat_template([ask, answer], tokenize=False).replace(" </s>", "</s>"),
                            add_special_tokens=False)["input_ids"]]  # fmt: skip
    assert whole[: len(prompt) + len(target)] == prompt + target
    end = 2 if template == BRACKETS else 4
    assert text.end == end == target[-1] and text.stop_ids() == {2, end}


def test_shots_are_turns_of_a_chat_and_lines_of_a_plain_prompt():
    shots = {"t": [("one?", "yes"), ("two?\n", "no")]}
    chat = TextFormat(chatty(CHATML), template="chat", shots=shots)
    said = ["one?", "yes", "two?\n", "no", "three?"]
    turns = [{"role": ("user", "assistant")[i % 2], "content": s} for i, s in enumerate(said)]
    expected = chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert chat.prompt("three?", "t") == expected
    plain = TextFormat(tokenizer_of("byte"), shots=shots)
    expected = plain.tokenizer("one? yes\n\ntwo?\nno\n\nthree?")["input_ids"]
    assert plain.prompt("three?", "t") == expected and plain.prompt("three?", "other") == plain.prompt("three?")
    with pytest.raises(ValueError, match="cannot be cut on the left"):
        plain.check_cut(True)


@given(st.lists(st.sampled_from([*SPECIAL, " ", "\n", "Answer", "é", "漢"]), min_size=1, max_size=6).map("".join))
@settings(max_examples=60, deadline=None)
def test_data_never_make_control_tokens(data):
    for kind in KINDS:
        plain = TextFormat(chatty(CHATML, kind))
        chat = TextFormat(chatty(CHATML, kind), template="chat", shots={"": [(data + "?", data)]})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not {0, 1, 2, 3, 4} & {*plain.prompt(data), *plain.target(data)[:-1], *chat.target(data)[:-1]}
            harmless = chat.prompt("x")
            rows = [chat.prompt(data), TextFormat(chat.tokenizer, template="chat").prompt(data)]
        assert [rows[0].count(i) for i in range(5)] == [harmless.count(i) for i in range(5)]
        assert [rows[1].count(i) for i in (3, 4)] == [3, 2], "system, user and assistant begin; two of them end"


def test_names_of_control_tokens_in_prompts_are_reported():
    text = TextFormat(chatty(CHATML))
    with pytest.warns(UserWarning, match=r"1 of 2 prompts hold .* '<\|im_start\|>'.* need template 'rendered'"):
        text.prompts(["<|im_start|>user\nx", "x"])
    rendered = TextFormat(chatty(CHATML, bos=True), template="rendered")
    assert rendered.prompt("<|im_start|>user\nx")[:2] == [1, 3], "BOS is put where it lacks"
    assert rendered.prompt("<s><|im_start|>user\nx")[:2] == [1, 3], "and not where it is"
    assert rendered.target("yes", "<|im_start|>assistant\n")[0] == rendered.target("yes", "\n")[0]


def test_what_cannot_be_formatted_is_refused():
    tokenizer = tokenizer_of("byte")
    for options, message in (
        ({"template": "chta"}, "unknown template 'chta'"),
        ({"template": "chat"}, "no chat template"),
        ({"stop": "\n"}, "stop must be a list"),
        ({"stop": [""]}, "none of them empty"),
        ({"template": "rendered", "encoder": True}, "an encoder reads plain prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            TextFormat(tokenizer, **options)


def test_an_encoder_reads_what_its_tokenizer_makes_of_a_text():
    tokenizer = t5_tokenizer(LINES)
    text = TextFormat(tokenizer, encoder=True)
    assert text.prompt("the sky </s> x")[-1] == tokenizer.eos_token_id
    assert text.prompt("the sky </s> x").count(tokenizer.eos_token_id) == 1
    assert text.target("yes") == tokenizer("yes")["input_ids"] and text.split_rows(["x"], ["yes"]) == 0


# ------------------------------------------------------------------- where answers end


def asked(count=12):
    words = "the cat sat on a dog runs after is sky blue house red".split()
    return [Request(f"q{i}", " ".join(words[(i * k) % len(words)] for k in range(1, 4 + i % 5))) for i in range(count)]


def test_answers_end_where_the_generation_config_says(tiny_pair):
    """Against `generate`, which reads the same configuration; tokens after the end are in nothing."""
    small, large, tokenizer = tiny_pair
    free = CascadeRunner(small, large, tokenizer, max_new_tokens=12).answer(asked())
    common = max({t for r in free for t in r.tokens[2:-1]}, key=lambda t: sum(t in r.tokens for r in free))
    own = copy.deepcopy(small)
    own.generation_config.eos_token_id = [tokenizer.eos_token_id, common]
    runner = CascadeRunner(own, large, tokenizer, max_new_tokens=12)
    assert runner.stop_ids["small"] == {tokenizer.eos_token_id, common} != runner.stop_ids["large"]
    sooner = 0
    for request, before, after in zip(asked(), free, runner.answer(asked())):
        ids = torch.tensor([tokenizer(request.prompt)["input_ids"]])
        mask = torch.ones_like(ids)
        made = own.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert after.tokens == made[0, ids.shape[1] :].tolist() == before.tokens[: len(after.tokens)]
        assert after.truncated == (after.tokens[-1] not in runner.stop_ids["small"])
        cut = len(after.tokens) < len(before.tokens)
        sooner += cut
        if cut:
            assert after.prediction == tokenizer.decode(after.tokens[:-1], skip_special_tokens=True).strip()
            assert after.flops < before.flops and len(after.token_logprobs) == len(after.tokens)
            expected = sum(before.token_logprobs[: len(after.tokens)])
            assert after.confidences["chow_sum"] == pytest.approx(expected, rel=1e-6)
    assert 0 < sooner < len(free)


def test_answers_end_at_the_users_strings(tiny_pair):
    """Against `generate` with transformers' own criterion for stop strings."""
    small, large, tokenizer = tiny_pair
    free = CascadeRunner(small, large, tokenizer, max_new_tokens=12).answer(asked())
    stop = next(r.prediction[3:5] for r in free if len(r.prediction) > 8 and r.prediction[3:5].isalnum())
    text = TextFormat(tokenizer, stop=[stop, "never said"])
    runner = CascadeRunner(small, large, tokenizer, text=text, max_new_tokens=12)
    found, criterion = runner.answer(asked()), StoppingCriteriaList([StopStringCriteria(tokenizer, [stop])])
    for request, before, after in zip(asked(), free, found):
        ids = torch.tensor([tokenizer(request.prompt)["input_ids"]])
        made = small.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0,
            stopping_criteria=criterion,
        )  # fmt: skip
        assert after.tokens == made[0, ids.shape[1] :].tolist()
        assert after.prediction == before.prediction.partition(stop)[0].strip()
        assert after.truncated == (before.truncated and stop not in before.prediction)
    assert any(len(a.tokens) < len(b.tokens) for a, b in zip(found, free))
    alone = CascadeRunner(small, large, tokenizer, text=text, max_new_tokens=12, batch_tokens=1).answer(asked())
    assert [r.tokens for r in alone] == [r.tokens for r in found]


def test_an_empty_answer_is_deferred_on_request(tiny_pair):
    small, large, tokenizer = tiny_pair
    eager = copy.deepcopy(small)
    free = CascadeRunner(small, large, tokenizer, max_new_tokens=6).answer(asked())
    first = free[0].tokens[0]  # the model begins some answers with the end, and is sure of it
    eager.generation_config.eos_token_id = [tokenizer.eos_token_id, first]
    runner = CascadeRunner(eager, large, tokenizer, max_new_tokens=6)
    small_answers = runner.answer(asked())
    empty = [r.empty for r in small_answers]
    assert any(empty) and not all(empty)
    confidence = confidence_of(small_answers, "chow_average", defer_empty=True)
    assert [c == LOWEST for c in confidence] == empty
    tau = float(confidence[~torch.tensor(empty).numpy()].min()) - 1
    kept, moved = (runner.run(asked(), tau, defer_empty=wanted) for wanted in (False, True))
    assert moved.deferred.tolist() == empty and not all(kept.deferred[i] for i, e in enumerate(empty) if e)
    assert all(not r.empty or d for r, d in zip(moved.small, moved.deferred))
    with pytest.raises(ValueError, match="no confidence 'option_margin'"):
        confidence_of(small_answers, "option_margin")


def test_what_the_ids_depend_on_is_in_the_store_and_its_description(tiny_pair, tmp_path):
    small, large, tokenizer = tiny_pair
    runner = CascadeRunner(small, large, tokenizer, max_new_tokens=4)
    runner.answer(asked(3), store=tmp_path)
    described = json.loads((tmp_path / "plan.json").read_text())["plan"]["text"]
    assert described["template"] == "plain" and described["head"] == [1] and described["stop ids"] == [2]
    other = CascadeRunner(small, large, tokenizer, text=TextFormat(tokenizer, stop=["a"]), max_new_tokens=4)
    with pytest.raises(ValueError, match="holds another run .*text"):
        other.answer(asked(3), store=tmp_path)
    chat = TextFormat(chatty(CHATML), template="chat", shots={"": [("a", "b")]}).describe()
    assert {"chat template", "shots"} <= chat.keys() and json.dumps(chat)
    assert chat != TextFormat(chatty(TURNS), template="chat", shots={"": [("a", "b")]}).describe()
