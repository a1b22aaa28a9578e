"""Defaults of a plan, which depend on the model and on what can be measured of it."""

from __future__ import annotations

from dataclasses import replace

from amp_export.architectures import ModelConfig
from amp_export.errors import PlanError
from amp_export.options import Allocation, HeadPolicy, PerLayer
from amp_export.pruning.criteria import choose_criterion
from amp_export.pruning.divergence import largest_ratio, obstacle
from amp_export.pruning.settings import PlanSettings, settle_heads
from amp_export.verb_options import PlanChoices


def choose_plan_settings(
    config: ModelConfig, ratio: float, choices: PlanChoices, *, pad: bool = False, has_text: bool = True
) -> PlanSettings:
    """Return the settings that are asked for, with defaults for the others.

    By default, the budget is allocated by divergence, and layers may differ: docs/results/quality.md has the evidence
    for it. They keep one width if a stock class has to express them, or if so much is to be removed that divergences
    measured for a little say nothing about it. With FLAP's allocation, they always differ.

    Args:
        config: The dense model's config.
        ratio: Share of all parameters to remove.
        choices: What is asked for.
        pad: Whether layers of different widths are zero-padded to the widest, which leaves little gained.
        has_text: Whether there is text to measure divergences on, or they were measured before.

    Raises:
        PlanError: Choices contradict each other.
    """
    if choices.one_width and PerLayer.GLOBAL in (choices.heads_per_layer, choices.neurons_per_layer):
        raise PlanError(
            "--one-width gives all layers the same width, but --heads-per-layer global or --neurons-per-layer global "
            "lets them differ.\nLeave one of them out."
        )
    if choices.one_width and choices.allocation is Allocation.FLAP:
        raise PlanError(
            "--one-width gives all layers the same width, but --allocation flap gives each its own.\n"
            "Leave one of them out."
        )
    if choices.allocation is Allocation.KL and not has_text:
        raise PlanError(
            "--allocation kl measures divergences on text, but the checkpoint holds no tokenizer.\n"
            "Give scores that hold divergences, or use --allocation balanced."
        )
    measurable = has_text and obstacle(config) is None and choices.heads is not HeadPolicy.WITHIN
    allocation = choices.allocation or (Allocation.KL if measurable else Allocation.BALANCED)
    asked = PlanSettings(
        ratio,
        criterion=choose_criterion(config, choices),
        allocation=allocation,
        heads=choices.heads,
        snap=choices.snap,
        target=choices.target,
    )
    settings = settle_heads(asked, config)
    alike = allocation is not Allocation.FLAP and (
        choices.one_width or pad or allocation is not Allocation.KL or ratio > largest_ratio(config, settings)
    )
    neurons = choices.neurons_per_layer or (PerLayer.UNIFORM if alike else PerLayer.GLOBAL)
    heads = choices.heads_per_layer or (PerLayer.UNIFORM if alike else neurons)
    return replace(settings, heads_per_layer=heads, neurons_per_layer=neurons)
