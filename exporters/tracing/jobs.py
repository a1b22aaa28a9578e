"""Trace jobs: modules with plain tensors as inputs and outputs, sample inputs, and names of dynamic axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Axes = tuple[str | None, ...]
"""Names of the axes; None for a static axis."""

BATCH = 2
"""Batch size of samples; not 1, which torch.export would specialize to a constant."""


@dataclass(frozen=True)
class Sample:
    """An input of a graph.

    Attributes:
        tensor: A sample value.
        axes: Names of its axes.
    """

    tensor: torch.Tensor
    axes: Axes


@dataclass(frozen=True)
class Job:
    """A graph to trace.

    Attributes:
        file: Name of its file.
        module: Module to trace; called with the inputs by name, returns tensors in dicts and lists.
        inputs: Samples, in dicts and lists as the module takes them. A graph's input is named after its path, such as
            `past_key_values.0.key`.
        outputs: Axes of outputs by name, with N for the layer's number. Other outputs' axes are named after the
            inputs'.
    """

    file: str
    module: torch.nn.Module
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Axes]

    def output_axes(self, name: str) -> Axes:
        """Return the declared axes of an output; empty if they are named after the inputs'."""
        return self.outputs.get(re.sub(r"\.\d+\.", ".N.", name), ())


def flatten(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested dicts and lists of inputs or outputs, each with its name."""
    if not isinstance(values, Mapping | list):
        yield path, values
        return
    entries = values.items() if isinstance(values, Mapping) else enumerate(values)
    for key, value in entries:
        yield from flatten(value, f"{path}.{key}" if path else str(key))


def map_samples(function: Callable[[Sample], Any], samples: Any) -> Any:
    """Return the same nested dicts and lists with each sample replaced."""
    if isinstance(samples, Sample):
        return function(samples)
    if isinstance(samples, Mapping):
        return {key: map_samples(function, value) for key, value in samples.items()}
    return [map_samples(function, value) for value in samples]


def sample_tokens(model: PreTrainedModel, length: int) -> torch.Tensor:
    """Return token ids [BATCH, length] without the padding token."""
    import torch

    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    vocabulary = embedding.shape[0]
    tokens_bs = torch.arange(BATCH * length, device=model.device).reshape(BATCH, length) % vocabulary
    padding = getattr(model.config, "pad_token_id", None)
    return tokens_bs.masked_fill(tokens_bs == padding, vocabulary - 1) if padding is not None else tokens_bs


def padded_mask(model: PreTrainedModel, length: int, *, side: str) -> torch.Tensor:
    """Return an attention mask [BATCH, length] whose first row is two tokens short.

    If all entries were 1, some models would leave the mask out of the graph.
    """
    import torch

    mask_bs = torch.ones(BATCH, length, dtype=torch.int64, device=model.device)
    mask_bs[0, slice(0, 2) if side == "left" else slice(-2, None)] = 0
    return mask_bs
