"""The machine that a measurement is made on: its processor, its memory bandwidth, and what a process takes of it."""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BUFFER_BYTES = 512 << 20
"""What one measurement of the bandwidth reads: more than the caches of all but the largest servers hold."""

REPETITIONS = 8


@dataclass(frozen=True)
class Machine:
    """What a report says of a machine.

    Attributes:
        processor: The processor's model as the system names it.
        cores: Cores that this process may use, two hardware threads of one core counted once.
        system: Operating system and architecture.
    """

    processor: str
    cores: int
    system: str

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.system}"

    @classmethod
    def here(cls) -> Machine:
        """Return the machine that this runs on."""
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
    """Measure how many bytes a second so many threads read from memory together: the best of several passes.

    Args:
        threads: How many threads read, each a part of its own.
        buffer_bytes: How much they read in one pass; it should be far more than the last-level cache.
    """
    import numpy as np

    # of numpy's reductions the sum of 64-bit integers reads fastest: its additions may come in any order, so that they
    # are vectorised, and no BLAS brings threads of its own (27 GB/s where float32 sums reach 20)
    parts = [np.ones(buffer_bytes // 8 // threads, np.uint64) for _ in range(threads)]
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            seconds.append(time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / min(seconds)


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, other systems kibibytes: getrusage(2)
    return peak if sys.platform == "darwin" else peak * 1024
