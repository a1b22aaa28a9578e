"""Which rows of a projection answer to which head or neuron: each is changed alone, and its effect is watched.

A query changes the attention of its own token, and of its head alone; a key that of other tokens, too, and of all heads
of its group; a value one entry of each of these heads; a neuron one input of the down projection.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PLACE = 2
"""The place of a token, or of a part of an image, whose projections are changed; others come before and after."""

_LEAST = 1e-10
"""The least change, relative to the largest value: below are rounding errors of float64."""


class Role(enum.Enum):
    """What a row of a projection makes."""

    QUERY = enum.auto()
    KEY = enum.auto()
    VALUE = enum.auto()
    NEURON = enum.auto()


@dataclass(frozen=True)
class Row:
    """A row of a projection.

    Attributes:
        role: What it makes.
        columns: Inputs of the next projection that it changes, in order.
    """

    role: Role
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """A module with weights of its own.

    Attributes:
        path: Its path in the layer.
        is_projection: Whether it multiplies with a matrix; otherwise it works on each entry, as a norm does.
        transposed: Whether the matrix is [inputs, outputs].
    """

    path: str
    is_projection: bool
    transposed: bool = False


@dataclass
class Watched:
    """What is seen of a run."""

    inputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)


@contextmanager
def watching(layer: torch.nn.Module, paths: Sequence[str]) -> Iterator[Watched]:
    """Record inputs and outputs of modules of a layer, by path."""
    seen = Watched()

    def hook(path: str) -> Callable[..., None]:
        def note(_: Any, given: tuple[Any, ...], output: Any) -> None:
            if given and hasattr(given[0], "shape") and hasattr(output, "shape"):
                seen.inputs.setdefault(path, []).append(given[0].detach().clone())
                seen.outputs.setdefault(path, []).append(output.detach().clone())

        return note

    handles = [layer.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def find_leaves(model: PreTrainedModel, layer: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[Leaf]:
    """Return the modules of a layer that have weights of their own and run, in their order."""
    import torch

    own = {
        path: module
        for path, module in layer.named_modules()
        if path and any(True for _ in module.parameters(recurse=False)) and not any(True for _ in module.children())
    }
    with watching(layer, list(own)) as seen, torch.no_grad():
        model(**inputs)
    leaves = []
    for path in seen.inputs:
        weight = getattr(own[path], "weight", None)
        given, made = seen.inputs[path][0], seen.outputs[path][0]
        if weight is None or weight.ndim > 2:
            continue
        if weight.ndim == 2 and tuple(given.shape[-2:]) != tuple(weight.shape):
            sizes = (made.shape[-1], given.shape[-1])
            if tuple(weight.shape) in (sizes, sizes[::-1]):
                transposed = _is_transposed(weight, given, made, own[path])
                leaves.append(Leaf(path, is_projection=True, transposed=transposed))
        elif given.shape == made.shape:
            leaves.append(Leaf(path, is_projection=False))
    return leaves


def _is_transposed(weight: torch.Tensor, given: torch.Tensor, made: torch.Tensor, module: torch.nn.Module) -> bool:
    import torch

    if weight.shape[0] != weight.shape[1]:
        return bool(weight.shape[0] == given.shape[-1])
    bias = getattr(module, "bias", None)
    product = given @ weight + (bias if bias is not None else 0)
    return bool(torch.allclose(product, made))


@dataclass(frozen=True)
class Probe:
    """What the rows of a projection do.

    Attributes:
        consumer: Path of the projection that takes what they make.
        rows: The rows; None for one that does nothing, or what no head and no neuron does.
    """

    consumer: str
    rows: tuple[Row | None, ...]


class Prober:
    """Probes the projections of one layer.

    Args:
        model: The model, in float64.
        layer: The layer.
        inputs: One sample, of more than `PLACE + 2` tokens.
        leaves: The modules of the layer from `find_leaves`.
    """

    def __init__(
        self, model: PreTrainedModel, layer: torch.nn.Module, inputs: Mapping[str, torch.Tensor], leaves: Sequence[Leaf]
    ) -> None:
        self._model, self._layer, self._inputs = model, layer, inputs
        self._projections = [leaf for leaf in leaves if leaf.is_projection]
        self._norms = [leaf.path for leaf in leaves if not leaf.is_projection and "." in leaf.path]

    def probe(self, path: str) -> Probe | None:
        """Return what the rows of a projection do; None if it is no input of an attention or of an MLP."""
        paths = [leaf.path for leaf in self._projections]
        later = paths[paths.index(path) + 1 :]
        # in both directions, of which a ReLU or a clip may hide one
        (count, up), (_, down) = self._run(path, later, sign=1), self._run(path, later, sign=-1)
        for other in later:
            both = _changes(up.inputs.get(other, []), count), _changes(down.inputs.get(other, []), count)
            if both[0] is not None and both[1] is not None and (changes_rsc := both[0] | both[1]).any():
                rows = tuple(_classify(changes_sc) for changes_sc in changes_rsc)
                return Probe(other, rows) if any(rows) else None
        return None

    def reaches(self, path: str, norm: str) -> bool:
        """Return whether a norm's input depends on a projection."""
        count, seen = self._run(path, [norm], sign=1)
        changes = _changes(seen.inputs.get(norm, []), count)
        return changes is not None and bool(changes.any())

    def _run(self, path: str, watched: Sequence[str], *, sign: int) -> tuple[int, Watched]:
        """Run a batch in which each sample has another row of a projection changed, and the last one none."""
        import torch

        module = self._layer.get_submodule(path)
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        count = weight.numel() // self._width(path)
        # norms of queries and keys would spread a change to other entries
        norms = [norm for norm in self._norms if norm.rpartition(".")[0] == path.rpartition(".")[0]]

        def change(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            if output.shape[0] % (count + 1) and output.numel() % ((count + 1) * count):
                return output  # of something that the samples share
            changed = output.clone().reshape(count + 1, -1, output.shape[-1])
            rows = torch.arange(count)
            changed[rows, PLACE, rows] += sign * changed.abs().max()
            return changed.reshape(output.shape)

        def identity(_: Any, given: tuple[torch.Tensor, ...], __: Any) -> torch.Tensor:
            return given[0]

        def alike(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            # layers before may compute in float32, whose rounding differs between the samples of a batch
            is_batch = len(given) > 0 and hasattr(given[0], "shape") and given[0].shape[0] == count + 1
            return (given[0][-1:].expand_as(given[0]), *given[1:]) if is_batch else given

        inputs = {name: value.expand(count + 1, *value.shape[1:]).clone() for name, value in self._inputs.items()}
        handles = [self._layer.get_submodule(norm).register_forward_hook(identity) for norm in norms]
        handles.append(module.register_forward_hook(change))
        handles.append(self._layer.register_forward_pre_hook(alike))
        try:
            with watching(self._layer, watched) as seen, torch.no_grad():
                self._model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return count, seen

    def _width(self, path: str) -> int:
        """Return the number of inputs of a projection."""
        (leaf,) = (leaf for leaf in self._projections if leaf.path == path)
        weight: torch.Tensor = self._layer.get_submodule(path).weight  # type: ignore[assignment]
        return int(weight.shape[0] if leaf.transposed else weight.shape[1])


def _changes(inputs: Sequence[torch.Tensor], count: int) -> Any:
    """Return which entries differ from those of the last sample, bool [rows, places, entries]; None if it never ran."""
    if len(inputs) != 1 or inputs[0].numel() % (count + 1):
        return None
    given = inputs[0].reshape(count + 1, -1, inputs[0].shape[-1])
    differences = (given[:-1] - given[-1:]).abs()
    return (differences > _LEAST * max(float(given.abs().max()), 1.0)).numpy()


def _classify(changes_sc: Any) -> Row | None:
    """Return what a row makes, given the entries that it changes, [places, entries]."""
    import numpy as np

    own = np.flatnonzero(changes_sc[PLACE])
    elsewhere = np.delete(changes_sc, PLACE, axis=0).any(axis=0)
    columns = tuple(map(int, np.flatnonzero(changes_sc.any(axis=0))))
    if not columns:
        return None
    if not elsewhere.any():
        return Row(Role.NEURON if len(own) == 1 else Role.QUERY, columns)
    is_block = len(columns) > 1 and columns[-1] - columns[0] + 1 == len(columns)
    return Row(Role.KEY if is_block else Role.VALUE, columns)
