"""The slider in a real browser against a naive second computation of every number, and its errors."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from cat_book.drawing.explorer import Series, coloured_tokens, threshold_explorer
from cat_book.drawing.styles import METHOD_STYLE, TOKEN_STYLE, method_style

N = 40
LARGE = 10_400_000.0
RULES = ("chow_average", "chow_quantile_0")
METHODS = ("xent", "cat-xent", "cat-dist")
SHOWN = "[...document.querySelectorAll('{}')].filter(e => getComputedStyle(e).display !== 'none')"
HOSTILE = """</script><script>window.hit=1</script><img src="https://example.org/x.png" onerror="hit=2">"&'"""


def items(method: str, rule: str, n: int = N):
    """One run's raw items: quality of S and L, confidence (with ties), FLOPs of S and L."""
    rng = np.random.default_rng([sum(method.encode()), len(rule), n])
    small = (rng.random(n) < 0.6).astype(float)
    large = (rng.random(n) < 0.85).astype(float)
    confidence = np.round(-0.01 - rng.random(n) - (1 - small), 2)  # two digits: some are equal
    return small, large, confidence, rng.integers(9e5, 1.3e6, n), rng.integers(9e6, 1.3e7, n)


def series(method: str, rule: str, n: int = N) -> Series:
    small, large, confidence, small_flops, large_flops = items(method, rule, n)
    order = np.argsort(confidence, kind="stable")
    return Series(
        method, rule, np.arange(n + 1) / n, np.concatenate([[-np.inf], confidence[order]]),
        (small.sum() + np.concatenate([[0], np.cumsum((large - small)[order])])) / n,
        small_flops.mean() + np.concatenate([[0], np.cumsum(large_flops[order])]) / n,
    )  # fmt: skip


def naive_row(method: str, rule: str, percent: int, n: int = N) -> list[str]:
    """The table row by trying every threshold: the one that defers most without deferring more than asked."""

    def outcome(which):
        small, large, confidence, small_flops, large_flops = items(which, rule, n)
        best = None
        for tau in [float("-inf"), *sorted(set(confidence))]:
            defer = [c <= tau for c in confidence]
            if sum(defer) * 100 <= percent * n:
                quality = sum(b if d else a for a, b, d in zip(small, large, defer, strict=True)) / n
                cost = sum(a + b * d for a, b, d in zip(small_flops, large_flops, defer, strict=True)) / n
                best = tau, sum(defer) / n, quality, cost
        return best

    tau, rate, quality, cost = outcome(method)
    gain = 100 * (quality - outcome(METHODS[0])[2])
    signed = "0.0" if abs(gain) < 0.05 else f"{gain:+.1f}"
    shown = "-∞" if tau == float("-inf") else f"{tau:.4g}"
    texts = [f"{100 * quality:.1f}", signed, f"{100 * cost / LARGE:.1f}", f"{cost / 1e6:.2f}"]
    return [t.replace("-", "−") for t in [*texts, f"{100 * rate:.1f}", shown]]


def fragment(**changes) -> str:
    given = {"name": "demo", "large_flops": LARGE, "title": "Demo"} | changes
    rows = given.pop("series", None) or [series(m, r) for m in METHODS for r in RULES]
    return threshold_explorer(rows, **given)


def page_of(*parts: str) -> str:
    head = '<!doctype html><html lang="en"><meta charset="utf-8">'
    head += '<meta name="viewport" content="width=device-width">'
    return f"{head}<title>t</title><body>{''.join(parts)}</body></html>"


def table(page, nth: int = 0) -> list[list[str]]:
    return page.evaluate(
        "n => [...document.querySelectorAll('.cat-explorer')[n].querySelectorAll('tbody tr')]"
        ".map(tr => [...tr.querySelectorAll('td')].map(td => td.textContent))", nth)  # fmt: skip


def test_keys_move_slider_to_the_rows_python_computed(browser, tmp_path):
    (tmp_path / "page.html").write_text(page_of(fragment()), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        static = re.findall(r"<td>(.*?)</td>", fragment())
        assert sum(table(page), []) == static  # Python's first state is what the script draws
        page.focus("input[type=range]")
        percent = 30
        seen = set()
        for key in "ArrowRight ArrowRight ArrowLeft PageUp PageDown End ArrowLeft Home".split():
            page.press(key)
            step = {"ArrowRight": 1, "ArrowLeft": -1, "PageUp": 10, "PageDown": -10}.get(key)
            percent = {"Home": 0, "End": 100}.get(key, percent + (step or 0))
            assert page.text("output") == f"{percent} %"
            expected = [naive_row(m, RULES[0], percent) for m in METHODS]
            assert table(page) == expected
            spoken = page.attribute("input[type=range]", "aria-valuetext")
            assert spoken == f"deferral rate {percent} %, " + ", ".join(
                f"{METHOD_STYLE[m].label} {row[0]} %" for m, row in zip(METHODS, expected, strict=True)
            )
            best = max(range(3), key=lambda m: float(expected[m][0]))
            label = METHOD_STYLE[METHODS[best]].label
            summary = f"Highest here: {label} with {expected[best][0]} %, at {expected[best][2]} %"
            assert page.text(".cx-said") == summary + " of the FLOPs of L."
            assert page.text("tr.cx-best th") == label
            seen.add(json.dumps(expected))
        assert len(seen) >= 5
        assert "nan" not in page.evaluate("document.body.innerHTML").lower()


def test_rule_and_axis_choosers(browser, tmp_path):
    random = Series("random-deferral", "", [0, 1], None, [0.6, 0.85], [1.1e6, 1.2e7])
    oracle = Series("oracle", RULES[1], [0, 0.3, 1], None, [0.6, 0.9, 0.85], [1.1e6, 5e6, 1.2e7])
    (tmp_path / "page.html").write_text(page_of(fragment(references=[random, oracle])), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        page.focus("input[type=range]")
        page.press("ArrowRight")

        def curve_height(m):  # where the curve is drawn below the dot, asked of the browser itself
            return page.evaluate(
                """m => {const [x, y] = document.querySelectorAll('.cx-dot')[m].getAttribute('transform')
                .match(/[\\d.]+/g).map(Number); const p = document.querySelectorAll('.cx-curve')[m];
                let best = 1e9;
                for (let s = 0; s <= p.getTotalLength(); s += .25) {
                  const q = p.getPointAtLength(s);
                  best = Math.min(best, Math.hypot(q.x - x, q.y - y))}
                return best}""", m)  # fmt: skip

        def lines():
            return page.evaluate(SHOWN.format(".cx-line") + ".map(e => e.dataset.axis)")

        assert lines() == ["rate"]
        before = page.evaluate("document.querySelector('.cx-curve').getAttribute('d')")
        page.focus("select")
        page.press("ArrowDown")
        assert table(page) == [naive_row(m, RULES[1], 31) for m in METHODS]
        assert page.evaluate("document.querySelector('.cx-curve').getAttribute('d')") != before
        assert lines() == ["rate", "rate"]
        assert max(curve_height(m) for m in range(3)) < 0.3
        at_rate = page.attribute(".cx-dot", "transform")
        page.focus("input[type=radio]:checked")
        page.press("ArrowRight")
        assert page.attribute(".cx-dot", "transform") != at_rate
        assert lines() == ["flops", "flops"]
        assert max(curve_height(m) for m in range(3)) < 0.3
        assert table(page) == [naive_row(m, RULES[1], 31) for m in METHODS]
        visible = page.evaluate(SHOWN.format(".cx-x") + ".map(e => e.textContent)")
        assert len(visible) == 1 and "Mean MFLOPs per query" in visible[0] and "L alone" in visible[0]


def test_two_explorers_do_not_interfere(browser, tmp_path):
    other = fragment(name="other", series=[series(m, RULES[1]) for m in METHODS], x_axis="flops", start=0.5)
    (tmp_path / "page.html").write_text(page_of(fragment(), other), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)) >= 6
        page.focus("input[type=range]", 1)
        page.press("End")
        assert page.texts("output") == ["30 %", "100 %"]
        assert table(page, 0) == [naive_row(m, RULES[0], 30) for m in METHODS]
        assert table(page, 1) == [naive_row(m, RULES[1], 100) for m in METHODS]
        page.focus("select", 0)
        page.press("ArrowDown")
        page.focus("input[type=range]", 0)
        page.press("Home")
        assert table(page, 0) == [naive_row(m, RULES[1], 0) for m in METHODS]
        assert table(page, 1) == [naive_row(m, RULES[1], 100) for m in METHODS]
        checked = "[...document.querySelectorAll('input[type=radio]:checked')].map(e => e.value)"
        assert page.evaluate(checked) == ["rate", "flops"]


def test_same_fragment_twice_still_moves_both(browser, tmp_path):
    (tmp_path / "page.html").write_text(page_of(fragment(), fragment()), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        page.focus("input[type=range]", 1)
        page.press("Home")
        assert page.texts("output") == ["30 %", "0 %"]


def test_hostile_text_is_inert(browser, tmp_path):
    rows = [series("xent", "chow_average")]
    rows.append(Series(HOSTILE, "chow_average", *(getattr(rows[0], f) for f in (
        "deferral_rate", "threshold", "quality", "flops"))))  # fmt: skip
    text = fragment(series=rows, title=HOSTILE, quality_label=HOSTILE, quality_unit=HOSTILE,
                    rule_labels={"chow_average": HOSTILE})  # fmt: skip
    text += coloured_tokens([HOSTILE, "b"], ["both", "neither"], title=HOSTILE)
    (tmp_path / "page.html").write_text(page_of(text), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        page.focus("input[type=range]")
        page.press("ArrowRight")
        assert page.text("output") == "31 %"
        assert page.evaluate("window.hit === undefined") is True
        assert page.count("img") == 0 and page.count("script") == 2
        assert page.text("tbody th", 1) == HOSTILE and page.text(".cx-title") == HOSTILE


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_window_and_dark_mode(browser, tmp_path, dark):
    dark_page = "<style>@media(prefers-color-scheme:dark){body,th,td,p{background:#111;color:#ddd}}</style>"
    tokens = coloured_tokens(["▁Hund" * 3, " ", "\n"] * 30, ["small", "large", "neither"] * 30)
    (tmp_path / "page.html").write_text(page_of(dark_page, fragment(), tokens), encoding="utf-8")
    with browser.open(tmp_path / "page.html", width=360, height=740, dark=dark) as page:
        assert page.overflow() == 0
        box = page.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.cx-scroll'))")
        assert box[0] > box[1], "the wide table scrolls inside its own box"
        texts = ".cat-explorer :is(td,th,p,label,output),.cat-tokens :is(span,li)"
        script = "s => [...document.querySelectorAll(s)].map(e => getComputedStyle(e).color)"
        colours = page.evaluate(script, texts)
        assert set(colours) <= {"rgb(26, 26, 26)", "rgb(17, 17, 17)"}
        assert page.evaluate("getComputedStyle(document.querySelector('.cat-explorer')).backgroundColor") == (
            "rgb(255, 255, 255)")  # fmt: skip
        size = page.evaluate("document.querySelector('.cx-field text').getBoundingClientRect().height")
        assert size >= 11, "axis text can be read on a phone"


def test_without_script_the_first_state_is_there(browser, tmp_path):
    (tmp_path / "page.html").write_text(page_of(fragment()), encoding="utf-8")
    with browser.open(tmp_path / "page.html", javascript=False) as page:
        assert page.texts("td")[:6] == naive_row("xent", RULES[0], 30)
        assert "figure beside it" in page.text("noscript p")
    with browser.open(tmp_path / "page.html") as page:
        pdf = page.pdf(tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(pdf) > 5000


def test_moves_are_fast_and_fragment_small(browser, tmp_path):
    rows = [series(m, r, 1000) for m in ("xent", "dist", "cat-xent", "cat-dist", "random-dist") for r in RULES]
    line = Series("oracle", "", rows[0].deferral_rate, None, rows[0].quality, rows[0].flops)
    text = fragment(series=rows, references=[line])
    assert len(text.encode()) <= 64_000
    (tmp_path / "page.html").write_text(page_of(text), encoding="utf-8")
    with browser.open(tmp_path / "page.html") as page:
        spent = page.evaluate("""() => {const s = document.querySelector('input[type=range]'), spent = [];
            for (let k = 0; k <= 100; k++) {const t = performance.now(); s.value = k;
              s.dispatchEvent(new Event('input')); document.body.getBoundingClientRect(); // layout included
              spent.push(performance.now() - t)}
            return spent}""")
        assert np.median(spent) < 16


def test_browser_helper_sees_foreign_requests_and_script_errors(browser, tmp_path):
    (tmp_path / "a.html").write_text("<img src='http://example.org/a.png'>", encoding="utf-8")
    (tmp_path / "b.html").write_text("<script>throw new Error('broken')</script>", encoding="utf-8")
    with pytest.raises(AssertionError, match="example.org"):
        with browser.open(tmp_path / "a.html"):
            pass
    browser.foreign_requests.clear()
    with pytest.raises(AssertionError, match="broken"):
        with browser.open(tmp_path / "b.html"):
            pass
    with pytest.raises(FileNotFoundError, match="no page at"):
        with browser.open(tmp_path / "none.html"):
            pass


class Tags(HTMLParser):
    """Checks that every opened element is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += attributes
        if tag not in ("input", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_fragment_is_well_formed_deterministic_and_local():
    text = fragment()
    assert text == fragment() and text != fragment(name="demo2") and text != fragment(start=0.4)
    tags = Tags()
    tags.feed(text)
    assert not tags.open and tags.seen.count("script") == 2
    assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp|src=|href=|[^\x00-\x7f]\u2028", text)
    classes = {c for key, value in tags.attributes if key == "class" for c in value.split()}
    assert all(c.startswith(("cx-", "cat-")) for c in classes)
    assert ("data-lm-suppress-shortcuts", "true") in tags.attributes
    labels = {value for key, value in tags.attributes if key == "for"}
    assert labels <= {value for key, value in tags.attributes if key == "id"}


def test_ties_cannot_be_split_and_coarse_grids_work():
    tied = Series("xent", "r", [0, 0.25, 0.5, 0.75, 1], [-np.inf, -2, -2, -2, -1], [0.5, 0.6, 0.7, 0.8, 0.9],
                  [1, 2, 3, 4, 5])  # fmt: skip
    assert tied.operating_points().tolist() == [0, 3, 4]
    assert tied.rows_at(np.array([0, 0.5, 0.75, 0.99, 1])).tolist() == [0, 0, 3, 3, 4]
    text = threshold_explorer([tied], name="t", large_flops=4, grid=3, start=1, decimals=2, x_axis="flops")
    assert re.findall(r"<td>(.*?)</td>", text) == ["90.00", "0.00", "125.0", "5.000", "100.0", "−1"]
    assert '"grid":["0","50","100"]' in text and "Confidence: r" in text
    with pytest.raises(ValueError):
        tied.quality[0] = 1  # a frozen thing is frozen


def test_flat_and_zero_quality_can_be_drawn():
    for quality in (0.0, 0.5):
        flat = Series("own <name>", "r", [0, 1], [-np.inf, 0], [quality] * 2, [0, 0])
        text = threshold_explorer([flat], name="t", large_flops=1)
        assert "nan" not in text.lower() and "own &lt;name&gt;" in text


GOOD = {
    "method": "xent", "rule": "r", "deferral_rate": [0, 0.5, 1], "threshold": [-np.inf, -1, 0],
    "quality": [0, 0, 1], "flops": [1, 2, 3],
}  # fmt: skip


@pytest.mark.parametrize("change, message", [
    ({"method": ""}, "needs a method and a rule"),
    ({"quality": [1, 2]}, "unequal length"),
    ({"quality": ["a", "b", "c"]}, "not an array of numbers"),
    ({"quality": [[0, 1, 1]]}, "expected one row"),
    ({"quality": [0, np.nan, 1]}, "NaN or infinity"),
    ({"flops": [1, np.inf, 3]}, "NaN or infinity"),
    ({"flops": [-1, 2, 3]}, "negative"),
    ({"threshold": [-np.inf, np.nan, 0]}, "NaN or infinity"),
    ({"threshold": [-np.inf, 0, -1]}, "threshold falls"),
    ({"deferral_rate": [0, 1, 0.5]}, "deferral_rate falls"),
    ({"deferral_rate": [0, 0.5, 0.9]}, "from 0 to 0.9"),
])  # fmt: skip
def test_bad_series(change, message):
    with pytest.raises(ValueError, match=message) as error:
        Series(**(GOOD | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"name": "1 2"}, "name is '1 2'"),
    ({"name": 3}, "name is 3"),
    ({"large_flops": 0}, "large_flops is 0"),
    ({"large_flops": float("nan")}, "large_flops is nan"),
    ({"grid": 1}, "grid is 1"),
    ({"start": 1.5}, "start is 1.5"),
    ({"x_axis": "cost"}, "x_axis is 'cost'"),
    ({"quality_scale": -1}, "quality_scale is -1"),
    ({"decimals": -1}, "decimals is -1"),
    ({"references": [3]}, "references holds a int"),
    ({"series": [3]}, "series holds a int"),
    ({"series": [Series(**GOOD), Series(**GOOD)]}, "given twice"),
    ({"series": [Series(**(GOOD | {"threshold": None}))]}, "go into references="),
    ({"series": [Series(**GOOD), Series(**(GOOD | {"rule": "s", "method": "d"}))]}, "missing: xent under s"),
    ({"series": [Series(**(GOOD | {"threshold": [0, 0, 0]}))]}, "no row that defers nothing"),
])  # fmt: skip
def test_bad_arguments(change, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        fragment(**change)
    assert "\n" not in str(error.value)


def test_no_series():
    with pytest.raises(ValueError, match="no series given"):
        threshold_explorer([], name="a", large_flops=1)


def test_coloured_tokens():
    text = coloured_tokens(["▁a", "<b>", "", "x y\n"], ["both", "small", "large", "neither"], title="T & t")
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    for part in ("&lt;b&gt;", "<b>SL</b>", "T &amp; t", "x␣y↵", "\u00a0"):
        assert part in text
    for style in TOKEN_STYLE.values():
        assert f"{style.symbol}</sub>" in text and f"{style.label}: 1 of 4" in text
    for tokens, classes, message in (
        (["a"], [], "1 tokens and 0 classes"),
        ([], [], "at least one"),
        (["a"], ["L"], "class 0 is 'L', expected one of both"),
        ([1], ["both"], "token 0 is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            coloured_tokens(tokens, classes)


def test_styles_differ_in_more_than_colour():
    methods = ["xent", "dist", "cat-xent", "cat-dist", "random-dist"]
    for field in ("label", "colour", "dash", "marker"):
        assert len({getattr(METHOD_STYLE[m], field) for m in methods}) == 5
    for method in METHOD_STYLE:  # WCAG contrast of graphics on white: at least 3
        red, green, blue = (int(METHOD_STYLE[method].colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        assert 1.05 / (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05) >= 3
    assert method_style("mine") == method_style("mine") and method_style("mine").label == "mine"
    with pytest.raises(ValueError, match="method is ''"):
        method_style("")


def banded(method, rule):
    one = series(method, rule)
    return Series(*(getattr(one, f) for f in ("method", "rule", "deferral_rate", "threshold", "quality", "flops")),
                  one.quality - 0.02, one.quality + 0.03)  # fmt: skip


def test_a_click_moves_the_slider_and_the_thumb_stands_under_its_place(browser, tmp_path):
    (tmp_path / "page.html").write_text(page_of(fragment()), encoding="utf-8")
    for width in (1280, 390):
        with browser.open(tmp_path / "page.html", width=width) as page:
            box = page.raw.locator(".cx-field svg").bounding_box()

            def x_of(percent, box=box):
                return box["x"] + box["width"] * (58 + 490 * percent / 100) / 560

            for percent in (0, 25, 70, 100):
                page.raw.mouse.click(x_of(percent), box["y"] + box["height"] / 2)
                assert page.text("output") == f"{percent} %"
                assert table(page) == [naive_row(m, RULES[0], percent) for m in METHODS]
                thumb = page.evaluate(
                    """() => {const e = document.querySelector('input[type=range]'), b = e.getBoundingClientRect();
                    return b.left + 8 + (b.width - 16) * e.value / 100}"""
                )  # the thumb is some 16 pixels wide
                assert abs(thumb - x_of(percent)) < 5
            page.raw.mouse.move(x_of(20), box["y"] + 40)
            page.raw.mouse.down()
            page.raw.mouse.move(x_of(60), box["y"] + 60, steps=3)
            page.raw.mouse.up()
            page.raw.mouse.move(x_of(10), box["y"] + 60)
            assert page.text("output") == "60 %" and page.overflow() <= 0


def test_a_method_is_switched_off_and_on_again(browser, tmp_path):
    drawn = fragment(series=[banded(m, RULES[0]) for m in METHODS])
    (tmp_path / "page.html").write_text(page_of(drawn), encoding="utf-8")
    kinds = ("cx-curve", "cx-dot", "cx-band")
    with browser.open(tmp_path / "page.html") as page:
        def seen():
            rows = page.evaluate("[...document.querySelectorAll('tbody tr')].map(e => e.offsetParent !== null)")
            return [[page.evaluate(SHOWN.format(f".{kind}") + ".length") for kind in kinds], rows]

        assert seen() == [[3, 3, 3], [True, True, True]]
        page.focus(".cx-switch", 1)
        page.press("Enter")
        assert seen() == [[2, 2, 2], [True, False, True]]
        assert page.attribute(".cx-switch", "aria-pressed", 1) == "false"
        page.raw.locator(".cx-switch").nth(1).click()
        assert seen() == [[3, 3, 3], [True, True, True]]


def test_bands_lie_around_their_curves_on_both_axes(browser, tmp_path):
    both = [banded(m, r) for m in METHODS for r in RULES]
    (tmp_path / "page.html").write_text(page_of(fragment(series=both)), encoding="utf-8")
    script = """n => {const xy = s => s.match(/[\\d.]+ [\\d.]+/g).map(p => p.split(' ').map(Number));
        const get = c => xy(document.querySelectorAll('.' + c)[n].getAttribute('d'));
        const band = get('cx-band'), curve = get('cx-curve'), k = curve.length;
        return [band.length === 2 * k, curve.map((p, i) => [band[i][0] - p[0], band[i][1] - p[1],
            band[2 * k - 1 - i][0] - p[0], p[1] - band[2 * k - 1 - i][1]])]}"""
    with browser.open(tmp_path / "page.html") as page:
        drawn = page.evaluate("document.querySelector('.cx-band').getAttribute('d')")
        static = re.search('class="cx-band[^>]* d="(.*?)"', fragment(series=both))[1]
        numbers = [np.array(re.findall(r"[\d.]+", path), float) for path in (drawn, static)]
        assert np.abs(numbers[0] - numbers[1]).max() < 0.11, "what Python draws is what the script draws"
        for axis in ("rate", "flops"):
            page.raw.locator(f"input[value={axis}]").check()
            for n in range(3):
                whole, apart = page.evaluate(script, n)
                apart = np.array(apart)
                assert page.evaluate("document.querySelectorAll('.cx-band.cx-lit').length") in (1, 2)
                assert whole and np.abs(apart[:, [0, 2]]).max() < 0.11
                assert np.allclose(apart[:, 3] / apart[:, 1], 1.5, atol=0.05), ".03 above, .02 below"
    with pytest.raises(ValueError, match="low and high go together"):
        one = series("xent", RULES[0])
        Series("a", "b", one.deferral_rate, one.threshold, one.quality, one.flops, one.quality)
