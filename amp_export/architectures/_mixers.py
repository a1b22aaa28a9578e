"""Data classes for what mixes the tokens of a layer in place of attention, and is not pruned."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from amp_export.architectures._facts import Axis, Block


class MixerKind(enum.StrEnum):
    """What a mixer computes."""

    SHORT_CONVOLUTION = "short_convolution"
    """A causal convolution of each channel between two gates: `Lfm2ShortConv`, `modeling_lfm2.py`, transformers 5.24.
    Its input projection writes the first gate, the second, and what is convolved, side by side."""


@dataclass(frozen=True)
class State:
    """What a mixer remembers of the tokens before, in a size that does not grow with them.

    Attributes:
        name: Its name in the cache, as in `past_NAME.LAYER`.
        axes: Its axes after the batch.
    """

    name: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True, kw_only=True)
class Mixer(Block):
    """A mixer of tokens, whose tensors all stay.

    Attributes:
        kind: What it computes.
        states: What its cache holds.
        convolution: Module path of the convolution, relative to the layer.
    """

    kind: MixerKind
    states: tuple[State, ...]
    convolution: str
