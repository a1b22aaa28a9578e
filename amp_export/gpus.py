"""The GPU in this machine, as its driver describes it."""

from __future__ import annotations

from dataclasses import dataclass


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


def find_gpu(number: int = 0) -> Gpu | None:
    """Asks the driver for a GPU; None where there is none, no driver, or the package that asks is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(
            name=str(pynvml.nvmlDeviceGetName(handle)),
            compute_capability=f"{major}.{minor}",
            memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            driver=str(pynvml.nvmlSystemGetDriverVersion()),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
