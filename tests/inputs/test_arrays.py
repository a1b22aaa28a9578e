from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import read_config
from amp_export.errors import CalibrationError
from amp_export.inputs.arrays import (
    BATCH_SAMPLES,
    SampleArrays,
    check_arrays,
    generate_greedily,
    no_samples,
    read_arrays,
)
from amp_export.pruning.scoring import score_batches
from tests.support.tiny_models import save_tiny_model

IMAGES = np.random.default_rng(0).standard_normal((6, 3, 12, 12), np.float32)
SOUNDS = np.random.default_rng(0).standard_normal((3, 8, 24), np.float32)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("vit") / "checkpoint", "vit", num_hidden_layers=1)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("whisper") / "checkpoint", "whisper", num_hidden_layers=1)


def config_of(folder: Path) -> ModelConfig:
    return read_config(folder)[1]


def test_both_formats_read_alike(tmp_path: Path, vit: Path) -> None:
    np.savez(tmp_path / "a.npz", pixel_values=IMAGES)
    save_file({"pixel_values": torch.tensor(IMAGES)}, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        given = read_arrays(tmp_path / name)
        check_arrays(given, config_of(vit))
        np.testing.assert_array_equal(given.arrays["pixel_values"], IMAGES)
        assert given.origin == f"6 samples of {name}"


def test_bfloat16_can_be_given(tmp_path: Path) -> None:
    save_file({"pixel_values": torch.tensor(IMAGES).bfloat16()}, tmp_path / "a.safetensors")
    assert read_arrays(tmp_path / "a.safetensors").arrays["pixel_values"].dtype == np.float32


def test_small_batches_score_as_one_does(vit: Path) -> None:
    model, config = load_model(vit), config_of(vit)
    batches = SampleArrays({"pixel_values": IMAGES}, Path("a.npz")).batches(model, config)
    assert [batch.samples for batch in batches] == [BATCH_SAMPLES, 6 - BATCH_SAMPLES]
    together = score_batches(model, batches, config)
    alone = [
        score_batches(model, SampleArrays({"pixel_values": image[None]}, Path("a.npz")).batches(model, config), config)
        for image in IMAGES
    ]
    np.testing.assert_allclose(together.heads[0], np.mean([each.heads[0] for each in alone], axis=0), rtol=1e-5)
    np.testing.assert_allclose(together.neurons[0], np.mean([each.neurons[0] for each in alone], axis=0), rtol=1e-5)


def test_samples_take_the_model_s_precision(vit: Path) -> None:
    batches = SampleArrays({"pixel_values": IMAGES.astype(np.float64)}, Path("a.npz")).batches(
        load_model(vit, dtype=torch.bfloat16), config_of(vit)
    )
    assert batches[0].inputs["pixel_values"].dtype == torch.bfloat16


def test_a_model_of_sound_writes_what_is_likeliest(whisper: Path) -> None:
    model, config = load_model(whisper), config_of(whisper)
    features = torch.tensor(SOUNDS)
    tokens, mask = generate_greedily(model, config, {"input_features": features})
    assert tokens.shape == mask.shape == (3, 32)
    assert tokens[:, 0].tolist() == [config.fields["decoder_start_token_id"]] * 3
    with torch.inference_mode():
        logits = model(input_features=features, decoder_input_ids=tokens).logits
    assert torch.equal(logits.argmax(-1)[:, :-1], tokens[:, 1:])
    for row, real in zip(tokens.tolist(), mask.tolist(), strict=True):
        end = next((place for place, token in enumerate(row) if place and token == 2), 31)
        assert real == [1] * (end + 1) + [0] * (31 - end)


def test_what_is_to_be_written_is_taken_as_it_is(whisper: Path) -> None:
    arrays = {"input_features": SOUNDS, "decoder_input_ids": np.array([[1, 5, 6]] * 3, np.int32)}
    given = SampleArrays(arrays, Path("a.npz"))
    check_arrays(given, config_of(whisper))
    (batch,) = given.batches(load_model(whisper), config_of(whisper))
    assert batch.inputs["decoder_input_ids"].tolist() == [[1, 5, 6]] * 3
    assert batch.decoder_mask is None
    scores = score_batches(load_model(whisper), [batch], config_of(whisper))
    assert all((heads > 0).all() for heads in scores.heads)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "is empty: it has no arrays"),
        ({"input_features": SOUNDS, "decoder_input_ids": np.ones((2, 3), int)}, "3 of `input_features`, 2 of"),
        ({"input_features": SOUNDS[:0]}, "it has no samples"),
        ({"input_features": np.array(["a"])}, "must be numeric"),
        ({"input_features": np.array(1.0)}, "it has no samples"),
        ({"input_features": np.array([{}])}, "damaged or does not only hold arrays"),
        (
            {"features": SOUNDS},
            r"holds `features` \[3, 8, 24\]\.\nGive `input_features` of shape \[samples, 8, 24\]",
        ),
        ({"input_features": SOUNDS, "labels": SOUNDS}, "and optionally `decoder_input_ids`"),
        ({"input_features": SOUNDS[:, :, :9]}, r"has the shape \[samples, 8, 9\]"),
        ({"input_features": SOUNDS * [[[np.inf]], [[1]], [[1]]]}, "NaN or infinity, first in sample 0"),
        ({"input_features": SOUNDS, "decoder_input_ids": np.ones((3, 200), int)}, "at most 128 tokens"),
        ({"input_features": SOUNDS, "decoder_input_ids": np.ones((3, 2))}, "Give integers"),
        ({"input_features": SOUNDS, "decoder_input_ids": np.full((3, 2), 999)}, "the model's tokens are 0 to 100"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path, whisper: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(CalibrationError, match=message):
        check_arrays(read_arrays(tmp_path / "a.npz"), config_of(whisper))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("absent.npz", "absent.safetensors"):
        with pytest.raises(CalibrationError, match=f"{name} cannot be read"):
            read_arrays(tmp_path / name)
    for name in ("damaged.npz", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(CalibrationError, match="is damaged"):
            read_arrays(tmp_path / name)


def test_what_is_missing_is_named(vit: Path, whisper: Path) -> None:
    assert "reads images" in str(no_samples(config_of(vit)))
    assert "reads audio" in str(no_samples(config_of(whisper)))
    assert "`input_features` of shape [samples, 8, 24], and optionally" in str(no_samples(config_of(whisper)))
