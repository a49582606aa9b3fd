"""Forest plots and points show the numbers they were given and leave nothing behind."""

import matplotlib
import numpy as np
import pytest
from cat_book.drawing.figures import WIDTH
from cat_book.drawing.forest import Point, Row, forest_figure, points_figure

ROWS = {
    "CAT-Dist − Dist": [Row("low $x", 1.0, -0.5, 2.0, (0.0, 3.0, -1.0)), Row("high", -1.0, -2.0, -0.2, method="dist")],
    "other": [Row("b", 0.5, 0.5, 0.5)],
}
POINTS = {
    "size": [Point("cat-dist", 10, 2, 1, 3), Point("cat-xent", 30, 1, 0, 2, hollow=True)],
    "sign": [Point("cat-dist", 10, -2, -3, -1)],
}
LABELS = {"cat-dist": "CAT-Dist − Dist", "cat-xent": "CAT-Xent − Xent"}


def lines(ax):
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in ax.get_lines()]


def test_forest_draws_dots_bars_and_zero():
    fig = forest_figure(ROWS, x_label="points")
    first, second = fig.axes
    drawn = lines(first)
    assert drawn[0][0] == [0, 0], "the line at zero"
    assert drawn[1][0] == [0, 3, -1] and all(-0.5 < y < -0.2 for y in drawn[1][1])
    assert drawn[2] == ([-0.5, 2], [0, 0]) and drawn[3] == ([1], [0])
    assert drawn[5] == ([-2, -0.2], [1, 1])
    assert [text.get_text() for text in first.get_yticklabels()] == [r"low \$x", "high"]
    assert second.get_xlabel() == "points" and first.get_title(loc="left") == "CAT-Dist − Dist"
    low, high = first.get_ylim()
    assert low > high, "the first row stands above"


def test_points_with_bound():
    fig = points_figure(POINTS, x_label="share", labels=LABELS, bound="size")
    size, sign = fig.axes
    assert (size.get_ylabel(), sign.get_ylabel()) == ("size", "sign")
    bars = [box for container in size.containers for box in container[2][0].get_segments()]
    np.testing.assert_allclose(bars[0], [[10, 1], [10, 3]])
    bound = [line for line in size.get_lines() if line.get_label().startswith("bound")]
    assert len(bound) == 1 and list(bound[0].get_xdata()) == list(bound[0].get_ydata())
    assert not [line for line in sign.get_lines() if line.get_label().startswith("bound")]
    texts = [t.get_text() for t in fig.legends[0].get_texts()]
    assert texts == ["bound: difference = share", "CAT-Dist − Dist", "CAT-Xent − Xent, one task"]


def test_text_is_large_enough_and_nothing_is_cut_off():
    before = dict(matplotlib.rcParams)
    for fig in (forest_figure(ROWS, x_label="points"), points_figure(POINTS, x_label="share", labels=LABELS)):
        fig.draw_without_rendering()
        texts = [t for t in fig.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
        assert min(t.get_fontsize() for t in texts) >= 9
        box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
        assert width == WIDTH and box.x0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("call, message", [
    (lambda: Row("a", 1, 2, 1), "low at most high"),
    (lambda: Row("a", 1, 0, 2, (float("nan"),)), "finite numbers"),
    (lambda: Point("a", 1, 1, 2, 0), "low at most high"),
    (lambda: forest_figure({}, x_label="x"), "no row to draw"),
    (lambda: points_figure({"a": []}, x_label="x", labels={}), "no point to draw"),
])  # fmt: skip
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
