"""Layers of several kinds: which config field tells those that have a part, and what a cache holds of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.architectures._layer_rules import LayerRule
from amp_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def find_rule(fields: Mapping[str, Any], having: Sequence[int], layers: int) -> LayerRule | None:
    """Return which config fields say what layers have a part; None if all layers have it.

    Args:
        fields: All fields of the config.
        having: Numbers of the layers that have it.
        layers: Number of layers.

    Raises:
        UnsupportedModelError: Some layers do not have it, and no field says which.
    """
    if len(having) == layers:
        return None
    others = [number for number in range(layers) if number not in having]
    lists = {
        name: list(value) for name, value in fields.items() if isinstance(value, list | tuple) and len(value) == layers
    }
    kinds = {
        name: tuple(sorted({value[number] for number in having}))
        for name, value in lists.items()
        if all(isinstance(kind, str) for kind in value)
        and not {value[number] for number in having} & {value[number] for number in others}
    }
    numbers = next((name for name, value in fields.items() if isinstance(value, list) and value == list(having)), None)
    if not kinds and numbers is None:
        raise UnsupportedModelError(
            f"Layers {', '.join(map(str, others))} of a tiny copy lack what is pruned of others, and no config field "
            "says which layers these are.\nDescribe the family by hand: docs/adding-an-architecture.md."
        )
    return LayerRule(kinds=kinds, numbers=numbers)


def caching_layers(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], layers: int) -> list[int]:
    """Return the numbers of the layers of a decoder that cache keys; none if it is not known.

    Args:
        model: A tiny model.
        inputs: One sample.
        layers: Number of layers.
    """
    import torch

    from amp_export.checkpoints.loading import cache_argument

    if model.config.is_encoder_decoder or not model.can_generate() or (name := cache_argument(model)) is None:
        return []
    with torch.no_grad():
        result = model(**inputs, use_cache=True)
    cache = getattr(result, name, None) or getattr(result, "past_key_values", None)
    cached = getattr(cache, "layers", [])
    if len(cached) != layers:
        return []
    return [number for number, layer in enumerate(cached) if getattr(layer, "keys", None) is not None]


def caches_states(model: PreTrainedModel) -> bool:
    """Return whether a decoder's cache holds more than keys and values, such as states of convolutions."""
    from transformers import DynamicCache

    from amp_export.exporters.tracing.decoders import check_layers

    try:
        check_layers(model, DynamicCache(config=model.config).layers)
    except UnsupportedModelError:
        return True
    return False
