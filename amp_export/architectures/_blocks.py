"""Data classes for what a layer computes with: tensors, projections, and blocks of them."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amp_export.architectures._computation import Conditions


class PrunedUnit(enum.StrEnum):
    """A unit that pruning removes, and that an axis of a weight can be indexed by."""

    QUERY_HEADS = "query_heads"
    KEY_VALUE_HEADS = "key_value_heads"
    NEURONS = "neurons"


class Layout(enum.StrEnum):
    """Order of the parts of a fused weight."""

    BLOCKS = "blocks"
    """All of the first unit, then all of the next: phi3, gpt2."""
    GROUPS = "groups"
    """For each key/value head: its query heads, its key, its value: gpt_neox and every form of falcon."""
    INTERLEAVED = "interleaved"
    """The first of each unit, then the second of each: gpt_oss."""


@dataclass(frozen=True)
class Features:
    """An axis of a weight that is indexed by heads or neurons and sliced by pruning.

    Attributes:
        units: Units along the axis; several if projections are fused.
        layout: Their order along the axis.
        entries_per_head: Number of entries per head, or the config fields whose sum it is; None means `head_dim`.
    """

    units: tuple[PrunedUnit, ...]
    layout: Layout = Layout.BLOCKS
    entries_per_head: int | tuple[str, ...] | None = None


@dataclass(frozen=True)
class Offset:
    """An axis whose length is a size plus a constant."""

    size: str
    by: int


@dataclass(frozen=True)
class Total:
    """An axis whose length is a sum of products of sizes and numbers."""

    terms: tuple[tuple[str | int, ...], ...]


Axis = str | int | Offset | Total | Features
"""An axis: a size by its canonical name (such as `hidden_size`), a number, or an axis that pruning slices."""


@dataclass(frozen=True)
class Tensor:
    """A weight tensor, such as an embedding or a norm's weight.

    Attributes:
        name: Its name: relative to the layer for a layer's tensor, the full name otherwise.
        axes: Its axes.
        when: Conditions under which it exists.
        first_layer_only: Whether only the first layer has it.
        is_buffer: Whether it is a constant that files hold, and no parameter.
        is_stacked: Whether it holds a matrix for each expert, [experts, rows, columns].
    """

    name: str
    axes: tuple[Axis, ...]
    when: Conditions = field(default_factory=dict)
    first_layer_only: bool = False
    is_buffer: bool = False
    is_stacked: bool = False

    @property
    def spans_heads(self) -> bool:
        """Whether it is the weight of a norm over all heads at once."""
        return len(self.axes) == 1 and isinstance(self.axes[0], Features) and self.name.endswith(".weight")


@dataclass(frozen=True)
class Projection:
    """One linear layer of a decoder or encoder layer.

    Attributes:
        name: Module path relative to the layer.
        rows: Units of the output features; None means the hidden size.
        columns: Units of the input features; None means the hidden size.
        reads: Input features, if they are neither units nor the hidden size.
        writes: Output features, if they are neither units nor the hidden size.
        entries_per_head: Output features of a head: see `Features`.
        bias: Whether it has a bias, or the config field that decides.
        transposed: Whether the weight is [in, out], as in transformers' `Conv1D`.
        layout: Order of the parts of a fused projection.
        when: Conditions under which it exists.
        stacked: The config field with the number of experts, if their weights are stacked in one parameter, or None;
            their biases then are another, whose name ends in `_bias`.
    """

    name: str
    rows: PrunedUnit | tuple[PrunedUnit, ...] | None = None
    columns: PrunedUnit | None = None
    reads: Axis | None = None
    writes: Axis | None = None
    entries_per_head: tuple[str, ...] | None = None
    bias: bool | str = False
    transposed: bool = False
    layout: Layout = Layout.BLOCKS
    when: Conditions = field(default_factory=dict)
    stacked: str | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the weight and, if there may be one, the bias."""
        columns: Axis = self._axis(self.columns) if self.reads is None else self.reads
        rows = self._axis(self.rows, self.entries_per_head) if self.writes is None else self.writes
        experts = () if self.stacked is None else (self.stacked,)
        names = (
            (f"{self.name}.weight", f"{self.name}.bias") if self.stacked is None else (self.name, f"{self.name}_bias")
        )
        axes = (columns, rows) if self.transposed else (rows, columns)
        weight = Tensor(names[0], (*experts, *axes), self.when, is_stacked=self.stacked is not None)
        if self.bias is False:
            return (weight,)
        when = {**self.when, **({self.bias: True} if isinstance(self.bias, str) else {})}
        return (weight, Tensor(names[1], (*experts, rows), when))

    def has_bias(self, fields: Mapping[str, Any]) -> bool:
        """Return whether this projection has a bias under a config whose defaults are filled in."""
        return bool(fields[self.bias]) if isinstance(self.bias, str) else self.bias

    def _axis(
        self, units: PrunedUnit | tuple[PrunedUnit, ...] | None, entries_per_head: tuple[str, ...] | None = None
    ) -> Axis:
        if units is None:
            return "hidden_size"
        return Features(units if isinstance(units, tuple) else (units,), self.layout, entries_per_head)


class Count(enum.StrEnum):
    """A count that a module stores as an attribute and that pruning changes."""

    QUERY_HEADS = "query_heads"
    KEY_VALUE_HEADS = "key_value_heads"
    QUERY_GROUP = "query_group"
    QUERY_FEATURES = "query_features"
    NEURONS = "neurons"


@dataclass(frozen=True)
class Block:
    """An attention block or an MLP.

    Attributes:
        module: Module path relative to the layer; empty if the layer itself computes the block.
        inputs: Projections of the hidden state.
        output: Projection back to the hidden state; AMP scores its input.
        tensors: Norms within the block, named relative to the layer.
        attributes: Counts that the module's forward reads, by attribute; `config.NAME` is an attribute of the module's
            own copy of the config.
        shared_expert: The expert that all tokens go through besides those that a router chooses, or None.
        scales_inputs: Whether experts are given all tokens times the router's weights, for one expert after the other;
            otherwise they are given the tokens and which experts each is sent to.
    """

    module: str
    inputs: tuple[Projection, ...]
    output: Projection
    tensors: tuple[Tensor, ...] = ()
    attributes: Mapping[str, Count] = field(default_factory=dict)
    shared_expert: SharedExpert | None = None
    scales_inputs: bool = False

    @property
    def has_experts(self) -> bool:
        """Whether it consists of experts, each with its own neurons."""
        return self.output.stacked is not None

    @property
    def pruned_shared_expert(self) -> Block | None:
        """The shared expert, if it is pruned with the others; it is the last in scores and plans."""
        shared = self.shared_expert
        return shared.mlp if shared is not None and shared.mlp.output.columns is PrunedUnit.NEURONS else None

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Its linear layers, those of a shared expert last."""
        return (*self.inputs, self.output, *(() if self.shared_expert is None else self.shared_expert.projections))

    def all_tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of the block."""
        for projection in self.projections:
            yield from projection.tensors()
        yield from self.tensors


@dataclass(frozen=True)
class SharedExpert:
    """An MLP beside the experts that all tokens go through.

    Attributes:
        mlp: The MLP. It is pruned with the experts if its projections have neurons, as where one config field says how
            wide all are; otherwise it stays as it is.
        gate: Projection to one number, whose sigmoid the MLP's output is multiplied with; None if there is none.
    """

    mlp: Block
    gate: Projection | None = None

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Its linear layers."""
        return (*self.mlp.projections, *(() if self.gate is None else (self.gate,)))
