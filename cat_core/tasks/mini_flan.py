"""Built-in suite mini-FLAN: ten tasks in invented words, generated from a seed, with FLAN2021's structure.

That structure (Wei et al. 2022, arXiv 2109.01652, sec. 2.1): many tasks of very different size, ten templates a task
(an input pattern and a target pattern), and an options block where the choices differ from row to row. Six tasks have
options and are scored by accuracy, four are generated and scored by exact match. Tasks share words, as real ones do,
so that a small task can be helped by a large one; they lie between easy and hard by what nobody can know (how often
annotators disagree, answers that can be worded in two ways) and by how much there is to remember.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cat_core.tasks.example import Example, options_block
from cat_core.tasks.synthetic import _Draw, _split, _zipf

_PATTERNS = {  # an input pattern; after an arrow its target pattern, where that is more than the answer
    "sentiment": ("{text} . is this good or bad ?", "{text}\ngood or bad ?", "read : {text}\nhow was it ?",
        "how was it ? {text}", "they say {text} . so it was", "they say : {text}\nis it good or bad ?",
        "good or bad ? {text}", "{text} . it was", "what do they say ? {text} -> it was {answer}",
        "{text}\nwhat do they say ? -> it was {answer}"),
    "span": ("{text} . {asked} ?", "{asked} ? {text}", "read : {text}\n{asked} ?",
        "read and answer : {text} . {asked} ?", "question : {asked} ? text : {text}\nanswer :",
        "text : {text}\nquestion : {asked} ?\nanswer :", "they say {text} . {asked} is it ?",
        "{text}\nanswer : {asked} is it ?", "{text} . so {asked} ? -> it is {answer}",
        "text : {text}\n{asked} is it ? -> it is {answer}"),
    "entailment": ("{text} . so {claim} ?", "{text}\nis it {claim} ?", "read : {text} . is it {claim} ?",
        "text : {text}\nquestion : {claim} ?", "is it {claim} ? {text}", "{claim} ? read : {text}",
        "they say {text} . so it is {claim} ?", "{text}\nso {claim} , yes or no ?", "{text} . yes or no : {claim} ?",
        "can we say {claim} ? {text}"),
    "summary": ("{offer} ? {name} : {reply} .", "you : {offer} ?\n{name} : {reply}",
        "{name} hears {offer} and says {reply}", "{offer} for {name} ? {reply} . in short :",
        "you say {offer} . {name} says {reply} . so", "read : you : {offer} ? {name} : {reply}\nin short :",
        "text : {name} , {offer} ? {reply} .\nin short", "in short ? {offer} ? {name} : {reply}",
        "{name} says {reply} to {offer} . -> {answer} .",
        "you : {offer} ?\n{name} : {reply}\nin short : -> in short , {answer}"),
    "fact": ("what is the {asked} of {name} ?", "{name} : {asked} ?", "question : {asked} of {name} ?\nanswer :",
        "the {asked} of {name} is", "we know {name} . {asked} ?", "say the {asked} of {name} .",
        "who is {name} ? {asked} :", "{asked} of {name} ?", "{name} has what {asked} ? -> it is {answer}",
        "do you know the {asked} of {name} ? -> it is {answer}"),
    "topic": ("{text} . what is it about ?", "{text}\nit is about", "what is this about ? {text}",
        "text : {text}\nabout :", "read : {text} . this is about", "they say {text} . about what ?",
        "question : what is it about ?\n{text}", "about what do they say {text} ?",
        "{text}\nwhat do they say ? -> about {answer}", "say what this is : {text} -> about {answer}"),
    "count": ("{text} . how many are good ?", "how many are good ? {text}", "{text}\nhow many good ?",
        "read : {text}\nhow many are good ?", "text : {text}\nquestion : how many good ?\nanswer :",
        "of {text} how many are good ?", "say how many are good : {text}", "good : how many ? {text}",
        "they say {text} . how many good ? -> there is {answer}", "{text} . of these good : -> there is {answer}"),
    "paraphrase": ("{one} . {two} . same ?", "{one}\n{two}\nis it the same ?", "one : {one}\ntwo : {two}\nsame ?",
        "is {one} the same as {two} ?", "do they say the same ? {one} . {two}", "{one} . so {two} ?",
        "they say {one} . can we say {two} ?", "read : {one} . {two} . is this the same ?",
        "same , yes or no ? {one} . {two}", "{one} or {two} : is it the same ?"),
    "sense": ("{text} {word} . what is {word} ?\n{options}", "what is {word} in {text} ?\n{options}",
        "{text} {word}\n{word} is\n{options}", "read : {word} {text}\nwhat is {word} ?\n{options}",
        "text : {text} {word}\n{options}\n{word} is", "{text} , {word} . is it this ?\n{options}",
        "they say {word} of {text} . it is\n{options}", "{options}\nwhat is {word} in {text} ?",
        "{word} and {text} . {word} is what ?\n{options}", "we say {word} for {text} . what is it ?\n{options}"),
    "choice": ("{event} . what is the {asked} ?\n{options}", "{event}\nthe {asked} is\n{options}",
        "what is the {asked} of {event} ?\n{options}", "{asked} of {event} ?\n{options}",
        "{options}\nwhat is the {asked} of {event} ?", "read : {event}\n{asked} :\n{options}",
        "they say {event} . {asked} ?\n{options}", "question : {asked} of {event} ?\n{options}\nanswer :",
        "we know {event} . what {asked} ?\n{options}", "text : {event} . the {asked} is\n{options}"),
}  # fmt: skip
TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {
    task: tuple((given, wanted or "{answer}") for given, _, wanted in (text.partition(" -> ") for text in patterns))
    for task, patterns in _PATTERNS.items()
}
"""(input pattern, target pattern), ten a task, the largest task first. The target pattern is that of every option."""

DISAGREEMENT = {
    "sentiment": 0.25, "span": 0.5, "entailment": 1.0, "summary": 0.5, "fact": 0.5, "topic": 0.25, "count": 0.5,
    "paraphrase": 1.5, "sense": 0.5, "choice": 2.25,
}  # fmt: skip
"""Share of answers that annotators replace by another one, in units of the configuration's `noise`."""

_NUMBERS = (("none", "zero"), ("one", "one"), ("two", "pair"), ("three", "three"), ("four", "all"))
_SAID = ("is", "is not", "is perhaps")
_VERBS = (("refuses", "declines"), ("takes", "wants"))
_RELATIONS = ("home", "work", "friend")
_SPEAKERS, _PLACES, _TIMES = 24, 24, 16


_Question = tuple[dict[str, str], tuple[str, ...], int]
"""What fills an input pattern; the answers an annotator may give (the options, if there are any); which is right."""


@dataclass(frozen=True)
class MiniFlan:
    """Sizes are numbers of words or facts, and of questions of all tasks together.

    words: adjectives, good or bad; nouns: each of one category; verbs: each with a synonym and an opposite; homonyms:
    words of two senses; events: with one cause and one effect out of `states`; entities: with one value out of `values`
    in each of three relations. zipf, skew: exponents of the frequency of words by rank, and of the training examples of
    a task by rank (12,000 to 1,500 by default; test and calibration are equal). noise: share of answers replaced by
    another one, times `DISAGREEMENT`. free_choice: how often a generated answer takes its second wording.
    """

    seed: int = 0
    words: int = 120
    nouns: int = 180
    categories: int = 6
    verbs: int = 40
    homonyms: int = 60
    events: int = 80
    states: int = 12
    entities: int = 80
    values: int = 14
    zipf: float = 1.0
    skew: float = 0.9
    noise: float = 0.12
    free_choice: float = 0.25
    train: int = 38_655
    calibration: int = 900
    test: int = 1_500


def mini_flan(config: MiniFlan = MiniFlan()) -> list[Example]:
    """Ten tasks in invented words, each after one of FLAN2021; train by `skew`, test and calibration equal.

    Accuracy: `sentiment` (SST-2: is the text good on balance, a negation turning the next word), `entailment` (SNLI:
    whether good or bad follows from is / is not / is perhaps), `topic` (AG News: the category most nouns are of),
    `paraphrase` (PAWS: two verbs of the same or the opposite sense, a negation turning one), `sense` (WiC: which sense
    of a word its neighbours call for), `choice` (COPA: cause or effect of an event). Exact match: `span` (SQuAD: who,
    what, where or when in a passage, "not x but y" correcting it), `summary` (SAMSum: who takes or refuses what),
    `fact` (NaturalQuestions: only memory has it), `count` (DROP: how many words are good). Raises ValueError where
    the sizes leave no choice.
    """
    least = {"categories": 4, "nouns": config.categories, "states": 4, "values": 2}
    for name, count in least.items():
        if getattr(config, name) < count:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {count}")
    draw = _Draw(f"mini-flan {config.seed}")
    categories, words, nouns = draw.words(config.categories), draw.words(config.words), draw.words(config.nouns)
    names, places, times = draw.words(_SPEAKERS), draw.words(_PLACES), draw.words(_TIMES)
    verbs = [draw.words(3) for _ in range(config.verbs)]
    homonyms, events, states = draw.words(config.homonyms), draw.words(config.events), draw.words(config.states)
    entities, values = draw.words(config.entities), [draw.words(config.values) for _ in _RELATIONS]
    polarity = [1 - 2 * draw.integer(2) for _ in words]
    by_category = [nouns[start :: config.categories] for start in range(config.categories)]
    frequency = functools.cache(partial(_zipf, exponent=config.zipf))

    def rank(count: int) -> int:
        """One of `count` words, the k-th with a probability in proportion to k ** -zipf."""
        return draw.weighted(frequency(count))

    def frequent(among: list[str]) -> str:
        return among[rank(len(among))]

    def adjective(index: int, negated: bool) -> tuple[str, int]:
        """An adjective as it is said, and whether that is good (1) or bad (-1)."""
        return (f"not {words[index]}", -polarity[index]) if negated else (words[index], polarity[index])

    def two_of(count: int) -> tuple[int, int]:
        first = draw.integer(count)
        return first, draw.other(first, count)

    def second() -> int:
        """1 where an answer takes its second wording, else 0."""
        return int(draw.chance(config.free_choice))

    linked = {side: [draw.integer(config.states) for _ in events] for side in ("cause", "effect")}
    senses = [two_of(config.categories) for _ in homonyms]
    facts = [[two_of(config.values) for _ in _RELATIONS] for _ in entities]

    def sentiment() -> _Question:
        opinion, told = draw.one_of((1, -1)), []
        for _ in range(5):  # three words in four agree with the opinion: texts are redundant
            word = adjective(rank(config.words), draw.chance(0.2))
            told.append(word if word[1] == opinion else adjective(rank(config.words), draw.chance(0.2)))
        tone = sum(value for _, value in told)
        return {"text": " ".join(text for text, _ in told)}, ("good", "bad"), int(tone < 0)

    def span() -> _Question:
        told = {"who": frequent(names), "what": frequent(nouns), "where": frequent(places), "when": frequent(times)}
        asked = draw.one_of(("who", "where", "when", "what", "what"))
        answers = dict(told)
        if draw.chance(0.25):  # a correction of what is asked: the first word is wrong
            kinds = {"who": names, "what": nouns, "where": places, "when": times}
            wrong = frequent(kinds[asked])
            told[asked] = f"not {wrong} but {told[asked]}" if wrong != told[asked] else told[asked]
        else:
            colour = frequent(words)
            told["what"] = f"{colour} {told['what']}"
            if second():
                answers["what"] = told["what"]  # where a span begins is the annotator's choice
        order = list(told)
        draw.shuffle(order)
        fields = {"text": " ".join(told[kind] for kind in order), "asked": asked}
        return fields, tuple(answers.values()), list(answers).index(asked)

    def entailment() -> _Question:
        word, operator, matches = rank(config.words), draw.integer(3), draw.chance(0.7)
        claimed = polarity[word] if matches else -polarity[word]
        # "is" asserts, "is not" denies, "is perhaps" leaves open what would follow.
        right = ((0, 1), (1, 0), (2, 2))[operator][0 if matches else 1]
        text = f"{frequent(names)} {_SAID[operator]} {words[word]}"
        return {"text": text, "claim": "good" if claimed > 0 else "bad"}, ("yes", "no", "maybe"), right

    def summary() -> _Question:
        offer, name = frequent(nouns), frequent(names)
        reply, tone = adjective(rank(config.words), draw.chance(0.2))
        answers = tuple(f"{name} {verb[second()]} {offer}" for verb in _VERBS)
        return {"offer": offer, "name": name, "reply": reply}, answers, int(tone > 0)

    def fact() -> _Question:
        entity, relation = rank(config.entities), draw.integer(len(_RELATIONS))
        right = facts[entity][relation][second()]
        return {"name": entities[entity], "asked": _RELATIONS[relation]}, tuple(values[relation]), right

    def topic() -> _Question:
        right = draw.integer(config.categories)
        text = [frequent(by_category[right]) if draw.chance(0.85) else frequent(nouns) for _ in range(5)]
        return {"text": " ".join(text)}, tuple(categories), right

    def count() -> _Question:
        told = [rank(config.words) for _ in range(4)]
        answers = tuple(name[second()] for name in _NUMBERS)
        return {"text": " , ".join(words[w] for w in told)}, answers, sum(polarity[w] > 0 for w in told)

    def paraphrase() -> _Question:
        name, noun, verb = frequent(names), frequent(nouns), rank(config.verbs)
        same, negated = draw.chance(0.5), draw.chance(0.2)
        plain, synonym, opposite = verbs[verb]
        pair = [plain, draw.one_of((plain, synonym)) if same != negated else opposite]
        if negated:
            turned = draw.integer(2)
            pair[turned] = f"not {pair[turned]}"
        draw.shuffle(pair)
        one, two = (f"{name} {form} {noun}" for form in pair)
        return {"one": one, "two": two}, ("yes", "no"), int(not same)

    def sense() -> _Question:
        word, right = rank(config.homonyms), draw.integer(2)
        meant = senses[word][right]
        near = [frequent(by_category[meant]) for _ in range(2)]
        if draw.chance(0.3):
            near[draw.integer(2)] = frequent(nouns)
        fields = {"text": " ".join(near), "word": homonyms[word]}
        return fields, tuple(categories[sense] for sense in senses[word]), right

    def choice() -> _Question:
        event, side = rank(config.events), draw.one_of(("cause", "effect"))
        right = linked[side][event]
        options = [right]
        while len(options) < 4:
            if (state := draw.integer(config.states)) not in options:
                options.append(state)
        draw.shuffle(options)
        fields = {"event": events[event], "asked": side}
        return fields, tuple(states[state] for state in options), options.index(right)

    def asked(question: Callable[[], _Question]) -> dict:
        task, (fields, answers, right) = question.__name__, question()
        given, wanted = draw.one_of(TEMPLATES[task])
        if draw.chance(config.noise * DISAGREEMENT[task]):
            right = draw.other(right, len(answers))
        options = tuple(wanted.format(answer=answer) for answer in answers)
        prompt = given.format(**fields, options=options_block(answers))
        kind = {"metric": "exact_match"} if question in (span, summary, fact, count) else {"options": options}
        return {"task": task, "prompt": prompt, "target": options[right]} | kind

    questions = (sentiment, span, entailment, summary, fact, topic, count, paraphrase, sense, choice)
    weights = [rank ** -float(config.skew) for rank in range(1, len(questions) + 1)]
    return _split(config, draw, [partial(asked, question) for question in questions], weights)
