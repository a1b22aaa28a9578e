"""Makes the references that a device is checked against: inputs of a decoder, and PyTorch's logits for them.

A bundle holds only the logits of the last token of each call. They depend on the keys and values of all previous
tokens, so an error in any of these shows up in them; the logits of previous tokens would only test the LM head on other
vectors. With a vocabulary of 49,152 they take 1.4 MB instead of 42.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import ModelError, RequestError
from amp_export.inputs.tokens import Floats, Integers, token_pool
from amp_export.options import Dtype
from amp_export.parity.decoder_cases import Cache, Case, Forward, cases_within, outgrows_cache, replay
from amp_export.parity.extremes import largest
from amp_export.parity.metrics import distance
from amp_export.parity.noise import draw_rounding
from amp_export.parity.reference import NOISE_FACTOR, REFERENCE, run_torch
from amp_export.parity.suites import torch_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from amp_export.exporters.limits import Limits
    from amp_export.parity.quantized import QuantizedWeights

PADDED_PROMPTS = (17, 11, 5)
"""Prompt lengths of the padded batch, as many as a batch may hold."""


@dataclass(frozen=True)
class ReferenceCall:
    """One call of a decoder.

    Attributes:
        input_ids: int64 [batch, new].
        attention_mask: int64 [batch, past + new].
        position_ids: int64 [batch, new].
        logits: Logits of the last new token, [batch, vocabulary]; padding is on the left, so the last token is real.
    """

    input_ids: Integers
    attention_mask: Integers
    position_ids: Integers
    logits: Floats


@dataclass(frozen=True)
class Reference:
    """The reference of one graph.

    Attributes:
        dtype: Dtype of the graph.
        calls: Calls of each case, in order.
        noise: Largest difference between PyTorch in the graph's dtype and in a higher one.
        mean_noise: Largest mean difference of a case.
    """

    dtype: Dtype
    calls: Mapping[str, Sequence[ReferenceCall]]
    noise: float
    mean_noise: float

    def summary(self) -> dict[str, Any]:
        """Return the entry in a bundle's manifest."""
        return {
            "precision": self.dtype.value,
            "reference_precision": REFERENCE[self.dtype],
            "noise": self.noise,
            "noise_factor": NOISE_FACTOR,
            "tolerance": NOISE_FACTOR * self.noise,
            "mean_tolerance": NOISE_FACTOR * self.mean_noise,
            "cases": [{"name": name, "calls": len(calls)} for name, calls in self.calls.items()],
        }

    def to_npz(self) -> bytes:
        """Return all arrays, by `CASE.CALL.NAME`, where case and call are numbers."""
        arrays: dict[str, Any] = {}
        for case, calls in enumerate(self.calls.values()):
            for number, call in enumerate(calls):
                scope = f"{case}.{number}"
                arrays[f"{scope}.input_ids"] = call.input_ids
                arrays[f"{scope}.attention_mask"] = call.attention_mask
                arrays[f"{scope}.position_ids"] = call.position_ids
                arrays[f"{scope}.logits"] = call.logits.astype(np.float32)
        stream = io.BytesIO()
        np.savez(stream, **arrays)
        return stream.getvalue()


def make_reference(
    checkpoint: Path, dtype: Dtype, limits: Limits, *, weights: QuantizedWeights | None = None
) -> Reference:
    """Run a decoder in PyTorch, in the graph's dtype and in a higher one.

    Args:
        checkpoint: The exported checkpoint.
        dtype: Dtype of the export.
        limits: Limits of the device's engine: no case is larger.
        weights: Weights of the graph if they are quantized.

    Raises:
        ModelError: The checkpoint cannot be read.
        RequestError: The limits are too small for any case.
    """
    config = open_checkpoint(checkpoint).config
    cases = tuple(case for case in reference_cases(limits) if not outgrows_cache(case, config.cache_limit))
    if not cases:
        raise RequestError(
            f"A context of {limits.max_context} tokens is too short to check parity.\nGive --max-context 12 or more."
        )
    pool = token_pool(checkpoint, config.vocab_size)

    def record(model: PreTrainedModel) -> dict[str, list[ReferenceCall]]:
        return {case.name: _record(case, pool, torch_decoder(model)) for case in cases}

    expected = run_torch(checkpoint, REFERENCE[dtype], record, weights=weights)
    exact = {name: _logits(calls) for name, calls in expected.items()}

    def noises(model: PreTrainedModel) -> list[tuple[float, float]]:
        runs = draw_rounding(model, record)
        return [distance(_logits(run[name]), logits) for run in runs for name, logits in exact.items()]

    drawn = run_torch(checkpoint, dtype.value, noises, weights=weights)
    noise, mean_noise = (largest(each) for each in zip(*drawn, strict=True))
    if not math.isfinite(noise):
        raise ModelError(
            f"{checkpoint} cannot be checked in {dtype.value}: PyTorch itself computes NaN or infinity in it.\n"
            "Export it again with --dtype bfloat16 or float32."
        )
    return Reference(dtype, expected, noise, mean_noise)


def reference_cases(limits: Limits) -> tuple[Case, ...]:
    """Return the cases that fit an engine's limits: of the same kinds as those of `validate`, with fewer steps."""
    cases = [
        Case("prefill of 17 tokens", (17,)),
        Case("prefill of 128 tokens", (128,)),
        Case("4 decode steps after 8 tokens", (8,), decode_steps=4),
    ]
    lengths = PADDED_PROMPTS[: limits.max_batch]
    if len(lengths) > 1:
        name = f"left-padded batch of {' and '.join(map(str, lengths))} tokens, 2 decode steps"
        cases.append(Case(name, lengths, decode_steps=2))
    return cases_within(tuple(cases), limits.max_context)


def _record(case: Case, pool: Integers, forward: Forward[Cache]) -> list[ReferenceCall]:
    calls: list[ReferenceCall] = []

    def recorded(
        input_ids: Integers, attention_mask: Integers, position_ids: Integers, past: Cache | None
    ) -> tuple[Floats, Cache]:
        logits_bsv, now = forward(input_ids, attention_mask, position_ids, past)
        # a copy, so that the memory of the other logits is freed
        calls.append(ReferenceCall(input_ids, attention_mask, position_ids, logits_bsv[:, -1].copy()))
        return logits_bsv, now

    replay(case, pool, recorded)
    return calls


def _logits(calls: Sequence[ReferenceCall]) -> Floats:
    return np.concatenate([call.logits for call in calls])
