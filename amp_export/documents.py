"""Read and write JSON and TOML files as typed values.

JSON has no NaN and no infinity: they are written as the strings "NaN", "Infinity" and "-Infinity", as in protobuf's
JSON mapping, and read back as numbers where the type is float.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from amp_export.errors import AmpExportError, NewerSchemaError, OutputError

Content = TypeVar("Content")

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_WHERE = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*?)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_EXPECTS = re.compile(r"Expected (?P<expected>.*?)(?:, got `(?P<got>.*)`)?")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "array": list, "object": dict, "null": type(None)}

SHOWN_CHARACTERS = 60
"""Maximum number of characters of a value in a message."""

SHOWN_NAMES = 6
"""Maximum number of names in a message."""


def to_json(value: Any) -> str:
    """Return a value as indented JSON without NaN and infinity, which strict parsers reject."""
    return json.dumps(to_builtins(value), indent=2, allow_nan=False) + "\n"


def to_builtins(value: Any) -> Any:
    """Return a value as dictionaries, lists, strings and numbers that JSON can hold."""
    return _name_numbers(msgspec.to_builtins(value, enc_hook=_plain))


def convert(
    content: Any,
    kind: type[Content],
    *,
    source: str,
    ignore_unknown: bool = False,
    error: type[AmpExportError] = OutputError,
) -> Content:
    """Convert dictionaries, lists, strings and numbers to a typed value.

    Args:
        content: Content of a file.
        kind: A dataclass, a `msgspec.Struct`, or a container of them.
        source: Origin of the content, for the error message.
        ignore_unknown: Accept keys that the type does not have.
        error: Class of the error to raise.

    Raises:
        AmpExportError: The content does not have that type, or has a key that the type lacks; the message names the
            key and the expected type or keys.
    """
    info = inspect.type_info(kind)
    try:
        value = msgspec.convert(_restore(content, info), kind)
    except msgspec.ValidationError as problem:
        raise error(f"{source}: {explain(problem, content, info)}") from problem
    except UnicodeEncodeError as problem:
        # msgspec encodes a text to see whether it is a number
        half = problem.object[problem.start]
        raise error(f"{source}: a text holds {half!a}, half of a character, where a number is expected.") from problem
    if not ignore_unknown and (unknown := next(_unknown_keys(content, info, ()), None)) is not None:
        path, names = unknown
        raise error(f"{source}: {_as_path(path)} is not known. Expected keys: {', '.join(names)}.")
    return value


def parse_json(text: str | bytes, *, source: str, error: type[AmpExportError] = OutputError) -> Any:
    """Return the content of a JSON text; bare NaN and Infinity, as Python writes them, are accepted.

    Raises:
        AmpExportError: The text is not JSON.
    """
    try:
        return decode_json(text)
    except ValueError as problem:
        raise error(f"{source} is not valid JSON: {problem}") from problem


def decode_json(text: str | bytes) -> Any:
    """Return the content of a JSON text.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem


def as_read_back(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as JSON gives it back, to compare with one that was stored; what JSON lacks becomes text."""
    stored: dict[str, Any] = decode_json(json.dumps(content, default=str))
    return stored


def read_object(file: Path, *, error: type[AmpExportError] = OutputError) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        AmpExportError: The file cannot be read, or holds something else.
    """
    content = parse_json(read_text(file, error=error), source=str(file), error=error)
    if not isinstance(content, dict):
        raise error(f"{file} holds a JSON value of type {type(content).__name__}, but must hold an object.")
    return content


def read_json(file: Path, kind: type[Content], *, newest: int, error: type[AmpExportError] = OutputError) -> Content:
    """Read a JSON file that holds an object with a number `schema`.

    Args:
        file: The file.
        kind: Type of its content.
        newest: Newest schema that this version knows.
        error: Class of the error to raise.

    Raises:
        NewerSchemaError: The file is from a newer version.
        AmpExportError: The file cannot be read, has no schema, or does not have that type.
    """
    content = parse_json(read_text(file, error=error), source=str(file), error=error)
    check_schema(content, source=str(file), newest=newest, error=error)
    return convert(content, kind, source=str(file), error=error)


def read_toml(file: Path, *, error: type[AmpExportError] = OutputError) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        AmpExportError: The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(file, error=error))
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{file} is not valid TOML: {problem}.") from problem


def read_text(file: Path, *, error: type[AmpExportError] = OutputError) -> str:
    """Return the text of a file.

    Raises:
        AmpExportError: The file cannot be read, or is not text in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(f"{file} cannot be read: {problem.strerror or problem}.") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{file} is not text in UTF-8: {problem}.") from problem


def check_schema(content: Any, *, source: str, newest: int, error: type[AmpExportError] = OutputError) -> None:
    """Raise an error if the schema is missing or newer than `newest`.

    Raises:
        NewerSchemaError: The schema is newer; if `error` is not a base of this class, `error` is raised instead.
        AmpExportError: There is no schema.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        found = f"schema is {schema!r}" if isinstance(content, dict) else f"it holds a {type(content).__name__}"
        raise error(f"{source}: expected an object with a number schema, but {found}.")
    if schema > newest:
        newer = NewerSchemaError if issubclass(NewerSchemaError, error) else error
        raise newer(f"{source} has schema {schema}, this version knows up to {newest}.\nUpdate amp-export.")


def explain(problem: msgspec.ValidationError, content: Any, info: inspect.Type) -> str:
    """Return the path of a value with a wrong type, the expected type, and the value that was found.

    Args:
        problem: Error raised by msgspec.
        content: Content that was converted.
        info: Type that it was converted to.
    """
    match = _WHERE.fullmatch(str(problem))
    assert match is not None
    what, path = match["what"], (match["path"] or "").lstrip(".")
    if missing := _MISSING.fullmatch(what):
        return f"{f'{path}.' if path else ''}{missing['name']} is missing."
    steps = tuple(step[0] or (int(step[1]) if step[1] != "..." else ...) for step in _STEP.findall(path))
    places = list(_places(content, info, steps, ()))
    if not places:
        return f"{path}: {what[:1].lower()}{what[1:]}."
    expects = _EXPECTS.fullmatch(what)
    got = _TYPES.get(expects["got"] or "", object) if expects is not None else object
    # msgspec does not name the key of a mapping, so take the first whose value has the reported type
    shown, found, found_type = next((each for each in places if type(each[1]) is got), places[0])
    place = f"{_as_path(shown)}: " if shown else ""
    if enumeration := next((each for each in _alternatives(found_type) if isinstance(each, inspect.EnumType)), None):
        expected = " or ".join(json.dumps(each.value) for each in enumeration.cls)
    elif expects is not None:
        expected = expects["expected"].replace("`", "").replace(" | ", " or ").replace("int", "an integer")
    else:
        return f"{place}{what[:1].lower()}{what[1:]}."
    return f"{place}expected {expected}, found {shorten(json.dumps(found))}."


def _places(
    content: Any, info: inspect.Type, steps: Sequence[str | int | EllipsisType], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Any, inspect.Type]]:
    """Yield each path that the steps can refer to, with its value and type; `...` stands for any key or position."""
    if not steps:
        yield path, content, info
        return
    step, *rest = steps
    for key, value in _members(content):
        matches = isinstance(step, EllipsisType) or step == key
        if matches and (within := _type_within(info, key)) is not None:
            yield from _places(value, within, rest, (*path, key))


def shorten_list(names: Iterable[str]) -> str:
    """Return names as they are shown in a message: the first ones, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - SHOWN_NAMES} more" if len(found) > SHOWN_NAMES else ""
    return ", ".join(found[:SHOWN_NAMES]) + more


def shorten(text: str) -> str:
    """Return a value's text as messages show it: cut after `SHOWN_CHARACTERS`."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _alternatives(info: inspect.Type) -> Sequence[inspect.Type]:
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _fields(info: inspect.Type) -> dict[str, inspect.Type]:
    """Return the types of an object's fields by name; empty for other types."""
    objects = (each for each in _alternatives(info) if isinstance(each, inspect.DataclassType | inspect.StructType))
    return {field.encode_name: field.type for each in objects for field in each.fields}


def _type_within(info: inspect.Type, step: str | int) -> inspect.Type | None:
    """Return the type of a member of an object, mapping or list; None if there is no such member."""
    if isinstance(step, str) and step in (fields := _fields(info)):
        return fields[step]
    for each in _alternatives(info):
        if isinstance(each, inspect.DictType):
            return each.value_type
        if isinstance(each, inspect.VarTupleType | inspect.ListType):
            return each.item_type
        if isinstance(each, inspect.TupleType) and isinstance(step, int) and step < len(each.item_types):
            return each.item_types[step]
    return None


def _unknown_keys(
    content: Any, info: inspect.Type, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Iterable[str]]]:
    """Yield the path of each key that a type lacks, with the keys that it has."""
    for step, value in _members(content):
        if (within := _type_within(info, step)) is not None:
            yield from _unknown_keys(value, within, (*path, step))
        elif fields := _fields(info):
            yield (*path, step), fields


def _members(content: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(content, dict):
        return content.items()
    return enumerate(content) if isinstance(content, list) else ()


def _as_path(steps: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _plain(value: Any) -> Any:
    if isinstance(value, float):  # numpy's
        return float(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be written as JSON")


def _name_numbers(content: Any) -> Any:
    """Replace NaN and infinity by strings."""
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else f"{'-' if content < 0 else ''}Infinity"
    if isinstance(content, dict):
        return {name: _name_numbers(value) for name, value in content.items()}
    return [_name_numbers(value) for value in content] if isinstance(content, list | tuple) else content


def _restore(content: Any, info: inspect.Type) -> Any:
    """Replace these strings by NaN and infinity where the type is float."""
    if isinstance(content, str):
        kinds = {type(each) for each in _alternatives(info)}
        return _NUMBERS.get(content, content) if kinds <= {inspect.FloatType, inspect.NoneType} else content
    restored = {
        step: value if (within := _type_within(info, step)) is None else _restore(value, within)
        for step, value in _members(content)
    }
    if isinstance(content, dict):
        return restored
    return list(restored.values()) if isinstance(content, list) else content
