"""Traces an encoder, with or without a head, as one graph from text, images or raw audio to its forward's outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from amp_export.architectures import PATCH_MASK, SPATIAL_SHAPES
from amp_export.checkpoints.loading import takes
from amp_export.errors import UnsupportedModelError
from amp_export.exporters.tracing.jobs import BATCH, Axes, Job, Sample, padded_mask, sample_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH = 7
"""Length of the sample in tokens."""

_ANY_SIZE = (64, 96)
"""Height and width of the sample, for a model that takes images of any size."""

_SHAPES = ((2, 3), (2, 4))
"""Rows and columns of the patches of each sample, for a model that takes images of any size as rows of patches."""

_WAVEFORM = 16_000
"""Length of the sample of raw audio: one second at 16 kHz."""

_BATCH_FIRST: Axes = ("batch_size",)
"""Axes that all outputs have in common."""


class EncoderCall(torch.nn.Module):
    """Maps inputs to the tensor fields of the model's output."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the result."""
        # a generative model returns its cache by default
        switches = {"use_cache": False} if takes(self.model, "use_cache") else {}
        result: Mapping[str, Any] = self.model(**inputs, **switches, return_dict=True)
        return {name: value for name, value in result.items() if isinstance(value, torch.Tensor)}


def encoder_jobs(model: PreTrainedModel, *, file: str) -> list[Job]:
    """Return the one graph of an encoder.

    Inputs are `input_ids`, `attention_mask` and, if the model has token types, `token_type_ids`, all int64 [batch_size,
    sequence_length]; or `pixel_values` [batch_size, channels, height, width], of the config's size, or of any size if
    the config has none; or `pixel_values` [batch_size, num_patches, values of a patch] with `pixel_attention_mask`,
    int64 [batch_size, num_patches], and `spatial_shapes`, int64 [batch_size, 2]; or `input_values` [batch_size,
    sequence_length] and, if models of the kind are trained with it, `attention_mask`, int64 of the same shape. Outputs
    are the tensor fields of the model's output, such as `logits`.

    Raises:
        UnsupportedModelError: The model takes neither text nor images nor raw audio.
    """
    inputs = encoder_inputs(model)
    with torch.no_grad():
        outputs = EncoderCall(model)(**{name: sample.tensor for name, sample in inputs.items()})
    return [Job(file, EncoderCall(model), inputs, dict.fromkeys(outputs, _BATCH_FIRST))]


def encoder_inputs(model: PreTrainedModel) -> dict[str, Sample]:
    """Return sample inputs of an encoder, one of them padded.

    Raises:
        UnsupportedModelError: The model takes neither text nor images nor raw audio.
    """
    if takes(model, SPATIAL_SHAPES):
        return _sample_patches(model)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": _sample_images(model)}
    axes = ("batch_size", "sequence_length")
    # models of spectrograms have an input of this name, too
    if model.main_input_name == "input_values" and hasattr(model.config, "conv_stride"):
        # with normalization of groups, padding takes no mask: `Wav2Vec2FeatureExtractor`, transformers 5.24
        masked = getattr(model.config, "feat_extract_norm", "group") == "layer"
        return {name: Sample(tensor, axes) for name, tensor in sample_waveforms(model, masked=masked).items()}
    if model.main_input_name != "input_ids":
        raise UnsupportedModelError(
            f"{type(model).__name__} takes {model.main_input_name}.\nOnly encoders of text, images or raw audio are "
            "supported."
        )
    mask = padded_mask(model, LENGTH, side="right")
    # some models derive positions from the ids, and detect padding by its id only
    tokens = sample_tokens(model, LENGTH).masked_fill(mask == 0, getattr(model.config, "pad_token_id", None) or 0)
    inputs = {"input_ids": Sample(tokens, axes)}
    if takes(model, "attention_mask"):
        inputs["attention_mask"] = Sample(mask, axes)
    # RoBERTa accepts them for compatibility with BERT, but has one type only
    if takes(model, "token_type_ids") and getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = Sample(torch.zeros_like(tokens), axes)
    return inputs


def sample_waveforms(model: PreTrainedModel, *, masked: bool) -> dict[str, torch.Tensor]:
    """Return raw audio; with a mask, one is half padding.

    Args:
        model: The model.
        masked: Whether it takes a mask of the samples that are padding.
    """
    shape = (BATCH, _WAVEFORM)
    inputs = {"input_values": torch.linspace(-1, 1, math.prod(shape), dtype=model.dtype).reshape(shape)}
    if masked:
        inputs["attention_mask"] = torch.ones(shape, dtype=torch.int64)
        inputs["attention_mask"][0, _WAVEFORM // 2 :] = 0
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def _sample_patches(model: PreTrainedModel) -> dict[str, Sample]:
    """Return images of several sizes as rows of patches, of which the first is padded."""
    shapes_b2 = torch.tensor(_SHAPES, device=model.device)
    counts_b1 = shapes_b2.prod(dim=1, keepdim=True)
    shape = (BATCH, int(counts_b1.max()), model.config.num_channels * model.config.patch_size**2)
    values = torch.linspace(-1, 1, math.prod(shape), dtype=model.dtype, device=model.device)
    mask_bp = (torch.arange(shape[1], device=model.device) < counts_b1).long()
    axes = ("batch_size", "num_patches")
    return {
        "pixel_values": Sample(values.reshape(shape), (*axes, None)),
        PATCH_MASK: Sample(mask_bp, axes),
        SPATIAL_SHAPES: Sample(shapes_b2, ("batch_size", None)),
    }


def _sample_images(model: PreTrainedModel) -> Sample:
    """Return images of the config's size; pure convolutions take any size, and their config has none."""
    size = getattr(model.config, "image_size", None)
    axes: Axes = ("batch_size", None, "height", "width") if size is None else ("batch_size", None, None, None)
    height, width = _ANY_SIZE if size is None else (size, size) if isinstance(size, int) else size
    shape = (BATCH, getattr(model.config, "num_channels", 3), height, width)
    values = torch.linspace(-1, 1, math.prod(shape), dtype=model.dtype, device=model.device)
    return Sample(values.reshape(shape), axes)
