"""Fields and sizes of a config.json, with defaults, alternative names and derived values filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amp_export.architectures._facts import Architecture
from amp_export.errors import ModelError

_REQUIRED_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings")

_OFF_WHEN_NULL = (
    *("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "num_key_value_heads", "q_lora_rank"),
    *("mamba_d_ssm", "attention_chunk_size"),
)
"""Fields for which an explicit null differs from an absent field."""


def fill_in(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with defaults, alternative names and derived values; keep nulls that switch a feature off."""
    fields = {**architecture.defaults, **{key: value for key, value in config.items() if value is not None}}
    for canonical, name in architecture.names.items():
        if name is not None and config.get(name) is None and config.get(canonical) is not None:
            fields[name] = config[canonical]
    for alias, canonical in architecture.aliases.items():
        if config.get(alias) is not None:
            fields[architecture.field_name(canonical) or canonical] = config[alias]
    fields |= {name: None for name in _OFF_WHEN_NULL if name in config and config[name] is None}
    for rule in architecture.derived:
        when = rule.when if rule.when is not None else {rule.field: None}
        if all(fields.get(name) == value for name, value in when.items()):
            fields[rule.field] = rule.of(fields)
    return fields


def read_sizes(architecture: Architecture, fields: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes by their canonical names.

    Raises:
        ModelError: One is no integer of at least 1.
    """
    sizes: dict[str, int] = {}
    for canonical in (*_REQUIRED_SIZES, *_OPTIONAL_SIZES):
        name = architecture.field_name(canonical)
        value = fields.get(name) if name is not None else None
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one for each layer
        if value is None and canonical not in _REQUIRED_SIZES:
            continue
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"config.json: {name} is {value!r}, but must be an integer of at least 1.")
        sizes[canonical] = value
    sizes.setdefault("num_key_value_heads", sizes["num_attention_heads"])
    sizes.setdefault("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    return sizes
