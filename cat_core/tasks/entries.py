"""Entries of the registry: the keys of `data/tasks/<name>.yaml`, checked. Their meaning is in data/README.md."""

import re
import string
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cat_core.tasks.example import METRICS, SPLITS
from cat_core.tasks.preprocessing import STEPS, TEXT_STEPS
from cat_core.tasks.schema import FileModel, brief, matching
from cat_core.tasks.scoring import CORPUS, FURTHER, TOKENIZERS

_FIELD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
Text = matching(r"(?s).+", "a text (in quotes)")
Template = Annotated[Text, AfterValidator(lambda text: pieces(text) and text)]
PlainName = matching(r"(?!\.)[\w.-]+", "a plain name (in quotes)")
FieldName = matching(_FIELD, "the plain name of a field")
HubId = matching(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", "a hub_id such as owner/name")
Amount = Annotated[int, Field(gt=0)]


class HubSplit(FileModel):
    """A split on the Hub: its name, or a mapping that names another data set, too."""

    split: PlainName
    hub_id: HubId = ""
    config: PlainName = ""
    revision: Text = ""
    loader: Literal["sacrebleu", ""] = ""
    first: Amount | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        if isinstance(given, str):
            return {"split": given}
        if not isinstance(given, dict):
            raise ValueError(f"expected the name of a Hub split, or a mapping of {', '.join(cls.model_fields)}")
        return given


class Pattern(FileModel):
    """A further template: the text of its prompt, or a mapping that names a target of its own, too."""

    prompt: Template
    target: Template = ""

    @model_validator(mode="before")
    @classmethod
    def _by_text(cls, given: object) -> object:
        if isinstance(given, str):
            return {"prompt": given}
        if not isinstance(given, dict):
            raise ValueError("expected a template, or a mapping of prompt, target")
        return given


class Variant(FileModel):
    """What a variant has of its own: splits by their name, and some of the entry's keys."""

    # Not `| None`: an error would then name pydantic's types. None is "as in the entry".
    train: HubSplit = None
    calibration: HubSplit = None
    test: HubSplit = None
    hub_id: HubId = ""
    config: PlainName = ""
    revision: Text = ""
    values: dict[FieldName, Text] = {}
    preprocess: list[Literal[tuple(STEPS)]] = []
    tokenize: Literal[TOKENIZERS] = ""
    also: list[Literal[FURTHER]] = []
    group: FieldName = ""
    sizes: dict[Literal[SPLITS], Amount] = {}
    licence: Text = ""
    note: str = ""


class TaskSpec(FileModel):
    """One task of the registry, as written in its YAML file."""

    hub_id: HubId
    prompt: Template
    metric: Literal[METRICS]
    licence: Text
    url: Text
    splits: dict[Literal[SPLITS], HubSplit] = {}
    config: PlainName = ""
    revision: Text = ""
    templates: list[Pattern] = []
    options: list[Template] = []
    options_field: FieldName = ""
    label: FieldName = ""
    label_names_field: FieldName = ""
    label_values: list[str | int] = []
    skip_labels: list = []
    target: Template = ""
    references_field: FieldName = ""
    unanswerable: str = ""
    tokenize: Literal[TOKENIZERS] = ""
    also: list[Literal[FURTHER]] = []
    cluster: FieldName = ""
    group: FieldName = ""
    preprocess: list[Literal[tuple(STEPS)]] = []
    values: dict[FieldName, Text] = {}
    sizes: dict[Literal[SPLITS], Amount] = {}
    citation: str = ""
    note: str = ""
    variants: dict[str, Variant] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: dict) -> dict:
        return {key: value for key, value in given.items() if value is not None or key not in cls.model_fields}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.metric == "accuracy":
            right = bool(self.label) != bool(self.references_field)
            if bool(self.options) == bool(self.options_field) or not right or self.target:
                raise ValueError("metric 'accuracy' needs label, and one of options and options_field; no target "
                                 "(references_field instead of label where several options are right)")  # fmt: skip
            if self.label_values and len(self.label_values) != len(self.options or self.label_values):
                raise ValueError(f"label_values must name one value for each of {len(self.options)} options")
        elif not (self.target or self.references_field) or self.options or self.options_field or self.label:
            raise ValueError(
                f"metric {self.metric!r} needs target or references_field; no options, options_field or label"
            )
        if self.metric == "accuracy" and any(pattern.target for pattern in self.templates):
            raise ValueError("templates: a target is for generation; the target of metric 'accuracy' is an option")
        if self.unanswerable and not self.references_field:
            raise ValueError("unanswerable is what an empty list in references_field means; give that field, too")
        if self.tokenize and self.metric not in CORPUS:
            raise ValueError(f"tokenize is BLEU's: metric {self.metric!r} has none")
        if not all("test" in splits for splits in self._all_splits()):
            raise ValueError("splits must name train and test (or test alone, of data that have no training rows); "
                             "calibration comes out of train if it is left out")  # fmt: skip
        return self

    def _all_splits(self) -> list[dict[str, HubSplit]]:
        own = [self.splits] if self.splits or not self.variants else []  # without splits: variants alone are tasks
        return own + [self._splits_of(variant) for variant in self.variants.values()]

    def _splits_of(self, variant: Variant) -> dict[str, HubSplit]:
        return self.splits | {split: place for split in SPLITS if (place := getattr(variant, split))}

    def variant(self, name: str) -> Self:
        """The entry of one variant."""
        variant = self.variants[name]
        own = {key: value for key in Variant.model_fields if key not in SPLITS and (value := getattr(variant, key))}
        merged = {"splits": self._splits_of(variant), "values": self.values | variant.values, "variants": {}}
        # The sizes of splits that it has of its own are not those of the entry.
        kept = {split: size for split, size in self.sizes.items() if not getattr(variant, split) and not variant.hub_id}
        return self.model_copy(update=own | merged | {"sizes": kept | variant.sizes})

    @property
    def patterns(self) -> list[Pattern]:
        """All templates; the first is `prompt` with `target`."""
        return [Pattern.model_construct(prompt=self.prompt, target=self.target), *self.templates]

    @property
    def of_any_text(self) -> bool:
        """Whether the task is made of any text, from the field `text`."""
        return any(step in TEXT_STEPS for step in self.preprocess)

    @property
    def fields(self) -> list[str]:
        """Fields that the entry reads after its preprocessing, in the order of its keys."""
        templates = [text for p in self.patterns for text in (p.prompt, p.target)] + self.options
        named = [name for text in templates for _, name in pieces(text) if name and name != "options"]
        keys = (self.options_field, self.label, self.label_names_field, self.references_field, self.cluster, self.group)
        return list(dict.fromkeys([*named, *filter(None, keys)]))


def pieces(template: str) -> list[tuple[str, str]]:
    """A template as pieces (text, field after it or "").

    Raises ValueError where anything but plain names stands in braces: no attributes, no formats.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"not a template ({error}); write {{{{ and }}}} for braces") from None
    for _, name, spec, conversion in parts:
        if name is not None and (spec or conversion or not _FIELD.fullmatch(name)):
            raise ValueError(f"{brief(name)} must be the plain name of a field such as {{translation.de}}")
    return [(text, name or "") for text, name, _, _ in parts]
