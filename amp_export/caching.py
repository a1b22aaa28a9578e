"""The user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return the cache directory: AMP_EXPORT_CACHE, else XDG_CACHE_HOME/amp-export, else ~/.cache/amp-export."""
    if own := os.environ.get("AMP_EXPORT_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "amp-export"
