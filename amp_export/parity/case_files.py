"""Cases of parity from a file: what is run is data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, ModelConfig
from amp_export.errors import RequestError
from amp_export.parity.decoder_cases import Case, Padding
from amp_export.parity.encoder_cases import EncoderCase
from amp_export.parity.seq2seq_cases import Seq2SeqCase

if TYPE_CHECKING:
    from amp_export.parity.suites import AnyCase

CASES: Mapping[Kind, type[Case | EncoderCase | Seq2SeqCase]] = {
    Kind.DECODER: Case,
    Kind.ENCODER: EncoderCase,
    Kind.ENCODER_DECODER: Seq2SeqCase,
}

LISTS = ("prompt_lengths", "chunks", "lengths", "source_lengths")
"""Fields that are lists of numbers; all others but `name` and `padding` are numbers."""


def read_cases(file: Path, config: ModelConfig) -> Sequence[AnyCase]:
    """Reads cases: a JSON list of objects with the fields of `Case`, `EncoderCase` or `Seq2SeqCase`.

    Args:
        file: The file.
        config: The model's config, whose kind decides which of the three.

    Raises:
        RequestError: It cannot be read, or an entry is no such case; the entry is named.
    """
    kind = CASES[config.architecture.kind]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} holds no cases that can be read: {error}") from error
    if not isinstance(content, list) or not content:
        raise RequestError(f"{file} must hold a list of cases, and at least one.\n{_example(kind)}")
    return [_read_case(kind, entry, f"{file}, case {number}") for number, entry in enumerate(content, start=1)]


def _read_case(kind: type[Any], entry: Any, place: str) -> AnyCase:
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not isinstance(entry, dict) or not needed <= set(entry) <= known:
        raise RequestError(
            f"{place} must have {_list(needed)}, and may have {_list(known - needed)}.\n{_example(kind)}"
        )
    case: AnyCase = kind(**{name: _read_field(name, value, place) for name, value in entry.items()})
    return case


def _read_field(name: str, value: Any, place: str) -> Any:
    if name == "name":
        return str(value)
    if name == "padding":
        if value not in list(Padding):
            raise RequestError(f"{place}: padding is {value!r}; it is {' or '.join(Padding)}.")
        return Padding(value)
    if name in LISTS:
        if not isinstance(value, list) or not value or not all(_is_count(each) for each in value):
            raise RequestError(f"{place}: {name} is {value!r}; it is a list of numbers of tokens, 1 or more.")
        return tuple(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"{place}: {name} is {value!r}; it is a number of tokens, 0 or more.")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _example(kind: type[Any]) -> str:
    lengths = next(field.name for field in fields(kind) if field.name in LISTS)
    return f'For example: [{{"name": "batch of 2", "{lengths}": [5, 17]}}].'
