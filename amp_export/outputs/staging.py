"""The output directory: written beside, renamed into place, never half there."""

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
"""`renameat2` in linux/fs.h: swap two paths in one step."""


def is_ours(output: Path) -> bool:
    """Return whether a directory holds a manifest of this tool."""
    try:
        content = json.loads((output / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and "schema" in content


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write over what is not ours, or over what is ours without being told to.

    Raises:
        OutputError: Naming what stands in the way.
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
    """See that an output directory that is read is there.

    Raises:
        OutputError: It is not.
    """
    if not output.is_dir():
        raise OutputError(
            f"No such directory: {output}\n"
            f"Create it first: amp-export --to onnx --model MODEL --ratio R --output {output}"
        )


@contextmanager
def staged_output(output: Path, *, overwrite: bool = False, extend: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `output` that takes its place when the block ends well.

    A run that fails or is killed leaves the old output as it was.

    Args:
        output: Where the result is to be.
        overwrite: Whether an earlier result may be replaced.
        extend: Start from the files of the earlier result instead of from nothing.

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
            # before the error is translate_os_errors, which says how much is free then
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def translate_os_errors(output: Path) -> Iterator[None]:
    """Say what is wrong with a disk that an output does not fit on, or that cannot be written.

    Raises:
        OutputError: Instead of such an error of the system.
        OSError: Another error of the system, as it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _DISK_FULL | {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise
        raise OutputError(_explain(error, output)) from error


def replace_text(file: Path, text: str) -> None:
    """Write a file in one step; what it was hard-linked to stays as it is."""
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
    """Remove what killed runs left: partial directories of processes that are gone."""
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
    """Put `staging` in the place of `output`; what stood there ends up at `staging`, to be removed."""
    if not output.exists():
        staging.rename(output)
    elif not _exchange(output, staging):
        aside = output.parent / f".{output.name}.replaced-{os.getpid()}"
        output.rename(aside)
        staging.rename(output)
        shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step where the system can; a kill in between leaves one of them in place."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(AttributeError):
        paths = (os.fsencode(first), os.fsencode(second))
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)
    return False
