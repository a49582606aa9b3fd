"""Rendering: rows of a data set become examples, by the entry of their task."""

import hashlib
from collections.abc import Iterable

from cat_core.tasks.entries import TaskSpec, pieces
from cat_core.tasks.example import Example, options_block
from cat_core.tasks.preprocessing import Row, as_text, look_up, preprocessed
from cat_core.tasks.schema import brief
from cat_core.tasks.scoring import REPEATED, composed, nothing_left

Pieces = list[tuple[str, str]]


class Renderer:
    """Makes examples of rows. name: of the task; templates: of so many of its templates each item gets one.

    Which one is decided by the seed and the text of the first template, so that items that say the same look the same.
    """

    def __init__(self, name: str, spec: TaskSpec, *, templates: int = 1, seed: int = 0):
        self.name, self.spec, self.seed = name, spec, seed
        self.patterns = [tuple(pieces(t) for t in (p.prompt, p.target or spec.target)) for p in spec.patterns]
        self.patterns = self.patterns[:templates]
        self.options = [pieces(option) for option in spec.options]
        self.by_row = bool(spec.options_field) or any(name for option in self.options for _, name in option)

    def examples(self, split: str, rows: Iterable[Row]) -> list[Example]:
        """The examples of a split, in the order of its rows. Raises ValueError that names task, Hub split and row.

        Left out are rows of `skip_labels`, rows whose own options are not two or more different texts, and rows with a
        `references_field` of which the metric leaves nothing ("The the" without articles).
        """
        hub_split = prefix = self.spec.splits[split].split
        if sum(place.split == hub_split for place in self.spec.splits.values()) > 1:  # of different data sets
            prefix = split
        result = []
        for index, row in enumerate(rows):
            try:
                made = preprocessed({**row, **self.spec.values}, self.spec.preprocess)
                for number, part in enumerate(made):
                    item_id = f"{prefix}-{index:06d}" + (f"-{number}" if len(made) > 1 else "")
                    if (example := self._example(item_id, split, part)) is not None:
                        result.append(example)
            except ValueError as error:
                where = f"task {self.name!r}, {hub_split} row {index} (counting from 0)"
                raise ValueError(f"{where}: {error}") from None
        return result

    def _example(self, item_id: str, split: str, row: Row) -> Example | None:
        spec = self.spec
        references, choices, block, pattern = _references(spec, row), (), None, self.patterns[0]
        if spec.metric == "accuracy":
            if spec.label and (label := look_up(row, spec.label)) in spec.skip_labels:
                return None
            choices = self._choices(row)
            if self.by_row and len({" ".join(composed(o).split()) for o in choices} - {""}) < max(2, len(choices)):
                return None
            block = options_block(choices)
        prompt = _fill(pattern[0], row, block)
        if len(self.patterns) > 1:
            digest = hashlib.sha256(f"{self.seed}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
            pattern = self.patterns[int.from_bytes(digest[:8]) % len(self.patterns)]
            prompt = _fill(pattern[0], row, block)
        if spec.label:
            answer = _answer(spec, label, choices, row)
        elif spec.references_field and not references:
            return None
        elif choices:
            answer = references[0]
            if wrong := [text for text in references if text not in choices]:
                raise ValueError(f"{brief(wrong[0])} is right but not one of the options {brief(list(choices))}")
        else:
            answer = _fill(pattern[1], row) if pattern[1] else references[0]
            if references and not _leaves_something(answer, spec):
                answer = references[0]
        cluster = as_text(look_up(row, spec.cluster), spec.cluster) if spec.cluster else ""
        # A passage is named by its digest, so that no text travels with the outcome table.
        cluster_id = hashlib.sha256(cluster.encode("utf-8", "surrogatepass")).hexdigest()[:16] if cluster else ""
        further = [text for text in dict.fromkeys(references) if text != answer]
        if answer in references and {spec.metric, *spec.also} & set(REPEATED):  # each person's answer counts
            further = [*references]
            further.remove(answer)
        group = f"{split}-{as_text(look_up(row, spec.group), spec.group)}" if spec.group else ""
        fields = (item_id, self.name, split, prompt, answer, choices, spec.metric, cluster_id, tuple(further))
        return Example(*fields, spec.tokenize, tuple(spec.also), group)

    def _choices(self, row: Row) -> tuple[str, ...]:
        name = self.spec.options_field
        if not name:
            return tuple(_fill(option, row) for option in self.options)
        values = look_up(row, name)
        if not isinstance(values, list):
            raise ValueError(f"field {name!r} must be a list of options, got {brief(values)}")
        return tuple(as_text(value, name) for value in values)


def _references(spec: TaskSpec, row: Row) -> list[str]:
    """All right answers that the row lists, if the metric leaves something of them; none without such a field."""
    if not (name := spec.references_field):
        return []
    values = look_up(row, name)
    if values == [] and spec.unanswerable:
        return [spec.unanswerable]
    if not isinstance(values, list) or not values:
        raise ValueError(f"field {name!r} must be a list of texts, got {brief(values)}")
    texts = [as_text(value, name) for value in values]
    return [text for text in texts if _leaves_something(text, spec)]


def _leaves_something(answer: str, spec: TaskSpec) -> bool:
    """Whether every metric of the task leaves something of a right answer."""
    return not any(nothing_left(answer, metric) for metric in (spec.metric, *spec.also))


def _answer(spec: TaskSpec, label: object, choices: tuple[str, ...], row: Row) -> str:
    if spec.label_names_field:
        names = look_up(row, spec.label_names_field)
        if not isinstance(names, list) or len(names) != len(choices) or label not in names:
            raise ValueError(
                f"label {brief(label)} is not in field {spec.label_names_field!r}, "
                f"which must name {len(choices)} options: {brief(names)}"
            )
        label = names.index(label)
    if spec.label_values:
        if label not in spec.label_values:
            raise ValueError(f"label {brief(label)} is not one of label_values {brief(spec.label_values)}; "
                             "correct the row, or list the label under skip_labels")  # fmt: skip
        label = spec.label_values.index(label)
    if isinstance(label, str) and label in choices:
        return label
    if isinstance(label, int) and 0 <= label < len(choices):
        return choices[label]
    raise ValueError(
        f"label {brief(label)} is outside the options 0 to {len(choices) - 1} {brief(list(choices))}; "
        "correct the row, or list the label under skip_labels"
    )


def _fill(template: Pieces, row: Row, block: str | None = None) -> str:
    """The template with the row's fields; with a `block`, `{options}` stands for it."""

    def value(name: str) -> str:
        return block if name == "options" and block is not None else as_text(look_up(row, name), name)

    return "".join(text + (value(name) if name else "") for text, name in template)
