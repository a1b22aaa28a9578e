"""Predictions of the next token that are compared with the dense model's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amp_export.pruning.compensation.streams import StreamBatch, replaced, run_layer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
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
        kept_k = torch.arange(0, length, POSITION_STEP)
        real_bs = torch.zeros(rows * length, dtype=torch.bool)
        real_bs[places_t] = True
        places_t = real_bs.reshape(rows, length)[:, kept_k].flatten().nonzero().squeeze(1)
        return cls(places_t, {"logits_to_keep": kept_k})

    def log_probabilities(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Return what a model predicts for a batch, [tokens, vocabulary]."""
        logits_bkv = model(**batch.inputs, **self.options).logits
        logits_tv = logits_bkv.reshape(-1, logits_bkv.shape[-1])[self.places_t]
        log_tv: torch.Tensor = logits_tv.float().log_softmax(dim=1)
        return log_tv


class StreamPredictions:
    """Predictions of a decoder for one batch, from hidden states between any two of its layers.

    Args:
        model: The dense model.
        config: Its config.
        batch: The batch.
        recorded: The batch as the layers see it.
    """

    def __init__(self, model: PreTrainedModel, config: ModelConfig, batch: Batch, recorded: StreamBatch) -> None:
        self._model, self._batch, self._recorded = model, batch, recorded
        self._layers = [model.get_submodule(site.path) for site in config.sites]
        rows, length = recorded.hidden_bsh.shape[:2]
        self._predictions = Predictions.of(model, (rows, length), recorded.places_t)
        self._dense_tv = self._log_probabilities(recorded.hidden_bsh, 0)

    @property
    def start_bsh(self) -> torch.Tensor:
        """Input of the first layer."""
        return self._recorded.hidden_bsh

    @property
    def tokens(self) -> int:
        """Number of tokens whose predictions are compared."""
        return len(self._predictions.places_t)

    def run(self, number: int, hidden_bsh: torch.Tensor) -> torch.Tensor:
        """Return the output of a layer."""
        return run_layer(self._layers[number], hidden_bsh, self._recorded.calls[number])

    def divergence(self, hidden_bsh: torch.Tensor, first: int) -> float:
        """Return the divergence from the dense model in nats, summed over tokens.

        Args:
            hidden_bsh: Hidden states, [batch, sequence, hidden].
            first: The layer that they are the input of; the dense model's layers from there on are run.
        """
        return divergence(self._log_probabilities(hidden_bsh, first), self._dense_tv)

    def _log_probabilities(self, hidden_bsh: torch.Tensor, first: int) -> torch.Tensor:
        """Return the log-probabilities at the compared tokens, [tokens, vocabulary]."""
        for number in range(first, len(self._layers)):
            hidden_bsh = self.run(number, hidden_bsh)
        output = (hidden_bsh,) if self._recorded.in_tuples else hidden_bsh
        with replaced(self._layers, lambda _: lambda *_, **__: output):
            return self._predictions.log_probabilities(self._model, self._batch)


def divergence(found_tv: torch.Tensor, dense_tv: torch.Tensor) -> float:
    """Return the KL divergence of predictions from the dense model's, in nats, summed over tokens.

    Args:
        found_tv: Log-probabilities, [tokens, vocabulary].
        dense_tv: The dense model's.
    """
    import torch

    summed = torch.nn.functional.kl_div(found_tv, dense_tv, reduction="sum", log_target=True)
    return max(float(summed), 0.0)
