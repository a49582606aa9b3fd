"""What a trained model depends on: its data, its size and its training, as configurations with a digest.

The digest names the model among the artifacts (see `artifacts`); `obtain` makes or finds what a configuration names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
import transformers

from cat_core.architectures import has_encoder
from cat_core.files import file_sha256
from cat_core.methods import METHODS
from cat_core.tasks.draws import draw_key, draw_order
from cat_core.tasks.schema import brief
from cat_core.tasks.suite import Suite, load_suite
from cat_core.training import artifacts, joint
from cat_core.training.models import ModelSize, llama_config, load_config
from cat_core.training.train import TrainSettings

TRAINING_MODULES = ("cat_core.training.train", "cat_core.training.side_by_side", "cat_core.training.models")


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from and tested on; the fields are the arguments of `suite.load_suite`.

    without_half: 0 or 1 leaves that half of the training examples out (`halves`); None keeps all.
    """

    suite: str = "mini-superglue"
    options: dict = field(default_factory=dict)
    data_root: str = ""
    limits: dict = field(default_factory=dict)
    seed: int = 0
    mixing_cap: int = 0
    mixing_rounds: int = 1
    without_half: int | None = None

    def load(self) -> Suite:
        """The suite, read once a process."""
        return _load_suite(json.dumps(asdict(self), sort_keys=True), os.environ.get("CAT_DATA_ROOT", ""))


def halves(examples: Sequence) -> list[int]:
    """0 or 1 for every example: two halves of its clusters (or prompts), drawn by their names alone."""
    keys = {key: i % 2 for i, key in enumerate(draw_order(map(draw_key, examples), 0))}
    return [keys[draw_key(example)] for example in examples]


@lru_cache(maxsize=8)
def _load_suite(config: str, _data_root: str) -> Suite:
    fields = json.loads(config)
    without_half = fields.pop("without_half")
    suite = load_suite(fields.pop("suite"), **fields)
    if without_half is None:
        return suite
    trained = suite.split("train")
    left_out = {e.item_id for e, half in zip(trained, halves(trained)) if half == without_half}
    kept = tuple(e for e in suite.examples if e.split != "train" or e.item_id not in left_out)
    return replace(suite, examples=kept)


@dataclass(frozen=True)
class TrainConfig:
    """One model and how it is trained.

    model: "hidden 96, layers 2, heads 4" (a Llama from scratch; fields of `models.ModelSize`), or the name or folder of
    a model to start from, causal or encoder-decoder; vocab_size: of the tokenizer trained on the training texts (from
    scratch only); teacher: the large model's own configuration, for methods that compare S with L; initial: the
    configuration of the model to go on from (same size and tokenizer), for a second stage of training; out_of_fold:
    what L says of a training example comes from an L trained on the half that the example is not in.
    """

    data: DataConfig
    model: str
    settings: TrainSettings = TrainSettings()
    vocab_size: int = 1_400
    context: int = 64
    truncate_prompts: bool = False
    teacher: TrainConfig | None = None
    initial: TrainConfig | None = None
    out_of_fold: bool = False
    device: str = "auto"

    @property
    def from_scratch(self) -> bool:
        """Whether `model` describes a size rather than naming a model."""
        return describes_size(self.model)

    @property
    def encoder(self) -> bool:
        """Whether the model reads prompts in an encoder."""
        return not self.from_scratch and has_encoder(load_config(self.model))

    @property
    def size(self) -> ModelSize:
        """The size that `model` describes."""
        return parse_size(self.model, self.context)

    def identity(self) -> dict:
        """What the trained weights depend on, as JSON values: data by content, never by place."""
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return {
            "data": self.data.load().fingerprint,
            "model": asdict(self.size) if self.from_scratch else _model_identity(self.model),
            "settings": asdict(self.settings),
            "tokenizer": self.vocab_size if self.from_scratch else "of the model",
            "context": self.context,
            "truncate_prompts": self.truncate_prompts,
            "teacher": self.teacher and self.teacher.digest(),
            "initial": self.initial and self.initial.digest(),
            "on": versions | {"device": resolve_device(self.device).type},
        } | ({"out_of_fold": True} if self.out_of_fold else {})

    def digest(self) -> str:
        """Name of the trained model's content."""
        return artifacts.digest(self.identity(), self.modules)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that the trained weights depend on."""
        return TRAINING_MODULES + (joint.MODULES if METHODS[self.settings.method].router else ())


_SIZE_FIELDS = ("hidden", "layers", "heads", "kv_heads", "intermediate")


def describes_size(model: str) -> bool:
    """Whether a text is a size such as "hidden 96, layers 2, heads 4" rather than the name or folder of a model."""
    return model.strip().split(" ")[0] in _SIZE_FIELDS


def parse_size(text: str, context: int) -> ModelSize:
    """`ModelSize` from "hidden 96, layers 2, heads 4[, kv_heads ..][, intermediate ..]"."""
    fields = {}
    for part in text.split(","):
        name, _, value = part.strip().partition(" ")
        if name not in _SIZE_FIELDS or not value.strip().isdigit() or name in fields:
            expected = ", ".join(f"{field} <whole number>" for field in _SIZE_FIELDS)
            raise ValueError(
                f"model {brief(text)}: cannot read {brief(part.strip())}; expected {expected}, each at most once"
            )
        fields[name] = int(value)
    missing = [name for name in _SIZE_FIELDS[:3] if name not in fields]
    if missing:
        raise ValueError(
            f"model {brief(text)}: {', '.join(missing)} missing; expected such as 'hidden 96, layers 2, heads 4'"
        )
    return ModelSize(**fields, context=context)


def resolve_device(device: str) -> torch.device:
    """ "auto" is the first GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {brief(device)}; expected auto, cpu, cuda or cuda:<number>")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU; use auto or cpu")
    return resolved


def _model_identity(name: str) -> dict:
    """A named model by its content where it is a folder, else by name (the Hub's revision is not asked for)."""
    folder = Path(name)
    if not folder.is_dir():
        return {"name": name}
    return {p.name: file_sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}


def shape_config(model: str, context: int, vocab_size: int):
    """The configuration that `models.build_model` would give a size, for counting; ValueError for a named model."""
    if not describes_size(model):
        raise ValueError(f"{model!r} is a named model: its shape is not in the record")
    return llama_config(parse_size(model, context), vocab_size)
