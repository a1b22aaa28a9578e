"""Recurrences as nodes: one step within Scan, or LinearAttention where ONNX Runtime's operators may be.

They are computed in float32 for every dtype, as in transformers: `torch_recurrent_gated_delta_rule`,
`modeling_qwen3_5.py`, and `mamba2_chunk_scan`, `modeling_granitemoehybrid.py`, 5.24. Scan takes one token after the
other, which is right for any number of them and fast for one; a form that takes many at once would be faster for
prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.builder.steps import Steps
from amp_export.options import Dtype

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.nodes import Graph

_NORM_EPSILON = 1e-6
"""What is added to the squared norm of queries and keys: `l2norm`, `modeling_qwen3_5.py`, transformers 5.24."""


@dataclass(frozen=True)
class RecurrenceParts:
    """Inputs of a recurrence, all in float32.

    Attributes:
        queries: [batch, sequence, key heads, width of a key].
        keys: The same.
        values: [batch, sequence, value heads x width of a value].
        decays: Logarithms of the share of the state that is kept, [batch, sequence, value heads].
        state: [batch, value heads, width of a key, width of a value].
        rates: Share of the difference between a value and what the state says that is written, as decays; None if all
            of the value is written, whatever the state says.
    """

    queries: str
    keys: str
    values: str
    decays: str
    state: str
    rates: str | None = None


@dataclass(frozen=True)
class RecurrenceSizes:
    """Sizes of a recurrence.

    Attributes:
        key_heads: Number of query and key heads.
        value_heads: Number of value heads, a multiple of it: consecutive ones share a key head.
        key_width: Width of a query or key.
        value_width: Width of a value.
        scale: Factor on queries.
    """

    key_heads: int
    value_heads: int
    key_width: int
    value_width: int
    scale: float = 1.0


def add_unit_norm(graph: Graph, value: str, *, output: str) -> str:
    """Divide float32 values by their norm over the last axis."""
    squares = graph.add("Mul", value, value, output=f"{output}.squares")
    total = graph.add("ReduceSum", squares, graph.integers(-1), output=f"{output}.sum", keepdims=1)
    shifted = graph.add("Add", total, graph.number(_NORM_EPSILON, dtype=Dtype.FLOAT32), output=f"{output}.sum_epsilon")
    return graph.add("Div", value, graph.add("Sqrt", shifted, output=f"{output}.norm"), output=output)


def add_recurrence(graph: Graph, parts: RecurrenceParts, sizes: RecurrenceSizes, *, present: str, output: str) -> str:
    """Add a recurrence: a gated delta rule if there are rates, and otherwise a gated sum.

    Args:
        graph: Graph to add it to.
        parts: Its inputs.
        sizes: Its sizes.
        present: Name of the state after the last token.
        output: Name of the result.

    Returns:
        The result, float32 [batch, sequence, value heads x width of a value].
    """
    if graph.is_fused:
        return _add_linear_attention(graph, parts, sizes, present=present, output=output)
    # axes for the value heads that share a key head, and for the rows or columns of products
    group = sizes.value_heads // sizes.key_heads
    split = graph.integers(0, 0, sizes.key_heads, group, 1, -1)
    by_key = graph.integers(0, 0, sizes.key_heads, 1, 1, sizes.key_width)
    queries = parts.queries
    if sizes.scale != 1.0:
        scale = graph.number(sizes.scale, dtype=Dtype.FLOAT32)
        queries = graph.add("Mul", queries, scale, output=f"{output}.scaled_queries")
    given = {
        "queries": (queries, by_key),
        "keys": (parts.keys, by_key),
        "values": (parts.values, graph.integers(0, 0, sizes.key_heads, group, 1, sizes.value_width)),
        "decays": (parts.decays, split),
        **({} if parts.rates is None else {"rates": (parts.rates, split)}),
    }
    sequences = {
        f"{output}.step.{name}": graph.add("Reshape", value, shape, output=f"{output}.{name}")
        for name, (value, shape) in given.items()
    }
    by_group = graph.integers(0, sizes.key_heads, group, sizes.key_width, sizes.value_width)
    before = graph.add("Reshape", parts.state, by_group, output=f"{output}.state_before")
    ends = (f"{output}.state_after", f"{output}.heads")
    graph.add_scan(
        lambda: _add_step(graph, f"{output}.step", corrects=parts.rates is not None),
        state=(f"{output}.step.state", before),
        sequences=sequences,
        outputs=ends,
    )
    by_head = graph.integers(0, sizes.value_heads, sizes.key_width, sizes.value_width)
    graph.add("Reshape", ends[0], by_head, output=present)
    joined = graph.integers(0, 0, sizes.value_heads * sizes.value_width)
    return graph.add("Reshape", ends[1], joined, output=output)


def _add_step(graph: Graph, scope: str, *, corrects: bool) -> tuple[str, str]:
    """Add one token: the state decays, takes the value in at the key, and is read at the query."""
    add = Steps(graph, scope)
    query, key, value, decay, state = (f"{scope}.{name}" for name in ("queries", "keys", "values", "decays", "state"))
    decayed = add("Mul", state, add("Exp", decay, name="kept"), name="decayed")
    if corrects:
        difference = add("Sub", value, add("MatMul", key, decayed, name="found"), name="difference")
        value = add("Mul", difference, f"{scope}.rates", name="written")
    column = add("Transpose", key, name="column", perm=[0, 1, 2, 4, 3])
    after = add("Add", decayed, add("Mul", column, value, name="change"), name="after")
    return after, add("MatMul", query, after, name="read")


def _add_linear_attention(
    graph: Graph, parts: RecurrenceParts, sizes: RecurrenceSizes, *, present: str, output: str
) -> str:
    """Add LinearAttention (version 1 of ONNX Runtime's own)."""
    joined = graph.integers(0, 0, sizes.key_heads * sizes.key_width)
    queries, keys = (
        graph.add("Reshape", value, joined, output=f"{value}.joined") for value in (parts.queries, parts.keys)
    )
    graph.add_fused(
        "LinearAttention",
        *(queries, keys, parts.values, parts.state, parts.decays, *([] if parts.rates is None else [parts.rates])),
        outputs=[output, present],
        q_num_heads=sizes.key_heads,
        kv_num_heads=sizes.value_heads,
        scale=sizes.scale,
        update_rule="gated" if parts.rates is None else "gated_delta",
    )
    return output
