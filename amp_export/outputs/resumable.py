"""A directory beside an output that outlives a run that fails or is killed, so that the next one goes on from there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amp_export.errors import OutputError
from amp_export.outputs.locks import is_locked, lock_until_closed
from amp_export.outputs.names import RESUMABLE
from amp_export.outputs.scratch import absolute, place_beside, translate_os_errors

_CONTENT, _LOCK = "content", "lock"


def has_unfinished(output: Path, *, of: str = "") -> bool:
    """Return whether a run on an output left something to go on from.

    Args:
        output: The output directory.
        of: What the run does, if others may go on beside it.
    """
    return (_folder(output, of) / _CONTENT).is_dir()


@contextmanager
def resumable_beside(output: Path, *, resume: bool, of: str = "") -> Iterator[Path]:
    """Yield a directory on the disk of an output, which is removed when the block ends without an error.

    After an error, or if the process is killed, it stays, unless nothing was written to it.

    Args:
        output: The output directory.
        resume: Whether to keep what an earlier run left there.
        of: What the run does, if others may go on beside it.

    Raises:
        OutputError: Another process works there, the disk is full, or nothing can be written.
    """
    folder = _folder(output, of)
    with translate_os_errors(absolute(output)):
        folder.mkdir(exist_ok=True)
        if is_locked(folder / _LOCK):
            raise OutputError(
                f"Another command is working on {output}: {folder} is in use.\nWait until it has ended, or stop it."
            )
        lock = lock_until_closed(folder / _LOCK)
        content = folder / _CONTENT
        done = False
        try:
            if not resume:
                shutil.rmtree(content, ignore_errors=True)
            content.mkdir(exist_ok=True)
            yield content
            done = True
        finally:
            os.close(lock)
            if done or not (content.is_dir() and any(content.iterdir())):
                shutil.rmtree(folder, ignore_errors=True)


def _folder(output: Path, of: str) -> Path:
    output = absolute(output)
    return place_beside(output) / f".{output.name}{f'.{of}' if of else ''}{RESUMABLE}"
