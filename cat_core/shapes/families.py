"""Model type -> how its configuration is read; `shape_of` is where all FLOPs start."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import CONFIG_MAPPING

from cat_core.shapes import decoders, encoder_decoders, linear
from cat_core.shapes.fields import Fields
from cat_core.shapes.layers import Shape


@dataclass(frozen=True)
class Family:
    """How one model type is read.

    shape: from its `Fields`; extras: keys beside the fields of its class that its model reads; harmless: fields that
    change no count here, though elsewhere they might; per_layer: fields that layers may have for themselves.
    """

    shape: Callable[[Fields], Shape]
    extras: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    per_layer: tuple[str, ...] = ()


_GATED = Family(decoders.gated, extras=("head_dim",))
FAMILIES: dict[str, Family] = {
    "bart": Family(encoder_decoders.bart),
    "falcon": Family(decoders.falcon),
    "gemma": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "gemma4_text": Family(
        decoders.gemma4,
        harmless=("vocab_size_per_layer_input",),
        per_layer=("head_dim", "num_key_value_heads"),
    ),
    "gpt2": Family(decoders.gpt2),
    "gpt_neox": Family(decoders.plain),
    "granite": _GATED,
    "llama": _GATED,
    "m2m_100": Family(encoder_decoders.bart),
    "marian": Family(encoder_decoders.marian),
    "mistral": _GATED,
    "mixtral": Family(decoders.mixtral, extras=("head_dim",)),
    "mt5": Family(encoder_decoders.t5, extras=("is_gated_act",), harmless=("feed_forward_proj",)),
    "olmo2": _GATED,
    "olmo3": _GATED,
    "opt": Family(decoders.opt),
    "phi": Family(decoders.plain),
    "phi3": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "qwen3_5_text": Family(linear.qwen3_5),
    "qwen3_moe": Family(decoders.qwen3_moe, extras=("head_dim",)),
    "smollm3": _GATED,
    "stablelm": Family(decoders.stablelm),
    "t5": Family(encoder_decoders.t5, extras=("is_gated_act",), harmless=("feed_forward_proj",)),
}
"""`config.model_type` -> its family. An entry goes in with its test against the counter."""


def shape_of(config) -> Shape:
    """The cost-deciding sizes of a transformers configuration (a `Shape` as it is); ValueError for what is not known.

    Refused are unknown model types, and of known ones every field and key that the formula does not read and that is
    not known to change no count, unless it has its default: the message names it.
    """
    if isinstance(config, Shape):
        return config
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise ValueError(f"no exact FLOPs formula for model type {kind!r}: supported are {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[kind]
    overrides = getattr(getattr(config, "_heterogeneity_spec", None), "per_layer_overrides", {})
    if strange := sorted({name for own in overrides.values() for name in own} - set(family.per_layer)):
        raise ValueError(
            f"no exact FLOPs formula for model type {kind!r} with a per_layer_config that sets {', '.join(strange)}"
        )
    fields = _PerLayer(config, kind, CONFIG_MAPPING[kind], family.extras)
    shape = family.shape(fields)
    fields.check((*family.harmless, *family.per_layer))
    return shape


class _PerLayer(Fields):
    def per_layer(self, number: int):
        """Layer `number`'s own configuration, for the fields that `Family.per_layer` names."""
        return self._config.per_layer_config[number]
