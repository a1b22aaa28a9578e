"""Spreads the heads and neurons that a model keeps over its layers, by importance among all of them.

The importance of one layer cannot be compared with another's directly: activations grow with depth. So each layer's is
divided by its median. Divided by the sum, a layer in which one neuron fires a thousand times as much as the rest seems
to have no other: on SmolLM2-135M at 20 % one layer was left with 80 of 1536 neurons, and the perplexity was 72.4 where
the median gives 64.2. Steps of a layer are taken in the order of their importance, so that taking the best steps of all
layers is the best choice there is. No layer is left empty: each keeps its first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths, ModelConfig
from amp_export.errors import PlanError
from amp_export.options import HeadPolicy

if TYPE_CHECKING:
    import numpy as np

    from amp_export.pruning.scoring import Array

    Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


def allocate_heads(
    config: ModelConfig, heads: Sequence[Array], policy: HeadPolicy, widths: LayerWidths
) -> list[LayerWidths]:
    """Return how many heads each layer keeps, if all together keep as many as `widths` in every layer.

    Args:
        config: The dense model's config.
        heads: For each layer the importance of its heads, [num_attention_heads].
        policy: Whether whole groups go, or heads within each.
        widths: What every layer would keep; its neurons are left as they are.

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
    """Refuse to share heads out among layers that must keep the same.

    Raises:
        PlanError: The layers of this family must keep the same heads.
    """
    if policy is not HeadPolicy.NONE and any(site.stack.heads_tied for site in config.sites):
        raise PlanError(
            "--heads-per-layer global is not possible here: the position biases of the first layer serve all others, "
            "so that all must keep the same heads."
        )


def allocate_neurons(neurons: Sequence[Array], kept: int, *, multiple: int) -> list[int]:
    """Return how many neurons each layer keeps, if all together keep as many as `kept` in every layer.

    Args:
        neurons: For each layer the importance of its neurons, [intermediate_size] or [experts, intermediate_size].
        kept: What every layer would keep.
        multiple: Each layer keeps a multiple of this, or all that it has.
    """
    import numpy as np

    width = neurons[0].shape[-1]
    starts = np.arange(0, width, multiple)
    sizes = np.diff([*starts, width])
    # all experts of a layer keep as many, so that what counts is what they lose together
    worths = [_sorted(relative_importance(layer)).reshape(-1, width).sum(axis=0) for layer in neurons]
    steps = [np.add.reduceat(layer, starts) / sizes for layer in worths]
    counts = allocate_steps(steps, (len(starts) if kept == width else kept // multiple) * len(neurons))
    return [min(count * multiple, width) for count in counts]


def allocate_steps(steps: Sequence[Floats], budget: int) -> list[int]:
    """Return how many steps of each layer to take, for the largest sum under a budget, the first of each being given.

    Args:
        steps: For each layer what each step is worth, falling.
        budget: How many steps there are to take; at least one a layer is taken.
    """
    import numpy as np

    layers = np.repeat(np.arange(len(steps)), [len(layer) - 1 for layer in steps])
    worths = np.concatenate([layer[1:] for layer in steps])
    best = (-worths).argsort(kind="stable")[: max(budget - len(steps), 0)]
    counts = np.bincount(layers[best], minlength=len(steps)) + 1
    return [int(count) for count in counts]


def _within(worths_kg: Floats) -> Floats:
    """Return what the first, second, ... head of all groups are worth together."""
    import numpy as np

    worths: Floats = np.sort(worths_kg, axis=1)[:, ::-1].sum(axis=0)
    return worths


def relative_importance(importance: Array) -> Floats:
    """Return importance in medians of the layer; in means where most of it is zero."""
    import numpy as np

    exact = importance.astype(np.float64)
    middle = float(np.median(exact)) or float(exact.mean()) or 1.0
    return exact / middle


def _sorted(values: Floats) -> Floats:
    import numpy as np

    return np.sort(values, axis=-1)[..., ::-1]
