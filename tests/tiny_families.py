"""The architectures of the open pairs at tiny size: real configuration classes, with the facts that are not sizes."""

import torch
from small_models import t5_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from cat_core.training.models import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog runs after the cat", "is the sky blue? yes", "no, the house is red"] * 2
CONTEXT = 64


def tokenizer_for(config: dict):
    """A tiny tokenizer of the kind that a model with these facts reads."""
    return t5_tokenizer(TEXTS) if config["model_type"] == "t5" else train_tokenizer(TEXTS, 300)


def tiny_model(facts: dict, tokenizer, *, layers: int = 3, width: int = 1, padding: int = 0, seed: int = 0, **more):
    """A random model of the class that the facts of a config.json name; padding: columns beyond the tokenizer.

    Weights are spread wide, so that no two logits come close.
    """
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes = {"vocab_size": len(tokenizer) + padding} | special
    if facts["model_type"] == "t5":
        sizes |= {"d_model": 16 * width, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": layers}
        sizes |= {"num_decoder_layers": layers, "dropout_rate": 0.0, "decoder_start_token_id": tokenizer.pad_token_id}
    else:
        sizes |= {"hidden_size": 16 * width, "intermediate_size": 24, "num_hidden_layers": layers}
        sizes |= {"num_attention_heads": 2, "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
        for name, value in (("num_key_value_heads", 1), ("head_dim", 8), ("sliding_window", 4)):
            sizes |= {name: value} if name in facts else {}
    config = AutoConfig.for_model(**facts | sizes | more)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config).eval()
        if facts["model_type"] == "t5":
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model
