"""Steps by name between the rows of a data set and the templates (key `preprocess` of a task, data/README.md).

A step takes one row and returns the rows that it becomes: one with its texts cleaned or fields added, several, or none
where it is left out. It raises ValueError in a few words for a row that has not what it needs.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from cat_core.tasks.drop import SPANS
from cat_core.tasks.schema import brief

Row = Mapping[str, object]
STEPS: dict[str, Callable[[Row], list[dict]]] = {}
"""The steps by name; data/README.md says what each is for."""
TEXT_STEPS = ("lower_case", "no_punctuation", "no_blanks")
"""Steps that make a task of any text: they need a field `text` and nothing else."""


def look_up(row: Row, name: str) -> object:
    """The value of a field such as "answers.text". Raises ValueError where the row has none."""
    value: object = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"no field {name!r}; the row has {brief(', '.join(map(str, row)))}")
        value = value[part]
    return value


def as_text(value: object, name: str) -> str:
    """A text or number as text, without white space at its ends. name: of the field, for the error."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf  # and no NaN
    if not number and not isinstance(value, str):
        raise ValueError(f"field {name!r} must be text or a number, got {brief(value)}")
    return str(value).strip()


def preprocessed(row: Row, steps: list[str]) -> list[Row]:
    """The rows that a row becomes by the steps, one after the other."""
    rows: list[Row] = [row]
    for step in steps:
        try:
            rows = [made for each in rows for made in STEPS[step](each)]
        except (KeyError, TypeError, AttributeError) as error:  # a row of another data set may have any shape
            raise ValueError(f"step {step!r} cannot take this row ({brief(str(error))}); the row has "
                             f"{brief(', '.join(map(str, row)))}") from None  # fmt: skip
    return rows


def _step(function: Callable[[Row], list[dict]]) -> Callable[[Row], list[dict]]:
    STEPS[function.__name__.strip("_")] = function
    return function


def _cleaner(function: Callable[[str], str]) -> Callable[[str], str]:
    """Registers a function of a text as the step that does it to every text of a row."""

    def clean(value: object) -> object:
        if isinstance(value, str):
            return function(value)
        if isinstance(value, Mapping):
            return {key: clean(entry) for key, entry in value.items()}
        return [clean(entry) for entry in value] if isinstance(value, list) else value

    STEPS[function.__name__.strip("_")] = lambda row: [clean(row)]
    return function


# ---------------------------------------------------------------- cleaners


@_cleaner
def _html_breaks(text: str) -> str:
    return "\n".join(filter(None, map(str.strip, re.split(r"<br\s*/?>", text))))


@_cleaner
def _brackets(text: str) -> str:
    """WikiHow's marks: "[title]" ends a heading, all others go."""
    headed = ". ".join(filter(None, map(str.strip, text.split("[title]"))))
    return " ".join(re.sub(r"\[[^\[\]]*\]", " ", headed).split())


@_cleaner
def _escapes(text: str) -> str:
    return text.replace('\\"', '"').replace('""', '"').replace("\\n", "\n").replace("\\\\", "\\")


@_cleaner
def _doubled_quotes(text: str) -> str:
    return text.replace('""', "'")


@_cleaner
def _tags(text: str) -> str:
    """Such as "<file_photo>" in a chat; and its line ends as everywhere else."""
    return re.sub(r"<[^<>\n]*>", "", text).replace("\r\n", "\n")


@_cleaner
def _byte_strings(text: str) -> str:
    found = re.fullmatch(r"""b(['"])(.*?)(\\n)?\1""", text.strip(), re.DOTALL)
    return found[2] if found else text


# ---------------------------------------------------------------- rows that are left out


@_step
def _complete(row: Row) -> list[dict]:
    """Rows without an empty field."""
    empty = any(value is None or isinstance(value, str) and not value.strip() for value in row.values())
    return [] if empty else [dict(row)]


@_step
def _four_choices(row: Row) -> list[dict]:
    return [dict(row)] if len(_texts(row, "choices.text")) == 4 else []


# ---------------------------------------------------------------- rows of a shape of their own


def _texts(row: Row, name: str) -> list[str]:
    values = look_up(row, name)
    if not isinstance(values, list):
        raise ValueError(f"field {name!r} must be a list of texts, got {brief(values)}")
    return [as_text(value, name) for value in values]


@_step
def _entities(row: Row) -> list[dict]:
    """ReCoRD: entities and answers each once, however often they are mentioned, and the passage's highlights as lines.

    Answers that are no entity cannot be chosen and are left out, as is a row without any other, or without a choice.
    """
    distinct = {" ".join(text.split()): None for text in _texts(row, "entities") if text}
    answers = {" ".join(text.split()): None for text in _texts(row, "answers")}
    passage = "\n- ".join(map(str.strip, as_text(look_up(row, "passage"), "passage").split("@highlight")))
    right = [text for text in answers if text in distinct]
    if not right or len(distinct) < 2:
        return []
    return [{**row, "passage": passage, "entities": sorted(distinct), "answers": right}]


@_step
def _dialogue_turns(row: Row) -> list[dict]:
    """CoQA: a story with its questions becomes one row a question, with `dialogue`, all that was said before it.

    `answers` are that turn's: the first annotator's, which the dialogue goes on with, then the others'.
    """
    questions, given = look_up(row, "questions"), [look_up(row, "answers")]
    questions = questions["input_text"] if isinstance(questions, Mapping) and "input_text" in questions else questions
    others = row.get("additional_answers")
    given += [other for _, other in sorted(others.items())] if isinstance(others, Mapping) else []
    golds = [_texts(one, "input_text") for one in given if isinstance(one, Mapping) and one.get("input_text")]
    if not isinstance(questions, list) or not golds or {len(turns) for turns in golds} != {len(questions)}:
        raise ValueError("fields 'questions' and 'answers' must be equally long lists")
    said, rows = [], []
    for turn, question in enumerate(questions):
        said.append(f"Q: {as_text(question, 'questions')}")
        answers = [texts[turn] for texts in golds]
        rows.append({**row, "dialogue": "\n".join(said), "answers": answers})
        said.append(f"A: {answers[0]}")
    return rows


@_step
def _drop_answers(row: Row) -> list[dict]:
    """DROP: `answers`, of the annotator and of those who checked; a number, a date "day month year", or spans."""
    checked = row.get("validated_answers") or {}
    numbers, dates, spans = (checked.get(key) or [] for key in ("number", "date", "spans"))
    if not len(numbers) == len(dates) == len(spans):
        raise ValueError("the lists of 'validated_answers' must be equally long")
    one = look_up(row, "answer")
    answers = [_drop_answer(*(look_up(one, key) for key in ("number", "date", "spans")))]
    return [{**row, "answers": [text for text in answers + list(map(_drop_answer, numbers, dates, spans)) if text]}]


def _drop_answer(number: object, date: Mapping | None, spans: list | None) -> str:
    if number not in (None, ""):
        return as_text(number, "number")
    if spans:
        return SPANS.join(as_text(span, "spans") for span in spans)
    return " ".join(as_text(date[key], key) for key in ("day", "month", "year") if date.get(key)) if date else ""


@_step
def _direction(row: Row) -> list[dict]:
    """Translation: `source` and `target`, out of `translation` by the task's values `from` and `to`."""
    source, target = (look_up(row, f"translation.{look_up(row, key)}") for key in ("from", "to"))
    return [{**row, "source": source, "target": target}]


# ---------------------------------------------------------------- tasks of any text


def _made_of_text(row: Row, change: Callable[[str], str]) -> list[dict]:
    """`text`, and `changed`, from which it is to be restored; no row where nothing was changed or is left."""
    text = " ".join(as_text(look_up(row, "text"), "text").split())
    changed = " ".join(change(text).split())
    return [{**row, "text": text, "changed": changed}] if changed and changed != text else []


@_step
def _lower_case(row: Row) -> list[dict]:
    return _made_of_text(row, str.lower)


@_step
def _no_punctuation(row: Row) -> list[dict]:
    # By category: a vowel sign of Hindi is no letter, but a mark of one, and stays.
    return _made_of_text(row, lambda text: "".join(c for c in text if unicodedata.category(c)[0] not in "PS"))


@_step
def _no_blanks(row: Row) -> list[dict]:
    return _made_of_text(row, lambda text: text.replace(" ", ""))
