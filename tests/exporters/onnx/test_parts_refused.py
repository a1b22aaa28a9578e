"""What vision-language models in parts refuse, before any work or where inputs do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amp_export import ExportOptions, Layout, export
from amp_export.api.validate import validate
from amp_export.devices.bundle import bundle
from amp_export.errors import AmpExportError, RequestError, UnsupportedModelError
from amp_export.exporters.dispatch import run
from amp_export.options import Operators, Via
from amp_export.verb_options import BundleOptions, ValidateOptions
from tests.exporters.onnx.conftest import ExportedParts
from tests.support.bad_checkpoints import set_fields
from tests.support.vision_language_models import EXPORTED, FIELDS, IMAGE_TOKEN, save_tiny_whole

pytestmark = pytest.mark.usefixtures("parts_cache")


def test_more_or_less_features_than_image_tokens_are_refused(exported_parts: ExportedParts) -> None:
    model: Any = run(exported_parts("gemma3")[1] / "onnx", threads=1)
    tokens_bs, features = np.array([[5, IMAGE_TOKEN, 6]]), np.zeros((1, model.tokens_per_image, 48), np.float32)
    places = np.arange(3)[None]
    with pytest.raises(RequestError, match="1 tokens for images, and the images have 4 features"):
        model.read(tokens_bs, features, tokens_bs == IMAGE_TOKEN, np.ones_like(tokens_bs), places)


def test_grids_of_more_or_less_patches_are_refused(exported_parts: ExportedParts) -> None:
    model: Any = run(exported_parts("qwen2_vl")[1] / "onnx", threads=1)
    pixels = np.zeros((24, model.values_per_patch), np.float32)
    for grid in ([1, 4, 4], [1, 4, 8]):
        with pytest.raises(RequestError, match=f"24 patches, and the grids in image_grid_thw are of {np.prod(grid)}"):
            model.encode_images({"pixel_values": pixels, "image_grid_thw": np.array([grid])})


JS = Layout.TRANSFORMERS_JS
REFUSED: dict[str, tuple[str, dict[str, Any], ExportOptions, str]] = {
    **{
        name: (name, {}, ExportOptions(), f"The parts of a {name} cannot be exported to ONNX yet: ")
        for name in FIELDS
        if name not in EXPORTED
    },
    "another vision encoder": (
        "llava",
        {"vision_config": {"model_type": "pixtral"}},
        ExportOptions(),
        "its vision encoder is of the type pixtral",
    ),
    "fused operators": ("gemma3", {}, ExportOptions(operators=Operators.ONNXRUNTIME), "tokens of an image see each"),
    "a traced decoder": ("smolvlm", {}, ExportOptions(via=Via.TRACE), "is built directly, from embeddings"),
    "types of tokens in transformers.js": ("gemma3", {}, ExportOptions(layout=JS), "models of the type gemma3"),
    "no class in transformers.js": ("internvl", {}, ExportOptions(layout=JS), "models of the type internvl"),
    "an image token without embedding": ("smolvlm", {"image_token_id": 400}, ExportOptions(), "for images is 400"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_before_any_work(case: str, tmp_path: Path) -> None:
    model_type, fields, options, message = REFUSED[case]
    whole = save_tiny_whole(tmp_path / "whole", model_type)
    set_fields(**fields)(whole)
    with pytest.raises(AmpExportError, match=message):
        export(whole, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_what_needs_one_graph_refuses_several(exported_parts: ExportedParts) -> None:
    _, output = exported_parts("gemma3")
    with pytest.raises(UnsupportedModelError, match="--explain compares the values within one graph"):
        validate(output, ValidateOptions(explain=True))
    with pytest.raises(UnsupportedModelError, match="does not hold a decoder"):
        bundle(output, BundleOptions(max_batch=1, max_context=64))
