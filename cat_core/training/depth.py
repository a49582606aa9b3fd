"""A small model by depth: some layers of a large one, with its embeddings, norms and head ("cut 6 of NAME").

The first and the last layer are kept, and others evenly between them. A cut model says nothing of use until it is
trained; it learns quickly, as it starts from what the large one knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from cat_core.architectures import has_encoder, start_token

LARGE = "large"
"""In the place of a name: L of the experiment as it is named, before its training."""
DECODER_DEPTHS = ("num_decoder_layers", "decoder_layers")
LAYER_NUMBERS = ("mlp_only_layers",)
"""Keys of configurations that list layers by number."""


@dataclass(frozen=True)
class Cut:
    """keep: layers, of an encoder-decoder model in each half; of: name or folder of the model, or "large"."""

    keep: int
    of: str

    def __str__(self):
        return f"cut {self.keep} of {self.of}"


def is_cut(model: str) -> bool:
    """Whether a text describes a cut rather than a size, a name or a folder."""
    return str(model).strip().split(" ")[0] == "cut"


def parse_cut(model: str) -> Cut | None:
    """`Cut` from "cut N of NAME", None for any other name. Raises ValueError for a cut that cannot be read."""
    if not is_cut(model):
        return None
    found = re.fullmatch(r"\s*cut\s+([0-9]+)\s+of\s+(\S.*?)\s*", str(model))
    if found is None or int(found[1]) < 1 or is_cut(found[2]):
        raise ValueError(
            f"model {str(model)[:100]!r}: expected 'cut N of NAME', N >= 1 layers and the name or folder of a model, "
            "or 'cut N of large'"
        )
    return Cut(int(found[1]), found[2])


def named_cut(small: str, large: str) -> str:
    """`small` with the word "large" replaced by the name of L. Raises ValueError where L is itself cut."""
    cut = parse_cut(small)
    if cut is None or cut.of != LARGE:
        return small
    if is_cut(large):
        raise ValueError(f"small {small!r}: large is {large!r}, itself cut; name the whole model")
    return str(Cut(cut.keep, large))


def cut_layers(total: int, keep: int) -> list[int]:
    """The layers [keep] that a cut keeps: the first, the last, and others at even distances (rounded) between them.

    Layer i of the cut is layer round(i (total - 1) / (keep - 1)), halves up; a single layer is the first. Raises
    ValueError unless 1 <= keep <= total.
    """
    if not 1 <= keep <= total:
        raise ValueError(f"a model of {total} layers cannot be cut to {keep}; expected 1 to {total}")
    steps = max(keep - 1, 1)
    return [(2 * i * (total - 1) + steps) // (2 * steps) for i in range(keep)]


def kept_layers(config: PreTrainedConfig, keep: int) -> dict[str, list[int]]:
    """The kept layers by the key of the configuration that counts them; of an encoder-decoder model two keys.

    Raises ValueError for a model that cannot be cut.
    """
    if config.get_text_config() is not config:
        raise ValueError(f"a model of type {config.model_type!r} has parts beside its text model and cannot be cut")
    names = [config.attribute_map.get("num_hidden_layers", "num_hidden_layers")]
    if has_encoder(config):
        names += [name for name in DECODER_DEPTHS if name in config.to_dict()]
    depths = {name: getattr(config, name, None) for name in names}
    if len(names) != 1 + has_encoder(config) or not all(isinstance(depth, int) for depth in depths.values()):
        raise ValueError(f"a model of type {config.model_type!r} does not say how many layers it has: it cannot be cut")
    return {name: cut_layers(depth, keep) for name, depth in depths.items()}


def cut_sentence(config: PreTrainedConfig, keep: int) -> str:
    """Which layers a cut keeps, as a sentence; config: of the whole model."""
    parts = []
    for name, kept in kept_layers(config, keep).items():
        *first, last = map(str, kept)
        numbers = f"{', '.join(first)} and {last}" if first else last
        half = "decoder" if name in DECODER_DEPTHS else "encoder"
        where = f" of the {half}" if has_encoder(config) else ""
        parts.append(f"layer{'s' if first else ''} {numbers}{where} (of 0 to {getattr(config, name) - 1})")
    return f"S keeps {' and '.join(parts)}."


def cut_config(config: PreTrainedConfig, keep: int) -> PreTrainedConfig:
    """The configuration of a cut: its depth, and whatever is given layer by layer, cut along."""
    content, plan = config.to_dict(), kept_layers(config, keep)
    for name, kept in plan.items():
        depth = content[name]
        content[name] = keep
        if has_encoder(config):
            continue
        for key, value in content.items():
            if key in LAYER_NUMBERS and value:
                content[key] = [new for new, old in enumerate(kept) if old in value]
            elif isinstance(value, list) and len(value) == depth and "layer" in key:
                content[key] = [value[i] for i in kept]
    return type(config).from_dict(content)


def cut_model(model: PreTrainedModel, keep: int) -> PreTrainedModel:
    """Some layers of a model as a model of its own, whose weights are those of the given one.

    Checked by asking the whole model with the other layers passed through: ValueError where the two differ, as
    where a layer's work depends on its number.
    """
    config, kind = model.config, type(model).__name__
    plan, places = kept_layers(config, keep), {}
    for name, kept in plan.items():
        places |= {f"{_stack(model, name)}.{old}.": f"{_stack(model, name)}.{new}." for new, old in enumerate(kept)}
    stacks = tuple(f"{_stack(model, name)}." for name in plan)
    weights = {}
    for key, tensor in model.state_dict().items():
        old = next((place for place in places if key.startswith(place)), None)
        if old is not None:
            weights[places[old] + key[len(old) :]] = tensor
        elif not key.startswith(stacks):
            weights[key] = tensor
    options = {"state_dict": weights, "dtype": model.dtype, "output_loading_info": True}
    try:
        small, report = type(model).from_pretrained(None, config=cut_config(config, keep), **options)
    except Exception as error:  # of many kinds
        raise ValueError(f"{kind} cannot be cut to {keep} layers: {str(error).splitlines()[0][:200]}") from None
    wrong = [key for what in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[what]]
    if wrong or not _alike(model, small, plan):
        reason = f"{len(wrong)} weights do not fit" if wrong else "its layers depend on their number"
        raise ValueError(f"{kind} cannot be cut to {keep} layers: {reason}; name two whole models instead")
    return small.train(model.training)


def _stack(model: PreTrainedModel, depth_name: str) -> str:
    """Dotted name of the list of layers that a key of the configuration counts."""
    half = model
    if has_encoder(model):
        half = model.get_decoder() if depth_name in DECODER_DEPTHS else model.get_encoder()
    count = getattr(model.config, depth_name)
    names = {id(module): name for name, module in model.named_modules()}
    found = [m for m in half.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no list of {count} layers: it cannot be cut")
    return names[id(found[0])]  # the outermost comes first


@torch.no_grad()
def _alike(whole: PreTrainedModel, small: PreTrainedModel, plan: dict[str, list[int]]) -> bool:
    """Whether the cut says what the whole model says when its other layers hand on what they are given."""

    def hand_on(_, given, named, output):
        states = given[0] if given else named["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    hooks, training = [], whole.training
    ids = torch.arange(8, device=whole.device).remainder(whole.config.vocab_size).unsqueeze(0)
    asked = {"input_ids": ids, "use_cache": False}
    if has_encoder(whole):
        asked["decoder_input_ids"] = torch.cat([ids.new_full((1, 1), start_token(whole)), ids[:, :3]], dim=1)
    try:
        for name, kept in plan.items():
            for number, layer in enumerate(whole.get_submodule(_stack(whole, name))):
                if number not in kept:
                    hooks.append(layer.register_forward_hook(hand_on, with_kwargs=True))
        expected = whole.eval()(**asked).logits
    finally:
        for hook in hooks:
            hook.remove()
        whole.train(training)
    got = small.eval()(**asked).logits
    return torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
