"""Activation functions of the MLP, as nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    from amp_export.architectures import ModelConfig
    from amp_export.exporters.onnx.builder.nodes import Graph


def activation_of(config: ModelConfig) -> str:
    """Return the MLP's activation function, named as in `ACT2FN` of transformers' `activations.py`.

    Raises:
        UnsupportedModelError: The activation function is not supported.
    """
    computation = config.architecture.computation
    assert computation is not None
    named = config.fields[computation.activation]
    if named not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"config.json: {computation.activation} {named!r} is not supported.\nSupported: {', '.join(_ACTIVATIONS)}."
        )
    return computation.activation_names.get(named, named)


def add_activation(graph: Graph, activation: str, value: str, *, output: str) -> str:
    """Add an activation function that `activation_of` returned."""
    return _ACTIVATIONS[activation](graph, value, output)


def _silu(graph: Graph, value: str, output: str) -> str:
    # Swish is an operator only from opset 24 on
    sigmoid = graph.add("Sigmoid", value, output=f"{output}.sigmoid")
    return graph.add("Mul", value, sigmoid, output=output)


def _gelu(graph: Graph, value: str, output: str) -> str:
    return graph.add("Gelu", value, output=output)


def _gelu_tanh(graph: Graph, value: str, output: str) -> str:
    return graph.add("Gelu", value, output=output, approximate="tanh")


def _relu(graph: Graph, value: str, output: str) -> str:
    return graph.add("Relu", value, output=output)


_ACTIVATIONS: Mapping[str, Callable[[Graph, str, str], str]] = {
    "silu": _silu,
    "swish": _silu,
    "gelu": _gelu,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": _relu,
}
