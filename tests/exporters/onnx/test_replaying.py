"""Decoders whose steps have fixed shapes and addresses, as a CUDA graph needs: proved on the CPU, without the graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.models.replaying import ReplayingDecoder
from amp_export.exporters.onnx import export, run, sessions
from amp_export.exporters.onnx.fixed_calls import OnnxFixedCall
from amp_export.exporters.onnx.sessions import CUDA_PROVIDER, OnnxSession, load_graph, open_session
from amp_export.options import Dtype, Logits, Operators, Opset
from tests.support.tiny_models import save_tiny_model

ROOM, PROMPT, TOKENS = 24, 7, 15
FORMS: dict[str, dict[str, Any]] = {
    "fused": {"operators": Operators.ONNXRUNTIME},
    "fixed cache": {"opset": Opset.OPSET_24, "cache_length": ROOM},
}
IDS = np.random.default_rng(0).integers(1, 100, (3, TOKENS))


def save(folder: Path, model_type: str, form: str, **options: Any) -> Path:
    """Exports a tiny model; its heads are such that GroupQueryAttention rotates them."""
    checkpoint = save_tiny_model(folder / "checkpoint", model_type, head_dim=16, hidden_size=64)
    export(open_checkpoint(checkpoint), folder / form, **FORMS[form], **options)
    return folder / form


def replaying(folder: Path) -> ReplayingDecoder:
    return ReplayingDecoder(open_session(folder / "model.onnx", threads=1))


def read(decoder: Any, past: Any, ids: Any = IDS) -> Any:
    """Returns the logits of the last prompt token and of each token after it, and the caches' addresses by step."""
    batch, tokens = ids.shape
    found, addresses, start = [], [], 0
    for end in range(PROMPT, tokens + 1):
        positions = np.tile(np.arange(start, end), (batch, 1))
        given = ids[:, start:end], np.ones((batch, end), np.int64), positions
        logits, past = decoder.forward(*given, past, logits_to_keep=1)
        found.append(logits)
        addresses.append({name: value.data_ptr() for name, value in past.values.items()})
        start = end
    return np.concatenate(found, axis=1), addresses


# rotation inside of the attention; windows and soft caps; learned positions; norms of heads
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_a_cache_that_grows(form: str, model_type: str, tmp_path: Path) -> None:
    folder = save(tmp_path, model_type, form)
    expected, _ = read(run(folder, threads=1), None)
    decoder = replaying(folder)
    for _ in range(2):  # a second text reuses the memory of the first
        found, _ = read(decoder, decoder.reserve(len(IDS), ROOM))
        np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())
    other = (IDS[:2] + 1) % 100
    expected, _ = read(run(folder, threads=1), None, other)
    found, _ = read(decoder, decoder.reserve(len(other), ROOM), other)
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("logits", Logits)
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_replays_too(form: str, logits: Logits, tmp_path: Path) -> None:
    folder = save(tmp_path, "llama", form, dtype=Dtype.FLOAT16, logits=logits)
    expected, _ = read(run(folder, threads=1), None)
    decoder = replaying(folder)
    found, _ = read(decoder, decoder.reserve(len(IDS), ROOM))
    np.testing.assert_allclose(found, expected, atol=2e-3 * abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
def test_a_step_reads_and_writes_the_same_memory(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[dict[str, int]] = []
    numbers: list[str] = []

    original = OnnxFixedCall.run

    def record(call: Any, arrays: Any) -> None:
        original(call, arrays)
        outputs = {str(place): value for place, value in enumerate(call._binding.get_outputs())}
        bound.append({name: value.data_ptr() for name, value in (call._owned | outputs).items()})
        numbers.append(call._options.get_run_config_entry("gpu_graph_id"))

    monkeypatch.setattr(OnnxFixedCall, "run", record)
    decoder = replaying(save(tmp_path, "llama", form))
    for batch in (3, 1, 3):
        _, addresses = read(decoder, decoder.reserve(batch, ROOM), IDS[:batch])
        assert all(each == addresses[0] for each in addresses)
    steps = TOKENS - PROMPT
    assert len(bound) == 3 * steps
    first, other, again = (bound[start : start + steps] for start in range(0, len(bound), steps))
    assert all(each == first[0] for each in (*first, *again))
    assert all(each == other[0] for each in other)
    assert {"input_ids", "attention_mask"} <= first[0].keys()
    # each shape is captured for itself
    assert numbers == ["1"] * steps + ["2"] * steps + ["1"] * steps


def test_a_step_has_the_shape_that_was_reserved(tmp_path: Path) -> None:
    decoder = replaying(save(tmp_path, "llama", "fused"))
    prompt = IDS[:, :PROMPT], np.ones((3, PROMPT), np.int64), np.tile(np.arange(PROMPT), (3, 1))
    decoder.reserve(2, ROOM)
    _, past = decoder.forward(*prompt, decoder.reserve(3, ROOM))
    with pytest.raises(RequestError, match="A batch of 2 was given, and the KV cache is for another"):
        decoder.forward(IDS[:2, :1], np.ones((2, PROMPT + 1), np.int64), np.full((2, 1), PROMPT), past)
    _, past = decoder.forward(*prompt, decoder.reserve(3, PROMPT))
    with pytest.raises(ValueError, match=f"has room for {PROMPT} tokens, and {PROMPT + 1} were given"):
        decoder.forward(IDS[:, :1], np.ones((3, PROMPT + 1), np.int64), np.full((3, 1), PROMPT), past)
    # a cache that was not reserved is not replayed
    logits, past = decoder.forward(*prompt)
    assert past.room is None
    after, _ = decoder.forward(IDS[:, :1], np.ones((3, PROMPT + 1), np.int64), np.full((3, 1), PROMPT), past)
    assert (logits.shape[1], after.shape[1]) == (PROMPT, 1)


def test_what_cannot_be_captured_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    llama = open_checkpoint(save_tiny_model(tmp_path / "llama", "llama", head_dim=16, hidden_size=64))
    export(llama, tmp_path / "grows", dtype=Dtype.FLOAT16)
    export(llama, tmp_path / "wide", operators=Operators.ONNXRUNTIME)
    export(open_checkpoint(save_tiny_model(tmp_path / "lfm2", "lfm2")), tmp_path / "states")
    hidden = [onnx.helper.make_tensor_value_info(name, 1, ["batch_size", 4]) for name in ("pixels", "logits")]
    node = onnx.helper.make_node("Identity", ["pixels"], ["logits"])
    (tmp_path / "encoder").mkdir()
    encoder = onnx.helper.make_graph([node], "encoder", hidden[:1], hidden[1:])
    opset = onnx.helper.make_opsetid("", 23)
    onnx.save(onnx.helper.make_model(encoder, opset_imports=[opset]), tmp_path / "encoder/model.onnx")
    for name, problem, advice in (
        ("grows", "grows with each token", "--static-cache N"),
        ("wide", "computes GroupQueryAttention in float32", "--dtype float16"),
        ("states", "has states", "without --cuda-graph"),
        ("encoder", "holds no decoder of one graph", "without --cuda-graph"),
    ):
        with pytest.raises(RequestError, match=problem) as raised:
            run(tmp_path / name, cuda_graph=True)
        assert advice in str(raised.value)
    with pytest.raises(RequestError, match="a KV cache that grows"):
        ReplayingDecoder(open_session(tmp_path / "grows/model.onnx", threads=1))


def test_the_provider_is_told_to_capture_and_its_refusal_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(graph: Path, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        raise RuntimeError("This session cannot use the graph capture feature as requested by the user")

    monkeypatch.setattr(sessions, "check_providers", lambda providers: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(RequestError, match=r"cannot capture .*model\.onnx as a CUDA graph") as raised:
        load_graph(tmp_path / "model.onnx", threads=1, providers=[CUDA_PROVIDER], cuda_graph=True)
    assert "without --cuda-graph" in str(raised.value)
    assert asked == [(CUDA_PROVIDER, {"use_tf32": "0", "enable_cuda_graph": "1"})]


def test_values_of_a_session_on_a_gpu_lie_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sessions, "empty_value", lambda shape, dtype, device: asked.append(device))
    metadata = SimpleNamespace(custom_metadata_map={"amp_export.operators": "onnxruntime"})
    graph = SimpleNamespace(
        get_inputs=list,
        get_outputs=list,
        get_overridable_initializers=list,
        get_providers=lambda: [CUDA_PROVIDER, "CPUExecutionProvider"],
        get_modelmeta=lambda: metadata,
    )
    session = OnnxSession(graph, threads=1)
    assert session.fills_cache
    session.new_value((1,), Dtype.FLOAT16)
    assert asked == ["cuda"]
