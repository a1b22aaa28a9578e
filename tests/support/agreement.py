"""What two descriptions of an architecture say of the same config, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amp_export.architectures import Architecture, LayerWidths, Modality, ModelConfig, Site, sliced_axes
from amp_export.pruning.rewriting import rewrite


def consequences(architecture: Architecture, raw_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what follows from facts for a config: which axes are sliced, and how pruned counts are said."""
    config = ModelConfig.read(architecture, raw_config)
    says_heads = architecture.says_head_dim_when is not None and config.meets(architecture.says_head_dim_when)
    found: dict[str, Any] = {
        "kind": architecture.kind,
        "modality": architecture.modality,
        "patches": architecture.takes_patches,
        "layers": [(site.path, site.widths, site.stack.heads_tied) for site in config.sites],
        "axes": [] if architecture.heads_stay is not None else [axes(config, site) for site in config.sites],
        "heads stay": architecture.heads_stay is not None,
        "scales inputs": architecture.mlp.scales_inputs,
        "layers follow": config.layers_follow_one_another,
        "says heads": says_heads,
        "odd heads": says_heads and architecture.hidden_size_divisible_by_heads,
        "fewer neurons": rewrite(raw_config, config, config.everywhere(fewer(config, heads=False))).kind,
    }
    if architecture.modality is Modality.TEXT:
        found["padding"] = architecture.embeds_padding
    if architecture.heads_stay is None:
        found["fewer heads"] = rewrite(raw_config, config, config.everywhere(fewer(config, heads=True))).kind
    return found


def axes(config: ModelConfig, site: Site) -> list[tuple[Any, ...]]:
    """Return the sliced axes of a layer; with a single key/value head, groups are laid out as blocks are."""
    alone = config.num_key_value_heads == 1
    return sorted(
        (name, axis, found.units, "" if alone else found.layout.value, str(found.entries_per_head))
        for name, axis, found in sliced_axes(config, site)
    )


def fewer(config: ModelConfig, *, heads: bool) -> LayerWidths:
    """Return widths with fewer neurons, and with fewer heads if they are to be."""
    dense = config.widths
    if not heads:
        return LayerWidths(dense.query_heads, dense.key_value_heads, 24)
    if dense.key_value_heads > 1:
        return LayerWidths(dense.query_heads - dense.query_group, dense.key_value_heads - 1, 24)
    return LayerWidths(dense.query_heads - 1, 1, 24)
