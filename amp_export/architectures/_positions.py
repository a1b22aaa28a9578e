"""RoPE parameters and attention windows of a config, as transformers interprets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amp_export.architectures._computation import Rotary, Windows
from amp_export.architectures._facts import Architecture
from amp_export.errors import ModelError, UnsupportedModelError

EVERY_LAYER = ""
"""The key of RoPE parameters that all layers share."""

_SCALED = ("llama3", "yarn", "longrope")
"""RoPE types that use the context length before scaling."""


def read_rope(architecture: Architecture, fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the RoPE parameters of old and new configs in one form, as `standardize_rope_params` does.

    Source: `modeling_rope_utils.py`, transformers 5.24.

    Returns:
        `rope_type`, `rope_theta` and the parameters of the type, by layer type or `EVERY_LAYER`. Empty if the family
        has no rotary embeddings, or its computation is not described.

    Raises:
        UnsupportedModelError: The parameters differ between layers in a family where all layers share them.
    """
    rotary = architecture.computation.positions if architecture.computation is not None else None
    if not isinstance(rotary, Rotary):
        return {}
    if rotary.by_layer_type:
        return {kind: _read_layer_type(rotary, kind, fields) for kind in rotary.by_layer_type}
    rope: dict[str, Any] = dict(fields.get("rope_scaling") or fields.get("rope_parameters") or rotary.parameters)
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UnsupportedModelError("config.json: RoPE parameters that differ between layers are not supported.")
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.pop("type", None)
    field, default = rotary.theta
    rope.setdefault("rope_theta", _value(fields, field, default))
    if (partial := fields.get(rotary.partial or "partial_rotary_factor")) is not None:
        rope.setdefault("partial_rotary_factor", partial)
    rope["rope_type"] = rotary.renamed.get(rope["rope_type"], rope["rope_type"])
    if rope["rope_type"] in _SCALED:
        if (original := fields.get("original_max_position_embeddings")) is not None:
            rope["original_max_position_embeddings"] = original
        rope.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    return {EVERY_LAYER: rope}


def _read_layer_type(rotary: Rotary, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer type's parameters: `convert_rope_params_to_dict`, `configuration_gemma3.py`, transformers 5.24."""
    nested = (fields.get("rope_parameters") or {}).get(kind)
    rope: dict[str, Any] = dict(nested if nested is not None else {"rope_type": "default"})
    if kind == "full_attention":  # old configs scale only these layers
        rope.update(fields.get("rope_scaling") or {})
    field, default = rotary.by_layer_type[kind]
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.setdefault("rope_theta", _value(fields, field, default))
    if rope["rope_type"] in _SCALED:
        rope.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    return rope


def read_context(ropes: Mapping[str, Mapping[str, Any]], positions: int) -> int:
    """Return the longest text in tokens that positions are meant for.

    YaRN stretches the context before scaling by its factor. Who adds it to a config need not raise
    `max_position_embeddings` (README of Qwen2.5), which no position reads in transformers: `_compute_yarn_parameters`,
    `modeling_rope_utils.py`, 5.24. For other types, `max_position_embeddings` is the scaled context.

    Args:
        ropes: RoPE parameters from `read_rope`.
        positions: `max_position_embeddings`.
    """
    stretched = [
        int(rope["factor"] * rope["original_max_position_embeddings"])
        for rope in ropes.values()
        if rope["rope_type"] == "yarn" and rope.get("factor") is not None
    ]
    return max([positions, *stretched])


def read_cache_limit(ropes: Mapping[str, Mapping[str, Any]], context: int) -> int | None:
    """Return the length in tokens beyond which a KV cache is not valid, or None.

    LongRoPE has other frequencies for texts beyond the original context, for all of their tokens. Keys that were cached
    before have those of short texts: `longrope_frequency_update`, `modeling_rope_utils.py`, transformers 5.24.

    Args:
        ropes: RoPE parameters from `read_rope`.
        context: The longest text in tokens.
    """
    limits = [
        int(rope["original_max_position_embeddings"]) for rope in ropes.values() if rope["rope_type"] == "longrope"
    ]
    return min((limit for limit in limits if limit < context), default=None)


def read_rotated(architecture: Architecture, fields: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """Return whether each layer applies rotary embeddings.

    Raises:
        ModelError: The length of the field differs from the number of layers.
    """
    rotary = architecture.computation.positions if architecture.computation is not None else None
    if not isinstance(rotary, Rotary) or any(fields.get(name) != value for name, value in rotary.when.items()):
        return (False,) * layers
    if rotary.only_windowed and fields.get("sliding_window") is not None:
        return tuple(kind == "sliding_attention" for kind in read_layer_types(architecture, fields, layers))
    if rotary.rotated is not None and fields.get(rotary.rotated) is not None:
        return tuple(map(bool, _one_a_layer(rotary.rotated, fields[rotary.rotated], layers)))
    if rotary.unrotated_every is not None:
        return tuple((layer + 1) % fields[rotary.unrotated_every] != 0 for layer in range(layers))
    return (True,) * layers


def read_layer_types(architecture: Architecture, fields: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """Return each layer's attention type, `sliding_attention` or `full_attention`.

    Raises:
        ModelError: The length of `layer_types` differs from the number of layers.
        UnsupportedModelError: It contains another type.
    """
    windows = architecture.computation.windows if architecture.computation is not None else None
    if windows is None:
        every = architecture.windows_every_layer and fields.get("sliding_window") is not None
        return ("sliding_attention" if every else "full_attention",) * layers
    if (given := fields.get("layer_types")) is None:
        rotated = read_rotated(architecture, fields, layers) if windows.where_unrotated else (False,) * layers
        slides = [_slides(windows, fields, layer, rotated=rotated[layer]) for layer in range(layers)]
        return tuple("sliding_attention" if each else "full_attention" for each in slides)
    kinds = _one_a_layer("layer_types", given, layers)
    if unknown := set(kinds) - {"sliding_attention", "full_attention"}:
        raise UnsupportedModelError(
            f"config.json: layer_types has unknown entries: {', '.join(map(repr, sorted(unknown)))}."
        )
    return tuple(kinds)


def _slides(windows: Windows, fields: Mapping[str, Any], layer: int, *, rotated: bool) -> bool:
    if fields.get("sliding_window") is None or (windows.switch is not None and not fields.get(windows.switch)):
        return False
    if windows.until_layer is not None and layer >= fields[windows.until_layer]:
        return False
    if windows.from_layer is not None:
        return bool(layer >= fields[windows.from_layer])
    if windows.full_every is not None:
        every = windows.full_every if isinstance(windows.full_every, int) else _value(fields, *windows.full_every)
        return bool((layer + 1) % every)
    return not rotated


def _one_a_layer(name: str, values: Sequence[Any], layers: int) -> Sequence[Any]:
    if len(values) != layers:
        raise ModelError(f"config.json: {name} has {len(values)} layers, but num_hidden_layers is {layers}.")
    return values


def _value(fields: Mapping[str, Any], name: str | None, default: float) -> Any:
    return fields[name] if name is not None and fields.get(name) is not None else default
