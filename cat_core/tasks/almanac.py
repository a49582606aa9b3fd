"""Built-in suite almanac: questions and translations in real words, out of CLDR by Babel, without a download.

What the invented suites cannot have: a pretrained model knows part of it, the famous more than the obscure, and by how
much a small model knows less is not set here. Two things are tested, and told apart in every item (`held_out`): facts
of training in words that training has not used, and facts that training has not shown, in its words. In which way the
latter can be right at all depends on the task: by what was known before (currencies), or by a rule (sums in the
calendar, conversions, translations put together of parts that are known).
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cat_core.tasks import cldr
from cat_core.tasks.almanac_tasks import (
    QUESTIONS,
    TOKENIZERS,
    TRANSLATION,
    Item,
    amount_units,
    composed,
    questions,
    translations,
)
from cat_core.tasks.almanac_templates import TEMPLATES
from cat_core.tasks.draws import draw_order
from cat_core.tasks.example import SPLITS, Example, options_block
from cat_core.tasks.schema import nearest
from cat_core.tasks.synthetic import _Draw

TASKS = (*QUESTIONS, *TRANSLATION)
GROUPS = {"questions": QUESTIONS, "translation": TRANSLATION}
FREE = {
    "currency-name": "exact_match_normalized",
    "calendar": "exact_match",
    "conversion": "exact_match",
} | dict.fromkeys(TRANSLATION, "chrf")
"""Tasks with free answers -> metric. Names are scored by chrF: most have fewer words than the four that BLEU counts
together, and a name put together half right has half of its characters. BLEU has its tokenizer all the same."""
OPTIONS = 4
HELD_OUT_SHARES = {"test": 0.2, "calibration": 0.1}
"""Of the facts of a kind, the shares that a split has to itself; of names that can be put together, twice as many."""
_DAYS, _AMOUNTS = 300, 300


@dataclass(frozen=True)
class Almanac:
    """Sizes are numbers of questions of all tasks together, which are asked in turn.

    tasks: names of `TASKS` and `GROUPS`, with commas ("": all). noise: share of the answers that are replaced by
    another one, as annotators do (0: none, all answers are true).
    """

    seed: int = 0
    tasks: str = ""
    noise: float = 0.0
    train: int = 27_200
    calibration: int = 1_360
    test: int = 2_720


def almanac(config: Almanac = Almanac()) -> list[Example]:
    """Tasks in turn in every split; the prompts of test and calibration occur once and nowhere else.

    Of each task's items in test and calibration, every other one is a fact of training (in each of the two splits
    another) in the words of tests (`held_out` "wording"), the others are facts that no other split shows, in whatever
    task, in the words of training ("fact"). Names that are translated are held out only where they are made of words
    that other names have. A larger `train` leaves both as they are, as long as it has the facts that they ask again.
    Every item's cluster is its fact. Raises ValueError for unknown tasks, noise beyond [0, 1], and sizes that the facts
    do not allow; warns where Babel is not the version that recorded suites are made with (`cldr.PINNED`).
    """
    cldr.versions()
    tasks = chosen_tasks(config.tasks)
    if not 0 <= config.noise <= 1:
        raise ValueError(f"noise is {config.noise}; expected a share, from 0 to 1")
    items = dict(questions())
    if set(tasks) & set(TRANSLATION):
        items |= translations(*_phrases(config.seed))
    owner = _owners([item.fact for made in items.values() for item in made], config.seed)
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for number, task in enumerate(tasks):
        sizes = {split: len(range(number, getattr(config, split), len(tasks))) for split in SPLITS}
        for split, made in _rows(task, items[task], owner, sizes, config).items():
            rows[split].append(made)
    examples = []
    for split in SPLITS:
        for number in range(getattr(config, split)):
            fields = rows[split][number % len(tasks)][number // len(tasks)]
            examples.append(Example(item_id=f"{split}-{number:06d}", split=split, **fields))
    return examples


def chosen_tasks(names: str) -> tuple[str, ...]:
    """The tasks that `Almanac.tasks` names, in the order of `TASKS`."""
    chosen: set[str] = set()
    for name in (part.strip() for part in names.split(",") if names.strip()):
        if name not in TASKS and name not in GROUPS:
            raise ValueError(f"unknown task {name!r}{nearest(name, [*GROUPS, *TASKS])}")
        chosen.update(GROUPS.get(name, (name,)))
    return tuple(task for task in TASKS if task in chosen or not chosen)


def _phrases(seed: int) -> tuple[list[datetime.date], list[tuple[int, str]]]:
    """Days of two centuries, and amounts of every unit from 2 to 99."""
    draw, first, units = _Draw(f"almanac {seed} phrases"), datetime.date(1900, 1, 1), amount_units()
    days = dict.fromkeys(first + datetime.timedelta(draw.integer(73_000)) for _ in range(_DAYS))
    amounts = dict.fromkeys((2 + draw.integer(98), draw.one_of(units)) for _ in range(_AMOUNTS))
    return list(days), list(amounts)


def _owners(facts: Sequence[str], seed: int) -> dict[str, str]:
    """Held-out fact -> the split that has it to itself; drawn within facts of one kind, the first word of the fact."""
    owner = {}
    kinds: dict[str, list[str]] = {}
    for fact in draw_order(facts, seed):
        kinds.setdefault(fact.split()[0], []).append(fact)
    for kind in sorted(kinds):
        free, more = (composed(kinds[kind]), 2) if kind == "name" else (kinds[kind], 1)
        start = 0
        for split, share in HELD_OUT_SHARES.items():
            end = start + round(more * share * len(free))
            owner |= dict.fromkeys(free[start:end], split)
            start = end
    return owner


def _rows(
    task: str, items: list[Item], owner: dict[str, str], sizes: dict[str, int], config: Almanac
) -> dict[str, list[dict]]:
    """Split -> the fields of its examples of one task, `sizes[split]` of them."""
    order = list(items)
    _Draw(f"almanac {config.seed} {task}").shuffle(order)
    trained = [item for item in order if item.fact not in owner]
    usual, anew = TEMPLATES[task if task in QUESTIONS else "translation"]
    wrong = {item.fact: _wrong(item, owner) for item in items}
    # Facts that are asked again must have been there; the two splits ask of different ones.
    shown = trained[: sizes["train"]]
    again = {"test": shown[::2], "calibration": shown[1::2]}
    rows = {}
    for split in SPLITS:
        draw = _Draw(f"almanac {config.seed} {task} {split}")
        made = _cycled(trained, usual, "")
        if split != "train":
            own = [item for item in order if owner.get(item.fact) == split]
            made = _in_turn(_cycled(again[split], anew, "wording", once=True), _cycled(own, usual, "fact", once=True))
        rows[split] = []
        for _, (item, template, held_out) in zip(range(sizes[split]), made):
            options = _options(item.answer, wrong[item.fact], draw)
            answer, references = item.answer, item.references
            if draw.chance(config.noise):
                others = options or [other.answer for other in items]
                answer, references = draw.one_of([o for o in others if o not in (answer, *references)]), ()
            answered = {"options": options} if options else {"metric": FREE[task], "references": references}
            if task in TRANSLATION:
                answered["tokenize"] = TOKENIZERS.get(task[-2:], "")
            prompt = template.format(**item.fields, options=options_block(options))
            if task in QUESTIONS:  # a name to be translated stays as it is
                prompt = prompt[0].upper() + prompt[1:]
            fields = {"prompt": prompt, "target": answer, "cluster_id": item.fact, "fame": item.fame}
            rows[split].append({"task": task, "held_out": held_out} | fields | answered)
        if len(rows[split]) < sizes[split]:
            raise ValueError(
                f"{split} is {getattr(config, split)}: only {len(rows[split])} of {sizes[split]} distinct questions of "
                f"task {task!r} can be made; ask for fewer, or for more in train"
            )
    return rows


def _cycled(items: Sequence[Item], templates: Sequence[str], held_out: str, once: bool = False) -> Iterator[tuple]:
    """(item, template, held_out) without end, or once each: all items, then all again with another template."""
    number = 0
    while items and not (once and number >= len(items) * len(templates)):
        again, index = divmod(number, len(items))
        yield items[index], templates[(index + again) % len(templates)], held_out
        number += 1


def _in_turn(first: Iterator[tuple], second: Iterator[tuple]) -> Iterator[tuple]:
    """One of each, as long as both last."""
    for one, two in zip(first, second):
        yield one
        yield two


def _wrong(item: Item, owner: dict[str, str]) -> list[str]:
    """The wrong answers that may stand beside an item's right one.

    Of an item of training those that are right in training, of one that is held out those of facts held out: else
    training would show answers that are wrong whenever they are shown, and just these are right in the test.
    """
    alike = [answer for answer, fact in item.wrong if not fact or (fact in owner) == (item.fact in owner)]
    return alike if len(set(alike)) >= OPTIONS - 1 else [answer for answer, _ in item.wrong]


def _options(answer: str, wrong: Sequence[str], draw: _Draw) -> tuple[str, ...]:
    """The right answer among wrong ones, of which a frequent one comes up often; () for a free answer."""
    if len(kinds := set(wrong)) < 2:
        return tuple(sorted({answer, *kinds}, reverse=True)) if kinds else ()  # yes and no
    options = [answer]
    while len(options) < min(OPTIONS, len(kinds) + 1):
        if (other := draw.one_of(wrong)) not in options:
            options.append(other)
    draw.shuffle(options)
    return tuple(options)
