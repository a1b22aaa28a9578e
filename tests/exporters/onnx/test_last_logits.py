"""Graphs with the logits of the last token alone: in each runtime, in parity, and where several are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from amp_export import ExportOptions, export
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.dispatch import exported_logits
from amp_export.exporters.dispatch import run as load
from amp_export.exporters.models.decoder import Decoder
from amp_export.exporters.onnx import export as export_graph
from amp_export.exporters.onnx import run
from amp_export.options import Format, Logits, Operators, Via
from amp_export.outputs.manifest import Manifest
from amp_export.parity.comparison import compare
from amp_export.parity.explain.explanation import explain, plan_taps
from amp_export.progress import Silent
from tests.support.faults import CASE
from tests.support.tiny_models import save_tiny_model, save_tiny_tokenizer

TOKENS = np.random.default_rng(0).integers(4, 100, (2, 12))
MASK = np.ones_like(TOKENS)
PLACES = np.tile(np.arange(12), (2, 1))


def decoder_of(folder: Path) -> Decoder:
    decoder = load(folder, threads=1)
    assert isinstance(decoder, Decoder)
    return decoder


def last_of_two_calls(decoder: Decoder) -> np.ndarray:
    """Returns the last logits of a prompt and those of the token after it."""
    first, past = decoder.forward(TOKENS[:, :11], MASK[:, :11], PLACES[:, :11], logits_to_keep=1)
    then, _ = decoder.forward(TOKENS[:, 11:], MASK, PLACES[:, 11:], past, logits_to_keep=1)
    return np.concatenate([first, then], axis=1)


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "cohere", "gemma2", "granite"])
def test_they_are_those_of_the_whole_graph(model_type: str, operators: Operators, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "dense", model_type))
    for logits in Logits:
        export_graph(checkpoint, tmp_path / logits, operators=operators, logits=logits)
        assert exported_logits(tmp_path / logits) is logits
    expected = last_of_two_calls(decoder_of(tmp_path / Logits.ALL))
    found = last_of_two_calls(decoder_of(tmp_path / Logits.LAST))
    # one row of the head is another kernel than several
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    model = onnx.load(tmp_path / Logits.LAST / "model.onnx", load_external_data=False)
    onnx.checker.check_model(tmp_path / Logits.LAST / "model.onnx")
    assert "num_logits_to_keep" not in {value.name for value in model.graph.input}
    assert [axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim] == [0, 1, 101]


@pytest.mark.parametrize("to", [Format.ONNX, Format.OPENVINO])
def test_parity_compares_the_last_of_each_call(to: Format, tmp_path: Path) -> None:
    if to is Format.OPENVINO:
        pytest.importorskip("openvino", reason="openvino is not installed")
    checkpoint = save_tiny_model(tmp_path / "dense", "llama")
    save_tiny_tokenizer(checkpoint)
    export(checkpoint, tmp_path / "out", ExportOptions(to=to, logits=Logits.LAST))
    assert Manifest.load(tmp_path / "out").export_options[to] == {"logits": "last"}
    assert exported_logits(tmp_path / "out" / to) is Logits.LAST
    report = compare(checkpoint, tmp_path / "out" / to, threads=1, progress=Silent())
    assert report.holds
    positions = {case.name: case.positions for case in report.cases}
    assert positions["prefill of 17 tokens"] == 1
    assert positions["16 decode steps after 8 tokens"] == 17
    assert positions["left-padded batch of 1, 2, 5, 11 and 17 tokens, 4 decode steps"] == 25
    assert not [name for name in positions if "right" in name]


def double(folder: Path, name: str) -> None:
    """Doubles a weight in the data file."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    weights = np.memmap(folder / place["location"], np.uint8, "r+")
    part = weights[int(place["offset"]) :][: int(place["length"])].view(np.float32)
    part *= 2
    weights.flush()


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head"])
def test_a_fault_is_found_and_explained(name: str, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama")
    save_tiny_tokenizer(checkpoint)
    export(checkpoint, tmp_path / "out", ExportOptions(logits=Logits.LAST))
    double(tmp_path / "out/onnx", f"{name}.weight")
    assert not compare(checkpoint, tmp_path / "out/onnx", threads=1, progress=Silent(), cases=[CASE]).holds
    found = explain(plan_taps(checkpoint, [tmp_path / "out/onnx/model.onnx"]), CASE, progress=Silent())
    assert found.first is not None
    assert found.first.module == name
    assert found.points[-1].module == "logits"


def test_what_needs_more_is_told_so(tmp_path: Path) -> None:
    export_graph(open_checkpoint(save_tiny_model(tmp_path / "dense", "llama")), tmp_path / "out", logits=Logits.LAST)
    decoder = run(tmp_path / "out", threads=1)
    assert isinstance(decoder, Decoder)
    with pytest.raises(RequestError, match=r"computes those of the last one\.\nExport it with --logits all"):
        decoder.forward(TOKENS, MASK, PLACES)
    one, _ = decoder.forward(TOKENS[:, :1], MASK[:, :1], PLACES[:, :1])
    assert one.shape == (2, 1, 101)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": Format.EXECUTORCH}, "Leave --via, --opset and --logits out"),
        (
            {"via": Via.TRACE},
            "--logits last is for graphs that are built directly, and this one is traced: --via trace",
        ),
    ],
)
def test_what_is_traced_refuses_it(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "dense", "llama")
    with pytest.raises(RequestError, match=said):
        export(checkpoint, tmp_path / "out", ExportOptions(logits=Logits.LAST, **options))
