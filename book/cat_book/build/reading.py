"""How long a page takes to read, counted in its HTML: what is in sight at first, nothing that is folded, no exercise.

Words at the speed of silent reading of English non-fiction (238 a minute: Brysbaert 2019, a meta-analysis of 190
studies), two Japanese letters as a word. The other rates are conventions, chosen here: nobody has measured them on
pages such as these.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from bs4 import BeautifulSoup

WORDS = 238  # a minute
CODE = 3  # seconds a line
SECONDS = {".cat-figure, .cat-widget, .cat-tiles, figure": 30, "tr": 4, "div.math": 10}  # the outermost is counted
FOLDED = (
    "script, style, noscript, [hidden], details:not([open]) > :not(summary), .headerlink, .exercise, .cat-check, "
    ".admonition.dropdown > :not(.admonition-title), .cx-panels > :not(:first-child)"
)
LOOKED_UP = ("glossary", "references", "genindex", "search")  # pages that nobody reads from end to end
LINE = '<p class="cat-reading">{}</p>'


class Reading(NamedTuple):
    """What is in sight on a page: words of text, tables outside widgets; and the minutes that all of it takes."""

    words: int
    tables: int
    minutes: float


def measure(html: str) -> Reading:
    """Count a built page, whose text lies in its `article`. ValueError where there is none."""
    article = BeautifulSoup(html, "html.parser").select_one("article")
    if article is None:
        raise ValueError("no article in it: give the HTML of a page of the book")
    for hidden in article.select(FOLDED):
        hidden.extract()
    seconds = tables = 0
    for kind, each in SECONDS.items():
        tables = tables or (kind == "tr" and len(article.select("table")))
        for one in article.select(kind):
            if any(above is article for above in one.parents):  # no part of one that was counted
                one.extract()
                seconds += each
    code = article.select(".highlight")
    seconds += CODE * sum(len(one.extract().get_text().strip().splitlines()) for one in code)
    text = article.get_text(" ")
    words = len(re.findall(r"[^\W\d_\u3040-\u9fff]+", text)) + len(re.findall(r"[\u3040-\u9fff]", text)) // 2
    return Reading(words, tables, words / WORDS + seconds / 60)


def stated(pages: Mapping[str, str], whole: str) -> dict[str, str]:
    """The HTML of pages (name -> HTML) with a line below each heading that says how long they take to read.

    whole: the page whose line has the time of all others as well.
    """
    found = {name: measure(html) for name, html in pages.items() if name not in LOOKED_UP and "<article" in html}
    total = sum(reading.minutes for reading in found.values()) / 60

    def line(name: str) -> str:
        text = f"Reading: {max(1, round(found[name].minutes))} min"
        return f"{text}; the whole book, exercises apart: {total:.1f} hours" if name == whole else text

    def after_heading(name: str) -> str:
        above, article, text = pages[name].partition("<article")  # above it stands a heading for paper alone
        return above + article + text.replace("</h1>", f"</h1>\n{LINE.format(line(name))}", 1)

    return {name: after_heading(name) for name in found}
