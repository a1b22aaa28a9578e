"""What plan is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.architectures import ModelConfig
from amp_export.errors import PlanError
from amp_export.hardware.targets import TARGETS
from amp_export.options import Allocation, HeadPolicy, PerLayer, TargetName

RATIO_TOLERANCE = 0.001
"""How far the removed share may be from the one that was asked for: 0.1 percentage points."""

EXPERT_MULTIPLE = 8
"""Neurons of experts come in eights: `torch.nn.functional.grouped_mm` wants strides of 16 bytes, which are 8 numbers of
16 bits."""


@dataclass(frozen=True)
class PlanSettings:
    """What the user asks of a plan.

    Attributes:
        ratio: Share of all parameters to remove.
        allocation: The rule for the counts.
        heads: Which heads may go.
        snap: Kept neurons are a multiple of this; None takes the target's, or 1 for the paper's rule.
        target: The kind of device.
        heads_per_layer: Whether all layers keep as many heads.
        neurons_per_layer: Whether all layers keep as many neurons.
    """

    ratio: float
    allocation: Allocation = Allocation.BALANCED
    heads: HeadPolicy = HeadPolicy.AUTO
    snap: int | None = None
    target: TargetName = TargetName.CPU
    heads_per_layer: PerLayer = PerLayer.UNIFORM
    neurons_per_layer: PerLayer = PerLayer.UNIFORM

    def neuron_multiple(self, config: ModelConfig) -> int:
        """What kept neurons are rounded to.

        Raises:
            PlanError: The model cannot have such a number of neurons.
        """
        experts = config.architecture.mlp.has_experts
        if self.snap is None:
            paper = self.allocation is Allocation.PAPER
            return (EXPERT_MULTIPLE if experts else 1) if paper else TARGETS[self.target].neuron_multiple
        if self.snap < 1:
            raise PlanError(f"--snap must be at least 1, not {self.snap}.")
        if experts and self.snap % EXPERT_MULTIPLE:
            raise PlanError(
                f"--snap must be a multiple of {EXPERT_MULTIPLE} for a model with experts, not {self.snap}: the "
                "grouped matrix multiplication that transformers runs them with takes rows of 16 bytes."
            )
        return self.snap
