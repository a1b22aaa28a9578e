"""Activation functions of the MLP, as nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from amp_export.errors import UnsupportedModelError
from amp_export.exporters.onnx.builder.steps import Steps
from amp_export.options import Dtype

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
    if computation.fixed_activation is not None:
        return computation.fixed_activation
    named = config.fields[computation.activation]
    require_activation(computation.activation, named, [_XIELU] if computation.activation_module is not None else [])
    return computation.activation_names.get(named, named)


def require_activation(field: str, named: str, others: Sequence[str] = ()) -> None:
    """Check that an activation function can be added.

    Args:
        field: Field of config.json that names it.
        named: Its name, as in `ACT2FN`.
        others: Names that are supported besides.

    Raises:
        UnsupportedModelError: It cannot.
    """
    supported = [*_ACTIVATIONS, *others]
    if named not in supported:
        raise UnsupportedModelError(
            f"config.json: {field} {named!r} is not supported.\nSupported: {', '.join(supported)}."
        )


def add_activation(graph: Graph, activation: str, value: str, *, output: str, module: str = "") -> str:
    """Add an activation function that `activation_of` returned; the module is that of one with parameters."""
    if activation == _XIELU:
        return _xielu(graph, value, output, module)
    return _ACTIVATIONS[activation](graph, value, output)


def _silu(graph: Graph, value: str, output: str) -> str:
    # Swish is an operator only from opset 24 on
    sigmoid = graph.add("Sigmoid", value, output=f"{output}.sigmoid")
    return graph.add("Mul", value, sigmoid, output=output)


def _gelu(graph: Graph, value: str, output: str) -> str:
    return graph.add("Gelu", value, output=output)


def _gelu_tanh(graph: Graph, value: str, output: str) -> str:
    return graph.add("Gelu", value, output=output, approximate="tanh")


def _gelu_quick(graph: Graph, value: str, output: str) -> str:
    # x sigmoid(1.702 x): `QuickGELUActivation`, `activations.py`, transformers 5.24
    steep = graph.add("Mul", value, graph.number(1.702), output=f"{output}.steep")
    sigmoid = graph.add("Sigmoid", steep, output=f"{output}.sigmoid")
    return graph.add("Mul", value, sigmoid, output=output)


def _relu(graph: Graph, value: str, output: str) -> str:
    return graph.add("Relu", value, output=output)


def _relu_squared(graph: Graph, value: str, output: str) -> str:
    positive = graph.add("Relu", value, output=f"{output}.positive")
    return graph.add("Mul", positive, positive, output=output)


def _xielu(graph: Graph, value: str, output: str, module: str) -> str:
    """Add xIELU (arXiv 2411.13010): `XIELUActivation._xielu_python`, `activations.py`, transformers 5.24.

    It is computed in float32: e^x - 1 and -x cancel out near zero, and squares overflow float16.
    """

    def parameter(name: str) -> str:
        return graph.cast(graph.weight(f"{module}.{name}"), Dtype.FLOAT32, output=f"{output}.{name}")

    step = Steps(graph, output)
    value = graph.cast(value, Dtype.FLOAT32, output=f"{output}.float32")
    beta, zero, one = parameter("beta"), *(graph.number(each, dtype=Dtype.FLOAT32) for each in (0.0, 1.0))
    above = step("Softplus", parameter("alpha_p"), name="above")
    below = step("Add", beta, step("Softplus", parameter("alpha_n"), name="below_beta"), name="below")
    squares = step("Mul", above, step("Mul", value, value, name="squares"), name="scaled_squares")
    power = step("Exp", step("Min", value, parameter("eps"), name="bounded"), name="power")
    bend = step("Sub", step("Sub", power, one, name="power_from_one"), value, name="bend")
    chosen = step(
        "Where",
        step("Greater", value, zero, name="is_positive"),
        squares,
        step("Mul", bend, below, name="scaled_bend"),
        name="chosen",
    )
    line = step("Mul", beta, value, name="line")
    total = graph.add("Add", chosen, line, output=output if graph.dtype is Dtype.FLOAT32 else f"{output}.sum")
    return graph.cast(total, graph.dtype, output=output, source=Dtype.FLOAT32)


_XIELU = "xielu"
"""The activation function whose parameters are weights."""

_ACTIVATIONS: Mapping[str, Callable[[Graph, str, str], str]] = {
    "silu": _silu,
    "swish": _silu,
    "gelu": _gelu,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _gelu_quick,
    "relu": _relu,
    "relu2": _relu_squared,
}
