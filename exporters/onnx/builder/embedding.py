"""Builds the token embedding of a decoder as a graph of its own, which may also put images in the places of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_export.architectures import ModelConfig
from amp_export.exporters.models.ports import EMBEDDINGS, FEATURES
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
    image_token: int | None = None,
) -> onnx.ModelProto:
    """Build the graph of a token embedding: `input_ids` [batch_size, sequence_length], int64, to `inputs_embeds`.

    `inputs_embeds` [batch_size, sequence_length, hidden_size] is what a decoder with `OF_EMBEDDINGS` reads: scaled
    where the embedding's own module scales, which images are not.

    With an image token, it also reads `image_features` [num_image_tokens, hidden_size], and puts them, in order, in the
    places of the first tokens for images. A further one keeps its embedding, so that a text can be continued without
    its images.

    Args:
        config: Config of the decoder.
        stored: Layout of the weight in the data file, from `lay_out_embedding`.
        dtype: Dtype of the weight and the embeddings.
        opset: Version of the operators.
        data_file: Name of the data file, in the same folder as the graph.
        deep_layers: See `Entry`: so many times hidden_size zeros follow each embedding, and features are as wide.
        image_token: The token in whose places images are; None if another client puts them there.
    """
    graph = Graph(stored, dtype=dtype, data_file=data_file, opset=opset)
    parts, name = Parts(graph, config), config.architecture.embedding
    factor = None if parts.computation.scales_all_embeddings else parts.computation.embedding_factor
    is_scaled = config.factor(factor) != 1.0
    graph.declare_input("input_ids", ["batch_size", "sequence_length"], kind=ValueKind.INTEGER)
    width = (1 + deep_layers) * config.hidden_size
    of_tokens = EMBEDDINGS if image_token is None else f"{name}.without_images"
    whole = f"{name}.of_tokens" if deep_layers else of_tokens
    looked_up = add_rows(graph, f"{name}.weight", "input_ids", output=name if is_scaled else whole)
    scaled = parts.add_factor(factor, looked_up, output=whole)
    if deep_layers:
        graph.add("Pad", scaled, graph.integers(0, 0, 0, 0, 0, deep_layers * config.hidden_size), output=of_tokens)
    if image_token is not None:
        graph.declare_input(FEATURES, ["num_image_tokens", width], kind=ValueKind.FLOAT)
        _add_images(graph, of_tokens, image_token)
    graph.declare_output(EMBEDDINGS, ["batch_size", "sequence_length", width])
    description = f"Token embedding of a {config.architecture.class_name} in {dtype}"
    return graph.to_model(name=name, description=description, metadata={})


def _add_images(graph: Graph, embeddings: str, image_token: int) -> None:
    """Put the features of images in the places of their tokens."""
    is_image = graph.add("Equal", "input_ids", graph.integer(image_token), output="images.mask")
    found = graph.add("NonZero", is_image, output="images.found")
    places = graph.add("Transpose", found, output="images.places", perm=[1, 0])
    count = graph.add("Shape", FEATURES, output="images.count", start=0, end=1)
    first = graph.add("Slice", places, graph.integers(0), count, graph.integers(0), output="images.first_places")
    graph.add("ScatterND", embeddings, first, FEATURES, output=EMBEDDINGS)
