"""Try plans out: which of them changes least of what the dense model predicts?

Costs of layers are measured one by one and added up, and what several removals cost together is more than that. So the
plans that differently priced costs lead to are tried as a whole, with what they remove silenced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from amp_export.pruning.predictions import compare_predictions
from amp_export.pruning.sensitivity import silenced

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
    from amp_export.inputs.batches import Batch
    from amp_export.pruning.plan import Plan

TRIAL_TOKENS = 4096
"""Tokens to try plans on, at most: one forward pass for each plan."""

TRIAL_SHARE = 16
"""Plans are tried on one of so many of the tokens that compensation may take."""


def try_plans(
    model: PreTrainedModel,
    config: ModelConfig,
    plans: Sequence[Plan],
    batches: Sequence[Batch],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return the KL divergence of each plan from the dense model, in nats per token, before any compensation.

    Args:
        model: The dense model, a decoder without experts; it is left as it was.
        config: Its config.
        plans: The plans.
        batches: Text to try them on.
        on_progress: Called with the number of batches done and the total.
    """
    masks = [list(_masks(model, config, plan)) for plan in plans]
    return compare_predictions(model, [partial(silenced, each) for each in masks], batches, on_progress=on_progress)


def _masks(model: PreTrainedModel, config: ModelConfig, plan: Plan) -> Iterator[tuple[torch.nn.Module, torch.Tensor]]:
    """Yield the output and down projections, each with a mask of the inputs that a plan keeps, [inputs]."""
    for site, layer in zip(config.sites, plan.layers, strict=True):
        module, attention, mlp = model.get_submodule(site.path), site.stack.attention, site.stack.mlp
        if len(layer.query_heads) < site.widths.query_heads and attention is not None:
            heads_h = _mask(layer.query_heads, site.widths.query_heads)
            yield module.get_submodule(attention.output.name), heads_h.repeat_interleave(config.head_dim)
        if mlp is not None:
            yield module.get_submodule(mlp.output.name), _mask(layer.neurons, site.widths.neurons)


def _mask(kept: Sequence[int], count: int) -> torch.Tensor:
    import torch

    mask_i = torch.zeros(count)
    mask_i[list(kept)] = 1
    return mask_i
