"""The Trainer's checkpoints in a state folder, each with the course so far: which is the last that is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amp_export.checkpoints.hashing import hash_file
from amp_export.documents import convert, read_object, to_json
from amp_export.errors import OutputError
from amp_export.recovery.course import Course

_COURSE = "amp_export.json"


@dataclass(frozen=True)
class Saved:
    """Where a training stands.

    Attributes:
        course: Its course.
        tokens: Number of tokens trained on.
        hashes: SHA-256 of each file of the Trainer's checkpoint, by name.
    """

    course: Course
    tokens: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)


def write_saved(checkpoint: Path, course: Course, tokens: int) -> None:
    """Add the course to a checkpoint, which is whole with it."""
    hashes = {file.name: hash_file(file) for file in sorted(checkpoint.iterdir()) if file.is_file()}
    partial = checkpoint / f"{_COURSE}.partial"
    partial.write_text(to_json(Saved(course, tokens, hashes)), encoding="utf-8")
    partial.replace(checkpoint / _COURSE)


def last_saved(folder: Path) -> tuple[Saved | None, Path | None]:
    """Return the course of the last checkpoint that is whole, and its folder; None if there is none.

    Raises:
        OutputError: It is damaged.
    """
    found = sorted(folder.glob(f"checkpoint-*/{_COURSE}"), key=lambda file: int(file.parent.name.split("-")[1]))
    if not found:
        return None, None
    checkpoint = found[-1].parent
    try:
        saved = convert(read_object(found[-1]), Saved, source=str(found[-1]))
        damaged = any(hash_file(checkpoint / name) != expected for name, expected in saved.hashes.items())
    except (OSError, ValueError) as error:
        raise OutputError(_DAMAGED.format(checkpoint)) from error
    if damaged:
        raise OutputError(_DAMAGED.format(checkpoint))
    return saved, checkpoint


_DAMAGED = "{} is damaged, so that training cannot go on from there.\nLeave --resume out to begin again."
