"""Results that tests share, made once and changed by none."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIED = {"vocab_size": 301, "tie_word_embeddings": True}
"""onnxscript stores tied embeddings of less than 8,192 numbers twice, turned and as they are."""

OVERRIDES = {"bert": {"num_hidden_layers": 2}, "t5": {"num_hidden_layers": 2, **TIED}, "whisper": TIED}
"""What a tiny model that goes the whole way has besides: two layers, where one is too few to tell layers apart."""


@dataclass(frozen=True)
class Converted:
    """A tiny model that went the whole way through the command line.

    Attributes:
        checkpoint: The dense checkpoint.
        output: The output directory.
        report: What was printed on stdout, read.
        stderr: What was printed on stderr.
    """

    checkpoint: Path
    output: Path
    report: dict[str, Any]
    stderr: str


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one run of pytest-xdist share: what one has made, the others need not."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@dataclass(frozen=True)
class Bundled:
    """A bundle of a tiny model.

    Attributes:
        output: The output directory that it was made of, and lies in.
        file: The bundle.
        stderr: What making it printed.
    """

    output: Path
    file: Path
    stderr: str

    def unpack(self, folder: Path) -> Path:
        """Unpacks it; what is in it may be changed.

        Returns:
            The folder with `run.sh`.
        """
        with tarfile.open(self.file) as archive:
            archive.extractall(folder, filter="data")
        return folder / "bundle-cpu"

    def copy(self, folder: Path) -> Path:
        """Copies the output directory, with the bundle in it."""
        return Path(shutil.copytree(self.output, folder))
