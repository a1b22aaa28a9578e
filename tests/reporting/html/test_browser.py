"""The page in a real browser: on a phone, on a desk, and on paper."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amp_export.reporting.html.page import to_html
from tests.support.chromium import Browser, browser, find_chromium
from tests.support.contrast import TEXT_CONTRAST, contrast
from tests.support.sample_reports import bare_report, encoder_report, full_report, large_report, manifest, save_layers
from tests.support.shared import Converted

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

CHROMIUM = find_chromium()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

REFLOW, PHONE, TABLET, DESK = 320, 390, 768, 1280
"""Widths in pixels; at the least a page must not scroll in two directions: WCAG 2.2, success criterion 1.4.10."""

KINDS = ("full", "encoder", "bare", "large", "real")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


Pages = Callable[[str], Path]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, converted: Callable[[str], Converted]) -> Pages:
    folder = tmp_path_factory.mktemp("pages")
    save_layers(folder)

    @functools.cache
    def make(kind: str) -> Path:
        if kind == "real":
            return converted("t5").output / "report.html"
        makers = {"full": full_report, "encoder": encoder_report, "bare": bare_report, "large": large_report}
        report = makers[kind]()
        page = folder / f"{kind}.html"
        page.write_text(to_html(report, manifest(report), folder), encoding="utf-8")
        return page

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_nothing_overflows_and_nothing_is_fetched(kind: str, pages: Pages, tab: Browser) -> None:
    for width in (REFLOW, PHONE, TABLET, DESK):
        tab.open(pages(kind), width=width)
        tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.evaluate("innerWidth") == width
        assert tab.evaluate(OUTSIDE) == []
        assert tab.evaluate(SCROLLING) == []
        assert tab.requests[0] == pages(kind).resolve().as_uri()
        assert all(request.startswith("data:image/png;base64") for request in tab.requests[1:])


OUTSIDE = """
[...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && (box.left < -1 || box.right > innerWidth + 1) && !element.closest('svg, thead');
}).map(element => element.outerHTML.slice(0, 120))
"""
"""Elements beyond the edges of the screen; headings of tables may be there for screen readers alone."""

SCROLLING = """
[...document.querySelectorAll('.scroll')].filter(frame => frame.scrollWidth > frame.clientWidth)
  .map(frame => frame.getAttribute('aria-label'))
"""
"""Tables that would have to be moved sideways to be read."""


@pytest.mark.parametrize("kind", KINDS)
def test_words_in_pictures_are_legible(kind: str, pages: Pages, tab: Browser) -> None:
    tab.open(pages(kind), width=PHONE)
    found = tab.evaluate(WORDS)
    assert found == {"small": [], "cut": [], "overlapping": []}


WORDS = """
(() => {
  const found = {small: [], cut: [], overlapping: []};
  for (const picture of document.querySelectorAll('svg')) {
    const frame = picture.getBoundingClientRect(), scale = frame.width / picture.viewBox.baseVal.width;
    const words = [...picture.querySelectorAll('text')];
    const boxes = words.map(word => word.getBoundingClientRect());
    words.forEach((word, number) => {
      const box = boxes[number];
      if (parseFloat(getComputedStyle(word).fontSize) * scale < 11) found.small.push(word.textContent);
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        found.cut.push(word.textContent);
      for (const other of boxes.slice(number + 1))
        if (box.left < other.right - 2 && other.left < box.right - 2 && box.top < other.bottom - 4
            && other.top < box.bottom - 4)
          found.overlapping.push(word.textContent);
    });
  }
  return found;
})()
"""


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_every_text_stands_out_from_what_is_behind_it(kind: str, pages: Pages, tab: Browser) -> None:
    tab.open(pages(kind), width=DESK)
    colours = tab.evaluate(COLOURS)
    assert len(colours) > 10
    assert [text for text, colour in colours if contrast_on_white(colour) < TEXT_CONTRAST] == []


COLOURS = """
[...document.querySelectorAll('body *')].filter(element =>
  [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
  && !element.closest('title, desc')
).map(element => [element.textContent.trim().slice(0, 40),
  getComputedStyle(element)[element.closest('svg') ? 'fill' : 'color']])
"""
"""Texts and their colours; all that stands behind a text is white."""


def contrast_on_white(colour: str) -> float:
    from amp_export.reporting.html.svg import WHITE

    parts = colour.removeprefix("rgb(").removesuffix(")").split(",")
    return contrast("#" + "".join(f"{int(part):02x}" for part in parts), WHITE)


def test_on_a_phone_each_number_of_a_case_stands_beside_what_it_is(pages: Pages, tab: Browser) -> None:
    tab.open(pages("full"), width=PHONE)
    labels = tab.evaluate(LABELS)
    assert labels[:3] == [["result", "holds"], ["largest error", "0.00012"], ["tolerance", "0.0004"]]
    tab.open(pages("full"), width=DESK)
    assert {label for label, _ in tab.evaluate(LABELS)} == {"none"}


LABELS = """
[...document.querySelectorAll('[aria-label="Parity by case"] tbody tr:first-child td')].map(
  cell => [getComputedStyle(cell, '::before').content.replaceAll('"', ''), cell.textContent])
"""
"""What is shown before each cell of the first case, and the cell."""


def test_what_scrolls_where_letters_are_large_can_be_reached_without_a_mouse(pages: Pages, tab: Browser) -> None:
    tab.open(pages("full"), width=PHONE)
    tab.evaluate("document.documentElement.style.fontSize = '300%'")
    scrolling = "[...document.querySelectorAll('.scroll')].filter(frame => frame.scrollWidth > frame.clientWidth)"
    assert tab.evaluate(f"{scrolling}.length") > 0
    assert tab.evaluate(f"{scrolling}.every(frame => frame.tabIndex === 0 && frame.getAttribute('aria-label'))")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_screen_readers_are_told_what_pictures_and_tables_show(width: int, pages: Pages, tab: Browser) -> None:
    tab.open(pages("full"), width=width)
    nodes: list[dict[str, Any]] = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = [(node.get("role", {}).get("value"), node.get("name", {}).get("value", "")) for node in nodes]
    pictures = [name for role, name in roles if role == "image"]
    assert len(pictures) == tab.evaluate("document.querySelectorAll('svg').length")
    assert any("heads are crossed out: they were removed" in name for name in pictures)
    assert ("rowheader", "prefill of 17 tokens") in roles
    assert ("columnheader", "largest error") in roles


def test_on_paper_everything_is_unfolded(pages: Pages, tab: Browser, tmp_path: Path) -> None:
    tab.open(pages("full"), width=DESK)
    shown = "[...document.querySelectorAll('details table')].map(table => table.checkVisibility())"
    assert tab.evaluate(shown) == [False, False, False]
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.evaluate(shown) == [True, True, True]
        assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        tab.print_pdf(tmp_path / "report.pdf")
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_screenshot_shows_the_whole_page(width: int, pages: Pages, tab: Browser, tmp_path: Path) -> None:
    from PIL import Image

    tab.open(pages("full"), width=width)
    tab.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.width == width
        assert image.height == tab.evaluate("document.documentElement.scrollHeight")
        assert len(image.convert("RGB").getcolors(1 << 24)) > 100, "pictures are drawn"
