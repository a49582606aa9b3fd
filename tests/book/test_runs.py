"""The driver with real kernels and a real Jupyter Book: runs, skips, variants, failures, kills, builds."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import time

import nbformat
import psutil
import pytest
import yaml
from browser import browser_session
from cat_book.build import overlay, page
from cat_book.build.driver import Display, minutes, usable_cores
from cat_book.build.editions import EditionError
from cat_book.build.manifest import read_manifest, tables
from cat_book.build.overlay import clean_notebook, complaints, without_missing_results
from cat_book.build.page import Reports, last_line, run_page
from cat_book.build.runs import main
from filelock import FileLock
from small_book import (
    EDITION,
    FIRST,
    ROOT,
    alive,
    code,
    command,
    environment,
    make_project,
    markdown,
    runs,
    write_notebook,
)

WAITS = (
    markdown("(second)=\n# Second"),
    code("steps: int = 1", "parameters"),
    code("total = 0"),
    code(
        "import os, pathlib, subprocess, sys, time\n"
        "print('half way')\n"
        "if not pathlib.Path('go').exists():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "    pathlib.Path('pids.tmp').write_text(f'{os.getpid()} {os.getppid()} {child.pid}')\n"
        "    os.replace('pids.tmp', 'pids')\n"
        "    time.sleep(300)\n"
        "print('threads', os.environ['OMP_NUM_THREADS'])"
    ),
)
WAITING_EDITION = EDITION.replace("{rate: 0.5}", "{steps: 2}")


def manifest(root, name="quick"):
    return json.loads((root / "papermill_runs" / name / "manifest.json").read_text())


def printed(root, page, name="quick"):
    """What the executed copy of a page has printed."""
    notebook = nbformat.read(root / "papermill_runs" / name / f"{page}.ipynb", 4)
    outputs = [each for cell in notebook.cells if cell.cell_type == "code" for each in cell.outputs]
    return "".join(each.get("text", "") for each in outputs)


def start(root, *arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds=60):
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        time.sleep(0.05)
    return False


def waiting_pids(root):
    """Kernel, page process and the kernel's own child, once the waiting page has got there."""
    assert wait_for((root / "pids").is_file)
    return [int(pid) for pid in (root / "pids").read_text().split()]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A project that `book` has run and built once, and what that printed."""
    root = make_project(tmp_path_factory.mktemp("book"))
    (root / "papermill_runs" / "quick").mkdir(parents=True)
    (root / "papermill_runs" / "quick" / "first_outcomes.parquet").write_bytes(b"rows")
    return root, runs(root, "book", "--edition", "quick")


def test_book_runs_and_builds(book):
    root, output = book
    assert "2 of 2 pages to run" in output and "Needs about" in output and "0.5 GiB of memory" in output
    assert output.index("02_second        started") < output.index("01_first         started"), "heavy pages first"
    assert str(root / "_build" / "html" / "index.html") in output and " in all." in output
    assert printed(root, "01_first") == "3 a papermill_runs/quick\n"
    second = printed(root, "02_second")
    assert f"in {root}" in second and "rate 0.5 quick" in second


def test_manifest_says_what_was_run(book):
    root, _ = book
    content = manifest(root)
    first, second = content["pages"]["01_first"], content["pages"]["02_second"]
    assert second["parameters"] == {"rate": 0.5, "steps": 3, "seeds": [1, 2], "edition": "quick"}
    assert second["seeds"] == {"seeds": [1, 2]} and first["seeds"] == {}
    assert first["tables"] == {"first_outcomes.parquet": hashlib.sha256(b"rows").hexdigest()}
    assert second["tables"] == {} and content["unfinished"] == {}
    assert first["versions"]["torch"] and first["versions"]["python"] and first["device"]
    assert first["cores"] == usable_cores() and first["threads"] == 1 and first["started"] <= first["finished"]
    copy = (root / "papermill_runs" / "quick" / "01_first.ipynb").read_bytes()
    assert first["copy_sha256"] == hashlib.sha256(copy).hexdigest()
    left = {path.name for path in (root / "papermill_runs" / "quick").iterdir()} - {".lock"}
    assert left == {"01_first.ipynb", "02_second.ipynb", "manifest.json", "first_outcomes.parquet"}


def test_unchanged_book_is_skipped_quickly(book):
    root, _ = book
    index = root / "_build" / "html" / "index.html"
    before = (index.stat().st_mtime_ns, manifest(root))
    started = time.monotonic()
    output = runs(root, "book")
    assert time.monotonic() - started < 5
    assert "0 of 2 pages to run, 2 unchanged." in output and "unchanged: " in output
    assert (index.stat().st_mtime_ns, manifest(root)) == before


def test_list_shows_parameters_with_help_and_state(book):
    root, _ = book
    output = runs(root, "list")
    assert "quick: a small edition" in output and "01_first: up to date" in output
    assert "steps = 3 (page's own: 10)  # how many" in output and "name = 'a'\n" in output
    assert "error: unknown edition 'qick'; did you mean 'quick'?" in runs(root, "list", "--edition", "qick", status=2)


def test_html_is_built_from_copies_without_what_it_must_not_show(book):
    root, _ = book
    html = root / "_build" / "html"
    first, second = ((html / f"{page}.html").read_text() for page in ("01_first", "02_second"))
    assert "3 a papermill_runs/quick" in first
    assert "rate 0.5 quick" not in second, "output of a cell tagged remove-output"
    for text in (first, second):
        assert "http://" not in text and "https://" not in text
    assert (root / "book" / "cat_book").is_dir() and not (root / "_build" / "src" / "cat_book").exists()


def test_maths_is_set_without_a_network(book):
    root, _ = book
    with browser_session() as browser:
        with browser.open(root / "_build" / "html" / "01_first.html") as page:
            page.raw.wait_for_selector("mjx-container svg, mjx-container mjx-math", timeout=20000)
            assert page.requests, "requests are recorded"
        assert browser.foreign_requests == []


def test_executed_copy_that_was_tampered_with_is_run_again(book, tmp_path):
    root, _ = book
    copy = root / "papermill_runs" / "quick" / "01_first.ipynb"
    kept = copy.read_bytes()
    copy.write_bytes(kept[: len(kept) // 2])
    assert "not run" in runs(root, "list") and "not run in edition 'quick': 01_first" in runs(root, "build", status=2)
    copy.write_bytes(kept)
    assert "not run" not in runs(root, "list")


def finished(root, name, page, source="x"):
    """An executed copy of a page in an edition's folder, and the manifest's entry on it."""
    folder = root / "papermill_runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    cells = (markdown(f"({page})=\n# {source}\n\n{{glue:text}}`n`"), code("steps: int = 1", "parameters"))
    write_notebook(folder / f"{page}.ipynb", *cells)
    entry = {"copy_sha256": hashlib.sha256((folder / f"{page}.ipynb").read_bytes()).hexdigest()}
    content = read_manifest(root, name) | {"overrides": ["steps=8"] if "+" in name else []}
    content["pages"][page] = entry
    (folder / "manifest.json").write_text(json.dumps(content))


def built(root, monkeypatch, capsys, *arguments):
    """What `build` hands to Jupyter Book as text by name, what it prints, and its status."""
    handed = {}

    def take(root, folder, files, force):
        handed.update({name: data.decode() for name, data in files.items() if name.endswith((".ipynb", ".yml"))})
        return folder / "index.html", False

    monkeypatch.chdir(root)
    monkeypatch.setattr(overlay, "build", take)
    status = main(["build", *arguments])
    said = capsys.readouterr()
    return handed, said.out + said.err, status


def test_pages_that_a_variant_has_not_run_come_from_its_edition(tmp_path, monkeypatch, capsys):
    root = make_project(tmp_path)
    finished(root, "quick+more", "01_first", "of the variant")
    handed, said, status = built(root, monkeypatch, capsys, "--edition", "quick+more")
    assert status == 0 and "Without results, as neither has run them: 02_second" in said
    assert "has not been run in edition" in handed["02_second.ipynb"] and "of the variant" in handed["01_first.ipynb"]
    finished(root, "quick", "01_first", "of the edition")
    finished(root, "quick", "02_second", "of the edition")
    handed, said, status = built(root, monkeypatch, capsys, "--edition", "quick+more")
    assert status == 0 and "From edition 'quick', as the variant has not run them: 02_second" in said
    second = handed["02_second.ipynb"]
    assert "of the edition" in second and "Variant `quick+more` has not run this page" in second
    assert "{glue:text}`n`" in second, "its numbers are there"
    assert "of the variant" in handed["01_first.ipynb"] and "has not run this page" not in handed["01_first.ipynb"]
    original = handed["01_first_quick.ipynb"]  # below the variant's own page, under a name and labels of its own
    assert "of the edition" in original and "The original, of edition `quick`" in original
    toc = yaml.safe_load(handed["_toc.yml"])["chapters"]
    assert toc[0] == {"file": "01_first", "sections": [{"file": "01_first_quick"}]} and "sections" not in toc[1]


def test_an_original_has_labels_of_its_own(tmp_path):
    text = (
        "(first)=\n# First\n\n(as {ref}`first` says)\n\n```{exercise} E\n:label: first-e\n```\n\n"
        "```{solution-start} first-e\n```"
    )
    write_notebook(tmp_path / "copy.ipynb", markdown(text), code("# no title"))
    toc = b"parts:\n- chapters:\n  - file: 01_first\n    sections: [{file: more}]\n"
    found = overlay.with_originals({"_toc.yml": toc}, {"01_first": tmp_path / "copy.ipynb"}, "quick")
    assert [e["file"] for e in yaml.safe_load(found["_toc.yml"])["parts"][0]["chapters"][0]["sections"]] == [
        "01_first_quick", "more",
    ]  # fmt: skip
    source = "".join(json.loads(found["01_first_quick.ipynb"])["cells"][0]["source"])
    for line in ("(first-quick)=", "# First (quick)", "(as {ref}`first` says)", ":label: first-e-quick",
                 "```{solution-start} first-e-quick"):  # fmt: skip
        assert line in source.splitlines()


def test_an_edition_itself_is_not_built_in_parts_unasked(tmp_path, monkeypatch, capsys):
    root = make_project(tmp_path)
    finished(root, "quick", "01_first")
    handed, said, status = built(root, monkeypatch, capsys)
    assert status == 2 and not handed and "not run in edition 'quick': 02_second; run them with" in said


def paired(tmp_path, monkeypatch):
    """A project whose first page takes the models of the edition's pair, on a machine that can fetch nothing."""
    text = EDITION.replace("defaults:", "pair: smollm2-cut\nwithout_pair: {defaults: {large: hidden 8}}\ndefaults:")
    cell = code('suite: str = ""  # data\nlarge: str = "none"  # L', "parameters")
    first = (FIRST[0], cell, code("print('L is', large)"))
    root = make_project(tmp_path, text.replace("disk_gib: 0.1", "disk_gib: 0.1, download_mb: 93"), first)
    (root / "data").mkdir(exist_ok=True)
    shutil.copy(ROOT / "data" / "pairs.yaml", root / "data")
    for name, value in {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "CAT_MODELS": str(tmp_path / "models")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return root


@pytest.mark.slow
def test_a_pair_that_cannot_be_fetched_gives_way_and_the_page_says_so(tmp_path, monkeypatch):
    root = paired(tmp_path, monkeypatch)
    said = runs(root, "run", "--page", "01")
    assert "Pair 'smollm2-cut' is fetched first, once (about 93 MB)." in said
    assert "without pair 'smollm2-cut' the pages train one from scratch in its place" in said
    assert printed(root, "01_first") == "L is hidden 8\n"
    said = runs(root, "book", "--pair", "smollm2-base-cut", status=2)  # asked for by name: nothing takes its place
    first, last = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "SmolLM2-135M" in first and last == "error: without the models of pair 'smollm2-base-cut' nothing was run"
    runs(root, "build", "--allow-missing")
    html = (root / "_build" / "html" / "01_first.html").read_text()
    assert "Instead of the pair" in html and "could not be fetched" in html


def test_a_run_names_the_pages_with_guards_and_how_to_see_it(tmp_path):
    guards = [{"name": "the loss rises", "forbids": True}, {"name": "few test items", "forbids": False}]
    text = json.dumps({"page": "01_first", "metrics": {"guards": guards}})
    writes = code(
        "from pathlib import Path\nfolder = Path(output_dir) / 'metrics'\nfolder.mkdir(parents=True, exist_ok=True)\n"
        f"(folder / '01_first.json').write_text({text!r})"
    )
    root = make_project(tmp_path, first=(*FIRST, writes))
    arguments = ("run", "--page", "01", "-p", "steps=4", "--name", "more")
    output = runs(root, *arguments)
    assert "\nGuards of 01_first: no verdict: the loss rises. read with care: few test items\n" in output
    said, where = output.splitlines()[-2:]
    assert said == "To see it: python -m cat_core.runs build --edition quick+more"
    assert where == f"Then open {root / '_build' / 'html' / '01_first.html'}"
    again = runs(root, *arguments)
    assert "0 of 1 pages to run" in again and "Guards of 01_first" in again


@pytest.mark.slow
def test_variant_leaves_the_edition_alone_and_pages_can_be_missing(tmp_path):
    root = make_project(tmp_path)
    refusal = runs(root, "build", status=2)
    assert "not run in edition 'quick': 01_first, 02_second" in refusal and "--allow-missing" in refusal
    assert not (root / "papermill_runs").exists()
    arguments = ("run", "--page", "01", "-p", "steps=8", "--name", "more")
    assert "1 of 1 pages to run" in runs(root, *arguments)
    assert printed(root, "01_first", "quick+more") == "8 a papermill_runs/quick+more\n"
    assert not (root / "papermill_runs" / "quick").exists()
    assert "0 of 1 pages to run" in runs(root, *arguments)
    other = runs(root, "run", "--page", "01", "-p", "steps=9", "--name", "more", status=2)
    assert "variant 'quick+more' was run with steps=8: choose another --name" in other
    assert "quick+more: a small edition (variant of quick: steps=8)" in runs(root, "list")
    output = runs(root, "build", "--edition", "quick+more", "--out", "elsewhere")
    assert str(root / "elsewhere" / "html" / "index.html") in output and not (root / "_build").exists()
    assert "has not been run in edition" in (root / "elsewhere" / "html" / "02_second.html").read_text()
    # a changed page is built with a warning, refused with --strict
    (root / "book" / "cat_book" / "build" / "__init__.py").write_text("changed = True\n")
    strict = ("build", "--edition", "quick+more", "--allow-missing", "--out", "elsewhere", "--strict")
    assert "out of date in edition 'quick+more': 01_first" in runs(root, *strict, status=2)


def test_a_page_that_an_edition_leaves_out_is_not_run_and_says_so(tmp_path):
    edition = EDITION + "  01_first: {left_out: it trains models}\n"
    first = (markdown("(first)=\n# First\n\nIt took {glue:text}`minutes:.1f` minutes."), *FIRST[1:])
    root = make_project(tmp_path, first=first, edition=edition)
    output = runs(root, "book")
    assert "1 of 1 pages to run" in output
    html = (root / "_build" / "html" / "01_first.html").read_text()
    assert "does not run this page: it trains models." in html and "It took — minutes" in html
    assert not (root / "papermill_runs" / "quick" / "01_first.ipynb").exists()
    assert "01_first: left out (it trains models)" in runs(root, "list")
    refusal = runs(root, "run", "--page", "01", status=2)
    assert "edition 'quick' leaves 01_first out: it trains models" in refusal


@pytest.mark.slow
def test_failing_page_is_kept_and_the_others_go_on(tmp_path):
    second = (
        markdown("(second)=\n# S"),
        code("steps: int = 1", "parameters"),
        code("raise ValueError('too\\nbad')"),
    )
    root = make_project(tmp_path, WAITING_EDITION, second=second)
    output = runs(root, "book", "--jobs", "1", status=1)
    folder = root / "papermill_runs" / "quick"
    assert "02_second        FAILED after" in output and "cell In [3]: ValueError: too bad" in output
    assert "papermill_runs/quick/02_second.failed.ipynb" in output and "failed: 02_second" in output
    assert "01_first         done" in output and "The book was not built" in output
    assert (folder / "02_second.failed.ipynb").is_file() and not (folder / "02_second.ipynb").exists()
    assert "02_second: failed: cell In [3]: ValueError: too bad" in runs(root, "list")
    # A page put right runs, and what the failure left is gone.
    write_notebook(root / "book" / "02_second.ipynb", *second[:2], code("print('fine')"))
    # Broken references are errors of the build, shown shortly, and leave no half-made HTML.
    write_notebook(root / "book" / "01_first.ipynb", markdown("# F\n\n{ref}`nowhere`"), *FIRST[1:])
    output = runs(root, "book", status=2)
    assert "2 of 2 pages run" in output and not (folder / "02_second.failed.ipynb").exists()
    assert "undefined label: 'nowhere'" in output and "book/01_first.ipynb" in output and "build.log" in output
    assert not (root / "_build" / "html").exists() and manifest(root)["unfinished"] == {}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_driver_leaves_nothing_running_and_the_next_run_completes(tmp_path):
    root = make_project(tmp_path, WAITING_EDITION, second=WAITS)
    driver = start(root, "run", "--jobs", "2")
    pids = waiting_pids(root)
    assert all(map(alive, pids))
    driver.kill()
    driver.wait()
    assert wait_for(lambda: not any(map(alive, pids)), 15), [psutil.Process(p) for p in pids if alive(p)]
    driver.stdout.close()
    content = manifest(root)
    assert set(content["unfinished"]) >= {"02_second"} and "02_second" not in content["pages"]
    assert not (root / "papermill_runs" / "quick" / "02_second.ipynb").exists()
    assert "02_second: interrupted" in runs(root, "list")
    (root / "go").touch()
    output = runs(root, "run", "--jobs", "1")
    assert "02_second        started with 1 thread, going on where it was interrupted" in output
    assert printed(root, "02_second") == "half way\nthreads 1\n"
    content = manifest(root)
    assert content["unfinished"] == {} and set(content["pages"]) == {"01_first", "02_second"}
    assert not list((root / "papermill_runs" / "quick").glob(".*.tmp.ipynb"))
    assert not list((root / "papermill_runs" / "quick").glob("*.log"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_page_killed_from_outside_then_ctrl_c(tmp_path):
    root = make_project(tmp_path, WAITING_EDITION, second=WAITS)
    driver = start(root, "run", "--page", "02")
    kernel, page, child = waiting_pids(root)
    os.kill(page, signal.SIGKILL)
    output, _ = driver.communicate(timeout=30)
    assert driver.returncode == 1 and "FAILED" in output and "ended early (status -9); see" in output
    assert wait_for(lambda: not alive(kernel) and not alive(child), 15)

    (root / "pids").unlink()
    driver = start(root, "run", "--page", "02")
    kernel, page, child = waiting_pids(root)
    os.kill(kernel, signal.SIGKILL)
    output, _ = driver.communicate(timeout=180)
    assert driver.returncode == 1 and "the kernel died" in output
    assert wait_for(lambda: not alive(child), 15), "it has lost its parent, not its group"

    (root / "pids").unlink()
    driver = start(root, "run", "--page", "02")
    pids = waiting_pids(root)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "Stopped. The same command goes on from here." in output
    assert "Traceback" not in output
    assert wait_for(lambda: not any(map(alive, pids)), 5)
    folder = root / "papermill_runs" / "quick"
    assert not (folder / "02_second.ipynb").exists() and not list(folder.glob(".*.tmp.ipynb"))


def test_second_driver_waits_and_clean_refuses(tmp_path):
    root = make_project(tmp_path)
    folder = root / "papermill_runs" / "quick"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        driver = start(root, "run", "--page", "01_first", "--page", "02")
        assert "Another process is working on edition 'quick': waiting" in driver.stdout.readline()
        assert "is being worked on by another process" in runs(root, "clean", status=2)
        driver.terminate()
        driver.communicate(timeout=10)


def test_errors_before_anything_runs(tmp_path):
    root = make_project(tmp_path, EDITION.replace("steps: 3", "step: 3"))
    output = runs(root, "book", status=2)
    assert output == "error: quick.yml: defaults: unknown key 'step'; did you mean 'steps'?\n"
    root = make_project(tmp_path / "b")
    assert "--page 07: no such page" in runs(root, "run", "--page", "07", status=2)
    assert "--page 0: no such page" in runs(root, "run", "--page", "0", status=2)
    assert "--jobs 0: expected at least 1" in runs(root, "run", "--jobs", "0", status=2)
    assert "unknown variant 'quick+x'; there are none" in runs(root, "build", "--edition", "quick+x", status=2)
    path = root / "papermill_runs" / "quick" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    with pytest.raises(EditionError, match="papermill_runs/quick/manifest.json cannot be read: remove it"):
        read_manifest(root, "quick")


def test_clean_removes_products_and_nothing_tracked(tmp_path):
    root = make_project(tmp_path)
    kept = ["quick/manifest.json", "quick/first.parquet", "quick/02_second.ipynb"]
    gone = [
        "quick/01_first.ipynb",
        "quick/01_first.failed.ipynb",
        "quick/.02_second.12.tmp.ipynb",
        "quick+x/a.json",
    ]
    models = ["artifacts/model/weights.safetensors"]
    for name in kept + gone + models:
        path = root / "papermill_runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (root / "_build" / "html").mkdir(parents=True)
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-f", "papermill_runs/quick/02_second.ipynb"], check=True)
    output = runs(root, "clean", "--html")
    assert output == "removed _build/html\n"
    assert "papermill_runs/quick+x (" in runs(root, "clean", "--edition", "quick+x")
    assert (root / "papermill_runs" / gone[0]).exists()
    output = runs(root, "clean")
    assert all(name in output for name in gone[:3])
    there = {path.relative_to(root / "papermill_runs").as_posix() for path in root.glob("papermill_runs/**/*.*")}
    assert there - {"quick/.lock"} == {*kept, *models}
    assert "removed papermill_runs/artifacts (1 files" in runs(root, "clean", "--artifacts")
    assert "unknown edition 'fast'" in runs(root, "clean", "--edition", "fast", status=2)


def test_overlay_strips_widgets_and_the_cells_of_parameters():
    widget = {"metadata": {"widgets": {"state": 1}, "papermill": {}}, "nbformat": 4, "nbformat_minor": 4}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# T"},
        {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "", "outputs": []},
        {"cell_type": "code", "metadata": {"tags": ["remove-output"]}, "source": "", "outputs": [{"x": 1}]},
    ]
    made = json.loads(clean_notebook(widget | {"cells": cells}, "left out"))
    assert made["metadata"] == {}
    assert "left out" in made["cells"][1]["source"]
    assert made["cells"][2]["metadata"]["tags"] == ["injected-parameters", "remove-cell"]
    assert made["cells"][3]["outputs"] == []


def test_results_of_pages_that_were_not_run_give_way_in_markdown():
    block = "```{glue} summary\n:doc: 10_claims.ipynb\n```"
    text = (
        f"# Title\n\n{block}\n\nIt is {{glue:text}}`10_claims.ipynb::n:.0f` of {{glue:text}}`02_b.ipynb::x`.\n"
        "\n:::{glue:figure} f\n:doc: 02_b.ipynb\n:::\n\n```python\nx = 1\n```\n"
    )
    assert without_missing_results(text, {"10_claims", "02_b"}) == text
    made = without_missing_results(text, {"02_b"})
    assert "{glue} summary" not in made and "[10_claims](10_claims.ipynb)" in made
    assert "It is — of {glue:text}`02_b" in made
    assert ":::{glue:figure} f\n:doc: 02_b.ipynb\n:::" in made and made.endswith("```python\nx = 1\n```\n")
    none = without_missing_results(text, set())
    assert "glue" not in none and none.count("was not run in this edition") == 2
    own = "```{glue} mine\n```\n"
    assert without_missing_results(own, set()) == own


def test_complaints_are_short():
    log = "reading\n" + "".join(f"/p/_build/src/a.ipynb:{n}: WARNING: bad {n}\n" for n in range(20)) * 2
    lines = complaints(log, "/p/_build/src")
    assert lines[0] == "book/a.ipynb:0: WARNING: bad 0" and lines[-1] == "... and 8 more" and len(lines) == 13


def test_tables_of_a_page_carry_its_name(tmp_path):
    folder = tmp_path / "papermill_runs" / "quick"
    for name in ("wmt22_outcomes.parquet", "05_wmt22/curves.json", "superglue.parquet", "wmt22.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert set(tables(tmp_path, "quick", "05_wmt22")) == {"wmt22_outcomes.parquet", "05_wmt22/curves.json"}


def test_kernel_that_does_not_start_gets_a_second_chance_one_that_dies_does_not(monkeypatch, tmp_path):
    calls = []

    def dies(*arguments, **options):
        calls.append(options)
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(page, "execute_notebook", dies)
    job = {"input": "a", "output": "b", "parameters": {}, "cwd": str(tmp_path)}
    reports = Reports(io.StringIO())
    assert run_page(job, reports) == "RuntimeError: Kernel died before replying to kernel_info" and len(calls) == 2
    reports.kernels = [1]
    assert run_page(job, reports).startswith("RuntimeError") and len(calls) == 3


def test_progress_lines():
    assert last_line("step 1\r step 2\x1b[32m!\x1b[0m\r\n\n") == "step 2!"
    assert last_line(" \r\n") == ""
    assert [minutes(n) for n in (5, 130, 7500)] == ["5 s", "2 min 10 s", "2 h 05 min"]


def test_heartbeat_is_rare_where_lines_pile_up(capsys, monkeypatch):
    class Running:
        page = type("P", (), {"name": "05_wmt22"})

        def progress(self):
            return "cell 2/9  step 5"

    display = Display()
    display.event("05_wmt22", "started")
    for _ in range(50):
        display.heartbeat([Running()])
    assert len(capsys.readouterr().out.splitlines()) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    display.heartbeat([Running()])
    assert capsys.readouterr().out == "[  0:11] 05_wmt22         cell 2/9  step 5\n"


def test_a_style_sheet_stands_once_in_a_page_and_in_each_part_that_other_pages_may_show():
    a, b = "<style>.a{}</style>", "<style>.b{}</style>"

    def cell(*datas, tags=()):
        outputs = [{"output_type": "display_data", "metadata": {}, "data": data} for data in datas]
        return {"cell_type": "code", "source": "", "metadata": {"tags": list(tags)}, "outputs": outputs}

    glued = "application/papermill.record/text/html"
    cells = [
        cell({"text/html": f"{a}0"}, tags=["remove-output"]),
        cell({"text/html": [f"{a}1{b}", "2"]}, {glued: f"{a}3{a}"}),
        cell({"text/html": f"{b}4{a}", "text/plain": a}, {glued: f"{b}5"}),
    ]  # fmt: skip
    made = json.loads(clean_notebook({"metadata": {}, "cells": cells}))["cells"]
    shown = [[list(output["data"].values()) for output in each["outputs"]] for each in made]
    assert shown == [[], [[f"{a}1{b}2"], [f"{a}3"]], [["4", a], [f"{b}5"]]]
