"""Fixes of traced graphs: operators in forms that runtimes reject, and inputs of another dtype than they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def mend_rotations(model: ir.Model) -> None:
    """Expand the caches of RotaryEmbedding to the whole batch.

    If a model rotates all rows alike, onnxscript passes caches for one row, which the operator does not accept.
    """
    import onnx_ir as ir

    for node in list(model.graph):
        if node.op_type != "RotaryEmbedding" or len(node.inputs) != 3:
            continue
        states, *caches = node.inputs
        if all(_rows(cache) == _rows(states) is not None for cache in caches):
            continue
        rows = ir.node("Shape", [states], {"start": 0, "end": 1})
        alike = ir.node("Constant", [], {"value": ir.tensor([1, 1])})
        shape = ir.node("Concat", [rows.outputs[0], alike.outputs[0]], {"axis": 0})
        widened = [ir.node("Expand", [cache, shape.outputs[0]]) for cache in caches]
        model.graph.insert_before(node, [rows, alike, shape, *widened])
        for position, expand in enumerate(widened, start=1):
            node.replace_input_with(position, expand.outputs[0])


def mend_norms(model: ir.Model) -> None:
    """Cast the input of RMSNormalization to the type of its scale, as models with a float32 scale do.

    The standard allows different types, but the operator's function definition multiplies the two.
    """
    import onnx_ir as ir

    for node in list(model.graph):
        if node.op_type != "RMSNormalization":
            continue
        states, scale = node.inputs[:2]
        if states is None or scale is None or scale.dtype is None or states.dtype == scale.dtype:
            continue
        cast = ir.node("Cast", [states], {"to": scale.dtype.value})
        model.graph.insert_before(node, cast)
        node.replace_input_with(0, cast.outputs[0])


def take_float32(model: ir.Model, name: str) -> None:
    """Let a graph take an input in float32, and cast it: transformers' exporter gives inputs the model's dtype.

    Args:
        model: The graph.
        name: Name of the input.
    """
    import onnx_ir as ir

    value = next(each for each in model.graph.inputs if each.name == name)
    if value.dtype in (None, ir.DataType.FLOAT):
        return
    assert value.dtype is not None
    cast = ir.node("Cast", [value], {"to": value.dtype.value})
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].dtype = f"{name}.cast", value.shape, value.dtype
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    value.dtype = ir.DataType.FLOAT
    model.graph.insert_before(model.graph[0], cast)


def _rows(value: ir.Value | None) -> str | None:
    """Return the length of a value's first axis; None if it is unknown."""
    return None if value is None or value.shape is None else str(value.shape[0])
