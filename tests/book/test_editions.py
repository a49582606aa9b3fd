"""Parameter files: what is refused, with which words, and what pages are given."""

import json
import shutil

import pytest
from cat_book.build.editions import (
    EditionError,
    checked,
    declared_parameters,
    edition_names,
    load_edition,
    parse_text,
    toc_files,
)
from cat_book.build.fingerprints import data_fingerprints, page_digest, shared_digests
from small_book import EDITION, KERNEL, ROOT, code, make_project, put_pair, write_notebook

from cat_core.tasks.schema import SchemaError
from cat_core.training.provenance import find_root


@pytest.fixture
def root(tmp_path):
    return make_project(tmp_path)


def rewrite(root, text):
    (root / "book" / "params" / "quick.yml").write_text(text)


def refusals(root, text=EDITION, overrides=(), name=None, base="quick", wanted=()):
    """The lines of the error, after checking that there is nothing else to it."""
    rewrite(root, text)
    with pytest.raises(SchemaError) as caught:
        load_edition(root, base, overrides, name, wanted)
    return str(caught.value).splitlines()


def test_pages_get_defaults_own_values_and_the_driver_s_two(root):
    edition = load_edition(root, "quick")
    assert list(edition.pages) == ["01_first", "02_second"]
    first, second = edition.pages.values()
    assert first.given == {"steps": 3, "output_dir": "papermill_runs/quick"}
    assert first.effective == {"steps": 3, "name": "a", "output_dir": "papermill_runs/quick"}
    assert second.given == {"steps": 3, "rate": 0.5, "edition": "quick"}
    assert second.effective["seeds"] == [1, 2]
    assert (first.core_seconds, second.core_seconds) == (0, 5)
    assert edition.needs == {"core_seconds": 10, "memory_gib": 0.5, "disk_gib": 0.1, "download_mb": 0}
    assert first.declared["steps"].help == "how many" and first.declared["steps"].default == 10


def test_a_page_s_own_value_wins_over_the_defaults(root):
    rewrite(root, EDITION.replace("{rate: 0.5}", "{steps: 7}"))
    edition = load_edition(root, "quick")
    assert edition.pages["01_first"].effective["steps"] == 3
    assert edition.pages["02_second"].effective["steps"] == 7


@pytest.mark.parametrize(
    "old, new, line",
    [
        ("steps: 3", "step: 3", "defaults: unknown key 'step'; did you mean 'steps'?"),
        ("02_second", "02_secnd", "pages: unknown key '02_secnd'; did you mean '02_second'?"),
        ("needs:", "need:", "unknown key 'need'; did you mean 'needs'?"),
        ("{rate: 0.5}", "{rat: 0.5}", "02_second: parameters: unknown key 'rat'; did you mean 'rate'?"),
        ("core_seconds: 5", "seconds: 5", "02_second: unknown key 'seconds'; did you mean 'core_seconds'?"),
        ("core_seconds: 5", "left_out: true", "02_second: 'left_out' is True, expected the reason in words"),
        ("core_seconds: 5", "core_seconds: x", "02_second: 'core_seconds' is 'x', expected a number >= 0"),
        ("memory_gib: 0.5, ", "", "needs: 'memory_gib' is missing"),
        ("edition: quick", "edition: slow", "'edition' is 'slow', expected 'quick' as in the file's name"),
        (
            "rate: 0.5",
            "rate: 1e-3",
            "02_second: 'rate' is '1e-3' (str), expected float like the page's 1.0: "
            "this is text in YAML, write 1.0e-3",
        ),
        ("steps: 3", "steps: 3.0", "01_first: 'steps' is 3.0 (float), expected int like the page's 10"),
        ("steps: 3", "steps: true", "01_first: 'steps' is True (bool), expected int like the page's 10"),
        ("rate: 0.5", "seeds: 1", "02_second: 'seeds' is 1 (int), expected list like the page's [1, 2]: write [1]"),
        ("rate: 0.5", "seeds: [a]", "02_second: 'seeds' is 'a' (str), expected int like the page's 1"),
        ("rate: 0.5", "edition: mine", "02_second: parameters: 'edition' is set by the driver"),
        ("steps: 3", "output_dir: x", "defaults: 'output_dir' is set by the driver"),
        ("defaults: {steps: 3}", "defaults: [steps]", "'defaults' is ['steps'], expected a mapping of keys to values"),
        ("{steps: 3}", "{steps: 3, steps: 4}", ", line 4: not valid YAML: 'steps' is given twice"),
    ],
)  # fmt: skip
def test_a_faulty_parameter_file_is_refused_in_one_line(root, old, new, line):
    assert old in EDITION
    start = "quick.yml" if line.startswith(",") else "quick.yml: "
    assert start + line in refusals(root, EDITION.replace(old, new))


def test_broken_yaml_is_named_by_its_line(root):
    (line,) = refusals(root, EDITION.replace("{steps: 3}", "{steps: 3"))
    assert line.startswith("quick.yml, line 5: not valid YAML: expected ',' or '}'")
    assert refusals(root, "- quick") == ["quick.yml: expected a mapping of keys to values, got ['quick']"]


def test_all_problems_are_listed_at_once(root):
    lines = refusals(root, EDITION.replace("steps: 3", "step: 3").replace("rate: 0.5", "rate: x"), ["q=1"])
    assert len(lines) == 3


def test_unknown_edition_names_the_known_ones(root):
    assert edition_names(root) == ["quick"]
    assert refusals(root, base="quik") == ["unknown edition 'quik'; did you mean 'quick'?"]
    assert refusals(root, base="../params/quick")[0].startswith("unknown edition")


@pytest.mark.parametrize(
    "given, line",
    [
        ("stps=4", "-p stps=4: no page has a parameter 'stps'; did you mean 'steps'?"),
        ("steps", "-p steps: expected name=value"),
        ("output_dir=x", "-p output_dir=x: 'output_dir' is set by the driver; --name names a variant"),
        ("steps=1.5", "-p: 01_first: 'steps' is '1.5', expected int like the page's 10"),
        ("seeds=3", "-p: 02_second: 'seeds' is 3 (int), expected list like the page's [1, 2]: write [3]"),
    ],
)
def test_faulty_command_line_values(root, given, line):
    assert line in refusals(root, overrides=[given])


def test_a_variant_has_a_folder_of_its_own(root):
    named = load_edition(root, "quick", ["rate=1e-3", "steps=5"], "slow")
    assert (named.name, named.base) == ("quick+slow", "quick")
    assert named.pages["02_second"].given == {"rate": 1e-3, "steps": 5, "edition": "quick+slow"}
    assert named.pages["01_first"].given["output_dir"] == "papermill_runs/quick+slow"
    unnamed = [load_edition(root, "quick", [text]).name for text in ("rate=2", "rate=3", "rate=2")]
    assert unnamed[0] == unnamed[2] != unnamed[1] and unnamed[0].startswith("quick+")
    assert refusals(root, overrides=["steps=1"], name="../x") == [
        "--name '../x': use letters, digits, '_', '-' and '.' only"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "steps: int = 4 + later",
        "import os",
        "a = b = 1",
        "steps: int = 4  # tau = 4",
        "a: int = 1\na = 2",
        "a: int",
    ],
)
def test_a_parameter_papermill_cannot_set_is_refused(tmp_path, source):
    write_notebook(tmp_path / "x.ipynb", code(source, "parameters"))
    with pytest.raises(EditionError, match=r"x.ipynb: parameters cell, line \d: .*expected `name: type = literal"):
        declared_parameters(tmp_path / "x.ipynb")


def test_a_notebook_needs_one_parameters_cell_and_a_kernel(tmp_path):
    path = tmp_path / "x.ipynb"
    write_notebook(path, code("a = 1"))
    with pytest.raises(EditionError, match="has 0 cells tagged 'parameters', expected exactly one"):
        declared_parameters(path)
    write_notebook(path, code("a = 1", "parameters"))
    content = json.loads(path.read_text())
    assert content["metadata"] == KERNEL
    path.write_text(json.dumps(content | {"metadata": {}}))
    with pytest.raises(EditionError, match="papermill cannot read its parameters: No kernel name"):
        declared_parameters(path)
    path.write_text("{")
    with pytest.raises(EditionError, match="x.ipynb: not a readable notebook"):
        declared_parameters(path)


def test_multi_line_and_plain_parameters(tmp_path):
    write_notebook(tmp_path / "x.ipynb", code("# all\nseeds: list = [\n    1,\n    2,\n]\ntext = 'a'", "parameters"))
    declared = declared_parameters(tmp_path / "x.ipynb")
    assert {name: each.default for name, each in declared.items()} == {"seeds": [1, 2], "text": "a"}


def test_values_become_what_the_page_wants():
    value = checked(2, 1.0)
    assert value == 2.0 and isinstance(value, float)
    assert checked([1, 2.5], (1.0,)) == [1.0, 2.5]
    assert checked("x", None) == "x" and checked([], [1]) == [] and checked(["a", 1], []) == ["a", 1]
    assert parse_text("1e-3", 1.0) == 1e-3 and parse_text("07", "a") == "07" and parse_text("False", True) is False
    assert parse_text("[3, 4]", [1]) == [3, 4]
    with pytest.raises(ValueError, match="expected true or false"):
        parse_text("1", True)
    with pytest.raises(ValueError, match="write 1000"):
        checked("1e3", 1)


def test_toc_with_parts_and_a_missing_page(root):
    toc = root / "book" / "_toc.yml"
    toc.write_text(
        "format: jb-book\nroot: intro\nparts:\n- caption: A\n  chapters:\n  - file: 02_second\n"
        "    sections:\n    - file: 01_first.ipynb\n"
    )
    assert [path.name for path in toc_files(root)] == ["intro.md", "02_second.ipynb", "01_first.ipynb"]
    toc.write_text("format: jb-book\nroot: intro\nchapters:\n- file: 03_gone\n")
    with pytest.raises(FileNotFoundError, match="names '03_gone', but there is no book/03_gone.ipynb"):
        toc_files(root)


def test_root_is_found_from_below(root):
    assert find_root(root / "book" / "params") == root


def test_digest_follows_everything_a_run_depends_on(root):
    def digest():
        return page_digest(root, load_edition(root, "quick").pages["01_first"], shared_digests(root))

    seen = [digest()]
    assert digest() == seen[0]
    path = root / "book" / "01_first.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3"}
    notebook["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    notebook["cells"][2]["execution_count"] = 3
    path.write_text(json.dumps(notebook))
    assert digest() == seen[0], "outputs and metadata must not matter"
    notebook["cells"][0]["source"] = "# Changed"
    path.write_text(json.dumps(notebook))
    seen.append(digest())
    rewrite(root, EDITION.replace("steps: 3", "steps: 4"))
    seen.append(digest())
    notebook["cells"][2]["source"] = "%matplotlib inline\nfrom cat_core import curves"
    notebook["cells"].append(code("%%bash\nls | wc"))  # no Python: nothing is imported there
    path.write_text(json.dumps(notebook))
    seen.append(digest())
    for name in ("curves", "ranking", "__init__"):  # imported, imported by that, and the package of both
        source = root / "cat_core" / f"{name}.py"
        source.write_text(f"{source.read_text()}\nx = 1\n")
        seen.append(digest())
    (root / "cat_core" / "loss.py").write_text("x = 1\n")
    assert digest() == seen[-1], "a module that the page does not import must not matter"
    (root / "data").mkdir()
    (root / "data" / "pairs.yaml").write_text("a: 1\n")
    seen.append(digest())
    assets = root / "book" / "cat_book" / "drawing" / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    (assets / "table.css").write_text(".cat-table{color:#111}\n")
    seen.append(digest())
    assert len(set(seen)) == len(seen) == 9


def test_files_that_parameters_name_count_unless_the_book_made_them(root, monkeypatch):
    monkeypatch.delenv("CAT_DATA_ROOT", raising=False)
    own = root / "own.jsonl"
    own.write_text("{}\n")
    (root / "papermill_runs").mkdir()
    parameters = {
        "path": "own.jsonl",
        "many": ["own.jsonl", "gone"],
        "out": "papermill_runs",
        "dot": ".",
        "n": 3,
    }
    before = data_fingerprints(root, parameters)
    assert list(before) == ["own.jsonl"]
    own.write_text("{}\n{}\n")
    assert data_fingerprints(root, parameters) != before
    folder = root / "hub"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = data_fingerprints(root, {"data_root": "hub"})
    (folder / "b").write_text("1")
    assert data_fingerprints(root, {"data_root": "hub"}) != before != {}


def test_of_a_value_that_fits_no_page_only_the_wanted_page_s_line_is_shown(root):
    both = [f"-p: {page}: 'steps' is 'abc', expected int like the page's 10" for page in ("01_first", "02_second")]
    assert refusals(root, overrides=["steps=abc"]) == both
    assert refusals(root, overrides=["steps=abc"], wanted=["02_second"]) == both[1:]
    assert refusals(root, overrides=["steps=abc"], wanted=["01"]) == both[:1]
    assert refusals(root, overrides=["rate=x"], wanted=["01"]) == [
        "-p: 02_second: 'rate' is 'x', expected float like the page's 1.0"
    ], "the variant would hold it"
    mixed = refusals(root, EDITION.replace("rate: 0.5", "rate: fast"), ["steps=abc"], wanted=["01"])
    assert len(mixed) == 2 and "'rate' is 'fast'" in mixed[0] and mixed[1] == both[0]


PAIRED = EDITION.replace("defaults:", "pair: smollm2-cut\ndefaults:", 1)


@pytest.fixture
def paired(root, monkeypatch, tmp_path):
    """A project whose pages take models, and whose edition names a pair; `put_pair` puts it where it belongs."""
    monkeypatch.setenv("CAT_MODELS", str(tmp_path / "models"))
    (root / "data").mkdir(exist_ok=True)
    shutil.copy(ROOT / "data" / "pairs.yaml", root / "data")
    lines = ('suite: str = "x"', 'small: str = "hidden 4"', 'large: str = "hidden 8"', "steps: int = 5  # how many")
    write_notebook(root / "book" / "01_first.ipynb", code("\n".join(lines), "parameters"))
    text = PAIRED + "without_pair:\n  defaults: {steps: 9}\n  pages: {01_first: {small: hidden 2}}\n"
    rewrite(root, text)
    return root


def test_pages_take_the_pair_of_the_edition_where_it_is_there(paired, tmp_path):
    put_pair(tmp_path / "models")
    page = load_edition(paired, "quick").pages["01_first"]
    assert page.effective["large"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert page.effective["small"].startswith("cut 6 of ") and page.effective["steps"] == 3 and not page.remark


def test_without_the_pair_pages_take_what_the_file_has_in_its_place_and_say_so(paired):
    edition = load_edition(paired, "quick")
    page, other = edition.pages.values()
    assert edition.name == "quick" and edition.missing == "smollm2-cut"
    assert page.effective | {"steps": 9, "small": "hidden 2", "large": "hidden 8"} == page.effective
    assert "Instead of the pair `smollm2-cut` this page trains one from scratch" in page.remark
    assert "could not be fetched" in page.remark and other.effective["steps"] == 3 and not other.remark


def test_another_pair_or_none_is_a_variant(paired, tmp_path):
    put_pair(tmp_path / "models")
    none = load_edition(paired, "quick", ["pair=none"])
    assert none.name == "quick+none" and not none.missing and none.pages["01_first"].effective["small"] == "hidden 2"
    assert "so it was asked for" in none.pages["01_first"].remark
    assert load_edition(paired, "quick", ["pair=smollm2-cut"]).name == "quick"
    both = load_edition(paired, "quick", ["pair=none", "steps=4"])
    assert both.pages["01_first"].effective["steps"] == 4 and both.name not in ("quick+none", "quick")
    assert load_edition(paired, "quick", ["pair=none"], "mine").name == "quick+mine"


@pytest.mark.parametrize(
    "change, overrides, line",
    [
        (("pair: smollm2-cut", "pair: smolm2-cut"), (), "unknown pair 'smolm2-cut'; did you mean 'smollm2-cut'?"),
        (None, ("pair=non",), "unknown pair 'non'; did you mean 'none'?"),
        (("{steps: 9}", "{step: 9}"), (), "without_pair: defaults: unknown key 'step'"),
        (("{small: hidden 2}", "{smal: hidden 2}"), (), "without_pair: 01_first: unknown key 'smal'"),
        (("pages: {01_first", "pages: {01_frist"), (), "without_pair: pages: unknown key '01_frist'"),
    ],
)
def test_what_is_wrong_with_pairs_is_one_line(paired, change, overrides, line):
    path = paired / "book" / "params" / "quick.yml"
    if change:
        text = path.read_text()
        head, _, tail = text.rpartition(change[0])
        rewrite(paired, head + change[1] + tail)
    with pytest.raises(SchemaError) as caught:
        load_edition(paired, "quick", overrides)
    (said,) = str(caught.value).splitlines()
    assert line in said
