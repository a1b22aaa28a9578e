"""Facts as a Python file, in the form of those in `amp_export/architectures`."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from amp_export.architectures import Architecture

_INDENT = "    "
_WIDTH = 100


def to_source(architecture: Architecture, *, about: str) -> str:
    """Return the facts as a file.

    Args:
        architecture: The facts.
        about: Its docstring, one sentence.
    """
    body = _write(architecture, 0)
    names = sorted(set(_names(architecture)))
    return (
        f'"""{about}"""\n\nfrom __future__ import annotations\n\n'
        "from amp_export.architectures._facts import (\n"
        + "".join(f"{_INDENT}{name},\n" for name in names)
        + f")\n\nARCHITECTURE = {body}\n"
    )


def _names(value: Any) -> Iterator[str]:
    """Yield the names of all classes in a value."""
    if isinstance(value, enum.Enum):
        yield type(value).__name__
    elif is_dataclass(value):
        yield type(value).__name__
        for name, item in _given(value):
            del name
            yield from _names(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from _names(item)


def _given(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a dataclass that differ from their defaults."""
    plain = {each.name: each for each in fields(value)}
    for name, each in plain.items():
        item = getattr(value, name)
        default = each.default_factory() if callable(each.default_factory) else each.default
        if item != default:
            yield name, item


def _write(value: Any, depth: int) -> str:
    """Return a value as an expression, on one line where that is short."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if is_dataclass(value):
        parts = [f"{name}={_write(item, depth + 1)}" for name, item in _given(value)]
        return _join(f"{type(value).__name__}(", parts, ")", depth)
    if isinstance(value, Mapping):
        parts = [f"{_write(key, depth + 1)}: {_write(item, depth + 1)}" for key, item in value.items()]
        return _join("{", parts, "}", depth)
    if isinstance(value, frozenset):
        return f"frozenset({_write(tuple(sorted(value)), depth)})"
    if isinstance(value, tuple | list):
        parts = [_write(item, depth + 1) for item in value]
        return _join("(", [*parts[:-1], f"{parts[-1]},"] if len(parts) == 1 else parts, ")", depth)
    return f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)


def _join(start: str, parts: list[str], end: str, depth: int) -> str:
    line = start + ", ".join(parts) + end
    if len(line) + depth * len(_INDENT) <= _WIDTH and "\n" not in line:
        return line
    inner = "".join(f"{_INDENT * (depth + 1)}{part.removesuffix(',')},\n" for part in parts)
    return f"{start}\n{inner}{_INDENT * depth}{end}"
