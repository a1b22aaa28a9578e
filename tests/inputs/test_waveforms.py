from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from amp_export.architectures import ModelConfig
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import CalibrationError, UnsupportedModelError
from amp_export.exporters.support import require_exportable
from amp_export.inputs.arrays import SampleArrays, check_arrays, no_samples
from amp_export.inputs.waveforms import frame_mask, frames_of, samples_of
from amp_export.options import Format
from amp_export.pruning.scoring import score_batches
from tests.support.tiny_models import save_tiny_model

SOUNDS = np.random.default_rng(0).standard_normal((3, 2000), np.float32)
LENGTHS = [2000, 1100, 325]
MASK = (np.arange(2000) < np.array(LENGTHS)[:, np.newaxis]).astype(np.int64)
FILE = Path("a.npz")


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, ModelConfig]:
    """A model that takes masks."""
    folder = save_tiny_model(tmp_path_factory.mktemp("hubert") / "checkpoint", "hubert", num_hidden_layers=2)
    return load_model(folder), open_checkpoint(folder).config


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """The config of a model that takes none."""
    folder = save_tiny_model(tmp_path_factory.mktemp("wav2vec2") / "checkpoint", "wav2vec2", num_hidden_layers=1)
    return open_checkpoint(folder).config


def test_frames_are_those_of_transformers(hubert: tuple[PreTrainedModel, ModelConfig]) -> None:
    model, config = hubert
    lengths = np.arange(325, 2000, 7)
    expected = model._get_feat_extract_output_lengths(torch.tensor(lengths)).numpy()
    np.testing.assert_array_equal(frames_of(lengths, config), expected)
    masked = model._get_feature_vector_attention_mask(frames_of(np.array([2000]), config)[0], torch.tensor(MASK))
    np.testing.assert_array_equal(frame_mask(MASK, config), masked.numpy())
    for frames in (1, 2, 17):
        shortest = samples_of(frames, config)
        assert frames_of(np.array([shortest - 1, shortest]), config).tolist() == [frames - 1, frames]


def test_frames_whose_first_sample_is_real_are_those_of_transformers(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "moonshine", "moonshine", num_hidden_layers=1)
    encoder, config = load_model(folder).get_encoder(), open_checkpoint(folder).config
    for length in range(samples_of(1, config), 2000, 100):
        mask_bs = MASK[:, :length]
        (frames,) = frames_of(np.array([length]), config)
        encoded = encoder(torch.from_numpy(SOUNDS[:, :length]), attention_mask=torch.from_numpy(mask_bs))
        assert encoded.last_hidden_state.shape[1] == frames
        np.testing.assert_array_equal(frame_mask(mask_bs, config), encoded.attention_mask.numpy())


def test_padding_does_not_count(hubert: tuple[PreTrainedModel, ModelConfig]) -> None:
    model, config = hubert
    given = SampleArrays({"input_values": SOUNDS, "attention_mask": MASK}, FILE)
    check_arrays(given, config)
    together = score_batches(model, given.batches(model, config), config)
    alone = [
        batch
        for sound, length in zip(SOUNDS, LENGTHS, strict=True)
        for batch in SampleArrays({"input_values": sound[np.newaxis, :length]}, FILE).batches(model, config)
    ]
    apart = score_batches(model, alone, config)
    np.testing.assert_allclose(together.heads, apart.heads, rtol=1e-4)
    np.testing.assert_allclose(together.neurons, apart.neurons, rtol=1e-4)
    whole = SampleArrays({"input_values": SOUNDS}, FILE).batches(model, config)
    assert not np.allclose(together.heads, score_batches(model, whole, config).heads, rtol=1e-3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_features": SOUNDS}, r"Give `input_values` of shape \[samples, length\], at least 325 long, and"),
        ({"input_values": SOUNDS[:, :324]}, r"`input_values` has the shape \[samples, 324\]"),
        ({"input_values": SOUNDS[:, :, np.newaxis]}, r"`input_values` has the shape \[samples, 2000, 1\]"),
        ({"input_values": SOUNDS, "attention_mask": MASK[:, 1:]}, r"`attention_mask` has shape \[3, 1999\]"),
        ({"input_values": SOUNDS, "attention_mask": 2 * MASK}, "values from 0 to 2"),
        ({"input_values": SOUNDS, "attention_mask": MASK[:, ::-1]}, "0 for padding after it"),
        ({"input_values": SOUNDS, "attention_mask": MASK * (np.arange(2000) < 300)}, "is 300 long, but must be"),
    ],
)
def test_sounds_that_cannot_be_used_are_refused(
    arrays: dict[str, np.ndarray], message: str, hubert: tuple[PreTrainedModel, ModelConfig]
) -> None:
    with pytest.raises(CalibrationError, match=message):
        check_arrays(SampleArrays(arrays, FILE), hubert[1])


def test_a_model_that_was_trained_without_masks_is_given_none(wav2vec2: ModelConfig) -> None:
    assert "attention_mask" not in str(no_samples(wav2vec2))
    with pytest.raises(CalibrationError, match="at least 325 long"):
        check_arrays(SampleArrays({"input_values": SOUNDS, "attention_mask": MASK}, FILE), wav2vec2)


def test_a_program_of_fixed_size_is_refused_before_any_work(wav2vec2: ModelConfig) -> None:
    with pytest.raises(UnsupportedModelError, match="takes raw audio of any length"):
        require_exportable(wav2vec2, Format.EXECUTORCH)


@pytest.mark.parametrize(
    ("model_type", "field"), [("wav2vec2", {"add_adapter": True}), ("hubert", {"adapter_attn_dim": 4})]
)
def test_adapters_are_refused(model_type: str, field: dict[str, object], tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, num_hidden_layers=1, **field)
    with pytest.raises(UnsupportedModelError, match=f"{next(iter(field))} is .* not supported for {model_type}"):
        open_checkpoint(folder)
