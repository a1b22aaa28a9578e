"""What a graph declares of itself, read without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amp_export.errors import ModelError
from amp_export.exporters import Opset


@dataclass(frozen=True)
class Declared:
    """What a graph declares.

    Attributes:
        opset: The version of its operators.
        inputs: For each input the sizes of its axes; a name stands for a size that varies.
    """

    opset: Opset
    inputs: Mapping[str, tuple[int | str, ...]]

    @property
    def is_decoder(self) -> bool:
        """Whether it takes keys and values of a past."""
        return any(name.startswith("past_key_values.") for name in self.inputs)


def declared(graph: Path) -> Declared:
    """Reads what a graph declares.

    Raises:
        ModelError: It is damaged, or not of an opset that we export.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph, load_external_data=False)
        opset = Opset(str(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))))
    except (DecodeError, StopIteration, ValueError) as error:
        raise ModelError(f"{graph} is no graph that amp-export wrote: {error}\nExport it again.") from error
    inputs = {
        entry.name: tuple(axis.dim_param or axis.dim_value for axis in entry.type.tensor_type.shape.dim)
        for entry in model.graph.input
    }
    return Declared(opset, inputs)
