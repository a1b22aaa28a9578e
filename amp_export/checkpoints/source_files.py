"""Read and copy files of a source: errors name the file, and copies do not depend on its permissions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_export.errors import ModelError


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn an error of the system into ModelError: an OSError would be reported as one of the output.

    Raises:
        ModelError: The file cannot be read.
    """
    try:
        # safetensors reports a file that this user may not read as missing
        file.open("rb").close()
        yield
    except OSError as error:
        raise ModelError(
            f"{file} cannot be read: {error.strerror or error}.\nMake it readable for this user, or give a checkpoint "
            "that is complete and readable."
        ) from error


def copy_files(files: Iterable[Path], folder: Path, *, base: Path | None = None) -> None:
    """Copy files into a folder, without their permissions: the copy of a read-only file could not be changed.

    Args:
        files: The files.
        folder: The folder.
        base: Directory below which files keep their folders; others are copied into the folder itself.

    Raises:
        ModelError: A file cannot be read.
        OSError: A copy cannot be written.
    """
    for file in files:
        with reading(file):
            content = file.read_bytes()
        place = folder / (file.relative_to(base) if base is not None and base in file.parents else file.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
