"""Counts of the values that a decoder stores, reads and computes, derived from the config; dtype-independent."""

from __future__ import annotations

import math
from collections.abc import Sequence

from amp_export.architectures import (
    LayerWidths,
    Learned,
    ModelConfig,
    cache_tensors,
    parameter_count,
    tensor_shapes,
)


def parameters_read(config: ModelConfig, widths: Sequence[LayerWidths]) -> int:
    """Return the number of parameters that a decode step reads: all but tables from which only rows are looked up.

    A token embedding that is tied to the LM head is read completely.
    """
    looked_up = set() if config.tie_word_embeddings else {f"{config.architecture.embedding}.weight"}
    computation = config.architecture.computation
    if computation is not None and isinstance(computation.positions, Learned):
        looked_up.add(f"{computation.positions.embedding}.weight")
    shapes = tensor_shapes(config, widths)
    return parameter_count(config, widths) - sum(shapes[name][0] * shapes[name][1] for name in looked_up)


def cached_numbers(config: ModelConfig, widths: Sequence[LayerWidths]) -> list[int]:
    """Return the number of KV cache values per token, for each layer."""
    if latent := config.architecture.latent_cache:
        return [sum(config.size(name) for name in latent)] * len(widths)
    return [2 * layer.key_value_heads * config.head_dim for layer in widths]


def state_numbers(config: ModelConfig, widths: Sequence[LayerWidths]) -> int:
    """Return the number of cached values of a text that does not grow with its tokens."""
    states = (tensor.axes for tensor in cache_tensors(config, widths) if tensor.is_state)
    return sum(math.prod(axis for axis in axes if axis is not None) for axes in states)


def seen_numbers(config: ModelConfig, widths: Sequence[LayerWidths], past: int) -> int:
    """Return the number of cached values that a decode step reads; windowed layers read only their window."""
    seen = [past if window is None else min(past, window) for window in config.sliding_windows]
    growing = sum(tokens * numbers for tokens, numbers in zip(seen, cached_numbers(config, widths), strict=True))
    return growing + state_numbers(config, widths)


def activation_numbers(config: ModelConfig, widths: Sequence[LayerWidths], context: int) -> int:
    """Return the number of activation values of the widest layer in prefill, if none is freed before the layer ends.

    They are its input and sums, queries, keys, values, attention output, gate, up and their product, and each head's
    scores before and after the softmax.
    """

    def of(layer: LayerWidths) -> int:
        heads = 2 * (layer.query_heads + layer.key_value_heads) * config.head_dim
        return context * (4 * config.hidden_size + heads + 3 * layer.neurons) + 2 * layer.query_heads * context**2

    return max(of(layer) for layer in widths)
