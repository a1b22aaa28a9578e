"""What recovery did, for manifests and reports."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from amp_export.options import RecoveryMethod
from amp_export.recovery.adapters import Adapters


class Stop(enum.StrEnum):
    """Why training ended."""

    STEPS = "all steps were taken"
    TIME = "the time was up"
    NO_GAIN = "the loss on held-out text no longer fell"
    DIVERGED = "training diverged"


@dataclass(frozen=True)
class Measurement:
    """The loss on held-out text at a step.

    Attributes:
        step: Number of steps taken.
        loss: The method's loss, in nats per token: for distillation the mean KL divergence from the dense model (see
            `targets.divergence`), for LoRA the mean cross-entropy of the answers.
    """

    step: int
    loss: float


@dataclass(frozen=True)
class Recovery:
    """How a model was trained, and what came of it.

    Attributes:
        method: The method.
        text: Where the text is from.
        stop: Why training ended.
        steps: Number of steps taken.
        tokens: Number of tokens trained on, repeated ones counted as often.
        window_tokens: Tokens of a window; of an instruction, at most.
        windows_per_step: Windows or instructions of a step.
        learning_rate: The largest learning rate.
        seed: Seed of the order of the text, and of LoRA's draws.
        seconds: Seconds that training took, the dense model's predictions included.
        best_step: The step whose weights are kept; 0 if those of before are.
        loss_before: Loss on held-out text before training, in nats per token; see `Measurement`.
        loss_after: The same for the weights that are kept, as they are stored.
        measurements: The loss in the course of the training.
        adapters: Shape of the adapters that were merged; None for distillation.
    """

    method: RecoveryMethod
    text: str
    stop: Stop
    steps: int
    tokens: int
    window_tokens: int
    windows_per_step: int
    learning_rate: float
    seed: int
    seconds: float
    best_step: int
    loss_before: float
    loss_after: float
    measurements: tuple[Measurement, ...] = ()
    adapters: Adapters | None = None

    @property
    def improved(self) -> bool:
        """Whether other weights than those of before are kept."""
        return self.best_step > 0

    def __str__(self) -> str:
        spent = f"{self.steps} steps on {self.tokens:,} tokens of {self.text} in {self.seconds:.0f} s; {self.stop}"
        loss, where = _MEASURED[self.method]
        if not self.improved:
            return (
                f"Recovery ({self.method}): {spent}. No step brought the {loss} on {where} below the "
                f"{self.loss_before:.4f} nats of before, so that the weights stay as they were"
            )
        return (
            f"Recovery ({self.method}): {spent}. On {where}, the {loss} falls from {self.loss_before:.4f} to "
            f"{self.loss_after:.4f} nats, after step {self.best_step}, whose weights are kept"
        )


_MEASURED = {
    RecoveryMethod.DISTILL: ("KL divergence from the dense model", "held-out text"),
    RecoveryMethod.LORA: ("cross-entropy", "held-out answers"),
}
"""What the loss of each method is, and on what it is measured."""
