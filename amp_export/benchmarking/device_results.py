"""What a device found: the content of device-report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amp_export.benchmarking.statistics import PhaseResult
from amp_export.options import Phase
from amp_export.parity.results import ParityReport


@dataclass(frozen=True)
class DeviceFacts:
    """Facts about a device; None for what it does not report."""

    model: str | None = None
    gpu: str | None = None
    processor: str | None = None
    memory_bytes: int | None = None
    l4t: str | None = None
    jetpack: str | None = None
    kernel: str | None = None
    system: str | None = None
    python: str | None = None
    numpy: str | None = None
    power_mode: str | None = None
    jetson_clocks: str | None = None

    @property
    def name(self) -> str:
        """The best name that is known."""
        return self.model or self.processor or self.system or "unknown device"


@dataclass(frozen=True)
class DeviceState:
    """What changes while a device is measured.

    Attributes:
        temperatures: By thermal zone, in degrees Celsius.
        clock_rates: By CPU core or device, in hertz.
    """

    temperatures: Mapping[str, float]
    clock_rates: Mapping[str, int]


@dataclass(frozen=True)
class PowerSource:
    """What measured the power: the tool or driver, and which rails it counts."""

    source: str
    rails: tuple[str, ...]


@dataclass(frozen=True)
class DeviceMeasurement:
    """One of the two models on a device.

    Attributes:
        bytes_on_disk: Size of engine or weights.
        peak_memory_bytes: Peak memory of its process.
        load_seconds: How long loading took; the median of all launches.
        gpu_memory_bytes: What it took of the GPU's memory; None where that is not known.
        decode_watts: Mean power while decoding.
        joules_per_decoded_token: Energy of a token.
    """

    bytes_on_disk: int
    peak_memory_bytes: int
    load_seconds: float
    gpu_memory_bytes: float | None = None
    decode_watts: float | None = None
    joules_per_decoded_token: float | None = None


@dataclass(frozen=True)
class DeviceBenchmark:
    """Dense against pruned on a device; see `BenchmarkReport` for what has the same name.

    Attributes:
        interleaved: `by round`, or `by launch` where memory holds one model at a time.
    """

    dense: DeviceMeasurement
    pruned: DeviceMeasurement
    phases: Mapping[Phase, PhaseResult]
    rounds: int
    launches: int
    warm_up_rounds: int
    interleaved: str
    prompt_tokens: int
    decode_tokens: int
    seed: int
    threads: int
    batch_size: int = 1
    unsettled_launches: int = 0


@dataclass(frozen=True)
class DeviceReport:
    """The content of device-report.json, completed with intervals.

    Attributes:
        runtime: Name and version of what ran the graphs.
        facts: What the device is.
        parity: By model, the graph on the device against PyTorch where the bundle was made.
        holds: Whether parity holds for both.
        benchmark: Times; None where parity does not hold.
        power: What measured the power.
        schema: Version of the report's format.
        bundle: The SHA-256 of the manifest of the bundle that was run.
        target: What the bundle was made for.
        started: When the run began.
        build: How engines were built, where they were.
        before: The state before measuring.
        after: The state after it.
    """

    runtime: str
    facts: DeviceFacts
    parity: Mapping[str, ParityReport]
    holds: bool
    benchmark: DeviceBenchmark | None = None
    power: PowerSource | None = None
    schema: int = 1
    bundle: str | None = None
    target: str | None = None
    started: str | None = None
    build: Mapping[str, Any] | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None
