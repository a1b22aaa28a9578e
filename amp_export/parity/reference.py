"""Run the PyTorch model that exports are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amp_export.checkpoints.loading import load_model, load_whole
from amp_export.checkpoints.reading import read_raw_config
from amp_export.checkpoints.vision_language import is_vision_language
from amp_export.options import Dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.parity.quantized import RoundedWeights

Result = TypeVar("Result")

NOISE_FACTOR = 4.0
"""Tolerated error as a multiple of PyTorch's own noise. Runtimes sum in different orders, and each order is a draw from
the same noise: the graph's error is one draw, PyTorch's noise the maximum of several."""

REFERENCE = {Dtype.FLOAT32: "float64", Dtype.FLOAT16: "float32", Dtype.BFLOAT16: "float32"}
"""The higher dtype that each dtype's noise is measured against."""


def tolerated(noise: float) -> float:
    """Return the tolerated error for PyTorch's own noise.

    It is NaN, which no error meets, if PyTorch overflows: an infinite tolerance would pass any graph.
    """
    return NOISE_FACTOR * noise if math.isfinite(noise) else math.nan


def run_torch(
    checkpoint: Path,
    dtype: str,
    work: Callable[[PreTrainedModel], Result],
    *,
    weights: RoundedWeights | None = None,
) -> Result:
    """Load a checkpoint into PyTorch and run it.

    Args:
        checkpoint: The checkpoint, or a vision-language model.
        dtype: Name of the dtype to compute in.
        work: Function that runs the model; its result is returned.
        weights: Weights of a graph that replace those of the checkpoint.
    """
    import torch

    load = load_whole if is_vision_language(read_raw_config(checkpoint / "config.json")) else load_model
    model = load(checkpoint, dtype=getattr(torch, dtype))
    if dtype == "float64" and model.config._attn_implementation == "eager":
        _keep_padding_finite(model)
    if weights is not None:
        weights.give_to(model)
    with torch.inference_mode():
        return work(model)


def _keep_padding_finite(model: PreTrainedModel) -> None:
    """Zero a layer's output at padding that attends to no token; these values are never compared.

    Eager attention computes the softmax in float32, where the mask, float64's lowest number, becomes minus infinity.
    The resulting NaN would spread to the real tokens through the next layer's values. Source: `eager_mask`,
    `masking_utils.py`, transformers 5.24.
    """
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    def clear(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        del module, inputs
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, torch.Tensor):
            return output
        hidden = hidden.masked_fill(hidden.isnan().all(dim=-1, keepdim=True), 0.0)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.register_forward_hook(clear)
