"""Values within a graph that a model has too, and graphs that return them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.introspection.scopes import module_values
from amp_export.exporters.onnx.sessions import OnnxSession, load_graph
from amp_export.hardware.threads import usable_cores

if TYPE_CHECKING:
    import onnx
    from onnxruntime import OrtValue

QUERY, KEY, VALUE, MASK = "query", "key", "value", "mask"
"""What an attention takes, under the name of its module."""


@dataclass(frozen=True)
class Tap:
    """A value of a graph.

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
    """Find the values that modules of the model return, and what attentions take, in the order of the computation.

    Graphs that this project builds name values after modules; of others see `scopes.module_values`.

    Args:
        model: The graph.
        modules: Names of modules, as `named_modules` gives them.
    """
    nodes = model.graph.node
    makers = {output: number for number, node in enumerate(nodes) for output in node.output if output}
    returned = module_values(model)
    innermost: dict[str, str] = {}
    for module in modules:
        value = returned.get(module) or (module if _is_named_alike(module, makers) else "")
        # what a module returns may be its last submodule's: the outer one says nothing new, or adds what was fused away
        if value in makers and module.count(".") >= innermost.get(value, "").count("."):
            innermost[value] = module
    taps = [Tap(module, value, makers[value], nodes[makers[value]].op_type) for value, module in innermost.items()]
    taps += _attention_inputs(model, makers)
    return sorted(taps, key=lambda tap: tap.node)


class TappedSession(OnnxSession):
    """A session that computes values within its graph as well, and keeps them.

    Attributes:
        calls: For every call so far all that was computed, by name.
    """

    def __init__(self, graph: Path, values: Collection[str]) -> None:
        """Load a graph; `values` are those of its outputs that lie within."""
        super().__init__(load_graph(graph, threads=usable_cores()), threads=usable_cores())
        self._values = values
        self.outputs = {name: port for name, port in self.outputs.items() if name not in values}
        self.calls: list[Mapping[str, OrtValue]] = []

    def run(
        self, outputs: Sequence[str], values: Mapping[str, OrtValue], *, keep: Collection[str] = ()
    ) -> list[OrtValue]:
        """See `Session.run`."""
        wanted = [*outputs, *self._values]
        found = super().run(wanted, values, keep=keep)
        self.calls.append(dict(zip(wanted, found, strict=True)))
        return found[: len(outputs)]


@contextmanager
def tapped_sessions(files: Sequence[Path], taps: Mapping[str, Sequence[Tap]]) -> Iterator[list[TappedSession]]:
    """Load graphs that return values within them as well.

    Fusions that would swallow such a value are not made, so that a fault of a fused kernel cannot be seen.

    Args:
        files: The graphs, all in one folder.
        taps: The values, by the name of the graph's file.

    Yields:
        The sessions, in the order of the files.
    """
    with tempfile.TemporaryDirectory(prefix=".tapped-", dir=files[0].parent) as scratch:
        yield [_tapped_session(file, taps[file.name], Path(scratch)) for file in files]


def _tapped_session(file: Path, taps: Sequence[Tap], scratch: Path) -> TappedSession:
    import onnx

    model = onnx.load(file, load_external_data=False)
    known = {value.name for value in model.graph.output}
    names = [name for name in dict.fromkeys(tap.value for tap in taps) if name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    for data in _data_files(model):
        _link(file.parent / data, scratch / data)
    (scratch / file.name).write_bytes(model.SerializeToString())
    return TappedSession(scratch / file.name, names)


def _link(data: Path, place: Path) -> None:
    """Put the same file at another place: the runtime follows no link that leads elsewhere, and weights are large."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(data, place)
    except OSError:
        shutil.copy2(data, place)


def _attention_inputs(model: onnx.ModelProto, makers: Mapping[str, int]) -> Iterator[Tap]:
    """Yield the inputs of attentions in graphs of this project: their nodes are `LAYER.attention` or within it."""
    by_name = {node.name: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Attention" and node.name.endswith(".attention"):
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
    """Return whether a graph of this project means by a module's name what the module returns.

    Not where a module scales its embeddings itself, nor where it is the whole attention: the graph's `attention` is
    what comes before the output projection.
    """
    return module in makers and f"{module}.scaled" not in makers and not module.endswith(".attention")


def _data_files(model: onnx.ModelProto) -> list[str]:
    tensors = model.graph.initializer
    locations = (entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return list(dict.fromkeys(locations))
