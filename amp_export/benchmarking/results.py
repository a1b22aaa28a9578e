"""What a benchmark measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from amp_export.benchmarking.roofline import Roofline
from amp_export.benchmarking.statistics import PhaseResult
from amp_export.hardware.gpus import Gpu, GpuState
from amp_export.hardware.machine import Machine
from amp_export.options import Phase


@dataclass(frozen=True)
class ModelMeasurement:
    """One of the two models.

    Attributes:
        bytes_on_disk: Size of what was loaded.
        peak_memory_bytes: Peak memory of its process, Python and the runtime included.
        load_seconds: How long the runtime took to load it; the median of all launches.
        weight_bytes_per_token: How many bytes of weights have to be read for a decoding step. None for a model that
            does not decode: what it does at once, it does with many tokens or patches, and is bound by arithmetic.
        cache_bytes_per_token: How many bytes of KV cache have to be read besides, in the middle of what is
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
        batch_size: How many texts, images or audio inputs at once.
        prompt_tokens: Tokens of each text that is read.
        decode_tokens: Tokens that were written after each.
        phases: Times by phase.
        roofline: What the removed bytes allow; None where nothing is decoded, or bytes cannot be counted.
    """

    batch_size: int
    prompt_tokens: int
    decode_tokens: int
    phases: Mapping[Phase, PhaseResult]
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
            after it; an encoder has `forward`; an encoder-decoder has `encode`, all that is done once for what
            is read, and `decode`.
        roofline: What the removed bytes allow; None where nothing is decoded, or bytes cannot be counted.
        batch_size: How many texts, images or audio inputs at once.
        prompt_tokens: Tokens of the prompt or the source text; 0 for images and audio.
        decode_tokens: Tokens decoded in a round; 0 for an encoder.
        sweep: Further workloads, measured in the same rounds.
        rounds: How many rounds were measured.
        launches: How often both processes were started anew; each launch has as many rounds, one after the other.
        warm_up_rounds: How many went before and are not counted.
        unsettled_launches: In how many launches times still changed when measuring began.
        threads: Threads that compute one operator; 0 where a GPU computes.
        pinned: The CPU cores that they were pinned to; empty if the system does not support it.
        runtime: Name and version of the runtime.
        clock: What timed the calls.
        bandwidth_bytes_per_second: Memory read bandwidth, measured here with as many threads; the median of what was
            found after each launch. None where a GPU computes.
        machine: Where it was measured.
        gpu: The GPU that computed, or None.
        seed: Of the prompt's tokens and of the bootstrap.
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
