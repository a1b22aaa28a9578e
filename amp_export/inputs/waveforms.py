"""Raw audio: how many samples become how many frames, which are a model's tokens, and which are padding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from amp_export.architectures import Convolutions, ModelConfig, Padding

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[Any, np.dtype[np.int64]]


def takes_waveforms(config: ModelConfig) -> bool:
    """Return whether a model takes raw audio, of any length."""
    return config.architecture.convolutions is not None


def takes_mask(config: ModelConfig) -> bool:
    """Return whether a model takes raw audio with a mask of the samples that are padding."""
    convolutions = config.architecture.convolutions
    return convolutions is not None and config.meets(convolutions.masked_when)


def samples_of(frames: int, config: ModelConfig) -> int:
    """Return the fewest samples of raw audio that become so many frames."""
    for kernel, stride in reversed(_convolutions(config)):
        frames = (frames - 1) * stride + kernel
    return frames


def frames_of(samples: Integers, config: ModelConfig) -> Integers:
    """Return the numbers of frames that numbers of samples of raw audio become.

    Source: `_get_feat_extract_output_lengths`, `modeling_wav2vec2.py`, transformers 5.24.
    """
    for kernel, stride in _convolutions(config):
        samples = (samples - kernel) // stride + 1
    return samples


def frame_mask(mask_bs: Integers, config: ModelConfig) -> Integers:
    """Return which frames are real, [batch, frames], given which samples are, [batch, samples]; 1 is real."""
    import numpy as np

    (total,) = frames_of(np.array([mask_bs.shape[1]]), config)
    if _facts(config).padding is Padding.BY_FIRST_SAMPLE:
        step = math.prod(stride for _, stride in _convolutions(config))
        return mask_bs[:, ::step][:, :total]
    real_b1 = frames_of(mask_bs.sum(axis=1), config)[:, np.newaxis]
    return (np.arange(total) < real_b1).astype(np.int64)


def _convolutions(config: ModelConfig) -> list[tuple[int, int]]:
    """Return kernel size and stride of each convolution, in order."""
    return _facts(config).sizes(config.fields)


def _facts(config: ModelConfig) -> Convolutions:
    convolutions = config.architecture.convolutions
    assert convolutions is not None
    return convolutions
