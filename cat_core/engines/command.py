"""The command line of the cascade: a JSONL file of prompts in, a JSONL file of answers out.

    python -m cat_core.cascade prompts.jsonl --small FOLDER --large FOLDER --deferral-rate 0.3 --output answers.jsonl

A model is a folder, GGUF file or Hub name (transformers), `vllm:` and one (vLLM on this machine), or the address of a
server with OpenAI's completions endpoint. A threshold that was calibrated on one file (`--deferral-rate`,
`--save-threshold`) is taken for others by `--threshold`, and refused with other models.

What is finished is kept in `<output>.run`; the same command goes on from there after an interruption and gives the
same file. The output is written whole, when everything is answered.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from cat_core.architectures import has_encoder
from cat_core.cascade import LOWEST, CascadeRunner, confidence_of
from cat_core.engines.contract import Engine, EngineError, requests_digest
from cat_core.engines.local import EngineCascade, TransformersEngine, VllmEngine
from cat_core.engines.server import ServerEngine
from cat_core.engines.threshold import Threshold, holds_for
from cat_core.files import Store, write_text
from cat_core.flops import COSTS
from cat_core.methods import RULES
from cat_core.queries import PREDICTIONS, CascadeResult, Request, check_requests
from cat_core.router import rate_threshold
from cat_core.tasks.example import text_problem
from cat_core.tasks.schema import brief, nearest
from cat_core.tasks.shell import exit_status
from cat_core.tasks.sources import example_rows
from cat_core.text import TEMPLATES, TextFormat
from cat_core.training import model_store
from cat_core.training.configs import resolve_device
from cat_core.training.depth import is_cut
from cat_core.training.experiment import Experiment
from cat_core.training.models import (
    check_same_tokenizer,
    check_vocabulary,
    end_ids,
    load_config,
    load_model,
    load_tokenizer,
)

SIDES = ("small", "large")
VLLM = "vllm:"
ASKED_RULES = tuple(name for name, rule in RULES.items() if not rule.learned)
MEASURED = ("n_prompt", "n_generated", "truncated", "tokens", "token_logprobs")
"""Of a response, what a row of the output holds besides the answer."""
FEW = 100
"""Queries below which a rate that is measured on them is rough."""
IGNORED = ("concurrency", "timeout", "output", "prompts", "device", "threshold", "save_threshold")
"""Arguments that change no answer, or that the configuration states in another way."""


def read_requests(path: str | Path) -> list[Request]:
    """The queries of a `.jsonl` or `.jsonl.gz` file: prompt, perhaps item_id and options (schema: data/README.md).

    The other fields of the schema may be there and are not looked at. ValueError names file, line and field.
    """
    requests: list[Request] = []
    for number, where, row in example_rows(path, "prompt"):
        item_id, options = row.get("item_id", f"line-{number:06d}"), row.get("options", [])
        if not isinstance(options, list):
            raise ValueError(f"{where}, field 'options': must be a list of texts, not {brief(options)}")
        for name, value in (("item_id", item_id), ("prompt", row["prompt"]), *(("options", o) for o in options)):
            if problem := text_problem(value):
                raise ValueError(f"{where}, field {name!r}: {problem}")
        requests.append(Request(item_id, row["prompt"], tuple(options)))
    return requests


def read_shots(path: str | Path) -> list[tuple[str, str]]:
    """(prompt, target) of each line of a `.jsonl` or `.jsonl.gz` file. ValueError names file, line and field."""
    pairs = []
    for _, where, row in example_rows(path, "prompt", "target"):
        for name in ("prompt", "target"):
            if problem := text_problem(row[name]):
                raise ValueError(f"{where}, field {name!r}: {problem}")
        pairs.append((row["prompt"], row["target"]))
    return pairs


def engines(given: argparse.Namespace) -> list[Engine]:
    """The small and the large engine that the arguments name."""
    common = {"max_new_tokens": given.max_new_tokens, "prediction": given.prediction}
    of_text = {"template": given.template, "stop": tuple(given.stop)}
    shots = {"": read_shots(given.shots)} if given.shots else {}
    local = {side: getattr(given, side) for side in SIDES if kind(getattr(given, side)) == "transformers"}
    tokenizers = [load_tokenizer(name) for name in local.values()]
    if len(local) == 2:
        check_same_tokenizer(*tokenizers, *local.values())
    runner = None
    if local:
        models = {side: load_model(name, getattr(torch, given.dtype)) for side, name in local.items()}
        for side, name in local.items():
            check_vocabulary(models[side], tokenizers[0], name)
        # one local model stands on both sides: the other side's is never asked
        pair = [models.get(side) or next(iter(models.values())) for side in SIDES]
        text = TextFormat(tokenizers[0], shots=shots, encoder=has_encoder(pair[0]), **of_text)
        of_runner = {name: getattr(given, name) for name in ("batch_tokens", "truncate_prompts", "costs")} | common
        runner = CascadeRunner(*pair, tokenizers[0], device=resolve_device(given.device), text=text, **of_runner)
    engine_pair: list[Engine] = []
    for side in SIDES:
        name, source = getattr(given, side), getattr(given, f"{side}_tokenizer")
        if kind(name) == "transformers":
            engine_pair.append(TransformersEngine(runner, side))
        elif kind(name) == "vllm":
            source = model_store.local(name.removeprefix(VLLM))
            of_vllm = {"dtype": given.dtype, "shots": shots, "stop_ids": end_ids(source)} | of_text | common
            engine_pair.append(VllmEngine(source, **of_vllm))
        else:
            tokenizer = load_tokenizer(source) if source else None
            config = load_config(source) if source else None
            of_server = {"concurrency": given.concurrency, "timeout": given.timeout, "shots": shots} | of_text | common
            of_server["stop_ids"] = end_ids(source) if source else frozenset()
            model = getattr(given, f"{side}_model")
            engine_pair.append(ServerEngine(name, model, tokenizer=tokenizer, config=config, **of_server))
    return engine_pair


def engines_of(arguments: Sequence[str]) -> list[Engine]:
    """The engines that arguments of this command name, such as ["--small", folder, "--large", folder]: of a threshold
    that was calibrated otherwise, to say what it holds for."""
    return engines(_parser().parse_args(["-", "--tau=0", "--output", "-", *arguments]))


def kind(name: str) -> str:
    """What engine a model's name asks for: "server", "vllm" or "transformers"."""
    if name.startswith(("http://", "https://")):
        return "server"
    return "vllm" if name.startswith(VLLM) else "transformers"


def rows(result: CascadeResult) -> list[dict]:
    """One row a query: who answered what, with S's confidence, and what was paid for it where that is known."""
    table, columns = [], (result.responses, result.deferred.tolist(), result.confidence.tolist(), result.flops)
    for response, deferred, confidence, flops in zip(*columns):
        row = {"item_id": response.item_id, "prediction": response.prediction}
        row |= {"model": "large" if deferred else "small", "confidence": None if confidence == LOWEST else confidence}
        row |= {name: getattr(response, name) for name in MEASURED}
        table.append(row if flops is None else row | {"flops": flops})
    return table


def remarks(result: CascadeResult) -> list[str]:
    """What the answers are like, a line for S and one for L, and what a user must know before believing them."""
    lines = []
    for side, answers in (("S", result.small), ("L", [r for r in result.large if r is not None])):
        counts = {
            "empty": sum(r.empty for r in answers),
            "cut off at --max-new-tokens": sum(r.truncated for r in answers),
            "unfinished": sum(r.unfinished for r in answers),
            "to prompts that were cut": sum(r.prompt_truncated for r in answers),
        }
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "empty")
        lines.append(f"{side}: {len(answers)} answers, {said}")
        if len(answers) > 1 and len(only := {r.prediction for r in answers}) == 1:
            lines.append(f"warning: {side} gives one answer to everything: {brief(only.pop())}")
    if len(result.small) < FEW:
        lines.append(f"warning: fewer than {FEW} queries; a deferral rate or quality on so few says little of others")
    return lines


def run(given: argparse.Namespace) -> str:
    """Answer the file's queries and write the output; returns lines that say what was done, and what to mind."""
    requests = read_requests(given.prompts)
    calibrated = _calibrated(given)
    _check(given, requests)
    output = Path(given.output)
    for path in filter(None, (output, given.save_threshold and Path(given.save_threshold))):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}: make it, or give another place")
    folder = output.with_name(f"{output.name}.run")
    if output.exists() and not (folder / "plan.json").is_file():
        raise ValueError(f"{output} was not written by this command: give another --output, or move it away")
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            begun = (folder / "plan.json").is_file()
            try:
                Store(folder, configuration(given, requests))
            except ValueError as error:
                raise ValueError(f"{output} belongs to another configuration, so nothing was done: {error}") from None
            try:
                cascade = EngineCascade(*engines(given))
                if calibrated:
                    calibrated.check(*cascade.engines.values())
            except BaseException:
                if not begun:  # nothing was answered: a corrected command may have the output
                    (folder / "plan.json").unlink(missing_ok=True)
                raise
            progress = sys.stderr.isatty() or given.progress
            tau = given.tau
            if tau is None:
                small = cascade.answer(requests, "small", progress, folder / "small")
                tau = rate_threshold(confidence_of(small, given.rule, given.defer_empty), given.deferral_rate)
            result = cascade.run(requests, tau, given.rule, progress, folder, defer_empty=given.defer_empty)
            write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(result)))
            if given.save_threshold:
                about = {side: holds_for(engine) for side, engine in cascade.engines.items()}
                share, empty = float(result.deferred.mean()), given.defer_empty
                Threshold(given.rule, tau, len(requests), share, defer_empty=empty, **about).write(given.save_threshold)
    except Timeout:
        raise ValueError(f"{folder} is in use: another process writes {output}") from None
    deferred = int(result.deferred.sum())
    first = f"{len(requests)} answers, {deferred} of them by the large model (tau {tau:.6g}): {output}"
    reasons = dict.fromkeys(engine.unknown_costs for engine in cascade.engines.values())
    unknown = [f"FLOPs unknown, {reason}" for reason in reasons if reason]
    kept = [f"threshold for these models: {given.save_threshold}"] if given.save_threshold else []
    return "\n".join([first, *kept, *unknown, *remarks(result)])


def _calibrated(given: argparse.Namespace) -> Threshold | None:
    """The threshold file of the arguments, whose rule and threshold take their place; None where there is none."""
    found = Threshold.read(given.threshold) if given.threshold else None
    if found is None:
        given.rule = given.rule or "chow_average"
        return None
    if given.save_threshold:
        raise ValueError("--save-threshold goes with --tau or --deferral-rate: --threshold has been saved already")
    if given.rule not in (None, found.rule) or given.defer_empty and not found.defer_empty:
        raise ValueError(
            f"{given.threshold} is for --rule {found.rule}{' --defer-empty' * found.defer_empty}: leave --rule and "
            "--defer-empty to it"
        )
    given.rule, given.tau, given.defer_empty = found.rule, found.tau, found.defer_empty
    return found


def _check(given: argparse.Namespace, requests: list[Request]) -> None:
    """A one-line ValueError for what would be refused after S has answered everything."""
    if given.rule not in ASKED_RULES:
        raise ValueError(f"unknown --rule {brief(given.rule)}{nearest(given.rule, ASKED_RULES)}")
    if given.tau is not None and math.isnan(given.tau):
        raise ValueError("--tau is not a number: give a confidence, or --tau=-inf or --tau=inf")
    rate = given.deferral_rate
    if rate is not None and not (rate == 0 or 1 / len(requests) <= rate <= 1):
        raise ValueError(
            f"--deferral-rate {rate:g}: expected 0, or a share up to 1 that defers at least one of {len(requests)} "
            "queries"
        )
    for side in SIDES:
        if is_cut(name := getattr(given, side)):
            raise ValueError(f"--{side} {brief(name)}: a cut model says nothing before it is trained; give its folder")
    resolve_device(given.device)
    check_requests(requests)


def configuration(given: argparse.Namespace, requests: list[Request]) -> dict:
    """All that the output depends on, as plain JSON; the weights of local models are looked at by the runner."""
    fields = {name: value for name, value in vars(given).items() if name not in (*IGNORED, "progress")}
    fields["tau"] = None if given.tau is None else repr(given.tau)  # an infinity is no JSON
    fields["shots"] = read_shots(given.shots) if given.shots else []
    return fields | {"queries": requests_digest(requests)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cat_core.cascade",
        description="Answer a file of prompts by a cascade: S answers all, L again those that S is unsure of.",
    )
    add = parser.add_argument
    add("prompts", help="JSONL file: prompt, perhaps item_id and options (schema: data/README.md)")
    for side in SIDES:
        add(
            f"--{side}",
            required=True,
            metavar="MODEL",
            help="folder or Hub name; vllm:FOLDER for vLLM on this machine; or a server: http://127.0.0.1:8000/v1",
        )
        add(f"--{side}-model", metavar="NAME", help="the model's name at the server (default: the only one there)")
        files = "of a server's model, folder or Hub name with tokenizer and config.json"
        add(f"--{side}-tokenizer", metavar="FOLDER", help=f"{files}: options can then be scored and FLOPs counted")
    add("--rule", help="deferral rule: a confidence of S (default: chow_average)")
    threshold = parser.add_mutually_exclusive_group(required=True)
    threshold.add_argument("--tau", type=float, help="defer where confidence <= tau")
    threshold.add_argument("--deferral-rate", type=float, metavar="RATE", help="defer at most this share of the file")
    threshold.add_argument("--threshold", metavar="FILE", help="rule and threshold of a file by --save-threshold")
    add("--save-threshold", metavar="FILE", help="write rule, threshold and what they hold for, for --threshold")
    add("--output", required=True, help="JSONL file to write; finished work is kept in OUTPUT.run beside it")
    texts = {f.name: f.metadata["help"] for f in fields(Experiment)}  # what these mean there, they mean here
    default = "(default: %(default)s)"
    add("--max-new-tokens", type=int, default=64, help=f"{texts['max_new_tokens']} {default}")
    add("--prediction", choices=PREDICTIONS, default="sum", help=f"{texts['prediction']} {default}")
    add("--template", choices=TEMPLATES, default="plain", help=f"{texts['template']} {default}")
    add("--stop", action="append", default=[], metavar="TEXT", help="a text that ends an answer; may be given again")
    add("--shots", metavar="FILE", help="JSONL file with prompt and target of examples that stand before each prompt")
    add("--defer-empty", action="store_true", help=texts["defer_empty"])
    add("--batch-tokens", type=int, default=16384, help=f"of local models: {texts['batch_tokens']} {default}")
    add("--truncate-prompts", action="store_true", help=f"of local models: {texts['truncate_prompts']}")
    add("--costs", choices=COSTS, default="formula", help=f"of local models: {texts['costs']} {default}")
    add("--device", default="auto", help=f"of local models: {texts['device']} {default}")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of local models")
    add("--concurrency", type=int, default=8, help="requests to a server at once (default: %(default)s)")
    add("--timeout", type=float, default=600.0, help="seconds to wait for a server (default: %(default)s)")
    add("--progress", action="store_true", help="show a bar even where the output is no terminal")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0, 2 (an error, in one line) or 130 (stopped)."""
    given = _parser().parse_args(arguments)
    return exit_status(lambda: print(run(given), flush=True), EngineError)


if __name__ == "__main__":
    sys.exit(main())
