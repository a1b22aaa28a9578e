"""The form in which the facts of what an architecture computes are written down; `_facts.py` has those of its weights.

The defaults are Llama's: `modeling_llama.py`, transformers 5.24.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Conditions = Mapping[str, Any]
"""Config fields with the values that they must all have; a tuple holds the values that will do."""


class NormKind(enum.StrEnum):
    """What a norm divides by, and how its weight counts."""

    RMS = "rms"
    RMS_FROM_ONE = "rms_from_one"
    """The weight is what is added to one: the Gemmas."""
    LAYER = "layer"
    """The mean is taken away first; the bias is optional."""


class NormSpan(enum.StrEnum):
    """Over what the norm of queries, or of keys, takes its mean."""

    HEAD = "head"
    """Each head by itself; all share a weight."""
    HEAD_OF_ITS_OWN = "head_of_its_own"
    """Each head by itself, with a weight of its own."""
    ALL_HEADS = "all_heads"
    """All heads at once, before they are told apart."""


@dataclass(frozen=True)
class HeadNorms:
    """The norms of queries and keys, of the same kind as the layer's.

    Attributes:
        query: Module path below the layer.
        key: Module path below the layer.
        span: Over what they are taken.
        when: When they are there at all.
    """

    query: str
    key: str
    span: NormSpan = NormSpan.HEAD
    when: Conditions = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """Where the norms of a layer stand, by module path below the layer; None where there is none.

    Attributes:
        before_attention: The norm in front of the attention.
        before_mlp: The norm in front of the MLP.
        after_attention: The norm of what the attention adds.
        after_mlp: The norm of what the MLP adds.
        parallel: Whether the MLP is given the layer's input, not what the attention has made of it.
        when: When a layer is of this form.
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
        theta: The old top-level field for `rope_theta`, and what is assumed without it.
        by_layer_type: The same for families whose parameters differ between types of layer.
        partial: The old top-level field for `partial_rotary_factor`; None where all of a head turns, whatever it says.
        interleaved: Whether a pair is made of neighbours, not of one dimension from each half.
        rotated: A field with one truth value a layer: whether it turns at all.
        unrotated_every: A field: without `rotated`, each so many-th layer does not turn.
        renamed: Types that this family reads as others.
    """

    theta: tuple[str, float] = ("rope_theta", 10_000.0)
    by_layer_type: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    partial: str | None = None
    interleaved: bool = False
    rotated: str | None = None
    unrotated_every: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """A learned vector for each position, added to the token's.

    Attributes:
        embedding: Module path.
        offset: The row of position 0.
    """

    embedding: str
    offset: int = 0


@dataclass(frozen=True)
class Windows:
    """Which layers see the last `sliding_window` tokens only. `layer_types`, where given, decides.

    Attributes:
        switch: A field that must be on for any window; None is always on.
        from_layer: A field: the first layer with a window.
        full_every: Each so many-th layer has none; a number, or a field and what is assumed without it.
        where_unrotated: Whether layers without rotary embeddings have one.
    """

    switch: str | None = None
    from_layer: str | None = None
    full_every: int | tuple[str, int] | None = None
    where_unrotated: bool = False


@dataclass(frozen=True)
class Factor:
    """A size by its canonical name, or a config field, to a power: what something is multiplied with."""

    of: str
    power: float = 1.0


@dataclass(frozen=True)
class AttentionScale:
    """What the products of queries and keys are multiplied with.

    Attributes:
        factor: The scale.
        switch: A field that must be on; without it the scale is 1.
        by_layer: A field: whether layer N's is divided by N + 1 besides.
    """

    factor: Factor = field(default_factory=lambda: Factor("head_dim", -0.5))
    switch: str | None = None
    by_layer: str | None = None


@dataclass(frozen=True)
class Computation:
    """What a decoder computes from its weights.

    Attributes:
        norm: The kind of all norms.
        epsilon: What they add before the root: a field, or a number.
        orders: The forms of a layer; the first whose conditions are met holds.
        final_norm: Module path of the norm in front of the head.
        head_norms: The norms of queries and keys.
        positions: How positions get in.
        windows: Which layers see a window only; None where no layer does, or all do (`windows_every_layer`).
        activation: The field that names the MLP's activation function.
        activation_names: Activation functions that this family reads as others.
        attention_scale: What the products of queries and keys are multiplied with.
        attention_softcap: A field: these products are kept below it by a tanh, before the mask.
        embedding_factor: What embeddings are multiplied with.
        residual_factor: What attention and MLP add is multiplied with this.
        logit_factor: What logits are multiplied with.
        logit_softcap: A field: logits are kept below it by a tanh.
    """

    norm: NormKind = NormKind.RMS
    epsilon: str | float = "rms_norm_eps"
    orders: tuple[Order, ...] = (Order("input_layernorm", "post_attention_layernorm"),)
    final_norm: str = "model.norm"
    head_norms: HeadNorms | None = None
    positions: Rotary | Learned = field(default_factory=Rotary)
    windows: Windows | None = None
    activation: str = "hidden_act"
    activation_names: Mapping[str, str] = field(default_factory=dict)
    attention_scale: AttentionScale = field(default_factory=AttentionScale)
    attention_softcap: str | None = None
    embedding_factor: Factor | None = None
    residual_factor: Factor | None = None
    logit_factor: Factor | None = None
    logit_softcap: str | None = None
