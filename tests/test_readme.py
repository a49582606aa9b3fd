"""The README: its Python runs, and what it names exists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cat_book.build.editions import declared_parameters, edition_names
from cat_book.pages import benchmark_report, claims_report, study_report

from cat_core.analysis import verdicts

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    ((?:make|papermill|python|conda) .*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)


def run(source, folder):
    """Run a piece of Python by itself, from a folder outside the project; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CAT_ARTIFACTS": str(folder / "artifacts")}
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", source]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def made(what):
    """The lines that the library wrote."""
    return re.search(rf"^<!-- {what}: .* -->\n(.*?)\n<!-- end of {what} -->$", TEXT, re.DOTALL | re.MULTILINE)[1]


def test_the_loss_example_runs(tmp_path):
    found = re.fullmatch(r"loss \d+\.\d+, kept (\d+) of (\d+) tokens\n", run(PYTHON[0], tmp_path))
    assert 0 <= int(found[1]) <= int(found[2]) == 14


@pytest.mark.slow
def test_the_experiment_example_runs(tmp_path):
    printed = run(PYTHON[1], tmp_path)
    found = re.search(r"area under the curve (\S+)\ndeferred (\d+)%, ([\d,]+) FLOPs", printed)
    area, share, cost = float(found[1]), int(found[2]), int(found[3].replace(",", ""))
    assert 0 < area < 1 and 0 < share < 100 and cost > 0
    assert list((tmp_path / "artifacts").glob("model-*"))


def test_every_python_block_is_tested():
    assert len(PYTHON) == 2


def test_linked_files_exist():
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if not link.startswith("https://")]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_commands_name_what_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"make book", "make test"} <= set(COMMANDS)
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "make":
            assert words[1] in targets, command
        if words[0] == "papermill":
            declared = declared_parameters(ROOT / words[1])
            for flag, name in zip(words, words[1:]):
                assert flag != "-p" or name in declared, f"{command}: the page has no parameter {name}"


def test_layout_names_what_exists():
    folders = re.findall(r"^    ([a-z_]+)/ {2,}", TEXT, re.MULTILINE)
    assert set(folders) == {"benchmarks", "book", "cat_core", "data", "papermill_runs", "tests", "_build"}
    assert all((ROOT / folder).is_dir() for folder in folders if folder != "_build")
    told = TEXT.split("## What you get")[1].split("##")[0]
    pages = re.findall(r"`(intro(?:_ja)?|about|teach|\d\d_[a-z0-9_]+)`", told)
    toc = re.findall(r"(?:root|file): (\S+)", (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    assert set(pages) == set(toc) - {"glossary", "references"}


def test_every_core_module_and_every_room_has_its_line():
    listed = TEXT.split("## What lies where")[1].split("How to help")[0]
    doors = {"study", "runs", "bootstrap", "pairs"}
    core = {path.stem for path in (ROOT / "cat_core").glob("*.py")} - {"__init__", *doors}
    rooms = {path.parent.relative_to(ROOT).as_posix() for top in ("cat_core", "book/cat_book")
             for path in (ROOT / top).glob("*/__init__.py")}  # fmt: skip
    assert set(re.findall(r"^\| `([a-z_/]+)` \|", listed, re.MULTILINE)) == core | rooms


def test_named_edition_exists():
    assert "quick" in edition_names(ROOT)


def test_the_ratios_are_those_of_the_committed_benchmarks():
    assert made("benchmarks") == benchmark_report.markdown(benchmark_report.results("loss", ROOT))


def test_the_verdicts_are_those_of_the_recorded_studies():
    heard = declared_parameters(ROOT / "book" / "10_claims.ipynb")["studies"].default
    cells, _ = study_report.recorded(heard, root=ROOT)
    assert made("verdicts") == claims_report.markdown(
        verdicts.read_entries(*dict.fromkeys(cell.folder for cell in cells))
    )
