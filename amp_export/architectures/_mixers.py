"""Data classes for what mixes the tokens of a layer in place of attention or beside it, and is not pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amp_export.architectures._blocks import Axis, Block
from amp_export.architectures._computation import Conditions

_INFINITY = (math.inf, {"__float__": "Infinity"})
"""An infinite number in a config.json, and how transformers 5 writes it."""


@dataclass(frozen=True)
class State:
    """What a mixer remembers of the tokens before, in a size that does not grow with them.

    Attributes:
        name: Its name in the cache, as in `past_NAME.LAYER`.
        axes: Its axes after the batch.
        in_float32: Whether it is kept in float32, whatever the model's dtype.
    """

    name: str
    axes: tuple[Axis, ...]
    in_float32: bool = False


@dataclass(frozen=True, kw_only=True)
class Mixer(Block):
    """A mixer of tokens, whose tensors all stay. A causal convolution of each channel is a part of all.

    Attributes:
        states: What its cache holds; the first is that of the convolution: its last inputs, as many as it has taps.
        convolution: Module path of the convolution, relative to the layer.
    """

    states: tuple[State, ...]
    convolution: str


@dataclass(frozen=True, kw_only=True)
class ShortConvolution(Mixer):
    """A convolution between two gates: `Lfm2ShortConv`, `modeling_lfm2.py`, transformers 5.24.

    Its input projection writes the first gate, the second, and what is convolved, side by side.
    """


@dataclass(frozen=True, kw_only=True)
class GatedDeltaRule(Mixer):
    """A gated delta rule: `Qwen3_5GatedDeltaNet`, `modeling_qwen3_5.py`, transformers 5.24; arXiv 2412.06464.

    Its input projections write queries, keys and values, which are convolved, side by side; the gate of its output; and
    for each value head, how much of a value is written and how fast the state decays. Its second state is [value
    heads, width of a key, width of a value].

    Attributes:
        key_heads: Config field with the number of query and key heads, each of which serves several value heads.
        decay: Name of the logarithms of the decays, relative to the layer.
        decay_bias: Name of what is added to the projected decay.
        norm: Module path of the norm of each head's output, relative to the layer; its weight counts from zero.
    """

    key_heads: str
    decay: str
    decay_bias: str
    norm: str


@dataclass(frozen=True, kw_only=True)
class StateSpace(Mixer):
    """A state-space mixer: `GraniteMoeHybridMambaLayer`, `modeling_granitemoehybrid.py`, 5.24; arXiv 2405.21060.

    Its input projection writes the gate of its output, what is convolved, and a step for each head, side by side; what
    is convolved are values, keys and queries, which papers call x, B and C. Its second state is [heads, width of a key,
    width of a value].

    Attributes:
        groups: Config field with the number of groups of heads that share keys and queries.
        decay: Name of the logarithms of the decays, relative to the layer.
        step_bias: Name of what is added to the projected steps.
        skip: Name of the factors on values that are added to the result.
        norm: Module path of the norm of each group's output, relative to the layer.
        normed_when: Conditions under which there is a norm.
        gated_last_when: Conditions under which the gate follows the norm; None means that it always precedes it.
        step_limit: Config field with the smallest and the largest step.
    """

    groups: str
    decay: str
    step_bias: str
    skip: str
    norm: str
    step_limit: str
    normed_when: Conditions = field(default_factory=dict)
    gated_last_when: Conditions | None = None

    def limits_steps(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a config, whose defaults are filled in, limits the steps, which are positive anyway."""
        limit = fields[self.step_limit]
        return limit is not None and (limit[0] > 0 or limit[1] not in _INFINITY)
