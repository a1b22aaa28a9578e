"""The steps of a computation, whose values are named after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amp_export.exporters.onnx.builder.nodes import Attribute, Graph


@dataclass(frozen=True)
class Steps:
    """Adds nodes with one output each, which is named `SCOPE.NAME`.

    Attributes:
        graph: Graph to add them to.
        scope: What their names begin with.
    """

    graph: Graph
    scope: str

    def __call__(self, operator: str, *inputs: str, name: str, **attributes: Attribute) -> str:
        """Add a node, and return the name of its output."""
        return self.graph.add(operator, *inputs, output=f"{self.scope}.{name}", **attributes)
