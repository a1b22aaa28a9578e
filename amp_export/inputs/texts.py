"""The text that a model is scored on, and the text that is held out to measure quality."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from amp_export.checkpoints.quiet import quiet_datasets, quiet_hub
from amp_export.errors import CalibrationError

DATASET = "yahma/alpaca-cleaned"
"""The text that is used by default, where it can be had."""

HUB_TIMEOUT = 5.0
"""Seconds that the hub has to answer; there is other text if it does not."""

HOLD_BACK = 5
"""Every fifth row is held out."""

TextRow = Mapping[str, Any]


@dataclass(frozen=True)
class Calibration:
    """Text, divided into calibration and held-out text.

    Attributes:
        prompts: What the model is scored on. An instruction comes without its output, as in the paper's reference code.
        held_back: What perplexity is measured on. An instruction comes with its output, so that there is an answer to
            predict. Empty where there are fewer than five rows.
        origin: Where the text is from, in words for a report.
    """

    prompts: tuple[str, ...]
    held_back: tuple[str, ...]
    origin: str


def load_calibration(file: Path | None = None, *, prompts: int = 50) -> Calibration:
    """Load the user's text, or else the paper's data set, or else the text that is shipped with this package.

    A `.txt` file has one prompt a line. A `.jsonl` file has one object a line, with `text`, or with `instruction` and
    perhaps `input` and `output`. Blank lines count for nothing. A file is used whole, and so is the shipped text. The
    data set is taken where `datasets` is installed and the hub answers at once.

    Args:
        file: A `.jsonl` or `.txt` file.
        prompts: How many prompts of the data set are to calibrate.

    Raises:
        CalibrationError: The file is missing, empty or malformed; the line is named.
    """
    if file is not None:
        return _divide(_read_file(file), file.name)
    if (rows := _load_dataset(_rows_for(prompts))) is not None:
        return _divide(rows, DATASET)
    return _divide(_read_shipped(), "the text shipped with amp-export")


def shipped_texts() -> tuple[str, ...]:
    """Return the text that is shipped with this package, instructions with their outputs."""
    return tuple(_full_text(row) for row in _read_shipped())


def _read_shipped() -> list[TextRow]:
    with resources.as_file(resources.files("amp_export.inputs") / "data" / "calibration.jsonl") as path:
        return _read_file(path)


def _rows_for(prompts: int) -> int:
    """Return the number of rows needed for this many calibration rows, if every fifth is held out."""
    return prompts + (prompts - 1) // (HOLD_BACK - 1)


def _divide(rows: Iterable[TextRow], source: str) -> Calibration:
    rows = list(rows)
    prompts = tuple(_prompt(row) for number, row in enumerate(rows, start=1) if number % HOLD_BACK)
    held_back = tuple(_full_text(row) for row in rows[HOLD_BACK - 1 :: HOLD_BACK])
    return Calibration(prompts, held_back, f"{len(prompts)} prompts of {source}")


def _prompt(row: TextRow) -> str:
    """Put instruction and input together as the paper's reference code does."""
    if "text" in row:
        return str(row["text"])
    lines = [f"Instruction: {row['instruction']}"]
    if row.get("input"):
        lines.append(f"Input: {row['input']}")
    return "\n".join([*lines, "Response:"])


def _full_text(row: TextRow) -> str:
    output = "" if "text" in row else row.get("output")
    return f"{_prompt(row)} {output}" if output else _prompt(row)


def _read_file(file: Path) -> list[TextRow]:
    if file.suffix.lower() not in (".jsonl", ".txt"):
        raise CalibrationError(
            f"{file} is neither a .jsonl nor a .txt file.\n"
            "Give one prompt per line as .txt, or one JSON object per line as .jsonl; images or audio as .npz or "
            ".safetensors."
        )
    lines = [(number, line) for number, line in enumerate(_read_text(file).split("\n"), start=1) if line.strip()]
    if not lines:
        raise CalibrationError(f"{file} is empty: it has no prompts.\nGive at least one; use fifty or more.")
    if file.suffix.lower() == ".txt":
        return [{"text": line.strip()} for _, line in lines]
    return [_parse_row(line, f"{file}, line {number}") for number, line in lines]


def _read_text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{file} cannot be read: {error.strerror}.\nGive a .jsonl or .txt file.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CalibrationError(
            f"{file}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8.\nSave the file as UTF-8."
        ) from error


def _parse_row(line: str, place: str) -> TextRow:
    expected = "Expected an object with `text`, or with `instruction` and optionally `input` and `output`, all strings."
    try:
        row = json.loads(line)
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
    if not row[required].strip():
        raise CalibrationError(f"{place}: `{required}` is empty.\n{expected}")
    return row


def _load_dataset(count: int) -> list[TextRow] | None:
    """Return the first rows of the data set, or None where it cannot be had: there is other text."""
    if importlib.util.find_spec("datasets") is None or not _hub_answers():
        return None
    import datasets

    try:
        with quiet_hub(), quiet_datasets():
            return list(datasets.load_dataset(DATASET, split=f"train[:{count}]"))
    except Exception:  # noqa: BLE001  whatever the network, the disk or the hub does
        return None


def _hub_answers() -> bool:
    """Ask once, without retries; with HF_HUB_OFFLINE set the client refuses by itself."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(DATASET, timeout=HUB_TIMEOUT)
    except Exception:  # noqa: BLE001  the hub's client passes on whatever its HTTP library raises
        return False
    return True
