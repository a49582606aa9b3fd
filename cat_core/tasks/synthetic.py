"""Built-in suites: mini-SuperGLUE and mini-WMT, generated from a seed, no download.

Each mixes what real data mix: *capacity* (Zipf-distributed facts or a lexicon, of which a small model holds the
frequent part), *structure* (composition, reordering, agreement), and what nobody can know (*irreducible*: annotator
noise, free choice among synonyms). Words are invented, so no prior knowledge helps.
"""

import bisect
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cat_core.tasks.example import SPLITS, Example

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class MiniWmt:
    """Translation from one invented language to another; the target order and the adjective's form depend on grammar.

    Sizes are numbers of words or sentences; `free_choice` is the share of source words with `synonyms` translations, of
    which each sentence uses one at random, the k-th with weight 1/k (nobody can know which).
    """

    seed: int = 0
    nouns: int = 480
    verbs: int = 200
    adjectives: int = 160
    adverbs: int = 40
    zipf: float = 1.0
    free_choice: float = 0.6
    synonyms: int = 3
    train: int = 48_000
    calibration: int = 600
    test: int = 1_000


@dataclass(frozen=True)
class MiniSuperGlue:
    """Reading, entailment and choice with options. Sizes are numbers of words, facts or questions (all tasks together).

    `noise` is the share of answers replaced by another option, as annotators do.
    """

    seed: int = 0
    words: int = 300
    names: int = 24
    nouns: int = 300
    categories: int = 8
    events: int = 300
    states: int = 12
    zipf: float = 1.0
    noise: float = 0.18
    train: int = 48_000
    calibration: int = 900
    test: int = 1_500


def mini_wmt(config: MiniWmt = MiniWmt()) -> list[Example]:
    """Sentences `[adverb] [adjective] noun verb [adjective] noun` and their translations, every prompt once.

    In the target language the adjective follows its noun and takes one of two forms by the noun's class.
    """
    draw = _Draw(f"mini-wmt {config.seed}")
    counts = {"noun": config.nouns, "verb": config.verbs, "adjective": config.adjectives, "adverb": config.adverbs}
    source = {name: draw.words(count) for name, count in counts.items()}
    frequency = {name: _zipf(count, config.zipf) for name, count in counts.items()}
    preference = _zipf(config.synonyms, 1.0)
    gender = [draw.integer(2) for _ in range(config.nouns)]

    def translations() -> list[str]:
        return draw.words(config.synonyms if draw.chance(config.free_choice) else 1)

    lexicon = {
        name: [[translations() for _ in range(2 if name == "adjective" else 1)] for _ in range(count)]
        for name, count in counts.items()
    }

    def pick(name: str) -> int:
        return draw.weighted(frequency[name])

    def translate(name: str, word: int, form: int = 0) -> str:
        choices = lexicon[name][word][form]
        return choices[draw.weighted(preference)] if len(choices) > 1 else choices[0]

    def translation() -> dict:
        given, wanted = [], []
        if draw.chance(0.4):
            adverb = pick("adverb")
            given.append(source["adverb"][adverb])
            wanted.append(translate("adverb", adverb))
        for role in ("subject", "object"):
            adjective = pick("adjective") if draw.chance(0.5) else None
            noun = pick("noun")
            if adjective is not None:
                given.append(source["adjective"][adjective])
            given.append(source["noun"][noun])
            wanted.append(translate("noun", noun))
            if adjective is not None:
                wanted.append(translate("adjective", adjective, gender[noun]))
            if role == "subject":
                verb = pick("verb")
                given.append(source["verb"][verb])
                wanted.append(translate("verb", verb))
        prompt = " ".join(given) + " ="
        return {"task": "translation", "prompt": prompt, "target": " ".join(wanted), "metric": "bleu"}

    return _split(config, draw, [translation])


def mini_superglue(config: MiniSuperGlue = MiniSuperGlue()) -> list[Example]:
    """Questions with options: `reading` (is the passage good on balance, a negation turning the next word),
    `entailment` (does the claim follow, given the noun's category and all / no / perhaps),
    `choice` (the more plausible cause or effect of an event)."""
    draw = _Draw(f"mini-superglue {config.seed}")
    lexicon, names = draw.words(config.words), draw.words(config.names)
    nouns, categories = draw.words(config.nouns), draw.words(config.categories)
    events, states = draw.words(config.events), draw.words(config.states)
    polarity = [1 - 2 * draw.integer(2) for _ in lexicon]
    category_of = [draw.integer(config.categories) for _ in nouns]
    linked = {side: [draw.integer(config.states) for _ in events] for side in ("cause", "effect")}
    word_frequency, noun_frequency, event_frequency = (_zipf(len(w), config.zipf) for w in (lexicon, nouns, events))

    def reading() -> tuple[str, list[str], int]:
        told, tone = [], 0
        for _ in range(5):
            word, negated = draw.weighted(word_frequency), draw.chance(0.2)
            told.append(f"not {lexicon[word]}" if negated else lexicon[word])
            tone += -polarity[word] if negated else polarity[word]
        return f"{' '.join(told)} . good ?", ["yes", "no"], int(tone < 0)

    def entailment() -> tuple[str, list[str], int]:
        noun, operator, matches = draw.weighted(noun_frequency), draw.integer(3), draw.chance(0.5)
        category = category_of[noun]
        claimed = category if matches else draw.other(category, config.categories)
        # "all" asserts, "no" denies, "perhaps" leaves open what would follow.
        answer = ((0, 1), (1, 0), (2, 1))[operator][0 if matches else 1]
        premise = f"{draw.one_of(names)} tells {draw.one_of(names)} {('all', 'no', 'perhaps')[operator]} {nouns[noun]}"
        return f"{premise} . so {categories[claimed]} ?", ["yes", "no", "maybe"], answer

    def choice() -> tuple[str, list[str], int]:
        event, side = draw.weighted(event_frequency), draw.one_of(("cause", "effect"))
        right = linked[side][event]
        pair = [right, draw.other(right, config.states)]
        answer = draw.integer(2)
        options = [states[s] for s in (pair if answer == 0 else pair[::-1])]
        return f"{events[event]} {side} {options[0]} or {options[1]} ?", options, answer

    def asked(question: Callable[[], tuple[str, list[str], int]]) -> dict:
        prompt, options, answer = question()
        if draw.chance(config.noise):
            answer = draw.other(answer, len(options))
        return {"task": question.__name__, "prompt": prompt, "target": options[answer], "options": tuple(options)}

    return _split(config, draw, [partial(asked, question) for question in (reading, entailment, choice)])


class _Draw:
    """Random draws from Python's generator, whose sequence is the same in every version; words are given out once."""

    def __init__(self, seed: str):
        self.random = random.Random(seed).random
        self.taken: set[str] = set()

    def integer(self, count: int) -> int:
        return int(self.random() * count)

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def other(self, value: int, count: int) -> int:
        """Any of `count` but `value`."""
        return (value + 1 + self.integer(count - 1)) % count

    def one_of(self, values):
        return values[self.integer(len(values))]

    def weighted(self, cumulative: list[float]) -> int:
        return min(bisect.bisect(cumulative, self.random()), len(cumulative) - 1)

    def shuffle(self, values: list) -> None:
        """In place (Fisher and Yates)."""
        for last in range(len(values) - 1, 0, -1):
            other = self.integer(last + 1)
            values[last], values[other] = values[other], values[last]

    def words(self, count: int) -> list[str]:
        """Invented words of two syllables, of three when those run short."""
        words = []
        while len(words) < count:
            syllables = 2 if len(self.taken) < 2_500 else 3
            word = "".join(self.one_of(_CONSONANTS) + self.one_of(_VOWELS) for _ in range(syllables))
            if word not in self.taken:
                self.taken.add(word)
                words.append(word)
        return words


def _zipf(count: int, exponent: float) -> list[float]:
    """Cumulative probabilities of ranks 1..count, the k-th in proportion to k ** -exponent."""
    weights = [rank ** -float(exponent) for rank in range(1, count + 1)]
    total = sum(weights)
    return [part / total for part in itertools.accumulate(weights)]


def _in_proportion(weights: Sequence[float], count: int) -> list[int]:
    """`count` indices, each as often as its weight asks for, well mixed: a larger count only adds at the end.

    Every place goes to the largest weight / (2 x places so far + 1), as Sainte-Lague deals seats to parties.
    """
    places = [0] * len(weights)
    dealt = []
    for _ in range(count):
        best = max(range(len(weights)), key=lambda index: weights[index] / (2 * places[index] + 1))
        places[best] += 1
        dealt.append(best)
    return dealt


def _split(
    config, draw: _Draw, tasks: list[Callable[[], dict]], weights: Sequence[float] | None = None
) -> list[Example]:
    """Tasks in turn, in train in proportion to `weights` (None: in turn as well).

    Test and calibration prompts occur once and nowhere else, training prompts may repeat. Distinct prompts are rarer
    prompts the more are drawn, so test and calibration are drawn as one and then dealt at random: a threshold carries
    over from one to the other. A larger `train` leaves both as they are.
    """
    held_out: set[str] = set()

    def make(turns: Sequence[int], distinct: bool) -> list[dict]:
        made: list[dict] = []
        for turn in turns:
            for _ in range(10_000):
                fields = tasks[turn]()
                if fields["prompt"] not in held_out:
                    break
            else:
                raise ValueError(
                    f"{type(config).__name__}: only {len(made)} of {len(turns)} distinct prompts could be made; "
                    "ask for fewer, or for more words"
                )
            if distinct:
                held_out.add(fields["prompt"])
            made.append(fields)
        return made

    evaluated = make([number % len(tasks) for number in range(config.test + config.calibration)], distinct=True)
    queues = [evaluated[number :: len(tasks)] for number in range(len(tasks))]
    for queue in queues:
        draw.shuffle(queue)
    dealt = [queues[number % len(tasks)].pop() for number in range(len(evaluated))]
    rows = {
        "train": make(_in_proportion(weights or [1.0] * len(tasks), config.train), distinct=False),
        "calibration": dealt[config.test :],
        "test": dealt[: config.test],
    }
    return [
        Example(item_id=f"{split}-{number:06d}", split=split, **fields)
        for split in SPLITS
        for number, fields in enumerate(rows[split])
    ]
