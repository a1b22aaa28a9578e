"""What a benchmark times in PyTorch is what the model computes, compiled or not."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from amp_export.benchmarking.runners import genai, pytorch
from amp_export.benchmarking.runners.base import DecoderRunner
from amp_export.benchmarking.runners.exported import ExportedDecoder
from amp_export.benchmarking.runners.pytorch import TorchDecoder, TorchWriter
from amp_export.checkpoints.loading import load_model
from amp_export.checkpoints.reading import open_checkpoint, read_config
from amp_export.errors import RequestError
from amp_export.exporters.models.replaying import ReplayingDecoder
from amp_export.exporters.onnx import export, run
from amp_export.exporters.onnx.sessions import open_session
from amp_export.options import Dtype, Operators
from tests.support.tiny_models import save_tiny_model

PROMPT = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
TOKENS = np.array([[13, 14, 15], [16, 17, 18]])


def make_decoder(checkpoint: Path, *, compiled: bool) -> tuple[TorchDecoder, list[torch.Tensor]]:
    """A decoder, and the logits of every call of it."""
    model = load_model(checkpoint, dtype=torch.float32)
    runner = TorchDecoder(model, read_config(checkpoint)[1], threads=1, compiled=compiled)
    forward, seen = runner._forward, []

    def noting(**inputs: Any) -> Any:
        result = forward(**inputs)
        seen.append(result.logits[:, -1].clone())
        return result

    runner._forward = noting
    return runner, seen


def replaying(folder: Path) -> ReplayingDecoder:
    return ReplayingDecoder(open_session(folder / "model.onnx", threads=1))


def write(runner: DecoderRunner) -> None:
    runner.prefill(PROMPT, total_tokens=PROMPT.shape[1] + TOKENS.shape[1])
    for token_b1 in np.split(TOKENS, TOKENS.shape[1], axis=1):
        runner.decode(token_b1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"), "llama", num_hidden_layers=2)


def whole_text(checkpoint: Path) -> list[torch.Tensor]:
    """The logits of the same tokens in one pass, without a cache."""
    model = load_model(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        logits_bsv = model(torch.from_numpy(np.concatenate([PROMPT, TOKENS], axis=1)), use_cache=False).logits
    return [logits_bsv[:, place] for place in range(PROMPT.shape[1] - 1, logits_bsv.shape[1])]


@pytest.mark.slow
def test_a_compiled_decoder_computes_the_same_and_is_compiled_once_for_each_shape(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what a backend makes of a program takes half a minute, and is not ours
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    runner, seen = make_decoder(llama, compiled=True)
    write(runner)
    compiled = counter.frame_count
    assert compiled >= 2, "one program for the prompt, one for single tokens"
    write(runner)
    assert counter.frame_count == compiled, "a second text compiles nothing"
    expected = whole_text(llama)
    assert len(seen) == 2 * len(expected) == 8
    for found, right in zip(seen, expected * 2, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=0)


def test_a_decoder_with_a_growing_cache_computes_the_same(llama: Path) -> None:
    runner, seen = make_decoder(llama, compiled=False)
    write(runner)
    for found, right in zip(seen, whole_text(llama), strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=0)


def test_only_the_steps_of_a_compiled_decoder_are_captured(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []
    begun: list[None] = []

    def compile_nothing(function: Any, *, dynamic: bool, mode: str | None) -> Any:
        def run(**inputs: Any) -> Any:
            modes.append((mode, inputs["input_ids"].shape[1]))
            return function(**inputs)

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(None))
    model = load_model(llama, dtype=torch.float32)
    runner = TorchDecoder(model, read_config(llama)[1], threads=1, compiled=True, cuda_graph=True)
    write(runner)
    assert modes == [(None, PROMPT.shape[1]), *[("reduce-overhead", 1)] * TOKENS.shape[1]]
    assert len(begun) == TOKENS.shape[1]


def test_an_encoder_has_no_steps_to_capture(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path, "bert", num_hidden_layers=1)
    with pytest.raises(RequestError, match=r"BertForMaskedLM is none.\nMeasure it without --cuda-graph"):
        pytorch.load(checkpoint, dtype=Dtype.FLOAT32, threads=1, cuda_graph=True)


def test_what_is_timed_in_onnxruntime_is_what_the_model_computes(llama: Path, tmp_path: Path) -> None:
    export(open_checkpoint(llama), tmp_path / "onnx", operators=Operators.ONNXRUNTIME)
    for decoder in (run(tmp_path / "onnx", threads=1), replaying(tmp_path / "onnx")):
        runner = ExportedDecoder(decoder)
        write(runner)
        again = np.array([[3], [4]])
        length = PROMPT.shape[1] + TOKENS.shape[1]
        assert runner._past.length == length
        given = again, np.ones((2, length + 1), np.int64), np.full((2, 1), length)
        whole = np.concatenate([PROMPT, TOKENS, again], axis=1)
        runner.prefill(PROMPT, total_tokens=length + 1)
        for token_b1 in np.split(TOKENS, TOKENS.shape[1], axis=1):
            runner.decode(token_b1)
        logits, _ = decoder.forward(*given, runner._past)
        with torch.inference_mode():
            expected = load_model(llama, dtype=torch.float32)(torch.from_numpy(whole)).logits[:, -1:]
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_an_encoder_with_a_decoder_is_not_compiled(tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path, "t5", num_hidden_layers=1)
    model, (_, config) = load_model(checkpoint, dtype=torch.float32), read_config(checkpoint)
    with pytest.raises(RequestError, match=r"compile\s+anew for every token.\nMeasure it with --runtime pytorch"):
        TorchWriter(model, config, threads=1, compiled=True)


def test_a_text_in_genai_may_fill_the_context(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    total = PROMPT.shape[1] + TOKENS.shape[1]
    checkpoint = open_checkpoint(save_tiny_model(tmp_path / "checkpoint", "llama", max_position_embeddings=total))
    export(checkpoint, tmp_path / "onnx")
    runner = genai.load(tmp_path / "onnx", threads=1)
    runner.prefill(PROMPT, total_tokens=total)
    for token_b1 in np.split(TOKENS, TOKENS.shape[1], axis=1):
        runner.decode(token_b1)
    assert runner._generator.get_sequence(0).shape == (total + 1,)
