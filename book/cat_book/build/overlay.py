"""The HTML book: executed copies over the sources in `_build/src`, built by Jupyter Book into `_build/html`.

Nothing is executed here. The build is made beside the old one and put in its place when it is complete, and
is skipped when neither the pages nor the configuration nor the tools have changed.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import yaml

from cat_book.build import reading, slides
from cat_book.build.editions import EditionError, read_notebook, tags, toc_files
from cat_book.build.fingerprints import sha256
from cat_core.files import write_text
from cat_core.training.provenance import versions

TOOLS = ("jupyter-book", "sphinx", "sphinx-book-theme", "myst-nb", "sphinx-exercise", "sphinx-mathjax-offline")
GLUED = re.compile(r"\{glue:\w+\}`[^`]*`")
GLUED_FROM = re.compile(r"\{glue(?::\w+)?\}`([^`:]+)\.ipynb::[^`]*`")
GLUED_BLOCK = re.compile(r"^(`{3,}|:{3,})\{glue(?::\w+)?\}[^\n]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
DOC = re.compile(r"^:doc:\s*(\S+)\.ipynb\s*$", re.MULTILINE)
STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
BUILDERS = ("book/cat_book/build/terms.py", "book/cat_book/build/reading.py")  # what they do is in the pages
LABEL = re.compile(r"^(\((?=[\w-]+\)=)|:(?:label|name): *|[`:]{3,}\{solution(?:-start)?\} *)([\w-]+)", re.MULTILINE)
TITLE = re.compile(r"^# .*$", re.MULTILINE)
NO_PAGES = ("cat_book", "params", slides.FOLDER)  # folders of book/ that are no part of the site
FIRST = "intro"  # the page that says how long all others take to read
LARGE_PAGE = 150 * 1024  # bytes of HTML without pictures


def clean_notebook(notebook, note=None, run=False):
    """A notebook as the build wants it, as bytes.

    Without widget state, style sheets that stand in it already, outputs of cells tagged `remove-output`, and the cells
    of parameters, which a page tells at its end (`covers.closing`); with `note` (one line) as a remark below the title.
    A page with a note has not been run, unless `run` says so: the numbers that its prose quotes are replaced by a dash,
    and figures that it quotes are left out.
    """
    metadata = notebook.get("metadata", {})
    for key in ("widgets", "papermill"):
        metadata.pop(key, None)
    styles = set()
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell.get("metadata", {}).pop(key, None)
        if cell["cell_type"] == "code" and "remove-output" in tags(cell):
            cell["outputs"] = []
        for data in (output.get("data", {}) for output in cell.get("outputs", ())):
            for kind in [kind for kind in data if kind.endswith("text/html")]:
                glued = kind != "text/html"  # may be shown on another page, where there is no other
                data[kind] = without_repeated_styles("".join(data[kind]), set() if glued else styles)
        if {"parameters", "injected-parameters"} & {*tags(cell)}:
            cell["metadata"]["tags"] = [*tags(cell), "remove-cell"]
        if note and not run and cell["cell_type"] == "markdown":
            cell["source"] = GLUED_BLOCK.sub("", GLUED.sub("—", cell["source"]))
    if note:
        remark = {"cell_type": "markdown", "metadata": {}, "source": f":::{{note}}\n{note}\n:::"}
        if notebook.get("nbformat_minor", 0) >= 5:
            remark["id"] = "not-run-note"
        notebook["cells"].insert(1, remark)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def without_repeated_styles(html, seen):
    """HTML without the style elements in `seen`, to which those that are left are added: one does for a whole page."""

    def once(match):
        if match[0] in seen:
            return ""
        seen.add(match[0])
        return match[0]

    return STYLE.sub(once, html)


def without_missing_results(text, run):
    """MyST text in which results quoted from notebooks that are not in `run` (names) give way.

    A number in a line becomes a dash; a table or figure (the directive `glue` with `:doc:`) a line that says which
    page has not been run, with a link to it.
    """

    def block(match):
        page = DOC.search(match[2])
        if page is None or page[1] in run:
            return match[0]
        return f"*Results of the page [{page[1]}]({page[1]}.ipynb) would stand here; it was not run in this edition.*"

    text = GLUED_BLOCK.sub(block, text)
    return GLUED_FROM.sub(lambda match: match[0] if match[1] in run else "—", text)


def overlay(root, copies, notes, remarks=()):
    """Relative path -> bytes of everything the build reads.

    That is book/ without its code and parameters, with executed `copies` (page -> path) in place of sources and `notes`
    (page -> line) added to pages without, `remarks` (likewise) to pages that were run; in Markdown, results of
    notebooks without a copy give way to a dash or a line.
    """
    book = root / "book"
    files = {}
    pages = {path for path in toc_files(root) if path.suffix == ".ipynb"}
    for path in sorted(book.rglob("*")):
        relative = path.relative_to(book)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not path.is_file() or hidden or relative.parts[0] in NO_PAGES:
            continue
        if path in pages:
            source = copies.get(path.stem, path)
            remarked = path.stem in remarks
            note = remarks[path.stem] if remarked else notes.get(path.stem)
            files[relative.as_posix()] = clean_notebook(read_notebook(source), note, remarked)
        elif path.suffix == ".md":
            text = without_missing_results(path.read_text(encoding="utf-8"), set(copies))
            files[relative.as_posix()] = text.encode()
        else:
            files[relative.as_posix()] = path.read_bytes()
    return files


def with_originals(files, originals, base):
    """`files` of a variant with `originals` (page -> executed copy of edition `base`) below its own pages.

    Their labels get the edition's name, so that links lead to the pages of the variant.
    """
    files, toc = dict(files), yaml.safe_load(files["_toc.yml"])
    entries = [entry for part in toc.get("parts", [toc]) for entry in part.get("chapters", ())]
    for entry in (entry for entry in entries if entry["file"] in originals):
        name = f"{entry['file']}_{base}"
        notebook = read_notebook(originals[entry["file"]])
        texts = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        for cell in texts:
            cell["source"] = LABEL.sub(rf"\g<1>\g<2>-{base}", cell["source"])
        first = next(cell for cell in texts if TITLE.search(cell["source"]))
        first["source"] = TITLE.sub(rf"\g<0> ({base})", first["source"], count=1)
        note = f"The original, of edition `{base}`, beside the variant {{doc}}`{entry['file']}`."
        files[f"{name}.ipynb"] = clean_notebook(notebook, note, run=True)
        entry.setdefault("sections", []).insert(0, {"file": name})
    return files | {"_toc.yml": yaml.safe_dump(toc, sort_keys=False).encode()}


def build_digest(root, files):
    """SHA-256 over all that decides what the HTML looks like."""
    parts = {"files": {name: sha256(data) for name, data in files.items()}}
    parts |= {path: sha256((root / path).read_bytes()) for path in ("_config.yml", *BUILDERS)}
    parts |= {path.name: sha256(path.read_bytes()) for path in slides.sources(root)}
    parts["tools"] = versions(*TOOLS)
    return sha256(json.dumps(parts, sort_keys=True).encode())


def complaints(log, source, limit=12):
    """The warnings and errors in Jupyter Book's log, each once, with the pages' paths as in book/."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log.splitlines()]
    messages = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b|Error: |error:", line)]
    messages = list(dict.fromkeys(line.replace(str(source), "book") for line in messages))
    more = [f"... and {len(messages) - limit} more"] if len(messages) > limit else []
    return messages[:limit] + more


def build(root, folder, files, *, force=False):
    """Write `files` to folder/src and build folder/html from them, warnings being errors.

    Returns (path of index.html, True if it was built and False if nothing had changed). A build that fails
    leaves the HTML of the one before, raises EditionError with the complaints, and keeps the log as
    folder/build.log.
    """
    source, html, work, log = folder / "src", folder / "html", folder / ".work", folder / "build.log"
    stamp, index = folder / "build.json", folder / "html" / "index.html"
    made_from = json.dumps({"digest": build_digest(root, files)}) + "\n"
    record = stamp.read_text(encoding="utf-8", errors="replace") if stamp.is_file() else ""
    if record == made_from and index.is_file() and not force:
        return index, False
    for directory in (source, work):
        shutil.rmtree(directory, ignore_errors=True)
    for name, data in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    book = "from jupyter_book.cli.main import main; main()"
    options = ["--path-output", work, "--config", root / "_config.yml", "-W", "-n", "--keep-going"]
    paths = os.pathsep.join(filter(None, (str(root / "book"), os.environ.get("PYTHONPATH"))))  # `cat_book.build.terms`
    environment = {**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    with log.open("wb") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        command = [sys.executable, "-c", book, "build", source, *options]
        status = subprocess.run(command, cwd=root, env=environment, **streams).returncode
    made = work / "_build" / "html"
    if status or not (made / "index.html").is_file():
        text = log.read_text(encoding="utf-8", errors="replace")
        lines = complaints(text, source) or text.strip().splitlines()[-5:]
        raise EditionError("\n".join([*lines, f"Jupyter Book failed (status {status}); whole log: {log}"]))
    pages = {page.stem: page.read_text(encoding="utf-8") for page in made.glob("*.html")}
    for name, text in (pages | reading.stated(pages, FIRST)).items():
        # a list whose children are no list items, which screen readers stumble over
        text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        (made / f"{name}.html").write_text(text, "utf-8")
    if missing := slides.write(root, made):
        print(f"note: slides without their figure: {', '.join(missing)}", flush=True)
    stamp.unlink(missing_ok=True)  # from here until it is written again there is no finished build
    shutil.rmtree(html, ignore_errors=True)
    os.replace(made, html)
    shutil.rmtree(work, ignore_errors=True)
    write_text(stamp, made_from)
    return index, True


def large_pages(root, html):
    """(name, bytes) of pages larger than LARGE_PAGE, not counting pictures inside the HTML."""
    sizes = []
    for page in toc_files(root):
        path = html / page.relative_to(root / "book").with_suffix(".html")
        if path.is_file():
            text = re.sub(r"data:image/[^\"')\s]+", "", path.read_text(encoding="utf-8"))
            if len(text.encode()) > LARGE_PAGE:
                sizes.append((path.name, len(text.encode())))
    return sizes


def remove_build(folder):
    """Delete what a build made in `folder`; returns the paths that were there."""
    made = [folder / name for name in ("src", "html", ".work", "build.log", "build.json", "build.lock")]
    removed = [path for path in made if path.exists()]
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return removed
