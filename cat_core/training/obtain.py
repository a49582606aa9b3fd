"""Trained models by their configurations: made now, or found; teachers, tokenizers and models trained together.

Every stage is an artifact (see `artifacts`): whoever asks for the same configuration shares it, and a crash loses at
most the steps since the last checkpoint.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cat_core.architectures import check_one_kind
from cat_core.methods import METHODS
from cat_core.text import TextFormat
from cat_core.training import artifacts, joint, models
from cat_core.training.configs import HEALING_SEED, TRAINING_MODULES, DataConfig, TrainConfig, halves, resolve_device
from cat_core.training.frozen import FrozenStates, run_frozen
from cat_core.training.side_by_side import train_side_by_side
from cat_core.training.teacher import TeacherCache, run_teacher
from cat_core.training.train import Progress, train
from cat_core.training.training_set import DataOrder, TrainingSet
from cat_core.training.tuning import frozen_layers

FEW = 4  # so many seeds at least read less than the whole training set together
ROOM = 3  # what a prompt needs at least: BOS, one token, and EOS where an encoder reads it


def tokenizer_of(config: TrainConfig):
    """The tokenizer of a configuration: the named model's own, or byte-level BPE trained on the training texts."""
    if not config.from_scratch:
        return models.load_tokenizer(config.model)
    suite = replace(config.data, without_half=None).load()  # one tokenizer for both halves

    def make(folder: Path) -> None:
        texts = (text for e in suite.split("train") for text in (e.prompt, e.target))
        models.train_tokenizer(texts, config.vocab_size).save_pretrained(folder)

    identity = {"data": suite.fingerprint, "vocab_size": config.vocab_size}
    return models.load_tokenizer(str(artifacts.obtain("tokenizer", identity, ("cat_core.training.models",), make)))


def text_of(config: TrainConfig, tokenizer=None, stop: Sequence[str] = ()) -> TextFormat:
    """How the models of a configuration read and write texts."""
    shown, tokenizer = config.data.shown(), tokenizer or tokenizer_of(config)
    return TextFormat(tokenizer, template=config.template, stop=stop, shots=shown, encoder=config.encoder)


def name_of(config: TrainConfig) -> str:
    """A model by its part in the cascade, its method and seed, as progress lines have it: only L has no teacher."""
    seed, half = config.settings.seed, config.data.without_half
    if config.teacher is not None:
        return f"small model, {config.settings.method}, seed {seed}"
    if seed == HEALING_SEED:
        return "small model, before its methods"
    return f"large model, seed {seed}" + ("" if half is None else f", without half {half} of the examples")


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
        asks = config.teacher is not None and config.settings.steps
        teacher = teacher_of(config, training_set, progress) if asks else None
        model = untrained(config, tokenizer, progress)
        if not config.from_scratch:
            give_back()  # a cut is loaded whole
        checkpoints = folder / "checkpoints"
        given = (model, training_set, config.settings, checkpoints, teacher, progress)
        options = {
            "use_cpu": use_cpu,
            "what": name_of(config),
            "frozen": frozen_of(config, model, training_set, progress),
        }
        if METHODS[config.settings.method].router:
            log, router = joint.train_jointly(*given, **options)
            joint.save_router(router, folder)
        else:
            log = train(*given, **options)
        shutil.rmtree(checkpoints, ignore_errors=True)  # not there where nothing was trained
        return _finish(model, tokenizer, log, 1, folder)

    return obtained(config, "model", config.identity(), config.modules, make)


def obtained(config: TrainConfig, *artifact) -> Path:
    """`artifacts.obtain`; of a loaded model, what making it has taken is given back."""
    *known, make = artifact
    made = []
    folder = artifacts.obtain(*known, lambda folder: made.append(folder) or make(folder))
    if made and not config.from_scratch:
        give_back()
    return folder


def give_back() -> None:
    """Let the system have the memory of models that are not needed any more.

    A Trainer is in circles of references, and glibc keeps what was freed below what is in use: a gigabyte a model.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def shared_out(configs: Sequence[TrainConfig], progress: Progress = None) -> Iterator[TrainConfig]:
    """The configurations in turn, those that another process is making last: who want the same share the work."""
    later = []
    for config in configs:
        if artifacts.is_being_made("model", config.identity(), config.modules):
            later.append(config)
        else:
            yield config
    for config in later:
        if progress is not None and artifacts.is_being_made("model", config.identity(), config.modules):
            progress(f"{name_of(config)}: another process is training it")
        yield config


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
    alike = [replace(config, settings=first.settings, teacher=None, initial=None) for config in todo]
    if any(variant != alike[0] for variant in alike):
        raise ValueError("side by side only models of the same data, size and tokenizer can be trained")

    def make(folder: Path) -> dict:
        tokenizer = tokenizer_of(first)
        training_set = training_set_of(first, tokenizer)
        keys = [c.teacher and (c.teacher.digest(), c.out_of_fold, seen_of(c, training_set)) for c in todo]
        taught = {key: c for key, c in zip(keys, todo) if key is not None}
        known = {key: teacher_of(c, training_set, progress) for key, c in taught.items()}
        small = [untrained(c, tokenizer, progress) for c in todo]
        settings, teachers = [c.settings for c in todo], [known.get(key) for key in keys]
        given = (small, training_set, settings, folder / "checkpoints", teachers)
        use_cpu = resolve_device(first.device).type == "cpu"
        logs = train_side_by_side(*given, progress=progress, use_cpu=use_cpu)
        for config, model, log in zip(todo, small, logs):
            finish = partial(_finish, model, tokenizer, log, len(todo))
            artifacts.obtain("model", config.identity(), TRAINING_MODULES, finish)
        shutil.rmtree(folder / "checkpoints")
        return {"models": [c.digest() for c in todo]}

    artifacts.obtain("stack", {"models": [c.identity() for c in todo]}, TRAINING_MODULES, make)


def training_set_of(config: TrainConfig, tokenizer=None, split: str = "train") -> TrainingSet:
    """The token ids of one split under the configuration's tokenizer."""
    examples = config.data.load().split(split)
    return TrainingSet(examples, text_of(config, tokenizer), config.context, config.truncate_prompts)


def held_out_of(
    config: TrainConfig, tokenizer, split: str, data: DataConfig | None = None, first: int | None = None
) -> tuple[TrainingSet, np.ndarray]:
    """Token ids of a held-out split of `data` (None: what is learnt from), or of its `first` examples, and the numbers
    of its examples [rows], int64.

    Examples whose target leaves fewer than `ROOM` tokens of the context for the prompt are left out: the model cannot
    read them. Raises ValueError where none is left, and as `TrainingSet`.
    """
    examples = (data or config.data).load().split(split)[:first]
    text = text_of(config, tokenizer)
    targets = text.targets([e.prompt for e in examples], [e.target for e in examples])
    lengths = np.array([len(target) for target in targets])
    kept = np.flatnonzero(lengths + ROOM <= config.context)
    if not len(kept):
        raise ValueError(f"no target of split {split!r} fits the context of {config.context} tokens: raise it")
    chosen = [examples[i] for i in kept]
    return TrainingSet(chosen, text, config.context, config.truncate_prompts), kept


def check_pair(small: TrainConfig, large: TrainConfig) -> None:
    """Raise ValueError unless S and L are of one kind and share a tokenizer: before hours are spent on L."""
    _check_kinds(small, large)
    models.check_same_tokenizer(tokenizer_of(small), tokenizer_of(large), small.model, large.model)


def _check_kinds(small: TrainConfig, large: TrainConfig) -> None:
    if not (small.from_scratch or large.from_scratch):  # what is built from scratch is causal
        check_one_kind(models.load_config(small.model), models.load_config(large.model), small.model, large.model)


def _check_method(config: TrainConfig) -> None:
    method = METHODS[config.settings.method]
    if config.teacher is not None:
        _check_kinds(config, config.teacher)
    if config.teacher is None and method.compares:
        raise ValueError(f"method {config.settings.method!r} compares S with L: give the teacher's configuration")
    if config.initial is None and method.second_stage:
        raise ValueError(f"method {config.settings.method!r} is a second stage: give the configuration of the first")


def untrained(config: TrainConfig, tokenizer, progress: Progress = None):
    """The model before training: from scratch, the named one, or the result of the first stage."""
    if config.teacher is not None:
        models.check_same_tokenizer(tokenizer, tokenizer_of(config.teacher))
    if config.initial is not None:
        return models.load_model(str(train_or_load(config.initial, progress)))
    seed = config.settings.seed
    model = models.build_model(config.size, tokenizer, seed) if config.from_scratch else models.load_model(config.model)
    models.check_vocabulary(model, tokenizer, config.model)
    return model


def _finish(model, tokenizer, log: list[dict], together: int, folder: Path) -> dict:
    """Save a trained model; what is kept of its training."""
    models.save_model(model.cpu(), tokenizer, folder)
    threads = torch.get_num_threads()
    return {"log": log, "parameters": models.parameter_count(model), "threads": threads, "side_by_side": together}


def teacher_cache(
    config: TrainConfig, training_set: TrainingSet, progress: Progress = None, *, mode: str = "hidden", k: int = 50,
    temperature: float = 1.0, examples: Sequence[int] | None = None,
) -> TeacherCache:  # fmt: skip
    """What L of this configuration says on the training set, or on these `examples`, computed once for all who ask."""
    about = {"teacher": config.digest(), "data": training_set.fingerprint}
    precision = "fp32" if config.from_scratch else config.settings.precision  # a loaded L: as it was trained

    def make(folder: Path) -> None:
        model = models.load_model(str(train_or_load(config, progress))).to(resolve_device(config.device))
        kept = {"mode": mode, "k": k, "temperature": temperature, "about": about, "precision": precision}
        run_teacher(model, training_set, folder, **kept, progress=progress, examples=examples)

    identity = {"model": config.digest(), "tokens": training_set.fingerprint, "mode": mode}
    identity |= {"precision": precision} if precision != "fp32" else {}
    identity |= {} if examples is None else {"examples": list(examples)}
    if mode == "topk":
        identity |= {"k": k, "temperature": temperature}
    return TeacherCache.load(obtained(config, "teacher", identity, TRAINING_MODULES, make), verify=False, **about)


def frozen_of(config: TrainConfig, model, training_set: TrainingSet, progress: Progress) -> FrozenStates | None:
    """What the frozen layers say of the training set, computed once for all methods and seeds.

    None where no layer is frozen, or no example is seen twice: then they run as the training comes to it.
    """
    settings = config.settings
    layers = frozen_layers(model, settings.train_layers)
    if not layers or settings.steps * settings.batch_size <= len(training_set):
        return None
    base = config.begins  # a later stage has the frozen layers of the first
    loaded = {"model": base.identity()["model"], "on": base.identity()["on"], "tokens": training_set.fingerprint}
    identity = loaded | {"layers": layers, "precision": settings.precision}
    device = resolve_device(config.device)

    def make(folder: Path) -> None:
        run_frozen(model.to(device), training_set, folder, layers, settings.precision, progress=progress)

    return FrozenStates.load(artifacts.obtain("frozen", identity, ("cat_core.training.frozen",), make), layers)


def seen_of(config: TrainConfig, training_set: TrainingSet) -> tuple[int, ...] | None:
    """Numbers of the examples that a training reads where they are few; None: all, which other seeds share."""
    settings, count = config.settings, len(training_set)
    total = settings.steps * settings.batch_size
    return tuple(sorted(DataOrder(count, total, settings.seed))) if are_few(total, count) else None


def are_few(read: int, count: int) -> bool:
    """Whether so little is read of a training set that L is asked about this alone, and not about all for all seeds."""
    return read * FEW <= count


def teacher_of(config: TrainConfig, training_set: TrainingSet, progress: Progress) -> TeacherCache:
    """L's outputs that teach the small model of a configuration, on all that this reads."""
    settings = config.settings
    options = {"mode": settings.teacher, "k": settings.teacher_k, "temperature": settings.temperature}
    options["examples"] = seen_of(config, training_set)
    if not config.out_of_fold:
        return teacher_cache(config.teacher, training_set, progress, **options)
    data = config.teacher.data
    without = [replace(config.teacher, data=replace(data, without_half=half)) for half in (0, 1)]
    parts = [teacher_cache(part, training_set, progress, **options) for part in without]
    return stitched(parts, torch.tensor(halves(config.data.load().split("train"))))


def stitched(parts: Sequence[TeacherCache], which: torch.Tensor) -> TeacherCache:
    """One teacher out of several of one mode: example i is that of `parts[which[i]]`.

    Mode hidden, which needs a plain linear head: states are laid side by side, zero in the columns of the others, and
    so are the heads: the logits stay exact.
    """
    first, rows = parts[0], torch.repeat_interleave(which, parts[0].offsets.diff())
    if any(part.mode == "hidden" and part.head is None for part in parts):
        raise ValueError("an out-of-fold teacher needs models with a plain linear head")

    def picked(name: str) -> torch.Tensor:
        values = getattr(first, name).clone()
        for i, part in enumerate(parts):
            values[rows == i] = getattr(part, name)[rows == i]
        return values

    if first.mode != "hidden":
        kept = ("ids", "log_probabilities", "tail") if first.mode == "topk" else ()
        return TeacherCache(offsets=first.offsets, about=first.about, **{n: picked(n) for n in ("correct", *kept)})
    states = torch.cat([part.states * (rows == i).unsqueeze(1) for i, part in enumerate(parts)], dim=1)
    bias = []
    if first.bias is not None:  # one more state a part, which is 1 in its own rows
        states = torch.cat([states, *((rows == i).to(states.dtype).unsqueeze(1) for i in range(len(parts)))], dim=1)
        bias = [part.bias.unsqueeze(1) for part in parts]
    head = torch.cat([*(part.head for part in parts), *bias], dim=1)
    return TeacherCache(picked("correct"), first.offsets, states=states, head=head)
