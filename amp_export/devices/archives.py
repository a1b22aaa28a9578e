"""Writes reproducible archives: the same content gives the same bytes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from amp_export.errors import OutputError
from amp_export.progress import Advance

COMPRESSION = 1
"""Compresses float32 weights to 71 %; level 6 reaches 68 % and takes five times as long."""

MEGABYTE = 1 << 20


def write_archive(
    file: Path, top: str, contents: Mapping[str, Path | bytes], *, first: str, advance: Advance | None = None
) -> None:
    """Write a reproducible `.tar.gz`: without times and owners, with sorted names.

    Args:
        file: Path of the archive; written atomically, replaces an existing file.
        top: Top-level folder in the archive.
        contents: Files, or their content, by their names in this folder.
        first: Name of the file to put first, so that it can be read quickly.
        advance: Called with the megabytes written and their total.
    """
    partial = file.parent / f".{file.name}.partial-{os.getpid()}"
    total = sum(_size(content) for content in contents.values())
    try:
        with (
            partial.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=COMPRESSION, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            done = 0
            for name in sorted(contents, key=lambda name: (name != first, name)):
                content = contents[name]
                info = tarfile.TarInfo(f"{top}/{name}")
                info.size = _size(content)
                info.mode = 0o755 if name.endswith(".sh") else 0o644
                with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
                    counted = _Counted(stream, done, total, advance)
                    archive.addfile(info, cast("IO[bytes]", counted))
                done += info.size
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read_first(file: Path, name: str) -> bytes:
    """Return the first file of an archive that `write_archive` wrote.

    Raises:
        OutputError: The archive is damaged, or another file comes first.
    """
    try:
        with tarfile.open(file, "r:gz") as archive:
            member = archive.next()
            stream = archive.extractfile(member) if member is not None else None
            if member is None or stream is None or member.name.rpartition("/")[2] != name:
                raise OutputError(f"{file} is not a bundle: its first file is not {name}.")
            return stream.read()
    except OutputError:
        raise
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise OutputError(f"{file} is damaged or not a bundle: {error}") from error


class _Counted:
    """A stream that reports how much of it was read."""

    def __init__(self, stream: IO[bytes], done: int, total: int, advance: Advance | None) -> None:
        self._stream, self._done, self._total, self._advance = stream, done, total, advance

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self._done += len(chunk)
        if self._advance is not None:
            self._advance(self._done // MEGABYTE, self._total // MEGABYTE)
        return chunk


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
