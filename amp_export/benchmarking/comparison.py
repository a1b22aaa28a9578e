"""Benchmark a dense model against a pruned one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from amp_export.benchmarking.results import BenchmarkReport, GpuRecord, ModelMeasurement, SweepPoint
from amp_export.benchmarking.roofline import Roofline, StepBytes, file_step_bytes, step_bytes
from amp_export.benchmarking.rounds import Measured, Record, measure
from amp_export.benchmarking.sampling import Sampling
from amp_export.benchmarking.setup import Setup
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.benchmarking.timing import Round
from amp_export.benchmarking.workloads import Sweep, Workload
from amp_export.checkpoints.hashing import directory_size
from amp_export.checkpoints.vision_language import read_exported_config
from amp_export.exporters.dispatch import exported_bytes, exported_dtype
from amp_export.exporters.executorch import programs
from amp_export.exporters.files import exported_files
from amp_export.exporters.gguf.files import exported_file, read_facts
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx import exported_graphs
from amp_export.hardware.gpus import find_gpu, read_state
from amp_export.hardware.machine import Machine
from amp_export.options import Format, Phase


def benchmark_models(
    dense: Path,
    pruned: Path,
    *,
    setup: Setup | None = None,
    sweep: Sweep | None = None,
    sampling: Sampling | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Measure the speedup of a pruned model over the dense one.

    Args:
        dense: Folder of the dense model, in the runtime's format.
        pruned: Folder of the pruned model.
        setup: Runtime and settings for both models; by default ONNX Runtime on the CPU.
        sweep: Workloads to measure.
        sampling: How much is measured.
        on_progress: Called with the numbers of finished and of all rounds.

    Raises:
        RequestError: A workload does not fit into the models' context.
        ModelError: A folder holds no model, or the model is damaged.
        MissingExtraError: The runtime is not installed.
        AmpExportError: A process died.
    """
    setup, sampling = setup or Setup(), sampling or Sampling()
    if setup.format not in (None, Format.TENSORRT):
        for folder in (dense, pruned):
            exported_files(folder, setup.format)
    configs = [read_exported_config(folder)[1] for folder in (dense, pruned)]
    workloads = (sweep or Sweep()).workloads(configs, [*read_limits(dense), *read_limits(pruned)])
    # models without a vocabulary draw no tokens
    vocab_size = min(config.sizes.get("vocab_size", 1) for config in configs)
    tasks = [Round(workload, vocab_size, sampling.seed) for workload in workloads]
    gpu = find_gpu() if setup.on_gpu else None
    before = read_state() if gpu is not None else None
    measured = measure(dense, pruned, tasks, setup, sampling, on_progress=on_progress)
    record = GpuRecord(gpu, before, read_state()) if gpu is not None else None
    return _report(measured, workloads, setup, sampling, gpu=record)


def read_limits(folder: Path) -> tuple[Limits, ...]:
    """Return the limits of an ExecuTorch program; other exports have none, or check them at run time."""
    return (programs.read_facts(folder).limits,) if programs.is_executorch(folder) else ()


def _report(
    measured: Measured,
    workloads: tuple[Workload, ...],
    setup: Setup,
    sampling: Sampling,
    *,
    gpu: GpuRecord | None,
) -> BenchmarkReport:
    ready = measured.records[0].ready[0]
    bandwidth = measured.bandwidth if gpu is None else gpu.gpu.bandwidth_bytes_per_second
    # by workload, the bytes that a decode step of the dense and of the pruned model reads
    read = list(zip(*(_step_bytes(record, workloads, setup) for record in measured.records), strict=True))
    points = [_point(measured, number, workload, read[number], sampling) for number, workload in enumerate(workloads)]
    lead = points[0]
    decode = lead.phases.get(Phase.DECODE)
    medians = (decode.dense.median, decode.pruned.median) if decode is not None else (None, None)
    subjects = [
        _describe(record, each, median, bandwidth)
        for record, each, median in zip(measured.records, read[0], medians, strict=True)
    ]
    return BenchmarkReport(
        name=setup.name,
        dense=subjects[0],
        pruned=subjects[1],
        phases=lead.phases,
        roofline=lead.roofline,
        batch_size=lead.batch_size,
        prompt_tokens=lead.prompt_tokens,
        decode_tokens=lead.decode_tokens,
        sweep=tuple(points[1:]),
        rounds=measured.launches * sampling.rounds_of_launch,
        launches=measured.launches,
        pilot_launches=sampling.pilot_launches,
        stop=measured.stop,
        min_effect=sampling.min_effect,
        warm_up_rounds=measured.warm_up_rounds,
        unsettled_launches=measured.unsettled_launches,
        threads=ready.threads,
        pinned=tuple(ready.pinned),
        runtime=ready.runtime,
        clock=ready.clock,
        bandwidth_bytes_per_second=bandwidth,
        machine=Machine.here(),
        gpu=gpu,
        seed=sampling.seed,
        cuda_graph=setup.cuda_graph,
    )


def _point(
    measured: Measured,
    number: int,
    workload: Workload,
    read: tuple[StepBytes | None, ...],
    sampling: Sampling,
) -> SweepPoint:
    dense, pruned = measured.records
    phases = {
        phase: PhaseResult.of(
            dense.samples(number, phase),
            pruned.samples(number, phase),
            launches=measured.launches,
            pilot_launches=sampling.pilot_launches,
            min_effect=sampling.min_effect,
            tokens=workload.batch_size * (1 if phase == Phase.DECODE else workload.prompt_tokens),
        )
        for phase in dense.times[number][0].phases
    }
    roofline = None
    if Phase.DECODE in phases and read[0] is not None and read[1] is not None:
        roofline = Roofline.of(read[0], read[1], phases[Phase.DECODE])
    return SweepPoint(workload.batch_size, workload.prompt_tokens, workload.decode_tokens, phases, roofline)


def _step_bytes(record: Record, workloads: Sequence[Workload], setup: Setup) -> Sequence[StepBytes | None]:
    """Return the bytes that a decode step reads; unknown for an engine, whose weight layout is not documented."""
    folder = record.folder
    if setup.format is Format.TENSORRT:
        return [None] * len(workloads)
    dtype = setup.dtype if setup.format is None else exported_dtype(folder)
    graph = exported_graphs(folder)[-1] if setup.format is Format.ONNX else None
    if setup.format is Format.GGUF:
        return file_step_bytes(folder, workloads, weights=read_facts(exported_file(folder)).weight_bytes)
    return step_bytes(folder, workloads, dtype=dtype, graph=graph)


def _describe(
    record: Record, read: StepBytes | None, decode_seconds: float | None, bandwidth: float | None
) -> ModelMeasurement:
    share = read.total / decode_seconds / bandwidth if read and decode_seconds and bandwidth else None
    return ModelMeasurement(
        bytes_on_disk=exported_bytes(record.folder) or directory_size(record.folder),
        peak_memory_bytes=max(each.peak_memory_bytes for times in record.times.values() for each in times),
        load_seconds=statistics.median(ready.load_seconds for ready in record.ready),
        weight_bytes_per_token=read.weights if read is not None else None,
        cache_bytes_per_token=read.cache if read is not None else None,
        bandwidth_share=share,
    )
