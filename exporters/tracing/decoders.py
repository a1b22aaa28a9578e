"""A decoder as one graph for prefill and decode: what is traced is a step with a past, which may be of length 0."""

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
"""Lengths of the sample: more than one, and unlike each other and the batch, lest any be taken for a constant."""

OUTPUTS: Mapping[str, Axes] = {
    "logits": ("batch_size", "sequence_length", None),
    "present.N.key": ("batch_size", None, "total_sequence_length", None),
    "present.N.value": ("batch_size", None, "total_sequence_length", None),
}


class DecoderStep(torch.nn.Module):
    """New tokens and a past to logits and the next past, all as plain tensors."""

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

    `position_ids` is left out where the model's forward does not take it.

    Raises:
        UnsupportedModelError: The model takes more than text, or keeps other things than keys and values.
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
    """Run the model once: each layer's own keys and values tell how many heads it has, and how wide they are."""
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
    """Make sure that a cache holds keys and values and nothing else.

    Raises:
        UnsupportedModelError: It holds the state of a linear attention or a convolution, or something compressed.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    for number, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or getattr(layer.keys, "ndim", 4) != 4:
            raise UnsupportedModelError(
                f"Layer {number} of {type(model).__name__} caches a {type(layer).__name__}.\nOnly layers that cache "
                "keys and values [batch_size, heads, length, head_dim] are supported."
            )


def sample_past(states: torch.Tensor, length: int, axis: str) -> Sample:
    """Return a past for a layer whose keys or values look like `states`."""
    _, heads, _, head_dim = states.shape
    return Sample(states.new_zeros((BATCH, heads, length, head_dim)), ("batch_size", None, axis, None))


def filled_cache(past: Sequence[Mapping[str, torch.Tensor]]) -> DynamicCache:
    """Return a cache that holds a past.

    Layers with a sliding window keep all of it too: their mask cuts it, and one graph can take a past of any length.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for states in past:
        layer = DynamicLayer()
        layer.lazy_initialization(states["key"], states["value"])
        # not through update(), which would leave a Concat with nothing in the graph
        layer.keys, layer.values = states["key"], states["value"]
        cache.layers.append(layer)
    return cache


def contents(cache: DynamicCache) -> list[dict[str, torch.Tensor]]:
    """Return the keys and values of each layer."""
    layers: Sequence[Any] = cache.layers
    return [{"key": layer.keys, "value": layer.values} for layer in layers]
