"""The GPU in this machine and its state, as reported by its driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: The driver's name for it.
        compute_capability: Its compute capability, such as `8.9`.
        memory_bytes: Size of its memory.
        driver: Version of the driver.
        bandwidth_bytes_per_second: What its memory transfers at its highest clock; None if the driver does not say.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str
    bandwidth_bytes_per_second: float | None = None


@dataclass(frozen=True)
class GpuState:
    """The state of a GPU at one moment; None for values that it does not report.

    Attributes:
        sm_clock_mhz: Clock of the streaming multiprocessors.
        sm_clock_limit_mhz: Maximum of this clock.
        memory_clock_mhz: Clock of the memory.
        temperature_c: Temperature in degrees Celsius.
        power_watts: Power draw.
        slowed_by: Bit mask of the reasons for reduced clocks, `nvmlClocksEventReasons` of nvml.h; 0 if there are none.
    """

    sm_clock_mhz: int | None
    sm_clock_limit_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_watts: float | None
    slowed_by: int | None


def find_gpu(number: int = 0) -> Gpu | None:
    """Return a GPU, or None if there is no such GPU, no driver, or pynvml is not installed."""
    with _device(number) as found:
        if found is None:
            return None
        nvml, handle = found
        try:
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            return Gpu(
                name=str(nvml.nvmlDeviceGetName(handle)),
                compute_capability=f"{major}.{minor}",
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                driver=str(nvml.nvmlSystemGetDriverVersion()),
                bandwidth_bytes_per_second=_bandwidth(nvml, handle),
            )
        except nvml.NVMLError:
            return None


def _bandwidth(nvml: Any, handle: Any) -> float | None:
    """Return the bandwidth of the memory: the bits of its bus, twice in each cycle.

    Source: "How to Implement Performance Metrics in CUDA C/C++", NVIDIA's developer blog: theoretical bandwidth.
    """
    try:
        megahertz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        return 2 * float(megahertz) * 1e6 * float(nvml.nvmlDeviceGetMemoryBusWidth(handle)) / 8
    except nvml.NVMLError:
        return None


def read_state(number: int = 0) -> GpuState | None:
    """Return the state of a GPU, or None if the GPU is not found."""
    with _device(number) as found:
        if found is None:
            return None
        nvml, handle = found

        def ask(question: Callable[..., Any], *of: int) -> Any:
            try:
                return question(handle, *of)
            except nvml.NVMLError:
                return None

        milliwatts = ask(nvml.nvmlDeviceGetPowerUsage)
        return GpuState(
            sm_clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            sm_clock_limit_mhz=ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            temperature_c=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            power_watts=None if milliwatts is None else milliwatts / 1e3,
            # the name before driver 535, which newer drivers keep
            slowed_by=ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        )


@contextmanager
def _device(number: int) -> Iterator[tuple[Any, Any] | None]:
    """Yield NVML and its handle of a GPU, or None if either is not available."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        except pynvml.NVMLError:
            yield None
        else:
            yield pynvml, handle
    finally:
        pynvml.nvmlShutdown()
