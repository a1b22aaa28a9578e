"""Hash files and weights, and measure directories."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from amp_export.checkpoints.reading import Checkpoint
from amp_export.checkpoints.source_files import reading
from amp_export.hardware.threads import read_in_threads


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_source(path: Path) -> str:
    """Return the SHA-256 of a file of a source in hexadecimal.

    Raises:
        ModelError: The file cannot be read.
    """
    with reading(path):
        return hash_file(path)


def hash_weights(checkpoint: Checkpoint) -> str:
    """Return one SHA-256 over the names and contents of all weight files and the config."""
    files = [checkpoint.path / "config.json", *checkpoint.weight_files]
    return hash_files((file.name, file) for file in files)


def hash_files(named: Iterable[tuple[str, Path]]) -> str:
    """Return one SHA-256 over the names and contents of files of a source.

    Raises:
        ModelError: A file cannot be read.
    """
    digest = hashlib.sha256()
    names, files = zip(*named, strict=True)
    for name, hashed in zip(names, read_in_threads(hash_source, files), strict=True):
        digest.update(f"{name}:{hashed}\n".encode())
    return digest.hexdigest()


def directory_size(path: Path) -> int:
    """Return the total size of all files below `path`, in bytes."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total
