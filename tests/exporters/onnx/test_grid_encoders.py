"""Vision encoders of patches: the same features as transformers' encoder, for images of any sizes in one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from amp_export.architectures._vision_language import VISION_LANGUAGE
from amp_export.checkpoints.loading import load_whole
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.errors import ModelError, UnsupportedModelError
from amp_export.exporters.onnx.grid_encoders import read_grid_config, write_grid_encoder
from amp_export.options import Dtype, Opset
from tests.support.bad_checkpoints import set_fields
from tests.support.vision_language_models import FIELDS, save_tiny_whole

TYPES = [name for name, facts in VISION_LANGUAGE.items() if facts.grid_encoder is not None]

Encode = Callable[[Any, Any], Any]


Model = tuple[Any, Callable[[Dtype, Opset], Encode]]


@pytest.fixture(scope="module", params=TYPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model of transformers, and what makes the graph of its vision encoder."""
    whole = save_tiny_whole(tmp_path_factory.mktemp(request.param), request.param)

    @cache
    def open_graph(dtype: Dtype, opset: Opset) -> Encode:
        return written(whole, whole / f"{dtype}-{opset}.onnx", dtype, opset)

    return load_whole(whole).base_model, open_graph


def written(whole: Path, file: Path, dtype: Dtype = Dtype.FLOAT32, opset: Opset = Opset.OPSET_23) -> Encode:
    config = read_grid_config(whole)
    assert config is not None
    write_grid_encoder(whole, file, config, dtype=dtype, opset=opset)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels, grids: session.run(None, {"pixel_values": pixels, config.facts.grid_input: grids})[0]


def draw_pixels(grids: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((grids.prod(axis=1).sum(), 3 * 2 * 14**2), np.float32)


def seen(core: Any, pixels: Any, grids: Any) -> Any:
    with torch.inference_mode():
        found = core.get_image_features(torch.from_numpy(pixels), torch.from_numpy(grids), return_dict=True)
    deep = getattr(found, "deepstack_features", None) or []
    return torch.cat([torch.cat(each) for each in (found.pooler_output, *deep)], dim=-1).numpy()


@given(
    sizes=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    opset=st.sampled_from(Opset),
)
@settings(max_examples=25)
def test_features_are_those_of_transformers(model: Model, sizes: list[tuple[int, int, int]], opset: Opset) -> None:
    core, open_graph = model
    grids = np.array([[time, 2 * rows, 2 * columns] for time, rows, columns in sizes])
    pixels = draw_pixels(grids)
    found = open_graph(Dtype.FLOAT32, opset)(pixels, grids)
    np.testing.assert_allclose(found, seen(core, pixels, grids), rtol=0, atol=2e-5)


def test_features_in_float16_are_close(model: Model) -> None:
    core, open_graph = model
    grids = np.array([[1, 4, 10], [1, 6, 2]])
    pixels = draw_pixels(grids)
    for opset in Opset:
        found = open_graph(Dtype.FLOAT16, opset)(pixels, grids)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, seen(core, pixels, grids), rtol=0, atol=2e-2)


def test_an_image_is_seen_alike_alone_and_among_others(model: Model) -> None:
    encode = model[1](Dtype.FLOAT32, Opset.OPSET_23)
    grids = np.array([[1, 4, 6], [2, 2, 8], [1, 10, 4]])
    pixels, ends = draw_pixels(grids), grids.prod(axis=1).cumsum()
    alone = [encode(each, grids[[number]]) for number, each in enumerate(np.split(pixels, ends[:-1]))]
    np.testing.assert_allclose(encode(pixels, grids), np.concatenate(alone), rtol=0, atol=1e-5)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    whole = save_tiny_whole(tmp_path / "whole", "qwen2_5_vl")
    tensors = load_file(whole / SINGLE)
    del tensors["visual.blocks.1.mlp.up_proj.weight"]
    save_file(tensors, whole / SINGLE)
    with pytest.raises(ModelError, match=r"1 tensors of its vision encoder are missing, visual\.blocks\.1\.mlp"):
        written(whole, tmp_path / "vision.onnx")


def test_an_unknown_activation_function_is_refused(tmp_path: Path) -> None:
    whole = save_tiny_whole(tmp_path / "whole", "qwen2_vl")
    set_fields(vision_config={**FIELDS["qwen2_vl"]["vision_config"], "hidden_act": "tanh"})(whole)
    with pytest.raises(UnsupportedModelError, match=r"vision_config\.hidden_act 'tanh' is not supported"):
        written(whole, tmp_path / "vision.onnx")
