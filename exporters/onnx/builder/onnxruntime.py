"""Fused operators of ONNX Runtime: GroupQueryAttention, with the KV cache and rotation inside.

They count a text's tokens instead of reading a mask, and a token's position is its place among them. So a text may not
have padding before or between its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amp_export.architectures import LayerWidths
    from amp_export.exporters.onnx.builder.nodes import Attribute, Graph
    from amp_export.exporters.onnx.builder.rotary import Rope

LAST_PLACES, TOTAL = "lengths.last_places", "lengths.total"


@dataclass(frozen=True)
class GroupQueryParts:
    """Inputs of a GroupQueryAttention.

    Attributes:
        queries: [batch, sequence, query heads x head_dim]; or queries, keys and values side by side on the last axis.
        keys: [batch, sequence, key/value heads x head_dim]; empty if they are beside the queries.
        values: [batch, sequence, key/value heads x head_dim]; empty if they are beside the queries.
        past_keys: [batch, key/value heads, past sequence, head_dim].
        past_values: [batch, key/value heads, past sequence, head_dim].
        sinks: A score for each query head that takes part in the softmax, [query heads]; None if there is none.
    """

    queries: str
    keys: str
    values: str
    past_keys: str
    past_values: str
    sinks: str | None = None


@dataclass(frozen=True, kw_only=True)
class GroupQueryFacts:
    """What a GroupQueryAttention computes.

    Attributes:
        scale: Factor on the products of queries and keys.
        rope: Rotary embeddings that it applies; None if there are none, or they were applied before.
        interleaved: Whether pairs of dimensions that are rotated lie side by side.
        window: Number of tokens that a query attends to, itself included; None for all before it.
        softcap: Soft cap of the scores, before they are masked.
    """

    scale: float
    rope: Rope | None
    interleaved: bool
    window: int | None
    softcap: float | None


def can_rotate(head_dim: int, dimensions: int) -> bool:
    """Return whether GroupQueryAttention rotates heads of a width.

    Source: `CheckRotaryCaches`, contrib_ops/cpu/bert/group_query_attention_helper.h, ONNX Runtime 1.32.
    """
    return head_dim % 16 == 0 and dimensions % 16 == 0


def rotates(rope: Rope, head_dim: int) -> bool:
    """Return whether GroupQueryAttention does a rotation: it has no frequencies that switch."""
    return not rope.switches and can_rotate(head_dim, rope.dimensions)


def add_lengths(graph: Graph) -> None:
    """Add the place of each text's last token, int32 [batch], and the length of the longest, an int32 scalar."""
    tokens = graph.add("ReduceSum", "attention_mask", graph.integers(1), output="lengths.tokens", keepdims=0)
    last = graph.add("Sub", tokens, graph.integer(1), output="lengths.last")
    graph.to_int32(last, output=LAST_PLACES)
    sizes = graph.add("Shape", "attention_mask", output="lengths.shape")
    total = graph.add("Gather", sizes, graph.integer(1), output="lengths.longest")
    graph.to_int32(total, output=TOTAL)


def add_group_query_attention(
    graph: Graph,
    parts: GroupQueryParts,
    widths: LayerWidths,
    facts: GroupQueryFacts,
    *,
    presents: tuple[str, str],
    output: str,
) -> str:
    """Add GroupQueryAttention (version 1), which appends keys and values to the KV cache.

    Args:
        graph: Graph to add it to.
        parts: Its inputs.
        widths: Widths of this layer.
        facts: What it computes.
        presents: Names of the keys and values with the new ones.
        output: Name of the result.

    Returns:
        The result, [batch, sequence, query heads x head_dim].
    """
    attributes: dict[str, Attribute] = {
        "num_heads": widths.query_heads,
        "kv_num_heads": widths.key_value_heads,
        "scale": facts.scale,
    }
    caches: list[str] = []
    if (rope := facts.rope) is not None:
        caches = [graph.weight(rope.cos_cache), graph.weight(rope.sin_cache)]
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(facts.interleaved)}
    if facts.window is not None:
        attributes["local_window_size"] = facts.window
    if facts.softcap is not None:
        attributes["softcap"] = facts.softcap
    if parts.sinks is not None:
        # positions and a bias of the scores, which are left out, come before them
        caches = [*(caches or ("", "")), "", "", graph.weight(parts.sinks)]
    inputs = (parts.queries, parts.keys, parts.values, parts.past_keys, parts.past_values, LAST_PLACES, TOTAL, *caches)
    graph.add_fused("GroupQueryAttention", *inputs, outputs=[output, *presents], **attributes)
    return output
