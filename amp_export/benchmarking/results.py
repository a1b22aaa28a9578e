"""Results of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amp_export.benchmarking.roofline import Roofline
from amp_export.benchmarking.sampling import Stop
from amp_export.benchmarking.statistics import MIN_EFFECT, PhaseResult
from amp_export.hardware.gpus import Gpu, GpuState
from amp_export.hardware.machine import Machine
from amp_export.options import Phase
from amp_export.outputs.manifest import Judged


@dataclass(frozen=True)
class ModelMeasurement:
    """Measurement of one of the two models.

    Attributes:
        bytes_on_disk: Size of the loaded files.
        peak_memory_bytes: Peak memory of its process, including Python and the runtime.
        load_seconds: Load time of the runtime; the median of all launches.
        weight_bytes_per_token: Bytes of weights that a decode step reads. None for a model that does not decode: it
            processes many tokens or patches at once and is compute-bound.
        cache_bytes_per_token: Bytes of KV cache that a decode step reads, halfway through decoding.
        bandwidth_share: Share of the memory bandwidth used for these bytes at the median decode time. If it is near 1,
            only fewer bytes can make decoding faster. None if nothing is decoded.
    """

    bytes_on_disk: int
    peak_memory_bytes: int
    load_seconds: float
    weight_bytes_per_token: int | None
    cache_bytes_per_token: int | None
    bandwidth_share: float | None


@dataclass(frozen=True)
class SweepPoint:
    """Results of one further workload of a sweep.

    Attributes:
        batch_size: Number of texts, images or audio inputs per batch.
        prompt_tokens: Tokens of the prompt or the source text.
        decode_tokens: Tokens decoded in a round.
        phases: Results by phase.
        roofline: Roofline of decoding; None if nothing is decoded, or bytes cannot be counted.
    """

    batch_size: int
    prompt_tokens: int
    decode_tokens: int
    phases: Mapping[Phase, PhaseResult]
    roofline: Roofline | None


@dataclass(frozen=True)
class GpuRecord:
    """The GPU that ran the models.

    Attributes:
        gpu: Facts about the GPU.
        before: Its state before the first round.
        after: Its state after the last round.
    """

    gpu: Gpu
    before: GpuState | None
    after: GpuState | None


@dataclass(frozen=True)
class BenchmarkReport:
    """Result of a benchmark; all values are plain, so that `dataclasses.asdict` gives JSON.

    Attributes:
        name: The runtime and its device or execution provider.
        dense: The dense model.
        pruned: The pruned model.
        phases: Results of the main workload by phase, in execution order; samples are grouped by round. A decoder has
            `prefill`, one call with the prompt, whose latency is the time to first token, and `decode`, single tokens
            after it; an encoder has `forward`; an encoder-decoder has `encode`, the encoder and the decoder's first
            token, and `decode`.
        roofline: Roofline of decoding; None if nothing is decoded, or bytes cannot be counted.
        batch_size: Number of texts, images or audio inputs per batch.
        prompt_tokens: Tokens of the prompt or the source text; 0 for images and audio.
        decode_tokens: Tokens decoded in a round; 0 for an encoder.
        sweep: Further workloads, measured in the same rounds.
        rounds: Number of measured rounds.
        launches: Number of times that both processes were started; each launch runs the same number of rounds.
        warm_up_rounds: Number of warm-up rounds, which are not counted.
        unsettled_launches: Number of launches whose times had not settled when the measurement began.
        threads: Threads that compute one operator; 0 on a GPU.
        pinned: The CPU cores that they were pinned to; empty if the system does not support it.
        runtime: Name and version of the runtime.
        clock: The clock that timed the calls.
        bandwidth_bytes_per_second: Memory read bandwidth of this machine with the same number of threads; the median of
            the measurements after each launch. On a GPU, that of its memory by its driver, or None.
        machine: The machine that ran the models.
        gpu: The GPU that ran the models, or None.
        seed: Seed of the prompt's tokens.
        pilot_launches: Number of the first launches, whose spread decided on the others.
        stop: Why no further launches were made.
        min_effect: Smallest relative speedup that matters.
        judged: The files of the pruned model.
        cuda_graph: Whether steps of decoding were replayed from CUDA graphs.
    """

    name: str
    dense: ModelMeasurement
    pruned: ModelMeasurement
    phases: Mapping[Phase, PhaseResult]
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
    pilot_launches: int | None = None
    stop: Stop = Stop.FIXED
    min_effect: float = MIN_EFFECT
    judged: Judged | None = None
    cuda_graph: bool = False
