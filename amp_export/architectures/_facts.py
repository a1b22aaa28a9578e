"""The form in which the facts of an architecture are written down."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class Unit(enum.StrEnum):
    """What pruning removes, and what one axis of a weight can be indexed by."""

    QUERY_HEADS = "query_heads"
    KEY_VALUE_HEADS = "key_value_heads"
    NEURONS = "neurons"


@dataclass(frozen=True)
class Projection:
    """One linear layer of a decoder layer.

    Attributes:
        name: Module path below the decoder layer.
        rows: What the output features are indexed by; None is the hidden size.
        columns: What the input features are indexed by; None is the hidden size.
        bias: Whether there is a bias, or the config field that says so.
    """

    name: str
    rows: Unit | None = None
    columns: Unit | None = None
    bias: bool | str = False

    def has_bias(self, config: Mapping[str, Any]) -> bool:
        """Whether this projection has a bias under `config`, whose defaults are filled in."""
        return bool(config[self.bias]) if isinstance(self.bias, str) else self.bias


@dataclass(frozen=True)
class Projections:
    """The linear layers of a decoder layer, in the order of the computation."""

    query: Projection
    key: Projection
    value: Projection
    output: Projection
    gate: Projection
    up: Projection
    down: Projection

    def __iter__(self) -> Iterator[Projection]:
        return iter((self.query, self.key, self.value, self.output, self.gate, self.up, self.down))


@dataclass(frozen=True)
class Sibling:
    """Another class that computes the same from the same weights, bit for bit.

    Attributes:
        model_type: The sibling's `model_type`.
        requires: Config fields, with the values they must have for the two to agree.
        sets: Config fields that the sibling needs set for the two to agree.
    """

    model_type: str
    requires: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """All that is known of one `model_type`. Names of weights are those of transformers.

    Attributes:
        model_type: The `model_type` of its configs, and the name of its file.
        class_name: The transformers class with a language model head.
        defaults: What transformers assumes for config fields that a config.json may leave out. `None` marks a field
            that is derived: see `DecoderConfig.read`.
        projections: The linear layers of a decoder layer.
        query_norm: Module path of an RMS norm over each query head, or None.
        key_norm: The same for the keys.
        hidden_size_divisible_by_heads: Whether the config class refuses other head counts, even with `head_dim` set.
        windows_every_layer: Whether `sliding_window`, if set, holds for all layers without being switched on.
        siblings: Classes that can say what this one cannot, in order of preference.
    """

    model_type: str
    class_name: str
    defaults: Mapping[str, Any]
    projections: Projections
    query_norm: str | None = None
    key_norm: str | None = None
    hidden_size_divisible_by_heads: bool = False
    windows_every_layer: bool = False
    siblings: tuple[Sibling, ...] = ()
    base_model: str = "model"
    layers: str = "model.layers"
    input_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"

    def sliced_tensors(self) -> Iterator[tuple[str, int, Unit]]:
        """Yields, for each tensor of a layer that pruning slices, its name below the layer, the axis and the unit."""
        for projection in self.projections:
            if projection.rows is not None:
                yield f"{projection.name}.weight", 0, projection.rows
                yield f"{projection.name}.bias", 0, projection.rows
            if projection.columns is not None:
                yield f"{projection.name}.weight", 1, projection.columns


def separate_projections(
    *, query_key_value_bias: bool | str, output_bias: bool | str, mlp_bias: bool | str
) -> Projections:
    """The layout of Llama and its kin: seven separate linear layers, gated MLP.

    Source: `modeling_llama.py`, `LlamaAttention` and `LlamaMLP`, transformers 5.23.
    """
    return Projections(
        query=Projection("self_attn.q_proj", rows=Unit.QUERY_HEADS, bias=query_key_value_bias),
        key=Projection("self_attn.k_proj", rows=Unit.KEY_VALUE_HEADS, bias=query_key_value_bias),
        value=Projection("self_attn.v_proj", rows=Unit.KEY_VALUE_HEADS, bias=query_key_value_bias),
        output=Projection("self_attn.o_proj", columns=Unit.QUERY_HEADS, bias=output_bias),
        gate=Projection("mlp.gate_proj", rows=Unit.NEURONS, bias=mlp_bias),
        up=Projection("mlp.up_proj", rows=Unit.NEURONS, bias=mlp_bias),
        down=Projection("mlp.down_proj", columns=Unit.NEURONS, bias=mlp_bias),
    )
