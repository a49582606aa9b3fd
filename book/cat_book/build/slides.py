"""Slides from the pages' own figures: `slides.html` beside the built pages, one file, offline.

`book/slides/deck.yml` says what each slide asks, says and shows; `frame.html` is the look and the keys. Figures,
widgets and diagrams are cut out of the built pages as they stand there, so that slides show the run that was built.
"""

import base64
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from string import Template

from cat_core.tasks.schema import FileModel, SchemaError, check, read_yaml

FOLDER = "slides"
"""Of `book/`: the deck and its frame, no part of the site as they stand."""
NAME = "slides.html"
WIDGETS = ("questions", "calculator", "microscope", "explorer", "headlines", "tiles")
"""What a slide may show besides figures by their number and diagrams by their file."""
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


class Slide(FileModel):
    """One slide. ask: its question; say: one sentence; show: "Figure 1.1", one of WIDGETS or the file of a diagram, on
    `page`; minute: when the lecture comes to it."""

    ask: str
    say: str
    page: str
    show: str
    minute: int


class Deck(FileModel):
    title: str
    slides: list[Slide]


class _Elements(HTMLParser):
    """The source of a page's outermost figures, widgets and images, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.found, self.open = text, [], None
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.feed(text)

    def _place(self) -> int:
        line, column = self.getpos()
        return self.lines[line - 1] + column

    def handle_starttag(self, tag, attributes):
        classes = (dict(attributes).get("class") or "").split()
        if self.open:
            self.open[2] += tag == self.open[0]
        elif tag == "img":
            self.found.append(self.get_starttag_text())
        elif {"cat-figure", *(f"cat-{name}" for name in WIDGETS)} & set(classes):
            self.open = [tag, self._place(), 1]

    def handle_endtag(self, tag):
        if self.open and tag == self.open[0]:
            self.open[2] -= 1
            if not self.open[2]:
                self.found.append(self.text[self.open[1] : self.text.index(">", self._place()) + 1])
                self.open = None


def read_deck(root: Path) -> Deck | None:
    """The deck of a project; None without one. SchemaError, one line a problem, where it cannot be taken."""
    path, problems = root / "book" / FOLDER / "deck.yml", []
    if not path.is_file():
        return None
    deck = check(Deck, read_yaml(path), [path.name], problems)
    if problems:
        raise SchemaError("\n".join(problems))
    return deck


def sources(root: Path) -> list[Path]:
    """The files that decide what slides look like, besides the pages."""
    return [path for path in (*sorted((root / "book" / FOLDER).glob("*")), Path(__file__)) if path.is_file()]


def cut(page: str, show: str) -> str | None:
    """The source of what a slide shows, from the HTML of a built page; None where the page does not have it."""
    for element in _Elements(page).found:
        if element.startswith("<img"):
            if re.search(rf'src="[^"]*/{re.escape(show)}"', element):
                return element
        elif show in WIDGETS:
            if re.match(rf'<\w+ class="[^"]*\bcat-{show}\b', element):
                return element
        elif f"<figcaption>{show}:" in element:
            return element
    return None


def _inlined(element: str, folder: Path) -> str:
    """A diagram with its file in it."""

    def data(match):
        image = base64.b64encode((folder / match[1]).read_bytes()).decode("ascii")
        return f'src="data:image/svg+xml;base64,{image}"'

    return re.sub(r'src="([^":]+\.svg)"', data, element) if element.startswith("<img") else element


def write(root: Path, folder: Path) -> list[str]:
    """Write `slides.html` into the `folder` of built pages; returns what a slide names and no page there shows.

    Such a slide says so: pages that an edition has not run have no figures. Nothing is written without a deck.
    """
    deck = read_deck(root)
    if deck is None:
        return []
    styles, shown, missing = {}, [], []
    for number, slide in enumerate(deck.slides, 1):
        path = folder / f"{slide.page}.html"
        page = path.read_text(encoding="utf-8") if path.is_file() else ""
        element = cut(page, slide.show)
        if element is None:
            missing.append(f"{slide.page}: {slide.show}")
            element = f"<p>{html.escape(slide.show)} is missing: this edition has no results on {slide.page}.</p>"
        styles |= dict.fromkeys(style for style in STYLE.findall(page) if ".cat-card" in style)
        shown.append(
            f'<section class="slide" id="s{number}" aria-label="Slide {number} of {len(deck.slides)}"><h2>'
            f'{html.escape(slide.ask)}</h2><p class="say">{html.escape(slide.say)}</p><div class="show">'
            f'{_inlined(STYLE.sub("", element), folder)}</div><footer><a href="{slide.page}.html">{slide.page}</a>'
            f"<span>minute {slide.minute}</span><span>{number} / {len(deck.slides)}</span></footer></section>"
        )
    frame = Template((root / "book" / FOLDER / "frame.html").read_text(encoding="utf-8"))
    text = frame.substitute(title=html.escape(deck.title), styles="\n".join(styles), slides="\n".join(shown))
    (folder / NAME).write_text(text, encoding="utf-8")
    return missing
