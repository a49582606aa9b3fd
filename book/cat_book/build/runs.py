"""Run the book's notebooks with an edition's parameters, and build the HTML from the executed copies.

    python -m cat_core.runs book  --edition quick            run, then build: what `make book` does
    python -m cat_core.runs run   --edition quick [--page 05_wmt22] [-p steps=200] [--jobs 2] [--force]
    python -m cat_core.runs build --edition quick [--strict] [--allow-missing]
    python -m cat_core.runs pdf                          the built book as one PDF, printed by Chromium
    python -m cat_core.runs list
    python -m cat_core.runs clean [--edition quick] [--html] [--artifacts]

Executed copies go to papermill_runs/<edition>/, with manifest.json. A page whose notebook, parameters, data,
library and torch are as in its last run is skipped. Pages run side by side (`cat_book.build.driver`), each with its
own kernel whose working directory is the project's root, so that relative paths mean the same as with plain
`papermill book/NN_x.ipynb out.ipynb` from there. Values given with -p make a variant, in a folder of its own.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from cat_book.build import overlay, pdf
from cat_book.build.driver import choose_pages, locked, minutes, run
from cat_book.build.editions import ARTIFACTS, PAIR, EditionError, edition_names, load_edition
from cat_book.build.fingerprints import page_digest, shared_digests
from cat_book.build.manifest import has_run, page_state, read_manifest
from cat_core.tasks.schema import SchemaError, nearest
from cat_core.training.provenance import RUNS, find_root, tracked_files


def stored_edition(root, name):
    """The edition or variant `name` ("quick" or "quick+lr3") with the parameters it was run with."""
    base, plus, variant = name.partition("+")
    if not plus:
        return load_edition(root, base)
    if not (root / RUNS / name / "manifest.json").is_file():
        known = [path.parent.name for path in (root / RUNS).glob("*+*/manifest.json")]
        raise EditionError(f"unknown variant '{name}'{nearest(name, known)}")
    return load_edition(root, base, read_manifest(root, name).get("overrides", []), variant)


def build(root, edition, given):
    """Build the HTML of an edition that has been run, as the command line `given` wants it.

    Pages that a variant has not run are those of its edition, and say so; without such a run they have no results.
    """
    folder = Path(given.out).resolve() if given.out else root / "_build"
    manifest, shared = read_manifest(root, edition.name), shared_digests(root)
    copies, notes, borrowed, remarks, missing, stale = {}, {}, {}, {}, [], []
    base = edition.base if edition.name != edition.base else None
    runs_of_base = read_manifest(root, base) if base else None
    for name, page in edition.pages.items():
        if page.left_out:
            notes[name] = f"Edition `{edition.name}` does not run this page: {page.left_out}."
        elif base and not has_run(root, edition.name, manifest, name) and has_run(root, base, runs_of_base, name):
            copies[name] = root / RUNS / base / f"{name}.ipynb"
            borrowed[name] = f"Variant `{edition.name}` has not run this page: shown is that of edition `{base}`."
        elif not has_run(root, edition.name, manifest, name):
            missing.append(name)
            notes[name] = f"This page has not been run in edition `{edition.name}`: its results are missing."
        else:
            copies[name] = root / RUNS / edition.name / f"{name}.ipynb"
            remarks |= {name: page.remark} if page.remark else {}
            if page_state(root, edition.name, manifest, name, page_digest(root, page, shared)) != "up to date":
                stale.append(name)
    if missing and not (given.allow_missing or (base and manifest["pages"])):
        raise EditionError(
            f"not run in edition '{edition.name}': {', '.join(missing)}; run them with "
            f"`python -m cat_core.runs run --edition {edition.base}`, or build with --allow-missing"
        )
    if stale and given.strict:
        raise EditionError(f"out of date in edition '{edition.name}': {', '.join(stale)}; run them again first")
    if borrowed:
        print(f"From edition '{base}', as the variant has not run them: {', '.join(borrowed)}", flush=True)
    if missing and base:
        print(f"Without results, as neither has run them: {', '.join(missing)}", flush=True)
    if stale:
        print(f"warning: built from runs that are out of date: {', '.join(stale)}", flush=True)
    with locked(folder / "build.lock", f"{folder}"):
        started = time.monotonic()
        sources = overlay.overlay(root, copies, notes, borrowed | remarks)
        index, built = overlay.build(root, folder, sources, force=given.force)
    for name, size in overlay.large_pages(root, index.parent) if built else ():
        print(f"note: {name} has {size // 1024} KB of HTML besides its pictures", flush=True)
    status = f"built in {minutes(time.monotonic() - started)}" if built else "unchanged"
    print(f"HTML of edition '{edition.name}' {status}: {index}", flush=True)


def fetch_pair(root, edition, asked):
    """Fetch the pair that an edition misses; False where it cannot be had and the edition has something in its place.

    asked: whether somebody asked for this pair by name. Raises EditionError where that one cannot be fetched.
    """
    size = "" if asked else f" (about {edition.needs['download_mb']:g} MB)"
    print(f"Pair '{edition.missing}' is fetched first, once{size}.", flush=True)
    # a process of its own: what it takes in memory is free again before the pages begin
    if not subprocess.run([sys.executable, "-m", "cat_core.pairs", "fetch", edition.missing], cwd=root).returncode:
        return True
    if asked:
        raise EditionError(f"without the models of pair '{edition.missing}' nothing was run")
    print(f"warning: without pair '{edition.missing}' the pages train one from scratch in its place", flush=True)
    return False


def say_guards(root, edition, pages):
    """Print which pages of an edition have guards: what keeps the results that they left from saying anything."""
    for page in pages:
        path = root / RUNS / edition.name / "metrics" / f"{page.name}.json"
        try:
            guards = json.loads(path.read_text(encoding="utf-8"))["metrics"].get("guards") or []
            loud, soft = ("; ".join(g["name"] for g in guards if g["forbids"] is kind) for kind in (True, False))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the page leaves no numbers
        said = [f"no verdict: {loud}"] * bool(loud) + [f"read with care: {soft}"] * bool(soft)
        if said:
            print(f"Guards of {page.name}: {'. '.join(said)}", flush=True)


def show(root, names):
    """Print editions, their pages with state, and the parameters with help and effective values."""
    variants = sorted(path.parent.name for path in (root / RUNS).glob("*+*/manifest.json"))
    for name in names or [*edition_names(root), *variants]:
        edition = stored_edition(root, name)
        manifest, shared, needs = read_manifest(root, name), shared_digests(root), edition.needs
        changes = f" (variant of {edition.base}: {' '.join(edition.overrides)})" if name != edition.base else ""
        print(f"{name}: {edition.description}{changes}")
        memory, disk = needs["memory_gib"], needs["disk_gib"]
        print(f"  {needs['core_seconds']:.0f} core-seconds, {memory:g} GiB memory, {disk:g} GiB disk")
        for page in edition.pages.values():
            state = page.left_out and f"left out ({page.left_out})"
            state = state or page_state(root, name, manifest, page.name, page_digest(root, page, shared))
            print(f"  {page.name}: {state}")
            for parameter in page.declared.values():
                value = page.effective[parameter.name]
                changed = "" if value == parameter.default else f" (page's own: {parameter.default!r})"
                help_text = f"  # {parameter.help}" if parameter.help else ""
                print(f"      {parameter.name} = {value!r}{changed}{help_text}")


def _remove(root, paths, tracked):
    """Delete files and whole folders, except what git tracks, printing each."""
    for path in sorted(paths):
        below = [*sorted(path.rglob("*"), reverse=True), path]
        files = [file for file in below if file.is_file() and file.resolve() not in tracked]
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        for folder in filter(Path.is_dir, below):
            with contextlib.suppress(OSError):  # holds tracked files
                folder.rmdir()
        if files:
            print(f"removed {path.relative_to(root).as_posix()} ({len(files)} files, {size / 1e6:.1f} MB)")


def clean(root, names=(), html=False, artifacts=False):
    """Remove the HTML, executed copies and, where asked, artifacts; manifests and tables of editions stay.

    Without names: `html` alone removes only the build, otherwise the copies of every edition go, too.
    """
    runs, tracked = root / RUNS, tracked_files(root)
    known = sorted(path.name for path in runs.glob("*") if path.is_dir() and path.name != ARTIFACTS)
    for name in names:
        if name not in known and name not in edition_names(root):
            raise EditionError(f"unknown edition '{name}'{nearest(name, known)}")
    if html or not names:
        for path in overlay.remove_build(root / "_build"):
            print(f"removed {path.relative_to(root).as_posix()}")
    for name in [name for name in known if name in names] if names else [] if html else known:
        with locked(runs / name / ".lock", f"edition '{name}'", wait=False):
            patterns = ["*.ipynb", "*.failed.log", "*.tmp", *([ARTIFACTS] if artifacts else [])]
            copies = {path for pattern in patterns for path in (runs / name).glob(pattern)}
            _remove(root, [runs / name] if "+" in name else copies, tracked)
    if artifacts:
        _remove(root, [runs / ARTIFACTS], tracked)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m cat_core.runs", description="Run the book's pages, build the HTML."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    flag, several = {"action": "store_true"}, {"action": "append", "default": []}
    for name, text in (("run", "run pages"), ("build", "build the HTML"), ("book", "run, then build")):
        command = commands.add_parser(name, help=text)
        command.set_defaults(page=(), parameters=(), name=None, allow_missing=False)  # where there is no such option
        add = command.add_argument
        add("--edition", default="quick", help="parameter file book/params/EDITION.yml")
        add("--force", **flag, help="even if nothing has changed")
        if name != "build":
            text = "of `python -m cat_core.pairs`, in place of the edition's; none: what is trained without one"
            add("--pair", help=f"{text}; makes a variant")
            add("--jobs", type=int, help="pages side by side (default: the number of cores)")
        if name != "run":
            add("--strict", **flag, help="refuse pages whose run is out of date")
            add("--out", help="folder for src/ and html/ (default: _build)")
        if name == "run":
            add("--page", **several, help="only this page; may be repeated")
            variant = "another value; makes a variant in a folder of its own"
            add("-p", **several, metavar="NAME=VALUE", dest="parameters", help=variant)
            add("--name", help="name of the variant (default: a digest of its values)")
        if name == "build":
            add("--allow-missing", **flag, help="pages not run appear without results")
    add = commands.add_parser("pdf", help="print the built book as one PDF (needs Chromium)").add_argument
    add("--out", help="folder that holds html/, and gets book.pdf (default: _build)")
    add = commands.add_parser("list", help="editions, pages, parameters, what is up to date").add_argument
    add("--edition", **several, help="only this one; may be repeated")
    text = "remove the HTML and executed copies; manifests and tables stay"
    add = commands.add_parser("clean", help=text).add_argument
    add("--edition", **several, help="only the copies of this one")
    add("--html", **flag, help="only the HTML (with --edition: the HTML, too)")
    add("--artifacts", **flag, help="stored models, too")
    return parser


def main(arguments=None):
    """Command line; exit status 0, 1 (a page failed), 2 (cannot start, or cannot build) or 130 (stopped)."""
    given, started = _parser().parse_args(arguments), time.monotonic()
    try:
        root = find_root()
        if given.command == "list":
            show(root, given.edition)
        elif given.command == "clean":
            clean(root, given.edition, given.html, given.artifacts)
        elif given.command == "pdf":
            folder = Path(given.out).resolve() if given.out else root / "_build"
            with locked(folder / "build.lock", f"{folder}"):
                sheets = pdf.bind(root, folder / "html", folder / "book.pdf")
            print(f"{sheets} sheets: {folder / 'book.pdf'}", flush=True)
        elif given.command == "build":
            build(root, stored_edition(root, given.edition), given)
        else:
            chosen = [*given.parameters, *([f"{PAIR}={given.pair}"] if given.pair else [])]
            load = partial(load_edition, root, given.edition, chosen, given.name, given.page)
            edition = load()
            if edition.missing and fetch_pair(root, edition, asked=bool(given.pair)):
                edition = load()
            failed = run(root, edition, given.page, given.jobs, given.force)
            say_guards(root, edition, choose_pages(edition, given.page))
            if given.command == "run" and not failed:
                print(f"To see it: python -m cat_core.runs build --edition {edition.name}", flush=True)
            if given.command == "book" and failed:
                print("The book was not built, because pages failed.", flush=True)
            elif given.command == "book":
                build(root, edition, given)
                print(f"Took {minutes(time.monotonic() - started)} in all.", flush=True)
            return 1 if failed else 0
    except (SchemaError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
