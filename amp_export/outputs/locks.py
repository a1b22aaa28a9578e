"""Locks between processes, on files that exist only while they are locked."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""A filesystem without locks; commands run there as if they were alone."""


@contextmanager
def hold_lock(file: Path) -> Iterator[None]:
    """Hold an exclusive lock, and wait for it if another process holds it.

    The system releases it when the process ends, however it ends.

    Args:
        file: File to lock; it is created, and removed afterwards.
    """
    descriptor = _open_locked(file)
    try:
        yield
    finally:
        # removed while it is locked: a process that waits for it finds another file under its name, and starts again
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(descriptor)


def lock_until_closed(file: Path) -> int:
    """Create a file, lock it, and return its descriptor, which holds the lock until it is closed."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, wait=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock on a file; without such a file, none does."""
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        # a file of another user, who may be running
        return True
    try:
        return not _lock(descriptor, wait=False)
    finally:
        os.close(descriptor)


def _open_locked(file: Path) -> int:
    descriptor = lock_until_closed(file)
    while not _is_open_as(descriptor, file):
        os.close(descriptor)
        descriptor = lock_until_closed(file)
    return descriptor


def _is_open_as(descriptor: int, file: Path) -> bool:
    """Return whether a file still has its name; the process that held the lock before removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # without locks a process that runs cannot be told from one that is gone
        return wait
