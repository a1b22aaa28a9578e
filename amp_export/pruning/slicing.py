"""Slice weights by a plan, in memory and one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from amp_export.architectures import (
    Features,
    LayerWidths,
    Layout,
    ModelConfig,
    PrunedUnit,
    Site,
    resized_layer,
    sliced_axes,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from amp_export.pruning.plan import LayerPlan, Plan

    Indices = np.ndarray[Any, np.dtype[np.int64]]

PADDING = -1
"""Index of an entry that is filled with zeros."""


@dataclass(frozen=True)
class Slots:
    """Dense index of each head and neuron of a pruned layer, or `PADDING`.

    Attributes:
        query_heads: Query heads, int64 [query_heads]; those of one group are adjacent.
        key_value_heads: Key/value heads, int64 [key_value_heads].
        neurons: Neurons, int64 [neurons], or [experts, neurons] with those of a shared expert last.
    """

    query_heads: Indices
    key_value_heads: Indices
    neurons: Indices

    @classmethod
    def of(cls, layer: LayerPlan) -> Slots:
        """Return the slots of a layer's plan, without padding."""
        import numpy as np

        kept = (layer.query_heads, layer.key_value_heads, layer.experts or layer.neurons)
        return cls(*(np.asarray(indices, dtype=np.int64) for indices in kept))

    def padded(self, widths: LayerWidths) -> Slots:
        """Return the slots padded to these widths: query heads within each group, then groups and neurons."""
        import numpy as np

        groups = len(self.key_value_heads)
        query_kg = np.full((widths.key_value_heads, widths.query_group), PADDING)
        if groups:
            query_kg[:groups, : len(self.query_heads) // groups] = self.query_heads.reshape(groups, -1)
        return Slots(
            query_kg.reshape(-1),
            _fill(self.key_value_heads, widths.key_value_heads),
            _fill(self.neurons, widths.neurons),
        )

    def for_unit(self, unit: PrunedUnit) -> Indices:
        """Return the slots of `unit`."""
        slots: Indices = getattr(self, unit.value)
        return slots


def _fill(slots: Indices, count: int) -> Indices:
    """Pad the last axis to `count` entries."""
    import numpy as np

    fill = [(0, 0)] * (slots.ndim - 1) + [(0, count - slots.shape[-1])]
    return np.pad(slots, fill, constant_values=PADDING)


def kept_entries(axis: Features, slots: Slots, config: ModelConfig) -> Indices:
    """Return the dense index of each entry along a pruned axis, [entries], or `PADDING`.

    Each expert has its own entries: [experts, entries].

    Args:
        axis: Features along the axis.
        slots: Slots of the layer.
        config: The dense model's config.
    """
    import numpy as np

    if axis.layout is Layout.GROUPS:
        return _grouped_entries(slots, config)
    if axis.layout is Layout.INTERLEAVED:
        # parts of one unit lie next to one another, as the entries of a single wider one do
        (unit,) = set(axis.units)
        return _spread(slots.for_unit(unit), len(axis.units) * config.entries(axis, unit), 0)
    parts, offset = [], 0
    for unit in axis.units:
        parts.append(_spread(slots.for_unit(unit), config.entries(axis, unit), offset))
        offset += config.widths.of(unit) * config.entries(axis, unit)
    return np.concatenate(parts, axis=-1)


def _grouped_entries(slots: Slots, config: ModelConfig) -> Indices:
    """Return the entries of an axis that holds, for each key/value head, its query heads, key and value."""
    import numpy as np

    group, head_dim = config.widths.query_group, config.head_dim
    query_kg = slots.query_heads.reshape(len(slots.key_value_heads), -1)
    parts = []
    for key_value_head, queries in zip(slots.key_value_heads, query_kg, strict=True):
        first = key_value_head * (group + 2)
        places = np.where(queries == PADDING, PADDING, first + queries - key_value_head * group)
        own = PADDING if key_value_head == PADDING else first + group
        parts.append(_spread(places, head_dim, 0))
        parts.append(_spread(np.array([own, own if own == PADDING else own + 1]), head_dim, 0))
    return np.concatenate(parts)


def _spread(slots: Indices, entries: int, offset: int) -> Indices:
    """Return `entries` consecutive indices for each slot, in a part of the axis that starts at `offset`."""
    import numpy as np

    places = offset + slots[..., None] * entries + np.arange(entries)
    return np.where(slots[..., None] == PADDING, PADDING, places).reshape(*slots.shape[:-1], -1)


def prune_module(
    model: PreTrainedModel,
    config: ModelConfig,
    plan: Plan,
    *,
    widths: Sequence[LayerWidths] | None = None,
    on_layer: Callable[[int, torch.nn.Module], None] | None = None,
) -> PreTrainedModel:
    """Resize the layers of a model in memory and return it; its config keeps the dense widths.

    The model is changed in place, because a second copy may not fit in memory: each dense weight is freed once it is
    sliced. The result computes the same as the pruned checkpoint, in the dense model's class.

    Args:
        model: The dense model.
        config: Its config.
        plan: Heads and neurons that each layer keeps.
        widths: Widths of the layers if they are zero-padded; by default the widths of the plan.
        on_layer: Called with the number of each layer and the layer, once it is resized.
    """
    for number in range(len(config.sites)):
        layer = prune_layer(model, config, plan, number, widths=widths)
        if on_layer is not None:
            on_layer(number, layer)
    return model


def prune_layer(
    model: PreTrainedModel, config: ModelConfig, plan: Plan, number: int, *, widths: Sequence[LayerWidths] | None = None
) -> torch.nn.Module:
    """Resize one layer of a model in memory and return it; see `prune_module`.

    Args:
        model: The dense model, whose earlier layers may be resized already.
        config: Its config.
        plan: Heads and neurons that each layer keeps.
        number: Number of the plan's entry.
        widths: Widths of the layers if they are zero-padded; by default the widths of the plan.
    """
    from amp_export.checkpoints.modeling_amp import resize

    widths = widths if widths is not None else plan.widths
    site = config.sites[number]
    layer = model.get_submodule(site.path)
    _slice_layer(layer, config, site, Slots.of(plan.layers[number]).padded(widths[number]))
    resize(model, resized_layer(config, site, widths[number]))
    return layer


def _slice_layer(layer: torch.nn.Module, config: ModelConfig, site: Site, slots: Slots) -> None:
    import torch

    shared = site.stack.mlp.pruned_shared_expert if site.stack.mlp is not None else None
    of_shared = {tensor.name for tensor in shared.all_tensors()} if shared is not None else set()
    others = replace(slots, neurons=slots.neurons[:-1]) if shared is not None else slots
    for name, axis, features in sliced_axes(config, site):
        path, _, parameter = name.rpartition(".")
        module = layer.get_submodule(path)
        tensor: torch.Tensor = getattr(module, parameter)
        own = replace(slots, neurons=slots.neurons[-1]) if name in of_shared else others
        entries = torch.from_numpy(kept_entries(features, own, config)).to(tensor.device)
        taken = _take(tensor.detach(), axis, entries)
        setattr(module, parameter, torch.nn.Parameter(taken, requires_grad=tensor.requires_grad))


def _take(tensor: torch.Tensor, axis: int, entries: torch.Tensor) -> torch.Tensor:
    """Return some entries of a tensor along an axis; the tensor itself if these are all."""
    import torch

    if entries.ndim == 2:
        experts = zip(tensor, entries, strict=True)
        return torch.stack([_take(expert, axis - 1, expert_entries) for expert, expert_entries in experts])
    if torch.equal(entries, torch.arange(tensor.shape[axis], device=entries.device)):
        return tensor
    taken = tensor.index_select(axis, entries.clamp(min=0))
    padding = (entries == PADDING).nonzero().squeeze(1)
    return taken.index_fill_(axis, padding, 0) if len(padding) else taken


def module_tensors(model: PreTrainedModel, *, as_stored: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a model, tied ones once; they share its memory.

    Args:
        model: The model.
        as_stored: Use the names and shapes that transformers writes to files, where these differ.
    """
    from transformers.core_model_loading import revert_weight_conversion

    seen: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return revert_weight_conversion(model, tensors) if as_stored else tensors
