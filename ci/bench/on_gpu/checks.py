"""Checks on a GPU: that graphs compute the same there, replayed too, and that what reports say of it is true."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import torch
from bench.on_gpu.models import DENSE, PRUNED
from bench.on_gpu.rows import Check, Fact

import amp_export
from amp_export import ExportOptions, ValidateOptions
from amp_export.exporters.models.decoder import Decoder, GraphDecoder
from amp_export.exporters.onnx import run
from amp_export.exporters.onnx.sessions import open_session
from amp_export.hardware.gpus import Gpu, find_gpu, read_state
from amp_export.options import Dtype, Operators, Opset, Provider

PROMPT, STEPS, ROOM = 9, 8, 32

TOLERANCE = 1e-2
"""Largest difference of logits, relative to the largest: float16 has three digits, and attentions add in another order
where the mask covers the whole cache."""

COPIED = 1 << 30
"""Bytes that are copied to measure the bandwidth."""


def validate(models: Path, folder: Path, dtype: Dtype, provider: Provider) -> Iterator[Check]:
    """Yield the parity of both models in both dialects of operators."""
    for model, operators in itertools.product((DENSE, PRUNED), Operators):
        output = folder / f"{model}-{operators}"
        amp_export.export(models / model, output, ExportOptions(dtype=dtype, operators=operators))
        report = amp_export.validate(output, ValidateOptions(provider=provider))
        worst = max((case.max_error for case in report.cases), default=0.0)
        found = f"largest error {worst:.2g}, tolerance {report.tolerance:.2g}"
        yield Check(f"parity on {provider}: {dtype}, {model}, {operators}", report.holds, found)


def replay(models: Path, folder: Path, provider: Provider) -> Iterator[Check]:
    """Yield whether replayed steps give the logits of a cache that grows, in both forms that can be replayed."""
    forms = {
        Operators.ONNXRUNTIME.value: ExportOptions(dtype=Dtype.FLOAT16, operators=Operators.ONNXRUNTIME),
        "static cache": ExportOptions(dtype=Dtype.FLOAT16, opset=Opset.OPSET_24, static_cache=ROOM),
    }
    providers = [provider.onnxruntime_name]
    for name, options in forms.items():
        amp_export.export(models / PRUNED, folder / name, options)
        graph = folder / name / "onnx"
        replayed, growing = (run(graph, providers=providers, cuda_graph=captures) for captures in (True, False))
        assert isinstance(replayed, Decoder)
        assert isinstance(growing, Decoder)
        # the second text of a batch size replays what was captured for the first
        for batch, seed in ((1, 0), (3, 1), (1, 2)):
            found, expected = (_read(decoder, batch, seed) for decoder in (replayed, growing))
            error = float(np.abs(found - expected).max() / np.abs(expected).max())
            said = f"relative error {error:.2g} over {STEPS} steps"
            yield Check(f"replayed logits: {name}, batch {batch}, text {seed}", error < TOLERANCE, said)


def _read(decoder: Decoder, batch: int, seed: int) -> np.ndarray:
    """Return the logits of the last token of a prompt, and of each token after it."""
    ids = np.random.default_rng(seed).integers(100, size=(batch, PROMPT + STEPS))
    past = decoder.reserve(batch, ROOM)
    found, start = [], 0
    for end in range(PROMPT, PROMPT + STEPS + 1):
        positions = np.tile(np.arange(start, end), (batch, 1))
        mask = np.ones((batch, end), np.int64)
        logits, past = decoder.forward(ids[:, start:end], mask, positions, past, logits_to_keep=1)
        found.append(logits)
        start = end
    return np.concatenate(found, axis=1)


def where_logits_stay(models: Path, folder: Path, provider: Provider) -> Iterator[Check]:
    """Yield whether the logits that a benchmark leaves where they are lie on the device."""
    options = ExportOptions(dtype=Dtype.FLOAT16)
    amp_export.export(models / PRUNED, folder / "logits", options)
    session = open_session(folder / "logits/onnx/model.onnx", threads=1, providers=[provider.onnxruntime_name])
    ones = np.ones((1, PROMPT), np.int64)
    with mock.patch.object(session, "run", wraps=session.run) as ran:
        GraphDecoder(session).advance(ones, ones, np.arange(PROMPT)[None])
    kept = ran.call_args.kwargs["keep"]
    (logits, *_) = session.run(*ran.call_args.args, keep=kept)
    expected = "cpu" if provider is Provider.CPU else "cuda"
    yield Check("logits stay on the device", logits.device_name() == expected, f"they are on {logits.device_name()}")


def describe(device: torch.device) -> Iterator[Fact | Check]:
    """Yield what reports say of the GPU, and whether it is what PyTorch says or measures."""
    yield Fact("versions", f"ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}")
    gpu = find_gpu()
    if device.type != "cuda" or gpu is None:
        found = "no GPU" if device.type != "cuda" else "the driver is not found: is nvidia-ml-py installed?"
        yield from (Check(name, None, found) for name in ("memory", "bandwidth", "clocks"))
        return
    yield Fact("GPU", f"{gpu.name}, driver {gpu.driver}, compute capability {gpu.compute_capability}")
    seen = torch.cuda.get_device_properties(device).total_memory
    near = abs(gpu.memory_bytes - seen) < 0.05 * seen
    yield Check("memory", near, f"report {gpu.memory_bytes / 1e9:.1f} GB, PyTorch {seen / 1e9:.1f} GB")
    yield _check_bandwidth(gpu, device)
    state = read_state()
    clocks = [state.sm_clock_mhz, state.sm_clock_limit_mhz, state.memory_clock_mhz] if state is not None else []
    known = [clock for clock in clocks if clock]
    holds = len(known) == 3 and known[0] <= known[1]
    yield Check("clocks", holds, f"{state}")


def _check_bandwidth(gpu: Gpu, device: torch.device) -> Check:
    """Return whether a copy reaches at most the bandwidth that the report has, and at least half of it."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    target.copy_(source)
    start.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    end.synchronize()
    measured = 10 * 2 * COPIED / (start.elapsed_time(end) / 1e3)
    stated = gpu.bandwidth_bytes_per_second
    found = f"report {(stated or 0) / 1e12:.2f} TB/s, copies {measured / 1e12:.2f} TB/s"
    return Check("bandwidth", stated is not None and 0.5 * stated < measured < 1.02 * stated, found)
