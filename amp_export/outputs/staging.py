"""Atomic writing of the output directory: it is written beside its destination and renamed into place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_export.errors import OutputError
from amp_export.outputs.names import MANIFEST

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Flag of `renameat2` in linux/fs.h that swaps two paths atomically."""


def is_ours(output: Path) -> bool:
    """Return whether a directory holds a manifest of amp-export."""
    try:
        content = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and "schema" in content


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raise OutputError if an output must not be written over the existing files.

    Raises:
        OutputError: `output` is not a directory, holds other files, or an earlier result without `overwrite`.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is not a directory.\nChoose another --output.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not is_ours(output):
        found = ", ".join(sorted(entry.name for entry in output.iterdir())[:5])
        raise OutputError(
            f"{output} is not empty and was not written by amp-export (it holds {found}), so it is not "
            "overwritten.\nChoose another --output."
        )
    if not overwrite:
        raise OutputError(f"{output} holds an earlier result.\nGive --overwrite to replace it, or another --output.")


def require_directory(output: Path) -> None:
    """Raise OutputError if an output directory does not exist.

    Raises:
        OutputError: The directory does not exist.
    """
    if not output.is_dir():
        raise OutputError(
            f"No such directory: {output}\n"
            f"Create it first: amp-export --to onnx --model MODEL --ratio R --output {output}"
        )


@contextmanager
def staged_output(output: Path, *, overwrite: bool = False, extend: bool = False) -> Iterator[Path]:
    """Yield a directory beside `output` that replaces it when the block ends without an error.

    A run that fails or is killed leaves the old output unchanged.

    Args:
        output: The output directory.
        overwrite: Whether to replace an earlier result.
        extend: Whether to start from the files of the earlier result instead of an empty directory.

    Raises:
        OutputError: `output` must not be written, or the disk is full.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would follow a link that is to be refused
    check_output(output, overwrite=overwrite or extend)
    staging = output.parent / f".{output.name}.partial-{os.getpid()}"
    with translate_os_errors(output):
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(output)
            if extend and output.is_dir():
                shutil.copytree(output, staging, copy_function=_link_or_copy)
            else:
                staging.mkdir()
            yield staging
            _replace(output, staging)
        finally:
            # before translate_os_errors reports the free disk space
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def translate_os_errors(output: Path) -> Iterator[None]:
    """Translate system errors about a full or write-protected disk into OutputError.

    Raises:
        OutputError: The disk is full, or the output cannot be written.
        OSError: Any other system error, unchanged.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _DISK_FULL | {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise
        raise OutputError(_explain(error, output)) from error


def replace_text(file: Path, text: str) -> None:
    """Write a file atomically; files that the old one was hard-linked to stay unchanged."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _explain(error: OSError, output: Path) -> str:
    if error.errno not in _DISK_FULL:
        return f"{output} cannot be written: {error.strerror} ({error.filename}).\nChoose another --output."
    free = shutil.disk_usage(output.parent).free
    return (
        f"The disk filled up while writing {output} ({error.strerror}); with the partial result removed, "
        f"{free / 1e9:.1f} GB are free.\nFree some space, or choose an --output on another disk. The earlier result, "
        "if any, is unchanged."
    )


def _remove_leftovers(output: Path) -> None:
    """Remove partial directories of processes that no longer run."""
    for leftover in output.parent.glob(f".{output.name}.partial-*"):
        process = leftover.name.rpartition("-")[2]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def _replace(output: Path, staging: Path) -> None:
    """Move `staging` to `output`; an old output ends up at `staging`, to be removed, or is deleted here."""
    if not output.exists():
        staging.rename(output)
    elif not _exchange(output, staging):
        aside = output.parent / f".{output.name}.replaced-{os.getpid()}"
        output.rename(aside)
        staging.rename(output)
        shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically and return True, or return False if the system does not support this."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(AttributeError):
        paths = (os.fsencode(first), os.fsencode(second))
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)
    return False
