"""Optional dependencies."""

from __future__ import annotations

import importlib

from amp_export.errors import MissingExtraError


def require_extra(module: str, extra: str, *, needed_for: str) -> None:
    """Import a module of an extra, so that its absence is reported before any work is done.

    Args:
        module: Module to import.
        extra: Extra that installs it.
        needed_for: Feature that needs it, for the message.

    Raises:
        MissingExtraError: The module cannot be imported.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(extra, needed_for=needed_for) from error
