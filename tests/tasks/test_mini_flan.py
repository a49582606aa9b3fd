"""mini-FLAN: templates, sizes, and answers that follow from the words by rules written down here a second time."""

import re
import string
from collections import Counter, defaultdict

import pytest

from cat_core.tasks.mini_flan import DISAGREEMENT, TEMPLATES, MiniFlan, mini_flan
from cat_core.tasks.suite import load_suite
from cat_core.training.models import train_tokenizer

BY_ROW = {"sense", "choice"}  # tasks whose options differ from row to row
GENERATED = {"span", "summary", "fact", "count"}
PLAIN = {"noise": 0.0, "free_choice": 0.0}
WORDS = r"[a-z]+(?: ,)?(?: [a-z]+(?: ,)?)*"
KINDS = dict.fromkeys(("asked", "name", "claim", "word"), "[a-z]+") | {"options": r"OPTIONS:(?:\n- [a-z]+)+"}


def fields_of(example):
    """(the fields of the prompt, its target pattern): of all templates that fit, the one with the most fixed text."""
    fits = []
    for given, wanted in TEMPLATES[example.task]:
        pattern, seen = "", set()
        for text, name, _, _ in string.Formatter().parse(given):
            pattern += re.escape(text)
            if name:
                pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{KINDS.get(name, WORDS)})"
                seen.add(name)
        if found := re.fullmatch(pattern, example.prompt):
            fits.append((found.groupdict(), wanted))
    assert fits, example.prompt
    return min(fits, key=lambda fit: sum(map(len, fit[0].values())))


def answer_of(example):
    """The bare answer, without what the target pattern puts around it."""
    before, after = fields_of(example)[1].split("{answer}")
    assert example.target.startswith(before) and example.target.endswith(after)
    return example.target[len(before) : len(example.target) - len(after)]


@pytest.fixture(scope="module")
def whole():
    return mini_flan()


@pytest.fixture(scope="module")
def plain():
    """Examples without noise and free choice, by task."""
    by_task = defaultdict(list)
    for example in mini_flan(MiniFlan(train=12_000, **PLAIN)):
        by_task[example.task].append(example)
    return by_task


@pytest.fixture(scope="module")
def tone(plain):
    """1 for a good adjective, -1 for a bad one, as the summaries without a negation tell."""
    tones = {}
    for example in plain["summary"]:
        reply = fields_of(example)[0]["reply"].split()
        value = {"takes": 1, "refuses": -1}[answer_of(example).split()[1]] * (-1 if reply[0] == "not" else 1)
        assert tones.setdefault(reply[-1], value) == value
    assert set(tones.values()) == {1, -1}
    return tones


def tones_of(text, tone):
    """Tones of the adjectives of a text, None if one is not known."""
    values, sign = [], 1
    for word in text.replace(" ,", "").split():
        if word == "not":
            sign = -1
            continue
        values.append(sign * tone[word] if word in tone else None)
        sign = 1
    return None if None in values else values


def test_ten_templates_a_task_and_an_options_block_where_choices_differ():
    assert set(TEMPLATES) == set(DISAGREEMENT) and len(TEMPLATES) == 10
    for task, templates in TEMPLATES.items():
        assert len({given for given, _ in templates}) == len(templates) == 10
        names = {frozenset(name for _, name, _, _ in string.Formatter().parse(given) if name) for given, _ in templates}
        assert len(names) == 1  # every template asks for the same
        assert ("options" in next(iter(names))) == (task in BY_ROW)
        for given, wanted in templates:
            assert given == given.strip() and wanted.count("{answer}") == 1


def test_every_template_is_used_and_every_prompt_fits_one(whole):
    used = defaultdict(Counter)
    for example in whole[:4_000]:
        fields, wanted = fields_of(example)
        used[example.task][wanted] += 1
        if example.task in BY_ROW:
            assert fields["options"] == "OPTIONS:\n" + "\n".join(f"- {option}" for option in example.options)
    for task, templates in TEMPLATES.items():
        patterns = Counter(wanted for _, wanted in templates)
        for wanted, count in patterns.items():
            assert used[task][wanted] / sum(used[task].values()) == pytest.approx(count / 10, abs=0.15)


def test_sizes_fall_like_zipf_and_tests_are_equal(whole):
    sizes = Counter(e.task for e in whole if e.split == "train")
    ranked = [count for _, count in sizes.most_common()]
    assert [task for task, _ in sizes.most_common()] == list(TEMPLATES)
    assert ranked == pytest.approx([12_000 / rank**0.9 for rank in range(1, 11)], abs=1.5)
    for split, count in (("calibration", 90), ("test", 150)):
        assert Counter(e.task for e in whole if e.split == split) == dict.fromkeys(TEMPLATES, count)
    flat = mini_flan(MiniFlan(train=500, calibration=10, test=10, skew=0))
    assert set(Counter(e.task for e in flat if e.split == "train").values()) == {50}


def test_metrics_and_options(whole):
    for example in whole:
        assert (example.metric, bool(example.options)) == (
            ("exact_match", False) if example.task in GENERATED else ("accuracy", True)
        )
    for task in set(TEMPLATES) - GENERATED - BY_ROW:
        assert len({e.options for e in whole if e.task == task}) == len({wanted for _, wanted in TEMPLATES[task]})
    assert {len(e.options) for e in whole if e.task == "topic"} == {6}


def test_no_option_wins_everywhere(whole):
    for task in set(TEMPLATES) - GENERATED:
        items = [e for e in whole if e.task == task]
        places = Counter(e.options.index(e.target) for e in items)
        assert set(places) == set(range(len(items[0].options)))
        assert max(places.values()) < 1.3 * len(items) / len(items[0].options)
    for task in GENERATED:
        items = [e.target for e in whole if e.task == task]
        assert Counter(items).most_common(1)[0][1] < 0.3 * len(items)


def test_prompts_and_targets_are_short(whole):
    tokenizer = train_tokenizer([text for e in whole[:10_000] for text in (e.prompt, e.target)], 2_000)
    for field, most in (("prompt", 40), ("target", 8)):
        texts = [getattr(e, field) for e in whole[-6_000:]]
        lengths = map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])
        assert max(lengths) < most  # one more for <s>, or </s>


def test_sentiment_is_the_sum_of_the_words(plain, tone):
    checked = 0
    for example in plain["sentiment"]:
        values = tones_of(fields_of(example)[0]["text"], tone)
        if values is not None:
            assert len(values) == 5 and answer_of(example) == ("good" if sum(values) > 0 else "bad")
            checked += 1
    assert checked > 500


def test_count_counts(plain, tone):
    checked = 0
    for example in plain["count"]:
        values = tones_of(fields_of(example)[0]["text"], tone)
        if values is not None:
            assert len(values) == 4
            assert answer_of(example) == ("none", "one", "two", "three", "four")[values.count(1)]
            checked += 1
    assert checked > 100


def test_span_is_in_the_text_and_not_what_was_corrected(plain):
    kinds = defaultdict(set)
    for example in plain["span"]:
        fields, answer = fields_of(example)[0], answer_of(example)
        text = fields["text"].split()
        assert answer in text and text[text.index(answer) - 1] != "not"
        if "not" in text:
            assert text[text.index("not") + 2 : text.index("not") + 4] == ["but", answer]
        kinds[fields["asked"]].add(answer)
    assert set(kinds) == {"who", "what", "where", "when"}
    for asked, answers in kinds.items():
        assert all(not answers & others for other, others in kinds.items() if other != asked)


def test_entailment_follows_from_the_tone(plain, tone):
    seen = Counter()
    for example in plain["entailment"]:
        fields = fields_of(example)[0]
        _, operator, word = re.fullmatch("([a-z]+) (is|is not|is perhaps) ([a-z]+)", fields["text"]).groups()
        if word in tone:
            alike = (fields["claim"] == "good") == (tone[word] > 0)
            expected = {"is": alike, "is not": not alike}
            assert answer_of(example) == {True: "yes", False: "no", None: "maybe"}[expected.get(operator)]
            seen[operator, alike] += 1
    assert len(seen) == 6 and min(seen.values()) > 20


@pytest.fixture(scope="module")
def category_of(plain):
    """Name of a noun's category, by noun, for nouns that at least five passages of `topic` hold: the most frequent."""
    topics = defaultdict(Counter)
    for example in plain["topic"]:
        for noun in set(fields_of(example)[0]["text"].split()):
            topics[noun][answer_of(example)] += 1
    return {noun: counts.most_common(1)[0][0] for noun, counts in topics.items() if sum(counts.values()) >= 5}


def test_topic_is_the_category_of_most_nouns(plain, category_of):
    right = []
    for example in plain["topic"]:
        found = [category_of.get(noun) for noun in fields_of(example)[0]["text"].split()]
        first, second = (*Counter(found).most_common(2), (None, 0))[:2]
        if None not in found and first[1] > second[1]:
            right.append(first[0] == answer_of(example))
    assert len(right) > 100 and sum(right) / len(right) > 0.97


def test_sense_is_the_category_of_the_neighbours(plain, category_of):
    senses, right = defaultdict(set), []
    for example in plain["sense"]:
        fields = fields_of(example)[0]
        senses[fields["word"]].add(frozenset(example.options))
        found = {category_of.get(noun) for noun in fields["text"].split()} & set(example.options)
        if len(found) == 1:
            right.append(found == {example.target})
    assert {len(pairs) for pairs in senses.values()} == {1}  # a word has two senses
    assert len(right) > 100 and sum(right) / len(right) > 0.9  # some neighbours are of any category


def test_facts_and_links_are_fixed(plain):
    for task, key in (("fact", ("name", "asked")), ("choice", ("event", "asked"))):
        known = defaultdict(set)
        for example in plain[task]:
            fields = fields_of(example)[0]
            known[tuple(fields[name] for name in key)].add(answer_of(example))
        assert len(known) > 50 and {len(answers) for answers in known.values()} == {1}


def test_paraphrase_is_a_synonym_or_a_negated_opposite(plain):
    """Verbs that the answers link as alike or opposite form groups of at most three, without contradiction."""
    links = defaultdict(set)
    for example in plain["paraphrase"]:
        fields = fields_of(example)[0]
        one, two = (fields[name].split() for name in ("one", "two"))
        assert (one[0], one[-1]) == (two[0], two[-1])  # who and what are the same
        negated = len(one) + len(two) == 7
        assert negated == ((one + two).count("not") == 1) and len(one) + len(two) in (6, 7)
        alike = (answer_of(example) == "yes") != negated
        links[one[-2]].add((two[-2], alike))
        links[two[-2]].add((one[-2], alike))
    side = {}
    for verb in links:
        group, front = {}, [(verb, True)] if verb not in side else []
        while front:
            word, same = front.pop()
            if group.setdefault(word, same) == same and word not in side:
                side[word] = same
                front += [(near, same == alike) for near, alike in links[word]]
            assert group[word] == same
        assert len(group) <= 3


def test_noise_replaces_its_share_of_answers():
    """With facts alone known, an answer that is not the most frequent one of its question is noise."""
    config = MiniFlan(noise=0.5, free_choice=0.0, train=8_000, entities=10)
    answers = defaultdict(Counter)
    for example in mini_flan(config):
        if example.task == "fact":
            fields = fields_of(example)[0]
            answers[fields["name"], fields["asked"]][answer_of(example)] += 1
    total = sum(sum(counts.values()) for counts in answers.values())
    share = 1 - sum(max(counts.values()) for counts in answers.values()) / total
    assert share == pytest.approx(0.5 * DISAGREEMENT["fact"], abs=4 * (0.25 * 0.75 / total) ** 0.5)


def test_free_choice_is_the_share_of_second_wordings():
    config = MiniFlan(noise=0.0, free_choice=0.4, train=8_000)
    verbs, numbers = Counter(), Counter()
    for example in mini_flan(config):
        if example.task == "summary":
            verbs[answer_of(example).split()[1] in ("declines", "wants")] += 1
        if example.task == "count":
            number = answer_of(example)
            if number not in ("one", "three"):  # these have one wording
                numbers[number in ("zero", "pair", "all")] += 1
    for seen in (verbs, numbers):
        total = sum(seen.values())
        assert seen[True] / total == pytest.approx(0.4, abs=4 * (0.24 / total) ** 0.5)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"categories": 3}, ValueError, "mini-flan: cannot be generated with .*categories is 3; expected at least 4"),
        ({"nouns": 5}, ValueError, "nouns is 5; expected at least 6"),
        ({"states": 3}, ValueError, "states is 3; expected at least 4"),
        ({"values": 1}, ValueError, "values is 1; expected at least 2"),
        ({"entity": 9}, ValueError, "mini-flan: unknown option 'entity'; did you mean 'entities'"),
        ({"noise": "0.1"}, TypeError, "option noise must be a number, got '0.1'"),
        ({"train": 0}, ValueError, "option train must be at least 1"),
    ],
)
def test_refuses(options, kind, message):
    with pytest.raises(kind, match=message) as error:
        load_suite("mini-flan", options=options)
    assert "\n" not in str(error.value)
