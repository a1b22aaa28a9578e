"""Which value of a graph each module of a model returns: exporters leave the modules' names in nodes or beside them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

MODULES = "amp_export.modules"
"""Under which a graph that was traced keeps a JSON object: the value that each module returns, by the module's name."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node is from, outermost first, and then an operation of its own.

Source: `_set_node_metadata`, torch/onnx/_internal/exporter/_core.py, torch 2.13."""

WRAPPER = "model."
"""What is traced here is a module that holds the model under this name."""

_ALIASES = ((r"\battn\b", "self_attn"), (r"\blayers\.\d+\.final_norm_layernorm\b", "norm"))
"""Modules that the onnxruntime-genai builder calls otherwise: `make_attention` and `make_layernorm`, models/builders/
base.py, 0.18, where the last norm counts as one of the layer after the last."""


@dataclass(frozen=True)
class Scoped:
    """A node, as far as it tells what modules return.

    Attributes:
        modules: The modules that it is in, outermost first.
        inputs: The names of what it takes.
        outputs: The names of what it makes, as far as a module may return it.
    """

    modules: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def returned_values(nodes: Sequence[Scoped], results: Collection[str]) -> dict[str, str]:
    """Return the value that each module returns: the last that is made within it and used outside.

    Args:
        nodes: All nodes, in the order of the computation.
        results: What the graph returns.

    Returns:
        The value's name, by the module's.
    """
    users: dict[str, list[frozenset[str]]] = {name: [frozenset()] for name in results}
    for node in nodes:
        within = frozenset(node.modules)
        for name in node.inputs:
            users.setdefault(name, []).append(within)
    returned = {}
    for node in nodes:
        # of several, the first is the result of the operation, and others are by-products such as a sum or a mean
        for name in reversed(node.outputs):
            for module in node.modules:
                if any(module not in within for within in users.get(name, ())):
                    returned[module] = name
    return returned


def traced_values(model: ir.Model) -> dict[str, str]:
    """Return the values that modules return, of a graph that was traced just now, by names within the wrapped model."""
    graph = model.graph
    return returned_values([_scoped(node) for node in graph], {str(value.name) for value in graph.outputs})


def _scoped(node: ir.Node) -> Scoped:
    noted = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))[:-1]
    return Scoped(
        tuple(name.removeprefix(WRAPPER) for name in noted if name.startswith(WRAPPER)),
        tuple(str(value.name) for value in node.inputs if value is not None),
        tuple(str(value.name) for value in node.outputs if value.dtype is None or value.dtype.is_floating_point()),
    )


def module_values(model: onnx.ModelProto) -> dict[str, str]:
    """Return the values that modules return, of a graph that any exporter wrote, as far as it tells.

    Names of modules are the exporter's: not all need be the model's.
    """
    for entry in model.metadata_props:
        if entry.key == MODULES:
            kept: dict[str, str] = json.loads(entry.value)
            return kept
    nodes = [
        Scoped(tuple(_modules(node)), tuple(node.input), tuple(name for name in node.output if name))
        for node in model.graph.node
    ]
    return returned_values(nodes, {value.name for value in model.graph.output})


def _modules(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the modules that a node is in, by its metadata, or by a name such as `/model/layers.1/mlp/Mul`."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            yield from (name for name in ast.literal_eval(entry.value)[:-1] if name)
            return
    if "/" not in node.name:
        return
    scope = node.name.strip("/").rpartition("/")[0].replace("/", ".")
    for pattern, name in _ALIASES:
        scope = re.sub(pattern, name, scope)
    yield from enclosing(scope)


def enclosing(module: str) -> Iterator[str]:
    """Yield a module's name, and before it those of all modules that it is in, outermost first."""
    parts = module.split(".") if module else []
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def sample_names(nodes: Iterable[onnx.NodeProto], count: int = 3) -> list[str]:
    """Return the first few names of nodes that are no constants, to tell what a graph is like."""
    named = dict.fromkeys(node.name for node in nodes if node.name and not node.op_type.startswith("Constant"))
    return list(named)[:count]
