"""Experiments: one large model, small models by every method and seed, their answers, as one outcome table.

Every stage is an artifact (see `artifacts`): pages of the book share models, and a crash loses at most the steps since
the last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from cat_core import artifacts, joint
from cat_core.cascade import CascadeRunner, Request
from cat_core.configs import DataConfig, TrainConfig, describes_size, parse_size, resolve_device
from cat_core.engines import check_settings
from cat_core.loss import METHODS
from cat_core.models import load_model, load_tokenizer
from cat_core.signals import TokenSignals, token_signals
from cat_core.tasks import brief, nearest, score
from cat_core.train import TrainSettings
from cat_core.trained import Progress, check_pair, held_out_of, train_or_load, train_together

ANSWERING_MODULES = (
    "cascade",
    "queries",
    "inference",
    "early_exit",
    "confidence",
    "flops",
    "models",
    "architectures",
    "tokens",
)
RULE_MODULES = ("features", "deferral", "posthoc", "edge", "joint", "tasks", *ANSWERING_MODULES)
SIGNAL_MODULES = ("signals", "confidence", "tokens", "models", "architectures")
SECOND_STAGE = 4  # Gatekeeper: a quarter of the steps again, at a tenth of the peak learning rate (our choice)
EVALUATED = ("calibration", "test")


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
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for method in self.methods:
            if not isinstance(method, str) or method not in METHODS:
                raise ValueError(f"unknown method {brief(method)}; expected one of {', '.join(METHODS)}")
        for seed in (*self.seeds, *self.large_seeds):
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
                raise ValueError(f"seed {brief(seed)} is not a whole number from 0 to 2**32 - 1")
        for name in ("methods", "seeds", "large_seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} is {brief(list(values))}; expected at least one value and no value twice")
        if describes_size(self.small) != describes_size(self.large):
            raise ValueError(
                f"small {brief(self.small)} and large {brief(self.large)}: build both from scratch or name both, "
                "as they must share one tokenizer"
            )
        check_settings(self.max_new_tokens, self.prediction)
        if not isinstance(self.batch_tokens, int) or isinstance(self.batch_tokens, bool) or self.batch_tokens < 1:
            raise ValueError(f"batch_tokens is {brief(self.batch_tokens)}; expected a whole number >= 1")
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
        teacher: str = "hidden",
        teacher_k: int = 50,
        length_groups: int = 1,
        **fields,
    ) -> Experiment:
        """An experiment from the flat parameters of a page; a limit of 0 is none. `fields`: those of `Experiment`.

        Raises ValueError in one line for a parameter of the wrong type, an unknown one, and for what cannot be trained.
        """
        _check_types(dict(locals()))
        limits = {"train": train_limit, "calibration": calibration_limit, "test": test_limit}
        small_settings = TrainSettings(
            steps=steps,
            learning_rate=learning_rate,
            label_weight=label_weight,
            temperature=temperature,
            normalize=normalize,
            batch_size=batch_size,
            precision=precision,
            teacher=teacher,
            teacher_k=teacher_k,
            length_groups=length_groups,
        )
        large_settings = TrainSettings(
            steps=large_steps,
            learning_rate=large_learning_rate,
            batch_size=large_batch_size,
            precision=precision,
            length_groups=length_groups,
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
        for group in self.groups():
            self.train_group(group, progress)

    def groups(self) -> list[list[tuple[str, int]]]:
        """Small models by (method, seed) as they are trained: first stages seed by seed, then all second stages.

        The models of a group may be trained side by side; a router is trained with S by itself.
        """
        stages = [
            [m for m in self.methods if METHODS[m].second_stage == second and not METHODS[m].router]
            for second in (False, True)
        ]
        first = [[(m, seed) for m in stages[0]] for seed in self.seeds]
        routed = [[(m, seed)] for seed in self.seeds for m in self.methods if METHODS[m].router]
        second = [[(m, seed) for seed in self.seeds for m in stages[1]]]
        return [group for group in (*first, *routed, *second) if group]

    def train_group(self, group: Sequence[tuple[str, int]], progress: Progress = None) -> None:
        """Train the small models of one of the `groups`: side by side where they can be, else one by one."""
        configs = [self.small_config(*each) for each in group]
        together = describes_size(self.small) and self.small_settings.gradient_accumulation == 1
        if together and self.small_settings.loss == "fused" and not any(METHODS[m].router for m, _ in group):
            train_together(configs, progress)
        for config in configs:
            train_or_load(config, progress)

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
        """One model's answers to all calibration and test items, as fields of `queries.Response`."""
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
        """What a model says of the target tokens of a split (teacher forcing); `example` counts all of the split."""
        trained = train_or_load(config, progress)

        def make(folder: Path) -> None:
            model, tokenizer = load_model(str(trained)).eval(), load_tokenizer(str(trained))
            held_out, kept = held_out_of(config, tokenizer, split)
            found = token_signals(model.to(resolve_device(self.device)), held_out)
            replace(found, example=kept[found.example]).save(folder)

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
        check_pair(*self._first_pair())
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


_TYPES = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "dict | None": (dict, type(None)),
    "tuple[str, ...]": (list, tuple),
    "tuple[int, ...]": (list, tuple),
}


def _check_types(given: dict) -> None:
    """ValueError unless the arguments of `Experiment.of` have the types of its signature, and numbers are >= 0."""
    known = {**Experiment.__annotations__, **Experiment.of.__func__.__annotations__}
    flat = {k: v for k, v in given.items() if k not in ("cls", "fields")} | given["fields"]
    for name, value in flat.items():
        types = _TYPES.get(known.get(name, ""))
        if types is None:
            names = [each for each, kind in known.items() if kind in _TYPES]
            raise ValueError(f"unknown parameter {brief(name)}{nearest(name, names)}")
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            hint = " (in YAML write 1.0e-3, as 1e-3 is text)" if float in types and isinstance(value, str) else ""
            raise ValueError(f"{name} is {brief(value)}; expected {wanted}{hint}")
        if int in types and bool not in types and not value >= 0:
            raise ValueError(f"{name} is {brief(value)}; expected a number >= 0")
