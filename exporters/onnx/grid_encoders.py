"""Writes the graph of a vision encoder of patches, and its weights, from the files of a vision-language model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures._vision_language import VISION_LANGUAGE
from amp_export.checkpoints.reading import read_finite
from amp_export.checkpoints.vision_language import read_vision_fields
from amp_export.checkpoints.weight_files import TensorInfo, read_headers
from amp_export.documents import read_object
from amp_export.errors import ModelError
from amp_export.exporters.files import data_name
from amp_export.exporters.onnx.builder.grid_encoder import PATCH_WEIGHT, GridConfig, build_grid_encoder
from amp_export.exporters.onnx.builder.layout import lay_out_grid_encoder
from amp_export.exporters.onnx.builder.weights import write_tensors
from amp_export.options import Dtype, Opset

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def read_grid_config(whole: Path) -> GridConfig | None:
    """Return the sizes of a vision-language model's vision encoder; None if it does not take patches.

    Raises:
        ModelError: transformers refuses the config.
        UnsupportedModelError: The activation function is not supported.
    """
    facts = VISION_LANGUAGE[read_object(whole / "config.json", error=ModelError)["model_type"]].grid_encoder
    return GridConfig.read(facts, read_vision_fields(whole)) if facts is not None else None


def write_grid_encoder(whole: Path, file: Path, config: GridConfig, *, dtype: Dtype, opset: Opset) -> None:
    """Write the graph of a vision encoder of patches, and its weights beside it.

    Args:
        whole: The vision-language model.
        file: The graph.
        config: Sizes of its vision encoder, from `read_grid_config`.
        dtype: Dtype of weights and activations.
        opset: Version of the operators.

    Raises:
        ModelError: A tensor is missing, or holds NaN or infinity.
        RequestError: A weight is too large for the dtype.
    """
    weights = data_name(file)
    tensors = _find_tensors(whole, config)
    shapes = {name: _as_matrix(info.shape) if name == PATCH_WEIGHT else info.shape for name, info in tensors.items()}
    linear = {f"{name}.weight" for name in config.linear_layers()}
    stored = lay_out_grid_encoder(shapes, linear, dtype)

    def read(name: str) -> Array:
        return read_finite(tensors[name], name).reshape(shapes[name])

    model = build_grid_encoder(config, stored, dtype=dtype, opset=opset, data_file=weights.name)
    file.write_bytes(model.SerializeToString())
    write_tensors(read, stored, weights, dtype=dtype)


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a convolution's weight as that of a linear layer of all values in its kernel."""
    outputs, *inputs = shape
    return outputs, math.prod(inputs)


def _find_tensors(whole: Path, config: GridConfig) -> Mapping[str, TensorInfo]:
    """Return the tensors of the vision encoder by their names within it.

    Raises:
        ModelError: Some are missing, or the encoder cannot be told from the rest.
    """
    headers = read_headers(whole)
    prefixes = [name.removesuffix(PATCH_WEIGHT) for name in headers if name.endswith(f".{PATCH_WEIGHT}")]
    if len(prefixes) != 1:
        raise ModelError(
            f"{whole}: {len(prefixes)} tensors end in {PATCH_WEIGHT}, but one vision encoder is expected.\n"
            "Save the model again with transformers' save_pretrained()."
        )
    found = {name.removeprefix(prefixes[0]): info for name, info in headers.items() if name.startswith(prefixes[0])}
    needed = [f"{name}.weight" for name in (*config.linear_layers(), *config.others())]
    if missing := [name for name in needed if name not in found]:
        raise ModelError(
            f"{whole}: {len(missing)} tensors of its vision encoder are missing, {prefixes[0]}{missing[0]} first.\n"
            "Save the model again with transformers' save_pretrained()."
        )
    return found
