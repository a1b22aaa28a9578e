"""What onnxruntime-genai reads beside the parts of a vision-language model, to open their folder directly.

Sources: src/config.h, src/models/multi_modal.cpp and src/models/qwen2_5_vl_image_processor.cpp of onnxruntime-genai;
shared/api/image_transforms.hpp and image_transforms_qwen2_5.hpp of onnxruntime-extensions, which prepares its images.
Run with 0.18.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_export.architectures._grid_encoders import GRIDS
from amp_export.checkpoints.vision_language import read_fields
from amp_export.documents import read_object
from amp_export.errors import ModelError
from amp_export.exporters.files import EMBED_TOKENS, MERGED_DECODER, VISION_ENCODER, data_name, file_name
from amp_export.exporters.models.ports import EMBEDDINGS, FEATURES, PIXELS
from amp_export.exporters.onnx.builder.embedding import build_embedding
from amp_export.exporters.onnx.builder.layout import lay_out_embedding
from amp_export.exporters.onnx.genai import SeeingModel, read_generation, write_genai_config
from amp_export.options import Format

if TYPE_CHECKING:
    from amp_export.checkpoints.reading import Checkpoint
    from amp_export.exporters.onnx.exporting import GraphChoices

EMBEDDING = "embedding.onnx"
"""The graph that puts the features of images among the embeddings of tokens."""

PROCESSOR_CONFIG = "genai_processor.json"
"""How onnxruntime-extensions prepares images."""

TYPES = frozenset({"qwen2_5_vl", "qwen3_vl"})
"""Types of vision-language models that onnxruntime-genai runs as they are exported here. It reads the images of a
`gemma3` causally, wants features of images of all sizes in one axis of a `mistral3`, and has no other type of
`VISION_LANGUAGE`: `IsVLM`, src/models/model_type.h."""

_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id")
"""Tokens from which it computes the positions of a text with images: `Qwen2VLPositionInputs`."""

_IMAGES = ("preprocessor_config.json", "processor_config.json")
"""Files with the settings of image processors, of transformers 4 and 5."""

_INTERPOLATIONS = {0: "NEAREST", 1: "LANCZOS", 2: "LINEAR", 3: "CUBIC"}
"""Names in onnxruntime-extensions of what Pillow numbers: `Resampling`, PIL/Image.py, 12."""

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of pixels, by default: `Qwen2VLImageProcessor`, image_processing_qwen2_vl.py, transformers 5.24."""


def describe_parts(
    checkpoint: Checkpoint, folder: Path, whole: Path, choices: GraphChoices, *, inputs: list[str], deep_layers: int
) -> None:
    """Write what onnxruntime-genai needs beside the parts of a vision-language model, if it runs them.

    - `embedding.onnx` reads `input_ids` and `image_features`. It shares the weights of `embed_tokens.onnx`.
    - `genai_config.json` names the graphs.
    - `genai_processor.json` says how images are prepared, where the model has an image processor.

    Args:
        checkpoint: Checkpoint of the language model.
        folder: Folder of the parts.
        whole: The vision-language model.
        choices: How the decoder's graph is made.
        inputs: Names of the decoder's inputs.
        deep_layers: See `Entry`.

    Raises:
        ModelError: A config is damaged.
    """
    raw = read_object(whole / "config.json", error=ModelError)
    if raw["model_type"] not in TYPES:
        return
    fields, blocks = read_fields(whole), choices.quantization.block_size if choices.quantization is not None else None
    seeing = SeeingModel(
        model_type=raw["model_type"],
        generation=read_generation({**checkpoint.raw_config, **raw}, whole),
        width=(1 + deep_layers) * checkpoint.config.hidden_size,
        fields=_describe_images(fields),
    )
    described = write_genai_config(
        checkpoint,
        folder,
        graph=file_name(MERGED_DECODER, Format.ONNX),
        inputs=inputs,
        operators=choices.operators,
        has_blocks=blocks is not None,
        seeing=seeing,
    )
    if described:
        _write_embedding(checkpoint, folder, choices, fields["image_token_id"], deep_layers=deep_layers)
        _write_processor(folder, whole, fields["vision_config"])


def _describe_images(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `model` that are about images, from all fields of a model's config."""
    vision = fields["vision_config"]
    return {
        **{name: fields[name] for name in _TOKENS},
        "embedding": {
            "filename": EMBEDDING,
            "inputs": {"input_ids": "input_ids", FEATURES: FEATURES},
            "outputs": {EMBEDDINGS: EMBEDDINGS},
        },
        "vision": {
            "filename": file_name(VISION_ENCODER, Format.ONNX),
            "config_filename": PROCESSOR_CONFIG,
            "spatial_merge_size": vision["spatial_merge_size"],
            "patch_size": vision["patch_size"],
            "inputs": {PIXELS: PIXELS, GRIDS: GRIDS},
            "outputs": {FEATURES: FEATURES},
        },
    }


def _write_embedding(
    checkpoint: Checkpoint, folder: Path, choices: GraphChoices, image_token: int, *, deep_layers: int
) -> None:
    model = build_embedding(
        checkpoint.config,
        lay_out_embedding(checkpoint.config, choices.dtype),
        dtype=choices.dtype,
        opset=choices.opset,
        data_file=data_name(folder / file_name(EMBED_TOKENS, Format.ONNX)).name,
        deep_layers=deep_layers,
        image_token=image_token,
    )
    (folder / EMBEDDING).write_bytes(model.SerializeToString())


def _write_processor(folder: Path, whole: Path, vision: Mapping[str, Any]) -> None:
    """Write how images are prepared, if the model has an image processor.

    Raises:
        ModelError: Its file is damaged.
    """
    file = next((whole / name for name in _IMAGES if (whole / name).is_file()), None)
    if file is None:
        return
    content = read_object(file, error=ModelError)
    steps = _steps(content.get("image_processor", content), vision)
    named = {"processor": {"name": "image_processor", "transforms": steps}}
    (folder / PROCESSOR_CONFIG).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def _steps(images: Mapping[str, Any], vision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the steps from a file to patches, as `Qwen2VLImageProcessor` takes them, with its defaults."""
    size = images.get("size") or {}
    sizes = {
        "min_pixels": images.get("min_pixels") or size.get("shortest_edge", 56 * 56),
        "max_pixels": images.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280),
    }
    patches = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"]}
    colours = {
        "mean": list(images.get("image_mean") or _CLIP_MEAN),
        "std": list(images.get("image_std") or _CLIP_STD),
    }
    steps: list[tuple[str, dict[str, Any]]] = [
        ("DecodeImage", {"color_space": "RGB"}),
        (
            "Resize",
            {"smart_resize": 1, "interpolation": _INTERPOLATIONS[images.get("resample", 3)], **sizes, **patches},
        ),
        ("Rescale", {"rescale_factor": images.get("rescale_factor", 1 / 255)}),
        ("Normalize", colours),
        ("PatchImage", {"temporal_patch_size": vision["temporal_patch_size"], **patches}),
    ]
    return [{"operation": {"name": kind.lower(), "type": kind, "attrs": attrs}} for kind, attrs in steps]
