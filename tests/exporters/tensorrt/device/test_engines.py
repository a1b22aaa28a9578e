"""No GPU was there: the class that runs engines meets a TensorRT and a CUDA that are stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from amp_export.exporters.tensorrt.device import cuda as cuda_module
from amp_export.exporters.tensorrt.device import engines
from amp_export.exporters.tensorrt.device.bundle import Bundle, open_bundle
from amp_export.exporters.tensorrt.device.cuda import Cuda
from amp_export.exporters.tensorrt.device.engines import TensorRT
from amp_export.exporters.tensorrt.device.errors import RunError
from amp_export.exporters.tensorrt.device.runtimes import widen_bfloat16
from amp_export.exporters.tensorrt.device.worker import compare, time_round
from tests.support.fake_tensorrt import FakeCuda, fake_tensorrt
from tests.support.shared import Bundled


@pytest.fixture
def bundle(bundled: Bundled, tmp_path: Path) -> Bundle:
    return open_bundle(bundled.unpack(tmp_path))


@pytest.fixture
def gpu() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def decoder(bundle: Bundle, gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TensorRT:
    profiles = [profile["shapes"] for profile in bundle.manifest["graphs"]["pruned"]["profiles"]]
    module = fake_tensorrt(bundle.graph("pruned"), profiles, gpu)
    monkeypatch.setattr(engines.importlib, "import_module", lambda _: module)
    (tmp_path / "pruned.engine").write_bytes(b"engine")
    return TensorRT(str(tmp_path / "pruned.engine"), cuda=gpu)


def references(bundle: Bundle) -> dict[str, Any]:
    reference = bundle.manifest["references"]["pruned"]
    return {**reference, "references": str(bundle.folder / reference["file"])}


def test_prefill_decode_and_padded_batches_go_through_the_buffers_unharmed(bundle: Bundle, decoder: TensorRT) -> None:
    results = compare(decoder, references(bundle))
    assert len(results) == 4
    assert all(result["holds"] for result in results), results
    assert decoder.description == "TensorRT 10.15.0.1"


def test_a_round_is_timed_and_makes_no_new_buffers_the_second_time(
    bundle: Bundle, decoder: TensorRT, gpu: FakeCuda
) -> None:
    first = time_round(decoder, bundle.manifest["measure"])
    held = decoder.device_memory_bytes()
    assert [len(first["phases"][phase]) for phase in ("prefill", "decode")] == [1, 16]
    assert first["spans"]["prefill"][1] == first["spans"]["decode"][0]
    time_round(decoder, bundle.manifest["measure"])
    assert decoder.device_memory_bytes() == held == sum(map(len, gpu.blocks.values()))


def test_buffers_hold_the_batch_and_the_tokens_that_were_named(decoder: TensorRT) -> None:
    tokens = np.full((3, 5), 7)
    decoder.start(3, 6)
    prefilled = decoder.step(tokens, np.ones_like(tokens), np.arange(5)[np.newaxis].repeat(3, axis=0))
    decoded = decoder.step(tokens[:, :1], np.ones((3, 6), np.int64), np.full((3, 1), 5))
    for logits in (prefilled, decoded):
        assert logits.shape == (3, 101)
        np.testing.assert_allclose(logits, logits[:1].repeat(3, axis=0), rtol=1e-5)


def test_shapes_beyond_the_profile_are_named(decoder: TensorRT) -> None:
    tokens = np.zeros((4, 5), np.int64)
    decoder.start(4, 5)
    with pytest.raises(
        RunError, match=r"input_ids has the shape \[4, 5\], but the engine takes \[1, 1\] to \[3, 128\]"
    ):
        decoder.step(tokens, np.ones_like(tokens), tokens)


def test_an_engine_of_another_version_is_told(decoder: TensorRT, gpu: FakeCuda, tmp_path: Path) -> None:
    (tmp_path / "other.engine").write_bytes(b"of another version")
    with pytest.raises(RunError, match=r"TensorRT 10\.15\.0\.1 cannot load .*other\.engine(?s:.*)that built it"):
        TensorRT(str(tmp_path / "other.engine"), cuda=gpu)


def test_bits_of_bfloat16_become_float32() -> None:
    halves = np.array([0x3F80, 0xC020, 0x0000, 0x7F80], np.uint16)
    assert widen_bfloat16(halves).tolist() == [1.0, -2.5, 0.0, float("inf")]


def test_errors_of_the_gpu_say_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe(code: int) -> bytes:
        return {2: b"out of memory"}[code]

    library = SimpleNamespace(
        cudaGetErrorString=describe, cudaStreamCreate=lambda *_: 0, cudaMalloc=lambda *_: 2, cudaMemGetInfo=lambda *_: 0
    )
    monkeypatch.setattr(cuda_module, "_load", lambda: library)
    gpu = Cuda()
    assert gpu.used_bytes() == 0
    with pytest.raises(RunError, match=r"cudaMalloc failed on the GPU: out of memory\."):
        gpu.allocate(1)


def test_a_missing_cuda_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "_candidates", lambda: iter(["libcudart_that_is_nowhere.so"]))
    with pytest.raises(RunError, match=r"libcudart\.so, is not found\.\n.*LD_LIBRARY_PATH"):
        Cuda()
