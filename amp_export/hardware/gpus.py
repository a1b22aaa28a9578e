"""The GPU in this machine, as its driver describes it, and the state that it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: As the driver names it.
        compute_capability: Such as `8.9`.
        memory_bytes: Its memory.
        driver: The driver's version.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class GpuState:
    """What a GPU is like at one moment; None for what it does not tell.

    Attributes:
        sm_clock_mhz: Clock of the streaming multiprocessors.
        sm_clock_limit_mhz: The highest that it may have.
        memory_clock_mhz: Clock of the memory.
        temperature_c: In degrees Celsius.
        power_watts: What it draws.
        slowed_by: Bits that say why the clocks are lower than they could be, `nvmlClocksEventReasons` of nvml.h; 0
            where nothing slows it.
    """

    sm_clock_mhz: int | None
    sm_clock_limit_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_watts: float | None
    slowed_by: int | None


def find_gpu(number: int = 0) -> Gpu | None:
    """Ask the driver for a GPU; None where there is none, no driver, or the package that asks is not installed."""
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
            )
        except nvml.NVMLError:
            return None


def read_state(number: int = 0) -> GpuState | None:
    """Ask the driver how a GPU is; None where `find_gpu` finds none."""
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
            # the name of before driver 535, which newer ones keep
            slowed_by=ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        )


@contextmanager
def _device(number: int) -> Iterator[tuple[Any, Any] | None]:
    """Yield the driver's interface and its handle of a GPU."""
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
