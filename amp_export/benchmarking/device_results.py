"""Results of a device: the content of device-report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amp_export.benchmarking.statistics import PhaseResult
from amp_export.options import Phase
from amp_export.outputs.manifest import Judged
from amp_export.parity.results import ParityReport


@dataclass(frozen=True)
class DeviceFacts:
    """Facts about a device; None for values that it does not report."""

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
        """The most specific known name."""
        return self.model or self.processor or self.system or "unknown device"


@dataclass(frozen=True)
class DeviceState:
    """State of a device that changes during a measurement.

    Attributes:
        temperatures: Temperatures in degrees Celsius, by thermal zone.
        clock_rates: Clock rates in hertz, by CPU core or device.
    """

    temperatures: Mapping[str, float]
    clock_rates: Mapping[str, int]


@dataclass(frozen=True)
class PowerSource:
    """The tool or driver that measured the power, and the rails that it includes."""

    source: str
    rails: tuple[str, ...]


@dataclass(frozen=True)
class DeviceMeasurement:
    """Measurement of one of the two models on a device.

    Attributes:
        bytes_on_disk: Size of engine or weights.
        peak_memory_bytes: Peak memory of its process.
        load_seconds: Load time; the median of all launches.
        gpu_memory_bytes: GPU memory used; None if not known.
        decode_watts: Mean power during decode.
        joules_per_decoded_token: Energy per decoded token.
    """

    bytes_on_disk: int
    peak_memory_bytes: int
    load_seconds: float
    gpu_memory_bytes: float | None = None
    decode_watts: float | None = None
    joules_per_decoded_token: float | None = None


@dataclass(frozen=True)
class DeviceBenchmark:
    """Benchmark of dense and pruned model on a device; see `BenchmarkReport` for attributes of the same name.

    Attributes:
        interleaved: `by round`, or `by launch` if memory holds only one model at a time.
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
    """The content of device-report.json, with speedups and their intervals added.

    Attributes:
        runtime: Name and version of the runtime.
        facts: Facts about the device.
        parity: Parity of each model's graph on the device with PyTorch on the machine that made the bundle.
        holds: Whether parity holds for both models.
        benchmark: Measurements; None if parity does not hold.
        power: Source of the power measurement.
        schema: Version of the report's format.
        bundle: SHA-256 of the manifest of the bundle that was run.
        target: The device that the bundle was made for.
        started: Start time of the run.
        build: How the engines were built, if there are any.
        before: State before the measurement.
        after: State after the measurement.
        judged: The files of the pruned graph in the bundle.
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
    judged: Judged | None = None
