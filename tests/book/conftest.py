"""A real browser on the built book: Chromium with every road to the network closed, and a web server on this machine.

`INCONCERT_HTML` names another folder than `book/_build/html`. With `INCONCERT_REQUIRE_BROWSER=1`, as under `make test`,
a missing browser or book is a failure and not a skip.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize, sync_playwright

from inconcert.exhibits import ROOT

HTML = Path(os.environ.get("INCONCERT_HTML", ROOT / "book" / "_build" / "html")).resolve()
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1280, 860), (390, 844)


def _unavailable(why: str) -> None:
    if os.environ.get("INCONCERT_REQUIRE_BROWSER") == "1":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").is_file():
        _unavailable(f"no built book in {HTML}: run `make book` first")
    return HTML


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).is_file():
        _unavailable("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    """Where the book is served, "http://127.0.0.1:<port>"."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(html))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Visit:
    """An open page and everything that went wrong on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


def _visit(context: BrowserContext, host: str) -> Visit:
    visit = Visit(context.new_page())

    def gate(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in ("file", "data", "blob") or url.netloc == host:
            route.continue_()
        else:
            visit.complaints.append(f"asks the network for {route.request.url}")
            route.abort()

    context.route("**/*", gate)
    page, note = visit.page, visit.complaints.append
    page.on("requestfailed", lambda request: note(f"request failed: {request.url} ({request.failure})"))
    page.on("console", lambda message: note(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: note(f"script error: {error}"))
    page.on("response", lambda answer: note(f"status {answer.status}: {answer.url}") if answer.status >= 400 else None)
    page.on("requestfinished", lambda request: visit.loaded.append(request.url))
    return visit


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """`visit("magpo/index", scheme="dark")` opens a page in a fresh profile and waits until it is at rest.

    A page that starts with "file:" is opened as it is, without the server.
    """
    contexts: list[BrowserContext] = []

    def open_page(page: str, scheme: Literal["light", "dark"] = "light") -> Visit:
        viewport: ViewportSize = {"width": DESKTOP[0], "height": DESKTOP[1]}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        opened = _visit(context, urlsplit(address).netloc)
        opened.page.goto(page if page.startswith("file:") else f"{address}/{page}.html", wait_until="networkidle")
        at_rest(opened.page)
        return opened

    yield open_page
    for context in contexts:
        context.close()


def at_rest(page: Page) -> None:
    """Wait until formulas are set and fonts are there."""
    page.wait_for_function(
        """async () => {
            if (!document.querySelector('.math')) return true;
            if (!window.MathJax || !MathJax.startup || !MathJax.startup.promise) return false;
            await MathJax.startup.promise;
            await document.fonts.ready;
            return true;
        }""",
        timeout=30_000,
    )
