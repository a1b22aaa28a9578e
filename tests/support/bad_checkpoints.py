"""Changes that make a good checkpoint a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from amp_export.checkpoints.weight_files import SINGLE

Change = Callable[[Path], object]

MODELING = "from pathlib import Path\nPath({marker!r}).touch()\nraise RuntimeError('this was run')\n"
"""A modeling file that tells whether it was run."""


def set_fields(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def write_json(name: str, content: Any) -> Change:
    return lambda folder: (folder / name).write_text(json.dumps(content))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / SINGLE), folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()
