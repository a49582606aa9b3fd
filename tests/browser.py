"""Drives a real headless Chromium on file:// pages with the network cut, pressing real keys.

    with browser_session() as browser:
        with browser.open(path, width=390, height=844, dark=True) as page:
            page.focus("input[type=range]"); page.press("ArrowRight")
            assert page.text("output") == "31 %"
        assert not browser.foreign_requests

Every request is written down; one that is not file:, data: or blob: makes leaving `browser.open` fail, and so
does an uncaught error of a script. The browser is the one the machine has; none is fetched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><body>'
"""What stands before a fragment of HTML that is looked at by itself."""
LOCAL = ("file:", "data:", "blob:", "about:")
HARMLESS = "'THEBE_JS_URL' has already been declared"  # every page of sphinx-book-theme 1.2 says so


def _missing(reason: str) -> None:
    """A clear skip on a reader's machine, a failure where the tests must not be skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must run the browser tests", pytrace=False)
    pytest.skip(reason)


class Page:
    """One open page. `raw` is playwright's page for whatever is not here."""

    def __init__(self, raw, requests: list[str], errors: list[str]):
        self.raw, self.requests, self.errors = raw, requests, errors

    def press(self, *keys: str) -> None:
        """Real keys to whatever has the focus: "ArrowRight", "Home", "End", "PageUp", "Tab", ..."""
        for key in keys:
            self.raw.keyboard.press(key)

    def swipe(self, box: dict, start: float, end: float) -> None:
        """One finger drawn across the middle of a box on screen, from and to a share of its width; needs `touch`."""
        finger, y = self.raw.context.new_cdp_session(self.raw), box["y"] + box["height"] / 2
        way = [start + (end - start) * i / 6 for i in range(7)]
        for i, share in enumerate(way):
            points = [{"x": box["x"] + share * box["width"], "y": y}]
            finger.send("Input.dispatchTouchEvent", {"type": "touchMove" if i else "touchStart", "touchPoints": points})
        self.raw.wait_for_timeout(150)  # held still: it is no fling, which the next tap would only stop
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        finger.detach()

    def focus(self, selector: str, nth: int = 0) -> None:
        self.raw.locator(selector).nth(nth).focus()

    def text(self, selector: str, nth: int = 0) -> str:
        return self.raw.locator(selector).nth(nth).text_content().strip()

    def texts(self, selector: str) -> list[str]:
        return [t.strip() for t in self.raw.locator(selector).all_text_contents()]

    def attribute(self, selector: str, name: str, nth: int = 0) -> str | None:
        return self.raw.locator(selector).nth(nth).get_attribute(name)

    def count(self, selector: str) -> int:
        return self.raw.locator(selector).count()

    def evaluate(self, script: str, argument=None):
        return self.raw.evaluate(script, argument)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window; 0 = no sideways scrolling."""
        return self.raw.evaluate("(e => e.scrollWidth - e.clientWidth)(document.documentElement)")

    def screenshot(self, path: str | Path, selector: str | None = None) -> Path:
        """A PNG of the whole page, or of the first element that matches."""
        if selector:
            self.raw.locator(selector).first.screenshot(path=str(path))
        else:
            self.raw.screenshot(path=str(path), full_page=True)
        return Path(path)

    def pdf(self, path: str | Path) -> Path:
        self.raw.pdf(path=str(path), format="A4", print_background=False)
        return Path(path)


class Browser:
    """A running browser. `foreign_requests` gathers what any of its pages asked of another machine."""

    def __init__(self, raw):
        self.raw = raw
        self.foreign_requests: list[str] = []

    @contextlib.contextmanager
    def open(
        self, path: str | Path, *, width: int = 1280, height: int = 900, dark: bool = False,
        javascript: bool = True, touch: bool = False,
    ) -> Iterator[Page]:  # fmt: skip
        """The file at `path` in a fresh, offline context of width x height CSS pixels.

        Leaving the block fails on a request that would leave this machine and on an uncaught script error.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"no page at {path}")
        context = self.raw.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            offline=True, java_script_enabled=javascript, reduced_motion="reduce", service_workers="block",
            has_touch=touch,
        )  # fmt: skip
        requests: list[str] = []
        errors: list[str] = []
        context.on("request", lambda request: requests.append(request.url))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        raw = context.new_page()
        raw.on("websocket", lambda socket: requests.append(socket.url))
        try:
            raw.goto(path.as_uri(), wait_until="load")
            yield Page(raw, requests, errors)
            raw.wait_for_timeout(0)  # let events that are on their way arrive
        finally:
            context.close()
            foreign = [url for url in requests if not url.startswith(LOCAL)]
            self.foreign_requests += foreign
        assert not foreign, f"{path.name} asked the network for {foreign[:5]}"
        errors = [error for error in errors if HARMLESS not in error]
        assert not errors, f"{path.name}: script error {errors[:3]}"


@contextlib.contextmanager
def browser_session() -> Iterator[Browser]:
    """Starts the browser once for many pages. Without a browser: a clear skip, a failure where CI is set."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _missing("playwright is not installed (pip install playwright; its browser download is not needed)")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        _missing(f"no browser found, looked for {', '.join(BROWSERS)}")
    with sync_playwright() as play:
        try:
            # playwright gives every launch a fresh profile folder
            raw = play.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        except Error as error:
            _missing(f"{program} does not start: {str(error).splitlines()[0]}")
        try:
            yield Browser(raw)
        finally:
            raw.close()
