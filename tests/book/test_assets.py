"""Style sheets, scripts and templates: whole, local, with names of their own, and the same when they are made small."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from string import Template

import pytest
from browser import browser_session
from cat_book.build.overlay import overlay
from cat_book.drawing.markup import asset

ROOT = Path(__file__).resolve().parents[2]
DRAWING = ROOT / "book" / "cat_book" / "drawing"
ASSETS = sorted((DRAWING / "assets").iterdir())
WIDGETS = [path.stem for path in ASSETS if path.suffix == ".js" and path.stem != "boot"]
SHEETS = [path.name for path in ASSETS if path.suffix == ".css"]
PAIRS = {"(": ")", "[": "]", "{": "}"}
FAR = re.compile(r"https?:|//[a-z]|@import|url\(|\beval\b|Function\(|innerHTML|\.write\(|fetch|XMLHttp|import\(")
STRING = re.compile(r""""[^"\n]*"|'[^'\n]*'""")


def bare(text: str) -> str:
    """The text without comments and with empty strings."""
    return STRING.sub('""', re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def unbalanced(text: str) -> str:
    """The first bracket that has no partner, else ""."""
    left = []
    for sign in re.findall(r"[][(){}]", text):
        if sign in PAIRS:
            left.append(sign)
        elif not left or PAIRS[left.pop()] != sign:
            return sign
    return left[-1] if left else ""


def foreign_selectors(sheet: str) -> list[str]:
    """Selectors that do not start with a class of this project, or name one that is not."""
    heads = re.findall(r"(?:^|[{}])([^{};@]+)(?=\{)", bare(sheet).replace("\n", " "))
    single = [each for head in heads for each in re.split(r",(?![^(]*\))", head)]
    return [s.strip() for s in single if not s.strip().startswith(".cat-") or re.search(r"\.(?!cat-|cx-)[a-zA-Z]", s)]


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_assets_are_whole_and_local(path):
    text = path.read_text(encoding="utf-8")
    assert path.suffix in (".css", ".js", ".html") and not FAR.search(text), FAR.search(text)
    if path.suffix != ".html":  # whose white space stays
        assert max(map(len, text.splitlines())) <= 120
        assert not unbalanced(bare(text)), "a bracket without a partner"
    assert not re.search(r"[^\x00-\x7f]", text), "pages may be read in another encoding"


@pytest.mark.parametrize("name", SHEETS)
def test_style_sheets_touch_nothing_else_and_hold_no_dead_rule(name):
    assert foreign_selectors(asset(name)) == []
    makers = [*DRAWING.glob("*.py"), *DRAWING.glob("assets/*.[hj]*")]
    made = "".join(path.read_text(encoding="utf-8") for path in makers)
    used = set(re.findall(r"\bc(?:at|x)-[a-z]+", made))
    assert set(re.findall(r"\.(c(?:at|x)-[a-z]+)", asset(name))) <= used


@pytest.mark.parametrize("name", [*WIDGETS, "boot"])
def test_script_is_written_so_that_white_space_can_go(name):
    text = (DRAWING / "assets" / f"{name}.js").read_text(encoding="utf-8")
    code = bare(text)
    assert "//" not in code and "`" not in code and '\\"' not in text and "\\'" not in text
    loose = [line for line in code.splitlines() if line.strip() and not re.search(r"[;{},+(]\s*$|^\s*}$", line)]
    assert not loose, f"a statement without a semicolon: {loose}"


def test_what_the_checks_look_for_is_found():
    assert unbalanced("a{b(c}") == "}" and unbalanced("a{") == "{" and unbalanced("a{b[c](d)}") == ""
    assert foreign_selectors(".cat-a{x:y}table{x:y}") == ["table"]
    assert foreign_selectors("@media print{.cat-a :is(p,b), td{x:y}.cat-a .other>b{x:y}}") == ["td", ".cat-a .other>b"]
    for text in ("url(a.png)", "@import 'a'", "eval (x)", "https://a", "src='//cdn'".replace("'", "")):
        assert FAR.search(text), text


def test_small_style_sheets_say_the_same(tmp_path):
    whole = {name: (DRAWING / "assets" / name).read_text(encoding="utf-8") for name in SHEETS}
    pairs = "".join(f"<style>{text}</style><style>{asset(name)}</style>" for name, text in whole.items())
    (tmp_path / "page.html").write_text(pairs, encoding="utf-8")
    with browser_session() as browser, browser.open(tmp_path / "page.html") as page:
        rules = page.evaluate("[...document.styleSheets].map(s => [...s.cssRules].map(r => r.cssText))")
    assert rules[::2] == rules[1::2]
    assert [len(each) for each in rules[::2]] == [len(re.findall(r"(?m)^[.@]", text)) for text in whole.values()]
    for name, text in whole.items():
        assert len(asset(name)) < 0.9 * len(text) and "\n" not in asset(name)


def test_strings_are_kept():
    assert 'content:attr(data-head) ": ";color:#555}' in asset("table.css")
    assert '"Segoe UI",Roboto' in asset("card.css") and ".cat-card :is(p,label" in asset("card.css")
    assert '" % of the FLOPs of L."' in asset("explorer.js") and "'[id=\"IDENT\"]'" in asset("boot.js")


@pytest.mark.parametrize("name", WIDGETS)
def test_template_names_only_what_is_filled_in(name):
    source = (DRAWING / f"{name}.py").read_text(encoding="utf-8")
    call = source[source.index(f'asset("{name}.html")') :]
    names = Template(asset(f"{name}.html")).get_identifiers()
    assert names and all(re.search(rf"\b{name}=", call) for name in names)


def test_installed_package_holds_the_assets(tmp_path):
    """A wheel built without isolation, network or a look at git."""
    pytest.importorskip("setuptools")
    for name in ("cat_core", "book/cat_book"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"cat_book/drawing/assets/{path.name}" for path in ASSETS} <= set(names)


def test_the_site_holds_no_code():
    files = overlay(ROOT, {}, {})
    assert "intro.md" in files and "_static/book.css" in files
    assert not [name for name in files if name.startswith("cat_book") or name.endswith((".py", ".pyc"))]
