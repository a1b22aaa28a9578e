"""Strategies that damage files: JSON by its structure, containers by their headers, and any file by its bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

Path_ = tuple[str | int, ...]
Drawn = TypeVar("Drawn")


class Draw(Protocol):
    """Draws from strategies, such as `draw` of `st.data()`, which is not declared to be an `st.DrawFn`."""

    def __call__(self, strategy: st.SearchStrategy[Drawn]) -> Drawn:
        """Draw a value.

        Args:
            strategy: Strategy to draw from.
        """


class Mutation(Protocol):
    """Damages a file in place, and says how."""

    def __call__(self, draw: Draw, file: Path) -> str:
        """Damage a file.

        Args:
            draw: Draws from strategies.
            file: The file.
        """


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**63, -(2**63), 10**30,
    float("nan"), float("inf"), "", " ", "x", "NaN", "null", "0", "../x", "/etc/passwd", "a" * 5000, "[/b]", "\x00",
    "\ud83d", "é\u202e", "torch", "float32", [], {}, [[]], [None], {"": None}, [0] * 300, {"schema": 10**9},
)  # fmt: skip
"""Values that stand where others are expected."""


def json_document(draw: Draw, file: Path) -> str:
    """Change up to three members of a JSON file, or sometimes its text."""
    if draw(st.integers(0, 4)) == 0:
        return any_bytes(draw, file)
    content, said = _change_members(draw, json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
    return said


def json_lines(draw: Draw, file: Path) -> str:
    """Change members of one line of a JSONL file, or sometimes its text."""
    if draw(st.booleans()):
        return any_bytes(draw, file)
    lines = file.read_text(encoding="utf-8").splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    content, said = _change_members(draw, json.loads(lines[number]))
    lines[number] = json.dumps(content)
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return f"line {number + 1}: {said}"


def safetensors_file(draw: Draw, file: Path) -> str:
    """Change the header of a safetensors file, its length, or any bytes."""
    if draw(st.integers(0, 3)) == 0:
        return any_bytes(draw, file)
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if draw(st.integers(0, 4)) == 0:
        length = draw(st.sampled_from((0, 1, size - 1, size + 1, len(content), 2**31, 2**63, 2**64 - 1)))
        file.write_bytes(length.to_bytes(8, "little") + content[8:])
        return f"header length {size} becomes {length}"
    header, said = _change_members(draw, header)
    text = json.dumps(header).encode("utf-8", errors="surrogatepass")
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return said


def onnx_graph(draw: Draw, file: Path) -> str:
    """Change a node, a weight, an input or the external data of a graph, or any bytes."""
    import onnx

    if draw(st.integers(0, 3)) == 0:
        return any_bytes(draw, file)
    model = onnx.load(file, load_external_data=False)
    change: Callable[[Draw, Any], str] = draw(st.sampled_from(GRAPH_CHANGES))
    said = change(draw, model)
    file.write_bytes(model.SerializeToString())
    return said


def _change_node(draw: Draw, model: Any) -> str:
    number = draw(st.integers(0, len(model.graph.node) - 1))
    node = model.graph.node[number]
    what = draw(st.sampled_from(("remove", "operator", "domain", "input", "output", "attribute")))
    if what == "remove":
        del model.graph.node[number]
    elif what == "operator":
        node.op_type = draw(st.sampled_from(("Add", "MatMul", "Nothing", "", "Loop")))
    elif what == "domain":
        node.domain = draw(st.sampled_from(("com.microsoft", "nowhere")))
    elif what == "input" and node.input:
        node.input[0] = draw(st.sampled_from(("", "nothing", node.output[0], "input_ids")))
    elif what == "output":
        node.output[0] = draw(st.sampled_from(("", "logits", "input_ids", "x" * 2000)))
    elif node.attribute:
        node.attribute[0].type = draw(st.integers(0, 14))
    return f"node {number} ({node.op_type}): {what}"


def _change_weight(draw: Draw, model: Any) -> str:
    weight = draw(st.sampled_from(list(model.graph.initializer)))
    what = draw(st.sampled_from(("dims", "dtype", "name", "remove")))
    if what == "dims":
        weight.dims[:] = draw(st.sampled_from(([], [0], [-1], [2**40], [1, 1, 1], [7, 3])))
    elif what == "dtype":
        weight.data_type = draw(st.integers(0, 25))
    elif what == "name":
        weight.name = draw(st.sampled_from(("", "input_ids", "x")))
    else:
        model.graph.initializer.remove(weight)
    return f"weight {weight.name}: {what}"


def _change_external_data(draw: Draw, model: Any) -> str:
    weights = [each for each in model.graph.initializer if each.external_data]
    if not weights:
        return _change_weight(draw, model)
    weight = draw(st.sampled_from(weights))
    entry = draw(st.sampled_from(list(weight.external_data)))
    entry.value = draw(st.sampled_from(("", "-1", "99999999999", "x", "../secret", "/etc/passwd", "model.onnx", "0")))
    return f"external data of {weight.name}: {entry.key} becomes {entry.value!r}"


def _change_port(draw: Draw, model: Any) -> str:
    ports = list(model.graph.input) + list(model.graph.output)
    port = draw(st.sampled_from(ports))
    what = draw(st.sampled_from(("name", "dtype", "dims", "metadata", "opset", "remove")))
    if what == "name":
        port.name = draw(st.sampled_from(("", "logits", "input_ids", "past_key_values.99.key", "x")))
    elif what == "dtype":
        port.type.tensor_type.elem_type = draw(st.integers(0, 25))
    elif what == "dims":
        port.type.tensor_type.shape.dim[0].dim_value = draw(st.sampled_from((0, 1, 2**40)))
    elif what == "metadata":
        model.metadata_props.add(key="amp_export.modules", value=draw(st.sampled_from(("", "{", "[1]", "5", "null"))))
    elif what == "opset":
        model.opset_import[0].version = draw(st.sampled_from((0, 1, 9, 99, 2**40)))
    else:
        (model.graph.input if port in model.graph.input else model.graph.output).remove(port)
    return f"{port.name}: {what}"


GRAPH_CHANGES = (_change_node, _change_weight, _change_external_data, _change_port)


def any_bytes(draw: Draw, file: Path) -> str:
    """Damage a file whatever it holds, or put something else in its place."""
    return draw(st.sampled_from(BYTE_CHANGES))(draw, file)


def _truncate(draw: Draw, file: Path) -> str:
    content = file.read_bytes()
    end = draw(st.integers(0, max(len(content) - 1, 0)))
    file.write_bytes(content[:end])
    return f"ends after {end} of {len(content)} bytes"


def _change_bytes(draw: Draw, file: Path) -> str:
    content = bytearray(file.read_bytes())
    places = draw(st.lists(st.integers(0, max(len(content) - 1, 0)), min_size=1, max_size=4))
    for place in places:
        if content:
            content[place] = draw(st.integers(0, 255))
    file.write_bytes(content)
    return f"bytes {places} change"


def _insert_bytes(draw: Draw, file: Path) -> str:
    content = file.read_bytes()
    place = draw(st.integers(0, len(content)))
    inserted = draw(st.sampled_from((b"\xff", b"\x00", b"\xef\xbb\xbf", b"{", b"]", b",", b"\n", b'"', b"\r\n", b"#")))
    file.write_bytes(content[:place] + inserted + content[place:])
    return f"{inserted!r} at byte {place}"


def _replace_content(draw: Draw, file: Path) -> str:
    others = (
        b"",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\n" * 9,
    )
    content = draw(st.sampled_from(others))
    file.write_bytes(content)
    return f"holds {content[:12]!r}"


def _replace_entry(draw: Draw, file: Path) -> str:
    kind = draw(st.sampled_from(("missing", "directory", "dangling link", "link to itself", "unreadable")))
    if kind == "unreadable":
        file.chmod(0)  # without effect for root, who reads it all the same
        return kind
    file.unlink()
    if kind == "directory":
        file.mkdir()
    elif kind == "dangling link":
        file.symlink_to("nowhere")
    elif kind == "link to itself":
        file.symlink_to(file.name)
    return kind


BYTE_CHANGES: tuple[Callable[[Draw, Path], str], ...] = (
    _truncate,
    _change_bytes,
    _insert_bytes,
    _replace_content,
    _replace_entry,
)


def _change_members(draw: Draw, content: Any) -> tuple[Any, str]:
    changed = copy.deepcopy(content)
    said = [_change_member(draw, changed) for _ in range(draw(st.integers(1, 3)))]
    return changed, "; ".join(said)


def _change_member(draw: Draw, content: Any) -> str:
    """Change a member of a document in place."""
    places = list(_places(content, ()))
    if not places:
        return "nothing"
    place = draw(st.sampled_from(places))
    holder = content
    for step in place[:-1]:
        holder = holder[step]
    last: Any = place[-1]
    shown = ".".join(map(str, place))
    how = draw(st.sampled_from(("odd", "odd", "odd", "near", "remove", "rename", "other")))
    if how == "remove":
        del holder[last]
        return f"{shown} is removed"
    if how == "rename" and isinstance(holder, dict):
        holder[f"{last}_"] = holder.pop(last)
        return f"{shown} is renamed"
    if how == "near" and isinstance(holder[last], int | float):
        holder[last] += draw(st.sampled_from((1, -1, 0.5)))
    elif how == "other":
        other: Any = content
        for step in draw(st.sampled_from(places)):
            other = other[step]
        holder[last] = copy.deepcopy(other)
    else:
        holder[last] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    return f"{shown} becomes {repr(holder[last])[:60]}"


def _places(content: Any, path: Path_) -> Any:
    members = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in members:
        yield (*path, step)
        # long lists, such as a vocabulary, are not what is to be found
        if not isinstance(value, list | dict) or len(value) <= 40:
            yield from _places(value, (*path, step))
