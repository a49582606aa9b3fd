"""Every number in prose can be traced: none is typed, glued ones stand in the metrics of their page, and the metrics of
recorded cells follow from their tables."""

import json
import re

import nbformat
import numpy as np
import pytest
from cat_book.build.editions import declared_parameters, notebook_paths, read_notebook
from glued_numbers import glued, leaves, texts_of, untraced
from small_book import ROOT, code, markdown

from cat_core.curves import audc
from cat_core.studies.cell_metrics import deciding
from cat_core.studies.study import load_study, study_names

PAGES = notebook_paths(ROOT)
TEXTS = {"README": ROOT / "README.md"} | {n: ROOT / "book" / f"{n}.md" for n in ("intro", "about", "glossary")}

# ---------------------------------------------------------------- (a) typed numbers

ALLOWED = {
    ("README", "2.0"): "size of the environment; no page can measure it",
    ("intro", "90"): "length of a lecture",
    ("01_cascades", "0.30"): "one of the invented confidences in the cell above",
    ("02_cat_loss", "60 %"): "a shape of data that the page sets up, an exact calculation",
    ("02_cat_loss", "40 %"): "the same",
    ("03_flops", "13 %"): "a third party's note, named as such",
    ("03_flops", "30 %"): "rate set in the code of the simulation",
    ("04_superglue", "10"): "one of comparison.BUDGETS",
    ("04_superglue", "25"): "the same",
    ("04_superglue", "10 %"): "claims.EASY",
    ("10_claims", "2"): "claims.SURE_GAP",
    ("10_claims", "60 %"): "claims.NEITHER",
    ("10_claims", "90 %"): "level of the test of equivalence, claims.ClaimRow.narrow",
    ("README", "90 %"): "the same",
    ("README", "5 %"): "claims.WORTH",
    ("about", "90 %"): "level of the test of equivalence, claims.ClaimRow.narrow",
    ("about", "5 %"): "claims.WORTH",
    ("about", "2"): "claims.MARGIN",
    ("about", "13 %"): "saving.SIZES, second hand, named as such",
    ("07_baselines", "30 %"): "design of study controls, data/studies/controls.yaml",
    ("05_wmt22", "50"): "convention for a right answer, comparison.Comparison.right_at",
}
"""Numbers that may stand in the prose though no rule below lets them through: (page, number) -> why."""

FENCED = re.compile(r"^(`{3,})(?:\{(?:math|exercise|glue|code-cell)\}|[a-z]*\n).*?^\1[ ]*$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^`{3,}.*$", re.MULTILINE)  # of a directive whose text is prose
MADE = re.compile(r"^<!-- (benchmarks|verdicts):.*?^<!-- end of \1 -->$", re.DOTALL | re.MULTILINE)  # see test_readme
EXERCISE = re.compile(r"^(`{3,})\{exercise\}.*?^\1[ ]*$", re.DOTALL | re.MULTILINE)
SET_APART = (
    re.compile(r"\$\$.*?\$\$|\$[^$]+\$", re.DOTALL),
    re.compile(r"\{[\w:]+\}`[^`]*`|`[^`]*`"),
    re.compile(r"\]\([^)]*\)|^:\w+:.*$|<[^>]+>", re.MULTILINE),
    re.compile(r"\bFigures? \d+|\bPython 3\.\d+( to 3\.\d+)?|\bCC BY \d\.\d|\bissue \d+|^\s*\d+\. ", re.MULTILINE),
)
CITED = re.compile(r"\{cite(:\w)?\}`|arXiv \d{4}\.\d{5}|^> \*\*C\d+\.\*\*", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])(?<![A-Za-z]-)\d(?:[\d.,]*\d)?(?:\s*%)?")
ENDS = {"0", "1", "100", "100 %"}  # of a scale: shares, the side of an interval, a percentage


def typed_numbers(text: str, defined: set[str] = frozenset()) -> list[str]:
    """The numbers in the prose of a Markdown text that no rule lets through.

    Let through: numbers in math, code, roles, link targets, exercises and names (C1, WMT22); in a paragraph with a
    citation, and in a claim of the paper; labels of figures and versions, and reading times; the ends of a scale; and
    `defined`: what parameters and exercises of the page set.
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", FENCE.sub("", FENCED.sub("", MADE.sub("", text)))):
        if CITED.search(paragraph) or all(line.startswith("    ") for line in paragraph.splitlines() if line):
            continue
        for pattern in SET_APART:
            paragraph = pattern.sub(" ", paragraph)
        numbers = (" ".join(number.split()) for number in NUMBER.findall(paragraph))
        found += [number for number in numbers if number not in ENDS | set(defined)]
    return found


def defined_numbers(page: str) -> set[str]:
    """The numbers that a page's parameters and exercises set, as prose writes them."""
    defaults = list(leaves([parameter.default for parameter in declared_parameters(PAGES[page]).values()]))
    numbers = [x for x in defaults if isinstance(x, int | float) and not isinstance(x, bool)]
    found = {form for x in numbers for form in (f"{x:g}", f"{x:,}", f"{100 * x:g} %")}
    exercises = (match[0] for text in texts_of(read_notebook(PAGES[page])) for match in EXERCISE.finditer(text))
    exercises = (re.sub(r"\{exercise\} Level \d", "", text) for text in exercises)
    return found | {" ".join(n.split()) for text in exercises for n in NUMBER.findall(text)}


@pytest.fixture(scope="module")
def typed() -> dict[str, list[str]]:
    found = {page: [n for text in texts_of(read_notebook(path)) for n in typed_numbers(text, defined_numbers(page))]
             for page, path in PAGES.items()}  # fmt: skip
    return found | {name: typed_numbers(path.read_text(encoding="utf-8")) for name, path in TEXTS.items()}


@pytest.mark.parametrize("place", [*TEXTS, *sorted(PAGES)])
def test_no_number_is_typed(typed, place):
    unknown = [number for number in typed[place] if (place, number) not in ALLOWED]
    assert unknown == [], "glue it from the run, or say in ALLOWED why it is no result"


def test_every_exception_is_needed(typed):
    assert [(place, number) for place, number in ALLOWED if number not in typed[place]] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_planted_number_is_found_in_every_cell(page):
    for text in texts_of(read_notebook(PAGES[page])):
        planted = text + "\n\nOn the test items S reaches 73.41 %, 2.9 points more."
        assert typed_numbers(planted, defined_numbers(page))[-2:] == ["73.41 %", "2.9"], text[-200:]


@pytest.mark.parametrize(
    "text, found",
    [
        ("gains 1.3 points", ["1.3"]),
        ("in 12 of 20 cells", ["12", "20"]),
        ("from 1,204 to 3 000 queries", ["1,204", "3", "000"]),
        ("| S | 61.0 |", ["61.0"]),
        ("```{note}\nIt takes 9 seconds.\n```", ["9"]),
        ("C1 of WMT22 with PaLM-2, $x = 3$, `steps=5`, {glue:text}`n:.2f`, [x](a7.md)", []),
        ("{cite}`someone2024` report 1.3 points", []),
        ("Figure 3 has an interval above 0, between 0 and 1, or at 100 %", []),
        ("```\n-p steps 200\n```\n\n    papermill -p steps 7", []),
    ],
)
def test_rule_for_typed_numbers(text, found):
    assert typed_numbers(text) == found


# ---------------------------------------------------------------- (b) glued numbers


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PAGES))
def test_what_is_glued_stands_in_the_metrics_of_the_run(book, page):
    folder = book[0] / "papermill_runs" / "test"
    notebook = nbformat.read(folder / f"{page}.ipynb", as_version=4)
    metrics = json.loads((folder / "metrics" / f"{page}.json").read_text(encoding="utf-8"))["metrics"]
    assert glued(notebook)
    assert untraced(notebook, metrics) == []


def executed(**values):
    """A page that has glued `values`, as papermill leaves it."""
    cell = code("glue()")
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data",
            {"application/papermill.record/text/plain": repr(value)},
            metadata={"scrapbook": {"mime_prefix": "application/papermill.record/", "name": name}},
        )
        for name, value in values.items()
    ]
    return nbformat.v4.new_notebook(cells=[cell, markdown("S reaches {glue:text}`alone:.1f` %. {glue:text}`said`")])


def test_a_glued_value_that_is_not_in_the_metrics_is_found():
    said = "AUDC: +0.29 [−0.27, +0.89]; verdict: undecided, in 3 of 4 cells."
    page = executed(alone=52.2133, said=said, minutes=1.5)
    interval = {"estimate": 0.0028794, "low": -0.0026965, "high": 0.008948}
    metrics = {"headline": {"alone": 52.2133, "said": said}, "audc": interval}
    assert untraced(page, metrics) == []
    assert untraced(page, {"alone": 52.2133, "said": said, "deep": [interval]}) == []
    assert untraced(page, metrics | {"headline": {"alone": 52.2, "said": said}}) == [
        "alone is glued as 52.2133, the metrics have 52.2"
    ]
    assert untraced(page, metrics | {"audc": interval | {"high": 0.0095}}) == [
        "said says 0.89, which is not in the metrics"
    ]
    assert untraced(page, {"audc": interval})[0] == "alone is glued as 52.2133, the metrics have None"
    assert untraced(executed(alone=1.0, said="Qwen2.5-7B"), {"alone": 1.0, "said": "Qwen2.5-7B"}) == []  # a name
    assert untraced(executed(said="x"), {"said": "x"}) == ["the prose asks for alone, which is not glued"]


# ---------------------------------------------------------------- recorded cells

RECORDED = [(study, name) for study in study_names(ROOT) for name in load_study(study, ROOT).recorded]


@pytest.mark.parametrize("study, name", RECORDED, ids="/".join)
def test_metrics_of_a_recorded_cell_follow_from_its_table(study, name):
    """Point estimates, from the table and each seed's curve; intervals would take as long as recording them."""
    cell = load_study(study, ROOT).cell(name)
    found, method = cell.metrics(), "cat-dist" if "cat-dist" in cell.config["methods"] else cell.config["methods"][0]
    c = deciding(cell, cell.comparison(methods=(method,)))
    row, curves = found.methods[method], [c.seed_curve(method, seed) for seed in c.seeds]
    areas = [audc(curve) for curve in curves]
    assert (found.n, found.seeds) == (c.n, cell.seeds)
    assert found.large_models == len(set(cell.config["large_seeds"]))
    assert found.audc_by_seed[method] == pytest.approx(areas, abs=1e-9)
    assert row.audc.estimate == pytest.approx(np.mean(areas), abs=1e-9)
    assert row.small_alone.estimate == pytest.approx(np.mean([curve.quality[0] for curve in curves]), abs=1e-9)
    assert found.large_alone.estimate == pytest.approx(np.mean([x.quality[-1] for x in curves]), abs=1e-9)
    assert found.large_flops == pytest.approx(c.large_flops)
    assert row.sequence_ledger == pytest.approx(c.sequence_ledger(method).shares)
    assert found.tokens[method].keep_rate == pytest.approx(cell.keep_rate(method))
    assert found.commit == cell.record["git"]["commit"]


def test_there_are_recorded_cells():
    assert RECORDED
