"""Facts about architectures that are kept outside of this package.

They come from files that AMP_EXPORT_ARCHITECTURES names, then, for types that this package does not describe, from
installed packages (entry points of the group `amp_export.architectures`) and from the user's cache, where discovery
leaves what it found.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from amp_export.architectures._facts import Architecture
from amp_export.caching import cache_directory
from amp_export.errors import RequestError, command_line, first_line

VARIABLE = "AMP_EXPORT_ARCHITECTURES"
"""Environment variable: files of facts, separated as in PATH. Processes that are started inherit it."""

GROUP = "amp_export.architectures"

FACTS = "ARCHITECTURE"
"""Name of the facts in a file."""


def given_architecture(model_type: str) -> Architecture | None:
    """Return the facts of a type from the files that the environment names, or None.

    Raises:
        RequestError: A file cannot be read, or holds no facts.
    """
    if not (names := os.environ.get(VARIABLE)):
        return None
    files = [Path(name) for name in names.split(os.pathsep) if name]
    return next((found for file in files if (found := read_facts(file)).model_type == model_type), None)


def other_architecture(model_type: str) -> Architecture | None:
    """Return the facts of a type from an installed package or from the cache, or None.

    Raises:
        RequestError: They cannot be read.
    """
    for entry in metadata.entry_points(group=GROUP):
        found = entry.load()
        if isinstance(found, Architecture) and found.model_type == model_type:
            return found
    file = cached_facts(model_type)
    return read_facts(file) if file.is_file() else None


def cached_facts(model_type: str) -> Path:
    """Return the file in the cache that the facts of a type are kept in."""
    return cache_directory() / "architectures" / f"{model_type.replace('-', '_')}.py"


def read_facts(file: Path) -> Architecture:
    """Return the facts in a file, which is run as Python.

    Raises:
        RequestError: It cannot be read, or holds no facts.
    """
    if not file.is_file():
        command = command_line("amp-export", "inspect", "--model", "MODEL", "--facts", file)
        raise RequestError(f"There is no file of facts {file}.\nMake one: {command}")
    spec = importlib.util.spec_from_file_location(f"_facts_of_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RequestError(
            f"{file} cannot be read as facts: {type(error).__name__}: {first_line(error)}\n"
            "docs/adding-an-architecture.md shows its form."
        ) from error
    found = getattr(module, FACTS, None)
    if not isinstance(found, Architecture):
        raise RequestError(f"{file} holds no {FACTS}.\ndocs/adding-an-architecture.md shows its form.")
    return found


@contextmanager
def using_facts(file: Path | None) -> Iterator[None]:
    """Use a file of facts, in processes that are started meanwhile, too; None for none.

    Raises:
        RequestError: It cannot be read, or holds no facts.
    """
    if file is None:
        yield
        return
    read_facts(file)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join(filter(None, (str(file.absolute()), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
