"""Allocation of the budget across layers by the KL divergence that each removal costs.

What a layer's removals cost is its measured divergence at one point, spread along the curve of the squared importance
of what is removed, least important first: with Wanda's criterion, that is the power of the output that is lost. Costs
of layers are added, and the cheapest widths within the budget are an integer program of one choice per layer for
neurons and one for key/value groups, which HiGHS solves to within 0.1 % of the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, LayerWidths, ModelConfig
from amp_export.errors import PlanError, RatioError
from amp_export.options import HeadPolicy, PerLayer
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.sensitivity import group_importance
from amp_export.verb_options import PlanSettings

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


def check_measurable(config: ModelConfig, settings: PlanSettings) -> None:
    """Raise an error if the budget cannot be allocated by divergence.

    Raises:
        PlanError: The model is no decoder, or has experts; or the settings need divergences that are not measured.
    """
    if config.architecture.kind is not Kind.DECODER or config.architecture.mlp.has_experts:
        what = "has experts" if config.architecture.mlp.has_experts else "does not predict the next token"
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


@dataclass(frozen=True)
class LayerCosts:
    """Divergence in nats that removals of one layer cost, by how much is removed.

    Attributes:
        neurons: For each number of neurons removed, [intermediate_size + 1].
        groups: For each number of key/value groups removed, [num_key_value_heads].
    """

    neurons: Floats
    groups: Floats


def layer_costs(config: ModelConfig, scores: Scores) -> list[LayerCosts]:
    """Return the cost curves of all layers, from importance and measured divergences."""
    sensitivity = scores.sensitivity
    assert sensitivity is not None
    return [
        LayerCosts(
            neurons=_curve(scores.neurons[number], at=sensitivity.silenced, divergence=sensitivity.neurons[number]),
            groups=_curve(group_importance(config, scores.heads[number]), at=1, divergence=sensitivity.groups[number])[
                :-1
            ],
        )
        for number in range(len(config.sites))
    ]


def _curve(importance: Array, *, at: int, divergence: float) -> Floats:
    """Return the cost of removing the least important units, [units + 1], which is known at one number of them."""
    import numpy as np

    powers = np.sort(importance.astype(np.float64)) ** 2
    curve = np.concatenate(([0.0], np.cumsum(powers)))
    return curve * (divergence / curve[at]) if curve[at] > 0 else curve


def widths_cost(costs: Sequence[LayerCosts], config: ModelConfig, widths: Sequence[LayerWidths]) -> float:
    """Return the divergence that widths cost, in nats: an estimate that adds up what layers cost alone."""
    dense = config.widths
    return sum(
        float(layer.neurons[dense.neurons - kept.neurons] + layer.groups[dense.key_value_heads - kept.key_value_heads])
        for layer, kept in zip(costs, widths, strict=True)
    )


def cheapest_widths(
    config: ModelConfig, costs: Sequence[LayerCosts], settings: PlanSettings, *, multiple: int
) -> list[LayerWidths]:
    """Return the widths of each layer that cost the least and remove at least the ratio of all parameters.

    Args:
        config: The dense model's config.
        costs: What removals cost, by layer.
        settings: The ratio, whether groups may be removed, and whether from each layer the same number.
        multiple: Each layer keeps a multiple of this many neurons, or all.

    Raises:
        RatioError: The budget cannot be met.
    """
    dense = config.widths
    prunes_groups = settings.heads in (HeadPolicy.GROUPS, HeadPolicy.AUTO)
    most = min(round(dense.key_value_heads * MOST_REMOVED), dense.key_value_heads - 1) if prunes_groups else 0
    if settings.heads_per_layer is PerLayer.GLOBAL:
        return _solve(config, costs, range(most + 1), ratio=settings.ratio, multiple=multiple)
    solved, refused = [], None
    for count in range(most + 1):
        try:
            solved.append(_solve(config, costs, [count], ratio=settings.ratio, multiple=multiple))
        except RatioError as error:
            refused = error
    if not solved:
        assert refused is not None
        raise refused
    return min(solved, key=lambda widths: widths_cost(costs, config, widths))


def _solve(
    config: ModelConfig, costs: Sequence[LayerCosts], groups: Sequence[int], *, ratio: float, multiple: int
) -> list[LayerWidths]:
    """Return the cheapest widths.

    Args:
        config: The dense model's config.
        costs: What removals cost, by layer.
        groups: Numbers of groups that may be removed from a layer.
        ratio: Share of all parameters to remove.
        multiple: Each layer keeps a multiple of this many neurons, or all.

    Raises:
        RatioError: The budget cannot be met.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag, csr_array, vstack

    dense, parameters = config.widths, ModelCosts.of(config)
    neurons = _removable(dense.neurons, multiple)
    layers, groups = len(costs), list(groups)
    neuron = parameters.neuron / layers
    group = (parameters.key_value_head + dense.query_group * parameters.query_head) / layers
    cost = np.concatenate([np.concatenate((layer.neurons[neurons], layer.groups[groups])) for layer in costs])
    removed = np.tile([*(count * neuron for count in neurons), *(count * group for count in groups)], layers)
    budget = ratio * parameters.total
    if (possible := removed.reshape(layers, -1)[:, [len(neurons) - 1, -1]].sum()) < budget:
        raise RatioError(
            f"Ratio {ratio:g} would leave too little of each layer: at most {possible / parameters.total:.4f} can be "
            "allocated by divergence, which leaves a third of each layer.\nAsk for less, or use --allocation balanced.",
            nearest=possible / parameters.total,
        )
    once = [np.ones((1, len(neurons))), np.ones((1, len(groups)))] * layers
    rows = vstack((block_diag(once), csr_array(removed[None]))).tocsr()
    low = np.concatenate((np.ones(2 * layers), [budget]))
    high = np.concatenate((np.ones(2 * layers), [np.inf]))
    # costs of millionths of a nat would be below HiGHS' tolerances
    found = milp(
        cost / max(cost.max(), 1e-12) * 1e3,
        integrality=np.ones_like(cost),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, low, high),
        options={"mip_rel_gap": GAP, "time_limit": SECONDS},
    )
    assert found.x is not None, found.message
    chosen = found.x.reshape(layers, -1)
    return [
        LayerWidths(
            query_heads=kept * dense.query_group,
            key_value_heads=kept,
            neurons=dense.neurons - neurons[int(row[: len(neurons)].argmax())],
        )
        for row in chosen
        for kept in [dense.key_value_heads - groups[int(row[len(neurons) :].argmax())]]
    ]


def _removable(dense: int, multiple: int) -> list[int]:
    """Return the numbers of neurons that may be removed from a layer, ascending."""
    least_kept = max(dense - round(dense * MOST_REMOVED), 1)
    return [0, *(dense - kept for kept in range((dense - 1) // multiple * multiple, least_kept - 1, -multiple))]
