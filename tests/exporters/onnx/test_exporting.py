"""What an export writes, and what it refuses to write."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.older_versions import add_old_names
from amp_export.checkpoints.reading import Checkpoint, open_checkpoint
from amp_export.errors import OutputError, RequestError, UnsupportedModelError
from amp_export.exporters.files import CACHE_LINE_BYTES, PAGE_BYTES
from amp_export.exporters.onnx import can_build, export
from amp_export.exporters.onnx.builder.layout import lay_out
from amp_export.options import Dtype
from tests.support import PROJECT
from tests.support.tiny_models import BUILDABLE, least_fields, save_tiny_model, save_tiny_tokenizer

REPOSITORY = PROJECT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = save_tiny_model(
        tmp_path_factory.mktemp("model") / "checkpoint",
        "qwen2",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
    )
    save_tiny_tokenizer(folder)
    return open_checkpoint(folder)


def with_fields(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    config = ModelConfig.read(checkpoint.config.architecture, {**checkpoint.raw_config, **changes})
    return dataclasses.replace(checkpoint, config=config)


def external_data(initializer: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in initializer.external_data}


@pytest.mark.parametrize("dtype", Dtype)
def test_the_checker_accepts_the_written_file(tmp_path: Path, checkpoint: Checkpoint, dtype: Dtype) -> None:
    exported = export(checkpoint, tmp_path / "onnx", dtype=dtype)
    onnx.checker.check_model(str(exported.graph), full_check=True)
    model = onnx.load(str(exported.graph), load_external_data=False)
    assert model.producer_name == "amp-export"
    assert model.producer_version
    assert model.doc_string
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", exported.opset.version)}


def test_shape_inference_finds_the_shapes_that_are_declared(tmp_path: Path, checkpoint: Checkpoint) -> None:
    exported = export(checkpoint, tmp_path / "onnx")
    inferred = onnx.shape_inference.infer_shapes(
        onnx.load(str(exported.graph)), check_type=True, strict_mode=True, data_prop=True
    )

    def shapes(values: Any) -> dict[str, list[int | str]]:
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }

    tokens: list[int | str] = ["batch_size", "sequence_length"]
    inputs, outputs = shapes(inferred.graph.input), shapes(inferred.graph.output)
    assert inputs["input_ids"] == inputs["position_ids"] == tokens
    assert inputs["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert outputs["logits"] == ["batch_size", "kept_length", 101]
    for layer in range(3):
        for part in ("key", "value"):
            assert inputs[f"past_key_values.{layer}.{part}"] == ["batch_size", 2, "past_sequence_length", 8]
            assert outputs[f"present.{layer}.{part}"] == ["batch_size", 2, "total_sequence_length", 8]
    # from the kept tokens on, rows have no names
    unknown = [name for name, shape in shapes(inferred.graph.value_info).items() if not all(shape)]
    assert not [name for name in unknown if not name.startswith(("mask.", "model.norm", "lm_head"))]


@pytest.mark.parametrize("model_type", BUILDABLE)
def test_every_family_is_of_standard_operators_in_valid_form(tmp_path: Path, model_type: str) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type)
    exported = export(open_checkpoint(folder), tmp_path / "onnx", dtype=Dtype.BFLOAT16)
    onnx.checker.check_model(str(exported.graph), full_check=True)
    model = onnx.load(str(exported.graph), load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    for node in model.graph.node:
        if node.op_type == "Attention":
            assert (len(node.input), len(node.output), [entry.name for entry in node.attribute]) == (4, 1, ["scale"])
        if node.op_type == "RotaryEmbedding":
            assert {entry.name for entry in node.attribute} <= {"interleaved"}
    assert [entry.name for entry in model.graph.input][:3] == ["input_ids", "attention_mask", "position_ids"]
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    used = {name for node in model.graph.node for name in node.input}
    assert not [tensor.name for tensor in model.graph.initializer if tensor.name not in used]
    assert used >= {entry.name for entry in model.graph.input}
    stored = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
    assert stored >= open_checkpoint(folder).tensors.keys(), "a weight that no node reads"


def test_one_mask_for_each_width_of_window_serves_all_layers(tmp_path: Path, checkpoint: Checkpoint) -> None:
    graph = onnx.load(str(export(checkpoint, tmp_path / "onnx").graph), load_external_data=False).graph
    masks = [node.input[3] for node in graph.node if node.op_type == "Attention"]
    assert masks == ["mask.full", "mask.window_4", "mask.window_4"]
    assert [node.op_type for node in graph.node if node.output[0] in masks] == ["Or", "Or"]


def test_attention_is_of_the_form_that_tensorrt_takes(tmp_path: Path, checkpoint: Checkpoint) -> None:
    graph = onnx.load(str(export(checkpoint, tmp_path / "onnx").graph), load_external_data=False).graph
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    assert len(attentions) == 3
    for node in attentions:
        assert (len(node.input), len(node.output)) == (4, 1)
        assert {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute} == {
            "scale": pytest.approx(8**-0.5)
        }
    assert {node.domain for node in graph.node} == {""}


def test_weights_are_the_checkpoints_and_linear_layers_are_transposed(tmp_path: Path, checkpoint: Checkpoint) -> None:
    exported = export(checkpoint, tmp_path / "onnx")
    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(exported.graph)).graph.initializer
    }
    for name in checkpoint.tensors:
        expected = checkpoint.read(name)
        is_linear = expected.ndim == 2 and ".layers." in name
        np.testing.assert_array_equal(found[name], expected.T if is_linear else expected)


@pytest.mark.parametrize(("dtype", "relative"), [(Dtype.FLOAT16, 2.0**-11), (Dtype.BFLOAT16, 2.0**-8)])
def test_half_precisions_round_to_nearest(
    tmp_path: Path, checkpoint: Checkpoint, dtype: Dtype, relative: float
) -> None:
    exported = export(checkpoint, tmp_path / "onnx", dtype=dtype)
    name = "model.layers.1.mlp.up_proj.weight"
    initializers = {tensor.name: tensor for tensor in onnx.load(str(exported.graph)).graph.initializer}
    stored = onnx.numpy_helper.to_array(initializers[name]).astype(np.float32)
    np.testing.assert_allclose(stored, checkpoint.read(name).T, rtol=relative, atol=1e-7)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_stored_once(tmp_path: Path, tied: bool) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama", tie_word_embeddings=tied)
    exported = export(open_checkpoint(folder), tmp_path / "onnx")
    graph = onnx.load(str(exported.graph), load_external_data=False).graph
    shapes = [list(tensor.dims) for tensor in graph.initializer]
    assert shapes.count([101, 32]) == (1 if tied else 2)


@pytest.mark.parametrize("dtype", Dtype)
def test_tensors_are_aligned_and_do_not_overlap(checkpoint: Checkpoint, dtype: Dtype) -> None:
    end = 0
    for tensor in lay_out(checkpoint.config, checkpoint.widths, dtype):
        assert tensor.offset % (PAGE_BYTES if tensor.nbytes >= PAGE_BYTES else CACHE_LINE_BYTES) == 0
        assert tensor.offset >= end
        end = tensor.offset + tensor.nbytes


def test_the_data_file_holds_every_tensor_where_the_graph_looks_for_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    exported = export(checkpoint, tmp_path / "onnx")
    stored = [t for t in onnx.load(str(exported.graph), load_external_data=False).graph.initializer if t.external_data]
    ends = [int(external_data(tensor)["offset"]) + int(external_data(tensor)["length"]) for tensor in stored]
    assert len(stored) == len(checkpoint.tensors) + 2
    assert {external_data(tensor)["location"] for tensor in stored} == {exported.weights.name}
    assert exported.weights.stat().st_size == max(ends)


def test_the_folder_is_complete_and_its_size_is_told(tmp_path: Path, checkpoint: Checkpoint) -> None:
    exported = export(checkpoint, tmp_path / "new" / "onnx")
    files = {file.name: file for file in exported.folder.iterdir()}
    companions = {file.name for file in checkpoint.companions()}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= companions
    assert set(files) == companions | {"model.onnx", "model.onnx_data", "config.json", "genai_config.json"}
    assert json.loads(files["config.json"].read_text()) == add_old_names(checkpoint.raw_config)
    assert exported.bytes_on_disk == sum(file.stat().st_size for file in files.values())


def test_progress_is_told_layer_by_layer(tmp_path: Path, checkpoint: Checkpoint) -> None:
    told: list[tuple[int, int]] = []
    export(checkpoint, tmp_path / "onnx", on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_norms_that_count_from_one_are_stored_with_the_one_added(tmp_path: Path) -> None:
    gemma = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "gemma3_text"))
    exported = export(gemma, tmp_path / "onnx", dtype=Dtype.FLOAT16)
    found = {tensor.name: tensor for tensor in onnx.load(str(exported.graph)).graph.initializer}
    names = [name for name in gemma.tensors if "norm" in name]
    assert len(names) == 3 * 6 + 1
    for name in names:
        expected = (1.0 + gemma.read(name)).astype(np.float16)
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(found[name]), expected)


def test_an_export_imports_neither_torch_nor_transformers(tmp_path: Path, checkpoint: Checkpoint) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from amp_export.checkpoints.reading import open_checkpoint\n"
        "from amp_export.exporters.onnx import export\n"
        f"export(open_checkpoint(Path({str(checkpoint.path)!r})), Path({str(tmp_path / 'onnx')!r}))\n"
        "assert not {'torch', 'transformers', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
    assert (tmp_path / "onnx" / "model.onnx").is_file()


def test_importing_the_exporter_imports_nothing_heavy() -> None:
    code = (
        "import sys; import amp_export.exporters.onnx\n"
        "assert not {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "mish"}, r"hidden_act 'mish'(.|\n)*silu, swish, gelu"),
    "type of rotary embeddings": (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}},
        r"rope_type 'dynamic'(.|\n)*default, linear, llama3, yarn, longrope",
    ),
    "heads that turn in part": ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5; only 1\.0"),
    "parameters by type of layer": (
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "RoPE parameters that differ between layers",
    ),
}


@pytest.mark.parametrize(("fields", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_built_is_refused_before_anything_is_written(
    tmp_path: Path, checkpoint: Checkpoint, fields: dict[str, Any], reason: str
) -> None:
    odd = with_fields(checkpoint, **fields)
    told = can_build(odd.config)
    assert told is not None
    assert re.search(reason, told)
    with pytest.raises(UnsupportedModelError, match=rf"{reason}(.|\n)*--via trace"):
        export(odd, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_family_whose_computation_is_unknown_cannot_be_built(checkpoint: Checkpoint) -> None:
    architecture = dataclasses.replace(checkpoint.config.architecture, computation=None)
    reason = can_build(dataclasses.replace(checkpoint.config, architecture=architecture))
    assert reason == "config.json: model_type is 'qwen2'; its graph cannot be built directly."


@pytest.mark.parametrize("model_type", BUILDABLE)
def test_every_family_with_a_file_can_be_built(model_type: str) -> None:
    assert can_build(ModelConfig.read(find_architecture(model_type), least_fields(model_type))) is None


def test_a_tensor_of_another_shape_is_refused_and_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    wrong = dataclasses.replace(checkpoint.tensors[name], shape=(32, 47))
    with pytest.raises(UnsupportedModelError, match=rf"{name} must have the shape \[32, 48\](.|\n)*\[32, 47\]"):
        export(dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, name: wrong}), tmp_path / "onnx")


def test_a_tensor_that_is_not_there_is_refused_and_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    fewer = {other: info for other, info in checkpoint.tensors.items() if other != name}
    with pytest.raises(UnsupportedModelError, match=f"{name} (.|\n)*no such tensor"):
        export(dataclasses.replace(checkpoint, tensors=fewer), tmp_path / "onnx")


def test_a_folder_that_holds_something_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(OutputError, match="not an empty folder"):
        export(checkpoint, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_weight_beyond_float16_is_refused_and_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.gate_proj.weight"][3, 4] = -1e5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"model\.layers\.1\.mlp\.gate_proj\.weight holds values of up to 1e\+05"):
        export(open_checkpoint(folder), tmp_path / "onnx", dtype=Dtype.FLOAT16)


def test_a_full_disk_is_noticed_before_weights_are_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"The weights take \d\.\d GB, and 0\.0 GB are free"):
        export(checkpoint, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
