"""The command line of the task registry: `python -m cat_core.tasks`.

    python -m cat_core.tasks                             all tasks: kind, metric, rows, licence, and which are there
    python -m cat_core.tasks show TASK                   all that is known of one, and two of its examples
    python -m cat_core.tasks check --data-root DIR       the files of a folder against the entries
    python -m cat_core.tasks mirror TASK... --to DIR     rows from the Hub into a folder, with revisions and checksums
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from cat_core.tasks.check import checked, strangers
from cat_core.tasks.entries import TaskSpec
from cat_core.tasks.example import _chosen_split
from cat_core.tasks.mirror import mirror
from cat_core.tasks.registry import find_task, mixtures, place_of, task_names
from cat_core.tasks.rendering import Renderer
from cat_core.tasks.shell import exit_status
from cat_core.tasks.sources import folder_of, has_rows, hub_rows


def kind(spec: TaskSpec) -> str:
    """What is asked for, in one word."""
    if spec.metric == "accuracy":
        return "choice"
    return "translation" if spec.metric == "bleu" else "formatting" if spec.of_any_text else "generation"


def table(root: str) -> str:
    """All tasks, a line each, and the mixtures."""
    lines = [("task", "kind", "metric", "train", "test", "here" if root else "", "licence")]
    for name in task_names():
        _, spec = find_task(name)
        there = [split for split in spec.splits if root and has_rows(place_of(spec, split), root)]
        here = "yes" if len(there) == len(spec.splits) else " ".join(there)
        train, test = (f"{spec.sizes[s]:,}" if s in spec.sizes else "?" * (s in spec.splits) for s in ("train", "test"))
        lines.append((name, kind(spec), spec.metric, train, test, here, spec.licence))
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = ["  ".join([*(cell.rjust(w) if i in (3, 4) else cell.ljust(w) for i, (cell, w) in
                           enumerate(zip(line, widths[:-1]))), line[-1]]).rstrip() for line in lines]  # fmt: skip
    return "\n".join([*aligned, "", *(f"{name}: {len(tasks)} tasks" for name, tasks in mixtures().items())])


def card(source: str, root: str) -> str:
    """All that is known of a task, and two of its test items, in the first and in the second template."""
    name, spec = find_task(source)
    facts = [("task", f"{name} ({kind(spec)})"), ("citation", spec.citation), ("licence", spec.licence)]
    facts += [("url", spec.url)]
    for split in spec.splits:
        place, size = place_of(spec, split), spec.sizes.get(split)
        loader = f" through {place.loader}" if place.loader else ""
        facts.append((split, f"{place}{loader}" + (f", {size:,} rows" if size else "")))
    facts += [
        ("metric", ", ".join([spec.metric + f" (tokenizer {spec.tokenize})" * bool(spec.tokenize), *spec.also])),
        ("options", ", ".join(spec.options) or spec.options_field),
        ("golds", spec.references_field or spec.target or spec.label),
        ("fields", ", ".join(spec.fields)),
        ("cluster", spec.cluster),
        ("steps", ", ".join(spec.preprocess)),
        ("templates", str(len(spec.patterns))),
        ("in", ", ".join(n for n, tasks in mixtures().items() if name in {t.split("@")[0] for t in tasks})),
        ("note", spec.note),
    ]
    lines = [line for key, value in facts if value
             for line in wrap(value, 118, initial_indent=f"{key:<12}", subsequent_indent=" " * 12)]  # fmt: skip
    if not root or not has_rows(place_of(spec, "test"), root):
        where = f"not in {root}" if root else "no folder given"
        return "\n".join([*lines, "", f"No examples: {where} (--data-root, or CAT_DATA_ROOT)."])
    rows = hub_rows(**vars(place_of(spec, "test")), data_root=root)
    for number, pattern in enumerate(spec.patterns[:2]):
        first = {"prompt": pattern.prompt, "target": pattern.target or spec.target, "templates": []}
        one = spec.model_copy(update=first)
        examples = Renderer(name, one).examples("test", rows[: 10 * (number + 1)])
        example = examples[min(number, len(examples) - 1)]
        lines += ["", f"--- {example.item_id}, template {number + 1}", example.prompt, "--- right"]
        lines += [*example.right_answers, *(f"(other: {o})" for o in example.options if o not in example.right_answers)]
    return "\n".join(lines)


def _check(root: str, names: Sequence[str]) -> int:
    """Print the findings; 1 where there is a fault."""
    if not root:
        raise ValueError("no folder to check: give --data-root, or CAT_DATA_ROOT")
    faults = tasks = 0
    for found in checked(root, names):
        for fault in found.faults:
            print(f"FAULT {fault}", flush=True)
        if found.splits:
            print(found.line, flush=True)
        faults += len(found.faults)
        tasks += bool(found.splits or found.faults)
    for path in strangers(root) if not names else ():
        print(f"no task reads {path}")
    print(f"{tasks} tasks, {faults} faults")
    return int(faults > 0)


def _expanded(names: Sequence[str]) -> list[str]:
    known = mixtures()
    return [_chosen_split(task)[0] for name in names for task in known.get(name, [name])]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, 1 (a fault in the data), 2 (an error, in one line) or 130 (stopped)."""
    parser = argparse.ArgumentParser(prog="python -m cat_core.tasks", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    listing = commands.add_parser("list", help="all tasks and mixtures (so without a command)")
    showing = commands.add_parser("show", help="all that is known of a task, and two of its examples")
    showing.add_argument("task", help="a name that list gives, or the path of a .yaml file")
    checking = commands.add_parser("check", help="hold the files of a folder against the entries")
    checking.add_argument("tasks", nargs="*", metavar="TASK", help="only these tasks or mixtures; they must be there")
    getting = commands.add_parser("mirror", help="write the rows of tasks into a folder; goes on if stopped")
    getting.add_argument("tasks", nargs="+", metavar="TASK", help="tasks, or mixtures such as superglue")
    getting.add_argument("--to", required=True, metavar="DIR", help="the folder to write to")
    for command in (listing, showing, checking, getting):
        command.add_argument("--data-root", default="", metavar="DIR",
                             help="folder in Hub layout to read from; default: CAT_DATA_ROOT")  # fmt: skip
    options = parser.parse_args(arguments)
    return exit_status(lambda: _run(options), ImportError)


def _run(options: argparse.Namespace) -> int:
    root = folder_of(getattr(options, "data_root", ""))
    if options.command == "check":
        return _check(root, _expanded(options.tasks))
    if options.command == "mirror":
        mirror(_expanded(options.tasks), Path(options.to), data_root=root, say=lambda line: print(line, flush=True))
    else:
        print(card(options.task, root) if options.command == "show" else table(root))
    return 0
