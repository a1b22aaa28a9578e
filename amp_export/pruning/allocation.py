"""Allocation of kept heads and neurons across layers, by their importance in the whole model.

Importance cannot be compared between layers directly, because activations grow with depth. Each layer's importance is
therefore divided by its median. Dividing by the sum fails if one neuron of a layer is a thousand times as active as the
others, which then seem unimportant: on SmolLM2-135M at 20 %, one layer kept 80 of 1536 neurons, and perplexity was 72.4
instead of 64.2 with the median. Steps of a layer are sorted by importance, so taking the best steps of all layers is
optimal. Every layer keeps at least its first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths, ModelConfig
from amp_export.errors import PlanError
from amp_export.options import HeadPolicy

if TYPE_CHECKING:
    import numpy as np

    from amp_export.pruning.scores import Array

    Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


def allocate_heads(
    config: ModelConfig, heads: Sequence[Array], policy: HeadPolicy, widths: LayerWidths
) -> list[LayerWidths]:
    """Return the widths of each layer, if heads are allocated across layers and `widths` are kept on average.

    Args:
        config: The dense model's config.
        heads: Importance of the heads, [num_attention_heads], by layer.
        policy: Whether to prune whole groups, or heads within each group.
        widths: Average widths of a layer; the neurons are not changed.

    Raises:
        PlanError: The layers of this family must keep the same heads.
    """
    dense = config.widths
    check_allocatable(config, policy)
    if policy is HeadPolicy.GROUPS:
        steps = [_sorted(relative_importance(layer).reshape(dense.key_value_heads, -1).sum(axis=1)) for layer in heads]
        counts = allocate_steps(steps, widths.key_value_heads * len(heads))
        return [LayerWidths(count * dense.query_group, count, widths.neurons) for count in counts]
    if policy is HeadPolicy.WITHIN:
        steps = [_within(relative_importance(layer).reshape(dense.key_value_heads, -1)) for layer in heads]
        counts = allocate_steps(steps, widths.query_group * len(heads))
        return [LayerWidths(count * dense.key_value_heads, dense.key_value_heads, widths.neurons) for count in counts]
    return [widths] * len(heads)


def check_allocatable(config: ModelConfig, policy: HeadPolicy) -> None:
    """Raise an error if heads cannot be allocated across layers.

    Raises:
        PlanError: The layers of this family must keep the same heads.
    """
    if policy is not HeadPolicy.NONE and config.tied_layers:
        raise PlanError(
            "--heads-per-layer global is not possible here: the position biases of the first layer serve all others, "
            "so that all must keep the same heads."
        )


def allocate_neurons(neurons: Sequence[Array], kept: int, *, multiple: int) -> list[int]:
    """Return the number of neurons that each layer keeps, if all keep `kept` on average.

    Args:
        neurons: Importance of the neurons, [intermediate_size] or [experts, intermediate_size], by layer.
        kept: Average number of neurons of a layer.
        multiple: Each layer keeps a multiple of this, or all its neurons.
    """
    width = neurons[0].shape[-1]
    sizes = step_sizes(width, multiple)
    # all experts of a layer keep the same number, so their importance is summed by rank
    worths = [_sorted(relative_importance(layer)).reshape(-1, width).sum(axis=0) for layer in neurons]
    counts = allocate_steps([step_means(layer, sizes) for layer in worths], kept * len(neurons), sizes=sizes)
    return [min(count * multiple, width) for count in counts]


def step_sizes(width: int, multiple: int) -> list[int]:
    """Return the sizes of the steps that so many units are kept in; the last may be smaller than the others."""
    return [min(multiple, width - start) for start in range(0, width, multiple)]


def step_means(descending: Floats, sizes: Sequence[int]) -> Floats:
    """Return the mean of each step of sorted values, [steps]; none is larger than the one before."""
    import numpy as np

    means: Floats = np.add.reduceat(descending, np.cumsum([0, *sizes[:-1]])) / np.asarray(sizes)
    # means of equal values may differ by rounding
    return np.minimum.accumulate(means)


def allocate_steps(steps: Sequence[Floats], budget: int, *, sizes: Sequence[int] | None = None) -> list[int]:
    """Return the number of steps to take from each layer, at least one, for the largest importance within a budget.

    Args:
        steps: Importance of the steps per unit, descending, by layer.
        budget: Total number of units.
        sizes: Units of each step of a layer; by default one. Only the last may be smaller than the others.
    """
    import numpy as np

    sizes = sizes if sizes is not None else [1] * len(steps[0])
    layers = np.repeat(np.arange(len(steps)), len(sizes))
    counts = [1] * len(steps)
    left = budget - sizes[0] * len(steps)
    for best in (-np.concatenate(list(steps))).argsort(kind="stable"):
        layer, step = int(layers[best]), int(best) % len(sizes)
        # a step that no longer fits ends its layer; the smaller last step of another layer may still fit
        if step == counts[layer] < len(sizes) and sizes[step] <= left:
            counts[layer] += 1
            left -= sizes[step]
        if left <= 0:
            break
    return counts


def _within(worths_kg: Floats) -> Floats:
    """Return the importance of the best, second-best, ... head of each group, summed over groups."""
    import numpy as np

    worths: Floats = np.sort(worths_kg, axis=1)[:, ::-1].sum(axis=0)
    return worths


def relative_importance(importance: Array) -> Floats:
    """Return importance divided by the layer's median, or by its mean if the median is zero."""
    import numpy as np

    exact = importance.astype(np.float64)
    middle = float(np.median(exact)) or float(exact.mean()) or 1.0
    return exact / middle


def _sorted(values: Floats) -> Floats:
    import numpy as np

    return np.sort(values, axis=-1)[..., ::-1]
