"""Data classes for the facts about an architecture's computation; those about its weights are in `_facts.py`.

The defaults are Llama's: `modeling_llama.py`, transformers 5.24.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Conditions = Mapping[str, Any]
"""Config fields and the values that they must all have; a tuple lists alternatives, and `Not` rules one out."""


@dataclass(frozen=True)
class Not:
    """Any value but this one."""

    value: Any


class NormKind(enum.StrEnum):
    """Kind of norm: the statistic it divides by, and how its weight is applied."""

    RMS = "rms"
    RMS_FROM_ONE = "rms_from_one"
    """RMS norm whose scale is 1 + weight: the Gemma families."""
    LAYER = "layer"
    """Layer norm, which subtracts the mean first; the bias is optional."""
    LAYER_FROM_ONE = "layer_from_one"
    """Layer norm whose scale is 1 + weight: Nemotron."""

    @property
    def subtracts_mean(self) -> bool:
        """Whether it is a layer norm."""
        return self in (NormKind.LAYER, NormKind.LAYER_FROM_ONE)

    @property
    def counts_from_one(self) -> bool:
        """Whether its scale is 1 + weight."""
        return self in (NormKind.RMS_FROM_ONE, NormKind.LAYER_FROM_ONE)


class NormSpan(enum.StrEnum):
    """Entries over which a norm of queries or keys takes its mean."""

    HEAD = "head"
    """Each head separately; all heads share a weight."""
    HEAD_OF_ITS_OWN = "head_of_its_own"
    """Each head separately, with its own weight."""
    ALL_HEADS = "all_heads"
    """All heads at once, before they are split."""


@dataclass(frozen=True)
class HeadNorms:
    """Norms of queries and keys, of the same kind as the layer's norms.

    Attributes:
        query: Module path of the query norm, relative to the layer.
        key: Module path of the key norm, relative to the layer.
        span: Entries over which they take their mean.
        after_rotation: Whether they apply to rotated queries and keys; then they are over each head.
        when: Conditions under which they exist.
    """

    query: str
    key: str
    span: NormSpan = NormSpan.HEAD
    after_rotation: bool = False
    when: Conditions = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """Positions of a layer's norms, as module paths relative to the layer; None where there is no norm.

    Attributes:
        before_attention: Norm of the attention's input.
        before_mlp: Norm of the MLP's input.
        after_attention: Norm of the attention's output, before the residual addition.
        after_mlp: Norm of the MLP's output, before the residual addition.
        parallel: Whether attention and MLP both read the layer's input (parallel residual).
        when: Conditions under which a layer has this form.
    """

    before_attention: str | None
    before_mlp: str | None
    after_attention: str | None = None
    after_mlp: str | None = None
    parallel: bool = False
    when: Conditions = field(default_factory=dict)


@dataclass(frozen=True)
class Rotary:
    """Rotary position embeddings.

    Attributes:
        theta: The old top-level field for `rope_theta`, and its default; None if the default is always used.
        by_layer_type: The same by layer type, for families whose parameters differ between layer types.
        partial: The old top-level field for `partial_rotary_factor`; None if there is none.
        dimensions: Config field with the number of rotated dimensions of a head, where that is no share of it.
        interleaved: Whether adjacent dimensions form a pair; otherwise, a pair has one dimension from each half.
        rotated: Config field with one boolean per layer: whether it applies rotary embeddings.
        unrotated_every: Config field with an interval N, used without `rotated`: every N-th layer applies none.
        only_windowed: Whether only layers with a window apply rotary embeddings, if the config has a window.
        renamed: RoPE types that this family treats as another type.
        parameters: RoPE parameters of a config that has none.
        types: The only RoPE types that this family computes as others do; None if it is all of them.
        when: Conditions under which any layer applies rotary embeddings; without them, there are no positions.
    """

    theta: tuple[str | None, float] = ("rope_theta", 10_000.0)
    by_layer_type: Mapping[str, tuple[str | None, float]] = field(default_factory=dict)
    partial: str | None = None
    dimensions: str | None = None
    interleaved: bool = False
    rotated: str | None = None
    unrotated_every: str | None = None
    only_windowed: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[str, ...] | None = None
    when: Conditions = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """Learned position embeddings, added to the token embeddings.

    Attributes:
        embedding: Module path of the table.
        offset: The table row of position 0.
    """

    embedding: str
    offset: int = 0


@dataclass(frozen=True)
class Windows:
    """Which layers use sliding-window attention: all, unless a field restricts them.

    `layer_types` overrides this if the config sets it.

    Attributes:
        switch: Boolean config field that enables windows; None if they are always enabled.
        from_layer: Config field with the first layer that has a window.
        until_layer: Config field with the first layer from which on none has a window.
        full_every: Interval N: every N-th layer has full attention. A number, or a config field and its default.
        where_unrotated: Whether exactly the layers without rotary embeddings have a window.
    """

    switch: str | None = None
    from_layer: str | None = None
    until_layer: str | None = None
    full_every: int | tuple[str, int] | None = None
    where_unrotated: bool = False


@dataclass(frozen=True)
class Factor:
    """A multiplier: a size (by its canonical name), a config field or an item of one, raised to a power.

    Attributes:
        of: The size or the field.
        power: The power.
        item: Its place in the list that the field holds; None if that is a number.
    """

    of: str
    power: float = 1.0
    item: int | None = None


@dataclass(frozen=True)
class AttentionScale:
    """The scale of the attention scores.

    Attributes:
        factor: The multiplier.
        switch: Boolean config field that enables it; if it is off, the scale is 1.
        by_layer: Boolean config field: whether the scale of layer N is also divided by N + 1.
        by_position: RoPE parameter with a number b: queries at position p are also multiplied by
            1 + b log(1 + floor(p / `original_max_position_embeddings`)). None if they are not.
    """

    factor: Factor = field(default_factory=lambda: Factor("head_dim", -0.5))
    switch: str | None = None
    by_layer: str | None = None
    by_position: str | None = None


@dataclass(frozen=True)
class Computation:
    """The computation of a decoder.

    Attributes:
        norm: Kind of all norms.
        epsilon: Their epsilon: a config field or a number.
        orders: Possible forms of a layer; the first whose conditions are met applies.
        final_norm: Module path of the norm before the LM head.
        head_norms: Norms of queries and keys.
        positions: Position embeddings.
        windows: Layers with sliding-window attention; None if no layer has it, or all do (`windows_every_layer`).
        activation: Config field with the name of the MLP's activation function.
        fixed_activation: The name of the MLP's activation function, if no field names it.
        activation_names: Activation functions that this family treats as another one.
        activation_module: Module path, relative to the layer, of an activation function that has parameters.
        attention_scale: Scale of the attention scores.
        gates_attention: Whether the projection to each query head also writes a gate after it, whose sigmoid the
            head's output is multiplied with.
        attention_clip: Config field with the largest magnitude of queries, keys and values, after their norms.
        attention_sinks: Name of the sinks, relative to the layer: a score for each query head, which takes part in the
            softmax and adds no value.
        attention_softcap: Config field with the tanh soft cap of the attention scores, applied before the mask.
        embedding_factor: Multiplier of the embeddings.
        scales_all_embeddings: Whether it also applies to embeddings that are given instead of tokens: the model scales
            them, not the embedding's own module.
        residual_factor: Multiplier of the outputs of attention and MLP.
        read_factors: Multipliers of what attention, mixer or MLP read, by the path of the block's module.
        write_factors: Multipliers of what linear layers write, biases included, by their paths: one, or one for each
            part of the output, as the projection's `writes` counts them.
        logit_factor: Multiplier of the logits.
        logit_softcap: Config field with the tanh soft cap of the logits.
    """

    norm: NormKind = NormKind.RMS
    epsilon: str | float = "rms_norm_eps"
    orders: tuple[Order, ...] = (Order("input_layernorm", "post_attention_layernorm"),)
    final_norm: str = "model.norm"
    head_norms: HeadNorms | None = None
    positions: Rotary | Learned = field(default_factory=Rotary)
    windows: Windows | None = None
    activation: str = "hidden_act"
    fixed_activation: str | None = None
    activation_names: Mapping[str, str] = field(default_factory=dict)
    activation_module: str | None = None
    attention_scale: AttentionScale = field(default_factory=AttentionScale)
    gates_attention: bool = False
    attention_clip: str | None = None
    attention_sinks: str | None = None
    attention_softcap: str | None = None
    embedding_factor: Factor | None = None
    scales_all_embeddings: bool = False
    residual_factor: Factor | None = None
    read_factors: Mapping[str, Factor] = field(default_factory=dict)
    write_factors: Mapping[str, tuple[Factor, ...]] = field(default_factory=dict)
    logit_factor: Factor | None = None
    logit_softcap: str | None = None
