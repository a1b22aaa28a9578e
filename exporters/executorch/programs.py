"""An exported folder's files: programs, and beside each what it does not say of itself.

A program knows its inputs and outputs by number only, and the size of their memory.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import msgspec

from amp_export.documents import convert, parse_json, read_text, to_json
from amp_export.errors import MissingExtraError, ModelError
from amp_export.exporters.files import exported_files
from amp_export.exporters.limits import Limits
from amp_export.exporters.models.session import Port
from amp_export.options import Dtype, Format


class ProgramFacts(msgspec.Struct, frozen=True, rename={"dtype": "precision"}):
    """What is known of a program.

    Attributes:
        executorch: The version that made it.
        dtype: Of weights and activations.
        limits: What its memory is planned for.
        sizes: The largest size of each axis that varies, by its name.
        inputs: By name, in its order.
        outputs: By name, in its order.
    """

    executorch: str
    dtype: Dtype
    limits: Limits
    sizes: Mapping[str, int]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def save(self, program: Path) -> None:
        """Write them beside a program."""
        _facts_file(program).write_text(to_json(self), encoding="utf-8")

    @classmethod
    def load(cls, program: Path) -> ProgramFacts:
        """Read them from beside a program.

        Raises:
            ModelError: They are missing or damaged.
        """
        file = _facts_file(program)
        if not file.is_file():
            raise ModelError(
                f"{program} needs {file.name} next to it, which describes its inputs and outputs.\n"
                "Copy both from the export folder, or export again: amp-export export --to executorch."
            )
        try:
            content = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
            return convert(content, cls, source=str(file), error=ModelError)
        except ModelError as error:
            raise ModelError(f"{error}\nExport again.") from error


def _facts_file(program: Path) -> Path:
    return program.with_suffix(".json")


def require_runtime() -> None:
    """Find out whether ExecuTorch is there, before any work is done. Its import takes seconds, and is left for later.

    Raises:
        MissingExtraError: It is not installed, or transformers is too old to export to it.
    """
    if not all(map(importlib.util.find_spec, ("executorch", "transformers.exporters"))):
        raise MissingExtraError("executorch", needed_for="ExecuTorch")


def runtime_version() -> str:
    """Return the version of what is installed."""
    return importlib.metadata.version("executorch")


def is_executorch(folder: Path) -> bool:
    """Return whether a folder is one of programs."""
    return any(folder.glob("*.pte"))


def read_facts(folder: Path) -> ProgramFacts:
    """Return what is known of the program of a folder that is run last.

    Raises:
        ModelError: The folder holds none, or its facts are missing.
    """
    return ProgramFacts.load(exported_files(folder, Format.EXECUTORCH)[-1])
