"""Instructions with their answers: what a model is trained on to answer, and what is held out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amp_export.errors import CalibrationError
from amp_export.inputs.texts import (
    ALPACA,
    DATASET,
    HOLD_BACK,
    REVISION,
    Calibration,
    TextRow,
    full_text,
    load_dataset,
    prompt_of,
    read_rows,
    shipped_fitting,
)
from amp_export.inputs.windows import spread

MOST_MEASURED = 32
"""Instructions that the loss is measured on, at most: it is measured often."""

MOST_HELD_OUT = 128
"""Instructions that quality is measured on at the end, at most."""

_EXPECTED = 'lines such as {"instruction": "Add.", "input": "2 and 3", "output": "5"}, where `input` is optional'


@dataclass(frozen=True)
class Instruction:
    """An instruction and its answer.

    Attributes:
        prompt: The instruction with its input, up to where the answer begins.
        text: The prompt and the answer.
    """

    prompt: str
    text: str


@dataclass(frozen=True)
class InstructionSets:
    """Instructions, divided.

    Attributes:
        training: Those to train on.
        measured: Those that the loss is measured on while training.
        quality: Text that quality is measured on afterwards: others again, and the shipped text.
    """

    training: tuple[Instruction, ...]
    measured: tuple[Instruction, ...]
    quality: Calibration


def load_instructions(file: Path | None) -> InstructionSets:
    """Load the user's instructions, or by default the paper's dataset, and divide them.

    Every fifth row may be held out: every other one of these for the loss, the rest for quality, and of each only as
    many as are read. All other rows are trained on.

    Args:
        file: A `.jsonl` file; `ALPACA` or None for the dataset.

    Raises:
        CalibrationError: The file is missing or malformed, has rows without an answer, or fewer than five rows. Or the
            dataset cannot be downloaded.
        MissingExtraError: The extra `datasets`, needed for the dataset, is not installed.
    """
    if file is None or file == ALPACA:
        rows = [row for row in _load_dataset(file) if row["output"].strip()]
        return _divide(rows, f"{DATASET} (revision {REVISION[:8]})")
    rows = _read_file(file)
    if len(rows) < HOLD_BACK:
        raise CalibrationError(
            f"--method lora needs {HOLD_BACK} instructions or more, to train on and to measure on, but {file} has "
            f"{len(rows)}.\nGive a longer file with --text, or leave it out for {DATASET}."
        )
    return _divide(rows, file.name)


def _load_dataset(given: Path | None) -> list[TextRow]:
    option = "--method lora without --text" if given is None else f"--text {ALPACA}"
    return load_dataset(
        None, option=option, instead="give instructions of your own with --text FILE, a .jsonl with `output`"
    )


def _read_file(file: Path) -> list[TextRow]:
    """Return the rows of a file of instructions.

    Raises:
        CalibrationError: It is another kind of file, or a row has no answer.
    """
    if file.suffix.lower() != ".jsonl":
        raise CalibrationError(
            f"--text {file} is not a .jsonl file, and --method lora trains on answers to instructions.\nGive "
            f"{_EXPECTED}; or leave --text out for {DATASET}; or train on plain text with --method distill."
        )
    rows = read_rows(file)
    for number, row in enumerate(rows, start=1):
        if "text" in row or not (row.get("output") or "").strip():
            found = "a `text`" if "text" in row else "no `output`"
            raise CalibrationError(
                f"--text {file}: row {number} has {found}, and so no answer, which --method lora trains on.\nGive "
                f"{_EXPECTED}; or leave --text out for {DATASET}; or train on plain text with --method distill."
            )
    return rows


def _divide(rows: Sequence[TextRow], source: str) -> InstructionSets:
    candidates = range(HOLD_BACK - 1, len(rows), HOLD_BACK)
    measured, quality = spread(candidates[::2], MOST_MEASURED), spread(candidates[1::2], MOST_HELD_OUT)
    aside = {*measured, *quality}
    return InstructionSets(
        training=tuple(_instruction(row) for number, row in enumerate(rows) if number not in aside),
        measured=tuple(_instruction(rows[number]) for number in measured),
        quality=Calibration(
            prompts=(),
            held_out=tuple(full_text(rows[number]) for number in quality),
            origin=f"{len(rows) - len(aside)} instructions of {source}",
            source=source,
            others=shipped_fitting(),
        ),
    )


def _instruction(row: TextRow) -> Instruction:
    return Instruction(prompt_of(row), full_text(row))
