"""What a reader sees, page by page: nothing is missing, formulas are set, it fits a phone, it needs no network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Page, expect

from inconcert import exhibits

from .conftest import PHONE, Open, at_rest

BOOK = exhibits.ROOT / "book"
PROSE = [
    path.relative_to(BOOK).with_suffix("").as_posix() for path in sorted([*BOOK.glob("*.md"), *BOOK.glob("[!_]*/*.md")])
]
NOTEBOOKS = [row.notebook.removesuffix(".ipynb") for row in exhibits.load() if row.notebook]
PAGES = [*PROSE, *NOTEBOOKS]
CHAPTERS = ("environments", "magpo", "kpf", "ensemble_mix", "policy_distance")
VERDICTS = {"replicated", "partly replicated", "not replicated", "not testable here", "not judged yet"}

HIT = "#search-results ul.search li a"
PATHS = "links => links.map(link => new URL(link.href).pathname)"

SCREENSHOTS = os.environ.get("INCONCERT_SCREENSHOTS")
"""A folder: then every page is also saved as PNG (desktop light and dark, phone), for the eye."""


def picture(page: Page, name: str, kind: str) -> None:
    """Save the page as a PNG if screenshots are asked for: what the window shows first ("screen"), else all of it."""
    if SCREENSHOTS:
        path = Path(SCREENSHOTS) / f"{name.replace('/', '-')}-{kind}.png"
        page.screenshot(path=path, full_page=kind != "screen")


def show_lazy_images(page: Page) -> None:
    """Open folded parts and load every image, those below the fold too."""
    page.evaluate(
        """async () => {
            document.querySelectorAll('details').forEach(part => part.open = true);
            const images = [...document.images];
            images.forEach(image => image.loading = 'eager');
            await Promise.all(images.map(image => image.decode().catch(() => null)));
        }"""
    )


def test_the_book_has_pages() -> None:
    assert {"index", "how_to_read", "how_to_rerun", "deviation_ledger", "status", "references"} <= set(PAGES)
    assert {f"{chapter}/index" for chapter in CHAPTERS} <= set(PAGES)
    assert NOTEBOOKS


def test_the_sidebar_leads_to_every_page(visit: Open) -> None:
    page = visit("index").page
    hrefs = page.eval_on_selector_all(".bd-sidebar-primary nav a", PATHS)
    assert {f"/{name}.html" for name in PAGES if name != "index"} <= set(hrefs)


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, visit: Open) -> None:
    opened = visit(name)
    page = opened.page
    show_lazy_images(page)
    assert opened.complaints == []

    assert page.locator("article h1").count() == 1
    assert page.title().strip()
    assert len(page.locator("article").inner_text()) > 150, "the page is empty"
    assert page.locator("html[lang]").count() == 1

    formulas = page.locator(".bd-article .math").count()
    assert page.locator("mjx-container").count() >= formulas
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    if formulas:
        fonts = [url for url in opened.loaded if "/mathjax/" in url and url.endswith(".woff")]
        assert fonts, "formulas without their fonts"

    images = page.eval_on_selector_all("img", "all => all.map(i => ({src: i.src, alt: i.alt, width: i.naturalWidth}))")
    assert [image["src"] for image in images if image["width"] == 0] == [], "images that did not decode"
    assert [image["src"] for image in images if not says_something(image["alt"])] == [], "images nobody described"
    drawings = page.locator("svg.drawing")
    assert all(drawings.nth(i).locator("title").count() == 1 for i in range(drawings.count()))

    words = {re.sub(r"^\d+ ", "", " ".join(word.split())) for word in page.locator(".verdict").all_inner_texts()}
    assert words <= VERDICTS
    picture(page, name, "light")
    picture(page, name, "screen")

    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_timeout(300)  # the theme fades, formulas and tables settle
    widest = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    assert widest <= PHONE[0], f"on a phone the page is {widest} px wide: {too_wide(page)}"
    assert opened.complaints == []
    picture(page, name, "phone")


def says_something(alt: str) -> bool:
    """A sentence or a name; not empty, not a file."""
    return bool(alt.strip()) and not re.search(r"_images/|\.(png|svg|jpe?g|gif)$", alt)


def too_wide(page: Page) -> list[str]:
    """The elements that stick out of the window, for the error message."""
    return page.evaluate(
        """() => {
            const scrolls = e => ['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX);
            const boxed = e => e.parentElement && (scrolls(e.parentElement) || boxed(e.parentElement));
            return [...document.querySelectorAll('main article *, main footer *')]
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !boxed(e))
                .slice(0, 5).map(e => `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 40)}`);
        }"""
    )


def brightness(colour: str) -> float:
    """Mean of the channels of a css colour "rgb(r, g, b)", 0 to 255."""
    channels = [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]
    return sum(channels) / 3


def test_dark_mode_follows_the_system_and_the_switch(visit: Open) -> None:
    page = visit("index", scheme="dark").page
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")

    page = visit("index", scheme="light").page
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", "light")
    switch = page.locator("button.theme-switch-button:visible").first
    for _ in range(3):  # the switch goes through light, dark and "as the system"
        switch.click()
        if html.get_attribute("data-theme") == "dark":
            break
    expect(html).to_have_attribute("data-theme", "dark")
    page.wait_for_timeout(400)  # the theme fades
    back, ink = page.eval_on_selector("body", "b => [getComputedStyle(b).backgroundColor, getComputedStyle(b).color]")
    assert brightness(back) < 60
    assert brightness(ink) > 150
    picture(page, "index", "dark")

    page.goto(page.url.replace("index.html", "kpf/index.html"), wait_until="networkidle")
    at_rest(page)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")  # the choice is remembered
    text = page.eval_on_selector("svg.drawing text", "t => getComputedStyle(t).fill")
    assert brightness(text) > 150, "the drawing's text does not follow the theme"
    picture(page, "kpf/index", "dark")


@pytest.mark.parametrize(
    ("word", "found_on"),
    [("Kalman", "kpf/index"), ("miscoordination", "magpo/mappo"), ("kurtosis", "ensemble_mix/index")],
)
def test_search_finds_words_of_the_pages(word: str, found_on: str, visit: Open) -> None:
    opened = visit("index")
    page = opened.page
    page.locator("button.search-button-field:visible, button.search-button:visible").first.click()
    field = page.locator("input[type=search]:visible").first
    field.fill(word)
    field.press("Enter")
    page.wait_for_selector(HIT)
    hits = page.eval_on_selector_all(HIT, PATHS)
    assert f"/{found_on}.html" in hits
    page.wait_for_load_state("networkidle")
    assert opened.complaints == []


def test_the_book_opens_from_a_folder(visit: Open, html: Path) -> None:
    opened = visit((html / "index.html").as_uri())
    page = opened.page
    assert page.locator("article h1").inner_text().startswith("Policies in Concert")
    page.locator(".bd-sidebar-primary nav a", has_text="MAGPO").first.click()
    page.wait_for_load_state("networkidle")
    at_rest(page)
    assert page.url.startswith("file:")
    assert page.locator("mjx-container").count() > 0
    assert page.locator("mjx-merror").count() == 0
    fonts = page.evaluate("[...document.fonts].filter(f => f.family.startsWith('MJX') && f.status == 'loaded').length")
    assert fonts > 0, "MathJax found no fonts"
    assert opened.complaints == []

    page.goto((html / "search.html").as_uri() + "?q=Kalman")  # summaries need a server, hits do not
    page.wait_for_selector(HIT)


def local_references(path: Path) -> list[tuple[str, str]]:
    """(attribute, target) of everything that the page at `path` links to or loads."""
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    found = []
    for tag in soup.find_all(True):
        assert isinstance(tag, Tag)
        for attribute in ("src", "href"):
            target = tag.get(attribute)
            if isinstance(target, str) and target:
                found.append((tag.name, target))
    return found


def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(html: Path) -> None:
    dead, foreign = [], []
    identifiers: dict[Path, set[str]] = {}

    def has(path: Path, fragment: str) -> bool:
        if path not in identifiers:
            text = path.read_text(encoding="utf-8")
            identifiers[path] = set(re.findall(r"""\b(?:id|name)=["']([^"']+)["']""", text))
        return fragment in identifiers[path]

    pages = [html / f"{name}.html" for name in PAGES]
    for path in pages:
        for tag, target in local_references(path):
            url = urlsplit(target)
            if url.scheme or url.netloc:
                if tag != "a" and url.scheme not in ("data", "mailto"):
                    foreign.append(f"{path.relative_to(html)}: <{tag}> {target}")
                continue
            there = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not there.is_file():
                dead.append(f"{path.relative_to(html)}: {target}")
            elif url.fragment and there.suffix == ".html" and not has(there, unquote(url.fragment)):
                dead.append(f"{path.relative_to(html)}: {target} (no such place)")
    assert foreign == []
    assert dead == []


def test_no_file_is_larger_than_two_megabytes(html: Path) -> None:
    assert [path.name for path in html.rglob("*") if path.is_file() and path.stat().st_size > 2_000_000] == []
