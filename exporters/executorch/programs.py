"""Files of an exported folder: programs, each with a JSON file of facts.

A program itself stores only the number and the memory size of its inputs and outputs.
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
    """Facts of a program.

    Attributes:
        executorch: Version of ExecuTorch that exported it.
        dtype: Dtype of weights and activations.
        limits: Limits that its memory is planned for.
        sizes: The largest size of each dynamic axis, by name.
        inputs: Inputs by name, in order.
        outputs: Outputs by name, in order.
    """

    executorch: str
    dtype: Dtype
    limits: Limits
    sizes: Mapping[str, int]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def save(self, program: Path) -> None:
        """Write the facts next to a program."""
        _facts_file(program).write_text(to_json(self), encoding="utf-8")

    @classmethod
    def load(cls, program: Path) -> ProgramFacts:
        """Read the facts of a program.

        Raises:
            ModelError: The file is missing or damaged.
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
    """Check early that ExecuTorch is installed, without importing it, which takes seconds.

    Raises:
        MissingExtraError: ExecuTorch is not installed, or transformers is too old to export to it.
    """
    if not all(map(importlib.util.find_spec, ("executorch", "transformers.exporters"))):
        raise MissingExtraError("executorch", needed_for="ExecuTorch")


def runtime_version() -> str:
    """Return the installed version of ExecuTorch."""
    return importlib.metadata.version("executorch")


def is_executorch(folder: Path) -> bool:
    """Return whether a folder holds programs."""
    return any(folder.glob("*.pte"))


def read_facts(folder: Path) -> ProgramFacts:
    """Return the facts of the last program of a folder.

    Raises:
        ModelError: The folder holds no program, or its facts are missing.
    """
    return ProgramFacts.load(exported_files(folder, Format.EXECUTORCH)[-1])
