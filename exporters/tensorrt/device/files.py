"""Atomic writing of files, and the available disk space and memory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from .errors import RunError


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file atomically.

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
    """Return the content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def free_disk(folder: Path) -> int:
    """Return the free disk space in bytes."""
    return shutil.disk_usage(str(folder)).free


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the kernel's estimate of the bytes that can be allocated without swapping; None if unknown."""
    return _memory_line("MemAvailable", root)


def total_memory(root: Path = Path("/")) -> int | None:
    """Return the total memory in bytes; None if unknown."""
    return _memory_line("MemTotal", root)


def free_swap(root: Path = Path("/")) -> int:
    """Return the free swap space in bytes; 0 if unknown."""
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
    """Return a size as text, in GB or MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
