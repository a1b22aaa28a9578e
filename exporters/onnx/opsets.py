"""What a graph says of itself: its operators, its precision, what it takes and returns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.errors import ModelError
from amp_export.exporters import Opset, Precision
from amp_export.exporters.sessions import Port

if TYPE_CHECKING:
    import onnx


def graph_opset(graph: Path) -> Opset:
    """The version of a graph's operators.

    Raises:
        ModelError: It is damaged, or of operators that are not exported.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph, load_external_data=False)
        return Opset(str(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))))
    except (DecodeError, StopIteration, ValueError) as error:
        raise ModelError(f"{graph} is no graph that amp-export wrote: {error}\nExport it again.") from error


def graph_precision(graph: Path) -> Precision:
    """The precision of a graph's logits, or of what else it returns first.

    Raises:
        ModelError: It returns no floating-point numbers of a precision that is exported.
    """
    import onnx

    found = returned_precision(onnx.load(graph, load_external_data=False))
    if found is None:
        raise ModelError(f"{graph} returns no numbers of a precision that is exported.")
    return found


def graph_ports(graph: Path) -> tuple[dict[str, Port], dict[str, Port]]:
    """What a graph takes and returns, by name."""
    import onnx

    found = onnx.load(graph, load_external_data=False).graph
    return read_ports(found.input), read_ports(found.output)


def returned_precision(model: onnx.ModelProto) -> Precision | None:
    """The precision of the logits, or of what else is returned first; None where nothing has one that is exported."""
    by_name = {name: port.precision for name, port in read_ports(model.graph.output).items()}
    return next((found for found in (by_name.get("logits"), *by_name.values()) if found is not None), None)


def read_ports(values: Iterable[onnx.ValueInfoProto]) -> dict[str, Port]:
    """What a graph takes or returns, by name.

    Args:
        values: The graph's `input` or `output`.
    """
    from onnx import helper

    return {
        value.name: Port(
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim),
        )
        for value in values
    }
