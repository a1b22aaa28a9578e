"""Builds the token embedding of a decoder as a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_export.architectures import ModelConfig
from amp_export.exporters.models.ports import EMBEDDINGS
from amp_export.exporters.onnx.builder.layers import Parts
from amp_export.exporters.onnx.builder.layout import StoredTensor
from amp_export.exporters.onnx.builder.nodes import Graph, ValueKind
from amp_export.exporters.onnx.builder.products import add_rows
from amp_export.options import Dtype, Opset

if TYPE_CHECKING:
    import onnx


def build_embedding(
    config: ModelConfig,
    stored: Sequence[StoredTensor],
    *,
    dtype: Dtype,
    opset: Opset,
    data_file: str,
    deep_layers: int = 0,
) -> onnx.ModelProto:
    """Build the graph of a token embedding: `input_ids` [batch_size, sequence_length], int64, to `inputs_embeds`.

    `inputs_embeds` [batch_size, sequence_length, hidden_size] is what a decoder with `OF_EMBEDDINGS` reads: scaled
    where the embedding's own module scales, which images are not.

    Args:
        config: Config of the decoder.
        stored: Layout of the weight in the data file, from `lay_out_embedding`.
        dtype: Dtype of the weight and the embeddings.
        opset: Version of the operators.
        data_file: Name of the data file, in the same folder as the graph.
        deep_layers: See `Entry`: so many times hidden_size zeros follow each embedding.
    """
    graph = Graph(stored, dtype=dtype, data_file=data_file, opset=opset)
    parts, name = Parts(graph, config), config.architecture.embedding
    factor = None if parts.computation.scales_all_embeddings else parts.computation.embedding_factor
    is_scaled = config.factor(factor) != 1.0
    graph.declare_input("input_ids", ["batch_size", "sequence_length"], kind=ValueKind.INTEGER)
    graph.declare_output(EMBEDDINGS, ["batch_size", "sequence_length", (1 + deep_layers) * config.hidden_size])
    whole = f"{name}.of_tokens" if deep_layers else EMBEDDINGS
    looked_up = add_rows(graph, f"{name}.weight", "input_ids", output=name if is_scaled else whole)
    scaled = parts.add_factor(factor, looked_up, output=whole)
    if deep_layers:
        graph.add("Pad", scaled, graph.integers(0, 0, 0, 0, 0, deep_layers * config.hidden_size), output=EMBEDDINGS)
    description = f"Token embedding of a {config.architecture.class_name} in {dtype}"
    return graph.to_model(name=name, description=description, metadata={})
