"""The map of where CAT-Xent saves: places from metrics, the grid, and the sentence."""

from dataclasses import replace

import pytest
from browser import browser_session
from cat_book.build.slides import cut
from cat_book.pages import regimes_report
from small_cells import made
from small_tables import table

from cat_core.analysis.metrics import TokenMetrics
from cat_core.analysis.publish import publish
from cat_core.analysis.quantities import Undefined, show_number
from cat_core.ranking import Interval


def cell(folder, name, saving, rng=0, study="regimes", noise=0.05, width=4, steps=750):
    frame = table(seeds=(0, 1, 2), large_seeds=(3, 7), n=40, rng=rng)
    tokens = {"cat-xent": TokenMetrics(0.5, 1.0, 0.5, 1.0, 0.1, keep_rate=0.8)} if study == "regimes" else {}
    found = made(folder / name, name, frame, savings={"cat-xent - xent": saving}, tokens=tokens)
    size = f"hidden {width}, layers 1, heads 2"
    config = {"suite_options": {"noise": noise}, "small": size, "context": 64, "steps": steps}
    return replace(found, study=study, config=config)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    savings = [Interval(0.2, 0.1, 0.3), Interval(0.1, 0.0, 0.2), Interval(0.0, -0.1, 0.1)]
    grid = [
        cell(folder, f"n{i}w{width}", saving, i, noise=0.05 + i / 10, width=width)
        for i, saving in enumerate(savings)
        for width in (4, 8)
    ]
    named = cell(folder, "named", Interval(-0.3, -0.4, -0.2), 9, study="made")
    return [*grid, named, cell(folder, "silent", Undefined("nothing to save"), 5)]


def test_places_are_read_from_the_metrics(cells, tmp_path):
    found = regimes_report.places(cells)
    assert len(found) == 7 and found[-1].grid is None
    assert [p.grid for p in found[:2]] == [(0.05, 4, 750), (0.05, 8, 750)]
    assert [p.sign for p in found] == [1, 1, 0, 0, 0, 0, -1]  # an interval that ends at 0 does not exclude it
    m = cells[0].metrics()
    assert found[0].neither == m.methods["xent"].sequence_ledger[3]
    c = cells[0].comparison()
    assert found[0].ahead == pytest.approx(100 * (c.large_alone().estimate - c.alone("xent").estimate))
    assert found[0].dropped == pytest.approx(0.2) and isinstance(found[-1].dropped, Undefined)
    written = regimes_report.numbers(found)
    assert written[0]["saving"] == {"estimate": 0.2, "low": 0.1, "high": 0.3} and "grid" not in written[-1]
    publish(tmp_path, "map", None, {"map": written})


def test_figures_and_the_sentence(cells):
    found = regimes_report.places(cells)
    grid = regimes_report.grid_figure(found, cells, "Figure 1")
    assert "n0w4" in grid.alt and "named" not in grid.alt
    drawn = regimes_report.map_figure(found, cells, "Figure 2")
    assert list(drawn.parts) == [p.label for p in found] and drawn.caption.startswith("Figure 2: all recorded cells")
    words = regimes_report.tally_words(found)
    assert words.startswith("CAT-Xent saves in 2 and costs in 1 of 7 cells, by intervals; where")
    assert regimes_report.tally_words([]) == "nothing is recorded yet"
    assert regimes_report.grid_figure([], []).rows[0][0] == regimes_report.map_figure([], []).rows[0][0] == "none"


def test_cells_of_the_map_are_pointed_at_tapped_and_chosen_by_key(cells, tmp_path):
    found = regimes_report.places(cells)
    page_file, shown = tmp_path / "map.html", ".cx-panels > div:not(.cx-hidden) dd"
    head = '<!doctype html><html lang="en"><title>t</title><meta name="viewport" content="width=device-width"><body>'
    html = regimes_report.map_figure(found, cells, "Figure 2")._repr_html_()
    page_file.write_text(head + html, encoding="utf-8")
    assert cut(html, "Figure 2") == html.strip(), "slides find it"
    marks = "[...document.querySelectorAll('.cx-plane [data-i]')]"
    middle = f"(i => (b => [b.x + b.width / 2, b.y + b.height / 2])({marks}[i].querySelector('.cx-ring')"
    middle += ".getBoundingClientRect()))"
    with browser_session() as browser:
        with browser.open(page_file, width=390, height=800) as page:
            assert page.evaluate(f"{marks}.length") == 7 and page.texts(shown)[0] == found[0].label
            page.raw.mouse.move(*page.evaluate(f"{middle}(6)"))  # pointing is enough
            assert page.texts(shown)[:2] == [found[6].label, "\u221230\u00a0% [\u221240,\u00a0\u221220]"]
            x, y = page.evaluate(f"{middle}(0)")
            page.raw.mouse.click(x + 9, y)  # a finger is wider than a mark; of marks at one place any will do
            assert page.texts(shown)[1] in {show_number(p.saving, regimes_report.SAVED) for p in found[:6]}
            page.focus("select")
            page.press("End", "ArrowUp")
            assert page.texts(shown)[0] == found[5].label and page.overflow() <= 0
            assert page.evaluate(f"{marks}.map(e => e.classList.contains('cx-chosen'))") == [i == 5 for i in range(7)]
            page.raw.emulate_media(media="print")
            assert page.evaluate("[...document.querySelectorAll('.cx-facts')].every(e => e.offsetParent)")
        with browser.open(page_file, javascript=False) as page:
            assert page.count(".cx-panels > div:not(.cx-hidden)") == 7


def test_an_older_recording_is_read_from_its_claims(cells):
    m = replace(cells[0].metrics(), savings={})
    assert str(regimes_report.saving_of(m)) == str(regimes_report.NOT_THERE)
    about = {"claim": "C1", "role": "primary", "family": "CAT-Xent", "share": True, "number": Interval(0.1, 0, 0.2)}
    row = replace(cells[0].metrics().claims[0], **about)
    assert regimes_report.saving_of(replace(m, claims=(row,))) == Interval(0.1, 0, 0.2)


def test_labels_stay_in_the_frame_and_apart(cells):
    (place, *_, far), saving = regimes_report.places(cells)[-1:] * 2, Interval(0.0, -0.1, 0.1)
    left = replace(place, label="a", neither=0.1, ahead=5.0, saving=saving)
    near = replace(left, label="b", neither=0.12, ahead=5.1)
    right = replace(far, label="c", neither=0.7, ahead=20.0)
    found = regimes_report.label_places([right, near, left], [left, near, right])
    assert [found[p] for p in (left, near, right)] == [(1, 4), (1, -11), (-1, 4)]
    assert regimes_report.label_places([left], [left]) == {left: (1, 4)}
