"""Traces a decoder as one graph for prefill and decode: a step with a KV cache, which may be empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from amp_export.checkpoints.loading import cache_argument, takes
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.tracing.jobs import BATCH, Axes, Job, Sample, padded_mask, sample_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache

NEW = 3
PAST = 5
"""Lengths of the sample: more than 1, and different from each other and the batch, so that none becomes a constant."""

OUTPUTS: Mapping[str, Axes] = {
    "logits": ("batch_size", "sequence_length", None),
    "present.N.key": ("batch_size", None, "total_sequence_length", None),
    "present.N.value": ("batch_size", None, "total_sequence_length", None),
}


class DecoderStep(torch.nn.Module):
    """Computes logits and the next KV cache from new tokens and a KV cache, all as plain tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, past_key_values: Sequence[Mapping[str, torch.Tensor]], **inputs: torch.Tensor) -> dict[str, Any]:
        """Compute one step."""
        cache = filled_cache(past_key_values)
        cache_name = cache_argument(self.model)
        assert cache_name is not None
        result = self.model(**inputs, **{cache_name: cache}, use_cache=True, return_dict=True)
        return {"logits": result.logits, "present": contents(cache)}


def decoder_jobs(model: PreTrainedModel, *, file: str) -> list[Job]:
    """Return the one graph of a decoder, with the inputs and outputs of `graph.build_graph`.

    `position_ids` is left out if the model's forward does not take it.

    Raises:
        UnsupportedModelError: The model takes more than text, or caches something other than keys and values.
    """
    if model.main_input_name != "input_ids" or takes(model, "pixel_values") or takes(model, "input_features"):
        raise UnsupportedModelError(
            f"{type(model).__name__} takes images or audio besides text.\nOnly text decoders are supported; export "
            "its language model, if that can be loaded separately."
        )
    mask = padded_mask(model, PAST + NEW, side="left")
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs: dict[str, Any] = {
        "input_ids": Sample(sample_tokens(model, NEW), ("batch_size", "sequence_length")),
        "attention_mask": Sample(mask, ("batch_size", "total_sequence_length")),
    }
    if takes(model, "position_ids"):
        inputs["position_ids"] = Sample(positions[:, PAST:].contiguous(), ("batch_size", "sequence_length"))
    inputs["past_key_values"] = [
        {part: sample_past(states, PAST, "past_sequence_length") for part, states in layer.items()}
        for layer in _probe(model)
    ]
    return [Job(file, DecoderStep(model), inputs, OUTPUTS)]


def _probe(model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """Run the model once to get the number and dimension of each layer's heads from its keys and values."""
    from transformers import DynamicCache

    cache_name = cache_argument(model)
    assert cache_name is not None
    cache = DynamicCache(config=model.config)
    check_layers(model, cache.layers)
    with torch.no_grad():
        model(input_ids=sample_tokens(model, NEW), **{cache_name: cache}, use_cache=True)
    check_layers(model, cache.layers)
    return contents(cache)


def check_layers(model: PreTrainedModel, layers: Sequence[Any]) -> None:
    """Make sure that a cache holds only keys and values.

    Raises:
        UnsupportedModelError: It holds the state of a linear attention or a convolution, or compressed values.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    for number, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or getattr(layer.keys, "ndim", 4) != 4:
            raise UnsupportedModelError(
                f"Layer {number} of {type(model).__name__} caches a {type(layer).__name__}.\nOnly layers that cache "
                "keys and values [batch_size, heads, length, head_dim] are supported."
            )


def sample_past(states: torch.Tensor, length: int, axis: str) -> Sample:
    """Return a sample cache for a layer whose keys or values are shaped like `states`."""
    _, heads, _, head_dim = states.shape
    return Sample(states.new_zeros((BATCH, heads, length, head_dim)), ("batch_size", None, axis, None))


def filled_cache(past: Sequence[Mapping[str, torch.Tensor]]) -> DynamicCache:
    """Return a cache object that holds a KV cache.

    Layers with a sliding window keep all of it too: their mask restricts it, so that one graph supports any length.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for states in past:
        layer = DynamicLayer()
        layer.lazy_initialization(states["key"], states["value"])
        # not through update(), which would leave a Concat with an empty tensor in the graph
        layer.keys, layer.values = states["key"], states["value"]
        cache.layers.append(layer)
    return cache


def contents(cache: DynamicCache) -> list[dict[str, torch.Tensor]]:
    """Return the keys and values of each layer."""
    layers: Sequence[Any] = cache.layers
    return [{"key": layer.keys, "value": layer.values} for layer in layers]
