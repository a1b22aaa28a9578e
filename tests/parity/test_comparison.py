"""Noise that is no number tolerates nothing, in any order of the cases."""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.devices.references import make_reference
from amp_export.errors import ModelError
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx import export as export_onnx
from amp_export.options import Dtype
from amp_export.parity import comparison
from amp_export.parity.comparison import compare
from amp_export.parity.decoder_cases import Case
from amp_export.progress import Silent
from tests.support.tiny_models import save_tiny_model

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

CASES = (Case("prefill", (9,)), Case("decode", (3,), decode_steps=1))


@pytest.mark.parametrize("order", [1, -1])
def test_a_case_without_a_noise_is_not_passed_over(tiny_llama: Path, tmp_path: Path, order: int) -> None:
    export_onnx(open_checkpoint(tiny_llama), tmp_path / "onnx")
    noises = {"logits": [(0.1, 0.1), (math.nan, math.nan)][::order]}
    with mock.patch.object(comparison, "_measure_noise", return_value=noises):
        report = compare(tiny_llama, tmp_path / "onnx", progress=Silent(), cases=CASES)
    assert math.isnan(report.noise)
    assert not report.holds


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights fit into float16, but whose logits do not."""
    folder = save_tiny_model(tmp_path_factory.mktemp("overflow") / "checkpoint", "llama", num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.full_like(weights["lm_head.weight"], 6e4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_dtype_in_which_pytorch_overflows_proves_nothing(overflowing: Path, tmp_path: Path) -> None:
    export_onnx(open_checkpoint(overflowing), tmp_path / "onnx", dtype=Dtype.FLOAT16)
    report = compare(overflowing, tmp_path / "onnx", progress=Silent(), cases=CASES)
    assert math.isinf(report.noise)
    assert not report.holds


def test_no_bundle_refers_to_a_dtype_in_which_pytorch_overflows(overflowing: Path) -> None:
    with pytest.raises(ModelError, match="cannot be checked in float16: PyTorch itself computes NaN or infinity"):
        make_reference(overflowing, Dtype.FLOAT16, Limits(1, 32))
