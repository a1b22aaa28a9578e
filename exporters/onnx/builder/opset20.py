"""Operators of opset 23 as operators of opset 20, for runtimes that do not support them.

These are TensorRT before 10.15, whose parser supports RotaryEmbedding and RMSNormalization since 10.15 and Attention
since 10.14 (onnx-tensorrt, pull requests 1043 and 1048), and ONNX Runtime before 1.23. In float32, every version of
TensorRT needs them, because it has no kernel for such an Attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.options import Dtype

if TYPE_CHECKING:
    from amp_export.architectures import LayerWidths
    from amp_export.exporters.onnx.builder.nodes import Graph


def add_rms_norm(graph: Graph, value: str, weight: str, *, epsilon: float, output: str) -> str:
    """Add RMSNormalization-23 over the last axis, with its mean in float32 (`stash_type` 1)."""
    value = graph.cast(value, Dtype.FLOAT32, output=f"{output}.float32")
    normed = add_unit_rms(graph, value, epsilon=epsilon, scope=output)
    normed = graph.cast(normed, graph.dtype, output=f"{output}.rounded", source=Dtype.FLOAT32)
    return graph.add("Mul", normed, weight, output=output)


def add_unit_rms(graph: Graph, value: str, *, epsilon: float, scope: str) -> str:
    """Divide float32 values by the root of their mean square over the last axis; the scope begins the nodes' names."""
    squares = graph.add("Mul", value, value, output=f"{scope}.squares")
    mean = graph.add("ReduceMean", squares, graph.integers(-1), output=f"{scope}.mean")
    shifted = graph.add("Add", mean, graph.number(epsilon, dtype=Dtype.FLOAT32), output=f"{scope}.mean_epsilon")
    root = graph.add("Sqrt", shifted, output=f"{scope}.root")
    return graph.add("Div", value, root, output=f"{scope}.normed")


def add_rotation_rows(graph: Graph, rows: str, *, interleaved: bool) -> str:
    """Add the rows of a rotary cache, [batch, sequence, dimensions / 2], for all heads: with an axis after the first.

    If pairs are interleaved, another one of size 1 follows, for the two values of a pair.
    """
    axes = graph.integers(1, 4) if interleaved else graph.integers(1)
    return graph.add("Unsqueeze", rows, axes, output=f"{rows}_of_heads")


def add_rotation(
    graph: Graph, value: str, cos: str, sin: str, *, dimensions: int, interleaved: bool, output: str
) -> str:
    """Add RotaryEmbedding-23 of [batch, heads, sequence, dimensions], with the rows of `add_rotation_rows`."""
    halves = [f"{output}.first", f"{output}.second"]
    size = dimensions // 2
    if interleaved:
        shape = graph.integers(0, 0, -1, size, 2)
        value, size = graph.add("Reshape", value, shape, output=f"{output}.pairs"), 1
    first, second = graph.split(value, [size, size], outputs=halves)
    turned = [
        graph.add(
            operator,
            graph.add("Mul", one, cos, output=f"{one}.cos"),
            graph.add("Mul", other, sin, output=f"{other}.sin"),
            output=f"{one}.turned",
        )
        for operator, one, other in (("Sub", first, second), ("Add", second, first))
    ]
    if not interleaved:
        return graph.add("Concat", *turned, output=output, axis=-1)
    pairs = graph.add("Concat", *turned, output=f"{output}.turned_pairs", axis=-1)
    return graph.add("Reshape", pairs, graph.integers(0, 0, -1, dimensions), output=output)


@dataclass(frozen=True)
class AttentionParts:
    """Inputs of an attention.

    Attributes:
        queries: [batch, query heads, sequence, head_dim].
        keys: [batch, key/value heads, total sequence, head_dim].
        values: [batch, key/value heads, total sequence, head_dim].
        mask: Which keys a query attends to: [batch, 1, 1, sequence, total sequence].
        sinks: A score for each query head that takes part in the softmax, [query heads]; None if there is none.
    """

    queries: str
    keys: str
    values: str
    mask: str
    sinks: str | None = None


def add_attention(
    graph: Graph,
    parts: AttentionParts,
    widths: LayerWidths,
    *,
    head_dim: int,
    scale: float,
    cap: Callable[[str], str],
    output: str,
) -> str:
    """Add Attention-23 with one output as several nodes, with softmax in float32 as in transformers' eager attention.

    The query heads of a group have their own axis, so that keys and values need not be repeated.

    Args:
        graph: Graph to add it to.
        parts: Inputs of the attention.
        widths: Widths of this layer.
        head_dim: Width of a head.
        scale: Factor on the queries; scaling the products instead would overflow in float16.
        cap: Function that adds the soft cap, if any, to the scores before they are masked.
        output: Name of the result, [batch, query heads, sequence, head_dim].
    """
    queries = parts.queries
    if scale != 1.0:
        queries = graph.add("Mul", queries, graph.number(scale), output=f"{output}.queries_scaled")
    shape = graph.integers(0, widths.key_value_heads, widths.query_group, -1, head_dim)
    queries = graph.add("Reshape", queries, shape, output=f"{output}.queries")
    keys = graph.add("Unsqueeze", parts.keys, graph.integers(2), output=f"{output}.keys")
    keys = graph.add("Transpose", keys, output=f"{output}.keys_turned", perm=[0, 1, 2, 4, 3])
    values = graph.add("Unsqueeze", parts.values, graph.integers(2), output=f"{output}.values")
    scores = cap(graph.add("MatMul", queries, keys, output=f"{output}.products"))
    scores = graph.cast(scores, Dtype.FLOAT32, output=f"{output}.float32")
    nothing = graph.number(float("-inf"), dtype=Dtype.FLOAT32)
    seen = graph.add("Where", parts.mask, scores, nothing, output=f"{output}.seen")
    if parts.sinks is not None:
        seen = _add_sinks(graph, parts.sinks, seen, widths)
    weights = graph.add("Softmax", seen, output=f"{output}.weights", axis=-1)
    if parts.sinks is not None:
        weights = graph.slice(weights, 0, -1, axis=-1, output=f"{output}.weights_of_keys")
    weights = graph.cast(weights, graph.dtype, output=f"{output}.rounded", source=Dtype.FLOAT32)
    attended = graph.add("MatMul", weights, values, output=f"{output}.attended")
    return graph.add("Reshape", attended, graph.integers(0, widths.query_heads, -1, head_dim), output=output)


def _add_sinks(graph: Graph, sinks: str, scores: str, widths: LayerWidths) -> str:
    """Add the sinks after the scores of the keys, [batch, key/value heads, query group, sequence, total sequence]."""
    shape = graph.integers(1, widths.key_value_heads, widths.query_group, 1, 1)
    by_head = graph.add("Reshape", graph.weight(sinks), shape, output=f"{scores}.sinks_by_head")
    by_head = graph.cast(by_head, Dtype.FLOAT32, output=f"{scores}.sinks_float32")
    rows = graph.add("Shape", scores, output=f"{scores}.row_shape", end=-1)
    shape = graph.add("Concat", rows, graph.integers(1), output=f"{scores}.sink_shape", axis=0)
    column = graph.add("Expand", by_head, shape, output=f"{scores}.sinks")
    return graph.add("Concat", scores, column, output=f"{scores}.with_sinks", axis=-1)
