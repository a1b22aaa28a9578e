"""Vision-language models in parts: the same as the whole in PyTorch, on texts and on images, here and in Node."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from amp_export import ExportOptions, Layout, export, prune
from amp_export.api import convert as converting
from amp_export.api.convert import convert
from amp_export.api.validate import validate
from amp_export.architectures import LayerWidths
from amp_export.architectures._vision_language import VISION_LANGUAGE
from amp_export.checkpoints.loading import load_whole
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.checkpoints.sources import resolve_model
from amp_export.checkpoints.vision_language import read_exported_config
from amp_export.errors import ModelError, RequestError
from amp_export.exporters.dispatch import run
from amp_export.exporters.files import SUBFOLDER
from amp_export.exporters.models.session import Port
from amp_export.exporters.models.vision_language import TYPES, GraphVisionLanguage
from amp_export.exporters.onnx import export as build
from amp_export.exporters.onnx.builder.entries import OF_EMBEDDINGS
from amp_export.exporters.onnx.exporting import GraphChoices, write_decoder
from amp_export.exporters.onnx.layouts import arrange
from amp_export.exporters.onnx.parts import PartsOf, export_parts, write_embedding
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.onnx.sessions import open_session
from amp_export.options import Dtype, Format, Logits, Operators, Opset, WeightFormat
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.names import PRUNED, WHOLE
from amp_export.parity.comparison import compare
from amp_export.parity.decoder_cases import Case
from amp_export.progress import Silent
from amp_export.pruning.plan import LayerPlan, Plan
from amp_export.reporting.report import Report
from amp_export.verb_options import ConvertOptions, PruneOptions
from tests.exporters.onnx.conftest import ExportedParts
from tests.support.forms import ALL_FAMILIES
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer
from tests.support.transformers_js import (
    MODULES,
    as_json,
    ask,
    find_modules,
    generated_after_images,
    text_with_images,
)
from tests.support.vision_language_models import EXPORTED, IMAGE_TOKEN, TEXT, WITH_GRIDS, save_tiny_whole

pytestmark = pytest.mark.usefixtures("parts_cache", "few_texts")

OF_EACH_FORM = EXPORTED if ALL_FAMILIES else ["gemma3", "idefics3", "mistral3", *WITH_GRIDS]
"""One type for each input of vision encoders; `llava_onevision`, which is a `llava` with line ends, goes the whole way
below."""


def ports(file: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Names and dtypes of a graph's inputs and outputs, without those of the KV cache."""
    model = onnx.load(file, load_external_data=False)
    inputs, outputs = (
        {
            value.name: value.type.tensor_type.elem_type
            for value in values
            if not value.name.startswith(("past_key_values.", "present."))
        }
        for values in (model.graph.input, model.graph.output)
    )
    return inputs, outputs


@pytest.mark.parametrize("model_type", OF_EACH_FORM)
def test_they_compute_what_the_whole_does(
    model_type: str, exported_parts: ExportedParts, few_texts: tuple[Case, ...], tmp_path: Path
) -> None:
    _, output = exported_parts(model_type)
    report = validate(output)
    assert report.holds
    assert report.greedy is not None
    names = {case.name for case in report.cases}
    assert {case.name for case in few_texts} < names
    assert any("2 images" in name and "decode steps" in name for name in names)
    assert any("padded" in name and "images" in name for name in names)

    masked, grids = model_type in ("idefics3", "smolvlm"), VISION_LANGUAGE[model_type].grid_encoder
    types = [TYPES] if model_type == "gemma3" else []
    floats, integers, flags = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
    taken = {"pixel_values": floats, **({"pixel_attention_mask": flags} if masked else {})}
    taken |= {grids.grid_input: integers} if grids is not None else {}
    assert ports(output / "onnx/vision_encoder.onnx") == (taken, {"image_features": floats})
    assert ports(output / "onnx/embed_tokens.onnx") == ({"input_ids": integers}, {"inputs_embeds": floats})
    others = ("attention_mask", "position_ids", "num_logits_to_keep", *types)
    assert ports(output / "onnx/decoder_model_merged.onnx") == (
        {"inputs_embeds": floats, **dict.fromkeys(others, integers)},
        {"logits": floats},
    )


def test_the_whole_way_compares_with_the_pruned_whole_and_measures_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, output, measured = save_tiny_whole(tmp_path / "dense", "llava_onevision"), tmp_path / "out", {}
    save_tiny_tokenizer(dense)
    layers = (LayerPlan((0, 1, 4, 5), (0, 2), tuple(range(32))),) * TEXT["num_hidden_layers"]
    Plan(layers=layers, asked=None, achieved=0.0).save(tmp_path / "plan.json")

    def measure(*folders: Path, **_: object) -> None:
        for name, folder in zip(("dense", "pruned"), folders, strict=True):
            config = read_exported_config(folder)[1]
            encoder = (folder / "vision_encoder.onnx_data").read_bytes()
            measured[name] = (config.widths, encoder)
            model: Any = run(folder, threads=1)
            assert model.num_layers == len(layers)
        raise RequestError("That is enough.\nStop.")  # what launches of processes would measure

    monkeypatch.setattr(converting, "benchmark_models", measure)
    prune = PruneOptions(plan=tmp_path / "plan.json", compensate=False)
    with pytest.raises(RequestError, match="enough"):
        convert(dense, output, ConvertOptions(prune=prune, export=ExportOptions(), threads=1))
    parity = Report.load(output).parity
    assert parity is not None
    assert parity.holds
    assert any("2 images" in case.name for case in parity.cases)
    assert measured["dense"][0] == LayerWidths(6, 3, 64)
    assert measured["pruned"][0] == LayerWidths(4, 2, 32)
    assert measured["dense"][1] == measured["pruned"][1]
    Manifest.load(output).verify(output)
    assert {"onnx", PRUNED, WHOLE} < {entry.name for entry in output.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(dtype=Dtype.FLOAT16),
        ExportOptions(opset=Opset.OPSET_20),
        ExportOptions(operators=Operators.ONNXRUNTIME, weights=WeightFormat.INT4, block_size=16),
        ExportOptions(logits=Logits.LAST),
    ],
    ids=["float16", "opset 20", "fused operators, int4", "last logits"],
)
def test_positions_in_three_rows_go_with_other_choices(
    options: ExportOptions, exported_parts: ExportedParts, tmp_path: Path
) -> None:
    export(exported_parts("qwen2_5_vl")[0], tmp_path / "out", options)
    report = validate(tmp_path / "out")
    assert report.holds
    assert any("2 images" in case.name for case in report.cases)


def flatten_config(whole: Path) -> None:
    """Write the config of a Qwen2-VL as it is on the hub: its language model's fields are among its own."""
    raw = json.loads((whole / "config.json").read_text())
    text = raw.pop("text_config")
    rope = text.pop("rope_parameters")
    del text["model_type"], text["layer_types"], text["head_dim"]
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    raw |= {**text, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    del raw["vision_config"]["model_type"], raw["vision_config"]["rope_parameters"]
    (whole / "config.json").write_text(json.dumps(raw))


def prune_tiny(whole: Path, folder: Path, heads: tuple[tuple[int, ...], tuple[int, ...]]) -> Path:
    """Prune a tiny model to some heads and half of its neurons, and return the whole."""
    plan = folder / "plan.json"
    layers = (LayerPlan(*heads, tuple(range(32))),) * TEXT["num_hidden_layers"]
    Plan(layers=layers, asked=None, achieved=0.0).save(plan)
    prune(whole, folder / "out", PruneOptions(plan=plan, compensate=False))
    return folder / "out" / WHOLE


PRUNED_MODELS: dict[str, tuple[str, Callable[[Path], object], tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "neurons, with a flat config": ("qwen2_vl", flatten_config, (tuple(range(6)), tuple(range(3)))),
    "heads and neurons": ("qwen3_vl", lambda whole: whole, ((0, 1, 4, 5), (0, 2))),
}


@pytest.mark.parametrize("case", PRUNED_MODELS)
def test_the_parts_of_a_pruned_model_agree(case: str, tmp_path: Path) -> None:
    model_type, change, heads = PRUNED_MODELS[case]
    whole = save_tiny_whole(tmp_path / "whole", model_type)
    change(whole)
    export(prune_tiny(whole, tmp_path, heads), tmp_path / "parts")
    report = validate(tmp_path / "parts")
    assert report.holds
    assert any("2 images" in case.name for case in report.cases)


@pytest.mark.parametrize(("height", "width"), [(28, 56), (35, 50)])
def test_an_encoder_of_any_size_reads_other_sizes_than_it_was_traced_with(
    height: int, width: int, exported_parts: ExportedParts
) -> None:
    whole, output = exported_parts("mistral3")
    pixels = np.random.default_rng(0).standard_normal((2, 3, height, width), np.float32)
    core: Any = load_whole(whole).base_model
    with torch.inference_mode():
        seen = core.get_image_features(torch.from_numpy(pixels), [(height, width)] * 2, return_dict=True).pooler_output
    graphs: Any = run(output / "onnx", threads=1)
    assert graphs.tokens_per_image is None
    np.testing.assert_allclose(graphs.encode_images({"pixel_values": pixels}), torch.stack(seen), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gemma", "granite", "opt"])
def test_embedding_and_decoder_of_embeddings_are_the_decoder_of_tokens(model_type: str, tmp_path: Path) -> None:
    factor = {"embedding_multiplier": 3.0} if model_type == "granite" else {}
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type, num_hidden_layers=1, **factor))
    build(checkpoint, tmp_path / "tokens")
    files = [tmp_path / "parts" / name for name in ("embed_tokens.onnx", "decoder_model_merged.onnx")]
    write_decoder(checkpoint, files[1], GraphChoices(), entry=OF_EMBEDDINGS)
    write_embedding(checkpoint, files[0], GraphChoices())
    vision: Any = SimpleNamespace(inputs={}, outputs={"image_features": Port("float32", ("num_images", 4, 48))})
    parts = GraphVisionLanguage(vision, *(open_session(file, threads=1) for file in files))
    whole: Any = run(tmp_path / "tokens", threads=1)
    tokens_bs = np.random.default_rng(0).integers(4, 100, (2, 9))
    given = (tokens_bs, np.ones_like(tokens_bs), np.tile(np.arange(9), (2, 1)))
    np.testing.assert_allclose(parts.forward(*given)[0], whole.forward(*given)[0], rtol=0, atol=1e-5)


def arranged(
    folder: Path, whole: Path, output: Path, dtype: Dtype, quantization: Quantization | None, layout: Layout
) -> Path:
    """Parts with the vision encoder of an export, which takes most of the time to make."""
    checkpoint = open_checkpoint(resolve_model(whole).path)
    choices = GraphChoices(dtype, quantization=quantization)
    export_parts(checkpoint, folder, PartsOf(whole, encoder=output / "onnx"), choices)
    arrange(folder, layout, dtype, quantization, in_parts=True)
    return folder


def test_quantized_decoders_agree_and_the_names_say_it(exported_parts: ExportedParts, tmp_path: Path) -> None:
    whole, output = exported_parts("idefics3")
    quantization = Quantization(WeightFormat.INT4, 16)
    folder = arranged(tmp_path / "onnx", whole, output, Dtype.FLOAT32, quantization, Layout.TRANSFORMERS_JS)
    graphs = {"decoder_model_merged_q4", "embed_tokens", "vision_encoder"}
    assert {file.name for file in (folder / SUBFOLDER).iterdir()} == {
        f"{name}.onnx{end}" for name in graphs for end in ("", "_data")
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "idefics3"
    assert config["transformers.js_config"]["dtype"] == {
        "decoder_model_merged": "q4",
        "embed_tokens": "fp32",
        "vision_encoder": "fp32",
    }
    report = compare(resolve_model(whole).path, folder, whole=whole, progress=Silent())
    assert report.holds
    assert report.rounded is not None


@pytest.mark.skipif(find_modules() is None, reason=f"Node and @huggingface/transformers are not there: {MODULES}")
@pytest.mark.parametrize("model_type", ["idefics3", *WITH_GRIDS])
def test_node_writes_the_same_text_after_images(model_type: str, exported_parts: ExportedParts, tmp_path: Path) -> None:
    modules = find_modules()
    assert modules is not None
    whole, output = exported_parts(model_type)
    folder = arranged(tmp_path / "onnx", whole, output, Dtype.FLOAT32, None, Layout.TRANSFORMERS_JS)
    model: Any = run(folder, threads=1)
    ids, vision = text_with_images(model, IMAGE_TOKEN)
    here = generated_after_images(model, folder, ids, vision, image_token=IMAGE_TOKEN, new_tokens=12, ends={2})
    ((answer,),) = ask(modules, [{"folder": str(folder), "inputs": [ids], "newTokens": 12, "images": as_json(vision)}])
    assert answer == {"prompt": ids, "tokens": here}
    assert len(set(here)) > 3


def test_other_formats_hold_the_language_model_alone_and_say_so(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    notes: list[str] = []
    progress = Silent()
    progress.note = notes.append
    whole = save_tiny_whole(tmp_path / "whole", "smolvlm")
    folder = export(whole, tmp_path / "out", ExportOptions(to=Format.OPENVINO), progress=progress).folder
    assert any("holds the language model alone" in note for note in notes)
    assert (folder / "openvino_model.xml").is_file()


def test_parts_need_the_whole_as_it_was(exported_parts: ExportedParts, tmp_path: Path) -> None:
    whole = save_tiny_whole(tmp_path / "whole", "gemma3")
    folder = arranged(tmp_path / "made", whole, exported_parts("gemma3")[1], Dtype.FLOAT32, None, Layout.FLAT)
    with pytest.raises(RequestError, match="Name the model with --reference"):
        compare(resolve_model(whole).path, folder, progress=Silent())
    (folder / "vision_encoder.onnx").unlink()
    with pytest.raises(ModelError, match=r"holds no vision_encoder\.onnx"):
        run(folder)
