"""Operators of opset 23 that onnxscript 0.7 writes in forms that runtimes do not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def mend_rotations(model: ir.Model) -> None:
    """Give RotaryEmbedding caches for the whole batch.

    Where a model rotates all rows alike, onnxscript hands the operator caches for one row, which it does not take.
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

    The standard lets the two differ, but the function that it defines the operator by multiplies them.
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


def _rows(value: ir.Value | None) -> str | None:
    """Return the length of a value's first axis, or None where it is not known."""
    return None if value is None or value.shape is None else str(value.shape[0])
