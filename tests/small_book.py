"""A project in miniature for tests of the driver: small notebooks and the real configuration.

The code is copied, because digests cover what a page imports: pages would run again whenever a module is edited
while the tests run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
EDITION = """edition: quick
description: a small edition
needs: {core_seconds: 10, memory_gib: 0.5, disk_gib: 0.1}
defaults: {steps: 3}
pages:
  02_second: {core_seconds: 5, parameters: {rate: 0.5}}
"""


def markdown(source):
    return nbformat.v4.new_markdown_cell(source)


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def write_notebook(path, *cells):
    notebook = nbformat.v4.new_notebook(cells=list(cells), metadata=KERNEL)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    nbformat.write(notebook, path)


FIRST = (
    markdown("(first)=\n# First\n\nLet $x^2$ be; see {ref}`second` and {cite}`someone2024`."),
    code('steps: int = 10  # how many\nname: str = "a"\noutput_dir: str = "."', "parameters"),
    code('print(f"{steps} {name} {output_dir}")'),
)
SECOND = (
    markdown("(second)=\n# Second"),
    code(
        "rate: float = 1.0  # of learning\nsteps: int = 10\nseeds: list = [1, 2]\nedition: str = 'none'",
        "parameters",
    ),
    code("import os\nprint('threads', os.environ['OMP_NUM_THREADS'], 'in', os.getcwd())"),
    code("print(f'rate {rate} {edition}')\n'<b>bold</b>'", "remove-output"),
)


def make_project(folder, edition=EDITION, first=FIRST, second=SECOND):
    """Write the project into `folder`; returns it."""
    params = folder / "book" / "params"
    params.mkdir(parents=True)
    copy_code(folder)
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: 01_first\n- file: 02_second\n"
    )
    (folder / "book" / "intro.md").write_text("# Intro\n\n```{bibliography}\n```\n")
    (folder / "book" / "references.bib").write_text(
        "@article{someone2024, author={A. Someone}, title={On things}, journal={J}, year={2024}}\n"
    )
    write_notebook(folder / "book" / "01_first.ipynb", *first)
    write_notebook(folder / "book" / "02_second.ipynb", *second)
    (params / "quick.yml").write_text(edition)
    return folder


def copy_code(folder):
    """The library and the book's own code, copied into `folder`."""
    for name in ("cat_core", "book/cat_book"):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)


def copy_project(root):
    """The real book, its library and data, copied into `root`."""
    for name in ("book", "cat_core", "data"):
        shutil.copytree(ROOT / name, root / name, ignore=IGNORED)
    shutil.copy(ROOT / "_config.yml", root)


def put_pair(models):
    """Leave in a folder of models what makes pair smollm2-cut one that was fetched; it can be named, not loaded."""
    folder = models / "HuggingFaceTB--SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    (folder / "origin.json").write_text("{}")


def environment():
    """That of this process, with nothing that would bring another cat_core in."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def command(*arguments):
    return [sys.executable, "-m", "cat_core.runs", *arguments]


def runs(folder, *arguments, status=0, seconds=300):
    """Run `python -m cat_core.runs ...` in `folder`; returns its output after checking the exit status."""
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def alive(pid):
    """True if a process runs (a zombie, which nobody has waited for yet, does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
