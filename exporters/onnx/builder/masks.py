"""Attention masks, as nodes: causal, without padding, and within a sliding window if there is one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.nodes import Graph


def add_masks(graph: Graph, windows: Iterable[int | None]) -> dict[int | None, str]:
    """Add one mask for each distinct window; None is full attention.

    A query attends to the keys up to its own position, without padding, and with a window only to those less than
    `window` positions before it. Positions count padding, as in `sliding_window_overlay`, `masking_utils.py`,
    transformers 5.23. Every query attends to itself, even padding: a softmax over no keys is NaN, which would reach the
    real tokens through the values of the next layer.

    Returns:
        By window, the name of a boolean value [batch_size, 1, sequence_length, total_sequence_length].
    """
    queries, keys = _add_places(graph)
    causal = graph.add("LessOrEqual", keys, queries, output="mask.causal")
    itself = graph.add("Equal", keys, queries, output="mask.itself")
    padding = graph.add("Equal", "attention_mask", graph.integer(0), output="mask.padding")
    tokens = graph.add("Not", padding, output="mask.tokens")
    tokens = graph.add("Unsqueeze", tokens, graph.integers(1, 2), output="mask.tokens_of_batch")

    masks: dict[int | None, str] = {}
    for window in dict.fromkeys(windows):
        scope = mask_name(window)
        reach = causal
        if window is not None:
            before = graph.add("Sub", queries, graph.integer(window), output=f"{scope}.before")
            near = graph.add("Greater", keys, before, output=f"{scope}.near")
            reach = graph.add("And", causal, near, output=f"{scope}.reach")
        seen = graph.add("And", reach, tokens, output=f"{scope}.seen")
        masks[window] = graph.add("Or", seen, itself, output=scope)
    return masks


def mask_name(window: int | None) -> str:
    """Return the name of the mask of a window; None is full attention."""
    return "mask.full" if window is None else f"mask.window_{window}"


def _add_places(graph: Graph) -> tuple[str, str]:
    """Add the positions of the queries [sequence_length, 1] and of the keys [total_sequence_length]."""
    zero, one = graph.integer(0), graph.integer(1)
    sizes = graph.add("Shape", "attention_mask", output="mask.total_shape")
    total = graph.add("Gather", sizes, one, output="mask.total")
    sizes = graph.add("Shape", "input_ids", output="mask.new_shape")
    new = graph.add("Gather", sizes, one, output="mask.new")
    past = graph.add("Sub", total, new, output="mask.past")
    keys = graph.add("Range", zero, total, one, output="mask.keys")
    queries = graph.add("Range", past, total, one, output="mask.query_list")
    return graph.add("Unsqueeze", queries, graph.integers(1), output="mask.queries"), keys
