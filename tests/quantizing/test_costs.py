"""What rounding costs: estimates in one backward pass against measured divergences, and the choice by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amp_export import ConvertOptions, ExportOptions, PruneOptions, convert, export
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.onnx import describe_graph
from amp_export.exporters.onnx.quantization import Quantization
from amp_export.exporters.onnx.quantized_weights import read_quantized
from amp_export.inputs.batches import text_batches
from amp_export.options import CriterionName, Format, Operators, WeightFormat
from amp_export.quantizing.changes import find_changes
from amp_export.quantizing.costs import estimate_costs, measure_divergences
from amp_export.quantizing.mixing import choose_dear
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer


def save_model(folder: Path, model_type: str = "llama", **fields: Any) -> Path:
    """Writes a checkpoint that blocks of 32 divide, and its tokenizer."""
    save_tiny_model(folder, model_type, head_dim=16, hidden_size=64, intermediate_size=128, **fields)
    save_tiny_tokenizer(folder)
    return folder


# the operators decide whether embeddings are quantized, too
@pytest.mark.parametrize(
    ("model_type", "fields", "operators"),
    [
        ("llama", {}, Operators.STANDARD),
        ("llama", {"tie_word_embeddings": True}, Operators.ONNXRUNTIME),
        ("gemma", {}, Operators.ONNXRUNTIME),
        ("gpt2", {}, Operators.ONNXRUNTIME),
        ("gpt_neox", {}, Operators.STANDARD),
    ],
)
def test_estimates_are_what_is_measured(
    model_type: str, fields: dict[str, Any], operators: Operators, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(save_model(tmp_path / "dense", model_type, **fields))
    model = load_model(checkpoint.path, dtype=torch.float32)
    weights_before = {name: weight.clone() for name, weight in model.state_dict().items()}
    changes = find_changes(model, checkpoint, Quantization(WeightFormat.INT8), operators)
    rows = np.random.default_rng(0).integers(4, 100, (1024, 8)).tolist()
    batches = text_batches(model, checkpoint.config, rows)
    estimated = estimate_costs(model, checkpoint.config, changes, batches)
    assert set(estimated) == set(changes)
    measured = {name: measure_divergences(model, [{name: change}], batches)[0] for name, change in changes.items()}
    # estimates are drawn
    for name, cost in measured.items():
        assert estimated[name] == pytest.approx(cost, rel=0.6), name
    total = sum(measured.values())
    assert sum(estimated.values()) == pytest.approx(total, rel=0.25)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, weights_before[name], rtol=0, atol=0)


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=4), st.tuples(st.floats(0, 1), st.integers(1, 100)), min_size=1
    ),
    st.floats(4, 8),
)
def test_the_average_is_kept_and_nothing_dearer_that_fits_is_left_out(
    weights: dict[str, tuple[float, int]], average_bits: float
) -> None:
    costs = {name: cost for name, (cost, _) in weights.items()}
    sizes = {name: size for name, (_, size) in weights.items()}
    chosen = choose_dear(costs, sizes, average_bits=average_bits)
    assert list(chosen) == [name for name in sizes if name in chosen]
    total = sum(sizes.values())
    used = sum(sizes[name] for name in chosen)
    assert 4 * total + 4 * used <= average_bits * total * (1 + 1e-9)
    room = (average_bits - 4) / 4 * total - used
    assert all(sizes[name] > room * (1 - 1e-9) for name in sizes if name not in chosen)


def test_dear_weights_have_8_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_model(tmp_path / "dense")
    options = ExportOptions(weights=WeightFormat.INT4, average_bits=5.0, operators=Operators.ONNXRUNTIME)
    export(checkpoint, tmp_path / "out", options)
    found = describe_graph(tmp_path / "out/onnx/model.onnx").quantization
    assert found is not None
    weights = dict(read_quantized(tmp_path / "out/onnx/model.onnx"))
    used = {name for name, weight in weights.items() if np.abs(weight.codes_oi.astype(int)).max() > 8}
    assert used == set(found.at_8_bits) != set()
    sizes = {name: weight.codes_oi.size for name, weight in weights.items()}
    assert sum(sizes[name] for name in used) <= sum(sizes.values()) / 4


def test_the_dense_model_of_a_run_has_the_same_bits(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path / "dense")
    prune = PruneOptions(ratio=0.15, criterion=CriterionName.MAGNITUDE, compensate=False)
    options = ExportOptions(weights=WeightFormat.INT4, average_bits=5.0)
    report = convert(checkpoint, tmp_path / "out", ConvertOptions(prune=prune, export=options, threads=1))
    assert report.parity is not None
    assert report.parity.holds
    assert report.benchmark is not None
    # so that its bytes are in proportion to its numbers
    roofline = report.benchmark.roofline
    assert roofline is not None
    assert 1.0 < roofline.allowed_gain < 1.35


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExportOptions(average_bits=5.0), "--average-bits 5 is for quantized weights"),
        (ExportOptions(average_bits=5.0, weights=WeightFormat.INT8), "some weights 8 bits, and --weights int8 all"),
        (ExportOptions(average_bits=3.9, weights=WeightFormat.INT4), "--average-bits 3.9 is not an average of 4 and 8"),
        (ExportOptions(average_bits=5.0, weights=WeightFormat.INT4, to=Format.TENSORRT), "TensorRT has no blocks of"),
    ],
)
def test_what_has_no_average_says_so(options: ExportOptions, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        export(save_model(tmp_path / "dense"), tmp_path / "out", options)


def test_without_text_nothing_is_chosen(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=64, intermediate_size=128)
    with pytest.raises(RequestError, match="holds no tokenizer"):
        export(checkpoint, tmp_path / "out", ExportOptions(weights=WeightFormat.INT4, average_bits=5.0))
