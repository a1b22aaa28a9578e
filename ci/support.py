"""Writes docs/support.md from what the tests of all families found: python ci/support.py [--check] [--rows DIR].

It runs `tests/test_families.py`, unless --rows names what such a run left behind. With --check nothing is written, and
the exit code is 1 where the page is not what the run says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "support.md"

HEADER = """# What is supported

Written by `python ci/support.py` from a run of `tests/test_families.py`, which puts a tiny random model of each family
through everything: score, prune in three ways, rewrite, reload in a process that cannot import amp-export (logits equal
bit for bit), compare with the dense model with the same heads and neurons masked (float64, 1e-5), export in every way
there is, and check parity. CI runs the same and fails where this page differs, but here it traces those families
alone that no other test traces, and two of those that are built directly.

- *fewer neurons*: all heads stay. *Odd heads*: 5 of 6 heads, on a hidden size of 48 that 5 does not divide. *Layers
  differ*: importance is compared across layers, so that each keeps its own counts.
- *same*: the same class with new numbers. A class name: a sibling that computes the same, bit for bit. *resized*: the
  same class, resized at load by a modelling file that is saved with the checkpoint: with `trust_remote_code=True`,
  or without it where amp-export is installed and `amp_export.register()` was called.
- *direct*: the graph is built from config and weights. *trace*: the model is followed by transformers' exporter.
- *genai*: `genai_config.json` is written, so that onnxruntime-genai opens the folder.

| family | kind | fewer neurons | odd heads | layers differ | graphs | genai |
| --- | --- | --- | --- | --- | --- | --- |
"""


def run_families(rows: Path) -> None:
    """Runs the tests, which leave one file a family in `rows`."""
    command = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses", "2", "tests/test_families.py"]
    settings = {"AMP_EXPORT_SUPPORT_ROWS": str(rows), "AMP_EXPORT_ALL_WAYS": "yes"}
    subprocess.run(command, cwd=PROJECT, env={**os.environ, **settings}, check=True)


def page(rows: Path) -> str:
    """The text of the page.

    Raises:
        SystemExit: A family left nothing.
    """
    from amp_export.architectures import supported_model_types

    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in rows.glob("*.json")}
    if missing := [family for family in supported_model_types() if family not in found]:
        raise SystemExit(f"{rows} holds nothing of {', '.join(missing)}: run tests/test_families.py whole.")
    return HEADER + "".join(_line(found[family]) for family in supported_model_types())


def _line(row: dict[str, Any]) -> str:
    rewrites = (_rewrite(row["rewrites"][name]) for name in ("neurons", "odd heads", "layers differ"))
    cells = [row["model_type"], row["kind"], *rewrites, ", ".join(row["exporters"]), "yes" if row["genai"] else ""]
    return f"| {' | '.join(cells)} |\n"


def _rewrite(rewrite: dict[str, str]) -> str:
    words = {"same class": "same", "resized class": "resized"}
    return words.get(rewrite["kind"], f"`{rewrite['class']}`")


def main() -> int:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is stale")
    parser.add_argument("--rows", type=Path, help="what a run of the tests left behind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.rows is None:
            run_families(Path(scratch))
        text = page(arguments.rows or Path(scratch))
    if not arguments.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        print(f"{PAGE.relative_to(PROJECT)} says what the tests found.")
        return 0
    print(f"{PAGE.relative_to(PROJECT)} is stale. Write it anew: python ci/support.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
