"""Fused operators of ONNX Runtime: the same logits as the standard's, in every family, and what they cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from amp_export import ExportOptions, ValidateOptions, export, validate
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.models.decoder import Decoder
from amp_export.exporters.onnx import describe_graph, run
from amp_export.exporters.onnx import export as export_graph
from amp_export.options import Dtype, Format, Operators, Opset, Via
from amp_export.reporting.report import Report
from tests.support.lopsided import save_lopsided
from tests.support.tiny_models import BUILDABLE, NOISE, save_tiny_model, save_tiny_tokenizer

TOKENS = np.random.default_rng(0).integers(4, 100, (3, 24))


def both(checkpoint: Path, folder: Path, **options: Any) -> tuple[Decoder, Decoder]:
    """Returns the graphs of a checkpoint in both kinds of operators."""
    found = []
    for operators in Operators:
        export_graph(open_checkpoint(checkpoint), folder / operators, operators=operators, **options)
        found.append(run(folder / operators, threads=1))
    standard, fused = found
    assert isinstance(standard, Decoder)
    assert isinstance(fused, Decoder)
    return standard, fused


def forward(decoder: Decoder, lengths: tuple[int, ...], *, batch: int) -> list[Any]:
    """Returns the logits of calls with the KV cache of those before."""
    found, past, start = [], None, 0
    for length in lengths:
        end = start + length
        positions_bs = np.tile(np.arange(start, end), (batch, 1))
        given = TOKENS[:batch, start:end], np.ones((batch, end), np.int64), positions_bs
        logits_bsv, past = decoder.forward(*given, past)
        found.append(logits_bsv)
        start = end
    return found


# 8 and 24 are not rotated inside of GroupQueryAttention, 16 and 32 are; of 32, also parts
@pytest.mark.parametrize(
    ("model_type", "head_dim"),
    [*((each, 8) for each in BUILDABLE), *((each, 32) for each in BUILDABLE), ("llama", 16), ("phi", 16), ("phi", 24)],
)
def test_every_family_computes_the_same(model_type: str, head_dim: int, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", model_type, head_dim=head_dim, hidden_size=4 * head_dim)
    standard, fused = both(checkpoint, tmp_path)
    for lengths, batch in (((9, 1, 1, 1, 1), 3), ((5, 1, 6, 7, 1), 1)):
        for expected, found in zip(
            forward(standard, lengths, batch=batch), forward(fused, lengths, batch=batch), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=NOISE.get(model_type, 1e-4))
    # padding after the tokens of a prompt is not seen by them
    mask_bs = (np.arange(9) < np.array([[9], [4], [6]])).astype(np.int64)
    given = TOKENS[:, :9], mask_bs, np.tile(np.arange(9), (3, 1))
    expected, found = (decoder.forward(*given)[0][mask_bs == 1] for decoder in (standard, fused))
    np.testing.assert_allclose(found, expected, atol=NOISE.get(model_type, 1e-4))


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt_neox", "gemma2"])
def test_layers_may_differ(model_type: str, tmp_path: Path) -> None:
    save_lopsided(tmp_path, model_type)
    standard, fused = both(tmp_path / "pruned", tmp_path)
    for expected, found in zip(forward(standard, (7, 1, 1), batch=3), forward(fused, (7, 1, 1), batch=3), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.FLOAT16])
@pytest.mark.parametrize(("lengths", "batch"), [((9, 1, 1, 1, 1), 3), ((5, 1, 6, 7, 1), 1)])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "qwen3"])
def test_a_cache_that_is_filled_in_place_gives_the_same(
    model_type: str, lengths: tuple[int, ...], batch: int, dtype: Dtype, tmp_path: Path
) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", model_type, head_dim=16, hidden_size=64)
    standard, fused = both(checkpoint, tmp_path, dtype=dtype)
    assert standard.reserve(batch, 30) is None
    reserved = fused.reserve(batch, 30)
    buffers = {name: value.data_ptr() for name, value in reserved.values.items()}
    expected, past, start = forward(fused, lengths, batch=batch), reserved, 0
    for length, logits_bsv in zip(lengths, expected, strict=True):
        end = start + length
        positions_bs = np.tile(np.arange(start, end), (batch, 1))
        found, past = fused.forward(TOKENS[:batch, start:end], np.ones((batch, end), np.int64), positions_bs, past)
        np.testing.assert_array_equal(found, logits_bsv)
        start = end
    assert {name: value.data_ptr() for name, value in past.values.items()} == buffers
    assert (past.length, past.room) == (sum(lengths), 30)


def test_a_cache_has_no_more_room_than_was_reserved(tmp_path: Path) -> None:
    _, fused = both(save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=64), tmp_path)
    mask, positions = np.ones((1, 8), np.int64), np.arange(8)[None]
    _, past = fused.forward(TOKENS[:1, :8], mask, positions, fused.reserve(1, 8))
    with pytest.raises(ValueError, match="has room for 8 tokens, and 9 were given"):
        fused.forward(TOKENS[:1, :1], np.ones((1, 9), np.int64), np.array([[8]]), past)


@pytest.mark.parametrize("opset", Opset)
@pytest.mark.parametrize("head_dim", [8, 16])
def test_older_versions_of_the_standard_operators_do(opset: Opset, head_dim: int, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=head_dim, hidden_size=4 * head_dim)
    standard, fused = both(checkpoint, tmp_path, opset=opset)
    np.testing.assert_allclose(forward(fused, (9,), batch=3), forward(standard, (9,), batch=3), atol=1e-4)


def test_half_precision_is_as_near_as_the_standard_s(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=64)
    exact, _ = both(checkpoint, tmp_path / "float32")
    (expected,) = forward(exact, (17,), batch=3)
    errors = [
        np.abs(forward(decoder, (17,), batch=3)[0] - expected).max()
        for decoder in both(checkpoint, tmp_path / "float16", dtype=Dtype.FLOAT16)
    ]
    assert errors[1] <= 3 * errors[0]


def test_a_layer_has_half_as_many_operators_and_the_graph_says_what_it_has(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=64)
    both(checkpoint, tmp_path)
    standard, fused = (
        onnx.load(tmp_path / operators / "model.onnx", load_external_data=False) for operators in Operators
    )
    found = [sum(node.name.startswith("model.layers.1.") for node in model.graph.node) for model in (standard, fused)]
    assert found == [24, 13]  # without two that append to the KV cache
    onnx.checker.check_model(tmp_path / Operators.ONNXRUNTIME / "model.onnx")
    assert {node.domain for node in standard.graph.node} == {""}
    assert {entry.domain for entry in standard.opset_import} == {""}
    for operators in Operators:
        assert describe_graph(tmp_path / operators / "model.onnx").operators is operators
    assert {value.name for value in standard.graph.input} - {value.name for value in fused.graph.input} == {
        "position_ids"
    }
    assert standard.graph.output == fused.graph.output


def test_onnxruntime_genai_is_told_to_share_the_cache(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama", head_dim=16, hidden_size=64)
    both(checkpoint, tmp_path)
    for operators, shares in ((Operators.STANDARD, False), (Operators.ONNXRUNTIME, True)):
        config = json.loads((tmp_path / operators / "genai_config.json").read_text())
        assert config["search"]["past_present_share_buffer"] is shares
        assert ("position_ids" in config["model"]["decoder"]["inputs"]) is not shares


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_parity_leaves_padding_out(model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", model_type)
    save_tiny_tokenizer(checkpoint)
    options = ExportOptions(operators=Operators.ONNXRUNTIME)
    export(checkpoint, tmp_path / "out", options)
    report = validate(tmp_path / "out", ValidateOptions(threads=1))
    assert report.holds
    names = [case.name for case in report.cases]
    assert "batch of 3 texts of 11 tokens, 4 decode steps" in names
    assert not [name for name in names if "padded" in name]
    assert Report.load(tmp_path / "out").holds


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ExportOptions(to=Format.OPENVINO, operators=Operators.ONNXRUNTIME), "not for --to openvino"),
        (ExportOptions(via=Via.TRACE, operators=Operators.ONNXRUNTIME), "this one is traced: --via trace is given"),
    ],
)
def test_what_has_other_operators_refuses_them(options: ExportOptions, said: str, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama")
    with pytest.raises(RequestError, match=said):
        export(checkpoint, tmp_path / "out", options)


def test_what_is_traced_refuses_them(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "deepseek_v3")
    with pytest.raises(RequestError, match=r"built directly, and this one is traced: .*deepseek_v3"):
        export(checkpoint, tmp_path / "out", ExportOptions(operators=Operators.ONNXRUNTIME))
