"""Rows of rotary caches for positions in time, height and width, as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.nodes import Graph
    from amp_export.exporters.onnx.builder.rotary import Rope


def add_rows_by_axis(graph: Graph, rope: Rope, positions: str, axes: Sequence[int]) -> None:
    """Add the rows of both rotary caches in which each pair of dimensions has the position of its own axis.

    They are `{cache}.rows` [batch, sequence, pairs]. A cache is read as one list, because its rows would have to be
    looked up once for each axis.

    Args:
        graph: The graph to add them to.
        rope: The rotary embeddings.
        positions: Name of the positions, int64 [axes, batch, sequence].
        axes: The axis of each pair.
    """
    scope, pairs = f"{rope.cos_cache}.by_axis", len(axes)
    by_pair = graph.add("Gather", positions, graph.integers(*axes), output=f"{scope}.positions", axis=0)
    by_token = graph.add("Transpose", by_pair, output=f"{scope}.by_token", perm=[1, 2, 0])
    starts = graph.add("Mul", by_token, graph.integer(pairs), output=f"{scope}.starts")
    places = graph.add("Add", starts, graph.integers(*range(pairs)), output=f"{scope}.places")
    for cache in (rope.cos_cache, rope.sin_cache):
        values = graph.weight_as(f"{cache}.list", cache, [rope.rows * pairs])
        graph.add("Gather", values, places, output=rows_name(cache), axis=0)


def rows_name(cache: str) -> str:
    """Return the name of a rotary cache's rows at the positions of a batch."""
    return f"{cache}.rows"
