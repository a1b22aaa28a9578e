from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from amp_export.exporters.models.ports import TYPES
from amp_export.exporters.onnx.builder.entries import OF_TOKENS, Entry
from amp_export.exporters.onnx.builder.masks import add_masks, add_places
from amp_export.exporters.onnx.builder.nodes import Graph, ValueKind
from amp_export.options import Dtype, Opset

WINDOWS = (None, 1, 3, 8)


def build(entry: Entry) -> onnxruntime.InferenceSession:
    graph = Graph([], dtype=Dtype.FLOAT32, data_file="none", opset=Opset.OPSET_23)
    graph.declare_input(entry.input_name, ["batch_size", "sequence_length"], kind=ValueKind.INTEGER)
    graph.declare_input("attention_mask", ["batch_size", "total_sequence_length"], kind=ValueKind.INTEGER)
    if entry.reads_types:
        graph.declare_input(TYPES, ["batch_size", "sequence_length"], kind=ValueKind.INTEGER)
    masks = add_masks(graph, WINDOWS, add_places(graph, entry.input_name, None), entry)
    model = graph.to_model(name="masks", description="", metadata={})
    assert tuple(masks) == WINDOWS
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.BOOL, [None] * 4) for name in masks.values()
    )
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return build(OF_TOKENS)


@pytest.fixture(scope="module")
def session_with_types() -> onnxruntime.InferenceSession:
    return build(Entry(reads_tokens=False, reads_types=True))


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


@given(
    types=st.lists(st.booleans(), min_size=1, max_size=10),
    past=st.integers(0, 4),
    padding=st.integers(0, 3),
)
@settings(max_examples=80)
def test_tokens_of_an_image_also_see_later_ones_of_the_same_image_within_the_window(
    session_with_types: onnxruntime.InferenceSession, types: list[bool], past: int, padding: int
) -> None:
    new, total = len(types), past + len(types)
    padding = 0 if past else min(padding, types.index(True) if True in types else 0)
    attention_mask = np.array([[int(place >= padding) for place in range(total)]])
    given = {"inputs_embeds": np.zeros((1, new), np.int64), TYPES: np.array([types], np.int64)}
    found = session_with_types.run(None, {**given, "attention_mask": attention_mask})

    def one_image(query: int, key: int) -> bool:
        first, last = sorted((query - past, key - past))
        return first >= 0 and all(types[first : last + 1])

    for mask, window in zip(found, WINDOWS, strict=True):
        expected = [
            [
                sees(attention_mask[0], query, key, window)
                or bool(one_image(query, key) and (window is None or key > query - window))
                for key in range(total)
            ]
            for query in range(past, total)
        ]
        np.testing.assert_array_equal(mask[0, 0], expected)
