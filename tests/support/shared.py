"""Results that tests share; they are made once, and no test changes them."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIED = {"vocab_size": 301, "tie_word_embeddings": True}
"""onnxscript stores tied embeddings of less than 8,192 numbers twice, once transposed; this vocabulary is larger."""

OVERRIDES = {"bert": {"num_hidden_layers": 2}, "t5": {"num_hidden_layers": 2, **TIED}, "whisper": TIED}
"""Config fields of tiny models that run end to end: two layers, since one is too few to tell layers apart."""


@dataclass(frozen=True)
class Converted:
    """A tiny model that was converted end to end through the command line.

    Attributes:
        checkpoint: The dense checkpoint.
        output: The output directory.
        report: The JSON report from stdout.
        stderr: The text on stderr.
    """

    checkpoint: Path
    output: Path
    report: dict[str, Any]
    stderr: str


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the processes of one pytest-xdist run share, so that each result is made only once."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@dataclass(frozen=True)
class Bundled:
    """A bundle of a tiny model.

    Attributes:
        output: The output directory that it was made from, which contains it.
        file: The bundle.
        stderr: The text on stderr.
    """

    output: Path
    file: Path
    stderr: str

    def unpack(self, folder: Path) -> Path:
        """Unpack the bundle; the unpacked files may be changed.

        Returns:
            The folder with `run.sh`.
        """
        with tarfile.open(self.file) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python has it from 3.11.4 on
            archive.extractall(folder)  # noqa: S202 - it is our own
        return folder / "bundle-cpu"

    def copy(self, folder: Path) -> Path:
        """Copy the output directory, including the bundle."""
        return Path(shutil.copytree(self.output, folder))
