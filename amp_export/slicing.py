"""Slices weights by a plan: on disk one tensor at a time, in memory one layer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from amp_export.architectures import DecoderConfig, Unit, tensor_shapes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from amp_export.checkpoints import Array, Checkpoint
    from amp_export.plans import LayerPlan, Plan


def kept_features(layer: LayerPlan, unit: Unit, head_dim: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which rows or columns of a weight stay: `head_dim` for each kept head, one for each kept neuron."""
    import numpy as np

    kept = np.asarray(layer.kept(unit), dtype=np.int64)
    if unit is Unit.NEURONS:
        return kept
    return (kept[:, None] * head_dim + np.arange(head_dim)).reshape(-1)


def prune_tensors(checkpoint: Checkpoint, plan: Plan) -> Iterator[tuple[str, Array]]:
    """Yields every tensor of the pruned model in the checkpoint's dtype, reading one at a time.

    Raises:
        ModelError: A tensor holds a NaN or an infinity.
    """
    config = checkpoint.config
    for name in tensor_shapes(config):
        array = checkpoint.read(name)
        for axis, features in _slices(name, config, plan):
            array = array.take(features, axis=axis)
        yield name, array


def _slices(name: str, config: DecoderConfig, plan: Plan) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.int64]]]]:
    prefix = f"{config.architecture.layers}."
    if not name.startswith(prefix):
        return
    number, _, within_layer = name.removeprefix(prefix).partition(".")
    for sliced, axis, unit in config.architecture.sliced_tensors():
        if sliced == within_layer:
            yield axis, kept_features(plan.layers[int(number)], unit, config.head_dim)


def prune_module(model: PreTrainedModel, config: DecoderConfig, plan: Plan) -> PreTrainedModel:
    """Resizes the layers of a model in memory and gives it back; its config still says the dense widths.

    The model is changed, because a second copy of it may not fit: each dense weight is freed once it is sliced. What
    comes back computes what the pruned checkpoint computes, in the dense model's class.
    """
    import torch

    layers = model.get_submodule(config.architecture.layers)
    for module, layer in zip(layers.children(), plan.layers, strict=True):
        for name, axis, unit in config.architecture.sliced_tensors():
            path, _, parameter = name.rpartition(".")
            linear = module.get_submodule(path)
            tensor: torch.Tensor | None = getattr(linear, parameter)
            if tensor is None:
                continue
            features = torch.from_numpy(kept_features(layer, unit, config.head_dim))
            setattr(linear, parameter, torch.nn.Parameter(tensor.detach().index_select(axis, features)))
            setattr(linear, "out_features" if axis == 0 else "in_features", len(features))
        _set_query_group(module, layer.widths.query_group)
    return model


def _set_query_group(layer: torch.nn.Module, query_group: int) -> None:
    """Tells the attention how many query heads share a key/value head; its other sizes come from the weights."""
    attentions = [module for module in layer.modules() if hasattr(module, "num_key_value_groups")]
    assert len(attentions) == 1
    setattr(attentions[0], "num_key_value_groups", query_group)  # noqa: B010 - mypy takes attributes for tensors
