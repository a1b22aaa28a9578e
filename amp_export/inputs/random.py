"""Random inputs for a model of any kind, and the outputs that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, Modality, ModelConfig
from amp_export.inputs.patches import describe_patches, values_of_a_patch
from amp_export.inputs.waveforms import samples_of, takes_waveforms

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


INPUT_NAMES: Mapping[Modality, str] = {
    Modality.TEXT: "input_ids",
    Modality.IMAGE: "pixel_values",
    Modality.AUDIO: "input_features",
}
"""The main inputs of models, as transformers names them (`main_input_name`), unless they take raw audio."""

WAVEFORM = "input_values"
"""The main input of models that take raw audio."""


def input_name(config: ModelConfig) -> str:
    """Return the name of a model's main input."""
    return WAVEFORM if takes_waveforms(config) else INPUT_NAMES[config.architecture.modality]


def signal_shape(config: ModelConfig, frames: int = 1) -> tuple[int, ...]:
    """Return the shape of one input of a model that takes no text.

    Args:
        config: The model's config.
        frames: Frames of raw audio, which the shape is to be the shortest for, or patches of an image of any size.
            Other inputs have a fixed size.

    Returns:
        [channels, height, width] of an image, [patches, values of a patch] of one of any size, [bins, frames] of audio,
        or [samples] of raw audio.
    """
    if takes_waveforms(config):
        return (samples_of(frames, config),)
    if config.architecture.takes_patches:
        return frames, values_of_a_patch(config)
    if config.architecture.modality is Modality.IMAGE:
        size = config.fields["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return config.size("num_channels"), int(height), int(width)
    assert config.architecture.modality is Modality.AUDIO
    # two frames per position: the second convolution of `WhisperEncoder` has a stride of two
    return config.size("num_mel_bins"), 2 * config.size("max_source_positions")


def random_inputs(
    config: ModelConfig, *, samples: int, length: int, dtype: torch.dtype | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return random inputs of the model's shapes, without padding.

    Args:
        config: The model's config.
        samples: Number of samples.
        length: Tokens of a text, frames of raw audio, or patches of an image of any size. The config determines the
            size of other inputs.
        dtype: Dtype of images and audio; by default float32.
        seed: Seed of the random numbers.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def tokens() -> torch.Tensor:
        return torch.randint(config.vocab_size, (samples, length), generator=generator)

    def signal(*shape: int) -> torch.Tensor:
        return torch.randn((samples, *shape), generator=generator).to(dtype or torch.float32)

    name = input_name(config)
    reads_text = config.architecture.modality is Modality.TEXT
    inputs = {name: tokens() if reads_text else signal(*signal_shape(config, length))}
    if config.architecture.takes_patches:
        described = describe_patches([length] * samples)
        inputs |= {name: torch.from_numpy(array) for name, array in described.items()}
    if config.architecture.kind is Kind.ENCODER_DECODER:
        inputs["decoder_input_ids"] = tokens()
    return inputs


def compared_outputs(outputs: Any) -> dict[str, torch.Tensor]:
    """Return all tensors of a model's output by name; a KV cache is none."""
    import torch

    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def as_tensors(arrays: Mapping[str, Any], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return arrays as tensors on a model's device, floating-point ones in its dtype."""
    import torch

    tensors = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
    return {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
