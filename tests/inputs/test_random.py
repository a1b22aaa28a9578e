from __future__ import annotations

from pathlib import Path

import pytest

from amp_export.checkpoints.reading import read_config
from amp_export.inputs.random import input_name, random_inputs, signal_shape
from tests.support.tiny_models import save_tiny_model


@pytest.mark.parametrize(
    ("model_type", "name", "shape"),
    [
        ("bert", "input_ids", (2, 5)),
        ("vit", "pixel_values", (2, 3, 12, 12)),
        ("siglip2_vision_model", "pixel_values", (2, 5, 48)),
        ("whisper", "input_features", (2, 8, 24)),
        ("hubert", "input_values", (2, 4 * 320 + 325)),
    ],
)
def test_inputs_have_the_name_and_the_shape_that_a_model_takes(
    model_type: str, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    config = read_config(save_tiny_model(tmp_path / model_type, model_type))[1]
    assert input_name(config) == name
    assert random_inputs(config, samples=2, length=5)[name].shape == shape


def test_an_image_need_not_be_square(tmp_path: Path) -> None:
    config = read_config(save_tiny_model(tmp_path / "vit", "vit", image_size=(8, 12)))[1]
    assert signal_shape(config) == (3, 8, 12)
