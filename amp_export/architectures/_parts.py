"""Configs that hold a config for each part of the model: their fields are named like `encoder.hidden_size`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def flatten_parts(config: Mapping[str, Any], parts: Collection[str]) -> Mapping[str, Any]:
    """Return a config with the fields of its parts' configs beside its own."""
    if not parts:
        return config
    flat = {name: value for name, value in config.items() if name not in parts}
    for part in parts:
        flat |= {f"{part}.{name}": value for name, value in (config.get(part) or {}).items()}
    return flat


def with_fields(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with other values of fields, of which some may be of its parts."""
    changed = dict(config)
    for name, value in fields.items():
        part, found, own = name.partition(".")
        if found:
            changed[part] = {**(changed.get(part) or {}), own: value}
        else:
            changed[name] = value
    return changed
