"""A configuration read field by field, so that nothing which changes a count goes unseen.

A formula reads through `Fields`, which notes what it read. Whatever else the configuration says must either be known to
change no count (`HARMLESS`, or the family's own), or be what its class has by default. A test of every field of every
class holds the lists against the counter.
"""

import dataclasses
from collections.abc import Iterable

HARMLESS = frozenset(
    # tokens, outputs and metadata
    "architectures bos_token_id decoder_start_token_id dtype eos_token_id forced_eos_token_id id2label label2id "
    "pad_token_id problem_type return_dict transformers_version use_cache "
    # drop-out, starting values, losses
    "activation_dropout attention_dropout attn_pdrop classifier_dropout dropout dropout_rate embd_pdrop "
    "hidden_dropout init_std initializer_factor initializer_range layerdrop encoder_layerdrop decoder_layerdrop "
    "resid_pdrop router_aux_loss_coef router_jitter_noise summary_activation summary_first_dropout "
    "summary_proj_to_labels summary_type summary_use_proj "
    # norms, biases, activations, scales: no matrix products
    "_remove_final_layer_norm activation activation_function attention_bias attention_multiplier "
    "attn_logit_softcapping bias do_layer_norm_before embedding_multiplier enable_bias final_logit_softcapping "
    "hidden_act hidden_activation layer_norm_elementwise_affine layer_norm_eps layer_norm_epsilon logits_scaling "
    "mlp_bias norm_topk_prob num_ln_in_parallel_attn parallel_attn qk_layernorm query_pre_attn_scalar "
    "residual_multiplier rms_norm_eps scale_attn_by_inverse_layer_idx scale_attn_weights scale_embedding "
    "tie_word_embeddings use_parallel_residual use_qkv_bias "
    # positions
    "alibi max_position_embeddings n_positions original_max_position_embeddings relative_attention_max_distance "
    "relative_attention_num_buckets rope_parameters "
    # what the class itself turns into layer_types and sliding_window
    "max_window_layers no_rope_layer_interval no_rope_layers use_sliding_window".split()
)
"""Fields that change no count in any family that has them."""

METADATA = frozenset(
    "add_bias_logits add_final_layer_norm apply_residual_connection_post_layernorm auto_map cache_implementation "
    "classif_dropout dense_act_fn extra_pos_embeddings feed_forward_proj finetuning_task "
    "force_bos_token_to_be_generated gradient_checkpointing hidden_act hidden_activation "
    "ignore_keys_at_rope_validation is_llama_config mlp_bias model_type n_ctx n_positions normalize_before "
    "normalize_embedding num_local_experts output_past partial_rotary_factor prefix pretraining_tp "
    "quantization_config query_pre_attn_scalar rope_interleaved rope_scaling rope_theta rotary_emb_base rotary_pct "
    "scale_decoder_outputs sliding_window_pattern static_position_embeddings task_specific_params "
    "tie_word_embeddings tokenizer_class torch_dtype transformers.js_config unsloth_fixed unsloth_version use_mrope "
    "xla_device".split()
)
"""Keys beside the fields, as found in published files, that no class reads to decide a shape."""

NO_SHAPE = ("_token_id", "_dropout", "_pdrop", "_version")
"""Ends of names of such keys."""


class Fields:
    """A configuration of `kind`, read by name; a name that is no field of `known` and not among `extras` is not there.

    known: the class of transformers for this model type; extras: keys beside its fields that its model reads.
    """

    def __init__(self, config, kind: str, known: type, extras: Iterable[str] = ()):
        self._config, self._kind, self._extras = config, kind, frozenset(extras)
        self._defaults = {field.name: _default(field) for field in dataclasses.fields(known)}
        self._read: set[str] = set()

    def __getattr__(self, name: str):
        names = {name, type(self._config).attribute_map.get(name, name)}
        if names.isdisjoint(self._defaults) and names.isdisjoint(self._extras):
            raise AttributeError(name)
        self._read |= names
        return getattr(self._config, name)

    def check(self, harmless: Iterable[str] = ()) -> None:
        """Raise ValueError for the first key that was neither read nor known to change nothing, by its name."""
        harmless = self._read | HARMLESS | frozenset(harmless)
        for name, default in self._defaults.items():
            if name not in harmless and (value := getattr(self._config, name)) != default:
                raise ValueError(
                    f"no exact FLOPs formula for model type {self._kind!r} with {name}={value!r}: it was checked with "
                    f"{default!r} alone"
                )
        for name, value in vars(self._config).items():
            if name in self._defaults or name in harmless or name in METADATA or value in (None, [], {}):
                continue
            if name.endswith(NO_SHAPE):
                continue
            if not name.startswith("_") or name == "_output_attentions" and value:
                raise ValueError(
                    f"no exact FLOPs formula for model type {self._kind!r} with {name}={value!r}: the class of this "
                    "type has no such field, and it may change the shape"
                )


def _default(field: dataclasses.Field):
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
