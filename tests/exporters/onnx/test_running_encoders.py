"""Running traced encoders, and encoders with decoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters.models.encoder import GraphEncoder
from amp_export.exporters.models.encoder_decoder import GraphEncoderDecoder
from amp_export.exporters.onnx import exported_graphs, run
from amp_export.exporters.onnx.values import to_float32, to_value
from amp_export.options import Dtype
from tests.support.shared import Converted

Convert = Callable[[str], Converted]

TEXT = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.ones((1, 3), np.int64)}


def save_graph(folder: Path, *, output: int, axes: list[str | int]) -> Path:
    """An encoder that returns its input in another type."""
    node = onnx.helper.make_node("Cast", ["input_ids"], ["logits"], to=output)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "tiny",
        [value("input_ids", onnx.TensorProto.INT64, axes)],
        [value("logits", output, axes)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    return folder


def test_an_encoder_tells_what_it_takes_and_returns(tmp_path: Path) -> None:
    folder = save_graph(tmp_path, output=onnx.TensorProto.FLOAT16, axes=["batch_size", "sequence_length"])
    encoder = run(folder, threads=1)
    assert isinstance(encoder, GraphEncoder)
    assert encoder.inputs == {"input_ids": ("batch_size", "sequence_length")}
    assert (encoder.outputs, encoder.outputs_by_token) == (("logits",), {"logits"})
    assert (encoder.dtype, encoder.threads) == (Dtype.FLOAT16, 1)
    found = encoder.forward(TEXT)["logits"]
    assert found.dtype == np.float32
    assert found.tolist() == [[5.0, 6.0, 7.0]]


def test_an_output_without_tokens_is_no_output_by_token(tmp_path: Path) -> None:
    encoder = run(save_graph(tmp_path, output=onnx.TensorProto.FLOAT, axes=["batch_size", 3]))
    assert isinstance(encoder, GraphEncoder)
    assert not encoder.outputs_by_token


def test_an_input_that_is_missing_is_named(tmp_path: Path) -> None:
    encoder = run(save_graph(tmp_path, output=onnx.TensorProto.FLOAT, axes=["batch_size", 3]))
    with pytest.raises(ValueError, match="also needs the inputs input_ids; got attention_mask"):
        encoder.forward({"attention_mask": TEXT["attention_mask"]})
    encoder.close()
    with pytest.raises(ValueError, match="closed"):
        encoder.forward(TEXT)


def test_a_graph_without_numbers_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no floating-point numbers"):
        run(save_graph(tmp_path, output=onnx.TensorProto.INT32, axes=["batch_size", 3]))


def test_images_are_given_in_the_graph_s_precision() -> None:
    image = np.array([[1.0, 2.0**-20, -3.14159]], np.float32)
    for dtype, numpy_dtype in ((Dtype.FLOAT16, np.float16), (Dtype.BFLOAT16, ml_dtypes.bfloat16)):
        expected = image.astype(numpy_dtype).astype(np.float32)
        np.testing.assert_array_equal(to_float32(to_value(image, dtype)), expected)


def test_an_encoder_of_images_runs_any_number_of_them(converted: Convert) -> None:
    encoder = run(converted("vit").output / "onnx", threads=1)
    images = np.random.default_rng(0).standard_normal((3, 3, 12, 12))
    together = encoder.forward({"pixel_values": images})["logits"]
    alone = [encoder.forward({"pixel_values": image[None]})["logits"][0] for image in images]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_source_s_keys_stay_from_the_first_call(converted: Convert) -> None:
    model = run(converted("t5").output / "onnx", threads=1)
    assert isinstance(model, GraphEncoderDecoder)
    assert (model.num_layers, model.dtype, model.threads) == (2, Dtype.FLOAT32, 1)
    source = model.encode(TEXT)
    assert model.states(source).shape == (1, 3, 32)
    logits, first = model.decode(np.array([[0, 5]]), source)
    assert logits.shape == (1, 2, 301)
    _, second = model.decode(np.array([[6]]), source, first)
    assert first.values.keys() == second.values.keys()
    lengths = {name: second.values[name].shape()[2] for name in second.values}
    assert lengths == dict.fromkeys(lengths, 3), "three tokens were read, and three were written"
    assert first.values["past_key_values.0.decoder.key"].shape()[2] == 2, "what was given is unchanged"
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.encode(TEXT)


def test_a_graph_of_three_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "encoder_model.onnx").touch()
    (tmp_path / "decoder_model.onnx").touch()
    with pytest.raises(ModelError, match=r"holds no decoder_with_past_model\.onnx"):
        exported_graphs(tmp_path)
