"""The user's cache of downloaded and converted checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


DEMO = "demo"

CONVERTER = 3
"""Version of the conversions of GGUF files and pickles: raised with each change of what they write.

2: the conversions are keyed by this version, and those of GGUF files, which transformers reads, by its version too.
3: byte-level tokenizers of GGUF files split texts as the file says.
"""

OnStatus = Callable[[str], None]


def conversion_key(content: str, *packages: str) -> str:
    """Return the name of a cached conversion.

    Args:
        content: The hash of what is converted.
        packages: Packages that take part in the conversion.
    """
    versions = (f"{package}-{metadata.version(package)}" for package in packages)
    return "-".join((content, f"v{CONVERTER}", *versions))


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`; call `make` to create it if it does not exist.

    A lock lets one process write at a time; the others use its result. Partial results of killed processes are removed.

    Raises:
        ModelError: The folder cannot be written.
    """
    from filelock import FileLock

    if folder.is_dir():
        return folder
    staging = folder.with_name(f".{folder.name}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                shutil.rmtree(staging, ignore_errors=True)
                try:
                    make(staging)
                    staging.rename(folder)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"The checkpoint cannot be cached in {folder.parent}: {error.strerror or error}.\nFree some space there, "
            "or set AMP_EXPORT_CACHE to a directory on another disk."
        ) from error
    return folder
