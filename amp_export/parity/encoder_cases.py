"""Parity cases of encoders: texts, images, audio and padding, run identically through any runtime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.architectures import PATCH_MASK, Modality, ModelConfig
from amp_export.exporters.limits import Limits
from amp_export.inputs.patches import describe_patches
from amp_export.inputs.random import as_tensors, input_name, random_inputs
from amp_export.inputs.tokens import Floats, Integers, draw_rows
from amp_export.inputs.waveforms import frame_mask, samples_of, takes_mask, takes_waveforms
from amp_export.options import Dtype
from amp_export.parity.decoder_cases import TokenCounts
from amp_export.parity.switches import switches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Inputs = Mapping[str, Any]
Outputs = Mapping[str, Floats]


@dataclass(frozen=True)
class EncoderCase:
    """One batch.

    Attributes:
        name: Name in a report.
        lengths: Tokens of each row, frames of raw audio, or patches of an image of any size; shorter rows are padded on
            the right. Other images have a fixed size and ignore it.
    """

    name: str
    lengths: TokenCounts

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows, including padding."""
        return len(self.lengths) * max(self.lengths)

    @property
    def longest_text(self) -> int:
        """Number of tokens of the longest row."""
        return max(self.lengths)

    @property
    def is_varied(self) -> bool:
        """Whether there are several rows."""
        return len(self.lengths) > 1


TEXT_CASES = (
    EncoderCase("1 token", (1,)),
    EncoderCase("2 tokens", (2,)),
    EncoderCase("17 tokens", (17,)),
    EncoderCase("128 tokens", (128,)),
    EncoderCase("right-padded batch of 5, 11 and 17 tokens", (5, 11, 17)),
)

IMAGE_CASES = (EncoderCase("1 image", (1,)), EncoderCase("batch of 3 images", (1, 1, 1)))

WAVEFORM_CASES = (
    EncoderCase("1 frame", (1,)),
    EncoderCase("17 frames", (17,)),
    EncoderCase("128 frames", (128,)),
    EncoderCase("batch of 3 x 11 frames", (11, 11, 11)),
)

PATCH_CASES = (
    EncoderCase("1 patch", (1,)),
    EncoderCase("17 patches in one row", (17,)),
    EncoderCase("128 patches in 8 rows", (128,)),
    EncoderCase("right-padded batch of 6, 12 and 35 patches", (6, 12, 35)),
)

PADDED_WAVEFORMS = EncoderCase("right-padded batch of 5, 11 and 17 frames", (5, 11, 17))


def encoder_cases(config: ModelConfig) -> tuple[EncoderCase, ...]:
    """Return the default cases for a model that fit its maximum text length."""
    if takes_waveforms(config):
        return (*WAVEFORM_CASES, *([PADDED_WAVEFORMS] if takes_mask(config) else []))
    if config.architecture.takes_patches:
        return PATCH_CASES
    if config.architecture.modality is not Modality.TEXT:
        return IMAGE_CASES
    limit = config.longest_text
    crossing = (
        EncoderCase(f"{each.tokens + 8} tokens, across the {each.name} of {each.tokens}", (each.tokens + 8,))
        for each in switches(config)
        if each.is_reached
    )
    return tuple(case for case in (*TEXT_CASES, *crossing) if limit is None or case.longest_text <= limit)


def encoder_cases_within(cases: Iterable[EncoderCase], limits: Limits | None) -> tuple[EncoderCase, ...]:
    """Return the cases that fit a graph's limits: all if it has none; an image counts as one token."""
    return tuple(
        case
        for case in cases
        if limits is None or (len(case.lengths) <= limits.max_batch and max(case.lengths) <= limits.max_context)
    )


def text_inputs(lengths: Sequence[int], config: ModelConfig, pool: Integers) -> dict[str, Integers]:
    """Return a batch of texts, padded on the right with the padding token, by which some models detect padding."""
    tokens_bs = draw_rows(pool, len(lengths), max(lengths))
    mask_bs = (np.arange(max(lengths)) < np.asarray(lengths)[:, np.newaxis]).astype(np.int64)
    inputs = {
        "input_ids": np.where(mask_bs == 1, tokens_bs, config.fields.get("pad_token_id") or 0),
        "attention_mask": mask_bs,
    }
    if config.fields.get("type_vocab_size", 0) > 1:
        # the second half has the second type, as in sentence pairs
        inputs["token_type_ids"] = np.broadcast_to(np.arange(max(lengths)) * 2 // max(lengths), mask_bs.shape).copy()
    return inputs


def signal_inputs(lengths: Sequence[int], config: ModelConfig, dtype: Dtype) -> dict[str, Any]:
    """Return random images or audio in float32, with values that are exact in the graph's dtype.

    Args:
        lengths: Frames of each row of raw audio, or patches of each image of any size, padded with zeros, as processors
            do; only their number matters to images and audio of a fixed size.
        config: The model's config.
        dtype: Dtype of the graph.
    """
    import torch

    name = input_name(config)
    drawn = random_inputs(config, samples=len(lengths), length=max(lengths), dtype=getattr(torch, dtype.value))
    signals = drawn[name].float().numpy()
    if config.architecture.takes_patches:
        described = describe_patches(lengths)
        return {name: signals * described[PATCH_MASK][..., np.newaxis].astype(np.float32), **described}
    if not takes_mask(config):
        return {name: signals}
    real_b1 = np.array([[samples_of(length, config)] for length in lengths])
    mask_bs = (np.arange(signals.shape[1]) < real_b1).astype(np.int64)
    return {name: signals * mask_bs.astype(np.float32), "attention_mask": mask_bs}


def real_tokens(inputs: Inputs, config: ModelConfig) -> Any:
    """Return which tokens are real, bool [batch, tokens]; None if all are, or inputs have no mask."""
    mask_bs = inputs.get(PATCH_MASK if config.architecture.takes_patches else "attention_mask")
    if mask_bs is None:
        return None
    return (frame_mask(mask_bs, config) if takes_waveforms(config) else mask_bs) == 1


def replay_encoder(
    case: EncoderCase,
    config: ModelConfig,
    pool: Integers,
    forward: Callable[[Inputs], Outputs],
    *,
    by_token: Collection[str],
    dtype: Dtype,
) -> dict[str, Floats]:
    """Run a case through an encoder.

    Args:
        case: The case to run.
        config: The model's config.
        pool: Token ids to draw from.
        forward: The encoder.
        by_token: The outputs with one entry per token, of which only real tokens are compared; of raw audio and of
            patches, those with three axes are.
        dtype: Dtype of the graph.

    Returns:
        Each output, float64 [positions, features]; outputs by token are returned without padding.
    """
    if config.architecture.modality is not Modality.TEXT:
        inputs = signal_inputs(case.lengths, config, dtype)
        real_bs = real_tokens(inputs, config)
        return {
            name: as_rows(found if real_bs is None or found.ndim < 3 else found[real_bs])
            for name, found in forward(inputs).items()
        }
    inputs = text_inputs(case.lengths, config, pool)
    real_bs = real_tokens(inputs, config)
    return {
        name: as_rows(found[real_bs][:, np.newaxis] if name in by_token else found)
        for name, found in forward(inputs).items()
    }


def as_rows(values: Floats) -> Floats:
    """Return the values in float64, [rows, last axis]."""
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def torch_encoder(model: PreTrainedModel, outputs: Collection[str]) -> Callable[[Inputs], Outputs]:
    """Return a transformers model as a function of arrays; it ignores inputs that the model does not have.

    Args:
        model: The model.
        outputs: The fields of the model's result to return.
    """
    import inspect

    taken = inspect.signature(model.forward).parameters
    switches = {"use_cache": False} if "use_cache" in taken else {}

    def forward(inputs: Inputs) -> Outputs:
        given = as_tensors({name: array for name, array in inputs.items() if name in taken}, model)
        result = model(**given, **switches, return_dict=True)
        return {name: result[name].double().numpy() for name in outputs}

    return forward
