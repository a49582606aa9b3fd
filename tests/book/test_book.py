"""The real book: its sources, every page run with the edition `test`, the HTML built and opened."""

import ast
import contextlib
import importlib
import json
import os
import re
import subprocess
import time
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from browser import browser_session
from cat_book.build.editions import (
    RESERVED,
    declared_parameters,
    edition_names,
    load_edition,
    notebook_paths,
    read_notebook,
    tags,
    toc_files,
)
from cat_book.build.overlay import clean_notebook
from cat_book.build.reading import LOOKED_UP
from small_book import ROOT, command, copy_project, environment, runs

from cat_core.analysis.outcomes import read_outcomes
from cat_core.engines.command import main
from cat_core.engines.threshold import Threshold
from cat_core.inference import model_fingerprint
from cat_core.training.code import PACKAGES
from cat_core.training.models import load_model

PAGES = notebook_paths(ROOT)
# Attributes that make a browser fetch something, by element; a plain link (a href) does not.
LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
ADDRESS_ONLY = {"canonical", "license", "author", "alternate"}  # <link rel> that a browser does not follow


class Loads(HTMLParser):
    """Gathers the addresses that a page loads when it is opened."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "link" and set((values.get("rel") or "").split()) <= ADDRESS_ONLY:
            return
        self.found += [values[name] for name in LOADED.get(tag, ()) if values.get(name)]
        self.found += re.findall(r"url\(([^)]+)\)", values.get("style") or "")


def loads(html):
    parser = Loads()
    parser.feed(html)
    return parser.found


def is_foreign(address):
    return bool(re.match(r"[\"']?\s*(https?:|wss?:|ftp:)?//", address))


@pytest.fixture(params=sorted(PAGES), scope="module")
def page(request):
    return PAGES[request.param]


def test_a_page_that_was_not_run_quotes_nothing(page):
    """Sphinx would complain of a number or a figure that is not there."""
    made = json.loads(clean_notebook(read_notebook(page), "not run"))
    assert "{glue" in json.dumps(read_notebook(page)["cells"])
    prose = [cell["source"] for cell in made["cells"] if cell["cell_type"] == "markdown"]
    assert not [source for source in prose if "{glue" in source]


def test_there_are_pages():
    assert {"01_cascades", "02_cat_loss", "03_flops", "04_superglue", "05_wmt22"} <= set(PAGES)


def test_source_has_no_outputs_and_no_state(page):
    notebook = read_notebook(page)
    assert "widgets" not in notebook["metadata"] and "papermill" not in notebook["metadata"]
    for cell in notebook["cells"]:
        assert not {"papermill", "execution"} & set(cell["metadata"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["source"][:60]
        assert not cell.get("attachments")


def test_source_has_parameters_and_a_label(page):
    declared = declared_parameters(page)
    cells = read_notebook(page)["cells"]
    assert re.match(r"\([a-z0-9][a-z0-9_:-]*\)=\n+# \S", cells[0]["source"]), "first cell: (label)= and the title"
    for parameter in declared.values():
        assert parameter.help or parameter.name in RESERVED, f"{parameter.name}: help comment expected"
    first_code = next(cell for cell in cells if cell["cell_type"] == "code")
    assert "parameters" in tags(first_code), "the parameters cell comes before all other code"


def test_source_cells_are_short(page):
    for cell in read_notebook(page)["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in tags(cell):
            assert len(cell["source"].splitlines()) <= 20, cell["source"][:60]


def missing_names(source: str) -> list[str]:
    """What a page imports from this project, or takes from a module of it, and what is not there."""
    tree, modules, missing = ast.parse(source), {}, []
    for node in (each for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)):
        if (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                with contextlib.suppress(ImportError):  # a name, or one that is missing
                    modules[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                if not hasattr(importlib.import_module(node.module), alias.name):
                    missing.append(f"{node.module}.{alias.name}")
    for node in (each for each in ast.walk(tree) if isinstance(each, ast.Attribute)):
        module = modules.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if module and not hasattr(module, node.attr):
            missing.append(f"{module.__name__}.{node.attr}")
    return missing


def test_source_names_what_is_there(page):
    cells = [cell["source"] for cell in read_notebook(page)["cells"] if cell["cell_type"] == "code"]
    assert missing_names("\n".join(cells)) == []


def test_the_search_for_missing_names_finds_them():
    source = "from cat_core import curves, nope\nfrom cat_core.curves import audc, gone\ncurves.audc(curves.lost)"
    assert missing_names(source) == ["cat_core.nope", "cat_core.curves.gone", "cat_core.curves.lost"]


def test_live_cells_wait_for_a_click(page):
    # An Output widget that is filled while a notebook is executed can block nbclient for ever (nbclient issue 312).
    for cell in read_notebook(page)["cells"]:
        if cell["cell_type"] == "code":
            assert not re.search(r"\binteract\(|\binteractive\(|\bOutput\(", cell["source"]), cell["source"][:60]


def test_labels_are_unique():
    texts = [path.read_text(encoding="utf-8") for path in toc_files(ROOT) if path.suffix == ".md"]
    texts += [cell["source"] for path in PAGES.values() for cell in read_notebook(path)["cells"]]
    labels = [label for text in texts for label in re.findall(r"^\(([^()\s]+)\)=", text, re.MULTILINE)]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("name", edition_names(ROOT))
def test_edition_fits_the_pages(name):
    edition = load_edition(ROOT, name)
    assert edition.description and list(edition.pages) == list(PAGES)


@pytest.mark.slow
def test_book_runs_and_builds_without_a_warning(book):
    root, output = book
    assert f"{len(PAGES)} of {len(PAGES)} pages run" in output
    content = json.loads((root / "papermill_runs" / "test" / "manifest.json").read_text())
    assert set(content["pages"]) == set(PAGES) and content["unfinished"] == {}
    html = {path.stem for path in (root / "_build" / "html").glob("*.html")}
    assert {path.stem for path in toc_files(ROOT)} <= html


@pytest.mark.slow
def test_book_is_skipped_when_nothing_has_changed(book):
    root, _ = book
    output = runs(root, "book", "--edition", "test", "--strict", seconds=30)
    assert f"0 of {len(PAGES)} pages to run" in output and "unchanged: " in output


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_9_in_a_page_and_the_next_run_ends_with_the_same_numbers(book, tmp_path):
    copy_project(tmp_path)
    models = tmp_path / "papermill_runs" / "artifacts"
    driver = subprocess.Popen(
        command("run", "--edition", "test", "--page", "04_superglue"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    deadline, made, before = time.monotonic() + 300, 0, -1
    while made < 4 or made != before:  # not while the models of one group are written: alone, the rest is rounded anew
        assert driver.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.4)
        before, made = made, len([path for path in models.glob("model-*") if path.is_dir()])
    driver.kill()
    driver.wait()
    outcomes = "papermill_runs/test/outcomes/04_superglue.parquet"
    assert not (tmp_path / outcomes).exists()
    finished = {path.name for path in models.glob("model-*") if path.is_dir() and path.suffix != ".partial"}
    assert finished
    times = {name: (models / name / "model.safetensors").stat().st_mtime_ns for name in finished}
    output = runs(tmp_path, "run", "--edition", "test", "--page", "04_superglue", seconds=300)
    assert "going on where it was interrupted" in output
    assert times == {name: (models / name / "model.safetensors").stat().st_mtime_ns for name in finished}
    assert read_outcomes(tmp_path / outcomes).equals(read_outcomes(book[0] / outcomes))


@pytest.mark.slow
def test_html_loads_nothing_from_elsewhere(book):
    html = book[0] / "_build" / "html"
    for path in html.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert [each for each in loads(text) if is_foreign(each)] == [], path.name
        assert "unpkg.com" not in text and "cdn.jsdelivr.net" not in text, path.name
        for each in loads(text):
            local = each.partition("?")[0].partition("#")[0]
            if local and not local.startswith(("data:", "blob:")):
                assert (path.parent / local).exists(), f"{path.name} loads {each}"
    for path in html.glob("_static/*.css"):
        css = re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')]+)", path.read_text(encoding="utf-8"))
        assert [each for each in css if is_foreign(each)] == [], path.name


def test_the_search_for_loaded_addresses_finds_them():
    html = '<script src="https://x/a.js"></script><link rel="stylesheet" href="//x/b.css"><a href="https://x/c">'
    html += '<img src="a.png"><div style="background: url(http://x/d.png)"><link rel="license" href="https://x/e">'
    assert [each for each in loads(html) if is_foreign(each)] == [
        "https://x/a.js",
        "//x/b.css",
        "http://x/d.png",
    ]


SHOWN = "[...document.querySelectorAll('.cat-figure, .cat-widget, .cat-table, .cat-tiles')].filter(e => e.offsetParent)"
FOLDS = "[...document.querySelectorAll('.admonition .toggle-button')]"
FIRST = f"Math.min(...{SHOWN}.map(e => e.getBoundingClientRect().top + scrollY))"  # a table: what is not recorded


def barriers(page):
    """What axe-core finds that keeps people out: rule and first place, if serious or critical."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    return page.evaluate(
        """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
           .filter(v => ['serious', 'critical'].includes(v.impact)).map(v => [v.id, v.nodes[0].html.slice(0, 200)]))"""
    )


def test_barriers_are_found(tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><html lang=en><title>t</title><p style='color:#ccc'>pale")
    with browser_session() as browser, browser.open(tmp_path / "page.html") as page:
        assert [rule for rule, _ in barriers(page)] == ["color-contrast"]


@pytest.mark.slow
def test_pages_open_without_a_network_and_sliders_follow_the_keyboard(book):
    html, sliders, fingers = book[0] / "_build" / "html", 0, 0
    with browser_session() as browser:
        for source in toc_files(ROOT):
            with browser.open(html / f"{source.stem}.html", width=390, height=844, touch=True) as page:
                assert page.overflow() <= 0, f"{source.stem} is wider than a phone"
                if source.stem == "intro" or source.suffix == ".ipynb":
                    assert page.evaluate(FIRST) <= 2 * 844, f"{source.stem}: nothing to look at within two screens"
                for width in (768, 1280):  # the same page: formulas are slow to set
                    page.raw.set_viewport_size({"width": width, "height": 900})
                    assert page.overflow() <= 0, f"{source.stem} is wider than {width} px"
                told = page.raw.locator(".cat-reading").is_visible()
                assert told == (source.stem not in LOOKED_UP), f"{source.stem}: how long does it take to read?"
                folds = page.evaluate(f"{FOLDS}.map(e => e.ariaLabel)")
                assert all(fold.startswith("Show or hide: ") for fold in folds), f"{source.stem}: {folds}"
                for theme in ("light", "dark"):
                    page.evaluate("t => document.documentElement.dataset.theme = t", theme)
                    assert barriers(page) == [], f"{source.stem}, {theme}"
                fingers += _touch(page, source.stem)
                every = page.raw.locator("input[type=range]")
                for number in (i for i in range(every.count()) if every.nth(i).is_visible()):
                    _move(page, number, source.stem)
                    sliders += 1
                assert page.count("mjx-merror") == 0, f"{source.stem}: a formula that MathJax cannot set"
        with browser.open(html / "intro.html") as page:
            titles = page.evaluate("[...document.querySelectorAll('a[title]')].map(e => [e.textContent, e.title])")
            assert any(word == "cascade" and text.startswith("A small and a large model") for word, text in titles)
            assert any(word == "threshold" and "number \u03c4 that" in text for word, text in titles)
        assert browser.foreign_requests == []
    assert sliders >= 14, "two on 01 and on the intro, six on 03, one on 02, 04, 05 and 06"
    assert fingers >= 20, "on every page with a widget: slider, picture, buttons"


@pytest.mark.slow
def test_the_threshold_of_a_page_answers_other_prompts_by_the_command(book, tmp_path, capsys):
    saved = Threshold.read(book[0] / "papermill_runs" / "test" / "threshold.json")
    models = {model_fingerprint(load_model(str(folder))): folder
              for folder in (book[0] / "papermill_runs" / "artifacts").glob("model-*") if folder.is_dir()}  # fmt: skip
    sides = [str(models[side["model"]]) for side in (saved.small, saved.large)]
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "so zuri ?", "options": ["yes", "no"]}\n' * 3)
    given = [str(tmp_path / "prompts.jsonl"), "--max-new-tokens", "24"]
    given += ["--threshold", str(book[0] / "papermill_runs" / "test" / "threshold.json"), "--device", "cpu"]
    at = ["--output", str(tmp_path / "answers.jsonl")]
    assert main([*given, *at, "--small", sides[0], "--large", sides[1]]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["model"] == "large" for row in rows] == [row["confidence"] <= saved.tau for row in rows]
    at = ["--output", str(tmp_path / "others.jsonl")]
    assert main([*given, *at, "--small", sides[1], "--large", sides[0]]) == 2
    assert "calibrated with another small model" in capsys.readouterr().err


@pytest.mark.slow
def test_dark_pages_print_dark_on_white_and_code_whole(book):
    light = "(e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3)"
    with browser_session() as browser:
        with browser.open(book[0] / "_build" / "html" / "01_cascades.html", dark=True) as page:
            find = {"prose": "article p", "code": ".highlight span"}
            shade = {k: f"Math.max(...[...document.querySelectorAll('{v}')].map({light}))" for k, v in find.items()}
            cut = "[...document.querySelectorAll('.highlight pre')].some(e => e.scrollWidth > e.clientWidth + 1)"
            assert page.evaluate(shade["prose"]) > 150 and page.evaluate(shade["code"]) > 150
            page.raw.emulate_media(media="print")
            page.raw.set_viewport_size({"width": 500, "height": 800})
            assert page.evaluate(shade["prose"]) < 90 and page.evaluate(shade["code"]) < 90
            assert not page.evaluate(cut)
        assert browser.foreign_requests == []


FINGERS = (
    "input[type=range]", ".cat-explorer .cx-field svg, .cat-questions .cx-field svg", ".cx-switch, .cx-keys button",
    ".cx-token[aria-pressed=false]",
)  # fmt: skip
INSIDE = """e => { const all = e.closest('[role=group].cat-widget');
                   return all.innerHTML + [...all.querySelectorAll('input')].map(input => input.value) }"""


def _touch(page, name):
    """A finger on the first slider, picture and buttons in sight: what stands there changes. How many were touched."""
    page.raw.set_viewport_size({"width": 768, "height": 1024})
    every = {kind: [one for one in page.raw.query_selector_all(kind) if one.is_visible()] for kind in FINGERS}
    found = [(kind, one) for kind, some in every.items() for one in some[:2]]
    for kind, one in found:
        one.scroll_into_view_if_needed()
        before, box = one.evaluate(INSIDE), one.bounding_box()
        if "svg" in kind:
            page.swipe(box, 0.3, 0.8)
        elif "range" in kind:
            for share in (0.15, 0.85):  # it may stand at one of them
                one.tap(position={"x": share * box["width"], "y": box["height"] / 2})
        else:
            one.tap()
        what = one.evaluate("e => e.outerHTML")[:120]
        assert one.evaluate(INSIDE) != before, f"{name}: a finger on {what} changes nothing"
    return len(found)


def _move(page, number, name):
    """Real keys on one slider: it follows, and both its <output> and what stands around it change."""
    value = f"[...document.querySelectorAll('input[type=range]')][{number}].value"
    shown = (
        f"(e => [e.parentElement.querySelector('output').textContent, e.closest('[role=group]').textContent])("
        f"[...document.querySelectorAll('input[type=range]')][{number}])"
    )
    page.focus("input[type=range]", number)
    page.press("Home")
    low, seen = page.evaluate(value), page.evaluate(shown)
    page.press("End")
    high, then = page.evaluate(value), page.evaluate(shown)
    assert float(high) > float(low), f"{name}: slider {number} does not follow the keys"
    assert seen[0] != then[0] and seen[1] != then[1], f"{name}: slider {number} changes nothing"
    page.press("ArrowLeft")
    assert float(low) < float(page.evaluate(value)) < float(high)
