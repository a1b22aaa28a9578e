"""Graphs whose KV cache has a fixed length, which each call writes into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from amp_export import ExportOptions, export
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import RequestError, UnsupportedModelError
from amp_export.exporters.models.caches import WRITE_INDICES
from amp_export.exporters.onnx import describe_graph, run
from amp_export.exporters.onnx import export as build
from amp_export.exporters.tensorrt import Limits, decoder_profiles, load_flavor
from amp_export.exporters.tensorrt.building import BuildSettings, build_engine
from amp_export.exporters.tensorrt.exporting import describe_decoder
from amp_export.options import Dtype, EngineRuntime, Format, Layout, Operators, Opset, Via
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

LENGTH, PROMPT, TOKENS = 40, 12, 20

MASK = np.ones((3, TOKENS), np.int64)
MASK[1, :4], MASK[2, :9] = 0, 0
POSITIONS = (MASK.cumsum(axis=1) - 1).clip(min=0)
IDS = np.random.default_rng(0).integers(1, 100, MASK.shape)


def build_both(model_type: str, folder: Path) -> tuple[Path, Path]:
    """Export a tiny model with a cache that grows, and with one of fixed length."""
    checkpoint = open_checkpoint(save_tiny_model(folder / "checkpoint", model_type, num_hidden_layers=2))
    build(checkpoint, folder / "growing")
    build(checkpoint, folder / "fixed", opset=Opset.OPSET_24, cache_length=LENGTH)
    return folder / "growing", folder / "fixed"


def read(decoder: Any, *, in_place: bool) -> Any:
    """Return the logits of all tokens: of a padded batch of prompts, then one by one."""
    past = decoder.reserve(len(IDS), TOKENS) if in_place else None
    logits, past = decoder.forward(IDS[:, :PROMPT], MASK[:, :PROMPT], POSITIONS[:, :PROMPT], past)
    found = [logits]
    for place in range(PROMPT, TOKENS):
        one = slice(place, place + 1)
        logits, past = decoder.forward(IDS[:, one], MASK[:, : place + 1], POSITIONS[:, one], past)
        found.append(logits)
    return np.concatenate(found, axis=1)


# plain; windows and soft caps; learned positions; windows of some layers and norms of heads
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "opt", "gemma3_text"])
def test_logits_are_those_of_a_growing_cache(model_type: str, tmp_path: Path) -> None:
    growing, fixed = (run(folder, threads=1) for folder in build_both(model_type, tmp_path))
    expected = read(growing, in_place=False)
    for in_place in (False, True):
        np.testing.assert_allclose(
            read(fixed, in_place=in_place)[MASK == 1], expected[MASK == 1], atol=1e-5 * abs(expected).max()
        )


def test_each_text_is_written_at_its_own_place(tmp_path: Path) -> None:
    import onnxruntime

    growing, fixed = build_both("llama", tmp_path)
    session = onnxruntime.InferenceSession(fixed / "model.onnx", providers=["CPUExecutionProvider"])
    cache = {
        entry.name: np.zeros((2, *entry.shape[1:]), np.float32)
        for entry in session.get_inputs()
        if entry.name.startswith("past")
    }
    lengths = np.array([3, 5])
    # padding after the shorter prompt is overwritten by its next token
    mask_bn = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    places_bs = np.tile(np.arange(5), (2, 1))
    given = {"input_ids": IDS[:2, :5], "attention_mask": mask_bn, "position_ids": places_bs}
    _, *present = session.run(None, {**given, WRITE_INDICES: np.zeros(2, np.int64), **cache})
    given = {
        "input_ids": IDS[:2, 5:6],
        "attention_mask": (np.arange(LENGTH) <= lengths[:, None]).astype(np.int64),
        "position_ids": lengths[:, None],
    }
    logits, *_ = session.run(None, {**given, WRITE_INDICES: lengths, **dict(zip(cache, present, strict=True))})
    decoder = run(growing, threads=1)
    for row, length in enumerate(lengths):
        text = np.append(IDS[row, :length], IDS[row, 5])[None]
        alone, _ = decoder.forward(text, np.ones_like(text), np.arange(length + 1)[None])
        np.testing.assert_allclose(logits[row, -1], alone[0, -1], atol=1e-4)


def test_what_passes_the_cache_is_refused(tmp_path: Path) -> None:
    decoder = run(build_both("llama", tmp_path)[1], threads=1)
    assert decoder.max_context == LENGTH
    ids = np.ones((1, LENGTH + 1), np.int64)
    with pytest.raises(RequestError, match=rf"A text of {LENGTH + 1} tokens .* has room for {LENGTH}"):
        decoder.forward(ids, ids, np.arange(LENGTH + 1)[None])
    ids = ids[:, :LENGTH]
    _, past = decoder.forward(ids, ids, np.arange(LENGTH)[None])
    with pytest.raises(RequestError, match="--static-cache"):
        decoder.forward(ids[:, :1], np.ones((1, LENGTH + 1), np.int64), np.array([[LENGTH]]), past)


def test_the_command_says_what_clients_give(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama", num_hidden_layers=1)
    save_tiny_tokenizer(folder)
    command = ["export", "--model", folder, "--static-cache", LENGTH, "--output", tmp_path / "out"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.stderr
    assert f"room for {LENGTH} tokens" in result.stderr
    described = describe_graph(tmp_path / "out/onnx/model.onnx")
    assert described.opset is Opset.OPSET_24
    assert described.cache_length == LENGTH
    assert not (tmp_path / "out/onnx/genai_config.json").exists()
    long = ["generate", tmp_path / "out", "-p", "Say it.", "--new-tokens", LENGTH]
    result = CliRunner().invoke(app, list(map(str, long)))
    assert result.exit_code == 2
    assert f"the model takes {LENGTH}" in result.stderr


@pytest.mark.parametrize(
    ("model_type", "options", "message"),
    [
        ("llama", {"static_cache": 0}, "Give 1 to 128"),
        ("llama", {"static_cache": 129}, "out of range"),
        ("llama", {"opset": Opset.OPSET_23}, "TensorScatter, which opset 23 does not have"),
        ("llama", {"operators": Operators.ONNXRUNTIME}, "of any length"),
        ("llama", {"layout": Layout.TRANSFORMERS_JS}, "write_indices, which transformers.js does not give"),
        ("llama", {"to": Format.OPENVINO}, "not for --to openvino"),
        ("llama", {"via": Via.TRACE}, "this one is traced"),
        ("lfm2", {}, "holds states, too"),
    ],
)
def test_what_cannot_have_a_fixed_cache_is_refused(
    model_type: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", model_type, num_hidden_layers=2)
    with pytest.raises(RequestError, match=message):
        export(folder, tmp_path / "out", ExportOptions(**{"static_cache": LENGTH, **options}))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_tensorrt_builds_an_engine_of_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed", exc_type=ImportError)
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "llama", num_hidden_layers=1))
    made = build(checkpoint, tmp_path / "onnx", dtype=Dtype.FLOAT16, opset=Opset.OPSET_24, cache_length=LENGTH)
    axes = {name: port.axes for name, port in describe_graph(made.graph).inputs.items()}
    settings = BuildSettings(decoder_profiles(axes, Limits(1, LENGTH)), compute_capability="8.6")
    assert build_engine(made.graph, load_flavor(EngineRuntime.TENSORRT_RTX), settings).content.nbytes
    with pytest.raises(UnsupportedModelError, match="without --static-cache"):
        describe_decoder(made.graph)
