"""The stacks of layers of a model, and the attentions and MLPs in a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.architectures import PrunedUnit
from amp_export.discovery.kinds import caching_layers
from amp_export.discovery.layouts import Heads, Rows, count_heads, lay_heads, lay_neurons
from amp_export.discovery.probing import Leaf, Prober, Role, Row, find_leaves

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FoundProjection:
    """A projection of the hidden state.

    Attributes:
        path: Its path in the layer.
        rows: What its rows are.
        transposed: Whether its weight is [inputs, outputs].
        bias: Whether it has a bias.
    """

    path: str
    rows: Rows
    transposed: bool
    bias: bool


@dataclass(frozen=True)
class FoundNorm:
    """A norm of queries or keys that is sliced.

    Attributes:
        path: Its path in the layer.
        unit: The heads that its weight is indexed by.
        by_head: Whether each head has a row; otherwise it spans all entries of all heads.
    """

    path: str
    unit: PrunedUnit
    by_head: bool


@dataclass(frozen=True)
class FoundBlock:
    """An attention or an MLP.

    Attributes:
        inputs: Projections of the hidden state.
        output: Path of the projection back to it.
        transposed: Whether the weight of that is [inputs, outputs].
        bias: Whether that has a bias.
        heads: The heads of an attention; None for an MLP.
        norms: Norms of queries and keys that are sliced.
    """

    inputs: tuple[FoundProjection, ...]
    output: str
    transposed: bool
    bias: bool
    heads: Heads | None = None
    norms: tuple[FoundNorm, ...] = ()

    @property
    def paths(self) -> list[str]:
        """Paths of its modules in the layer."""
        return [*(each.path for each in self.inputs), self.output, *(norm.path for norm in self.norms)]


@dataclass(frozen=True)
class FoundLayer:
    """What is in a layer.

    Attributes:
        stack: Path of the layers.
        number: Its number.
        blocks: Its attentions and MLPs, in their order.
        problems: What was not understood.
        unread: Path of the output projection of an attention that was not understood, or None.
    """

    stack: str
    number: int
    blocks: tuple[FoundBlock, ...]
    problems: tuple[str, ...] = ()
    unread: str | None = None

    @property
    def path(self) -> str:
        """Its module path."""
        return f"{self.stack}.{self.number}"

    @property
    def heads(self) -> Heads | None:
        """The heads of its first attention; None if none is understood."""
        return next((block.heads for block in self.blocks if block.heads is not None), None)


def find_stacks(model: PreTrainedModel) -> list[str]:
    """Return the paths of the outermost lists of modules, of which each is a stack of layers."""
    import torch

    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and any(True for _ in module.parameters())
    ]
    return [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]


def find_layer(model: PreTrainedModel, stack: str, inputs: Mapping[str, torch.Tensor]) -> FoundLayer:
    """Return what is in the first layer of a stack that attends in a way that is understood, or in the very first.

    Args:
        model: A tiny model in float64.
        stack: Path of the layers.
        inputs: One sample.
    """
    count = len(list(model.get_submodule(stack).children()))
    found = []
    # state-space mixers take long to probe, and only attentions cache keys
    for number in caching_layers(model, inputs, count) or range(count):
        found.append(read_layer(model, stack, number, inputs))
        if found[-1].heads is not None:
            return found[-1]
    return next((layer for layer in found if layer.unread is not None), found[0])


def read_layer(model: PreTrainedModel, stack: str, number: int, inputs: Mapping[str, torch.Tensor]) -> FoundLayer:
    """Return what is in one layer of a stack; see `find_layer`."""
    layer = model.get_submodule(f"{stack}.{number}")
    leaves = find_leaves(model, layer, inputs)
    prober = Prober(model, layer, inputs, leaves)
    probes = {
        leaf.path: probe for leaf in leaves if leaf.is_projection and (probe := prober.probe(leaf.path)) is not None
    }
    attentions = {
        probe.consumer
        for probe in probes.values()
        if any(row is not None and row.role in (Role.KEY, Role.VALUE) for row in probe.rows)
    }
    blocks, problems = [], []
    outputs = {probe.consumer for path, probe in probes.items() if path not in attentions}
    for output in sorted(outputs, key=[leaf.path for leaf in leaves].index):
        inputs_of = {
            path: probe.rows
            for path, probe in probes.items()
            if probe.consumer == output and path not in attentions and path not in outputs
        }
        block = _Reader(layer, leaves, prober).read(inputs_of, output, attends=output in attentions)
        if block is not None:
            blocks.append(block)
        elif inputs_of and output in attentions:
            problems.append(f"the rows of {', '.join(inputs_of)} are in no order that is known")
    understood = {block.output for block in blocks}
    unread = next((leaf.path for leaf in leaves if leaf.path in attentions - understood), None)
    return FoundLayer(stack, number, tuple(blocks), tuple(problems), unread)


@dataclass(frozen=True)
class _Reader:
    """Reads the blocks of a layer."""

    layer: torch.nn.Module
    leaves: Sequence[Leaf]
    prober: Prober

    def read(self, rows: Mapping[str, Sequence[Row | None]], output: str, *, attends: bool) -> FoundBlock | None:
        """Return a block, given what the rows of its inputs do; None if it is not understood."""
        leaf = self._leaf(output)
        weight: torch.Tensor = self.layer.get_submodule(output).weight  # type: ignore[assignment]
        columns = int(weight.shape[0 if leaf.transposed else 1])
        every = [row for each in rows.values() for row in each]
        heads = count_heads(every, columns) if attends else None
        if attends and heads is None:
            return None
        found = []
        for path, each in rows.items():
            laid = lay_heads(each, heads) if heads is not None else lay_neurons(each, columns)
            if laid is None:
                return None
            found.append(FoundProjection(path, laid, self._leaf(path).transposed, self._has_bias(path)))
        norms = tuple(self._norms(found, heads)) if heads is not None else ()
        return (
            FoundBlock(tuple(found), output, leaf.transposed, self._has_bias(output), heads, norms) if found else None
        )

    def _leaf(self, path: str) -> Leaf:
        return next(leaf for leaf in self.leaves if leaf.path == path)

    def _has_bias(self, path: str) -> bool:
        return getattr(self.layer.get_submodule(path), "bias", None) is not None

    def _norms(self, inputs: Sequence[FoundProjection], heads: Heads) -> Iterator[FoundNorm]:
        """Yield the norms of queries and keys whose weights are sliced with the heads."""
        paths = {projection.path.rpartition(".")[0] for projection in inputs}
        for leaf in self.leaves:
            if leaf.is_projection or leaf.path.rpartition(".")[0] not in paths:
                continue
            weight: torch.Tensor = self.layer.get_submodule(leaf.path).weight  # type: ignore[assignment]
            shape = tuple(weight.shape)
            for projection in inputs:
                for unit in dict.fromkeys(projection.rows.units):
                    count = heads.query_heads if unit is PrunedUnit.QUERY_HEADS else heads.key_value_heads
                    spans = {(count * heads.head_dim,): False, (count, heads.head_dim): True}
                    if shape in spans and self.prober.reaches(projection.path, leaf.path):
                        yield FoundNorm(leaf.path, unit, spans[shape])
                        break
                else:
                    continue
                break
