from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from amp_export.exporters.onnx.builder.masks import add_masks
from amp_export.exporters.onnx.builder.nodes import Graph
from amp_export.options import Dtype, Opset

WINDOWS = (None, 1, 3, 8)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    graph = Graph([], dtype=Dtype.FLOAT32, data_file="none", opset=Opset.OPSET_23)
    graph.declare_input("input_ids", ["batch_size", "sequence_length"], kind="integer")
    graph.declare_input("attention_mask", ["batch_size", "total_sequence_length"], kind="integer")
    masks = add_masks(graph, WINDOWS)
    model = graph.to_model(name="masks", description="", metadata={})
    assert tuple(masks) == WINDOWS
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.BOOL, [None] * 4) for name in masks.values()
    )
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def sees(tokens: np.ndarray, query: int, key: int, window: int | None) -> bool:
    if key == query:
        return True
    return bool(key < query and tokens[key] and (window is None or key > query - window))


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    total=st.integers(1, 12),
    new=st.integers(1, 12),
)
@settings(max_examples=80)
def test_each_query_sees_itself_and_the_tokens_before_it_within_the_window(
    session: onnxruntime.InferenceSession, lengths: list[int], total: int, new: int
) -> None:
    new = min(new, total)
    # left padding; a text of no tokens at all is the hardest
    attention_mask = np.array([[int(place >= total - length) for place in range(total)] for length in lengths])
    input_ids = np.zeros((len(lengths), new), np.int64)
    found = session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
    for mask, window in zip(found, WINDOWS, strict=True):
        assert mask.shape == (len(lengths), 1, new, total)
        expected = [
            [[sees(tokens, query, key, window) for key in range(total)] for query in range(total - new, total)]
            for tokens in attention_mask
        ]
        np.testing.assert_array_equal(mask[:, 0], expected)
