"""The shapes that an engine is built for: one optimization profile for prefill, one for decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amp_export.exporters.limits import Limits
from amp_export.options import Phase

TYPICAL_PROMPT = 128
"""Tokens of the prompt that kernels for prefill are chosen for, or the longest context where that is less."""

Shape = tuple[int, ...]
Axes = Sequence[int | str]


@dataclass(frozen=True)
class Range:
    """The shapes of one input: the smallest, the one that kernels are chosen for, and the largest."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


@dataclass(frozen=True)
class Profile:
    """An optimization profile.

    Attributes:
        name: What it is for.
        ranges: The shapes of every input, by its name.
    """

    name: Phase
    ranges: Mapping[str, Range]


def decoder_profiles(axes_by_input: Mapping[str, Axes], limits: Limits) -> tuple[Profile, Profile]:
    """Return the profiles of a decoder's graph.

    Prefill takes a prompt without a past, decode one token after a past. The two could be one, but a kernel is chosen
    for the shapes that its profile calls optimal, and a decoded token and a prompt want different ones.

    Args:
        axes_by_input: For each input its axes, in order: sizes, and names of those that vary. The names are those of
            the exported graphs.
        limits: What the engine has to take.
    """
    batch = (1, 1, limits.max_batch)
    context = limits.max_context
    prompt = (1, min(TYPICAL_PROMPT, context), context)
    # a past of the typical prompt and as many tokens more; as short as one token, as long as the context allows
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
