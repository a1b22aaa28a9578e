"""Maps modules to the graph values that they return, by the module names that exporters store in a graph."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amp_export.documents import decode_json

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

MODULES = "amp_export.modules"
"""Metadata key of a traced graph; its value is a JSON object that maps each module to the value it returns."""

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of torch's exporter for the modules of a node, outermost first, followed by the operation.

Source: `_set_node_metadata`, torch/onnx/_internal/exporter/_core.py, torch 2.13."""

WRAPPER = "model."
"""Prefix of module names: the traced module wraps the model under this name."""

_ALIASES = ((r"\battn\b", "self_attn"), (r"\blayers\.\d+\.final_norm_layernorm\b", "norm"))
"""Module names of the onnxruntime-genai builder and of transformers: `make_attention` and `make_layernorm`,
models/builders/base.py, 0.18, which assigns the final norm to a layer after the last one."""


@dataclass(frozen=True)
class Scoped:
    """A node and its modules.

    Attributes:
        modules: Modules that contain it, outermost first.
        inputs: Names of its inputs.
        outputs: Names of its outputs that a module may return.
    """

    modules: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def returned_values(nodes: Sequence[Scoped], results: Collection[str]) -> dict[str, str]:
    """Return the value that each module returns: the last one that is computed inside and used outside.

    Args:
        nodes: All nodes, in order of execution.
        results: Names of the graph's outputs.

    Returns:
        Names of values, by module.
    """
    users: dict[str, list[frozenset[str]]] = {name: [frozenset()] for name in results}
    for node in nodes:
        within = frozenset(node.modules)
        for name in node.inputs:
            users.setdefault(name, []).append(within)
    returned = {}
    for node in nodes:
        # reversed, so that the first output, the result, overwrites by-products such as a sum or a mean
        for name in reversed(node.outputs):
            for module in node.modules:
                if any(module not in within for within in users.get(name, ())):
                    returned[module] = name
    return returned


def traced_values(model: ir.Model) -> dict[str, str]:
    """Return the value that each module returns in a newly traced graph, by module names of the wrapped model."""
    graph = model.graph
    return returned_values([_scoped(node) for node in graph], {str(value.name) for value in graph.outputs})


def _scoped(node: ir.Node) -> Scoped:
    noted = _read_scopes(node.metadata_props.get(SCOPES, "[]"))
    return Scoped(
        tuple(name.removeprefix(WRAPPER) for name in noted if name.startswith(WRAPPER)),
        tuple(str(value.name) for value in node.inputs if value is not None),
        tuple(str(value.name) for value in node.outputs if value.dtype is None or value.dtype.is_floating_point()),
    )


def module_values(model: onnx.ModelProto) -> dict[str, str]:
    """Return the value that each module returns in a graph of any exporter, as far as the graph names modules.

    Module names are the exporter's, which may differ from the model's.
    """
    for entry in model.metadata_props:
        if entry.key == MODULES:
            return _read_modules(entry.value)
    nodes = [
        Scoped(tuple(_modules(node)), tuple(node.input), tuple(name for name in node.output if name))
        for node in model.graph.node
    ]
    return returned_values(nodes, {value.name for value in model.graph.output})


def _read_scopes(text: str) -> list[str]:
    """Return the modules that a node's metadata names; none if it cannot be read, since any exporter may write it."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    readable = isinstance(scopes, list | tuple) and all(isinstance(name, str) for name in scopes)
    return list(scopes[:-1]) if readable else []


def _read_modules(text: str) -> dict[str, str]:
    """Return the value of each module that a graph's metadata names; none if it cannot be read."""
    try:
        values = decode_json(text)
    except ValueError:
        return {}
    readable = isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
    return dict(values) if readable else {}


def _modules(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the modules of a node, from its metadata, or from a name such as `/model/layers.1/mlp/Mul`."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            yield from (name for name in _read_scopes(entry.value) if name)
            return
    if "/" not in node.name:
        return
    scope = node.name.strip("/").rpartition("/")[0].replace("/", ".")
    for pattern, name in _ALIASES:
        scope = re.sub(pattern, name, scope)
    yield from enclosing(scope)


def enclosing(module: str) -> Iterator[str]:
    """Yield the names of all modules that contain a module, outermost first, and then its own."""
    parts = module.split(".") if module else []
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def sample_names(nodes: Iterable[onnx.NodeProto], count: int = 3) -> list[str]:
    """Return the first few names of nodes that are not constants, to show how a graph names its nodes."""
    named = dict.fromkeys(node.name for node in nodes if node.name and not node.op_type.startswith("Constant"))
    return list(named)[:count]
