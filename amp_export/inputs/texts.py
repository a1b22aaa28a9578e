"""Calibration text for scoring, and held-out text for measuring quality."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from amp_export.checkpoints.quiet import quiet_datasets, quiet_hub
from amp_export.documents import decode_json
from amp_export.errors import CalibrationError, MissingExtraError, RequestError, first_line
from amp_export.inputs.windows import spread

ALPACA = Path("alpaca")
"""What to give instead of a file for the paper's dataset, which is downloaded."""

DATASET, REVISION = "yahma/alpaca-cleaned", "12567cabf869d7c92e573c7c783905fc160e9639"
"""The dataset on the hub, and the commit that is used, so that the same command always scores on the same text."""

FITTING: Mapping[str, float] = {
    "encyclopedia": 1,
    "instructions": 1,
    "dialogue": 1,
    "structured": 0.2,
    "code": 0.2,
    "languages": 0.2,
}
"""Shipped texts that pruned layers are fitted on, and the share of their rows; see `data/README.md`.

A text counts by its tokens, and tokenizers cut markup, code and foreign languages into small pieces: all of them would
be two fifths of the tokens, and SmolLM2-135M would keep less of the prose that it writes well.
"""

HOLD_BACK = 5
"""Every fifth row is held out."""

TextRow = Mapping[str, Any]


@dataclass(frozen=True)
class Calibration:
    """Text, split into calibration and held-out text.

    Attributes:
        prompts: Calibration text. Instructions come without their output, as in the paper's reference code.
        held_out: Held-out text, used to measure perplexity. Instructions come with their output, so that there is an
            answer to predict. Empty if there are fewer than five rows.
        origin: Source of the text, for a report.
        texts: What pruned layers are fitted on: the rows of the calibration text in full, instructions with their
            output; of the shipped text, other rows, which are more and longer.
        source: Where the text is from.
        others: Text of other kinds, on which quality is measured, too; none if the calibration text is of many kinds.
    """

    prompts: tuple[str, ...]
    held_out: tuple[str, ...]
    origin: str
    texts: tuple[str, ...] = ()
    source: str = "unknown"
    others: tuple[str, ...] = ()


def load_calibration(file: Path | None = None, *, prompts: int = 50) -> Calibration:
    """Load the user's text, or the paper's dataset, or by default the text that is shipped with this package.

    A `.txt` file has one prompt per line. A `.jsonl` file has one object per line, with `text`, or with `instruction`
    and optionally `input` and `output`. Blank lines are ignored. All rows of a file and of the shipped text are used.
    Only the dataset needs a network.

    Args:
        file: A `.jsonl` or `.txt` file, or `ALPACA` for the dataset.
        prompts: Number of calibration prompts to take from the dataset.

    Raises:
        CalibrationError: The file is missing, empty or malformed; the message names the line. Or the dataset cannot be
            downloaded.
        MissingExtraError: The extra `datasets`, needed for the dataset, is not installed.
    """
    if file is None:
        return replace(_divide(_read_shipped(), "the text shipped with amp-export"), texts=shipped_fitting())
    if file == ALPACA:
        given = _divide(load_dataset(_rows_for(prompts)), f"{DATASET} (revision {REVISION[:8]})")
    else:
        given = _divide(read_rows(file), file.name)
    return replace(given, others=shipped_fitting())


def shipped_texts() -> tuple[str, ...]:
    """Return the shipped texts to score and to measure quality on, instructions with their outputs."""
    return tuple(full_text(row) for row in _read_shipped())


def shipped_fitting() -> tuple[str, ...]:
    """Return the shipped texts that pruned layers are fitted on, which are of many kinds."""
    return tuple(full_text(row) for name, share in FITTING.items() for row in _part(_read_shipped(name), share))


def _part(rows: Sequence[TextRow], share: float) -> list[TextRow]:
    return spread(rows, math.ceil(share * len(rows)))


def read_prompts(file: Path) -> tuple[str, ...]:
    """Return all prompts of a `.txt` or `.jsonl` file, in the form that `load_calibration` gives them.

    Raises:
        CalibrationError: The file is missing, empty or malformed; the message names the line.
    """
    if file.suffix.lower() not in (".jsonl", ".txt"):
        raise CalibrationError(
            f"{file} is neither a .jsonl nor a .txt file.\nGive one prompt per line as .txt, or one JSON object per "
            "line as .jsonl."
        )
    return tuple(map(prompt_of, read_rows(file)))


def _read_shipped(name: str = "calibration") -> list[TextRow]:
    with resources.as_file(resources.files("amp_export.inputs") / "data" / f"{name}.jsonl") as path:
        return read_rows(path)


def _rows_for(prompts: int) -> int:
    """Return the number of rows needed for this many calibration prompts, with every fifth row held out."""
    return prompts + (prompts - 1) // (HOLD_BACK - 1)


def _divide(rows: Iterable[TextRow], source: str) -> Calibration:
    rows = list(rows)
    calibrating = [row for number, row in enumerate(rows, start=1) if number % HOLD_BACK]
    prompts, texts = (tuple(map(shape, calibrating)) for shape in (prompt_of, full_text))
    held_out = tuple(full_text(row) for row in rows[HOLD_BACK - 1 :: HOLD_BACK])
    return Calibration(prompts, held_out, f"{len(prompts)} prompts of {source}", texts, source)


def prompt_of(row: TextRow) -> str:
    """Return the prompt, formatted like in the paper's reference code."""
    if "text" in row:
        return str(row["text"])
    lines = [f"Instruction: {row['instruction']}"]
    if row.get("input"):
        lines.append(f"Input: {row['input']}")
    return "\n".join([*lines, "Response:"])


def full_text(row: TextRow) -> str:
    """Return a row's text, instructions with their output."""
    output = "" if "text" in row else row.get("output")
    return f"{prompt_of(row)} {output}" if output else prompt_of(row)


def read_rows(file: Path) -> list[TextRow]:
    """Return the rows of a `.jsonl` or `.txt` file, without blank lines.

    Raises:
        CalibrationError: The file is missing, empty or malformed; the message names the line.
    """
    if file.suffix.lower() not in (".jsonl", ".txt"):
        raise CalibrationError(
            f"{file} is neither a .jsonl nor a .txt file.\n"
            "Give one prompt per line as .txt, or one JSON object per line as .jsonl; images or audio as .npz or "
            f".safetensors; or {str(ALPACA)!r} for the paper's dataset."
        )
    lines = [(number, line) for number, line in enumerate(read_utf8(file).split("\n"), start=1) if line.strip()]
    if not lines:
        raise CalibrationError(f"{file} is empty: it has no prompts.\nGive at least one; use fifty or more.")
    if file.suffix.lower() == ".txt":
        return [{"text": line.strip()} for _, line in lines]
    return [_parse_row(line, f"{file}, line {number}") for number, line in lines]


def read_utf8(
    file: Path, *, expected: str = "a .jsonl or .txt file", error: type[RequestError] = CalibrationError
) -> str:
    """Return the text of a file, without a byte order mark.

    Args:
        file: The file.
        expected: What to give instead of a file that cannot be read, for the message.
        error: Class of the error to raise.

    Raises:
        RequestError: The file cannot be read, or is not UTF-8; the message names the line.
    """
    try:
        content = file.read_bytes()
    except OSError as problem:
        raise error(f"{file} cannot be read: {problem.strerror}.\nGive {expected}.") from problem
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{file}, line {line}: byte 0x{content[problem.start]:02x} is not UTF-8.\nSave the file as UTF-8."
        ) from problem


def refuse_lone_surrogates(text: str, place: str, *, error: type[RequestError] = CalibrationError) -> None:
    """Raise an error if a text contains half of a character, as JSON can.

    Args:
        text: The text.
        place: File, line and key, for the message.
        error: Class of the error to raise.

    Raises:
        RequestError: It does.
    """
    if lone := next((character for character in text if "\ud800" <= character <= "\udfff"), None):
        raise error(
            f"{place} contains \\u{ord(lone):04x}, half of a character, which no tokenizer reads.\nRemove it: the text "
            "was probably cut within an emoji."
        )


def _parse_row(line: str, place: str) -> TextRow:
    expected = "Expected an object with `text`, or with `instruction` and optionally `input` and `output`, all strings."
    try:
        row = decode_json(line)
    except ValueError as error:
        raise CalibrationError(f"{place}: not valid JSON: {error}\n{expected}") from error
    if not isinstance(row, dict):
        raise CalibrationError(f"{place}: found a JSON value of type {type(row).__name__}.\n{expected}")
    required = "text" if "text" in row else "instruction"
    if required not in row:
        raise CalibrationError(f"{place}: found the keys {', '.join(row) or 'none'}.\n{expected}")
    optional = () if required == "text" else ("input", "output")
    for key in (required, *(key for key in optional if row.get(key) is not None)):
        if not isinstance(row[key], str):
            raise CalibrationError(f"{place}: `{key}` has type {type(row[key]).__name__}.\n{expected}")
        refuse_lone_surrogates(row[key], f"{place}: `{key}`")
    if not row[required].strip():
        raise CalibrationError(f"{place}: `{required}` is empty.\n{expected}")
    return row


def load_dataset(
    count: int | None,
    *,
    option: str = f"--calibration {ALPACA}",
    instead: str = "leave --calibration out for the text shipped with amp-export",
) -> list[TextRow]:
    """Return the first rows of the dataset.

    Args:
        count: Number of rows; None for all.
        option: What asks for it, for messages.
        instead: What to do without it, for messages.

    Raises:
        CalibrationError: It cannot be downloaded.
        MissingExtraError: The package `datasets` is not installed.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MissingExtraError("datasets", needed_for=option)
    import datasets

    split = "train" if count is None else f"train[:{count}]"
    try:
        with quiet_hub(), quiet_datasets():
            return list(datasets.load_dataset(DATASET, revision=REVISION, split=split))
    except Exception as error:  # network, disk and hub can fail in any way
        raise CalibrationError(
            f"{option}: {DATASET} cannot be downloaded: {first_line(error)}\nConnect to the network and make sure that "
            f"HF_HOME has space; or {instead}."
        ) from error
