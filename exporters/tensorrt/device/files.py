"""Files that are there whole or not at all, and how much room there is for them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from .errors import RunError


def write_json(file: Path, content: Any) -> None:
    """Write a file in one step.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        raise RunError(
            f"{file} cannot be written: {error.strerror}; {gigabytes(free_disk(file.parent))} of disk space are "
            "free.\nFree some space, or make the folder writable."
        ) from error


def read_json(file: Path) -> Any | None:
    """Return the content of a file of ours, or None where there is none, or a damaged one."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def free_disk(folder: Path) -> int:
    """Return bytes that can still be written."""
    return shutil.disk_usage(str(folder)).free


def available_memory(root: Path = Path("/")) -> int | None:
    """Return bytes that can be allocated without swapping, as the kernel estimates; None where it does not tell."""
    return _memory_line("MemAvailable", root)


def total_memory(root: Path = Path("/")) -> int | None:
    """Return bytes of memory that there are."""
    return _memory_line("MemTotal", root)


def free_swap(root: Path = Path("/")) -> int:
    """Return bytes that can be swapped out."""
    return _memory_line("SwapFree", root) or 0


def _memory_line(name: str, root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def gigabytes(count: float) -> str:
    """Return a size for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
