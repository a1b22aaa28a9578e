"""An encoder, with or without a head, as one graph from text or images to what its forward returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from amp_export.checkpoints.loading import takes
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.tracing.jobs import BATCH, Axes, Job, Sample, padded_mask, sample_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH = 7
"""Tokens of the sample."""

_ANY_SIZE = (64, 96)
"""Height and width of a sample for a model that takes images of any size."""

_BATCH_FIRST: Axes = ("batch_size",)
"""The axes of every output, as far as they are the same for all."""


class EncoderCall(torch.nn.Module):
    """Inputs to the tensors among the fields of the model's result."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the result."""
        # a model made for generation returns its cache unless told not to
        switches = {"use_cache": False} if takes(self.model, "use_cache") else {}
        result: Mapping[str, Any] = self.model(**inputs, **switches, return_dict=True)
        return {name: value for name, value in result.items() if isinstance(value, torch.Tensor)}


def encoder_jobs(model: PreTrainedModel, *, file: str) -> list[Job]:
    """Return the one graph of an encoder.

    Inputs are `input_ids`, `attention_mask` and, where the model tells kinds of tokens apart, `token_type_ids`, all
    int64 [batch_size, sequence_length]; or `pixel_values` [batch_size, channels, height, width], with the size that the
    config names, or any where it names none. Outputs are the tensors among the fields of the model's result, such as
    `logits`.

    Raises:
        UnsupportedModelError: The model takes neither text nor images.
    """
    inputs = encoder_inputs(model)
    with torch.no_grad():
        outputs = EncoderCall(model)(**{name: sample.tensor for name, sample in inputs.items()})
    return [Job(file, EncoderCall(model), inputs, dict.fromkeys(outputs, _BATCH_FIRST))]


def encoder_inputs(model: PreTrainedModel) -> dict[str, Sample]:
    """Return samples of what an encoder takes, one of them padded.

    Raises:
        UnsupportedModelError: That is neither text nor images.
    """
    if model.main_input_name == "pixel_values":
        return {"pixel_values": _sample_images(model)}
    if model.main_input_name != "input_ids":
        raise UnsupportedModelError(
            f"{type(model).__name__} takes {model.main_input_name}.\nOnly encoders of text or images are supported."
        )
    axes = ("batch_size", "sequence_length")
    mask = padded_mask(model, LENGTH, side="right")
    # some models count positions from the ids, and know padding by its id only
    tokens = sample_tokens(model, LENGTH).masked_fill(mask == 0, getattr(model.config, "pad_token_id", None) or 0)
    inputs = {"input_ids": Sample(tokens, axes)}
    if takes(model, "attention_mask"):
        inputs["attention_mask"] = Sample(mask, axes)
    # RoBERTa takes them for the sake of BERT, and knows one kind only
    if takes(model, "token_type_ids") and getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = Sample(torch.zeros_like(tokens), axes)
    return inputs


def _sample_images(model: PreTrainedModel) -> Sample:
    """Return images of the size that the model is made for; pure convolutions take any, and their config names none."""
    size = getattr(model.config, "image_size", None)
    axes: Axes = ("batch_size", None, "height", "width") if size is None else ("batch_size", None, None, None)
    height, width = _ANY_SIZE if size is None else (size, size) if isinstance(size, int) else size
    shape = (BATCH, getattr(model.config, "num_channels", 3), height, width)
    values = torch.linspace(-1, 1, math.prod(shape), dtype=model.dtype, device=model.device)
    return Sample(values.reshape(shape), axes)
