"""Draw the summary of an output directory as the terminal shows it: python ci/bench/picture.py OUT PICTURE.svg."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from amp_export.cli.console import show_report
from amp_export.reporting.report import Report


def main() -> None:
    """Write an SVG that loads no fonts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("picture", type=Path, metavar="PICTURE.svg")
    asked = parser.parse_args()
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, highlight=False)
    show_report(console, Report.load(asked.output))
    svg = console.export_svg(title="amp-export --to onnx --model demo --ratio 0.1 --output out")
    asked.picture.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
