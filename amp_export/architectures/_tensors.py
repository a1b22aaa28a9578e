"""Names, shapes and sliced axes of the tensors of a model whose layers have given widths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from amp_export.architectures._blocks import Axis, Block, Count, Features, Offset, Tensor, Total
from amp_export.architectures._config import ModelConfig
from amp_export.architectures._experts import Experts
from amp_export.architectures._sites import LayerWidths, Site


def tensor_shapes(config: ModelConfig, widths: Sequence[LayerWidths] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that the facts list, for a model whose layers have these widths.

    Args:
        config: The model's config.
        widths: One entry per layer; by default, the widths of the config.

    Returns:
        Shapes by the tensors' names in transformers. A tied LM head is not listed.
    """
    return {name: shape for name, _, shape in _all_tensors(config, widths)}


def matrix_shapes(config: ModelConfig, widths: Sequence[LayerWidths] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the same, but with the stacked weights of experts as one matrix for each: see `expert_name`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor, shape in _all_tensors(config, widths):
        if tensor.is_stacked:
            shapes |= {expert_name(name, number): shape[1:] for number in range(shape[0])}
        else:
            shapes[name] = shape
    return shapes


def stacked_names(config: ModelConfig) -> list[str]:
    """Return the names of the weights that stack a matrix for each expert."""
    return [name for name, tensor, _ in _all_tensors(config, None) if tensor.is_stacked]


def expert_name(stacked: str, number: int) -> str:
    """Return the name of one expert's matrix in a stacked weight."""
    return f"{stacked}.{number}"


def stored_parts(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return the names in files of those matrices and tensors that transformers stores under other names.

    Returns:
        By the name of a matrix, or a tensor that is not stacked: the tensors whose rows it consists of.
    """
    found: dict[str, tuple[str, ...]] = {}
    for site in config.sites:
        experts = site.stack.mlp
        if not isinstance(experts, Experts) or experts.output.stacked is None:
            continue
        for name, patterns in experts.in_files.items():
            full, parts = f"{site.path}.{name}", [f"{site.path}.{pattern}" for pattern in patterns]
            if not any("*" in part for part in parts):
                found[full] = tuple(parts)
                continue
            for number in range(config.size(experts.output.stacked)):
                found[expert_name(full, number)] = tuple(part.replace("*", str(number)) for part in parts)
    return found


def parameter_count(config: ModelConfig, widths: Sequence[LayerWidths] | None = None) -> int:
    """Return the number of parameters, including embeddings; tied ones are counted once."""
    found = _all_tensors(config, widths)
    return config.other_parameters + sum(math.prod(shape) for _, tensor, shape in found if not tensor.is_buffer)


def sliced_axes(config: ModelConfig, site: Site) -> Iterator[tuple[str, int, Features]]:
    """Yield the tensor's name relative to the layer, the axis number and the axis for each axis that pruning slices."""
    for tensor in site.stack.tensors(site.number):
        if config.meets(tensor.when):
            for number, axis in enumerate(tensor.axes):
                if isinstance(axis, Features):
                    yield tensor.name, number, axis


def resized_modules(config: ModelConfig, widths: Sequence[LayerWidths]) -> dict[str, dict[str, Any]]:
    """Return the differences between the modules of a pruned model and those built from its config.

    Returns:
        By module path: `parameters` with the shape of each sliced parameter, and `attributes` with their values.
    """
    modules: dict[str, dict[str, Any]] = {}
    for site, layer_widths in zip(config.sites, widths, strict=True):
        modules |= resized_layer(config, site, layer_widths)
    return modules


def resized_layer(config: ModelConfig, site: Site, widths: LayerWidths) -> dict[str, dict[str, Any]]:
    """Return the same for one layer; layers of two stacks that share a path have different modules."""
    modules: dict[str, dict[str, Any]] = {}
    shapes = _shapes(config, site.stack.tensors(site.number), widths)
    for name in dict.fromkeys(name for name, _, _ in sliced_axes(config, site)):
        path, _, parameter = name.rpartition(".")
        entry = modules.setdefault(f"{site.path}.{path}", {})
        entry.setdefault("parameters", {})[parameter] = list(shapes[name])
    for block in filter(None, (site.stack.attention, site.stack.mlp)):
        if block.attributes:
            entry = modules.setdefault(".".join(filter(None, (site.path, block.module))), {})
            entry.setdefault("attributes", {}).update(attribute_values(config, block, widths))
    return modules


def attribute_values(config: ModelConfig, block: Block, widths: LayerWidths) -> Mapping[str, int]:
    """Return the attributes of a block's module for a layer of these widths."""
    values = {
        Count.QUERY_HEADS: widths.query_heads,
        Count.KEY_VALUE_HEADS: widths.key_value_heads,
        Count.QUERY_GROUP: widths.query_group,
        Count.QUERY_FEATURES: widths.query_heads * config.head_dim,
        Count.NEURONS: widths.neurons,
    }
    return {name: values[count] for name, count in block.attributes.items()}


def _all_tensors(
    config: ModelConfig, widths: Sequence[LayerWidths] | None
) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """Yield the full name, the facts and the shape of every tensor that the facts list."""
    widths = widths if widths is not None else [site.widths for site in config.sites]
    first, rest = config.architecture.tensors[:1], config.architecture.tensors[1:]
    parts = [
        ("", first, config.widths),
        *(
            (f"{site.path}.", tuple(site.stack.tensors(site.number)), layer_widths)
            for site, layer_widths in zip(config.sites, widths, strict=True)
        ),
        ("", rest, config.widths),
    ]
    for prefix, tensors, part_widths in parts:
        for tensor in tensors:
            if config.meets(tensor.when):
                shape = tuple(axis_length(config, axis, part_widths) for axis in tensor.axes)
                yield f"{prefix}{tensor.name}", tensor, shape


def _shapes(config: ModelConfig, tensors: Iterable[Tensor], widths: LayerWidths) -> dict[str, tuple[int, ...]]:
    return {
        tensor.name: tuple(axis_length(config, axis, widths) for axis in tensor.axes)
        for tensor in tensors
        if config.meets(tensor.when)
    }


def axis_length(config: ModelConfig, axis: Axis, widths: LayerWidths) -> int:
    """Return the length of an axis in a layer of these widths."""
    if isinstance(axis, Features):
        return config.features(axis, widths)
    if isinstance(axis, Offset):
        return config.sizes[axis.size] + axis.by
    if isinstance(axis, Total):
        return sum(part_lengths(config, axis))
    return axis if isinstance(axis, int) else config.size(axis)


def part_lengths(config: ModelConfig, total: Total) -> tuple[int, ...]:
    """Return the lengths of the parts that lie side by side on an axis."""
    products = ([config.size(each) if isinstance(each, str) else each for each in term] for term in total.terms)
    return tuple(map(math.prod, products))
