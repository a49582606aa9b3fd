"""Open pairs of models: what is known of them, listed by a command, and fetched by it.

    python -m cat_core.pairs                     all pairs
    python -m cat_core.pairs show PAIR           all that is known of one
    python -m cat_core.pairs fetch NAME [NAME]   the models of pairs, or models of the Hub, to have them offline

`small` and `large` of an experiment take the names that `show` gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from cat_core.files import PROJECT
from cat_core.flops import request_flops
from cat_core.tasks.schema import NAME, FileModel, SchemaError, matching, nearest, read_file
from cat_core.tasks.shell import exit_status
from cat_core.training import model_store
from cat_core.training.depth import cut_config, cut_sentence, parse_cut
from cat_core.training.fetch import Wheel, fetch
from cat_core.training.models import parameter_count

FILE = PROJECT / "data" / "pairs.yaml"
BYTES = {"answering in float32": 4, "answering in bfloat16": 2, "training in float32 (AdamW)": 16}
"""Bytes a parameter: weights alone, or with their gradient and two moments; activations come on top."""
PROMPT, ANSWER = 100, 10  # tokens of the query that costs are compared on
HubName = matching(model_store.HUB_NAME, "a name on the Hub such as owner/name")
PairName = matching(NAME, "letters, digits, '_', '-' and '.' only")
Text = matching(r"(?s).+", "a text (in quotes)")


class ModelFacts(FileModel):
    """What is known of a model; config: the keys of its config.json that decide its size.

    tokens: entries of its tokenizer; stops: what ends an answer; template: "chat" where prompts go through a chat
    template, else "none"; source: where the facts are from; revision: commit of the Hub to fetch (default: the newest).
    """

    licence: Text
    parameters: Annotated[int, Field(gt=0)]
    config: dict[str, str | int | bool]
    tokens: Annotated[int, Field(gt=0)]
    stops: list[Text]
    template: Literal["chat", "none"]
    source: Text
    revision: Text | None = None
    wheel: Wheel | None = None


class PairFacts(FileModel):
    """small, large: as in an experiment; mind: what to mind with this pair."""

    small: Text
    large: HubName
    mind: Text


class Pairs(FileModel):
    """The file of pairs."""

    models: dict[HubName, ModelFacts]
    pairs: dict[PairName, PairFacts]

    @model_validator(mode="after")
    def _known(self):
        for name, pair in self.pairs.items():
            for model in (whole(pair.small), pair.large):
                if model not in self.models:
                    raise ValueError(f"pair {name!r} names {model!r}, which is not among the models")
        return self

    def side(self, name: str) -> Side:
        """What a side of a pair is, cut where the name says so."""
        facts, cut = self.models[whole(name)], parse_cut(name)
        config, parameters = AutoConfig.for_model(**facts.config), facts.parameters
        if cut is None:
            return Side(facts, config, parameters, "")
        sentence, smaller = cut_sentence(config, cut.keep), cut_config(config, cut.keep)
        return Side(facts, smaller, parameters - count_parameters(config) + count_parameters(smaller), sentence)


@dataclass(frozen=True)
class Side:
    """One model of a pair; config: as transformers reads it; parameters: counted; kept: which layers, of a cut."""

    facts: ModelFacts
    config: PreTrainedConfig
    parameters: int
    kept: str

    def memory(self, use: str) -> float:
        """GB that its weights take in one of the uses of `BYTES`; activations come on top."""
        return self.parameters * BYTES[use] / 1e9

    @property
    def context(self) -> int | None:
        """Most tokens that it reads, None where it names no limit; T5: the longest of its training."""
        return getattr(self.config, "max_position_embeddings", None) or getattr(self.config, "n_positions", None)


def whole(name: str) -> str:
    """The model that a name starts from."""
    cut = parse_cut(name)
    return name if cut is None else cut.of


def count_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the model of a configuration, tied weights once; none of its weights is made."""
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return parameter_count(kind.from_config(config))


def cost_ratio(small: Side, large: Side) -> float | None:
    """c: FLOPs of S over those of L, for a query of `PROMPT` tokens and an answer of `ANSWER`; None: no formula."""
    try:
        return request_flops(small.config, PROMPT, ANSWER) / request_flops(large.config, PROMPT, ANSWER)
    except ValueError:
        return None


def read_pairs(file: Path = FILE) -> Pairs:
    """The pairs of a file. Raises SchemaError in one line."""
    if not file.is_file():
        raise SchemaError(f"there is no {file}: the list of pairs comes with the project's folder")
    return read_file(Pairs, file)


# ---------------------------------------------------------------- the command


def table(pairs: Pairs) -> str:
    """All pairs, one a line: sizes, cost ratio, memory, licence, and whether both models are fetched."""
    lines = [("pair", "S", "L", "parameters S / L", "c", "GB", "template", "licence", "fetched")]
    for name, pair in pairs.pairs.items():
        small, large = pairs.side(pair.small), pairs.side(pair.large)
        ratio, memory = cost_ratio(small, large), sum(side.memory("answering in float32") for side in (small, large))
        names = {whole(pair.small), pair.large}
        cells = name, pair.small, pair.large, f"{_millions(small.parameters)} / {_millions(large.parameters)}"
        cells += "unknown" if ratio is None else f"{ratio:.3f}", f"{memory:.1f}", large.facts.template
        lines.append((*cells, large.facts.licence, "yes" if all(map(_fetched, names)) else "no"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    note = f"c: FLOPs of S over those of L ({PROMPT} + {ANSWER} tokens); GB: both models in float32, answering."
    return "\n".join([*rows, note])


def description(pairs: Pairs, name: str) -> str:
    """All that is known of a pair. Raises ValueError for a pair that is not there."""
    if name not in pairs.pairs:
        raise ValueError(f"unknown pair {name!r}{nearest(name, pairs.pairs)}")
    pair = pairs.pairs[name]
    sides = pairs.side(pair.small), pairs.side(pair.large)
    lines = [name]
    for label, given, side in zip("SL", (pair.small, pair.large), sides):
        facts, context = side.facts, "no limit of its own" if side.context is None else f"{side.context:,} tokens"
        lines += [f"  {label}: {given}", *([f"    {side.kept}"] if side.kept else [])]
        lines += [
            f"    {text}" for text in (
                f"{side.config.model_type}, {side.parameters:,} parameters, licence {facts.licence}",
                "GB of weights: " + ", ".join(f"{side.memory(use):.1f} {use}" for use in BYTES),
                f"vocabulary: {facts.tokens:,} tokens, matrix of {side.config.vocab_size:,}; context: {context}",
                f"stops: {', '.join(facts.stops)}; template: {facts.template}",
                f"source: {facts.source}; fetched: {'yes' if _fetched(whole(given)) else 'no'}",
            )
        ]  # fmt: skip
    ratio = cost_ratio(*sides)
    lines.append(f"  c, FLOPs of S over those of L: {'unknown' if ratio is None else f'{ratio:.3f}'}")
    return "\n".join([*lines, f"  to mind: {pair.mind}"])


def fetched(pairs: Pairs, names: Sequence[str], say: Callable = print) -> list[Path]:
    """Folders of the models of pairs, or of the Hub, fetched where they are not there. ValueError in one line."""
    wanted = []
    for name in names:
        pair = pairs.pairs.get(name)
        wanted += [name] if pair is None else [whole(pair.small), pair.large]
        if pair is None and name not in pairs.models and "/" not in name:
            raise ValueError(f"unknown pair {name!r}{nearest(name, pairs.pairs)} (models of the Hub are owner/name)")
    folders = []
    for name in dict.fromkeys(wanted):
        facts = pairs.models.get(name)
        given = {} if facts is None else {"wheel": facts.wheel, "revision": facts.revision}
        folders.append(fetch(name, **given, say=say))
        say(f"{name}: {folders[-1]}")
    return folders


def _fetched(name: str) -> bool:
    return model_store.local(name) != name


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f} M" if count < 9.995e8 else f"{count / 1e9:.1f} B"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, 2 (an error, in one line) or 130 (stopped)."""
    parser = argparse.ArgumentParser(prog="python -m cat_core.pairs", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="all pairs (so without a command)")
    commands.add_parser("show", help="all that is known of a pair").add_argument("pair")
    getting = commands.add_parser("fetch", help="fetch the models of pairs, or models of the Hub, once")
    getting.add_argument("names", nargs="+", metavar="NAME", help="a pair, or a model of the Hub: owner/name")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    pairs = read_pairs()
    if options.command == "fetch":
        fetched(pairs, options.names, partial(print, flush=True))
    else:
        print(description(pairs, options.pair) if options.command == "show" else table(pairs))
