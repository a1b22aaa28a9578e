"""FLAP's allocation: all units of a model are compared by their standardised fluctuation, and the lowest are removed.

In each layer, the fluctuation of the channels of the output projection is standardised: minus its mean over channels,
divided by their standard deviation. So is that of the channels of the down projection, which are the neurons. A head is
worth the mean over its channels. Units of all layers and of both kinds are sorted together and removed from the lowest
on, until their parameters reach the ratio. Source: arXiv 2312.11983, section 3, where this is AL-AM. Its reference code
squares the fluctuation of the output projection first, which is not followed here.

What FLAP does not have is ours: a key/value group is worth the mean of its heads, because FLAP had no models whose
heads share keys; neurons go in steps, each worth the mean of its neurons, sorted; every layer keeps a group and a step;
and the ratio is of all parameters, and is reached, where FLAP's code stops at the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig
from amp_export.errors import PlanError
from amp_export.options import CriterionName, HeadPolicy, PerLayer
from amp_export.pruning.allocation import step_means, step_sizes
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.settings import PlanSettings, neuron_multiple

if TYPE_CHECKING:
    import numpy as np

    from amp_export.pruning.scores import Array, Scores

    Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
    Integers = np.ndarray[Any, np.dtype[np.int64]]


def check_settings(config: ModelConfig, settings: PlanSettings) -> None:
    """Raise an error if FLAP's allocation does not suit a model or the other settings.

    Raises:
        PlanError: It does not.
    """
    if config.architecture.mlp.has_experts or config.architecture.kind is Kind.ENCODER_DECODER:
        what = "has experts" if config.architecture.mlp.has_experts else "is an encoder-decoder"
        raise PlanError(
            f"--allocation flap is for decoders and encoders without experts, but this model {what}.\n"
            "Use --allocation balanced."
        )
    if settings.criterion is not CriterionName.FLAP:
        raise PlanError(
            f"--allocation flap compares fluctuations, but the criterion is {settings.criterion}.\n"
            "Add --criterion flap, or use --allocation balanced."
        )
    if settings.heads is HeadPolicy.WITHIN:
        raise PlanError(
            "--allocation flap removes whole key/value groups, but --heads within removes heads of each.\n"
            "Use --heads auto, or --allocation balanced."
        )
    if settings.heads is HeadPolicy.GROUPS and config.num_key_value_heads == 1:
        raise PlanError(
            "--heads groups removes whole key/value groups, but this model has a single one.\n"
            "Use --heads auto, with which --allocation flap removes neurons alone."
        )
    if PerLayer.UNIFORM in (settings.heads_per_layer, settings.neurons_per_layer):
        raise PlanError(
            "--allocation flap gives each layer widths of its own, but --heads-per-layer uniform or "
            "--neurons-per-layer uniform keeps them alike.\nLeave it out, or use --allocation balanced."
        )


def check_scores(scores: Scores) -> None:
    """Raise an error if scores lack what FLAP's allocation needs.

    Raises:
        PlanError: They do.
    """
    if scores.channel_spread is None:
        raise PlanError(
            "--allocation flap needs the standard deviation over each layer's channels, which these scores by the "
            f"criterion {scores.criterion} do not hold.\n"
            "Leave --scores out and give --criterion flap, to score the model again."
        )


@dataclass(frozen=True)
class RemovableUnits:
    """What may be removed of one layer, and what it costs.

    Attributes:
        groups: Number of key/value groups.
        neurons: Sizes of the steps of neurons; the first is kept.
        group: Parameters of one group.
        neuron: Parameters of one neuron.
        total: Parameters of all that may be removed, of all layers.
    """

    groups: int
    neurons: tuple[int, ...]
    group: float
    neuron: float
    total: float

    @classmethod
    def of(cls, config: ModelConfig, settings: PlanSettings) -> RemovableUnits:
        """Return what may be removed of each layer."""
        costs = ModelCosts.of(config)
        groups = config.num_key_value_heads - 1 if settings.prunes_groups else 0
        steps = tuple(step_sizes(config.intermediate_size, neuron_multiple(settings, config)))
        return cls(
            groups=groups,
            neurons=steps,
            group=costs.layer_group,
            neuron=costs.layer_neuron,
            total=groups * costs.group + sum(steps[1:]) * costs.neuron,
        )

    @property
    def units(self) -> list[float]:
        """Parameters of each unit of one layer that may be removed."""
        return [self.group] * self.groups + [size * self.neuron for size in self.neurons[1:]]


def keep_highest(config: ModelConfig, scores: Scores, settings: PlanSettings) -> list[LayerWidths]:
    """Return the widths of each layer after the units of the lowest values are removed, until the ratio is reached.

    Args:
        config: The dense model's config.
        scores: Importance by the criterion `flap`.
        settings: The ratio, the multiple of neurons, and whether groups may be removed. `check_settings` has checked
            them, and that the ratio can be reached.

    Raises:
        PlanError: The scores lack what this needs.
    """
    import numpy as np

    check_scores(scores)
    dense, costs = config.widths, ModelCosts.of(config)
    queues = list(_queues(config, scores, RemovableUnits.of(config, settings)))
    values, parameters, depths = (
        np.concatenate([getattr(queue, name) for queue in queues]) for name in ("values", "parameters", "depths")
    )
    # of equal values, what is ranked lower within a layer goes first
    order = np.lexsort((-depths, values))
    # parameters are whole, and the largest ratio times their number is not quite
    last = np.searchsorted(np.cumsum(parameters[order]), settings.ratio * costs.total - 0.5)
    removed = np.zeros(len(values), dtype=bool)
    removed[order[: last + 1]] = True
    ends = np.cumsum([len(queue.values) for queue in queues])[:-1]
    gone = [int(queue.sizes[part].sum()) for queue, part in zip(queues, np.split(removed, ends), strict=True)]
    return [
        config.fit(
            LayerWidths(
                query_heads=(dense.key_value_heads - groups) * dense.query_group,
                key_value_heads=dense.key_value_heads - groups,
                neurons=dense.neurons - neurons,
            ),
            site,
        )
        for site, groups, neurons in zip(config.sites, gone[::2], gone[1::2], strict=True)
    ]


@dataclass(frozen=True)
class _Queue:
    """Units of one kind that may be removed of one layer, the most important first.

    Attributes:
        values: Their standardised fluctuations, which do not increase, [units].
        sizes: Groups or neurons in each, [units].
        parameters: Parameters of each, [units].
    """

    values: Floats
    sizes: Integers
    parameters: Floats

    @property
    def depths(self) -> Integers:
        """Ranks of the units, [units]."""
        import numpy as np

        return np.arange(len(self.values))


def _queues(config: ModelConfig, scores: Scores, removable: RemovableUnits) -> Iterator[_Queue]:
    """Yield the groups of a layer, then its neurons, layer after layer."""
    import numpy as np

    assert scores.channel_spread is not None
    for heads, neurons, spread in zip(scores.heads, scores.neurons, scores.channel_spread, strict=True):
        # the first of each is kept; a layer without attention has none
        standardised = standardised_groups(config, heads, spread) if len(heads) else heads
        groups = np.sort(standardised)[::-1][1 : removable.groups + 1]
        sizes = np.ones(len(groups), dtype=np.int64)
        yield _Queue(groups, sizes, sizes * removable.group)
        steps = step_means(np.sort(standardised_neurons(neurons))[::-1], removable.neurons)[1:]
        sizes = np.asarray(removable.neurons[1:], dtype=np.int64)
        yield _Queue(steps, sizes, sizes * removable.neuron)


def standardised_groups(config: ModelConfig, heads: Array, channel_spread: float) -> Floats:
    """Return the mean over each key/value group's channels of their standardised fluctuation, [num_key_value_heads].

    Args:
        config: The dense model's config.
        heads: Sum over each head's channels of their fluctuation, [num_attention_heads].
        channel_spread: Standard deviation of the fluctuation over the channels of all heads.
    """
    import numpy as np

    means = heads.astype(np.float64).reshape(config.num_key_value_heads, -1).mean(axis=1) / config.head_dim
    return _scaled(means - means.mean(), channel_spread)


def standardised_neurons(neurons: Array) -> Floats:
    """Return the standardised fluctuation of each neuron, [intermediate_size]."""
    import numpy as np

    exact = neurons.astype(np.float64)
    return _scaled(exact - exact.mean(), float(exact.std(ddof=min(1, len(exact) - 1))))


def _scaled(differences: Floats, spread: float) -> Floats:
    """Return differences from a mean in standard deviations; if nothing deviates, none differs."""
    return differences / spread if spread > 0 else differences * 0.0
