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
from cat_core.tasks.draws import draw_key, draw_order, draw_shots
from cat_core.tasks.schema import brief
from cat_core.tasks.suite import Suite, load_suite
from cat_core.training import artifacts, joint, model_store
from cat_core.training.depth import kept_layers, parse_cut
from cat_core.training.gguf_files import gguf_path
from cat_core.training.models import ModelSize, llama_config, load_config
from cat_core.training.train import TrainSettings

HEALING_SEED = 2**32 - 1  # of S before its methods: these then meet the examples in another order
TRAINING_MODULES = ("cat_core.training.train", "cat_core.training.side_by_side", "cat_core.training.models")


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from and tested on; the fields are the arguments of `suite.load_suite`.

    without_half: 0 or 1 leaves that half of the training examples out (`halves`); None keeps all. shots: so many
    training examples of each task stand before its prompts, and are trained on no more (`draws.draw_shots`).
    """

    suite: str = "mini-superglue"
    options: dict = field(default_factory=dict)
    data_root: str = ""
    limits: dict = field(default_factory=dict)
    seed: int = 0
    mixing_cap: int = 0
    mixing_rounds: int = 1
    task_templates: int = 1
    without_half: int | None = None
    shots: int = 0

    def load(self) -> Suite:
        """The suite, read once a process, without the examples that stand before prompts."""
        return self._loaded()[0]

    def shown(self) -> dict[str, list[tuple[str, str]]]:
        """Task -> (prompt, target) of the examples that stand before its prompts."""
        return self._loaded()[1]

    def _loaded(self) -> tuple[Suite, dict[str, list[tuple[str, str]]]]:
        return _load_suite(json.dumps(asdict(self), sort_keys=True), os.environ.get("CAT_DATA_ROOT", ""))


def halves(examples: Sequence) -> list[int]:
    """0 or 1 for every example: two halves of its clusters (or prompts), drawn by their names alone."""
    keys = {key: i % 2 for i, key in enumerate(draw_order(map(draw_key, examples), 0))}
    return [keys[draw_key(example)] for example in examples]


@lru_cache(maxsize=8)
def _load_suite(config: str, _data_root: str) -> tuple[Suite, dict[str, list[tuple[str, str]]]]:
    fields = json.loads(config)
    without_half, count = fields.pop("without_half"), fields.pop("shots")
    suite = load_suite(fields.pop("suite"), **fields)
    shots = draw_shots(list(suite.examples), count, fields["seed"]) if count else {}
    shown = {(e.task, e.prompt) for drawn in shots.values() for e in drawn}
    left_out = {e.item_id for e in suite.split("train") if (e.task, e.prompt) in shown}
    if without_half is not None:
        trained = suite.split("train")
        left_out |= {e.item_id for e, half in zip(trained, halves(trained)) if half == without_half}
    if left_out:
        kept = tuple(e for e in suite.examples if e.split != "train" or e.item_id not in left_out)
        suite = replace(suite, examples=kept)
    return suite, {task: [(e.prompt, e.target) for e in drawn] for task, drawn in shots.items()}


@dataclass(frozen=True)
class TrainConfig:
    """One model and how it is trained.

    model: "hidden 96, layers 2, heads 4" (a Llama from scratch; fields of `models.ModelSize`), or the name of a model
    to start from (folder, GGUF file, Hub name, "cut N of" one of these), causal or encoder-decoder; vocab_size: of the
    tokenizer trained on the training texts (from scratch only); teacher: the large model's own configuration, for
    methods that compare S with L; initial: the configuration of the model to go on from (same size and tokenizer), for
    a second stage of training; out_of_fold: what L says of a training example comes from an L trained on the half that
    the example is not in; template: of `text.TEMPLATES`, how prompts are read.
    """

    data: DataConfig
    model: str
    settings: TrainSettings = TrainSettings()
    vocab_size: int = 1_400
    context: int = 64
    truncate_prompts: bool = False
    template: str = "plain"
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

    @property
    def begins(self) -> TrainConfig:
        """The first of the stages that lead to this model."""
        return self.initial.begins if self.initial else self

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
        } | ({"out_of_fold": True} if self.out_of_fold else {}) | self._text_identity()

    def _text_identity(self) -> dict:
        """What the token ids depend on besides texts and tokenizer, where it is not the default."""
        about = {} if self.template == "plain" else {"template": self.template}
        return about | ({"shots": self.data.shown()} if self.data.shots else {})

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
        if name in _SIZE_FIELDS and (following := [word for word in value.split() if word in _SIZE_FIELDS]):
            raise ValueError(
                f"model {brief(text)}: a comma is missing before {following[0]!r}; expected such as "
                "'hidden 96, layers 2, heads 4'"
            )
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
    """A named model by its content where it is a folder or file, else by name (the Hub's revision is not asked for);
    of a cut, the model that is cut and the layers that are kept."""
    if (cut := parse_cut(name)) is not None:
        return {"of": _model_identity(cut.of), "layers": kept_layers(load_config(cut.of), cut.keep)}
    path = Path(model_store.local(name))
    if not path.exists():
        return {"name": name}
    if (file := gguf_path(path)) is not None:
        return {"gguf": _content(file), "weights": "dequantised to float32"}
    files = (p for p in sorted(path.iterdir()) if p.is_file() and p.name != model_store.ORIGIN)
    return {p.name: _content(p) for p in files}


def _content(path: Path) -> str:
    """sha256 of a file, read once a process unless it changes."""
    stat = path.stat()
    return _file_sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_sha256(path: Path, _size: int, _time: int) -> str:
    return file_sha256(path)


def shape_config(model: str, context: int, vocab_size: int):
    """The configuration that `models.build_model` would give a size, for counting; ValueError for a named model."""
    if not describes_size(model):
        raise ValueError(f"{model!r} is a named model: its shape is not in the record")
    return llama_config(parse_size(model, context), vocab_size)
