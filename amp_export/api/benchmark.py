"""The verb `benchmark`: dense against pruned on this machine, in one runtime."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from amp_export.benchmarking.roofline import Roofline, StepBytes, step_bytes
from amp_export.benchmarking.rounds import Measured, Record, measure
from amp_export.benchmarking.runners import Setup, require
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.benchmarking.subjects import find_subjects
from amp_export.benchmarking.timing import DECODE, Round
from amp_export.benchmarking.workloads import Sweep, Workload
from amp_export.checkpoints.reading import directory_size, read_config
from amp_export.errors import RequestError
from amp_export.exporters.dispatch import exported_bytes, exported_precision
from amp_export.exporters.executorch import programs
from amp_export.exporters.files import exported_files
from amp_export.exporters.limits import Limits
from amp_export.exporters.onnx import exported_graphs
from amp_export.hardware.gpus import Gpu, GpuState, find_gpu, read_state
from amp_export.hardware.machine import Machine
from amp_export.options import Format
from amp_export.outputs.manifest import Manifest
from amp_export.outputs.staging import PRUNED
from amp_export.progress import Progress, Silent
from amp_export.reporting.files import open_report, update_report

ROUNDS = 20
"""Rounds that are measured by default."""


@dataclass(frozen=True)
class Subject:
    """One of the two models.

    Attributes:
        bytes_on_disk: Size of what was loaded.
        peak_memory_bytes: The most memory that its process held, Python and the runtime included.
        load_seconds: How long the runtime took to load it; the median of all launches.
        weight_bytes_per_token: How many bytes of weights have to be read for a decoding step. None for a model that
            does not decode: what it does at once, it does with many tokens or patches, and is bound by arithmetic.
        cache_bytes_per_token: How many bytes of keys and values have to be read besides, in the middle of what is
            written.
        bandwidth_share: How much of the machine's memory read bandwidth that is, at the median decode time. Near 1,
            only fewer bytes can make decoding faster. None where nothing is decoded.
    """

    bytes_on_disk: int
    peak_memory_bytes: int
    load_seconds: float
    weight_bytes_per_token: int | None
    cache_bytes_per_token: int | None
    bandwidth_share: float | None


@dataclass(frozen=True)
class SweepPoint:
    """Times of one more workload of a sweep.

    Attributes:
        batch_size: How many texts, images or sounds at once.
        prompt_tokens: Tokens of each text that is read.
        decode_tokens: Tokens that were written after each.
        phases: Times by phase.
        roofline: What the removed bytes allow; None where nothing is decoded, or bytes cannot be counted.
    """

    batch_size: int
    prompt_tokens: int
    decode_tokens: int
    phases: Mapping[str, PhaseResult]
    roofline: Roofline | None


@dataclass(frozen=True)
class GpuRecord:
    """The GPU that computed.

    Attributes:
        gpu: What it is.
        before: How it was before the first round.
        after: How it was after the last.
    """

    gpu: Gpu
    before: GpuState | None
    after: GpuState | None


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured; all plain values, so that `dataclasses.asdict` gives JSON.

    Attributes:
        name: The runtime, and where it computes.
        dense: The dense model.
        pruned: The pruned model.
        phases: Times of the workload that leads, by name, in the order of the work: samples are grouped by round. A
            decoder has `prefill`, the prompt in one piece, which is what a user waits for, and `decode`, single tokens
            after it; an encoder has `forward`; an encoder with a decoder has `encode`, all that is done once for what
            is read, and `decode`.
        roofline: What the removed bytes allow; None where nothing is decoded, or bytes cannot be counted.
        batch_size: How many texts, images or sounds at once.
        prompt_tokens: Tokens of the prompt, or of the text that is read; 0 for an image or a sound.
        decode_tokens: Tokens decoded in a round; 0 for an encoder.
        sweep: Further workloads, measured in the same rounds.
        rounds: How many rounds were measured.
        launches: How often both processes were started anew; each launch has as many rounds, one after the other.
        warm_up_rounds: How many went before and are not counted.
        unsettled_launches: In how many launches times still changed when measuring began.
        threads: Threads that compute one operator; 0 where a GPU computes.
        pinned: The processors that they were kept to; none where the system cannot.
        runtime: Name and version of the runtime.
        clock: What timed the calls.
        bandwidth_bytes_per_second: Memory read bandwidth, measured here with as many threads; the median of what was
            found after each launch. None where a GPU computes.
        machine: Where it was measured.
        gpu: The GPU that computed, or None.
        seed: Of the prompt's tokens and of the bootstrap.
    """

    name: str
    dense: Subject
    pruned: Subject
    phases: Mapping[str, PhaseResult]
    roofline: Roofline | None
    batch_size: int
    prompt_tokens: int
    decode_tokens: int
    sweep: tuple[SweepPoint, ...]
    rounds: int
    launches: int
    warm_up_rounds: int
    unsettled_launches: int
    threads: int
    pinned: tuple[int, ...]
    runtime: str
    clock: str
    bandwidth_bytes_per_second: float | None
    machine: Machine
    gpu: GpuRecord | None
    seed: int


def benchmark(
    output: Path,
    *,
    setup: Setup | None = None,
    sweep: Sweep | None = None,
    against: Path | None = None,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measures the gain of the pruned model in an output directory, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        setup: What runs both models, and how; by default ONNX Runtime on the processor.
        sweep: How much is read and written; by default a prompt of 128 tokens, and 16 after it.
        against: The output directory to compare with; by default the dense model, exported for this.
        rounds: How many rounds to measure.
        progress: Where to show what is going on.

    Raises:
        OutputError: `output` holds nothing that could be compared.
        AmpExportError: See `benchmark_models`.
    """
    progress = progress or Silent()
    setup = setup or Setup()
    manifest = Manifest.load(output)
    earlier = open_report(output, manifest)
    require(setup)
    if (output / PRUNED).is_dir():
        # a workload that does not fit should not be found after the dense model was exported
        limits = _limits(output / setup.format) if setup.format is not None else ()
        (sweep or Sweep()).workloads([read_config(output / PRUNED)[1]], limits)
    with (
        find_subjects(output, against, setup, manifest, progress) as (dense, pruned, chosen),
        progress.step(f"Benchmarking dense against pruned with {chosen.name}") as advance,
    ):
        report = benchmark_models(dense, pruned, setup=chosen, sweep=sweep, rounds=rounds, on_progress=advance)
    update_report(output, earlier, manifest, benchmarks={report.name: asdict(report)}, progress=progress)
    return report


def benchmark_models(
    dense: Path,
    pruned: Path,
    *,
    setup: Setup | None = None,
    sweep: Sweep | None = None,
    rounds: int = ROUNDS,
    launches: int = 4,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Measures what a pruned model gains over the dense one.

    Args:
        dense: The dense model, in the form that the runtime takes.
        pruned: The pruned one.
        setup: What runs both, and how; by default ONNX Runtime on the processor.
        sweep: How much is read and written.
        rounds: How many rounds to measure, rounded up to a multiple of `launches`.
        launches: How often to start both processes; an even number, so that each is the first as often.
        seed: Of the prompt's tokens and of the bootstrap.
        on_progress: Called with the number of rounds done and of all.

    Raises:
        RequestError: There would be nothing to measure, or it does not fit into the models' context.
        ModelError: A folder holds no model, or a damaged one.
        MissingExtraError: The runtime is not installed.
        AmpExportError: A process died.
    """
    setup = setup or Setup()
    if min(rounds, launches) < 1:
        raise RequestError(f"{rounds} rounds in {launches} launches: there must be at least one of each.")
    if setup.format not in (None, Format.TENSORRT):
        for folder in (dense, pruned):
            exported_files(folder, setup.format)
    configs = [read_config(folder)[1] for folder in (dense, pruned)]
    workloads = (sweep or Sweep()).workloads(configs, [*_limits(dense), *_limits(pruned)])
    # models that know images alone draw no tokens
    vocab_size = min(config.sizes.get("vocab_size", 1) for config in configs)
    tasks = [Round(workload, vocab_size, seed) for workload in workloads]
    gpu = find_gpu() if setup.on_gpu else None
    before = read_state() if gpu is not None else None
    measured = measure(dense, pruned, tasks, setup, rounds=rounds, launches=launches, on_progress=on_progress)
    record = GpuRecord(gpu, before, read_state()) if gpu is not None else None
    return _report(measured, workloads, setup, launches, seed, gpu=record)


def _limits(folder: Path) -> tuple[Limits, ...]:
    """The largest batch and text of an ExecuTorch program; all else has no limits, or says so itself."""
    return (programs.read_facts(folder).limits,) if programs.is_executorch(folder) else ()


def _report(
    measured: Measured,
    workloads: tuple[Workload, ...],
    setup: Setup,
    launches: int,
    seed: int,
    *,
    gpu: GpuRecord | None,
) -> BenchmarkReport:
    ready = measured.records[0].ready[0]
    # by workload what a decoding step of the dense and of the pruned model reads
    read = list(zip(*(_step_bytes(record, workloads, setup) for record in measured.records), strict=True))
    points = [
        _point(measured, number, workload, read[number], launches, seed) for number, workload in enumerate(workloads)
    ]
    lead = points[0]
    decode = lead.phases.get(DECODE)
    medians = (decode.dense.median, decode.pruned.median) if decode is not None else (None, None)
    subjects = [
        _describe(record, each, median, measured.bandwidth)
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
        rounds=measured.rounds,
        launches=launches,
        warm_up_rounds=measured.warm_up_rounds,
        unsettled_launches=measured.unsettled_launches,
        threads=ready.threads,
        pinned=tuple(ready.pinned),
        runtime=ready.runtime,
        clock=ready.clock,
        bandwidth_bytes_per_second=measured.bandwidth,
        machine=Machine.here(),
        gpu=gpu,
        seed=seed,
    )


def _point(
    measured: Measured,
    number: int,
    workload: Workload,
    read: tuple[StepBytes | None, ...],
    launches: int,
    seed: int,
) -> SweepPoint:
    dense, pruned = measured.records
    phases = {
        phase: PhaseResult.of(
            dense.samples(number, phase),
            pruned.samples(number, phase),
            launches=launches,
            seed=seed,
            tokens=workload.batch_size * (1 if phase == DECODE else workload.prompt_tokens),
        )
        for phase in dense.times[number][0].phases
    }
    roofline = None
    if DECODE in phases and read[0] is not None and read[1] is not None:
        roofline = Roofline.of(read[0], read[1], phases[DECODE])
    return SweepPoint(workload.batch_size, workload.prompt_tokens, workload.decode_tokens, phases, roofline)


def _step_bytes(record: Record, workloads: Sequence[Workload], setup: Setup) -> Sequence[StepBytes | None]:
    """What a decoding step reads; of an engine nobody knows which weights it keeps, and in what form."""
    folder = record.folder
    if setup.format is Format.TENSORRT:
        return [None] * len(workloads)
    precision = setup.precision if setup.format is None else exported_precision(folder)
    graph = exported_graphs(folder)[-1] if setup.format is Format.ONNX else None
    return step_bytes(folder, workloads, precision=precision, graph=graph)


def _describe(record: Record, read: StepBytes | None, decode_seconds: float | None, bandwidth: float | None) -> Subject:
    share = read.total / decode_seconds / bandwidth if read and decode_seconds and bandwidth else None
    return Subject(
        bytes_on_disk=exported_bytes(record.folder) or directory_size(record.folder),
        peak_memory_bytes=max(each.peak_memory_bytes for times in record.times.values() for each in times),
        load_seconds=statistics.median(ready.load_seconds for ready in record.ready),
        weight_bytes_per_token=read.weights if read is not None else None,
        cache_bytes_per_token=read.cache if read is not None else None,
        bandwidth_share=share,
    )
