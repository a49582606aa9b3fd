"""Sentences, tokenizers, T5 models, and an L that has learnt something, for tests of training."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from cat_core.tasks.synthetic import MiniWmt, mini_wmt
from cat_core.training.models import ModelSize, build_model, train_tokenizer
from cat_core.training.train import TrainSettings, train
from cat_core.training.training_set import TrainingSet

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


def t5_tokenizer(texts, vocab_size: int = 300) -> T5Tokenizer:
    """T5's own tokenizer class, with a vocabulary learnt from the texts."""
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    raw.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False, n_sub_iterations=1
        ),
    )
    vocabulary = [tuple(entry) for entry in json.loads(raw.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def t5_model(tokenizer, seed: int, *, flan: bool = True, hidden: int = 16, layers: int = 2, dropout: float = 0.0):
    """A T5 in FLAN's layout (v1.1: gated, a head of its own), or in that of v1.0 (the head is the embedding, scaled).

    Its decoder has one layer more than its encoder, and its head more columns than there are tokens.
    """
    config = T5Config(
        vocab_size=len(tokenizer) + 3, d_model=hidden, d_kv=5, d_ff=24, num_heads=2, num_layers=layers,
        num_decoder_layers=layers + 1, dropout_rate=dropout, feed_forward_proj="gated-gelu" if flan else "relu",
        tie_word_embeddings=not flan, decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config).eval()
        if flan:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * hidden**-0.5)
    return model
