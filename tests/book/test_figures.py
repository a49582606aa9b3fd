"""Figures show the numbers they were given, differ in more than colour, and reach a page with alt text."""

import base64
import io
import re
import struct

import matplotlib
import numpy as np
import pytest
from browser import browser_session
from cat_book.drawing import figures
from cat_book.drawing.figures import Curve, alt_text, caption, show
from cat_book.drawing.markup import asset
from cat_book.drawing.styles import METHOD_STYLE, TOKEN_STYLE
from matplotlib.figure import Figure

X = np.linspace(0, 1, 11)
METHODS = ("xent", "dist", "cat-xent", "cat-dist", "random-dist")


def curves(scale=1.0, methods=METHODS, band=True):
    made = []
    for i, method in enumerate(methods):
        y = 0.6 + 0.02 * i + 0.2 * X
        made.append(Curve(method, scale * X, y, *((y - 0.01, y + 0.02) if band else ())))
    return made


def drawn(ax) -> dict:
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def every_text(fig):
    fig.draw_without_rendering()
    return [t for t in fig.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]


def test_quality_flops_figure_draws_given_numbers():
    given = curves(scale=2e9)
    fig = figures.quality_flops_figure([*given, Curve("oracle", [0, 2e9], [0.6, 0.9])], large_flops=1.8e9)
    (ax,) = fig.axes
    lines = drawn(ax)
    assert set(lines) == {METHOD_STYLE[m].label for m in (*METHODS, "oracle")}
    for curve in given:
        line = lines[curve.label]
        np.testing.assert_allclose(line.get_xdata(), curve.x / 1e9)
        np.testing.assert_allclose(line.get_ydata(), 100 * curve.y)
        assert line.get_color() == METHOD_STYLE[curve.method].colour
    assert ax.get_xlabel() == "Mean GFLOPs per query" and ax.get_ylabel() == "Accuracy (%)"
    bands = [c.get_paths()[0].vertices for c in ax.collections]
    assert len(bands) == 5
    assert (bands[0][:, 1].min(), bands[0][:, 1].max()) == pytest.approx((59, 82))
    looks = {(m.get_linestyle(), str(m._unscaled_dash_pattern), m.get_marker()) for m in lines.values()}
    assert len(looks) == 6, "every line differs in dash or marker, not in colour alone"
    assert [t.get_text() for t in ax.texts] == ["L alone"]
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == list(lines)


def test_rate_axis_and_panels():
    fig = figures.quality_flops_figure(
        {"reading": curves(), "choice $x": curves(methods=("xent", "dist"))}, axis="deferral_rate",
        quality_label="BLEU", quality_scale=1.0,
    )  # fmt: skip
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["reading", r"choice \$x"]
    assert fig.axes[1].get_xlabel() == "Deferral rate (%)" and fig.axes[0].get_ylabel() == "BLEU"
    np.testing.assert_allclose(drawn(fig.axes[1])["Dist"].get_xdata(), 100 * X)
    np.testing.assert_allclose(drawn(fig.axes[1])["Dist"].get_ydata(), 0.62 + 0.2 * X)
    assert len(fig.legends) == 1 and len(fig.legends[0].get_texts()) == 5


def test_difference_figure_has_zero_line_and_band():
    fig = figures.difference_figure([Curve("cat-dist", X, X - 0.5, X - 0.6, X - 0.3)])
    (ax,) = fig.axes
    zero = [line for line in ax.get_lines() if set(line.get_ydata()) == {0.0}]
    assert len(zero) == 1 and "Difference to Xent" in ax.get_ylabel()
    np.testing.assert_allclose(drawn(ax)["CAT-Dist"].get_ydata(), 100 * (X - 0.5))
    assert ax.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(70)


def test_ledger_figure_bars_add_up():
    fig = figures.ledger_figure({"reading": (41, 5, 20, 34), "choice": (0.5, 0, 0.25, 0.25)})
    (ax,) = fig.axes
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(2, 4)
    np.testing.assert_allclose(widths, [[41, 5, 20, 34], [50, 0, 25, 25]])
    starts = np.array([bar.get_x() for bar in ax.patches]).reshape(2, 4)
    np.testing.assert_allclose(starts, np.cumsum(widths, axis=1) - widths)
    assert [bar.get_hatch() or "" for bar in ax.patches[:4]] == [s.hatch for s in TOKEN_STYLE.values()]
    assert [t.get_text() for t in ax.texts] == ["41", "20", "34", "50", "25", "25"]  # 5 % is too narrow
    assert [t.get_text() for t in ax.get_yticklabels()] == ["reading", "choice"]


def test_training_figure():
    fig = figures.training_figure(curves(scale=200), y_label="Keep-rate")
    assert fig.axes[0].get_xlabel() == "Training step" and fig.axes[0].get_ylabel() == "Keep-rate"
    np.testing.assert_allclose(drawn(fig.axes[0])["Random mask"].get_ydata(), 0.68 + 0.2 * X)


def all_figures():
    return [
        figures.quality_flops_figure(curves(1e6), large_flops=1e6),
        figures.difference_figure({"a": curves(), "b": curves()}),
        figures.ledger_figure({"a": (1, 2, 3, 4)}),
        figures.training_figure(curves(100)),
    ]


def test_text_is_large_enough_and_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    for fig in all_figures():
        texts = every_text(fig)
        assert min(t.get_fontsize() for t in texts) >= 9
        assert fig.get_size_inches()[0] == figures.WIDTH <= 5
        box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()  # nothing is cut off
        assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01
    assert dict(matplotlib.rcParams) == before


def test_no_pyplot_state_is_left():
    import matplotlib.pyplot as plt

    all_figures()
    assert plt.get_fignums() == []


def test_show_gives_html_png_and_text_the_same_every_time():
    one, two = (show(figures.training_figure(curves(9)), 'alt "<b>"', "cap & tion") for _ in range(2))
    assert one._repr_mimebundle_() == two._repr_mimebundle_()
    bundle = one._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    png = base64.b64decode(bundle["image/png"])
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG") and width >= 900 and len(png) < 250_000
    page = bundle["text/html"]
    assert 'alt="alt &quot;&lt;b&gt;&quot;"' in page and "cap &amp; tion</figcaption>" in page
    assert asset("figure.css") in page and bundle["image/png"] in page
    shown = [int(v) for v in re.search(r'width="(\d+)" height="(\d+)"', page).groups()]
    assert shown[0] / shown[1] == pytest.approx(width / height, rel=0.01)
    assert bundle["text/plain"] == 'Figure: alt "<b>"\ncap & tion'


def test_notebook_shell_prefers_the_bundle():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(show(Figure(figsize=(2, 1)), "alt", "caption"))
    assert set(data) == {"text/html", "image/png", "text/plain"}


def test_figure_fits_a_phone(tmp_path):
    shown = show(figures.quality_flops_figure(curves(1e6)), "alt text", "caption. " * 20)
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    (tmp_path / "page.html").write_text(head + shown._repr_html_(), encoding="utf-8")
    with browser_session() as browser, browser.open(tmp_path / "page.html", width=360, dark=True) as page:
        assert page.overflow() == 0
        assert page.attribute("img", "alt") == "alt text"
        sizes = "(i => [i.clientWidth, i.clientHeight, i.naturalWidth / i.naturalHeight])(document.images[0])"
        width, height, whole = page.evaluate(sizes)
        assert 280 < width <= 360 and width / height == pytest.approx(whole, rel=0.02)


def test_caption_states_what_the_figure_rests_on():
    given = {"n": 1200, "seeds": [1, 2, 3], "device": "CPU, 2 threads", "edition": "quick"}
    given["commit"] = "0123456789abcdef"
    assert caption("Quality against FLOPs", **given) == (
        "Quality against FLOPs. n = 1,200 test items; 3 seeds (1, 2, 3); device: CPU, 2 threads; "
        "commit 0123456789; edition quick."
    )
    text = caption("Why?", **(given | {"seeds": 1, "commit": "", "n": np.int64(5), "unit": "target tokens"}))
    assert text == ("Why? n = 5 target tokens; 1 seed; device: CPU, 2 threads; commit not known; edition quick.")
    for change, message in (
        ({"n": 0}, "n is 0"), ({"n": 1.5}, "n is 1.5"), ({"seeds": []}, "at least one seed"),
        ({"device": " "}, "device of the caption"), ({"edition": ""}, "edition of the caption"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            caption("text", **(given | change))


def test_alt_text_tells_start_peak_and_end():
    curve = Curve("xent", [0, 0.5, 1], [0.6, 0.9, 0.85])
    told = {"x_label": "deferral rate (%)", "y_label": "accuracy (%)", "x_scale": 100, "y_scale": 100}
    line = "Xent runs from 60 at 0 to 85 at 100, highest 90 at 50."
    axes = "accuracy (%) against deferral rate (%)"
    assert alt_text("Line chart", [curve], **told) == f"Line chart: {axes}. {line}"
    assert alt_text("Lines", {"reading": [curve]}, **told).endswith(f"Panel reading. {line}")


@pytest.mark.parametrize("given, message", [
    (("xent", [0, 1], [1]), "y has shape"),
    (("xent", [[0, 1]], [[0, 1]]), "x has shape"),
    (("xent", [], []), "x has shape"),
    (("xent", [0, 1], [0, np.nan]), "NaN or infinity"),
    (("xent", [0, 1], [0, 1], [0, 0]), "both low and high"),
    (("xent", [0, 1], [0, 1], [0, 2], [1, 1]), "low is above its high"),
    (("", [0], [0]), "method is ''"),
])  # fmt: skip
def test_bad_curves(given, message):
    with pytest.raises(ValueError, match=message) as error:
        Curve(*given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call, message", [
    (lambda: figures.quality_flops_figure([]), "no curve to draw"),
    (lambda: figures.difference_figure({"a": curves(), "b": []}), "no curve to draw"),
    (lambda: figures.quality_flops_figure({}), "no curve to draw"),
    (lambda: figures.training_figure([3]), "curves hold a int"),
    (lambda: figures.quality_flops_figure(curves(), axis="x"), "axis is 'x'"),
    (lambda: figures.ledger_figure({}), "the ledger is empty"),
    (lambda: figures.ledger_figure({"t": (1, 2, 3)}), "ledger of 't'"),
    (lambda: figures.ledger_figure({"t": (0, 0, 0, 0)}), "not all 0"),
    (lambda: figures.ledger_figure({"t": (1, -1, 0, 0)}), "ledger of 't'"),
    (lambda: show(io.BytesIO(), "a", "b"), "show got a BytesIO"),
    (lambda: show(Figure(), " ", "b"), "the alt text is ' '"),
    (lambda: show(Figure(), "a", None), "the caption is None"),
])  # fmt: skip
def test_bad_calls(call, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value)
