"""Files that a graph keeps its weights in: a graph of unknown origin must not make a runtime read any others."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from amp_export.errors import ModelError

if TYPE_CHECKING:
    import onnx


def data_files(model: onnx.ModelProto) -> list[str]:
    """Return the locations of a graph's external data, in subgraphs and functions too."""
    return list(dict.fromkeys(entry.value for entry in _locations(model)))


def move_data(graph: Path, moved: Path, names: Mapping[str, str]) -> None:
    """Move a graph into another folder, with its external data beside it under other names.

    Args:
        graph: The graph.
        moved: Where it is afterwards; its folder is created.
        names: The new names of its data files.
    """
    content = _renamed(graph, names)
    moved.parent.mkdir(parents=True, exist_ok=True)
    for name, new_name in names.items():
        graph.with_name(name).rename(moved.with_name(new_name))
    moved.write_bytes(content)
    graph.unlink()


def link_data(graph: Path, linked: Path, names: Mapping[str, str]) -> None:
    """Write a graph into another folder, with hard links to its external data beside it, or copies on another disk.

    Args:
        graph: The graph.
        linked: Where it is afterwards, too.
        names: The new names of its data files.
    """
    for name, new_name in names.items():
        try:
            linked.with_name(new_name).hardlink_to(graph.with_name(name))
        except OSError:
            shutil.copyfile(graph.with_name(name), linked.with_name(new_name))
    linked.write_bytes(_renamed(graph, names))


def _renamed(graph: Path, names: Mapping[str, str]) -> bytes:
    """Return the content of a graph that refers to its external data by other names."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    for entry in _locations(model):
        entry.value = names[entry.value]
    content: bytes = model.SerializeToString()
    return content


def check_external_data(file: Path, model: onnx.ModelProto, *, linked: bool = True) -> None:
    """Refuse external data that is not below its graph's folder, as the ONNX specification requires.

    Args:
        file: The graph.
        model: Its content.
        linked: Whether the files may have several hard links, as those of an output may that was exported into again.

    Raises:
        ModelError: A location is absolute or leads out of the folder, also through a symbolic link, or the file has
            another name elsewhere.
    """
    for location in data_files(model):
        data = file.parent / location
        if not _is_relative(location) or not data.resolve().is_relative_to(file.parent.resolve()):
            raise ModelError(
                f"{file} refers to weights in {location!r}, which is outside its folder.\nDo not run a graph that "
                "you do not trust. Copy the weights next to it (cp -rL, if they are symbolic links), or save it again."
            )
        if not linked and data.is_file() and data.stat().st_nlink > 1:
            raise ModelError(
                f"{file} refers to weights in {location!r}, which is a hard link: the same file has a name "
                "elsewhere.\nDo not run a graph that you do not trust. If you trust it, copy its folder (cp -r) and "
                "give the copy."
            )


def check_graph(file: Path) -> None:
    """Check the external data of a third-party graph before a runtime loads it; a damaged graph is left to that.

    Raises:
        ModelError: See `check_external_data`.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, load_external_data=False)
    except DecodeError:
        return
    check_external_data(file, model, linked=False)


def _is_relative(location: str) -> bool:
    # of both systems: a graph that was made on Windows may be opened here
    paths = (PurePosixPath(location), PureWindowsPath(location))
    return "\0" not in location and not any(path.is_absolute() or path.drive or ".." in path.parts for path in paths)


def _locations(model: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    tensors = list(_tensors(model.graph))
    for function in model.functions:
        tensors += _in_nodes(function.node)
    return (entry for tensor in tensors for entry in tensor.external_data if entry.key == "location")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)
