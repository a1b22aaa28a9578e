"""What each method hands back when training has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.recovery.course import Course

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Trained:
    """A training that ended, of either method.

    Attributes:
        course: Its course.
        tokens: Number of tokens trained on.
        weights: Return the weights of the best step, in float32, by their names in the model.
        loss: Return the loss on held-out text of a model in float32.
        dense: The dense model, if it was loaded for the training.
    """

    course: Course
    tokens: int
    weights: Callable[[], Mapping[str, torch.Tensor]]
    loss: Callable[[PreTrainedModel], float]
    dense: PreTrainedModel | None = None
