"""Experts: a token reads the weights of its own alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_export import BundleOptions, ExportOptions, bundle, export
from amp_export.architectures import Experts, expert_name, find_architecture, supported_model_types
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.checkpoints.weight_files import SINGLE
from amp_export.errors import OutputError, RequestError, UnsupportedModelError
from amp_export.exporters.onnx import can_build, run
from amp_export.exporters.onnx import export as export_graph
from amp_export.exporters.support import can_export
from amp_export.options import Format, Operators, RoundingMethod, TargetName, WeightFormat
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

WITH_EXPERTS = [name for name in supported_model_types() if isinstance(find_architecture(name).mlp, Experts)]
TOKENS = np.random.default_rng(0).integers(4, 100, (2, 9))
HUGE = 3e38


@pytest.mark.parametrize("operators", Operators)
def test_experts_that_no_token_goes_through_are_not_computed(operators: Operators, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "gpt_oss")
    tensors = load_file(folder / SINGLE)
    for name, tensor in tensors.items():
        if name.endswith("router.bias"):
            tensor[1] = -1e4
        elif name.endswith("experts.down_proj"):
            tensor[1] = HUGE  # times zero, an infinite sum would be NaN
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    export_graph(open_checkpoint(folder), tmp_path / "onnx", operators=operators)
    positions = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    found, _ = run(tmp_path / "onnx").forward(TOKENS, np.ones_like(TOKENS), positions, None)
    with torch.inference_mode():
        expected = load_model(folder, dtype=torch.float32)(input_ids=torch.from_numpy(TOKENS)).logits.numpy()
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("model_type", WITH_EXPERTS)
def test_weights_of_experts_are_multiplied_and_nothing_else(
    model_type: str, operators: Operators, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "model", model_type, num_hidden_layers=1))
    file = export_graph(checkpoint, tmp_path / "onnx", operators=operators).graph
    experts = find_architecture(model_type).mlp
    (site,) = checkpoint.config.sites
    weights = {
        expert_name(f"{site.path}.{projection.name}", number)
        for projection in (*experts.inputs, experts.output)
        for number in range(4)
    }
    nodes = onnx.load(file, load_external_data=False).graph.node
    assert sorted((node.op_type, name) for node in nodes for name in node.input if name in weights) == sorted(
        ("MatMul", name) for name in weights
    )


@pytest.mark.parametrize("model_type", WITH_EXPERTS)
def test_nothing_is_added_up_where_rows_are_scattered(model_type: str, tmp_path: Path) -> None:
    """ONNX Runtime 1.32 adds in threads, which overwrite each other's sums of a row."""
    file = export_graph(open_checkpoint(save_tiny_model(tmp_path / "model", model_type)), tmp_path / "onnx").graph
    nodes = onnx.load(file, load_external_data=False).graph.node
    scattering = [node for node in nodes if node.op_type.startswith("Scatter")]
    assert scattering
    assert not [node.name for node in scattering for each in node.attribute if each.name == "reduction"]


def test_several_texts_of_many_tokens_are_computed_alike_each_time(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "mixtral", hidden_size=256)
    export_graph(open_checkpoint(folder), tmp_path / "onnx")
    decoder, tokens = run(tmp_path / "onnx", threads=2), np.random.default_rng(1).integers(4, 100, (4, 100))
    positions = np.broadcast_to(np.arange(100), tokens.shape)
    with torch.inference_mode():
        expected = load_model(folder, dtype=torch.float32)(input_ids=torch.from_numpy(tokens)).logits.numpy()
    for _ in range(5):
        found, _ = decoder.forward(tokens, np.ones_like(tokens), positions, None)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "asked",
    [{"average_bits": 5.0}, {"rounding": RoundingMethod.GPTQ}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_looks_at_text_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "mixtral")
    save_tiny_tokenizer(folder)
    with pytest.raises(RequestError, match="experts see only some of them"):
        export(folder, tmp_path / "out", ExportOptions(weights=WeightFormat.INT4, **asked))


def test_a_rotation_that_phimoe_alone_has_is_traced(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    rope |= {"short_mscale": 1.2, "long_mscale": 1.3, "original_max_position_embeddings": 64}
    config = read_config(save_tiny_model(tmp_path / "model", "phimoe", rope_parameters=rope))[1]
    assert "rope_type 'longrope' of phimoe is not supported" in (can_build(config) or "")
    assert can_export(config, Format.ONNX) is None


@pytest.mark.parametrize("model_type", WITH_EXPERTS)
def test_there_are_no_engines(model_type: str, tmp_path: Path) -> None:
    config = read_config(save_tiny_model(tmp_path / "model", model_type))[1]
    assert can_build(config) is None
    assert "as its router says" in (can_export(config, Format.TENSORRT) or "")


def test_only_bundles_that_build_an_engine_refuse_experts(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "mixtral")
    save_tiny_tokenizer(folder)
    export(folder, tmp_path / "out")
    with pytest.raises(UnsupportedModelError, match="as its router says"):
        bundle(tmp_path / "out", BundleOptions(target=TargetName.L4))
    # a later check, of another kind
    with pytest.raises(OutputError, match="holds no pruned model"):
        bundle(tmp_path / "out", BundleOptions(target=TargetName.CPU))
