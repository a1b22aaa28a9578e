"""Texts as long as the config allows, no longer ones, and a word to the user on either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from amp_export.architectures import ModelConfig, find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.exporters.onnx import describe_graph, export, run
from amp_export.exporting.notes import context_notes
from amp_export.options import Opset, Via
from tests.support.tiny_models import save_tiny_model

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.3, 1.7, 2.2],
    "long_factor": [1.5, 2.5, 4.0, 8.0],
}


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to which YaRN was added by hand, as the README of Qwen2.5 says: all else is as before."""
    folder = save_tiny_model(tmp_path_factory.mktemp("yarn") / "checkpoint", "qwen2", max_position_embeddings=32)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32, "type": "yarn"}
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 1e6, "rope_scaling": scaling}))
    return folder


@pytest.mark.parametrize("opset", Opset)
def test_a_graph_reads_as_many_tokens_as_the_factor_of_yarn_allows(
    stretched: Path, opset: Opset, tmp_path: Path
) -> None:
    folder = export(open_checkpoint(stretched), tmp_path / "onnx", opset=opset).folder
    tokens = np.random.default_rng(0).integers(3, 101, (1, 128))
    logits, _ = run(folder, threads=1).forward(tokens, np.ones_like(tokens), np.arange(128)[None])
    with torch.inference_mode():
        expected = load_model(stretched)(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    content = json.loads((folder / "genai_config.json").read_text())
    assert content["model"]["context_length"] == content["search"]["max_length"] == 128
    assert describe_graph(folder / "model.onnx").context == 128


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("opset", Opset)
def test_a_text_that_is_too_long_is_refused_by_its_length(model_type: str, opset: Opset, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", model_type, max_position_embeddings=16))
    decoder = run(export(checkpoint, tmp_path / "onnx", opset=opset).folder, threads=1)
    tokens = np.full((1, 16), 5)
    _, past = decoder.forward(tokens, np.ones_like(tokens), np.arange(16)[None])
    with pytest.raises(RequestError, match="A text of 17 tokens was given, but the graph has positions for 16"):
        decoder.forward(tokens[:, :1], np.ones((1, 17), np.int64), np.array([[16]]), past)


def test_padding_does_not_make_a_text_too_long(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "llama", max_position_embeddings=16))
    decoder = run(export(checkpoint, tmp_path / "onnx").folder, threads=1)
    mask = (np.arange(22) >= 10).astype(np.int64)[None]
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    _, past = decoder.forward(np.full((1, 16), 5), mask[:, :16], positions[:, :16])
    logits, _ = decoder.forward(np.full((1, 6), 5), mask, positions[:, 16:], past)
    assert np.isfinite(logits).all()


CONTEXTS: dict[str, tuple[str, dict[str, Any], int, int | None]] = {
    "no scaling": ("llama", {}, 128, None),
    "linear: the config's context is the scaled one": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 4}},
        128,
        None,
    ),
    "yarn": (
        "llama",
        {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 100}},
        400,
        None,
    ),
    "yarn, context raised as well": (
        "llama",
        {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 64}},
        128,
        None,
    ),
    "yarn, no original context": ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.5}}, 320, None),
    "yarn, factor from the lengths": (
        "llama",
        {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 32}},
        128,
        None,
    ),
    "longrope": ("phi3", {"original_max_position_embeddings": 32, "rope_scaling": LONGROPE}, 128, 32),
    "longrope that never switches": (
        "phi3",
        {"original_max_position_embeddings": 128, "rope_scaling": LONGROPE},
        128,
        None,
    ),
    "learned": ("gpt2", {}, 128, None),
}


@pytest.mark.parametrize("case", CONTEXTS)
def test_context_and_cache_limit_come_from_the_config(case: str) -> None:
    model_type, fields, context, cache_limit = CONTEXTS[case]
    architecture = find_architecture(model_type)
    named = {architecture.field_name("max_position_embeddings"): 128, **fields}
    config = ModelConfig.read(architecture, named)
    assert (config.context, config.longest_text, config.cache_limit) == (context, context, cache_limit)


@given(positions=st.integers(1, 1 << 20), original=st.integers(1, 1 << 16), factor=st.floats(1, 64))
def test_yarn_never_shortens_a_context(positions: int, original: int, factor: float) -> None:
    scaling = {"type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    fields = {"max_position_embeddings": positions, "rope_scaling": scaling}
    found = ModelConfig.read(find_architecture("llama"), fields).context
    assert found == max(positions, int(original * factor))


def test_the_export_says_how_long_texts_may_be(stretched: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--model", str(stretched), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "texts of up to 128 tokens: the original context times the factor of YaRN" in said
    assert "max_position_embeddings in config.json is 32" in said
    assert "empty KV cache" not in said


def test_the_export_says_where_a_cache_cannot_be_continued(tmp_path: Path) -> None:
    fields = {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE, "num_hidden_layers": 1}
    folder = save_tiny_model(tmp_path / "checkpoint", "phi3", **fields)
    result = CliRunner().invoke(app, ["export", "--model", str(folder), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Where a text passes 32 tokens" in " ".join(result.stderr.split())
    content = json.loads((tmp_path / "out/onnx/genai_config.json").read_text())
    assert content["model"]["context_length"] == content["search"]["max_length"] == 32
    # a traced graph computes positions of any length, but its cache has the same limit
    (note,) = context_notes(open_checkpoint(folder).config, Via.TRACE)
    assert note.startswith("Where a text passes 32 tokens")
