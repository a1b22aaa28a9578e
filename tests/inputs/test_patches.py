"""Images as rows of patches: which are real, and that padding counts for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import read_config
from amp_export.errors import CalibrationError, UnsupportedModelError
from amp_export.exporters.support import require_exportable
from amp_export.inputs.arrays import SampleArrays, check_arrays, no_samples
from amp_export.inputs.patches import describe_patches, grid_of
from amp_export.options import Format
from amp_export.pruning.scoring import score_batches
from tests.support.tiny_models import save_tiny_model

COUNTS = (6, 8)
PATCHES = np.random.default_rng(0).standard_normal((2, 8, 48), np.float32)
GIVEN = {"pixel_values": PATCHES, **describe_patches(COUNTS)}


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("siglip2") / "checkpoint", "siglip2_vision_model")


def config_of(folder: Path) -> ModelConfig:
    return read_config(folder)[1]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_grids_have_as_many_patches_as_the_mask_says(counts: list[int]) -> None:
    described = describe_patches(counts)
    shapes_b2, mask_bp = described["spatial_shapes"], described["pixel_attention_mask"]
    assert shapes_b2.prod(axis=1).tolist() == mask_bp.sum(axis=1).tolist() == counts
    assert (shapes_b2[:, 0] <= shapes_b2[:, 1]).all()
    assert (np.diff(mask_bp, axis=1) <= 0).all()
    assert mask_bp.shape[1] == max(counts)


def test_the_squarest_grid_is_taken() -> None:
    assert [grid_of(count) for count in (1, 12, 17, 256)] == [(1, 1), (3, 4), (1, 17), (16, 16)]


def test_padding_after_patches_counts_for_nothing(siglip2: Path) -> None:
    model, config = load_model(siglip2), config_of(siglip2)

    def score(arrays: dict[str, np.ndarray]) -> np.ndarray:
        batches = SampleArrays(arrays, Path("a.npz")).batches(model, config)
        return np.concatenate(score_batches(model, batches, config).neurons)

    together = score(GIVEN)
    alone = [
        score({"pixel_values": PATCHES[row : row + 1, :count], **describe_patches([count])})
        for row, count in enumerate(COUNTS)
    ]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-5)
    other = score({**GIVEN, "pixel_values": PATCHES + (np.arange(8) >= 6)[None, :, None] * np.float32([[[1]], [[0]]])})
    np.testing.assert_allclose(other, together, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": PATCHES[..., :40]}, r"has the shape \[samples, 8, 40\]"),
        ({"spatial_shapes": None}, "Give `pixel_values` of shape .samples, patches, 48., `pixel_attention_mask`"),
        ({"spatial_shapes": np.zeros((2, 2), np.int64)}, "must hold integers of at least 1"),
        ({"spatial_shapes": np.ones((2, 2), np.float32)}, "must hold integers of at least 1"),
        ({"spatial_shapes": np.ones((2, 3), np.int64)}, "must hold integers of at least 1"),
        ({"spatial_shapes": np.full((2, 2), 3)}, "do not agree: rows times columns of a sample are up to 9"),
        ({"pixel_attention_mask": np.ones((2, 8))}, "do not agree"),
        ({"pixel_attention_mask": np.ones((2, 7))}, "do not agree"),
        ({"pixel_attention_mask": GIVEN["pixel_attention_mask"][:, ::-1]}, "do not agree"),
        ({"pixel_attention_mask": np.full((2, 8), 2)}, "do not agree"),
    ],
)
def test_patches_that_contradict_each_other_are_refused(
    changes: dict[str, np.ndarray | None], message: str, siglip2: Path
) -> None:
    check_arrays(SampleArrays(GIVEN, Path("a.npz")), config_of(siglip2))
    arrays = {name: array for name, array in {**GIVEN, **changes}.items() if array is not None}
    with pytest.raises(CalibrationError, match=message):
        check_arrays(SampleArrays(arrays, Path("a.npz")), config_of(siglip2))


def test_what_is_missing_is_named(siglip2: Path) -> None:
    assert "`spatial_shapes` [samples, 2], the rows and columns of these patches" in str(no_samples(config_of(siglip2)))


def test_a_program_of_fixed_size_is_refused_before_any_work(siglip2: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="takes images of any size, but an ExecuTorch program"):
        require_exportable(config_of(siglip2), Format.EXECUTORCH)
