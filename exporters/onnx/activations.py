"""The MLP's activation functions, as nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    from amp_export.exporters.onnx.nodes import Graph


def check_activation(hidden_act: str) -> None:
    """Refuses activation functions that no nodes are known for.

    Raises:
        UnsupportedModelError: `hidden_act` is none of those that are supported.
    """
    if hidden_act not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"config.json: hidden_act {hidden_act!r} is not supported.\nSupported: {', '.join(_ACTIVATIONS)}."
        )


def add_activation(graph: Graph, hidden_act: str, value: str, *, output: str) -> str:
    """Adds an activation function, named as in `ACT2FN` of transformers' `activations.py`.

    Raises:
        UnsupportedModelError: `hidden_act` is none of those that are supported.
    """
    check_activation(hidden_act)
    return _ACTIVATIONS[hidden_act](graph, value, output)


def _silu(graph: Graph, value: str, output: str) -> str:
    # Swish is an operator from opset 24 only
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
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": _relu,
}
