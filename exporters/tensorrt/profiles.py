"""Optimization profiles of an engine: one for prefill, one for decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amp_export.exporters.limits import Limits
from amp_export.options import Phase

TYPICAL_PROMPT = 128
"""Prompt length that prefill kernels are optimized for, unless the longest context is shorter."""

Shape = tuple[int, ...]
Axes = Sequence[int | str]


@dataclass(frozen=True)
class Range:
    """Shapes of one input: the smallest, the one that kernels are optimized for, and the largest."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


@dataclass(frozen=True)
class Profile:
    """An optimization profile.

    Attributes:
        name: Phase that it is for.
        ranges: Shapes of each input, by name.
    """

    name: Phase
    ranges: Mapping[str, Range]


def decoder_profiles(axes_by_input: Mapping[str, Axes], limits: Limits) -> tuple[Profile, Profile]:
    """Return the profiles of a decoder's graph.

    Prefill takes a prompt without a KV cache, decode one token with a KV cache. One profile could cover both, but
    kernels are chosen for a profile's optimal shapes, and prompts and single tokens need different kernels.

    Args:
        axes_by_input: Axes of each input, in order: sizes, and names of dynamic axes as in the exported graphs.
        limits: The largest batch and context.
    """
    batch = (1, 1, limits.max_batch)
    context = limits.max_context
    prompt = (1, min(TYPICAL_PROMPT, context), context)
    # optimal is a typical prompt and as many generated tokens
    past = (1, min(2 * TYPICAL_PROMPT, context - 1), context - 1)
    prefill = {
        "batch_size": batch,
        "sequence_length": prompt,
        "past_sequence_length": (0, 0, 0),
        "total_sequence_length": prompt,
    }
    decode = {
        "batch_size": batch,
        "sequence_length": (1, 1, 1),
        "past_sequence_length": past,
        "total_sequence_length": tuple(length + 1 for length in past),
    }
    return Profile(Phase.PREFILL, _ranges(axes_by_input, prefill)), Profile(
        Phase.DECODE, _ranges(axes_by_input, decode)
    )


def _ranges(axes_by_input: Mapping[str, Axes], sizes: Mapping[str, Sequence[int]]) -> dict[str, Range]:
    return {
        name: Range(*(tuple(_size(axis, sizes, end) for axis in axes) for end in range(3)))
        for name, axes in axes_by_input.items()
    }


def _size(axis: int | str, sizes: Mapping[str, Sequence[int]], end: int) -> int:
    return axis if isinstance(axis, int) else sizes[axis][end]
