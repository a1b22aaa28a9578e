"""What a driver tells of a GPU, by an imitated one: there is none in most machines that run this."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from amp_export.hardware.gpus import Gpu, GpuState, find_gpu, read_state


class NvmlError(Exception):
    """As pynvml raises it."""


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clocks = {"sm": 1980, "memory": 2619}
    found = SimpleNamespace(
        NVMLError=NvmlError,
        NVML_CLOCK_SM="sm",
        NVML_CLOCK_MEM="memory",
        NVML_TEMPERATURE_GPU=0,
        opened=0,
        nvmlDeviceGetHandleByIndex=lambda number: f"gpu {number}",
        nvmlDeviceGetCudaComputeCapability=lambda _: (9, 0),
        nvmlDeviceGetName=lambda handle: f"H100, {handle}",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=85_000_000_000),
        nvmlDeviceGetMemoryBusWidth=lambda _: 5120,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetPowerUsage=lambda _: 123_400,
        nvmlDeviceGetClockInfo=lambda _, kind: clocks[kind] - 10,
        nvmlDeviceGetMaxClockInfo=lambda _, kind: clocks[kind],
        nvmlDeviceGetTemperature=lambda _, sensor: 41 + sensor,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 4,
    )

    def count(change: int) -> None:
        found.opened += change

    found.nvmlInit = lambda: count(1)
    found.nvmlShutdown = lambda: count(-1)
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


def refuse(*_: Any) -> Any:
    raise NvmlError("not supported")


def test_a_gpu_and_its_state_are_read(driver: SimpleNamespace) -> None:
    assert find_gpu() == Gpu("H100, gpu 0", "9.0", 85_000_000_000, "580.1", 3_352_320_000_000.0)
    assert read_state() == GpuState(1970, 1980, 2609, 41, 123.4, 4)
    assert driver.opened == 0, "what was opened is closed"


def test_what_a_gpu_does_not_tell_is_none(driver: SimpleNamespace) -> None:
    driver.nvmlDeviceGetMemoryBusWidth = refuse
    gpu = find_gpu()
    assert gpu is not None
    assert gpu.bandwidth_bytes_per_second is None
    driver.nvmlDeviceGetPowerUsage = refuse
    driver.nvmlDeviceGetTemperature = refuse
    assert read_state() == GpuState(1970, 1980, 2609, None, None, 4)


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetHandleByIndex"])
def test_without_a_gpu_there_is_no_state(driver: SimpleNamespace, question: str) -> None:
    setattr(driver, question, refuse)
    assert find_gpu() is None
    assert read_state() is None
    assert driver.opened == 0


def test_without_the_package_there_is_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_gpu() is None
    assert read_state() is None
