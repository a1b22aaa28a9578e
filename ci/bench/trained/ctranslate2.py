"""Turn a Whisper that CTranslate2 stores in float16 back into a checkpoint of transformers, without loss."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FLOAT16 = 4
"""Number of the data type: `DataType` in `include/ctranslate2/types.h`, CTranslate2 4."""

_NORMS = {"beta": "bias", "gamma": "weight"}

_LINEARS = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
"""Linear layers of a layer that CTranslate2 joins: `set_attention` in `converters/transformers.py`, CTranslate2 4."""

_LAYER_NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}

_REST = {
    "embeddings/weight": "embed_tokens.weight",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
    **{f"conv{number}/{part}": f"conv{number}.{part}" for number in (1, 2) for part in ("weight", "bias")},
}


def read_tensors(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the float16 tensors of a `model.bin` by name; numbers that are settings are left out.

    Source of the layout: `ModelSpec._serialize` in `specs/model_spec.py`, CTranslate2 4, binary version 6.

    Raises:
        ValueError: It has another version, or weights of another type, which would be quantized.
    """
    tensors = {}
    with file.open("rb") as stream:
        (version,) = _unpack(stream, "<I")
        if version != 6:
            raise ValueError(f"{file} has the binary version {version}, expected 6")
        _read_name(stream)
        _, count = _unpack(stream, "<II")
        for _ in range(count):
            name = _read_name(stream)
            (rank,) = _unpack(stream, "<B")
            shape = _unpack(stream, f"<{rank}I")
            kind, size = _unpack(stream, "<BI")
            content = stream.read(size)
            if kind == FLOAT16:
                tensors[name] = np.frombuffer(content, np.float16).reshape(shape)
            elif len(shape) > 1 and "alignment" not in name:
                raise ValueError(f"{file}: {name} has the data type {kind}, expected float16")
    return tensors


def convert(tensors: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the weights under the names of `WhisperForConditionalGeneration`, in float32."""
    for name, tensor in tensors.items():
        side, rest = name.split("/", 1)
        for target, part in _split(rest, tensor.astype(np.float32)):
            # keys have no bias, for which CTranslate2 stores zeros
            if target.endswith("k_proj.bias"):
                if part.any():
                    raise ValueError(f"{name}: a key has a bias, which Whisper does not have")
                continue
            yield f"model.{side}.{target}", np.ascontiguousarray(part)


def _split(name: str, tensor: np.ndarray[Any, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if name in _REST:
        yield _REST[name], tensor
        return
    layer, module, part = name.split("/", 2)[0], *name.split("/", 1)[1].rsplit("/", 1)
    prefix = layer.replace("layer_", "layers.")
    if module in _LAYER_NORMS:
        yield f"{prefix}.{_LAYER_NORMS[module]}.{_NORMS[part]}", tensor
        return
    linears = _LINEARS[module]
    for linear, piece in zip(linears, np.split(tensor, len(linears)), strict=True):
        yield f"{prefix}.{linear}.{part}", piece


def _read_name(stream: BinaryIO) -> str:
    (length,) = _unpack(stream, "<H")
    return stream.read(length)[:-1].decode()


def _unpack(stream: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, stream.read(struct.calcsize(layout)))
