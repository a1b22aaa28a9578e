"""Counts of the values that a decoder stores, reads and computes, derived from the config, and bytes of its cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from amp_export.architectures import (
    Experts,
    LayerWidths,
    Learned,
    ModelConfig,
    Site,
    cache_tensors,
    parameter_count,
    stacked_names,
    tensor_shapes,
)

_FLOAT32_BYTES = 4


def parameters_read(config: ModelConfig, widths: Sequence[LayerWidths]) -> int:
    """Return the number of parameters that a decode step of one text reads.

    They are all but tables from which only rows are looked up, the biases of experts among them, and the weights of
    experts that its token does not go through. A token embedding that is tied to the LM head is read completely.
    """
    looked_up = set() if config.tie_word_embeddings else {f"{config.architecture.embedding}.weight"}
    computation = config.architecture.computation
    if computation is not None and isinstance(computation.positions, Learned):
        looked_up.add(f"{computation.positions.embedding}.weight")
    shapes = tensor_shapes(config, widths)
    experts = config.architecture.mlp
    if isinstance(experts, Experts):
        biased = [each.name for each in (*experts.inputs, experts.output) if config.biases[each.name]]
        looked_up |= {f"{site.path}.{name}_bias" for site in config.sites for name in biased}
    read = parameter_count(config, widths) - sum(shapes[name][0] * shapes[name][1] for name in looked_up)
    left_out = 1 - share_of_experts(config)
    return read - round(left_out * sum(math.prod(shapes[name]) for name in stacked_names(config)))


def share_of_experts(config: ModelConfig) -> Fraction:
    """Return the share of experts that a token goes through; 1 if there are none, or it is not known."""
    experts = config.architecture.mlp
    if not isinstance(experts, Experts) or experts.output.stacked is None:
        return Fraction(1)
    return Fraction(experts.per_token(config.fields), config.size(experts.output.stacked))


def cached_numbers(config: ModelConfig, widths: Sequence[LayerWidths]) -> list[int]:
    """Return the number of KV cache values per token, for each layer."""
    if latent := config.architecture.latent_cache:
        return [sum(config.size(name) for name in latent)] * len(widths)
    return [2 * layer.key_value_heads * config.head_dim for layer in widths]


def state_bytes(config: ModelConfig, widths: Sequence[LayerWidths], value_bytes: int) -> int:
    """Return the bytes of the states of a text, which do not grow with its tokens; some are always in float32.

    Args:
        config: Config of the decoder.
        widths: Widths of each layer.
        value_bytes: Bytes of a value of the cache that is not.
    """
    states = (tensor for tensor in cache_tensors(config, widths) if tensor.is_state)
    sizes = ((math.prod(axis for axis in state.axes if axis is not None), state.in_float32) for state in states)
    return sum(count * (_FLOAT32_BYTES if in_float32 else value_bytes) for count, in_float32 in sizes)


def seen_bytes(config: ModelConfig, widths: Sequence[LayerWidths], past: int, value_bytes: int) -> int:
    """Return the bytes of a text's cache that a decode step reads; windowed layers read only their window.

    Args:
        config: Config of the decoder.
        widths: Widths of each layer.
        past: Number of tokens that are cached.
        value_bytes: Bytes of a value of the cache: see `state_bytes`.
    """
    seen = [past if window is None else min(past, window) for window in config.sliding_windows]
    growing = sum(tokens * numbers for tokens, numbers in zip(seen, cached_numbers(config, widths), strict=True))
    return value_bytes * growing + state_bytes(config, widths, value_bytes)


def activation_numbers(config: ModelConfig, widths: Sequence[LayerWidths], context: int) -> int:
    """Return the number of activation values of the widest layer in prefill, if none is freed before the layer ends.

    They are its input and sums, queries, keys, values, attention output, gate, up and their product, and each head's
    scores before and after the softmax; of a mixer, what it projects, the same convolved, and what it gives; of each
    expert that a token goes through, also what it takes and gives.
    """
    shapes = tensor_shapes(config, widths)

    def mixed(site: Site) -> int:
        mixer = site.stack.mixer
        if mixer is None:
            return 0
        projected = sum(shapes[f"{site.path}.{projection.name}.weight"][0] for projection in mixer.inputs)
        return 2 * projected + shapes[f"{site.path}.{mixer.output.name}.weight"][1]

    def computed(layer: LayerWidths) -> int:
        experts = config.architecture.mlp
        if not isinstance(experts, Experts):
            return 3 * layer.neurons
        return experts.per_token(config.fields) * (3 * layer.neurons + 2 * config.hidden_size)

    def of(site: Site, layer: LayerWidths) -> int:
        heads = 2 * (layer.query_heads + layer.key_value_heads) * config.head_dim
        by_token = 4 * config.hidden_size + heads + computed(layer) + mixed(site)
        return context * by_token + 2 * layer.query_heads * context**2

    return max(of(site, layer) for site, layer in zip(config.sites, widths, strict=True))
