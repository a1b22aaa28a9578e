"""The rows that are written as results come, one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from amp_export.documents import convert


@dataclass(frozen=True)
class Times:
    """Two models, measured in turns in one process.

    Attributes:
        shape: Name of the models' shape.
        runtime: What ran them.
        first, second: Names of the models.
        batch: Number of texts.
        prompt: Tokens of each prompt.
        phase: Prefill or decode.
        milliseconds: Medians of the first and of the second.
        speedup: How many times as fast the second is.
        interval: Its 95 % interval over rounds.
        rounds: Number of rounds.
        allowed: The speedup that the bytes of a step allow; None for prefill, or if they were not counted.
    """

    shape: str
    runtime: str
    first: str
    second: str
    batch: int
    prompt: int
    phase: str
    milliseconds: tuple[float, float]
    speedup: float
    interval: tuple[float, float]
    rounds: int
    allowed: float | None = None


@dataclass(frozen=True)
class Check:
    """Something that must be true.

    Attributes:
        name: What was checked.
        holds: Whether it is true; None if this machine cannot tell.
        found: What was found, in words.
    """

    name: str
    holds: bool | None
    found: str


@dataclass(frozen=True)
class Fact:
    """Something that the page says of the machine or the models."""

    name: str
    value: str


@dataclass(frozen=True)
class Done:
    """A step that ended.

    Attributes:
        step: Its name.
        seconds: How long it took.
        problem: Why it failed; empty if it did not.
    """

    step: str
    seconds: float
    problem: str = ""


Row: TypeAlias = Times | Check | Fact | Done
_KINDS: Mapping[str, type[Row]] = {kind.__name__: kind for kind in (Times, Check, Fact, Done)}


def write_row(file: Path, row: Row) -> None:
    """Append a row, so that it stays if the process is ended."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"kind": type(row).__name__, **asdict(row)}) + "\n")


def read_rows(file: Path) -> list[Row]:
    """Return all rows; a last line that was not finished is left out."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [_read(json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _read(content: dict[str, Any]) -> Row:
    row: Row = convert(content, _KINDS[content.pop("kind")], source="row")
    return row
