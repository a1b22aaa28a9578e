"""GPTQ: rounding that others make up for, in every family, and what is written of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export import ExportOptions, ValidateOptions, export, validate
from amp_export.architectures import find_architecture
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.onnx.builder.blocks import BlockFormat, quantize
from amp_export.exporters.onnx.builder.formats import choose_formats
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.onnx.quantized_weights import read_quantized, same_codes
from amp_export.inputs.batches import text_batches
from amp_export.options import Dtype, Format, Operators, RoundingMethod, WeightFormat
from amp_export.outputs.manifest import Manifest
from amp_export.quantizing.changes import find_changes
from amp_export.quantizing.costs import measure_divergences
from amp_export.quantizing.gptq import quantize_in_turn, round_in_turn
from amp_export.reporting.report import Report
from amp_export.reporting.reproduce import commands
from tests.quantizing.test_costs import save_model
from tests.support.forms import one_of_each_form
from tests.support.tiny_models import BUILDABLE

FLOAT32 = np.dtype(np.float32)
INT4 = BlockFormat(4, 16)


def draw(seed: int, *, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a weight [8, 48], and inputs [256, 48] that are of few directions but for a little."""
    generator = torch.Generator().manual_seed(seed)
    weight_oi = torch.randn(8, 48, generator=generator)
    inputs_ti = torch.randn(256, rank, generator=generator) @ torch.randn(rank, 48, generator=generator)
    return weight_oi, inputs_ti + 0.1 * torch.randn(256, 48, generator=generator)


def error(weight_oi: torch.Tensor, found_oi: np.ndarray, inputs_ti: torch.Tensor) -> float:
    """Returns the squared error of a product."""
    return float((inputs_ti @ (torch.from_numpy(found_oi) - weight_oi).T).square().sum())


@given(st.integers(0, 1000))
def test_products_lose_less_than_with_the_nearest_codes_where_inputs_are_alike(seed: int) -> None:
    weight_oi, inputs_ti = draw(seed, rank=6)
    found = quantize_in_turn(weight_oi, inputs_ti.T @ inputs_ti, INT4, scale_dtype=FLOAT32)
    nearest = quantize(weight_oi.numpy(), INT4, scale_dtype=FLOAT32)
    assert np.abs(found.codes_oi).max() <= 8
    found_error, nearest_error = (error(weight_oi, each.dequantized(), inputs_ti) for each in (found, nearest))
    assert found_error < nearest_error


def test_scales_are_rounded_as_they_are_stored() -> None:
    weight_oi, inputs_ti = draw(0, rank=48)
    found = quantize_in_turn(weight_oi, inputs_ti.T @ inputs_ti, INT4, scale_dtype=np.dtype(np.float16))
    np.testing.assert_array_equal(found.scales_ob, found.scales_ob.astype(np.float16).astype(np.float32))


def test_a_weight_of_zeros_stays() -> None:
    _, inputs_ti = draw(0, rank=48)
    found = quantize_in_turn(torch.zeros(8, 48), inputs_ti.T @ inputs_ti, INT4, scale_dtype=FLOAT32)
    assert not found.dequantized().any()
    silent = quantize_in_turn(torch.randn(8, 48), torch.zeros(48, 48), INT4, scale_dtype=FLOAT32)
    assert np.isfinite(silent.dequantized()).all()


WITHOUT_EXPERTS = [name for name in BUILDABLE if not find_architecture(name).mlp.has_experts]


@pytest.mark.parametrize("model_type", one_of_each_form(WITHOUT_EXPERTS))
def test_every_form_is_rounded_and_left_as_it_was(model_type: str, tmp_path: Path) -> None:
    """The codes of every family are held in exporters/onnx/test_quantization.py."""
    checkpoint = open_checkpoint(save_model(tmp_path / "dense", model_type))
    model = load_model(checkpoint.path, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    quantization = Quantization(WeightFormat.INT4)
    formats = choose_formats(checkpoint.config, checkpoint.widths, quantization, Operators.STANDARD)
    rows = np.random.default_rng(0).integers(4, 100, (64, 32)).tolist()
    batches = text_batches(model, checkpoint.config, rows)
    done: list[int] = []
    found = round_in_turn(
        model, checkpoint.config, formats, batches, scale_dtype=FLOAT32, on_progress=lambda each, _: done.append(each)
    )
    assert found.keys() == formats.keys()
    assert done == list(range(1, len(checkpoint.widths) + 1))
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    nearest, rounded = (
        find_changes(model, checkpoint, quantization, Operators.STANDARD, rounding=rounding)
        for rounding in (None, lambda name, *_: found[name])
    )
    losses = measure_divergences(model, (nearest, rounded), batches)
    assert losses[1] < losses[0]


def test_its_codes_are_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_model(tmp_path / "dense")
    given = {"weights": WeightFormat.INT4, "operators": Operators.ONNXRUNTIME}
    export(checkpoint, tmp_path / "nearest", ExportOptions(**given))  # type: ignore[arg-type]
    options = ExportOptions(**given, rounding=RoundingMethod.GPTQ, average_bits=5.0)  # type: ignore[arg-type]
    export(checkpoint, tmp_path / "out", options)
    report = validate(tmp_path / "out", ValidateOptions(threads=1))
    assert report.holds
    nearest, found = (dict(read_quantized(tmp_path / name / "onnx/model.onnx")) for name in ("nearest", "out"))
    assert found.keys() == nearest.keys()
    assert any((found[name].codes_oi != nearest[name].codes_oi).any() for name in found)
    manifest = Manifest.load(tmp_path / "out")
    asked = {"operators": "onnxruntime", "weights": "int4", "average_bits": "5.0", "rounding": "gptq"}
    assert manifest.export_options == {Format.ONNX: asked}
    (command, *_) = commands(Report.load(tmp_path / "out"), manifest)
    assert "--operators onnxruntime --weights int4 --average-bits 5.0 --rounding gptq" in command
    # and of a graph with other operators that is made of it
    rounding = same_codes(tmp_path / "out/onnx/model.onnx")
    for name, weight in found.items():
        np.testing.assert_array_equal(rounding(name, weight.dequantized(), INT4, FLOAT32).codes_oi, weight.codes_oi)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExportOptions(rounding=RoundingMethod.GPTQ), "--rounding gptq is for quantized weights"),
        (ExportOptions(rounding=RoundingMethod.GPTQ, weights=WeightFormat.INT8), "those of int8 are small"),
    ],
)
def test_what_is_not_rounded_so_says_so(options: ExportOptions, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        export(save_model(tmp_path / "dense"), tmp_path / "out", options)


def test_half_precision_is_rounded_too(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "dense")
    options = ExportOptions(weights=WeightFormat.INT4, rounding=RoundingMethod.GPTQ, dtype=Dtype.FLOAT16)
    export(checkpoint, tmp_path / "out", options)
    assert validate(tmp_path / "out", ValidateOptions(threads=1)).holds
