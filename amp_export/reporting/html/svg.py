"""Figures of Matplotlib as SVG that stands within a page: text as text, and the same bytes for the same figure."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WHITE = "#ffffff"

INK = "#1b1f23"
"""Text."""

GREY = "#57606a"
"""The dense model, and lesser text."""

PRUNED = "#0a56a5"
"""The pruned model, and links."""

GOOD = "#116329"

BAD = "#b3261e"


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

WIDTH = 360
"""Width of every figure in points, about that of a phone in its own pixels: font sizes apply there unscaled."""

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    # what Matplotlib brings along and measures with; the page shows its own
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Picture:
    """A figure in a page.

    Attributes:
        title: What it shows.
        description: The same for who cannot see it.
        svg: The element.
    """

    title: str
    description: str
    svg: str


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """Yield a figure of this height in points, in the style of all, whatever the user's own settings are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    logger = logging.getLogger("matplotlib")
    level = logger.level
    # it reports fonts and caches, which no user needs
    logger.setLevel(logging.ERROR)
    try:
        with style.context(dict(STYLE), after_reset=True):
            yield Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    finally:
        logger.setLevel(level)


def write_above(axes: Axes, height: float, text: str) -> None:
    """Write a label above its row, from the left edge: long names do not fit next to it."""
    box = {"facecolor": WHITE, "edgecolor": "none", "pad": 1.0}
    axes.text(0.005, height, text, transform=axes.get_yaxis_transform(), bbox=box, va="bottom", in_layout=False)


def to_picture(figure: Figure, name: str, *, title: str, description: str) -> Picture:
    """Turn a figure into a picture; call it within `drawing`.

    Args:
        figure: The figure.
        name: A word that no other picture of the page has.
        title: What it shows.
        description: The same for who cannot see it.
    """
    import matplotlib

    # done once here; saving would draw everything a second time for it
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    # names within the file are hashes, which salt makes the same every time and others in every picture
    with matplotlib.rc_context({"svg.hashsalt": name}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314  Matplotlib wrote it just now
    _strip(root)
    _name(root, name, title, description)
    return Picture(title, description, ElementTree.tostring(root, encoding="unicode"))


def _strip(root: ElementTree.Element) -> None:
    """Remove what a page has no use for.

    That is metadata, styles for all elements of the page, namespaces, which HTML knows by itself, and names that would
    be there twice and that nothing refers to.
    """
    for parent in list(root.iter()):
        for element in list(parent):
            if element.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(element)
    referred: set[str] = set()
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        for value in element.attrib.values():
            referred.update(part.split(")")[0] for part in value.split("url(#")[1:])
        if (target := element.attrib.pop(f"{{{XLINK}}}href", None)) is not None:
            element.set("href", target)
            referred.add(target.removeprefix("#"))
    for element in root.iter():
        if element.get("id") not in referred:
            element.attrib.pop("id", None)


def _name(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    """Give the picture a title and a description that screen readers read, and leaves its size to the page."""
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for number, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(number, element)
