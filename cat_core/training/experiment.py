"""Experiments: one large model, small models by every method and seed, their answers, as one outcome table.

Every stage is an artifact (see `artifacts`), as in `obtain`: pages of the book share models.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cat_core.analysis.further import further_columns
from cat_core.analysis.outcomes import CHOSEN, MORE, validate
from cat_core.cascade import LOWEST, CascadeRunner
from cat_core.files import write_text
from cat_core.flops import COSTS
from cat_core.methods import METHODS
from cat_core.queries import check_settings
from cat_core.tasks.example import score
from cat_core.tasks.schema import brief, nearest
from cat_core.text import check_text_settings
from cat_core.training import artifacts, learned, obtain
from cat_core.training.checks import check_models, check_texts
from cat_core.training.configs import HEALING_SEED, DataConfig, TrainConfig, describes_size, parse_size, resolve_device
from cat_core.training.depth import named_cut
from cat_core.training.models import load_model, load_tokenizer
from cat_core.training.obtain import Progress, name_of, train_or_load
from cat_core.training.options import (
    check_apart,
    check_models_named,
    check_type,
    check_untrained,
    check_values,
    option,
    type_hints,
)
from cat_core.training.plan import announce
from cat_core.training.signals import TokenSignals, token_signals
from cat_core.training.starts import FIELDS, resolve_precision, start_of
from cat_core.training.train import TrainSettings

ANSWERING_MODULES = ("cat_core.cascade", "cat_core.training.models")
SIGNAL_MODULES = ("cat_core.training.signals", "cat_core.training.models")
SECOND_STAGE = 4  # a quarter of the steps again (our choice)
EVALUATED = ("calibration", "test")
RUNNER_OPTIONS = ("max_new_tokens", "batch_tokens", "prediction", "truncate_prompts", "costs")
UNTAUGHT = {"teacher": None, "out_of_fold": False}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A suite, a pair of models, and the methods and seeds that are compared; `of` makes it with better errors.

    Seeds of S are spread over the large models in turn: seed number i is taught by, and defers to,
    `large_seeds[i % len(large_seeds)]`. Lengths in tokens, steps of the optimiser. out_of_fold: S is taught by large
    models that did not train on the example (two more a seed of L), as L knows its own training set too well; it still
    defers to L. apart: to the same end, each learns from a half of its own. What is None follows the kind of start
    (`starts`). With steps (large_steps) 0 a loaded model is taken as it is. ValueError for what is no experiment.
    """

    suite: str = option("built-in, of the registry, several joined by +, or a JSONL file")
    suite_options: dict | None = option('fields of a built-in suite to change, such as {"train": 2000}', None)
    train_suite: str = option("learnt from in place of the suite, such as a mixture that holds it; empty: the same", "")
    train_options: dict | None = option("fields of a built-in train_suite to change", None)
    data_root: str = option("folder in Hub layout; empty: CAT_DATA_ROOT, else the Hub", DataConfig.data_root)
    train_limit: int = option("at most so many training examples of each task; 0: all", 0)
    calibration_limit: int = option("the same for calibration items", 0)
    test_limit: int = option("the same for test items", 0)
    mixing_cap: int = option(
        "examples that a task gives at most in one round of the mixture (FLAN: 3000); 0: no mixing",
        DataConfig.mixing_cap,
    )
    mixing_rounds: int = option("rounds of the mixture: large tasks give others in each", DataConfig.mixing_rounds)
    task_templates: int = option("templates of a registry task that its items are dealt", DataConfig.task_templates)
    small: str = option("S: a size, or the name or folder of a model")
    large: str = option("L: the same")
    vocab_size: int = option("of the tokenizer trained on the training texts", TrainConfig.vocab_size)
    context: int | None = option("most tokens of prompt and answer together; None: by kind of start", None)
    truncate_prompts: bool = option(
        "cut longer prompts from the left instead of refusing them", TrainConfig.truncate_prompts
    )
    template: str = option(
        "how prompts are read: plain, chat (as a user's turn), rendered (in the model's own format)",
        TrainConfig.template,
    )
    shots: int = option("training examples of its task that stand before each prompt", DataConfig.shots)
    stop: tuple[str, ...] = option("texts that end an answer, besides the models\' own end tokens", ())
    defer_empty: bool = option("defer every query to which S answers nothing, however sure it is", False)
    methods: tuple[str, ...] = option("training methods of S", ("xent", "dist", "cat-xent", "cat-dist", "random-dist"))
    seeds: tuple[int, ...] = option("training seeds of S; two or more for a verdict", (0,))
    large_seeds: tuple[int, ...] = option("training seeds of L, dealt to the seeds of S in turn", (0,))
    healing_steps: int = option(
        "steps of S on labels alone before every method begins with it: a cut has lost much", 0
    )
    healing_rate: float | None = option("peak for S in these steps; None: that of the methods", None)
    steps: int | None = option("optimiser steps of S; None: by kind of start, from scratch or loaded")
    large_steps: int | None = option("optimiser steps of L; 0: L as it was loaded, None: by kind of start")
    batch_size: int | None = option("examples in a step of S; None: by kind of start", None)
    large_batch_size: int | None = option("examples in a step of L; None: by kind of start", None)
    learning_rate: float | None = option("peak for S; None: by kind of start", None)
    large_learning_rate: float | None = option("peak for L; None: by kind of start", None)
    label_weight: float = option("w: weight of the label against L's distribution", TrainSettings.label_weight)
    temperature: float = option("of both distributions in the distillation term", TrainSettings.temperature)
    normalize: str = option(
        'divide the loss by all target tokens ("tokens") or the kept ones ("kept")', TrainSettings.normalize
    )
    max_new_tokens: int = option("longest generated answer, EOS included", 24)
    prediction: str = option(
        "option scoring: log-probability by sum (acc), average, characters (acc_norm), bytes or pmi", "sum"
    )
    precision: str = option(
        "of training: fp32, bf16, or auto (bf16 for loaded models where the hardware is fast in it)", "auto"
    )
    device: str = option("cpu, cuda, or auto", TrainConfig.device)
    batch_tokens: int = option("tokens of a batch of queries, padding included", 16_384, page=False)
    costs: str = option(
        'FLOPs by "formula" (unknown where a model has none), or "measured" there', "formula", page=False
    )
    second_rate: float = option("peak of a second stage, as a share of the first's", 0.1, page=False)
    gatekeeper_weight: float = option("a of Gatekeeper's loss", TrainSettings.gatekeeper_weight, page=False)
    out_of_fold: bool = option("L's word comes from an L that has not seen the example", False, page=False)
    apart: bool = option("L learns from one half of the training examples, and S from the other", False, page=False)
    teacher: str = option("what is kept of L: hidden, topk or argmax", TrainSettings.teacher, page=False)
    teacher_k: int = option("tokens that topk keeps", TrainSettings.teacher_k, page=False)
    answer_precision: str = option("fp32, or bf16: faster, and answers change with the batch", "fp32", page=False)
    train_layers: int = option("the same for S", 0, page=False)
    large_train_layers: int = option("upper layers of L that are trained; 0: all of L", 0)
    lora_rank: int = option(
        "rank of the changes that are trained in place of the weights of S (LoRA); 0: all", 0, page=False
    )
    large_lora_rank: int = option("the same for L", 0, page=False)
    gradient_checkpointing: bool = option("less memory in training, and more time", False, page=False)
    length_groups: int | None = option(
        "most groups of like length that a training batch is cut into; None: by kind of start", None, page=False
    )

    @classmethod
    def of(cls, **given) -> Experiment:
        """An experiment from its fields by name; ValueError in one line, too, for one that is unknown or missing."""
        known = {f.name: f.default for f in fields(cls)}
        for name in given:
            if name not in known:
                raise ValueError(f"unknown parameter {brief(name)}{nearest(name, known)}")
        if missing := [name for name, default in known.items() if default is MISSING and name not in given]:
            raise ValueError(f"{', '.join(map(repr, missing))} missing")
        return cls(**given)

    @classmethod
    def from_parameters(cls, namespace: Mapping[str, object]) -> Experiment:
        """The experiment of a page from its `globals()`: the fields that pages may have are taken, all else is not."""
        names = (f.name for f in fields(cls) if f.metadata["page"])
        return cls.of(**{name: namespace[name] for name in names if name in namespace})

    def __post_init__(self):
        for name, hint in type_hints(type(self)).items():
            check_type(name, getattr(self, name), hint)
        for name in ("methods", "seeds", "large_seeds", "stop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_models_named(self.small, self.large)
        resolve_device(self.device)
        start = start_of(self.suite, self.loaded, self.lora_rank, self.large_lora_rank)
        for name in FIELDS:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(start, name))
        check_values(self)
        _ = self.small_settings, self.large_settings  # what these refuse is refused here
        for method in self.methods:
            if not isinstance(method, str) or method not in METHODS:
                raise ValueError(f"unknown method {brief(method)}; expected one of {', '.join(METHODS)}")
        for name in ("seeds", "large_seeds"):
            for seed in getattr(self, name):
                if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
                    raise ValueError(f"{name}: seed {brief(seed)} is not a whole number from 0 to 2**32 - 1")
        for name in ("methods", "seeds", "large_seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} is {brief(list(values))}; expected at least one value and no value twice")
        check_untrained(self)
        check_settings(self.max_new_tokens, self.prediction)
        check_text_settings(self.template, self.stop)
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens is {brief(self.batch_tokens)}; expected a whole number >= 1")
        if self.costs not in COSTS:
            raise ValueError(f"costs is {brief(self.costs)}; expected {' or '.join(COSTS)}")
        for model in (self.small, self.large):
            if describes_size(model):
                parse_size(model, self.context)  # a size that cannot be read is refused before anything is computed

    @property
    def loaded(self) -> bool:
        """Whether both models are named, and start from their weights."""
        return not describes_size(self.small)

    @property
    def training_precision(self) -> str:
        """ "fp32" or "bf16" (`starts.resolve_precision`)."""
        return resolve_precision(self.precision, self.loaded, resolve_device(self.device))

    @cached_property
    def data(self) -> DataConfig:
        """What is tested on, and learnt from unless `train_suite` is; a limit of 0 is none."""
        limits = {split: getattr(self, f"{split}_limit") for split in ("train", *EVALUATED)}
        limits = {split: limit for split, limit in limits.items() if limit}
        return self._alike(DataConfig, options=dict(self.suite_options or {}), limits=limits)

    @cached_property
    def training_data(self) -> DataConfig:
        """What is learnt from: of `train_suite`, the same models whichever part of it is tested."""
        if not self.train_suite:
            return self.data
        limits = {"train": self.train_limit} if self.train_limit else {}
        return self._alike(DataConfig, suite=self.train_suite, options=dict(self.train_options or {}), limits=limits)

    @cached_property
    def small_settings(self) -> TrainSettings:
        """How S is trained, but for method and seed."""
        return self._alike(TrainSettings, precision=self.training_precision)

    @cached_property
    def large_settings(self) -> TrainSettings:
        """How L is trained, but for the seed: on the labels alone, as in the paper."""
        if self.large_steps == 0:  # then nothing else matters, nor makes it another model
            return TrainSettings(method="xent", steps=0, precision=self.training_precision)
        try:
            return TrainSettings(
                method="xent", steps=self.large_steps, learning_rate=self.large_learning_rate,
                batch_size=self.large_batch_size, precision=self.training_precision, length_groups=self.length_groups,
                train_layers=self.large_train_layers, lora_rank=self.large_lora_rank,
                gradient_checkpointing=self.gradient_checkpointing,
            )  # fmt: skip
        except ValueError as error:  # by the name that was given here
            raise ValueError(re.sub(r"^(?=(steps|learning_rate|batch_size) )", "large_", str(error))) from None

    def _alike(self, kind: type, **own):
        """A configuration of that kind whose fields are `own`, else those of the experiment by the same name."""
        shared = {f.name for f in fields(kind)} & {f.name for f in fields(self)} - own.keys()
        return kind(**{name: getattr(self, name) for name in shared}, **own)

    def large_config(self, seed: int) -> TrainConfig:
        """How the large model of that seed is trained."""
        settings = replace(self.large_settings, seed=seed)
        return self._alike(TrainConfig, data=self._learnt(0), model=self.large, settings=settings, **UNTAUGHT)

    def _learnt(self, without: int) -> DataConfig:
        """What a model learns from: `training_data`; `apart`, without a half of it."""
        return replace(self.training_data, without_half=without) if self.apart else self.training_data

    @cached_property
    def healed(self) -> TrainConfig | None:
        """S after `healing_steps`, as every method and seed begins with it; None: as it was loaded, or at random."""
        if not self.healing_steps:
            return None
        rate = self.healing_rate or self.learning_rate
        settings = replace(self.small_settings, steps=self.healing_steps, learning_rate=rate, seed=HEALING_SEED)
        model = named_cut(self.small, self.large)
        return self._alike(TrainConfig, data=self._learnt(1), model=model, settings=settings, **UNTAUGHT)

    def small_config(self, method: str, seed: int) -> TrainConfig:
        """How the small model of that method and seed is trained.

        Xent has a teacher, too: it changes nothing in the loss, but the token ledger is logged for every method.
        It goes on from the `healed` S where there is one, and a second stage from S by Xent, for a quarter of the
        steps at `second_rate`.
        """
        settings = replace(self.small_settings, method=method, seed=seed)
        initial = self.healed
        if not self.steps:  # as it was loaded
            settings = TrainSettings(method=method, steps=0, seed=seed)
        if METHODS[method].second_stage:
            steps, rate = max(1, settings.steps // SECOND_STAGE), settings.learning_rate * self.second_rate
            settings = replace(settings, steps=steps, learning_rate=rate)
            initial = self.small_config("xent", seed)
        teacher = self.large_config(self.large_seed(seed))
        own = {"model": named_cut(self.small, self.large), "settings": settings, "teacher": teacher, "initial": initial}
        return self._alike(TrainConfig, data=self._learnt(1), **own)

    def train(self, progress: Progress = None) -> None:
        """Train every model that is not there yet, the small ones of a seed side by side where they can be.

        What will be trained is said beforehand, and refused where memory or disk cannot hold it (`plan`).
        """
        first = [self.healed] if self.healed else []
        announce([*first, *self.configs().values()], progress)
        for config in obtain.shared_out([*first, *map(self.large_config, self.large_seeds)], progress):
            train_or_load(config, progress)
        for group in self.groups():
            self.train_group(group, progress)

    def groups(self) -> list[list[tuple[str, int]]]:
        """Small models by (method, seed) as they are trained: first stages seed by seed, then all second stages.

        The models of a group may be trained side by side; a router is trained with S by itself.
        """
        routed = [m for m in self.methods if METHODS[m].router]
        late = [m for m in self.methods if METHODS[m].second_stage and m not in routed]
        early = [m for m in self.methods if m not in (*routed, *late)]
        first = [[(m, seed) for m in early] for seed in self.seeds]
        routed = [[(m, seed)] for seed in self.seeds for m in routed]
        second = [[(m, seed) for seed in self.seeds for m in late]]
        return [group for group in (*first, *routed, *second) if group]

    def train_group(self, group: Sequence[tuple[str, int]], progress: Progress = None) -> None:
        """Train the small models of one of the `groups`: side by side where they can be, else one by one."""
        configs = [self.small_config(*key) for key in group]
        if describes_size(self.small) and not any(METHODS[m].router for m, _ in group):
            obtain.train_together(configs, progress)
        for config in obtain.shared_out(configs, progress):
            train_or_load(config, progress)

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
        """One model's answers to all calibration and test items, as fields of `queries.Response`."""
        requests, options = self._evaluated(), self._runner_options()  # an example is a request

        def make(folder: Path) -> None:
            runner = self._runner(config, config, progress)
            store = folder / "batches"
            report = progress and (lambda done, total: progress(f"{name_of(config)}: {done} of {total} items answered"))
            responses = runner.answer(requests, "small", progress=report, store=store)
            write_text(folder / "answers.json", json.dumps([asdict(r) for r in responses]))
            shutil.rmtree(store)

        identity = {"model": config.digest(), "data": self.data.load().fingerprint, **options, **self._answer_identity}
        folder = obtain.obtained(config, "answers", identity, ANSWERING_MODULES, make)
        return json.loads((folder / "answers.json").read_text(encoding="utf-8"))

    def learned_confidences(self, method: str, seed: int, progress: Progress = None) -> dict[str, list[float]]:
        """S's confidence by the learned rules, in the order of its `answers` (`learned.confidences`)."""
        small, large = self.small_config(method, seed), self.large_config(self.large_seed(seed))

        def make(folder: Path) -> None:
            answers = [self.answers(config, progress) for config in (small, large)]
            runner, trained = self._runner(small, large, progress), train_or_load(small)
            table = learned.confidences(runner, self._evaluated(), answers, method, trained, seed)
            write_text(folder / "confidences.json", json.dumps({rule: x.tolist() for rule, x in table.items()}))

        models = {"small": small.digest(), "large": large.digest(), "seed": seed}
        identity = {**models, "data": self.data.load().fingerprint, **self._runner_options(), **self._answer_identity}
        folder = artifacts.obtain("learned", identity, learned.MODULES, make)
        return json.loads((folder / "confidences.json").read_text(encoding="utf-8"))

    def _evaluated(self) -> list:
        return [e for split in EVALUATED for e in self.data.load().split(split)]

    def _runner_options(self) -> dict:
        return {n: getattr(self, n) for n in RUNNER_OPTIONS}

    @property
    def _answer_identity(self) -> dict:
        return self._precision | ({"stop": self.stop} if self.stop else {})

    @property
    def _precision(self) -> dict:
        return {} if self.answer_precision == "fp32" else {"precision": self.answer_precision}

    def _answering_model(self, folder: str):
        """A trained model that is to answer, in `answer_precision`."""
        return load_model(folder, torch.bfloat16 if self.answer_precision == "bf16" else None).eval()

    def _runner(self, small: TrainConfig, large: TrainConfig, progress: Progress) -> CascadeRunner:
        """The cascade of two trained models (or of one twice, to let it answer alone)."""
        folders = [str(train_or_load(config, progress)) for config in (small, large)]
        models = [self._answering_model(folder) for folder in folders]
        about = {"small": small.digest(), "large": large.digest()}
        options = {"device": resolve_device(self.device), "fingerprint": about, **self._runner_options()}
        tokenizer = load_tokenizer(folders[0])
        return CascadeRunner(*models, tokenizer, text=obtain.text_of(small, tokenizer, self.stop), **options)

    def token_signals(self, config: TrainConfig, split: str = "test", progress: Progress = None) -> TokenSignals:
        """What a model says of the target tokens of a split (teacher forcing), in `answer_precision`; `example` counts
        all of the split."""
        trained = train_or_load(config, progress)

        def make(folder: Path) -> None:
            model, tokenizer = self._answering_model(str(trained)), load_tokenizer(str(trained))
            held_out, kept = obtain.held_out_of(config, tokenizer, split, self.data)
            signals = token_signals(model.to(resolve_device(self.device)), held_out)
            replace(signals, example=kept[signals.example]).save(folder)

        identity = {"model": config.digest(), "data": self.data.load().fingerprint, "split": split, **self._precision}
        return TokenSignals.load(obtain.obtained(config, "signals", identity, SIGNAL_MODULES, make))

    def outcomes(self, edition: str = "", progress: Progress = None, learned_rules: Sequence[str] = ()):
        """Train what is not trained, let every model answer, and return the outcome table (pandas; see `outcomes`).

        learned_rules: methods whose small models get the learned deferral rules as further confidences.
        """
        suite = self.data.load()
        examples = {e.item_id: e for e in self._evaluated()}
        check_apart(self, list(examples.values()))
        pair = self.small_config("xent", self.seeds[0]), self.large_config(self.large_seeds[0])
        obtain.check_pair(*pair)
        if not describes_size(self.large):
            tested = [replace(config, data=self.data) for config in pair]
            check_texts(*tested)
            check_models(*tested)
        self.train(progress)
        rows = []
        for (method, seed), config in self.configs().items():
            more = self.learned_confidences(method, seed, progress) if method in learned_rules else {}
            read = more.pop("prompt_flops", None)
            for number, answer in enumerate(self.answers(config, progress)):
                example = examples[answer["item_id"]]
                confidences = answer["confidences"] | {rule: values[number] for rule, values in more.items()}
                if self.defer_empty and method != "large" and not answer["prediction"]:
                    confidences = dict.fromkeys(confidences, LOWEST)
                row = {
                    **{"edition": edition, "suite": suite.name},
                    **{name: getattr(example, name) for name in ("task", "metric", "split", "item_id")},
                    "cluster_id": example.cluster_id or example.item_id,
                    **{"method": method, "seed": seed, "model": "large" if method == "large" else "small"},
                    "quality": score(example, answer["prediction"]),
                    "prediction": answer["prediction"],
                    "target": example.target,
                    "references": json.dumps(example.references, ensure_ascii=False) if example.references else None,
                    **{name: getattr(example, name) or None for name in ("tokenize", "fame", "held_out")},
                    **further_columns(example, answer["prediction"]),
                    "prompt_flops": read[number] if read else 0,
                    **{name: answer[name] for name in ("n_prompt", "n_generated", "truncated", "flops")},
                    **{f"confidence_{rule}": value for rule, value in confidences.items()},
                }
                rows.append(row)
        frame = pd.DataFrame(rows)
        frame["flops"] = pd.array([row["flops"] for row in rows], dtype="Int64")  # no floats beside what is unknown
        unused = [*CHOSEN] if frame["also"].isna().all() else []
        unused += [name for name in MORE if frame[name].isna().all()]
        frame = frame.drop(columns=unused + ([] if frame["prompt_flops"].any() else ["prompt_flops"]))
        for rule in ("option_probability", "option_margin"):
            if f"confidence_{rule}" not in frame:
                frame[f"confidence_{rule}"] = np.nan
        return validate(frame)

    def logs(self, progress: Progress = None) -> dict[tuple[str, int], list[dict]]:
        """Training logs of the small models by (method, seed): loss, keep_rate and the token ledger by step."""
        small = {key: config for key, config in self.configs().items() if key[0] != "large"}
        return {key: artifacts.result(train_or_load(config, progress))["log"] for key, config in small.items()}
