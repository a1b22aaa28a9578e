"""Indices of heads in generation_config.json, renumbered to the heads that a plan keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_export.documents import parse_json, read_text
from amp_export.errors import ModelError
from amp_export.pruning.slicing import PADDING, Slots

if TYPE_CHECKING:
    from pathlib import Path

    from amp_export.architectures import LayerWidths, ModelConfig
    from amp_export.pruning.plan import Plan

FILE = "generation_config.json"


def renumber(
    folder: Path, config: ModelConfig, plan: Plan, *, widths: Sequence[LayerWidths] | None = None
) -> tuple[str, ...]:
    """Renumber the heads in a pruned checkpoint's generation config, which is a copy of the dense model's.

    Args:
        folder: The pruned checkpoint.
        config: The dense model's config.
        plan: Heads that each layer keeps.
        widths: Widths of the layers if they are zero-padded; by default the widths of the plan.

    Returns:
        Notes on heads that were left out.

    Raises:
        ModelError: The generation config is damaged.
    """
    file = folder / FILE
    if not config.architecture.head_indices or not file.is_file():
        return ()
    content = parse_json(read_text(file, error=ModelError), source=str(file), error=ModelError)
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a generation config.\nFix or remove it; it is optional.")
    notes = []
    for field, module in config.architecture.head_indices.items():
        if content.get(field) is None:
            continue
        pairs = content[field] if isinstance(content[field], list) else []
        kept = renumbered(pairs, head_places(config, plan, module, widths=widths))
        content = {**content, field: kept}
        if not kept:
            del content[field]
            notes.append(
                f"{FILE}: no head of {field} is left, so the field is dropped, and with it what needs these heads."
            )
        elif len(kept) < len(pairs):
            notes.append(f"{FILE}: {len(pairs) - len(kept)} of {len(pairs)} {field} are left out; they are not kept.")
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return tuple(notes)


def head_places(
    config: ModelConfig, plan: Plan, module: str, *, widths: Sequence[LayerWidths] | None = None
) -> Mapping[tuple[int, int], int]:
    """Return the place of each kept query head of an attention module, by its layer and its index before."""
    return {
        (site.number, int(head)): place
        for site, layer, padded in zip(config.sites, plan.layers, widths or plan.widths, strict=True)
        if site.stack.attention is not None and site.stack.attention.module == module
        for place, head in enumerate(Slots.of(layer).padded(padded).query_heads)
        if head != PADDING
    }


def renumbered(pairs: Sequence[Any], places: Mapping[tuple[int, int], int]) -> list[list[int]]:
    """Return pairs of layer and head with the new places of the heads, without those that are gone or name no head."""
    known = [(pair[0], pair[1]) for pair in pairs if _is_pair(pair)]
    return [[layer, places[layer, head]] for layer, head in known if (layer, head) in places]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(index) is int for index in pair)
