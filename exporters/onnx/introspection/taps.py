"""Intermediate values of a graph that correspond to modules of a model, and sessions that return them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amp_export.exporters.onnx.external_data import check_external_data, data_files
from amp_export.exporters.onnx.introspection.scopes import module_values
from amp_export.exporters.onnx.sessions import OnnxSession, load_graph
from amp_export.hardware.threads import usable_cores

if TYPE_CHECKING:
    import onnx
    from onnxruntime import OrtValue

LOGITS = "logits"
"""Name of a graph's logits, and of the tap for the model's own, which may be scaled or capped after the LM head."""

QUERY, KEY, VALUE, MASK = "query", "key", "value", "mask"
"""Inputs of an attention; a tap adds them to the name of its module."""


@dataclass(frozen=True)
class Tap:
    """A value of a graph.

    Attributes:
        module: Name in the model: a module, or a module and an input of its attention.
        value: Name in the graph.
        node: Index of the node that computes it.
        operator: Operator that computes it.
    """

    module: str
    value: str
    node: int
    operator: str


def find_taps(model: onnx.ModelProto, modules: Iterable[str]) -> list[Tap]:
    """Return the values that modules return, the inputs of attentions, and the logits, in order of execution.

    Graphs that this project builds name values after modules; for others see `scopes.module_values`.

    Args:
        model: The graph.
        modules: Names of modules, as in `named_modules`.
    """
    nodes = model.graph.node
    makers = {output: number for number, node in enumerate(nodes) for output in node.output if output}
    returned = module_values(model)
    innermost: dict[str, str] = {}
    for module in modules:
        value = returned.get(module) or (module if _is_named_alike(module, makers) else "")
        # a module may return its last submodule's value: the innermost counts, the outer adds nothing or was fused
        if value in makers and module.count(".") >= innermost.get(value, "").count("."):
            innermost[value] = module
    taps = [Tap(module, value, makers[value], nodes[makers[value]].op_type) for value, module in innermost.items()]
    taps += _attention_inputs(model, makers)
    if taps and LOGITS in makers and LOGITS not in {tap.value for tap in taps}:
        taps.append(Tap(LOGITS, LOGITS, makers[LOGITS], nodes[makers[LOGITS]].op_type))
    return sorted(taps, key=lambda tap: tap.node)


class TappedSession(OnnxSession):
    """A session that also computes intermediate values of its graph, and stores them.

    Attributes:
        calls: For each call so far, all computed values by name.
    """

    def __init__(self, graph: Path, values: Collection[str]) -> None:
        """Load a graph; `values` are those of its outputs that are intermediate values."""
        session = load_graph(graph, threads=usable_cores(), exact=True)
        super().__init__(session, threads=usable_cores(), exact=True)
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


def tapped_sessions(files: Sequence[Path], taps: Mapping[str, Sequence[Tap]], scratch: Path) -> list[TappedSession]:
    """Load graphs so that they also return intermediate values.

    This prevents fusions that would remove such a value, and so hides faults of fused kernels.

    Args:
        files: The graphs, all in one folder.
        taps: The values, by file name of the graph.
        scratch: An empty folder for the changed graphs; weights are linked into it if it is on the same disk.

    Returns:
        The sessions, in the order of the files.

    Raises:
        ModelError: A graph refers to weights outside its folder.
    """
    return [_tapped_session(file, taps[file.name], scratch) for file in files]


def _tapped_session(file: Path, taps: Sequence[Tap], scratch: Path) -> TappedSession:
    import onnx

    model = onnx.load(file, load_external_data=False)
    known = {value.name for value in model.graph.output}
    names = [name for name in dict.fromkeys(tap.value for tap in taps) if name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    # linking or copying would follow a symbolic link that the runtime refuses
    check_external_data(file, model)
    for data in data_files(model):
        _link(file.parent / data, scratch / data)
    (scratch / file.name).write_bytes(model.SerializeToString())
    return TappedSession(scratch / file.name, names)


def _link(data: Path, place: Path) -> None:
    """Create a hard link: the runtime rejects symbolic links to other folders, and weights are large to copy."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(data, place)
    except OSError:
        shutil.copy2(data, place)


def _attention_inputs(model: onnx.ModelProto, makers: Mapping[str, int]) -> Iterator[Tap]:
    """Yield the inputs of attentions in graphs that this project builds: nodes `LAYER.attention`, or below it."""
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
    """Return whether a value with a module's name is the module's output, in graphs that this project builds.

    It is not if the module scales its embeddings itself, or if it is a whole attention: the graph's `attention` is the
    value before the output projection.
    """
    return module in makers and f"{module}.scaled" not in makers and not module.endswith(".attention")
