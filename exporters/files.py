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

VISION_ENCODER, EMBED_TOKENS, MERGED_DECODER = "vision_encoder", "embed_tokens", "decoder_model_merged"
"""Parts of a vision-language model in order of execution, named as transformers.js names them:
`MODEL_SESSION_CONFIG`, src/models/session_config.js of 4.3.2. One graph does prefill and decode, so it is "merged"."""

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


def data_name(graph: Path) -> Path:
    """Return the file of a graph's weights, as Optimum and transformers.js name it."""
    return graph.with_name(f"{graph.name}_data")


def exported_files(folder: Path, to: Format) -> tuple[Path, ...]:
    """Return the files that a runtime loads, in the order of execution: one, or three for an encoder-decoder.

    Those of a vision-language model are its vision encoder, token embedding and decoder.

    Raises:
        ModelError: There is no such file, or one of the three is missing.
    """
    if to is Format.ONNX and (parts := find_parts(folder)) is not None:
        return parts
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


def find_parts(folder: Path) -> tuple[Path, ...] | None:
    """Return the graphs of a vision-language model in either layout; None if the folder holds none.

    Raises:
        ModelError: One of the other two is missing.
    """
    below = folder / SUBFOLDER
    decoder = min([*folder.glob(f"{MERGED_DECODER}*.onnx"), *below.glob(f"{MERGED_DECODER}*.onnx")], default=None)
    if decoder is None:
        return None
    others = []
    for part in (VISION_ENCODER, EMBED_TOKENS):
        found = min(decoder.parent.glob(f"{part}*.onnx"), default=None)
        if found is None:
            raise ModelError(f"{decoder.parent} holds no {part}.onnx.\nExport the model again.")
        others.append(found)
    return (*others, decoder)


def aligned_offset(end: int, nbytes: int) -> int:
    """Return the offset of a tensor of that size in a data file that is filled up to `end`."""
    alignment = PAGE_BYTES if nbytes >= PAGE_BYTES else CACHE_LINE_BYTES
    return math.ceil(end / alignment) * alignment
