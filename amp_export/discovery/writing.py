"""Facts as a Python file, in the form of those in `amp_export/architectures`."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from amp_export import architectures
from amp_export.architectures import Architecture

_INDENT = "    "
_WIDTH = 100


def to_source(architecture: Architecture, *, about: str) -> str:
    """Return the facts as a file.

    Args:
        architecture: The facts.
        about: Its docstring, one sentence.
    """
    names = {kind.__name__: kind for kind in _classes(architecture)}
    assert all(getattr(architectures, name, None) is kind for name, kind in names.items()), f"not public: {names}"
    imports = "".join(f"{_INDENT}{name},\n" for name in sorted(names))
    body = _write(architecture, 0)
    return (
        f'"""{about}"""\n\nfrom __future__ import annotations\n\nfrom {architectures.__name__} import (\n{imports})\n\n'
        f"ARCHITECTURE = {body}\n"
    )


def _classes(value: Any) -> Iterator[type[Any]]:
    """Yield the classes of a value and of what it contains."""
    if isinstance(value, enum.Enum):
        yield type(value)
    elif is_dataclass(value):
        yield type(value)
        for _, item in _given(value):
            yield from _classes(item)
    elif isinstance(value, Mapping | tuple | list | frozenset):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _classes(item)


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
    if isinstance(value, list | tuple):
        parts = [_write(item, depth + 1) for item in value]
        is_single = isinstance(value, tuple) and len(parts) == 1
        brackets = "[]" if isinstance(value, list) else "()"
        return _join(brackets[0], [f"{parts[0]},"] if is_single else parts, brackets[1], depth)
    return f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)


def _join(start: str, parts: list[str], end: str, depth: int) -> str:
    line = start + ", ".join(parts) + end
    if len(line) + depth * len(_INDENT) <= _WIDTH and "\n" not in line:
        return line
    inner = "".join(f"{_INDENT * (depth + 1)}{part.removesuffix(',')},\n" for part in parts)
    return f"{start}\n{inner}{_INDENT * depth}{end}"
