"""What a layer costs: the KL divergence from the dense model's logits if a part of it alone is removed.

Importance cannot be compared between layers, but divergences can. For each layer, the least important third of the
neurons is left out, and then each group of heads; the rest of the model stays dense. The layers before are not run
again. If the pruned model will be compensated, the other inputs stand in for those that are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from amp_export.pruning.compensation.streams import record_calls
from amp_export.pruning.predictions import StreamPredictions
from amp_export.pruning.scores import Sensitivity, rank
from amp_export.pruning.stand_ins import MomentStream, StandIn, head_inputs, output_names, replacing, stand_in

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig, Site
    from amp_export.inputs.batches import Batch
    from amp_export.pruning.scores import Array, Scores

SENSITIVITY_TOKENS = 512
"""Tokens to measure on, at most: a run of half the model for the neurons of each layer, and one for each group."""

SENSITIVITY_SHARE = 64
"""One of so many of the tokens that compensation may take is measured on, so that few of them take little time."""

LEFT_OUT = 1 / 3
"""Share of the neurons of a layer that is left out."""

MOST_GROUPS = 2
"""Groups of a layer that are measured, those of the least importance: in two of five layers of SmolLM2-135M, the least
important one is not the cheapest."""


def measure_sensitivity(
    model: PreTrainedModel,
    config: ModelConfig,
    scores: Scores,
    batches: Sequence[Batch],
    *,
    fitting: Sequence[Batch] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Return what each layer of a decoder costs.

    Args:
        model: The dense model; it is left as it was.
        config: Its config.
        scores: Importance, which says which neurons are left out.
        batches: Text to measure on.
        fitting: Text that says what stands in for what is left out; without any, that is silenced.
        on_progress: Called with the number of layers done and the total.
    """
    import torch

    left_out = round(config.intermediate_size * LEFT_OUT)
    neurons: list[float] = []
    groups: list[tuple[float, ...]] = []
    with torch.inference_mode():
        runs = [
            StreamPredictions(model, config, *both)
            for both in zip(batches, record_calls(model, config, batches), strict=True)
        ]
        tokens, moments = sum(run.tokens for run in runs), MomentStream(model, config, fitting)
        hidden = [run.start_bsh for run in runs]
        for number, site in enumerate(config.sites):
            layer = model.get_submodule(site.path)
            costs = []
            for name, stands_in in _removals(config, scores, number, site, left_out, moments.advance(number)):
                with replacing(layer, {name: stands_in}):
                    changed = [run.run(number, each_bsh) for run, each_bsh in zip(runs, hidden, strict=True)]
                costs.append(_divergence(runs, changed, number + 1) / tokens)
            neurons.append(costs[0])
            groups.append(_all_groups(group_importance(config, scores.heads[number]), costs[1:]))
            hidden = [run.run(number, each_bsh) for run, each_bsh in zip(runs, hidden, strict=True)]
            if on_progress is not None:
                on_progress(number + 1, len(config.sites))
    return Sensitivity(left_out, tuple(neurons), tuple(groups))


def _divergence(runs: Sequence[StreamPredictions], hidden: Sequence[torch.Tensor], first: int) -> float:
    return sum(run.divergence(each_bsh, first) for run, each_bsh in zip(runs, hidden, strict=True))


def _removals(
    config: ModelConfig,
    scores: Scores,
    number: int,
    site: Site,
    left_out: int,
    moments: dict[str, torch.Tensor],
) -> Iterator[tuple[str, StandIn]]:
    """Yield projections, with what replaces their inputs: the neurons of the layer, and each group that is measured."""
    output, down = output_names(site)
    gone = least(scores.neurons[number], left_out)
    yield down, stand_in(gone, config.intermediate_size, moments.get(down))
    query_group = config.widths.query_group
    inputs = config.widths.query_heads * config.head_dim
    for group in measured_groups(group_importance(config, scores.heads[number])):
        heads = range(group * query_group, (group + 1) * query_group)
        yield output, stand_in(head_inputs(config, heads), inputs, moments.get(output))


def measured_groups(importance: Array) -> tuple[int, ...]:
    """Return the key/value groups of a layer that are measured, ascending."""
    return tuple(sorted(least(importance, min(MOST_GROUPS, len(importance)))))


def _all_groups(importance: Array, measured: Sequence[float]) -> tuple[float, ...]:
    """Return what each group costs: those that are not measured, in proportion to their squared importance."""
    known = dict(zip(measured_groups(importance), measured, strict=True))
    power = sum(float(importance[group]) ** 2 for group in known)
    rate = sum(measured) / power if power > 0 else 0.0
    return tuple(known.get(group, rate * float(each) ** 2) for group, each in enumerate(importance))


def group_importance(config: ModelConfig, heads: Array) -> Array:
    """Return the importance of each key/value group, [num_key_value_heads]."""
    groups: Array = heads.reshape(config.num_key_value_heads, -1).sum(axis=1)
    return groups


def least(importance: Array, count: int) -> tuple[int, ...]:
    """Return the indices of the least important units; among equals those with the higher index, which plans drop."""
    return rank(importance)[len(importance) - count :]
