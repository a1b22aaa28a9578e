"""Divide the data: what is calibrated on is not measured on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from amp_export.errors import TaskError
from amp_export.inputs.texts import read_utf8

TASKS = ("piqa", "arc_easy", "arc_challenge", "winogrande")
TEXT, INSTRUCTIONS = "wikitext2_valid.txt", "instructions.jsonl"

CALIBRATION_SHARE = 0.6
"""Share of the text, from its beginning, that is calibrated on."""

CALIBRATION_ROWS, MEASURED_ROWS, PROMPT_ROWS = range(1500), range(1500, 1990), range(1990, 2000)
"""Rows of instructions to calibrate on, to measure perplexity on, and to write after."""

CALIBRATION_CHARACTERS = 128_000
"""Characters of each kind in a calibration file: about 30,000 tokens, of which a fifth is held out by `prune`."""

PIECE_CHARACTERS = 1500
"""Paragraphs are joined until a row of calibration text has this many characters."""

DESCRIPTION = f"""\
The data directory holds {TEXT} (plain text), {INSTRUCTIONS} ({PROMPT_ROWS.stop:,} rows or
more, each with `instruction`, `input` and `output`), and questions in {", ".join(f"{name}.jsonl" for name in TASKS)}
(rows with `context`, `choices` and `answer`, or with `contexts`, `continuation` and `answer`; see docs/evaluation.md).
Nothing of it is written into the project."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Files to calibrate on and to measure on.

    Attributes:
        calibrations: Calibration files, by seed.
        text: Text to measure perplexity on, of the kind that is calibrated on.
        instructions: Instructions with their answers, to measure perplexity on.
        prompts: Instructions to write after.
        tasks: Files of questions.
    """

    calibrations: tuple[Path, ...]
    text: Path
    instructions: Path
    prompts: Path
    tasks: tuple[Path, ...]

    @property
    def measured(self) -> tuple[Path, ...]:
        """All files to measure on."""
        return (self.text, self.instructions, self.prompts, *self.tasks)


def split(data: Path, folder: Path, *, seeds: int) -> Split:
    """Write the parts of the data into a folder; the same data gives the same files.

    Args:
        data: The data directory; see `DESCRIPTION`.
        folder: The folder to write into; it may exist.
        seeds: How many calibration files to make of different rows.

    Raises:
        TaskError: A file is missing, or has too few rows.
    """
    tasks = tuple(data / f"{name}.jsonl" for name in TASKS)
    if missing := [each.name for each in (data / TEXT, data / INSTRUCTIONS, *tasks) if not each.is_file()]:
        raise TaskError(f"{data} lacks {', '.join(missing)}.\n{DESCRIPTION}")
    rows = _read_instructions(data / INSTRUCTIONS)
    # whole lines with their ends, blank ones too: a model that never saw them in calibration reads them badly
    calibrating, measured = _divide(read_utf8(data / TEXT, error=TaskError).splitlines(keepends=True))
    folder.mkdir(parents=True, exist_ok=True)
    pieces, chosen = [{"text": piece} for piece in _join(calibrating)], _part(rows, CALIBRATION_ROWS)
    calibrations = []
    for seed in range(seeds):
        # disjoint, so that two seeds share no row
        kinds = [_within(kind[seed::seeds], CALIBRATION_CHARACTERS) for kind in (pieces, chosen)]
        calibrations.append(_write_rows(folder / f"calibration-{seed}.jsonl", chain(*kinds)))
    return Split(
        calibrations=tuple(calibrations),
        text=_write(folder / "wikitext.txt", "".join(measured)),
        instructions=_write(
            folder / "instructions.txt", "\n\n".join(_as_text(row) for row in _part(rows, MEASURED_ROWS)) + "\n"
        ),
        prompts=_write_rows(folder / "prompts.jsonl", _part(rows, PROMPT_ROWS)),
        tasks=tasks,
    )


def _divide(lines: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the lines of the beginning that is calibrated on, and all others."""
    limit, seen = CALIBRATION_SHARE * sum(map(len, lines)), 0
    for number, line in enumerate(lines):
        seen += len(line)
        if seen > limit:
            return lines[:number], lines[number:]
    raise TaskError(f"{TEXT} is too short to be divided.\n{DESCRIPTION}")


def _join(lines: Sequence[str]) -> Iterator[str]:
    piece: list[str] = []
    for line in lines:
        piece.append(line)
        if sum(map(len, piece)) >= PIECE_CHARACTERS:
            yield "".join(piece)
            piece = []
    if "".join(piece).strip():
        yield "".join(piece)


def _within(rows: Sequence[Row], characters: int) -> list[Row]:
    """Return rows that are spread over all and have about so many characters; all if there are no more."""
    total = sum(len(_as_text(row)) for row in rows)
    count = min(len(rows), max(1, round(len(rows) * characters / total)))
    return [rows[number * len(rows) // count] for number in range(count)]


def _part(rows: Sequence[Row], numbers: range) -> Sequence[Row]:
    return rows[numbers.start : numbers.stop]


def _read_instructions(file: Path) -> list[Row]:
    lines = [line for line in read_utf8(file, error=TaskError).split("\n") if line.strip()]
    if len(lines) < PROMPT_ROWS.stop:
        raise TaskError(f"{file} has {len(lines):,} rows, but {PROMPT_ROWS.stop:,} are needed.\n{DESCRIPTION}")
    return [json.loads(line) for line in lines]


def _as_text(row: Row) -> str:
    return "\n".join(row[key] for key in ("text", "instruction", "input", "output") if row.get(key))


def _write_rows(file: Path, rows: Iterable[Row]) -> Path:
    return _write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file
