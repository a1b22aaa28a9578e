"""The files of an exported folder that a runtime loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.errors import ModelError, command_line
from amp_export.options import Format

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


PAGE_BYTES = 4096
"""Alignment of tensor offsets, so that a runtime can map each tensor: `TensorProto.external_data`, onnx.proto."""

CACHE_LINE_BYTES = 64
"""Alignment of tensors smaller than a page, to save padding."""


GRAPH = "model.onnx"

WEIGHTS = "model.onnx_data"
"""The name by which Optimum and transformers.js look for it. Graphs of 0.1 name another, and are read as well."""

SUBFOLDER = "onnx"
"""The folder below config and tokenizer in which transformers.js looks for graphs."""

MODEL = "model"
PARTS = ("encoder_model", "decoder_model", "decoder_with_past_model")
"""Parts of an encoder-decoder in order of execution, named as in Optimum."""

_NAMES = {
    Format.ONNX: "{}.onnx",
    Format.OPENVINO: "openvino_{}.xml",
    Format.EXECUTORCH: "{}.pte",
    Format.GGUF: "{}.gguf",
}


def file_name(part: str, to: Format) -> str:
    """Return the file name of a part of a model in a format."""
    return _NAMES[to].format(part)


ENCODER, DECODER, DECODER_WITH_PAST = (file_name(part, Format.ONNX) for part in PARTS)


def exported_files(folder: Path, to: Format) -> tuple[Path, ...]:
    """Return the files that a runtime loads, in the order of execution: one, or three for an encoder-decoder.

    Raises:
        ModelError: There is no such file, or one of the three is missing.
    """
    if to is Format.ONNX and (below := find_below(folder)) is not None:
        return (below,)
    names = [file_name(part, to) for part in PARTS]
    if not (folder / names[0]).is_file():
        names = [file_name(MODEL, to)]
    for name in names:
        if not (folder / name).is_file():
            command = command_line("amp-export", "export", "--to", to)
            raise ModelError(f"{folder} holds no {name}.\nExport a checkpoint first: {command}.")
    return tuple(folder / name for name in names)


def find_below(folder: Path) -> Path | None:
    """Return the graph of an export in the layout of transformers.js; None if the folder has another layout."""
    return min((folder / SUBFOLDER).glob(f"{MODEL}*.onnx"), default=None)


def aligned_offset(end: int, nbytes: int) -> int:
    """Return the offset of a tensor of that size in a data file that is filled up to `end`."""
    alignment = PAGE_BYTES if nbytes >= PAGE_BYTES else CACHE_LINE_BYTES
    return math.ceil(end / alignment) * alignment
