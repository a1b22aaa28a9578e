"""Metadata by which graphs name modules: any exporter may write it, so nothing in it may be an error of ours."""

from __future__ import annotations

import json

import onnx
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from amp_export.exporters.onnx.introspection.scopes import MODULES, SCOPES, module_values

WORDS = st.one_of(
    st.text(),
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=5)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ).map(repr),
    st.lists(st.text(max_size=5), max_size=3).map(json.dumps),
)


def graph(*, scopes: str | None = None, modules: str | None = None) -> onnx.ModelProto:
    """A graph of two nodes; the first carries the metadata."""
    nodes = [
        helper.make_node("Relu", ["x"], ["hidden"], name="/layers.0/act/Relu"),
        helper.make_node("Relu", ["hidden"], ["y"], name="/layers.1/act/Relu"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    if scopes is not None:
        model.graph.node[0].metadata_props.add(key=SCOPES, value=scopes)
    if modules is not None:
        model.metadata_props.add(key=MODULES, value=modules)
    return model


@given(scopes=WORDS, modules=st.one_of(st.none(), WORDS))
@example(scopes="[" * 5000, modules="[" * 5000)
@example(scopes="{'a': 1}", modules='{"a": 5}')
@example(scopes="[3, 4, 'x']", modules=None)
def test_any_metadata_names_modules_or_none(scopes: str, modules: str | None) -> None:
    found = module_values(graph(scopes=scopes, modules=modules))
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in found.items())
    if modules is None:
        assert found["layers.1.act"] == "y"


def test_what_is_right_is_read() -> None:
    found = module_values(graph(scopes="['', 'decoder', 'decoder.first', 'node_Relu_3']"))
    assert found["decoder.first"] == "hidden"
    assert module_values(graph(modules='{"decoder": "y"}')) == {"decoder": "y"}
