"""Make a plan for a ratio: choose among candidates, and keep the heads and neurons with the highest scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amp_export.architectures import LayerWidths, ModelConfig, parameter_count
from amp_export.options import Allocation, HeadPolicy, PerLayer
from amp_export.pruning.allocation import allocate_heads, allocate_neurons
from amp_export.pruning.candidates import Candidate, list_candidates
from amp_export.pruning.costs import ModelCosts
from amp_export.pruning.divergence import cheapest_widths, layer_costs, list_pricings, widths_cost
from amp_export.pruning.flap_allocation import RemovableUnits, keep_highest
from amp_export.pruning.plan import LayerPlan, Plan, check_fit, removed_ratio
from amp_export.pruning.scores import rank
from amp_export.pruning.settings import RATIO_TOLERANCE, PlanSettings, neuron_multiple, settle_heads

if TYPE_CHECKING:
    import numpy as np

    from amp_export.pruning.scores import Array, Scores

IMPORTANCE_LOSS_TOLERANCE = 1.1
"""`auto` prefers candidates that meet the budget if their importance loss is at most this many times the smallest."""


MOST_TRIALS = 4
"""Candidates that divergences choose from, at most."""

BALANCE_TOLERANCE = 0.1
"""Candidates that meet the budget are preferred if their imbalance exceeds the smallest by at most this much."""


def needs_scores(settings: PlanSettings) -> bool:
    """Return whether the counts depend on the scores."""
    return settings.allocation in (Allocation.KL, Allocation.FLAP) or (
        settings.heads is HeadPolicy.AUTO and settings.allocation is Allocation.BALANCED
    )


def decide(config: ModelConfig, settings: PlanSettings, candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate that is chosen whatever the scores are, or None if they choose."""
    preferred = list_preferred(candidates, settings.heads)
    if needs_scores(settings):
        return preferred[0] if len(preferred) == 1 else None
    return choose_candidate(config, settings, candidates)


def choose_candidate(
    config: ModelConfig, settings: PlanSettings, candidates: Sequence[Candidate], scores: Scores | None = None
) -> Candidate:
    """Return the best candidate.

    With a requested kind of heads, it is the one whose shares of heads and neurons differ least. With `auto`, it is the
    one that loses the least importance, which needs the scores. A slightly worse candidate is preferred if it meets the
    budget.
    """
    legal = list_preferred(candidates, settings.heads)
    if needs_scores(settings):
        assert scores is not None
        losses = {candidate: importance_loss(config, scores, candidate) for candidate in legal}
        least = min(losses.values())
        close = [candidate for candidate in legal if losses[candidate] <= IMPORTANCE_LOSS_TOLERANCE * least]
        return min(close, key=lambda candidate: (candidate.misses(settings.ratio), losses[candidate]))
    imbalances = {candidate: _imbalance(config, candidate) for candidate in legal}
    close = [candidate for candidate in legal if imbalances[candidate] <= BALANCE_TOLERANCE + min(imbalances.values())]
    return min(close, key=lambda candidate: (candidate.misses(settings.ratio), imbalances[candidate]))


def cheapest_candidates(
    config: ModelConfig, settings: PlanSettings, candidates: Sequence[Candidate], scores: Scores
) -> list[Candidate]:
    """Return the candidates whose divergence can be told, the cheapest first."""
    costs = layer_costs(config, scores)
    return sorted(
        (each for each in list_preferred(candidates, settings.heads) if each.heads is not HeadPolicy.WITHIN),
        key=lambda candidate: widths_cost(costs, config, config.everywhere(candidate.widths)),
    )


def list_preferred(candidates: Sequence[Candidate], heads: HeadPolicy) -> Sequence[Candidate]:
    """Return the candidates that a stock class can express, if any; a requested kind of heads has priority."""
    asked = [candidate for candidate in candidates if heads is HeadPolicy.AUTO or candidate.heads is heads]
    pool = asked or candidates
    return [candidate for candidate in pool if candidate.stock] or pool


def list_plans(
    raw_config: Mapping[str, Any], config: ModelConfig, scores: Scores, settings: PlanSettings
) -> list[Plan]:
    """Return plans that meet the ratio and keep the most important heads and neurons, the likeliest first.

    There are several if divergences decide; a trial can choose between them.

    Raises:
        RatioError: No legal plan meets the ratio.
        PlanError: The settings do not fit the model.
    """
    scores, settings = share_importance(config, scores), settle_heads(settings, config)
    found: dict[tuple[LayerWidths, ...], Mapping[str, str]] = {}
    for widths, reasons in _ways(config, settings, list_candidates(raw_config, config, settings), scores):
        found.setdefault(tuple(widths), reasons)
    return [_plan(config, scores, settings, widths, reasons) for widths, reasons in found.items()]


def _plan(
    config: ModelConfig,
    scores: Scores,
    settings: PlanSettings,
    widths: Sequence[LayerWidths],
    reasons: Mapping[str, str],
) -> Plan:
    achieved = removed_ratio(config, widths)
    layers = tuple(
        keep_most_important(config, heads, neurons, layer)
        for heads, neurons, layer in zip(scores.heads, scores.neurons, widths, strict=True)
    )
    check_fit(layers, config, origin="the new plan")
    return Plan(
        layers=layers,
        asked=settings.ratio,
        achieved=achieved,
        settings={
            "criterion": scores.criterion.value,
            "allocation": settings.allocation.value,
            "heads": settings.heads.value,
            "snap": neuron_multiple(settings, config),
            "heads_per_layer": settings.heads_per_layer.value,
            "neurons_per_layer": settings.neurons_per_layer.value,
        },
        reasons=reasons,
        notes=_notes(config, settings, achieved),
    )


def _is_solved(settings: PlanSettings) -> bool:
    """Return whether the widths of layers are found by the integer program."""
    return settings.allocation is Allocation.KL and settings.neurons_per_layer is PerLayer.GLOBAL


def _ways(
    config: ModelConfig, settings: PlanSettings, candidates: Sequence[Candidate], scores: Scores
) -> Iterator[tuple[Sequence[LayerWidths], Mapping[str, str]]]:
    """Yield the widths that each layer may keep, and the reasons for heads and for neurons, the likeliest first."""
    if settings.allocation is Allocation.FLAP:
        widths = keep_highest(config, scores, settings)
        yield widths, _compared_reasons(config, settings, widths)
    elif _is_solved(settings):
        for pricing in list_pricings(scores.criterion, settings):
            widths = cheapest_widths(config, layer_costs(config, scores, pricing), settings)
            yield widths, _solved_reasons(config, settings, widths)
    elif settings.allocation is Allocation.KL:
        for candidate in cheapest_candidates(config, settings, candidates, scores)[:MOST_TRIALS]:
            yield config.everywhere(candidate.widths), _reasons(config, settings, candidates, candidate)
    else:
        chosen = choose_candidate(config, settings, candidates, scores)
        yield _spread(config, settings, chosen, scores), _reasons(config, settings, candidates, chosen)


def _spread(config: ModelConfig, settings: PlanSettings, chosen: Candidate, scores: Scores) -> list[LayerWidths]:
    """Return the widths that each layer keeps: the same in all, or allocated across layers by importance."""
    layers = config.everywhere(chosen.widths)
    if settings.heads_per_layer is PerLayer.GLOBAL:
        attending = [number for number, site in enumerate(config.sites) if site.stack.attention is not None]
        heads = [scores.heads[number] for number in attending]
        spread = allocate_heads(config, heads, chosen.heads, chosen.widths)
        for number, widths in zip(attending, spread, strict=True):
            layers[number] = config.fit(widths, config.sites[number])
    if settings.neurons_per_layer is PerLayer.GLOBAL:
        with_mlp = [number for number, site in enumerate(config.sites) if site.stack.mlp is not None]
        neurons = [scores.neurons[number] for number in with_mlp]
        counts = allocate_neurons(neurons, chosen.widths.neurons, multiple=neuron_multiple(settings, config))
        for number, count in zip(with_mlp, counts, strict=True):
            layers[number] = replace(layers[number], neurons=count)
    return layers


def share_importance(config: ModelConfig, scores: Scores) -> Scores:
    """Return scores in which layers that must keep the same heads have their mean importance, equally weighted."""
    import numpy as np

    heads = list(scores.heads)
    for members in config.tied_layers:
        shares = [heads[number] / (heads[number].sum() or 1.0) for number in members]
        mean = np.stack(shares).mean(axis=0)
        for number in members:
            heads[number] = mean
    return replace(scores, heads=tuple(heads))


def keep_most_important(config: ModelConfig, heads: Array, neurons: Array, widths: LayerWidths) -> LayerPlan:
    """Return the indices that one layer keeps: those with the highest scores; ties go to the lower index.

    Args:
        config: The dense model's config.
        heads: Importance of each query head, [num_attention_heads].
        neurons: Importance of each neuron, [intermediate_size], or [experts, intermediate_size].
        widths: Numbers of heads and neurons to keep.
    """
    group = config.widths.query_group
    heads_kg = heads.reshape(config.num_key_value_heads, -1)
    groups = _top(heads_kg.sum(axis=1), widths.key_value_heads)
    query_heads = [
        group * key_value_head + head
        for key_value_head in groups
        for head in _top(heads_kg[key_value_head], widths.query_group)
    ]
    if neurons.ndim == 1:
        return LayerPlan(tuple(query_heads), groups, neurons=_top(neurons, widths.neurons))
    return LayerPlan(tuple(query_heads), groups, experts=tuple(_top(expert, widths.neurons) for expert in neurons))


def importance_loss(config: ModelConfig, scores: Scores, candidate: Candidate) -> float:
    """Return the importance that a candidate loses: the negative log of the kept shares, averaged over layers.

    Heads and neurons are measured in different units, so only their shares can be combined. Because the shares are
    multiplied, keeping much of one kind does not excuse losing nearly all of the other. This measure is our choice.
    """
    import numpy as np

    losses = []
    for site, heads, neurons in zip(config.sites, scores.heads, scores.neurons, strict=True):
        kept = keep_most_important(config, heads, neurons, config.fit(candidate.widths, site))
        share = _kept_share([heads], [kept.query_heads])
        share *= _kept_share(np.atleast_2d(neurons), kept.experts or [kept.neurons])
        losses.append(-math.log(share))
    return sum(losses) / len(losses)


def _kept_share(importances: Iterable[Array], kept: Iterable[tuple[int, ...]]) -> float:
    """Return the share of the importance of all rows that the kept entries have."""
    rows = list(zip(importances, kept, strict=True))
    whole = sum(float(row.sum()) for row, _ in rows)
    return max(sum(float(row[list(indices)].sum()) for row, indices in rows) / whole, 1e-9) if whole > 0 else 1.0


def _top(importance: np.ndarray[Any, np.dtype[Any]], count: int) -> tuple[int, ...]:
    return tuple(sorted(rank(importance)[:count]))


def _imbalance(config: ModelConfig, candidate: Candidate) -> float:
    """Return the difference between the removed shares of heads and of neurons."""
    dense, kept = config.widths, candidate.widths
    return abs(kept.query_heads / dense.query_heads - kept.neurons / dense.neurons)


def _reasons(
    config: ModelConfig, settings: PlanSettings, candidates: Sequence[Candidate], chosen: Candidate
) -> dict[str, str]:
    dense, kept = config.widths, chosen.widths
    heads = {
        HeadPolicy.NONE: "every head is kept",
        HeadPolicy.GROUPS: f"whole KV groups are pruned: {kept.key_value_heads} of {dense.key_value_heads} are kept",
        HeadPolicy.WITHIN: f"each key/value head keeps {kept.query_group} of its {dense.query_group} query heads",
    }[chosen.heads]
    if settings.allocation is Allocation.PAPER:
        rule = "the paper's rule: the same share of heads and of neurons in every layer"
    elif settings.allocation is Allocation.KL:
        rule = "of the ways to meet the ratio, this one is measured to cost the least divergence"
    elif settings.heads is HeadPolicy.AUTO:
        rule = f"of {len(candidates)} ways to meet the ratio, this one loses the least importance"
    else:
        rule = f"--heads {settings.heads.value}, with the share of heads closest to that of neurons"
    spread = " on average; layers share them out by their importance"
    over_layers = {PerLayer.UNIFORM: "", PerLayer.GLOBAL: spread}
    return {
        "heads": f"{heads}{over_layers[settings.heads_per_layer]}; {rule}",
        "neurons": f"{kept.neurons} of {dense.neurons}{over_layers[settings.neurons_per_layer]}, a multiple of "
        f"{neuron_multiple(settings, config)}: the rest of the budget after the heads",
    }


def _compared_reasons(config: ModelConfig, settings: PlanSettings, widths: Sequence[LayerWidths]) -> dict[str, str]:
    groups, gone = _groups_gone(config, widths)
    least, most = (choose(kept.neurons for kept in widths) for choose in (min, max))
    rule = "units of all layers were sorted by their standardised fluctuation, and the lowest removed"
    heads = "every head is kept" if not gone else f"{gone} of {groups} KV groups are pruned"
    return {
        "heads": f"{heads}, as --heads none asks for" if settings.heads is HeadPolicy.NONE else f"{heads}: {rule}",
        "neurons": f"{least} to {most} of {config.widths.neurons} in a layer, a multiple of "
        f"{neuron_multiple(settings, config)}: {rule}",
    }


def _groups_gone(config: ModelConfig, widths: Sequence[LayerWidths]) -> tuple[int, int]:
    """Return the number of key/value groups in all layers, and how many of them are removed."""
    groups = sum(site.widths.key_value_heads for site in config.sites)
    return groups, groups - sum(kept.key_value_heads for kept in widths)


def _solved_reasons(config: ModelConfig, settings: PlanSettings, widths: Sequence[LayerWidths]) -> dict[str, str]:
    dense = config.widths
    groups, gone = _groups_gone(config, widths)
    if gone:
        heads = f"{gone} of {groups} KV groups are pruned: they cost less divergence than the neurons that they replace"
    elif settings.heads is HeadPolicy.NONE:
        heads = "every head is kept, as --heads none asks for"
    else:
        heads = "every head is kept: a KV group costs more divergence than the neurons that it would replace"
    least, most = (choose(kept.neurons for kept in widths) for choose in (min, max))
    return {
        "heads": heads,
        "neurons": f"{least} to {most} of {dense.neurons} in a layer, a multiple of "
        f"{neuron_multiple(settings, config)}: the cheapest widths that meet the ratio, by the divergence that was "
        "measured for each layer",
    }


def _notes(config: ModelConfig, settings: PlanSettings, achieved: float) -> tuple[str, ...]:
    if abs(achieved - settings.ratio) <= RATIO_TOLERANCE:
        return ()
    if settings.allocation is Allocation.PAPER:
        return (
            f"The paper's rule removes {achieved:.2%} instead of {settings.ratio:.2%}: it rounds heads, and makes "
            "up for one head with one neuron. --allocation balanced meets the budget.",
        )
    if settings.allocation is Allocation.FLAP:
        largest = max(RemovableUnits.of(config, settings).units) / parameter_count(config)
        return (
            f"{achieved:.2%} is removed, not {settings.ratio:.2%}: whole units are removed until the ratio is reached, "
            f"and the largest, a KV group or a step of neurons of one layer, has {largest:.2%} of the parameters.",
        )
    step = neuron_multiple(settings, config)
    advice = " A smaller --snap comes closer." if step > 1 else ""
    neurons = f"a multiple of {step} neurons" if step > 1 else "a whole number of neurons"
    same = ", the same in each" if settings.neurons_per_layer is PerLayer.UNIFORM else ""
    return (
        f"{achieved:.2%} is removed, not {settings.ratio:.2%}: every layer keeps {neurons}{same}, "
        f"and one step is {ModelCosts.of(config).step(step):.2%} of the model.{advice}",
    )
