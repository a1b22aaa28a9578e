"""Description of an ONNX graph: its opset, dtype, inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amp_export.errors import ModelError
from amp_export.exporters.models.caches import fixed_length
from amp_export.exporters.models.ports import kept_logits
from amp_export.exporters.models.session import Port
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.options import Dtype, Logits, Operators, Opset, WeightFormat

if TYPE_CHECKING:
    import onnx


CONTEXT = "amp_export.context"
"""Entry of a graph's metadata: the longest text in tokens that it has positions for."""


OPERATORS = "amp_export.operators"
"""Entry of a graph's metadata: `Operators`, where they are not those of the standard."""


WEIGHTS, BLOCK_SIZE, AT_8_BITS = "amp_export.weights", "amp_export.block_size", "amp_export.at_8_bits"
"""Entries of a graph's metadata where its weights are quantized: `WeightFormat`, the number of weights that share a
scale if not all of a row do, and the names of weights that have 8 bits although the format has 4."""


def describe_choices(operators: Operators, quantization: Quantization | None) -> dict[str, str]:
    """Return the entries of a graph's metadata that say how it was made, where that is not by default."""
    found = {} if operators is Operators.STANDARD else {OPERATORS: operators.value}
    if quantization is not None:
        found[WEIGHTS] = quantization.weights.value
        found |= {BLOCK_SIZE: str(quantization.block_size)} if quantization.block_size is not None else {}
        found |= {AT_8_BITS: " ".join(quantization.at_8_bits)} if quantization.at_8_bits else {}
    return found


def read_quantization(metadata: Mapping[str, str]) -> Quantization | None:
    """Return the format of a graph's weights, by its metadata; None if they are not quantized."""
    if WEIGHTS not in metadata:
        return None
    names = tuple(metadata.get(AT_8_BITS, "").split())
    size = int(metadata[BLOCK_SIZE]) if BLOCK_SIZE in metadata else None
    return Quantization(WeightFormat(metadata[WEIGHTS]), size, names)


def read_operators(metadata: Mapping[str, str]) -> Operators:
    """Return which operators a graph has, by its metadata."""
    return Operators(metadata.get(OPERATORS, Operators.STANDARD))


def read_context(metadata: Mapping[str, str]) -> int | None:
    """Return the longest text that a graph has positions for; None if its metadata does not say."""
    said = metadata.get(CONTEXT, "")
    return int(said) if said.isdecimal() else None


class GraphDescription(msgspec.Struct, frozen=True, rename={"dtype": "precision"}):
    """Description of a graph.

    Attributes:
        opset: Version of its operators.
        dtype: Dtype of its logits, or of its first floating-point output if it has no logits.
        inputs: Inputs by name, without those that need not be given.
        outputs: Outputs by name.
        context: The longest text in tokens that it has positions for; None if it computes positions of any length.
        operators: Its operators.
        quantization: The format of its weights; None if they have its dtype.
    """

    opset: Opset
    dtype: Dtype
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    context: int | None = None
    operators: Operators = Operators.STANDARD
    quantization: Quantization | None = None

    @property
    def cache_length(self) -> int | None:
        """Tokens that its KV cache of fixed length has room for; None if that grows."""
        return fixed_length(self.inputs)

    @property
    def logits(self) -> Logits:
        """Tokens whose logits it computes."""
        return kept_logits(self.outputs)


def describe_graph(graph: Path) -> GraphDescription:
    """Return the description of a graph that this package wrote; its weights are not loaded.

    Raises:
        ModelError: The graph is missing or damaged, or its opset or dtype is not supported.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph, load_external_data=False)
        opset = Opset(str(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))))
    except FileNotFoundError as error:
        raise ModelError(f"{graph.parent} holds no {graph.name}.\nExport it: amp-export export --to onnx.") from error
    except DecodeError as error:
        raise ModelError(f"{graph} is damaged: {error}\nExport it again.") from error
    except (StopIteration, ValueError) as error:
        raise ModelError(f"{graph} is not a graph that amp-export wrote: {error}\nExport it again.") from error
    dtype = _require_dtype(model, graph)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = read_ports(value for value in model.graph.input if value.name not in defaults)
    return GraphDescription(
        opset,
        dtype,
        inputs,
        read_ports(model.graph.output),
        read_context(metadata),
        read_operators(metadata),
        read_quantization(metadata),
    )


def read_dtype(graph: Path) -> Dtype:
    """Return the dtype of a graph's logits, or of its first floating-point output; any exporter may have written it.

    Raises:
        ModelError: The graph is damaged, or its dtype is not supported.
    """
    return _require_dtype(_load(graph), graph)


def read_interface(graph: Path) -> tuple[Mapping[str, Port], Operators, Dtype]:
    """Return a graph's inputs by name, its operators, and its dtype as `read_dtype`; any exporter may have written it.

    Raises:
        ModelError: The graph is damaged, or its dtype is not supported.
    """
    model = _load(graph)
    operators = read_operators({entry.key: entry.value for entry in model.metadata_props})
    return read_ports(model.graph.input), operators, _require_dtype(model, graph)


def _load(graph: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(graph, load_external_data=False)
    except DecodeError as error:
        raise ModelError(f"{graph} is damaged: {error}\nExport it again.") from error


def _require_dtype(model: onnx.ModelProto, graph: Path) -> Dtype:
    found = returned_dtype(model)
    if found is None:
        raise ModelError(f"{graph} returns no floating-point numbers of a supported dtype.\nExport it again.")
    return found


def returned_dtype(model: onnx.ModelProto) -> Dtype | None:
    """Return the dtype of the logits, or of the first floating-point output; None if there is none."""
    by_name = {name: port.float_dtype for name, port in read_ports(model.graph.output).items()}
    return next((found for found in (by_name.get("logits"), *by_name.values()) if found is not None), None)


def read_ports(values: Iterable[onnx.ValueInfoProto]) -> dict[str, Port]:
    """Return the inputs or outputs of a graph, by name.

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
