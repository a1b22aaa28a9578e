"""Read and write JSON and TOML files as typed values.

JSON has no NaN and no infinity: they are written as the texts "NaN", "Infinity" and "-Infinity", as the JSON mapping of
protobuf does, and read as numbers where a type asks for a float.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from amp_export.errors import AmpExportError, NewerSchemaError, OutputError

Content = TypeVar("Content")

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_WHERE = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*?)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_MISMATCH = re.compile(r"Expected `(?P<expected>.*)`, got `(?P<found>.*)`")


def to_json(value: Any) -> str:
    """Return a value as indented JSON that every strict parser reads."""
    return msgspec.json.format(msgspec.json.encode(to_builtins(value)), indent=2).decode() + "\n"


def to_builtins(value: Any) -> Any:
    """Return a value as dictionaries, lists, texts and numbers, as JSON has them."""
    return _name_numbers(msgspec.to_builtins(value, enc_hook=_plain))


def convert(content: Any, kind: type[Content], *, source: str, error: type[AmpExportError] = OutputError) -> Content:
    """Turn dictionaries, lists, texts and numbers into a typed value.

    Args:
        content: What a file holds.
        kind: A dataclass, a `msgspec.Struct`, or a container of them.
        source: What the content is from, for the error.
        error: What to raise.

    Raises:
        AmpExportError: The content is not of that type; the text names the key, what is there and what was expected.
    """
    try:
        return msgspec.convert(_restore(content, inspect.type_info(kind)), kind)
    except msgspec.ValidationError as problem:
        raise error(f"{source}: {explain(problem)}") from problem


def parse_json(text: str | bytes, *, source: str, error: type[AmpExportError] = OutputError) -> Any:
    """Return the content of a JSON text.

    Raises:
        AmpExportError: It is no JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise error(f"{source} is not valid JSON: {problem}") from problem


def read_json(file: Path, kind: type[Content], *, newest: int, error: type[AmpExportError] = OutputError) -> Content:
    """Read a JSON file whose object has a number `schema`.

    Args:
        file: The file.
        kind: The type of its content.
        newest: The newest schema that this version knows.
        error: What to raise.

    Raises:
        NewerSchemaError: The file is from a newer version.
        AmpExportError: It cannot be read, or is not of that type.
    """
    content = parse_json(read_text(file, error=error), source=str(file), error=error)
    check_schema(content, source=str(file), newest=newest, error=error)
    return convert(content, kind, source=str(file), error=error)


def read_toml(file: Path, *, error: type[AmpExportError] = OutputError) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        AmpExportError: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_text(file, error=error))
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{file} is not valid TOML: {problem}.") from problem


def read_text(file: Path, *, error: type[AmpExportError] = OutputError) -> str:
    """Return the text of a file.

    Raises:
        AmpExportError: It cannot be read, or is no text in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(f"{file} cannot be read: {problem.strerror or problem}.") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{file} is not text in UTF-8: {problem}.") from problem


def check_schema(content: Any, *, source: str, newest: int, error: type[AmpExportError] = OutputError) -> None:
    """Refuse a content of a newer schema, and one that names none.

    Raises:
        NewerSchemaError: The schema is newer than `newest`.
        AmpExportError: There is no schema.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        found = f"schema is {schema!r}" if isinstance(content, dict) else f"it holds a {type(content).__name__}"
        raise error(f"{source}: expected an object with a number schema, but {found}.")
    if schema > newest:
        raise NewerSchemaError(f"{source} has schema {schema}, this version knows up to {newest}.\nUpdate amp-export.")


def explain(problem: msgspec.ValidationError) -> str:
    """Return where a content does not fit its type, what was expected there, and what was found."""
    match = _WHERE.fullmatch(str(problem))
    assert match is not None
    what, path = match["what"], (match["path"] or "").lstrip(".")
    if missing := _MISSING.fullmatch(what):
        return f"{f'{path}.' if path else ''}{missing['name']} is missing."
    if mismatch := _MISMATCH.fullmatch(what):
        what = f"expected {mismatch['expected'].replace(' | ', ' or ')}, found {mismatch['found']}"
    else:
        what = what[:1].lower() + what[1:]
    return f"{path}: {what}." if path else f"{what}."


def _plain(value: Any) -> Any:
    if isinstance(value, float):  # numpy's
        return float(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be written as JSON")


def _name_numbers(content: Any) -> Any:
    """Put texts in the place of numbers that JSON does not have."""
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else f"{'-' if content < 0 else ''}Infinity"
    if isinstance(content, dict):
        return {name: _name_numbers(value) for name, value in content.items()}
    return [_name_numbers(value) for value in content] if isinstance(content, list | tuple) else content


def _restore(content: Any, info: inspect.Type) -> Any:
    """Put back the numbers that JSON does not have, where the type asks for a float."""
    if isinstance(info, inspect.FloatType):
        return _NUMBERS.get(content, content) if isinstance(content, str) else content
    if isinstance(info, inspect.UnionType):
        kinds = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
        return _restore(content, kinds[0]) if len(kinds) == 1 else content
    if isinstance(info, inspect.DataclassType | inspect.StructType) and isinstance(content, dict):
        kinds_by_name = {field.encode_name: field.type for field in info.fields}
        return {
            name: _restore(value, kinds_by_name[name]) if name in kinds_by_name else value
            for name, value in content.items()
        }
    if isinstance(info, inspect.DictType) and isinstance(content, dict):
        return {name: _restore(value, info.value_type) for name, value in content.items()}
    if isinstance(info, inspect.VarTupleType | inspect.ListType) and isinstance(content, list):
        return [_restore(value, info.item_type) for value in content]
    return content
