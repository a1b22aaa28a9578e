"""Try plans out: which of them changes least of what the dense model predicts?

Costs of layers are measured one by one and added up, and what several removals cost together is more than that. So the
plans that differently priced costs lead to are tried as a whole, before anything is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from amp_export.pruning.compensation.streams import record_calls
from amp_export.pruning.predictions import StreamPredictions
from amp_export.pruning.stand_ins import MomentStream, StandIn, head_inputs, output_names, replacing, stand_in

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig, Site
    from amp_export.inputs.batches import Batch
    from amp_export.pruning.plan import LayerPlan, Plan

TRIAL_TOKENS = 1024
"""Tokens to try plans on, at most: one forward pass for each plan."""

TRIAL_SHARE = 32
"""Plans are tried on one of so many of the tokens that compensation may take."""


def try_plans(
    model: PreTrainedModel,
    config: ModelConfig,
    plans: Sequence[Plan],
    batches: Sequence[Batch],
    *,
    fitting: Sequence[Batch] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return the KL divergence of each plan from the dense model, in nats per token.

    Args:
        model: The dense model, a decoder without experts; it is left as it was.
        config: Its config.
        plans: The plans.
        batches: Text to try them on.
        fitting: Text that says what stands in for what a plan removes; without any, that is silenced.
        on_progress: Called with the number of layers done and the total.
    """
    import torch

    with torch.inference_mode():
        runs = [
            StreamPredictions(model, config, *both)
            for both in zip(batches, record_calls(model, config, batches), strict=True)
        ]
        moments = MomentStream(model, config, fitting)
        streams = [[run.start_bsh for run in runs] for _ in plans]
        for number, site in enumerate(config.sites):
            layer, found = model.get_submodule(site.path), moments.advance(number)
            for hidden, plan in zip(streams, plans, strict=True):
                with replacing(layer, _stand_ins(config, site, plan.layers[number], found)):
                    hidden[:] = [run.run(number, each_bsh) for run, each_bsh in zip(runs, hidden, strict=True)]
            if on_progress is not None:
                on_progress(number + 1, len(config.sites))
        tokens = sum(run.tokens for run in runs)
        totals = [
            sum(run.divergence(each_bsh, len(config.sites)) for run, each_bsh in zip(runs, hidden, strict=True))
            for hidden in streams
        ]
    return [total / tokens for total in totals]


def _stand_ins(
    config: ModelConfig, site: Site, plan: LayerPlan, moments: Mapping[str, torch.Tensor]
) -> dict[str, StandIn]:
    """Return what replaces the inputs that a plan removes, by projection."""
    output, down = output_names(site)
    heads = sorted({*range(site.widths.query_heads)} - {*plan.query_heads})
    neurons = sorted({*range(site.widths.neurons)} - {*plan.neurons})
    inputs = site.widths.query_heads * config.head_dim
    return {
        output: stand_in(head_inputs(config, heads), inputs, moments.get(output)),
        down: stand_in(neurons, site.widths.neurons, moments.get(down)),
    }
