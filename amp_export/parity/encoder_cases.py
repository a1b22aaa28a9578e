"""Parity cases of encoders: texts, padding and images, run identically through any runtime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.architectures import Modality, ModelConfig
from amp_export.exporters.limits import Limits
from amp_export.inputs.random import as_tensors, input_name, random_inputs
from amp_export.inputs.tokens import Floats, Integers, draw_rows
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
        lengths: Tokens of each row; shorter rows are padded on the right. Images have a fixed size and ignore it.
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


def encoder_cases(config: ModelConfig) -> tuple[EncoderCase, ...]:
    """Return the default cases for a model that fit its maximum text length."""
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


def signal_inputs(rows: int, config: ModelConfig, dtype: Dtype) -> dict[str, Floats]:
    """Return random images or audio in float32, with values that are exact in the graph's dtype."""
    import torch

    name = input_name(config)
    drawn = random_inputs(config, samples=rows, length=1, dtype=getattr(torch, dtype.value))
    return {name: drawn[name].float().numpy()}


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
        by_token: The outputs with one entry per token, of which only real tokens are compared.
        dtype: Dtype of the graph.

    Returns:
        Each output, float64 [positions, features]; outputs by token are returned without padding.
    """
    if config.architecture.modality is not Modality.TEXT:
        return {
            name: as_rows(found) for name, found in forward(signal_inputs(len(case.lengths), config, dtype)).items()
        }
    inputs = text_inputs(case.lengths, config, pool)
    real_bs = inputs["attention_mask"] == 1
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
