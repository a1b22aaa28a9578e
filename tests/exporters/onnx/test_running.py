"""Test loading and running exported graphs, and the errors if that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnxruntime import OrtValue

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import MissingExtraError, ModelError, RequestError, UnsupportedModelError
from amp_export.exporters.onnx import export, run
from amp_export.exporters.onnx.sessions import open_session
from amp_export.exporters.onnx.values import to_float32
from amp_export.hardware.threads import usable_cores
from amp_export.options import Dtype
from tests.support.tiny_models import save_tiny_model

TOKENS = np.array([[5, 6, 7]])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return export(open_checkpoint(save_tiny_model(folder / "checkpoint", "llama")), folder / "onnx").folder


def test_the_past_grows_by_the_new_tokens_and_stays_in_the_runtime(exported: Path) -> None:
    decoder = run(exported)
    logits, past = decoder.forward(TOKENS, np.ones((1, 3), np.int64), np.arange(3)[None])
    assert logits.shape == (1, 3, 101)
    assert logits.dtype == np.float32
    assert past.length == 3
    _, longer = decoder.forward(TOKENS[:, :1], np.ones((1, 4), np.int64), np.array([[3]]), past)
    assert longer.length == 4
    assert all(isinstance(value, OrtValue) for value in longer.values.values())
    assert {tuple(value.shape()) for value in longer.values.values()} == {(1, 2, 4, 8)}
    # what was given is unchanged, so that several continuations can start from it
    assert {tuple(value.shape()) for value in past.values.values()} == {(1, 2, 3, 8)}


def test_a_decoder_tells_its_layers_its_precision_and_its_threads(exported: Path) -> None:
    assert run(exported).threads == usable_cores() >= 1
    decoder = run(exported, threads=1)
    assert (decoder.num_layers, decoder.dtype, decoder.threads) == (3, Dtype.FLOAT32, 1)


def test_a_mask_that_leaves_out_the_past_is_refused(exported: Path) -> None:
    decoder = run(exported)
    _, past = decoder.forward(TOKENS, np.ones((1, 3), np.int64), np.arange(3)[None])
    with pytest.raises(ValueError, match=r"\[1, 1\]; 3 cached and 1 new tokens need \[1, 4\]"):
        decoder.forward(TOKENS[:, :1], np.ones((1, 1), np.int64), np.array([[3]]), past)


def test_a_closed_decoder_says_so(exported: Path) -> None:
    decoder = run(exported)
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.forward(TOKENS, np.ones((1, 3), np.int64), np.arange(3)[None])


def test_bfloat16_on_the_cpu_is_refused_with_what_to_do(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "llama"))
    folder = export(checkpoint, tmp_path / "onnx", dtype=Dtype.BFLOAT16).folder
    with pytest.raises(UnsupportedModelError, match=r"no bfloat16 arithmetic\. Export in float32 or float16"):
        run(folder)


def test_bfloat16_logits_become_float32_bit_for_bit() -> None:
    values = np.array([[1.5, -0.0, 3.0e38], [2.0**-130, np.inf, -7.25]], ml_dtypes.bfloat16)
    held = OrtValue.ortvalue_from_numpy_with_onnx_type(values.view(np.uint16), 16)
    np.testing.assert_array_equal(to_float32(held), values.astype(np.float32))


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.onnx"):
        run(tmp_path)


@pytest.mark.parametrize("damaged", ["model.onnx", "model.onnx_data"])
def test_a_damaged_export_is_refused(tmp_path: Path, damaged: str) -> None:
    folder = export(open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "llama")), tmp_path / "onnx").folder
    content = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="Export it again"):
        run(folder)


def test_a_provider_that_is_not_installed_is_refused(exported: Path) -> None:
    with pytest.raises(
        RequestError,
        match=r"onnxruntime has no AbacusExecutionProvider\.\nAvailable: "
        ".*CPUExecutionProvider",
    ):
        run(exported, providers=["AbacusExecutionProvider"])


def test_float32_is_not_rounded_to_tf32_on_a_gpu(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    given: list[object] = []

    def refuse(*_: object, providers: object) -> None:
        given.append(providers)
        raise RuntimeError("no GPU")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ModelError, match="no GPU"):
        run(exported, providers=["CUDAExecutionProvider"])
    assert given == [[("CUDAExecutionProvider", {"use_tf32": "0"})]]


def test_without_onnxruntime_the_install_line_is_given(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r'pip install "amp-export\[onnxruntime\]"') as caught:
        run(exported)
    assert isinstance(caught.value.__cause__, ImportError)


def test_loading_a_graph_says_nothing(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(exported, threads=1)
    assert capfd.readouterr() == ("", "")


def test_logits_of_other_tokens_are_not_computed(exported: Path) -> None:
    session = open_session(exported / "model.onnx", threads=1)
    row = np.arange(1, 8)[None]
    given = {"input_ids": row, "attention_mask": np.ones_like(row), "position_ids": row - 1}
    empty = {
        name: session.to_value(np.empty((1, port.axes[1], 0, port.axes[3]), np.float32))
        for name, port in session.inputs.items()
        if name not in given
    }
    values = {**{name: session.to_value(array) for name, array in given.items()}, **empty}
    (whole,) = session.run(["logits"], values)
    (last,) = session.run(["logits"], {**values, "num_logits_to_keep": session.to_value(np.array(2))})
    assert (whole.shape()[1], last.shape()[1]) == (7, 2)
    assert session.options == {"num_logits_to_keep"}
    assert "num_logits_to_keep" not in session.inputs
