"""The exercises of every page: three levels, a prediction, an answer that is checked, a solution that runs."""

import base64
import json
import re

import pytest
from browser import browser_session
from cat_book.build.editions import notebook_paths, read_notebook, tags
from small_book import ROOT

PAGES = notebook_paths(ROOT)
LEVELS = ("Level 1, read off: ", "Level 2, compute: ", "Level 3, investigate: ")
ON_RECORDED = {"07_baselines": 3, "08_ablations": 1, "10_claims": 1}
"""Exercises on a recorded cell, which the copy of the project that tests build does not hold."""
ASKED = re.compile(r"^```\{exercise\} (.*?)\n:label: (\S+)\n\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def asked(path):
    """label -> (place of its cell, title, text) of a page's exercises."""
    cells = read_notebook(path)["cells"]
    found = [(i, *match.groups()) for i, cell in enumerate(cells) if cell["cell_type"] == "markdown"
             for match in ASKED.finditer(cell["source"])]  # fmt: skip
    return cells, {label: (i, title, text) for i, title, label, text in found}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_three_levels_one_prediction_and_a_check_each(page):
    cells, exercises = asked(PAGES[page])
    assert len(exercises) >= 3
    titles = [title for _, title, _ in exercises.values()]
    assert all(title.startswith(LEVELS) and title[-1].strip() for title in titles), titles
    assert [title[:7] for title in titles] == sorted(title[:7] for title in titles), "from the easy to the open ones"
    assert all(any(title.startswith(level) for title in titles) for level in LEVELS), "one of each level"
    assert any("**Predict, then run.**" in text for _, _, text in exercises.values())
    for label, (place, _, _) in exercises.items():
        after, checks = place + 1, []
        while cells[after]["cell_type"] == "code":
            checks.append(cells[after])
            after += 1
        source = "".join(cell["source"] for cell in checks)
        assert f'Check("{label}"' in source, f"{label}: no field for its answer"
        assert all("hide-input" in tags(cell) for cell in checks), f"{label}: what is right stands in sight"
        assert f"{{solution-start}} {label}\n:class: dropdown" in cells[after]["source"]
        solution = "".join(cell["source"] for cell in cells[after + 1 :][: _codes(cells[after + 1 :])])
        assert "assert " in solution and ".right(" in solution, f"{label}: the solution is not held to the check"


def _codes(cells) -> int:
    """How many code cells come first."""
    return next(i for i, cell in enumerate(cells) if cell["cell_type"] != "code")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_built_page_takes_the_answer_that_its_run_found(book, page):
    _, exercises = asked(PAGES[page])
    with browser_session() as browser, browser.open(book[0] / "_build" / "html" / f"{page}.html") as opened:
        fields = opened.raw.locator(".cat-check")
        assert fields.count() == len(exercises) - ON_RECORDED.get(page, 0)
        for i in range(fields.count()):
            one = fields.nth(i)
            data = json.loads(base64.b64decode(one.get_attribute("data-check")))
            said = one.locator(".cx-said")
            if "right" in data:
                boxes = one.locator("input")
                for place in data["right"]:
                    boxes.nth(place).check()
            else:
                one.locator("input").fill(str(data["high"] + 1))
                one.get_by_role("button").click()
                assert said.text_content() == data["no"]
                one.locator("input").fill(str((data["low"] + data["high"]) / 2))
            one.get_by_role("button").click()
            assert said.text_content() == data["yes"]
            assert not one.locator("xpath=ancestor::details").count(), "the field is not folded away with its code"
