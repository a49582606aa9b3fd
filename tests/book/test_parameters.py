"""Parameters that are fields of an experiment: what a page says of them is what the library says."""

import pytest
from cat_book.build import parameters
from cat_book.build.editions import declared_parameters, notebook_paths, read_notebook, tags
from small_book import ROOT, code, make_project, write_notebook

from cat_core.training.experiment import Experiment

PAGES = {
    name: path
    for name, path in notebook_paths(ROOT).items()
    if any(parameters.CALL.search(cell["source"]) for cell in read_notebook(path)["cells"])
}
MIXING = {"mixing_cap", "mixing_rounds"}
WITHOUT = {
    "01_cascades": MIXING,
    "02_cat_loss": MIXING | {"max_new_tokens", "prediction", "stop", "defer_empty"},
    "04_superglue": MIXING,
    "05_wmt22": MIXING,
    "06_flan2021": set(),
    "12_your_own": MIXING | {"label_weight", "temperature", "normalize"},
}
"""Page -> the fields that it does not need: one that is no mixture, lets no model answer, or is about no loss."""


def test_the_pages_that_make_an_experiment_are_known():
    assert set(PAGES) == set(WITHOUT)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_has_every_field_that_it_needs_in_the_words_of_its_declaration(page):
    (source,) = [cell["source"] for cell in read_notebook(PAGES[page])["cells"] if "parameters" in tags(cell)]
    assert source == parameters.written_anew(source), "python -m cat_book.build.parameters writes it anew"
    found = declared_parameters(PAGES[page])
    assert set(parameters.FIELDS) - set(found) == WITHOUT[page]
    assert {name: found[name].help for name in parameters.FIELDS if name in found} == {
        name: field.metadata["help"] for name, field in parameters.FIELDS.items() if name in found
    }


def test_lines_of_fields_are_written_anew_and_all_others_left():
    source = 'steps: float = 4  # how long\nbudget: float = 0.3  # of L\nseeds = [0, 1]\nsuite: str = "a # b"  # c'
    assert parameters.written_anew(source).splitlines() == [
        "steps: int = 4  # optimiser steps of S; None: by kind of start, from scratch or loaded",
        "budget: float = 0.3  # of L",
        "seeds: list = [0, 1]  # training seeds of S; two or more for a verdict",
        'suite: str = "a # b"  # built-in, of the registry, several joined by +, or a JSONL file',
    ]


@pytest.mark.parametrize("call", ["Experiment.from_parameters(globals())", "Results.of(globals(), origin)"])
def test_the_tool_writes_the_pages_that_make_an_experiment(tmp_path, monkeypatch, call):
    root = make_project(tmp_path)
    monkeypatch.chdir(root)
    first, second = (root / "book" / f"{name}.ipynb" for name in ("01_first", "02_second"))
    write_notebook(first, code("steps: int = 10  # how many", "parameters"), code(f"e = {call}"))
    before = second.read_bytes()
    parameters.main()
    assert declared_parameters(first)["steps"].help.startswith("optimiser steps of S; None")
    assert second.read_bytes() == before
    again = first.read_bytes()
    parameters.main()
    assert first.read_bytes() == again


def test_an_experiment_takes_the_fields_that_pages_may_have():
    given = {"suite": "mini-wmt", "steps": 3, "large_steps": 4, "learning_rate": 0.01, "large_learning_rate": 0.02}
    given |= {"small": "hidden 8, layers 1, heads 2", "large": "hidden 8, layers 1, heads 2", "seeds": [4, 5]}
    others = {"budget": 0.3, "edition": "quick", "teacher": object(), "data": None}  # variables of a page
    assert Experiment.from_parameters(given | others) == Experiment.of(**given)
    with pytest.raises(ValueError, match="'suite', 'large_steps' missing"):
        Experiment.from_parameters({k: v for k, v in given.items() if k not in ("suite", "large_steps")})
    with pytest.raises(ValueError, match="unknown parameter 'stps'; did you mean 'steps'"):
        Experiment.of(**given, stps=3)
    with pytest.raises(ValueError, match="steps is '3'; expected int"):
        Experiment.from_parameters(given | {"steps": "3"})
