"""The machine that runs a measurement: its CPU, its memory bandwidth, and the peak memory of this process."""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BUFFER_BYTES = 512 << 20
"""Bytes read per measurement of the bandwidth: more than the caches of all but the largest servers hold."""

REPETITIONS = 8


@dataclass(frozen=True)
class Machine:
    """Facts about a machine for a report.

    Attributes:
        processor: The CPU model as reported by the system.
        cores: Number of physical cores that this process may use.
        system: Operating system and architecture.
    """

    processor: str
    cores: int
    system: str

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.system}"

    @classmethod
    def here(cls) -> Machine:
        """Return the facts about this machine."""
        from amp_export.hardware.threads import usable_cores

        return cls(_processor(), usable_cores(), f"{platform.system()} {platform.machine()}")


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def read_bandwidth(threads: int, *, buffer_bytes: int = BUFFER_BYTES) -> float:
    """Return the memory read bandwidth of several threads in bytes per second: the best of several passes.

    Args:
        threads: Number of threads, each of which reads its own part.
        buffer_bytes: Bytes read per pass; should far exceed the last-level cache.
    """
    import numpy as np

    # the sum of 64-bit integers is numpy's fastest reduction: its additions can be reordered and vectorized, and no
    # BLAS adds its own threads (27 GB/s, compared to 20 for float32 sums)
    parts = [np.ones(buffer_bytes // 8 // threads, np.uint64) for _ in range(threads)]
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            seconds.append(time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / min(seconds)


def peak_memory_bytes() -> int:
    """Return the peak memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # bytes on macOS, kibibytes on other systems: getrusage(2)
    return peak if sys.platform == "darwin" else peak * 1024
