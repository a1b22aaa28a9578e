"""Atomic writing of the output directory: it is written beside its destination and renamed into place."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_export.documents import decode_json
from amp_export.errors import OutputError, command_line
from amp_export.outputs.locks import hold_lock
from amp_export.outputs.names import MANIFEST, PARTIAL
from amp_export.outputs.scratch import REPLACED, absolute, is_temporary, lock_output, scratch_beside

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
"""Flag of `renameat2` in linux/fs.h that swaps two paths atomically."""


def is_ours(output: Path) -> bool:
    """Return whether a directory holds a manifest of amp-export."""
    try:
        content = decode_json((output / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "schema" in content


def entries_of(output: Path) -> list[str]:
    """Return the names of what an output directory holds, without what is temporary; none if it does not exist.

    Raises:
        OutputError: `output` is not a directory.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is not a directory.\nChoose another --output.")
    return sorted(entry.name for entry in output.iterdir() if not is_temporary(entry.name)) if output.is_dir() else []


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raise OutputError if an output must not be written over the existing files.

    Raises:
        OutputError: `output` is not a directory, holds other files, or an earlier result without `overwrite`.
    """
    names = entries_of(output)
    if not names:
        return
    if not is_ours(output):
        found = ", ".join(names[:5])
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
        command = command_line("amp-export", "--to", "onnx", "--model", "MODEL", "--ratio", "R", "--output", output)
        raise OutputError(f"No such directory: {output}\nCreate it first: {command}")


@contextmanager
def staged_output(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `output` that replaces it when the block ends without an error.

    A run that fails or is killed leaves the old output unchanged. If something else was written to `output` meanwhile,
    that stays too, and the new result gets another name.

    Args:
        output: The output directory.
        overwrite: Whether to replace an earlier result.

    Raises:
        OutputError: `output` must not be written, has changed meanwhile, or the disk is full.
    """
    output = absolute(output)
    with scratch_beside(output) as staging:
        check_output(output, overwrite=overwrite)
        before = _state(output)
        yield staging
        with lock_output(output):
            if _state(output) != before:
                raise OutputError(_keep_both(output, staging))
            _replace(output, staging)


@contextmanager
def extended_output(output: Path) -> Iterator[Path]:
    """Yield a directory with the files of an output, which replaces it when the block ends without an error.

    The output is locked meanwhile, so that nothing is lost that another process writes to it. What takes long belongs
    before the block.

    Raises:
        OutputError: The disk is full, or cannot be written.
    """
    output = absolute(output)
    with scratch_beside(output) as staging, lock_output(output):
        link_files(output, staging)
        yield staging
        _replace(output, staging)


def link_files(output: Path, folder: Path) -> None:
    """Link the files of an output into a folder, which takes no space; they are to be replaced, not written through."""
    shutil.copytree(output, folder, copy_function=_link_or_copy, ignore=_temporaries, dirs_exist_ok=True)


def replace_text(file: Path, text: str) -> None:
    """Write a file atomically; files that the old one was hard-linked to stay unchanged."""
    partial = file.with_name(f".{file.name}{PARTIAL}")
    with hold_lock(file.with_name(f".{file.name}.lock")):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def _state(output: Path) -> frozenset[tuple[str, int, int]]:
    """Return which files an output holds, with sizes and times."""
    entries = [entry for entry in output.rglob("*") if not is_temporary(entry.relative_to(output).parts[0])]
    facts = [(str(entry.relative_to(output)), entry.stat()) for entry in entries if entry.is_file()]
    return frozenset((name, found.st_size, found.st_mtime_ns) for name, found in facts)


def _keep_both(output: Path, staging: Path) -> str:
    """Give a result another name than the requested one, and return the message about it."""
    numbers = itertools.count(2)
    names = (output.with_name(f"{output.name}-{number}") for number in numbers)
    aside = next(path for path in names if not os.path.lexists(path))
    staging.rename(aside)
    return (
        f"{output} was written to while this command ran, so it is not replaced.\nThe finished result is in {aside}. "
        "Remove one of the two."
    )


def _temporaries(_: str, names: list[str]) -> set[str]:
    return {name for name in names if is_temporary(name)}


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def _replace(output: Path, staging: Path) -> None:
    """Move `staging` to `output`; an old output ends up beside `staging`, to be removed with it."""
    if not output.exists():
        staging.rename(output)
    elif output.is_mount() or output in staging.parents:
        _replace_content(output, staging)
    elif not _exchange(output, staging):
        output.rename(staging.with_name(REPLACED))
        staging.rename(output)


def _replace_content(output: Path, staging: Path) -> None:
    """Replace the entries of a directory that cannot be renamed; the manifest last.

    It is a volume of a container, or in a directory that cannot be written.
    """
    aside = staging.with_name(REPLACED)
    aside.mkdir()
    for entry in [*output.iterdir()]:
        if not is_temporary(entry.name) and entry.name != MANIFEST:
            entry.rename(aside / entry.name)
    for entry in sorted(staging.iterdir(), key=lambda entry: entry.name == MANIFEST):
        entry.replace(output / entry.name)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically and return True, or return False if the system does not support this."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(AttributeError):
        paths = (os.fsencode(first), os.fsencode(second))
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)
    return False
