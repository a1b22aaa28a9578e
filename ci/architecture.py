"""Draw docs/architecture.svg from the layers of pyproject.toml: python ci/architecture.py [--check].

A package's purpose is the first sentence of its docstring. With --check, nothing is written, and the exit code is 1 if
the drawing is out of date.
"""

from __future__ import annotations

import argparse
import ast
import sys
import textwrap
import tomllib
from html import escape

from generated import PROJECT, write_or_check

DRAWING = PROJECT / "docs" / "architecture.svg"

WIDTH, MARGIN, GAP = 760, 36, 8
LINE, TITLE, PADDING = 16, 20, 9
CHARACTER = 6.1  # average width of a character of the purpose

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #334155; }
.name { font: 600 14px ui-monospace, monospace; fill: #1e293b; }
rect { fill: #eef2ff; stroke: #94a3b8; }
path { fill: none; stroke: #64748b; stroke-width: 1.5; }
.side { fill: #64748b; }
"""


def layers() -> list[list[str]]:
    """Return the packages of each layer, the highest layer first."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.replace(":", "|").split("|")] for layer in contract["layers"]]


def purpose(name: str) -> str:
    """Return the first sentence of the docstring of a package or module of amp_export.

    Raises:
        SystemExit: It has no docstring.
    """
    folder = PROJECT / "amp_export" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise SystemExit(f"{file} has no docstring. Say in its first sentence what it is for.")
    return text.splitlines()[0].partition(". ")[0].removesuffix(".").replace("`", "")


def drawing() -> str:
    """Return the drawing: a row for each layer, a box for each package."""
    parts: list[str] = []
    top = 0
    for row in layers():
        width = (WIDTH - MARGIN - GAP * (len(row) - 1)) / len(row)
        texts = [textwrap.wrap(purpose(name), int((width - 2 * PADDING) / CHARACTER)) for name in row]
        height = TITLE + LINE * max(map(len, texts)) + 2 * PADDING - 4
        for place, (name, lines) in enumerate(zip(row, texts, strict=True)):
            left = MARGIN + place * (width + GAP)
            parts.append(f'<rect x="{left:.1f}" y="{top + 0.5}" width="{width:.1f}" height="{height}" rx="4"/>')
            x, y = left + PADDING, top + PADDING + 12
            parts.append(f'<text class="name" x="{x:.1f}" y="{y}">{escape(name)}</text>')
            parts += [
                f'<text x="{x:.1f}" y="{y + TITLE + LINE * number}">{escape(line)}</text>'
                for number, line in enumerate(lines)
            ]
        top += height + GAP
    bottom = top - GAP
    middle = bottom // 2
    arrow = f'<path d="M 24 4 V {bottom - 4} m -5 -7 l 5 7 l 5 -7"/>'
    side = f'<text class="side" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">imports</text>'
    body = "\n".join([arrow, side, *parts])
    title = "The packages of amp_export in layers. A package imports only from lower layers."
    size = f'viewBox="0 0 {WIDTH + 1} {bottom + 1}" width="{WIDTH + 1}" height="{bottom + 1}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def main() -> int:
    """Write the drawing, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the drawing is out of date")
    return write_or_check(
        DRAWING,
        drawing(),
        check=parser.parse_args().check,
        source="pyproject.toml and the docstrings",
        command="python ci/architecture.py",
    )


if __name__ == "__main__":
    sys.exit(main())
