"""Allocation of the budget across layers by the KL divergence that each removal costs.

What a layer's removals cost is its measured divergence at one point, spread along the curve of the squared importance
of what is removed, least important first: with Wanda's criterion, that is the power of the output that is lost. Costs
of layers are added, and the cheapest widths within the budget are an integer program of one choice per layer for
neurons and one for key/value groups, which HiGHS solves to within 0.1 % of the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig
from amp_export.errors import PlanError, RatioError
from amp_export.options import CriterionName, HeadPolicy, PerLayer
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.criteria import find_criterion
from amp_export.pruning.sensitivity import group_importance
from amp_export.pruning.settings import PlanSettings, neuron_multiple

if TYPE_CHECKING:
    import numpy as np

    from amp_export.pruning.scores import Array, Scores

    Floats = np.ndarray[Any, np.dtype[np.float64]]

MOST_REMOVED = 2 / 3
"""Largest share of a layer's neurons or groups that is removed: farther from the measured point, curves say little."""

GAP = 1e-3
"""Largest relative distance to the optimum."""

SECONDS = 60.0
"""Time after which the best solution so far is taken."""


def obstacle(config: ModelConfig) -> str | None:
    """Return what keeps a model's budget from being allocated by divergence, or None."""
    if config.architecture.mlp.has_experts:
        return "has experts"
    if config.architecture.kind is not Kind.DECODER:
        return "does not predict the next token"
    return None if config.layers_follow_one_another else "has layers that share more than hidden states"


def check_measurable(config: ModelConfig, settings: PlanSettings) -> None:
    """Raise an error if the budget cannot be allocated by divergence.

    Raises:
        PlanError: The model is no decoder, or has experts; or the settings need divergences that are not measured.
        RatioError: Layers that may differ cannot meet the budget.
    """
    if what := obstacle(config):
        raise PlanError(
            f"--allocation kl compares what a decoder predicts without a part of a layer, but this model {what}.\n"
            "Use --allocation balanced."
        )
    if settings.heads is HeadPolicy.WITHIN:
        raise PlanError(
            "--allocation kl measures whole key/value groups, but --heads within removes heads of each.\n"
            "Use --heads groups, or --allocation balanced."
        )
    if settings.heads_per_layer is PerLayer.GLOBAL and settings.neurons_per_layer is PerLayer.UNIFORM:
        raise PlanError(
            "--allocation kl allocates neurons before heads, so that --heads-per-layer global needs "
            "--neurons-per-layer global.\nAdd it, or leave --heads-per-layer out."
        )
    if settings.neurons_per_layer is PerLayer.GLOBAL and settings.ratio > (possible := largest_ratio(config, settings)):
        raise RatioError(
            f"Ratio {settings.ratio:g} would leave too little of each layer: at most "
            f"{math.floor(possible * 1e4) / 1e4} can be allocated by divergence, which leaves a third of each layer.\n"
            "Ask for less, or use --one-width.",
            nearest=possible,
        )


def largest_ratio(config: ModelConfig, settings: PlanSettings) -> float:
    """Return the largest share of all parameters that can be removed if layers differ."""
    dense, parameters = config.widths, ModelCosts.of(config)
    neurons = _removable(dense.neurons, neuron_multiple(settings, config))[-1]
    removed = neurons * parameters.neuron + _most_groups(config, settings) * parameters.group
    return removed / parameters.total


def _most_groups(config: ModelConfig, settings: PlanSettings) -> int:
    """Return the largest number of key/value groups that may be removed from a layer."""
    groups = config.num_key_value_heads
    return min(round(groups * MOST_REMOVED), groups - 1) if settings.prunes_groups else 0


@dataclass(frozen=True)
class LayerCosts:
    """Divergence in nats that removals of one layer cost, by how much is removed.

    Attributes:
        neurons: For each number of neurons removed, [intermediate_size + 1].
        groups: For each number of key/value groups removed, [num_key_value_heads].
    """

    neurons: Floats
    groups: Floats


@dataclass(frozen=True)
class Pricing:
    """How costs follow from what was measured.

    Attributes:
        importance_share: How much of a layer's cost follows from its importance, and how much from its divergence; a
            half is their geometric mean. Importance can tell layers apart if it is measured in the gradients' metric.
        group_factor: What costs of key/value groups are multiplied by: several removals cost more than their sum.
    """

    importance_share: float = 0.0
    group_factor: float = 1.0


def list_pricings(criterion: CriterionName, settings: PlanSettings) -> list[Pricing]:
    """Return the pricings whose plans are worth a trial, those by divergences alone first.

    Args:
        criterion: The criterion of the scores.
        settings: The settings of the plan.
    """
    shares = (0.0, 0.5) if find_criterion(criterion).heads.trace is not None else (0.0,)
    factors = (4.0, 8.0) if settings.prunes_groups else (1.0,)
    return [Pricing(share, factor) for share in shares for factor in factors]


def layer_costs(config: ModelConfig, scores: Scores, pricing: Pricing | None = None) -> list[LayerCosts]:
    """Return the cost curves of all layers, from importance and measured divergences.

    Args:
        config: The dense model's config.
        scores: Importance, with divergences.
        pricing: How costs follow from them; by default from divergences alone.
    """
    import numpy as np

    sensitivity, pricing = scores.sensitivity, pricing or Pricing()
    assert sensitivity is not None
    neurons = [_curve(layer) for layer in scores.neurons]
    groups = [_curve(group_importance(config, layer))[:-1] for layer in scores.heads]
    measured, told = np.asarray(sensitivity.neurons), np.asarray([curve[sensitivity.silenced] for curve in neurons])
    if pricing.importance_share and told.sum() > 0:
        told *= measured.sum() / told.sum()
        measured = measured ** (1 - pricing.importance_share) * told**pricing.importance_share
    return [
        LayerCosts(
            neurons=_scaled(neurons[number], at=sensitivity.silenced, to=float(measured[number])),
            groups=_scaled(groups[number], at=1, to=pricing.group_factor * sensitivity.groups[number]),
        )
        for number in range(len(config.sites))
    ]


def _curve(importance: Array) -> Floats:
    """Return the summed squared importance of the least important units, by their number, [units + 1]."""
    import numpy as np

    return np.concatenate(([0.0], np.cumsum(np.sort(importance.astype(np.float64)) ** 2)))


def _scaled(curve: Floats, *, at: int, to: float) -> Floats:
    """Return a curve that has a certain value at one number of units; with a single group, nothing can be removed."""
    return curve * (to / curve[at]) if at < len(curve) and curve[at] > 0 else curve


def widths_cost(costs: Sequence[LayerCosts], config: ModelConfig, widths: Sequence[LayerWidths]) -> float:
    """Return the divergence that widths cost, in nats: an estimate that adds up what layers cost alone."""
    return sum(
        float(
            layer.neurons[site.widths.neurons - kept.neurons]
            + layer.groups[site.widths.key_value_heads - kept.key_value_heads]
        )
        for site, layer, kept in zip(config.sites, costs, widths, strict=True)
    )


def cheapest_widths(config: ModelConfig, costs: Sequence[LayerCosts], settings: PlanSettings) -> list[LayerWidths]:
    """Return the widths of each layer that cost the least and remove at least the ratio of all parameters.

    Args:
        config: The dense model's config.
        costs: What removals cost, by layer.
        settings: The ratio, the multiple of neurons, whether groups may be removed, and whether from each layer the
            same number. `check_measurable` has checked that the ratio can be met.
    """
    counts = range(_most_groups(config, settings) + 1)
    if settings.heads_per_layer is PerLayer.GLOBAL:
        solved = [_solve(config, costs, counts, settings)]
    else:
        solved = [_solve(config, costs, [count], settings) for count in counts]
    return min(filter(None, solved), key=lambda widths: widths_cost(costs, config, widths))


def _solve(
    config: ModelConfig, costs: Sequence[LayerCosts], groups: Sequence[int], settings: PlanSettings
) -> list[LayerWidths] | None:
    """Return the cheapest widths, or None if the budget cannot be met.

    Args:
        config: The dense model's config.
        costs: What removals cost, by layer.
        groups: Numbers of groups that may be removed from a layer.
        settings: The ratio, and the multiple of neurons.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag, csr_array, vstack

    dense, parameters = config.widths, ModelCosts.of(config)
    neurons = _removable(dense.neurons, neuron_multiple(settings, config))
    layers, groups = len(costs), list(groups)
    attends = np.array([site.stack.attention is not None for site in config.sites])
    cost = np.concatenate([np.concatenate((layer.neurons[neurons], layer.groups[groups])) for layer in costs])
    neurons_gone = np.array(neurons) * parameters.layer_neuron
    groups_gone = np.array(groups) * parameters.layer_group
    removed = np.concatenate([np.concatenate((neurons_gone, groups_gone * each)) for each in attends])
    # a layer without attention keeps what it has, which the first choice stands for
    first_group = np.arange(len(groups)) == 0
    allowed = [np.concatenate((np.ones(len(neurons)), first_group | each)) for each in attends]
    # parameters are whole, and the largest ratio times their number is not quite
    budget = settings.ratio * parameters.total - 0.5
    if removed.reshape(layers, -1)[:, [len(neurons) - 1, -1]].sum() < budget:
        return None
    once = [np.ones((1, len(neurons))), np.ones((1, len(groups)))] * layers
    rows = vstack((block_diag(once), csr_array(removed[None]))).tocsr()
    low = np.concatenate((np.ones(2 * layers), [budget]))
    high = np.concatenate((np.ones(2 * layers), [np.inf]))
    # costs of millionths of a nat would be below HiGHS' tolerances
    found = milp(
        cost / max(cost.max(), 1e-12) * 1e3,
        integrality=np.ones_like(cost),
        bounds=Bounds(0, np.concatenate(allowed)),
        constraints=LinearConstraint(rows, low, high),
        options={"mip_rel_gap": GAP, "time_limit": SECONDS},
    )
    assert found.x is not None, found.message
    chosen = found.x.reshape(layers, -1)
    solved = [
        LayerWidths(
            query_heads=kept * dense.query_group,
            key_value_heads=kept,
            neurons=dense.neurons - neurons[int(row[: len(neurons)].argmax())],
        )
        for row in chosen
        for kept in [dense.key_value_heads - groups[int(row[len(neurons) :].argmax())]]
    ]
    return [config.fit(layer, site) for layer, site in zip(solved, config.sites, strict=True)]


def _removable(dense: int, multiple: int) -> list[int]:
    """Return the numbers of neurons that may be removed from a layer, ascending."""
    least_kept = max(dense - round(dense * MOST_REMOVED), 1)
    return [0, *(dense - kept for kept in range((dense - 1) // multiple * multiple, least_kept - 1, -multiple))]
