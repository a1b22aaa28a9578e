"""Files of docs/ that scripts of ci/ generate: write them, or check that they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def write_or_check(file: Path, text: str, *, check: bool, source: str, command: str) -> int:
    """Write a generated file, or check that it is up to date.

    Args:
        file: The file.
        text: Its expected content.
        check: Only compare, and write nothing.
        source: Source of the text, for the message.
        command: Command that writes the file, for the message.

    Returns:
        The exit code: 1 if the checked file is out of date.
    """
    if not check:
        file.write_text(text, encoding="utf-8")
        return 0
    name = file.relative_to(PROJECT)
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        print(f"{name} matches {source}.")
        return 0
    print(f"{name} is out of date. Write it again: {command}", file=sys.stderr)
    return 1
