"""The samples that pruned layers are fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amp_export.architectures import Kind
from amp_export.inputs.arrays import SampleArrays
from amp_export.inputs.batches import Batch, text_batches
from amp_export.inputs.windows import WINDOW_TOKENS, cut_windows, spread_within, window_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.architectures import ModelConfig
    from amp_export.inputs.calibration_tokens import CalibrationSamples

FEWEST_WINDOWS = 10
"""Short texts are cut into this many windows, so that some can be held out."""

SHORTEST_WINDOW = 16
"""Tokens of the shortest window."""


def can_compensate(config: ModelConfig) -> bool:
    """Return whether the layers of a model can be run one at a time: of one stack, or of an encoder and a decoder.

    Layers that share biases of positions are given them by the first one, which is only computed when that runs.
    """
    if config.architecture.kind is Kind.ENCODER_DECODER:
        return not any(stack.heads_tied for stack in config.architecture.stacks)
    return config.layers_follow_one_another


def fitting_batches(
    model: PreTrainedModel,
    config: ModelConfig,
    samples: CalibrationSamples,
    *,
    tokens: int,
    window: int = WINDOW_TOKENS,
) -> list[Batch]:
    """Return batches to fit on: windows of joined texts for a decoder, single texts for an encoder, or arrays.

    Args:
        model: The dense model.
        config: Its config.
        samples: Calibration samples.
        tokens: Largest number of tokens; of more text, a part is taken that is spread evenly over it.
        window: Largest number of tokens of a decoder's window: short ones let few tokens be of many texts.
    """
    if isinstance(samples, SampleArrays):
        return list(samples.batches(model, config))
    token_ids = samples.texts
    if config.architecture.kind is Kind.DECODER:
        length = min(_window_length(config, token_ids), max(tokens, 1), window)
        rows: Sequence[Sequence[int]] = cut_windows(token_ids, length, limit=max(tokens // length, 1))
    else:
        rows = spread_within(token_ids, tokens, size=len)
    return text_batches(model, config, rows)


def _window_length(config: ModelConfig, token_ids: Sequence[Sequence[int]]) -> int:
    total = sum(map(len, token_ids))
    return max(min(window_length(config), total // FEWEST_WINDOWS), min(SHORTEST_WINDOW, total))
