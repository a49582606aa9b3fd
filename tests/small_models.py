"""Sentences, a tokenizer, and an L that has learnt something, for tests of training."""

from cat_core.models import ModelSize, build_model, train_tokenizer
from cat_core.synthetic import MiniWmt, mini_wmt
from cat_core.train import TrainingSet, TrainSettings, train

CONTEXT = 48


def sentences(train: int = 200, vocab_size: int = 500):
    """(tokenizer, training set) of mini-wmt."""
    examples = [e for e in mini_wmt(MiniWmt(train=train, calibration=5, test=30)) if e.split == "train"]
    tokenizer = train_tokenizer([text for e in examples for text in (e.prompt, e.target)], vocab_size)
    return tokenizer, TrainingSet(examples, tokenizer, CONTEXT)


def large_model(
    tokenizer, training_set, folder, *, layers: int = 2, seed: int = 7, steps: int = 40, rate: float = 5e-3
):
    """A trained L."""
    large = build_model(ModelSize(hidden=32, layers=layers, heads=2, context=CONTEXT), tokenizer, seed)
    settings = TrainSettings(steps=steps, batch_size=32, learning_rate=rate)
    train(large, training_set, settings, folder, use_cpu=True)
    return large
