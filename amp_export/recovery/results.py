"""What recovery did, for manifests and reports."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from amp_export.options import RecoveryMethod


class Stop(enum.StrEnum):
    """Why training ended."""

    STEPS = "all steps were taken"
    TIME = "the time was up"
    NO_GAIN = "the divergence no longer fell"
    DIVERGED = "training diverged"


@dataclass(frozen=True)
class Measurement:
    """The divergence on held-out text at a step.

    Attributes:
        step: Number of steps taken.
        kl: Mean KL divergence from the dense model, in nats per token; see `targets.divergence`.
    """

    step: int
    kl: float


@dataclass(frozen=True)
class Recovery:
    """How a model was trained, and what came of it.

    Attributes:
        method: The method.
        text: Where the text is from.
        stop: Why training ended.
        steps: Number of steps taken.
        tokens: Number of tokens trained on, repeated ones counted as often.
        window_tokens: Tokens of a window.
        windows_per_step: Windows of a step.
        learning_rate: The largest learning rate.
        seed: Seed of the order of the windows.
        seconds: Seconds that training took, the dense model's predictions included.
        best_step: The step whose weights are kept; 0 if those of before are.
        kl_before: Mean KL divergence from the dense model on held-out text before training, in nats per token.
        kl_after: The same for the weights that are kept, as they are stored.
        measurements: The divergence in the course of the training.
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
    kl_before: float
    kl_after: float
    measurements: tuple[Measurement, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether other weights than those of before are kept."""
        return self.best_step > 0

    def __str__(self) -> str:
        spent = f"{self.steps} steps on {self.tokens:,} tokens of {self.text} in {self.seconds:.0f} s; {self.stop}"
        if not self.improved:
            return (
                f"Recovery ({self.method}): {spent}. No step brought the KL divergence from the dense model on "
                f"held-out text below the {self.kl_before:.4f} nats of before, so that the weights stay as they were"
            )
        return (
            f"Recovery ({self.method}): {spent}. On held-out text, the KL divergence from the dense model falls from "
            f"{self.kl_before:.4f} to {self.kl_after:.4f} nats, after step {self.best_step}, whose weights are kept"
        )
