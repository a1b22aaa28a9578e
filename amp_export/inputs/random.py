"""Random inputs for a model of any kind, and the output by which it is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Kind, Modality, ModelConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

OUTPUTS = ("logits", "last_hidden_state", "image_embeds")
"""What models call their output, in the order in which it is looked for."""


def input_name(config: ModelConfig) -> str:
    """Return what a model calls that which it reads."""
    names = {Modality.TEXT: "input_ids", Modality.IMAGE: "pixel_values", Modality.AUDIO: "input_features"}
    return names[config.architecture.modality]


def signal_shape(config: ModelConfig) -> tuple[int, ...]:
    """Return the shape of one image [channels, height, width], or of one sound [bins, frames]."""
    if config.architecture.modality is Modality.IMAGE:
        size = config.fields["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return config.size("num_channels"), int(height), int(width)
    assert config.architecture.modality is Modality.AUDIO
    # two frames make one position: the second convolution of `WhisperEncoder` has a stride of two
    return config.size("num_mel_bins"), 2 * config.size("max_source_positions")


def random_inputs(
    config: ModelConfig, *, samples: int, length: int, dtype: torch.dtype | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Draw inputs of the shapes that a model takes, all of them real.

    Args:
        config: The model's config.
        samples: How many.
        length: Tokens of a text; images and sounds have the size that the config says.
        dtype: Of images and sounds.
        seed: The same seed draws the same.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def tokens() -> torch.Tensor:
        return torch.randint(config.vocab_size, (samples, length), generator=generator)

    def signal(*shape: int) -> torch.Tensor:
        return torch.randn((samples, *shape), generator=generator).to(dtype or torch.float32)

    name = input_name(config)
    inputs = {name: tokens() if config.architecture.modality is Modality.TEXT else signal(*signal_shape(config))}
    if config.architecture.kind is Kind.ENCODER_DECODER:
        inputs["decoder_input_ids"] = tokens()
    return inputs


def compared_output(outputs: Any) -> torch.Tensor:
    """Return the output by which models are compared: logits where there is a head, the last hidden state otherwise."""
    found: torch.Tensor = next(value for name in OUTPUTS if (value := getattr(outputs, name, None)) is not None)
    return found


def as_tensors(arrays: Mapping[str, Any], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return arrays as a model takes them: on its device, and floating-point numbers in its dtype."""
    import torch

    tensors = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
    return {name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
