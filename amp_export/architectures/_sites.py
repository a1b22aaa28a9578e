"""One layer of a model: where it is, and how wide."""

from __future__ import annotations

from dataclasses import dataclass

from amp_export.architectures._blocks import PrunedUnit
from amp_export.architectures._facts import Stack


@dataclass(frozen=True)
class LayerWidths:
    """The widths of one layer.

    Attributes:
        query_heads: Number of query heads; 0 in a layer without attention.
        key_value_heads: Number of key/value heads; it divides `query_heads`.
        neurons: Intermediate size of the MLP; 0 in a layer without one.
    """

    query_heads: int
    key_value_heads: int
    neurons: int

    @property
    def query_group(self) -> int:
        """Query heads that share one key/value head; 0 in a layer without attention."""
        return self.query_heads // self.key_value_heads if self.key_value_heads else 0

    def of(self, unit: PrunedUnit) -> int:
        """Return the count of `unit`."""
        return int(getattr(self, unit.value))


@dataclass(frozen=True)
class Site:
    """One layer of one stack; a plan has one entry per site.

    Attributes:
        stack: The stack that it belongs to.
        number: Its number in the stack.
        path: Its module path.
        widths: Its widths according to the config.
    """

    stack: Stack
    number: int
    path: str
    widths: LayerWidths
