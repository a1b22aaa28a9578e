"""Hash files and weights, and measure directories."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from amp_export.checkpoints.reading import Checkpoint, read_finite
from amp_export.checkpoints.source_files import reading
from amp_export.checkpoints.weight_files import TensorInfo
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
    return hash_files((file.name, file) for file in _hashed_files(checkpoint))


def hash_finite_weights(checkpoint: Checkpoint, *, on_progress: Callable[[int, int], None] | None = None) -> str:
    """Return what `hash_weights` returns, after checking that all weights are finite; each file is read once.

    Args:
        checkpoint: The checkpoint.
        on_progress: Called with the number of files that were read and their total, after each.

    Raises:
        ModelError: A file cannot be read, or a tensor holds a NaN or an infinity.
    """
    files = _hashed_files(checkpoint)
    tensors: dict[Path, list[tuple[str, TensorInfo]]] = {file: [] for file in files}
    for name, info in checkpoint.tensors.items():
        for part in info.parts or (info,):
            tensors[part.file].append((name, part))

    def hash_finite(file: Path) -> str:
        return _hash_finite(file, sorted(tensors[file], key=lambda named: named[1].start))

    hashes = []
    for hashed in read_in_threads(hash_finite, files):
        hashes.append(hashed)
        if on_progress is not None:
            on_progress(len(hashes), len(files))
    return _combine((file.name, hashed) for file, hashed in zip(files, hashes, strict=True))


def _hashed_files(checkpoint: Checkpoint) -> list[Path]:
    return [checkpoint.path / "config.json", *checkpoint.weight_files]


def _hash_finite(file: Path, tensors: Sequence[tuple[str, TensorInfo]]) -> str:
    """Return the SHA-256 of a file, given what is to be checked of it in the order of the file."""
    import numpy as np

    digest = hashlib.sha256()
    with reading(file), file.open("rb") as stream:
        for name, info in tensors:
            between = info.start - stream.tell()
            assert between >= 0, "a part of a file was named twice"
            digest.update(stream.read(between))
            array = read_finite(info, name, on_piece=lambda piece: digest.update(piece.view(np.uint8).data))
            stream.seek(array.nbytes, os.SEEK_CUR)
        digest.update(stream.read())
    return digest.hexdigest()


def hash_files(named: Iterable[tuple[str, Path]]) -> str:
    """Return one SHA-256 over the names and contents of files of a source.

    Raises:
        ModelError: A file cannot be read.
    """
    names, files = zip(*named, strict=True)
    return _combine(zip(names, read_in_threads(hash_source, files), strict=True))


def _combine(hashes: Iterable[tuple[str, str]]) -> str:
    """Return one SHA-256 of the names and hashes of files."""
    digest = hashlib.sha256()
    for name, hashed in hashes:
        digest.update(f"{name}:{hashed}\n".encode())
    return digest.hexdigest()


def directory_size(path: Path) -> int:
    """Return the total size of all files below `path`, in bytes."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total
