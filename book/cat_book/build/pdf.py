"""The built book as one PDF: each page printed by the machine's Chromium, then bound in the order of the contents.

Links between pages lead to the first sheet of the page within the file, and the outline names every page.
"""

import os
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

from pypdf import PdfWriter
from pypdf.generic import ArrayObject, NameObject

from cat_book.build.editions import EditionError, toc_files
from cat_core.files import whole_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--no-pdf-header-footer", "--virtual-time-budget=60000",
)  # fmt: skip
TITLE = re.compile(r"<title>\s*(.*?)\s*(?:&#8212;.*?|\u2014.*?)?</title>", re.DOTALL)
PATIENCE = 300  # seconds for one page


def bind(root: Path, html: Path, out: Path) -> int:
    """Print the pages of the built book in `html` and write them to `out` as one PDF; returns the number of sheets.

    Raises EditionError where the book is not built, or a browser is missing or fails.
    """
    pages = [html.resolve() / source.relative_to(root / "book").with_suffix(".html") for source in toc_files(root)]
    if missing := [page.name for page in pages if not page.is_file()]:
        raise EditionError(f"no {', '.join(missing)} in {html}: build the book first (python -m cat_core.runs build)")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise EditionError(f"no browser found, looked for {', '.join(BROWSERS)}: install Chromium")
    writer, first = PdfWriter(), {}
    with tempfile.TemporaryDirectory() as folder:
        for page in pages:
            printed = Path(folder, f"{page.stem}.pdf")
            _print(browser, page, printed, Path(folder, "profile"))
            first[page.as_uri()] = len(writer.pages)
            title = TITLE.search(page.read_text(encoding="utf-8"))
            writer.append(printed, unescape(title[1]) if title else page.stem, import_outline=False)
    sheets = {uri: writer.pages[number] for uri, number in first.items()}
    for sheet in writer.pages:
        for link in sheet.get("/Annots", ()):
            _lead(link.get_object(), sheets)
    with whole_file(out) as part:
        writer.write(part)
    return len(writer.pages)


def _print(browser: str, page: Path, out: Path, profile: Path) -> None:
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has none
    command = [browser, *FLAGS, *sandbox, f"--user-data-dir={profile}", f"--print-to-pdf={out}", page.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise EditionError(f"{browser} did not print {page.name} within {PATIENCE} s") from None
    if done.returncode or not out.is_file():
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise EditionError(f"{browser} did not print {page.name} (status {done.returncode}): {said}")


def _lead(link, sheets) -> None:
    """Turn a link to a file of the book into one to its sheet; other files stay behind, links to them end."""
    uri = str(link.get("/A", {}).get("/URI", ""))
    if uri.startswith("file:"):
        del link["/A"]
        if sheet := sheets.get(uri.partition("#")[0]):
            link[NameObject("/Dest")] = ArrayObject([sheet.indirect_reference, NameObject("/Fit")])
