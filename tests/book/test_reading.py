"""Reading times against a count by hand."""

import pytest
from cat_book.build.reading import WORDS, measure, stated

TABLE = "<table><tr><th>a</th></tr><tr><td>b c</td></tr></table>"
PAGE = """<html><article><h1>One two<a class="headerlink">#</a></h1><p>three four, f&uuml;nf 6 7.5</p>
<details><summary>more</summary><p>folded words</p>{table}</details><script>var hidden = 1;</script>
<div class="admonition dropdown"><p class="admonition-title">Solution</p><p>unseen</p></div>
<div class="admonition exercise">do this</div><div class="cat-widget cat-check">answer</div>
<div class="cat-widget">label <div class="cat-figure">inner</div>{table}</div>
<div class="cx-panels"><div>{table}</div><div>{table}</div></div>
<div class="highlight"><pre>x = 1
y = 2
</pre></div><div class="math">x</div><p>日本語文</p></article></html>"""


def test_a_page_is_counted_as_by_hand():
    found = measure(PAGE.format(table=TABLE))
    assert found.words == 5 + 2 + 2  # "more" and "Solution" can be read; four Japanese letters are two words
    assert found.tables == 1  # that of the first panel: one is folded, one is part of a widget, one waits to be chosen
    assert found.minutes == pytest.approx(found.words / WORDS + (30 + 2 * 4 + 2 * 3 + 10) / 60)
    with pytest.raises(ValueError, match="no article in it"):
        measure("<html></html>")


def test_every_page_says_its_minutes_and_the_first_those_of_all():
    article = "<article><h1>Title</h1>", "<p>" + "word " * (WORDS * 90 - 1) + "</p></article>"
    printed = "<div><h1>Title</h1></div>"  # for paper
    text = printed + "".join(article)
    pages = {"intro": text, "one": text, "glossary": text, "index": "<meta>"}
    found = stated(pages, "intro")
    assert set(found) == {"intro", "one"}
    line = '\n<p class="cat-reading">Reading: 90 min</p>'
    assert found["one"] == printed + line.join(article)
    assert '<p class="cat-reading">Reading: 90 min; the whole book, exercises apart: 3.0 hours</p>' in found["intro"]
