"""Attention masks, as nodes: causal, without padding, and within a sliding window if there is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.exporters.models.caches import WRITE_INDICES
from amp_export.exporters.models.ports import TYPES

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.entries import Entry
    from amp_export.exporters.onnx.builder.nodes import Graph


@dataclass(frozen=True)
class Places:
    """Where queries and keys are in the KV cache, as values of a graph.

    Attributes:
        queries: Places of the new tokens: [sequence_length, 1], or [batch_size, 1, sequence_length, 1] if each text is
            written at a place of its own.
        keys: Places of the cache, [total_sequence_length].
    """

    queries: str
    keys: str


def add_masks(graph: Graph, windows: Iterable[int | None], places: Places, entry: Entry) -> dict[int | None, str]:
    """Add one mask for each distinct window; None is full attention.

    A query attends to the keys up to its own position, without padding, and with a window only to those less than
    `window` positions before it. Positions count padding, as in `sliding_window_overlay`, `masking_utils.py`,
    transformers 5.23. Every query attends to itself, even padding: a softmax over no keys is NaN, which would reach the
    real tokens through the values of the next layer.

    Args:
        graph: The graph to add them to.
        windows: The window of each layer.
        places: Where queries and keys are, from `add_places`.
        entry: What the graph reads: with types of tokens, those of an image also see the later ones of the same image
            that are given in the same call, within a window if there is one.

    Returns:
        By window, the name of a boolean value [batch_size, 1, sequence_length, total_sequence_length].
    """
    queries, keys = places.queries, places.keys
    causal = graph.add("LessOrEqual", keys, queries, output="mask.causal")
    if entry.reads_types:
        causal = graph.add("Or", causal, _add_same_image(graph), output="mask.causal_or_image")
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


def _add_same_image(graph: Graph) -> str:
    """Add which keys are of a query's image, [batch_size, 1, sequence_length, total_sequence_length].

    Source: `get_block_sequence_ids_for_mask` and `create_masks_for_vision_model`, `modeling_gemma3.py`, transformers
    5.24. The tokens of an image follow one another, so that the number of its first one tells it from others.
    """
    scope, one = "mask.images", graph.integer(1)
    of_image = graph.add("Equal", TYPES, one, output=f"{scope}.tokens")
    of_image = graph.to_int64(of_image, output=f"{scope}.ones")
    before = graph.add("Pad", of_image, graph.integers(0, 1, 0, -1), output=f"{scope}.before")
    starts = graph.add("Greater", of_image, before, output=f"{scope}.starts")
    starts = graph.to_int64(starts, output=f"{scope}.start_ones")
    counted = graph.add("CumSum", starts, one, output=f"{scope}.counted")
    # 0 for what is of no image
    numbers = graph.add("Mul", counted, of_image, output=f"{scope}.numbers")
    past = graph.add("Unsqueeze", "mask.past", graph.integers(0), output=f"{scope}.past")
    pads = graph.add("Concat", graph.integers(0), past, graph.integers(0, 0), output=f"{scope}.pads", axis=0)
    keys = graph.add("Pad", numbers, pads, output=f"{scope}.keys")
    keys = graph.add("Unsqueeze", keys, graph.integers(1, 2), output=f"{scope}.keys_of_batch")
    queries = graph.add("Unsqueeze", numbers, graph.integers(1, 3), output=f"{scope}.queries_of_batch")
    same = graph.add("Equal", queries, keys, output=f"{scope}.same")
    some = graph.add("Greater", queries, graph.integer(0), output=f"{scope}.some")
    return graph.add("And", same, some, output=f"{scope}.reach")


def add_places(graph: Graph, new_tokens: str, cache_length: int | None) -> Places:
    """Add the places of queries and keys in the KV cache.

    Args:
        graph: The graph to add them to.
        new_tokens: The input whose second axis is sequence_length.
        cache_length: Tokens that the cache has room for, which are written from `write_indices` on; None if the cache
            grows by the new tokens.
    """
    zero, one = graph.integer(0), graph.integer(1)
    sizes = graph.add("Shape", new_tokens, output="mask.new_shape")
    new = graph.add("Gather", sizes, one, output="mask.new")
    if cache_length is not None:
        keys = graph.add("Range", zero, graph.integer(cache_length), one, output="mask.keys")
        numbers = graph.add("Range", zero, new, one, output="mask.new_list")
        numbers = graph.add("Unsqueeze", numbers, graph.integers(1), output="mask.new_column")
        first = graph.add("Unsqueeze", WRITE_INDICES, graph.integers(1, 2, 3), output="mask.first")
        return Places(graph.add("Add", first, numbers, output="mask.queries"), keys)
    sizes = graph.add("Shape", "attention_mask", output="mask.total_shape")
    total = graph.add("Gather", sizes, one, output="mask.total")
    past = graph.add("Sub", total, new, output="mask.past")
    keys = graph.add("Range", zero, total, one, output="mask.keys")
    queries = graph.add("Range", past, total, one, output="mask.query_list")
    return Places(graph.add("Unsqueeze", queries, graph.integers(1), output="mask.queries"), keys)
