"""Which operators a graph is made of, and of which precision."""

from __future__ import annotations

from pathlib import Path

from amp_export.errors import ModelError
from amp_export.exporters import Opset, Precision


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
    """The precision of what a graph returns first: logits, or states.

    Raises:
        ModelError: It returns no floating-point numbers of a precision that is exported.
    """
    import onnx

    kinds = {
        onnx.TensorProto.FLOAT: Precision.FLOAT32,
        onnx.TensorProto.FLOAT16: Precision.FLOAT16,
        onnx.TensorProto.BFLOAT16: Precision.BFLOAT16,
    }
    found = onnx.load(graph, load_external_data=False).graph.output[0].type.tensor_type.elem_type
    if found not in kinds:
        raise ModelError(f"{graph} returns {onnx.TensorProto.DataType.Name(found)}, which is not exported.")
    return kinds[found]
