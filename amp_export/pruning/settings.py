"""Settings of a plan: what is asked for, with the defaults that suit the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amp_export.architectures import ModelConfig
from amp_export.errors import PlanError
from amp_export.hardware.targets import TARGETS
from amp_export.options import Allocation, CriterionName, HeadPolicy, PerLayer, TargetName

RATIO_TOLERANCE = 0.001
"""Largest difference between removed and requested share: 0.1 percentage points."""

EXPERT_MULTIPLE = 8
"""Experts keep a multiple of 8 neurons: `torch.nn.functional.grouped_mm` requires strides of 16 bytes, which are 8
values of 16 bits."""


@dataclass(frozen=True)
class PlanSettings:
    """The rules of a plan for one model; `choose_plan_settings` makes them.

    Attributes:
        ratio: Share of all parameters to remove.
        criterion: What importance is.
        allocation: How the budget is divided between attention heads and neurons.
        heads: Which attention heads may be pruned.
        snap: Keep a multiple of this many neurons; None for the default of `neuron_multiple`.
        target: The device whose kernels the widths should suit.
        heads_per_layer: Whether all layers keep the same number of heads.
        neurons_per_layer: Whether all layers keep the same number of neurons.
    """

    ratio: float
    criterion: CriterionName = CriterionName.AMP
    allocation: Allocation = Allocation.BALANCED
    heads: HeadPolicy = HeadPolicy.AUTO
    snap: int | None = None
    target: TargetName = TargetName.CPU
    heads_per_layer: PerLayer = PerLayer.UNIFORM
    neurons_per_layer: PerLayer = PerLayer.UNIFORM

    @property
    def prunes_groups(self) -> bool:
        """Whether whole key/value groups may be removed."""
        return self.heads in (HeadPolicy.GROUPS, HeadPolicy.AUTO)


def settle_heads(settings: PlanSettings, config: ModelConfig) -> PlanSettings:
    """Return the settings, without heads where the family's cannot be removed.

    Raises:
        PlanError: They ask for heads that cannot be removed.
    """
    reason = config.architecture.heads_stay
    if reason is None or settings.heads is HeadPolicy.NONE:
        return settings
    if settings.heads is not HeadPolicy.AUTO:
        raise PlanError(
            f"--heads {settings.heads} removes heads, but those of {config.architecture.model_type} stay: {reason}.\n"
            "Use --heads auto, with which neurons alone are removed."
        )
    return replace(settings, heads=HeadPolicy.NONE)


def neuron_multiple(settings: PlanSettings, config: ModelConfig) -> int:
    """Return the number that kept neurons are a multiple of.

    Raises:
        PlanError: `snap` is less than 1, or is not possible with experts.
    """
    experts = config.architecture.mlp.has_experts
    if settings.snap is None:
        paper = settings.allocation is Allocation.PAPER
        return (EXPERT_MULTIPLE if experts else 1) if paper else TARGETS[settings.target].neuron_multiple
    if settings.snap < 1:
        raise PlanError(f"--snap must be at least 1, not {settings.snap}.")
    if experts and settings.snap % EXPERT_MULTIPLE:
        raise PlanError(
            f"--snap must be a multiple of {EXPERT_MULTIPLE} for a model with experts, not {settings.snap}: the "
            "grouped matrix multiplication that transformers runs them with takes rows of 16 bytes."
        )
    return settings.snap
