"""Broken files and parameters by the thousand: every door ends in one clear line, or in a right result.

    python -m tests.fuzz --runs 100000 [--seed 0] [--door NAME]

Each run takes a good input of one door, breaks it (bytes, or a value deep inside), and opens the door. An error must be
of a kind that callers expect, and say something in one line; whatever else is raised is a finding. Doors to stored
results must give back what was stored, or refuse: a part of a file is never taken for the whole.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import math
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from cat_book.build import editions

from cat_core.analysis import outcomes, verdicts
from cat_core.engines.command import read_requests
from cat_core.engines.contract import EngineError
from cat_core.engines.server import ServerEngine
from cat_core.files import Store
from cat_core.queries import Request, check_requests
from cat_core.rules import features, posthoc
from cat_core.studies import study
from cat_core.studies.record import experiment_of
from cat_core.tasks import registry, schema, sources
from cat_core.tasks.suite import load_suite
from cat_core.training import artifacts, teacher
from cat_core.training.experiment import Experiment

EXPECTED = (ValueError, FileNotFoundError, EngineError)
ODD = (
    None, True, False, 0, 1, -1, 2**63, 1e308, -0.5, math.nan, math.inf, "", " ", "x", "\x00", "\ud800", "\u202e",
    "\u00e9" * 40, "yes", "1e-3", "hidden 8, layers 1, heads 2", "a" * 5000, [], [[]], [1, 2], ["a", "a"], {}, {"a": 1},
    {"": None}, "../../etc/passwd", "{0.__class__}", "%s", "2024-99-99", "<script>", "-" * 70,
)  # fmt: skip


@dataclass(frozen=True)
class Door:
    """good: a good input; breaks: (random, input) -> broken; opens: called with it, returns what it read; stored: what
    it must give back unless it refuses (None: any result will do)."""

    good: object
    breaks: Callable
    opens: Callable
    stored: object = None


# ---------------------------------------------------------------- breaking


def broken_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, lost, doubled, inserted or cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 64))
        how = rng.randrange(6)
        if how == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[at : at + size]
        elif how == 2:
            data[at:at] = data[at : at + size]
        elif how == 3:
            data[at:at] = rng.randbytes(size)
        elif how == 4:
            del data[at:]
        else:
            data[at : at + size] = rng.choice(
                (b"\x00", b"\xff", b'"', b"{", b"\n", b": ", b"- ", b"&a *a", b"\xef\xbb\xbf")
            )
    return bytes(data)


def places(value, path=()):
    """The paths of all values inside nested lists and mappings."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*path, i))


def broken_value(rng: random.Random, value):
    """A copy with one value replaced, removed or renamed, somewhere inside."""
    value = copy.deepcopy(value)
    paths = list(places(value))[1:]
    if not paths:
        return rng.choice(ODD)
    *parents, last = rng.choice(paths)
    holder = value
    for key in parents:
        holder = holder[key]
    how = rng.randrange(4)
    if how == 0:
        del holder[last]
    elif how == 1 and isinstance(holder, dict):
        holder[f"{last}{rng.choice(('s', ' ', '_', 'é'))}"] = holder.pop(last)
    else:
        holder[last] = copy.deepcopy(rng.choice(ODD))
    return value


def as_json(value) -> bytes:
    """JSON, as careless programs write it: NaN and lone surrogates as well."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def as_yaml(value) -> bytes:
    """YAML of a value; of what YAML cannot hold, JSON, which it reads as well."""
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return as_json(value)


def lines(rows) -> bytes:
    """JSON lines of a list, JSON of anything else."""
    return b"\n".join(as_json(row) for row in rows) if isinstance(rows, list) else as_json(rows)


def text_of(written: Callable, value) -> Callable:
    """breaks: half of the time the bytes, else a value."""

    def breaks(rng, data):
        return broken_bytes(rng, data) if rng.random() < 0.5 else written(broken_value(rng, value))

    return breaks


# ---------------------------------------------------------------- doors


def doors(folder: Path) -> dict[str, Door]:
    """Every door with a good input; files are written into `folder`."""
    return {
        **_data_doors(folder), **_setting_doors(folder), **_result_doors(folder), **_cache_doors(folder),
        **_cascade_doors(folder),
    }  # fmt: skip


def _file(path: Path, read: Callable) -> Callable:
    def opens(data: bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return opens


def _data_doors(folder: Path) -> dict[str, Door]:
    rows = [
        {"prompt": f"question {i}", "target": ("yes", "no")[i % 2], "options": ["yes", "no"],
         "split": ("train", "calibration", "test")[i % 3], "item_id": f"q{i}", "cluster_id": f"c{i % 6}"}
        for i in range(18)
    ]  # fmt: skip

    spec = {
        "hub_id": "some/set", "splits": {"train": "train", "test": "validation"}, "prompt": "{text}\nIs it?",
        "options": ["yes", "no"], "label": "label", "metric": "accuracy", "licence": "none stated", "url": "https://x.org",
        "variants": {"2": {"test": "other"}}, "skip_labels": [-1], "cluster": "text",
    }  # fmt: skip
    hub = [{"text": f"text {i}", "label": i % 2} for i in range(30)]
    root = folder / "hub" / "some" / "set"

    def hub_task(path):
        registry_file = folder / "task.yaml"
        registry_file.write_bytes(as_yaml(spec))
        (root / "validation.jsonl").write_bytes(lines(hub))
        return registry.load_task(str(registry_file), data_root=folder / "hub")

    def zipped(rng, data):
        if rng.random() < 0.5:
            return broken_bytes(rng, data)
        return gzip.compress(lines(broken_value(rng, rows)), mtime=0)

    return {
        "own JSONL": Door(lines(rows), text_of(lines, rows), _file(folder / "own.jsonl", lambda p: load_suite(str(p)))),
        "own JSONL, gzip": Door(
            gzip.compress(lines(rows), mtime=0), zipped, _file(folder / "own.jsonl.gz", sources.read_examples)
        ),
        "task description": Door(
            as_yaml(spec), text_of(as_yaml, spec), _file(folder / "spec.yaml", registry.read_spec)
        ),
        "rows in Hub layout": Door(lines(hub), text_of(lines, hub), _file(root / "train.jsonl", hub_task)),
    }


def _setting_doors(folder: Path) -> dict[str, Door]:
    project = folder / "project"
    (project / "book" / "params").mkdir(parents=True)
    (project / "data" / "studies").mkdir(parents=True)
    (project / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: 01_page\n")
    (project / "book" / "intro.md").write_text("# Intro\n")
    cell = {
        "cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None,
        "source": 'steps: int = 3  # steps\nsuite: str = "mini"  # suite\nseeds: list = [1]  # seeds\n',
    }  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    page = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (project / "book" / "01_page.ipynb").write_text(json.dumps(page))
    edition = {
        "edition": "e", "description": "x", "needs": {"core_seconds": 1, "memory_gib": 1, "disk_gib": 1},
        "defaults": {"steps": 4},
        "pages": {"01_page": {"core_seconds": 1, "parameters": {"suite": "mini-wmt", "seeds": [1, 2]}}},
    }  # fmt: skip
    plan = {
        "study": "s", "description": "x", "methods": ["xent", "cat-dist"], "seeds": [1, 2], "large_seeds": [1],
        "texts": False, "learned_rules": ["xent"],
        "cells": {
            "a": {"claim": "C1", "suite": "mini-wmt", "suite_options": {"train": 20},
                  "small": "hidden 8, layers 1, heads 2", "large": "hidden 8, layers 1, heads 2", "steps": 3,
                  "large_steps": 3, "learning_rate": 0.01, "large_learning_rate": 0.01},
        },
    }  # fmt: skip
    parameters = {key: value for key, value in plan["cells"]["a"].items() if key != "claim"} | {
        "methods": ["xent"], "seeds": [1], "large_seeds": [1], "vocab_size": 300, "context": 32, "normalize": "tokens",
        "label_weight": 0.5, "temperature": 1.0, "batch_size": 8, "precision": "fp32", "device": "cpu",
        "teacher": "topk",
    }  # fmt: skip

    def read_study(_):
        return [experiment_of(cell) for cell in study.load_study("s", project).cells.values()]

    def experiment(given):
        if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
            raise ValueError("no parameters")
        return Experiment.of(**given)

    return {
        "edition": Door(
            as_yaml(edition), text_of(as_yaml, edition),
            _file(project / "book" / "params" / "e.yml", lambda _: editions.load_edition(project, "e")),
        ),
        "notebook": Door(
            as_json(page), text_of(as_json, page),
            _file(folder / "page" / "01_page.ipynb", editions.declared_parameters),
        ),
        "study": Door(
            as_yaml(plan), text_of(as_yaml, plan), _file(project / "data" / "studies" / "s.yaml", read_study)
        ),
        "parameters of an experiment": Door(parameters, broken_value, experiment),
    }  # fmt: skip


def _result_doors(folder: Path) -> dict[str, Door]:
    rows = {
        "edition": "e", "suite": "s", "task": "t", "metric": "accuracy", "split": "test", "cluster_id": "c", "seed": 1,
        "prediction": "yes", "target": "no", "n_prompt": 3, "n_generated": 1, "truncated": False, "flops": 10,
        **{f"confidence_{rule}": -0.25 for rule in ("chow_sum", "chow_average", "chow_quantile_0")},
        "confidence_option_probability": 0.5, "confidence_option_margin": 0.1,
    }  # fmt: skip
    import pandas as pd

    table = pd.DataFrame(
        [rows | {"item_id": f"i{i}", "method": m, "model": s, "quality": q}
         for i in range(20) for m, s, q in (("xent", "small", i % 2), ("large", "large", 1.0))]
    )  # fmt: skip
    path = folder / "good.parquet"
    outcomes.write_outcomes(path, table)
    stored = outcomes.read_outcomes(path)

    def cells(rng, data):
        if rng.random() < 0.6:
            return broken_bytes(rng, data)
        frame = stored.copy()
        column = rng.choice(list(frame.columns))
        how = rng.randrange(4)
        if how == 0:
            frame = frame.drop(columns=column)
        elif how == 1:
            frame = frame.rename(columns={column: column + "x"})
        elif how == 2:
            frame = pd.concat([frame, frame.iloc[: rng.randrange(1, 5)]])
        else:
            frame[column] = frame[column].astype(object)
            frame.iat[rng.randrange(len(frame)), frame.columns.get_loc(column)] = rng.choice(ODD)
        sink = io.BytesIO()
        try:
            pq.write_table(pa.Table.from_pandas(frame), sink)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):  # Parquet cannot hold it
            return broken_bytes(rng, data)
        return sink.getvalue()

    claim = {
        "claim": "C1", "measure": "m", "direction": 1, "number": {"estimate": 0.1, "low": 0.0, "high": 0.2}, "n": 9,
        "seeds": 3, "large_seeds": 2, "role": "primary", "mass": 0.2, "level": 0.95, "scale": 100.0, "suite": "s",
    }  # fmt: skip
    page = {"page": "p", "metrics": {"metric": "accuracy", "claims": [claim, claim | {"role": "control"}]}}
    entries = folder / "run" / "metrics" / "p.json"
    record = {"study": "s", "cells": {"a": {"config": {}, "files": {}}}}

    def read_claims(_):
        found = verdicts.read_entries(folder / "run")
        return [verdicts.verdict_of(claim, found) for claim in verdicts.CLAIMS]

    return {
        "outcome table": Door(path.read_bytes(), cells, _file(folder / "table.parquet", outcomes.read_outcomes)),
        "metrics of a page": Door(as_json(page), text_of(as_json, page), _file(entries, read_claims)),
        "record of a study": Door(
            as_json(record), text_of(as_json, record),
            _file(folder / "record" / "study.json", lambda p: study.read_record(p.parent)),
        ),
    }  # fmt: skip


def _same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return a == b


def _cache_doors(folder: Path) -> dict[str, Door]:
    cache = teacher.TeacherCache
    at = folder / "cache"
    writer = teacher.CacheWriter(
        at,
        {"correct": (torch.bool, (40,)), "offsets": (torch.int64, (11,)), "states": (torch.float32, (40, 4)),
         "head": (torch.float32, (30, 4))},
        {"mode": "hidden", "temperature": "1.0", "data": "abc"},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    writer.tensors["correct"].copy_(torch.rand(40, generator=generator) < 0.5)
    writer.tensors["offsets"].copy_(torch.arange(0, 44, 4))
    writer.tensors["states"].copy_(torch.randn(40, 4, generator=generator))
    writer.tensors["head"].copy_(torch.randn(30, 4, generator=generator))
    made = writer.close()

    def read_cache(_):
        found = cache.load(at, data="abc")
        return {name: getattr(found, name).clone() for name in ("correct", "offsets", "states", "head")}

    answers = features.AnswerFeatures(
        tuple("abc"), np.zeros(3, np.float32),
        *(np.random.default_rng(0).random((3, n), dtype=np.float32) for n in (11, 4, 4, 5)),
        np.ones((6, 11), np.float32), np.array([0, 2, 4, 6]), np.array([7, 8, 9]), np.array([1, 2, 3]),
    )  # fmt: skip
    answers.save(folder / "features")

    def read_features(path):
        return dict(vars(features.AnswerFeatures.load(path.parent)))

    store = Store(folder / "store", {"run": 1})
    store.save(0, [{"answer": "x", "tokens": [1, 2]}])

    def read_store(_):
        found = Store(folder / "store", {"run": 1}).load(0)
        return "again" if found is None else found

    artifact = artifacts.obtain("thing", {"a": 1}, (), lambda f: (f / "x.txt").write_text("content") and {"n": 1})

    def read_artifact(_):
        made = artifacts.obtain("thing", {"a": 1}, (), lambda f: (f / "x.txt").write_text("content") and {"n": 1})
        return (made / "x.txt").read_text(), artifacts.result(made)

    def door(path: Path, read) -> Door:
        good = path.read_bytes()
        return Door(good, broken_bytes, _file(path, read), stored=read(path))

    rule_file = folder / "rule" / "rule.json"
    from cat_core.rules.fitting import FitSettings, LearnedRule

    net = posthoc.Perceptron(11, 1, torch.Generator().manual_seed(0))
    LearnedRule("post_hoc_quantile", net.eval(), -1.0, 11, FitSettings(), 0).save(folder / "rule")

    def read_rule(_):
        rule = posthoc.load_rule(folder / "rule")
        return {"kind": rule.kind, "sign": rule.sign, "inputs": rule.inputs, **rule.net.state_dict()}

    return {
        "teacher cache": door(made / "states.npy", read_cache),
        "teacher cache, record": door(made / teacher.RECORD, read_cache),
        "features": door(folder / "features" / "features.safetensors", read_features),
        "features, names": door(folder / "features" / "features.json", read_features),
        "stored answers": door(folder / "store" / "batch_000000.json", read_store),
        "artifact": door(artifact / "x.txt", read_artifact),
        "artifact, record": door(artifact / artifacts.RECORD, read_artifact),
        "learned rule": door(rule_file, read_rule),
        "learned rule, weights": door(folder / "rule" / "rule.safetensors", read_rule),
    }


class Replies(ServerEngine):
    """The client of a server that has answered with `reply`, whatever was asked."""

    def __init__(self, reply):
        self.reply = reply
        super().__init__("http://127.0.0.1:9/v1", concurrency=1)

    def _send(self, path, body):
        if body is None:
            return {"data": [{"id": "x"}]}
        return self.reply


def _cascade_doors(folder: Path) -> dict[str, Door]:
    rows = [{"item_id": f"q{i}", "prompt": f"question {i}", "options": ["yes", "no"] * (i % 2)} for i in range(6)]
    columns = {"tokens": ["a", "b"], "token_logprobs": [-0.5, -0.25], "top_logprobs": [{"a": -0.5, "c": -1.5}] * 2}
    content = [{"id": 5, "token": "a", "logprob": -0.5, "top_logprobs": [{"logprob": -0.5}, {"logprob": -2.0}]}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    first = {"choices": [{"text": "a b", "finish_reason": "stop", "logprobs": columns}], "usage": usage}
    other = {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"content": content}}]}

    def answered(reply):
        return Replies(reply).answer([Request("q", "a question")])

    return {
        "prompts of the command": Door(
            lines(rows), text_of(lines, rows), _file(folder / "p.jsonl", lambda p: check_requests(read_requests(p)))
        ),
        "reply of a server, columns": Door(first, broken_value, answered),
        "reply of a server, rows": Door(other, broken_value, answered),
    }


# ---------------------------------------------------------------- running


def complaint(error: Exception) -> str:
    """What is wrong with an error, "" if nothing is: an expected kind, one line, not endless."""
    if not isinstance(error, EXPECTED):
        return f"{type(error).__name__} from the depths: {str(error)[:200]!r}"
    lines = str(error).strip().split("\n")
    if not lines[0] or (len(lines) > 1 and not isinstance(error, schema.SchemaError)):
        return f"{len(lines)} lines: {str(error)[:200]!r}"
    return f"a line of {len(str(error))} characters" if max(map(len, lines)) > 1_500 else ""


def fuzz(runs: int, seed: int, names=(), folder: Path | None = None) -> dict[str, dict]:
    """By door: how many runs read something, were refused, and the findings (run number and what was wrong)."""
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = doors(folder or Path(temporary))
        chosen = {name: door for name, door in known.items() if not names or name in names}
        found = {name: {"read": 0, "refused": 0, "findings": []} for name in chosen}
        for name, door in chosen.items():
            door.opens(door.good)
            for run in range(-(-runs // len(chosen))):
                rng = random.Random(f"{seed} {name} {run}")
                given = door.breaks(rng, door.good)
                try:
                    result = door.opens(given)
                except Exception as error:  # the point of it: whatever comes is looked at
                    wrong = complaint(error)
                    found[name]["refused"] += 1
                else:
                    found[name]["read"] += 1
                    wrong = ""
                    if door.stored is not None and result != "again" and not _same(door.stored, result):
                        wrong = "took something else for what was stored"
                if wrong:
                    found[name]["findings"].append((run, wrong))
            door.opens(door.good)  # doors share folders
        return found


def main(arguments=None) -> int:
    """The command line; returns 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", default=[])
    options = parser.parse_args(arguments)
    began = time.time()
    found = fuzz(options.runs, options.seed, options.door)
    for name, result in found.items():
        kinds = Counter(what for _, what in result["findings"])
        print(f"{name}: {result['read']} read, {result['refused']} refused, {len(result['findings'])} findings")
        for what, count in kinds.most_common(5):
            first = next(run for run, said in result["findings"] if said == what)
            print(f"    {count} x {what} (first: run {first})")
    total = sum(r["read"] + r["refused"] for r in found.values())
    print(f"{total} runs in {time.time() - began:.0f} s")
    return int(any(r["findings"] for r in found.values()))


if __name__ == "__main__":
    sys.exit(main())
