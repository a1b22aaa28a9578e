"""Builds a decoder as a graph of standard operators: without tracing or torch, one graph for prefill and decode.

Two choices are made for TensorRT: Concat, not Attention, appends keys and values to the KV cache, because TensorRT
supports Attention with one output only; and the mask is computed once, as booleans, and shared by all layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.architectures import Experts, LayerWidths, Learned, ModelConfig, cache_tensors
from amp_export.architectures._position_axes import NUM_AXES
from amp_export.exporters.files import WEIGHTS
from amp_export.exporters.models.caches import WRITE_INDICES, past_name, present_of
from amp_export.exporters.models.ports import LOGITS, LOGITS_TO_KEEP, TYPES
from amp_export.exporters.onnx.builder.attention import Attention
from amp_export.exporters.onnx.builder.entries import OF_TOKENS, Entry
from amp_export.exporters.onnx.builder.experts import MixtureOfExperts
from amp_export.exporters.onnx.builder.layers import Parts
from amp_export.exporters.onnx.builder.layout import StoredTensor
from amp_export.exporters.onnx.builder.mixers import Mixers
from amp_export.exporters.onnx.builder.nodes import END, Graph, ValueKind
from amp_export.exporters.onnx.builder.products import add_linear, add_rows
from amp_export.exporters.onnx.descriptions import CONTEXT
from amp_export.options import Dtype, Logits, Operators, Opset

if TYPE_CHECKING:
    import onnx

    from amp_export.exporters.onnx.builder.nodes import Shape

_TOKENS = ("batch_size", "sequence_length")

_TOTAL = "total_sequence_length"
"""Axis of a cache that grows, after a call."""


def build_graph(  # noqa: PLR0913  a parameter for each choice that a graph has
    config: ModelConfig,
    widths: Sequence[LayerWidths],
    stored: Sequence[StoredTensor],
    *,
    dtype: Dtype,
    opset: Opset,
    operators: Operators = Operators.STANDARD,
    logits: Logits = Logits.ALL,
    cache_length: int | None = None,
    entry: Entry = OF_TOKENS,
    data_file: str = WEIGHTS,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Build the graph of a decoder.

    Inputs are `input_ids` [batch_size, sequence_length], `attention_mask` [batch_size, total_sequence_length] and
    `position_ids` [batch_size, sequence_length], all int64, and for each layer N that attends
    `past_key_values.N.key|value` [batch_size, key_value_heads, past_sequence_length, head_dim]. Outputs are `logits`
    [batch_size, kept_length, vocab_size] and `present.N.key|value`, whose third axis is total_sequence_length. Layers
    whose mixers keep states take and return those, `past_NAME.N` and `present_NAME.N`; for the first tokens of a text
    they are zeros. `num_logits_to_keep`, an int64 scalar that need not be given, is the number of last tokens whose
    logits are computed, kept_length; 0, the default, is for all. Where only the last token's are computed, there is no
    such input, and that axis is 1.

    With a KV cache of fixed length, that is the third axis of all keys and values, and the second of `attention_mask`,
    which says which places of the cache hold tokens, new ones included. The new tokens of each text are written from
    its `write_indices` on, int64 [batch_size].

    With another entry, `inputs_embeds` [batch_size, sequence_length, hidden_size] takes the place of `input_ids`,
    `token_type_ids` [batch_size, sequence_length], int64, says which of them are of images, and `position_ids` is
    [3, batch_size, sequence_length]: in time, height and width. `inputs_embeds` is wider where something of images is
    added to the outputs of several layers: see `Entry.deep_layers`.

    Args:
        config: Config of the decoder, which `can_build` supports.
        widths: Widths of each layer.
        stored: Layout of the weights in the data file, from `lay_out`.
        dtype: Dtype of weights, activations, KV cache and logits.
        opset: Version of the operators.
        operators: Whether fused operators of ONNX Runtime may be used. Then positions are those of the tokens in their
            text, `position_ids` is no input unless a RoPE switches its frequencies, and a text has no padding.
        logits: Tokens whose logits are computed.
        cache_length: Tokens that a KV cache of fixed length has room for, with standard operators of opset 24; None if
            it grows.
        entry: What the graph reads.
        data_file: Name of the data file, in the same folder as the graph.
        metadata: Further entries of the graph's metadata.
    """
    graph = Graph(stored, dtype=dtype, data_file=data_file, opset=opset, operators=operators)
    assert cache_length is None or (graph.knows("TensorScatter") and not graph.is_fused), "a cache that is written into"
    attention = Attention(graph, config, entry, cache_length)
    _declare_entry(graph, config, entry)
    positions: Shape = [*([NUM_AXES] if entry.axes else []), *_TOKENS]
    _declare(graph, config, positions if attention.takes_positions else None, logits=logits, cache_length=cache_length)
    _declare_cache(graph, config, widths, cache_length)
    mixers = Mixers(graph, config, entry)
    decoder = _Decoder(graph, config, logits, entry)
    attention.prepare()
    mixers.prepare()
    embedded, deep = decoder.add_embedding()
    stream = Stream(embedded)
    for layer, layer_widths in enumerate(widths):
        stream = decoder.add_layer(attention, mixers, layer, layer_widths, stream)
        if layer < len(deep):
            stream = Stream(decoder.add_up(stream), deep[layer], name=f"{stream.name}.with_images")
    decoder.add_head(decoder.add_up(stream))
    name = config.architecture.class_name
    description = (
        f"{name} with {len(widths)} layers in {dtype}; one graph for prefill and decode, of texts of up to "
        f"{config.context} tokens"
    )
    facts = {CONTEXT: str(config.context), **(metadata or {})}
    return graph.to_model(name=name, description=description, metadata=facts)


def _declare_entry(graph: Graph, config: ModelConfig, entry: Entry) -> None:
    if entry.reads_tokens:
        graph.declare_input(entry.input_name, _TOKENS, kind=ValueKind.INTEGER)
    else:
        width = (1 + entry.deep_layers) * config.hidden_size
        graph.declare_input(entry.input_name, [*_TOKENS, width], kind=ValueKind.FLOAT)
    if entry.reads_types:
        graph.declare_input(TYPES, _TOKENS, kind=ValueKind.INTEGER)


def _declare(
    graph: Graph, config: ModelConfig, positions: Shape | None, *, logits: Logits, cache_length: int | None
) -> None:
    graph.declare_input("attention_mask", ["batch_size", cache_length or _TOTAL], kind=ValueKind.INTEGER)
    if positions is not None:
        graph.declare_input("position_ids", positions, kind=ValueKind.INTEGER)
    if cache_length is not None:
        graph.declare_input(WRITE_INDICES, ["batch_size"], kind=ValueKind.INTEGER)
    if logits is Logits.ALL:
        graph.declare_option(LOGITS_TO_KEEP, 0)
    kept: str | int = "kept_length" if logits is Logits.ALL else 1
    graph.declare_output(LOGITS, ["batch_size", kept, config.vocab_size])


def _declare_cache(graph: Graph, config: ModelConfig, widths: Sequence[LayerWidths], cache_length: int | None) -> None:
    lengths = ("past_sequence_length", _TOTAL) if cache_length is None else (cache_length, cache_length)
    for tensor in cache_tensors(config, widths):
        past, (before, after) = past_name(tensor), lengths
        kind = ValueKind.FLOAT32 if tensor.in_float32 else ValueKind.FLOAT
        taken: Shape = ["batch_size", *(before if axis is None else axis for axis in tensor.axes)]
        graph.declare_input(past, taken, kind=kind)
        returned: Shape = ["batch_size", *(after if axis is None else axis for axis in tensor.axes)]
        graph.declare_output(present_of(past), returned, kind=kind)


@dataclass(frozen=True)
class Stream:
    """A residual stream, whose last addition may be left to the norm that follows.

    Attributes:
        value: What was added up so far.
        update: What is still to be added, or None.
        name: Name of the sum.
    """

    value: str
    update: str | None = None
    name: str = ""


@dataclass(frozen=True)
class _Decoder(Parts):
    """Adds the parts of a decoder around its attentions.

    Attributes:
        logits: Tokens whose logits are computed.
        entry: What the graph reads.
    """

    logits: Logits
    entry: Entry

    def add_embedding(self) -> tuple[str, Sequence[str]]:
        """Add the token embeddings unless they are given, and the position embeddings if they are learned.

        Returns:
            The embeddings, and what is added to the outputs of the first layers.
        """
        given, deep = self.entry.input_name, self.entry.deep_layers
        if not deep:
            return self._add_embedding(given), ()
        names = [f"{given}.{part}" for part in range(1 + deep)]
        embedded, *others = self.graph.split(given, [self.config.hidden_size] * len(names), outputs=names)
        return self._add_embedding(embedded), others

    def _add_embedding(self, hidden: str) -> str:
        name = self.config.architecture.embedding
        if self.entry.reads_tokens:
            hidden = add_rows(self.graph, f"{name}.weight", hidden, output=name)
        if self.entry.reads_tokens or self.computation.scales_all_embeddings:
            hidden = self.add_factor(self.computation.embedding_factor, hidden, output=f"{name}.scaled")
        learned = self.computation.positions
        if not isinstance(learned, Learned):
            return hidden
        rows = "position_ids"
        if learned.offset:
            offset = self.graph.integer(learned.offset)
            rows = self.graph.add("Add", rows, offset, output=f"{learned.embedding}.rows")
        table = self.graph.weight(f"{learned.embedding}.weight")
        positions = self.graph.add("Gather", table, rows, output=learned.embedding, axis=0)
        return self.graph.add("Add", hidden, positions, output=f"{name}.placed")

    def add_layer(
        self, attention: Attention, mixers: Mixers, layer: int, widths: LayerWidths, stream: Stream
    ) -> Stream:
        """Add a layer, with the residual connections around what mixes tokens, and around the MLP."""
        scope = f"{self.config.architecture.layers}.{layer}"
        order = self.config.order
        hidden, normed = self._settle(stream, scope, order.before_attention)
        mixed = self._add_mixing(attention, mixers, layer, widths, normed)
        attended = self._add_norm_if_any(scope, order.after_attention, mixed)
        attended = self.add_factor(self.computation.residual_factor, attended, output=f"{scope}.attention.scaled")
        between = Stream(hidden, attended, name=f"{scope}.after_attention")
        if not order.parallel:
            hidden, normed = self._settle(between, scope, order.before_mlp)
            between = Stream(hidden)
        elif order.before_mlp != order.before_attention:
            normed = self._add_norm_if_any(scope, order.before_mlp, hidden)
        made = self._add_mlp(scope, widths, normed)
        made = self._add_norm_if_any(scope, order.after_mlp, made)
        made = self.add_factor(self.computation.residual_factor, made, output=f"{scope}.mlp.scaled")
        return Stream(self.add_up(between), made, name=scope)

    def _add_mixing(self, attention: Attention, mixers: Mixers, layer: int, widths: LayerWidths, hidden: str) -> str:
        """Add what mixes the tokens of a layer: attention, a mixer, or the sum of both."""
        scope, stack = f"{self.config.architecture.layers}.{layer}", self.config.sites[layer].stack
        mixed = []
        if stack.attention is not None:
            mixed.append(attention.add(layer, widths, self.add_read_factor(scope, stack.attention, hidden)))
        if stack.mixer is not None:
            mixed.append(mixers.add(layer, stack.mixer, self.add_read_factor(scope, stack.mixer, hidden)))
        return mixed[0] if len(mixed) == 1 else self.graph.add("Add", *mixed, output=f"{scope}.mixed")

    def add_up(self, stream: Stream) -> str:
        """Add the addition that a residual stream waits for, if any."""
        if stream.update is None:
            return stream.value
        return self.graph.add("Add", stream.value, stream.update, output=stream.name)

    def _settle(self, stream: Stream, scope: str, norm: str | None) -> tuple[str, str]:
        """Add up a residual stream, and add the norm over it if there is one: in one node where the runtime has it.

        Returns:
            The stream, and its norm.
        """
        if stream.update is None or norm is None or not self.graph.is_fused:
            hidden = self.add_up(stream)
            return hidden, self._add_norm_if_any(scope, norm, hidden)
        normed = self.add_norm_of_sum(f"{scope}.{norm}", stream.value, stream.update, total=stream.name)
        return stream.name, normed

    def add_head(self, hidden: str) -> None:
        """Add the final norm and the LM head, which shares the weight of tied embeddings.

        The weight is [vocab_size, hidden_size], and Gemm transposes it in its kernel. With MatMul and a Transpose of
        the weight, ONNX Runtime 1.32 transposed it at load, which took 0.5 s more for 135M parameters and was no faster
        afterwards. Gemm takes and gives rows, and ONNX Runtime copies what a last Reshape makes of them: for all logits
        of 512 tokens and 49,152 words 35 ms. Quantized weights need neither. FusedMatMul would not either, but has no
        kernel for WebGPU: `contrib_ops/webgpu/webgpu_contrib_kernels.cc` of ONNX Runtime.
        """
        architecture, graph, head = self.config.architecture, self.graph, self.config.architecture.head
        source = architecture.embedding if self.config.tie_word_embeddings else head
        kept = self._add_last(hidden, output=f"{head}.kept")
        normed = self.add_norm(self.computation.final_norm, kept)
        if graph.format_of(f"{source}.weight") is not None:
            self._add_scores(f"{source}.weight", normed)
            graph.rename_last(LOGITS)
            return
        rows = graph.add("Reshape", normed, graph.integers(-1, self.config.hidden_size), output=f"{head}.rows")
        scores = self._add_scores(f"{source}.weight", rows)
        tokens = graph.add("Shape", kept, output=f"{head}.tokens", end=-1)
        shape = graph.add("Concat", tokens, graph.integers(self.config.vocab_size), output=f"{head}.shape", axis=0)
        graph.add("Reshape", scores, shape, output=LOGITS)

    def _add_scores(self, weight: str, value: str) -> str:
        """Add the product of a value and the LM head's weight, and what follows on it.

        Args:
            weight: The weight, which is [vocab_size, hidden_size]. If it is not quantized, the value must be rows.
            value: The normed hidden states.
        """
        graph, head = self.graph, self.config.architecture.head
        bias = f"{head}.bias" if graph.has_weight(f"{head}.bias") else None
        if graph.format_of(weight) is not None:
            scores = add_linear(graph, weight, value, bias=bias, output=head)
        else:
            added = [] if bias is None else [graph.weight(bias)]
            scores = graph.add("Gemm", value, graph.weight(weight), *added, output=head, transB=1)
        scores = self.add_factor(self.computation.logit_factor, scores, output=f"{head}.scaled")
        return self.add_softcap(self.computation.logit_softcap, scores, output=f"{head}.capped")

    def _add_last(self, hidden: str, *, output: str) -> str:
        """Keep the hidden states of the last token, or of as many as are asked for: from -0 on, that is all of them."""
        graph = self.graph
        if self.logits is Logits.LAST:
            return graph.add("Gather", hidden, graph.integers(-1), output=output, axis=1)
        start = graph.add("Neg", LOGITS_TO_KEEP, output=f"{output}.start")
        start = graph.add("Unsqueeze", start, graph.integers(0), output=f"{output}.starts")
        return graph.add("Slice", hidden, start, graph.integers(END), graph.integers(1), output=output)

    def _add_mlp(self, scope: str, widths: LayerWidths, hidden: str) -> str:
        mlp = self.config.architecture.mlp
        hidden = self.add_read_factor(scope, mlp, hidden)
        if isinstance(mlp, Experts):
            return MixtureOfExperts(self.graph, self.config).add(scope, mlp, widths, hidden)
        return self.add_mlp(scope, mlp, widths.neurons, hidden)

    def _add_norm_if_any(self, scope: str, name: str | None, value: str) -> str:
        return value if name is None else self.add_norm(f"{scope}.{name}", value)
