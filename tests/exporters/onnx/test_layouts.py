"""The layout of transformers.js: names and places, and the same text in Node where transformers.js is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amp_export import ExportOptions, Layout, export
from amp_export.api.validate import validate
from amp_export.checkpoints.reading import read_config
from amp_export.devices.bundle import bundle
from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.dispatch import exported_bytes, exported_dtype, exported_quantization, run
from amp_export.exporters.onnx import export as build
from amp_export.exporters.onnx.layouts import arrange
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.options import Dtype, Format, Operators, WeightFormat
from amp_export.outputs.manifest import Manifest
from amp_export.verb_options import BundleOptions, ValidateOptions
from tests.support.shared import Converted
from tests.support.tiny_models import save_tiny_model, save_tiny_output, save_tiny_tokenizer
from tests.support.transformers_js import MODULES, ask, find_modules, generated_here
from tests.support.uneven_models import UNEVEN, uneven

JS = ExportOptions(layout=Layout.TRANSFORMERS_JS)
ROOT = ("config.json", "generation_config.json", "genai_config.json", "tokenizer.json", "tokenizer_config.json")
PROMPTS = [[17, 4, 99, 31, 8, 54, 23], [60, 61, 5]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose widths blocks of 16 divide, with a chat template."""
    folder = save_tiny_model(tmp_path_factory.mktemp("js") / "checkpoint", "llama", num_hidden_layers=2, head_dim=16)
    save_tiny_tokenizer(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}:")
    return folder


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def js_config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["transformers.js_config"]


@pytest.mark.parametrize(
    ("dtype", "weights", "name", "js_dtype"),
    [
        (None, None, "model", "fp32"),
        (Dtype.FLOAT16, None, "model_fp16", "fp16"),
        (None, WeightFormat.INT8, "model_quantized", "q8"),
        (None, WeightFormat.INT4, "model_q4", "q4"),
        (Dtype.FLOAT16, WeightFormat.INT4, "model_q4f16", "q4f16"),
    ],
)
def test_names_say_the_dtype(
    tmp_path: Path, llama: Path, dtype: Dtype | None, weights: WeightFormat | None, name: str, js_dtype: str
) -> None:
    block_size = None if weights is None else 16
    options = ExportOptions(layout=Layout.TRANSFORMERS_JS, dtype=dtype, weights=weights, block_size=block_size)
    folder = export(llama, tmp_path / "out", options).folder
    graphs = {f"onnx/{name}.onnx", f"onnx/{name}.onnx_data"}
    assert files(folder) == {*ROOT, "chat_template.jinja", *graphs}
    assert (js_config(folder)["dtype"], js_config(folder)["use_external_data_format"]) == (js_dtype, True)
    assert exported_bytes(folder) == sum((folder / each).stat().st_size for each in graphs)
    assert exported_dtype(folder) is (dtype or Dtype.FLOAT32)
    assert (exported_quantization(folder) is None) == (weights is None)
    assert Manifest.load(tmp_path / "out").export_options[Format.ONNX]["layout"] == "transformers.js"


def test_the_chat_template_is_where_transformers_js_reads_it(tmp_path: Path, llama: Path) -> None:
    folder = export(llama, tmp_path / "out", JS).folder
    content = json.loads((folder / "tokenizer_config.json").read_text())
    assert content["chat_template"] == (llama / "chat_template.jinja").read_text()


def test_parity_holds_and_the_graph_is_the_flat_one(tmp_path: Path, llama: Path) -> None:
    flat, nested = export(llama, tmp_path / "flat").folder, export(llama, tmp_path / "nested", JS).folder
    assert validate(tmp_path / "nested", ValidateOptions()).holds
    assert (flat / "model.onnx_data").read_bytes() == (nested / "onnx/model.onnx_data").read_bytes()
    assert (flat / "model.onnx").read_bytes() == (nested / "onnx/model.onnx").read_bytes()


def test_layers_of_different_widths_have_the_config_of_the_dense_model(tmp_path: Path) -> None:
    checkpoint, _ = uneven(tmp_path, *UNEVEN["llama"])
    build(checkpoint, tmp_path / "out")
    resized = {
        "model_type": "amp_resized",
        "dense": dict(checkpoint.raw_config),
        "layer_widths": [{"query_heads": 4, "key_value_heads": 2, "neurons": 40}] * 3,
    }
    (tmp_path / "out/config.json").write_text(json.dumps(resized))
    arrange(tmp_path / "out", Layout.TRANSFORMERS_JS, Dtype.FLOAT32, None)
    raw, config = read_config(tmp_path / "out")
    assert raw["model_type"] == config.architecture.model_type == "llama"
    assert raw["layer_widths"] == resized["layer_widths"]


def test_onnxruntime_genai_finds_the_graph(tmp_path: Path, llama: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    folder = export(llama, tmp_path / "out", JS).folder
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=12, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([PROMPTS[0]], np.int32))
    generator.generate_next_token()
    assert generator.get_next_tokens()[0] == generated_here(folder, PROMPTS[:1], new_tokens=1, ends=set())[0][0]


def test_a_bundle_for_a_device_is_flat(tmp_path: Path) -> None:
    output = save_tiny_output(tmp_path)
    export(output / "pruned", output, JS, overwrite=True)
    made = bundle(output, BundleOptions(max_batch=1, max_context=64))
    graphs = {name for name in made.manifest["files"] if "model" in name}
    assert {"pruned/model.onnx", "pruned/model.onnx_data"} <= graphs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(layout=Layout.TRANSFORMERS_JS, to=Format.GGUF), "is for ONNX graphs, not for --to gguf"),
        (ExportOptions(layout=Layout.TRANSFORMERS_JS, to=Format.OPENVINO), "is for ONNX graphs, not for --to openvino"),
        (ExportOptions(layout=Layout.TRANSFORMERS_JS, dtype=Dtype.BFLOAT16), "no name for a graph in --dtype bfloat16"),
        (
            ExportOptions(layout=Layout.TRANSFORMERS_JS, dtype=Dtype.FLOAT16, weights=WeightFormat.INT8, block_size=16),
            "no name for a graph in --dtype float16 with --weights int8",
        ),
    ],
)
def test_what_has_no_name_there_is_refused(tmp_path: Path, llama: Path, options: ExportOptions, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        export(llama, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model_type", "message"), [("exaone4", "decoders of the type exaone4"), ("t5", "encoder-decoder as one graph")]
)
def test_models_that_transformers_js_does_not_run_are_refused(tmp_path: Path, model_type: str, message: str) -> None:
    checkpoint = save_tiny_model(tmp_path / "checkpoint", model_type, num_hidden_layers=1)
    with pytest.raises(UnsupportedModelError, match=message):
        export(checkpoint, tmp_path / "out", JS)


@pytest.mark.skipif(find_modules() is None, reason=f"Node and @huggingface/transformers are not there: {MODULES}")
def test_node_writes_the_same_text(tmp_path: Path, llama: Path, converted: Callable[[str], Converted]) -> None:
    modules = find_modules()
    assert modules is not None
    requests: list[dict[str, Any]] = []
    for name, quantization, operators in (
        ("plain", None, Operators.STANDARD),
        ("int4", Quantization(WeightFormat.INT4, 16), Operators.STANDARD),
        ("fused", Quantization(WeightFormat.INT8, 16), Operators.ONNXRUNTIME),
    ):
        weights = None if quantization is None else quantization.weights
        options = ExportOptions(
            layout=Layout.TRANSFORMERS_JS, operators=operators, weights=weights, block_size=weights and 16
        )
        folder = export(llama, tmp_path / name, options).folder
        requests.append({"folder": str(folder), "inputs": PROMPTS, "newTokens": 12})
    checkpoint, _ = uneven(tmp_path, *UNEVEN["llama"])
    build(checkpoint, tmp_path / "uneven-js")
    arrange(tmp_path / "uneven-js", Layout.TRANSFORMERS_JS, Dtype.FLOAT32, None)
    requests.append({"folder": str(tmp_path / "uneven-js"), "inputs": PROMPTS, "newTokens": 12})
    encoder = shutil.copytree(converted("bert").output / "onnx", tmp_path / "bert")
    arrange(encoder, Layout.TRANSFORMERS_JS, Dtype.FLOAT32, None)
    requests.append({"folder": str(encoder), "inputs": PROMPTS[:1], "encode": True})

    *decoders, (encoded,) = ask(modules, requests)
    for request, answers in zip(requests, decoders, strict=False):
        here = generated_here(Path(request["folder"]), PROMPTS, new_tokens=12, ends={2})
        assert answers == [{"prompt": ids, "tokens": ids_here} for ids, ids_here in zip(PROMPTS, here, strict=True)]
    ids_1s = np.array(PROMPTS[:1])
    inputs = {"input_ids": ids_1s, "attention_mask": np.ones_like(ids_1s), "token_type_ids": np.zeros_like(ids_1s)}
    first = next(iter(run(encoder).forward(inputs).values()))
    np.testing.assert_allclose(np.reshape(encoded["values"], first.shape), first, atol=1e-5)
