"""How a model is set up for its training: which weights are trained (all, the upper layers, or low-rank changes of the
linear ones, LoRA), and by which kernel it attends.

Sources: LoRA is Hu et al. (2022), by the package peft. Frozen layers give the same states in every step, so these can
be computed once and kept (`frozen`).
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from cat_core.architectures import has_encoder

EXTRA = "LoRA needs the package peft: pip install peft, or set lora_rank 0"
EAGER = 256
"""Longest context, in tokens, up to which attention is eager where that is faster (`eager_attention`)."""
ALPHA = 2  # LoRA's scale is alpha / rank: a constant factor, so that the rate does not depend on the rank


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The list of layers of a causal model. Raises ValueError where it has none, or an encoder."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [
        m for m in model.base_model.children() if isinstance(m, torch.nn.ModuleList) and len(m) == count
    ]  # fmt: skip
    if has_encoder(model) or len(lists) != 1:
        raise ValueError(f"{type(model).__name__} is not one stack of decoder layers: train all of it (train_layers 0)")
    return lists[0]


def frozen_layers(model: PreTrainedModel, train_layers: int) -> int:
    """How many of the lowest layers stay as they are where the upper `train_layers` are trained (0: all)."""
    if not train_layers:
        return 0
    count = len(decoder_layers(model))
    if train_layers > count:
        raise ValueError(f"train_layers is {train_layers}, and the model has {count} layers; 0 trains all of it")
    return count - train_layers


def freeze(model: PreTrainedModel, train_layers: int) -> int:
    """Freeze embeddings (with a tied head) and all but the upper layers; how many layers are frozen. 0: all trained."""
    count = frozen_layers(model, train_layers)
    if train_layers:
        upper = {id(p) for layer in decoder_layers(model)[count:] for p in layer.parameters()}
        layers = {id(p) for p in decoder_layers(model).parameters()}
        embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
        for p in model.parameters():
            p.requires_grad_(id(p) in upper or (id(p) not in layers and id(p) not in embeddings))
    return count


@contextmanager
def partly_trained(model: PreTrainedModel, settings, end: int):
    """Within: the model whose trained parameters alone have gradients; afterwards `model` is an ordinary one again.

    settings: with `train_layers` and `lora_rank`; end: id of the token that ends answers, whose embedding LoRA trains,
    too, as a base model may never have seen it. Low-rank changes are merged into the weights of `model`, in place.
    Raises ValueError where peft is missing, and for what the model cannot.
    """
    was = {id(p): p.requires_grad for p in model.parameters()}
    wrapped = _with_lora(model, settings, end) if settings.lora_rank else model
    if not settings.lora_rank:
        freeze(model, settings.train_layers)
    try:
        yield wrapped
    finally:
        if wrapped is not model:
            wrapped.merge_and_unload()
            if hasattr(model, "peft_config"):
                del model.peft_config
        for p in model.parameters():
            p.requires_grad_(was.get(id(p), True))


def _with_lora(model: PreTrainedModel, settings, end: int):
    try:
        import peft
    except ImportError:
        raise ValueError(EXTRA) from None
    names = {id(module): name for name, module in model.named_modules()}
    tables = [model.get_input_embeddings()]
    tied = model.get_output_embeddings().weight is tables[0].weight
    if not tied and not has_encoder(model):
        tables.append(model.get_output_embeddings())
    config = peft.LoraConfig(
        r=settings.lora_rank, lora_alpha=ALPHA * settings.lora_rank, target_modules="all-linear", lora_dropout=0.0,
        trainable_token_indices={names[id(table)].rpartition(".")[2]: [end] for table in tables},
        task_type="SEQ_2_SEQ_LM" if has_encoder(model) else "CAUSAL_LM",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        return peft.get_peft_model(model, config)


def trained_parameters(model: PreTrainedModel, settings) -> int:
    """How many numbers are trained (LoRA: rank x (inputs + outputs) of every linear layer but the head, a row of the
    embedding, and one of a head of its own)."""
    if settings.lora_rank:
        head = model.get_output_embeddings()
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        rows = 1 if head.weight is model.get_input_embeddings().weight or has_encoder(model) else 2
        return settings.lora_rank * sum(m.in_features + m.out_features for m in linear) + rows * head.in_features
    was = [p.requires_grad for p in model.parameters()]
    freeze(model, settings.train_layers)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for p, flag in zip(model.parameters(), was):
        p.requires_grad_(flag)
    return count


@contextmanager
def eager_attention(model: PreTrainedModel, wanted: bool):
    """Within, if `wanted`, attention by plain matrix products in place of torch's fused kernel.

    On a CPU the backward of the fused kernel takes four to six times as long in bfloat16 as these do. Their memory
    grows with the square of the length, hence `EAGER`.
    """
    before = model.config._attn_implementation
    if not wanted or before != "sdpa":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
