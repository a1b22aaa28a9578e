"""Which operators a graph is made of."""

from __future__ import annotations

from pathlib import Path

from amp_export.errors import ModelError
from amp_export.exporters import Opset


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
