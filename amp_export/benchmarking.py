"""Dense against pruned on this machine: two processes, one graph each, that take turns.

The rounds alternate in order, dense first and then pruned first, so that neither profits from the machine's state or
drift. So do the launches: of two processes with the same graph, the one that was started first decoded 5 % slower in
most launches, however the turns were ordered. The phases of `benchmark_worker` are timed apart.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amp_export.architectures import Kind, Modality, ModelConfig
from amp_export.benchmark_processes import Worker, start_worker
from amp_export.benchmark_worker import DECODE, Ready, Round, RoundTimes
from amp_export.checkpoints import open_checkpoint, read_config
from amp_export.engine_building import EngineOptions, prepare_engine
from amp_export.errors import OutputError, RequestError
from amp_export.exporters import Opset, Precision, Provider, exported_bytes
from amp_export.exporters.onnx import exported_graphs, graph_opset, require_runtime
from amp_export.exporters.tensorrt.engines import EngineFacts, is_engine
from amp_export.exporters.tensorrt.running import check_runs_here
from amp_export.exporting import build_from, export_into
from amp_export.gains import PhaseResult
from amp_export.machine import Machine, read_bandwidth
from amp_export.manifest import Manifest
from amp_export.options import Format, Via
from amp_export.progress import Progress, Silent
from amp_export.report_files import update_report

ROUNDS = 20
"""Rounds that are measured by default."""

WARM_UP_LIMIT = 4
"""Rounds of a launch after which measuring begins, settled or not."""

SETTLED = 0.05
"""Two rounds whose times differ by less than this share are settled."""

_READ_IN_PART = {("Gather", 0), ("RotaryEmbedding", 1), ("RotaryEmbedding", 2)}
"""Operators, and which of their inputs, that read a few rows of a weight for each token instead of all of it."""


@dataclass(frozen=True)
class Subject:
    """One of the two graphs.

    Attributes:
        bytes_on_disk: Size of the graph and its weights.
        peak_memory_bytes: The most memory that its process held, Python and the runtime included.
        load_seconds: How long the runtime took to load it; the median of all launches.
        weight_bytes_per_token: How many bytes of weights have to be read to decode one token. None for a model that
            does not decode: what it does at once, it does with many tokens or patches, and is bound by arithmetic.
        bandwidth_share: How much of the machine's memory read bandwidth that is, at the median decode time. Near 1,
            only fewer bytes can make decoding faster. None where nothing is decoded.
    """

    bytes_on_disk: int
    peak_memory_bytes: int
    load_seconds: float
    weight_bytes_per_token: int | None
    bandwidth_share: float | None


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured; all plain values, so that `dataclasses.asdict` gives JSON.

    Attributes:
        dense: The dense graph.
        pruned: The pruned graph.
        phases: Times by name, in the order of the work: samples are grouped by round. A decoder has `prefill`, the
            prompt in one piece, and `decode`, single tokens after it; an encoder has `forward`; an encoder with a
            decoder has `encode`, all that is done once for what is read, and `decode`.
        rounds: How many rounds were measured.
        launches: How often both processes were started anew; each launch has as many rounds, one after the other.
        warm_up_rounds: How many went before and are not counted.
        prompt_tokens: Tokens of the prompt, or of the text that is read; 0 for an image or a sound.
        decode_tokens: Tokens decoded in a round; 0 for an encoder.
        threads: Threads that compute one operator.
        runtime: Name and version of the runtime.
        bandwidth_bytes_per_second: Memory read bandwidth, measured here with as many threads; the median of what was
            found after each launch. None where a GPU computes.
        machine: Where it was measured.
        seed: Of the prompt's tokens and of the bootstrap.
    """

    dense: Subject
    pruned: Subject
    phases: Mapping[str, PhaseResult]
    rounds: int
    launches: int
    warm_up_rounds: int
    prompt_tokens: int
    decode_tokens: int
    threads: int
    runtime: str
    bandwidth_bytes_per_second: float | None
    machine: Machine
    seed: int


def benchmark(
    output: Path,
    *,
    to: Format = Format.ONNX,
    against: Path | None = None,
    rounds: int = ROUNDS,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measures the gain of the graph in an output directory, and writes the result into its report.

    Args:
        output: What `export` or the whole run wrote.
        to: Which export of it to measure.
        against: The output directory of the export to compare with; by default the dense model, exported for this.
        rounds: How many rounds to measure.
        threads: Threads that compute one operator; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        progress: Where to show what is going on.

    Raises:
        OutputError: `output` holds no graph that could be compared.
        AmpExportError: See `benchmark_graphs`.
    """
    progress = progress or Silent()
    manifest = Manifest.load(output)
    if to is Format.ONNX:
        require_runtime()
    with contextlib.ExitStack() as stack:
        if against is not None:
            Manifest.load(against)
            dense = against / to
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".dense-", dir=output)))
            dense = export_dense(output, to, manifest, scratch, progress)
        with progress.step("Benchmarking dense against pruned") as advance:
            report = benchmark_graphs(
                dense, output / to, threads=threads, provider=provider, rounds=rounds, on_progress=advance
            )
    update_report(output, manifest, benchmark=asdict(report), progress=progress)
    return report


def export_dense(
    output: Path, to: Format, manifest: Manifest, scratch: Path, progress: Progress, *, opset: Opset | None = None
) -> Path:
    """Exports the dense model in the same way as the pruned one.

    Args:
        output: The output directory that holds the pruned model.
        to: The format.
        manifest: The output's manifest.
        scratch: Where the dense graph or engine goes.
        progress: Where to show what is going on.
        opset: The version of the ONNX operators; by default the pruned graph's.

    Returns:
        The folder of the dense graph or engine.

    Raises:
        OutputError: There is nothing pruned to compare it with, or the dense checkpoint is gone.
    """
    if manifest.plan is None or to not in manifest.exports:
        raise OutputError(
            f"{output} holds no pruned model as {to}, so there is nothing to gain.\nName another with --against."
        )
    source = Path(manifest.source.path)
    if not source.is_dir():
        raise OutputError(
            f"The dense model {manifest.source.asked} was found at {source}, which is gone.\n"
            "Export it again, and name that output with --against."
        )
    checkpoint = open_checkpoint(source)
    job = None
    if to is Format.TENSORRT:
        facts = EngineFacts.load(output / to)
        check_runs_here(facts)
        opset = Opset(str(facts.opset))
        options = EngineOptions(None, facts.runtime, facts.limits.max_batch, facts.limits.max_context)
        job = prepare_engine(options, checkpoint.config)
    elif opset is None:
        opset = graph_opset(exported_graphs(output / to)[0])
    exported = export_into(
        scratch,
        checkpoint,
        precision=Precision(manifest.exports[to]),
        opset=opset,
        via=Via(manifest.exporters.get(to, Via.AUTO)),
        progress=progress,
        description="Exporting the dense model",
    )
    return build_from(exported, job, progress=progress).folder if job is not None else exported.folder


def benchmark_graphs(
    dense: Path,
    pruned: Path,
    *,
    threads: int | None = None,
    provider: Provider = Provider.CPU,
    rounds: int = ROUNDS,
    launches: int = 4,
    prompt_tokens: int = 128,
    decode_tokens: int = 16,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchmarkReport:
    """Measures what a pruned graph gains over the dense one.

    Args:
        dense: The folder of the dense graph.
        pruned: The folder of the pruned graph.
        threads: Threads that compute one operator; by default one for each core.
        provider: What computes a graph within ONNX Runtime.
        rounds: How many rounds to measure, rounded up to a multiple of `launches`.
        launches: How often to start both processes; an even number, so that each is the first as often.
        prompt_tokens: Tokens of the prompt, or of the text that is read; fewer where the models' context is shorter.
        decode_tokens: Tokens to decode in each round; encoders decode none.
        seed: Of the prompt's tokens and of the bootstrap.
        on_progress: Called with the number of rounds done and of all.

    Raises:
        RequestError: There would be nothing to measure.
        ModelError: A folder holds no graph, or a damaged one.
        MissingExtraError: The runtime is not installed.
        AmpExportError: A process died.
    """
    if min(rounds, launches, prompt_tokens, decode_tokens) < 1:
        raise RequestError(
            f"{rounds} rounds in {launches} launches, {prompt_tokens} prompt and {decode_tokens} decoded tokens: "
            "there must be at least one of each."
        )
    task = _choose_round([dense, pruned], prompt_tokens, decode_tokens, seed)
    rounds_of_launch = math.ceil(rounds / launches)
    rounds = launches * rounds_of_launch
    subjects = _Record(dense), _Record(pruned)
    warm_up_rounds, bandwidths = 0, []
    for launch in range(launches):
        first, second = subjects if launch % 2 == 0 else reversed(subjects)
        with (
            start_worker(first.folder, threads, provider) as first_worker,
            start_worker(second.folder, threads, provider) as second_worker,
        ):
            pair = (first, first_worker), (second, second_worker)
            for record, worker in pair:
                record.ready.append(worker.ready)
            warm_up_rounds += _warm_up([first_worker, second_worker], task)
            for number in range(rounds_of_launch):
                _run_round(pair if number % 2 == 0 else pair[::-1], task)
                if on_progress is not None:
                    on_progress(launch * rounds_of_launch + number + 1, rounds)
        # measured in between, because it changes with what else the machine does, as the rounds do
        if first.ready[0].threads:
            bandwidths.append(read_bandwidth(first.ready[0].threads))
    bandwidth = statistics.median(bandwidths) if bandwidths else None
    return _report(subjects, task, launches, warm_up_rounds, bandwidth)


@dataclass
class _Record:
    """What is noted of a subject while rounds are run."""

    folder: Path
    ready: list[Ready] = field(default_factory=list)
    times: list[RoundTimes] = field(default_factory=list)


def _run_round(pair: Iterable[tuple[_Record, Worker]], task: Round) -> None:
    for record, worker in pair:
        record.times.append(worker.time(task))


def _report(
    subjects: tuple[_Record, _Record], task: Round, launches: int, warm_up_rounds: int, bandwidth: float | None
) -> BenchmarkReport:
    dense, pruned = subjects
    ready = dense.ready[0]
    phases = {
        phase: PhaseResult.of(
            *([times.phases[phase] for times in record.times] for record in subjects), launches=launches, seed=task.seed
        )
        for phase in dense.times[0].phases
    }
    decode = phases.get(DECODE)
    return BenchmarkReport(
        dense=_describe(dense, decode.dense.median if decode is not None else None, bandwidth),
        pruned=_describe(pruned, decode.pruned.median if decode is not None else None, bandwidth),
        phases=phases,
        rounds=len(dense.times),
        launches=launches,
        warm_up_rounds=warm_up_rounds,
        prompt_tokens=task.prompt_tokens,
        decode_tokens=task.decode_tokens,
        threads=ready.threads,
        runtime=ready.runtime,
        bandwidth_bytes_per_second=bandwidth,
        machine=Machine.here(),
        seed=task.seed,
    )


def _choose_round(folders: Sequence[Path], prompt_tokens: int, decode_tokens: int, seed: int) -> Round:
    """A round that fits into the context and the vocabulary of all graphs.

    What the model reads, and what it writes, decide which tokens there are.
    """
    for folder in folders:
        if not is_engine(folder):
            exported_graphs(folder)
    configs = [read_config(folder)[1] for folder in folders]
    architecture = configs[0].architecture
    limits = [config.longest_text for config in configs if config.longest_text is not None]
    context = min(limits, default=prompt_tokens + decode_tokens + 1)
    decode_tokens = decode_tokens if architecture.kind is not Kind.ENCODER else 0
    if architecture.modality is not Modality.TEXT:
        prompt_tokens = 0
    room = context - decode_tokens - (architecture.kind is Kind.ENCODER_DECODER)
    if room < (architecture.kind is Kind.DECODER):
        raise RequestError(f"{decode_tokens} decoded tokens and a prompt do not fit into a context of {context}.")
    prompt_tokens = min(prompt_tokens, room if architecture.kind is Kind.DECODER else context)
    return Round(prompt_tokens, decode_tokens, min(map(_vocabulary, configs)), seed)


def _vocabulary(config: ModelConfig) -> int:
    """Tokens that a model knows; one where it knows images alone, and none is drawn."""
    return config.sizes.get("vocab_size", 1)


def _warm_up(workers: Sequence[Worker], task: Round) -> int:
    """Runs rounds until all graphs take the same time twice in a row; returns how many."""
    before: list[float] = []
    for number in range(1, WARM_UP_LIMIT + 1):
        now = [times.total for times in (worker.time(task) for worker in workers)]
        if before and all(abs(new - old) < SETTLED * old for new, old in zip(now, before, strict=True)):
            return number
        before = now
    return WARM_UP_LIMIT


def _describe(record: _Record, decode_seconds: float | None, bandwidth: float | None) -> Subject:
    weight_bytes = None
    if decode_seconds is not None and not is_engine(record.folder):
        weight_bytes = weight_bytes_per_token(exported_graphs(record.folder)[-1])
    share = weight_bytes / decode_seconds / bandwidth if weight_bytes and decode_seconds and bandwidth else None
    return Subject(
        bytes_on_disk=exported_bytes(record.folder),
        peak_memory_bytes=max(times.peak_memory_bytes for times in record.times),
        load_seconds=statistics.median(ready.load_seconds for ready in record.ready),
        weight_bytes_per_token=weight_bytes,
        bandwidth_share=share,
    )


def weight_bytes_per_token(graph: Path) -> int:
    """How many bytes of a graph's weights have to be read for one token.

    Each weight counts once and whole, also where embedding and head share it, but a weight of which only rows are
    looked up does not count.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False).graph
    read_whole = {
        name
        for node in model.node
        for place, name in enumerate(node.input)
        if (node.op_type, place) not in _READ_IN_PART
    }
    return sum(_stored_bytes(tensor) for tensor in model.initializer if tensor.name in read_whole)


def _stored_bytes(tensor: Any) -> int:
    external = {entry.key: entry.value for entry in tensor.external_data}
    return int(external.get("length", len(tensor.raw_data)))
