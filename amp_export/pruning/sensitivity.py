"""What a layer costs: the KL divergence from the dense model's logits if a part of it alone is removed.

Importance cannot be compared between layers, but divergences can. For each layer, the least important third of the
neurons is silenced, and then the least important group of heads; the rest of the model stays dense. The layers before
are not run again.

What is silenced is not replaced by its best prediction from the other inputs, though compensation will do about that:
costs after it led to no better plans of SmolLM2-135M on the text that predictions were fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amp_export.pruning.compensation.streams import StreamBatch, record_calls, replaced, run_layer
from amp_export.pruning.predictions import Predictions, divergence
from amp_export.pruning.scores import Sensitivity, rank

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig, Site
    from amp_export.inputs.batches import Batch
    from amp_export.pruning.scores import Array, Scores

SENSITIVITY_TOKENS = 2048
"""Tokens to measure on, at most: two runs of half the model for each layer."""

SENSITIVITY_SHARE = 32
"""One of so many of the tokens that compensation may take is measured on, so that few of them take little time."""

SILENCED = 1 / 3
"""Share of the neurons of a layer that is silenced."""


def measure_sensitivity(
    model: PreTrainedModel,
    config: ModelConfig,
    scores: Scores,
    batches: Sequence[Batch],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Return what each layer of a decoder costs.

    Args:
        model: The dense model; it is left as it was.
        config: Its config.
        scores: Importance, which says what is silenced.
        batches: Text to measure on.
        on_progress: Called with the number of layers done and the total.
    """
    import torch

    silenced = round(config.intermediate_size * SILENCED)
    neurons: list[float] = []
    groups: list[float] = []
    with torch.inference_mode():
        recorded = record_calls(model, config, batches)
        runs = [_Run(model, config, *both) for both in zip(batches, recorded, strict=True)]
        tokens = sum(run.tokens for run in runs)
        for number, site in enumerate(config.sites):
            for found, part in zip((neurons, groups), _masks(config, scores, number, site, silenced), strict=True):
                # what a layer does not have costs nothing
                found.append(0.0 if part is None else sum(run.divergence(number, *part) for run in runs) / tokens)
            for run in runs:
                run.advance(number)
            if on_progress is not None:
                on_progress(number + 1, len(config.sites))
    return Sensitivity(silenced, tuple(neurons), tuple(groups))


def _masks(
    config: ModelConfig, scores: Scores, number: int, site: Site, silenced: int
) -> tuple[tuple[str, torch.Tensor] | None, tuple[str, torch.Tensor] | None]:
    """Return the down and the output projection of a layer, each with a mask of its inputs, [inputs], if it has it."""
    import torch

    attention, mlp = site.stack.attention, site.stack.mlp
    stay = config.architecture.heads_stay is not None
    neurons_n = torch.ones(config.intermediate_size)
    neurons_n[list(least(scores.neurons[number], silenced))] = 0
    groups_k = torch.ones(config.num_key_value_heads)
    groups_k[list(least(group_importance(config, scores.heads[number]), 1))] = 0
    heads_i = groups_k.repeat_interleave(config.widths.query_group * config.head_dim)
    return (
        None if mlp is None else (mlp.output.name, neurons_n),
        None if attention is None or stay else (attention.output.name, heads_i),
    )


def group_importance(config: ModelConfig, heads: Array) -> Array:
    """Return the importance of each key/value group, [num_key_value_heads]."""
    groups: Array = heads.reshape(config.num_key_value_heads, -1).sum(axis=1)
    return groups


def least(importance: Array, count: int) -> tuple[int, ...]:
    """Return the indices of the least important units; among equals those with the higher index, which plans drop."""
    return rank(importance)[len(importance) - count :]


@contextmanager
def silenced(masks: Sequence[tuple[torch.nn.Module, torch.Tensor]]) -> Iterator[None]:
    """Silence inputs of modules; leaving the context restores them.

    Args:
        masks: Modules, each with a mask of its inputs, [inputs].
    """

    def silence(mask_i: torch.Tensor) -> Callable[[Any, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
        return lambda _, given: (given[0] * mask_i.to(given[0].device, given[0].dtype), *given[1:])

    handles = [module.register_forward_pre_hook(silence(mask_i)) for module, mask_i in masks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Run:
    """A batch on its way through the dense layers."""

    def __init__(self, model: PreTrainedModel, config: ModelConfig, batch: Batch, recorded: StreamBatch) -> None:
        self._model, self._batch, self.recorded = model, batch, recorded
        self._layers = [model.get_submodule(site.path) for site in config.sites]
        self._hidden_bsh = recorded.hidden_bsh
        rows, length = recorded.hidden_bsh.shape[:2]
        self._predictions = Predictions.of(model, (rows, length), recorded.places_t)
        self._dense_tv = self._log_probabilities(self._finish(recorded.hidden_bsh, 0))

    @property
    def tokens(self) -> int:
        """Number of tokens whose predictions are compared."""
        return len(self._predictions.places_t)

    def advance(self, number: int) -> None:
        """Run one dense layer."""
        self._hidden_bsh = run_layer(self._layers[number], self._hidden_bsh, self.recorded.calls[number])

    def divergence(self, number: int, module: str, mask_i: torch.Tensor) -> float:
        """Return the divergence with some inputs of a layer's module silenced, summed over the chosen tokens."""
        layer, call = self._layers[number], self.recorded.calls[number]
        with silenced([(layer.get_submodule(module), mask_i)]):
            hidden_bsh = run_layer(layer, self._hidden_bsh, call)
        return divergence(self._log_probabilities(self._finish(hidden_bsh, number + 1)), self._dense_tv)

    def _finish(self, hidden_bsh: torch.Tensor, first: int) -> torch.Tensor:
        for layer, call in zip(self._layers[first:], self.recorded.calls[first:], strict=True):
            hidden_bsh = run_layer(layer, hidden_bsh, call)
        return hidden_bsh

    def _log_probabilities(self, hidden_bsh: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities at the chosen tokens, [tokens, vocabulary], for an output of the last layer."""
        output = self.recorded.as_returned(hidden_bsh)
        with replaced(self._layers, lambda _: lambda *_, **__: output):
            return self._predictions.log_probabilities(self._model, self._batch)
