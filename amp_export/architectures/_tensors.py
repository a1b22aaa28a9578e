"""The tensors of a model whose layers have given widths: their names, their shapes, and which entries a plan keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amp_export.architectures._config import LayerWidths, ModelConfig
from amp_export.architectures._facts import Axis, Block, Count, Features, Offset, Tensor


def tensor_shapes(config: ModelConfig, widths: Sequence[LayerWidths] | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model whose layers have these widths.

    Args:
        config: The model's config.
        widths: One entry a layer; by default all are as the config says.

    Returns:
        Shapes by the names that transformers gives the tensors. Of tied embeddings only the input side is named.
    """
    architecture = config.architecture
    widths = widths if widths is not None else [config.widths] * config.num_hidden_layers
    shapes = _shapes(config, architecture.tensors[:1], config.widths, prefix="")
    for layer, layer_widths in enumerate(widths):
        tensors = tuple(architecture.layer_tensors())
        shapes |= _shapes(config, tensors, layer_widths, prefix=f"{architecture.layers}.{layer}.")
    return shapes | _shapes(config, architecture.tensors[1:], config.widths, prefix="")


def parameter_count(config: ModelConfig, widths: Sequence[LayerWidths] | None = None) -> int:
    """How many parameters such a model has, embeddings counted and tied ones counted once."""
    return sum(math.prod(shape) for shape in tensor_shapes(config, widths).values())


def layer_axes(config: ModelConfig) -> Iterator[tuple[str, int, Features]]:
    """Yields, for each tensor of a layer that pruning slices, its name below the layer, the axis and what it holds."""
    for tensor in config.architecture.layer_tensors():
        if config.meets(tensor.when):
            for number, axis in enumerate(tensor.axes):
                if isinstance(axis, Features):
                    yield tensor.name, number, axis


def resized_modules(config: ModelConfig, widths: Sequence[LayerWidths]) -> dict[str, dict[str, Any]]:
    """What distinguishes the modules of a pruned model from those that its config alone would build.

    Returns:
        By module path: `parameters` with the shape of each parameter that is sliced, and `attributes`.
    """
    modules: dict[str, dict[str, Any]] = {}
    for layer, layer_widths in enumerate(widths):
        prefix = f"{config.architecture.layers}.{layer}"
        shapes = _shapes(config, tuple(config.architecture.layer_tensors()), layer_widths, prefix="")
        for name in dict.fromkeys(name for name, _, _ in layer_axes(config)):
            path, _, parameter = name.rpartition(".")
            entry = modules.setdefault(f"{prefix}.{path}", {})
            entry.setdefault("parameters", {})[parameter] = list(shapes[name])
        for block in (config.architecture.attention, config.architecture.mlp):
            if block.attributes:
                entry = modules.setdefault(".".join(filter(None, (prefix, block.module))), {})
                entry.setdefault("attributes", {}).update(attribute_values(config, block, layer_widths))
    return modules


def attribute_values(config: ModelConfig, block: Block, widths: LayerWidths) -> Mapping[str, int]:
    """What the attributes of a block's module must be in a layer of these widths."""
    values = {
        Count.QUERY_HEADS: widths.query_heads,
        Count.KEY_VALUE_HEADS: widths.key_value_heads,
        Count.QUERY_GROUP: widths.query_group,
        Count.QUERY_FEATURES: widths.query_heads * config.head_dim,
        Count.NEURONS: widths.neurons,
    }
    return {name: values[count] for name, count in block.attributes.items()}


def _shapes(
    config: ModelConfig, tensors: Sequence[Tensor], widths: LayerWidths, *, prefix: str
) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}{tensor.name}": tuple(_size(config, axis, widths) for axis in tensor.axes)
        for tensor in tensors
        if config.meets(tensor.when)
    }


def _size(config: ModelConfig, axis: Axis, widths: LayerWidths) -> int:
    if isinstance(axis, Features):
        return config.features(axis, widths)
    if isinstance(axis, Offset):
        return config.sizes[axis.size] + axis.by
    return axis if isinstance(axis, int) else config.sizes[axis]
