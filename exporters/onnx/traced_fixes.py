"""Fixes for operators of opset 23 that onnxscript 0.7 writes in forms that runtimes reject."""

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


def _rows(value: ir.Value | None) -> str | None:
    """Return the length of a value's first axis; None if it is unknown."""
    return None if value is None or value.shape is None else str(value.shape[0])
