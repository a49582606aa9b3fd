"""A page's parameters: unknown names and values that cannot be are refused in its first cell, all at once, by name."""

import os
import time

import papermill
import pytest
from cat_book.build.editions import (
    declared_parameters,
    edition_names,
    load_edition,
    notebook_paths,
    read_notebook,
    tags,
)
from cat_book.pages import parameters
from IPython.core.interactiveshell import InteractiveShell
from papermill.exceptions import PapermillExecutionError
from small_book import ROOT, put_pair

PAGES = notebook_paths(ROOT)


def cells_of(page, **given):
    """The sources of a page's parameters cell and of the one that papermill would put below it."""
    (source,) = [cell["source"] for cell in read_notebook(PAGES[page])["cells"] if "parameters" in tags(cell)]
    lines = "\n".join(f"{name} = {value!r}".replace("= nan", '= float("nan")') for name, value in given.items())
    return [source, f"# Parameters\n{lines}\n"] if given else [source]


def check(page, **given):
    """What the check of a page's parameters says of these values, as lines."""
    shell = InteractiveShell()
    for source in cells_of(page, edition="test", **given):
        shell.run_cell(source, store_history=True).raise_error()
    try:
        parameters.check(shell.user_ns, page)
    except parameters.ParameterError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_page_checks_its_parameters_first_and_its_own_values_are_sound(page):
    first = [cell["source"] for cell in read_notebook(PAGES[page])["cells"] if cell["cell_type"] == "code"][1]
    assert f'\nparameters.check(globals(), "{page}")\n' in f"{first}\n"
    assert check(page) == []
    known = {**parameters.declared(cells_of(page))}
    assert set(known) == set(declared_parameters(PAGES[page]))


@pytest.mark.parametrize("pair", ["with its pair", "without"])
@pytest.mark.parametrize("name", edition_names(ROOT))
def test_what_an_edition_gives_a_page_is_sound(name, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("CAT_MODELS", str(tmp_path))
    if pair == "with its pair":
        put_pair(tmp_path)
    pages = load_edition(ROOT, name).run_pages
    for page in pages.values():
        given = {key: value for key, value in page.given.items() if key != "edition"}
        assert check(page.name, **given) == [], page.name
    if name == "quick":
        assert bool(pages["04_superglue"].remark) == (pair == "without")


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_name_that_a_page_does_not_have_is_refused(page):
    (line,) = check(page, output_dri="x")
    assert line == "output_dri is no parameter of this page; did you mean 'output_dir'?"


def test_all_faults_are_listed_at_once_each_by_its_own_name():
    wrong = {"budget": 30, "learning_rate": 5, "large_steps": -1, "steps": -1, "temperature": float("nan"),
             "stepz": 100, "seeds": 3, "methods": ["xnt"], "recorded": "reference/mini"}  # fmt: skip
    lines = check("04_superglue", **wrong)
    assert {line.split(" ")[0] for line in lines} == set(wrong)
    assert "stepz is no parameter of this page; did you mean 'steps'?" in lines
    assert "budget is 30; expected a share above 0 and at most 1" in lines
    assert "learning_rate is 5; expected a learning rate above 0 and at most 1" in lines
    assert 'seeds is 3; expected a list: with papermill write -y "seeds: [3]"' in lines
    assert "temperature is nan; expected a finite number" in lines


@pytest.mark.parametrize(
    ("page", "given", "said"),
    [
        ("04_superglue", {"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number"),
        ("04_superglue", {"steps": 0}, "steps is 0: a model built from scratch has to be trained; expected at least 1"),
        ("05_wmt22", {"large_batch_size": 0}, "large_batch_size is 0; expected a whole number >= 1"),
        ("05_wmt22", {"suite": 5}, "suite is 5; expected a text: with papermill write -r suite 5"),
        ("04_superglue", {"stop": "a\nb"}, 'stop is \'a\\nb\'; expected a list: with papermill write -y "stop: [a b]"'),
        ("04_superglue", {"seeds": "1" * 999}, "seeds is '11111111"),
        ("04_superglue", {"large_seeds": [-1]}, "large_seeds: seed -1 is not a whole number from 0 to 2**32 - 1"),
        ("04_superglue", {"budget": 0}, "budget is 0; expected a share above 0 and at most 1"),
        ("04_superglue", {"learning_rate": 0}, "learning_rate is 0; expected a learning rate above 0 and at most 1"),
        ("04_superglue", {"methods": []}, "methods is []; expected a list of a training method: xent"),
        ("04_superglue", {"methods": [[]]}, "methods is [[]]; expected a list of a training method: xent"),
        ("04_superglue", {"output_dir": " "}, "output_dir is ' '; expected a folder"),
        ("02_cat_loss", {"brief_steps": True}, "brief_steps is True; expected a whole number"),
        ("03_flops", {"seed": -1}, "seed is -1; expected a whole number from 0 to 2**32 - 1"),
        ("11_systems", {"vocabulary": 7}, "vocabulary is 7; expected a whole number >= 8, as many as are kept of L"),
        ("06_flan2021", {"mixing_rounds": -1}, "mixing_rounds is -1; expected"),
        ("06_flan2021", {"suite_options": "x"}, "suite_options is 'x'; expected a mapping: with papermill write -y"),
        ("01_cascades", {"budget": float("nan")}, "budget is nan; expected a finite number"),
        ("01_cascades", {"small": "hidden 12 layers 2"}, "model 'hidden 12 layers 2': a comma is missing"),
        ("02_cat_loss", {"brief_steps": 0}, "brief_steps is 0; expected a whole number >= 1"),
        ("03_flops", {"small": "hidden 8"}, "small: model 'hidden 8': layers, heads missing"),
        ("03_flops", {"queries": 0}, "queries is 0; expected a whole number >= 1"),
        ("07_baselines", {"reference": True}, "reference is True; expected a list"),
        ("08_ablations", {"changes": [3]}, "changes is [3]; expected a list of names of studies"),
        ("09_limits", {"shift_method": "dst"}, "shift_method is 'dst'; expected a training method: xent"),
        ("10_claims", {"studies": "real"}, 'studies is \'real\'; expected a list: with papermill write -y "studies'),
        ("11_systems", {"keep_rate": 2}, "keep_rate is 2; expected a share above 0 and at most 1"),
    ],
)
def test_one_fault_is_one_line(page, given, said):
    (line,) = check(page, **given)
    assert line.startswith(said) and len(line) < 300


def test_the_last_of_papermills_cells_counts():
    shell = InteractiveShell()
    cells = [*cells_of("04_superglue", edition="test", stepz=1), cells_of("04_superglue", edition="test", steps=1)[1]]
    for source in (*cells, "own = 1"):
        shell.run_cell(source, store_history=True).raise_error()
    parameters.check(shell.user_ns, "04_superglue")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"train_options": {"train": 10}}, "train_options are those of train_suite, which is not given"),
        ({"large_train_layers": 2}, "large_train_layers is 2: for loaded models only, and these start from scratch"),
        ({"healing_steps": -1}, "healing_steps is -1; expected a number >= 0"),
    ],
)
def test_fields_that_need_others_are_judged_with_them(given, said):
    (line,) = check("04_superglue", **given)
    assert said in line


def test_models_of_two_kinds_are_found_out_together():
    (line,) = check("04_superglue", small="some/model")
    assert line.startswith("small 'some/model' and large 'hidden 96, layers 2, heads 4': build both from scratch")
    assert check("04_superglue", small="hidden 4, layers 1, heads 1", large="hidden 4, layers 1, heads 1") == []


def test_a_notebook_shows_the_lines_and_no_traceback(capsys):
    shell = InteractiveShell()
    for source in (*cells_of("04_superglue", stepz=1, budget=30),
                   "from cat_book.pages import parameters\nparameters.check(globals(), '04_superglue')"):  # fmt: skip
        shell.run_cell(source, store_history=True)
    assert capsys.readouterr().out.splitlines() == [
        "error: stepz is no parameter of this page; did you mean 'steps'?",
        "error: budget is 30; expected a share above 0 and at most 1",
    ]


def test_what_an_earlier_run_by_hand_has_left_is_said(tmp_path, capsys):
    given = {"edition": "", "output_dir": str(tmp_path), "page": 1}
    namespace = given | {"In": ["", 'edition: str = ""\noutput_dir: str = "x"']}
    parameters.check(namespace, "04_superglue")
    assert capsys.readouterr().out == ""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "04_superglue.json").write_text("{}")
    parameters.check(namespace, "05_wmt22")
    assert capsys.readouterr().out == ""
    parameters.check(namespace, "04_superglue")
    said = capsys.readouterr().out
    assert said.startswith(f"Note: {tmp_path.as_posix()} holds what this page gave at ") and "-p output_dir" in said
    parameters.check(namespace | {"edition": "quick"}, "04_superglue")
    assert capsys.readouterr().out == "", "an edition's folder is its own"


@pytest.mark.slow
def test_papermill_stops_in_the_first_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "book"))))
    began = time.monotonic()
    with pytest.raises(PapermillExecutionError) as stopped:
        papermill.execute_notebook(
            PAGES["04_superglue"], tmp_path / "out.ipynb", {"stepz": 100, "large_steps": -2}, cwd=ROOT,
            kernel_name="python3", progress_bar=False,
        )  # fmt: skip
    assert stopped.value.ename == "ParameterError" and stopped.value.exec_count == 3
    assert stopped.value.traceback == [
        "error: stepz is no parameter of this page; did you mean 'steps'?",
        "error: large_steps is -2; expected a number >= 0",
    ]
    assert time.monotonic() - began < 60
