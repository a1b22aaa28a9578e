"""`--to tensorrt`: what is found out before, what is written, and what becomes of an engine that cannot be run here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.cli import app
from amp_export.errors import RequestError
from amp_export.exporting.engines import prepare_engine
from amp_export.exporting.overflow import LIMIT, check_float16, find_overflows
from amp_export.hardware import gpus
from amp_export.hardware.gpus import Gpu, find_gpu
from amp_export.options import Opset, TargetName
from amp_export.outputs.manifest import Manifest
from amp_export.reporting.report import Report
from amp_export.verb_options import ExportOptions
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

pytestmark = pytest.mark.slow

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed", exc_type=ImportError)

HERE = find_gpu()
without_gpu = pytest.mark.skipif(HERE is not None, reason="there is a GPU in this machine")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@without_gpu
def test_the_whole_way_to_an_engine_for_another_machine(tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ("--to", "tensorrt", "--target", "rtx4090", "--snap", "4", "--max-batch", "2", "--max-context", "64")
    result = call(*arguments, "--model", tiny_llama, "--ratio", "0.2", "-o", output)
    assert result.exit_code == 0, result.output
    assert "The engine cannot run on this machine. Checking the graph that it was built from instead." in result.output
    manifest = Manifest.load(output)
    assert manifest.exports == {"onnx": "float16", "tensorrt": "float16"}
    assert {"onnx/model.onnx", "tensorrt/model.engine", "tensorrt/engine.json"} <= set(manifest.files)
    facts = json.loads((output / "tensorrt" / "engine.json").read_text())
    assert facts["limits"] == {"max_batch": 2, "max_context": 64}
    assert facts["compute_capability"] == "8.9"
    report = Report.load(output)
    assert report.parity is not None
    assert report.parity.dtype == "float16"
    assert report.benchmark is None, "another machine's speed"
    for command in ("validate", "benchmark"):
        refused = call(command, output, "--to", "tensorrt")
        assert refused.exit_code == 2
        assert "this machine has none" in refused.output
    # what is pruned can be exported again into its output, for another device
    again = call("export", "--to", "tensorrt", "--target", "a100", "-m", output / "pruned", "-o", output)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    again = call("export", "--to", "tensorrt", "--target", "a100", "-m", output / "pruned", "-o", output, "--overwrite")
    assert again.exit_code == 0, again.output
    assert json.loads((output / "tensorrt" / "engine.json").read_text())["compute_capability"] == "8.0"
    assert (output / "plan.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "orin-nano"), "cannot build engines for compute capability 8.7"),
        (("--target", "cpu"), "cpu has no TensorRT"),
        (("--target", "rtx9999"), "'rtx5090'"),
        (("--target", "rtx4090", "--max-context", "1000"), "the model's context is"),
        (("--target", "rtx4090", "--max-batch", "0"), "greater than or equal to 1"),
        (("--target", "rtx4090", "--runtime", "tensorrt"), "amp-export[tensorrt]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_built_is_told_before_anything_is_written(
    arguments: tuple[str, ...], said: str, tiny_llama: Path, tmp_path: Path
) -> None:
    result = call("export", "--to", "tensorrt", "--model", tiny_llama, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out").exists()


def test_engine_options_are_refused_where_no_engine_is_built(tiny_llama: Path, tmp_path: Path) -> None:
    result = call("export", "--to", "onnx", "--max-batch", "4", "--model", tiny_llama, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "Give --to tensorrt" in result.output


def test_encoders_have_no_engine(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "bert", "bert")
    result = call("export", "--to", "tensorrt", "--target", "a100", "--model", folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "--provider tensorrt" in result.output


def test_a_gpu_that_is_here_needs_no_target(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("NVIDIA L4", "8.9", 24 << 30, "580.1")
    monkeypatch.setattr(gpus, "find_gpu", lambda: gpu)
    config = open_checkpoint(tiny_llama).config
    job = prepare_engine(ExportOptions(), config)
    assert job.runs_here
    assert job.settings.workspace_bytes == 6 << 30
    assert prepare_engine(ExportOptions(target=TargetName.L4), config).runs_here
    assert not prepare_engine(ExportOptions(target=TargetName.A100), config).runs_here


def test_operators_are_those_that_the_builder_takes(tiny_llama: Path, tmp_path: Path) -> None:
    cohere = open_checkpoint(save_tiny_model(tmp_path / "cohere", "cohere")).config
    llama = open_checkpoint(tiny_llama).config
    options = ExportOptions(target=TargetName.RTX4090)
    assert prepare_engine(options, llama).choose_opset(llama) is Opset.OPSET_23
    assert prepare_engine(options, cohere).choose_opset(cohere) is Opset.OPSET_20


def test_values_beyond_float16_are_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "checkpoint", "llama")
    save_tiny_tokenizer(folder)
    check_float16(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e6)
    found = find_overflows(model, [[3, 4, 5]])
    # the first to return too much; what comes after in the residual stream carries it on
    assert "model.layers.1.mlp.down_proj" in {overflow.module for overflow in found}
    assert not any(overflow.module.startswith("model.layers.0") for overflow in found)
    assert all(overflow.value > LIMIT for overflow in found)
    assert [overflow.value for overflow in found] == sorted((overflow.value for overflow in found), reverse=True)
    model.save_pretrained(folder)
    with pytest.raises(RequestError, match=r"float16 holds at most 65504.*model\..*\n.*--dtype bfloat16"):
        check_float16(folder)
    result = call("export", "--to", "tensorrt", "--target", "a100", "--model", folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
    bfloat16 = call(
        "export",
        "--to",
        "tensorrt",
        "--dtype",
        "bfloat16",
        "--target",
        "a100",
        "--model",
        folder,
        "-o",
        tmp_path / "out",
    )
    assert bfloat16.exit_code == 0, bfloat16.output


@without_gpu
def test_without_a_driver_there_is_no_gpu(tiny_llama: Path, tmp_path: Path) -> None:
    assert find_gpu() is None
    result = call("export", "--to", "tensorrt", "--model", tiny_llama, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "--target" in result.output


def test_a_provider_that_onnxruntime_lacks_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    assert call("export", "--model", tiny_llama, "-o", tmp_path / "out").exit_code == 0
    result = call("validate", tmp_path / "out", "--provider", "tensorrt-rtx")
    assert result.exit_code == 2
    assert "NvTensorRTRTXExecutionProvider" in result.output
    assert "Available: " in result.output
