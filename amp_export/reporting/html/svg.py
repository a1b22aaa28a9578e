"""Matplotlib figures as SVG elements of a page: text stays text, and equal figures give equal bytes."""

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
"""Text colour."""

GREY = "#57606a"
"""Colour of the dense model, and of secondary text."""

PRUNED = "#0a56a5"
"""Colour of the pruned model, and of links."""

GOOD = "#116329"

BAD = "#b3261e"


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

WIDTH = 360
"""Width of every figure in points, about that of a phone in CSS pixels: there, font sizes are not scaled."""

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    # Matplotlib ships this font and measures text with it; the page uses its own
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    # a factor or an offset of all ticks would be written over the label of the axis
    "axes.formatter.limits": [-99, 99],
    "axes.formatter.useoffset": False,
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
        title: Its title.
        description: Description for readers who cannot see it.
        svg: The SVG element.
    """

    title: str
    description: str
    svg: str


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """Yield a figure of this height in points, in the common style, whatever the user's Matplotlib settings are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    logger = logging.getLogger("matplotlib")
    level = logger.level
    # silence messages about fonts and caches
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
        name: A word that is unique within the page.
        title: Its title.
        description: Description for readers who cannot see it.
    """
    import matplotlib

    # compute the layout once: saving with a layout engine would draw everything twice
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    # ids in the file are hashes; the salt makes them reproducible, and different in every picture
    with matplotlib.rc_context({"svg.hashsalt": name}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314  Matplotlib wrote it just now
    _strip(root)
    _name(root, name, title, description)
    return Picture(title, description, ElementTree.tostring(root, encoding="unicode"))


def _strip(root: ElementTree.Element) -> None:
    """Remove the parts of an SVG file that a page does not need.

    These are metadata, styles that would apply to all of the page, namespaces, which HTML implies, and ids that nothing
    refers to, which would not be unique.
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
    """Add a title and a description for screen readers, and leave the size to the page."""
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for number, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(number, element)
