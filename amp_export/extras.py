"""Optional dependencies."""

from __future__ import annotations

import importlib

from amp_export.errors import MissingExtraError


def require_extra(module: str, extra: str, *, needed_for: str) -> None:
    """Import a module of an extra, so that its absence is known before any work is done.

    Args:
        module: What is imported.
        extra: The extra that brings it.
        needed_for: What cannot be done without.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(extra, needed_for=needed_for) from error
