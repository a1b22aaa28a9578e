"""Predictions of the next token that are compared with the dense model's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.inputs.batches import Batch

POSITION_STEP = 2
"""Predictions are compared at every second token: logits are a large share of the time of small models."""


@dataclass(frozen=True)
class Predictions:
    """Which predictions of a batch are compared.

    Attributes:
        places_t: Their indices among those that the model computes, [tokens].
        options: Arguments that make the model compute no others.
    """

    places_t: torch.Tensor
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PreTrainedModel, shape: tuple[int, int], places_t: torch.Tensor) -> Predictions:
        """Choose the real tokens at every second position, or all if the model computes all logits anyway.

        Args:
            model: A decoder.
            shape: Rows and length of the batch.
            places_t: Indices of its real tokens among all, [tokens].
        """
        import torch

        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            return cls(places_t)
        rows, length = shape
        kept_k = torch.arange(0, length, POSITION_STEP, device=places_t.device)
        real_bs = torch.zeros(rows * length, dtype=torch.bool, device=places_t.device)
        real_bs[places_t] = True
        places_t = real_bs.reshape(rows, length)[:, kept_k].flatten().nonzero().squeeze(1)
        return cls(places_t, {"logits_to_keep": kept_k})

    def log_probabilities(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Return what a model predicts for a batch, [tokens, vocabulary]."""
        logits_bkv = model(**batch.inputs, **self.options).logits
        logits_tv = logits_bkv.reshape(-1, logits_bkv.shape[-1])[self.places_t]
        log_tv: torch.Tensor = logits_tv.float().log_softmax(dim=1)
        return log_tv


def divergence(found_tv: torch.Tensor, dense_tv: torch.Tensor) -> float:
    """Return the KL divergence of predictions from the dense model's, in nats, summed over tokens.

    Args:
        found_tv: Log-probabilities, [tokens, vocabulary].
        dense_tv: The dense model's.
    """
    import torch

    summed = torch.nn.functional.kl_div(found_tv, dense_tv, reduction="sum", log_target=True)
    return max(float(summed), 0.0)


def compare_predictions(
    model: PreTrainedModel,
    alternatives: Sequence[Callable[[], AbstractContextManager[object]]],
    batches: Sequence[Batch],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return the KL divergence of the model in each of several contexts from the model as it is, in nats per token.

    Args:
        model: A decoder; it is left as it was.
        alternatives: Functions that return contexts in which the model computes something else.
        batches: Text to compare on.
        on_progress: Called with the number of batches done and the total.
    """
    import torch

    totals, tokens = [0.0] * len(alternatives), 0
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            shape = batch.inputs["input_ids"].shape
            predictions = Predictions.of(model, shape, batch.places(shape))
            dense_tv = predictions.log_probabilities(model, batch)
            tokens += len(dense_tv)
            for place, enter in enumerate(alternatives):
                with enter():
                    totals[place] += divergence(predictions.log_probabilities(model, batch), dense_tv)
            if on_progress is not None:
                on_progress(number + 1, len(batches))
    return [total / tokens for total in totals]
