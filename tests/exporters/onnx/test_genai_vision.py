"""onnxruntime-genai opens vision-language models in parts as they are: it sees the same, and says the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from amp_export import ExportOptions, Layout, export
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.exporters.dispatch import run
from amp_export.exporters.onnx.builder.embedding import build_embedding
from amp_export.exporters.onnx.builder.layout import lay_out_embedding
from amp_export.exporters.onnx.builder.weights import write_weights
from amp_export.exporters.onnx.genai import GENAI_CONFIG
from amp_export.exporters.onnx.genai_vision import EMBEDDING, PROCESSOR_CONFIG, TYPES
from amp_export.exporters.onnx.layouts import arrange
from amp_export.options import Dtype, Operators, Opset, WeightFormat
from tests.exporters.onnx.conftest import ExportedParts
from tests.support.tiny_models import save_tiny_model
from tests.support.transformers_js import generated_after_images, text_with_images
from tests.support.vision_language_models import IMAGE_TOKEN, VISION_START, save_tiny_whole

genai = pytest.importorskip("onnxruntime_genai")
pytestmark = pytest.mark.usefixtures("parts_cache")

NEW_TOKENS = 12
SPECIAL = ("<|vision_end|>", "<|vision_start|>", "<|video_pad|>", "<|image_pad|>")
"""Tokens 97 to 100, by which onnxruntime-genai finds images in a prompt."""


def generate(folder: Path, inputs: Any) -> list[int]:
    """Return what onnxruntime-genai writes after a prompt with images."""
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    start = inputs["input_ids"].as_numpy().size
    parameters.set_search_options(max_length=start + NEW_TOKENS, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.set_inputs(inputs)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][start:]


def as_inputs(ids: list[int], vision: dict[str, Any]) -> Any:
    inputs = genai.NamedTensors()
    inputs["input_ids"] = np.array([ids], np.int32)
    inputs["num_image_tokens"] = np.array([ids.count(IMAGE_TOKEN)])
    for name, array in vision.items():
        inputs[name] = array
    return inputs


def expected(folder: Path, ids: list[int], vision: dict[str, Any]) -> list[int]:
    found = generated_after_images(
        run(folder, threads=1), folder, ids, vision, image_token=IMAGE_TOKEN, new_tokens=NEW_TOKENS, ends={2}
    )
    assert len(set(found)) > 3, "a text that repeats itself would not show a wrong position"
    return found


CHOICES = {
    "float16": ExportOptions(dtype=Dtype.FLOAT16),
    "fused operators, int4": ExportOptions(operators=Operators.ONNXRUNTIME, weights=WeightFormat.INT4, block_size=16),
}


def check_text(folder: Path) -> None:
    ids, vision = text_with_images(run(folder, threads=1), IMAGE_TOKEN)
    assert generate(folder, as_inputs(ids, vision)) == expected(folder, ids, vision)


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_it_writes_the_same_text_after_images(model_type: str, exported_parts: ExportedParts) -> None:
    check_text(exported_parts(model_type)[1] / "onnx")


@pytest.mark.parametrize("choice", CHOICES)
def test_it_does_so_with_other_choices(choice: str, tmp_path: Path) -> None:
    whole = save_tiny_whole(tmp_path / "whole", "qwen3_vl")
    check_text(export(whole, tmp_path / "out", CHOICES[choice]).folder)


def save_image_tokenizer(folder: Path) -> None:
    """Write a tokenizer of letters with the tokens that Qwen's models have around images."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter.isascii())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "\u0120", *letters[-93:]])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    assert tokenizer.token_to_id(SPECIAL[1]) == VISION_START
    assert tokenizer.token_to_id(SPECIAL[3]) == IMAGE_TOKEN
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "Qwen2Tokenizer"}))


def drawn_image(height: int, width: int) -> Any:
    """Return an image of random colours that flow into one another."""
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("in_one_file", [False, True], ids=["preprocessor_config", "processor_config"])
def test_it_sees_the_pixels_that_transformers_sees(in_one_file: bool, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    whole = save_tiny_whole(tmp_path / "whole", "qwen2_5_vl")
    save_image_tokenizer(whole)
    # colours that are none of the defaults, and a least size that enlarges an image
    processor = Qwen2VLImageProcessorPil(
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.25],
        size={"shortest_edge": 112 * 112, "longest_edge": 196 * 196},
    )
    processor.save_pretrained(whole)
    if in_one_file:
        file = whole / "preprocessor_config.json"
        (whole / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(file.read_text())}))
        file.unlink()
    folder = export(whole, tmp_path / "out").folder
    prepare = genai.Model(str(folder)).create_multimodal_processor()
    for height, width, levels in ((112, 140, 0), (61, 83, 2), (300, 410, 2)):
        drawn_image(height, width).save(tmp_path / "image.png")
        seen = processor(drawn_image(height, width), return_tensors="np")
        image = genai.Images.open(str(tmp_path / "image.png"))
        inputs = prepare("a <|vision_start|><|image_pad|><|vision_end|> b", images=image)
        np.testing.assert_array_equal(inputs["image_grid_thw"].as_numpy(), seen["image_grid_thw"])
        # Pillow and onnxruntime-extensions round resized pixels otherwise
        tolerance = levels / 255 / 0.2 + 1e-6
        np.testing.assert_allclose(inputs["pixel_values"].as_numpy(), seen["pixel_values"], rtol=0, atol=tolerance)
        ids = [int(token) for token in inputs["input_ids"].as_numpy()[0]]
        assert ids.count(IMAGE_TOKEN) == seen["image_grid_thw"].prod() // 4
        vision = {name: inputs[name].as_numpy() for name in ("pixel_values", "image_grid_thw")}
        assert generate(folder, inputs) == expected(folder, ids, vision)


def test_an_embedding_graph_takes_as_many_places_as_there_are_features(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", "granite", embedding_multiplier=3.0))
    config, token = checkpoint.config, 7
    stored = lay_out_embedding(config, Dtype.FLOAT32)
    options: dict[str, Any] = {"dtype": Dtype.FLOAT32, "opset": Opset.OPSET_23, "data_file": "data"}
    sessions = {}
    for name, image_token in (("of tokens", None), ("with images", token)):
        model = build_embedding(config, stored, deep_layers=1, image_token=image_token, **options)
        (tmp_path / name).write_bytes(model.SerializeToString())
        sessions[name] = lambda given, file=tmp_path / name: onnxruntime.InferenceSession(file).run(None, given)[0]
    write_weights(checkpoint, stored, tmp_path / "data", dtype=Dtype.FLOAT32)
    tokens_bs = np.array([[5, token, token, 6, token]])
    plain = sessions["of tokens"]({"input_ids": tokens_bs})
    assert np.any(plain[..., : config.hidden_size])
    assert not np.any(plain[..., config.hidden_size :])
    features = np.random.default_rng(0).standard_normal((4, 2 * config.hidden_size), np.float32)
    for count in range(4):
        there = plain.copy()
        there[0, [1, 2, 4][:count]] = features[:count]
        given = {"input_ids": tokens_bs, "image_features": features[:count]}
        np.testing.assert_array_equal(sessions["with images"](given), there)
    with pytest.raises(Exception, match="ScatterND"):
        sessions["with images"]({"input_ids": tokens_bs, "image_features": features})


NEEDED = (GENAI_CONFIG, EMBEDDING, PROCESSOR_CONFIG)


def test_it_gets_no_files_where_it_does_not_run_the_model(exported_parts: ExportedParts) -> None:
    _, output = exported_parts("gemma3")
    assert not any((output / "onnx" / name).exists() for name in NEEDED)


def test_the_layout_of_transformers_js_holds_what_that_reads(exported_parts: ExportedParts, tmp_path: Path) -> None:
    folder = shutil.copytree(exported_parts("qwen3_vl")[1] / "onnx", tmp_path / "onnx")
    assert (folder / EMBEDDING).is_file()
    arrange(folder, Layout.TRANSFORMERS_JS, Dtype.FLOAT32, None, in_parts=True)
    assert not any((folder / name).exists() for name in NEEDED)
    assert len(list((folder / "onnx").iterdir())) == 6


def test_no_config_is_written_where_no_token_ends_a_text(tmp_path: Path) -> None:
    whole = save_tiny_whole(tmp_path / "whole", "qwen3_vl")
    raw = json.loads((whole / "config.json").read_text())
    raw["text_config"]["eos_token_id"] = None
    (whole / "config.json").write_text(json.dumps(raw))
    (whole / "generation_config.json").unlink()
    folder = export(whole, tmp_path / "out").folder
    assert not any((folder / name).exists() for name in NEEDED)
