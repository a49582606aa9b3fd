"""Built-in suite mini-FLAN: ten tasks in invented words, generated from a seed, with FLAN2021's structure.

That structure (Wei et al. 2022, arXiv 2109.01652, sec. 2.1): many tasks of very different size, ten templates a task
(an input pattern and a target pattern), and an options block where the choices differ from row to row. Six tasks have
options and are scored by accuracy, four are generated and scored by exact match. Tasks share words, as real ones do,
so that a small task can be helped by a large one; they lie between easy and hard by what nobody can know (how often
annotators disagree, answers that can be worded in two ways) and by how much there is to remember.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cat_core.synthetic import _Draw, _split, _zipf
from cat_core.tasks import Example

TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {
    "sentiment": (
        ("{text} . is this good or bad ?", "{answer}"),
        ("{text}\ngood or bad ?", "{answer}"),
        ("read : {text}\nhow was it ?", "{answer}"),
        ("how was it ? {text}", "{answer}"),
        ("they say {text} . so it was", "{answer}"),
        ("they say : {text}\nis it good or bad ?", "{answer}"),
        ("good or bad ? {text}", "{answer}"),
        ("{text} . it was", "{answer}"),
        ("what do they say ? {text}", "it was {answer}"),
        ("{text}\nwhat do they say ?", "it was {answer}"),
    ),
    "span": (
        ("{text} . {asked} ?", "{answer}"),
        ("{asked} ? {text}", "{answer}"),
        ("read : {text}\n{asked} ?", "{answer}"),
        ("read and answer : {text} . {asked} ?", "{answer}"),
        ("question : {asked} ? text : {text}\nanswer :", "{answer}"),
        ("text : {text}\nquestion : {asked} ?\nanswer :", "{answer}"),
        ("they say {text} . {asked} is it ?", "{answer}"),
        ("{text}\nanswer : {asked} is it ?", "{answer}"),
        ("{text} . so {asked} ?", "it is {answer}"),
        ("text : {text}\n{asked} is it ?", "it is {answer}"),
    ),
    "entailment": (
        ("{text} . so {claim} ?", "{answer}"),
        ("{text}\nis it {claim} ?", "{answer}"),
        ("read : {text} . is it {claim} ?", "{answer}"),
        ("text : {text}\nquestion : {claim} ?", "{answer}"),
        ("is it {claim} ? {text}", "{answer}"),
        ("{claim} ? read : {text}", "{answer}"),
        ("they say {text} . so it is {claim} ?", "{answer}"),
        ("{text}\nso {claim} , yes or no ?", "{answer}"),
        ("{text} . yes or no : {claim} ?", "{answer}"),
        ("can we say {claim} ? {text}", "{answer}"),
    ),
    "summary": (
        ("{offer} ? {name} : {reply} .", "{answer}"),
        ("you : {offer} ?\n{name} : {reply}", "{answer}"),
        ("{name} hears {offer} and says {reply}", "{answer}"),
        ("{offer} for {name} ? {reply} . in short :", "{answer}"),
        ("you say {offer} . {name} says {reply} . so", "{answer}"),
        ("read : you : {offer} ? {name} : {reply}\nin short :", "{answer}"),
        ("text : {name} , {offer} ? {reply} .\nin short", "{answer}"),
        ("in short ? {offer} ? {name} : {reply}", "{answer}"),
        ("{name} says {reply} to {offer} .", "{answer} ."),
        ("you : {offer} ?\n{name} : {reply}\nin short :", "in short , {answer}"),
    ),
    "fact": (
        ("what is the {asked} of {name} ?", "{answer}"),
        ("{name} : {asked} ?", "{answer}"),
        ("question : {asked} of {name} ?\nanswer :", "{answer}"),
        ("the {asked} of {name} is", "{answer}"),
        ("we know {name} . {asked} ?", "{answer}"),
        ("say the {asked} of {name} .", "{answer}"),
        ("who is {name} ? {asked} :", "{answer}"),
        ("{asked} of {name} ?", "{answer}"),
        ("{name} has what {asked} ?", "it is {answer}"),
        ("do you know the {asked} of {name} ?", "it is {answer}"),
    ),
    "topic": (
        ("{text} . what is it about ?", "{answer}"),
        ("{text}\nit is about", "{answer}"),
        ("what is this about ? {text}", "{answer}"),
        ("text : {text}\nabout :", "{answer}"),
        ("read : {text} . this is about", "{answer}"),
        ("they say {text} . about what ?", "{answer}"),
        ("question : what is it about ?\n{text}", "{answer}"),
        ("about what do they say {text} ?", "{answer}"),
        ("{text}\nwhat do they say ?", "about {answer}"),
        ("say what this is : {text}", "about {answer}"),
    ),
    "count": (
        ("{text} . how many are good ?", "{answer}"),
        ("how many are good ? {text}", "{answer}"),
        ("{text}\nhow many good ?", "{answer}"),
        ("read : {text}\nhow many are good ?", "{answer}"),
        ("text : {text}\nquestion : how many good ?\nanswer :", "{answer}"),
        ("of {text} how many are good ?", "{answer}"),
        ("say how many are good : {text}", "{answer}"),
        ("good : how many ? {text}", "{answer}"),
        ("they say {text} . how many good ?", "there is {answer}"),
        ("{text} . of these good :", "there is {answer}"),
    ),
    "paraphrase": (
        ("{one} . {two} . same ?", "{answer}"),
        ("{one}\n{two}\nis it the same ?", "{answer}"),
        ("one : {one}\ntwo : {two}\nsame ?", "{answer}"),
        ("is {one} the same as {two} ?", "{answer}"),
        ("do they say the same ? {one} . {two}", "{answer}"),
        ("{one} . so {two} ?", "{answer}"),
        ("they say {one} . can we say {two} ?", "{answer}"),
        ("read : {one} . {two} . is this the same ?", "{answer}"),
        ("same , yes or no ? {one} . {two}", "{answer}"),
        ("{one} or {two} : is it the same ?", "{answer}"),
    ),
    "sense": (
        ("{text} {word} . what is {word} ?\n{options}", "{answer}"),
        ("what is {word} in {text} ?\n{options}", "{answer}"),
        ("{text} {word}\n{word} is\n{options}", "{answer}"),
        ("read : {word} {text}\nwhat is {word} ?\n{options}", "{answer}"),
        ("text : {text} {word}\n{options}\n{word} is", "{answer}"),
        ("{text} , {word} . is it this ?\n{options}", "{answer}"),
        ("they say {word} of {text} . it is\n{options}", "{answer}"),
        ("{options}\nwhat is {word} in {text} ?", "{answer}"),
        ("{word} and {text} . {word} is what ?\n{options}", "{answer}"),
        ("we say {word} for {text} . what is it ?\n{options}", "{answer}"),
    ),
    "choice": (
        ("{event} . what is the {asked} ?\n{options}", "{answer}"),
        ("{event}\nthe {asked} is\n{options}", "{answer}"),
        ("what is the {asked} of {event} ?\n{options}", "{answer}"),
        ("{asked} of {event} ?\n{options}", "{answer}"),
        ("{options}\nwhat is the {asked} of {event} ?", "{answer}"),
        ("read : {event}\n{asked} :\n{options}", "{answer}"),
        ("they say {event} . {asked} ?\n{options}", "{answer}"),
        ("question : {asked} of {event} ?\n{options}\nanswer :", "{answer}"),
        ("we know {event} . what {asked} ?\n{options}", "{answer}"),
        ("text : {event} . the {asked} is\n{options}", "{answer}"),
    ),
}
"""Input pattern and target pattern, ten a task, the largest task first. The target pattern is that of every option."""

DISAGREEMENT = {
    "sentiment": 0.25,
    "span": 0.5,
    "entailment": 1.0,
    "summary": 0.5,
    "fact": 0.5,
    "topic": 0.25,
    "count": 0.5,
    "paraphrase": 1.5,
    "sense": 0.5,
    "choice": 2.25,
}
"""Share of answers that annotators replace by another one, in units of the configuration's `noise`."""

_NUMBERS = (("none", "zero"), ("one", "one"), ("two", "pair"), ("three", "three"), ("four", "all"))
_SAID = ("is", "is not", "is perhaps")
_VERBS = (("refuses", "declines"), ("takes", "wants"))
_RELATIONS = ("home", "work", "friend")
_SPEAKERS, _PLACES, _TIMES = 24, 24, 16


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


@dataclass(frozen=True)
class _Question:
    """What fills an input pattern; the answers an annotator may give (the options, if there are any), one right."""

    fields: dict[str, str]
    answers: tuple[str, ...]
    right: int


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
    by_category = [list(range(start, config.nouns, config.categories)) for start in range(config.categories)]
    frequency: dict[int, list[float]] = {}

    def rank(count: int) -> int:
        """One of `count` words, the k-th with a probability in proportion to k ** -zipf."""
        if count not in frequency:
            frequency[count] = _zipf(count, config.zipf)
        return draw.weighted(frequency[count])

    def frequent(among: list[str]) -> str:
        return among[rank(len(among))]

    def noun_of(category: int) -> str:
        members = by_category[category]
        return nouns[members[rank(len(members))]]

    def other(value: int, count: int) -> int:
        return (value + 1 + draw.integer(count - 1)) % count

    def said(index: int, negated: bool) -> tuple[str, int]:
        """An adjective as it is said, and whether that is good (1) or bad (-1)."""
        return (f"not {words[index]}", -polarity[index]) if negated else (words[index], polarity[index])

    def second() -> int:
        """1 where an answer takes its second wording, else 0."""
        return int(draw.chance(config.free_choice))

    linked = {side: [draw.integer(config.states) for _ in events] for side in ("cause", "effect")}
    senses = []
    for _ in homonyms:
        first = draw.integer(config.categories)
        senses.append((first, other(first, config.categories)))
    facts = [[] for _ in entities]
    for known in facts:
        for _ in _RELATIONS:
            first = draw.integer(config.values)
            known.append((first, other(first, config.values)))

    def sentiment() -> _Question:
        opinion, told = draw.one_of((1, -1)), []
        for _ in range(5):  # three words in four agree with the opinion: texts are redundant
            word = said(rank(config.words), draw.chance(0.2))
            told.append(word if word[1] == opinion else said(rank(config.words), draw.chance(0.2)))
        tone = sum(value for _, value in told)
        return _Question({"text": " ".join(text for text, _ in told)}, ("good", "bad"), int(tone < 0))

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
        return _Question(fields, tuple(answers.values()), list(answers).index(asked))

    def entailment() -> _Question:
        word, operator, matches = rank(config.words), draw.integer(3), draw.chance(0.7)
        claimed = polarity[word] if matches else -polarity[word]
        # "is" asserts, "is not" denies, "is perhaps" leaves open what would follow.
        right = ((0, 1), (1, 0), (2, 2))[operator][0 if matches else 1]
        text = f"{frequent(names)} {_SAID[operator]} {words[word]}"
        return _Question({"text": text, "claim": "good" if claimed > 0 else "bad"}, ("yes", "no", "maybe"), right)

    def summary() -> _Question:
        offer, name = frequent(nouns), frequent(names)
        reply, tone = said(rank(config.words), draw.chance(0.2))
        answers = tuple(f"{name} {verb[second()]} {offer}" for verb in _VERBS)
        return _Question({"offer": offer, "name": name, "reply": reply}, answers, int(tone > 0))

    def fact() -> _Question:
        entity, relation = rank(config.entities), draw.integer(len(_RELATIONS))
        right = facts[entity][relation][second()]
        return _Question({"name": entities[entity], "asked": _RELATIONS[relation]}, tuple(values[relation]), right)

    def topic() -> _Question:
        right = draw.integer(config.categories)
        text = [noun_of(right) if draw.chance(0.85) else frequent(nouns) for _ in range(5)]
        return _Question({"text": " ".join(text)}, tuple(categories), right)

    def count() -> _Question:
        told = [rank(config.words) for _ in range(4)]
        answers = tuple(name[second()] for name in _NUMBERS)
        return _Question({"text": " , ".join(words[w] for w in told)}, answers, sum(polarity[w] > 0 for w in told))

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
        return _Question({"one": one, "two": two}, ("yes", "no"), int(not same))

    def sense() -> _Question:
        word, right = rank(config.homonyms), draw.integer(2)
        meant = senses[word][right]
        near = [noun_of(meant) for _ in range(2)]
        if draw.chance(0.3):
            near[draw.integer(2)] = frequent(nouns)
        fields = {"text": " ".join(near), "word": homonyms[word]}
        return _Question(fields, tuple(categories[sense] for sense in senses[word]), right)

    def choice() -> _Question:
        event, side = rank(config.events), draw.one_of(("cause", "effect"))
        right = linked[side][event]
        options = [right]
        while len(options) < 4:
            if (state := draw.integer(config.states)) not in options:
                options.append(state)
        draw.shuffle(options)
        fields = {"event": events[event], "asked": side}
        return _Question(fields, tuple(states[state] for state in options), options.index(right))

    def asked(question: Callable[[], _Question]) -> dict:
        task, found = question.__name__, question()
        given, wanted = draw.one_of(TEMPLATES[task])
        answers, right = found.answers, found.right
        if draw.chance(config.noise * DISAGREEMENT[task]):
            right = other(right, len(answers))
        block = "OPTIONS:\n" + "\n".join(f"- {answer}" for answer in answers)
        options = tuple(wanted.format(answer=answer) for answer in answers)
        fields = {"task": task, "prompt": given.format(**found.fields, options=block), "target": options[right]}
        generated = question in (span, summary, fact, count)
        return fields | ({"metric": "exact_match"} if generated else {"options": options})

    questions = (sentiment, span, entailment, summary, fact, topic, count, paraphrase, sense, choice)
    weights = [rank ** -float(config.skew) for rank in range(1, len(questions) + 1)]
    return _split(config, draw, [partial(asked, question) for question in questions], weights)
