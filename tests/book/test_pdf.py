"""The book as one PDF: printed by a real browser, read back by pypdf."""

import pytest
from browser import browser_session
from cat_book.build import pdf
from cat_book.build.editions import EditionError
from pypdf import PdfReader

PAGE = "<!doctype html><html lang=en><title>{title} &#8212; A book</title><h1>{title}</h1>{body}"
LONG = "<p style='break-before: page'>second sheet</p>"
BODIES = {
    "intro": f"<a href='b%20c.html#there'>b</a> <a href='https://example.org/'>out</a> <a href='x.svg'>file</a>{LONG}",
    "b c": "<p id=there>x &lt; 1</p><a href='intro.html'>back</a>",
}


@pytest.fixture
def built(tmp_path):
    """(root, folder of the HTML) of a book of two pages."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: b c\n")
    html = tmp_path / "html"
    html.mkdir()
    for name, body in BODIES.items():
        (tmp_path / "book" / f"{name}.md").write_text(f"# {name}\n")
        (html / f"{name}.html").write_text(PAGE.format(title=f"{name} &amp; more", body=body), encoding="utf-8")
    return tmp_path, html


def test_pages_are_bound_in_order_and_links_stay_inside(built, tmp_path):
    with browser_session():  # skips where there is no browser
        pass
    assert pdf.bind(*built, tmp_path / "book.pdf") == 3
    read = PdfReader(tmp_path / "book.pdf")
    assert [entry.title for entry in read.outline] == ["intro & more", "b c & more"]
    assert [read.get_destination_page_number(entry) for entry in read.outline] == [0, 2]
    assert "second sheet" in read.pages[1].extract_text() and "x < 1" in read.pages[2].extract_text()
    links = [[annotation.get_object() for annotation in page.get("/Annots", ())] for page in read.pages]
    leads = [read.get_page_number(link["/Dest"][0].get_object()) for page in links for link in page if "/Dest" in link]
    assert leads == [2, 0]
    assert "file:" not in (tmp_path / "book.pdf").read_bytes().decode("latin1")
    assert [link["/A"]["/URI"] for page in links for link in page if "/A" in link] == ["https://example.org/"]


def test_what_is_missing_is_said(built, tmp_path, monkeypatch):
    root, html = built
    (html / "b c.html").unlink()
    with pytest.raises(EditionError, match=r"no b c.html in .*: build the book first"):
        pdf.bind(root, html, tmp_path / "book.pdf")
    (html / "b c.html").write_text("<p>")
    monkeypatch.setattr(pdf, "BROWSERS", ("no-such-browser",))
    with pytest.raises(EditionError, match="looked for no-such-browser: install Chromium"):
        pdf.bind(root, html, tmp_path / "book.pdf")
    monkeypatch.setattr(pdf, "BROWSERS", ("false",))
    with pytest.raises(EditionError, match=r"did not print intro.html \(status 1\)"):
        pdf.bind(root, html, tmp_path / "book.pdf")
    assert not (tmp_path / "book.pdf").exists()
