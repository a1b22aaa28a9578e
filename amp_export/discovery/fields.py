"""Which config fields say each count: a field is changed, and the shapes that move are watched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from amp_export.architectures import PrunedUnit
from amp_export.discovery.structure import FoundBlock, FoundLayer
from amp_export.discovery.tiny import SIZES, Tiny

_STEP = 8
"""What is added to a size; norms in groups and rotated halves divide it."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Experts:
    """Stacked weights of experts.

    Attributes:
        inputs: Path of the parameter [experts, neurons or twice as many, hidden].
        fused: How many parts of the neurons' length that has.
        output: Path of the parameter [experts, hidden, neurons].
        count: The config field with the number of experts.
        transposed: Whether the last two axes are the other way round.
        bias: Whether there are biases.
    """

    inputs: str
    fused: int
    output: str
    count: str
    transposed: bool = False
    bias: bool = False

    @property
    def neurons_axis(self) -> int:
        """The axis of neurons of `output`."""
        return 1 if self.transposed else 2


@dataclass(frozen=True)
class FoundFields:
    """Config fields, as far as they were found.

    Attributes:
        names: Fields by canonical names of sizes; None where a size follows from others.
        derived: Multiples of the hidden size that a field has if the config does not set it.
        says_neurons: Whether the field with the number of neurons moves nothing else.
        biases: Fields that decide on biases, by the paths of projections in a layer.
        required: Fields that change the weights in other ways, with their values.
        experts: The experts of a layer, or None.
    """

    names: Mapping[str, str | None]
    derived: Mapping[str, int] = field(default_factory=dict)
    says_neurons: bool = True
    biases: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    experts: Experts | None = None


@dataclass(frozen=True)
class FieldFinder:
    """Finds the fields of a tiny model.

    Attributes:
        tiny: The model.
        layers: What is in a layer of each stack.
    """

    tiny: Tiny
    layers: Sequence[FoundLayer]

    def find(self) -> FoundFields:
        """Return the fields."""
        names: dict[str, str | None] = dict(self.tiny.names)
        names["head_dim"] = self._head_dim(names.get("head_dim"))
        names["num_key_value_heads"] = self._key_value_heads(names.get("num_key_value_heads"))
        experts = self.find_experts()
        neurons, factor, says = self._neurons(names.get("intermediate_size"), experts)
        names["intermediate_size"] = neurons
        derived = {} if factor is None else {neurons or "intermediate_size": factor}
        biases, required = self._switches()
        return FoundFields(names, derived, says, biases, required, experts)

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes of the model's parameters."""
        shapes = self.tiny.shapes()
        assert shapes is not None
        return shapes

    @property
    def _last(self) -> str:
        """Path of the last layer, which has experts if any has."""
        return f"{self.layers[0].stack}.{SIZES['num_hidden_layers'] - 1}"

    def _moved(self, name: str, value: Any) -> dict[str, tuple[int, ...]] | None:
        """Return the parameters whose shapes another value of a field moves, with these; None if it is refused."""
        shapes = self.tiny.but(**{name: value}).shapes()
        if shapes is None:
            return None
        return {each: shape for each, shape in shapes.items() if self.shapes.get(each) not in (None, shape)}

    def _numbers(self) -> Iterator[tuple[str, int]]:
        """Yield the fields that may be sizes, and another value of each."""
        for name, value in self.tiny.values.items():
            if name.endswith("_token_id") or isinstance(value, bool):
                continue
            if isinstance(value, int) and value > 0:
                yield name, value + _STEP
            elif value is None:
                yield name, SIZES["intermediate_size"] - _STEP

    def _blocks(self, *, attends: bool) -> Iterator[tuple[FoundLayer, FoundBlock]]:
        for layer in self.layers:
            for block in layer.blocks:
                if (block.heads is not None) == attends:
                    yield layer, block

    def _head_dim(self, name: str | None) -> str | None:
        """Return the field that says the width of a head; some classes read it although their configs lack it."""
        name = name or "head_dim"
        layer, block = next(self._blocks(attends=True), (None, None))
        if layer is None or block is None or block.heads is None:
            return None
        other = block.heads.head_dim + _STEP
        moved = self._moved(name, other) or {}
        takes_effect = f"{layer.path}.{block.output}.weight" in moved
        # other modules may still be as long as the hidden size
        return name if takes_effect and self.tiny.but(**{name: other}).why_not() is None else None

    def _key_value_heads(self, name: str | None) -> str | None:
        """Return the field that says the number of key/value heads."""
        layer, block = next(self._blocks(attends=True), (None, None))
        if layer is None or block is None or block.heads is None:
            return None
        keys = next(each.path for each in block.inputs if PrunedUnit.KEY_VALUE_HEADS in each.rows.units)
        others = set(self.tiny.names.values())
        candidates = [name] if name is not None else [each for each, _ in self._numbers() if each not in others]
        for candidate in candidates:
            for count in (3, 2, 1):
                moved = self._moved(candidate, count) or {}
                outputs = f"{layer.path}.{block.output}.weight"
                if f"{layer.path}.{keys}.weight" in moved and outputs not in moved:
                    return candidate
        return None

    def _neurons(self, name: str | None, experts: Experts | None) -> tuple[str | None, int | None, bool]:
        """Return the field that says the number of neurons.

        Returns:
            The field, or None; the multiple of the hidden size where it is not set; and whether it moves nothing else.
        """
        if experts is not None:
            weight, axis = f"{self._last}.{experts.output}", experts.neurons_axis
        else:
            layer, block = next(self._blocks(attends=False))
            weight, axis = f"{layer.path}.{block.output}.weight", 0 if block.transposed else 1
        numbers = dict(self._numbers())
        for candidate in (*([name] if name in numbers else []), *(each for each in numbers if each != name)):
            moved = self._moved(candidate, numbers[candidate]) or {}
            if weight in moved and moved[weight][axis] == numbers[candidate]:
                default = self.tiny.but(**{candidate: None}).shapes()
                stacks = tuple(f"{layer.stack}." for layer in self.layers)
                return candidate, _multiple(default, weight, axis), all(each.startswith(stacks) for each in moved)
        return None, _multiple(self.shapes, weight, axis), False

    def find_experts(self) -> Experts | None:
        """Return the experts of a layer, whose weights are stacked in parameters of three axes."""
        prefix = f"{self._last}."
        stacked = {name: shape for name, shape in self.shapes.items() if name.startswith(prefix) and len(shape) == 3}
        hidden = SIZES["hidden_size"]
        for transposed in (False, True):
            into = [name for name, shape in stacked.items() if shape[1 if transposed else 2] == hidden]
            back = [name for name, shape in stacked.items() if shape[2 if transposed else 1] == hidden]
            if len(into) != 1 or len(back) != 1 or into == back:
                continue
            (given,), (made,) = into, back
            fused, rest = divmod(stacked[given][2 if transposed else 1], stacked[made][1 if transposed else 2])
            if fused and not rest:
                break
        else:
            return None
        counts = [
            name
            for name, value in self._numbers()
            if (moved := self._moved(name, value)) and made in moved and moved[made][0] != stacked[made][0]
        ]
        if not counts:
            return None
        bias = f"{given}_bias" in self.shapes
        return Experts(given.removeprefix(prefix), fused, made.removeprefix(prefix), counts[0], transposed, bias)

    def is_as_wide(self, block: FoundBlock, experts: Experts) -> bool:
        """Return whether the last layer has an MLP beside experts, whose width is theirs by the same fields.

        Where another field moves one of the two, as a number of shared experts does, they only happen to be alike.
        """
        own = f"{self._last}.{block.output}.weight", 0 if block.transposed else 1
        ends = own, (f"{self._last}.{experts.output}", experts.neurons_axis)
        if (
            any(name not in self.shapes for name, _ in ends)
            or len({self.shapes[name][axis] for name, axis in ends}) > 1
        ):
            return False
        for field_name, value in self._numbers():
            moved = self._moved(field_name, value) or {}
            if len({moved.get(name, self.shapes[name])[axis] for name, axis in ends}) > 1:
                return False
        return True

    def _switches(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the switches of biases, and other switches that change which weights there are."""
        biases: dict[str, str] = {}
        required: dict[str, Any] = {}
        ends = {
            f"{layer.path}.{path}.bias": path
            for layer in self.layers
            for block in layer.blocks
            for path in (*(each.path for each in block.inputs), block.output)
        }
        for name, value in self.tiny.values.items():
            if not isinstance(value, bool) or (shapes := self.tiny.but(**{name: not value}).shapes()) is None:
                continue
            changed = set(shapes) ^ set(self.shapes)
            first = {each for each in changed if any(each.startswith(f"{layer.path}.") for layer in self.layers)}
            if first and first <= set(ends):
                biases |= {ends[each]: name for each in first}
            elif first or any(shapes[each] != self.shapes[each] for each in set(shapes) & set(self.shapes)):
                required[name] = value
        return biases, required


def _multiple(shapes: Shapes | None, weight: str, axis: int) -> int | None:
    """Return how many times the hidden size an axis is long; None if it is no multiple."""
    if shapes is None or shapes[weight][axis] % SIZES["hidden_size"]:
        return None
    return shapes[weight][axis] // SIZES["hidden_size"]
