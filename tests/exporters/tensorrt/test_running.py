"""The engine's runner, on a context that reads and writes the same addresses but lets ONNX Runtime compute.

There is no GPU here; what the runner does, choosing a profile, binding addresses and shapes, and passing keys and
values on, is the same where there is one.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch

from amp_export.checkpoints.hashing import hash_file
from amp_export.checkpoints.reading import open_checkpoint
from amp_export.errors import RequestError
from amp_export.exporters.onnx import export, run
from amp_export.exporters.tensorrt import EngineFacts, Limits, decoder_profiles
from amp_export.exporters.tensorrt.exporting import describe_decoder
from amp_export.exporters.tensorrt.running import TensorrtDecoder
from amp_export.options import Dtype, EngineRuntime
from amp_export.parity.comparison import compare
from amp_export.parity.decoder_cases import Case
from amp_export.parity.suites import DecoderSuite
from amp_export.progress import Silent

CONTEXT = 32


class ContextOnTheProcessor:
    """What the runner uses of `IExecutionContext`, on addresses of this process."""

    def __init__(self, graph: Path, facts: EngineFacts) -> None:
        self._session = onnxruntime.InferenceSession(graph)
        self._facts = facts
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profiles: list[int] = []

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert stream == 0
        self.profiles.append(number)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address, "no tensor may lie nowhere"
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 0
        ranges = self._facts.profiles[self.profiles[-1]].ranges
        given = {}
        for name, binding in self._facts.inputs.items():
            bounds = zip(ranges[name].minimum, self._shapes[name], ranges[name].maximum, strict=True)
            assert all(low <= size <= high for low, size, high in bounds), name
            given[name] = self._read(name, self._shapes[name], binding.dtype)
        outputs = self._session.run(list(self._facts.outputs), given)
        for name, array in zip(self._facts.outputs, outputs, strict=True):
            content = np.ascontiguousarray(array)
            ctypes.memmove(self._addresses[name], content.ctypes.data, content.nbytes)
        return True

    def _read(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        count = int(np.prod(shape))
        raw = ctypes.string_at(self._addresses[name], count * numpy_dtype.itemsize)
        return np.frombuffer(raw, numpy_dtype).reshape(shape)


@pytest.fixture(scope="module")
def graph(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph") / "onnx"
    export(open_checkpoint(tiny_llama), folder)
    return folder


def make_decoder(graph: Path, *, max_batch: int = 3) -> tuple[TensorrtDecoder, ContextOnTheProcessor]:
    described = describe_decoder(graph / "model.onnx")
    limits = Limits(max_batch, CONTEXT)
    facts = EngineFacts(
        runtime=EngineRuntime.TENSORRT_RTX,
        version="1.7.1",
        compute_capability="8.9",
        device=None,
        dtype=described.dtype,
        opset=described.opset.version,
        graph_sha256=hash_file(graph / "model.onnx"),
        inputs=described.inputs,
        outputs=described.outputs,
        limits=limits,
        profiles=decoder_profiles({name: binding.axes for name, binding in described.inputs.items()}, limits),
        attentions=0,
        build_seconds=0.0,
        engine_bytes=0,
    )
    context = ContextOnTheProcessor(graph / "model.onnx", facts)
    return TensorrtDecoder(context, facts, torch.device("cpu"), None), context


def inputs(batch: int, start: int, end: int) -> tuple[Any, Any, Any]:
    tokens = np.random.default_rng(3).integers(3, 90, (batch, CONTEXT + 1))[:, start:end]
    return tokens, np.ones((batch, end), np.int64), np.tile(np.arange(start, end), (batch, 1))


def test_prefill_and_decode_are_those_of_the_graph(graph: Path) -> None:
    decoder, context = make_decoder(graph)
    reference = run(graph, threads=1)
    past = expected_past = None
    for start, end in ((0, 9), (9, 10), (10, 11)):
        logits, past = decoder.forward(*inputs(2, start, end), past)
        expected, expected_past = reference.forward(*inputs(2, start, end), expected_past)
        np.testing.assert_array_equal(logits, expected)
    # a profile is set where it changes, and kept where it does not
    assert context.profiles == [0, 1]
    decoder.forward(*inputs(1, 0, 4))
    assert context.profiles == [0, 1, 0]
    assert decoder.dtype is Dtype.FLOAT32


def test_keys_and_values_are_not_copied(graph: Path) -> None:
    decoder, context = make_decoder(graph)
    _, past = decoder.forward(*inputs(1, 0, 5))
    decoder.forward(*inputs(1, 5, 6), past)
    for name, tensor in past.values.items():
        assert context._addresses[name] == tensor.data_ptr()


@pytest.mark.parametrize(
    ("batch", "start", "end", "said"),
    [
        (4, 0, 5, r"input_ids of \[1, 1\] to \[3, 32\] in prefill, but got \[4, 5\]"),
        (1, 0, 33, r"in prefill, but got \[1, 33\]"),
        (1, 5, 7, r"in decode, but got \[1, 2\]"),
    ],
    ids=["batch", "context", "several tokens after a past"],
)
def test_shapes_beyond_the_profile_are_refused(graph: Path, batch: int, start: int, end: int, said: str) -> None:
    decoder, context = make_decoder(graph)
    past = decoder.forward(*inputs(batch, 0, start))[1] if start else None
    before = list(context.profiles)
    with pytest.raises(RequestError, match=f"{said}.*\n.*--max-batch"):
        decoder.forward(*inputs(batch, start, end), past)
    assert context.profiles == before


def test_the_last_place_of_the_context_can_be_decoded(graph: Path) -> None:
    decoder, _ = make_decoder(graph)
    _, past = decoder.forward(*inputs(1, 0, CONTEXT - 1))
    _, past = decoder.forward(*inputs(1, CONTEXT - 1, CONTEXT), past)
    with pytest.raises(RequestError, match="decode"):
        decoder.forward(*inputs(1, CONTEXT, CONTEXT + 1), past)


def test_a_wrong_mask_and_a_closed_decoder_are_told(graph: Path) -> None:
    decoder, _ = make_decoder(graph)
    tokens, mask, positions = inputs(1, 0, 5)
    with pytest.raises(ValueError, match=r"has the shape \[1, 4\]"):
        decoder.forward(tokens, mask[:, :4], positions)
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.forward(tokens, mask, positions)


def test_parity_is_checked_on_cases_within_the_limits(
    graph: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, _ = make_decoder(graph, max_batch=1)
    monkeypatch.setattr("amp_export.exporters.dispatch.run", lambda *_, **__: decoder)
    fits = Case("fits", (6,), decode_steps=2)
    for other in (Case("two texts", (3, 5)), Case("long", (30,), decode_steps=5)):
        with pytest.raises(RequestError, match=f"The case '{other.name}' does not fit the graph"):
            compare(tiny_llama, graph, progress=Silent(), cases=(other, fits))
    report = compare(tiny_llama, graph, progress=Silent(), cases=(fits,))
    assert [case.name for case in report.cases] == ["fits"]
    assert report.holds
    assert DecoderSuite(decoder, open_checkpoint(tiny_llama).config, np.arange(50)).names


def test_transformers_opens_an_engine_and_runs_it_as_the_model(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed", exc_type=ImportError)
    from transformers import AutoModelForCausalLM
    from transformers.exporters.auto import AutoHfExporter
    from transformers.exporters.base import ExportedModel

    import amp_export
    from amp_export.exporters.tensorrt import transformers_format
    from amp_export.integrations.transformers_backend import TensorrtConfig

    amp_export.register()
    amp_export.register()
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    config = TensorrtConfig(target="rtx4090", max_batch=2, max_context=CONTEXT)
    exported = AutoHfExporter.from_config(config).export(model, {}, config)
    exported.save_pretrained(tmp_path / "saved")

    # what was built is for a GPU that is not here: the same graph computes in its place
    graph = exported.program.folder.parent / "onnx"
    monkeypatch.setattr(transformers_format, "run", lambda _: make_decoder(graph)[0])
    opened = ExportedModel.from_pretrained(tmp_path / "saved")
    assert opened.dtype == torch.float32
    assert opened.config.model_type == "llama"
    tokens = torch.tensor(inputs(2, 0, 9)[0])
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    first = opened(input_ids=tokens, attention_mask=mask)
    second = opened(input_ids=tokens[:, :1], attention_mask=torch.cat([mask, mask[:, -1:]], dim=1), cache=first.cache)
    with torch.inference_mode():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        expected = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True)
        expected_second = model(
            input_ids=tokens[:, :1],
            attention_mask=torch.cat([mask, mask[:, -1:]], dim=1),
            position_ids=positions[:, -1:] + 1,
            cache=expected.cache,
        )
    torch.testing.assert_close(first.logits[mask == 1], expected.logits[mask == 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(second.logits, expected_second.logits, atol=1e-4, rtol=0)
    assert second.cache.get_seq_length() == 10


def test_an_engine_runs_on_no_processor(tmp_path: Path) -> None:
    from amp_export.exporters.tensorrt.transformers_format import EngineProgram, TensorrtRunner
    from amp_export.integrations.transformers_backend import TensorrtExporter

    with pytest.raises(ValueError, match="runs on a GPU, not on cpu"):
        TensorrtRunner.from_program(EngineProgram(tmp_path), None, "cpu")
    with pytest.raises(NotImplementedError, match="One engine does prefill and decode"):
        TensorrtExporter().export_for_generation()


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_export.integrations import transformers_backend

    def fail(model: object, folder: Path, config: object) -> Path:
        (folder / "checkpoint").mkdir()
        raise RequestError("no GPU")

    monkeypatch.setattr(transformers_backend.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(transformers_backend, "_build", fail)
    with pytest.raises(RequestError, match="no GPU"):
        transformers_backend.TensorrtExporter().export_program(
            torch.nn.Linear(1, 1), {}, transformers_backend.TensorrtConfig()
        )
    assert list(tmp_path.iterdir()) == []
