"""A decoder as a graph of standard operators (opset 23): no tracing, no torch, one graph for prefill and decode.

Two choices are TensorRT's: keys and values are joined to the past by Concat, not by Attention itself, because it takes
Attention with one output only; and the mask is computed once, as truth values, and shared by all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.architectures import LayerWidths, ModelConfig, Projection
from amp_export.exporters import Precision
from amp_export.exporters.onnx.activations import add_activation
from amp_export.exporters.onnx.masks import add_masks
from amp_export.exporters.onnx.nodes import Graph
from amp_export.exporters.onnx.weights import COS_CACHE, SIN_CACHE, StoredTensor

if TYPE_CHECKING:
    import onnx

    from amp_export.exporters.onnx.nodes import Shape

OPSET = 23
"""The first with Attention, RotaryEmbedding and RMSNormalization."""

IR_VERSION = 11
"""The one that came with opset 23, in ONNX 1.18."""

_FLOAT = 1
"""`TensorProto.FLOAT`, as the attribute `stash_type` wants it."""


def build_graph(
    config: ModelConfig,
    widths: Sequence[LayerWidths],
    stored: Sequence[StoredTensor],
    *,
    precision: Precision,
    data_file: str,
) -> onnx.ModelProto:
    """Builds the graph of a decoder.

    Inputs are `input_ids` [batch_size, sequence_length], `attention_mask` [batch_size, total_sequence_length] and
    `position_ids` [batch_size, sequence_length], all int64, and for each layer N `past_key_values.N.key|value`
    [batch_size, key_value_heads, past_sequence_length, head_dim]. Outputs are `logits` [batch_size, sequence_length,
    vocab_size] and `present.N.key|value`, whose third axis is total_sequence_length.

    Args:
        config: The decoder's config.
        widths: The widths of each layer.
        stored: Where each weight lies in the data file, from `lay_out`.
        precision: The dtype of weights, activations, keys, values and logits.
        data_file: The data file's name, in the same folder as the graph.

    Raises:
        UnsupportedModelError: The activation function is not supported.
    """
    graph = Graph(stored, precision=precision, data_file=data_file)
    _declare(graph, config, widths)
    decoder = _Decoder(graph, config)
    masks = add_masks(graph, config.sliding_windows)
    hidden = decoder.add_embedding("input_ids")
    for layer, layer_widths in enumerate(widths):
        hidden = decoder.add_layer(layer, layer_widths, hidden, masks[config.sliding_windows[layer]])
    decoder.add_head(hidden)
    name = config.architecture.class_name
    description = f"{name} with {len(widths)} layers in {precision}; one graph for prefill and decode"
    return graph.to_model(name=name, opset=OPSET, ir_version=IR_VERSION, description=description)


def _declare(graph: Graph, config: ModelConfig, widths: Sequence[LayerWidths]) -> None:
    graph.declare_input("input_ids", ["batch_size", "sequence_length"], kind="integer")
    graph.declare_input("attention_mask", ["batch_size", "total_sequence_length"], kind="integer")
    graph.declare_input("position_ids", ["batch_size", "sequence_length"], kind="integer")
    graph.declare_output("logits", ["batch_size", "sequence_length", config.vocab_size])
    for layer, layer_widths in enumerate(widths):
        heads = layer_widths.key_value_heads
        for part in ("key", "value"):
            past: Shape = ["batch_size", heads, "past_sequence_length", config.head_dim]
            graph.declare_input(f"past_key_values.{layer}.{part}", past, kind="float")
            present: Shape = ["batch_size", heads, "total_sequence_length", config.head_dim]
            graph.declare_output(f"present.{layer}.{part}", present)


@dataclass(frozen=True)
class _Decoder:
    """Adds a decoder's parts to a graph. Values are named after the modules of transformers that compute them."""

    graph: Graph
    config: ModelConfig

    def add_embedding(self, input_ids: str) -> str:
        name = self.config.architecture.embedding
        return self.graph.add("Gather", self.graph.weight(f"{name}.weight"), input_ids, output=name, axis=0)

    def add_layer(self, layer: int, widths: LayerWidths, hidden: str, mask: str) -> str:
        architecture = self.config.architecture
        scope = f"{architecture.layers}.{layer}"
        normed = self._add_norm(f"{scope}.input_layernorm", hidden)
        attended = self._add_attention(layer, widths, normed, mask)
        hidden = self.graph.add("Add", hidden, attended, output=f"{scope}.after_attention")
        normed = self._add_norm(f"{scope}.post_attention_layernorm", hidden)
        return self.graph.add("Add", hidden, self._add_mlp(scope, normed), output=scope)

    def add_head(self, hidden: str) -> None:
        """Adds the final norm and the logits; tied embeddings are read from the one copy that there is.

        The weight is [vocab_size, hidden_size], and Gemm turns it in its kernel. MatMul with a Transpose of the weight
        made ONNX Runtime 1.32 turn it at load, which took 0.5 s more for 135M parameters and was no faster after.
        """
        architecture, graph = self.config.architecture, self.graph
        source = architecture.embedding if self.config.tie_word_embeddings else architecture.head
        normed = self._add_norm("model.norm", hidden)
        rows = graph.add(
            "Reshape", normed, graph.integers(-1, self.config.hidden_size), output=f"{architecture.head}.rows"
        )
        scores = graph.add("Gemm", rows, graph.weight(f"{source}.weight"), output=architecture.head, transB=1)
        tokens = graph.add("Shape", "input_ids", output=f"{architecture.head}.tokens")
        shape = graph.add(
            "Concat", tokens, graph.integers(self.config.vocab_size), output=f"{architecture.head}.shape", axis=0
        )
        graph.add("Reshape", scores, shape, output="logits")

    def _add_attention(self, layer: int, widths: LayerWidths, hidden: str, mask: str) -> str:
        architecture = self.config.architecture
        scope = f"{architecture.layers}.{layer}"
        query, key, value = architecture.attention.inputs
        output = architecture.attention.output
        norms = ("self_attn.q_norm", "self_attn.k_norm") if architecture.attention.tensors else (None, None)
        queries = self._add_heads(scope, query, widths.query_heads, hidden, norm=norms[0])
        keys = self._add_heads(scope, key, widths.key_value_heads, hidden, norm=norms[1])
        values = self._add_heads(scope, value, widths.key_value_heads, hidden)
        queries, keys = self._add_rotation(queries), self._add_rotation(keys)
        keys = self._add_to_past(layer, "key", keys)
        values = self._add_to_past(layer, "value", values)
        # grouped key/value heads stay as they are: Attention shares each among its group of query heads.
        # softmax_precision is left out: TensorRT-RTX 1.7 refuses Attention with it
        attended = self.graph.add(
            "Attention",
            queries,
            keys,
            values,
            mask,
            output=f"{scope}.attention",
            scale=self.config.head_dim**-0.5,
        )
        joined = self.graph.add("Transpose", attended, output=f"{attended}.by_token", perm=[0, 2, 1, 3])
        shape = self.graph.integers(0, 0, widths.query_heads * self.config.head_dim)
        joined = self.graph.add("Reshape", joined, shape, output=f"{attended}.joined")
        return self._add_linear(scope, output, joined)

    def _add_heads(
        self, scope: str, projection: Projection, heads: int, hidden: str, *, norm: str | None = None
    ) -> str:
        """A projection, split into heads: [batch_size, heads, sequence_length, head_dim]."""
        projected = self._add_linear(scope, projection, hidden)
        shape = self.graph.integers(0, 0, heads, self.config.head_dim)
        split = self.graph.add("Reshape", projected, shape, output=f"{projected}.split")
        if norm is not None:
            split = self._add_norm(f"{scope}.{norm}", split)
        return self.graph.add("Transpose", split, output=f"{projected}.heads", perm=[0, 2, 1, 3])

    def _add_rotation(self, heads: str) -> str:
        caches = self.graph.weight(COS_CACHE), self.graph.weight(SIN_CACHE)
        return self.graph.add("RotaryEmbedding", heads, *caches, "position_ids", output=f"{heads}.rotated")

    def _add_to_past(self, layer: int, part: str, new: str) -> str:
        return self.graph.add(
            "Concat", f"past_key_values.{layer}.{part}", new, output=f"present.{layer}.{part}", axis=2
        )

    def _add_mlp(self, scope: str, hidden: str) -> str:
        mlp = self.config.architecture.mlp
        gate_projection, up_projection = mlp.inputs
        gate = self._add_linear(scope, gate_projection, hidden)
        active = add_activation(self.graph, self.config.fields["hidden_act"], gate, output=f"{scope}.mlp.activated")
        up = self._add_linear(scope, up_projection, hidden)
        neurons = self.graph.add("Mul", active, up, output=f"{scope}.mlp.neurons")
        return self._add_linear(scope, mlp.output, neurons)

    def _add_linear(self, scope: str, projection: Projection, value: str) -> str:
        name = f"{scope}.{projection.name}"
        if not self.config.biases[projection.name]:
            return self.graph.add("MatMul", value, self.graph.weight(f"{name}.weight"), output=name)
        product = self.graph.add("MatMul", value, self.graph.weight(f"{name}.weight"), output=f"{name}.product")
        return self.graph.add("Add", product, self.graph.weight(f"{name}.bias"), output=name)

    def _add_norm(self, name: str, value: str) -> str:
        """The root mean square is taken in float32 whatever the precision, as `LlamaRMSNorm` does."""
        return self.graph.add(
            "RMSNormalization",
            value,
            self.graph.weight(f"{name}.weight"),
            output=name,
            axis=-1,
            epsilon=float(self.config.fields["rms_norm_eps"]),
            stash_type=_FLOAT,
        )
