"""Traced graphs, cleaned up for runtimes and written with one data file for all of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.exporters.files import aligned_offset
from amp_export.exporters.onnx.introspection.scopes import MODULES, traced_values
from amp_export.exporters.onnx.traced_fixes import mend_norms, mend_rotations
from amp_export.exporters.tracing.jobs import Axes, Job, flatten

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_INLINE_BYTES = 256
"""Smaller tensors stay in the graph: shapes and scales, which runtimes read before they open the data file."""

_SYMBOL = re.compile(r"\b[su]\d+\b")
"""Names that torch.export gives to unknown lengths."""


def tidy(model: ir.Model, job: Job) -> list[str]:
    """Name the axes of a traced graph, and remove everything that a runtime does not use.

    Returns:
        Descriptions of the dynamic axes that tracing specialized to constants.
    """
    mend_rotations(model)
    mend_norms(model)
    frozen = _name_axes(model, job)
    returned = traced_values(model)
    _strip(model)
    _merge_equal_weights(model)
    # the only metadata of nodes that is kept: it maps modules to values
    model.metadata_props[MODULES] = json.dumps(returned, separators=(",", ":"))
    return frozen


def write(models: Mapping[Path, ir.Model], data: Path) -> None:
    """Write graphs next to one data file that holds each distinct tensor once; the models refer to it afterwards."""
    import onnx_ir as ir

    places: dict[bytes, tuple[int, int]] = {}
    end = 0
    with data.open("wb") as stream:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _INLINE_BYTES:
                    continue
                content = _bytes(tensor)
                key = _digest(tensor)
                if key not in places:
                    offset = aligned_offset(end, content.nbytes)
                    stream.seek(offset)
                    stream.write(content.data)
                    places[key] = (offset, content.nbytes)
                    end = offset + content.nbytes
                offset, length = places[key]
                value.const_value = ir.ExternalTensor(
                    data.name,
                    offset,
                    length,
                    tensor.dtype,
                    shape=_fixed_shape(tensor),
                    name=str(value.name),
                    base_dir=data.parent,
                )
    for file, model in models.items():
        ir.save(model, file)


def _name_axes(model: ir.Model, job: Job) -> list[str]:
    """Name the axes of all values in the graph after the job's, and return those that became constants."""
    names: dict[str, str] = {}
    frozen = []
    declared: dict[str, Axes] = {name: sample.axes for name, sample in flatten(job.inputs)}
    values = [*model.graph.inputs, *model.graph.outputs]
    for value in values:
        axes = declared.get(str(value.name)) or job.output_axes(str(value.name))
        for axis, name in enumerate(axes):
            length = value.shape[axis] if value.shape is not None else None
            if name is None:
                continue
            if isinstance(length, int):
                frozen.append(f"{name} of {value.name} became {length}")
            elif length is not None:
                names.setdefault(str(length), name)
    for value in [*values, *_computed(model)]:
        _rename_axes(value, names)
    return frozen


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    import onnx_ir as ir

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs


def _rename_axes(value: ir.Value, names: Mapping[str, str]) -> None:
    import onnx_ir as ir

    if value.shape is None:
        return
    axes: list[int | str | None] = []
    for length in value.shape:
        text = length if isinstance(length, int) else length.value
        if isinstance(text, str):
            text = names.get(text) or _SYMBOL.sub(lambda match: names.get(match[0], match[0]), text)
        axes.append(text)
    value.shape = ir.Shape(axes)


def _strip(model: ir.Model) -> None:
    """Remove stack traces, which contain paths of this machine, and the wrapper's prefix of the weights' names."""
    import onnx_ir as ir

    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    for value in [*model.graph.inputs, *_computed(model), *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for name, value in list(model.graph.initializers.items()):
        short = name.removeprefix("model.")
        if short not in model.graph.initializers:
            value.name = short


def _merge_equal_weights(model: ir.Model) -> None:
    """Merge equal weights: tracing writes tied weights twice."""
    first: dict[bytes, ir.Value] = {}
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.const_value is None or value.is_graph_output():
            continue
        kept = first.setdefault(_digest(value.const_value), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            del graph.initializers[name]


def _fixed_shape(tensor: ir.TensorProtocol) -> ir.Shape:
    import onnx_ir as ir

    return ir.Shape(tensor.numpy().shape) if not isinstance(tensor.shape, ir.Shape) else tensor.shape


def _digest(tensor: ir.TensorProtocol) -> bytes:
    """Return a digest of a tensor's dtype, shape and content."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(_bytes(tensor).data)
    return digest.digest()


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import numpy as np

    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
