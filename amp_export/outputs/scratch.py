"""Scratch directories beside an output, which are removed even if the process that made them is killed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_export.errors import OutputError
from amp_export.outputs.locks import hold_lock, is_locked, lock_until_closed
from amp_export.outputs.names import PARTIAL, RESUMABLE

REPLACED = "replaced"
"""What stood at an output, next to the scratch directory that takes its place."""

_CONTENT, _LOCK = "content", "lock"

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EROFS, errno.EPERM}


def is_temporary(name: str) -> bool:
    """Return whether a name is one of a scratch directory, a partial file, a lock, or what an unfinished run left."""
    return name.startswith(".") and (PARTIAL in name or name.endswith((".lock", RESUMABLE)))


@contextmanager
def lock_output(output: Path) -> Iterator[None]:
    """Let one process write to an output at a time."""
    output = absolute(output)
    with translate_os_errors(output), hold_lock(place_beside(output) / f".{output.name}.lock"):
        yield


@contextmanager
def scratch_beside(output: Path) -> Iterator[Path]:
    """Yield an empty directory on the disk of an output, and remove it afterwards.

    Scratch directories of killed runs are removed first. The lock of a run ends with its process, so that this works
    for outputs on shared disks, whose processes are on other machines.

    Raises:
        OutputError: The disk is full, or nothing can be written there.
    """
    output = absolute(output)
    with translate_os_errors(output):
        place = place_beside(output)
        place.mkdir(parents=True, exist_ok=True)
        with lock_output(output):
            _remove_leftovers(output, place)
            holder = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=place))
            lock = lock_until_closed(holder / _LOCK)
        try:
            content = holder / _CONTENT
            content.mkdir()
            yield content
        finally:
            # before translate_os_errors, which reports the free space
            os.close(lock)
            shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def translate_os_errors(output: Path) -> Iterator[None]:
    """Turn errors of a full disk, or of one that is not writable, into OutputError.

    The message names the file that the system names, which need not be one of the output.

    Raises:
        OutputError: The disk is full or cannot be written.
        OSError: Another error of the system, unchanged.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _DISK_FULL | _NOT_WRITABLE:
            raise
        raise OutputError(_explain(error, output)) from error


def absolute(output: Path) -> Path:
    """Return the absolute path of an output; links are kept, since an output that is a link is refused."""
    return Path(os.path.abspath(output))  # noqa: PTH100


def place_beside(output: Path) -> Path:
    """Return the directory of locks and scratch directories: beside an output, or in it if only that can be written.

    For graphs on a disk that is not writable, it is the system's temporary directory.
    """
    if not output.is_dir():
        return output.parent
    if not output.is_mount() and os.access(output.parent, os.W_OK):
        return output.parent
    return output if os.access(output, os.W_OK) else Path(tempfile.gettempdir())


def _prefix(output: Path) -> str:
    return f".{output.name}{PARTIAL}"


def _remove_leftovers(output: Path, place: Path) -> None:
    """Remove scratch directories of processes that no longer run: those of an output, and of folders in it."""
    found = [entry for entry in place.iterdir() if entry.name.startswith(_prefix(output))]
    if output.is_dir():
        inside = [entry for entry in output.iterdir() if is_temporary(entry.name) and entry.is_dir()]
        found += [entry for entry in inside if not entry.name.endswith(RESUMABLE)]
    for entry in found:
        if is_locked(entry / _LOCK):
            continue
        # the process was killed between moving the earlier result away and moving the new one there
        if (entry / REPLACED).is_dir() and not output.exists():
            (entry / REPLACED).rename(output)
        shutil.rmtree(entry, ignore_errors=True)


def _explain(error: OSError, output: Path) -> str:
    """Return the message for an error: it is about the output only if the system names a file of it, or none."""
    files = [absolute(Path(os.fsdecode(name))) for name in (error.filename, error.filename2) if _is_path(name)]
    elsewhere = None if not files or any(_belongs_to(file, output) for file in files) else files[0]
    if error.errno not in _DISK_FULL:
        if elsewhere is not None:
            return f"{elsewhere} cannot be opened: {error.strerror}.\nChange its permissions, or give another path."
        named = f" ({files[0]})" if files else ""
        return f"{output} cannot be written: {error.strerror}{named}.\nChoose another --output."
    place = elsewhere or output
    free = shutil.disk_usage(next(parent for parent in place.parents if parent.is_dir())).free
    if elsewhere is not None:
        return (
            f"The disk filled up while writing {elsewhere} ({error.strerror}); {free / 1e9:.1f} GB are free.\n"
            "Free some space on it."
        )
    return (
        f"The disk filled up while writing {output} ({error.strerror}); with the partial result removed, "
        f"{free / 1e9:.1f} GB are free.\nFree some space, or choose an --output on another disk. The earlier result, "
        "if any, is unchanged."
    )


def _is_path(name: object) -> bool:
    """Return whether an error's file has a name; it may be a descriptor."""
    return isinstance(name, str | bytes | os.PathLike)


def _belongs_to(file: Path, output: Path) -> bool:
    """Return whether a file is an output or in it, a directory that it is in, or temporary and beside it."""
    places = {absolute(output), output.resolve()}
    for place in places:
        if file == place or file in place.parents or place in file.parents:
            return True
    beside = {*(place.parent for place in places), place_beside(absolute(output))}
    return any(
        file.relative_to(folder).parts[0].startswith(f".{output.name}.") for folder in beside if folder in file.parents
    )
