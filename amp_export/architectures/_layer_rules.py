"""Which layers of a model have a part that is pruned, as its config says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amp_export.errors import ModelError, UnsupportedModelError


@dataclass(frozen=True)
class LayerRule:
    """Which layers have a part, as the config says: by the first of these fields that is set. The others keep theirs.

    Attributes:
        kinds: Kinds of layers that have it, by the config field with the kind of each layer.
        numbers: Config field with the numbers of the layers that have it.
        every: Config field with N, if it is each N-th layer.
        after: Config field with the number of first layers, which lack it.
        before: Config field with the number of last layers, which lack it.
        when: Conditions under which some layers lack it; otherwise all have it.
        otherwise: Whether all layers have it, or none, where no field is set.
    """

    kinds: Mapping[str, tuple[str | float, ...]] = field(default_factory=dict)
    numbers: str | None = None
    every: str | None = None
    after: str | None = None
    before: str | None = None
    when: Mapping[str, Any] = field(default_factory=dict)
    otherwise: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The config fields, in the order in which they count."""
        return tuple(
            name for name in (*self.kinds, self.numbers, self.every, self.after, self.before) if name is not None
        )


def read_layers(rule: LayerRule | None, fields: Mapping[str, Any], layers: int) -> frozenset[int]:
    """Return the numbers of the layers that have a part.

    Args:
        rule: The rule; None means all layers.
        fields: Config fields, with defaults filled in.
        layers: Number of layers.

    Raises:
        ModelError: The field is damaged.
    """
    every = frozenset(range(layers))
    if rule is None or any(fields.get(each) != value for each, value in rule.when.items()):
        return every
    name = next((each for each in rule.names if fields.get(each) is not None), None)
    if name is None:
        return every if rule.otherwise else frozenset()
    value = fields[name]
    if name in (rule.every, rule.after, rule.before):
        _check(name, value, is_right=type(value) is int and value >= (name == rule.every), needed="a number of layers")
        if name == rule.every:
            return frozenset(each for each in every if (each + 1) % value == 0)
        return every.difference(range(value) if name == rule.after else range(layers - value, layers))
    is_list = isinstance(value, list | tuple)
    if name == rule.numbers:
        is_right = is_list and all(type(each) is int and each in every for each in value)
        _check(name, value, is_right=is_right, needed=f"a list of numbers of layers, 0 to {layers - 1}")
        return frozenset(value)
    _check(name, value, is_right=is_list and len(value) == layers, needed=f"a list of the kinds of {layers} layers")
    return frozenset(number for number, kind in enumerate(value) if kind in rule.kinds[name])


def refuse_none(rule: LayerRule | None, fields: Mapping[str, Any], layers: int, *, part: str, advice: str) -> None:
    """Refuse a config with which no layer has a part.

    Args:
        rule: See `read_layers`.
        fields: Config fields, with defaults filled in.
        layers: Number of layers.
        part: What is missing, for the message.
        advice: What can be removed instead, for the message.

    Raises:
        UnsupportedModelError: No layer has it.
        ModelError: The field is damaged.
    """
    if rule is not None and not read_layers(rule, fields, layers):
        name = next((each for each in rule.names if fields.get(each) is not None), rule.names[0])
        raise UnsupportedModelError(
            f"config.json: {name} is {fields.get(name)!r}, which leaves no layer with {part}.\n{advice}"
        )


def _check(name: str, value: Any, *, is_right: bool, needed: str) -> None:
    if not is_right:
        raise ModelError(f"config.json: {name} is {value!r}, but must be {needed}.")
