"""Experiments: one large model, small models by every method and seed, their answers, as one outcome table.

Every stage is an artifact (see `artifacts`): pages of the book share models, and a crash loses at most the steps since
the last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import transformers

from cat_core import artifacts, joint
from cat_core.cascade import CascadeRunner, Request
from cat_core.draws import draw_key, draw_order
from cat_core.loss import METHODS
from cat_core.models import (
    ModelSize,
    build_model,
    check_same_tokenizer,
    check_vocabulary,
    load_model,
    load_tokenizer,
    parameter_count,
    save_model,
    train_tokenizer,
)
from cat_core.side_by_side import train_side_by_side
from cat_core.signals import TokenSignals, token_signals
from cat_core.tasks import Suite, load_suite, score
from cat_core.teacher import TeacherOutputs, run_teacher
from cat_core.train import TrainingSet, TrainSettings, train

Progress = Callable[[str], None] | None
TRAINING_MODULES = ("loss", "fused", "teacher", "train", "side_by_side", "models", "tokens")
ANSWERING_MODULES = ("cascade", "engine", "confidence", "flops", "models", "tokens")
RULE_MODULES = ("features", "deferral", "posthoc", "edge", "joint", *ANSWERING_MODULES)
SIGNAL_MODULES = ("signals", "tokens", "models")
SECOND_STAGE = 4  # Gatekeeper: a quarter of the steps again, at a tenth of the peak learning rate (our choice)
EVALUATED = ("calibration", "test")


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from and tested on; the fields are the arguments of `tasks.load_suite`.

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
    suite = load_suite(
        fields["suite"],
        data_root=fields["data_root"],
        limits=fields["limits"] or None,
        options=fields["options"] or None,
        seed=fields["seed"],
        mixing_cap=fields["mixing_cap"],
        mixing_rounds=fields["mixing_rounds"],
    )
    if fields["without_half"] is None:
        return suite
    trained = suite.split("train")
    left_out = {e.item_id for e, half in zip(trained, halves(trained)) if half == fields["without_half"]}
    kept = tuple(e for e in suite.examples if e.split != "train" or e.item_id not in left_out)
    return replace(suite, examples=kept)


@dataclass(frozen=True)
class TrainConfig:
    """One model and how it is trained.

    model: "hidden 96, layers 2, heads 4" (a Llama from scratch; fields of `models.ModelSize`), or the name or folder of
    a causal model to start from; vocab_size: of the tokenizer trained on the training texts (from scratch only);
    teacher: the large model's own configuration, for methods that compare S with L; initial: the configuration of the
    model to go on from (same size and tokenizer), for a second stage of training; out_of_fold: what L says of a
    training example comes from an L trained on the half that the example is not in.
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
    def size(self) -> ModelSize:
        """The size that `model` describes."""
        return parse_size(self.model, self.context)

    def identity(self) -> dict:
        """What the trained weights depend on, as JSON values: data by content, never by place."""
        return {
            "data": self.data.load().fingerprint,
            "model": asdict(self.size) if self.from_scratch else _model_identity(self.model),
            "settings": asdict(self.settings),
            "tokenizer": self.vocab_size if self.from_scratch else "of the model",
            "context": self.context,
            "truncate_prompts": self.truncate_prompts,
            "teacher": self.teacher.digest() if self.teacher is not None else None,
            "initial": self.initial.digest() if self.initial is not None else None,
            "on": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "device": resolve_device(self.device).type,
            },
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
            raise ValueError(f"model {text!r}: cannot read {part.strip()!r}; expected {expected}, each at most once")
        fields[name] = int(value)
    missing = [name for name in _SIZE_FIELDS[:3] if name not in fields]
    if missing:
        raise ValueError(
            f"model {text!r}: {', '.join(missing)} missing; expected such as 'hidden 96, layers 2, heads 4'"
        )
    return ModelSize(**fields, context=context)


def resolve_device(device: str) -> torch.device:
    """ "auto" is the first GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:<number>") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU; use auto or cpu")
    return resolved


def tokenizer_of(config: TrainConfig):
    """The tokenizer of a configuration: the named model's own, or byte-level BPE trained on the training texts."""
    if not config.from_scratch:
        return load_tokenizer(config.model)
    suite = replace(config.data, without_half=None).load()  # one tokenizer for both halves

    def make(folder: Path) -> None:
        texts = (text for e in suite.split("train") for text in (e.prompt, e.target))
        train_tokenizer(texts, config.vocab_size).save_pretrained(folder)

    identity = {"data": suite.fingerprint, "vocab_size": config.vocab_size}
    return load_tokenizer(str(artifacts.obtain("tokenizer", identity, ("models",), make)))


def train_or_load(config: TrainConfig, progress: Progress = None) -> Path:
    """Folder of the trained model: trained now, or found by its content. `artifacts.result` of it holds the log.

    The teacher, where one is needed, is obtained first; its outputs on the training set are shared by all who ask.
    """
    config.data.load()
    _check_method(config)
    use_cpu = resolve_device(config.device).type == "cpu"

    def make(folder: Path) -> dict:
        tokenizer = tokenizer_of(config)
        training_set = training_set_of(config, tokenizer)
        teacher = None if config.teacher is None else _teacher_of(config, training_set, progress)
        model = _untrained(config, tokenizer, progress)
        checkpoints = folder / "checkpoints"
        given = (model, training_set, config.settings, checkpoints, teacher, progress)
        if METHODS[config.settings.method].router:
            log, router = joint.train_jointly(*given, use_cpu=use_cpu)
            joint.save_router(router, folder)
        else:
            log = train(*given, use_cpu=use_cpu)
        for left in checkpoints.glob("*"):
            left.unlink()
        checkpoints.rmdir()
        return _finish(model, tokenizer, folder, log)

    return artifacts.obtain("model", config.identity(), config.modules, make)


def train_together(configs: Sequence[TrainConfig], progress: Progress = None) -> None:
    """Train small models of one size and schedule side by side; each becomes the artifact that `train_or_load` finds.

    The weights are those of `train_or_load` but for rounding. Models that are there already are left out.
    """
    todo = [c for c in configs if artifacts.find("model", c.identity(), TRAINING_MODULES) is None]
    if len(todo) < 2:
        for config in todo:
            train_or_load(config, progress)
        return
    for config in todo:
        _check_method(config)
    first = todo[0]
    for other in todo:
        if replace(other, settings=first.settings, teacher=None, initial=None) != replace(
            first, teacher=None, initial=None
        ):
            raise ValueError("side by side only models of the same data, size and tokenizer can be trained")

    def make(folder: Path) -> dict:
        tokenizer = tokenizer_of(first)
        training_set = training_set_of(first, tokenizer)
        keys = [None if c.teacher is None else (c.teacher.digest(), c.out_of_fold) for c in todo]
        taught = {key: c for key, c in zip(keys, todo) if key is not None}
        known = {key: _teacher_of(c, training_set, progress) for key, c in taught.items()}
        models = [_untrained(c, tokenizer, progress) for c in todo]
        logs = train_side_by_side(
            models,
            training_set,
            [c.settings for c in todo],
            folder / "checkpoints",
            [known.get(key) for key in keys],
            progress,
            use_cpu=resolve_device(first.device).type == "cpu",
        )
        for config, model, log in zip(todo, models, logs):
            artifacts.obtain(
                "model",
                config.identity(),
                TRAINING_MODULES,
                lambda place, model=model, log=log: _finish(model, tokenizer, place, log, together=len(todo)),
            )
        shutil.rmtree(folder / "checkpoints")
        return {"models": [c.digest() for c in todo]}

    artifacts.obtain("stack", {"models": [c.identity() for c in todo]}, TRAINING_MODULES, make)


def training_set_of(config: TrainConfig, tokenizer=None, split: str = "train") -> TrainingSet:
    """The token ids of one split under the configuration's tokenizer."""
    tokenizer = tokenizer or tokenizer_of(config)
    return TrainingSet(config.data.load().split(split), tokenizer, config.context, config.truncate_prompts)


def _check_method(config: TrainConfig) -> None:
    method = METHODS[config.settings.method]
    if config.teacher is None and method.compares:
        raise ValueError(f"method {config.settings.method!r} compares S with L: give the teacher's configuration")
    if config.initial is None and method.second_stage:
        raise ValueError(f"method {config.settings.method!r} is a second stage: give the configuration of the first")


def _untrained(config: TrainConfig, tokenizer, progress: Progress):
    """The model before training: from scratch, the named one, or the result of the first stage."""
    if config.teacher is not None:
        check_same_tokenizer(tokenizer, tokenizer_of(config.teacher))
    if config.initial is not None:
        return load_model(str(train_or_load(config.initial, progress)))
    seed = config.settings.seed
    model = build_model(config.size, tokenizer, seed) if config.from_scratch else load_model(config.model)
    check_vocabulary(model, tokenizer, config.model)
    return model


def _finish(model, tokenizer, folder: Path, log: list[dict], together: int = 1) -> dict:
    """Save a trained model; what is kept of its training."""
    save_model(model.cpu(), tokenizer, folder)
    threads = torch.get_num_threads()
    return {"log": log, "parameters": parameter_count(model), "threads": threads, "side_by_side": together}


def teacher_outputs(config: TrainConfig, training_set: TrainingSet, progress: Progress = None) -> TeacherOutputs:
    """L's outputs on the training set, computed once and shared by every method and seed."""

    def make(folder: Path) -> None:
        model = load_model(str(train_or_load(config, progress))).to(resolve_device(config.device))
        run_teacher(model, training_set, folder, progress=progress)

    identity = {"model": config.digest(), "tokens": training_set.fingerprint}
    return TeacherOutputs.load(artifacts.obtain("teacher", identity, TRAINING_MODULES, make))


def _teacher_of(config: TrainConfig, training_set: TrainingSet, progress: Progress) -> TeacherOutputs:
    """L's outputs that teach the small model of a configuration."""
    if not config.out_of_fold:
        return teacher_outputs(config.teacher, training_set, progress)
    data = config.teacher.data
    without = [replace(config.teacher, data=replace(data, without_half=half)) for half in (0, 1)]
    parts = [teacher_outputs(part, training_set, progress) for part in without]
    return stitched(parts, torch.tensor(halves(config.data.load().split("train"))))


def stitched(parts: Sequence[TeacherOutputs], which: torch.Tensor) -> TeacherOutputs:
    """One teacher out of several: example i is that of `parts[which[i]]`. All with a plain linear head.

    States are laid side by side, zero in the columns of the others, and so are the heads: the logits stay exact.
    """
    if any(part.head is None for part in parts):
        raise ValueError("an out-of-fold teacher needs models with a plain linear head")
    rows = torch.repeat_interleave(which, parts[0].offsets.diff())
    states = torch.cat([part.states * (rows == i).unsqueeze(1) for i, part in enumerate(parts)], dim=1)
    correct = torch.stack([part.correct for part in parts]).gather(0, rows.unsqueeze(0))[0]
    bias = None
    if parts[0].bias is not None:  # one more state a part, which is 1 in its own rows
        states = torch.cat([states, *((rows == i).float().unsqueeze(1) for i in range(len(parts)))], dim=1)
        bias = [part.bias.unsqueeze(1) for part in parts]
    head = torch.cat([*(part.head for part in parts), *(bias or [])], dim=1)
    return TeacherOutputs(states, correct, parts[0].offsets, head)


@dataclass(frozen=True)
class Experiment:
    """A suite, a pair of models, and the methods and seeds that are compared.

    Seeds of S are spread over the large models in turn: seed number i is taught by, and defers to,
    `large_seeds[i % len(large_seeds)]`. Lengths in tokens, steps of the optimiser. out_of_fold: S is taught by large
    models that did not train on the example (two more of them a seed of L), as L knows its own training set too well;
    it still defers to L.
    """

    data: DataConfig
    small: str
    large: str
    methods: tuple[str, ...] = ("xent", "dist", "cat-xent", "cat-dist", "random-dist")
    seeds: tuple[int, ...] = (0,)
    large_seeds: tuple[int, ...] = (0,)
    vocab_size: int = 1_400
    context: int = 64
    truncate_prompts: bool = False
    small_settings: TrainSettings = TrainSettings()
    large_settings: TrainSettings = TrainSettings()
    max_new_tokens: int = 24
    batch_tokens: int = 16_384
    prediction: str = "sum"
    out_of_fold: bool = False
    device: str = "auto"

    def __post_init__(self):
        for name in ("methods", "seeds", "large_seeds"):
            values = tuple(getattr(self, name))
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} is {list(values)}; expected at least one value and no value twice")
            object.__setattr__(self, name, values)
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
        for seed in (*self.seeds, *self.large_seeds):
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise ValueError(f"seed {seed!r} is not a whole number >= 0")
        if describes_size(self.small) != describes_size(self.large):
            raise ValueError(
                f"small {self.small!r} and large {self.large!r}: build both from scratch or name both, "
                "as they must share one tokenizer"
            )
        resolve_device(self.device)
        for model in (self.small, self.large):
            if describes_size(model):
                parse_size(model, self.context)  # a size that cannot be read is refused before anything is computed

    @classmethod
    def of(
        cls,
        *,
        suite: str,
        small: str,
        large: str,
        steps: int,
        large_steps: int,
        learning_rate: float,
        large_learning_rate: float,
        suite_options: dict | None = None,
        data_root: str = "",
        train_limit: int = 0,
        calibration_limit: int = 0,
        test_limit: int = 0,
        mixing_cap: int = 0,
        mixing_rounds: int = 1,
        batch_size: int = 128,
        large_batch_size: int = 128,
        label_weight: float = 0.5,
        temperature: float = 1.0,
        normalize: str = "tokens",
        precision: str = "fp32",
        **fields,
    ) -> Experiment:
        """An experiment from the flat parameters of a page; a limit of 0 is none. `fields`: those of `Experiment`."""
        limits = {"train": train_limit, "calibration": calibration_limit, "test": test_limit}
        small_settings = TrainSettings(
            steps=steps,
            learning_rate=learning_rate,
            label_weight=label_weight,
            temperature=temperature,
            normalize=normalize,
            batch_size=batch_size,
            precision=precision,
        )
        large_settings = TrainSettings(
            steps=large_steps,
            learning_rate=large_learning_rate,
            batch_size=large_batch_size,
            precision=precision,
        )
        limits = {split: count for split, count in limits.items() if count}
        mixing = {"mixing_cap": mixing_cap, "mixing_rounds": mixing_rounds}
        return cls(
            data=DataConfig(suite, dict(suite_options or {}), data_root, limits, **mixing),
            small=small,
            large=large,
            small_settings=small_settings,
            large_settings=large_settings,
            **fields,
        )

    def large_config(self, seed: int) -> TrainConfig:
        """How the large model of that seed is trained: on the labels alone, as in the paper."""
        settings = replace(self.large_settings, method="xent", seed=seed)
        return self._config(self.large, settings, None)

    def small_config(self, method: str, seed: int) -> TrainConfig:
        """How the small model of that method and seed is trained.

        Xent has a teacher, too: it changes nothing in the loss, but the token ledger is logged for every method.
        A second stage goes on from S by Xent for a quarter of the steps at a tenth of the learning rate.
        """
        settings = replace(self.small_settings, method=method, seed=seed)
        initial = None
        if METHODS[method].second_stage:
            settings = replace(
                settings,
                steps=max(1, settings.steps // SECOND_STAGE),
                learning_rate=settings.learning_rate / 10,
            )
            initial = self.small_config("xent", seed)
        config = self._config(self.small, settings, self.large_config(self.large_seed(seed)))
        return replace(config, initial=initial, out_of_fold=self.out_of_fold)

    def train(self, progress: Progress = None) -> None:
        """Train every model that is not there yet, the small ones of a seed side by side where they can be."""
        for seed in self.large_seeds:
            train_or_load(self.large_config(seed), progress)
        together = describes_size(self.small) and self.small_settings.gradient_accumulation == 1
        stages = [
            [m for m in self.methods if METHODS[m].second_stage == second and not METHODS[m].router]
            for second in (False, True)
        ]
        groups = [[(m, seed) for m in stages[0]] for seed in self.seeds]
        groups.append([(m, seed) for seed in self.seeds for m in stages[1]])
        for group in groups:
            if together and self.small_settings.loss == "fused":
                train_together([self.small_config(*each) for each in group], progress)
        for seed in self.seeds:
            for method in self.methods:
                train_or_load(self.small_config(method, seed), progress)

    def _first_pair(self) -> tuple[TrainConfig, TrainConfig]:
        return self.small_config("xent", self.seeds[0]), self.large_config(self.large_seeds[0])

    def _config(self, model: str, settings: TrainSettings, teacher: TrainConfig | None) -> TrainConfig:
        return TrainConfig(
            data=self.data,
            model=model,
            settings=settings,
            vocab_size=self.vocab_size,
            context=self.context,
            truncate_prompts=self.truncate_prompts,
            teacher=teacher,
            device=self.device,
        )

    def large_seed(self, seed: int) -> int:
        """The seed of the large model that goes with a seed of the small one."""
        if seed not in self.seeds:
            raise ValueError(f"seed {seed} is not one of this experiment's seeds {list(self.seeds)}")
        return self.large_seeds[self.seeds.index(seed) % len(self.large_seeds)]

    def configs(self) -> dict[tuple[str, int], TrainConfig]:
        """Every model of the experiment by (method, seed); the large ones under method "large"."""
        large = {("large", seed): self.large_config(seed) for seed in self.large_seeds}
        small = {(m, seed): self.small_config(m, seed) for seed in self.seeds for m in self.methods}
        return large | small

    def answers(self, config: TrainConfig, progress: Progress = None) -> list[dict]:
        """One model's answers to all calibration and test items, as fields of `cascade.Response`."""
        requests, options = self._requests(), self._runner_options()

        def make(folder: Path) -> None:
            runner = self._runner(config, config, progress)
            store = folder / "batches"
            what = f"{config.settings.method} seed {config.settings.seed}"
            report = progress and (lambda done, total: progress(f"{what}: {done} of {total} items answered"))
            responses = runner.answer(requests, "small", progress=report, store=store)
            artifacts.write_text(folder / "answers.json", json.dumps([asdict(r) for r in responses]))
            for left in store.glob("*"):
                left.unlink()
            store.rmdir()

        identity = {"model": config.digest(), "data": self.data.load().fingerprint, **options}
        folder = artifacts.obtain("answers", identity, ANSWERING_MODULES, make)
        return json.loads((folder / "answers.json").read_text(encoding="utf-8"))

    def learned_confidences(self, method: str, seed: int, progress: Progress = None) -> dict[str, list[float]]:
        """Confidence of S by the learned deferral rules (`posthoc`, `edge`), in the order of its `answers`.

        Fitted on the calibration items alone, with the training seed of S; "joint_router", which only S of method
        edge-joint has, was trained with S.
        """
        from cat_core.features import answer_features
        from cat_core.posthoc import learned_confidences

        small, large = self.small_config(method, seed), self.large_config(self.large_seed(seed))
        examples = self._evaluated()

        def make(folder: Path) -> None:
            answers = [self.answers(config, progress) for config in (small, large)]
            runner = self._runner(small, large, progress)
            features = answer_features(runner, self._requests(), [a["tokens"] for a in answers[0]])
            quality = [[score(e, a["prediction"]) for e, a in zip(examples, given)] for given in answers]
            split, clusters = [e.split for e in examples], [e.cluster_id or e.item_id for e in examples]
            found = learned_confidences(features, *quality, split, clusters, seed)
            if METHODS[method].router:
                found["joint_router"] = joint.router_confidence(joint.load_router(train_or_load(small)), features)
            table = {rule: values.tolist() for rule, values in found.items()}
            artifacts.write_text(folder / "confidences.json", json.dumps(table))

        models = {"small": small.digest(), "large": large.digest(), "seed": seed}
        identity = {**models, "data": self.data.load().fingerprint, **self._runner_options()}
        folder = artifacts.obtain("learned", identity, RULE_MODULES, make)
        return json.loads((folder / "confidences.json").read_text(encoding="utf-8"))

    def _evaluated(self) -> list:
        suite = self.data.load()
        return [e for split in EVALUATED for e in suite.split(split)]

    def _requests(self) -> list[Request]:
        return [Request(e.item_id, e.prompt, e.options) for e in self._evaluated()]

    def _runner_options(self) -> dict:
        return {
            "max_new_tokens": self.max_new_tokens,
            "batch_tokens": self.batch_tokens,
            "prediction": self.prediction,
            "truncate_prompts": self.truncate_prompts,
        }

    def _runner(self, small: TrainConfig, large: TrainConfig, progress: Progress) -> CascadeRunner:
        """The cascade of two trained models (or of one twice, to let it answer alone)."""
        folders = {"small": str(train_or_load(small, progress)), "large": str(train_or_load(large, progress))}
        return CascadeRunner(
            load_model(folders["small"]).eval(),
            load_model(folders["large"]).eval(),
            load_tokenizer(folders["small"]),
            device=resolve_device(self.device),
            fingerprint={"small": small.digest(), "large": large.digest()},
            **self._runner_options(),
        )

    def token_signals(self, config: TrainConfig, split: str = "test", progress: Progress = None) -> TokenSignals:
        """What a model says of the target tokens of a split (teacher forcing)."""
        trained = train_or_load(config, progress)

        def make(folder: Path) -> None:
            model, tokenizer = load_model(str(trained)).eval(), load_tokenizer(str(trained))
            held_out = training_set_of(config, tokenizer, split)
            token_signals(model.to(resolve_device(self.device)), held_out).save(folder)

        identity = {"model": config.digest(), "data": self.data.load().fingerprint, "split": split}
        return TokenSignals.load(artifacts.obtain("signals", identity, SIGNAL_MODULES, make))

    def outcomes(self, edition: str = "", progress: Progress = None, learned_rules: Sequence[str] = ()):
        """Train what is not trained, let every model answer, and return the outcome table (pandas; see `outcomes`).

        learned_rules: methods whose small models get the learned deferral rules as further confidences.
        """
        import pandas as pd

        from cat_core.outcomes import validate

        suite = self.data.load()
        examples = {e.item_id: e for split in EVALUATED for e in suite.split(split)}
        # Before hours are spent on the large model.
        check_same_tokenizer(*(tokenizer_of(config) for config in self._first_pair()), self.small, self.large)
        self.train(progress)
        rows = []
        for (method, seed), config in self.configs().items():
            learned = self.learned_confidences(method, seed, progress) if method in learned_rules else {}
            for number, answer in enumerate(self.answers(config, progress)):
                example = examples[answer["item_id"]]
                rows.append(
                    {
                        "edition": edition,
                        "suite": suite.name,
                        "task": example.task,
                        "metric": example.metric,
                        "split": example.split,
                        "item_id": example.item_id,
                        "cluster_id": example.cluster_id or example.item_id,
                        "method": method,
                        "seed": seed,
                        "model": "large" if method == "large" else "small",
                        "quality": score(example, answer["prediction"]),
                        "prediction": answer["prediction"],
                        "target": example.target,
                        "n_prompt": answer["n_prompt"],
                        "n_generated": answer["n_generated"],
                        "truncated": answer["truncated"],
                        "flops": answer["flops"],
                        **{f"confidence_{name}": value for name, value in answer["confidences"].items()},
                        **{f"confidence_{name}": values[number] for name, values in learned.items()},
                    }
                )
        frame = pd.DataFrame(rows)
        for rule in ("option_probability", "option_margin"):
            if f"confidence_{rule}" not in frame:
                frame[f"confidence_{rule}"] = np.nan
        return validate(frame)

    def logs(self, progress: Progress = None) -> dict[tuple[str, int], list[dict]]:
        """Training logs of the small models by (method, seed): loss, keep_rate and the token ledger by step."""
        small = {key: config for key, config in self.configs().items() if key[0] != "large"}
        return {key: artifacts.result(train_or_load(config, progress))["log"] for key, config in small.items()}


def _model_identity(name: str) -> dict:
    """A named model by its content where it is a folder, else by name (the Hub's revision is not asked for)."""
    folder = Path(name)
    if not folder.is_dir():
        return {"name": name}
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return {p.name: artifacts.file_sha256(p) for p in files}
