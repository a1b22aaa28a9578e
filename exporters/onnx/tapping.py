"""Values within a graph that a model has too, and a graph that returns them."""

from __future__ import annotations

import ast
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.exporters.onnx.running_decoders import OnnxDecoder
from amp_export.exporters.onnx.sessions import CPU_PROVIDER, open_session
from amp_export.exporters.onnx.threads import usable_cores

if TYPE_CHECKING:
    import onnx

QUERY, KEY, VALUE, MASK = "query", "key", "value", "mask"
"""What an attention takes, under the name of its module."""

_ALIASES = ((r"\battn\b", "self_attn"), (r"\bfinal_norm_layernorm\b", "norm"))
"""Modules that the onnxruntime-genai builder calls otherwise: `make_attention`, builders/base.py, 0.18."""

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node is from."""


@dataclass(frozen=True)
class Tap:
    """A value of the graph.

    Attributes:
        module: What the model calls it: a module, or a module and what its attention takes.
        value: The graph's name.
        node: How many nodes are computed before the one that makes it.
        operator: The operator that makes it.
    """

    module: str
    value: str
    node: int
    operator: str


def find_taps(model: onnx.ModelProto, modules: Iterable[str]) -> list[Tap]:
    """Finds the values that modules of the model return, and what attentions take, in the order of the computation.

    Graphs that this project builds name values after modules. In others, a module's value is the last that is made
    within its scope, which exporters leave in the names of nodes or in their metadata.

    Args:
        model: The graph.
        modules: Names of modules, as `named_modules` gives them.
    """
    nodes = model.graph.node
    makers = {output: number for number, node in enumerate(nodes) for output in node.output}
    scopes = {number: scope for number, node in enumerate(nodes) if (scope := _scope(node)) is not None}
    taps = []
    for module in modules:
        number = makers.get(module) if _is_named_alike(module, makers) else None
        value = module
        if number is None:
            within = [number for number, scope in scopes.items() if scope == module or scope.startswith(f"{module}.")]
            if not within or not module:
                continue
            number = within[-1]
            value = nodes[number].output[0]
        taps.append(Tap(module, value, number, nodes[number].op_type))
    taps += _attention_inputs(model, makers)
    return sorted(taps, key=lambda tap: tap.node)


@contextmanager
def tapped_decoder(folder: Path, file: str, taps: Sequence[Tap]) -> Iterator[OnnxDecoder]:
    """A decoder that returns values within its graph as well.

    Fusions that would swallow such a value are not made, so that a fault of a fused kernel cannot be seen.
    """
    import onnx

    model = onnx.load(folder / file, load_external_data=False)
    known = {value.name for value in model.graph.output}
    names = [name for name in dict.fromkeys(tap.value for tap in taps) if name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory(prefix=".tapped-", dir=folder) as scratch:
        for data in _data_files(model):
            # a link to the same file: the runtime follows none that lead elsewhere, and weights are large
            (Path(scratch) / data).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(folder / data, Path(scratch) / data)
            except OSError:
                shutil.copy2(folder / data, Path(scratch) / data)
        (Path(scratch) / file).write_bytes(model.SerializeToString())
        threads = usable_cores()
        session = open_session(Path(scratch) / file, threads=threads, providers=[CPU_PROVIDER])
        decoder = OnnxDecoder(session, threads=threads, taps=names)
        try:
            yield decoder
        finally:
            decoder.close()


def _attention_inputs(model: onnx.ModelProto, makers: Mapping[str, int]) -> Iterator[Tap]:
    """What attentions take, of graphs that this project builds: their nodes are `LAYER.attention` or within it."""
    by_name = {node.name: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Attention":
            layer, values = (
                node.name.removesuffix(".attention"),
                dict(zip((QUERY, KEY, VALUE, MASK), node.input, strict=False)),
            )
        elif node.name.endswith(".attention.products"):
            layer = node.name.removesuffix(".attention.products")
            scope = f"{layer}.attention"
            first = by_name.get(f"{scope}.queries_scaled") or by_name[f"{scope}.queries"]
            values = {
                QUERY: first.input[0],
                KEY: by_name[f"{scope}.keys"].input[0],
                VALUE: by_name[f"{scope}.values"].input[0],
                MASK: by_name[f"{scope}.seen"].input[0],
            }
        else:
            continue
        for part, value in values.items():
            if value in makers:
                maker = makers[value]
                yield Tap(f"{layer}.attention.{part}", value, maker, model.graph.node[maker].op_type)


def _is_named_alike(module: str, makers: Mapping[str, int]) -> bool:
    """Whether a graph of this project means by a module's name what the module returns.

    Not where a module scales its embeddings itself, nor where it is the whole attention: the graph's `attention` is
    what comes before the output projection.
    """
    return f"{module}.scaled" not in makers and not module.endswith(".attention")


def _scope(node: Any) -> str | None:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes: list[str] = [scope for scope in ast.literal_eval(entry.value) if scope]
            return scopes[-2] if len(scopes) > 1 else None
    if "/" not in node.name:
        return None
    scope = str(node.name).strip("/").replace("/", ".")
    for pattern, name in _ALIASES:
        scope = re.sub(pattern, name, scope)
    return scope


def _data_files(model: onnx.ModelProto) -> list[str]:
    tensors = model.graph.initializer
    locations = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(locations))
