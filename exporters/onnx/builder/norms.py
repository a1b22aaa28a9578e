"""Norms over the last axis, as nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.opset20 import add_rms_norm

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.nodes import Graph

_FLOAT = 1
"""`TensorProto.FLOAT`, for the attribute `stash_type`."""


def add_norm(graph: Graph, value: str, *weights: str, subtracts_mean: bool, epsilon: float, output: str) -> str:
    """Add a norm, whose mean is computed in float32 for every dtype, as in transformers.

    Args:
        graph: Graph to add it to.
        value: Its input.
        weights: Its weight, and its bias if it has one.
        subtracts_mean: Whether it is a LayerNorm; otherwise it is an RMSNorm.
        epsilon: What is added to the variance, or to the mean of squares.
        output: Name of the result.
    """
    operator = "LayerNormalization" if subtracts_mean else "RMSNormalization"
    if not graph.knows(operator):
        (weight,) = weights
        return add_rms_norm(graph, value, weight, epsilon=epsilon, output=output)
    return graph.add(operator, value, *weights, output=output, axis=-1, epsilon=epsilon, stash_type=_FLOAT)


def add_stored_norm(graph: Graph, name: str, value: str, *, subtracts_mean: bool, epsilon: float) -> str:
    """Add a norm with the weights of a module, after which it is named."""
    names = [f"{name}.weight", *([f"{name}.bias"] if graph.has_weight(f"{name}.bias") else [])]
    weights = map(graph.weight, names)
    return add_norm(graph, value, *weights, subtracts_mean=subtracts_mean, epsilon=epsilon, output=name)
